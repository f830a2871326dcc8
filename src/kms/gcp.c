/*-------------------------------------------------------------------------
 *
 * gcp.c
 *	  Provider cmek_gcp: a key of Google Cloud KMS.
 *
 * There is no GenerateDataKey: a table key is made here and encrypted there,
 * bound to its uuid by additionalAuthenticatedData.  Bytes are gcpwire.c's and
 * gcptoken.c's business; here are credentials, and when to believe a 403.
 *
 * The rule that must never break: a 401 or 403 counts only when it came with a
 * token that was given out within this very call, so that our own stale login
 * never takes a customer's key away.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/gcpwire.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/oauth.h"

PG_FUNCTION_INFO_V1(cmek_gcp_validator);

#define MAX_URL 2048
#define MAX_BODY 16384
#define MAX_FILE 32768
/* a token is replaced so long before its end */
#define TOKEN_MARGIN_S 120
#define METADATA_HOST "metadata.google.internal"
/* setting of the database, as it travels to the worker */
#define SETTING_IMPERSONATE "gcp.impersonate"

static char *gcp_impersonate = NULL;

/* One operation under way; in the memory of the call */
typedef struct GcpOperation
{
	const CmekKmsRequest *req;
	CmekGcpCall call;
	const char *body;			/* NULL: a GET */
	const char *target;			/* account to impersonate, or NULL */
	uint8		id[CMEK_TOKEN_ID_LEN];
	CmekGcpToken *token;
	bool		fresh;			/* given out within this attempt */
} GcpOperation;

/* Has a configuration credentials of its own? */
static bool
has_own_credentials(const CmekKmsConfig *config)
{
	return cmek_kms_config_get(config, "credential_file") != NULL ||
		cmek_kms_config_get(config, "private_key") != NULL;
}

/*
 * Whom to impersonate.  With the host's own identity a tenant may only be whom
 * the superuser says.  False with the answer filled in when he asks for more.
 */
static bool
choose_target(GcpOperation *op, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = op->req->config;
	const char *fixed = cmek_kms_config_get(config, SETTING_IMPERSONATE);

	op->target = cmek_kms_config_get(config, "impersonate");
	if (has_own_credentials(config))
		return true;
	if (!config->ambient)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "AmbientNotAllowed",
						"there are no credentials in the user mapping, and the host's own serve only keys of superusers, or databases with cmek.ambient_credentials = on");
		return false;
	}
	if (fixed == NULL)
		return true;
	if (op->target != NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ImpersonateNotAllowed",
						"cmek.gcp_impersonate says for this database which account the host's identity stands for: option \"impersonate\" cannot be used");
		return false;
	}
	op->target = fixed;
	return true;
}

/* ----------
 * Access tokens
 * ----------
 */

/* The account of the user mapping, or of a file */
static bool
read_account(const CmekKmsConfig *config, const char *path,
			 CmekGcpAccount *account, CmekKmsAnswer *answer)
{
	const char *url = cmek_kms_config_get(config, "token_endpoint");
	char	   *text;

	if (path == NULL)
	{
		strlcpy(account->email, cmek_kms_config_get(config, "client_email"),
				sizeof(account->email));
		strlcpy(account->private_key,
				cmek_kms_config_get(config, "private_key"),
				sizeof(account->private_key));
		strlcpy(account->token_url, CMEK_GCP_TOKEN_URL,
				sizeof(account->token_url));
	}
	else
	{
		text = cmek_kms_read_file(path, MAX_FILE, NULL, answer);
		if (text == NULL ||
			!cmek_gcp_read_account(text, strlen(text), account, answer))
			return false;
	}
	if (url != NULL)
		strlcpy(account->token_url, url, sizeof(account->token_url));
	return true;
}

/* The signed assertion of an account; NULL with the answer filled in. */
static char *
sign_assertion(const CmekGcpAccount *account, const char *scope,
			   CmekKmsAnswer *answer)
{
	CmekText	jwt = cmek_kms_new_text(MAX_BODY);

	cmek_gcp_jwt(account, scope, cmek_oauth_now(), &jwt);
	return cmek_oauth_sign(account->private_key, &jwt, answer);
}

