/*-------------------------------------------------------------------------
 *
 * cmek_test_secret.c
 *	  src/crypto/secret.c as SQL functions.
 *
 * Owns one remembered address of a secret, to look at what is left there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/builtins.h"

#include "crypto/crypto.h"

static uint8 *remembered = NULL;
static Size remembered_len = 0;

/* VmFlags of the mapping that an address is in (proc(5), smaps) */
static char *
vm_flags(const void *addr)
{
	FILE	   *file = AllocateFile("/proc/self/smaps", "r");
	char		line[1024];
	bool		inside = false;
	char	   *flags = NULL;

	if (file == NULL)
		elog(ERROR, "could not open /proc/self/smaps: %m");
	while (flags == NULL && fgets(line, sizeof(line), file) != NULL)
	{
		uintptr_t	start,
					end;

		if (sscanf(line, "%zx-%zx ", &start, &end) == 2)
			inside = (uintptr_t) addr >= start && (uintptr_t) addr < end;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			flags = pstrdup(line + 8);
	}
	FreeFile(file);
	if (flags == NULL)
		elog(ERROR, "no mapping holds the address");
	return flags;
}

PG_FUNCTION_INFO_V1(test_secret_flags);
Datum
test_secret_flags(PG_FUNCTION_ARGS)
{
	void	   *secret = cmek_secret_alloc(PG_GETARG_INT32(0));
	char	   *flags;

	/* a page that was not written to is not there yet */
	memset(secret, 0x55, PG_GETARG_INT32(0));
	flags = vm_flags(secret);
	cmek_secret_free(secret);
	PG_RETURN_TEXT_P(cstring_to_text(flags));
}

PG_FUNCTION_INFO_V1(test_protect_flags);
Datum
test_protect_flags(PG_FUNCTION_ARGS)
{
	long		page = sysconf(_SC_PAGESIZE);
	char	   *shared = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool		protected;
	char	   *inside,
			   *before;

	if (shared == MAP_FAILED)
		elog(ERROR, "could not map: %m");
	if (cmek_secret_protect(shared + 1, page))
		elog(ERROR, "a range without a whole page was protected");

	/* from the middle of the first page to the middle of the last one */
	protected = cmek_secret_protect(shared + page / 2, 3 * page);
	inside = vm_flags(shared + page);
	before = vm_flags(shared);
	munmap(shared, 4 * page);

	if (!protected)
		PG_RETURN_NULL();
	if (strcmp(inside, before) == 0)
		elog(ERROR, "more than the range was protected");
	PG_RETURN_TEXT_P(cstring_to_text(inside));
}

/* A new block is aligned and zero; fill it, so that the next user would see */
static uint8 *
check_new_block(Size size)
{
	uint8	   *block = cmek_secret_alloc(size);

	if ((uintptr_t) block % 64 != 0)
		elog(ERROR, "block of %zu bytes at %p is not aligned", size, block);
	for (Size i = 0; i < size; i++)
		if (block[i] != 0)
			elog(ERROR, "block of %zu bytes is not zero", size);
	memset(block, (int) (size % 255) + 1, size);
	return block;
}

/* Give back a block, that nobody else must have written to */
static void
check_old_block(uint8 *block, Size size)
{
	for (Size i = 0; i < size; i++)
		if (block[i] != (size % 255) + 1)
			elog(ERROR, "block of %zu bytes was written to", size);
	cmek_secret_free(block);
}

