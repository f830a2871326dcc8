/*-------------------------------------------------------------------------
 *
 * btree/internal.h
 *	  What the files of the sealed b-tree share.  See README in this folder.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_BTREE_INTERNAL_H
#define CMEK_BTREE_INTERNAL_H

#include "access/amapi.h"
#include "access/genam.h"
#include "access/itup.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/tupmacs.h"
#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/sortsupport.h"

#include "btree/btree.h"
#include "compat.h"
#include "format.h"
#include "keys/keys.h"

/* Random bytes of a process (datum.c) */
#define BT_COOKIE_LEN 16

/*
 * The collation of a shadow's columns.  No sort that SQL begins has one on
 * cmek.sealed, which cannot be collated: so sort.c knows nbtree's, and ours.
 */
#define BT_SEALED_COLLATION DEFAULT_COLLATION_OID

/* How to compare two types of a column's operator family */
typedef struct BtProc
{
	Oid			left;
	Oid			right;
	FmgrInfo	function;
	struct BtProc *next;
} BtProc;

struct BtIndex;

/* Comparison functions that are so simple that we do without the call */
typedef enum BtOrder
{
	BT_ORDER_CALL,				/* none of them: call it */
	BT_ORDER_INT16,
	BT_ORDER_INT32,
	BT_ORDER_INT64
} BtOrder;

/*
 * A column of a sealed index: its real type.  nbtree copies FmgrInfos and
 * clears their fn_extra, but keeps fn_expr; so that is where our comparison
 * functions find their column, told from an expression by the cookie.
 */
typedef struct BtColumn
{
	NodeTag		tag;			/* no node's */
	AttrNumber	attno;
	bool		key;			/* or INCLUDEd */
	uint8		cookie[BT_COOKIE_LEN];
	struct BtIndex *index;
	/* what is stored */
	Oid			type;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	char		typstorage;
	char		compression;
	int16		sealed_len;		/* of its sealed datums; -1: varlenas */
	/* how it is sorted; keys only */
	Oid			opfamily;
	Oid			opcintype;
	Oid			collation;
	FmgrInfo	compare;		/* opcintype, opcintype */
	BtOrder		order;			/* what "compare" does */
	BtProc	   *others;
	/* its associated data, for the DEK of this id; -1: not made yet */
	int64		aad_dek;
	CmekIndexAad aad;
} BtColumn;

/* A sealed index, as this backend knows it */
typedef struct BtIndex
{
	Oid			relid;
	MemoryContext context;
	bool		check;			/* its definition may have changed */
	uint64		last_xact;		/* the last transaction that used it */
	int			natts;
	int			nkeyatts;
	BtColumn   *columns;
	/* its key */
	Oid			table;
	bool		temporary;
	CmekKeyRing *ring;			/* NULL: not asked for yet, or unbound */
	int			position;		/* of the DEK in it, most likely */
	uint32		dek_id;
	/* the shadow */
	RelationData shadow;
	FormData_pg_class form;
	bytea	   *options;
	Oid			sealed_type;
	Oid			opfamily;
	FmgrInfo	operators[BTMaxStrategyNumber + 1];
	FmgrInfo   *procs;			/* rd_supportinfo */
} BtIndex;

/*
 * What nbtree is doing for us right now: which index, in a scan its own scan of
 * the shadow, and for an insert or a build what was sealed a moment ago.  On the
 * stack of the entry point.
 */
typedef struct BtActivity
{
	BtIndex    *index;
	struct BtActivity *outer;
	IndexScanDesc scan;
	Datum	   *compared;		/* by the sort of a build, of each column */
	int			nvalues;
	Datum	   *plain;			/* values as they were sealed */
	Datum	   *sealed;			/* 0: NULL */
} BtActivity;

extern BtActivity *bt_activity;

static inline void
bt_activity_begin(BtActivity *activity, BtIndex *index)
{
	activity->index = index;
	activity->scan = NULL;
	activity->compared = NULL;
	activity->nvalues = 0;
	activity->outer = bt_activity;
	bt_activity = activity;
}

static inline void
bt_activity_end(BtActivity *activity)
{
	bt_activity = activity->outer;
}

/* ---------- index.c: indexes, their shadows and their keys ---------- */
extern void bt_sealed_attribute(TupleDesc desc, AttrNumber attno,
								const char *name, const BtColumn *column);
extern BtIndex *bt_enter_keyless(Relation real);
extern BtIndex *bt_enter(Relation real);
extern bool bt_planner_may_enter(Relation real);
extern CmekDek *bt_dek_moved(BtIndex *index);
extern void bt_index_init(void);

/* Is the DEK that we know still where we found it? */
static inline CmekDek *
bt_dek_at_position(const BtIndex *index)
{
	const CmekKeyRing *ring = index->ring;

	if (likely(index->position < ring->ndeks))
	{
		CmekDek    *dek = &ring->deks[index->position];

		if (likely(dek->id == index->dek_id &&
				   dek->kind == CMEK_STRUCTURE_INDEX))
			return dek;
	}
	return NULL;
}

