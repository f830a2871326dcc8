/*-------------------------------------------------------------------------
 *
 * cmek_test_wire.c
 *	  The pure functions of cmek_gcp, cmek_vault and cmek_azure as SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/uuid.h"

#include "kms/azurewire.h"
#include "kms/gcpwire.h"
#include "kms/vaultwire.h"
#include "wire_one.h"

PG_MODULE_MAGIC;

/* utils/builtins.h has a json_object of its own, jansson.h another */
extern char *text_to_cstring(const text *t);
extern text *cstring_to_text(const char *s);
#define CStringGetTextDatum(s) PointerGetDatum(cstring_to_text(s))
#define TextDatumGetCString(d) text_to_cstring((text *) DatumGetPointer(d))

PG_FUNCTION_INFO_V1(wire_request);
PG_FUNCTION_INFO_V1(wire_answer);
PG_FUNCTION_INFO_V1(wire_crc32c);
PG_FUNCTION_INFO_V1(wire_mutate);

/* A configuration out of an array of names and values */
static CmekKmsConfig *
config_of(ArrayType *array)
{
	CmekKmsConfig *config = palloc0(sizeof(CmekKmsConfig));
	Datum	   *values;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	for (int i = 0; i + 1 < n; i += 2)
		cmek_kms_config_add(config, TextDatumGetCString(values[i]),
							TextDatumGetCString(values[i + 1]));
	return config;
}

/* Build a request to Azure; false when there is no such. */
static bool
build_azure(const char *what, const CmekKmsConfig *config, const uint8 *uuid,
			const uint8 *bytes, Size len, CmekText *text)
{
	CmekAzureVersion version = {"v1", CMEK_AZURE_RSA_OAEP_256};
	CmekAzureBlobHeader header;
	CmekAzureWrapAad aad;
	char	   *chars = pnstrdup((const char *) bytes, len);
	uint8		sha[32] = {0};

	if (strcmp(what, "azure key") == 0)
		cmek_azure_url(config, CMEK_AZURE_GET, &version, text);
	else if (strcmp(what, "azure wrap") == 0 || strcmp(what, "azure unwrap") == 0)
	{
		if (what[6] == 'u')
			version.algorithm = CMEK_AZURE_A256KW;
		cmek_azure_url(config, what[6] == 'w' ? CMEK_AZURE_WRAP : CMEK_AZURE_UNWRAP,
					   &version, text);
		cmek_text_add(text, "\n");
		cmek_azure_body(version.algorithm, bytes, len, text);
	}
	else if (strcmp(what, "azure token") == 0 || strcmp(what, "azure assertion") == 0)
	{
		cmek_azure_token_url(config, "t/x", text);
		cmek_text_add(text, "\n");
		cmek_azure_token_body(config, "c&d", what[6] == 't' ? chars : NULL,
							  what[6] == 'a' ? chars : NULL, text);
	}
	else if (strcmp(what, "azure jwt") == 0)
		cmek_azure_jwt("https://a/t", chars, sha, sha, uuid, 1700000000, text);
	else if (strcmp(what, "azure machine") == 0)
		cmek_azure_identity_url(config, "http://169.254.169.254/", false,
								len > 0 ? chars : NULL, text);
	else if (strcmp(what, "azure app service") == 0)
		cmek_azure_identity_url(config, "http://127.0.0.1:41/msi/token", true,
								len > 0 ? chars : NULL, text);
	else if (strcmp(what, "azure aad") == 0)
	{
		cmek_azure_blob_header(&version, 256, &header);
		cmek_azure_blob_aad(&header, uuid, &aad);
		cmek_text_add_hex(text, (uint8 *) &aad, sizeof(aad));
	}
	else
		return false;
	return true;
}

