/*-------------------------------------------------------------------------
 *
 * manifest.c
 *	  The manifest of a snapshot: a table's definition as JSON, out of the
 *	  catalogs.
 *
 *	   version, layout        who can read the rows at all
 *	   keys                   wrapped keys: keys/portable.c
 *	   table                  names, options, grants, labels, parents
 *	   columns                every one ever, in order: rows are stored so
 *	   types                  what the types of columns are made of
 *	   constraints, indexes, statistics, triggers, policies, rules, sequences
 *	   dependents             what falls with the table: for people
 *
 * The members of each are in manifestcheck.c.  Definitions are what PostgreSQL
 * itself prints, one member for each object.
 *
 * Needs no key.  Runs queries on system catalogs only, with every name
 * qualified, and no code of a user's: what prints expressions calls output
 * functions, which only superusers make.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc_details.h"
#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "keys/portable.h"
#include "lifecycle/manifest.h"

/* Grants, null for the default; explode takes the list */
#define GRANTS(acl) \
	"CASE WHEN " acl " IS NOT NULL THEN coalesce((" \
	" SELECT pg_catalog.json_agg(pg_catalog.json_build_object(" \
	"  'grantee', CASE WHEN g.grantee <> 0 THEN pg_catalog.pg_get_userbyid(g.grantee) END," \
	"  'privilege', g.privilege_type, 'grantable', g.is_grantable))" \
	" FROM pg_catalog.aclexplode(" acl ") g), '[]') END"

#define TEXTS(array) "coalesce(pg_catalog.to_json(" array "), '[]')"

/* An array of objects */
#define OBJECTS(members, from_where, order) \
	"SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(" members \
	") ORDER BY " order "), '[]') FROM " from_where

/* $1 is the table everywhere but in query_types */
static const char query_table[] =
"SELECT pg_catalog.json_build_object("
" 'schema', n.nspname, 'name', c.relname,"
" 'owner', pg_catalog.pg_get_userbyid(c.relowner),"
" 'kind', c.relkind, 'persistence', c.relpersistence,"
" 'options', " TEXTS("c.reloptions") ","
" 'toast_options', " TEXTS("t.reloptions") ","
" 'tablespace', s.spcname,"
" 'row_security', c.relrowsecurity,"
" 'force_row_security', c.relforcerowsecurity,"
" 'replica_identity', c.relreplident,"
" 'comment', pg_catalog.obj_description(c.oid, 'pg_class'),"
" 'grants', " GRANTS("c.relacl") ","
" 'labels', (" OBJECTS("'provider', l.provider, 'label', l.label",
					   "pg_catalog.pg_seclabel l WHERE l.classoid = c.tableoid AND l.objoid = c.oid AND l.objsubid = 0",
					   "l.provider") "),"
" 'parents', (" OBJECTS("'schema', pn.nspname, 'name', p.relname",
						"pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent"
						" JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid",
						"i.inhseqno") "),"
" 'partition_bound', pg_catalog.pg_get_expr(c.relpartbound, c.oid),"
" 'query', CASE WHEN c.relkind = 'm' THEN pg_catalog.pg_get_viewdef(c.oid) END,"
" 'publications', (SELECT coalesce(pg_catalog.json_agg(p.pubname ORDER BY p.pubname), '[]')"
"  FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = c.oid))"
" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
" LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid"
" LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace"
" WHERE c.oid = $1";

static const char query_columns[] =
OBJECTS("'name', a.attname, 'dropped', a.attisdropped,"
		" 'type', CASE WHEN NOT a.attisdropped THEN pg_catalog.format_type(a.atttypid, a.atttypmod) END,"
		" 'type_oid', a.atttypid::int8, 'length', a.attlen, 'by_value', a.attbyval,"
		" 'align', a.attalign, 'storage', a.attstorage, 'compression', a.attcompression,"
		" 'collation_schema', n.nspname, 'collation', l.collname,"
		" 'not_null', a.attnotnull, 'identity', a.attidentity, 'generated', a.attgenerated,"
		" 'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),"
		" 'statistics', coalesce(a.attstattarget::int4, -1),"
		" 'options', (SELECT coalesce(pg_catalog.json_agg(o), '[]') FROM pg_catalog.unnest(a.attoptions) o"
		"  WHERE NOT pg_catalog.starts_with(o, '" CMEK_RESERVED_OPTION "')),"
		" 'comment', pg_catalog.col_description(a.attrelid, a.attnum),"
		" 'grants', " GRANTS("a.attacl"),
		"pg_catalog.pg_attribute a"
		" LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
		" LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation AND l.oid <> t.typcollation"
		" LEFT JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace"
		" LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
		" WHERE a.attrelid = $1 AND a.attnum > 0",
		"a.attnum");

