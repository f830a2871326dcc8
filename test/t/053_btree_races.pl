# Sealed indexes under concurrency: unique races, deletes, splits, builds beside
# writers; afterwards nothing is lost, doubled or out of order.
#
#   CMEK_RACE_SECONDS   how long each race runs (4)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $seconds = $ENV{CMEK_RACE_SECONDS} || 4;
my $seed = $ENV{CMEK_TWIN_SEED} || int(rand(1e9));
note("seed $seed");
my $node = cmek_node('btrace', config => [ 'autovacuum = off', 'fsync = off', 'max_connections = 30' ]);
my $force = 'SET enable_seqscan = off; SET enable_bitmapscan = off;';

# Scripts for pgbench, side by side
sub race
{
	my ($clients, %script) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @files;

	for my $name (sort keys %script)
	{
		open(my $fh, '>', "$dir/$name") or die $!;
		print $fh $script{$name};
		close($fh);
		push @files, '-f', "$dir/$name";
	}
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'pgbench', '-n', '-c', $clients, '-j', 1, '-T', $seconds, "--random-seed=$seed", @files,
			'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$out, '2>', \$err);
	my ($done) = $out =~ /number of transactions actually processed: (\d+)/;
	unlike($err, qr/ERROR|error:|aborted/, 'no error') or diag($err);
	cmp_ok($done || 0, '>', 50, "transactions: " . ($done || 0));
	return;
}

sub is_whole
{
	my ($table, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', "SELECT string_agg(v::text, ' ') FROM (SELECT * FROM cmek.verify('$table') LIMIT 5) v"), '', "$name: verify");
	is($node->safe_psql('postgres', "$force SELECT count(*), sum(id) FROM $table WHERE id > -1"),
		$node->safe_psql('postgres', "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(id) FROM $table WHERE id > -1"),
		"$name: index scan = sequential scan");
	return;
}

# ---------- the same few keys, by all ----------

$node->safe_psql('postgres', 'CREATE TABLE u (id int PRIMARY KEY, n int, k text) USING cmek_heap; CREATE INDEX ON u (k)');
race(8,
	upsert => "\\set id random(1, 60)\nINSERT INTO u VALUES (:id, 1, 'k' || :id) ON CONFLICT (id) DO UPDATE SET n = u.n + 1;\n",
	try => "\\set id random(1, 60)\nINSERT INTO u VALUES (:id, 1, 'k' || :id) ON CONFLICT DO NOTHING;\n",
	delete => "\\set id random(1, 60)\nDELETE FROM u WHERE id = :id;\n",
	undo => "\\set id random(1, 60)\nBEGIN;\nINSERT INTO u VALUES (:id, 1, 'k' || :id) ON CONFLICT DO NOTHING;\nROLLBACK;\n");
is($node->safe_psql('postgres', 'SET enable_indexscan = off; SET enable_indexonlyscan = off; SELECT count(*) - count(DISTINCT id) FROM u'), '0', 'no key is there twice');
is_whole('u', 'unique races');

# ---------- splits, deletes and vacuum ----------

$node->safe_psql('postgres', q{
	CREATE SEQUENCE s_seq;
	CREATE TABLE s (id int PRIMARY KEY, k text, n int) USING cmek_heap;
	CREATE INDEX ON s (k, n);
	CREATE INDEX ON s (n);
	INSERT INTO s SELECT i, md5(i::text), i % 10 FROM generate_series(1000000, 1003000) i});
race(6,
	insert => "INSERT INTO s SELECT nextval('s_seq'), md5(random()::text), random() * 10 FROM generate_series(1, 20);\n",
	delete => "DELETE FROM s WHERE id IN (SELECT id FROM s WHERE k > md5(random()::text) ORDER BY k LIMIT 15 FOR UPDATE SKIP LOCKED);\n",
	churn => "\\set id random(1000000, 1003000)\nUPDATE s SET n = n + 1 WHERE id = :id;\n",
	scan => "\\set n random(1, 9)\nSELECT count(*) FROM s WHERE n = :n;\n",
	back => "SELECT id FROM s WHERE k < md5(random()::text) ORDER BY k DESC, n DESC LIMIT 30;\n",
	vacuum => "SELECT pg_try_advisory_lock(7) AS mine \\gset\n\\if :mine\nVACUUM (INDEX_CLEANUP ON) s;\nSELECT pg_advisory_unlock(7);\n\\endif\n");
is_whole('s', 'splits and deletes');

# dead entries are killed by scans and deleted before a page splits
$node->safe_psql('postgres', q{
	CREATE TABLE b (id int PRIMARY KEY, n int, x int) USING cmek_heap;
	CREATE INDEX b_n ON b (n);
	INSERT INTO b SELECT i, i, 0 FROM generate_series(1, 100) i});
for my $i (1 .. 120)
{
	$node->safe_psql('postgres', "UPDATE b SET n = n; UPDATE b SET x = $i, n = n + (id % 2); $force SELECT count(*) FROM b WHERE n >= 0") if $i % 4 == 0;
	$node->safe_psql('postgres', 'SELECT 1') if $i == 1;
}
is_whole('b', 'dead entries');

# ---------- builds beside writers ----------

my $dir = PostgreSQL::Test::Utils::tempdir();
open(my $fh, '>', "$dir/w") or die $!;
print $fh "\\set id random(1000000, 1003000)\nUPDATE s SET k = md5(random()::text) WHERE id = :id;\nINSERT INTO s SELECT nextval('s_seq'), 'new', 3;\n";
close($fh);
my ($out, $err) = ('', '');
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', $seconds + 3, '-f', "$dir/w", '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err);
for my $i (1 .. 3)
{
	$node->safe_psql('postgres', "CREATE INDEX CONCURRENTLY s_c$i ON s (n, k)");
	$node->safe_psql('postgres', "REINDEX INDEX CONCURRENTLY s_c$i");
	$node->safe_psql('postgres', 'DROP INDEX CONCURRENTLY s_c1') if $i == 1;
}
$node->safe_psql('postgres', 'REINDEX TABLE CONCURRENTLY s');
eval { $writers->finish };
unlike($err, qr/ERROR|error:/, 'writers beside concurrent builds');
is_whole('s', 'concurrent builds');
is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.data_key d WHERE kind = 'i' AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.index)}), '0',
	'no data key of an index that is gone');

