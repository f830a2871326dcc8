/*-------------------------------------------------------------------------
 *
 * collect.c
 *	  ANALYZE of sealed tables: a sample of our own.
 *
 * Core's ANALYZE gets the numbers of rows from the scan of a sealed table and
 * no row, so it computes nothing.  Meanwhile the rows that core would have
 * sampled go into a reservoir here, sealed as they are: a scan needs no key.
 * When it has ended they are opened, in memory that is cleansed, and the
 * statistics are computed and stored sealed.
 *
 * An ANALYZE of one table is finished with its scan, inside of core's own.  One
 * of a tree scans table after table; it is finished when core is done with it:
 * at the end of the statement, before the commit, or when the next one begins.
 *
 * Without the key nothing is computed, what was stored stays, and the log says
 * so.  Never an ERROR for a key that is away.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/multixact.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_statistic.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/backend_progress.h"
#include "utils/backend_status.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/sampling.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "stats/internal.h"

/* The sample of one table */
typedef struct Sample
{
	Oid			relid;
	MemoryContext context;		/* of the rows */
	int			target;
	int			nrows;
	HeapTuple  *rows;			/* sealed */
	double		seen;
	double		toskip;			/* -1: not set */
	ReservoirStateData reservoir;
	double		liverows;
	BlockNumber blocks;			/* of the table */
} Sample;

/* One ANALYZE, of a table or of a tree */
typedef struct Analysis
{
	Oid			relid;
	bool		inherited;
	MemoryContext context;
	SubTransactionId subid;
	StatsPlan  *plan;
	List	   *samples;
	Sample	   *current;		/* of the scan that is on its way */
	double		blocks;			/* of the whole tree */
	bool		mixed;			/* some of its tables are not sealed */
	/* opened rows, to be cleansed */
	int			nrows;
	HeapTuple  *rows;
} Analysis;

static Analysis *analysis = NULL;

/* The rows of a partial index; in the memory of the transaction */
typedef struct IndexRows
{
	Oid			indexid;
	double		rows;
} IndexRows;

static List *index_rows = NIL;

/*
 * What the innermost ANALYZE or VACUUM statement names: VacuumRelations with
 * their OIDs, found by the caller's search_path
 */
static List *named = NIL;

static ProcessUtility_hook_type previous_utility = NULL;

/*
 * Which table core analyzes while it scans "rel", and whether with its
 * children.  Core tells by its progress report.  Where that is off, it is the
 * one that is locked for ANALYZE, and trees are left out.
 */
static bool
what_is_analyzed(Relation rel, Oid *relid, bool *inherited)
{
	if (MyBEEntry != NULL && pgstat_track_activities)
	{
		if (MyBEEntry->st_progress_command != PROGRESS_COMMAND_ANALYZE)
			return false;
		*relid = MyBEEntry->st_progress_command_target;
		*inherited = MyBEEntry->st_progress_param[PROGRESS_ANALYZE_PHASE] ==
			PROGRESS_ANALYZE_PHASE_ACQUIRE_SAMPLE_ROWS_INH;
		return *inherited || *relid == RelationGetRelid(rel);
	}
	*relid = RelationGetRelid(rel);
	*inherited = false;
	return CheckRelationLockedByMe(rel, ShareUpdateExclusiveLock, true);
}

/* The relations that a statement names, if it names columns of any */
static List *
find_named(const VacuumStmt *stmt)
{
	List	   *found = NIL;
	bool		columns = false;
	ListCell   *lc;

	foreach(lc, stmt->rels)
		columns |= lfirst_node(VacuumRelation, lc)->va_cols != NIL;
	if (!columns)
		return NIL;
	foreach(lc, stmt->rels)
	{
		VacuumRelation *rel = lfirst_node(VacuumRelation, lc);
		Oid			oid = rel->oid;

		if (!OidIsValid(oid) && rel->relation != NULL)
			oid = RangeVarGetRelid(rel->relation, NoLock, true);
		if (OidIsValid(oid))
			found = lappend(found, makeVacuumRelation(rel->relation, oid,
													  rel->va_cols));
	}
	return found;
}

