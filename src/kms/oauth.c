/*-------------------------------------------------------------------------
 *
 * oauth.c
 *	  What the providers with OAuth 2.0 have in common.
 *
 * Owns nothing: tokens and keys are in secret memory of the call.  What an
 * answer says is for the provider's own pure functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "crypto/crypto.h"
#include "kms/internal.h"
#include "kms/oauth.h"

/* See oauth.h. */
bool
cmek_oauth_send(const CmekKmsRequest *req, const CmekText *url,
				const char *token, const char *type, const char *body,
				CmekHttpAnswer *got, CmekKmsAnswer *answer)
{
	CmekText	authorization;
	CmekText	content = cmek_kms_new_text(128);
	CmekHttpRequest http = {0};

	if (url->overflow)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "UrlTooLong",
						"an address is too long");
		return false;
	}
	http.method = body != NULL ? "POST" : "GET";
	http.url = url->data;
	http.body = body;
	http.body_len = body != NULL ? strlen(body) : 0;
	/* addresses of ours are TLS; others are a superuser's */
	http.plain = CMEK_HTTP_PLAIN_LOOPBACK;
	http.deadline = cmek_kms_attempt_deadline(req->deadline);
	if (body != NULL)
	{
		cmek_text_printf(&content, "Content-Type: %s", type);
		cmek_http_header(&http, content.data);
	}
	if (token != NULL)
	{
		authorization = cmek_kms_new_text(strlen(token) + 64);
		cmek_text_add(&authorization, "Authorization: Bearer ");
		cmek_text_add(&authorization, token);
		cmek_http_header(&http, authorization.data);
	}
	return cmek_http_run(&http, got, answer);
}

/* See oauth.h. */
char *
cmek_oauth_sign(const char *pem, CmekText *jwt, CmekKmsAnswer *answer)
{
	uint8	   *signature = palloc(CMEK_MAX_SIGNATURE);
	Size		len;

	if (!cmek_sign_rs256(pem, jwt->data, jwt->len, signature, &len))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "PrivateKey",
						"the private key is no RSA key of at least 2048 bits in PEM");
		return NULL;
	}
	cmek_text_add(jwt, ".");
	cmek_text_add_base64url(jwt, signature, len);
	if (!jwt->overflow)
		return jwt->data;
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "CredentialsTooLong",
					"the credentials are too long");
	return NULL;
}

/* See oauth.h. */
int64
cmek_oauth_now(void)
{
	return (int64) timestamptz_to_time_t(GetCurrentTimestamp());
}
