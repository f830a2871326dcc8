/*-------------------------------------------------------------------------
 *
 * server.c
 *	  KMS keys as a backend finds them in the catalogs: a foreign server of
 *	  one of our wrappers, and its PUBLIC user mapping.
 *
 * Everything a KMS worker needs to know about a server is flattened here.
 * Mappings of single users are never read: a table belongs to all its users.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "compat.h"
#include "keys/internal.h"

/* Complain about options that are too long for a request. */
static void
require_room(bool ok)
{
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the options of a KMS key and its user mapping are too long"),
				 errdetail("Together they may have %d bytes.",
						   CMEK_KMS_MAX_CONFIG)));
}

/* Append a list of options. */
static void
append_options(CmekKmsConfig *config, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (!cmek_option_is_common(def->defname))
			require_room(cmek_kms_config_add(config, def->defname,
											 defGetString(def)));
	}
}

/* Append the options of the PUBLIC user mapping, if there is one. */
static void
append_public_mapping(CmekKmsConfig *config, Oid serverid)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
										ObjectIdGetDatum(InvalidOid),
										ObjectIdGetDatum(serverid));
	Datum		options;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return;
	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							  Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		append_options(config, untransformRelOptions(options));
	ReleaseSysCache(tuple);
}

/* Fill in where a request goes.  ERROR when the server is no KMS key. */
void
cmek_server_fill(CmekKeyRequest *what, Oid serverid)
{
	ForeignServer *server = GetForeignServer(serverid);
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);
	const CmekKmsProvider *provider = cmek_kms_provider(wrapper->fdwname);
	CmekKmsConfig *config = &what->config;

	if (provider == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a KMS key", server->servername),
				 errhint("Create it with one of the foreign-data wrappers of extension cmek.")));

	memset(config, 0, sizeof(CmekKmsConfig));
	strlcpy(config->provider, wrapper->fdwname, sizeof(config->provider));
	config->superuser = superuser_arg(server->owner);
	config->ambient = cmek_ambient_credentials || config->superuser;
	append_options(config, server->options);
	append_public_mapping(config, serverid);
	require_room(provider->add_settings == NULL ||
				 provider->add_settings(config));

	what->database = MyDatabaseId;
	what->server = serverid;
	strlcpy(what->server_name, server->servername, NAMEDATALEN);
	/* all of it is zeroed beyond the options' length */
	what->config_hash = hash_bytes_extended((const unsigned char *) config,
											sizeof(CmekKmsConfig), 0);
}

/* See internal.h. */
Oid
cmek_server_of_key(const char *name)
{
	Oid			server = get_foreign_server_oid(name, true);

	if (!OidIsValid(server))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("KMS key \"%s\" does not exist", name),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER ... for the same key at its KMS.",
						 quote_identifier(name))));
	return server;
}
