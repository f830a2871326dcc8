/*-------------------------------------------------------------------------
 *
 * tablekey.c
 *	  How a backend comes by an opened table key, and what it does with it:
 *	  wrap and unwrap data keys.
 *
 * An opened table key is in secret memory of the caller for the length of a
 * call.  When it cannot be had, the statement fails here, with one SQLSTATE
 * and everything a person needs to bring the key back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/internal.h"

/* What a person can do about an answer. */
static const char *
hint_for(const CmekKeyRequest *what, const CmekReply *reply)
{
	bool		file = strcmp(what->config.provider, "cmek_file") == 0;

	if (reply->klass == CMEK_KMS_UNREACHABLE)
		return "Access comes back by itself as soon as the KMS answers; nothing needs a restart.";
	if (file && reply->klass == CMEK_KMS_DENIED)
		return "Put the key file back; nothing needs a restart.";
	if (file)
		return "Correct the key file, its permissions or the settings that name it; nothing needs a restart.";
	if (reply->klass == CMEK_KMS_DENIED)
		return "Enable the key, or allow its use again, at the KMS; nothing needs a restart.";
	return "Correct the options with ALTER SERVER, or the credentials with ALTER USER MAPPING; nothing needs a restart.";
}

/* The name of a table for a message. */
static const char *
table_name(Oid relid)
{
	const char *name = get_rel_name(relid);

	return name != NULL ? name : psprintf("%u", relid);
}

/* Fail because a KMS did not open or make a table key. */
static void
report_unavailable(Oid relid, const CmekKeyRequest *what,
				   const CmekReply *reply)
{
	const char *since = reply->since == 0 ? "" :
		psprintf(" Inaccessible since %s.", timestamptz_to_str(reply->since));

	if (reply->klass == CMEK_KMS_CORRUPT)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the wrapped key of table \"%s\" is damaged",
						table_name(relid)),
				 errdetail("Provider %s of KMS key \"%s\" answered %s: %s.",
						   what->config.provider, what->server_name,
						   reply->code, reply->message)));
	ereport(ERROR,
			(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
			 errmsg("KMS key \"%s\" of table \"%s\" is not accessible",
					what->server_name, table_name(relid)),
			 errdetail("Provider %s answered %s (%s): %s.%s",
					   what->config.provider, reply->code,
					   cmek_kms_class_name(reply->klass), reply->message,
					   since),
			 errhint("%s", hint_for(what, reply))));
}

/* A request in secret memory, for it holds credentials. */
static CmekKeyRequest *
new_request(CmekOperation op, Oid serverid, const uint8 *uuid)
{
	CmekKeyRequest *what = cmek_secret_alloc_in(CurrentMemoryContext,
												sizeof(CmekKeyRequest));

	what->op = op;
	memcpy(what->uuid, uuid, CMEK_UUID_LEN);
	cmek_server_fill(what, serverid);
	return what;
}

/*
 * Copy the opened key of a request out of the cache, after asking a KMS worker
 * for it when it is not there.  False when the wait is over and the key never
 * was in the cache when we looked.
 */
static bool
fetch_key(Oid relid, const CmekKeyRequest *what, uint8 *key,
		  CmekLease *lease)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   cmek_kms_timeout);
	CmekReply  *reply;

	if (cmek_cache_fetch(what, key, lease))
	{
		cmek_stat_add(CMEK_STAT_HITS, 1);
		return true;
	}
	cmek_stat_add(CMEK_STAT_MISSES, 1);
	reply = palloc(sizeof(CmekReply));
	do
	{
		cmek_request_run(what, reply);
		if (reply->klass != CMEK_KMS_OK)
			report_unavailable(relid, what, reply);
		if (cmek_cache_fetch(what, key, lease))
		{
			pfree(reply);
			return true;
		}
		CHECK_FOR_INTERRUPTS();
	} while (GetCurrentTimestamp() < deadline);
	return false;
}

