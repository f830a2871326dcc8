/*-------------------------------------------------------------------------
 *
 * keys.h
 *	  Table keys and data keys: catalog rows, shared cache, key rings.
 *
 * A *key ring* is one backend's set of opened data keys of one table.  It
 * holds a lease on a slot of the shared cache of table keys; once the slot's
 * generation moves on (revoked, suspended, expired, evicted) the ring is
 * worth nothing and must be acquired again.
 *
 * Ring and DEK pointers are good until the next call of any acquire function:
 * never keep one across code that can reach the catalogs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KEYS_H
#define CMEK_KEYS_H

#include "access/transam.h"
#include "port/atomics.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "crypto/crypto.h"
#include "format.h"
#include "kms/kms.h"

/* SQLSTATE of everything that fails because a key is away */
#define CMEK_ERRCODE_KEY_UNAVAILABLE MAKE_SQLSTATE('K', 'M', '0', '0', '1')
/* ... and of the hard stop of a data key that has sealed too much */
#define CMEK_ERRCODE_KEY_EXHAUSTED MAKE_SQLSTATE('K', 'M', '0', '0', '2')

/*
 * Seals of one data key, ever: random 96-bit nonces (NIST SP 800-38D, 8.3).
 */
#define CMEK_SEALS_HARD_LIMIT (INT64CONST(1) << 32)

typedef enum CmekStructureKind
{
	CMEK_STRUCTURE_HEAP = 'h',
	CMEK_STRUCTURE_TOAST = 't',
	CMEK_STRUCTURE_INDEX = 'i',
	CMEK_STRUCTURE_STATISTICS = 's'
} CmekStructureKind;

/* One data key, opened */
typedef struct CmekDek
{
	uint32		id;				/* 0: the backend's key of temporary tables */
	uint8		structure[CMEK_UUID_LEN];	/* as in CmekRowAad */
	CmekStructureKind kind;
	bool		current;		/* new values are sealed with it */
	CmekAead   *aead;
	/* of an index only */
	Oid			index;			/* InvalidOid: all temporary ones */
	bool		hide_tids;
	CmekPermutation *permutation;	/* of its TIDs */
	int64		seals_left;		/* of what this backend has reserved */
	int64		seals_step;		/* what it reserved last */
} CmekDek;

typedef struct CmekKeyRing
{
	Oid			relid;			/* the table; InvalidOid: temporary tables */
	bool		valid;			/* catalogs unchanged since it was read */
	/* lease on the shared cache; NULL for temporary tables */
	pg_atomic_uint64 *generation;
	uint64		leased;			/* value of *generation at the time */
	CmekDek    *heap;			/* current DEKs, in deks[] */
	CmekDek    *toast;
	CmekDek    *statistics;		/* NULL: a table of an earlier release */
	int			ndeks;
	CmekDek    *deks;
} CmekKeyRing;

/* What rd_amcache of a sealed relation points to (palloc'd, one chunk) */
typedef struct CmekRelCache
{
	CmekKeyRing *ring;
} CmekRelCache;

static inline bool
cmek_keyring_is_good(const CmekKeyRing *ring)
{
	return ring->valid &&
		(ring->generation == NULL ||
		 pg_atomic_read_u64(ring->generation) == ring->leased);
}

/*
 * The ring of a sealed table or of a table being rewritten into one
 * (rd_rel->relrewrite).  May read catalogs and wait for a KMS, interruptibly,
 * up to cmek.kms_timeout.  Caller holds no buffer lock and no LWLock.
 * ERROR: KM001 when the key is away; KM001-less errors when the library is not
 * preloaded or the table is unbound.
 */
extern CmekKeyRing *cmek_keyring_acquire_slow(Relation rel);

/* The same by the OID of a TOAST table */
extern CmekKeyRing *cmek_keyring_acquire_toast(Relation toastrel);

static inline CmekKeyRing *
cmek_keyring_acquire(Relation rel)
{
	CmekRelCache *cache = (CmekRelCache *) rel->rd_amcache;

	if (likely(cache != NULL && cmek_keyring_is_good(cache->ring)))
		return cache->ring;
	return cmek_keyring_acquire_slow(rel);
}

/*
 * The DEK with this id, NULL when the table has no such DEK of this kind.
 * Looks in the catalog once when the ring does not know it.
 */
extern const CmekDek *cmek_keyring_find(CmekKeyRing *ring,
										CmekStructureKind kind, uint32 id);

/* The same among those the ring knows: good under a buffer lock */
extern const CmekDek *cmek_keyring_peek(const CmekKeyRing *ring,
										CmekStructureKind kind, uint32 id);

/* ----------
 * Counting seals (seals.c)
 * ----------
 */
/*
 * The current DEK with at least "need" seals left of this backend's
 * reservation.  May read and write catalogs, wait for a worker and load the
 * ring anew: no buffer lock, no LWLock.  KM002 at the hard limit.
 */
extern CmekDek *cmek_seals_reserve(CmekKeyRing *ring, CmekStructureKind kind,
								   int64 need);
/* The same without making a next generation; NULL at cmek.data_key_max_seals */
extern CmekDek *cmek_seals_try_reserve(CmekKeyRing *ring,
									   CmekStructureKind kind, int64 need);

