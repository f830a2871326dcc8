/*-------------------------------------------------------------------------
 *
 * stats/internal.h
 *	  What the files of this folder share.  See README.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_STATS_INTERNAL_H
#define CMEK_STATS_INTERNAL_H

#include "access/htup.h"
#include "commands/vacuum.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

#include "compat.h"
#include "format.h"
#include "heap/heap.h"
#include "keys/keys.h"
#include "stats/stats.h"

/* ----------
 * compute.c: which columns, and what is computed of a sample
 * ----------
 */
typedef struct StatsIndex
{
	Oid			indexid;
	int			natts;			/* analyzable expression columns */
	VacAttrStats **atts;
	bool		partial;
	double		rows;			/* -1, or how many a partial one has */
} StatsIndex;

typedef struct StatsPlan
{
	MemoryContext context;		/* the calling code's, of the whole ANALYZE */
	bool		inherited;
	int			natts;
	VacAttrStats **atts;
	int			nindexes;
	StatsIndex *indexes;
	int			target;			/* rows to sample */
} StatsPlan;

/* Plan an ANALYZE; names of columns, or NIL for all.  In the current context */
extern StatsPlan *stats_plan(Relation rel, bool inherited, List *columns);
/* Compute them of plain rows, and store them sealed by the keys of "tables" */
extern void stats_compute(StatsPlan *plan, Relation rel, HeapTuple *rows,
						  int nrows, double totalrows, List *tables);

/* ----------
 * store.c: cmek.statistic
 * ----------
 */
/* Which statistics */
typedef struct StatsName
{
	Oid			relid;			/* a table or an index of it */
	AttrNumber	attnum;
	bool		inherited;
} StatsName;

/* A row, sealed as it is */
typedef struct StatsSealed
{
	StatsName	name;
	int			ntables;		/* whose keys it is sealed by */
	Oid		   *tables;
	bytea	   *bytes;
} StatsSealed;

/* Is there a place to store statistics in this database? */
extern bool stats_store_exists(void);
/* Are there statistics of a relation? */
extern bool stats_any(Oid relid);
/* Find those of a column; false when there are none.  palloc'd */
extern bool stats_find(const StatsName *name, StatsSealed *found);
/* All there are, in the current memory context */
extern List *stats_list(void);
/*
 * Open them: a row of pg_statistic, palloc'd; NULL when they do not open, or
 * are of another server version or of a column that has changed its type.
 * What was replaced since it was read is read again, into "sealed".  KM001
 * when a key is away.
 */
extern HeapTuple stats_open(StatsSealed *sealed);
/* Seal and store a row of pg_statistic; "table" is the one that has the column */
extern void stats_store(const StatsName *name, Oid table, List *tables,
						HeapTuple row);
/* Delete those of a column, or with attnum 0 of all of a relation */
extern void stats_delete(const StatsName *name);
/* Delete the inherited ones of a relation */
extern void stats_delete_inherited(Oid relid);
/* Seal anew what is sealed by keys of a table */
extern void stats_reseal(Oid relid);
/* Have the tables keys, be they away or not? */
extern bool stats_have_keys(const StatsSealed *sealed);
/* The ring of a table for its statistics; ERROR as cmek_keyring_acquire */
extern CmekKeyRing *stats_ring(Oid relid);

/* ----------
 * collect.c, serve.c, follow.c: their hooks
 * ----------
 */
extern void stats_collect_init(void);
extern void stats_serve_init(void);
extern void stats_follow_init(void);

#endif							/* CMEK_STATS_INTERNAL_H */
