/*-------------------------------------------------------------------------
 *
 * cmek_test_s3.c
 *	  The store of snapshots in S3, and its pure functions, as SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/kms.h"
#include "kms/s3wire.h"
#include "lifecycle/internal.h"
#include "lifecycle/store.h"

PG_MODULE_MAGIC;

/* utils/builtins.h has a json_object of its own, jansson.h another */
extern char *text_to_cstring(const text *t);
extern text *cstring_to_text(const char *s);

#define ARG_TEXT(n) text_to_cstring(PG_GETARG_TEXT_PP(n))
#define RETURN_TEXT(s) PG_RETURN_TEXT_P(cstring_to_text(s))
/* Written and read in pieces that fit nothing else */
#define PIECE 100003

PG_FUNCTION_INFO_V1(s3_write);
PG_FUNCTION_INFO_V1(s3_read);
PG_FUNCTION_INFO_V1(s3_remove);
PG_FUNCTION_INFO_V1(s3_peak);
PG_FUNCTION_INFO_V1(s3_location);
PG_FUNCTION_INFO_V1(s3_request);
PG_FUNCTION_INFO_V1(s3_complete);
PG_FUNCTION_INFO_V1(s3_part_size);
PG_FUNCTION_INFO_V1(s3_upload_id);
PG_FUNCTION_INFO_V1(s3_completed);
PG_FUNCTION_INFO_V1(s3_range);
PG_FUNCTION_INFO_V1(s3_error);

void		_PG_init(void);

void
_PG_init(void)
{
	cmek_crypto_init();
	cmek_kms_init();
	cmek_lifecycle_settings_init();
}

/* A digest of a stream; core's own reads words that are not aligned. */
static EVP_MD_CTX *
new_hash(void)
{
	EVP_MD_CTX *hash = EVP_MD_CTX_new();

	if (hash == NULL || !EVP_DigestInit_ex(hash, EVP_md5(), NULL))
		elog(ERROR, "no MD5");
	return hash;
}

