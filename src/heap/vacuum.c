/*-------------------------------------------------------------------------
 *
 * vacuum.c
 *	  VACUUM goes on without a key, but for sealed indexes.
 *
 * Freezing needs no key; deleting entries of a sealed index does.  With the
 * key away the indexes are left alone, as by INDEX_CLEANUP off: dead row
 * pointers stay until a vacuum finds the key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "commands/vacuum.h"
#include "utils/lsyscache.h"

#include "heap/internal.h"

/* Has a table an index that cannot be vacuumed without its key? */
static bool
has_sealed_index(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		found |= cmek_index_is_sealed != NULL && cmek_index_is_sealed(index);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

static void
sealed_vacuum(Relation rel, CMEK_VACUUM_PARAMS *params,
			  BufferAccessStrategy strategy)
{
	VacuumParams keyless = *params;

	if (!is_toast_table(rel) &&
		rel->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		cmek_table_is_bound(RelationGetRelid(rel)) &&
		has_sealed_index(rel) && !cmek_key_is_available(RelationGetRelid(rel)))
	{
		ereport((params->options & VACOPT_VERBOSE) ? INFO : LOG,
				(errmsg("indexes of table \"%s\" are not vacuumed while its key is away",
						RelationGetRelationName(rel))));
		keyless.index_cleanup = VACOPTVALUE_DISABLED;
		params = &keyless;
	}
	cmek_stop("vacuum-begun");
	cmek_stock_heap->relation_vacuum(rel, params, strategy);
}

void
vacuum_set_callbacks(TableAmRoutine *am)
{
	am->relation_vacuum = sealed_vacuum;
}
