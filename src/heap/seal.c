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
static inline uint32
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

/* Associated data of a row */
static inline void
row_aad(CmekRowAad *aad, const CmekDek *dek)
{
	aad->dek_id = dek->id;
	memcpy(aad->structure, dek->structure, CMEK_UUID_LEN);
}

/*
 * Seal a logical tuple into row_sealed_len(logical) bytes at "sealed".  MVCC
 * fields are left for heap to fill in.
 */
void
row_seal_into(CmekKeyRing *ring, HeapTupleHeader sealed, HeapTuple logical)
{
	const CmekDek *dek = ring->heap;
	uint8	   *body = row_body(sealed);
	CmekRowAad	aad;

	memset(sealed, 0, CMEK_ROW_HOFF);
	ItemPointerSetInvalid(&sealed->t_ctid);
	sealed->t_hoff = CMEK_ROW_HOFF;

	row_aad(&aad, dek);
	memcpy(body, &dek->id, sizeof(dek->id));
	cmek_aead_seal(dek->aead, body + sizeof(dek->id),
				   (char *) logical->t_data + CMEK_ROW_CLEAR,
				   logical->t_len - CMEK_ROW_CLEAR,
				   &aad, sizeof(aad));
	cmek_counters.seals++;
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
	CmekRowAad	aad;

	if (unlikely(!row_len_is_sane(sealed)))
		return false;
	dek = row_dek(ring, row_dek_id(header));
	if (unlikely(dek == NULL))
		return false;

	row_aad(&aad, dek);
	if (unlikely(!cmek_aead_open(dek->aead, plain + CMEK_ROW_CLEAR,
								 row_body(header) + sizeof(uint32),
								 sealed->t_len - CMEK_ROW_OVERHEAD - CMEK_ROW_CLEAR,
								 &aad, sizeof(aad))))
		return false;
	memcpy(plain, header, CMEK_ROW_CLEAR);
	row_merge_infomask((HeapTupleHeader) plain, header);
	cmek_counters.unseals++;
	return true;
}

/* The same; ERROR when it does not authenticate */
void
row_open_into(CmekKeyRing *ring, HeapTuple sealed, char *plain)
{
	if (unlikely(!row_try_open_into(ring, sealed, plain)))
		row_damaged(sealed);
}

/*
 * A logical copy of a sealed tuple, in one palloc'd chunk; NULL when it does
 * not authenticate.
 */
static HeapTuple
row_try_open(Relation rel, HeapTuple sealed)
{
	CmekKeyRing *ring = cmek_keyring_acquire(rel);
	Size		len;
	HeapTuple	plain;

	if (!row_len_is_sane(sealed))
		return NULL;
	len = sealed->t_len - CMEK_ROW_OVERHEAD;
	plain = (HeapTuple) palloc(HEAPTUPLESIZE + len);
	plain->t_len = len;
	plain->t_self = sealed->t_self;
	plain->t_tableOid = sealed->t_tableOid;
	plain->t_data = (HeapTupleHeader) ((char *) plain + HEAPTUPLESIZE);
	if (row_try_open_into(ring, sealed, (char *) plain->t_data))
		return plain;
	heap_freetuple(plain);
	return NULL;
}

/* The same; ERROR when it does not authenticate */
HeapTuple
row_open(Relation rel, HeapTuple sealed)
{
	HeapTuple	plain = row_try_open(rel, sealed);

	if (plain == NULL)
		row_damaged(sealed);
	return plain;
}

/*
 * The sealed tuple at a TID, copied; NULL when the line pointer holds no
 * tuple.  The caller knows by its snapshot that the row cannot be vacuumed.
 */
static HeapTuple
row_fetch_sealed(Relation rel, ItemPointer tid)
{
	Buffer		buf = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	OffsetNumber off = ItemPointerGetOffsetNumber(tid);
	HeapTuple	copy = NULL;
	Page		page;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buf);
	if (off >= FirstOffsetNumber && off <= PageGetMaxOffsetNumber(page))
	{
		ItemId		lp = PageGetItemId(page, off);

		if (ItemIdIsNormal(lp))
		{
			HeapTupleData tuple;

			tuple.t_data = (HeapTupleHeader) PageGetItem(page, lp);
			tuple.t_len = ItemIdGetLength(lp);
			tuple.t_self = *tid;
			tuple.t_tableOid = RelationGetRelid(rel);
			copy = heap_copytuple(&tuple);
		}
	}
	UnlockReleaseBuffer(buf);
	return copy;
}

/* The logical tuple at a TID, palloc'd; NULL when there is none */
HeapTuple
row_fetch(Relation rel, ItemPointer tid)
{
	HeapTuple	sealed = row_fetch_sealed(rel, tid);
	HeapTuple	plain;

	if (sealed == NULL)
		return NULL;
	plain = row_open(rel, sealed);
	heap_freetuple(sealed);
	return plain;
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
