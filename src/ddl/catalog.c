/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Reading pg_class.
 *
 * Relations are found by OID only; nothing here depends on search_path, takes
 * a lock or checks a permission.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "ddl/statement.h"
#include "heap/heap.h"

/* Copy what matters out of a pg_class row */
static void
class_fill(CmekClass *cls, Oid relid, Form_pg_class form)
{
	cls->relid = relid;
	cls->relnamespace = form->relnamespace;
	cls->relam = form->relam;
	cls->relowner = form->relowner;
	cls->relrewrite = form->relrewrite;
	cls->relkind = form->relkind;
	cls->relpersistence = form->relpersistence;
	cls->relispartition = form->relispartition;
	cls->relname = form->relname;
}

/* The relation as the catalog shows it; false when there is none */
bool
cmek_class_get(Oid relid, CmekClass *cls)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		return false;
	class_fill(cls, relid, (Form_pg_class) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return true;
}

/*
 * The same for a relation that this command is just making: its pg_class row
 * is not visible yet, but its relcache entry is complete as far as we look.
 */
bool
cmek_class_get_new(Oid relid, CmekClass *cls)
{
	Relation	rel = RelationIdGetRelation(relid);

	if (!RelationIsValid(rel))
		return false;
	class_fill(cls, relid, rel->rd_rel);
	RelationClose(rel);
	return true;
}

/* Is its access method cmek_heap? */
bool
cmek_class_is_sealed(const CmekClass *cls)
{
	return OidIsValid(cls->relam) && cls->relam == cmek_heap_am_oid();
}

/* OID of access method cmek_btree, InvalidOid when there is no extension */
Oid
cmek_sealed_index_method(void)
{
	return get_index_am_oid(CMEK_BTREE_NAME, true);
}

/* Is it a table or a materialized view? */
bool
cmek_class_has_rows(const CmekClass *cls)
{
	return cls->relkind == RELKIND_RELATION || cls->relkind == RELKIND_MATVIEW;
}

/* Any relation of access method cmek_heap, its TOAST aside */
bool
cmek_class_find_sealed(CmekClass *cls)
{
	Relation	pg_class;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		found = false;
	Oid			am = cmek_heap_am_oid();

	if (!OidIsValid(am))
		return false;
	ScanKeyInit(&key, Anum_pg_class_relam, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(am));
	pg_class = table_open(RelationRelationId, AccessShareLock);
	scan = systable_beginscan(pg_class, InvalidOid, false, NULL, 1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind == RELKIND_TOASTVALUE)
			continue;
		class_fill(cls, form->oid, form);
		found = true;
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	return found;
}
