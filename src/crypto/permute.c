/*-------------------------------------------------------------------------
 *
 * permute.c
 *	  A keyed permutation of 44-bit numbers.
 *
 * Ten Feistel rounds over two halves of 22 bits; the round function is
 * AES-128 of (half, round), cut to 22 bits.  The key is derived from another
 * one (HMAC-SHA256 over a label of its own), so that it is of no use for
 * anything else, and nothing else for it.
 *
 * Owns the expanded round keys, in secret memory.  With AES-NI several
 * numbers are run side by side, which costs little more than one; elsewhere
 * OpenSSL does the blocks of a round in one call.  Both give the same numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "crypto/aead.h"

#if defined(__x86_64__)
#include <wmmintrin.h>
#define PERMUTE_AESNI
#define AESNI_TARGET __attribute__((target("aes,sse2")))
#endif

#define PERMUTE_LABEL "cmek tid permutation 1"
#define PERMUTE_ROUNDS 10
#define AES128_KEY_LEN 16
#define AES128_ROUND_KEYS 11
#define AES_BLOCK_LEN 16
#define HALF_BITS (CMEK_PERMUTE_BITS / 2)
#define HALF_MASK ((1 << HALF_BITS) - 1)
#define LANES 8

struct CmekPermutation
{
	uint8		round_keys[AES128_ROUND_KEYS][AES_BLOCK_LEN];	/* AES-NI */
	EVP_CIPHER_CTX *evp;		/* NULL with AES-NI */
};

/*
 * The halves of up to LANES numbers: in a round the other half is changed by
 * the image of the first, then they swap.  Backwards the left half begins.
 */
typedef struct Halves
{
	uint32		half[LANES];
	uint32		other[LANES];
} Halves;

/* Take numbers apart */
static inline void
halves_load(Halves *h, const uint64 *values, int n, bool inverse)
{
	for (int i = 0; i < n; i++)
	{
		uint32		left = (values[i] >> HALF_BITS) & HALF_MASK;
		uint32		right = values[i] & HALF_MASK;

		h->half[i] = inverse ? left : right;
		h->other[i] = inverse ? right : left;
	}
}

/* ... and put them together */
static inline void
halves_store(const Halves *h, uint64 *values, int n, bool inverse)
{
	for (int i = 0; i < n; i++)
	{
		uint64		left = inverse ? h->half[i] : h->other[i];
		uint32		right = inverse ? h->other[i] : h->half[i];

		values[i] = (left << HALF_BITS) | right;
	}
}

/* The end of a round */
static inline void
halves_step(Halves *h, const uint32 *image, int n)
{
	for (int i = 0; i < n; i++)
	{
		uint32		changed = h->other[i] ^ (image[i] & HALF_MASK);

		h->other[i] = h->half[i];
		h->half[i] = changed;
	}
}

/* The images of some halves in a round */
typedef void (*RoundFunction) (const CmekPermutation *self, int round,
							   const uint32 *half, uint32 *image, int n);

/*
 * All rounds for n numbers, in so many lanes; inlined for a known function and,
 * where that is fixed, a known number of lanes.
 */
static inline __attribute__((always_inline)) void
permute_by(RoundFunction round_function, const CmekPermutation *self,
		   uint64 *values, int n, int lanes, bool inverse)
{
	Halves		h = {{0}, {0}};
	uint32		image[LANES];

	halves_load(&h, values, n, inverse);
	for (int i = 0; i < PERMUTE_ROUNDS; i++)
	{
		round_function(self, inverse ? PERMUTE_ROUNDS - 1 - i : i, h.half,
					   image, lanes);
		halves_step(&h, image, lanes);
	}
	halves_store(&h, values, n, inverse);
}

#ifdef PERMUTE_AESNI

/* One step of FIPS 197's key expansion */
AESNI_TARGET static __m128i
aesni_next_key(__m128i key, __m128i assist)
{
	assist = _mm_shuffle_epi32(assist, 0xff);
	key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
	key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
	key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
	return _mm_xor_si128(key, assist);
}

/* Expand a key; the instruction wants its constants literally */
AESNI_TARGET static void
aesni_expand(CmekPermutation *self, const uint8 *key)
{
	__m128i    *k = (__m128i *) self->round_keys;

	_mm_storeu_si128(&k[0], _mm_loadu_si128((const __m128i *) key));
#define EXPAND(i, rcon) \
	_mm_storeu_si128(&k[i], aesni_next_key(_mm_loadu_si128(&k[(i) - 1]), \
										   _mm_aeskeygenassist_si128(_mm_loadu_si128(&k[(i) - 1]), rcon)))
	EXPAND(1, 0x01);
	EXPAND(2, 0x02);
	EXPAND(3, 0x04);
	EXPAND(4, 0x08);
	EXPAND(5, 0x10);
	EXPAND(6, 0x20);
	EXPAND(7, 0x40);
	EXPAND(8, 0x80);
	EXPAND(9, 0x1b);
	EXPAND(10, 0x36);
#undef EXPAND
}

/*
 * The round function of some halves, side by side; inlined for a fixed n.  The
 * blocks are to stay in registers, so the loops over them must be unrolled.
 */
