/*-------------------------------------------------------------------------
 *
 * secret.c
 *	  A secret option of a user mapping on its way to the catalog: a KMS worker
 *	  seals it, for the service key never leaves the workers.
 *
 * The secret is in the server's memory already, as the text of a statement.
 * Here it is held in secret memory only, and no message repeats it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"

#include "compat.h"
#include "keys/internal.h"

/* A request to seal a secret for a server. */
static CmekKeyRequest *
new_seal(Oid serverid, const char *option, const char *secret)
{
	CmekKeyRequest *what = cmek_secret_alloc_in(CurrentMemoryContext,
												sizeof(CmekKeyRequest));

	what->op = CMEK_OP_SEAL;
	cmek_random_uuid(what->uuid);
	cmek_server_fill(what, serverid);
	/* so that a lost service key is not taken for one that never was */
	cmek_catalog_server_version(CMEK_SERVICE_KEY_SERVER, what->version);
	strlcpy(what->option, option, sizeof(what->option));
	what->blob_len = strlen(secret);
	memcpy(what->blob, secret, what->blob_len);
	return what;
}

/* See keys.h. */
char *
cmek_secret_seal_option(Oid serverid, const char *option, const char *secret)
{
	CmekReply  *reply = palloc(sizeof(CmekReply));

	if (strlen(secret) > CMEK_MAX_SECRET)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("option \"%s\" is too long for a secret", option),
				 errdetail("It may have %d bytes.", (int) CMEK_MAX_SECRET),
				 errhint("Put the secret into a file of the database server.")));
	cmek_request_run(new_seal(serverid, option, secret), reply);
	if (reply->klass != CMEK_KMS_OK)
		ereport(ERROR,
				(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("could not seal option \"%s\"", option),
				 errdetail("The service key is not accessible: %s (%s): %s.",
						   reply->code, cmek_kms_class_name(reply->klass),
						   reply->message),
				 errhint("%s", cmek_reply_hint("cmek_file", reply))));
	return cmek_secret_text(reply->key_version, reply->blob, reply->blob_len);
}
