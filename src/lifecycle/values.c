/*-------------------------------------------------------------------------
 *
 * values.c
 *	  Values of a snapshot's rows on their way into the new table.
 *
 * Texts are stored in the encoding of their database: into one of another
 * encoding they are converted, alone, in arrays and in jsonb.  Types that may
 * hold texts elsewhere are refused before a row is read.
 *
 * When nobody vouches for the snapshot (force), its manifest may say that a
 * column is of another type than its values are.  Then the values of built-in
 * types are looked at before their functions see them; those of other types
 * (composites, full text, extensions') are taken as they are.
 *
 * Values come here with their outer form proved (heap/fits.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/detoast.h"
#include "access/transam.h"
#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "heap/transfer.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/geo_decls.h"
#include "utils/inet.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rangetypes.h"
#include "utils/typcache.h"
#include "utils/varbit.h"

#include "compat.h"
#include "lifecycle/snapshot.h"

/* What there is to do with the values of a type */
typedef enum ValueKind
{
	VALUE_PLAIN,				/* no text in it, and no length */
	VALUE_TEXT,					/* nothing but text after its length */
	VALUE_NAME,
	VALUE_JSONB,
	VALUE_ARRAY,
	VALUE_RANGE,
	VALUE_NUMERIC,
	VALUE_INET,
	VALUE_BITS,
	VALUE_PATH,
	VALUE_POLYGON,
	VALUE_UNKNOWN
} ValueKind;

typedef struct ValueType
{
	ValueKind	kind;
	Oid			oid;			/* of the type below domains */
	Oid			inside;			/* of elements, of bounds */
	int16		len;			/* and how these are stored */
	bool		by_value;
	char		align;
	struct ValueType *inner;
} ValueType;

struct CmekValues
{
	int			encoding;		/* of the snapshot */
	bool		convert;		/* it is not this database's */
	bool		check;			/* nobody vouches for it */
	int			natts;
	ValueType  *types;			/* of the new table's columns */
};

/* ----------
 * Types
 * ----------
 */

/* Built-in types that have a kind of their own */
static ValueKind
kind_of_builtin(Oid type)
{
	switch (type)
	{
		case JSONOID:
		case XMLOID:
		case BPCHAROID:
			return VALUE_TEXT;
		case NAMEOID:
			return VALUE_NAME;
		case JSONBOID:
			return VALUE_JSONB;
		case NUMERICOID:
			return VALUE_NUMERIC;
		case INETOID:
		case CIDROID:
			return VALUE_INET;
		case BITOID:
		case VARBITOID:
			return VALUE_BITS;
		case PATHOID:
			return VALUE_PATH;
		case POLYGONOID:
			return VALUE_POLYGON;
		case BYTEAOID:
			return VALUE_PLAIN;
		default:
			return VALUE_UNKNOWN;
	}
}

/* What a type's values are. */
static void
classify(ValueType *t, Oid type)
{
	check_stack_depth();
	memset(t, 0, sizeof(ValueType));
	t->oid = getBaseType(type);
	t->kind = kind_of_builtin(t->oid);
	if (t->kind != VALUE_UNKNOWN)
		return;
	t->inside = get_element_type(t->oid);
	if (OidIsValid(t->inside))
		t->kind = VALUE_ARRAY;
	else if (type_is_range(t->oid))
	{
		t->inside = get_range_subtype(t->oid);
		t->kind = VALUE_RANGE;
	}
	else if (IsBinaryCoercible(t->oid, TEXTOID))
		t->kind = VALUE_TEXT;
	else if (t->oid < FirstNormalObjectId && get_typlen(t->oid) > 0)
		t->kind = VALUE_PLAIN;
	if (!OidIsValid(t->inside))
		return;
	get_typlenbyvalalign(t->inside, &t->len, &t->by_value, &t->align);
	t->inner = palloc(sizeof(ValueType));
	classify(t->inner, t->inside);
}

/* Can values of this type go from one encoding to another? */
static bool
is_convertible(const ValueType *t)
{
	switch (t->kind)
	{
		case VALUE_UNKNOWN:
			return false;
		case VALUE_ARRAY:
			return is_convertible(t->inner);
		case VALUE_RANGE:
			return t->inner->kind == VALUE_PLAIN ||
				t->inner->kind == VALUE_NUMERIC;
		default:
			return true;
	}
}

