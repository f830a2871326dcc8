/*-------------------------------------------------------------------------
 *
 * vaultwire.c
 *	  Requests to the Transit engine of Vault or OpenBao, and its answers.
 *
 * Pure functions: no network, no PostgreSQL memory, no ERROR.  Whatever an
 * answer holds is taken for hostile; nothing of a plaintext reaches a message.
 * A 403 is told apart only here and judged in vault.c, for "permission denied"
 * is what a dead token gets as well as a revoked right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/internal.h"
#include "kms/vaultwire.h"

#define CIPHERTEXT_PREFIX "vault:v"

/* Append a path, its slashes as they are. */
static void
add_path(CmekText *url, const char *path)
{
	while (*path != '\0')
	{
		char		part[2] = {*path++, '\0'};

		if (part[0] == '/')
			cmek_text_add(url, part);
		else
			cmek_text_add_percent(url, part);
	}
}

/* The mount of the Transit engine. */
static const char *
mount_of(const CmekKmsConfig *config)
{
	const char *mount = cmek_kms_config_get(config, "mount");

	return mount != NULL ? mount : "transit";
}

/* The mount of the method by which we log in. */
static const char *
auth_mount_of(const CmekKmsConfig *config)
{
	const char *mount = cmek_kms_config_get(config, "auth_mount");

	if (mount != NULL)
		return mount;
	return cmek_kms_config_get(config, "role_id") != NULL ? "approle" : "kubernetes";
}

/* The name of the key. */
static const char *
key_of(const CmekKmsConfig *config)
{
	const char *key = cmek_kms_config_get(config, "key");

	return key != NULL ? key : "";
}

/* See vaultwire.h. */
void
cmek_vault_url(const CmekKmsConfig *config, CmekVaultCall call, CmekText *url)
{
	const char *base = cmek_kms_config_get(config, "url");

	cmek_text_add_base(url, base != NULL ? base : "");
	cmek_text_add(url, "/v1/");
	switch (call)
	{
		case CMEK_VAULT_LOOKUP:
			cmek_text_add(url, "auth/token/lookup-self");
			return;
		case CMEK_VAULT_RENEW:
			cmek_text_add(url, "auth/token/renew-self");
			return;
		case CMEK_VAULT_LOGIN:
			cmek_text_add(url, "auth/");
			add_path(url, auth_mount_of(config));
			cmek_text_add(url, "/login");
			return;
		case CMEK_VAULT_ENCRYPT:
		case CMEK_VAULT_DECRYPT:
		case CMEK_VAULT_KEY:
			break;
	}
	add_path(url, mount_of(config));
	cmek_text_add(url, call == CMEK_VAULT_ENCRYPT ? "/encrypt/" :
				  call == CMEK_VAULT_DECRYPT ? "/decrypt/" : "/keys/");
	cmek_text_add_percent(url, key_of(config));
}

/* The member that binds the table key's uuid, and the end of the object. */
static void
add_context(CmekText *body, const uint8 *uuid)
{
	char		aad[CMEK_KMS_AAD_LEN + 1];

	cmek_kms_aad(uuid, aad);
	cmek_text_add(body, ",\"associated_data\":\"");
	cmek_text_add_base64(body, (uint8 *) aad, CMEK_KMS_AAD_LEN);
	cmek_text_add(body, "\"}");
}

/* See vaultwire.h. */
void
cmek_vault_encrypt_body(const uint8 *uuid, const uint8 *key, CmekText *body)
{
	cmek_text_add(body, "{\"plaintext\":\"");
	cmek_text_add_base64(body, key, CMEK_KEY_LEN);
	cmek_text_add(body, "\"");
	add_context(body, uuid);
}

/*
 * The version in a ciphertext "vault:vN:base64"; 0 when it is none.  Only what
 * needs no quoting in JSON is let through.
 */
static int
ciphertext_version(const char *text, Size len)
{
	Size		at = strlen(CIPHERTEXT_PREFIX);
	int			version = 0;

	if (len <= at || memcmp(text, CIPHERTEXT_PREFIX, at) != 0)
		return 0;
	for (; at < len && text[at] >= '0' && text[at] <= '9'; at++)
	{
		version = version * 10 + (text[at] - '0');
		if (version > 100000000)
			return 0;
	}
	if (at + 1 >= len || text[at] != ':')
		return 0;
	for (at++; at < len; at++)
		if (!((text[at] >= 'a' && text[at] <= 'z') ||
			  (text[at] >= 'A' && text[at] <= 'Z') ||
			  (text[at] >= '0' && text[at] <= '9') ||
			  text[at] == '+' || text[at] == '/' || text[at] == '='))
			return 0;
	return version;
}

