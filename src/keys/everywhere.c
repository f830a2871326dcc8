/*-------------------------------------------------------------------------
 *
 * everywhere.c
 *	  KMS keys that a superuser suspended by name in every database.
 *
 * The list lives in file cmek_suspended of the data directory, because no
 * database's table may decide for the others, and in shared memory, where it
 * is read from at start.  A change is on disk before anybody sees it; it takes
 * effect at once and no ROLLBACK undoes it.  A standby has a file of its own.
 *
 *	   cmek suspended 1
 *	   <microseconds since 2000> <role> <name>
 *	   end <CRC-32C of all lines before this one, 8 hex digits>
 *
 * with every byte of a name but letters, digits, "_", "." and "-" as %XX.  A
 * file that is not just this suspends every key: who wrote it wanted keys to
 * be out of use, and a damaged name must not bring one back.
 *
 * The list in memory is guarded by the board's lock; writers also take a lock
 * of their own, so that nobody waits for a disk with the board.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_suspended_everywhere);

#define FILE_HEAD "cmek suspended 1\n"
#define FILE_TAIL "end "
#define FILE_TAIL_LEN 13		/* with 8 hex digits and a line end */
#define MAX_NAMES 64
#define ESCAPED_MAX (3 * NAMEDATALEN + 1)
#define FILE_MAX (MAX_NAMES * (2 * ESCAPED_MAX + 32) + 64)

typedef struct EverywhereEntry
{
	char		name[NAMEDATALEN];
	CmekSuspension suspension;
} EverywhereEntry;

typedef struct EverywhereList
{
	bool		damaged;		/* the file could not be read */
	int			n;
	EverywhereEntry entries[MAX_NAMES];
} EverywhereList;

static EverywhereList *list = NULL;

Size
cmek_everywhere_shmem_size(void)
{
	return sizeof(EverywhereList);
}

/* Append a name to a line. */
static void
append_escaped(StringInfo buf, const char *name)
{
	for (const char *p = name; *p != '\0'; p++)
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			(*p >= '0' && *p <= '9') || strchr("_.-", *p) != NULL)
			appendStringInfoChar(buf, *p);
		else
			appendStringInfo(buf, "%%%02X", (unsigned char) *p);
}

/* Undo it; false when it is no name. */
static bool
unescape(const char *text, char *name)
{
	int			n = 0;

	while (*text != '\0' && n < NAMEDATALEN - 1)
	{
		unsigned int byte = (unsigned char) *text++;

		if (byte == '%')
		{
			if (sscanf(text, "%2X", &byte) != 1 || strlen(text) < 2 || byte == 0)
				return false;
			text += 2;
		}
		name[n++] = (char) byte;
	}
	name[n] = '\0';
	return n > 0 && *text == '\0';
}

/* Write the last line of a file whose other lines are "len" bytes. */
static void
format_tail(const char *text, Size len, char *tail)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, text, len);
	FIN_CRC32C(crc);
	snprintf(tail, FILE_TAIL_LEN + 1, FILE_TAIL "%08x\n", crc);
}

/* Write the file: whole, or not at all. */
static void
write_file(const EverywhereList *new_list)
{
	const char *temp = CMEK_EVERYWHERE_FILE ".tmp";
	StringInfoData buf;
	char		tail[FILE_TAIL_LEN + 1];
	int			fd;

	initStringInfo(&buf);
	appendStringInfoString(&buf, FILE_HEAD);
	for (int i = 0; i < new_list->n; i++)
	{
		appendStringInfo(&buf, INT64_FORMAT " ",
						 (int64) new_list->entries[i].suspension.since);
		append_escaped(&buf, new_list->entries[i].suspension.by);
		appendStringInfoChar(&buf, ' ');
		append_escaped(&buf, new_list->entries[i].name);
		appendStringInfoChar(&buf, '\n');
	}
	format_tail(buf.data, buf.len, tail);
	appendStringInfoString(&buf, tail);

	fd = OpenTransientFile(temp, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd >= 0)
		errno = 0;
	if (fd < 0 || write(fd, buf.data, buf.len) != buf.len)
	{
		/* a short write sets no errno; what there is of the file is no use */
		int			save_errno = errno ? errno : ENOSPC;

		unlink(temp);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp)));
	}
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", temp)));
	/* syncs the file, renames it and syncs the directory */
	durable_rename(temp, CMEK_EVERYWHERE_FILE, ERROR);
}

/* Take one line of the file apart. */
static bool
parse_line(char *line, EverywhereEntry *entry)
{
	char	   *by = strchr(line, ' ');
	char	   *name = by != NULL ? strchr(by + 1, ' ') : NULL;
	char	   *end;

	if (name == NULL)
		return false;
	*by++ = '\0';
	*name++ = '\0';
	errno = 0;
	entry->suspension.everywhere = true;
	entry->suspension.since = strtoll(line, &end, 10);
	return errno == 0 && *end == '\0' &&
		unescape(by, entry->suspension.by) && unescape(name, entry->name);
}

/* Take the file apart; false when it is not what we write. */
static bool
parse_file(char *text, Size len)
{
	char		tail[FILE_TAIL_LEN + 1];
	char	   *line = text + strlen(FILE_HEAD);
	char	   *last = text + len - FILE_TAIL_LEN;

	if (strlen(text) != len || len < strlen(FILE_HEAD) + FILE_TAIL_LEN ||
		strncmp(text, FILE_HEAD, strlen(FILE_HEAD)) != 0)
		return false;
	format_tail(text, last - text, tail);
	if (strcmp(last, tail) != 0)
		return false;
	while (line < last)
	{
		char	   *end = strchr(line, '\n');

		if (end == NULL || end >= last || list->n == MAX_NAMES)
			return false;
		*end = '\0';
		if (!parse_line(line, &list->entries[list->n]))
			return false;
		list->n++;
		line = end + 1;
	}
	return true;
}

