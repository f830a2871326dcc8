/*-------------------------------------------------------------------------
 *
 * shadow.c
 *	  Relations that look to stock heap like a plain table of opaque rows.
 *
 * heap_insert and its kin look at the descriptor, the relkind, the set of
 * indexed columns and the TOAST table of the relation they are given.  A
 * shadow is a copy of the relcache entry in which these are ours; whatever
 * heap does to the storage, to locks and to statistics is done to the real
 * table, because the identity, the file handle and the statistics entry are.
 *
 * Short shadows live on the stack for one call.  Long ones have scans opened
 * on them; those scans are closed by resource owners and portals after our
 * own code has been left by an error, so long shadows come from a pool that is
 * never freed and are returned at the end of the (sub)transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "pgstat.h"
#include "storage/smgr.h"
#include "utils/memutils.h"

#include "heap/internal.h"

struct LongShadow
{
	RelationData rel;
	FormData_pg_class form;
	bool		in_use;
	SubTransactionId subid;
	void	   *options;		/* copy of rd_options */
	struct LongShadow *next;
};

static LongShadow *long_shadows = NULL;

/* "The whole row", as HeapDetermineColumnsInfo understands it: changed */
static Bitmapset *whole_row = NULL;

/*
 * Copy a relcache entry and take out of it what must not be shared or must
 * not be seen.  relkind 't' keeps heap from toasting; unlike 'f', it still has
 * storage of a known size.  Opaque rows have no attributes.
 */
static void
shadow_copy(Relation shadow, Form_pg_class form, Relation rel, bool opaque)
{
	/* links the statistics entry to the real relation, not to the copy */
	(void) pgstat_should_count_relation(rel);

	memcpy(shadow, rel, sizeof(RelationData));
	memcpy(form, rel->rd_rel, CLASS_TUPLE_SIZE);
	shadow->rd_rel = form;
	shadow->rd_tableam = cmek_stock_heap;
	shadow->pgstat_enabled = false;
	shadow->rd_pdcxt = shadow->rd_pddcxt = NULL;
	shadow->rd_amcache = NULL;
	shadow->rd_toastoid = InvalidOid;
	CMEK_CLEAR_INDEX_ATTRS(shadow);

	form->relhasindex = false;
	form->relreplident = REPLICA_IDENTITY_NOTHING;
	form->relkind = RELKIND_TOASTVALUE;
	form->reltoastrelid = InvalidOid;
	if (opaque)
		shadow->rd_att = cmek_sealed_desc;
}

/*
 * A shadow for heap_insert, heap_update and heap_delete.  "change" says which
 * sets of indexed columns an UPDATE changes; NULL is none.  Good until the
 * caller returns.
 */
Relation
shadow_short(ShortShadow *shadow, Relation rel, const ColumnChange *change)
{
	SMgrRelation smgr = RelationGetSmgr(rel);

	shadow_copy(&shadow->rel, &shadow->form, rel, true);
	shadow->rel.rd_smgr = smgr; /* borrowed: the real relation owns it */
	if (change)
	{
		if (change->hot_blocking)
			CMEK_SET_HOT_BLOCKING(&shadow->rel, whole_row);
		if (change->summarized)
			CMEK_SET_SUMMARIZED(&shadow->rel, whole_row);
		if (change->key)
			shadow->rel.rd_keyattr = whole_row;
	}
	return &shadow->rel;
}

/* An unused long shadow */
static LongShadow *
shadow_pool_get(void)
{
	LongShadow *shadow;

	for (shadow = long_shadows; shadow != NULL; shadow = shadow->next)
		if (!shadow->in_use)
			return shadow;
	shadow = MemoryContextAllocZero(TopMemoryContext, sizeof(LongShadow));
	shadow->next = long_shadows;
	long_shadows = shadow;
	return shadow;
}

/*
 * A shadow that scans may be opened on; end it with shadow_long_end after the
 * last of them.  Rows are opaque, unless they are those of a TOAST table.
 */
LongShadow *
shadow_long_begin(Relation rel, bool opaque)
{
	LongShadow *shadow = shadow_pool_get();

	if (rel->rd_options)
	{
		Size		size = VARSIZE(rel->rd_options);

		shadow->options = MemoryContextAlloc(TopMemoryContext, size);
		memcpy(shadow->options, rel->rd_options, size);
	}
	shadow_copy(&shadow->rel, &shadow->form, rel, opaque);
	shadow->rel.rd_smgr = NULL; /* opens and owns a handle of its own */
	shadow->rel.rd_refcnt = 0;
	shadow->rel.rd_options = shadow->options;
	shadow->subid = GetCurrentSubTransactionId();
	shadow->in_use = true;
	return shadow;
}

Relation
shadow_long_relation(LongShadow *shadow)
{
	return &shadow->rel;
}

void
shadow_long_end(LongShadow *shadow)
{
	RelationCloseSmgr(&shadow->rel);
	if (shadow->options)
		pfree(shadow->options);
	shadow->options = NULL;
	shadow->rel.rd_options = NULL;
	shadow->rel.pgstat_info = NULL;
	shadow->in_use = false;
}

/* Return what an error left behind */
static void
shadow_xact_callback(XactEvent event, void *arg)
{
	LongShadow *shadow;

	if (event != XACT_EVENT_ABORT && event != XACT_EVENT_PARALLEL_ABORT)
		return;
	for (shadow = long_shadows; shadow != NULL; shadow = shadow->next)
		if (shadow->in_use)
			shadow_long_end(shadow);
}

static void
shadow_subxact_callback(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	LongShadow *shadow;

	for (shadow = long_shadows; shadow != NULL; shadow = shadow->next)
	{
		if (!shadow->in_use || shadow->subid != subid)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			shadow_long_end(shadow);
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			shadow->subid = parent;
	}
}

void
shadow_init(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	whole_row = bms_make_singleton(0 - FirstLowInvalidHeapAttributeNumber);
	MemoryContextSwitchTo(old);
	RegisterXactCallback(shadow_xact_callback, NULL);
	RegisterSubXactCallback(shadow_subxact_callback, NULL);
}
