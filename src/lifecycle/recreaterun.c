/*-------------------------------------------------------------------------
 *
 * recreaterun.c
 *	  One step of recreating a table: a definition parsed, run, and failed
 *	  alone when it fails.
 *
 * A text of a manifest becomes a tree here, and only when it is one statement
 * of the kind that was asked for.  Trees are run through ProcessUtility, so
 * that hooks, ours among them, see them like everybody's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "keys/keys.h"
#include "lifecycle/manifest.h"

/* Complain of a definition. */
static void
report_definition(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("its definition in the manifest is not %s", what)));
}

/* See manifest.h. */
Node *
cmek_recreate_parse(const char *text, NodeTag kind)
{
	List	   *trees = raw_parser(text, RAW_PARSE_DEFAULT);

	if (list_length(trees) != 1 ||
		nodeTag(linitial_node(RawStmt, trees)->stmt) != kind)
		report_definition("one statement of its kind");
	return linitial_node(RawStmt, trees)->stmt;
}

/*
 * See manifest.h.  The parser takes what may follow SELECT: there has to be
 * one value, and nothing else.
 */
Node *
cmek_recreate_parse_expr(const char *text)
{
	List	   *trees = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = castNode(SelectStmt,
								  linitial_node(RawStmt, trees)->stmt);
	SelectStmt *bare = makeNode(SelectStmt);
	ResTarget  *value;

	bare->targetList = select->targetList;
	if (list_length(select->targetList) != 1 || !equal(select, bare))
		report_definition("one expression");
	value = linitial_node(ResTarget, select->targetList);
	if (value->name != NULL || value->indirection != NIL)
		report_definition("one expression");
	return value->val;
}

/* What is renamed */
typedef struct Renaming
{
	const char *old_schema;
	const char *old_name;
	char	   *schema;
	char	   *name;
} Renaming;

/* Rename one node and all below it. */
static bool
rename_walker(Node *node, void *arg)
{
	const Renaming *names = arg;

	if (node == NULL)
		return false;
	if (IsA(node, ColumnRef))
	{
		List	   *fields = ((ColumnRef *) node)->fields;

		if (list_length(fields) == 2 && IsA(linitial(fields), String) &&
			strcmp(strVal(linitial(fields)), names->old_name) == 0)
			linitial(fields) = makeString(names->name);
		return false;
	}
	if (IsA(node, RangeVar))
	{
		RangeVar   *table = (RangeVar *) node;

		if (table->schemaname != NULL &&
			strcmp(table->schemaname, names->old_schema) == 0 &&
			strcmp(table->relname, names->old_name) == 0)
		{
			table->schemaname = names->schema;
			table->relname = names->name;
		}
		return false;
	}
	return raw_expression_tree_walker(node, rename_walker, arg);
}

/*
 * See manifest.h.  Subqueries name the table they are in: printed expressions
 * give every table another name, so one of this name is ours.
 */
void
cmek_recreate_rename(const CmekRecreate *r, Node *expr)
{
	const json_t *table = json_object_get(r->manifest, "table");
	Renaming	names;

	names.old_schema = cmek_manifest_text(table, "schema");
	names.old_name = cmek_manifest_text(table, "name");
	names.schema = r->schema;
	names.name = r->name;
	(void) rename_walker(expr, &names);
}

/* See manifest.h. */
void
cmek_recreate_run(Node *stmt, const char *text)
{
	PlannedStmt *planned = makeNode(PlannedStmt);

	planned->commandType = CMD_UTILITY;
	planned->utilityStmt = stmt;
	planned->stmt_location = -1;
	PushActiveSnapshot(GetTransactionSnapshot());
	ProcessUtility(planned, text, false, PROCESS_UTILITY_QUERY, NULL, NULL,
				   None_Receiver, NULL);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/* See manifest.h. */
bool
cmek_recreate_is_free(const CmekRecreate *r, const char *name)
{
	return !OidIsValid(get_relname_relid(name, get_rel_namespace(r->relid)));
}

/* See manifest.h. */
RangeVar *
cmek_recreate_table_name(const CmekRecreate *r)
{
	return makeRangeVar(pstrdup(r->schema), pstrdup(r->name), -1);
}

/* See manifest.h. */
AlterTableCmd *
cmek_recreate_cmd(AlterTableType subtype, const char *name, Node *def)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);

	cmd->subtype = subtype;
	cmd->name = name == NULL ? NULL : pstrdup(name);
	cmd->def = def;
	return cmd;
}

/* See manifest.h. */
void
cmek_recreate_alter(const CmekRecreate *r, List *cmds, const char *text)
{
	AlterTableStmt *stmt = makeNode(AlterTableStmt);

	stmt->relation = cmek_recreate_table_name(r);
	stmt->cmds = cmds;
	stmt->objtype = OBJECT_TABLE;
	cmek_recreate_run((Node *) stmt, text);
}

/* See manifest.h. */
void
cmek_recreate_fail(CmekRecreate *r, const char *format,...)
{
	MemoryContext old = MemoryContextSwitchTo(r->context);
	StringInfoData text;

	initStringInfo(&text);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&text, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&text, needed);
	}
	r->failures = lappend(r->failures, text.data);
	MemoryContextSwitchTo(old);
}

/* Is it an error after which there is no going on? */
static bool
is_fatal(int sqlerrcode)
{
	return sqlerrcode == CMEK_ERRCODE_KEY_UNAVAILABLE ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		sqlerrcode == ERRCODE_IO_ERROR;
}

/* Write down why a step failed, or fail everything. */
static void
note_failure(CmekRecreate *r, const char *what, ErrorData *error)
{
	if (is_fatal(error->sqlerrcode))
		ReThrowError(error);
	if (what == NULL)
		return;
	if (error->detail != NULL)
		cmek_recreate_fail(r, "%s: %s (%s)", what, error->message,
						   error->detail);
	else
		cmek_recreate_fail(r, "%s: %s", what, error->message);
}

/* A step and what it works on */
typedef struct RecreateTry
{
	CmekRecreate *recreate;
	CmekRecreateStep step;
	const json_t *object;
} RecreateTry;

static void
try_step(void *arg)
{
	const RecreateTry *t = arg;

	t->step(t->recreate, t->object);
}

/* See manifest.h.  Without "what" a failure is not written down. */
bool
cmek_recreate_try(CmekRecreate *r, const char *what, CmekRecreateStep step,
				  const json_t *object)
{
	RecreateTry t = {r, step, object};
	ErrorData  *error = cmek_try(try_step, &t);

	if (error == NULL)
		return true;
	note_failure(r, what, error);
	FreeErrorData(error);
	return false;
}
