/*-------------------------------------------------------------------------
 *
 * cost.c
 *	  What the planner thinks a scan of a sealed b-tree costs.
 *
 * nbtree's own estimate, of the pages that there are: a sealed entry is longer
 * than a plain one, equal ones are not merged, and nothing is taken off for
 * that (README.md: it would choose the slower plan).  But before 19 core takes
 * the metapage, which no scan reads, for one of the pages of which a scan reads
 * its share.  Where an index has a handful of pages, one more or less is
 * another plan.
 *
 * It stays counted for an index with one page of entries, which is no larger
 * than a plain one, so that such tables keep the plans of plain tables; and for
 * a scan of more than a third of the entries: an index-only scan opens them,
 * which core does not know of, and which takes longer than the page.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pathnodes.h"
#include "utils/index_selfuncs.h"

#include "btree/internal.h"

#ifdef CMEK_CORE_COUNTS_METAPAGE

/* the metapage and two pages of entries; where a page is 3% of all */
#define BT_FEW_PAGES_MIN 3
#define BT_FEW_PAGES_MAX 32
/* a scan of part of an index; more than core's guess for "less than" */
#define BT_PART 0.35

/* nbtree's estimate, of small parts of small indexes without their metapage */
static void
bt_costestimate(PlannerInfo *root, IndexPath *path, double loop_count,
				Cost *startup, Cost *total, Selectivity *selectivity,
				double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	BlockNumber all = index->pages;

	btcostestimate(root, path, loop_count, startup, total, selectivity,
				   correlation, pages);
	if (all < BT_FEW_PAGES_MIN || all > BT_FEW_PAGES_MAX ||
		*selectivity > BT_PART)
		return;
	/* an error ends the planning that "index" is for */
	index->pages = all - 1;
	btcostestimate(root, path, loop_count, startup, total, selectivity,
				   correlation, pages);
	index->pages = all;
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
