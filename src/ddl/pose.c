/*-------------------------------------------------------------------------
 *
 * pose.c
 *	  Sealed indexes pose as btree for the length of a statement.
 *
 * In a few places core asks whether an index is of method btree when it means
 * "can it do what a btree can": ON CONFLICT, row comparisons and REFRESH
 * MATERIALIZED VIEW CONCURRENTLY before 18, ADD CONSTRAINT ... USING INDEX, and
 * the comparison of a partition's index with the partitioned one.  It asks the relcache; so
 * there, in this backend alone, rd_rel->relam says btree for as long as the
 * statement runs.  rd_indam, which does the work, is never touched, nor is any
 * catalog.
 *
 * A posing entry is pinned, so it stays where it is; core reloads it on every
 * invalidation and then calls back, which is when the pose is struck again.
 * Poses are nested as statements are and end whichever way those end.  What
 * plans need is in poseplan.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "compat.h"
#include "ddl/statement.h"

static CmekPose *poses = NULL;

/*
 * An entry was reloaded: strike the pose again.  Outside of a transaction,
 * in the abort of a subtransaction, core cannot reload it and would do so on
 * next sight, without telling: put that off until the pose ends.  It is locked,
 * so nothing in it can have changed that matters.
 */
static void
pose_again(Datum arg, Oid relid)
{
	for (CmekPose *pose = poses; pose != NULL; pose = pose->outer)
	{
		ListCell   *lc;

		foreach(lc, pose->indexes)
		{
			Relation	index = (Relation) lfirst(lc);

			index->rd_rel->relam = BTREE_AM_OID;
			if (!index->rd_isvalid && !IsTransactionState())
			{
				index->rd_isvalid = true;
				pose->stale = true;
			}
		}
	}
}

/* Begin a pose, of no index yet */
void
cmek_pose_begin(CmekPose *pose)
{
	pose->outer = poses;
	pose->indexes = NIL;
	pose->context = CurrentMemoryContext;
	poses = pose;
}

/*
 * All indexes of a pose are what they are again.  After an error the pins are
 * left to the resource owner, which releases them later.
 */
static void
pose_release(CmekPose *pose, bool failed)
{
	ResourceOwner owner = CurrentResourceOwner;
	ListCell   *lc;

	foreach(lc, pose->indexes)
	{
		Relation	index = (Relation) lfirst(lc);

		index->rd_rel->relam = pose->method;
		if (pose->stale)
			index->rd_isvalid = false;
		if (failed)
			continue;
		CurrentResourceOwner = pose->owner;
		index_close(index, NoLock);
		CurrentResourceOwner = owner;
	}
	pose->indexes = NIL;
}

/* End the innermost pose */
void
cmek_pose_end(CmekPose *pose, bool failed)
{
	bool		any = pose->indexes != NIL;

	Assert(poses == pose);
	poses = pose->outer;
	pose_release(pose, failed);
	if (any && poses != NULL)
		pose_again((Datum) 0, InvalidOid);
}

/* Core is about to rebuild indexes, which nobody may have open */
void
cmek_pose_interrupt(CmekPose *pose)
{
	pose_release(pose, false);
	if (poses != NULL)
		pose_again((Datum) 0, InvalidOid);
}

/* An index is about to be dropped, so nobody may have it open */
void
cmek_pose_leave(Oid indexid)
{
	ResourceOwner owner = CurrentResourceOwner;

	for (CmekPose *pose = poses; pose != NULL; pose = pose->outer)
	{
		ListCell   *lc;

		foreach(lc, pose->indexes)
		{
			Relation	index = (Relation) lfirst(lc);

			if (RelationGetRelid(index) != indexid)
				continue;
			pose->indexes = foreach_delete_current(pose->indexes, lc);
			index->rd_rel->relam = pose->method;
			if (pose->stale)
				index->rd_isvalid = false;
			CurrentResourceOwner = pose->owner;
			index_close(index, NoLock);
			CurrentResourceOwner = owner;
		}
	}
}

/*
 * No pose outlives a transaction, should a statement do so; an abort that
 * comes before the statement's end (FATAL, ROLLBACK in a procedure) releases
 * the pins itself.
 */
static void
pose_at_xact_end(XactEvent event, void *arg)
{
	bool		failed = event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PARALLEL_ABORT;

	if (!failed && event != XACT_EVENT_PRE_COMMIT &&
		event != XACT_EVENT_PRE_PREPARE &&
		event != XACT_EVENT_PARALLEL_PRE_COMMIT)
		return;
	for (CmekPose *pose = poses; pose != NULL; pose = pose->outer)
		pose_release(pose, failed);
}

/* Nor the subtransaction that has its pins */
static void
pose_at_subxact_end(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (CmekPose *pose = poses; pose != NULL; pose = pose->outer)
	{
		if (pose->indexes != NIL && pose->owner == CurTransactionResourceOwner)
			pose_release(pose, true);
	}
}

/* Let one index join the innermost pose, if it is sealed; locks it */
void
cmek_pose_index(Oid indexid, LOCKMODE lockmode)
{
	CmekPose   *pose = poses;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old;
	CmekClass	cls;
	Relation	index;

	if (pose == NULL || !cmek_class_get(indexid, &cls) ||
		cls.relkind != RELKIND_INDEX ||
		cls.relam != cmek_sealed_index_method())
		return;
	if (pose->indexes == NIL)
	{
		pose->owner = CurTransactionResourceOwner;
		pose->method = cls.relam;
		pose->stale = false;
	}
	CurrentResourceOwner = pose->owner;
	index = index_open(indexid, lockmode);
	CurrentResourceOwner = owner;
	old = MemoryContextSwitchTo(pose->context);
	pose->indexes = lappend(pose->indexes, index);
	MemoryContextSwitchTo(old);
	index->rd_rel->relam = BTREE_AM_OID;
}

/* Let all sealed indexes of a table join, which the caller has locked */
static void
pose_table(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = RelationIdGetRelation(relid);
	ListCell   *lc;

	if (!RelationIsValid(rel))
		return;
	foreach(lc, RelationGetIndexList(rel))
		cmek_pose_index(lfirst_oid(lc), lockmode);
	RelationClose(rel);
}

/* The same for every sealed table of a list; no other is locked or opened */
static void
pose_tables(List *relids, LOCKMODE lockmode)
{
	CmekClass	cls;
	ListCell   *lc;

	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (!cmek_class_get(relid, &cls) || !cmek_class_has_rows(&cls) ||
			!cmek_class_is_sealed(&cls))
			continue;
		LockRelationOid(relid, lockmode);
		pose_table(relid, lockmode);
	}
}

/* The sealed ones among the partitions of a table, those below them not */
void
cmek_pose_partitions(Oid relid, LOCKMODE lockmode)
{
	pose_tables(find_inheritance_children(relid, NoLock), lockmode);
}

/* A table, or all the partitions that it has, if they are sealed */
void
cmek_pose_tree(Oid relid, LOCKMODE lockmode)
{
	CmekClass	cls;

	if (cmek_class_get(relid, &cls) &&
		cls.relkind == RELKIND_PARTITIONED_TABLE)
		pose_tables(find_all_inheritors(relid, NoLock, NULL), lockmode);
	else
		pose_tables(list_make1_oid(relid), lockmode);
}

/* Install the callbacks */
void
cmek_pose_init(void)
{
	CacheRegisterRelcacheCallback(pose_again, (Datum) 0);
	RegisterXactCallback(pose_at_xact_end, NULL);
	RegisterSubXactCallback(pose_at_subxact_end, NULL);
}
