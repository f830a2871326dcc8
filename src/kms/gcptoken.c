/*-------------------------------------------------------------------------
 *
 * gcptoken.c
 *	  How Google's services give out access tokens: a service account's signed
 *	  assertion, the metadata server, impersonation.
 *
 * Pure functions, like gcpwire.c: no network, no clock, no PostgreSQL memory,
 * no ERROR.  None of them may answer DENIED but for impersonation: our own
 * identity that is refused says nothing about a customer's key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/gcpwire.h"

#define IAM_ENDPOINT "https://iamcredentials.googleapis.com"
#define ASSERTION_S 3600		/* what Google allows */

/* A credential file that cannot be used. */
static bool
reject_account(const char *code, const char *why, CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, code, "%s", why);
	return false;
}

/* See gcpwire.h. */
bool
cmek_gcp_read_account(const char *text, Size len, CmekGcpAccount *account,
					  CmekKmsAnswer *answer)
{
	json_t	   *root = cmek_json_object(text, len);
	char		type[64];
	bool		ok = false;

	memset(account, 0, sizeof(CmekGcpAccount));
	if (root == NULL || !cmek_json_string(root, "type", type, sizeof(type)))
		reject_account("CredentialFormat",
					   "the credential file is not a JSON file of Google's", answer);
	else if (strcmp(type, "service_account") != 0)
		reject_account("CredentialType",
					   "the credential file is not of a service account", answer);
	else if (!cmek_json_string(root, "client_email", account->email,
							   sizeof(account->email)) ||
			 !cmek_json_string(root, "private_key", account->private_key,
							   sizeof(account->private_key)))
		reject_account("CredentialFormat",
					   "the credential file lacks client_email or private_key", answer);
	else
	{
		if (!cmek_json_string(root, "private_key_id", account->key_id,
							  sizeof(account->key_id)))
			account->key_id[0] = '\0';
		if (!cmek_json_string(root, "token_uri", account->token_url,
							  sizeof(account->token_url)))
			strlcpy(account->token_url, CMEK_GCP_TOKEN_URL,
					sizeof(account->token_url));
		ok = true;
	}
	json_decref(root);
	return ok;
}

/* See gcpwire.h (RFC 7523, with Google's claim "scope"). */
void
cmek_gcp_jwt(const CmekGcpAccount *account, const char *scope, int64 now,
			 CmekText *jwt)
{
	char		area[2048];
	CmekText	part;

	cmek_text_init(&part, area, sizeof(area));
	cmek_text_add(&part, "{\"alg\":\"RS256\",\"typ\":\"JWT\"");
	if (account->key_id[0] != '\0')
	{
		cmek_text_add(&part, ",\"kid\":");
		cmek_text_add_json(&part, account->key_id);
	}
	cmek_text_add(&part, "}");
	cmek_text_add_base64url(jwt, (uint8 *) part.data, part.len);
	jwt->overflow |= part.overflow;
	cmek_text_add(jwt, ".");

	cmek_text_init(&part, area, sizeof(area));
	cmek_text_add(&part, "{\"iss\":");
	cmek_text_add_json(&part, account->email);
	cmek_text_add(&part, ",\"scope\":");
	cmek_text_add_json(&part, scope);
	cmek_text_add(&part, ",\"aud\":");
	cmek_text_add_json(&part, account->token_url);
	cmek_text_printf(&part, ",\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT "}",
					 now, now + ASSERTION_S);
	cmek_text_add_base64url(jwt, (uint8 *) part.data, part.len);
	jwt->overflow |= part.overflow;
}

