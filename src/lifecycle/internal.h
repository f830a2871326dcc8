/*-------------------------------------------------------------------------
 *
 * lifecycle/internal.h
 *	  What the files of this folder share and nobody else needs.
 *
 * The functions here that return a time say when they want to be called next:
 * the visitor comes back for the earliest.  They run in the visitor, each in
 * transactions of its own, as the bootstrap superuser, and touch no object but
 * tables of schema cmek and system catalogs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_LIFECYCLE_INTERNAL_H
#define CMEK_LIFECYCLE_INTERNAL_H

#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "keys/events.h"
#include "keys/watch.h"
#include "lifecycle/lifecycle.h"

/* ----------
 * settings.c
 * ----------
 */
/* Seconds of observed inaccessible time until tables are dropped; -1: never */
extern int	cmek_drop_after_seconds(void);
extern bool cmek_drop_on_unreachable;
extern int	cmek_audit_anchor_interval; /* s; 0: never */
extern char *cmek_notify_url;
extern char *cmek_notify_secret_file;
extern char *cmek_snapshot_directory;
extern int	cmek_snapshot_retention;	/* s */
extern void cmek_lifecycle_settings_init(void);

/* ----------
 * visit.c: helpers for transactions of the visitor
 * ----------
 */
extern void cmek_visit_begin(void);
extern void cmek_visit_end(void);
/* Settings of the database or the role must not change what we do */
extern void cmek_visit_pin_settings(void);
/* Run one SQL command; complains when it is not of the expected kind */
extern uint64 cmek_visit_sql(const char *sql, int expected, int nargs,
							 const Oid *types, Datum *values,
							 const char *nulls);

/* ----------
 * audit.c: cmek.key_event and its chain
 * ----------
 */
/* Write events down; false when the key for the chain is away */
extern bool cmek_audit_write(CmekEvent *events, int n);
extern TimestampTz cmek_audit_anchor(void);

/* ----------
 * watch.c: KMS keys of this database
 * ----------
 */
extern CmekInstant cmek_watch_keys(void);
/* Its options were altered: have it proved by the new ones */
extern void cmek_watch_altered(const char *key);
/* When the tables of an inaccessible key will be dropped; 0: never */
extern TimestampTz cmek_watch_drop_at(const char *key);

/* Is a failure of this class one that counts towards the drop? */
extern bool cmek_watch_counts(CmekKmsClass klass);

/* A key that has been away for too long */
typedef struct CmekLostKey
{
	Oid			server;
	char		name[NAMEDATALEN];
	int			drop_after;		/* s */
} CmekLostKey;

/* All of them, in TopMemoryContext; in a transaction of its own */
extern List *cmek_watch_lost(void);

/* ----------
 * installation.c
 * ----------
 */
/* A text that no copy of this server has; on a primary only */
extern const char *cmek_installation(void);

/* ----------
 * runclock.c: how long servers of this database have run, in ms
 * ----------
 */
extern int64 cmek_run_clock(void);
/* The same, in the visitor: written down now and then */
extern int64 cmek_run_clock_advance(void);

/* ----------
 * notify.c: telling people
 * ----------
 */
extern void cmek_notify_events(const CmekEvent *events, int n);
extern void cmek_notify_enqueue(const char *body);
extern TimestampTz cmek_notify_deliver(void);

/* ----------
 * snapshot.c, snapshots.c
 * ----------
 */
/* Remove the file of a snapshot unless its record is committed */
extern void cmek_snapshot_disown(const char *id);

/* The key by which the service vouches for snapshots is derived under this */
#define CMEK_SNAPSHOT_LABEL "snapshots"

#define CMEK_SNAPSHOT_SUFFIX ".cmeksnap"
/* The name of a snapshot's file */
extern char *cmek_snapshot_file(const char *id);
/* Write down that there is a snapshot, in the transaction that took it */
struct CmekSnapTotals;
extern void cmek_snapshot_record(const char *id, Relation rel,
								 const char *reason,
								 const struct CmekSnapTotals *totals);

#endif							/* CMEK_LIFECYCLE_INTERNAL_H */