/* Is a relation what a statement names, or a partition of it? */
static bool
is_named(Oid oid, Oid relid)
{
	return oid == relid ||
		(get_rel_relkind(oid) == RELKIND_PARTITIONED_TABLE &&
		 list_member_oid(find_all_inheritors(oid, NoLock, NULL), relid));
}

/* The columns that the statement names of a relation; NIL: all of them */
static List *
named_columns(Oid relid)
{
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, named)
	{
		VacuumRelation *rel = lfirst_node(VacuumRelation, lc);

		if (!is_named(rel->oid, relid))
			continue;
		if (rel->va_cols == NIL)
			return NIL;
		columns = list_concat_copy(columns, rel->va_cols);
	}
	return columns;
}

/* Leave no opened row behind */
static void
cleanse_rows(void *arg)
{
	Analysis   *a = arg;

	for (int i = 0; i < a->nrows; i++)
		cmek_cleanse(a->rows[i]->t_data, a->rows[i]->t_len);
	a->nrows = 0;
}

/*
 * Remember how many rows partial indexes have: core, which sees no sample,
 * takes it for all of them, and says so in pg_class when we are done.
 */
static void
note_index_rows(const StatsPlan *plan)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	for (int i = 0; i < plan->nindexes; i++)
	{
		IndexRows  *rows;

		if (!plan->indexes[i].partial || plan->indexes[i].rows < 0)
			continue;
		rows = palloc(sizeof(IndexRows));
		rows->indexid = plan->indexes[i].indexid;
		rows->rows = plan->indexes[i].rows;
		index_rows = lappend(index_rows, rows);
	}
	MemoryContextSwitchTo(old);
}

/* Core is done: now pg_class can be told */
static void
tell_index_rows(void)
{
	List	   *list = index_rows;
	ListCell   *lc;

	index_rows = NIL;
	if (list != NIL)
		CommandCounterIncrement();
	foreach(lc, list)
	{
		IndexRows  *rows = lfirst(lc);
		Relation	index = try_relation_open(rows->indexid, AccessShareLock);

		if (index == NULL)
			continue;
		cmek_update_index_stats(index, RelationGetNumberOfBlocks(index),
								rows->rows);
		relation_close(index, NoLock);
	}
}

/* Forget the ANALYZE */
static void
discard(void)
{
	Analysis   *a = analysis;

	analysis = NULL;
	if (a != NULL)
		MemoryContextDelete(a->context);
}

/* How many blocks the tables of a tree have, and are they all sealed? */
static void
measure_tree(Analysis *a)
{
	List	   *relids = find_all_inheritors(a->relid, NoLock, NULL);
	ListCell   *lc;

	foreach(lc, relids)
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (rel == NULL)
			continue;
		if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
			a->mixed = true;
		else if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind) &&
				 !RELATION_IS_OTHER_TEMP(rel))
		{
			BlockNumber blocks = RelationGetNumberOfBlocks(rel);

			a->blocks += blocks;
			a->mixed |= blocks > 0 && !cmek_relation_is_sealed(rel);
		}
		relation_close(rel, NoLock);
	}
}

/* Begin an ANALYZE */
static Analysis *
start(Oid relid, bool inherited)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext,
												  "cmek statistics",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	Analysis   *a = palloc0(sizeof(Analysis));
	Relation	rel;

	a->relid = relid;
	a->inherited = inherited;
	a->context = context;
	a->subid = GetCurrentSubTransactionId();
	callback->func = cleanse_rows;
	callback->arg = a;
	MemoryContextRegisterResetCallback(context, callback);
	rel = relation_open(relid, AccessShareLock);
	a->plan = stats_plan(rel, inherited, named_columns(relid));
	relation_close(rel, NoLock);
	if (inherited)
		measure_tree(a);
	MemoryContextSwitchTo(old);
	return a;
}

