/*-------------------------------------------------------------------------
 *
 * portable.c
 *	  Wrapped keys in a snapshot: written as JSON, and opened again, in this
 *	  database or in another.
 *
 * What comes back has been in somebody's hands.  Its form is checked here; its
 * content proves itself, because a data key opens under its table key only,
 * and that under the next, or at its KMS.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/internal.h"
#include "keys/portable.h"

#define MAC_LABEL "cmek snapshot of a table 1"
#define MAX_ROWS 100000

/* ----------
 * JSON out
 * ----------
 */

/* A member; JSON runs out of memory only. */
static void
put(json_t *object, const char *name, json_t *value)
{
	if (value == NULL || json_object_set_new(object, name, value) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not write wrapped keys as JSON")));
}

/* A text, which is in the server's encoding. */
static void
put_text(json_t *object, const char *name, const char *text)
{
	put(object, name, json_string(pg_server_to_any(text, strlen(text), PG_UTF8)));
}

/* Bytes, as hexadecimal. */
static void
put_bytes(json_t *object, const char *name, const uint8 *bytes, Size len)
{
	char	   *hex = palloc(2 * len + 1);

	for (Size i = 0; i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
	put(object, name, json_stringn(hex, 2 * len));
	pfree(hex);
}

/* A table key. */
static json_t *
table_key_json(const CmekTableKeyRow *row)
{
	json_t	   *object = cmek_json_new();

	put_bytes(object, "id", row->id, CMEK_UUID_LEN);
	put(object, "version", json_integer(row->version));
	put_text(object, "server", row->server);
	put_text(object, "key_id", row->key_id);
	put_text(object, "key_version", row->key_version);
	put_bytes(object, "blob", row->blob, row->blob_len);
	if (row->is_sealed)
	{
		put_bytes(object, "sealed_by", row->sealed_by, CMEK_UUID_LEN);
		put_bytes(object, "sealed", row->sealed, sizeof(row->sealed));
	}
	return object;
}

/* A data key. */
static json_t *
data_key_json(const CmekDataKeyRow *row)
{
	json_t	   *object = cmek_json_new();
	char		kind[2] = {(char) row->kind, '\0'};

	put(object, "id", json_integer(row->id));
	put(object, "kind", json_string(kind));
	put_bytes(object, "structure", row->structure, CMEK_UUID_LEN);
	put(object, "generation", json_integer(row->generation));
	put_bytes(object, "table_key", row->table_key, CMEK_UUID_LEN);
	put_bytes(object, "wrapped", row->wrapped, sizeof(row->wrapped));
	return object;
}

/* Is a data key one that rows or chunks are sealed with? */
static bool
seals_rows(const CmekDataKeyRow *row)
{
	return row->kind == CMEK_STRUCTURE_HEAP ||
		row->kind == CMEK_STRUCTURE_TOAST;
}

/* See portable.h. */
json_t *
cmek_portable_keys(Oid relid)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	json_t	   *keys;
	json_t	   *list;
	ListCell   *lc;

	if (binding == NULL)
		return NULL;
	keys = cmek_json_new();
	put(keys, "table_keys", list = json_array());
	foreach(lc, cmek_catalog_read_table_keys(relid))
		(void) json_array_append_new(list, table_key_json(lfirst(lc)));
	put(keys, "data_keys", list = json_array());
	for (int i = 0; i < binding->ndeks; i++)
		if (seals_rows(&binding->deks[i]))
			(void) json_array_append_new(list, data_key_json(&binding->deks[i]));
	return keys;
}

/* ----------
 * JSON in
 * ----------
 */

/* Fail because the JSON is not what we write. */
static void
report_malformed(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the wrapped keys of a snapshot are malformed"),
			 errdetail("Field \"%s\" is missing or cannot be read.", name)));
}

/* A member that is text. */
static void
get_text(const json_t *object, const char *name, char *out, Size size)
{
	const json_t *value = json_object_get(object, name);
	char	   *text;

	if (!json_is_string(value) ||
		strlen(json_string_value(value)) != json_string_length(value) ||
		json_string_length(value) >= size * MAX_CONVERSION_GROWTH)
		report_malformed(name);
	text = pg_any_to_server(pstrdup(json_string_value(value)),
							json_string_length(value), PG_UTF8);
	if (strlen(text) >= size)
		report_malformed(name);
	strlcpy(out, text, size);
}

