/*-------------------------------------------------------------------------
 *
 * store.c
 *	  cmek.statistic: rows of pg_statistic, sealed.
 *
 * The only file that knows the columns of this table, which is read and
 * written as the system does its catalogs.  A row is sealed by the statistics
 * key of its table; what is of many tables (partitions, inheritance children)
 * by one table's key for each KMS key, one around the other: who lacks one of
 * the KMS keys does not open it.  Layout in format.h.
 *
 * Must never write a value anywhere else, and never leaves one in memory that
 * it frees.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "stats/internal.h"

enum
{
	Anum_statistic_relid = 1,
	Anum_statistic_attnum,
	Anum_statistic_inherited,
	Anum_statistic_table,
	Anum_statistic_sealed_by,
	Anum_statistic_sealed,
	Natts_statistic = Anum_statistic_sealed
};

/* Our table and its indexes in this database, while they are looked at */
typedef struct Store
{
	Oid			table;
	Oid			by_name;
	Oid			by_table;
} Store;

/* Find them; false when there is no extension, or one of an earlier release */
static bool
find_store(Store *store)
{
	store->table = cmek_find_relation("statistic");
	if (!OidIsValid(store->table))
		return false;
	store->by_name = cmek_find_relation("statistic_pkey");
	store->by_table = cmek_find_relation("statistic_table");
	return OidIsValid(store->by_name) && OidIsValid(store->by_table);
}

/* See internal.h. */
bool
stats_store_exists(void)
{
	Store		store;

	return find_store(&store);
}

/* Begin a scan by name; attnum 0: all of the relation */
static SysScanDesc
scan_name(const Store *store, Relation rel, const StatsName *name)
{
	ScanKeyData key[3];

	ScanKeyInit(&key[0], Anum_statistic_relid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(name->relid));
	ScanKeyInit(&key[1], Anum_statistic_attnum, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(name->attnum));
	ScanKeyInit(&key[2], Anum_statistic_inherited, BTEqualStrategyNumber,
				F_BOOLEQ, BoolGetDatum(name->inherited));
	return cmek_key_scan(rel, store->by_name, true, NULL,
						 name->attnum == 0 ? 1 : 3, key);
}

/* See internal.h. */
bool
stats_any(Oid relid)
{
	StatsName	name = {relid, 0, false};
	Store		store;
	Relation	rel;
	SysScanDesc scan;
	bool		any;

	if (!find_store(&store))
		return false;
	rel = table_open(store.table, AccessShareLock);
	scan = scan_name(&store, rel, &name);
	any = HeapTupleIsValid(cmek_key_scan_next(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return any;
}

/* The tables whose keys a row is sealed by */
static void
read_tables(HeapTuple tuple, TupleDesc desc, StatsSealed *row)
{
	ArrayType  *array = DatumGetArrayTypePCopy(cmek_key_attr(tuple,
														 Anum_statistic_sealed_by,
														 desc));
	Datum	   *elements;
	bool	   *nulls;

	deconstruct_array(array, OIDOID, sizeof(Oid), true, TYPALIGN_INT,
					  &elements, &nulls, &row->ntables);
	row->tables = palloc(sizeof(Oid) * Max(row->ntables, 1));
	for (int i = 0; i < row->ntables; i++)
		row->tables[i] = nulls[i] ? InvalidOid : DatumGetObjectId(elements[i]);
}

/* Read a row */
static void
read_row(HeapTuple tuple, TupleDesc desc, StatsSealed *row)
{
	row->name.relid = DatumGetObjectId(cmek_key_attr(tuple, Anum_statistic_relid, desc));
	row->name.attnum = DatumGetInt16(cmek_key_attr(tuple, Anum_statistic_attnum, desc));
	row->name.inherited = DatumGetBool(cmek_key_attr(tuple, Anum_statistic_inherited,
												desc));
	read_tables(tuple, desc, row);
	row->bytes = DatumGetByteaPCopy(cmek_key_attr(tuple, Anum_statistic_sealed, desc));
}

/* See internal.h. */
bool
stats_find(const StatsName *name, StatsSealed *found)
{
	Store		store;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!find_store(&store))
		return false;
	rel = table_open(store.table, AccessShareLock);
	scan = scan_name(&store, rel, name);
	tuple = cmek_key_scan_next(scan);
	if (HeapTupleIsValid(tuple))
		read_row(tuple, RelationGetDescr(rel), found);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/* See internal.h. */
List *
stats_list(void)
{
	List	   *rows = NIL;
	Store		store;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!find_store(&store))
		return NIL;
	rel = table_open(store.table, AccessShareLock);
	scan = cmek_key_scan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = cmek_key_scan_next(scan)))
	{
		StatsSealed *row = palloc(sizeof(StatsSealed));

		read_row(tuple, RelationGetDescr(rel), row);
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return rows;
}

