/*-------------------------------------------------------------------------
 *
 * wire_one.c
 *	  Every function that reads an answer of Vault's, Google's or Azure's, fed with
 *	  bytes; used by the test module and by libFuzzer.
 *
 *-------------------------------------------------------------------------
 */
#include "wire_one.h"

#include "kms/azurewire.h"
#include "kms/gcpwire.h"
#include "kms/vaultwire.h"

/* src/crypto's, which needs a server */
extern void cmek_cleanse(void *ptr, Size len);

void
cmek_cleanse(void *ptr, Size len)
{
	explicit_bzero(ptr, len);
}

#define AZURE_KEY "https://v.vault.azure.net/keys/k"
#define KEY "projects/p/locations/l/keyRings/r/cryptoKeys/k"

static const char *const functions[] = {
	"vault encrypt", "vault decrypt", "vault key", "vault login",
	"vault lookup", "vault renew", "gcp encrypt", "gcp decrypt", "gcp key",
	"gcp token", "gcp impersonated", "gcp account", "vault blob", "azure key", "azure wrap", "azure unwrap",
	"azure token", "azure challenge", "azure blob"
};

static const int statuses[] = {200, 400, 401, 403, 404, 429, 500, 503};

static const char *const answers[] = {
	"{\"data\":{\"ciphertext\":\"vault:v1:AAAA\",\"key_version\":1}}",
	"{\"data\":{\"plaintext\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}}",
	"{\"data\":{\"type\":\"aes256-gcm96\",\"latest_version\":2,\"min_decryption_version\":1,\"derived\":false}}",
	"{\"auth\":{\"client_token\":\"s.x\",\"lease_duration\":60,\"renewable\":true}}",
	"{\"data\":{\"ttl\":60,\"renewable\":true,\"display_name\":\"a\"}}",
	"{\"errors\":[\"permission denied\",\"cipher: message authentication failed\"]}",
	"{\"name\":\"" KEY "/cryptoKeyVersions/1\",\"ciphertext\":\"AAAA\",\"ciphertextCrc32c\":\"2147483648\","
	"\"verifiedPlaintextCrc32c\":true,\"verifiedAdditionalAuthenticatedDataCrc32c\":true}",
	"{\"plaintext\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"plaintextCrc32c\":\"2324772522\"}",
	"{\"purpose\":\"ENCRYPT_DECRYPT\",\"primary\":{\"name\":\"" KEY "/cryptoKeyVersions/3\",\"state\":\"ENABLED\"}}",
	"{\"error\":{\"code\":403,\"status\":\"PERMISSION_DENIED\",\"message\":\"m\",\"details\":[{\"reason\":\"KEY_DISABLED\"}]}}",
	"{\"access_token\":\"ya29.x\",\"expires_in\":3599}",
	"{\"accessToken\":\"ya29.x\",\"expireTime\":\"2026-01-01T00:00:00Z\"}",
	"{\"type\":\"service_account\",\"client_email\":\"a@b\",\"private_key\":\"k\",\"private_key_id\":\"i\",\"token_uri\":\"u\"}",
	"vault:v1:AAAA",
	"{\"key\":{\"kid\":\"" AZURE_KEY "/0123456789abcdef0123456789abcdef\",\"kty\":\"RSA\","
	"\"key_ops\":[\"wrapKey\",\"unwrapKey\"],\"n\":\"AA\",\"e\":\"AQAB\"},\"attributes\":{\"enabled\":true}}",
	"{\"kid\":\"" AZURE_KEY "/v1\",\"value\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}",
	"{\"error\":{\"code\":\"Forbidden\",\"message\":\"m\",\"innererror\":{\"code\":\"KeyDisabled\"}}}",
	"{\"access_token\":\"e.x.y\",\"expires_on\":\"1700003600\"}",
	"{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: bad\"}",
	"Bearer authorization=\"https://login.microsoftonline.com/t\", resource=\"https://vault.azure.net\"",
	"\1\1\1\1"
};

/* The seeds of random changes */
int
wire_seeds(const char *const **seeds)
{
	*seeds = answers;
	return lengthof(answers);
}

/* Answers about tokens */
static bool
read_token(const char *what, int status, const char *body, Size len,
		   CmekKmsAnswer *answer)
{
	static CmekVaultToken vault;
	static CmekGcpToken gcp;
	static CmekGcpAccount account;

	if (strcmp(what, "vault login") == 0)
		cmek_vault_read_login(status, body, len, &vault, answer);
	else if (strcmp(what, "vault lookup") == 0)
		cmek_vault_read_token(CMEK_VAULT_LOOKUP, status, body, len, &vault, answer);
	else if (strcmp(what, "vault renew") == 0)
		cmek_vault_read_token(CMEK_VAULT_RENEW, status, body, len, &vault, answer);
	else if (strcmp(what, "gcp token") == 0)
		cmek_gcp_read_token(status, body, len, &gcp, answer);
	else if (strcmp(what, "gcp impersonated") == 0)
		cmek_gcp_read_impersonated(status, body, len, &gcp, answer);
	else if (strcmp(what, "gcp account") == 0)
	{
		if (cmek_gcp_read_account(body, len, &account, answer))
			cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	else
		return false;
	return true;
}

/* Answers of Azure's */
static bool
read_azure(const char *what, const CmekKmsConfig *config, int status,
		   const char *body, Size len, CmekKmsAnswer *answer)
{
	static CmekAzureToken token;
	CmekAzureVersion version = {"v1", CMEK_AZURE_RSA_OAEP_256};
	CmekAzureBlob blob;
	uint8		value[CMEK_AZURE_MAX_WRAPPED];
	char		text[1024];
	Size		got;

	if (strcmp(what, "azure key") == 0)
		cmek_azure_read_key(config, status, body, len, &version, answer);
	else if (strcmp(what, "azure wrap") == 0 || strcmp(what, "azure unwrap") == 0)
	{
		cmek_azure_read_value(config, what[6] == 'w' ? CMEK_AZURE_WRAP : CMEK_AZURE_UNWRAP,
							  &version, status, body, len, value,
							  sizeof(value), &got, answer);
		if (answer->klass == CMEK_KMS_OK)
		{
			answer->blob_len = got;
			memcpy(answer->blob, value, got);
		}
	}
	else if (strcmp(what, "azure token") == 0)
		cmek_azure_read_token(status, body, len, 1700000000, &token, answer);
	else if (strcmp(what, "azure challenge") == 0)
	{
		snprintf(text, sizeof(text), "%.*s", (int) len, body);
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "HTTP401", "%s", "");
		cmek_azure_judge_challenge(text, "https://vault.azure.net", "t", answer);
	}
	else if (strcmp(what, "azure blob") == 0)
	{
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "InvalidBlob", "%s", "");
		if (cmek_azure_read_blob((const uint8 *) body, len, &blob))
		{
			strlcpy(answer->key_version, blob.version.name, sizeof(answer->key_version));
			/* all of it, and nothing beyond */
			memcpy(answer->blob, blob.sealed, CMEK_WRAPPED_DEK_LEN);
			answer->blob_len = CMEK_WRAPPED_DEK_LEN;
			cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
		}
	}
	else
		return false;
	return true;
}

