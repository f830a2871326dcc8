/*-------------------------------------------------------------------------
 *
 * azure.c
 *	  Provider cmek_azure: a key of Azure Key Vault or Managed HSM.
 *
 * Azure wraps and unwraps, and binds no context.  So a table key is sealed
 * under a key that is made for it alone, with its uuid as associated data, and
 * that one is wrapped there: RSA-OAEP-256 by an RSA key, A256KW by an AES key
 * of a Managed HSM.  AES-GCM, which a Managed HSM has too, would bind the
 * context itself, but needs rights that its role for encryption services does
 * not have; AES-KW of a value that is never wrapped twice tells nothing more.
 *
 * The rule that must never break: a 401 or 403 counts only when it came with a
 * token that was given out within this very call, so that our own stale login
 * never takes a customer's key away.  A token goes to the key's own vault
 * only, and no challenge is followed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "fmgr.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/azure.h"

PG_FUNCTION_INFO_V1(cmek_azure_validator);

/* A value of the vault's: what is asked, and what came of it */
typedef struct AzureValue
{
	CmekAzureOperation *op;
	CmekAzureCall call;
	CmekAzureVersion *version;	/* out of CMEK_AZURE_GET, into the others */
	const char *body;
	uint8	   *value;			/* CMEK_AZURE_MAX_WRAPPED bytes, secret */
	Size		len;
} AzureValue;

/* ----------
 * Operations
 * ----------
 */

/* Let the answer to a request be read. */
static void
read_answer(AzureValue *want, const CmekHttpAnswer *http,
			CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = want->op->req->config;
	char		challenge[1024];

	if (http->status == 401 &&
		cmek_http_find(http, "WWW-Authenticate", challenge, sizeof(challenge)) &&
		!cmek_azure_judge_challenge(challenge, cmek_azure_resource(config),
									cmek_azure_tenant(config), answer))
		return;
	if (want->call == CMEK_AZURE_GET)
		cmek_azure_read_key(config, http->status, http->body, http->body_len,
							want->version, answer);
	else
		cmek_azure_read_value(config, want->call, want->version, http->status,
							  http->body, http->body_len, want->value,
							  CMEK_AZURE_MAX_WRAPPED, &want->len, answer);
}

/* One attempt at one request. */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	AzureValue *want = arg;
	CmekAzureOperation *op = want->op;
	CmekText	url = cmek_kms_new_text(CMEK_AZURE_MAX_URL);
	CmekHttpAnswer http;

	op->fresh = false;
	cmek_azure_url(op->req->config, want->call, want->version, &url);
	for (bool anew = false;; anew = true)
	{
		if (!cmek_azure_get_token(op, anew, answer) ||
			!cmek_oauth_send(op->req, &url, op->token->token,
							 "application/json", want->body, &http, answer))
			return 0;
		if ((http.status != 401 && http.status != 403) || op->fresh)
			break;
	}
	read_answer(want, &http, answer);
	return cmek_http_retry_after(&http);
}

/* An operation with what all of them need */
static AzureValue *
new_operation(const CmekKmsRequest *req)
{
	AzureValue *want = palloc0(sizeof(AzureValue));

	cmek_json_protect();
	want->op = palloc0(sizeof(CmekAzureOperation));
	want->op->req = req;
	want->op->token = cmek_kms_new_secret(sizeof(CmekAzureToken));
	want->version = palloc0(sizeof(CmekAzureVersion));
	want->value = cmek_kms_new_secret(CMEK_AZURE_MAX_WRAPPED);
	return want;
}

/* Run one request; true when it went well. */
static bool
run(AzureValue *want, CmekAzureCall call, const uint8 *bytes, Size len,
	CmekKmsAnswer *answer)
{
	CmekText	body = cmek_kms_new_text(CMEK_AZURE_MAX_BODY);

	want->call = call;
	want->body = NULL;
	if (call != CMEK_AZURE_GET)
	{
		cmek_azure_body(want->version->algorithm, bytes, len, &body);
		want->body = body.data;
	}
	cmek_kms_with_retries(want->op->req->deadline, attempt, want, answer);
	return answer->klass == CMEK_KMS_OK;
}

