# A drop, a snapshot and a purge that fail or are killed at every step: at
# every instant there is the table or a verified snapshot of it, and a record
# has its file.  Then: the wall clock jumps, and nothing is dropped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my $node = cmek_node('primary', config => [ 'restart_after_crash = on', 'autovacuum = off', 'fsync = off' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $snapshots = $node->data_dir . '.cmek/snapshots';

# A process from before stop_at('') may crash the server once more
sub sql
{
	my ($sql) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my ($status, $stdout, $stderr) = $node->psql('postgres', $sql);
		return $stdout if defined $status && $status == 0;
		BAIL_OUT("$sql: $stderr") unless $stderr =~ /connection|starting up|recovery mode|terminat/;
		sleep(0.1);
	}
	BAIL_OUT("the server does not come back");
}

# The server may be restarting after a crash
sub until_true
{
	my ($sql) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my ($status, $stdout) = $node->psql('postgres', $sql);
		return 1 if defined $status && $status == 0 && $stdout eq 't';
		sleep(0.1);
	}
	diag("waited in vain for: $sql");
	return 0;
}

# From now on every new process stops there; '' for nowhere
sub stop_at
{
	my ($point) = @_;

	$node->append_conf('postgresql.conf', "cmek.stop_point = '$point'");
	$node->reload;
	return if $point eq '';
	# whoever is under way has the old setting
	until_true("SELECT current_setting('cmek.stop_point') = '$point'");
	until_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('cmek visitor', 'cmek drop')});
	return;
}

# How often the log has this
sub in_log
{
	my ($like) = @_;
	my $log = slurp_file($node->logfile);

	return scalar(() = $log =~ m/$like/g);
}

sub until_in_log
{
	my ($like, $times) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if in_log($like) >= $times;
		sleep(0.1);
	}
	return 0;
}

# Every record has its file
sub records_have_files
{
	my ($what) = @_;
	my @missing = grep { !-s "$snapshots/$_.cmeksnap" } split(/\n/, sql('SELECT id FROM cmek.snapshot_record'));

	return is_deeply(\@missing, [], "$what: every record has its file");
}

# ---------------------------------------------------------------------
# The drop, at each step
# ---------------------------------------------------------------------

