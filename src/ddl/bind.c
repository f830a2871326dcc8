/*-------------------------------------------------------------------------
 *
 * bind.c
 *	  Binding a table to a KMS key: which key, may it be used, and the three
 *	  records of it (key rows, dependency, label) made together.
 *
 * Whoever binds needs USAGE on the server at that moment, whatever the reason
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
#include "miscadmin.h"
#include "utils/acl.h"

#include "compat.h"
#include "ddl/statement.h"
#include "keys/events.h"
#include "keys/keys.h"

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

/* Make the dependency of a relation on its key the only one it has */
void
cmek_bind_record(Oid relid, Oid serverid)
{
	ObjectAddress relation;
	ObjectAddress server;

	bind_forget_servers(relid);
	ObjectAddressSet(relation, RelationRelationId, relid);
	ObjectAddressSet(server, ForeignServerRelationId, serverid);
	recordDependencyOn(&relation, &server, DEPENDENCY_NORMAL);
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
		cmek_keys_delete(cls->relid);
}

/* Note for the auditors what is being tried */
static void
bind_note(const char *event, const CmekClass *cls, const char *key)
{
	cmek_event_note(event, key, cls->relid, NULL);
	cmek_event_table(cls->relnamespace, NameStr(cls->relname));
}

/*
 * Bind a table that has no key yet, or the partitioned table that passes it
 * on.  Caller holds AccessExclusiveLock.
 */
void
cmek_bind_new(const CmekClass *cls, const char *key)
{
	Oid			serverid;

	bind_note(CMEK_EVENT_BIND, cls, key);
	serverid = cmek_bind_server(key);
	cmek_key_prove(serverid);
	if (cmek_class_has_rows(cls))
		cmek_keys_create(cls->relid, serverid);
	else
		cmek_bind_record(cls->relid, serverid);
	cmek_label_set(cls->relid, key);
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
 * Bind a table to a key, from another one or from none, all but the label.
 * Caller holds ShareUpdateExclusiveLock and has checked ownership.
 */
void
cmek_bind_move(const CmekClass *cls, const char *key)
{
	char	   *old = cmek_label_get_key(cls->relid);
	Oid			serverid;

	bind_check_relation(cls);
	if (old == NULL || strcmp(old, key) != 0)
		bind_note(old == NULL ? CMEK_EVENT_BIND : CMEK_EVENT_SWITCH, cls, key);
	serverid = cmek_bind_server(key);
	if (old == NULL || strcmp(old, key) != 0)
		cmek_key_prove(serverid);
	if (!cmek_class_has_rows(cls))
		cmek_bind_record(cls->relid, serverid);
	else if (!cmek_table_is_bound(cls->relid))
		cmek_keys_create(cls->relid, serverid);
	else if (old == NULL || strcmp(old, key) != 0)
		cmek_keys_rewrap(cls->relid, serverid);
}

/*
 * The same with the label, and down to every partition when recurse.  Each of
 * them must be the caller's, as for every other ALTER TABLE.
 */
void
cmek_bind_move_tree(const CmekClass *cls, const char *key, bool recurse)
{
	List	   *relids = list_make1_oid(cls->relid);
	ListCell   *lc;

	if (recurse && cls->relkind == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(cls->relid, ShareUpdateExclusiveLock,
									 NULL);
	foreach(lc, relids)
	{
		CmekClass	member;

		if (!cmek_class_get(lfirst_oid(lc), &member))
			continue;
		if (!cmek_relation_ownercheck(member.relid, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
						   NameStr(member.relname));
		cmek_bind_move(&member, key);
		cmek_label_set(member.relid, key);
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
	cmek_bind_remove_keys(relid);
	cmek_label_set(relid, NULL);
}
