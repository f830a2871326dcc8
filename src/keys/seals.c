/*-------------------------------------------------------------------------
 *
 * seals.c
 *	  How many values a data key has sealed.
 *
 * Owns cmek.data_key_seals: one row for each data key, with the number of
 * seals that backends have reserved.  A backend reserves before it seals, so
 * a crash loses reservations that were not used, never the count.
 *
 * A reservation must outlive the transaction it is made in, so it changes the
 * row in place, under the lock of its buffer, and flushes the log.  Nothing
 * ever updates such a row by transaction, so there is never a second version
 * of it that could miss a change; that is why the count is not a column of
 * cmek.data_key, which a key switch does update.  The page is logged whole:
 * hint bits differ on a standby, and a delta would show them to
 * wal_consistency_checking.
 *
 * Nobody may hold a buffer lock when reserving.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/generic_xlog.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "keys/internal.h"

/* A row; both columns are fixed, so it is also what a tuple's data look like */
typedef struct SealsRow
{
	uint32		id;
	int64		reserved;
} SealsRow;

#define Anum_seals_id 1
#define Anum_seals_reserved 2
#define Natts_seals 2

/* What is reserved at once: little at first, since most sessions seal little */
#define FIRST_STEP 1024
#define LAST_STEP (1 << 20)

/* Begin a scan for the row of a data key. */
static SysScanDesc
scan_seals(Relation rel, uint32 dek_id, Snapshot snapshot)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_seals_id, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum((int32) dek_id));
	return cmek_key_scan(rel, cmek_require_relation("data_key_seals_pkey"),
						 true, snapshot, 1, &key);
}

/* Make the row of a new data key. */
void
cmek_seals_insert(uint32 dek_id)
{
	Relation	rel = table_open(cmek_require_relation("data_key_seals"), RowExclusiveLock);
	Datum		values[Natts_seals];
	bool		nulls[Natts_seals] = {false};
	HeapTuple	tuple;

	values[Anum_seals_id - 1] = Int32GetDatum((int32) dek_id);
	values[Anum_seals_reserved - 1] = Int64GetDatum(0);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
}

/* Delete the row of a data key that goes. */
void
cmek_seals_delete(uint32 dek_id)
{
	Relation	rel = table_open(cmek_require_relation("data_key_seals"), RowExclusiveLock);
	SysScanDesc scan = scan_seals(rel, dek_id, NULL);
	HeapTuple	tuple = cmek_key_scan_next(scan);

	if (HeapTupleIsValid(tuple))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
}

/* What a backend would like to reserve now. */
static int64
wanted(const CmekDek *dek, int64 need)
{
	int64		step = dek->seals_step == 0 ? FIRST_STEP : dek->seals_step * 2;

	step = Min(step, LAST_STEP);
	step = Min(step, cmek_data_key_max_seals / 16);
	return Max(step, need - dek->seals_left);
}

/*
 * Add to the count in a row, on a copy of its page: as much as is wanted, or
 * what is left to the limit, but not less than "least".  Returns how much.
 */
static int64
add_to_row(HeapTupleHeader row, int64 want, int64 least, int64 limit)
{
	char	   *place = (char *) row + row->t_hoff + offsetof(SealsRow, reserved);
	int64		reserved;

	memcpy(&reserved, place, sizeof(reserved));
	want = Min(want, limit - reserved);
	if (want < least)
		return 0;
	reserved += want;
	memcpy(place, &reserved, sizeof(reserved));
	return want;
}

/* The same in the table, durably. */
static int64
add_in_place(Relation rel, HeapTuple tuple, Buffer buf, int64 want,
			 int64 least, int64 limit)
{
	GenericXLogState *xlog;
	Page		page;
	int64		added;

	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	xlog = GenericXLogStart(rel);
	page = GenericXLogRegisterBuffer(xlog, buf, GENERIC_XLOG_FULL_IMAGE);
	added = add_to_row((HeapTupleHeader)
					   PageGetItem(page,
								   PageGetItemId(page,
												 ItemPointerGetOffsetNumber(&tuple->t_self))),
					   want, least, limit);
	if (added > 0)
	{
		XLogRecPtr	lsn = GenericXLogFinish(xlog);

		LockBuffer(buf, BUFFER_LOCK_UNLOCK);
		XLogFlush(lsn);
	}
	else
	{
		GenericXLogAbort(xlog);
		LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	}
	return added;
}

/*
 * Reserve seals of a data key, so that this backend has "need" of them; false
 * when that would lead beyond a limit.
 */
static bool
reserve(CmekDek *dek, int64 need, int64 limit)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	Snapshot	snapshot;
	int64		added;

	if (dek->seals_left >= need)
		return true;
	rel = table_open(cmek_require_relation("data_key_seals"), RowExclusiveLock);
	snapshot = RegisterSnapshot(GetCatalogSnapshot(RelationGetRelid(rel)));
	scan = scan_seals(rel, dek->id, snapshot);
	tuple = cmek_key_scan_next(scan);
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "seals of data key %u are not counted", dek->id);
	added = add_in_place(rel, tuple,
						 ((BufferHeapTupleTableSlot *) scan->slot)->buffer,
						 wanted(dek, need), need - dek->seals_left, limit);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, RowExclusiveLock);
	if (added == 0)
		return false;
	dek->seals_left += added;
	dek->seals_step = added;
	return true;
}

