# The wall clock jumps by a year and back: no snapshot of a dropped table is
# purged by that, nor a file that a crash has left.  They go when servers have
# run for as long, over restarts.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use CmekClock;
use CmekTest;

plan skip_all => 'no libfaketime' unless have_clock();

my $node = cmek_node('primary', config => [ 'log_min_messages = log', 'autovacuum = off', 'fsync = off', "cmek.snapshot_retention = '1h'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $clock = "$dir/clock";
my $file = new_key_file("$dir/k");
my $other = new_key_file("$dir/o");
my $snapshots = $node->data_dir . '.cmek/snapshots';

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }

# Have visitors come: for each event one does, which then purges.  The last may
# be at it still, the ones before it are not.
sub visits
{
	for my $days (8 .. 11)
	{
		my $id = sql('SELECT max(id) FROM cmek.key_events');

		sql("ALTER SERVER o OPTIONS (SET drop_after '${days}d')");
		until_true("SELECT count(*) > 0 FROM cmek.key_events WHERE id > $id") or return 0;
	}
	return 1;
}

# A visitor has seen the wall clock at so many years from ours
sub visitor_is_there
{
	my ($years) = @_;

	ok(visits(), 'visitors come');
	return sql("SELECT abs(extract(epoch FROM max(at)) - $years * 365 * 86400 - " . time() . ") < 3600
		FROM (SELECT at FROM cmek.key_events ORDER BY id DESC LIMIT 1) x") eq 't';
}

sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file', drop_after '2s');
	CREATE SERVER o FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$other', drop_after '7d');
	CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO t VALUES (1);
	CREATE TABLE u (a int) USING cmek_heap WITH (cmek.key = 'o'); INSERT INTO u VALUES (1)");
# of a snapshot that was rolled back there is a file
is(sql(q{BEGIN; SELECT cmek.snapshot('t') IS NOT NULL; ROLLBACK}), 't', 'a snapshot that is rolled back');
my ($orphan) = glob("$snapshots/*.cmeksnap");
ok($orphan, 'leaves a file');
hide_key($file);
ok(until_true(q{SELECT to_regclass('t') IS NULL}), 'a table is dropped');
my $kept = $snapshots . '/' . sql('SELECT file FROM cmek.snapshot_record');
ok(-s $kept, 'there is a snapshot');

$node->stop;
start_jumping($node, $clock, '+0');
set_jump($clock, '+365d');
ok(visitor_is_there(1), 'a year has passed, by the wall clock');
is(sql('SELECT expires_at < now(), state FROM cmek.snapshots'), 't|expired', 'by that clock the snapshot is over');
ok(-s $kept, 'it is there');
ok(-s $orphan, 'and the file that nobody knows');
ok(until_true("SELECT count(*) = 1 FROM cmek.snapshot_removal WHERE '$orphan' LIKE '%' || file"), 'which goes later');
set_jump($clock, '-365d');
ok(visitor_is_there(-1), 'two years back');
is(sql('SELECT count(*) FROM cmek.snapshots'), '1', 'the snapshot is there');
set_jump($clock, '+365d');
ok(visitor_is_there(1), 'and forward');

# the run clock: goes on over a restart, by what servers have run
my $run = q{(SELECT total_ms FROM cmek.run_clock)};
sql(q{BEGIN; LOCK TABLE cmek.run_clock; UPDATE cmek.run_clock SET total_ms = total_ms + 3500000; COMMIT});
my $before = sql("SELECT $run");
$node->stop;
start_jumping($node, $clock, '+365d');
ok(until_true(q{SELECT started = pg_postmaster_start_time() FROM cmek.run_clock}), 'the next server goes on');
cmp_ok(sql("SELECT $run"), '>=', $before, 'from the sum');
cmp_ok(sql("SELECT $run"), '<', 3600000, 'without the year');
ok(-s $kept, 'the snapshot is there');

# both clocks: nobody writes the run clock for ten minutes, but it is read
sql(q{BEGIN; LOCK TABLE cmek.run_clock; UPDATE cmek.run_clock SET total_ms = 0; UPDATE cmek.snapshot_record SET expires_ms = 8000; UPDATE cmek.snapshot_removal SET after_ms = 8000; COMMIT});
sleep(2);
ok(-s $kept && -s $orphan, 'before its time');
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshots'), 'servers have run for as long, too: it goes');
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshot_removal'), 'with its file');
ok(!-e $kept, 'indeed');
ok(!-e $orphan, 'and the other one');
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'purge' AND role IS NULL}), 'and it is said');

# and by the run clock alone nothing goes either
sql(q{ALTER SERVER o OPTIONS (SET drop_after '1s')});
hide_key($other);
ok(until_true(q{SELECT to_regclass('u') IS NULL}), 'another table is dropped');
sql(q{UPDATE cmek.snapshot_record SET expires_ms = 0});
ok(visits(), 'visitors come');
is(sql(q{SELECT count(*) FROM cmek.snapshots}), '1', 'one whose hour is not over stays');

$node->stop;
done_testing();
