/*-------------------------------------------------------------------------
 *
 * serve.c
 *	  Sealed statistics in the planner, by its own hooks.
 *
 * Rows are opened once and kept in this process: as long as the relation cache
 * has no news of the relation, and as long as the keys are there.  Every look
 * compares the generation of the keys first.  What is thrown away is cleansed
 * at the end of the transaction, for a plan in the making may hold it.
 *
 * Nothing here is an ERROR: without a key there are no statistics.  Whether
 * the caller may see values is decided as core decides it for pg_statistic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/sysattr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_statistic.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/selfuncs.h"

#include "clock.h"
#include "stats/internal.h"

/* How long a key that was away is not asked for again, by us */
#define RETRY_MS 1000

/* The statistics of one column, or that there are none */
typedef struct Column
{
	AttrNumber	attnum;
	bool		inherited;
	HeapTuple	row;			/* NULL: none */
	int			nrings;
	CmekKeyRing **rings;		/* that opened it */
} Column;

/* What is known of one relation */
typedef struct Served
{
	Oid			relid;			/* hash key */
	uint64		invalidations;
	bool		valid;
	bool		any;			/* it has sealed statistics */
	CmekInstant retry;			/* its keys were away: not before then */
	int			ncolumns;
	int			room;
	Column	   *columns;
} Served;

static HTAB *served = NULL;
static List *discarded = NIL;	/* rows, till the end of the transaction */
static MemoryContext context = NULL;

static get_relation_stats_hook_type previous_relation = NULL;
static get_index_stats_hook_type previous_index = NULL;
static get_attavgwidth_hook_type previous_width = NULL;

/* Throw away the columns of a relation */
static void
discard_columns(Served *entry)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < entry->ncolumns; i++)
	{
		Column	   *column = &entry->columns[i];

		if (column->row != NULL)
			discarded = lappend(discarded, column->row);
		if (column->rings != NULL)
			pfree(column->rings);
	}
	entry->ncolumns = 0;
	MemoryContextSwitchTo(old);
}

/* A relation, or with InvalidOid any, has news */
static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Served	   *entry;

	if (served == NULL)
		return;
	if (OidIsValid(relid))
	{
		entry = hash_search(served, &relid, HASH_FIND, NULL);
		if (entry != NULL)
		{
			entry->valid = false;
			entry->invalidations++;
		}
		return;
	}
	hash_seq_init(&status, served);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		entry->valid = false;
		entry->invalidations++;
	}
}

/* Were the keys of a column taken away? */
static bool
keys_are_good(const Column *column)
{
	for (int i = 0; i < column->nrings; i++)
		if (!cmek_keyring_is_good(column->rings[i]))
			return false;
	return true;
}

/* Free what was thrown away */
static void
free_discarded(void)
{
	ListCell   *lc;

	foreach(lc, discarded)
	{
		HeapTuple	row = lfirst(lc);

		cmek_cleanse(row->t_data, row->t_len);
		pfree(row);
	}
	list_free(discarded);
	discarded = NIL;
}

/*
 * Key rings were emptied at the end of a transaction: what their keys opened
 * goes, too
 */
static void
rings_swept(void)
{
	HASH_SEQ_STATUS status;
	Served	   *entry;

	if (served == NULL)
		return;
	hash_seq_init(&status, served);
	while ((entry = hash_seq_search(&status)) != NULL)
		for (int i = 0; i < entry->ncolumns; i++)
			if (!keys_are_good(&entry->columns[i]))
			{
				discard_columns(entry);
				break;
			}
	free_discarded();
}

/* End of a transaction: nobody holds a row any more */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE || event == XACT_EVENT_PARALLEL_COMMIT ||
		event == XACT_EVENT_PARALLEL_ABORT)
		free_discarded();
}

