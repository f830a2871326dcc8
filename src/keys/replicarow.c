/*-------------------------------------------------------------------------
 *
 * replicarow.c
 *	  Rows of cmek.table_key_replica: the newest table key of a table, wrapped
 *	  by other KMS keys than its first one.
 *
 * The only file that knows the columns of this table.  A row has a uuid of its
 * own, which is the context of its blob and its name in the cache, so that a
 * lease on it is worth what its own KMS key is worth.  Read and written as the
 * rows of catalog.c are; a database whose SQL objects are older has none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "compat.h"
#include "keys/internal.h"

enum
{
	Anum_replica_id = 1,
	Anum_replica_table_key,
	Anum_replica_relid,
	Anum_replica_server,
	Anum_replica_key_id,
	Anum_replica_key_version,
	Anum_replica_blob,
	Anum_replica_created_at,
	Natts_replica = Anum_replica_created_at
};

/* A scan for the rows of one table */
typedef struct ReplicaScan
{
	Relation	rel;			/* NULL: there is no such catalog */
	SysScanDesc scan;
} ReplicaScan;

/* Begin a scan for the rows of a table. */
static void
begin_scan(ReplicaScan *s, Oid relid, LOCKMODE lockmode)
{
	Oid			table = cmek_find_relation("table_key_replica");
	Oid			index = cmek_find_relation("table_key_replica_relid");
	ScanKeyData key;

	s->rel = NULL;
	if (!OidIsValid(index) || !cmek_has_columns(table, Natts_replica))
		return;
	ScanKeyInit(&key, Anum_replica_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	s->rel = table_open(table, lockmode);
	s->scan = cmek_key_scan(s->rel, index, true, NULL, 1, &key);
}

/* The next row; NULL when there is none. */
static HeapTuple
next_row(ReplicaScan *s)
{
	return s->rel != NULL ? cmek_next_row(s->scan, s->rel) : NULL;
}

/* End it. */
static void
end_scan(ReplicaScan *s, LOCKMODE lockmode)
{
	if (s->rel == NULL)
		return;
	systable_endscan(s->scan);
	table_close(s->rel, lockmode);
}

/* One column; none of them can be NULL. */
static Datum
get_column(const ReplicaScan *s, HeapTuple tuple, int attnum)
{
	return cmek_key_attr(tuple, attnum, RelationGetDescr(s->rel));
}

/* The uuid of the table key that a row is of. */
static const uint8 *
table_key_of(const ReplicaScan *s, HeapTuple tuple)
{
	return DatumGetUUIDP(get_column(s, tuple, Anum_replica_table_key))->data;
}

/* The server that a row names. */
static const char *
server_of(const ReplicaScan *s, HeapTuple tuple)
{
	return NameStr(*DatumGetName(get_column(s, tuple, Anum_replica_server)));
}

/* Take a row apart. */
static CmekTableKeyRow *
read_row(const ReplicaScan *s, HeapTuple tuple)
{
	CmekTableKeyRow *row = palloc0(sizeof(CmekTableKeyRow));
	bytea	   *blob = DatumGetByteaPP(get_column(s, tuple, Anum_replica_blob));

	memcpy(row->id, DatumGetUUIDP(get_column(s, tuple, Anum_replica_id))->data,
		   CMEK_UUID_LEN);
	row->relid = DatumGetObjectId(get_column(s, tuple, Anum_replica_relid));
	strlcpy(row->server, server_of(s, tuple), sizeof(row->server));
	strlcpy(row->key_id,
			TextDatumGetCString(get_column(s, tuple, Anum_replica_key_id)),
			sizeof(row->key_id));
	strlcpy(row->key_version,
			TextDatumGetCString(get_column(s, tuple, Anum_replica_key_version)),
			sizeof(row->key_version));
	row->blob_len = VARSIZE_ANY_EXHDR(blob);
	if (row->blob_len > sizeof(row->blob))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("wrapped key of %u bytes in a table of cmek",
						row->blob_len)));
	memcpy(row->blob, VARDATA_ANY(blob), row->blob_len);
	return row;
}

