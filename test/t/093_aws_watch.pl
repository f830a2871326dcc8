# A key at AWS (moto) is taken away, by the key and by the network, and given
# back: in which state that leaves it, what counts, how fast; two hundred tables under one
# key; a failover and a PITR in the middle.

use strict;
use warnings;

use File::Copy;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;
use CmekStub;

delete @ENV{ grep { /^AWS_/ } keys %ENV };
$ENV{AWS_EC2_METADATA_DISABLED} = 'true';
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});

my $aws = start_stub('aws');
my $url = $aws->url;
my $key = $aws->tell('key');
my $user = $aws->tell('user', name => 'db');
my $tables = 200;
my $timeout = 3;

# four workers: two calls at a time for one KMS key; the first part holds one up
my $node = cmek_node('primary', streaming => 1, config => [ 'log_min_messages = log', "cmek.kms_timeout = '2min'", "cmek.kms_grace = '1h'",
	'max_wal_senders = 5', 'cmek.kms_workers = 4' ]);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }
sub grace { return sql("ALTER SYSTEM SET cmek.kms_grace = '$_[0]'") . sql('SELECT pg_reload_conf()'); }

# ALTER SERVER to another endpoint, and the credentials
sub endpoint { return sql("ALTER SERVER a OPTIONS (SET endpoint '$_[0]', SET sts_endpoint '$_[0]')"); }
sub secret { return sql("ALTER USER MAPPING FOR PUBLIC SERVER a OPTIONS (SET secret_access_key '$_[0]')"); }

