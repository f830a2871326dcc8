/*-------------------------------------------------------------------------
 *
 * mac.c
 *	  HMAC-SHA256 by OpenSSL, for fingerprints and chained records, and keys
 *	  derived by it.
 *
 * Must never be used on a row: one call allocates and looks things up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "crypto/aead.h"

#define SHA256_LEN 32

/* HMAC-SHA256 (RFC 2104, FIPS 198-1); writes 32 bytes */
void
cmek_hmac_sha256(const uint8 *key, Size keylen, const void *data, Size len,
				 uint8 *out)
{
	size_t		outlen = 0;

	if (EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, key, keylen,
				  data, len, out, SHA256_LEN, &outlen) == NULL ||
		outlen != SHA256_LEN)
		cmek_openssl_error("EVP_Q_mac");
}

/*
 * HKDF-Expand (RFC 5869, 2.3) of a 256-bit key, its first and only block:
 * HMAC(key, info | 0x01).  Writes CMEK_KEY_LEN bytes.
 */
void
cmek_derive_key(const uint8 *key, const char *info, uint8 *out)
{
	Size		len = strlen(info);
	uint8	   *block = palloc(len + 1);

	memcpy(block, info, len);
	block[len] = 1;
	cmek_hmac_sha256(key, CMEK_KEY_LEN, block, len + 1, out);
	pfree(block);
}
