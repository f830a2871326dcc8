/*-------------------------------------------------------------------------
 *
 * restore.c
 *	  cmek.restore_snapshot(): a new table out of a snapshot.
 *
 * The file is read twice.  First it is only verified: checksums, digest, and
 * a MAC by somebody we trust.  Then the table is made, its rows are opened by
 * the keys of the snapshot and stored under keys of the new table, and what
 * belongs to the table is recreated.  All of it is one transaction: after an
 * error there is nothing.
 *
 * Rows name their out-of-line values by number, in any order, so the chunks go
 * to a temporary table first, sealed as they are.  Memory stays constant.
 *
 * The definition comes from outside, so it is made real as the owner, in a
 * security-restricted operation; the only thing done as somebody else is the
 * temporary table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "compat.h"
#include "heap/transfer.h"
#include "keys/portable.h"
#include "lifecycle/internal.h"
#include "lifecycle/snapshot.h"

PG_FUNCTION_INFO_V1(cmek_restore_snapshot);

#define CHUNK_TABLE "cmek_restored_chunks"

/* The chunks of the snapshot, where rows can find them */
typedef struct ChunkTable
{
	Relation	rel;
	Relation	index;
	CatalogIndexState indexes;
} ChunkTable;

/* One restore on its way */
typedef struct Restoring
{
	CmekStore  *store;
	char	   *file;
	CmekSnapReader *reader;
	json_t	   *manifest;
	CmekPortable *keys;
	ChunkTable	chunks;
	char	   *schema;
	char	   *name;
	char	   *key;			/* NULL: the default */
	Oid			owner;
	Oid			relid;
	bool		doubtful;		/* nobody vouches for it */
	List	   *notes;			/* of text: what could not be recreated */
	int64		bytes;			/* of the file */
} Restoring;

/* ----------
 * The file
 * ----------
 */

/* Open the file and read what comes before the rows. */
static void
open_file(Restoring *r)
{
	uint8	   *backup_key = NULL;
	const json_t *wrapped;

	r->reader = cmek_snap_open(r->store, r->file);
	wrapped = json_object_get(cmek_snap_head(r->reader), "backup_key");
	if (wrapped != NULL)
	{
		backup_key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
		cmek_backup_key_open(wrapped, backup_key);
	}
	r->manifest = cmek_snap_read_manifest(r->reader, backup_key);
}

/* Close it, to read it again or for good. */
static void
close_file(Restoring *r)
{
	json_decref(r->manifest);
	r->manifest = NULL;
	if (r->reader != NULL)
		cmek_snap_close(r->reader);
	r->reader = NULL;
}

/* Does somebody we trust vouch for the file that was read to its end? */
static bool
is_vouched_for(Restoring *r)
{
	uint8	   *mac_key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);

	if (cmek_snap_mac_fits(r->reader, true, r->keys->mac_key))
		return true;
	return cmek_derived_key(CMEK_SNAPSHOT_LABEL, mac_key) &&
		cmek_snap_mac_fits(r->reader, false, mac_key);
}

/* Read the file to its end, and refuse it unless it is genuine. */
static void
verify_file(Restoring *r, bool force)
{
	CmekSnapRecord record;

	open_file(r);
	r->keys = cmek_portable_open(json_object_get(r->manifest, "keys"));
	cmek_progress_start(CMEK_PROGRESS_CHECK, InvalidOid, 0);
	while (cmek_snap_next(r->reader, &record) != CMEK_SNAP_END)
	{
		CHECK_FOR_INTERRUPTS();
		cmek_progress_update(cmek_snap_totals(r->reader)->bytes);
	}
	r->bytes = cmek_snap_totals(r->reader)->bytes;
	cmek_progress_update(r->bytes);
	r->doubtful = !is_vouched_for(r);
	if (r->doubtful && !force)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("snapshot \"%s\" is not vouched for", r->file),
				 errdetail("Neither the service key of this installation nor the table's key has made its MAC."),
				 errhint("A superuser may restore it with force => true, after a look at where it comes from.")));
	close_file(r);
}

/* ----------
 * Chunks
 * ----------
 */

/* Run SQL of ours as the bootstrap superuser. */
static void
run_own_sql(const char *sql)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
	SetUserIdAndSecContext(user, context);
}

