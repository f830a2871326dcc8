/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  How far long commands have come.
 *
 * A fixed number of slots in shared memory; a command that finds none free
 * runs all the same, unseen.  A backend has at most one, and gives it back at
 * the end of its transaction at the latest, or at the first that aborts when it
 * works in several.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_progress_slots);

#define PROGRESS_SLOTS 64

typedef struct ProgressSlot
{
	int			pid;			/* 0: free */
	Oid			database;
	Oid			role;			/* whose it is, besides the table's owner */
	Oid			relid;
	char		command[NAMEDATALEN];
	uint64		total;
	TimestampTz started_at;
	pg_atomic_uint64 done;		/* written without the lock */
} ProgressSlot;

static ProgressSlot *slots = NULL;
static ProgressSlot *mine = NULL;
static bool kept = false;		/* over the ends of transactions */

Size
cmek_progress_shmem_size(void)
{
	return PROGRESS_SLOTS * sizeof(ProgressSlot);
}

/* Find or make the slots in shared memory. */
void
cmek_progress_shmem_init(void)
{
	bool		found;

	slots = ShmemInitStruct("cmek progress", cmek_progress_shmem_size(), &found);
	if (found)
		return;
	memset(slots, 0, cmek_progress_shmem_size());
	for (int i = 0; i < PROGRESS_SLOTS; i++)
		pg_atomic_init_u64(&slots[i].done, 0);
}

/* See keys.h. */
void
cmek_progress_start(const char *command, Oid relid, uint64 total)
{
	cmek_progress_end();
	if (slots == NULL)
		return;
	LWLockAcquire(cmek_lock(CMEK_LOCK_PROGRESS), LW_EXCLUSIVE);
	for (int i = 0; i < PROGRESS_SLOTS && mine == NULL; i++)
		if (slots[i].pid == 0)
			mine = &slots[i];
	if (mine != NULL)
	{
		mine->pid = MyProcPid;
		mine->database = MyDatabaseId;
		mine->role = GetUserId();
		mine->relid = relid;
		strlcpy(mine->command, command, sizeof(mine->command));
		mine->total = total;
		mine->started_at = GetCurrentTimestamp();
		pg_atomic_write_u64(&mine->done, 0);
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_PROGRESS));
}

/* See keys.h. */
void
cmek_progress_update(uint64 done)
{
	if (mine != NULL)
		pg_atomic_write_u64(&mine->done, done);
}

/* See keys.h. */
void
cmek_progress_end(void)
{
	if (mine == NULL)
		return;
	LWLockAcquire(cmek_lock(CMEK_LOCK_PROGRESS), LW_EXCLUSIVE);
	mine->pid = 0;
	LWLockRelease(cmek_lock(CMEK_LOCK_PROGRESS));
	mine = NULL;
	kept = false;
}

/* See keys.h. */
void
cmek_progress_keep(void)
{
	kept = true;
}

/* See keys.h. */
bool
cmek_progress_running(const char *command, Oid relid)
{
	bool		found = false;

	LWLockAcquire(cmek_lock(CMEK_LOCK_PROGRESS), LW_SHARED);
	for (int i = 0; i < PROGRESS_SLOTS && !found; i++)
		found = slots[i].pid != 0 && slots[i].database == MyDatabaseId &&
			slots[i].relid == relid && strcmp(slots[i].command, command) == 0;
	LWLockRelease(cmek_lock(CMEK_LOCK_PROGRESS));
	return found;
}

/* End of a transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT ||
		(!kept && (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)))
		cmek_progress_end();
}

/* Register the callback; called once in each process. */
void
cmek_progress_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
}

/*
 * May the caller see what happens to a table?  The owner, and whoever makes it:
 * to others one that is not committed does not exist.
 */
static bool
may_see(const ProgressSlot *slot)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(slot->relid));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return has_privs_of_role(GetUserId(), slot->role);
	result = has_privs_of_role(GetUserId(),
							   ((Form_pg_class) GETSTRUCT(tuple))->relowner);
	ReleaseSysCache(tuple);
	return result;
}

/* Emit one row. */
static void
put_slot(ReturnSetInfo *rsinfo, ProgressSlot *slot)
{
	Datum		values[7];
	bool		nulls[7] = {false};

	values[0] = Int32GetDatum(slot->pid);
	values[1] = ObjectIdGetDatum(slot->database);
	values[2] = CStringGetTextDatum(slot->command);
	values[3] = ObjectIdGetDatum(slot->relid);
	values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->done));
	values[5] = Int64GetDatum((int64) slot->total);
	nulls[5] = slot->total == 0;
	values[6] = TimestampTzGetDatum(slot->started_at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * SQL: the commands under way in this database, on tables of the caller's.
 */
Datum
cmek_progress_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ProgressSlot *copy = palloc(cmek_progress_shmem_size());

	cmek_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(cmek_lock(CMEK_LOCK_PROGRESS), LW_SHARED);
	memcpy(copy, slots, cmek_progress_shmem_size());
	LWLockRelease(cmek_lock(CMEK_LOCK_PROGRESS));
	for (int i = 0; i < PROGRESS_SLOTS; i++)
		if (copy[i].pid != 0 && copy[i].database == MyDatabaseId &&
			may_see(&copy[i]))
			put_slot(rsinfo, &copy[i]);
	return (Datum) 0;
}
