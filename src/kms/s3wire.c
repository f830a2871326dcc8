/*-------------------------------------------------------------------------
 *
 * s3wire.c
 *	  What is said to S3 and what it says.
 *
 *	 path			   /key, or /bucket/key; percent-encoded once, and signed
 *					   as it is sent
 *	 integrity		   every body's SHA-256 is signed (x-amz-content-sha256)
 *					   and kept by S3 (x-amz-checksum-sha256): what arrives
 *					   otherwise is refused
 *
 * Source: Amazon S3 API Reference; "Authenticating Requests (AWS Signature
 * Version 4)", whose examples are known answers in test/t/096_s3_pure.pl.
 *
 * Pure functions: no memory of PostgreSQL's, no ERROR, no clock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/s3wire.h"
#include "kms/sigv4.h"

#define MB ((Size) 1024 * 1024)
#define FIRST_PART (8 * MB)
#define PARTS_OF_A_SIZE 700
#define MAX_DOUBLINGS 7			/* 1 GiB */

/* ----------
 * Addresses
 * ----------
 */

/* Is it a name that S3 gives a bucket? */
static bool
is_bucket(const char *name)
{
	Size		len = strlen(name);

	return len >= 3 && len < CMEK_S3_MAX_BUCKET &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == len &&
		strchr(".-", name[0]) == NULL && strchr(".-", name[len - 1]) == NULL &&
		strstr(name, "..") == NULL;
}

/* Does a prefix have only segments that no one on the way resolves? */
static bool
is_prefix(const char *prefix)
{
	while (*prefix != '\0')
	{
		Size		len = strcspn(prefix, "/");

		if (len == 0 || (len == 1 && prefix[0] == '.') ||
			(len == 2 && prefix[0] == '.' && prefix[1] == '.'))
			return false;
		for (Size i = 0; i < len; i++)
			if ((unsigned char) prefix[i] < 0x20 || prefix[i] == 0x7f)
				return false;
		prefix += len;
		if (*prefix == '/')
			prefix++;
	}
	return true;
}

/* Take "s3://bucket/prefix" apart. */
bool
cmek_s3_location(const char *url, CmekS3Location *location,
				 const char **problem)
{
	const char *at = url + strlen("s3://");
	Size		len;
	Size		prefix_len;

	memset(location, 0, sizeof(CmekS3Location));
	*problem = "It does not begin with \"s3://\".";
	if (strncmp(url, "s3://", strlen("s3://")) != 0)
		return false;
	len = strcspn(at, "/");
	*problem = "What comes after \"s3://\" is not the name of a bucket.";
	if (len >= sizeof(location->bucket))
		return false;
	memcpy(location->bucket, at, len);
	if (!is_bucket(location->bucket))
		return false;
	at += len;
	if (*at == '/')
		at++;
	prefix_len = strlen(at);
	/* there has to be room for names of files */
	*problem = "The prefix is longer than 800 bytes.";
	if (prefix_len > 800)
		return false;
	*problem = "The prefix has an empty part, \".\", \"..\" or a control character in it.";
	if (!is_prefix(at))
		return false;
	snprintf(location->prefix, sizeof(location->prefix), "%s%s", at,
			 prefix_len > 0 && at[prefix_len - 1] != '/' ? "/" : "");
	return true;
}

/* Where requests for a bucket go: see s3wire.h. */
bool
cmek_s3_endpoint(const char *url, const char *bucket, const char *region,
				 CmekS3Endpoint *endpoint)
{
	CmekAwsEndpoint *aws = &endpoint->aws;
	char		host[CMEK_AWS_MAX_HOST];
	CmekText	text;

	if (strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(region) ||
		*region == '\0' || !cmek_aws_endpoint(url, "s3", region, aws))
		return false;
	endpoint->bucket_in_path = url != NULL || strchr(bucket, '.') != NULL;
	if (endpoint->bucket_in_path)
		return true;
	cmek_text_init(&text, host, sizeof(host));
	cmek_text_printf(&text, "%s.%s", bucket, aws->host);
	strlcpy(aws->host, host, sizeof(aws->host));
	if (text.overflow)
		return false;
	cmek_text_init(&text, aws->url, sizeof(aws->url));
	cmek_text_printf(&text, "https://%s/", host);
	return !text.overflow;
}

