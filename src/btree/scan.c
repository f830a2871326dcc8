/*-------------------------------------------------------------------------
 *
 * scan.c
 *	  Scans: nbtree's own, on the shadow, inside the executor's.
 *
 * The executor's scan is never given to nbtree: each entry point copies over
 * what core changes between calls, and copies back what it looks at.  An entry
 * names its row by bytes outside the seal, so rows found by a key are rechecked
 * by the executor: a forged TID leads to no row that does not match.
 *
 * Every tuple passes the gate, so a running scan is cut when its key goes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "btree/internal.h"

typedef struct BtScan
{
	IndexScanDesc inner;
	BtIndex    *index;			/* NULL: of an unbound table */
	bool		recheck;
	/* both are in one piece with this struct, behind it */
	ScanKey		keys;			/* converted, nbtree copies them */
	BtPlain    *arguments;		/* theirs */

	MemoryContext arrays;		/* those of lists and row comparisons */
	MemoryContext tuple;		/* the opened tuple of an index-only scan */
	/* TIDs that were shown ahead of their turn */
	int			next;
	int			nshown;
	ItemPointerData hidden[BT_TID_BATCH];
	ItemPointerData shown[BT_TID_BATCH];
} BtScan;

static IndexScanDesc
bt_beginscan(Relation rel, int nkeys, int norderbys)
{
	BtIndex    *index = bt_enter_keyless(rel);
	IndexScanDesc scan = RelationGetIndexScan(rel, nkeys, norderbys);
	BtScan	   *self = palloc0(MAXALIGN(sizeof(BtScan)) +
							   nkeys * (sizeof(ScanKeyData) + sizeof(BtPlain)));

	self->keys = (ScanKey) ((char *) self + MAXALIGN(sizeof(BtScan)));
	self->arguments = (BtPlain *) (self->keys + nkeys);
	self->inner = btbeginscan(&index->shadow, nkeys, norderbys);
	scan->opaque = self;
	scan->xs_itupdesc = RelationGetDescr(rel);
	return scan;
}

/* A memory context of the scan's, empty */
static MemoryContext
scan_context(BtScan *self, MemoryContext *context)
{
	if (*context == NULL)
		*context = AllocSetContextCreate(GetMemoryChunkContext(self),
										 "cmek index scan",
										 ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(*context);
	return *context;
}

/* Copy what core sets between calls */
static inline void
scan_copy_in(IndexScanDesc inner, IndexScanDesc scan)
{
	inner->heapRelation = scan->heapRelation;
	inner->xs_snapshot = scan->xs_snapshot;
	inner->parallel_scan = scan->parallel_scan;
	inner->xs_want_itup = scan->xs_want_itup;
	inner->ignore_killed_tuples = scan->ignore_killed_tuples;
	inner->xactStartedInRecovery = scan->xactStartedInRecovery;
	cmek_copy_instrument(inner, scan);
}

/*
 * The planner peeks at the ends of an index; it does without when the key is
 * away, for planning goes on.
 */
static bool
scan_is_planners(IndexScanDesc scan)
{
	return scan->xs_snapshot != NULL &&
		scan->xs_snapshot->snapshot_type == SNAPSHOT_NON_VACUUMABLE;
}

/*
 * Shall the executor recheck rows that were found by these keys?  Core's check
 * of a constraint (the one scan with a dirty snapshot that has keys IS NULL)
 * takes no NULL for a match when it rechecks, so it would pass over what
 * NULLS NOT DISTINCT forbids.
 */
static bool
scan_wants_recheck(IndexScanDesc scan)
{
	bool		any_null = false;

	for (int i = 0; i < scan->numberOfKeys; i++)
		any_null |= (scan->keyData[i].sk_flags & SK_SEARCHNULL) != 0;
	return scan->numberOfKeys > 0 && !scan_is_planners(scan) &&
		!(any_null && scan->xs_snapshot != NULL &&
		  scan->xs_snapshot->snapshot_type == SNAPSHOT_DIRTY);
}

/* Convert the keys; most need no memory but what the scan has from the start */
static ScanKey
scan_convert_keys(BtScan *self, ScanKey keys, int nkeys)
{
	MemoryContext old = CurrentMemoryContext;
	bool		needs_memory = false;

	for (int i = 0; i < nkeys; i++)
		needs_memory |= bt_key_needs_memory(&keys[i]);
	if (needs_memory)
		MemoryContextSwitchTo(scan_context(self, &self->arrays));
	bt_convert_keys(self->index, keys, nkeys, self->keys, self->arguments);
	MemoryContextSwitchTo(old);
	return self->keys;
}

static void
bt_rescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys,
		  int norderbys)
{
	BtScan	   *self = scan->opaque;
	ScanKey		converted = NULL;
	BtActivity	activity;

	self->nshown = self->next = 0;
	if (scan_is_planners(scan) && !bt_planner_may_enter(scan->indexRelation))
		self->index = NULL;
	else
		self->index = bt_enter(scan->indexRelation);
	if (self->index == NULL)
		return;
	bt_activity_begin(&activity, self->index);
	activity.scan = self->inner;
	if (keys && scan->numberOfKeys > 0)
	{
		memmove(scan->keyData, keys, scan->numberOfKeys * sizeof(ScanKeyData));
		converted = scan_convert_keys(self, keys, scan->numberOfKeys);
	}
	self->recheck = scan_wants_recheck(scan);
	scan_copy_in(self->inner, scan);
	btrescan(self->inner, converted, nkeys, NULL, 0);
	bt_activity_end(&activity);
}

