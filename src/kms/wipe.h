/*-------------------------------------------------------------------------
 *
 * kms/wipe.h
 *	  Allocators for libraries that keep copies of secrets: what they give
 *	  back is cleansed first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_WIPE_H
#define CMEK_KMS_WIPE_H

extern void *cmek_wiping_malloc(size_t size);
extern void *cmek_wiping_calloc(size_t n, size_t size);
extern void *cmek_wiping_realloc(void *ptr, size_t size);
extern char *cmek_wiping_strdup(const char *string);
extern void cmek_wiping_free(void *ptr);

#endif							/* CMEK_KMS_WIPE_H */
