/*-------------------------------------------------------------------------
 *
 * derived.c
 *	  Keys derived from the service key, for other uses than tables.
 *
 * A derived key is asked for, cached, proved and taken away like a table key
 * of KMS key cmek_service_key; only that its "wrapped form" is no ciphertext
 * but a label (format.h), under a uuid that follows from the label and is none
 * that cmek_random_uuid could make.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/internal.h"

/* The identity of a derived key: version 8 is for uses like this (RFC 9562) */
static void
derived_uuid(const char *label, uint8 *uuid)
{
	uint8		digest[32];

	cmek_hmac_sha256((const uint8 *) CMEK_DERIVE_PREFIX,
					 strlen(CMEK_DERIVE_PREFIX), label, strlen(label), digest);
	memcpy(uuid, digest, CMEK_UUID_LEN);
	uuid[6] = (uuid[6] & 0x0F) | 0x80;
	uuid[8] = (uuid[8] & 0x3F) | 0x80;
}

/* A request for a derived key. */
static CmekKeyRequest *
new_derive(Oid server, const char *label)
{
	uint8		uuid[CMEK_UUID_LEN];
	CmekKeyRequest *what;

	derived_uuid(label, uuid);
	what = cmek_new_key_request(CMEK_OP_UNWRAP, server, uuid);
	cmek_catalog_server_version(what->server_name, what->version);
	what->blob_len = snprintf((char *) what->blob, sizeof(what->blob), "%s%s",
							  CMEK_DERIVE_PREFIX, label);
	return what;
}

/* See keys.h. */
bool
cmek_derived_key(const char *label, uint8 *key)
{
	Oid			server = get_foreign_server_oid(CMEK_SERVICE_KEY_SERVER, true);
	MemoryContext context;
	MemoryContext old;
	CmekLease	lease;
	CmekReply  *reply;
	bool		ok;

	cmek_require_preload();
	if (!OidIsValid(server))
		return false;
	cmek_secret_forbid_core_dump();
	context = AllocSetContextCreate(CurrentMemoryContext, "cmek derived key",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	reply = palloc(sizeof(CmekReply));
	ok = cmek_fetch_key(new_derive(server, label), key, &lease, reply);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return ok;
}
