/*-------------------------------------------------------------------------
 *
 * aws_one.c
 *	  Every function that reads bytes of AWS's, or of a file of AWS's tools,
 *	  fed with bytes; used by the test module and by libFuzzer.
 *
 *-------------------------------------------------------------------------
 */
#include "aws_one.h"

#include "kms/aws.h"
#include "kms/text.h"

/* src/crypto's and src/kms's, which need a server */
extern void cmek_cleanse(void *ptr, Size len);
extern void cmek_openssl_error(const char *what);

void
cmek_cleanse(void *ptr, Size len)
{
	explicit_bzero(ptr, len);
}

void
cmek_openssl_error(const char *what)
{
	fprintf(stderr, "aws: %s failed\n", what);
	abort();
}

const char *
cmek_kms_config_get(const CmekKmsConfig *config, const char *name)
{
	return strcmp(name, "role_arn") == 0 ? "arn:aws:iam::1:role/r" : NULL;
}

#define ARN "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

static const char *const seeds[] = {
	"{\"KeyId\":\"" ARN "\",\"Plaintext\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"CiphertextBlob\":\"AAAA\"}",
	"{\"KeyMetadata\":{\"Arn\":\"" ARN "\",\"KeyState\":\"Enabled\",\"KeyUsage\":\"ENCRYPT_DECRYPT\",\"KeySpec\":\"SYMMETRIC_DEFAULT\"}}",
	"{\"__type\":\"a.b#ThrottlingException:http://x\",\"message\":\"m\"}",
	"<ErrorResponse><Error><Code>AccessDenied</Code><Message>a &amp; b</Message></Error></ErrorResponse>",
	"<A><AccessKeyId>i</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
	"<Expiration>2030-01-01T00:00:00Z</Expiration></A>",
	"<GetCallerIdentityResult><Arn>arn:aws:iam::1:user/x</Arn></GetCallerIdentityResult>",
	"{\"AccessKeyId\":\"i\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\"Expiration\":\"2030-01-01T00:00:00.5Z\"}",
	"[default]\naws_access_key_id = a\n[profile b]\n  nested = 1\nrole_arn= r\nsource_profile=default\n",
	"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: 7\r\n\r\n",
	ARN, "alias/x", "mrk-1234", "https://kms.example:8443/", "AAECAw==",
	"arn:aws:kms::123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab",
};

int
aws_seeds(const char *const **all)
{
	*all = seeds;
	return lengthof(seeds);
}

/* End the process: something that must hold does not. */
static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "aws: %s\n", what);
	abort();
}

/* Is a text ended within its area, and can everybody be shown it? */
static bool
is_shown(const char *text, Size size)
{
	Size		len = strnlen(text, size);

	for (Size i = 0; i < len; i++)
		if ((unsigned char) text[i] < ' ' || (unsigned char) text[i] >= 127)
			return false;
	return len < size;
}

/* Answers to KMS operations */
static void
one_answer(CmekAwsOperation op, const char *body, Size len)
{
	static CmekAwsAnswer answer;

	if (!cmek_aws_read_answer(op, body, len, &answer))
		return;
	must(answer.key_id[0] == '\0' ||
		 strlen(answer.key_id) < sizeof(answer.key_id), "key_id");
	must(answer.blob_len <= sizeof(answer.blob), "blob");
	must(op == CMEK_AWS_DECRYPT || op == CMEK_AWS_DESCRIBE_KEY ||
		 answer.blob_len > 0, "OK without a blob");
}

/* Errors */
static void
one_error(const char *type, const char *body, Size len)
{
	static const int statuses[] = {302, 400, 403, 404, 408, 429, 500, 503};
	CmekAwsError error;
	CmekAwsRemedy remedy;

	cmek_aws_read_error(type, body, len, &error);
	must(is_shown(error.code, sizeof(error.code)), "code");
	must(is_shown(error.message, sizeof(error.message)), "message");
	for (Size i = 0; i < lengthof(statuses); i++)
	{
		CmekKmsClass klass = cmek_aws_classify(statuses[i], &error, &remedy);

		must(klass > CMEK_KMS_OK && klass <= CMEK_KMS_CORRUPT, "class");
		must(klass != CMEK_KMS_DENIED || statuses[i] < 500, "denied by 5xx");
	}
}

/* Credentials */
static void
one_credentials(bool role, const char *body, Size len)
{
	static CmekAwsCredentials credentials;
	bool		ok = role ?
		cmek_aws_read_role_credentials(body, len, &credentials) :
		cmek_aws_read_metadata_credentials(body, len, &credentials);

	must(!ok || (credentials.access_key_id[0] != '\0' &&
				 credentials.secret_access_key[0] != '\0' &&
				 credentials.expires_at > 0), "credentials");
}

