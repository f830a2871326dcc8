/*-------------------------------------------------------------------------
 *
 * build.c
 *	  Builds: a new data key, then nbtree's own build over sealed rows.
 *
 * The key is made in the transaction that makes the file.  Two builds make
 * none: of an index of an unbound table, which has no row, and of an empty
 * table whose key is away, so that TRUNCATE needs no key; that index keeps the
 * one it had, with which nothing is sealed now.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "btree/internal.h"
#include "heap/heap.h"

/* Options: nbtree's own, then ours, in the order that nbtree knows */
typedef struct BtSealedOptions
{
	BTOptions	stock;
	bool		hide_tids;
} BtSealedOptions;

/*
 * How full a build leaves the leaves, where core's default is 90.  Sealed
 * entries are few to a page: 92 leaves room for a dozen, and saves one page in
 * thirty-five.
 */
#define DEFAULT_FILLFACTOR 92

static relopt_kind options_kind;
static object_access_hook_type previous_hook = NULL;

bytea *
bt_options(Datum reloptions, bool validate)
{
	static const relopt_parse_elt tab[] = {
		{.optname = "fillfactor", .opttype = RELOPT_TYPE_INT,
		.offset = offsetof(BTOptions, fillfactor)},
		{.optname = "vacuum_cleanup_index_scale_factor",
			.opttype = RELOPT_TYPE_REAL,
		.offset = offsetof(BTOptions, vacuum_cleanup_index_scale_factor)},
		{.optname = "deduplicate_items", .opttype = RELOPT_TYPE_BOOL,
		.offset = offsetof(BTOptions, deduplicate_items)},
		{.optname = "hide_tids", .opttype = RELOPT_TYPE_BOOL,
		.offset = offsetof(BtSealedOptions, hide_tids)},
	};

	return (bytea *) build_reloptions(reloptions, validate, options_kind,
									  sizeof(BtSealedOptions), tab,
									  lengthof(tab));
}

/* The options of an index that was given none */
bytea *
bt_default_options(void)
{
	static bytea *options = NULL;

	if (options == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		options = bt_options((Datum) 0, false);
		MemoryContextSwitchTo(old);
	}
	return options;
}

/* Shall the TIDs of an index that is built be hidden? */
static bool
bt_hides_tids(Relation index)
{
	BtSealedOptions *options = (BtSealedOptions *) index->rd_options;

	return options == NULL || options->hide_tids;
}

/* A table that hands sealed rows to nbtree's build */
typedef struct BuildHeap
{
	BtHeap		heap;			/* must be first */
	BtActivity	activity;
	MemoryContext row;
	Datum		plain[INDEX_MAX_KEYS];
	Datum		sealed[INDEX_MAX_KEYS];
	Datum		compared[INDEX_MAX_KEYS];
	IndexBuildCallback callback;
	void	   *state;
} BuildHeap;

/* One row */
static void
build_row(Relation rel, ItemPointer tid, Datum *values, bool *isnull,
		  bool alive, void *state)
{
	BuildHeap  *build = state;
	BtIndex    *index = build->heap.index;
	ItemPointerData hidden = *tid;
	MemoryContext old;

	if (unlikely(!cmek_keyring_is_good(index->ring)))
		(void) bt_enter(rel);
	old = MemoryContextSwitchTo(build->row);
	bt_seal_values(&build->activity, values, isnull, build->plain, build->sealed);
	bt_hide_tid(index, &hidden);
	MemoryContextSwitchTo(old);
	build->callback(&index->shadow, &hidden, build->sealed, isnull, alive,
					build->state);
	build->activity.nvalues = 0;
	MemoryContextReset(build->row);
}

static double
build_range_scan(Relation heap, Relation index, struct IndexInfo *info,
				 bool allow_sync, bool anyvisible, bool progress,
				 BlockNumber start, BlockNumber nblocks,
				 IndexBuildCallback callback, void *state, TableScanDesc scan)
{
	BuildHeap  *build = (BuildHeap *) heap;
	Relation	real = build->heap.real;

	build->callback = callback;
	build->state = state;
	return real->rd_tableam->index_build_range_scan(real, build->heap.real_index,
													info, allow_sync, anyvisible,
													progress, start, nblocks,
													build_row, build, scan);
}

/* Let nbtree build */
static IndexBuildResult *
build_on_shadow(Relation heap, Relation rel, BtIndex *index,
				struct IndexInfo *info)
{
	BuildHeap  *build = palloc0(sizeof(BuildHeap));
	int			workers = info->ii_ParallelWorkers;
	IndexBuildResult *result;

	bt_heap_begin(&build->heap, heap, rel, index);
	build->heap.routine.index_build_range_scan = build_range_scan;
	build->row = AllocSetContextCreate(CurrentMemoryContext, "cmek index build",
									   ALLOCSET_DEFAULT_SIZES);
	bt_activity_begin(&build->activity, index);
	build->activity.compared = build->compared;
	/* workers would open the real index */
	info->ii_ParallelWorkers = 0;
	result = btbuild(&build->heap.rel, &index->shadow, info);
	info->ii_ParallelWorkers = workers;
	bt_activity_end(&build->activity);
	MemoryContextDelete(build->row);
	pfree(build);
	return result;
}

