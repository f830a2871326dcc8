/*-------------------------------------------------------------------------
 *
 * cmek_test_aws.c
 *	  The pure functions of cmek_aws and of the HTTP layer as SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/uuid.h"

#include "aws_one.h"
#include "kms/aws.h"
#include "kms/sigv4.h"
#include "kms/text.h"

PG_MODULE_MAGIC;

/* utils/builtins.h has a json_object of its own, jansson.h another */
extern char *text_to_cstring(const text *t);
extern text *cstring_to_text(const char *s);

#define ARG_TEXT(n) text_to_cstring(PG_GETARG_TEXT_PP(n))
#define RETURN_TEXT(s) PG_RETURN_TEXT_P(cstring_to_text(s))

PG_FUNCTION_INFO_V1(aws_sigv4);
PG_FUNCTION_INFO_V1(aws_key);
PG_FUNCTION_INFO_V1(aws_key_matches);
PG_FUNCTION_INFO_V1(aws_key_version);
PG_FUNCTION_INFO_V1(aws_key_for_blob);
PG_FUNCTION_INFO_V1(aws_endpoint);
PG_FUNCTION_INFO_V1(aws_body);
PG_FUNCTION_INFO_V1(aws_error);
PG_FUNCTION_INFO_V1(aws_answer);
PG_FUNCTION_INFO_V1(aws_profile);
PG_FUNCTION_INFO_V1(aws_header);
PG_FUNCTION_INFO_V1(aws_retry_after);
PG_FUNCTION_INFO_V1(aws_date);
PG_FUNCTION_INFO_V1(aws_base64);
PG_FUNCTION_INFO_V1(aws_mutate);

/* Sign a request. */
Datum
aws_sigv4(PG_FUNCTION_ARGS)
{
	CmekSigV4Request request = {0};
	CmekSigV4Signer signer = {0};
	bytea	   *body = PG_GETARG_BYTEA_PP(4);
	Datum	   *headers;
	int			n;
	char		scratch[8192];
	char		out[1024];

	request.method = ARG_TEXT(0);
	request.path = ARG_TEXT(1);
	request.query = ARG_TEXT(2);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false,
					  TYPALIGN_INT, &headers, NULL, &n);
	for (int i = 0; i + 1 < n; i += 2)
	{
		request.headers[request.nheaders].name = text_to_cstring((text *) DatumGetPointer(headers[i]));
		request.headers[request.nheaders++].value = text_to_cstring((text *) DatumGetPointer(headers[i + 1]));
	}
	request.body = VARDATA_ANY(body);
	request.body_len = VARSIZE_ANY_EXHDR(body);
	signer.access_key_id = ARG_TEXT(5);
	signer.secret_access_key = ARG_TEXT(6);
	signer.region = ARG_TEXT(7);
	signer.service = ARG_TEXT(8);
	if (!cmek_sigv4_sign(&signer, &request, ARG_TEXT(9), scratch,
						 sizeof(scratch), out, sizeof(out)))
		RETURN_TEXT("too long");
	RETURN_TEXT(out);
}

/* Read a key's name. */
Datum
aws_key(PG_FUNCTION_ARGS)
{
	CmekAwsKey	key;
	const char *problem;

	if (!cmek_aws_key(ARG_TEXT(0), ARG_TEXT(1), ARG_TEXT(2), ARG_TEXT(3), &key,
					  &problem))
		RETURN_TEXT(psprintf("error: %s", problem));
	RETURN_TEXT(psprintf("%s %s%s%s", key.region, key.id,
						 key.alias ? " alias" : "",
						 key.multi_region ? " multi-region" : ""));
}

/* A key by its name; ERROR when it is none. */
static CmekAwsKey
key_of(const char *key_id, const char *region)
{
	CmekAwsKey	key;
	const char *problem;

	if (!cmek_aws_key(key_id, "", region, region, &key, &problem))
		elog(ERROR, "%s", problem);
	return key;
}

Datum
aws_key_matches(PG_FUNCTION_ARGS)
{
	CmekAwsKey	key = key_of(ARG_TEXT(0), ARG_TEXT(1));

	PG_RETURN_BOOL(cmek_aws_key_matches(&key, ARG_TEXT(2)));
}