/* Its end, in hex. */
static char *
end_hash(EVP_MD_CTX *hash)
{
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned	len;
	char	   *hex = palloc0(2 * sizeof(digest) + 1);

	if (!EVP_DigestFinal_ex(hash, digest, &len))
		elog(ERROR, "no MD5");
	EVP_MD_CTX_free(hash);
	for (unsigned i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", digest[i]);
	return hex;
}

/* Write a stream of bytes into a file. */
static char *
write_bytes(CmekStoreFile *file, int64 bytes, int seed)
{
	EVP_MD_CTX *hash = new_hash();
	pg_prng_state prng;
	uint64	   *piece = palloc(PIECE + sizeof(uint64));

	pg_prng_seed(&prng, seed);
	while (bytes > 0)
	{
		Size		len = Min(bytes, PIECE);

		for (Size i = 0; i * sizeof(uint64) < len; i++)
			piece[i] = pg_prng_uint64(&prng);
		if (!EVP_DigestUpdate(hash, piece, len))
			elog(ERROR, "no MD5");
		cmek_store_write(file, piece, len);
		bytes -= len;
		CHECK_FOR_INTERRUPTS();
	}
	return end_hash(hash);
}

/*
 * Write a file: its MD5.  It ends by "finish", "abandon", by an error that
 * nobody catches ("forget"), or by the end of the backend ("die").
 */
Datum
s3_write(PG_FUNCTION_ARGS)
{
	char	   *name = ARG_TEXT(0);
	char	   *ending = ARG_TEXT(3);
	CmekStore  *store = cmek_store_open();
	CmekStoreFile *file = cmek_store_create(store, name);
	char	   *md5 = NULL;

	if (strcmp(ending, "finish") != 0)
	{
		md5 = write_bytes(file, PG_GETARG_INT64(1), PG_GETARG_INT32(2));
		if (strcmp(ending, "forget") == 0)
			elog(ERROR, "nobody abandons it");
		if (strcmp(ending, "die") == 0)
			elog(FATAL, "nobody is there to abandon it");
		cmek_store_abandon(file);
		cmek_store_close(store);
		RETURN_TEXT(md5);
	}
	PG_TRY();
	{
		md5 = write_bytes(file, PG_GETARG_INT64(1), PG_GETARG_INT32(2));
		cmek_store_finish(file);
	}
	PG_CATCH();
	{
		cmek_store_abandon(file);
		PG_RE_THROW();
	}
	PG_END_TRY();
	cmek_store_close(store);
	RETURN_TEXT(md5);
}

/* Read a file: its length and MD5. */
Datum
s3_read(PG_FUNCTION_ARGS)
{
	CmekStore  *store = cmek_store_open();
	CmekStoreFile *file = cmek_store_read_begin(store, ARG_TEXT(0));
	EVP_MD_CTX *hash = new_hash();
	char	   *piece = palloc(PIECE);
	int64		bytes = 0;
	Size		len;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	do
	{
		len = cmek_store_read(file, piece, PIECE);
		if (!EVP_DigestUpdate(hash, piece, len))
			elog(ERROR, "no MD5");
		bytes += len;
	} while (len == PIECE);
	cmek_store_read_end(file);
	cmek_store_close(store);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "not a row");
	values[0] = Int64GetDatum(bytes);
	values[1] = PointerGetDatum(cstring_to_text(end_hash(hash)));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

/* Remove a file. */
Datum
s3_remove(PG_FUNCTION_ARGS)
{
	CmekStore  *store = cmek_store_open();
	bool		found = cmek_store_remove(store, ARG_TEXT(0));

	cmek_store_close(store);
	PG_RETURN_BOOL(found);
}

/* Peak memory of this backend. */
Datum
s3_peak(PG_FUNCTION_ARGS)
{
	FILE	   *status = fopen("/proc/self/status", "r");
	char		line[256];
	long long	kb = -1;

	while (status != NULL && fgets(line, sizeof(line), status) != NULL)
		(void) sscanf(line, "VmHWM: %lld", &kb);
	if (status != NULL)
		fclose(status);
	PG_RETURN_INT64(kb);
}

/* ----------
 * Pure functions
 * ----------
 */

Datum
s3_location(PG_FUNCTION_ARGS)
{
	CmekS3Location location;
	const char *problem;

	if (!cmek_s3_location(ARG_TEXT(0), &location, &problem))
		RETURN_TEXT(problem);
	RETURN_TEXT(psprintf("%s|%s", location.bucket, location.prefix));
}

/* AWS's own example keys and date. */
Datum
s3_request(PG_FUNCTION_ARGS)
{
	CmekAwsCredentials credentials = {
		"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		"", 0
	};
	CmekS3Params params = {.op = PG_GETARG_INT32(0)};
	CmekS3Request *request = palloc(sizeof(CmekS3Request));
	CmekS3Endpoint endpoint;
	char	   *url = ARG_TEXT(3);
	char	   *out;

	params.key = ARG_TEXT(2);
	params.upload_id = "id/+ =";
	params.part = 7;
	params.to = 9;
	params.encryption = ARG_TEXT(4);
	params.etag = "\"e\"";
	params.body = ARG_TEXT(6);
	params.body_len = strlen(params.body);
	cmek_sha256(params.body, params.body_len, params.hash);
	strlcpy(credentials.session_token, ARG_TEXT(5),
			sizeof(credentials.session_token));
	if (!cmek_s3_endpoint(*url != '\0' ? url : NULL, ARG_TEXT(1), "us-east-1",
						  &endpoint) ||
		!cmek_s3_sign(&endpoint, ARG_TEXT(1), &params, &credentials,
					  1369353600, request))
		RETURN_TEXT("refused");
	out = psprintf("%s %s\n", request->method, request->url);
	for (int i = 0; i < request->nheaders; i++)
		out = psprintf("%s%s\n", out, request->headers[i]);
	RETURN_TEXT(out);
}

Datum
s3_complete(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);
	CmekS3Part *parts = palloc0(n * sizeof(CmekS3Part));
	Size		size = (Size) n * CMEK_S3_PART_TEXT + 256;
	CmekText	body;

	for (int i = 0; i < n; i++)
		memset(parts[i].etag, 'e', sizeof(parts[i].etag) - 1);
	cmek_text_init(&body, palloc(size), size);
	cmek_s3_complete_body(parts, n, &body);
	RETURN_TEXT(body.overflow ? "too long" : body.data);
}

Datum
s3_part_size(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) cmek_s3_part_size(PG_GETARG_INT32(0)));
}

Datum
s3_upload_id(PG_FUNCTION_ARGS)
{
	char	   *body = ARG_TEXT(0);
	char		id[CMEK_S3_MAX_UPLOAD_ID];

	RETURN_TEXT(cmek_s3_read_upload_id(body, strlen(body), id, sizeof(id)) ?
				id : "none");
}

Datum
s3_completed(PG_FUNCTION_ARGS)
{
	char	   *body = ARG_TEXT(0);

	PG_RETURN_BOOL(cmek_s3_read_completed(body, strlen(body)));
}

Datum
s3_range(PG_FUNCTION_ARGS)
{
	int64		from,
				to,
				total;

	if (!cmek_s3_read_range(ARG_TEXT(0), &from, &to, &total))
		RETURN_TEXT("none");
	RETURN_TEXT(psprintf(INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT, from,
						 to, total));
}

Datum
s3_error(PG_FUNCTION_ARGS)
{
	char	   *body = ARG_TEXT(1);
	char		region[CMEK_AWS_MAX_REGION] = "";
	CmekAwsError error;
	CmekAwsRemedy remedy;
	CmekKmsClass klass;

	cmek_aws_read_error(NULL, body, strlen(body), &error);
	klass = cmek_s3_classify(PG_GETARG_INT32(0), &error, &remedy);
	if (!cmek_s3_read_region(body, strlen(body), region, sizeof(region)))
		region[0] = '\0';
	RETURN_TEXT(psprintf("%s|%s|%d|%s", cmek_kms_class_name(klass), error.code,
						 remedy, region));
}
