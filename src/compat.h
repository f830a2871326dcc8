/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between the supported versions of PostgreSQL.
 *
 * Nothing else in the tree tests PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_COMPAT_H
#define CMEK_COMPAT_H

#include "access/tableam.h"

#if PG_VERSION_NUM < 150000
#error "cmek needs PostgreSQL 15 or later"
#endif

/* ----------
 * heap/: 16 split the set of columns that block HOT from the set that
 * summarizing indexes use, and made tuple_update answer accordingly.
 * ----------
 */
#if PG_VERSION_NUM >= 160000

/* the sets of indexed columns that a relation keeps, once it was asked for one */
#define CMEK_INDEX_ATTRS_KNOWN(rel) ((rel)->rd_attrsvalid)
#define CMEK_ATTRS_HOT_BLOCKING(rel) ((rel)->rd_hotblockingattr)
#define CMEK_ATTRS_SUMMARIZED(rel) ((rel)->rd_summarizedattr)
#define CMEK_CLEAR_INDEX_ATTRS(rel) \
	((rel)->rd_attrsvalid = true, \
	 (rel)->rd_hotblockingattr = NULL, (rel)->rd_summarizedattr = NULL, \
	 (rel)->rd_keyattr = NULL, (rel)->rd_pkattr = NULL, (rel)->rd_idattr = NULL)
#define CMEK_SET_HOT_BLOCKING(rel, set) ((rel)->rd_hotblockingattr = (set))
#define CMEK_SET_SUMMARIZED(rel, set) ((rel)->rd_summarizedattr = (set))
typedef TU_UpdateIndexes CmekUpdateIndexes;
/* heap_update's own answer, but for what only tuple_update knows: no change */
#define CMEK_ANSWER_UPDATE_INDEXES(ok, heap_only, ui) \
	do { \
		if (!(ok)) \
			*(ui) = TU_None; \
	} while (0)

#else							/* 15 */

#define CMEK_INDEX_ATTRS_KNOWN(rel) ((rel)->rd_indexattr != NULL)
#define CMEK_ATTRS_HOT_BLOCKING(rel) ((rel)->rd_indexattr)
#define CMEK_ATTRS_SUMMARIZED(rel) ((Bitmapset *) NULL)
#define CMEK_CLEAR_INDEX_ATTRS(rel) \
	((rel)->rd_indexattr = NULL, \
	 (rel)->rd_keyattr = NULL, (rel)->rd_pkattr = NULL, (rel)->rd_idattr = NULL)
#define CMEK_SET_HOT_BLOCKING(rel, set) ((rel)->rd_indexattr = (set))
#define CMEK_SET_SUMMARIZED(rel, set) ((void) (set))
typedef bool CmekUpdateIndexes;
#define CMEK_ANSWER_UPDATE_INDEXES(ok, heap_only, ui) \
	(*(ui) = (ok) && !(heap_only))

#endif

/* 16 renamed what locates a relation's file */
#if PG_VERSION_NUM >= 160000
#define CMEK_NEW_FILELOCATOR_PARAMS(rel, locator) \
	Relation rel, const RelFileLocator *locator, char persistence, \
	TransactionId *freezeXid, MultiXactId *minmulti
#define cmek_stock_set_new_filelocator(am, rel, locator) \
	(am)->relation_set_new_filelocator(rel, locator, persistence, freezeXid, minmulti)
#define cmek_set_new_filelocator_callback(am, callback) \
	((am)->relation_set_new_filelocator = (callback))
#else
#define CMEK_NEW_FILELOCATOR_PARAMS(rel, locator) \
	Relation rel, const RelFileNode *locator, char persistence, \
	TransactionId *freezeXid, MultiXactId *minmulti
#define cmek_stock_set_new_filelocator(am, rel, locator) \
	(am)->relation_set_new_filenode(rel, locator, persistence, freezeXid, minmulti)
#define cmek_set_new_filelocator_callback(am, callback) \
	((am)->relation_set_new_filenode = (callback))
#endif

