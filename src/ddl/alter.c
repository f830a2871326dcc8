/*-------------------------------------------------------------------------
 *
 * alter.c
 *	  ALTER TABLE and ALTER MATERIALIZED VIEW: another key, and in and out of
 *	  access method cmek_heap.
 *
 * Keys are made before core's rewrite, which seals with them, and removed
 * after it.  Core's own check of ownership is the first thing done, by core's
 * own function and with the lock that core would take, and the statement is
 * pinned to the table found.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "ddl/statement.h"
#include "heap/heap.h"

/* What an ALTER TABLE asks of us */
typedef struct AlterRequest
{
	CmekAsked	asked;			/* in SET or RESET */
	AlterTableCmd *method;		/* SET ACCESS METHOD */
} AlterRequest;

/* Is there anything for us in the statement? */
static bool
alter_concerns_us(const AlterTableStmt *stmt)
{
	ListCell   *lc;

	if (stmt->objtype != OBJECT_TABLE && stmt->objtype != OBJECT_MATVIEW)
		return false;
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_SetAccessMethod)
			return true;
		if ((cmd->subtype == AT_SetRelOptions ||
			 cmd->subtype == AT_ResetRelOptions) &&
			cmek_options_present((List *) cmd->def))
			return true;
	}
	return false;
}

/* Take our options out of one subcommand; false when nothing is left of it */
static bool
alter_strip_command(AlterTableCmd *cmd, AlterRequest *req)
{
	List	   *options = (List *) cmd->def;

	if ((cmd->subtype != AT_SetRelOptions &&
		 cmd->subtype != AT_ResetRelOptions) ||
		!cmek_options_present(options))
		return true;
	if (cmd->subtype == AT_SetRelOptions)
		options = cmek_options_strip(options, &req->asked);
	else
		options = cmek_options_strip_reset(options, &req->asked);
	cmd->def = (Node *) options;
	return options != NIL;
}

/* Take everything that is ours out of our copy of the statement */
static void
alter_strip(AlterTableStmt *stmt, AlterRequest *req)
{
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_SetAccessMethod)
			req->method = cmd;
		if (alter_strip_command(cmd, req))
			rest = lappend(rest, cmd);
	}
	stmt->cmds = rest;
}

/* The access method that SET ACCESS METHOD will end in */
static Oid
alter_target_method(const CmekClass *cls, const AlterTableCmd *cmd)
{
	if (cmd->name != NULL)
		return get_table_am_oid(cmd->name, false);
	if (cls->relkind == RELKIND_PARTITIONED_TABLE)
		return InvalidOid;
	return get_table_am_oid(default_table_access_method, false);
}

/* The partitioned table it is a partition of */
static Oid
alter_parent(const CmekClass *cls)
{
	return cls->relispartition ? get_partition_parent(cls->relid, true) :
		InvalidOid;
}

/* SET ACCESS METHOD cmek_heap: keys first, the rewrite needs them */
static void
alter_seal(CmekStatement *s, const CmekClass *cls, const AlterRequest *req)
{
	CmekKeys	keys;
	bool		bind;

	/* a partitioned table may be sealed by its label */
	bind = !req->asked.has_key && !cmek_class_has_rows(cls) &&
		cmek_label_get(cls->relid, &keys);
	if (bind && req->asked.has_replicas)
		keys.replicas = req->asked.replicas;
	if (!bind)
		bind = cmek_bind_resolve(&req->asked, alter_parent(cls), &keys);

	if (cmek_class_has_rows(cls))
	{
		cmek_policy_check_indexes(cls->relid);
		cmek_policy_check_logical(cls);
	}
	else
		cmek_partition_check_leaves(cls);
	cmek_bind_forget_stale(cls);
	s->sealing = cls->relid;
	if (cls->relpersistence == RELPERSISTENCE_TEMP)
	{
		if (req->asked.key != NULL || req->asked.replicas != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("temporary table \"%s\" cannot be bound to a KMS key",
							NameStr(cls->relname))));
	}
	else if (bind)
		cmek_bind_new(cls, &keys);
}

/* SET ACCESS METHOD away from cmek_heap: may it, and remember to clean up */
static void
alter_unseal(CmekStatement *s, const CmekClass *cls, const AlterRequest *req)
{
	if (req->asked.has_key || req->asked.has_replicas)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" cannot be bound to a KMS key and unsealed at once",
						NameStr(cls->relname))));
	if (cmek_class_has_rows(cls) &&
		cmek_partition_parent_is_sealed(alter_parent(cls)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" of a sealed table must stay sealed",
						NameStr(cls->relname)),
				 errhint("Use ALTER TABLE ... DETACH PARTITION first.")));
	cmek_policy_check_plain(cls);
	s->unsealing = cls->relid;
}

/* SET (cmek.key = ...), RESET (cmek.key) and the like on a sealed table */
static void
alter_rebind(const CmekClass *cls, const AlterRequest *req, bool recurse)
{
	CmekAsked	asked = req->asked;

	if (asked.has_key)
		asked.key = unconstify(char *, cmek_bind_choose(asked.key, InvalidOid));
	if (asked.has_key && asked.key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" cannot be left without a KMS key",
						NameStr(cls->relname)),
				 errhint("Name one: SET (cmek.key = ...).")));
	cmek_bind_move_tree(cls, &asked, recurse);
}

