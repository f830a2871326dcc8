/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Inserts and vacuum.
 *
 * Bulk deletion never returns success when the key was lost meanwhile: core
 * would use the TIDs again that the index still holds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "btree/internal.h"

/* Fail because the table of an index has no key, so can have no row */
static void
report_unbound(Relation index)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the table of index \"%s\" has no key",
					RelationGetRelationName(index))));
}

bool
bt_insert(Relation rel, Datum *values, bool *isnull, ItemPointer tid,
		  Relation heap, IndexUniqueCheck unique, bool unchanged,
		  struct IndexInfo *info)
{
	BtIndex    *index = bt_enter(rel);
	Datum		plain[INDEX_MAX_KEYS];
	Datum		sealed[INDEX_MAX_KEYS];
	ItemPointerData hidden = *tid;
	BtActivity	activity;
	BtHeap		shadow_heap;
	bool		result;

	if (index == NULL)
		report_unbound(rel);
	bt_activity_begin(&activity, index);
	bt_seal_values(&activity, values, isnull, plain, sealed);
	bt_hide_tid(index, &hidden);
	bt_heap_begin(&shadow_heap, heap, rel, index);
	shadow_heap.new_block = ItemPointerGetBlockNumber(tid);
	result = btinsert(&index->shadow, sealed, isnull, &hidden,
					  &shadow_heap.rel, unique, unchanged, info);
	for (int i = 0; i < index->natts; i++)
	{
		if (!isnull[i] && index->columns[i].typlen == -1 && plain[i] != values[i])
			pfree(DatumGetPointer(plain[i]));
		if (!isnull[i])
			pfree(DatumGetPointer(sealed[i]));
	}
	bt_activity_end(&activity);
	return result;
}

/* Core's callback, which knows rows */
typedef struct ShownCallback
{
	BtIndex    *index;
	IndexBulkDeleteCallback callback;
	void	   *state;
} ShownCallback;

static bool
shown_callback(ItemPointer tid, void *state)
{
	ShownCallback *self = state;
	ItemPointerData shown = *tid;

	bt_show_tid(self->index, &shown);
	return self->callback(&shown, self->state);
}

/* ERROR when the key went away while nbtree was at work */
static void
require_key_still(Relation rel)
{
	cmek_stop("index-vacuumed");
	(void) bt_enter(rel);
}

IndexBulkDeleteResult *
bt_bulkdelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
			  IndexBulkDeleteCallback callback, void *state)
{
	IndexVacuumInfo shadow_info = *info;
	ShownCallback shown = {NULL, callback, state};
	BtActivity	activity;

	shown.index = bt_enter(info->index);
	/* no key, no entry: but nbtree has statistics to give */
	if (shown.index == NULL)
		return bt_vacuumcleanup(info, stats);
	bt_activity_begin(&activity, shown.index);
	shadow_info.index = &shown.index->shadow;
	stats = btbulkdelete(&shadow_info, stats, shown_callback, &shown);
	bt_activity_end(&activity);
	require_key_still(info->index);
	return stats;
}

IndexBulkDeleteResult *
bt_vacuumcleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	IndexVacuumInfo shadow_info = *info;
	BtIndex    *index;
	BtActivity	activity;

	if (info->analyze_only)
		return stats;
	index = bt_enter(info->index);
	if (index == NULL)
		index = bt_enter_keyless(info->index);
	bt_activity_begin(&activity, index);
	shadow_info.index = &index->shadow;
	stats = btvacuumcleanup(&shadow_info, stats);
	bt_activity_end(&activity);
	require_key_still(info->index);
	return stats;
}
