/*-------------------------------------------------------------------------
 *
 * secret.c
 *	  Memory for keys: locked, left out of core dumps, cleansed when freed.
 *
 * Owns an arena of anonymous mappings ("regions"), cut into blocks:
 *
 *	 +--------------+-------------+---------+-------------+---------+----
 *	 | SecretRegion | SecretBlock | payload | SecretBlock | payload | ...
 *	 +--------------+-------------+---------+-------------+---------+----
 *	   64 bytes		  64 bytes	    n * 64
 *
 * Freed blocks go to a list for their exact size; keys come in few sizes.  A
 * block that does not fit a common region has a region of its own; a few of
 * those are kept for the next one of the same size, since mapping, locking and
 * unmapping cost more than most of what such a block is used for.
 *
 * Invariants: a payload that nobody holds is zero.  Blocks belong to the
 * process that made them: a child finds the pages wiped (MADV_WIPEONFORK, or
 * by our own hand the first time it comes here) and starts an arena of its
 * own; freeing an inherited block does nothing.  When the process ends the
 * arena is wiped.
 *
 * Where the system refuses to lock there is one WARNING and the work goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "miscadmin.h"
#include "storage/ipc.h"

#include "crypto/crypto.h"

#define SECRET_ALIGN		64
#define SECRET_REGION_SIZE	(64 * 1024)
/* a bigger payload has its own region */
#define SECRET_SMALL_MAX	4096
#define SECRET_CLASSES		(SECRET_SMALL_MAX / SECRET_ALIGN)
/* freed blocks with a region of their own that are kept, if not too big */
#define SECRET_SPARES		4
#define SECRET_SPARE_MAX	(16 * 1024)

#define SECRET_IN_USE		UINT64CONST(0x636d656b75736564)
#define SECRET_FREED		UINT64CONST(0x636d656b66726565)

typedef struct SecretRegion
{
	struct SecretRegion *prev;
	struct SecretRegion *next;
	Size		size;			/* of the mapping */
	Size		used;			/* bytes cut off, this header included */
	char		pad[SECRET_ALIGN - 2 * sizeof(void *) - 2 * sizeof(Size)];
} SecretRegion;

typedef struct SecretBlock
{
	uint64		state;			/* SECRET_IN_USE or SECRET_FREED */
	Size		size;			/* of the payload */
	struct SecretBlock *next_free;
	SecretRegion *own;			/* region that holds this block only */
	char		pad[SECRET_ALIGN - sizeof(uint64) - sizeof(Size) - 2 * sizeof(void *)];
} SecretBlock;

StaticAssertDecl(sizeof(SecretRegion) == SECRET_ALIGN, "payloads are aligned");
StaticAssertDecl(sizeof(SecretBlock) == SECRET_ALIGN, "payloads are aligned");

static SecretRegion *regions = NULL;
static SecretRegion *current = NULL;	/* the one that small blocks are cut off */
static SecretBlock *free_blocks[SECRET_CLASSES + 1];
static SecretBlock *spares[SECRET_SPARES];
static int	secret_pid = 0;
static bool lock_warned = false;

/* Overwrite in a way that the compiler cannot drop */
void
cmek_cleanse(void *ptr, Size len)
{
	OPENSSL_cleanse(ptr, len);
}

/* Constant-time comparison */
bool
cmek_equal(const void *a, const void *b, Size len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

/* Overwrite all payloads, and the headers between them */
static void
secret_wipe_regions(void)
{
	SecretRegion *region;

	for (region = regions; region != NULL; region = region->next)
		cmek_cleanse(region + 1, region->size - sizeof(SecretRegion));
}

/* Start from nothing */
static void
secret_forget_regions(void)
{
	regions = NULL;
	current = NULL;
	memset(free_blocks, 0, sizeof(free_blocks));
	memset(spares, 0, sizeof(spares));
}

/*
 * The process ends.  Other exit callbacks may still come here; what they free
 * is wiped already and reads as inherited.
 */
static void
secret_at_exit(int code, Datum arg)
{
	secret_wipe_regions();
	secret_forget_regions();
}

/*
 * Make the arena this process's own.  An inherited one is wiped unless the
 * kernel has done so, which shows as a list that ends in a header of zeros.
 */
static void
secret_enter_process(void)
{
	if (likely(secret_pid == MyProcPid))
		return;

	if (regions != NULL && regions->size != 0)
		secret_wipe_regions();
	secret_forget_regions();
	lock_warned = false;
	secret_pid = MyProcPid;
	on_proc_exit(secret_at_exit, (Datum) 0);
}

/*
 * Lock whole pages inside a range and leave them out of core dumps.
 *
 * Locks are not inherited over fork, but a page of shared memory stays in
 * memory as long as one process, such as the postmaster, has it locked.
 */
bool
cmek_secret_protect(void *addr, Size size)
{
	uintptr_t	page = (uintptr_t) sysconf(_SC_PAGESIZE);
	uintptr_t	start = TYPEALIGN(page, (uintptr_t) addr);
	uintptr_t	end = TYPEALIGN_DOWN(page, (uintptr_t) addr + size);
	bool		hidden;

	if (start >= end)
	{
		errno = EINVAL;
		return false;
	}

	/* try both, whatever the first one says */
	hidden = madvise((void *) start, end - start, MADV_DONTDUMP) == 0;
	return mlock((void *) start, end - start) == 0 && hidden;
}

/* Say once in a process that keys may be swapped out */
static void
secret_warn_unlocked(void)
{
	if (lock_warned)
		return;
	lock_warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not lock memory for encryption keys: %m"),
			 errdetail("Keys in the memory of this process may be written to swap space."),
			 errhint("Raise the server's limit of locked memory, for example with \"LimitMEMLOCK=64M\" in its systemd unit or \"ulimit -l 65536\" before \"pg_ctl start\".")));
}

