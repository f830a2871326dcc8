# A snapshot and its restore stream: a backend's memory is that of a small
# table, however long the table is; and how far they are is seen meanwhile.
#
#   CMEK_SNAPSHOT_MB   sizes of the table ("4 40"); make test-snapshot-size: "50 500 5000"

use strict;
use warnings;

# a long table takes its time
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} ||= 7200 if $ENV{CMEK_SNAPSHOT_MB} }

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my @sizes = split(/[\s,]+/, $ENV{CMEK_SNAPSHOT_MB} || '4 40');
# what a session may grow by, and what two sizes may differ by, in kB
my ($limit, $noise) = (64 * 1024, 6 * 1024);

my $node = cmek_node('primary', config => [ "shared_buffers = '2MB'", "temp_buffers = '1MB'", "maintenance_work_mem = '4MB'", 'autovacuum = off',
		'fsync = off', 'wal_level = minimal', 'max_wal_senders = 0', "max_wal_size = '2GB'", 'max_parallel_maintenance_workers = 0',
		'huge_pages = off' ]);
my $snapshots = $node->data_dir . '.cmek/snapshots';

sub sql { return $node->safe_psql('postgres', $_[0]); }

# What /proc says of a process, in kB
sub status_of
{
	my ($pid, $field) = @_;

	return slurp_file("/proc/$pid/status") =~ /^$field:\s+(\d+) kB/m ? $1 : undef;
}

# A session that may not grow, with its memory's highest mark; the statement is
# run in it.  What it returns, the mark, seconds
sub limited
{
	my ($statement) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	# what every session has: caches, the library, shared memory
	my $pid = $session->query(q{SELECT pg_backend_pid() FROM (SELECT count(*), sum(length(w)) FROM warm) x, cmek.tables t WHERE t."table" = 'warm'::regclass});
	my $before = status_of($pid, 'VmHWM');
	my $seconds = time;

	system_log('prlimit', "--pid=$pid", '--as=' . 1024 * (status_of($pid, 'VmSize') + $limit)) == 0 or BAIL_OUT('prlimit');
	my $out = $session->query($statement);
	$seconds = time - $seconds;
	my $after = status_of($pid, 'VmHWM');
	my $error = ref $session->{stderr} ? '' : $session->{stderr};

	$session->{stderr} = '';
	$session->quit;
	return ($out, $after - $before, $seconds, $error);
}

sub sum_of
{
	my ($table) = @_;

	return sql("SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $table t");
}

sql(q{CREATE TABLE warm (w text) USING cmek_heap; ALTER TABLE warm ALTER w SET STORAGE EXTERNAL;
	INSERT INTO warm SELECT repeat('w', 10000) FROM generate_series(1, 300)});

my (undef, undef, undef, $error) = limited("SELECT length(repeat('x', 200 * 1024 * 1024))");
like($error, qr/out of memory/, 'control: the limit is one');