Datum
aws_key_version(PG_FUNCTION_ARGS)
{
	char		out[CMEK_KMS_MAX_KEY_ID];

	if (!cmek_aws_key_version(ARG_TEXT(0), out, sizeof(out)))
		PG_RETURN_NULL();
	RETURN_TEXT(out);
}

Datum
aws_key_for_blob(PG_FUNCTION_ARGS)
{
	CmekAwsKey	key = key_of(ARG_TEXT(0), ARG_TEXT(1));
	CmekAwsKey	out;

	if (!cmek_aws_key_for_blob(&key, ARG_TEXT(2), &out))
		PG_RETURN_NULL();
	RETURN_TEXT(out.id);
}

Datum
aws_endpoint(PG_FUNCTION_ARGS)
{
	CmekAwsEndpoint endpoint;

	if (!cmek_aws_endpoint(PG_ARGISNULL(0) ? NULL : ARG_TEXT(0), ARG_TEXT(1),
						   ARG_TEXT(2), &endpoint))
		PG_RETURN_NULL();
	RETURN_TEXT(psprintf("%s %s", endpoint.url, endpoint.host));
}

/* Build a body. */
Datum
aws_body(PG_FUNCTION_ARGS)
{
	char	   *what = ARG_TEXT(0);
	uint8	   *uuid = PG_GETARG_UUID_P(1)->data;
	bytea	   *bytes = PG_GETARG_BYTEA_PP(2);
	CmekAwsRequest *request = palloc0(sizeof(CmekAwsRequest));
	static const char *const kms[] = {"GenerateDataKey", "Encrypt", "Decrypt", "DescribeKey"};
	bool		ok = false;

	for (int i = 0; i < (int) lengthof(kms); i++)
		if (strcmp(what, kms[i]) == 0)
			ok = cmek_aws_kms_body((CmekAwsOperation) i, ARG_TEXT(3), uuid,
								   (uint8 *) VARDATA_ANY(bytes),
								   VARSIZE_ANY_EXHDR(bytes), request);
	if (strcmp(what, "AssumeRole") == 0)
		ok = cmek_aws_assume_role_body(ARG_TEXT(3), ARG_TEXT(4), ARG_TEXT(5), request);
	if (strcmp(what, "AssumeRoleWithWebIdentity") == 0)
		ok = cmek_aws_web_identity_body(ARG_TEXT(3), ARG_TEXT(4), ARG_TEXT(5), request);
	if (strcmp(what, "GetCallerIdentity") == 0)
		ok = cmek_aws_caller_identity_body(request);
	RETURN_TEXT(ok ? request->body : "too long");
}

Datum
aws_error(PG_FUNCTION_ARGS)
{
	char	   *type = ARG_TEXT(1);
	char	   *body = ARG_TEXT(2);
	static const char *const classes[] = {"ok", "denied", "unreachable", "misconfigured", "corrupt"};
	static const char *const remedies[] = {"", " prove", " renew", " clock"};
	CmekAwsError error;
	CmekAwsRemedy remedy;
	CmekKmsClass klass;

	cmek_aws_read_error(*type ? type : NULL, body, strlen(body), &error);
	klass = cmek_aws_classify(PG_GETARG_INT32(0), &error, &remedy);
	RETURN_TEXT(psprintf("%s%s %s: %s", classes[klass], remedies[remedy],
						 error.code, error.message));
}

