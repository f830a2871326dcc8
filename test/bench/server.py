"""A private server for the bench, sessions on it, and its clocks.

Owns the data directory and the socket below $work; no TCP.  CPU time is what
the scheduler counted for a backend (/proc/PID/schedstat, nanoseconds), and
for processes that ended meanwhile what the postmaster has reaped.
"""

import os
import re
import subprocess
import time

BINDIR = os.environ['bindir']
WORK = os.environ['work']
SOCKET = WORK + '/sock'
TICK = os.sysconf('SC_CLK_TCK')


def program(name):
    return os.path.join(BINDIR, name)


class Cluster:
    """One data directory, started and stopped with various settings."""

    def __init__(self, settings, name='data', port=5432):
        self.data = '%s/%s' % (WORK, name)
        self.log = '%s/%s.log' % (WORK, name)
        self.settings = dict(settings, port=port)
        os.makedirs(SOCKET, mode=0o700, exist_ok=True)
        subprocess.run([program('initdb'), '-D', self.data, '-A', 'trust', '-U', 'postgres',
                        '--encoding=UTF8', '--locale=C', '--no-sync'],
                       check=True, stdout=subprocess.DEVNULL)

    def start(self, **more):
        """Start with the settings, and more for this time only."""
        with open(self.data + '/postgresql.auto.conf', 'w') as conf:
            for name, value in {**self.settings, **more}.items():
                conf.write("%s = '%s'\n" % (name.replace('__', '.'), value))
        subprocess.run([program('pg_ctl'), '-D', self.data, '-l', self.log, '-w', '-s', 'start'],
                       check=True)
        with open(self.data + '/postmaster.pid') as f:
            self.pid = int(f.readline())

    def stop(self):
        subprocess.run([program('pg_ctl'), '-D', self.data, '-w', '-s', '-m', 'fast', 'stop'],
                       check=True)

    def reaped(self):
        """CPU seconds of all backends that have ended."""
        with open('/proc/%d/stat' % self.pid) as f:
            fields = f.read().rpartition(')')[2].split()
        return (int(fields[13]) + int(fields[14])) / TICK


class Session:
    """psql at the other end of a pipe, so that statements share a backend."""

    def __init__(self, db='bench', options='', port=5432):
        env = dict(os.environ, PGOPTIONS=options, PGPORT=str(port))
        self.psql = subprocess.Popen(
            [program('psql'), '-XqAt', '-v', 'VERBOSITY=verbose', '-h', SOCKET, '-U', 'postgres', db],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, bufsize=1, env=env)
        self.run('SET client_min_messages = error')
        self.pid = int(self.run('SELECT pg_backend_pid()')[0])

    def send(self, statement):
        self.psql.stdin.write(statement + ';\n\\echo @done@\n')
        self.psql.stdin.flush()

    def wait(self, may_fail=False):
        lines = []
        for line in self.psql.stdout:
            if line == '@done@\n':
                return lines
            if 'ERROR:' in line and not may_fail:
                raise RuntimeError(line.strip())
            lines.append(line.rstrip('\n'))
        raise RuntimeError('the server went away: ' + ' '.join(lines))

    def run(self, statement):
        self.send(statement)
        return self.wait()

    def value(self, statement):
        return self.run(statement)[0]

    def cpu(self):
        """CPU seconds of the backend."""
        with open('/proc/%d/schedstat' % self.pid) as f:
            return int(f.read().split()[0]) / 1e9

    def anonymous_memory(self):
        """Bytes of memory that the backend shares with nobody's files."""
        with open('/proc/%d/status' % self.pid) as f:
            return int(re.search(r'RssAnon:\s+(\d+) kB', f.read()).group(1)) * 1024

    def timed(self, statement, cluster=None):
        """(wall, CPU) seconds; with a cluster, of its parallel workers as well."""
        reaped = cluster.reaped() if cluster else 0
        cpu = self.cpu()
        begin = time.perf_counter()
        self.run(statement)
        wall = time.perf_counter() - begin
        if cluster:
            time.sleep(0.05)
            reaped = cluster.reaped() - reaped
        return wall, self.cpu() - cpu + reaped

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


def pgbench(cluster, db, clients, seconds, script):
    """(transactions per second, CPU seconds of each, their count) of one run."""
    before = cluster.reaped()
    done = subprocess.run(
        [program('pgbench'), '-h', SOCKET, '-U', 'postgres', '-n', '-M', 'prepared',
         '-c', str(clients), '-T', str(seconds)] + script + [db],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    time.sleep(0.1)
    count = int(re.search(r'actually processed: (\d+)', done).group(1))
    if count == 0:
        raise RuntimeError('pgbench finished no transaction in %s s: the machine stood still; run it again' % seconds)
    tps = float(re.search(r'tps = ([0-9.]+)', done).group(1))
    return tps, (cluster.reaped() - before) / count, count
