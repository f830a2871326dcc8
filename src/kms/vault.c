/*-------------------------------------------------------------------------
 *
 * vault.c
 *	  Provider cmek_vault: a key of the Transit engine of HashiCorp Vault or
 *	  OpenBao.
 *
 * Transit's own data keys cannot be bound to a context, so a table key is made
 * here and encrypted there with associated data.  Bytes are vaultwire.c's
 * business; here are credentials, and what a 403 means.
 *
 * The rule that must never break: a 403 is DENIED only when it came after a
 * fresh login, or with a token that Vault itself says is alive.  A dead token
 * of ours must not take a customer's key away.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "access/reloptions.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/vaultwire.h"

PG_FUNCTION_INFO_V1(cmek_vault_validator);

#define MAX_URL 2048
#define MAX_BODY 16384
#define MAX_FILE 16384
/* where Kubernetes puts a pod's own token */
#define POD_TOKEN "/var/run/secrets/kubernetes.io/serviceaccount/token"
/* how long a token without an end is remembered */
#define FOREVER_S 3600

/* How we come by a token */
typedef enum VaultMethod
{
	BY_TOKEN,
	BY_TOKEN_FILE,
	BY_APPROLE,
	BY_KUBERNETES,
	BY_NOTHING
} VaultMethod;

/* A token as a worker remembers it */
typedef struct VaultSession
{
	char		token[CMEK_VAULT_MAX_TOKEN];
	char		who[128];
	CmekInstant renew_at;		/* 0: never */
	bool		renewable;
} VaultSession;

/* One operation under way; in the memory of the call */
typedef struct VaultCall
{
	const CmekKmsRequest *req;
	CmekVaultCall call;
	const char *body;			/* NULL: a GET */
	VaultMethod method;
	uint8		id[CMEK_TOKEN_ID_LEN];	/* of the session */
	VaultSession *session;
	bool		fresh;			/* logged in within this call */
} VaultCall;

/* Which credentials a configuration has; the validator allows only one. */
static VaultMethod
method_of(const CmekKmsConfig *config)
{
	if (cmek_kms_config_get(config, "token") != NULL)
		return BY_TOKEN;
	if (cmek_kms_config_get(config, "token_file") != NULL)
		return BY_TOKEN_FILE;
	if (cmek_kms_config_get(config, "role_id") != NULL)
		return BY_APPROLE;
	if (cmek_kms_config_get(config, "kubernetes_role") != NULL)
		return BY_KUBERNETES;
	return BY_NOTHING;
}

/* Add a header with a value to a request. */
static void
add_header(CmekHttpRequest *http, const char *name, const char *value)
{
	CmekText	text = cmek_kms_new_text(CMEK_VAULT_MAX_TOKEN + 64);

	cmek_text_add(&text, name);
	cmek_text_add(&text, ": ");
	cmek_text_add(&text, value);
	cmek_http_header(http, text.data);
}

/*
 * Send one request, with a token or without.  False when there was no answer
 * at all; then the KMS answer says why.
 */
static bool
vault_send(const CmekKmsRequest *req, CmekVaultCall call, const char *body,
	 const char *token, CmekHttpAnswer *got, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = req->config;
	const char *space = cmek_kms_config_get(config, "namespace");
	CmekText	url = cmek_kms_new_text(MAX_URL);
	CmekHttpRequest http = {0};

	cmek_vault_url(config, call, &url);
	if (url.overflow)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "UrlTooLong",
						"the address of the key is too long");
		return false;
	}
	http.method = body != NULL ? "POST" : "GET";
	http.url = url.data;
	http.body = body;
	http.body_len = body != NULL ? strlen(body) : 0;
	/* the address is a superuser's or of somebody as trusted */
	http.plain = CMEK_HTTP_PLAIN_LOOPBACK;
	http.ca_file = cmek_kms_config_get(config, "ca_file");
	http.deadline = cmek_kms_attempt_deadline(req->deadline);
	/* agents refuse what lacks it: it cannot be forged by a link */
	cmek_http_header(&http, "X-Vault-Request: true");
	if (body != NULL)
		cmek_http_header(&http, "Content-Type: application/json");
	if (space != NULL)
		add_header(&http, "X-Vault-Namespace", space);
	if (token != NULL)
		add_header(&http, "X-Vault-Token", token);
	return cmek_http_run(&http, got, answer);
}

/* Read a file that holds one line, without its end. */
static char *
read_line_file(const char *path, CmekKmsAnswer *answer)
{
	char	   *text = cmek_kms_read_file(path, MAX_FILE, NULL, answer);

	if (text != NULL)
		text[strcspn(text, "\r\n")] = '\0';
	return text;
}

/* What can be sent in a header, and is not too long */
static bool
token_is_sendable(const char *token)
{
	return cmek_text_is_sendable(token) && strlen(token) < CMEK_VAULT_MAX_TOKEN;
}

