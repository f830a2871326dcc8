/*-------------------------------------------------------------------------
 *
 * cost.c
 *	  What the planner thinks a scan of a sealed b-tree costs.
 *
 * nbtree's own estimate, of the pages that there are: a sealed entry is longer
 * than a plain one, equal ones are not merged, and nothing is taken off for
 * that (README.md: it would choose the slower plan).  But before 19 core takes
 * the metapage, which no scan reads, for one of the pages of which a scan reads
 * its share, and where an index has a handful of pages, one more or less is
 * another plan.
 *
 * An index with one page of entries is left as core sees it: it is no larger
 * than a plain one, so its table gets the plans of a plain table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pathnodes.h"
#include "utils/index_selfuncs.h"

#include "btree/internal.h"

#ifdef CMEK_CORE_COUNTS_METAPAGE

/* The metapage and one page of entries */
#define BT_MIN_PAGES 2

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
		if (all > BT_MIN_PAGES)
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
