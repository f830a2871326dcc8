/*-------------------------------------------------------------------------
 *
 * snapshots.c
 *	  What is known of snapshots: rows of cmek.snapshot_record, and when their
 *	  files go.
 *
 * A row is written by the transaction that took the snapshot, when its file is
 * whole and on disk.  The other way round, a row that goes leaves one in
 * cmek.snapshot_removal, by which the visitor removes the file afterwards; so
 * a file outlives its row, and never the row its file.  A row whose file
 * somebody else removed says so: "missing".
 *
 * Files without a row are what crashes leave.  Unfinished ones go after a day;
 * finished ones, which may be all that is left of a table in a database that
 * was set back in time, are kept as long as any snapshot of a dropped table,
 * and removed only by the installation and the database that wrote them.
 *
 * What goes by itself does so when two clocks say so: the wall clock, by which
 * people count, and the time that servers have run (runclock.c), because the
 * wall clock may jump by a year, and a snapshot may be the last copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat.h"
#include "lifecycle/internal.h"
#include "lifecycle/store.h"

PG_FUNCTION_INFO_V1(cmek_drop_snapshot);

#define STATE_KEPT "kept"
#define UUID_TEXT_LEN 36

/* How long an unfinished file may be one that somebody is at */
#define UNFINISHED_AGE SECS_PER_DAY

/* How often files are compared with rows when nothing else calls */
#define COMPARE_EVERY_MS (3600 * 1000)

enum
{
	Anum_snapshot_id = 1,
	Anum_snapshot_relid,
	Anum_snapshot_schema,
	Anum_snapshot_name,
	Anum_snapshot_owner,
	Anum_snapshot_reason,
	Anum_snapshot_key,
	Anum_snapshot_rows,
	Anum_snapshot_bytes,
	Anum_snapshot_digest,
	Anum_snapshot_taken_at,
	Anum_snapshot_expires_at,
	Anum_snapshot_state,
	Anum_snapshot_store,
	Anum_snapshot_file,
	Anum_snapshot_created_by,
	Anum_snapshot_expires_ms,
	Natts_snapshot = Anum_snapshot_expires_ms
};

enum
{
	Anum_removal_file = 1,
	Anum_removal_store,
	Anum_removal_after,
	Natts_removal = Anum_removal_after
};

/* What matters of a row */
typedef struct SnapshotRow
{
	ItemPointerData tid;
	Oid			owner;
	char	   *key;
	char	   *table;			/* schema.name */
	char	   *store;
	char	   *file;
} SnapshotRow;

/* ----------
 * Rows, for anybody
 * ----------
 */

/* Open a table of schema cmek. */
static Relation
open_table(const char *name, LOCKMODE lockmode)
{
	return table_open(get_relname_relid(name, get_namespace_oid("cmek", false)),
					  lockmode);
}

/* A name as a datum. */
static Datum
name_datum(const char *value)
{
	Name		name = palloc0(NAMEDATALEN);

	namestrcpy(name, value);
	return NameGetDatum(name);
}

/* The identity of a snapshot. */
static Datum
uuid_datum(const char *id)
{
	return DirectFunctionCall1(uuid_in, CStringGetDatum(id));
}

/* Does a snapshot go by itself? */
static bool
expires(const char *reason)
{
	return strcmp(reason, CMEK_SNAPSHOT_KEY_LOST) == 0;
}

/* When one that is taken now does, by the run clock. */
static int64
expiry_ms(void)
{
	return cmek_run_clock() + cmek_snapshot_retention * INT64CONST(1000);
}

