# pgBackRest, archiving and fetching asynchronously, and Barman, streaming: full
# and incremental backups, restores, recovery to a point in time.  Neither
# needs a key, neither stores one, and neither has a row in clear.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $sealed = 'archive-sealed-4d17';
my $plain = 'archive-plain-4d17';
my ($bindir) = `pg_config --bindir` =~ /(.*)/;
my $query = 'SELECT count(*), sum(hashtext(t)) FROM sealed';

sub have
{
	my ($program) = @_;

	return grep { -x "$_/$program" } split(/:/, $ENV{PATH});
}

# A cluster with rows in clear and sealed ones; data checksums, which
# pgBackRest verifies by itself
sub new_source
{
	my ($name) = @_;
	my $node = cmek_node($name, streaming => 1, extra => ['--data-checksums'], config => ['autovacuum = off']);

	$node->safe_psql('postgres', 'CREATE TABLE plain (id int, t text); CREATE TABLE sealed (id int, t text) USING cmek_heap;
		INSERT INTO plain SELECT i, ' . with_marker($plain) . ' || repeat(md5(i::text), i) FROM generate_series(1, 100) i;
		INSERT INTO sealed SELECT i, ' . with_marker($sealed) . ' || repeat(md5(i::text), i) FROM generate_series(1, 100) i');
	return $node;
}

# More of both, then a mistake; a restore point between them
sub go_on
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'UPDATE sealed SET t = ' . with_marker($sealed) . q{ || repeat('u', id) WHERE id % 2 = 0;
		INSERT INTO plain VALUES (0, } . with_marker($plain) . q{)});
	my $rows = $node->safe_psql('postgres', $query);
	$node->safe_psql('postgres', q{SELECT pg_create_restore_point('good')});
	$node->safe_psql('postgres', 'DELETE FROM sealed WHERE id > 10');
	return $rows;
}

# The hex digits of a service key
sub key_digits
{
	my ($node) = @_;
	my ($digits) = slurp_file(service_key($node)) =~ /([0-9a-f]{64})/;

	return $digits;
}

sub repository_is_sealed
{
	my ($node, $repository, $who) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	isnt(join(' ', files_with($repository, $plain)), '', "control: $who has the plain rows");
	is_deeply([ files_with($repository, $sealed) ], [], "$who has no sealed row in clear");
	is_deeply([ files_with($repository, key_digits($node)) ], [], "$who has no service key");
	return;
}

# A server in a directory that somebody restored
my $number = 0;
sub restored
{
	my ($from, $restore) = @_;
	my $to = PostgreSQL::Test::Cluster->new('restored' . ++$number);

	$restore->($to->data_dir);
	chmod(0700, $to->data_dir);
	$to->append_conf('postgresql.conf', 'port = ' . $to->port . "\nlisten_addresses = ''\nunix_socket_directories = '"
		. $to->host . "'\narchive_mode = off\n");
	$to->start;
	$to->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or BAIL_OUT('recovery does not end');
	# restored elsewhere: the key file has not come along
	fails_with($to, 'KM001', $query, 'without the service key file: KM001');
	ok(!-e service_key($to), 'and none is made');
	$to->append_conf('postgresql.conf', "cmek.service_key_file = '" . service_key($from) . "'");
	$to->reload;
	ok(wait_for_ok($to, $query), 'the file is brought along');
	return $to;
}

