/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between the supported versions of PostgreSQL.
 *
 * Nothing else in the tree tests PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_COMPAT_H
#define CMEK_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "cmek needs PostgreSQL 15 or later"
#endif

#endif							/* CMEK_COMPAT_H */
