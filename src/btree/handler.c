/*-------------------------------------------------------------------------
 *
 * handler.c
 *	  The sealed b-tree's table of functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/nbtree.h"
#include "access/reloptions.h"
#include "catalog/pg_am.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

typedef struct HandlerOptions
{
	BTOptions	stock;
	bool		hide_tids;
} HandlerOptions;

PG_FUNCTION_INFO_V1(cmek_btree_handler);

/* Stock btree's options, and hide_tids */
static bytea *
handler_options(Datum reloptions, bool validate)
{
	local_relopts relopts;

	init_local_reloptions(&relopts, sizeof(HandlerOptions));
	add_local_int_reloption(&relopts, "fillfactor", "", BTREE_DEFAULT_FILLFACTOR,
							BTREE_MIN_FILLFACTOR, 100,
							offsetof(HandlerOptions, stock.fillfactor));
	add_local_real_reloption(&relopts, "vacuum_cleanup_index_scale_factor", "",
							 -1, 0.0, 1e10,
							 offsetof(HandlerOptions, stock.vacuum_cleanup_index_scale_factor));
	add_local_bool_reloption(&relopts, "deduplicate_items", "", true,
							 offsetof(HandlerOptions, stock.deduplicate_items));
	add_local_bool_reloption(&relopts, "hide_tids", "", true,
							 offsetof(HandlerOptions, hide_tids));
	return (bytea *) build_local_reloptions(&relopts, reloptions, validate);
}

/* Tuplesort insists on the method of the index it sorts for */
static IndexBuildResult *
handler_build(Relation heap, Relation index, IndexInfo *info)
{
	Oid			method = index->rd_rel->relam;
	IndexBuildResult *result;

	index->rd_rel->relam = BTREE_AM_OID;
	result = btbuild(heap, index, info);
	index->rd_rel->relam = method;
	return result;
}

Datum
cmek_btree_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *routine = makeNode(IndexAmRoutine);

	*routine = *GetIndexAmRoutine(F_BTHANDLER);
	routine->ambuild = handler_build;
	routine->amoptions = handler_options;
	routine->amcanparallel = false;
	PG_RETURN_POINTER(routine);
}
