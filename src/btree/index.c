/*-------------------------------------------------------------------------
 *
 * index.c
 *	  Sealed indexes of this backend: their shadows and their keys.
 *
 * A shadow is a copy of the index's relcache entry whose columns are of type
 * cmek.sealed, with a real btree operator class; it is what nbtree is given.
 * It keeps its address, for scans point to it, and owns its file handle, its
 * copy of the metapage and its options; whatever else is volatile is copied
 * anew on every entry.
 *
 * Every entry passes the gate: the key is there before nbtree is entered, and
 * its generation is checked.  Below, nothing waits for a key or a catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_type.h"
#include "pgstat.h"
#include "storage/smgr.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "btree/internal.h"

/* How many indexes are remembered beyond those in use */
#define MAX_REMEMBERED 1024

typedef struct IndexEntry
{
	Oid			relid;			/* hash key */
	BtIndex    *index;
} IndexEntry;

static HTAB *indexes = NULL;

/* Some of them, where a statement finds them by their OID alone */
#define RECENT 64
static BtIndex *recent[RECENT];

static uint64 this_xact = 1;

/* Definitions that changed while a scan may use them, till the transaction ends */
static List *retired = NIL;

/* Forget what the shadow knows of the file */
static void
shadow_forget_file(BtIndex *index)
{
	RelationCloseSmgr(&index->shadow);
	if (index->shadow.rd_amcache)
		pfree(index->shadow.rd_amcache);
	index->shadow.rd_amcache = NULL;
}

/* A relation changed */
static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	IndexEntry *entry;

	if (indexes == NULL)
		return;
	if (OidIsValid(relid))
	{
		entry = hash_search(indexes, &relid, HASH_FIND, NULL);
		if (entry != NULL)
		{
			shadow_forget_file(entry->index);
			entry->index->check = true;
		}
		return;
	}
	hash_seq_init(&status, indexes);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		shadow_forget_file(entry->index);
		entry->index->check = true;
	}
}

/* The place of an index among the recent ones; another may have it */
static inline BtIndex **
index_recent(Oid relid)
{
	return &recent[relid % RECENT];
}

/* Have an index found no more by its OID alone */
static void
index_unlink(BtIndex *index)
{
	if (*index_recent(index->relid) == index)
		*index_recent(index->relid) = NULL;
}

/* Free an index that no scan can use any more */
static void
index_free(BtIndex *index)
{
	index_unlink(index);
	shadow_forget_file(index);
	MemoryContextDelete(index->context);
}

/*
 * What nbtree was doing for us when a subtransaction began: in a build, whose
 * sorts hold no lock of a page, a function may catch errors of its own.  Under
 * such a lock nobody may, as in stock nbtree: the lock is gone with the error.
 */
typedef struct SavedActivity
{
	SubTransactionId subxact;
	BtActivity *activity;
	struct SavedActivity *outer;
} SavedActivity;

static SavedActivity *saved = NULL;

/* Remember what goes on at the start of a subtransaction, if anything does */
static void
save_activity(SubTransactionId subxact)
{
	SavedActivity *s;

	if (likely(bt_activity == NULL))
		return;
	s = MemoryContextAlloc(TopTransactionContext, sizeof(SavedActivity));
	s->subxact = subxact;
	s->activity = bt_activity;
	s->outer = saved;
	saved = s;
}

/* End of a transaction */
static void
at_xact_end(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE && event != XACT_EVENT_PARALLEL_COMMIT &&
		event != XACT_EVENT_PARALLEL_ABORT)
		return;
	this_xact++;
	bt_activity = NULL;
	saved = NULL;
	foreach(lc, retired)
		index_free(lfirst(lc));
	list_free(retired);
	retired = NIL;
}

/* An error leaves the entry points of a subtransaction without their knowing */
static void
at_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
		   void *arg)
{
	SavedActivity *s = saved != NULL && saved->subxact == mine ? saved : NULL;

	if (event == SUBXACT_EVENT_START_SUB)
		save_activity(mine);
	if (event == SUBXACT_EVENT_ABORT_SUB)
		bt_activity = s != NULL ? s->activity : NULL;
	if (s != NULL && (event == SUBXACT_EVENT_ABORT_SUB ||
					  event == SUBXACT_EVENT_COMMIT_SUB))
	{
		saved = s->outer;
		pfree(s);
	}
}

