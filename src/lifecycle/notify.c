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
#include "utils/builtins.h"

#include "compat.h"
#include "lifecycle/internal.h"

#define CHANNEL "cmek"

/* Put a text in line for cmek.notify_url: caller has a transaction. */
void
cmek_notify_enqueue(const char *body)
{
	static const Oid types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(body)};

	(void) cmek_visit_sql("INSERT INTO cmek.notification (body) VALUES ($1)",
						  SPI_OK_INSERT, lengthof(types), types, values, NULL);
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
		cmek_event_to_json(&buf, &events[i]);
		Async_Notify(CHANNEL, buf.data);
		log_drop_date(&events[i]);
		if (cmek_notify_url[0] != '\0')
			cmek_notify_enqueue(buf.data);
	}
	cmek_visit_end();
}

/* See internal.h. */
TimestampTz
cmek_notify_deliver(void)
{
	return DT_NOEND;
}