/*
 * Parts double every 700 of them, from 8 MiB to 1 GiB: a file up to 5 GiB
 * costs 8 MiB of memory, one of 80 GiB 64 MiB, and one of 5 TiB 1 GiB.
 */
Size
cmek_s3_part_size(int n)
{
	return FIRST_PART << Min((n - 1) / PARTS_OF_A_SIZE, MAX_DOUBLINGS);
}

/* ----------
 * Requests
 * ----------
 */

static const char *const methods[] = {
	[CMEK_S3_PUT] = "PUT",
	[CMEK_S3_CREATE] = "POST",
	[CMEK_S3_PART] = "PUT",
	[CMEK_S3_COMPLETE] = "POST",
	[CMEK_S3_ABORT] = "DELETE",
	[CMEK_S3_GET] = "GET",
	[CMEK_S3_DELETE] = "DELETE",
};

/* The path, percent-encoded but for its slashes. */
static void
add_path(CmekText *text, const CmekS3Endpoint *endpoint, const char *bucket,
		 const char *key)
{
	cmek_text_add(text, "/");
	if (endpoint->bucket_in_path)
	{
		cmek_text_add(text, bucket);
		cmek_text_add(text, "/");
	}
	for (; *key != '\0'; key++)
	{
		char		c[2] = {*key, '\0'};

		if (*key == '/')
			cmek_text_add(text, "/");
		else
			cmek_text_add_percent(text, c);
	}
}

/* The query: its parameters are in the order of their names. */
static void
add_query(CmekText *text, const CmekS3Params *params)
{
	if (params->op == CMEK_S3_CREATE)
		cmek_text_add(text, "uploads=");
	if (params->op == CMEK_S3_PART)
		cmek_text_printf(text, "partNumber=%d&", params->part);
	if (params->op == CMEK_S3_PART || params->op == CMEK_S3_COMPLETE ||
		params->op == CMEK_S3_ABORT)
	{
		cmek_text_add(text, "uploadId=");
		cmek_text_add_percent(text, params->upload_id);
	}
}

/* A request under construction */
typedef struct Building
{
	CmekS3Request *request;
	CmekText	lines;
	CmekSigV4Request sig;
	bool		overflow;
} Building;

/* Add a header; those that are signed come in the order of their names. */
static void
add_header(Building *b, const char *name, const char *value, bool is_signed)
{
	CmekS3Request *request = b->request;
	char	   *line = b->lines.data + b->lines.len;

	/* each line is a text of its own: the NUL stays */
	cmek_text_printf(&b->lines, "%s: ", name);
	cmek_text_add(&b->lines, value);
	cmek_text_add_bytes(&b->lines, "", 1);
	if (b->lines.overflow || request->nheaders == CMEK_S3_HEADERS ||
		(is_signed && b->sig.nheaders == CMEK_SIGV4_MAX_HEADERS))
	{
		b->overflow = true;
		return;
	}
	request->headers[request->nheaders++] = line;
	if (is_signed)
	{
		b->sig.headers[b->sig.nheaders].name = name;
		b->sig.headers[b->sig.nheaders++].value = line + strlen(name) + 2;
	}
}

