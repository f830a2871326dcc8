/*-------------------------------------------------------------------------
 *
 * lifecycle.h
 *	  The life of a key: what the visitor of a database does there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_LIFECYCLE_H
#define CMEK_LIFECYCLE_H

/* Settings; called once by _PG_init */
extern void cmek_lifecycle_init(void);

#endif							/* CMEK_LIFECYCLE_H */