/* Pass the gate again, if the key was lost since */
static inline void
scan_gate(IndexScanDesc scan, BtScan *self)
{
	if (unlikely(!cmek_keyring_is_good(self->index->ring)))
		(void) bt_enter(scan->indexRelation);
}

/* Where nbtree is: the matches of a page */
static inline BTScanPos
scan_position(BtScan *self)
{
	return &((BTScanOpaque) self->inner->opaque)->currPos;
}

/*
 * Show the TID that nbtree is at, and those that it will come to next on the
 * same page: several cost little more than one.
 */
static void
scan_show_ahead(BtScan *self, ScanDirection dir)
{
	BTScanPos	pos = scan_position(self);
	int			step = ScanDirectionIsForward(dir) ? 1 : -1;
	int			at = pos->itemIndex;
	int			n = 0;

	self->hidden[n++] = self->inner->xs_heaptid;
	for (at += step; n < BT_TID_BATCH && at >= pos->firstItem &&
		 at <= pos->lastItem; at += step)
		self->hidden[n++] = pos->items[at].heapTid;
	memcpy(self->shown, self->hidden, n * sizeof(ItemPointerData));
	bt_show_tids(self->index, self->shown, n);
	self->nshown = n;
	self->next = 0;
}

/*
 * The row behind the entry that nbtree is at.  A lone match, as a lookup has
 * it, needs nothing kept for a next one.
 */
static inline ItemPointerData
scan_shown_tid(BtScan *self, ScanDirection dir)
{
	ItemPointerData tid = self->inner->xs_heaptid;

	if (scan_position(self)->firstItem == scan_position(self)->lastItem)
	{
		bt_show_tid(self->index, &tid);
		return tid;
	}
	if (self->next >= self->nshown ||
		!ItemPointerEquals(&self->hidden[self->next], &tid))
		scan_show_ahead(self, dir);
	return self->shown[self->next++];
}

/*
 * Open all columns of an entry, in the current memory context.  One after the
 * other: where the next one is follows from lengths that are proved by then.
 */
IndexTuple
bt_open_tuple(BtIndex *index, TupleDesc desc, IndexTuple sealed)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];
	IndexTuple	result;

	for (int i = 0; i < index->natts; i++)
	{
		BtColumn   *column = &index->columns[i];
		Datum		datum = index_getattr(sealed, i + 1,
										  RelationGetDescr(&index->shadow),
										  &isnull[i]);
		void	   *allocated;

		if (isnull[i])
			continue;
		values[i] = bt_open(column, datum, palloc(sizeof(BtBuffer)), &allocated);
		if (unlikely(!bt_ends_inside(column, datum, sealed)))
			bt_report_damaged(index);
	}
	result = index_form_tuple(desc, values, isnull);
	result->t_tid = sealed->t_tid;
	return result;
}