/* The entry of a relation, as it is now */
static Served *
find_entry(Oid relid)
{
	bool		found;
	Served	   *entry;
	uint64		before;

	if (served == NULL)
	{
		HASHCTL		ctl = {0};

		context = AllocSetContextCreate(TopMemoryContext,
										"cmek served statistics",
										ALLOCSET_DEFAULT_SIZES);
		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(Served);
		ctl.hcxt = context;
		served = hash_create("cmek served statistics", 64, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(served, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) entry + sizeof(Oid), 0, sizeof(Served) - sizeof(Oid));
	if (likely(entry->valid))
		return entry;
	discard_columns(entry);
	entry->retry = 0;
	before = entry->invalidations;
	entry->any = stats_any(relid);
	entry->valid = entry->invalidations == before;
	return entry;
}

/* A place for a column */
static Column *
add_column(Served *entry, const StatsName *name)
{
	Column	   *column;

	if (entry->ncolumns == entry->room)
	{
		int			room = Max(entry->room * 2, 4);
		Column	   *columns = MemoryContextAlloc(context, room * sizeof(Column));

		if (entry->ncolumns > 0)
			memcpy(columns, entry->columns, entry->ncolumns * sizeof(Column));
		if (entry->columns != NULL)
			pfree(entry->columns);
		entry->columns = columns;
		entry->room = room;
	}
	column = &entry->columns[entry->ncolumns++];
	memset(column, 0, sizeof(Column));
	column->attnum = name->attnum;
	column->inherited = name->inherited;
	return column;
}

/* Put an opened row into the cache, in its memory */
static void
keep_row(Served *entry, const StatsSealed *sealed, CmekKeyRing **rings,
		 HeapTuple kept)
{
	Column	   *column = add_column(entry, &sealed->name);
	Size		size = sizeof(CmekKeyRing *) * sealed->ntables;

	column->row = kept;
	column->rings = memcpy(MemoryContextAlloc(context, size), rings, size);
	column->nrings = sealed->ntables;
}

/* Open what was found; part of load_column */
typedef struct Opening
{
	Served	   *entry;
	uint64		before;			/* invalidations */
	StatsSealed sealed;
	HeapTuple	row;
} Opening;

static void
open_column(void *arg)
{
	Opening    *opening = arg;
	StatsSealed *sealed = &opening->sealed;
	HeapTuple	opened = stats_open(sealed);
	CmekKeyRing **rings = palloc(sizeof(CmekKeyRing *) * sealed->ntables);
	MemoryContext old;

	/* all that can fail comes before the copy that nobody else would free */
	for (int i = 0; i < sealed->ntables; i++)
		rings[i] = stats_ring(sealed->tables[i]);
	old = MemoryContextSwitchTo(context);
	if (opened != NULL)
	{
		opening->row = heap_copytuple(opened);
		cmek_cleanse(opened->t_data, opened->t_len);
	}
	/* news may have come meanwhile: then it is good for this plan only */
	if (opening->entry->invalidations == opening->before)
		keep_row(opening->entry, sealed, rings, opening->row);
	else if (opening->row != NULL)
		discarded = lappend(discarded, opening->row);
	MemoryContextSwitchTo(old);
}

/* Open the statistics of a column, if the keys are there */
static HeapTuple
try_open(Opening *opening)
{
	Served	   *entry = opening->entry;

	/* where no subtransaction can be begun, the keys cannot be asked for */
	if (IsInParallelMode() || IsParallelWorker() ||
		!stats_have_keys(&opening->sealed))
		return NULL;
	if (cmek_key_try(open_column, opening))
		return opening->row;
	entry->retry = cmek_instant_in(RETRY_MS);
	return NULL;
}

/* Read and open the statistics of a column; NULL when there are none for us */
static HeapTuple
load_column(Served *entry, const StatsName *name)
{
	Opening		opening = {.entry = entry, .before = entry->invalidations};
	MemoryContext scratch;
	MemoryContext old;
	HeapTuple	row = NULL;

	if (entry->retry != 0 && cmek_now() < entry->retry)
		return NULL;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "cmek statistics row",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(scratch);
	if (stats_find(name, &opening.sealed))
		row = try_open(&opening);
	else if (entry->invalidations == opening.before)
		(void) add_column(entry, name);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	return row;
}

/* The statistics of a column; NULL when there are none for us */
static HeapTuple
find_row(Oid relid, AttrNumber attnum, bool inherited)
{
	StatsName	name = {relid, attnum, inherited};
	Served	   *entry;

	if (relid < FirstNormalObjectId || attnum <= 0)
		return NULL;
	entry = find_entry(relid);
	if (!entry->any)
		return NULL;
	for (int i = 0; i < entry->ncolumns; i++)
	{
		Column	   *column = &entry->columns[i];

		if (column->attnum != attnum || column->inherited != inherited)
			continue;
		if (likely(keys_are_good(column)))
			return column->row;
		discard_columns(entry);
	}
	return load_column(entry, &name);
}

/* The columns of a parent that columns of a child are; false: some are not */
static bool
columns_of_parent(const AppendRelInfo *child, AttrNumber *attnum)
{
	if (*attnum == InvalidAttrNumber)
		return true;
	if (*attnum > child->num_child_cols)
		return false;
	*attnum = child->parent_colnos[*attnum - 1];
	return *attnum != 0;
}

/*
 * May the user of a query read all rows of a table, all columns (0) or just
 * this one?  Asked of the table that the query names, for its children have no
 * permissions and no policies of their own there.
 */
static bool
may_read_all(PlannerInfo *root, Index varno, AttrNumber attnum)
{
	RangeTblEntry *rte;
	RelOptInfo *rel;
	Oid			user;

	while (root->append_rel_array != NULL &&
		   root->append_rel_array[varno] != NULL)
	{
		AppendRelInfo *child = root->append_rel_array[varno];

		if (root->simple_rte_array[child->parent_relid]->rtekind != RTE_RELATION)
			break;
		if (!columns_of_parent(child, &attnum))
			return false;
		varno = child->parent_relid;
	}
	rte = root->simple_rte_array[varno];
	rel = root->simple_rel_array[varno];
	if (rel == NULL || rte->securityQuals != NIL)
		return false;
	user = OidIsValid(rel->userid) ? rel->userid : GetUserId();
	return pg_class_aclcheck(rte->relid, user, ACL_SELECT) == ACLCHECK_OK ||
		(attnum != 0 &&
		 pg_attribute_aclcheck(rte->relid, attnum, user, ACL_SELECT) == ACLCHECK_OK);
}

/* Rows are the cache's */
static void
release_row(HeapTuple row)
{
}

/* The number of a range table entry */
static Index
find_varno(PlannerInfo *root, const RangeTblEntry *rte)
{
	for (int i = 1; i < root->simple_rel_array_size; i++)
		if (root->simple_rte_array[i] == rte)
			return i;
	return 0;
}

/* The planner asks for the statistics of a column */
static bool
relation_stats(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attnum,
			   VariableStatData *vardata)
{
	HeapTuple	row;
	Index		varno;

	if (previous_relation && previous_relation(root, rte, attnum, vardata))
		return true;
	if (rte->rtekind != RTE_RELATION)
		return false;
	row = find_row(rte->relid, attnum, rte->inh);
	if (row == NULL)
		return false;
	vardata->statsTuple = row;
	vardata->freefunc = release_row;
	/* the estimate of an index's cost shows no value to any function */
	varno = vardata->rel != NULL ? find_varno(root, rte) : 0;
	vardata->acl_ok = varno != 0 && may_read_all(root, varno, attnum);
	return true;
}

/* The index of a relation in the planner */
static IndexOptInfo *
find_index(const RelOptInfo *rel, Oid indexid)
{
	ListCell   *lc;

	foreach(lc, rel->indexlist)
		if (((IndexOptInfo *) lfirst(lc))->indexoid == indexid)
			return lfirst(lc);
	return NULL;
}

/* ... of an index expression; those of a partial index tell of its rows only */
static bool
index_stats(PlannerInfo *root, Oid indexid, AttrNumber attnum,
			VariableStatData *vardata)
{
	HeapTuple	row;

	if (previous_index && previous_index(root, indexid, attnum, vardata))
		return true;
	if (vardata->rel != NULL)
	{
		IndexOptInfo *index = find_index(vardata->rel, indexid);

		if (index == NULL || index->indpred != NIL)
			return false;
	}
	row = find_row(indexid, attnum, false);
	if (row == NULL)
		return false;
	vardata->statsTuple = row;
	vardata->freefunc = release_row;
	vardata->acl_ok = vardata->rel != NULL &&
		may_read_all(root, vardata->rel->relid, 0);
	return true;
}

/* ... for the average width of a column */
static int32
column_width(Oid relid, AttrNumber attnum)
{
	int32		width = previous_width ? previous_width(relid, attnum) : 0;
	HeapTuple	row;

	if (width > 0)
		return width;
	row = find_row(relid, attnum, false);
	return row != NULL ? ((Form_pg_statistic) GETSTRUCT(row))->stawidth : 0;
}

/* Install the hooks */
void
stats_serve_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	RegisterXactCallback(at_xact_end, NULL);
	cmek_rings_swept = rings_swept;
	previous_relation = get_relation_stats_hook;
	get_relation_stats_hook = relation_stats;
	previous_index = get_index_stats_hook;
	get_index_stats_hook = index_stats;
	previous_width = get_attavgwidth_hook;
	get_attavgwidth_hook = column_width;
}
