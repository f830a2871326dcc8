# The life of a key that stays away, with the settings that users have, under a
# clock that runs fast for the whole server, the monotonic one included: people
# are told at once, daily, and hourly on the last day; the tables fall after
# seven days, not before; the snapshot is restored; it is purged after 35 days.
#
# make test-long-clock lets the seven and the 35 days pass.  Without it all is
# shorter by the same factor, but for cmek.key_cache_ttl and cmek.kms_grace.
#
#   CMEK_LONG_CLOCK   how fast (2000); the 35 days pass ten times as fast

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekClock;
use CmekTest;

plan skip_all => 'no libfaketime' unless have_clock();

my $long = $ENV{CMEK_LONG_CLOCK} || 0;
my $rate = $long || 600;
# drop_after; what it calls a day and an hour; how long snapshots are kept
my $all = $long ? 7 * 86400 : 3 * 3600;
my ($day, $hour) = ($all / 7, $all / 168);
my $retention = 5 * $all;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init;
# what is not ours sleeps
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cmek'\nautovacuum = off\nfsync = off\ncheckpoint_timeout = '1d'\nbgwriter_delay = '10s'\nwal_writer_delay = '10s'\n");
$node->append_conf('postgresql.conf', "cmek.drop_after = '${all}s'\ncmek.snapshot_retention = '${retention}s'\n") unless $long;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek');

my $dir = PostgreSQL::Test::Utils::tempdir();
my $began = time();
my $ahead = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }
sub clock { return sql('SELECT extract(epoch FROM clock_timestamp())'); }

# Stop, and go on from the same time at another rate
sub go_on_at
{
	my ($new) = @_;

	$ahead = clock() - time();
	$node->stop;
	return start_fast($node, $new, $ahead);
}

my %file = map { $_ => new_key_file("$dir/$_") } qw(lost graced);
sql("CREATE SERVER $_ FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{$_}')") for sort keys %file;
sql(q{SET cmek.plaintext_indexes = on;
	CREATE TABLE t (a int PRIMARY KEY, b text) USING cmek_heap WITH (cmek.key = 'lost');
	INSERT INTO t SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 500) i;
	CREATE TABLE g (a int) USING cmek_heap WITH (cmek.key = 'graced'); INSERT INTO g VALUES (1)});
my $content = q{SELECT count(*), md5(string_agg(t::text, '|' ORDER BY a)) FROM t};
my $before = sql($content);

is(sql(q{SELECT string_agg(current_setting('cmek.' || s), ' ') FROM unnest(ARRAY['key_cache_ttl', 'kms_grace', 'kms_timeout']) s}), '5min 15min 10s', 'the defaults');
is(sql(q{SELECT current_setting('cmek.drop_after'), current_setting('cmek.snapshot_retention')}), $long ? '7d|35d' : '10800s|15h', $long ? 'seven days and 35' : 'short');

$node->stop;
start_fast($node, $rate);
my ($real, $virtual) = (time(), clock());
sleep(1);
my $speed = (clock() - $virtual) / (time() - $real);
cmp_ok($speed, '>', $rate / 2, "control: the clock runs fast ($speed)");

# ---- statements go on for the grace when the KMS is misconfigured ----

ok(wait_for_ok($node, 'SELECT a FROM g'), 'a key in use');
chmod(0644, $file{graced});
my $lost_at = clock();
my $served_until = 0;
my $failed_at;
for (1 .. 600)
{
	my $now = clock();

	if (sqlstate($node, 'SELECT a FROM g') eq 'KM001')
	{
		$failed_at = clock() - $lost_at;
		last;
	}
	$served_until = $now - $lost_at;
}
ok(defined $failed_at, 'in the end statements fail');
# the grace is counted from the last proof, at most a TTL before
cmp_ok($failed_at, '>=', 900 - 300 - 20, sprintf('not before the grace: %d s, served for %d s', $failed_at, $served_until));
cmp_ok($served_until, '<=', 2 * 900, 'nor is anything served much longer');

# ---- the key is lost ----

hide_key($file{lost});
ok(until_true(q{SELECT denied_ms > 0 FROM cmek.key_watch WHERE server = 'lost'}), 'lost');
for (1 .. 20 * ($all / $rate + 60))
{
	last if sql(q{SELECT to_regclass('t') IS NULL}) eq 't';
	sleep(0.5);
}
is(sql(q{SELECT to_regclass('t') IS NULL}), 't', 'dropped in the end');
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'drop' AND outcome = 'done' AND key = 'lost'}), 'and it is said');
is(sql(q{SELECT to_regclass('g') IS NOT NULL AND denied_ms = 0 AND drop_at IS NULL FROM cmek.key_watch WHERE server = 'graced'}), 't', 'the misconfigured key counts nothing');

