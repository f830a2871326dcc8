# Seals are counted durably and limited: with a limit of 1,000 every way of
# writing makes the next generation by itself.  The hard stop is KM002.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekPages;

my $node = cmek_node('seals', config => [ 'autovacuum = off', 'cmek.data_key_max_seals = 1000', "cmek.key_cache_ttl = '5min'" ]);
pages_setup($node);
my $tmp = PostgreSQL::Test::Utils::tempdir();
chmod(0755, $tmp);
$node->safe_psql('postgres', "COPY (SELECT i, md5(i::text) FROM generate_series(1, 10000) i) TO '$tmp/rows'");

# No data key has sealed more than it may: neither by the count, nor by the
# tuples that name it
sub limited
{
	my ($table, $rows, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', "SELECT count(*) FROM $table"), $rows, "$name: all rows are there");
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.data_key d JOIN cmek.data_key_seals s USING (id) WHERE d.relid = '$table'::regclass AND s.reserved > 1000"),
		'0', "$name: no data key is used beyond its limit");
	is($node->safe_psql('postgres', "SELECT count(*) FROM all_dek_ids('$table') p LEFT JOIN cmek.data_key_seals s USING (id) WHERE p.n > coalesce(s.reserved, 1000)"),
		'0', "$name: no tuples that were not counted");
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('$table')"), '0', "$name: verify finds no damage");
	return $node->safe_psql('postgres', "SELECT max(generation) FROM cmek.data_key WHERE relid = '$table'::regclass AND kind = 'h'");
}

$node->safe_psql('postgres', 'CREATE TABLE existing (id int, t text) USING cmek_heap');
$node->safe_psql('postgres', "COPY existing FROM '$tmp/rows'");
cmp_ok(limited('existing', 10000, 'COPY into an existing table'), '>=', 10, 'by workers');
$node->safe_psql('postgres', "INSERT INTO existing TABLE existing");
limited('existing', 20000, 'INSERT');
$node->safe_psql('postgres', "UPDATE existing SET t = t || 'u'");
limited('existing', 20000, 'UPDATE');

my $new = $node->safe_psql('postgres', qq{BEGIN;
	CREATE TABLE fresh (id int, t text) USING cmek_heap;
	COPY fresh FROM '$tmp/rows';
	SELECT count(*) FROM fresh;
	COMMIT});
is($new, '10000', 'the transaction sees its rows');
cmp_ok(limited('fresh', 10000, 'COPY into a table of the same transaction'), '>=', 10, 'by itself');

# subtransactions that abort take their data keys with them
$node->safe_psql('postgres', qq{BEGIN;
	CREATE TABLE sub (id int, t text) USING cmek_heap;
	INSERT INTO sub SELECT i, 'one' FROM generate_series(1, 1500) i;
	SAVEPOINT a;
	COPY sub FROM '$tmp/rows';
	ROLLBACK TO a;
	INSERT INTO sub SELECT i, 'two' FROM generate_series(1, 1500) i;
	SAVEPOINT b;
	INSERT INTO sub SELECT i, 'three' FROM generate_series(1, 3000) i;
	SAVEPOINT c;
	INSERT INTO sub SELECT i, 'gone' FROM generate_series(1, 3000) i;
	ROLLBACK TO c;
	RELEASE b;
	INSERT INTO sub SELECT i, 'four' FROM generate_series(1, 1500) i;
	COMMIT});
limited('sub', 7500, 'savepoints');
is(sqlstate($node, "INSERT INTO sub SELECT i, 'five' FROM generate_series(1, 500) i"), '', 'another session goes on');
limited('sub', 8000, 'another session');
$node->safe_psql('postgres', "CALL cmek.reseal('sub')");
limited('sub', 8000, 'reseal of more rows than a data key may seal');
$node->safe_psql('postgres', "BEGIN; LOCK TABLE sub; INSERT INTO sub SELECT i, 'gone' FROM generate_series(1, 3000) i; ROLLBACK");
limited('sub', 8000, 'ROLLBACK');

# TOAST has data keys of its own
$node->safe_psql('postgres', q{
	CREATE TABLE long (id int, t text) USING cmek_heap;
	ALTER TABLE long ALTER t SET STORAGE EXTERNAL});
$node->safe_psql('postgres', q{INSERT INTO long SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 900) i});
is($node->safe_psql('postgres', "SELECT count(*) > 3 FROM cmek.data_key WHERE relid = 'long'::regclass AND kind = 't'"), 't', 'chunks are counted');
limited('long', 900, 'TOAST');

# rewrites
$node->safe_psql('postgres', 'VACUUM FULL fresh');
limited('fresh', 10000, 'VACUUM FULL');
$node->safe_psql('postgres', 'ALTER TABLE fresh ALTER id TYPE int8');
cmp_ok(limited('fresh', 10000, 'ALTER TYPE'), '>=', 20, 'a rewrite');
$node->safe_psql('postgres', 'ALTER TABLE fresh ADD gone int DEFAULT 1; ALTER TABLE fresh DROP gone');
$node->safe_psql('postgres', 'VACUUM FULL fresh');
cmp_ok(limited('fresh', 10000, 'VACUUM FULL that re-forms rows'), '>=', 30, 'a rewrite');
$node->safe_psql('postgres', 'CREATE MATERIALIZED VIEW mv USING cmek_heap AS SELECT * FROM fresh');
limited('mv', 10000, 'materialized view');
$node->safe_psql('postgres', 'REFRESH MATERIALIZED VIEW mv');
limited('mv', 10000, 'REFRESH');
$node->safe_psql('postgres', "CALL cmek.reseal('fresh')");
limited('fresh', 10000, 'reseal');

