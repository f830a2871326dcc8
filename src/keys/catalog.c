/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Rows of cmek.table_key and cmek.data_key.
 *
 * The only file that knows the columns of these tables.  They are ordinary
 * tables, but we read and write them as the system does its catalogs: by
 * their indexes, with a fresh snapshot, without permission checks.  Writes
 * are transactional and end in a CommandCounterIncrement; reading works on a
 * hot standby and in parallel workers.
 *
 * Both tables are always read under one snapshot, so that a table key and the
 * data keys wrapped by it fit together even while a key switch commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "compat.h"
#include "keys/internal.h"

enum
{
	Anum_table_key_id = 1,
	Anum_table_key_relid,
	Anum_table_key_version,
	Anum_table_key_server,
	Anum_table_key_key_id,
	Anum_table_key_key_version,
	Anum_table_key_blob,
	Anum_table_key_created_at,
	Anum_table_key_sealed_by,
	Anum_table_key_sealed,
	Natts_table_key = Anum_table_key_sealed
};

enum
{
	Anum_data_key_id = 1,
	Anum_data_key_relid,
	Anum_data_key_kind,
	Anum_data_key_structure,
	Anum_data_key_generation,
	Anum_data_key_table_key,
	Anum_data_key_wrapped,
	Anum_data_key_format,
	Anum_data_key_current,
	Anum_data_key_created_at,
	Anum_data_key_index,
	Anum_data_key_hide_tids,
	Natts_data_key = Anum_data_key_hide_tids
};

/* OIDs of our tables in this database, looked up when they are not known */
typedef struct CatalogOids
{
	bool		known;
	Oid			table_key;
	Oid			table_key_by_id;
	Oid			table_key_by_relid;
	Oid			table_key_by_server;	/* or none: then without an index */
	Oid			data_key;
	Oid			data_key_by_relid;
	Oid			data_key_id;	/* the sequence */
} CatalogOids;

static CatalogOids oids;
static bool written = false;

/* Forget the OIDs when one of the tables changes. */
static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == oids.table_key ||
		relid == oids.data_key)
		oids.known = false;
}

/* The mark is for one transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		written = false;
}

/*
 * Register callbacks; called once in each process, before those that ask
 * cmek_catalog_written() at the end of a transaction are: the list of
 * callbacks is worked off from its end.
 */
void
cmek_catalog_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	RegisterXactCallback(at_xact_end, NULL);
}

/* Did this transaction write key rows? */
bool
cmek_catalog_written(void)
{
	return written;
}

/*
 * Find our tables; false when the extension is not in this database.  Tables
 * of these names that are not the extension's do not count.
 */
static bool
find_catalogs(void)
{
	CatalogOids found = {0};

	if (oids.known)
		return true;
	found.table_key = cmek_find_relation("table_key");
	found.table_key_by_id = cmek_find_relation("table_key_pkey");
	found.table_key_by_relid = cmek_find_relation("table_key_relid_version");
	found.table_key_by_server = cmek_find_relation("table_key_server");
	found.data_key = cmek_find_relation("data_key");
	found.data_key_by_relid = cmek_find_relation("data_key_relid");
	found.data_key_id = cmek_find_relation("data_key_id");
	if (!cmek_has_columns(found.table_key, Natts_table_key) ||
		!OidIsValid(found.table_key_by_id) ||
		!OidIsValid(found.table_key_by_relid) ||
		!cmek_has_columns(found.data_key, Natts_data_key) ||
		!OidIsValid(found.data_key_by_relid) ||
		!OidIsValid(found.data_key_id))
		return false;
	if (getExtensionOfObject(RelationRelationId, found.table_key) !=
		get_extension_oid("cmek", true))
		return false;
	found.known = true;
	oids = found;
	return true;
}

/* Find our tables, or fail. */
static void
require_catalogs(void)
{
	if (!find_catalogs())
		cmek_report_missing_objects();
}

/* A registered snapshot to read both tables with. */
static Snapshot
begin_reading(void)
{
	return RegisterSnapshot(GetCatalogSnapshot(oids.table_key));
}

