/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  cmek.import_keys(): exported keys come to a backup from before a switch.
 *
 * This file owns who may, which table is meant, and the label; the keys are
 * opened, proved and stored by keys/chain.c.  All tables of an export are done
 * in one transaction: one bad chain and nothing has changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/jsonb.h"

#include "compat.h"
#include "ddl/statement.h"
#include "keys/keys.h"
#include "stats/stats.h"

PG_FUNCTION_INFO_V1(cmek_import_keys);

/* Can the table of a chain be had here?  Then it is locked. */
static bool
exchange_find_table(const CmekChain *chain, CmekClass *cls)
{
	Oid			relid = cmek_chain_relid(chain);

	if (!cmek_class_get(relid, cls) || !cmek_class_has_rows(cls) ||
		!cmek_class_is_sealed(cls))
		return false;
	if (!cmek_relation_ownercheck(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   NameStr(cls->relname));
	LockRelationOid(relid, ShareUpdateExclusiveLock);
	return cmek_class_get(relid, cls);
}

/* Give one table its newer keys; false when it has them, or is not here. */
static bool
exchange_import_table(const CmekChain *chain)
{
	const char *server = cmek_chain_server(chain);
	CmekKeys	keys = {NULL, NIL};
	CmekClass	cls;

	if (!exchange_find_table(chain, &cls))
	{
		ereport(NOTICE,
				(errmsg("there is no sealed table with OID %u, skipping",
						cmek_chain_relid(chain))));
		return false;
	}
	if (!cmek_chain_is_news(chain))
		return false;
	(void) cmek_label_get(cls.relid, &keys);
	keys.key = server;
	keys.replicas = cmek_bind_replace(keys.replicas, server, NULL);
	cmek_keys_import(chain, cmek_bind_server(server));
	cmek_stats_forget_ancestors(cls.relid);
	cmek_label_set(cls.relid, &keys);
	return true;
}

/*
 * SQL: bring tables of this database to the newest keys of an export.  Returns
 * how many were changed.  Takes ShareUpdateExclusiveLock on each.
 */
Datum
cmek_import_keys(PG_FUNCTION_ARGS)
{
	List	   *chains = cmek_chains_parse(PG_GETARG_JSONB_P(0));
	int			done = 0;
	ListCell   *lc;

	PreventCommandIfReadOnly("cmek.import_keys()");
	PreventCommandDuringRecovery("cmek.import_keys()");
	foreach(lc, chains)
		done += exchange_import_table((CmekChain *) lfirst(lc));
	PG_RETURN_INT32(done);
}
