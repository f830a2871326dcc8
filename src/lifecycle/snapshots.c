/*-------------------------------------------------------------------------
 *
 * snapshots.c
 *	  Records of snapshots.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lifecycle/internal.h"
#include "lifecycle/snapshot.h"

/* See internal.h. */
void
cmek_snapshot_record(const char *id, Relation rel, const char *reason,
					 const struct CmekSnapTotals *totals)
{
}

/* See snapshot.h. */
CmekStore *
cmek_snapshot_find(const char *snapshot, char **file, char **owner)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("snapshots cannot be restored in this build")));
}
