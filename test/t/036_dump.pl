# pg_dump | pg_restore carries rows and bindings and never a key; pg_basebackup
# works as ever.

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

# every format, with parallel jobs where there are any; errors are errors
my @form = (
	{ db => 'custom', dump => ['-Fc'], restore => [ '-j', '2' ] },
	{ db => 'directory', dump => [ '-Fd', '-j', '2' ], restore => [ '-j', '2' ] },
	{ db => 'tar', dump => ['-Ft'], restore => [] },
	{ db => 'plain', dump => ['-Fp'] });
for my $form (@form)
{
	my $db = $form->{db};
	my $to = $node->connstr($db);

	$node->command_ok([ 'pg_dump', @{ $form->{dump} }, '-d', $host, '-f', "$dir/$db" ], "pg_dump @{ $form->{dump} }");
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->command_ok($form->{restore}
		? [ 'pg_restore', '--exit-on-error', @{ $form->{restore} }, '-d', $to, "$dir/$db" ]
		: [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $to, '-f', "$dir/$db" ],
		"$db: restored");
	is($node->safe_psql($db, $query), $rows, "$db: the same rows");
	is($node->safe_psql($db, $bound), $bindings, "$db: the same bindings");
	is($node->safe_psql($db, q{SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'cmek_heap' AND relkind IN ('r', 'm')}),
		$node->safe_psql('postgres', q{SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'cmek_heap' AND relkind IN ('r', 'm')}),
		"$db: all sealed again");
	is($node->safe_psql($db, "SELECT count(*) FROM cmek.verify('t2')"), '0', "$db: verify");
	isnt($node->safe_psql($db, 'SELECT string_agg(id::text, $$,$$) FROM cmek.table_key'),
		$node->safe_psql('postgres', 'SELECT string_agg(id::text, $$,$$) FROM cmek.table_key'),
		"$db: under keys of its own");
}

# A label that fails.  Whoever restores may not use the key of t2; pg_restore goes on.
# With default_key = 'none' t2 gets no row; else its rows are sealed under the default key
$node->safe_psql('postgres', 'CREATE ROLE restorer LOGIN; GRANT USAGE ON FOREIGN SERVER cmek_service_key TO restorer');
for my $case ([ 'none', 0 ], [ 'cmek_service_key', 300 ])
{
	my ($default, $loaded) = @$case;
	my $db = "label_$default";

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION cmek; CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second');
		GRANT CREATE ON SCHEMA public TO restorer");
	local $ENV{PGOPTIONS} = "-c cmek.default_key=$default";
	my (undef, $complaint) = run_command([ 'pg_restore', '-O', '-x', '-t', 't2', '-U', 'restorer', '-d', $node->connstr($db), "$dir/custom" ]);
	delete $ENV{PGOPTIONS};
	is($node->safe_psql($db, 'SELECT count(*) FROM pg_class WHERE relname = $$t2$$'), '1', "$default: the table is made");
	is($node->safe_psql($db, "SELECT count(*) FROM cmek.bindings WHERE server = 'second'"), '0', "$default: not bound to its key");
	my $count = sqlstate($node, 'SELECT count(*) FROM t2', $db) eq '' ? $node->safe_psql($db, 'SELECT count(*) FROM t2') : 0;
	is($count, $loaded, "$default: $loaded rows are in it");
	like($complaint, $loaded ? qr/permission denied for foreign server second/ : qr/permission denied for foreign server second.*COPY failed for table "t2".*has no key/s,
		"$default: pg_restore says what failed");
}

# the recipe of DESIGN section 1: no default key, labels bind before the data
$node->safe_psql('postgres', 'CREATE DATABASE recipe');
$node->safe_psql('postgres', q{ALTER DATABASE recipe SET cmek.default_key = 'none'});
$node->command_ok([ 'pg_restore', '-s', '-d', $node->connstr('recipe'), "$dir/custom" ], 'pg_restore --schema-only');
is($node->safe_psql('recipe', $bound), $bindings, 'bound by their labels alone');
$node->safe_psql('recipe', 'CREATE TABLE unbound (a int) USING cmek_heap');
isnt(sqlstate($node, 'INSERT INTO unbound VALUES (1)', 'recipe'), '', 'an unbound table refuses rows');

# a whole template database: its clone reads its own data, whatever the order
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE custom');
is($node->safe_psql('clone', $query), $rows, 'a clone reads its rows');
$node->safe_psql('clone', q{UPDATE t SET t = 'clone'; INSERT INTO t2 VALUES (0, 'clone')});
is($node->safe_psql('custom', $query), $rows, 'the template reads its own');
$node->restart;
is($node->safe_psql('custom', $query), $rows, 'template first after a restart');
is($node->safe_psql('clone', q{SELECT count(*) FROM t WHERE t = 'clone'}), '300', 'then the clone');
$node->restart;
is($node->safe_psql('clone', q{SELECT count(*) FROM t WHERE t = 'clone'}), '300', 'clone first after a restart');
$node->safe_psql('postgres', 'DROP DATABASE custom');
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