/* See gcpwire.h. */
void
cmek_gcp_token_body(const char *jwt, CmekText *body)
{
	cmek_text_add(body, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=");
	cmek_text_add(body, jwt);
}

/* Is an error of these services one that passes? */
static bool
status_passes(int status)
{
	return status == 408 || status == 429 || status >= 500;
}

/* See gcpwire.h. */
void
cmek_gcp_read_token(int status, const char *body, Size len,
					CmekGcpToken *token, CmekKmsAnswer *answer)
{
	json_t	   *root = cmek_json_object(body, len);
	char		error[CMEK_KMS_MAX_CODE];
	char		code[CMEK_KMS_MAX_CODE];

	if (status != 200)
	{
		/* RFC 6749, 5.2: {"error": "invalid_grant", ...} */
		if (root == NULL || !cmek_json_string(root, "error", error, sizeof(error)))
			snprintf(error, sizeof(error), "HTTP%d", status);
		cmek_text_printable(code, sizeof(code), error);
		cmek_kms_answer(answer,
						status_passes(status) ? CMEK_KMS_UNREACHABLE : CMEK_KMS_MISCONFIGURED,
						code, "Google gave no access token (status %d)", status);
	}
	else if (root == NULL ||
			 !cmek_json_string(root, "access_token", token->token,
							   sizeof(token->token)) ||
			 !cmek_text_is_sendable(token->token) ||
			 !cmek_json_integer(root, "expires_in", &token->seconds))
		cmek_kms_answer_malformed("access_token and expires_in", answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	json_decref(root);
}

/* See gcpwire.h. */
void
cmek_gcp_impersonate_url(const CmekKmsConfig *config, const char *account,
						 CmekText *url)
{
	const char *base = cmek_kms_config_get(config, "iam_endpoint");

	cmek_text_add_base(url, base != NULL ? base : IAM_ENDPOINT);
	cmek_text_add(url, "/v1/projects/-/serviceAccounts/");
	cmek_text_add_percent(url, account);
	cmek_text_add(url, ":generateAccessToken");
}

/* See gcpwire.h. */
void
cmek_gcp_impersonate_body(const char *delegates, CmekText *body)
{
	char		name[CMEK_GCP_MAX_EMAIL + 64];
	const char *at = delegates != NULL ? delegates : "";

	cmek_text_add(body, "{\"scope\":[\"" CMEK_GCP_SCOPE_KMS "\"],\"lifetime\":\"3600s\"");
	cmek_text_add(body, ",\"delegates\":[");
	while (*at != '\0')
	{
		int			len = strcspn(at, ",");

		snprintf(name, sizeof(name), "projects/-/serviceAccounts/%.*s",
				 Min(len, CMEK_GCP_MAX_EMAIL), at);
		cmek_text_add_json(body, name);
		at += len;
		if (*at == ',')
		{
			cmek_text_add(body, ",");
			at++;
		}
	}
	cmek_text_add(body, "]}");
}

/* See gcpwire.h.  How long the token is good, we have asked for ourselves. */
void
cmek_gcp_read_impersonated(int status, const char *body, Size len,
						   CmekGcpToken *token, CmekKmsAnswer *answer)
{
	json_t	   *root = cmek_json_object(body, len);
	json_t	   *error = root != NULL ? json_object_get(root, "error") : NULL;
	const char *text = json_string_value(json_object_get(error, "message"));
	char		message[CMEK_KMS_MAX_MESSAGE];

	cmek_text_printable(message, sizeof(message),
						text != NULL ? text : "Google gave no reason");
	if (status == 403 || status == 404)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "ImpersonationDenied", "%s", message);
	else if (status != 200)
		cmek_kms_answer(answer,
						status_passes(status) ? CMEK_KMS_UNREACHABLE : CMEK_KMS_MISCONFIGURED,
						"ImpersonationFailed", "%s (status %d)", message, status);
	else if (root == NULL ||
			 !cmek_json_string(root, "accessToken", token->token,
							   sizeof(token->token)) ||
			 !cmek_text_is_sendable(token->token))
		cmek_kms_answer_malformed("accessToken", answer);
	else
	{
		token->seconds = 3600;
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	json_decref(root);
}
