# kill -9 of a backend, of a KMS worker, of the keeper, in the middle of a
# switch, a rotation, a reseal, a rewrite, and at random moments of a mixed
# load: before or after, never between.  Who waited for a key gets an error or
# an answer, and the server comes back and serves by itself.
#
#   CMEK_FAULT_ROUNDS   how many random kills (3; make test-faults: 50); from
#                       20 on each victim is killed at each stop point
#   CMEK_FAULT_SEED, CMEK_FAULT_INDEXES as in 060_immediate_stop.pl

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use CmekTest;
use CmekLoad;

my $rounds = $ENV{CMEK_FAULT_ROUNDS} || 3;
my $seed = $ENV{CMEK_FAULT_SEED} || int(rand(1e9));
my $indexes = $ENV{CMEK_FAULT_INDEXES} || 'sealed';
my $patience = $PostgreSQL::Test::Utils::timeout_default;
note("seed $seed");
srand($seed);

my $node = cmek_node('killed', config => [ CmekLoad::config() ]);
my $load = CmekLoad->new($node, indexes => $indexes);

# Start statements, one after the other; finish() waits for their end, but not
# for ever
sub begin
{
	my (@sql) = @_;
	my %session = (out => '', err => '');

	$session{h} = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres'), map { ('-c', $_) } @sql ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err}, IPC::Run::timeout($patience));
	return \%session;
}

sub finish
{
	my ($session, $name) = @_;
	my $ended = eval { $session->{h}->finish; 1 };

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($ended, "$name: ends") or $session->{h}->kill_kill;
	return $session->{err};
}

# Wait until the log says that a process waits at a stop point; its pid
sub wait_at
{
	my ($point, $offset) = @_;

	for (1 .. 20 * $patience)
	{
		return $1 if slurp_file($node->logfile, $offset) =~ /\[(\d+)\] [^\n]*waiting at "\Q$point\E"/;
		sleep(0.05);
	}
	BAIL_OUT("nobody waits at $point");
}

# Processes of ours; they have no session, so no line in pg_stat_activity
sub pids_of
{
	my ($type) = @_;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	return map { /^\s*(\d+) .*\Q$type\E/ ? $1 : () } split(/\n/, `ps -o pid=,args= --ppid $postmaster`);
}

sub pid_of
{
	my ($type) = @_;
	my @pids = all_there() ? pids_of($type) : BAIL_OUT("there is no $type");

	return $pids[ int(rand(scalar @pids)) ];
}

# Wait until the two workers and the keeper are there
sub all_there
{
	for (1 .. 10 * $patience)
	{
		return 1 if pids_of('cmek KMS worker') + pids_of('cmek keeper') == 3;
		sleep(0.1);
	}
	return 0;
}

# Kill a process as the out-of-memory killer does, and wait for the restart
# that follows without anybody's help
sub kill_and_wait
{
	my ($pid, $name) = @_;
	my $old = checkpointer($node);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	kill('KILL', $pid) == 1 or BAIL_OUT("could not kill $pid: $!");
	ok(restarted_since($node, $old), "$name: the server is back by itself");
	return;
}

# Settings of all processes, until they are taken back.  A new session has them
# once the postmaster has told everybody
sub set_for_all
{
	my ($point) = @_;
	my $shown = defined $point ? $point : '';

	$node->safe_psql('postgres', defined $point ? "ALTER SYSTEM SET cmek.stop_point = '$point'" : 'ALTER SYSTEM RESET cmek.stop_point');
	$node->reload;
	$node->poll_query_until('postgres', "SELECT current_setting('cmek.stop_point') = '$shown'") or BAIL_OUT('no reload');
	return;
}

# ---- The steps of the long actions, one process killed at each

$node->safe_psql('postgres', q{
	CREATE TABLE t (id int, v text, d int) USING cmek_heap;
	ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, repeat(md5(i::text), 1 + i % 150), i FROM generate_series(1, 600) i;
	ALTER TABLE t DROP COLUMN d;
	CREATE TABLE other (id int, v text) USING cmek_heap;
	CREATE TABLE fresh (id int) USING cmek_heap});
my $content = 'SELECT count(*), sum(hashtext(v)), sum(id) FROM t';
my $expected = $node->safe_psql('postgres', $content);
my $keys = "SELECT count(*) FROM cmek.data_key WHERE relid = 't'::regclass";
my %step = (
	(map { $_ => [ 'ALTER TABLE t SET (cmek.key = %KEY)', "SELECT key FROM cmek.tables WHERE \"table\" = 't'::regclass" ] }
		qw(switch-generated switch-stored switch-chained switch-rewrapped switch-announced switch-labelled)),
	(map { $_ => [ 'CALL cmek.rotate_data_key($$t$$)', $keys ] } qw(rotate-superseded rotate-made)),
	(map { $_ => [ 'CALL cmek.reseal($$t$$)', $keys ] } qw(reseal-page reseal-batch reseal-retire reseal-retired)),
	'rewrite-rows' => [ 'VACUUM FULL t', "SELECT pg_relation_filenode('t')" ]);
my @victims = ('client backend', 'cmek KMS worker', 'cmek keeper');
my $turn = int(rand(3));