/* Do what the statement asks of us, before core's part */
static void
alter_apply(CmekStatement *s, const CmekClass *cls, const AlterRequest *req,
			bool recurse)
{
	bool		seal = false;
	bool		unseal = false;

	if (req->method != NULL &&
		(cmek_class_has_rows(cls) ||
		 (cls->relkind == RELKIND_PARTITIONED_TABLE &&
		  CMEK_PARTITIONED_HAS_METHOD)))
	{
		Oid			target = alter_target_method(cls, req->method);
		bool		ours = OidIsValid(target) && target == cmek_heap_am_oid();

		seal = ours && !cmek_class_is_sealed(cls);
		unseal = !ours && (cmek_class_is_sealed(cls) ||
						   cmek_partition_parent_is_sealed(cls->relid));
	}
	if (seal)
		alter_seal(s, cls, req);
	else if (unseal)
		alter_unseal(s, cls, req);
	else if (req->asked.has_key || req->asked.has_replicas)
		alter_rebind(cls, req, recurse);
}

/*
 * Nothing is left for core: all that remains of its part are the checks that
 * were made already and the event triggers, which see the commands as given.
 */
static void
alter_finish_alone(AlterTableStmt *stmt, List *cmds, const CmekClass *cls,
				   const AlterRequest *req, CmekStatement *s)
{
	bool		cleanup = EventTriggerBeginCompleteQuery();
	ObjectAddress address;
	ListCell   *lc;

	PG_TRY();
	{
		EventTriggerDDLCommandStart((Node *) stmt);
		EventTriggerAlterTableStart((Node *) stmt);
		EventTriggerAlterTableRelid(cls->relid);
		alter_apply(s, cls, req, stmt->relation->inh);
		ObjectAddressSet(address, RelationRelationId, cls->relid);
		foreach(lc, cmds)
			EventTriggerCollectAlterTableSubcmd(lfirst(lc), address);
		EventTriggerAlterTableEnd();
		EventTriggerDDLCommandEnd((Node *) stmt);
	}
	PG_FINALLY();
	{
		if (cleanup)
			EventTriggerEndCompleteQuery();
	}
	PG_END_TRY();
}

/*
 * ALTER TABLE; returns the tree core shall run, NULL when none is left.  The
 * callback of AlterTableLookupRelation checks ownership before it locks.
 */
Node *
cmek_alter_before(CmekStatement *s, AlterTableStmt *stmt)
{
	AlterTableStmt *copy;
	AlterRequest req = {0};
	CmekClass	cls;
	Oid			relid;

	if (!alter_concerns_us(stmt))
		return (Node *) stmt;
	PreventCommandIfReadOnly("ALTER TABLE");
	PreventCommandIfParallelMode("ALTER TABLE");
	PreventCommandDuringRecovery("ALTER TABLE");

	copy = copyObject(stmt);
	alter_strip(copy, &req);
	relid = AlterTableLookupRelation(copy, AlterTableGetLockLevel(copy->cmds));
	if (!OidIsValid(relid) || !cmek_class_get(relid, &cls))
	{
		ereport(NOTICE,
				(errmsg("relation \"%s\" does not exist, skipping",
						copy->relation->relname)));
		return NULL;
	}
	copy->relation->schemaname = get_namespace_name(cls.relnamespace);

	if (copy->cmds == NIL)
	{
		alter_finish_alone(copy, stmt->cmds, &cls, &req, s);
		return NULL;
	}
	alter_apply(s, &cls, &req, copy->relation->inh);
	return (Node *) copy;
}

/*
 * Core begins to rewrite a table: its new file is made, no row is copied yet.
 * Now its indexes change with it.
 */
void
cmek_alter_rewriting(Oid relid)
{
	CmekStatement *s = cmek_statement;

	if (s == NULL || !IsA(s->node, AlterTableStmt))
		return;
	cmek_pose_interrupt(&s->pose);
	if (s->sealing == relid || s->unsealing == relid)
		cmek_index_convert(relid, s->sealing == relid);
}

/* Core has rewritten the table, or given the partitioned table its method */
void
cmek_alter_after(CmekStatement *s)
{
	Oid			relid = OidIsValid(s->sealing) ? s->sealing : s->unsealing;
	CmekClass	cls;

	if (!cmek_class_get(relid, &cls) ||
		cmek_class_is_sealed(&cls) != OidIsValid(s->sealing))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("access method of relation %u changed unexpectedly",
						relid)));
	if (OidIsValid(s->unsealing))
		cmek_bind_remove(relid);
	else if (cmek_class_has_rows(&cls) && !cmek_plaintext_statistics &&
			 cmek_heap_forget_statistics(relid))
		ereport(NOTICE,
				(errmsg("statistics of table \"%s\" are removed, which held values in clear",
						NameStr(cls.relname)),
				 errdetail("Old WAL and backups still hold them, and files of pg_statistic until it is vacuumed."),
				 errhint("ANALYZE makes sealed ones.")));
}
