/*-------------------------------------------------------------------------
 *
 * azurewire.c
 *	  Requests to Azure Key Vault and Managed HSM, and their answers.
 *
 * Pure functions: no network, no clock, no PostgreSQL memory, no ERROR.  A 403
 * here is what the vault said; whether it came after a fresh token, azure.c
 * sees to.  An answer that names another key or version is not believed.
 *
 * A vault goes on wrapping with a disabled key; only unwrapKey tells that it
 * is disabled, and so does the key's own description.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/azurewire.h"

#define API_VERSION "?api-version=7.4"
#define SCHEME "https://"
#define KEYS "/keys/"
#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

/* A cloud's vaults, by the end of their host's name */
typedef struct AzureCloud
{
	const char *suffix;
	const char *resource;
	const char *authority;
} AzureCloud;

static const AzureCloud clouds[] = {
	{".vault.azure.net", "https://vault.azure.net", "https://login.microsoftonline.com"},
	{".managedhsm.azure.net", "https://managedhsm.azure.net", "https://login.microsoftonline.com"},
	{".vault.usgovcloudapi.net", "https://vault.usgovcloudapi.net", "https://login.microsoftonline.us"},
	{".managedhsm.usgovcloudapi.net", "https://managedhsm.usgovcloudapi.net", "https://login.microsoftonline.us"},
	{".vault.azure.cn", "https://vault.azure.cn", "https://login.chinacloudapi.cn"},
	{".managedhsm.azure.cn", "https://managedhsm.azure.cn", "https://login.chinacloudapi.cn"},
};

/* An error as a vault tells it */
typedef struct AzureError
{
	char		code[64];		/* "Forbidden" */
	char		inner[64];		/* "KeyDisabled" */
	char		message[CMEK_KMS_MAX_MESSAGE];	/* printable */
} AzureError;

/* ----------
 * Names and addresses
 * ----------
 */

/* The id of the key. */
static const char *
key_of(const CmekKmsConfig *config)
{
	const char *key = cmek_kms_config_get(config, "key_id");

	return key != NULL ? key : "";
}

/* See azurewire.h. */
bool
cmek_azure_is_key_id(const char *key_id)
{
	const char *host = key_id + strlen(SCHEME);
	Size		len;

	if (strncmp(key_id, SCHEME, strlen(SCHEME)) != 0)
		return false;
	len = strspn(host, NAME_CHARACTERS ".");
	if (len == 0 || strncmp(host + len, KEYS, strlen(KEYS)) != 0)
		return false;
	host += len + strlen(KEYS);
	len = strspn(host, NAME_CHARACTERS);
	return len > 0 && len <= 127 && host[len] == '\0';
}

/* How long the part of a key's id before "/keys/" is */
static Size
vault_length(const char *key_id)
{
	const char *keys = strstr(key_id, KEYS);

	return keys != NULL ? (Size) (keys - key_id) : strlen(key_id);
}

/* The cloud that a key is in; NULL when we do not know it. */
static const AzureCloud *
cloud_of(const char *key_id)
{
	Size		len = vault_length(key_id);

	for (Size i = 0; i < lengthof(clouds); i++)
	{
		Size		end = strlen(clouds[i].suffix);

		/* a name before it that is not empty */
		if (len > strlen(SCHEME) + end &&
			pg_strncasecmp(key_id + len - end, clouds[i].suffix, end) == 0)
			return &clouds[i];
	}
	return NULL;
}

/* See azurewire.h. */
bool
cmek_azure_is_known(const char *key_id)
{
	return cloud_of(key_id) != NULL;
}

/* See azurewire.h. */
const char *
cmek_azure_resource(const CmekKmsConfig *config)
{
	const char *resource = cmek_kms_config_get(config, "resource");
	const AzureCloud *cloud = cloud_of(key_of(config));

	return resource != NULL ? resource : cloud != NULL ? cloud->resource : "";
}

/* See azurewire.h. */
const char *
cmek_azure_authority(const CmekKmsConfig *config)
{
	const char *authority = cmek_kms_config_get(config, "authority");
	const AzureCloud *cloud = cloud_of(key_of(config));

	return authority != NULL ? authority : cloud != NULL ? cloud->authority : "";
}

