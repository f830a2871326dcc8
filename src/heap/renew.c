/*-------------------------------------------------------------------------
 *
 * renew.c
 *	  Renewing data keys: CALL cmek.rotate_data_key(), CALL cmek.reseal(), and
 *	  the worker that does the same when a key grew old or full.
 *
 * Each step is a transaction: a generation is committed before anybody seals
 * with it, a batch gives the table's lock back, a retired key is gone for
 * all.  What was done stays done when a later step fails or is cancelled, and
 * the next call goes on from there.
 *
 * Between the commit of a rotation and the first page, reseal waits for the
 * transactions that may still write with the old keys, as CREATE INDEX
 * CONCURRENTLY does.  It holds no lock meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "heap/internal.h"

PG_FUNCTION_INFO_V1(cmek_rotate_data_key);
PG_FUNCTION_INFO_V1(cmek_reseal);
PGDLLEXPORT void cmek_renew_main(Datum arg);

/* How long the worker tries for a lock */
#define LOCK_ATTEMPTS 20
#define LOCK_PAUSE 10000L		/* us */

static int	reseal_delay = 0;	/* ms */

/* In the worker there is no procedure whose transaction SPI could end */
static bool in_worker = false;

/* End this transaction and begin the next, in the same memory context */
static void
next_transaction(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (!in_worker)
	{
		SPI_commit();
		return;
	}
	CommitTransactionCommand();
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* ERROR when the call is part of a transaction that is not ours to end */
static void
prevent_in_block(FunctionCallInfo fcinfo, const char *what)
{
	CallContext *context = (CallContext *) fcinfo->context;

	if (context == NULL || !IsA(context, CallContext) || context->atomic ||
		IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", what),
				 errdetail("It commits each of its steps by itself."),
				 errhint("CALL it outside of BEGIN ... COMMIT, functions and blocks with exception handlers.")));
}

/* ----------
 * Which tables
 * ----------
 */

/* May the caller renew the keys of this relation, and has it any? */
static void
check_table(Relation rel, bool parent)
{
	if (!cmek_relation_ownercheck(RelationGetRelid(rel), GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
	if (parent)
		return;
	if (!reseal_knows_table(rel))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a sealed table with data keys of its own",
						RelationGetRelationName(rel)),
				 errhint("ALTER TABLE ... SET ACCESS METHOD cmek_heap seals a table.")));
	if (!cmek_table_is_bound(RelationGetRelid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key", RelationGetRelationName(rel)),
				 errhint("SECURITY LABEL FOR cmek ON TABLE %s IS 'key=...'",
						 RelationGetRelationName(rel))));
}

/*
 * The sealed tables that a name stands for: itself, or all its partitions.
 * The caller must own each.  The list is in the current memory context.
 */
static List *
tables_of(Oid relid)
{
	Relation	root = relation_open(relid, AccessShareLock);
	bool		parent = root->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	List	   *members;
	List	   *result = NIL;
	ListCell   *lc;

	check_table(root, parent);
	relation_close(root, NoLock);
	if (!parent)
		return list_make1_oid(relid);
	members = find_all_inheritors(relid, AccessShareLock, NULL);
	foreach(lc, members)
	{
		Relation	rel = relation_open(lfirst_oid(lc), NoLock);

		if (reseal_knows_table(rel) && cmek_table_is_bound(lfirst_oid(lc)))
		{
			check_table(rel, false);
			result = lappend_oid(result, lfirst_oid(lc));
		}
		relation_close(rel, NoLock);
	}
	return result;
}

/*
 * What both procedures do: "work" for each table of the argument, outside of
 * anybody's transaction, for it commits.
 */
static void
call_for_tables(FunctionCallInfo fcinfo, const char *what,
				void (*work) (Oid relid))
{
	ListCell   *lc;

	prevent_in_block(fcinfo, what);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the table must not be null")));
	cmek_require_preload();
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	foreach(lc, tables_of(PG_GETARG_OID(0)))
		work(lfirst_oid(lc));
	SPI_finish();
}

/* ----------
 * Rotation
 * ----------
 */

/* A next generation, in a transaction of its own; the table may be gone */
static void
rotate_table(Oid relid, uint32 dek_id)
{
	Relation	rel = try_relation_open(relid, ShareUpdateExclusiveLock);

	if (rel != NULL)
	{
		/* after a commit there is none, and core wants one for its writes */
		PushActiveSnapshot(GetTransactionSnapshot());
		if (reseal_knows_table(rel))
			cmek_keys_rotate_data_keys(relid, dek_id);
		PopActiveSnapshot();
		relation_close(rel, NoLock);
	}
	next_transaction();
}

/* The same whatever the present generation is */
static void
rotate_any_table(Oid relid)
{
	rotate_table(relid, 0);
}

/*
 * CALL cmek.rotate_data_key(table): new values are sealed with new data keys
 * from now on; old ones stay as they are until they are resealed.  A
 * partitioned table stands for its partitions.
 */
Datum
cmek_rotate_data_key(PG_FUNCTION_ARGS)
{
	call_for_tables(fcinfo, "cmek.rotate_data_key()", rotate_any_table);
	PG_RETURN_VOID();
}

/* ----------
 * Reseal
 * ----------
 */

/* Let those end who may still write with data keys that were superseded */
static void
wait_for_writers(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	WaitForLockers(tag, ShareLock, false);
}