/* Begin a scan for the rows of a table; relid is column 2 of both. */
static SysScanDesc
scan_relid(Relation rel, Oid index, Oid relid, Snapshot snapshot)
{
	ScanKeyData key;

	/* the index's first column, named by its number in the table */
	ScanKeyInit(&key, Anum_table_key_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	StaticAssertStmt((int) Anum_table_key_relid == (int) Anum_data_key_relid,
					 "relid is the same column of both tables");
	return cmek_key_scan(rel, index, true, snapshot, 1, &key);
}

/* Copy a bytea of at most "max" bytes; returns its length. */
static uint32
get_bytes(HeapTuple tuple, int attnum, TupleDesc desc, uint8 *out, uint32 max)
{
	bytea	   *value = DatumGetByteaPP(cmek_key_attr(tuple, attnum, desc));
	uint32		len = VARSIZE_ANY_EXHDR(value);

	if (len > max)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("wrapped key of %u bytes in a table of cmek", len),
				 errdetail("At most %u bytes were expected.", max)));
	memcpy(out, VARDATA_ANY(value), len);
	return len;
}

/* Copy a text into a buffer. */
static void
get_string(HeapTuple tuple, int attnum, TupleDesc desc, char *out, Size size)
{
	strlcpy(out, TextDatumGetCString(cmek_key_attr(tuple, attnum, desc)), size);
}

/* Copy a uuid. */
static void
get_uuid(HeapTuple tuple, int attnum, TupleDesc desc, uint8 *out)
{
	memcpy(out, DatumGetUUIDP(cmek_key_attr(tuple, attnum, desc))->data,
		   CMEK_UUID_LEN);
}

/* A uuid as a Datum that points to the bytes given. */
static Datum
uuid_datum(const uint8 *uuid)
{
	return UUIDPGetDatum((pg_uuid_t *) unconstify(uint8 *, uuid));
}

/* Read how a table key is sealed under the one that followed it. */
static void
read_seal(HeapTuple tuple, TupleDesc desc, CmekTableKeyRow *row)
{
	row->is_sealed = !heap_attisnull(tuple, Anum_table_key_sealed, desc);
	if (!row->is_sealed)
		return;
	get_uuid(tuple, Anum_table_key_sealed_by, desc, row->sealed_by);
	if (get_bytes(tuple, Anum_table_key_sealed, desc,
				  row->sealed, sizeof(row->sealed)) != sizeof(row->sealed))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("version %d of the key of table \"%s\" is damaged",
						row->version, get_rel_name(row->relid))));
}

/* Take a row of cmek.table_key apart. */
static void
read_table_key(HeapTuple tuple, TupleDesc desc, CmekTableKeyRow *row)
{
	get_uuid(tuple, Anum_table_key_id, desc, row->id);
	row->relid = DatumGetObjectId(cmek_key_attr(tuple, Anum_table_key_relid, desc));
	row->version = DatumGetInt32(cmek_key_attr(tuple, Anum_table_key_version, desc));
	strlcpy(row->server,
			NameStr(*DatumGetName(cmek_key_attr(tuple, Anum_table_key_server, desc))),
			sizeof(row->server));
	get_string(tuple, Anum_table_key_key_id, desc,
			   row->key_id, sizeof(row->key_id));
	get_string(tuple, Anum_table_key_key_version, desc,
			   row->key_version, sizeof(row->key_version));
	row->blob_len = get_bytes(tuple, Anum_table_key_blob, desc,
							  row->blob, sizeof(row->blob));
	read_seal(tuple, desc, row);
}

