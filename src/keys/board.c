/*-------------------------------------------------------------------------
 *
 * board.c
 *	  The board in shared memory where backends post requests and KMS workers
 *	  take them.
 *
 *	   FREE --enter--> POSTED --take--> RUNNING --finish--> DONE --> FREE
 *
 * One LWLock guards the board and the table of KMS keys (state.c).  A slot
 * belongs to those who wait for it and to the worker that runs it; the last
 * of them frees it, so a backend that is cancelled or out of patience just
 * leaves.  An opened key never passes through the board: the worker puts it
 * into the cache, within the same critical section that ends the request, so
 * that whoever comes later finds either the key or the request.
 *
 * Equal requests share a slot (single flight).  A database gets at most half
 * of the board, a KMS key at most a quarter, and a KMS key keeps at least one
 * worker free for the others, if there are two.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/condition_variable.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

#define BOARD_SLOTS CMEK_BOARD_SLOTS
#define BOARD_SLOTS_PER_DATABASE (BOARD_SLOTS / 2)
#define BOARD_SLOTS_PER_SERVER (BOARD_SLOTS / 4)

typedef enum BoardSlotState
{
	SLOT_FREE,
	SLOT_POSTED,
	SLOT_RUNNING,
	SLOT_DONE
} BoardSlotState;

typedef struct BoardSlot
{
	BoardSlotState state;
	int			waiters;		/* none: a proof for the keeper, or abandoned */
	int			worker;			/* that runs it */
	int			server;			/* index of state.c */
	CmekInstant posted_at;
	ConditionVariable done;
	CmekKeyRequest what;		/* constant until the slot is free */
	CmekReply	reply;
} BoardSlot;

typedef struct BoardWorker
{
	Latch	   *latch;			/* NULL: not there */
	bool		idle;
} BoardWorker;

typedef struct Board
{
	ConditionVariable space;
	BoardWorker workers[CMEK_MAX_KMS_WORKERS];
	BoardSlot	slots[BOARD_SLOTS];
} Board;

static Board *board = NULL;

Size
cmek_board_shmem_size(void)
{
	return cmek_shmem_secret_size(sizeof(Board));
}

/* Find or make the board in shared memory; requests may hold credentials. */
void
cmek_board_shmem_init(void)
{
	bool		found;

	board = cmek_shmem_secret("cmek requests", sizeof(Board), &found);
	if (found)
		return;
	ConditionVariableInit(&board->space);
	for (int i = 0; i < BOARD_SLOTS; i++)
		ConditionVariableInit(&board->slots[i].done);
}

static void
lock_board(void)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_EXCLUSIVE);
}

static void
unlock_board(void)
{
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
}

/* Give a slot back: caller holds the lock. */
static void
free_slot(BoardSlot *slot)
{
	cmek_server_leave(slot->server);
	cmek_cleanse(&slot->what, sizeof(slot->what));
	slot->state = SLOT_FREE;
	ConditionVariableBroadcast(&board->space);
}

/* Would one answer do for both? */
static bool
same_request(const CmekKeyRequest *a, const CmekKeyRequest *b)
{
	return a->op == b->op && a->database == b->database &&
		a->server == b->server && a->config_hash == b->config_hash &&
		memcmp(a->uuid, b->uuid, CMEK_UUID_LEN) == 0;
}

/* The slot where an equal request waits or runs; -1 when there is none. */
static int
find_equal(const CmekKeyRequest *what)
{
	for (int i = 0; i < BOARD_SLOTS; i++)
	{
		const BoardSlot *slot = &board->slots[i];

		if ((slot->state == SLOT_POSTED || slot->state == SLOT_RUNNING) &&
			same_request(&slot->what, what))
			return i;
	}
	return -1;
}

/* A free slot, if the database and the server have not had their share. */
static int
find_free(Oid database, int server)
{
	int			of_database = 0;
	int			of_server = 0;
	int			result = -1;

	for (int i = 0; i < BOARD_SLOTS; i++)
	{
		const BoardSlot *slot = &board->slots[i];

		if (slot->state == SLOT_FREE)
			result = i;
		else
		{
			of_database += slot->what.database == database;
			of_server += slot->server == server;
		}
	}
	if (of_database >= BOARD_SLOTS_PER_DATABASE ||
		of_server >= BOARD_SLOTS_PER_SERVER)
		return -1;
	return result;
}

/* Wake a worker that has nothing to do. */
static void
wake_worker(void)
{
	for (int i = 0; i < CMEK_MAX_KMS_WORKERS; i++)
		if (board->workers[i].latch != NULL && board->workers[i].idle)
		{
			board->workers[i].idle = false;
			SetLatch(board->workers[i].latch);
			return;
		}
}