/* Do two relcache entries mean the same file? */
#if PG_VERSION_NUM >= 160000
#define cmek_same_file(a, b) \
	RelFileLocatorEquals((a)->rd_locator, (b)->rd_locator)
#else
#define cmek_same_file(a, b) RelFileNodeEquals((a)->rd_node, (b)->rd_node)
#endif

/* 17 asks slots whether their row is of this transaction */
#if PG_VERSION_NUM >= 170000
#define CMEK_SLOT_HAS_CURRENT_XACT 1
#endif

/*
 * 18 lets copy_minimal_tuple ask for extra room, chooses the block of a bitmap
 * scan inside scan_bitmap_next_tuple, and instruments index scans.
 */
#if PG_VERSION_NUM >= 180000
#define CMEK_COPY_MINIMAL_PARAMS(slot) TupleTableSlot *slot, Size extra
#define CMEK_COPY_MINIMAL_ARGS(slot) slot, extra
#define CMEK_BITMAP_NEXT_PARAMS(scan, slot) \
	TableScanDesc scan, TupleTableSlot *slot, \
	bool *recheck, uint64 *lossy_pages, uint64 *exact_pages
#define CMEK_BITMAP_NEXT_ARGS(scan, slot) \
	scan, slot, recheck, lossy_pages, exact_pages
#define cmek_init_toast_snapshot(snapshot) \
	(*(snapshot) = *get_toast_snapshot())
#else
#define CMEK_COPY_MINIMAL_PARAMS(slot) TupleTableSlot *slot
#define CMEK_COPY_MINIMAL_ARGS(slot) slot
#define CMEK_BITMAP_NEXT_PARAMS(scan, slot) \
	TableScanDesc scan, struct TBMIterateResult *tbmres, TupleTableSlot *slot
#define CMEK_BITMAP_NEXT_ARGS(scan, slot) scan, tbmres, slot
#define cmek_init_toast_snapshot(snapshot) init_toast_snapshot(snapshot)
#endif

/*
 * ddl/: 16 folded the permission checks of all kinds of objects into two
 * functions; 17 lets partitioned tables have an access method.
 */
#if PG_VERSION_NUM >= 160000
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#define cmek_relation_ownercheck(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#define cmek_server_ownercheck(serverid, role) \
	object_ownercheck(ForeignServerRelationId, serverid, role)
#define cmek_server_aclcheck(serverid, role, mode) \
	object_aclcheck(ForeignServerRelationId, serverid, role, mode)
#else
#define cmek_relation_ownercheck(relid, role) pg_class_ownercheck(relid, role)
#define cmek_server_ownercheck(serverid, role) \
	pg_foreign_server_ownercheck(serverid, role)
#define cmek_server_aclcheck(serverid, role, mode) \
	pg_foreign_server_aclcheck(serverid, role, mode)
#endif
#define CMEK_PARTITIONED_HAS_METHOD (PG_VERSION_NUM >= 170000)

/*
 * ddl/: 18 asks an index what it can do where it asked whether it is a btree,
 * and runs an executor without execute_once; 17 lets others maintain a table,
 * and generated columns have another expression.
 */
#define CMEK_SPECULATIVE_WANTS_BTREE (PG_VERSION_NUM < 180000)
#define CMEK_EXECUTOR_WANTS_BTREE (PG_VERSION_NUM < 180000)
#if PG_VERSION_NUM >= 180000
#define CMEK_EXECUTOR_RUN_PARAMS \
	QueryDesc *query_desc, ScanDirection direction, uint64 count
#define CMEK_EXECUTOR_RUN_ARGS query_desc, direction, count
#else
#define CMEK_EXECUTOR_RUN_PARAMS \
	QueryDesc *query_desc, ScanDirection direction, uint64 count, \
	bool execute_once
#define CMEK_EXECUTOR_RUN_ARGS query_desc, direction, count, execute_once
#endif
#if PG_VERSION_NUM >= 170000
#define cmek_alter_remakes_indexes(subtype) \
	((subtype) == AT_AlterColumnType || (subtype) == AT_SetExpression)
