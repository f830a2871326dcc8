/*-------------------------------------------------------------------------
 *
 * aead_openssl.c
 *	  AES-256-GCM by OpenSSL: any processor, and the FIPS provider where the
 *	  system is configured for it.
 *
 * Owns one EVP context for each key, used again for every value: only the
 * nonce and the direction change between calls.
 *
 * OpenSSL keeps the expanded key in its own heap, which is not locked; it is
 * cleansed by EVP_CIPHER_CTX_free.  The cipher is fetched with the default
 * properties, so that "fips=yes" in openssl.cnf is obeyed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include "crypto/aead.h"

#define DECRYPT 0
#define ENCRYPT 1

typedef struct OpensslAead
{
	CmekAead	base;
	EVP_CIPHER_CTX *ctx;
} OpensslAead;

/* ERROR for a call to OpenSSL that did not work */
void
cmek_openssl_error(const char *function)
{
	const char *reason = ERR_reason_error_string(ERR_get_error());

	/* libpq and the server's TLS read the same queue */
	ERR_clear_error();
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("%s() failed: %s", function,
					reason != NULL ? reason : "no reason given")));
}

/* The cipher, looked up once in a process; NULL when OpenSSL has none */
static const EVP_CIPHER *
openssl_cipher(void)
{
	static EVP_CIPHER *cipher = NULL;

	if (cipher == NULL)
		cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	return cipher;
}

/* Expand the key */
static bool
openssl_init(CmekAead *aead, const uint8 *key)
{
	OpensslAead *self = (OpensslAead *) aead;
	const EVP_CIPHER *cipher = openssl_cipher();

	self->ctx = cipher != NULL ? EVP_CIPHER_CTX_new() : NULL;
	if (self->ctx != NULL &&
		EVP_CipherInit_ex2(self->ctx, cipher, key, NULL, ENCRYPT, NULL))
		return true;

	EVP_CIPHER_CTX_free(self->ctx);
	return false;
}

/* Begin a value: nonce, direction and associated data */
static void
openssl_begin(EVP_CIPHER_CTX *ctx, int direction, const uint8 *nonce,
			  const void *aad, Size aadlen)
{
	int			n;

	if (!EVP_CipherInit_ex2(ctx, NULL, NULL, nonce, direction, NULL))
		cmek_openssl_error("EVP_CipherInit_ex2");
	if (aadlen > 0 && !EVP_CipherUpdate(ctx, NULL, &n, aad, (int) aadlen))
		cmek_openssl_error("EVP_CipherUpdate");
}

/* Run the bytes of a value through the cipher */
static void
openssl_update(EVP_CIPHER_CTX *ctx, void *out, const void *in, Size len)
{
	int			n = 0;

	if (len == 0)
		return;
	if (!EVP_CipherUpdate(ctx, out, &n, in, (int) len) || n != (int) len)
	{
		cmek_cleanse(out, len);
		cmek_openssl_error("EVP_CipherUpdate");
	}
}

/* Seal */
static void
openssl_seal(CmekAead *aead, uint8 *out, const uint8 *nonce,
			 const void *plain, Size len, const void *aad, Size aadlen)
{
	EVP_CIPHER_CTX *ctx = ((OpensslAead *) aead)->ctx;
	int			n;

	openssl_begin(ctx, ENCRYPT, nonce, aad, aadlen);
	openssl_update(ctx, out, plain, len);
	if (!EVP_CipherFinal_ex(ctx, out + len, &n))
		cmek_openssl_error("EVP_CipherFinal_ex");
	if (!EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, CMEK_TAG_LEN,
							 out + len))
		cmek_openssl_error("EVP_CIPHER_CTX_ctrl");
}

/* Open; OpenSSL compares the tag in constant time */
static bool
openssl_open(CmekAead *aead, void *plain, const uint8 *sealed, Size len,
			 const void *aad, Size aadlen)
{
	EVP_CIPHER_CTX *ctx = ((OpensslAead *) aead)->ctx;
	const uint8 *ciphertext = sealed + CMEK_NONCE_LEN;
	uint8		none[CMEK_TAG_LEN];
	int			n;

	openssl_begin(ctx, DECRYPT, sealed, aad, aadlen);
	if (!EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, CMEK_TAG_LEN,
							 unconstify(uint8 *, ciphertext) + len))
		cmek_openssl_error("EVP_CIPHER_CTX_ctrl");
	openssl_update(ctx, plain, ciphertext, len);
	if (EVP_CipherFinal_ex(ctx, none, &n) > 0)
		return true;

	ERR_clear_error();
	return false;
}

/* Free the EVP context, which cleanses it */
static void
openssl_fini(CmekAead *aead)
{
	EVP_CIPHER_CTX_free(((OpensslAead *) aead)->ctx);
}

const CmekAeadImpl cmek_aead_openssl = {
	.name = "openssl",
	.size = sizeof(OpensslAead),
	.init = openssl_init,
	.seal = openssl_seal,
	.open = openssl_open,
	.fini = openssl_fini
};
