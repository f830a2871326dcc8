/*-------------------------------------------------------------------------
 *
 * aws_call.c
 *	  One operation of AWS KMS, from options to answer.
 *
 *	 get credentials --> sign, send --> 200: read, check the key's name
 *			 ^							error: classify
 *			 |							  clock differs: set it, once
 *			 +------ once, when they were remembered and are refused
 *										  denied: only if we are who we are
 *
 * The deputy's rules are applied before anything is sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>


#include "crypto/crypto.h"
#include "kms/aws.h"
#include "kms/internal.h"
#include "kms/text.h"

#define CLOCK_GOOD_FOR_MS 3600000
/* AWS accepts five minutes; less is not what a signature failed for */
#define CLOCK_TOLERANCE_S 60

/* An operation on its way */
typedef struct AwsOperation
{
	CmekAwsCall *call;
	CmekAwsOperation op;
	CmekAwsKey	key;			/* as it is named in the request */
	CmekAwsAnswer *result;
} AwsOperation;

/* ----------
 * Clocks
 * ----------
 */

/* The identity of what we know about a host's clock. */
static void
clock_id(const CmekAwsEndpoint *endpoint, uint8 *id)
{
	const char *parts[] = {endpoint->url};

	cmek_token_id(id, "aws clock", parts, lengthof(parts));
}

/* The time by the clock of AWS, as far as we know it. */
int64
cmek_aws_now(const CmekAwsEndpoint *endpoint)
{
	uint8		id[CMEK_TOKEN_ID_LEN];
	int64		ahead;

	clock_id(endpoint, id);
	if (!cmek_token_get(id, &ahead, sizeof(ahead)))
		ahead = 0;
	return (int64) time(NULL) + ahead;
}

/* Set our idea of AWS's clock by an answer; false when it was right. */
bool
cmek_aws_set_clock(const CmekAwsEndpoint *endpoint, const CmekHttpAnswer *http,
				   int64 used)
{
	uint8		id[CMEK_TOKEN_ID_LEN];
	char		date[64];
	int64		theirs;
	int64		ahead;

	if (!cmek_http_find(http, "Date", date, sizeof(date)) ||
		!cmek_http_parse_date(date, &theirs) ||
		llabs((long long) (theirs - used)) <= CLOCK_TOLERANCE_S)
		return false;
	ahead = theirs - (int64) time(NULL);
	clock_id(endpoint, id);
	cmek_token_put(id, &ahead, sizeof(ahead),
				   cmek_instant_in(CLOCK_GOOD_FOR_MS));
	return true;
}

/* ----------
 * One exchange
 * ----------
 */

/* Append a header, unless it is empty. */
static void
add_header(CmekHttpRequest *http, const char *header)
{
	if (header[0] != '\0')
		cmek_http_header(http, header);
}

/* Send what is in call->request. */
static bool
send_request(CmekAwsCall *call, const CmekAwsEndpoint *endpoint, bool is_signed,
			 CmekKmsAnswer *answer)
{
	CmekAwsRequest *request = call->request;
	CmekHttpRequest http = {0};

	http.method = "POST";
	http.url = endpoint->url;
	http.body = request->body;
	http.body_len = request->body_len;
	http.plain = CMEK_HTTP_PLAIN_LOOPBACK;
	http.ca_file = call->ca_file;
	http.deadline = call->deadline;
	add_header(&http, request->content_type);
	add_header(&http, request->target);
	if (is_signed)
	{
		add_header(&http, request->date);
		add_header(&http, request->authorization);
		add_header(&http, request->token);
	}
	return cmek_http_run(&http, &call->http, answer);
}

/* Sign as of a time, and send. */
static bool
sign_and_send(CmekAwsCall *call, const CmekAwsEndpoint *endpoint,
			  const char *service, const char *target,
			  const CmekAwsCredentials *credentials, int64 now,
			  CmekKmsAnswer *answer)
{
	static const CmekAwsCredentials nobody = {0};

	if (!cmek_aws_sign(call->request, endpoint, service, target,
					   credentials ? credentials : &nobody, now))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "RequestTooLong",
						"the credentials are too long");
		return false;
	}
	return send_request(call, endpoint, credentials != NULL, answer);
}

