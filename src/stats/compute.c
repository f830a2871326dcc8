/*-------------------------------------------------------------------------
 *
 * compute.c
 *	  Column statistics of a sample, as ANALYZE would have computed them.
 *
 * Every type's own typanalyze and compute_stats functions are asked, in the
 * order and with the arguments of core's ANALYZE, so that the rows that come
 * out are those that pg_statistic would have got.  Nothing here writes to
 * pg_statistic.  Runs as the table's owner in a security-restricted
 * operation, for it calls functions of types and of index expressions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "statistics/statistics.h"
#include "utils/array.h"
#include "utils/attoptcache.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "stats/internal.h"

/* What core samples at least */
#define LEAST_TARGET 100

/* Let the types of the values be that of the column, unless it says else */
static void
init_value_types(VacAttrStats *stats)
{
	for (int i = 0; i < STATISTIC_NUM_SLOTS; i++)
	{
		stats->statypid[i] = stats->attrtypid;
		stats->statyplen[i] = stats->attrtype->typlen;
		stats->statypbyval[i] = stats->attrtype->typbyval;
		stats->statypalign[i] = stats->attrtype->typalign;
	}
}

/* The type of a column, or of an index expression */
static void
init_type(VacAttrStats *stats, Relation rel, int attnum, Node *expr)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	HeapTuple	tuple;

	if (expr == NULL)
	{
		stats->attrtypid = attr->atttypid;
		stats->attrtypmod = attr->atttypmod;
		stats->attrcollid = attr->attcollation;
	}
	else
	{
		stats->attrtypid = exprType(expr);
		stats->attrtypmod = exprTypmod(expr);
		stats->attrcollid = OidIsValid(rel->rd_indcollation[attnum - 1]) ?
			rel->rd_indcollation[attnum - 1] : exprCollation(expr);
	}
	tuple = SearchSysCacheCopy1(TYPEOID, ObjectIdGetDatum(stats->attrtypid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", stats->attrtypid);
	stats->attrtype = (Form_pg_type) GETSTRUCT(tuple);
}

/* Prepare a column, or an index expression; NULL when it is not analyzed */
static VacAttrStats *
examine_column(Relation rel, int attnum, Node *expr)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	VacAttrStats *stats;
	bool		ok;

	if (attr->attisdropped || CMEK_ATTRIBUTE_IS_VIRTUAL(attr))
		return NULL;
	stats = palloc0(sizeof(VacAttrStats));
	if (!cmek_vacattr_target(stats, rel, attnum))
		return NULL;
	init_type(stats, rel, attnum, expr);
	stats->anl_context = CurrentMemoryContext;
	stats->tupattnum = attnum;
	init_value_types(stats);
	if (OidIsValid(stats->attrtype->typanalyze))
		ok = DatumGetBool(OidFunctionCall1(stats->attrtype->typanalyze,
										   PointerGetDatum(stats)));
	else
		ok = std_typanalyze(stats);
	return ok && stats->compute_stats != NULL && stats->minrows > 0 ? stats : NULL;
}

/* Prepare the columns that ANALYZE names, or all of them */
static void
plan_columns(StatsPlan *plan, Relation rel, List *columns)
{
	int			natts = RelationGetDescr(rel)->natts;

	plan->atts = palloc(sizeof(VacAttrStats *) * Max(natts, 1));
	for (int i = 0; i < natts; i++)
	{
		char	   *name = NameStr(TupleDescAttr(RelationGetDescr(rel), i)->attname);
		bool		wanted = columns == NIL;
		VacAttrStats *stats;
		ListCell   *lc;

		foreach(lc, columns)
			wanted |= strcmp(strVal(lfirst(lc)), name) == 0;
		if (wanted && (stats = examine_column(rel, i + 1, NULL)) != NULL)
			plan->atts[plan->natts++] = stats;
	}
}

/* Prepare the expressions of an index */
static void
plan_index(StatsIndex *plan, Relation index, bool expressions)
{
	IndexInfo  *info = BuildIndexInfo(index);
	ListCell   *next = list_head(info->ii_Expressions);

	plan->indexid = RelationGetRelid(index);
	plan->partial = info->ii_Predicate != NIL;
	plan->rows = -1;
	plan->atts = palloc(sizeof(VacAttrStats *) * info->ii_NumIndexAttrs);
	for (int i = 0; expressions && i < info->ii_NumIndexAttrs; i++)
	{
		VacAttrStats *stats;

		if (info->ii_IndexAttrNumbers[i] != 0)
			continue;
		if (next == NULL)
			elog(ERROR, "too few entries in indexprs list");
		stats = examine_column(index, i + 1, (Node *) lfirst(next));
		next = lnext(info->ii_Expressions, next);
		if (stats != NULL)
			plan->atts[plan->natts++] = stats;
	}
}

/* Prepare all indexes of a table; their expressions only without columns named */
static void
plan_indexes(StatsPlan *plan, Relation rel, bool expressions)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	plan->indexes = palloc0(sizeof(StatsIndex) * Max(list_length(indexes), 1));
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisready)
			plan_index(&plan->indexes[plan->nindexes++], index, expressions);
		index_close(index, NoLock);
	}
	list_free(indexes);
}

