# What people do on any day works on sealed tables as on others: psql's lists,
# CREATE DATABASE with a template, tablespaces, DROP DATABASE, pg_prewarm, and
# libraries with hooks and workers of their own, in any order.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = cmek_node('stock', config => [ 'autovacuum = off', "unix_socket_permissions = 0700" ]);

$node->safe_psql('postgres', q{CREATE DATABASE app});
$node->safe_psql('app', q{CREATE EXTENSION cmek;
	CREATE TABLE t (id int, t text) USING cmek_heap;
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 200) i;
	CREATE MATERIALIZED VIEW mv USING cmek_heap AS SELECT count(*) FROM t;
	SET cmek.plaintext_indexes = on;
	CREATE TABLE keyed (id int PRIMARY KEY, t text) USING cmek_heap;
	INSERT INTO keyed SELECT i, 'k' || i FROM generate_series(1, 1000) i});
my $query = 'SELECT count(*), sum(hashtext(t)) FROM t';
my $rows = $node->safe_psql('app', $query);

# ---------------------------------------------------------------------
# psql
# ---------------------------------------------------------------------

like($node->safe_psql('app', '\dt+'), qr/^public\|t\|table\|\w+\|permanent\|cmek_heap\|/m, '\dt+ shows the access method');
like($node->safe_psql('app', '\dm+'), qr/\|cmek_heap\|/, '\dm+ does');
like($node->safe_psql('app', "\\t off\n\\d+ t"), qr/Access method: cmek_heap/, '\d+ does');
like($node->safe_psql('app', '\dA+'), qr/^cmek_heap\|Table\|cmek\.heap_handler\|/m, '\dA+ shows the method');
like($node->safe_psql('app', '\des+'), qr/^cmek_service_key\|/m, '\des+ shows keys');
like($node->safe_psql('app', '\dx+ cmek'), qr/access method cmek_heap/, '\dx+ shows what the extension has');
is(sqlstate($node, "\\$_", 'app'), '', "\\$_ works") for 'd+', 'dew+', 'ddp', 'dO', 'dd';

# ---------------------------------------------------------------------
# CREATE DATABASE ... TEMPLATE, both ways to copy, both directions
# ---------------------------------------------------------------------

for my $strategy (qw(wal_log file_copy))
{
	my $db = "by_$strategy";

	$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE app STRATEGY $strategy");
	is($node->safe_psql($db, $query), $rows, "$strategy: a clone reads");
	$node->safe_psql($db, q{UPDATE t SET t = 'clone'; CALL cmek.rotate_data_key('t'); INSERT INTO t VALUES (0, repeat('c', 9000))});
	$node->safe_psql($db, q{CALL cmek.reseal('t')});
	is($node->safe_psql('app', $query), $rows, "$strategy: its template reads its own");
	is($node->safe_psql($db, 'SELECT count(*), max(length(t)) FROM t'), '201|9000', "$strategy: and the clone its own");

	# a crash right after: the copy is in WAL, or on disk
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql($db, 'SELECT count(*), max(length(t)) FROM t'), '201|9000', "$strategy: after a crash the clone");
	is($node->safe_psql('app', $query), $rows, "$strategy: and its template");

	$node->safe_psql('postgres', "CREATE DATABASE again TEMPLATE $db STRATEGY $strategy");
	is($node->safe_psql('again', 'SELECT count(*), max(length(t)) FROM t'), '201|9000', "$strategy: a clone of the clone");
	$node->safe_psql('postgres', "DROP DATABASE $db");
	is($node->safe_psql('again', 'SELECT count(*), max(length(t)) FROM t'), '201|9000', "$strategy: outlives it");
	$node->safe_psql('postgres', 'DROP DATABASE again');
}
$node->safe_psql('postgres', 'ALTER DATABASE app RENAME TO renamed');
is($node->safe_psql('renamed', $query), $rows, 'renamed');
$node->safe_psql('postgres', 'ALTER DATABASE renamed RENAME TO app');

# ---------------------------------------------------------------------
# Tablespaces
# ---------------------------------------------------------------------

mkdir("$dir/space");
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$dir/space'");
$node->safe_psql('postgres', 'ALTER DATABASE app SET TABLESPACE space');
is($node->safe_psql('app', $query), $rows, 'ALTER DATABASE SET TABLESPACE');
$node->safe_psql('app', 'ALTER TABLE t SET TABLESPACE pg_default; ALTER INDEX keyed_pkey SET TABLESPACE pg_default');
is($node->safe_psql('app', $query), $rows, 'ALTER TABLE SET TABLESPACE');
$node->safe_psql('app', 'ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE space; ALTER INDEX ALL IN TABLESPACE pg_default SET TABLESPACE space');
$node->safe_psql('postgres', 'ALTER DATABASE app SET TABLESPACE pg_default');
is($node->safe_psql('app', $query), $rows, 'and back');
is($node->safe_psql('app', "SELECT count(*) FROM unnest('{t,keyed}'::regclass[]) r, cmek.verify(r)"), '0', 'verify');