#else
#define cmek_alter_remakes_indexes(subtype) ((subtype) == AT_AlterColumnType)
#endif
#if PG_VERSION_NUM >= 170000
#define cmek_callback_refresh RangeVarCallbackMaintainsTable
#else
#define cmek_callback_refresh RangeVarCallbackOwnsTable
#endif
/* minor releases since late 2024 lock rows of pg_class that they update */
#include "storage/lockdefs.h"
#include "utils/syscache.h"
#ifdef InplaceUpdateTupleLock
#define cmek_class_locked_copy(relid) \
	SearchSysCacheLockedCopy1(RELOID, ObjectIdGetDatum(relid))
#define cmek_class_unlock(pg_class, tid) \
	UnlockTuple(pg_class, tid, InplaceUpdateTupleLock)
#else
#define cmek_class_locked_copy(relid) \
	SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid))
#define cmek_class_unlock(pg_class, tid) ((void) (tid))
#endif
/*
 * 19 hands out index routines that nobody may change, and that live as long as
 * the process; before, they are the caller's
 */
#include "access/amapi.h"
#if PG_VERSION_NUM >= 190000
#define CMEK_INDEX_ROUTINE const IndexAmRoutine
static inline IndexAmRoutine *
cmek_own_index_routine(const void *stock)
{
	static IndexAmRoutine own;

	own = *(const IndexAmRoutine *) stock;
	return &own;
}
#else
#define CMEK_INDEX_ROUTINE IndexAmRoutine
static inline IndexAmRoutine *
cmek_own_index_routine(void *stock)
{
	return (IndexAmRoutine *) stock;
}
#endif
#if PG_VERSION_NUM >= 160000
#define CMEK_FIRST_FILE_SUBID(rel) ((rel)->rd_firstRelfilelocatorSubid)
#else
#define CMEK_FIRST_FILE_SUBID(rel) ((rel)->rd_firstRelfilenodeSubid)
#endif

/*
 * keys/: early releases of 15 had another name for InitMaterializedSRF; 17
 * lets extensions name their wait events; 18 decodes base64 to bytes.
 */
#include "funcapi.h"
#include "utils/wait_event.h"
#ifndef MAT_SRF_USE_EXPECTED_DESC
#define InitMaterializedSRF(fcinfo, flags) SetSingleFuncCall(fcinfo, flags)
#endif
#if PG_VERSION_NUM >= 180000
#define cmek_b64_decode(src, len, dst, max) pg_b64_decode(src, len, dst, max)
#define cmek_b64_encode(src, len, dst, max) pg_b64_encode(src, len, dst, max)
#else
#define cmek_b64_encode(src, len, dst, max) \
	pg_b64_encode((const char *) (src), len, dst, max)
#define cmek_b64_decode(src, len, dst, max) \
	pg_b64_decode(src, len, (char *) (dst), max)
#endif
#if PG_VERSION_NUM >= 170000
#define cmek_wait_event(name) WaitEventExtensionNew(name)
#else
#define cmek_wait_event(name) PG_WAIT_EXTENSION
#endif

/* kms/: 17 lets a resource owner own a set of wait events; ours is freed by hand */
#if PG_VERSION_NUM >= 170000
#define cmek_create_wait_event_set(n) CreateWaitEventSet(NULL, n)
#else
#define cmek_create_wait_event_set(n) CreateWaitEventSet(CurrentMemoryContext, n)
#endif

/* 19 does not let a table method change the parameters of VACUUM */
#if PG_VERSION_NUM >= 190000
#define CMEK_VACUUM_PARAMS const VacuumParams
#else
#define CMEK_VACUUM_PARAMS struct VacuumParams
#endif

/*
 * btree/: 16 gave vacuum the table, 17 lets a method say that its indexes can
 * be built in parallel and hands out the sizes of a parallel scan's keys, 18
 * asks the method for a tree's height and instruments scans.
 */