/* Take a row of cmek.data_key apart. */
static void
read_data_key(HeapTuple tuple, TupleDesc desc, CmekDataKeyRow *row)
{
	int16		format = DatumGetInt16(cmek_key_attr(tuple, Anum_data_key_format, desc));

	row->id = DatumGetInt32(cmek_key_attr(tuple, Anum_data_key_id, desc));
	if (format != CMEK_FORMAT_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data key %u has format %d, which this version of cmek cannot read",
						row->id, format)));
	row->relid = DatumGetObjectId(cmek_key_attr(tuple, Anum_data_key_relid, desc));
	row->kind = DatumGetChar(cmek_key_attr(tuple, Anum_data_key_kind, desc));
	get_uuid(tuple, Anum_data_key_structure, desc, row->structure);
	row->generation = DatumGetInt32(cmek_key_attr(tuple, Anum_data_key_generation, desc));
	get_uuid(tuple, Anum_data_key_table_key, desc, row->table_key);
	row->current = DatumGetBool(cmek_key_attr(tuple, Anum_data_key_current, desc));
	row->created_at = DatumGetTimestampTz(cmek_key_attr(tuple, Anum_data_key_created_at, desc));
	row->index = DatumGetObjectId(cmek_key_attr(tuple, Anum_data_key_index, desc));
	row->hide_tids = DatumGetBool(cmek_key_attr(tuple, Anum_data_key_hide_tids, desc));
	if (get_bytes(tuple, Anum_data_key_wrapped, desc,
				  row->wrapped, sizeof(row->wrapped)) != sizeof(row->wrapped))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("data key %u is damaged", row->id)));
}

/* Read the newest table key of a table; false when it has none. */
static bool
read_newest_table_key(Oid relid, Snapshot snapshot, CmekTableKeyRow *row)
{
	Relation	rel = table_open(oids.table_key, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = scan_relid(rel, oids.table_key_by_relid, relid, snapshot);
	bool		found = false;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		int32		version = DatumGetInt32(cmek_key_attr(tuple,
													 Anum_table_key_version,
													 desc));

		if (!found || version > row->version)
			read_table_key(tuple, desc, row);
		found = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Read all data keys of a table. */
static void
read_data_keys(Oid relid, Snapshot snapshot, CmekBinding *binding)
{
	Relation	rel = table_open(oids.data_key, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = scan_relid(rel, oids.data_key_by_relid, relid, snapshot);
	int			room = 8;
	HeapTuple	tuple;

	binding->ndeks = 0;
	binding->deks = palloc(room * sizeof(CmekDataKeyRow));
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		if (binding->ndeks == room)
		{
			room *= 2;
			binding->deks = repalloc(binding->deks,
									 room * sizeof(CmekDataKeyRow));
		}
		read_data_key(tuple, desc, &binding->deks[binding->ndeks++]);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* The keys of a table, in the current memory context; NULL when unbound. */
CmekBinding *
cmek_catalog_read(Oid relid)
{
	CmekBinding *binding = palloc0(sizeof(CmekBinding));
	Snapshot	snapshot;
	bool		found;

	if (!find_catalogs())
	{
		if (OidIsValid(get_extension_oid("cmek", true)))
			cmek_report_missing_objects();
		return NULL;
	}
	snapshot = begin_reading();
	found = read_newest_table_key(relid, snapshot, &binding->table_key);
	if (found)
		read_data_keys(relid, snapshot, binding);
	UnregisterSnapshot(snapshot);
	return found ? binding : NULL;
}

/* Is a row still that of the newest table key of its table? */
bool
cmek_catalog_is_newest(const CmekTableKeyRow *row)
{
	CmekTableKeyRow *now = palloc(sizeof(CmekTableKeyRow));
	Snapshot	snapshot;
	bool		same;

	require_catalogs();
	snapshot = begin_reading();
	same = read_newest_table_key(row->relid, snapshot, now) &&
		memcmp(now->id, row->id, CMEK_UUID_LEN) == 0;
	UnregisterSnapshot(snapshot);
	pfree(now);
	return same;
}

/* All table keys of a table, in no order, as a list of CmekTableKeyRow. */
List *
cmek_catalog_read_table_keys(Oid relid)
{
	List	   *rows = NIL;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	require_catalogs();
	rel = table_open(oids.table_key, AccessShareLock);
	scan = scan_relid(rel, oids.table_key_by_relid, relid, NULL);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));

		read_table_key(tuple, RelationGetDescr(rel), row);
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return rows;
}

/* The table key of a uuid, whatever table it belongs to; false: none. */
static bool
find_table_key(const uint8 *id, CmekTableKeyRow *row)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		found;

	require_catalogs();
	ScanKeyInit(&key, Anum_table_key_id, BTEqualStrategyNumber, F_UUID_EQ,
				uuid_datum(id));
	rel = table_open(oids.table_key, AccessShareLock);
	scan = cmek_key_scan(rel, oids.table_key_by_id, true, NULL, 1, &key);
	tuple = cmek_next_row(scan, rel);
	found = HeapTupleIsValid(tuple);
	if (found)
		read_table_key(tuple, RelationGetDescr(rel), row);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Is there a table key of this uuid? */
bool
cmek_catalog_table_key_exists(const uint8 *id)
{
	CmekTableKeyRow row;

	return find_table_key(id, &row);
}

/* See internal.h. */
List *
cmek_catalog_read_newer(const uint8 *id)
{
	CmekTableKeyRow row;
	List	   *newer = NIL;
	ListCell   *lc;

	if (!find_table_key(id, &row))
		return NIL;
	foreach(lc, cmek_catalog_read_table_keys(row.relid))
	{
		CmekTableKeyRow *other = lfirst(lc);

		if (other->version >= row.version)
			newer = lappend(newer, other);
	}
	return newer;
}

/* Does a table have a table key? */
bool
cmek_catalog_bound(Oid relid)
{
	Relation	rel;
	SysScanDesc scan;
	bool		found;

	if (!find_catalogs())
		return false;
	rel = table_open(oids.table_key, AccessShareLock);
	scan = scan_relid(rel, oids.table_key_by_relid, relid, NULL);
	found = HeapTupleIsValid(cmek_next_row(scan, rel));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * A KMS key version that wrapped any key of this database under a server; ""
 * when there is none.  CMEK_KMS_MAX_KEY_ID bytes.
 */
void
cmek_catalog_server_version(const char *server, char *version)
{
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
	ScanKeyData key;
	NameData	name;
	HeapTuple	tuple;

	require_catalogs();
	namestrcpy(&name, server);
	version[0] = '\0';
	ScanKeyInit(&key, Anum_table_key_server, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&name));
	snapshot = begin_reading();
	rel = table_open(oids.table_key, AccessShareLock);
	scan = cmek_key_scan(rel, oids.table_key_by_server,
						 OidIsValid(oids.table_key_by_server), snapshot,
						 1, &key);
	/* other tables' damaged rows are no reason not to make a key */
	while (version[0] == '\0' &&
		   HeapTupleIsValid(tuple = cmek_key_scan_next(scan)))
		if (cmek_row_is_whole(rel, tuple))
			get_string(tuple, Anum_table_key_key_version,
					   RelationGetDescr(rel), version, CMEK_KMS_MAX_KEY_ID);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	UnregisterSnapshot(snapshot);
}

/* An id for a new data key, never given out before. */
uint32
cmek_catalog_new_dek_id(void)
{
	require_catalogs();
	return (uint32) nextval_internal(oids.data_key_id, false);
}

/* Bytes as a bytea Datum. */
static Datum
bytes_datum(const uint8 *bytes, uint32 len)
{
	bytea	   *value = palloc(VARHDRSZ + len);

	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), bytes, len);
	return PointerGetDatum(value);
}