/* A token by a service account's key. */
static bool
token_by_account(const CmekKmsRequest *req, const char *path,
				 const char *scope, CmekGcpToken *token,
				 CmekKmsAnswer *answer)
{
	CmekGcpAccount *account = cmek_kms_new_secret(sizeof(CmekGcpAccount));
	CmekText	url = cmek_kms_new_text(MAX_URL);
	CmekText	body = cmek_kms_new_text(2 * MAX_BODY);
	CmekHttpAnswer http;
	char	   *jwt;

	if (!read_account(req->config, path, account, answer) ||
		(jwt = sign_assertion(account, scope, answer)) == NULL)
		return false;
	cmek_text_add(&url, account->token_url);
	cmek_gcp_token_body(jwt, &body);
	if (!cmek_oauth_send(req, &url, NULL, "application/x-www-form-urlencoded",
				  body.data, &http, answer))
		return false;
	cmek_gcp_read_token(http.status, http.body, http.body_len, token, answer);
	return answer->klass == CMEK_KMS_OK;
}

/* A token of the metadata server. */
static bool
token_by_metadata(const CmekKmsRequest *req, CmekGcpToken *token,
				  CmekKmsAnswer *answer)
{
	const char *host = getenv("GCE_METADATA_HOST");
	CmekText	url = cmek_kms_new_text(MAX_URL);
	CmekHttpRequest request = {0};
	CmekHttpAnswer http;
	char		flavor[32];

	cmek_text_printf(&url, "http://%s/computeMetadata/v1/instance/service-accounts/default/token",
					 host != NULL && host[0] != '\0' ? host : METADATA_HOST);
	request.method = "GET";
	request.url = url.data;
	request.plain = CMEK_HTTP_PLAIN_METADATA;
	request.deadline = cmek_kms_attempt_deadline(req->deadline);
	cmek_http_header(&request, "Metadata-Flavor: Google");
	if (!cmek_http_run(&request, &http, answer))
		return false;
	if (!cmek_http_find(&http, "Metadata-Flavor", flavor, sizeof(flavor)) ||
		strcmp(flavor, "Google") != 0)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoMetadataServer",
						"what answers is not Google's metadata server");
		return false;
	}
	cmek_gcp_read_token(http.status, http.body, http.body_len, token, answer);
	return answer->klass == CMEK_KMS_OK;
}

/* A token of our own identity. */
static bool
own_token(const GcpOperation *op, const char *scope, CmekGcpToken *token,
		  CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = op->req->config;
	const char *path = cmek_kms_config_get(config, "credential_file");

	if (!has_own_credentials(config))
	{
		path = getenv("GOOGLE_APPLICATION_CREDENTIALS");
		if (path == NULL || path[0] == '\0')
			return token_by_metadata(op->req, token, answer);
	}
	return token_by_account(op->req, path, scope, token, answer);
}

/* A token of the account that we impersonate. */
static bool
impersonated_token(const GcpOperation *op, CmekGcpToken *token,
				   CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = op->req->config;
	CmekGcpToken *own = cmek_kms_new_secret(sizeof(CmekGcpToken));
	CmekText	url = cmek_kms_new_text(MAX_URL);
	CmekText	body = cmek_kms_new_text(MAX_BODY);
	CmekHttpAnswer http;

	if (!own_token(op, CMEK_GCP_SCOPE_ALL, own, answer))
		return false;
	cmek_gcp_impersonate_url(config, op->target, &url);
	cmek_gcp_impersonate_body(cmek_kms_config_get(config, "delegates"), &body);
	if (!cmek_oauth_send(op->req, &url, own->token, "application/json", body.data,
				  &http, answer))
		return false;
	cmek_gcp_read_impersonated(http.status, http.body, http.body_len, token,
							   answer);
	return answer->klass == CMEK_KMS_OK;
}

/* What decides about a token: never the same for two tenants' credentials. */
static void
identify_token(GcpOperation *op)
{
	const CmekKmsConfig *config = op->req->config;
	const char *parts[] = {
		cmek_kms_config_get(config, "credential_file"),
		cmek_kms_config_get(config, "client_email"),
		cmek_kms_config_get(config, "private_key"),
		cmek_kms_config_get(config, "token_endpoint"),
		cmek_kms_config_get(config, "iam_endpoint"),
		cmek_kms_config_get(config, "delegates"),
		op->target
	};

	cmek_token_id(op->id, "gcp", parts, lengthof(parts));
}

