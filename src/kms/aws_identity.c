/*-------------------------------------------------------------------------
 *
 * aws_identity.c
 *	  Where the credentials come from that sign a request to KMS.
 *
 *	 user mapping: access_key_id, secret_access_key		--+
 *	 user mapping: credential_file						--+
 *	 ambient: environment, web identity, AWS's own files,	--> base
 *			  container, instance							  |
 *								  option role_arn: AssumeRole v
 *														what signs
 *
 * Ambient credentials are the host's own and serve only who may use them
 * (kms.h).  What comes from STS or a metadata service is remembered by this
 * worker until some minutes before it ends (token.c), for the same options and
 * the same source only.  Files and the environment are read each time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "crypto/crypto.h"
#include "kms/aws.h"

#define RENEW_BEFORE_S 300		/* before temporary credentials end */
#define FILE_MAX 262144			/* AWS's own files */

/* One way to base credentials */
typedef enum Source
{
	SOURCE_MAPPING,
	SOURCE_FILE,
	SOURCE_AMBIENT
} Source;

/* Which way do the options ask for? */
static Source
source_of(const CmekKmsConfig *config)
{
	if (cmek_kms_config_get(config, "access_key_id") != NULL)
		return SOURCE_MAPPING;
	if (cmek_kms_config_get(config, "credential_file") != NULL)
		return SOURCE_FILE;
	return SOURCE_AMBIENT;
}

/* See aws.h. */
bool
cmek_aws_uses_ambient(const CmekKmsConfig *config)
{
	return source_of(config) == SOURCE_AMBIENT;
}

/* A variable of the environment; NULL when it is absent or empty. */
static const char *
env(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && *value != '\0' ? value : NULL;
}

/* ----------
 * What is remembered
 * ----------
 */

/* The identity of base credentials from a service, or of a role's. */
static void
token_id(const CmekAwsCall *call, bool role, uint8 *id)
{
	const CmekKmsConfig *config = call->config;
	const char *parts[] = {
		cmek_kms_config_get(config, "access_key_id"),
		cmek_kms_config_get(config, "secret_access_key"),
		cmek_kms_config_get(config, "session_token"),
		cmek_kms_config_get(config, "credential_file"),
		cmek_kms_config_get(config, "profile"),
		call->sts.url, call->sts.region,
		role ? call->role_arn : NULL,
		role ? call->session_name : NULL,
		role ? call->external_id : NULL,
	};

	cmek_token_id(id, role ? "aws role" : "aws base", parts, lengthof(parts));
}

/* Get remembered credentials. */
static bool
recall(CmekAwsCall *call, bool role, CmekAwsCredentials *out)
{
	uint8		id[CMEK_TOKEN_ID_LEN];

	token_id(call, role, id);
	if (!cmek_token_get(id, out, sizeof(CmekAwsCredentials)))
		return false;
	call->remembered = true;
	return true;
}

/* Remember temporary credentials until shortly before they end. */
static void
remember(CmekAwsCall *call, bool role, const CmekAwsCredentials *credentials)
{
	uint8		id[CMEK_TOKEN_ID_LEN];
	CmekInstant ends;
	CmekInstant margin;

	if (credentials->expires_at == 0)
		return;
	ends = cmek_instant_at(time_t_to_timestamptz((pg_time_t) credentials->expires_at));
	margin = Min((ends - cmek_now()) / 4, (int64) RENEW_BEFORE_S * USECS_PER_SEC);
	token_id(call, role, id);
	cmek_token_put(id, credentials, sizeof(CmekAwsCredentials), ends - margin);
}

/* Forget what was refused. */
void
cmek_aws_forget_credentials(CmekAwsCall *call)
{
	uint8		id[CMEK_TOKEN_ID_LEN];

	token_id(call, true, id);
	cmek_token_forget(id);
	token_id(call, false, id);
	cmek_token_forget(id);
	call->remembered = false;
}

/* ----------
 * Profiles in files
 * ----------
 */

/* An empty profile in secret memory. */
static CmekAwsProfile *
new_profile(void)
{
	return cmek_secret_alloc_in(CurrentMemoryContext, sizeof(CmekAwsProfile));
}

/* Add what a file says; false when it could not be read although it is there. */
static bool
add_file(const char *path, const char *name, bool config, bool must_exist,
		 CmekAwsProfile *profile, bool *found, CmekKmsAnswer *answer)
{
	bool		missing;
	char	   *text = cmek_kms_read_file(path, FILE_MAX, &missing, answer);

	if (text == NULL)
		return missing && !must_exist;
	*found |= cmek_aws_profile(text, name, config, profile);
	return true;
}

