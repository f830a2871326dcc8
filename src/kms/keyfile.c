/*-------------------------------------------------------------------------
 *
 * keyfile.c
 *	  Key files, and the fingerprint of the service key in the data directory.
 *
 * A key file holds one line, "cmek-service-key-1 " and 64 hex digits; the
 * digits alone do as well.  Nobody but its owner may read it.
 *
 * A key file is made only by cmek_keyfile_create, and it appears whole or not
 * at all, never over another one: it is written and fsynced under a temporary
 * name, linked to its own, and the directory fsynced.  The fingerprint is
 * written after the key file is durable and before the key is used.  So after
 * a crash at any point there is either no key, or a key that nothing was
 * wrapped with yet and that the next call adopts, or both.
 *
 * Everything here runs in KMS workers: it reports by answers, so that no file
 * descriptor and no key bytes are left behind by an ERROR.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/internal.h"

#define KEY_LINE_PREFIX "cmek-service-key-1 "
#define KEY_HEX_LEN (2 * CMEK_KEY_LEN)
#define KEY_LINE_MAX 128
#define FINGERPRINT_FILE "cmek_service_key.fingerprint"
#define FINGERPRINT_DOMAIN "cmek service key fingerprint"

/* Turn hex digits into bytes; false when one is none. */
static bool
parse_hex(const char *hex, uint8 *out, int len)
{
	for (int i = 0; i < 2 * len; i++)
	{
		char		c = hex[i];
		int			digit;

		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			return false;
		out[i / 2] = (i % 2 == 0) ? digit << 4 : out[i / 2] | digit;
	}
	return true;
}

/* Write bytes as hex digits, with a terminating NUL. */
static void
format_hex(const uint8 *bytes, int len, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < len; i++)
	{
		*out++ = digits[bytes[i] >> 4];
		*out++ = digits[bytes[i] & 15];
	}
	*out = '\0';
}

/* The key in one line of text, with or without a line end; false when none. */
bool
cmek_keyfile_parse(const char *text, uint8 *key)
{
	Size		len = strlen(text);

	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	if (len == strlen(KEY_LINE_PREFIX) + KEY_HEX_LEN &&
		strncmp(text, KEY_LINE_PREFIX, strlen(KEY_LINE_PREFIX)) == 0)
		return parse_hex(text + strlen(KEY_LINE_PREFIX), key, CMEK_KEY_LEN);
	if (len == KEY_HEX_LEN)
		return parse_hex(text, key, CMEK_KEY_LEN);
	return false;
}

/* What names a key without telling it: half of an HMAC, in hex. */
void
cmek_fingerprint_of(const uint8 *key, char *fingerprint)
{
	uint8		mac[32];

	cmek_hmac_sha256(key, CMEK_KEY_LEN, FINGERPRINT_DOMAIN,
					 strlen(FINGERPRINT_DOMAIN), mac);
	format_hex(mac, CMEK_FINGERPRINT_LEN / 2, fingerprint);
}

/* Where the service key lies unless a setting says otherwise.  palloc'd. */
char *
cmek_keyfile_default_path(void)
{
	return psprintf("%s.cmek/service_key", DataDir);
}

/* Answer that the system refused an operation on a file. */
static bool
answer_errno(CmekKmsAnswer *answer, const char *what, const char *path)
{
	int			save_errno = errno;

	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileError",
					"could not %s \"%s\": %s", what, path,
					strerror(save_errno));
	return false;
}

/* Read up to size - 1 bytes and terminate them; -1 with errno on failure. */
static int
read_all(int fd, char *buf, int size)
{
	int			len = 0;

	while (len < size - 1)
	{
		int			n = read(fd, buf + len, size - 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		len += n;
	}
	buf[len] = '\0';
	return len;
}

/* Is an opened key file a file of ours that nobody else can read? */
static bool
check_permissions(int fd, const char *path, CmekKmsAnswer *answer)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return answer_errno(answer, "examine key file", path);
	if (!S_ISREG(st.st_mode))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileType",
						"key file \"%s\" is not a regular file", path);
	else if (st.st_uid != geteuid() && st.st_uid != 0)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileOwner",
						"key file \"%s\" belongs neither to the database user nor to root",
						path);
	else if (st.st_mode & (S_IRWXG | S_IRWXO))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFilePermissions",
						"key file \"%s\" has group or world access; its permissions must be u=rw (0600) or less",
						path);
	else
		return true;
	return false;
}

/* Read and parse a key file that is already open. */
static bool
read_open_keyfile(int fd, const char *path, uint8 *key, CmekKmsAnswer *answer)
{
	char		text[KEY_LINE_MAX];
	bool		ok = false;

	if (!check_permissions(fd, path, answer))
		return false;
	if (read_all(fd, text, sizeof(text)) < 0)
		answer_errno(answer, "read key file", path);
	else if (!(ok = cmek_keyfile_parse(text, key)))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileFormat",
						"key file \"%s\" does not hold a key of 64 hexadecimal digits",
						path);
	cmek_cleanse(text, sizeof(text));
	return ok;
}

/*
 * Read a key file.  A path that does not exist is for the caller to judge;
 * the answer is filled in only for CMEK_KEYFILE_FAILED.
 */
