/*-------------------------------------------------------------------------
 *
 * toast.c
 *	  Out-of-line values of sealed tables.
 *
 * Values are compressed and moved out at the logical level, by core's rules,
 * so the sealed row holds ordinary TOAST pointers.  The TOAST table is an
 * ordinary one; its chunk_data is sealed (format.h), chunk by chunk, with the
 * value id, the chunk number and the length of the value authenticated.
 *
 * Order of an UPDATE: new values are stored before heap_update, old ones
 * deleted only after it succeeded; when it did not, the new ones are taken
 * back.  So a concurrent update never loses chunks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/toast_helper.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "heap/internal.h"

/* Chunks that one call of stock heap's slice reader is asked for */
#define CHUNKS_PER_READ 64

/* ----------
 * Chunks
 * ----------
 */

/* Associated data of a chunk */
static void
chunk_aad(CmekChunkAad *aad, const CmekDek *dek, Oid valueid, int32 seq,
		  int32 total)
{
	aad->dek_id = dek->id;
	memcpy(aad->structure, dek->structure, CMEK_UUID_LEN);
	aad->value_id = valueid;
	aad->chunk = seq;
	aad->total = total;
}

/* Seal with a given data key, of which a seal was taken */
static void
chunk_encrypt(const CmekDek *dek, char *out, const char *data, int32 len,
			  Oid valueid, int32 seq, int32 total)
{
	CmekChunkAad aad;

	chunk_aad(&aad, dek, valueid, seq, total);
	memcpy(out, &dek->id, sizeof(dek->id));
	cmek_aead_seal(dek->aead, (uint8 *) out + sizeof(dek->id), data, len,
				   &aad, sizeof(aad));
	cmek_counters.seals++;
}

/* Open with a given data key; false when it does not fit */
static bool
chunk_decrypt(const CmekDek *dek, char *out, const char *sealed, int32 len,
			  Oid valueid, int32 seq, int32 total)
{
	CmekChunkAad aad;

	chunk_aad(&aad, dek, valueid, seq, total);
	if (!cmek_aead_open(dek->aead, out,
						(const uint8 *) sealed + sizeof(uint32),
						len, &aad, sizeof(aad)))
		return false;
	cmek_counters.unseals++;
	return true;
}

/* Seal len bytes into len + CMEK_SEAL_OVERHEAD bytes */
static void
chunk_seal(CmekKeyRing *ring, char *out, const char *data, int32 len,
		   Oid valueid, int32 seq, int32 total)
{
	chunk_encrypt(cmek_keyring_take_seal(ring, CMEK_STRUCTURE_TOAST), out, data,
				  len, valueid, seq, total);
}

/* Open a sealed chunk of "len" plaintext bytes; false when it does not fit */
bool
chunk_open(CmekKeyRing *ring, char *out, const char *sealed, int32 len,
		   Oid valueid, int32 seq, int32 total)
{
	const CmekDek *dek;
	uint32		id;

	memcpy(&id, sealed, sizeof(id));
	dek = ring->toast->id == id ? ring->toast :
		cmek_keyring_find(ring, CMEK_STRUCTURE_TOAST, id);
	return dek != NULL &&
		chunk_decrypt(dek, out, sealed, len, valueid, seq, total);
}

/* Does a chunk authenticate as the seq'th of its value? */
bool
chunk_is_good(CmekKeyRing *ring, struct varlena *chunk, Oid valueid, int32 seq,
			  int32 total)
{
	char		plain[CMEK_CHUNK_PLAIN];
	int32		len = chunk_plain_len(seq, total);

	return len > 0 &&
		VARSIZE_ANY_EXHDR(chunk) == len + CMEK_SEAL_OVERHEAD &&
		chunk_open(ring, plain, VARDATA_ANY(chunk), len, valueid, seq, total);
}

/* The data key that a chunk names */
uint32
chunk_dek_id(struct varlena *chunk)
{
	uint32		id = 0;

	if (VARSIZE_ANY_EXHDR(chunk) > CMEK_SEAL_OVERHEAD)
		memcpy(&id, VARDATA_ANY(chunk), sizeof(id));
	return id;
}

/*
 * Seal a chunk anew, in its place, with the data key "to", of which the caller
 * has taken a seal.  Without "from" it is one that nobody will read: zeros take
 * its place.  False when it does not open.  Works on a locked page.
 */