/* Names of keys: whatever is accepted can stand in a request and a host name */
static void
one_key(const char *text)
{
	CmekAwsKey	key;
	CmekAwsKey	blob;
	CmekAwsEndpoint endpoint;
	const char *problem;
	char		version[CMEK_KMS_MAX_KEY_ID];

	if (cmek_aws_key(text, "", "", "us-east-1", &key, &problem))
	{
		must(strspn(key.region, "abcdefghijklmnopqrstuvwxyz0123456789-") ==
			 strlen(key.region), "region");
		must(cmek_aws_endpoint(NULL, "kms", key.region, &endpoint), "endpoint");
		(void) cmek_aws_key_matches(&key, text);
		(void) cmek_aws_key_for_blob(&key, text, &blob);
	}
	else
		must(problem[0] != '\0', "no problem");
	(void) cmek_aws_key_version(text, version, sizeof(version));
	if (cmek_aws_endpoint(text, "kms", "us-east-1", &endpoint))
		must(strlen(endpoint.host) > 0 && strchr(endpoint.host, '/') == NULL,
			 "host");
}

/* Heads of answers */
static void
one_head(char *text, Size len)
{
	CmekHttpAnswer http = {.head = text, .head_len = len};
	char		value[64];
	int64		seconds;
	int			wait = cmek_http_retry_after(&http);

	must(wait >= 0 && wait <= 3600000, "Retry-After");
	if (cmek_http_find(&http, "Date", value, sizeof(value)))
		(void) cmek_http_parse_date(value, &seconds);
	(void) cmek_parse_timestamp(text, &seconds);
}

/* Base64: what is decoded is encoded to the same text again */
static void
one_base64(const char *text, Size len)
{
	uint8		bytes[1024];
	char		back[2048];
	Size		n;
	CmekText	out;

	if (!cmek_base64_decode(text, len, bytes, sizeof(bytes), &n))
		return;
	cmek_text_init(&out, back, sizeof(back));
	cmek_text_add_base64(&out, bytes, n);
	must(out.len == len && memcmp(out.data, text, len) == 0, "base64");
}

/* Requests made of anything are of a length that we know */
static void
one_request(const char *text)
{
	static CmekAwsRequest request;
	static CmekAwsCredentials credentials;
	CmekAwsEndpoint endpoint;

	strlcpy(credentials.access_key_id, text, sizeof(credentials.access_key_id));
	strlcpy(credentials.secret_access_key, text,
			sizeof(credentials.secret_access_key));
	strlcpy(credentials.session_token, text, sizeof(credentials.session_token));
	must(cmek_aws_endpoint(NULL, "kms", "us-east-1", &endpoint), "endpoint");
	if (cmek_aws_kms_body(CMEK_AWS_ENCRYPT, text, (const uint8 *) "0123456789abcdef",
						  (const uint8 *) text, strlen(text), &request))
	{
		json_t	   *object = cmek_json_object(request.body, request.body_len);

		/* an option may be no UTF-8, which is then AWS's to refuse */
		must(object != NULL || !is_shown(text, strlen(text) + 1), "JSON");
		json_decref(object);
		(void) cmek_aws_sign(&request, &endpoint, "kms", cmek_aws_target(CMEK_AWS_ENCRYPT),
							 &credentials, 1440938160);
	}
	(void) cmek_aws_assume_role_body(text, text, text, &request);
}

/* Files of AWS's tools, and advice */
static void
one_text(int what, char *text, Size len)
{
	static CmekAwsProfile profile;
	static CmekKmsAnswer answer;
	char		advice[512];
	char		arn[128];

	switch (what)
	{
		case 9:
			one_key(text);
			break;
		case 10:
			one_head(text, len);
			break;
		case 11:
			one_request(text);
			break;
		case 12:
		case 13:
			memset(&profile, 0, sizeof(profile));
			(void) cmek_aws_profile(text, "b", what == 12, &profile);
			(void) cmek_aws_profile(text, "default", what == 13, &profile);
			break;
		case 14:
			(void) cmek_aws_read_identity(text, len, arn, sizeof(arn));
			break;
		default:
			strlcpy(answer.code, text, sizeof(answer.code));
			cmek_aws_advise(NULL, (CmekKmsStep) (len % 7), &answer, advice,
							sizeof(advice));
			must(strnlen(advice, sizeof(advice)) < sizeof(advice), "advice");
	}
}

/* See aws_one.h. */
void
aws_one(const uint8 *data, Size size)
{
	char	   *body;
	int			what;

	if (size < 1)
		return;
	what = data[0] % 16;
	size--;
	/* what is given with its length has no NUL, so that a byte too much shows */
	body = malloc(size + (what >= 7 ? 1 : 0) + (size == 0));
	must(body != NULL, "out of memory");
	memcpy(body, data + 1, size);
	if (what >= 7)
		body[size] = '\0';
	if (what < 4)
		one_answer((CmekAwsOperation) what, body, size);
	else if (what == 4)
		one_error(NULL, body, size);
	else if (what < 7)
		one_credentials(what == 5, body, size);
	else if (what == 7)
		one_error(body, body, size);
	else if (what == 8)
		one_base64(body, size);
	else
		one_text(what, body, strlen(body));
	free(body);
}
