/*-------------------------------------------------------------------------
 *
 * sha256.c
 *	  SHA-256 by OpenSSL, for the signatures that a KMS wants on requests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "crypto/aead.h"

/* SHA-256 (FIPS 180-4); writes 32 bytes */
void
cmek_sha256(const void *data, Size len, uint8 *out)
{
	unsigned int outlen = 0;

	if (EVP_Digest(data, len, out, &outlen, EVP_sha256(), NULL) != 1 ||
		outlen != CMEK_SHA256_LEN)
		cmek_openssl_error("EVP_Digest");
}
