/*-------------------------------------------------------------------------
 *
 * stat.c
 *	  The counters of cmek.stat.
 *
 * Counters since the server started, in shared memory.  Seals and unseals are
 * counted by each backend for itself and added at the end of a transaction:
 * a shared counter on the path of every row would cost more than the seal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "compat.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_stat_counters);

CmekCounters cmek_counters = {0};

static pg_atomic_uint64 *counters = NULL;

Size
cmek_stat_shmem_size(void)
{
	return CMEK_NUM_STATS * sizeof(pg_atomic_uint64);
}

/* Find or make the counters in shared memory. */
void
cmek_stat_shmem_init(void)
{
	bool		found;

	counters = ShmemInitStruct("cmek counters", cmek_stat_shmem_size(), &found);
	if (!found)
		for (int i = 0; i < CMEK_NUM_STATS; i++)
			pg_atomic_init_u64(&counters[i], 0);
}

/* Count. */
void
cmek_stat_add(CmekStat stat, uint64 n)
{
	pg_atomic_fetch_add_u64(&counters[stat], (int64) n);
}

/* Add what this backend counted for itself. */
static void
flush(void)
{
	if (counters == NULL)
		return;
	if (cmek_counters.seals > 0)
		cmek_stat_add(CMEK_STAT_SEALS, cmek_counters.seals);
	if (cmek_counters.unseals > 0)
		cmek_stat_add(CMEK_STAT_UNSEALS, cmek_counters.unseals);
	memset(&cmek_counters, 0, sizeof(cmek_counters));
}

/* End of a transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE &&
		event != XACT_EVENT_PARALLEL_PRE_COMMIT)
		flush();
}

/* Register the callback; called once in each process. */
void
cmek_stat_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
}

/* One counter as an int8. */
static Datum
read_counter(CmekStat stat)
{
	return Int64GetDatum((int64) pg_atomic_read_u64(&counters[stat]));
}

/* SQL: the counters, this transaction's own included. */
Datum
cmek_stat_counters(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[10];
	bool		nulls[10] = {false};
	int			i = 0;

	cmek_require_preload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	flush();
	values[i++] = read_counter(CMEK_STAT_SEALS);
	values[i++] = read_counter(CMEK_STAT_UNSEALS);
	values[i++] = read_counter(CMEK_STAT_HITS);
	values[i++] = read_counter(CMEK_STAT_MISSES);
	values[i++] = read_counter(CMEK_STAT_EVICTIONS);
	values[i++] = read_counter(CMEK_STAT_CALLS);
	values[i++] = read_counter(CMEK_STAT_FAILURES);
	values[i++] = Float8GetDatum((double) pg_atomic_read_u64(&counters[CMEK_STAT_CALL_USECS]) / 1000.0);
	values[i++] = Int32GetDatum(cmek_cache_count());
	values[i++] = CStringGetTextDatum(cmek_crypto_implementation());
	Assert(i == lengthof(values));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
											 values, nulls));
}
