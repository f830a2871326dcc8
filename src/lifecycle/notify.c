/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  Telling people: NOTIFY on channel cmek, and posts to cmek.notify_url.
 *
 * What is to be posted is a row of cmek.notification until it was delivered or
 * has failed for a day, so a receiver that is down for an hour, or a restart
 * of ours, loses nothing.  The post itself is made by a KMS worker, the only
 * kind of process of ours that opens a socket.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "lifecycle/internal.h"

#define CHANNEL "cmek"

/* A visit is short: what is left is for the next one */
#define POSTS_A_VISIT 20
#define RETRY_MAX_S 600
#define GIVE_UP_AFTER USECS_PER_DAY

/* Put a text in line for cmek.notify_url: caller has a transaction. */
void
cmek_notify_enqueue(const char *body)
{
	static const Oid types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(body)};

	(void) cmek_visit_sql("INSERT INTO cmek.notification (body) VALUES ($1)",
						  SPI_OK_INSERT, lengthof(types), types, values, NULL);
}

/* An event as a text that fits a NOTIFY and a post, if need be without detail. */
static void
event_to_json(StringInfo buf, const CmekEvent *event)
{
	CmekEvent	shorter = *event;

	cmek_event_to_json(buf, event);
	if (buf->len <= CMEK_POST_MAX)
		return;
	resetStringInfo(buf);
	shorter.detail[0] = '\0';
	cmek_event_to_json(buf, &shorter);
}

/* In the server log, too, people find the day that matters. */
static void
log_drop_date(const CmekEvent *event)
{
	if (event->drop_at != 0)
		ereport(LOG,
				(errmsg("tables of KMS key \"%s\" of database %u will be snapshotted and dropped on %s unless it comes back",
						event->key, event->database,
						timestamptz_to_str(event->drop_at))));
}

/* See internal.h. */
void
cmek_notify_events(const CmekEvent *events, int n)
{
	StringInfoData buf;

	cmek_visit_begin();
	initStringInfo(&buf);
	for (int i = 0; i < n; i++)
	{
		resetStringInfo(&buf);
		event_to_json(&buf, &events[i]);
		Async_Notify(CHANNEL, buf.data);
		log_drop_date(&events[i]);
		if (cmek_notify_url[0] != '\0')
			cmek_notify_enqueue(buf.data);
	}
	cmek_visit_end();
}

/* A notification that is due */
typedef struct Notification
{
	int64		id;
	TimestampTz created_at;
	int32		attempts;
	char	   *body;
} Notification;

/* Read those that are due, oldest first, into the current memory context. */
static int
read_due(Notification *due)
{
	MemoryContext context = CurrentMemoryContext;
	int			n;

	cmek_visit_begin();
	n = (int) cmek_visit_sql("SELECT id, created_at, attempts, body FROM cmek.notification"
							 " WHERE next_try <= pg_catalog.now()"
	/* or the clock was set back since it was put off */
							 " OR next_try > pg_catalog.now() + 2 * interval '" CppAsString2(RETRY_MAX_S) " s'"
							 " ORDER BY id LIMIT "
							 CppAsString2(POSTS_A_VISIT),
							 SPI_OK_SELECT, 0, NULL, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		due[i].id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		due[i].created_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull));
		due[i].attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull));
		due[i].body = MemoryContextStrdup(context, SPI_getvalue(tuple, desc, 4));
	}
	cmek_visit_end();
	MemoryContextSwitchTo(context);
	return n;
}

/* It was delivered, or is given up. */
static void
forget(int64 id)
{
	static const Oid types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(id)};

	cmek_visit_begin();
	(void) cmek_visit_sql("DELETE FROM cmek.notification WHERE id = $1",
						  SPI_OK_DELETE, lengthof(types), types, values, NULL);
	cmek_visit_end();
}

/* Try it, and all after it, again later: twice as long as the last time. */
static void
postpone(const Notification *n, const char *error)
{
	static const Oid types[] = {INT8OID, TEXTOID, INT4OID};
	Datum		values[3];

	cmek_visit_begin();
	values[0] = Int64GetDatum(n->id);
	values[1] = CStringGetTextDatum(error);
	values[2] = Int32GetDatum(Min(1 << Min(n->attempts, 10), RETRY_MAX_S));
	(void) cmek_visit_sql("UPDATE cmek.notification"
						  " SET attempts = attempts + (id = $1)::pg_catalog.int4,"
						  " next_try = pg_catalog.clock_timestamp() + $3 * interval '1 s',"
						  " last_error = CASE WHEN id = $1 THEN $2 ELSE last_error END"
						  " WHERE id >= $1",
						  SPI_OK_UPDATE, lengthof(types), types, values, NULL);
	cmek_visit_end();
	if (n->attempts == 0)
		ereport(LOG,
				(errmsg("could not post to cmek.notify_url: %s", error)));
}

/* Deliver one; false when it has to be tried again. */
static bool
deliver(const Notification *n)
{
	char		error[CMEK_KMS_MAX_CODE + CMEK_KMS_MAX_MESSAGE];

	if (cmek_post(cmek_notify_url, cmek_notify_secret_file, n->body, error,
				  sizeof(error)))
	{
		forget(n->id);
		return true;
	}
	if (GetCurrentTimestamp() - n->created_at < GIVE_UP_AFTER)
	{
		postpone(n, error);
		return false;
	}
	ereport(LOG,
			(errmsg("gave up posting to cmek.notify_url: %s", error),
			 errdetail("The notification was: %s", n->body)));
	forget(n->id);
	return true;
}

/* When the next one is due. */
static TimestampTz
next_due(void)
{
	TimestampTz next = DT_NOEND;
	bool		isnull;
	Datum		value;

	cmek_visit_begin();
	(void) cmek_visit_sql("SELECT pg_catalog.min(next_try) FROM cmek.notification",
						  SPI_OK_SELECT, 0, NULL, NULL, NULL);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						  &isnull);
	if (!isnull)
		next = DatumGetTimestampTz(value);
	cmek_visit_end();
	return next;
}

/* See internal.h. */
TimestampTz
cmek_notify_deliver(void)
{
	Notification due[POSTS_A_VISIT];
	int			n;

	if (cmek_notify_url[0] == '\0')
		return DT_NOEND;
	n = read_due(due);
	for (int i = 0; i < n && deliver(&due[i]); i++)
		CHECK_FOR_INTERRUPTS();
	return next_due();
}