/* How many columns the rows that we write have */
static int
natts_of(Oid catalog)
{
	return catalog == oids.table_key ? Natts_table_key : Natts_data_key;
}

/* Replace some columns of one row. */
static void
update_row(Relation rel, HeapTuple tuple, Datum *values, bool *nulls,
		   bool *replaces)
{
	HeapTuple	copy;

	cmek_require_columns(rel, natts_of(RelationGetRelid(rel)));
	copy = heap_modify_tuple(tuple, RelationGetDescr(rel),
							 values, nulls, replaces);
	CatalogTupleUpdate(rel, &copy->t_self, copy);
	heap_freetuple(copy);
}

/* Form and insert a row. */
static void
insert_row(Oid catalog, Datum *values, bool *nulls)
{
	Relation	rel = table_open(catalog, RowExclusiveLock);
	HeapTuple	tuple;

	cmek_require_columns(rel, natts_of(catalog));
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	written = true;
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* The seal of a table key, or NULLs. */
static void
put_seal(const CmekTableKeyRow *row, Datum *values, bool *nulls)
{
	nulls[Anum_table_key_sealed_by - 1] = !row->is_sealed;
	nulls[Anum_table_key_sealed - 1] = !row->is_sealed;
	if (!row->is_sealed)
		return;
	values[Anum_table_key_sealed_by - 1] = uuid_datum(row->sealed_by);
	values[Anum_table_key_sealed - 1] = bytes_datum(row->sealed,
													sizeof(row->sealed));
}

/* Store a table key. */
void
cmek_catalog_insert_table_key(const CmekTableKeyRow *row)
{
	Datum		values[Natts_table_key];
	bool		nulls[Natts_table_key] = {false};
	NameData	server;

	require_catalogs();
	namestrcpy(&server, row->server);
	values[Anum_table_key_id - 1] = uuid_datum(row->id);
	values[Anum_table_key_relid - 1] = ObjectIdGetDatum(row->relid);
	values[Anum_table_key_version - 1] = Int32GetDatum(row->version);
	values[Anum_table_key_server - 1] = NameGetDatum(&server);
	values[Anum_table_key_key_id - 1] = CStringGetTextDatum(row->key_id);
	values[Anum_table_key_key_version - 1] = CStringGetTextDatum(row->key_version);
	values[Anum_table_key_blob - 1] = bytes_datum(row->blob, row->blob_len);
	values[Anum_table_key_created_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	put_seal(row, values, nulls);
	insert_row(oids.table_key, values, nulls);
}

/* Store in the row of a table key what it is sealed with now. */
void
cmek_catalog_seal_table_key(const CmekTableKeyRow *row)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		done = false;

	require_catalogs();
	written = true;
	rel = table_open(oids.table_key, RowExclusiveLock);
	scan = scan_relid(rel, oids.table_key_by_relid, row->relid, NULL);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		Datum		values[Natts_table_key] = {0};
		bool		nulls[Natts_table_key] = {false};
		bool		replaces[Natts_table_key] = {false};

		if (DatumGetInt32(cmek_key_attr(tuple, Anum_table_key_version,
								   RelationGetDescr(rel))) != row->version)
			continue;
		put_seal(row, values, nulls);
		replaces[Anum_table_key_sealed_by - 1] = true;
		replaces[Anum_table_key_sealed - 1] = true;
		update_row(rel, tuple, values, nulls, replaces);
		done = true;
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	if (!done)
		elog(ERROR, "version %d of the key of table %u is gone",
			 row->version, row->relid);
	CommandCounterIncrement();
}

/* Store a data key. */
void
cmek_catalog_insert_data_key(const CmekDataKeyRow *row)
{
	Datum		values[Natts_data_key];
	bool		nulls[Natts_data_key] = {false};

	require_catalogs();
	values[Anum_data_key_id - 1] = Int32GetDatum((int32) row->id);
	values[Anum_data_key_relid - 1] = ObjectIdGetDatum(row->relid);
	values[Anum_data_key_kind - 1] = CharGetDatum((char) row->kind);
	values[Anum_data_key_structure - 1] = uuid_datum(row->structure);
	values[Anum_data_key_generation - 1] = Int32GetDatum(row->generation);
	values[Anum_data_key_table_key - 1] = uuid_datum(row->table_key);
	values[Anum_data_key_wrapped - 1] = bytes_datum(row->wrapped,
													sizeof(row->wrapped));
	values[Anum_data_key_format - 1] = Int16GetDatum(CMEK_FORMAT_VERSION);
	values[Anum_data_key_current - 1] = BoolGetDatum(row->current);
	values[Anum_data_key_created_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_data_key_index - 1] = ObjectIdGetDatum(row->index);
	values[Anum_data_key_hide_tids - 1] = BoolGetDatum(row->hide_tids);
	cmek_seals_insert(row->id);
	insert_row(oids.data_key, values, nulls);
}

/* Replace the wrapping in one row. */
static void
rewrap_row(Relation rel, HeapTuple tuple, const CmekDataKeyRow *row)
{
	Datum		values[Natts_data_key] = {0};
	bool		nulls[Natts_data_key] = {false};
	bool		replaces[Natts_data_key] = {false};

	values[Anum_data_key_table_key - 1] = uuid_datum(row->table_key);
	replaces[Anum_data_key_table_key - 1] = true;
	values[Anum_data_key_wrapped - 1] = bytes_datum(row->wrapped,
													sizeof(row->wrapped));
	replaces[Anum_data_key_wrapped - 1] = true;
	update_row(rel, tuple, values, nulls, replaces);
}

/* Store the new wrapping of data keys of a table. */
void
cmek_catalog_rewrap_data_keys(Oid relid, const CmekDataKeyRow *rows, int nrows)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			done = 0;

	require_catalogs();
	written = true;
	rel = table_open(oids.data_key, RowExclusiveLock);
	scan = scan_relid(rel, oids.data_key_by_relid, relid, NULL);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		uint32		id = DatumGetInt32(cmek_key_attr(tuple, Anum_data_key_id,
												RelationGetDescr(rel)));

		for (int i = 0; i < nrows; i++)
			if (rows[i].id == id)
			{
				rewrap_row(rel, tuple, &rows[i]);
				done++;
			}
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	if (done != nrows)
		elog(ERROR, "rewrapped %d of %d data keys of table %u",
			 done, nrows, relid);
	CommandCounterIncrement();
}

