/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  Trying again what a KMS did not answer, and waiting for a process of ours.
 *
 * Waits are jittered ("full jitter" over the upper half), so that the workers
 * of many servers do not come back together; they end with the deadline, and
 * at once when the worker has to go.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

#include "compat.h"
#include "kms/http.h"
#include "kms/internal.h"

#define FIRST_DELAY_MS 100
#define LAST_DELAY_MS 2000
#define MAX_ATTEMPTS 8
/*
 * An attempt with less time than this, or than its share of the whole, is not
 * made: it would mostly put a time-out in the place of what the KMS has answered
 */
#define LEAST_ATTEMPT_MS 500
#define LEAST_ATTEMPT_SHARE 4

/* Wait until a time; false when the worker has to go. */
static bool
wait_until(CmekInstant until)
{
	for (;;)
	{
		long		left = cmek_ms_until(until);

		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			return false;
		if (left <= 0)
			return true;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, cmek_wait_event("CmekKmsRetry"));
		ResetLatch(MyLatch);
	}
}

/* Make attempts until one settles it: see http.h. */
void
cmek_kms_with_retries(CmekInstant deadline, CmekKmsAttempt attempt, void *arg,
					  CmekKmsAnswer *answer)
{
	long		least = Min(LEAST_ATTEMPT_MS,
							cmek_ms_until(deadline) / LEAST_ATTEMPT_SHARE);
	int			delay = FIRST_DELAY_MS;

	for (int i = 1;; i++)
	{
		int			asked = attempt(arg, answer);
		int			wait = delay / 2 +
			(int) pg_prng_uint64_range(&pg_global_prng_state, 0, delay / 2);

		if (answer->klass != CMEK_KMS_UNREACHABLE || asked < 0 ||
			i == MAX_ATTEMPTS)
			return;
		wait = Max(asked, wait);
		if (cmek_instant_in(wait + least) >= deadline ||
			!wait_until(cmek_instant_in(wait)))
			return;
		delay = Min(2 * delay, LAST_DELAY_MS);
	}
}

/* When one attempt has to end. */
CmekInstant
cmek_kms_attempt_deadline(CmekInstant deadline)
{
	return Min(deadline,
			   cmek_instant_in(Max(cmek_ms_until(deadline) / 2, 1000)));
}

/* See internal.h. */
bool
cmek_kms_wait_readable(int fd, CmekInstant deadline, uint32 wait_event)
{
	for (;;)
	{
		long		left = cmek_ms_until(deadline);
		int			rc;

		if (left <= 0 || ShutdownRequestPending)
			return false;
		rc = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_SOCKET_READABLE |
							   WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   fd, left, wait_event);
		if (rc & WL_SOCKET_READABLE)
			return true;
		if (rc & WL_LATCH_SET)
			ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
