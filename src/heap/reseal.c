/*-------------------------------------------------------------------------
 *
 * reseal.c
 *	  Old rows and chunks under the current data keys, page by page.
 *
 * A resealed row has the same length, content and header, so it is written
 * over itself: no row version, no index entry, no conflict with a snapshot.
 * A page is changed under the exclusive lock of its buffer, and logged whole.
 * Readers that hold a pin only may see a torn row; it does not authenticate,
 * and they look again under the lock (row_open_from_buffer).
 *
 * Under a buffer lock nothing is acquired, read or waited for: key ring,
 * reservation of seals and lengths of TOAST values come first.
 *
 * A pass takes those rows for old that name one of a fixed list of data keys,
 * the ones that were superseded, and no writer could use any more, when the
 * reseal began.  So it comes to an end also when newer keys are superseded
 * meanwhile, and when a pass met none of them, nothing names them: rows are
 * copied elsewhere as they are only by a rewrite, which changes the file, and
 * that begins a new pass.
 *
 * Transactions are the caller's business (renew.c).  Here, a batch takes
 * ShareUpdateExclusiveLock on the table and keeps it to the transaction's end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "heap/internal.h"

/* Pages a transaction changes before it lets others have the lock */
#define PAGES_PER_BATCH 128

/* One open structure: the heap or the TOAST table */
typedef struct ResealTarget
{
	ResealPass *pass;
	Relation	table;			/* whose keys they are */
	Relation	rel;			/* whose pages they are: the table, or its TOAST */
	CmekStructureKind kind;
	BufferAccessStrategy strategy;
	/* TOAST: what chunks are looked up by */
	Relation   *indexes;
	int			nindexes;
	int			valid;
	/* TOAST: values on the page at hand */
	int			nvalues;
	Oid			values[MaxHeapTuplesPerPage];
	int32		totals[MaxHeapTuplesPerPage];	/* 0: not known */
} ResealTarget;

/* Is the relation one that has data keys to renew? */
bool
reseal_knows_table(Relation rel)
{
	return RELKIND_HAS_STORAGE(rel->rd_rel->relkind) &&
		!is_toast_table(rel) && cmek_relation_is_sealed(rel) &&
		rel->rd_rel->relpersistence != RELPERSISTENCE_TEMP;
}

/* Open the table of a pass; NULL when it is gone, or no longer sealed */
static Relation
pass_open(ResealPass *pass)
{
	Relation	rel = try_relation_open(pass->relid, ShareUpdateExclusiveLock);

	if (rel != NULL && !reseal_knows_table(rel))
	{
		relation_close(rel, NoLock);
		rel = NULL;
	}
	return rel;
}

/* The file of the TOAST table; InvalidOid when there is none */
static Oid
toast_file(Oid toastid, BlockNumber *blocks)
{
	Relation	toast;
	Oid			file;

	*blocks = 0;
	if (!OidIsValid(toastid))
		return InvalidOid;
	toast = table_open(toastid, AccessShareLock);
	file = toast->rd_rel->relfilenode;
	*blocks = RelationGetNumberOfBlocks(toast);
	table_close(toast, AccessShareLock);
	return file;
}

/* Begin a pass; how many blocks there are, for the progress */
ResealResult
reseal_begin(ResealPass *pass, uint64 *blocks)
{
	Relation	rel = pass_open(pass);
	BlockNumber toast_blocks;

	if (rel == NULL)
		return RESEAL_GONE;
	pass->heap_file = rel->rd_rel->relfilenode;
	pass->toast = rel->rd_rel->reltoastrelid;
	pass->toast_file = toast_file(pass->toast, &toast_blocks);
	*blocks = (uint64) RelationGetNumberOfBlocks(rel) + toast_blocks;
	pass->in_toast = false;
	pass->block = 0;
	pass->blocks_done = 0;
	pass->resealed = pass->dead = pass->damaged = 0;
	relation_close(rel, NoLock);
	return RESEAL_MORE;
}

