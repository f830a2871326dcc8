/*-------------------------------------------------------------------------
 *
 * eventqueue.c
 *	  The queue of events in shared memory, on their way to cmek.key_event.
 *
 * A fixed number of places.  An event stays in its place until it is written
 * down and that is committed, so a visitor that fails loses none.  Whoever
 * wants to be sure of a place reserves it while there still may be an error;
 * putting the event there cannot fail.
 *
 * Places are given back in any order, since databases are visited in turn;
 * the order of events is their sequence number.  All of it is guarded by one
 * lock of its own, under which no other is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_events_waiting);

#define QUEUE_PLACES 1024

typedef struct EventQueue
{
	ConditionVariable space;
	Latch	   *keeper;			/* NULL: not there */
	uint64		last_seq;
	int			used;
	int			reserved;
	bool		stalled;
	bool		taken[QUEUE_PLACES];
	CmekEvent	events[QUEUE_PLACES];
} EventQueue;

static EventQueue *queue = NULL;

Size
cmek_eventqueue_shmem_size(void)
{
	return sizeof(EventQueue);
}

/* Find or make the queue in shared memory. */
void
cmek_eventqueue_shmem_init(void)
{
	bool		found;

	queue = ShmemInitStruct("cmek events", sizeof(EventQueue), &found);
	if (found)
		return;
	memset(queue, 0, sizeof(EventQueue));
	ConditionVariableInit(&queue->space);
}

static void
lock_queue(LWLockMode mode)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_EVENTS), mode);
}

static void
unlock_queue(void)
{
	LWLockRelease(cmek_lock(CMEK_LOCK_EVENTS));
}

/* Reserve places if they are there. */
static bool
try_reserve(int n, bool *stalled)
{
	bool		ok;

	lock_queue(LW_EXCLUSIVE);
	ok = queue->used + queue->reserved + n <= QUEUE_PLACES;
	if (ok)
		queue->reserved += n;
	*stalled = queue->stalled || queue->keeper == NULL;
	unlock_queue();
	return ok;
}

/* See events.h. */
bool
cmek_eventqueue_reserve(int n, int wait)
{
	CmekInstant deadline = cmek_instant_in(wait);
	bool		stalled;
	bool		ok;

	while (!(ok = try_reserve(n, &stalled)) && !stalled &&
		   n <= QUEUE_PLACES && cmek_now() < deadline)
	{
		/* places given back since our look go unnoticed: never sleep long */
		ConditionVariablePrepareToSleep(&queue->space);
		ConditionVariableTimedSleep(&queue->space, 20,
									cmek_wait_event("CmekEventQueue"));
		ConditionVariableCancelSleep();
	}
	return ok;
}

/* See events.h. */
void
cmek_eventqueue_unreserve(int n)
{
	lock_queue(LW_EXCLUSIVE);
	queue->reserved -= n;
	unlock_queue();
}

/* See events.h. */
bool
cmek_eventqueue_push(CmekEvent *event, bool reserved)
{
	Latch	   *keeper;
	int			i = 0;

	lock_queue(LW_EXCLUSIVE);
	if (!reserved && queue->used + queue->reserved >= QUEUE_PLACES)
	{
		unlock_queue();
		return false;
	}
	while (queue->taken[i])
		i++;
	if (reserved)
		queue->reserved--;
	queue->used++;
	queue->taken[i] = true;
	event->seq = ++queue->last_seq;
	queue->events[i] = *event;
	keeper = queue->keeper;
	if (keeper != NULL)
		SetLatch(keeper);
	unlock_queue();
	return true;
}

/* Order by sequence number. */
static int
compare_events(const void *a, const void *b)
{
	uint64		x = ((const CmekEvent *) a)->seq;
	uint64		y = ((const CmekEvent *) b)->seq;

	return x < y ? -1 : x > y;
}

/* An event that waits: all that the keeper has to know of it */
typedef struct WaitingEvent
{
	uint64		seq;
	Oid			database;
} WaitingEvent;