#if PG_VERSION_NUM >= 170000
#define CMEK_NO_PARALLEL_BUILD(am) ((am)->amcanbuildparallel = false)
#else
#define CMEK_NO_PARALLEL_BUILD(am) ((void) (am))
#endif
#if PG_VERSION_NUM >= 180000
#define CMEK_INDEX_METHOD_KNOWS_HEIGHT 1
#define cmek_copy_instrument(to, from) ((to)->instrument = (from)->instrument)
#define cmek_clear_instrument(scan) ((scan)->instrument = NULL)
#else
#define cmek_copy_instrument(to, from) ((void) 0)
#define cmek_clear_instrument(scan) ((void) 0)
#endif
/* 19 leaves the metapage out of what a scan is estimated to read */
#if PG_VERSION_NUM < 190000
#define CMEK_CORE_COUNTS_METAPAGE 1
#endif

/*
 * lifecycle/, btree/: 18 keeps a compact form beside each attribute of a
 * descriptor, and has generated columns that are not stored.
 */
#if PG_VERSION_NUM >= 180000
#define CMEK_TUPLE_DESC_CHANGED(desc, i) populate_compact_attribute(desc, i)
#define CMEK_SET_GENERATED_KIND(constraint, kind) \
	((constraint)->generated_kind = (kind))
#define CMEK_GENERATED_IS_KNOWN(kind) ((kind) == 's' || (kind) == 'v')
#else
#define CMEK_TUPLE_DESC_CHANGED(desc, i) ((void) 0)
#define CMEK_SET_GENERATED_KIND(constraint, kind) ((void) 0)
#define CMEK_GENERATED_IS_KNOWN(kind) ((kind) == 's')
#endif

/*
 * heap/, btree/: 19 gave scans, fetches, slots, deletes and updates flags of
 * their own, ANALYZE a horizon that heap finds itself, and VACUUM FULL and
 * CLUSTER the name REPACK, which can be CONCURRENTLY: with a snapshot.
 *
 * Callbacks whose parameters differ are declared with these macros and use the
 * names that are in them.
 */
#if PG_VERSION_NUM >= 190000
#define CMEK_FETCH_BEGIN_PARAMS(rel) Relation rel, uint32 flags
#define CMEK_FETCH_BEGIN_ARGS(rel) rel, flags
#define cmek_table_beginscan(rel, snapshot) \
	table_beginscan(rel, snapshot, 0, NULL, SO_NONE)
#define cmek_index_beginscan(heap, index, snapshot) \
	index_beginscan(heap, index, snapshot, NULL, 0, 0, SO_NONE)
#define cmek_make_slot(desc, ops) MakeTupleTableSlot(desc, ops, 0)
#define CMEK_ANALYZE_NEXT_PARAMS(scan, slot) \
	TableScanDesc scan, double *liverows, double *deadrows, TupleTableSlot *slot
#define CMEK_ANALYZE_NEXT_ARGS(scan, slot) scan, liverows, deadrows, slot
typedef uint32 CmekWriteOptions;
#define CMEK_DELETE_PARAMS(rel, tid) \
	Relation rel, ItemPointer tid, CommandId cid, uint32 options, \
	Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd
#define CMEK_DELETE_ARGS(rel, tid) \
	rel, tid, cid, options, snapshot, crosscheck, wait, tmfd
#define CMEK_HEAP_DELETE_ARGS(rel, tid) \
	rel, tid, cid, options, crosscheck, wait, tmfd
#define CMEK_UPDATE_PARAMS(rel, otid, slot) \
	Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid, \
	uint32 options, Snapshot snapshot, Snapshot crosscheck, bool wait, \
	TM_FailureData *tmfd, LockTupleMode *lockmode, \
	CmekUpdateIndexes *update_indexes
#define CMEK_HEAP_UPDATE_ARGS(rel, tid, tup) \
	rel, tid, tup, cid, options, crosscheck, wait, tmfd, lockmode, \
	update_indexes
#define CMEK_REWRITE_PARAMS(oldheap, newheap, index) \
	Relation oldheap, Relation newheap, Relation index, bool use_sort, \
	TransactionId OldestXmin, Snapshot snapshot, \
	TransactionId *xid_cutoff, MultiXactId *multi_cutoff, \
	double *num_tuples, double *tups_vacuumed, double *tups_recently_dead
