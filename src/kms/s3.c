/*-------------------------------------------------------------------------
 *
 * s3.c
 *	  One request to S3, from credentials to answer.
 *
 *	 get credentials --> sign, send --> 2xx
 *			 ^							error: classify
 *			 |							  clock differs: set it, once
 *			 +------ once, when they were remembered and are refused
 *
 * Every request may be repeated: parts and objects are written whole or not at
 * all.  Only an upload that is begun twice leaves one that nobody completes.
 *
 * Invariant: credentials and signed requests are in secret memory; what one
 * attempt allocates is gone with the next.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "crypto/crypto.h"
#include "kms/internal.h"
#include "kms/s3.h"

/* An attempt may take so long, and longer by what there is to transfer */
#define ATTEMPT_MS 30000
#define SLOWEST 256				/* bytes per ms */

struct CmekS3Client
{
	MemoryContext exchange;		/* of one request with its attempts */
	char		bucket[CMEK_S3_MAX_BUCKET];
	CmekS3Endpoint endpoint;
	CmekKmsConfig config;		/* no options: the host's identity */
	CmekAwsCall call;			/* for the chain of credentials */
	CmekS3Request *request;		/* secret memory */
};

/* One request with its attempts */
typedef struct Exchange
{
	CmekS3Client *client;
	const CmekS3Params *params;
	char	   *area;
	Size		area_size;
	CmekInstant deadline;
	CmekS3Answer *s3;
	CmekHttpAnswer http;
	CmekAwsRemedy remedy;
} Exchange;

/* The region for requests: see s3.h. */
static const char *
choose_region(const char *region)
{
	if (*region != '\0')
		return region;
	return cmek_region[0] != '\0' ? cmek_region : cmek_aws_environment_region();
}

/* Find out where requests go. */
static bool
settle_endpoints(CmekS3Client *client, const char *url, const char *region,
				 CmekKmsAnswer *answer)
{
	region = choose_region(region);
	if (*region == '\0')
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoRegion",
						"neither cmek.s3_region nor cmek.region says in which region the bucket is");
		return false;
	}
	if (cmek_s3_endpoint(*url != '\0' ? url : NULL, client->bucket, region,
						 &client->endpoint) &&
		cmek_aws_endpoint(NULL, "sts", region, &client->call.sts))
		return true;
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "BadAddress",
					"the region is not a region's name, or cmek.s3_endpoint is not \"https://host[:port]\"");
	return false;
}

/* Prepare for requests to a bucket: see s3.h. */
CmekS3Client *
cmek_s3_open(const char *bucket, const char *endpoint, const char *region,
			 CmekKmsAnswer *answer)
{
	CmekS3Client *client = palloc0(sizeof(CmekS3Client));
	CmekAwsCall *call = &client->call;

	strlcpy(client->bucket, bucket, sizeof(client->bucket));
	if (!settle_endpoints(client, endpoint, region, answer))
		return NULL;
	client->exchange = AllocSetContextCreate(CurrentMemoryContext,
											 "cmek S3 request",
											 ALLOCSET_DEFAULT_SIZES);
	strlcpy(client->config.provider, "cmek_aws",
			sizeof(client->config.provider));
	client->config.ambient = true;
	client->config.superuser = true;
	cmek_json_protect();
	call->config = &client->config;
	call->session_name = "cmek";
	call->external_id = "";
	call->credentials = cmek_kms_new_secret(sizeof(CmekAwsCredentials));
	call->request = cmek_kms_new_secret(sizeof(CmekAwsRequest));
	client->request = cmek_kms_new_secret(sizeof(CmekS3Request));
	return client;
}

/* See s3.h. */
const char *
cmek_s3_region(const CmekS3Client *client)
{
	return client->endpoint.aws.region;
}

/* ----------
 * One attempt
 * ----------
 */

/* When an attempt that begins now has to be over. */
static CmekInstant
attempt_end(const Exchange *x)
{
	Size		bytes = x->params->body_len + x->area_size;

	return Min(x->deadline,
			   cmek_instant_in(ATTEMPT_MS + bytes / SLOWEST));
}

/* Send the signed request. */
static bool
send_request(Exchange *x, CmekKmsAnswer *answer)
{
	const CmekS3Request *request = x->client->request;
	CmekHttpRequest http = {0};

	http.method = request->method;
	http.url = request->url;
	for (int i = 0; i < request->nheaders; i++)
		cmek_http_header(&http, request->headers[i]);
	http.body = x->params->body;
	http.body_len = x->params->body_len;
	http.plain = CMEK_HTTP_PLAIN_LOOPBACK;
	http.area = x->area;
	http.area_size = x->area_size;
	http.deadline = x->client->call.deadline;
	return cmek_http_run(&http, &x->http, answer);
}

