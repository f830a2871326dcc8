/*-------------------------------------------------------------------------
 *
 * cmek_test_hsm.c
 *	  The pure functions of cmek_kmip as SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#include "hsm_one.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(kmip_request);
PG_FUNCTION_INFO_V1(kmip_answer);
PG_FUNCTION_INFO_V1(kmip_hosts);
PG_FUNCTION_INFO_V1(kmip_mutate);

/* A configuration out of an array: name, value, name, value, ... */
static CmekKmsConfig *
config_of(ArrayType *array)
{
	CmekKmsConfig *config = palloc0(sizeof(CmekKmsConfig));
	Datum	   *elements;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	for (int i = 0; i + 1 < n; i += 2)
		if (!cmek_kms_config_add(config, TextDatumGetCString(elements[i]),
								 TextDatumGetCString(elements[i + 1])))
			elog(ERROR, "too many options");
	return config;
}

/* The call of this name */
static CmekKmipCall
call_of(text *what)
{
	CmekKmipCall call;

	if (!hsm_call(text_to_cstring(what), &call))
		elog(ERROR, "unknown call");
	return call;
}

/* Bytes as a bytea */
static Datum
bytes_datum(const void *bytes, Size len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

/* Value and blob are the same 60 bytes here. */
Datum
kmip_request(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(3);
	CmekHsmBlob blob;
	uint8	   *area = palloc(CMEK_KMIP_MAX_REQUEST);
	CmekTtlv	to;

	if (VARSIZE_ANY_EXHDR(bytes) != sizeof(blob))
		elog(ERROR, "give 60 bytes");
	memcpy(&blob, VARDATA_ANY(bytes), sizeof(blob));
	cmek_ttlv_init(&to, area, CMEK_KMIP_MAX_REQUEST);
	cmek_kmip_request(config_of(PG_GETARG_ARRAYTYPE_P(1)),
					  call_of(PG_GETARG_TEXT_PP(0)), PG_GETARG_UUID_P(2)->data,
					  blob.ciphertext, &blob, &to);
	if (to.overflow)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(bytes_datum(to.data, to.len));
}

Datum
kmip_answer(PG_FUNCTION_ARGS)
{
	bytea	   *body = PG_GETARG_BYTEA_PP(2);
	CmekKmsAnswer *answer = palloc0(sizeof(CmekKmsAnswer));
	CmekHsmBlob blob = {{0}, {0}, {0}};
	TupleDesc	desc;
	Datum		values[6];
	bool		nulls[6] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "not a row");
	answer->klass = CMEK_KMS_CORRUPT;
	cmek_kmip_read(config_of(PG_GETARG_ARRAYTYPE_P(1)),
				   call_of(PG_GETARG_TEXT_PP(0)), (uint8 *) VARDATA_ANY(body),
				   VARSIZE_ANY_EXHDR(body), &blob, answer);
	values[0] = CStringGetTextDatum(cmek_kms_class_name(answer->klass));
	values[1] = CStringGetTextDatum(answer->code);
	values[2] = CStringGetTextDatum(answer->message);
	values[3] = CStringGetTextDatum(answer->key_id);
	values[4] = bytes_datum(answer->blob, answer->blob_len);
	values[5] = bytes_datum(answer->key, CMEK_KEY_LEN);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

Datum
kmip_hosts(PG_FUNCTION_ARGS)
{
	char	   *hosts = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char		host[64];
	int			port;

	if (!cmek_kmip_host(hosts, PG_GETARG_INT32(1), host, sizeof(host), &port))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s %d", host, port)));
}

Datum
kmip_mutate(PG_FUNCTION_ARGS)
{
	pg_prng_state state;
	uint8		data[1024];

	pg_prng_seed(&state, PG_GETARG_INT64(0));
	for (int round = 0; round < PG_GETARG_INT32(1); round++)
	{
		Size		len = hsm_seed(pg_prng_uint64_range(&state, 0, HSM_SEEDS - 1),
								   data + 1, sizeof(data) - 1);
		int			changes = pg_prng_uint64_range(&state, 0, 4);
		uint8	   *copy;

		data[0] = pg_prng_uint32(&state);
		for (int i = 0; i < changes && len > 0; i++)
		{
			Size		at = pg_prng_uint64_range(&state, 0, len - 1);

			if (pg_prng_bool(&state))
				data[1 + at] = pg_prng_uint32(&state);
			else
				len = at;
		}
		/* at its very size, so that a sanitizer sees what is read beyond */
		copy = palloc(len + 1);
		memcpy(copy, data, len + 1);
		hsm_one(copy, len + 1);
		pfree(copy);
	}
	PG_RETURN_INT64(PG_GETARG_INT32(1));
}