/* Is the table still in the files that the pass has read? */
static bool
pass_has_same_files(ResealPass *pass, Relation rel)
{
	BlockNumber blocks;

	return rel->rd_rel->relfilenode == pass->heap_file &&
		rel->rd_rel->reltoastrelid == pass->toast &&
		toast_file(pass->toast, &blocks) == pass->toast_file;
}

/* ----------
 * TOAST values
 * ----------
 */

/* The columns of a chunk's row */
static void
chunk_columns(Relation toast, HeapTuple tuple, Oid *valueid, int32 *seq,
			  struct varlena **chunk)
{
	TupleDesc	desc = RelationGetDescr(toast);
	bool		isnull;

	*valueid = DatumGetObjectId(fastgetattr(tuple, 1, desc, &isnull));
	*seq = DatumGetInt32(fastgetattr(tuple, 2, desc, &isnull));
	*chunk = (struct varlena *)
		DatumGetPointer(fastgetattr(tuple, 3, desc, &isnull));
}

/*
 * The length of a value, which every chunk authenticates, by its last chunk,
 * be it dead or alive; 0 when there is none.
 */
static int32
value_total(ResealTarget *target, Oid valueid)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int32		total = 0;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(valueid));
	scan = systable_beginscan_ordered(target->rel, target->indexes[target->valid],
									  SnapshotAny, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (tuple != NULL)
	{
		struct varlena *chunk;
		int32		seq;

		chunk_columns(target->rel, tuple, &valueid, &seq, &chunk);
		total = seq * (int32) CMEK_CHUNK_PLAIN +
			(int32) (VARSIZE_ANY_EXHDR(chunk) - CMEK_SEAL_OVERHEAD);
	}
	systable_endscan_ordered(scan);
	return total;
}

/* Where the value is among those of the page at hand; -1: nowhere */
static int
value_find(ResealTarget *target, Oid valueid)
{
	for (int i = 0; i < target->nvalues; i++)
		if (target->values[i] == valueid)
			return i;
	return -1;
}

/* ----------
 * Pages
 * ----------
 */

/* The tuple at a line pointer; false when there is none */
static bool
page_tuple(Relation rel, Page page, BlockNumber block, OffsetNumber off,
		   HeapTuple tuple)
{
	ItemId		lp = PageGetItemId(page, off);

	if (!ItemIdIsNormal(lp))
		return false;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, lp);
	tuple->t_len = ItemIdGetLength(lp);
	tuple->t_tableOid = RelationGetRelid(rel);
	ItemPointerSet(&tuple->t_self, block, off);
	return true;
}

/* The old data key that a tuple names; 0 when it needs nothing */
static uint32
tuple_old_dek(ResealTarget *target, HeapTuple tuple)
{
	uint32		id = 0;

	if (target->kind == CMEK_STRUCTURE_TOAST)
	{
		struct varlena *chunk;
		Oid			valueid;
		int32		seq;

		chunk_columns(target->rel, tuple, &valueid, &seq, &chunk);
		id = chunk_dek_id(chunk);
	}
	else if (tuple->t_len >= CMEK_ROW_OVERHEAD)
		id = row_dek_id(tuple->t_data);
	return list_member_oid(target->pass->old, id) ? id : 0;
}

/*
 * Look at a page: how many tuples are old, and of which values they are.
 * Caller has locked the buffer.
 */
static int
page_count_old(ResealTarget *target, Page page, BlockNumber block)
{
	OffsetNumber last;
	HeapTupleData tuple;
	int			n = 0;

	target->nvalues = 0;
	if (PageIsNew(page))
		return 0;
	last = PageGetMaxOffsetNumber(page);
	for (OffsetNumber off = FirstOffsetNumber; off <= last; off++)
	{
		Oid			valueid;
		int32		seq;
		struct varlena *chunk;

		if (!page_tuple(target->rel, page, block, off, &tuple) ||
			tuple_old_dek(target, &tuple) == 0)
			continue;
		n++;
		if (target->kind != CMEK_STRUCTURE_TOAST)
			continue;
		chunk_columns(target->rel, &tuple, &valueid, &seq, &chunk);
		if (value_find(target, valueid) < 0)
			target->values[target->nvalues++] = valueid;
	}
	return n;
}

