# Sealed indexes while the key is away, and what happens to their data keys.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('btaway', config => [ 'autovacuum = off', 'restart_after_crash = on', 'fsync = off' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $key = new_key_file("$dir/k1");
new_key_file("$dir/k2");
my $force = 'SET enable_seqscan = off; SET enable_bitmapscan = off;';

sub one
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub same_by_index
{
	my ($table, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(one("$force SELECT count(*), sum(id), md5(string_agg(id || k, ',' ORDER BY id)) FROM $table WHERE id >= 0"),
		one("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SELECT count(*), sum(id), md5(string_agg(id || k, ',' ORDER BY id)) FROM $table WHERE id >= 0"),
		"$name: index scan = sequential scan");
	is(one("SELECT string_agg(v::text, ' ') FROM cmek.verify('$table') v"), '', "$name: verify");
	return;
}

sub index_keys
{
	return one("SELECT string_agg(id::text, ' ' ORDER BY id) FROM cmek.data_key WHERE relid = '$_[0]'::regclass AND kind = 'i'");
}

one("CREATE SERVER k1 FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$dir/k1');
	CREATE SERVER k2 FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$dir/k2');
	CREATE TABLE t (id int PRIMARY KEY, k text) USING cmek_heap WITH (cmek.key = 'k1');
	INSERT INTO t SELECT i, 'k' || i FROM generate_series(1, 3000) i;
	CREATE INDEX t_k ON t (k);
	CREATE TABLE dropme (id int PRIMARY KEY) USING cmek_heap WITH (cmek.key = 'k1');
	CREATE TABLE emptied (id int PRIMARY KEY, k text) USING cmek_heap WITH (cmek.key = 'k1');
	INSERT INTO emptied SELECT i, 'e' FROM generate_series(1, 10) i");

# ---------- the key is lost between the heap pass and the index pass ----------

one('DELETE FROM t WHERE id % 2 = 0');
my $old = one("SELECT relfrozenxid FROM pg_class WHERE relname = 't'");
like(error_text($node, q{SET cmek.stop_point = 'index-vacuumed:error'; VACUUM t}), qr/stopped at "index-vacuumed"/, 'the index pass was reached');
same_by_index('t', 'stopped in the index pass');
one('DELETE FROM t WHERE id % 5 = 0');
# a vacuum that waits for a lock between the passes would need a wait of its
# own; instead the key goes while the callback of the index pass is at work
my $vacuum = IPC::Run::start([ 'psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), '-c',
		'SET vacuum_cost_delay = 20', '-c', 'SET vacuum_cost_limit = 1', '-c', 'VACUUM t' ], '<', \undef, '>', \my $out, '2>', \my $err);
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_progress_vacuum WHERE phase IN ('scanning heap', 'vacuuming indexes')});
one("SELECT cmek.suspend_key('k1')");
eval { $vacuum->finish };
like($err, qr/KM001/, 'a vacuum that loses the key fails');
fails_with($node, 'KM001', "$force SELECT * FROM t WHERE id = 1", 'index scan without the key');
fails_with($node, 'KM001', "$force SELECT count(*) FROM t WHERE k > 'k5'", 'another');
fails_with($node, 'KM001', "INSERT INTO t VALUES (9999, 'x')", 'insert without the key');
fails_with($node, 'KM001', 'REINDEX TABLE t', 'REINDEX without the key');
is(sqlstate($node, "$force EXPLAIN SELECT * FROM t WHERE id = 1 AND k > 'a'"), '', 'planning goes on');
is(sqlstate($node, 'VACUUM (FREEZE) t'), '', 'vacuum and freezing go on');
like(error_text($node, 'VACUUM (VERBOSE) t'), qr/indexes of table "t" are not vacuumed while its key is away/, 'and say what they leave out');
cmp_ok(one("SELECT age(relfrozenxid) FROM pg_class WHERE relname = 't'"), '<', 10, 'the table was frozen');
is(sqlstate($node, 'ANALYZE t'), '', 'ANALYZE goes on');
is(sqlstate($node, 'DROP TABLE dropme'), '', 'DROP goes on');
is(sqlstate($node, 'TRUNCATE emptied'), '', 'TRUNCATE goes on');
one("SELECT cmek.resume_key('k1')");
same_by_index('t', 'the key is back');
is(sqlstate($node, 'VACUUM t'), '', 'a later vacuum cleans up');
one("INSERT INTO t SELECT i, 'new' || i FROM generate_series(4000, 6000) i");
same_by_index('t', 'TIDs used again');
one("INSERT INTO emptied VALUES (1, 'x')");
same_by_index('emptied', 'truncated without the key');
one('REINDEX TABLE emptied');