/* See internal.h. */
void
cmek_snapshot_record(const char *id, Relation rel, const char *reason,
					 const CmekSnapTotals *totals)
{
	Relation	table = open_table("snapshot_record", RowExclusiveLock);
	TimestampTz now = GetCurrentTimestamp();
	char	   *key = cmek_table_server(RelationGetRelid(rel));
	bytea	   *digest = palloc(VARHDRSZ + sizeof(totals->digest));
	Datum		values[Natts_snapshot];
	bool		nulls[Natts_snapshot] = {false};

	SET_VARSIZE(digest, VARHDRSZ + sizeof(totals->digest));
	memcpy(VARDATA(digest), totals->digest, sizeof(totals->digest));
	values[Anum_snapshot_id - 1] = uuid_datum(id);
	values[Anum_snapshot_relid - 1] = ObjectIdGetDatum(RelationGetRelid(rel));
	values[Anum_snapshot_schema - 1] = name_datum(get_namespace_name(RelationGetNamespace(rel)));
	values[Anum_snapshot_name - 1] = name_datum(RelationGetRelationName(rel));
	values[Anum_snapshot_owner - 1] = ObjectIdGetDatum(rel->rd_rel->relowner);
	values[Anum_snapshot_reason - 1] = CStringGetTextDatum(reason);
	values[Anum_snapshot_key - 1] = name_datum(key != NULL ? key : "");
	values[Anum_snapshot_rows - 1] = Int64GetDatum(totals->rows);
	values[Anum_snapshot_bytes - 1] = Int64GetDatum(totals->bytes);
	values[Anum_snapshot_digest - 1] = PointerGetDatum(digest);
	values[Anum_snapshot_taken_at - 1] = TimestampTzGetDatum(now);
	values[Anum_snapshot_expires_at - 1] = TimestampTzGetDatum(now + cmek_snapshot_retention * USECS_PER_SEC);
	values[Anum_snapshot_expires_ms - 1] = Int64GetDatum(expiry_ms());
	nulls[Anum_snapshot_expires_at - 1] = !expires(reason);
	nulls[Anum_snapshot_expires_ms - 1] = !expires(reason);
	values[Anum_snapshot_state - 1] = CStringGetTextDatum(STATE_KEPT);
	values[Anum_snapshot_store - 1] = CStringGetTextDatum(cmek_store_where());
	values[Anum_snapshot_file - 1] = CStringGetTextDatum(cmek_snapshot_file(id));
	values[Anum_snapshot_created_by - 1] = name_datum(GetUserNameFromId(GetUserId(), false));
	CatalogTupleInsert(table, heap_form_tuple(RelationGetDescr(table),
											  values, nulls));
	table_close(table, NoLock);
	CommandCounterIncrement();
}

/* One attribute of a row, which is not null. */
static Datum
attribute(HeapTuple tuple, Relation table, int number)
{
	bool		isnull;

	return heap_getattr(tuple, number, RelationGetDescr(table), &isnull);
}

/* Take over a row. */
static void
read_row(SnapshotRow *row, HeapTuple tuple, Relation table)
{
	row->tid = tuple->t_self;
	row->owner = DatumGetObjectId(attribute(tuple, table, Anum_snapshot_owner));
	row->key = pstrdup(NameStr(*DatumGetName(attribute(tuple, table, Anum_snapshot_key))));
	row->table = quote_qualified_identifier(NameStr(*DatumGetName(attribute(tuple, table, Anum_snapshot_schema))),
											NameStr(*DatumGetName(attribute(tuple, table, Anum_snapshot_name))));
	row->store = TextDatumGetCString(attribute(tuple, table, Anum_snapshot_store));
	row->file = TextDatumGetCString(attribute(tuple, table, Anum_snapshot_file));
}

/* Find the row of a snapshot, as of now. */
static bool
find_row(Relation table, const char *id, SnapshotRow *row)
{
	Oid			index = get_relname_relid("snapshot_record_pkey",
										  RelationGetNamespace(table));
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_snapshot_id, BTEqualStrategyNumber, F_UUID_EQ,
				uuid_datum(id));
	scan = systable_beginscan(table, index, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		read_row(row, tuple, table);
	systable_endscan(scan);
	return HeapTupleIsValid(tuple);
}