/* A member that is a number from 1 to max. */
static int64
get_number(const json_t *object, const char *name, int64 max)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_integer(value) || json_integer_value(value) < 1 ||
		json_integer_value(value) > max)
		report_malformed(name);
	return json_integer_value(value);
}

/* A member that is bytes, at most size of them; returns how many. */
static uint32
get_bytes(const json_t *object, const char *name, uint8 *out, Size size)
{
	const json_t *value = json_object_get(object, name);
	const char *hex = json_string_value(value);
	Size		len = hex ? strlen(hex) : 0;

	if (hex == NULL || len % 2 != 0 || len / 2 > size || len == 0 ||
		strspn(hex, "0123456789abcdef") != len)
		report_malformed(name);
	for (Size i = 0; i < len / 2; i++)
	{
		unsigned int byte;

		(void) sscanf(hex + 2 * i, "%2x", &byte);
		out[i] = (uint8) byte;
	}
	return len / 2;
}

/* A member that is so many bytes. */
static void
get_exactly(const json_t *object, const char *name, uint8 *out, Size size)
{
	if (get_bytes(object, name, out, size) != size)
		report_malformed(name);
}

/* A table key. */
static void
read_table_key(const json_t *object, CmekTableKeyRow *row)
{
	memset(row, 0, sizeof(CmekTableKeyRow));
	get_exactly(object, "id", row->id, CMEK_UUID_LEN);
	row->version = (int32) get_number(object, "version", PG_INT32_MAX);
	get_text(object, "server", row->server, sizeof(row->server));
	get_text(object, "key_id", row->key_id, sizeof(row->key_id));
	get_text(object, "key_version", row->key_version, sizeof(row->key_version));
	row->blob_len = get_bytes(object, "blob", row->blob, sizeof(row->blob));
	row->is_sealed = json_object_get(object, "sealed") != NULL;
	if (!row->is_sealed)
		return;
	get_exactly(object, "sealed_by", row->sealed_by, CMEK_UUID_LEN);
	get_exactly(object, "sealed", row->sealed, sizeof(row->sealed));
}

/* A data key. */
static void
read_data_key(const json_t *object, CmekDataKeyRow *row)
{
	char		kind[2];

	memset(row, 0, sizeof(CmekDataKeyRow));
	row->id = (uint32) get_number(object, "id", PG_INT32_MAX);
	get_text(object, "kind", kind, sizeof(kind));
	row->kind = (CmekStructureKind) kind[0];
	get_exactly(object, "structure", row->structure, CMEK_UUID_LEN);
	row->generation = (int32) get_number(object, "generation", PG_INT32_MAX);
	get_exactly(object, "table_key", row->table_key, CMEK_UUID_LEN);
	get_exactly(object, "wrapped", row->wrapped, sizeof(row->wrapped));
	if (!seals_rows(row))
		report_malformed("kind");
}

/* A list that has members. */
static json_t *
get_list(const json_t *keys, const char *name)
{
	json_t	   *list = json_object_get(keys, name);

	if (json_array_size(list) == 0 || json_array_size(list) > MAX_ROWS)
		report_malformed(name);
	return list;
}

/* Order by version. */
static int
compare_versions(const void *a, const void *b)
{
	int32		x = ((const CmekTableKeyRow *) a)->version;
	int32		y = ((const CmekTableKeyRow *) b)->version;

	return x < y ? -1 : x > y;
}

/* ----------
 * Opening
 * ----------
 */

/*
 * The table keys of a snapshot, in their order, and after them those that the
 * table has been given since, if this database has them.  *last is the place
 * of the snapshot's own newest.
 */
static CmekChain *
read_chain(const json_t *keys, int *last)
{
	json_t	   *list = get_list(keys, "table_keys");
	int			n = (int) json_array_size(list);
	CmekChain  *chain = palloc0(sizeof(CmekChain));
	List	   *newer;
	ListCell   *lc;

	chain->keys = palloc(n * sizeof(CmekTableKeyRow));
	for (int i = 0; i < n; i++)
		read_table_key(json_array_get(list, i), &chain->keys[i]);
	qsort(chain->keys, n, sizeof(CmekTableKeyRow), compare_versions);
	*last = n - 1;
	newer = cmek_catalog_read_newer(chain->keys[n - 1].id);
	chain->keys = repalloc(chain->keys,
						   (n + list_length(newer)) * sizeof(CmekTableKeyRow));
	/* its own newest may have been sealed since: then take that form of it */
	foreach(lc, newer)
	{
		const CmekTableKeyRow *row = lfirst(lc);

		if (row->version == chain->keys[*last].version)
			chain->keys[*last] = *row;
		else
			chain->keys[n++] = *row;
	}
	qsort(chain->keys, n, sizeof(CmekTableKeyRow), compare_versions);
	chain->nkeys = n;
	return chain;
}

