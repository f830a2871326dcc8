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
#include "utils/tuplestore.h"

#include "compat.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_stat_counters);
PG_FUNCTION_INFO_V1(cmek_kms_histogram);

CmekCounters cmek_counters = {0};

/* Upper bounds of the histogram of calls to KMSs, in ms; the last has none */
static const int bounds[] = {
	1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000
};

#define NUM_BUCKETS (lengthof(bounds) + 1)
#define NUM_COUNTERS (CMEK_NUM_STATS + NUM_BUCKETS)

/* The statistics, then the buckets of the histogram */
static pg_atomic_uint64 *counters = NULL;

Size
cmek_stat_shmem_size(void)
{
	return NUM_COUNTERS * sizeof(pg_atomic_uint64);
}

/* Find or make the counters in shared memory. */
void
cmek_stat_shmem_init(void)
{
	bool		found;

	counters = ShmemInitStruct("cmek counters", cmek_stat_shmem_size(), &found);
	if (!found)
		for (Size i = 0; i < NUM_COUNTERS; i++)
			pg_atomic_init_u64(&counters[i], 0);
}

/* Count. */
void
cmek_stat_add(CmekStat stat, uint64 n)
{
	pg_atomic_fetch_add_u64(&counters[stat], (int64) n);
}

/* Count a call to a KMS. */
void
cmek_stat_add_call(bool ok, int64 usecs)
{
	Size		bucket = 0;

	cmek_stat_add(CMEK_STAT_CALLS, 1);
	if (!ok)
		cmek_stat_add(CMEK_STAT_FAILURES, 1);
	cmek_stat_add(CMEK_STAT_CALL_USECS, usecs);
	while (bucket < lengthof(bounds) &&
		   usecs > bounds[bucket] * INT64CONST(1000))
		bucket++;
	pg_atomic_fetch_add_u64(&counters[CMEK_NUM_STATS + bucket], 1);
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
	values[i++] = Int32GetDatum(cmek_cache_count_tables());
	values[i++] = CStringGetTextDatum(cmek_crypto_implementation());
	Assert(i == lengthof(values));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
											 values, nulls));
}

/*
 * SQL: how many calls to KMSs took up to so many seconds; each row counts
 * those of the rows before it, too, and the last, without a bound, all.
 */
Datum
cmek_kms_histogram(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		sum = 0;

	cmek_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	for (Size i = 0; i < NUM_BUCKETS; i++)
	{
		Datum		values[2] = {0};
		bool		nulls[2] = {false};

		sum += (int64) pg_atomic_read_u64(&counters[CMEK_NUM_STATS + i]);
		nulls[0] = i == lengthof(bounds);
		if (!nulls[0])
			values[0] = Float8GetDatum(bounds[i] / 1000.0);
		values[1] = Int64GetDatum(sum);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
