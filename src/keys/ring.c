/*-------------------------------------------------------------------------
 *
 * ring.c
 *	  Key rings: the opened data keys of the tables this backend works with.
 *
 * One ring for each table, found by OID, at an address that stays good as long
 * as the process: rd_amcache of open relations points to it.  Plus one ring of
 * random keys for all temporary tables of the backend.
 *
 * A ring is replaced as a whole, after everything that can fail has been
 * done, so an ERROR leaves the old one as it was and nothing behind.  Data
 * keys that both have are taken over.
 *
 * A ring whose lease is lost is emptied and its keys are cleansed when this
 * is noticed: before anything is waited for, and at the end of every
 * transaction.  Rings read from uncommitted rows are marked invalid when the
 * transaction or subtransaction aborts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "keys/internal.h"

/* How often a ring is read again when its rows change meanwhile */
#define RING_READ_ATTEMPTS 3

typedef struct RingEntry
{
	Oid			relid;			/* hash key */
	uint64		invalidations;	/* how often the callback met it */
	bool		aged;			/* a renewal for its age was asked for */
	CmekKeyRing ring;
} RingEntry;

/* Which table a TOAST table belongs to */
typedef struct ToastEntry
{
	Oid			toastid;		/* hash key */
	Oid			owner;
} ToastEntry;

static HTAB *rings = NULL;
static HTAB *toast_owners = NULL;
static CmekKeyRing *temporary_ring = NULL;
void		(*cmek_rings_swept) (void) = NULL;

static uint64 swept_drops = 0;	/* cmek_cache_drops() at the last sweep */

/* Has the table key of a ring been taken away? */
static bool
lease_is_lost(const CmekKeyRing *ring)
{
	return ring->generation != NULL &&
		pg_atomic_read_u64(ring->generation) != ring->leased;
}

/* Free some opened data keys. */
static void
free_deks(CmekDek *deks, int ndeks)
{
	for (int i = 0; i < ndeks; i++)
	{
		if (deks[i].aead != NULL)
			cmek_aead_free(deks[i].aead);
		if (deks[i].permutation != NULL)
			cmek_permutation_free(deks[i].permutation);
	}
	if (deks != NULL)
		pfree(deks);
}

/* Empty a ring, cleansing its data keys. */
static void
empty_ring(CmekKeyRing *ring)
{
	CmekDek    *deks = ring->deks;
	int			ndeks = ring->ndeks;

	ring->valid = false;
	ring->generation = NULL;
	ring->heap = ring->toast = ring->statistics = NULL;
	ring->deks = NULL;
	ring->ndeks = 0;
	free_deks(deks, ndeks);
}

/* Empty all rings whose table key was taken away. */
static void
sweep_rings(void)
{
	HASH_SEQ_STATUS status;
	RingEntry  *entry;
	uint64		drops;

	if (rings == NULL || (drops = cmek_cache_drops()) == swept_drops)
		return;
	swept_drops = drops;
	hash_seq_init(&status, rings);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (lease_is_lost(&entry->ring))
			empty_ring(&entry->ring);
	if (cmek_rings_swept != NULL)
		cmek_rings_swept();
}

/* Mark all rings for reading again. */
static void
invalidate_all(void)
{
	HASH_SEQ_STATUS status;
	RingEntry  *entry;

	if (rings == NULL)
		return;
	hash_seq_init(&status, rings);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		entry->ring.valid = false;
		entry->invalidations++;
	}
}

/* Forget which tables the TOAST tables belong to. */
static void
forget_toast_owners(void)
{
	HASH_SEQ_STATUS status;
	ToastEntry *entry;

	if (toast_owners == NULL)
		return;
	hash_seq_init(&status, toast_owners);
	while ((entry = hash_seq_search(&status)) != NULL)
		hash_search(toast_owners, &entry->toastid, HASH_REMOVE, NULL);
}