/* Find the row of a snapshot that belongs to the caller. */
static void
find_own_row(Relation table, const char *id, SnapshotRow *row)
{
	if (!find_row(table, id, row))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("snapshot %s does not exist", id),
				 errhint("SELECT * FROM cmek.snapshots")));
	if (!has_privs_of_role(GetUserId(), row->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of snapshot %s", id)));
}

/* Is it an identity, not a file? */
static bool
is_id(const char *text)
{
	return strlen(text) == UUID_TEXT_LEN &&
		strspn(text, "0123456789abcdefABCDEF-") == UUID_TEXT_LEN;
}

/* The store and the file of a path, which only few may name. */
static CmekStore *
find_file(const char *path, char **file)
{
	const char *slash = strrchr(path, '/');

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read snapshot \"%s\"", path),
				 errdetail("Only members of pg_read_server_files may name a file; its owner names a snapshot by its id.")));
	*file = pstrdup(slash != NULL ? slash + 1 : path);
	if (slash == NULL)
		return cmek_store_open();
	if (path[0] == '/')
		return cmek_store_open_path(slash == path ? "/" :
									pnstrdup(path, slash - path));
	return cmek_store_open_at(pnstrdup(path, slash - path));
}

/* See snapshot.h. */
CmekStore *
cmek_snapshot_find(const char *snapshot, char **file, char **owner)
{
	Relation	table;
	SnapshotRow row;

	*owner = NULL;
	if (!is_id(snapshot))
		return find_file(snapshot, file);
	table = open_table("snapshot_record", AccessShareLock);
	find_own_row(table, snapshot, &row);
	table_close(table, AccessShareLock);
	*file = row.file;
	*owner = GetUserNameFromId(row.owner, true);
	return cmek_store_open_at(row.store);
}

/*
 * Have the visitor remove a file when this transaction is committed, and the
 * run clock shows so much.
 */
static void
remove_later(const char *file, const char *store, int64 after_ms)
{
	Relation	table = open_table("snapshot_removal", RowExclusiveLock);
	Datum		values[Natts_removal];
	bool		nulls[Natts_removal] = {false};

	values[Anum_removal_file - 1] = CStringGetTextDatum(file);
	values[Anum_removal_store - 1] = CStringGetTextDatum(store);
	values[Anum_removal_after - 1] = Int64GetDatum(after_ms);
	CatalogTupleInsert(table, heap_form_tuple(RelationGetDescr(table),
											  values, nulls));
	table_close(table, NoLock);
}

/* Note for the auditors that a snapshot goes. */
static void
note_purge(const SnapshotRow *row, const char *id)
{
	cmek_event_note(CMEK_EVENT_PURGE, row->key, InvalidOid,
					psprintf("snapshot %s of table %s", id, row->table));
}

/* SQL: drop_snapshot(id). */
Datum
cmek_drop_snapshot(PG_FUNCTION_ARGS)
{
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out,
														 PG_GETARG_DATUM(0)));
	Relation	table;
	SnapshotRow row;

	PreventCommandIfReadOnly("cmek.drop_snapshot()");
	table = open_table("snapshot_record", RowExclusiveLock);
	find_own_row(table, id, &row);
	note_purge(&row, id);
	remove_later(row.file, row.store, 0);
	CatalogTupleDelete(table, &row.tid);
	table_close(table, NoLock);
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/* See internal.h. */
void
cmek_snapshot_disown(const char *id)
{
	Relation	table;
	SnapshotRow row;
	bool		recorded;
	CmekStore  *store;

	StartTransactionCommand();
	table = open_table("snapshot_record", AccessShareLock);
	recorded = find_row(table, id, &row);
	table_close(table, AccessShareLock);
	if (!recorded)
	{
		store = cmek_store_open();
		(void) cmek_store_remove(store, cmek_snapshot_file(id));
		cmek_store_close(store);
	}
	CommitTransactionCommand();
}

/* ----------
 * The purge, in the visitor
 * ----------
 */

/* A text column of a row of the last query. */
static char *
column(int row, int number)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						number);
}

/*
 * Rows that have expired go, and say which file goes.  Returns the time by the
 * run clock.
 */
