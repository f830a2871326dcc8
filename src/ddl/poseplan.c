/*-------------------------------------------------------------------------
 *
 * poseplan.c
 *	  Sealed indexes in the planner and in the executor.
 *
 * The planner is told that a sealed index is a btree, for it asks that when it
 * means the comparison of rows, and how high the tree is.  Its plans outlive
 * any pose, so nothing else may follow from it.
 *
 * Before 18 the executor asks again: when it makes the scan of an index that
 * compares rows, and when it opens indexes for ON CONFLICT.  For as long as it
 * does that, these indexes pose (pose.c).  A scan is made at the start, and
 * again when a row is rechecked that somebody else has changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"

#include "btree/btree.h"
#include "compat.h"
#include "ddl/statement.h"

static ExecutorStart_hook_type previous_start = NULL;
static ExecutorRun_hook_type previous_run = NULL;
static ExecutorFinish_hook_type previous_finish = NULL;
static CmekRelationInfoHook previous_info = NULL;

static void collect_plan(const Plan *plan, List **indexes);

/* Note an index if its conditions compare rows */
static void
collect_index(Oid indexid, List *quals, List **indexes)
{
	ListCell   *lc;

	foreach(lc, quals)
	{
		if (IsA(lfirst(lc), RowCompareExpr))
		{
			*indexes = list_append_unique_oid(*indexes, indexid);
			return;
		}
	}
}

/* Go on with a list of plans */
static void
collect_plans(List *plans, List **indexes)
{
	ListCell   *lc;

	foreach(lc, plans)
		collect_plan((const Plan *) lfirst(lc), indexes);
}

/* The indexes below a plan whose conditions compare rows */
static void
collect_plan(const Plan *plan, List **indexes)
{
	if (plan == NULL)
		return;
	check_stack_depth();
	switch (nodeTag(plan))
	{
		case T_IndexScan:
			collect_index(((const IndexScan *) plan)->indexid,
						  ((const IndexScan *) plan)->indexqual, indexes);
			break;
		case T_IndexOnlyScan:
			collect_index(((const IndexOnlyScan *) plan)->indexid,
						  ((const IndexOnlyScan *) plan)->indexqual, indexes);
			break;
		case T_BitmapIndexScan:
			collect_index(((const BitmapIndexScan *) plan)->indexid,
						  ((const BitmapIndexScan *) plan)->indexqual, indexes);
			break;
		case T_BitmapAnd:
			collect_plans(((const BitmapAnd *) plan)->bitmapplans, indexes);
			break;
		case T_BitmapOr:
			collect_plans(((const BitmapOr *) plan)->bitmapplans, indexes);
			break;
		case T_Append:
			collect_plans(((const Append *) plan)->appendplans, indexes);
			break;
		case T_MergeAppend:
			collect_plans(((const MergeAppend *) plan)->mergeplans, indexes);
			break;
		case T_SubqueryScan:
			collect_plan(((const SubqueryScan *) plan)->subplan, indexes);
			break;
		case T_CustomScan:
			collect_plans(((const CustomScan *) plan)->custom_plans, indexes);
			break;
		default:
			break;
	}
	collect_plan(outerPlan(plan), indexes);
	collect_plan(innerPlan(plan), indexes);
}

/* All of a statement */
static List *
collect_statement(const PlannedStmt *stmt)
{
	List	   *indexes = NIL;

	collect_plan(stmt->planTree, &indexes);
	collect_plans(stmt->subplans, &indexes);
	return indexes;
}

/* May the executor recheck rows, and so make its scans again? */
static bool
statement_rechecks(const PlannedStmt *stmt)
{
	return stmt->commandType != CMD_SELECT || stmt->rowMarks != NIL ||
		stmt->hasModifyingCTE;
}

/* Is a plan one with ON CONFLICT? */
static bool
plan_has_conflict(const Plan *plan)
{
	return plan != NULL && IsA(plan, ModifyTable) &&
		((const ModifyTable *) plan)->onConflictAction != ONCONFLICT_NONE;
}

/* Is there an ON CONFLICT somewhere in the statement? */
static bool
statement_has_conflict(const PlannedStmt *stmt)
{
	ListCell   *lc;

	if (stmt->commandType == CMD_INSERT && plan_has_conflict(stmt->planTree))
		return true;
	if (!stmt->hasModifyingCTE)
		return false;
	foreach(lc, stmt->subplans)
	{
		if (plan_has_conflict((const Plan *) lfirst(lc)))
			return true;
	}
	return false;
}

/* Let the indexes pose that a plan asks about on conflict */
static void
pose_for_plan(const PlannedStmt *stmt, const Plan *plan)
{
	ListCell   *lc;

	if (!plan_has_conflict(plan))
		return;
	foreach(lc, ((const ModifyTable *) plan)->resultRelations)
		cmek_pose_tree(rt_fetch(lfirst_int(lc), stmt->rtable)->relid,
					   RowExclusiveLock);
}

