/*-------------------------------------------------------------------------
 *
 * store.c
 *	  Where snapshots are kept: a directory of the database server, or what
 *	  another file here offers under a URL.
 *
 * A file is written once, to its end, under a name of its own that no reader
 * looks for; it gets its real name when it is on disk.  So whatever has a
 * name is whole, and what was left by a crash is recognised by its suffix.
 *
 * Names are ours: letters, digits, "-" and "."; never a path.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "compat.h"
#include "lifecycle/internal.h"
#include "lifecycle/store.h"

#define UNFINISHED CMEK_STORE_UNFINISHED

typedef struct DirectoryStore
{
	CmekStore	store;
	char	   *path;
} DirectoryStore;

typedef struct DirectoryFile
{
	CmekStoreFile file;
	char	   *path;
	char	   *part;			/* while it is written */
	int			fd;
} DirectoryFile;

/* The directory that snapshots are in when the setting names none. */
static char *
default_directory(void)
{
	return psprintf("%s.cmek/snapshots", DataDir);
}

/* Make a directory unless it is there, for us alone. */
static void
make_directory(const char *path)
{
	if (mkdir(path, S_IRWXU) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path),
				 errhint("cmek.snapshot_directory names the directory of snapshots.")));
}

/* The path of a file, whose name has to be one of ours. */
static char *
path_of(DirectoryStore *store, const char *name)
{
	if (name[0] == '.' ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != strlen(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a snapshot: \"%s\"", name)));
	return psprintf("%s/%s", store->path, name);
}

/* Report a failure with a file. */
static void
report_file(const char *what, const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s file \"%s\": %m", what, path)));
}

/* Begin to write a file. */
static CmekStoreFile *
directory_create(CmekStore *store, const char *name)
{
	DirectoryFile *file = palloc0(sizeof(DirectoryFile));

	file->file.store = store;
	file->path = path_of((DirectoryStore *) store, name);
	file->part = psprintf("%s" UNFINISHED, file->path);
	file->fd = OpenTransientFilePerm(file->part,
									 O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY,
									 S_IRUSR | S_IWUSR);
	if (file->fd < 0)
		report_file("create", file->part);
	return &file->file;
}

/* Append to it. */
static void
directory_write(CmekStoreFile *base, const void *data, Size len)
{
	DirectoryFile *file = (DirectoryFile *) base;

	while (len > 0)
	{
		ssize_t		done;

		errno = 0;
		done = write(file->fd, data, len);
		if (done <= 0)
		{
			/* a short write without an error is a full disk */
			if (errno == 0)
				errno = ENOSPC;
			report_file("write", file->part);
		}
		data = (const char *) data + done;
		len -= done;
	}
}

/* Give it its name: it is on disk by then. */
static void
directory_finish(CmekStoreFile *base)
{
	DirectoryFile *file = (DirectoryFile *) base;
	int			fd = file->fd;

	file->fd = -1;
	if (CloseTransientFile(fd) != 0)
		report_file("close", file->part);
	/* syncs the file, renames it and syncs the directory */
	durable_rename(file->part, file->path, ERROR);
}

/* Remove what was written of it. */
static void
directory_abandon(CmekStoreFile *base)
{
	DirectoryFile *file = (DirectoryFile *) base;

	if (file->fd >= 0)
		(void) CloseTransientFile(file->fd);
	file->fd = -1;
	(void) unlink(file->part);
}

/* Begin to read a file. */
static CmekStoreFile *
directory_read_begin(CmekStore *store, const char *name)
{
	DirectoryFile *file = palloc0(sizeof(DirectoryFile));

	file->file.store = store;
	file->path = path_of((DirectoryStore *) store, name);
	file->fd = OpenTransientFile(file->path, O_RDONLY | PG_BINARY);
	if (file->fd < 0)
		report_file("open", file->path);
	return &file->file;
}

/* Read on. */
static Size
directory_read(CmekStoreFile *base, void *data, Size len)
{
	DirectoryFile *file = (DirectoryFile *) base;
	Size		total = 0;

	while (total < len)
	{
		ssize_t		done = read(file->fd, (char *) data + total, len - total);

		if (done < 0)
			report_file("read", file->path);
		if (done == 0)
			break;
		total += done;
	}
	return total;
}

