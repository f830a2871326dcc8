/*-------------------------------------------------------------------------
 *
 * bind.c
 *	  Binding a table to a KMS key, and to others as replicas: which keys, may
 *	  they be used, and the three records of it (key rows, dependencies, label)
 *	  made together.
 *
 * Whoever binds needs USAGE on the servers at that moment, whatever the reason
 * the key was chosen for (asked for, the partitioned table's, the default).
 * The server is locked until the end of the transaction, so that it cannot be
 * dropped, renamed or given another identity under a binding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_inherits.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include "compat.h"
#include "ddl/statement.h"
#include "keys/events.h"
#include "keys/keys.h"
#include "stats/stats.h"

/* Each costs two calls to a KMS at every switch */
#define MAX_REPLICAS 16

/*
 * The key of a table: what the statement asked for, else the key of the
 * partitioned table it belongs to, else the default.  NULL: leave it unbound.
 */
const char *
cmek_bind_choose(const char *asked, Oid parent)
{
	const char *key = asked;

	if (key == NULL && OidIsValid(parent))
		key = cmek_label_get_key(parent);
	if (key == NULL)
		key = cmek_default_key;
	return strcmp(key, CMEK_KEY_NONE) == 0 ? NULL : key;
}

/* Is a name in a list of names? */
bool
cmek_bind_has(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* A copy of a list of names with one replaced, or left out (NULL) */
List *
cmek_bind_replace(List *names, const char *from, const char *to)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), from) != 0)
			result = lappend(result, lfirst(lc));
		else if (to != NULL)
			result = lappend(result, pstrdup(to));
	}
	return result;
}

/*
 * The keys of a new table.  The replicas of its partitioned table are passed
 * on with its key, unless the statement asks for either.  False: unbound.
 */
bool
cmek_bind_resolve(const CmekAsked *asked, Oid parent, CmekKeys *keys)
{
	CmekKeys	inherited = {NULL, NIL};

	keys->key = cmek_bind_choose(asked != NULL ? asked->key : NULL, parent);
	keys->replicas = asked != NULL ? asked->replicas : NIL;
	if (OidIsValid(parent) &&
		(asked == NULL || (asked->key == NULL && !asked->has_replicas)) &&
		cmek_label_get(parent, &inherited))
		keys->replicas = inherited.replicas;
	if (keys->key == NULL && keys->replicas != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("replica keys are of no use without a KMS key"),
				 errhint("Name one: cmek.key = ...")));
	return keys->key != NULL;
}

/* The server of a key that the current user may bind tables to, locked */
Oid
cmek_bind_server(const char *key)
{
	Oid			serverid = cmek_server_lock(key, AccessShareLock);
	AclResult	aclresult;

	if (!OidIsValid(serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("KMS key \"%s\" does not exist", key),
				 errhint("A KMS key is a foreign server: see the view cmek.keys.")));
	if (!cmek_server_is_key(serverid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a KMS key", key),
				 errdetail("Its foreign-data wrapper does not belong to extension cmek.")));
	aclresult = cmek_server_aclcheck(serverid, GetUserId(), ACL_USAGE);
	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_FOREIGN_SERVER, key);
	return serverid;
}

/* Remove every dependency of a relation on a server */
static void
bind_forget_servers(Oid relid)
{
	if (deleteDependencyRecordsForClass(RelationRelationId, relid,
										ForeignServerRelationId,
										DEPENDENCY_NORMAL) > 0)
		CommandCounterIncrement();
}

/* Make the dependencies of a relation on its keys the only ones it has */
void
cmek_bind_record(Oid relid, Oid serverid, List *replicas)
{
	ObjectAddress relation;
	ObjectAddress server;
	ListCell   *lc;

	bind_forget_servers(relid);
	ObjectAddressSet(relation, RelationRelationId, relid);
	foreach(lc, lcons_oid(serverid, list_copy(replicas)))
	{
		ObjectAddressSet(server, ForeignServerRelationId, lfirst_oid(lc));
		recordDependencyOn(&relation, &server, DEPENDENCY_NORMAL);
	}
	CommandCounterIncrement();
}

