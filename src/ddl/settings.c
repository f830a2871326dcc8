/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings of ddl/ and the wiring of its hooks.
 *
 * Nothing here looks into a catalog: a setting may be assigned long before
 * there is a database, and its value is judged when it is used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "ddl/statement.h"

char	   *cmek_default_key = NULL;
bool		cmek_enforce_encryption = false;
bool		cmek_plaintext_indexes = false;

/* Define the settings */
void
cmek_ddl_settings_init(void)
{
	DefineCustomStringVariable("cmek.default_key",
							   "KMS key of tables made without WITH (cmek.key = ...).",
							   "The name of a foreign server, or \"none\" to leave such tables unbound.",
							   &cmek_default_key,
							   "cmek_service_key",
							   PGC_USERSET, 0,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("cmek.enforce_encryption",
							 "Refuse to make tables that are not sealed.",
							 NULL,
							 &cmek_enforce_encryption,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("cmek.plaintext_indexes",
							 "Allow indexes that hold values of sealed tables in clear.",
							 NULL,
							 &cmek_plaintext_indexes,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
}

/*
 * Called once by _PG_init.  The hooks make keys, which takes shared memory:
 * without preloading there are none, and the access method says what to set.
 */
void
cmek_ddl_init(void)
{
	cmek_ddl_settings_init();
	cmek_label_init();

	if (!process_shared_preload_libraries_in_progress)
		return;
	cmek_hook_init();
	cmek_access_init();
	cmek_pose_init();
	cmek_pose_plan_init();
	cmek_routine_init();
}