/* Order by sequence number. */
static int
compare_waiting(const void *a, const void *b)
{
	uint64		x = ((const WaitingEvent *) a)->seq;
	uint64		y = ((const WaitingEvent *) b)->seq;

	return x < y ? -1 : x > y;
}

/* Is a database in the list? */
static bool
is_listed(const Oid *databases, int n, Oid database)
{
	for (int i = 0; i < n; i++)
		if (databases[i] == database)
			return true;
	return false;
}

/* See events.h. */
int
cmek_eventqueue_databases(Oid *databases, int max)
{
	WaitingEvent waiting[QUEUE_PLACES];
	int			nwaiting = 0;
	int			n = 0;

	lock_queue(LW_SHARED);
	for (int i = 0; queue->used > 0 && i < QUEUE_PLACES; i++)
		if (queue->taken[i])
		{
			waiting[nwaiting].seq = queue->events[i].seq;
			waiting[nwaiting++].database = queue->events[i].database;
		}
	unlock_queue();
	qsort(waiting, nwaiting, sizeof(WaitingEvent), compare_waiting);
	for (int i = 0; i < nwaiting && n < max; i++)
		if (!is_listed(databases, n, waiting[i].database))
			databases[n++] = waiting[i].database;
	return n;
}

/*
 * See events.h.  All of the database are looked at, so that none that came
 * later is handed out before one that came earlier.
 */
int
cmek_eventqueue_read(Oid database, uint64 after, CmekEvent *events, int max)
{
	CmekEvent  *all = palloc(sizeof(CmekEvent) * QUEUE_PLACES);
	int			n = 0;

	lock_queue(LW_SHARED);
	for (int i = 0; i < QUEUE_PLACES; i++)
		if (queue->taken[i] && queue->events[i].database == database &&
			queue->events[i].seq > after)
			all[n++] = queue->events[i];
	unlock_queue();
	qsort(all, n, sizeof(CmekEvent), compare_events);
	n = Min(n, max);
	memcpy(events, all, n * sizeof(CmekEvent));
	pfree(all);
	return n;
}

/* See events.h. */
void
cmek_eventqueue_release(Oid database, uint64 upto)
{
	lock_queue(LW_EXCLUSIVE);
	for (int i = 0; i < QUEUE_PLACES; i++)
		if (queue->taken[i] && queue->events[i].database == database &&
			queue->events[i].seq <= upto)
		{
			queue->taken[i] = false;
			queue->used--;
		}
	ConditionVariableBroadcast(&queue->space);
	unlock_queue();
}

/* See events.h. */
void
cmek_eventqueue_told(Oid database, uint64 upto)
{
	lock_queue(LW_EXCLUSIVE);
	for (int i = 0; i < QUEUE_PLACES; i++)
		if (queue->taken[i] && queue->events[i].database == database &&
			queue->events[i].seq <= upto)
			queue->events[i].told = true;
	unlock_queue();
}

/* See events.h. */
void
cmek_eventqueue_stall(bool stalled)
{
	lock_queue(LW_EXCLUSIVE);
	queue->stalled = stalled;
	if (stalled)
		ConditionVariableBroadcast(&queue->space);
	unlock_queue();
}

/* See events.h. */
bool
cmek_eventqueue_crowded(void)
{
	bool		crowded;

	lock_queue(LW_SHARED);
	crowded = queue->used + queue->reserved >= QUEUE_PLACES / 2;
	unlock_queue();
	return crowded;
}

/* How many events wait? */
static int
count_events(void)
{
	int			n;

	lock_queue(LW_SHARED);
	n = queue->used;
	unlock_queue();
	return n;
}

/* SQL: how many events wait to be written down. */
Datum
cmek_events_waiting(PG_FUNCTION_ARGS)
{
	cmek_require_preload();
	PG_RETURN_INT32(count_events());
}

/* The keeper is there, or gone (NULL). */
void
cmek_eventqueue_attach(Latch *latch)
{
	lock_queue(LW_EXCLUSIVE);
	queue->keeper = latch;
	unlock_queue();
}
