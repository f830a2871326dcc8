/*-------------------------------------------------------------------------
 *
 * rewrite.c
 *	  VACUUM FULL and CLUSTER.
 *
 * Rows are copied sealed, as they are, and so are their TOAST chunks, under
 * the same value ids: no key is needed.  Only a table with dropped columns or
 * with columns whose default is stored in the catalog, or one that loses its
 * TOAST table, has its rows re-formed: core throws away what they rely on.
 * That needs the key.
 *
 * CLUSTER reads through the index or sorts, by core's own estimate.  A sort is
 * btree/'s, for core's would spill plain rows into temporary files; it needs
 * the key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/rewriteheap.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "heap/internal.h"

const CmekClusterHooks *cmek_cluster_hooks = NULL;

/* ----------
 * TOAST chunks
 * ----------
 */

/* The old TOAST table and the new one that is being filled from it */
typedef struct ChunkCopy
{
	Relation	source;
	Relation	target;
	Relation   *indexes;		/* of the target */
	int			nindexes;
	CommandId	cid;
	BulkInsertState bistate;
} ChunkCopy;

static void
chunks_begin(ChunkCopy *copy, Oid source, Oid target)
{
	copy->source = table_open(source, AccessExclusiveLock);
	copy->target = table_open(target, AccessExclusiveLock);
	(void) toast_open_indexes(copy->target, RowExclusiveLock,
							  &copy->indexes, &copy->nindexes);
	copy->cid = GetCurrentCommandId(true);
	copy->bistate = GetBulkInsertState();
}

static void
chunks_end(ChunkCopy *copy)
{
	FreeBulkInsertState(copy->bistate);
	toast_close_indexes(copy->indexes, copy->nindexes, NoLock);
	table_close(copy->target, NoLock);
	table_close(copy->source, NoLock);
}

/* Store a copy of one chunk */
static void
chunks_put(ChunkCopy *copy, HeapTuple chunk)
{
	HeapTuple	tuple = heap_copytuple(chunk);
	Datum		values[3];
	bool		isnull[3];

	heap_deform_tuple(tuple, RelationGetDescr(copy->source), values, isnull);
	heap_insert(copy->target, tuple, copy->cid,
				HEAP_INSERT_NO_LOGICAL | HEAP_INSERT_SKIP_FSM, copy->bistate);
	for (int i = 0; i < copy->nindexes; i++)
		index_insert(copy->indexes[i], values, isnull, &tuple->t_self,
					 copy->target,
					 copy->indexes[i]->rd_index->indisunique ?
					 UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, NULL);
	heap_freetuple(tuple);
}

/* Is the row version in this slot dead to everybody? */
static HTSV_Result
slot_vacuum_status(TupleTableSlot *slot, HeapTuple tuple, TransactionId OldestXmin)
{
	Buffer		buf = ((BufferHeapTupleTableSlot *) slot)->buffer;
	HTSV_Result status;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	status = HeapTupleSatisfiesVacuum(tuple, OldestXmin, buf);
	LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	return status;
}

/* Copy every chunk that somebody may still need */
static void
chunks_copy_all(ChunkCopy *copy, TransactionId OldestXmin)
{
	TupleTableSlot *slot = table_slot_create(copy->source, NULL);
	TableScanDesc scan = cmek_table_beginscan(copy->source, SnapshotAny);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);

		CHECK_FOR_INTERRUPTS();
		if (slot_vacuum_status(slot, tuple, OldestXmin) != HEAPTUPLE_DEAD)
			chunks_put(copy, tuple);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* ----------
 * Rows
 * ----------
 */

typedef struct RowCopy
{
	Relation	oldheap;		/* the real tables */
	Relation	newheap;
	Relation	oldshadow;
	RewriteState rewrite;
	CmekClusterSort *sort;		/* or NULL */
	TransactionId oldest_xmin;
	bool		reform;
	MemoryContext context;		/* for one row */
	Datum	   *values;
	bool	   *isnull;
	double		tuples;
	double		vacuumed;
	double		recently_dead;
} RowCopy;

