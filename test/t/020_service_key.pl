# The service key and its file, the shared cache of table keys, and the KMS
# workers: made once and never again, away and back without a restart, asked
# once for many, waited for no longer than allowed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my $node = PostgreSQL::Test::Cluster->new('service_key');
$node->init;
cmek_config($node);
$node->start;

my $key = service_key($node);
my $record = $node->data_dir . '/cmek_service_key.fingerprint';
my $other = new_key_file($node->basedir . '/other_key');

# Change settings of the running server and wait until the workers have them
sub configure
{
	my (%settings) = @_;

	$node->safe_psql('postgres', join('',
			map { "ALTER SYSTEM SET $_ = '$settings{$_}';" } sort keys %settings)
		  . 'SELECT pg_reload_conf()');
	sleep(0.5);
	return;
}

# One column of cmek.stat
sub stat_of
{
	my ($column) = @_;

	return $node->safe_psql('postgres', "SELECT $column FROM cmek.stat");
}

# Run a statement in an open session; what went wrong with it, or ''
sub complaint
{
	my ($session, $sql) = @_;

	$session->{stderr} = '';
	$session->query($sql);
	my $stderr = $session->{stderr};
	$session->{stderr} = '';
	return $stderr;
}

# Repeat a statement in an open session until it fails or works
sub wait_in_session
{
	my ($session, $wanted, $sql) = @_;
	my $last = '';

	for (1 .. 300)
	{
		$last = complaint($session, $sql);
		return 1 if $wanted eq '' ? $last eq '' : $last =~ /$wanted/;
		sleep(0.1);
	}
	diag("last complaint: $last");
	return 0;
}

# Run the same statement in many sessions at once; their outputs
sub run_at_once
{
	my ($n, $sql) = @_;
	my (@out, @err, @runs);

	for my $i (0 .. $n - 1)
	{
		$out[$i] = $err[$i] = '';
		push @runs, IPC::Run::start(
			[
				'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql
			],
			'>', \$out[$i], '2>', \$err[$i]);
	}
	$_->finish for @runs;
	diag(join('', @err)) if grep { $_ ne '' } @err;
	chomp(@out);
	return @out;
}

# ---------------------------------------------------------------------
# Made on the first use
# ---------------------------------------------------------------------

ok(!-e $key, 'no key file before the first use');
ok(!-e $record, 'and no fingerprint');
# the audit trail of what it does may be the first
$node->safe_psql('postgres', 'CREATE EXTENSION cmek');

$node->safe_psql('postgres', q{
	CREATE TABLE t (id int, v text) USING cmek_heap;
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 1000) i});
my $rows = $node->safe_psql('postgres', 'SELECT count(*), sum(hashtext(v)) FROM t');

is((stat($key))[2] & 07777, 0600, 'the key file is for its owner only');
is((stat($node->data_dir . '.cmek'))[2] & 07777, 0700, 'so is its directory');
like(slurp_file($key), qr/^cmek-service-key-1 [0-9a-f]{64}\n\z/, 'its format');
my ($secret) = slurp_file($key) =~ / ([0-9a-f]{64})/;
my $fingerprint = $node->safe_psql('postgres', 'SELECT DISTINCT key_version FROM cmek.table_key');
like($fingerprint, qr/^[0-9a-f]{32}$/, 'table keys name the fingerprint');
is(slurp_file($record), "$fingerprint\n", 'the data directory too');
is_deeply([ glob("$key*") ], [$key], 'nothing is left beside the key file');
is(index($secret, $fingerprint), -1, 'the fingerprint is no part of the key');

$node->safe_psql('postgres', 'CREATE TABLE t2 (id int) USING cmek_heap; INSERT INTO t2 VALUES (7)');
is($node->safe_psql('postgres', 'SELECT DISTINCT key_version FROM cmek.table_key'),
	$fingerprint, 'the second table uses the same key');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT blob) FROM cmek.table_key'),
	'2', 'but has a table key of its own');

# ---------------------------------------------------------------------
# Gone, another one, back
# ---------------------------------------------------------------------