/* See vaultwire.h. */
bool
cmek_vault_decrypt_body(const uint8 *uuid, const uint8 *blob, uint32 len,
						CmekText *body)
{
	if (ciphertext_version((const char *) blob, len) == 0)
		return false;
	cmek_text_add(body, "{\"ciphertext\":\"");
	cmek_text_add_bytes(body, (const char *) blob, len);
	cmek_text_add(body, "\"");
	add_context(body, uuid);
	return true;
}

/* An object of two strings. */
static void
two_strings(CmekText *body, const char *name1, const char *value1,
			const char *name2, const char *value2)
{
	cmek_text_add(body, "{");
	cmek_text_add_json(body, name1);
	cmek_text_add(body, ":");
	cmek_text_add_json(body, value1);
	cmek_text_add(body, ",");
	cmek_text_add_json(body, name2);
	cmek_text_add(body, ":");
	cmek_text_add_json(body, value2);
	cmek_text_add(body, "}");
}

/* See vaultwire.h. */
void
cmek_vault_approle_body(const char *role_id, const char *secret_id,
						CmekText *body)
{
	two_strings(body, "role_id", role_id, "secret_id", secret_id);
}

/* See vaultwire.h. */
void
cmek_vault_kubernetes_body(const char *role, const char *jwt, CmekText *body)
{
	two_strings(body, "role", role, "jwt", jwt);
}

/* The errors of an answer as one printable text; "" when there are none. */
static void
collect_errors(const char *body, Size len, char *out, Size size)
{
	json_t	   *root = cmek_json_object(body, len);
	json_t	   *errors = root != NULL ? json_object_get(root, "errors") : NULL;
	char		all[CMEK_KMS_MAX_MESSAGE] = "";

	for (size_t i = 0; json_is_array(errors) && i < json_array_size(errors); i++)
	{
		const char *text = json_string_value(json_array_get(errors, i));

		if (text == NULL)
			continue;
		if (all[0] != '\0')
			strlcat(all, "; ", sizeof(all));
		strlcat(all, text, sizeof(all));
	}
	cmek_text_printable(out, size, all);
	json_decref(root);
}

/* Texts of Vault by which errors of one status are told apart */
typedef struct VaultError
{
	const char *text;			/* contained in the message */
	const char *code;
	CmekKmsClass klass;
} VaultError;

static const VaultError known_errors[] = {
	/* a wrong context or a damaged blob; a 500 in every Vault since 1.5 */
	{"message authentication failed", "DecryptionFailed", CMEK_KMS_CORRUPT},
	{"invalid ciphertext", "InvalidCiphertext", CMEK_KMS_CORRUPT},
	{"unable to decrypt", "DecryptionFailed", CMEK_KMS_CORRUPT},
	{"encryption key not found", "KeyNotFound", CMEK_KMS_DENIED},
	{"no existing key named", "KeyNotFound", CMEK_KMS_DENIED},
	{"disallowed by policy (too old)", "VersionTooOld", CMEK_KMS_DENIED},
	{"key is soft-deleted", "KeySoftDeleted", CMEK_KMS_DENIED},
};

/* The same for the rest, by status alone */
static void
answer_status(int status, const char *message, CmekKmsAnswer *answer)
{
	char		code[CMEK_KMS_MAX_CODE];
	CmekKmsClass klass = CMEK_KMS_MISCONFIGURED;

	snprintf(code, sizeof(code), "HTTP%d", status);
	switch (status)
	{
		case 408:
		case 412:				/* replication is behind */
		case 429:
		case 472:
		case 473:
		case 500:
		case 502:
		case 503:				/* sealed */
		case 504:
			klass = CMEK_KMS_UNREACHABLE;
			break;
		case 403:
			strlcpy(code, "PermissionDenied", sizeof(code));
			break;
		case 400:
			strlcpy(code, "InvalidRequest", sizeof(code));
			break;
	}
	cmek_kms_answer(answer, klass, code, "%s",
					message[0] != '\0' ? message : "Vault gave no reason");
}

