/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Making, moving and deleting the keys of a table.
 *
 * Everything here is transactional: an ERROR at any point leaves the rows,
 * and so the table, as they were.  Plaintext keys live in a memory context of
 * the call and are cleansed with it.  Permissions are the business of ddl/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

/* Record that a table needs a server, once. */
static void
record_dependency(Oid relid, Oid serverid)
{
	ObjectAddress table;
	ObjectAddress server;

	ObjectAddressSet(table, RelationRelationId, relid);
	ObjectAddressSet(server, ForeignServerRelationId, serverid);
	deleteDependencyRecordsForSpecific(RelationRelationId, relid,
									   DEPENDENCY_NORMAL,
									   ForeignServerRelationId, serverid);
	recordDependencyOn(&table, &server, DEPENDENCY_NORMAL);
}

/* The same for several. */
static void
record_dependencies(Oid relid, List *servers)
{
	ListCell   *lc;

	foreach(lc, servers)
		record_dependency(relid, lfirst_oid(lc));
}

/* A table does not need a server any more. */
static void
delete_dependency(Oid relid, const char *server)
{
	Oid			serverid = get_foreign_server_oid(server, true);

	if (OidIsValid(serverid))
		deleteDependencyRecordsForSpecific(RelationRelationId, relid,
										   DEPENDENCY_NORMAL,
										   ForeignServerRelationId, serverid);
}

/* Secret memory for one key, of the current memory context. */
static uint8 *
new_key(void)
{
	return cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
}

/* Free an expanded key with its memory context. */
static void
free_aead(void *aead)
{
	cmek_aead_free((CmekAead *) aead);
}

/* An expanded key that lives as long as the current memory context. */
static CmekAead *
new_aead(const uint8 *key)
{
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	callback->func = free_aead;
	callback->arg = cmek_aead_create(key);
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return (CmekAead *) callback->arg;
}

/* Make and store the first data key of a structure. */
static void
create_data_key(const CmekTableKeyRow *table_key, CmekAead *aead,
				CmekStructureKind kind)
{
	CmekDataKeyRow row = {0};
	uint8	   *dek = new_key();

	row.id = cmek_catalog_new_dek_id();
	row.relid = table_key->relid;
	row.kind = kind;
	row.generation = 1;
	row.current = true;
	cmek_random_uuid(row.structure);
	cmek_random(dek, CMEK_KEY_LEN);
	cmek_dek_wrap(&row, table_key->id, aead, dek);
	cmek_catalog_insert_data_key(&row);
}

/* Make and store the data keys of a table. */
static void
create_data_keys(const CmekTableKeyRow *table_key, const uint8 *key)
{
	CmekAead   *aead = new_aead(key);

	create_data_key(table_key, aead, CMEK_STRUCTURE_HEAP);
	create_data_key(table_key, aead, CMEK_STRUCTURE_TOAST);
	create_data_key(table_key, aead, CMEK_STRUCTURE_STATISTICS);
}

/* Has a table key this replica wrapping? */
static bool
has_replica(List *rows, const char *server)
{
	ListCell   *lc;

	foreach(lc, rows)
		if (strcmp(((CmekTableKeyRow *) lfirst(lc))->server, server) == 0)
			return true;
	return false;
}

/* Names of servers, by their OIDs */
static List *
server_names(List *servers)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, servers)
		names = lappend(names, GetForeignServer(lfirst_oid(lc))->servername);
	return names;
}

/* Let a table key have replica wrappings by these KMS keys and no others. */
static void
make_replicas(const CmekTableKeyRow *table_key, const uint8 *key,
			  List *replicas)
{
	List	   *rows = cmek_replica_rows(table_key->relid, table_key->id);
	List	   *names = server_names(replicas);
	ListCell   *lc;
	ListCell   *name;

	forboth(lc, replicas, name, names)
		if (!has_replica(rows, lfirst(name)))
			cmek_replica_make(table_key, key, lfirst_oid(lc));
	cmek_replica_delete(table_key->relid, table_key->id, names);
}

/* The body of cmek_keys_create. */
static void
create_keys(Oid relid, Oid serverid, List *replicas)
{
	CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));
	uint8	   *key = new_key();

	cmek_table_key_generate(relid, serverid, 1, row, key);
	cmek_catalog_insert_table_key(row);
	create_data_keys(row, key);
	make_replicas(row, key, replicas);
}

