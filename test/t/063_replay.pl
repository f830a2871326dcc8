# A standby replays the mixed load of the crash tests, and has the same rows.
# With wal_consistency_checking (make test-assert) it compares every page that
# it redoes with the primary's; here, as always, what can be read of them.
#
#   CMEK_FAULT_ROUNDS   how long the load is (3); CMEK_FAULT_SEED,
#                       CMEK_FAULT_INDEXES as in 060_immediate_stop.pl

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekLoad;

my $rounds = $ENV{CMEK_FAULT_ROUNDS} || 3;
my $seed = $ENV{CMEK_FAULT_SEED} || int(rand(1e9));
my $indexes = $ENV{CMEK_FAULT_INDEXES} || 'sealed';
note("seed $seed");
srand($seed);

my $primary = cmek_node('replayed', streaming => 1, config => [ CmekLoad::config() ]);
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('replaying');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf', "cmek.service_key_file = '" . service_key($primary) . "'\n");
$standby->start;
my $load = CmekLoad->new($primary, indexes => $indexes);

for my $round (1 .. $rounds)
{
	$load->start(12);
	is(join("\n", $load->finish), '', "round $round: no error but those of locks");
	$load->check("round $round, primary");
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	$load->{node} = $standby;
	is(join("\n", $load->twin_faults), '', "round $round, standby: sealed and plain tables are the same");
	is(join("\n", $load->damage), '', "round $round, standby: verify, indexes and keys are clean");
	$load->{node} = $primary;
}
cmp_ok($load->{acknowledged}, '>', 3 * $rounds, "$load->{acknowledged} transactions were acknowledged");
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|XX001|damaged or forged|inconsistent page/, $_->name . ': no word of damage in the log')
  for ($primary, $standby);

$standby->stop;
$primary->stop;
done_testing();
