/*-------------------------------------------------------------------------
 *
 * command.c
 *	  Fetches the service key by cmek.service_key_command.
 *
 * The command runs in a process group of its own, which is killed when the
 * deadline passes or the worker has to go: a command that hangs costs one
 * worker one deadline and nothing more.  What the command prints is a secret
 * and is never logged; its standard error goes to the server log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

#include "compat.h"
#include "kms/internal.h"

extern char **environ;

/* How a reading of the command's output ended */
typedef enum ReadEnd
{
	READ_LINE,					/* a whole line, or the end of the output */
	READ_TOO_LONG,
	READ_TIMEOUT,
	READ_FAILED
} ReadEnd;

/* Attributes of the child: own process group, no signal blocked or ignored. */
static int
set_attributes(posix_spawnattr_t *attr)
{
	sigset_t	none;
	sigset_t	all;
	int			rc;

	sigemptyset(&none);
	sigfillset(&all);
	if ((rc = posix_spawnattr_setpgroup(attr, 0)) != 0 ||
		(rc = posix_spawnattr_setsigmask(attr, &none)) != 0 ||
		(rc = posix_spawnattr_setsigdefault(attr, &all)) != 0)
		return rc;
	return posix_spawnattr_setflags(attr, POSIX_SPAWN_SETPGROUP |
									POSIX_SPAWN_SETSIGMASK |
									POSIX_SPAWN_SETSIGDEF);
}

/* Start the command with its output on "out"; 0 or an errno. */
static int
start_command(const char *command, int out, pid_t *pid)
{
	char	   *argv[] = {"sh", "-c", unconstify(char *, command), NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int			rc;

	if ((rc = posix_spawn_file_actions_init(&actions)) != 0)
		return rc;
	if ((rc = posix_spawnattr_init(&attr)) != 0)
	{
		posix_spawn_file_actions_destroy(&actions);
		return rc;
	}
	rc = set_attributes(&attr);
	if (rc == 0)
		rc = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO,
											  "/dev/null", O_RDONLY, 0);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	if (rc == 0)
		rc = posix_spawn(pid, "/bin/sh", &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return rc;
}

/* Read up to the end of a line, of the output, or of the time. */
static ReadEnd
read_line(int fd, char *line, Size size, CmekInstant deadline)
{
	Size		len = 0;

	line[0] = '\0';
	while (cmek_kms_wait_readable(fd, deadline, PG_WAIT_EXTENSION))
	{
		ssize_t		n = read(fd, line + len, size - 1 - len);

		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return READ_FAILED;
		len += n;
		line[len] = '\0';
		if (n == 0)
			return READ_LINE;
		if (strchr(line, '\n') != NULL)
		{
			*strchr(line, '\n') = '\0';
			return READ_LINE;
		}
		if (len == size - 1)
			return READ_TOO_LONG;
	}
	return READ_TIMEOUT;
}

/* Wait for the command to end; kill its group when the time is over. */
static int
reap(pid_t pid, CmekInstant deadline)
{
	int			status = 0;
	bool		killed = false;

	for (;;)
	{
		pid_t		rc = waitpid(pid, &status, killed ? 0 : WNOHANG);

		if (rc == pid)
			return status;
		if (rc < 0 && errno != EINTR)
			return -1;
		if (rc == 0 &&
			(ShutdownRequestPending || cmek_now() >= deadline))
		{
			kill(-pid, SIGKILL);
			killed = true;
		}
		else if (rc == 0)
			pg_usleep(1000L);
	}
}

/* Turn the end of the reading and of the command into an answer. */
static bool
judge(ReadEnd end, int status, CmekKmsAnswer *answer)
{
	if (end == READ_TIMEOUT)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "KeyCommandTimeout",
						"cmek.service_key_command did not answer in time");
	else if (end == READ_TOO_LONG)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyFileFormat",
						"cmek.service_key_command printed too long a line");
	else if (end == READ_FAILED || status == -1)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "KeyCommandFailed",
						"could not read from cmek.service_key_command");
	/* SIGPIPE: it had more to say than the line that we wanted */
	else if (WIFSIGNALED(status) && WTERMSIG(status) != SIGPIPE)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "KeyCommandFailed",
						"cmek.service_key_command was terminated by signal %d",
						WTERMSIG(status));
	else if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "KeyCommandFailed",
						"cmek.service_key_command ended with exit code %d",
						WEXITSTATUS(status));
	else
		return true;
	return false;
}

/*
 * Run a shell command and read the first line it prints, without its line
 * end.  False, with the answer filled in, when there is none in time.  The
 * caller cleanses the line.
 */
bool
cmek_command_read_line(const char *command, char *line, Size size,
					   CmekInstant deadline, CmekKmsAnswer *answer)
{
	int			fds[2];
	pid_t		pid;
	ReadEnd		end;
	int			status;
	int			rc;

	if (pipe2(fds, O_CLOEXEC) != 0)
		rc = errno;
	else
	{
		rc = start_command(command, fds[1], &pid);
		close(fds[1]);
		if (rc != 0)
			close(fds[0]);
	}
	if (rc != 0)
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "KeyCommandFailed",
						"could not run cmek.service_key_command: %s",
						strerror(rc));
		return false;
	}
	end = read_line(fds[0], line, size, deadline);
	close(fds[0]);
	status = reap(pid, end == READ_LINE ? deadline : 0);
	return judge(end, status, answer);
}
