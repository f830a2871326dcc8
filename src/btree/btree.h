/*-------------------------------------------------------------------------
 *
 * btree.h
 *	  Sealed b-trees, as the other folders see them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_BTREE_H
#define CMEK_BTREE_H

/* Hooks and callbacks; called once by _PG_init */
extern void cmek_btree_init(void);

/* The height of a sealed index, as nbtree tells the planner */
extern int	cmek_btree_height(Oid indexid);

/*
 * The table of an index whose row in pg_index may not be visible yet, by
 * SnapshotSelf; InvalidOid when there is no such index
 */
extern Oid	cmek_index_table(Oid indexid);

#endif							/* CMEK_BTREE_H */
