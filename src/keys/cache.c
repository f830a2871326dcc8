/*-------------------------------------------------------------------------
 *
 * cache.c
 *	  The shared cache of table keys.
 *
 * A fixed array of slots, found by database and uuid of the wrapped blob
 * through a chained hash, all guarded by one LWLock.  The plaintext keys lie
 * in pages of their own, locked and left out of core dumps where the system
 * allows it; nothing else in the server keeps a plaintext table key for
 * longer than a call.
 *
 * Invariant: a slot's generation moves on before its key is cleansed, and
 * only then.  Backends keep a pointer to the generation and its value (a
 * lease) beside the data keys they opened, and look at it once a page.
 *
 * Slots are evicted by a clock.  Only KMS workers store keys here; whoever
 * reads one copies it into secret memory of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "storage/shmem.h"

#include "compat.h"
#include "keys/internal.h"

typedef struct CacheSlot
{
	pg_atomic_uint64 generation;
	pg_atomic_uint32 referenced;	/* the clock's bit */
	bool		used;
	int32		next;			/* in its bucket or the free list; -1 ends */
	int32		server;
	Oid			database;
	uint8		uuid[CMEK_UUID_LEN];
	uint64		version;		/* hash of the KMS key version */
	uint64		config_hash;	/* of the options that proved it */
	CmekInstant proved_at;		/* start of the last call that proved it */
	CmekInstant tried_at;		/* last picked for a proof */
	CmekInstant fetched_at;		/* last given to a backend, or stored */
} CacheSlot;

/* What a new proof needs; apart from the slots, which are searched */
typedef struct CacheBlob
{
	uint32		len;
	uint8		data[CMEK_KMS_MAX_BLOB];
	char		version[CMEK_KMS_MAX_KEY_ID];
} CacheBlob;

typedef struct CacheShared
{
	pg_atomic_uint64 drops;		/* how often any key left */
	int32		nslots;
	int32		nbuckets;		/* a power of two */
	int32		nused;
	int32		free;			/* head of the free list */
	int32		hand;			/* of the clock */
	/* what the last renewal of a version noted in all of its slots */
	int32		renewed_server;
	uint64		renewed_version;
	uint64		renewed_config;
	CmekInstant renewed_at;
} CacheShared;

/* A version is not renewed again for a call that began so soon after */
#define RENEW_EVERY_US INT64CONST(100000)

static CacheShared *cache = NULL;
static int32 *buckets;
static CacheSlot *slots;
static CacheBlob *blobs;
static uint8 (*keys)[CMEK_KEY_LEN];

/* The number of buckets: the power of two at or above the number of slots. */
static int32
bucket_count(void)
{
	int32		n = 16;

	while (n < cmek_key_cache_size)
		n *= 2;
	return n;
}

/* Bytes of the plaintext keys. */
static Size
keys_size(void)
{
	return mul_size(cmek_key_cache_size, CMEK_KEY_LEN);
}

/* Shared memory of the cache, without the plaintext keys. */
static Size
body_size(void)
{
	Size		size = MAXALIGN(sizeof(CacheShared));

	size = add_size(size, MAXALIGN(mul_size(bucket_count(), sizeof(int32))));
	size = add_size(size, mul_size(cmek_key_cache_size, sizeof(CacheSlot)));
	return add_size(size, mul_size(cmek_key_cache_size, sizeof(CacheBlob)));
}

Size
cmek_cache_shmem_size(void)
{
	return add_size(body_size(), cmek_shmem_secret_size(keys_size()));
}

/* Put every slot on the free list. */
static void
reset_slots(void)
{
	cache->nslots = cmek_key_cache_size;
	cache->nbuckets = bucket_count();
	cache->nused = 0;
	cache->hand = 0;
	cache->free = 0;
	pg_atomic_init_u64(&cache->drops, 0);
	for (int i = 0; i < cache->nbuckets; i++)
		buckets[i] = -1;
	for (int i = 0; i < cache->nslots; i++)
	{
		pg_atomic_init_u64(&slots[i].generation, 1);
		pg_atomic_init_u32(&slots[i].referenced, 0);
		slots[i].used = false;
		slots[i].next = i + 1 < cache->nslots ? i + 1 : -1;
	}
}

