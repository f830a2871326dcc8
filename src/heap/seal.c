/*-------------------------------------------------------------------------
 *
 * seal.c
 *	  Logical heap tuples into sealed ones and back (layout in format.h).
 *
 * Invariant: nothing outside the tag decides how a row is read, except the
 * MVCC bits that heap itself changes in place.  A byte that does not fit is
 * an ERROR, never a value.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"

#include "heap/internal.h"

/*
 * The shortest logical tuple is a header and nothing; the longest sealed one
 * is heap's.  A line pointer may claim any 15-bit length, and buffers for
 * opened rows are made for a page.
 */
#define ROW_MIN_LEN SizeofHeapTupleHeader

static inline bool
row_len_is_sane(HeapTuple sealed)
{
	return sealed->t_len >= CMEK_ROW_OVERHEAD + ROW_MIN_LEN &&
		sealed->t_len <= MaxHeapTupleSize;
}

/* Sealed bytes of a row: DEK id | nonce | ciphertext | tag */
static inline uint8 *
row_body(HeapTupleHeader sealed)
{
	return (uint8 *) sealed + CMEK_ROW_HOFF;
}

/* The DEK that a row names */
uint32
row_dek_id(HeapTupleHeader sealed)
{
	uint32		id;

	memcpy(&id, row_body(sealed), sizeof(id));
	return id;
}

/* Raise the error of a row that does not open */
static void
row_damaged(HeapTuple sealed)
{
	char	   *name = OidIsValid(sealed->t_tableOid) ?
		get_rel_name(sealed->t_tableOid) : NULL;

	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("row (%u,%u) of table \"%s\" is damaged or forged",
					ItemPointerGetBlockNumberNoCheck(&sealed->t_self),
					ItemPointerGetOffsetNumberNoCheck(&sealed->t_self),
					name ? name : "?"),
			 errdetail("It does not authenticate under the keys of the table."),
			 errhint("SELECT * FROM cmek.verify('%s') lists every damaged row.",
					 name ? name : "?")));
}

/* The DEK of a row: nearly always the current one */
static inline const CmekDek *
row_dek(CmekKeyRing *ring, uint32 id)
{
	if (likely(ring->heap->id == id))
		return ring->heap;
	return cmek_keyring_find(ring, CMEK_STRUCTURE_HEAP, id);
}

/* Associated data of a row: where it lies in its key, without a copy */
static inline const CmekRowAad *
row_aad(const CmekDek *dek)
{
	return (const CmekRowAad *) dek->structure;
}

/* Seal what a row hides, len bytes of it, into a body */
static void
row_encrypt(const CmekDek *dek, uint8 *body, const char *hidden, Size len)
{
	memcpy(body, &dek->id, sizeof(dek->id));
	cmek_aead_seal(dek->aead, body + sizeof(dek->id), hidden, len,
				   row_aad(dek), sizeof(CmekRowAad));
	cmek_counters.seals++;
}

/* Open what a row hides; false when it does not authenticate */
static bool
row_decrypt(const CmekDek *dek, HeapTuple sealed, char *hidden)
{
	if (unlikely(!cmek_aead_open(dek->aead, hidden,
								 row_body(sealed->t_data) + sizeof(uint32),
								 sealed->t_len - CMEK_ROW_OVERHEAD - CMEK_ROW_CLEAR,
								 row_aad(dek), sizeof(CmekRowAad))))
		return false;
	cmek_counters.unseals++;
	return true;
}

/*
 * Seal a logical tuple into row_sealed_len(logical) bytes at "sealed".  MVCC
 * fields are left for heap to fill in.
 */
void
row_seal_into(CmekKeyRing *ring, HeapTupleHeader sealed, HeapTuple logical)
{
	const CmekDek *dek = cmek_keyring_take_seal(ring, CMEK_STRUCTURE_HEAP);
	uint8	   *body = row_body(sealed);

	memset(sealed, 0, CMEK_ROW_HOFF);
	ItemPointerSetInvalid(&sealed->t_ctid);
	sealed->t_hoff = CMEK_ROW_HOFF;

	row_encrypt(dek, body, (char *) logical->t_data + CMEK_ROW_CLEAR,
				logical->t_len - CMEK_ROW_CLEAR);
}

