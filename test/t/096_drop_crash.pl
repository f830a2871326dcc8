# A drop, a snapshot and a purge that fail or are killed at every step: at
# every instant there is the table or a verified snapshot of it, and a record
# has its file.

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
		my ($status, $stdout, $stderr) = eval { $node->psql('postgres', $sql) };
		return $stdout if defined $status && $status == 0;
		BAIL_OUT("$sql: $stderr") unless !defined $stderr || $stderr =~ /connection|starting up|recovery mode|terminat/;
		sleep(0.1);
	}
	BAIL_OUT("the server does not come back");
}

sub until_true { return answers($node, $_[0]); }

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
		sql("UPDATE cmek.snapshot_record SET expires_at = now(), expires_ms = 0 WHERE id = '$id'");
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

$node->stop;
done_testing();
