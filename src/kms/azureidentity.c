/*-------------------------------------------------------------------------
 *
 * azureidentity.c
 *	  Who we are for Azure: an application with a secret or a certificate, or
 *	  what the machine itself may be.
 *
 * The machine's identity is, in this order: a workload identity (a token file
 * of Kubernetes), the service that App Service names, the metadata service of a
 * virtual machine.  It serves a tenant's keys only where a superuser allows
 * it, and which of the machine's identities that is, is not the tenant's
 * choice once cmek.azure_identity says so.  That is settled before anything
 * leaves the host.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/azure.h"

#define MAX_FILE 32768
/* a token is replaced so long before its end */
#define TOKEN_MARGIN_S 120
#define METADATA_BASE "http://169.254.169.254"
/* setting of the database, as it travels to the worker */
#define SETTING_IDENTITY "azure.identity"

static char *azure_identity = NULL;

/* An environment variable; NULL when it says nothing. */
static const char *
environment(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && value[0] != '\0' ? value : NULL;
}

/* See azure.h. */
bool
cmek_azure_has_credentials(const CmekKmsConfig *config)
{
	return cmek_kms_config_get(config, "client_secret") != NULL ||
		cmek_kms_config_get(config, "certificate_file") != NULL ||
		cmek_kms_config_get(config, "private_key") != NULL;
}

/* See azure.h. */
const char *
cmek_azure_tenant(const CmekKmsConfig *config)
{
	return cmek_azure_has_credentials(config) ?
		cmek_kms_config_get(config, "tenant_id") : NULL;
}

/*
 * Which of the host's identities to be, NULL for its own.  False with the
 * answer filled in when the host's may not serve, or a tenant asks for more.
 */
static bool
choose_identity(const CmekKmsConfig *config, const char **identity,
				CmekKmsAnswer *answer)
{
	const char *fixed = cmek_kms_config_get(config, SETTING_IDENTITY);

	*identity = cmek_kms_config_get(config, "identity");
	if (cmek_azure_has_credentials(config))
		return true;
	if (!config->ambient)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "AmbientNotAllowed",
						"there are no credentials in the user mapping, and the host's own serve only keys of superusers, or databases with cmek.ambient_credentials = on");
		return false;
	}
	if (fixed == NULL)
		return true;
	if (*identity != NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "IdentityNotAllowed",
						"cmek.azure_identity says for this database which of the host's identities is used: option \"identity\" cannot be");
		return false;
	}
	*identity = fixed;
	return true;
}

/* The signed assertion of a certificate with its key; NULL with the answer filled in. */
static char *
sign_assertion(const char *pem, const char *client, const char *audience,
			   CmekKmsAnswer *answer)
{
	CmekText	jwt = cmek_kms_new_text(CMEK_AZURE_MAX_BODY);
	uint8		sha1[CMEK_SHA1_LEN];
	uint8		sha256[CMEK_SHA256_LEN];
	uint8		id[CMEK_UUID_LEN];

	if (!cmek_certificate_thumbprints(pem, sha1, sha256))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "Certificate",
						"there is no certificate with its own private key, without a password, in PEM");
		return NULL;
	}
	cmek_random_uuid(id);
	cmek_azure_jwt(audience, client, sha1, sha256, id, cmek_oauth_now(), &jwt);
	return cmek_oauth_sign(pem, &jwt, answer);
}

/* A token for an application, by a secret or an assertion. */
static bool
token_of_application(const CmekKmsRequest *req, const char *tenant,
					 const char *client, const char *secret,
					 const char *assertion, CmekAzureToken *token,
					 CmekKmsAnswer *answer)
{
	CmekText	url = cmek_kms_new_text(CMEK_AZURE_MAX_URL);
	CmekText	body = cmek_kms_new_text(3 * CMEK_AZURE_MAX_BODY);
	CmekHttpAnswer http;

	cmek_azure_token_url(req->config, tenant, &url);
	cmek_azure_token_body(req->config, client, secret, assertion, &body);
	if (body.overflow)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "CredentialsTooLong",
						"the credentials are too long");
		return false;
	}
	if (!cmek_oauth_send(req, &url, NULL, "application/x-www-form-urlencoded",
						 body.data, &http, answer))
		return false;
	cmek_azure_read_token(http.status, http.body, http.body_len, cmek_oauth_now(),
						  token, answer);
	return answer->klass == CMEK_KMS_OK;
}

/* Certificate and private key of the user mapping, in one text as in a file */
static const char *
inline_certificate(const CmekKmsConfig *config)
{
	CmekText	pem = cmek_kms_new_text(CMEK_KMS_MAX_CONFIG);

	cmek_text_add(&pem, cmek_kms_config_get(config, "private_key"));
	cmek_text_add(&pem, "\n");
	cmek_text_add(&pem, cmek_kms_config_get(config, "certificate"));
	return pem.data;
}

/* A token by the credentials of the user mapping. */
static bool
token_by_mapping(const CmekKmsRequest *req, CmekAzureToken *token,
				 CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = req->config;
	const char *tenant = cmek_kms_config_get(config, "tenant_id");
	const char *client = cmek_kms_config_get(config, "client_id");
	const char *secret = cmek_kms_config_get(config, "client_secret");
	const char *path = cmek_kms_config_get(config, "certificate_file");
	CmekText	audience = cmek_kms_new_text(CMEK_AZURE_MAX_URL);
	const char *assertion = NULL;
	const char *pem;

	if (secret == NULL)
	{
		pem = path == NULL ? inline_certificate(config) :
			cmek_kms_read_file(path, MAX_FILE, NULL, answer);
		/* the assertion is for this address and no other */
		cmek_azure_token_url(config, tenant, &audience);
		if (pem == NULL ||
			(assertion = sign_assertion(pem, client, audience.data, answer)) == NULL)
			return false;
	}
	return token_of_application(req, tenant, client, secret, assertion, token,
								answer);
}