/* A sealed copy of a logical tuple, in one palloc'd chunk */
HeapTuple
row_seal(Relation rel, HeapTuple logical)
{
	CmekKeyRing *ring = heap_key_for_write(rel);
	Size		len = row_sealed_len(logical);
	HeapTuple	sealed = (HeapTuple) palloc(HEAPTUPLESIZE + len);

	sealed->t_len = len;
	ItemPointerSetInvalid(&sealed->t_self);
	sealed->t_tableOid = RelationGetRelid(rel);
	sealed->t_data = (HeapTupleHeader) ((char *) sealed + HEAPTUPLESIZE);
	row_seal_into(ring, sealed->t_data, logical);
	return sealed;
}

/* Length of the logical tuple inside a sealed one */
Size
row_plain_len(CmekKeyRing *ring, HeapTuple sealed)
{
	if (unlikely(!row_len_is_sane(sealed)))
		row_damaged(sealed);
	return sealed->t_len - CMEK_ROW_OVERHEAD;
}

/*
 * The infomasks of an opened row: MVCC bits as they stand on the page now,
 * the others as they were sealed.
 */
static inline void
row_merge_infomask(HeapTupleHeader plain, HeapTupleHeader sealed)
{
	plain->t_infomask = (plain->t_infomask & ~HEAP_XACT_MASK) |
		(sealed->t_infomask & HEAP_XACT_MASK);
	plain->t_infomask2 = (plain->t_infomask2 & HEAP_NATTS_MASK) |
		(sealed->t_infomask2 & ~HEAP_NATTS_MASK);
}

/*
 * Open a sealed row into "plain", MAXALIGNed and row_plain_len long.  False
 * when it does not authenticate.
 */
bool
row_try_open_into(CmekKeyRing *ring, HeapTuple sealed, char *plain)
{
	HeapTupleHeader header = sealed->t_data;
	const CmekDek *dek;

	if (unlikely(!row_len_is_sane(sealed)))
		return false;
	dek = row_dek(ring, row_dek_id(header));
	if (unlikely(dek == NULL) ||
		unlikely(!row_decrypt(dek, sealed, plain + CMEK_ROW_CLEAR)))
		return false;
	memcpy(plain, header, CMEK_ROW_CLEAR);
	row_merge_infomask((HeapTupleHeader) plain, header);
	return true;
}

/*
 * Open a row of sane length when it takes neither a look into the catalogs nor
 * patience: false also for a row of an older data key, and for a torn one.
 * Whoever is refused asks row_open_from_buffer.
 */
bool
row_open_quickly(CmekKeyRing *ring, HeapTuple sealed, char *plain)
{
	if (unlikely(row_dek_id(sealed->t_data) != ring->heap->id) ||
		unlikely(!row_decrypt(ring->heap, sealed, plain + CMEK_ROW_CLEAR)))
		return false;
	memcpy(plain, sealed->t_data, CMEK_ROW_CLEAR);
	row_merge_infomask((HeapTupleHeader) plain, sealed->t_data);
	return true;
}

/*
 * A copy of a tuple in a pinned buffer that nobody was writing to meanwhile:
 * cmek.reseal() changes rows in place, under the lock of their buffer.
 */
HeapTuple
row_copy_locked(HeapTuple tuple, Buffer buf)
{
	HeapTuple	copy;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	copy = heap_copytuple(tuple);
	LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	return copy;
}

/*
 * Open a row that lies in a pinned buffer, unlocked.  It may be torn by a
 * reseal; then it opens from a copy made under the buffer's lock.  Unless its
 * data key was retired between the copy and our look into the catalogs, as
 * happens to those who are slow; then the row names another one by now.  When
 * it still names the same, that key was not retired, and the row is damaged.
 */
