/*-------------------------------------------------------------------------
 *
 * visits.c
 *	  The keeper sends a visitor to one database after the other.
 *
 * A visitor (lifecycle/visit.c) is a dynamic worker that connects, writes down
 * what is to be written down, and goes; so it is never in the way of CREATE
 * DATABASE ... TEMPLATE, DROP DATABASE or RENAME for long, and takes one place
 * of max_worker_processes however many databases there are.  There is one at
 * a time.
 *
 * A database is visited when an event waits for it, and when the last visitor
 * said that something will be due.  After a start every database is visited
 * once; those without the extension not again before something happens there.
 *
 * Here lives the keeper's memory of that, and the place in shared memory where
 * the visitor leaves its report.  Nothing here reads a user's table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/shmem.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

/* How soon a visit that failed is repeated, and databases are looked for */
#define RETRY_MS 5000
#define LIST_EVERY_MS 60000

/*
 * How long events wait for company after a visit, unless they crowd: what a
 * visitor does before it has written anything takes ten milliseconds, and with
 * thousands of tables a hundred
 */
#define REST_MIN_MS 100
#define REST_MAX_MS 1000
#define REST_FACTOR 4

/* Databases with events that are looked at in a round; the rest wait */
#define MAX_WAITING 64

/* datconnlimit of a database whose DROP was interrupted (pg_database.h) */
#define INVALID_DATABASE (-2)

typedef struct VisitedDatabase
{
	Oid			database;
	bool		listed;			/* still there at the last look */
	CmekInstant due;
	CmekInstant blocked_until;	/* a visit has failed */
	CmekInstant rests_until;	/* a visit has just ended */
} VisitedDatabase;

static CmekVisitReport *last_report = NULL;

/* The keeper's own */
static List *databases = NIL;
static CmekInstant listed_at = 0;
static BackgroundWorkerHandle *visitor = NULL;
static Oid	visited = InvalidOid;
static CmekInstant sent_at = 0;
static bool complained = false;

Size
cmek_visits_shmem_size(void)
{
	return sizeof(CmekVisitReport);
}

/* Find or make the place for reports. */
void
cmek_visits_shmem_init(void)
{
	bool		found;

	last_report = ShmemInitStruct("cmek visits", sizeof(CmekVisitReport), &found);
	if (!found)
		memset(last_report, 0, sizeof(CmekVisitReport));
}

/* See events.h. */
void
cmek_visit_report(const CmekVisitReport *report)
{
	LWLockAcquire(cmek_lock(CMEK_LOCK_EVENTS), LW_EXCLUSIVE);
	*last_report = *report;
	LWLockRelease(cmek_lock(CMEK_LOCK_EVENTS));
}

/* What is remembered of a database; made when new. */
static VisitedDatabase *
find_database(Oid database)
{
	MemoryContext old;
	VisitedDatabase *db;
	ListCell   *lc;

	foreach(lc, databases)
	{
		db = lfirst(lc);
		if (db->database == database)
			return db;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	db = palloc0(sizeof(VisitedDatabase));
	db->database = database;
	databases = lappend(databases, db);
	MemoryContextSwitchTo(old);
	return db;
}

/* Forget databases that are gone, with the events that wait for them. */
static void
forget_dropped(void)
{
	List	   *left = NIL;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	ListCell   *lc;

	foreach(lc, databases)
	{
		VisitedDatabase *db = lfirst(lc);

		if (db->listed)
			left = lappend(left, db);
		else
		{
			cmek_eventqueue_release(db->database, PG_UINT64_MAX);
			pfree(db);
		}
	}
	list_free(databases);
	databases = left;
	MemoryContextSwitchTo(old);
}

/*
 * Look which databases there are.  Templates are left alone until something
 * happens in them: they have to be free for CREATE DATABASE.
 */
static void
list_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	ListCell   *lc;

	foreach(lc, databases)
		((VisitedDatabase *) lfirst(lc))->listed = false;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		VisitedDatabase *db;

		if (!form->datallowconn || form->datconnlimit == INVALID_DATABASE)
			continue;
		db = find_database(form->oid);
		/* events may have made it known before */
		if (form->datistemplate && db->due == 0)
			db->due = CMEK_NEVER;
		db->listed = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	forget_dropped();
	listed_at = cmek_now();
}

/* Until when a database is left alone after a visit that ends now */
static CmekInstant
rest_until(CmekInstant now)
{
	int64		rest = REST_FACTOR * (now - sent_at);

	rest = Max(rest, REST_MIN_MS * INT64CONST(1000));
	return now + Min(rest, REST_MAX_MS * INT64CONST(1000));
}

