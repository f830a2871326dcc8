/*-------------------------------------------------------------------------
 *
 * recreatecol.c
 *	  What columns have besides a type: NOT NULL, defaults, identities and the
 *	  sequences of these, settings, comments.
 *
 * A sequence goes on where it was, and never before the largest value that
 * the rows have: rows and sequence were not read at the same instant.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/defrem.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "lifecycle/manifest.h"

static const char *const statement_text = "cmek.restore_snapshot()";

/* A new column as it is by now, copied; ERROR when there is none. */
static Form_pg_attribute
get_column(const CmekRecreate *r, const char *name)
{
	HeapTuple	tuple = SearchSysCacheCopyAttName(r->relid, name);

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist", name)));
	return (Form_pg_attribute) GETSTRUCT(tuple);
}

/* Do a step for every column that is not dropped. */
static void
for_columns(CmekRecreate *r, const char *what, CmekRecreateStep step)
{
	const json_t *columns = json_object_get(r->manifest, "columns");

	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		const json_t *column = json_array_get(columns, i);

		if (!cmek_manifest_bool(column, "dropped"))
			(void) cmek_recreate_try(r,
									 psprintf("%s of column \"%s\"", what,
											  cmek_manifest_text(column, "name")),
									 step, column);
	}
}

/* ----------
 * NOT NULL
 * ----------
 */

/*
 * A step: all NOT NULL constraints under their names, which they have from 18
 * on.  Earlier versions do not parse them.
 */
static void
add_named_not_nulls(CmekRecreate *r, const json_t *constraints)
{
	List	   *cmds = NIL;

	for (size_t i = 0; i < json_array_size(constraints); i++)
	{
		const json_t *object = json_array_get(constraints, i);
		AlterTableStmt *stmt;
		AlterTableCmd *cmd;

		if (cmek_manifest_char(object, "kind") != 'n')
			continue;
		stmt = (AlterTableStmt *)
			cmek_recreate_parse(psprintf("ALTER TABLE t ADD CONSTRAINT c %s",
										 cmek_manifest_text(object, "definition")),
								T_AlterTableStmt);
		cmd = linitial_node(AlterTableCmd, stmt->cmds);
		if (list_length(stmt->cmds) != 1 ||
			cmd->subtype != AT_AddConstraint ||
			castNode(Constraint, cmd->def)->contype != CONSTR_NOTNULL)
			elog(ERROR, "not a NOT NULL constraint");
		castNode(Constraint, cmd->def)->conname =
			cmek_manifest_text(object, "name");
		cmds = lappend(cmds, cmd);
	}
	if (cmds != NIL)
		cmek_recreate_alter(r, cmds, statement_text);
}

/* A step: all columns at once, in one pass over the rows */
static void
set_not_nulls(CmekRecreate *r, const json_t *columns)
{
	List	   *cmds = NIL;

	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		const json_t *column = json_array_get(columns, i);
		char	   *name = cmek_manifest_text(column, "name");

		if (!cmek_manifest_bool(column, "dropped") &&
			cmek_manifest_bool(column, "not_null") &&
			!get_column(r, name)->attnotnull)
			cmds = lappend(cmds, cmek_recreate_cmd(AT_SetNotNull, name, NULL));
	}
	if (cmds != NIL)
		cmek_recreate_alter(r, cmds, statement_text);
}

/* A step: one column */
static void
set_not_null(CmekRecreate *r, const json_t *column)
{
	char	   *name = cmek_manifest_text(column, "name");

	if (cmek_manifest_bool(column, "not_null") &&
		!get_column(r, name)->attnotnull)
		cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_SetNotNull, name,
															NULL)),
							statement_text);
}

/* ----------
 * Sequences
 * ----------
 */

