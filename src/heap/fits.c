/*-------------------------------------------------------------------------
 *
 * fits.c
 *	  Does a row, or a value, end where its bytes end?  For rows whose
 *	  description comes from elsewhere than the rows themselves.
 *
 * A row of a snapshot authenticates; the description that it is read by need
 * not be its own.  Nothing is read here before it is known to be inside, no
 * pointer into memory passes, and no length that could not be.
 *
 * Only the outer form of values is looked at: what is inside of one is its
 * type's business (lifecycle/values.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/toast_compression.h"
#include "access/tupmacs.h"
#include "utils/memutils.h"

#include "compat.h"
#include "heap/transfer.h"

/* No method makes values shorter than by this: pglz 87, lz4 255 */
#define MAX_COMPRESSION 256

/* Can so many bytes become so many, by this method? */
static bool
compression_is_possible(uint32 stored, uint32 raw, uint32 method)
{
	return method < TOAST_INVALID_COMPRESSION_ID && raw < MaxAllocSize &&
		raw / MAX_COMPRESSION <= stored;
}

/* Is it the pointer to an out-of-line value on disk? */
static bool
pointer_fits(const char *data, Size avail)
{
	struct varatt_external pointer;
	uint32		stored;
	uint32		raw;

	if (avail < TOAST_POINTER_SIZE || VARTAG_1B_E(data) != VARTAG_ONDISK)
		return false;
	memcpy(&pointer, VARDATA_1B_E(data), sizeof(pointer));
	if (pointer.va_rawsize <= VARHDRSZ ||
		(Size) pointer.va_rawsize >= MaxAllocSize)
		return false;
	stored = VARATT_EXTERNAL_GET_EXTSIZE(pointer);
	raw = pointer.va_rawsize - VARHDRSZ;
	if (stored == 0 || stored > raw)
		return false;
	return !VARATT_EXTERNAL_IS_COMPRESSED(pointer) ||
		compression_is_possible(stored, raw,
								VARATT_EXTERNAL_GET_COMPRESS_METHOD(pointer));
}

/* The bytes of a value of variable length, -1 when they are too few. */
static int64
varlena_size(const char *data, Size avail)
{
	if (avail == 0)
		return -1;
	if (VARATT_IS_1B_E(data))
		return pointer_fits(data, avail) ? (int64) TOAST_POINTER_SIZE : -1;
	if (VARATT_IS_1B(data))
		return VARSIZE_1B(data) <= avail ? (int64) VARSIZE_1B(data) : -1;
	if (avail < VARHDRSZ || VARSIZE_4B(data) < VARHDRSZ ||
		VARSIZE_4B(data) > avail)
		return -1;
	if (VARATT_IS_4B_C(data) &&
		(VARSIZE_4B(data) < VARHDRSZ_COMPRESSED ||
		 !compression_is_possible(VARSIZE_4B(data),
								  VARDATA_COMPRESSED_GET_EXTSIZE(data),
								  VARDATA_COMPRESSED_GET_COMPRESS_METHOD(data))))
		return -1;
	return VARSIZE_4B(data);
}

/* See transfer.h. */
int64
cmek_value_end(const char *data, Size limit, Size offset, int attlen,
			   char attalign)
{
	Size		avail;
	int64		size;

	if (attlen == -1)
	{
		/* what is not zero here is a short header, which is not aligned */
		if (offset >= limit)
			return -1;
		offset = att_align_pointer(offset, attalign, -1, data + offset);
	}
	else
		offset = att_align_nominal(offset, attalign);
	if (offset > limit)
		return -1;
	avail = limit - offset;
	if (attlen == -1)
		size = varlena_size(data + offset, avail);
	else if (attlen == -2)
		size = strnlen(data + offset, avail) < avail ?
			(int64) strlen(data + offset) + 1 : -1;
	else
		size = (Size) attlen <= avail ? attlen : -1;
	return size < 0 ? -1 : (int64) offset + size;
}

/* See transfer.h. */
bool
cmek_row_fits(HeapTuple tuple, TupleDesc desc)
{
	HeapTupleHeader header = tuple->t_data;
	int			natts;
	Size		least = SizeofHeapTupleHeader;
	int64		offset = 0;

	if (tuple->t_len < SizeofHeapTupleHeader)
		return false;
	natts = HeapTupleHeaderGetNatts(header);
	if (HeapTupleHasNulls(tuple))
		least += BITMAPLEN(natts);
	if (natts > desc->natts || header->t_hoff < least ||
		header->t_hoff > tuple->t_len || header->t_hoff != MAXALIGN(header->t_hoff))
		return false;
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (HeapTupleHasNulls(tuple) && att_isnull(i, header->t_bits))
			continue;
		offset = cmek_value_end((char *) header + header->t_hoff,
								tuple->t_len - header->t_hoff, offset,
								att->attlen, att->attalign);
		if (offset < 0)
			return false;
	}
	return true;
}
