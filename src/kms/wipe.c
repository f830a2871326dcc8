/*-------------------------------------------------------------------------
 *
 * wipe.c
 *	  malloc and friends that cleanse what is given back.
 *
 * libcurl and jansson copy credentials and keys into memory of their own.
 * They use these, in KMS workers only.  The memory is malloc's, without a
 * header of ours, so blocks from before or after, of either kind, may be given
 * to either free.  Must work in any thread: libcurl resolves names in one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <malloc.h>

#include "crypto/crypto.h"
#include "kms/wipe.h"

void *
cmek_wiping_malloc(size_t size)
{
	return malloc(size);
}

void *
cmek_wiping_calloc(size_t n, size_t size)
{
	return calloc(n, size);
}

/* Cleanse a block and give it back. */
void
cmek_wiping_free(void *ptr)
{
	if (ptr == NULL)
		return;
	cmek_cleanse(ptr, malloc_usable_size(ptr));
	free(ptr);
}

/* Another block with the same contents; realloc would leave the old one. */
void *
cmek_wiping_realloc(void *ptr, size_t size)
{
	void	   *copy;

	if (ptr == NULL)
		return malloc(size);
	if (size == 0)
	{
		cmek_wiping_free(ptr);
		return NULL;
	}
	copy = malloc(size);
	if (copy == NULL)
		return NULL;
	memcpy(copy, ptr, Min(size, malloc_usable_size(ptr)));
	cmek_wiping_free(ptr);
	return copy;
}

char *
cmek_wiping_strdup(const char *string)
{
	size_t		size = strlen(string) + 1;
	char	   *copy = malloc(size);

	if (copy != NULL)
		memcpy(copy, string, size);
	return copy;
}