/* Read an answer. */
Datum
aws_answer(PG_FUNCTION_ARGS)
{
	char	   *what = ARG_TEXT(0);
	char	   *body = ARG_TEXT(1);
	Size		len = strlen(body);
	CmekAwsAnswer *answer = palloc0(sizeof(CmekAwsAnswer));
	CmekAwsCredentials *c = palloc0(sizeof(CmekAwsCredentials));
	static const char *const kms[] = {"GenerateDataKey", "Encrypt", "Decrypt", "DescribeKey"};
	char		arn[256];

	for (int i = 0; i < (int) lengthof(kms); i++)
		if (strcmp(what, kms[i]) == 0 &&
			cmek_aws_read_answer((CmekAwsOperation) i, body, len, answer))
			RETURN_TEXT(psprintf("%s %u %d%s%s%s", answer->key_id,
								 answer->blob_len, answer->key[CMEK_KEY_LEN - 1],
								 answer->state, answer->usage, answer->spec));
	if ((strcmp(what, "role") == 0 &&
		 cmek_aws_read_role_credentials(body, len, c)) ||
		(strcmp(what, "metadata") == 0 &&
		 cmek_aws_read_metadata_credentials(body, len, c)))
		RETURN_TEXT(psprintf("%s %s %s " INT64_FORMAT, c->access_key_id,
							 c->secret_access_key, c->session_token, c->expires_at));
	if (strcmp(what, "identity") == 0 &&
		cmek_aws_read_identity(body, len, arn, sizeof(arn)))
		RETURN_TEXT(arn);
	RETURN_TEXT("no");
}

Datum
aws_profile(PG_FUNCTION_ARGS)
{
	CmekAwsProfile *p = palloc0(sizeof(CmekAwsProfile));

	if (!cmek_aws_profile(ARG_TEXT(0), ARG_TEXT(1), PG_GETARG_BOOL(2), p))
		RETURN_TEXT("no");
	RETURN_TEXT(psprintf("%s,%s,%s,%s,%s,%s", p->credentials.access_key_id,
						 p->credentials.secret_access_key,
						 p->credentials.session_token, p->region, p->role_arn,
						 p->source_profile));
}

/* The head of an answer */
static CmekHttpAnswer
head_of(text *head)
{
	CmekHttpAnswer http = {0};

	http.head = text_to_cstring(head);
	http.head_len = strlen(http.head);
	return http;
}

Datum
aws_header(PG_FUNCTION_ARGS)
{
	CmekHttpAnswer http = head_of(PG_GETARG_TEXT_PP(0));
	char		value[64];

	if (!cmek_http_find(&http, ARG_TEXT(1), value, sizeof(value)))
		PG_RETURN_NULL();
	RETURN_TEXT(value);
}

Datum
aws_retry_after(PG_FUNCTION_ARGS)
{
	CmekHttpAnswer http = head_of(PG_GETARG_TEXT_PP(0));

	PG_RETURN_INT32(cmek_http_retry_after(&http));
}

Datum
aws_date(PG_FUNCTION_ARGS)
{
	char	   *date = ARG_TEXT(0);
	int64		seconds;

	if (!cmek_http_parse_date(date, &seconds) &&
		!cmek_parse_timestamp(date, &seconds))
		PG_RETURN_NULL();
	PG_RETURN_INT64(seconds);
}

Datum
aws_base64(PG_FUNCTION_ARGS)
{
	char	   *in = ARG_TEXT(0);
	bytea	   *out = palloc(VARHDRSZ + 64);
	Size		len;

	if (!cmek_base64_decode(in, strlen(in), (uint8 *) VARDATA(out), 64, &len))
		PG_RETURN_NULL();
	SET_VARSIZE(out, VARHDRSZ + len);
	PG_RETURN_BYTEA_P(out);
}

/* Change a seed at random and have it read; a mistake ends the server. */
Datum
aws_mutate(PG_FUNCTION_ARGS)
{
	pg_prng_state prng;
	const char *const *seeds;
	int			n = aws_seeds(&seeds);
	int			rounds = PG_GETARG_INT32(1);

	pg_prng_seed(&prng, (uint64) PG_GETARG_INT64(0));
	for (int i = 0; i < rounds; i++)
	{
		const char *seed = seeds[pg_prng_uint64_range(&prng, 0, n - 1)];
		Size		len = strlen(seed) + 1;
		uint8	   *data = palloc(len);
		int			changes = (int) pg_prng_uint64_range(&prng, 0, 4);

		data[0] = (uint8) pg_prng_uint32(&prng);
		memcpy(data + 1, seed, len - 1);
		while (changes-- > 0 && len > 1)
			data[pg_prng_uint64_range(&prng, 1, len - 1)] = (uint8) pg_prng_uint32(&prng);
		aws_one(data, pg_prng_uint64_range(&prng, len / 2, len));
		pfree(data);
	}
	PG_RETURN_INT32(rounds);
}