bool
chunk_reseal(const CmekDek *from, const CmekDek *to, struct varlena *chunk,
			 Oid valueid, int32 seq, int32 total)
{
	char		plain[CMEK_CHUNK_PLAIN];
	int32		len = VARSIZE_ANY_EXHDR(chunk) - CMEK_SEAL_OVERHEAD;

	if (len <= 0 || len > (int32) CMEK_CHUNK_PLAIN)
		return false;
	if (from == NULL)
		memset(plain, 0, len);
	else if (len != chunk_plain_len(seq, total) ||
			 !chunk_decrypt(from, plain, VARDATA_ANY(chunk), len,
							valueid, seq, total))
		return false;
	chunk_encrypt(to, VARDATA_ANY(chunk), plain, len, valueid, seq, total);
	return true;
}

/* A copy of the chunk that a scan has found, not torn by a reseal */
HeapTuple
chunk_copy_locked(SysScanDesc scan, HeapTuple chunk)
{
	return row_copy_locked(chunk,
						   ((BufferHeapTupleTableSlot *) scan->slot)->buffer);
}

/* ----------
 * Storing
 * ----------
 */

/* An open TOAST table and its indexes */
typedef struct ToastTarget
{
	Relation	rel;
	Relation   *indexes;
	int			nindexes;
	int			valid;
} ToastTarget;

static void
target_open(ToastTarget *target, Oid toastrelid)
{
	target->rel = table_open(toastrelid, RowExclusiveLock);
	target->valid = toast_open_indexes(target->rel, RowExclusiveLock,
									   &target->indexes, &target->nindexes);
}

static void
target_close(ToastTarget *target)
{
	toast_close_indexes(target->indexes, target->nindexes, NoLock);
	table_close(target->rel, NoLock);
}

/* Store one sealed chunk */
static void
target_put(ToastTarget *target, Oid valueid, int32 seq, struct varlena *chunk,
		   CommandId cid, int options)
{
	Datum		values[3];
	bool		isnull[3] = {false, false, false};
	HeapTuple	tuple;

	values[0] = ObjectIdGetDatum(valueid);
	values[1] = Int32GetDatum(seq);
	values[2] = PointerGetDatum(chunk);
	tuple = heap_form_tuple(RelationGetDescr(target->rel), values, isnull);
	heap_insert(target->rel, tuple, cid, options, NULL);
	for (int i = 0; i < target->nindexes; i++)
	{
		Relation	index = target->indexes[i];

		if (index->rd_index->indisready)
			index_insert(index, values, isnull, &tuple->t_self, target->rel,
						 index->rd_index->indisunique ?
						 UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
						 false, NULL);
	}
	heap_freetuple(tuple);
}

/*
 * What of a value goes out of line: its bytes, their number, and the pointer
 * that will stand for it, without ids.
 */
static char *
value_payload(struct varlena *value, struct varatt_external *pointer, int32 *len)
{
	char	   *data;

	if (VARATT_IS_SHORT(value))
	{
		data = VARDATA_SHORT(value);
		*len = VARSIZE_SHORT(value) - VARHDRSZ_SHORT;
		pointer->va_rawsize = *len + VARHDRSZ;
		pointer->va_extinfo = *len;
	}
	else if (VARATT_IS_COMPRESSED(value))
	{
		data = VARDATA(value);
		*len = VARSIZE(value) - VARHDRSZ;
		pointer->va_rawsize = VARDATA_COMPRESSED_GET_EXTSIZE(value) + VARHDRSZ;
		VARATT_EXTERNAL_SET_SIZE_AND_COMPRESS_METHOD(*pointer, *len,
													 VARDATA_COMPRESSED_GET_COMPRESS_METHOD(value));
	}
	else
	{
		data = VARDATA(value);
		*len = VARSIZE(value) - VARHDRSZ;
		pointer->va_rawsize = VARSIZE(value);
		pointer->va_extinfo = *len;
	}
	return data;
}

