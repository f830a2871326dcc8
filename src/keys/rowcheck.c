/*-------------------------------------------------------------------------
 *
 * rowcheck.c
 *	  Is a row of one of our catalogs laid out as its descriptor says?
 *
 * Core takes a row apart without looking where its end is, so a length that
 * was changed in the file could lead it out of the row.  What the row says is
 * authenticated by those who use it; this is about getting that far.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/toast_compression.h"
#include "access/tupmacs.h"
#include "catalog/pg_type_d.h"
#include "utils/rel.h"

#include "keys/internal.h"

/* Bytes of a value of variable length that begins at p; 0 when it is none. */
static Size
varlena_size(Relation rel, const char *p, Size left)
{
	struct varatt_external pointer;

	if (VARATT_IS_1B_E(p))
	{
		if (left < TOAST_POINTER_SIZE || VARTAG_EXTERNAL(p) != VARTAG_ONDISK)
			return 0;
		memcpy(&pointer, VARDATA_EXTERNAL(p), sizeof(pointer));
		return pointer.va_toastrelid == rel->rd_rel->reltoastrelid ?
			TOAST_POINTER_SIZE : 0;
	}
	if (VARATT_IS_1B(p))
		return VARSIZE_1B(p);
	if (left < VARHDRSZ || VARSIZE_4B(p) < VARHDRSZ)
		return 0;
	if (VARATT_IS_4B_C(p) &&
		(left < VARHDRSZ_COMPRESSED || VARSIZE_4B(p) < VARHDRSZ_COMPRESSED ||
		 VARDATA_COMPRESSED_GET_COMPRESS_METHOD(p) > TOAST_LZ4_COMPRESSION_ID))
		return 0;
	return VARSIZE_4B(p);
}

/* Walk over the values of a row; false when one leads out of it. */
static bool
values_fit(Relation rel, HeapTuple tuple, int natts)
{
	HeapTupleHeader header = tuple->t_data;
	const char *data = (const char *) header + header->t_hoff;
	Size		len = tuple->t_len - header->t_hoff;
	Size		off = 0;

	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		Size		size = att->attlen;

		if (HeapTupleHasNulls(tuple) && att_isnull(i, header->t_bits))
			continue;
		if (off >= len)
			return false;
		off = att_align_pointer(off, att->attalign, att->attlen, data + off);
		if (off >= len)
			return false;
		/* core trusts the bit, and would take -1 for a length */
		if (att->attlen < 0)
			size = HeapTupleHasVarWidth(tuple) ?
				varlena_size(rel, data + off, len - off) : 0;
		if (size == 0 || size > len - off)
			return false;
		/* whoever reads a name reads to its end */
		if (att->atttypid == NAMEOID &&
			memchr(data + off, '\0', NAMEDATALEN) == NULL)
			return false;
		off += size;
	}
	return off == len;
}

/* See internal.h. */
bool
cmek_row_is_whole(Relation rel, HeapTuple tuple)
{
	HeapTupleHeader header = tuple->t_data;
	int			natts = HeapTupleHeaderGetNatts(header);
	Size		hoff = SizeofHeapTupleHeader;

	if (HeapTupleHasNulls(tuple))
		hoff += BITMAPLEN(natts);
	/* rows from before an ALTER EXTENSION UPDATE may have fewer columns */
	return natts > 0 && natts <= RelationGetDescr(rel)->natts &&
		header->t_hoff == MAXALIGN(hoff) && tuple->t_len <= BLCKSZ &&
		header->t_hoff < tuple->t_len && values_fit(rel, tuple, natts);
}

/* See internal.h. */
HeapTuple
cmek_next_row(SysScanDesc scan, Relation rel)
{
	HeapTuple	tuple = cmek_key_scan_next(scan);

	if (HeapTupleIsValid(tuple) && !cmek_row_is_whole(rel, tuple))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("row (%u,%u) of table \"cmek.%s\" is damaged",
						ItemPointerGetBlockNumberNoCheck(&tuple->t_self),
						ItemPointerGetOffsetNumberNoCheck(&tuple->t_self),
						RelationGetRelationName(rel))));
	return tuple;
}