/*
 * The DEK of an index that was entered, wherever the ring has it now: user
 * code inside a comparison may have had the ring read again.
 */
static inline CmekDek *
bt_dek(BtIndex *index)
{
	CmekDek    *dek = bt_dek_at_position(index);

	return likely(dek != NULL) ? dek : bt_dek_moved(index);
}

/* ---------- column.c: the real types ---------- */
extern void bt_column_init(BtColumn *column, BtIndex *index, Relation real,
						   AttrNumber attno);
extern bool bt_column_fits(const BtColumn *column, Relation real);
extern FmgrInfo *bt_column_proc(BtColumn *column, Oid left, Oid right);

/* ---------- datum.c: values and sealed datums ---------- */
/* Room for most opened values, on the stack */
typedef union BtBuffer
{
	char		bytes[256];
	int64		align_int;
	double		align_double;
} BtBuffer;

/*
 * A search argument among sealed datums: the value itself; never on disk.  The
 * cookie alone says that it is one: random bytes that are in this process only.
 * They stand where every sealed datum has bytes of its own.  The header is for
 * nbtree, which takes the members of an array for varlenas.
 */
typedef struct BtPlain
{
	int32		vl_len_;
	int32		unused;
	uint8		cookie[BT_COOKIE_LEN];
	BtColumn   *column;
	Datum		value;
	Oid			type;			/* of the operator family */
	FmgrInfo   *compare;		/* (opcintype, type) */
} BtPlain;

StaticAssertDecl(offsetof(BtPlain, cookie) + BT_COOKIE_LEN <=
				 CMEK_AEAD_OVERHEAD,
				 "no sealed datum ends before the place of the cookie");
StaticAssertDecl(CMEK_INDEX_FIXED_MAX <= sizeof(BtBuffer),
				 "values of fixed length fit");

extern uint8 bt_cookie[BT_COOKIE_LEN];
extern pid_t bt_cookie_owner;	/* for which process it was made */
extern void bt_cookie_make(void);
extern void bt_column_aad_make(BtColumn *column, const CmekDek *dek);
extern Datum bt_plain_argument(BtColumn *column, Datum value, Oid type,
							   BtPlain *room);

/* Is a datum a search argument?  If not, it is a sealed one. */
static inline bool
bt_is_plain(Datum datum)
{
	const char *bytes = DatumGetPointer(datum);

	/* nobody made an argument in a process without a cookie */
	return memcmp(bytes + offsetof(BtPlain, cookie), bt_cookie,
				  BT_COOKIE_LEN) == 0 && likely(bt_cookie_owner == MyProcPid);
}

/* nbtree puts arguments into arrays, where they are not aligned */
static inline bool
bt_is_aligned(Datum argument)
{
	return argument == TYPEALIGN(sizeof(Datum), argument);
}

/*
 * The search argument that a datum is, NULL when it is none; "room" is for a
 * copy of one that is not aligned.
 */
static inline const BtPlain *
bt_plain(Datum datum, BtPlain *room)
{
	const char *bytes = DatumGetPointer(datum);

	if (!bt_is_plain(datum))
		return NULL;
	if (unlikely(!bt_is_aligned(datum)))
		return memcpy(room, bytes, sizeof(BtPlain));
	return (const BtPlain *) bytes;
}

/* Is it as long as an argument?  For what may be no datum of ours at all. */
static inline bool
bt_may_be_plain(Datum datum)
{
	struct varlena *d = (struct varlena *) DatumGetPointer(datum);

	return VARATT_IS_4B_U(d) && VARSIZE_4B(d) == sizeof(BtPlain);
}

/*
 * Is this what we sealed a moment ago, for an insert or a build?  Nonces are
 * never the same.  Its value is at hand, then.
 */
static inline bool
bt_is_at_hand(const BtColumn *column, Datum sealed, Datum *value)
{
	const BtActivity *activity = bt_activity;
	int			i = column->attno - 1;
	const char *a = DatumGetPointer(sealed);
	const char *b;

	if (activity == NULL || activity->index != column->index ||
		activity->nvalues <= i || activity->sealed[i] == (Datum) 0)
		return false;
	b = DatumGetPointer(activity->sealed[i]);
	if (column->sealed_len < 0)
	{
		a = VARDATA_ANY(a);
		b = VARDATA_ANY(b);
	}
	if (memcmp(a, b, CMEK_NONCE_LEN) != 0)
		return false;
	*value = activity->plain[i];
	return true;
}

/*
 * Does a sealed datum, which was opened and so is as long as it says, end in
 * its entry?  The length of an entry is not sealed, and where it is too short
 * nbtree copies less than the datum.
 */