/* Keep what the caller may want of an answer's head. */
static void
read_head(Exchange *x)
{
	CmekS3Answer *s3 = x->s3;

	s3->status = x->http.status;
	s3->len = x->http.body_len;
	(void) cmek_http_find(&x->http, "ETag", s3->etag, sizeof(s3->etag));
	(void) cmek_http_find(&x->http, "Content-Range", s3->range,
						  sizeof(s3->range));
	if (!cmek_s3_read_region(x->http.body, x->http.body_len, s3->region,
							 sizeof(s3->region)))
		(void) cmek_http_find(&x->http, "x-amz-bucket-region", s3->region,
							  sizeof(s3->region));
}

/* Did S3 do it?  Completing an upload may fail with status 200. */
static bool
succeeded(const Exchange *x)
{
	if (x->http.status < 200 || x->http.status > 299)
		return false;
	return x->params->op != CMEK_S3_COMPLETE ||
		cmek_s3_read_completed(x->http.body, x->http.body_len);
}

/* Classify an answer that is no success. */
static void
judge_error(Exchange *x, CmekKmsAnswer *answer)
{
	CmekAwsError error;
	CmekKmsClass klass;

	cmek_aws_read_error(NULL, x->http.body, x->http.body_len, &error);
	klass = cmek_s3_classify(x->http.status, &error, &x->remedy);
	if (error.code[0] == '\0')
	{
		snprintf(error.code, sizeof(error.code), "Http%d", x->http.status);
		strlcpy(error.message, "there is no error of S3's in the answer",
				sizeof(error.message));
		/* a bucket elsewhere is all that S3 says by a redirect */
		if (x->http.status >= 300 && x->http.status < 400)
			klass = CMEK_KMS_MISCONFIGURED;
	}
	if (error.message[0] == '\0')
		snprintf(error.message, sizeof(error.message), "HTTP status %d",
				 x->http.status);
	if (error.message[strlen(error.message) - 1] == '.')
		error.message[strlen(error.message) - 1] = '\0';
	cmek_kms_answer(answer, klass, error.code, "%s", error.message);
}

/* Sign with the credentials at hand, send, and see what comes of it. */
static bool
try_once(Exchange *x, int64 now, CmekKmsAnswer *answer)
{
	CmekS3Client *client = x->client;

	x->remedy = CMEK_AWS_NO_REMEDY;
	memset(&x->http, 0, sizeof(x->http));
	memset(x->s3, 0, sizeof(CmekS3Answer));
	if (!cmek_s3_sign(&client->endpoint, client->bucket, x->params,
					  client->call.credentials, now, client->request))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "RequestTooLong",
						"the credentials or the name of the object are too long");
		return false;
	}
	if (!send_request(x, answer))
		return false;
	read_head(x);
	if (succeeded(x))
	{
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
		return true;
	}
	judge_error(x, answer);
	return false;
}

/* Can a failure be mended by what we do ourselves? */
static bool
mend(Exchange *x, int64 signed_at)
{
	CmekAwsCall *call = &x->client->call;

	if (x->remedy == CMEK_AWS_SET_CLOCK)
		return cmek_aws_set_clock(&x->client->endpoint.aws, &x->http,
								  signed_at);
	if (!call->remembered || (x->remedy != CMEK_AWS_RENEW &&
							  x->remedy != CMEK_AWS_PROVE_IDENTITY))
		return false;
	cmek_aws_forget_credentials(call);
	return true;
}

/* One attempt; for cmek_kms_with_retries. */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	Exchange   *x = arg;
	CmekAwsCall *call = &x->client->call;

	call->deadline = attempt_end(x);
	for (int i = 0;; i++)
	{
		int64		now;

		MemoryContextReset(x->client->exchange);
		x->http.head = NULL;
		if (!cmek_aws_get_credentials(call, answer))
			return 0;
		now = cmek_aws_now(&x->client->endpoint.aws);
		if (try_once(x, now, answer))
			return CMEK_RETRY_NEVER;
		if (i > 0 || !mend(x, now))
			break;
	}
	return x->http.head != NULL ? cmek_http_retry_after(&x->http) : 0;
}

/* Do one thing: see s3.h. */
bool
cmek_s3_run(CmekS3Client *client, CmekS3Params *params, char *area,
			Size area_size, int limit_s, CmekS3Answer *s3,
			CmekKmsAnswer *answer)
{
	Exchange	x = {.client = client, .params = params, .area = area};
	MemoryContext old = MemoryContextSwitchTo(client->exchange);

	memset(s3, 0, sizeof(CmekS3Answer));
	cmek_sha256(params->body_len > 0 ? params->body : "", params->body_len,
				params->hash);
	x.area_size = area_size;
	x.s3 = s3;
	x.deadline = cmek_instant_in((int64) limit_s * 1000);
	cmek_kms_with_retries(x.deadline, attempt, &x, answer);
	MemoryContextSwitchTo(old);
	MemoryContextReset(client->exchange);
	return answer->klass == CMEK_KMS_OK;
}
