/*-------------------------------------------------------------------------
 *
 * azuretoken.c
 *	  How Microsoft's services give out access tokens: an application's secret
 *	  or certificate, a managed identity of the machine.
 *
 * Pure functions, like azurewire.c: no network, no clock, no PostgreSQL memory,
 * no ERROR.  None of them may answer DENIED: our own identity that is refused
 * says nothing about a customer's key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/azurewire.h"

#define ASSERTION_S 600

/* See azurewire.h. */
void
cmek_azure_token_url(const CmekKmsConfig *config, const char *tenant,
					 CmekText *url)
{
	cmek_text_add_base(url, cmek_azure_authority(config));
	cmek_text_add(url, "/");
	cmek_text_add_percent(url, tenant);
	cmek_text_add(url, "/oauth2/v2.0/token");
}

/* See azurewire.h (RFC 6749, 4.4; RFC 7523, 2.2). */
void
cmek_azure_token_body(const CmekKmsConfig *config, const char *client,
					  const char *secret, const char *assertion,
					  CmekText *body)
{
	cmek_text_add(body, "grant_type=client_credentials&client_id=");
	cmek_text_add_percent(body, client);
	cmek_text_add(body, "&scope=");
	cmek_text_add_percent(body, cmek_azure_resource(config));
	cmek_text_add(body, "%2F.default");
	if (assertion == NULL)
	{
		cmek_text_add(body, "&client_secret=");
		cmek_text_add_percent(body, secret);
		return;
	}
	cmek_text_add(body, "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=");
	cmek_text_add_percent(body, assertion);
}

/* See azurewire.h. */
void
cmek_azure_jwt(const char *audience, const char *client, const uint8 *sha1,
			   const uint8 *sha256, const uint8 *id, int64 now, CmekText *jwt)
{
	char		area[2048];
	CmekText	part;

	cmek_text_init(&part, area, sizeof(area));
	cmek_text_add(&part, "{\"alg\":\"RS256\",\"typ\":\"JWT\",\"x5t\":\"");
	cmek_text_add_base64url(&part, sha1, 20);
	cmek_text_add(&part, "\",\"x5t#S256\":\"");
	cmek_text_add_base64url(&part, sha256, 32);
	cmek_text_add(&part, "\"}");
	cmek_text_add_base64url(jwt, (uint8 *) part.data, part.len);
	jwt->overflow |= part.overflow;
	cmek_text_add(jwt, ".");

	cmek_text_init(&part, area, sizeof(area));
	cmek_text_add(&part, "{\"aud\":");
	cmek_text_add_json(&part, audience);
	cmek_text_add(&part, ",\"iss\":");
	cmek_text_add_json(&part, client);
	cmek_text_add(&part, ",\"sub\":");
	cmek_text_add_json(&part, client);
	cmek_text_add(&part, ",\"jti\":\"");
	cmek_text_add_hex(&part, id, CMEK_UUID_LEN);
	cmek_text_printf(&part, "\",\"nbf\":" INT64_FORMAT ",\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT "}",
					 now, now, now + ASSERTION_S);
	cmek_text_add_base64url(jwt, (uint8 *) part.data, part.len);
	jwt->overflow |= part.overflow;
}

/* See azurewire.h. */
void
cmek_azure_identity_url(const CmekKmsConfig *config, const char *base,
						bool app_service, const char *identity, CmekText *url)
{
	cmek_text_add_base(url, base);
	cmek_text_add(url, app_service ? "?api-version=2019-08-01&resource=" :
				  "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=");
	cmek_text_add_percent(url, cmek_azure_resource(config));
	if (identity == NULL)
		return;
	cmek_text_add(url, "&client_id=");
	cmek_text_add_percent(url, identity);
}

/* A member that is a number of seconds, which some of them send as a string */
static bool
read_seconds(const json_t *root, const char *name, int64 *seconds)
{
	char		text[20];
	char	   *end;

	if (cmek_json_integer(root, name, seconds))
		return true;
	if (!cmek_json_string(root, name, text, sizeof(text)) ||
		text[0] < '0' || text[0] > '9')
		return false;
	*seconds = strtoll(text, &end, 10);
	return *end == '\0';
}

/* The code of a refusal: "AADSTS7000215", "invalid_client", "HTTP500" */
static void
error_code(const json_t *root, int status, char *code)
{
	const char *text = json_string_value(json_object_get(root, "error_description"));
	Size		len = text == NULL || strncmp(text, "AADSTS", 6) != 0 ? 0 :
		6 + strspn(text + 6, "0123456789");
	char		error[CMEK_KMS_MAX_CODE];

	if (len > 6 && len < sizeof(error))
		strlcpy(error, text, len + 1);
	else if (root == NULL ||
			 !cmek_json_string(root, "error", error, sizeof(error)))
		snprintf(error, sizeof(error), "HTTP%d", status);
	cmek_text_printable(code, CMEK_KMS_MAX_CODE, error);
}

/*
 * No token: a refusal, or what passes.  410 is the machine's service while it
 * is being updated.
 */
static void
answer_refusal(const json_t *root, int status, CmekKmsAnswer *answer)
{
	char		code[CMEK_KMS_MAX_CODE];
	bool		passes = status == 408 || status == 410 || status == 429 ||
		status >= 500;

	error_code(root, status, code);
	/* AADSTS90033 and AADSTS50196: a fault of theirs, and too many requests */
	if (strcmp(code, "AADSTS90033") == 0 || strcmp(code, "AADSTS50196") == 0)
		passes = true;
	cmek_kms_answer(answer,
					passes ? CMEK_KMS_UNREACHABLE : CMEK_KMS_MISCONFIGURED,
					code, "Microsoft gave no access token (status %d)", status);
}

/* See azurewire.h. */
void
cmek_azure_read_token(int status, const char *body, Size len, int64 now,
					  CmekAzureToken *token, CmekKmsAnswer *answer)
{
	json_t	   *root = cmek_json_object(body, len);
	int64		ends;
	bool		known;

	if (status != 200)
	{
		answer_refusal(root, status, answer);
		json_decref(root);
		return;
	}
	known = root != NULL && read_seconds(root, "expires_in", &token->seconds);
	if (root != NULL && !known && read_seconds(root, "expires_on", &ends))
	{
		token->seconds = ends > now ? Min(ends - now, SECS_PER_DAY) : 0;
		known = true;
	}
	if (!known || !cmek_json_string(root, "access_token", token->token,
									sizeof(token->token)) ||
		!cmek_text_is_sendable(token->token))
		cmek_kms_answer_malformed("access_token and its end", answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	json_decref(root);
}
