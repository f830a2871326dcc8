/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  What nbtree compares sealed datums with: the functions of cmek.sealed.
 *
 * Both sides are opened into memory of the call, so a comparison function
 * written in SQL may use the same index again.  The entry that is being
 * inserted is not opened: its values are at hand.
 *
 * Called under buffer locks: no catalog, no key is asked for here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/lsyscache.h"

#include "btree/internal.h"

PG_FUNCTION_INFO_V1(cmek_sealed_in);
PG_FUNCTION_INFO_V1(cmek_sealed_out);
PG_FUNCTION_INFO_V1(cmek_sealed_lt);
PG_FUNCTION_INFO_V1(cmek_sealed_le);
PG_FUNCTION_INFO_V1(cmek_sealed_eq);
PG_FUNCTION_INFO_V1(cmek_sealed_ge);
PG_FUNCTION_INFO_V1(cmek_sealed_gt);
PG_FUNCTION_INFO_V1(cmek_sealed_cmp);

BtActivity *bt_activity = NULL;

/* One side of a comparison */
typedef struct Side
{
	Datum		value;
	void	   *allocated;
	BtBuffer	buffer;
} Side;

/* The column that index.c left for us in fn_expr */
static inline BtColumn *
column_of_function(const FmgrInfo *flinfo)
{
	BtColumn   *column = (BtColumn *) flinfo->fn_expr;

	if (unlikely(column == NULL || column->tag != T_Invalid) ||
		memcmp(column->cookie, bt_cookie, BT_COOKIE_LEN) != 0)
		return NULL;
	return column;
}

/* See internal.h. */
void
bt_report_no_datum(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("values of type %s exist in sealed indexes only",
					"cmek.sealed")));
}

/*
 * The column of a function that nbtree looked up by itself: skip scan's =, which
 * stands in the key of the scan at work.
 */
static BtColumn *
column_of_key(const FmgrInfo *flinfo)
{
	BTScanOpaque so;

	if (bt_activity == NULL || bt_activity->scan == NULL)
		return NULL;
	so = (BTScanOpaque) bt_activity->scan->opaque;
	for (int i = 0; i < so->numberOfKeys; i++)
		if (flinfo == &so->keyData[i].sk_func)
			return &bt_activity->index->columns[so->keyData[i].sk_attno - 1];
	return NULL;
}

/* The column that a function is for, NULL when it knows none */
static inline BtColumn *
find_column(FmgrInfo *flinfo)
{
	BtColumn   *column = column_of_function(flinfo);

	if (likely(column != NULL))
		return column;
	if (flinfo->fn_extra == NULL)
		flinfo->fn_extra = column_of_key(flinfo);
	return (BtColumn *) flinfo->fn_extra;
}

/* Open one side */
static inline void
open_side(Side *side, BtColumn *column, Datum sealed, bool maybe_at_hand)
{
	side->allocated = NULL;
	if ((!maybe_at_hand || !bt_is_at_hand(column, sealed, &side->value)) &&
		!bt_open_byval(column, sealed, &side->value))
		side->value = bt_open(column, sealed, &side->buffer, &side->allocated);
}

/* Compare two integers of which a column's comparison function looks at all */
#define COMPARE(get, a, b) \
	(get(a) < get(b) ? -1 : get(a) > get(b))

/* Compare two values of a column by its own function */
static inline int32
compare_values(BtColumn *column, Datum a, Datum b)
{
	switch (column->order)
	{
		case BT_ORDER_INT16:
			return COMPARE(DatumGetInt16, a, b);
		case BT_ORDER_INT32:
			return COMPARE(DatumGetInt32, a, b);
		case BT_ORDER_INT64:
			return COMPARE(DatumGetInt64, a, b);
		case BT_ORDER_CALL:
			break;
	}
	return DatumGetInt32(FunctionCall2Coll(&column->compare, column->collation,
										   a, b));
}

/* Two search arguments; they may be of different types */
static int32
compare_plain(const BtPlain *a, const BtPlain *b)
{
	BtColumn   *column = a->column;
	FmgrInfo   *function = bt_column_proc(column, a->type, b->type);

	return DatumGetInt32(FunctionCall2Coll(function, column->collation,
										   a->value, b->value));
}

/* Compare two values by the function that goes with the second */
static inline int32
compare_by_argument(const BtPlain *argument, Datum value)
{
	BtColumn   *column = argument->column;

	if (likely(argument->compare == &column->compare))
		return compare_values(column, value, argument->value);
	return DatumGetInt32(FunctionCall2Coll(argument->compare, column->collation,
										   value, argument->value));
}

/* A sealed datum of a type passed by reference, and a search argument */
static pg_noinline int32
compare_argument_byref(Datum sealed, const BtPlain *argument)
{
	Side		side;
	int32		result;

	side.value = bt_open(argument->column, sealed, &side.buffer, &side.allocated);
	result = compare_by_argument(argument, side.value);
	if (unlikely(side.allocated))
		pfree(side.allocated);
	return result;
}

