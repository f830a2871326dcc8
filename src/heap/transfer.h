/*-------------------------------------------------------------------------
 *
 * heap/transfer.h
 *	  Sealed rows and chunks out of a table and into another one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_TRANSFER_H
#define CMEK_TRANSFER_H

#include "access/tupdesc.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "keys/keys.h"

/* Takes DEK id | nonce | ciphertext | tag */
typedef void (*CmekSealedRow) (void *arg, const void *sealed, uint32 len);
typedef void (*CmekSealedChunk) (void *arg, Oid value_id, int32 seq,
								 const void *sealed, uint32 len);

/*
 * Hand out what the snapshot shows, sealed as it is.  Needs no key.  The
 * caller has locked the table.
 */
extern void cmek_heap_scan_sealed(Relation rel, Snapshot snapshot,
								  CmekSealedRow put, void *arg);
extern void cmek_heap_scan_chunks(Relation rel, Snapshot snapshot,
								  CmekSealedChunk put, void *arg);

/* Copies a sealed chunk to "out" (size bytes); returns its length, 0: none */
typedef uint32 (*CmekFetchChunk) (void *arg, Oid value_id, int32 seq,
								  char *out, uint32 size);

typedef struct CmekHeapImport CmekHeapImport;

/*
 * Store rows that were sealed by the keys of "ring" as rows of rel.  desc is
 * what they looked like, target the number (from 0) of the new column for each
 * of theirs, -1 for one that is gone.  The table is ours alone: indexes,
 * triggers and constraints are not looked at.  ERROR data_corrupted when one
 * does not open.
 */
extern CmekHeapImport *cmek_heap_import_begin(Relation rel, TupleDesc desc,
											  const int *target,
											  CmekKeyRing *ring,
											  CmekFetchChunk fetch, void *arg);
extern void cmek_heap_import_row(CmekHeapImport *import, const void *sealed,
								 uint32 len);
extern void cmek_heap_import_end(CmekHeapImport *import);

#endif							/* CMEK_TRANSFER_H */