AESNI_TARGET static inline __attribute__((always_inline)) void
aesni_round(const CmekPermutation *self, int round, const uint32 *half,
			uint32 *out, int n)
{
	const __m128i *k = (const __m128i *) self->round_keys;
	__m128i		block[LANES];
	__m128i		key = _mm_loadu_si128(&k[0]);

#pragma GCC unroll 8
	for (int i = 0; i < n; i++)
		block[i] = _mm_xor_si128(_mm_set_epi32(0, 0, round, (int) half[i]), key);
#pragma GCC unroll 9
	for (int j = 1; j < AES128_ROUND_KEYS - 1; j++)
	{
		key = _mm_loadu_si128(&k[j]);
#pragma GCC unroll 8
		for (int i = 0; i < n; i++)
			block[i] = _mm_aesenc_si128(block[i], key);
	}
	key = _mm_loadu_si128(&k[AES128_ROUND_KEYS - 1]);
#pragma GCC unroll 8
	for (int i = 0; i < n; i++)
		out[i] = (uint32) _mm_cvtsi128_si32(_mm_aesenclast_si128(block[i], key));
}

/* One number, which is all that a lookup or an insert has: in registers */
AESNI_TARGET static void
aesni_permute_one(const CmekPermutation *self, uint64 *value, bool inverse)
{
	permute_by(aesni_round, self, value, 1, 1, inverse);
}

/* Several numbers, side by side */
AESNI_TARGET static void
aesni_permute_some(const CmekPermutation *self, uint64 *values, int n,
				   bool inverse)
{
	permute_by(aesni_round, self, values, n, LANES, inverse);
}

#endif

/* A round by OpenSSL, all blocks in one call */
static void
openssl_round(const CmekPermutation *self, int round, const uint32 *half,
			  uint32 *out, int n)
{
	uint32		in[LANES][AES_BLOCK_LEN / sizeof(uint32)] = {0};
	uint32		blocks[LANES][AES_BLOCK_LEN / sizeof(uint32)];
	int			len;

	for (int i = 0; i < n; i++)
	{
		in[i][0] = half[i];
		in[i][1] = round;
	}
	if (!EVP_EncryptUpdate(self->evp, (uint8 *) blocks, &len,
						   (uint8 *) in, n * AES_BLOCK_LEN))
		cmek_openssl_error("EVP_EncryptUpdate");
	for (int i = 0; i < n; i++)
		out[i] = blocks[i][0];
}

/* All rounds by OpenSSL; out of the way of the short code above */
static pg_noinline void
openssl_permute(const CmekPermutation *self, uint64 *values, int n,
				bool inverse)
{
	permute_by(openssl_round, self, values, n, n, inverse);
}

/* Up to LANES numbers */
static inline void
permute_some(const CmekPermutation *self, uint64 *values, int n, bool inverse)
{
#ifdef PERMUTE_AESNI
	if (likely(self->evp == NULL))
	{
		if (n == 1)
			aesni_permute_one(self, values, inverse);
		else
			aesni_permute_some(self, values, n, inverse);
		return;
	}
#endif
	openssl_permute(self, values, n, inverse);
}

/* See crypto.h. */
void
cmek_permute(const CmekPermutation *self, uint64 *values, int n, bool inverse)
{
	for (int i = 0; i < n; i += LANES)
		permute_some(self, values + i, Min(n - i, LANES), inverse);
}

/* Have the key expanded by whom cmek.crypto allows */
static void
permute_init(CmekPermutation *self, const uint8 *key)
{
#ifdef PERMUTE_AESNI
	if (cmek_crypto != CMEK_CRYPTO_OPENSSL && __builtin_cpu_supports("aes"))
	{
		aesni_expand(self, key);
		return;
	}
#endif
	self->evp = EVP_CIPHER_CTX_new();
	if (self->evp == NULL ||
		!EVP_EncryptInit_ex2(self->evp, EVP_aes_128_ecb(), key, NULL, NULL) ||
		!EVP_CIPHER_CTX_set_padding(self->evp, 0))
	{
		EVP_CIPHER_CTX_free(self->evp);
		cmek_secret_free(self);
		cmek_openssl_error("EVP_EncryptInit_ex2");
	}
}

/* See crypto.h. */
CmekPermutation *
cmek_permutation_create(const uint8 *key)
{
	CmekPermutation *self;
	uint8		derived[32];

	cmek_secret_forbid_core_dump();
	cmek_hmac_sha256(key, CMEK_KEY_LEN, PERMUTE_LABEL, strlen(PERMUTE_LABEL),
					 derived);
	self = cmek_secret_alloc(sizeof(CmekPermutation));
	StaticAssertStmt(AES128_KEY_LEN <= sizeof(derived), "enough was derived");
	permute_init(self, derived);
	cmek_cleanse(derived, sizeof(derived));
	return self;
}

/* See crypto.h. */
void
cmek_permutation_free(CmekPermutation *self)
{
	EVP_CIPHER_CTX_free(self->evp);
	cmek_secret_free(self);
}
