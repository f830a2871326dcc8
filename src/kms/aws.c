/*-------------------------------------------------------------------------
 *
 * aws.c
 *	  Provider cmek_aws: a KMS key of AWS Key Management Service.
 *
 * A table key is made by GenerateDataKey and opened by Decrypt; the KMS key
 * itself never leaves AWS.  See aws.h for the files that do the work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"

#include "crypto/crypto.h"
#include "kms/aws.h"
#include "kms/internal.h"

/* ----------
 * Operations
 * ----------
 */

/* Remember in the answer which key it was. */
static void
name_key(const CmekAwsAnswer *result, CmekKmsAnswer *answer)
{
	strlcpy(answer->key_id, result->key_id, sizeof(answer->key_id));
	if (!cmek_aws_key_version(result->key_id, answer->key_version,
							  sizeof(answer->key_version)))
		strlcpy(answer->key_version, result->key_id,
				sizeof(answer->key_version));
}

/* Run one operation; NULL when it failed, and then the answer says how. */
static CmekAwsAnswer *
run(const CmekKmsRequest *req, CmekAwsOperation op, CmekKmsAnswer *answer)
{
	CmekAwsCall *call = palloc(sizeof(CmekAwsCall));
	CmekAwsAnswer *result = cmek_kms_new_secret(sizeof(CmekAwsAnswer));

	if (!cmek_aws_begin(call, req, answer) ||
		!cmek_aws_run(call, op, result, answer))
		return NULL;
	name_key(result, answer);
	return result;
}

/* Copy a wrapped table key into the answer. */
static void
give_blob(const CmekAwsAnswer *result, CmekKmsAnswer *answer)
{
	answer->blob_len = result->blob_len;
	memcpy(answer->blob, result->blob, result->blob_len);
}

/* A new table key. */
static void
aws_generate(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekAwsAnswer *result = run(req, CMEK_AWS_GENERATE_DATA_KEY, answer);

	if (result == NULL)
		return;
	memcpy(answer->key, result->key, CMEK_KEY_LEN);
	give_blob(result, answer);
}

/* Wrap a given table key. */
static void
aws_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekAwsAnswer *result = run(req, CMEK_AWS_ENCRYPT, answer);

	if (result != NULL)
		give_blob(result, answer);
}

/* Unwrap a table key. */
static void
aws_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekAwsAnswer *result = run(req, CMEK_AWS_DECRYPT, answer);

	if (result != NULL)
		memcpy(answer->key, result->key, CMEK_KEY_LEN);
}

/* Can the key do what we want of it, and is it in the state to do it? */
static void
aws_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekAwsAnswer *result = run(req, CMEK_AWS_DESCRIBE_KEY, answer);

	if (result == NULL)
		return;
	if (strcmp(result->usage, "ENCRYPT_DECRYPT") != 0 ||
		strcmp(result->spec, "SYMMETRIC_DEFAULT") != 0)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "InvalidKeyUsage",
						"the key is of kind %s, %s; it must be symmetric, for encryption",
						result->spec, result->usage);
	else if (strcmp(result->state, "Enabled") == 0)
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s is enabled",
						result->key_id);
	else if (strcmp(result->state, "Disabled") == 0 ||
			 strncmp(result->state, "Pending", 7) == 0)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, result->state,
						"the key is in state %s", result->state);
	else
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, result->state,
						"the key is in state %s", result->state);
}

/* Who are we at AWS? */
static void
aws_identify(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekAwsCall *call = palloc(sizeof(CmekAwsCall));

	if (cmek_aws_begin(call, req, answer) && cmek_aws_who(call, answer))
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", answer->key_id);
}

/* ----------
 * Options
 * ----------
 */

static const CmekKmsOption aws_options[] = {
	{"key_id", CMEK_OPTION_SERVER | CMEK_OPTION_IDENTITY | CMEK_OPTION_REQUIRED},
	{"region", CMEK_OPTION_SERVER | CMEK_OPTION_IDENTITY},
	{"role_arn", CMEK_OPTION_SERVER},
	{"external_id", CMEK_OPTION_SERVER},
	{"session_name", CMEK_OPTION_SERVER},
	{"endpoint", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"sts_endpoint", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"ca_file", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"access_key_id", CMEK_OPTION_MAPPING},
	{"secret_access_key", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{"session_token", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{"credential_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{"profile", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{NULL, 0}
};

/* The value of an option in a list; NULL when it is not there. */
static const char *
find_value(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* Complain about the value of an option, without repeating it. */
static void
reject_value(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail("%s", detail)));
}

/* Complain about an option that means nothing without another. */
static void
require_with(List *options, const char *name, const char *other)
{
	if (find_value(options, name) != NULL && find_value(options, other) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"%s\" requires option \"%s\"", name, other)));
}

