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

/* The halves of up to LANES numbers */
typedef struct Halves
{
	uint32		left[LANES];
	uint32		right[LANES];
} Halves;

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

/* One number, or all lanes */
AESNI_TARGET static void
aesni_round_n(const CmekPermutation *self, int round, const uint32 *half,
			  uint32 *out, int n)
{
	if (n == 1)
		aesni_round(self, round, half, out, 1);
	else
		aesni_round(self, round, half, out, LANES);
}

#endif

/* The same by OpenSSL */
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

/* The round function */
static inline void
permute_round(const CmekPermutation *self, int round, const uint32 *half,
			  uint32 *out, int n)
{
#ifdef PERMUTE_AESNI
	if (likely(self->evp == NULL))
	{
		aesni_round_n(self, round, half, out, n);
		return;
	}
#endif
	openssl_round(self, round, half, out, n);
}

/* All rounds: "other" is changed by the image of "half", then they swap */
static void
permute_halves(const CmekPermutation *self, Halves *h, int n, bool inverse)
{
	uint32		image[LANES];

	for (int i = 0; i < PERMUTE_ROUNDS; i++)
	{
		int			round = inverse ? PERMUTE_ROUNDS - 1 - i : i;
		uint32	   *half = inverse ? h->left : h->right;
		uint32	   *other = inverse ? h->right : h->left;

		permute_round(self, round, half, image, n);
		for (int j = 0; j < n; j++)
		{
			uint32		changed = other[j] ^ (image[j] & HALF_MASK);

			other[j] = half[j];
			half[j] = changed;
		}
	}
}

/* See crypto.h. */
void
cmek_permute(const CmekPermutation *self, uint64 *values, int n, bool inverse)
{
	Halves		h = {{0}, {0}};

	while (n > 0)
	{
		int			now = Min(n, LANES);

		for (int i = 0; i < now; i++)
		{
			h.left[i] = (values[i] >> HALF_BITS) & HALF_MASK;
			h.right[i] = values[i] & HALF_MASK;
		}
		permute_halves(self, &h, now, inverse);
		for (int i = 0; i < now; i++)
			values[i] = ((uint64) h.left[i] << HALF_BITS) | h.right[i];
		values += now;
		n -= now;
	}
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
