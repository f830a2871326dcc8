/*-------------------------------------------------------------------------
 *
 * aws_advise.c
 *	  What to grant at AWS when a step of cmek.check_key() was denied.
 *
 * Pure.  The statements can be pasted into a policy as they are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"
#include "kms/text.h"

/* The permission that a step needs; NULL when none is missing. */
static const char *
action_of(CmekKmsStep step)
{
	switch (step)
	{
		case CMEK_STEP_KEY:
			return "kms:DescribeKey";
		case CMEK_STEP_GENERATE:
			return "kms:GenerateDataKey";
		case CMEK_STEP_ENCRYPT:
			return "kms:Encrypt";
		case CMEK_STEP_DECRYPT:
		case CMEK_STEP_CONTEXT:
			return "kms:Decrypt";
		case CMEK_STEP_IDENTITY:
		case CMEK_STEP_END:
			break;
	}
	return NULL;
}

/* Append an option as a JSON string; another text when it is absent. */
static void
add_option(CmekText *text, const CmekKmsConfig *config, const char *name,
		   const char *otherwise)
{
	const char *value = cmek_kms_config_get(config, name);

	cmek_text_add_json(text, value != NULL ? value : otherwise);
}

/* The role cannot be taken on: what its trust policy must say. */
static void
advise_trust(const CmekKmsConfig *config, CmekText *text)
{
	const char *external_id = cmek_kms_config_get(config,
												  CMEK_AWS_CONFIG_EXTERNAL_ID);

	cmek_text_add(text, "Add to the trust policy of role ");
	add_option(text, config, "role_arn", "");
	cmek_text_add(text, ": {\"Effect\":\"Allow\",\"Principal\":{\"AWS\":\"<identity of the database>\"},\"Action\":\"sts:AssumeRole\"");
	if (external_id == NULL)
		external_id = cmek_kms_config_get(config, "external_id");
	if (external_id != NULL)
	{
		cmek_text_add(text, ",\"Condition\":{\"StringEquals\":{\"sts:ExternalId\":");
		cmek_text_add_json(text, external_id);
		cmek_text_add(text, "}}");
	}
	cmek_text_add(text, "}, and allow that identity sts:AssumeRole on the role.");
}

/* A permission is missing: the statement for the key's policy. */
static void
advise_key(const CmekKmsConfig *config, const char *action, CmekText *text)
{
	cmek_text_printf(text, "Add to the policy of the KMS key: {\"Effect\":\"Allow\",\"Principal\":{\"AWS\":");
	add_option(text, config, "role_arn", "<identity of the database>");
	cmek_text_printf(text, "},\"Action\":\"%s\",\"Resource\":\"*\"}; in an IAM policy of that identity, leave out \"Principal\" and name the key as \"Resource\".",
					 action);
}

/* Say what to grant: see kms.h. */
void
cmek_aws_advise(const CmekKmsConfig *config, CmekKmsStep step,
				const CmekKmsAnswer *answer, char *out, Size size)
{
	const char *action = action_of(step);
	CmekText	text;

	cmek_text_init(&text, out, size);
	if (strncmp(answer->code, "AccessDenied", 12) == 0 &&
		strncmp(answer->message, "role ", 5) == 0)
		advise_trust(config, &text);
	else if (strncmp(answer->code, "AccessDenied", 12) == 0 && action != NULL)
		advise_key(config, action, &text);
	else if (strcmp(answer->code, "NoCredentials") == 0)
		cmek_text_add(&text, "CREATE USER MAPPING FOR PUBLIC SERVER ... OPTIONS (access_key_id '...', secret_access_key '...').");
	else if (strcmp(answer->code, "Disabled") == 0 ||
			 strcmp(answer->code, "DisabledException") == 0)
		cmek_text_add(&text, "Enable the key: aws kms enable-key --key-id ....");
	else if (strncmp(answer->code, "PendingDeletion", 15) == 0)
		cmek_text_add(&text, "Cancel the deletion of the key, then enable it: aws kms cancel-key-deletion --key-id ....");
	if (text.overflow)
		out[0] = '\0';
}
