/*-------------------------------------------------------------------------
 *
 * init.c
 *	  Settings, shared memory and background workers of this folder.
 *
 * Without shared_preload_libraries nothing here exists but the settings of
 * sessions, and cmek_require_preload() says so.  During a binary upgrade there
 * is shared memory but no worker: nothing can ask for a key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

int			cmek_key_cache_size = 4096;
int			cmek_kms_workers = 2;
int			cmek_key_cache_ttl = 300;
int			cmek_kms_grace = 900;
int			cmek_kms_timeout = 10000;
int			cmek_data_key_max_seals = 1 << 30;
int			cmek_data_key_max_age = 90 * SECS_PER_DAY;
bool		cmek_auto_reseal = false;

static LWLockPadded *locks = NULL;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

/* One of our locks. */
LWLock *
cmek_lock(CmekLockId id)
{
	return &locks[id].lock;
}

/* Shared memory to ask for, for an area of secrets. */
Size
cmek_shmem_secret_size(Size size)
{
	Size		page = sysconf(_SC_PAGESIZE);

	/* the area begins at a page's beginning, wherever the allocation does */
	return add_size(TYPEALIGN(page, size), page);
}

/* Lock an area and leave it out of core dumps; one WARNING where refused. */
static void
protect_area(void *area, Size size)
{
	static bool warned = false;

	if (cmek_secret_protect(area, size) || warned)
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not lock the shared memory that holds keys: %m"),
			 errdetail("Keys may be written to swap space or core dumps."),
			 errhint("Raise the server's limit of locked memory, for example with \"LimitMEMLOCK=64M\" in its systemd unit or \"ulimit -l 65536\" before \"pg_ctl start\".")));
}

/* Find or make an area for secrets. */
void *
cmek_shmem_secret(const char *name, Size size, bool *found)
{
	Size		page = sysconf(_SC_PAGESIZE);
	char	   *area = ShmemInitStruct(name, cmek_shmem_secret_size(size), found);

	area = (char *) TYPEALIGN(page, area);
	if (!*found)
	{
		protect_area(area, TYPEALIGN(page, size));
		memset(area, 0, size);
	}
	return area;
}

/* See keys.h. */
bool
cmek_is_preloaded(void)
{
	return locks != NULL;
}

/* See keys.h. */
void
cmek_require_preload(void)
{
	if (!cmek_is_preloaded())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cmek is not loaded"),
				 errhint("Set shared_preload_libraries = 'cmek' and restart the server.")));
}

/* Ask for our share of shared memory. */
static void
request_shmem(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(cmek_cache_shmem_size());
	RequestAddinShmemSpace(cmek_state_shmem_size());
	RequestAddinShmemSpace(cmek_proof_options_shmem_size());
	RequestAddinShmemSpace(cmek_board_shmem_size());
	RequestAddinShmemSpace(cmek_stat_shmem_size());
	RequestAddinShmemSpace(cmek_progress_shmem_size());
	RequestAddinShmemSpace(cmek_everywhere_shmem_size());
	RequestAddinShmemSpace(cmek_eventqueue_shmem_size());
	RequestAddinShmemSpace(cmek_visits_shmem_size());
	RequestNamedLWLockTranche("cmek", CMEK_NUM_LOCKS);
}

/* Set it up. */
static void
startup_shmem(void)
{
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cmek_cache_shmem_init();
	cmek_state_shmem_init();
	cmek_proof_options_shmem_init();
	cmek_board_shmem_init();
	cmek_stat_shmem_init();
	cmek_progress_shmem_init();
	cmek_everywhere_shmem_init();
	cmek_eventqueue_shmem_init();
	cmek_visits_shmem_init();
	locks = GetNamedLWLockTranche("cmek");
	LWLockRelease(AddinShmemInitLock);
}

/* Settings that shape shared memory and workers. */
static void
define_startup_settings(void)
{
	DefineCustomIntVariable("cmek.key_cache_size",
							"Number of table keys kept open.",
							NULL,
							&cmek_key_cache_size,
							4096, 16, 1000000,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cmek.kms_workers",
							"Number of processes that talk to KMSs.",
							"They count against max_worker_processes, and so does the keeper.",
							&cmek_kms_workers,
							2, 1, CMEK_MAX_KMS_WORKERS,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
}

/* Settings that can change while the server runs. */
static void
define_settings(void)
{
	DefineCustomIntVariable("cmek.key_cache_ttl",
							"How long an opened table key is used before its KMS is asked again.",
							NULL,
							&cmek_key_cache_ttl,
							300, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cmek.kms_grace",
							"How long an opened table key stays in use while its KMS does not answer.",
							"A KMS that denies the key ends its use at once.",
							&cmek_kms_grace,
							900, 0, 604800,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cmek.kms_timeout",
							"How long a statement waits for a KMS.",
							NULL,
							&cmek_kms_timeout,
							10000, 100, 600000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

/* Settings that limit the life of data keys. */
static void
define_renewal_settings(void)
{
	DefineCustomIntVariable("cmek.data_key_max_seals",
							"How many values a data key seals before the next generation is made.",
							"Seals are counted when a backend reserves them; the hard stop is at 2^32.",
							&cmek_data_key_max_seals,
							1 << 30, 100, INT_MAX,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cmek.data_key_max_age",
							"How old a data key gets before the next generation is made.",
							"0 is never.",
							&cmek_data_key_max_age,
							90 * SECS_PER_DAY, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("cmek.auto_reseal",
							 "Reseal old rows when a data key was renewed for its age or its seals.",
							 NULL,
							 &cmek_auto_reseal,
							 false,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
}

/* Register what belongs to this folder. */
void
cmek_keys_init(void)
{
	define_settings();
	define_renewal_settings();
	cmek_replica_init();
	/* key rows are deleted without the library preloaded, too */
	cmek_catalog_init();
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_startup_settings();
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
	cmek_forget_init();
	cmek_index_key_init();
	cmek_ring_init();
	cmek_stat_init();
	cmek_progress_init();
	cmek_suspend_init();
	cmek_events_init();
	cmek_stop_init();
	if (!IsBinaryUpgrade)
	{
		cmek_workers_register();
		cmek_keeper_register();
	}
}