/* Store a value out of line, sealed; returns its TOAST pointer, palloc'd */
static Datum
value_store(Relation rel, Datum value, int options)
{
	struct varatt_external pointer;
	struct varlena *result;
	int32		total;
	char	   *data = value_payload((struct varlena *) DatumGetPointer(value),
									 &pointer, &total);
	CommandId	cid = GetCurrentCommandId(true);
	ToastTarget target;
	union
	{
		struct varlena hdr;
		char		bytes[TOAST_MAX_CHUNK_SIZE + VARHDRSZ];
		int32		align;
	}			chunk;

	target_open(&target, rel->rd_rel->reltoastrelid);
	/* a rewrite that swaps TOAST tables by content names the old one */
	pointer.va_toastrelid = OidIsValid(rel->rd_toastoid) ?
		rel->rd_toastoid : RelationGetRelid(target.rel);
	pointer.va_valueid =
		GetNewOidWithIndex(target.rel,
						   RelationGetRelid(target.indexes[target.valid]),
						   (AttrNumber) 1);

	for (int32 seq = 0; seq * (int32) CMEK_CHUNK_PLAIN < total; seq++)
	{
		int32		len = chunk_plain_len(seq, total);

		CHECK_FOR_INTERRUPTS();
		chunk_seal(heap_key_for_write(rel), VARDATA(&chunk),
				   data + seq * CMEK_CHUNK_PLAIN, len,
				   pointer.va_valueid, seq, total);
		SET_VARSIZE(&chunk, len + CMEK_SEAL_OVERHEAD + VARHDRSZ);
		target_put(&target, pointer.va_valueid, seq, &chunk.hdr, cid,
				   options | HEAP_INSERT_NO_LOGICAL);
	}
	target_close(&target);

	result = (struct varlena *) palloc(TOAST_POINTER_SIZE);
	SET_VARTAG_EXTERNAL(result, VARTAG_ONDISK);
	memcpy(VARDATA_EXTERNAL(result), &pointer, sizeof(pointer));
	return PointerGetDatum(result);
}

/* ----------
 * Choosing
 * ----------
 */

/* Has the row to go through the toaster? */
bool
toast_is_needed(HeapTuple newtup, HeapTuple oldtup)
{
	return HeapTupleHasExternal(newtup) ||
		(oldtup != NULL && HeapTupleHasExternal(oldtup)) ||
		row_sealed_len(newtup) > TOAST_TUPLE_THRESHOLD;
}

/* Move attribute i of the row out of line */
static void
toaster_externalize(ToastTupleContext *ttc, int i, int options, ToastWork *work)
{
	Datum		old = ttc->ttc_values[i];
	ToastAttrInfo *attr = &ttc->ttc_attr[i];

	attr->tai_colflags |= TOASTCOL_IGNORE;
	ttc->ttc_values[i] = value_store(ttc->ttc_rel, old, options);
	if (attr->tai_colflags & TOASTCOL_NEEDS_FREE)
		pfree(DatumGetPointer(old));
	/* the pointer stays: work->created refers to it */
	attr->tai_colflags &= ~TOASTCOL_NEEDS_FREE;
	work->created = lappend(work->created, DatumGetPointer(ttc->ttc_values[i]));
	ttc->ttc_flags |= TOAST_NEEDS_CHANGE;
}

/* Bytes of row header, as heap_form_tuple will lay it out */
static Size
toaster_header_size(ToastTupleContext *ttc)
{
	Size		size = SizeofHeapTupleHeader;

	if (ttc->ttc_flags & TOAST_HAS_NULLS)
		size += BITMAPLEN(ttc->ttc_rel->rd_att->natts);
	return MAXALIGN(size);
}

/* Bytes of data that a sealed row of this target length has room for */
static Size
toaster_limit(ToastTupleContext *ttc, Size target)
{
	Size		overhead = toaster_header_size(ttc) + CMEK_ROW_OVERHEAD;

	return target > overhead ? target - overhead : 0;
}

static inline bool
toaster_too_long(ToastTupleContext *ttc, Size limit)
{
	return heap_compute_data_size(ttc->ttc_rel->rd_att, ttc->ttc_values,
								  ttc->ttc_isnull) > limit;
}

/*
 * Core's four rounds (heap_toast_insert_or_update): compress extended values
 * and move out the very long ones; move out extended and external ones;
 * compress main ones; move out main ones.  The targets are core's, less what
 * sealing adds to the row.
 */
static void
toaster_shrink(ToastTupleContext *ttc, int options, ToastWork *work)
{
	Relation	rel = ttc->ttc_rel;
	TupleDesc	desc = rel->rd_att;
	bool		can_move = OidIsValid(rel->rd_rel->reltoastrelid);
	Size		limit = toaster_limit(ttc, RelationGetToastTupleTarget(rel, TOAST_TUPLE_TARGET));
	int			i;

	while (toaster_too_long(ttc, limit) &&
		   (i = toast_tuple_find_biggest_attribute(ttc, true, false)) >= 0)
	{
		if (TupleDescAttr(desc, i)->attstorage == TYPSTORAGE_EXTENDED)
			toast_tuple_try_compression(ttc, i);
		else
			ttc->ttc_attr[i].tai_colflags |= TOASTCOL_INCOMPRESSIBLE;
		if (can_move && (Size) ttc->ttc_attr[i].tai_size > limit)
			toaster_externalize(ttc, i, options, work);
	}
	while (can_move && toaster_too_long(ttc, limit) &&
		   (i = toast_tuple_find_biggest_attribute(ttc, false, false)) >= 0)
		toaster_externalize(ttc, i, options, work);
	while (toaster_too_long(ttc, limit) &&
		   (i = toast_tuple_find_biggest_attribute(ttc, true, true)) >= 0)
		toast_tuple_try_compression(ttc, i);

	limit = toaster_limit(ttc, TOAST_TUPLE_TARGET_MAIN);
	while (can_move && toaster_too_long(ttc, limit) &&
		   (i = toast_tuple_find_biggest_attribute(ttc, false, true)) >= 0)
		toaster_externalize(ttc, i, options, work);
}

