/*-------------------------------------------------------------------------
 *
 * recreategrant.c
 *	  Permissions of a table, its columns and its sequences, out of its
 *	  manifest.
 *
 * What default privileges gave to the new table is taken away first: nobody
 * gets in who could not before.  Who gave a permission is not kept: all come
 * from the owner, and what the old owner had, the new one has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "lifecycle/manifest.h"

/* What permissions are on: the subject of the steps here */
typedef struct Granting
{
	CmekRecreate *r;
	ObjectType	type;			/* OBJECT_TABLE, OBJECT_SEQUENCE */
	Oid			relid;
	char	   *column;			/* NULL: all of it */
	const char *owner;			/* of then */
	bool		open;			/* others than the owner, too */
} Granting;

/* A role, NULL for everybody */
static RoleSpec *
make_role(const char *name)
{
	RoleSpec   *role = makeNode(RoleSpec);

	role->roletype = name == NULL ? ROLESPEC_PUBLIC : ROLESPEC_CSTRING;
	role->rolename = name == NULL ? NULL : pstrdup(name);
	role->location = -1;
	return role;
}

/* GRANT or REVOKE on the object, without privileges: all of them */
static GrantStmt *
make_grant(const Granting *g, bool is_grant, const char *role)
{
	GrantStmt  *stmt = makeNode(GrantStmt);
	char	   *schema = get_namespace_name(get_rel_namespace(g->relid));

	stmt->is_grant = is_grant;
	stmt->targtype = ACL_TARGET_OBJECT;
	stmt->objtype = g->type;
	stmt->objects = list_make1(makeRangeVar(schema, get_rel_name(g->relid),
											-1));
	stmt->grantees = list_make1(make_role(role));
	stmt->behavior = DROP_CASCADE;
	return stmt;
}

/* Who has any permission on a relation; nobody means the default. */
static Acl *
get_acl(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		isnull;
	Datum		acl;
	Acl		   *copy = NULL;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	acl = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	if (!isnull)
		copy = DatumGetAclPCopy(acl);
	ReleaseSysCache(tuple);
	return copy;
}

/* A step: take away all permissions, the owner's too when "object" is there */
static void
revoke_all(CmekRecreate *r, const json_t *object)
{
	const Granting *g = r->subject;
	Acl		   *acl = get_acl(g->relid);
	char	   *owner = GetUserNameFromId(GetUserId(), false);

	for (int i = 0; acl != NULL && i < ACL_NUM(acl); i++)
	{
		Oid			grantee = ACL_DAT(acl)[i].ai_grantee;

		if (grantee != GetUserId())
			cmek_recreate_run((Node *) make_grant(g, false,
												  grantee == ACL_ID_PUBLIC ? NULL :
												  GetUserNameFromId(grantee, false)),
							  "REVOKE");
	}
	if (object != NULL)
		cmek_recreate_run((Node *) make_grant(g, false, owner),
						  "REVOKE");
}

/* A step: one permission */
static void
grant_one(CmekRecreate *r, const json_t *object)
{
	const Granting *g = r->subject;
	char	   *grantee = cmek_manifest_text(object, "grantee");
	char	   *privilege = cmek_manifest_text(object, "privilege");
	AccessPriv *access = makeNode(AccessPriv);
	GrantStmt  *stmt;

	if (grantee != NULL && strcmp(grantee, g->owner) == 0)
		grantee = GetUserNameFromId(GetUserId(), false);
	stmt = make_grant(g, true, grantee);
	for (char *c = privilege; *c != '\0'; c++)
		*c = pg_ascii_tolower((unsigned char) *c);
	access->priv_name = privilege;
	if (g->column != NULL)
		access->cols = list_make1(makeString(g->column));
	stmt->privileges = list_make1(access);
	stmt->grant_option = cmek_manifest_bool(object, "grantable") &&
		grantee != NULL;
	cmek_recreate_run((Node *) stmt, "GRANT");
}

/* Is a permission the owner's? */
static bool
is_of_owner(const Granting *g, const json_t *grant)
{
	char	   *grantee = cmek_manifest_text(grant, "grantee");

	return grantee != NULL && strcmp(grantee, g->owner) == 0;
}

/* All permissions on one thing. */
static void
grant_all(const Granting *g, const json_t *grants)
{
	const char *on = g->column != NULL ? g->column : get_rel_name(g->relid);
	bool		revoked = true;

	g->r->subject = g;
	if (g->column == NULL)
		revoked = cmek_recreate_try(g->r, psprintf("permissions on \"%s\"", on),
									revoke_all, json_is_null(grants) ? NULL : grants);
	for (size_t i = 0; i < json_array_size(grants) && revoked; i++)
	{
		const json_t *grant = json_array_get(grants, i);
		char	   *grantee = cmek_manifest_text(grant, "grantee");
		char	   *what = psprintf("permission %s on \"%s\" for \"%s\"",
									cmek_manifest_text(grant, "privilege"), on,
									grantee == NULL ? "public" : grantee);

		if (!g->open && !is_of_owner(g, grant))
			cmek_recreate_fail(g->r, "%s: not given, because row security is not what it was",
							   what);
		else
			(void) cmek_recreate_try(g->r, what, grant_one, grant);
	}
	g->r->subject = NULL;
}

/* See manifest.h. */
void
cmek_recreate_grants(CmekRecreate *r, bool open)
{
	const json_t *table = json_object_get(r->manifest, "table");
	const json_t *columns = json_object_get(r->manifest, "columns");
	const json_t *sequences = json_object_get(r->manifest, "sequences");
	Granting	g = {r, OBJECT_TABLE, r->relid, NULL, NULL, open};

	g.owner = cmek_manifest_text(table, "owner");
	grant_all(&g, json_object_get(table, "grants"));
	for (size_t i = 0; i < json_array_size(columns); i++)
	{
		const json_t *column = json_array_get(columns, i);

		g.column = cmek_manifest_text(column, "name");
		if (!cmek_manifest_bool(column, "dropped"))
			grant_all(&g, json_object_get(column, "grants"));
	}
	g.column = NULL;
	g.type = OBJECT_SEQUENCE;
	for (size_t i = 0; i < json_array_size(sequences); i++)
	{
		const json_t *s = json_array_get(sequences, i);

		g.relid = cmek_recreate_sequence_of(r, cmek_manifest_text(s, "column"),
											cmek_manifest_bool(s, "identity"));
		if (OidIsValid(g.relid))
			grant_all(&g, json_object_get(s, "grants"));
	}
}
