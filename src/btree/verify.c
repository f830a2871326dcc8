/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  Is a sealed index what it should be?
 *
 * Three passes, under AccessShareLock.  Page by page: each entry is authentic,
 * pivots and high keys too, and the entries of a page are in order.  Along the
 * leaves, as a scan walks: the whole is in order.  Along the table, under a
 * snapshot taken before: each row that it sees stands in the index once, with
 * the values that it has, and a unique index holds no two that are equal.
 *
 * A TID that the index holds is remembered with a hash of its values: 16 bytes
 * of memory for each entry.
 *
 * What core says of a damaged page becomes a line of the report.  Where the
 * first pass meets a page that nbtree could not have left, it is the only one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/index.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "btree/internal.h"
#include "heap/heap.h"

/* A row that the index holds */
typedef struct Found
{
	uint64		tid;
	uint64		hash;
} Found;

typedef struct VerifyIndex
{
	Relation	heap;
	Relation	rel;
	BtIndex    *index;
	CmekVerifyReport report;
	void	   *state;
	MemoryContext scratch;
	Found	   *found;
	Size		nfound;
	Size		room;
	IndexTuple	previous;		/* of a pass in order */
	bool		unsound;		/* nbtree cannot be let loose on it */
	Size		nentries;		/* of the pass by page */
} VerifyIndex;

/* One problem */
static void
problem(VerifyIndex *v, ItemPointer tid, const char *what)
{
	v->report(v->state, tid, psprintf("index \"%s\": %s",
									  RelationGetRelationName(v->rel), what));
}

/* Fetch an attribute of an entry, which may be a pivot without it */
static bool
entry_attr(VerifyIndex *v, IndexTuple entry, int i, Datum *sealed, bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(&v->index->shadow);

	if (i >= BTreeTupleGetNAtts(entry, &v->index->shadow))
		return false;
	*sealed = index_getattr(entry, i + 1, desc, isnull);
	return true;
}

/* Is each column of an entry authentic, and inside it? */
static bool
entry_is_authentic(VerifyIndex *v, IndexTuple entry)
{
	char	   *room = MemoryContextAlloc(v->scratch, BLCKSZ);

	for (int i = 0; i < v->index->natts; i++)
	{
		Datum		sealed;
		Datum		value;
		bool		isnull;

		if (entry_attr(v, entry, i, &sealed, &isnull) && !isnull &&
			(!bt_try_open(&v->index->columns[i], sealed, room, BLCKSZ, &value) ||
			 !bt_ends_inside(&v->index->columns[i], sealed, entry)))
			return false;
	}
	return true;
}

/* Compare the keys of two authentic entries as the index sorts them */
static int32
compare_entries(VerifyIndex *v, IndexTuple a, IndexTuple b, bool *has_null)
{
	*has_null = false;
	for (int i = 0; i < v->index->nkeyatts; i++)
	{
		int16		option = v->index->shadow.rd_indoption[i];
		Datum		left,
					right;
		bool		left_null,
					right_null;
		int32		result;

		if (!entry_attr(v, a, i, &left, &left_null) ||
			!entry_attr(v, b, i, &right, &right_null))
			return 0;			/* cut off: nothing more to compare */
		*has_null |= left_null;
		if (left_null || right_null)
			result = left_null == right_null ? 0 :
				(left_null == ((option & INDOPTION_NULLS_FIRST) != 0)) ? -1 : 1;
		else
		{
			result = bt_compare_in(&v->index->columns[i], left, right);
			if (option & INDOPTION_DESC)
				INVERT_COMPARE_RESULT(result);
		}
		if (result != 0)
			return result;
	}
	return 0;
}

/* ----------
 * Page by page
 * ----------
 */

/* The page is not one that nbtree could have left */
static void
unsound(VerifyIndex *v, const char *what)
{
	v->unsound = true;
	problem(v, NULL, what);
}

/* One page, a copy */
static void
verify_page(VerifyIndex *v, Page page, BlockNumber block)
{
	BTPageOpaque opaque;
	OffsetNumber first;
	IndexTuple	previous = NULL;

	if (!bt_page_is_sound(page))
	{
		unsound(v, psprintf("block %u is damaged or forged", block));
		return;
	}
	opaque = BTPageGetOpaque(page);
	if (P_IGNORE(opaque))
		return;
	first = P_FIRSTDATAKEY(opaque);
	for (OffsetNumber off = P_HIKEY; off <= PageGetMaxOffsetNumber(page); off++)
	{
		ItemId		id = PageGetItemId(page, off);
		IndexTuple	entry = (IndexTuple) ((char *) page + ItemIdGetOffset(id));
		bool		has_null;

		v->nentries++;
		/* an entry of a leaf that says it is a pivot has columns cut off */
		if (!bt_item_is_sound(page, id) ||
			(P_ISLEAF(opaque) && off >= first && BTreeTupleIsPivot(entry)))
		{
			unsound(v, psprintf("entry %u of block %u is damaged or forged",
								off, block));
			previous = NULL;
			continue;
		}
		if (!entry_is_authentic(v, entry))
		{
			problem(v, NULL, psprintf("entry %u of block %u is damaged or forged",
									  off, block));
			previous = NULL;
			continue;
		}
		if (off < first)
			continue;
		/* the first entry of an inner page stands for minus infinity */
		if (previous != NULL && !(!P_ISLEAF(opaque) && off == first + 1) &&
			compare_entries(v, previous, entry, &has_null) > 0)
			problem(v, NULL, psprintf("entry %u of block %u is out of order",
									  off, block));
		previous = entry;
	}
}

