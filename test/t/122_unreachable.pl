# cmek.drop_on_unreachable: a KMS that does not answer counts towards the end of
# a key's tables only where somebody has said so, and only from then on; what is
# our own mistake never does.  A table with replica keys goes by its first one, though
# a replica opens it all along.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;
use CmekStub;

my $vault = start_stub('vault');
my $rights = { map { $_ => [ $_ eq 'transit/keys/k' ? 'read' : 'update' ] } qw(transit/encrypt/k transit/decrypt/k transit/keys/k) };
$vault->tell('key', name => 'k');
$vault->tell('approle', role => 'db', role_id => 'role', secret_id => 'secret', rights => $rights);

my $node = cmek_node('primary', config => [ 'autovacuum = off', 'fsync = off', "cmek.kms_timeout = '1s'", "cmek.drop_after = '10min'", "cmek.local_keys = 'near'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }

sub counting_unreachable
{
	my ($setting) = @_;

	sql("ALTER SYSTEM SET cmek.drop_on_unreachable = $setting");
	sql('SELECT pg_reload_conf()');
	return;
}

# Until the key answers again and its clock is at zero
sub back
{
	my ($what) = @_;

	kill('CONT', $vault->{pid});
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), "$what: back");
	return ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'v' AND class = 'ok' AND denied_ms = 0 AND unreachable_ms = 0 AND own_ms = 0}), "$what: the clock is at zero");
}

sql("CREATE SERVER v FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '" . $vault->url . "', key 'k');
	CREATE USER MAPPING FOR PUBLIC SERVER v OPTIONS (role_id 'role', secret_id 'secret');
	CREATE TABLE t (a int PRIMARY KEY, b text) USING cmek_heap WITH (cmek.key = 'v'); ALTER TABLE t ALTER b SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 200) i");
sql("CREATE SERVER near FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '@{[new_key_file($node->basedir . '/near')]}');
	CREATE TABLE replicated (a int) USING cmek_heap WITH (cmek.key = 'v', cmek.replica_keys = 'near'); INSERT INTO replicated VALUES (1)");
my $content = 'SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM t';
my $before = sql($content);

# ---- off, as it is by default ----
is(sql('SHOW cmek.drop_on_unreachable'), 'off', 'the default');
sql(q{ALTER SERVER v OPTIONS (ADD drop_after '3s')});
kill('STOP', $vault->{pid});
ok(until_true(q{SELECT unreachable_ms >= 4000 FROM cmek.key_watch WHERE server = 'v'}), 'unreachable for longer than drop_after');
is(sql(q{SELECT class, denied_ms, own_ms, drop_at IS NULL FROM cmek.key_watch WHERE server = 'v'}), 'unreachable|0|0|t', 'off: it does not count');
is(sql(q{SELECT drop_at IS NULL FROM cmek.keys WHERE name = 'v'}), 't', 'off: no end is announced');
is(sql(q{SELECT to_regclass('t') IS NOT NULL AND to_regclass('replicated') IS NOT NULL AND NOT EXISTS (SELECT FROM cmek.snapshots)}),
	't', 'off: the tables stay');
is(sql('SELECT a FROM replicated'), 1, 'off: one with a replica key is readable');

# ---- switched on in the middle: what was seen before is no reason ----
sql(q{ALTER SERVER v OPTIONS (SET drop_after '60s')});
counting_unreachable('on');
# ten minutes of it, as if; the visitor may be writing the record just now
my $seen;
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	sql(q{UPDATE cmek.key_watch SET unreachable_ms = 600000 WHERE server = 'v' AND unreachable_ms < 600000});
	$seen = sql(q{SELECT unreachable_ms > 600000 AND own_ms > 0 AND drop_at > now() FROM cmek.key_watch WHERE server = 'v'});
	last if $seen eq 't';
	sleep(0.1);
}
is($seen, 't', 'on: it counts, from now on, and the end is announced');
is(sql(q{SELECT to_regclass('t') IS NOT NULL}), 't', 'on: it is not yet there');
back('in the middle');
is(sql($content), $before, 'nothing was dropped by what was seen while it was off');

# ---- our own mistake ----
$vault->tell('approle', role => 'db', role_id => 'role', secret_id => 'another', rights => $rights);
$vault->tell('revoke_logins');
ok(until_true(q{SELECT class = 'misconfigured' FROM cmek.key_watch WHERE server = 'v'}), 'a login that is refused');
# several periods, each with its proof
$vault->tell('forget');
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default) { last if $vault->requests('auth/approle/login') >= 5; sleep(0.1); }
is(sql(q{SELECT denied_ms, unreachable_ms, drop_at IS NULL FROM cmek.key_watch WHERE server = 'v'}), '0|0|t', 'misconfigured: never counts');
$vault->tell('approle', role => 'db', role_id => 'role', secret_id => 'secret', rights => $rights);
back('configured again');

# ---- to the end ----
sql(q{ALTER SERVER v OPTIONS (SET drop_after '4s')});
my $on = time;
kill('STOP', $vault->{pid});
is(sqlstate($node, 'SELECT * FROM replicated'), '', 'on: one with a replica key is still readable');
ok(until_true(q{SELECT to_regclass('t') IS NULL AND to_regclass('replicated') IS NULL}),
	'on: unreachable to the end, the tables are dropped, and so is the one with a replica key: the first one decides');
cmp_ok(time - $on, '>=', 4, 'not before its time');
is(sql(q{SELECT string_agg(reason || ' ' || state || ' ' || rows, ', ' ORDER BY rows) FROM cmek.snapshots}), 'key lost kept 1, key lost kept 200',
	'snapshots are kept');
ok(until_true(q{SELECT count(*) = 2 FROM cmek.key_events WHERE event = 'drop' AND key = 'v' AND outcome = 'done'}), 'and it is said');
kill('CONT', $vault->{pid});
my $id = sql('SELECT id FROM cmek.snapshots WHERE rows = 200');
counting_unreachable('off');
ok(wait_for_ok($node, "SELECT cmek.restore_snapshot('$id', 't', 'v')"), 'it answers again: restored');
is(sql($content), $before, 'every row is equal');

$node->stop;
done_testing();
