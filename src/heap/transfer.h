/*-------------------------------------------------------------------------
 *
 * heap/transfer.h
 *	  Sealed rows and chunks out of a table and into another one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_TRANSFER_H
#define CMEK_TRANSFER_H

#include "access/htup.h"
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

/* Looks at a value of a column (from 0) of the new table; what to store */
typedef Datum (*CmekTakeValue) (void *arg, int column, Datum value);

/* Where an import gets what is not in the row */
typedef struct CmekImportSource
{
	CmekFetchChunk fetch;
	void	   *fetch_arg;
	CmekTakeValue take;
	void	   *take_arg;
} CmekImportSource;

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
											  const CmekImportSource *source);
extern void cmek_heap_import_row(CmekHeapImport *import, const void *sealed,
								 uint32 len);
extern void cmek_heap_import_end(CmekHeapImport *import);

/* ----------
 * fits.c
 * ----------
 */
/* Does a row have all that a description says, and no pointer into memory? */
extern bool cmek_row_fits(HeapTuple tuple, TupleDesc desc);
/*
 * Where a value ends that begins at an offset, or after it as its alignment
 * demands; -1 when that is not within the limit.  "data" is aligned.
 */
extern int64 cmek_value_end(const char *data, Size limit, Size offset,
							int attlen, char attalign);

#endif							/* CMEK_TRANSFER_H */
