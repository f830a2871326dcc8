/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the harnesses share.
 *
 * A harness gets bytes and must come back, or raise an error that a user may
 * see; FUZZ_CHECK ends the process when what must hold does not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_FUZZ_H
#define CMEK_FUZZ_H

#include "postgres.h"

#define FUZZ_CHECK(condition) \
	do { if (!(condition)) fuzz_fail(#condition, __FILE__, __LINE__); } while (0)

typedef struct FuzzTarget
{
	const char *name;
	void		(*run) (const uint8 *data, size_t size);
	/* the i-th seed into "seed", which has room for FUZZ_SEED_MAX; -1 at end */
	int			(*seed) (int i, uint8 *seed);
} FuzzTarget;

#define FUZZ_SEED_MAX 16384

extern void fuzz_fail(const char *what, const char *file, int line);

/*
 * Changes to apply to well-formed bytes, as a fuzzer can find them: triples of
 * position (2 bytes) and what to xor (1).  Returns whether anything changed.
 */
extern bool fuzz_edit(uint8 *bytes, size_t len, const uint8 *edits, size_t n);

/* catalog_rows.c, suspended_file.c, parsers.c, sealed.c */
extern const FuzzTarget fuzz_table_key_row,
			fuzz_data_key_row,
			fuzz_suspended_file,
			fuzz_chain,
			fuzz_key_file,
			fuzz_fingerprint,
			fuzz_label,
			fuzz_options,
			fuzz_row,
			fuzz_chunk,
			fuzz_wrapped_dek;

#endif							/* CMEK_FUZZ_H */
