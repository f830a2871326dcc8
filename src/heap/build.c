/*-------------------------------------------------------------------------
 *
 * build.c
 *	  Index builds over sealed rows.
 *
 * Stock heap's build loop knows which row versions belong into an index; we
 * let it run on a shadow and ask it for one "column", ctid.  The datum of
 * ctid points into the slot that the loop has just filled, and so leads to the
 * sealed row.  Our callback unseals it, applies the predicate, forms the real
 * index values and calls the index method's own callback.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/sysattr.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"

#include "heap/internal.h"

typedef struct SealedBuild
{
	Relation	heap;			/* the real ones */
	Relation	index;
	IndexInfo  *info;
	EState	   *estate;
	ExprContext *econtext;
	ExprState  *predicate;
	TupleTableSlot *slot;		/* the logical row */
	HeapTupleData tuple;
	char	   *plain;			/* room for any row of one page */
	/* index_build_range_scan */
	IndexBuildCallback callback;
	void	   *callback_state;
	/* index_validate_scan */
	ValidateIndexState *validate;
} SealedBuild;

static void
build_begin(SealedBuild *build, Relation heap, Relation index, IndexInfo *info)
{
	memset(build, 0, sizeof(SealedBuild));
	build->heap = heap;
	build->index = index;
	build->info = info;
	build->estate = CreateExecutorState();
	build->econtext = GetPerTupleExprContext(build->estate);
	build->slot = MakeSingleTupleTableSlot(RelationGetDescr(heap),
										   &TTSOpsHeapTuple);
	build->econtext->ecxt_scantuple = build->slot;
	build->predicate = ExecPrepareQual(info->ii_Predicate, build->estate);
	build->plain = palloc(BLCKSZ);
}

static void
build_end(SealedBuild *build)
{
	ExecDropSingleTupleTableSlot(build->slot);
	FreeExecutorState(build->estate);
	pfree(build->plain);
	/* these pointed into the executor state */
	build->info->ii_ExpressionsState = NIL;
	build->info->ii_PredicateState = NULL;
}

/*
 * The sealed row in stock heap's slot around a datum of ctid.  The slot may or
 * may not be one with a buffer, and none is needed: whoever builds an index
 * holds a lock that keeps cmek.reseal() away, so no row is torn.
 */
static HeapTuple
build_sealed_row(Datum ctid)
{
	char	   *slot = (char *) DatumGetPointer(ctid) -
		offsetof(TupleTableSlot, tts_tid);

	return ((HeapTupleTableSlot *) slot)->tuple;
}

/*
 * Form the index values of a sealed row; false when it is not for this index.
 * Values live until the next call.
 */
static bool
build_form(SealedBuild *build, Datum ctid, ItemPointer tid,
		   Datum *values, bool *isnull)
{
	HeapTuple	sealed = build_sealed_row(ctid);
	CmekKeyRing *ring = cmek_keyring_acquire(build->heap);
	HeapTuple	plain = &build->tuple;

	MemoryContextReset(build->econtext->ecxt_per_tuple_memory);
	plain->t_len = row_plain_len(ring, sealed);
	plain->t_self = *tid;
	plain->t_tableOid = RelationGetRelid(build->heap);
	plain->t_data = (HeapTupleHeader) build->plain;
	row_open_from_buffer(ring, sealed, InvalidBuffer, build->plain);
	ExecStoreHeapTuple(plain, build->slot, false);

	if (build->predicate && !ExecQual(build->predicate, build->econtext))
		return false;
	FormIndexDatum(build->info, build->slot, build->estate, values, isnull);
	return true;
}

/* What stock heap calls for each row to be indexed */
static void
build_row(Relation index, ItemPointer tid, Datum *ctid, bool *ctid_null,
		  bool alive, void *state)
{
	SealedBuild *build = state;
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	if (build_form(build, ctid[0], tid, values, isnull))
		build->callback(build->index, tid, values, isnull, alive,
						build->callback_state);
}

/*
 * What stock heap is told about the index: one column, ctid; unique or
 * concurrent as the real one.  Free for our use: ii_AmCache.
 */