hide_key($key);
$node->restart;
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $error = error_text($node, 'SELECT * FROM t');
like($error, qr/KM001: KMS key "cmek_service_key" of table "t" is not accessible/,
	'after a restart without the key file: KM001');
like($error, qr/cmek_file answered KeyFileMissing \(denied\)/, 'with the code');
like($error, qr/\Q$fingerprint\E/, 'and the fingerprint');
like($error, qr/\Q$key\E/, 'and the path');
like($error, qr/Inaccessible since \d{4}-/, 'and since when');
like($error, qr/HINT:  Put the key file back/, 'and what to do');
fails_with($node, 'KM001', 'CREATE TABLE n (a int) USING cmek_heap', 'a new table fails too');
ok(!-e $key, 'no new key file appears');
is($node->safe_psql('postgres', q{SELECT state, code FROM cmek.keys}),
	'inaccessible|KeyFileMissing', 'cmek.keys says so');

my $calls = stat_of('kms_calls');
sqlstate($node, 'SELECT * FROM t') for (1 .. 20);
cmp_ok(stat_of('kms_calls') - $calls, '<', 10, 'failures are answered from memory for a while');

system('cp', '-p', $other, $key) == 0 or BAIL_OUT('cp');
ok(wait_in_session($session, 'KeyFileDiffers', 'SELECT count(*) FROM t'), 'another key: KM001');
like(complaint($session, 'CREATE TABLE n (a int) USING cmek_heap'), qr/is not accessible/,
	'which makes no new table either');
unlink($key);
show_key($key);
ok(wait_in_session($session, '', 'SELECT count(*) FROM t'),
	'the right key back: the same session works again');