/* Make the table for the chunks, gone with the transaction. */
static void
create_chunk_table(ChunkTable *t)
{
	int			level = NewGUCNestLevel();
	Oid			namespace;

	(void) set_config_option("cmek.enforce_encryption", "off", PGC_SUSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	run_own_sql("CREATE TEMPORARY TABLE pg_temp." CHUNK_TABLE
				" (value_id pg_catalog.oid, chunk pg_catalog.int4, data pg_catalog.bytea)"
				" USING heap ON COMMIT DROP");
	run_own_sql("ALTER TABLE pg_temp." CHUNK_TABLE " ALTER data SET STORAGE PLAIN");
	run_own_sql("CREATE UNIQUE INDEX " CHUNK_TABLE "_index ON pg_temp." CHUNK_TABLE
				" USING btree (value_id, chunk)");
	AtEOXact_GUC(true, level);
	namespace = LookupExplicitNamespace("pg_temp", false);
	t->rel = table_open(get_relname_relid(CHUNK_TABLE, namespace),
						RowExclusiveLock);
	t->index = index_open(get_relname_relid(CHUNK_TABLE "_index", namespace),
						  AccessShareLock);
	t->indexes = CatalogOpenIndexes(t->rel);
}

/* Put one chunk there. */
static void
store_chunk(ChunkTable *t, const CmekSnapRecord *record)
{
	Datum		values[3];
	bool		nulls[3] = {false};
	bytea	   *data = palloc(VARHDRSZ + record->len);
	HeapTuple	tuple;

	if (record->len > TOAST_MAX_CHUNK_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a chunk of the snapshot is too long")));
	SET_VARSIZE(data, VARHDRSZ + record->len);
	memcpy(VARDATA(data), record->data, record->len);
	values[0] = ObjectIdGetDatum(record->value_id);
	values[1] = Int32GetDatum((int32) record->chunk);
	values[2] = PointerGetDatum(data);
	tuple = heap_form_tuple(RelationGetDescr(t->rel), values, nulls);
	CatalogTupleInsertWithInfo(t->rel, tuple, t->indexes);
	heap_freetuple(tuple);
	pfree(data);
}

/* Get one chunk from there; see CmekFetchChunk. */
static uint32
fetch_chunk(void *arg, Oid value_id, int32 seq, char *out, uint32 size)
{
	ChunkTable *t = arg;
	ScanKeyData key[2];
	SnapshotData self;
	SysScanDesc scan;
	HeapTuple	tuple;
	uint32		len = 0;
	bool		isnull;

	InitDirtySnapshot(self);
	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(value_id));
	ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(seq));
	scan = systable_beginscan_ordered(t->rel, t->index, &self, 2, key);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (HeapTupleIsValid(tuple))
	{
		struct varlena *data = (struct varlena *)
			DatumGetPointer(heap_getattr(tuple, 3, RelationGetDescr(t->rel),
										 &isnull));

		len = VARSIZE_ANY_EXHDR(data);
		if (len <= size)
			memcpy(out, VARDATA_ANY(data), len);
		else
			len = 0;
	}
	systable_endscan_ordered(scan);
	return len;
}

/* No more chunks are needed. */
static void
close_chunk_table(ChunkTable *t)
{
	CatalogCloseIndexes(t->indexes);
	index_close(t->index, NoLock);
	table_close(t->rel, NoLock);
	run_own_sql("DROP TABLE pg_temp." CHUNK_TABLE);
}

/* ----------
 * The table
 * ----------
 */

/* Which column of the new table each stored one goes to: dropped ones nowhere. */
static int *
match_columns(TupleDesc stored, TupleDesc new_desc)
{
	int		   *target = palloc(stored->natts * sizeof(int));
	int			n = 0;

	for (int i = 0; i < stored->natts; i++)
		target[i] = TupleDescAttr(stored, i)->attisdropped ? -1 : n++;
	if (n != new_desc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the definition in the snapshot does not fit its rows")));
	return target;
}

/* The encoding that texts were stored in. */
static int
encoding_of(const Restoring *r)
{
	const json_t *name = json_object_get(cmek_snap_head(r->reader), "encoding");
	int			encoding = json_is_string(name) ?
		pg_char_to_encoding(json_string_value(name)) : -1;

	if (!PG_VALID_BE_ENCODING(encoding))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("snapshot \"%s\" is damaged or forged", r->file),
				 errdetail("It does not say in which encoding its texts are.")));
	return encoding;
}

