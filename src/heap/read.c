/*-------------------------------------------------------------------------
 *
 * read.c
 *	  Reading: every scan and fetch is stock heap's own, into the inner slot,
 *	  but for the rows of a page that a sequential scan has begun.
 *
 * Core finds our routine through the relation of a scan, so scans stay on the
 * real relation and only the slot is swapped.  Each call passes the gate of
 * access.c first: one comparison with the generation of the cached key, so a
 * revocation ends a scan at its next row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/bufmgr.h"

#include "heap/internal.h"

/* Does stock heap fill this slot itself? (TOAST tables, and its own slots) */
static inline bool
slot_is_stock(TupleTableSlot *slot)
{
	return unlikely(!IS_SEALED_SLOT(slot));
}

static const TupleTableSlotOps *
sealed_slot_callbacks(Relation rel)
{
	return is_toast_table(rel) ? &TTSOpsBufferHeapTuple : &cmek_slot_ops;
}

/* ----------
 * Sequential and TID range scans
 * ----------
 */

/* ANALYZE begins to scan.  Without plaintext statistics it needs no key. */
static void
analyze_begin(Relation rel)
{
	if (cmek_plaintext_statistics)
	{
		if (cmek_analyze_hooks != NULL)
			cmek_analyze_hooks->forget(rel);
		(void) heap_key_for_read(rel);
		return;
	}
	exposure_analyze(rel);
	if (cmek_analyze_hooks != NULL)
		cmek_analyze_hooks->begin(rel);
}

/* scan_begin */
static TableScanDesc
sealed_scan_begin(Relation rel, Snapshot snapshot, int nkeys,
				  struct ScanKeyData *key, ParallelTableScanDesc pscan,
				  uint32 flags)
{
	if (!is_toast_table(rel))
	{
		if (nkeys > 0)
			elog(ERROR, "scan keys cannot be applied to a sealed table");
		if ((flags & SO_TYPE_ANALYZE) == 0)
			(void) heap_key_for_read(rel);
		else
			analyze_begin(rel);
	}
	return cmek_stock_heap->scan_begin(rel, snapshot, nkeys, key, pscan, flags);
}

/* scan_end.  An ANALYZE ends in here with all rows that it will meet. */
static void
sealed_scan_end(TableScanDesc scan)
{
	Relation	rel = scan->rs_rd;
	bool		analyze = (scan->rs_flags & SO_TYPE_ANALYZE) != 0 &&
		!is_toast_table(rel) && !cmek_plaintext_statistics;

	/* core has opened the relation, too */
	cmek_stock_heap->scan_end(scan);
	if (analyze && cmek_analyze_hooks != NULL)
		cmek_analyze_hooks->end(rel);
}

/*
 * scan_getnextslot.  Stock heap steps from page to page and finds out which
 * rows of a page are visible; from row to row on it we go ourselves.
 */
static bool
sealed_scan_getnextslot(TableScanDesc scan, ScanDirection direction,
						TupleTableSlot *slot)
{
	CmekKeyRing *ring;
	bool		by_page;

	if (slot_is_stock(slot))
		return cmek_stock_heap->scan_getnextslot(scan, direction, slot);
	ring = heap_key_for_read(scan->rs_rd);
	by_page = direction == ForwardScanDirection &&
		(scan->rs_flags & SO_ALLOW_PAGEMODE) != 0;
	if (by_page && likely(slot_next_on_page(slot, (HeapScanDesc) scan, ring)))
		return true;
	if (!cmek_stock_heap->scan_getnextslot(scan, direction, slot_inner(slot)))
	{
		ExecClearTuple(slot);
		return false;
	}
	slot_take_inner(slot, scan->rs_rd, ring);
	if (by_page)
		slot_begin_page(slot, (HeapScanDesc) scan);
	return true;
}

static bool
sealed_scan_getnextslot_tidrange(TableScanDesc scan, ScanDirection direction,
								 TupleTableSlot *slot)
{
	CmekKeyRing *ring;

	if (slot_is_stock(slot))
		return cmek_stock_heap->scan_getnextslot_tidrange(scan, direction, slot);
	ring = heap_key_for_read(scan->rs_rd);
	if (!cmek_stock_heap->scan_getnextslot_tidrange(scan, direction,
													slot_inner(slot)))
	{
		ExecClearTuple(slot);
		return false;
	}
	slot_take_inner(slot, scan->rs_rd, ring);
	return true;
}

