# Random statements of concurrent sessions on heap tables and on their sealed
# twins: the same rows, counts and errors after every step.
#
#   CMEK_RANDOM_SEED     the run to repeat
#   CMEK_RANDOM_ROUNDS   how many runs, with a seed each (1)
#   CMEK_RANDOM_STEPS    random acts in a run (300)
#   CMEK_RANDOM_INDEX    none; sealed: what CREATE INDEX makes of a sealed table
#                        by itself, sequential scans off (both)
#   CMEK_RANDOM_REPLAY   a file that a failed run has left: do what it says

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib", "$FindBin::RealBin/../random";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use Driver;
use Grammar;
use Twins;
use Values;

my $rounds = $ENV{CMEK_RANDOM_ROUNDS} || 1;
my $steps = $ENV{CMEK_RANDOM_STEPS} || 300;
my $seed = $ENV{CMEK_RANDOM_SEED} || int(rand(1_000_000_000));
my @kinds = $ENV{CMEK_RANDOM_INDEX} ? ($ENV{CMEK_RANDOM_INDEX}) : qw(none sealed);

my $node = cmek_node('twins', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'",
		"cmek.default_key = 'cmek_service_key'", 'restart_after_crash = off', "lock_timeout = 0" ]);
my $second = new_key_file($node->basedir . '/second_key');
$node->safe_psql('postgres', "CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second')");
setup_values($node);
my $lz4 = $node->safe_psql('postgres',
	q{SELECT count(*) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)});
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET timezone = UTC');
$node->safe_psql('template1', 'SELECT 1');

# Sessions on a copy of the empty schemas
sub new_twins
{
	my ($name, $index) = @_;

	$node->safe_psql('template1', "CREATE DATABASE $name TEMPLATE postgres");
	return Twins->new(
		connstr => $node->connstr($name),
		dir => $node->basedir,
		setup => {
			plain => 'SET search_path = plain, public; SET default_table_access_method = heap;',
			sealed => 'SET search_path = sealed, public; SET default_table_access_method = cmek_heap;'
			  . ($index eq 'sealed' ? 'SET enable_seqscan = off;' : '') });
}

# A run; how it differed, '' when it did not
sub run
{
	my ($driver, $n) = @_;

	return eval {
		$driver->step(0, $_) && die "could not run: $_\n"
		  for map { $driver->{grammar}->create_table(@$_) } [ 'a', 'simple' ], [ 'b', 'extras' ], [ 'c', 'parts' ],
		  $driver->{grammar}{index} ne 'none' ? [ 'd', 'child' ] : ();
		$driver->step(0, $driver->{grammar}->insert($_)) for (sort keys %{ $driver->{grammar}{tables} }) x 4;
		$driver->act for 1 .. $n;
		$driver->end_all;
		$driver->same_table(0, $_) for sort keys %{ $driver->{grammar}{tables} };
		1;
	} ? '' : $@;
}

# Leave what was done, for replay
sub leave_script
{
	my ($twins, $name) = @_;
	my $file = "$PostgreSQL::Test::Utils::log_path/$name.sql";

	open(my $fh, '>:raw', $file) or die "could not write $file: $!";
	print $fh $twins->script;
	close($fh);
	return $file;
}

if ($ENV{CMEK_RANDOM_REPLAY})
{
	my $twins = new_twins('replay', $kinds[0]);
	is($twins->replay(slurp_file($ENV{CMEK_RANDOM_REPLAY})), '', "replay of $ENV{CMEK_RANDOM_REPLAY}");
	done_testing();
	exit 0;
}

for my $round (0 .. $rounds - 1)
{
	for my $index (@kinds)
	{
		my $now = $seed + $round;
		my $name = "round_${round}_$index";
		my $twins = new_twins($name, $index);
		my $driver = Driver->new(twins => $twins, grammar => Grammar->new(index => $index, lz4 => $lz4), pairs => 3);

		srand($now);
		my $difference = run($driver, $steps);
		diag("repeat with CMEK_RANDOM_SEED=$now CMEK_RANDOM_STEPS=$steps CMEK_RANDOM_INDEX=$index; "
			  . 'replay with CMEK_RANDOM_REPLAY=' . leave_script($twins, $name)) if $difference;
		is($difference, '', "seed $now, indexes $index: $steps acts, the same on both sides");
		my %count = %{ $driver->{count} };
		note(join(' ', "waits $driver->{blocked};", map { "$_ $count{$_}" } sort keys %count));
		cmp_ok($count{error} || 0, '<', 0.4 * @{ $twins->{record} }, 'most statements did something');
		cmp_ok($twins->ask($twins->{monitor}, "SELECT count(*) FROM pg_class WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'cmek_btree')")->[0],
			$index eq 'none' ? '==' : '>', 0, 'indexes are sealed, if there are any');
		is($twins->ask($twins->{monitor}, "SELECT count(*) FROM pg_class c, cmek.verify(c.oid) WHERE relam = "
				. "(SELECT oid FROM pg_am WHERE amname = 'cmek_heap') AND relkind = 'r'")->[0], '0', 'verify finds no damage');

		# the premise: one changed value is a difference, here and in a replay
		if ($round == 0 && !$difference && $index eq $kinds[0])
		{
			$driver->step(0, 'INSERT INTO a (id) VALUES (1000)');
			$twins->one_side(0, 'plain', 'UPDATE a SET grp = -1 WHERE id = 1000');
			ok(!eval { $driver->same_table(0, 'a'); 1 }, 'a changed value is seen');
			my $again = new_twins('again', $index);
			like($again->replay($twins->script), qr/in session 0:\nSELECT count.* FROM a\n/s, 'and is the first difference of a replay');
			$again->close_all;
		}
		$twins->close_all;
	}
}

done_testing();
