/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  Sealed planner statistics, as the other folders see them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_STATS_H
#define CMEK_STATS_H

#include "postgres.h"

/*
 * Delete the sealed statistics of a table and of its indexes: its keys go.
 * Does nothing where there are none.
 */
extern void cmek_stats_forget(Oid relid);

/*
 * Delete the sealed statistics of all that a table is a partition or a child
 * of: they are sealed for the KMS key that it had.
 */
extern void cmek_stats_forget_ancestors(Oid relid);

/* Hooks; called once by _PG_init, after the heap's */
extern void cmek_stats_init(void);

#endif							/* CMEK_STATS_H */