/* Map a region and enter it in the list */
static SecretRegion *
secret_region_create(Size size)
{
	SecretRegion *region;

	region = mmap(NULL, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map memory for encryption keys: %m")));

#ifdef MADV_WIPEONFORK
	/* an older kernel does not know it: secret_enter_process wipes then */
	(void) madvise(region, size, MADV_WIPEONFORK);
#endif

	region->size = size;
	region->used = sizeof(SecretRegion);
	region->next = regions;
	if (regions != NULL)
		regions->prev = region;
	regions = region;

	if (!cmek_secret_protect(region, size))
		secret_warn_unlocked();
	return region;
}

/* Unmap a region; all of it must be cleansed */
static void
secret_region_destroy(SecretRegion *region)
{
	if (region->prev != NULL)
		region->prev->next = region->next;
	else
		regions = region->next;
	if (region->next != NULL)
		region->next->prev = region->prev;
	munmap(region, region->size);
}

/* Cut a block off a region that has room for it */
static SecretBlock *
secret_cut(SecretRegion *region, Size size)
{
	SecretBlock *block = (SecretBlock *) ((char *) region + region->used);

	region->used += sizeof(SecretBlock) + size;
	Assert(region->used <= region->size);
	block->size = size;
	return block;
}

/* A kept block of this size; NULL when there is none */
static SecretBlock *
secret_take_spare(Size size)
{
	for (int i = 0; i < SECRET_SPARES; i++)
	{
		SecretBlock *block = spares[i];

		if (block != NULL && block->size == size)
		{
			spares[i] = NULL;
			return block;
		}
	}
	return NULL;
}

/* Keep a cleansed block that has a region of its own; false: no room for it */
static bool
secret_keep_spare(SecretBlock *block)
{
	if (block->own->size > SECRET_SPARE_MAX)
		return false;
	for (int i = 0; i < SECRET_SPARES; i++)
		if (spares[i] == NULL)
		{
			spares[i] = block;
			return true;
		}
	return false;
}

/* A block in a region of its own */
static SecretBlock *
secret_block_big(Size size)
{
	Size		page = (Size) sysconf(_SC_PAGESIZE);
	SecretRegion *region;
	SecretBlock *block = secret_take_spare(size);

	if (block != NULL)
		return block;
	region = secret_region_create(TYPEALIGN(page, sizeof(SecretRegion) +
											sizeof(SecretBlock) + size));
	block = secret_cut(region, size);
	block->own = region;
	return block;
}

/* A block out of the free list of its size, or a new one */
static SecretBlock *
secret_block_small(Size size)
{
	SecretBlock **head = &free_blocks[size / SECRET_ALIGN];
	SecretBlock *block = *head;

	if (block != NULL)
	{
		*head = block->next_free;
		block->next_free = NULL;
		return block;
	}

	if (current == NULL ||
		current->size - current->used < sizeof(SecretBlock) + size)
		current = secret_region_create(SECRET_REGION_SIZE);
	return secret_cut(current, size);
}

/* Secret memory, zeroed, 64-byte aligned */
void *
cmek_secret_alloc(Size size)
{
	Size		rounded = TYPEALIGN(SECRET_ALIGN, Max(size, 1));
	SecretBlock *block;

	secret_enter_process();
	if (rounded <= SECRET_SMALL_MAX)
		block = secret_block_small(rounded);
	else
		block = secret_block_big(rounded);
	block->state = SECRET_IN_USE;
	return block + 1;
}

/* Cleanse and give back */
void
cmek_secret_free(void *ptr)
{
	SecretBlock *block = (SecretBlock *) ptr - 1;

	secret_enter_process();
	if (block->state == SECRET_FREED)
		elog(ERROR, "secret memory %p is freed twice", ptr);
	if (block->state != SECRET_IN_USE)
		return;					/* the parent's, or the process ends */

	cmek_cleanse(ptr, block->size);
	block->state = SECRET_FREED;
	if (block->own != NULL)
	{
		if (!secret_keep_spare(block))
			secret_region_destroy(block->own);
		return;
	}
	block->next_free = free_blocks[block->size / SECRET_ALIGN];
	free_blocks[block->size / SECRET_ALIGN] = block;
}

/* Secret memory that goes with a memory context, also after an error */
void *
cmek_secret_alloc_in(MemoryContext context, Size size)
{
	MemoryContextCallback *callback;

	/* first what may fail, so that nothing is left behind */
	callback = MemoryContextAlloc(context, sizeof(MemoryContextCallback));
	callback->func = cmek_secret_free;
	callback->arg = cmek_secret_alloc(size);
	MemoryContextRegisterResetCallback(context, callback);
	return callback->arg;
}

/* No core dump of this process from here on */
void
cmek_secret_forbid_core_dump(void)
{
	static bool forbidden = false;	/* inherited over fork, as the flag is */

	if (forbidden || cmek_allow_core_dumps)
		return;
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not forbid core dumps of this process: %m")));
	forbidden = true;
}