my ($told, $took) = split(/\|/, sql(q{SELECT extract(epoch FROM l.drop_at - l.at), extract(epoch FROM d.at - l.at) FROM cmek.key_events d, cmek.key_events l
	WHERE d.event = 'drop' AND l.event = 'denied' AND d.key = 'lost' AND l.key = 'lost' ORDER BY l.id LIMIT 1}));
cmp_ok($told, '>', $all - $day / 4, 'told at once, with the date of the drop');
cmp_ok($told, '<=', $all, 'which is the earliest one');
cmp_ok($took, '>=', $all, 'nothing is dropped before its time');
cmp_ok($took, '<', 1.5 * $all, 'nor long after') if $long;
note(sprintf('dropped after %.3f of the time', $took / $all));

# warnings: what was left at each, and how long after the one before; one may be
# written later than it was due, and the next not
my @warned = map { [ split(/\|/) ] } split(/\n/, sql(qq{SELECT extract(epoch FROM drop_at - at), extract(epoch FROM at - lag(at) OVER (ORDER BY id)),
	drop_at <= (SELECT at FROM cmek.key_events WHERE event = 'drop' AND key = 'lost')
	FROM cmek.key_events WHERE key = 'lost' AND (event = 'denied' OR event = 'warn' AND drop_at IS NOT NULL) ORDER BY id}));
shift @warned;
my @daily = grep { $_->[0] > $day } @warned;
my @hourly = grep { $_->[0] <= $day && $_->[1] < $day / 2 } @warned;
note(scalar(@daily) . ' daily ones, ' . scalar(@hourly) . ' hourly ones');
# a machine that is busy for half a second loses some when that is an hour; and
# visits are a cmek.key_cache_ttl apart, which is more than an hour of the short form
cmp_ok(scalar(@daily), '>=', $long ? 5 : 3, 'warned daily');
is(scalar(grep { $_->[1] < 0.9 * $day || $long && $_->[1] > 1.5 * $day } @daily), 0, 'once a day');
cmp_ok(scalar(@hourly), '>=', $long ? 16 : 2, 'on the last day hourly');
# an hour of the short form is a tenth of a second, and an event may be written that late
my $span = 0;
$span += $_->[1] for @hourly;
cmp_ok(scalar(@hourly), '<=', $span / $hour + 1, 'once an hour');
is(scalar(grep { $_->[1] < 0.9 * $hour } @hourly), 0, 'each an hour after the one before') if $long;
is(scalar(grep { $_->[2] ne 't' } @warned), 0, 'no table falls before a date that was told');

# ---- its snapshot ----

is(sql(q{SELECT reason, rows, state, extract(epoch FROM expires_at - taken_at)::int8 FROM cmek.snapshots WHERE key = 'lost'}), "key lost|500|kept|$retention", 'a snapshot is kept');
is(sql(q{SELECT bool_and(s.at <= d.at) FROM cmek.key_events s, cmek.key_events d WHERE s.event = 'snapshot' AND s.outcome = 'done' AND d.event = 'drop'}), 't', 'it was there before the drop');
my $id = sql(q{SELECT id FROM cmek.snapshots WHERE key = 'lost'});
my $snapshot = $node->data_dir . ".cmek/snapshots/$id.cmeksnap";
ok(-s $snapshot, 'there is its file');
show_key($file{lost});
chmod(0600, $file{graced});
go_on_at(1);
cmp_ok(clock() - time(), '>=', $all, 'that time is behind us');
ok(wait_for_ok($node, "SELECT cmek.restore_snapshot('$id', 't', 'lost')"), 'the key is back: restored');
is(sql($content), $before, 'every row is equal');
ok(wait_for_ok($node, 'SELECT a FROM g'), 'the other key is back as well');
is(sql('SELECT count(*) FROM cmek.verify_events()'), '0', 'the chain of events is whole');

# ---- and its end ----

go_on_at(10 * $rate);
my ($there, $gone);
for (1 .. 20 * ($retention / $rate / 10 + 60))
{
	my ($n, $age) = split(/\|/, sql("SELECT (SELECT count(*) FROM cmek.snapshot_record), extract(epoch FROM clock_timestamp() - at) FROM cmek.key_events WHERE event = 'snapshot'"));

	$n > 0 ? ($there = $age) : ($gone = $age);
	last if defined $gone;
	sleep(0.05);
}
ok(defined $gone, 'purged in the end');
cmp_ok($gone, '>=', $retention, sprintf('not before its time: there after %.3f of it, gone after %.3f', $there / $retention, $gone / $retention));
cmp_ok($there, '>', 0.9 * $retention, 'it was there until then');
ok(eventually(sub { !-e $snapshot }), 'its file is gone');
go_on_at(1);
is(sql($content), $before, 'what was restored stays');

$node->stop;
note(sprintf('%.0f s', time() - $began));
done_testing();
