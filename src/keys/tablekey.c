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
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"
#include "keys/watch.h"

/* The name of a table for a message. */
static const char *
table_name(Oid relid)
{
	const char *name;

	if (!OidIsValid(relid))
		return "(snapshot)";
	name = get_rel_name(relid);
	return name != NULL ? name : psprintf("%u", relid);
}

/* Fail because somebody suspended the key. */
static void
report_suspended(Oid relid, const char *server, const CmekReply *reply)
{
	ereport(ERROR,
			(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
			 errmsg("KMS key \"%s\" of table \"%s\" is not accessible",
					server, table_name(relid)),
			 reply->since == 0 ?
			 errdetail("%s: it is %s.", reply->code, reply->message) :
			 errdetail("%s: it was %s. Inaccessible since %s.", reply->code,
					   reply->message, timestamptz_to_str(reply->since)),
			 errhint("SELECT cmek.resume_key(...) brings it back; nothing needs a restart.")));
}

/* Fail because a KMS did not open or make a table key. */
void
cmek_report_unavailable(Oid relid, const CmekKeyRequest *what,
						const CmekReply *reply)
{
	const char *since = reply->since == 0 ? "" :
		psprintf(" Inaccessible since %s.", timestamptz_to_str(reply->since));

	cmek_event_failing(reply->code, reply->message);
	if (reply->klass == CMEK_KMS_CORRUPT)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the wrapped key of table \"%s\" is damaged",
						table_name(relid)),
				 errdetail("Provider %s of KMS key \"%s\" answered %s: %s.",
						   what->config.provider, what->server_name,
						   reply->code, reply->message)));
	if (strcmp(reply->code, CMEK_CODE_SUSPENDED) == 0)
		report_suspended(relid, what->server_name, reply);
	ereport(ERROR,
			(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
			 errmsg("KMS key \"%s\" of table \"%s\" is not accessible",
					what->server_name, table_name(relid)),
			 errdetail("Provider %s answered %s (%s): %s.%s",
					   what->config.provider, reply->code,
					   cmek_kms_class_name(reply->klass), reply->message,
					   since),
			 errhint("%s", cmek_reply_hint(what->config.provider, reply))));
}

/* A request in secret memory, for it holds credentials. */
CmekKeyRequest *
cmek_new_key_request(CmekOperation op, Oid serverid, const uint8 *uuid)
{
	CmekKeyRequest *what = cmek_secret_alloc_in(CurrentMemoryContext,
												sizeof(CmekKeyRequest));

	what->op = op;
	memcpy(what->uuid, uuid, CMEK_UUID_LEN);
	cmek_server_fill(what, serverid);
	return what;
}

/* Is the KMS key of a request suspended?  Then say so in the reply. */
static bool
is_suspended(const CmekKeyRequest *what, CmekReply *reply)
{
	CmekSuspension suspension;

	if (!cmek_suspended(what->server_name, &suspension))
		return false;
	cmek_suspension_fill_reply(&suspension, reply);
	return true;
}

/*
 * Ask a KMS worker for the key of a request, and copy it out of the cache.
 * Others may push it out of there before we look, so do it in a loop.  The
 * reply is OK with false when the wait is over and the key never was there.
 */
static bool
ask_for_key(const CmekKeyRequest *what, uint8 *key, CmekLease *lease,
			CmekReply *reply)
{
	CmekInstant deadline = cmek_instant_in(cmek_kms_timeout);

	do
	{
		cmek_request_run(what, reply);
		if (reply->klass != CMEK_KMS_OK)
			return false;
		if (cmek_cache_fetch(what, key, lease))
			return true;
		CHECK_FOR_INTERRUPTS();
	} while (cmek_now() < deadline);
	return false;
}

/*
 * Is the key in the cache by other options, and an answer to ours no word of
 * the KMS about the key?  Then a mistake in ALTER SERVER is no outage yet.
 */
static bool
is_forgiven(const CmekKeyRequest *what, uint8 *key, CmekLease *lease,
			const CmekReply *reply)
{
	return !what->fresh &&
		(reply->klass == CMEK_KMS_UNREACHABLE ||
		 reply->klass == CMEK_KMS_MISCONFIGURED) &&
		cmek_server_forgives(what, key, lease);
}

/*
 * Copy the opened key of a request out of the cache, after asking for it when
 * it is not there.  False with the reason in the reply.
 *
 * A suspension drops the cached key after its row can be seen; so looking for
 * the row with the key and its lease in hand leaves no gap.  The look before
 * spares the KMS a call.
 */
bool
cmek_fetch_key(const CmekKeyRequest *what, uint8 *key, CmekLease *lease,
		  CmekReply *reply)
{
	if (cmek_cache_fetch(what, key, lease))
		cmek_stat_add(CMEK_STAT_HITS, 1);
	else
	{
		cmek_stat_add(CMEK_STAT_MISSES, 1);
		if (is_suspended(what, reply) ||
			(!ask_for_key(what, key, lease, reply) &&
			 !is_forgiven(what, key, lease, reply)))
			return false;
	}
	if (!is_suspended(what, reply))
		return true;
	cmek_cleanse(key, CMEK_KEY_LEN);
	cmek_cache_drop(what->database, what->uuid);
	return false;
}

/* Fail because of the reply, or because others pushed the key out of the cache again and again. */
static void
report_unopened(Oid relid, const CmekKeyRequest *what, const CmekReply *reply)
{
	if (reply->klass != CMEK_KMS_OK)
		cmek_report_unavailable(relid, what, reply);
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not keep the key of table \"%s\" in the cache of table keys",
					table_name(relid)),
			 errhint("Increase cmek.key_cache_size.")));
}

