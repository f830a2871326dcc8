/*-------------------------------------------------------------------------
 *
 * p11pin.c
 *	  Never twice the same wrong PIN.
 *
 * A token locks itself after some wrong PINs, three for many, and its owner
 * may have no way back.  A KMS worker asks again and again, there are several
 * workers, and they are restarted: so what a token refused is written to a
 * file, which outlives the server, before anybody can try it again.
 *
 *	 lock (this PIN of this token) -> known? refuse
 *								   -> C_Login -> refused? append, fsync -> unlock
 *
 * The file is beside the service key, outside of the data directory and its
 * backups, of mode 0600.  It holds no PIN but a salted digest, which changes
 * when the module, the token or the PIN in the options does; so a corrected
 * option is tried at once.  When the PIN was right after all (the token was
 * changed), removing the file forgets.  If nothing can be written, nobody logs
 * in.
 *
 * Locks are ranges of the file: one for its end, and one per PIN far beyond
 * it, so that a token that hangs holds up no other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/p11.h"

#define MAX_REFUSED 4096
#define RETRY_MS 20
/* where the locks are; nothing is ever written there */
#define LOCK_OF_FILE ((off_t) 1 << 40)
#define LOCKS_OF_PINS ((off_t) 1 << 41)

/* Answer that the file cannot be used. */
static bool
answer_file(const char *problem, CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "RefusedPinFile",
					"no PIN is tried, because one that is refused could not be remembered in \"%s.cmek/refused_pins\": %s",
					DataDir, problem);
	return false;
}

/* Lock or unlock a byte; false when somebody else has it. */
static bool
try_lock(int fd, int type, off_t at)
{
	struct flock lock;

	memset(&lock, 0, sizeof(lock));
	lock.l_type = type;
	lock.l_whence = SEEK_SET;
	lock.l_start = at;
	lock.l_len = 1;
	/* of the open file, not of the process: any close would drop those */
	return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* Wait for a lock until the deadline. */
static bool
wait_lock(int fd, off_t at, CmekInstant deadline, CmekKmsAnswer *answer)
{
	while (!try_lock(fd, F_WRLCK, at))
	{
		if (errno != EAGAIN && errno != EACCES)
			return answer_file(strerror(errno), answer);
		if (ShutdownRequestPending || cmek_now() >= deadline)
		{
			cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "ModuleTimeout",
							"another KMS worker waits for the same token");
			return false;
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 RETRY_MS, cmek_wait_event("CmekKmsModule"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* Open the file, made when it is not there. */
static int
open_file(void)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s.cmek", DataDir);
	if (mkdir(path, S_IRWXU) != 0 && errno != EEXIST)
		return -1;
	strlcat(path, "/refused_pins", sizeof(path));
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
}

/* Read the header; write it into a file that has none.  The file is locked. */
static bool
read_header(int fd, CmekRefusedPins *header, CmekKmsAnswer *answer)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return answer_file(strerror(errno), answer);
	if (st.st_size < (off_t) sizeof(CmekRefusedPins))
	{
		memcpy(header->magic, CMEK_REFUSED_PIN_MAGIC, sizeof(header->magic));
		cmek_random(header->salt, sizeof(header->salt));
		if (pwrite(fd, header, sizeof(*header), 0) != (ssize_t) sizeof(*header) ||
			fsync(fd) != 0)
			return answer_file(strerror(errno), answer);
		return true;
	}
	if (pread(fd, header, sizeof(*header), 0) != (ssize_t) sizeof(*header) ||
		memcmp(header->magic, CMEK_REFUSED_PIN_MAGIC, sizeof(header->magic)) != 0)
		return answer_file("it is not such a file, or damaged", answer);
	return true;
}

/* The digest of a PIN for a token of a module. */
static void
digest_pin(const uint8 *salt, const char *module, const char *token,
		   const char *pin, uint8 *digest)
{
	const char *const parts[] = {module, token, pin};
	uint8		key[CMEK_REFUSED_PIN_LEN];

	memcpy(key, salt, sizeof(key));
	for (Size i = 0; i < lengthof(parts); i++)
	{
		cmek_hmac_sha256(key, sizeof(key), parts[i], strlen(parts[i]) + 1, digest);
		memcpy(key, digest, sizeof(key));
	}
	cmek_cleanse(key, sizeof(key));
}

/* Where the n-th digest is */
static off_t
place_of(int n)
{
	return sizeof(CmekRefusedPins) + (off_t) n * CMEK_REFUSED_PIN_LEN;
}

/* Is a digest in the file?  *n: how many whole ones there are. */
static bool
is_known(int fd, const uint8 *digest, int *n)
{
	uint8		other[CMEK_REFUSED_PIN_LEN];
	bool		found = false;

	for (*n = 0; *n < MAX_REFUSED &&
		 pread(fd, other, sizeof(other), place_of(*n)) == (ssize_t) sizeof(other);
		 (*n)++)
		found |= memcmp(other, digest, sizeof(other)) == 0;
	return found;
}

/* The lock of a digest: two that share one only wait for each other. */
static off_t
lock_of(const uint8 *digest)
{
	uint32		number;

	memcpy(&number, digest, sizeof(number));
	return LOCKS_OF_PINS + number;
}

/* May a PIN be tried?  Its lock is held. */
static bool
check_pin(const P11PinLock *lock, CmekKmsAnswer *answer)
{
	int			n;

	if (is_known(lock->fd, lock->digest, &n))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "PinRefusedBefore",
						"the token refused this PIN before, and it is not tried again");
		return false;
	}
	return n < MAX_REFUSED || answer_file("it is full", answer);
}

/* See p11.h. */
bool
cmek_p11_pin_lock(const char *module, const char *token, const char *pin,
				  CmekInstant deadline, P11PinLock *lock,
				  CmekKmsAnswer *answer)
{
	CmekRefusedPins header;
	bool		ok;

	lock->fd = open_file();
	if (lock->fd < 0)
		return answer_file(strerror(errno), answer);
	ok = wait_lock(lock->fd, LOCK_OF_FILE, deadline, answer) &&
		read_header(lock->fd, &header, answer);
	(void) try_lock(lock->fd, F_UNLCK, LOCK_OF_FILE);
	if (ok)
	{
		digest_pin(header.salt, module, token, pin, lock->digest);
		ok = wait_lock(lock->fd, lock_of(lock->digest), deadline, answer) &&
			check_pin(lock, answer);
	}
	if (!ok)
		cmek_p11_pin_unlock(lock);
	return ok;
}

/* See p11.h.  A digest that was written in part is written over. */
bool
cmek_p11_pin_refused(const P11PinLock *lock, CmekKmsAnswer *answer)
{
	int			n;
	bool		ok;

	while (!try_lock(lock->fd, F_WRLCK, LOCK_OF_FILE) &&
		   (errno == EAGAIN || errno == EACCES || errno == EINTR))
		pg_usleep(1000L);
	ok = is_known(lock->fd, lock->digest, &n) ||
		(pwrite(lock->fd, lock->digest, CMEK_REFUSED_PIN_LEN, place_of(n)) == CMEK_REFUSED_PIN_LEN &&
		 fsync(lock->fd) == 0);
	if (!ok)
		(void) answer_file(strerror(errno), answer);
	(void) try_lock(lock->fd, F_UNLCK, LOCK_OF_FILE);
	return ok;
}

/* See p11.h.  Closing the file gives its locks back. */
void
cmek_p11_pin_unlock(P11PinLock *lock)
{
	close(lock->fd);
	lock->fd = -1;
}
