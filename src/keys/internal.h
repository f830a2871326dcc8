/*-------------------------------------------------------------------------
 *
 * keys/internal.h
 *	  What the files of this folder share and nobody else needs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KEYS_INTERNAL_H
#define CMEK_KEYS_INTERNAL_H

#include "access/genam.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "keys/keys.h"

/* ----------
 * init.c: settings and shared memory
 * ----------
 */
extern int	cmek_key_cache_size;	/* table keys */
extern int	cmek_kms_workers;
extern int	cmek_key_cache_ttl; /* s */
extern int	cmek_kms_grace;		/* s */
extern int	cmek_kms_timeout;	/* ms */
extern int	cmek_data_key_max_seals;
extern int	cmek_data_key_max_age;	/* s; 0: never */

#define CMEK_MAX_KMS_WORKERS 32

/* Requests on the board at a time */
#define CMEK_BOARD_SLOTS 64

/* Whoever holds the board's lock may take the cache's, never the reverse */
typedef enum CmekLockId
{
	CMEK_LOCK_BOARD,			/* board.c and state.c */
	CMEK_LOCK_CACHE,
	CMEK_LOCK_PROGRESS,
	CMEK_LOCK_EVERYWHERE,		/* taken before the board's */
	CMEK_LOCK_EVENTS,			/* nothing is taken under it */
	CMEK_NUM_LOCKS
} CmekLockId;

extern LWLock *cmek_lock(CmekLockId id);

/* Shared memory for secrets: in pages of its own, zeroed, protected */
extern Size cmek_shmem_secret_size(Size size);
extern void *cmek_shmem_secret(const char *name, Size size, bool *found);

/* ----------
 * What a backend asks of a KMS.  Holds credentials: cleanse it.
 * ----------
 */
typedef enum CmekOperation
{
	CMEK_OP_GENERATE,
	CMEK_OP_UNWRAP,
	CMEK_OP_CHECK,				/* one step of cmek.check_key() */
	CMEK_OP_WRAP,				/* one more wrapping of a cached table key */
	CMEK_OP_SEAL,				/* a secret option: the blob */
	CMEK_OP_POST				/* a notification: the blob */
} CmekOperation;

/* Does the operation make or open a table key?  Only then cache and state learn of it */
#define CMEK_OP_IS_OF_KEYS(op) ((op) == CMEK_OP_GENERATE || (op) == CMEK_OP_UNWRAP)

typedef struct CmekKeyRequest
{
	CmekOperation op;
	Oid			database;
	Oid			server;
	char		server_name[NAMEDATALEN];
	uint8		uuid[CMEK_UUID_LEN];
	uint8		source[CMEK_UUID_LEN];	/* of CMEK_OP_WRAP: the cached key */
	char		version[CMEK_KMS_MAX_KEY_ID];	/* expected; "" when unknown */
	uint32		blob_len;
	uint8		blob[CMEK_KMS_MAX_BLOB];
	bool		fresh;			/* no answer of a moment ago will do */
	CmekKmsStep step;			/* of CMEK_OP_CHECK */
	char		option[NAMEDATALEN];	/* of CMEK_OP_SEAL */
	uint64		config_hash;
	CmekKmsConfig config;
} CmekKeyRequest;

/* What it gets back: never the key itself, that is in the cache */
typedef struct CmekReply
{
	CmekKmsClass klass;
	char		code[CMEK_KMS_MAX_CODE];
	char		message[CMEK_KMS_MAX_MESSAGE];
	char		key_id[CMEK_KMS_MAX_KEY_ID];
	char		key_version[CMEK_KMS_MAX_KEY_ID];
	uint32		blob_len;
	uint8		blob[CMEK_KMS_MAX_BLOB];
	TimestampTz since;			/* inaccessible since; 0 when not known */
} CmekReply;

/* ----------
 * suspend.c, suspended.c, everywhere.c: KMS keys out of use by order
 * ----------
 */
#define CMEK_CODE_SUSPENDED "Suspended"
#define CMEK_EVERYWHERE_FILE "cmek_suspended"

typedef struct CmekSuspension
{
	bool		everywhere;
	TimestampTz since;
	char		by[NAMEDATALEN];	/* "": the file is damaged */
} CmekSuspension;