/* See internal.h. */
CmekKeyRing *
stats_ring(Oid relid)
{
	return cmek_keyring_acquire_index(relid, get_rel_persistence(relid) ==
									  RELPERSISTENCE_TEMP);
}

/* See internal.h. */
bool
stats_have_keys(const StatsSealed *sealed)
{
	for (int i = 0; i < sealed->ntables; i++)
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(sealed->tables[i])) ||
			(get_rel_persistence(sealed->tables[i]) != RELPERSISTENCE_TEMP &&
			 !cmek_table_is_bound(sealed->tables[i])))
			return false;
	return sealed->ntables > 0;
}

/* The associated data of a layer */
static CmekStatisticAad
layer_aad(const CmekDek *dek, const StatsName *name, int layer)
{
	CmekStatisticAad aad;

	aad.dek_id = dek->id;
	memcpy(aad.structure, dek->structure, CMEK_UUID_LEN);
	aad.relid = name->relid;
	aad.column = name->attnum | (name->inherited ? CMEK_STATISTIC_INHERITED : 0);
	aad.layer = layer;
	return aad;
}

/* Seal the bytes of a layer; what it hides is cleansed and freed */
static bytea *
seal_layer(bytea *plain, Oid table, const StatsName *name, int layer)
{
	CmekDek    *dek = cmek_keyring_take_seal(stats_ring(table),
											 CMEK_STRUCTURE_STATISTICS);
	CmekStatisticAad aad = layer_aad(dek, name, layer);
	Size		len = VARSIZE(plain) - VARHDRSZ;
	bytea	   *sealed = palloc(VARHDRSZ + CMEK_SEAL_OVERHEAD + len);

	SET_VARSIZE(sealed, VARHDRSZ + CMEK_SEAL_OVERHEAD + len);
	memcpy(VARDATA(sealed), &dek->id, sizeof(dek->id));
	cmek_aead_seal(dek->aead, (uint8 *) VARDATA(sealed) + sizeof(dek->id),
				   VARDATA(plain), len, &aad, sizeof(aad));
	cmek_counters.seals++;
	cmek_cleanse(plain, VARSIZE(plain));
	pfree(plain);
	return sealed;
}

/* Open the bytes of a layer; NULL when they do not authenticate */
static bytea *
open_layer(bytea *sealed, Oid table, const StatsName *name, int layer)
{
	CmekStatisticAad aad;
	const CmekDek *dek;
	uint32		id;
	Size		len;
	bytea	   *plain;

	if (VARSIZE(sealed) < VARHDRSZ + CMEK_SEAL_OVERHEAD)
		return NULL;
	memcpy(&id, VARDATA(sealed), sizeof(id));
	dek = cmek_keyring_find(stats_ring(table), CMEK_STRUCTURE_STATISTICS, id);
	if (dek == NULL)
		return NULL;
	aad = layer_aad(dek, name, layer);
	len = VARSIZE(sealed) - VARHDRSZ - CMEK_SEAL_OVERHEAD;
	plain = palloc(VARHDRSZ + len);
	SET_VARSIZE(plain, VARHDRSZ + len);
	if (!cmek_aead_open(dek->aead, VARDATA(plain),
						(uint8 *) VARDATA(sealed) + sizeof(id), len,
						&aad, sizeof(aad)))
	{
		pfree(plain);
		return NULL;
	}
	cmek_counters.unseals++;
	return plain;
}

/* What the header has to say of a column as it is now */
static CmekStatisticHeader
column_header(const StatsName *name)
{
	CmekStatisticHeader header;
	Oid			type;
	Oid			collation;

	get_atttypetypmodcoll(name->relid, name->attnum, &type, &header.typmod,
						  &collation);
	header.server_version = CMEK_SERVER_MAJOR;
	header.type = type;
	header.collation = collation;
	return header;
}

/* Is the column one that has been dropped, or never was? */
static bool
column_is_gone(const StatsName *name)
{
	char	   *attname = get_attname(name->relid, name->attnum, true);

	if (attname == NULL)
		return true;
	pfree(attname);
	return false;
}

/* The row inside of the last layer; NULL when it is not of this column */
static HeapTuple
row_of_bytes(bytea *plain, const StatsName *name)
{
	CmekStatisticHeader header;
	CmekStatisticHeader wanted;
	Size		len = VARSIZE(plain) - VARHDRSZ;
	HeapTuple	row;

	if (len < sizeof(header) + SizeofHeapTupleHeader || column_is_gone(name))
		return NULL;
	memcpy(&header, VARDATA(plain), sizeof(header));
	wanted = column_header(name);
	if (memcmp(&header, &wanted, sizeof(header)) != 0)
		return NULL;
	len -= sizeof(header);
	row = palloc(HEAPTUPLESIZE + len);
	row->t_len = len;
	ItemPointerSetInvalid(&row->t_self);
	row->t_tableOid = InvalidOid;
	row->t_data = (HeapTupleHeader) ((char *) row + HEAPTUPLESIZE);
	memcpy(row->t_data, VARDATA(plain) + sizeof(header), len);
	return row;
}