/* Fail because others pushed the key out of the cache again and again. */
static void
report_cache_too_small(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not keep the key of table \"%s\" in the cache of table keys",
					table_name(relid)),
			 errhint("Increase cmek.key_cache_size.")));
}

/*
 * Open the table key of a row.  KM001 when its KMS key is away.  Allocates in
 * the current memory context, which should be short-lived: credentials are
 * among it.
 */
void
cmek_table_key_open(const CmekTableKeyRow *row, uint8 *key, CmekLease *lease)
{
	Oid			serverid = get_foreign_server_oid(row->server, false);
	CmekKeyRequest *what = new_request(CMEK_OP_UNWRAP, serverid, row->id);

	strlcpy(what->version, row->key_version, sizeof(what->version));
	what->blob_len = row->blob_len;
	memcpy(what->blob, row->blob, row->blob_len);
	if (!fetch_key(row->relid, what, key, lease))
		report_cache_too_small(row->relid);
}

/*
 * Have a KMS make a new table key.  Fills in the row for it, which the caller
 * stores.  Memory as in cmek_table_key_open.
 */
void
cmek_table_key_generate(Oid relid, Oid serverid, int32 version,
						CmekTableKeyRow *row, uint8 *key)
{
	CmekReply  *reply = palloc(sizeof(CmekReply));
	CmekKeyRequest *what;
	CmekLease	lease;

	memset(row, 0, sizeof(CmekTableKeyRow));
	cmek_random_uuid(row->id);
	what = new_request(CMEK_OP_GENERATE, serverid, row->id);
	/* so that a lost key file is not taken for one that never was */
	cmek_catalog_server_version(what->server_name, what->version);
	/* an aborted transaction leaves a key in the cache that nobody will use */
	cmek_table_key_forget(row->id, false);
	cmek_request_run(what, reply);
	if (reply->klass != CMEK_KMS_OK)
		report_unavailable(relid, what, reply);

	row->relid = relid;
	row->version = version;
	strlcpy(row->server, what->server_name, sizeof(row->server));
	strlcpy(row->key_id, reply->key_id, sizeof(row->key_id));
	strlcpy(row->key_version, reply->key_version, sizeof(row->key_version));
	row->blob_len = reply->blob_len;
	memcpy(row->blob, reply->blob, reply->blob_len);
	/* most likely it is in the cache; if not, it can be unwrapped */
	cmek_table_key_open(row, key, &lease);
}

/* The associated data of a wrapped data key. */
static CmekWrapAad
dek_aad(const CmekDataKeyRow *row, const uint8 *table_key_id)
{
	CmekWrapAad aad;

	aad.dek_id = row->id;
	aad.kind = row->kind;
	memcpy(aad.structure, row->structure, CMEK_UUID_LEN);
	memcpy(aad.table_key, table_key_id, CMEK_UUID_LEN);
	return aad;
}

/* Wrap a data key under a table key, into its row. */
void
cmek_dek_wrap(CmekDataKeyRow *row, const uint8 *table_key_id,
			  CmekAead *table_key, const uint8 *dek)
{
	CmekWrapAad aad = dek_aad(row, table_key_id);

	memcpy(row->table_key, table_key_id, CMEK_UUID_LEN);
	cmek_aead_seal(table_key, row->wrapped, dek, CMEK_KEY_LEN,
				   &aad, sizeof(aad));
}

/* Unwrap a data key.  ERROR when its row is not what we once wrote. */
void
cmek_dek_unwrap(const CmekDataKeyRow *row,
				const CmekTableKeyRow *table_key_row,
				CmekAead *table_key, uint8 *dek)
{
	CmekWrapAad aad = dek_aad(row, table_key_row->id);

	if (memcmp(row->table_key, table_key_row->id, CMEK_UUID_LEN) != 0 ||
		!cmek_aead_open(table_key, dek, row->wrapped, CMEK_KEY_LEN,
						&aad, sizeof(aad)))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("data key %u of table \"%s\" is damaged",
						row->id, table_name(row->relid))));
}