sql("CREATE SERVER a FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '$key', endpoint '$url', sts_endpoint '$url');
	CREATE USER MAPPING FOR PUBLIC SERVER a OPTIONS (access_key_id '$user->{id}', secret_access_key '$user->{secret}')");

# ---------------------------------------------------------------------
# A proof by the options before ALTER SERVER is under way when those after it
# have failed: its answer says nothing any more, and nobody proves by them again
# ---------------------------------------------------------------------

# Has the KMS, which is stopped, been sent something that it has not read?
sub request_waits
{
	my $port = sprintf('%04X', $aws->port);

	return grep { /^ *\d+: \w+:$port \w+:\w+ 01 \w+:(\w+) / && hex($1) > 0 } split(/\n/, slurp_file('/proc/net/tcp'));
}

sql("CREATE TABLE old (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO old VALUES (1)");
is(sql('SELECT a FROM old'), '1', 'a key that is in use');
$aws->tell('forget');
kill('STOP', $aws->{pid});
ok(eventually(\&request_waits), 'a proof is under way');
endpoint('http://127.0.0.1:' . dead_port());
ok(until_true("SELECT class = 'unreachable' AND code = 'ConnectionRefused' FROM cmek.key_watch WHERE server = 'a'"), 'the new options fail');
kill('CONT', $aws->{pid});
ok(eventually(sub { $aws->requests('Decrypt') > 0 }), 'the KMS answers the proof by the old ones');
$aws->tell('forget');
ok(until_true("SELECT unreachable_ms >= 4000 FROM cmek.key_watch WHERE server = 'a'"), 'four periods later');
is(sql("SELECT class, code FROM cmek.key_watch WHERE server = 'a'"), 'unreachable|ConnectionRefused', 'the key is away still');
is(sql("SELECT count(*) FROM cmek.key_events WHERE event = 'back'"), '0', 'and never was back');
is($aws->requests('Decrypt'), 0, 'nobody has asked by the old options again');
endpoint($url);
ok(until_true("SELECT class = 'ok' FROM cmek.key_watch WHERE server = 'a'"), 'the old options again: back');
ok(wait_for_ok($node, 'SELECT a FROM old'), 'readable');
sql('DROP TABLE old');

# ---------------------------------------------------------------------
# Two hundred tables
# ---------------------------------------------------------------------

$node->append_conf('postgresql.conf', "cmek.kms_timeout = '${timeout}s'\narchive_mode = on\narchive_command = 'cp %p " . $node->archive_dir . "/%f'\n");
$node->restart;
sql(join(';', map { "CREATE TABLE t$_ (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO t$_ VALUES ($_)" } 1 .. $tables));
my $sum = join(' UNION ALL ', map { "SELECT a FROM t$_" } 1 .. $tables);
my $all = $tables * ($tables + 1) / 2;
is(sql("SELECT sum(a) FROM ($sum) x"), $all, "$tables tables under one key");

# one proof speaks for all of them, however long it takes to look
$aws->tell('forget');
ok(eventually(sub { $aws->requests('Decrypt') > 0 }), 'they are proved');
sleep(3);
cmp_ok($aws->requests('Decrypt'), '<', $tables / 2, 'not one by one');

# ---------------------------------------------------------------------
# Each way to lose a key: the word for it, whether it counts, the return
# ---------------------------------------------------------------------

sub state_of { return sql("SELECT concat_ws(' ', w.class, w.code) FROM cmek.key_watch w WHERE server = 'a'"); }

sub lose_and_find
{
	my ($name, $lose, $find, $state, $counts) = @_;
	my $before = sql("SELECT coalesce(max(id), 0) FROM cmek.key_events");

	$lose->();
	my $lost = time();
	ok(until_true("SELECT w.class || ' ' || w.code ~ '$state' FROM cmek.key_watch w WHERE server = 'a'"), "$name: $state") or note(state_of());
	if ($counts ne 'denied')
	{
		is(sqlstate($node, 'SELECT a FROM t7'), '', "$name: forgiven for the grace");
		grace('2s');
	}
	ok(wait_for_error($node, 'KM001', 'SELECT a FROM t7'), "$name: KM001");
	note(sprintf('%s: %.2f s to KM001', $name, time() - $lost));
	ok(until_true('SELECT cached_keys = 0 FROM cmek.stat'), "$name: no key is left in the cache");
	if ($counts eq 'denied')
	{
		ok(until_true("SELECT denied_ms >= 1000 AND drop_at IS NOT NULL FROM cmek.key_watch WHERE server = 'a'"), "$name: counts");
	}
	elsif ($counts eq 'unreachable')
	{
		ok(until_true("SELECT unreachable_ms >= 1000 FROM cmek.key_watch WHERE server = 'a'"), "$name: is observed");
		is(sql("SELECT denied_ms, drop_at IS NULL FROM cmek.key_watch WHERE server = 'a'"), '0|t', "$name: does not count");
	}
	else
	{
		sleep(2.5);
		is(sql("SELECT denied_ms, unreachable_ms, drop_at IS NULL FROM cmek.key_watch WHERE server = 'a'"), '0|0|t', "$name: never counts");
	}
	grace('1h') if $counts ne 'denied';
	$find->();
	my $found = time();
	ok(wait_for_ok($node, 'SELECT a FROM t7'), "$name: back");
	note(sprintf('%s: %.2f s to the first row', $name, time() - $found));
	ok(until_true("SELECT class = 'ok' AND denied_ms = 0 AND unreachable_ms = 0 FROM cmek.key_watch WHERE server = 'a'"), "$name: the clock is at zero");
	ok(until_true("SELECT count(*) > 0 FROM cmek.key_events WHERE id > $before AND event = 'back' AND key = 'a'"), "$name: an event tells");
	is(sql("SELECT count(*) > 0 FROM cmek.key_events WHERE id > $before AND outcome = 'observed' AND key = 'a' AND event || ' ' || code ~ '$state'"), 't',
		"$name: ... and told of the loss, by the same words");
	return;
}

# ---------------------------------------------------------------------
# How long it takes at most: from DisableKey to KM001, in a scan that runs and
# in new statements, a TTL, the time-out and a second; from EnableKey to the
# first row one probe.  With a TTL of some seconds, that this says something.
# ---------------------------------------------------------------------

my $ttl = 8;

sub ttl { return sql("ALTER SYSTEM SET cmek.key_cache_ttl = '$_[0]s'") . sql('SELECT pg_reload_conf()'); }

ttl($ttl);
sql("CREATE TABLE scanned (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO scanned SELECT generate_series(1, 100000)");
my %scan = (out => '', err => '');
my $scan = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-c',
		'SELECT count(pg_sleep(0.002)) FROM scanned' ], '>', \$scan{out}, '2>', \$scan{err});
