/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  A clock that nobody can set.
 *
 * Deadlines, the age of proofs and of cached keys, and when something is due
 * again are measured by it.  The wall clock may be set, back by years too; then
 * a proof from before would look young for years, and what was to be done in a
 * second would have to wait as long.
 *
 * It counts while the machine sleeps: a key that was cached before has aged
 * when the machine wakes up.  All processes of one machine read the same
 * clock, so its values may be kept in shared memory, but never on disk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_CLOCK_H
#define CMEK_CLOCK_H

#include <limits.h>
#include <time.h>

#include "utils/timestamp.h"

/* Microseconds since a moment of the past; 0 is before all of them */
typedef int64 CmekInstant;

#define CMEK_NEVER PG_INT64_MAX

#ifdef CLOCK_BOOTTIME
#define CMEK_CLOCK CLOCK_BOOTTIME
#else
#define CMEK_CLOCK CLOCK_MONOTONIC
#endif

/* This very moment. */
static inline CmekInstant
cmek_now(void)
{
	struct timespec t;

	(void) clock_gettime(CMEK_CLOCK, &t);
	return (CmekInstant) t.tv_sec * USECS_PER_SEC + t.tv_nsec / 1000;
}

/* The moment in so many milliseconds. */
static inline CmekInstant
cmek_instant_in(int64 ms)
{
	return cmek_now() + ms * 1000;
}

/*
 * Milliseconds until a moment, rounded up, as a time-out: never less than 0,
 * and no more than an int can hold.
 */
static inline long
cmek_ms_until(CmekInstant instant)
{
	CmekInstant now = cmek_now();

	if (instant <= now)
		return 0;
	if (instant - now >= INT_MAX * INT64CONST(1000))
		return INT_MAX;
	return (long) ((instant - now + 999) / 1000);
}

/* The moment at which the wall clock will show a time, if nobody sets it. */
static inline CmekInstant
cmek_instant_at(TimestampTz at)
{
	return at == DT_NOEND ? CMEK_NEVER :
		cmek_now() + (at - GetCurrentTimestamp());
}

#endif							/* CMEK_CLOCK_H */
