/*-------------------------------------------------------------------------
 *
 * cmek.c
 *	  Entry of the library: wiring only.
 *
 * Each folder registers its own settings, hooks and workers.  Without
 * shared_preload_libraries the access method still answers, so that VACUUM,
 * DROP and TRUNCATE work; everything else says what to set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "compat.h"
#include "btree/btree.h"
#include "crypto/crypto.h"
#include "ddl/ddl.h"
#include "heap/heap.h"
#include "keys/keys.h"
#include "kms/kms.h"
#include "lifecycle/lifecycle.h"
#include "stats/stats.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	cmek_crypto_init();
	cmek_kms_init();
	cmek_keys_init();
	cmek_heap_init();
	cmek_btree_init();
	cmek_stats_init();
	cmek_ddl_init();
	cmek_lifecycle_init();

	MarkGUCPrefixReserved("cmek");
}
