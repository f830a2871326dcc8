#!/usr/bin/env python3
"""The bench: sealed tables and heap in turns, in one run.

Run by run.sh as the unprivileged user, in $work.  Every line is a number of
pairs heap, sealed, heap, sealed, ...: what disturbs the machine disturbs both.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
import traceback

import cases
import report
from server import SOCKET, WORK, Cluster, Session, pgbench, program

TWINS = ('heap', 'cmek')
DATABASES = ('plain', 'sealed')     # of pgbench
SETTINGS = {
    'listen_addresses': '', 'unix_socket_directories': SOCKET,
    'shared_preload_libraries': 'cmek', 'cmek.key_cache_ttl': '1h', 'cmek.plaintext_indexes': 'on',
    'autovacuum': 'off', 'shared_buffers': '1GB', 'max_wal_size': '16GB', 'checkpoint_timeout': '1h',
    'fsync': 'off', 'full_page_writes': 'off', 'max_parallel_workers_per_gather': '0', 'jit': 'off',
    'maintenance_work_mem': '256MB', 'max_parallel_maintenance_workers': '0',
    'max_locks_per_transaction': '256',
}
CIPHER_PORT = 5433
STARTED = time.time()


def say(text):
    print('%4d s  %s' % (time.time() - STARTED, text), flush=True)


class Bench:
    def __init__(self, options):
        self.rows = options.rows
        self.rounds = options.rounds
        self.seconds = options.seconds
        self.tables = options.tables
        self.results = []
        self.absolutes = []
        self.failed = []
        self.cluster = Cluster(SETTINGS)

    # ---- the cipher alone -------------------------------------------------

    def measure_lengths(self):
        """Bytes inside the seal: of a row from t_infomask2 on (format.h), of a full chunk"""
        run = self.cipher.run
        run('CREATE TEMP TABLE acc (%s); CREATE TEMP TABLE wide (%s)' % (cases.ACCOUNTS, cases.wide_columns()))
        run("INSERT INTO acc SELECT i, i, i, md5(i::text) FROM generate_series(99900, 100000) i;"
            "INSERT INTO wide SELECT %s FROM generate_series(99900, 100000) g" % cases.wide_values())
        self.lengths = {t: int(self.cipher.value('SELECT avg(pg_column_size(x.*))::int - 18 FROM %s x' % t))
                        for t in ('acc', 'wide')}
        self.lengths['toast'] = 1964

    def cipher_start(self):
        """A server of its own, where nothing but the cipher runs"""
        self.cipher_cluster = Cluster({'listen_addresses': '', 'unix_socket_directories': SOCKET}, 'cipher', CIPHER_PORT)
        self.cipher_cluster.start()
        self.cipher = Session('postgres', port=CIPHER_PORT)
        self.cipher.run('CREATE EXTENSION cmek_test_crypto')
        self.measure_lengths()
        self.best = self.cipher.value("SELECT test_implementation('auto')")
        self.impls = []
        for impl in ('auto', 'ipsec-mb-avx2', 'openssl'):
            try:
                for length in sorted(self.lengths.values()):
                    say('%s, %d bytes: seal %.0f ns, open %.0f ns' % ((impl, length) + self.ns(impl, length)))
                self.impls.append(impl)
            except RuntimeError:
                say('%s: not on this machine' % impl)

    def cipher_stop(self):
        self.cipher.run('DROP EXTENSION cmek_test_crypto')
        self.cipher.close()
        self.cipher_cluster.stop()

    def ns(self, impl, length):
        """ns to seal and to open a value, right now: the median of some short runs"""
        runs = [self.cipher.value("SELECT seal, open FROM test_speed('%s', %d, 5000)" % (impl, length)).split('|')
                for _ in range(9)]
        return tuple(statistics.median(float(r[i]) for r in runs) for i in (0, 1))

    def cipher_ms(self, c, impl):
        """What the cipher would take of a case right now; None where none is counted"""
        if not (c.opens or c.seals) or c.table not in self.lengths:
            return None
        seal, opening = self.ns(impl, self.lengths[c.table])
        return c.rows * (c.opens * opening + c.seals * seal) / 1e6

    # ---- set-up -----------------------------------------------------------

    def fill(self):
        self.cluster.start()
        first = Session('postgres')
        for db in ('bench',) + DATABASES:
            first.run('CREATE DATABASE ' + db)
        first.run("ALTER DATABASE sealed SET default_table_access_method = 'cmek_heap'")
        first.close()
        self.session = Session()
        for statement in ['CREATE EXTENSION cmek'] + cases.SCHEMA.strip().split(';\n'):
            self.session.run(statement.rstrip(';'))
        for am in ('heap', 'cmek_heap'):
            say('filling the tables of ' + am)
            for statement in cases.twin(am, self.rows, WORK):
                self.session.run(statement)
        for statement in cases.pgcrypto_twin(self.rows):
            self.session.run(statement)
        self.session.run("COPY acc_heap TO '%s/rows'" % WORK)

    def fill_pgbench(self):
        """pgbench's own tables, and twins of a few of ours, in databases of their own"""
        for db in DATABASES:
            say('filling database ' + db)
            s = Session(db)
            if db == 'sealed':
                s.run('CREATE EXTENSION cmek')
            s.close()
            subprocess.run([program('pgbench'), '-h', SOCKET, '-U', 'postgres', '-q', '-i', '-s', '10', db],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            s = Session(db)
            s.run('CREATE TABLE hot (aid int PRIMARY KEY, bid int, abalance int, filler char(84)) WITH (fillfactor = 40)')
            s.run('INSERT INTO hot SELECT * FROM pgbench_accounts LIMIT 100000')
            s.run('CREATE TABLE keys (n int8 NOT NULL, s text NOT NULL)')
            s.run('INSERT INTO keys SELECT (i * 7919::int8) % 1000003, left(md5(i::text), 24)'
                  ' FROM generate_series(1, 1000000) i')
            s.run('CREATE INDEX ON keys (n)')
            s.run('CREATE TABLE one (n int8 PRIMARY KEY, s text)')
            s.run('VACUUM FREEZE')
            s.close()

    # ---- statements -------------------------------------------------------

    def measure(self, group, c, session, impl='auto', rounds=None, pgcrypto=True):
        result = report.Result(group, c.name, 'ms', c.target)
        cluster = self.cluster if c.workers else None
        rounds = rounds or self.rounds
        for n in range(rounds + 1):
            pair = []
            for t in TWINS:
                if c.before:
                    session.run(c.before.replace('{t}', t))
                pair.append(session.timed(c.stmt.replace('{t}', t), cluster))
            if n > 0:           # the first one warms up
                result.wall.append((pair[0][0] * 1e3, pair[1][0] * 1e3))
                result.pairs.append((pair[0][1] * 1e3, pair[1][1] * 1e3))
                result.cipher.append(self.cipher_ms(c, impl))
        if c.pgcrypto and pgcrypto:
            result.pgcrypto_share = 1 if 'lookups' in c.name else cases.PGCRYPTO_SHARE
            for n in range(3):
                if c.before:
                    session.run(c.before.replace('{t}', 'pgcrypto'))
                result.pgcrypto.append(session.timed(c.pgcrypto.replace('{t}', 'pgcrypto'))[1] * 1e3)
        self.results.append(result)
        say('%s: %s' % (c.name, result.summary()))

    def sizes(self):
        for name, expression, target in cases.SIZES:
            result = report.Result('Bytes', name, 'bytes', target)
            result.pairs = [tuple(float(self.session.value('SELECT ' + expression.replace('{t}', t)))
                                  for t in TWINS)]
            self.results.append(result)
            say('%s: %s' % (name, result.summary()))

    def wal_of_copy(self):
        written = []
        for t in TWINS:
            self.session.run('TRUNCATE copy_' + t)
            written.append(self.wal(lambda t=t: self.session.run("COPY copy_%s FROM '%s/rows'" % (t, WORK))))
        result = report.Result('Bytes', 'WAL of COPY', 'bytes', 1.30)
        result.pairs = [tuple(written)]
        self.results.append(result)
        say('WAL of COPY: ' + result.summary())

    def wal(self, deed):
        where = 'SELECT pg_current_wal_insert_lsn()'
        before = self.session.value(where)
        deed()
        return float(self.session.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '%s')" % before))

    def other_ciphers(self):
        for impl in ('ipsec-mb-avx2', 'openssl'):
            if impl not in self.impls:
                continue
            session = Session(options='-c cmek.crypto=' + impl)
            for c in self.every:
                if c.scan and c.opens:
                    self.measure('Scans, cmek.crypto = ' + impl,
                                 c._replace(target=None, name='%s, %s' % (c.name, impl)),
                                 session, impl, pgcrypto=False)
            session.close()

    # ---- transactions -----------------------------------------------------

    def transactions(self):
        for name, script, target, counts in cases.TRANSACTIONS:
            if isinstance(script, str):
                path = os.path.join(WORK, re.sub('[^a-zA-Z]', '_', name))
                with open(path, 'w') as f:
                    f.write(script)
                script = ['-f', path]
            for clients in counts:
                self.one_transaction(name, script, target, clients)

    def transaction_rounds(self, clients):
        """A second of pgbench is a matter of luck, so there are more of them where a target is to be judged"""
        return 2 * self.rounds + 1 if clients == 1 else self.rounds

    def one_transaction(self, name, script, target, clients):
        result = report.Result('Transactions (pgbench -M prepared; us of CPU each)',
                               name if clients == 1 else '%s, %d clients' % (name, clients), 'us', *target)
        wal = report.Result('Bytes', 'WAL of a transaction, ' + name, 'bytes', 1.30)
        for n in range(self.transaction_rounds(clients) * cases.MORE_ROUNDS.get(name, 1) + 1):
            took, written = {}, {}
            for db in DATABASES[::-1 if n % 2 else 1]:
                wrote = self.wal(lambda db=db: took.update({db: pgbench(self.cluster, db, clients, self.seconds, script)}))
                written[db] = wrote / took[db][2]
            if n == 0:          # warms up, and backends of the set-up are reaped in it
                continue
            result.pairs.append(tuple(took[db][1] * 1e6 for db in DATABASES))
            result.wall.append(tuple(1 / took[db][0] for db in DATABASES))
            wal.pairs.append(tuple(written[db] for db in DATABASES))
        self.results.append(result)
        if clients == 1 and name in ('TPC-B', 'simple-update'):
            self.results.append(wal)
        say('%s: %s' % (result.name, result.summary()))

    # ---- the life of keys -------------------------------------------------

    def absolute(self, name, value, target=None, met=None):
        self.absolutes.append(report.Absolute(name, value, target, met))
        say('%s: %s' % (name, value))

    def memory(self):
        used = {}
        for t in TWINS:
            s = Session()
            s.run('SELECT count(*), sum(abalance) FROM acc_%s' % t)
            used[t] = s.anonymous_memory()
            s.close()
        self.absolute('memory of a backend that read one table: heap', '%d kB' % (used['heap'] / 1024))
        self.absolute('memory of a backend that read one table: sealed', '%d kB' % (used['cmek'] / 1024))

    def many_tables(self):
        say('making %d tables of each kind' % self.tables)
        for t, am in (('heap', 'heap'), ('cmek', 'cmek_heap')):
            for start in range(1, self.tables + 1, 100):
                self.session.run(
                    "DO $$ BEGIN FOR i IN %d .. %d LOOP EXECUTE format('CREATE TABLE many_%s_%%s (a int) USING %s', i);"
                    " EXECUTE format('INSERT INTO many_%s_%%s VALUES (1)', i); END LOOP; END $$"
                    % (start, min(start + 99, self.tables), t, am, t))

    def cold_start(self):
        """The first query of each of 1,000 tables after a restart"""
        n = min(self.tables, 1000)
        self.session.close()
        self.cluster.stop()
        self.cluster.start()
        self.session = Session()
        begin = self.session.anonymous_memory()
        wall = {t: [] for t in TWINS}
        for i in range(1, n + 1):
            for t in TWINS:
                wall[t].append(self.session.timed('SELECT sum(a) FROM many_%s_%d' % (t, i))[0] * 1e3)
        heap, sealed = (statistics.median(wall[t]) for t in TWINS)
        self.absolute('first query of %d tables after a restart: heap' % n, '%.2f ms' % heap)
        self.absolute('the same, sealed under the service key', '%.2f ms' % sealed)
        worst = sorted(wall['cmek'])[int(n * 0.99) - 1]
        self.absolute('... above heap', '%.2f ms (99%%: %.2f)' % (sealed - heap, worst - heap), '< 5 ms', sealed - heap < 5)
        self.absolute('memory of a backend that read %d tables of each kind' % n,
                      '%d kB more' % ((self.session.anonymous_memory() - begin) / 1024))

    def key_file(self, name):
        path = '%s/%s.key' % (WORK, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as f:
            f.write(os.urandom(32).hex())
        self.session.run("CREATE SERVER %s FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '%s')" % (name, path))

    def switches(self):
        for name in ('first', 'second'):
            self.key_file(name)
        one = {}
        for table in ('acc_cmek', 'many_cmek_1'):
            runs = [self.session.timed("ALTER TABLE %s SET (cmek.key = '%s')" % (table, ('first', 'second')[i % 2]))[0]
                    for i in range(self.rounds)]
            one[table] = statistics.median(runs) * 1e3
        self.absolute('key switch of a table of %d rows' % self.rows, '%.1f ms' % one['acc_cmek'])
        self.absolute('key switch of a table of one row', '%.1f ms' % one['many_cmek_1'])
        count = int(self.session.value("SELECT count(*) FROM cmek.tables WHERE key = 'cmek_service_key'"))
        took = self.session.timed("CALL cmek.switch_key('cmek_service_key', 'first')")[0]
        self.absolute('key switch of %d tables' % count, '%.1f s' % took,
                      '10,000 in < 10 s', took / count * 10000 < 10)

    def reseal(self):
        self.session.run("CALL cmek.rotate_data_key('acc_cmek')")
        wall, cpu = self.session.timed("CALL cmek.reseal('acc_cmek')")
        size = float(self.session.value("SELECT pg_table_size('acc_cmek')"))
        self.absolute('reseal of %d rows' % self.rows,
                      '%s rows/s, %.0f MB/s' % ('{:,.0f}'.format(self.rows / wall), size / wall / 1e6))

    def revocation(self):
        took = []
        other = Session()
        key = other.value("SELECT key FROM cmek.tables WHERE \"table\" = 'acc_cmek'::regclass")
        for _ in range(self.rounds):
            self.session.send('DO $$ BEGIN FOR i IN 1 .. 100000 LOOP PERFORM sum(abalance) FROM acc_cmek; END LOOP; END $$')
            time.sleep(0.5)
            begin = time.perf_counter()
            other.run("SELECT cmek.suspend_key('%s')" % key)
            lines = self.session.wait(may_fail=True)
            took.append((time.perf_counter() - begin) * 1e3)
            if not any('KM001' in line for line in lines):
                raise RuntimeError('the scan was not cut: ' + ' '.join(lines))
            other.run("SELECT cmek.resume_key('%s')" % key)
        other.close()
        self.absolute('from suspend_key() to the end of a running scan',
                      '%.1f ms (worst of %d: %.1f)' % (statistics.median(took), len(took), max(took)))

    # ---- all of it --------------------------------------------------------

    def run(self):
        self.cipher_start()
        self.fill()
        self.facts_now()
        self.every = cases.statements(self.rows, WORK)
        for phase in (self.statements, self.sizes, self.wal_of_copy, self.memory, self.other_ciphers,
                      self.fill_pgbench, self.transactions, self.many_tables, self.cold_start,
                      self.reseal, self.switches, self.revocation, self.small_buffers):
            self.attempt(phase)
        self.cipher_stop()

    def attempt(self, phase):
        """What fails is in the report and fails the run, but what follows is measured"""
        try:
            phase()
        except Exception:
            traceback.print_exc()
            self.failed.append(phase.__name__)
            self.session = Session()

    def statements(self):
        for c in self.every:
            self.measure('Statements', c, self.session)

    def small_buffers(self):
        self.session.close()
        self.cluster.stop()
        self.cluster.start(shared_buffers='16MB')
        self.session = Session()
        for c in self.every:
            if c.name in ('count(*)', 'sum(int)'):
                self.measure('Larger than shared buffers (16 MB)',
                             c._replace(name=c.name + ', larger than shared buffers', target=None),
                             self.session, pgcrypto=False)
        self.session.close()
        self.cluster.stop()

    def facts_now(self):
        with open('/proc/cpuinfo') as f:
            cpu = re.search(r'model name\s*: (.*)', f.read()).group(1)
        version = self.session.value('SHOW server_version')
        library = os.popen("dpkg-query -W -f '${Version}' libipsec-mb-dev 2>/dev/null").read() or 'none'
        shown = ', '.join('%s = %s' % s for s in sorted(SETTINGS.items())
                          if s[0] not in ('listen_addresses', 'unix_socket_directories'))
        load = os.getloadavg()[0]
        self.key = 'pg%s ipsec-mb %s' % (version.split('.')[0], library.split('-')[0].split('+')[0])
        self.facts = [
            '%s, %d processors, Linux %s, load %.1f at the start' % (cpu, os.cpu_count(), os.uname().release, load),
            'PostgreSQL %s; cipher: %s (libipsec-mb %s); opening %s' % (
                version, self.best, library,
                ', '.join('%d bytes %.0f ns' % (length, self.ns('auto', length)[1]) for length in sorted(self.lengths.values()))),
            '%s rows, %d rounds (transactions of one client: %d)' % (
                '{:,}'.format(self.rows), self.rounds, self.transaction_rounds(1)), shown]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('target', choices=['bench', 'bench-long', 'bench-check'])
    parser.add_argument('--recorded')
    parser.add_argument('--out')
    target = parser.parse_args()
    long = target.target == 'bench-long'
    target.rows = 10000000 if long else 1000000
    target.rounds = int(os.environ.get('ROUNDS') or (9 if long else 5))
    target.seconds = 10 if long else 1
    target.tables = 10000 if long else 1000
    if os.environ.get('ROWS'):
        target.rows = int(os.environ['ROWS'])
    bench = Bench(target)
    bench.run()
    took = time.time() - STARTED
    bench.facts.append('%d s, load %.1f at the end' % (took, os.getloadavg()[0]))
    if bench.failed:
        bench.facts.append('**FAILED**: ' + ', '.join(bench.failed))
    for name, text in (('report.md', report.markdown(target.target, bench.facts, bench.results, bench.absolutes)),
                       ('ratios.svg', report.svg(bench.results)),
                       ('recorded.tsv', report.recorded_text(bench.key, bench.results))):
        with open(os.path.join(target.out, name), 'w') as f:
            f.write(text)
    say('done')
    if bench.failed:
        sys.exit('these phases failed: ' + ', '.join(bench.failed))
    if target.target == 'bench-check':
        key, recorded = report.recorded_read(target.recorded, bench.key)
        worse = report.check(bench.results, recorded)
        print('compared with what was recorded on ' + key)
        for sentence in worse:
            print('worse: ' + sentence)
        sys.exit(1 if worse else 0)


main()
