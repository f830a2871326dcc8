/*-------------------------------------------------------------------------
 *
 * recreateobj.c
 *	  Constraints, indexes, statistics objects, rules, triggers and policies
 *	  of a table, out of its manifest.
 *
 * Each definition is parsed and has to be one statement of its kind about the
 * table of the manifest; then the table becomes the new one and the name the
 * recorded one, or a similar one when that is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_statistic_ext.h"
#include "catalog/pg_trigger.h"
#include "commands/comment.h"
#include "commands/defrem.h"
#include "commands/policy.h"
#include "commands/tablespace.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "rewrite/rewriteDefine.h"
#include "rewrite/rewriteSupport.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "lifecycle/manifest.h"

static const char *const statement_text = "cmek.restore_snapshot()";

/* ----------
 * Helpers
 * ----------
 */

/*
 * A definition as a statement of a kind.  The caller looks at what it is
 * about.
 */
static Node *
parse_definition(const json_t *object, NodeTag kind)
{
	return cmek_recreate_parse(cmek_manifest_text(object, "definition"), kind);
}

/* Put the new table where the old one is named; nothing else may be there. */
static RangeVar *
replace_table(const CmekRecreate *r, const RangeVar *named)
{
	const json_t *table = json_object_get(r->manifest, "table");
	char	   *schema = cmek_manifest_text(table, "schema");

	if (named == NULL || named->catalogname != NULL ||
		strcmp(named->relname, cmek_manifest_text(table, "name")) != 0 ||
		(named->schemaname != NULL && strcmp(named->schemaname, schema) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("its definition in the manifest is of another table")));
	return cmek_recreate_table_name(r);
}

/* A name for an index, with or without a constraint. */
static char *
index_name(const CmekRecreate *r, const json_t *object, const char *label)
{
	char	   *name = cmek_manifest_text(object, "name");

	if (cmek_recreate_is_free(r, name))
		return name;
	return ChooseRelationName(r->name, NULL, label,
							  get_rel_namespace(r->relid),
							  strcmp(label, "idx") != 0);
}

/* The tablespace of an index, the default when it is not here. */
static char *
tablespace(const json_t *object)
{
	char	   *name = cmek_manifest_text(object, "tablespace");

	if (name != NULL && !OidIsValid(get_tablespace_oid(name, true)))
		return NULL;
	return name;
}

/* Comment on an object that was made. */
static void
comment_on(const json_t *object, Oid class, Oid oid)
{
	char	   *comment = cmek_manifest_text(object, "comment");

	if (comment != NULL)
		CreateComments(oid, class, 0, comment);
}

/* What is said of an index on the table: CLUSTER ON, REPLICA IDENTITY */
static void
mark_index(const CmekRecreate *r, const json_t *object, const char *name)
{
	List	   *cmds = NIL;

	if (cmek_manifest_bool(object, "clustered"))
		cmds = lappend(cmds, cmek_recreate_cmd(AT_ClusterOn, name, NULL));
	if (cmek_manifest_bool(object, "replica_identity"))
	{
		ReplicaIdentityStmt *identity = makeNode(ReplicaIdentityStmt);

		identity->identity_type = REPLICA_IDENTITY_INDEX;
		identity->name = pstrdup(name);
		cmds = lappend(cmds, cmek_recreate_cmd(AT_ReplicaIdentity, NULL,
											   (Node *) identity));
	}
	if (cmds != NIL)
		cmek_recreate_alter(r, cmds, statement_text);
}

/* Which state of a trigger or rule takes which command; false: none. */
static bool
enabling(const json_t *object, AlterTableType disabled,
		 AlterTableType replica, AlterTableType always, AlterTableType *result)
{
	switch (cmek_manifest_char(object, "enabled"))
	{
		case TRIGGER_DISABLED:
			*result = disabled;
			return true;
		case TRIGGER_FIRES_ON_REPLICA:
			*result = replica;
			return true;
		case TRIGGER_FIRES_ALWAYS:
			*result = always;
			return true;
		default:
			return false;
	}
}

/* ----------
 * Steps
 * ----------
 */

