/*-------------------------------------------------------------------------
 *
 * gcpwire.c
 *	  Requests to Google Cloud KMS, and its answers.
 *
 * Pure functions: no network, no clock, no PostgreSQL memory, no ERROR.  Every
 * value carries a CRC32C both ways; what does not fit was damaged on the way
 * and is asked for again.  A 403 here is what the KMS said; whether it came
 * after a fresh token, gcp.c sees to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/gcpwire.h"
#include "kms/internal.h"

#define KMS_ENDPOINT "https://cloudkms.googleapis.com"
#define VERSIONS "/cryptoKeyVersions/"

/* An error as Google's services tell it */
typedef struct GcpError
{
	char		status[64];		/* "PERMISSION_DENIED" */
	char		reason[64];		/* of its ErrorInfo: "SERVICE_DISABLED" */
	char		message[CMEK_KMS_MAX_MESSAGE];	/* printable */
} GcpError;

/* CRC32C (Castagnoli, reflected), bit by bit: the values are short. */
uint32
cmek_gcp_crc32c(const void *data, Size len)
{
	const uint8 *at = data;
	uint32		crc = 0xffffffff;

	while (len-- > 0)
	{
		crc ^= *at++;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0x82f63b78 & -(crc & 1));
	}
	return ~crc;
}

/* The resource name of the key. */
static const char *
key_of(const CmekKmsConfig *config)
{
	const char *key = cmek_kms_config_get(config, "key_id");

	return key != NULL ? key : "";
}

/* See gcpwire.h.  The validator let only characters through that need no escape. */
void
cmek_gcp_key_url(const CmekKmsConfig *config, CmekGcpCall call, CmekText *url)
{
	const char *endpoint = cmek_kms_config_get(config, "endpoint");

	cmek_text_add_base(url, endpoint != NULL ? endpoint : KMS_ENDPOINT);
	cmek_text_add(url, "/v1/");
	cmek_text_add(url, key_of(config));
	if (call != CMEK_GCP_KEY)
		cmek_text_add(url, call == CMEK_GCP_ENCRYPT ? ":encrypt" : ":decrypt");
}

/* The two members of a value: itself and its CRC32C. */
static void
add_value(CmekText *body, const char *name, const void *bytes, Size len)
{
	cmek_text_printf(body, "\"%s\":\"", name);
	cmek_text_add_base64(body, bytes, len);
	cmek_text_printf(body, "\",\"%sCrc32c\":\"%u\"", name,
					 cmek_gcp_crc32c(bytes, len));
}

/* A value and the context of a table key, as one object. */
static void
add_request(CmekText *body, const char *name, const void *bytes, Size len,
			const uint8 *uuid)
{
	char		aad[CMEK_KMS_AAD_LEN + 1];

	cmek_kms_aad(uuid, aad);
	cmek_text_add(body, "{");
	add_value(body, name, bytes, len);
	cmek_text_add(body, ",");
	add_value(body, "additionalAuthenticatedData", aad, CMEK_KMS_AAD_LEN);
	cmek_text_add(body, "}");
}

/* See gcpwire.h. */
void
cmek_gcp_encrypt_body(const uint8 *uuid, const uint8 *key, CmekText *body)
{
	add_request(body, "plaintext", key, CMEK_KEY_LEN, uuid);
}

/* See gcpwire.h. */
void
cmek_gcp_decrypt_body(const uint8 *uuid, const uint8 *blob, uint32 len,
					  CmekText *body)
{
	add_request(body, "ciphertext", blob, len, uuid);
}

/* Read {"error": {"status", "message", "details"}}, as far as it is there. */
static void
read_error(const char *body, Size len, GcpError *error)
{
	json_t	   *root = cmek_json_object(body, len);
	json_t	   *object = root != NULL ? json_object_get(root, "error") : NULL;
	json_t	   *details = json_object_get(object, "details");
	const char *message = json_string_value(json_object_get(object, "message"));

	memset(error, 0, sizeof(GcpError));
	if (object == NULL || !cmek_json_string(object, "status", error->status,
											sizeof(error->status)))
		error->status[0] = '\0';
	for (size_t i = 0; json_is_array(details) && i < json_array_size(details); i++)
		if (cmek_json_string(json_array_get(details, i), "reason",
							 error->reason, sizeof(error->reason)))
			break;
	cmek_text_printable(error->message, sizeof(error->message),
						message != NULL ? message : "Google gave no reason");
	json_decref(root);
}

/* What an error of one of Google's services means by its status alone */
static CmekKmsClass
class_of(int status, const GcpError *error)
{
	switch (status)
	{
		case 403:
			/* about the way to the key, not about the key */
			if (strcmp(error->reason, "SERVICE_DISABLED") == 0 ||
				strcmp(error->reason, "BILLING_DISABLED") == 0 ||
				strcmp(error->reason, "ACCESS_TOKEN_SCOPE_INSUFFICIENT") == 0 ||
				strcmp(error->reason, "CONSUMER_INVALID") == 0 ||
				strcmp(error->reason, "SECURITY_POLICY_VIOLATED") == 0)
				return CMEK_KMS_MISCONFIGURED;
			return CMEK_KMS_DENIED;
		case 404:
			return CMEK_KMS_DENIED;
		case 400:
			return strcmp(error->status, "FAILED_PRECONDITION") == 0 ?
				CMEK_KMS_DENIED : CMEK_KMS_MISCONFIGURED;
		case 408:
		case 409:
		case 429:
		case 499:
			return CMEK_KMS_UNREACHABLE;
		default:
			return status >= 500 ? CMEK_KMS_UNREACHABLE : CMEK_KMS_MISCONFIGURED;
	}
}