/* The data key of a ring that seals new values. */
static CmekDek *
current_dek(CmekKeyRing *ring, CmekStructureKind kind)
{
	CmekDek    *dek = cmek_keyring_current(ring, kind);

	/* taken away since the caller acquired the ring */
	if (dek == NULL)
	{
		cmek_keyring_reload(ring);
		dek = cmek_keyring_current(ring, kind);
	}
	return dek;
}

/* How a next generation can be made from inside this transaction */
typedef enum NextWay
{
	NEXT_MYSELF,				/* no other can write before we commit */
	NEXT_WORKER,
	NEXT_NONE
} NextWay;

/*
 * Which way is it?  The worker takes ShareUpdateExclusiveLock: waiting for it
 * while holding a lock that it conflicts with would be waiting for ourselves.
 * In parallel mode nothing can be written to the catalogs.
 */
static NextWay
next_way(Oid relid)
{
	Relation	rel = RelationIdGetRelation(relid);
	NextWay		way = NEXT_WORKER;

	if (!RelationIsValid(rel))
		return NEXT_NONE;
	if (CheckRelationLockedByMe(rel, ShareLock, true))
		way = IsInParallelMode() ? NEXT_NONE : NEXT_MYSELF;
	else if (CheckRelationLockedByMe(rel, ShareUpdateExclusiveLock, false))
		way = NEXT_NONE;
	RelationClose(rel);
	return way;
}

/* Have a next generation made and the ring know it; false: go on without. */
static bool
make_next(CmekKeyRing *ring, CmekStructureKind kind)
{
	uint32		full = current_dek(ring, kind)->id;

	/* somebody else may have made it */
	cmek_keyring_reload(ring);
	if (current_dek(ring, kind)->id != full)
		return true;
	switch (next_way(ring->relid))
	{
		case NEXT_MYSELF:
			cmek_keys_rotate_data_keys(ring->relid, full);
			break;
		case NEXT_WORKER:
			if (!cmek_renew_start(CMEK_RENEW_ROTATE, ring->relid, full, true))
				return false;
			break;
		case NEXT_NONE:
			return false;
	}
	cmek_keyring_reload(ring);
	return current_dek(ring, kind)->id != full;
}

/* Fail because a data key has sealed as much as it ever may. */
static void
report_exhausted(CmekKeyRing *ring)
{
	const char *name = OidIsValid(ring->relid) ? get_rel_name(ring->relid) : NULL;

	if (!OidIsValid(ring->relid))
		ereport(ERROR,
				(errcode(CMEK_ERRCODE_KEY_EXHAUSTED),
				 errmsg("the data key of temporary tables has sealed 2^32 values"),
				 errhint("Start a new session.")));
	ereport(ERROR,
			(errcode(CMEK_ERRCODE_KEY_EXHAUSTED),
			 errmsg("the data key of table \"%s\" has sealed 2^32 values",
					name ? name : "?"),
			 errdetail("The next data key could not be made when it was due."),
			 errhint("CALL cmek.rotate_data_key('%s');", name ? name : "?")));
}

/* See keys.h. */
void
cmek_seals_reserve_index(CmekKeyRing *ring, CmekDek *dek, int64 need)
{
	const char *table;
	const char *index;

	if (!OidIsValid(ring->relid))
		report_exhausted(ring);
	if (reserve(dek, need, CMEK_SEALS_HARD_LIMIT))
		return;
	table = get_rel_name(ring->relid);
	index = get_rel_name(dek->index);
	ereport(ERROR,
			(errcode(CMEK_ERRCODE_KEY_EXHAUSTED),
			 errmsg("the data key of index \"%s\" has sealed 2^32 values",
					index ? index : "?"),
			 errdetail("The index is on table \"%s\".", table ? table : "?"),
			 errhint("REINDEX INDEX %s;", index ? index : "...")));
}

/* See keys.h. */
CmekDek *
cmek_seals_try_reserve(CmekKeyRing *ring, CmekStructureKind kind, int64 need)
{
	CmekDek    *dek = current_dek(ring, kind);

	/* what is needed for one page at once is given, whatever the setting */
	return reserve(dek, need, Max(cmek_data_key_max_seals, need)) ? dek : NULL;
}

/* See keys.h. */
CmekDek *
cmek_seals_reserve(CmekKeyRing *ring, CmekStructureKind kind, int64 need)
{
	CmekDek    *dek;

	if (!OidIsValid(ring->relid))
		report_exhausted(ring);
	/* others may have used up the next one by the time we know it */
	do
	{
		dek = cmek_seals_try_reserve(ring, kind, need);
	} while (dek == NULL && make_next(ring, kind));
	if (dek == NULL)
	{
		dek = current_dek(ring, kind);
		if (!reserve(dek, need, CMEK_SEALS_HARD_LIMIT))
			report_exhausted(ring);
	}
	return dek;
}
