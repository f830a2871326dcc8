/*-------------------------------------------------------------------------
 *
 * keys/watch.h
 *	  What lifecycle/ learns of KMS keys, and how it has them proved.
 *
 * The state of a KMS key since the server started is in shared memory
 * (state.c); a visitor of the database makes it durable, and brings back what
 * was known before the server was stopped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_WATCH_H
#define CMEK_WATCH_H

#include "keys/keys.h"

typedef struct CmekWatch
{
	bool		known;			/* else nothing below holds */
	CmekKmsClass klass;			/* CMEK_KMS_OK: enabled */
	char		code[CMEK_KMS_MAX_CODE];
	char		message[CMEK_KMS_MAX_MESSAGE];
	TimestampTz since;			/* of this class of state */
	TimestampTz last_ok;		/* 0: never */
	CmekInstant answered_at;	/* of the last answer, good or bad */
	/*
	 * Observed inaccessible time that is not written down yet, in
	 * milliseconds of the clock of clock.h.
	 */
	int64		denied_ms;
	int64		unreachable_ms;
	bool		was_ok;			/* since that was last written down */
} CmekWatch;

/* What is known of a KMS key of this database; false when nothing is */
extern bool cmek_watch_read(Oid server, CmekWatch *watch);
/* What was read is written down and committed */
extern void cmek_watch_written(Oid server, const CmekWatch *watch);
/* Before the server was stopped, this is how it stood */
extern void cmek_watch_restore(Oid server, const char *name,
							   const CmekWatch *before);

/*
 * Have a KMS worker prove a KMS key by the newest table key of a table that
 * is bound to it.  Does not wait; the answer shows in the key's state.  False
 * when there is no place on the board: try again later.
 */
extern bool cmek_watch_probe(Oid server, Oid relid);

/*
 * The same, now, and wait for the answer: its class.  CORRUPT when the table
 * has no key.
 */
extern CmekKmsClass cmek_watch_try(Oid server, Oid relid);

/*
 * Have a KMS worker post a notification, and wait, at most cmek.kms_timeout.
 * False with the reason when the receiver did not take it.
 */
extern bool cmek_post(const char *url, const char *secret_file,
					  const char *body, char *error, Size size);
/* The longest one */
#define CMEK_POST_MAX CMEK_KMS_MAX_BLOB

/* Seconds between two proofs of a key */
extern int	cmek_watch_period(void);

#endif							/* CMEK_WATCH_H */
