/*-------------------------------------------------------------------------
 *
 * lifecycle/snapshot.h
 *	  Snapshots of sealed tables: how the files of this folder that make,
 *	  store, read and restore them fit together.
 *
 *	   snapshot.c     cmek.snapshot(): rows, chunks and manifest into a store;
 *					  read back and verified before anybody relies on it
 *	   snapfile.c     the file format, written and read as a stream of blocks
 *	   store.c        where snapshots are: a directory; s3store.c: an S3 bucket
 *	   manifest.c     the table's definition as JSON, out of the catalogs
 *	   recreate.c     and back: a new table out of it; more in manifest.h
 *	   restore.c      cmek.restore_snapshot()
 *	   values.c       texts in other encodings; values nobody vouches for
 *	   drop.c         tables of a key that stays away
 *	   snapshots.c    rows of cmek.snapshot_record; purge; cmek.drop_snapshot()
 *
 * A snapshot needs no key: rows and chunks are copied as they are sealed, with
 * the wrapped keys that open them.  The bytes are drawn in format.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_SNAPSHOT_H
#define CMEK_SNAPSHOT_H

#include "access/tupdesc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "format.h"
#include "keys/json.h"

/* Why a snapshot was taken: a word of cmek.snapshots */
#define CMEK_SNAPSHOT_ON_DEMAND	"on demand"
#define CMEK_SNAPSHOT_KEY_LOST	"key lost"

/* What it is at: commands of cmek.snapshot_progress, counted in bytes */
#define CMEK_PROGRESS_WRITE		"snapshot, writing"
#define CMEK_PROGRESS_VERIFY	"snapshot, verifying"
#define CMEK_PROGRESS_CHECK		"restore, verifying"
#define CMEK_PROGRESS_RESTORE	"restore, rows"

/* ----------
 * store.c, s3store.c: named files that are written once, from begin to end
 * ----------
 */
typedef struct CmekStore CmekStore;

typedef struct CmekStoreFile CmekStoreFile;

/* The store that cmek.snapshot_directory names: a path, or s3://bucket/prefix */
extern CmekStore *cmek_store_open(void);
/* The store in the directory of a file, for a restore from elsewhere */
extern CmekStore *cmek_store_open_path(const char *directory);
extern void cmek_store_close(CmekStore *store);

/*
 * Write a file.  It has its name only when "finish" has returned: then it is
 * durable.  "abandon" removes what there is.  ERROR when there is no room.
 */
extern CmekStoreFile *cmek_store_create(CmekStore *store, const char *name);
extern void cmek_store_write(CmekStoreFile *file, const void *data, Size len);
extern void cmek_store_finish(CmekStoreFile *file);
extern void cmek_store_abandon(CmekStoreFile *file);

/* Read one, front to back; returns fewer bytes only at its end */
extern CmekStoreFile *cmek_store_read_begin(CmekStore *store, const char *name);
extern Size cmek_store_read(CmekStoreFile *file, void *data, Size len);
extern void cmek_store_read_end(CmekStoreFile *file);

/* false when it is not there */
extern bool cmek_store_remove(CmekStore *store, const char *name);

/* ----------
 * snapfile.c: a stream of blocks; see format.h
 * ----------
 */
typedef struct CmekSnapWriter CmekSnapWriter;

typedef struct CmekSnapReader CmekSnapReader;

/*
 * Begin a file.  backup_key (CMEK_KEY_LEN bytes) seals each block once more;
 * NULL for a snapshot that is taken without any key.  "head" is in clear.
 */
extern CmekSnapWriter *cmek_snap_create(CmekStore *store, const char *name,
										json_t *head, const uint8 *backup_key);
extern void cmek_snap_manifest(CmekSnapWriter *w, json_t *manifest);
/* One sealed row: DEK id | nonce | ciphertext | tag */
extern void cmek_snap_row(CmekSnapWriter *w, const void *sealed, uint32 len);
/* One sealed chunk of an out-of-line value */
extern void cmek_snap_chunk(CmekSnapWriter *w, uint32 value_id, uint32 chunk,
							const void *sealed, uint32 len);
/*
 * End the file: counts, digest, MACs.  table_key may be NULL.  The file is
 * durable when this returns.
 */
typedef struct CmekSnapTotals CmekSnapTotals;
struct CmekSnapTotals
{
	int64		rows;
	int64		chunks;
	int64		bytes;			/* of the file */
	uint8		digest[32];		/* SHA-256 of all before the end block */
};