/* See snapshot.h. */
CmekValues *
cmek_values_begin(Relation rel, int encoding, bool check)
{
	TupleDesc	desc = RelationGetDescr(rel);
	CmekValues *v = palloc0(sizeof(CmekValues));

	v->encoding = encoding;
	v->convert = encoding != GetDatabaseEncoding() &&
		GetDatabaseEncoding() != PG_SQL_ASCII;
	v->check = check;
	v->natts = desc->natts;
	v->types = palloc(Max(desc->natts, 1) * sizeof(ValueType));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		classify(&v->types[i], att->atttypid);
		if (v->convert && !is_convertible(&v->types[i]))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" of the snapshot cannot be restored in a database of encoding \"%s\"",
							NameStr(att->attname), GetDatabaseEncodingName()),
					 errdetail("Values of type %s may hold texts in encoding \"%s\", which cannot be converted there.",
							   format_type_be(att->atttypid),
							   pg_encoding_to_char(encoding)),
					 errhint("Restore the snapshot in a database of encoding \"%s\".",
							 pg_encoding_to_char(encoding))));
	}
	return v;
}

/* ----------
 * Are values what their type says?
 * ----------
 */

static void check_value(const CmekValues *v, const ValueType *t, Datum value);

/* Complain of a value. */
static void
report_value(const ValueType *t)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the manifest of the snapshot is damaged or forged"),
			 errdetail("A stored value is none of type %s.",
					   format_type_be(t->oid))));
}

static void
require(bool fits, const ValueType *t)
{
	if (!fits)
		report_value(t);
}

/* Texts are valid in the encoding that they are to have come from. */
static void
check_text(const CmekValues *v, const ValueType *t, const char *text, Size len)
{
	require(memchr(text, '\0', len) == NULL &&
			pg_encoding_verifymbstr(v->encoding, text, len) == (int) len, t);
}

/* numeric.c: a header of 2 or 4 bytes, then digits from 0 to 9999 */
static void
check_numeric(const ValueType *t, const char *data, Size len)
{
	uint16		header;
	Size		start;

	require(len >= sizeof(uint16) && len % sizeof(int16) == 0, t);
	memcpy(&header, data, sizeof(header));
	if ((header & 0xC000) == 0xC000)
	{
		/* NaN and the infinities */
		require(len == sizeof(uint16) && (header & 0x0FFF) == 0, t);
		return;
	}
	start = (header & 0x8000) != 0 ? sizeof(uint16) : 2 * sizeof(uint16);
	require(len >= start, t);
	for (; start < len; start += sizeof(int16))
	{
		int16		digit;

		memcpy(&digit, data + start, sizeof(digit));
		require(digit >= 0 && digit <= 9999, t);
	}
}

/* Elements one after the other */
static void
check_elements(const CmekValues *v, const ValueType *t, ArrayType *array,
			   int nitems)
{
	const char *data = ARR_DATA_PTR(array);
	const uint8 *nulls = ARR_NULLBITMAP(array);
	Size		limit = VARSIZE(array) - (data - (char *) array);
	int64		offset = 0;

	for (int i = 0; i < nitems; i++)
	{
		const char *element;

		CHECK_FOR_INTERRUPTS();
		if (nulls != NULL && att_isnull(i, nulls))
			continue;
		if (t->len == -1 && (Size) offset < limit)
			offset = att_align_pointer(offset, t->align, -1, data + offset);
		else
			offset = att_align_nominal(offset, t->align);
		element = data + offset;
		offset = cmek_value_end(data, limit, offset, t->len, t->align);
		require(offset >= 0 &&
				(t->len != -1 || !VARATT_IS_1B_E(element)), t);
		check_value(v, t->inner, fetch_att(element, t->by_value, t->len));
		offset = att_align_nominal(offset, t->align);
	}
}

static void
check_array(const CmekValues *v, const ValueType *t, ArrayType *array)
{
	Size		size = VARSIZE(array);
	int			nitems;
	Size		overhead;

	require(size >= ARR_OVERHEAD_NONULLS(0) && ARR_NDIM(array) >= 0 &&
			ARR_NDIM(array) <= MAXDIM && ARR_ELEMTYPE(array) == t->inside, t);
	require(size >= ARR_OVERHEAD_NONULLS(ARR_NDIM(array)), t);
	for (int i = 0; i < ARR_NDIM(array); i++)
		require(ARR_DIMS(array)[i] >= 0, t);
	nitems = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	ArrayCheckBounds(ARR_NDIM(array), ARR_DIMS(array), ARR_LBOUND(array));
	overhead = ARR_HASNULL(array) ?
		ARR_OVERHEAD_WITHNULLS(ARR_NDIM(array), nitems) :
		ARR_OVERHEAD_NONULLS(ARR_NDIM(array));
	require(size >= overhead && (!ARR_HASNULL(array) ||
								 array->dataoffset == (int32) overhead), t);
	check_elements(v, t, array, nitems);
}