/* A relation changed: read its ring again before it is used the next time. */
static void
relcache_callback(Datum arg, Oid relid)
{
	RingEntry  *entry;

	if (relid == InvalidOid)
	{
		invalidate_all();
		forget_toast_owners();
		return;
	}
	entry = rings ? hash_search(rings, &relid, HASH_FIND, NULL) : NULL;
	if (entry != NULL)
	{
		entry->ring.valid = false;
		entry->invalidations++;
	}
	if (toast_owners != NULL)
		hash_search(toast_owners, &relid, HASH_REMOVE, NULL);
}

/* A server or a user mapping changed: its options may lead nowhere now. */
static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_all();
}

/* End of a transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (cmek_catalog_written())
			{
				invalidate_all();
				forget_toast_owners();
			}
			sweep_rings();
			break;
		case XACT_EVENT_COMMIT:
			sweep_rings();
			break;
		default:
			break;
	}
}

/* End of a subtransaction. */
static void
at_subxact_end(SubXactEvent event, SubTransactionId mine,
			   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && cmek_catalog_written())
	{
		invalidate_all();
		forget_toast_owners();
	}
}

/* Register callbacks; called once in each process. */
void
cmek_ring_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, syscache_callback, (Datum) 0);
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact_end, NULL);
}

/* Make a hash of OIDs that lives as long as the process. */
static HTAB *
create_oid_hash(const char *name, Size entrysize)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = entrysize;
	ctl.hcxt = TopMemoryContext;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* The entry of a table, made when there is none. */
static RingEntry *
find_entry(Oid relid)
{
	RingEntry  *entry;
	bool		found;

	if (rings == NULL)
		rings = create_oid_hash("cmek key rings", sizeof(RingEntry));
	entry = hash_search(rings, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->invalidations = 0;
		entry->aged = false;
		memset(&entry->ring, 0, sizeof(CmekKeyRing));
		entry->ring.relid = relid;
	}
	return entry;
}

/* The opened data key that a ring has for a row; NULL when it has none. */
static CmekDek *
find_same_dek(CmekKeyRing *ring, const CmekDataKeyRow *row)
{
	for (int i = 0; i < ring->ndeks; i++)
		if (ring->deks[i].id == row->id && ring->deks[i].kind == row->kind &&
			memcmp(ring->deks[i].structure, row->structure, CMEK_UUID_LEN) == 0)
			return &ring->deks[i];
	return NULL;
}

/* Fill in what a row says, all but the key. */
static void
describe_dek(CmekDek *dek, const CmekDataKeyRow *row)
{
	dek->id = row->id;
	dek->kind = row->kind;
	dek->current = row->current;
	dek->index = row->index;
	dek->hide_tids = row->hide_tids;
	memcpy(dek->structure, row->structure, CMEK_UUID_LEN);
}

/*
 * Open those data keys that the ring does not have yet.  "deks" has room for
 * all of them and stays the caller's, also after an ERROR.
 */
static void
open_new_deks(CmekKeyRing *ring, const CmekBinding *binding,
			  const uint8 *table_key, CmekDek *deks)
{
	CmekAead   *aead = cmek_aead_create(table_key);
	uint8	   *key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);

	PG_TRY();
	{
		for (int i = 0; i < binding->ndeks; i++)
		{
			describe_dek(&deks[i], &binding->deks[i]);
			if (find_same_dek(ring, &binding->deks[i]) != NULL)
				continue;
			cmek_dek_unwrap(&binding->deks[i], &binding->table_key, aead, key);
			deks[i].aead = cmek_aead_create(key);
			if (deks[i].kind == CMEK_STRUCTURE_INDEX)
				deks[i].permutation = cmek_permutation_create(key);
		}
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
}