/* The kind of constraint that a character of pg_constraint stands for */
static bool
is_kind(const Constraint *constraint, char kind)
{
	switch (kind)
	{
		case CONSTRAINT_PRIMARY:
			return constraint->contype == CONSTR_PRIMARY;
		case CONSTRAINT_UNIQUE:
			return constraint->contype == CONSTR_UNIQUE;
		case CONSTRAINT_EXCLUSION:
			return constraint->contype == CONSTR_EXCLUSION;
		case CONSTRAINT_CHECK:
			return constraint->contype == CONSTR_CHECK;
		case CONSTRAINT_FOREIGN:
			return constraint->contype == CONSTR_FOREIGN;
		default:
			return false;
	}
}

/* A constraint as the statement that adds it, and nothing else. */
static Constraint *
parse_constraint(const json_t *object, char kind, const char *text,
				 AlterTableStmt **stmt)
{
	AlterTableCmd *cmd;

	*stmt = (AlterTableStmt *) cmek_recreate_parse(text, T_AlterTableStmt);
	cmd = linitial_node(AlterTableCmd, (*stmt)->cmds);
	if (list_length((*stmt)->cmds) != 1 || cmd->subtype != AT_AddConstraint ||
		!is_kind(castNode(Constraint, cmd->def), kind) ||
		castNode(Constraint, cmd->def)->indexname != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("its definition in the manifest is not one statement of its kind")));
	return castNode(Constraint, cmd->def);
}

/* A step: one constraint, checked against the rows */
static void
add_constraint(CmekRecreate *r, const json_t *object)
{
	char		kind = cmek_manifest_char(object, "kind");
	bool		has_index = kind == CONSTRAINT_PRIMARY ||
		kind == CONSTRAINT_UNIQUE || kind == CONSTRAINT_EXCLUSION;
	char	   *text = psprintf("ALTER TABLE t ADD CONSTRAINT c %s",
								cmek_manifest_text(object, "definition"));
	AlterTableStmt *stmt;
	Constraint *constraint = parse_constraint(object, kind, text, &stmt);

	constraint->conname = cmek_manifest_text(object, "name");
	if (has_index)
	{
		constraint->conname = index_name(r, object,
										 kind == CONSTRAINT_PRIMARY ? "pkey" :
										 kind == CONSTRAINT_UNIQUE ? "key" : "excl");
		constraint->indexspace = tablespace(object);
	}
	cmek_recreate_rename(r, constraint->raw_expr);
	if (kind == CONSTRAINT_FOREIGN && cmek_manifest_bool(object, "self"))
		constraint->pktable = cmek_recreate_table_name(r);
	cmek_recreate_alter(r, stmt->cmds, text);
	comment_on(object, ConstraintRelationId,
			   get_relation_constraint_oid(r->relid, constraint->conname,
										   false));
	if (has_index)
		mark_index(r, object, constraint->conname);
}

/* How many rows ANALYZE looks at for expressions of an index */
static void
set_index_statistics(const json_t *object, const char *schema,
					 const char *name)
{
	const json_t *targets = json_object_get(object, "statistics");
	AlterTableStmt *stmt = makeNode(AlterTableStmt);

	for (size_t i = 0; i < json_array_size(targets); i++)
	{
		const json_t *target = json_array_get(targets, i);
		AlterTableCmd *cmd =
			cmek_recreate_cmd(AT_SetStatistics, NULL,
							  (Node *) makeInteger((int) cmek_manifest_int(target,
																		   "target")));

		cmd->num = (int16) cmek_manifest_int(target, "number");
		stmt->cmds = lappend(stmt->cmds, cmd);
	}
	if (stmt->cmds == NIL)
		return;
	stmt->relation = makeRangeVar(pstrdup(schema), pstrdup(name), -1);
	stmt->objtype = OBJECT_INDEX;
	cmek_recreate_run((Node *) stmt, statement_text);
}

