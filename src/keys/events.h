/*-------------------------------------------------------------------------
 *
 * keys/events.h
 *	  The audit trail: what happened to keys, by whom, with what outcome.
 *
 * Whoever does something notes it (events.c); when its transaction ends the
 * event goes, with its outcome, to the server log and into a queue in shared
 * memory (eventqueue.c).  The keeper's visitor takes it from there, writes it
 * to cmek.key_event and tells those who want to know (lifecycle/).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_EVENTS_H
#define CMEK_EVENTS_H

#include "lib/stringinfo.h"
#include "storage/latch.h"

#include "keys/keys.h"

#define CMEK_EVENT_MAX_WORD		24
#define CMEK_EVENT_MAX_TABLE	(2 * NAMEDATALEN + 8)

/* The words of cmek.key_events */
#define CMEK_EVENT_CREATE		"create"	/* a KMS key was made known */
#define CMEK_EVENT_ALTER		"alter"
#define CMEK_EVENT_DROP_KEY		"drop key"
#define CMEK_EVENT_BIND			"bind"
#define CMEK_EVENT_SWITCH		"switch"
#define CMEK_EVENT_REPLICAS		"replicas"	/* another set of replica keys */
#define CMEK_EVENT_IMPORT		"import"
#define CMEK_EVENT_UNBIND		"unbind"
#define CMEK_EVENT_ROTATE		"rotate"
#define CMEK_EVENT_SUSPEND		"suspend"
#define CMEK_EVENT_RESUME		"resume"
#define CMEK_EVENT_DENIED		"denied"
#define CMEK_EVENT_UNREACHABLE	"unreachable"
#define CMEK_EVENT_MISCONFIGURED "misconfigured"
#define CMEK_EVENT_BACK			"back"
#define CMEK_EVENT_WARN			"warn"
#define CMEK_EVENT_SNAPSHOT		"snapshot"
#define CMEK_EVENT_DROP			"drop"
#define CMEK_EVENT_RESTORE		"restore"
#define CMEK_EVENT_PURGE		"purge"

#define CMEK_OUTCOME_DONE		"done"
#define CMEK_OUTCOME_PREPARED	"prepared"
#define CMEK_OUTCOME_ROLLED_BACK "rolled back"
#define CMEK_OUTCOME_FAILED		"failed"
#define CMEK_OUTCOME_OBSERVED	"observed"

typedef struct CmekEvent
{
	uint64		seq;			/* in the queue */
	TimestampTz at;
	Oid			database;
	char		event[CMEK_EVENT_MAX_WORD];
	char		outcome[CMEK_EVENT_MAX_WORD];
	char		key[NAMEDATALEN];	/* name of the server; "" when none */
	Oid			relid;
	char		table[CMEK_EVENT_MAX_TABLE];	/* schema.name; "" when none */
	char		role[NAMEDATALEN];	/* who asked; "" when nobody did */
	char		code[CMEK_KMS_MAX_CODE];
	char		detail[CMEK_KMS_MAX_MESSAGE];
	TimestampTz drop_at;		/* of the key's tables; 0: not foreseen */
	bool		told;			/* people know, though it is not written yet */
} CmekEvent;

/* ----------
 * events.c
 * ----------
 */
/*
 * What this transaction is doing.  Its outcome is added when the transaction
 * or the subtransaction ends, so note before doing what may fail.  relid may
 * be InvalidOid; detail may be NULL.  Does nothing without preloading.
 */
extern void cmek_event_note(const char *event, const char *key, Oid relid,
							const char *detail);
/* The newest note is of a table that the catalogs do not show yet */
extern void cmek_event_table(Oid namespace, const char *name);
/* Nobody asked for what this transaction has noted: it was due */
extern void cmek_event_by_nobody(void);
/* The newest note is about to fail for this reason */
extern void cmek_event_failing(const char *code, const char *reason);
/* Record now, whatever becomes of the transaction, and never wait */
extern void cmek_event_record(CmekEvent *event);
/* One line of JSON, as in the log and in notifications */
extern void cmek_event_to_json(StringInfo buf, const CmekEvent *event);
/* For the one process that writes events: those of its own go the same way */
extern void cmek_events_init(void);

/* ----------
 * eventqueue.c
 * ----------
 */
extern Size cmek_eventqueue_shmem_size(void);
extern void cmek_eventqueue_shmem_init(void);
/* Room for n events; waits for it up to "wait" ms; false when there is none */
extern bool cmek_eventqueue_reserve(int n, int wait);
extern void cmek_eventqueue_unreserve(int n);
/* Put an event in; false when there is no room, reserved or not */
extern bool cmek_eventqueue_push(CmekEvent *event, bool reserved);
/* The databases that events wait for, that of the oldest first */
extern int	cmek_eventqueue_databases(Oid *databases, int max);
/* Up to max of the oldest events of a database, in order */
extern int	cmek_eventqueue_read(Oid database, uint64 after, CmekEvent *events,
								 int max);
/* Events up to this one are written down: forget them */
extern void cmek_eventqueue_release(Oid database, uint64 upto);
/* People know of events up to this one */
extern void cmek_eventqueue_told(Oid database, uint64 upto);
/* Nobody writes events for the moment: do not wait for room */
extern void cmek_eventqueue_stall(bool stalled);
/* Is half of the room taken? */
extern bool cmek_eventqueue_crowded(void);
/* Whom to wake when there is something to do */
extern void cmek_eventqueue_attach(Latch *latch);

/* ----------
 * What a visitor of a database tells the keeper (visits.c)
 * ----------
 */
typedef struct CmekVisitReport
{
	Oid			database;
	bool		has_cmek;		/* else come when there is an event */
	bool		stuck;			/* events are left: do not come for them yet */
	CmekInstant next;			/* come then in any case */
} CmekVisitReport;

extern void cmek_visit_report(const CmekVisitReport *report);

#endif							/* CMEK_EVENTS_H */