/* Put the blob together: the table key sealed under a key that was wrapped. */
static void
make_blob(const CmekKmsRequest *req, const AzureValue *want, const uint8 *kek,
		  CmekKmsAnswer *answer)
{
	CmekAzureBlobHeader header;
	CmekAzureWrapAad aad;
	CmekAead   *aead = cmek_aead_create(kek);
	uint8	   *at = answer->blob;

	cmek_azure_blob_header(want->version, want->len, &header);
	cmek_azure_blob_aad(&header, req->uuid, &aad);
	memcpy(at, &header, sizeof(header));
	at += sizeof(header);
	memcpy(at, want->value, want->len);
	at += want->len;
	cmek_aead_seal(aead, at, req->key, CMEK_KEY_LEN, &aad, sizeof(aad));
	cmek_aead_free(aead);
	answer->blob_len = at + CMEK_WRAPPED_DEK_LEN - answer->blob;
}

/* Wrap a table key: under the key's newest version, which is asked first. */
static void
azure_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	AzureValue *want = new_operation(req);
	uint8	   *kek = cmek_kms_new_secret(CMEK_KEY_LEN);

	cmek_random(kek, CMEK_KEY_LEN);
	if (run(want, CMEK_AZURE_GET, NULL, 0, answer) &&
		run(want, CMEK_AZURE_WRAP, kek, CMEK_KEY_LEN, answer))
		make_blob(req, want, kek, answer);
}

/* Open a blob with the key that was unwrapped. */
static void
open_blob(const CmekKmsRequest *req, const CmekAzureBlob *blob,
		  const AzureValue *want, CmekKmsAnswer *answer)
{
	CmekAzureWrapAad aad;
	CmekAead   *aead;

	if (want->len != CMEK_KEY_LEN)
	{
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "WrongLength",
						"what was unwrapped is no key");
		return;
	}
	aead = cmek_aead_create(want->value);
	cmek_azure_blob_aad(&blob->header, req->uuid, &aad);
	if (!cmek_aead_open(aead, answer->key, blob->sealed, CMEK_KEY_LEN, &aad,
						sizeof(aad)))
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "TagMismatch",
						"the wrapped key is damaged, or is another table key's");
	cmek_aead_free(aead);
}

/* Unwrap a table key, with the version that wrapped it. */
static void
azure_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	AzureValue *want = new_operation(req);
	CmekAzureBlob blob;

	/* another version than the catalog's: one of the two was tampered with */
	if (!cmek_azure_read_blob(req->blob, req->blob_len, &blob) ||
		(req->expected_version != NULL && req->expected_version[0] != '\0' &&
		 strcmp(req->expected_version, blob.version.name) != 0))
	{
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "InvalidBlob",
						"this is no table key that cmek_azure has wrapped");
		return;
	}
	*want->version = blob.version;
	if (run(want, CMEK_AZURE_UNWRAP, blob.wrapped, blob.wrapped_len, answer))
		open_blob(req, &blob, want, answer);
}

/* What is the key? */
static void
azure_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(new_operation(req), CMEK_AZURE_GET, NULL, 0, answer);
}

/*
 * Is the key there and usable?  Only unwrapKey tells: of what the request
 * brings, or of something that is wrapped for it.
 */
static void
azure_probe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekKmsRequest unwrap = *req;
	CmekKmsRequest wrap = *req;
	uint8	   *blob = palloc(CMEK_KMS_MAX_BLOB);

	if (req->blob_len == 0)
	{
		wrap.key = cmek_kms_new_secret(CMEK_KEY_LEN);
		azure_wrap(&wrap, answer);
		if (answer->klass != CMEK_KMS_OK)
			return;
		memcpy(blob, answer->blob, answer->blob_len);
		unwrap.blob = blob;
		unwrap.blob_len = answer->blob_len;
		unwrap.expected_version = "";
	}
	azure_unwrap(&unwrap, answer);
	cmek_cleanse(answer->key, CMEK_KEY_LEN);
}

