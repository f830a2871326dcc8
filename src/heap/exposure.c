/*-------------------------------------------------------------------------
 *
 * exposure.c
 *	  Where core would copy values of a sealed table in clear, or lose them:
 *	  planner statistics and logical decoding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xlog.h"
#include "catalog/heap.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "heap/internal.h"

bool		cmek_plaintext_statistics = false;
bool		cmek_allow_logical_decoding = false;

/* Define the settings */
void
exposure_init(void)
{
	DefineCustomBoolVariable("cmek.plaintext_statistics",
							 "Let ANALYZE store values of sealed tables in clear.",
							 NULL,
							 &cmek_plaintext_statistics,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("cmek.allow_logical_decoding",
							 "Allow sealed tables while wal_level is logical.",
							 "Logical decoding sees rows of NULLs: changes are lost to subscribers.",
							 &cmek_allow_logical_decoding,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

/*
 * Remove what is in the catalogs of the values of a table: column statistics,
 * those of its expression indexes, and extended ones.  Dead row versions stay
 * until the catalogs are vacuumed.  Caller holds at least
 * ShareUpdateExclusiveLock on the table.
 */
void
cmek_heap_forget_statistics(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	ListCell   *lc;

	RemoveStatistics(relid, InvalidAttrNumber);
	foreach(lc, RelationGetIndexList(rel))
		RemoveStatistics(lfirst_oid(lc), InvalidAttrNumber);
	foreach(lc, RelationGetStatExtList(rel))
	{
		RemoveStatisticsDataById(lfirst_oid(lc), false);
		RemoveStatisticsDataById(lfirst_oid(lc), true);
	}
	table_close(rel, NoLock);
}

/*
 * ERROR when a change of this table would be lost to logical decoding, which
 * sees rows of NULLs.
 */
void
exposure_check_write(Relation rel)
{
	if (likely(!XLogLogicalInfoActive()) || cmek_allow_logical_decoding ||
		rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("sealed table \"%s\" cannot be changed while wal_level is \"logical\"",
					RelationGetRelationName(rel)),
			 errdetail("Logical decoding would see rows of NULLs."),
			 errhint("Set wal_level to \"replica\", or cmek.allow_logical_decoding to on.")));
}
