/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Writing: rows are sealed, then stock heap stores them as opaque ones.
 *
 * What stock heap decides by looking at columns is decided here on the plain
 * old and new rows and told to it through the shadow: may the update be HOT,
 * does it change a key (and so which tuple lock it takes).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/relcache.h"

#include "heap/internal.h"

/* ----------
 * INSERT
 * ----------
 */

/* The row of a slot as a heap tuple that heap may write its header into */
static HeapTuple
slot_fetch_logical(TupleTableSlot *slot, Relation rel, bool *should_free)
{
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, true, should_free);

	slot->tts_tableOid = RelationGetRelid(rel);
	tuple->t_tableOid = slot->tts_tableOid;
	return tuple;
}

/*
 * Memory for what the toaster leaves behind: executor nodes that write rows
 * have no context of their own for one row.
 */
static MemoryContext
toast_context(void)
{
	return AllocSetContextCreate(CurrentMemoryContext, "cmek toast",
								 ALLOCSET_DEFAULT_SIZES);
}

/* Insert the row of a slot; a token makes it speculative */
static void
insert_row(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
		   BulkInsertState bistate, const uint32 *token)
{
	bool		should_free = true;
	HeapTuple	logical = slot_fetch_logical(slot, rel, &should_free);
	HeapTuple	fitting = logical;
	HeapTuple	sealed;
	MemoryContext toasting = NULL;
	ShortShadow shadow;

	(void) heap_key_for_write(rel);
	if (toast_is_needed(logical, NULL))
	{
		ToastWork	work = {NIL, NIL};
		MemoryContext old = MemoryContextSwitchTo(toasting = toast_context());

		fitting = toast_row(rel, logical, NULL, options, &work);
		MemoryContextSwitchTo(old);
	}
	sealed = row_seal(rel, fitting);
	if (token)
	{
		HeapTupleHeaderSetSpeculativeToken(sealed->t_data, *token);
		options |= HEAP_INSERT_SPECULATIVE;
	}
	heap_insert(shadow_short(&shadow, rel, NULL), sealed, cid, options, bistate);

	ItemPointerCopy(&sealed->t_self, &slot->tts_tid);
	row_copy_mvcc(logical, sealed);
	heap_freetuple(sealed);
	if (toasting)
		MemoryContextDelete(toasting);
	if (should_free)
		heap_freetuple(logical);
}

static void
sealed_tuple_insert(Relation rel, TupleTableSlot *slot, CommandId cid,
					CmekWriteOptions options, struct BulkInsertStateData *bistate)
{
	if (is_toast_table(rel))
		cmek_stock_heap->tuple_insert(rel, slot, cid, options, bistate);
	else
		insert_row(rel, slot, cid, options, bistate, NULL);
}

static void
sealed_tuple_insert_speculative(Relation rel, TupleTableSlot *slot,
								CommandId cid, CmekWriteOptions options,
								struct BulkInsertStateData *bistate,
								uint32 token)
{
	insert_row(rel, slot, cid, options, bistate, &token);
}

/* The end of ON CONFLICT's attempt: keep the row or take it back whole */
static void
sealed_tuple_complete_speculative(Relation rel, TupleTableSlot *slot,
								  uint32 token, bool succeeded)
{
	HeapTuple	row = NULL;

	if (succeeded)
	{
		heap_finish_speculative(rel, &slot->tts_tid);
		return;
	}
	if (OidIsValid(rel->rd_rel->reltoastrelid))
		row = row_fetch(rel, &slot->tts_tid);
	heap_abort_speculative(rel, &slot->tts_tid);
	if (row && HeapTupleHasExternal(row))
		toast_delete_row(rel, row, true);
	if (row)
		heap_freetuple(row);
}

/*
 * multi_insert (COPY).  The sealed rows of a batch lie in one arena; the slots
 * that carry them to heap_multi_insert pretend to own them, which keeps heap
 * from copying each once more.  All of it is in a context of this call, so an
 * error leaves nothing behind.
 */
typedef struct SealedBatch
{
	MemoryContext context;
	TupleTableSlot **slots;
	HeapTupleData *tuples;
} SealedBatch;

/* Toast the rows of a batch: the tuples to seal, in "fitting" */
static Size
batch_fit(Relation rel, TupleTableSlot **slots, int n, int options,
		  HeapTuple *fitting)
{
	Size		total = 0;

	for (int i = 0; i < n; i++)
	{
		HeapTuple	logical = slot_fetch_logical(slots[i], rel, NULL);
		ToastWork	work = {NIL, NIL};

		fitting[i] = toast_is_needed(logical, NULL) ?
			toast_row(rel, logical, NULL, options, &work) : logical;
		total += MAXALIGN(row_sealed_len(fitting[i]));
	}
	return total;
}

