/*-------------------------------------------------------------------------
 *
 * deform.c
 *	  Columns that stand at the same offset in every row without NULLs.
 *
 * Owns a list of them per slot, made once from the slot's descriptor, so that
 * the rows of a scan are taken apart by a loop that computes nothing.  Rows
 * with NULLs, short rows and later columns are left to heap's own way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupmacs.h"

#include "heap/internal.h"

/* How a column's bytes become a Datum */
typedef enum FixedKind
{
	FIXED_1, FIXED_2, FIXED_4, FIXED_8, FIXED_POINTER
} FixedKind;

typedef struct FixedColumn
{
	uint32		offset;			/* from the first byte of data */
	FixedKind	kind;
} FixedColumn;

struct FixedColumns
{
	int			n;
	FixedColumn columns[FLEXIBLE_ARRAY_MEMBER];
};

static FixedKind
fixed_kind(Form_pg_attribute att)
{
	if (!att->attbyval)
		return FIXED_POINTER;
	switch (att->attlen)
	{
		case 1:
			return FIXED_1;
		case 2:
			return FIXED_2;
		case 4:
			return FIXED_4;
		default:
			return FIXED_8;
	}
}

/*
 * The leading columns of a descriptor that stand at fixed offsets: up to and
 * including the first of variable length, provided that it is aligned whether
 * or not its header is a short one.
 */
FixedColumns *
fixed_columns_create(TupleDesc desc, MemoryContext context)
{
	FixedColumns *fixed = MemoryContextAlloc(context,
											 offsetof(FixedColumns, columns) +
											 desc->natts * sizeof(FixedColumn));
	uint32		offset = 0;

	for (fixed->n = 0; fixed->n < desc->natts; fixed->n++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, fixed->n);
		uint32		aligned = att_align_nominal(offset, att->attalign);
		FixedColumn *column = &fixed->columns[fixed->n];

		if (att->attlen < -1 || (att->attlen == -1 && aligned != offset))
			break;
		column->offset = aligned;
		column->kind = fixed_kind(att);
		if (att->attlen == -1)
		{
			fixed->n++;
			break;
		}
		offset = aligned + att->attlen;
	}
	return fixed;
}

/*
 * Take the first natts columns of a row apart; false when that needs heap's
 * own way.
 */
bool
fixed_columns_deform(const FixedColumns *fixed, HeapTupleHeader row, int natts,
					 Datum *values, bool *isnull)
{
	const char *data = (const char *) row + row->t_hoff;

	if (natts > fixed->n || (row->t_infomask & HEAP_HASNULL) != 0 ||
		HeapTupleHeaderGetNatts(row) < natts)
		return false;
	memset(isnull, 0, natts * sizeof(bool));
	for (int i = 0; i < natts; i++)
	{
		const char *at = data + fixed->columns[i].offset;

		switch (fixed->columns[i].kind)
		{
			case FIXED_1:
				values[i] = CharGetDatum(*at);
				break;
			case FIXED_2:
				values[i] = Int16GetDatum(*(const int16 *) at);
				break;
			case FIXED_4:
				values[i] = Int32GetDatum(*(const int32 *) at);
				break;
			case FIXED_8:
				values[i] = *(const Datum *) at;
				break;
			case FIXED_POINTER:
				values[i] = PointerGetDatum(at);
				break;
		}
	}
	return true;
}