is($session->query('SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'and reads what it should');

# a lost record is written again from what the catalog knows
$node->stop;
unlink($record);
hide_key($key);
$node->start;
fails_with($node, 'KM001', 'SELECT * FROM t', 'key and fingerprint file gone: KM001');
fails_with($node, 'KM001', 'CREATE TABLE n (a int) USING cmek_heap', 'and for a new table');
$node->safe_psql('postgres', 'CREATE DATABASE empty');
$node->safe_psql('empty', 'CREATE EXTENSION cmek');
fails_with($node, 'KM001', 'CREATE TABLE n (a int) USING cmek_heap',
	'and in a database without keys', 'empty');
ok(!-e $key, 'no new key file appears');
is(slurp_file($record), "$fingerprint\n", 'the fingerprint is recorded again');
append_to_file($record, 'x');
like(error_text($node, 'CREATE TABLE n (a int) USING cmek_heap', 'empty'),
	qr/KM001.*(KeyFileMissing|FingerprintFormat)/s, 'a damaged record is no new beginning');
ok(!-e $key, 'no new key file appears');
unlink($record);
show_key($key);
ok(wait_for_ok($node, 'SELECT * FROM t'), 'back');
is(slurp_file($record), "$fingerprint\n", 'and recorded');

# ---------------------------------------------------------------------
# Taken from running backends
# ---------------------------------------------------------------------

# with a grace that would outlive the test: a denial must not wait for it
configure('cmek.kms_grace' => '1h');
$session = $node->background_psql('postgres', on_error_stop => 0);
my $scan = $node->background_psql('postgres', on_error_stop => 0);
is(complaint($session, 'SELECT count(*) FROM t'), '', 'a session holds the key');
$scan->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; FETCH 1 FROM c');
hide_key($key);
ok(wait_in_session($session, 'is not accessible', 'SELECT count(*) FROM t'),
	'it loses it within the TTL');
like(complaint($scan, 'FETCH ALL FROM c'), qr/is not accessible/, 'and so does a scan under way');
like(complaint($session, 'DELETE FROM t'), qr/is not accessible/, 'DELETE is refused as well');
is(stat_of('cached_keys'), '0', 'no key is left in the cache');
show_key($key);
ok(wait_in_session($session, '', 'SELECT count(*) FROM t'), 'and gets it back');
$scan->quit;

# an answer that is no denial counts after the grace only
$node->safe_psql('postgres', 'SELECT count(*) FROM t');
chmod(0640, $key);
ok($node->poll_query_until('postgres',
		q{SELECT state = 'inaccessible' AND code = 'KeyFilePermissions' FROM cmek.keys}),
	'a key file that the group may read is noticed');
is(complaint($session, 'SELECT count(*) FROM t'), '', 'within the grace the key is used all the same');
configure('cmek.kms_grace' => '0');
ok(wait_in_session($session, 'KeyFilePermissions \(misconfigured\)', 'SELECT count(*) FROM t'),
	'after it no more');
$node->restart;
like(error_text($node, 'SELECT * FROM t'), qr/KM001.*has group or world access/s,
	'a key file that the group may read is not used');
chmod(0600, $key);
ok(wait_for_ok($node, 'SELECT * FROM t'), 'with 0600 it is');

# ---------------------------------------------------------------------
# cmek.service_key_command
# ---------------------------------------------------------------------

$node->safe_psql('postgres',
	"CREATE SERVER file FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$other')");
$node->safe_psql('postgres', q{
	CREATE TABLE f (a int) USING cmek_heap WITH (cmek.key = 'file');
	INSERT INTO f VALUES (42)});
hide_key($key);
configure('cmek.service_key_command' => "cat $key.away", 'cmek.key_cache_ttl' => '5min');
ok(wait_for_ok($node, 'SELECT * FROM t'), 'a command gives the key');
is($node->safe_psql('postgres', 'SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'the right one');
for my $case (
	[ "echo $secret",             '',                                  'digits alone will do' ],
	[ "echo $secret; echo more",  '',                                  'further lines do not matter' ],
	[ 'exit 3',                   'KeyCommandFailed \(unreachable\)',  'a command that fails' ],
	[ 'kill -9 $$',               'KeyCommandFailed \(unreachable\)',  'a command that is killed' ],
	[ 'true',                     'KeyFileFormat \(misconfigured\)',   'a command that says nothing' ],
	[ 'yes | tr -d "\\n"',        'KeyFileFormat \(misconfigured\)',   'a command that says too much' ],
	[ "cat $other",               'KeyFileDiffers \(denied\)',         'a command with another key' ])
{
	my ($command, $wanted, $name) = @$case;

	configure('cmek.service_key_command' => $command);
	$node->restart;
	my $text = error_text($node, 'SELECT count(*) FROM t');
	$wanted eq '' ? is($text, '', $name) : like($text, qr/KM001.*$wanted/s, $name);
}

# a KMS that hangs
configure('cmek.service_key_command' => 'sleep 30');
$node->restart;
my $start = time();
fails_with($node, '57014', 'SET statement_timeout = 500; SELECT * FROM t',
	'waiting for a KMS can be cancelled');
cmp_ok(time() - $start, '<', 5, 'at once');
$start = time();
like(error_text($node, q{SET cmek.kms_timeout = '1s'; SELECT * FROM t}),
	qr/KM001.*did not answer in time/s, 'cmek.kms_timeout ends the waiting');
cmp_ok(time() - $start, '<', 5, 'in time');
$start = time();
is($node->safe_psql('postgres', 'SELECT a FROM f'), '42', 'another KMS is not held up by it');
cmp_ok(time() - $start, '<', 3, 'at all');

# the worker that runs it dies
sub worker_pids
{
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

	return map { /^\s*(\d+) .*cmek KMS worker/ ? $1 : () }
	  split /\n/, `ps -o pid=,args= --ppid $postmaster`;
}

# so many that a proof of the server's own is not run in the session's place
$node->safe_psql('postgres', 'ALTER SYSTEM SET cmek.kms_workers = 8');
$node->safe_psql('postgres', 'ALTER SYSTEM SET max_worker_processes = 16');
$node->restart;
ok(eventually(sub { scalar(worker_pids()) == 8 }), 'as many KMS workers run as it says');
$start = time();
{
	my $in = '';
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'),
			'-c', 'SELECT * FROM t' ], '<', \$in, '>', \$out, '2>', \$err);
	# it waits, so a worker is at it
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE query = 'SELECT * FROM t' AND wait_event_type = 'Extension'}) or BAIL_OUT('nobody waits');
	$start = time();
	kill('TERM', worker_pids());
	$run->finish;
	like($err, qr/KM001/, 'the end of the worker ends the waiting');
}
cmp_ok(time() - $start, '<', 8, 'at once');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET cmek.kms_workers');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET max_worker_processes');
$start = time();
$node->restart;
cmp_ok(time() - $start, '<', 8, 'a hanging command does not delay a shutdown');
configure('cmek.service_key_command' => '');
show_key($key);
ok(wait_for_ok($node, 'SELECT * FROM t'), 'workers are started again');

