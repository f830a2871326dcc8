/*-------------------------------------------------------------------------
 *
 * recreate.c
 *	  A new table out of a manifest: its columns, and where and how they are
 *	  stored.
 *
 * Made before its rows are: what decides how they are stored is here, what
 * looks at them or would change them is in recreaterest.c.  Generated columns
 * cannot be made later; their values come with the rows.
 *
 * Runs as the new owner, in a security-restricted operation: the caller sees to
 * that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/toast_compression.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "heap/heap.h"
#include "lifecycle/manifest.h"

#define OPTION_NAMESPACE "cmek"	/* of cmek.key */

/* What is known while the table is made */
typedef struct Making
{
	CmekRecreate r;				/* the first member: steps are given it */
	const char *key;			/* NULL: the default */
	const Oid  *types;
	const int32 *typmods;
} Making;

/* ----------
 * The statement
 * ----------
 */

/* Options as WITH has them: "name=value" */
static List *
make_options(const json_t *texts, const char *namespace)
{
	List	   *options = NIL;

	for (size_t i = 0; i < json_array_size(texts); i++)
	{
		char	   *name = cmek_manifest_string(json_array_get(texts, i));
		char	   *value = strchr(name, '=');

		if (value == NULL)
			continue;
		*value++ = '\0';
		options = lappend(options,
						  makeDefElemExtended(unconstify(char *, namespace),
											  name,
											  (Node *) makeString(value),
											  DEFELEM_UNSPEC, -1));
	}
	return options;
}

/* GENERATED ALWAYS AS (...) */
static Node *
make_generated(const json_t *column)
{
	Constraint *generated = makeNode(Constraint);

	generated->contype = CONSTR_GENERATED;
	generated->generated_when = ATTRIBUTE_IDENTITY_ALWAYS;
	CMEK_SET_GENERATED_KIND(generated,
							cmek_manifest_char(column, "generated"));
	generated->raw_expr =
		cmek_recreate_parse_expr(cmek_manifest_text(column, "default"));
	generated->location = -1;
	return (Node *) generated;
}

/* COLLATE */
static CollateClause *
make_collation(const json_t *column)
{
	char	   *schema = cmek_manifest_text(column, "collation_schema");
	char	   *name = cmek_manifest_text(column, "collation");
	CollateClause *clause;

	if (schema == NULL || name == NULL)
		return NULL;
	clause = makeNode(CollateClause);
	clause->collname = list_make2(makeString(schema), makeString(name));
	clause->location = -1;
	return clause;
}

/* The name of a compression method, NULL for the default */
static char *
compression_name(const json_t *column)
{
	switch (cmek_manifest_char(column, "compression"))
	{
		case TOAST_PGLZ_COMPRESSION:
			return "pglz";
		case TOAST_LZ4_COMPRESSION:
			return "lz4";
		default:
			return NULL;
	}
}

/* One column; bare: with nothing that could fail in this database. */
static ColumnDef *
make_column(const json_t *column, Oid type, int32 typmod, bool bare)
{
	ColumnDef  *def = makeNode(ColumnDef);

	def->colname = cmek_manifest_text(column, "name");
	def->typeName = makeTypeNameFromOid(type, typmod);
	def->collClause = make_collation(column);
	def->is_local = true;
	def->location = -1;
	if (bare)
		return def;
	def->compression = compression_name(column);
	if (CMEK_GENERATED_IS_KNOWN(cmek_manifest_char(column, "generated")) &&
		!json_is_null(json_object_get(column, "default")))
		def->constraints = list_make1(make_generated(column));
	return def;
}

