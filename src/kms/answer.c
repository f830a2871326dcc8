/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  Options in flattened form, and answers.
 *
 * Pure functions: no memory of PostgreSQL's, no ERROR.  Nothing here may put a
 * secret into an answer's text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/kms.h"

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

/* See kms.h. */
void
cmek_kms_answer_malformed(const char *what, CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "MalformedAnswer",
					"the answer has no valid %s", what);
}

/* See kms.h. */
void
cmek_kms_answer_unknown(const char *kms, CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "MalformedAnswer",
					"the answer is not what %s says", kms);
}
