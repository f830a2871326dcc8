/*-------------------------------------------------------------------------
 *
 * routine.c
 *	  Another access method for the relcache entry of an index.
 *
 * Core builds the entry of an index once: when it is pinned, or new in this
 * transaction, it keeps the routine it was built with, whatever the catalog
 * says later.  So the routine is exchanged here, and put back when the
 * subtransaction that did so aborts but the entry goes on.  An entry must never
 * be of another method than the index's file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "ddl/statement.h"

/* An entry that outlives the subtransaction which changed it */
typedef struct ChangedRoutine
{
	Relation	index;			/* stays where it is: new in the transaction */
	Oid			handler;		/* what it had */
	CMEK_INDEX_ROUTINE *routine;
	SubTransactionId subid;
} ChangedRoutine;

/* In the memory of the transaction, the last change first */
static List *changed_routines = NIL;

/* The handler function of an index access method */
static Oid
routine_handler(Oid method)
{
	HeapTuple	tuple = SearchSysCache1(AMOID, ObjectIdGetDatum(method));
	Oid			handler;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for access method %u", method);
	handler = ((Form_pg_am) GETSTRUCT(tuple))->amhandler;
	ReleaseSysCache(tuple);
	return handler;
}

/*
 * Remember what an entry was.  One that is new since an outer subtransaction
 * is reloaded when this one aborts; all others are dropped, and built again.
 */
static void
routine_remember(Relation index)
{
	SubTransactionId mine = GetCurrentSubTransactionId();
	SubTransactionId filed = CMEK_FIRST_FILE_SUBID(index);
	MemoryContext old;
	ChangedRoutine *changed;

	if ((index->rd_createSubid == InvalidSubTransactionId ||
		 index->rd_createSubid == mine) &&
		(filed == InvalidSubTransactionId || filed == mine))
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	changed = palloc(sizeof(ChangedRoutine));
	changed->index = index;
	changed->handler = index->rd_amhandler;
	changed->routine = index->rd_indam;
	changed->subid = mine;
	changed_routines = lcons(changed, changed_routines);
	MemoryContextSwitchTo(old);
}

/* Give the entry of an index another method; the caller has it open */
void
cmek_routine_change(Relation index, Oid method)
{
	Oid			handler = routine_handler(method);
	MemoryContext old;

	if (index->rd_amhandler == handler)
		return;
	routine_remember(index);
	old = MemoryContextSwitchTo(index->rd_indexcxt);
	index->rd_indam = GetIndexAmRoutine(handler);
	index->rd_amhandler = handler;
	MemoryContextSwitchTo(old);
}

/* End of a subtransaction: its changes are its parent's, or undone */
static void
routine_at_subxact_end(SubXactEvent event, SubTransactionId mine,
					   SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	foreach(lc, changed_routines)
	{
		ChangedRoutine *changed = lfirst(lc);

		if (changed->subid != mine)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			changed->subid = parent;
		else if (event == SUBXACT_EVENT_ABORT_SUB)
		{
			changed->index->rd_indam = changed->routine;
			changed->index->rd_amhandler = changed->handler;
			changed_routines = foreach_delete_current(changed_routines, lc);
		}
	}
}

/* End of the transaction: core drops what is new, or it is there to stay */
static void
routine_at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		changed_routines = NIL;
}

/* Register callbacks; called once in each process */
void
cmek_routine_init(void)
{
	RegisterSubXactCallback(routine_at_subxact_end, NULL);
	RegisterXactCallback(routine_at_xact_end, NULL);
}