/* See wire_one.h. */
bool
wire_read(const char *what, const CmekKmsConfig *config, int status,
		  const char *body, Size len, CmekKmsAnswer *answer)
{
	CmekKmsRequest req = {0};
	static char area[16384];
	CmekText	text;

	req.expected_version = "7";
	req.blob = (const uint8 *) "vault:v7:AAAA";
	req.blob_len = 13;
	if (strcmp(what, "vault encrypt") == 0)
		cmek_vault_read_encrypt(config, status, body, len, answer);
	else if (strcmp(what, "vault decrypt") == 0)
		cmek_vault_read_decrypt(config, &req, status, body, len, answer);
	else if (strcmp(what, "vault key") == 0)
		cmek_vault_read_key(config, status, body, len, answer);
	else if (strcmp(what, "gcp encrypt") == 0)
		cmek_gcp_read_encrypt(config, status, body, len, answer);
	else if (strcmp(what, "gcp decrypt") == 0)
		cmek_gcp_read_decrypt(config, &req, status, body, len, answer);
	else if (strcmp(what, "gcp key") == 0)
		cmek_gcp_read_key(config, status, body, len, answer);
	else if (strcmp(what, "vault blob") == 0)
	{
		cmek_text_init(&text, area, sizeof(area));
		if (cmek_vault_decrypt_body((const uint8 *) "0123456789abcdef",
									(const uint8 *) body, len, &text))
			cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	else
		return read_token(what, status, body, len, answer) ||
			read_azure(what, config, status, body, len, answer);
	return true;
}

/* End the process: something that must hold does not. */
static void
must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "wire: %s\n", what);
	abort();
}

/* Is a text ended within its area, and can everybody be shown it? */
static bool
is_shown(const char *text, Size size)
{
	Size		len = strnlen(text, size);

	for (Size i = 0; i < len; i++)
		if ((unsigned char) text[i] < ' ' || text[i] == 127)
			return false;
	return len < size;
}

/* See wire_one.h. */
void
wire_one(const uint8 *data, Size size)
{
	static CmekKmsAnswer answer;
	CmekKmsConfig *config = calloc(1, sizeof(CmekKmsConfig));
	const char *what;
	char	   *body;
	char		advice[512];
	int			status;

	must(config != NULL, "out of memory");
	if (size >= 2)
	{
		what = functions[data[0] % lengthof(functions)];
		cmek_kms_config_add(config, "key_id",
							strncmp(what, "azure", 5) == 0 ? AZURE_KEY : KEY);
		cmek_kms_config_add(config, "key", "k");
		status = statuses[data[1] % lengthof(statuses)];
		size -= 2;
		/* exactly as long as it is, so that a byte too much is noticed */
		body = malloc(size > 0 ? size : 1);
		must(body != NULL, "out of memory");
		memcpy(body, data + 2, size);
		memset(&answer, 0, sizeof(answer));
		answer.klass = CMEK_KMS_UNREACHABLE;
		wire_read(what, config, status, body, size, &answer);
		free(body);
		must(answer.klass <= CMEK_KMS_CORRUPT, "no class");
		must(answer.klass != CMEK_KMS_OK || status == 200 ||
			 strcmp(what, "gcp account") == 0 || strcmp(what, "vault blob") == 0 ||
			 strcmp(what, "azure blob") == 0,
			 "OK in spite of the status");
		must(is_shown(answer.code, sizeof(answer.code)), "code");
		must(is_shown(answer.message, sizeof(answer.message)), "message");
		must(is_shown(answer.key_id, sizeof(answer.key_id)), "key_id");
		must(is_shown(answer.key_version, sizeof(answer.key_version)), "version");
		must(answer.blob_len <= CMEK_KMS_MAX_BLOB, "blob");
		must(answer.klass != CMEK_KMS_OK || strstr(what, "encrypt") == NULL ||
			 answer.blob_len > 0, "OK without a blob");
		for (CmekKmsStep step = CMEK_STEP_IDENTITY; step <= CMEK_STEP_CONTEXT; step++)
		{
			cmek_vault_advise(config, step, &answer, advice, sizeof(advice));
			cmek_gcp_advise(config, step, &answer, advice, sizeof(advice));
			cmek_azure_advise(config, step, &answer, advice, sizeof(advice));
		}
	}
	free(config);
}