/* The path of one of AWS's own files; false without a home directory. */
static bool
default_path(const char *variable, const char *name, char *path, Size size)
{
	if (env(variable) != NULL)
		strlcpy(path, env(variable), size);
	else if (env("HOME") != NULL)
		snprintf(path, size, "%s/.aws/%s", env("HOME"), name);
	else
		return false;
	return true;
}

/* Read a profile out of the files that the configuration, or AWS, names. */
static bool
load_profile(CmekAwsCall *call, const char *name, CmekAwsProfile *profile,
			 bool *found, CmekKmsAnswer *answer)
{
	const char *own = cmek_kms_config_get(call->config, "credential_file");
	char		path[MAXPGPATH];

	*found = false;
	if (own != NULL)
		return add_file(own, name, false, true, profile, found, answer);
	if (default_path("AWS_CONFIG_FILE", "config", path, sizeof(path)) &&
		!add_file(path, name, true, false, profile, found, answer))
		return false;
	return !default_path("AWS_SHARED_CREDENTIALS_FILE", "credentials",
						 path, sizeof(path)) ||
		add_file(path, name, false, false, profile, found, answer);
}

/* Does a profile have keys? */
static bool
has_keys(const CmekAwsProfile *profile)
{
	return profile->credentials.access_key_id[0] != '\0' &&
		profile->credentials.secret_access_key[0] != '\0';
}

/* The name of the session of a profile's role. */
static const char *
session_of(const CmekAwsCall *call, const CmekAwsProfile *profile)
{
	return profile->role_session_name[0] != '\0' ?
		profile->role_session_name : call->session_name;
}

/* Take on the role of a profile, by the keys of its source. */
static bool
profile_role(CmekAwsCall *call, const CmekAwsProfile *profile,
			 CmekAwsCredentials *out, CmekKmsAnswer *answer)
{
	CmekAwsProfile *source = new_profile();
	bool		found;

	if (profile->web_identity_token_file[0] != '\0')
		return cmek_aws_web_identity(call, profile->role_arn,
									 session_of(call, profile),
									 profile->web_identity_token_file,
									 out, answer);
	if (!load_profile(call, profile->source_profile, source, &found, answer))
		return false;
	if (!has_keys(source))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
						"source profile \"%s\" has no access key",
						profile->source_profile);
		return false;
	}
	return cmek_aws_assume_role(call, &source->credentials, profile->role_arn,
								session_of(call, profile),
								profile->external_id, out, answer);
}

/*
 * Credentials of a profile.  Not *found, when none was asked for by name and
 * there is none: then other ways are left.
 */
static bool
profile_credentials(CmekAwsCall *call, CmekAwsCredentials *out, bool *found,
					CmekKmsAnswer *answer)
{
	const char *wanted = cmek_kms_config_get(call->config, "profile");
	CmekAwsProfile *profile = new_profile();

	if (wanted == NULL && cmek_aws_uses_ambient(call->config))
		wanted = env("AWS_PROFILE");
	*found = true;
	if (!load_profile(call, wanted ? wanted : "default", profile, found,
					  answer))
	{
		*found = true;
		return false;
	}
	if (has_keys(profile))
	{
		*out = profile->credentials;
		return true;
	}
	if (*found && profile->role_arn[0] != '\0' &&
		(profile->web_identity_token_file[0] != '\0' ||
		 profile->source_profile[0] != '\0'))
		return profile_role(call, profile, out, answer);
	*found = wanted != NULL || !cmek_aws_uses_ambient(call->config);
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
					"profile \"%s\" has no access key and no role",
					wanted ? wanted : "default");
	return false;
}

/* ----------
 * Base credentials
 * ----------
 */

/* Those of the user mapping. */
static bool
mapping_credentials(CmekAwsCall *call, CmekAwsCredentials *out,
					CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->config;
	const char *id = cmek_kms_config_get(config, "access_key_id");
	const char *secret = cmek_kms_config_get(config, "secret_access_key");
	const char *token = cmek_kms_config_get(config, "session_token");

	if (secret != NULL &&
		strlcpy(out->access_key_id, id, sizeof(out->access_key_id)) < sizeof(out->access_key_id) &&
		strlcpy(out->secret_access_key, secret, sizeof(out->secret_access_key)) < sizeof(out->secret_access_key) &&
		strlcpy(out->session_token, token ? token : "", sizeof(out->session_token)) < sizeof(out->session_token))
		return true;
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "BadCredentials",
					"the access key of the user mapping is not complete, or too long");
	return false;
}