/* All pages */
static void
verify_pages(VerifyIndex *v)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(v->rel);
	/* a forged length leads no further than a second page, of zeros */
	char	   *page = palloc0(2 * BLCKSZ);

	for (BlockNumber block = BTREE_METAPAGE + 1; block < nblocks; block++)
	{
		Buffer		buf;

		CHECK_FOR_INTERRUPTS();
		v->index = bt_enter(v->rel);
		buf = ReadBuffer(v->rel, block);
		LockBuffer(buf, BT_READ);
		memcpy(page, BufferGetPage(buf), BLCKSZ);
		UnlockReleaseBuffer(buf);
		if (!PageIsNew(page))
			verify_page(v, page, block);
		MemoryContextReset(v->scratch);
	}
	pfree(page);
}

/* ----------
 * Along the leaves, and along the table
 * ----------
 */

/* A hash of the values that an entry has, or should have: their stored bytes */
static uint64
hash_values(VerifyIndex *v, Datum *values, bool *isnull)
{
	uint64		hash = 0;

	for (int i = 0; i < v->index->natts; i++)
	{
		BtColumn   *column = &v->index->columns[i];
		uint64		one = 0;

		if (!isnull[i] && column->typlen == -1)
		{
			struct varlena *plain = PG_DETOAST_DATUM_PACKED(values[i]);

			one = hash_bytes_extended((unsigned char *) VARDATA_ANY(plain),
									  VARSIZE_ANY_EXHDR(plain), 1);
		}
		else if (!isnull[i])
		{
			Size		len;
			Datum		stored = bt_stored_form(column, values[i], &len);
			char		byval[sizeof(Datum)];

			if (column->typbyval)
				store_att_byval(byval, stored, column->typlen);
			one = hash_bytes_extended(column->typbyval ? (unsigned char *) byval :
									  (unsigned char *) DatumGetPointer(stored),
									  len, 2);
		}
		hash = hash_combine64(hash, one);
	}
	return hash;
}

static uint64
tid_number(ItemPointer tid)
{
	return ((uint64) ItemPointerGetBlockNumberNoCheck(tid) << 16) |
		ItemPointerGetOffsetNumberNoCheck(tid);
}

/* Remember an entry */
static void
remember(VerifyIndex *v, ItemPointer tid, IndexTuple opened, TupleDesc desc)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	if (v->nfound == v->room)
	{
		v->room *= 2;
		v->found = repalloc_huge(v->found, v->room * sizeof(Found));
	}
	index_deform_tuple(opened, desc, values, isnull);
	v->found[v->nfound].tid = tid_number(tid);
	v->found[v->nfound++].hash = hash_values(v, values, isnull);
}

/* Is an entry in its place after the one before it? */
static void
verify_order(VerifyIndex *v, IndexTuple entry, ItemPointer tid)
{
	bool		has_null;

	if (v->previous != NULL)
	{
		int32		result = compare_entries(v, v->previous, entry, &has_null);

		if (result > 0 ||
			(result == 0 &&
			 ItemPointerCompare(&v->previous->t_tid, &entry->t_tid) >= 0))
			problem(v, tid, "entry is out of order");
		pfree(v->previous);
	}
	v->previous = CopyIndexTuple(entry);
}

/* Has a walk along the leaves met far more entries than there can be? */
static bool
walks_in_circle(VerifyIndex *v)
{
	if (v->nfound < 2 * v->nentries + 1000000)
		return false;
	problem(v, NULL, "the leaves lead in a circle");
	return true;
}

/* All leaves, by nbtree's own scan, which meets dead entries as well */
static void
verify_leaves(VerifyIndex *v)
{
	IndexScanDesc scan;

	v->index = bt_enter(v->rel);
	scan = btbeginscan(&v->index->shadow, 0, 0);
	scan->heapRelation = v->heap;
	scan->xs_snapshot = SnapshotAny;
	scan->parallel_scan = NULL;
	cmek_clear_instrument(scan);
	scan->xs_want_itup = true;
	scan->ignore_killed_tuples = false;
	btrescan(scan, NULL, 0, NULL, 0);
	while (btgettuple(scan, ForwardScanDirection) && !walks_in_circle(v))
	{
		ItemPointerData tid = scan->xs_heaptid;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		v->index = bt_enter(v->rel);
		if (!entry_is_authentic(v, scan->xs_itup))
			continue;			/* the pages were told of already */
		bt_show_tid(v->index, &tid);
		verify_order(v, scan->xs_itup, &tid);
		old = MemoryContextSwitchTo(v->scratch);
		remember(v, &tid, bt_open_tuple(v->index, RelationGetDescr(v->rel),
										scan->xs_itup),
				 RelationGetDescr(v->rel));
		MemoryContextSwitchTo(old);
		MemoryContextReset(v->scratch);
	}
	btendscan(scan);
	IndexScanEnd(scan);
}