/*
 * A KMS key may have another call now: wake a worker for what waited for that.
 * Whoever has just ended the call before looks at the board as well, but takes
 * one request only.
 */
static void
wake_for_waiting(void)
{
	for (int i = 0; i < BOARD_SLOTS; i++)
		if (board->slots[i].state == SLOT_POSTED)
		{
			wake_worker();
			return;
		}
}

/* Put a request on a free slot. */
static void
post(int i, const CmekKeyRequest *what, int server, int waiters)
{
	BoardSlot  *slot = &board->slots[i];

	slot->state = SLOT_POSTED;
	slot->waiters = waiters;
	slot->server = server;
	slot->posted_at = cmek_now();
	slot->what = *what;
	wake_worker();
}

/*
 * Enter a request, or join an equal one.  On CMEK_BOARD_POSTED the caller
 * waits and must leave the slot.
 */
CmekBoardResult
cmek_board_enter(const CmekKeyRequest *what, int *slot, CmekReply *reply)
{
	CmekBoardResult result = CMEK_BOARD_POSTED;
	int			server;

	lock_board();
	/* the answer may have come between the caller's look and our lock */
	if (CMEK_OP_IS_OF_KEYS(what->op) && cmek_cache_fetch(what, NULL, NULL))
	{
		unlock_board();
		return CMEK_BOARD_CACHED;
	}
	server = cmek_server_enter(what);
	if (CMEK_OP_IS_OF_KEYS(what->op))
		cmek_server_asked(server, what);
	if (CMEK_OP_IS_OF_KEYS(what->op) &&
		(cmek_server_is_suspended(server, reply) ||
		 (!what->fresh && cmek_server_remembers(server, what, reply))))
		result = CMEK_BOARD_REMEMBERED;
	else if ((*slot = find_equal(what)) >= 0)
		board->slots[*slot].waiters++;
	else if ((*slot = find_free(what->database, server)) >= 0)
	{
		post(*slot, what, server, 1);
		unlock_board();
		return CMEK_BOARD_POSTED;
	}
	else
		result = CMEK_BOARD_FULL;
	cmek_server_leave(server);
	unlock_board();
	return result;
}

/* Has the request in this slot been answered?  Then copy the answer. */
static bool
read_reply(const BoardSlot *slot, CmekReply *reply)
{
	bool		done;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	done = slot->state == SLOT_DONE;
	if (done)
		*reply = slot->reply;
	unlock_board();
	return done;
}

/*
 * Wait for the answer, interruptibly; false when the deadline passed first.
 * The caller leaves the slot, also after an ERROR.
 */
bool
cmek_board_wait(int i, CmekInstant deadline, CmekReply *reply)
{
	BoardSlot  *slot = &board->slots[i];
	bool		done;

	ConditionVariablePrepareToSleep(&slot->done);
	while (!(done = read_reply(slot, reply)))
	{
		long		left = cmek_ms_until(deadline);

		if (left <= 0)
			break;
		ConditionVariableTimedSleep(&slot->done, left,
									cmek_wait_event("CmekKms"));
	}
	ConditionVariableCancelSleep();
	return done;
}

/* Wait until a slot may have become free, at most a moment. */
void
cmek_board_wait_space(CmekInstant deadline)
{
	long		left = cmek_ms_until(deadline);

	/*
	 * A slot freed between the caller's look and our sleep goes unnoticed, so
	 * never sleep for long.
	 */
	ConditionVariablePrepareToSleep(&board->space);
	ConditionVariableTimedSleep(&board->space, Min(Max(left, 1), 50),
								cmek_wait_event("CmekKmsQueue"));
	ConditionVariableCancelSleep();
}

/* A backend goes, with its answer or without. */
void
cmek_board_leave(int i)
{
	BoardSlot  *slot = &board->slots[i];

	lock_board();
	Assert(slot->waiters > 0);
	slot->waiters--;
	/* a running request is the worker's to free */
	if (slot->waiters == 0 && slot->state != SLOT_RUNNING)
		free_slot(slot);
	unlock_board();
}

/* Is there anybody to take requests? */
bool
cmek_board_has_workers(void)
{
	bool		found = false;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	for (int i = 0; i < CMEK_MAX_KMS_WORKERS; i++)
		found |= board->workers[i].latch != NULL;
	unlock_board();
	return found;
}

/*
 * The keeper asks for a proof.  Nothing happens when one is under way, when
 * the KMS has just failed, or when the board is full: the keeper comes again.
 */
