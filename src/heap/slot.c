/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  The slot of a sealed table: an ordinary heap slot for the logical row,
 *	  with a second, inner slot that holds the sealed row and its buffer pin.
 *
 * States, beyond those of TTSOpsHeapTuple:
 *	 pending	the inner slot holds a row that nobody has looked into yet
 *	 opened		base.tuple points to our buffer, which holds it unsealed
 * A row is unsealed on the first question for an attribute, so count(*)
 * unseals nothing.  The inner slot stays filled after that, for system columns
 * and visibility checks, until the slot is cleared or materialized.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/relcache.h"

#include "heap/internal.h"

typedef struct SealedSlot
{
	HeapTupleTableSlot base;	/* the logical row */
	TupleTableSlot *inner;		/* the sealed row */
	CmekKeyRing *ring;			/* opens it; NULL: table has no keys */
	bool		pending;
	bool		columns_unused; /* copies of pending rows may be empty */
	char	   *buffer;			/* the unsealed row, in tts_mcxt */
	Size		bufsize;
	FixedColumns *fixed;		/* of the descriptor; NULL: not made yet */
	bool		deformed;		/* tts_nvalid columns are from deform.c */
	/* columns that were asked for since the page of a scan was begun */
	int			wanted;
	int			wanted_before;	/* the same of the page before it */
} SealedSlot;

/* Growing by this much at least avoids a palloc for each longer row */
#define BUFFER_STEP 256

TupleTableSlot *
slot_inner(TupleTableSlot *slot)
{
	return ((SealedSlot *) slot)->inner;
}

static void
sealed_slot_init(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;
	MemoryContext old = MemoryContextSwitchTo(slot->tts_mcxt);

	s->inner = cmek_make_slot(cmek_sealed_desc, &TTSOpsBufferHeapTuple);
	MemoryContextSwitchTo(old);
	s->ring = NULL;
	s->pending = false;
	s->columns_unused = false;
	s->buffer = NULL;
	s->bufsize = 0;
	s->fixed = NULL;
	s->deformed = false;
	s->wanted = 0;
	s->wanted_before = 0;
}

/* The plan reads no column of the copies of this slot's rows (unused.c) */
void
slot_set_columns_unused(TupleTableSlot *slot)
{
	((SealedSlot *) slot)->columns_unused = true;
}

static void
sealed_slot_release(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;

	ExecClearTuple(s->inner);
	pfree(s->inner);
	if (s->buffer)
		pfree(s->buffer);
	if (s->fixed)
		pfree(s->fixed);
	s->inner = NULL;
	s->buffer = NULL;
	s->fixed = NULL;
	s->bufsize = 0;
}

/* Forget the logical row */
static inline void
slot_reset_logical(SealedSlot *s)
{
	TupleTableSlot *slot = &s->base.base;

	if (unlikely(TTS_SHOULDFREE(slot)))
	{
		heap_freetuple(s->base.tuple);
		slot->tts_flags &= ~TTS_FLAG_SHOULDFREE;
	}
	slot->tts_nvalid = 0;
	s->base.off = 0;
	s->base.tuple = NULL;
	s->pending = false;
	s->deformed = false;
}

static void
sealed_slot_clear(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;

	slot_reset_logical(s);
	slot->tts_flags |= TTS_FLAG_EMPTY;
	ItemPointerSetInvalid(&slot->tts_tid);
	if (!TTS_EMPTY(s->inner))
		ExecClearTuple(s->inner);
}

/*
 * The inner slot has just been filled by heap: it is this slot's row now.  An
 * inner slot without a tuple is heap's way of saying "a row whose columns
 * nobody needs".
 */
void
slot_take_inner(TupleTableSlot *slot, Relation rel, CmekKeyRing *ring)
{
	SealedSlot *s = (SealedSlot *) slot;

	if (unlikely(((HeapTupleTableSlot *) s->inner)->tuple == NULL))
	{
		ExecStoreAllNullTuple(slot);
		return;
	}
	slot_reset_logical(s);
	s->pending = true;
	s->wanted_before = s->wanted;
	s->wanted = 0;
	s->ring = ring;
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
	slot->tts_tid = s->inner->tts_tid;
	slot->tts_tableOid = RelationGetRelid(rel);
}