/* Come by a token; "anew": do not use a remembered one. */
static bool
get_token(GcpOperation *op, bool anew, CmekKmsAnswer *answer)
{

	if (!choose_target(op, answer))
		return false;
	identify_token(op);
	if (anew)
		cmek_token_forget(op->id);
	else if (cmek_token_get(op->id, op->token, sizeof(CmekGcpToken)))
		return true;
	if (op->target == NULL ?
		!own_token(op, CMEK_GCP_SCOPE_KMS, op->token, answer) :
		!impersonated_token(op, op->token, answer))
		return false;
	op->fresh = true;
	cmek_token_put(op->id, op->token, sizeof(CmekGcpToken),
				   cmek_instant_in((Min(op->token->seconds, 3600) -
									TOKEN_MARGIN_S) * INT64CONST(1000)));
	return true;
}

/* ----------
 * Operations
 * ----------
 */

/* Let the answer to an operation be read. */
static void
read_answer(const GcpOperation *op, const CmekHttpAnswer *http,
			CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = op->req->config;

	switch (op->call)
	{
		case CMEK_GCP_ENCRYPT:
			cmek_gcp_read_encrypt(config, http->status, http->body,
								  http->body_len, answer);
			break;
		case CMEK_GCP_DECRYPT:
			cmek_gcp_read_decrypt(config, op->req, http->status, http->body,
								  http->body_len, answer);
			break;
		case CMEK_GCP_KEY:
			cmek_gcp_read_key(config, http->status, http->body,
							  http->body_len, answer);
			break;
	}
}

/* One attempt of an operation. */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	GcpOperation *op = arg;
	CmekText	url = cmek_kms_new_text(MAX_URL);
	CmekHttpAnswer http;

	op->fresh = false;
	cmek_gcp_key_url(op->req->config, op->call, &url);
	for (bool anew = false;; anew = true)
	{
		if (!get_token(op, anew, answer) ||
			!cmek_oauth_send(op->req, &url, op->token->token, "application/json",
					  op->body, &http, answer))
			return 0;
		if ((http.status != 401 && http.status != 403) || op->fresh)
			break;
	}
	read_answer(op, &http, answer);
	return cmek_http_retry_after(&http);
}

/* An operation with what all of them need */
static GcpOperation *
new_operation(const CmekKmsRequest *req)
{
	GcpOperation *op = palloc0(sizeof(GcpOperation));

	cmek_json_protect();
	op->req = req;
	op->token = cmek_kms_new_secret(sizeof(CmekGcpToken));
	return op;
}

/* Run an operation. */
static void
run(const CmekKmsRequest *req, CmekGcpCall call, const char *body,
	CmekKmsAnswer *answer)
{
	GcpOperation *op = new_operation(req);

	op->call = call;
	op->body = body;
	cmek_kms_with_retries(req->deadline, attempt, op, answer);
}

/* Wrap a table key. */
static void
gcp_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekText	body = cmek_kms_new_text(MAX_BODY);

	cmek_gcp_encrypt_body(req->uuid, req->key, &body);
	run(req, CMEK_GCP_ENCRYPT, body.data, answer);
}

/* Unwrap a table key. */
static void
gcp_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekText	body = cmek_kms_new_text(MAX_BODY);

	cmek_gcp_decrypt_body(req->uuid, req->blob, req->blob_len, &body);
	run(req, CMEK_GCP_DECRYPT, body.data, answer);
}

/* Is the key there and usable? */
static void
gcp_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, CMEK_GCP_KEY, NULL, answer);
}

/* One attempt to get a token. */
static int
identify_attempt(void *arg, CmekKmsAnswer *answer)
{
	GcpOperation *op = arg;

	if (get_token(op, true, answer))
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "access token of %s",
						op->target != NULL ? op->target :
						has_own_credentials(op->req->config) ?
						"the account of the user mapping" : "the host's account");
	return 0;
}

/* Who are we? */
static void
gcp_identify(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	GcpOperation *op = new_operation(req);

	cmek_kms_with_retries(req->deadline, identify_attempt, op, answer);
}