#define CMEK_REWRITE_ARGS(oldheap, newheap, index) \
	oldheap, newheap, index, use_sort, OldestXmin, snapshot, xid_cutoff, \
	multi_cutoff, num_tuples, tups_vacuumed, tups_recently_dead
#define CMEK_REWRITE_IS_CONCURRENT (snapshot != NULL)
#define CMEK_TUPLE_DESC_FINALIZE(desc) TupleDescFinalize(desc)
#define PROGRESS_CLUSTER_PHASE PROGRESS_REPACK_PHASE
#define PROGRESS_CLUSTER_INDEX_RELID PROGRESS_REPACK_INDEX_RELID
#define PROGRESS_CLUSTER_HEAP_TUPLES_SCANNED \
	PROGRESS_REPACK_HEAP_TUPLES_SCANNED
#define PROGRESS_CLUSTER_HEAP_TUPLES_WRITTEN \
	PROGRESS_REPACK_HEAP_TUPLES_INSERTED
#define PROGRESS_CLUSTER_TOTAL_HEAP_BLKS PROGRESS_REPACK_TOTAL_HEAP_BLKS
#define PROGRESS_CLUSTER_HEAP_BLKS_SCANNED PROGRESS_REPACK_HEAP_BLKS_SCANNED
#define PROGRESS_CLUSTER_PHASE_SEQ_SCAN_HEAP \
	PROGRESS_REPACK_PHASE_SEQ_SCAN_HEAP
#define PROGRESS_CLUSTER_PHASE_INDEX_SCAN_HEAP \
	PROGRESS_REPACK_PHASE_INDEX_SCAN_HEAP
#define PROGRESS_CLUSTER_PHASE_SORT_TUPLES PROGRESS_REPACK_PHASE_SORT_TUPLES
#define PROGRESS_CLUSTER_PHASE_WRITE_NEW_HEAP \
	PROGRESS_REPACK_PHASE_WRITE_NEW_HEAP
#else
#define CMEK_FETCH_BEGIN_PARAMS(rel) Relation rel
#define CMEK_FETCH_BEGIN_ARGS(rel) rel
#define cmek_table_beginscan(rel, snapshot) \
	table_beginscan(rel, snapshot, 0, NULL)
#if PG_VERSION_NUM >= 180000
#define cmek_index_beginscan(heap, index, snapshot) \
	index_beginscan(heap, index, snapshot, NULL, 0, 0)
#else
#define cmek_index_beginscan(heap, index, snapshot) \
	index_beginscan(heap, index, snapshot, 0, 0)
#endif
#define cmek_make_slot(desc, ops) MakeTupleTableSlot(desc, ops)
#define CMEK_ANALYZE_NEXT_PARAMS(scan, slot) \
	TableScanDesc scan, TransactionId OldestXmin, double *liverows, \
	double *deadrows, TupleTableSlot *slot
#define CMEK_ANALYZE_NEXT_ARGS(scan, slot) \
	scan, OldestXmin, liverows, deadrows, slot
typedef int CmekWriteOptions;
#define CMEK_DELETE_PARAMS(rel, tid) \
	Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot, \
	Snapshot crosscheck, bool wait, TM_FailureData *tmfd, bool changing_part
#define CMEK_DELETE_ARGS(rel, tid) \
	rel, tid, cid, snapshot, crosscheck, wait, tmfd, changing_part
#define CMEK_HEAP_DELETE_ARGS(rel, tid) \
	rel, tid, cid, crosscheck, wait, tmfd, changing_part
#define CMEK_UPDATE_PARAMS(rel, otid, slot) \
	Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid, \
	Snapshot snapshot, Snapshot crosscheck, bool wait, \
	TM_FailureData *tmfd, LockTupleMode *lockmode, \
	CmekUpdateIndexes *update_indexes
#if PG_VERSION_NUM >= 160000
#define CMEK_HEAP_UPDATE_ARGS(rel, tid, tup) \
	rel, tid, tup, cid, crosscheck, wait, tmfd, lockmode, update_indexes