/* The DEK of a ring that seals new values of a kind; NULL when it has none */
static inline CmekDek *
cmek_keyring_current(const CmekKeyRing *ring, CmekStructureKind kind)
{
	return kind == CMEK_STRUCTURE_HEAP ? ring->heap :
		kind == CMEK_STRUCTURE_TOAST ? ring->toast : ring->statistics;
}

/* The DEK to seal one value with, which is counted */
static inline CmekDek *
cmek_keyring_take_seal(CmekKeyRing *ring, CmekStructureKind kind)
{
	CmekDek    *dek = cmek_keyring_current(ring, kind);

	if (unlikely(dek == NULL || dek->seals_left < 1))
		dek = cmek_seals_reserve(ring, kind, 1);
	dek->seals_left--;
	return dek;
}

/* ----------
 * Data keys of indexes (indexkey.c).  An index has one from its build to its
 * next; it has no generations, is never rotated, and is found by the index's
 * OID, but its row may move on to another OID with the index's file.
 * ----------
 */
/* The ring for an index of a table (or of a temporary one), as above */
extern CmekKeyRing *cmek_keyring_acquire_index(Oid relid, bool temporary);
/* The DEK of an index, NULL when it has none; good under a buffer lock */
extern CmekDek *cmek_keyring_peek_index(const CmekKeyRing *ring, Oid index);
/*
 * Count seals of one of the ring's index DEKs.  May read and write catalogs:
 * no buffer lock, no LWLock.  KM002 at the hard limit.
 */
extern void cmek_seals_reserve_index(CmekKeyRing *ring, CmekDek *dek,
									 int64 need);
/*
 * Make the DEK of an index that is built, in place of the one it had; part of
 * the transaction, as the new file is.  Caller keeps all others away from the
 * index.
 */
extern void cmek_index_key_create(Oid relid, Oid index, bool hide_tids);
/* Has an index a DEK?  Needs no key. */
extern bool cmek_index_key_exists(Oid relid, Oid index);
/*
 * An index was dropped, or made: its key row goes at commit, unless the file
 * that it belongs to is that of a new index by then.
 */
extern void cmek_index_key_dropped(Oid relid, Oid index, Oid file,
								   bool concurrently);
extern void cmek_index_key_made(Oid relid, Oid index, Oid file);
/* Called when a table got its keys, so that its indexes get theirs */
extern PGDLLIMPORT void (*cmek_index_keys_wanted) (Oid relid);
/*
 * Is the key of a table there?  Asks for it in a subtransaction; false only
 * for KM001 and without the library preloaded, other errors are raised.
 */
extern bool cmek_key_is_available(Oid relid);
/*
 * Do something in a subtransaction (try.c): the error that it ended in, after
 * all of it was undone, for ReThrowError() or FreeErrorData(); NULL for none.
 */
extern ErrorData *cmek_try(void (*work) (void *arg), void *arg);
/*
 * The same for something for which a key may be away, or go meanwhile: false
 * when it ended in KM001; other errors are raised.
 */
extern bool cmek_key_try(void (*work) (void *arg), void *arg);

/*
 * Called at the end of a transaction when key rings have lost keys that were
 * taken away; may not fail.
 */
extern PGDLLIMPORT void (*cmek_rings_swept) (void);

/* ----------
 * Our own catalogs, for the files that keep one (keyscan.c, sqlversion.c)
 * ----------
 */
/*
 * systable_beginscan and systable_getnext for them, which leave no predicate
 * locks.  Ends with systable_endscan.
 */
struct SysScanDescData;
struct ScanKeyData;
extern struct SysScanDescData *cmek_key_scan(Relation rel, Oid index,
											 bool use_index, Snapshot snapshot,
											 int nkeys,
											 struct ScanKeyData *keys);
extern HeapTuple cmek_key_scan_next(struct SysScanDescData *scan);
/* A column of theirs that is never NULL: ERROR (XX001) when it is */
extern Datum cmek_key_attr(HeapTuple tuple, int attnum, TupleDesc desc);
/* The OID of a relation of schema cmek; InvalidOid when there is none */
extern Oid	cmek_find_relation(const char *name);

/* Does the table have keys?  (Unbound tables have none.) */
extern bool cmek_table_is_bound(Oid relid);
/* The name of the KMS key that its newest table key names; NULL: it has none */
extern char *cmek_table_server(Oid relid);
/* The same with those that it has replica wrappings of, as one text */
extern char *cmek_table_servers(Oid relid);

/* ----------
 * Making and moving keys (called by ddl/).  They write cmek.table_key,
 * cmek.data_key and the pg_depend row table -> server, and end with a
 * CommandCounterIncrement.  Permissions are the caller's business.  Caller
 * holds at least ShareUpdateExclusiveLock on the table.
 * ----------
 */
