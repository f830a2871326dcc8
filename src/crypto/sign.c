/*-------------------------------------------------------------------------
 *
 * sign.c
 *	  RS256 signatures by OpenSSL, for assertions of a service account.
 *
 * The private key lives for the length of one call.  A key that cannot be
 * read is the caller's business, not an ERROR: it comes from a user's file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "crypto/crypto.h"

/* Nobody is there to be asked for a password. */
static int
no_password(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

/* Read an RSA key of at least 2048 bits; NULL when it is none. */
static EVP_PKEY *
read_key(const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *key = bio == NULL ? NULL :
		PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);

	BIO_free(bio);
	if (key != NULL && (EVP_PKEY_get_base_id(key) != EVP_PKEY_RSA ||
						EVP_PKEY_get_bits(key) < 2048))
	{
		EVP_PKEY_free(key);
		key = NULL;
	}
	return key;
}

/* See crypto.h. */
bool
cmek_sign_rs256(const char *pem, const void *data, Size len,
				uint8 *signature, Size *siglen)
{
	EVP_PKEY   *key = read_key(pem);
	EVP_MD_CTX *context = key == NULL ? NULL : EVP_MD_CTX_new();
	size_t		room = CMEK_MAX_SIGNATURE;
	bool		ok;

	ok = context != NULL &&
		EVP_PKEY_get_size(key) <= CMEK_MAX_SIGNATURE &&
		EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) == 1 &&
		EVP_DigestSign(context, signature, &room, data, len) == 1;
	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	ERR_clear_error();
	*siglen = ok ? room : 0;
	return ok;
}
