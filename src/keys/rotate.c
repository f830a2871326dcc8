/*-------------------------------------------------------------------------
 *
 * rotate.c
 *	  Generations of data keys.
 *
 * A next generation is a new data key, with an id of its own, for the same
 * structure; rows go on naming the key they were sealed with.  The older keys
 * stay until nothing needs them (cmek_keys_retire), which only heap/ can know.
 *
 * Whoever makes a generation commits it before others can meet what it seals.
 * So there are three ways to one: a procedure that commits by itself, a
 * worker that a backend waits for (cmek_renew_start), and the backend's own
 * transaction when its lock keeps all other writers away.  Nothing here takes
 * a lock on the table: the caller holds ShareUpdateExclusiveLock at least.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

/* How long to try when max_worker_processes are running */
#define START_ATTEMPTS 50
#define START_PAUSE 20000L		/* us */

StaticAssertDecl(sizeof(CmekRenewRequest) <= BGW_EXTRALEN,
				 "a request fits into bgw_extra");

/* Make and store the data key that follows another. */
static void
make_successor(const CmekDataKeyRow *old, const CmekTableKeyRow *table_key,
			   CmekAead *aead)
{
	CmekDataKeyRow row = *old;
	uint8	   *dek = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);

	row.id = cmek_catalog_new_dek_id();
	row.generation = old->generation + 1;
	cmek_random(dek, CMEK_KEY_LEN);
	cmek_dek_wrap(&row, table_key->id, aead, dek);
	cmek_catalog_insert_data_key(&row);
}

/* Make a successor of each current data key; those of indexes have none. */
static void
make_successors(const CmekBinding *binding, const uint8 *table_key)
{
	CmekAead   *aead = cmek_aead_create(table_key);

	PG_TRY();
	{
		for (int i = 0; i < binding->ndeks; i++)
			if (binding->deks[i].current &&
				binding->deks[i].kind != CMEK_STRUCTURE_INDEX)
				make_successor(&binding->deks[i], &binding->table_key, aead);
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
}

/* Is the data key current?  0 stands for whichever is. */
static bool
is_current(const CmekBinding *binding, uint32 dek_id)
{
	for (int i = 0; i < binding->ndeks; i++)
		if (binding->deks[i].id == dek_id)
			return binding->deks[i].current;
	return dek_id == 0;
}

/* The body of cmek_keys_rotate_data_keys. */
static void
rotate(Oid relid, uint32 dek_id)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	uint8	   *key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	CmekLease	lease;

	if (binding == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key", get_rel_name(relid))));
	if (!is_current(binding, dek_id))
		return;
	cmek_event_note(CMEK_EVENT_ROTATE, binding->table_key.server, relid,
					"data keys");
	cmek_binding_open(binding, key, &lease);
	cmek_catalog_supersede_data_keys(relid);
	cmek_stop("rotate-superseded");
	make_successors(binding, key);
	cmek_stop("rotate-made");
	/* rings that know the old ones only are told at commit */
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}

/* See keys.h. */
void
cmek_keys_rotate_data_keys(Oid relid, uint32 dek_id)
{
	MemoryContext context;
	MemoryContext old;

	cmek_require_preload();
	context = AllocSetContextCreate(CurrentMemoryContext, "cmek rotation",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	cmek_secret_forbid_core_dump();
	PG_TRY();
	{
		rotate(relid, dek_id);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
}

/* See keys.h. */
List *
cmek_keys_superseded(Oid relid)
{
	CmekBinding *binding = cmek_catalog_read(relid);
	List	   *result = NIL;

	for (int i = 0; binding != NULL && i < binding->ndeks; i++)
		if (!binding->deks[i].current)
			result = lappend_oid(result, binding->deks[i].id);
	return result;
}

/* See keys.h. */
void
cmek_keys_retire(Oid relid, List *dek_ids)
{
	cmek_catalog_delete_data_keys(relid, dek_ids);
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}

/* See keys.h.  The worker itself is heap's, which knows what to reseal. */
bool
cmek_renew_start(CmekRenewal what, Oid relid, uint32 dek_id, bool wait)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	CmekRenewRequest request = {what, relid, dek_id};
	int			attempts = 0;

	cmek_bgworker_fill(&worker, "cmek renewal", "cmek_renew_main", true);
	snprintf(worker.bgw_name, BGW_MAXLEN, "cmek %s of table %u",
			 what == CMEK_RENEW_ROTATE ? "key rotation" : "reseal", relid);
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = wait ? MyProcPid : 0;
	memcpy(worker.bgw_extra, &request, sizeof(request));
	while (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		/* a visitor that holds the last place gives it back in a moment */
		if (!wait || attempts++ == START_ATTEMPTS)
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(START_PAUSE);
	}
	if (wait)
		(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
	return true;
}
