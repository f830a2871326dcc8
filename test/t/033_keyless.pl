# Without its key the server starts, recovers, vacuums, truncates and drops,
# and no new key file appears.  Without the library preloaded the same, and
# everything else says what to set.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('keyless', config => [
		'autovacuum = on', 'autovacuum_naptime = 1s', 'autovacuum_vacuum_threshold = 10',
		'autovacuum_vacuum_scale_factor = 0', 'autovacuum_vacuum_insert_threshold = 10',
		'autovacuum_vacuum_insert_scale_factor = 0', 'autovacuum_vacuum_cost_delay = 0' ]);
my $key = service_key($node);

$node->safe_psql('postgres', q{
	CREATE TABLE keep (id int, t text) USING cmek_heap WITH (autovacuum_enabled = off);
	INSERT INTO keep SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 300) i;
	CREATE TABLE other (LIKE keep) USING cmek_heap WITH (autovacuum_enabled = off);
	INSERT INTO other SELECT * FROM keep;
	CREATE TABLE dropped (LIKE keep) USING cmek_heap WITH (autovacuum_enabled = off);
	INSERT INTO dropped SELECT * FROM keep;
	CREATE TABLE auto (id int, t text) USING cmek_heap WITH (autovacuum_enabled = off);
	INSERT INTO auto SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 300) i;
	UPDATE auto SET id = id + 1;
	CREATE MATERIALIZED VIEW mv USING cmek_heap AS SELECT * FROM keep;
	CREATE UNLOGGED TABLE unl (a int) USING cmek_heap;
	INSERT INTO unl VALUES (1);
	CREATE SCHEMA s;
	CREATE TABLE s.t (a int) USING cmek_heap;
	CREATE TABLE plain (a int);
	DELETE FROM keep WHERE id % 2 = 0;
	UPDATE keep SET t = t || 'u' WHERE id < 50});
my $sum = $node->safe_psql('postgres', 'SELECT sum(hashtext(t)) FROM keep');
ok(-f $key, 'the service key is where it should be');
is((stat($key))[2] & 0777, 0600, 'only its owner may read it');
is(index($key, $node->data_dir . '/'), -1, 'and it is outside the data directory');

# autovacuum, with the key taken from a running server
hide_key($key);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM auto'), 'the key is away');
is($node->safe_psql('postgres', "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'auto'"), '0',
	'nothing was vacuumed by itself yet');
$node->safe_psql('postgres', 'ALTER TABLE auto SET (autovacuum_enabled = on)');
ok($node->poll_query_until('postgres',
		"SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'auto'"),
	'autovacuum vacuums without the key');

# crash, recovery
$node->stop('immediate');
$node->start;
pass('the server starts and recovers without its key');
fails_with($node, 'KM001', 'SELECT count(*) FROM keep', 'a read is KM001');
fails_with($node, 'KM001', 'INSERT INTO keep VALUES (1)', 'a write is KM001');
fails_with($node, 'KM001', 'CREATE TABLE n (a int) USING cmek_heap', 'a new table is KM001');
is(sqlstate($node, 'SELECT * FROM n'), '42P01', 'and is not half made');
is(sqlstate($node, 'INSERT INTO plain VALUES (1)'), '', 'plain tables work');
ok(!-e $key, 'no new key file appears');

is(sqlstate($node, 'VACUUM keep'), '', 'VACUUM');
is(sqlstate($node, 'VACUUM (FREEZE, VERBOSE, DISABLE_PAGE_SKIPPING) keep'), '', 'VACUUM FREEZE');
is($node->safe_psql('postgres', "SELECT age(relfrozenxid) < 100 FROM pg_class WHERE relname = 'keep'"), 't',
	'and it did freeze');
is(sqlstate($node, 'TRUNCATE other'), '', 'TRUNCATE');
is(sqlstate($node, 'DROP TABLE dropped'), '', 'DROP TABLE');
is(sqlstate($node, 'DROP MATERIALIZED VIEW mv'), '', 'DROP MATERIALIZED VIEW');
is(sqlstate($node, 'DROP SCHEMA s CASCADE'), '', 'DROP SCHEMA CASCADE');
is(sqlstate($node, 'CHECKPOINT'), '', 'CHECKPOINT');

# once more, cleanly
$node->stop;
$node->start;
fails_with($node, 'KM001', 'SELECT count(*) FROM keep', 'after a clean restart: KM001');
ok(!-e $key, 'still no new key file');
is(sqlstate($node, 'CREATE DATABASE clone TEMPLATE template0'), '', 'CREATE DATABASE');

# a different key in its place is no key
new_key_file($key);
fails_with($node, 'KM001', 'SELECT count(*) FROM keep', 'another key in its place: KM001');
fails_with($node, 'KM001', 'CREATE TABLE n (a int) USING cmek_heap', 'and no new table under it');
my $fake = slurp_binary($key);
is(slurp_binary($key), $fake, 'the other file was left alone');
unlink $key;

# back without a restart
show_key($key);
ok(wait_for_ok($node, 'SELECT count(*) FROM keep'), 'the key is back, without a restart');
is($node->safe_psql('postgres', 'SELECT sum(hashtext(t)) FROM keep'), $sum, 'the rows are as they were');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('keep')"), '0', 'verify finds no damage');
is($node->safe_psql('postgres', 'SELECT count(*) FROM other'), '0', 'TRUNCATE was one');
is($node->safe_psql('postgres', 'INSERT INTO other SELECT * FROM keep; SELECT count(*) FROM other'), '150',
	'and the table is of use');
is($node->safe_psql('postgres', 'SELECT count(*) FROM unl'), '0', 'the unlogged table was reset by the crash');
is($node->safe_psql('postgres', 'INSERT INTO unl VALUES (2); SELECT * FROM unl'), '2', 'and is of use');

# not preloaded
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), '', 'the library is not preloaded');
for my $sql ('SELECT count(*) FROM keep', 'SELECT * FROM keep', 'INSERT INTO keep VALUES (1)',
	'DELETE FROM keep', 'UPDATE keep SET id = 1', 'CREATE TABLE n (a int) USING cmek_heap',
	'COPY keep TO stdout', "SELECT * FROM cmek.verify('keep')")
{
	like(error_text($node, $sql), qr/shared_preload_libraries/, "not preloaded: $sql");
}
is(sqlstate($node, $_), '', "not preloaded: $_")
  for ('VACUUM keep', 'VACUUM FREEZE keep', 'TRUNCATE other', 'DROP TABLE other');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cmek'");
$node->restart;
is($node->safe_psql('postgres', 'SELECT sum(hashtext(t)) FROM keep'), $sum, 'preloaded again: the rows are as they were');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.table_key k WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = k.relid)") <= 2, 1,
	'key rows of what was dropped are gone');

$node->stop;
done_testing();