/* The headers of S3's that go with an operation, and are signed. */
static void
add_amz_headers(Building *b, const CmekS3Params *params, const char *payload,
				const char *date, const char *session_token)
{
	bool		writes = params->op == CMEK_S3_PUT ||
		params->op == CMEK_S3_PART;
	char		checksum[64];
	CmekText	text;

	if (params->op == CMEK_S3_CREATE)
		add_header(b, "x-amz-checksum-algorithm", "SHA256", true);
	if (writes)
	{
		cmek_text_init(&text, checksum, sizeof(checksum));
		cmek_text_add_base64(&text, params->hash, CMEK_S3_HASH_LEN);
		add_header(b, "x-amz-checksum-sha256", checksum, true);
	}
	add_header(b, "x-amz-content-sha256", payload, true);
	add_header(b, "x-amz-date", date, true);
	if (session_token[0] != '\0')
		add_header(b, "x-amz-security-token", session_token, true);
	if ((params->op == CMEK_S3_PUT || params->op == CMEK_S3_CREATE) &&
		params->encryption[0] != '\0')
		add_header(b, "x-amz-server-side-encryption", params->encryption,
				   true);
}

/* The headers that are not signed. */
static void
add_other_headers(Building *b, const CmekS3Params *params)
{
	char		range[64];

	if (params->body != NULL)
		add_header(b, "content-type", params->op == CMEK_S3_COMPLETE ?
				   "application/xml" : "application/octet-stream", false);
	if (params->op != CMEK_S3_GET)
		return;
	snprintf(range, sizeof(range), "bytes=" INT64_FORMAT "-" INT64_FORMAT,
			 params->from, params->to);
	add_header(b, "range", range, false);
	if (params->etag != NULL)
		add_header(b, "if-match", params->etag, false);
}

/* Sign what was built. */
static bool
sign(Building *b, const CmekS3Endpoint *endpoint,
	 const CmekAwsCredentials *credentials, const char *date)
{
	CmekSigV4Signer signer = {
		credentials->access_key_id, credentials->secret_access_key,
		endpoint->aws.region, "s3"
	};
	char		authorization[1024];
	CmekS3Request *request = b->request;
	char	   *line = b->lines.data + b->lines.len;

	if (b->overflow ||
		!cmek_sigv4_sign(&signer, &b->sig, date, request->scratch,
						 sizeof(request->scratch), authorization,
						 sizeof(authorization)))
		return false;
	cmek_text_add(&b->lines, authorization);
	if (b->lines.overflow || request->nheaders == CMEK_S3_HEADERS)
		return false;
	request->headers[request->nheaders++] = line;
	return true;
}

/* Build a request and sign it: see s3wire.h. */
bool
cmek_s3_sign(const CmekS3Endpoint *endpoint, const char *bucket,
			 const CmekS3Params *params,
			 const CmekAwsCredentials *credentials, int64 now,
			 CmekS3Request *request)
{
	Building	b = {.request = request};
	char		path[4 * CMEK_S3_MAX_KEY];
	char		query[3 * CMEK_S3_MAX_UPLOAD_ID + 64];
	char		payload[2 * CMEK_S3_HASH_LEN + 1];
	char		date[CMEK_SIGV4_DATE_LEN];
	CmekText	text;

	memset(request, 0, sizeof(CmekS3Request));
	request->method = methods[params->op];
	cmek_sigv4_date(now, date);
	cmek_text_init(&text, path, sizeof(path));
	add_path(&text, endpoint, bucket, params->key);
	b.overflow = text.overflow;
	cmek_text_init(&text, query, sizeof(query));
	add_query(&text, params);
	b.overflow |= text.overflow;
	cmek_text_init(&text, request->url, sizeof(request->url));
	/* the endpoint's address ends with the slash that the path begins with */
	cmek_text_add(&text, endpoint->aws.url);
	cmek_text_add(&text, path + 1);
	cmek_text_printf(&text, "%s%s", query[0] != '\0' ? "?" : "", query);
	b.overflow |= text.overflow;
	cmek_text_init(&text, payload, sizeof(payload));
	cmek_text_add_hex(&text, params->hash, CMEK_S3_HASH_LEN);

	b.sig.method = request->method;
	b.sig.path = path;
	b.sig.query = query;
	b.sig.payload_hash = payload;
	cmek_text_init(&b.lines, request->lines, sizeof(request->lines));
	add_header(&b, "host", endpoint->aws.host, true);
	add_amz_headers(&b, params, payload, date, credentials->session_token);
	add_other_headers(&b, params);
	return sign(&b, endpoint, credentials, date);
}

