/*-------------------------------------------------------------------------
 *
 * alterindex.c
 *	  ALTER TABLE and ALTER INDEX, where core must be helped with sealed
 *	  indexes before its turn.
 *
 * Tables are looked up by core's own function, which checks ownership before
 * it takes the lock that core would take.  Nothing is changed that core's part
 * of the statement, or cmek_alter_index_after, does not put right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "ddl/statement.h"

/* What an ALTER TABLE asks of us */
typedef struct AlterIndexRequest
{
	List	   *attached;		/* of RangeVar: indexes of partitions */
	List	   *used;			/* of String: indexes for constraints */
	List	   *constraints;	/* of Constraint, that name what is ours */
	bool		options;		/* options among it */
	int			indexes;		/* how many subcommands make one */
	bool		remade;			/* ALTER COLUMN ... TYPE, or like it */
} AlterIndexRequest;

/* Is the statement ALTER TABLE or ALTER INDEX ... ATTACH PARTITION? */
bool
cmek_alter_attaches(const CmekStatement *s)
{
	ListCell   *lc;

	if (s == NULL || s->node == NULL || !IsA(s->node, AlterTableStmt))
		return false;
	foreach(lc, ((AlterTableStmt *) s->node)->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_AttachPartition)
			return true;
	}
	return false;
}

/* A constraint may make an index */
static void
request_constraint(AlterIndexRequest *req, Constraint *constraint)
{
	if (constraint->contype != CONSTR_PRIMARY &&
		constraint->contype != CONSTR_UNIQUE &&
		constraint->contype != CONSTR_EXCLUSION)
		return;
	req->indexes++;
	if (constraint->indexname != NULL)
		req->used = lappend(req->used, makeString(constraint->indexname));
	else if (cmek_index_has_options(constraint->options) ||
			 (constraint->access_method != NULL &&
			  strcmp(constraint->access_method, CMEK_BTREE_NAME) == 0))
		req->constraints = lappend(req->constraints, constraint);
	if (cmek_index_has_options(constraint->options))
		req->options = true;
}

/* One subcommand */
static void
request_command(AlterIndexRequest *req, const AlterTableCmd *cmd)
{
	ListCell   *lc;

	switch (cmd->subtype)
	{
		case AT_AttachPartition:
			req->attached = lappend(req->attached,
									((PartitionCmd *) cmd->def)->name);
			break;
		case AT_AddConstraint:
			request_constraint(req, castNode(Constraint, cmd->def));
			break;
		case AT_AddColumn:
			foreach(lc, castNode(ColumnDef, cmd->def)->constraints)
				request_constraint(req, lfirst_node(Constraint, lc));
			break;
		default:
			break;
	}
	if (cmek_alter_remakes_indexes(cmd->subtype))
	{
		req->remade = true;
		req->indexes++;
	}
}

/* All of them; true when there is something for us */
static bool
request_read(AlterIndexRequest *req, const AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
		request_command(req, lfirst_node(AlterTableCmd, lc));
	return req->attached != NIL || req->used != NIL ||
		req->constraints != NIL || req->remade;
}

/*
 * ALTER INDEX ... ATTACH PARTITION: core compares the methods of the two
 * indexes.  Locked as core does, the table first.
 */
static void
attach_pose(const RangeVar *name)
{
	Oid			indexid = RangeVarGetRelid(name, NoLock, true);
	Oid			relid;

	if (!OidIsValid(indexid) ||
		get_rel_relkind(indexid) != RELKIND_INDEX ||
		!cmek_relation_ownercheck(indexid, GetUserId()))
		return;
	relid = IndexGetRelation(indexid, true);
	if (!OidIsValid(relid))
		return;
	LockRelationOid(relid, AccessShareLock);
	LockRelationOid(indexid, AccessExclusiveLock);
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(indexid)))
		cmek_pose_index(indexid, NoLock);
}

/* ADD CONSTRAINT ... USING INDEX: core wants it to be a btree */
static void
use_pose(const CmekClass *cls, const char *name)
{
	Oid			indexid = get_relname_relid(name, cls->relnamespace);

	if (OidIsValid(indexid) && get_rel_relkind(indexid) == RELKIND_INDEX &&
		IndexGetRelation(indexid, true) == cls->relid)
		cmek_pose_index(indexid, AccessShareLock);
}

