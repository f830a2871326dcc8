/*-------------------------------------------------------------------------
 *
 * sort.c
 *	  Sort support for sealed datums: how an index is built.
 *
 * The sort of a build holds and spills sealed tuples.  What core calls the
 * abbreviated key of the leading column lives in memory only; ours is the
 * value itself where it is passed by value, the real type's abbreviated key
 * where it has one, and else a pointer to a copy of the value, as long as half
 * of maintenance_work_mem lasts; then 0, which decides nothing.  It is made
 * from the value that the build sealed a moment ago, so most tuples are never
 * opened at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

#include "btree/internal.h"

PG_FUNCTION_INFO_V1(cmek_sealed_sortsupport);

/* ssup_extra of ours */
typedef struct SealedSort
{
	BtColumn   *column;
	SortSupportData real;		/* the real type's */
	MemoryContext copies;		/* of values that are their own key */
	Size		room;			/* what is left for them */
} SealedSort;

/* Compare two sealed datums */
static int
sort_compare(Datum a, Datum b, SortSupport ssup)
{
	SealedSort *sort = (SealedSort *) ssup->ssup_extra;

	/* should they be equal in a unique index, core shows the first (compare.c) */
	if (bt_activity != NULL && bt_activity->compared != NULL)
		bt_activity->compared[sort->column->attno - 1] = a;
	return bt_compare_in(sort->column, a, b);
}

/* A copy of a value that lasts as long as the sort, or 0 */
static Datum
sort_keep(SealedSort *sort, Datum value)
{
	Size		size = datumGetSize(value, false, sort->column->typlen);
	MemoryContext old;

	if (size > sort->room)
	{
		sort->room = 0;
		return (Datum) 0;
	}
	sort->room -= size;
	old = MemoryContextSwitchTo(sort->copies);
	value = datumCopy(value, false, sort->column->typlen);
	MemoryContextSwitchTo(old);
	return value;
}

/* Compare copies; where there is none, let the sealed datums decide */
static int
sort_compare_kept(Datum a, Datum b, SortSupport ssup)
{
	SealedSort *sort = (SealedSort *) ssup->ssup_extra;

	if (a == (Datum) 0 || b == (Datum) 0)
		return 0;
	return sort->real.comparator(a, b, &sort->real);
}

/* A value, or what the real type makes of it, for a sealed datum */
static Datum
sort_abbreviate(Datum sealed, SortSupport ssup)
{
	SealedSort *sort = (SealedSort *) ssup->ssup_extra;
	Datum		value;
	BtBuffer	buffer;
	void	   *allocated = NULL;

	/* the sort has its own copy of the tuple: same nonce */
	if (!bt_is_at_hand(sort->column, sealed, &value))
		value = bt_open(sort->column, sealed, &buffer, &allocated);
	if (sort->real.abbrev_converter)
		value = sort->real.abbrev_converter(value, &sort->real);
	else if (!sort->column->typbyval)
		value = sort_keep(sort, value);
	if (allocated)
		pfree(allocated);
	return value;
}

/* Compare abbreviated keys the real type's way */
static int
sort_compare_abbreviated(Datum a, Datum b, SortSupport ssup)
{
	SealedSort *sort = (SealedSort *) ssup->ssup_extra;

	return sort->real.comparator(a, b, &sort->real);
}

/* Does the real type think that its abbreviated keys are of no use? */
static bool
sort_abort(int memtupcount, SortSupport ssup)
{
	SealedSort *sort = (SealedSort *) ssup->ssup_extra;

	return sort->real.abbrev_abort != NULL &&
		sort->real.abbrev_abort(memtupcount, &sort->real);
}

/* Ask the real type how it sorts */
static void
sort_prepare_real(SealedSort *sort, SortSupport ssup)
{
	BtColumn   *column = sort->column;
	Oid			function = get_opfamily_proc(column->opfamily,
											 column->opcintype,
											 column->opcintype,
											 BTSORTSUPPORT_PROC);

	sort->real.ssup_cxt = ssup->ssup_cxt;
	sort->real.ssup_collation = column->collation;
	sort->real.ssup_nulls_first = ssup->ssup_nulls_first;
	sort->real.ssup_attno = ssup->ssup_attno;
	sort->real.abbreviate = ssup->abbreviate && !column->typbyval;
	if (OidIsValid(function))
		OidFunctionCall1(function, PointerGetDatum(&sort->real));
	if (sort->real.comparator == NULL)
		PrepareSortSupportComparisonShim(column->compare.fn_oid, &sort->real);
}

/*
 * Where the value itself is the key, core has sorts of its own for the
 * comparators it knows, which look at nothing but the two values.
 */
static int
(*sort_known_comparator(SealedSort *sort)) (Datum, Datum, SortSupport)
{
	if (sort->real.comparator == ssup_datum_unsigned_cmp ||
#if SIZEOF_DATUM >= 8
		sort->real.comparator == ssup_datum_signed_cmp ||
#endif
		sort->real.comparator == ssup_datum_int32_cmp)
		return sort->real.comparator;
	return sort_compare_abbreviated;
}

/* Abbreviate the leading column, if there is something to gain */
static void
sort_use_abbreviation(SealedSort *sort, SortSupport ssup)
{
	if (!ssup->abbreviate)
		return;
	ssup->abbrev_full_comparator = sort_compare;
	ssup->abbrev_converter = sort_abbreviate;
	ssup->abbrev_abort = sort_abort;
	if (sort->column->typbyval)
		ssup->comparator = sort_known_comparator(sort);
	else if (sort->real.abbrev_converter)
		ssup->comparator = sort_compare_abbreviated;
	else
	{
		sort->copies = ssup->ssup_cxt;
		sort->room = (Size) maintenance_work_mem * 1024 / 2;
		ssup->comparator = sort_compare_kept;
	}
}

/*
 * Called while an index is built, for each of its columns.  A function of a
 * user's that runs meanwhile may begin sorts, too, of what it calls sealed.
 */
Datum
cmek_sealed_sortsupport(PG_FUNCTION_ARGS)
{
	SortSupport ssup = (SortSupport) PG_GETARG_POINTER(0);
	SealedSort *sort;

	if (bt_activity == NULL ||
		ssup->ssup_collation != BT_SEALED_COLLATION || ssup->ssup_attno < 1 ||
		ssup->ssup_attno > bt_activity->index->nkeyatts)
		bt_report_no_datum();
	sort = MemoryContextAllocZero(ssup->ssup_cxt, sizeof(SealedSort));
	sort->column = &bt_activity->index->columns[ssup->ssup_attno - 1];
	sort_prepare_real(sort, ssup);
	ssup->ssup_extra = sort;
	ssup->comparator = sort_compare;
	sort_use_abbreviation(sort, ssup);
	PG_RETURN_VOID();
}