/* Build a request. */
static void
build(const char *what, const CmekKmsConfig *config, const uint8 *uuid,
	  const uint8 *bytes, Size len, CmekText *text)
{
	char	   *chars = pnstrdup((const char *) bytes, len);

	if (strcmp(what, "vault encrypt") == 0)
	{
		cmek_vault_url(config, CMEK_VAULT_ENCRYPT, text);
		cmek_text_add(text, "\n");
		cmek_vault_encrypt_body(uuid, bytes, text);
	}
	else if (strcmp(what, "vault decrypt") == 0)
	{
		cmek_vault_url(config, CMEK_VAULT_DECRYPT, text);
		cmek_text_add(text, "\n");
		if (!cmek_vault_decrypt_body(uuid, bytes, len, text))
			cmek_text_add(text, "none");
	}
	else if (strcmp(what, "vault key") == 0)
		cmek_vault_url(config, CMEK_VAULT_KEY, text);
	else if (strcmp(what, "vault login") == 0)
	{
		cmek_vault_url(config, CMEK_VAULT_LOGIN, text);
		cmek_text_add(text, "\n");
		cmek_vault_approle_body(chars, chars, text);
	}
	else if (strcmp(what, "gcp encrypt") == 0)
	{
		cmek_gcp_key_url(config, CMEK_GCP_ENCRYPT, text);
		cmek_text_add(text, "\n");
		cmek_gcp_encrypt_body(uuid, bytes, text);
	}
	else if (strcmp(what, "gcp decrypt") == 0)
	{
		cmek_gcp_key_url(config, CMEK_GCP_DECRYPT, text);
		cmek_text_add(text, "\n");
		cmek_gcp_decrypt_body(uuid, bytes, len, text);
	}
	else if (strcmp(what, "gcp impersonate") == 0)
	{
		cmek_gcp_impersonate_url(config, chars, text);
		cmek_text_add(text, "\n");
		cmek_gcp_impersonate_body(cmek_kms_config_get(config, "delegates"), text);
	}
	else if (strcmp(what, "gcp jwt") == 0)
	{
		CmekGcpAccount *account = palloc0(sizeof(CmekGcpAccount));

		strlcpy(account->email, chars, sizeof(account->email));
		strlcpy(account->key_id, "kid", sizeof(account->key_id));
		strlcpy(account->token_url, CMEK_GCP_TOKEN_URL, sizeof(account->token_url));
		cmek_gcp_jwt(account, CMEK_GCP_SCOPE_KMS, 1700000000, text);
	}
	else if (!build_azure(what, config, uuid, bytes, len, text))
		elog(ERROR, "unknown request \"%s\"", what);
}

Datum
wire_request(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(3);
	char	   *area = palloc(65536);
	CmekText	out;

	cmek_text_init(&out, area, 65536);
	build(text_to_cstring(PG_GETARG_TEXT_PP(0)),
		  config_of(PG_GETARG_ARRAYTYPE_P(1)), PG_GETARG_UUID_P(2)->data,
		  (uint8 *) VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), &out);
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

/* Bytes as a bytea */
static Datum
bytes_datum(const uint8 *bytes, Size len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

Datum
wire_answer(PG_FUNCTION_ARGS)
{
	bytea	   *body = PG_GETARG_BYTEA_PP(3);
	CmekKmsAnswer *answer = palloc0(sizeof(CmekKmsAnswer));
	TupleDesc	desc;
	Datum		values[7];
	bool		nulls[7] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "not a row");
	answer->klass = CMEK_KMS_UNREACHABLE;
	if (!wire_read(text_to_cstring(PG_GETARG_TEXT_PP(0)),
				   config_of(PG_GETARG_ARRAYTYPE_P(1)), PG_GETARG_INT32(2),
				   VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body), answer))
		elog(ERROR, "unknown answer");
	values[0] = CStringGetTextDatum(cmek_kms_class_name(answer->klass));
	values[1] = CStringGetTextDatum(answer->code);
	values[2] = CStringGetTextDatum(answer->message);
	values[3] = CStringGetTextDatum(answer->key_id);
	values[4] = CStringGetTextDatum(answer->key_version);
	values[5] = bytes_datum(answer->blob, answer->blob_len);
	values[6] = bytes_datum(answer->key, CMEK_KEY_LEN);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

Datum
wire_crc32c(PG_FUNCTION_ARGS)
{
	bytea	   *data = PG_GETARG_BYTEA_PP(0);

	PG_RETURN_INT64(cmek_gcp_crc32c(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)));
}

Datum
wire_mutate(PG_FUNCTION_ARGS)
{
	const char *const *seeds;
	int			n = wire_seeds(&seeds);
	pg_prng_state state;
	uint8		data[1024];

	pg_prng_seed(&state, PG_GETARG_INT64(0));
	for (int round = 0; round < PG_GETARG_INT32(1); round++)
	{
		const char *seed = seeds[pg_prng_uint64_range(&state, 0, n - 1)];
		Size		len = strlen(seed);
		int			changes = pg_prng_uint64_range(&state, 0, 4);

		data[0] = pg_prng_uint32(&state);
		data[1] = pg_prng_bool(&state) ? 0 : pg_prng_uint32(&state);
		memcpy(data + 2, seed, len);
		for (int i = 0; i < changes && len > 0; i++)
		{
			Size		at = pg_prng_uint64_range(&state, 0, len - 1);

			switch (pg_prng_uint64_range(&state, 0, 2))
			{
				case 0:
					data[2 + at] = pg_prng_uint32(&state);
					break;
				case 1:
					len = at;
					break;
				case 2:
					memmove(data + 2 + at, data + 3 + at, len - at - 1);
					len--;
					break;
			}
		}
		wire_one(data, len + 2);
	}
	PG_RETURN_INT64(PG_GETARG_INT32(1));
}