/* Between batches: leave the disks to others */
static void
pause_between_batches(void)
{
	CHECK_FOR_INTERRUPTS();
	if (reseal_delay == 0)
		return;
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 reseal_delay, cmek_wait_event("CmekResealDelay"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Do batches in memory of their own */
static ResealResult
run_batch(ResealPass *pass)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek reseal batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	ResealResult result = reseal_batch(pass);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/*
 * One pass over a table: RESEAL_END, RESEAL_MOVED when another must follow,
 * RESEAL_GONE.
 */
static ResealResult
run_pass(ResealPass *pass, bool check)
{
	uint64		blocks;
	ResealResult result = reseal_begin(pass, &blocks);

	if (result == RESEAL_GONE)
		return result;
	cmek_progress_start(check ? "reseal check" : "reseal", pass->relid, blocks);
	cmek_progress_keep();
	next_transaction();
	while ((result = run_batch(pass)) == RESEAL_MORE ||
		   result == RESEAL_KEY_FULL)
	{
		next_transaction();
		cmek_stop("reseal-batch");
		if (result == RESEAL_KEY_FULL)
			rotate_table(pass->relid, 0);
		pause_between_batches();
	}
	cmek_progress_end();
	next_transaction();
	return result;
}

/* Say what could not be resealed */
static void
report_rest(ResealPass *pass)
{
	const char *name = get_rel_name(pass->relid);

	if (name == NULL)
		return;
	if (pass->damaged > 0)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("%llu rows or chunks of table \"%s\" are damaged or forged and were not resealed",
						(unsigned long long) pass->damaged, name),
				 errhint("SELECT * FROM cmek.verify('%s') lists every damaged row.",
						 name)));
	if (pass->dead > 0)
		ereport(NOTICE,
				(errmsg("%llu dead chunks of table \"%s\" were not resealed, so their data keys are kept",
						(unsigned long long) pass->dead, name),
				 errhint("VACUUM the table, then reseal it again.")));
}

/*
 * Reseal one table: passes, until one meets nothing to reseal; that one has
 * proved that the old data keys are not needed.
 */
static void
reseal_table(Oid relid)
{
	ResealPass	pass = {.relid = relid};
	ResealResult result;
	bool		check = false;

	pass.old = cmek_keys_superseded(relid);
	next_transaction();
	if (pass.old == NIL)
		return;
	wait_for_writers(relid);
	next_transaction();
	do
	{
		result = run_pass(&pass, check);
		check = result == RESEAL_END;
		if (result != RESEAL_END || pass.resealed > 0)
			continue;
		if (pass.dead > 0 || pass.damaged > 0)
			break;
		cmek_stop("reseal-retire");
		result = reseal_retire(&pass);
		cmek_stop("reseal-retired");
		next_transaction();
		if (result == RESEAL_END)
			break;
		check = false;
	} while (result != RESEAL_GONE);
	report_rest(&pass);
}

/*
 * CALL cmek.reseal(table): seal old rows and out-of-line values with the
 * current data keys, while others read and write, then delete the data keys
 * that nothing needs any more.  A partitioned table stands for its partitions.
 */
Datum
cmek_reseal(PG_FUNCTION_ARGS)
{
	call_for_tables(fcinfo, "cmek.reseal()", reseal_table);
	PG_RETURN_VOID();
}

/* ----------
 * The worker
 * ----------
 */

/*
 * Take the lock when it can be had soon, as it can while another worker
 * rotates.  Never queue for it: whoever waits for us may be in the way of
 * whoever is before us in the queue, and the deadlock check cannot see that.
 */
static bool
worker_lock(Oid relid)
{
	for (int i = 0; i < LOCK_ATTEMPTS; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
			return true;
		pg_usleep(LOCK_PAUSE);
	}
	return false;
}

/* Rotate, and reseal when that is wanted: in another worker, not waited for */
static void
worker_rotate(const CmekRenewRequest *request)
{
	if (!worker_lock(request->relid))
		return;
	rotate_table(request->relid, request->dek_id);
	if (cmek_auto_reseal && !cmek_progress_running("reseal", request->relid))
		(void) cmek_renew_start(CMEK_RENEW_RESEAL, request->relid, 0, false);
}

/* Entry of the worker; its argument is the database */
void
cmek_renew_main(Datum arg)
{
	CmekRenewRequest request;

	memcpy(&request, MyBgworkerEntry->bgw_extra, sizeof(request));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg),
											  InvalidOid, 0);
	cmek_bgworker_pin_settings();
	/* somebody may be waiting: never wait long for locks of the catalogs */
	if (request.what == CMEK_RENEW_ROTATE)
		SetConfigOption("lock_timeout", "1s", PGC_SUSET, PGC_S_OVERRIDE);
	in_worker = true;
	StartTransactionCommand();
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "cmek renewal",
												ALLOCSET_DEFAULT_SIZES));
	if (request.what == CMEK_RENEW_ROTATE)
		worker_rotate(&request);
	else
		reseal_table(request.relid);
	CommitTransactionCommand();
	proc_exit(0);
}

void
renew_init(void)
{
	DefineCustomIntVariable("cmek.reseal_delay",
							"How long cmek.reseal() pauses after each batch of pages.",
							NULL,
							&reseal_delay,
							0, 0, 60000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
}