/* Put new data keys into a ring, in place of the old ones.  Cannot fail. */
static void
replace_deks(CmekKeyRing *ring, const CmekBinding *binding, CmekDek *deks,
			 const CmekLease *lease)
{
	for (int i = 0; i < binding->ndeks; i++)
		if (deks[i].aead == NULL)
		{
			CmekDek    *old = find_same_dek(ring, &binding->deks[i]);

			deks[i].aead = old->aead;
			deks[i].permutation = old->permutation;
			deks[i].seals_left = old->seals_left;
			deks[i].seals_step = old->seals_step;
			old->aead = NULL;
			old->permutation = NULL;
		}
	empty_ring(ring);
	ring->generation = lease->generation;
	ring->leased = lease->value;
	ring->deks = deks;
	ring->ndeks = binding->ndeks;
	for (int i = 0; i < ring->ndeks; i++)
	{
		if (!deks[i].current)
			continue;
		if (deks[i].kind == CMEK_STRUCTURE_HEAP)
			ring->heap = &deks[i];
		else if (deks[i].kind == CMEK_STRUCTURE_TOAST)
			ring->toast = &deks[i];
		else if (deks[i].kind == CMEK_STRUCTURE_STATISTICS)
			ring->statistics = &deks[i];
	}
	ring->valid = true;
}

/* ERROR unless there is just one current data key of each structure. */
static void
check_current_deks(const CmekBinding *binding)
{
	int			heap = 0;
	int			toast = 0;

	for (int i = 0; i < binding->ndeks; i++)
		if (binding->deks[i].current)
		{
			heap += binding->deks[i].kind == CMEK_STRUCTURE_HEAP;
			toast += binding->deks[i].kind == CMEK_STRUCTURE_TOAST;
		}
	if (heap != 1 || toast != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("data keys of table \"%s\" are missing or damaged",
						get_rel_name(binding->table_key.relid)),
				 errdetail("cmek.data_key holds %d current keys for the heap and %d for TOAST, not one of each.",
						   heap, toast)));
}

/* Must be called with the rows and the table key at hand: fill the ring. */
static void
fill_ring(CmekKeyRing *ring, const CmekBinding *binding,
		  const uint8 *table_key, const CmekLease *lease)
{
	CmekDek    *deks = MemoryContextAllocZero(TopMemoryContext,
											  Max(binding->ndeks, 1) * sizeof(CmekDek));

	PG_TRY();
	{
		check_current_deks(binding);
		open_new_deks(ring, binding, table_key, deks);
	}
	PG_CATCH();
	{
		free_deks(deks, binding->ndeks);
		PG_RE_THROW();
	}
	PG_END_TRY();
	replace_deks(ring, binding, deks, lease);
}

/* Fail because a table has no key. */
static void
report_unbound(Oid relid)
{
	const char *name = get_rel_name(relid);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" has no key", name ? name : "?"),
			 errhint("SECURITY LABEL FOR cmek ON TABLE %s IS 'key=...'",
					 name ? name : "...")));
}

/* Are the current data keys older than they may be? */
static bool
ring_is_aged(const CmekBinding *binding)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < binding->ndeks; i++)
		if (cmek_data_key_max_age > 0 && binding->deks[i].current &&
			binding->deks[i].kind != CMEK_STRUCTURE_INDEX &&
			now - binding->deks[i].created_at >
			cmek_data_key_max_age * USECS_PER_SEC)
			return true;
	return false;
}

/*
 * Have a worker renew aged data keys, once for each table and process: nobody
 * waits for it, and the next process asks again when it came to nothing.
 */
static void
renew_aged(RingEntry *entry, bool aged)
{
	if (!aged || entry->aged || RecoveryInProgress() || IsParallelWorker())
		return;
	entry->aged = true;
	(void) cmek_renew_start(CMEK_RENEW_ROTATE, entry->relid,
							entry->ring.heap->id, false);
}

/*
 * Read the rows of a table, open its table key and fill its ring.  When the
 * rows changed meanwhile, do it again; but not for ever, since a ring from a
 * moment ago is good for this access: it lacks at most what cmek_keyring_find
 * looks for.  It stays marked for the next access, though, since nobody may
 * go on sealing with a data key that others believe superseded.
 */