/*
 * Make a logical row fit: returns newtup itself or a palloc'd replacement.
 * oldtup is the row it replaces, NULL for an insert.  What was stored and what
 * is no longer needed is added to "work".
 */
HeapTuple
toast_row(Relation rel, HeapTuple newtup, HeapTuple oldtup, int options,
		  ToastWork *work)
{
	TupleDesc	desc = rel->rd_att;
	int			natts = desc->natts;
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *isnull = palloc(natts * sizeof(bool));
	Datum	   *oldvalues = palloc(natts * sizeof(Datum));
	bool	   *oldisnull = palloc(natts * sizeof(bool));
	ToastTupleContext ttc;
	HeapTuple	result = newtup;

	ttc.ttc_rel = rel;
	ttc.ttc_values = values;
	ttc.ttc_isnull = isnull;
	ttc.ttc_oldvalues = oldtup ? oldvalues : NULL;
	ttc.ttc_oldisnull = oldtup ? oldisnull : NULL;
	ttc.ttc_attr = palloc(natts * sizeof(ToastAttrInfo));
	heap_deform_tuple(newtup, desc, values, isnull);
	if (oldtup)
		heap_deform_tuple(oldtup, desc, oldvalues, oldisnull);

	toast_tuple_init(&ttc);
	/* TOAST rows are never speculative: they go with the row */
	toaster_shrink(&ttc, options & ~HEAP_INSERT_SPECULATIVE, work);
	if (ttc.ttc_flags & TOAST_NEEDS_CHANGE)
	{
		result = heap_form_tuple(desc, values, isnull);
		result->t_tableOid = newtup->t_tableOid;
	}

	for (int i = 0; i < natts; i++)
		if (ttc.ttc_attr[i].tai_colflags & TOASTCOL_NEEDS_DELETE_OLD)
			work->replaced = lappend(work->replaced,
									 DatumGetPointer(oldvalues[i]));
	/* deleting the old values is ours, and later */
	ttc.ttc_flags &= ~TOAST_NEEDS_DELETE_OLD;
	toast_tuple_cleanup(&ttc);
	return result;
}

static void
toast_delete_list(Relation rel, List *pointers, bool speculative)
{
	ListCell   *lc;

	foreach(lc, pointers)
		toast_delete_datum(rel, PointerGetDatum(lfirst(lc)), speculative);
}

/* The row was stored: delete the values it no longer needs */
void
toast_commit(Relation rel, ToastWork *work)
{
	toast_delete_list(rel, work->replaced, false);
}

/* The row was not stored: take its new values back */
void
toast_undo(Relation rel, ToastWork *work)
{
	toast_delete_list(rel, work->created, true);
}

/* The row was deleted: delete all its values */
void
toast_delete_row(Relation rel, HeapTuple row, bool speculative)
{
	TupleDesc	desc = rel->rd_att;
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));

	heap_deform_tuple(row, desc, values, isnull);
	toast_delete_external(rel, values, isnull, speculative);
	pfree(values);
	pfree(isnull);
}

/* ----------
 * Fetching
 * ----------
 */

/*
 * Read sealed chunks [first, last] of a value.  Stock heap's reader knows
 * nothing of sealing: it is asked for a slice of a longer value whose chunks
 * are all full but the last, which is what the sealed chunks look like to it.
 */
static struct varlena *
slice_read_sealed(Relation toastrel, Oid valueid, int32 total,
				  int32 first, int32 last)
{
	int32		nchunks = (total - 1) / CMEK_CHUNK_PLAIN + 1;
	int64		sealed_total = (int64) total + (int64) nchunks * CMEK_SEAL_OVERHEAD;
	int32		start = first * TOAST_MAX_CHUNK_SIZE;
	int32		end;
	struct varlena *result;

	/*
	 * Offsets of sealed bytes are int32 for stock heap; a value so long that
	 * they do not fit (above 2,113 MB) cannot exist, since values end at 1 GB.
	 */
	Assert(sealed_total <= PG_INT32_MAX);
	end = Min((int64) (last + 1) * TOAST_MAX_CHUNK_SIZE, sealed_total);
	result = palloc(end - start + VARHDRSZ);
	SET_VARSIZE(result, end - start + VARHDRSZ);
	cmek_stock_heap->relation_fetch_toast_slice(toastrel, valueid,
												(int32) sealed_total,
												start, end - start, result);
	return result;
}