/* A step: one index */
static void
add_index(CmekRecreate *r, const json_t *object)
{
	IndexStmt  *stmt = (IndexStmt *) parse_definition(object, T_IndexStmt);

	stmt->relation = replace_table(r, stmt->relation);
	stmt->idxname = index_name(r, object, "idx");
	stmt->tableSpace = tablespace(object);
	stmt->concurrent = false;
	stmt->if_not_exists = false;
	cmek_recreate_run((Node *) stmt, cmek_manifest_text(object, "definition"));
	comment_on(object, RelationRelationId,
			   get_relname_relid(stmt->idxname, get_rel_namespace(r->relid)));
	mark_index(r, object, stmt->idxname);
	set_index_statistics(object, r->schema, stmt->idxname);
}

/* A step: one statistics object */
static void
add_statistics(CmekRecreate *r, const json_t *object)
{
	CreateStatsStmt *stmt =
		(CreateStatsStmt *) parse_definition(object, T_CreateStatsStmt);
	char	   *name = cmek_manifest_text(object, "name");
	int64		target = cmek_manifest_int(object, "target");
	List	   *qualified = list_make2(makeString(r->schema), makeString(name));
	AlterStatsStmt *alter;

	if (list_length(stmt->relations) != 1)
		replace_table(r, NULL);
	stmt->relations = list_make1(replace_table(r, castNode(RangeVar,
														   linitial(stmt->relations))));
	if (OidIsValid(get_statistics_object_oid(qualified, true)))
		qualified = list_make2(makeString(r->schema),
							   makeString(makeObjectName(r->name, name, "stat")));
	stmt->defnames = qualified;
	stmt->if_not_exists = false;
	cmek_recreate_run((Node *) stmt, cmek_manifest_text(object, "definition"));
	comment_on(object, StatisticExtRelationId,
			   get_statistics_object_oid(qualified, false));
	if (target < 0)
		return;
	alter = (AlterStatsStmt *)
		cmek_recreate_parse(psprintf("ALTER STATISTICS s SET STATISTICS %d",
									 (int) Min(target, PG_INT32_MAX)),
							T_AlterStatsStmt);
	alter->defnames = qualified;
	cmek_recreate_run((Node *) alter, statement_text);
}

/* A step: one rule */
static void
add_rule(CmekRecreate *r, const json_t *object)
{
	RuleStmt   *stmt = (RuleStmt *) parse_definition(object, T_RuleStmt);
	AlterTableType state;

	stmt->relation = replace_table(r, stmt->relation);
	if (stmt->event == CMD_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a table has no rule for SELECT")));
	stmt->rulename = cmek_manifest_text(object, "name");
	stmt->replace = false;
	cmek_recreate_run((Node *) stmt, cmek_manifest_text(object, "definition"));
	comment_on(object, RewriteRelationId,
			   get_rewrite_oid(r->relid, stmt->rulename, false));
	if (enabling(object, AT_DisableRule, AT_EnableReplicaRule,
				 AT_EnableAlwaysRule, &state))
		cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(state, stmt->rulename,
															NULL)),
							statement_text);
}

/* A step: one trigger */
static void
add_trigger(CmekRecreate *r, const json_t *object)
{
	CreateTrigStmt *stmt =
		(CreateTrigStmt *) parse_definition(object, T_CreateTrigStmt);
	AlterTableType state;

	stmt->relation = replace_table(r, stmt->relation);
	stmt->trigname = cmek_manifest_text(object, "name");
	stmt->replace = false;
	cmek_recreate_run((Node *) stmt, cmek_manifest_text(object, "definition"));
	comment_on(object, TriggerRelationId,
			   get_trigger_oid(r->relid, stmt->trigname, false));
	if (enabling(object, AT_DisableTrig, AT_EnableReplicaTrig,
				 AT_EnableAlwaysTrig, &state))
		cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(state, stmt->trigname,
															NULL)),
							statement_text);
}

/* The command that a policy is for */
static char *
policy_command(char command)
{
	switch (command)
	{
		case ACL_SELECT_CHR:
			return "select";
		case ACL_INSERT_CHR:
			return "insert";
		case ACL_UPDATE_CHR:
			return "update";
		case ACL_DELETE_CHR:
			return "delete";
		case '*':
			return "all";
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("its command in the manifest does not exist")));
			return NULL;
	}
}