/* rangetypes.c: the type, the bounds that there are, and last the flags */
static void
check_range(const CmekValues *v, const ValueType *t, const RangeType *range)
{
	const char *data = (const char *) range;
	Size		limit = VARSIZE(range) - sizeof(char);
	int64		offset = sizeof(RangeType);
	char		flags;

	require(VARSIZE(range) > sizeof(RangeType) &&
			RangeTypeGetOid(range) == t->oid, t);
	flags = data[limit];
	for (int upper = 0; upper < 2; upper++)
	{
		const char *bound;

		if (upper ? !RANGE_HAS_UBOUND(flags) : !RANGE_HAS_LBOUND(flags))
			continue;
		if (t->len == -1 && (Size) offset < limit)
			offset = att_align_pointer(offset, t->align, -1, data + offset);
		else
			offset = att_align_nominal(offset, t->align);
		bound = data + offset;
		offset = cmek_value_end(data, limit, offset, t->len, t->align);
		require(offset >= 0 && (t->len != -1 || !VARATT_IS_1B_E(bound)), t);
		check_value(v, t->inner, fetch_att(bound, t->by_value, t->len));
	}
}

/* jsonb.h: a count, one entry for each key and value, and their bytes */
static void
check_container(const CmekValues *v, const ValueType *t, const char *data,
				Size len)
{
	const JsonbContainer *container = (const JsonbContainer *) data;
	uint32		n;
	Size		start = 0;
	Size		total;
	const char *base;

	check_stack_depth();
	require(len >= sizeof(uint32), t);
	n = JsonContainerSize(container);
	require(JsonContainerIsObject(container) != JsonContainerIsArray(container), t);
	if (JsonContainerIsScalar(container))
		require(JsonContainerIsArray(container) && n == 1, t);
	if (JsonContainerIsObject(container))
		n *= 2;
	require(len >= sizeof(uint32) + n * sizeof(JEntry), t);
	base = data + sizeof(uint32) + n * sizeof(JEntry);
	total = len - (base - data);
	for (uint32 i = 0; i < n; i++)
	{
		JEntry		entry = container->children[i];
		Size		end = JBE_HAS_OFF(entry) ? JBE_OFFLENFLD(entry) :
			start + JBE_OFFLENFLD(entry);
		Size		aligned = INTALIGN(start);

		CHECK_FOR_INTERRUPTS();
		require(end >= start && end <= total, t);
		require(!JsonContainerIsObject(container) || i >= n / 2 ||
				JBE_ISSTRING(entry), t);
		if (JBE_ISSTRING(entry))
			check_text(v, t, base + start, end - start);
		else if (JBE_ISNUMERIC(entry))
		{
			require(aligned < end &&
					cmek_value_end(base + aligned, end - aligned, 0, -1, 'i') >= 0 &&
					!VARATT_IS_EXTENDED(base + aligned), t);
			check_numeric(t, VARDATA(base + aligned),
						  VARSIZE(base + aligned) - VARHDRSZ);
		}
		else if (JBE_ISCONTAINER(entry))
		{
			require(aligned < end, t);
			check_container(v, t, base + aligned, end - aligned);
		}
		else
			require(JBE_ISNULL(entry) || JBE_ISBOOL(entry), t);
		start = end;
	}
}

/* A value of variable length, read into memory */
static void
check_varlena(const CmekValues *v, const ValueType *t, struct varlena *value)
{
	const char *data = VARDATA(value);
	Size		len = VARSIZE(value) - VARHDRSZ;
	int32		n;

	switch (t->kind)
	{
		case VALUE_TEXT:
			check_text(v, t, data, len);
			break;
		case VALUE_JSONB:
			check_container(v, t, data, len);
			break;
		case VALUE_ARRAY:
			check_array(v, t, (ArrayType *) value);
			break;
		case VALUE_RANGE:
			check_range(v, t, (RangeType *) value);
			break;
		case VALUE_NUMERIC:
			check_numeric(t, data, len);
			break;
		case VALUE_INET:
			require((len == 6 && data[0] == PGSQL_AF_INET && (uint8) data[1] <= 32) ||
					(len == 18 && data[0] == PGSQL_AF_INET6 && (uint8) data[1] <= 128), t);
			break;
		case VALUE_BITS:
			require(len >= sizeof(int32), t);
			n = VARBITLEN(value);
			require(n >= 0 && n <= VARBITMAXLEN &&
					VARSIZE(value) == VARBITTOTALLEN(n), t);
			break;
		case VALUE_PATH:
			require(VARSIZE(value) >= offsetof(PATH, p), t);
			n = ((PATH *) value)->npts;
			require(n >= 0 && (VARSIZE(value) - offsetof(PATH, p)) / sizeof(Point) == (Size) n, t);
			break;
		case VALUE_POLYGON:
			require(VARSIZE(value) >= offsetof(POLYGON, p), t);
			n = ((POLYGON *) value)->npts;
			require(n > 0 && (VARSIZE(value) - offsetof(POLYGON, p)) / sizeof(Point) == (Size) n, t);
			break;
		default:
			break;
	}
}

