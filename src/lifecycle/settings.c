/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings of this folder.
 *
 * Durations that can be switched off are text: "off", or an integer with one
 * of PostgreSQL's units of time (without a unit: seconds).  They are parsed
 * when they are read: nothing is initialised in an assign hook.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/guc.h"

#include "compat.h"
#include "lifecycle/internal.h"
#include "lifecycle/store.h"

static char *drop_after = NULL;
bool		cmek_drop_on_unreachable = false;
int			cmek_audit_anchor_interval = 3600;
char	   *cmek_notify_url = NULL;
char	   *cmek_notify_secret_file = NULL;
char	   *cmek_snapshot_directory = NULL;
int			cmek_snapshot_retention = 35 * SECS_PER_DAY;

/* Check a setting that is a duration or "off". */
static bool
check_duration(char **newval, void **extra, GucSource source)
{
	int			seconds;

	if (cmek_parse_duration(*newval, &seconds))
		return true;
	GUC_check_errdetail("It is \"off\" or a duration, for example \"7d\".");
	return false;
}

/* See internal.h. */
int
cmek_drop_after_seconds(void)
{
	int			seconds = -1;

	(void) cmek_parse_duration(drop_after, &seconds);
	return seconds;
}

/* Is it http to this machine?  A name or a user may go on after what looks so. */
static bool
is_local_url(const char *url)
{
	static const char *const hosts[] = {"http://127.0.0.1", "http://localhost"};

	for (Size i = 0; i < lengthof(hosts); i++)
	{
		Size		len = strlen(hosts[i]);

		if (strncmp(url, hosts[i], len) == 0 &&
			(url[len] == '\0' || strchr(":/?", url[len]) != NULL) &&
			strchr(url, '@') == NULL)
			return true;
	}
	return false;
}

/* A URL is not set, or https, or http to this machine. */
static bool
check_url(char **newval, void **extra, GucSource source)
{
	if (**newval == '\0' || strncmp(*newval, "https://", 8) == 0 ||
		is_local_url(*newval))
		return true;
	GUC_check_errdetail("It must begin with \"https://\".");
	return false;
}

/* Snapshots are in a directory, or in a bucket. */
static bool
check_store(char **newval, void **extra, GucSource source)
{
	const char *problem = "It must be an absolute path, or begin with \"s3://\".";

	if (**newval == '\0' || is_absolute_path(*newval) ||
		(strncmp(*newval, "s3://", strlen("s3://")) == 0 &&
		 cmek_s3_check_url(*newval, &problem)))
		return true;
	GUC_check_errdetail("%s", problem);
	return false;
}

void
cmek_lifecycle_settings_init(void)
{
	cmek_s3_settings_init();
	DefineCustomStringVariable("cmek.drop_after",
							   "Observed inaccessible time of a KMS key after which its tables are snapshotted and dropped.",
							   "\"off\": never.",
							   &drop_after,
							   "7d",
							   PGC_SIGHUP, 0,
							   check_duration, NULL, NULL);
	DefineCustomBoolVariable("cmek.drop_on_unreachable",
							 "Whether time counts during which the KMS did not answer.",
							 NULL,
							 &cmek_drop_on_unreachable,
							 false,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("cmek.audit_anchor_interval",
							"How often the head of the audit chain is published.",
							"0: never.",
							&cmek_audit_anchor_interval,
							3600, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomStringVariable("cmek.notify_url",
							   "Where events of keys are posted to.",
							   "Empty: nowhere.",
							   &cmek_notify_url,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_url, NULL, NULL);
	DefineCustomStringVariable("cmek.notify_secret_file",
							   "File with the secret that signs what is posted to cmek.notify_url.",
							   NULL,
							   &cmek_notify_secret_file,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("cmek.snapshot_directory",
							   "Where snapshots are kept.",
							   "Empty: snapshots in the directory named as the data directory with .cmek at its end.",
							   &cmek_snapshot_directory,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_store, NULL, NULL);
	DefineCustomIntVariable("cmek.snapshot_retention",
							"How long the snapshot of a dropped table is kept.",
							NULL,
							&cmek_snapshot_retention,
							35 * SECS_PER_DAY, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
}