/* A step: one policy */
static void
add_policy(CmekRecreate *r, const json_t *object)
{
	CreatePolicyStmt *stmt = makeNode(CreatePolicyStmt);
	const json_t *roles = json_object_get(object, "roles");
	char	   *using = cmek_manifest_text(object, "using");
	char	   *check = cmek_manifest_text(object, "check");

	stmt->policy_name = cmek_manifest_text(object, "name");
	stmt->table = cmek_recreate_table_name(r);
	stmt->cmd_name = policy_command(cmek_manifest_char(object, "command"));
	stmt->permissive = cmek_manifest_bool(object, "permissive");
	for (size_t i = 0; i < json_array_size(roles); i++)
	{
		RoleSpec   *role = makeNode(RoleSpec);

		role->rolename = cmek_manifest_string(json_array_get(roles, i));
		role->roletype = role->rolename == NULL ? ROLESPEC_PUBLIC :
			ROLESPEC_CSTRING;
		role->location = -1;
		stmt->roles = lappend(stmt->roles, role);
	}
	stmt->qual = using == NULL ? NULL : cmek_recreate_parse_expr(using);
	stmt->with_check = check == NULL ? NULL : cmek_recreate_parse_expr(check);
	cmek_recreate_rename(r, stmt->qual);
	cmek_recreate_rename(r, stmt->with_check);
	cmek_recreate_run((Node *) stmt, statement_text);
	comment_on(object, PolicyRelationId,
			   get_relation_policy_oid(r->relid, stmt->policy_name, false));
}

/* A step: ENABLE and FORCE ROW LEVEL SECURITY */
static void
set_row_security(CmekRecreate *r, const json_t *table)
{
	List	   *cmds = NIL;

	if (cmek_manifest_bool(table, "row_security"))
		cmds = lappend(cmds, cmek_recreate_cmd(AT_EnableRowSecurity, NULL, NULL));
	if (cmek_manifest_bool(table, "force_row_security"))
		cmds = lappend(cmds, cmek_recreate_cmd(AT_ForceRowSecurity, NULL, NULL));
	if (cmds != NIL)
		cmek_recreate_alter(r, cmds, statement_text);
}

/* ----------
 * In order
 * ----------
 */

/* Do a step for each object of a section; false when one failed. */
static bool
for_objects(CmekRecreate *r, const char *section, const char *what,
			CmekRecreateStep step)
{
	const json_t *objects = json_object_get(r->manifest, section);
	bool		all = true;

	for (size_t i = 0; i < json_array_size(objects); i++)
	{
		const json_t *object = json_array_get(objects, i);

		if (!cmek_recreate_try(r, psprintf("%s \"%s\"", what,
										   cmek_manifest_text(object, "name")),
							   step, object))
			all = false;
	}
	return all;
}

/* Constraints of these kinds */
static void
add_constraints(CmekRecreate *r, const char *kinds)
{
	const json_t *objects = json_object_get(r->manifest, "constraints");

	for (size_t i = 0; i < json_array_size(objects); i++)
	{
		const json_t *object = json_array_get(objects, i);
		char		kind = cmek_manifest_char(object, "kind");

		if (kind != '\0' && strchr(kinds, kind) != NULL)
			(void) cmek_recreate_try(r, psprintf("constraint \"%s\"",
												 cmek_manifest_text(object, "name")),
									 add_constraint, object);
	}
}

/* See manifest.h. */
void
cmek_recreate_objects(CmekRecreate *r)
{
	add_constraints(r, "pux");
	(void) for_objects(r, "indexes", "index", add_index);
	add_constraints(r, "cf");
	(void) for_objects(r, "statistics", "statistics object", add_statistics);
	(void) for_objects(r, "rules", "rule", add_rule);
	(void) for_objects(r, "triggers", "trigger", add_trigger);
}

/*
 * See manifest.h.  Without one of its policies a table may show more than it
 * did: a restrictive one, or any of several that were written together.
 */
bool
cmek_recreate_row_security(CmekRecreate *r)
{
	bool		all = for_objects(r, "policies", "policy", add_policy);

	return cmek_recreate_try(r, "row security", set_row_security,
							 json_object_get(r->manifest, "table")) && all;
}