# a running scan is cut
my $cut = error_text($node, qq{$force
	BEGIN;
	DECLARE c CURSOR FOR SELECT id FROM t WHERE id > 0 ORDER BY id;
	FETCH 1 FROM c;
	\\! psql -XqAt -d '} . $node->connstr('postgres') . qq{' -c "SELECT cmek.suspend_key('k1')"
	FETCH 1 FROM c});
like($cut, qr/KM001/, 'a running index scan is cut');
one("SELECT cmek.resume_key('k1')");

# ---------- data keys ----------

my $before = index_keys('t');
one("ALTER TABLE t SET (cmek.key = 'k2')");
hide_key("$dir/k1");
is(index_keys('t'), $before, 'a key switch keeps the data keys of indexes');
same_by_index('t', 'switched, the old key gone');
show_key("$dir/k1");
one("CALL cmek.rotate_data_key('t')");
one("CALL cmek.reseal('t')");
is(index_keys('t'), $before, '... so does rotation');
same_by_index('t', 'rotated and resealed');

one("BEGIN; REINDEX TABLE t; INSERT INTO t VALUES (20000, 'lost'); ROLLBACK");
is(index_keys('t'), $before, 'a REINDEX rolled back leaves the old keys');
one("INSERT INTO t VALUES (20001, 'beside')");
same_by_index('t', 'after a rollback');
one("BEGIN; SAVEPOINT s; REINDEX TABLE t; ROLLBACK TO s; INSERT INTO t VALUES (20002, 'x'); COMMIT");
same_by_index('t', 'after a subtransaction');
for my $kill ('error', 'kill')
{
	my $old = checkpointer($node);

	isnt(sqlstate($node, "SET cmek.stop_point = 'index-key-made:$kill'; REINDEX INDEX t_k"), '', "REINDEX stopped: $kill");
	restarted_since($node, $old) or BAIL_OUT('the server did not restart') if $kill eq 'kill';
	same_by_index('t', "REINDEX stopped: $kill");
	is(index_keys('t'), $before, '... with the keys it had');
}
one('REINDEX TABLE t');
isnt(index_keys('t'), $before, 'REINDEX gives new ones');
is(scalar(split(/ /, index_keys('t'))), 2, '... one each');

