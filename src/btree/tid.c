/*-------------------------------------------------------------------------
 *
 * tid.c
 *	  TIDs of index entries: hidden on the way in, shown on the way out.
 *
 * The TID of a row has 32 bits of block and 12 of offset, put through a
 * permutation that the index's DEK keys.  What core would not take for the TID
 * of a row is not in the domain: we walk on until we are back in it, in either
 * direction, so it stays a permutation.
 *
 * So the four high bits of the offset are zero in hidden TIDs, too.  nbtree has
 * flags there for tuples that the header calls a pivot or a list of TIDs: a
 * damaged header cannot make it take a hidden TID for the place of a list.
 *
 * nbtree itself looks at rows only through the table's index functions, when
 * it checks uniqueness and when it looks for dead entries to delete; BtHeap is
 * a table where these take hidden TIDs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "pgstat.h"
#include "storage/itemptr.h"

#include "btree/internal.h"

#define OFFSET_BITS 12
#define OFFSET_MASK ((1 << OFFSET_BITS) - 1)

StaticAssertDecl(OFFSET_BITS + 32 == CMEK_PERMUTE_BITS, "TIDs fit");
StaticAssertDecl(MaxHeapTuplesPerPage <= OFFSET_MASK, "offsets fit");
StaticAssertDecl(OFFSET_MASK == BT_OFFSET_MASK, "nbtree's flags are zero");

/* Can it be the TID of a row? */
static inline bool
in_domain(uint64 tid)
{
	return (tid & OFFSET_MASK) != InvalidOffsetNumber &&
		tid >> OFFSET_BITS != InvalidBlockNumber;
}

/* The number of a TID; ERROR for one that no entry of ours has */
static inline uint64
tid_get(BtIndex *index, const ItemPointerData *tid)
{
	OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(tid);

	if (unlikely(offset > OFFSET_MASK))
		bt_report_damaged(index);
	return ((uint64) ItemPointerGetBlockNumberNoCheck(tid) << OFFSET_BITS) |
		offset;
}

static inline void
tid_set(ItemPointer tid, uint64 value)
{
	ItemPointerSet(tid, (BlockNumber) (value >> OFFSET_BITS),
				   value & OFFSET_MASK);
}

/*
 * Walk back into the domain.  From a TID of the domain that is a step or two,
 * rarely; a forged one may lead nowhere.
 */
static uint64
walk(const CmekDek *dek, uint64 tid, bool inverse)
{
	for (int i = 0; i < 1000 && !in_domain(tid); i++)
		cmek_permute(dek->permutation, &tid, 1, inverse);
	return tid;
}

/* Put one TID through the permutation */
static void
tid_permute(BtIndex *index, ItemPointer tid, bool inverse)
{
	CmekDek    *dek = bt_dek(index);
	uint64		value;

	if (!dek->hide_tids)
		return;
	value = tid_get(index, tid);
	cmek_permute(dek->permutation, &value, 1, inverse);
	tid_set(tid, walk(dek, value, inverse));
}

/* What stands in an entry for a row */
void
bt_hide_tid(BtIndex *index, ItemPointer tid)
{
	tid_permute(index, tid, false);
}

/* The row behind one entry */
void
bt_show_tid(BtIndex *index, ItemPointer tid)
{
	tid_permute(index, tid, true);
}

/* The rows behind some entries: in one go, up to BT_TID_BATCH */
void
bt_show_tids(BtIndex *index, ItemPointerData *tids, int n)
{
	CmekDek    *dek = bt_dek(index);
	uint64		values[BT_TID_BATCH];

	if (!dek->hide_tids)
		return;
	Assert(n <= BT_TID_BATCH);
	for (int i = 0; i < n; i++)
		values[i] = tid_get(index, &tids[i]);
	cmek_permute(dek->permutation, values, n, true);
	for (int i = 0; i < n; i++)
		tid_set(&tids[i], walk(dek, values[i], true));
}

/* ----------
 * A table for nbtree
 * ----------
 */

/* A fetch that nbtree began; it calls back through "rel" */
static IndexFetchTableData *
heap_index_fetch_begin(CMEK_FETCH_BEGIN_PARAMS(rel))
{
	BtHeap	   *heap = (BtHeap *) rel;
	Relation	real = heap->real;
	IndexFetchTableData *fetch;

	fetch = real->rd_tableam->index_fetch_begin(CMEK_FETCH_BEGIN_ARGS(real));
	fetch->rel = rel;
	return fetch;
}

static void
heap_index_fetch_reset(IndexFetchTableData *fetch)
{
	BtHeap	   *heap = (BtHeap *) fetch->rel;

	fetch->rel = heap->real;
	heap->real->rd_tableam->index_fetch_reset(fetch);
	fetch->rel = &heap->rel;
}

static void
heap_index_fetch_end(IndexFetchTableData *fetch)
{
	BtHeap	   *heap = (BtHeap *) fetch->rel;

	fetch->rel = heap->real;
	heap->real->rd_tableam->index_fetch_end(fetch);
}

/* The TID that nbtree has stays as it was, for it compares it with entries */
static bool
heap_index_fetch_tuple(IndexFetchTableData *fetch, ItemPointer tid,
					   Snapshot snapshot, TupleTableSlot *slot,
					   bool *call_again, bool *all_dead)
{
	BtHeap	   *heap = (BtHeap *) fetch->rel;
	ItemPointerData shown = *tid;
	bool		found;

	bt_show_tid(heap->index, &shown);
	fetch->rel = heap->real;
	found = heap->real->rd_tableam->index_fetch_tuple(fetch, &shown, snapshot,
													  slot, call_again, all_dead);
	fetch->rel = &heap->rel;
	return found;
}

/* Which of these entries may be deleted?  The table sorts and drops some. */
static TransactionId
heap_index_delete_tuples(Relation rel, TM_IndexDeleteOp *op)
{
	BtHeap	   *heap = (BtHeap *) rel;
	Relation	shadow = op->irel;
	TransactionId horizon;

	for (int i = 0; i < op->ndeltids; i++)
		bt_show_tid(heap->index, &op->deltids[i].tid);
	if (!op->bottomup && bt_dek(heap->index)->hide_tids)
		bt_add_neighbours(heap, op);
	op->irel = heap->real_index;
	horizon = heap->real->rd_tableam->index_delete_tuples(heap->real, op);
	op->irel = shadow;
	for (int i = 0; i < op->ndeltids; i++)
		bt_hide_tid(heap->index, &op->deltids[i].tid);
	return horizon;
}

/* Begin to use a table with hidden TIDs; good until the caller returns */
Relation
bt_heap_begin(BtHeap *heap, Relation real, Relation real_index, BtIndex *index)
{
	heap->rel = *real;
	/* all access goes to the real one */
	heap->rel.rd_smgr = NULL;
	heap->routine = *real->rd_tableam;
	heap->routine.index_fetch_begin = heap_index_fetch_begin;
	heap->routine.index_fetch_reset = heap_index_fetch_reset;
	heap->routine.index_fetch_end = heap_index_fetch_end;
	heap->routine.index_fetch_tuple = heap_index_fetch_tuple;
	heap->routine.index_delete_tuples = heap_index_delete_tuples;
	heap->rel.rd_tableam = &heap->routine;
	heap->real = real;
	heap->real_index = real_index;
	heap->index = index;
	heap->new_block = InvalidBlockNumber;
	return &heap->rel;
}
