/*-------------------------------------------------------------------------
 *
 * rowdesc.c
 *	  What the rows of a snapshot look like, and whether their values mean the
 *	  same here.
 *
 * Rows are stored as they were: dropped columns in between, columns missing at
 * the end.  The descriptor for reading them comes from the manifest alone.
 *
 * Most values mean the same everywhere.  Those that hold an OID inside do not:
 * labels of an enum, the element type of an array, the type of a composite
 * value or a range.  They are accepted when everything they are made of has
 * the same OIDs here as there: always for built-in types, and in the database
 * that the table is from.  A value is never rewritten.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/tupdesc_details.h"
#include "access/tupmacs.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "utils/builtins.h"

#include "compat.h"
#include "lifecycle/manifest.h"

/* ----------
 * The descriptor
 * ----------
 */

/* Complain unless rows are stored here as they were there. */
static void
check_layout(const json_t *manifest)
{
	const json_t *layout = json_object_get(manifest, "layout");
	bool		big_endian = false;

#ifdef WORDS_BIGENDIAN
	big_endian = true;
#endif
	if (cmek_manifest_int(layout, "max_align") != MAXIMUM_ALIGNOF ||
		cmek_manifest_int(layout, "block_size") != BLCKSZ ||
		cmek_manifest_bool(layout, "big_endian") != big_endian)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the snapshot is from a server that stores rows in another way"),
				 errdetail("Byte order, alignment or block size differ.")));
}

/* Complain of a column that cannot be one. */
static void
report_column(const json_t *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the manifest of the snapshot is damaged or forged"),
			 errdetail("Column \"%s\" cannot be stored as it says.",
					   cmek_manifest_text(column, "name"))));
}

/* Is there a type that is stored like this? */
static bool
storage_is_possible(int64 len, bool by_value, char align)
{
	if (strchr("csid", align) == NULL || align == '\0')
		return false;
	if (by_value)
		return len == 1 || len == 2 || len == 4 || len == 8;
	return len == -1 || len == -2 || (len > 0 && len < BLCKSZ);
}

/* What the rows from before a column was added have there. */
static Datum
missing_value(const json_t *column, Form_pg_attribute att)
{
	const char *hex = json_string_value(json_object_get(column, "missing"));
	size_t		digits = strlen(hex);
	Size		len = digits / 2;
	char	   *bytes;

	if (digits % 2 != 0 || strspn(hex, "0123456789abcdef") != digits ||
		(att->attlen > 0 && len != (Size) att->attlen) ||
		(att->attlen == -1 && len < VARHDRSZ) || att->attlen == -2)
		report_column(column);
	bytes = palloc(Max(len, 1));
	(void) hex_decode(hex, digits, bytes);
	if (att->attbyval)
		return fetch_att(bytes, true, att->attlen);
	if (att->attlen == -1 &&
		(!VARATT_IS_4B_U(bytes) || VARSIZE(bytes) != len))
		report_column(column);
	return PointerGetDatum(bytes);
}

/* One column of the descriptor. */
static void
describe_column(TupleDesc desc, int i, const json_t *column)
{
	Form_pg_attribute att;
	int64		len = cmek_manifest_int(column, "length");
	bool		by_value = cmek_manifest_bool(column, "by_value");
	char		align = cmek_manifest_char(column, "align");

	if (!storage_is_possible(len, by_value, align))
		report_column(column);
	TupleDescInitBuiltinEntry(desc, i + 1, cmek_manifest_text(column, "name"),
							  TEXTOID, -1, 0);
	att = TupleDescAttr(desc, i);
	att->attlen = len;
	att->attbyval = by_value;
	att->attalign = align;
	att->attisdropped = cmek_manifest_bool(column, "dropped");
	if (!json_is_null(json_object_get(column, "missing")))
	{
		att->atthasmissing = true;
		desc->constr->missing[i].am_present = true;
		desc->constr->missing[i].am_value = missing_value(column, att);
	}
	CMEK_TUPLE_DESC_CHANGED(desc, i);
}

/* See snapshot.h. */
TupleDesc
cmek_manifest_row_desc(const json_t *manifest)
{
	const json_t *columns = json_object_get(manifest, "columns");
	int			natts;
	TupleDesc	desc;

	cmek_manifest_check(manifest);
	check_layout(manifest);
	if (json_array_size(columns) > MaxHeapAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the manifest of the snapshot is damaged or forged"),
				 errdetail("It has too many columns.")));
	natts = json_array_size(columns);
	desc = CreateTemplateTupleDesc(natts);
	desc->constr = palloc0(sizeof(TupleConstr));
	desc->constr->missing = palloc0(Max(natts, 1) * sizeof(AttrMissing));
	for (int i = 0; i < natts; i++)
		describe_column(desc, i, json_array_get(columns, i));
	CMEK_TUPLE_DESC_FINALIZE(desc);
	return desc;
}

/* ----------
 * Types
 * ----------
 */

/* The type that a text names. */
static void
resolve_type(const char *text, Oid *type, int32 *typmod)
{
	List	   *trees = raw_parser(text, RAW_PARSE_TYPE_NAME);
	TypeName   *name = linitial_node(TypeName, trees);

	if (name->setof || name->pct_type)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid type name \"%s\"", text)));
	typenameTypeIdAndMod(NULL, name, type, typmod);
}

/* A type in a list of types; NULL when it is not there. */
static const json_t *
find_type(const json_t *types, int64 oid)
{
	for (size_t i = 0; i < json_array_size(types); i++)
	{
		const json_t *type = json_array_get(types, i);

		if (cmek_manifest_int(type, "oid") == oid)
			return type;
	}
	return NULL;
}

