/*-------------------------------------------------------------------------
 *
 * stop.c
 *	  Stop points: places between two steps where a test can have a process
 *	  fail or die, to see that what it left is before or after, never between.
 *
 * cmek.stop_point = 'NAME:error' or 'NAME:kill', superusers only: they can end
 * a process in other ways.  Not set, a stop point is one look at a pointer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "keys/internal.h"

static char *stop_point = NULL;

/* Define the setting; called once by cmek_keys_init. */
void
cmek_stop_init(void)
{
	DefineCustomStringVariable("cmek.stop_point",
							   "Where a test has this process fail or die.",
							   "The name of a stop point, then \":error\" or \":kill\".",
							   &stop_point,
							   NULL,
							   PGC_SUSET,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
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
	ereport(ERROR,
			(errcode(ERRCODE_OPERATOR_INTERVENTION),
			 errmsg("stopped at \"%s\"", name)));
}