/* ----------
 * Fetches
 * ----------
 */

/*
 * index_fetch_begin.  An index-only scan may never come to index_fetch_tuple,
 * so the gate stands here as well.
 */
static IndexFetchTableData *
sealed_index_fetch_begin(CMEK_FETCH_BEGIN_PARAMS(rel))
{
	if (!is_toast_table(rel))
		(void) heap_key_for_read(rel);
	return cmek_stock_heap->index_fetch_begin(CMEK_FETCH_BEGIN_ARGS(rel));
}

static bool
sealed_index_fetch_tuple(struct IndexFetchTableData *scan, ItemPointer tid,
						 Snapshot snapshot, TupleTableSlot *slot,
						 bool *call_again, bool *all_dead)
{
	CmekKeyRing *ring;

	if (slot_is_stock(slot))
		return cmek_stock_heap->index_fetch_tuple(scan, tid, snapshot, slot,
												  call_again, all_dead);
	ring = heap_key_for_read(scan->rel);
	if (!cmek_stock_heap->index_fetch_tuple(scan, tid, snapshot,
											slot_inner(slot),
											call_again, all_dead))
		return false;
	slot_take_inner(slot, scan->rel, ring);
	return true;
}

static bool
sealed_fetch_row_version(Relation rel, ItemPointer tid, Snapshot snapshot,
						 TupleTableSlot *slot)
{
	CmekKeyRing *ring;

	if (slot_is_stock(slot))
		return cmek_stock_heap->tuple_fetch_row_version(rel, tid, snapshot, slot);
	ring = heap_key_for_read(rel);
	if (!cmek_stock_heap->tuple_fetch_row_version(rel, tid, snapshot,
												  slot_inner(slot)))
		return false;
	slot_take_inner(slot, rel, ring);
	return true;
}

/* Visibility is read from the sealed row, which must still be held */
static bool
sealed_satisfies_snapshot(Relation rel, TupleTableSlot *slot, Snapshot snapshot)
{
	TupleTableSlot *inner = slot;

	if (!slot_is_stock(slot))
	{
		inner = slot_inner(slot);
		if (TTS_EMPTY(inner))
			elog(ERROR, "slot does not hold a stored row");
	}
	return cmek_stock_heap->tuple_satisfies_snapshot(rel, inner, snapshot);
}

/* ----------
 * Bitmap and sample scans, ANALYZE
 * ----------
 */

/* Calls stock heap with another slot under the parameter's name */
static bool
stock_bitmap_next_tuple(CMEK_BITMAP_NEXT_PARAMS(scan, slot))
{
	return cmek_stock_heap->scan_bitmap_next_tuple(CMEK_BITMAP_NEXT_ARGS(scan, slot));
}

static bool
sealed_bitmap_next_tuple(CMEK_BITMAP_NEXT_PARAMS(scan, slot))
{
	CmekKeyRing *ring;

	if (slot_is_stock(slot))
		return stock_bitmap_next_tuple(CMEK_BITMAP_NEXT_ARGS(scan, slot));
	ring = heap_key_for_read(scan->rs_rd);
	if (!stock_bitmap_next_tuple(CMEK_BITMAP_NEXT_ARGS(scan, slot_inner(slot))))
	{
		ExecClearTuple(slot);
		return false;
	}
	slot_take_inner(slot, scan->rs_rd, ring);
	return true;
}

static bool
sealed_sample_next_tuple(TableScanDesc scan, struct SampleScanState *state,
						 TupleTableSlot *slot)
{
	CmekKeyRing *ring;

	if (slot_is_stock(slot))
		return cmek_stock_heap->scan_sample_next_tuple(scan, state, slot);
	ring = heap_key_for_read(scan->rs_rd);
	if (!cmek_stock_heap->scan_sample_next_tuple(scan, state, slot_inner(slot)))
	{
		ExecClearTuple(slot);
		return false;
	}
	slot_take_inner(slot, scan->rs_rd, ring);
	return true;
}

static bool
stock_analyze_next_tuple(CMEK_ANALYZE_NEXT_PARAMS(scan, slot))
{
	return cmek_stock_heap->scan_analyze_next_tuple(CMEK_ANALYZE_NEXT_ARGS(scan, slot));
}