/* Register callbacks; called once by cmek_btree_init */
void
bt_index_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact, NULL);
}

/* Forget indexes that this transaction does not use */
static void
forget_some(void)
{
	HASH_SEQ_STATUS status;
	IndexEntry *entry;

	if (hash_get_num_entries(indexes) < MAX_REMEMBERED)
		return;
	hash_seq_init(&status, indexes);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (entry->index->last_xact != this_xact)
		{
			index_free(entry->index);
			hash_search(indexes, &entry->relid, HASH_REMOVE, NULL);
		}
}

/* The operator family of cmek.sealed, and the type */
static void
find_sealed_type(BtIndex *index)
{
	Oid			namespace = get_namespace_oid("cmek", false);
	Oid			opclass = GetSysCacheOid3(CLAAMNAMENSP, Anum_pg_opclass_oid,
										  ObjectIdGetDatum(BTREE_AM_OID),
										  CStringGetDatum("sealed_ops"),
										  ObjectIdGetDatum(namespace));

	if (!OidIsValid(opclass))
		elog(ERROR, "operator class cmek.sealed_ops does not exist");
	index->opfamily = get_opclass_family(opclass);
	index->sealed_type = get_opclass_input_type(opclass);
}

/* The functions behind the operators of cmek.sealed */
static void
find_operators(BtIndex *index)
{
	for (int i = 1; i <= BTMaxStrategyNumber; i++)
	{
		Oid			operator = get_opfamily_member(index->opfamily,
												   index->sealed_type,
												   index->sealed_type, i);

		fmgr_info_cxt(get_opcode(operator), &index->operators[i],
					  index->context);
	}
}

/* What the relcache would know of an index on cmek.sealed */
static void
shadow_make_support(BtIndex *index)
{
	Relation	shadow = &index->shadow;
	int			n = index->natts;
	Oid			proc = get_opfamily_proc(index->opfamily, index->sealed_type,
										 index->sealed_type, BTORDER_PROC);

	shadow->rd_opfamily = palloc(n * sizeof(Oid));
	shadow->rd_opcintype = palloc(n * sizeof(Oid));
	shadow->rd_indcollation = palloc0(n * sizeof(Oid));
	shadow->rd_support = palloc0(n * BTNProcs * sizeof(RegProcedure));
	shadow->rd_supportinfo = palloc0(n * BTNProcs * sizeof(FmgrInfo));
	shadow->rd_opcoptions = palloc0(n * sizeof(bytea *));
	for (int i = 0; i < index->nkeyatts; i++)
	{
		int			at = i * BTNProcs + BTORDER_PROC - 1;

		shadow->rd_opfamily[i] = index->opfamily;
		shadow->rd_opcintype[i] = index->sealed_type;
		shadow->rd_indcollation[i] = BT_SEALED_COLLATION;
		shadow->rd_support[at] = proc;
		fmgr_info_cxt(proc, &shadow->rd_supportinfo[at], index->context);
		shadow->rd_supportinfo[at].fn_expr = (Node *) &index->columns[i];
	}
	index->procs = shadow->rd_supportinfo;
}

/*
 * Describe a column as it is sealed: an array of bytes where its length is
 * fixed, else the varlena that type cmek.sealed is.
 */
void
bt_sealed_attribute(TupleDesc desc, AttrNumber attno, const char *name,
					const BtColumn *column)
{
	Form_pg_attribute att = TupleDescAttr(desc, attno - 1);

	TupleDescInitEntry(desc, attno, name, column->index->sealed_type, -1, 0);
	if (column->sealed_len < 0)
		return;
	att->attlen = column->sealed_len;
	att->attalign = TYPALIGN_CHAR;
	att->attstorage = TYPSTORAGE_PLAIN;
	CMEK_TUPLE_DESC_CHANGED(desc, attno - 1);
}