/* The code of an error: the most telling that there is. */
static void
error_code(int status, const GcpError *error, char *code)
{
	char		text[CMEK_KMS_MAX_CODE];

	if (error->reason[0] != '\0')
		strlcpy(text, error->reason, sizeof(text));
	else if (error->status[0] != '\0')
		strlcpy(text, error->status, sizeof(text));
	else
		snprintf(text, sizeof(text), "HTTP%d", status);
	cmek_text_printable(code, CMEK_KMS_MAX_CODE, text);
}

/* Turn any status but 200 into an answer. */
static void
answer_error(CmekGcpCall call, int status, const char *body, Size len,
			 CmekKmsAnswer *answer)
{
	GcpError	error;
	CmekKmsClass klass;
	char		code[CMEK_KMS_MAX_CODE];

	read_error(body, len, &error);
	klass = class_of(status, &error);
	error_code(status, &error, code);
	if (status == 400 && strcmp(error.status, "INVALID_ARGUMENT") == 0)
	{
		if (strstr(error.message, "rc32c") != NULL ||
			strstr(error.message, "checksum") != NULL)
			klass = CMEK_KMS_UNREACHABLE;
		else if (call == CMEK_GCP_DECRYPT &&
				 strstr(error.message, "Decryption failed") != NULL)
			klass = CMEK_KMS_CORRUPT;
	}
	cmek_kms_answer(answer, klass, code, "%s", error.message);
}

/* The answer as an object, or NULL with the answer filled in. */
static json_t *
open_answer(CmekGcpCall call, int status, const char *body, Size len,
			CmekKmsAnswer *answer)
{
	json_t	   *root;

	if (status != 200)
	{
		answer_error(call, status, body, len, answer);
		return NULL;
	}
	root = cmek_json_object(body, len);
	if (root == NULL)
		cmek_kms_answer_unknown("Google Cloud KMS", answer);
	return root;
}

/* Something was damaged on its way: ask again. */
static void
answer_damaged(const char *what, CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "ChecksumMismatch",
					"%s", what);
}

/* Does a member hold the CRC32C of some bytes, as a decimal string? */
static bool
crc_fits(const json_t *root, const char *name, const void *bytes, Size len)
{
	char		told[16];
	char		right[16];

	snprintf(right, sizeof(right), "%u", cmek_gcp_crc32c(bytes, len));
	return cmek_json_string(root, name, told, sizeof(told)) &&
		strcmp(told, right) == 0;
}

/* Is it true that the KMS got what we sent? */
static bool
is_verified(const json_t *root, const char *name)
{
	bool		value;

	return cmek_json_bool(root, name, &value) && value;
}

/* Take the version out of "KEY/cryptoKeyVersions/N"; false when it is another key's. */
static bool
name_version(const CmekKmsConfig *config, const char *name,
			 CmekKmsAnswer *answer)
{
	const char *key = key_of(config);
	Size		len = strlen(key);
	const char *number = name + len + strlen(VERSIONS);

	if (strncmp(name, key, len) != 0 ||
		strncmp(name + len, VERSIONS, strlen(VERSIONS)) != 0 ||
		*number == '\0' || strlen(number) > 18 ||
		strspn(number, "0123456789") != strlen(number))
		return false;
	strlcpy(answer->key_id, key, sizeof(answer->key_id));
	strlcpy(answer->key_version, number, sizeof(answer->key_version));
	return true;
}