/* Read the file at start; there being none is the usual case. */
static bool
read_file(void)
{
	char	   *text;
	int			fd = open(CMEK_EVERYWHERE_FILE, O_RDONLY | PG_BINARY);
	ssize_t		len;
	bool		ok;

	if (fd < 0)
		return errno == ENOENT;
	text = palloc(FILE_MAX);
	len = read(fd, text, FILE_MAX - 1);
	close(fd);
	ok = len >= 0;
	if (ok)
	{
		text[len] = '\0';
		ok = parse_file(text, len);
	}
	pfree(text);
	return ok;
}

/* Find or make the list in shared memory, and fill it from the file. */
void
cmek_everywhere_shmem_init(void)
{
	bool		found;

	list = ShmemInitStruct("cmek suspended keys", sizeof(EverywhereList),
						   &found);
	if (found)
		return;
	memset(list, 0, sizeof(EverywhereList));
	list->damaged = !read_file();
	if (list->damaged)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" in the data directory cannot be read",
						CMEK_EVERYWHERE_FILE),
				 errdetail("Every KMS key is suspended."),
				 errhint("Repair the file, or remove it, and restart the server.")));
}

/* The place of a name: caller holds the board's lock. */
static int
find_name(const char *name)
{
	int			i = 0;

	while (i < list->n && strcmp(list->entries[i].name, name) != 0)
		i++;
	return i;
}

/* See internal.h. */
bool
cmek_everywhere_find_locked(const char *name, CmekSuspension *suspension)
{
	int			i = find_name(name);

	if (i < list->n)
		*suspension = list->entries[i].suspension;
	else if (list->damaged)
	{
		memset(suspension, 0, sizeof(CmekSuspension));
		suspension->everywhere = true;
	}
	return i < list->n || list->damaged;
}

/* The same without the board's lock. */
bool
cmek_everywhere_find(const char *name, CmekSuspension *suspension)
{
	bool		found;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	found = cmek_everywhere_find_locked(name, suspension);
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	return found;
}

/* Complain about a list that nobody knows. */
static void
check_undamaged(void)
{
	if (list->damaged)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" in the data directory cannot be read",
						CMEK_EVERYWHERE_FILE),
				 errhint("Repair the file, or remove it, and restart the server.")));
}

/* Put a changed list in place: on disk, then in memory, with its effects. */
static void
replace_list(const EverywhereList *new_list, const char *suspended)
{
	write_file(new_list);
	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_EXCLUSIVE);
	memcpy(list, new_list, sizeof(EverywhereList));
	if (suspended != NULL)
		cmek_server_suspend_named(suspended);
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
}

/* Suspend a name. */
void
cmek_everywhere_add(const char *name, const char *by)
{
	EverywhereList *copy = palloc(sizeof(EverywhereList));
	EverywhereEntry *entry;

	LWLockAcquire(cmek_lock(CMEK_LOCK_EVERYWHERE), LW_EXCLUSIVE);
	check_undamaged();
	memcpy(copy, list, sizeof(EverywhereList));
	if (find_name(name) == list->n)
	{
		if (list->n == MAX_NAMES)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("cannot suspend more than %d KMS keys everywhere",
							MAX_NAMES)));
		entry = &copy->entries[copy->n++];
		memset(entry, 0, sizeof(EverywhereEntry));
		strlcpy(entry->name, name, NAMEDATALEN);
		strlcpy(entry->suspension.by, by, NAMEDATALEN);
		entry->suspension.everywhere = true;
		entry->suspension.since = GetCurrentTimestamp();
		replace_list(copy, name);
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_EVERYWHERE));
	ereport(LOG,
			(errmsg("KMS key \"%s\" was suspended in every database by role \"%s\"",
					name, by)));
}

/* Resume a name. */
void
cmek_everywhere_remove(const char *name)
{
	EverywhereList *copy = palloc(sizeof(EverywhereList));
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_EVERYWHERE), LW_EXCLUSIVE);
	check_undamaged();
	memcpy(copy, list, sizeof(EverywhereList));
	i = find_name(name);
	if (i < list->n)
	{
		copy->n--;
		memmove(&copy->entries[i], &copy->entries[i + 1],
				(copy->n - i) * sizeof(EverywhereEntry));
		replace_list(copy, NULL);
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_EVERYWHERE));
	ereport(LOG,
			(errmsg("KMS key \"%s\" was resumed in every database", name)));
}

/* May the caller know that a name is suspended? */
static bool
may_see(const char *name)
{
	Oid			server = get_foreign_server_oid(name, true);

	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		(OidIsValid(server) &&
		 cmek_server_aclcheck(server, GetUserId(), ACL_USAGE) == ACLCHECK_OK);
}

/* SQL: the names suspended everywhere, of keys that the caller may use. */
Datum
cmek_suspended_everywhere(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EverywhereList *copy = palloc(sizeof(EverywhereList));

	cmek_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	memcpy(copy, list, sizeof(EverywhereList));
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	for (int i = 0; i < copy->n; i++)
	{
		EverywhereEntry *entry = &copy->entries[i];
		Datum		values[3];
		bool		nulls[3] = {false};

		if (!may_see(entry->name))
			continue;
		/* both are padded with zeros */
		values[0] = CStringGetDatum(entry->name);
		values[1] = TimestampTzGetDatum(entry->suspension.since);
		values[2] = CStringGetDatum(entry->suspension.by);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