static int64
expire_rows(void)
{
	static const Oid types[] = {INT8OID};
	Datum		values[1];
	int64		run_ms;
	uint64		n;

	cmek_visit_begin();
	run_ms = cmek_run_clock_advance();
	values[0] = Int64GetDatum(run_ms);
	n = cmek_visit_sql("WITH gone AS (DELETE FROM cmek.snapshot_record"
					   "  WHERE expires_at <= pg_catalog.now()"
					   "  AND expires_ms <= $1 RETURNING *),"
					   " removal AS (INSERT INTO cmek.snapshot_removal"
					   "  SELECT file, store, 0 FROM gone)"
					   " SELECT id, key, pg_catalog.quote_ident(schema)"
					   "  || '.' || pg_catalog.quote_ident(name) FROM gone",
					   SPI_OK_SELECT, 1, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		SnapshotRow row = {0};

		row.key = column(i, 2);
		row.table = column(i, 3);
		note_purge(&row, column(i, 1));
	}
	cmek_event_by_nobody();
	(void) cmek_visit_sql("DELETE FROM cmek.drop_postponed p WHERE NOT EXISTS"
						  " (SELECT FROM pg_catalog.pg_class c WHERE c.oid = p.relid)",
						  SPI_OK_DELETE, 0, NULL, NULL, NULL);
	cmek_visit_end();
	if (n > 0)
		cmek_stop("purge-expired");
	return run_ms;
}

/* Report why something of the purge did not work, and go on. */
static void
log_and_abort(MemoryContext context, const char *what)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("could not remove or look for snapshots in \"%s\": %s",
					what, error->message),
			 errdetail("It will be tried again.")));
	FreeErrorData(error);
}

/* Remove one file whose row is gone. */
static void
remove_file(const char *file, const char *where)
{
	static const Oid types[] = {TEXTOID};
	Datum		values[1];
	CmekStore  *store;

	cmek_visit_begin();
	store = cmek_store_open_at(where);
	(void) cmek_store_remove(store, file);
	cmek_store_close(store);
	cmek_stop("purge-removed");
	values[0] = CStringGetTextDatum(file);
	(void) cmek_visit_sql("DELETE FROM cmek.snapshot_removal WHERE file = $1",
						  SPI_OK_DELETE, 1, types, values, NULL);
	cmek_visit_end();
}

/* Two columns of text of a query, in the memory context. */
static List *
pairs(const char *sql, MemoryContext context)
{
	List	   *result = NIL;
	uint64		n;
	MemoryContext old;

	cmek_visit_begin();
	n = cmek_visit_sql(sql, SPI_OK_SELECT, 0, NULL, NULL, NULL);
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < n; i++)
		result = lappend(result, list_make2(pstrdup(column(i, 1)),
											pstrdup(column(i, 2))));
	MemoryContextSwitchTo(old);
	cmek_visit_end();
	return result;
}

/*
 * Remove the files without rows whose time has come; false when one could not
 * be removed.
 */
static bool
remove_files(MemoryContext context, int64 run_ms)
{
	volatile bool ok = true;
	char	   *due = psprintf("SELECT file, store FROM cmek.snapshot_removal r"
							   " WHERE after_ms <= " INT64_FORMAT " AND NOT EXISTS"
							   " (SELECT FROM cmek.snapshot_record s WHERE s.file = r.file)",
							   run_ms);
	ListCell   *lc;

	foreach(lc, pairs(due, context))
	{
		List	   *pair = lfirst(lc);

		/* it may be of another machine, or not be mounted */
		if (!cmek_store_exists(lsecond(pair)))
			continue;
		PG_TRY();
		{
			remove_file(linitial(pair), lsecond(pair));
		}
		PG_CATCH();
		{
			log_and_abort(context, lsecond(pair));
			ok = false;
		}
		PG_END_TRY();
	}
	return ok;
}

/* A file of a store */
typedef struct StoredFile
{
	char	   *name;
	time_t		changed;
} StoredFile;