# ---------------------------------------------------------------------
# One call for many
# ---------------------------------------------------------------------

# each call leaves a line: the server's counter has those for other keys, too
my $asked = $node->basedir . '/asked';
configure('cmek.service_key_command' => "echo >>$asked; sleep 1; cat $key");
$node->restart;
my $misses0 = stat_of('cache_misses');
my @counts = run_at_once(20, 'SELECT count(*) FROM t');
is_deeply(\@counts, [ ('1000') x 20 ], '20 cold backends read');
cmp_ok(stat_of('cache_misses') - $misses0, '>', 1, 'several of them missed the cache');
# once for all of them; and the visitor has bound keys proved after a start
like(slurp_file($asked), qr/^\n{1,2}$/, 'and the KMS was asked once');
my $misses1 = stat_of('cache_misses');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '1000', 'later ones');
is(stat_of('cache_misses'), $misses1, 'find the key in the cache');
configure('cmek.service_key_command' => '');

# ---------------------------------------------------------------------
# More tables than the cache has room for
# ---------------------------------------------------------------------

configure('cmek.key_cache_size' => 16);
$node->restart;
my $union = join(' UNION ALL ', map { "SELECT a FROM e$_" } 1 .. 40);
$node->safe_psql('postgres', join('',
		map { "CREATE TABLE e$_ (a int) USING cmek_heap; INSERT INTO e$_ VALUES ($_);" } 1 .. 40));
is($node->safe_psql('postgres', "SELECT count(*), sum(a) FROM ($union) s"), '40|820', '40 tables in one query');
is_deeply([ run_at_once(6, "SELECT count(*), sum(a) FROM ($union) s") ], [ ('40|820') x 6 ],
	'and in 6 sessions at once');
# on a slow server a key that nobody has asked for in the meantime may have left
ok(eventually(sub {
	$node->safe_psql('postgres', "SELECT sum(a) FROM ($union) s");
	my $cached = stat_of('cached_keys');
	BAIL_OUT("16 keys fit into the cache, and $cached are there") if $cached > 16;
	return $cached == 16;
}), 'the cache is full');
cmp_ok(stat_of('cache_evictions'), '>', 24, 'and keys were evicted');
$node->safe_psql('postgres', join('', map { "DROP TABLE e$_;" } 1 .. 40));
cmp_ok(stat_of('cached_keys'), '<', 16, 'keys of dropped tables leave the cache');
$node->safe_psql('postgres', 'BEGIN; CREATE TABLE v (a int) USING cmek_heap; INSERT INTO v VALUES (1); ROLLBACK');
configure('cmek.key_cache_size' => 4096);

# ---------------------------------------------------------------------
# Databases made from one another
# ---------------------------------------------------------------------

