/*-------------------------------------------------------------------------
 *
 * aws_sts.c
 *	  AWS STS: roles, and the question who we are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"
#include "kms/text.h"

/* Answer for something that cannot be sent. */
static bool
answer_too_long(CmekKmsAnswer *answer, const char *what)
{
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "RequestTooLong",
					"%s is too long", what);
	return false;
}

/* Read the credentials of a role out of an answer. */
static bool
read_role(CmekAwsCall *call, const char *role_arn, CmekAwsCredentials *out,
		  CmekKmsAnswer *answer)
{
	if (cmek_aws_read_role_credentials(call->http.body, call->http.body_len,
									   out))
		return true;
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "AnswerFormat",
					"STS did not answer with the credentials of role \"%s\"",
					role_arn);
	return false;
}

/* Put in front of a message which role it was about. */
static void
name_role(CmekKmsAnswer *answer, const char *role_arn)
{
	char		message[CMEK_KMS_MAX_MESSAGE];

	strlcpy(message, answer->message, sizeof(message));
	snprintf(answer->message, sizeof(answer->message), "role \"%s\": %s",
			 role_arn, message);
}

/* Take on a role. */
bool
cmek_aws_assume_role(CmekAwsCall *call, const CmekAwsCredentials *base,
					 const char *role_arn, const char *session_name,
					 const char *external_id, CmekAwsCredentials *out,
					 CmekKmsAnswer *answer)
{
	if (!cmek_aws_assume_role_body(role_arn, session_name, external_id,
								   call->request))
		return answer_too_long(answer, "the name of a role");
	if (cmek_aws_post(call, &call->sts, "sts", NULL, base, answer))
		return read_role(call, role_arn, out, answer);
	name_role(answer, role_arn);
	return false;
}

/* Take on a role by the token of another identity provider. */
bool
cmek_aws_web_identity(CmekAwsCall *call, const char *role_arn,
					  const char *session_name, const char *token_file,
					  CmekAwsCredentials *out, CmekKmsAnswer *answer)
{
	char	   *token = cmek_kms_read_file(token_file, CMEK_AWS_MAX_WEB_TOKEN,
										   NULL, answer);

	if (token == NULL)
		return false;
	token[strcspn(token, " \t\r\n")] = '\0';
	if (!cmek_aws_web_identity_body(role_arn, session_name, token,
									call->request))
		return answer_too_long(answer, "a web identity token");
	if (cmek_aws_post(call, &call->sts, "sts", NULL, NULL, answer))
		return read_role(call, role_arn, out, answer);
	name_role(answer, role_arn);
	return false;
}

/* Ask who we are. */
bool
cmek_aws_caller_identity(CmekAwsCall *call,
						 const CmekAwsCredentials *credentials,
						 CmekKmsAnswer *answer)
{
	if (!cmek_aws_caller_identity_body(call->request))
		return answer_too_long(answer, "a request");
	if (!cmek_aws_post(call, &call->sts, "sts", NULL, credentials, answer))
		return false;
	if (cmek_aws_read_identity(call->http.body, call->http.body_len,
							   answer->key_id, sizeof(answer->key_id)))
		return true;
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "AnswerFormat",
					"STS did not say who we are");
	return false;
}

/*
 * "Access denied" is what AWS says both to somebody whose access was taken
 * away and, in some cases, to somebody it does not know.  Our own broken login
 * must not look like the customer's decision.
 */
void
cmek_aws_judge_denial(CmekAwsCall *call, const CmekAwsCredentials *credentials,
					  CmekKmsAnswer *answer)
{
	CmekKmsAnswer *identity = palloc0(sizeof(CmekKmsAnswer));

	if (!cmek_aws_caller_identity(call, credentials, identity))
		cmek_kms_answer(answer,
						identity->klass == CMEK_KMS_DENIED ?
						CMEK_KMS_MISCONFIGURED : identity->klass,
						identity->code,
						"access was denied, and our own identity could not be proved: %s",
						identity->message);
	pfree(identity);
}