/* Begin the sample of a table; NULL when core wants none of its rows */
static Sample *
start_sample(Analysis *a, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(a->context);
	Sample	   *sample = palloc0(sizeof(Sample));

	sample->relid = RelationGetRelid(rel);
	sample->context = AllocSetContextCreate(a->context, "cmek statistics sample",
											ALLOCSET_DEFAULT_SIZES);
	sample->blocks = RelationGetNumberOfBlocks(rel);
	sample->target = a->plan->target;
	if (a->inherited && a->blocks > 0)
		sample->target = (int) rint(sample->target * (double) sample->blocks / a->blocks);
	sample->target = Max(sample->target, 1);
	sample->rows = palloc(sizeof(HeapTuple) * sample->target);
	sample->toskip = -1;
	reservoir_init_selection_state(&sample->reservoir, sample->target);
	a->samples = lappend(a->samples, sample);
	MemoryContextSwitchTo(old);
	return sample;
}

/* Was this table scanned by this ANALYZE? */
static bool
has_sample(const Analysis *a, Oid relid)
{
	ListCell   *lc;

	foreach(lc, a->samples)
		if (((Sample *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

static void finish(void);

/* ANALYZE begins to scan a table */
static void
collect_begin(Relation rel)
{
	Oid			relid;
	bool		inherited;
	bool		ours = what_is_analyzed(rel, &relid, &inherited) &&
		stats_store_exists();

	if (analysis != NULL &&
		!(ours && inherited && analysis->inherited &&
		  analysis->relid == relid &&
		  !has_sample(analysis, RelationGetRelid(rel))))
		finish();
	if (!ours)
		return;
	if (analysis == NULL)
		analysis = start(relid, inherited);
	analysis->current = start_sample(analysis, rel);
}

/* Copy a row into the sample, in place of another one when it is full */
static void
keep_row(Sample *sample, HeapTuple sealed, int place)
{
	HeapTuple  *kept = &sample->rows[place];
	MemoryContext old;

	if (place < sample->nrows && (*kept)->t_len == sealed->t_len)
	{
		(*kept)->t_self = sealed->t_self;
		memcpy((*kept)->t_data, sealed->t_data, sealed->t_len);
		return;
	}
	old = MemoryContextSwitchTo(sample->context);
	if (place < sample->nrows)
		heap_freetuple(*kept);
	else
		sample->nrows++;
	*kept = heap_copytuple(sealed);
	MemoryContextSwitchTo(old);
}

/* ANALYZE meets a row: is it one of the sample?  (Vitter, as core has it.) */
static void
collect_row(HeapTuple sealed, double liverows)
{
	Sample	   *sample = analysis != NULL ? analysis->current : NULL;

	if (sample == NULL)
		return;
	sample->liverows = liverows;
	if (sample->nrows < sample->target)
		keep_row(sample, sealed, sample->nrows);
	else
	{
		if (sample->toskip < 0)
			sample->toskip = reservoir_get_next_S(&sample->reservoir,
												  sample->seen, sample->target);
		if (sample->toskip <= 0)
			keep_row(sample, sealed, (int) (sample->target *
											sampler_random_fract(&sample->reservoir.randstate)));
		sample->toskip -= 1;
	}
	sample->seen += 1;
}

/* ANALYZE has scanned a table */
static void
collect_end(Relation rel)
{
	if (analysis == NULL || analysis->current == NULL)
		return;
	analysis->current = NULL;
	if (!analysis->inherited)
		finish();
}

/* ANALYZE hands rows to core, so what is sealed is not of today any more */
static void
collect_forget(Relation rel)
{
	Oid			relid;
	bool		inherited;

	if (!what_is_analyzed(rel, &relid, &inherited))
		return;
	if (inherited)
		stats_delete_inherited(relid);
	else
		cmek_stats_forget(relid);
}

/* Rows in their order in the table, for the correlation */
static int
compare_rows(const void *a, const void *b)
{
	return ItemPointerCompare(&(*(const HeapTuple *) a)->t_self,
							  &(*(const HeapTuple *) b)->t_self);
}

/* How many rows the table has, by those of the blocks that were sampled */
static double
estimate_rows(const Sample *sample)
{
	double		sampled = Min((double) sample->target, (double) sample->blocks);

	return sampled > 0 ? floor(sample->liverows / sampled * sample->blocks + 0.5) : 0;
}

/*
 * Open the rows of one table's sample; what does not open is left out.  They
 * come to lie one after the other, as they are going to be read.
 */
static void
open_sample(Analysis *a, Relation root, Sample *sample)
{
	Relation	rel = relation_open(sample->relid, AccessShareLock);
	TupleConversionMap *map = sample->relid == a->relid ? NULL :
		convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(root));

	if (sample->nrows == sample->target)
		qsort(sample->rows, sample->nrows, sizeof(HeapTuple), compare_rows);
	for (int i = 0; i < sample->nrows; i++)
	{
		HeapTuple	row;

		CHECK_FOR_INTERRUPTS();
		row = cmek_heap_try_open(rel, sample->rows[i]);
		if (row == NULL)
			continue;
		a->rows[a->nrows++] = row;
		if (map != NULL)
		{
			a->rows[a->nrows - 1] = execute_attr_map_tuple(row, map);
			cmek_cleanse(row->t_data, row->t_len);
			heap_freetuple(row);
		}
	}
	MemoryContextDelete(sample->context);
	relation_close(rel, NoLock);
}

/* One table for each KMS key, or set of replicas, that the rows are sealed by */
static List *
tables_of_keys(const Analysis *a)
{
	List	   *servers = NIL;
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, a->samples)
	{
		Sample	   *sample = lfirst(lc);
		char	   *server;
		bool		known = false;
		ListCell   *lc2;

		if (sample->nrows == 0)
			continue;
		server = get_rel_persistence(sample->relid) == RELPERSISTENCE_TEMP ?
			NULL : cmek_table_servers(sample->relid);
		if (server == NULL)
			server = "";
		foreach(lc2, servers)
			known |= strcmp(lfirst(lc2), server) == 0;
		if (known)
			continue;
		servers = lappend(servers, server);
		tables = lappend_oid(tables, sample->relid);
	}
	return tables;
}

/* Can statistics be sealed by all of these tables? */
static bool
can_seal(List *tables)
{
	ListCell   *lc;

	foreach(lc, tables)
		if (stats_ring(lfirst_oid(lc))->statistics == NULL)
			return false;
	return true;
}

/* Delete what core found of the other tables of a tree */
static void
delete_core_inherited(Oid relid, int natts)
{
	Relation	rel = table_open(StatisticRelationId, RowExclusiveLock);

	for (int i = 1; i <= natts; i++)
	{
		HeapTuple	tuple = SearchSysCache3(STATRELATTINH,
											ObjectIdGetDatum(relid),
											Int16GetDatum(i),
											BoolGetDatum(true));

		if (!HeapTupleIsValid(tuple))
			continue;
		CatalogTupleDelete(rel, &tuple->t_self);
		ReleaseSysCache(tuple);
	}
	table_close(rel, RowExclusiveLock);
}

/* Open the sample, compute, store */
static void
compute(void *arg)
{
	Analysis   *a = arg;
	MemoryContext old = MemoryContextSwitchTo(a->context);
	Relation	rel = relation_open(a->relid, AccessShareLock);
	List	   *tables = tables_of_keys(a);
	double		totalrows = 0;
	int			room = 0;
	ListCell   *lc;

	foreach(lc, a->samples)
		room += ((Sample *) lfirst(lc))->nrows;
	a->rows = palloc(sizeof(HeapTuple) * Max(room, 1));
	foreach(lc, a->samples)
	{
		open_sample(a, rel, lfirst(lc));
		totalrows += estimate_rows(lfirst(lc));
	}
	if (a->nrows > 0 && can_seal(tables))
	{
		stats_compute(a->plan, rel, a->rows, a->nrows, totalrows, tables);
		note_index_rows(a->plan);
		if (a->inherited)
			delete_core_inherited(a->relid, RelationGetDescr(rel)->natts);
		CommandCounterIncrement();
	}
	cleanse_rows(a);
	relation_close(rel, NoLock);
	MemoryContextSwitchTo(old);
}

/* Was any row met? */
static bool
has_rows(const Analysis *a)
{
	ListCell   *lc;

	foreach(lc, a->samples)
		if (((Sample *) lfirst(lc))->nrows > 0)
			return true;
	return false;
}

/* Compute what was sampled, as the owner of the table */
static void
finish_as_owner(Analysis *a, Oid owner)
{
	Oid			user;
	int			security;
	int			nest;

	/* no rows: core, too, leaves what there was */
	if (!has_rows(a))
		return;
	if (a->mixed)
	{
		stats_delete_inherited(a->relid);
		return;
	}
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(owner, security | SECURITY_RESTRICTED_OPERATION);
	nest = NewGUCNestLevel();
	cmek_restrict_search_path();
	if (!cmek_key_try(compute, a))
		ereport(LOG,
				(errmsg("statistics of table \"%s\" are not renewed while its key is away",
						get_rel_name(a->relid))));
	AtEOXact_GUC(false, nest);
	SetUserIdAndSecContext(user, security);
}

/* The ANALYZE has met all rows that it will meet: finish it */
static void
finish(void)
{
	Analysis   *a = analysis;
	HeapTuple	tuple;

	if (a == NULL)
		return;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(a->relid));
	if (HeapTupleIsValid(tuple))
	{
		Oid			owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;

		ReleaseSysCache(tuple);
		PushActiveSnapshot(GetTransactionSnapshot());
		finish_as_owner(a, owner);
		PopActiveSnapshot();
	}
	discard();
}

/* End of a transaction */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		finish();
		tell_index_rows();
	}
	else if (event == XACT_EVENT_ABORT)
	{
		/* their memory goes with the transaction */
		analysis = NULL;
		index_rows = NIL;
	}
}