PG_FUNCTION_INFO_V1(test_secret_blocks);
Datum
test_secret_blocks(PG_FUNCTION_ARGS)
{
	enum
	{
		NBLOCKS = 200
	};
	uint8	   *blocks[NBLOCKS] = {NULL};
	Size		sizes[NBLOCKS] = {0};
	pg_prng_state prng;
	int			looked = 0;

	pg_prng_seed(&prng, PG_GETARG_INT32(0));
	for (int i = 0; i < PG_GETARG_INT32(1) + NBLOCKS; i++)
	{
		/* the last NBLOCKS turns free what is left */
		int			b = i % NBLOCKS;

		if (blocks[b] != NULL)
		{
			check_old_block(blocks[b], sizes[b]);
			blocks[b] = NULL;
			looked++;
		}
		else if (i < PG_GETARG_INT32(1))
		{
			/* one in sixteen is too big for a common region */
			sizes[b] = pg_prng_uint64_range(&prng, 1,
											i % 16 == 0 ? 100000 : 5000);
			blocks[b] = check_new_block(sizes[b]);
		}
	}
	PG_RETURN_INT32(looked);
}

PG_FUNCTION_INFO_V1(test_secret_make);
Datum
test_secret_make(PG_FUNCTION_ARGS)
{
	bytea	   *secret = PG_GETARG_BYTEA_PP(0);

	remembered_len = VARSIZE_ANY_EXHDR(secret);
	if (PG_GETARG_BOOL(1))
		remembered = cmek_secret_alloc_in(CurrentMemoryContext, remembered_len);
	else
		remembered = cmek_secret_alloc(remembered_len);
	memcpy(remembered, VARDATA_ANY(secret), remembered_len);

	if (PG_GETARG_BOOL(2))
		elog(ERROR, "as you wish");
	PG_RETURN_VOID();
}

/* What is left at the remembered address, if the arena is still mapped */
static bytea *
peek(void)
{
	bytea	   *found = palloc0(VARHDRSZ + remembered_len);

	if (remembered == NULL)
		elog(ERROR, "nothing is remembered");
	SET_VARSIZE(found, VARHDRSZ + remembered_len);
	memcpy(VARDATA(found), remembered, remembered_len);
	return found;
}

PG_FUNCTION_INFO_V1(test_secret_peek);
Datum
test_secret_peek(PG_FUNCTION_ARGS)
{
	(void) vm_flags(remembered);	/* ERROR where a read would crash */
	PG_RETURN_BYTEA_P(peek());
}

PG_FUNCTION_INFO_V1(test_secret_peek_after_fork);
Datum
test_secret_peek_after_fork(PG_FUNCTION_ARGS)
{
	bytea	   *found = peek();
	int			fds[2];
	pid_t		pid;

	if (pipe(fds) != 0 || (pid = fork()) < 0)
		elog(ERROR, "could not fork: %m");
	if (pid == 0)
		_exit(write(fds[1], remembered, remembered_len) ==
			  (ssize_t) remembered_len ? 0 : 1);
	if (read(fds[0], VARDATA(found), remembered_len) != (ssize_t) remembered_len)
		elog(ERROR, "could not read from the child: %m");
	close(fds[0]);
	close(fds[1]);
	PG_RETURN_BYTEA_P(found);
}

/* Runs after secret.c's own callback, which was registered later */
static void
log_remembered(int code, Datum arg)
{
	int			left = 0;

	for (Size i = 0; i < remembered_len; i++)
		left += remembered[i] != 0;
	elog(LOG, "secret at exit: %d of %zu bytes left", left, remembered_len);
}

PG_FUNCTION_INFO_V1(test_secret_peek_at_exit);
Datum
test_secret_peek_at_exit(PG_FUNCTION_ARGS)
{
	on_proc_exit(log_remembered, (Datum) 0);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(test_free_twice);
Datum
test_free_twice(PG_FUNCTION_ARGS)
{
	void	   *secret = cmek_secret_alloc(1);

	cmek_secret_free(secret);
	cmek_secret_free(secret);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(test_dumpable);
Datum
test_dumpable(PG_FUNCTION_ARGS)
{
	uint8		key[CMEK_KEY_LEN] = {0};
	TupleDesc	tupdesc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	values[0] = BoolGetDatum(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);
	cmek_aead_free(cmek_aead_create(key));
	values[1] = BoolGetDatum(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1);

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}
