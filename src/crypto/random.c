/*-------------------------------------------------------------------------
 *
 * random.c
 *	  Random bytes, nonces and UUIDs.
 *
 * Owns the pool of nonces: random bytes fetched in bulk, because one call of
 * the generator costs more than sealing a row.
 *
 * Invariant: no nonce is handed out twice.  A used one is wiped from the pool
 * before the caller has it; the pool belongs to the process that filled it
 * (a PostgreSQL child sees another MyProcPid, and any other fork finds the
 * page wiped, which reads as an empty pool).
 *
 * Keys never come from the pool.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "crypto/aead.h"

/* 4 kB in all: the generator's overhead is spread to a few ns each */
#define POOL_NONCES 336

typedef struct NoncePool
{
	int			left;			/* nonces not yet handed out */
	uint8		nonces[POOL_NONCES][CMEK_NONCE_LEN];
} NoncePool;

static NoncePool *pool = NULL;
static int	pool_pid = 0;

/* Fill an empty pool, or make this process's own */
static void
nonce_pool_fill(void)
{
	if (pool_pid != MyProcPid)
	{
		pool = cmek_secret_alloc(sizeof(NoncePool));
		pool_pid = MyProcPid;
	}
	cmek_random(pool->nonces, sizeof(pool->nonces));
	pool->left = POOL_NONCES;
}

/* A nonce that was never handed out before */
void
cmek_nonce(uint8 *nonce)
{
	uint8	   *next;

	if (unlikely(pool_pid != MyProcPid || pool->left == 0))
		nonce_pool_fill();

	next = pool->nonces[--pool->left];
	memcpy(nonce, next, CMEK_NONCE_LEN);
	memset(next, 0, CMEK_NONCE_LEN);
}

/* Strong random bytes, straight from the system's generator */
void
cmek_random(void *out, Size len)
{
	if (!pg_strong_random(out, len))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes")));
}

/* A version 4 UUID (RFC 9562, 5.4) */
void
cmek_random_uuid(uint8 *out)
{
	cmek_random(out, CMEK_UUID_LEN);
	out[6] = (out[6] & 0x0f) | 0x40;	/* version */
	out[8] = (out[8] & 0x3f) | 0x80;	/* variant */
}
