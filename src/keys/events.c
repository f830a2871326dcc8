/*-------------------------------------------------------------------------
 *
 * events.c
 *	  Events of this backend: noted while their transaction runs, recorded
 *	  with their outcome when it ends.
 *
 * An event is a promise to auditors, so it is neither lost when its
 * transaction is rolled back nor told before it is committed.  Places in the
 * queue are reserved before the commit, where waiting and failing are still
 * allowed; what finds no place is in the server log alone, as everything is
 * on a standby.  An event never makes a statement fail.
 *
 * Names are taken when the event is noted: afterwards the table may be gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

/* How long a statement waits for room in the queue */
#define QUEUE_PATIENCE_MS 5000

typedef struct PendingEvent
{
	CmekEvent	event;
	SubTransactionId subid;
	bool		ended;			/* its subtransaction is: the outcome stands */
} PendingEvent;

/* Of this transaction, in its memory; oldest first */
static List *pending = NIL;
static int	reserved = 0;

/* Fill in schema.name of a relation. */
static void
fill_table(CmekEvent *event, Oid namespace, const char *name)
{
	if (name != NULL)
		strlcpy(event->table,
				quote_qualified_identifier(get_namespace_name(namespace), name),
				sizeof(event->table));
}

/* See events.h. */
void
cmek_event_note(const char *event, const char *key, Oid relid,
				const char *detail)
{
	MemoryContext old;
	PendingEvent *p;

	if (!cmek_is_preloaded() || IsBinaryUpgrade || IsInParallelMode())
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	p = palloc0(sizeof(PendingEvent));
	p->subid = GetCurrentSubTransactionId();
	p->event.at = GetCurrentTimestamp();
	p->event.database = MyDatabaseId;
	strlcpy(p->event.event, event, sizeof(p->event.event));
	if (key != NULL)
		strlcpy(p->event.key, key, sizeof(p->event.key));
	p->event.relid = relid;
	if (OidIsValid(relid))
		fill_table(&p->event, get_rel_namespace(relid), get_rel_name(relid));
	strlcpy(p->event.role, GetUserNameFromId(GetUserId(), false),
			sizeof(p->event.role));
	if (detail != NULL)
		strlcpy(p->event.detail, detail, sizeof(p->event.detail));
	pending = lappend(pending, p);
	MemoryContextSwitchTo(old);
}

/* The newest note, if it is of this subtransaction; else NULL. */
static CmekEvent *
newest_note(void)
{
	PendingEvent *p = pending == NIL ? NULL : llast(pending);

	if (p == NULL || p->ended || p->subid != GetCurrentSubTransactionId())
		return NULL;
	return &p->event;
}

/* See events.h. */
void
cmek_event_table(Oid namespace, const char *name)
{
	CmekEvent  *event = newest_note();

	if (event != NULL)
		fill_table(event, namespace, name);
}

/* See events.h. */
void
cmek_event_by_nobody(void)
{
	ListCell   *lc;

	foreach(lc, pending)
		((PendingEvent *) lfirst(lc))->event.role[0] = '\0';
}

/* See events.h. */
void
cmek_event_failing(const char *code, const char *reason)
{
	CmekEvent  *event = newest_note();

	if (event == NULL)
		return;
	strlcpy(event->outcome, CMEK_OUTCOME_FAILED, sizeof(event->outcome));
	strlcpy(event->code, code, sizeof(event->code));
	strlcpy(event->detail, reason, sizeof(event->detail));
}

/* Append a member whose value is text, unless that is empty. */
static void
append_text(StringInfo buf, const char *name, const char *value)
{
	if (value[0] == '\0')
		return;
	appendStringInfo(buf, ", \"%s\": ", name);
	escape_json(buf, value);
}

