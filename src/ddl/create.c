/*-------------------------------------------------------------------------
 *
 * create.c
 *	  CREATE TABLE and its kin: what is asked for in the statement, before
 *	  core runs it, and the binding once the pg_class row exists.
 *
 * The key asked for reaches the table made by that very statement and no
 * other: a statement run inside it (by an event trigger, by a function of its
 * query) has a CmekStatement of its own.  The keys are made in the object
 * access hook, so before any row; whatever fails there takes the table along.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "ddl/statement.h"

/*
 * REFRESH MATERIALIZED VIEW: which one, looked up while search_path is still
 * the caller's.
 */
void
cmek_refresh_before(CmekStatement *s, RefreshMatViewStmt *stmt)
{
	s->refreshed = RangeVarGetRelid(stmt->relation, NoLock, true);
	if (!CMEK_SPECULATIVE_WANTS_BTREE || !stmt->concurrent ||
		!OidIsValid(s->refreshed))
		return;
	/* core looks for a unique index of method btree; its lock, its checks */
	s->refreshed = RangeVarGetRelidExtended(stmt->relation, ExclusiveLock, 0,
											cmek_callback_refresh, NULL);
	cmek_pose_tree(s->refreshed, ExclusiveLock);
}

/*
 * Is the statement core's own CREATE TEMP TABLE for the changes of a sealed
 * materialized view?  They must not lie in clear either.
 */
static bool
create_is_refresh_scratch(const CmekStatement *s, const CreateStmt *stmt)
{
	CmekClass	cls;

	return s->outer != NULL && OidIsValid(s->outer->refreshed) &&
		stmt->relation->relpersistence == RELPERSISTENCE_TEMP &&
		cmek_class_get(s->outer->refreshed, &cls) &&
		cmek_class_is_sealed(&cls);
}

/* Does the statement name cmek_heap? */
static bool
create_names_method(const CreateStmt *stmt)
{
	return stmt->accessMethod != NULL &&
		strcmp(stmt->accessMethod, CMEK_HEAP_NAME) == 0;
}

/* A partition of a sealed table is sealed */
static void
create_inherit_method(CreateStmt *stmt)
{
	if (stmt->accessMethod == NULL)
		stmt->accessMethod = pstrdup(CMEK_HEAP_NAME);
	else if (!create_names_method(stmt))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" cannot be a partition of a sealed table",
						stmt->relation->relname),
				 errdetail("Its access method is \"%s\".", stmt->accessMethod),
				 errhint("Use access method %s or none.", CMEK_HEAP_NAME)));
}

/* Does the statement ask for any key? */
static bool
asks(const CmekAsked *asked)
{
	return asked->has_key || asked->has_replicas;
}

/*
 * A partitioned table with a key is sealed too.  Where core does not let it
 * have an access method, its label stands for one.
 */
static void
create_partitioned(CmekStatement *s, CreateStmt *stmt)
{
	if (stmt->accessMethod == NULL && asks(&s->asked))
		stmt->accessMethod = pstrdup(CMEK_HEAP_NAME);
	s->seal_parent = create_names_method(stmt);
	if (s->seal_parent && !CMEK_PARTITIONED_HAS_METHOD)
		stmt->accessMethod = NULL;
}

/* CREATE TABLE; returns our own copy when something had to change */
Node *
cmek_create_before(CmekStatement *s, CreateStmt *stmt)
{
	bool		inherit = false;
	bool		scratch;
	CreateStmt *copy;

	s->table = stmt->relation;
	if (stmt->partbound != NULL && list_length(stmt->inhRelations) == 1)
	{
		s->parent = RangeVarGetRelid(linitial_node(RangeVar, stmt->inhRelations),
									 NoLock, true);
		inherit = cmek_partition_parent_is_sealed(s->parent);
	}
	scratch = create_is_refresh_scratch(s, stmt);
	if (!inherit && !scratch && !cmek_options_present(stmt->options) &&
		!(stmt->partspec != NULL && create_names_method(stmt)))
		return (Node *) stmt;

	copy = copyObject(stmt);
	copy->options = cmek_options_strip(copy->options, &s->asked);
	if (inherit || scratch)
		create_inherit_method(copy);
	if (copy->partspec != NULL)
		create_partitioned(s, copy);
	return (Node *) copy;
}

