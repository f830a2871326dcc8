/*-------------------------------------------------------------------------
 *
 * drop.c
 *	  DROP: key rows go with their table; a table never goes with its key.
 *
 * Core drops a bound table when its server is dropped with CASCADE, by
 * whatever statement (DROP SERVER, FOREIGN DATA WRAPPER, EXTENSION, OWNED).
 * Dependents fall first: each bound table that falls is remembered in the
 * statement, and when its server falls too, the statement is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include "ddl/statement.h"
#include "keys/events.h"
#include "keys/keys.h"

/* A bound table that fell in this statement */
typedef struct CmekDropped
{
	char	   *key;
	char	   *name;
} CmekDropped;

/* DROP EXTENSION cmek would take every sealed table along */
void
cmek_drop_before(CmekStatement *s, DropStmt *stmt)
{
	ListCell   *lc;
	CmekClass	cls;

	if (stmt->removeType != OBJECT_EXTENSION)
		return;
	foreach(lc, stmt->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "cmek") != 0 ||
			!cmek_class_find_sealed(&cls))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("extension \"cmek\" cannot be dropped while table \"%s\" is sealed",
						NameStr(cls.relname)),
				 errhint("Use ALTER TABLE ... SET ACCESS METHOD heap, or drop the table.")));
	}
}

/* DROP OWNED: tables of these roles may fall with their keys */
void
cmek_drop_owned_before(CmekStatement *s, DropOwnedStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->roles)
		s->dropped_owners = lappend_oid(s->dropped_owners,
										get_rolespec_oid(lfirst_node(RoleSpec, lc),
														 false));
}

/* Remember a bound table that falls, for the case that its key does too */
static void
drop_remember(const CmekClass *cls)
{
	CmekStatement *s = cmek_statement;
	MemoryContext old;
	CmekKeys	keys;
	ListCell   *lc;

	if (s == NULL || !cmek_label_get(cls->relid, &keys) ||
		list_member_oid(s->dropped_owners, cls->relowner))
		return;
	old = MemoryContextSwitchTo(s->context);
	foreach(lc, lcons(unconstify(char *, keys.key), keys.replicas))
	{
		CmekDropped *dropped = palloc(sizeof(CmekDropped));

		dropped->key = pstrdup(lfirst(lc));
		dropped->name = pstrdup(NameStr(cls->relname));
		s->dropped = lappend(s->dropped, dropped);
	}
	MemoryContextSwitchTo(old);
}

/* A relation is about to be dropped; its label and dependencies still stand */
void
cmek_drop_table(Oid relid)
{
	CmekClass	cls;

	if (!cmek_class_get(relid, &cls) || OidIsValid(cls.relrewrite) ||
		cls.relpersistence == RELPERSISTENCE_TEMP)
		return;
	if (cls.relkind == RELKIND_PARTITIONED_TABLE)
		drop_remember(&cls);
	else if (cmek_class_has_rows(&cls) && cmek_class_is_sealed(&cls) &&
			 cmek_table_is_bound(relid))
	{
		drop_remember(&cls);
		cmek_bind_remove_keys(relid);
	}
}

/* A server is about to be dropped, after the tables that depend on it */
void
cmek_drop_server(Oid serverid)
{
	ForeignServer *server;
	ListCell   *lc;

	server = GetForeignServer(serverid);
	cmek_event_note(CMEK_EVENT_DROP_KEY, server->servername, InvalidOid, NULL);
	cmek_keys_server_dropped(serverid, server->servername);
	if (cmek_statement == NULL || cmek_statement->dropped == NIL)
		return;
	foreach(lc, cmek_statement->dropped)
	{
		CmekDropped *dropped = lfirst(lc);

		if (strcmp(dropped->key, server->servername) != 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("KMS key \"%s\" cannot be dropped while table \"%s\" is bound to it",
						server->servername, dropped->name),
				 errhint("Bind the table to another key first: ALTER TABLE ... SET (cmek.key = ...).")));
	}
}
