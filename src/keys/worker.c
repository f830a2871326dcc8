/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  KMS workers: the only processes that talk to a KMS or read a key file.
 *
 * A worker has no database connection.  It takes a request off the board,
 * calls the provider, and ends the request, whatever happens: an ERROR in a
 * provider, and the end of the process, are answers of UNREACHABLE.  What it
 * learns lives in one secret allocation for the length of one call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/internal.h"

PGDLLEXPORT void cmek_worker_main(Datum arg);

/* Register the workers; called in the postmaster. */
void
cmek_workers_register(void)
{
	for (int i = 0; i < cmek_kms_workers; i++)
	{
		BackgroundWorker worker;

		cmek_bgworker_fill(&worker, "cmek KMS worker", "cmek_worker_main",
						   false);
		snprintf(worker.bgw_name, BGW_MAXLEN, "cmek KMS worker %d", i + 1);
		worker.bgw_start_time = BgWorkerStart_ConsistentState;
		worker.bgw_restart_time = 5;
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}

/*
 * Wrap a table key once more.  The backend that asks has just opened it, but
 * others may have pushed it out of the cache: then it asks again.
 */
static void
wrap_cached(const CmekKmsProvider *provider, const CmekKeyRequest *what,
			const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	CmekKmsRequest wrap = *req;
	uint8	   *key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);

	wrap.key = key;
	if (cmek_cache_copy(what->database, what->source, key))
		provider->wrap(&wrap, answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, CMEK_CODE_NOT_CACHED,
						"the table key is not in the cache");
}

/* Have the provider do what is asked. */
static void
dispatch(const CmekKmsProvider *provider, const CmekKeyRequest *what,
		 const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	switch (what->op)
	{
		case CMEK_OP_GENERATE:
			cmek_kms_generate(provider, req, answer);
			break;
		case CMEK_OP_UNWRAP:
			provider->unwrap(req, answer);
			break;
		case CMEK_OP_CHECK:
			cmek_kms_check(provider, req, what->step, answer);
			break;
		case CMEK_OP_WRAP:
			wrap_cached(provider, what, req, answer);
			break;
		case CMEK_OP_SEAL:
			cmek_secret_seal(req, what->option, answer);
			break;
		case CMEK_OP_POST:
			cmek_kms_post(req, answer);
			break;
	}
}

/*
 * Call the provider.  Its time is what the server allows, not the session
 * that asked: else one impatient session made the KMS unreachable for all.
 */
static void
call_provider(const CmekKeyRequest *what, CmekInstant started,
			  CmekKmsAnswer *answer)
{
	const CmekKmsProvider *provider = cmek_kms_provider(what->config.provider);
	CmekKmsRequest req = {0};

	req.config = &what->config;
	req.uuid = what->uuid;
	req.expected_version = what->version;
	req.blob = what->blob;
	req.blob_len = what->blob_len;
	req.deadline = started + cmek_kms_timeout * INT64CONST(1000);
	if (provider == NULL && what->op != CMEK_OP_POST)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoProvider",
						"there is no provider \"%s\"", what->config.provider);
	else if (what->op == CMEK_OP_SEAL || what->op == CMEK_OP_POST ||
			 (req.config = cmek_secrets_open(&what->config, req.deadline,
											 answer)) != NULL)
		dispatch(provider, what, &req, answer);
}

/* Report an ERROR thrown by a provider and turn it into an answer. */
static void
swallow_error(MemoryContext context, CmekKmsAnswer *answer)
{
	HOLD_INTERRUPTS();
	LWLockReleaseAll();
	MemoryContextSwitchTo(context);
	EmitErrorReport();
	FlushErrorState();
	cmek_cleanse(answer, sizeof(CmekKmsAnswer));
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "WorkerError",
					"the KMS worker failed, see the server log");
	RESUME_INTERRUPTS();
}

/* Carry out one request, in memory of its own. */
static void
run_request(int slot)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "cmek KMS call",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CmekKmsAnswer *answer = cmek_secret_alloc_in(context, sizeof(CmekKmsAnswer));
	CmekInstant started = cmek_now();
	const CmekKeyRequest *what = cmek_board_request(slot);

	/* an answer is never OK by omission */
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "NoAnswer",
					"the provider gave no answer");
	PG_TRY();
	{
		cmek_stop("worker-taken");
		call_provider(what, started, answer);
		cmek_stop("worker-answered");
	}
	PG_CATCH();
	{
		swallow_error(context, answer);
	}
	PG_END_TRY();
	cmek_board_finish(slot, answer, started);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Fail what is under way when the process ends. */
static void
detach_at_exit(int code, Datum worker)
{
	cmek_board_detach(DatumGetInt32(worker));
}

/* Wait until something is posted, or for a signal. */
static void
wait_for_work(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1L,
					 cmek_wait_event("CmekKmsWorkerMain"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Read the settings again when told to; also a busy worker does. */
static void
reload_settings(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Entry of a KMS worker. */
void
cmek_worker_main(Datum arg)
{
	int			worker = DatumGetInt32(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	cmek_secret_forbid_core_dump();
	before_shmem_exit(detach_at_exit, arg);
	cmek_board_attach(worker, MyLatch);

	while (!ShutdownRequestPending)
	{
		int			slot;

		reload_settings();
		slot = cmek_board_take(worker);
		if (slot >= 0)
			run_request(slot);
		else
			wait_for_work();
	}
	/* not 0, which would mean: never start this worker again */
	proc_exit(1);
}
