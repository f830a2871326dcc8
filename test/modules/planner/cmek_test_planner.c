/*-------------------------------------------------------------------------
 *
 * cmek_test_planner.c
 *	  The planner's hooks for statistics, as another extension has them.
 *
 * Each of them says that it was asked.  The one for columns has none for a
 * column of a table whose name is in cmek_test_planner.knows_nothing_of, and
 * lets nobody else have any; of all others it knows nothing itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "nodes/pathnodes.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static char *knows_nothing_of = NULL;

static get_relation_stats_hook_type previous_relation = NULL;
static get_index_stats_hook_type previous_index = NULL;
static get_attavgwidth_hook_type previous_width = NULL;

/* The statistics of a column. */
static bool
relation_stats(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attnum,
			   VariableStatData *vardata)
{
	const char *name = rte->rtekind == RTE_RELATION ? get_rel_name(rte->relid) : NULL;

	if (name != NULL)
		ereport(NOTICE, (errmsg("asked for column %d of %s", attnum, name)));
	if (name != NULL && strcmp(name, knows_nothing_of) == 0)
	{
		vardata->statsTuple = NULL;
		return true;
	}
	return previous_relation != NULL &&
		previous_relation(root, rte, attnum, vardata);
}

/* The statistics of an index's expression. */
static bool
index_stats(PlannerInfo *root, Oid indexid, AttrNumber attnum,
			VariableStatData *vardata)
{
	ereport(NOTICE, (errmsg("asked for column %d of %s", attnum, get_rel_name(indexid))));
	return previous_index != NULL &&
		previous_index(root, indexid, attnum, vardata);
}

/* The average width of a column: 4711 bytes where nobody knows anything. */
static int32
width(Oid relid, AttrNumber attnum)
{
	const char *name = get_rel_name(relid);

	if (name != NULL && strcmp(name, knows_nothing_of) == 0)
		return 4711;
	return previous_width != NULL ? previous_width(relid, attnum) : 0;
}

/* Hooks and the setting. */
void
_PG_init(void)
{
	DefineCustomStringVariable("cmek_test_planner.knows_nothing_of",
							   "The table of which there are no statistics.",
							   NULL, &knows_nothing_of, "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	previous_relation = get_relation_stats_hook;
	get_relation_stats_hook = relation_stats;
	previous_index = get_index_stats_hook;
	get_index_stats_hook = index_stats;
	previous_width = get_attavgwidth_hook;
	get_attavgwidth_hook = width;
}
