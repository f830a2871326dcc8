/*-------------------------------------------------------------------------
 *
 * column.c
 *	  The real types of a sealed index's columns, and how they are compared.
 *
 * Works with any operator class whose support function 1 compares: btree's
 * own, and those of cmek_btree that were made after them.  Looks into the
 * catalogs, so it is for entry points, never for a comparison under way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "btree/internal.h"

/* The order function for two types of a column's operator family */
static void
column_find_proc(BtColumn *column, Oid left, Oid right, FmgrInfo *function)
{
	Oid			proc = get_opfamily_proc(column->opfamily, left, right,
										 BTORDER_PROC);

	if (!OidIsValid(proc))
		elog(ERROR, "missing support function %d(%u,%u) in operator family %u",
			 BTORDER_PROC, left, right, column->opfamily);
	fmgr_info_cxt(proc, function, column->index->context);
}

/* Is the comparison function of a column one of those that need no call? */
static BtOrder
column_order(const BtColumn *column)
{
	PGFunction	function = column->compare.fn_addr;

	if (function == btint2cmp)
		return BT_ORDER_INT16;
	if (function == btint4cmp || function == date_cmp)
		return BT_ORDER_INT32;
	if (function == btint8cmp || function == timestamp_cmp)
		return BT_ORDER_INT64;
	return BT_ORDER_CALL;
}

/* Take in what the index says of a column */
void
bt_column_init(BtColumn *column, BtIndex *index, Relation real,
			   AttrNumber attno)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(real), attno - 1);

	column->tag = T_Invalid;
	column->attno = attno;
	column->key = attno <= IndexRelationGetNumberOfKeyAttributes(real);
	bt_cookie_make();
	memcpy(column->cookie, bt_cookie, BT_COOKIE_LEN);
	column->index = index;
	column->type = att->atttypid;
	column->typlen = att->attlen;
	column->typbyval = att->attbyval;
	column->typalign = att->attalign;
	column->typstorage = att->attstorage;
	column->compression = att->attcompression;
	column->aad_dek = -1;
	column->sealed_len = CMEK_INDEX_SEALED_LEN(att->attlen);
	if (!column->key)
		return;
	column->opfamily = real->rd_opfamily[attno - 1];
	column->opcintype = real->rd_opcintype[attno - 1];
	column->collation = real->rd_indcollation[attno - 1];
	column_find_proc(column, column->opcintype, column->opcintype,
					 &column->compare);
	column->order = column_order(column);
}

/* Does it still say the same? */
bool
bt_column_fits(const BtColumn *column, Relation real)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(real),
										  column->attno - 1);

	return column->type == att->atttypid &&
		column->compression == att->attcompression &&
		(!column->key ||
		 (column->opfamily == real->rd_opfamily[column->attno - 1] &&
		  column->opcintype == real->rd_opcintype[column->attno - 1] &&
		  column->collation == real->rd_indcollation[column->attno - 1]));
}

/* The function that compares two types, which may be those of an operator */
FmgrInfo *
bt_column_proc(BtColumn *column, Oid left, Oid right)
{
	BtProc	   *proc;

	if (left == column->opcintype && right == column->opcintype)
		return &column->compare;
	for (proc = column->others; proc != NULL; proc = proc->next)
		if (proc->left == left && proc->right == right)
			return &proc->function;
	proc = MemoryContextAllocZero(column->index->context, sizeof(BtProc));
	proc->left = left;
	proc->right = right;
	column_find_proc(column, left, right, &proc->function);
	proc->next = column->others;
	column->others = proc;
	return &proc->function;
}
