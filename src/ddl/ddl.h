/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  Binding tables to KMS keys: the utility hook, the object access hook,
 *	  the security label provider and the policies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_DDL_H
#define CMEK_DDL_H

#include "postgres.h"

/* Settings (defined in ddl/settings) */
extern PGDLLIMPORT char *cmek_default_key;	/* server name or "none" */
extern PGDLLIMPORT bool cmek_enforce_encryption;
extern PGDLLIMPORT bool cmek_plaintext_indexes;

/* The key a table is bound to by its label; NULL when unbound.  palloc'd */
extern char *cmek_label_get_key(Oid relid);

/* Settings and hooks; called once by _PG_init */
extern void cmek_ddl_init(void);

#endif							/* CMEK_DDL_H */
