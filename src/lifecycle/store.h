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

/* What an unfinished file's name ends with */
#define CMEK_STORE_UNFINISHED ".part"

/* Takes the name of a file and when it was last written */
typedef void (*CmekStoreListed) (void *arg, const char *name, time_t changed);

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
	/* unfinished ones, too; NULL when others clean up there */
	void		(*list) (CmekStore *store, CmekStoreListed put, void *arg);
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

/* Where snapshots go now, as a record keeps it */
extern char *cmek_store_where(void);
/* The store that a record names */
extern CmekStore *cmek_store_open_at(const char *where);
/* Is its directory there?  It is made when something is put there. */
extern bool cmek_store_exists(const char *where);
/* False when the store does not tell */
extern bool cmek_store_list(CmekStore *store, CmekStoreListed put, void *arg);

/* ----------
 * s3store.c
 * ----------
 */
extern CmekStore *cmek_s3_store_open(const char *url);
/* Is "s3://..." an address of snapshots?  If not, a sentence in *problem */
extern bool cmek_s3_check_url(const char *url, const char **problem);
extern void cmek_s3_settings_init(void);

#endif							/* CMEK_STORE_H */
