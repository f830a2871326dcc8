/*-------------------------------------------------------------------------
 *
 * file.c
 *	  Provider cmek_file: a KMS key in a file of the database server.
 *
 * A server without options stands for the service key, which belongs to the
 * installation: it is made on the first use, out of the data directory, and
 * its fingerprint is kept in the data directory and in every table-key row.
 * A server with option key_file names another file, which is never made here.
 *
 * The rule that must never break: once a fingerprint is known, from either
 * place, a key file that is missing or differs is an answer of DENIED, never
 * a reason to make a new key.
 *
 * A wrapped table key is nonce | ciphertext | tag under the file's key, with
 * CmekFileWrapAad as associated data.  The file is read for every call and
 * its key kept no longer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/internal.h"

char	   *cmek_service_key_file = NULL;
char	   *cmek_service_key_command = NULL;

/* The code of an answer that another key is there than the expected one */
#define CODE_DIFFERS "KeyFileDiffers"

/* The key file of one call, opened: lives in the memory context of the call */
typedef struct FileKey
{
	uint8		key[CMEK_KEY_LEN];
	char		fingerprint[CMEK_FINGERPRINT_LEN + 1];
} FileKey;

/* Which file or command a configuration means */
typedef struct FileSource
{
	const char *path;			/* NULL: a command */
	bool		service;		/* the service key */
} FileSource;

/* Memory for an opened key that is cleansed with the context of the call. */
static FileKey *
new_file_key(void)
{
	return cmek_secret_alloc_in(CurrentMemoryContext, sizeof(FileKey));
}

/* Find out where the key of a server comes from. */
static FileSource
source_of(const CmekKmsConfig *config)
{
	FileSource	source = {cmek_kms_config_get(config, "key_file"), false};

	if (source.path != NULL)
		return source;
	source.service = true;
	if (cmek_service_key_command[0] != '\0')
		source.path = NULL;
	else if (cmek_service_key_file[0] != '\0')
		source.path = cmek_service_key_file;
	else
		source.path = cmek_keyfile_default_path();
	return source;
}

/* Get the key from cmek.service_key_command. */
static CmekKeyFileResult
read_command(FileKey *file, CmekInstant deadline, CmekKmsAnswer *answer)
{
	char		line[128];
	CmekKeyFileResult result = CMEK_KEYFILE_FAILED;

	if (cmek_command_read_line(cmek_service_key_command, line, sizeof(line),
							   deadline, answer))
	{
		if (cmek_keyfile_parse(line, file->key))
			result = CMEK_KEYFILE_FOUND;
		else
			cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileFormat",
							"cmek.service_key_command did not print a key of 64 hexadecimal digits");
	}
	cmek_cleanse(line, sizeof(line));
	return result;
}

/* Answer for a file that is not there. */
static bool
answer_missing(const FileSource *source, const char *expected,
			   CmekKmsAnswer *answer)
{
	if (expected[0] != '\0')
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "KeyFileMissing",
						"key file \"%s\" is missing; it holds the key with fingerprint %s",
						source->path, expected);
	else
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileMissing",
						"key file \"%s\" does not exist", source->path);
	return false;
}

/* Answer for a key that is not the one that wrapped our keys. */
static bool
answer_differs(const FileSource *source, const FileKey *file,
			   const char *expected, CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_DENIED, CODE_DIFFERS,
					"%s%s%s holds the key with fingerprint %s, not %s",
					source->path ? "key file \"" : "cmek.service_key_command",
					source->path ? source->path : "",
					source->path ? "\"" : "",
					file->fingerprint, expected);
	return false;
}

/* Read the key, wherever it is, and take its fingerprint. */
static CmekKeyFileResult
read_source(const FileSource *source, FileKey *file, CmekInstant deadline,
			CmekKmsAnswer *answer)
{
	CmekKeyFileResult result = source->path == NULL ?
		read_command(file, deadline, answer) :
		cmek_keyfile_read(source->path, file->key, answer);

	if (result == CMEK_KEYFILE_FOUND)
		cmek_fingerprint_of(file->key, file->fingerprint);
	return result;
}

/*
 * Open the key of a request.  "for_wrapping": something new is to be wrapped,
 * so the service key may be made when no fingerprint of it is known.  False,
 * with the answer filled in, when the key cannot be had or is not the one
 * expected.
 */
