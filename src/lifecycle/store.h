/*-------------------------------------------------------------------------
 *
 * lifecycle/store.h
 *	  What a kind of store has to offer; see snapshot.h for what each does.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_STORE_H
#define CMEK_STORE_H

#include "lifecycle/snapshot.h"

typedef struct CmekStoreOps
{
	CmekStoreFile *(*create) (CmekStore *store, const char *name);
	void		(*write) (CmekStoreFile *file, const void *data, Size len);
	void		(*finish) (CmekStoreFile *file);
	/* never an ERROR */
	void		(*abandon) (CmekStoreFile *file);
	CmekStoreFile *(*read_begin) (CmekStore *store, const char *name);
	Size		(*read) (CmekStoreFile *file, void *data, Size len);
	void		(*read_end) (CmekStoreFile *file);
	bool		(*remove) (CmekStore *store, const char *name);
	void		(*close) (CmekStore *store);	/* or NULL */
} CmekStoreOps;

/* The first member of every kind of store, and of its files */
struct CmekStore
{
	const CmekStoreOps *ops;
};

struct CmekStoreFile
{
	CmekStore  *store;
};

/* ----------
 * s3store.c
 * ----------
 */
extern CmekStore *cmek_s3_store_open(const char *url);
/* Is "s3://..." an address of snapshots?  If not, a sentence in *problem */
extern bool cmek_s3_check_url(const char *url, const char **problem);
extern void cmek_s3_settings_init(void);

#endif							/* CMEK_STORE_H */