/* Find or make the cache in shared memory. */
void
cmek_cache_shmem_init(void)
{
	bool		found;
	char	   *p;

	p = ShmemInitStruct("cmek table keys", body_size(), &found);
	cache = (CacheShared *) p;
	p += MAXALIGN(sizeof(CacheShared));
	buckets = (int32 *) p;
	p += MAXALIGN(bucket_count() * sizeof(int32));
	slots = (CacheSlot *) p;
	blobs = (CacheBlob *) (slots + cmek_key_cache_size);
	if (!found)
		reset_slots();

	keys = cmek_shmem_secret("cmek plaintext table keys", keys_size(), &found);
}

/* The bucket of an identity. */
static int32 *
bucket_of(Oid database, const uint8 *uuid)
{
	uint32		hash = hash_bytes(uuid, CMEK_UUID_LEN);

	return &buckets[hash_combine(hash, database) & (cache->nbuckets - 1)];
}

/* The slot of an identity; -1 when it is not cached. */
static int
find_slot(Oid database, const uint8 *uuid)
{
	int			i = *bucket_of(database, uuid);

	while (i >= 0 &&
		   (slots[i].database != database ||
			memcmp(slots[i].uuid, uuid, CMEK_UUID_LEN) != 0))
		i = slots[i].next;
	return i;
}

/* Take a key away from everybody: caller holds the lock exclusively. */
static void
drop_slot(int i)
{
	int32	   *link = bucket_of(slots[i].database, slots[i].uuid);

	pg_atomic_fetch_add_u64(&slots[i].generation, 1);
	pg_memory_barrier();
	cmek_cleanse(keys[i], CMEK_KEY_LEN);
	pg_atomic_fetch_add_u64(&cache->drops, 1);

	while (*link != i)
		link = &slots[*link].next;
	*link = slots[i].next;
	slots[i].used = false;
	slots[i].next = cache->free;
	cache->free = i;
	cache->nused--;
}

/* Move the clock's hand to a slot that was not used of late, and drop it. */
static void
evict_one(void)
{
	for (;;)
	{
		int			i = cache->hand;

		cache->hand = (cache->hand + 1) % cache->nslots;
		if (slots[i].used &&
			pg_atomic_exchange_u32(&slots[i].referenced, 0) == 0)
		{
			drop_slot(i);
			cmek_stat_add(CMEK_STAT_EVICTIONS, 1);
			return;
		}
	}
}

/* A slot for a new identity, entered in the hash but without its key. */
static int
take_slot(Oid database, const uint8 *uuid)
{
	int32	   *bucket = bucket_of(database, uuid);
	int			i;

	if (cache->free < 0)
		evict_one();
	i = cache->free;
	cache->free = slots[i].next;
	cache->nused++;
	slots[i].used = true;
	slots[i].database = database;
	memcpy(slots[i].uuid, uuid, CMEK_UUID_LEN);
	slots[i].tried_at = 0;
	slots[i].fetched_at = cmek_now();
	slots[i].next = *bucket;
	*bucket = i;
	return i;
}

/* Copy a key and its lease: caller holds the lock. */
static void
copy_key(int i, uint8 *key, CmekLease *lease)
{
	memcpy(key, keys[i], CMEK_KEY_LEN);
	memcpy(lease->uuid, slots[i].uuid, CMEK_UUID_LEN);
	lease->generation = &slots[i].generation;
	lease->value = pg_atomic_read_u64(&slots[i].generation);
	slots[i].fetched_at = cmek_now();
}

/*
 * Copy a cached key and its lease; with NULLs, only say whether it is there.
 * A key that was proved by other options than those of the request, or longer
 * ago than the keeper lets pass, is not there.
 */