/* Take note of how long a token is good. */
static void
set_times(VaultSession *session, const CmekVaultToken *token,
		  CmekInstant *good_until)
{
	CmekInstant now = cmek_now();
	int64		ttl = Max(Min(token->ttl, 100 * SECS_PER_DAY), 0);

	if (ttl == 0)
	{
		session->renew_at = 0;
		*good_until = now + FOREVER_S * USECS_PER_SEC;
		return;
	}
	/* half of its life is ours, the other half is for trying to renew it */
	session->renew_at = now + ttl * USECS_PER_SEC / 2;
	session->renewable = token->renewable;
	*good_until = now + ttl * USECS_PER_SEC * 9 / 10;
}

/* Remember a session. */
static void
remember(VaultCall *call, const CmekVaultToken *token)
{
	CmekInstant good_until;

	set_times(call->session, token, &good_until);
	cmek_token_put(call->id, call->session, sizeof(VaultSession), good_until);
}

/* The body of a login; NULL with the answer filled in. */
static const char *
login_body(const VaultCall *call, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->req->config;
	const char *path = cmek_kms_config_get(config, "secret_id_file");
	const char *secret = cmek_kms_config_get(config, "secret_id");
	CmekText	body = cmek_kms_new_text(2 * MAX_FILE);

	if (call->method == BY_KUBERNETES)
	{
		path = cmek_kms_config_get(config, "jwt_file");
		path = path != NULL ? path : POD_TOKEN;
	}
	if (path != NULL && (secret = read_line_file(path, answer)) == NULL)
		return NULL;
	if (call->method == BY_KUBERNETES)
		cmek_vault_kubernetes_body(cmek_kms_config_get(config, "kubernetes_role"),
								   secret, &body);
	else
		cmek_vault_approle_body(cmek_kms_config_get(config, "role_id"),
								secret != NULL ? secret : "", &body);
	if (!body.overflow)
		return body.data;
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "CredentialsTooLong",
					"the credentials are too long");
	return NULL;
}

/* Log in: false with the answer filled in. */
static bool
log_in(VaultCall *call, CmekKmsAnswer *answer)
{
	const char *body = login_body(call, answer);
	CmekVaultToken *token = cmek_kms_new_secret(sizeof(CmekVaultToken));
	CmekHttpAnswer http;

	if (body == NULL ||
		!vault_send(call->req, CMEK_VAULT_LOGIN, body, NULL, &http, answer))
		return false;
	cmek_vault_read_login(http.status, http.body, http.body_len, token, answer);
	if (answer->klass != CMEK_KMS_OK)
		return false;
	if (!token_is_sendable(token->token))
	{
		cmek_kms_answer_malformed("client_token", answer);
		return false;
	}
	memset(call->session, 0, sizeof(VaultSession));
	strlcpy(call->session->token, token->token, sizeof(call->session->token));
	remember(call, token);
	call->fresh = true;
	return true;
}

/* Ask about our own token, or renew it; the answer is OK when it is alive. */
static void
ask_about_token(VaultCall *call, CmekVaultCall what, CmekKmsAnswer *answer)
{
	CmekVaultToken *token = cmek_kms_new_secret(sizeof(CmekVaultToken));
	CmekHttpAnswer http;

	if (!vault_send(call->req, what, what == CMEK_VAULT_RENEW ? "{}" : NULL,
			  call->session->token, &http, answer))
		return;
	cmek_vault_read_token(what, http.status, http.body, http.body_len, token,
						  answer);
	if (answer->klass != CMEK_KMS_OK)
		return;
	if (token->who[0] != '\0')
		strlcpy(call->session->who, token->who, sizeof(call->session->who));
	remember(call, token);
}

/*
 * Renew a token that has lived half of its life.  When that fails it is still
 * good for a while; one that we can log in for anew is replaced.
 */
static void
renew_if_due(VaultCall *call)
{
	VaultSession *session = call->session;
	CmekKmsAnswer *answer = cmek_kms_new_secret(sizeof(CmekKmsAnswer));

	if (session->renew_at == 0 || cmek_now() < session->renew_at)
		return;
	answer->klass = CMEK_KMS_UNREACHABLE;
	if (session->renewable)
		ask_about_token(call, CMEK_VAULT_RENEW, answer);
	if (answer->klass != CMEK_KMS_OK &&
		(call->method == BY_APPROLE || call->method == BY_KUBERNETES))
		log_in(call, answer);
}