#else
#define CMEK_HEAP_UPDATE_ARGS(rel, tid, tup) \
	rel, tid, tup, cid, crosscheck, wait, tmfd, lockmode
#endif
#define CMEK_REWRITE_PARAMS(oldheap, newheap, index) \
	Relation oldheap, Relation newheap, Relation index, bool use_sort, \
	TransactionId OldestXmin, \
	TransactionId *xid_cutoff, MultiXactId *multi_cutoff, \
	double *num_tuples, double *tups_vacuumed, double *tups_recently_dead
#define CMEK_REWRITE_ARGS(oldheap, newheap, index) \
	oldheap, newheap, index, use_sort, OldestXmin, xid_cutoff, \
	multi_cutoff, num_tuples, tups_vacuumed, tups_recently_dead
#define CMEK_REWRITE_IS_CONCURRENT false
#define CMEK_TUPLE_DESC_FINALIZE(desc) ((void) (desc))
#endif

/* ddl/: 19 replaced the hook that sees what the planner knows of a table */
#include "optimizer/pathnode.h"
#include "optimizer/plancat.h"
#if PG_VERSION_NUM >= 190000
typedef build_simple_rel_hook_type CmekRelationInfoHook;
#define cmek_relation_info_hook build_simple_rel_hook
#define CMEK_RELATION_INFO_PARAMS(root, rel) \
	PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define CMEK_RELATION_INFO_ARGS(root, rel) root, rel, rte
#else
typedef get_relation_info_hook_type CmekRelationInfoHook;
#define cmek_relation_info_hook get_relation_info_hook
#define CMEK_RELATION_INFO_PARAMS(root, rel) \
	PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel
#define CMEK_RELATION_INFO_ARGS(root, rel) root, relid, inhparent, rel
#endif

/*
 * stats/: 17 keeps a column's statistics target, which may be NULL, outside of
 * pg_attribute's fixed part, and ANALYZE runs with a pinned search_path; 18 has
 * generated columns that are not stored.
 */
#include "commands/vacuum.h"
#include "utils/guc.h"
/* whose statistics are stored */
#define CMEK_SERVER_MAJOR (PG_VERSION_NUM / 10000)
#if PG_VERSION_NUM >= 170000
static inline bool
cmek_vacattr_target(VacAttrStats *stats, Relation rel, int attnum)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM,
										ObjectIdGetDatum(RelationGetRelid(rel)),
										Int16GetDatum(attnum));
	Datum		target;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u",
			 attnum, RelationGetRelid(rel));
	target = SysCacheGetAttr(ATTNUM, tuple, Anum_pg_attribute_attstattarget,
							 &isnull);
	stats->attstattarget = isnull ? -1 : DatumGetInt16(target);
	ReleaseSysCache(tuple);
	return stats->attstattarget != 0;
}
#define cmek_restrict_search_path() RestrictSearchPath()
#else
static inline bool
cmek_vacattr_target(VacAttrStats *stats, Relation rel, int attnum)
{
	stats->attr = (Form_pg_attribute) palloc(ATTRIBUTE_FIXED_PART_SIZE);
	memcpy(stats->attr, TupleDescAttr(RelationGetDescr(rel), attnum - 1),
		   ATTRIBUTE_FIXED_PART_SIZE);
	return stats->attr->attstattarget != 0;
}
#define cmek_restrict_search_path() ((void) 0)
#endif
#if PG_VERSION_NUM >= 180000
#define cmek_update_index_stats(index, pages, tuples) \
	vac_update_relstats(index, pages, tuples, 0, 0, false, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, true)
#else
#define cmek_update_index_stats(index, pages, tuples) \
	vac_update_relstats(index, pages, tuples, 0, false, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, true)
#endif
#if PG_VERSION_NUM >= 180000
#define CMEK_ATTRIBUTE_IS_VIRTUAL(attr) \
	((attr)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define CMEK_ATTRIBUTE_IS_VIRTUAL(attr) (false)
#endif

#endif							/* CMEK_COMPAT_H */
