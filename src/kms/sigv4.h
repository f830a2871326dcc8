/*-------------------------------------------------------------------------
 *
 * kms/sigv4.h
 *	  AWS Signature Version 4, for requests that are signed in full.
 *
 * An own signer and not libcurl's, because that one cannot be told the time
 * (clock skew) and signs every header it is given.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_SIGV4_H
#define CMEK_KMS_SIGV4_H

#define CMEK_SIGV4_DATE_LEN 17	/* "20150830T123600Z" with its NUL */
#define CMEK_SIGV4_MAX_HEADERS 8

typedef struct CmekSigV4Header
{
	const char *name;			/* lower case */
	const char *value;			/* no blanks around it, none doubled */
} CmekSigV4Header;

/* What is signed */
typedef struct CmekSigV4Request
{
	const char *method;
	const char *path;			/* canonical: encoded (S3: once, the others
								 * twice), "/" when empty */
	const char *query;			/* canonical: encoded and sorted; or "" */
	CmekSigV4Header headers[CMEK_SIGV4_MAX_HEADERS];	/* in order of name */
	int			nheaders;
	const char *body;
	Size		body_len;
	const char *payload_hash;	/* of the body, in hex, when it is known; or
								 * NULL */
} CmekSigV4Request;

/* Who signs, and for what */
typedef struct CmekSigV4Signer
{
	const char *access_key_id;
	const char *secret_access_key;
	const char *region;
	const char *service;
} CmekSigV4Signer;

/* Write a time, in seconds since 1970, as SigV4 wants it */
extern void cmek_sigv4_date(int64 seconds, char *date);

/*
 * Write "Authorization: AWS4-HMAC-SHA256 ..." for a request signed at a date,
 * which must also be its x-amz-date header.  False when it does not fit.
 * "scratch" holds the canonical request, which has the session token in it.
 */
extern bool cmek_sigv4_sign(const CmekSigV4Signer *signer,
							const CmekSigV4Request *request,
							const char *date, char *scratch, Size scratch_size,
							char *out, Size size);

#endif							/* CMEK_KMS_SIGV4_H */
