/*-------------------------------------------------------------------------
 *
 * hook.c
 *	  The utility hook: what is done before and after core runs a statement.
 *
 * The caller's tree is never changed; a statement that has to change is a
 * copy.  cmek_statement always names the innermost statement: it is put back
 * whichever way a statement ends, so nothing outlives an error, a savepoint
 * or a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "tcop/utility.h"

#include "ddl/statement.h"

CmekStatement *cmek_statement = NULL;

static ProcessUtility_hook_type previous_hook = NULL;

/*
 * What happens before core's turn.  Returns the tree that core shall see: the
 * same, a copy of ours, or NULL when nothing is left for core to do.
 */
static Node *
hook_before(CmekStatement *s, Node *node)
{
	if (IsA(node, IndexStmt))
		return cmek_index_before(s, (IndexStmt *) node);
	if (IsA(node, AlterTableStmt))
		node = (Node *) cmek_alter_index_before(s, (AlterTableStmt *) node);
	if (IsBinaryUpgrade)
		return node;
	switch (nodeTag(node))
	{
		case T_CreateStmt:
			return cmek_create_before(s, (CreateStmt *) node);
		case T_CreateTableAsStmt:
			return cmek_create_as_before(s, (CreateTableAsStmt *) node);
		case T_ExplainStmt:
			return cmek_explain_before(s, (ExplainStmt *) node);
		case T_RefreshMatViewStmt:
			cmek_refresh_before(s, (RefreshMatViewStmt *) node);
			break;
		case T_AlterTableStmt:
			return cmek_alter_before(s, (AlterTableStmt *) node);
		case T_CreateForeignServerStmt:
			cmek_server_create_before((CreateForeignServerStmt *) node);
			break;
		case T_AlterForeignServerStmt:
			cmek_server_alter_before((AlterForeignServerStmt *) node);
			break;
		case T_RenameStmt:
			cmek_server_rename_before(s, (RenameStmt *) node);
			break;
		case T_CreateUserMappingStmt:
			return cmek_mapping_create_before((CreateUserMappingStmt *) node);
		case T_AlterUserMappingStmt:
			return cmek_mapping_alter_before((AlterUserMappingStmt *) node);
		case T_CreateStatsStmt:
			cmek_policy_check_statistics((CreateStatsStmt *) node);
			break;
		case T_DropStmt:
			cmek_drop_before(s, (DropStmt *) node);
			break;
		case T_DropOwnedStmt:
			cmek_drop_owned_before(s, (DropOwnedStmt *) node);
			break;
		default:
			break;
	}
	return node;
}

/* What happens after core is done, in the same transaction */
static void
hook_after(CmekStatement *s)
{
	if (OidIsValid(s->sealing) || OidIsValid(s->unsealing))
		cmek_alter_after(s);
	if (s->twins != NULL)
		cmek_opclass_drop_twins(s);
	if (s->saved_options != NIL)
		cmek_index_put_back_options(s);
	if (OidIsValid(s->renamed))
		cmek_server_rename_after(s);
}

/* The statement with another tree; the rest is the caller's, unchanged */
static PlannedStmt *
hook_replace(const PlannedStmt *pstmt, Node *node)
{
	PlannedStmt *copy = makeNode(PlannedStmt);

	memcpy(copy, pstmt, sizeof(PlannedStmt));
	copy->utilityStmt = node;
	return copy;
}

/* Core, or who hooked in before us */
static void
hook_next(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		  ProcessUtilityContext context, ParamListInfo params,
		  QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_hook)
		previous_hook(pstmt, queryString, readOnlyTree, context, params,
					  queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/* One statement: our part, core's part, our part */
static void
hook_run(CmekStatement *s, PlannedStmt *pstmt, const char *queryString,
		 bool readOnlyTree, ProcessUtilityContext context,
		 ParamListInfo params, QueryEnvironment *queryEnv,
		 DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *node = hook_before(s, pstmt->utilityStmt);

	if (node != NULL && node != pstmt->utilityStmt)
	{
		s->node = node;
		pstmt = hook_replace(pstmt, node);
		readOnlyTree = false;
	}
	if (node != NULL)
		hook_next(pstmt, queryString, readOnlyTree, context, params, queryEnv,
				  dest, qc);
	hook_after(s);
}

/* The hook */
static void
hook_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *queryEnv, DestReceiver *dest,
			 QueryCompletion *qc)
{
	CmekStatement s = {0};
	volatile bool failed = true;

	s.outer = cmek_statement;
	s.node = pstmt->utilityStmt;
	s.context = CurrentMemoryContext;
	cmek_statement = &s;
	cmek_pose_begin(&s.pose);
	PG_TRY();
	{
		hook_run(&s, pstmt, queryString, readOnlyTree, context, params,
				 queryEnv, dest, qc);
		failed = false;
	}
	PG_FINALLY();
	{
		cmek_pose_end(&s.pose, failed);
		cmek_statement = s.outer;
	}
	PG_END_TRY();
}

/* Install the hook */
void
cmek_hook_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = hook_utility;
}