/* A token given to us: how long it lives is asked once, if that is allowed. */
static bool
use_given_token(VaultCall *call, const char *token, CmekKmsAnswer *answer)
{
	CmekKmsAnswer *ignored = cmek_kms_new_secret(sizeof(CmekKmsAnswer));
	CmekVaultToken *forever = cmek_kms_new_secret(sizeof(CmekVaultToken));

	if (token == NULL)
		return false;
	if (!token_is_sendable(token))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "TokenFormat",
						"what is given as a Vault token is none");
		return false;
	}
	memset(call->session, 0, sizeof(VaultSession));
	strlcpy(call->session->token, token, sizeof(call->session->token));
	ask_about_token(call, CMEK_VAULT_LOOKUP, ignored);
	if (ignored->klass != CMEK_KMS_OK)
		remember(call, forever);
	call->fresh = true;
	return true;
}

/* What decides about a session: never the same for two tenants' secrets. */
static void
identify_session(VaultCall *call, const char *token)
{
	static const char *const names[] = {
		"url", "namespace", "ca_file", "auth_mount", "token_file", "role_id",
		"secret_id", "secret_id_file", "kubernetes_role", "jwt_file"
	};
	const char *parts[lengthof(names) + 1];

	for (Size i = 0; i < lengthof(names); i++)
		parts[i] = cmek_kms_config_get(call->req->config, names[i]);
	parts[lengthof(names)] = token;
	cmek_token_id(call->id, "vault", parts, lengthof(parts));
}

/*
 * May these credentials be used at all?  Looked at before anything that is
 * remembered, which may be of somebody who may.
 */
static bool
check_ambient(const VaultCall *call, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->req->config;

	if (call->method != BY_KUBERNETES || config->ambient ||
		cmek_kms_config_get(config, "jwt_file") != NULL)
		return true;
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "AmbientNotAllowed",
					"the pod's own token serves only keys of superusers, or databases with cmek.ambient_credentials = on");
	return false;
}

/* Come by a token; "anew": do not use a remembered one. */
static bool
open_session(VaultCall *call, bool anew, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->req->config;
	const char *token = cmek_kms_config_get(config, "token");

	if (!check_ambient(call, answer))
		return false;
	/* an agent may have put another token into the file */
	if (call->method == BY_TOKEN_FILE)
	{
		token = read_line_file(cmek_kms_config_get(config, "token_file"), answer);
		if (token == NULL)
			return false;
	}
	identify_session(call, token);
	if (anew)
		cmek_token_forget(call->id);
	else if (cmek_token_get(call->id, call->session, sizeof(VaultSession)))
	{
		renew_if_due(call);
		return true;
	}
	switch (call->method)
	{
		case BY_TOKEN:
		case BY_TOKEN_FILE:
			return use_given_token(call, token, answer);
		case BY_APPROLE:
		case BY_KUBERNETES:
			return log_in(call, answer);
		case BY_NOTHING:
			break;
	}
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
					"there are no credentials for Vault: CREATE USER MAPPING FOR PUBLIC SERVER ... OPTIONS (role_id ..., secret_id ...)");
	return false;
}

/* Let the answer to an operation be read. */
static void
read_answer(const VaultCall *call, const CmekHttpAnswer *http,
			CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->req->config;

	switch (call->call)
	{
		case CMEK_VAULT_ENCRYPT:
			cmek_vault_read_encrypt(config, http->status, http->body,
									http->body_len, answer);
			break;
		case CMEK_VAULT_DECRYPT:
			cmek_vault_read_decrypt(config, call->req, http->status,
									http->body, http->body_len, answer);
			break;
		case CMEK_VAULT_KEY:
			cmek_vault_read_key(config, http->status, http->body,
								http->body_len, answer);
			break;
		case CMEK_VAULT_LOOKUP:
		case CMEK_VAULT_RENEW:
		case CMEK_VAULT_LOGIN:
			break;
	}
}

/* Our token is alive and has just been told no: the right was taken away. */
static void
judge_forbidden(VaultCall *call, CmekKmsAnswer *answer)
{
	CmekKmsAnswer *alive = cmek_kms_new_secret(sizeof(CmekKmsAnswer));

	ask_about_token(call, CMEK_VAULT_LOOKUP, alive);
	if (alive->klass == CMEK_KMS_OK)
		answer->klass = CMEK_KMS_DENIED;
	else if (alive->klass == CMEK_KMS_UNREACHABLE)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, alive->code,
						"permission denied, and it could not be told whether the token is alive: %s",
						alive->message);
	else
	{
		cmek_token_forget(call->id);
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "TokenInvalid",
						"the token is expired, revoked or unknown, or may not look itself up");
	}
}

/* One attempt of an operation. */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	VaultCall  *call = arg;
	CmekHttpAnswer http;

	call->fresh = false;
	for (bool anew = false;; anew = true)
	{
		if (!open_session(call, anew, answer) ||
			!vault_send(call->req, call->call, call->body, call->session->token,
				  &http, answer))
			return 0;
		read_answer(call, &http, answer);
		/* the policies of a login are those of its time */
		if (http.status != 403 || call->fresh)
			break;
	}
	if (http.status == 403)
		judge_forbidden(call, answer);
	return cmek_http_retry_after(&http);
}

