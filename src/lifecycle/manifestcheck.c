/*-------------------------------------------------------------------------
 *
 * manifestcheck.c
 *	  Is a document a manifest?  Every member that is ever read is listed
 *	  here with its type, and looked at before anything is done.
 *
 * What passed may still be a lie; but no reader of it meets a member that is
 * missing or of another type, and no name that cannot be one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "lifecycle/manifest.h"

/* What a member is; an upper case letter may be null as well */
#define NAME		'n'			/* 1 to NAMEDATALEN - 1 bytes */
#define TEXT		't'
#define CHARACTER	'c'			/* at most one byte */
#define INTEGER		'i'
#define BOOLEAN		'b'
#define TEXTS		'l'			/* list of texts */
#define NAMES		'r'			/* list of names, null among them */
#define OBJECT		'o'
#define OBJECTS		'a'
#define OR_NULL(type) ((type) - 'a' + 'A')

typedef struct Member
{
	const char *name;
	char		type;
	const struct Member *members;	/* of objects */
} Member;

static const Member layout[] = {
	{"max_align", INTEGER, NULL},
	{"big_endian", BOOLEAN, NULL},
	{"block_size", INTEGER, NULL},
	{NULL, 0, NULL}
};

static const Member grant[] = {
	{"grantee", OR_NULL(NAME), NULL},
	{"privilege", NAME, NULL},
	{"grantable", BOOLEAN, NULL},
	{NULL, 0, NULL}
};

static const Member label[] = {
	{"provider", TEXT, NULL},
	{"label", TEXT, NULL},
	{NULL, 0, NULL}
};

static const Member parent[] = {
	{"schema", NAME, NULL},
	{"name", NAME, NULL},
	{NULL, 0, NULL}
};