/* How many rows the columns want */
static int
most_rows(int natts, VacAttrStats **atts, int most)
{
	for (int i = 0; i < natts; i++)
		most = Max(most, atts[i]->minrows);
	return most;
}

/* See internal.h. */
StatsPlan *
stats_plan(Relation rel, bool inherited, List *columns)
{
	StatsPlan  *plan = palloc0(sizeof(StatsPlan));

	plan->context = CurrentMemoryContext;
	plan->inherited = inherited;
	plan_columns(plan, rel, columns);
	if (!inherited)
		plan_indexes(plan, rel, columns == NIL);
	plan->target = most_rows(plan->natts, plan->atts, LEAST_TARGET);
	for (int i = 0; i < plan->nindexes; i++)
		plan->target = most_rows(plan->indexes[i].natts, plan->indexes[i].atts,
								 plan->target);
	plan->target = Max(plan->target,
					   ComputeExtStatisticsRows(rel, plan->natts, plan->atts));
	return plan;
}

/* A value of a sampled row */
static Datum
fetch_column(VacAttrStatsP stats, int rownum, bool *isnull)
{
	return heap_getattr(stats->rows[rownum], stats->tupattnum, stats->tupDesc,
						isnull);
}

/* A value of an index expression */
static Datum
fetch_expression(VacAttrStatsP stats, int rownum, bool *isnull)
{
	int			i = rownum * stats->rowstride;

	*isnull = stats->exprnulls[i];
	return stats->exprvals[i];
}

/* Compute the statistics of the columns */
static void
compute_columns(StatsPlan *plan, Relation rel, HeapTuple *rows, int nrows,
				double totalrows, MemoryContext scratch)
{
	for (int i = 0; i < plan->natts; i++)
	{
		VacAttrStats *stats = plan->atts[i];
		AttributeOpts *options;

		stats->rows = rows;
		stats->tupDesc = RelationGetDescr(rel);
		MemoryContextSwitchTo(scratch);
		stats->compute_stats(stats, fetch_column, nrows, totalrows);
		options = get_attribute_options(RelationGetRelid(rel), stats->tupattnum);
		if (options != NULL)
		{
			float8		n = plan->inherited ? options->n_distinct_inherited :
				options->n_distinct;

			if (n != 0.0)
				stats->stadistinct = n;
		}
		MemoryContextSwitchTo(plan->context);
		MemoryContextReset(scratch);
	}
}

/* The values of an index's expressions */
typedef struct IndexValues
{
	int			nrows;			/* that are in the index */
	Datum	   *values;
	bool	   *nulls;
} IndexValues;

/* Keep the expressions' values of one row */
static void
keep_values(StatsIndex *plan, IndexValues *kept, const Datum *values,
			const bool *nulls)
{
	for (int i = 0; i < plan->natts; i++)
	{
		VacAttrStats *stats = plan->atts[i];
		int			from = stats->tupattnum - 1;
		int			to = kept->nrows * plan->natts + i;

		kept->nulls[to] = nulls[from];
		kept->values[to] = nulls[from] ? (Datum) 0 :
			datumCopy(values[from], stats->attrtype->typbyval,
					  stats->attrtype->typlen);
	}
}