/*
 * A foreign key to a partitioned table has rows for its partitions, too: they
 * come back with it.
 */
static const char query_constraints[] =
OBJECTS("'name', c.conname, 'kind', c.contype,"
		" 'definition', pg_catalog.pg_get_constraintdef(c.oid),"
		" 'column', (SELECT a.attname FROM pg_catalog.pg_attribute a"
		"  WHERE c.contype = 'n' AND a.attrelid = c.conrelid AND a.attnum = c.conkey[1]),"
		" 'self', c.confrelid = c.conrelid, 'tablespace', s.spcname,"
		" 'clustered', coalesce(i.indisclustered, false),"
		" 'replica_identity', coalesce(i.indisreplident, false),"
		" 'comment', pg_catalog.obj_description(c.oid, 'pg_constraint')",
		"pg_catalog.pg_constraint c"
		" LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.conindid AND c.contype IN ('p', 'u', 'x')"
		" LEFT JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid"
		" LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace"
		" WHERE c.conrelid = $1 AND c.contype IN ('n', 'p', 'u', 'x', 'c', 'f')"
		" AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint p"
		"  WHERE p.oid = c.conparentid AND p.conrelid = c.conrelid)",
		"pg_catalog.strpos('npuxcf', c.contype::text), c.conname");

static const char query_indexes[] =
OBJECTS("'name', x.relname, 'definition', pg_catalog.pg_get_indexdef(x.oid),"
		" 'tablespace', s.spcname, 'clustered', i.indisclustered,"
		" 'replica_identity', i.indisreplident,"
		" 'statistics', (" OBJECTS("'number', a.attnum, 'target', a.attstattarget::int4",
								   "pg_catalog.pg_attribute a WHERE a.attrelid = x.oid AND a.attnum > 0 AND a.attstattarget >= 0",
								   "a.attnum") "),"
		" 'comment', pg_catalog.obj_description(x.oid, 'pg_class')",
		"pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid"
		" LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace"
		" WHERE i.indrelid = $1 AND i.indisvalid"
		" AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = x.oid"
		"  AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u', 'x'))",
		"x.relname");

static const char query_statistics[] =
OBJECTS("'name', s.stxname, 'definition', pg_catalog.pg_get_statisticsobjdef(s.oid),"
		" 'target', coalesce(s.stxstattarget::int4, -1),"
		" 'comment', pg_catalog.obj_description(s.oid, 'pg_statistic_ext')",
		"pg_catalog.pg_statistic_ext s WHERE s.stxrelid = $1",
		"s.stxname");

static const char query_triggers[] =
OBJECTS("'name', t.tgname, 'definition', pg_catalog.pg_get_triggerdef(t.oid),"
		" 'enabled', t.tgenabled,"
		" 'comment', pg_catalog.obj_description(t.oid, 'pg_trigger')",
		"pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal",
		"t.tgname");

static const char query_policies[] =
OBJECTS("'name', p.polname, 'command', p.polcmd, 'permissive', p.polpermissive,"
		" 'roles', (SELECT pg_catalog.json_agg(CASE WHEN r <> 0 THEN pg_catalog.pg_get_userbyid(r) END)"
		"  FROM pg_catalog.unnest(p.polroles) r),"
		" 'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid),"
		" 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),"
		" 'comment', pg_catalog.obj_description(p.oid, 'pg_policy')",
		"pg_catalog.pg_policy p WHERE p.polrelid = $1",
		"p.polname");

