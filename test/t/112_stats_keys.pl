# Sealed statistics and keys: away while ANALYZE runs, while others plan, taken
# from a session that has them, two keys in one tree; autovacuum; a standby; and
# a user-defined operator that would show them to who may not see them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('primary', streaming => 1,
	config => [ 'autovacuum = off', "cmek.key_cache_ttl = '1h'", "cmek.kms_grace = '1h'", 'log_min_messages = log', 'max_worker_processes = 12' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my %file = map { $_ => new_key_file("$dir/$_") } qw(k1 k2);
my $rows;

sub sql { return $node->safe_psql('postgres', join(' ', @_)); }

# The rows that a session expects
sub expected
{
	my ($session, $query) = @_;
	my $plan = $session->query("EXPLAIN $query");

	return $plan =~ /rows=(\d+)/ ? $1 : $plan;
}

sql(map { "CREATE SERVER $_ FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{$_}');" } qw(k1 k2));
sql("CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'k1');
	INSERT INTO t SELECT i % 10, 'b' || i % 4 FROM generate_series(1, 3000) i; ANALYZE t;
	CREATE TABLE p (id int, v text) PARTITION BY LIST (id);
	CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1) USING cmek_heap WITH (cmek.key = 'k1');
	CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) USING cmek_heap WITH (cmek.key = 'k2');
	INSERT INTO p SELECT 1 + i % 2, 'v' || i % 5 FROM generate_series(1, 2000) i; ANALYZE p, p1, p2");

# ---------------------------------------------------------------------
# Away: defaults, no error; back: as before
# ---------------------------------------------------------------------

my $session = $node->background_psql('postgres', on_error_stop => 0);
my $query = 'SELECT * FROM t WHERE a = 3';
is(expected($session, $query), '300', 'the planner knows');

# They are opened once, as long as nothing changes
sub reads
{
	return $session->query_safe("SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_xact_all_tables WHERE relid = 'cmek.statistic'::regclass");
}
$session->query_safe('BEGIN');
expected($session, $query);
my $reads = reads();
expected($session, $query) for 1 .. 5;
is(reads(), $reads, 'statistics that were opened are not read again');
$session->query_safe('ANALYZE t');
my $analyzed = reads();
is(expected($session, $query), '300', 'after ANALYZE the planner knows');
cmp_ok(reads(), '>', $analyzed, '... having read them again');
$session->query_safe('COMMIT');
sql("SELECT cmek.suspend_key('k1')");
is(expected($session, $query), '15', 'a session that has opened statistics loses them with the key');
is(sql("SELECT count(*) FROM cmek.stats WHERE tablename = 't'"), '0', 'the view shows none');
fails_with($node, 'KM001', $query, 'rows are not to be had');
is($session->{stderr}, '', 'and planning was no error');

# ANALYZE counts, and leaves the sealed statistics
my $before = sql("SELECT md5(string_agg(sealed::text, '' ORDER BY attnum)) FROM cmek.statistic WHERE relid = 't'::regclass");
sql("UPDATE pg_class SET reltuples = 1, relpages = 0 WHERE oid = 't'::regclass");
my $log = -s $node->logfile;
sql('ANALYZE t');
is(sql("SELECT reltuples, relpages * current_setting('block_size')::int = pg_relation_size('t') FROM pg_class WHERE oid = 't'::regclass"), '3000|t',
	'ANALYZE without the key counts rows and pages');
is(sql("SELECT md5(string_agg(sealed::text, '' ORDER BY attnum)) FROM cmek.statistic WHERE relid = 't'::regclass"), $before, 'and leaves the statistics there are');
my @said = slurp_file($node->logfile, $log) =~ /LOG:  (statistics of table .*)/g;
is("@said", 'statistics of table "t" are not renewed while its key is away', 'with one line in the log');

# A tree under two keys: it takes both
is(sql("SELECT cardinality(sealed_by) FROM cmek.statistic WHERE relid = 'p'::regclass AND attnum = 2"), '2', 'what is of two keys is sealed by both');
is(expected($session, "SELECT * FROM p2 WHERE v = 'v1'"), '200', 'the partition of the other key is known');
is(sql("SELECT count(*) FROM cmek.stats WHERE tablename = 'p'"), '0', 'the tree is not');
sql("SELECT cmek.resume_key('k1'); SELECT cmek.suspend_key('k2')");
is(sql("SELECT count(*) FROM cmek.stats WHERE tablename = 'p'"), '0', 'nor with the other one away');
$node->poll_query_until('postgres', "SELECT count(*) = 2 FROM cmek.stats WHERE tablename = 't'") or BAIL_OUT('the key is not back');
# a session asks again after a second
for (1 .. 100) { last if expected($session, $query) eq '300'; select(undef, undef, undef, 0.1); }
is(expected($session, $query), '300', 'with the key come the statistics');
sql("SELECT cmek.resume_key('k2')");
is(sql("SELECT count(*) FROM cmek.stats WHERE tablename = 'p'"), '2', 'and those of the tree with both');
sql("ALTER TABLE p2 SET (cmek.key = 'cmek_service_key')");
is(sql("SELECT count(*) FROM cmek.statistic WHERE relid = 'p'::regclass"), '0', 'a partition gets a third key: they are gone');
sql('ANALYZE p');
is(sql("SELECT count(*) FROM cmek.stats WHERE tablename = 'p'"), '2', 'till the next ANALYZE');