/* See manifest.h. */
Oid
cmek_recreate_sequence_of(const CmekRecreate *r, const char *column,
						  bool identity)
{
	ListCell   *lc;

	foreach(lc, getOwnedSequences(r->relid))
	{
		Oid			relid;
		int32		attnum;

		if (sequenceIsOwned(lfirst_oid(lc),
							identity ? DEPENDENCY_INTERNAL : DEPENDENCY_AUTO,
							&relid, &attnum) &&
			relid == r->relid && attnum == get_attnum(r->relid, column))
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* A number as an option. */
static DefElem *
number_option(const json_t *object, const char *member, const char *option)
{
	char	   *text = psprintf(INT64_FORMAT,
								cmek_manifest_int(object, member));

	return makeDefElem(pstrdup(option), (Node *) makeFloat(text), -1);
}

/* The options of a sequence, but for what it is called and counts in. */
static List *
number_options(const json_t *object)
{
	return list_make5(number_option(object, "start", "start"),
					  number_option(object, "increment", "increment"),
					  number_option(object, "minimum", "minvalue"),
					  number_option(object, "maximum", "maxvalue"),
					  number_option(object, "cache", "cache"));
}

/* CYCLE */
static DefElem *
cycle_option(const json_t *object)
{
	return makeDefElem("cycle",
					   (Node *) makeBoolean(cmek_manifest_bool(object, "cycle")),
					   -1);
}

/* What a sequence is called here: its old name when that is free. */
static char *
sequence_name(const CmekRecreate *r, const json_t *object)
{
	char	   *name = cmek_manifest_text(object, "name");

	if (cmek_recreate_is_free(r, name))
		return name;
	return ChooseRelationName(r->name, cmek_manifest_text(object, "column"),
							  "seq", get_rel_namespace(r->relid), false);
}

/* Make the column an identity. */
static void
add_identity(const CmekRecreate *r, const json_t *object)
{
	char	   *column = cmek_manifest_text(object, "column");
	Constraint *identity = makeNode(Constraint);
	const json_t *columns = json_object_get(r->manifest, "columns");

	identity->contype = CONSTR_IDENTITY;
	identity->generated_when = ATTRIBUTE_IDENTITY_BY_DEFAULT;
	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		const json_t *c = json_array_get(columns, i);

		if (!cmek_manifest_bool(c, "dropped") &&
			strcmp(cmek_manifest_text(c, "name"), column) == 0 &&
			cmek_manifest_char(c, "identity") == ATTRIBUTE_IDENTITY_ALWAYS)
			identity->generated_when = ATTRIBUTE_IDENTITY_ALWAYS;
	}
	identity->options =
		list_concat(number_options(object),
					list_make2(cycle_option(object),
							   makeDefElem("sequence_name",
										   (Node *) list_make2(makeString(r->schema),
															   makeString(sequence_name(r, object))),
										   -1)));
	identity->location = -1;
	cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_AddIdentity, column,
														(Node *) identity)),
						statement_text);
}

/* nextval('...'::regclass) */
static Node *
make_nextval(Oid seqid)
{
	A_Const    *name = makeNode(A_Const);
	TypeCast   *cast = makeNode(TypeCast);

	name->val.sval.type = T_String;
	name->val.sval.sval =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(seqid)),
								   get_rel_name(seqid));
	name->location = -1;
	cast->arg = (Node *) name;
	cast->typeName = SystemTypeName("regclass");
	cast->location = -1;
	return (Node *) makeFuncCall(SystemFuncName("nextval"), list_make1(cast),
								 COERCE_EXPLICIT_CALL, -1);
}

/* Make a sequence that the column owns, and its default when it was. */
static void
add_serial(const CmekRecreate *r, const json_t *object)
{
	char	   *column = cmek_manifest_text(object, "column");
	CreateSeqStmt *stmt = makeNode(CreateSeqStmt);
	List	   *type = raw_parser(cmek_manifest_text(object, "type"),
								  RAW_PARSE_TYPE_NAME);
	List	   *owner = list_make3(makeString(r->schema), makeString(r->name),
								   makeString(column));

	stmt->sequence = makeRangeVar(r->schema, sequence_name(r, object), -1);
	stmt->options =
		list_concat(number_options(object),
					list_make3(cycle_option(object),
							   makeDefElem("as", linitial(type), -1),
							   makeDefElem("owned_by", (Node *) owner, -1)));
	cmek_recreate_run((Node *) stmt, statement_text);
	if (cmek_manifest_bool(object, "default"))
		cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_ColumnDefault,
															column,
															make_nextval(cmek_recreate_sequence_of(r, column, false)))),
							statement_text);
}

/*
 * The value furthest on that the rows have in a column of integers; false when
 * there is none.  All names are of our own catalogs.
 */
static bool
furthest_value(const CmekRecreate *r, const char *column, bool down,
			   int64 *value)
{
	Oid			type = get_column(r, column)->atttypid;
	bool		isnull = true;
	char	   *query;

	if (type != INT2OID && type != INT4OID && type != INT8OID)
		return false;
	query = psprintf("SELECT pg_catalog.%s(%s)::pg_catalog.int8 FROM ONLY %s",
					 down ? "min" : "max", quote_identifier(column),
					 quote_qualified_identifier(r->schema, r->name));
	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute(query, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the last value of column \"%s\"",
			 column);
	*value = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return !isnull;
}

/* Have a sequence go on where it was. */
static void
set_sequence(const CmekRecreate *r, const json_t *object, Oid seqid)
{
	bool		down = cmek_manifest_int(object, "increment") < 0;
	bool		known = !json_is_null(json_object_get(object, "last_value"));
	int64		last = cmek_manifest_int(object, "last_value");
	int64		value;

	if (furthest_value(r, cmek_manifest_text(object, "column"), down, &value) &&
		value >= cmek_manifest_int(object, "minimum") &&
		value <= cmek_manifest_int(object, "maximum") &&
		(known ? (down ? value < last : value > last) : true))
	{
		known = true;
		last = value;
	}
	if (known)
		(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(seqid),
								   Int64GetDatum(last));
}