# an index file that is taken over by an index of another OID, built by nobody
one("CREATE TABLE carry (id int PRIMARY KEY, k varchar(10), u varchar(10), CONSTRAINT carry_u UNIQUE (u)) USING cmek_heap WITH (cmek.key = 'k1');
	INSERT INTO carry SELECT i, i::text, i::text FROM generate_series(1, 1000) i;
	CREATE INDEX carry_k ON carry (k)");
my $carried = q{SELECT d.id || ' ' || d.structure || ' ' || pg_relation_filenode(d.index) FROM cmek.data_key d WHERE d.index = 'carry_u'::regclass};
my $by_u = "$force SELECT count(*) || ' ' || min(id) FROM carry WHERE u IN ('77', '78')";
my ($before_alter, $oid) = (one($carried), one("SELECT 'carry_u'::regclass::oid"));
is(one("BEGIN; SAVEPOINT s; ALTER TABLE carry ALTER u TYPE varchar(20); ROLLBACK TO s; $by_u; COMMIT"), '2 77', 'taken over, and given back');
is(one($carried), $before_alter, '... with its key');
isnt(sqlstate($node, 'BEGIN; ALTER TABLE carry ALTER u TYPE varchar(20); SELECT 1 / 0'), '', 'taken over, and the transaction fails');
is(one($carried), $before_alter, '... with its key');
one('ALTER TABLE carry ALTER k TYPE varchar(20), ALTER u TYPE varchar(20)');
isnt(one("SELECT 'carry_u'::regclass::oid"), $oid, 'ALTER TYPE: another index');
is(one($carried), $before_alter, '... of the same file, with the key that it is sealed with');
is(one($by_u), '2 77', '... which opens it');
is(sqlstate($node, "INSERT INTO carry VALUES (2000, 'x', '77')"), '23505', '... and finds what is there');
is(one("INSERT INTO carry VALUES (2000, 'x', 'new'); $force SELECT id FROM carry WHERE u = 'new'"), '2000', '... and what comes');
is(one("SELECT count(*) FROM cmek.verify('carry')"), '0', '... all of it');
one('DELETE FROM carry WHERE id = 2000');
same_by_index('carry', 'ALTER TYPE');
one('ALTER TABLE carry ALTER k TYPE text; ALTER TABLE carry ALTER id TYPE int8');
same_by_index('carry', 'ALTER TYPE with a rewrite');
one('VACUUM FULL carry; CLUSTER carry USING carry_k; REINDEX TABLE CONCURRENTLY carry; CREATE INDEX CONCURRENTLY carry_2 ON carry (k, id)');
same_by_index('carry', 'rebuilt in many ways');
is(one(q{SELECT count(*) FROM cmek.data_key d WHERE kind = 'i' AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.index)}), '0', 'no data key of an index that is gone');
one('DROP INDEX carry_2; DROP INDEX CONCURRENTLY carry_k');
is(scalar(split(/ /, index_keys('carry'))), 2, 'dropped indexes took theirs along');

# a clone keeps them apart
one('CREATE DATABASE clone TEMPLATE postgres');
is($node->safe_psql('clone', "$force SELECT count(*) FROM carry WHERE id = 77"), '1', 'a clone reads');
one('REINDEX TABLE carry');
is($node->safe_psql('clone', "$force SELECT count(*) FROM carry WHERE id = 77; INSERT INTO carry VALUES (5000, 'x'); SELECT count(*) FROM cmek.verify('carry')"), "1\n0", '... when the original was rebuilt');
same_by_index('carry', 'the original');

# unbound, then bound
one("SET cmek.default_key = 'none'; CREATE TABLE ub (id int PRIMARY KEY, k text) USING cmek_heap");
is(index_keys('ub'), '', 'an unbound table has no keys');
is(one("$force SELECT count(*) FROM ub WHERE id = 1"), '0', '... and no entries');
one("ALTER TABLE ub SET (cmek.key = 'k1'); INSERT INTO ub VALUES (1, 'x')");
same_by_index('ub', 'bound later');

# the count of seals
one("UPDATE cmek.data_key_seals SET reserved = 4294967296 WHERE id IN (SELECT id FROM cmek.data_key WHERE kind = 'i' AND relid = 'ub'::regclass)");
like(error_text($node, "INSERT INTO ub SELECT i, 'y' FROM generate_series(2, 3000) i"), qr/KM002.*HINT:  REINDEX INDEX/s, 'a data key that sealed too much says REINDEX');
one('REINDEX TABLE ub');
is(sqlstate($node, "INSERT INTO ub SELECT i, 'y' FROM generate_series(2, 3000) i"), '', '... and that helps');
same_by_index('ub', 'after REINDEX');
$node->stop;

done_testing();
