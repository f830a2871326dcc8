/*-------------------------------------------------------------------------
 *
 * aead.h
 *	  What an implementation of AES-256-GCM is, inside this folder.
 *
 * Nothing outside src/crypto includes this header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_AEAD_H
#define CMEK_AEAD_H

#include "lib/ilist.h"

#include "crypto/crypto.h"

typedef struct CmekAeadImpl
{
	const char *name;			/* also the value of cmek.crypto */
	Size		size;			/* of its context, CmekAead included */

	/* expand the key into a zeroed context; if false, nothing is left behind */
	bool		(*init) (CmekAead *aead, const uint8 *key);

	/* writes ciphertext | tag to "out"; ERROR only if the library fails */
	void		(*seal) (CmekAead *aead, uint8 *out, const uint8 *nonce,
						 const void *plain, Size len,
						 const void *aad, Size aadlen);

	/* "sealed" as in crypto.h; when false, "plain" may hold anything */
	bool		(*open) (CmekAead *aead, void *plain, const uint8 *sealed,
						 Size len, const void *aad, Size aadlen);

	/* release what lies outside the context; NULL when there is nothing */
	void		(*fini) (CmekAead *aead);
} CmekAeadImpl;

/* Head of every context; all of it is in secret memory */
struct CmekAead
{
	const CmekAeadImpl *impl;
	dlist_node	live;			/* contexts of this process */
};

extern const CmekAeadImpl cmek_aead_openssl;

/*
 * The library's best for this processor, or its AVX2 code; NULL, and a
 * sentence why, when that cannot be used here
 */
extern const CmekAeadImpl *cmek_aead_ipsecmb(bool avx2, const char **reason);

/* A nonce that was never handed out before */
extern void cmek_nonce(uint8 *nonce);

/* ERROR for a call to OpenSSL that did not work */
extern void cmek_openssl_error(const char *function);

#endif							/* CMEK_AEAD_H */
