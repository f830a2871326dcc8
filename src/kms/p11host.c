/*-------------------------------------------------------------------------
 *
 * p11host.c
 *	  The processes that PKCS#11 modules live in.
 *
 * A module is somebody else's code: it may hang for good, crash, leave threads
 * behind and forbid fork.  In the KMS worker itself a crash would restart the
 * whole server, and a hang could be ended by no time-out.  So a worker forks a
 * process for it, which gives up the server's shared memory before it loads
 * anything, and asks it by messages:
 *
 *	 worker: fork --> socketpair --> order --> wait (latch, deadline) --> report
 *	 host:	 signals default, files closed, shared memory detached, serve
 *
 * Invariants: no host has two sets of credentials, for a login is the whole
 * process's; a host that did not report by its deadline is killed; hosts end
 * with their worker, however that ends.  Secret memory of the worker is wiped
 * in the fork (crypto/secret.c), so a host knows its own PIN and no more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/pg_shmem.h"
#include "utils/ps_status.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/p11.h"

#define MAX_HOSTS 8
#define POLITE_MS 100			/* to leave by itself */
#define MAX_MAPPINGS 256

struct P11Host
{
	pid_t		pid;			/* 0: none */
	int			fd;
	bool		busy;			/* a report is due: an ERROR came between */
	uint64		used;
	uint8		id[CMEK_TOKEN_ID_LEN];
};

static P11Host hosts[MAX_HOSTS];
static uint64 clock_of_use = 0;

/*
 * In the fork: give up all memory that is shared, whose it ever is.  Main
 * shared memory is known to the server; dynamic shared memory has counts of
 * users that are not ours to change.
 */
static void
unmap_shared(void)
{
	static unsigned long ranges[MAX_MAPPINGS][2];
	FILE	   *maps;
	char		mapping[1024];
	int			n = 0;

	PGSharedMemoryDetach();
	maps = fopen("/proc/self/maps", "r");
	while (maps != NULL && n < MAX_MAPPINGS &&
		   fgets(mapping, sizeof(mapping), maps) != NULL)
	{
		char		permissions[8];

		if (sscanf(mapping, "%lx-%lx %7s", &ranges[n][0], &ranges[n][1], permissions) == 3 &&
			permissions[3] == 's')
			n++;
	}
	/* nothing is loaded beside memory that we cannot give up */
	if (maps == NULL || n == MAX_MAPPINGS)
		_exit(1);
	fclose(maps);
	for (int i = 0; i < n; i++)
		(void) munmap((void *) ranges[i][0], ranges[i][1] - ranges[i][0]);
}

/* In the fork: be nothing of the server's any more, and serve. */
static void
become_host(int fd, pid_t parent)
{
	struct sigaction dfl;
	sigset_t	none;

	memset(&dfl, 0, sizeof(dfl));
	dfl.sa_handler = SIG_DFL;
	for (int i = 1; i < NSIG; i++)
		(void) sigaction(i, &dfl, NULL);
	/* the server's signals go to the group of the worker */
	(void) setpgid(0, 0);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
		dup2(fd, 3) != 3)
		_exit(1);
	closefrom(4);
	/* cut no core of what is to be kept secret, and hold no shared memory */
	if (!cmek_allow_core_dumps)
		(void) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	set_ps_display("PKCS#11 module");
	unmap_shared();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	cmek_p11_serve(3);
}

/* Fork a host; false with errno. */
static bool
fork_host(P11Host *host)
{
	pid_t		parent = getpid();
	sigset_t	all;
	sigset_t	old;
	int			pair[2];
	int			save_errno;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return false;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	host->pid = fork();
	if (host->pid == 0)
		become_host(pair[1], parent);
	save_errno = errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(pair[1]);
	if (host->pid > 0)
	{
		host->fd = pair[0];
		return true;
	}
	host->pid = 0;
	close(pair[0]);
	errno = save_errno;
	return false;
}

