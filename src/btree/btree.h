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

#endif							/* CMEK_BTREE_H */
