/*-------------------------------------------------------------------------
 *
 * internal.h
 *	  What the files of the sealed heap share.  See README in this folder.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_HEAP_INTERNAL_H
#define CMEK_HEAP_INTERNAL_H

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"

#include "compat.h"
#include "format.h"
#include "heap/heap.h"
#include "keys/keys.h"

/* Stock heap */
extern const TableAmRoutine *cmek_stock_heap;

/* Descriptor of a sealed row: no attributes */
extern TupleDesc cmek_sealed_desc;

/*
 * A TOAST table of ours holds ordinary rows (only chunk_data is sealed), so
 * stock heap does for it whatever it does for its own.
 */
static inline bool
is_toast_table(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_TOASTVALUE;
}

/* ---------- access.c: who may touch a row at all ---------- */
/* Are we called with a buffer locked?  (Every LWLock holds interrupts.) */
static inline bool
heap_holds_lwlock(void)
{
	return InterruptHoldoffCount > 0;
}

extern CmekKeyRing *heap_key_for_read_slow(Relation rel);
extern CmekKeyRing *heap_key_for_write(Relation rel);

/* The ring for reading; see heap_key_for_read_slow */
static inline CmekKeyRing *
heap_key_for_read(Relation rel)
{
	CmekRelCache *cache = (CmekRelCache *) rel->rd_amcache;

	if (likely(cache != NULL && cmek_keyring_is_good(cache->ring)))
		return cache->ring;
	return heap_key_for_read_slow(rel);
}

/* ---------- exposure.c ---------- */
extern void exposure_check_write(Relation rel);
extern void exposure_analyze(Relation rel);
extern void exposure_init(void);

/* ---------- seal.c: rows ---------- */
extern HeapTuple row_seal(Relation rel, HeapTuple logical);
extern void row_seal_into(CmekKeyRing *ring, HeapTupleHeader sealed,
						  HeapTuple logical);
extern Size row_plain_len(CmekKeyRing *ring, HeapTuple sealed);
extern bool row_try_open_into(CmekKeyRing *ring, HeapTuple sealed, char *plain);
extern HeapTuple row_copy_locked(HeapTuple tuple, Buffer buf);
extern bool row_try_open_from_buffer(CmekKeyRing *ring, HeapTuple sealed,
									 Buffer buf, char *plain);
extern bool row_open_quickly(CmekKeyRing *ring, HeapTuple sealed,
							 char *plain);
extern void row_open_from_buffer(CmekKeyRing *ring, HeapTuple sealed,
								 Buffer buf, char *plain);
extern uint32 row_dek_id(HeapTupleHeader sealed);
extern bool row_reseal(const CmekDek *from, const CmekDek *to,
					   HeapTuple sealed, char *hidden);
extern HeapTuple row_open(Relation rel, HeapTuple sealed);
extern HeapTuple row_fetch(Relation rel, ItemPointer tid);
extern HeapTuple row_fetch_doomed(Relation rel, ItemPointer tid);
extern void row_copy_mvcc(HeapTuple logical, HeapTuple sealed);

/* Bytes of a sealed row */
static inline Size
row_sealed_len(HeapTuple logical)
{
	return logical->t_len + CMEK_ROW_OVERHEAD;
}

/* ---------- slot.c ---------- */
extern const TupleTableSlotOps cmek_slot_ops;

#define IS_SEALED_SLOT(slot) ((slot)->tts_ops == &cmek_slot_ops)

extern TupleTableSlot *slot_inner(TupleTableSlot *slot);
extern void slot_take_inner(TupleTableSlot *slot, Relation rel,
							CmekKeyRing *ring);
extern void slot_begin_page(TupleTableSlot *slot, HeapScanDesc scan);
extern bool slot_next_on_page(TupleTableSlot *slot, HeapScanDesc scan,
							  CmekKeyRing *ring);
extern void slot_set_columns_unused(TupleTableSlot *slot);

/* ---------- deform.c: columns at fixed offsets ---------- */
typedef struct FixedColumns FixedColumns;

extern FixedColumns *fixed_columns_create(TupleDesc desc,
										  MemoryContext context);
extern bool fixed_columns_deform(const FixedColumns *fixed,
								 HeapTupleHeader row, int natts,
								 Datum *values, bool *isnull);

/* ---------- unused.c: plans that read no column ---------- */
extern void unused_init(void);