/* Raise the error of a chunk that does not open */
static void
chunk_damaged(Relation toastrel, Oid valueid, int32 seq)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("chunk %d of TOAST value %u in \"%s\" is damaged or forged",
					seq, valueid, RelationGetRelationName(toastrel)),
			 errdetail("It does not authenticate under the keys of the table.")));
}

/* Find one chunk of a value; a copy of its row, NULL when there is none */
static HeapTuple
chunk_fetch(Relation toastrel, Oid valueid, int32 seq)
{
	Relation   *indexes;
	int			nindexes;
	int			valid = toast_open_indexes(toastrel, AccessShareLock,
										   &indexes, &nindexes);
	SnapshotData snapshot;
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	chunk;

	cmek_init_toast_snapshot(&snapshot);
	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(valueid));
	ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(seq));
	scan = systable_beginscan_ordered(toastrel, indexes[valid], &snapshot,
									  2, key);
	chunk = systable_getnext_ordered(scan, ForwardScanDirection);
	if (chunk != NULL)
		chunk = chunk_copy_locked(scan, chunk);
	systable_endscan_ordered(scan);
	toast_close_indexes(indexes, nindexes, AccessShareLock);
	return chunk;
}

/*
 * Open a chunk once more that did not open: stock heap's reader copies chunks
 * without the lock of their buffer, so what it gave us may have been torn by a
 * reseal, or have been of a data key that was retired since.  Until it names
 * the same data key twice, as in row_try_open_from_buffer.
 */
static bool
chunk_open_again(Relation toastrel, char *out, int32 len, Oid valueid,
				 int32 seq, int32 total)
{
	bool		good = false;
	bool		again = true;
	uint32		last = 0;

	while (!good && again)
	{
		HeapTuple	row = chunk_fetch(toastrel, valueid, seq);
		struct varlena *chunk;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (row == NULL)
			return false;
		chunk = (struct varlena *)
			DatumGetPointer(fastgetattr(row, 3, RelationGetDescr(toastrel),
										&isnull));
		if (isnull || VARSIZE_ANY_EXHDR(chunk) != len + CMEK_SEAL_OVERHEAD)
			return false;
		good = chunk_open(cmek_keyring_acquire_toast(toastrel), out,
						  VARDATA_ANY(chunk), len, valueid, seq, total);
		again = chunk_dek_id(chunk) != last;
		last = chunk_dek_id(chunk);
		heap_freetuple(row);
	}
	return good;
}

/*
 * relation_fetch_toast_slice: fill "result" with a slice of a stored value of
 * attrsize bytes.  Works through long values in pieces, so that no second
 * copy of the whole is made.
 */
void
cmek_fetch_toast_slice(Relation toastrel, Oid valueid, int32 attrsize,
					   int32 sliceoffset, int32 slicelength,
					   struct varlena *result)
{
	const int32 per_chunk = CMEK_CHUNK_PLAIN;
	int32		sliceend = sliceoffset + slicelength;
	int32		last = (sliceend - 1) / per_chunk;
	char	   *out = VARDATA(result);
	char		plain[CMEK_CHUNK_PLAIN];

	for (int32 first = sliceoffset / per_chunk; first <= last; first += CHUNKS_PER_READ)
	{
		int32		upto = Min(last, first + CHUNKS_PER_READ - 1);
		struct varlena *sealed = slice_read_sealed(toastrel, valueid, attrsize,
												   first, upto);
		char	   *chunk = VARDATA(sealed);

		for (int32 seq = first; seq <= upto; seq++)
		{
			int32		len = chunk_plain_len(seq, attrsize);
			int32		from = Max(sliceoffset - seq * per_chunk, 0);
			int32		to = Min(sliceend - seq * per_chunk, len);
			bool		whole = from == 0 && to == len;
			char	   *opened = whole ? out : plain;

			if (!chunk_open(cmek_keyring_acquire_toast(toastrel), opened, chunk,
							len, valueid, seq, attrsize) &&
				!chunk_open_again(toastrel, opened, len, valueid, seq, attrsize))
				chunk_damaged(toastrel, valueid, seq);
			if (!whole)
				memcpy(out, plain + from, to - from);
			out += to - from;
			chunk += len + CMEK_SEAL_OVERHEAD;
		}
		pfree(sealed);
	}
}