/* ----------
 * Options and setting
 * ----------
 */
static const CmekKmsOption gcp_options[] = {
	{"key_id", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_IDENTITY},
	{"impersonate", CMEK_OPTION_SERVER},
	{"delegates", CMEK_OPTION_SERVER},
	{"endpoint", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"token_endpoint", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"iam_endpoint", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"credential_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{"client_email", CMEK_OPTION_MAPPING},
	{"private_key", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{NULL, 0}
};

/* Is it projects/P/locations/L/keyRings/R/cryptoKeys/K? */
static bool
is_key_name(const char *name)
{
	static const char *const parts[] = {
		"projects/", "locations/", "keyRings/", "cryptoKeys/"
	};

	for (Size i = 0; i < lengthof(parts); i++)
	{
		Size		len;

		if (strncmp(name, parts[i], strlen(parts[i])) != 0)
			return false;
		name += strlen(parts[i]);
		/* project ids of a domain have a colon: example.com:project */
		len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:");
		if (len == 0 || name[len] != (i + 1 < lengthof(parts) ? '/' : '\0'))
			return false;
		name += len + 1;
	}
	return true;
}

/* Names of accounts are addresses. */
static void
check_accounts(List *options, const char *name)
{
	DefElem    *def = cmek_option_find(options, name);
	const char *value = def != NULL ? defGetString(def) : NULL;

	if (value != NULL &&
		(strchr(value, '@') == NULL ||
		 strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-_.@,:") != strlen(value)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must be the address of a service account", name),
				 errhint("It looks like name@project.iam.gserviceaccount.com.")));
}

/* Options and mapping fit together, and say what Google can understand. */
static void
gcp_validate(List *options, Oid catalog)
{
	static const char *const methods[] = {"credential_file", "private_key", NULL};
	DefElem    *key = cmek_option_find(options, "key_id");

	if (key != NULL && !is_key_name(defGetString(key)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"key_id\" must be the resource name of a key"),
				 errhint("It looks like projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version.")));
	check_accounts(options, "impersonate");
	check_accounts(options, "delegates");
	check_accounts(options, "client_email");
	cmek_option_check_url(options, "endpoint");
	cmek_option_check_url(options, "token_endpoint");
	cmek_option_check_url(options, "iam_endpoint");
	cmek_option_check_path(options, "credential_file");
	cmek_option_check_needs(options, "delegates", "impersonate");
	cmek_option_check_needs(options, "client_email", "private_key");
	cmek_option_check_needs(options, "private_key", "client_email");
	if (catalog != ForeignServerRelationId && options != NIL)
		cmek_option_check_one_of(options, methods);
}

/* Let the worker know what is set for the asking database. */
static bool
gcp_add_settings(CmekKmsConfig *config)
{
	if (gcp_impersonate[0] == '\0' || config->superuser)
		return true;
	return cmek_kms_config_add(config, SETTING_IMPERSONATE,
							   gcp_impersonate);
}

/* See internal.h. */
void
cmek_gcp_init(void)
{
	DefineCustomStringVariable("cmek.gcp_impersonate",
							   "Service account that the host's identity stands for in KMS keys of ordinary users.",
							   "Set it for a database; then option \"impersonate\" cannot be used there with the host's identity.",
							   &gcp_impersonate,
							   "",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);
}

static const CmekKmsStep gcp_steps[] = {
	CMEK_STEP_IDENTITY, CMEK_STEP_KEY, CMEK_STEP_ENCRYPT, CMEK_STEP_DECRYPT,
	CMEK_STEP_CONTEXT, CMEK_STEP_END
};

const CmekKmsProvider cmek_gcp_provider = {
	.wrapper = "cmek_gcp",
	.options = gcp_options,
	.wrap = gcp_wrap,
	.unwrap = gcp_unwrap,
	.probe = gcp_describe,
	.describe = gcp_describe,
	.validate = gcp_validate,
	.steps = gcp_steps,
	.identify = gcp_identify,
	.advise = cmek_gcp_advise,
	.add_settings = gcp_add_settings,
};

/* Validator of wrapper cmek_gcp. */
Datum
cmek_gcp_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_gcp_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
