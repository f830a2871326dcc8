/*-------------------------------------------------------------------------
 *
 * unused.c
 *	  Rows whose columns nobody reads: count(*) unseals nothing.
 *
 * A slot unseals its row when somebody asks for a column, and copying a row
 * is asking for all of them.  A plain Agg copies its first input row for the
 * sake of columns outside of aggregates, also where its expressions have none.
 * When the executor has built such a plan, the slots of the scans below are
 * told that copies of their rows may be empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"

#include "heap/internal.h"

static ExecutorStart_hook_type previous_executor_start = NULL;

/*
 * Does the node use no column of its input?  True of a plain Agg without
 * columns in its expressions.
 */
static bool
agg_uses_no_column(AggState *node)
{
	Agg		   *agg = (Agg *) node->ss.ps.plan;

	return agg->aggstrategy == AGG_PLAIN && agg->numCols == 0 &&
		agg->groupingSets == NIL && agg->chain == NIL &&
		!contain_var_clause((Node *) agg->plan.targetlist) &&
		!contain_var_clause((Node *) agg->plan.qual);
}

/* Tell the slot of a scan, if it is one of ours */
static void
mark_scan(ScanState *node)
{
	TupleTableSlot *slot = node->ss_ScanTupleSlot;

	if (slot != NULL && IS_SEALED_SLOT(slot))
		slot_set_columns_unused(slot);
}

/* Tell the slots of the scans whose rows reach the node as they are */
static void
mark_scans(PlanState *node)
{
	switch (nodeTag(node))
	{
		case T_IndexScanState:
			/* ordering by distance queues copies, which are looked into */
			if (((IndexScanState *) node)->iss_NumOrderByKeys == 0)
				mark_scan((ScanState *) node);
			break;
		case T_SeqScanState:
		case T_SampleScanState:
		case T_BitmapHeapScanState:
		case T_TidScanState:
		case T_TidRangeScanState:
			mark_scan((ScanState *) node);
			break;
		case T_AppendState:
			for (int i = 0; i < ((AppendState *) node)->as_nplans; i++)
				mark_scans(((AppendState *) node)->appendplans[i]);
			break;
		default:
			break;
	}
}

/* Look for such nodes in the whole plan */
static bool
find_aggs(PlanState *node, void *context)
{
	if (IsA(node, AggState) && agg_uses_no_column((AggState *) node))
		mark_scans(outerPlanState(node));
	return planstate_tree_walker(node, find_aggs, context);
}

static void
unused_executor_start(QueryDesc *queryDesc, int eflags)
{
	if (previous_executor_start)
		previous_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);
	if (queryDesc->planstate != NULL)
		(void) find_aggs(queryDesc->planstate, NULL);
}

void
unused_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = unused_executor_start;
}