/* Complain about two options that say different things. */
static void
forbid_with(List *options, const char *name, const char *other)
{
	if (find_value(options, name) != NULL && find_value(options, other) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("options \"%s\" and \"%s\" exclude each other",
						name, other)));
}

/* An address is https, or http on this host. */
static void
check_address(List *options, const char *name)
{
	const char *url = find_value(options, name);
	CmekAwsEndpoint endpoint;
	char		host[CMEK_AWS_MAX_HOST];
	char	   *colon;

	if (url == NULL)
		return;
	if (!cmek_aws_endpoint(url, "", "", &endpoint))
		reject_value(name, "It must be https://host or https://host:port.");
	if (strncmp(url, "https://", 8) == 0)
		return;
	strlcpy(host, endpoint.host, sizeof(host));
	colon = strrchr(host, ':');
	if (colon != NULL && strchr(colon, ']') == NULL)
		*colon = '\0';
	if (strncmp(url, "http://", 7) != 0 ||
		!cmek_http_plain_allowed(CMEK_HTTP_PLAIN_LOOPBACK, host))
		reject_value(name, "It must begin with https://; http:// is for loopback addresses only.");
}

/* A file is named by an absolute path. */
static void
check_path(List *options, const char *name)
{
	const char *path = find_value(options, name);

	if (path != NULL && !is_absolute_path(path))
		reject_value(name, "It must be an absolute path.");
}

/* A role is named by its ARN. */
static void
check_role(List *options)
{
	const char *role = find_value(options, "role_arn");

	if (role != NULL &&
		(strncmp(role, "arn:aws", 7) != 0 || strstr(role, ":iam::") == NULL ||
		 strstr(role, ":role/") == NULL))
		reject_value("role_arn", "It must be arn:aws:iam::ACCOUNT:role/NAME.");
}

/* The name of a session is what AWS allows. */
static void
check_session(List *options)
{
	const char *name = find_value(options, "session_name");

	if (name != NULL &&
		(strlen(name) < 2 || strlen(name) > 64 ||
		 strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				"0123456789_+=,.@-") != strlen(name)))
		reject_value("session_name", "It must have 2 to 64 letters, digits or characters of \"_+=,.@-\".");
}

/* Check the options of a server as a whole. */
static void
validate_server(List *options)
{
	const char *key_id = find_value(options, "key_id");
	const char *region = find_value(options, "region");
	const char *problem;
	CmekAwsKey	key;

	/* some region will be known when it is used; now only look at the names */
	if (!cmek_aws_key(key_id, region ? region : "", "", "us-east-1", &key,
					  &problem))
		reject_value("key_id", problem);
	require_with(options, "external_id", "role_arn");
	require_with(options, "session_name", "role_arn");
	check_role(options);
	check_session(options);
	check_address(options, "endpoint");
	check_address(options, "sts_endpoint");
	check_path(options, "ca_file");
}

/* Check the options of a user mapping as a whole. */
static void
validate_mapping(List *options)
{
	require_with(options, "access_key_id", "secret_access_key");
	require_with(options, "secret_access_key", "access_key_id");
	require_with(options, "session_token", "access_key_id");
	forbid_with(options, "credential_file", "access_key_id");
	forbid_with(options, "profile", "access_key_id");
	check_path(options, "credential_file");
}

/* Check a list of options. */
static void
aws_validate(List *options, Oid catalog)
{
	if (catalog == ForeignServerRelationId)
		validate_server(options);
	else if (catalog == UserMappingRelationId)
		validate_mapping(options);
}

/* The setting of the database that goes along with a request. */
static bool
aws_add_settings(CmekKmsConfig *config)
{
	return cmek_aws_external_id[0] == '\0' ||
		cmek_kms_config_add(config, CMEK_AWS_CONFIG_EXTERNAL_ID,
							cmek_aws_external_id);
}

static const CmekKmsStep aws_steps[] = {
	CMEK_STEP_IDENTITY, CMEK_STEP_KEY, CMEK_STEP_GENERATE, CMEK_STEP_ENCRYPT,
	CMEK_STEP_DECRYPT, CMEK_STEP_CONTEXT, CMEK_STEP_END
};

const CmekKmsProvider cmek_aws_provider = {
	.wrapper = "cmek_aws",
	.options = aws_options,
	.generate = aws_generate,
	.wrap = aws_wrap,
	.unwrap = aws_unwrap,
	.probe = aws_describe,
	.describe = aws_describe,
	.validate = aws_validate,
	.add_settings = aws_add_settings,
	.steps = aws_steps,
	.identify = aws_identify,
	.advise = cmek_aws_advise,
};
