/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *	  Taking a snapshot of a sealed table: cmek.snapshot().
 *
 * A snapshot that somebody asks for has a backup key of its own, made and
 * wrapped by the table's KMS key; the one of a table whose key is lost is made
 * without any key but the service's, which vouches for it.
 *
 * The order is: file under a name nobody looks for, on disk, real name, read
 * back to its end, and only then the row in cmek.snapshot_record.  A file
 * without a row is nobody's: the purge removes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "compat.h"
#include "heap/heap.h"
#include "heap/transfer.h"
#include "keys/portable.h"
#include "lifecycle/internal.h"
#include "lifecycle/snapshot.h"

PG_FUNCTION_INFO_V1(cmek_snapshot);

/* One snapshot on its way */
typedef struct Taking
{
	Relation	rel;
	const char *reason;
	CmekStore  *store;
	CmekSnapWriter *writer;		/* NULL when it is finished */
	char	   *id;
	char	   *file;
	json_t	   *head;
	json_t	   *manifest;
	uint8	   *backup_key;		/* NULL: none */
	uint8	   *service_mac;
	uint8	   *table_mac;		/* NULL: the key is not at hand */
	uint64		done;			/* bytes */
} Taking;

/* See internal.h. */
char *
cmek_snapshot_file(const char *id)
{
	return psprintf("%s" CMEK_SNAPSHOT_SUFFIX, id);
}

/* A fresh identity, as text. */
static char *
new_id(void)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	cmek_random_uuid(uuid->data);
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

/* Add a text, which is in the server's encoding, to JSON, which is in UTF-8. */
static void
put_text(json_t *object, const char *name, const char *value)
{
	char	   *utf8 = pg_server_to_any(value, strlen(value), PG_UTF8);

	if (json_object_set_new(object, name, json_string(utf8)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("a name of the table cannot be written as UTF-8")));
}

/* What is said in clear: enough to find the keys, and for people. */
static json_t *
make_head(Taking *t, json_t *backup_key)
{
	Relation	rel = t->rel;
	json_t	   *head = cmek_json_new();

	put_text(head, "id", t->id);
	put_text(head, "reason", t->reason);
	put_text(head, "taken_at", timestamptz_to_str(GetCurrentTimestamp()));
	put_text(head, "database", get_database_name(MyDatabaseId));
	put_text(head, "schema", get_namespace_name(RelationGetNamespace(rel)));
	put_text(head, "name", RelationGetRelationName(rel));
	/* whose it is, when nobody knows of it any more */
	put_text(head, "installation", cmek_installation());
	(void) json_object_set_new(head, "database_oid",
							   json_integer(MyDatabaseId));
	put_text(head, "encoding", pg_encoding_to_char(GetDatabaseEncoding()));
	(void) json_object_set_new(head, "server_version",
							   json_integer(PG_VERSION_NUM));
	if (backup_key != NULL)
		(void) json_object_set_new(head, "backup_key", backup_key);
	return head;
}

/* Come by the keys that the snapshot is vouched for and sealed with. */
static void
get_keys(Taking *t, bool on_demand)
{
	Oid			relid = RelationGetRelid(t->rel);
	json_t	   *backup_key = NULL;

	t->service_mac = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	if (!cmek_derived_key(CMEK_SNAPSHOT_LABEL, t->service_mac))
		ereport(ERROR,
				(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("could not take a snapshot of table \"%s\"",
						RelationGetRelationName(t->rel)),
				 errdetail("The service key, which vouches for snapshots, is not accessible."),
				 errhint("SELECT * FROM cmek.keys WHERE name = '%s'",
						 CMEK_SERVICE_KEY_SERVER)));
	if (on_demand)
	{
		t->table_mac = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
		cmek_portable_mac_key(relid, t->table_mac);
		t->backup_key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
		backup_key = cmek_backup_key_make(relid, t->backup_key);
	}
	t->head = make_head(t, backup_key);
}

/* Take one row of the table. */
static void
take_row(void *arg, const void *sealed, uint32 len)
{
	Taking	   *t = arg;

	cmek_snap_row(t->writer, sealed, len);
	cmek_progress_update(t->done += len);
}

/* Take one chunk. */
static void
take_chunk(void *arg, Oid value_id, int32 seq, const void *sealed, uint32 len)
{
	Taking	   *t = arg;

	cmek_snap_chunk(t->writer, value_id, seq, sealed, len);
	cmek_progress_update(t->done += len);
}

/* Write the file, to its end. */
static void
write_file(Taking *t, CmekSnapTotals *totals)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	t->writer = cmek_snap_create(t->store, t->file, t->head, t->backup_key);
	cmek_snap_manifest(t->writer, t->manifest);
	cmek_stop("snapshot-begun");
	cmek_heap_scan_chunks(t->rel, snapshot, take_chunk, t);
	cmek_heap_scan_sealed(t->rel, snapshot, take_row, t);
	UnregisterSnapshot(snapshot);
	cmek_stop("snapshot-written");
	cmek_snap_finish(t->writer, t->service_mac, t->table_mac, totals);
	t->writer = NULL;
	cmek_stop("snapshot-finished");
}