/* Store all rows. */
static void
import_rows(Restoring *r)
{
	Relation	rel = table_open(r->relid, AccessExclusiveLock);
	TupleDesc	stored = cmek_manifest_row_desc(r->manifest);
	CmekImportSource source = {fetch_chunk, &r->chunks, cmek_values_take,
	cmek_values_begin(rel, encoding_of(r), r->doubtful)};
	CmekHeapImport *import = cmek_heap_import_begin(rel, stored,
													match_columns(stored, RelationGetDescr(rel)),
													r->keys->ring, &source);
	CmekSnapRecord record;
	CmekSnapItem item;

	while ((item = cmek_snap_next(r->reader, &record)) != CMEK_SNAP_END)
	{
		CHECK_FOR_INTERRUPTS();
		if (item == CMEK_SNAP_CHUNK)
			store_chunk(&r->chunks, &record);
		else
			cmek_heap_import_row(import, record.data, record.len);
		cmek_progress_update(cmek_snap_totals(r->reader)->bytes);
	}
	cmek_progress_update(cmek_snap_totals(r->reader)->bytes);
	cmek_heap_import_end(import);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Do what the owner does: the table, its rows, and what belongs to it. */
static void
build_table(Restoring *r)
{
	Oid			user;
	int			context;
	int			level = NewGUCNestLevel();

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(r->owner, context | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	r->relid = cmek_recreate_table(r->manifest, r->schema, r->name, r->key,
								   r->owner);
	cmek_stop("restore-created");
	cmek_progress_start(CMEK_PROGRESS_RESTORE, r->relid, r->bytes);
	import_rows(r);
	cmek_stop("restore-filled");
	r->notes = list_concat(r->notes,
						   cmek_recreate_rest(r->manifest, r->relid));
	cmek_stop("restore-recreated");
	cmek_progress_end();
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user, context);
}

/* Everything but cleaning up. */
static void
restore(Restoring *r, bool force)
{
	verify_file(r, force);
	cmek_stop("restore-verified");
	open_file(r);
	create_chunk_table(&r->chunks);
	build_table(r);
	close_chunk_table(&r->chunks);
}

/* Give back what is not memory of the transaction. */
static void
clean_up(Restoring *r)
{
	close_file(r);
	if (r->keys != NULL)
		cmek_portable_close(r->keys);
	if (r->store != NULL)
		cmek_store_close(r->store);
}

/* ----------
 * Who and what
 * ----------
 */

/* Take the name of the new table apart. */
static void
parse_name(Restoring *r, const char *text)
{
	List	   *names = textToQualifiedNameList(cstring_to_text(text));
	RangeVar   *range = makeRangeVarFromNameList(names);
	Oid			namespace = RangeVarGetCreationNamespace(range);

	if (OidIsValid(get_relname_relid(range->relname, namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", range->relname),
				 errhint("A snapshot is restored into a new table.")));
	r->schema = get_namespace_name(namespace);
	r->name = range->relname;
}

/*
 * Whose table it will be: the caller's, but what a superuser restores goes to
 * whom it belonged to.
 */
static Oid
choose_owner(const char *owner)
{
	Oid			role = owner ? get_role_oid(owner, true) : InvalidOid;

	if (OidIsValid(role) && has_privs_of_role(GetUserId(), role))
		return role;
	return GetUserId();
}

/*
 * SQL: restore_snapshot(snapshot, new_name, key, force): a line for all that
 * could not be recreated.
 */
Datum
cmek_restore_snapshot(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Restoring	r = {0};
	bool		force;
	char	   *owner = NULL;
	ListCell   *lc;

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i) && i != 2)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("only the key may be null")));
	cmek_require_preload();
	PreventCommandIfReadOnly("cmek.restore_snapshot()");
	force = PG_GETARG_BOOL(3);
	if (force && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to restore a snapshot that is not vouched for")));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	r.key = PG_ARGISNULL(2) ? NULL : NameStr(*PG_GETARG_NAME(2));
	parse_name(&r, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	r.store = cmek_snapshot_find(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								 &r.file, &owner);
	r.owner = choose_owner(owner);
	cmek_event_note(CMEK_EVENT_RESTORE, r.key, InvalidOid, r.file);
	PG_TRY();
	{
		restore(&r, force);
	}
	PG_FINALLY();
	{
		clean_up(&r);
	}
	PG_END_TRY();
	foreach(lc, r.notes)
	{
		Datum		value = CStringGetTextDatum((char *) lfirst(lc));
		bool		isnull = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value,
							 &isnull);
	}
	return (Datum) 0;
}
