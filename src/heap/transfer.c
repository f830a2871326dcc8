/*-------------------------------------------------------------------------
 *
 * transfer.c
 *	  Sealed rows and chunks out of a table as they are, for a snapshot, and
 *	  into another table, for its restore.
 *
 * Going out needs no key: nothing is opened, and the gate of keys is not
 * passed, because nobody learns anything.  What a snapshot (in MVCC's sense)
 * shows of the table is handed out, so rows and chunks fit together when both
 * are read under the same one.
 *
 * Coming in, a row is opened by the keys it was sealed with, which are not the
 * new table's, its out-of-line values are gathered from wherever the caller
 * has them, and it is stored like any other row of the new table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "heap/internal.h"
#include "heap/transfer.h"

/* ----------
 * Out
 * ----------
 */

/*
 * The next row that the scan shows, copied under the lock of its buffer: a
 * reseal changes rows in place.
 */
static HeapTuple
next_sealed(TableScanDesc scan, TupleTableSlot *slot)
{
	BufferHeapTupleTableSlot *buffer_slot = (BufferHeapTupleTableSlot *) slot;

	if (!cmek_stock_heap->scan_getnextslot(scan, ForwardScanDirection, slot))
		return NULL;
	return row_copy_locked(buffer_slot->base.tuple, buffer_slot->buffer);
}

/* See transfer.h. */
void
cmek_heap_scan_sealed(Relation rel, Snapshot snapshot, CmekSealedRow put,
					  void *arg)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel),
													&TTSOpsBufferHeapTuple);
	TableScanDesc scan = cmek_stock_heap->scan_begin(rel, snapshot, 0, NULL,
													 NULL,
													 SO_TYPE_SEQSCAN | SO_ALLOW_STRAT);
	HeapTuple	row;

	while ((row = next_sealed(scan, slot)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (row->t_len < CMEK_ROW_HOFF + CMEK_SEAL_OVERHEAD)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("row (%u,%u) of table \"%s\" is damaged or forged",
							ItemPointerGetBlockNumberNoCheck(&row->t_self),
							ItemPointerGetOffsetNumberNoCheck(&row->t_self),
							RelationGetRelationName(rel))));
		put(arg, (char *) row->t_data + CMEK_ROW_HOFF,
			row->t_len - CMEK_ROW_HOFF);
		heap_freetuple(row);
	}
	cmek_stock_heap->scan_end(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* Hand out one chunk. */
static void
put_chunk(Relation toastrel, HeapTuple row, CmekSealedChunk put, void *arg)
{
	TupleDesc	desc = RelationGetDescr(toastrel);
	bool		isnull;
	Oid			value_id = DatumGetObjectId(fastgetattr(row, 1, desc, &isnull));
	int32		seq = DatumGetInt32(fastgetattr(row, 2, desc, &isnull));
	struct varlena *chunk = (struct varlena *)
		DatumGetPointer(fastgetattr(row, 3, desc, &isnull));

	if (isnull || VARATT_IS_EXTENDED(chunk) != VARATT_IS_SHORT(chunk))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("chunk %d of TOAST value %u in \"%s\" is damaged or forged",
						seq, value_id, RelationGetRelationName(toastrel))));
	put(arg, value_id, seq, VARDATA_ANY(chunk), VARSIZE_ANY_EXHDR(chunk));
}

/* See transfer.h. */
void
cmek_heap_scan_chunks(Relation rel, Snapshot snapshot, CmekSealedChunk put,
					  void *arg)
{
	Relation	toastrel;
	TupleTableSlot *slot;
	TableScanDesc scan;
	HeapTuple	row;

	if (!OidIsValid(rel->rd_rel->reltoastrelid))
		return;
	toastrel = table_open(rel->rd_rel->reltoastrelid, AccessShareLock);
	slot = MakeSingleTupleTableSlot(RelationGetDescr(toastrel),
									&TTSOpsBufferHeapTuple);
	scan = cmek_stock_heap->scan_begin(toastrel, snapshot, 0, NULL, NULL,
									   SO_TYPE_SEQSCAN | SO_ALLOW_STRAT);
	while ((row = next_sealed(scan, slot)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		put_chunk(toastrel, row, put, arg);
		heap_freetuple(row);
	}
	cmek_stock_heap->scan_end(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(toastrel, AccessShareLock);
}

/* ----------
 * In
 * ----------
 */

struct CmekHeapImport
{
	Relation	rel;			/* the new table */
	TupleDesc	desc;			/* of the rows as they were */
	int		   *target;			/* for each of their columns, the new one or -1 */
	CmekKeyRing *ring;			/* the keys they were sealed with */
	CmekImportSource source;
	TupleTableSlot *slot;
	BulkInsertState bulk;
	MemoryContext row_context;
	Datum	   *values;
	bool	   *nulls;
	HeapTupleHeader sealed;		/* a row with a header, as on a page */
	char	   *plain;
};

/* See transfer.h. */
CmekHeapImport *
cmek_heap_import_begin(Relation rel, TupleDesc desc, const int *target,
					   CmekKeyRing *ring, const CmekImportSource *source)
{
	CmekHeapImport *import = palloc0(sizeof(CmekHeapImport));

	import->rel = rel;
	import->desc = desc;
	import->target = palloc(desc->natts * sizeof(int));
	memcpy(import->target, target, desc->natts * sizeof(int));
	import->ring = ring;
	import->source = *source;
	import->slot = MakeSingleTupleTableSlot(RelationGetDescr(rel),
											&TTSOpsVirtual);
	import->bulk = GetBulkInsertState();
	import->row_context = AllocSetContextCreate(CurrentMemoryContext,
												"cmek restored row",
												ALLOCSET_DEFAULT_SIZES);
	import->values = palloc(desc->natts * sizeof(Datum));
	import->nulls = palloc(desc->natts * sizeof(bool));
	import->sealed = palloc0(BLCKSZ);
	import->plain = palloc(BLCKSZ);
	return import;
}

/* Fail because a row or a chunk does not open. */
static void
report_damaged(const CmekHeapImport *import, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a %s of the snapshot is damaged or forged", what),
			 errdetail("It does not authenticate under the keys of the snapshot.")));
}

