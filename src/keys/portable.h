/*-------------------------------------------------------------------------
 *
 * keys/portable.h
 *	  Wrapped keys that leave their database with a snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_PORTABLE_H
#define CMEK_PORTABLE_H

#include "keys/json.h"

#include "keys/keys.h"

/*
 * All wrapped keys of a table: table keys, sealed under one another, and data
 * keys.  Needs no key.  NULL when the table has none.
 */
extern json_t *cmek_portable_keys(Oid relid);

/* Data keys opened out of them, and what else their table key is good for */
typedef struct CmekPortable
{
	CmekKeyRing *ring;			/* of no table: holds no lease */
	uint8	   *mac_key;		/* CMEK_KEY_LEN; see cmek_portable_mac_key */
} CmekPortable;

/*
 * Open them: through newer keys of the same table when this database has
 * them, else by the KMS key that they name.  KM001 when that is away,
 * data_corrupted when they are not as they were written.
 */
extern CmekPortable *cmek_portable_open(const json_t *keys);
extern void cmek_portable_close(CmekPortable *portable);

/*
 * The key by which a table's key vouches for a snapshot, into CMEK_KEY_LEN
 * bytes of secret memory.  KM001 when the key is away.
 */
extern void cmek_portable_mac_key(Oid relid, uint8 *mac_key);

/* A new key wrapped by the KMS key of a table, and its wrapped form */
extern json_t *cmek_backup_key_make(Oid relid, uint8 *key);
extern void cmek_backup_key_open(const json_t *wrapped, uint8 *key);

#endif							/* CMEK_PORTABLE_H */