/* A step: one sequence */
static void
add_sequence(CmekRecreate *r, const json_t *object)
{
	bool		identity = cmek_manifest_bool(object, "identity");
	Oid			seqid;

	if (identity)
		add_identity(r, object);
	else
		add_serial(r, object);
	seqid = cmek_recreate_sequence_of(r, cmek_manifest_text(object, "column"),
									  identity);
	set_sequence(r, object, seqid);
	if (!json_is_null(json_object_get(object, "comment")))
		CreateComments(seqid, RelationRelationId, 0,
					   cmek_manifest_text(object, "comment"));
}

/* Is the default of a column that of a sequence in the manifest? */
static bool
has_sequence_default(const CmekRecreate *r, const char *column)
{
	const json_t *sequences = json_object_get(r->manifest, "sequences");

	for (size_t i = 0; i < json_array_size(sequences); i++)
	{
		const json_t *s = json_array_get(sequences, i);

		if (cmek_manifest_bool(s, "default") &&
			strcmp(cmek_manifest_text(s, "column"), column) == 0)
			return true;
	}
	return false;
}

/* ----------
 * The rest of a column
 * ----------
 */

/* A step: the default */
static void
set_default(CmekRecreate *r, const json_t *column)
{
	char	   *name = cmek_manifest_text(column, "name");
	char	   *text = cmek_manifest_text(column, "default");

	if (text == NULL || cmek_manifest_char(column, "generated") != '\0' ||
		has_sequence_default(r, name))
		return;
	cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_ColumnDefault, name,
														cmek_recreate_parse_expr(text))),
						text);
}

/* A step: see whether a generated column became one */
static void
check_generated(CmekRecreate *r, const json_t *column)
{
	char		kind = cmek_manifest_char(column, "generated");
	Form_pg_attribute att = get_column(r, cmek_manifest_text(column, "name"));

	if (kind != '\0' && att->attgenerated == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the column is an ordinary one now"),
				 kind == 's' ? errdetail("It has the values that were generated.") :
				 errdetail("Its values were not stored: it is empty.")));
}

/* A step: how values are compressed, when that was left out at first */
static void
set_compression(CmekRecreate *r, const json_t *column)
{
	char		method = cmek_manifest_char(column, "compression");
	char	   *name = cmek_manifest_text(column, "name");

	if (method == '\0' || get_column(r, name)->attcompression == method)
		return;
	cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_SetCompression, name,
														(Node *) makeString(method == 'l' ? "lz4" : "pglz"))),
						statement_text);
}

/* A step: what ANALYZE does with it */
static void
set_statistics(CmekRecreate *r, const json_t *column)
{
	char	   *name = cmek_manifest_text(column, "name");
	int64		target = cmek_manifest_int(column, "statistics");
	const json_t *texts = json_object_get(column, "options");
	List	   *options = NIL;
	List	   *cmds = NIL;

	if (target >= 0)
		cmds = lappend(cmds,
					   cmek_recreate_cmd(AT_SetStatistics, name,
										 (Node *) makeInteger((int) Min(target, PG_INT32_MAX))));
	for (size_t i = 0; i < json_array_size(texts); i++)
	{
		char	   *option = cmek_manifest_string(json_array_get(texts, i));
		char	   *value = strchr(option, '=');

		if (value == NULL || strncmp(option, CMEK_RESERVED_OPTION,
									 strlen(CMEK_RESERVED_OPTION)) == 0)
			continue;
		*value++ = '\0';
		options = lappend(options,
						  makeDefElem(option, (Node *) makeString(value), -1));
	}
	if (options != NIL)
		cmds = lappend(cmds,
					   cmek_recreate_cmd(AT_SetOptions, name, (Node *) options));
	if (cmds != NIL)
		cmek_recreate_alter(r, cmds, statement_text);
}

/* A step: the comment */
static void
set_comment(CmekRecreate *r, const json_t *column)
{
	char	   *comment = cmek_manifest_text(column, "comment");

	if (comment != NULL)
		CreateComments(r->relid, RelationRelationId,
					   get_column(r, cmek_manifest_text(column, "name"))->attnum,
					   comment);
}

/* See manifest.h. */
void
cmek_recreate_columns(CmekRecreate *r)
{
	const json_t *sequences = json_object_get(r->manifest, "sequences");

	(void) cmek_recreate_try(r, NULL, add_named_not_nulls,
							 json_object_get(r->manifest, "constraints"));
	if (!cmek_recreate_try(r, NULL, set_not_nulls,
						   json_object_get(r->manifest, "columns")))
		for_columns(r, "NOT NULL", set_not_null);
	for (size_t i = 0; i < json_array_size(sequences); i++)
	{
		const json_t *s = json_array_get(sequences, i);

		(void) cmek_recreate_try(r,
								 psprintf("sequence \"%s\" of column \"%s\"",
										  cmek_manifest_text(s, "name"),
										  cmek_manifest_text(s, "column")),
								 add_sequence, s);
	}
	for_columns(r, "default", set_default);
	for_columns(r, "generation", check_generated);
	for_columns(r, "compression", set_compression);
	for_columns(r, "statistics", set_statistics);
	for_columns(r, "comment", set_comment);
}