bool
cmek_cache_fetch(const CmekKeyRequest *what, uint8 *key, CmekLease *lease)
{
	int64		limit = ((int64) cmek_key_cache_ttl + cmek_kms_grace + 60) *
		USECS_PER_SEC;
	bool		found = false;
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_SHARED);
	i = find_slot(what->database, what->uuid);
	if (i >= 0 && slots[i].config_hash == what->config_hash &&
		cmek_now() - slots[i].proved_at < limit)
	{
		found = true;
		if (key != NULL)
			copy_key(i, key, lease);
		pg_atomic_write_u32(&slots[i].referenced, 1);
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return found;
}

/*
 * The same by whatever options of its server the key was proved, if that was
 * not before a time.
 */
bool
cmek_cache_fetch_proved(const CmekKeyRequest *what, int server,
						CmekInstant oldest, uint8 *key, CmekLease *lease)
{
	bool		found;
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_SHARED);
	i = find_slot(what->database, what->uuid);
	found = i >= 0 && slots[i].server == server &&
		slots[i].proved_at >= oldest;
	if (found)
		copy_key(i, key, lease);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return found;
}

/* Note in a slot that its key was proved. */
static inline void
renew_slot(int i, uint64 config_hash, CmekInstant proved_at)
{
	if (slots[i].proved_at < proved_at)
	{
		slots[i].proved_at = proved_at;
		slots[i].config_hash = config_hash;
	}
}

/*
 * Note in every slot of a KMS key version that it was proved.  That is a walk
 * through the whole cache, so of calls that follow each other closely only
 * the first is noted: a proof may always be taken for older than it is.
 */
static void
renew(int server, uint64 version, uint64 config_hash, CmekInstant proved_at)
{
	if (cache->renewed_server == server &&
		cache->renewed_version == version &&
		cache->renewed_config == config_hash &&
		proved_at >= cache->renewed_at &&
		proved_at - cache->renewed_at < RENEW_EVERY_US)
		return;
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used && slots[i].server == server &&
			slots[i].version == version)
			renew_slot(i, config_hash, proved_at);
	cache->renewed_server = server;
	cache->renewed_version = version;
	cache->renewed_config = config_hash;
	cache->renewed_at = proved_at;
}

/* What the catalog will call the version that wrapped this key. */
static const char *
version_of(const CmekKeyRequest *what, const CmekKmsAnswer *answer)
{
	return what->op == CMEK_OP_GENERATE ? answer->key_version : what->version;
}

/* Keep what a later proof needs. */
static void
store_blob(int i, const CmekKeyRequest *what, const CmekKmsAnswer *answer)
{
	bool		generated = what->op == CMEK_OP_GENERATE;

	blobs[i].len = generated ? answer->blob_len : what->blob_len;
	memcpy(blobs[i].data, generated ? answer->blob : what->blob, blobs[i].len);
	strlcpy(blobs[i].version, version_of(what, answer),
			sizeof(blobs[i].version));
}

/*
 * Store a key that a KMS has just given out, and count its call as a proof of
 * every cached key of the same KMS key version.  Without "may_insert" only a
 * key that is there already is renewed.  False when another key is cached
 * under this identity: then it is dropped, and something is badly wrong.
 */
bool
cmek_cache_store(const CmekKeyRequest *what, int server,
				 const CmekKmsAnswer *answer, CmekInstant proved_at,
				 bool may_insert)
{
	const char *version = version_of(what, answer);
	uint64		hash = hash_bytes_extended((const unsigned char *) version,
										   strlen(version), 0);
	bool		same = true;
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	i = find_slot(what->database, what->uuid);
	if (i >= 0)
	{
		same = cmek_equal(keys[i], answer->key, CMEK_KEY_LEN);
		if (!same)
			drop_slot(i);
	}
	else if (may_insert)
	{
		i = take_slot(what->database, what->uuid);
		memcpy(keys[i], answer->key, CMEK_KEY_LEN);
		slots[i].proved_at = 0;
		pg_atomic_write_u32(&slots[i].referenced, 1);
	}
	if (same && i >= 0)
	{
		slots[i].server = server;
		slots[i].version = hash;
		store_blob(i, what, answer);
		renew_slot(i, what->config_hash, proved_at);
	}
	if (same)
		renew(server, hash, what->config_hash, proved_at);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return same;
}