sub reads
{
	my ($to, $rows, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($to->safe_psql('postgres', $query), $rows, "$name: the rows");
	is($to->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('sealed')"), '0', "$name: verify");
	$to->stop;
	return;
}

SKIP:
{
	skip 'pgBackRest is not installed', 1 unless have('pgbackrest');
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $node = new_source('pgbackrest');
	my $config = "$dir/pgbackrest.conf";
	my @run = ('pgbackrest', "--config=$config", '--stanza=main');

	delete $ENV{$_} for grep { /^PGBACKREST_/ } keys %ENV;
	mkdir("$dir/$_") for qw(repo log lock spool);
	append_to_file($config, "[global]\nrepo1-path=$dir/repo\nlog-path=$dir/log\nlock-path=$dir/lock\nspool-path=$dir/spool\n"
		. "compress-type=none\narchive-async=y\nprocess-max=2\nstart-fast=y\nlog-level-console=warn\nlog-level-file=detail\n"
		. '[main]' . "\npg1-path=" . $node->data_dir . "\npg1-port=" . $node->port . "\npg1-socket-path=" . $node->host . "\npg1-user=" . scalar(getpwuid($<)) . "\n");
	$node->append_conf('postgresql.conf', "archive_mode = on\narchive_command = 'pgbackrest --config=$config --stanza=main archive-push %p'");
	$node->restart;
	hide_key(service_key($node));
	command_ok([ @run, 'stanza-create' ], 'pgBackRest: stanza-create');
	command_ok([ @run, 'check' ], 'pgBackRest: check');
	command_ok([ @run, '--type=full', 'backup' ], 'pgBackRest: a full backup, without a key');
	show_key(service_key($node));
	ok(wait_for_ok($node, $query), 'the key is back');
	my $good = go_on($node);
	command_ok([ @run, '--type=incr', 'backup' ], 'pgBackRest: an incremental one');
	my $rows = $node->safe_psql('postgres', "INSERT INTO sealed VALUES (0, 'last'); $query");
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	command_ok([ @run, 'check' ], 'pgBackRest: all is archived');
	command_ok([ @run, 'verify' ], 'pgBackRest: verify');
	my ($info) = run_command([ @run, 'info' ]);
	like($info, qr/status: ok/, 'pgBackRest: info');
	like(join('', map { slurp_file($_) } glob("$dir/log/*-archive-push-async.log")), qr/pushed WAL file/, 'control: it pushed asynchronously');
	my ($full) = $info =~ /full backup: (\S+)/;
	$node->stop;

	reads(restored($node, sub { command_ok([ @run, "--pg1-path=$_[0]", 'restore' ], 'pgBackRest: restore') }), $rows, 'pgBackRest, the newest');
	reads(restored($node, sub {
			command_ok([ @run, "--pg1-path=$_[0]", "--set=$full", '--type=name', '--target=good', '--target-action=promote', 'restore' ],
				'pgBackRest: restore to a point in time');
		}), $good, 'pgBackRest, to a point in time');
	repository_is_sealed($node, "$dir/repo", 'the repository of pgBackRest');
}

SKIP:
{
	skip 'Barman is not installed', 1 unless have('barman');
	# its parallel copies use semaphores of Python's; chroots may lack them
	skip 'Barman restores nothing where /dev/shm cannot be written', 1 unless -w '/dev/shm';
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $node = new_source('barman');
	my $config = "$dir/barman.conf";
	my @run = ('barman', '-c', $config);
	my $user = getpwuid($<);
	my $conninfo = 'host=' . $node->host . ' port=' . $node->port . " user=$user dbname=postgres";

	mkdir("$dir/$_") for qw(home servers);
	append_to_file($config, "[barman]\nbarman_user = $user\nbarman_home = $dir/home\nconfiguration_files_directory = $dir/servers\n"
		. "log_file = $dir/barman.log\nlog_level = INFO\nminimum_redundancy = 0\n[main]\ndescription = main\nconninfo = $conninfo\n"
		. "streaming_conninfo = $conninfo\nbackup_method = postgres\nstreaming_archiver = on\nslot_name = barman\ncreate_slot = auto\n"
		. "path_prefix = $bindir\nimmediate_checkpoint = true\n");
	hide_key(service_key($node));
	command_ok([ @run, 'receive-wal', '--create-slot', 'main' ], 'Barman: a slot');
	my $receiver = IPC::Run::start([ @run, 'receive-wal', 'main' ], '>', "$dir/receive.out", '2>&1');
	$node->poll_query_until('postgres', q{SELECT active FROM pg_replication_slots}) or BAIL_OUT('barman receive-wal does not run');
	command_ok([ @run, 'switch-wal', '--force', '--archive', 'main' ], 'Barman: switch-wal');
	command_ok([ @run, 'check', 'main' ], 'Barman: check');
	command_ok([ @run, 'backup', 'main' ], 'Barman: a full backup, without a key');
	show_key(service_key($node));
	ok(wait_for_ok($node, $query), 'the key is back');
	my $good = go_on($node);
	my $rows = $node->safe_psql('postgres', $query);
	command_ok([ @run, 'switch-wal', '--force', '--archive', 'main' ], 'Barman: all is archived');
	command_ok([ @run, 'check-backup', 'main', 'latest' ], 'Barman: check-backup');
	$receiver->signal('TERM');
	$receiver->finish;
	$node->stop;

	reads(restored($node, sub { command_ok([ @run, 'recover', 'main', 'latest', $_[0] ], 'Barman: recover') }), $rows, 'Barman, the newest');
	reads(restored($node, sub {
			command_ok([ @run, 'recover', '--target-name', 'good', '--target-action', 'promote', 'main', 'latest', $_[0] ], 'Barman: recover to a point in time');
		}), $good, 'Barman, to a point in time');
	repository_is_sealed($node, "$dir/home", 'the home of Barman');
}

done_testing();