/*
 * Remove what a table of this OID left that was dropped while the library was
 * not loaded: a new table must never meet the keys of another.
 */
void
cmek_bind_forget_stale(const CmekClass *cls)
{
	if (cmek_class_has_rows(cls) && cmek_table_is_bound(cls->relid))
	{
		cmek_stats_forget(cls->relid);
		cmek_keys_delete(cls->relid);
	}
}

/* Note for the auditors what is being tried */
static void
bind_note(const char *event, const CmekClass *cls, const CmekKeys *keys)
{
	StringInfoData detail;
	ListCell   *lc;

	initStringInfo(&detail);
	foreach(lc, keys->replicas)
		appendStringInfo(&detail, "%s%s", detail.len > 0 ? ", " : "replica keys: ",
						 (char *) lfirst(lc));
	if (detail.len == 0 && strcmp(event, CMEK_EVENT_REPLICAS) == 0)
		appendStringInfoString(&detail, "no replica keys");
	cmek_event_note(event, keys->key, cls->relid,
					detail.len > 0 ? detail.data : NULL);
	cmek_event_table(cls->relnamespace, NameStr(cls->relname));
}

/* The servers of replica keys, locked; none of them twice, or the first again */
static List *
bind_replicas(const CmekKeys *keys)
{
	List	   *servers = NIL;
	List	   *seen = list_make1(unconstify(char *, keys->key));
	ListCell   *lc;

	foreach(lc, keys->replicas)
	{
		if (cmek_bind_has(seen, lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("KMS key \"%s\" is named twice",
							(char *) lfirst(lc)),
					 errdetail("The key of a table and its replica keys are different keys.")));
		seen = lappend(seen, lfirst(lc));
		servers = lappend_oid(servers, cmek_bind_server(lfirst(lc)));
	}
	if (list_length(servers) > MAX_REPLICAS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a table can have at most %d replica keys",
						MAX_REPLICAS)));
	return servers;
}

/* Prove replica keys that a table had not before */
static void
bind_prove_replicas(List *servers, const CmekKeys *keys, const CmekKeys *old)
{
	ListCell   *lc;
	ListCell   *name;

	forboth(lc, servers, name, keys->replicas)
		if (!cmek_bind_has(old->replicas, lfirst(name)))
			cmek_key_prove(lfirst_oid(lc));
}

/* Are the replica keys of two bindings the same, in whatever order? */
static bool
bind_same_replicas(const CmekKeys *a, const CmekKeys *b)
{
	ListCell   *lc;

	foreach(lc, a->replicas)
		if (!cmek_bind_has(b->replicas, lfirst(lc)))
			return false;
	return list_length(a->replicas) == list_length(b->replicas);
}

/*
 * Bind a table that has no key yet, or the partitioned table that passes it
 * on.  Caller holds AccessExclusiveLock.
 */
void
cmek_bind_new(const CmekClass *cls, const CmekKeys *keys)
{
	static const CmekKeys none = {NULL, NIL};
	Oid			serverid;
	List	   *replicas;

	bind_note(CMEK_EVENT_BIND, cls, keys);
	serverid = cmek_bind_server(keys->key);
	replicas = bind_replicas(keys);
	cmek_key_prove(serverid);
	bind_prove_replicas(replicas, keys, &none);
	if (cmek_class_has_rows(cls))
		cmek_keys_create(cls->relid, serverid, replicas);
	else
		cmek_bind_record(cls->relid, serverid, replicas);
	cmek_label_set(cls->relid, keys);
}

/* Complain unless the relation can have a key */
static void
bind_check_relation(const CmekClass *cls)
{
	if (cls->relkind == RELKIND_PARTITIONED_TABLE)
		cmek_partition_check_leaves(cls);
	else if (!cmek_class_has_rows(cls))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table or materialized view",
						NameStr(cls->relname))));
	else if (!cmek_class_is_sealed(cls))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is not sealed",
						NameStr(cls->relname)),
				 errdetail("Only tables of access method %s have a KMS key.",
						   CMEK_HEAP_NAME),
				 errhint("Use ALTER TABLE ... SET ACCESS METHOD %s.",
						 CMEK_HEAP_NAME)));
	else if (cls->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("temporary table \"%s\" cannot be bound to a KMS key",
						NameStr(cls->relname)),
				 errdetail("Temporary tables are sealed with a key of the session.")));
}