extern void cmek_snap_finish(CmekSnapWriter *w, const uint8 *service_mac_key,
							 const uint8 *table_mac_key,
							 CmekSnapTotals *totals);
extern void cmek_snap_abandon(CmekSnapWriter *w);

/* What a reader meets, in this order */
typedef enum CmekSnapItem
{
	CMEK_SNAP_CHUNK,			/* all chunks come before the first row */
	CMEK_SNAP_ROW,
	CMEK_SNAP_END				/* totals hold; digest and checksums fitted */
} CmekSnapItem;

/*
 * Open a file and read its head.  ERROR data_corrupted when it is none of
 * ours, damaged or truncated; feature_not_supported when it is of a later
 * version.
 */
extern CmekSnapReader *cmek_snap_open(CmekStore *store, const char *name);
extern const json_t *cmek_snap_head(CmekSnapReader *r);
/* With the backup key when the head names one */
extern json_t *cmek_snap_read_manifest(CmekSnapReader *r,
									   const uint8 *backup_key);
typedef struct CmekSnapRecord
{
	const uint8 *data;			/* sealed; good until the next call */
	uint32		len;
	uint32		value_id;		/* chunks */
	uint32		chunk;
} CmekSnapRecord;

extern CmekSnapItem cmek_snap_next(CmekSnapReader *r, CmekSnapRecord *record);
/* After the end: the totals, and whether a MAC fits */
extern const CmekSnapTotals *cmek_snap_totals(CmekSnapReader *r);
extern bool cmek_snap_mac_fits(CmekSnapReader *r, bool of_table,
							   const uint8 *mac_key);
extern void cmek_snap_close(CmekSnapReader *r);

/* ----------
 * manifest.c, recreate.c: the definition of a table
 * ----------
 */
/*
 * Columns, constraints, indexes, owner, grants, comments, dependents, wrapped
 * keys ("keys").  Needs no key.  The caller has locked the table.
 */
extern PGDLLEXPORT json_t *cmek_manifest_make(Relation rel);
/* What its rows looked like, dropped columns included */
extern PGDLLEXPORT TupleDesc cmek_manifest_row_desc(const json_t *manifest);
/*
 * Make the bare new table (columns only), sealed and bound to "key" (NULL: the
 * default); returns its OID.  The caller runs as "owner", in a
 * security-restricted operation.  ERROR datatype_mismatch when values of a
 * column would mean something else in this database.
 */
extern PGDLLEXPORT Oid cmek_recreate_table(const json_t *manifest,
										   const char *schema,
										   const char *name, const char *key,
										   Oid owner);
/*
 * After its rows are in, as the same user: defaults, constraints, indexes,
 * grants, comments.  What could not be recreated is a list of texts.
 */
extern PGDLLEXPORT List *cmek_recreate_rest(const json_t *manifest, Oid relid);

/* ----------
 * values.c: values of rows on their way into the new table
 * ----------
 */
typedef struct CmekValues CmekValues;

/*
 * "encoding": of the snapshot's texts.  "check": nobody vouches for what the
 * manifest says of the values.  ERROR when a column cannot be had in this
 * database's encoding.
 */
extern CmekValues *cmek_values_begin(Relation rel, int encoding, bool check);
/* See CmekTakeValue; its argument is a CmekValues. */
extern Datum cmek_values_take(void *arg, int column, Datum value);

/* ----------
 * snapshot.c, snapshots.c, drop.c
 * ----------
 */
/*
 * Take a snapshot of a table that the caller has locked, and verify it.
 * Returns its id, in memory of the caller's.  ERROR leaves nothing behind.
 */
extern char *cmek_snapshot_take(Oid relid, const char *reason);

/*
 * The store and the file of a snapshot that the caller may restore: by the id
 * of one that this database knows, or, for members of pg_read_server_files, by
 * the name of a file in cmek.snapshot_directory or an absolute path.  *owner
 * is the name of the role it belongs to, NULL when that is not known here.
 */
extern CmekStore *cmek_snapshot_find(const char *snapshot, char **file,
									 char **owner);

/* The visitor: drop what is due, purge what has expired; when to come again */
extern TimestampTz cmek_lifecycle_drop_due(void);
extern TimestampTz cmek_snapshots_purge(void);

#endif							/* CMEK_SNAPSHOT_H */
