/*-------------------------------------------------------------------------
 *
 * certificate.c
 *	  Thumbprints of an X.509 certificate, by OpenSSL.
 *
 * SHA-1 is here because Microsoft's identity platform finds a certificate by
 * it; nothing is trusted for its sake.  What cannot be read is the caller's
 * business, not an ERROR: it comes from a user's file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "crypto/crypto.h"

/* Nobody is there to be asked for a password. */
static int
no_password(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

/* A digest of the certificate, which must have this length. */
static bool
digest(const X509 *certificate, const EVP_MD *method, unsigned int len,
	   uint8 *out)
{
	unsigned int got = 0;
	uint8		area[EVP_MAX_MD_SIZE];

	if (X509_digest(certificate, method, area, &got) != 1 || got != len)
		return false;
	memcpy(out, area, len);
	return true;
}

/* See crypto.h. */
bool
cmek_certificate_thumbprints(const char *pem, uint8 *sha1, uint8 *sha256)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	X509	   *certificate = bio == NULL ? NULL :
		PEM_read_bio_X509(bio, NULL, no_password, NULL);
	EVP_PKEY   *key = NULL;
	bool		ok;

	/* the key may stand before the certificate or after it */
	BIO_free(bio);
	bio = certificate == NULL ? NULL : BIO_new_mem_buf(pem, -1);
	if (bio != NULL)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
	BIO_free(bio);
	ok = key != NULL && X509_check_private_key(certificate, key) == 1 &&
		digest(certificate, EVP_sha1(), CMEK_SHA1_LEN, sha1) &&
		digest(certificate, EVP_sha256(), CMEK_SHA256_LEN, sha256);
	EVP_PKEY_free(key);
	X509_free(certificate);
	ERR_clear_error();
	return ok;
}