/* See internal.h. */
CmekKeyRequest *
cmek_new_unwrap(Oid serverid, const CmekTableKeyRow *row)
{
	CmekKeyRequest *what = cmek_new_key_request(CMEK_OP_UNWRAP, serverid, row->id);

	strlcpy(what->version, row->key_version, sizeof(what->version));
	what->blob_len = row->blob_len;
	memcpy(what->blob, row->blob, row->blob_len);
	return what;
}

/*
 * Open the table key of a row.  KM001 when its KMS key is away; false when it
 * is away but the table has got another one meanwhile.  Allocates in the
 * current memory context, which should be short-lived: credentials are among
 * it.
 */
bool
cmek_table_key_try_open(const CmekTableKeyRow *row, uint8 *key,
						CmekLease *lease)
{
	Oid			serverid = get_foreign_server_oid(row->server, true);
	CmekReply  *reply = palloc(sizeof(CmekReply));
	CmekKeyRequest *what;

	/* it may have been dropped after the switch that we have not seen */
	if (!OidIsValid(serverid))
	{
		if (!cmek_catalog_is_newest(row))
			return false;
		serverid = get_foreign_server_oid(row->server, false);
	}
	what = cmek_new_unwrap(serverid, row);
	if (cmek_open_by_any(what, row, key, lease, reply))
		return true;
	if (cmek_catalog_is_newest(row))
		report_unopened(row->relid, what, reply);
	return false;
}

/* The same for a row that cannot change, maybe by an answer of now. */
static void
open_row(const CmekTableKeyRow *row, bool fresh, uint8 *key, CmekLease *lease)
{
	Oid			serverid = get_foreign_server_oid(row->server, false);
	CmekKeyRequest *what = cmek_new_unwrap(serverid, row);
	CmekReply  *reply = palloc(sizeof(CmekReply));

	what->fresh = fresh;
	if (!cmek_open_by_any(what, row, key, lease, reply))
		report_unopened(row->relid, what, reply);
}

/*
 * The same for a row that cannot change, because the caller has locked the
 * table, or that is not stored yet.
 */
void
cmek_table_key_open(const CmekTableKeyRow *row, uint8 *key, CmekLease *lease)
{
	open_row(row, false, key, lease);
}

/* The same for who restores: how things stand now, not a moment ago. */
void
cmek_table_key_open_now(const CmekTableKeyRow *row, uint8 *key,
						CmekLease *lease)
{
	open_row(row, true, key, lease);
}

/*
 * See internal.h.  For whoever wraps something new: it must not come under a
 * key that somebody else has put in the place of a wrapping.
 */
void
cmek_binding_open(const CmekBinding *binding, uint8 *key, CmekLease *lease)
{
	uint8	   *dek = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	CmekAead   *aead;

	cmek_table_key_open(&binding->table_key, key, lease);
	if (binding->ndeks == 0)
		return;
	aead = cmek_aead_create(key);
	PG_TRY();
	{
		cmek_dek_unwrap(&binding->deks[0], &binding->table_key, aead, dek);
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
}

/* See watch.h. */
bool
cmek_watch_probe(Oid server, Oid relid)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek probe",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CmekBinding *binding = cmek_catalog_read(relid);
	bool		ok = true;

	if (binding != NULL)
		ok = cmek_board_post(cmek_new_unwrap(server, &binding->table_key));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return ok;
}

/* Ask for the newest table key of a binding; the class of the answer. */
static CmekKmsClass
try_unwrap(Oid server, const CmekTableKeyRow *row)
{
	uint8	   *key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	CmekReply  *reply = palloc(sizeof(CmekReply));
	CmekKeyRequest *what = cmek_new_unwrap(server, row);
	CmekLease	lease;

	/* how things stand now, not a moment ago */
	what->fresh = true;
	return cmek_fetch_key(what, key, &lease, reply) ? CMEK_KMS_OK :
		reply->klass;
}

/* See watch.h. */
CmekKmsClass
cmek_watch_try(Oid server, Oid relid)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek probe",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CmekBinding *binding = cmek_catalog_read(relid);
	CmekKmsClass klass = CMEK_KMS_CORRUPT;

	if (binding != NULL)
		klass = try_unwrap(server, &binding->table_key);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return klass;
}

/* See keys.h. */
char *
cmek_table_server(Oid relid)
{
	CmekBinding *binding = cmek_catalog_read(relid);

	return binding != NULL ? pstrdup(binding->table_key.server) : NULL;
}

/* See keys.h. */
char *
cmek_table_servers(Oid relid)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	StringInfoData names;
	ListCell   *lc;

	if (binding == NULL)
		return NULL;
	initStringInfo(&names);
	appendStringInfoString(&names,
						   quote_identifier(binding->table_key.server));
	foreach(lc, cmek_replica_rows(relid, binding->table_key.id))
	{
		CmekTableKeyRow *replica = lfirst(lc);

		appendStringInfo(&names, ",%s", quote_identifier(replica->server));
	}
	return names.data;
}

/* See watch.h. */
int
cmek_watch_period(void)
{
	return cmek_key_cache_ttl;
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
	what = cmek_new_key_request(CMEK_OP_GENERATE, serverid, row->id);
	/* who binds a table wants to know how things stand now */
	what->fresh = true;
	/* so that a lost key file is not taken for one that never was */
	cmek_catalog_server_version(what->server_name, what->version);
	/* an aborted transaction leaves a key in the cache that nobody will use */
	cmek_table_key_forget(row->id, false);
	if (!is_suspended(what, reply))
		cmek_request_run(what, reply);
	if (reply->klass != CMEK_KMS_OK)
		cmek_report_unavailable(relid, what, reply);

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
	aad.kind = row->kind | (row->hide_tids ? CMEK_WRAP_TIDS_HIDDEN : 0);
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