/* Those of the environment. */
static bool
environment_credentials(CmekAwsCredentials *out)
{
	const char *id = env("AWS_ACCESS_KEY_ID");
	const char *secret = env("AWS_SECRET_ACCESS_KEY");
	const char *token = env("AWS_SESSION_TOKEN");

	if (id == NULL || secret == NULL)
		return false;
	return strlcpy(out->access_key_id, id, sizeof(out->access_key_id)) < sizeof(out->access_key_id) &&
		strlcpy(out->secret_access_key, secret, sizeof(out->secret_access_key)) < sizeof(out->secret_access_key) &&
		strlcpy(out->session_token, token ? token : "", sizeof(out->session_token)) < sizeof(out->session_token);
}

/* The host's own, in the order in which AWS's tools look for them. */
static bool
ambient_credentials(CmekAwsCall *call, CmekAwsCredentials *out,
					CmekKmsAnswer *answer)
{
	const char *token_file = env("AWS_WEB_IDENTITY_TOKEN_FILE");
	const char *role = env("AWS_ROLE_ARN");
	const char *session = env("AWS_ROLE_SESSION_NAME");
	bool		found;
	bool		ok;

	/* a profile that the server names comes before the environment */
	if (cmek_kms_config_get(call->config, "profile") == NULL)
	{
		if (environment_credentials(out))
			return true;
		if (token_file != NULL && role != NULL)
			return cmek_aws_web_identity(call, role,
										 session ? session : call->session_name,
										 token_file, out, answer);
	}
	ok = profile_credentials(call, out, &found, answer);
	if (ok || found)
		return ok;
	ok = cmek_aws_container_credentials(call, out, &found, answer);
	if (ok || found)
		return ok;
	return cmek_aws_instance_credentials(call, out, answer);
}

/* Answer that nobody has given us credentials. */
static bool
answer_none(CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
					"there are no credentials in a user mapping for PUBLIC, and the host's own are only for servers of superusers and databases with cmek.ambient_credentials");
	return false;
}

/* Get the credentials that come first. */
static bool
base_credentials(CmekAwsCall *call, CmekAwsCredentials *out,
				 CmekKmsAnswer *answer)
{
	bool		found;
	bool		ok = false;

	switch (source_of(call->config))
	{
		case SOURCE_MAPPING:
			return mapping_credentials(call, out, answer);
		case SOURCE_FILE:
			if (recall(call, false, out))
				return true;
			ok = profile_credentials(call, out, &found, answer);
			break;
		case SOURCE_AMBIENT:
			if (!call->config->ambient)
				return answer_none(answer);
			if (recall(call, false, out))
				return true;
			ok = ambient_credentials(call, out, answer);
			break;
	}
	if (ok)
		remember(call, false, out);
	return ok;
}

/* ----------
 * What signs
 * ----------
 */

/* Take on the role of the server, by base credentials. */
static bool
role_credentials(CmekAwsCall *call, const CmekAwsCredentials *base,
				 CmekKmsAnswer *answer)
{
	if (cmek_aws_assume_role(call, base, call->role_arn, call->session_name,
							 call->external_id, call->credentials, answer))
	{
		remember(call, true, call->credentials);
		return true;
	}
	/* to have lost the role is to be denied, if it is us who are denied */
	if (call->remedy == CMEK_AWS_PROVE_IDENTITY && !call->remembered)
		cmek_aws_judge_denial(call, base, answer);
	return false;
}

/* Fill in call->credentials: see aws.h. */
bool
cmek_aws_get_credentials(CmekAwsCall *call, CmekKmsAnswer *answer)
{
	CmekAwsCredentials *base;

	call->remembered = false;
	call->remedy = CMEK_AWS_NO_REMEDY;
	/* before what is remembered, which may be of somebody who may */
	if (cmek_aws_uses_ambient(call->config) && !call->config->ambient)
		return answer_none(answer);
	if (call->role_arn == NULL)
		return base_credentials(call, call->credentials, answer);
	if (recall(call, true, call->credentials))
		return true;
	base = cmek_secret_alloc_in(CurrentMemoryContext,
								sizeof(CmekAwsCredentials));
	return base_credentials(call, base, answer) &&
		role_credentials(call, base, answer);
}
