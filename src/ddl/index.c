/*-------------------------------------------------------------------------
 *
 * index.c
 *	  Every b-tree of a sealed table is of access method cmek_btree, by itself.
 *
 * Core creates each of them as btree, whatever the statement was; before any
 * row of it is stored, its pg_class row and its relcache entry are given the
 * method cmek_btree (cmek_index_made).  Its operator classes stay btree's own,
 * so that foreign keys, the planner, pg_get_indexdef and dumps find what they
 * know.  That is the one stored form: an index that core made from the name
 * of the method is brought into it too.
 *
 * Partitioned indexes have no storage and stay btree: a recipe, which each
 * partition follows in its own way.
 *
 * No index is ever built as btree first.  A relcache entry that outlives an
 * aborted subtransaction must never name the method of that subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_opclass.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "ddl/statement.h"

#define OPTION_HIDE_TIDS "hide_tids"

/* The table of an index whose pg_index row is not visible yet */
static Oid
index_table(Oid indexid)
{
	Relation	pg_index = table_open(IndexRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	Oid			table = InvalidOid;

	ScanKeyInit(&key, Anum_pg_index_indexrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(indexid));
	scan = systable_beginscan(pg_index, IndexRelidIndexId, true,
							  SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		table = ((Form_pg_index) GETSTRUCT(tuple))->indrelid;
	systable_endscan(scan);
	table_close(pg_index, AccessShareLock);
	return table;
}

/* The handler function of an index access method */
static Oid
index_handler(Oid method)
{
	HeapTuple	tuple = SearchSysCache1(AMOID, ObjectIdGetDatum(method));
	Oid			handler;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for access method %u", method);
	handler = ((Form_pg_am) GETSTRUCT(tuple))->amhandler;
	ReleaseSysCache(tuple);
	return handler;
}

/*
 * Give the relcache entry of an index another method.  Core never does: an
 * entry that is pinned, or new in this transaction, keeps the routine it was
 * built with, whatever the catalog says later.
 */
static void
index_change_routine(Relation index, Oid method)
{
	Oid			handler = index_handler(method);
	MemoryContext old;

	if (index->rd_amhandler == handler)
		return;
	old = MemoryContextSwitchTo(index->rd_indexcxt);
	index->rd_amhandler = handler;
	index->rd_indam = GetIndexAmRoutine(handler);
	MemoryContextSwitchTo(old);
}

/*
 * Set the method of an index in the catalog, with other reloptions.  Caller
 * holds AccessExclusiveLock.
 */
static void
index_update_class(Oid indexid, Oid method, Datum reloptions)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID,
											ObjectIdGetDatum(indexid));
	Datum		values[Natts_pg_class] = {0};
	bool		nulls[Natts_pg_class] = {0};
	bool		replace[Natts_pg_class] = {0};

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", indexid);
	values[Anum_pg_class_relam - 1] = ObjectIdGetDatum(method);
	replace[Anum_pg_class_relam - 1] = true;
	values[Anum_pg_class_reloptions - 1] = reloptions;
	nulls[Anum_pg_class_reloptions - 1] = reloptions == (Datum) 0;
	replace[Anum_pg_class_reloptions - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(pg_class), values,
							  nulls, replace);
	CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
	heap_freetuple(tuple);
	table_close(pg_class, RowExclusiveLock);
}

/* The reloptions of an index, changed by a list of DefElem */
static Datum
index_options(Oid indexid, List *changes, bool reset)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(indexid));
	bool		isnull;
	Datum		options;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", indexid);
	options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions,
							  &isnull);
	options = transformRelOptions(isnull ? (Datum) 0 : options, changes,
								  NULL, NULL, false, reset);
	ReleaseSysCache(tuple);
	return options;
}

/*
 * An index is of another method from here on; caller builds it anew before
 * anybody reads it.  Makes the caller's changes of catalogs visible.
 */
static void
index_set_method(Oid indexid, Oid method, List *options, bool reset)
{
	Relation	index;
	Datum		reloptions;

	CommandCounterIncrement();
	index = RelationIdGetRelation(indexid);
	reloptions = index_options(indexid, options, reset);
	index_change_routine(index, method);
	(void) index_reloptions(index->rd_indam->amoptions, reloptions, true);
	index_update_class(indexid, method, reloptions);
	CommandCounterIncrement();
	RelationClose(index);
}

/* Operator classes of an index, in its relcache entry's copy of pg_index */
static oidvector *
index_classes(Relation index)
{
	bool		isnull;
	Datum		datum = SysCacheGetAttr(INDEXRELID, index->rd_indextuple,
										Anum_pg_index_indclass, &isnull);

	return (oidvector *) DatumGetPointer(datum);
}

