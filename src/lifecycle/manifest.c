/*-------------------------------------------------------------------------
 *
 * manifest.c
 *	  The definition of a table as JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lifecycle/snapshot.h"

/* See snapshot.h. */
json_t *
cmek_manifest_make(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("snapshots cannot be taken in this build")));
}

/* See snapshot.h. */
TupleDesc
cmek_manifest_row_desc(const json_t *manifest)
{
	return NULL;
}

/* See snapshot.h. */
Oid
cmek_recreate_table(const json_t *manifest, const char *schema,
					const char *name, const char *key, Oid owner)
{
	return InvalidOid;
}

/* See snapshot.h. */
List *
cmek_recreate_rest(const json_t *manifest, Oid relid)
{
	return NIL;
}
