# Every key that tables are bound to is proved at least hourly, whatever
# cmek.key_cache_ttl is and whether anybody asks for its rows.  Under a clock
# that runs fast, for hours.

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

my $rate = 1000;
my $node = cmek_node('primary', config => [ 'autovacuum = off', 'fsync = off', "checkpoint_timeout = '1d'", "bgwriter_delay = '10s'", "wal_writer_delay = '10s'",
		"cmek.key_cache_ttl = '3h'", "cmek.kms_grace = '6h'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my %file = map { $_ => new_key_file("$dir/$_") } qw(idle used);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub clock { return sql('SELECT extract(epoch FROM clock_timestamp())'); }

# When a key was proved for the last time
sub last_ok { return sql("SELECT coalesce(extract(epoch FROM last_ok), 0) FROM cmek.keys WHERE name = '$_[0]'"); }

sql("CREATE SERVER $_ FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{$_}');
	CREATE TABLE $_ (a int) USING cmek_heap WITH (cmek.key = '$_'); INSERT INTO $_ VALUES (1)") for sort keys %file;
$node->stop;
start_fast($node, $rate);
ok(wait_for_ok($node, 'SELECT a FROM used'), 'one key is in use, nobody asks for the other');

for my $key (sort keys %file)
{
	my $before = last_ok($key);

	# again, so that what is between is one interval; it is taken away in the next
	ok(eventually(sub { last_ok($key) > $before }), "$key: proved again");
	my $proved = last_ok($key);
	hide_key($file{$key});
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM cmek.key_events WHERE key = '$key' AND event = 'denied'"), "$key: missed");
	my $took = sql("SELECT extract(epoch FROM at) - $proved FROM cmek.key_events WHERE key = '$key' AND event = 'denied'");
	# three more seconds of a busy machine are an hour
	cmp_ok($took, '<', 2 * 3600, sprintf('%s: %.2f h after it was there', $key, $took / 3600));
	note(sprintf('%s: %.2f h', $key, $took / 3600));
}

$node->stop;
done_testing();
