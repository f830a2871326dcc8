/*-------------------------------------------------------------------------
 *
 * handler.c
 *	  The access method cmek_btree: nbtree's routine with our functions.
 *
 * What is not replaced is nbtree's own and needs no key: properties, operator
 * classes, the shared state of a parallel scan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/fmgrprotos.h"

#include "btree/internal.h"

PG_FUNCTION_INFO_V1(cmek_btree_handler);

Datum
cmek_btree_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = cmek_own_index_routine(DatumGetPointer(bthandler(fcinfo)));

	am->ambuild = bt_build;
	am->ambuildempty = bt_buildempty;
	am->aminsert = bt_insert;
	am->ambulkdelete = bt_bulkdelete;
	am->amvacuumcleanup = bt_vacuumcleanup;
	am->amoptions = bt_options;
	bt_scan_set_callbacks(am);
	bt_cost_set_callback(am);
	CMEK_NO_PARALLEL_BUILD(am);
	PG_RETURN_POINTER(am);
}

/* Is it one of ours? */
bool
bt_is_sealed_index(Relation index)
{
	return index->rd_indam != NULL && index->rd_indam->aminsert == bt_insert;
}

void
cmek_btree_init(void)
{
	bt_index_init();
	bt_build_init();
	bt_cluster_init();
	bt_verify_init();
}