bool
row_try_open_from_buffer(CmekKeyRing *ring, HeapTuple sealed, Buffer buf,
						 char *plain)
{
	bool		good = row_try_open_into(ring, sealed, plain);
	/* whoever holds the lock already sees nothing torn */
	bool		again = BufferIsValid(buf) && !heap_holds_lwlock() &&
		row_len_is_sane(sealed);
	uint32		last = 0;

	while (unlikely(!good) && again)
	{
		HeapTuple	copy = row_copy_locked(sealed, buf);
		uint32		id = row_dek_id(copy->t_data);

		CHECK_FOR_INTERRUPTS();
		good = row_try_open_into(ring, copy, plain);
		heap_freetuple(copy);
		again = id != last;
		last = id;
	}
	return good;
}

/* The same; ERROR when it does not authenticate */
void
row_open_from_buffer(CmekKeyRing *ring, HeapTuple sealed, Buffer buf,
					 char *plain)
{
	if (unlikely(!row_try_open_from_buffer(ring, sealed, buf, plain)))
		row_damaged(sealed);
}

/*
 * Seal a row anew, in its place, with the data key "to", of which the caller
 * has taken a seal.  Same length, same content, and the header untouched.
 * Without "from" the row is one that nobody will read: zeros take its place.
 * False when it does not open.  "hidden" has room for any row.  Works on a
 * locked page: touches nothing else.
 */
bool
row_reseal(const CmekDek *from, const CmekDek *to, HeapTuple sealed,
		   char *hidden)
{
	Size		len = sealed->t_len - CMEK_ROW_OVERHEAD - CMEK_ROW_CLEAR;

	if (!row_len_is_sane(sealed))
		return false;
	if (from == NULL)
		memset(hidden, 0, len);
	else if (!row_decrypt(from, sealed, hidden))
		return false;
	row_encrypt(to, row_body(sealed->t_data), hidden, len);
	return true;
}

/* Room for the logical tuple of a sealed one of sane length, in one chunk */
static HeapTuple
row_alloc(HeapTuple sealed)
{
	Size		len = sealed->t_len - CMEK_ROW_OVERHEAD;
	HeapTuple	plain = (HeapTuple) palloc(HEAPTUPLESIZE + len);

	plain->t_len = len;
	plain->t_self = sealed->t_self;
	plain->t_tableOid = sealed->t_tableOid;
	plain->t_data = (HeapTupleHeader) ((char *) plain + HEAPTUPLESIZE);
	return plain;
}

/*
 * A logical copy of a sealed tuple, in one palloc'd chunk; NULL when it does
 * not authenticate.  The tuple is a copy itself, or nobody can reseal it.
 */
static HeapTuple
row_try_open(Relation rel, HeapTuple sealed)
{
	CmekKeyRing *ring = cmek_keyring_acquire(rel);
	HeapTuple	plain;

	if (!row_len_is_sane(sealed))
		return NULL;
	plain = row_alloc(sealed);
	if (unlikely(!row_try_open_into(ring, sealed, (char *) plain->t_data)))
	{
		heap_freetuple(plain);
		return NULL;
	}
	return plain;
}

/* See heap.h. */
HeapTuple
cmek_heap_try_open(Relation rel, HeapTuple sealed)
{
	return row_try_open(rel, sealed);
}

/* The same; ERROR when it does not authenticate */
HeapTuple
row_open(Relation rel, HeapTuple sealed)
{
	HeapTuple	plain = row_try_open(rel, sealed);

	if (unlikely(plain == NULL))
		row_damaged(sealed);
	return plain;
}

/*
 * Read and lock the buffer of a TID.  The tuple has no data when its line
 * pointer holds none.  The caller knows by its snapshot that the row cannot be
 * vacuumed.
 */
