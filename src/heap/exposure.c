/*-------------------------------------------------------------------------
 *
 * exposure.c
 *	  Where core would copy values of a sealed table in clear, or lose them:
 *	  planner statistics and logical decoding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/heap.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_statistic.h"
#include "commands/defrem.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "heap/internal.h"

bool		cmek_plaintext_statistics = false;
bool		cmek_allow_logical_decoding = false;

/* Define the settings */
void
exposure_init(void)
{
	DefineCustomBoolVariable("cmek.plaintext_statistics",
							 "Let ANALYZE store values of sealed tables in clear.",
							 NULL,
							 &cmek_plaintext_statistics,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("cmek.allow_logical_decoding",
							 "Allow sealed tables while wal_level is logical.",
							 "Logical decoding sees rows of NULLs: changes are lost to subscribers.",
							 &cmek_allow_logical_decoding,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

/* Has a relation column statistics in the catalog? */
static bool
has_statistics(Oid relid)
{
	Relation	rel = table_open(StatisticRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, Anum_pg_statistic_starelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, StatisticRelidAttnumInhIndexId, true, NULL,
							  1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Remove the statistics of one relation, if nobody else is at them */
static void
forget_statistics_of(Oid relid)
{
	Relation	rel;
	ListCell   *lc;

	/* who holds the lock analyzes or alters it: it will be his to remove */
	if (!ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
		return;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		return;
	RemoveStatistics(relid, InvalidAttrNumber);
	foreach(lc, RelationGetIndexList(rel))
		RemoveStatistics(lfirst_oid(lc), InvalidAttrNumber);
	foreach(lc, RelationGetStatExtList(rel))
	{
		RemoveStatisticsDataById(lfirst_oid(lc), false);
		RemoveStatisticsDataById(lfirst_oid(lc), true);
	}
	relation_close(rel, NoLock);
}

/* The direct parents of a relation, by partitioning or inheritance */
static List *
direct_parents(Oid relid)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	List	   *parents = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		parents = lappend_oid(parents,
							  ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return parents;
}

/* See heap.h. */
List *
cmek_heap_ancestors(Oid relid)
{
	List	   *relids = direct_parents(relid);

	/* the list grows while we walk it */
	for (int i = 0; i < list_length(relids); i++)
		relids = list_concat_unique_oid(relids,
										direct_parents(list_nth_oid(relids, i)));
	return relids;
}

/* Remove the statistics of all ancestors, which are taken from its rows too */
static void
forget_statistics_of_ancestors(Oid relid)
{
	List	   *relids = cmek_heap_ancestors(relid);
	ListCell   *lc;

	foreach(lc, relids)
		forget_statistics_of(lfirst_oid(lc));
	list_free(relids);
}

/*
 * Remove what is in the catalogs of the values of a table that is being
 * sealed: column statistics, those of its expression indexes, extended ones,
 * and the same of its ancestors.  Dead row versions stay until the catalogs
 * are vacuumed.  Had it column statistics of its own?
 */
bool
cmek_heap_forget_statistics(Oid relid)
{
	bool		had = has_statistics(relid);

	forget_statistics_of(relid);
	forget_statistics_of_ancestors(relid);
	CommandCounterIncrement();
	return had;
}

/*
 * ANALYZE that hands out no row of the table: what it finds in the catalogs is
 * from before, and goes.  When it is an ancestor that is analyzed, core holds
 * less than ANALYZE's lock on the table, and writes new statistics of the
 * ancestor in this very command, from other tables only.
 */
void
exposure_analyze(Relation rel)
{
	if (CheckRelationLockedByMe(rel, ShareUpdateExclusiveLock, true))
		forget_statistics_of(RelationGetRelid(rel));
	else
		forget_statistics_of_ancestors(RelationGetRelid(rel));
	CommandCounterIncrement();
}

/*
 * ERROR when a change of this table would be lost to logical decoding, which
 * sees rows of NULLs.  Core decodes neither temporary and unlogged tables nor
 * the new files of rewritten ones.
 */
void
exposure_check_write(Relation rel)
{
	if (likely(!XLogLogicalInfoActive()) || cmek_allow_logical_decoding ||
		rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT ||
		OidIsValid(rel->rd_rel->relrewrite))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("sealed table \"%s\" cannot be changed while wal_level is \"logical\"",
					RelationGetRelationName(rel)),
			 errdetail("Logical decoding would see rows of NULLs."),
			 errhint("Set wal_level to \"replica\", or cmek.allow_logical_decoding to on.")));
}