ok(until_true("SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT count(pg_sleep%' AND wait_event = 'PgSleep'"), 'a scan runs');
$aws->tell('state', arn => $key, state => 'Disabled');
my $disabled = time();
ok(wait_for_error($node, 'KM001', 'SELECT a FROM t7'), 'DisableKey: KM001');
my $delay = time() - $disabled;
cmp_ok($delay, '<', $ttl + $timeout + 1, sprintf('after %.2f s', $delay));
$scan->finish;
$delay = time() - $disabled;
like($scan{err}, qr/ERROR:  KM001:/, 'the scan ends with KM001, too');
cmp_ok($delay, '<', $ttl + $timeout + 1, sprintf('after %.2f s', $delay));
my $bind = "CREATE TABLE bound (a int) USING cmek_heap WITH (cmek.key = 'a'); DROP TABLE bound";
is(sqlstate($node, $bind), 'KM001', "binding a table asks at once, $_") for 1 .. 4;
$aws->tell('state', arn => $key, state => 'Enabled');
my $enabled = time();
is(sqlstate($node, $bind), '', 'EnableKey: binding a table asks at once, whatever it was told a moment ago');
ok(wait_for_ok($node, 'SELECT a FROM t7'), 'EnableKey: a row');
$delay = time() - $enabled;
cmp_ok($delay, '<', $ttl, sprintf('after %.2f s', $delay));
sql('DROP TABLE scanned');
my $snapshot = sql("SELECT cmek.snapshot('t7')");
my $restore = "SELECT cmek.restore_snapshot('$snapshot', 'restored'); DROP TABLE restored";
$aws->tell('state', arn => $key, state => 'Disabled');
ok(wait_for_error($node, 'KM001', 'SELECT a FROM t7'), 'disabled again');
is(sqlstate($node, $restore), 'KM001', "restoring a table asks at once, $_") for 1 .. 4;
$aws->tell('state', arn => $key, state => 'Enabled');
is(sqlstate($node, $restore), '', 'EnableKey: restoring does, too');
ttl(1);
ok(until_true("SELECT class = 'ok' FROM cmek.key_watch WHERE server = 'a'") && until_true('SELECT cmek.events_waiting() = 0'), 'and it is on record');

# ---------------------------------------------------------------------
# Each of them
# ---------------------------------------------------------------------

lose_and_find('disabled', sub { $aws->tell('state', arn => $key, state => 'Disabled') },
	sub { $aws->tell('state', arn => $key, state => 'Enabled') }, '^denied DisabledException', 'denied');
lose_and_find('deletion scheduled', sub { $aws->tell('state', arn => $key, state => 'PendingDeletion') },
	sub { $aws->tell('state', arn => $key, state => 'Enabled') }, '^denied KMSInvalidStateException', 'denied');
lose_and_find('denied by policy', sub { $aws->tell('allow_user', name => 'db', actions => [ 'kms:Encrypt', 'kms:GenerateDataKey', 'kms:DescribeKey' ]) },
	sub { $aws->tell('allow_user', name => 'db', actions => ['kms:*']) }, '^denied AccessDenied', 'denied');
lose_and_find('network down', sub { kill('STOP', $aws->{pid}) },
	sub { kill('CONT', $aws->{pid}) }, '^unreachable ', 'unreachable');
# a call that was sent while nobody answered may end, and be told, after the return
sleep($timeout);
ok(until_true("SELECT class = 'ok' FROM cmek.key_watch WHERE server = 'a'"), 'no call of then is left');
lose_and_find('wrong endpoint', sub { endpoint('http://127.0.0.1:' . dead_port()) },
	sub { endpoint($url) }, '^unreachable ConnectionRefused', 'unreachable');
lose_and_find('wrong credentials', sub { secret('wrong') },
	sub { secret($user->{secret}) }, '^misconfigured InvalidSignatureException', 'never');
lose_and_find('credentials deleted', sub { $aws->tell('forget_user', name => 'db') },
	sub { $aws->tell('restore_user', name => 'db') }, '^misconfigured UnrecognizedClientException', 'never');

# ---------------------------------------------------------------------
# A start while the KMS does not answer
# ---------------------------------------------------------------------

sql('CREATE TABLE mine (a int) USING cmek_heap; INSERT INTO mine VALUES (1)');
$node->stop;
kill('STOP', $aws->{pid});
$node->start;
is(sql('SELECT a FROM mine'), '1', 'the server is up, another key is served');
is(sqlstate($node, 'SELECT a FROM t7'), 'KM001', 'the one that is away is not');
kill('CONT', $aws->{pid});
ok(wait_for_ok($node, 'SELECT a FROM t7'), 'back without a person');
ok(until_true("SELECT class = 'ok' FROM cmek.key_watch WHERE server = 'a'"), 'and on record');