/* Move wrapped data keys from one table key to another. */
static void
rewrap_data_keys(CmekBinding *binding, CmekAead *old_key,
				 const CmekTableKeyRow *new_row, CmekAead *new_key_aead)
{
	uint8	   *dek = new_key();

	for (int i = 0; i < binding->ndeks; i++)
	{
		cmek_dek_unwrap(&binding->deks[i], &binding->table_key, old_key, dek);
		cmek_dek_wrap(&binding->deks[i], new_row->id, new_key_aead, dek);
	}
}

/*
 * Wrap all data keys of a binding by another table key, under which the old
 * one is sealed as well.
 */
static void
rewrap_under(CmekBinding *binding, const uint8 *old_key,
			 const CmekTableKeyRow *row, const uint8 *key)
{
	CmekAead   *aead = new_aead(key);

	rewrap_data_keys(binding, new_aead(old_key), row, aead);
	cmek_chain_seal(&binding->table_key, old_key, row->id, aead);
}

/*
 * Make a table key the newest of its table.  The one before it leaves the
 * cache as soon as this is committed: from then on nobody has a use for it.
 */
static void
store_rewrapped(const CmekBinding *binding, const CmekTableKeyRow *row)
{
	cmek_catalog_insert_table_key(row);
	cmek_stop("switch-stored");
	cmek_catalog_seal_table_key(&binding->table_key);
	cmek_stop("switch-chained");
	cmek_catalog_rewrap_data_keys(binding->table_key.relid, binding->deks,
								  binding->ndeks);
	cmek_table_key_forget(binding->table_key.id, true);
}

/* The body of cmek_keys_rewrap, up to the dependency. */
static void
rewrap_keys(CmekBinding *binding, Oid serverid, List *replicas)
{
	CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));
	uint8	   *old_key = new_key();
	uint8	   *key = new_key();
	CmekLease	lease;

	cmek_table_key_open(&binding->table_key, old_key, &lease);
	cmek_table_key_generate(binding->table_key.relid, serverid,
							binding->table_key.version + 1, row, key);
	cmek_stop("switch-generated");
	rewrap_under(binding, old_key, row, key);
	store_rewrapped(binding, row);
	make_replicas(row, key, replicas);
	cmek_stop("switch-rewrapped");
}

/* The body of cmek_keys_import, up to the dependency. */
static void
import_keys(CmekBinding *binding, const CmekChain *chain, List *replicas)
{
	uint8	   *old_key = new_key();
	uint8	   *key = new_key();
	const CmekTableKeyRow *row;

	cmek_chain_open(chain, &binding->table_key, old_key, key);
	row = cmek_chain_store(chain, &binding->table_key);
	rewrap_under(binding, old_key, row, key);
	cmek_catalog_rewrap_data_keys(binding->table_key.relid, binding->deks,
								  binding->ndeks);
	cmek_table_key_forget(binding->table_key.id, true);
	make_replicas(row, key, replicas);
}

/* The body of cmek_keys_set_replicas, when there is something to wrap. */
static void
replicate_keys(CmekBinding *binding, List *replicas)
{
	uint8	   *key = new_key();
	CmekLease	lease;

	cmek_binding_open(binding, key, &lease);
	make_replicas(&binding->table_key, key, replicas);
}

/* Which of them is to be done, in a memory context of its own? */
static void
run_in_context(Oid relid, Oid serverid, CmekBinding *binding,
			   const CmekChain *chain, List *replicas)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek keys",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	cmek_secret_forbid_core_dump();
	PG_TRY();
	{
		if (binding == NULL)
			create_keys(relid, serverid, replicas);
		else if (chain != NULL)
			import_keys(binding, chain, replicas);
		else if (OidIsValid(serverid))
			rewrap_keys(binding, serverid, replicas);
		else
			replicate_keys(binding, replicas);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
}

/* Tell everybody, ourselves included, and let the next command see it. */
static void
announce(Oid relid)
{
	CommandCounterIncrement();
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}

/*
 * See keys.h.  In binary upgrade the rows come with the data files: only the
 * dependency is recorded.
 */
