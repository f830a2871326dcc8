/*-------------------------------------------------------------------------
 *
 * aws_error.c
 *	  Errors of AWS, and what they mean to us.
 *
 * KMS answers errors in JSON ("__type", with or without a namespace before
 * '#', "message" or "Message"), STS in XML.  What has neither is not from AWS
 * but from something in between, and says nothing about the key.
 *
 * Pure functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"
#include "kms/text.h"

typedef struct ErrorRule
{
	const char *code;
	CmekKmsClass klass;
	CmekAwsRemedy remedy;
} ErrorRule;

/*
 * Whatever is not here: by its status.  "AccessDenied" is STS's spelling,
 * "...Exception" is KMS's.
 */
static const ErrorRule rules[] = {
	{"DisabledException", CMEK_KMS_DENIED, CMEK_AWS_NO_REMEDY},
	{"KMSInvalidStateException", CMEK_KMS_DENIED, CMEK_AWS_NO_REMEDY},
	{"NotFoundException", CMEK_KMS_DENIED, CMEK_AWS_NO_REMEDY},
	{"AccessDeniedException", CMEK_KMS_DENIED, CMEK_AWS_PROVE_IDENTITY},
	{"AccessDenied", CMEK_KMS_DENIED, CMEK_AWS_PROVE_IDENTITY},

	{"InvalidCiphertextException", CMEK_KMS_CORRUPT, CMEK_AWS_NO_REMEDY},
	{"IncorrectKeyException", CMEK_KMS_CORRUPT, CMEK_AWS_NO_REMEDY},

	{"ExpiredToken", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
	{"ExpiredTokenException", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
	{"UnrecognizedClientException", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
	{"InvalidClientTokenId", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
	{"ExpiredIdentityToken", CMEK_KMS_MISCONFIGURED, CMEK_AWS_RENEW},
	{"IDPCommunicationError", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},

	{"InvalidSignatureException", CMEK_KMS_MISCONFIGURED, CMEK_AWS_SET_CLOCK},
	{"SignatureDoesNotMatch", CMEK_KMS_MISCONFIGURED, CMEK_AWS_SET_CLOCK},
	{"RequestExpired", CMEK_KMS_MISCONFIGURED, CMEK_AWS_SET_CLOCK},
	{"RequestTimeTooSkewed", CMEK_KMS_MISCONFIGURED, CMEK_AWS_SET_CLOCK},
	{"RequestInTheFuture", CMEK_KMS_MISCONFIGURED, CMEK_AWS_SET_CLOCK},
	{"AuthFailure", CMEK_KMS_MISCONFIGURED, CMEK_AWS_SET_CLOCK},

	{"KMSInternalException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"DependencyTimeoutException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"KeyUnavailableException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"InternalFailure", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"ServiceUnavailable", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"ServiceUnavailableException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"RequestTimeout", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"LimitExceededException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"RequestLimitExceeded", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"TooManyRequestsException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"SlowDown", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"PriorRequestNotComplete", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"BandwidthLimitExceeded", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"CloudHsmClusterNotActiveException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
	{"CustomKeyStoreInvalidStateException", CMEK_KMS_UNREACHABLE, CMEK_AWS_NO_REMEDY},
};

/* Copy a code, without its namespace and without an address behind it. */
static void
copy_code(char *out, Size size, const char *type)
{
	const char *hash = strrchr(type, '#');
	char		code[256];

	strlcpy(code, hash != NULL ? hash + 1 : type, sizeof(code));
	code[strcspn(code, ":")] = '\0';
	cmek_text_printable(out, size, code);
}

/* Does a text have a word in it, in whatever case?  Where; else NULL. */
static const char *
find_word(const char *text, const char *word)
{
	Size		len = strlen(word);

	for (; *text != '\0'; text++)
		if (pg_strncasecmp(text, word, len) == 0)
			return text;
	return NULL;
}

/*
 * Copy a message.  When a signature does not fit, AWS repeats the canonical
 * request that it has signed, and the session token is a part of that.
 */
static void
copy_message(char *out, Size size, char *message)
{
	const char *canonical = find_word(message, "canonical");

	if (canonical != NULL)
	{
		/* back to the end of the sentence before */
		while (canonical > message && *canonical != '.')
			canonical--;
		message[canonical - message] = '\0';
	}
	message[strcspn(message, "\r\n")] = '\0';
	cmek_text_printable(out, size, message);
}

/* Read an error in JSON. */
static bool
read_json(const char *body, Size len, CmekAwsError *error)
{
	json_t	   *object = cmek_json_object(body, len);
	char		type[256] = "";
	char		message[4096] = "";

	if (object == NULL)
		return false;
	if (!cmek_json_string(object, "__type", type, sizeof(type)) &&
		!cmek_json_string(object, "code", type, sizeof(type)))
		(void) cmek_json_string(object, "Code", type, sizeof(type));
	if (!cmek_json_string(object, "message", message, sizeof(message)))
		(void) cmek_json_string(object, "Message", message, sizeof(message));
	json_decref(object);
	copy_code(error->code, sizeof(error->code), type);
	copy_message(error->message, sizeof(error->message), message);
	return true;
}

/* Read an error in XML. */
static void
read_xml(const char *body, Size len, CmekAwsError *error)
{
	char		code[256];
	char		message[4096] = "";

	if (!cmek_aws_read_xml(body, len, "Code", code, sizeof(code)))
		return;
	(void) cmek_aws_read_xml(body, len, "Message", message, sizeof(message));
	copy_code(error->code, sizeof(error->code), code);
	copy_message(error->message, sizeof(error->message), message);
}

/* Read an error. */
void
cmek_aws_read_error(const char *type_header, const char *body, Size len,
					CmekAwsError *error)
{
	memset(error, 0, sizeof(CmekAwsError));
	if (!read_json(body, len, error))
		read_xml(body, len, error);
	/* KMS says it in a header, too */
	if (error->code[0] == '\0' && type_header != NULL)
		copy_code(error->code, sizeof(error->code), type_header);
}

/*
 * A key that is just being made, changed, or connected to its key store is not
 * one that was taken away.
 */
static bool
is_passing_state(const CmekAwsError *error)
{
	return strcmp(error->code, "KMSInvalidStateException") == 0 &&
		find_word(error->message, "pending") == NULL &&
		(find_word(error->message, "unavailable") != NULL ||
		 find_word(error->message, "creating") != NULL ||
		 find_word(error->message, "updating") != NULL);
}

/* The class of an answer that is not 200, and what to do about it. */
CmekKmsClass
cmek_aws_classify(int status, const CmekAwsError *error, CmekAwsRemedy *remedy)
{
	*remedy = CMEK_AWS_NO_REMEDY;
	/* no error of AWS's: a proxy, a portal, a stranger */
	if (error->code[0] == '\0')
		return CMEK_KMS_UNREACHABLE;
	if (status >= 500 || status == 429 || status == 408 ||
		strncmp(error->code, "Throttl", 7) == 0 ||
		strncmp(error->code, "RequestThrottled", 16) == 0 ||
		is_passing_state(error))
		return CMEK_KMS_UNREACHABLE;
	for (Size i = 0; i < lengthof(rules); i++)
		if (strcmp(rules[i].code, error->code) == 0)
		{
			*remedy = rules[i].remedy;
			return rules[i].klass;
		}
	return CMEK_KMS_MISCONFIGURED;
}