/*
 * The ring of a pending row, renewed when its lease was lost meanwhile; but
 * not while a page is locked: that is no place to wait for a KMS.
 */
static CmekKeyRing *
slot_ring(SealedSlot *s)
{
	Relation	rel;

	if (likely(s->ring != NULL && cmek_keyring_is_good(s->ring)))
		return s->ring;
	if (heap_holds_lwlock())
		ereport(ERROR,
				(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("key of relation %u left the cache while a page was locked",
						s->base.base.tts_tableOid),
				 errhint("Try again.")));
	rel = RelationIdGetRelation(s->base.base.tts_tableOid);
	if (!RelationIsValid(rel))
		elog(ERROR, "could not open relation with OID %u",
			 s->base.base.tts_tableOid);
	s->ring = cmek_keyring_acquire(rel);
	RelationClose(rel);
	return s->ring;
}

/* Make room for an unsealed row */
static void
slot_reserve(SealedSlot *s, Size len)
{
	if (likely(len <= s->bufsize))
		return;
	if (s->buffer)
		pfree(s->buffer);
	s->buffer = NULL;
	s->bufsize = 0;
	s->buffer = MemoryContextAlloc(s->base.base.tts_mcxt, len + BUFFER_STEP);
	s->bufsize = len + BUFFER_STEP;
}

/* Our buffer holds the row now, len bytes of it */
static inline void
slot_set_opened(SealedSlot *s, Size len)
{
	HeapTuple	plain = &s->base.tupdata;

	plain->t_len = len;
	plain->t_self = s->base.base.tts_tid;
	plain->t_tableOid = s->base.base.tts_tableOid;
	plain->t_data = (HeapTupleHeader) s->buffer;
	s->base.tuple = plain;
	s->base.off = 0;
	s->pending = false;
}

/* Unseal the pending row */
static pg_noinline void
slot_open(SealedSlot *s)
{
	HeapTuple	sealed = ((HeapTupleTableSlot *) s->inner)->tuple;
	CmekKeyRing *ring = slot_ring(s);
	Size		len = row_plain_len(ring, sealed);

	slot_reserve(s, len);
	row_open_from_buffer(ring, sealed,
						 ((BufferHeapTupleTableSlot *) s->inner)->buffer,
						 s->buffer);
	slot_set_opened(s, len);
}

static inline void
slot_open_if_pending(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;

	if (s->pending)
		slot_open(s);
}

/*
 * The first natts columns of an opened row by deform.c, when the descriptor
 * cannot be exchanged and the row allows it
 */
static inline bool
slot_deform_fixed(SealedSlot *s, int natts)
{
	TupleTableSlot *slot = &s->base.base;

	if (unlikely(s->fixed == NULL))
	{
		if (!TTS_FIXED(slot))
			return false;
		s->fixed = fixed_columns_create(slot->tts_tupleDescriptor,
										slot->tts_mcxt);
	}
	if (!fixed_columns_deform(s->fixed, s->base.tuple->t_data, natts,
							  slot->tts_values, slot->tts_isnull))
		return false;
	slot->tts_nvalid = natts;
	s->deformed = true;
	return true;
}

static void
sealed_slot_getsomeattrs(TupleTableSlot *slot, int natts)
{
	SealedSlot *s = (SealedSlot *) slot;

	if (s->pending)
	{
		slot_open(s);
		s->wanted = Max(s->wanted, natts);
		if (slot_deform_fixed(s, natts))
			return;
	}
	/* heap's own way knows its own columns only: begin again */
	if (s->deformed)
	{
		s->wanted = Max(s->wanted, natts);
		s->deformed = false;
		s->base.off = 0;
		slot->tts_nvalid = 0;
	}
	TTSOpsHeapTuple.getsomeattrs(slot, natts);
}

/* ----------
 * The rows of a page, one after the other
 * ----------
 */

/* So many rows ahead a row is fetched from memory, all lines of it */
#define PREFETCH_ROWS 5
#define PREFETCH_LINE 64
#define PREFETCH_LINES_MAX 8
/* ... and so many of a page's header and line pointers */
#define PREFETCH_HEAD_LINES 4

