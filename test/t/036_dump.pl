# pg_dump | pg_restore carries rows and bindings and never a key; pg_basebackup
# and pg_dumpall work as ever.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('dump', streaming => 1, config => ['autovacuum = off']);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $second = new_key_file("$dir/second.key");

$node->safe_psql('postgres', qq{
	CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second');
	CREATE SERVER "Odd name" FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second');
	CREATE TABLE t (id int, t text) USING cmek_heap;
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 300) i;
	CREATE TABLE t2 (id int, t text) USING cmek_heap WITH (cmek.key = 'second');
	INSERT INTO t2 TABLE t;
	CREATE TABLE t3 (a int) USING cmek_heap WITH (cmek.key = 'Odd name', fillfactor = 50);
	CREATE MATERIALIZED VIEW mv USING cmek_heap WITH (cmek.key = 'second') AS SELECT * FROM t2;
	CREATE TABLE parts (a int, t text) PARTITION BY RANGE (a);
	CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100) USING cmek_heap WITH (cmek.key = 'second');
	INSERT INTO parts SELECT i, 'p' || i FROM generate_series(0, 99) i;
	CREATE TABLE plain (a int);
	INSERT INTO plain VALUES (1)});

my $query = q{SELECT 't', count(*), sum(hashtext(t.t)) FROM t UNION ALL SELECT 't2', count(*), sum(hashtext(t2.t)) FROM t2
	UNION ALL SELECT 'mv', count(*), sum(hashtext(mv.t)) FROM mv UNION ALL SELECT 'parts', count(*), sum(hashtext(parts.t)) FROM parts
	UNION ALL SELECT 'plain', count(*), sum(a) FROM plain};
my $bound = q{SELECT relid::regclass, server FROM cmek.bindings ORDER BY relid::regclass::text COLLATE "C"};
my $rows = $node->safe_psql('postgres', $query);
my $bindings = $node->safe_psql('postgres', $bound);
like($bindings, qr/^t2\|second$/m, 'a table is bound to its key');
like($bindings, qr/^t3\|Odd name$/m, 'a name that needs quotes');

# plain text: what it says and what it does not
my $host = $node->connstr('postgres');
my ($text, $err) = run_command([ 'pg_dump', '-d', $host ]);
is($err, '', 'pg_dump has nothing to complain of');
like($text, qr/SECURITY LABEL FOR cmek ON TABLE public\.t2 IS/, 'the binding is in the dump');
unlike($text, qr/COPY cmek\./, 'key tables are not');
my $wrapped = $node->safe_psql('postgres', q{SELECT encode(wrapped, 'hex') FROM cmek.data_key LIMIT 1});
is(index($text, substr($wrapped, 0, 24)), -1, 'no wrapped key is');
like($text, qr/default_table_access_method = cmek_heap/, 'the access method is');
isnt(index($text, "c4ca4238a0b923820dcc509a6f75849b"), -1, 'rows are, in clear: pg_dump reads as a user does');

# custom format into a new database, errors are errors
for my $jobs (1, 2)
{
	my $db = "restored$jobs";

	$node->command_ok([ 'pg_dump', '-Fc', '-d', $host, '-f', "$dir/dump$jobs" ], 'pg_dump -Fc');
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', $jobs, '-d', $node->connstr($db), "$dir/dump$jobs" ],
		"pg_restore -j $jobs");
	is($node->safe_psql($db, $query), $rows, 'the same rows');
	is($node->safe_psql($db, $bound), $bindings, 'the same bindings');
	is($node->safe_psql($db, q{SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'cmek_heap' AND relkind IN ('r', 'm')}),
		$node->safe_psql('postgres', q{SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'cmek_heap' AND relkind IN ('r', 'm')}),
		'all sealed again');
	is($node->safe_psql($db, "SELECT count(*) FROM cmek.verify('t2')"), '0', 'verify');
	isnt($node->safe_psql($db, 'SELECT string_agg(id::text, $$,$$) FROM cmek.table_key'),
		$node->safe_psql('postgres', 'SELECT string_agg(id::text, $$,$$) FROM cmek.table_key'),
		'under keys of its own');
}

# the recipe of DESIGN section 1: no default key, labels bind before the data
$node->safe_psql('postgres', 'CREATE DATABASE recipe');
$node->safe_psql('postgres', q{ALTER DATABASE recipe SET cmek.default_key = 'none'});
$node->command_ok([ 'pg_restore', '-s', '-d', $node->connstr('recipe'), "$dir/dump1" ], 'pg_restore --schema-only');
is($node->safe_psql('recipe', $bound), $bindings, 'bound by their labels alone');
$node->safe_psql('recipe', 'CREATE TABLE unbound (a int) USING cmek_heap');
isnt(sqlstate($node, 'INSERT INTO unbound VALUES (1)', 'recipe'), '', 'an unbound table refuses rows');

# a whole template database: its clone reads its own data, whatever the order
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE restored1');
is($node->safe_psql('clone', $query), $rows, 'a clone reads its rows');
$node->safe_psql('clone', q{UPDATE t SET t = 'clone'; INSERT INTO t2 VALUES (0, 'clone')});
is($node->safe_psql('restored1', $query), $rows, 'the template reads its own');
$node->restart;
is($node->safe_psql('restored1', $query), $rows, 'template first after a restart');
is($node->safe_psql('clone', q{SELECT count(*) FROM t WHERE t = 'clone'}), '300', 'then the clone');
$node->restart;
is($node->safe_psql('clone', q{SELECT count(*) FROM t WHERE t = 'clone'}), '300', 'clone first after a restart');
$node->safe_psql('postgres', 'DROP DATABASE restored1');
is($node->safe_psql('clone', q{SELECT count(*) FROM t WHERE t = 'clone'}), '300', 'the template may go');

# a physical backup is sealed and starts with the key only
$node->backup('base');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'base');
$copy->append_conf('postgresql.conf', "cmek.service_key_file = '" . service_key($node) . "'");
$copy->start;
is($copy->safe_psql('postgres', $query), $rows, 'a restored backup reads with the key');
$copy->append_conf('postgresql.conf', "cmek.service_key_file = '$dir/nowhere'");
$copy->restart;
fails_with($copy, 'KM001', 'SELECT * FROM t', 'and not without');
ok(!-e "$dir/nowhere", 'and makes no new one');
is($copy->safe_psql('postgres', 'SELECT count(*) FROM t2'), '300', 'a table under another key does not care');
$copy->stop;

$node->stop;
done_testing();
