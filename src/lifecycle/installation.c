/*-------------------------------------------------------------------------
 *
 * installation.c
 *	  Which installation are we?  Not a restored backup, a clone, a promoted
 *	  standby of the one that wrote what is in our tables.
 *
 * All of them have the system identifier and the catalogs of the original, and
 * may have its directories beside the data directory, too.  What they do not
 * have is its file global/pg_control: the server writes it in place, as long as
 * it lives, so its inode and time of birth stay the same over restarts and
 * differ in whatever was copied.  A promotion and a recovery to a point in
 * time begin a new timeline; a cloned machine has another machine id.  What
 * remains is a copy of a whole file system that is put in the original's place
 * on the same machine.
 *
 * When in doubt it is another installation: that costs no more than time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "storage/fd.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "lifecycle/internal.h"

#define CONTROL_FILE "global/pg_control"
#define MACHINE_ID_FILE "/etc/machine-id"
#define ID_BYTES 16

/* Append what tells the control file from a copy of it. */
static void
append_control_file(StringInfo buf)
{
#ifdef STATX_BTIME
	struct statx st;

	if (statx(AT_FDCWD, CONTROL_FILE, 0, STATX_INO | STATX_BTIME, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", CONTROL_FILE)));
	appendStringInfo(buf, "%llu ", (unsigned long long) st.stx_ino);
	if (st.stx_mask & STATX_BTIME)
		appendStringInfo(buf, "%lld.%u ", (long long) st.stx_btime.tv_sec,
						 st.stx_btime.tv_nsec);
#else
	struct stat st;

	if (stat(CONTROL_FILE, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", CONTROL_FILE)));
	appendStringInfo(buf, "%llu ", (unsigned long long) st.st_ino);
#endif
}

/* Append the identity of the machine, if it has one. */
static void
append_machine(StringInfo buf)
{
	char		id[64];
	int			fd = OpenTransientFile(MACHINE_ID_FILE, O_RDONLY);
	ssize_t		len;

	if (fd < 0)
		return;
	len = read(fd, id, sizeof(id));
	(void) CloseTransientFile(fd);
	if (len > 0)
		appendBinaryStringInfo(buf, id, len);
}

/* See internal.h. */
const char *
cmek_installation(void)
{
	static char installation[2 * ID_BYTES + 1] = "";
	uint8		hash[32];
	StringInfoData buf;

	if (installation[0] != '\0')
		return installation;
	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT " %u ", GetSystemIdentifier(),
					 GetWALInsertionTimeLine());
	append_control_file(&buf);
	append_machine(&buf);
	cmek_sha256(buf.data, buf.len, hash);
	pfree(buf.data);
	for (int i = 0; i < ID_BYTES; i++)
		snprintf(installation + 2 * i, 3, "%02x", hash[i]);
	return installation;
}