/* Take one file of a store. */
static void
take_file(void *arg, const char *name, time_t changed)
{
	List	  **files = arg;
	StoredFile *file = palloc(sizeof(StoredFile));

	file->name = pstrdup(name);
	file->changed = changed;
	*files = lappend(*files, file);
}

/* Is there a file of this name? */
static bool
is_listed(List *files, const char *name)
{
	ListCell   *lc;

	foreach(lc, files)
		if (strcmp(((StoredFile *) lfirst(lc))->name, name) == 0)
			return true;
	return false;
}

/* Write down whether a snapshot's file is there; tell when it is not. */
static void
set_state(const char *file, bool there)
{
	static const Oid types[] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmekEvent  *event;

	values[0] = CStringGetTextDatum(file);
	values[1] = CStringGetTextDatum(there ? STATE_KEPT : "missing");
	if (cmek_visit_sql("UPDATE cmek.snapshot_record SET state = $2"
					   " WHERE file = $1 AND state <> $2 RETURNING key,"
					   " pg_catalog.quote_ident(schema) || '.' || pg_catalog.quote_ident(name)",
					   SPI_OK_UPDATE_RETURNING, 2, types, values, NULL) == 0 ||
		there)
		return;
	event = palloc0(sizeof(CmekEvent));
	event->database = MyDatabaseId;
	strlcpy(event->event, CMEK_EVENT_WARN, sizeof(event->event));
	strlcpy(event->outcome, CMEK_OUTCOME_OBSERVED, sizeof(event->outcome));
	strlcpy(event->key, column(0, 1), sizeof(event->key));
	strlcpy(event->table, column(0, 2), sizeof(event->table));
	snprintf(event->detail, sizeof(event->detail),
			 "snapshot file \"%s\" is missing", file);
	cmek_event_record(event);
}

/* Whose a file is */
typedef struct Origin
{
	CmekStore  *store;
	const char *name;
	bool		ours;			/* of this database of this installation */
} Origin;

/* Read it in the file */
static void
read_origin(void *arg)
{
	Origin	   *origin = arg;
	CmekSnapReader *r = cmek_snap_open(origin->store, origin->name);
	const json_t *head = cmek_snap_head(r);
	const char *by = json_string_value(json_object_get(head, "installation"));

	origin->ours = by != NULL && strcmp(by, cmek_installation()) == 0 &&
		json_integer_value(json_object_get(head, "database_oid")) == MyDatabaseId;
	cmek_snap_close(r);
}

/* Is a file ours?  One that cannot be read says nothing, and stays. */
static bool
is_ours(CmekStore *store, const char *name)
{
	Origin		origin = {store, name, false};
	ErrorData  *error = cmek_try(read_origin, &origin);

	if (error != NULL)
		FreeErrorData(error);
	return error == NULL && origin.ours;
}

/* Does a file end like this? */
static bool
has_suffix(const char *name, const char *suffix)
{
	size_t		len = strlen(name);

	return len > strlen(suffix) &&
		strcmp(name + len - strlen(suffix), suffix) == 0;
}

/* The files of a store that a table of ours names. */
static List *
named_files(const char *sql, const char *where)
{
	static const Oid types[] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(where)};
	List	   *files = NIL;
	uint64		n;

	n = cmek_visit_sql(sql, SPI_OK_SELECT, 1, types, values, NULL);
	for (uint64 i = 0; i < n; i++)
		take_file(&files, column(i, 1), 0);
	return files;
}

/* Remove an unfinished file, or write down when a finished one goes. */
static void
end_left_over(CmekStore *store, const StoredFile *file, const char *where)
{
	int64		age = (int64) time(NULL) - (int64) file->changed;

	if (has_suffix(file->name, CMEK_STORE_UNFINISHED))
	{
		ereport(LOG,
				(errmsg("removing unfinished file \"%s\"", file->name)));
		(void) cmek_store_remove(store, file->name);
	}
	/* whose it is stands in the file: those of others are not read each time */
	else if (has_suffix(file->name, CMEK_SNAPSHOT_SUFFIX) &&
			 age > cmek_snapshot_retention && is_ours(store, file->name))
	{
		ereport(LOG,
				(errmsg("file \"%s\", which no snapshot of this database has, will be removed after %d s",
						file->name, cmek_snapshot_retention)));
		remove_later(file->name, where, expiry_ms());
	}
}

