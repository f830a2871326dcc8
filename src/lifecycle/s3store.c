/*-------------------------------------------------------------------------
 *
 * s3store.c
 *	  Snapshots in a bucket of S3, or of what speaks its protocol.
 *
 *	 write:	 one buffer, the size of a part --> UploadPart ... Complete
 *			 what ends before the first part is full --> PutObject
 *	 read:	 ranges of 8 MiB, all of the object that the first was of
 *
 * An object has its name when Complete, or PutObject, has returned, and is
 * durable then.  An upload that is not completed is aborted: by "abandon", and
 * by the end of its memory context, so also when the backend is terminated.
 * What is left by a crash, or while S3 cannot be reached, is not visible in the
 * bucket, but paid for: docs/snapshots-s3.md has the rule that removes it.
 *
 * Runs in backends and in the visitor.  Memory is one buffer: 8 MiB until a
 * file has 5.5 GiB, and at most 1 GiB (s3wire.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "kms/s3.h"
#include "lifecycle/internal.h"
#include "lifecycle/store.h"

#define READ_SIZE (8 * 1024 * 1024)
#define ANSWER_SIZE (64 * 1024)
#define LIMIT_S 600				/* of one request with all its attempts */
#define ABORT_LIMIT_S 10

static char *s3_endpoint = NULL;
static char *s3_region = NULL;
static int	s3_encryption = 0;

static const struct config_enum_entry encryptions[] = {
	{"bucket", 0, false},
	{"AES256", 1, false},
	{"aws:kms", 2, false},
	{NULL, 0, false}
};

/* What a request for one of them says */
static const char *const encryption_headers[] = {"", "AES256", "aws:kms"};

typedef struct S3Store
{
	CmekStore	store;
	MemoryContext context;		/* of all of it */
	CmekS3Location location;
	CmekS3Client *client;
	char		answer[ANSWER_SIZE];	/* of whatever is not read */
} S3Store;

/*
 * What has to be taken back unless a file is finished: outlives every context
 * of the caller's.
 */
typedef struct Upload
{
	char		bucket[CMEK_S3_MAX_BUCKET];
	char		key[CMEK_S3_MAX_KEY];
	char		id[CMEK_S3_MAX_UPLOAD_ID];	/* "": not begun */
	bool		maybe_there;	/* the object may have its name */
} Upload;

typedef struct S3File
{
	CmekStoreFile file;
	MemoryContext context;
	char		key[CMEK_S3_MAX_KEY];
	char	   *buffer;			/* room for a NUL at its end */
	Size		size;
	Size		fill;
	/* while it is written */
	Upload	   *upload;			/* NULL: finished, or abandoned */
	MemoryContextCallback callback;
	CmekS3Part *parts;
	int			nparts;
	int			room;			/* for parts */
	int64		sent;			/* bytes in parts */
	/* while it is read */
	Size		at;				/* in the buffer */
	int64		next;			/* offset of what comes after the buffer */
	int64		total;			/* bytes of the object; -1: not known */
	char		etag[CMEK_S3_MAX_ETAG];
} S3File;

/* ----------
 * Settings
 * ----------
 */

/* An endpoint is AWS's, or https, or http to this machine (see http.c). */
static bool
check_endpoint(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' || strncmp(*newval, "https://", 8) == 0 ||
		strncmp(*newval, "http://127.", 11) == 0 ||
		strncmp(*newval, "http://localhost", 16) == 0 ||
		strncmp(*newval, "http://[::1]", 12) == 0)
		return true;
	GUC_check_errdetail("It must begin with \"https://\".");
	return false;
}