/*
 * Seal a tuple on the copy of a locked page anew; without "from", overwrite
 * it.  False when it does not open.
 */
static bool
tuple_reseal(ResealTarget *target, HeapTuple tuple, const CmekDek *from,
			 CmekDek *to, char *room)
{
	struct varlena *chunk;
	Oid			valueid;
	int32		seq;
	int			i;
	bool		done;

	if (target->kind != CMEK_STRUCTURE_TOAST)
		done = row_reseal(from, to, tuple, room);
	else
	{
		chunk_columns(target->rel, tuple, &valueid, &seq, &chunk);
		i = value_find(target, valueid);
		done = i >= 0 && chunk_reseal(from, to, chunk, valueid, seq,
									  target->totals[i]);
	}
	if (done)
	{
		to->seals_left--;
		target->pass->resealed++;
	}
	return done;
}

/*
 * A tuple that did not open.  Dead to everybody, it is nearly always a chunk
 * of a value that was pruned in part, or never stored whole: nobody will read
 * it, so it is overwritten and does not hold its data key back.  Otherwise
 * count it.  "tuple" is on the copy of the page that is locked in "buf".
 */
static void
tuple_give_up(ResealTarget *target, HeapTuple tuple, Buffer buf, CmekDek *to,
			  char *room)
{
	TransactionId horizon = GetOldestNonRemovableTransactionId(target->rel);
	HeapTupleData real;
	HTSV_Result status;

	if (!page_tuple(target->rel, BufferGetPage(buf), BufferGetBlockNumber(buf),
					ItemPointerGetOffsetNumber(&tuple->t_self), &real))
		return;
	status = HeapTupleSatisfiesVacuum(&real, horizon, buf);
	if (status == HEAPTUPLE_DEAD &&
		tuple_reseal(target, tuple, NULL, to, room))
		return;
	if (status == HEAPTUPLE_DEAD || status == HEAPTUPLE_RECENTLY_DEAD)
		target->pass->dead++;
	else
		target->pass->damaged++;
}

/*
 * Seal the old tuples of a page anew, with seals that were reserved.  Caller
 * holds the buffer's exclusive lock.
 */
static void
page_reseal(ResealTarget *target, const CmekKeyRing *ring, CmekDek *to,
			Buffer buf)
{
	BlockNumber block = BufferGetBlockNumber(buf);
	GenericXLogState *xlog = GenericXLogStart(target->rel);
	Page		page = GenericXLogRegisterBuffer(xlog, buf, GENERIC_XLOG_FULL_IMAGE);
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	uint64		before = target->pass->resealed;
	char	   *room = palloc(BLCKSZ);
	HeapTupleData tuple;

	for (OffsetNumber off = FirstOffsetNumber;
		 off <= last && to->seals_left > 0; off++)
	{
		const CmekDek *from;
		uint32		id;

		if (!page_tuple(target->rel, page, block, off, &tuple) ||
			(id = tuple_old_dek(target, &tuple)) == 0)
			continue;
		from = cmek_keyring_peek(ring, target->kind, id);
		if (from == NULL || !tuple_reseal(target, &tuple, from, to, room))
			tuple_give_up(target, &tuple, buf, to, room);
	}
	cmek_cleanse(room, BLCKSZ);
	pfree(room);
	cmek_stop("reseal-page");
	if (target->pass->resealed > before)
		GenericXLogFinish(xlog);
	else
		GenericXLogAbort(xlog);
}