static bool
open_key(const CmekKmsRequest *req, bool for_wrapping, FileKey *file,
		 CmekKmsAnswer *answer)
{
	FileSource	source = source_of(req->config);
	char		recorded[CMEK_FINGERPRINT_LEN + 1] = "";
	const char *expected = req->expected_version;
	CmekKeyFileResult result;

	if (source.service && !cmek_fingerprint_read(recorded, answer))
		return false;
	/* nothing new is wrapped by another key than the installation's */
	if (expected[0] == '\0' || (for_wrapping && recorded[0] != '\0'))
		expected = recorded;
	/* whatever comes next, no later call may take this for a new beginning */
	if (source.service && recorded[0] == '\0' && expected[0] != '\0' &&
		!cmek_fingerprint_write(expected, answer))
		return false;

	result = read_source(&source, file, req->deadline, answer);
	if (result == CMEK_KEYFILE_MISSING && expected[0] == '\0' &&
		source.service && for_wrapping)
	{
		if (!cmek_keyfile_create(source.path, answer))
			return false;
		result = read_source(&source, file, req->deadline, answer);
	}
	if (result == CMEK_KEYFILE_FAILED)
		return false;
	if (result == CMEK_KEYFILE_MISSING)
		return answer_missing(&source, expected, answer);
	if (expected[0] != '\0' && strcmp(file->fingerprint, expected) != 0)
		return answer_differs(&source, file, expected, answer);
	/* the fingerprint is durable before anything is wrapped */
	if (source.service && expected[0] == '\0' &&
		!cmek_fingerprint_write(file->fingerprint, answer))
		return false;
	return true;
}

/* See internal.h. */
bool
cmek_service_key_open(const char *expected, bool may_make,
					  CmekInstant deadline, uint8 *key, char *fingerprint,
					  CmekKmsAnswer *answer)
{
	CmekKmsConfig *service = palloc0(sizeof(CmekKmsConfig));
	FileKey    *file = new_file_key();
	CmekKmsRequest req = {0};

	/* no option: the service key */
	req.config = service;
	req.expected_version = expected;
	req.deadline = deadline;
	if (!open_key(&req, may_make, file, answer))
		return false;
	memcpy(key, file->key, CMEK_KEY_LEN);
	strlcpy(fingerprint, file->fingerprint, CMEK_FINGERPRINT_LEN + 1);
	return true;
}

/* Fill in what the catalog keeps about the KMS key. */
static void
describe_key(const CmekKmsRequest *req, const FileKey *file,
			 CmekKmsAnswer *answer)
{
	const char *path = cmek_kms_config_get(req->config, "key_file");

	strlcpy(answer->key_id, path ? path : "service key",
			sizeof(answer->key_id));
	strlcpy(answer->key_version, file->fingerprint,
			sizeof(answer->key_version));
	cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
}

/* The associated data of a blob. */
static CmekFileWrapAad
wrap_aad(const uint8 *uuid)
{
	CmekFileWrapAad aad = {{0}, {0}};

	strlcpy(aad.domain, CMEK_FILE_WRAP_DOMAIN, sizeof(aad.domain));
	memcpy(aad.uuid, uuid, CMEK_UUID_LEN);
	return aad;
}

/* Seal a table key under the file's key into the answer's blob. */
static void
seal_blob(const CmekKmsRequest *req, const FileKey *file, const uint8 *key,
		  CmekKmsAnswer *answer)
{
	CmekFileWrapAad aad = wrap_aad(req->uuid);
	CmekAead   *aead = cmek_aead_create(file->key);

	PG_TRY();
	{
		cmek_aead_seal(aead, answer->blob, key, CMEK_KEY_LEN,
					   &aad, sizeof(aad));
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
	answer->blob_len = CMEK_WRAPPED_DEK_LEN;
}

/* Wrap a table key; the service key itself is made here when it is the first. */
static void
file_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	FileKey    *file = new_file_key();

	if (!open_key(req, true, file, answer))
		return;
	seal_blob(req, file, req->key, answer);
	describe_key(req, file, answer);
}

/* See kms.h. */
bool
cmek_kms_is_derivation(const uint8 *blob, uint32 len)
{
	return len > strlen(CMEK_DERIVE_PREFIX) && len != CMEK_WRAPPED_DEK_LEN &&
		memcmp(blob, CMEK_DERIVE_PREFIX, strlen(CMEK_DERIVE_PREFIX)) == 0;
}