/* End of a subtransaction: what it began has come to nothing */
static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	if (analysis == NULL || analysis->subid != mine)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		discard();
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		analysis->subid = parent;
}

/* Core, or who hooked in before us */
static void
utility_next(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *queryEnv, DestReceiver *dest,
			 QueryCompletion *qc)
{
	if (previous_utility)
		previous_utility(pstmt, queryString, readOnlyTree, context, params,
						 queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/* ANALYZE and VACUUM as statements: which columns they name, and their end */
static void
collect_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest,
				QueryCompletion *qc)
{
	List	   *outer = named;

	if (!IsA(pstmt->utilityStmt, VacuumStmt))
	{
		utility_next(pstmt, queryString, readOnlyTree, context, params, queryEnv,
					 dest, qc);
		return;
	}
	PG_TRY();
	{
		named = find_named((VacuumStmt *) pstmt->utilityStmt);
		utility_next(pstmt, queryString, readOnlyTree, context, params, queryEnv,
					 dest, qc);
		finish();
		tell_index_rows();
	}
	PG_FINALLY();
	{
		named = outer;
	}
	PG_END_TRY();
}

static const CmekAnalyzeHooks hooks = {
	.begin = collect_begin,
	.row = collect_row,
	.end = collect_end,
	.forget = collect_forget,
	.reseal = stats_reseal,
};

/* Install the hooks */
void
stats_collect_init(void)
{
	cmek_analyze_hooks = &hooks;
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact_end, NULL);
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = collect_utility;
}
