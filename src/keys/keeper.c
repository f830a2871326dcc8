/*-------------------------------------------------------------------------
 *
 * keeper.c
 *	  The keeper: has cached table keys proved again at their KMS, and drops
 *	  those that could not be proved for too long.
 *
 * It never calls a KMS itself: proofs go over the board like requests of
 * backends, and KMS workers draw the consequences (board.c).  One proof is
 * asked for each KMS key version whose time has come, by the blob that waited
 * longest for its turn; it speaks for all cached keys of that version, so
 * that ten thousand tables under one key cost one call in a TTL.
 *
 * Besides it sends visitors to databases where something is due (visits.c).
 * For that it reads pg_database; it is never connected to a database.
 *
 * On a standby nobody commits a suspension, its row is just replayed.  So
 * there the keeper ends all leases once a second: whoever uses a key comes
 * back for it, which costs no call to a KMS, and looks for the row.  Keys that
 * nobody comes back for are dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

PGDLLEXPORT void cmek_keeper_main(Datum arg);

#define PROOFS_A_TICK 64

/* Register the keeper; called in the postmaster. */
void
cmek_keeper_register(void)
{
	BackgroundWorker worker;

	/* connected to no database: it reads the list of them, and nothing else */
	cmek_bgworker_fill(&worker, "cmek keeper", "cmek_keeper_main", true);
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}

/* Ask for the proofs that are due. */
static void
ask_for_proofs(CmekInstant now)
{
	CmekDueProof due[PROOFS_A_TICK];
	int			n = cmek_cache_due(now, cmek_key_cache_ttl * USECS_PER_SEC,
								   due, PROOFS_A_TICK);

	for (int i = 0; i < n; i++)
		cmek_board_prove(&due[i]);
}

/* Drop the keys that were not proved for too long. */
static void
expire_keys(CmekInstant now, CmekInstant *oldest)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	cmek_server_oldest_proofs(now, oldest);
	cmek_cache_expire(oldest);
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
}

/*
 * On a standby, and once more when it was promoted, let everybody look whether
 * a suspension was replayed.
 */
static void
honour_replayed(CmekInstant now)
{
	static bool standby = false;
	bool		was = standby;

	standby = RecoveryInProgress();
	if (standby || was)
		cmek_cache_end_leases();
	if (standby)
		cmek_cache_expire_idle(now - cmek_key_cache_ttl * USECS_PER_SEC);
}

/* How far apart the rounds are in which keys are looked after, in ms. */
static long
tick(void)
{
	return Min(1000L, cmek_key_cache_ttl * 500L);
}

/* Is it time for such a round?  Events wake us far more often. */
static bool
round_is_due(CmekInstant now)
{
	static CmekInstant last = 0;

	if (now < last + tick() * INT64CONST(1000))
		return false;
	last = now;
	return true;
}

/* Wait until a time, or for a signal. */
static void
wait_until(CmekInstant time)
{
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 cmek_ms_until(time), cmek_wait_event("CmekKeeperMain"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Nobody is to wait for the keeper when it is gone. */
static void
detach_at_exit(int code, Datum arg)
{
	cmek_eventqueue_attach(NULL);
}

/* Entry of the keeper. */
void
cmek_keeper_main(Datum arg)
{
	CmekInstant *oldest;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0);
	before_shmem_exit(detach_at_exit, (Datum) 0);
	cmek_eventqueue_attach(MyLatch);
	oldest = MemoryContextAlloc(TopMemoryContext,
								cmek_num_servers() * sizeof(CmekInstant));

	while (!ShutdownRequestPending)
	{
		CmekInstant now = cmek_now();
		CmekInstant again = now + tick() * INT64CONST(1000);

		if (round_is_due(now) && cmek_cache_count() > 0)
		{
			expire_keys(now, oldest);
			cmek_stop("keeper-expired");
			ask_for_proofs(now);
			honour_replayed(now);
		}
		if (!RecoveryInProgress())
			again = Min(again, cmek_visits_run(now));
		wait_until(again);
	}
	/* not 0, which would mean: never start the keeper again */
	proc_exit(1);
}