/* Is a KMS key suspended, here or everywhere?  Reads the catalog. */
extern bool cmek_suspended(const char *server, CmekSuspension *suspension);
/* The answer to whoever asks for it; since 0 and no provider involved */
extern void cmek_suspension_fill_reply(const CmekSuspension *suspension,
									   CmekReply *reply);
extern void cmek_suspend_init(void);

extern bool cmek_suspended_row_find(const char *server,
									CmekSuspension *suspension);
extern void cmek_suspended_row_insert(const char *server,
									  const CmekSuspension *suspension);
extern bool cmek_suspended_row_delete(const char *server);

extern Size cmek_everywhere_shmem_size(void);
extern void cmek_everywhere_shmem_init(void);
extern bool cmek_everywhere_find(const char *name, CmekSuspension *suspension);
/* Caller holds the board's lock */
extern bool cmek_everywhere_find_locked(const char *name,
										CmekSuspension *suspension);
extern void cmek_everywhere_add(const char *name, const char *by);
extern void cmek_everywhere_remove(const char *name);

/* ----------
 * cache.c: table keys in shared memory.  "server" is an index of state.c.
 * ----------
 */
typedef struct CmekLease
{
	pg_atomic_uint64 *generation;
	uint64		value;
	uint8		uuid[CMEK_UUID_LEN];	/* of the wrapping that opened it */
} CmekLease;

/* A cached key that ought to be proved again */
typedef struct CmekDueProof
{
	int			server;
	uint64		version;
	Oid			database;
	uint8		uuid[CMEK_UUID_LEN];
	CmekInstant tried_at;
} CmekDueProof;

extern Size cmek_cache_shmem_size(void);
extern void cmek_cache_shmem_init(void);
extern bool cmek_cache_fetch(const CmekKeyRequest *what, uint8 *key,
							 CmekLease *lease);
extern bool cmek_cache_fetch_proved(const CmekKeyRequest *what, int server,
									CmekInstant oldest, uint8 *key,
									CmekLease *lease);
extern bool cmek_cache_store(const CmekKeyRequest *what, int server,
							 const CmekKmsAnswer *answer,
							 CmekInstant proved_at, bool may_insert);
/* Copy a key, for a worker that is to wrap it; false when it is not there */
extern bool cmek_cache_copy(Oid database, const uint8 *uuid, uint8 *key);
extern void cmek_cache_drop(Oid database, const uint8 *uuid);
extern void cmek_cache_drop_server(int server);
extern void cmek_cache_end_leases(void);
extern void cmek_cache_expire_idle(CmekInstant before);
extern int	cmek_cache_due(CmekInstant now, int64 ttl_us, CmekDueProof *due,
						   int max);
extern bool cmek_cache_describe(const CmekDueProof *due, CmekKeyRequest *what);
extern void cmek_cache_expire(const CmekInstant *oldest);
extern int	cmek_cache_count(void);
/* The same without derived keys (derived.c) */
extern int	cmek_cache_count_tables(void);
extern uint64 cmek_cache_drops(void);

/* ----------
 * state.c: what is known of each KMS key.  Call with the board's lock.
 * ----------
 */
typedef enum CmekServerChange
{
	CMEK_SERVER_SAME,
	CMEK_SERVER_LOST,
	CMEK_SERVER_BACK
} CmekServerChange;

extern Size cmek_state_shmem_size(void);
extern void cmek_state_shmem_init(void);
extern int	cmek_num_servers(void);
extern int	cmek_server_enter(const CmekKeyRequest *what);
extern int	cmek_server_reserve(Oid database, Oid server, const char *name);
extern void cmek_server_asked(int server, const CmekKeyRequest *what);
extern void cmek_server_leave(int server);
/* Suspend a server, or resume it (NULL); its cached keys are dropped */
extern void cmek_server_suspend(int server, const CmekSuspension *suspension);
extern void cmek_server_suspend_named(const char *name);
extern bool cmek_server_is_suspended(int server, CmekReply *reply);
extern bool cmek_server_start(int server, int limit);
extern void cmek_server_stop(int server);
extern bool cmek_server_remembers(int server, const CmekKeyRequest *what,
								  CmekReply *reply);
