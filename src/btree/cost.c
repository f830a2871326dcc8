/*-------------------------------------------------------------------------
 *
 * cost.c
 *	  What the planner thinks a scan of a sealed b-tree costs.
 *
 * nbtree's own estimate, of the pages that there are: a sealed entry is longer
 * than a plain one, equal ones are not merged, and nothing is taken off for
 * that (README.md: it would choose the slower plan).  Before 19 core counts the
 * metapage among the pages of which a scan reads its share, which no scan reads;
 * where an index has a handful of pages, one more or less is another plan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pathnodes.h"
#include "utils/index_selfuncs.h"

#include "btree/internal.h"

#ifdef CMEK_CORE_COUNTS_METAPAGE

/* nbtree's estimate, for an index without its metapage */
static void
bt_costestimate(PlannerInfo *root, IndexPath *path, double loop_count,
				Cost *startup, Cost *total, Selectivity *selectivity,
				double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	BlockNumber all = index->pages;

	PG_TRY();
	{
		if (all > 1)
			index->pages = all - 1;
		btcostestimate(root, path, loop_count, startup, total, selectivity,
					   correlation, pages);
	}
	PG_FINALLY();
	{
		index->pages = all;
	}
	PG_END_TRY();
}

#endif

/* Put our function into the routine */
void
bt_cost_set_callback(IndexAmRoutine *am)
{
#ifdef CMEK_CORE_COUNTS_METAPAGE
	am->amcostestimate = bt_costestimate;
#else
	(void) am;
#endif
}
