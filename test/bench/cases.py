"""What is measured: tables, statements, targets.

{t} in a statement is heap or cmek, and pgcrypto in its third column: the same
table on stock heap whose columns are encrypted by pgcrypto (AES-256-CBC, a
random IV for each value, no authentication: the fastest it offers).
"""

from collections import namedtuple

# rows: how many the statement goes through; opens, seals: of them, how often
# each row's seal is opened or made, for the floor; length: bytes inside it
Case = namedtuple('Case', 'name stmt before target rows opens seals table pgcrypto workers scan')


def case(name, stmt, before='', target=None, rows=0, opens=0, seals=0, table='acc',
         pgcrypto=None, workers=False, scan=False):
    return Case(name, stmt, before, target, rows, opens, seals, table, pgcrypto, workers, scan)


PGCRYPTO_SHARE = 5      # its tables have a fifth of the rows

SCHEMA = """
CREATE EXTENSION pgcrypto;
CREATE FUNCTION pgc_seal(text) RETURNS bytea LANGUAGE sql AS
$$ SELECT iv || encrypt_iv(convert_to($1, 'UTF8'), decode(repeat('6b', 32), 'hex'), iv, 'aes')
	FROM gen_random_bytes(16) iv $$;
CREATE FUNCTION pgc_open(bytea) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT convert_from(decrypt_iv(substr($1, 17), decode(repeat('6b', 32), 'hex'), substr($1, 1, 16), 'aes'), 'UTF8') $$;
"""

ACCOUNTS = "aid int NOT NULL, bid int, abalance int, filler char(84)"


def wide_columns():
    kinds = ['text', 'int', 'int8', 'date']
    return ', '.join('c%d %s' % (i, kinds[i % 4]) for i in range(1, 42))


def wide_values():
    values = ['left(md5(g::text), 12)', 'g', 'g * 7', "date '2020-01-01' + g % 1000"]
    return ', '.join(values[i % 4] for i in range(1, 42))


def twin(am, n, work):
    """Statements that make and fill the tables of one access method."""
    t = 'heap' if am == 'heap' else 'cmek'
    using = 'USING %s WITH (autovacuum_enabled = off' % am
    make = 'CREATE TABLE %s_' + t + ' (%s) ' + using + '%s)'
    yield make % ('acc', ACCOUNTS, '')
    yield ("INSERT INTO acc_%s SELECT i, i / 100000, i %% 1000, md5(i::text)"
           " FROM generate_series(1, %d) i" % (t, n))
    for size in (10000, 100000):
        yield make % ('acc%d' % size, ACCOUNTS, '')
        yield 'INSERT INTO acc%d_%s SELECT * FROM acc_%s LIMIT %d' % (size, t, t, size)
    yield make % ('copy', ACCOUNTS, '')
    yield make % ('hot', ACCOUNTS, ', fillfactor = 40')
    yield 'INSERT INTO hot_%s SELECT * FROM acc_%s LIMIT 100000' % (t, t)
    yield make % ('wide', wide_columns(), '')
    yield 'INSERT INTO wide_%s SELECT %s FROM generate_series(1, 200000) g' % (t, wide_values())
    yield make % ('toast', 'id int, v bytea', '')
    yield 'ALTER TABLE toast_%s ALTER v SET STORAGE EXTERNAL' % t
    yield ("INSERT INTO toast_%s SELECT i, decode(repeat(md5(i::text), 6250), 'hex')"
           " FROM generate_series(1, 1000) i" % t)
    yield make % ('keys', 'n int8 NOT NULL, s text NOT NULL', '')
    yield ("INSERT INTO keys_%s SELECT (i * 7919::int8) %% 1000003, left(md5(i::text), 24)"
           " FROM generate_series(1, 1000000) i" % t)
    yield make % ('one', 'n int8 PRIMARY KEY, s text', '')
    yield 'VACUUM FREEZE'
    yield 'ALTER TABLE acc_%s ADD PRIMARY KEY (aid)' % t
    yield 'ALTER TABLE hot_%s ADD PRIMARY KEY (aid)' % t


