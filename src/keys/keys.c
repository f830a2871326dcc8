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
	CmekAead   *aead = cmek_aead_create(key);

	PG_TRY();
	{
		create_data_key(table_key, aead, CMEK_STRUCTURE_HEAP);
		create_data_key(table_key, aead, CMEK_STRUCTURE_TOAST);
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
}

/* The body of cmek_keys_create. */
static void
create_keys(Oid relid, Oid serverid)
{
	CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));
	uint8	   *key = new_key();

	cmek_table_key_generate(relid, serverid, 1, row, key);
	cmek_catalog_insert_table_key(row);
	create_data_keys(row, key);
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

/* The body of cmek_keys_rewrap, up to the dependency. */
static void
rewrap_keys(CmekBinding *binding, Oid serverid)
{
	CmekTableKeyRow *row = palloc(sizeof(CmekTableKeyRow));
	uint8	   *old_key = new_key();
	uint8	   *key = new_key();
	CmekAead   *volatile old_aead = NULL;
	CmekAead   *volatile aead = NULL;
	CmekLease	lease;

	cmek_table_key_open(&binding->table_key, old_key, &lease);
	cmek_table_key_generate(binding->table_key.relid, serverid,
							binding->table_key.version + 1, row, key);
	PG_TRY();
	{
		old_aead = cmek_aead_create(old_key);
		aead = cmek_aead_create(key);
		rewrap_data_keys(binding, old_aead, row, aead);
	}
	PG_FINALLY();
	{
		if (old_aead != NULL)
			cmek_aead_free(old_aead);
		if (aead != NULL)
			cmek_aead_free(aead);
	}
	PG_END_TRY();
	cmek_catalog_insert_table_key(row);
	cmek_catalog_rewrap_data_keys(binding->table_key.relid, binding->deks,
								  binding->ndeks);
}

/* Which of the two is to be done, in a memory context of its own? */
static void
run_in_context(Oid relid, Oid serverid, CmekBinding *binding)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek keys",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	cmek_secret_forbid_core_dump();
	PG_TRY();
	{
		if (binding == NULL)
			create_keys(relid, serverid);
		else
			rewrap_keys(binding, serverid);
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
cmek_keys_create(Oid relid, Oid serverid)
{
	if (!IsBinaryUpgrade)
	{
		cmek_require_preload();
		if (cmek_catalog_bound(relid))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" has a key already",
							get_rel_name(relid))));
		run_in_context(relid, serverid, NULL);
	}
	record_dependency(relid, serverid);
	announce(relid);
}

/* See keys.h. */
void
cmek_keys_rewrap(Oid relid, Oid serverid)
{
	CmekBinding *binding;

	if (IsBinaryUpgrade)
		return;
	cmek_require_preload();
	binding = cmek_catalog_read(relid);
	if (binding == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key", get_rel_name(relid))));
	run_in_context(relid, serverid, binding);
	delete_dependency(relid, binding->table_key.server);
	record_dependency(relid, serverid);
	announce(relid);
}

/* See keys.h. */
void
cmek_keys_delete(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cmek_catalog_delete(relid))
	{
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
}