static inline bool
bt_ends_inside(const BtColumn *column, Datum sealed, IndexTuple entry)
{
	const char *start = DatumGetPointer(sealed);
	Size		len = column->sealed_len > 0 ? (Size) column->sealed_len :
		VARSIZE_ANY(start);

	return start + len <= (const char *) entry + IndexTupleSize(entry);
}

/*
 * The associated data of a column, made once: narrow stores just before the
 * cipher's wide load of them would make it wait.
 */
static inline const CmekIndexAad *
bt_column_aad(BtColumn *column, const CmekDek *dek)
{
	if (unlikely(column->aad_dek != dek->id))
		bt_column_aad_make(column, dek);
	return &column->aad;
}

/*
 * Open a sealed datum of a type passed by value, as most keys are: bt_open
 * without its choices.  False for other types, or when it does not authenticate.
 */
static inline bool
bt_open_byval(BtColumn *column, Datum sealed, Datum *value)
{
	CmekDek    *dek = bt_dek(column->index);
	Datum		room;

	if (!column->typbyval ||
		unlikely(!cmek_aead_open(dek->aead, &room,
								 (const uint8 *) DatumGetPointer(sealed),
								 column->typlen, bt_column_aad(column, dek),
								 sizeof(CmekIndexAad))))
		return false;
	cmek_counters.unseals++;
	*value = fetch_att(&room, true, column->typlen);
	return true;
}

extern Datum bt_stored_form(BtColumn *column, Datum value, Size *len);
extern bool bt_try_open(BtColumn *column, Datum sealed, char *room, Size size,
						Datum *value);
extern Datum bt_open(BtColumn *column, Datum sealed, BtBuffer *buffer,
					 void **allocated);
extern void bt_report_damaged(BtIndex *index);
extern void bt_seal_values(BtActivity *activity, Datum *values, bool *isnull,
						   Datum *plain, Datum *sealed);

/* ---------- compare.c, sort.c: what nbtree calls ---------- */
/* Fail because the caller is not nbtree */
extern void bt_report_no_datum(void);
extern int32 bt_compare_in(BtColumn *column, Datum a, Datum b);

/* ---------- scankey.c ---------- */
extern bool bt_key_needs_memory(ScanKey key);
extern void bt_convert_keys(BtIndex *index, ScanKey keys, int nkeys,
							ScanKey converted, BtPlain *arguments);

/* ---------- tid.c: permuted TIDs ---------- */
#define BT_TID_BATCH 8

extern void bt_hide_tid(BtIndex *index, ItemPointer tid);
extern void bt_show_tid(BtIndex *index, ItemPointer tid);
extern void bt_show_tids(BtIndex *index, ItemPointerData *tids, int n);

/* A table whose index functions take permuted TIDs */
typedef struct BtHeap
{
	RelationData rel;			/* must be first */
	TableAmRoutine routine;
	Relation	real;
	Relation	real_index;
	BtIndex    *index;
	BlockNumber new_block;		/* of the row that is inserted, if any */
} BtHeap;

extern Relation bt_heap_begin(BtHeap *heap, Relation real, Relation real_index,
							  BtIndex *index);

/* ---------- delete.c: entries that may go with killed ones ---------- */
extern void bt_add_neighbours(const BtHeap *heap, TM_IndexDeleteOp *op);

/* ---------- write.c, build.c, vacuum.c, scan.c ---------- */
extern bool bt_insert(Relation index, Datum *values, bool *isnull,
					  ItemPointer tid, Relation heap, IndexUniqueCheck unique,
					  bool unchanged, struct IndexInfo *info);
extern IndexBuildResult *bt_build(Relation heap, Relation index,
								  struct IndexInfo *info);
extern void bt_buildempty(Relation index);
extern bytea *bt_options(Datum reloptions, bool validate);
extern bytea *bt_default_options(void);
extern void bt_build_init(void);
extern IndexBulkDeleteResult *bt_bulkdelete(IndexVacuumInfo *info,
											IndexBulkDeleteResult *stats,
											IndexBulkDeleteCallback callback,
											void *state);
extern IndexBulkDeleteResult *bt_vacuumcleanup(IndexVacuumInfo *info,
											   IndexBulkDeleteResult *stats);
extern void bt_scan_set_callbacks(IndexAmRoutine *am);
extern IndexTuple bt_scan_entry(IndexScanDesc scan);
extern IndexTuple bt_open_tuple(BtIndex *index, TupleDesc desc,
								IndexTuple sealed);

/* ---------- cost.c ---------- */
extern void bt_cost_set_callback(IndexAmRoutine *am);

/* ---------- cluster.c ---------- */
extern void bt_cluster_init(void);

/* ---------- page.c, verify.c ---------- */
extern bool bt_page_is_sound(Page page);
extern bool bt_item_is_sound(Page page, ItemId id);
extern void bt_verify_init(void);

/* handler.c: is it one of ours? */
extern bool bt_is_sealed_index(Relation index);

#endif							/* CMEK_BTREE_INTERNAL_H */