# ---------------------------------------------------------------------
# In the middle of it: a standby takes over, a backup is restored
# ---------------------------------------------------------------------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
mkdir($standby->data_dir . '.cmek') or BAIL_OUT("mkdir: $!");
copy(service_key($node), service_key($standby)) or BAIL_OUT("copy: $!");
chmod(0700, $standby->data_dir . '.cmek');
chmod(0600, service_key($standby));
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT sum(a) FROM ($sum) x"), $all, 'a standby reads all of them');

$standby->safe_psql('postgres', "SELECT cmek.suspend_key('a', true); SELECT cmek.resume_key('a', true)");
like(slurp_file($standby->logfile), qr/cmek event \(in this log only\): \{"event": "suspend"/, 'what happens on a standby is in its log');
ok(wait_for_ok($standby, 'SELECT a FROM t7'), 'where it is resumed');

$aws->tell('state', arn => $key, state => 'Disabled');
ok(until_true("SELECT denied_ms >= 2000 FROM cmek.key_watch WHERE server = 'a'"), 'the key is lost, the clock runs');
ok(wait_for_error($standby, 'KM001', 'SELECT a FROM t7'), 'on the standby, too');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.key_watch WHERE class = 'denied'"), '1', 'which has the record by replication');
my $point = sql('SELECT pg_current_wal_lsn()');
my $read_at = time();
my $sum_before = sql("SELECT denied_ms FROM cmek.key_watch WHERE server = 'a'");
sql('SELECT pg_switch_wal()');
$node->wait_for_catchup($standby);
$node->stop;
my $down = 6;
sleep($down);
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT denied_ms > $sum_before FROM cmek.key_watch WHERE server = 'a'"), 'promoted, it goes on counting');
my $counted = $standby->safe_psql('postgres', "SELECT denied_ms FROM cmek.key_watch WHERE server = 'a'");
# up to two periods and a time-out of what ran there before were not written down then
cmp_ok($counted, '<', $sum_before + 1000 * (time() - $read_at - $down + 2 + $timeout), 'from the sum, without the time in between');

my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'b', has_restoring => 1);
$restored->append_conf('postgresql.conf', "recovery_target_lsn = '$point'\nrecovery_target_action = promote\n");
mkdir($restored->data_dir . '.cmek') or BAIL_OUT("mkdir: $!");
copy(service_key($node), service_key($restored)) or BAIL_OUT("copy: $!");
chmod(0700, $restored->data_dir . '.cmek');
chmod(0600, service_key($restored));
my $starting = time();
$restored->start;
ok($restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'PITR to the middle of it');
my $sum_there = $restored->safe_psql('postgres', "SELECT denied_ms FROM cmek.key_watch WHERE server = 'a'");
cmp_ok($sum_there, '>=', 2000, 'the sum of then is there');
is(sqlstate($restored, 'SELECT a FROM t7'), 'KM001', 'the tables are dark there, too');
ok($restored->poll_query_until('postgres', "SELECT denied_ms >= $sum_there + 2000 FROM cmek.key_watch WHERE server = 'a'"), 'the clock goes on');
cmp_ok($restored->safe_psql('postgres', "SELECT denied_ms FROM cmek.key_watch WHERE server = 'a'"), '<', $sum_before + 1000 * (time() - $starting),
	'from the sum, without the time in between');
is($restored->safe_psql('postgres', "SELECT count(*) FROM cmek.tables WHERE key = 'a'"), $tables, 'and nothing is dropped');

$aws->tell('state', arn => $key, state => 'Enabled');
ok(wait_for_ok($standby, 'SELECT a FROM t7'), 'the key is back on the promoted standby');
ok(wait_for_ok($restored, "SELECT sum(a) FROM ($sum) x"), 'all tables are readable');
ok($restored->poll_query_until('postgres', "SELECT class = 'ok' AND denied_ms = 0 FROM cmek.key_watch WHERE server = 'a'"), 'and an old record of a loss is gone by the first proof');
is($restored->safe_psql('postgres', 'SELECT count(*) FROM cmek.verify_events()'), '0', 'the chain of events goes on there');

$restored->stop;
$standby->stop;
done_testing();
