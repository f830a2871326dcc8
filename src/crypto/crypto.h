/*-------------------------------------------------------------------------
 *
 * crypto.h
 *	  AES-256-GCM, randomness and secret memory: all of cmek's cryptography.
 *
 * Only this folder knows OpenSSL's ciphers or libipsec-mb.  See README.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_CRYPTO_H
#define CMEK_CRYPTO_H

#include "format.h"

/* setting cmek.crypto */
typedef enum CmekCryptoChoice
{
	CMEK_CRYPTO_AUTO,
	CMEK_CRYPTO_IPSECMB,
	CMEK_CRYPTO_IPSECMB_AVX2,
	CMEK_CRYPTO_OPENSSL
} CmekCryptoChoice;

extern PGDLLIMPORT int cmek_crypto;

/*
 * One expanded AES-256 key, in secret memory.  A context belongs to the
 * process that made it.
 */
typedef struct CmekAead CmekAead;

/*
 * Expand a key.  ERROR when the chosen implementation is not available.  The
 * context lives until cmek_aead_free or the end of the process, which leaves
 * no core dump from here on (cmek_secret_forbid_core_dump).
 */
extern CmekAead *cmek_aead_create(const uint8 *key);
extern CmekAead *cmek_aead_create_with(const uint8 *key, CmekCryptoChoice impl);
extern void cmek_aead_free(CmekAead *aead);

/*
 * Seal: writes nonce | ciphertext | tag, len + CMEK_AEAD_OVERHEAD bytes, to
 * "out", which must not overlap "plain".  The nonce is random.
 */
extern void cmek_aead_seal(CmekAead *aead, uint8 *out,
						   const void *plain, Size len,
						   const void *aad, Size aadlen);

/* The same under a given nonce: for known-answer tests only */
extern void cmek_aead_seal_nonce(CmekAead *aead, uint8 *out,
								 const uint8 *nonce,
								 const void *plain, Size len,
								 const void *aad, Size aadlen);

/*
 * Open: "sealed" is nonce | ciphertext (len bytes) | tag.  False when the tag
 * does not fit; then "plain" holds zeros.  The two must not overlap.
 */
extern bool cmek_aead_open(CmekAead *aead, void *plain,
						   const uint8 *sealed, Size len,
						   const void *aad, Size aadlen);

/* Which implementation a context uses: "ipsec-mb" or "openssl" */
extern const char *cmek_aead_name(const CmekAead *aead);
/* ... and which one a new context would use */
extern const char *cmek_crypto_implementation(void);

/* HMAC-SHA256, 32 bytes out (fingerprints, MACs) */
extern void cmek_hmac_sha256(const uint8 *key, Size keylen,
							 const void *data, Size len, uint8 *out);

/* SHA-256, CMEK_SHA256_LEN bytes out (signatures on requests to a KMS) */
#define CMEK_SHA256_LEN 32
extern void cmek_sha256(const void *data, Size len, uint8 *out);

/* HKDF-Expand of RFC 5869 with SHA-256, one block: a key out of a key */
extern void cmek_derive_key(const uint8 *key, const char *info, uint8 *out);

/*
 * Sign with an RSA key in PEM (RSASSA-PKCS1-v1_5, SHA-256: "RS256" of RFC
 * 7518).  False when it is no such key of 2048 bits or more.
 */
#define CMEK_MAX_SIGNATURE 1024
extern bool cmek_sign_rs256(const char *pem, const void *data, Size len,
							uint8 *signature, Size *siglen);

/*
 * The thumbprints of the first certificate in a PEM text: digests of its DER.
 * False when there is none, or it is not of the private key in the same text.
 */
#define CMEK_SHA1_LEN 20
extern bool cmek_certificate_thumbprints(const char *pem, uint8 *sha1,
										 uint8 *sha256);

/* ----------
 * A keyed permutation of 44-bit numbers (permute.c).  Its key is derived from
 * a data key, and good for nothing else.
 * ----------
 */
#define CMEK_PERMUTE_BITS 44

typedef struct CmekPermutation CmekPermutation;

extern CmekPermutation *cmek_permutation_create(const uint8 *key);
extern void cmek_permutation_free(CmekPermutation *permutation);
/* Permute n numbers in place, or undo it; eight at once cost little more than one */
extern void cmek_permute(const CmekPermutation *permutation, uint64 *values,
						 int n, bool inverse);

/* Strong random bytes; ERROR when there are none */
extern void cmek_random(void *out, Size len);
/* A fresh random UUID (version 4) */
extern void cmek_random_uuid(uint8 *out);

/* ----------
 * Secret memory: locked and left out of core dumps where the system allows
 * it (one WARNING a process where not), cleansed when freed.
 * ----------
 */
/* Lives until cmek_secret_free; never moved.  64-byte aligned, zeroed. */
extern void *cmek_secret_alloc(Size size);
extern void cmek_secret_free(void *ptr);

/*
 * Lives until the memory context is reset or deleted, also by an error: the
 * way to hold a key for the length of a call.  Not for cmek_secret_free.
 */
extern void *cmek_secret_alloc_in(MemoryContext context, Size size);

/* Overwrite in a way that the compiler cannot drop */
extern void cmek_cleanse(void *ptr, Size len);

/* Constant-time comparison */
extern bool cmek_equal(const void *a, const void *b, Size len);

/*
 * Lock a range of already allocated (e.g. shared) memory, the whole pages in
 * it, and leave it out of core dumps.  Returns false, errno set, where the
 * system refuses one or the other (as it may on huge pages).
 */
extern bool cmek_secret_protect(void *addr, Size size);

/*
 * No core dump of this process from here on: it is about to hold plaintext.
 * Does nothing when cmek.allow_core_dumps is on.
 */
extern void cmek_secret_forbid_core_dump(void);
extern PGDLLIMPORT bool cmek_allow_core_dumps;

/* Register this folder's settings; called once by _PG_init */
extern void cmek_crypto_init(void);

#endif							/* CMEK_CRYPTO_H */
