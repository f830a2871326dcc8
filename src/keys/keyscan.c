/*-------------------------------------------------------------------------
 *
 * keyscan.c
 *	  Scans of our own catalogs.
 *
 * Whoever reads a sealed table reads key rows.  Our catalogs are ordinary
 * tables to core, which would remember that reading of a serializable
 * transaction (SSI) and could fail it because somebody made or rotated a key
 * meanwhile, as it never does for reading a system catalog.  So a scan here is
 * one of SnapshotAny, which leaves no predicate lock, and what the snapshot
 * does not see is passed over by ourselves.
 *
 * Must never be used for tables of others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "keys/internal.h"

/* See keys.h. */
SysScanDesc
cmek_key_scan(Relation rel, Oid index, bool use_index, Snapshot snapshot,
			  int nkeys, ScanKey keys)
{
	SysScanDesc scan = systable_beginscan(rel, index, use_index, SnapshotAny,
										  nkeys, keys);

	if (snapshot == NULL)
		snapshot = GetCatalogSnapshot(RelationGetRelid(rel));
	/* systable_endscan unregisters it */
	scan->snapshot = RegisterSnapshot(snapshot);
	return scan;
}

/* See keys.h. */
HeapTuple
cmek_key_scan_next(SysScanDesc scan)
{
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (table_tuple_satisfies_snapshot(scan->heap_rel, scan->slot,
										   scan->snapshot))
			return tuple;
	}
	return NULL;
}

/* See keys.h. */
Datum
cmek_key_attr(HeapTuple tuple, int attnum, TupleDesc desc)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("column \"%s\" of a key row is missing",
						NameStr(TupleDescAttr(desc, attnum - 1)->attname))));
	return value;
}