/* The bytes inside of all layers; NULL when one does not open */
static bytea *
open_layers(const StatsSealed *sealed)
{
	bytea	   *bytes = sealed->ntables > 0 ? sealed->bytes : NULL;

	for (int i = 0; i < sealed->ntables && bytes != NULL; i++)
	{
		bytea	   *inner = open_layer(bytes, sealed->tables[i], &sealed->name, i);

		if (bytes != sealed->bytes)
			pfree(bytes);
		bytes = inner;
	}
	return bytes;
}

/*
 * A row did not open.  If it was replaced since it was read, with the key that
 * sealed it gone, look at the new one; else say so.  False: there is none.
 */
static bool
read_again(StatsSealed *sealed)
{
	StatsSealed now;

	if (!stats_find(&sealed->name, &now))
		return false;
	if (VARSIZE(now.bytes) == VARSIZE(sealed->bytes) &&
		memcmp(now.bytes, sealed->bytes, VARSIZE(now.bytes)) == 0)
	{
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("sealed statistics of column %d of relation %u do not open and are ignored",
						sealed->name.attnum, sealed->name.relid),
				 errhint("ANALYZE makes new ones.")));
		return false;
	}
	*sealed = now;
	return stats_have_keys(sealed);
}

/* See internal.h. */
HeapTuple
stats_open(StatsSealed *sealed)
{
	bytea	   *bytes;
	HeapTuple	row;

	while ((bytes = open_layers(sealed)) == NULL)
		if (!read_again(sealed))
			return NULL;
	row = row_of_bytes(bytes, &sealed->name);
	cmek_cleanse(bytes, VARSIZE(bytes));
	pfree(bytes);
	return row;
}

/* Seal a row, the innermost layer first */
static bytea *
seal_row(const StatsName *name, const Oid *tables, int ntables, HeapTuple row)
{
	CmekStatisticHeader header = column_header(name);
	bytea	   *bytes = palloc(VARHDRSZ + sizeof(header) + row->t_len);

	SET_VARSIZE(bytes, VARHDRSZ + sizeof(header) + row->t_len);
	memcpy(VARDATA(bytes), &header, sizeof(header));
	memcpy(VARDATA(bytes) + sizeof(header), row->t_data, row->t_len);
	for (int i = ntables - 1; i >= 0; i--)
		bytes = seal_layer(bytes, tables[i], name, i);
	return bytes;
}

/* An array of OIDs */
static Datum
oids_datum(List *oids)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(oids), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, oids)
		elements[n++] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elements, n, OIDOID, sizeof(Oid),
										   true, TYPALIGN_INT));
}

/* Insert a row, or replace the one of this name */
static void
write_row(const Store *store, const StatsName *name, Oid table, List *tables,
		  bytea *bytes)
{
	Relation	rel = table_open(store->table, RowExclusiveLock);
	SysScanDesc scan = scan_name(store, rel, name);
	HeapTuple	old = cmek_key_scan_next(scan);
	Datum		values[Natts_statistic];
	bool		nulls[Natts_statistic] = {false};
	HeapTuple	tuple;

	values[Anum_statistic_relid - 1] = ObjectIdGetDatum(name->relid);
	values[Anum_statistic_attnum - 1] = Int16GetDatum(name->attnum);
	values[Anum_statistic_inherited - 1] = BoolGetDatum(name->inherited);
	values[Anum_statistic_table - 1] = ObjectIdGetDatum(table);
	values[Anum_statistic_sealed_by - 1] = oids_datum(tables);
	values[Anum_statistic_sealed - 1] = PointerGetDatum(bytes);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	if (HeapTupleIsValid(old))
		CatalogTupleUpdate(rel, &old->t_self, tuple);
	else
		CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
}

/* See internal.h. */
void
stats_store(const StatsName *name, Oid table, List *tables, HeapTuple row)
{
	Oid		   *oids = palloc(sizeof(Oid) * list_length(tables));
	int			n = 0;
	ListCell   *lc;
	Store		store;
	bytea	   *bytes;

	if (!find_store(&store))
		return;
	foreach(lc, tables)
		oids[n++] = lfirst_oid(lc);
	bytes = seal_row(name, oids, n, row);
	write_row(&store, name, table, tables, bytes);
	pfree(bytes);
	pfree(oids);
	CacheInvalidateRelcacheByRelid(name->relid);
}

