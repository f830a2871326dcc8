/*-------------------------------------------------------------------------
 *
 * bgworker.c
 *	  What our background workers have in common: how they are registered, and
 *	  who they are once they are connected to a database.
 *
 * The owner of a database makes settings for all of its sessions, workers of
 * ours among them, which are the bootstrap superuser.  What could mislead or
 * stop such a worker is overridden here, before it does anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/guc.h"

#include "compat.h"
#include "keys/internal.h"

/* See keys.h. */
void
cmek_bgworker_fill(BackgroundWorker *worker, const char *type,
				   const char *main, bool connects)
{
	memset(worker, 0, sizeof(*worker));
	strlcpy(worker->bgw_name, type, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
	strlcpy(worker->bgw_library_name, "cmek", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, main, BGW_MAXLEN);
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS;
	if (connects)
		worker->bgw_flags |= BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
}

/* See keys.h. */
void
cmek_bgworker_pin_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"session_replication_role", "origin"},
		{"row_security", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"transaction_timeout", "0"},	/* since 17 */
		{"cmek.kms_timeout", "10s"},	/* that of KMS workers is the server's */
	};

	/* "role" and "session_authorization" are settings, too */
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
	SetCurrentRoleId(InvalidOid, false);
	for (Size i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
							PGC_S_OVERRIDE);
}