/*
 * What core does not know of a constraint's index is taken out: the method,
 * which follows from the table's, and options, which are given to the index
 * when it is made.  So that must be the only one.
 */
static void
constraint_strip(CmekStatement *s, AlterIndexRequest *req)
{
	ListCell   *lc;

	if (req->options && req->indexes > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("parameter \"%s\" cannot be set in an ALTER TABLE that makes several indexes",
						CMEK_HIDE_TIDS),
				 errhint("Use an ALTER TABLE of its own for each constraint.")));
	foreach(lc, req->constraints)
	{
		Constraint *constraint = lfirst_node(Constraint, lc);

		if (constraint->access_method != NULL &&
			strcmp(constraint->access_method, CMEK_BTREE_NAME) == 0)
			constraint->access_method = pstrdup(DEFAULT_INDEX_TYPE);
		s->index_options = list_concat(s->index_options,
									   cmek_index_strip_options(&constraint->options));
	}
}

/*
 * ALTER COLUMN ... TYPE and SET EXPRESSION: core makes indexes again from their definitions.  In
 * that of an index is the name of our method, which needs operator classes.
 * In that of a constraint is none, but perhaps an option that is ours alone.
 */
static void
remake_tree(CmekStatement *s, Oid relid, LOCKMODE lockmode)
{
	List	   *relids = find_all_inheritors(relid, lockmode, NULL);
	ListCell   *lc;

	foreach(lc, relids)
	{
		CmekClass	cls;
		Relation	rel;
		ListCell   *li;

		if (!cmek_class_get(lfirst_oid(lc), &cls) ||
			!cmek_class_has_rows(&cls) || !cmek_class_is_sealed(&cls))
			continue;
		rel = RelationIdGetRelation(cls.relid);
		foreach(li, RelationGetIndexList(rel))
		{
			CmekClass	index;

			if (cmek_class_get(lfirst_oid(li), &index) &&
				index.relam == cmek_sealed_index_method())
			{
				cmek_opclass_need_twins(s);
				cmek_index_save_options(s, index.relid);
			}
		}
		RelationClose(rel);
	}
}

/* What must be done with the table of the statement at hand */
static void
alter_with_table(CmekStatement *s, AlterTableStmt *stmt,
				 AlterIndexRequest *req)
{
	LOCKMODE	lockmode = AlterTableGetLockLevel(stmt->cmds);
	CmekClass	cls;
	Oid			relid;
	ListCell   *lc;

	PreventCommandIfReadOnly("ALTER TABLE");
	PreventCommandIfParallelMode("ALTER TABLE");
	PreventCommandDuringRecovery("ALTER TABLE");
	relid = AlterTableLookupRelation(stmt, lockmode);
	if (!OidIsValid(relid) || !cmek_class_get(relid, &cls))
		return;
	foreach(lc, req->used)
		use_pose(&cls, strVal(lfirst(lc)));
	/* those that core makes anew before it uses them have to join, too */
	if (req->remade)
		s->used_indexes = req->used;
	if (req->constraints != NIL && cmek_index_table_is_sealed(relid))
		constraint_strip(s, req);
	if (req->remade)
		remake_tree(s, relid, lockmode);
}

/* Before core's turn; returns our own copy when something had to change */
AlterTableStmt *
cmek_alter_index_before(CmekStatement *s, AlterTableStmt *stmt)
{
	AlterIndexRequest req = {0};
	ListCell   *lc;

	if ((stmt->objtype != OBJECT_TABLE && stmt->objtype != OBJECT_INDEX &&
		 stmt->objtype != OBJECT_TYPE) ||
		!OidIsValid(cmek_sealed_index_method()) ||
		!request_read(&req, stmt))
		return stmt;
	if (stmt->objtype == OBJECT_TYPE)
	{
		/* tables of that type, and which they are is core's to find out */
		PreventCommandIfReadOnly("ALTER TYPE");
		PreventCommandDuringRecovery("ALTER TYPE");
		cmek_opclass_need_twins(s);
		return stmt;
	}
	if (req.constraints != NIL)
	{
		stmt = copyObject(stmt);
		memset(&req, 0, sizeof(req));
		(void) request_read(&req, stmt);
	}
	foreach(lc, req.attached)
		attach_pose(lfirst_node(RangeVar, lc));
	if (req.used != NIL || req.constraints != NIL || req.remade)
		alter_with_table(s, stmt, &req);
	return stmt;
}