CmekKeyFileResult
cmek_keyfile_read(const char *path, uint8 *key, CmekKmsAnswer *answer)
{
	/* O_NONBLOCK: a FIFO put there must not stop the worker */
	int			fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	bool		ok;

	if (fd < 0)
	{
		if (errno == ENOENT || errno == ENOTDIR)
			return CMEK_KEYFILE_MISSING;
		answer_errno(answer, "open key file", path);
		return CMEK_KEYFILE_FAILED;
	}
	ok = read_open_keyfile(fd, path, key, answer);
	close(fd);
	return ok ? CMEK_KEYFILE_FOUND : CMEK_KEYFILE_FAILED;
}

/* Write a new file of mode 0600, whole and fsynced; errno on failure. */
static bool
write_new_file(const char *path, const char *text)
{
	int			fd;
	ssize_t		len = strlen(text);
	int			save_errno;

	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		return false;
	errno = 0;
	if (write(fd, text, len) == len && pg_fsync(fd) == 0)
	{
		if (close(fd) == 0)
			return true;
		fd = -1;
	}
	save_errno = errno ? errno : ENOSPC;
	if (fd >= 0)
		close(fd);
	unlink(path);
	errno = save_errno;
	return false;
}

/* fsync a directory; errno on failure. */
static bool
sync_directory(const char *path)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	int			rc;

	if (fd < 0)
		return false;
	rc = pg_fsync(fd);
	close(fd);
	return rc == 0;
}

/* Make the directory of a key file when it is not there yet. */
static bool
make_directory(const char *directory, CmekKmsAnswer *answer)
{
	char		parent[MAXPGPATH];

	if (mkdir(directory, S_IRWXU) != 0)
		return errno == EEXIST ||
			answer_errno(answer, "create directory", directory);
	strlcpy(parent, directory, sizeof(parent));
	get_parent_directory(parent);
	return sync_directory(parent) ||
		answer_errno(answer, "fsync directory", parent);
}

/* Put a finished temporary file in its place, never over another one. */
static bool
publish(const char *temp, const char *path, const char *directory,
		CmekKmsAnswer *answer)
{
	/* EEXIST: another worker was faster, and its key is as good */
	bool		ok = (link(temp, path) == 0 || errno == EEXIST) ||
		answer_errno(answer, "create key file", path);

	unlink(temp);
	return ok && (sync_directory(directory) ||
				  answer_errno(answer, "fsync directory", directory));
}

/*
 * Make a key file with a new random key, unless there is one already.  The
 * caller has made sure that no key was ever used in this installation, and
 * reads the file afterwards.
 */
bool
cmek_keyfile_create(const char *path, CmekKmsAnswer *answer)
{
	char		directory[MAXPGPATH];
	char		temp[MAXPGPATH];
	char		text[KEY_LINE_MAX];
	uint8		key[CMEK_KEY_LEN];
	bool		ok;

	if (path_is_prefix_of_path(DataDir, path))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileInDataDirectory",
						"key file \"%s\" would lie inside the data directory, and so in every copy of it",
						path);
		return false;
	}
	strlcpy(directory, path, sizeof(directory));
	get_parent_directory(directory);
	if (!make_directory(directory, answer))
		return false;

	snprintf(temp, sizeof(temp), "%s.%d.tmp", path, MyProcPid);
	unlink(temp);				/* left by a crash, never in use */
	cmek_random(key, sizeof(key));
	strlcpy(text, KEY_LINE_PREFIX, sizeof(text));
	format_hex(key, sizeof(key), text + strlen(text));
	strlcat(text, "\n", sizeof(text));
	ok = write_new_file(temp, text) ||
		answer_errno(answer, "write key file", temp);
	cmek_cleanse(text, sizeof(text));
	cmek_cleanse(key, sizeof(key));
	return ok && publish(temp, path, directory, answer);
}

/* The fingerprint recorded in the data directory; "" when there is none. */
bool
cmek_fingerprint_read(char *recorded, CmekKmsAnswer *answer)
{
	uint8		scratch[CMEK_FINGERPRINT_LEN / 2];
	char		text[KEY_LINE_MAX];
	int			fd = open(FINGERPRINT_FILE, O_RDONLY | O_CLOEXEC);
	int			len;

	recorded[0] = '\0';
	if (fd < 0)
		return errno == ENOENT ||
			answer_errno(answer, "open file", FINGERPRINT_FILE);
	len = read_all(fd, text, sizeof(text));
	close(fd);
	if (len < 0)
		return answer_errno(answer, "read file", FINGERPRINT_FILE);
	/* a damaged record must not pass for "no key yet" */
	if (len != CMEK_FINGERPRINT_LEN + 1 || text[len - 1] != '\n' ||
		!parse_hex(text, scratch, sizeof(scratch)))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "FingerprintFormat",
						"file \"%s\" in the data directory does not hold a fingerprint",
						FINGERPRINT_FILE);
		return false;
	}
	strlcpy(recorded, text, CMEK_FINGERPRINT_LEN + 1);
	return true;
}

/* Record a fingerprint in the data directory, durably. */
bool
cmek_fingerprint_write(const char *fingerprint, CmekKmsAnswer *answer)
{
	char		temp[MAXPGPATH];
	char		text[CMEK_FINGERPRINT_LEN + 2];

	snprintf(temp, sizeof(temp), "%s.%d.tmp", FINGERPRINT_FILE, MyProcPid);
	unlink(temp);
	snprintf(text, sizeof(text), "%s\n", fingerprint);
	if (!write_new_file(temp, text))
		return answer_errno(answer, "write file", temp);
	if (rename(temp, FINGERPRINT_FILE) != 0)
	{
		answer_errno(answer, "write file", FINGERPRINT_FILE);
		unlink(temp);
		return false;
	}
	return sync_directory(".") ||
		answer_errno(answer, "fsync directory", ".");
}