/* See gcpwire.h. */
void
cmek_gcp_read_encrypt(const CmekKmsConfig *config, int status,
					  const char *body, Size len, CmekKmsAnswer *answer)
{
	json_t	   *root = open_answer(CMEK_GCP_ENCRYPT, status, body, len, answer);
	char		name[CMEK_KMS_MAX_KEY_ID];
	Size		got;

	if (root == NULL)
		return;
	if (!is_verified(root, "verifiedPlaintextCrc32c") ||
		!is_verified(root, "verifiedAdditionalAuthenticatedDataCrc32c"))
		answer_damaged("the KMS has not verified what it was sent", answer);
	else if (!cmek_json_base64(root, "ciphertext", answer->blob,
							   sizeof(answer->blob), &got) || got == 0)
		cmek_kms_answer_malformed("ciphertext", answer);
	else if (!crc_fits(root, "ciphertextCrc32c", answer->blob, got))
		answer_damaged("the ciphertext does not fit its checksum", answer);
	else if (!cmek_json_string(root, "name", name, sizeof(name)) ||
			 !name_version(config, name, answer))
		cmek_kms_answer_malformed("name of a version of this key", answer);
	else
	{
		answer->blob_len = got;
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* See gcpwire.h.  The answer names no version: it is the one expected. */
void
cmek_gcp_read_decrypt(const CmekKmsConfig *config, const CmekKmsRequest *req,
					  int status, const char *body, Size len,
					  CmekKmsAnswer *answer)
{
	json_t	   *root = open_answer(CMEK_GCP_DECRYPT, status, body, len, answer);
	Size		got;

	if (root == NULL)
		return;
	if (!cmek_json_base64(root, "plaintext", answer->key, CMEK_KEY_LEN, &got) ||
		got != CMEK_KEY_LEN)
		cmek_kms_answer_malformed("plaintext of a table key's length", answer);
	else if (!crc_fits(root, "plaintextCrc32c", answer->key, CMEK_KEY_LEN))
		answer_damaged("the plaintext does not fit its checksum", answer);
	else
	{
		strlcpy(answer->key_id, key_of(config), sizeof(answer->key_id));
		strlcpy(answer->key_version, req->expected_version,
				sizeof(answer->key_version));
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* Judge the primary version of a key. */
static void
read_primary(const CmekKmsConfig *config, const json_t *primary,
			 CmekKmsAnswer *answer)
{
	char		name[CMEK_KMS_MAX_KEY_ID];
	char		state[48];
	char		shown[48];
	char		code[CMEK_KMS_MAX_CODE];

	if (primary == NULL)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "NoPrimaryVersion",
						"the key has no primary version");
	else if (!json_is_object(primary) ||
			 !cmek_json_string(primary, "name", name, sizeof(name)) ||
			 !cmek_json_string(primary, "state", state, sizeof(state)) ||
			 !name_version(config, name, answer))
		cmek_kms_answer_malformed("primary version of this key", answer);
	else if (strcmp(state, "ENABLED") == 0)
		cmek_kms_answer(answer, CMEK_KMS_OK, "",
						"exists, symmetric, primary version %s is enabled",
						answer->key_version);
	else
	{
		cmek_text_printable(shown, sizeof(shown), state);
		snprintf(code, sizeof(code), "KEY_%s", shown);
		cmek_kms_answer(answer, CMEK_KMS_DENIED, code,
						"primary version %s is %s", answer->key_version, shown);
	}
}

/* See gcpwire.h. */
void
cmek_gcp_read_key(const CmekKmsConfig *config, int status, const char *body,
				  Size len, CmekKmsAnswer *answer)
{
	json_t	   *root = open_answer(CMEK_GCP_KEY, status, body, len, answer);
	char		purpose[64];
	char		shown[64];

	if (root == NULL)
		return;
	if (!cmek_json_string(root, "purpose", purpose, sizeof(purpose)))
		cmek_kms_answer_malformed("purpose", answer);
	else if (strcmp(purpose, "ENCRYPT_DECRYPT") != 0)
	{
		cmek_text_printable(shown, sizeof(shown), purpose);
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyPurpose",
						"the key's purpose is %s, not ENCRYPT_DECRYPT", shown);
	}
	else
		read_primary(config, json_object_get(root, "primary"), answer);
	json_decref(root);
}

/* See gcpwire.h. */
void
cmek_gcp_advise(const CmekKmsConfig *config, CmekKmsStep step,
				const CmekKmsAnswer *answer, char *out, Size size)
{
	const char *target = cmek_kms_config_get(config, "impersonate");
	const char *own = cmek_kms_config_get(config, "client_email");
	const char *member = target != NULL ? target : own != NULL ? own : "ACCOUNT";

	if (strcmp(answer->code, "ImpersonationDenied") == 0)
		snprintf(out, size,
				 "Grant: gcloud iam service-accounts add-iam-policy-binding %s --member=serviceAccount:%s --role=roles/iam.serviceAccountTokenCreator",
				 target != NULL ? target : "TARGET", own != NULL ? own : "ACCOUNT");
	else if (step == CMEK_STEP_IDENTITY)
		strlcpy(out, "Correct the credentials with ALTER USER MAPPING; nothing needs a restart.",
				size);
	else if (strcmp(answer->code, "PERMISSION_DENIED") == 0 ||
			 strcmp(answer->code, "IAM_PERMISSION_DENIED") == 0)
		snprintf(out, size,
				 "Grant: gcloud kms keys add-iam-policy-binding %s --member=serviceAccount:%s --role=roles/cloudkms.%s",
				 key_of(config), member,
				 step == CMEK_STEP_KEY ? "viewer" : "cryptoKeyEncrypterDecrypter");
	else if (strncmp(answer->code, "KEY_", 4) == 0)
		snprintf(out, size,
				 "Enable the version: gcloud kms keys versions enable VERSION --key=%s",
				 key_of(config));
	else if (strcmp(answer->code, "NOT_FOUND") == 0)
		snprintf(out, size, "Create the key %s with purpose encryption, or correct key_id.",
				 key_of(config));
	else if (strcmp(answer->code, "KeyPurpose") == 0)
		strlcpy(out, "Use a key made with --purpose=encryption.", size);
}