static const char query_rules[] =
OBJECTS("'name', r.rulename, 'definition', pg_catalog.pg_get_ruledef(r.oid),"
		" 'enabled', r.ev_enabled,"
		" 'comment', pg_catalog.obj_description(r.oid, 'pg_rewrite')",
		"pg_catalog.pg_rewrite r WHERE r.ev_class = $1 AND r.rulename <> '_RETURN'",
		"r.rulename");

/* "default": the column's default is the next value of it and nothing else */
static const char query_sequences[] =
OBJECTS("'column', a.attname, 'schema', n.nspname, 'name', c.relname,"
		" 'identity', d.deptype = 'i',"
		" 'default', coalesce(pg_catalog.pg_get_expr(f.adbin, f.adrelid) ="
		"  pg_catalog.format('nextval(%L::regclass)', c.oid::pg_catalog.regclass), false),"
		" 'type', pg_catalog.format_type(s.seqtypid, NULL), 'start', s.seqstart,"
		" 'increment', s.seqincrement, 'minimum', s.seqmin, 'maximum', s.seqmax,"
		" 'cache', s.seqcache, 'cycle', s.seqcycle,"
		" 'last_value', pg_catalog.pg_sequence_last_value(c.oid),"
		" 'comment', pg_catalog.obj_description(c.oid, 'pg_class'),"
		" 'grants', " GRANTS("c.relacl"),
		"pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'"
		" JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
		" LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum"
		" WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
		" AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
		" AND d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')",
		"a.attnum, c.relname");

/*
 * What needs the table, its row type or a view of it.  Left out is what the
 * table itself is made of, which is elsewhere in the manifest.
 */
static const char query_dependents[] =
"WITH RECURSIVE rels (oid) AS ("
" SELECT $1::pg_catalog.oid"
" UNION"
" SELECT w.ev_class FROM rels r JOIN pg_catalog.pg_class c ON c.oid = r.oid"
"  LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype"
"  CROSS JOIN LATERAL (VALUES (c.tableoid, c.oid), (t.tableoid, t.oid), (t.tableoid, t.typarray)) o (class, oid)"
"  JOIN pg_catalog.pg_depend d ON d.refclassid = o.class AND d.refobjid = o.oid"
"  JOIN pg_catalog.pg_rewrite w ON d.classid = w.tableoid AND w.oid = d.objid),"
"needs AS ("
" SELECT DISTINCT d.classid, d.objid, d.objsubid FROM rels r JOIN pg_catalog.pg_class c ON c.oid = r.oid"
"  LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype"
"  CROSS JOIN LATERAL (VALUES (c.tableoid, c.oid), (t.tableoid, t.oid), (t.tableoid, t.typarray)) o (class, oid)"
"  JOIN pg_catalog.pg_depend d ON d.refclassid = o.class AND d.refobjid = o.oid"
" WHERE d.deptype IN ('n', 'a')"
" AND (d.classid, d.objid) NOT IN ("
"  SELECT tableoid, oid FROM pg_catalog.pg_constraint WHERE conrelid IN (SELECT oid FROM rels)"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_attrdef WHERE adrelid IN (SELECT oid FROM rels)"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_trigger WHERE tgrelid IN (SELECT oid FROM rels) OR tgisinternal"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_policy WHERE polrelid IN (SELECT oid FROM rels)"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_statistic_ext WHERE stxrelid IN (SELECT oid FROM rels)"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_publication_rel WHERE prrelid IN (SELECT oid FROM rels)"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_rewrite"
"  UNION ALL SELECT c.tableoid, c.oid FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid IN (SELECT oid FROM rels)"
"  UNION ALL SELECT tableoid, oid FROM pg_catalog.pg_class WHERE relkind = 'S' OR oid IN (SELECT oid FROM rels))"
" UNION"
" SELECT c.tableoid, c.oid, 0 FROM rels r JOIN pg_catalog.pg_class c ON c.oid = r.oid WHERE c.oid <> $1)"
OBJECTS("'kind', i.type, 'identity', i.identity,"
		" 'definition', CASE"
		"  WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid)"
		"  WHEN f.oid IS NOT NULL THEN pg_catalog.pg_get_constraintdef(f.oid)"
		"  WHEN t.oid IS NOT NULL THEN pg_catalog.pg_get_triggerdef(t.oid)"
		"  WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END",
		"needs d"
		" CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) i"
		" LEFT JOIN pg_catalog.pg_class c ON c.tableoid = d.classid AND c.oid = d.objid"
		" LEFT JOIN pg_catalog.pg_constraint f ON f.tableoid = d.classid AND f.oid = d.objid"
		" LEFT JOIN pg_catalog.pg_trigger t ON t.tableoid = d.classid AND t.oid = d.objid"
		" WHERE i.type IS NOT NULL",
		"i.type, i.identity");