/* Wait for the end of a host, for a while if need be; its status. */
static int
reap(P11Host *host, int wait_ms)
{
	int			status = 0;

	close(host->fd);
	for (int waited = 0; waited < wait_ms; waited++)
	{
		if (waitpid(host->pid, &status, WNOHANG) != 0)
			goto gone;
		pg_usleep(1000L);
	}
	kill(host->pid, SIGKILL);
	while (waitpid(host->pid, &status, 0) < 0 && errno == EINTR)
		;
gone:
	host->pid = 0;
	return status;
}

/* See p11.h.  Closing the socket asks it to go. */
void
cmek_p11_stop(P11Host *host)
{
	(void) reap(host, host->busy ? 0 : POLITE_MS);
}

/* See p11.h. */
P11Host *
cmek_p11_find(const uint8 *id)
{
	for (int i = 0; i < MAX_HOSTS; i++)
	{
		P11Host    *host = &hosts[i];

		if (host->pid == 0 || memcmp(host->id, id, CMEK_TOKEN_ID_LEN) != 0)
			continue;
		if (host->busy)
		{
			cmek_p11_stop(host);
			return NULL;
		}
		host->used = ++clock_of_use;
		return host;
	}
	return NULL;
}

/* See p11.h.  Room is made by the host that was not used for longest. */
P11Host *
cmek_p11_start(const uint8 *id, CmekKmsAnswer *answer)
{
	P11Host    *host = &hosts[0];

	for (int i = 1; i < MAX_HOSTS && host->pid != 0; i++)
		if (hosts[i].pid == 0 || hosts[i].used < host->used)
			host = &hosts[i];
	if (host->pid != 0)
		cmek_p11_stop(host);
	memset(host, 0, sizeof(P11Host));
	memcpy(host->id, id, CMEK_TOKEN_ID_LEN);
	host->used = ++clock_of_use;
	if (fork_host(host))
		return host;
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "OutOfProcesses",
					"could not start a process for the PKCS#11 module: %s",
					strerror(errno));
	return NULL;
}

/* A module has been in the same process: its report is not to be trusted. */
static bool
is_well_formed(P11Report *report)
{
	CmekKmsAnswer *answer = &report->answer;

	answer->code[sizeof(answer->code) - 1] = '\0';
	answer->message[sizeof(answer->message) - 1] = '\0';
	answer->key_id[sizeof(answer->key_id) - 1] = '\0';
	answer->key_version[sizeof(answer->key_version) - 1] = '\0';
	return (unsigned) answer->klass <= CMEK_KMS_CORRUPT &&
		answer->blob_len <= sizeof(answer->blob);
}

/* Say how a host ended that gave no report. */
static void
answer_silence(P11Host *host, bool timely, CmekKmsAnswer *answer)
{
	int			status;

	if (!timely)
	{
		(void) reap(host, 0);
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE,
						ShutdownRequestPending ? "Shutdown" : "ModuleTimeout",
						"the PKCS#11 module did not answer in time, and its process was ended");
		return;
	}
	status = reap(host, POLITE_MS);
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "ModuleCrashed",
					"the process of the PKCS#11 module ended by %s %d",
					WIFSIGNALED(status) ? "signal" : "exit code",
					WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* See p11.h. */
bool
cmek_p11_ask(P11Host *host, const P11Order *order, CmekInstant deadline,
			 P11Report *report)
{
	bool		timely = true;
	ssize_t		n = -1;

	host->busy = true;
	if (send(host->fd, order, sizeof(P11Order), MSG_NOSIGNAL) == (ssize_t) sizeof(P11Order))
	{
		timely = cmek_kms_wait_readable(host->fd, deadline,
										cmek_wait_event("CmekKmsModule"));
		if (timely)
			n = recv(host->fd, report, sizeof(P11Report), MSG_DONTWAIT);
	}
	if (n == (ssize_t) sizeof(P11Report) && is_well_formed(report))
	{
		host->busy = false;
		return true;
	}
	memset(report, 0, sizeof(P11Report));
	report->broken = true;
	answer_silence(host, timely, &report->answer);
	return false;
}
