/*-------------------------------------------------------------------------
 *
 * indexkey.c
 *	  Data keys of indexes.
 *
 * An index has one data key from its build to its next.  The row is part of
 * the transaction that makes the file, in which nobody else can meet what it
 * seals; it names the index by its OID, for files move (SET TABLESPACE) and
 * OIDs of a clone are the same.
 *
 * ALTER TABLE may give the file of an index that it drops to a new one, without
 * building that.  So the row of a dropped index goes at commit only, unless
 * an index of the same file was made meanwhile: then that one inherits it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "keys/internal.h"

/* An index that this transaction dropped */
typedef struct DroppedIndex
{
	Oid			relid;
	Oid			index;
	Oid			file;
	SubTransactionId subid;
} DroppedIndex;

/* In the memory of the transaction */
static List *dropped_indexes = NIL;

/*
 * Those of DROP INDEX CONCURRENTLY, which commits twice before the index goes;
 * till then others scan it and insert into it.  Outlives these commits.
 */
static List *leaving_indexes = NIL;

void		(*cmek_index_keys_wanted) (Oid relid) = NULL;

/* The body of cmek_index_key_create. */
static void
create_index_key(Oid relid, Oid index, bool hide_tids)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	uint8	   *table_key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	uint8	   *dek = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	CmekDataKeyRow row = {0};
	CmekLease	lease;
	CmekAead   *aead;

	if (binding == NULL)
		elog(ERROR, "table %u has no key for its index %u", relid, index);
	cmek_binding_open(binding, table_key, &lease);
	row.id = cmek_catalog_new_dek_id();
	row.relid = relid;
	row.kind = CMEK_STRUCTURE_INDEX;
	row.generation = 1;
	row.current = true;
	row.index = index;
	row.hide_tids = hide_tids;
	cmek_random_uuid(row.structure);
	cmek_random(dek, CMEK_KEY_LEN);
	aead = cmek_aead_create(table_key);
	PG_TRY();
	{
		cmek_dek_wrap(&row, binding->table_key.id, aead, dek);
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
	cmek_catalog_delete_index_keys(relid, index);
	cmek_catalog_insert_data_key(&row);
}

/* See keys.h. */
void
cmek_index_key_create(Oid relid, Oid index, bool hide_tids)
{
	MemoryContext context;
	MemoryContext old;

	cmek_require_preload();
	context = AllocSetContextCreate(CurrentMemoryContext, "cmek index key",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	cmek_secret_forbid_core_dump();
	PG_TRY();
	{
		create_index_key(relid, index, hide_tids);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}

/* See keys.h. */
bool
cmek_index_key_exists(Oid relid, Oid index)
{
	return cmek_catalog_has_index_key(relid, index);
}

/* See keys.h. */
void
cmek_index_key_dropped(Oid relid, Oid index, Oid file, bool concurrently)
{
	MemoryContext old = MemoryContextSwitchTo(concurrently ? TopMemoryContext :
											  TopTransactionContext);
	DroppedIndex *dropped = palloc(sizeof(DroppedIndex));

	dropped->relid = relid;
	dropped->index = index;
	dropped->file = file;
	dropped->subid = GetCurrentSubTransactionId();
	if (concurrently)
		leaving_indexes = lappend(leaving_indexes, dropped);
	else
		dropped_indexes = lappend(dropped_indexes, dropped);
	MemoryContextSwitchTo(old);
}

/* Indexes that were leaving and are gone now are dropped in this transaction */
static void
note_gone(void)
{
	ListCell   *lc;

	foreach(lc, leaving_indexes)
	{
		DroppedIndex *dropped = lfirst(lc);

		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(dropped->index)))
			continue;
		leaving_indexes = foreach_delete_current(leaving_indexes, lc);
		cmek_index_key_dropped(dropped->relid, dropped->index, dropped->file,
							   false);
		pfree(dropped);
	}
}

/* See keys.h. */
void
cmek_index_key_made(Oid relid, Oid index, Oid file)
{
	ListCell   *lc;

	foreach(lc, dropped_indexes)
	{
		DroppedIndex *dropped = lfirst(lc);

		if (dropped->relid != relid || dropped->file != file)
			continue;
		cmek_catalog_move_index_key(relid, dropped->index, index);
		CacheInvalidateRelcacheByRelid(relid);
		/* should this one be dropped in turn, it is a drop of its own */
		dropped_indexes = foreach_delete_current(dropped_indexes, lc);
	}
}

/* Before a transaction commits, the rows of its dropped indexes go. */
static void
delete_dropped(void)
{
	List	   *work = dropped_indexes;
	ListCell   *lc;

	if (work == NIL)
		return;
	dropped_indexes = NIL;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, work)
	{
		DroppedIndex *dropped = lfirst(lc);

		cmek_catalog_delete_index_keys(dropped->relid, dropped->index);
		/* the table may be gone, too */
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(dropped->relid)))
			CacheInvalidateRelcacheByRelid(dropped->relid);
	}
	PopActiveSnapshot();
}

/* End of a transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		note_gone();
		delete_dropped();
	}
	else if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT ||
			 event == XACT_EVENT_PREPARE)
		dropped_indexes = NIL;
	if (event == XACT_EVENT_ABORT)
	{
		list_free_deep(leaving_indexes);
		leaving_indexes = NIL;
	}
}

/* End of a subtransaction: what it dropped is its parent's, or is back. */
static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	foreach(lc, dropped_indexes)
	{
		DroppedIndex *dropped = lfirst(lc);

		if (dropped->subid != mine)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			dropped_indexes = foreach_delete_current(dropped_indexes, lc);
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			dropped->subid = parent;
	}
}

/* Register callbacks; called once in each process. */
void
cmek_index_key_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact_end, NULL);
}

/* Ask for the ring of a table. */
static void
acquire(void *relid)
{
	(void) cmek_keyring_acquire_index(*(Oid *) relid, false);
}

/* See keys.h. */
bool
cmek_key_is_available(Oid relid)
{
	return cmek_is_preloaded() && cmek_key_try(acquire, &relid);
}