/* May it be visited for its events again? */
static bool
is_rested(const VisitedDatabase *db, CmekInstant now)
{
	return db->rests_until <= now || cmek_eventqueue_crowded();
}

/* Take in the report of a visitor that has ended. */
static void
end_visit(CmekInstant now)
{
	VisitedDatabase *db = find_database(visited);
	CmekVisitReport report;

	LWLockAcquire(cmek_lock(CMEK_LOCK_EVENTS), LW_SHARED);
	report = *last_report;
	LWLockRelease(cmek_lock(CMEK_LOCK_EVENTS));
	db->rests_until = rest_until(now);
	if (report.database != visited || report.stuck)
		db->blocked_until = now + RETRY_MS * INT64CONST(1000);
	if (report.database != visited)
		listed_at = 0;			/* it may have been dropped */
	else
		db->due = report.has_cmek ? report.next : CMEK_NEVER;
	visited = InvalidOid;
	visitor = NULL;
}

/* Is a visitor under way? */
static bool
visit_running(CmekInstant now)
{
	pid_t		pid;

	if (visitor == NULL)
		return false;
	if (GetBackgroundWorkerPid(visitor, &pid) != BGWH_STOPPED)
		return true;
	pfree(visitor);
	end_visit(now);
	return false;
}

/* Send a visitor. */
static void
send_visitor(VisitedDatabase *db, CmekInstant now)
{
	static const CmekVisitReport none = {InvalidOid, false, false, 0};
	BackgroundWorker worker;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	cmek_bgworker_fill(&worker, "cmek visitor", "cmek_visit_main", true);
	worker.bgw_main_arg = ObjectIdGetDatum(db->database);
	worker.bgw_notify_pid = MyProcPid;
	cmek_visit_report(&none);
	if (RegisterDynamicBackgroundWorker(&worker, &visitor))
	{
		visited = db->database;
		sent_at = now;
		complained = false;
	}
	else
	{
		visitor = NULL;
		db->blocked_until = now + USECS_PER_SEC;
		if (!complained)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not start a worker for what is due in database %u",
							db->database),
					 errhint("Increase max_worker_processes if this goes on.")));
		complained = true;
	}
	MemoryContextSwitchTo(old);
}

/*
 * The database to visit now: the first that events wait for, or the one that
 * was due first; NULL when there is none.  One that cannot be visited for the
 * moment is not in the way of the others; "again" becomes earlier when events
 * only wait for company.
 */
static VisitedDatabase *
choose_database(CmekInstant now, const Oid *waiting, int nwaiting,
				CmekInstant *again)
{
	VisitedDatabase *best = NULL;
	ListCell   *lc;

	for (int i = 0; i < nwaiting; i++)
	{
		VisitedDatabase *db = find_database(waiting[i]);

		if (db->blocked_until > now)
			continue;
		if (is_rested(db, now))
			return db;
		*again = Min(*again, db->rests_until);
	}
	foreach(lc, databases)
	{
		VisitedDatabase *db = lfirst(lc);

		if (db->blocked_until <= now && db->due <= now &&
			(best == NULL || db->due < best->due))
			best = db;
	}
	return best;
}

/* Is there a database among them that was not there at the last look? */
static bool
any_is_new(const Oid *waiting, int nwaiting)
{
	for (int i = 0; i < nwaiting; i++)
		if (!find_database(waiting[i])->listed)
			return true;
	return false;
}

/*
 * Do what is due; called by the keeper whenever it wakes, on a primary.
 * Returns when to come back at the latest.
 */
CmekInstant
cmek_visits_run(CmekInstant now)
{
	CmekInstant again = CMEK_NEVER;
	Oid			waiting[MAX_WAITING];
	int			nwaiting;
	VisitedDatabase *db;

	if (visit_running(now))
		return again;
	nwaiting = cmek_eventqueue_databases(waiting, MAX_WAITING);
	if (listed_at == 0 || now - listed_at > LIST_EVERY_MS * INT64CONST(1000) ||
		any_is_new(waiting, nwaiting))
	{
		list_databases();
		/* those that are gone have no events any more */
		nwaiting = cmek_eventqueue_databases(waiting, MAX_WAITING);
	}
	db = choose_database(now, waiting, nwaiting, &again);
	if (db != NULL)
		send_visitor(db, now);
	return again;
}
