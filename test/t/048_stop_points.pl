# A switch, a rotation, a reseal and a rewrite, failing or killed at every step:
# what is left is before or after, never between.  The table reads, verifies
# and takes rows; the next attempt succeeds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('stop', config => [ 'autovacuum = off', "cmek.key_cache_ttl = '5min'",
		'restart_after_crash = on', 'fsync = off' ]);
my $second = $node->basedir . '/second_key';
new_key_file($second);
$node->safe_psql('postgres', qq{
	CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second');
	CREATE TABLE t (id int, v text, d int) USING cmek_heap;
	ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, repeat(md5(i::text), 1 + i % 150), i FROM generate_series(1, 600) i;
	ALTER TABLE t DROP COLUMN d});
my $content = 'SELECT count(*), sum(hashtext(v)), sum(id) FROM t WHERE id > 0';
my $expected = $node->safe_psql('postgres', $content);

# How to come to each step, and a question whose answer is before or after
my %step;
$step{$_} = [ 'ALTER TABLE t SET (cmek.key = %KEY)',
	"SELECT key FROM cmek.tables WHERE \"table\" = 't'::regclass" ]
  for qw(switch-generated switch-stored switch-chained switch-rewrapped switch-announced switch-labelled);
$step{$_} = [ 'CALL cmek.rotate_data_key($$t$$)',
	"SELECT count(*) FROM cmek.data_key WHERE relid = 't'::regclass" ]
  for qw(rotate-superseded rotate-made);
$step{$_} = [ 'CALL cmek.reseal($$t$$)', "SELECT count(*) FROM cmek.data_key WHERE relid = 't'::regclass" ]
  for qw(reseal-page reseal-batch reseal-retire reseal-retired);
$step{'rewrite-rows'} = [ 'VACUUM FULL t', "SELECT pg_relation_filenode('t')" ];

sub key_of_t
{
	return $node->safe_psql('postgres', "SELECT key FROM cmek.tables WHERE \"table\" = 't'::regclass");
}

my $round = 0;
for my $name (sort keys %step)
{
	for my $action ('error', 'kill')
	{
		my ($sql, $question) = @{ $step{$name} };
		my $what = "$name, $action";
		my $key = key_of_t() eq 'second' ? 'cmek_service_key' : 'second';
		$sql =~ s/%KEY/'$key'/;
		$node->safe_psql('postgres', 'CALL cmek.rotate_data_key($$t$$)') if $name =~ /^reseal/;
		my $before = $node->safe_psql('postgres', $question);
		my $old = checkpointer($node);

		# a procedure that commits is run by itself, so the setting comes first
		my ($status, undef, $stderr) = $node->psql('postgres', "SET cmek.stop_point = '$name:$action';\n$sql;");
		if ($action eq 'error')
		{
			like($stderr, qr/stopped at "$name"/, "$what: stopped");
		}
		else
		{
			like($stderr, qr/server closed the connection|connection to server was lost/, "$what: killed");
			restarted_since($node, $old) or BAIL_OUT('the server did not restart');
		}
		is($node->safe_psql('postgres', $content), $expected, "$what: nothing is lost");
		is($node->safe_psql('postgres', $question), $before, "$what: as before");
		is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', "$what: verified");
		# neighbours by another session
		$round++;
		is(sqlstate($node, "INSERT INTO t VALUES (-$round, repeat('n', 5000)); UPDATE t SET v = v WHERE id = $round"),
			'', "$what: takes rows");
		is(sqlstate($node, $sql), '', "$what: the next attempt succeeds");
		is($node->safe_psql('postgres', $content), $expected, "$what: nothing is lost after it");
		isnt($node->safe_psql('postgres', $question), $before, "$what: and it did something");
	}
}
is($node->safe_psql('postgres', 'SELECT count(*), bool_and(v = repeat($$n$$, 5000)) FROM t WHERE id < 0'),
	"$round|t", 'the neighbours are whole');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'and verify');
fails_with($node, '42501', 'CREATE ROLE nobody_special LOGIN; SET ROLE nobody_special; SET cmek.stop_point = $$x:kill$$',
	'superusers only');

$node->stop;
done_testing();
