/*-------------------------------------------------------------------------
 *
 * readfile.c
 *	  Files that hold credentials.
 *
 * Read afresh whenever they are needed, because others renew them in place.
 * What they hold never reaches a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "kms/http.h"

/* Answer for a file that cannot be used. */
static void
answer_file(CmekKmsAnswer *answer, const char *path, const char *problem)
{
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "CredentialFile",
					"could not read credential file \"%s\": %s", path, problem);
}

/* Read an open file to its end; its length, or -1 when it is too long. */
static ssize_t
read_all(int fd, char *out, Size max)
{
	Size		len = 0;
	ssize_t		n;

	for (;;)
	{
		n = read(fd, out + len, max + 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			return len;
		len += n;
		if (len > max)
		{
			errno = EFBIG;
			return -1;
		}
	}
}

/* Read a file into secret memory: see http.h. */
char *
cmek_kms_read_file(const char *path, Size max, bool *missing,
				   CmekKmsAnswer *answer)
{
	/* a FIFO must not hold us up */
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char	   *text;
	ssize_t		len;

	if (missing != NULL)
		*missing = fd < 0 && (errno == ENOENT || errno == ENOTDIR);
	if (fd < 0)
	{
		answer_file(answer, path, strerror(errno));
		return NULL;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
	{
		close(fd);
		answer_file(answer, path, "it is not a regular file");
		return NULL;
	}
	text = cmek_secret_alloc_in(CurrentMemoryContext, max + 2);
	len = read_all(fd, text, max);
	if (len < 0)
		answer_file(answer, path, strerror(errno));
	close(fd);
	if (len < 0)
		return NULL;
	text[len] = '\0';
	return text;
}
