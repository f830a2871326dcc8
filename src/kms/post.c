/*-------------------------------------------------------------------------
 *
 * post.c
 *	  Posting a notification to cmek.notify_url, in a KMS worker.
 *
 * The receiver can tell that a post is ours and of now by two headers:
 *
 *	   X-Cmek-Timestamp: <seconds since 1970>
 *	   X-Cmek-Signature: v1=<hex of HMAC-SHA256(secret, timestamp "." body)>
 *
 * where the secret is the first line of cmek.notify_secret_file.  Without a
 * secret there is no signature.  The address comes from a superuser's setting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/text.h"

#define MAX_SECRET 1024
#define MAC_LEN 32

typedef struct Post
{
	CmekHttpRequest http;
	char		timestamp[64];
	char		signature[64 + 2 * MAC_LEN];
} Post;

/* Sign the body with the secret of a file. */
static bool
sign_post(Post *post, int64 now, const CmekKmsRequest *req,
		  const char *secret_file, CmekKmsAnswer *answer)
{
	char	   *secret = cmek_kms_read_file(secret_file, MAX_SECRET, NULL, answer);
	StringInfoData signed_text;
	uint8		mac[MAC_LEN];
	CmekText	text;

	if (secret == NULL)
		return false;
	initStringInfo(&signed_text);
	appendStringInfo(&signed_text, INT64_FORMAT ".", now);
	appendBinaryStringInfo(&signed_text, (const char *) req->blob,
						   req->blob_len);
	cmek_hmac_sha256((const uint8 *) secret, strcspn(secret, "\r\n"),
					 signed_text.data, signed_text.len, mac);
	cmek_text_init(&text, post->signature, sizeof(post->signature));
	cmek_text_add(&text, "X-Cmek-Signature: v1=");
	cmek_text_add_hex(&text, mac, MAC_LEN);
	cmek_http_header(&post->http, post->signature);
	return true;
}

/* What a status of the receiver's means. */
static void
answer_status(int status, CmekKmsAnswer *answer)
{
	char		code[CMEK_KMS_MAX_CODE];

	snprintf(code, sizeof(code), "Http%d", status);
	if (status >= 200 && status < 300)
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	else
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, code,
						"cmek.notify_url answered with HTTP status %d", status);
}

/* See internal.h. */
void
cmek_kms_post(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	Post	   *post = palloc0(sizeof(Post));
	const char *secret_file = cmek_kms_config_get(req->config, "secret_file");
	int64		now = (int64) timestamptz_to_time_t(GetCurrentTimestamp());
	CmekHttpAnswer http;

	post->http.method = "POST";
	post->http.url = cmek_kms_config_get(req->config, "url");
	post->http.body = (const char *) req->blob;
	post->http.body_len = req->blob_len;
	post->http.plain = CMEK_HTTP_PLAIN_LOOPBACK;
	post->http.deadline = req->deadline;
	cmek_http_header(&post->http, "Content-Type: application/json");
	snprintf(post->timestamp, sizeof(post->timestamp),
			 "X-Cmek-Timestamp: " INT64_FORMAT, now);
	cmek_http_header(&post->http, post->timestamp);
	if (secret_file != NULL && secret_file[0] != '\0' &&
		!sign_post(post, now, req, secret_file, answer))
		return;
	if (cmek_http_run(&post->http, &http, answer))
		answer_status(http.status, answer);
}