/* All rows of a block: counted, and offered to the sample of stats/ */
static void
analyze_block(CMEK_ANALYZE_NEXT_PARAMS(scan, inner))
{
	while (stock_analyze_next_tuple(CMEK_ANALYZE_NEXT_ARGS(scan, inner)))
		if (cmek_analyze_hooks != NULL)
			cmek_analyze_hooks->row(((BufferHeapTupleTableSlot *) inner)->base.tuple,
									*liverows);
}

/*
 * The rows of a block that ANALYZE has yet to be handed, sealed.  They are
 * copied while the page is locked and opened when it is not: a key may have to
 * be asked for at any of them.
 */
typedef struct AnalyzedRows
{
	int			nrows;
	int			next;
	HeapTuple	rows[MaxHeapTuplesPerPage];
} AnalyzedRows;

static AnalyzedRows analyzed;

/* Count the rows of a block and copy them; afterwards the page is unlocked */
static void
copy_block(CMEK_ANALYZE_NEXT_PARAMS(scan, inner))
{
	MemoryContext old = MemoryContextSwitchTo(inner->tts_mcxt);

	/* those of an ANALYZE that failed are gone with its memory */
	analyzed.nrows = analyzed.next = 0;
	while (stock_analyze_next_tuple(CMEK_ANALYZE_NEXT_ARGS(scan, inner)))
	{
		/* line pointers that somebody changed may share their rows */
		if (analyzed.nrows == lengthof(analyzed.rows))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("page %u of table \"%s\" has more rows than fit",
							ItemPointerGetBlockNumber(&inner->tts_tid),
							RelationGetRelationName(scan->rs_rd))));
		analyzed.rows[analyzed.nrows++] =
			heap_copytuple(((BufferHeapTupleTableSlot *) inner)->base.tuple);
	}
	MemoryContextSwitchTo(old);
}

/* Hand out the next row of the block; false when there is none left */
static bool
take_analyzed_row(Relation rel, TupleTableSlot *slot)
{
	TupleTableSlot *inner = slot_inner(slot);
	HeapTuple	row;

	if (analyzed.next == analyzed.nrows)
		return false;
	row = analyzed.rows[analyzed.next++];
	ExecForceStoreHeapTuple(row, inner, false);
	inner->tts_tid = row->t_self;
	heap_freetuple(row);
	slot_take_inner(slot, rel, heap_key_for_read(rel));
	return true;
}

/*
 * scan_analyze_next_tuple: count all rows of the block, and hand out rows only
 * when their values may stand in pg_statistic.
 */
static bool
sealed_analyze_next_tuple(CMEK_ANALYZE_NEXT_PARAMS(scan, slot))
{
	TupleTableSlot *inner;

	if (slot_is_stock(slot))
		return stock_analyze_next_tuple(CMEK_ANALYZE_NEXT_ARGS(scan, slot));
	inner = slot_inner(slot);
	if (!cmek_plaintext_statistics)
		analyze_block(CMEK_ANALYZE_NEXT_ARGS(scan, inner));
	else
	{
		/* the first call for a block; stock heap gives it back at its end */
		if (BufferIsValid(((HeapScanDesc) scan)->rs_cbuf))
			copy_block(CMEK_ANALYZE_NEXT_ARGS(scan, inner));
		if (take_analyzed_row(scan->rs_rd, slot))
			return true;
	}
	ExecClearTuple(slot);
	return false;
}

void
read_set_callbacks(TableAmRoutine *am)
{
	am->slot_callbacks = sealed_slot_callbacks;
	am->scan_begin = sealed_scan_begin;
	am->scan_end = sealed_scan_end;
	am->scan_getnextslot = sealed_scan_getnextslot;
	am->scan_getnextslot_tidrange = sealed_scan_getnextslot_tidrange;
	am->index_fetch_begin = sealed_index_fetch_begin;
	am->index_fetch_tuple = sealed_index_fetch_tuple;
	am->tuple_fetch_row_version = sealed_fetch_row_version;
	am->tuple_satisfies_snapshot = sealed_satisfies_snapshot;
	am->scan_bitmap_next_tuple = sealed_bitmap_next_tuple;
	am->scan_sample_next_tuple = sealed_sample_next_tuple;
	am->scan_analyze_next_tuple = sealed_analyze_next_tuple;
}