/* $1: types.  What they are made of, down to built-in ones */
static const char query_types[] =
"WITH RECURSIVE t (oid) AS ("
" SELECT u FROM pg_catalog.unnest($1::pg_catalog.oid[]) u"
" UNION"
" SELECT x.oid FROM t JOIN pg_catalog.pg_type p ON p.oid = t.oid"
" CROSS JOIN LATERAL ("
"  SELECT p.typelem WHERE p.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc"
"  UNION ALL SELECT p.typbasetype"
"  UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = p.typrelid AND a.attnum > 0"
"  UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE p.oid IN (r.rngtypid, r.rngmultitypid)"
"  UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE p.oid = r.rngmultitypid) x (oid)"
" WHERE x.oid <> 0) "
OBJECTS("'oid', t.oid::int8, 'name', pg_catalog.format_type(t.oid, NULL), 'kind', p.typtype,"
		" 'length', p.typlen, 'by_value', p.typbyval, 'align', p.typalign,"
		" 'element', CASE WHEN p.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc"
		"  THEN p.typelem::int8 ELSE 0 END,"
		" 'base', p.typbasetype::int8,"
		" 'subtype', coalesce((SELECT r.rngsubtype::int8 FROM pg_catalog.pg_range r WHERE p.oid IN (r.rngtypid, r.rngmultitypid)), 0),"
		" 'labels', (" OBJECTS("'oid', e.oid::int8, 'label', e.enumlabel",
							   "pg_catalog.pg_enum e WHERE e.enumtypid = p.oid", "e.oid") "),"
		" 'attributes', (" OBJECTS("'type', a.atttypid::int8, 'length', a.attlen, 'by_value', a.attbyval, 'align', a.attalign, 'options', " TEXTS("a.attoptions"),
								   "pg_catalog.pg_attribute a WHERE a.attrelid = p.typrelid AND a.attnum > 0", "a.attnum") ")",
		"t JOIN pg_catalog.pg_type p ON p.oid = t.oid",
		"t.oid");

/* The sections that a query fills, whole */
static const struct
{
	const char *name;
	const char *query;
}			sections[] = {
	{"table", query_table},
	{"columns", query_columns},
	{"constraints", query_constraints},
	{"indexes", query_indexes},
	{"statistics", query_statistics},
	{"triggers", query_triggers},
	{"policies", query_policies},
	{"rules", query_rules},
	{"sequences", query_sequences},
	{"dependents", query_dependents},
};

/* See manifest.h. */
int
cmek_manifest_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"datestyle", "ISO, YMD"},
		{"intervalstyle", "postgres"},
		{"extra_float_digits", "3"},
		{"standard_conforming_strings", "on"},
		{"quote_all_identifiers", "off"},
		{"default_tablespace", ""},
	};
	int			level = NewGUCNestLevel();

	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
	return level;
}

/* The one value of a query, as JSON.  SPI is connected. */
static json_t *
query_json(const char *query, Oid argtype, Datum arg)
{
	json_error_t error;
	json_t	   *result;
	char	   *text;

	if (SPI_execute_with_args(query, 1, &argtype, &arg, NULL, true, 0) !=
		SPI_OK_SELECT || SPI_processed != 1 ||
		(text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
							 1)) == NULL)
		elog(ERROR, "query of the catalogs for a manifest returned nothing");
	result = json_loads(pg_server_to_any(text, strlen(text), PG_UTF8), 0,
						&error);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("the definition of a table could not be written as JSON"),
				 errdetail("%s.", error.text)));
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * Connect to SPI, looking at the catalogs as they are now: the snapshot of a
 * long transaction may be from before the last ALTER TABLE.
 */
