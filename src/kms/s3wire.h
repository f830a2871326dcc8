/*-------------------------------------------------------------------------
 *
 * kms/s3wire.h
 *	  What is said to S3 and what it says: bytes in, bytes out.
 *
 * Nothing here touches a network or a clock, allocates PostgreSQL memory or
 * throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_S3WIRE_H
#define CMEK_KMS_S3WIRE_H

#include "kms/aws.h"
#include "kms/text.h"

#define CMEK_S3_MAX_BUCKET 64
#define CMEK_S3_MAX_KEY 1025	/* S3's own limit, and a NUL */
#define CMEK_S3_MAX_UPLOAD_ID 1024
#define CMEK_S3_MAX_ETAG 128
#define CMEK_S3_MAX_URL 8192
#define CMEK_S3_MAX_PARTS 10000 /* S3's own limit */
#define CMEK_S3_HASH_LEN 32
/* Most that one part takes in the body that completes an upload */
#define CMEK_S3_PART_TEXT 320

/* "s3://bucket/prefix", taken apart; the prefix ends with "/" or is empty */
typedef struct CmekS3Location
{
	char		bucket[CMEK_S3_MAX_BUCKET];
	char		prefix[CMEK_S3_MAX_KEY];
} CmekS3Location;

/* False, with a sentence in *problem, when it is no such address */
extern bool cmek_s3_location(const char *url, CmekS3Location *location,
							 const char **problem);

/*
 * Where requests for a bucket go: "url" (scheme://host[:port]), which then has
 * the bucket in its path; or, when it is NULL, AWS's own address, which has it
 * in the host's name, unless the name has a dot, which certificates do not
 * cover.
 */
typedef struct CmekS3Endpoint
{
	CmekAwsEndpoint aws;
	bool		bucket_in_path;
} CmekS3Endpoint;

extern bool cmek_s3_endpoint(const char *url, const char *bucket,
							 const char *region, CmekS3Endpoint *endpoint);

/* Bytes of part n (from 1) of a file; all 10,000 have room for 5 TiB */
extern Size cmek_s3_part_size(int n);

typedef enum CmekS3Operation
{
	CMEK_S3_PUT,				/* a whole object */
	CMEK_S3_CREATE,				/* begin an upload */
	CMEK_S3_PART,
	CMEK_S3_COMPLETE,
	CMEK_S3_ABORT,
	CMEK_S3_GET,				/* a range of an object */
	CMEK_S3_DELETE
} CmekS3Operation;

/* What is asked for */
typedef struct CmekS3Params
{
	CmekS3Operation op;
	const char *key;			/* of the object */
	const char *upload_id;		/* PART, COMPLETE, ABORT */
	int			part;			/* PART */
	const char *encryption;		/* PUT, CREATE: x-amz-server-side-encryption;
								 * "": as the bucket says */
	int64		from;			/* GET: first byte */
	int64		to;				/* GET: last byte */
	const char *etag;			/* GET: only if it is this one still; or NULL */
	const char *body;
	Size		body_len;
	uint8		hash[CMEK_S3_HASH_LEN]; /* SHA-256 of the body */
} CmekS3Params;

/* A signed request, in an area of secret memory */
#define CMEK_S3_HEADERS 11
typedef struct CmekS3Request
{
	const char *method;
	char		url[CMEK_S3_MAX_URL];
	int			nheaders;
	const char *headers[CMEK_S3_HEADERS];	/* "name: value" */
	char		lines[CMEK_AWS_MAX_TOKEN + 4096];	/* what they point to */
	char		scratch[CMEK_AWS_MAX_TOKEN + CMEK_S3_MAX_URL + 2048];
} CmekS3Request;

/* Build a request and sign it; false when it does not fit */
extern bool cmek_s3_sign(const CmekS3Endpoint *endpoint, const char *bucket,
						 const CmekS3Params *params,
						 const CmekAwsCredentials *credentials, int64 now,
						 CmekS3Request *request);

/* A part that S3 has */
typedef struct CmekS3Part
{
	char		etag[CMEK_S3_MAX_ETAG];
	uint8		hash[CMEK_S3_HASH_LEN];
} CmekS3Part;

/* The body that completes an upload of n parts */
extern void cmek_s3_complete_body(const CmekS3Part *parts, int n,
								  CmekText *body);

/* Can it stand in a header and in XML as it is? */
extern bool cmek_s3_good_etag(const char *etag);
extern bool cmek_s3_read_upload_id(const char *body, Size len, char *id,
								   Size size);
/* Status 200 alone does not say that an upload was completed */
extern bool cmek_s3_read_completed(const char *body, Size len);
/* "bytes 0-99/1234" */
extern bool cmek_s3_read_range(const char *value, int64 *from, int64 *to,
							   int64 *total);
/* The region that an error says the bucket is in; false when it says none */
extern bool cmek_s3_read_region(const char *body, Size len, char *region,
								Size size);
/* As cmek_aws_classify, with S3's own errors */
extern CmekKmsClass cmek_s3_classify(int status, const CmekAwsError *error,
									 CmekAwsRemedy *remedy);

#endif							/* CMEK_KMS_S3WIRE_H */