/* One attempt to get a token. */
static int
identify_attempt(void *arg, CmekKmsAnswer *answer)
{
	CmekAzureOperation *op = arg;
	const char *client = cmek_kms_config_get(op->req->config, "client_id");

	if (cmek_azure_get_token(op, true, answer))
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "access token of %s",
						client != NULL ? client : "the host's identity");
	return 0;
}

/* Who are we? */
static void
azure_identify(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	cmek_kms_with_retries(req->deadline, identify_attempt,
						  new_operation(req)->op, answer);
}

/* ----------
 * Options
 * ----------
 */
static const CmekKmsOption azure_options[] = {
	{"key_id", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_IDENTITY},
	{"identity", CMEK_OPTION_SERVER},
	{"endpoint", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"authority", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"resource", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"tenant_id", CMEK_OPTION_MAPPING},
	{"client_id", CMEK_OPTION_MAPPING},
	{"client_secret", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{"certificate_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{"certificate", CMEK_OPTION_MAPPING},
	{"private_key", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{NULL, 0}
};

/* The key's id names a vault of Microsoft's, or a superuser says whose it is. */
static void
check_key_id(List *options)
{
	DefElem    *key = cmek_option_find(options, "key_id");

	if (key == NULL)
		return;
	if (!cmek_azure_is_key_id(defGetString(key)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"key_id\" must be the identifier of a key"),
				 errhint("It looks like https://VAULT.vault.azure.net/keys/NAME, without a version.")));
	if (!cmek_azure_is_known(defGetString(key)) &&
		(cmek_option_find(options, "resource") == NULL ||
		 cmek_option_find(options, "authority") == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"key_id\" names a host that is no Key Vault or Managed HSM of a known cloud"),
				 errhint("For another cloud, a superuser sets options \"resource\" and \"authority\".")));
}

/* Options and mapping fit together, and say what Azure can understand. */
static void
azure_validate(List *options, Oid catalog)
{
	static const char *const methods[] = {
		"client_secret", "certificate_file", "private_key", NULL
	};

	check_key_id(options);
	cmek_option_check_name(options, "identity", false);
	cmek_option_check_name(options, "tenant_id", false);
	cmek_option_check_name(options, "client_id", false);
	cmek_option_check_url(options, "endpoint");
	cmek_option_check_url(options, "authority");
	cmek_option_check_url(options, "resource");
	cmek_option_check_path(options, "certificate_file");
	cmek_option_check_needs(options, "certificate", "private_key");
	cmek_option_check_needs(options, "private_key", "certificate");
	if (catalog == ForeignServerRelationId || options == NIL)
		return;
	cmek_option_check_one_of(options, methods);
	for (const char *const *method = methods; *method != NULL; method++)
	{
		cmek_option_check_needs(options, *method, "tenant_id");
		cmek_option_check_needs(options, *method, "client_id");
	}
}

static const CmekKmsStep azure_steps[] = {
	CMEK_STEP_IDENTITY, CMEK_STEP_KEY, CMEK_STEP_ENCRYPT, CMEK_STEP_DECRYPT,
	CMEK_STEP_CONTEXT, CMEK_STEP_END
};

const CmekKmsProvider cmek_azure_provider = {
	.wrapper = "cmek_azure",
	.options = azure_options,
	.wrap = azure_wrap,
	.unwrap = azure_unwrap,
	.probe = azure_probe,
	.describe = azure_describe,
	.validate = azure_validate,
	.steps = azure_steps,
	.identify = azure_identify,
	.advise = cmek_azure_advise,
	.add_settings = cmek_azure_add_settings,
};

/* Validator of wrapper cmek_azure. */
Datum
cmek_azure_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_azure_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