/* The body that completes an upload. */
void
cmek_s3_complete_body(const CmekS3Part *parts, int n, CmekText *body)
{
	cmek_text_add(body, "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
	for (int i = 0; i < n; i++)
	{
		cmek_text_printf(body, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag><ChecksumSHA256>",
						 i + 1, parts[i].etag);
		cmek_text_add_base64(body, parts[i].hash, CMEK_S3_HASH_LEN);
		cmek_text_add(body, "</ChecksumSHA256></Part>");
	}
	cmek_text_add(body, "</CompleteMultipartUpload>");
}

/* ----------
 * Answers
 * ----------
 */

/* Can an ETag be repeated as it is? */
bool
cmek_s3_good_etag(const char *etag)
{
	Size		len = strlen(etag);

	if (len == 0 || len >= CMEK_S3_MAX_ETAG)
		return false;
	for (Size i = 0; i < len; i++)
		if (etag[i] <= ' ' || etag[i] >= 0x7f || strchr("<>&", etag[i]) != NULL)
			return false;
	return true;
}

/* The id of an upload that was begun. */
bool
cmek_s3_read_upload_id(const char *body, Size len, char *id, Size size)
{
	if (!cmek_aws_read_xml(body, len, "UploadId", id, size) || *id == '\0')
		return false;
	for (const char *c = id; *c != '\0'; c++)
		if (*c <= ' ' || *c >= 0x7f)
			return false;
	return true;
}

/* Was an upload completed? */
bool
cmek_s3_read_completed(const char *body, Size len)
{
	char		etag[CMEK_S3_MAX_ETAG];
	char		code[CMEK_KMS_MAX_CODE];

	return cmek_aws_read_xml(body, len, "ETag", etag, sizeof(etag)) &&
		!cmek_aws_read_xml(body, len, "Code", code, sizeof(code));
}

/* Read Content-Range. */
bool
cmek_s3_read_range(const char *value, int64 *from, int64 *to, int64 *total)
{
	long long	a,
				b,
				c;
	int			end = 0;

	if (strlen(value) > 80 ||
		strspn(value, "bytes 0123456789-/") != strlen(value) ||
		sscanf(value, "bytes %18lld-%18lld/%18lld%n", &a, &b, &c, &end) != 3 ||
		value[end] != '\0' || a < 0 || b < a || c <= b)
		return false;
	*from = a;
	*to = b;
	*total = c;
	return true;
}

/* The region that the bucket is in. */
bool
cmek_s3_read_region(const char *body, Size len, char *region, Size size)
{
	return cmek_aws_read_xml(body, len, "Region", region, size) &&
		*region != '\0' &&
		strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(region);
}

typedef struct S3Rule
{
	const char *code;
	CmekKmsClass klass;
	CmekAwsRemedy remedy;
} S3Rule;

/* S3's own errors; UNREACHABLE is what another attempt may mend */
static const S3Rule rules[] = {
	{"InternalError", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"ServiceUnavailable", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"OperationAborted", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"IncompleteBody", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"BadDigest", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"XAmzContentSHA256Mismatch", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"XAmzContentChecksumMismatch", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"TemporaryRedirect", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"InvalidAccessKeyId", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
	{"InvalidToken", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
};

/* The class of an error: see s3wire.h. */
CmekKmsClass
cmek_s3_classify(int status, const CmekAwsError *error, CmekAwsRemedy *remedy)
{
	for (Size i = 0; i < lengthof(rules); i++)
		if (strcmp(rules[i].code, error->code) == 0)
		{
			*remedy = rules[i].remedy;
			return rules[i].klass;
		}
	return cmek_aws_classify(status, error, remedy);
}