/* ---------- shadow.c ---------- */
/* Which sets of indexed columns an UPDATE changes */
typedef struct ColumnChange
{
	bool		hot_blocking;
	bool		summarized;
	bool		key;
} ColumnChange;

/* For the length of one call: on the caller's stack */
typedef struct ShortShadow
{
	RelationData rel;
	FormData_pg_class form;
} ShortShadow;

extern Relation shadow_short(ShortShadow *shadow, Relation rel,
							 const ColumnChange *change);

/* For scans opened on it: memory that outlives an abort's clean-up */
typedef struct LongShadow LongShadow;

extern LongShadow *shadow_long_begin(Relation rel, bool opaque);
extern Relation shadow_long_relation(LongShadow *shadow);
extern void shadow_long_end(LongShadow *shadow);
extern void shadow_init(void);

/* ---------- toast.c ---------- */
/* What the toaster did, so that it can be finished or taken back */
typedef struct ToastWork
{
	List	   *created;		/* pointers to values it stored */
	List	   *replaced;		/* pointers to values of the old row */
} ToastWork;

extern bool toast_is_needed(HeapTuple newtup, HeapTuple oldtup);
extern HeapTuple toast_row(Relation rel, HeapTuple newtup, HeapTuple oldtup,
						   int options, ToastWork *work);
extern void toast_commit(Relation rel, ToastWork *work);
extern void toast_undo(Relation rel, ToastWork *work);
extern void toast_delete_row(Relation rel, HeapTuple row, bool speculative);
extern void cmek_fetch_toast_slice(Relation toastrel, Oid valueid,
								   int32 attrsize, int32 sliceoffset,
								   int32 slicelength, struct varlena *result);

/* Plaintext bytes in chunk "seq" of a value */
static inline int32
chunk_plain_len(int32 seq, int32 total)
{
	return Min((int32) CMEK_CHUNK_PLAIN, total - seq * (int32) CMEK_CHUNK_PLAIN);
}

extern bool chunk_open(CmekKeyRing *ring, char *out, const char *sealed,
					   int32 len, Oid valueid, int32 seq, int32 total);
extern bool chunk_is_good(CmekKeyRing *ring, struct varlena *chunk,
						  Oid valueid, int32 seq, int32 total);
extern HeapTuple chunk_copy_locked(SysScanDesc scan, HeapTuple chunk);
extern uint32 chunk_dek_id(struct varlena *chunk);
extern bool chunk_reseal(const CmekDek *from, const CmekDek *to,
						 struct varlena *chunk, Oid valueid, int32 seq,
						 int32 total);

/* ---------- reseal.c: old rows under the current data keys ---------- */
typedef struct ResealPass
{
	Oid			relid;
	List	   *old;			/* ids of the data keys to be replaced */
	/* what file is read; a change means that rows may have moved */
	Oid			heap_file;
	Oid			toast;
	Oid			toast_file;
	/* how far it has come */
	bool		in_toast;
	BlockNumber block;			/* the next one */
	uint64		blocks_done;
	/* what it met */
	uint64		resealed;
	uint64		dead;			/* did not open, and nobody needs them soon */
	uint64		damaged;
} ResealPass;

typedef enum ResealResult
{
	RESEAL_MORE,				/* call again, in the next transaction */
	RESEAL_END,
	RESEAL_KEY_FULL,			/* make a next generation, then call again */
	RESEAL_MOVED,				/* begin a new pass */
	RESEAL_GONE					/* no such table any more */
} ResealResult;

extern ResealResult reseal_begin(ResealPass *pass, uint64 *blocks);
extern ResealResult reseal_batch(ResealPass *pass);
extern ResealResult reseal_retire(ResealPass *pass);
extern bool reseal_knows_table(Relation rel);

/* renew.c: the procedures around it */
extern void renew_init(void);

/* ---------- read.c, write.c, build.c, rewrite.c ---------- */
extern void read_set_callbacks(TableAmRoutine *am);
extern void write_set_callbacks(TableAmRoutine *am);
extern void build_set_callbacks(TableAmRoutine *am);
extern void rewrite_set_callbacks(TableAmRoutine *am);

/* ---------- vacuum.c ---------- */
extern void vacuum_set_callbacks(TableAmRoutine *am);

#endif							/* CMEK_HEAP_INTERNAL_H */
