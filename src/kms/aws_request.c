/*-------------------------------------------------------------------------
 *
 * aws_request.c
 *	  Requests to AWS KMS (JSON 1.1) and STS (query protocol).
 *
 * The encryption context binds a wrapped table key to its uuid:
 * {"cmek_table_key": "<uuid>"}.  It is not secret and appears in CloudTrail.
 *
 * Pure functions.  An area of CmekAwsRequest holds secrets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"
#include "kms/sigv4.h"
#include "kms/text.h"

#define STS_VERSION "2011-06-15"

static const struct
{
	const char *target;
	const char *extra;			/* member that is always the same */
}			operations[] =
{
	[CMEK_AWS_GENERATE_DATA_KEY] = {"TrentService.GenerateDataKey",
	",\"KeySpec\":\"AES_256\""},
	[CMEK_AWS_ENCRYPT] = {"TrentService.Encrypt", ""},
	[CMEK_AWS_DECRYPT] = {"TrentService.Decrypt", ""},
	[CMEK_AWS_DESCRIBE_KEY] = {"TrentService.DescribeKey", ""},
};

const char *
cmek_aws_target(CmekAwsOperation op)
{
	return operations[op].target;
}

/* Append the encryption context as a member. */
static void
add_context(CmekText *text, const uint8 *uuid)
{
	cmek_text_add(text, ",\"EncryptionContext\":{\"cmek_table_key\":\"");
	for (int i = 0; i < CMEK_UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			cmek_text_add(text, "-");
		cmek_text_add_hex(text, uuid + i, 1);
	}
	cmek_text_add(text, "\"}");
}

/* Build the body of a KMS operation. */
bool
cmek_aws_kms_body(CmekAwsOperation op, const char *key_id, const uint8 *uuid,
				  const uint8 *bytes, Size len, CmekAwsRequest *request)
{
	CmekText	text;

	cmek_text_init(&text, request->body, sizeof(request->body));
	cmek_text_add(&text, "{\"KeyId\":");
	cmek_text_add_json(&text, key_id);
	cmek_text_add(&text, operations[op].extra);
	if (op == CMEK_AWS_ENCRYPT || op == CMEK_AWS_DECRYPT)
	{
		cmek_text_add(&text, op == CMEK_AWS_ENCRYPT ? ",\"Plaintext\":\"" :
					  ",\"CiphertextBlob\":\"");
		cmek_text_add_base64(&text, bytes, len);
		cmek_text_add(&text, "\"");
	}
	if (op != CMEK_AWS_DESCRIBE_KEY)
		add_context(&text, uuid);
	cmek_text_add(&text, "}");
	request->body_len = text.len;
	return !text.overflow;
}

/* Append "&name=value", unless the value is empty. */
static void
add_parameter(CmekText *text, const char *name, const char *value)
{
	if (*value == '\0')
		return;
	cmek_text_printf(text, "&%s=", name);
	cmek_text_add_percent(text, value);
}

/* Begin the body of an STS action. */
static void
begin_action(CmekText *text, const char *action, CmekAwsRequest *request)
{
	cmek_text_init(text, request->body, sizeof(request->body));
	cmek_text_printf(text, "Action=%s&Version=%s", action, STS_VERSION);
}

/* End it. */
static bool
end_action(const CmekText *text, CmekAwsRequest *request)
{
	request->body_len = text->len;
	return !text->overflow;
}

/* Build the body of AssumeRole. */
bool
cmek_aws_assume_role_body(const char *role_arn, const char *session_name,
						  const char *external_id, CmekAwsRequest *request)
{
	CmekText	text;

	begin_action(&text, "AssumeRole", request);
	add_parameter(&text, "RoleArn", role_arn);
	add_parameter(&text, "RoleSessionName", session_name);
	add_parameter(&text, "ExternalId", external_id);
	return end_action(&text, request);
}

/* Build the body of AssumeRoleWithWebIdentity. */
bool
cmek_aws_web_identity_body(const char *role_arn, const char *session_name,
						   const char *token, CmekAwsRequest *request)
{
	CmekText	text;

	begin_action(&text, "AssumeRoleWithWebIdentity", request);
	add_parameter(&text, "RoleArn", role_arn);
	add_parameter(&text, "RoleSessionName", session_name);
	add_parameter(&text, "WebIdentityToken", token);
	return end_action(&text, request);
}

/* Build the body of GetCallerIdentity. */
bool
cmek_aws_caller_identity_body(CmekAwsRequest *request)
{
	CmekText	text;

	begin_action(&text, "GetCallerIdentity", request);
	return end_action(&text, request);
}

/* Add a header to what is signed. */
static void
sign_header(CmekSigV4Request *signed_request, const char *name,
			const char *value)
{
	CmekSigV4Header *header = &signed_request->headers[signed_request->nheaders++];

	header->name = name;
	header->value = value;
}

/* Write the headers that are sent, but for the signature. */
static bool
write_headers(CmekAwsRequest *request, const char *date, const char *target,
			  const char *session_token)
{
	CmekText	text;
	bool		ok;

	snprintf(request->date, sizeof(request->date), "X-Amz-Date: %s", date);
	snprintf(request->content_type, sizeof(request->content_type),
			 "Content-Type: %s", target != NULL ?
			 "application/x-amz-json-1.1" :
			 "application/x-www-form-urlencoded; charset=utf-8");
	cmek_text_init(&text, request->target, sizeof(request->target));
	if (target != NULL)
		cmek_text_printf(&text, "X-Amz-Target: %s", target);
	ok = !text.overflow;
	cmek_text_init(&text, request->token, sizeof(request->token));
	if (session_token[0] != '\0')
	{
		cmek_text_add(&text, "X-Amz-Security-Token: ");
		cmek_text_add(&text, session_token);
	}
	return ok && !text.overflow;
}

/* Fill in the headers and sign them. */
bool
cmek_aws_sign(CmekAwsRequest *request, const CmekAwsEndpoint *endpoint,
			  const char *service, const char *target,
			  const CmekAwsCredentials *credentials, int64 now)
{
	CmekSigV4Request signed_request = {0};
	CmekSigV4Signer signer = {0};
	char		date[CMEK_SIGV4_DATE_LEN];

	cmek_sigv4_date(now, date);
	if (!write_headers(request, date, target, credentials->session_token))
		return false;

	signed_request.method = "POST";
	signed_request.path = "/";
	signed_request.query = "";
	signed_request.body = request->body;
	signed_request.body_len = request->body_len;
	sign_header(&signed_request, "content-type",
				request->content_type + strlen("Content-Type: "));
	sign_header(&signed_request, "host", endpoint->host);
	sign_header(&signed_request, "x-amz-date", date);
	if (credentials->session_token[0] != '\0')
		sign_header(&signed_request, "x-amz-security-token",
					credentials->session_token);
	if (target != NULL)
		sign_header(&signed_request, "x-amz-target", target);

	signer.access_key_id = credentials->access_key_id;
	signer.secret_access_key = credentials->secret_access_key;
	signer.region = endpoint->region;
	signer.service = service;
	return cmek_sigv4_sign(&signer, &signed_request, date, request->scratch,
						   sizeof(request->scratch), request->authorization,
						   sizeof(request->authorization));
}