/* Open a row: the logical tuple is in import->plain. */
static void
open_row(CmekHeapImport *import, const void *sealed, uint32 len,
		 HeapTuple tuple)
{
	HeapTupleData with_header;

	if (len < CMEK_SEAL_OVERHEAD || len + CMEK_ROW_HOFF > MaxHeapTupleSize)
		report_damaged(import, "row");
	memset(import->sealed, 0, CMEK_ROW_HOFF);
	memcpy((char *) import->sealed + CMEK_ROW_HOFF, sealed, len);
	with_header.t_len = len + CMEK_ROW_HOFF;
	with_header.t_data = import->sealed;
	with_header.t_tableOid = RelationGetRelid(import->rel);
	ItemPointerSetInvalid(&with_header.t_self);
	if (!row_try_open_into(import->ring, &with_header, import->plain))
		report_damaged(import, "row");
	tuple->t_len = with_header.t_len - CMEK_ROW_OVERHEAD;
	tuple->t_data = (HeapTupleHeader) import->plain;
	tuple->t_tableOid = with_header.t_tableOid;
	ItemPointerSetInvalid(&tuple->t_self);
	/* it authenticates, but its description may be another table's */
	if (!cmek_row_fits(tuple, import->desc))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the manifest of the snapshot is damaged or forged"),
				 errdetail("A row is not stored as the manifest says.")));
}

/* Open one chunk of an out-of-line value. */
static void
gather_chunk(CmekHeapImport *import, Oid value_id, int32 seq, int32 total,
			 char *out)
{
	int32		len = chunk_plain_len(seq, total);
	char		sealed[TOAST_MAX_CHUNK_SIZE];
	uint32		sealed_len = import->source.fetch(import->source.fetch_arg,
												  value_id, seq, sealed,
												  sizeof(sealed));

	if (sealed_len != len + CMEK_SEAL_OVERHEAD ||
		!chunk_open(import->ring, out, sealed, len, value_id, seq, total))
		report_damaged(import, "chunk");
}

/*
 * Gather an out-of-line value, opened, as core's reader would return it.  Its
 * first chunk proves the size of all, before there is memory for it.
 */
static struct varlena *
gather_value(CmekHeapImport *import, struct varlena *pointer_datum)
{
	struct varatt_external pointer;
	struct varlena *result;
	int32		total;
	char		first[CMEK_CHUNK_PLAIN];
	char	   *out;

	VARATT_EXTERNAL_GET_POINTER(pointer, pointer_datum);
	total = VARATT_EXTERNAL_GET_EXTSIZE(pointer);
	gather_chunk(import, pointer.va_valueid, 0, total, first);
	result = (struct varlena *) palloc(total + VARHDRSZ);
	if (VARATT_EXTERNAL_IS_COMPRESSED(pointer))
		SET_VARSIZE_COMPRESSED(result, total + VARHDRSZ);
	else
		SET_VARSIZE(result, total + VARHDRSZ);
	out = VARDATA(result);
	for (int32 seq = 0; seq * (int32) CMEK_CHUNK_PLAIN < total; seq++)
	{
		CHECK_FOR_INTERRUPTS();
		if (seq == 0)
			memcpy(out, first, chunk_plain_len(0, total));
		else
			gather_chunk(import, pointer.va_valueid, seq, total, out);
		out += chunk_plain_len(seq, total);
	}
	return result;
}

/* See transfer.h. */
void
cmek_heap_import_row(CmekHeapImport *import, const void *sealed, uint32 len)
{
	MemoryContext old = MemoryContextSwitchTo(import->row_context);
	TupleTableSlot *slot = import->slot;
	HeapTupleData tuple;

	open_row(import, sealed, len, &tuple);
	heap_deform_tuple(&tuple, import->desc, import->values, import->nulls);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	for (int i = 0; i < import->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(import->desc, i);
		int			to = import->target[i];

		if (to < 0 || import->nulls[i])
			continue;
		if (att->attlen == -1 &&
			VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(import->values[i])))
			import->values[i] = PointerGetDatum(gather_value(import,
															 (struct varlena *) DatumGetPointer(import->values[i])));
		slot->tts_values[to] = import->source.take(import->source.take_arg, to,
												   import->values[i]);
		slot->tts_isnull[to] = false;
	}
	ExecStoreVirtualTuple(slot);
	table_tuple_insert(import->rel, slot, GetCurrentCommandId(true), 0,
					   import->bulk);
	ExecClearTuple(slot);
	MemoryContextSwitchTo(old);
	MemoryContextReset(import->row_context);
}

/* See transfer.h. */
void
cmek_heap_import_end(CmekHeapImport *import)
{
	FreeBulkInsertState(import->bulk);
	table_finish_bulk_insert(import->rel, 0);
	ExecDropSingleTupleTableSlot(import->slot);
	MemoryContextDelete(import->row_context);
}