void
cmek_keys_create(Oid relid, Oid serverid, List *replicas)
{
	if (!IsBinaryUpgrade)
	{
		cmek_require_preload();
		if (cmek_catalog_bound(relid))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" has a key already",
							get_rel_name(relid))));
		run_in_context(relid, serverid, NULL, NULL, replicas);
	}
	record_dependency(relid, serverid);
	record_dependencies(relid, replicas);
	announce(relid);
	if (!IsBinaryUpgrade && cmek_index_keys_wanted != NULL)
		cmek_index_keys_wanted(relid);
}

/* The keys that a table has now. */
static CmekBinding *
read_binding(Oid relid)
{
	CmekBinding *binding;

	cmek_require_preload();
	binding = cmek_catalog_read(relid);
	if (binding == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key", get_rel_name(relid))));
	return binding;
}

/* The servers of the replica wrappings that a binding has */
static List *
replicas_of(const CmekBinding *binding)
{
	List	   *servers = NIL;
	ListCell   *lc;

	foreach(lc, cmek_replica_rows(binding->table_key.relid,
								  binding->table_key.id))
		servers = lappend_oid(servers,
							  get_foreign_server_oid(((CmekTableKeyRow *) lfirst(lc))->server,
													 false));
	return servers;
}

/* A table does not need the servers of its replica wrappings any more. */
static void
delete_dependencies(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cmek_replica_rows(relid, NULL))
	{
		delete_dependency(relid, ((CmekTableKeyRow *) lfirst(lc))->server);
		CommandCounterIncrement();
	}
}

/* Wrap the data keys anew, and let the table depend on other servers. */
static void
move_keys(CmekBinding *binding, Oid serverid, const CmekChain *chain,
		  List *replicas)
{
	Oid			relid = binding->table_key.relid;

	delete_dependencies(relid);
	run_in_context(relid, serverid, binding, chain, replicas);
	delete_dependency(relid, binding->table_key.server);
	/* both may be the same */
	CommandCounterIncrement();
	record_dependency(relid, serverid);
	record_dependencies(relid, replicas);
	announce(relid);
	cmek_stop("switch-announced");
}

/* See keys.h. */
void
cmek_keys_rewrap(Oid relid, Oid serverid, List *replicas)
{
	if (!IsBinaryUpgrade)
		move_keys(read_binding(relid), serverid, NULL, replicas);
}

/* See keys.h.  To have fewer of them needs no key. */
void
cmek_keys_set_replicas(Oid relid, List *replicas)
{
	CmekBinding *binding;

	if (IsBinaryUpgrade)
		return;
	binding = read_binding(relid);
	delete_dependencies(relid);
	if (list_difference_oid(replicas, replicas_of(binding)) != NIL)
		run_in_context(relid, InvalidOid, binding, NULL, replicas);
	else
		cmek_replica_delete(relid, binding->table_key.id,
							server_names(replicas));
	record_dependencies(relid, replicas);
	announce(relid);
}

/* See keys.h. */
void
cmek_keys_rotate_table_key(Oid relid)
{
	CmekBinding *binding = read_binding(relid);

	cmek_event_note(CMEK_EVENT_ROTATE, binding->table_key.server, relid,
					"table key");
	move_keys(binding,
			  get_foreign_server_oid(binding->table_key.server, false), NULL,
			  replicas_of(binding));
}

/* See keys.h. */
void
cmek_keys_import(const CmekChain *chain, Oid serverid)
{
	CmekBinding *binding = read_binding(cmek_chain_relid(chain));

	cmek_event_note(CMEK_EVENT_IMPORT, cmek_chain_server(chain),
					cmek_chain_relid(chain), NULL);
	/* the export's own key may have been a replica's here */
	move_keys(binding, serverid, chain,
			  list_delete_oid(replicas_of(binding), serverid));
}

/* See keys.h. */
void
cmek_keys_delete(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cmek_catalog_delete(relid))
	{
		cmek_event_note(CMEK_EVENT_UNBIND, lfirst(lc), relid, NULL);
		delete_dependency(relid, lfirst(lc));
		/* a table that went back and forth names a server twice */
		CommandCounterIncrement();
	}
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		announce(relid);
}

/* See keys.h. */
void
cmek_keys_rename_server(const char *oldname, const char *newname)
{
	cmek_catalog_rename_server(oldname, newname);
	cmek_replica_rename_server(oldname, newname);
}