/* Slots for n sealed rows: copies of one, which is made as all slots are */
static void
batch_make_slots(SealedBatch *batch, int n)
{
	TupleTableSlot *first = cmek_make_slot(cmek_sealed_desc, &TTSOpsHeapTuple);
	HeapTupleTableSlot *slots = palloc(n * sizeof(HeapTupleTableSlot));

	for (int i = 0; i < n; i++)
	{
		memcpy(&slots[i], first, sizeof(HeapTupleTableSlot));
		batch->slots[i] = &slots[i].base;
	}
}

/* Seal the rows of a batch into an arena and store them in slots */
static void
batch_seal(SealedBatch *batch, Relation rel, HeapTuple *fitting, int n,
		   Size total)
{
	CmekKeyRing *ring = heap_key_for_write(rel);
	char	   *arena = MemoryContextAllocHuge(batch->context, total);

	batch_make_slots(batch, n);
	for (int i = 0; i < n; i++)
	{
		HeapTuple	sealed = &batch->tuples[i];

		sealed->t_len = row_sealed_len(fitting[i]);
		ItemPointerSetInvalid(&sealed->t_self);
		sealed->t_tableOid = RelationGetRelid(rel);
		sealed->t_data = (HeapTupleHeader) arena;
		row_seal_into(ring, sealed->t_data, fitting[i]);
		arena += MAXALIGN(sealed->t_len);

		ExecStoreHeapTuple(sealed, batch->slots[i], false);
		batch->slots[i]->tts_flags |= TTS_FLAG_SHOULDFREE;
	}
}

static void
sealed_multi_insert(Relation rel, TupleTableSlot **slots, int n, CommandId cid,
					CmekWriteOptions options, struct BulkInsertStateData *bistate)
{
	SealedBatch batch;
	ShortShadow shadow;
	MemoryContext old;
	HeapTuple  *fitting;
	Size		total;

	(void) heap_key_for_write(rel);
	batch.context = AllocSetContextCreate(CurrentMemoryContext,
										  "cmek multi_insert",
										  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(batch.context);
	batch.slots = palloc(n * sizeof(TupleTableSlot *));
	batch.tuples = palloc(n * sizeof(HeapTupleData));
	fitting = palloc(n * sizeof(HeapTuple));
	total = batch_fit(rel, slots, n, options, fitting);
	batch_seal(&batch, rel, fitting, n, total);
	MemoryContextSwitchTo(old);

	heap_multi_insert(shadow_short(&shadow, rel, NULL), batch.slots, n, cid,
					  options, bistate);
	for (int i = 0; i < n; i++)
		slots[i]->tts_tid = batch.slots[i]->tts_tid;
	MemoryContextDelete(batch.context);
}

/* ----------
 * DELETE
 * ----------
 */

static TM_Result
sealed_tuple_delete(CMEK_DELETE_PARAMS(rel, tid))
{
	ShortShadow shadow;
	HeapTuple	row = NULL;
	TM_Result	result;

	if (is_toast_table(rel))
		return cmek_stock_heap->tuple_delete(CMEK_DELETE_ARGS(rel, tid));
	(void) heap_key_for_write(rel);
	/* only the row itself knows whether it has values out of line */
	if (OidIsValid(rel->rd_rel->reltoastrelid))
		row = row_fetch_doomed(rel, tid);
	result = heap_delete(CMEK_HEAP_DELETE_ARGS(shadow_short(&shadow, rel, NULL),
											   tid));
	if (row)
	{
		if (result == TM_Ok && HeapTupleHasExternal(row))
			toast_delete_row(rel, row, false);
		heap_freetuple(row);
	}
	return result;
}

/* ----------
 * UPDATE
 * ----------
 */

/* Does a column differ, as stock heap would see it? */
static bool
column_changed(TupleDesc desc, int attnum, HeapTuple oldtup, HeapTuple newtup)
{
	Datum		oldvalue,
				newvalue;
	bool		oldnull,
				newnull;
	Form_pg_attribute att;

	/* whole-row references: changed for all we know; tableoid never does */
	if (attnum == 0)
		return true;
	if (attnum < 0)
		return attnum != TableOidAttributeNumber;

	oldvalue = heap_getattr(oldtup, attnum, desc, &oldnull);
	newvalue = heap_getattr(newtup, attnum, desc, &newnull);
	if (oldnull || newnull)
		return oldnull != newnull;
	att = TupleDescAttr(desc, attnum - 1);
	return !datumIsEqual(oldvalue, newvalue, att->attbyval, att->attlen);
}

/* Does any column of a set (offset as in relcache.c) differ? */
static bool
columns_changed(TupleDesc desc, const Bitmapset *set, HeapTuple oldtup,
				HeapTuple newtup)
{
	int			member = -1;

	while ((member = bms_next_member(set, member)) >= 0)
		if (column_changed(desc, member + FirstLowInvalidHeapAttributeNumber,
						   oldtup, newtup))
			return true;
	return false;
}

/*
 * Which of the sets of indexed columns does an update change?  The sets are
 * looked at where the relation keeps them: comparing bytes invalidates nothing.
 */
static void
update_compare(Relation rel, HeapTuple oldtup, HeapTuple newtup,
			   ColumnChange *change)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (!CMEK_INDEX_ATTRS_KNOWN(rel))
		bms_free(RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_KEY));
	/* heap_update will say that the old row is gone: compare nothing */
	if (oldtup == NULL)
		*change = (ColumnChange) {true, true, true};
	else
	{
		change->key = columns_changed(desc, rel->rd_keyattr, oldtup, newtup);
		change->hot_blocking = columns_changed(desc, CMEK_ATTRS_HOT_BLOCKING(rel),
											   oldtup, newtup);
		change->summarized = columns_changed(desc, CMEK_ATTRS_SUMMARIZED(rel),
											 oldtup, newtup);
	}
}