/* A call with what all of them need */
static VaultCall *
new_call(const CmekKmsRequest *req)
{
	VaultCall  *call = palloc0(sizeof(VaultCall));

	cmek_json_protect();
	call->req = req;
	call->method = method_of(req->config);
	call->session = cmek_kms_new_secret(sizeof(VaultSession));
	return call;
}

/* Run an operation. */
static void
run(const CmekKmsRequest *req, CmekVaultCall what, const char *body,
	CmekKmsAnswer *answer)
{
	VaultCall  *call = new_call(req);

	call->call = what;
	call->body = body;
	cmek_kms_with_retries(req->deadline, attempt, call, answer);
}

/* Wrap a table key. */
static void
vault_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekText	body = cmek_kms_new_text(MAX_BODY);

	cmek_vault_encrypt_body(req->uuid, req->key, &body);
	run(req, CMEK_VAULT_ENCRYPT, body.data, answer);
}

/* Unwrap a table key. */
static void
vault_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekText	body = cmek_kms_new_text(MAX_BODY);

	if (cmek_vault_decrypt_body(req->uuid, req->blob, req->blob_len, &body))
		run(req, CMEK_VAULT_DECRYPT, body.data, answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "BlobDamaged",
						"the wrapped table key is no ciphertext of Vault");
}

/* Is the key there and usable? */
static void
vault_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, CMEK_VAULT_KEY, NULL, answer);
}

/* Who are we? */
static void
vault_identify(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	VaultCall  *call = new_call(req);

	if (!open_session(call, true, answer))
		return;
	ask_about_token(call, CMEK_VAULT_LOOKUP, answer);
	if (answer->klass == CMEK_KMS_OK)
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "token of %s",
						call->session->who[0] != '\0' ? call->session->who : "an unnamed identity");
}

/* ----------
 * Options
 * ----------
 */
static const CmekKmsOption vault_options[] = {
	{"url", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_SUPERUSER},
	{"key", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_IDENTITY},
	{"mount", CMEK_OPTION_SERVER | CMEK_OPTION_IDENTITY},
	{"namespace", CMEK_OPTION_SERVER | CMEK_OPTION_IDENTITY},
	{"ca_file", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"token", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{"token_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{"role_id", CMEK_OPTION_MAPPING},
	{"secret_id", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{"secret_id_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{"kubernetes_role", CMEK_OPTION_MAPPING},
	{"jwt_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{"auth_mount", CMEK_OPTION_MAPPING},
	{NULL, 0}
};

/* Options and mapping fit together, and say what Vault can understand. */
static void
vault_validate(List *options, Oid catalog)
{
	static const char *const methods[] = {
		"token", "token_file", "role_id", "kubernetes_role", NULL
	};
	static const char *const secret_ids[] = {"secret_id", "secret_id_file", NULL};

	cmek_option_check_url(options, "url");
	cmek_option_check_name(options, "key", false);
	cmek_option_check_name(options, "mount", true);
	cmek_option_check_name(options, "namespace", true);
	cmek_option_check_name(options, "auth_mount", true);
	cmek_option_check_path(options, "ca_file");
	cmek_option_check_path(options, "token_file");
	cmek_option_check_path(options, "secret_id_file");
	cmek_option_check_path(options, "jwt_file");
	if (catalog == ForeignServerRelationId || options == NIL)
		return;
	cmek_option_check_one_of(options, methods);
	if (cmek_option_find(options, "role_id") != NULL)
		cmek_option_check_one_of(options, secret_ids);
	cmek_option_check_needs(options, "secret_id", "role_id");
	cmek_option_check_needs(options, "secret_id_file", "role_id");
	cmek_option_check_needs(options, "jwt_file", "kubernetes_role");
	if (cmek_option_find(options, "role_id") == NULL)
		cmek_option_check_needs(options, "auth_mount", "kubernetes_role");
}

static const CmekKmsStep vault_steps[] = {
	CMEK_STEP_IDENTITY, CMEK_STEP_KEY, CMEK_STEP_ENCRYPT, CMEK_STEP_DECRYPT,
	CMEK_STEP_CONTEXT, CMEK_STEP_END
};

const CmekKmsProvider cmek_vault_provider = {
	.wrapper = "cmek_vault",
	.options = vault_options,
	.wrap = vault_wrap,
	.unwrap = vault_unwrap,
	.probe = vault_describe,
	.describe = vault_describe,
	.validate = vault_validate,
	.steps = vault_steps,
	.identify = vault_identify,
	.advise = cmek_vault_advise,
};

/* Validator of wrapper cmek_vault. */
Datum
cmek_vault_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_vault_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