/* Complain unless a value is one of its type. */
static void
check_value(const CmekValues *v, const ValueType *t, Datum value)
{
	const char *name = DatumGetPointer(value);

	check_stack_depth();
	if (t->kind == VALUE_PLAIN || t->kind == VALUE_UNKNOWN)
		return;
	if (t->kind == VALUE_NAME)
	{
		require(memchr(name, '\0', NAMEDATALEN) != NULL, t);
		check_text(v, t, name, strlen(name));
		return;
	}
	check_varlena(v, t, PG_DETOAST_DATUM(value));
}

/* ----------
 * Into the encoding of the database
 * ----------
 */

/* Is there nothing to convert in these bytes? */
static bool
is_ascii(const char *bytes, Size len)
{
	for (Size i = 0; i < len; i++)
		if (IS_HIGHBIT_SET(bytes[i]))
			return false;
	return true;
}

/* Bytes in the database's encoding, terminated. */
static char *
convert_bytes(const CmekValues *v, const char *bytes, Size len)
{
	return pg_any_to_server(pnstrdup(bytes, len), len, v->encoding);
}

static Datum
convert_text(const CmekValues *v, Datum value)
{
	struct varlena *text = PG_DETOAST_DATUM_PACKED(value);

	if (is_ascii(VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text)))
		return value;
	return CStringGetTextDatum(convert_bytes(v, VARDATA_ANY(text),
											 VARSIZE_ANY_EXHDR(text)));
}

static Datum
convert_name(const CmekValues *v, Datum value)
{
	const char *name = NameStr(*DatumGetName(value));
	char	   *converted;

	if (is_ascii(name, strlen(name)))
		return value;
	converted = convert_bytes(v, name, strlen(name));
	if (strlen(converted) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("a value of type name has no room in encoding \"%s\"",
						GetDatabaseEncodingName())));
	return DirectFunctionCall1(namein, CStringGetDatum(converted));
}

/* Printing it escapes nothing that is not ASCII. */
static Datum
convert_jsonb(const CmekValues *v, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	char	   *text;

	if (is_ascii(VARDATA(jsonb), VARSIZE(jsonb) - VARHDRSZ))
		return value;
	text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
	return DirectFunctionCall1(jsonb_in,
							   CStringGetDatum(convert_bytes(v, text, strlen(text))));
}

static Datum convert_value(const CmekValues *v, const ValueType *t,
						   Datum value);

static Datum
convert_array(const CmekValues *v, const ValueType *t, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	if (is_ascii((char *) array, VARSIZE(array)))
		return value;
	deconstruct_array(array, t->inside, t->len, t->by_value, t->align,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			elements[i] = convert_value(v, t->inner, elements[i]);
	return PointerGetDatum(construct_md_array(elements, nulls, ARR_NDIM(array),
											  ARR_DIMS(array),
											  ARR_LBOUND(array), t->inside,
											  t->len, t->by_value, t->align));
}

static Datum
convert_value(const CmekValues *v, const ValueType *t, Datum value)
{
	switch (t->kind)
	{
		case VALUE_TEXT:
			return convert_text(v, value);
		case VALUE_NAME:
			return convert_name(v, value);
		case VALUE_JSONB:
			return convert_jsonb(v, value);
		case VALUE_ARRAY:
			return convert_array(v, t, value);
		default:
			return value;
	}
}

/* See snapshot.h. */
Datum
cmek_values_take(void *arg, int column, Datum value)
{
	const CmekValues *v = arg;
	const ValueType *t = &v->types[column];

	if (v->check)
		check_value(v, t, value);
	return v->convert ? convert_value(v, t, value) : value;
}
