# Sealed b-trees answer as plain ones do: random queries on random rows of many
# types and shapes of index, before and after changes, vacuum and a crash.
#
#   CMEK_TWIN_ROUNDS   how much of it (1)
#   CMEK_TWIN_SEED     the same again

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekTwins;

my $rounds = $ENV{CMEK_TWIN_ROUNDS} || 1;
my $seed = $ENV{CMEK_TWIN_SEED} || int(rand(1e9));
note("seed $seed");
srand($seed);
my $rand = sub { int(rand($_[0])) };
my $node = cmek_node('twins', config => [ 'autovacuum = off', 'shared_buffers = 64MB', 'fsync = off', 'jit = off' ],
	extra => [ '--encoding=UTF8' ]);
my $asked = 0;
my @shapes = twin_shapes();

twins_setup($node);

# the comparison can fail
$node->safe_psql('postgres', 'CREATE TABLE twin_p_no (c1 int); CREATE TABLE twin_s_no (c1 int); INSERT INTO twin_s_no VALUES (1)');
$node->safe_psql('postgres', "SELECT twin_ask('SELECT * FROM NAME_no')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM twin_asked WHERE plain IS DISTINCT FROM sealed'), '1', 'a difference is seen');

for my $round (1 .. $rounds)
{
	for my $shape (@shapes)
	{
		twins_make($node, $shape, 500, $rand);
		$asked += twins_queries($node, $shape, 30, $rand, 'after the build');
		twins_change($node, $shape, 15, $rand);
		$asked += twins_queries($node, $shape, 25, $rand, 'after changes');
		$node->safe_psql('postgres', "VACUUM twin_p_$shape, twin_s_$shape") if $rand->(2);
		twins_change($node, $shape, 8, $rand);
		$asked += twins_queries($node, $shape, 15, $rand, 'after vacuum');
	}
	$node->stop('immediate');
	$node->start;
	for my $shape (@shapes)
	{
		$asked += twins_queries($node, $shape, 10, $rand, 'after a crash');
	}
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
		WHERE relname LIKE 'twin\_s\_%' AND relkind = 'i' AND amname <> 'cmek_btree'}), '0', 'all indexes are sealed');
	is($node->safe_psql('postgres', q{
		SELECT string_agg(v::text, ' ') FROM pg_class c, LATERAL cmek.verify(c.oid) v
		WHERE relname LIKE 'twin\_s\_%' AND relkind = 'r' AND relname <> 'twin_s_no'}), '', 'verify finds nothing');
	my $drop = join(', ', map { "twin_p_$_, twin_s_$_" } @shapes);
	$node->safe_psql('postgres', "DROP TABLE $drop");
}
cmp_ok($asked, '>', 1200 * $rounds, "$asked queries had an answer");
is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.data_key WHERE kind = 'i'}), '0',
	'the data keys of indexes went with them');
$node->stop;

done_testing();
