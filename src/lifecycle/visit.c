/*-------------------------------------------------------------------------
 *
 * visit.c
 *	  The visitor: a short-lived worker that does in one database what is due
 *	  there, and reports to the keeper when something will be due again.
 *
 * It writes down the events that wait for the database, tells people, makes
 * the states of KMS keys durable, and has keys proved that nobody uses.  Each
 * step commits by itself; an event leaves the queue when it is written.
 *
 * The visitor is the bootstrap superuser.  So it runs SQL only on tables of
 * schema cmek, which belong to that user, with search_path pg_catalog, and
 * calls nothing that a user could have defined.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "lifecycle/internal.h"
#include "lifecycle/snapshot.h"

PGDLLEXPORT void cmek_visit_main(Datum arg);

/* Events taken from the queue at a time */
#define EVENTS_A_TIME 200

/* When nothing else is due, look again after this time */
#define VISIT_EVERY_MS (3600 * 1000)

/*
 * Keep the extension for the rest of the transaction.  DROP EXTENSION locks it
 * before its tables, which it takes in an order of its own: it waits for us here,
 * where it has none yet, and neither comes to wait for the other.
 */
static void
hold_extension(void)
{
	Oid			held = InvalidOid;
	Oid			extension;

	/* once more when we have it: it may have been dropped while we waited */
	while ((extension = get_extension_oid("cmek", false)) != held)
	{
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		held = extension;
	}
}

/* See internal.h. */
void
cmek_visit_begin(void)
{
	StartTransactionCommand();
	hold_extension();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* See internal.h. */
void
cmek_visit_end(void)
{
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
}

/* See internal.h. */
uint64
cmek_visit_sql(const char *sql, int expected, int nargs, const Oid *types,
			   Datum *values, const char *nulls)
{
	int			result = SPI_execute_with_args(sql, nargs, unconstify(Oid *, types),
											   values, nulls, false, 0);

	if (result != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

/* See internal.h. */
void
cmek_visit_pin_settings(void)
{
	cmek_bgworker_pin_settings();
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "2s", PGC_SUSET, PGC_S_OVERRIDE);
}

/* Is the extension in this database? */
static bool
has_extension(void)
{
	bool		found;

	StartTransactionCommand();
	found = OidIsValid(get_extension_oid("cmek", true));
	CommitTransactionCommand();
	return found;
}

/* Tell people of those events of a batch that they do not know of. */
static void
tell(CmekEvent *events, int n)
{
	int			first = 0;

	while (first < n && events[first].told)
		first++;
	if (first == n)
		return;
	cmek_notify_events(events + first, n - first);
	cmek_eventqueue_told(MyDatabaseId, events[n - 1].seq);
}

/* What an event tells us, and what we can add to it. */
static void
look_at_event(CmekEvent *event)
{
	if (event->drop_at == 0 &&
		strcmp(event->outcome, CMEK_OUTCOME_OBSERVED) == 0)
		event->drop_at = cmek_watch_drop_at(event->key);
	if (strcmp(event->event, CMEK_EVENT_ALTER) == 0 && !event->told)
		cmek_watch_altered(event->key);
}

/* Has anything happened that people are not told of yet?  Warnings are ours. */
static bool
tells_news(const CmekEvent *events, int n)
{
	for (int i = 0; i < n; i++)
		if (!events[i].told && strcmp(events[i].event, CMEK_EVENT_WARN) != 0)
			return true;
	return false;
}

/*
 * Tell and write down what waits for this database.  Without the key of the
 * chain events stay in the queue, but people are told at once.  False when
 * some are left.
 *
 * A key may have been bound or lost since this visit looked at them, so it
 * looks again: else nobody were told of the day of the drop, nor came to prove
 * the key before the hour is over.
 */
static bool
handle_events(CmekInstant *next)
{
	CmekEvent  *events = palloc(EVENTS_A_TIME * sizeof(CmekEvent));
	bool		written = true;
	int			n;

	while (written &&
		   (n = cmek_eventqueue_read(MyDatabaseId, 0, events,
									 EVENTS_A_TIME)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (tells_news(events, n))
			*next = Min(*next, cmek_watch_keys());
		for (int i = 0; i < n; i++)
			look_at_event(&events[i]);
		tell(events, n);
		written = cmek_audit_write(events, n);
		cmek_eventqueue_stall(!written);
		if (written)
			cmek_eventqueue_release(MyDatabaseId, events[n - 1].seq);
	}
	pfree(events);
	return written;
}

/* Come again when the wall clock shows a time, or sooner. */
static void
come_at(CmekVisitReport *report, TimestampTz at)
{
	report->next = Min(report->next, cmek_instant_at(at));
}

/* Do all that is due, and say when to come again. */
static void
do_what_is_due(CmekVisitReport *report)
{
	report->has_cmek = true;
	report->next = Min(cmek_instant_in(VISIT_EVERY_MS), cmek_watch_keys());
	report->stuck = !handle_events(&report->next);
	come_at(report, cmek_audit_anchor());
	come_at(report, cmek_notify_deliver());
	come_at(report, cmek_snapshots_purge());
	come_at(report, cmek_lifecycle_drop_due());
}

/* Entry of the visitor; its argument is the database. */
void
cmek_visit_main(Datum arg)
{
	CmekVisitReport report = {DatumGetObjectId(arg), false, false, 0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(report.database, InvalidOid, 0);
	cmek_visit_pin_settings();
	if (has_extension())
		do_what_is_due(&report);
	else
		/* dropped: nobody can read its events any more */
		cmek_eventqueue_release(report.database, PG_UINT64_MAX);
	cmek_visit_report(&report);
	proc_exit(0);
}

/* Register what belongs to this folder. */
void
cmek_lifecycle_init(void)
{
	cmek_lifecycle_settings_init();
}
