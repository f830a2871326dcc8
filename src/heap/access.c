/*-------------------------------------------------------------------------
 *
 * access.c
 *	  The gate in front of every row: no key, no access.
 *
 * Every scan, fetch, insert, update, delete and lock passes here before it
 * calls heap, whether or not it will look at a column.  Vacuum, truncation,
 * DROP, redo and a rewrite that copies rows as they are do without.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "heap/internal.h"

/*
 * The ring for reading, when the cached one will not do.  NULL for an unbound table, which never had a row;
 * ERROR when the key is away.
 *
 * A unique index looks for live duplicates with its leaf page locked: a place
 * to wait neither for a catalog nor for a KMS.  It asks for visibility only,
 * and the row it works for passed the gate when it was stored, so there a
 * lost lease is not renewed; whoever asked for a column would be refused.
 */
CmekKeyRing *
heap_key_for_read_slow(Relation rel)
{
	if (heap_holds_lwlock())
		return NULL;
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_TEMP &&
		!OidIsValid(rel->rd_rel->relrewrite) &&
		!cmek_table_is_bound(RelationGetRelid(rel)))
	{
		cmek_require_preload();
		return NULL;
	}
	return cmek_keyring_acquire_slow(rel);
}

/*
 * The ring for writing.  ERROR when the table is unbound, when its key is
 * away, or when logical decoding would lose the change.
 */
CmekKeyRing *
heap_key_for_write(Relation rel)
{
	exposure_check_write(rel);
	return cmek_keyring_acquire(rel);
}