/*
 * Will old rows miss something in the new table?  Core forgets defaults that
 * it kept in the catalog; values of dropped columns would keep pointers into
 * TOAST; and the old TOAST table goes when the new table needs none.
 */
static bool
must_reform(Relation oldheap, Relation newheap)
{
	TupleDesc	desc = RelationGetDescr(oldheap);

	if (OidIsValid(oldheap->rd_rel->reltoastrelid) &&
		!OidIsValid(newheap->rd_toastoid))
		return true;
	if (desc->constr && desc->constr->missing)
		return true;
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attisdropped)
			return true;
	return false;
}

/*
 * A row without dropped columns and with all its defaults, sealed anew.  Its
 * out-of-line values are fetched and stored anew, in the new table's TOAST if
 * it has one.
 */
static HeapTuple
row_reform(RowCopy *copy, HeapTuple sealed)
{
	TupleDesc	desc = RelationGetDescr(copy->oldheap);
	HeapTuple	plain = row_open(copy->oldheap, sealed);
	HeapTuple	formed;
	ToastWork	work = {NIL, NIL};

	heap_deform_tuple(plain, desc, copy->values, copy->isnull);
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attisdropped)
			copy->isnull[i] = true;
	formed = heap_form_tuple(desc, copy->values, copy->isnull);
	if (toast_is_needed(formed, NULL))
		formed = toast_row(copy->newheap, formed, NULL,
						   HEAP_INSERT_SKIP_FSM, &work);
	return row_seal(copy->newheap, formed);
}

/* Warn of row versions that an exclusive lock should have kept away */
static void
row_warn_concurrent(RowCopy *copy, TransactionId xid, const char *what)
{
	if (!TransactionIdIsCurrentTransactionId(xid))
		elog(WARNING, "concurrent %s in progress within table \"%s\"", what,
			 RelationGetRelationName(copy->oldheap));
}

/* Must the row version be copied?  Keeps the counts. */
static bool
row_is_needed(RowCopy *copy, TupleTableSlot *slot, HeapTuple tuple)
{
	switch (slot_vacuum_status(slot, tuple, copy->oldest_xmin))
	{
		case HEAPTUPLE_DEAD:
			copy->vacuumed += 1;
			/* the rewrite has to see it, to close update chains */
			if (rewrite_heap_dead_tuple(copy->rewrite, tuple))
			{
				copy->vacuumed += 1;
				copy->recently_dead -= 1;
			}
			return false;
		case HEAPTUPLE_INSERT_IN_PROGRESS:
			row_warn_concurrent(copy, HeapTupleHeaderGetXmin(tuple->t_data),
								"insert");
			return true;
		case HEAPTUPLE_DELETE_IN_PROGRESS:
			row_warn_concurrent(copy, HeapTupleHeaderGetUpdateXid(tuple->t_data),
								"delete");
			copy->recently_dead += 1;
			return true;
		case HEAPTUPLE_RECENTLY_DEAD:
			copy->recently_dead += 1;
			return true;
		case HEAPTUPLE_LIVE:
			return true;
	}
	elog(ERROR, "unexpected HeapTupleSatisfiesVacuum result");
	return false;
}

/* Put a row version into the new table */
static void
row_write(RowCopy *copy, HeapTuple tuple)
{
	MemoryContext old = MemoryContextSwitchTo(copy->context);
	HeapTuple	newtup;

	newtup = copy->reform ? row_reform(copy, tuple) : heap_copytuple(tuple);
	MemoryContextSwitchTo(old);
	rewrite_heap_tuple(copy->rewrite, tuple, newtup);
}

/* Hand a row version to the sort */
static void
row_sort(RowCopy *copy, HeapTuple tuple)
{
	MemoryContext old = MemoryContextSwitchTo(copy->context);
	HeapTuple	logical = row_open(copy->oldheap, tuple);

	MemoryContextSwitchTo(old);
	cmek_cluster_hooks->put(copy->sort, tuple, logical);
	pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_TUPLES_SCANNED,
								 copy->tuples);
}