/* A sealed datum and a search argument */
static inline int32
compare_argument(Datum sealed, const BtPlain *argument)
{
	Datum		value;

	if (likely(bt_open_byval(argument->column, sealed, &value)))
		return compare_by_argument(argument, value);
	return compare_argument_byref(sealed, argument);
}

/* Two sealed datums of a column, whatever its type */
static pg_noinline int32
compare_in_any(BtColumn *column, Datum a, Datum b)
{
	Side		left;
	Side		right;
	int32		result;

	open_side(&left, column, a, false);
	open_side(&right, column, b, true);
	result = compare_values(column, left.value, right.value);
	if (unlikely(left.allocated))
		pfree(left.allocated);
	if (unlikely(right.allocated))
		pfree(right.allocated);
	return result;
}

/* Two sealed datums of a column; mostly an entry and what is inserted */
int32
bt_compare_in(BtColumn *column, Datum a, Datum b)
{
	Datum		left;
	Datum		right;

	if (column->typbyval && bt_is_at_hand(column, b, &right) &&
		likely(bt_open_byval(column, a, &left)))
		return compare_values(column, left, right);
	return compare_in_any(column, a, b);
}

/*
 * Compare what has an argument on its left, or one that is not aligned.  nbtree
 * compares two arguments by functions without a column, too; what is not as long
 * as these is not looked at any further then.
 */
static pg_noinline int32
compare_arguments(const BtColumn *column, Datum a, Datum b)
{
	BtPlain		room[2];
	const BtPlain *left;
	const BtPlain *right;
	int32		result;

	if (unlikely(column == NULL) &&
		!(bt_may_be_plain(a) && bt_may_be_plain(b)))
		bt_report_no_datum();
	left = bt_plain(a, &room[0]);
	right = bt_plain(b, &room[1]);
	if (unlikely(left == NULL && right == NULL))
		bt_report_no_datum();
	if (left == NULL)
		return compare_argument(a, right);
	if (right != NULL)
		return compare_plain(left, right);
	result = compare_argument(b, left);
	INVERT_COMPARE_RESULT(result);
	return result;
}

/* Compare whatever nbtree has: at each entry of a search the first two cases */
static int32
bt_compare(FmgrInfo *flinfo, Datum a, Datum b)
{
	BtColumn   *column = find_column(flinfo);

	if (likely(column != NULL) && !bt_is_plain(a))
	{
		if (!bt_is_plain(b))
			return bt_compare_in(column, a, b);
		if (likely(bt_is_aligned(b)))
			return compare_argument(a, (const BtPlain *) DatumGetPointer(b));
	}
	return compare_arguments(column, a, b);
}

/* The three-way comparison */
Datum
cmek_sealed_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(bt_compare(fcinfo->flinfo, PG_GETARG_DATUM(0),
							   PG_GETARG_DATUM(1)));
}

/* ... and the operators */
Datum
cmek_sealed_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bt_compare(fcinfo->flinfo, PG_GETARG_DATUM(0),
							  PG_GETARG_DATUM(1)) < 0);
}

Datum
cmek_sealed_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bt_compare(fcinfo->flinfo, PG_GETARG_DATUM(0),
							  PG_GETARG_DATUM(1)) <= 0);
}

Datum
cmek_sealed_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bt_compare(fcinfo->flinfo, PG_GETARG_DATUM(0),
							  PG_GETARG_DATUM(1)) == 0);
}

Datum
cmek_sealed_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bt_compare(fcinfo->flinfo, PG_GETARG_DATUM(0),
							  PG_GETARG_DATUM(1)) >= 0);
}

Datum
cmek_sealed_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bt_compare(fcinfo->flinfo, PG_GETARG_DATUM(0),
							  PG_GETARG_DATUM(1)) > 0);
}

/* No SQL makes a sealed value */
Datum
cmek_sealed_in(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot accept a value of type %s", "cmek.sealed")));
	PG_RETURN_VOID();
}

/*
 * The value of a key that core shows, and its column: of the entry that is
 * inserted, or of one that the sort of a build found equal to another.
 */
static BtColumn *
column_to_show(Datum sealed, char *room, Datum *value)
{
	const BtActivity *activity = bt_activity;

	for (int i = 0; activity != NULL && i < activity->index->nkeyatts; i++)
	{
		BtColumn   *column = &activity->index->columns[i];

		if (activity->compared == NULL ?
			bt_is_at_hand(column, sealed, value) :
			(activity->compared[i] == sealed &&
			 bt_try_open(column, sealed, room, BLCKSZ, value)))
			return column;
	}
	bt_report_no_datum();
	return NULL;
}

/*
 * Core shows the key of a violated unique constraint by the output function of
 * its type, to whom may read the columns; so the real value comes out while
 * nbtree works for us, and at no other time.
 */
Datum
cmek_sealed_out(PG_FUNCTION_ARGS)
{
	char	   *room = palloc(BLCKSZ);
	Datum		value;
	BtColumn   *column = column_to_show(PG_GETARG_DATUM(0), room, &value);
	Oid			function;
	bool		is_varlena;

	getTypeOutputInfo(column->type, &function, &is_varlena);
	PG_RETURN_CSTRING(OidOutputFunctionCall(function, value));
}
