/*-------------------------------------------------------------------------
 *
 * aws_answer.c
 *	  What AWS KMS, STS and the metadata services answer: JSON and XML.
 *
 * Pure functions.  An answer may be anybody's: every member is checked for its
 * type and length, and what is not needed is not looked at.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"
#include "kms/text.h"

/* ----------
 * KMS
 * ----------
 */

/* Read the answer to DescribeKey. */
static bool
read_metadata(const json_t *object, CmekAwsAnswer *answer)
{
	const json_t *metadata = json_object_get(object, "KeyMetadata");

	if (!json_is_object(metadata) ||
		!cmek_json_string(metadata, "Arn", answer->key_id,
						  sizeof(answer->key_id)) ||
		!cmek_json_string(metadata, "KeyState", answer->state,
						  sizeof(answer->state)) ||
		!cmek_json_string(metadata, "KeyUsage", answer->usage,
						  sizeof(answer->usage)))
		return false;
	/* the older name is all that older stores of keys have */
	return cmek_json_string(metadata, "KeySpec", answer->spec,
							sizeof(answer->spec)) ||
		cmek_json_string(metadata, "CustomerMasterKeySpec", answer->spec,
						 sizeof(answer->spec));
}

/* Read a table key in clear. */
static bool
read_plaintext(const json_t *object, CmekAwsAnswer *answer)
{
	Size		len;

	return cmek_json_base64(object, "Plaintext", answer->key, CMEK_KEY_LEN,
							&len) && len == CMEK_KEY_LEN;
}

/* Read a wrapped table key. */
static bool
read_blob(const json_t *object, CmekAwsAnswer *answer)
{
	Size		len;

	if (!cmek_json_base64(object, "CiphertextBlob", answer->blob,
						  sizeof(answer->blob), &len) || len == 0)
		return false;
	answer->blob_len = len;
	return true;
}

/* Read what a KMS operation answered. */
static bool
read_members(CmekAwsOperation op, const json_t *object, CmekAwsAnswer *answer)
{
	if (op == CMEK_AWS_DESCRIBE_KEY)
		return read_metadata(object, answer);
	if (!cmek_json_string(object, "KeyId", answer->key_id,
						  sizeof(answer->key_id)))
		return false;
	if (op != CMEK_AWS_ENCRYPT && !read_plaintext(object, answer))
		return false;
	return op == CMEK_AWS_DECRYPT || read_blob(object, answer);
}

/* Read the answer to a KMS operation. */
bool
cmek_aws_read_answer(CmekAwsOperation op, const char *body, Size len,
					 CmekAwsAnswer *answer)
{
	json_t	   *object = cmek_json_object(body, len);
	bool		ok;

	memset(answer, 0, sizeof(CmekAwsAnswer));
	ok = object != NULL && read_members(op, object, answer);
	json_decref(object);
	return ok;
}

/* ----------
 * XML, as much of it as STS uses: no attributes in what we look for, and the
 * five entities of XML itself
 * ----------
 */

/* Resolve an entity; 0 when it is not one of XML's own. */
static char
entity(const char *at, const char *end, Size *len)
{
	static const struct
	{
		const char *name;
		char		c;
	}			entities[] = {
		{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'},
		{"&quot;", '"'}, {"&apos;", '\''}, {"&#39;", '\''}, {"&#34;", '"'},
	};

	for (Size i = 0; i < lengthof(entities); i++)
	{
		*len = strlen(entities[i].name);
		if ((Size) (end - at) >= *len &&
			memcmp(at, entities[i].name, *len) == 0)
			return entities[i].c;
	}
	return 0;
}

/* Copy the text between two tags; "" when it is not one we can read. */
static bool
copy_text(const char *at, const char *end, char *out, Size size)
{
	Size		n = 0;
	bool		ok = true;

	while (ok && at < end)
	{
		Size		len = 1;
		char		c = *at;

		if (c == '&')
			c = entity(at, end, &len);
		ok = *at != '<' && c != '\0' && n + 1 < size;
		if (ok)
			out[n++] = c;
		at += len;
	}
	out[ok ? n : 0] = '\0';
	return ok;
}

/* Find a text in bytes; NULL when it is not there. */
static const char *
find_bytes(const char *at, const char *end, const char *what)
{
	Size		len = strlen(what);

	for (; (Size) (end - at) >= len; at++)
		if (memcmp(at, what, len) == 0)
			return at;
	return NULL;
}

/* The text of the first element of a name. */
bool
cmek_aws_read_xml(const char *body, Size len, const char *name, char *out,
				  Size size)
{
	const char *end = body + len;
	char		tag[64];
	const char *from;
	const char *to;

	snprintf(tag, sizeof(tag), "<%s>", name);
	from = find_bytes(body, end, tag);
	if (from == NULL)
		return false;
	from += strlen(tag);
	snprintf(tag, sizeof(tag), "</%s>", name);
	to = find_bytes(from, end, tag);
	return to != NULL && copy_text(from, to, out, size);
}

/* Who we are. */
bool
cmek_aws_read_identity(const char *body, Size len, char *arn, Size size)
{
	return find_bytes(body, body + len, "<GetCallerIdentityResult>") != NULL &&
		cmek_aws_read_xml(body, len, "Arn", arn, size) && arn[0] != '\0';
}

/* ----------
 * Credentials
 * ----------
 */

/* Are they something that can sign? */
static bool
are_complete(const CmekAwsCredentials *credentials)
{
	return credentials->access_key_id[0] != '\0' &&
		credentials->secret_access_key[0] != '\0';
}

/* Read the members of credentials as metadata services give them. */
static bool
read_credentials(const json_t *object, CmekAwsCredentials *credentials)
{
	char		expiration[64];

	return cmek_json_string(object, "AccessKeyId", credentials->access_key_id,
							sizeof(credentials->access_key_id)) &&
		cmek_json_string(object, "SecretAccessKey",
						 credentials->secret_access_key,
						 sizeof(credentials->secret_access_key)) &&
		cmek_json_string(object, "Token", credentials->session_token,
						 sizeof(credentials->session_token)) &&
		cmek_json_string(object, "Expiration", expiration,
						 sizeof(expiration)) &&
		cmek_parse_timestamp(expiration, &credentials->expires_at) &&
		are_complete(credentials);
}

/* Credentials of a host or a container. */
bool
cmek_aws_read_metadata_credentials(const char *body, Size len,
								   CmekAwsCredentials *credentials)
{
	json_t	   *object = cmek_json_object(body, len);
	bool		ok;

	memset(credentials, 0, sizeof(CmekAwsCredentials));
	ok = object != NULL && read_credentials(object, credentials);
	json_decref(object);
	return ok;
}

/* Credentials of a role. */
bool
cmek_aws_read_role_credentials(const char *body, Size len,
							   CmekAwsCredentials *credentials)
{
	char		expiration[64];

	memset(credentials, 0, sizeof(CmekAwsCredentials));
	return cmek_aws_read_xml(body, len, "AccessKeyId",
							 credentials->access_key_id,
							 sizeof(credentials->access_key_id)) &&
		cmek_aws_read_xml(body, len, "SecretAccessKey",
						  credentials->secret_access_key,
						  sizeof(credentials->secret_access_key)) &&
		cmek_aws_read_xml(body, len, "SessionToken",
						  credentials->session_token,
						  sizeof(credentials->session_token)) &&
		cmek_aws_read_xml(body, len, "Expiration", expiration,
						  sizeof(expiration)) &&
		cmek_parse_timestamp(expiration, &credentials->expires_at) &&
		are_complete(credentials);
}