extern bool cmek_server_revoked_since(int server, CmekInstant started);
extern CmekServerChange cmek_server_observe(int server,
											const CmekKeyRequest *what,
											const CmekKmsAnswer *answer,
											CmekInstant started);
extern TimestampTz cmek_server_since(int server);
/* Was it denied, and never seen to be back since? */
extern bool cmek_server_denied(int server);
/* The same for a server of this database; these take the board's lock */
extern bool cmek_server_was_denied(Oid serverid);
extern bool cmek_server_is_failing(Oid serverid);
extern bool cmek_server_proof_config(int server, CmekKeyRequest *what);
extern void cmek_server_oldest_proofs(CmekInstant now, CmekInstant *oldest);
/* Takes the board's lock itself */
extern bool cmek_server_forgives(const CmekKeyRequest *what, uint8 *key,
								 CmekLease *lease);

/* ----------
 * proofoptions.c: options of KMS keys that work.  Call with the board's lock.
 * ----------
 */
extern Size cmek_proof_options_shmem_size(void);
extern void cmek_proof_options_shmem_init(void);
/* The options of a request work */
extern void cmek_proof_options_keep(int server, const CmekKeyRequest *what);
/* Fill in the options that work, if they are those of this hash */
extern bool cmek_proof_options_read(int server, uint64 config_hash,
									CmekKeyRequest *what);
extern void cmek_proof_options_forget(int server);

/* ----------
 * board.c: requests on their way to workers
 * ----------
 */
typedef enum CmekBoardResult
{
	CMEK_BOARD_POSTED,			/* wait for it, then leave */
	CMEK_BOARD_CACHED,			/* the cache has the key by now */
	CMEK_BOARD_REMEMBERED,		/* failed a moment ago; the reply says how */
	CMEK_BOARD_FULL				/* wait for space */
} CmekBoardResult;

extern Size cmek_board_shmem_size(void);
extern void cmek_board_shmem_init(void);
extern CmekBoardResult cmek_board_enter(const CmekKeyRequest *what,
										int *slot, CmekReply *reply);
extern bool cmek_board_wait(int slot, CmekInstant deadline, CmekReply *reply);
extern void cmek_board_wait_space(CmekInstant deadline);
extern void cmek_board_leave(int slot);
extern bool cmek_board_has_workers(void);
extern void cmek_board_prove(const CmekDueProof *due);
extern bool cmek_board_post(const CmekKeyRequest *what);
extern void cmek_board_attach(int worker, Latch *latch);
extern void cmek_board_detach(int worker);
extern int	cmek_board_take(int worker);
extern const CmekKeyRequest *cmek_board_request(int slot);
extern void cmek_board_finish(int slot, CmekKmsAnswer *answer,
							  CmekInstant started);

/* check.c: what a person can do about an answer */
extern const char *cmek_reply_hint(const char *provider, const CmekReply *reply);

/* request.c: ask a worker and wait */
extern void cmek_request_run(const CmekKeyRequest *what, CmekReply *reply);

/* ----------
 * rowcheck.c: does a row end where its values do?
 * ----------
 */
extern bool cmek_row_is_whole(Relation rel, HeapTuple tuple);
/* cmek_key_scan_next; ERROR for a row that is not whole */
extern HeapTuple cmek_next_row(SysScanDesc scan, Relation rel);

/* ----------
 * sqlversion.c: a library and SQL objects of different releases
 * ----------
 */
extern Oid	cmek_require_relation(const char *name);
extern bool cmek_has_columns(Oid relid, int natts);
extern void cmek_require_columns(Relation rel, int natts);
extern void cmek_report_missing_objects(void);

/* ----------
 * catalog.c: the rows of one table
 * ----------
 */
typedef struct CmekTableKeyRow
{
	uint8		id[CMEK_UUID_LEN];
	Oid			relid;
	int32		version;
	char		server[NAMEDATALEN];
	char		key_id[CMEK_KMS_MAX_KEY_ID];
	char		key_version[CMEK_KMS_MAX_KEY_ID];
	uint32		blob_len;
	uint8		blob[CMEK_KMS_MAX_BLOB];
	/* what followed it, and itself sealed under that; the newest has neither */
	bool		is_sealed;
	uint8		sealed_by[CMEK_UUID_LEN];
	uint8		sealed[CMEK_SEALED_TABLE_KEY_LEN];
} CmekTableKeyRow;

