# The wall clock is set forward by a year and back by more, again and again.
# Nothing that is measured in seconds waits for years, or is over at once: keys
# are proved, denied and back, the clock of the drop counts seconds, and people
# are told.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekClock;
use CmekTest;

plan skip_all => 'no libfaketime' unless have_clock();

my $node = cmek_node('primary', config => [ 'autovacuum = off', 'fsync = off', 'cmek.key_cache_ttl = 1', 'cmek.drop_after = 3600' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/jump");
my $clock = "$dir/clock";

sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub state_of
{
	my ($sql) = @_;

	return $node->poll_query_until('postgres', "SELECT $sql FROM cmek.key_watch WHERE server = 'jump'");
}

# A proof is made and answered after now
sub proved_again
{
	my $before = sql('SELECT kms_calls FROM cmek.stat');

	return $node->poll_query_until('postgres', "SELECT kms_calls > $before FROM cmek.stat");
}

# The key goes and comes back, by the clock as it is; each is noticed by itself
sub goes_and_comes
{
	my ($what) = @_;

	is(sql('SELECT a FROM jump'), '1', "$what: the table is read");
	ok(proved_again(), "$what: the key is proved");
	hide_key($file);
	ok(state_of("class = 'denied' AND denied_ms > 1000"), "$what: the loss is noticed, and counted");
	isnt($node->psql('postgres', 'SELECT a FROM jump'), 0, "$what: and nothing is read");
	show_key($file);
	ok(state_of("class = 'ok' AND denied_ms = 0"), "$what: the key that is back is noticed");
	return;
}

sql("CREATE SERVER jump FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE jump (a int) USING cmek_heap WITH (cmek.key = 'jump'); INSERT INTO jump VALUES (1)");
$node->stop;
start_jumping($node, $clock, '+0');

my $wall = 'SELECT extract(epoch FROM now() - pg_postmaster_start_time()) / 86400';
goes_and_comes('no jump');
# with the key there: what was proved a moment ago, and when to come again
for my $jump ([ '+365d', '> 300' ], [ '-365d', '< -300' ], [ '+365d', '> 300' ], [ '-365d', '< -300' ])
{
	set_jump($clock, $jump->[0]);
	ok($node->poll_query_until('postgres', "$wall $jump->[1]"), "$jump->[0] by the wall clock");
	goes_and_comes($jump->[0]);
}
# with the key away: the clock of the drop
hide_key($file);
ok(state_of("class = 'denied' AND denied_ms > 1000"), 'counting');
for my $jump ([ '+365d', '> 300' ], [ '-365d', '< -300' ], [ '+365d', '> 300' ], [ '-365d', '< -300' ])
{
	my $warned = sql("SELECT count(*) FROM cmek.key_events WHERE event = 'warn'");
	set_jump($clock, $jump->[0]);
	ok($node->poll_query_until('postgres', "$wall $jump->[1]"), "$jump->[0] with the key away");
	my $before = sql("SELECT denied_ms FROM cmek.key_watch WHERE server = 'jump'");
	ok(state_of("denied_ms > $before + 1500"), "$jump->[0]: it goes on counting");
	is(sql("SELECT to_regclass('jump') IS NOT NULL AND denied_ms < 600000 FROM cmek.key_watch WHERE server = 'jump'"),
		't', "$jump->[0]: seconds, and nothing is dropped");
	ok($node->poll_query_until('postgres', "SELECT count(*) > $warned FROM cmek.key_events WHERE event = 'warn'"),
		"$jump->[0]: people are warned");
}
show_key($file);
ok(state_of("class = 'ok' AND denied_ms = 0"), 'the key that is back is noticed');
is(sql('SELECT a FROM jump'), '1', 'and the table is read');

$node->stop;
done_testing();