/* See to those of the files in a store that crashes have left. */
static void
end_left_overs(CmekStore *store, List *there, List *recorded,
			   const char *where)
{
	List	   *leaving = named_files("SELECT file FROM cmek.snapshot_removal WHERE store = $1",
									  where);
	ListCell   *lc;

	foreach(lc, there)
	{
		StoredFile *file = lfirst(lc);

		if ((int64) time(NULL) - (int64) file->changed > UNFINISHED_AGE &&
			!is_listed(recorded, file->name) &&
			!is_listed(leaving, file->name))
			end_left_over(store, file, where);
	}
}

/* Compare the files of a store with its rows. */
static void
compare(const char *where)
{
	CmekStore  *store = NULL;
	List	   *there = NIL;
	List	   *recorded;
	bool		known = true;
	ListCell   *lc;

	cmek_visit_begin();
	/* rows first: a file that comes afterwards is too young to be judged */
	recorded = named_files("SELECT file FROM cmek.snapshot_record WHERE store = $1",
						   where);
	if (cmek_store_exists(where))
	{
		store = cmek_store_open_at(where);
		known = cmek_store_list(store, take_file, &there);
	}
	foreach(lc, recorded)
	{
		StoredFile *file = lfirst(lc);

		if (known)
			set_state(file->name, is_listed(there, file->name));
	}
	if (store != NULL)
	{
		end_left_overs(store, there, recorded, where);
		cmek_store_close(store);
	}
	cmek_visit_end();
}

/* Compare all stores that snapshots of this database are in. */
static void
compare_all(MemoryContext context)
{
	List	   *stores = NIL;
	ListCell   *lc;

	stores = pairs("SELECT DISTINCT store, '' FROM cmek.snapshot_record", context);
	MemoryContextSwitchTo(context);
	foreach(lc, stores)
		if (strcmp(linitial((List *) lfirst(lc)), cmek_store_where()) == 0)
			break;
	if (lc == NULL && cmek_store_exists(cmek_store_where()))
		stores = lappend(stores, list_make2(cmek_store_where(), ""));
	foreach(lc, stores)
	{
		char	   *where = linitial((List *) lfirst(lc));

		PG_TRY();
		{
			compare(where);
		}
		PG_CATCH();
		{
			log_and_abort(context, where);
		}
		PG_END_TRY();
	}
}

/* When the next file goes: by the clock that says so last. */
static TimestampTz
next_expiry(void)
{
	static const Oid types[] = {INT8OID};
	int64		ms = COMPARE_EVERY_MS;
	Datum		values[1];
	bool		isnull;
	Datum		value;

	cmek_visit_begin();
	values[0] = Int64GetDatum(cmek_run_clock());
	(void) cmek_visit_sql("SELECT pg_catalog.min(ms) FROM (SELECT GREATEST(expires_ms - $1,"
						  "  (EXTRACT(epoch FROM expires_at - pg_catalog.clock_timestamp())"
						  "   * 1000)::pg_catalog.int8) AS ms"
						  "  FROM cmek.snapshot_record WHERE expires_at IS NOT NULL"
						  " UNION ALL SELECT after_ms - $1"
						  "  FROM cmek.snapshot_removal WHERE after_ms > $1) x",
						  SPI_OK_SELECT, 1, types, values, NULL);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						  &isnull);
	if (!isnull)
		ms = Min(ms, Max(DatumGetInt64(value), 0));
	cmek_visit_end();
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

/* See snapshot.h. */
TimestampTz
cmek_snapshots_purge(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "cmek purge",
												  ALLOCSET_DEFAULT_SIZES);
	bool		all_removed;

	all_removed = remove_files(context, expire_rows());
	compare_all(context);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	if (!all_removed)
		return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   cmek_watch_period() * 1000);
	return next_expiry();
}