typedef struct CmekDataKeyRow
{
	uint32		id;
	Oid			relid;
	CmekStructureKind kind;
	uint8		structure[CMEK_UUID_LEN];
	int32		generation;
	uint8		table_key[CMEK_UUID_LEN];
	uint8		wrapped[CMEK_WRAPPED_DEK_LEN];
	bool		current;
	TimestampTz created_at;		/* set by whoever stores it */
	Oid			index;			/* of an index only */
	bool		hide_tids;
} CmekDataKeyRow;

typedef struct CmekBinding
{
	CmekTableKeyRow table_key;	/* the highest version */
	int			ndeks;
	CmekDataKeyRow *deks;
} CmekBinding;

extern void cmek_catalog_init(void);
extern CmekBinding *cmek_catalog_read(Oid relid);
extern bool cmek_catalog_bound(Oid relid);
extern bool cmek_catalog_is_newest(const CmekTableKeyRow *row);
extern void cmek_catalog_server_version(const char *server, char *version);
extern uint32 cmek_catalog_new_dek_id(void);
extern void cmek_catalog_insert_table_key(const CmekTableKeyRow *row);
extern void cmek_catalog_insert_data_key(const CmekDataKeyRow *row);
extern void cmek_catalog_rewrap_data_keys(Oid relid, const CmekDataKeyRow *rows,
										  int nrows);
extern List *cmek_catalog_read_table_keys(Oid relid);
/* A table key by its uuid and those of its table that came after; NIL: none */
extern List *cmek_catalog_read_newer(const uint8 *id);
extern void cmek_catalog_seal_table_key(const CmekTableKeyRow *row);
extern bool cmek_catalog_table_key_exists(const uint8 *id);
extern void cmek_catalog_supersede_data_keys(Oid relid);
extern void cmek_catalog_delete_data_keys(Oid relid, List *dek_ids);
extern void cmek_catalog_delete_index_keys(Oid relid, Oid index);
extern void cmek_catalog_move_index_key(Oid relid, Oid from, Oid to);
extern bool cmek_catalog_has_index_key(Oid relid, Oid index);
extern List *cmek_catalog_delete(Oid relid);
extern void cmek_catalog_rename_server(const char *oldname,
									   const char *newname);
/* Did this transaction write key rows? */
extern bool cmek_catalog_written(void);

/* ----------
 * server.c: KMS keys as backends see them in the catalogs
 * ----------
 */
extern void cmek_server_fill(CmekKeyRequest *what, Oid serverid);
/* The server of a KMS key; ERROR that says what to create when it is not there */
extern Oid	cmek_server_of_key(const char *name);

/* ----------
 * tablekey.c: how a backend comes by an opened table key
 * ----------
 */
extern void cmek_table_key_open(const CmekTableKeyRow *row, uint8 *key,
								CmekLease *lease);
extern void cmek_table_key_open_now(const CmekTableKeyRow *row, uint8 *key,
									CmekLease *lease);
extern bool cmek_table_key_try_open(const CmekTableKeyRow *row, uint8 *key,
									CmekLease *lease);
extern void cmek_table_key_generate(Oid relid, Oid serverid, int32 version,
									CmekTableKeyRow *row, uint8 *key);
/* A request in secret memory of the current context */
extern CmekKeyRequest *cmek_new_key_request(CmekOperation op, Oid serverid,
											const uint8 *uuid);
/* Its key, out of the cache or from a KMS; false with the reason */
extern bool cmek_fetch_key(const CmekKeyRequest *what, uint8 *key,
						   CmekLease *lease, CmekReply *reply);
extern void cmek_dek_wrap(CmekDataKeyRow *row, const uint8 *table_key_id,
						  CmekAead *table_key, const uint8 *dek);
extern void cmek_dek_unwrap(const CmekDataKeyRow *row,
							const CmekTableKeyRow *table_key_row,
							CmekAead *table_key, uint8 *dek);

/* Fail because a KMS did not open, make or wrap a table key */
extern void cmek_report_unavailable(Oid relid, const CmekKeyRequest *what,
									const CmekReply *reply);
/* A request to open a wrapped table key, as cmek_new_key_request */
extern CmekKeyRequest *cmek_new_unwrap(Oid serverid,
									   const CmekTableKeyRow *row);
