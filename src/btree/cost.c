/*-------------------------------------------------------------------------
 *
 * cost.c
 *	  What the planner is told of the cost of a sealed index.
 *
 * Pages are counted as they are, and nbtree's own estimate is right about the
 * way to the entries.  What it cannot know is that an index-only scan opens
 * every column of an entry and forms it anew: measured, that takes some 0.25
 * microseconds for one column and 0.35 for two, where reading a sealed row from
 * its table takes 0.15.  So large index-only scans lose against the table that
 * they win against in a plain index, and the planner has to see that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pathnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/index_selfuncs.h"

#include "btree/internal.h"

/* nbtree's estimate, and the opening of entries that are read as rows */
void
bt_costestimate(PlannerInfo *root, IndexPath *path, double loop_count,
				Cost *startup, Cost *total, Selectivity *selectivity,
				double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;

	btcostestimate(root, path, loop_count, startup, total, selectivity,
				   correlation, pages);
	if (path->path.pathtype == T_IndexOnlyScan)
		*total += *selectivity * index->tuples *
			cpu_tuple_cost * (index->ncolumns + 1);
}