/* Open the data keys under a table key. */
static CmekKeyRing *
open_data_keys(const json_t *keys, const CmekTableKeyRow *table_key,
			   const uint8 *key)
{
	json_t	   *list = get_list(keys, "data_keys");
	int			n = (int) json_array_size(list);
	CmekKeyRing *ring = palloc0(sizeof(CmekKeyRing));
	CmekAead   *aead = cmek_aead_create(key);
	uint8	   *dek = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);

	ring->valid = true;
	ring->deks = palloc0(n * sizeof(CmekDek));
	for (int i = 0; i < n; i++)
	{
		CmekDataKeyRow row;

		read_data_key(json_array_get(list, i), &row);
		cmek_dek_unwrap(&row, table_key, aead, dek);
		ring->deks[i].id = row.id;
		ring->deks[i].kind = row.kind;
		memcpy(ring->deks[i].structure, row.structure, CMEK_UUID_LEN);
		ring->deks[i].aead = cmek_aead_create(dek);
		ring->ndeks++;
		if (row.kind == CMEK_STRUCTURE_HEAP)
			ring->heap = &ring->deks[i];
		else
			ring->toast = &ring->deks[i];
	}
	cmek_aead_free(aead);
	if (ring->heap == NULL || ring->toast == NULL)
		report_malformed("data_keys");
	return ring;
}

/* The key by which a table key vouches. */
static void
derive_mac_key(const uint8 *table_key, uint8 *mac_key)
{
	cmek_hmac_sha256(table_key, CMEK_KEY_LEN, MAC_LABEL, strlen(MAC_LABEL),
					 mac_key);
}

/* See portable.h. */
CmekPortable *
cmek_portable_open(const json_t *keys)
{
	CmekPortable *portable = palloc(sizeof(CmekPortable));
	uint8	   *key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	int			last;
	CmekChain  *chain;

	cmek_require_preload();
	cmek_secret_forbid_core_dump();
	chain = read_chain(keys, &last);
	cmek_chain_open_at(chain, last, key);
	portable->ring = open_data_keys(keys, &chain->keys[last], key);
	portable->mac_key = cmek_secret_alloc_in(CurrentMemoryContext,
											 CMEK_KEY_LEN);
	derive_mac_key(key, portable->mac_key);
	return portable;
}

/* See portable.h. */
void
cmek_portable_close(CmekPortable *portable)
{
	for (int i = 0; i < portable->ring->ndeks; i++)
		cmek_aead_free(portable->ring->deks[i].aead);
	portable->ring->ndeks = 0;
}

/* See portable.h. */
void
cmek_portable_mac_key(Oid relid, uint8 *mac_key)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	uint8	   *key = cmek_secret_alloc(CMEK_KEY_LEN);
	CmekLease	lease;

	Assert(binding != NULL);
	PG_TRY();
	{
		cmek_table_key_open(&binding->table_key, key, &lease);
		derive_mac_key(key, mac_key);
	}
	PG_FINALLY();
	{
		cmek_secret_free(key);
	}
	PG_END_TRY();
}

/* See portable.h. */
json_t *
cmek_backup_key_make(Oid relid, uint8 *key)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));

	Assert(binding != NULL);
	cmek_table_key_generate(relid,
							cmek_server_of_key(binding->table_key.server),
							1, row, key);
	/* nobody will ask for it again before a restore */
	cmek_table_key_forget(row->id, true);
	return table_key_json(row);
}

/* See portable.h. */
void
cmek_backup_key_open(const json_t *wrapped, uint8 *key)
{
	CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));
	CmekLease	lease;

	read_table_key(wrapped, row);
	(void) cmek_server_of_key(row->server);
	cmek_table_key_open_now(row, key, &lease);
}
