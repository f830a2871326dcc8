/*-------------------------------------------------------------------------
 *
 * sigv4.c
 *	  AWS Signature Version 4.
 *
 *	 canonical request = method, path, query, headers, names, hash of body
 *	 string to sign	   = "AWS4-HMAC-SHA256", date, scope, hash of the above
 *	 key			   = HMAC chain of "AWS4" secret, day, region, service
 *	 signature		   = HMAC(key, string to sign)
 *
 * Source: AWS, "Create a signed AWS API request".  Checked with the vectors
 * of AWS's own test suite (test/t/080_aws_pure.pl).
 *
 * Pure functions; derived keys are cleansed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "crypto/crypto.h"
#include "kms/sigv4.h"
#include "kms/text.h"

#define DAY_LEN 8				/* "20150830" */

/* Write a time as "20150830T123600Z". */
void
cmek_sigv4_date(int64 seconds, char *date)
{
	time_t		t = (time_t) seconds;
	struct tm	tm;

	if (gmtime_r(&t, &tm) == NULL ||
		strftime(date, CMEK_SIGV4_DATE_LEN, "%Y%m%dT%H%M%SZ", &tm) == 0)
		strlcpy(date, "19700101T000000Z", CMEK_SIGV4_DATE_LEN);
}

/* Append the names of the signed headers. */
static void
add_signed_names(CmekText *text, const CmekSigV4Request *request)
{
	for (int i = 0; i < request->nheaders; i++)
		cmek_text_printf(text, "%s%s", i > 0 ? ";" : "",
						 request->headers[i].name);
}

/* Append the hash of some bytes. */
static void
add_hash(CmekText *text, const void *data, Size len)
{
	uint8		hash[CMEK_SHA256_LEN];

	cmek_sha256(data, len, hash);
	cmek_text_add_hex(text, hash, sizeof(hash));
}

/* Build the canonical request. */
static void
build_canonical(CmekText *text, const CmekSigV4Request *request)
{
	cmek_text_printf(text, "%s\n%s\n%s\n", request->method, request->path,
					 request->query);
	for (int i = 0; i < request->nheaders; i++)
	{
		cmek_text_add(text, request->headers[i].name);
		cmek_text_add(text, ":");
		cmek_text_add(text, request->headers[i].value);
		cmek_text_add(text, "\n");
	}
	cmek_text_add(text, "\n");
	add_signed_names(text, request);
	cmek_text_add(text, "\n");
	if (request->payload_hash != NULL)
		cmek_text_add(text, request->payload_hash);
	else
		add_hash(text, request->body, request->body_len);
}

/* HMAC of a string, by a key, over that key. */
static void
chain(uint8 *key, const char *string)
{
	uint8		next[CMEK_SHA256_LEN];

	cmek_hmac_sha256(key, CMEK_SHA256_LEN, string, strlen(string), next);
	memcpy(key, next, CMEK_SHA256_LEN);
	cmek_cleanse(next, sizeof(next));
}

/* Derive the signing key of a day. */
static bool
derive_key(const CmekSigV4Signer *signer, const char *day, uint8 *key)
{
	char		secret[512];
	CmekText	text;

	cmek_text_init(&text, secret, sizeof(secret));
	cmek_text_add(&text, "AWS4");
	cmek_text_add(&text, signer->secret_access_key);
	if (!text.overflow)
	{
		cmek_hmac_sha256((const uint8 *) secret, text.len, day, strlen(day),
						 key);
		chain(key, signer->region);
		chain(key, signer->service);
		chain(key, "aws4_request");
	}
	cmek_cleanse(secret, sizeof(secret));
	return !text.overflow;
}

/* Sign a request: see sigv4.h. */
bool
cmek_sigv4_sign(const CmekSigV4Signer *signer, const CmekSigV4Request *request,
				const char *date, char *scratch, Size scratch_size,
				char *out, Size size)
{
	char		day[DAY_LEN + 1];
	char		scope[256];
	char		to_sign[512];
	uint8		key[CMEK_SHA256_LEN];
	CmekText	canonical;
	CmekText	text;

	strlcpy(day, date, sizeof(day));
	cmek_text_init(&canonical, scratch, scratch_size);
	build_canonical(&canonical, request);

	cmek_text_init(&text, scope, sizeof(scope));
	cmek_text_printf(&text, "%s/%s/%s/aws4_request", day, signer->region,
					 signer->service);
	if (canonical.overflow || text.overflow)
		return false;

	cmek_text_init(&text, to_sign, sizeof(to_sign));
	cmek_text_printf(&text, "AWS4-HMAC-SHA256\n%s\n%s\n", date, scope);
	add_hash(&text, canonical.data, canonical.len);
	if (text.overflow || !derive_key(signer, day, key))
		return false;
	chain(key, to_sign);

	cmek_text_init(&text, out, size);
	cmek_text_printf(&text,
					 "Authorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=",
					 signer->access_key_id, scope);
	add_signed_names(&text, request);
	cmek_text_add(&text, ", Signature=");
	cmek_text_add_hex(&text, key, sizeof(key));
	cmek_cleanse(key, sizeof(key));
	return !text.overflow;
}