/* See azurewire.h.  The validator let only characters through that need no escape. */
void
cmek_azure_url(const CmekKmsConfig *config, CmekAzureCall call,
			   const CmekAzureVersion *version, CmekText *url)
{
	const char *key = key_of(config);
	const char *endpoint = cmek_kms_config_get(config, "endpoint");
	Size		vault = vault_length(key);

	if (endpoint != NULL)
		cmek_text_add_base(url, endpoint);
	else
		cmek_text_add_bytes(url, key, vault);
	cmek_text_add(url, key + vault);
	if (call != CMEK_AZURE_GET)
		cmek_text_printf(url, "/%s/%s", version->name,
						 call == CMEK_AZURE_WRAP ? "wrapkey" : "unwrapkey");
	cmek_text_add(url, API_VERSION);
}

/* See azurewire.h. */
void
cmek_azure_body(CmekAzureAlgorithm algorithm, const uint8 *bytes, Size len,
				CmekText *body)
{
	cmek_text_printf(body, "{\"alg\":\"%s\",\"value\":\"",
					 algorithm == CMEK_AZURE_A256KW ? "A256KW" : "RSA-OAEP-256");
	cmek_text_add_base64url(body, bytes, len);
	cmek_text_add(body, "\"}");
}

/* ----------
 * Errors
 * ----------
 */

/* Read {"error": {"code", "message", "innererror": {"code"}}}, as far as it is there. */
static void
read_error(const char *body, Size len, AzureError *error)
{
	json_t	   *root = cmek_json_object(body, len);
	json_t	   *object = root != NULL ? json_object_get(root, "error") : NULL;
	json_t	   *inner = json_object_get(object, "innererror");
	const char *message = json_string_value(json_object_get(object, "message"));

	memset(error, 0, sizeof(AzureError));
	/* both spellings have been seen */
	if (inner == NULL)
		inner = json_object_get(object, "innerError");
	if (!cmek_json_string(object, "code", error->code, sizeof(error->code)))
		error->code[0] = '\0';
	if (!cmek_json_string(inner, "code", error->inner, sizeof(error->inner)))
		error->inner[0] = '\0';
	cmek_text_printable(error->message, sizeof(error->message),
						message != NULL ? message : "Azure gave no reason");
	json_decref(root);
}

/* What a 403 means: the key, or the way to it? */
static CmekKmsClass
class_of_403(const AzureError *error)
{
	/*
	 * A firewall is about where we come from.  A key out of its dates wraps no
	 * more, and still unwraps: that is no revocation.
	 */
	static const char *const others[] = {
		"ForbiddenByFirewall", "ForbiddenByConnection", "KeyExpired",
		"KeyNotYetValid"
	};

	for (Size i = 0; i < lengthof(others); i++)
		if (strcmp(error->inner, others[i]) == 0)
			return CMEK_KMS_MISCONFIGURED;
	/* without a code it is somebody on the way, not a vault */
	return error->code[0] != '\0' ? CMEK_KMS_DENIED : CMEK_KMS_MISCONFIGURED;
}

/* What an error means */
static CmekKmsClass
class_of(CmekAzureCall call, int status, const AzureError *error)
{
	switch (status)
	{
		case 403:
			return class_of_403(error);
		case 404:
			return strcmp(error->code, "KeyNotFound") == 0 ?
				CMEK_KMS_DENIED : CMEK_KMS_MISCONFIGURED;
		case 400:
			/* we write requests as they must be: so it is the value */
			return call == CMEK_AZURE_UNWRAP &&
				strcmp(error->code, "BadParameter") == 0 ?
				CMEK_KMS_CORRUPT : CMEK_KMS_MISCONFIGURED;
		case 409:
			/* deleted, and to be had back for some days */
			return strcmp(error->inner, "ObjectIsDeletedButRecoverable") == 0 ?
				CMEK_KMS_DENIED : CMEK_KMS_UNREACHABLE;
		case 408:
		case 429:
			return CMEK_KMS_UNREACHABLE;
		default:
			return status >= 500 ? CMEK_KMS_UNREACHABLE : CMEK_KMS_MISCONFIGURED;
	}
}

/* Turn any status but 200 into an answer. */
static void
answer_error(CmekAzureCall call, int status, const char *body, Size len,
			 CmekKmsAnswer *answer)
{
	AzureError	error;
	char		text[CMEK_KMS_MAX_CODE];
	char		code[CMEK_KMS_MAX_CODE];

	read_error(body, len, &error);
	if (error.inner[0] != '\0')
		strlcpy(text, error.inner, sizeof(text));
	else if (error.code[0] != '\0')
		strlcpy(text, error.code, sizeof(text));
	else
		snprintf(text, sizeof(text), "HTTP%d", status);
	cmek_text_printable(code, sizeof(code), text);
	cmek_kms_answer(answer, class_of(call, status, &error), code, "%s",
					error.message);
}

