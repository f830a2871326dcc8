/*-------------------------------------------------------------------------
 *
 * mapping.c
 *	  User mappings of KMS keys: whose they are, and their secrets, which are
 *	  sealed before core or anybody it tells sees the statement's tree.
 *
 * The caller's tree is never changed: what is sealed is a copy, and that is
 * what the catalog, event triggers and hooks after ours get.  The text of the
 * statement is core's business; it shows where statements are shown
 * (SECURITY.md).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"

#include "compat.h"

#include "ddl/statement.h"
#include "keys/events.h"
#include "keys/keys.h"

/* Is it a secret that is not sealed yet? */
static bool
option_is_open_secret(const CmekKmsProvider *provider, DefElem *def)
{
	return def->defaction != DEFELEM_DROP && def->arg != NULL &&
		cmek_option_is_secret(provider, def->defname) &&
		!cmek_secret_is_sealed(def->defname, defGetString(def));
}

/* Is there one in the list? */
static bool
options_have_open_secret(const CmekKmsProvider *provider, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
		if (option_is_open_secret(provider, lfirst_node(DefElem, lc)))
			return true;
	return false;
}

/* Seal the secrets of a list of our own */
static void
options_seal(const CmekKmsProvider *provider, Oid serverid, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		/* the validator says that it must not be empty */
		if (option_is_open_secret(provider, def) && *defGetString(def) != '\0')
			def->arg = (Node *) makeString(cmek_secret_seal_option(serverid,
																   def->defname,
																   defGetString(def)));
	}
}

/* A server by name, and its provider; NULL when it is none of ours */
static const CmekKmsProvider *
mapping_provider(const char *servername, Oid *serverid)
{
	*serverid = get_foreign_server_oid(servername, true);
	if (!OidIsValid(*serverid))
		return NULL;
	return cmek_server_provider(*serverid);
}

/* For the auditors, and for the visitor, who has the key proved by them */
static void
note_credentials(const char *servername)
{
	cmek_event_note(CMEK_EVENT_ALTER, servername, InvalidOid, "credentials");
}

/* CREATE USER MAPPING: only that of PUBLIC is ever read */
Node *
cmek_mapping_create_before(CreateUserMappingStmt *stmt)
{
	Oid			serverid;
	const CmekKmsProvider *provider = mapping_provider(stmt->servername,
													   &serverid);

	if (provider == NULL)
		return (Node *) stmt;
	if (stmt->user->roletype != ROLESPEC_PUBLIC)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a user mapping of KMS key \"%s\" must be for PUBLIC",
						stmt->servername),
				 errdetail("A table and its key serve all users of the table."),
				 errhint("Use CREATE USER MAPPING FOR PUBLIC SERVER ....")));
	note_credentials(stmt->servername);
	if (!cmek_server_ownercheck(serverid, GetUserId()) ||
		!options_have_open_secret(provider, stmt->options))
		return (Node *) stmt;
	stmt = copyObject(stmt);
	options_seal(provider, serverid, stmt->options);
	return (Node *) stmt;
}

/* ALTER USER MAPPING ... OPTIONS */
Node *
cmek_mapping_alter_before(AlterUserMappingStmt *stmt)
{
	Oid			serverid;
	const CmekKmsProvider *provider = mapping_provider(stmt->servername,
													   &serverid);

	if (provider == NULL)
		return (Node *) stmt;
	note_credentials(stmt->servername);
	if (!cmek_server_ownercheck(serverid, GetUserId()) ||
		!options_have_open_secret(provider, stmt->options))
		return (Node *) stmt;
	stmt = copyObject(stmt);
	options_seal(provider, serverid, stmt->options);
	return (Node *) stmt;
}