/* Give an index that is built a key of its own, unless it does without */
static void
build_key(Relation heap, Relation rel)
{
	Oid			table = RelationGetRelid(heap);
	Oid			index = RelationGetRelid(rel);

	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP || IsBinaryUpgrade ||
		!cmek_table_is_bound(table))
		return;
	if (RelationGetNumberOfBlocks(heap) == 0 &&
		cmek_index_key_exists(table, index) && !cmek_key_is_available(table))
		return;
	cmek_index_key_create(table, index, bt_hides_tids(rel));
	cmek_stop("index-key-made");
}

IndexBuildResult *
bt_build(Relation heap, Relation rel, struct IndexInfo *info)
{
	BtIndex    *index = NULL;

	if (!cmek_relation_is_sealed(heap))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("access method \"cmek_btree\" is for sealed tables only"),
				 errdetail("Table \"%s\" is not sealed.",
						   RelationGetRelationName(heap)),
				 errhint("Use access method btree, or ALTER TABLE ... SET ACCESS METHOD cmek_heap.")));
	build_key(heap, rel);
	if (!IsBinaryUpgrade && RelationGetNumberOfBlocks(heap) > 0)
		index = bt_enter(rel);
	if (index == NULL)
		index = bt_enter_keyless(rel);
	return build_on_shadow(heap, rel, index, info);
}

void
bt_buildempty(Relation rel)
{
	btbuildempty(&bt_enter_keyless(rel)->shadow);
}

/* ----------
 * Keys of indexes that come and go
 * ----------
 */

/* A table got its keys: so do its indexes, which are empty */
static void
table_got_keys(Oid relid)
{
	Relation	heap = relation_open(relid, NoLock);
	List	   *list = RELKIND_HAS_STORAGE(heap->rd_rel->relkind) ?
		RelationGetIndexList(heap) : NIL;
	ListCell   *lc;

	foreach(lc, list)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (bt_is_sealed_index(index) &&
			index->rd_rel->relpersistence != RELPERSISTENCE_TEMP)
			cmek_index_key_create(relid, lfirst_oid(lc), bt_hides_tids(index));
		index_close(index, NoLock);
	}
	relation_close(heap, NoLock);
}

/* The row of an index in pg_class, which may not be visible yet, as it is now */
static bool
read_index(Oid indexid, FormData_pg_class *form)
{
	Relation	rel = table_open(RelationRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(indexid));
	scan = systable_beginscan(rel, ClassOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple) &&
		((Form_pg_class) GETSTRUCT(tuple))->relkind == RELKIND_INDEX;
	if (found)
		memcpy(form, GETSTRUCT(tuple), CLASS_TUPLE_SIZE);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* See btree.h. */
Oid
cmek_index_table(Oid indexid)
{
	Relation	rel = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			table = InvalidOid;

	ScanKeyInit(&key, Anum_pg_index_indexrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(indexid));
	scan = systable_beginscan(rel, IndexRelidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		table = ((Form_pg_index) GETSTRUCT(tuple))->indrelid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return table;
}

/* Tell the keys of indexes that come and go; sealed ones only have any */
static void
access_hook(ObjectAccessType access, Oid classid, Oid objectid, int subid,
			void *arg)
{
	FormData_pg_class form;

	if (previous_hook)
		previous_hook(access, classid, objectid, subid, arg);
	if (classid != RelationRelationId || subid != 0 || IsBinaryUpgrade ||
		IsBootstrapProcessingMode() ||
		(access != OAT_POST_CREATE && access != OAT_DROP) ||
		!read_index(objectid, &form) ||
		form.relpersistence == RELPERSISTENCE_TEMP)
		return;
	if (access == OAT_DROP)
		cmek_index_key_dropped(cmek_index_table(objectid), objectid,
							   form.relfilenode,
							   (((ObjectAccessDrop *) arg)->dropflags &
								PERFORM_DELETION_CONCURRENTLY) != 0);
	else
		cmek_index_key_made(cmek_index_table(objectid), objectid,
							form.relfilenode);
}

/* Register options and hooks */
void
bt_build_init(void)
{
	options_kind = add_reloption_kind();
	add_int_reloption(options_kind, "fillfactor",
					  "Packs btree index pages only to this percentage",
					  DEFAULT_FILLFACTOR, BTREE_MIN_FILLFACTOR, 100,
					  ShareUpdateExclusiveLock);
	add_real_reloption(options_kind, "vacuum_cleanup_index_scale_factor",
					   "Deprecated B-Tree parameter.", -1, 0.0, 1e10,
					   ShareUpdateExclusiveLock);
	add_bool_reloption(options_kind, "deduplicate_items",
					   "Sealed entries are never equal: of no effect",
					   true, ShareUpdateExclusiveLock);
	add_bool_reloption(options_kind, "hide_tids",
					   "Permutes the row addresses in the index, from its next build on",
					   true, ShareUpdateExclusiveLock);
	cmek_index_keys_wanted = table_got_keys;
	previous_hook = object_access_hook;
	object_access_hook = access_hook;
}