/* End reading. */
static void
directory_read_end(CmekStoreFile *base)
{
	(void) CloseTransientFile(((DirectoryFile *) base)->fd);
}

/* Remove a file for good, and what a crash may have left of it. */
static bool
directory_remove(CmekStore *store, const char *name)
{
	char	   *path = path_of((DirectoryStore *) store, name);
	bool		found = unlink(path) == 0;

	if (!found && errno != ENOENT)
		report_file("remove", path);
	(void) unlink(psprintf("%s" UNFINISHED, path));
	fsync_fname(((DirectoryStore *) store)->path, true);
	return found;
}

/* Tell of every file. */
static void
directory_list(CmekStore *store, CmekStoreListed put, void *arg)
{
	const char *path = ((DirectoryStore *) store)->path;
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;

	while ((entry = ReadDir(dir, path)) != NULL)
	{
		struct stat st;

		if (entry->d_name[0] != '.' &&
			stat(psprintf("%s/%s", path, entry->d_name), &st) == 0 &&
			S_ISREG(st.st_mode))
			put(arg, entry->d_name, st.st_mtime);
	}
	FreeDir(dir);
}

static const CmekStoreOps directory_ops = {
	.create = directory_create,
	.write = directory_write,
	.finish = directory_finish,
	.abandon = directory_abandon,
	.read_begin = directory_read_begin,
	.read = directory_read,
	.read_end = directory_read_end,
	.remove = directory_remove,
	.list = directory_list,
};

/* The store in a directory, which is made when it is missing. */
static CmekStore *
directory_open(const char *path)
{
	DirectoryStore *store = palloc0(sizeof(DirectoryStore));

	store->store.ops = &directory_ops;
	store->path = pstrdup(path);
	if (strcmp(path, default_directory()) == 0)
		make_directory(psprintf("%s.cmek", DataDir));
	make_directory(store->path);
	return &store->store;
}

/* See store.h. */
char *
cmek_store_where(void)
{
	return cmek_snapshot_directory[0] != '\0' ?
		pstrdup(cmek_snapshot_directory) : default_directory();
}

/* See store.h. */
CmekStore *
cmek_store_open_at(const char *where)
{
	if (strncmp(where, "s3://", strlen("s3://")) == 0)
		return cmek_s3_store_open(where);
	return directory_open(where);
}

/* See store.h. */
bool
cmek_store_exists(const char *where)
{
	struct stat st;

	return where[0] != '/' || stat(where, &st) == 0;
}

/* See store.h. */
bool
cmek_store_list(CmekStore *store, CmekStoreListed put, void *arg)
{
	if (store->ops->list == NULL)
		return false;
	store->ops->list(store, put, arg);
	return true;
}

/* See snapshot.h. */
CmekStore *
cmek_store_open(void)
{
	return cmek_store_open_at(cmek_store_where());
}

/* See snapshot.h. */
CmekStore *
cmek_store_open_path(const char *directory)
{
	Assert(directory[0] == '/');
	return directory_open(directory);
}

/* See snapshot.h. */
void
cmek_store_close(CmekStore *store)
{
	if (store->ops->close != NULL)
		store->ops->close(store);
}

/* See snapshot.h. */
CmekStoreFile *
cmek_store_create(CmekStore *store, const char *name)
{
	return store->ops->create(store, name);
}

/* See snapshot.h. */
void
cmek_store_write(CmekStoreFile *file, const void *data, Size len)
{
	file->store->ops->write(file, data, len);
}

/* See snapshot.h. */
void
cmek_store_finish(CmekStoreFile *file)
{
	file->store->ops->finish(file);
}

/* See snapshot.h. */
void
cmek_store_abandon(CmekStoreFile *file)
{
	file->store->ops->abandon(file);
}

/* See snapshot.h. */
CmekStoreFile *
cmek_store_read_begin(CmekStore *store, const char *name)
{
	return store->ops->read_begin(store, name);
}

/* See snapshot.h. */
Size
cmek_store_read(CmekStoreFile *file, void *data, Size len)
{
	return file->store->ops->read(file, data, len);
}

/* See snapshot.h. */
void
cmek_store_read_end(CmekStoreFile *file)
{
	file->store->ops->read_end(file);
}

/* See snapshot.h. */
bool
cmek_store_remove(CmekStore *store, const char *name)
{
	return store->ops->remove(store, name);
}