$node->restart;
$node->safe_psql('template1', 'SELECT 1');
$node->safe_psql('template1', 'CREATE DATABASE c1 TEMPLATE postgres');
$node->safe_psql('template1', 'CREATE DATABASE c2 TEMPLATE postgres');
is($node->safe_psql('c1', 'SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'the clone first');
is($node->safe_psql('postgres', 'SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'then the original');
is($node->safe_psql('c2', 'SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'and another clone');
$node->safe_psql('c1', q{INSERT INTO t VALUES (0, 'c1'); ALTER TABLE t SET (cmek.key = 'file')});
$node->safe_psql('c2', q{DELETE FROM t; INSERT INTO t VALUES (0, 'c2')});
$node->restart;
is($node->safe_psql('c2', 'SELECT v FROM t'), 'c2', 'they go their own ways');
is($node->safe_psql('c1', 'SELECT count(*) FROM t'), '1001', 'one with another KMS key');
is($node->safe_psql('postgres', 'SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'the original as it was');

# ---------------------------------------------------------------------
# Key switch
# ---------------------------------------------------------------------

$session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe('SELECT count(*) FROM t');
$session->query_safe(q{BEGIN; ALTER TABLE t SET (cmek.key = 'file');
	INSERT INTO t VALUES (-1, 'undone'); SELECT count(*) FROM t; ROLLBACK});
is($session->query('SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'a switch undone leaves no trace');
$session->query_safe(q{BEGIN; SAVEPOINT a; ALTER TABLE t SET (cmek.key = 'file');
	SELECT count(*) FROM t; ROLLBACK TO a; SELECT count(*) FROM t; COMMIT});
is($session->query('SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'nor one in a subtransaction');
$node->safe_psql('postgres', q{ALTER TABLE t SET (cmek.key = 'file')});
is($session->query('SELECT count(*), sum(hashtext(v)) FROM t'), $rows, 'a switch by another session');
hide_key($key);
$node->restart;
is($node->safe_psql('postgres', 'SELECT count(*), sum(hashtext(v)) FROM t'), $rows,
	'the old KMS key is not needed any more');
fails_with($node, 'KM001', 'SELECT * FROM t2', 'but by other tables');
show_key($key);
hide_key($other);
$node->restart;
my $away = error_text($node, 'SELECT * FROM t');
like($away, qr/KMS key "file" of table "t" is not accessible.*KeyFileMissing \(denied\)/s, 'the new one is');
ok(!-e $other, 'and is not made anew');
show_key($other);
ok(wait_for_ok($node, 'SELECT * FROM t'), 'back');

# ---------------------------------------------------------------------
# Damaged and swapped key rows
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	CREATE TABLE d1 (a int) USING cmek_heap; INSERT INTO d1 VALUES (1);
	CREATE TABLE d2 (a int) USING cmek_heap; INSERT INTO d2 VALUES (2)});
for my $case (
	[ q{UPDATE cmek.table_key SET blob = set_byte(blob, 20, get_byte(blob, 20) # 1) WHERE relid = 'd1'::regclass},
		'a damaged table key' ],
	[ q{UPDATE cmek.table_key SET blob = substr(blob, 2) WHERE relid = 'd1'::regclass},
		'a short table key' ],
	[ q{UPDATE cmek.table_key SET blob = (SELECT blob FROM cmek.table_key WHERE relid = 't2'::regclass)
		WHERE relid = 'd1'::regclass},
		q{another table's table key} ],
	[ q{UPDATE cmek.data_key SET wrapped = set_byte(wrapped, 0, get_byte(wrapped, 0) # 128) WHERE relid = 'd1'::regclass},
		'damaged data keys' ],
	[ q{UPDATE cmek.data_key d SET wrapped = (SELECT wrapped FROM cmek.data_key
			WHERE relid = d.relid AND kind <> d.kind LIMIT 1) WHERE relid = 'd1'::regclass},
		'data keys swapped' ],
	[ q{UPDATE cmek.data_key SET structure = gen_random_uuid() WHERE relid = 'd1'::regclass},
		'another structure' ])
{
	my ($damage, $name) = @$case;

	$node->safe_psql('postgres', qq{
		CREATE TABLE saved_t AS SELECT * FROM cmek.table_key WHERE relid = 'd1'::regclass;
		CREATE TABLE saved_d AS SELECT * FROM cmek.data_key WHERE relid = 'd1'::regclass;
		$damage});
	$node->restart;
	fails_with($node, 'XX001', 'SELECT * FROM d1', "$name: XX001");
	is($node->safe_psql('postgres', 'SELECT a FROM d2'), '2', 'and other tables work');
	is($node->safe_psql('postgres', q{SELECT state FROM cmek.keys WHERE name = 'cmek_service_key'}),
		'enabled', 'and the KMS key is not to blame');
	$node->safe_psql('postgres', q{
		DELETE FROM cmek.table_key WHERE relid = 'd1'::regclass;
		INSERT INTO cmek.table_key SELECT * FROM saved_t;
		DELETE FROM cmek.data_key WHERE relid = 'd1'::regclass;
		INSERT INTO cmek.data_key SELECT * FROM saved_d;
		DROP TABLE saved_t, saved_d});
	ok(wait_for_ok($node, 'SELECT * FROM d1'), 'mended');
}

# ---------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------

my $server = 'CREATE SERVER x FOREIGN DATA WRAPPER cmek_file';
like(error_text($node, "$server OPTIONS (colour 'red')"),
	qr/HV00D: invalid option "colour".*HINT:  Valid options in this context are: key_file, drop_after\./s,
	'an unknown option names the known ones');
like(error_text($node, "$server OPTIONS (key_file 'here')"), qr/HV024: .*absolute path/s,
	'a key file has an absolute path');
like(error_text($node, "CREATE USER MAPPING FOR PUBLIC SERVER file OPTIONS (key_file '$other')"),
	qr/HV00D: /, 'and is no option of a user mapping');
$node->safe_psql('postgres', q{
	CREATE ROLE tenant; GRANT USAGE ON FOREIGN DATA WRAPPER cmek_file TO tenant});
fails_with($node, '42501', "SET ROLE tenant; $server OPTIONS (key_file '$other')",
	'only superusers name files');
fails_with($node, '42501', 'SET ROLE tenant; SET cmek.ambient_credentials = on',
	'or lend the identity of the host');
unlike($node->safe_psql('postgres', 'SET ROLE tenant; SELECT * FROM cmek.server_state()'),
	qr/KeyFile/, 'a role sees the state of its own servers');
like($node->safe_psql('postgres', q{SET ROLE tenant; SELECT name FROM cmek.keys}),
	qr/^cmek_service_key$/, 'and those it may use');
like(error_text($node, 'SET ROLE tenant; SHOW cmek.service_key_command'), qr/ERROR/,
	'the command is for superusers to see');

# a key file that is not there is not made
$node->safe_psql('postgres', "$server OPTIONS (key_file '" . $node->basedir . "/none')");
like(error_text($node, q{CREATE TABLE n (a int) USING cmek_heap WITH (cmek.key = 'x')}),
	qr/KM001.*KeyFileMissing \(misconfigured\)/s, 'a key file that does not exist');
ok(!-e $node->basedir . '/none', 'is not made');

# a setting that would put the key into every backup
my $fresh = PostgreSQL::Test::Cluster->new('inside');
$fresh->init;
cmek_config($fresh, "cmek.service_key_file = '" . $fresh->data_dir . "/key'");
$fresh->start;
$fresh->safe_psql('postgres', 'CREATE EXTENSION cmek');
like(error_text($fresh, 'CREATE TABLE n (a int) USING cmek_heap'),
	qr/KM001.*inside the data directory/s, 'no key file inside the data directory');
ok(!-e $fresh->data_dir . '/key', 'is made');
$fresh->append_conf('postgresql.conf', "cmek.service_key_file = ''");
# a crash after the key file was made and before its fingerprint was
mkdir($fresh->data_dir . '.cmek', 0700);
new_key_file(service_key($fresh));
$fresh->restart;
$fresh->safe_psql('postgres', 'CREATE TABLE n (a int) USING cmek_heap; INSERT INTO n VALUES (1)');
is($fresh->safe_psql('postgres', 'SELECT a FROM n'), '1', 'a key file that is there is used');
like(slurp_file($fresh->data_dir . '/cmek_service_key.fingerprint'), qr/^[0-9a-f]{32}\n\z/,
	'and its fingerprint recorded');

# the key itself is nowhere but in its file
my $bytes = pack('H*', $secret);
is_deeply([ files_with($node->data_dir . '.cmek', $secret) ], ['service_key'], 'the search finds the key file');
is_deeply([ files_with($node->data_dir, $secret), files_with($node->data_dir, $bytes) ], [],
	'the key is in no file of the data directory');
unlike(slurp_file($node->logfile) =~ s/.*service_key_command.*//gr, qr/\Q$secret\E/,
	'nor in the log');

done_testing();