/* Copy the row version in a slot */
static void
row_copy_one(RowCopy *copy, TupleTableSlot *slot)
{
	const int	params[] = {
		PROGRESS_CLUSTER_HEAP_TUPLES_SCANNED,
		PROGRESS_CLUSTER_HEAP_TUPLES_WRITTEN
	};
	int64		done[2];
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);

	CHECK_FOR_INTERRUPTS();
	if (!row_is_needed(copy, slot, tuple))
		return;
	copy->tuples += 1;
	if (copy->sort)
		row_sort(copy, tuple);
	else
	{
		row_write(copy, tuple);
		done[0] = done[1] = copy->tuples;
		pgstat_progress_update_multi_param(2, params, done);
	}
	MemoryContextReset(copy->context);
}

/* In the order of an index */
static void
rows_copy_by_index(RowCopy *copy, Relation index)
{
	TupleTableSlot *slot = table_slot_create(copy->oldshadow, NULL);
	IndexScanDesc scan = cmek_index_beginscan(copy->oldshadow, index, SnapshotAny);

	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE,
								 PROGRESS_CLUSTER_PHASE_INDEX_SCAN_HEAP);
	pgstat_progress_update_param(PROGRESS_CLUSTER_INDEX_RELID,
								 RelationGetRelid(index));
	index_rescan(scan, NULL, 0, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		/* no scan keys, so nothing to recheck */
		if (scan->xs_recheck)
			elog(ERROR, "CLUSTER does not support lossy index conditions");
		row_copy_one(copy, slot);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* In the order of the table */
static void
rows_copy_by_block(RowCopy *copy)
{
	TupleTableSlot *slot = table_slot_create(copy->oldshadow, NULL);
	TableScanDesc scan = cmek_table_beginscan(copy->oldshadow, SnapshotAny);
	HeapScanDesc hscan = (HeapScanDesc) scan;
	BlockNumber block = InvalidBlockNumber;

	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE,
								 PROGRESS_CLUSTER_PHASE_SEQ_SCAN_HEAP);
	pgstat_progress_update_param(PROGRESS_CLUSTER_TOTAL_HEAP_BLKS,
								 hscan->rs_nblocks);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		if (block != hscan->rs_cblock)
		{
			block = hscan->rs_cblock;
			/* a scan may begin in the middle and wrap around */
			pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_BLKS_SCANNED,
										 (block + hscan->rs_nblocks - hscan->rs_startblock) %
										 hscan->rs_nblocks + 1);
		}
		row_copy_one(copy, slot);
	}
	pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_BLKS_SCANNED,
								 hscan->rs_nblocks);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* In the order of an index, by a sort */
static void
rows_copy_sorted(RowCopy *copy, Relation index)
{
	double		written = 0;

	copy->sort = cmek_cluster_hooks->begin(copy->oldheap, index);
	if (copy->sort == NULL)
		return;
	rows_copy_by_block(copy);
	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE,
								 PROGRESS_CLUSTER_PHASE_SORT_TUPLES);
	cmek_cluster_hooks->perform(copy->sort);
	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE,
								 PROGRESS_CLUSTER_PHASE_WRITE_NEW_HEAP);
	for (;;)
	{
		MemoryContext old = MemoryContextSwitchTo(copy->context);
		HeapTuple	tuple = cmek_cluster_hooks->get(copy->sort);

		MemoryContextSwitchTo(old);
		CHECK_FOR_INTERRUPTS();
		if (tuple == NULL)
			break;
		row_write(copy, tuple);
		MemoryContextReset(copy->context);
		written += 1;
		pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_TUPLES_WRITTEN,
									 written);
	}
	cmek_cluster_hooks->end(copy->sort);
	copy->sort = NULL;
}

/*
 * Does core think that a sort is faster?  It asks itself of its own b-trees
 * only; with another index than a sealed b-tree we follow the index.
 */
