# count(*) unseals nothing, and fails all the same when the key is away; so
# does everything else that touches rows, also in the middle of a scan.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('counters', config => [ 'autovacuum = off', 'max_parallel_workers_per_gather = 0' ]);
my $key = service_key($node);

sub counter
{
	my ($name) = @_;

	# the counters of a transaction are added at its end
	return $node->safe_psql('postgres', "SELECT $name FROM cmek.stat");
}

# How many rows and chunks a statement unseals
sub unseals
{
	my ($sql) = @_;
	my $before = counter('unseals');

	$node->safe_psql('postgres', $sql);
	return counter('unseals') - $before;
}

my $seals = counter('seals');
$node->safe_psql('postgres', q{
	CREATE TABLE t (id int, t text, long text) USING cmek_heap;
	ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, 'row ' || i, CASE WHEN i % 100 = 0 THEN repeat('l', 4000) END FROM generate_series(1, 10000) i});
cmp_ok(counter('seals') - $seals, '>=', 10000 + 200, 'rows and chunks are sealed');
cmp_ok(counter('seals') - $seals, '<=', 10000 + 500, 'and nothing more');

# a plain aggregate copies its first row, whatever it is going to do with it;
# heap/unused.c keeps that from unsealing it
is(unseals('SELECT count(*) FROM t'), 0, 'count(*) unseals nothing');
is(unseals('SELECT 1 FROM t LIMIT 5'), 0, 'nor does a query without columns');
is(unseals('SELECT sum(id) FROM t'), 10000, 'sum unseals each row once');
is(unseals("SELECT count(*) FROM t WHERE t LIKE '%7%' AND id > 0"), 10000, 'a filter too');
is(unseals('SELECT count(*) FROM t WHERE ctid IS NOT NULL AND xmin IS NOT NULL'), 0, 'system columns unseal nothing');
is(unseals('SELECT long IS NULL FROM t'), 10000, 'no chunk is unsealed for a NULL test');
cmp_ok(unseals('SELECT sum(length(long)) FROM t'), '>=', 10000, 'length reads no chunk it need not');
is(unseals('VACUUM t'), 0, 'VACUUM unseals nothing');
is(unseals('VACUUM (FREEZE) t'), 0, 'nor does VACUUM FREEZE');
is(unseals('ANALYZE t'), 10000, 'ANALYZE each row of its sample once');
is(unseals('SET default_statistics_target = 10; ANALYZE t'), 3000, 'and no row that is not in it');
is(unseals('DELETE FROM t WHERE ctid IN (SELECT ctid FROM t LIMIT 10)') <= 30, 1, 'DELETE by TID unseals next to nothing');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '9990', 'the count is right');
cmp_ok(counter('cache_hits'), '>', 0, 'the cache is used');
cmp_ok(counter('kms_calls'), '>', 0, 'the KMS was asked');

# An index-only scan that never comes to the heap
$node->safe_psql('postgres', q{
	SET cmek.plaintext_indexes = on;
	CREATE TABLE covered (id int) USING cmek_heap;
	INSERT INTO covered SELECT generate_series(1, 1000);
	CREATE INDEX ON covered (id)});
$node->safe_psql('postgres', 'VACUUM (FREEZE) covered');
my $index_only = 'SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SELECT id FROM covered WHERE id = 5';
like($node->safe_psql('postgres', 'BEGIN; ' . ($index_only =~ s/SELECT/EXPLAIN (ANALYZE, COSTS OFF) SELECT/r)),
	qr/Index Only Scan.*Heap Fetches: 0/s, 'an index-only scan does not come to the heap');

# The key goes
my %statement = (
	'index-only scan' => "BEGIN; $index_only",
	'count(*)' => 'SELECT count(*) FROM t',
	'no columns' => 'SELECT 1 FROM t LIMIT 1',
	'columns' => 'SELECT * FROM t LIMIT 1',
	'EXISTS' => 'SELECT EXISTS (SELECT FROM t)',
	'sample' => 'SELECT count(*) FROM t TABLESAMPLE system (10)',
	'TID' => "SELECT 1 FROM t WHERE ctid = '(0,20)'",
	'TID range' => "SELECT count(*) FROM t WHERE ctid < '(1,1)'",
	'DELETE of all' => 'DELETE FROM t',
	'DELETE by TID' => "DELETE FROM t WHERE ctid = '(0,20)'",
	'UPDATE' => 'UPDATE t SET id = 0',
	'INSERT' => 'INSERT INTO t VALUES (1)',
	'COPY TO' => 'COPY t TO stdout',
	'COPY FROM' => "COPY t (id) FROM PROGRAM 'echo 1'",
	'row lock' => 'SELECT id FROM t FOR UPDATE LIMIT 1',
	'CTAS' => 'CREATE TABLE c AS SELECT * FROM t',
	'INDEX' => 'SET cmek.plaintext_indexes = on; CREATE INDEX ON t (id)',
	'ALTER TYPE' => 'ALTER TABLE t ALTER id TYPE text',
	'SET ACCESS METHOD' => 'ALTER TABLE t SET ACCESS METHOD heap',
	'EXPLAIN ANALYZE' => 'EXPLAIN ANALYZE SELECT count(*) FROM t',
	'new table' => 'CREATE TABLE n (a int) USING cmek_heap');

fails_with($node, '', "BEGIN; $statement{$_}; ROLLBACK", "before: $_") for sort keys %statement;
hide_key($key);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'the key is away');
fails_with($node, 'KM001', $statement{$_}, "away: $_") for sort keys %statement;

my $text = error_text($node, 'SELECT count(*) FROM t');
like($text, qr/"t"/, 'the error names the table');
like($text, qr/cmek_service_key/, 'and the key');
like($text, qr/cmek_file/, 'and the provider');
like($text, qr/\d{4}-\d\d-\d\d \d\d:\d\d/, 'and since when');
my $secret = slurp_binary("$key.away");
$secret =~ s/^.* //s;
is(index($text, substr($secret, 0, 16)), -1, 'and not the key');
is(index(slurp_binary($node->logfile), substr($secret, 0, 16)), -1, 'nor does the log');

is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.keys WHERE name = 'cmek_service_key' AND state <> 'enabled'}),
	'1', 'cmek.keys shows it');
is(sqlstate($node, 'SELECT relname FROM pg_class WHERE relname = $$t$$'), '', 'the rest of the database is there');

show_key($key);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the key is back, by itself');
is($node->safe_psql('postgres', 'SELECT count(*), count(id) FROM t'), '9990|9990', 'nothing was lost');

# A running scan is cut: the cursor had read rows when the key went
my (undef, $out, $err) = (0, '', '');
$node->psql('postgres', qq{\\set VERBOSITY verbose
	BEGIN;
	DECLARE c CURSOR FOR SELECT id FROM t;
	FETCH 20 FROM c;
	\\! mv $key $key.away
	SELECT pg_sleep(8);
	FETCH 9000 FROM c;
	}, stdout => \$out, stderr => \$err, on_error_stop => 0);
my @ids = grep { /^\d+$/ } split /\n/, $out;
cmp_ok(scalar(@ids), '>=', 20, 'the cursor had read rows');
cmp_ok(scalar(@ids), '<', 2000, 'and was cut within a page or so');
like($err, qr/KM001/, 'with KM001');
show_key($key);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'and back again');

$node->stop;
done_testing();