/* Let one data key be current no more. */
static void
supersede_row(Relation rel, HeapTuple tuple)
{
	Datum		values[Natts_data_key] = {0};
	bool		nulls[Natts_data_key] = {false};
	bool		replaces[Natts_data_key] = {false};

	values[Anum_data_key_current - 1] = BoolGetDatum(false);
	replaces[Anum_data_key_current - 1] = true;
	update_row(rel, tuple, values, nulls, replaces);
}

/*
 * Let the data keys of a table be current no more: new ones are to come.  Those
 * of indexes have no successors.
 */
void
cmek_catalog_supersede_data_keys(Oid relid)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	require_catalogs();
	written = true;
	rel = table_open(oids.data_key, RowExclusiveLock);
	scan = scan_relid(rel, oids.data_key_by_relid, relid, NULL);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
		if (DatumGetBool(cmek_key_attr(tuple, Anum_data_key_current,
								  RelationGetDescr(rel))) &&
			DatumGetChar(cmek_key_attr(tuple, Anum_data_key_kind,
								  RelationGetDescr(rel))) != CMEK_STRUCTURE_INDEX)
			supersede_row(rel, tuple);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Delete some data keys of a table; never a current one. */
void
cmek_catalog_delete_data_keys(Oid relid, List *dek_ids)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	require_catalogs();
	written = true;
	rel = table_open(oids.data_key, RowExclusiveLock);
	scan = scan_relid(rel, oids.data_key_by_relid, relid, NULL);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		uint32		id = DatumGetInt32(cmek_key_attr(tuple, Anum_data_key_id, desc));

		if (!list_member_oid(dek_ids, id) ||
			DatumGetBool(cmek_key_attr(tuple, Anum_data_key_current, desc)))
			continue;
		cmek_seals_delete(id);
		CatalogTupleDelete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* What is to be done with the data key of an index? */