/* Read the file back: it is what we wrote, and we vouch for it. */
static void
read_back(Taking *t, const CmekSnapTotals *written)
{
	CmekSnapReader *r = cmek_snap_open(t->store, t->file);
	CmekSnapRecord record;
	volatile bool same = false;

	PG_TRY();
	{
		json_decref(cmek_snap_read_manifest(r, t->backup_key));
		while (cmek_snap_next(r, &record) != CMEK_SNAP_END)
		{
			CHECK_FOR_INTERRUPTS();
			cmek_progress_update(cmek_snap_totals(r)->bytes);
		}
		cmek_progress_update(cmek_snap_totals(r)->bytes);
		cmek_stop("snapshot-read");
		same = memcmp(cmek_snap_totals(r), written, sizeof(*written)) == 0 &&
			cmek_snap_mac_fits(r, false, t->service_mac);
	}
	PG_FINALLY();
	{
		cmek_snap_close(r);
	}
	PG_END_TRY();
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("snapshot \"%s\" is not what was written", t->file)));
	cmek_stop("snapshot-verified");
}

/* Take back what there is after an error. */
static void
clean_up(Taking *t, bool failed)
{
	if (failed && t->writer != NULL)
		cmek_snap_abandon(t->writer);
	else if (failed && t->store != NULL)
		(void) cmek_store_remove(t->store, t->file);
	json_decref(t->head);
	json_decref(t->manifest);
	if (t->store != NULL)
		cmek_store_close(t->store);
}

/* How long a table is, with its out-of-line values. */
static uint64
table_bytes(Relation rel)
{
	uint64		bytes = table_relation_size(rel, MAIN_FORKNUM);
	Relation	toastrel;

	if (!OidIsValid(rel->rd_rel->reltoastrelid))
		return bytes;
	toastrel = table_open(rel->rd_rel->reltoastrelid, AccessShareLock);
	bytes += table_relation_size(toastrel, MAIN_FORKNUM);
	table_close(toastrel, AccessShareLock);
	return bytes;
}

/* The work of cmek_snapshot_take. */
static void
take(Taking *t, bool on_demand)
{
	CmekSnapTotals totals = {0};

	t->id = new_id();
	t->file = cmek_snapshot_file(t->id);
	get_keys(t, on_demand);
	t->manifest = cmek_manifest_make(t->rel);
	t->store = cmek_store_open();
	cmek_progress_start(CMEK_PROGRESS_WRITE, RelationGetRelid(t->rel),
						table_bytes(t->rel));
	write_file(t, &totals);
	cmek_progress_start(CMEK_PROGRESS_VERIFY, RelationGetRelid(t->rel),
						totals.bytes);
	read_back(t, &totals);
	cmek_snapshot_record(t->id, t->rel, t->reason, &totals);
}

/* See snapshot.h. */
char *
cmek_snapshot_take(Oid relid, const char *reason)
{
	bool		on_demand = strcmp(reason, CMEK_SNAPSHOT_ON_DEMAND) == 0;
	Taking		t = {0};
	volatile bool failed = true;

	cmek_require_preload();
	t.rel = table_open(relid, NoLock);
	t.reason = reason;
	PG_TRY();
	{
		take(&t, on_demand);
		failed = false;
	}
	PG_FINALLY();
	{
		clean_up(&t, failed);
	}
	PG_END_TRY();
	cmek_progress_end();
	table_close(t.rel, NoLock);
	return t.id;
}

/* Complain unless a snapshot can be taken of it, by the caller. */
static void
check_table(Relation rel)
{
	if (!cmek_relation_ownercheck(RelationGetRelid(rel), GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   RelationGetRelationName(rel));
	if ((rel->rd_rel->relkind != RELKIND_RELATION &&
		 rel->rd_rel->relkind != RELKIND_MATVIEW) ||
		!cmek_relation_is_sealed(rel) ||
		!cmek_table_is_bound(RelationGetRelid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a sealed table with keys of its own",
						RelationGetRelationName(rel)),
				 errhint("Of a partitioned table, take a snapshot of each partition.")));
}

/* SQL: snapshot(table): its id. */
Datum
cmek_snapshot(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel = table_open(relid, AccessShareLock);
	char	   *id;

	PreventCommandDuringRecovery("cmek.snapshot()");
	check_table(rel);
	cmek_event_note(CMEK_EVENT_SNAPSHOT, NULL, relid, NULL);
	id = cmek_snapshot_take(relid, CMEK_SNAPSHOT_ON_DEMAND);
	table_close(rel, NoLock);
	PG_RETURN_DATUM(DirectFunctionCall1(uuid_in, CStringGetDatum(id)));
}