static Buffer
row_find(Relation rel, ItemPointer tid, HeapTuple tuple)
{
	Buffer		buf = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	OffsetNumber off = ItemPointerGetOffsetNumber(tid);
	Page		page;
	ItemId		lp;

	tuple->t_data = NULL;
	LockBuffer(buf, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buf);
	if (off < FirstOffsetNumber || off > PageGetMaxOffsetNumber(page))
		return buf;
	lp = PageGetItemId(page, off);
	if (!ItemIdIsNormal(lp))
		return buf;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, lp);
	/* a line pointer may lie, but not lead out of the page */
	tuple->t_len = Min(ItemIdGetLength(lp), BLCKSZ - ItemIdGetOffset(lp));
	tuple->t_self = *tid;
	tuple->t_tableOid = RelationGetRelid(rel);
	return buf;
}

/* The sealed tuple at a TID, copied; NULL when there is none */
static HeapTuple
row_fetch_sealed(Relation rel, ItemPointer tid)
{
	HeapTuple	copy = NULL;
	HeapTupleData tuple;
	Buffer		buf = row_find(rel, tid, &tuple);

	if (tuple.t_data != NULL)
		copy = heap_copytuple(&tuple);
	UnlockReleaseBuffer(buf);
	return copy;
}

/*
 * The logical tuple at a TID, palloc'd, opened where it lies: nobody reseals
 * it under our lock.  NULL when that needs more than the key at hand, or there
 * is none.
 */
static HeapTuple
row_fetch_quickly(Relation rel, ItemPointer tid)
{
	CmekKeyRing *ring = cmek_keyring_acquire(rel);
	HeapTupleData sealed;
	Buffer		buf = row_find(rel, tid, &sealed);
	HeapTuple	plain = NULL;

	if (likely(sealed.t_data != NULL && row_len_is_sane(&sealed)))
	{
		plain = row_alloc(&sealed);
		if (unlikely(!row_open_quickly(ring, &sealed, (char *) plain->t_data)))
		{
			heap_freetuple(plain);
			plain = NULL;
		}
	}
	UnlockReleaseBuffer(buf);
	return plain;
}

/* The logical tuple at a TID, palloc'd; NULL when there is none */
HeapTuple
row_fetch(Relation rel, ItemPointer tid)
{
	HeapTuple	quick = row_fetch_quickly(rel, tid);
	uint32		last = 0;

	if (likely(quick != NULL))
		return quick;
	for (;;)
	{
		HeapTuple	sealed = row_fetch_sealed(rel, tid);
		HeapTuple	plain;

		if (sealed == NULL)
			return NULL;
		plain = row_try_open(rel, sealed);
		/* as in row_try_open_from_buffer */
		if (unlikely(plain == NULL) &&
			(!row_len_is_sane(sealed) || row_dek_id(sealed->t_data) == last))
			row_damaged(sealed);
		last = row_dek_id(sealed->t_data);
		heap_freetuple(sealed);
		if (likely(plain != NULL))
			return plain;
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * The same for a row that is about to be deleted: one that is damaged has to
 * be removable, or only TRUNCATE could get rid of it.  What it kept out of
 * line cannot be known, and stays behind.
 */
HeapTuple
row_fetch_doomed(Relation rel, ItemPointer tid)
{
	HeapTuple	sealed = row_fetch_sealed(rel, tid);
	HeapTuple	plain;

	if (sealed == NULL)
		return NULL;
	plain = row_try_open(rel, sealed);
	heap_freetuple(sealed);
	if (plain == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("row (%u,%u) of table \"%s\" is damaged or forged",
						ItemPointerGetBlockNumberNoCheck(tid),
						ItemPointerGetOffsetNumberNoCheck(tid),
						RelationGetRelationName(rel)),
				 errdetail("Values that it kept out of line cannot be deleted with it.")));
	return plain;
}

/*
 * Show in the logical tuple what heap has written into the header of the
 * sealed one, for RETURNING and triggers that ask for system columns.
 */
void
row_copy_mvcc(HeapTuple logical, HeapTuple sealed)
{
	memcpy(&logical->t_data->t_choice, &sealed->t_data->t_choice,
		   sizeof(logical->t_data->t_choice));
	logical->t_data->t_ctid = sealed->t_data->t_ctid;
	row_merge_infomask(logical->t_data, sealed->t_data);
	logical->t_self = sealed->t_self;
}