static inline void
prefetch_row(Page page, OffsetNumber off)
{
	ItemId		lp = PageGetItemId(page, off);
	char	   *at = (char *) PageGetItem(page, lp);
	char	   *end = at + Min(ItemIdGetLength(lp),
							   PREFETCH_LINES_MAX * PREFETCH_LINE);

	for (; at < end; at += PREFETCH_LINE)
		__builtin_prefetch(at);
	__builtin_prefetch(end - 1);
}

/*
 * The last rows of a page fetch the first ones of the next: the n-th of them,
 * from a page's end, if all are as long as this one.  Where the next page lies
 * is a guess (a table read into free buffers lies in order), and only costs
 * memory bandwidth when it is wrong: nothing is read.
 */
static inline void
prefetch_next_page(Buffer buf, int n, Size len)
{
	Size		back = (n + 1) * MAXALIGN(len);
	char	   *page;

	if (BufferIsLocal(buf) || buf >= NBuffers)
		return;
	page = BufferGetBlock(buf + 1);
	if (n == 0)
		for (int i = 0; i < PREFETCH_HEAD_LINES; i++)
			__builtin_prefetch(page + i * PREFETCH_LINE);
	if (back + PREFETCH_LINE > BLCKSZ / 2)
		return;
	for (char *at = page + BLCKSZ - back;
		 at < page + BLCKSZ - back + len; at += PREFETCH_LINE)
		__builtin_prefetch(at);
}

/* Stock heap has begun a page: fetch its first rows, all at once */
void
slot_begin_page(TupleTableSlot *slot, HeapScanDesc scan)
{
	int			first = (int) scan->rs_cindex;
	int			end = Min(first + PREFETCH_ROWS, (int) scan->rs_ntuples);

	if (((SealedSlot *) slot)->wanted_before == 0)
		return;
	for (int i = first; i < end; i++)
		prefetch_row(BufferGetPage(scan->rs_cbuf), scan->rs_vistuples[i]);
}

/* Has our buffer room for this row, of sane length? */
static inline bool
slot_has_room(const SealedSlot *s, HeapTuple sealed)
{
	Size		len = sealed->t_len - CMEK_ROW_OVERHEAD;

	return len <= s->bufsize && len >= SizeofHeapTupleHeader;
}

/*
 * Unseal the row of a query that has asked for the row before it, and deform
 * what was asked for then.  When it needs more than a key at hand, or cannot
 * be done, the row stays pending: an error is for those who ask.
 */
static inline void
slot_open_at_once(SealedSlot *s, HeapTuple sealed)
{
	if (unlikely(!slot_has_room(s, sealed)) ||
		unlikely(!row_open_quickly(s->ring, sealed, s->buffer)))
		return;
	slot_set_opened(s, sealed->t_len - CMEK_ROW_OVERHEAD);
	if (!slot_deform_fixed(s, s->wanted))
		TTSOpsHeapTuple.getsomeattrs(&s->base.base, s->wanted);
}

/*
 * Step to the next visible row of the page that stock heap has handed this
 * slot a row of; false when it is not that page any more, or its last row.
 * The scan is left as stock heap would leave it, which takes over at any row.
 */
bool
slot_next_on_page(TupleTableSlot *slot, HeapScanDesc scan, CmekKeyRing *ring)
{
	SealedSlot *s = (SealedSlot *) slot;
	BufferHeapTupleTableSlot *inner = (BufferHeapTupleTableSlot *) s->inner;
	HeapTuple	tuple = &scan->rs_ctup;
	int			next = (int) scan->rs_cindex + 1;
	int			last = (int) scan->rs_ntuples - 1;
	OffsetNumber off;
	Page		page;
	ItemId		lp;

	if (inner->base.tuple != tuple || inner->buffer != scan->rs_cbuf ||
		next > last || ring == NULL)
		return false;

	page = BufferGetPage(scan->rs_cbuf);
	off = scan->rs_vistuples[next];
	lp = PageGetItemId(page, off);
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, lp);
	tuple->t_len = ItemIdGetLength(lp);
	ItemPointerSetOffsetNumber(&tuple->t_self, off);
	scan->rs_cindex = next;
	pgstat_count_heap_getnext(scan->rs_base.rs_rd);

	slot_reset_logical(s);
	s->pending = true;
	s->ring = ring;
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
	s->inner->tts_tid = tuple->t_self;
	slot->tts_tid = tuple->t_self;
	slot->tts_tableOid = tuple->t_tableOid;
	if (s->wanted > 0)
	{
		int			ahead = next + PREFETCH_ROWS;

		if (ahead <= last)
			prefetch_row(page, scan->rs_vistuples[ahead]);
		else
			prefetch_next_page(scan->rs_cbuf, ahead - last - 1, tuple->t_len);
		slot_open_at_once(s, tuple);
	}
	return true;
}