/* Must an UPDATE know the old row? */
static inline bool
update_needs_old(Relation rel)
{
	return rel->rd_rel->relhasindex || OidIsValid(rel->rd_rel->reltoastrelid);
}

/*
 * What heapam_tuple_update answers about indexes.  In 16 and later heap_update
 * sets *update_indexes itself and its answer stands.
 */
static inline void
update_answer_indexes(TM_Result result, HeapTuple sealed,
					  CmekUpdateIndexes *update_indexes)
{
	CMEK_ANSWER_UPDATE_INDEXES(result == TM_Ok,
							   HeapTupleIsHeapOnly(sealed), update_indexes);
}

static TM_Result
sealed_tuple_update(CMEK_UPDATE_PARAMS(rel, otid, slot))
{
	bool		should_free = true;
	HeapTuple	logical = slot_fetch_logical(slot, rel, &should_free);
	HeapTuple	fitting = logical;
	ItemPointerData tid = *otid;	/* otid may point into the slot's tuple */
	HeapTuple	oldtup = NULL;
	HeapTuple	sealed;
	ColumnChange change = {false, false, false};
	ToastWork	work = {NIL, NIL};
	MemoryContext toasting = NULL;
	ShortShadow shadow;
	TM_Result	result;

	(void) heap_key_for_write(rel);
	if (update_needs_old(rel))
	{
		oldtup = row_fetch(rel, &tid);
		update_compare(rel, oldtup, logical, &change);
	}
	if (toast_is_needed(logical, oldtup))
	{
		MemoryContext old = MemoryContextSwitchTo(toasting = toast_context());

		fitting = toast_row(rel, logical, oldtup, 0, &work);
		MemoryContextSwitchTo(old);
	}
	sealed = row_seal(rel, fitting);

	result = heap_update(CMEK_HEAP_UPDATE_ARGS(shadow_short(&shadow, rel, &change),
											   &tid, sealed));
	ItemPointerCopy(&sealed->t_self, &slot->tts_tid);
	update_answer_indexes(result, sealed, update_indexes);
	if (result == TM_Ok)
	{
		row_copy_mvcc(logical, sealed);
		toast_commit(rel, &work);
	}
	else
		toast_undo(rel, &work);

	heap_freetuple(sealed);
	if (toasting)
		MemoryContextDelete(toasting);
	if (oldtup)
		heap_freetuple(oldtup);
	if (should_free)
		heap_freetuple(logical);
	return result;
}

/* ----------
 * Row locks
 * ----------
 */

static TM_Result
sealed_tuple_lock(Relation rel, ItemPointer tid, Snapshot snapshot,
				  TupleTableSlot *slot, CommandId cid, LockTupleMode mode,
				  LockWaitPolicy wait_policy, uint8 flags, TM_FailureData *tmfd)
{
	CmekKeyRing *ring;
	TM_Result	result;
	TupleTableSlot *inner;

	if (!IS_SEALED_SLOT(slot))
		return cmek_stock_heap->tuple_lock(rel, tid, snapshot, slot, cid, mode,
										   wait_policy, flags, tmfd);
	ring = heap_key_for_read(rel);
	inner = slot_inner(slot);
	ExecClearTuple(inner);
	result = cmek_stock_heap->tuple_lock(rel, tid, snapshot, inner, cid, mode,
										 wait_policy, flags, tmfd);
	if (TTS_EMPTY(inner))
		ExecClearTuple(slot);
	else
		slot_take_inner(slot, rel, ring);
	return result;
}

void
write_set_callbacks(TableAmRoutine *am)
{
	am->tuple_insert = sealed_tuple_insert;
	am->tuple_insert_speculative = sealed_tuple_insert_speculative;
	am->tuple_complete_speculative = sealed_tuple_complete_speculative;
	am->multi_insert = sealed_multi_insert;
	am->tuple_delete = sealed_tuple_delete;
	am->tuple_update = sealed_tuple_update;
	am->tuple_lock = sealed_tuple_lock;
}