static bool
bt_gettuple(IndexScanDesc scan, ScanDirection dir)
{
	BtScan	   *self = scan->opaque;
	IndexScanDesc inner = self->inner;
	BtActivity	activity;
	bool		found;

	if (self->index == NULL)
		return false;
	scan_gate(scan, self);
	bt_activity_begin(&activity, self->index);
	activity.scan = self->inner;
	scan_copy_in(inner, scan);
	inner->kill_prior_tuple = scan->kill_prior_tuple;
	found = btgettuple(inner, dir);
	if (found)
	{
		scan->xs_heaptid = scan_shown_tid(self, dir);
		/*
		 * What an index-only scan returns is the sealed entry itself.  A
		 * recheck would free names that core has copied for it.
		 */
		scan->xs_recheck = self->recheck && !scan->xs_want_itup;
		if (scan->xs_want_itup)
		{
			MemoryContext old = MemoryContextSwitchTo(scan_context(self, &self->tuple));

			scan->xs_itup = bt_open_tuple(self->index, scan->xs_itupdesc,
										  inner->xs_itup);
			MemoryContextSwitchTo(old);
		}
	}
	bt_activity_end(&activity);
	return found;
}

/* The sealed entry that an index-only scan is at */
IndexTuple
bt_scan_entry(IndexScanDesc scan)
{
	return ((BtScan *) scan->opaque)->inner->xs_itup;
}

/* By gettuple, for each TID is to be shown; it wants to see a table */
static int64
bt_getbitmap(IndexScanDesc scan, TIDBitmap *tbm)
{
	BtScan	   *self = scan->opaque;
	IndexScanDesc inner = self->inner;
	BtActivity	activity;
	int64		n = 0;

	if (self->index == NULL)
		return 0;
	bt_activity_begin(&activity, self->index);
	activity.scan = self->inner;
	scan_gate(scan, self);
	scan_copy_in(inner, scan);
	inner->kill_prior_tuple = false;
	inner->heapRelation = &self->index->shadow;
	while (btgettuple(inner, ForwardScanDirection))
	{
		ItemPointerData tid = scan_shown_tid(self, ForwardScanDirection);

		tbm_add_tuples(tbm, &tid, 1, self->recheck);
		n++;
		scan_gate(scan, self);
	}
	inner->heapRelation = NULL;
	bt_activity_end(&activity);
	return n;
}

static void
bt_endscan(IndexScanDesc scan)
{
	BtScan	   *self = scan->opaque;

	btendscan(self->inner);
	IndexScanEnd(self->inner);
	if (self->arrays)
		MemoryContextDelete(self->arrays);
	if (self->tuple)
		MemoryContextDelete(self->tuple);
	pfree(self);
}

static void
bt_markpos(IndexScanDesc scan)
{
	btmarkpos(((BtScan *) scan->opaque)->inner);
}

static void
bt_restrpos(IndexScanDesc scan)
{
	BtScan	   *self = scan->opaque;
	BtActivity	activity;

	if (self->index == NULL)
		return;
	bt_activity_begin(&activity, self->index);
	activity.scan = self->inner;
	btrestrpos(self->inner);
	bt_activity_end(&activity);
}

static void
bt_parallelrescan(IndexScanDesc scan)
{
	BtScan	   *self = scan->opaque;

	self->inner->parallel_scan = scan->parallel_scan;
	btparallelrescan(self->inner);
}

/* Before 18 core asks btree alone how high it is; needs no key */
int
cmek_btree_height(Oid indexid)
{
	Relation	index = index_open(indexid, NoLock);
	int			height = -1;

	if (bt_is_sealed_index(index))
		height = _bt_getrootheight(&bt_enter_keyless(index)->shadow);
	index_close(index, NoLock);
	return height;
}

#ifdef CMEK_INDEX_METHOD_KNOWS_HEIGHT

/* Core asks the method: both look at the relation */
static int
bt_gettreeheight(Relation rel)
{
	return btgettreeheight(&bt_enter_keyless(rel)->shadow);
}

static Size
bt_estimateparallelscan(Relation rel, int nkeys, int norderbys)
{
	return btestimateparallelscan(&bt_enter_keyless(rel)->shadow, nkeys,
								  norderbys);
}

#endif

/* Put our functions into the routine */
void
bt_scan_set_callbacks(IndexAmRoutine *am)
{
	am->ambeginscan = bt_beginscan;
	am->amrescan = bt_rescan;
	am->amgettuple = bt_gettuple;
	am->amgetbitmap = bt_getbitmap;
	am->amendscan = bt_endscan;
	am->ammarkpos = bt_markpos;
	am->amrestrpos = bt_restrpos;
	am->amparallelrescan = bt_parallelrescan;
#ifdef CMEK_INDEX_METHOD_KNOWS_HEIGHT
	am->amgettreeheight = bt_gettreeheight;
	am->amestimateparallelscan = bt_estimateparallelscan;
#endif
}