/* CREATE TABLE AS, SELECT INTO, CREATE MATERIALIZED VIEW */
Node *
cmek_create_as_before(CmekStatement *s, CreateTableAsStmt *stmt)
{
	CreateTableAsStmt *copy;

	s->table = stmt->into->rel;
	if (!cmek_options_present(stmt->into->options))
		return (Node *) stmt;
	copy = copyObject(stmt);
	copy->into->options = cmek_options_strip(copy->into->options, &s->asked);
	return (Node *) copy;
}

/* EXPLAIN of these: with ANALYZE the table is really made */
Node *
cmek_explain_before(CmekStatement *s, ExplainStmt *stmt)
{
	Node	   *utility;
	Node	   *stripped;
	ExplainStmt *copy;

	if (!IsA(stmt->query, Query))
		return (Node *) stmt;
	utility = ((Query *) stmt->query)->utilityStmt;
	if (utility == NULL || !IsA(utility, CreateTableAsStmt))
		return (Node *) stmt;
	stripped = cmek_create_as_before(s, (CreateTableAsStmt *) utility);
	if (stripped == utility)
		return (Node *) stmt;
	copy = copyObject(stmt);
	((Query *) copy->query)->utilityStmt = stripped;
	return (Node *) copy;
}

/* Is the new relation the one that the statement makes? */
static bool
create_is_meant(const CmekStatement *s, const CmekClass *cls)
{
	const RangeVar *table = s->table;

	if (table == NULL || strcmp(table->relname, NameStr(cls->relname)) != 0)
		return false;
	if (table->schemaname == NULL || strcmp(table->schemaname, "pg_temp") == 0)
		return true;
	return get_namespace_oid(table->schemaname, true) == cls->relnamespace;
}

/* The statement that makes this relation, NULL when no SQL statement does */
static CmekStatement *
create_take_statement(const CmekClass *cls)
{
	CmekStatement *s = cmek_statement;

	if (s == NULL || !create_is_meant(s, cls))
		return NULL;
	s->table = NULL;
	return s;
}

/* A table that is not sealed cannot have what belongs to a sealed one */
static void
create_plain(const CmekStatement *s, const CmekClass *cls)
{
	if (s != NULL && asks(&s->asked))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is not sealed", NameStr(cls->relname)),
				 errdetail("Only tables of access method %s have a KMS key.",
						   CMEK_HEAP_NAME),
				 errhint("Add USING %s.", CMEK_HEAP_NAME)));
	cmek_policy_check_plain(cls);
}

/* Temporary tables have a key of the session */
static void
create_temporary(const CmekStatement *s, const CmekClass *cls)
{
	if (s != NULL && asks(&s->asked))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("temporary table \"%s\" cannot be bound to a KMS key",
						NameStr(cls->relname)),
				 errdetail("Temporary tables are sealed with a key of the session.")));
}

/* Bind the new table.  The hook's caller lets us make its rows visible. */
static void
create_sealed(const CmekStatement *s, const CmekClass *cls)
{
	CmekKeys	keys;
	bool		bind = cmek_bind_resolve(s == NULL ? NULL : &s->asked,
										 s == NULL ? InvalidOid : s->parent,
										 &keys);

	cmek_policy_check_logical(cls);
	if (!bind && !cmek_class_has_rows(cls) && !CMEK_PARTITIONED_HAS_METHOD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("partitioned table \"%s\" needs a KMS key to be sealed",
						NameStr(cls->relname)),
				 errhint("Name one: WITH (cmek.key = ...).")));
	LockRelationOid(cls->relid, AccessExclusiveLock);
	CommandCounterIncrement();
	cmek_bind_forget_stale(cls);
	if (bind)
		cmek_bind_new(cls, &keys);
}

/*
 * A table, materialized view or partitioned table was made; its pg_class row
 * is written but not visible yet.
 */
void
cmek_create_table_made(Oid relid)
{
	CmekClass	cls;
	CmekStatement *s;

	if (IsBinaryUpgrade || !cmek_class_get_new(relid, &cls))
		return;
	/* transient copies use the keys of the table they will replace */
	if (OidIsValid(cls.relrewrite))
	{
		cmek_alter_rewriting(cls.relrewrite);
		return;
	}
	if (!cmek_class_has_rows(&cls) &&
		cls.relkind != RELKIND_PARTITIONED_TABLE)
		return;
	s = create_take_statement(&cls);
	if (!cmek_class_is_sealed(&cls) && !(s != NULL && s->seal_parent))
		create_plain(s, &cls);
	else if (cls.relpersistence == RELPERSISTENCE_TEMP)
		create_temporary(s, &cls);
	else
		create_sealed(s, &cls);
}