/* One page; false when the data key has no seals left for it */
static bool
target_do_page(ResealTarget *target, BlockNumber block)
{
	Buffer		buf = ReadBufferExtended(target->rel, MAIN_FORKNUM, block,
										 RBM_NORMAL, target->strategy);
	CmekKeyRing *ring;
	CmekDek    *dek;
	int			nold;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	nold = page_count_old(target, BufferGetPage(buf), block);
	LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	if (nold == 0)
	{
		ReleaseBuffer(buf);
		return true;
	}
	for (int i = 0; i < target->nvalues; i++)
		target->totals[i] = value_total(target, target->values[i]);
	ring = cmek_keyring_acquire(target->table);
	dek = cmek_seals_try_reserve(ring, target->kind, nold);
	if (dek == NULL)
	{
		ReleaseBuffer(buf);
		return false;
	}
	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	page_reseal(target, ring, dek, buf);
	UnlockReleaseBuffer(buf);
	return true;
}

/* ----------
 * Batches
 * ----------
 */

/* Open the structure a pass is at; the lock on TOAST keeps truncation away */
static void
target_open(ResealTarget *target, ResealPass *pass, Relation table)
{
	target->pass = pass;
	target->table = table;
	target->strategy = GetAccessStrategy(BAS_VACUUM);
	target->nvalues = 0;
	if (!pass->in_toast)
	{
		target->rel = table;
		target->kind = CMEK_STRUCTURE_HEAP;
		return;
	}
	target->rel = table_open(pass->toast, RowExclusiveLock);
	target->kind = CMEK_STRUCTURE_TOAST;
	target->valid = toast_open_indexes(target->rel, AccessShareLock,
									   &target->indexes, &target->nindexes);
}

static void
target_close(ResealTarget *target)
{
	FreeAccessStrategy(target->strategy);
	if (target->rel == target->table)
		return;
	toast_close_indexes(target->indexes, target->nindexes, NoLock);
	table_close(target->rel, NoLock);
}

/* The next pages of the structure that a pass is at */
static ResealResult
target_do_pages(ResealTarget *target)
{
	ResealPass *pass = target->pass;
	BlockNumber nblocks = RelationGetNumberOfBlocks(target->rel);
	BlockNumber upto = Min(nblocks, pass->block + PAGES_PER_BATCH);

	while (pass->block < upto)
	{
		CHECK_FOR_INTERRUPTS();
		if (!target_do_page(target, pass->block))
			return RESEAL_KEY_FULL;
		pass->block++;
		cmek_progress_update(++pass->blocks_done);
	}
	return pass->block < nblocks ? RESEAL_MORE : RESEAL_END;
}

/*
 * Do the next pages.  To be called in a transaction of its own, until
 * RESEAL_END; pages that are added meanwhile have no old rows, but are looked
 * at all the same.
 */
ResealResult
reseal_batch(ResealPass *pass)
{
	Relation	table = pass_open(pass);
	ResealTarget *target;
	ResealResult result;

	if (table == NULL)
		return RESEAL_GONE;
	if (!pass_has_same_files(pass, table))
	{
		relation_close(table, NoLock);
		return RESEAL_MOVED;
	}
	target = palloc(sizeof(ResealTarget));
	target_open(target, pass, table);
	result = target_do_pages(target);
	target_close(target);
	pfree(target);
	if (result == RESEAL_END && !pass->in_toast && OidIsValid(pass->toast))
	{
		pass->in_toast = true;
		pass->block = 0;
		result = RESEAL_MORE;
	}
	relation_close(table, NoLock);
	return result;
}

/*
 * Delete the old data keys, after a pass that met no row of theirs.
 */
ResealResult
reseal_retire(ResealPass *pass)
{
	Relation	table = pass_open(pass);
	ResealResult result = RESEAL_END;

	Assert(pass->resealed == 0 && pass->dead == 0 && pass->damaged == 0);
	if (table == NULL)
		return RESEAL_GONE;
	if (pass_has_same_files(pass, table))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		if (cmek_analyze_hooks != NULL)
			cmek_analyze_hooks->reseal(pass->relid);
		cmek_keys_retire(pass->relid, pass->old);
		PopActiveSnapshot();
	}
	else
		result = RESEAL_MOVED;
	relation_close(table, NoLock);
	return result;
}
