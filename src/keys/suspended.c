/*-------------------------------------------------------------------------
 *
 * suspended.c
 *	  Rows of cmek.suspended_key, one for each KMS key that is suspended in
 *	  this database.
 *
 * The only file that knows the columns of this table.  It is read like a
 * system catalog, with a snapshot of its own for every look: the answer is as
 * of now, in whatever transaction, and on a standby as of what was replayed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "keys/internal.h"

enum
{
	Anum_suspended_key_server = 1,
	Anum_suspended_key_since,
	Anum_suspended_key_suspended_by,
	Natts_suspended_key = Anum_suspended_key_suspended_by
};

typedef struct RowScan
{
	Relation	rel;			/* NULL: there is no such table */
	SysScanDesc scan;
	NameData	name;
} RowScan;

/* Begin to look for the row of a server; returns it, or NULL. */
static HeapTuple
begin_scan(RowScan *s, const char *server, LOCKMODE lockmode)
{
	Oid			namespace = get_namespace_oid("cmek", true);
	Oid			table = InvalidOid;
	Oid			index = InvalidOid;
	ScanKeyData key;

	s->rel = NULL;
	if (OidIsValid(namespace))
	{
		table = get_relname_relid("suspended_key", namespace);
		index = get_relname_relid("suspended_key_pkey", namespace);
	}
	/* the extension is being dropped, or was never there */
	if (!OidIsValid(table) || !OidIsValid(index))
		return NULL;
	namestrcpy(&s->name, server);
	ScanKeyInit(&key, Anum_suspended_key_server, BTEqualStrategyNumber,
				F_NAMEEQ, NameGetDatum(&s->name));
	s->rel = table_open(table, lockmode);
	s->scan = cmek_key_scan(s->rel, index, true, NULL, 1, &key);
	return cmek_key_scan_next(s->scan);
}

/* End it, keeping a lock for writing. */
static void
end_scan(RowScan *s, LOCKMODE lockmode)
{
	if (s->rel == NULL)
		return;
	systable_endscan(s->scan);
	table_close(s->rel, lockmode == AccessShareLock ? lockmode : NoLock);
}

/* Is a server suspended in this database, since when and by whom? */
bool
cmek_suspended_row_find(const char *server, CmekSuspension *suspension)
{
	RowScan		s;
	HeapTuple	tuple = begin_scan(&s, server, AccessShareLock);
	bool		found = HeapTupleIsValid(tuple);

	if (found)
	{
		TupleDesc	desc = RelationGetDescr(s.rel);
		bool		isnull;

		suspension->everywhere = false;
		suspension->since = DatumGetTimestampTz(heap_getattr(tuple, Anum_suspended_key_since,
															 desc, &isnull));
		strlcpy(suspension->by,
				NameStr(*DatumGetName(heap_getattr(tuple, Anum_suspended_key_suspended_by,
												   desc, &isnull))),
				NAMEDATALEN);
	}
	end_scan(&s, AccessShareLock);
	return found;
}

/* Store a suspension. */
void
cmek_suspended_row_insert(const char *server, const CmekSuspension *suspension)
{
	Oid			table = get_relname_relid("suspended_key",
										  get_namespace_oid("cmek", false));
	Relation	rel = table_open(table, RowExclusiveLock);
	Datum		values[Natts_suspended_key];
	bool		nulls[Natts_suspended_key] = {false};
	NameData	name;
	NameData	by;

	namestrcpy(&name, server);
	namestrcpy(&by, suspension->by);
	values[Anum_suspended_key_server - 1] = NameGetDatum(&name);
	values[Anum_suspended_key_since - 1] = TimestampTzGetDatum(suspension->since);
	values[Anum_suspended_key_suspended_by - 1] = NameGetDatum(&by);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel),
											values, nulls));
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Remove a suspension; false when there was none. */
bool
cmek_suspended_row_delete(const char *server)
{
	RowScan		s;
	HeapTuple	tuple = begin_scan(&s, server, RowExclusiveLock);
	bool		found = HeapTupleIsValid(tuple);

	if (found)
		CatalogTupleDelete(s.rel, &tuple->t_self);
	end_scan(&s, RowExclusiveLock);
	if (found)
		CommandCounterIncrement();
	return found;
}
