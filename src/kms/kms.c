/*-------------------------------------------------------------------------
 *
 * kms.c
 *	  The registry of KMS providers, their options in flattened form, and
 *	  their answers.
 *
 * A provider is known by the name of its foreign-data wrapper.  Nothing here
 * talks to a KMS, and nothing here may put a secret into an answer's text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "compat.h"
#include "kms/aws.h"
#include "kms/internal.h"

bool		cmek_ambient_credentials = false;
char	   *cmek_region = NULL;
char	   *cmek_aws_external_id = NULL;

static const CmekKmsProvider *const providers[] = {
	&cmek_file_provider,
	&cmek_aws_provider,
	&cmek_gcp_provider,
	&cmek_vault_provider,
};

/* The provider behind a foreign-data wrapper; NULL when it is not ours. */
const CmekKmsProvider *
cmek_kms_provider(const char *wrapper)
{
	for (Size i = 0; i < lengthof(providers); i++)
		if (strcmp(providers[i]->wrapper, wrapper) == 0)
			return providers[i];
	return NULL;
}

/* The word for a class of answers, as people see it. */
const char *
cmek_kms_class_name(CmekKmsClass klass)
{
	switch (klass)
	{
		case CMEK_KMS_OK:
			return "ok";
		case CMEK_KMS_DENIED:
			return "denied";
		case CMEK_KMS_UNREACHABLE:
			return "unreachable";
		case CMEK_KMS_MISCONFIGURED:
			return "misconfigured";
		case CMEK_KMS_CORRUPT:
			return "corrupt";
	}
	return "unknown";
}

/* The value of an option of a flattened configuration; NULL when absent. */
const char *
cmek_kms_config_get(const CmekKmsConfig *config, const char *name)
{
	const char *at = config->options;
	const char *end = config->options + config->len;

	while (at < end)
	{
		const char *value = at + strlen(at) + 1;

		if (strcmp(at, name) == 0)
			return value;
		at = value + strlen(value) + 1;
	}
	return NULL;
}

/* Append an option to a flattened configuration. */
bool
cmek_kms_config_add(CmekKmsConfig *config, const char *name,
					const char *value)
{
	Size		namelen = strlen(name) + 1;
	Size		valuelen = strlen(value) + 1;

	if (namelen > CMEK_KMS_MAX_CONFIG - config->len ||
		valuelen > CMEK_KMS_MAX_CONFIG - config->len - namelen)
		return false;
	memcpy(config->options + config->len, name, namelen);
	memcpy(config->options + config->len + namelen, value, valuelen);
	config->len += namelen + valuelen;
	return true;
}

/* Fill in the class, the code and the message of an answer. */
void
cmek_kms_answer(CmekKmsAnswer *answer, CmekKmsClass klass,
				const char *code, const char *fmt,...)
{
	va_list		args;

	answer->klass = klass;
	strlcpy(answer->code, code, sizeof(answer->code));
	va_start(args, fmt);
	vsnprintf(answer->message, sizeof(answer->message), fmt, args);
	va_end(args);
}

/* A path setting is empty or absolute. */
static bool
check_absolute_path(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' || is_absolute_path(*newval))
		return true;
	GUC_check_errdetail("The path of a key file must be absolute.");
	return false;
}

/* Register the settings of this folder. */
void
cmek_kms_init(void)
{
	DefineCustomStringVariable("cmek.service_key_file",
							   "File that holds the service key.",
							   "Empty: service_key in the directory named as the data directory with .cmek at its end.",
							   &cmek_service_key_file,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_absolute_path, NULL, NULL);
	DefineCustomStringVariable("cmek.service_key_command",
							   "Shell command that prints the service key.",
							   "When set, it is used instead of cmek.service_key_file.",
							   &cmek_service_key_command,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("cmek.region",
							   "Region of this server, where replicas of multi-Region keys are used.",
							   "Empty: the region that a key's own name says.",
							   &cmek_region,
							   "",
							   PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("cmek.aws_external_id",
							   "External id with which this database takes on roles at AWS.",
							   "When set, KMS keys of ordinary users cannot name another one.",
							   &cmek_aws_external_id,
							   "",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("cmek.ambient_credentials",
							 "Lets KMS keys of ordinary users use the identity of the database host.",
							 NULL,
							 &cmek_ambient_credentials,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	cmek_gcp_init();
}
