# Immediate stops at random moments of a mixed load: acknowledged transactions
# are there, others wholly or wholly not, and nothing is damaged.
#
#   CMEK_FAULT_ROUNDS   how many stops (5; make test-faults: 50)
#   CMEK_FAULT_SEED     begin with this seed
#   CMEK_FAULT_INDEXES  sealed or none: indexes of the sealed tables

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use CmekTest;
use CmekLoad;

my $rounds = $ENV{CMEK_FAULT_ROUNDS} || 5;
my $seed = $ENV{CMEK_FAULT_SEED} || int(rand(1e9));
my $indexes = $ENV{CMEK_FAULT_INDEXES} || 'sealed';
note("seed $seed");
srand($seed);

my $node = cmek_node('stopped', config => [ CmekLoad::config() ]);
my $load = CmekLoad->new($node, indexes => $indexes);

for my $round (1 .. $rounds)
{
	# at wal_level = minimal new files are not logged but written at commit
	my $level = int(rand(3)) ? 'replica' : 'minimal';

	$node->append_conf('postgresql.conf', "wal_level = $level\nmax_wal_senders = " . ($level eq 'minimal' ? 0 : 5) . "\nwal_skip_threshold = "
		. (int(rand(2)) ? "'10GB'" : 0));
	$node->restart;
	$load->start(300);
	sleep(0.3 + rand(3));
	$node->stop('immediate');
	is(join("\n", $load->finish), '', "round $round: no error but those of locks and of the stop");
	$node->start;
	$load->check("round $round, wal_level = $level");
}
cmp_ok($load->{acknowledged}, '>', 3 * $rounds, "$load->{acknowledged} transactions were acknowledged");
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|XX001|damaged or forged/, 'no word of damage in the log');

# the checks see what they are there for
my ($n) = grep { $load->{state}{0}{$_} eq 'acknowledged' } sort { $a <=> $b } keys %{ $load->{state}{0} };
SKIP:
{
	skip 'nothing was acknowledged in the last round', 2 unless defined $n;
	$node->safe_psql('postgres', "DELETE FROM sealed.ledger WHERE client = 0 AND n = $n");
	like(join("\n", $load->ledger_faults), qr/^0\.$n: acknowledged, but absent$/, 'a lost transaction is seen');
	like(join("\n", $load->twin_faults), qr/^ledger\|1$/, 'and so is its row');
}
$node->safe_psql('postgres', "UPDATE plain.a SET big = 'other' WHERE id = (SELECT min(id) FROM plain.a)");
like(join("\n", $load->twin_faults), qr/^a\|2$/m, 'a changed row is seen');

$node->stop;
done_testing();
