# The seven days themselves, with the settings that users have: under a clock
# that runs fast for the whole server, the monotonic one included.  A key that
# is lost at noon is warned of daily, hourly on the last day, and its table
# falls when seven days were observed, not before.
#
#   CMEK_CLOCK_RATE   how fast (10000)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my ($faketime) = glob('/usr/lib/*/faketime/libfaketime.so.1');
plan skip_all => 'no libfaketime' unless $faketime;

my $rate = $ENV{CMEK_CLOCK_RATE} || 10000;
# what is measured in seconds of ours would be over at once
my $node = cmek_node('primary', config => [ 'autovacuum = off', 'fsync = off', "checkpoint_timeout = '1d'", "bgwriter_delay = '10s'", "wal_writer_delay = '10s'",
		"cmek.key_cache_ttl = '1h'", "cmek.kms_timeout = '10min'", "cmek.audit_anchor_interval = 0", "deadlock_timeout = '1h'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE t (a int PRIMARY KEY, b text) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO t SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 50) i");
my $other = new_key_file("$dir/o");
sql("CREATE SERVER o FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$other');
	CREATE TABLE copied (a int) USING cmek_heap WITH (cmek.key = 'o'); INSERT INTO copied VALUES (1)");
my $content = 'SELECT count(*), md5(string_agg(t::text, \'|\' ORDER BY a)) FROM t';
my $before = sql($content);
is(sql(q{SELECT current_setting('cmek.drop_after'), current_setting('cmek.snapshot_retention')}), '7d|35d', 'the defaults');
$node->stop;
{
	local $ENV{LD_PRELOAD} = $faketime;
	local $ENV{FAKETIME} = "+0 x$rate";
	local $ENV{FAKETIME_NO_CACHE} = 1;
	# pg_ctl waits by that clock, too
	local $ENV{PGCTLTIMEOUT} = 60 * $rate;
	$node->start;
}
my $clock = sql('SELECT extract(epoch FROM clock_timestamp())');
sleep(1);
cmp_ok(sql("SELECT extract(epoch FROM clock_timestamp()) - $clock"), '>', $rate / 2, 'control: the clock runs fast');

# ---- another installation's record of a month: a day of our own comes first ----
hide_key($other);
ok($node->poll_query_until('postgres', q{SELECT denied_ms > 0 FROM cmek.key_watch WHERE server = 'o'}), 'lost');
sql(q{SELECT cmek.suspend_key('o')});
sql(q{UPDATE cmek.key_watch SET denied_ms = 30 * 86400000::int8, own_ms = 30 * 86400000::int8, installation = 'another' WHERE server = 'o'; SELECT cmek.resume_key('o')});
my $copied = sql('SELECT extract(epoch FROM clock_timestamp())');
ok($node->poll_query_until('postgres', q{SELECT to_regclass('copied') IS NULL}), 'dropped in the end');
my $own = sql(qq{SELECT (extract(epoch FROM at) - $copied) / 86400 FROM cmek.key_events WHERE event = 'drop' AND key = 'o'});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'drop' AND key = 'o'}), 'which is said') if $own eq '';
$own = sql(qq{SELECT (extract(epoch FROM at) - $copied) / 86400 FROM cmek.key_events WHERE event = 'drop' AND key = 'o'});
cmp_ok($own, '>=', 0.95, 'not before a day of our own observation');
diag(sprintf('a month of somebody else, then %.2f days of our own', $own));

# ---- seven days ----
hide_key($file);
ok($node->poll_query_until('postgres', q{SELECT denied_ms > 0 FROM cmek.key_watch WHERE server = 'k'}), 'lost');
my $end = sql(q{SELECT extract(epoch FROM drop_at - since) / 86400 FROM cmek.key_watch WHERE server = 'k'});
ok($end eq '' || ($end > 6.5 && $end < 8), 'its end is said to be in seven days');
ok($node->poll_query_until('postgres', q{SELECT to_regclass('t') IS NULL}), 'the table is dropped');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'drop' AND key = 'k' AND outcome = 'done'}), 'and it is said');
my $days = sql(q{SELECT extract(epoch FROM d.at - l.at) / 86400 FROM cmek.key_events d, cmek.key_events l WHERE d.event = 'drop' AND l.event = 'denied' AND d.key = 'k' AND l.key = 'k' ORDER BY d.id, l.id LIMIT 1});
cmp_ok($days, '>=', 6.9, 'not before seven days');
diag(sprintf('dropped after %.2f days', $days));
cmp_ok(sql(q{SELECT count(DISTINCT floor(extract(epoch FROM w.at - l.at) / 86400)) FROM cmek.key_events w, cmek.key_events l WHERE w.event = 'warn' AND w.drop_at IS NOT NULL AND l.event = 'denied' AND w.key = 'k' AND l.key = 'k'}),
	'>=', 6, 'warned on each day');
is(sql(q{SELECT reason, expires_at - taken_at = interval '35 d' FROM cmek.snapshots WHERE key = 'k'}), 'key lost|t', 'the snapshot is kept for 35 days');

# back to the clock of everybody
my $id = sql(q{SELECT id FROM cmek.snapshots WHERE key = 'k'});
$node->stop;
show_key($file);
$node->start;
ok(wait_for_ok($node, "SELECT cmek.restore_snapshot('$id', 't', 'k')"), 'the key is back: restored');
is(sql($content), $before, 'every row is equal');

$node->stop;
done_testing();