static int
compare_found(const void *a, const void *b)
{
	uint64		left = ((const Found *) a)->tid;
	uint64		right = ((const Found *) b)->tid;

	return left < right ? -1 : left > right;
}

/* A row of the table that is to stand in the index */
static void
verify_row(Relation rel, ItemPointer tid, Datum *values, bool *isnull,
		   bool alive, void *state)
{
	VerifyIndex *v = state;
	Found		key = {tid_number(tid), 0};
	Found	   *found = bsearch(&key, v->found, v->nfound, sizeof(Found),
								compare_found);
	MemoryContext old;

	if (found == NULL)
	{
		problem(v, tid, "row is missing");
		return;
	}
	if ((found > v->found && found[-1].tid == key.tid) ||
		(found + 1 < v->found + v->nfound && found[1].tid == key.tid))
		problem(v, tid, "row is there more than once");
	old = MemoryContextSwitchTo(v->scratch);
	if (found->hash != hash_values(v, values, isnull))
		problem(v, tid, "entry has other values than its row");
	MemoryContextSwitchTo(old);
	MemoryContextReset(v->scratch);
}

/* All rows that the snapshot sees */
static void
verify_rows(VerifyIndex *v, Snapshot snapshot)
{
	IndexInfo  *info = BuildIndexInfo(v->rel);
	TableScanDesc scan = table_beginscan_strat(v->heap, snapshot, 0, NULL,
											   true, true);

	qsort(v->found, v->nfound, sizeof(Found), compare_found);
	/* rows as the snapshot sees them, and no check of uniqueness by the scan */
	info->ii_Concurrent = true;
	info->ii_Unique = false;
	info->ii_ExclusionOps = NULL;
	info->ii_ExclusionProcs = NULL;
	info->ii_ExclusionStrats = NULL;
	(void) table_index_build_scan(v->heap, v->rel, info, true, false,
								  verify_row, v, scan);
	/* the build scan has ended the scan */
}

/* No two entries of rows that the snapshot sees are equal */
static void
verify_unique(VerifyIndex *v, Snapshot snapshot)
{
	TupleTableSlot *slot = table_slot_create(v->heap, NULL);
	IndexScanDesc scan = cmek_index_beginscan(v->heap, v->rel, snapshot);
	IndexTuple	last = NULL;
	bool		has_null;

	scan->xs_want_itup = true;
	index_rescan(scan, NULL, 0, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		IndexTuple	sealed = bt_scan_entry(scan);

		CHECK_FOR_INTERRUPTS();
		v->index = bt_enter(v->rel);
		if (last != NULL && compare_entries(v, last, sealed, &has_null) == 0 &&
			(!has_null || v->rel->rd_index->indnullsnotdistinct))
			problem(v, &slot->tts_tid, "another row has the same key");
		if (last != NULL)
			pfree(last);
		last = CopyIndexTuple(sealed);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* The passes */
static void
verify_passes(void *arg)
{
	VerifyIndex *v = arg;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	verify_pages(v);
	/* nbtree believes headers: what is damaged could make it crash */
	if (!v->unsound)
	{
		verify_leaves(v);
		if (v->rel->rd_index->indisunique && v->rel->rd_index->indimmediate)
			verify_unique(v, snapshot);
		verify_rows(v, snapshot);
	}
	UnregisterSnapshot(snapshot);
}

/* Run them; what core finds wrong with a page is a line, too */
static void
verify_in_subtransaction(VerifyIndex *v)
{
	BtActivity	activity;
	ErrorData  *error;

	bt_activity_begin(&activity, v->index);
	error = cmek_try(verify_passes, v);
	if (error != NULL)
	{
		if (error->sqlerrcode != ERRCODE_INDEX_CORRUPTED &&
			error->sqlerrcode != ERRCODE_DATA_CORRUPTED)
			ReThrowError(error);
		problem(v, NULL, error->message);
		FreeErrorData(error);
	}
	bt_activity_end(&activity);
}

/* Verify one index */
static void
verify_index(Relation heap, Relation rel, CmekVerifyReport report, void *state)
{
	VerifyIndex v = {0};
	MemoryContext context;
	MemoryContext old;

	v.heap = heap;
	v.rel = rel;
	v.report = report;
	v.state = state;
	v.index = bt_enter(rel);
	if (v.index == NULL)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "cmek verify index",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	v.scratch = AllocSetContextCreate(context, "cmek verify entry",
									  ALLOCSET_DEFAULT_SIZES);
	v.room = 1024;
	v.found = palloc(v.room * sizeof(Found));
	verify_in_subtransaction(&v);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Register with heap/, which has the SQL function */
void
bt_verify_init(void)
{
	cmek_index_is_sealed = bt_is_sealed_index;
	cmek_verify_index = verify_index;
}