/*
 * Bind a table to keys, from others or from none, all but the label.  Caller
 * holds ShareUpdateExclusiveLock and has checked ownership.
 */
void
cmek_bind_move(const CmekClass *cls, const CmekKeys *keys)
{
	CmekKeys	old;
	bool		bound = cmek_label_get(cls->relid, &old);
	bool		moves = !bound || strcmp(old.key, keys->key) != 0;
	Oid			serverid;
	List	   *replicas;

	bind_check_relation(cls);
	if (moves)
		bind_note(bound ? CMEK_EVENT_SWITCH : CMEK_EVENT_BIND, cls, keys);
	else if (!bind_same_replicas(&old, keys))
		bind_note(CMEK_EVENT_REPLICAS, cls, keys);
	serverid = cmek_bind_server(keys->key);
	replicas = bind_replicas(keys);
	if (moves)
		cmek_key_prove(serverid);
	bind_prove_replicas(replicas, keys, &old);
	if (!cmek_class_has_rows(cls))
		cmek_bind_record(cls->relid, serverid, replicas);
	else if (!cmek_table_is_bound(cls->relid))
		cmek_keys_create(cls->relid, serverid, replicas);
	else if (moves)
		cmek_keys_rewrap(cls->relid, serverid, replicas);
	else if (!bind_same_replicas(&old, keys))
		cmek_keys_set_replicas(cls->relid, replicas);
	if (moves || !bind_same_replicas(&old, keys))
		cmek_stats_forget_ancestors(cls->relid);
}

/* What a table's keys become by ALTER TABLE: what is not asked for stays */
static void
bind_alter(const CmekClass *cls, const CmekAsked *asked, CmekKeys *keys)
{
	bool		bound = cmek_label_get(cls->relid, keys);

	if (asked->has_key)
		keys->key = asked->key;
	else if (!bound)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key", NameStr(cls->relname)),
				 errhint("Name one: SET (cmek.key = ...).")));
	if (asked->has_replicas)
		keys->replicas = asked->replicas;
	else
		/* a replica that becomes the first is none any more */
		keys->replicas = cmek_bind_replace(keys->replicas, keys->key, NULL);
}

/*
 * The same with the label, and down to every partition when recurse.  Each of
 * them must be the caller's, as for every other ALTER TABLE.
 */
void
cmek_bind_move_tree(const CmekClass *cls, const CmekAsked *asked,
					bool recurse)
{
	List	   *relids = list_make1_oid(cls->relid);
	ListCell   *lc;

	if (recurse && cls->relkind == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(cls->relid, ShareUpdateExclusiveLock,
									 NULL);
	foreach(lc, relids)
	{
		CmekClass	member;
		CmekKeys	keys;

		if (!cmek_class_get(lfirst_oid(lc), &member))
			continue;
		if (!cmek_relation_ownercheck(member.relid, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
						   NameStr(member.relname));
		/* who is no table that can have a key, hears so first */
		if (!asked->has_key)
			bind_check_relation(&member);
		bind_alter(&member, asked, &keys);
		cmek_bind_move(&member, &keys);
		cmek_label_set(member.relid, &keys);
		cmek_stop("switch-labelled");
	}
}

/* The keys of a table go, and with them what held their servers */
void
cmek_bind_remove_keys(Oid relid)
{
	bind_forget_servers(relid);
	if (cmek_table_is_bound(relid))
		cmek_keys_delete(relid);
}

/* The relation is sealed no more: nothing of the binding stays */
void
cmek_bind_remove(Oid relid)
{
	cmek_stats_forget(relid);
	cmek_bind_remove_keys(relid);
	cmek_label_set(relid, NULL);
}