/* The same as cmek_table_key_open, and it is the one that the DEKs are under */
extern void cmek_binding_open(const CmekBinding *binding, uint8 *key,
							  CmekLease *lease);

/* ----------
 * replicarow.c: rows of cmek.table_key_replica, in the form of table keys, but
 * with ids of their own
 * ----------
 */
/* Those of a table key, or of all table keys of a table (NULL) */
extern List *cmek_replica_rows(Oid relid, const uint8 *table_key);
extern void cmek_replica_insert(const CmekTableKeyRow *row,
								const uint8 *table_key);
/* Delete all of a table but those of one table key under these servers (names) */
extern void cmek_replica_delete(Oid relid, const uint8 *keep, List *servers);
extern void cmek_replica_rename_server(const char *oldname,
									   const char *newname);

/* ----------
 * replica.c: several wrappings of one table key
 * ----------
 */
#define CMEK_CODE_NOT_CACHED "KeyNotCached"

/*
 * Open the table key of a row by any of its wrappings; "first" is the request
 * for the row itself.  False with the reason, which is what the first key said.
 */
extern bool cmek_open_by_any(CmekKeyRequest *first, const CmekTableKeyRow *row,
							 uint8 *key, CmekLease *lease, CmekReply *reply);
/* Wrap an opened table key by one more KMS key, prove and store it */
extern void cmek_replica_make(const CmekTableKeyRow *table_key,
							  const uint8 *key, Oid serverid);
extern void cmek_replica_init(void);

/* ----------
 * chain.c, chainjson.c: older table keys under newer ones
 * ----------
 */
struct CmekChain
{
	Oid			relid;
	int			nkeys;
	CmekTableKeyRow *keys;		/* ascending versions, without gaps */
};

extern void cmek_chain_seal(CmekTableKeyRow *row, const uint8 *key,
							const uint8 *sealed_by, CmekAead *by);
extern void cmek_chain_open(const CmekChain *chain,
							const CmekTableKeyRow *local,
							uint8 *local_key, uint8 *newest_key);
/* Open one of them, by way of the newest */
extern void cmek_chain_open_at(const CmekChain *chain, int target,
							   uint8 *key);
extern const CmekTableKeyRow *cmek_chain_store(const CmekChain *chain,
											   const CmekTableKeyRow *local);

/* forget.c */
extern void cmek_table_key_forget(const uint8 *uuid, bool on_commit);
extern void cmek_forget_init(void);

/* ring.c */
extern void cmek_ring_init(void);
extern void cmek_keyring_reload(CmekKeyRing *ring);

/* indexkey.c */
extern void cmek_index_key_init(void);

/* seals.c: rows of cmek.data_key_seals */
extern void cmek_seals_insert(uint32 dek_id);
extern void cmek_seals_delete(uint32 dek_id);

/* ----------
 * stat.c, progress.c
 * ----------
 */
typedef enum CmekStat
{
	CMEK_STAT_HITS,
	CMEK_STAT_MISSES,
	CMEK_STAT_EVICTIONS,
	CMEK_STAT_CALLS,
	CMEK_STAT_FAILURES,
	CMEK_STAT_CALL_USECS,
	CMEK_STAT_SEALS,
	CMEK_STAT_UNSEALS,
	CMEK_NUM_STATS
} CmekStat;

extern Size cmek_stat_shmem_size(void);
extern void cmek_stat_shmem_init(void);
extern void cmek_stat_init(void);
extern void cmek_stat_add(CmekStat stat, uint64 n);
extern void cmek_stat_add_call(bool ok, int64 usecs);

extern Size cmek_progress_shmem_size(void);
extern void cmek_progress_shmem_init(void);
extern void cmek_progress_init(void);

/* visits.c: the keeper sends visitors to databases */
extern Size cmek_visits_shmem_size(void);
extern void cmek_visits_shmem_init(void);
extern CmekInstant cmek_visits_run(CmekInstant now);

/* stop.c */
extern void cmek_stop_init(void);

/* worker.c, keeper.c */
extern void cmek_workers_register(void);
extern void cmek_keeper_register(void);

#endif							/* CMEK_KEYS_INTERNAL_H */