/* Are two types stored in the same way? */
static bool
is_stored_alike(const json_t *old, const json_t *new)
{
	return json_equal(json_object_get(old, "kind"),
					  json_object_get(new, "kind")) &&
		json_equal(json_object_get(old, "length"),
				   json_object_get(new, "length")) &&
		json_equal(json_object_get(old, "by_value"),
				   json_object_get(new, "by_value")) &&
		json_equal(json_object_get(old, "align"),
				   json_object_get(new, "align"));
}

/* Does every label of an enum have the OID here that it has in rows? */
static bool
has_labels(const json_t *old, const json_t *new)
{
	const json_t *labels = json_object_get(old, "labels");
	const json_t *here = json_object_get(new, "labels");

	for (size_t i = 0; i < json_array_size(labels); i++)
	{
		bool		found = false;

		for (size_t k = 0; k < json_array_size(here) && !found; k++)
			found = json_equal(json_array_get(labels, i),
							   json_array_get(here, k));
		if (!found)
			return false;
	}
	return true;
}

static bool is_same_inside(const json_t *old_types, int64 old,
						   const json_t *new_types, int64 new);

/* The same for the columns of a composite type. */
static bool
has_attributes(const json_t *old_types, const json_t *old,
			   const json_t *new_types, const json_t *new)
{
	const json_t *attributes = json_object_get(old, "attributes");

	if (!json_equal(attributes, json_object_get(new, "attributes")))
		return false;
	for (size_t i = 0; i < json_array_size(attributes); i++)
	{
		int64		type = cmek_manifest_int(json_array_get(attributes, i),
											 "type");

		/* 0: a dropped one */
		if (type != 0 && !is_same_inside(old_types, type, new_types, type))
			return false;
	}
	return true;
}

/* Can a value of the old type be taken for one of the new? */
static bool
means_the_same(const json_t *old_types, int64 old,
			   const json_t *new_types, int64 new)
{
	const json_t *a = find_type(old_types, old);
	const json_t *b = find_type(new_types, new);

	check_stack_depth();
	if (a == NULL || b == NULL || !is_stored_alike(a, b))
		return false;
	switch (cmek_manifest_char(a, "kind"))
	{
		case TYPTYPE_DOMAIN:
			return means_the_same(old_types, cmek_manifest_int(a, "base"),
								  new_types, cmek_manifest_int(b, "base"));
		case TYPTYPE_ENUM:
			return has_labels(a, b);
		case TYPTYPE_COMPOSITE:
			return old == new && has_attributes(old_types, a, new_types, b);
		case TYPTYPE_RANGE:
		case TYPTYPE_MULTIRANGE:
			return old == new &&
				is_same_inside(old_types, cmek_manifest_int(a, "subtype"),
							   new_types, cmek_manifest_int(b, "subtype"));
		default:
			if (cmek_manifest_int(a, "element") != 0)
				return is_same_inside(old_types,
									  cmek_manifest_int(a, "element"),
									  new_types,
									  cmek_manifest_int(b, "element"));
			if (old < FirstUnpinnedObjectId)
				return old == new;
			return json_equal(json_object_get(a, "name"),
							  json_object_get(b, "name"));
	}
}

/* The same for a type whose OID is stored beside the value. */
static bool
is_same_inside(const json_t *old_types, int64 old,
			   const json_t *new_types, int64 new)
{
	return old == new && means_the_same(old_types, old, new_types, new);
}

/* Complain unless the values of a column can be taken as they are. */
static void
check_column(const json_t *column, const json_t *old_types, Oid type,
			 const json_t *new_types)
{
	const json_t *here = find_type(new_types, type);

	if (here != NULL &&
		json_equal(json_object_get(column, "length"),
				   json_object_get(here, "length")) &&
		json_equal(json_object_get(column, "by_value"),
				   json_object_get(here, "by_value")) &&
		json_equal(json_object_get(column, "align"),
				   json_object_get(here, "align")) &&
		means_the_same(old_types, cmek_manifest_int(column, "type_oid"),
					   new_types, type))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of the snapshot cannot be restored in this database",
					cmek_manifest_text(column, "name")),
			 errdetail("Type %s of this database is not stored like the one of the snapshot, or its values hold OIDs that mean something else here.",
					   cmek_manifest_text(column, "type")),
			 errhint("Restore the snapshot in the database it is from, or in a copy of it.")));
}

/* Find the types by their names, InvalidOid for those of dropped columns. */
static void
resolve_types(const json_t *columns, Oid *types, int32 *typmods)
{
	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		const json_t *column = json_array_get(columns, i);
		char	   *name = cmek_manifest_text(column, "type");

		types[i] = InvalidOid;
		typmods[i] = -1;
		if (cmek_manifest_bool(column, "dropped"))
			continue;
		if (name == NULL)
			report_column(column);
		resolve_type(name, &types[i], &typmods[i]);
	}
}

/* See manifest.h. */
void
cmek_manifest_resolve_types(const json_t *manifest, Oid *types,
							int32 *typmods)
{
	const json_t *columns = json_object_get(manifest, "columns");
	const json_t *old_types = json_object_get(manifest, "types");
	json_t	   *new_types;

	resolve_types(columns, types, typmods);
	new_types = cmek_manifest_types(types, json_array_size(columns));
	PG_TRY();
	{
		for (size_t i = 0; i < json_array_size(columns); i++)
		{
			if (OidIsValid(types[i]))
				check_column(json_array_get(columns, i), old_types, types[i],
							 new_types);
		}
	}
	PG_FINALLY();
	{
		json_decref(new_types);
	}
	PG_END_TRY();
}