/* Delete what a scan finds; with "inherited" only the inherited ones */
static void
delete_found(Relation rel, SysScanDesc scan, bool inherited)
{
	HeapTuple	tuple;
	bool		any = false;

	while (HeapTupleIsValid(tuple = cmek_key_scan_next(scan)))
	{
		Oid			relid = DatumGetObjectId(cmek_key_attr(tuple, Anum_statistic_relid,
													  RelationGetDescr(rel)));

		if (inherited &&
			!DatumGetBool(cmek_key_attr(tuple, Anum_statistic_inherited,
								   RelationGetDescr(rel))))
			continue;
		CatalogTupleDelete(rel, &tuple->t_self);
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
			CacheInvalidateRelcacheByRelid(relid);
		any = true;
	}
	systable_endscan(scan);
	if (any)
		CommandCounterIncrement();
}

/* Delete statistics by name, both kinds of a column */
static void
delete_by_name(Oid relid, AttrNumber attnum, bool inherited)
{
	StatsName	name = {relid, attnum, true};
	Store		store;
	Relation	rel;

	if (!find_store(&store))
		return;
	rel = table_open(store.table, RowExclusiveLock);
	delete_found(rel, scan_name(&store, rel, &name), inherited);
	if (attnum != 0)
	{
		name.inherited = false;
		delete_found(rel, scan_name(&store, rel, &name), false);
	}
	table_close(rel, RowExclusiveLock);
}

/* See internal.h. */
void
stats_delete(const StatsName *name)
{
	delete_by_name(name->relid, name->attnum, false);
}

/* See internal.h. */
void
stats_delete_inherited(Oid relid)
{
	delete_by_name(relid, 0, true);
}

/* See stats.h. */
void
cmek_stats_forget(Oid relid)
{
	ScanKeyData key;
	Store		store;
	Relation	rel;

	if (!find_store(&store))
		return;
	ScanKeyInit(&key, Anum_statistic_table, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	rel = table_open(store.table, RowExclusiveLock);
	delete_found(rel, cmek_key_scan(rel, store.by_table, true, NULL, 1, &key),
				 false);
	table_close(rel, RowExclusiveLock);
}

/* See stats.h. */
void
cmek_stats_forget_ancestors(Oid relid)
{
	List	   *relids = cmek_heap_ancestors(relid);
	ListCell   *lc;

	foreach(lc, relids)
		stats_delete_inherited(lfirst_oid(lc));
	list_free(relids);
}

/* Is a row sealed by a key of this table? */
static bool
is_sealed_by(const StatsSealed *row, Oid relid)
{
	for (int i = 0; i < row->ntables; i++)
		if (row->tables[i] == relid)
			return true;
	return false;
}

/* Open a row, when its keys are there */
typedef struct Opened
{
	StatsSealed *sealed;
	HeapTuple	row;
} Opened;

static void
open_for_reseal(void *arg)
{
	Opened	   *opened = arg;

	opened->row = stats_open(opened->sealed);
}

/* Seal a row anew; one that does not open goes */
static void
reseal_row(Relation rel, HeapTuple tuple, StatsSealed *row)
{
	Opened		opened = {row, NULL};
	HeapTuple	plain = stats_have_keys(row) &&
		cmek_key_try(open_for_reseal, &opened) ? opened.row : NULL;
	Datum		values[Natts_statistic] = {0};
	bool		nulls[Natts_statistic] = {false};
	bool		replaces[Natts_statistic] = {false};
	HeapTuple	copy;

	if (plain == NULL)
	{
		CatalogTupleDelete(rel, &tuple->t_self);
		return;
	}
	values[Anum_statistic_sealed - 1] =
		PointerGetDatum(seal_row(&row->name, row->tables, row->ntables, plain));
	replaces[Anum_statistic_sealed - 1] = true;
	copy = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls,
							 replaces);
	CatalogTupleUpdate(rel, &copy->t_self, copy);
	heap_freetuple(copy);
	cmek_cleanse(plain->t_data, plain->t_len);
	heap_freetuple(plain);
	CacheInvalidateRelcacheByRelid(row->name.relid);
}

/* See internal.h.  Whoever is writing statistics is waited for. */
void
stats_reseal(Oid relid)
{
	Store		store;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!find_store(&store))
		return;
	rel = table_open(store.table, ShareRowExclusiveLock);
	scan = cmek_key_scan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = cmek_key_scan_next(scan)))
	{
		StatsSealed row;

		read_tables(tuple, RelationGetDescr(rel), &row);
		if (!is_sealed_by(&row, relid))
			continue;
		read_row(tuple, RelationGetDescr(rel), &row);
		reseal_row(rel, tuple, &row);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
