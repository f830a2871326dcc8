/*-------------------------------------------------------------------------
 *
 * server.c
 *	  Foreign servers as KMS keys: ALTER SERVER and its RENAME.
 *
 * While tables are bound to a key its identity stays: the options that name
 * the key at the KMS cannot change, or a table key wrapped by one KMS key
 * would be sent to another.  A rename changes every label and key row in the
 * same transaction.  Permissions are core's: it checks the owner before what
 * we did can be seen by anybody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "commands/extension.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"

#include "compat.h"
#include "ddl/statement.h"
#include "keys/events.h"
#include "keys/keys.h"
#include "kms/kms.h"

/* The provider of a server's wrapper; NULL when the wrapper is not ours */
const CmekKmsProvider *
cmek_server_provider(Oid serverid)
{
	ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);
	ForeignDataWrapper *fdw;
	Oid			extension;

	if (server == NULL)
		return NULL;
	fdw = GetForeignDataWrapper(server->fdwid);
	extension = get_extension_oid("cmek", true);
	if (!OidIsValid(extension) ||
		getExtensionOfObject(ForeignDataWrapperRelationId,
							 fdw->fdwid) != extension)
		return NULL;
	return cmek_kms_provider(fdw->fdwname);
}

/* Is the server a KMS key of ours? */
bool
cmek_server_is_key(Oid serverid)
{
	return OidIsValid(serverid) && cmek_server_provider(serverid) != NULL;
}

/*
 * Find a server by name and lock it until the end of the transaction; a rename
 * in between starts again.  InvalidOid when there is none.
 */
Oid
cmek_server_lock(const char *name, LOCKMODE lockmode)
{
	for (;;)
	{
		Oid			serverid = get_foreign_server_oid(name, true);

		if (!OidIsValid(serverid))
			return InvalidOid;
		LockDatabaseObject(ForeignServerRelationId, serverid, 0, lockmode);
		if (get_foreign_server_oid(name, true) == serverid)
			return serverid;
		UnlockDatabaseObject(ForeignServerRelationId, serverid, 0, lockmode);
	}
}

/* Does the option name the key? */
static bool
server_option_is_identity(const CmekKmsProvider *provider, const char *name)
{
	const CmekKmsOption *option;

	for (option = provider->options; option->name != NULL; option++)
	{
		if (strcmp(option->name, name) == 0)
			return (option->flags & CMEK_OPTION_IDENTITY) != 0;
	}
	return false;
}

/* The first option of the statement that names the key; NULL when none */
static const char *
server_changed_identity(const CmekKmsProvider *provider, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (server_option_is_identity(provider, def->defname))
			return def->defname;
	}
	return NULL;
}

/* CREATE SERVER: a KMS key becomes known */
void
cmek_server_create_before(CreateForeignServerStmt *stmt)
{
	if (cmek_kms_provider(stmt->fdwname) != NULL)
		cmek_event_note(CMEK_EVENT_CREATE, stmt->servername, InvalidOid,
						stmt->fdwname);
}

/* ALTER SERVER ... OPTIONS */
void
cmek_server_alter_before(AlterForeignServerStmt *stmt)
{
	Oid			serverid = get_foreign_server_oid(stmt->servername, true);
	const CmekKmsProvider *provider;
	const char *option;
	List	   *relids;

	/* core says what is wrong when there is no server or it is another's */
	if (!OidIsValid(serverid) ||
		!cmek_server_ownercheck(serverid, GetUserId()))
		return;
	provider = cmek_server_provider(serverid);
	if (provider == NULL)
		return;
	cmek_event_note(CMEK_EVENT_ALTER, stmt->servername, InvalidOid, NULL);
	option = server_changed_identity(provider, stmt->options);
	if (option == NULL)
		return;
	cmek_server_lock(stmt->servername, AccessExclusiveLock);
	relids = cmek_label_relations(stmt->servername);
	if (relids == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("option \"%s\" of KMS key \"%s\" cannot be changed while tables are bound to it",
					option, stmt->servername),
			 errdetail("Bound tables: %d.", list_length(relids)),
			 errhint("Bind the tables to another key first: ALTER TABLE ... SET (cmek.key = ...).")));
}

/* ALTER SERVER ... RENAME TO: remember what it was called */
void
cmek_server_rename_before(CmekStatement *s, RenameStmt *stmt)
{
	Oid			serverid;

	if (stmt->renameType != OBJECT_FOREIGN_SERVER)
		return;
	serverid = get_foreign_server_oid(strVal(stmt->object), true);
	if (!cmek_server_is_key(serverid) ||
		!cmek_server_ownercheck(serverid, GetUserId()))
		return;
	s->renamed = cmek_server_lock(strVal(stmt->object), AccessExclusiveLock);
	/* a suspension goes by the name, and nobody may slip away from it */
	if (cmek_key_is_suspended(strVal(stmt->object)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("KMS key \"%s\" cannot be renamed while it is suspended",
						strVal(stmt->object))));
	s->old_name = pstrdup(strVal(stmt->object));
	cmek_event_note(CMEK_EVENT_ALTER, s->old_name, InvalidOid,
					psprintf("renamed to \"%s\"", stmt->newname));
}

/* Core has renamed the server: so do we */
void
cmek_server_rename_after(CmekStatement *s)
{
	char	   *new_name = GetForeignServer(s->renamed)->servername;
	ListCell   *lc;

	foreach(lc, cmek_label_relations(s->old_name))
	{
		CmekKeys	keys;

		if (!cmek_label_get(lfirst_oid(lc), &keys))
			continue;
		if (strcmp(keys.key, s->old_name) == 0)
			keys.key = new_name;
		keys.replicas = cmek_bind_replace(keys.replicas, s->old_name, new_name);
		cmek_label_set(lfirst_oid(lc), &keys);
	}
	cmek_keys_rename_server(s->old_name, new_name);
}
