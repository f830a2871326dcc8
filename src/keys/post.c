/*-------------------------------------------------------------------------
 *
 * keys/post.c
 *	  Having a KMS worker post a notification.
 *
 * The request goes over the board like one for a key, under no server at all,
 * so that a receiver that does not answer holds up one worker at most.  It
 * tells nothing about any KMS key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "keys/internal.h"
#include "keys/watch.h"

/* See watch.h. */
bool
cmek_post(const char *url, const char *secret_file, const char *body,
		  char *error, Size size)
{
	CmekKeyRequest *what = cmek_secret_alloc_in(CurrentMemoryContext,
												sizeof(CmekKeyRequest));
	CmekReply  *reply = palloc0(sizeof(CmekReply));
	Size		len = strlen(body);

	if (len > sizeof(what->blob) ||
		!cmek_kms_config_add(&what->config, "url", url) ||
		!cmek_kms_config_add(&what->config, "secret_file", secret_file))
	{
		strlcpy(error, "the notification is too long", size);
		return false;
	}
	what->op = CMEK_OP_POST;
	what->database = MyDatabaseId;
	what->server = InvalidOid;
	strlcpy(what->server_name, "cmek.notify_url", sizeof(what->server_name));
	cmek_random_uuid(what->uuid);
	memcpy(what->blob, body, len);
	what->blob_len = len;
	cmek_request_run(what, reply);
	if (reply->klass == CMEK_KMS_OK)
		return true;
	snprintf(error, size, "%s: %s", reply->code, reply->message);
	return false;
}
