/*-------------------------------------------------------------------------
 *
 * runclock.c
 *	  For how long servers of this database have run: a clock that nobody can
 *	  set.
 *
 * The wall clock can jump by a year, by a wrong answer of a time server.  What
 * must not be lost by that is timed here as well: the sum of the time that
 * servers have run, by clock.h.  It stands while the server is
 * down, goes on from its record in a standby that is promoted and in a
 * restored copy, and never goes back but with the whole database.
 *
 * The record says what the sum was at which reading of that clock by which
 * start of the server, so whoever reads it knows the time of now.  Only
 * the visitor writes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "lifecycle/internal.h"

/* What a restart may cost */
#define WRITE_EVERY_MS (600 * INT64CONST(1000))

enum
{
	Anum_clock_singleton = 1,
	Anum_clock_started,
	Anum_clock_read_ms,
	Anum_clock_total_ms,
	Natts_clock = Anum_clock_total_ms
};

/* The record */
typedef struct RunClock
{
	HeapTuple	tuple;			/* NULL: there is none */
	TimestampTz started;		/* which start of a server has written it */
	int64		read_ms;		/* by clock.h, then */
	int64		total_ms;		/* the sum */
} RunClock;

/* Open the table of the record. */
static Relation
open_clock(LOCKMODE lockmode)
{
	return table_open(get_relname_relid("run_clock",
										get_namespace_oid("cmek", false)),
					  lockmode);
}

/* A number of the record. */
static int64
clock_column(HeapTuple tuple, Relation table, int number)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, number, RelationGetDescr(table),
									  &isnull));
}

/* Read the record. */
static void
read_clock(Relation table, RunClock *clock)
{
	SysScanDesc scan = systable_beginscan(table, InvalidOid, false, NULL, 0,
										  NULL);
	HeapTuple	tuple = systable_getnext(scan);

	memset(clock, 0, sizeof(RunClock));
	if (HeapTupleIsValid(tuple))
	{
		clock->tuple = heap_copytuple(tuple);
		clock->started = clock_column(tuple, table, Anum_clock_started);
		clock->read_ms = clock_column(tuple, table, Anum_clock_read_ms);
		clock->total_ms = clock_column(tuple, table, Anum_clock_total_ms);
	}
	systable_endscan(scan);
}

/* What the clock shows when clock.h says so much. */
static int64
clock_time(const RunClock *clock, int64 now_ms)
{
	if (clock->started != PgStartTime)
		return clock->total_ms;
	return clock->total_ms + Max(now_ms - clock->read_ms, 0);
}

/* See internal.h. */
int64
cmek_run_clock(void)
{
	Relation	table = open_clock(AccessShareLock);
	RunClock	clock;

	read_clock(table, &clock);
	table_close(table, AccessShareLock);
	return clock_time(&clock, cmek_now() / 1000);
}

/* Write the record. */
static void
write_clock(Relation table, const RunClock *clock, int64 now_ms, int64 total)
{
	Datum		values[Natts_clock];
	bool		nulls[Natts_clock] = {false};
	HeapTuple	tuple;

	values[Anum_clock_singleton - 1] = BoolGetDatum(true);
	values[Anum_clock_started - 1] = TimestampTzGetDatum(PgStartTime);
	values[Anum_clock_read_ms - 1] = Int64GetDatum(now_ms);
	values[Anum_clock_total_ms - 1] = Int64GetDatum(total);
	tuple = heap_form_tuple(RelationGetDescr(table), values, nulls);
	if (clock->tuple == NULL)
		CatalogTupleInsert(table, tuple);
	else
		CatalogTupleUpdate(table, &clock->tuple->t_self, tuple);
}

/* See internal.h. */
int64
cmek_run_clock_advance(void)
{
	Relation	table = open_clock(RowExclusiveLock);
	int64		now_ms = cmek_now() / 1000;
	RunClock	clock;
	int64		time;

	read_clock(table, &clock);
	time = clock_time(&clock, now_ms);
	if (clock.tuple == NULL || clock.started != PgStartTime ||
		time - clock.total_ms >= WRITE_EVERY_MS)
		write_clock(table, &clock, now_ms, time);
	table_close(table, NoLock);
	return time;
}