static bool
sort_is_faster(Relation oldheap, Relation index)
{
	return cmek_index_is_sealed != NULL && cmek_index_is_sealed(index) &&
		plan_cluster_use_sort(RelationGetRelid(oldheap),
							  RelationGetRelid(index));
}

/*
 * Copy the rows of a sealed table, and its TOAST.  Core swaps TOAST tables by
 * content when both tables have one, so the pointers of rows that are copied
 * as they are, which name the old one, stay right.
 */
static void
rewrite_rows(RowCopy *copy, Relation newshadow, Relation index,
			 TransactionId xid_cutoff, MultiXactId multi_cutoff)
{
	copy->rewrite = begin_heap_rewrite(copy->oldshadow, newshadow,
									   copy->oldest_xmin, xid_cutoff,
									   multi_cutoff);
	if (index == NULL)
		rows_copy_by_block(copy);
	else if (sort_is_faster(copy->oldheap, index))
		rows_copy_sorted(copy, index);
	else
		rows_copy_by_index(copy, index);
	end_heap_rewrite(copy->rewrite);
	cmek_stop("rewrite-rows");

	if (!copy->reform && OidIsValid(copy->newheap->rd_toastoid))
	{
		ChunkCopy	chunks;

		chunks_begin(&chunks, copy->oldheap->rd_rel->reltoastrelid,
					 copy->newheap->rd_rel->reltoastrelid);
		chunks_copy_all(&chunks, copy->oldest_xmin);
		chunks_end(&chunks);
	}
}

/*
 * Refuse a rewrite beside writers, which has their changes decoded: no decoder
 * can read a sealed row
 */
static void
report_concurrent(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot rewrite sealed table \"%s\" concurrently",
					RelationGetRelationName(rel)),
			 errhint("Leave CONCURRENTLY away.")));
}

static void
sealed_copy_for_cluster(CMEK_REWRITE_PARAMS(oldheap, newheap, index))
{
	bool		toast = is_toast_table(oldheap);
	LongShadow *oldshadow;
	LongShadow *newshadow;
	RowCopy		copy = {0};

	if (CMEK_REWRITE_IS_CONCURRENT)
		report_concurrent(oldheap);
	oldshadow = shadow_long_begin(oldheap, !toast);
	newshadow = shadow_long_begin(newheap, !toast);
	/* the new table of a TOAST table is an ordinary one until they swap */
	if (toast)
	{
		cmek_stock_heap->relation_copy_for_cluster
			(CMEK_REWRITE_ARGS(shadow_long_relation(oldshadow),
							   shadow_long_relation(newshadow), index));
	}
	else
	{
		int			natts = RelationGetDescr(oldheap)->natts;

		copy.oldheap = oldheap;
		copy.oldshadow = shadow_long_relation(oldshadow);
		copy.oldest_xmin = OldestXmin;
		copy.newheap = newheap;
		copy.reform = must_reform(oldheap, newheap);
		copy.context = AllocSetContextCreate(CurrentMemoryContext,
											 "cmek rewrite",
											 ALLOCSET_DEFAULT_SIZES);
		copy.values = palloc(natts * sizeof(Datum));
		copy.isnull = palloc(natts * sizeof(bool));
		rewrite_rows(&copy, shadow_long_relation(newshadow), index,
					 *xid_cutoff, *multi_cutoff);
		MemoryContextDelete(copy.context);
		*num_tuples += copy.tuples;
		*tups_vacuumed += copy.vacuumed;
		*tups_recently_dead += copy.recently_dead;
	}
	shadow_long_end(newshadow);
	shadow_long_end(oldshadow);
}

/* The TOAST table is of our method, so that only we read its chunks */
static Oid
sealed_toast_am(Relation rel)
{
	return rel->rd_rel->relam;
}

void
rewrite_set_callbacks(TableAmRoutine *am)
{
	am->relation_copy_for_cluster = sealed_copy_for_cluster;
	am->relation_toast_am = sealed_toast_am;
	am->relation_fetch_toast_slice = cmek_fetch_toast_slice;
}