/* See store.h. */
void
cmek_s3_settings_init(void)
{
	DefineCustomStringVariable("cmek.s3_endpoint",
							   "Where S3 is, for snapshots in a bucket.",
							   "Empty: AWS's own address.",
							   &s3_endpoint,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_endpoint, NULL, NULL);
	DefineCustomStringVariable("cmek.s3_region",
							   "Region of the bucket of snapshots.",
							   "Empty: cmek.region, or the environment's AWS_REGION.",
							   &s3_region,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomEnumVariable("cmek.s3_encryption",
							 "How S3 encrypts snapshots, which are sealed anyway.",
							 "bucket: as the bucket's default says.",
							 &s3_encryption,
							 0,
							 encryptions,
							 PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							 NULL, NULL, NULL);
}

/* ----------
 * Errors
 * ----------
 */

/* The class of PostgreSQL's for a failure of S3's. */
static int
sqlstate_of(const CmekKmsAnswer *answer)
{
	if (strcmp(answer->code, "NoSuchBucket") == 0 ||
		strcmp(answer->code, "NoSuchKey") == 0)
		return ERRCODE_UNDEFINED_FILE;
	return answer->klass == CMEK_KMS_UNREACHABLE ? ERRCODE_IO_ERROR :
		ERRCODE_SYSTEM_ERROR;
}

/* What the administrator can do about a failure. */
static const char *
hint_for(const S3Store *store, const CmekS3Answer *s3,
		 const CmekKmsAnswer *answer)
{
	if (strcmp(answer->code, "NoSuchBucket") == 0)
		return "cmek.snapshot_directory names the bucket.";
	if (s3->region[0] != '\0' &&
		strcmp(s3->region, cmek_s3_region(store->client)) != 0)
		return psprintf("Bucket \"%s\" is in region \"%s\", but was asked for in \"%s\": set cmek.s3_region.",
						store->location.bucket, s3->region,
						cmek_s3_region(store->client));
	if (s3->status >= 300 && s3->status < 400)
		return "The bucket is in another region: set cmek.s3_region.";
	if (answer->klass == CMEK_KMS_DENIED)
		return psprintf("The server's identity needs s3:PutObject, s3:GetObject, s3:DeleteObject and s3:AbortMultipartUpload for \"arn:aws:s3:::%s/%s*\", and s3:ListBucket for the bucket.",
						store->location.bucket, store->location.prefix);
	if (strcmp(answer->code, "NoSuchKey") == 0)
		return "It was removed, or never finished.";
	if (answer->klass == CMEK_KMS_UNREACHABLE)
		return "It is worth trying again when S3 can be reached.";
	return "Check the server's credentials for AWS, cmek.s3_region and cmek.s3_endpoint.";
}

/* Report a failure with an object. */
static void
report(const S3Store *store, const char *what, const char *key,
	   const CmekS3Answer *s3, const CmekKmsAnswer *answer)
{
	ereport(ERROR,
			(errcode(sqlstate_of(answer)),
			 errmsg("could not %s \"s3://%s/%s\": %s", what,
					store->location.bucket, key, answer->code),
			 errdetail("%s%s.", s3->status != 0 ? "S3 answered: " : "",
					   answer->message),
			 errhint("%s", hint_for(store, s3, answer))));
}

/* Report an answer of S3's that is none. */
static void
report_format(const S3Store *store, const char *key, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("unexpected answer of S3 about \"s3://%s/%s\"",
					store->location.bucket, key),
			 errdetail("%s", problem)));
}

/* ----------
 * Files
 * ----------
 */

/* A file, with a buffer, in a context of its own. */
static S3File *
new_file(S3Store *store, const char *name, Size size)
{
	MemoryContext context;
	S3File	   *file;

	if (name[0] == '.' || name[0] == '\0' || strlen(name) > 200 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != strlen(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a snapshot: \"%s\"", name)));
	context = AllocSetContextCreate(store->context, "cmek S3 file",
									ALLOCSET_DEFAULT_SIZES);
	file = MemoryContextAllocZero(context, sizeof(S3File));
	file->file.store = &store->store;
	file->context = context;
	snprintf(file->key, sizeof(file->key), "%s%s", store->location.prefix,
			 name);
	file->size = size;
	file->total = -1;
	if (size > 0)
		file->buffer = MemoryContextAllocHuge(context, size + 1);
	return file;
}

/* Ask S3 for something that has a short answer, about a file. */
static void
ask(S3File *file, const char *what, CmekS3Params *params, CmekS3Answer *s3)
{
	S3Store    *store = (S3Store *) file->file.store;
	CmekKmsAnswer answer;

	params->key = file->key;
	if (!cmek_s3_run(store->client, params, store->answer, ANSWER_SIZE,
					 LIMIT_S, s3, &answer))
		report(store, what, file->key, s3, &answer);
}

/* ----------
 * Taking back
 * ----------
 */