/* Classify an answer that is not 200. */
static void
judge_error(CmekAwsCall *call, CmekKmsAnswer *answer)
{
	CmekHttpAnswer *http = &call->http;
	CmekAwsError error;
	CmekKmsClass klass;
	char		type[256];
	bool		have_type = cmek_http_find(http, "x-amzn-ErrorType", type,
										   sizeof(type));

	cmek_aws_read_error(have_type ? type : NULL, http->body, http->body_len,
						&error);
	klass = cmek_aws_classify(http->status, &error, &call->remedy);
	if (error.code[0] == '\0')
	{
		snprintf(error.code, sizeof(error.code), "Http%d", http->status);
		snprintf(error.message, sizeof(error.message),
				 "HTTP status %d, with no error of AWS's in it", http->status);
	}
	/* a sentence, which the text around it ends again */
	if (error.message[0] != '\0' &&
		error.message[strlen(error.message) - 1] == '.')
		error.message[strlen(error.message) - 1] = '\0';
	cmek_kms_answer(answer, klass, error.code, "%s", error.message);
}

/* Send a request, a second time if only the clock was wrong: see aws.h. */
bool
cmek_aws_post(CmekAwsCall *call, const CmekAwsEndpoint *endpoint,
			  const char *service, const char *target,
			  const CmekAwsCredentials *credentials, CmekKmsAnswer *answer)
{
	for (int i = 0;; i++)
	{
		int64		now = cmek_aws_now(endpoint);

		call->remedy = CMEK_AWS_NO_REMEDY;
		memset(&call->http, 0, sizeof(call->http));
		if (!sign_and_send(call, endpoint, service, target, credentials, now,
						   answer))
			return false;
		if (call->http.status == 200)
			return true;
		judge_error(call, answer);
		if (call->remedy != CMEK_AWS_SET_CLOCK || i > 0 ||
			!cmek_aws_set_clock(endpoint, &call->http, now))
			return false;
	}
}

/* ----------
 * Options
 * ----------
 */

/* Answer for an option that is wrong. */
static bool
answer_option(CmekKmsAnswer *answer, const char *code, const char *problem)
{
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, code, "%s", problem);
	return false;
}

/*
 * Settle which external id goes along with the role.  With the host's identity
 * everybody could take on everybody's role; so the external id is the
 * database's, not the tenant's, wherever a superuser has set one.
 */
static bool
settle_external_id(CmekAwsCall *call, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->config;
	const char *own = cmek_kms_config_get(config, "external_id");
	const char *forced = cmek_kms_config_get(config,
											 CMEK_AWS_CONFIG_EXTERNAL_ID);

	call->external_id = own != NULL ? own : "";
	if (forced == NULL)
		return true;
	if (own == NULL)
		call->external_id = forced;
	if (config->superuser)
		return true;
	if (own != NULL)
		return answer_option(answer, "ExternalIdForbidden",
							 "option \"external_id\" cannot be used in this database, whose external id is set by cmek.aws_external_id");
	if (call->role_arn == NULL && cmek_aws_uses_ambient(config))
		return answer_option(answer, "RoleRequired",
							 "option \"role_arn\" is required in this database, whose external id is set by cmek.aws_external_id");
	return true;
}

/* Find out where requests go. */
static bool
settle_endpoints(CmekAwsCall *call, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->config;
	const char *region = call->key.region;

	if (cmek_aws_endpoint(cmek_kms_config_get(config, "endpoint"), "kms",
						  region, &call->kms) &&
		cmek_aws_endpoint(cmek_kms_config_get(config, "sts_endpoint"), "sts",
						  region, &call->sts))
		return true;
	return answer_option(answer, "BadAddress",
						 "an endpoint is not \"https://host[:port]\"");
}

/* The region that the environment names; only a default, and no secret. */
const char *
cmek_aws_environment_region(void)
{
	const char *region = getenv("AWS_REGION");

	if (region == NULL || *region == '\0')
		region = getenv("AWS_DEFAULT_REGION");
	return region != NULL ? region : "";
}

/* Prepare a call: see aws.h. */
bool
cmek_aws_begin(CmekAwsCall *call, const CmekKmsRequest *req,
			   CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = req->config;
	const char *key_id = cmek_kms_config_get(config, "key_id");
	const char *region = cmek_kms_config_get(config, "region");
	const char *session = cmek_kms_config_get(config, "session_name");
	const char *problem = "There is no option \"key_id\".";

	memset(call, 0, sizeof(CmekAwsCall));
	call->req = req;
	call->config = config;
	call->deadline = req->deadline;
	call->ca_file = cmek_kms_config_get(config, "ca_file");
	call->role_arn = cmek_kms_config_get(config, "role_arn");
	call->session_name = session != NULL ? session : "cmek";
	if (key_id == NULL ||
		!cmek_aws_key(key_id, region != NULL ? region : "", cmek_region,
					  cmek_aws_environment_region(), &call->key, &problem))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "BadKeyId",
						"option \"key_id\" cannot be used: %s", problem);
		return false;
	}
	if (!settle_external_id(call, answer) || !settle_endpoints(call, answer))
		return false;
	cmek_json_protect();
	call->credentials = cmek_kms_new_secret(sizeof(CmekAwsCredentials));
	call->request = cmek_kms_new_secret(sizeof(CmekAwsRequest));
	return true;
}