my $n = 0;
for my $point (qw(snapshot-begun snapshot-written snapshot-finished snapshot-verified
	drop-detached drop-rehearsed drop-snapshotted drop-dropped drop-committed))
{
	for my $action ('error', 'kill')
	{
		my $what = "$point, $action";
		my $t = 't' . ++$n;
		my $file = new_key_file("$dir/$t");
		my $committed = $point eq 'drop-committed';

		sql("CREATE SERVER $t FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file', drop_after '1s');
			CREATE TABLE $t (a int) USING cmek_heap WITH (cmek.key = '$t'); INSERT INTO $t SELECT generate_series(1, 50)");
		my $seen = in_log($action eq 'error' ? qr/stopped at "$point"/ : qr/was terminated by signal 9/);
		stop_at("$point:$action");
		hide_key($file);
		ok(until_in_log($action eq 'error' ? qr/stopped at "$point"/ : qr/was terminated by signal 9/, $seen + 1), "$what: stopped");
		stop_at('');
		ok(until_true('SELECT true'), "$what: the server is up");
		# either is there, whatever is done meanwhile by the next attempt
		is(sql("SELECT EXISTS (SELECT FROM pg_class WHERE relname = '$t') <> (count(*) = 1) FROM cmek.snapshots WHERE table_name = 'public.$t'"),
			't', "$what: the table or its snapshot");
		ok(until_true("SELECT count(*) = 1 FROM cmek.snapshots WHERE table_name = 'public.$t' AND rows = 50 AND state = 'kept'"), "$what: a snapshot in the end");
		is(sql("SELECT to_regclass('$t') IS NULL"), 't', "$what: and no table");
		records_have_files($what);
	}
}

# ---------------------------------------------------------------------
# The purge, at each step
# ---------------------------------------------------------------------

for my $point (qw(purge-expired purge-removed))
{
	for my $action ('error', 'kill')
	{
		my $what = "$point, $action";
		my $id = sql('SELECT id FROM cmek.snapshot_record ORDER BY taken_at LIMIT 1');
		my $seen = in_log($action eq 'error' ? qr/stopped at "$point"/ : qr/was terminated by signal 9/);

		stop_at("$point:$action");
		sql("UPDATE cmek.snapshot_record SET expires_at = now() WHERE id = '$id'");
		# an event calls the visitor
		sql('ALTER SERVER t1 OPTIONS (SET drop_after $$2s$$)');
		ok(until_in_log($action eq 'error' ? qr/stopped at "$point"/ : qr/was terminated by signal 9/, $seen + 1), "$what: stopped");
		stop_at('');
		ok(until_true('SELECT true'), "$what: the server is up");
		records_have_files($what);
		ok(until_true('SELECT count(*) = 0 FROM cmek.snapshot_removal'), "$what: done in the end");
		is(sql("SELECT count(*) FROM cmek.snapshot_record WHERE id = '$id'"), '0', "$what: the record is gone");
		ok(!-e "$snapshots/$id.cmeksnap", "$what: and the file");
	}
}

# ---------------------------------------------------------------------
# The wall clock jumps by a year, forward and back: the clock of the drop does not
# ---------------------------------------------------------------------

my ($faketime) = glob('/usr/lib/*/faketime/libfaketime.so.1');
SKIP:
{
	skip 'no libfaketime', 8 unless $faketime;
	my $file = new_key_file("$dir/jump");
	my $clock = "$dir/clock";

	sql("CREATE SERVER jump FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file', drop_after '1h');
		CREATE TABLE jump (a int) USING cmek_heap WITH (cmek.key = 'jump'); INSERT INTO jump VALUES (1)");
	append_to_file($clock, '+0');
	$node->stop;
	{
		local $ENV{LD_PRELOAD} = $faketime;
		local $ENV{FAKETIME_TIMESTAMP_FILE} = $clock;
		local $ENV{FAKETIME_NO_CACHE} = 1;
		local $ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;
		local $ENV{DONT_FAKE_MONOTONIC} = 1;
		$node->start;
	}
	hide_key($file);
	ok(until_true("SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'jump' AND denied_ms > 1000"), 'counting');
	open(my $fh, '>', $clock) or BAIL_OUT("no clock: $!");
	print $fh '+365d';
	close($fh);
	ok(until_true("SELECT now() > pg_postmaster_start_time() + interval '300 days'"), 'a year has passed, by the wall clock');
	my $before = sql("SELECT denied_ms FROM cmek.key_watch WHERE server = 'jump'");
	ok(until_true("SELECT denied_ms > $before + 2000 FROM cmek.key_watch WHERE server = 'jump'"), 'it goes on counting');
	is(sql("SELECT to_regclass('jump') IS NOT NULL AND denied_ms < 600000 FROM cmek.key_watch WHERE server = 'jump'"), 't', 'seconds, and nothing is dropped');
	# and back by two: what was to be done "in a second" is not put off by years
	open($fh, '>', $clock) or BAIL_OUT("no clock: $!");
	print $fh '-365d';
	close($fh);
	ok(until_true("SELECT now() < pg_postmaster_start_time() - interval '300 days'"), 'two years back');
	$before = sql("SELECT denied_ms FROM cmek.key_watch WHERE server = 'jump'");
	ok(until_true("SELECT denied_ms > $before + 2000 FROM cmek.key_watch WHERE server = 'jump'"), 'it goes on counting');
	is(sql("SELECT to_regclass('jump') IS NOT NULL AND denied_ms < 600000 FROM cmek.key_watch WHERE server = 'jump'"), 't', 'seconds, and nothing is dropped');
	rename("$file.away", $file) or BAIL_OUT("rename: $!");
	ok(until_true("SELECT class = 'ok' AND denied_ms = 0 FROM cmek.key_watch WHERE server = 'jump'"), 'and the key that is back is noticed');
}

$node->stop;
done_testing();