/* Make a table key and DEKs for an unbound table; replicas are server OIDs */
extern void cmek_keys_create(Oid relid, Oid serverid, List *replicas);
/* Wrap the table's DEKs by a new table key under other servers */
extern void cmek_keys_rewrap(Oid relid, Oid serverid, List *replicas);
/* Let the newest table key have these replica wrappings and no others */
extern void cmek_keys_set_replicas(Oid relid, List *replicas);
/* Wrap the table's DEKs by a new table key under the server it has */
extern void cmek_keys_rotate_table_key(Oid relid);
/* The table goes: so do its key rows */
extern void cmek_keys_delete(Oid relid);
/* A server goes: nobody can resume it any more */
extern void cmek_keys_server_dropped(Oid serverid, const char *name);
/*
 * Prove that a KMS key can do all that a table asks of it, before one is bound
 * to it; KM001 with the step that failed and what to grant.  A session
 * remembers a proof for cmek.key_cache_ttl.
 */
extern void cmek_key_prove(Oid serverid);
/* A secret option of a user mapping, sealed: the text for the catalog */
extern char *cmek_secret_seal_option(Oid serverid, const char *option,
									 const char *secret);
/* Is a KMS key suspended, in this database or everywhere? */
extern bool cmek_key_is_suspended(const char *server);
/*
 * Make the next generation of a table's DEKs, unless dek_id is given (not 0)
 * and no longer current.  To be committed before others can write.
 */
extern void cmek_keys_rotate_data_keys(Oid relid, uint32 dek_id);
/* Ids of the DEKs that are not current any more, in the memory context */
extern List *cmek_keys_superseded(Oid relid);
/* Delete DEKs that no row names */
extern void cmek_keys_retire(Oid relid, List *dek_ids);
/* A server was renamed: the key rows name it, too */
extern void cmek_keys_rename_server(const char *oldname, const char *newname);

/* ----------
 * Exported chains of table keys (called by ddl/, as above)
 * ----------
 */
typedef struct CmekChain CmekChain;

/* The chains of an export; ERROR data_corrupted when it is malformed */
extern List *cmek_chains_parse(Jsonb *document);
/* The table, which may not exist, and the KMS key of its newest table key */
extern Oid	cmek_chain_relid(const CmekChain *chain);
extern const char *cmek_chain_server(const CmekChain *chain);
/* Has it newer keys than the table?  ERROR when it is not of this table. */
extern bool cmek_chain_is_news(const CmekChain *chain);
/* Give a table the newer keys of its chain; serverid is that of the newest */
extern void cmek_keys_import(const CmekChain *chain, Oid serverid);

/*
 * A key derived from the service key for the use that the label names, into
 * CMEK_KEY_LEN bytes of secret memory.  False when the service key is away.
 */
#define CMEK_SERVICE_KEY_SERVER "cmek_service_key"
extern bool cmek_derived_key(const char *label, uint8 *key);

/* ----------
 * Counters of cmek.stat, kept per backend and added to the shared ones at
 * the end of each transaction.
 * ----------
 */
typedef struct CmekCounters
{
	uint64		seals;			/* rows and chunks */
	uint64		unseals;
} CmekCounters;

extern PGDLLIMPORT CmekCounters cmek_counters;

/* ----------
 * Progress of a long command of this backend, seen in cmek.progress.
 * total may be 0 when unknown.  Cleared at the end of the transaction.
 * ----------
 */
extern void cmek_progress_start(const char *command, Oid relid, uint64 total);
extern void cmek_progress_update(uint64 done);
/* From now on commits do not end it */
extern void cmek_progress_keep(void);
/* Is somebody at it? */
extern bool cmek_progress_running(const char *command, Oid relid);
extern void cmek_progress_end(void);

/* ----------
 * rotate.c: a worker that renews data keys, apart from our transaction
 * ----------
 */
typedef enum CmekRenewal
{
	CMEK_RENEW_ROTATE,			/* a next generation */
	CMEK_RENEW_RESEAL			/* old rows under the current one */
} CmekRenewal;

/* What its bgw_extra holds */
typedef struct CmekRenewRequest
{
	CmekRenewal what;
	Oid			relid;
	uint32		dek_id;			/* rotate only when this one is current */
} CmekRenewRequest;

/*
 * Start one, and wait for its end when asked to.  False when none can be
 * started.
 */
extern bool cmek_renew_start(CmekRenewal what, Oid relid, uint32 dek_id,
							 bool wait);

/* Settings */
extern PGDLLIMPORT bool cmek_auto_reseal;

/* A stop point for tests: see stop.c */
extern void cmek_stop(const char *name);

/* Is the library preloaded, with shared memory at hand? */
extern bool cmek_is_preloaded(void);
/* ERROR that says what to set when it is not */
extern void cmek_require_preload(void);

/*
 * bgworker.c: a worker of ours, named as its type, that begins when recovery has
 * finished and is not started again; the caller changes what is different.  It
 * may connect to a database when "connects".
 */
struct BackgroundWorker;
extern void cmek_bgworker_fill(struct BackgroundWorker *worker,
							   const char *type, const char *main,
							   bool connects);
/* Be the bootstrap superuser, whatever the database's settings say */
extern void cmek_bgworker_pin_settings(void);

/* Settings, hooks for shared memory, workers; called once by _PG_init */
extern void cmek_keys_init(void);

#endif							/* CMEK_KEYS_H */