/* Turn any status but 200 into an answer. */
static void
read_error(CmekVaultCall call, int status, const char *body, Size len,
		   CmekKmsAnswer *answer)
{
	char		message[CMEK_KMS_MAX_MESSAGE];

	collect_errors(body, len, message, sizeof(message));
	if (status == 400 || status == 500)
		for (Size i = 0; i < lengthof(known_errors); i++)
			if (strstr(message, known_errors[i].text) != NULL)
			{
				cmek_kms_answer(answer, known_errors[i].klass,
								known_errors[i].code, "%s", message);
				return;
			}
	if (status == 404 && strstr(message, "no handler for route") != NULL)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoMount", "%s", message);
	else if (status == 404 && call == CMEK_VAULT_KEY)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "KeyNotFound",
						"there is no such key");
	else
		answer_status(status, message, answer);
}

/* The answer's object "data" or "auth", or NULL with the answer filled in. */
static json_t *
open_answer(CmekVaultCall call, int status, const char *body, Size len,
			const char *member, json_t **root, CmekKmsAnswer *answer)
{
	json_t	   *object;

	*root = NULL;
	if (status != 200)
	{
		read_error(call, status, body, len, answer);
		return NULL;
	}
	*root = cmek_json_object(body, len);
	object = *root != NULL ? json_object_get(*root, member) : NULL;
	if (!json_is_object(object))
	{
		cmek_kms_answer_unknown("Vault", answer);
		return NULL;
	}
	return object;
}

/* Name the key as the catalog keeps it. */
static void
name_key(const CmekKmsConfig *config, int64 version, CmekKmsAnswer *answer)
{
	const char *space = cmek_kms_config_get(config, "namespace");

	snprintf(answer->key_id, sizeof(answer->key_id), "%s%s%s/keys/%s",
			 space != NULL ? space : "", space != NULL ? "/" : "",
			 mount_of(config), key_of(config));
	snprintf(answer->key_version, sizeof(answer->key_version), INT64_FORMAT,
			 version);
}