static IndexInfo *
build_fake_info(IndexInfo *info, SealedBuild *build)
{
	IndexInfo  *fake = makeNode(IndexInfo);

	fake->ii_NumIndexAttrs = fake->ii_NumIndexKeyAttrs = 1;
	fake->ii_IndexAttrNumbers[0] = SelfItemPointerAttributeNumber;
	fake->ii_Unique = info->ii_Unique;
	fake->ii_ExclusionOps = info->ii_ExclusionOps;
	fake->ii_ReadyForInserts = info->ii_ReadyForInserts;
	fake->ii_Concurrent = info->ii_Concurrent;
	fake->ii_Am = info->ii_Am;
	fake->ii_AmCache = build;
	fake->ii_Context = CurrentMemoryContext;
	return fake;
}

/*
 * Hand a scan that was opened on the real table (parallel builds) over to the
 * shadow, with its reference count.  table_endscan will drop the shadow's.
 */
static void
build_adopt_scan(TableScanDesc scan, Relation shadow)
{
	Relation	real = scan->rs_rd;

	RelationIncrementReferenceCount(shadow);
	scan->rs_rd = shadow;
	RelationDecrementReferenceCount(real);
}

static double
sealed_index_build_range_scan(Relation heap, Relation index, IndexInfo *info,
							  bool allow_sync, bool anyvisible, bool progress,
							  BlockNumber start, BlockNumber nblocks,
							  IndexBuildCallback callback, void *state,
							  TableScanDesc scan)
{
	LongShadow *shadow = shadow_long_begin(heap, !is_toast_table(heap));
	Relation	srel = shadow_long_relation(shadow);
	double		tuples;

	if (scan)
		build_adopt_scan(scan, srel);
	if (is_toast_table(heap))
		tuples = cmek_stock_heap->index_build_range_scan(srel, index, info,
														 allow_sync, anyvisible,
														 progress, start, nblocks,
														 callback, state, scan);
	else
	{
		SealedBuild build;
		IndexInfo  *fake = build_fake_info(info, &build);

		build_begin(&build, heap, index, info);
		build.callback = callback;
		build.callback_state = state;
		tuples = cmek_stock_heap->index_build_range_scan(srel, index, fake,
														 allow_sync, anyvisible,
														 progress, start, nblocks,
														 build_row, &build, scan);
		info->ii_BrokenHotChain |= fake->ii_BrokenHotChain;
		build_end(&build);
	}
	shadow_long_end(shadow);
	return tuples;
}

/*
 * aminsert of the copied index relation that index_validate_scan inserts its
 * missing rows into.
 */
static bool
validate_insert(Relation index, Datum *ctid, bool *ctid_null, ItemPointer tid,
				Relation heap, IndexUniqueCheck unique, bool unchanged,
				struct IndexInfo *fake)
{
	SealedBuild *build = fake->ii_AmCache;
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	if (!build_form(build, ctid[0], tid, values, isnull))
	{
		build->validate->tups_inserted -= 1;
		return false;
	}
	return index_insert(build->index, values, isnull, tid, build->heap, unique,
						unchanged, build->info);
}

/* The second pass of CREATE INDEX CONCURRENTLY */
static void
sealed_index_validate_scan(Relation heap, Relation index, struct IndexInfo *info,
						   Snapshot snapshot, struct ValidateIndexState *state)
{
	LongShadow *shadow = shadow_long_begin(heap, !is_toast_table(heap));
	Relation	srel = shadow_long_relation(shadow);

	if (is_toast_table(heap))
		cmek_stock_heap->index_validate_scan(srel, index, info, snapshot, state);
	else
	{
		SealedBuild build;
		RelationData sindex = *index;
		IndexAmRoutine routine = *index->rd_indam;

		build_begin(&build, heap, index, info);
		build.validate = state;
		routine.aminsert = validate_insert;
		/* the real index_insert makes the serializability check */
		routine.ampredlocks = true;
		sindex.rd_indam = &routine;
		cmek_stock_heap->index_validate_scan(srel, &sindex,
											 build_fake_info(info, &build),
											 snapshot, state);
		build_end(&build);
	}
	shadow_long_end(shadow);
}

void
build_set_callbacks(TableAmRoutine *am)
{
	am->index_build_range_scan = sealed_index_build_range_scan;
	am->index_validate_scan = sealed_index_validate_scan;
}