# Switched and renewed keys
sql("ALTER TABLE t SET (cmek.key = 'k2')");
is(expected($session, $query), '300', 'under another KMS key');
$session->query_safe("CALL cmek.rotate_data_key('t')");
$session->query_safe("CALL cmek.reseal('t')");
is(expected($session, $query), '300', 'and resealed');
is(sql("SELECT count(*) FROM cmek.data_key WHERE relid = 't'::regclass AND NOT current"), '0', 'without the old data keys');

# ---------------------------------------------------------------------
# Resealed by others between being read and being opened: the reader looks again
# ---------------------------------------------------------------------

# The lock holds readers where they ask for data keys, and that is after they
# have read what is to be opened; the end of a reseal is done by hand, for its
# own would wait for the lock
sql("CREATE TABLE resealed (a int) USING cmek_heap; INSERT INTO resealed SELECT i % 10 FROM generate_series(1, 3000) i;
	ANALYZE resealed; CALL cmek.rotate_data_key('resealed')");
my $writer = $node->background_psql('postgres');
my %reader = (
	'a plan' => [ 'EXPLAIN SELECT * FROM resealed WHERE a = 3', qr/rows=300 / ],
	'the view' => [ "SELECT 'known' FROM cmek.stats WHERE tablename = 'resealed' AND n_distinct = 10", qr/^known$/ ]);
my $read_from = -s $node->logfile;

$writer->query_safe('BEGIN; LOCK TABLE cmek.data_key');
for my $reader (values %reader)
{
	$reader->[2] = '';
	$reader->[3] = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-d', $node->connstr('postgres'), '-c', $reader->[0] ],
		'<', \undef, '>', \$reader->[2], IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
}
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_locks WHERE relation = 'cmek.data_key'::regclass AND NOT granted"), 'two readers wait for data keys');
$writer->query_safe("ANALYZE resealed; DELETE FROM cmek.data_key WHERE relid = 'resealed'::regclass AND kind = 's' AND NOT current");
is($writer->query_safe("SELECT count(*) FROM cmek.data_key WHERE relid = 'resealed'::regclass AND kind = 's'"), '1', 'their statistics are sealed by another data key');
$writer->query_safe('COMMIT');
$writer->quit;
for my $name (sort keys %reader)
{
	$reader{$name}[3]->finish;
	like($reader{$name}[2], $reader{$name}[1], "$name has the new ones");
}
unlike(slurp_file($node->logfile, $read_from), qr/do not open/, 'and nothing is said of damage');

# ---------------------------------------------------------------------
# A standby; autovacuum
# ---------------------------------------------------------------------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
system('cp', '-a', $node->data_dir . '.cmek', $standby->data_dir . '.cmek') == 0 or BAIL_OUT('no copy of the service key');
$standby->start;
my $reader = $standby->background_psql('postgres', on_error_stop => 0);
is(expected($reader, $query), '300', 'a standby plans with them');
sql('UPDATE t SET a = 3 WHERE a < 5; ANALYZE t');
$node->wait_for_catchup($standby);
is(expected($reader, $query), '1500', 'and with new ones as they arrive');
$reader->quit;
$standby->stop;

sql("CREATE TABLE auto (a int) USING cmek_heap; INSERT INTO auto SELECT 7 FROM generate_series(1, 1000)",
	"; ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET autovacuum_naptime = '1s'; SELECT pg_reload_conf()");
ok($node->poll_query_until('postgres', "SELECT most_common_vals = '{7}' FROM cmek.stats WHERE tablename = 'auto'", 't'), 'autovacuum collects them, too');
is(sql("SELECT count(*) FROM pg_statistic WHERE starelid = 'auto'::regclass"), '0', 'and nothing in clear');
sql('ALTER SYSTEM RESET autovacuum; SELECT pg_reload_conf()');

# ---------------------------------------------------------------------
# Who may see: an operator that tells what it is called with
# ---------------------------------------------------------------------

for my $am (qw(heap cmek_heap))
{
	my $t = "secret_$am";

	sql("CREATE TABLE $t (a int, open int) USING $am; INSERT INTO $t SELECT 4711, i % 3 FROM generate_series(1, 100) i; ANALYZE $t;
		CREATE TABLE ${t}_p (a int, open int) PARTITION BY LIST (open); CREATE TABLE ${t}_c PARTITION OF ${t}_p FOR VALUES IN (1) USING $am;
		INSERT INTO ${t}_p SELECT 4711, 1 FROM generate_series(1, 100); ANALYZE ${t}_p; ANALYZE ${t}_c");
}
sql("CREATE ROLE spy; CREATE SCHEMA spy AUTHORIZATION spy; GRANT SELECT (open) ON secret_heap, secret_cmek_heap, secret_heap_p, secret_cmek_heap_p TO spy;
	GRANT CREATE ON SCHEMA public TO spy");
sql("SET ROLE spy; CREATE FUNCTION spy.tell(int, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN RAISE NOTICE 'told %', \$1; RETURN true; END \$\$;
	CREATE OPERATOR spy.<<< (PROCEDURE = spy.tell, LEFTARG = int, RIGHTARG = int, RESTRICT = scalarltsel)");
sql("GRANT USAGE ON SCHEMA spy TO PUBLIC");

# What a role is told while it plans
sub told
{
	my ($role, $table) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE $role; EXPLAIN SELECT open FROM $table WHERE a OPERATOR(spy.<<<) 0");

	return $err =~ /told 4711/ ? 'told' : 'not told';
}

my $me = sql('SELECT current_user');
for my $table (qw(secret_heap secret_cmek_heap secret_heap_p secret_cmek_heap_p))
{
	is(told($me, $table), 'told', "$table: the owner's operator is called with values");
	is(told('spy', $table), 'not told', "$table: that of a role without SELECT is not");
}
sql("GRANT SELECT ON secret_heap, secret_cmek_heap, secret_heap_p, secret_cmek_heap_p TO spy");
is(told('spy', $_), 'told', "$_: with SELECT it is") for qw(secret_heap secret_cmek_heap secret_heap_p secret_cmek_heap_p);
sql("ALTER TABLE $_ ENABLE ROW LEVEL SECURITY; CREATE POLICY zeros ON $_ USING (open = 0)") for qw(secret_heap secret_cmek_heap secret_heap_p secret_cmek_heap_p);
is(told('spy', $_), 'not told', "$_: not with row security") for qw(secret_heap secret_cmek_heap secret_heap_p secret_cmek_heap_p);
is(sql("SET ROLE spy; SELECT count(*) FROM cmek.stats WHERE tablename LIKE 'secret%'"), '0', 'nor by the view');
sql("CREATE VIEW seen_$_ AS SELECT * FROM secret_$_; GRANT SELECT ON seen_$_ TO spy; REVOKE ALL ON secret_$_ FROM spy; ALTER TABLE secret_$_ DISABLE ROW LEVEL SECURITY") for qw(heap cmek_heap);
is(told('spy', 'seen_cmek_heap'), told('spy', 'seen_heap'), 'a view is as a view of a plain table');

$session->quit;

# ---------------------------------------------------------------------
# Another extension with the same hooks, loaded before and after
# ---------------------------------------------------------------------

sql("CREATE TABLE hooked (a int, b text) USING cmek_heap; INSERT INTO hooked SELECT i % 10, 'b' || i FROM generate_series(1, 3000) i;
	CREATE INDEX hooked_e ON hooked ((upper(b))); ANALYZE hooked");
for my $libraries ('cmek_test_planner, cmek', 'cmek, cmek_test_planner')
{
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
	$node->restart;
	my $plan = sub {
		my ($set) = @_;
		my ($rc, $out, $err) = $node->psql('postgres', "$set; EXPLAIN SELECT * FROM hooked WHERE a = 3 AND upper(b) < 'B2'");
		return ($out =~ /rows=(\d+) width=(\d+)/, $err);
	};
	my ($expected, $width, $asked) = $plan->('SELECT');
	like($asked, qr/asked for column 1 of hooked\n/, "$libraries: the other is asked for a column");
	like($asked, qr/asked for column 1 of hooked_e\n/, '... and for an expression');
	cmp_ok($expected, '>', 50, '... and where it knows nothing, sealed statistics are served');
	cmp_ok($width, '<', 100, '... widths, too');
	my ($guessed, $given) = $plan->("SET cmek_test_planner.knows_nothing_of = 'hooked'");
	cmp_ok($guessed, '<', 50, '... what it decides stands');
	cmp_ok($given, '>=', 4711, '... for widths, too');
}
$node->stop;
done_testing();
