/*-------------------------------------------------------------------------
 *
 * chainjson.c
 *	  An exported chain of table keys out of its JSON form.
 *
 * What comes in here was in somebody's hands: everything is checked for form
 * and length, and anything odd is one error, data_corrupted.  What it says is
 * judged by chain.c.  The other direction is plain SQL (cmek.export_keys).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/base64.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/fmgrprotos.h"

#include "compat.h"
#include "keys/internal.h"

/* Far more than anybody ever switched */
#define CHAIN_MAX_KEYS 100000

/* Fail because the document is not an export. */
static void
report_malformed(const char *field)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("exported keys are malformed"),
			 errdetail("Field \"%s\" is missing or cannot be read.", field)));
}

/* A field of an object; NULL when it is absent or null. */
static JsonbValue *
get_field(JsonbContainer *object, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name,
													 strlen(name), NULL);

	return value == NULL || value->type == jbvNull ? NULL : value;
}

/* A string field as it is, at most max - 1 bytes. */
static void
get_text(JsonbContainer *object, const char *name, char *out, Size max)
{
	JsonbValue *value = get_field(object, name);

	if (value == NULL || value->type != jbvString ||
		(Size) value->val.string.len >= max)
		report_malformed(name);
	memcpy(out, value->val.string.val, value->val.string.len);
	out[value->val.string.len] = '\0';
}

/* A whole number from 1 to max. */
static uint32
get_number(JsonbContainer *object, const char *name, int64 max)
{
	JsonbValue *value = get_field(object, name);
	char	   *text;
	char	   *end;
	int64		number;

	if (value == NULL || value->type != jbvNumeric)
		report_malformed(name);
	text = DatumGetCString(DirectFunctionCall1(numeric_out,
											   NumericGetDatum(value->val.numeric)));
	errno = 0;
	number = strtoll(text, &end, 10);
	if (errno != 0 || *end != '\0' || number < 1 || number > max)
		report_malformed(name);
	return (uint32) number;
}

/* The value of a hexadecimal digit; -1 when it is none. */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* A uuid in the form that PostgreSQL writes. */
static void
get_uuid(JsonbContainer *object, const char *name, uint8 *uuid)
{
	char		text[37];
	const char *p = text;

	get_text(object, name, text, sizeof(text));
	for (int i = 0; i < CMEK_UUID_LEN; i++)
	{
		if ((i == 4 || i == 6 || i == 8 || i == 10) && *p++ != '-')
			report_malformed(name);
		if (hex_value(p[0]) < 0 || hex_value(p[1]) < 0)
			report_malformed(name);
		uuid[i] = hex_value(p[0]) << 4 | hex_value(p[1]);
		p += 2;
	}
	if (*p != '\0')
		report_malformed(name);
}

/* A base64 field of at most max bytes; returns its length. */
static uint32
get_bytes(JsonbContainer *object, const char *name, uint8 *out, int max)
{
	JsonbValue *value = get_field(object, name);
	int			len;

	if (value == NULL || value->type != jbvString)
		report_malformed(name);
	len = cmek_b64_decode(value->val.string.val, value->val.string.len,
						  out, max);
	if (len <= 0)
		report_malformed(name);
	return len;
}

/* One table key of a chain. */
static void
parse_key(JsonbContainer *object, Oid relid, CmekTableKeyRow *row)
{
	memset(row, 0, sizeof(CmekTableKeyRow));
	row->relid = relid;
	get_uuid(object, "id", row->id);
	row->version = get_number(object, "version", PG_INT32_MAX);
	get_text(object, "server", row->server, sizeof(row->server));
	get_text(object, "key_id", row->key_id, sizeof(row->key_id));
	get_text(object, "key_version", row->key_version, sizeof(row->key_version));
	row->blob_len = get_bytes(object, "blob", row->blob, sizeof(row->blob));
	row->is_sealed = get_field(object, "sealed") != NULL;
	if (!row->is_sealed)
		return;
	get_uuid(object, "sealed_by", row->sealed_by);
	if (get_bytes(object, "sealed", row->sealed, sizeof(row->sealed)) !=
		sizeof(row->sealed))
		report_malformed("sealed");
}

/* The object at a place of an array. */
static JsonbContainer *
get_object(JsonbContainer *array, uint32 i, const char *name)
{
	JsonbValue *value = getIthJsonbValueFromContainer(array, i);

	if (value == NULL || value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		report_malformed(name);
	return value->val.binary.data;
}

/* An array of an object. */
static JsonbContainer *
get_array(JsonbContainer *object, const char *name)
{
	JsonbValue *value = get_field(object, name);

	if (value == NULL || value->type != jbvBinary ||
		!JsonContainerIsArray(value->val.binary.data))
		report_malformed(name);
	return value->val.binary.data;
}

/* The chain of one table, which must be in order and without gaps. */
static CmekChain *
parse_chain(JsonbContainer *object)
{
	CmekChain  *chain = palloc0(sizeof(CmekChain));
	JsonbContainer *keys = get_array(object, "keys");
	uint32		n = JsonContainerSize(keys);

	if (n == 0 || n > CHAIN_MAX_KEYS)
		report_malformed("keys");
	chain->relid = get_number(object, "relid", OID_MAX);
	chain->keys = MemoryContextAllocHuge(CurrentMemoryContext,
										 n * sizeof(CmekTableKeyRow));
	for (uint32 i = 0; i < n; i++)
	{
		parse_key(get_object(keys, i, "keys"), chain->relid, &chain->keys[i]);
		if (i > 0 && chain->keys[i].version != chain->keys[i - 1].version + 1)
			report_malformed("version");
		chain->nkeys++;
	}
	/* there is nothing yet that the newest could be sealed under */
	if (chain->keys[n - 1].is_sealed)
		report_malformed("sealed");
	return chain;
}

/* See keys.h. */
List *
cmek_chains_parse(Jsonb *document)
{
	JsonbContainer *root = &document->root;
	JsonbContainer *tables;
	List	   *chains = NIL;

	if (!JsonContainerIsObject(root))
		report_malformed("cmek_keys");
	if (get_number(root, "cmek_keys", PG_INT32_MAX) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("exported keys have a format that this version of cmek cannot read")));
	tables = get_array(root, "tables");
	for (uint32 i = 0; i < JsonContainerSize(tables); i++)
		chains = lappend(chains,
						 parse_chain(get_object(tables, i, "tables")));
	return chains;
}
