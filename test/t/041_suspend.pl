# A suspended key: running scans of other sessions end within a second, with the
# key file there or gone, after a restart, on a standby; resumed, all come back
# without reconnecting.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

# no proof comes to our help, neither soon nor ever
my $node = cmek_node('primary', streaming => 1,
	config => [ 'autovacuum = off', "cmek.key_cache_ttl = '1h'", "cmek.kms_grace = '1h'", 'max_worker_processes = 8' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");

$node->safe_psql('postgres', "CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE SERVER other FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'k');
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
	CREATE TABLE o (a int) USING cmek_heap WITH (cmek.key = 'other');
	INSERT INTO o VALUES (1)");

# A statement that reads rows of t for minutes, one by one
my $endless = q{SELECT count(*) FROM (SELECT pg_sleep(0.002) FROM t) x};

# Start it in a session of its own and wait until it runs
sub start_scan
{
	my ($n) = @_;
	my $scan = { out => '', err => '' };

	$scan->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $n->connstr('postgres'), '-c', $endless ],
		'>', \$scan->{out}, '2>', \$scan->{err});
	$n->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT count(*) FROM (SELECT pg_sleep%' AND wait_event = 'PgSleep'")
	  or BAIL_OUT('the scan does not run');
	return $scan;
}

# How long until it is over, and how it ended
sub ends_within
{
	my ($scan, $from, $limit, $name) = @_;

	$scan->{run}->finish;
	my $took = time() - $from;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	note(sprintf('%s: %.0f ms', $name, 1000 * $took));
	like($scan->{err}, qr/KM001.*is not accessible.*Suspended/s, "$name: KM001");
	cmp_ok($took, '<', $limit, "$name: within $limit s");
	return;
}

# ---------------------------------------------------------------------
# Running scans
# ---------------------------------------------------------------------

my $session = $node->background_psql('postgres', on_error_stop => 0);
my $cursor = $node->background_psql('postgres', on_error_stop => 0);
is($session->query('SELECT count(*) FROM t'), '20000', 'a session reads');
$cursor->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT a FROM t; FETCH 1 FROM c');

my $scan = start_scan($node);
my $start = time();
$node->safe_psql('postgres', "SELECT cmek.suspend_key('k')");
ends_within($scan, $start, 1, 'a running scan');
$cursor->query('FETCH 1 FROM c');
like($cursor->{stderr}, qr/is not accessible/, 'so does a cursor');
$session->query('SELECT count(*) FROM t');
like($session->{stderr}, qr/is not accessible/, 'and whoever comes later');
$session->{stderr} = '';
is($node->safe_psql('postgres', 'SELECT a FROM o'), '1', 'other keys stay');
is($node->safe_psql('postgres', q{SELECT state, code, since IS NOT NULL FROM cmek.keys WHERE name = 'k'}),
	'suspended|Suspended|t', 'cmek.keys says so');
is($node->safe_psql('postgres', q{SELECT cached_keys FROM cmek.stat}), '1', 'and the key has left memory');
my $calls = $node->safe_psql('postgres', 'SELECT kms_calls FROM cmek.stat');
sqlstate($node, 'SELECT count(*) FROM t') for 1 .. 5;
is($node->safe_psql('postgres', 'SELECT kms_calls FROM cmek.stat'), $calls, 'no KMS is asked');

$node->safe_psql('postgres', "SELECT cmek.resume_key('k')");
is($session->query('SELECT count(*) FROM t'), '20000', 'resumed: the same session reads again');

# with the KMS away
$scan = start_scan($node);
hide_key($file);
$start = time();
$node->safe_psql('postgres', "SELECT cmek.suspend_key('k')");
ends_within($scan, $start, 1, 'a running scan, KMS away');
$node->safe_psql('postgres', "SELECT cmek.resume_key('k')");
like(error_text($node, 'SELECT count(*) FROM t'), qr/KM001.*KeyFileMissing/s, 'resumed with the KMS away: it says so');
show_key($file);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the KMS is back');
is($session->query('SELECT count(*) FROM t'), '20000', 'and so is the session');

# everywhere, by name, in all databases
$node->safe_psql('postgres', 'CREATE DATABASE db2');
$node->safe_psql('db2', "CREATE EXTENSION cmek;
	CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO t VALUES (1)");
$scan = start_scan($node);
$start = time();
$node->safe_psql('db2', "SELECT cmek.suspend_key('k', true)");
ends_within($scan, $start, 1, 'a running scan in another database');
fails_with($node, 'KM001', 'SELECT a FROM t', 'both databases', 'db2');
is($node->safe_psql('postgres', 'SELECT a FROM o'), '1', 'other keys stay');
like(slurp_file($node->data_dir . '/cmek_suspended'), qr/^cmek suspended 1\n-?\d+ \S+ k\nend [0-9a-f]{8}\n\z/, 'the file');

# suspended in this database too, and a restart
$node->safe_psql('postgres', "SELECT cmek.suspend_key('other')");
$node->restart;
fails_with($node, 'KM001', 'SELECT a FROM t', 'everywhere survives a restart', $_) for qw(postgres db2);
fails_with($node, 'KM001', 'SELECT a FROM o', 'so does the one of this database');
like(error_text($node, 'SELECT a FROM o'), qr/in this database by role/, 'and says so');
is($node->safe_psql('postgres', q{SELECT name, state FROM cmek.keys WHERE name IN ('k', 'other') ORDER BY name}),
	"k|suspended\nother|suspended", 'cmek.keys, too');
$node->stop('immediate');
$node->start;
fails_with($node, 'KM001', 'SELECT a FROM o', 'and a crash');
$node->safe_psql('postgres', "SELECT cmek.resume_key('k', true), cmek.resume_key('other')");
is(sqlstate($node, 'SELECT a FROM t', $_), '', "resumed in $_") for qw(postgres db2);
is(sqlstate($node, 'SELECT a FROM o'), '', 'and the other');

# one changed letter of a name must not bring the key back
my $list = $node->data_dir . '/cmek_suspended';
$node->safe_psql('postgres', "SELECT cmek.suspend_key('other', true)");
{
	my $text = slurp_file($list);
	ok($text =~ s/ other\n/ othes\n/, 'a name in the file is changed');
	unlink($list);
	append_to_file($list, $text);
	$node->restart;
	fails_with($node, 'KM001', 'SELECT a FROM o', 'a changed name does not bring its key back');
	unlink($list);
	$node->restart;
	is(sqlstate($node, 'SELECT a FROM o'), '', 'removed: it is back');
}

# a damaged file suspends everything, and the server starts
append_to_file($list, 'x');
$node->restart;
like(error_text($node, 'SELECT a FROM o'), qr/KM001.*cmek_suspended.*damaged/s, 'a damaged file suspends every key');
fails_with($node, 'XX001', "SELECT cmek.resume_key('k', true)", 'nothing overwrites it');
unlink($list);
$node->restart;
is(sqlstate($node, 'SELECT a FROM o'), '', 'removed: all is well');

# rolled back, or gone with the session
$session = $node->background_psql('postgres', on_error_stop => 0);
is($session->query('SELECT count(*) FROM t'), '20000', 'a session reads');
{
	my $order = $node->background_psql('postgres', on_error_stop => 0);
	$order->query_safe("BEGIN; SELECT cmek.suspend_key('k')");
	is($session->query('SELECT count(*) FROM t'), '20000', 'before commit nothing happens');
	$order->quit;
}
is($session->query('SELECT count(*) FROM t'), '20000', 'and never without one');
$session->quit;

# ---------------------------------------------------------------------
# A standby
# ---------------------------------------------------------------------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby = on\ncmek.service_key_file = '" . service_key($node) . "'");
$standby->start;
$node->wait_for_catchup($standby);
$session = $standby->background_psql('postgres', on_error_stop => 0);
is($session->query('SELECT count(*) FROM t'), '20000', 'the standby reads');

$scan = start_scan($standby);
$start = time();
$node->safe_psql('postgres', "SELECT cmek.suspend_key('k')");
ends_within($scan, $start, 2, 'a running scan on a standby');
$session->query('SELECT count(*) FROM t');
like($session->{stderr}, qr/is not accessible/, 'and later ones');
$session->{stderr} = '';
is($standby->safe_psql('postgres', q{SELECT state FROM cmek.keys WHERE name = 'k'}), 'suspended', 'its view says so');
is($standby->safe_psql('postgres', 'SELECT a FROM o'), '1', 'other keys stay');
fails_with($standby, '25006', "SELECT cmek.resume_key('k')", 'it is no standby that resumes');
$node->safe_psql('postgres', "SELECT cmek.resume_key('k')");
$node->wait_for_catchup($standby);
is($session->query('SELECT count(*) FROM t'), '20000', 'resumed, without reconnecting');

# its own file
$scan = start_scan($standby);
$start = time();
$standby->safe_psql('postgres', "SELECT cmek.suspend_key('k', true)");
ends_within($scan, $start, 1, 'everywhere on a standby');
is(sqlstate($node, 'SELECT a FROM t'), '', 'is its own affair');
$standby->safe_psql('postgres', "SELECT cmek.resume_key('k', true)");

# keys that nobody asks for do not stay for ever
is($session->query('SELECT count(*) FROM t'), '20000', 'the standby reads');
cmp_ok($standby->safe_psql('postgres', 'SELECT cached_keys FROM cmek.stat'), '>', 0, 'the key is cached');
$standby->safe_psql('postgres', q{SELECT 1});
$standby->append_conf('postgresql.conf', "cmek.key_cache_ttl = '1s'");
$standby->reload;
ok($standby->poll_query_until('postgres', 'SELECT cached_keys = 0 FROM cmek.stat'), 'a key that nobody asks for leaves');

# promoted while suspended
is($session->query('SELECT count(*) FROM t'), '20000', 'the standby reads');
$scan = start_scan($standby);
$node->safe_psql('postgres', "SELECT cmek.suspend_key('k')");
$node->wait_for_catchup($standby);
$node->stop('immediate');
$start = time();
$standby->promote;
ends_within($scan, $start, 5, 'a scan over a promotion');
fails_with($standby, 'KM001', 'SELECT a FROM t', 'promoted: still suspended');
$standby->safe_psql('postgres', "SELECT cmek.resume_key('k')");
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), '20000', 'and resumed there');

$standby->stop;
done_testing();