/* Append a member whose value is a time, unless there is none. */
static void
append_time(StringInfo buf, const char *name, TimestampTz value)
{
	pg_time_t	unix_time = timestamptz_to_time_t(value);
	char		text[32];

	if (value == 0)
		return;
	pg_strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", pg_gmtime(&unix_time));
	appendStringInfo(buf, ", \"%s\": \"%s.%06dZ\"", name, text,
					 (int) (((value % USECS_PER_SEC) + USECS_PER_SEC) % USECS_PER_SEC));
}

/* See events.h. */
void
cmek_event_to_json(StringInfo buf, const CmekEvent *event)
{
	appendStringInfoString(buf, "{\"event\": ");
	escape_json(buf, event->event);
	append_text(buf, "outcome", event->outcome);
	append_time(buf, "at", event->at);
	appendStringInfo(buf, ", \"database\": %u", event->database);
	append_text(buf, "key", event->key);
	append_text(buf, "table", event->table);
	append_text(buf, "role", event->role);
	append_text(buf, "code", event->code);
	append_text(buf, "detail", event->detail);
	append_time(buf, "drop_at", event->drop_at);
	appendStringInfoChar(buf, '}');
}

/* Write an event to the server log and into the queue. */
static void
publish(CmekEvent *event, bool has_place)
{
	StringInfoData buf;
	bool		queued = false;

	if (!RecoveryInProgress())
		queued = cmek_eventqueue_push(event, has_place);
	else if (has_place)
		cmek_eventqueue_unreserve(1);
	initStringInfo(&buf);
	cmek_event_to_json(&buf, event);
	ereport(LOG,
			(errmsg_internal("cmek event%s: %s",
							 queued ? "" : " (in this log only)", buf.data),
			 errhidestmt(true), errhidecontext(true)));
	pfree(buf.data);
}

/* See events.h. */
void
cmek_event_record(CmekEvent *event)
{
	event->at = GetCurrentTimestamp();
	publish(event, false);
}

/* Publish what this transaction has noted; cannot fail. */
static void
publish_pending(const char *outcome)
{
	List	   *events = pending;
	ListCell   *lc;

	pending = NIL;
	foreach(lc, events)
	{
		PendingEvent *p = lfirst(lc);

		if (p->event.outcome[0] == '\0')
			strlcpy(p->event.outcome, outcome, sizeof(p->event.outcome));
		publish(&p->event, reserved > 0);
		if (reserved > 0)
			reserved--;
	}
	if (reserved > 0)
		cmek_eventqueue_unreserve(reserved);
	reserved = 0;
}

/* Reserve places while an interrupt may still end the transaction. */
static void
reserve_places(void)
{
	int			n = list_length(pending);

	if (RecoveryInProgress())
		return;
	/* what does not fit even so is in the log alone */
	if (cmek_eventqueue_reserve(n, QUEUE_PATIENCE_MS))
		reserved = n;
}

/* End of a transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (pending == NIL && reserved == 0)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			reserve_places();
			break;
		case XACT_EVENT_COMMIT:
			publish_pending(CMEK_OUTCOME_DONE);
			break;
		case XACT_EVENT_PREPARE:
			publish_pending(CMEK_OUTCOME_PREPARED);
			break;
		case XACT_EVENT_ABORT:
			publish_pending(CMEK_OUTCOME_ROLLED_BACK);
			break;
		default:
			break;
	}
}

/* End of a subtransaction: its events are the parent's, or stand as they are. */
static void
at_subxact_end(SubXactEvent event, SubTransactionId subid,
			   SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	foreach(lc, pending)
	{
		PendingEvent *p = lfirst(lc);

		if (p->ended || p->subid != subid)
			continue;
		p->subid = parent;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			continue;
		p->ended = true;
		if (p->event.outcome[0] == '\0')
			strlcpy(p->event.outcome, CMEK_OUTCOME_ROLLED_BACK,
					sizeof(p->event.outcome));
	}
}

/* Register the callbacks; called once in each process. */
void
cmek_events_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact_end, NULL);
}