/* The answer as an object, or NULL with the answer filled in. */
static json_t *
open_answer(CmekAzureCall call, int status, const char *body, Size len,
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
		cmek_kms_answer_unknown("Azure", answer);
	return root;
}

/* ----------
 * Answers
 * ----------
 */

/* Is it a version: letters and digits, at most as many as a blob has room for? */
static bool
is_version(const char *text)
{
	Size		len = strlen(text);

	return len > 0 && len <= CMEK_AZURE_VERSION_LEN &&
		strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == len;
}

/*
 * Take the version out of a kid, which is the key's id with a version.  NULL
 * when it is another key's.  With an address of a superuser's choice, only the
 * part from "/keys/" on can be compared.
 */
static const char *
version_of_kid(const CmekKmsConfig *config, const char *kid)
{
	const char *key = key_of(config);
	Size		vault = vault_length(key);
	Size		kid_vault = vault_length(kid);
	Size		name = strlen(key + vault);

	if (cmek_kms_config_get(config, "endpoint") == NULL &&
		(kid_vault != vault || pg_strncasecmp(key, kid, vault) != 0))
		return NULL;
	kid += kid_vault;
	/* names of keys do not tell case apart */
	if (pg_strncasecmp(kid, key + vault, name) != 0 || kid[name] != '/' ||
		!is_version(kid + name + 1))
		return NULL;
	return kid + name + 1;
}

/* Note which version it was. */
static void
name_version(const CmekKmsConfig *config, const char *version,
			 CmekKmsAnswer *answer)
{
	strlcpy(answer->key_id, key_of(config), sizeof(answer->key_id));
	strlcpy(answer->key_version, version, sizeof(answer->key_version));
}

/* May the key do this? */
static bool
has_operation(const json_t *key, const char *name)
{
	const json_t *operations = json_object_get(key, "key_ops");

	for (size_t i = 0; i < json_array_size(operations); i++)
	{
		const char *one = json_string_value(json_array_get(operations, i));

		if (one != NULL && strcmp(one, name) == 0)
			return true;
	}
	return false;
}

/* How a key of this type wraps; false when it cannot. */
static bool
algorithm_of(const char *type, CmekAzureAlgorithm *algorithm)
{
	if (strcmp(type, "RSA") == 0 || strcmp(type, "RSA-HSM") == 0)
		*algorithm = CMEK_AZURE_RSA_OAEP_256;
	else if (strcmp(type, "oct-HSM") == 0)
		*algorithm = CMEK_AZURE_A256KW;
	else
		return false;
	return true;
}

/* Judge a description of the key. */
static void
judge_key(const CmekKmsConfig *config, const json_t *key, bool enabled,
		  CmekAzureVersion *version, CmekKmsAnswer *answer)
{
	char		kid[CMEK_KMS_MAX_KEY_ID];
	char		type[32];
	char		shown[32];
	const char *found;

	if (!cmek_json_string(key, "kid", kid, sizeof(kid)) ||
		(found = version_of_kid(config, kid)) == NULL ||
		!cmek_json_string(key, "kty", type, sizeof(type)))
	{
		cmek_kms_answer_malformed("kid of this key", answer);
		return;
	}
	strlcpy(version->name, found, sizeof(version->name));
	name_version(config, found, answer);
	cmek_text_printable(shown, sizeof(shown), type);
	if (!enabled)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "KeyDisabled",
						"version %s is disabled", version->name);
	else if (!algorithm_of(type, &version->algorithm))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyType",
						"the key is of type %s, which wraps nothing", shown);
	else if (!has_operation(key, "wrapKey") || !has_operation(key, "unwrapKey"))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyOperations",
						"the key's permitted operations lack wrapKey or unwrapKey");
	else
		cmek_kms_answer(answer, CMEK_KMS_OK, "",
						"exists, %s, version %s is enabled", shown, version->name);
}

/* See azurewire.h. */
void
cmek_azure_read_key(const CmekKmsConfig *config, int status, const char *body,
					Size len, CmekAzureVersion *version,
					CmekKmsAnswer *answer)
{
	json_t	   *root = open_answer(CMEK_AZURE_GET, status, body, len, answer);
	bool		enabled;

	if (root == NULL)
		return;
	if (!cmek_json_bool(json_object_get(root, "attributes"), "enabled", &enabled))
		cmek_kms_answer_malformed("attribute \"enabled\"", answer);
	else
		judge_key(config, json_object_get(root, "key"), enabled, version,
				  answer);
	json_decref(root);
}

