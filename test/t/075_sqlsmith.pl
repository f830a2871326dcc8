# sqlsmith as an unprivileged role against sealed tables: no crash, and no
# error that must not happen from our code.
#
#   CMEK_SQLSMITH_QUERIES   how many (400)
#   CMEK_RANDOM_SEED        the run to repeat

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my ($sqlsmith) = grep { -x } '/usr/games/sqlsmith', '/usr/bin/sqlsmith';
plan skip_all => 'sqlsmith is not installed' unless $sqlsmith;

my $queries = $ENV{CMEK_SQLSMITH_QUERIES} || 400;
# the short form is the same for every change; the long one (make test-random) is new each time
my $seed = $ENV{CMEK_RANDOM_SEED} || ($ENV{CMEK_SQLSMITH_QUERIES} ? int(rand(1_000_000_000)) : 20261122);
my $node = cmek_node('smith', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'",
		'restart_after_crash = off', 'log_error_verbosity = verbose', 'log_min_messages = error', 'log_min_error_statement = error',
		"temp_file_limit = '1GB'" ]);
$node->safe_psql('postgres', q{
	CREATE ROLE smith LOGIN;
	ALTER ROLE smith SET statement_timeout = '1s';
	CREATE SCHEMA sealed AUTHORIZATION smith;
	REVOKE ALL ON SCHEMA public FROM PUBLIC;
	SET ROLE smith;
	SET search_path = sealed;
	SET default_table_access_method = cmek_heap;
	CREATE TABLE numbers (a int, b int8, c numeric, d float8, e int[]);
	INSERT INTO numbers SELECT i, i * 1000, i / 7.0, i / 3.0, ARRAY[i, NULL] FROM generate_series(1, 200) i;
	CREATE TABLE texts (a int, t text, j jsonb, n name, c char(10), b bytea);
	ALTER TABLE texts ALTER t SET STORAGE EXTERNAL;
	INSERT INTO texts SELECT i, repeat(md5(i::text), i), jsonb_build_object('a', i), 'n' || i, i, convert_to(i::text, 'UTF8') FROM generate_series(1, 150) i;
	CREATE TABLE times (a int, ts timestamp, tz timestamptz, d date, i interval, u uuid, ip inet, r int4range, p point) PARTITION BY RANGE (a);
	CREATE TABLE times_1 PARTITION OF times FOR VALUES FROM (0) TO (50);
	CREATE TABLE times_2 PARTITION OF times DEFAULT;
	INSERT INTO times SELECT i, '2026-01-01'::timestamp + i * interval '1 day', '2026-01-01', '2026-01-01', '1 day', md5(i::text)::uuid,
		'10.0.0.1', int4range(i, i + 5), point(i, i) FROM generate_series(1, 100) i;
	CREATE TABLE dropped (a int, gone text, b text);
	INSERT INTO dropped SELECT i, 'x', 'y' FROM generate_series(1, 50) i;
	ALTER TABLE dropped DROP COLUMN gone;
	ALTER TABLE dropped ADD COLUMN c int DEFAULT 7;
	CREATE MATERIALIZED VIEW both_of AS SELECT n.a, t.t FROM numbers n JOIN texts t USING (a)});
my $content = q{SELECT count(*), sum(a), sum(length(t)) FROM sealed.texts};

my ($out, $error) = ('', '');
my $target = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres user=smith';
# its own SIGALRM is no end of ours
my $run = IPC::Run::start([ $sqlsmith, "--target=$target", "--seed=$seed", "--max-queries=$queries", '--exclude-catalog' ],
	'<', \undef, '>', \$out, '2>', \$error, IPC::Run::timeout(120 + $queries / 10));
ok(eval { IPC::Run::finish($run); 1 }, "sqlsmith ends, seed $seed") or diag($@);
note(substr($out . $error, -300));

my $log = slurp_file($node->logfile);
unlike($log, qr/terminated by signal|PANIC:/, 'no crash');
is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server answers');
# a statement that is no query of ours shows that there was a run
my @errors = $log =~ /ERROR:  (\w{5}): /g;
my %seen;
$seen{$_}++ for @errors;
note('errors: ' . join(' ', map { "$_ $seen{$_}" } sort { $seen{$b} <=> $seen{$a} } keys %seen));
cmp_ok($node->safe_psql('postgres', q{SELECT unseals FROM cmek.stat}), '>', 1000, 'sealed rows were read');
my @ours = $log =~ /^(?:.*ERROR:  (?:XX\d\d\d|KM\d\d\d): .*\n(?:.*\n){0,3}?.*LOCATION:  .*(?:\/|\s)(?:seal|slot|read|write|toast|ring|shadow|build|rewrite|unused|catalog|tablekey|reseal|verify)\.c:\d+)/mg;
is(scalar(grep { defined } @ours), 0, 'no internal error of ours');
# core's own, when its functions are given arguments that nobody gives them
my @internal = grep { !/invalid \w+ typmod|could not determine which collation|cache lookup|unrecognized|invalid regular|could not find (?:pathkey|memoize)/ } $log =~ /ERROR:  (XX000: .*)/g;
is(join("\n", @internal), '', 'no internal error at all');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class c, cmek.verify(c.oid) WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'cmek_heap')
		AND relkind IN ('r', 'm')}), '0', 'verify finds no damage');

done_testing();