# without a key, too
hide_key(service_key($node));
ok(wait_for_error($node, 'KM001', $query, 'app'), 'the key is away');
is(sqlstate($node, 'ALTER DATABASE app SET TABLESPACE space'), '', 'no key needed: ALTER DATABASE SET TABLESPACE');
is(sqlstate($node, "CREATE DATABASE keyless TEMPLATE app STRATEGY $_; DROP DATABASE keyless"), '', "no key needed: CREATE DATABASE STRATEGY $_")
  for qw(wal_log file_copy);
show_key(service_key($node));
ok(wait_for_ok($node, $query, 'app'), 'the key is back');
is($node->safe_psql('app', $query), $rows, 'the same rows');

# ---------------------------------------------------------------------
# DROP DATABASE while its keys are in use elsewhere and proved every second
# ---------------------------------------------------------------------

for my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'CREATE DATABASE passing TEMPLATE app');
	is($node->safe_psql('passing', $query), $rows, "round $round: a database is read");
	is(sqlstate($node, 'DROP DATABASE passing'), '', "round $round: and dropped at once");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cmek%' AND datid IS NOT NULL"), '0', 'no worker of ours sits in a database');

# ---------------------------------------------------------------------
# Neighbours
# ---------------------------------------------------------------------

my @neighbours = qw(pg_stat_statements auto_explain pg_prewarm auth_delay passwordcheck);
for my $order ([ 'cmek', @neighbours ], [ @neighbours, 'cmek' ], [ @neighbours[ 0, 1 ], 'cmek', @neighbours[ 2 .. 4 ] ])
{
	my $libraries = join(',', @$order);

	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'\nauto_explain.log_min_duration = 0\n"
		. "auto_explain.log_analyze = on\nauto_explain.log_nested_statements = on\npg_stat_statements.track = all\n");
	$node->restart;
	my $log = -s $node->logfile;
	$node->safe_psql('app', 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements; CREATE EXTENSION IF NOT EXISTS pg_prewarm; SELECT pg_stat_statements_reset()');
	is($node->safe_psql('app', $query), $rows, "$libraries: the same rows");
	is($node->safe_psql('app', q{CREATE TABLE n (a int, t text) USING cmek_heap; INSERT INTO n SELECT i, 'n' || i FROM generate_series(1, 100) i;
		ALTER TABLE n ADD COLUMN b int DEFAULT 7; UPDATE n SET b = a; DELETE FROM n WHERE a > 50; TRUNCATE n; DROP TABLE n;
		SELECT count(*), sum(id) FROM keyed}), '1000|500500', 'statements of all kinds');
	like(error_text($node, 'CREATE INDEX ON t USING hash (id)', 'app'), qr/would hold values of sealed table "t" in clear/, 'policies hold');
	is($node->safe_psql('app', q{SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE 'SELECT count(*), sum(hashtext(t)) FROM t%'}), '1', 'pg_stat_statements counts them');
	is($node->safe_psql('app', q{SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'CREATE TABLE n%USING cmek_heap%'}), '1', 'and utility statements as they were given');
	like(slurp_file($node->logfile, $log), qr/plan:.*Query Text: SELECT count\(\*\), sum\(hashtext\(t\)\) FROM t.*Seq Scan on t /s, 'auto_explain explains');
	cmp_ok($node->safe_psql('app', "SELECT pg_prewarm('t', 'buffer') + pg_prewarm('keyed', 'read')"), '>', 0, 'pg_prewarm reads');
	cmp_ok($node->safe_psql('app', 'SELECT autoprewarm_dump_now()'), '>', 0, 'its worker writes its list');
}
# its workers load blocks before anybody has asked for a key
hide_key(service_key($node));
$node->restart;
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'autoprewarm worker'}) or BAIL_OUT('autoprewarm does not end');
like(slurp_file($node->logfile), qr/autoprewarm successfully prewarmed \d+ of \d+ previously-loaded blocks/, 'autoprewarm loads sealed blocks');
fails_with($node, 'KM001', $query, 'without any key', 'app');
show_key(service_key($node));
ok(wait_for_ok($node, $query, 'app'), 'the key is back');

$node->stop;
done_testing();
