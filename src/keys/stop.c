/*-------------------------------------------------------------------------
 *
 * stop.c
 *	  Stop points: places between two steps where a test can have a process
 *	  fail, die or wait for its end, to see that what it left is before or
 *	  after, never between.
 *
 * cmek.stop_point = 'NAME:error', 'NAME:kill' or 'NAME:wait', superusers only:
 * they can end a process in other ways.  Not set, a stop point is one look at
 * a pointer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "compat.h"
#include "keys/internal.h"

static char *stop_point = NULL;

/* Define the setting; called once by cmek_keys_init. */
void
cmek_stop_init(void)
{
	DefineCustomStringVariable("cmek.stop_point",
							   "Where a test has this process fail, die or wait.",
							   "The name of a stop point, then \":error\", \":kill\" or \":wait\".",
							   &stop_point,
							   NULL,
							   PGC_SUSET,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
}

/*
 * Wait until the process is cancelled or ended; the server log says so, which
 * is what tests look for.  A background worker leaves for its own shutdown.
 */
static void
wait_for_end(const char *name)
{
	ereport(LOG,
			(errmsg("waiting at \"%s\"", name)));
	while (!ShutdownRequestPending)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1L,
						 cmek_wait_event("CmekStopPoint"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Stop here, if this is the point that the setting names. */
void
cmek_stop(const char *name)
{
	size_t		len = strlen(name);

	if (likely(stop_point == NULL) || strncmp(stop_point, name, len) != 0 ||
		stop_point[len] != ':')
		return;
	if (strcmp(stop_point + len + 1, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	if (strcmp(stop_point + len + 1, "wait") == 0)
	{
		wait_for_end(name);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OPERATOR_INTERVENTION),
			 errmsg("stopped at \"%s\"", name)));
}
