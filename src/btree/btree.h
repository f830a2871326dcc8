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

#endif							/* CMEK_BTREE_H */