/* Take back what there is of an upload; says nothing about its success. */
static void
take_back(const Upload *upload, char *area)
{
	CmekKmsAnswer answer;
	CmekS3Answer s3;
	CmekS3Params params = {.op = CMEK_S3_ABORT};
	CmekS3Client *client = cmek_s3_open(upload->bucket, s3_endpoint, s3_region,
										&answer);

	if (client == NULL)
		return;
	params.key = upload->key;
	params.upload_id = upload->id;
	if (upload->id[0] != '\0')
		(void) cmek_s3_run(client, &params, area, ANSWER_SIZE, ABORT_LIMIT_S,
						   &s3, &answer);
	params.op = CMEK_S3_DELETE;
	if (upload->maybe_there)
		(void) cmek_s3_run(client, &params, area, ANSWER_SIZE, ABORT_LIMIT_S,
						   &s3, &answer);
}

/*
 * End an upload, whether it is finished or taken back.  May be called at the
 * end of a transaction, and must not be interrupted.  By a client of its own,
 * because that of the store may be gone.
 */
static void
end_upload(S3File *file, bool finished)
{
	Upload	   *upload = file->upload;
	MemoryContext context;
	MemoryContext old;

	file->upload = NULL;
	if (upload == NULL)
		return;
	if (!finished && (upload->id[0] != '\0' || upload->maybe_there))
	{
		context = AllocSetContextCreate(TopMemoryContext, "cmek S3 abort",
										ALLOCSET_DEFAULT_SIZES);
		old = MemoryContextSwitchTo(context);
		HOLD_INTERRUPTS();
		take_back(upload, palloc(ANSWER_SIZE));
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	pfree(upload);
}

/* The file's memory goes away. */
static void
on_reset(void *arg)
{
	end_upload(arg, false);
}

/* ----------
 * Writing
 * ----------
 */

/* Begin to write a file: nothing is sent yet. */
static CmekStoreFile *
s3_create(CmekStore *base, const char *name)
{
	S3Store    *store = (S3Store *) base;
	S3File	   *file = new_file(store, name, cmek_s3_part_size(1));

	file->upload = MemoryContextAllocZero(TopMemoryContext, sizeof(Upload));
	strlcpy(file->upload->bucket, store->location.bucket,
			sizeof(file->upload->bucket));
	strlcpy(file->upload->key, file->key, sizeof(file->upload->key));
	file->callback.func = on_reset;
	file->callback.arg = file;
	MemoryContextRegisterResetCallback(file->context, &file->callback);
	return &file->file;
}

/* Begin the upload of its parts. */
static void
begin_upload(S3File *file)
{
	S3Store    *store = (S3Store *) file->file.store;
	CmekS3Params params = {.op = CMEK_S3_CREATE, .body = ""};
	CmekS3Answer s3;
	char		id[CMEK_S3_MAX_UPLOAD_ID];

	params.encryption = encryption_headers[s3_encryption];
	ask(file, "begin to upload", &params, &s3);
	if (!cmek_s3_read_upload_id(store->answer, s3.len, id, sizeof(id)))
		report_format(store, file->key, "It has no id of an upload.");
	strlcpy(file->upload->id, id, sizeof(file->upload->id));
}

/* Have room for one more part, in the list and in the buffer. */
static void
next_part(S3File *file)
{
	Size		size = cmek_s3_part_size(file->nparts + 1);

	if (file->nparts == file->room)
	{
		file->room = Max(16, 2 * file->room);
		file->parts = file->parts == NULL ?
			MemoryContextAlloc(file->context, file->room * sizeof(CmekS3Part)) :
			repalloc(file->parts, file->room * sizeof(CmekS3Part));
	}
	if (size == file->size)
		return;
	pfree(file->buffer);
	file->buffer = NULL;
	file->buffer = MemoryContextAllocHuge(file->context, size + 1);
	file->size = size;
}

/* Send what the buffer has as a part. */
static void
send_part(S3File *file)
{
	S3Store    *store = (S3Store *) file->file.store;
	CmekS3Params params = {.op = CMEK_S3_PART};
	CmekS3Answer s3;
	CmekS3Part *part;

	if (file->nparts == CMEK_S3_MAX_PARTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("snapshot \"s3://%s/%s\" is too large for S3",
						store->location.bucket, file->key)));
	if (file->upload->id[0] == '\0')
		begin_upload(file);
	params.upload_id = file->upload->id;
	params.part = file->nparts + 1;
	params.body = file->buffer;
	params.body_len = file->fill;
	ask(file, "upload a part of", &params, &s3);
	if (!cmek_s3_good_etag(s3.etag))
		report_format(store, file->key, "A part has no ETag.");
	next_part(file);
	part = &file->parts[file->nparts++];
	strlcpy(part->etag, s3.etag, sizeof(part->etag));
	memcpy(part->hash, params.hash, sizeof(part->hash));
	file->sent += file->fill;
	file->fill = 0;
}