my (%taking, %restoring);
for my $mb (@sizes)
{
	# eight rows are 42 kB: 1 kB in line each, every eighth has 32 kB out of line
	my $rows = int($mb * 1024 / 42) * 8;

	sql("CREATE TABLE big (id int, v text, w text) USING cmek_heap; ALTER TABLE big ALTER v SET STORAGE EXTERNAL, ALTER w SET STORAGE EXTERNAL;
		INSERT INTO big SELECT i, repeat(md5(i::text), 32), CASE WHEN i % 8 = 0 THEN repeat(md5('w' || i), 1024) END FROM generate_series(1, $rows) i;
		ALTER TABLE big ADD PRIMARY KEY (id)");
	cmp_ok(sql("SELECT pg_table_size('big')"), '>', $mb * 1024 * 1024, "$mb MB: the table is as long");
	my ($id, $grown, $seconds, $err) = limited("SELECT cmek.snapshot('big')");
	like($id, qr/^[0-9a-f-]{36}$/, "$mb MB: a snapshot under the limit") or BAIL_OUT($err);
	$taking{$mb} = $grown;
	diag(sprintf('%d MB: snapshot of %d MB in %.1f s, memory grew by %d kB', $mb, (-s "$snapshots/$id.cmeksnap") / 1024 / 1024, $seconds, $grown));
	(my $notes, $grown, $seconds, $err) = limited("SELECT cmek.restore_snapshot('$id', 'again')");
	is($err, '', "$mb MB: a restore under the limit");
	$restoring{$mb} = $grown;
	diag(sprintf('%d MB: restored in %.1f s, memory grew by %d kB', $mb, $seconds, $grown));
	is(sum_of('again'), sum_of('big'), "$mb MB: every row is equal");
	is(sql(q{SELECT count(*) FROM pg_constraint WHERE conrelid = 'again'::regclass AND contype = 'p'}), '1', "$mb MB: and the primary key");
	sql("SELECT cmek.drop_snapshot('$id')");
	sql('DROP TABLE big, again');
}
for my $i (1 .. $#sizes)
{
	my ($less, $more) = @sizes[ $i - 1, $i ];

	cmp_ok($taking{$more}, '<', $taking{$less} + $noise, "taking $more MB needs the memory of $less MB");
	cmp_ok($restoring{$more}, '<', $restoring{$less} + $noise, "restoring $more MB needs the memory of $less MB");
}

# ---------------------------------------------------------------------
# How far it is: stopped at the end of each phase
# ---------------------------------------------------------------------

sql(q{CREATE ROLE alice; CREATE ROLE bob; GRANT CREATE ON SCHEMA public TO alice; GRANT USAGE ON FOREIGN SERVER cmek_service_key TO alice;
	ALTER TABLE warm OWNER TO alice});
my $id = sql("SELECT cmek.snapshot('warm')");
is(sql('SELECT count(*) FROM cmek.snapshot_progress'), '0', 'nothing is under way');
for (
	[ 'snapshot-written', "SELECT cmek.snapshot('warm')", 'snapshot, writing', 'warm', "bytes_total >= pg_relation_size('warm') + 3000000 AND bytes_done BETWEEN 3000000 AND bytes_total" ],
	[ 'snapshot-read', "SELECT cmek.snapshot('warm')", 'snapshot, verifying', 'warm', 'bytes_total > 3000000 AND bytes_done = bytes_total' ],
	[ 'restore-verified', "SELECT cmek.restore_snapshot('$id', 'r')", 'restore, verifying', '', 'bytes_total IS NULL AND bytes_done = (SELECT bytes FROM cmek.snapshots)' ],
	[ 'restore-filled', "SELECT cmek.restore_snapshot('$id', 'r')", 'restore, rows', 'new', 'bytes_total = (SELECT bytes FROM cmek.snapshots) AND bytes_done = bytes_total' ])
{
	my ($point, $statement, $phase, $table, $bytes) = @$_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_until(qr/begun/, "SET cmek.stop_point = '$point:wait';\n\\echo begun\n$statement;\n");
	# it may wait for a key before that
	ok(eventually(sub { slurp_file($node->logfile) =~ /\[$pid\].*waiting at "$point"/ }), "$phase: at its end");
	is(sql("SELECT phase, $bytes, pid = $pid FROM cmek.snapshot_progress"), "$phase|t|t", "$phase: as far as that");
	is(sql(q{SELECT "table" FROM cmek.snapshot_progress}), $table, "$phase: of which table") unless $table eq 'new';
	is(sql('SET ROLE alice; SELECT count(*) FROM cmek.snapshot_progress'), $table eq '' ? 0 : 1, "$phase: the owner sees it");
	is(sql('SET ROLE bob; SELECT count(*) FROM cmek.snapshot_progress'), '0', "$phase: nobody else");
	is(sql("SELECT pg_terminate_backend($pid, 60000)"), 't', "$phase: ended");
	eval { $session->quit };
}
is(sql('SELECT count(*) FROM cmek.snapshot_progress'), '0', 'and nothing is left of them');

$node->stop;
done_testing();