/* ----------
 * Operations
 * ----------
 */

/* Send an operation with the credentials at hand, and read its answer. */
static bool
ask_kms(AwsOperation *operation, CmekKmsAnswer *answer)
{
	CmekAwsCall *call = operation->call;
	const CmekKmsRequest *req = call->req;
	bool		wrap = operation->op == CMEK_AWS_ENCRYPT;

	if (!cmek_aws_kms_body(operation->op, operation->key.id, req->uuid,
						   wrap ? req->key : req->blob,
						   wrap ? CMEK_KEY_LEN : req->blob_len,
						   call->request))
		return answer_option(answer, "RequestTooLong",
							 "the wrapped table key is too long");
	if (!cmek_aws_post(call, &call->kms, "kms", cmek_aws_target(operation->op),
					   call->credentials, answer))
		return false;
	if (!cmek_aws_read_answer(operation->op, call->http.body,
							  call->http.body_len, operation->result))
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "AnswerFormat",
						"the answer is not what AWS KMS answers to %s",
						cmek_aws_target(operation->op));
		return false;
	}
	if (!cmek_aws_key_matches(&operation->key, operation->result->key_id))
		return answer_option(answer, "UnexpectedKey",
							 "AWS KMS answered for another key than it was asked about");
	cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	return true;
}

/* Should the operation be tried once more with fresh credentials? */
static bool
try_fresh(CmekAwsCall *call)
{
	if (!call->remembered || (call->remedy != CMEK_AWS_RENEW &&
							  call->remedy != CMEK_AWS_PROVE_IDENTITY))
		return false;
	cmek_aws_forget_credentials(call);
	return true;
}

/* One attempt of an operation; for cmek_kms_with_retries. */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	AwsOperation *operation = arg;
	CmekAwsCall *call = operation->call;
	bool		ok;

	call->deadline = cmek_kms_attempt_deadline(call->req->deadline);
	do
	{
		memset(&call->http, 0, sizeof(call->http));
		if (!cmek_aws_get_credentials(call, answer))
			continue;
		ok = ask_kms(operation, answer);
		if (!ok && call->remedy == CMEK_AWS_PROVE_IDENTITY &&
			!call->remembered)
			cmek_aws_judge_denial(call, call->credentials, answer);
		if (ok)
			return CMEK_RETRY_NEVER;
	} while (try_fresh(call));
	return call->http.head != NULL ? cmek_http_retry_after(&call->http) : 0;
}

/* Have KMS do something: see aws.h. */
bool
cmek_aws_run(CmekAwsCall *call, CmekAwsOperation op, CmekAwsAnswer *result,
			 CmekKmsAnswer *answer)
{
	AwsOperation operation = {call, op, call->key, result};

	if (op == CMEK_AWS_DECRYPT &&
		!cmek_aws_key_for_blob(&call->key, call->req->expected_version,
							   &operation.key))
		return answer_option(answer, "UnexpectedKey",
							 "the table key was wrapped by a key of another account or region than the alias is of");
	cmek_kms_with_retries(call->req->deadline, attempt, &operation, answer);
	return answer->klass == CMEK_KMS_OK;
}

/* One attempt to find out who we are. */
static int
attempt_who(void *arg, CmekKmsAnswer *answer)
{
	CmekAwsCall *call = arg;

	call->deadline = cmek_kms_attempt_deadline(call->req->deadline);
	do
	{
		if (cmek_aws_get_credentials(call, answer) &&
			cmek_aws_caller_identity(call, call->credentials, answer))
		{
			cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
			break;
		}
	} while (try_fresh(call));
	return 0;
}

/* Who are we? */
bool
cmek_aws_who(CmekAwsCall *call, CmekKmsAnswer *answer)
{
	cmek_kms_with_retries(call->req->deadline, attempt_who, call, answer);
	return answer->klass == CMEK_KMS_OK;
}
