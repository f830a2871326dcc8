# CLUSTER by a sort: rows come in the order that plain heap gives them, in memory
# and with runs on disk, whatever the index is of; row versions that somebody may
# still need go along; and with the key away nothing happens.  What the sort
# spills is in 051.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('cluster', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'" ]);
my %am = (plain => 'heap', sealed => 'cmek_heap');
# core says which way it goes of its own b-trees only
my $sort = 'SET enable_indexscan = off;';

sub one { return $node->safe_psql('postgres', $_[0]) }

# What CLUSTER did is seen in the counters: a sort reads no row by the index
sub fetched { return one("SELECT pg_stat_force_next_flush(); SELECT idx_scan FROM pg_stat_all_indexes WHERE indexrelname = '$_[0]'") =~ s/^\n//r }

for my $kind (qw(plain sealed))
{
	one(qq{CREATE TABLE $kind (id int, gone text, k int, t text, l text) USING $am{$kind};
		INSERT INTO $kind SELECT i, 'gone', CASE WHEN i % 13 > 0 THEN i * 7919 % 100 END, CASE WHEN i % 17 > 0 THEN md5((i * 7919)::text) END,
			CASE WHEN i % 50 = 0 THEN (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 200) j) END FROM generate_series(1, 12000) i;
		ALTER TABLE $kind DROP gone;
		ALTER TABLE $kind ADD late int DEFAULT 7;
		UPDATE $kind SET t = t || 'u' WHERE id % 9 = 0;
		DELETE FROM $kind WHERE id % 11 = 0;
		CREATE INDEX ${kind}_k ON $kind (k DESC NULLS LAST, id);
		CREATE INDEX ${kind}_t ON $kind (t NULLS FIRST, id) INCLUDE (k);
		CREATE INDEX ${kind}_e ON $kind (upper(t) COLLATE "C" DESC, (k + id), id);
		CREATE INDEX ${kind}_r ON $kind (int4range(0, k), id)});
}
one('CREATE TABLE content AS TABLE plain; CREATE VIEW lost AS (TABLE content EXCEPT ALL TABLE sealed) UNION ALL (TABLE sealed EXCEPT ALL TABLE content)');
my $ids = q{SELECT md5(string_agg(id::text, ' ' ORDER BY ctid)) FROM };
for my $memory (qw(1MB 64MB))
{
	for my $index (qw(k t e r))
	{
		one("$sort SET maintenance_work_mem = '$memory'; CLUSTER ${_} USING ${_}_$index") for qw(plain sealed);
		is(one("$ids sealed"), one("$ids plain"), "$memory, $index: the order is heap's");
		is(one('SELECT count(*) FROM lost'), '0', '... no row is lost or changed');
		is(one("SELECT count(*) FROM cmek.verify('sealed')"), '0', '... verify is clean');
	}
}
is(one('SELECT count(*) FROM pg_ls_tmpdir()'), '0', 'no run is left');

# The order of equal keys is free: keys only
one('CREATE INDEX sealed_ties ON sealed (k)');
one("$sort CLUSTER sealed USING sealed_ties");
is(one('SELECT count(*) FROM (SELECT k, lag(k) OVER (ORDER BY ctid) AS before FROM sealed) s WHERE before > k OR before IS NULL AND k IS NOT NULL'), '1', 'equal keys');
is(one('SELECT count(*) FROM lost'), '0', '... no row is lost');

# By the index, where that is thought to be faster
my $scans = fetched('sealed_k');
# comparisons cost more than anything: since 18 enable_sort does not count here
one('SET cpu_operator_cost = 1000; CLUSTER sealed USING sealed_k');
cmp_ok(fetched('sealed_k'), '>', $scans, 'the index is followed');
$scans = fetched('sealed_k');
one("$sort CLUSTER sealed USING sealed_k");
is(fetched('sealed_k'), $scans, 'or it is not: a sort');

# Row versions that an older snapshot needs, and update chains
one('CREATE TABLE other (a int)');
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other');
one("UPDATE sealed SET late = late + 1, l = l || 'x' WHERE id % 3 = 0; UPDATE sealed SET late = late + 1 WHERE id % 6 = 0; DELETE FROM sealed WHERE id % 4 = 0");
one("$sort SET maintenance_work_mem = '1MB'; CLUSTER sealed USING sealed_t");
is($old->query_safe('SELECT count(*) FROM lost'), '0', 'an older snapshot finds its rows');
$old->query_safe('COMMIT');
$old->quit;
is(one('SELECT count(*), sum(late) FROM sealed'), one(q{SELECT count(*), sum(7 + (id % 3 = 0)::int + (id % 6 = 0)::int) FROM content WHERE id % 4 > 0}), 'the others, theirs');
is(one("SELECT count(*) FROM cmek.verify('sealed')"), '0', 'verify is clean');

# Temporary tables, and tables without a row
is(one("$sort CREATE TEMP TABLE t (a int) USING cmek_heap; INSERT INTO t SELECT i * 7919 % 1000 FROM generate_series(1, 1000) i; CREATE INDEX t_a ON t (a);
	CLUSTER t USING t_a; SELECT bool_and(a >= before) FROM (SELECT a, lag(a, 1, 0) OVER (ORDER BY ctid) AS before FROM t) s"), 't', 'a temporary table');
is(one("$sort CREATE TABLE empty (a int PRIMARY KEY) USING cmek_heap; CLUSTER empty USING empty_pkey; SELECT count(*) FROM empty"), '0', 'an empty one');
is(one("SET cmek.default_key = 'none'; $sort CREATE TABLE unbound (a int PRIMARY KEY) USING cmek_heap; CLUSTER unbound USING unbound_pkey; SELECT count(*) FROM pg_class WHERE relname = 'unbound'"),
	'1', 'an unbound one');

# Key away
my $file = one('SELECT pg_relation_filenode($$sealed$$)');
hide_key(service_key($node));
$node->restart;
fails_with($node, 'KM001', "$sort CLUSTER sealed USING sealed_k", 'key away');
show_key(service_key($node));
ok(wait_for_ok($node, 'SELECT count(t) FROM sealed'), 'back');
is(one('SELECT pg_relation_filenode($$sealed$$)'), $file, 'the table was left as it was');

done_testing();