# two-phase commit
$node->safe_psql('postgres', qq{BEGIN; CREATE TABLE twophase (id int, t text) USING cmek_heap; COPY twophase FROM '$tmp/rows'; PREPARE TRANSACTION 'p'});
$node->restart;
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
limited('twophase', 10000, 'PREPARE TRANSACTION');

# many sessions at once
{
	my @sessions = map { psql_start($node, "COPY existing FROM '$tmp/rows'") } 1 .. 4;
	is(psql_done($_), '', 'COPY by many') for @sessions;
	limited('existing', 60000, 'COPY by many');
}

# a crash loses no count: reservations are ahead of what was sealed
{
	my $session = psql_start($node, "INSERT INTO twophase SELECT i, pg_sleep(CASE i WHEN 700 THEN 600 END)::text FROM generate_series(1, 1000) i");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") or die;
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->stop('immediate');
	psql_done($session);
	$node->start;
	limited('twophase', 10000, 'crash');
}

# Whoever waits for the table in between must not make a writer wait for ever:
# the worker does not wait for its lock, the writer goes on with the old key
{
	my $writer = psql_start($node, "SET lock_timeout = 0; INSERT INTO twophase SELECT i, (SELECT pg_advisory_lock(1)::text || pg_advisory_unlock(1)::text WHERE i = 1) FROM generate_series(1, 5000) i");
	is(psql_done($writer), '', 'a writer');
	my $holder = psql_start($node, "LOCK TABLE twophase IN ACCESS SHARE MODE; SELECT pg_sleep(3)");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") or die;
	my $long = psql_start($node, "INSERT INTO twophase SELECT i, CASE WHEN i = 10 THEN pg_sleep(2)::text END FROM generate_series(1, 5000) i");
	$node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") or die;
	my $ddl = psql_start($node, 'ALTER TABLE twophase ADD COLUMN x int');
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'") or die;
	is(psql_done($long), '', 'a writer in front of a waiting ALTER TABLE');
	is(psql_done($ddl), '', 'and the ALTER TABLE');
	psql_done($holder);
	is($node->safe_psql('postgres', 'SELECT count(*) FROM twophase'), '20000', 'all rows are there');
}

# no worker to be had
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
$node->safe_psql('postgres', 'CREATE TABLE lonely (a int) USING cmek_heap');
$node->safe_psql('postgres', 'INSERT INTO lonely SELECT generate_series(1, 5000)');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.data_key WHERE relid = 'lonely'::regclass AND kind IN ('h', 't')"), '2', 'without workers the old data key goes on');
is($node->safe_psql('postgres', 'SELECT sum(a) FROM lonely'), '12502500', 'and all rows are there');

# ... to the hard stop
$node->safe_psql('postgres', "UPDATE cmek.data_key_seals SET reserved = 2^32 - 100 WHERE id = (SELECT id FROM cmek.data_key WHERE relid = 'lonely'::regclass AND kind = 'h')");
fails_with($node, 'KM002', 'INSERT INTO lonely SELECT generate_series(1, 5000)', 'the hard stop');
like(error_text($node, 'INSERT INTO lonely SELECT generate_series(1, 5000)'), qr/HINT:  CALL cmek.rotate_data_key\('lonely'\);/, 'says what to do');
is($node->safe_psql('postgres', 'SELECT count(*) FROM lonely'), '5000', 'reads go on');
$node->safe_psql('postgres', "CALL cmek.rotate_data_key('lonely')");
is(sqlstate($node, 'INSERT INTO lonely SELECT generate_series(1, 500)'), '', 'and it does');
is($node->safe_psql('postgres', "SELECT max(reserved) FROM cmek.data_key_seals"), 2**32, 'never more than 2^32');

# Age
$node->append_conf('postgresql.conf', "max_worker_processes = 12\ncmek.data_key_max_seals = 1000000\n");
$node->restart;
$node->safe_psql('postgres', q{CREATE TABLE aged (id int, t text) USING cmek_heap; INSERT INTO aged SELECT i, repeat('a', i * 20) FROM generate_series(1, 300) i});
my $first = current_ids($node, 'aged');
$node->safe_psql('postgres', 'SELECT pg_sleep(1.5)');
$node->safe_psql('postgres', 'SELECT count(t) FROM aged');
is(current_ids($node, 'aged'), $first, 'young data keys stay');
$node->append_conf('postgresql.conf', "cmek.data_key_max_age = '1s'\ncmek.auto_reseal = off\n");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('cmek.data_key_max_age') = '1s'") or die;
$node->safe_psql('postgres', 'SELECT count(t) FROM aged');
ok($node->poll_query_until('postgres', "SELECT max(generation) > 1 FROM cmek.data_key WHERE relid = 'aged'::regclass"), 'aged ones are renewed');
like(ids_of_keys($node, 'aged'), qr/^$first /, 'the old ones stay with their rows');
$node->append_conf('postgresql.conf', 'cmek.auto_reseal = on');
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('cmek.auto_reseal')::bool") or die;
$node->safe_psql('postgres', 'SELECT pg_sleep(1.2)');
$node->safe_psql('postgres', 'SELECT count(t) FROM aged');
$node->append_conf('postgresql.conf', 'cmek.data_key_max_age = 0');
$node->reload;
my ($h) = split / /, $first;
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM cmek.data_key WHERE id = $h"), 'cmek.auto_reseal: resealed by itself');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cmek renewal'"), 'the workers end');
$node->safe_psql('postgres', "CALL cmek.reseal('aged')");
only_current($node, 'aged', 'aged');

unlike(slurp_file($node->logfile), qr/XX001|damaged|PANIC|TRAP|terminated by signal/, 'no word of damage in the log');
$node->stop;
done_testing();
