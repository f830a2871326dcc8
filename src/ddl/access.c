/*-------------------------------------------------------------------------
 *
 * access.c
 *	  The object access hook: what core tells of relations and servers that
 *	  come, go or get a parent.
 *
 * Chained: the previous hook goes first.  Called in the middle of core's own
 * work, so only OIDs are taken from it and nothing is assumed visible.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "ddl/statement.h"

static object_access_hook_type previous_hook = NULL;

/* A relation was made */
static void
access_relation_made(Oid relid, bool internal)
{
	CmekClass	cls;

	if (!cmek_class_get_new(relid, &cls))
		return;
	if (cls.relkind == RELKIND_INDEX ||
		cls.relkind == RELKIND_PARTITIONED_INDEX)
		cmek_index_made(relid, internal);
	else if (!IsBinaryUpgrade)
		cmek_create_table_made(relid);
}

/* An object is about to go */
static void
access_drop(Oid classId, Oid objectId)
{
	if (classId == RelationRelationId)
	{
		cmek_pose_leave(objectId);
		cmek_drop_table(objectId);
	}
	else if (classId == ForeignServerRelationId)
		cmek_drop_server(objectId);
}

/* A relation gained or lost a parent; core has locked both */
static void
access_child(Oid child, Oid parent)
{
	cmek_partition_check_child(child, parent);
	/* core goes on to compare its indexes with the partitioned ones */
	if (cmek_alter_attaches(cmek_statement))
		cmek_pose_tree(child, AccessShareLock);
}

/* The hook */
static void
access_hook(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			void *arg)
{
	if (previous_hook)
		previous_hook(access, classId, objectId, subId, arg);

	if (subId != 0 || IsBootstrapProcessingMode())
		return;
	if (access == OAT_POST_CREATE && classId == RelationRelationId)
		access_relation_made(objectId,
							 ((ObjectAccessPostCreate *) arg)->is_internal);
	else if (access == OAT_DROP)
		access_drop(classId, objectId);
	else if (access == OAT_POST_ALTER && classId == InheritsRelationId)
		access_child(objectId, ((ObjectAccessPostAlter *) arg)->auxiliary_id);
}

/* Install the hook */
void
cmek_access_init(void)
{
	previous_hook = object_access_hook;
	object_access_hook = access_hook;
}