/* ----------
 * The other callbacks
 * ----------
 */

/* System columns are those of the sealed row as long as we hold it */
static Datum
sealed_slot_getsysattr(TupleTableSlot *slot, int attnum, bool *isnull)
{
	SealedSlot *s = (SealedSlot *) slot;

	if (!TTS_EMPTY(s->inner))
		return TTSOpsBufferHeapTuple.getsysattr(s->inner, attnum, isnull);
	return TTSOpsHeapTuple.getsysattr(slot, attnum, isnull);
}

#ifdef CMEK_SLOT_HAS_CURRENT_XACT
static bool
sealed_slot_is_current_xact(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;

	if (!TTS_EMPTY(s->inner))
		return TTSOpsBufferHeapTuple.is_current_xact_tuple(s->inner);
	return TTSOpsHeapTuple.is_current_xact_tuple(slot);
}
#endif

/* An unsealed row lives in the slot's own buffer already */
static void
sealed_slot_materialize(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;

	slot_open_if_pending(slot);
	if (s->base.tuple != &s->base.tupdata)
		TTSOpsHeapTuple.materialize(slot);
	if (!TTS_EMPTY(s->inner))
		ExecClearTuple(s->inner);
}

/* Copy the row of any slot into ours */
static void
sealed_slot_copyslot(TupleTableSlot *dst, TupleTableSlot *src)
{
	SealedSlot *d = (SealedSlot *) dst;
	MemoryContext old = MemoryContextSwitchTo(dst->tts_mcxt);
	HeapTuple	tuple = ExecCopySlotHeapTuple(src);

	MemoryContextSwitchTo(old);
	sealed_slot_clear(dst);
	d->base.tuple = tuple;
	dst->tts_flags &= ~TTS_FLAG_EMPTY;
	dst->tts_flags |= TTS_FLAG_SHOULDFREE;
	dst->tts_tid = tuple->t_self;
	dst->tts_tableOid = tuple->t_tableOid;
}

static HeapTuple
sealed_slot_get_heap_tuple(TupleTableSlot *slot)
{
	slot_open_if_pending(slot);
	return TTSOpsHeapTuple.get_heap_tuple(slot);
}

static HeapTuple
sealed_slot_copy_heap_tuple(TupleTableSlot *slot)
{
	SealedSlot *s = (SealedSlot *) slot;

	if (s->pending && s->columns_unused)
		return heap_form_tuple(cmek_sealed_desc, NULL, NULL);
	slot_open_if_pending(slot);
	return TTSOpsHeapTuple.copy_heap_tuple(slot);
}

static MinimalTuple
sealed_slot_copy_minimal_tuple(CMEK_COPY_MINIMAL_PARAMS(slot))
{
	slot_open_if_pending(slot);
	return TTSOpsHeapTuple.copy_minimal_tuple(CMEK_COPY_MINIMAL_ARGS(slot));
}

const TupleTableSlotOps cmek_slot_ops = {
	.base_slot_size = sizeof(SealedSlot),
	.init = sealed_slot_init,
	.release = sealed_slot_release,
	.clear = sealed_slot_clear,
	.getsomeattrs = sealed_slot_getsomeattrs,
	.getsysattr = sealed_slot_getsysattr,
#ifdef CMEK_SLOT_HAS_CURRENT_XACT
	.is_current_xact_tuple = sealed_slot_is_current_xact,
#endif
	.materialize = sealed_slot_materialize,
	.copyslot = sealed_slot_copyslot,
	.get_heap_tuple = sealed_slot_get_heap_tuple,
	.copy_heap_tuple = sealed_slot_copy_heap_tuple,
	.copy_minimal_tuple = sealed_slot_copy_minimal_tuple,
};
