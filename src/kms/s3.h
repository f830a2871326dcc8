/*-------------------------------------------------------------------------
 *
 * kms/s3.h
 *	  Requests to one bucket of S3, with the host's own identity.
 *
 * For the store of snapshots (lifecycle/s3store.c), in a backend or in the
 * visitor: unlike a call of a provider, a wait ends with an ERROR when the
 * query is cancelled.  The setting that names the bucket is a superuser's,
 * so the host's identity is not lent to anybody.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_S3_H
#define CMEK_KMS_S3_H

#include "kms/s3wire.h"

typedef struct CmekS3Client CmekS3Client;

/*
 * A client in the current memory context; NULL, with the answer filled in,
 * when its settings cannot be used.  "endpoint" and "region" may be "": AWS's
 * own; cmek.region, then the environment's.
 */
extern CmekS3Client *cmek_s3_open(const char *bucket, const char *endpoint,
								  const char *region, CmekKmsAnswer *answer);

/* The region that requests go to */
extern const char *cmek_s3_region(const CmekS3Client *client);

typedef struct CmekS3Answer
{
	int			status;
	Size		len;			/* of what is in the area; a NUL follows */
	char		etag[CMEK_S3_MAX_ETAG]; /* "": none */
	char		range[96];		/* Content-Range; "": none */
	char		region[CMEK_AWS_MAX_REGION];	/* of a failure: where the
												 * bucket is; "": not said */
} CmekS3Answer;

/*
 * Do one thing, with retries, for at most limit_s seconds; params->hash
 * is computed here.  The answer's body goes to the area.  False, with the
 * kms answer filled in, unless S3 did it.
 */
extern bool cmek_s3_run(CmekS3Client *client, CmekS3Params *params,
						char *area, Size area_size, int limit_s,
						CmekS3Answer *s3, CmekKmsAnswer *answer);

#endif							/* CMEK_KMS_S3_H */
