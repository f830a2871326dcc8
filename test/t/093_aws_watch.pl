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

my $node = cmek_node('primary', streaming => 1, config => [ 'log_min_messages = log', "cmek.kms_timeout = '${timeout}s'", "cmek.kms_grace = '3s'",
	'max_wal_senders = 5' ]);
$node->append_conf('postgresql.conf', "archive_mode = on\narchive_command = 'cp %p " . $node->archive_dir . "/%f'\n");
$node->restart;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }

sql("CREATE SERVER a FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '$key', endpoint '$url', sts_endpoint '$url');
	CREATE USER MAPPING FOR PUBLIC SERVER a OPTIONS (access_key_id '$user->{id}', secret_access_key '$user->{secret}')");
sql(join(';', map { "CREATE TABLE t$_ (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO t$_ VALUES ($_)" } 1 .. $tables));
my $sum = join(' UNION ALL ', map { "SELECT a FROM t$_" } 1 .. $tables);
my $all = $tables * ($tables + 1) / 2;
is(sql("SELECT sum(a) FROM ($sum) x"), $all, "$tables tables under one key");

# one proof speaks for all of them
$aws->tell('forget');
sleep(4);
cmp_ok($aws->requests('Decrypt'), '<=', 8, 'a proof or so a second, not one a table');

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
	ok(wait_for_error($node, 'KM001', 'SELECT a FROM t7'), "$name: KM001");
	my $took = time() - $lost;
	note(sprintf('%s: %.2f s to KM001', $name, $took));
	if ($counts eq 'denied')
	{
		cmp_ok($took, '<', 1 + $timeout + 1, "$name: within TTL, time-out and a second");
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
	$find->();
	my $found = time();
	ok(wait_for_ok($node, 'SELECT a FROM t7'), "$name: back");
	$took = time() - $found;
	note(sprintf('%s: %.2f s to the first row', $name, $took));
	cmp_ok($took, '<', 5, "$name: within a probe or so");
	ok(until_true("SELECT class = 'ok' AND denied_ms = 0 AND unreachable_ms = 0 FROM cmek.key_watch WHERE server = 'a'"), "$name: the clock is at zero");
	ok(until_true("SELECT count(*) > 0 FROM cmek.key_events WHERE id > $before AND event = 'back' AND key = 'a'"), "$name: an event tells");
	return;
}

lose_and_find('disabled', sub { $aws->tell('state', arn => $key, state => 'Disabled') },
	sub { $aws->tell('state', arn => $key, state => 'Enabled') }, '^denied DisabledException', 'denied');
lose_and_find('deletion scheduled', sub { $aws->tell('state', arn => $key, state => 'PendingDeletion') },
	sub { $aws->tell('state', arn => $key, state => 'Enabled') }, '^denied KMSInvalidStateException', 'denied');
lose_and_find('denied by policy', sub { $aws->tell('allow_user', name => 'db', actions => [ 'kms:Encrypt', 'kms:GenerateDataKey', 'kms:DescribeKey' ]) },
	sub { $aws->tell('allow_user', name => 'db', actions => ['kms:*']) }, '^denied AccessDenied', 'denied');
lose_and_find('network down', sub { kill('STOP', $aws->{pid}) },
	sub { kill('CONT', $aws->{pid}) }, '^unreachable ', 'unreachable');

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

$aws->tell('state', arn => $key, state => 'Disabled');
ok(until_true("SELECT denied_ms >= 2000 FROM cmek.key_watch WHERE server = 'a'"), 'the key is lost, the clock runs');
ok(wait_for_error($standby, 'KM001', 'SELECT a FROM t7'), 'on the standby, too');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.key_watch WHERE class = 'denied'"), '1', 'which has the record by replication');
my $point = sql('SELECT pg_current_wal_lsn()');
my $sum_before = sql("SELECT denied_ms FROM cmek.key_watch WHERE server = 'a'");
sql('SELECT pg_switch_wal()');
$node->wait_for_catchup($standby);
$node->stop;
my $down = time();
sleep(3);
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT denied_ms > $sum_before FROM cmek.key_watch WHERE server = 'a'"), 'promoted, it goes on counting');
my $counted = $standby->safe_psql('postgres', "SELECT denied_ms FROM cmek.key_watch WHERE server = 'a'");
cmp_ok($counted, '<', $sum_before + 1000 * (time() - $down), 'from the sum, without the time in between');
$aws->tell('state', arn => $key, state => 'Enabled');
ok(wait_for_ok($standby, 'SELECT a FROM t7'), 'the key is back there');

my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'b', has_restoring => 1);
$restored->append_conf('postgresql.conf', "recovery_target_lsn = '$point'\nrecovery_target_action = promote\n");
mkdir($restored->data_dir . '.cmek') or BAIL_OUT("mkdir: $!");
copy(service_key($node), service_key($restored)) or BAIL_OUT("copy: $!");
chmod(0700, $restored->data_dir . '.cmek');
chmod(0600, service_key($restored));
$restored->start;
ok($restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'PITR to the middle of it');
ok(wait_for_ok($restored, "SELECT sum(a) FROM ($sum) x"), 'all tables are readable');
ok($restored->poll_query_until('postgres', "SELECT class = 'ok' AND denied_ms = 0 FROM cmek.key_watch WHERE server = 'a'"), 'and an old record of a loss is gone by the first proof');
is($restored->safe_psql('postgres', 'SELECT count(*) FROM cmek.verify_events()'), '0', 'the chain of events goes on there');

$restored->stop;
$standby->stop;
done_testing();