/* See internal.h. */
List *
cmek_replica_rows(Oid relid, const uint8 *table_key)
{
	List	   *rows = NIL;
	ReplicaScan s;
	HeapTuple	tuple;

	begin_scan(&s, relid, AccessShareLock);
	while (HeapTupleIsValid(tuple = next_row(&s)))
		if (table_key == NULL ||
			memcmp(table_key_of(&s, tuple), table_key, CMEK_UUID_LEN) == 0)
			rows = lappend(rows, read_row(&s, tuple));
	end_scan(&s, AccessShareLock);
	return rows;
}

/* A uuid as a Datum that points to the bytes given. */
static Datum
uuid_datum(const uint8 *uuid)
{
	return UUIDPGetDatum((pg_uuid_t *) unconstify(uint8 *, uuid));
}

/* See internal.h. */
void
cmek_replica_insert(const CmekTableKeyRow *row, const uint8 *table_key)
{
	Relation	rel = table_open(cmek_require_relation("table_key_replica"),
								 RowExclusiveLock);
	Datum		values[Natts_replica];
	bool		nulls[Natts_replica] = {false};
	bytea	   *blob = palloc(VARHDRSZ + row->blob_len);
	NameData	server;

	cmek_require_columns(rel, Natts_replica);
	SET_VARSIZE(blob, VARHDRSZ + row->blob_len);
	memcpy(VARDATA(blob), row->blob, row->blob_len);
	namestrcpy(&server, row->server);
	values[Anum_replica_id - 1] = uuid_datum(row->id);
	values[Anum_replica_table_key - 1] = uuid_datum(table_key);
	values[Anum_replica_relid - 1] = ObjectIdGetDatum(row->relid);
	values[Anum_replica_server - 1] = NameGetDatum(&server);
	values[Anum_replica_key_id - 1] = CStringGetTextDatum(row->key_id);
	values[Anum_replica_key_version - 1] = CStringGetTextDatum(row->key_version);
	values[Anum_replica_blob - 1] = PointerGetDatum(blob);
	values[Anum_replica_created_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* See internal.h. */
void
cmek_replica_delete(Oid relid, const uint8 *keep, List *servers)
{
	ReplicaScan s;
	HeapTuple	tuple;

	begin_scan(&s, relid, RowExclusiveLock);
	while (s.rel != NULL &&
		   HeapTupleIsValid(tuple = cmek_key_scan_next(s.scan)))
	{
		/* a damaged row must not keep its table from being dropped */
		bool		whole = cmek_row_is_whole(s.rel, tuple);
		bool		wanted = false;
		ListCell   *lc;

		if (whole && keep != NULL &&
			memcmp(table_key_of(&s, tuple), keep, CMEK_UUID_LEN) == 0)
			foreach(lc, servers)
				wanted |= strcmp(lfirst(lc), server_of(&s, tuple)) == 0;
		if (wanted)
			continue;
		if (whole)
			cmek_table_key_forget(DatumGetUUIDP(get_column(&s, tuple,
														   Anum_replica_id))->data,
								  true);
		CatalogTupleDelete(s.rel, &tuple->t_self);
	}
	end_scan(&s, RowExclusiveLock);
	CommandCounterIncrement();
}

/* See internal.h. */
void
cmek_replica_rename_server(const char *oldname, const char *newname)
{
	Oid			table = cmek_find_relation("table_key_replica");
	ReplicaScan s;
	ScanKeyData key;
	NameData	from;
	NameData	to;
	HeapTuple	tuple;

	if (!OidIsValid(table))
		return;
	namestrcpy(&from, oldname);
	namestrcpy(&to, newname);
	ScanKeyInit(&key, Anum_replica_server, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&from));
	s.rel = table_open(table, RowExclusiveLock);
	s.scan = cmek_key_scan(s.rel, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = next_row(&s)))
	{
		Datum		values[Natts_replica] = {0};
		bool		nulls[Natts_replica] = {false};
		bool		replaces[Natts_replica] = {false};
		HeapTuple	copy;

		values[Anum_replica_server - 1] = NameGetDatum(&to);
		replaces[Anum_replica_server - 1] = true;
		copy = heap_modify_tuple(tuple, RelationGetDescr(s.rel), values, nulls,
								 replaces);
		CatalogTupleUpdate(s.rel, &copy->t_self, copy);
		CacheInvalidateRelcacheByRelid(DatumGetObjectId(get_column(&s, tuple,
																   Anum_replica_relid)));
	}
	end_scan(&s, RowExclusiveLock);
	CommandCounterIncrement();
}