for my $point (sort keys %step)
{
	for my $victim ($rounds >= 20 ? @victims : $victims[ $turn++ % 3 ])
	{
		my ($sql, $question) = @{ $step{$point} };
		my $name = "$victim at $point";
		my $key = $node->safe_psql('postgres', $step{'switch-stored'}[1]) eq 'second' ? 'cmek_service_key' : 'second';

		$sql =~ s/%KEY/'$key'/;
		$node->safe_psql('postgres', 'CALL cmek.rotate_data_key($$t$$)') if $point =~ /^reseal/;
		my $before = $node->safe_psql('postgres', $question);
		my $offset = -s $node->logfile;
		my $bystander = begin("BEGIN; INSERT INTO other SELECT i, repeat('x', 5000) FROM generate_series(1, 50) i; SELECT pg_sleep(1000)");
		my $session = begin("SET cmek.stop_point = '$point:wait'", $sql);
		my $waiting = wait_at($point, $offset);

		kill_and_wait($victim eq 'client backend' ? $waiting : pid_of($victim), $name);
		like(finish($session, $name), qr/server closed the connection|connection to server was lost|terminating connection/, "$name: told so");
		finish($bystander, "$name: a bystander");
		is($node->safe_psql('postgres', $content), $expected, "$name: nothing is lost");
		is($node->safe_psql('postgres', $question), $before, "$name: as before");
		is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', "$name: verified");
		is($node->safe_psql('postgres', 'SELECT count(*) FROM other'), '0', "$name: nothing of a bystander");
		is(sqlstate($node, $sql), '', "$name: the next attempt succeeds");
		isnt($node->safe_psql('postgres', $question), $before, "$name: and did something");
		is($node->safe_psql('postgres', $content), $expected, "$name: nothing is lost by it");
	}
}

# ---- A KMS worker or the keeper, killed at what it is doing itself

my %asks = (
	'a new table' => [ 'CREATE TABLE made (a int) USING cmek_heap', "SELECT count(*) FROM pg_class WHERE relname = 'made'" ],
	'a first read' => [ $content, 'SELECT 0' ],
	'a switch' => [ 'CALL cmek.rotate_table_key($$t$$)', "SELECT max(version) FROM cmek.table_key WHERE relid = 't'::regclass" ]);

for my $point ('worker-taken', 'worker-answered')
{
	for my $what (sort keys %asks)
	{
		my ($sql, $question) = @{ $asks{$what} };
		my $name = "KMS worker at $point for $what";
		my $before = $node->safe_psql('postgres', $question);
		my $offset;

		# an empty cache, so that a read asks for its key
		$node->restart if $what eq 'a first read';
		$offset = -s $node->logfile;
		set_for_all("$point:wait");
		my $session = begin($sql);
		my $pid = wait_at($point, $offset);

		set_for_all(undef);
		kill_and_wait($pid, $name);
		like(finish($session, $name), qr/server closed the connection|connection to server was lost|terminating connection/, "$name: told so");
		is($node->safe_psql('postgres', $question), $before, "$name: as before");
		is($node->safe_psql('postgres', $content), $expected, "$name: nothing is lost");
		is(sqlstate($node, $sql), '', "$name: the next attempt succeeds");
		$node->safe_psql('postgres', 'DROP TABLE IF EXISTS made');
	}
}
{
	my $offset = -s $node->logfile;

	set_for_all('keeper-expired:wait');
	my $pid = wait_at('keeper-expired', $offset);
	is($node->safe_psql('postgres', $content), $expected, 'a keeper that stands still stops nobody');
	set_for_all(undef);
	kill_and_wait($pid, 'keeper at its proofs');
	is($node->safe_psql('postgres', $content), $expected, 'keeper at its proofs: nothing is lost');
}

# ---- A worker that fails, and workers that are told to end: an error that
# says so, or an answer; no person is needed afterwards

my $make = 'DROP TABLE IF EXISTS made; CREATE TABLE made (a int) USING cmek_heap';
set_for_all('worker-taken:error');
ok(wait_for_error($node, 'KM001', $make), 'a worker that fails is KM001');
like(error_text($node, $make), qr/WorkerError|KMS worker failed/, 'and said');
set_for_all(undef);
ok(wait_for_ok($node, $make), 'it goes on by itself');
$node->restart;
all_there();
kill('TERM', pids_of('cmek KMS worker'), pids_of('cmek keeper')) == 3 or BAIL_OUT("could not end the workers: $!");
{
	my $session = begin('\\set VERBOSITY verbose', $content);

	like(finish($session, 'without a worker'), qr/^$|ERROR:  KM001/, 'without a worker: an answer or KM001');
	ok(wait_for_ok($node, $content), 'workers come back by themselves');
	ok(all_there(), 'and all of them');
}

# ---- Random moments of a mixed load

for my $round (1 .. $rounds)
{
	my $victim = $victims[ int(rand(3)) ];

	$load->start(300);
	sleep(0.5 + rand(2.5));
	# of the backends one that does something; our own question is one, too
	my $pid = $victim ne 'client backend' ? pid_of($victim)
	  : $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$victim' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
	kill_and_wait($pid, "round $round, $victim");
	is(join("\n", $load->finish), '', "round $round, $victim: no error but those of locks and of the crash");
	$load->check("round $round, $victim");
}
cmp_ok($load->{acknowledged}, '>', 3 * $rounds, "$load->{acknowledged} transactions were acknowledged");
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|XX001|damaged or forged/, 'no word of damage in the log');

$node->stop;
done_testing();
