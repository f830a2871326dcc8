/*-------------------------------------------------------------------------
 *
 * check.c
 *	  The steps of cmek.check_key(): what a provider must be able to do with a
 *	  KMS key, tried one by one.
 *
 * A step is one operation of the provider as it is used every day, so that
 * what was proved is what will be needed.  The value that is wrapped is made
 * of the uuid of the check: it is no secret, and whoever unwraps it knows what
 * it must be.  Nothing here is kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/internal.h"

/* The name of a step, as people see it. */
const char *
cmek_kms_step_name(CmekKmsStep step)
{
	switch (step)
	{
		case CMEK_STEP_END:
			break;
		case CMEK_STEP_IDENTITY:
			return "identity";
		case CMEK_STEP_KEY:
			return "key";
		case CMEK_STEP_GENERATE:
			return "generate";
		case CMEK_STEP_ENCRYPT:
			return "encrypt";
		case CMEK_STEP_DECRYPT:
			return "decrypt";
		case CMEK_STEP_CONTEXT:
			return "context";
	}
	return "unknown";
}

/* What is wrapped in a check. */
static void
test_value(const uint8 *uuid, uint8 *value)
{
	memcpy(value, uuid, CMEK_UUID_LEN);
	memcpy(value + CMEK_UUID_LEN, uuid, CMEK_UUID_LEN);
}

/* Wrap the test value. */
static void
check_encrypt(const CmekKmsProvider *provider, const CmekKmsRequest *req,
			  CmekKmsAnswer *answer)
{
	CmekKmsRequest wrap = *req;
	uint8		value[CMEK_KEY_LEN];

	test_value(req->uuid, value);
	wrap.key = value;
	provider->wrap(&wrap, answer);
}

/* Unwrap it. */
static void
check_decrypt(const CmekKmsProvider *provider, const CmekKmsRequest *req,
			  CmekKmsAnswer *answer)
{
	uint8		value[CMEK_KEY_LEN];

	provider->unwrap(req, answer);
	test_value(req->uuid, value);
	if (answer->klass == CMEK_KMS_OK &&
		!cmek_equal(answer->key, value, CMEK_KEY_LEN))
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "WrongPlaintext",
						"the KMS unwrapped another value than it had wrapped");
}

/*
 * Unwrap it under another encryption context, which must fail: a KMS that
 * does not bind the context would open a blob put in the place of another.
 */
static void
check_context(const CmekKmsProvider *provider, const CmekKmsRequest *req,
			  CmekKmsAnswer *answer)
{
	CmekKmsRequest other = *req;
	uint8		uuid[CMEK_UUID_LEN];

	memcpy(uuid, req->uuid, CMEK_UUID_LEN);
	uuid[0] ^= 0xff;
	other.uuid = uuid;
	provider->unwrap(&other, answer);
	if (answer->klass == CMEK_KMS_OK)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ContextNotBound",
						"the KMS opens a wrapped key under another encryption context");
	else if (answer->klass == CMEK_KMS_CORRUPT)
		cmek_kms_answer(answer, CMEK_KMS_OK, "",
						"another encryption context is refused");
}

/* Call the provider for one step. */
static void
run_step(const CmekKmsProvider *provider, const CmekKmsRequest *req,
		 CmekKmsStep step, CmekKmsAnswer *answer)
{
	switch (step)
	{
		case CMEK_STEP_END:
			break;
		case CMEK_STEP_IDENTITY:
			provider->identify(req, answer);
			break;
		case CMEK_STEP_KEY:
			provider->describe(req, answer);
			break;
		case CMEK_STEP_GENERATE:
			cmek_kms_generate(provider, req, answer);
			break;
		case CMEK_STEP_ENCRYPT:
			check_encrypt(provider, req, answer);
			break;
		case CMEK_STEP_DECRYPT:
			check_decrypt(provider, req, answer);
			break;
		case CMEK_STEP_CONTEXT:
			check_context(provider, req, answer);
			break;
	}
}

/* See kms.h. */
void
cmek_kms_check(const CmekKmsProvider *provider, const CmekKmsRequest *req,
			   CmekKmsStep step, CmekKmsAnswer *answer)
{
	run_step(provider, req, step, answer);
	cmek_cleanse(answer->key, CMEK_KEY_LEN);
	if (answer->klass == CMEK_KMS_OK)
		return;
	answer->blob_len = 0;
	if (provider->advise == NULL || answer->klass == CMEK_KMS_UNREACHABLE)
		return;
	answer->blob[0] = '\0';
	provider->advise(req->config, step, answer, (char *) answer->blob,
					 sizeof(answer->blob));
	if (answer->blob[0] != '\0')
		answer->blob_len = strlen((char *) answer->blob) + 1;
}
