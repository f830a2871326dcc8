/*-------------------------------------------------------------------------
 *
 * handler.c
 *	  The access method cmek_heap: stock heap's routine with our callbacks.
 *
 * What is not replaced here is stock heap's own and works on sealed pages
 * without a key: vacuum, pruning, freezing, truncation, sizes, parallel scan
 * state, tablespace moves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "heap/internal.h"

bool		(*cmek_index_is_sealed) (Relation index) = NULL;
void		(*cmek_verify_index) (Relation heap, Relation index,
								  CmekVerifyReport report, void *state) = NULL;

const CmekAnalyzeHooks *cmek_analyze_hooks = NULL;

const TableAmRoutine *cmek_stock_heap = NULL;
TupleDesc	cmek_sealed_desc = NULL;

static TableAmRoutine sealed_heap;

PG_FUNCTION_INFO_V1(cmek_heap_handler);

const TableAmRoutine *
cmek_heap_routine(void)
{
	return &sealed_heap;
}

Oid
cmek_heap_am_oid(void)
{
	return get_table_am_oid("cmek_heap", true);
}

/*
 * A new sealed table needs the library in every process; new storage of an
 * existing one (TRUNCATE) does not.
 */
static void
sealed_set_new_filelocator(CMEK_NEW_FILELOCATOR_PARAMS(rel, locator))
{
	if (rel->rd_createSubid != InvalidSubTransactionId && !IsBinaryUpgrade)
		cmek_require_preload();
	cmek_stock_set_new_filelocator(cmek_stock_heap, rel, locator);
}

void
cmek_heap_init(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	cmek_sealed_desc = CreateTemplateTupleDesc(0);
	CMEK_TUPLE_DESC_FINALIZE(cmek_sealed_desc);
	MemoryContextSwitchTo(old);

	cmek_stock_heap = GetHeapamTableAmRoutine();
	sealed_heap = *cmek_stock_heap;
	read_set_callbacks(&sealed_heap);
	write_set_callbacks(&sealed_heap);
	build_set_callbacks(&sealed_heap);
	rewrite_set_callbacks(&sealed_heap);
	vacuum_set_callbacks(&sealed_heap);
	cmek_set_new_filelocator_callback(&sealed_heap, sealed_set_new_filelocator);
	exposure_init();
	shadow_init();
	unused_init();
	renew_init();
}

Datum
cmek_heap_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(&sealed_heap);
}
