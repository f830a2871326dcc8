/*-------------------------------------------------------------------------
 *
 * delete.c
 *	  Entries that may go, too, when a full leaf page loses its killed ones.
 *
 * nbtree asks the table about killed entries, and in passing about those which
 * lead to the same blocks: looking at a row beside one that is looked at costs
 * next to nothing.  It tells blocks by TIDs, which are hidden here, so it finds
 * none; we find them for it.
 *
 * Only ever adds to the question.  The answer, which of them are dead to
 * everybody, is the table's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/bufmgr.h"

#include "btree/internal.h"

static int
block_cmp(const void *a, const void *b)
{
	BlockNumber left = *(const BlockNumber *) a;
	BlockNumber right = *(const BlockNumber *) b;

	return (left > right) - (left < right);
}

/* The blocks that the table will look at; the new row's is in memory anyhow */
static int
visited_blocks(const BtHeap *heap, const TM_IndexDeleteOp *op,
			   BlockNumber *blocks)
{
	int			n = 0;

	blocks[n++] = heap->new_block;
	for (int i = 0; i < op->ndeltids; i++)
	{
		if (op->status[op->deltids[i].id].knowndeletable)
			blocks[n++] = ItemPointerGetBlockNumber(&op->deltids[i].tid);
	}
	qsort(blocks, n, sizeof(BlockNumber), block_cmp);
	return n;
}

/* The entries of the page which nbtree does not ask about: where, and for what */
static int
other_entries(const TM_IndexDeleteOp *op, OffsetNumber *offsets,
			  ItemPointerData *tids)
{
	bool		asked[MaxIndexTuplesPerPage + 1] = {false};
	Buffer		buffer = ReadBuffer(op->irel, op->iblknum);
	Page		page = BufferGetPage(buffer);
	OffsetNumber last = Min(PageGetMaxOffsetNumber(page), MaxIndexTuplesPerPage);
	int			n = 0;

	for (int i = 0; i < op->ndeltids; i++)
		asked[op->status[op->deltids[i].id].idxoffnum] = true;
	for (OffsetNumber at = P_FIRSTDATAKEY(BTPageGetOpaque(page)); at <= last; at++)
	{
		ItemId		id = PageGetItemId(page, at);
		IndexTuple	entry;

		/* a damaged one is not for an insert to find */
		if (asked[at] || !bt_item_is_sound(page, id))
			continue;
		entry = (IndexTuple) PageGetItem(page, id);
		if (ItemPointerGetOffsetNumberNoCheck(&entry->t_tid) > BT_OFFSET_MASK)
			continue;
		offsets[n] = at;
		tids[n++] = entry->t_tid;
	}
	ReleaseBuffer(buffer);
	return n;
}

/*
 * Ask about these entries, too.  Both what is asked already and these are in the
 * order of the page; nbtree takes the ids for that order, so all of them get
 * new ones.
 */
static void
merge_entries(TM_IndexDeleteOp *op, const OffsetNumber *offsets,
			  const ItemPointerData *tids, int n)
{
	int			total = op->ndeltids + n;
	TM_IndexDelete *entries = palloc(total * sizeof(TM_IndexDelete));
	TM_IndexStatus *statuses = palloc0(total * sizeof(TM_IndexStatus));
	int			old = 0;
	int			new = 0;

	for (int i = 0; i < total; i++)
	{
		if (new == n || (old < op->ndeltids &&
						 op->status[old].idxoffnum < offsets[new]))
		{
			entries[i].tid = op->deltids[old].tid;
			statuses[i] = op->status[old++];
		}
		else
		{
			entries[i].tid = tids[new];
			statuses[i].idxoffnum = offsets[new++];
		}
		entries[i].id = i;
	}
	pfree(op->deltids);
	pfree(op->status);
	op->deltids = entries;
	op->status = statuses;
	op->ndeltids = total;
}

/*
 * Add the entries which lead to blocks of killed ones.  TIDs in "op" are shown
 * already, and in the order of the page.  nbtree holds the exclusive lock of
 * the page.
 */
void
bt_add_neighbours(const BtHeap *heap, TM_IndexDeleteOp *op)
{
	BlockNumber *blocks = palloc((op->ndeltids + 1) * sizeof(BlockNumber));
	int			nblocks = visited_blocks(heap, op, blocks);
	OffsetNumber offsets[MaxIndexTuplesPerPage];
	ItemPointerData tids[MaxIndexTuplesPerPage];
	int			n = other_entries(op, offsets, tids);
	int			kept = 0;

	for (int i = 0; i < n; i += BT_TID_BATCH)
		bt_show_tids(heap->index, &tids[i], Min(BT_TID_BATCH, n - i));
	for (int i = 0; i < n; i++)
	{
		BlockNumber block = ItemPointerGetBlockNumber(&tids[i]);

		if (bsearch(&block, blocks, nblocks, sizeof(BlockNumber), block_cmp))
		{
			offsets[kept] = offsets[i];
			tids[kept++] = tids[i];
		}
	}
	if (kept > 0)
		merge_entries(op, offsets, tids, kept);
	pfree(blocks);
}