/* Append to it; a full buffer is sent when there is more. */
static void
s3_write(CmekStoreFile *base, const void *data, Size len)
{
	S3File	   *file = (S3File *) base;

	while (len > 0)
	{
		Size		n;

		if (file->fill == file->size)
		{
			send_part(file);
			next_part(file);
		}
		n = Min(len, file->size - file->fill);
		memcpy(file->buffer + file->fill, data, n);
		file->fill += n;
		data = (const char *) data + n;
		len -= n;
	}
}

/* Is the object there, as long as what was sent? */
static bool
is_there(S3File *file)
{
	S3Store    *store = (S3Store *) file->file.store;
	CmekS3Params params = {.op = CMEK_S3_GET};
	CmekS3Answer s3;
	CmekKmsAnswer answer;
	int64		from;
	int64		to;
	int64		total;

	params.key = file->key;
	return cmek_s3_run(store->client, &params, store->answer, ANSWER_SIZE,
					   LIMIT_S, &s3, &answer) &&
		cmek_s3_read_range(s3.range, &from, &to, &total) &&
		total == file->sent;
}

/*
 * Complete the upload.  When the answer to a first attempt was lost, a second
 * one finds no upload: then the object tells.
 */
static void
complete_upload(S3File *file)
{
	S3Store    *store = (S3Store *) file->file.store;
	CmekS3Params params = {.op = CMEK_S3_COMPLETE};
	CmekS3Answer s3;
	CmekKmsAnswer answer;
	CmekText	body;
	Size		size = (Size) file->nparts * CMEK_S3_PART_TEXT + 256;

	cmek_text_init(&body, MemoryContextAlloc(file->context, size), size);
	cmek_s3_complete_body(file->parts, file->nparts, &body);
	Assert(!body.overflow);
	params.key = file->key;
	params.upload_id = file->upload->id;
	params.body = body.data;
	params.body_len = body.len;
	file->upload->maybe_there = true;
	if (!cmek_s3_run(store->client, &params, store->answer, ANSWER_SIZE,
					 LIMIT_S, &s3, &answer) &&
		(strcmp(answer.code, "NoSuchUpload") != 0 || !is_there(file)))
		report(store, "complete the upload of", file->key, &s3, &answer);
}

/* Send a file that is no longer than a part. */
static void
put_object(S3File *file)
{
	CmekS3Params params = {.op = CMEK_S3_PUT};
	CmekS3Answer s3;

	params.encryption = encryption_headers[s3_encryption];
	params.body = file->buffer;
	params.body_len = file->fill;
	file->upload->maybe_there = true;
	ask(file, "write", &params, &s3);
}

/* Give the object its name: see store.h. */
static void
s3_finish(CmekStoreFile *base)
{
	S3File	   *file = (S3File *) base;

	if (file->upload->id[0] == '\0')
		put_object(file);
	else
	{
		send_part(file);
		complete_upload(file);
	}
	end_upload(file, true);
	MemoryContextDelete(file->context);
}

/* Take back what was written of it: see store.h. */
static void
s3_abandon(CmekStoreFile *base)
{
	S3File	   *file = (S3File *) base;

	end_upload(file, false);
	MemoryContextDelete(file->context);
}

/* ----------
 * Reading
 * ----------
 */

/* Does an answer bring the bytes that were asked for, of the same object? */
static bool
is_range(S3File *file, const CmekS3Params *params, const CmekS3Answer *s3)
{
	int64		from;
	int64		to;
	int64		total;

	if (s3->status != 206 ||
		!cmek_s3_read_range(s3->range, &from, &to, &total) ||
		from != params->from || to != Min(params->to, total - 1) ||
		(int64) s3->len != to - from + 1 ||
		(file->total >= 0 && total != file->total) ||
		!cmek_s3_good_etag(s3->etag))
		return false;
	if (file->total < 0)
		strlcpy(file->etag, s3->etag, sizeof(file->etag));
	file->total = total;
	return strcmp(file->etag, s3->etag) == 0;
}

