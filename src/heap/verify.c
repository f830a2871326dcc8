/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  cmek.verify(table): does every live row and chunk authenticate?
 *
 * Reads what a SELECT of the same snapshot would read, all columns and all
 * out-of-line values, and lists what does not open instead of stopping at it.
 * Takes AccessShareLock; needs SELECT on the table, and its key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "heap/internal.h"

PG_FUNCTION_INFO_V1(cmek_verify);

typedef struct Verify
{
	ReturnSetInfo *result;
	Relation	rel;
	Relation	toast;			/* NULL: no TOAST table */
	Relation   *toast_indexes;
	int			toast_nindexes;
	int			toast_valid;
	char	   *plain;			/* room for any row of one page */
	Datum	   *values;
	bool	   *isnull;
	uint64		problems;		/* of this table */
} Verify;

/* Add one line to the result */
static void
verify_report(Verify *verify, ItemPointer tid, const char *problem)
{
	Datum		values[3];
	bool		isnull[3] = {false, tid == NULL, false};

	verify->problems++;
	values[0] = ObjectIdGetDatum(RelationGetRelid(verify->rel));
	values[1] = PointerGetDatum(tid);
	values[2] = CStringGetTextDatum(problem);
	tuplestore_putvalues(verify->result->setResult, verify->result->setDesc,
						 values, isnull);
}

/* One chunk of a value: is it the expected one, and does it open? */
static bool
verify_chunk(Verify *verify, HeapTuple chunk, Oid valueid, int32 seq, int32 total)
{
	TupleDesc	desc = RelationGetDescr(verify->toast);
	bool		isnull;
	Datum		data;

	if (DatumGetInt32(heap_getattr(chunk, 2, desc, &isnull)) != seq || isnull)
		return false;
	data = heap_getattr(chunk, 3, desc, &isnull);
	return !isnull &&
		chunk_is_good(cmek_keyring_acquire(verify->rel),
					  (struct varlena *) DatumGetPointer(data),
					  valueid, seq, total);
}

/*
 * The same of a chunk that a scan is at, which a reseal may be writing to: from
 * copies, until it names the same data key twice (row_try_open_from_buffer).
 */
static bool
verify_chunk_in_scan(Verify *verify, SysScanDesc scan, HeapTuple chunk,
					 Oid valueid, int32 seq, int32 total)
{
	TupleDesc	desc = RelationGetDescr(verify->toast);
	bool		good = verify_chunk(verify, chunk, valueid, seq, total);
	bool		again = true;
	uint32		last = 0;

	while (!good && again)
	{
		HeapTuple	copy = chunk_copy_locked(scan, chunk);
		bool		isnull;
		Datum		data = heap_getattr(copy, 3, desc, &isnull);
		uint32		id = isnull ? 0 :
			chunk_dek_id((struct varlena *) DatumGetPointer(data));

		good = verify_chunk(verify, copy, valueid, seq, total);
		heap_freetuple(copy);
		again = id != last;
		last = id;
	}
	return good;
}

/* All chunks of an out-of-line value, in order; true when they are whole */
static bool
verify_value(Verify *verify, struct varatt_external *pointer)
{
	int32		total = VARATT_EXTERNAL_GET_EXTSIZE(*pointer);
	int32		expected = (total + CMEK_CHUNK_PLAIN - 1) / CMEK_CHUNK_PLAIN;
	int32		seq = 0;
	bool		good = true;
	SnapshotData snapshot;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	chunk;

	if (verify->toast == NULL ||
		pointer->va_toastrelid != RelationGetRelid(verify->toast))
		return false;
	cmek_init_toast_snapshot(&snapshot);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(pointer->va_valueid));
	scan = systable_beginscan_ordered(verify->toast,
									  verify->toast_indexes[verify->toast_valid],
									  &snapshot, 1, &key);
	while (good && (chunk = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		good = seq < expected &&
			verify_chunk_in_scan(verify, scan, chunk, pointer->va_valueid,
								 seq, total);
		seq++;
	}
	systable_endscan_ordered(scan);
	return good && seq == expected;
}

/* The out-of-line values of an opened row */
static void
verify_values(Verify *verify, HeapTuple plain)
{
	TupleDesc	desc = RelationGetDescr(verify->rel);

	heap_deform_tuple(plain, desc, verify->values, verify->isnull);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		struct varlena *value = (struct varlena *) DatumGetPointer(verify->values[i]);
		struct varatt_external pointer;

		if (verify->isnull[i] || att->attisdropped || att->attlen != -1 ||
			!VARATT_IS_EXTERNAL_ONDISK(value))
			continue;
		VARATT_EXTERNAL_GET_POINTER(pointer, value);
		if (!verify_value(verify, &pointer))
			verify_report(verify, &plain->t_self,
						  psprintf("out-of-line value of column \"%s\" is damaged or forged",
								   NameStr(att->attname)));
	}
}

