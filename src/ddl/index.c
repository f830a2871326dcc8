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
 * No index is ever built as btree first.
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
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "btree/btree.h"
#include "compat.h"
#include "ddl/statement.h"

/* Options that a statement took out of the catalog for its duration */
typedef struct CmekIndexOptions
{
	Oid			indexid;
	Oid			namespaceid;
	NameData	name;
	List	   *options;		/* of DefElem */
} CmekIndexOptions;

/*
 * Set the method of an index in the catalog, with other reloptions.  Caller
 * holds AccessExclusiveLock.
 */
static void
index_update_class(Oid indexid, Oid method, Datum reloptions)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	tuple = cmek_class_locked_copy(indexid);
	ItemPointerData tid;
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
	tid = tuple->t_self;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(pg_class), values,
							  nulls, replace);
	CatalogTupleUpdate(pg_class, &tid, tuple);
	cmek_class_unlock(pg_class, &tid);
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
	if (!isnull)
		options = PointerGetDatum(PG_DETOAST_DATUM_COPY(options));
	ReleaseSysCache(tuple);
	return transformRelOptions(isnull ? (Datum) 0 : options, changes,
							   NULL, NULL, false, reset);
}

/* RESET of every option that btree does not know */
static List *
index_no_options(void)
{
	return list_make1(makeDefElem(CMEK_HIDE_TIDS, NULL, -1));
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
	cmek_routine_change(index, method);
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
		CommandCounterIncrement();
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

/* The options that the statement has for a new index, from WITH or saved */
static List *
index_new_options(const CmekStatement *s, const CmekClass *index)
{
	ListCell   *lc;

	if (s == NULL)
		return NIL;
	foreach(lc, s->saved_options)
	{
		CmekIndexOptions *saved = lfirst(lc);

		if (saved->namespaceid == index->relnamespace &&
			strcmp(NameStr(saved->name), NameStr(index->relname)) == 0)
			return saved->options;
	}
	return s->index_options;
}

/* Was an index made anew which the statement goes on to use by its name? */
static bool
index_is_used(const CmekStatement *s, const CmekClass *index)
{
	ListCell   *lc;

	if (s == NULL)
		return false;
	foreach(lc, s->used_indexes)
	{
		if (strcmp(strVal(lfirst(lc)), NameStr(index->relname)) == 0)
			return true;
	}
	return false;
}

/* A b-tree was made for a sealed table */
static void
index_seal(const CmekClass *index)
{
	Oid			method = cmek_sealed_index_method();

	if (index->relam == method)
		index_set_originals(index->relid);
	index_set_method(index->relid, method,
					 index_new_options(cmek_statement, index), false);
	index_record_method(index->relid, method);
	if (index_is_used(cmek_statement, index))
		cmek_pose_index(index->relid, NoLock);
}

/*
 * The table of an index goes in or out of cmek_heap, and its new file is just
 * made: from here on the index is of the other method.  Core builds it anew
 * when the rows are copied.
 */
static void
index_convert(const CmekClass *index, bool seal)
{
	Oid			method = cmek_sealed_index_method();

	if (index->relam != (seal ? BTREE_AM_OID : method))
		return;
	LockRelationOid(index->relid, AccessExclusiveLock);
	if (seal)
	{
		index_set_method(index->relid, method, NIL, false);
		index_record_method(index->relid, method);
		return;
	}
	index_set_method(index->relid, BTREE_AM_OID, index_no_options(), true);
	deleteDependencyRecordsForSpecific(RelationRelationId, index->relid,
									   DEPENDENCY_NORMAL,
									   AccessMethodRelationId, method);
}

/* All b-trees of a table that is being rewritten */
void
cmek_index_convert(Oid relid, bool seal)
{
	Relation	rel = table_open(relid, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	table_close(rel, NoLock);
	foreach(lc, indexes)
	{
		CmekClass	index;

		if (cmek_class_get(lfirst_oid(lc), &index))
			index_convert(&index, seal);
	}
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

	if (!cmek_class_get(cmek_index_table(indexid), &table) ||
		!cmek_class_get_new(indexid, &index) ||
		!OidIsValid(cmek_sealed_index_method()))
		return;
	btree = index.relam == BTREE_AM_OID ||
		index.relam == cmek_sealed_index_method();
	/* core goes on to compare it with the indexes that partitions have */
	if (index.relkind == RELKIND_PARTITIONED_INDEX)
		cmek_pose_partitions(table.relid, AccessShareLock);
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

/* Are b-trees of a table, or of partitions to come, sealed? */
bool
cmek_index_table_is_sealed(Oid relid)
{
	CmekClass	cls;

	if (!OidIsValid(relid) || !cmek_class_get(relid, &cls))
		return false;
	if (cls.relkind == RELKIND_PARTITIONED_TABLE)
		return cmek_partition_parent_is_sealed(relid);
	return cmek_class_has_rows(&cls) && cmek_class_is_sealed(&cls);
}

/* Is the option one that btree does not know? */
static bool
index_option_is_ours(const DefElem *def)
{
	return def->defnamespace == NULL &&
		strcmp(def->defname, CMEK_HIDE_TIDS) == 0;
}

/* Is there one in a list? */
bool
cmek_index_has_options(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		if (index_option_is_ours(lfirst_node(DefElem, lc)))
			return true;
	}
	return false;
}

/* Take them out of a list; returns what was taken */
List *
cmek_index_strip_options(List **options)
{
	List	   *rest = NIL;
	List	   *ours = NIL;
	ListCell   *lc;

	foreach(lc, *options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (index_option_is_ours(def))
			ours = lappend(ours, def);
		else
			rest = lappend(rest, def);
	}
	*options = rest;
	return ours;
}

/*
 * Take the options that btree does not know out of the catalog, for a
 * statement that makes the index again as btree with the options it finds
 * there.  What the index is built with stays as it is.
 */
void
cmek_index_save_options(CmekStatement *s, Oid indexid)
{
	MemoryContext old = MemoryContextSwitchTo(s->context);
	CmekIndexOptions *saved = palloc0(sizeof(CmekIndexOptions));
	List	   *all = untransformRelOptions(index_options(indexid, NIL, false));
	CmekClass	cls;

	saved->options = cmek_index_strip_options(&all);
	MemoryContextSwitchTo(old);
	if (saved->options == NIL || !cmek_class_get(indexid, &cls))
		return;
	saved->indexid = indexid;
	saved->namespaceid = cls.relnamespace;
	saved->name = cls.relname;
	index_update_class(indexid, cls.relam,
					   index_options(indexid, index_no_options(), true));
	CommandCounterIncrement();
	old = MemoryContextSwitchTo(s->context);
	s->saved_options = lappend(s->saved_options, saved);
	MemoryContextSwitchTo(old);
}

/* Indexes that the statement did not make again get them back */
void
cmek_index_put_back_options(CmekStatement *s)
{
	ListCell   *lc;

	foreach(lc, s->saved_options)
	{
		CmekIndexOptions *saved = lfirst(lc);
		CmekClass	cls;

		if (!cmek_class_get(saved->indexid, &cls) ||
			cls.relam != cmek_sealed_index_method())
			continue;
		index_update_class(saved->indexid, cls.relam,
						   index_options(saved->indexid, saved->options,
										 false));
		CommandCounterIncrement();
	}
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
	sealed = cmek_index_table_is_sealed(RangeVarGetRelid(stmt->relation, NoLock,
													true));
	if (!named && !sealed)
		return (Node *) stmt;
	if (!sealed && !stmt->transformed)
		index_refuse(stmt->relation->relname);
	copy = copyObject(stmt);
	copy->accessMethod = pstrdup(DEFAULT_INDEX_TYPE);
	s->index_options = cmek_index_strip_options(&copy->options);
	if (!sealed)
		s->index_options = NIL;
	return (Node *) copy;
}