void
cmek_board_prove(const CmekDueProof *due)
{
	CmekKeyRequest *what = cmek_secret_alloc(sizeof(CmekKeyRequest));
	int			server = -1;
	int			slot;

	what->op = CMEK_OP_UNWRAP;
	lock_board();
	if (cmek_server_proof_config(due->server, what) &&
		what->database == due->database && cmek_cache_describe(due, what))
	{
		server = cmek_server_enter(what);
		if (cmek_server_is_suspended(server, NULL) ||
			cmek_server_remembers(server, what, NULL) ||
			find_equal(what) >= 0 ||
			(slot = find_free(what->database, server)) < 0)
			cmek_server_leave(server);
		else
			post(slot, what, server, 0);
	}
	unlock_board();
	cmek_secret_free(what);
}

/*
 * Post a request that nobody waits for.  False when there is no place for it;
 * true also when the answer is on its way or known already.
 */
bool
cmek_board_post(const CmekKeyRequest *what)
{
	bool		ok = true;
	int			server;
	int			slot;

	lock_board();
	server = cmek_server_enter(what);
	cmek_server_asked(server, what);
	if (cmek_server_is_suspended(server, NULL) ||
		cmek_server_remembers(server, what, NULL) || find_equal(what) >= 0)
		cmek_server_leave(server);
	else if ((slot = find_free(what->database, server)) >= 0)
		post(slot, what, server, 0);
	else
	{
		cmek_server_leave(server);
		ok = false;
	}
	unlock_board();
	return ok;
}

/* A worker is there; what its predecessor left running has failed. */
void
cmek_board_attach(int worker, Latch *latch)
{
	cmek_board_detach(worker);
	lock_board();
	board->workers[worker].latch = latch;
	board->workers[worker].idle = false;
	unlock_board();
}

/* The request that this worker runs; -1 when there is none. */
static int
find_running(int worker)
{
	int			result = -1;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	for (int i = 0; i < BOARD_SLOTS; i++)
		if (board->slots[i].state == SLOT_RUNNING &&
			board->slots[i].worker == worker)
			result = i;
	unlock_board();
	return result;
}

/* A worker goes, or has gone: fail what it was at. */
void
cmek_board_detach(int worker)
{
	int			i = find_running(worker);

	if (i >= 0)
	{
		CmekKmsAnswer *answer = cmek_secret_alloc(sizeof(CmekKmsAnswer));

		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "WorkerEnded",
						"the KMS worker ended before the KMS had answered");
		cmek_board_finish(i, answer, cmek_now());
		cmek_secret_free(answer);
	}
	lock_board();
	board->workers[worker].latch = NULL;
	unlock_board();
}

/*
 * The KMS has failed since a request was posted: then that is its answer, too,
 * and the worker is not held up once more for each request that waits.
 */
static bool
answer_from_memory(BoardSlot *slot)
{
	if (!CMEK_OP_IS_OF_KEYS(slot->what.op) || slot->what.fresh ||
		!cmek_server_remembers(slot->server, &slot->what, &slot->reply))
		return false;
	slot->state = SLOT_DONE;
	if (slot->waiters == 0)
		free_slot(slot);
	else
		ConditionVariableBroadcast(&slot->done);
	return true;
}

/* The oldest request that was not tried yet; -1 when there is none. */
static int
oldest_posted(const bool *tried)
{
	int			best = -1;

	for (int i = 0; i < BOARD_SLOTS; i++)
		if (!tried[i] && board->slots[i].state == SLOT_POSTED &&
			(best < 0 ||
			 board->slots[i].posted_at < board->slots[best].posted_at))
			best = i;
	return best;
}

/*
 * Take the oldest request that may run; -1 when there is none, and then a
 * new one will set the worker's latch.
 */
int
cmek_board_take(int worker)
{
	int			limit = Max(1, cmek_kms_workers - 1);
	bool		tried[BOARD_SLOTS] = {false};
	int			best;

	lock_board();
	while ((best = oldest_posted(tried)) >= 0)
	{
		tried[best] = true;
		if (!answer_from_memory(&board->slots[best]) &&
			cmek_server_start(board->slots[best].server, limit))
			break;
	}
	board->workers[worker].idle = best < 0;
	if (best >= 0)
	{
		board->slots[best].state = SLOT_RUNNING;
		board->slots[best].worker = worker;
	}
	unlock_board();
	return best;
}

/* What a taken slot asks for. */
const CmekKeyRequest *
cmek_board_request(int slot)
{
	return &board->slots[slot].what;
}