/* See internal.h. */
bool
cmek_cache_copy(Oid database, const uint8 *uuid, uint8 *key)
{
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_SHARED);
	i = find_slot(database, uuid);
	if (i >= 0)
		memcpy(key, keys[i], CMEK_KEY_LEN);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return i >= 0;
}

/* Drop one key, if it is cached. */
void
cmek_cache_drop(Oid database, const uint8 *uuid)
{
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	i = find_slot(database, uuid);
	if (i >= 0)
		drop_slot(i);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
}

/* Drop every key of a KMS key. */
void
cmek_cache_drop_server(int server)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used && slots[i].server == server)
			drop_slot(i);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
}

/* End all leases, so that every backend looks again whether it may. */
void
cmek_cache_end_leases(void)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used)
			pg_atomic_fetch_add_u64(&slots[i].generation, 1);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
}

/* Drop every key that no backend has asked for since a time. */
void
cmek_cache_expire_idle(CmekInstant before)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used && slots[i].fetched_at < before)
			drop_slot(i);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
}

/* Enter a slot in the list of proofs, one for each KMS key version. */
static int
add_due(CmekDueProof *due, int n, int max, const CacheSlot *slot)
{
	int			g = 0;

	while (g < n && (due[g].server != slot->server ||
					 due[g].version != slot->version))
		g++;
	if (g == max || (g < n && due[g].tried_at <= slot->tried_at))
		return n;
	due[g].server = slot->server;
	due[g].version = slot->version;
	due[g].database = slot->database;
	memcpy(due[g].uuid, slot->uuid, CMEK_UUID_LEN);
	due[g].tried_at = slot->tried_at;
	return g == n ? n + 1 : n;
}

/*
 * List the KMS key versions of which some cached key was proved longer than
 * the TTL ago, each with the key that was picked for a proof longest ago: so
 * every cached key has its turn.
 */
int
cmek_cache_due(CmekInstant now, int64 ttl_us, CmekDueProof *due, int max)
{
	int			n = 0;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_SHARED);
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used && now - slots[i].proved_at >= ttl_us)
			n = add_due(due, n, max, &slots[i]);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return n;
}

/* Fill in the blob of a key that is to be proved, and note its turn. */
bool
cmek_cache_describe(const CmekDueProof *due, CmekKeyRequest *what)
{
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	i = find_slot(due->database, due->uuid);
	if (i >= 0)
	{
		slots[i].tried_at = cmek_now();
		memcpy(what->uuid, due->uuid, CMEK_UUID_LEN);
		what->blob_len = blobs[i].len;
		memcpy(what->blob, blobs[i].data, blobs[i].len);
		strlcpy(what->version, blobs[i].version, sizeof(what->version));
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return i >= 0;
}

/* Drop every key proved before the time given for its server. */
void
cmek_cache_expire(const CmekInstant *oldest)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_EXCLUSIVE);
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used && slots[i].proved_at < oldest[slots[i].server])
			drop_slot(i);
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
}

/* How many keys are cached? */
int
cmek_cache_count(void)
{
	int			n;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_SHARED);
	n = cache->nused;
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return n;
}

/* See internal.h. */
int
cmek_cache_count_tables(void)
{
	int			n = 0;

	LWLockAcquire(cmek_lock(CMEK_LOCK_CACHE), LW_SHARED);
	for (int i = 0; i < cache->nslots; i++)
		if (slots[i].used &&
			!cmek_kms_is_derivation(blobs[i].data, blobs[i].len))
			n++;
	LWLockRelease(cmek_lock(CMEK_LOCK_CACHE));
	return n;
}

/* A number that grows whenever any key leaves the cache. */
uint64
cmek_cache_drops(void)
{
	return pg_atomic_read_u64(&cache->drops);
}