static pg_noinline void
read_ring(RingEntry *entry)
{
	CmekKeyRing *ring = &entry->ring;
	uint8	   *table_key = cmek_secret_alloc_in(CurrentMemoryContext,
												 CMEK_KEY_LEN);
	uint64		before;
	int			attempts = 0;
	bool		opened;
	bool		stale = true;
	bool		aged = false;

	do
	{
		CmekLease	lease;
		CmekBinding *binding;

		CHECK_FOR_INTERRUPTS();
		if (lease_is_lost(ring))
			empty_ring(ring);
		before = entry->invalidations;
		binding = cmek_catalog_read(entry->relid);
		if (binding == NULL)
			report_unbound(entry->relid);
		/* a table that was switched meanwhile is read again */
		opened = cmek_table_key_try_open(&binding->table_key, table_key, &lease);
		if (opened)
		{
			fill_ring(ring, binding, table_key, &lease);
			stale = entry->invalidations != before;
			aged = ring_is_aged(binding);
		}
	} while (!opened || (stale && ++attempts < RING_READ_ATTEMPTS));
	ring->valid = !stale;
	renew_aged(entry, aged);
}

/* Read a ring again, in memory that is cleansed whatever happens. */
static void
reload_ring(RingEntry *entry)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek key ring",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	cmek_secret_forbid_core_dump();
	PG_TRY();
	{
		read_ring(entry);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
}

/* A ring that is good now. */
static CmekKeyRing *
acquire_ring(Oid relid)
{
	RingEntry  *entry = find_entry(relid);

	/* a ring never filled has no lease and no data keys, and is not valid */
	if (!cmek_keyring_is_good(&entry->ring))
		reload_ring(entry);
	return &entry->ring;
}

/* One random data key of the backend's own. */
static void
make_temporary_dek(CmekDek *dek, CmekStructureKind kind)
{
	uint8		key[CMEK_KEY_LEN];

	dek->kind = kind;
	dek->current = true;
	dek->seals_left = CMEK_SEALS_HARD_LIMIT;
	cmek_random_uuid(dek->structure);
	cmek_random(key, sizeof(key));
	dek->aead = cmek_aead_create(key);
	if (kind == CMEK_STRUCTURE_INDEX)
	{
		dek->hide_tids = true;
		dek->permutation = cmek_permutation_create(key);
	}
	cmek_cleanse(key, sizeof(key));
}

/* The ring of all temporary tables of this backend. */
static CmekKeyRing *
acquire_temporary_ring(void)
{
	CmekKeyRing *ring;

	if (temporary_ring != NULL)
		return temporary_ring;
	cmek_secret_forbid_core_dump();
	ring = MemoryContextAllocZero(TopMemoryContext, sizeof(CmekKeyRing));
	ring->deks = MemoryContextAllocZero(TopMemoryContext, 4 * sizeof(CmekDek));
	ring->ndeks = 4;
	make_temporary_dek(&ring->deks[0], CMEK_STRUCTURE_HEAP);
	make_temporary_dek(&ring->deks[1], CMEK_STRUCTURE_TOAST);
	make_temporary_dek(&ring->deks[2], CMEK_STRUCTURE_INDEX);
	make_temporary_dek(&ring->deks[3], CMEK_STRUCTURE_STATISTICS);
	ring->heap = &ring->deks[0];
	ring->toast = &ring->deks[1];
	ring->statistics = &ring->deks[3];
	ring->valid = true;
	temporary_ring = ring;
	return ring;
}

/*
 * Let the relation point to its ring.  Last of all: reading catalogs may have
 * made the relation cache free what was there.
 */
static CmekKeyRing *
remember_ring(Relation rel, CmekKeyRing *ring)
{
	if (rel->rd_amcache == NULL)
		rel->rd_amcache = MemoryContextAlloc(CacheMemoryContext,
											 sizeof(CmekRelCache));
	((CmekRelCache *) rel->rd_amcache)->ring = ring;
	return ring;
}

