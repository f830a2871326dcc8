/*-------------------------------------------------------------------------
 *
 * partition.c
 *	  Sealed partitioned tables.
 *
 * A partitioned table is sealed by its label, or by its access method where
 * PostgreSQL lets it have one (17).  The invariant: every leaf below a sealed
 * partitioned table is sealed.  It is kept where a row enters pg_inherits
 * (so CREATE ... PARTITION OF, ATTACH and foreign partitions alike), where a
 * partitioned table becomes sealed, and where a leaf would stop being so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"

#include "ddl/statement.h"

/* Are partitions of this table to be sealed? */
bool
cmek_partition_parent_is_sealed(Oid parent)
{
	CmekClass	cls;

	return OidIsValid(parent) && cmek_class_get(parent, &cls) &&
		cls.relkind == RELKIND_PARTITIONED_TABLE &&
		(cmek_class_is_sealed(&cls) || cmek_label_get_key(parent) != NULL);
}

/* Does the relation keep its rows, or those of its partitions, sealed? */
static bool
partition_is_sealed(const CmekClass *cls)
{
	if (cls->relkind == RELKIND_PARTITIONED_TABLE)
		return cmek_partition_parent_is_sealed(cls->relid);
	return cmek_class_is_sealed(cls);
}

/* A table becomes a child of another; both rows of pg_class are visible */
void
cmek_partition_check_child(Oid child, Oid parent)
{
	CmekClass	cls;

	if (IsBinaryUpgrade || !cmek_partition_parent_is_sealed(parent) ||
		!cmek_class_get(child, &cls) || partition_is_sealed(&cls))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("table \"%s\" cannot be a partition of a sealed table",
					NameStr(cls.relname)),
			 errdetail("Its rows would be stored in clear."),
			 cls.relkind == RELKIND_RELATION ?
			 errhint("Use ALTER TABLE ... SET ACCESS METHOD %s first.",
					 CMEK_HEAP_NAME) :
			 cls.relkind == RELKIND_PARTITIONED_TABLE ?
			 errhint("Use ALTER TABLE ... SET (cmek.key = ...) first.") : 0));
}

/* A partitioned table becomes sealed: every leaf below it must be already */
void
cmek_partition_check_leaves(const CmekClass *parent)
{
	List	   *relids = find_all_inheritors(parent->relid,
											 ShareUpdateExclusiveLock, NULL);
	ListCell   *lc;

	foreach(lc, relids)
	{
		CmekClass	leaf;

		if (!cmek_class_get(lfirst_oid(lc), &leaf) ||
			leaf.relkind == RELKIND_PARTITIONED_TABLE ||
			cmek_class_is_sealed(&leaf))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" of table \"%s\" is not sealed",
						NameStr(leaf.relname), NameStr(parent->relname)),
				 errhint("Use ALTER TABLE ... SET ACCESS METHOD %s for every partition first.",
						 CMEK_HEAP_NAME)));
	}
}
