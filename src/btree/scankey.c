/*-------------------------------------------------------------------------
 *
 * scankey.c
 *	  Scan keys of the executor's as nbtree needs them on sealed columns.
 *
 * An argument becomes a BtPlain; its type and the function that compares it
 * with the column are looked up here, never later.  The executor's own keys
 * are left alone, for nbtree changes what it is given.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/skey.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

#include "btree/internal.h"

static void convert_key(BtIndex *index, ScanKey key, BtPlain *room);

/* The members of a row comparison; they use the three-way function */
static void
convert_row(BtIndex *index, ScanKey key)
{
	ScanKey		members = (ScanKey) DatumGetPointer(key->sk_argument);
	int			n = 1;

	while (!(members[n - 1].sk_flags & SK_ROW_END))
		n++;
	key->sk_argument = PointerGetDatum(memcpy(palloc(n * sizeof(ScanKeyData)),
											  members,
											  n * sizeof(ScanKeyData)));
	members = (ScanKey) DatumGetPointer(key->sk_argument);
	for (int i = 0; i < n; i++)
	{
		convert_key(index, &members[i], NULL);
		members[i].sk_func =
			index->procs[(members[i].sk_attno - 1) * BTNProcs + BTORDER_PROC - 1];
	}
}

/* An array of arguments */
static Datum
convert_array(BtColumn *column, Datum argument, Oid type, Oid sealed_type)
{
	ArrayType  *array = DatumGetArrayTypeP(argument);
	int16		len;
	bool		byval;
	char		align;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int			lower = 1;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &len, &byval, &align);
	deconstruct_array(array, ARR_ELEMTYPE(array), len, byval, align,
					  &values, &nulls, &n);
	if (n == 0)
		return PointerGetDatum(construct_empty_array(sealed_type));
	/* an operator of the column's own type may be given any that is coercible */
	if (!OidIsValid(type))
		type = column->opcintype;
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			values[i] = bt_plain_argument(column, values[i], type, NULL);
	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower,
											  sealed_type, -1, false,
											  TYPALIGN_INT));
}

/* One key; its argument goes into "room", if there is some */
static void
convert_key(BtIndex *index, ScanKey key, BtPlain *room)
{
	BtColumn   *column = &index->columns[key->sk_attno - 1];
	Oid			type = key->sk_subtype;

	if (key->sk_flags & SK_ROW_HEADER)
	{
		convert_row(index, key);
		return;
	}
	if (key->sk_flags & (SK_SEARCHNULL | SK_SEARCHNOTNULL))
		return;
	key->sk_subtype = index->sealed_type;
	key->sk_collation = BT_SEALED_COLLATION;
	key->sk_func = index->operators[key->sk_strategy];
	if (column->key)
		key->sk_func.fn_expr = (Node *) column;
	if (key->sk_flags & SK_ISNULL)
		return;
	key->sk_argument = key->sk_flags & SK_SEARCHARRAY ?
		convert_array(column, key->sk_argument, type, index->sealed_type) :
		bt_plain_argument(column, key->sk_argument, type, room);
}

/* Does a key take memory of the current context to convert? */
bool
bt_key_needs_memory(ScanKey key)
{
	return (key->sk_flags & (SK_ROW_HEADER | SK_SEARCHARRAY)) != 0;
}

/* Convert keys, into room for as many keys and their arguments */
void
bt_convert_keys(BtIndex *index, ScanKey keys, int nkeys, ScanKey converted,
				BtPlain *arguments)
{
	memcpy(converted, keys, nkeys * sizeof(ScanKeyData));
	for (int i = 0; i < nkeys; i++)
		convert_key(index, &converted[i], &arguments[i]);
}