/* One live row */
static void
verify_row(Verify *verify, HeapTuple sealed, Buffer buf)
{
	CmekKeyRing *ring = cmek_keyring_acquire(verify->rel);
	HeapTupleData plain;

	if (!row_try_open_from_buffer(ring, sealed, buf, verify->plain))
	{
		verify_report(verify, &sealed->t_self, "row is damaged or forged");
		return;
	}
	plain.t_len = row_plain_len(ring, sealed);
	plain.t_self = sealed->t_self;
	plain.t_tableOid = sealed->t_tableOid;
	plain.t_data = (HeapTupleHeader) verify->plain;
	if (HeapTupleHasExternal(&plain))
		verify_values(verify, &plain);
}

/* Every live row, by stock heap's scan on a shadow */
static void
verify_scan(Verify *verify)
{
	LongShadow *shadow = shadow_long_begin(verify->rel, true);
	Relation	srel = shadow_long_relation(shadow);
	TupleTableSlot *slot = table_slot_create(srel, NULL);
	TableScanDesc scan = cmek_table_beginscan(srel, GetActiveSnapshot());
	BlockNumber block = InvalidBlockNumber;
	uint64		blocks = 0;
	MemoryContext percontext = AllocSetContextCreate(CurrentMemoryContext,
													 "cmek verify",
													 ALLOCSET_DEFAULT_SIZES);

	cmek_progress_start("verify", RelationGetRelid(verify->rel),
						RelationGetNumberOfBlocks(verify->rel));
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(percontext);

		CHECK_FOR_INTERRUPTS();
		verify_row(verify, ExecFetchSlotHeapTuple(slot, false, NULL),
				   ((BufferHeapTupleTableSlot *) slot)->buffer);
		MemoryContextSwitchTo(old);
		MemoryContextReset(percontext);
		if (block != ItemPointerGetBlockNumber(&slot->tts_tid))
		{
			block = ItemPointerGetBlockNumber(&slot->tts_tid);
			cmek_progress_update(++blocks);
		}
	}
	cmek_progress_end();
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(percontext);
	shadow_long_end(shadow);
}

/* A problem of an index */
static void
verify_report_index(void *state, ItemPointer tid, const char *problem)
{
	verify_report((Verify *) state, tid, problem);
}

/*
 * The sealed indexes of a table.  They are compared with its rows, so those
 * have to be readable.
 */
static void
verify_indexes(Verify *verify)
{
	List	   *indexes = RelationGetIndexList(verify->rel);
	uint64		damaged = verify->problems;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (cmek_index_is_sealed == NULL || !cmek_index_is_sealed(index) ||
			!index->rd_index->indisready || !index->rd_index->indisvalid)
			 /* nobody reads it */ ;
		else if (damaged > 0)
			verify_report(verify, NULL,
						  psprintf("index \"%s\" was not verified, for rows of its table are damaged",
								   RelationGetRelationName(index)));
		else
			cmek_verify_index(verify->rel, index, verify_report_index, verify);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
}

/* One table with its TOAST */
static void
verify_table(Verify *verify)
{
	int			natts = RelationGetDescr(verify->rel)->natts;
	Oid			toastid = verify->rel->rd_rel->reltoastrelid;

	/* an unbound table has no row to verify */
	if (heap_key_for_read(verify->rel) == NULL)
		return;
	verify->plain = palloc(BLCKSZ);
	verify->values = palloc(natts * sizeof(Datum));
	verify->isnull = palloc(natts * sizeof(bool));
	if (OidIsValid(toastid))
	{
		verify->toast = table_open(toastid, AccessShareLock);
		verify->toast_valid = toast_open_indexes(verify->toast, AccessShareLock,
												 &verify->toast_indexes,
												 &verify->toast_nindexes);
	}
	verify->problems = 0;
	verify_scan(verify);
	verify_indexes(verify);
	if (verify->toast)
	{
		toast_close_indexes(verify->toast_indexes, verify->toast_nindexes,
							AccessShareLock);
		table_close(verify->toast, AccessShareLock);
		verify->toast = NULL;
	}
}

/* ERROR unless the caller may read the table */
static void
verify_check_access(Relation rel)
{
	AclResult	result = pg_class_aclcheck(RelationGetRelid(rel), GetUserId(),
										   ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
}

/*
 * cmek.verify(table regclass) -> (relation, tid, problem): a line for each
 * damaged row, value or index entry; none when all is well.  A partitioned table stands for
 * all its partitions that are sealed.
 */
Datum
cmek_verify(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Verify		verify = {0};
	Relation	root;
	List	   *relids;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	verify.result = (ReturnSetInfo *) fcinfo->resultinfo;

	root = relation_open(relid, AccessShareLock);
	verify_check_access(root);
	if (root->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		!cmek_relation_is_sealed(root))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a sealed table",
						RelationGetRelationName(root)),
				 errhint("ALTER TABLE ... SET ACCESS METHOD cmek_heap seals a table.")));
	relids = root->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(relid, AccessShareLock, NULL) : list_make1_oid(relid);
	relation_close(root, NoLock);

	foreach(lc, relids)
	{
		verify.rel = relation_open(lfirst_oid(lc), AccessShareLock);
		if (RELKIND_HAS_STORAGE(verify.rel->rd_rel->relkind) &&
			cmek_relation_is_sealed(verify.rel))
			verify_table(&verify);
		relation_close(verify.rel, NoLock);
	}
	return (Datum) 0;
}