static void
query_begin(void)
{
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

/* And away. */
static void
query_end(void)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	PopActiveSnapshot();
}

/* See manifest.h. */
json_t *
cmek_manifest_types(const Oid *types, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));
	int			count = 0;
	ArrayType  *array;
	json_t	   *result;

	for (int i = 0; i < n; i++)
	{
		if (OidIsValid(types[i]))
			elements[count++] = ObjectIdGetDatum(types[i]);
	}
	array = construct_array(elements, count, OIDOID, sizeof(Oid), true,
							TYPALIGN_INT);
	query_begin();
	result = query_json(query_types, OIDARRAYOID, PointerGetDatum(array));
	query_end();
	return result;
}

/* The bytes of a value, as they are in a row, in hex. */
static json_t *
value_bytes(Form_pg_attribute att, Datum value)
{
	char		buf[sizeof(Datum)];
	const char *bytes = buf;
	Size		len;
	char	   *hex;

	if (att->attbyval)
	{
		len = att->attlen;
		store_att_byval(buf, value, att->attlen);
	}
	else
	{
		bytes = DatumGetPointer(att->attlen == -1 ?
								PointerGetDatum(PG_DETOAST_DATUM(value)) : value);
		len = att->attlen == -1 ? VARSIZE(bytes) : (Size) att->attlen;
	}
	hex = palloc(len * 2 + 1);
	hex[hex_encode(bytes, len, hex)] = '\0';
	return json_string(hex);
}

/*
 * The value of a column in rows from before it was added, which do not store
 * it.  The type's own functions are not asked: a text need not come back the
 * same.
 */
static void
put_missing_values(json_t *columns, TupleDesc desc)
{
	if (json_array_size(columns) != (size_t) desc->natts)
		elog(ERROR, "catalogs and relation cache disagree on the number of columns");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		json_t	   *missing = json_null();

		if (att->atthasmissing && !att->attisdropped &&
			desc->constr != NULL && desc->constr->missing != NULL &&
			desc->constr->missing[i].am_present)
			missing = value_bytes(att, desc->constr->missing[i].am_value);
		(void) json_object_set_new(json_array_get(columns, i), "missing",
								   missing);
	}
}

/* Which servers store rows in the same way. */
static json_t *
make_layout(void)
{
	return json_pack("{s:i, s:b, s:i}", "max_align", MAXIMUM_ALIGNOF,
					 "big_endian",
#ifdef WORDS_BIGENDIAN
					 1,
#else
					 0,
#endif
					 "block_size", BLCKSZ);
}

/* All of it, into an object that the caller frees. */
static void
fill(json_t *manifest, Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	TupleDesc	desc = RelationGetDescr(rel);
	Oid		   *types = palloc0(Max(desc->natts, 1) * sizeof(Oid));
	json_t	   *keys = cmek_portable_keys(relid);

	(void) json_object_set_new(manifest, "keys",
							   keys == NULL ? json_null() : keys);
	(void) json_object_set_new(manifest, "version",
							   json_integer(CMEK_MANIFEST_VERSION));
	(void) json_object_set_new(manifest, "layout", make_layout());
	query_begin();
	for (size_t i = 0; i < lengthof(sections); i++)
		(void) json_object_set_new(manifest, sections[i].name,
								   query_json(sections[i].query, OIDOID,
											  ObjectIdGetDatum(relid)));
	query_end();
	put_missing_values(json_object_get(manifest, "columns"), desc);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			types[i] = TupleDescAttr(desc, i)->atttypid;
	}
	(void) json_object_set_new(manifest, "types",
							   cmek_manifest_types(types, desc->natts));
	cmek_manifest_check(manifest);
}

/* See snapshot.h. */
json_t *
cmek_manifest_make(Relation rel)
{
	json_t	   *manifest = cmek_json_new();
	int			level = cmek_manifest_settings();

	PG_TRY();
	{
		fill(manifest, rel);
	}
	PG_CATCH();
	{
		json_decref(manifest);
		PG_RE_THROW();
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
	return manifest;
}