/* CREATE TABLE */
static CreateStmt *
make_statement(const Making *m, bool bare)
{
	const json_t *table = json_object_get(m->r.manifest, "table");
	const json_t *columns = json_object_get(m->r.manifest, "columns");
	CreateStmt *stmt = makeNode(CreateStmt);

	stmt->relation = cmek_recreate_table_name(&m->r);
	if (cmek_manifest_char(table, "persistence") == RELPERSISTENCE_UNLOGGED)
		stmt->relation->relpersistence = RELPERSISTENCE_UNLOGGED;
	stmt->accessMethod = get_am_name(cmek_heap_am_oid());
	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		if (OidIsValid(m->types[i]))
			stmt->tableElts = lappend(stmt->tableElts,
									  make_column(json_array_get(columns, i),
												  m->types[i], m->typmods[i],
												  bare));
	}
	if (!bare)
	{
		stmt->options =
			list_concat(make_options(json_object_get(table, "options"), NULL),
						make_options(json_object_get(table, "toast_options"),
									 "toast"));
		stmt->tablespacename = cmek_manifest_text(table, "tablespace");
	}
	if (m->key != NULL)
		stmt->options = lappend(stmt->options,
								makeDefElemExtended(OPTION_NAMESPACE, "key",
													(Node *) makeString(pstrdup(m->key)),
													DEFELEM_UNSPEC, -1));
	stmt->oncommit = ONCOMMIT_NOOP;
	return stmt;
}

/* ----------
 * Running it
 * ----------
 */

static const char *const statement_text = "cmek.restore_snapshot()";

/* A step: the table with all that it can have now. */
static void
create_whole(CmekRecreate *r, const json_t *object)
{
	cmek_recreate_run((Node *) make_statement((Making *) r, false),
					  statement_text);
}

/*
 * Make it.  When it fails with what it had, it is tried again without what
 * another database may lack: a function, a parameter, a tablespace.  What is
 * not there in the end is found by recreaterest.c.
 */
static void
create(Making *m)
{
	if (!cmek_recreate_try(&m->r, NULL, create_whole, NULL))
		cmek_recreate_run((Node *) make_statement(m, true), statement_text);
}

/* Have values stored as they were: in line, compressed, outside. */
static void
set_storage(const CmekRecreate *r)
{
	const json_t *columns = json_object_get(r->manifest, "columns");
	Relation	rel = table_open(r->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *cmds = NIL;
	int			attno = 0;

	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		const json_t *column = json_array_get(columns, i);
		char		storage = cmek_manifest_char(column, "storage");
		const char *name;

		if (cmek_manifest_bool(column, "dropped"))
			continue;
		if (TupleDescAttr(desc, attno++)->attstorage == storage)
			continue;
		name = storage == TYPSTORAGE_PLAIN ? "PLAIN" :
			storage == TYPSTORAGE_EXTERNAL ? "EXTERNAL" :
			storage == TYPSTORAGE_MAIN ? "MAIN" : "EXTENDED";
		cmds = lappend(cmds,
					   cmek_recreate_cmd(AT_SetStorage,
										 cmek_manifest_text(column, "name"),
										 (Node *) makeString(pstrdup(name))));
	}
	table_close(rel, NoLock);
	if (cmds != NIL)
		cmek_recreate_alter(r, cmds, statement_text);
}

/* Complain of names under which no table can be restored. */
static void
check_name(const char *schema, const char *name)
{
	Oid			namespace = LookupExplicitNamespace(schema, false);

	if (isAnyTempNamespace(namespace) || strcmp(schema, "pg_temp") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("a snapshot cannot be restored into a temporary table")));
	if (OidIsValid(get_relname_relid(name, namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists in schema \"%s\"",
						name, schema),
				 errhint("Choose another name for the restored table.")));
}

/* See snapshot.h. */
Oid
cmek_recreate_table(const json_t *manifest, const char *schema,
					const char *name, const char *key, Oid owner)
{
	Making		m = {0};
	size_t		natts;
	int			level;

	cmek_manifest_check(manifest);
	if (GetUserId() != owner)
		elog(ERROR, "a table is recreated by its owner");
	natts = json_array_size(json_object_get(manifest, "columns"));
	m.types = palloc(Max(natts, 1) * sizeof(Oid));
	m.typmods = palloc(Max(natts, 1) * sizeof(int32));
	m.r.manifest = manifest;
	m.r.schema = pstrdup(schema);
	m.r.name = pstrdup(name);
	m.r.context = CurrentMemoryContext;
	m.key = key;

	level = cmek_manifest_settings();
	check_name(schema, name);
	cmek_manifest_resolve_types(manifest, unconstify(Oid *, m.types),
								unconstify(int32 *, m.typmods));
	create(&m);
	m.r.relid = get_relname_relid(name, get_namespace_oid(schema, false));
	set_storage(&m.r);
	AtEOXact_GUC(true, level);
	return m.r.relid;
}
