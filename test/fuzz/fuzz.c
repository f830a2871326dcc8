/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  libFuzzer inside of a single-user backend.
 *
 *	   SELECT cmek_fuzz('chain', '-max_total_time=60', 'corpus')
 *	   SELECT cmek_fuzz_seed('chain', 'corpus')
 *
 * Each input runs in a memory context of its own.  An error is what a parser
 * is for, unless it is one that must not happen (XX000).
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*callback) (const uint8 *, size_t));

PG_FUNCTION_INFO_V1(cmek_fuzz);
PG_FUNCTION_INFO_V1(cmek_fuzz_seed);

static const FuzzTarget *const targets[] = {
	&fuzz_row, &fuzz_chunk, &fuzz_wrapped_dek, &fuzz_table_key_row,
	&fuzz_data_key_row, &fuzz_chain, &fuzz_key_file, &fuzz_fingerprint,
	&fuzz_suspended_file, &fuzz_label, &fuzz_options
};

static const FuzzTarget *target;
static MemoryContext input_context;

/* End in the way that libFuzzer takes for a crash, and keeps the input. */
void
fuzz_fail(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: \"%s\" does not hold\n", file, line, what);
	abort();
}

/* See fuzz.h. */
bool
fuzz_edit(uint8 *bytes, size_t len, const uint8 *edits, size_t n)
{
	uint8	   *was = palloc(len);
	bool		changed;

	memcpy(was, bytes, len);
	for (; n >= 3; edits += 3, n -= 3)
		bytes[(edits[0] | edits[1] << 8) % len] ^= edits[2];
	changed = memcmp(was, bytes, len) != 0;
	pfree(was);
	return changed;
}

/* One input. */
static int
run_input(const uint8 *data, size_t size)
{
	MemoryContext old = MemoryContextSwitchTo(input_context);

	PG_TRY();
	{
		target->run(data, size);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(input_context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode == ERRCODE_INTERNAL_ERROR)
			fuzz_fail(error->message, error->filename, error->lineno);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextReset(input_context);
	return 0;
}

/* The target of a name. */
static void
choose_target(text *name)
{
	for (int i = 0; i < lengthof(targets); i++)
		if (strcmp(targets[i]->name, text_to_cstring(name)) == 0)
		{
			target = targets[i];
			return;
		}
	elog(ERROR, "no target of this name");
}

/* SQL: run libFuzzer with one argument and a corpus; ends the process. */
Datum
cmek_fuzz(PG_FUNCTION_ARGS)
{
	char	   *options = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *argv[32] = {"cmek_fuzz"};
	char	  **args = argv;
	int			argc = 1;

	choose_target(PG_GETARG_TEXT_PP(0));
	for (char *word = strtok(options, " "); word != NULL && argc < 30;
		 word = strtok(NULL, " "))
		argv[argc++] = word;
	input_context = AllocSetContextCreate(TopMemoryContext, "fuzz input",
										  ALLOCSET_DEFAULT_SIZES);
	PG_RETURN_INT32(LLVMFuzzerRunDriver(&argc, &args, run_input));
}

/* SQL: write the seeds of a target into a directory; how many. */
Datum
cmek_fuzz_seed(PG_FUNCTION_ARGS)
{
	char	   *directory = text_to_cstring(PG_GETARG_TEXT_PP(1));
	uint8	   *seed = palloc(FUZZ_SEED_MAX);
	int			n = 0;
	int			len;

	choose_target(PG_GETARG_TEXT_PP(0));
	while ((len = target->seed(n, seed)) >= 0)
	{
		char	   *path = psprintf("%s/seed-%d", directory, n++);
		FILE	   *file = fopen(path, "wb");

		if (file == NULL || fwrite(seed, 1, len, file) != (size_t) len ||
			fclose(file) != 0)
			elog(ERROR, "could not write \"%s\": %m", path);
	}
	PG_RETURN_INT32(n);
}