/* Let all of them pose, and those that compare rows */
static void
pose_for_statement(const PlannedStmt *stmt, bool conflict, List *indexes)
{
	ListCell   *lc;

	foreach(lc, indexes)
		cmek_pose_index(lfirst_oid(lc), AccessShareLock);
	if (!conflict)
		return;
	pose_for_plan(stmt, stmt->planTree);
	foreach(lc, stmt->subplans)
		pose_for_plan(stmt, (const Plan *) lfirst(lc));
}

/* Core, or who hooked in before us */
static void
start_next(QueryDesc *query_desc, int eflags)
{
	if (previous_start)
		previous_start(query_desc, eflags);
	else
		standard_ExecutorStart(query_desc, eflags);
}

/* The executor makes its scans */
static void
pose_executor_start(QueryDesc *query_desc, int eflags)
{
	List	   *indexes = collect_statement(query_desc->plannedstmt);
	CmekPose	pose;
	volatile bool failed = true;

	if (likely(indexes == NIL))
	{
		start_next(query_desc, eflags);
		return;
	}
	cmek_pose_begin(&pose);
	PG_TRY();
	{
		pose_for_statement(query_desc->plannedstmt, false, indexes);
		start_next(query_desc, eflags);
		failed = false;
	}
	PG_FINALLY();
	{
		cmek_pose_end(&pose, failed);
	}
	PG_END_TRY();
}

/* What may have to pose while a statement runs; false when nothing has to */
static bool
run_needs_pose(const PlannedStmt *stmt, bool *conflict, List **indexes)
{
	*conflict = statement_has_conflict(stmt);
	*indexes = statement_rechecks(stmt) ? collect_statement(stmt) : NIL;
	return *conflict || *indexes != NIL;
}

/* Core, or who hooked in before us */
static void
run_next(CMEK_EXECUTOR_RUN_PARAMS)
{
	if (previous_run)
		previous_run(CMEK_EXECUTOR_RUN_ARGS);
	else
		standard_ExecutorRun(CMEK_EXECUTOR_RUN_ARGS);
}

/*
 * ON CONFLICT: the executor opens the indexes of a table at its first row, of
 * a partition at the first row that goes there.
 */
static void
pose_executor_run(CMEK_EXECUTOR_RUN_PARAMS)
{
	CmekPose	pose;
	volatile bool failed = true;
	bool		conflict;
	List	   *indexes;

	if (likely(!run_needs_pose(query_desc->plannedstmt, &conflict, &indexes)))
	{
		run_next(CMEK_EXECUTOR_RUN_ARGS);
		return;
	}
	cmek_pose_begin(&pose);
	PG_TRY();
	{
		pose_for_statement(query_desc->plannedstmt, conflict, indexes);
		run_next(CMEK_EXECUTOR_RUN_ARGS);
		failed = false;
	}
	PG_FINALLY();
	{
		cmek_pose_end(&pose, failed);
	}
	PG_END_TRY();
}

/* Core, or who hooked in before us */
static void
finish_next(QueryDesc *query_desc)
{
	if (previous_finish)
		previous_finish(query_desc);
	else
		standard_ExecutorFinish(query_desc);
}

/* A WITH that changes rows which nobody asked for runs only now */
static void
pose_executor_finish(QueryDesc *query_desc)
{
	CmekPose	pose;
	volatile bool failed = true;
	bool		conflict;
	List	   *indexes;

	if (likely(!query_desc->plannedstmt->hasModifyingCTE) ||
		!run_needs_pose(query_desc->plannedstmt, &conflict, &indexes))
	{
		finish_next(query_desc);
		return;
	}
	cmek_pose_begin(&pose);
	PG_TRY();
	{
		pose_for_statement(query_desc->plannedstmt, conflict, indexes);
		finish_next(query_desc);
		failed = false;
	}
	PG_FINALLY();
	{
		cmek_pose_end(&pose, failed);
	}
	PG_END_TRY();
}

/* What the planner knows of the indexes of a table */
static void
pose_relation_info(CMEK_RELATION_INFO_PARAMS(root, rel))
{
	Oid			method = InvalidOid;
	ListCell   *lc;

	if (previous_info)
		previous_info(CMEK_RELATION_INFO_ARGS(root, rel));
	foreach(lc, rel->indexlist)
	{
		IndexOptInfo *info = (IndexOptInfo *) lfirst(lc);

		if (info->sortopfamily == NULL || info->relam == BTREE_AM_OID ||
			info->hypothetical)
			continue;
		if (!OidIsValid(method))
			method = cmek_sealed_index_method();
		if (info->relam != method)
			continue;
		if (info->tree_height < 0)
			info->tree_height = cmek_btree_height(info->indexoid);
		info->relam = BTREE_AM_OID;
	}
}

/* Install the hooks */
void
cmek_pose_plan_init(void)
{
	previous_info = cmek_relation_info_hook;
	cmek_relation_info_hook = pose_relation_info;
	if (!CMEK_EXECUTOR_WANTS_BTREE)
		return;
	previous_start = ExecutorStart_hook;
	ExecutorStart_hook = pose_executor_start;
	previous_run = ExecutorRun_hook;
	ExecutorRun_hook = pose_executor_run;
	previous_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = pose_executor_finish;
}