def pgcrypto_twin(n):
    yield ('CREATE TABLE acc_pgcrypto (aid int PRIMARY KEY, bid int, abalance bytea, filler bytea)'
           ' WITH (autovacuum_enabled = off)')
    yield ('INSERT INTO acc_pgcrypto SELECT aid, bid, pgc_seal(abalance::text), pgc_seal(filler)'
           ' FROM acc_heap LIMIT %d' % (n // PGCRYPTO_SHARE))
    yield 'CREATE TABLE copy_pgcrypto (LIKE acc_pgcrypto) WITH (autovacuum_enabled = off)'
    yield 'VACUUM FREEZE acc_pgcrypto'


def lookups(n):
    return ("DO $$ DECLARE b text; BEGIN FOR i IN 1 .. 20000 LOOP"
            " SELECT %s INTO b FROM acc_{t} WHERE aid = 1 + (i * 7919::int8) %% " + str(n) +
            "; END LOOP; END $$")


def statements(n, work):
    share = n // PGCRYPTO_SHARE
    small = 'DO $$ BEGIN FOR i IN 1 .. %d LOOP PERFORM sum(abalance) FROM acc%d_{t}; END LOOP; END $$'
    wide = 200000
    return [
        case('count(*)', 'SELECT count(*) FROM acc_{t}', target=1.00, rows=n, scan=True),
        case('sum(int)', 'SELECT sum(abalance) FROM acc_{t}', target=1.30, rows=n, opens=1, scan=True,
             pgcrypto='SELECT sum(pgc_open(abalance)::int) FROM acc_pgcrypto'),
        case('sum(int), 10,000 rows', small % (n // 10000, 10000), target=1.45, rows=n, opens=1),
        case('sum(int), 100,000 rows', small % (n // 100000, 100000), target=1.30, rows=n, opens=1),
        case('text =', "SELECT count(*) FROM acc_{t} WHERE filler = 'nothing'", target=1.25, rows=n,
             opens=1, scan=True,
             pgcrypto="SELECT count(*) FROM acc_pgcrypto WHERE pgc_open(filler) = 'nothing'"),
        case('text LIKE', "SELECT count(*) FROM acc_{t} WHERE filler LIKE '%nothing%'", target=1.10,
             rows=n, opens=1, scan=True,
             pgcrypto="SELECT count(*) FROM acc_pgcrypto WHERE pgc_open(filler) LIKE '%nothing%'"),
        case('3 of 41 columns', 'SELECT sum(c1), sum(c22), count(c33) FROM wide_{t}', target=1.12,
             rows=wide, opens=1, table='wide', scan=True),
        case('parallel scan, 2 workers', 'SELECT sum(abalance) FROM acc_{t}', rows=n, opens=1,
             before='SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0', workers=True),
        case('TOAST, whole values', 'SELECT sum(get_byte(v, 99999)) FROM toast_{t}', target=1.30,
             rows=1000 * 51, opens=1, table='toast',
             before='RESET max_parallel_workers_per_gather; RESET parallel_setup_cost'),
        case('TOAST, slices of 100 bytes', 'SELECT sum(length(substring(v FROM 50000 FOR 100))) FROM toast_{t}',
             target=1.30, rows=1000, opens=2, table='toast'),
        case('20,000 point lookups, one statement', lookups(n) % 'abalance',
             pgcrypto=lookups(share) % 'pgc_open(abalance)'),
        case('COPY in', "COPY copy_{t} FROM '%s/rows'" % work, 'TRUNCATE copy_{t}', 1.20, rows=n, seals=1),
        case('COPY out', "COPY acc_{t} TO '%s/out'" % work, rows=n, opens=1),
        case('INSERT ... SELECT', 'INSERT INTO copy_{t} SELECT * FROM acc_heap', 'TRUNCATE copy_{t}',
             rows=n, seals=1,
             pgcrypto='INSERT INTO copy_pgcrypto SELECT aid, bid, pgc_seal(abalance::text), pgc_seal(filler)'
             ' FROM acc_heap LIMIT %d' % share),
        case('UPDATE of 1 row in 10', 'UPDATE copy_{t} SET abalance = 0 WHERE aid % 10 = 0',
             rows=n, opens=1.1, seals=0.1),
        case('VACUUM', 'VACUUM copy_{t}', 'UPDATE copy_{t} SET abalance = 1 WHERE aid % 10 = 1'),
        case('VACUUM FULL', 'VACUUM FULL copy_{t}'),
        case('HOT UPDATE, 100,000 rows at once', 'UPDATE hot_{t} SET abalance = abalance + 1',
             'VACUUM hot_{t}', 1.08, rows=100000, opens=2, seals=1),
        case('CREATE INDEX, int8', 'CREATE INDEX keys_{t}_n ON keys_{t} (n)',
             'DROP INDEX IF EXISTS keys_{t}_n', 1.80),
        case('CREATE INDEX, 24-byte text', 'CREATE INDEX keys_{t}_s ON keys_{t} (s)',
             'DROP INDEX IF EXISTS keys_{t}_s', 1.80),
        case('index range of 1 row in 10',
             'SET enable_seqscan = off; SET enable_bitmapscan = off;'
             ' SELECT count(s) FROM keys_{t} WHERE n < 100000; RESET enable_seqscan; RESET enable_bitmapscan'),
    ]


def throughput(least):
    """A target about transactions per second, so about wall clock: the ratio of times, and that it is one"""
    return 1 / least, True


# name, pgbench's arguments or script, target of the ratio and whether that is of wall clock, numbers of clients; {t} as above.
# ON CONFLICT searches the index twice, so it is a line of its own: the target is about an insert.  What is to be judged there
# is less than the luck of a few rounds; longer runs would not help, for it is from one run to the next that a busy machine changes.
NO_TARGET = (None, False)
INSERT_ONE = "INSERT INTO one VALUES ((random() * 9e18)::int8, 'a row of thirty-two characters..')"
TRANSACTIONS = [
    ('select-only', ['-S'], throughput(0.97), (1, 2, 8)),
    ('simple-update', ['-N'], NO_TARGET, (1, 2, 8)),
    ('TPC-B', [], throughput(0.97), (1, 2, 8)),
    ('range of 100', '\\set a random(1, 999000)\n'
     'SELECT sum(abalance) FROM pgbench_accounts WHERE aid BETWEEN :a AND :a + 99;\n', NO_TARGET, (1,)),
    ('HOT update', '\\set a random(1, 100000)\nUPDATE hot SET abalance = :a WHERE aid = :a;\n', (1.08, False), (1,)),
    ('sealed index: lookup', '\\set a random(1, 1000002)\nSELECT s FROM keys WHERE n = :a;\n', throughput(0.93), (1,)),
    ('sealed index: insert', INSERT_ONE + ';\n', throughput(0.9), (1,)),
    ('sealed index: insert, ON CONFLICT', INSERT_ONE + ' ON CONFLICT DO NOTHING;\n', NO_TARGET, (1,)),
]
MORE_ROUNDS = {'sealed index: lookup': 3, 'sealed index: insert': 3}

SIZES = [
    ('table size', "pg_table_size('acc_{t}')", 1.25),
    ('table size, 41 columns', "pg_table_size('wide_{t}')", None),
    ('TOAST size', "pg_table_size('toast_{t}')", None),
    ('index size, int4', "pg_relation_size('acc_{t}_pkey')", None),
    ('index size, int8', "pg_relation_size('keys_{t}_n')", 2.60),
    ('index size, 24-byte text', "pg_relation_size('keys_{t}_s')", 1.60),
]