/* Write the operator classes into the catalog */
static void
index_update_classes(Oid indexid, oidvector *classes)
{
	Relation	pg_index = table_open(IndexRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(INDEXRELID,
											ObjectIdGetDatum(indexid));
	Datum		values[Natts_pg_index] = {0};
	bool		nulls[Natts_pg_index] = {0};
	bool		replace[Natts_pg_index] = {0};

	values[Anum_pg_index_indclass - 1] = PointerGetDatum(classes);
	replace[Anum_pg_index_indclass - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(pg_index), values,
							  nulls, replace);
	CatalogTupleUpdate(pg_index, &tuple->t_self, tuple);
	table_close(pg_index, RowExclusiveLock);
}

/*
 * An index that core made from the name of the method has twins of btree's
 * operator classes: give it those themselves, in the catalog, in its
 * dependencies and in its relcache entry, which core never reads again.
 */
static void
index_set_originals(Oid indexid)
{
	Relation	index;
	oidvector  *classes;
	bool		changed = false;

	CommandCounterIncrement();
	index = RelationIdGetRelation(indexid);
	classes = index_classes(index);
	for (int i = 0; i < classes->dim1; i++)
	{
		Oid			original = cmek_opclass_original(classes->values[i]);

		if (!OidIsValid(original))
			continue;
		(void) changeDependencyFor(RelationRelationId, indexid,
								   OperatorClassRelationId,
								   classes->values[i], original);
		classes->values[i] = original;
		index->rd_opfamily[i] = get_opclass_family(original);
		changed = true;
	}
	if (changed)
		index_update_classes(indexid, classes);
	CommandCounterIncrement();
	RelationClose(index);
}

/* An index cannot do without its access method */
static void
index_record_method(Oid indexid, Oid method)
{
	ObjectAddress index;
	ObjectAddress am;

	ObjectAddressSet(index, RelationRelationId, indexid);
	ObjectAddressSet(am, AccessMethodRelationId, method);
	recordDependencyOn(&index, &am, DEPENDENCY_NORMAL);
}

/* A b-tree was made for a sealed table */
static void
index_seal(const CmekClass *index)
{
	Oid			method = cmek_sealed_index_method();

	if (index->relam == method)
		index_set_originals(index->relid);
	index_set_method(index->relid, method,
					 cmek_statement == NULL ? NIL : cmek_statement->index_options,
					 false);
	index_record_method(index->relid, method);
}

/* cmek_btree was asked for where it cannot be */
static void
index_refuse(const char *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("table \"%s\" is not sealed", table),
			 errdetail("Only tables of access method %s have indexes of access method %s.",
					   CMEK_HEAP_NAME, CMEK_BTREE_NAME),
			 errhint("Use access method btree, or seal the table first: ALTER TABLE ... SET ACCESS METHOD %s.",
					 CMEK_HEAP_NAME)));
}

/* An index was made; its rows in the catalogs may not be visible yet */
void
cmek_index_made(Oid indexid, bool internal)
{
	CmekClass	index;
	CmekClass	table;
	bool		btree;

	if (!cmek_class_get(index_table(indexid), &table) ||
		!cmek_class_get_new(indexid, &index) ||
		!OidIsValid(cmek_sealed_index_method()))
		return;
	btree = index.relam == BTREE_AM_OID ||
		index.relam == cmek_sealed_index_method();
	if (cmek_class_has_rows(&table) && cmek_class_is_sealed(&table))
	{
		if (btree)
			index_seal(&index);
		else if (!IsBinaryUpgrade)
			cmek_policy_index_made(&index, &table, internal);
	}
	else if (cmek_partition_parent_is_sealed(table.relid))
	{
		if (!btree && !IsBinaryUpgrade)
			cmek_policy_index_made(&index, &table, internal);
	}
	else if (index.relam == cmek_sealed_index_method())
		index_refuse(NameStr(table.relname));
}

/* Does a table, or any partition of it, have sealed indexes? */
static bool
index_table_is_sealed(Oid relid)
{
	CmekClass	cls;

	if (!OidIsValid(relid) || !cmek_class_get(relid, &cls))
		return false;
	if (cls.relkind == RELKIND_PARTITIONED_TABLE)
		return cmek_partition_parent_is_sealed(relid);
	return cmek_class_has_rows(&cls) && cmek_class_is_sealed(&cls);
}

/* Take out of WITH what btree does not know; returns what was taken */
static List *
index_strip_options(List **options)
{
	List	   *rest = NIL;
	List	   *ours = NIL;
	ListCell   *lc;

	foreach(lc, *options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (def->defnamespace == NULL &&
			strcmp(def->defname, OPTION_HIDE_TIDS) == 0)
			ours = lappend(ours, def);
		else
			rest = lappend(rest, def);
	}
	*options = rest;
	return ours;
}

/*
 * CREATE INDEX, also as a part of CREATE TABLE; returns our own copy when
 * something had to change.  A statement that was made from another table's
 * index (LIKE) names the method of that one: it follows this table.
 */
Node *
cmek_index_before(CmekStatement *s, IndexStmt *stmt)
{
	bool		named = stmt->accessMethod != NULL &&
		strcmp(stmt->accessMethod, CMEK_BTREE_NAME) == 0;
	bool		sealed;
	IndexStmt  *copy;

	if (stmt->relation == NULL ||
		(!named && (stmt->options == NIL ||
					strcmp(stmt->accessMethod, DEFAULT_INDEX_TYPE) != 0)))
		return (Node *) stmt;
	sealed = index_table_is_sealed(RangeVarGetRelid(stmt->relation, NoLock,
													true));
	if (!named && !sealed)
		return (Node *) stmt;
	if (!sealed && !stmt->transformed)
		index_refuse(stmt->relation->relname);
	copy = copyObject(stmt);
	copy->accessMethod = pstrdup(DEFAULT_INDEX_TYPE);
	s->index_options = index_strip_options(&copy->options);
	if (!sealed)
		s->index_options = NIL;
	return (Node *) copy;
}