/* See azurewire.h. */
void
cmek_azure_read_value(const CmekKmsConfig *config, CmekAzureCall call,
					  const CmekAzureVersion *version, int status,
					  const char *body, Size len, uint8 *value, Size size,
					  Size *got, CmekKmsAnswer *answer)
{
	json_t	   *root = open_answer(call, status, body, len, answer);
	const json_t *text = root != NULL ? json_object_get(root, "value") : NULL;
	char		kid[CMEK_KMS_MAX_KEY_ID];
	const char *found;

	if (root == NULL)
		return;
	if (!cmek_json_string(root, "kid", kid, sizeof(kid)) ||
		(found = version_of_kid(config, kid)) == NULL ||
		strcmp(found, version->name) != 0)
		cmek_kms_answer_malformed("kid of the version that was asked", answer);
	else if (!json_is_string(text) ||
			 !cmek_base64url_decode(json_string_value(text),
									json_string_length(text), value, size,
									got) || *got == 0)
		cmek_kms_answer_malformed("value", answer);
	else
	{
		name_version(config, version->name, answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* ----------
 * Challenges
 * ----------
 */

/* The value of name="value" in a challenge; false when it has none. */
static bool
challenge_part(const char *challenge, const char *name, char *out, Size size)
{
	const char *at = challenge;
	Size		len;

	while ((at = strstr(at, name)) != NULL)
	{
		bool		begins = at == challenge || at[-1] == ' ' || at[-1] == ',';

		at += strlen(name);
		if (begins && at[0] == '=' && at[1] == '"')
			break;
	}
	if (at == NULL)
		return false;
	at += 2;
	len = strcspn(at, "\"");
	if (at[len] != '"' || len >= size)
		return false;
	strlcpy(out, at, len + 1);
	return true;
}

/* See azurewire.h. */
bool
cmek_azure_judge_challenge(const char *challenge, const char *resource,
						   const char *tenant, CmekKmsAnswer *answer)
{
	char		part[512];
	char		shown[256];
	const char *wanted;

	if (challenge_part(challenge, "resource", part, sizeof(part)) &&
		strcmp(part, resource) != 0)
	{
		cmek_text_printable(shown, sizeof(shown), part);
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ChallengeResource",
						"the vault asks for a token of \"%s\", ours is of \"%s\"",
						shown, resource);
		return false;
	}
	if (tenant == NULL ||
		(!challenge_part(challenge, "authorization", part, sizeof(part)) &&
		 !challenge_part(challenge, "authorization_uri", part, sizeof(part))))
		return true;
	wanted = strrchr(part, '/');
	if (wanted == NULL || wanted[1] == '\0' ||
		pg_strcasecmp(wanted + 1, tenant) == 0)
		return true;
	cmek_text_printable(shown, sizeof(shown), wanted + 1);
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ChallengeTenant",
					"the vault belongs to tenant \"%s\", our token is of \"%s\"",
					shown, tenant);
	return false;
}

/* ----------
 * Blobs: see format.h
 * ----------
 */

/* See azurewire.h. */
void
cmek_azure_blob_header(const CmekAzureVersion *version, Size wrapped_len,
					   CmekAzureBlobHeader *header)
{
	memset(header, 0, sizeof(CmekAzureBlobHeader));
	header->layout = CMEK_AZURE_BLOB_LAYOUT;
	header->algorithm = version->algorithm;
	header->wrapped_len[0] = (uint8) (wrapped_len >> 8);
	header->wrapped_len[1] = (uint8) wrapped_len;
	memcpy(header->version, version->name,
		   strnlen(version->name, CMEK_AZURE_VERSION_LEN));
}

/* See azurewire.h. */
void
cmek_azure_blob_aad(const CmekAzureBlobHeader *header, const uint8 *uuid,
					CmekAzureWrapAad *aad)
{
	memset(aad, 0, sizeof(CmekAzureWrapAad));
	strlcpy(aad->domain, CMEK_AZURE_WRAP_DOMAIN, sizeof(aad->domain));
	memcpy(aad->uuid, uuid, CMEK_UUID_LEN);
	aad->header = *header;
}

/* See azurewire.h. */
bool
cmek_azure_read_blob(const uint8 *bytes, Size len, CmekAzureBlob *blob)
{
	memset(blob, 0, sizeof(CmekAzureBlob));
	if (len < sizeof(CmekAzureBlobHeader) + CMEK_WRAPPED_DEK_LEN)
		return false;
	memcpy(&blob->header, bytes, sizeof(CmekAzureBlobHeader));
	blob->wrapped_len = blob->header.wrapped_len[0] << 8 |
		blob->header.wrapped_len[1];
	if (blob->header.layout != CMEK_AZURE_BLOB_LAYOUT ||
		(blob->header.algorithm != CMEK_AZURE_RSA_OAEP_256 &&
		 blob->header.algorithm != CMEK_AZURE_A256KW) ||
		blob->wrapped_len == 0 ||
		blob->wrapped_len > CMEK_AZURE_MAX_WRAPPED ||
		len != sizeof(CmekAzureBlobHeader) + blob->wrapped_len + CMEK_WRAPPED_DEK_LEN)
		return false;
	memcpy(blob->version.name, blob->header.version, CMEK_AZURE_VERSION_LEN);
	blob->version.algorithm = blob->header.algorithm;
	blob->wrapped = bytes + sizeof(CmekAzureBlobHeader);
	blob->sealed = blob->wrapped + blob->wrapped_len;
	return is_version(blob->version.name);
}

/* ----------
 * Advice
 * ----------
 */

/* Which role gives what is lacking, in the words of the service */
static void
advise_role(const CmekKmsConfig *config, char *out, Size size)
{
	const char *key = key_of(config);
	const char *client = cmek_kms_config_get(config, "client_id");
	const char *who = client != NULL ? client : "PRINCIPAL";
	int			host = Min(strcspn(key + Min(strlen(key), strlen(SCHEME)), "."), 127);
	const char *vault = key + Min(strlen(key), strlen(SCHEME));
	const char *name = key + vault_length(key);

	if (strstr(key, ".managedhsm.") != NULL)
		snprintf(out, size,
				 "Grant: az keyvault role assignment create --hsm-name %.*s --role \"Managed HSM Crypto Service Encryption User\" --assignee %s --scope %s",
				 host, vault, who, name);
	else
		snprintf(out, size,
				 "Grant: az role assignment create --role \"Key Vault Crypto Service Encryption User\" --assignee %s --scope VAULT_RESOURCE_ID%s (with access policies: az keyvault set-policy --name %.*s --spn %s --key-permissions get wrapKey unwrapKey)",
				 who, name, host, vault, who);
}

/* See azurewire.h. */
void
cmek_azure_advise(const CmekKmsConfig *config, CmekKmsStep step,
				  const CmekKmsAnswer *answer, char *out, Size size)
{
	const char *code = answer->code;

	if (strcmp(code, "KeyDisabled") == 0)
		snprintf(out, size,
				 "Enable the version: az keyvault key set-attributes --id %s/VERSION --enabled true",
				 key_of(config));
	else if (strcmp(code, "KeyNotFound") == 0 ||
			 strcmp(code, "ObjectIsDeletedButRecoverable") == 0)
		snprintf(out, size,
				 "Create the key %s, recover it (az keyvault key recover), or correct key_id.",
				 key_of(config));
	else if (strcmp(code, "KeyType") == 0)
		strlcpy(out, "Use an RSA key of at least 2048 bits, or in a Managed HSM an AES key (oct-HSM) of 256 bits.", size);
	else if (strcmp(code, "KeyOperations") == 0)
		snprintf(out, size,
				 "Allow: az keyvault key set-attributes --id %s --ops wrapKey unwrapKey",
				 key_of(config));
	else if (strcmp(code, "KeyExpired") == 0 || strcmp(code, "KeyNotYetValid") == 0)
		strlcpy(out, "Make a new version of the key, or change its dates.", size);
	else if (strcmp(code, "ForbiddenByFirewall") == 0 ||
			 strcmp(code, "ForbiddenByConnection") == 0)
		strlcpy(out, "Let the database host through the vault's network rules.", size);
	else if (strncmp(code, "Challenge", 9) == 0)
		strlcpy(out, "Correct tenant_id, or the resource of a vault with an address of its own.", size);
	else if (step == CMEK_STEP_IDENTITY)
		strlcpy(out, "Correct the credentials with ALTER USER MAPPING; nothing needs a restart.", size);
	else if (answer->klass == CMEK_KMS_DENIED)
		advise_role(config, out, size);
}