typedef enum IndexKeyChange
{
	INDEX_KEY_LOOK,
	INDEX_KEY_DELETE,
	INDEX_KEY_MOVE				/* to another index */
} IndexKeyChange;

/* Do it with one row. */
static void
change_index_key(Relation rel, HeapTuple tuple, IndexKeyChange change, Oid to)
{
	Datum		values[Natts_data_key] = {0};
	bool		nulls[Natts_data_key] = {false};
	bool		replaces[Natts_data_key] = {false};

	switch (change)
	{
		case INDEX_KEY_LOOK:
			break;
		case INDEX_KEY_DELETE:
			cmek_seals_delete(DatumGetInt32(cmek_key_attr(tuple, Anum_data_key_id,
													 RelationGetDescr(rel))));
			CatalogTupleDelete(rel, &tuple->t_self);
			break;
		case INDEX_KEY_MOVE:
			values[Anum_data_key_index - 1] = ObjectIdGetDatum(to);
			replaces[Anum_data_key_index - 1] = true;
			update_row(rel, tuple, values, nulls, replaces);
			break;
	}
}

/* Do it with all rows of an index; are there any? */
static bool
change_index_keys(Oid relid, Oid index, IndexKeyChange change, Oid to)
{
	LOCKMODE	lock = change == INDEX_KEY_LOOK ? AccessShareLock : RowExclusiveLock;
	bool		found = false;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!find_catalogs())
		return false;
	rel = table_open(oids.data_key, lock);
	scan = scan_relid(rel, oids.data_key_by_relid, relid, NULL);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		if (DatumGetObjectId(cmek_key_attr(tuple, Anum_data_key_index,
									  RelationGetDescr(rel))) != index)
			continue;
		found = true;
		change_index_key(rel, tuple, change, to);
	}
	systable_endscan(scan);
	table_close(rel, lock);
	if (found && change != INDEX_KEY_LOOK)
	{
		written = true;
		CommandCounterIncrement();
	}
	return found;
}

