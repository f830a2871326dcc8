/*-------------------------------------------------------------------------
 *
 * switch.c
 *	  cmek.switch_key(): all of a caller's tables from one KMS key to another;
 *	  cmek.rotate_table_key(): a new table key under the same KMS key.
 *
 * Nothing here touches a row.  Each table is locked like by ALTER TABLE ...
 * SET (cmek.key = ...): readers and writers go on.  Called outside of a
 * transaction block, the switch commits after each table, so that it can be
 * stopped and taken up again; a table is always under one key or the other.
 *
 * What a table is and whose it is, is looked at again under its lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "ddl/statement.h"
#include "keys/keys.h"

PG_FUNCTION_INFO_V1(cmek_switch_key);
PG_FUNCTION_INFO_V1(cmek_rotate_table_key);

/* New tables come under the old key while we work; but not for ever */
#define SWITCH_ROUNDS 10

typedef struct CmekSwitch
{
	char	   *from;
	char	   *to;
	bool		commits;		/* after each table */
	uint64		done;
} CmekSwitch;

/* May the caller alter the table, and is it under the old key? */
static bool
switch_concerns(const CmekSwitch *sw, Oid relid)
{
	CmekKeys	keys;

	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) &&
		cmek_relation_ownercheck(relid, GetUserId()) &&
		cmek_label_get(relid, &keys) &&
		(strcmp(keys.key, sw->from) == 0 ||
		 cmek_bind_has(keys.replicas, sw->from));
}

/* Partitioned tables first, that their new partitions come under the new key */
static int
switch_order(const ListCell *a, const ListCell *b)
{
	bool		a_passes_on = get_rel_relkind(lfirst_oid(a)) == RELKIND_PARTITIONED_TABLE;
	bool		b_passes_on = get_rel_relkind(lfirst_oid(b)) == RELKIND_PARTITIONED_TABLE;

	if (a_passes_on != b_passes_on)
		return a_passes_on ? -1 : 1;
	return list_oid_cmp(a, b);
}

/* The tables that are still to be switched */
static List *
switch_list(const CmekSwitch *sw)
{
	List	   *mine = NIL;
	ListCell   *lc;

	foreach(lc, cmek_label_relations(sw->from))
	{
		if (switch_concerns(sw, lfirst_oid(lc)))
			mine = lappend_oid(mine, lfirst_oid(lc));
	}
	list_sort(mine, switch_order);
	return mine;
}

/* Switch one table, if it still is what it was when we made our list */
static bool
switch_table(const CmekSwitch *sw, Oid relid)
{
	CmekClass	cls;
	CmekKeys	keys;
	bool		first;

	LockRelationOid(relid, ShareUpdateExclusiveLock);
	if (!switch_concerns(sw, relid) || !cmek_class_get(relid, &cls) ||
		!cmek_label_get(relid, &keys))
	{
		UnlockRelationOid(relid, ShareUpdateExclusiveLock);
		return false;
	}
	/* no key is in two places of a table */
	first = strcmp(keys.key, sw->from) == 0;
	if (first || strcmp(keys.key, sw->to) == 0 ||
		cmek_bind_has(keys.replicas, sw->to))
		keys.replicas = cmek_bind_replace(keys.replicas,
										  first ? sw->to : sw->from, NULL);
	else
		keys.replicas = cmek_bind_replace(keys.replicas, sw->from, sw->to);
	if (first)
		keys.key = sw->to;
	cmek_bind_move(&cls, &keys);
	cmek_label_set(relid, &keys);
	return true;
}

/* Switch the tables of a list; returns how many were */
static int
switch_tables(CmekSwitch *sw, List *relids)
{
	uint64		total = sw->done + list_length(relids);
	int			switched = 0;
	ListCell   *lc;

	foreach(lc, relids)
	{
		CHECK_FOR_INTERRUPTS();
		/* a commit ends the transaction's snapshot and its line of progress */
		if (sw->commits)
			PushActiveSnapshot(GetTransactionSnapshot());
		cmek_progress_start("switch", lfirst_oid(lc), total);
		cmek_progress_update(sw->done);
		switched += switch_table(sw, lfirst_oid(lc));
		sw->done++;
		if (sw->commits)
		{
			PopActiveSnapshot();
			SPI_commit();
		}
	}
	cmek_progress_end();
	return switched;
}

/* Procedures cannot be STRICT: complain about a NULL */
static void
switch_check_arguments(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d must not be null", i + 1)));
}

/* Complain unless both keys are there and the new one may be used */
static void
switch_check(const CmekSwitch *sw)
{
	if (!cmek_server_is_key(get_foreign_server_oid(sw->from, true)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("KMS key \"%s\" does not exist", sw->from)));
	cmek_bind_server(sw->to);
	if (strcmp(sw->from, sw->to) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("KMS key \"%s\" cannot be switched to itself",
						sw->from),
				 errhint("Use cmek.rotate_table_key to give a table a new table key under the same KMS key.")));
}

/*
 * SQL: CALL cmek.switch_key(old, new).  Until no table of the caller's is
 * left under the old key, or nothing moves any more.
 */
Datum
cmek_switch_key(PG_FUNCTION_ARGS)
{
	CallContext *context = (CallContext *) fcinfo->context;
	CmekSwitch	sw = {0};

	switch_check_arguments(fcinfo);
	PreventCommandIfReadOnly("cmek.switch_key()");
	PreventCommandDuringRecovery("cmek.switch_key()");
	sw.commits = context != NULL && IsA(context, CallContext) &&
		!context->atomic;

	/* memory from here on outlives our commits */
	SPI_connect_ext(sw.commits ? SPI_OPT_NONATOMIC : 0);
	sw.from = pstrdup(NameStr(*PG_GETARG_NAME(0)));
	sw.to = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	switch_check(&sw);
	for (int round = 0; round < SWITCH_ROUNDS; round++)
		if (switch_tables(&sw, switch_list(&sw)) == 0)
			break;
	SPI_finish();
	PG_RETURN_VOID();
}

/* Complain unless the caller may rotate keys of the relation */
static void
rotate_check(Oid relid)
{
	CmekClass	cls;

	if (!cmek_class_get(relid, &cls))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!cmek_relation_ownercheck(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, NameStr(cls.relname));
	if (cls.relkind != RELKIND_PARTITIONED_TABLE &&
		(!cmek_class_has_rows(&cls) || !cmek_class_is_sealed(&cls)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a sealed table", NameStr(cls.relname))));
	if (cls.relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("temporary table \"%s\" has no table key",
						NameStr(cls.relname))));
}

/*
 * SQL: CALL cmek.rotate_table_key(table), with its partitions.  Takes
 * ShareUpdateExclusiveLock; part of the caller's transaction.
 */
Datum
cmek_rotate_table_key(PG_FUNCTION_ARGS)
{
	Oid			relid;
	List	   *relids;
	ListCell   *lc;

	switch_check_arguments(fcinfo);
	relid = PG_GETARG_OID(0);
	relids = list_make1_oid(relid);
	PreventCommandIfReadOnly("cmek.rotate_table_key()");
	PreventCommandDuringRecovery("cmek.rotate_table_key()");
	rotate_check(relid);
	LockRelationOid(relid, ShareUpdateExclusiveLock);
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(relid, ShareUpdateExclusiveLock, NULL);
	foreach(lc, relids)
	{
		Oid			member = lfirst_oid(lc);

		rotate_check(member);
		if (get_rel_relkind(member) != RELKIND_PARTITIONED_TABLE)
			cmek_keys_rotate_table_key(member);
	}
	PG_RETURN_VOID();
}