/* See keys.h. */
CmekKeyRing *
cmek_keyring_acquire_slow(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);

	cmek_require_preload();
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		return remember_ring(rel, acquire_temporary_ring());
	/* a table being rewritten is sealed by the keys of the one it becomes */
	if (OidIsValid(rel->rd_rel->relrewrite))
		relid = rel->rd_rel->relrewrite;
	return remember_ring(rel, acquire_ring(relid));
}

/* The table that a TOAST table depends on. */
static Oid
read_toast_owner(Oid toastid)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(toastid));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->refclassid == RelationRelationId &&
			form->deptype == DEPENDENCY_INTERNAL)
			owner = form->refobjid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (!OidIsValid(owner))
		elog(ERROR, "no table found for TOAST table %u", toastid);
	return owner;
}

/* The table whose keys a table uses: itself, unless it is being rewritten. */
static Oid
rewritten_table(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			target;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	target = ((Form_pg_class) GETSTRUCT(tuple))->relrewrite;
	ReleaseSysCache(tuple);
	return OidIsValid(target) ? target : relid;
}

/* The table whose keys a TOAST table uses. */
static Oid
toast_owner(Oid toastid)
{
	ToastEntry *entry;
	Oid			owner;

	if (toast_owners == NULL)
		toast_owners = create_oid_hash("cmek TOAST owners", sizeof(ToastEntry));
	entry = hash_search(toast_owners, &toastid, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->owner;
	owner = rewritten_table(read_toast_owner(toastid));
	entry = hash_search(toast_owners, &toastid, HASH_ENTER, NULL);
	entry->owner = owner;
	return owner;
}

/* See keys.h. */
CmekKeyRing *
cmek_keyring_acquire_toast(Relation toastrel)
{
	CmekRelCache *cached = (CmekRelCache *) toastrel->rd_amcache;

	if (cached != NULL && cmek_keyring_is_good(cached->ring))
		return cached->ring;
	cmek_require_preload();
	if (toastrel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		return remember_ring(toastrel, acquire_temporary_ring());
	return remember_ring(toastrel,
						 acquire_ring(toast_owner(RelationGetRelid(toastrel))));
}

/* See keys.h. */
CmekKeyRing *
cmek_keyring_acquire_index(Oid relid, bool temporary)
{
	cmek_require_preload();
	return temporary ? acquire_temporary_ring() : acquire_ring(relid);
}

/* See keys.h.  All temporary indexes share the data key without an OID. */
CmekDek *
cmek_keyring_peek_index(const CmekKeyRing *ring, Oid index)
{
	Oid			wanted = OidIsValid(ring->relid) ? index : InvalidOid;

	for (int i = 0; i < ring->ndeks; i++)
		if (ring->deks[i].kind == CMEK_STRUCTURE_INDEX &&
			ring->deks[i].index == wanted)
			return &ring->deks[i];
	return NULL;
}

/* See keys.h. */
const CmekDek *
cmek_keyring_peek(const CmekKeyRing *ring, CmekStructureKind kind,
				  uint32 id)
{
	for (int i = 0; i < ring->ndeks; i++)
		if (ring->deks[i].id == id && ring->deks[i].kind == kind)
			return &ring->deks[i];
	return NULL;
}

/* Read a ring again now, whatever is thought of it. */
void
cmek_keyring_reload(CmekKeyRing *ring)
{
	reload_ring(find_entry(ring->relid));
}

/* See keys.h. */
const CmekDek *
cmek_keyring_find(CmekKeyRing *ring, CmekStructureKind kind, uint32 id)
{
	const CmekDek *dek = cmek_keyring_peek(ring, kind, id);

	if (dek != NULL || !OidIsValid(ring->relid))
		return dek;
	/* it may be newer than our last look at the catalog */
	reload_ring(find_entry(ring->relid));
	return cmek_keyring_peek(ring, kind, id);
}

/* See keys.h. */
bool
cmek_table_is_bound(Oid relid)
{
	return cmek_catalog_bound(relid);
}