/* Delete the data keys of an index. */
void
cmek_catalog_delete_index_keys(Oid relid, Oid index)
{
	(void) change_index_keys(relid, index, INDEX_KEY_DELETE, InvalidOid);
}

/* Let the data key of an index be that of another, which took over its file. */
void
cmek_catalog_move_index_key(Oid relid, Oid from, Oid to)
{
	(void) change_index_keys(relid, from, INDEX_KEY_MOVE, to);
}

/* Has an index a data key? */
bool
cmek_catalog_has_index_key(Oid relid, Oid index)
{
	return change_index_keys(relid, index, INDEX_KEY_LOOK, InvalidOid);
}

/* Delete the rows of a table in one of our tables. */
static void
delete_rows(Oid catalog, Oid index, Oid relid, List **servers)
{
	Relation	rel = table_open(catalog, RowExclusiveLock);
	SysScanDesc scan = scan_relid(rel, index, relid, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = cmek_key_scan_next(scan)))
	{
		/* a damaged row must not keep its table from being dropped */
		if (!cmek_row_is_whole(rel, tuple))
			ereport(WARNING,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a damaged row of table \"cmek.%s\" is deleted",
							RelationGetRelationName(rel))));
		else if (servers != NULL)
		{
			CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));

			read_table_key(tuple, RelationGetDescr(rel), row);
			cmek_table_key_forget(row->id, true);
			*servers = lappend(*servers, pstrdup(row->server));
			pfree(row);
		}
		else
			cmek_seals_delete(DatumGetInt32(cmek_key_attr(tuple, Anum_data_key_id,
													 RelationGetDescr(rel))));
		CatalogTupleDelete(rel, &tuple->t_self);
		written = true;
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
}

/*
 * Delete all key rows of a table.  Returns the names of the servers that they
 * named.  Does nothing when the extension itself is being dropped.
 */
List *
cmek_catalog_delete(Oid relid)
{
	List	   *servers = NIL;

	if (!find_catalogs())
		return NIL;
	cmek_replica_delete(relid, NULL, NIL);
	delete_rows(oids.data_key, oids.data_key_by_relid, relid, NULL);
	delete_rows(oids.table_key, oids.table_key_by_relid, relid, &servers);
	CommandCounterIncrement();
	return servers;
}

/* A server was renamed: so it is in the key rows. */
void
cmek_catalog_rename_server(const char *oldname, const char *newname)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	NameData	from;
	NameData	to;
	HeapTuple	tuple;

	if (!find_catalogs())
		return;
	namestrcpy(&from, oldname);
	namestrcpy(&to, newname);
	ScanKeyInit(&key, Anum_table_key_server, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&from));
	rel = table_open(oids.table_key, RowExclusiveLock);
	scan = cmek_key_scan(rel, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = cmek_next_row(scan, rel)))
	{
		Datum		values[Natts_table_key] = {0};
		bool		nulls[Natts_table_key] = {false};
		bool		replaces[Natts_table_key] = {false};

		values[Anum_table_key_server - 1] = NameGetDatum(&to);
		replaces[Anum_table_key_server - 1] = true;
		update_row(rel, tuple, values, nulls, replaces);
		CacheInvalidateRelcacheByRelid(DatumGetObjectId(
														cmek_key_attr(tuple,
																 Anum_table_key_relid,
																 RelationGetDescr(rel))));
		written = true;
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}
