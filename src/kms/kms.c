/*-------------------------------------------------------------------------
 *
 * kms.c
 *	  The registry of KMS providers, and settings.
 *
 * A provider is known by the name of its foreign-data wrapper.  Nothing here
 * talks to a KMS.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/aws.h"
#include "kms/internal.h"
#include "kms/text.h"

bool		cmek_ambient_credentials = false;
char	   *cmek_region = NULL;
char	   *cmek_aws_external_id = NULL;

static const CmekKmsProvider *const providers[] = {
	&cmek_file_provider,
	&cmek_aws_provider,
	&cmek_gcp_provider,
	&cmek_vault_provider,
	&cmek_kmip_provider,
	&cmek_pkcs11_provider,
	&cmek_azure_provider,
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

/* See kms.h. */
void
cmek_kms_generate(const CmekKmsProvider *provider, const CmekKmsRequest *req,
				  CmekKmsAnswer *answer)
{
	CmekKmsRequest wrap = *req;

	if (provider->generate != NULL)
	{
		provider->generate(req, answer);
		return;
	}
	cmek_random(answer->key, CMEK_KEY_LEN);
	wrap.key = answer->key;
	provider->wrap(&wrap, answer);
}

/* Secret memory of a call, zeroed when its context is reset. */
void *
cmek_kms_new_secret(Size size)
{
	return cmek_secret_alloc_in(CurrentMemoryContext, size);
}

/* A text under construction in secret memory of a call */
CmekText
cmek_kms_new_text(Size size)
{
	CmekText	text;

	cmek_text_init(&text, cmek_kms_new_secret(size), size);
	return text;
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
	cmek_azure_init();
}