/* The descriptor: all columns sealed */
static void
shadow_make_desc(BtIndex *index, Relation real)
{
	TupleDesc	desc = CreateTemplateTupleDesc(index->natts);

	for (int i = 0; i < index->natts; i++)
		bt_sealed_attribute(desc, i + 1,
							NameStr(TupleDescAttr(RelationGetDescr(real), i)->attname),
							&index->columns[i]);
	CMEK_TUPLE_DESC_FINALIZE(desc);
	desc->tdrefcount = -1;
	index->shadow.rd_att = desc;
}

/* Take an index in */
static BtIndex *
index_make(Relation real)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek sealed index",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	BtIndex    *index = palloc0(sizeof(BtIndex));

	index->relid = RelationGetRelid(real);
	index->context = context;
	index->natts = IndexRelationGetNumberOfAttributes(real);
	index->nkeyatts = IndexRelationGetNumberOfKeyAttributes(real);
	index->table = real->rd_index->indrelid;
	index->temporary = real->rd_rel->relpersistence == RELPERSISTENCE_TEMP;
	find_sealed_type(index);
	find_operators(index);
	index->columns = palloc0(index->natts * sizeof(BtColumn));
	for (int i = 0; i < index->natts; i++)
		bt_column_init(&index->columns[i], index, real, i + 1);
	shadow_make_support(index);
	shadow_make_desc(index, real);
	MemoryContextSwitchTo(old);
	/* nothing failed */
	MemoryContextSetParent(context, CacheMemoryContext);
	return index;
}

/* Does what we know of an index still hold? */
static bool
index_fits(BtIndex *index, Relation real)
{
	if (index->natts != IndexRelationGetNumberOfAttributes(real) ||
		index->nkeyatts != IndexRelationGetNumberOfKeyAttributes(real) ||
		index->table != real->rd_index->indrelid)
		return false;
	for (int i = 0; i < index->natts; i++)
		if (!bt_column_fits(&index->columns[i], real))
			return false;
	index->check = false;
	return true;
}

/* Put a definition aside that scans of this transaction may use */
static void
index_retire(BtIndex *index)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	index_unlink(index);
	retired = lappend(retired, index);
	MemoryContextSwitchTo(old);
}