/* Derive it: the service key may be made for this, too. */
static void
file_derive(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	FileKey    *file = new_file_key();

	if (!open_key(req, true, file, answer))
		return;
	cmek_hmac_sha256(file->key, CMEK_KEY_LEN, req->blob, req->blob_len,
					 answer->key);
	describe_key(req, file, answer);
}

/* Open the blob of a request with the file's key. */
static bool
open_blob(const CmekKmsRequest *req, const FileKey *file, uint8 *key)
{
	CmekFileWrapAad aad = wrap_aad(req->uuid);
	CmekAead   *aead = cmek_aead_create(file->key);
	bool		ok = cmek_aead_open(aead, key, req->blob, CMEK_KEY_LEN,
									&aad, sizeof(aad));

	cmek_aead_free(aead);
	return ok;
}

/*
 * The fingerprint of the file's key is not the one in the catalog.  Is it the
 * catalog's that is wrong?  Then the key is not away: one damaged row must
 * never count against the key of others.
 */
static bool
expectation_is_wrong(const CmekKmsRequest *req, const FileKey *file,
					 uint8 *key)
{
	bool		opened = req->blob_len == CMEK_WRAPPED_DEK_LEN &&
		open_blob(req, file, key);

	cmek_cleanse(key, CMEK_KEY_LEN);
	return opened;
}

/* Answer for a table whose recorded key version is no fingerprint of ours. */
static void
answer_wrong_version(CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "KeyVersionDamaged",
					"the key version recorded for the table is not that of its key");
}

/* Unwrap a table key. */
static void
unwrap_blob(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	FileKey    *file = new_file_key();
	const char *expected = req->expected_version;
	bool		ok;

	if (expected[0] != '\0' &&
		(strlen(expected) != CMEK_FINGERPRINT_LEN ||
		 strspn(expected, "0123456789abcdef") != CMEK_FINGERPRINT_LEN))
	{
		answer_wrong_version(answer);
		return;
	}
	if (!open_key(req, false, file, answer))
	{
		if (strcmp(answer->code, CODE_DIFFERS) == 0 &&
			expectation_is_wrong(req, file, answer->key))
			answer_wrong_version(answer);
		return;
	}
	if (req->blob_len != CMEK_WRAPPED_DEK_LEN)
	{
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "BlobLength",
						"the wrapped table key has %u bytes instead of %u",
						req->blob_len, (unsigned) CMEK_WRAPPED_DEK_LEN);
		return;
	}
	ok = open_blob(req, file, answer->key);
	/* the fingerprint fitted, so it is the blob that does not */
	if (ok)
		describe_key(req, file, answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "BlobDamaged",
						"the wrapped table key does not authenticate");
}

/* Unwrap a table key, or make a derived key that is asked for like one. */
static void
file_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	if (cmek_kms_is_derivation(req->blob, req->blob_len) &&
		source_of(req->config).service)
		file_derive(req, answer);
	else
		unwrap_blob(req, answer);
}

/* Is the key there and the expected one?  Fills in its id and version too. */
static void
file_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	FileKey    *file = new_file_key();

	if (open_key(req, false, file, answer))
		describe_key(req, file, answer);
}

/* A key file is named by an absolute path. */
static void
file_validate(List *options, Oid catalog)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, "key_file") == 0 &&
			!is_absolute_path(defGetString(def)))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("option \"%s\" must be an absolute path",
							def->defname)));
	}
}

static const CmekKmsOption file_options[] = {
	{"key_file", CMEK_OPTION_SERVER | CMEK_OPTION_IDENTITY | CMEK_OPTION_SUPERUSER},
	{NULL, 0}
};

static const CmekKmsStep file_steps[] = {
	CMEK_STEP_KEY, CMEK_STEP_ENCRYPT, CMEK_STEP_DECRYPT, CMEK_STEP_CONTEXT,
	CMEK_STEP_END
};

const CmekKmsProvider cmek_file_provider = {
	.wrapper = "cmek_file",
	.options = file_options,
	.wrap = file_wrap,
	.unwrap = file_unwrap,
	.probe = file_describe,
	.describe = file_describe,
	.validate = file_validate,
	.steps = file_steps,
};