static const Member table[] = {
	{"schema", NAME, NULL},
	{"name", NAME, NULL},
	{"owner", NAME, NULL},
	{"kind", CHARACTER, NULL},
	{"persistence", CHARACTER, NULL},
	{"options", TEXTS, NULL},
	{"toast_options", TEXTS, NULL},
	{"tablespace", OR_NULL(NAME), NULL},
	{"row_security", BOOLEAN, NULL},
	{"force_row_security", BOOLEAN, NULL},
	{"replica_identity", CHARACTER, NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{"grants", OR_NULL(OBJECTS), grant},
	{"labels", OBJECTS, label},
	{"parents", OBJECTS, parent},
	{"partition_bound", OR_NULL(TEXT), NULL},
	{"query", OR_NULL(TEXT), NULL},
	{"publications", TEXTS, NULL},
	{NULL, 0, NULL}
};

static const Member column[] = {
	{"name", NAME, NULL},
	{"dropped", BOOLEAN, NULL},
	{"type", OR_NULL(TEXT), NULL},
	{"type_oid", INTEGER, NULL},
	{"length", INTEGER, NULL},
	{"by_value", BOOLEAN, NULL},
	{"align", CHARACTER, NULL},
	{"storage", CHARACTER, NULL},
	{"compression", CHARACTER, NULL},
	{"collation_schema", OR_NULL(NAME), NULL},
	{"collation", OR_NULL(NAME), NULL},
	{"not_null", BOOLEAN, NULL},
	{"identity", CHARACTER, NULL},
	{"generated", CHARACTER, NULL},
	{"default", OR_NULL(TEXT), NULL},
	{"statistics", INTEGER, NULL},
	{"options", TEXTS, NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{"grants", OR_NULL(OBJECTS), grant},
	{"missing", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member type_label[] = {
	{"oid", INTEGER, NULL},
	{"label", NAME, NULL},
	{NULL, 0, NULL}
};

static const Member type_attribute[] = {
	{"type", INTEGER, NULL},
	{"length", INTEGER, NULL},
	{"by_value", BOOLEAN, NULL},
	{"align", CHARACTER, NULL},
	{"options", TEXTS, NULL},
	{NULL, 0, NULL}
};

static const Member type[] = {
	{"oid", INTEGER, NULL},
	{"name", TEXT, NULL},
	{"kind", CHARACTER, NULL},
	{"length", INTEGER, NULL},
	{"by_value", BOOLEAN, NULL},
	{"align", CHARACTER, NULL},
	{"element", INTEGER, NULL},
	{"base", INTEGER, NULL},
	{"subtype", INTEGER, NULL},
	{"labels", OBJECTS, type_label},
	{"attributes", OBJECTS, type_attribute},
	{NULL, 0, NULL}
};

static const Member constraint[] = {
	{"name", NAME, NULL},
	{"kind", CHARACTER, NULL},
	{"definition", TEXT, NULL},
	{"column", OR_NULL(NAME), NULL},
	{"self", BOOLEAN, NULL},
	{"tablespace", OR_NULL(NAME), NULL},
	{"clustered", BOOLEAN, NULL},
	{"replica_identity", BOOLEAN, NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member index_column[] = {
	{"number", INTEGER, NULL},
	{"target", INTEGER, NULL},
	{NULL, 0, NULL}
};

static const Member index_members[] = {
	{"name", NAME, NULL},
	{"definition", TEXT, NULL},
	{"tablespace", OR_NULL(NAME), NULL},
	{"clustered", BOOLEAN, NULL},
	{"replica_identity", BOOLEAN, NULL},
	{"statistics", OBJECTS, index_column},
	{"comment", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member statistics[] = {
	{"name", NAME, NULL},
	{"definition", TEXT, NULL},
	{"target", INTEGER, NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member trigger_or_rule[] = {
	{"name", NAME, NULL},
	{"definition", TEXT, NULL},
	{"enabled", CHARACTER, NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member policy[] = {
	{"name", NAME, NULL},
	{"command", CHARACTER, NULL},
	{"permissive", BOOLEAN, NULL},
	{"roles", NAMES, NULL},
	{"using", OR_NULL(TEXT), NULL},
	{"check", OR_NULL(TEXT), NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member sequence[] = {
	{"column", NAME, NULL},
	{"schema", NAME, NULL},
	{"name", NAME, NULL},
	{"identity", BOOLEAN, NULL},
	{"default", BOOLEAN, NULL},
	{"type", TEXT, NULL},
	{"start", INTEGER, NULL},
	{"increment", INTEGER, NULL},
	{"minimum", INTEGER, NULL},
	{"maximum", INTEGER, NULL},
	{"cache", INTEGER, NULL},
	{"cycle", BOOLEAN, NULL},
	{"last_value", OR_NULL(INTEGER), NULL},
	{"comment", OR_NULL(TEXT), NULL},
	{"grants", OR_NULL(OBJECTS), grant},
	{NULL, 0, NULL}
};

static const Member dependent[] = {
	{"kind", TEXT, NULL},
	{"identity", TEXT, NULL},
	{"definition", OR_NULL(TEXT), NULL},
	{NULL, 0, NULL}
};

static const Member manifest_members[] = {
	{"layout", OBJECT, layout},
	{"table", OBJECT, table},
	{"columns", OBJECTS, column},
	{"types", OBJECTS, type},
	{"constraints", OBJECTS, constraint},
	{"indexes", OBJECTS, index_members},
	{"statistics", OBJECTS, statistics},
	{"triggers", OBJECTS, trigger_or_rule},
	{"policies", OBJECTS, policy},
	{"rules", OBJECTS, trigger_or_rule},
	{"sequences", OBJECTS, sequence},
	{"dependents", OBJECTS, dependent},
	{NULL, 0, NULL}
};

static void check_members(const json_t *object, const Member *members,
						  const char *where);

/* Is it a text without a zero byte, of a length? */
static bool
is_text(const json_t *value, size_t min, size_t max)
{
	size_t		len;

	if (!json_is_string(value))
		return false;
	len = json_string_length(value);
	return len >= min && len <= max &&
		strlen(json_string_value(value)) == len;
}

/*
 * Is it a name?  In UTF-8 it may be longer than it was; ERROR when there is
 * no such name here.
 */
static bool
is_name(const json_t *value)
{
	char	   *name;

	if (!is_text(value, 1, (NAMEDATALEN - 1) * MAX_CONVERSION_GROWTH))
		return false;
	if (json_string_length(value) < NAMEDATALEN &&
		GetDatabaseEncoding() == PG_UTF8)
		return true;
	name = cmek_manifest_string(value);
	if (strlen(name) >= NAMEDATALEN && pg_mbstrlen(name) < NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name \"%s\" of the snapshot is too long for this database's encoding",
						name)));
	return strlen(name) < NAMEDATALEN;
}

/* Is it a list of texts, or of names and nulls? */
static bool
is_list(const json_t *value, bool names)
{
	if (!json_is_array(value))
		return false;
	for (size_t i = 0; i < json_array_size(value); i++)
	{
		json_t	   *item = json_array_get(value, i);

		if (!(names && json_is_null(item)) &&
			!(names ? is_name(item) : is_text(item, 0, MaxAllocSize / 8)))
			return false;
	}
	return true;
}

/* Is a value what the member says, not looking into objects? */
static bool
is_of_type(const json_t *value, char type)
{
	if (isupper((unsigned char) type))
	{
		if (json_is_null(value))
			return true;
		type = tolower((unsigned char) type);
	}
	switch (type)
	{
		case NAME:
			return is_name(value);
		case TEXT:
			return is_text(value, 0, MaxAllocSize / 8);
		case CHARACTER:
			return is_text(value, 0, 1);
		case INTEGER:
			return json_is_integer(value);
		case BOOLEAN:
			return json_is_boolean(value);
		case TEXTS:
		case NAMES:
			return is_list(value, type == NAMES);
		case OBJECT:
			return json_is_object(value);
		default:
			return json_is_array(value);
	}
}

/* Complain of a member. */
static void
report_member(const char *where)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the manifest of the snapshot is damaged or forged"),
			 errdetail("Member \"%s\" is missing or not of its type.", where)));
}

/* Look at one member, and into it. */
static void
check_member(const json_t *value, const Member *member, const char *where)
{
	if (value == NULL || !is_of_type(value, member->type))
		report_member(where);
	if (member->members == NULL)
		return;
	if (json_is_object(value))
		check_members(value, member->members, where);
	for (size_t i = 0; i < json_array_size(value); i++)
	{
		if (!json_is_object(json_array_get(value, i)))
			report_member(where);
		check_members(json_array_get(value, i), member->members, where);
	}
}

/* Look at all members of an object. */
static void
check_members(const json_t *object, const Member *members, const char *where)
{
	char		path[NAMEDATALEN * 2];

	for (const Member *m = members; m->name != NULL; m++)
	{
		snprintf(path, sizeof(path), "%s%s%s", where,
				 where[0] == '\0' ? "" : ".", m->name);
		check_member(json_object_get(object, m->name), m, path);
	}
}

/* See manifest.h. */
void
cmek_manifest_check(const json_t *manifest)
{
	json_t	   *version = json_object_get(manifest, "version");

	if (!json_is_integer(version))
		report_member("version");
	if (json_integer_value(version) != CMEK_MANIFEST_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("manifests of version " INT64_FORMAT " cannot be read",
						(int64) json_integer_value(version)),
				 errhint("Restore the snapshot with the version of cmek that took it, or a later one.")));
	check_members(manifest, manifest_members, "");
}

/* See manifest.h. */
char *
cmek_manifest_string(const json_t *value)
{
	const char *text = json_string_value(value);
	char	   *own;

	if (text == NULL)
		return NULL;
	own = pstrdup(text);
	return pg_any_to_server(own, strlen(own), PG_UTF8);
}

/* See manifest.h. */
char *
cmek_manifest_text(const json_t *object, const char *name)
{
	return cmek_manifest_string(json_object_get(object, name));
}

/* See manifest.h. */
char
cmek_manifest_char(const json_t *object, const char *name)
{
	return json_string_value(json_object_get(object, name))[0];
}

/* See manifest.h. */
int64
cmek_manifest_int(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

/* See manifest.h. */
bool
cmek_manifest_bool(const json_t *object, const char *name)
{
	return json_is_true(json_object_get(object, name));
}