/* See vaultwire.h. */
void
cmek_vault_read_encrypt(const CmekKmsConfig *config, int status,
						const char *body, Size len, CmekKmsAnswer *answer)
{
	json_t	   *root;
	json_t	   *data = open_answer(CMEK_VAULT_ENCRYPT, status, body, len,
								   "data", &root, answer);
	char		text[CMEK_KMS_MAX_BLOB + 1];
	int			version;

	if (data != NULL &&
		(!cmek_json_string(data, "ciphertext", text, sizeof(text)) ||
		 (version = ciphertext_version(text, strlen(text))) == 0))
		cmek_kms_answer_malformed("ciphertext", answer);
	else if (data != NULL)
	{
		answer->blob_len = strlen(text);
		memcpy(answer->blob, text, answer->blob_len);
		name_key(config, version, answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* See vaultwire.h. */
void
cmek_vault_read_decrypt(const CmekKmsConfig *config, const CmekKmsRequest *req,
						int status, const char *body, Size len,
						CmekKmsAnswer *answer)
{
	json_t	   *root;
	json_t	   *data = open_answer(CMEK_VAULT_DECRYPT, status, body, len,
								   "data", &root, answer);
	Size		got;

	if (data != NULL &&
		(!cmek_json_base64(data, "plaintext", answer->key, CMEK_KEY_LEN, &got) ||
		 got != CMEK_KEY_LEN))
		cmek_kms_answer_malformed("plaintext of a table key's length", answer);
	else if (data != NULL)
	{
		name_key(config, ciphertext_version((const char *) req->blob,
											req->blob_len), answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* Can a key of this type wrap and bind a context? */
static bool
type_is_aead(const char *type)
{
	return strcmp(type, "aes256-gcm96") == 0 ||
		strcmp(type, "aes128-gcm96") == 0 ||
		strcmp(type, "chacha20-poly1305") == 0 ||
		strcmp(type, "xchacha20-poly1305") == 0;
}

/* See vaultwire.h. */
void
cmek_vault_read_key(const CmekKmsConfig *config, int status,
					const char *body, Size len, CmekKmsAnswer *answer)
{
	json_t	   *root;
	json_t	   *data = open_answer(CMEK_VAULT_KEY, status, body, len,
								   "data", &root, answer);
	char		type[64];
	char		shown[64];
	int64		latest;
	int64		oldest;
	bool		flag;

	if (data == NULL)
		;
	else if (!cmek_json_string(data, "type", type, sizeof(type)) ||
			 !cmek_json_integer(data, "latest_version", &latest) ||
			 !cmek_json_integer(data, "min_decryption_version", &oldest))
		cmek_kms_answer_malformed("type, latest_version and min_decryption_version", answer);
	else if (cmek_json_bool(data, "soft_deleted", &flag) && flag)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "KeySoftDeleted",
						"the key is soft-deleted");
	else if (cmek_json_bool(data, "derived", &flag) && flag)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyDerived",
						"the key is derived, which needs a context that cmek does not send");
	else if (!type_is_aead(type))
	{
		cmek_text_printable(shown, sizeof(shown), type);
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyType",
						"the key is of type %s and cannot bind a context", shown);
	}
	else
	{
		name_key(config, latest, answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "",
						"exists, symmetric (%s), latest version " INT64_FORMAT ", opens versions from " INT64_FORMAT,
						type, latest, oldest);
	}
	json_decref(root);
}

/* See vaultwire.h. */
void
cmek_vault_read_login(int status, const char *body, Size len,
					  CmekVaultToken *token, CmekKmsAnswer *answer)
{
	json_t	   *root;
	json_t	   *auth = open_answer(CMEK_VAULT_LOGIN, status, body, len,
								   "auth", &root, answer);

	if (auth == NULL)
	{
		/* our own login that is refused says nothing about the key */
		if (answer->klass == CMEK_KMS_DENIED || answer->klass == CMEK_KMS_CORRUPT)
			answer->klass = CMEK_KMS_MISCONFIGURED;
		if (status == 400 || status == 403)
			strlcpy(answer->code, "LoginRefused", sizeof(answer->code));
	}
	else if (!cmek_json_string(auth, "client_token", token->token,
							   sizeof(token->token)) ||
			 token->token[0] == '\0' ||
			 !cmek_json_integer(auth, "lease_duration", &token->ttl))
		cmek_kms_answer_malformed("client_token and lease_duration", answer);
	else
	{
		if (!cmek_json_bool(auth, "renewable", &token->renewable))
			token->renewable = false;
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* See vaultwire.h. */
void
cmek_vault_read_token(CmekVaultCall call, int status, const char *body,
					  Size len, CmekVaultToken *token, CmekKmsAnswer *answer)
{
	bool		renewed = call == CMEK_VAULT_RENEW;
	json_t	   *root;
	json_t	   *data = open_answer(call, status, body, len,
								   renewed ? "auth" : "data", &root, answer);
	char		name[128];

	token->who[0] = '\0';
	if (data == NULL)
	{
		/* so does a token that is refused */
		if (answer->klass == CMEK_KMS_DENIED || answer->klass == CMEK_KMS_CORRUPT)
			answer->klass = CMEK_KMS_MISCONFIGURED;
	}
	else if (!cmek_json_integer(data, renewed ? "lease_duration" : "ttl",
								&token->ttl))
		cmek_kms_answer_malformed("time to live", answer);
	else
	{
		if (!cmek_json_bool(data, "renewable", &token->renewable))
			token->renewable = false;
		if (cmek_json_string(data, "display_name", name, sizeof(name)))
			cmek_text_printable(token->who, sizeof(token->who), name);
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}

/* See vaultwire.h. */
void
cmek_vault_advise(const CmekKmsConfig *config, CmekKmsStep step,
				  const CmekKmsAnswer *answer, char *out, Size size)
{
	const char *what = step == CMEK_STEP_KEY ? "keys" :
		step == CMEK_STEP_ENCRYPT ? "encrypt" : "decrypt";

	if (step == CMEK_STEP_IDENTITY)
		strlcpy(out, "Correct the credentials with ALTER USER MAPPING, or the address with ALTER SERVER; nothing needs a restart.",
				size);
	else if (strcmp(answer->code, "PermissionDenied") == 0)
		snprintf(out, size,
				 "Grant in a policy of the token: path \"%s/%s/%s\" { capabilities = [\"%s\"] }",
				 mount_of(config), what, key_of(config),
				 step == CMEK_STEP_KEY ? "read" : "update");
	else if (strcmp(answer->code, "KeyNotFound") == 0)
		snprintf(out, size, "Create the key: vault write -f %s/keys/%s type=aes256-gcm96",
				 mount_of(config), key_of(config));
	else if (strcmp(answer->code, "NoMount") == 0)
		snprintf(out, size, "Enable the engine: vault secrets enable -path=%s transit",
				 mount_of(config));
	else if (strcmp(answer->code, "ContextNotBound") == 0)
		strlcpy(out, "Use a Vault of version 1.13 or later, or OpenBao: older ones ignore associated_data.",
				size);
	else if (strcmp(answer->code, "KeyType") == 0 ||
			 strcmp(answer->code, "KeyDerived") == 0)
		snprintf(out, size, "Use another key: vault write -f %s/keys/NAME type=aes256-gcm96",
				 mount_of(config));
}
