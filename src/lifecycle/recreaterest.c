/*-------------------------------------------------------------------------
 *
 * recreaterest.c
 *	  What a restored table gets when its rows are in, in order, and the list
 *	  of what it did not get.
 *
 * NOT NULL before primary keys, keys before foreign keys, indexes when the
 * rows are there, row security before anybody is let in, permissions last.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/tablespace.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "lifecycle/manifest.h"

static const char *const statement_text = "cmek.restore_snapshot()";

/* ----------
 * The table itself
 * ----------
 */

/* Does a relation have an option, "name=value"? */
static bool
has_option(Oid relid, const char *option)
{
	HeapTuple	tuple;
	bool		found = false;
	bool		isnull;
	Datum		array;
	Datum	   *values;
	int			n = 0;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	array = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
						  TYPALIGN_INT, &values, NULL, &n);
	for (int i = 0; i < n && !found; i++)
		found = strcmp(TextDatumGetCString(values[i]), option) == 0;
	ReleaseSysCache(tuple);
	return found;
}

/* Set one option that the table could not be made with. */
static void
set_option(CmekRecreate *r, const char *namespace, const json_t *item)
{
	char	   *name = cmek_manifest_string(item);
	char	   *value = strchr(name, '=');
	DefElem    *option;

	if (value == NULL)
		return;
	*value++ = '\0';
	option = makeDefElemExtended(unconstify(char *, namespace), name,
								 (Node *) makeString(value), DEFELEM_UNSPEC,
								 -1);
	cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_SetRelOptions, NULL,
														(Node *) list_make1(option))),
						statement_text);
}

/* Steps of it */
static void
set_table_option(CmekRecreate *r, const json_t *item)
{
	set_option(r, NULL, item);
}

static void
set_toast_option(CmekRecreate *r, const json_t *item)
{
	set_option(r, "toast", item);
}

/* Options that the table was made without. */
static void
add_options(CmekRecreate *r, const json_t *items, Oid relid,
			CmekRecreateStep step)
{
	for (size_t i = 0; i < json_array_size(items); i++)
	{
		const json_t *item = json_array_get(items, i);
		char	   *option = cmek_manifest_string(item);

		if (!has_option(relid, option))
			(void) cmek_recreate_try(r, psprintf("storage parameter \"%s\"",
												 option),
									 step, item);
	}
}

/* The TOAST table of the new table */
static Oid
toast_of(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	Oid			toast = rel->rd_rel->reltoastrelid;

	table_close(rel, NoLock);
	return toast;
}

/* Where it was stored, when it is not any more. */
static void
check_tablespace(CmekRecreate *r, const json_t *table)
{
	char	   *name = cmek_manifest_text(table, "tablespace");
	Oid			wanted = name == NULL ? InvalidOid :
		get_tablespace_oid(name, true);

	if (name != NULL && (!OidIsValid(wanted) ||
						 wanted != get_rel_tablespace(r->relid)))
		cmek_recreate_fail(r, "tablespace \"%s\": the table is in the default tablespace",
						   name);
}

/* A step: replica identity; that of an index comes with the index */
static void
set_replica_identity(CmekRecreate *r, const json_t *table)
{
	char		type = cmek_manifest_char(table, "replica_identity");
	ReplicaIdentityStmt *identity;

	if (type != REPLICA_IDENTITY_NOTHING && type != REPLICA_IDENTITY_FULL)
		return;
	identity = makeNode(ReplicaIdentityStmt);
	identity->identity_type = type;
	cmek_recreate_alter(r, list_make1(cmek_recreate_cmd(AT_ReplicaIdentity, NULL,
														(Node *) identity)),
						statement_text);
}

/* A step: the comment */
static void
set_comment(CmekRecreate *r, const json_t *table)
{
	char	   *comment = cmek_manifest_text(table, "comment");

	if (comment != NULL)
		CreateComments(r->relid, RelationRelationId, 0, comment);
}

/* ----------
 * What stays behind
 * ----------
 */