/* Evaluate predicate and expressions of an index for all sampled rows */
static void
evaluate_index(StatsIndex *plan, Relation rel, IndexInfo *info,
			   HeapTuple *rows, int nrows, IndexValues *kept)
{
	EState	   *estate = CreateExecutorState();
	ExprContext *econtext = GetPerTupleExprContext(estate);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel),
													&TTSOpsHeapTuple);
	ExprState  *predicate = ExecPrepareQual(info->ii_Predicate, estate);

	econtext->ecxt_scantuple = slot;
	kept->nrows = 0;
	kept->values = palloc(sizeof(Datum) * Max(nrows * plan->natts, 1));
	kept->nulls = palloc(sizeof(bool) * Max(nrows * plan->natts, 1));
	for (int i = 0; i < nrows; i++)
	{
		Datum		values[INDEX_MAX_KEYS];
		bool		nulls[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(econtext);
		ExecStoreHeapTuple(rows[i], slot, false);
		if (predicate != NULL && !ExecQual(predicate, econtext))
			continue;
		if (plan->natts > 0)
		{
			FormIndexDatum(info, slot, estate, values, nulls);
			keep_values(plan, kept, values, nulls);
		}
		kept->nrows++;
	}
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/* Compute the statistics of an index's expressions */
static void
compute_index(StatsIndex *plan, Relation rel, HeapTuple *rows, int nrows,
			  double totalrows, MemoryContext scratch)
{
	Relation	index;
	IndexValues kept;

	if (plan->natts == 0 && !plan->partial)
		return;
	index = index_open(plan->indexid, AccessShareLock);
	evaluate_index(plan, rel, BuildIndexInfo(index), rows, nrows, &kept);
	index_close(index, NoLock);
	plan->rows = ceil((double) kept.nrows / nrows * totalrows);
	for (int i = 0; i < plan->natts && kept.nrows > 0; i++)
	{
		VacAttrStats *stats = plan->atts[i];
		MemoryContext old = MemoryContextSwitchTo(scratch);

		stats->exprvals = kept.values + i;
		stats->exprnulls = kept.nulls + i;
		stats->rowstride = plan->natts;
		stats->compute_stats(stats, fetch_expression, kept.nrows,
							 plan->rows);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
}

/* The numbers of one slot, as an array */
static bool
numbers_array(VacAttrStats *stats, int slot, Datum *array)
{
	Datum	   *numbers;

	if (stats->numnumbers[slot] <= 0)
		return false;
	numbers = palloc(sizeof(Datum) * stats->numnumbers[slot]);
	for (int i = 0; i < stats->numnumbers[slot]; i++)
		numbers[i] = Float4GetDatum(stats->stanumbers[slot][i]);
	*array = PointerGetDatum(construct_array(numbers, stats->numnumbers[slot],
											 FLOAT4OID, sizeof(float4), true,
											 TYPALIGN_INT));
	return true;
}

/* The values of one slot, as an array */
static bool
values_array(VacAttrStats *stats, int slot, Datum *array)
{
	if (stats->numvalues[slot] <= 0)
		return false;
	*array = PointerGetDatum(construct_array(stats->stavalues[slot],
											 stats->numvalues[slot],
											 stats->statypid[slot],
											 stats->statyplen[slot],
											 stats->statypbyval[slot],
											 stats->statypalign[slot]));
	return true;
}

/* The row that pg_statistic would have got */
static HeapTuple
form_row(TupleDesc desc, const StatsName *name, VacAttrStats *stats)
{
	Datum		values[Natts_pg_statistic] = {0};
	bool		nulls[Natts_pg_statistic] = {false};

	values[Anum_pg_statistic_starelid - 1] = ObjectIdGetDatum(name->relid);
	values[Anum_pg_statistic_staattnum - 1] = Int16GetDatum(name->attnum);
	values[Anum_pg_statistic_stainherit - 1] = BoolGetDatum(name->inherited);
	values[Anum_pg_statistic_stanullfrac - 1] = Float4GetDatum(stats->stanullfrac);
	values[Anum_pg_statistic_stawidth - 1] = Int32GetDatum(stats->stawidth);
	values[Anum_pg_statistic_stadistinct - 1] = Float4GetDatum(stats->stadistinct);
	for (int i = 0; i < STATISTIC_NUM_SLOTS; i++)
	{
		int			numbers = Anum_pg_statistic_stanumbers1 - 1 + i;
		int			vals = Anum_pg_statistic_stavalues1 - 1 + i;

		values[Anum_pg_statistic_stakind1 - 1 + i] = Int16GetDatum(stats->stakind[i]);
		values[Anum_pg_statistic_staop1 - 1 + i] = ObjectIdGetDatum(stats->staop[i]);
		values[Anum_pg_statistic_stacoll1 - 1 + i] = ObjectIdGetDatum(stats->stacoll[i]);
		nulls[numbers] = !numbers_array(stats, i, &values[numbers]);
		nulls[vals] = !values_array(stats, i, &values[vals]);
	}
	return heap_form_tuple(desc, values, nulls);
}

/* Store what was computed of some columns */
static void
store_columns(Oid relid, bool inherited, Oid table, List *tables, int natts,
			  VacAttrStats **atts)
{
	Relation	pg_statistic = table_open(StatisticRelationId, AccessShareLock);

	for (int i = 0; i < natts; i++)
	{
		StatsName	name = {relid, atts[i]->tupattnum, inherited};
		HeapTuple	row;

		if (!atts[i]->stats_valid)
			continue;
		row = form_row(RelationGetDescr(pg_statistic), &name, atts[i]);
		stats_store(&name, table, tables, row);
		cmek_cleanse(row->t_data, row->t_len);
		heap_freetuple(row);
	}
	table_close(pg_statistic, AccessShareLock);
}

/* See internal.h. */
void
stats_compute(StatsPlan *plan, Relation rel, HeapTuple *rows, int nrows,
			  double totalrows, List *tables)
{
	Oid			relid = RelationGetRelid(rel);
	MemoryContext old = MemoryContextSwitchTo(plan->context);
	MemoryContext scratch = AllocSetContextCreate(plan->context,
												  "cmek statistics column",
												  ALLOCSET_DEFAULT_SIZES);

	compute_columns(plan, rel, rows, nrows, totalrows, scratch);
	for (int i = 0; i < plan->nindexes; i++)
		compute_index(&plan->indexes[i], rel, rows, nrows, totalrows, scratch);
	MemoryContextDelete(scratch);
	store_columns(relid, plan->inherited, relid, tables, plan->natts, plan->atts);
	for (int i = 0; i < plan->nindexes; i++)
		store_columns(plan->indexes[i].indexid, false, relid, tables,
					  plan->indexes[i].natts, plan->indexes[i].atts);
	MemoryContextSwitchTo(old);
}