/* A token for what Kubernetes says that this pod is. */
static bool
token_by_workload(const CmekKmsRequest *req, const char *path,
				  const char *identity, CmekAzureToken *token,
				  CmekKmsAnswer *answer)
{
	const char *tenant = environment("AZURE_TENANT_ID");
	const char *client = identity != NULL ? identity : environment("AZURE_CLIENT_ID");
	char	   *assertion;

	if (tenant == NULL || client == NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "WorkloadIdentity",
						"AZURE_FEDERATED_TOKEN_FILE is set, but AZURE_TENANT_ID or AZURE_CLIENT_ID is not");
		return false;
	}
	assertion = cmek_kms_read_file(path, MAX_FILE, NULL, answer);
	if (assertion == NULL)
		return false;
	assertion[strcspn(assertion, "\r\n")] = '\0';
	return token_of_application(req, tenant, client, NULL, assertion, token,
								answer);
}

/* A token of the service beside us: App Service's, or the machine's metadata. */
static bool
token_by_metadata(const CmekKmsRequest *req, const char *identity,
				  CmekAzureToken *token, CmekKmsAnswer *answer)
{
	const char *secret = environment("IDENTITY_HEADER");
	const char *base = secret != NULL ? environment("IDENTITY_ENDPOINT") : NULL;
	bool		app_service = base != NULL;
	CmekText	url = cmek_kms_new_text(CMEK_AZURE_MAX_URL);
	CmekText	header = cmek_kms_new_text(1024);
	CmekHttpRequest request = {0};
	CmekHttpAnswer http;

	if (!app_service)
		base = environment("AZURE_POD_IDENTITY_AUTHORITY_HOST");
	cmek_azure_identity_url(req->config, base != NULL ? base : METADATA_BASE,
							app_service, identity, &url);
	request.method = "GET";
	request.url = url.data;
	request.plain = CMEK_HTTP_PLAIN_METADATA;
	request.deadline = cmek_kms_attempt_deadline(req->deadline);
	cmek_text_printf(&header, "%s: %s",
					 app_service ? "X-IDENTITY-HEADER" : "Metadata",
					 app_service ? secret : "true");
	if (url.overflow || header.overflow)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "UrlTooLong",
						"an address or IDENTITY_HEADER is too long");
		return false;
	}
	cmek_http_header(&request, header.data);
	if (!cmek_http_run(&request, &http, answer))
		return false;
	cmek_azure_read_token(http.status, http.body, http.body_len, cmek_oauth_now(),
						  token, answer);
	return answer->klass == CMEK_KMS_OK;
}

/* What decides about a token: never the same for two tenants' credentials. */
static void
identify_token(CmekAzureOperation *op, const char *identity)
{
	const CmekKmsConfig *config = op->req->config;
	const char *parts[] = {
		cmek_kms_config_get(config, "tenant_id"),
		cmek_kms_config_get(config, "client_id"),
		cmek_kms_config_get(config, "client_secret"),
		cmek_kms_config_get(config, "certificate_file"),
		cmek_kms_config_get(config, "certificate"),
		cmek_kms_config_get(config, "private_key"),
		cmek_azure_authority(config),
		cmek_azure_resource(config),
		identity
	};

	cmek_token_id(op->id, "azure", parts, lengthof(parts));
}

/* Ask for a token. */
static bool
ask_for_token(CmekAzureOperation *op, const char *identity,
			  CmekKmsAnswer *answer)
{
	const char *path = environment("AZURE_FEDERATED_TOKEN_FILE");

	if (cmek_azure_has_credentials(op->req->config))
		return token_by_mapping(op->req, op->token, answer);
	if (path != NULL)
		return token_by_workload(op->req, path, identity, op->token, answer);
	return token_by_metadata(op->req, identity, op->token, answer);
}

/* See azure.h. */
bool
cmek_azure_get_token(CmekAzureOperation *op, bool anew, CmekKmsAnswer *answer)
{
	const char *identity;

	if (!choose_identity(op->req->config, &identity, answer))
		return false;
	identify_token(op, identity);
	if (anew)
		cmek_token_forget(op->id);
	else if (cmek_token_get(op->id, op->token, sizeof(CmekAzureToken)))
		return true;
	if (!ask_for_token(op, identity, answer))
		return false;
	op->fresh = true;
	cmek_token_put(op->id, op->token, sizeof(CmekAzureToken),
				   cmek_instant_in((Min(op->token->seconds, SECS_PER_DAY) -
									TOKEN_MARGIN_S) * INT64CONST(1000)));
	return true;
}

/* See azure.h: let the worker know what is set for the asking database. */
bool
cmek_azure_add_settings(CmekKmsConfig *config)
{
	if (azure_identity[0] == '\0' || config->superuser)
		return true;
	return cmek_kms_config_add(config, SETTING_IDENTITY, azure_identity);
}

/* See internal.h. */
void
cmek_azure_init(void)
{
	DefineCustomStringVariable("cmek.azure_identity",
							   "Client id of the host's identity that serves KMS keys of ordinary users at Azure.",
							   "Set it for a database; then option \"identity\" cannot be used there with the host's identity.",
							   &azure_identity,
							   "",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);
}