# ---------- parallel scans, and comparison functions that use the index ----------

is($node->safe_psql('postgres', q{
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_index_scan_size = 0; SET min_parallel_table_scan_size = 0;
	SET enable_seqscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 2;
	SELECT count(n) = (SELECT count(*) FROM s WHERE n + 0 IS NOT NULL) FROM s WHERE n IS NOT NULL}), 't', 'a parallel scan');
like($node->safe_psql('postgres', q{
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_index_scan_size = 0; SET min_parallel_table_scan_size = 0;
	SET max_parallel_workers_per_gather = 2;
	SET enable_seqscan = off; SET enable_bitmapscan = off;
	EXPLAIN SELECT count(n) FROM s WHERE n IS NOT NULL}), qr/Parallel Index/, '... it was one');
$node->safe_psql('postgres', q{
	CREATE TABLE re (a int) USING cmek_heap;
	CREATE FUNCTION re_cmp(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		-- nbtree under nbtree (an EXCEPTION block here is beyond core, too)
		PERFORM 1 FROM s WHERE id = 1000000 + $1;
		RETURN btint4cmp($1, $2);
	END$$;
	CREATE OPERATOR CLASS re_ops FOR TYPE int4 USING btree AS
		OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 re_cmp(int, int);
	CREATE UNIQUE INDEX ON re (a re_ops);
	INSERT INTO re SELECT (i * 37) % 301 FROM generate_series(1, 300) i});
is($node->safe_psql('postgres', "$force SELECT count(*) FROM re WHERE a BETWEEN 10 AND 20"), '11', 'a comparison function that runs SQL');
like(error_text($node, 'INSERT INTO re VALUES (37)'), qr/23505.*Key \(a\)=\(37\) already exists/s, '... and a violated constraint names the key');

# ---------- the key goes and comes back while a value is fetched to be sealed ----------

# An UPDATE hands its index the value as it lies in the TOAST table, whose index
# somebody has locked.  Until it gets on, the key is suspended and resumed, and the
# table gets more data keys: all are opened anew, and lie elsewhere
my $file = $node->basedir . '/gone_and_back';
new_key_file($file);
$node->safe_psql('postgres', qq{CREATE SERVER back FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')});
$node->safe_psql('postgres', q{
	CREATE TABLE away (id int, k text) USING cmek_heap WITH (cmek.key = 'back'); ALTER TABLE away ALTER k SET STORAGE EXTERNAL;
	INSERT INTO away SELECT i, repeat(md5(i::text), 70) FROM generate_series(1, 3) i;
	CREATE INDEX ON away (id); CREATE INDEX ON away (k)});
my $toast_index = $node->safe_psql('postgres', q{SELECT indexrelid::regclass FROM pg_index WHERE indrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'away'::regclass)});
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN; REINDEX INDEX $toast_index");
my $updater = $node->background_psql('postgres', on_error_stop => 0);
$updater->query_until(qr/begun/, "SELECT id FROM away;\n\\echo begun\nUPDATE away SET id = 4 WHERE id = 1;\n");
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'UPDATE away%' AND wait_event_type = 'Lock'}), 'an update waits for a value');
$node->safe_psql('postgres', $_)
  for q{SELECT cmek.suspend_key('back'); SELECT cmek.resume_key('back')}, ("CALL cmek.rotate_data_key('away')") x 3;
$locker->query_safe('COMMIT');
$updater->query_safe('SELECT 1');
is($node->safe_psql('postgres', "$force SELECT count(*) FROM away WHERE k > ''"), '3', 'what it sealed then can be opened');
is_whole('away', 'a key that went and came back');
$_->quit for $locker, $updater;
$node->stop;

done_testing();