/* What we know of an index, by way of the hash table */
static pg_noinline BtIndex *
index_look_up(Relation real)
{
	IndexEntry *entry;
	BtIndex    *index;

	if (indexes == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(IndexEntry);
		ctl.hcxt = TopMemoryContext;
		indexes = hash_create("cmek sealed indexes", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(indexes, &real->rd_id, HASH_FIND, NULL);
	if (likely(entry != NULL) &&
		(likely(!entry->index->check) || index_fits(entry->index, real)))
		return entry->index;
	index = index_make(real);
	forget_some();
	entry = hash_search(indexes, &real->rd_id, HASH_FIND, NULL);
	if (entry != NULL)
		index_retire(entry->index);
	else
		entry = hash_search(indexes, &real->rd_id, HASH_ENTER, NULL);
	entry->index = index;
	return index;
}

/* What we know of an index */
static inline BtIndex *
index_find(Relation real)
{
	BtIndex    *index = *index_recent(real->rd_id);

	if (unlikely(index == NULL || index->relid != real->rd_id || index->check))
	{
		index = index_look_up(real);
		*index_recent(real->rd_id) = index;
	}
	return index;
}

/* Copy the options, which the relcache may free at any time */
static bytea *
shadow_options(BtIndex *index, Relation real)
{
	bytea	   *options = real->rd_options ? real->rd_options :
		bt_default_options();
	Size		size = VARSIZE(options);

	if (index->options == NULL || VARSIZE(index->options) != size)
		index->options = MemoryContextAlloc(index->context, size);
	memcpy(index->options, options, size);
	return index->options;
}

/* Bring the shadow up to the real entry, but for what is its own */
static void
shadow_sync(BtIndex *index, Relation real)
{
	RelationData *shadow = &index->shadow;
	RelationData own;

	if (!cmek_same_file(shadow, real))
		shadow_forget_file(index);
	/* links the statistics entry to the real relation, not to the copy */
	(void) pgstat_should_count_relation(real);
	own = *shadow;
	*shadow = *real;
	memcpy(&index->form, real->rd_rel, CLASS_TUPLE_SIZE);
	/* the sort asks for the sort support of a btree only */
	index->form.relam = BTREE_AM_OID;
	shadow->rd_rel = &index->form;
	shadow->rd_smgr = own.rd_smgr;
	shadow->rd_amcache = own.rd_amcache;
	shadow->rd_options = shadow_options(index, real);
	shadow->rd_indexcxt = index->context;
	shadow->rd_att = own.rd_att;
	shadow->rd_opfamily = own.rd_opfamily;
	shadow->rd_opcintype = own.rd_opcintype;
	shadow->rd_indcollation = own.rd_indcollation;
	shadow->rd_support = own.rd_support;
	shadow->rd_supportinfo = own.rd_supportinfo;
	shadow->rd_opcoptions = own.rd_opcoptions;
	shadow->rd_indexprs = NIL;
	shadow->rd_indpred = NIL;
}

/* An index without its key: sizes, the metapage, an empty file */
BtIndex *
bt_enter_keyless(Relation real)
{
	BtIndex    *index = index_find(real);

	index->last_xact = this_xact;
	shadow_sync(index, real);
	return index;
}

/* Fail because an index has no data key */
static void
bt_report_no_key(BtIndex *index)
{
	const char *name = get_rel_name(index->relid);

	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the data key of index \"%s\" is missing", name ? name : "?"),
			 errhint("REINDEX INDEX %s;", name ? name : "...")));
}

/* The DEK of an index, when the ring was read again and has it elsewhere */
CmekDek *
bt_dek_moved(BtIndex *index)
{
	CmekDek    *dek;

	dek = cmek_keyring_peek_index(index->ring, index->relid);
	if (dek == NULL || dek->id != index->dek_id)
		ereport(ERROR,
				(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("the key of index \"%s\" was taken away while it was in use",
						NameStr(index->form.relname))));
	index->position = dek - index->ring->deks;
	return dek;
}

/* Is the key of an index at hand, so that nobody needs to be asked for it? */
static inline bool
index_is_unlocked(BtIndex *index)
{
	return index->ring != NULL && cmek_keyring_is_good(index->ring) &&
		bt_dek_at_position(index) != NULL;
}

/*
 * May the planner look into an index?  It goes on planning without when the key
 * is away, and where asking for it is no option: in a parallel operation no
 * subtransaction can catch the answer.
 */
bool
bt_planner_may_enter(Relation real)
{
	BtIndex    *index = index_find(real);

	if (index->temporary || index_is_unlocked(index))
		return true;
	return !IsInParallelMode() && cmek_table_is_bound(index->table) &&
		cmek_key_is_available(index->table);
}

/* Have the key of an index at hand; false when its table is unbound */
static bool
index_unlock(BtIndex *index)
{
	CmekDek    *dek;

	if (likely(index_is_unlocked(index)))
		return true;
	if (!index->temporary && !cmek_table_is_bound(index->table))
	{
		cmek_require_preload();
		index->ring = NULL;
		return false;
	}
	index->ring = cmek_keyring_acquire_index(index->table, index->temporary);
	dek = cmek_keyring_peek_index(index->ring, index->relid);
	if (dek == NULL)
		bt_report_no_key(index);
	index->position = dek - index->ring->deks;
	index->dek_id = dek->id;
	return true;
}

/*
 * An index with its key at hand.  NULL when its table is unbound, so that there
 * is no entry in it; ERROR when the key is away.
 */
BtIndex *
bt_enter(Relation real)
{
	BtIndex    *index = index_find(real);

	index->last_xact = this_xact;
	if (!index_unlock(index))
		return NULL;
	/* after whatever asking for a key did to the relation cache */
	shadow_sync(index, real);
	return index;
}