/* Get the next range into the buffer. */
static void
fetch(S3File *file)
{
	S3Store    *store = (S3Store *) file->file.store;
	CmekS3Params params = {.op = CMEK_S3_GET};
	CmekS3Answer s3;
	CmekKmsAnswer answer;

	params.key = file->key;
	params.from = file->next;
	params.to = file->next + file->size - 1;
	params.etag = file->total >= 0 ? file->etag : NULL;
	file->at = file->fill = 0;
	if (cmek_s3_run(store->client, &params, file->buffer, file->size + 1,
					LIMIT_S, &s3, &answer))
	{
		if (!is_range(file, &params, &s3))
			report_format(store, file->key,
						  "It is not the range of bytes that was asked for.");
		file->fill = s3.len;
		file->next += s3.len;
	}
	else if (file->total < 0 && strcmp(answer.code, "InvalidRange") == 0)
		file->total = 0;		/* an empty object has no first byte */
	else
		report(store, "read", file->key, &s3, &answer);
}

/* Begin to read a file. */
static CmekStoreFile *
s3_read_begin(CmekStore *base, const char *name)
{
	S3File	   *file = new_file((S3Store *) base, name, READ_SIZE);

	fetch(file);
	return &file->file;
}

/* Read on. */
static Size
s3_read(CmekStoreFile *base, void *data, Size len)
{
	S3File	   *file = (S3File *) base;
	Size		total = 0;

	while (total < len)
	{
		Size		n;

		if (file->at == file->fill && file->next < file->total)
			fetch(file);
		n = Min(len - total, file->fill - file->at);
		if (n == 0)
			break;
		memcpy((char *) data + total, file->buffer + file->at, n);
		file->at += n;
		total += n;
	}
	return total;
}

/* End reading. */
static void
s3_read_end(CmekStoreFile *base)
{
	MemoryContextDelete(((S3File *) base)->context);
}

/* ----------
 * The store
 * ----------
 */

/* Remove an object; S3 itself does not say whether it was there. */
static bool
s3_remove(CmekStore *base, const char *name)
{
	S3Store    *store = (S3Store *) base;
	S3File	   *file = new_file(store, name, 0);
	CmekS3Params params = {.op = CMEK_S3_GET};
	CmekS3Answer s3;
	CmekKmsAnswer answer;
	bool		found;

	params.key = file->key;
	found = cmek_s3_run(store->client, &params, store->answer, ANSWER_SIZE,
						LIMIT_S, &s3, &answer) ||
		strcmp(answer.code, "InvalidRange") == 0;
	if (!found && strcmp(answer.code, "NoSuchKey") != 0)
		report(store, "remove", file->key, &s3, &answer);
	params.op = CMEK_S3_DELETE;
	if (found)
		ask(file, "remove", &params, &s3);
	MemoryContextDelete(file->context);
	return found;
}

/* Close the store. */
static void
s3_close(CmekStore *base)
{
	MemoryContextDelete(((S3Store *) base)->context);
}

static const CmekStoreOps s3_ops = {
	.create = s3_create,
	.write = s3_write,
	.finish = s3_finish,
	.abandon = s3_abandon,
	.read_begin = s3_read_begin,
	.read = s3_read,
	.read_end = s3_read_end,
	.remove = s3_remove,
	.close = s3_close,
};

/* See store.h. */
bool
cmek_s3_check_url(const char *url, const char **problem)
{
	CmekS3Location location;

	return cmek_s3_location(url, &location, problem);
}

/* See store.h. */
CmekStore *
cmek_s3_store_open(const char *url)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek S3 store",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	S3Store    *store = palloc0(sizeof(S3Store));
	CmekKmsAnswer answer;
	const char *problem;

	store->store.ops = &s3_ops;
	store->context = context;
	if (!cmek_s3_location(url, &store->location, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"%s\": \"%s\"",
						"cmek.snapshot_directory", url),
				 errdetail("%s", problem)));
	store->client = cmek_s3_open(store->location.bucket, s3_endpoint,
								 s3_region, &answer);
	if (store->client == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not use bucket \"%s\": %s",
						store->location.bucket, answer.code),
				 errdetail("The reason is that %s.", answer.message),
				 errhint("Set cmek.s3_region, cmek.s3_endpoint.")));
	MemoryContextSwitchTo(old);
	return &store->store;
}