/* What the table was part of. */
static void
report_memberships(CmekRecreate *r, const json_t *table)
{
	const json_t *parents = json_object_get(table, "parents");
	const json_t *publications = json_object_get(table, "publications");
	const json_t *labels = json_object_get(table, "labels");
	char	   *bound = cmek_manifest_text(table, "partition_bound");

	for (size_t i = 0; i < json_array_size(parents); i++)
	{
		const json_t *parent = json_array_get(parents, i);

		cmek_recreate_fail(r, "%s of table \"%s\".\"%s\"%s%s: not attached",
						   bound != NULL ? "partition" : "child",
						   cmek_manifest_text(parent, "schema"),
						   cmek_manifest_text(parent, "name"),
						   bound != NULL ? " " : "",
						   bound != NULL ? bound : "");
	}
	for (size_t i = 0; i < json_array_size(publications); i++)
		cmek_recreate_fail(r, "publication \"%s\": the table is not in it",
						   cmek_manifest_string(json_array_get(publications, i)));
	for (size_t i = 0; i < json_array_size(labels); i++)
	{
		char	   *provider = cmek_manifest_text(json_array_get(labels, i),
												  "provider");

		if (strcmp(provider, "cmek") != 0)
			cmek_recreate_fail(r, "security label of provider \"%s\": not set",
							   provider);
	}
	if (!json_is_null(json_object_get(table, "query")))
		cmek_recreate_fail(r, "materialized view: restored as a table, without its query");
}

/* Is the table of the manifest still there, beside the new one? */
static bool
old_table_is_there(const CmekRecreate *r, const json_t *table)
{
	Oid			schema = get_namespace_oid(cmek_manifest_text(table, "schema"),
										   true);
	Oid			relid = OidIsValid(schema) ?
		get_relname_relid(cmek_manifest_text(table, "name"), schema) :
		InvalidOid;

	return OidIsValid(relid) && relid != r->relid;
}

/* What needed the table, and may have fallen with it. */
static void
report_dependents(CmekRecreate *r)
{
	const json_t *dependents = json_object_get(r->manifest, "dependents");

	if (old_table_is_there(r, json_object_get(r->manifest, "table")))
		return;
	for (size_t i = 0; i < json_array_size(dependents); i++)
	{
		const json_t *d = json_array_get(dependents, i);
		char	   *definition = cmek_manifest_text(d, "definition");

		cmek_recreate_fail(r, "%s %s: needed the table and was not recreated%s%s",
						   cmek_manifest_text(d, "kind"),
						   cmek_manifest_text(d, "identity"),
						   definition == NULL ? "" : "; it was: ",
						   definition == NULL ? "" : definition);
	}
}

/* ----------
 * In order
 * ----------
 */

/* All of it. */
static void
recreate(CmekRecreate *r)
{
	const json_t *table = json_object_get(r->manifest, "table");
	bool		open;

	add_options(r, json_object_get(table, "options"), r->relid,
				set_table_option);
	add_options(r, json_object_get(table, "toast_options"),
				toast_of(r->relid), set_toast_option);
	check_tablespace(r, table);
	cmek_recreate_columns(r);
	cmek_recreate_objects(r);
	(void) cmek_recreate_try(r, "replica identity", set_replica_identity,
							 table);
	(void) cmek_recreate_try(r, "comment", set_comment, table);
	open = cmek_recreate_row_security(r);
	cmek_recreate_grants(r, open);
	report_memberships(r, table);
	report_dependents(r);
}

/* See snapshot.h. */
List *
cmek_recreate_rest(const json_t *manifest, Oid relid)
{
	CmekRecreate r = {0};
	int			level;

	cmek_manifest_check(manifest);
	r.manifest = manifest;
	r.relid = relid;
	r.schema = get_namespace_name(get_rel_namespace(relid));
	r.name = get_rel_name(relid);
	r.context = CurrentMemoryContext;
	level = cmek_manifest_settings();
	recreate(&r);
	AtEOXact_GUC(true, level);
	return r.failures;
}