/* Bring the cache in line with an answer, which may turn out corrupt. */
static void
settle_cache(const BoardSlot *slot, CmekKmsAnswer *answer,
			 CmekInstant started)
{
	const CmekKeyRequest *what = &slot->what;

	if (answer->klass == CMEK_KMS_OK)
	{
		/* an answer from before a revocation proves nothing any more */
		if (cmek_server_is_suspended(slot->server, NULL) ||
			cmek_server_revoked_since(slot->server, started))
			return;
		if (!cmek_cache_store(what, slot->server, answer, started,
							  slot->waiters > 0))
			cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "KeyChanged",
							"the KMS unwrapped another table key than before");
	}
	else if (what->op == CMEK_OP_UNWRAP && answer->klass == CMEK_KMS_DENIED)
	{
		cmek_cache_drop_server(slot->server);
		/* its tables may have been opened by other KMS keys: look again */
		if (!cmek_server_denied(slot->server))
			cmek_cache_end_leases();
	}
	else if (what->op == CMEK_OP_UNWRAP && answer->klass == CMEK_KMS_CORRUPT)
		cmek_cache_drop(what->database, what->uuid);
}

/* Copy of an answer what may be seen by others. */
static void
fill_reply(BoardSlot *slot, const CmekKmsAnswer *answer)
{
	CmekReply  *reply = &slot->reply;

	reply->klass = answer->klass;
	memcpy(reply->code, answer->code, sizeof(reply->code));
	memcpy(reply->message, answer->message, sizeof(reply->message));
	memcpy(reply->key_id, answer->key_id, sizeof(reply->key_id));
	memcpy(reply->key_version, answer->key_version, sizeof(reply->key_version));
	reply->blob_len = answer->blob_len;
	memcpy(reply->blob, answer->blob, sizeof(reply->blob));
	reply->since = cmek_server_since(slot->server);
}

/* The word for a change that people want to know of. */
static const char *
event_of(CmekServerChange change, CmekKmsClass klass)
{
	if (change == CMEK_SERVER_BACK)
		return CMEK_EVENT_BACK;
	if (klass == CMEK_KMS_DENIED)
		return CMEK_EVENT_DENIED;
	return klass == CMEK_KMS_UNREACHABLE ? CMEK_EVENT_UNREACHABLE :
		CMEK_EVENT_MISCONFIGURED;
}

/* Let people know that a KMS key went away or came back. */
static void
record_change(CmekServerChange change, const char *name, Oid database,
			  const CmekKmsAnswer *answer)
{
	CmekEvent  *event;

	if (change == CMEK_SERVER_SAME)
		return;
	event = palloc0(sizeof(CmekEvent));
	strlcpy(event->event, event_of(change, answer->klass),
			sizeof(event->event));
	strlcpy(event->outcome, CMEK_OUTCOME_OBSERVED, sizeof(event->outcome));
	strlcpy(event->key, name, sizeof(event->key));
	event->database = database;
	if (change == CMEK_SERVER_LOST)
	{
		strlcpy(event->code, answer->code, sizeof(event->code));
		strlcpy(event->detail, answer->message, sizeof(event->detail));
		ereport(LOG,
				(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("KMS key \"%s\" of database %u is not accessible",
						name, database),
				 errdetail("The KMS answered %s (%s): %s.", answer->code,
						   cmek_kms_class_name(answer->klass),
						   answer->message)));
	}
	else
		ereport(LOG,
				(errmsg("KMS key \"%s\" of database %u is accessible again",
						name, database)));
	cmek_event_record(event);
	pfree(event);
}

/*
 * End a request: cache, state, answer and waiters, all at once.  The caller
 * cleanses the answer.
 */
void
cmek_board_finish(int i, CmekKmsAnswer *answer, CmekInstant started)
{
	BoardSlot  *slot = &board->slots[i];
	CmekServerChange change = CMEK_SERVER_SAME;
	char		name[NAMEDATALEN];
	Oid			database;
	bool		derived;		/* a use of our own: no call for a table */

	lock_board();
	if (CMEK_OP_IS_OF_KEYS(slot->what.op))
	{
		settle_cache(slot, answer, started);
		change = cmek_server_observe(slot->server, &slot->what, answer,
									 started);
	}
	cmek_server_stop(slot->server);
	fill_reply(slot, answer);
	strlcpy(name, slot->what.server_name, sizeof(name));
	database = slot->what.database;
	derived = cmek_kms_is_derivation(slot->what.blob, slot->what.blob_len);
	slot->state = SLOT_DONE;
	if (slot->waiters == 0)
		free_slot(slot);
	else
		ConditionVariableBroadcast(&slot->done);
	wake_for_waiting();
	unlock_board();

	if (!derived)
		cmek_stat_add_call(answer->klass == CMEK_KMS_OK,
						   cmek_now() - started);
	record_change(change, name, database, answer);
}
