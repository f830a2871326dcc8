/*-------------------------------------------------------------------------
 *
 * heap.h
 *	  The sealed heap, as the other folders see it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_HEAP_H
#define CMEK_HEAP_H

#include "access/tableam.h"
#include "utils/rel.h"

/* Our routine: rel->rd_tableam == cmek_heap_routine() for a sealed table */
extern const TableAmRoutine *cmek_heap_routine(void);

static inline bool
cmek_relation_is_sealed(Relation rel)
{
	return rel->rd_tableam == cmek_heap_routine();
}

/* OID of access method cmek_heap, InvalidOid when there is no extension */
extern Oid	cmek_heap_am_oid(void);

/*
 * What btree/ tells us of its indexes; set when the library is loaded.  A
 * verification calls "report" for each problem; tid may be NULL.
 */
typedef void (*CmekVerifyReport) (void *state, ItemPointer tid,
								  const char *problem);

extern PGDLLIMPORT bool (*cmek_index_is_sealed) (Relation index);
extern PGDLLIMPORT void (*cmek_verify_index) (Relation heap, Relation index,
											  CmekVerifyReport report,
											  void *state);

/* Settings */
extern PGDLLIMPORT bool cmek_plaintext_statistics;
extern PGDLLIMPORT bool cmek_allow_logical_decoding;

/*
 * What stats/ does with the rows that ANALYZE meets while none is handed to
 * core; set when the library is loaded.  "row" is called with the row's buffer
 * locked: it may copy, and nothing else.
 */
typedef struct CmekAnalyzeHooks
{
	void		(*begin) (Relation rel);
	void		(*row) (HeapTuple sealed, double liverows);
	void		(*end) (Relation rel);
	/* ANALYZE hands rows to core: what was sealed is of yesterday */
	void		(*forget) (Relation rel);
	/* rewrite what is sealed by old data keys of a table, which go */
	void		(*reseal) (Oid relid);
} CmekAnalyzeHooks;

extern PGDLLIMPORT const CmekAnalyzeHooks *cmek_analyze_hooks;

/*
 * How btree/ sorts rows as one of its indexes does, with nothing in clear
 * outside memory; set when the library is loaded.  "begin" gives NULL for a
 * table that can have no row; "get" gives a copy.
 */
typedef struct CmekClusterSort CmekClusterSort;

typedef struct CmekClusterHooks
{
	CmekClusterSort *(*begin) (Relation heap, Relation index);
	void		(*put) (CmekClusterSort *sort, HeapTuple sealed,
						HeapTuple logical);
	void		(*perform) (CmekClusterSort *sort);
	HeapTuple	(*get) (CmekClusterSort *sort);
	void		(*end) (CmekClusterSort *sort);
} CmekClusterHooks;

extern PGDLLIMPORT const CmekClusterHooks *cmek_cluster_hooks;

/* The logical row of a sealed one, palloc'd; NULL when it does not open */
extern HeapTuple cmek_heap_try_open(Relation rel, HeapTuple sealed);

/* All that a relation is a partition or an inheritance child of */
extern List *cmek_heap_ancestors(Oid relid);

/*
 * Remove planner statistics of a table that is sealed, or about to be, and of
 * its ancestors; was there one of the table's own?
 */
extern bool cmek_heap_forget_statistics(Oid relid);

/* Called once by _PG_init */
extern void cmek_heap_init(void);

#endif							/* CMEK_HEAP_H */
