/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Reading the members of JSON answers, strictly (text.h).
 *
 * A KMS, or whoever sits in its place, may answer with anything: each member
 * is checked for its type and its length before it is used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/text.h"
#include "kms/wipe.h"

/* Make jansson cleanse what it frees. */
void
cmek_json_protect(void)
{
	json_set_alloc_funcs(cmek_wiping_malloc, cmek_wiping_free);
}

/* Parse an object. */
json_t *
cmek_json_object(const char *text, Size len)
{
	json_t	   *value = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);

	if (json_is_object(value))
		return value;
	json_decref(value);
	return NULL;
}

/* Copy a string. */
bool
cmek_json_string(const json_t *object, const char *name, char *out, Size size)
{
	const json_t *value = json_object_get(object, name);
	Size		len;

	if (!json_is_string(value))
		return false;
	len = json_string_length(value);
	if (len >= size || strlen(json_string_value(value)) != len)
		return false;
	memcpy(out, json_string_value(value), len + 1);
	return true;
}

/* Read a number without a fraction. */
bool
cmek_json_integer(const json_t *object, const char *name, int64 *out)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_integer(value))
		return false;
	*out = json_integer_value(value);
	return true;
}

/* Read true or false. */
bool
cmek_json_bool(const json_t *object, const char *name, bool *out)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_boolean(value))
		return false;
	*out = json_is_true(value);
	return true;
}

/* Decode a string of strict base64. */
bool
cmek_json_base64(const json_t *object, const char *name, uint8 *out,
				 Size size, Size *len)
{
	const json_t *value = json_object_get(object, name);

	return json_is_string(value) &&
		cmek_base64_decode(json_string_value(value),
						   json_string_length(value), out, size, len);
}
