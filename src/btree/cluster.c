/*-------------------------------------------------------------------------
 *
 * cluster.c
 *	  The rows of a table in the order of one of its indexes, by a sort.
 *
 * What is sorted, and spilled, is sealed: keys as the index seals them, and
 * beside them the row as it lies in the table.  Abbreviated keys are in memory
 * only, as in a build (sort.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#include "btree/internal.h"
#include "heap/heap.h"

struct CmekClusterSort
{
	Relation	rel;			/* the index */
	BtIndex    *index;
	struct IndexInfo *info;
	EState	   *estate;
	MemoryContext row;			/* for one row */
	TupleTableSlot *logical;	/* a row of the table */
	TupleTableSlot *put;		/* what is sorted: keys, row */
	TupleTableSlot *got;
	Tuplesortstate *tuplesort;
};

/* What is sorted: the key columns, then TID and bytes of the row */
static TupleDesc
cluster_desc(const BtIndex *index)
{
	TupleDesc	desc = CreateTemplateTupleDesc(index->nkeyatts + 1);

	for (int i = 0; i < index->nkeyatts; i++)
		bt_sealed_attribute(desc, i + 1, "key", &index->columns[i]);
	TupleDescInitEntry(desc, index->nkeyatts + 1, "row", BYTEAOID, -1, 0);
	CMEK_TUPLE_DESC_FINALIZE(desc);
	return desc;
}

/* How the index is sorted */
static Tuplesortstate *
cluster_begin_sort(BtIndex *index, TupleDesc desc)
{
	AttrNumber	columns[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];
	Oid			collations[INDEX_MAX_KEYS];
	bool		nulls_first[INDEX_MAX_KEYS];
	BtActivity	activity;
	Tuplesortstate *result;

	for (int i = 0; i < index->nkeyatts; i++)
	{
		int16		option = index->shadow.rd_indoption[i];

		columns[i] = i + 1;
		operators[i] = get_opfamily_member(index->opfamily, index->sealed_type,
										   index->sealed_type,
										   (option & INDOPTION_DESC) ?
										   BTGreaterStrategyNumber :
										   BTLessStrategyNumber);
		collations[i] = BT_SEALED_COLLATION;
		nulls_first[i] = (option & INDOPTION_NULLS_FIRST) != 0;
	}
	/* sort.c asks which index it is for */
	bt_activity_begin(&activity, index);
	result = tuplesort_begin_heap(desc, index->nkeyatts, columns, operators,
								  collations, nulls_first,
								  maintenance_work_mem, NULL, TUPLESORT_NONE);
	bt_activity_end(&activity);
	return result;
}

static CmekClusterSort *
cluster_begin(Relation heap, Relation rel)
{
	CmekClusterSort *sort;
	BtIndex    *index = bt_enter(rel);
	TupleDesc	desc;

	/* an unbound table has no row */
	if (index == NULL)
		return NULL;
	sort = palloc0(sizeof(CmekClusterSort));
	sort->rel = rel;
	sort->index = index;
	sort->info = BuildIndexInfo(rel);
	sort->estate = CreateExecutorState();
	sort->row = AllocSetContextCreate(CurrentMemoryContext, "cmek cluster",
									  ALLOCSET_DEFAULT_SIZES);
	desc = cluster_desc(index);
	sort->logical = MakeSingleTupleTableSlot(RelationGetDescr(heap),
											 &TTSOpsHeapTuple);
	sort->put = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	sort->got = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	sort->tuplesort = cluster_begin_sort(index, desc);
	return sort;
}

/* TID and bytes of a row, in a bytea */
static Datum
cluster_image(HeapTuple tuple)
{
	bytea	   *image = palloc(VARHDRSZ + sizeof(ItemPointerData) + tuple->t_len);

	SET_VARSIZE(image, VARHDRSZ + sizeof(ItemPointerData) + tuple->t_len);
	memcpy(VARDATA(image), &tuple->t_self, sizeof(ItemPointerData));
	memcpy(VARDATA(image) + sizeof(ItemPointerData), tuple->t_data, tuple->t_len);
	return PointerGetDatum(image);
}

/* Take a row: "logical" is what "sealed" opens to */
static void
cluster_put(CmekClusterSort *sort, HeapTuple sealed, HeapTuple logical)
{
	MemoryContext old = MemoryContextSwitchTo(sort->row);
	ExprContext *econtext = GetPerTupleExprContext(sort->estate);
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];
	Datum		plain[INDEX_MAX_KEYS];
	Datum		keys[INDEX_MAX_KEYS];
	int			nkeys = sort->index->nkeyatts;
	BtActivity	activity;

	ExecStoreHeapTuple(logical, sort->logical, false);
	econtext->ecxt_scantuple = sort->logical;
	FormIndexDatum(sort->info, sort->logical, sort->estate, values, isnull);
	if (unlikely(!cmek_keyring_is_good(sort->index->ring)))
		(void) bt_enter(sort->rel);

	bt_activity_begin(&activity, sort->index);
	bt_seal_values(&activity, values, isnull, plain, keys);
	ExecClearTuple(sort->put);
	memcpy(sort->put->tts_values, keys, nkeys * sizeof(Datum));
	memcpy(sort->put->tts_isnull, isnull, nkeys * sizeof(bool));
	sort->put->tts_values[nkeys] = cluster_image(sealed);
	sort->put->tts_isnull[nkeys] = false;
	ExecStoreVirtualTuple(sort->put);
	tuplesort_puttupleslot(sort->tuplesort, sort->put);
	bt_activity_end(&activity);

	ExecClearTuple(sort->put);
	ExecClearTuple(sort->logical);
	ResetExprContext(econtext);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sort->row);
}

/* All rows were taken: sort them */
static void
cluster_perform(CmekClusterSort *sort)
{
	tuplesort_performsort(sort->tuplesort);
}

/* The next row in order, palloc'd; NULL at the end */
static HeapTuple
cluster_get(CmekClusterSort *sort)
{
	bool		isnull;
	bytea	   *image;
	HeapTuple	tuple;

	if (!tuplesort_gettupleslot(sort->tuplesort, true, false, sort->got, NULL))
		return NULL;
	image = DatumGetByteaPP(slot_getattr(sort->got, sort->index->nkeyatts + 1,
										 &isnull));
	tuple = palloc(HEAPTUPLESIZE + VARSIZE_ANY_EXHDR(image));
	tuple->t_len = VARSIZE_ANY_EXHDR(image) - sizeof(ItemPointerData);
	tuple->t_tableOid = InvalidOid;
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	memcpy(&tuple->t_self, VARDATA_ANY(image), sizeof(ItemPointerData));
	memcpy(tuple->t_data, VARDATA_ANY(image) + sizeof(ItemPointerData),
		   tuple->t_len);
	return tuple;
}

static void
cluster_end(CmekClusterSort *sort)
{
	tuplesort_end(sort->tuplesort);
	ExecDropSingleTupleTableSlot(sort->got);
	ExecDropSingleTupleTableSlot(sort->put);
	ExecDropSingleTupleTableSlot(sort->logical);
	FreeExecutorState(sort->estate);
	MemoryContextDelete(sort->row);
	pfree(sort);
}

void
bt_cluster_init(void)
{
	static const CmekClusterHooks hooks = {
		.begin = cluster_begin,
		.put = cluster_put,
		.perform = cluster_perform,
		.get = cluster_get,
		.end = cluster_end,
	};

	cmek_cluster_hooks = &hooks;
}
