# SET ACCESS METHOD takes the indexes along: nothing of the old files stays in
# clear, whatever ends the transaction, and two sessions do not meet half of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('indexconvert', config => [ 'autovacuum = off', 'max_wal_size = 1GB' ]);
my $marker = 'convertedmarker';

# The files of the database that hold the marker, by the name of the relation
sub holding
{
	my @files;

	$node->safe_psql('postgres', 'CHECKPOINT');
	for my $line (split(/\n/, $node->safe_psql('postgres', q{SELECT relname, pg_relation_filepath(oid) FROM pg_class
		WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') ORDER BY 1})))
	{
		my ($name, $path) = split(/\|/, $line);

		push @files, $name if index(slurp_binary($node->data_dir . "/$path"), $marker) >= 0;
	}
	return join(' ', @files);
}

# All files of the database, dropped ones too
sub anywhere
{
	my $base = $node->safe_psql('postgres', q{SELECT 'base/' || oid FROM pg_database WHERE datname = 'postgres'});

	$node->safe_psql('postgres', 'CHECKPOINT');
	return scalar grep { -f $_ && index(slurp_binary($_), $marker) >= 0 } glob($node->data_dir . "/$base/*");
}

$node->safe_psql('postgres', qq{
	CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b text);
	CREATE INDEX t_b ON t (lower(b)) WHERE id > 0;
	INSERT INTO t SELECT i, '$marker a' || i, '$marker b' || i FROM generate_series(1, 500) i});
is(holding(), 't t_a_key t_b', 'control: table and indexes hold it');

# an error after the rewrite brings everything back
fails_with($node, '22012', 'BEGIN; ALTER TABLE t SET ACCESS METHOD cmek_heap; SELECT 1 / 0', 'an error on the way');
is(holding(), 't t_a_key t_b', 'all is as it was');
is($node->safe_psql('postgres', "SET enable_seqscan = off; SELECT id FROM t WHERE a = '$marker a77'"), '77', 'and works');

$node->safe_psql('postgres', 'ALTER TABLE t SET ACCESS METHOD cmek_heap');
is(holding(), '', 'sealed: none of them does');
is(anywhere(), 0, 'nor does any other file of the database');
my $found = "SET enable_seqscan = off; SELECT id FROM t WHERE a = '$marker a77'; SELECT count(*) FROM t WHERE lower(b) = '$marker b78' AND id > 0";
is($node->safe_psql('postgres', $found), "77\n1", 'the indexes find rows');
for my $statement ('REINDEX TABLE t', 'REINDEX TABLE CONCURRENTLY t', 'VACUUM FULL t', 'CLUSTER t USING t_a_key',
	'ALTER TABLE t ADD c int DEFAULT random()', 'ALTER TABLE t ALTER id TYPE bigint', 'ALTER TABLE t ALTER a TYPE varchar(50)',
	'ALTER TABLE t SET UNLOGGED', 'ALTER TABLE t SET LOGGED', 'CREATE INDEX CONCURRENTLY t_c ON t (a, b)', 'CREATE UNIQUE INDEX t_d ON t (b DESC)')
{
	$node->safe_psql('postgres', $statement);
	is(anywhere(), 0, "$statement: no file holds it");
	is($node->safe_psql('postgres', $found), "77\n1", "$statement: rows are found");
}

# crash and restart: what was committed is what it was
$node->safe_psql('postgres', qq{BEGIN; ALTER TABLE t SET ACCESS METHOD heap; ROLLBACK; INSERT INTO t (id, a, b) VALUES (1000, '$marker', '$marker')});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $found), "77\n1", 'after a crash rows are found');
is(sqlstate($node, qq{INSERT INTO t (id, a, b) VALUES (1000, 'x', 'x')}), '23505', 'and unique keys are known');

# prepared by one session, converted by another
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe('SET enable_seqscan = off; PREPARE q AS SELECT id FROM t WHERE a = $1');
$session->query_safe("EXECUTE q('$marker a5')") for 1 .. 6;
$node->safe_psql('postgres', 'ALTER TABLE t SET ACCESS METHOD heap');
is($session->query_safe("EXECUTE q('$marker a5')"), '5', 'another session meets a plain index');
is(holding(), 't t_a_key t_b t_c t_d', 'in clear again');
$node->safe_psql('postgres', 'ALTER TABLE t SET ACCESS METHOD cmek_heap');
is($session->query_safe("EXECUTE q('$marker a5')"), '5', 'and a sealed one');
$session->query_safe("INSERT INTO t (id, a, b) VALUES (2000, '$marker session', 'x') ON CONFLICT (a) DO NOTHING");
is($node->safe_psql('postgres', "SET enable_seqscan = off; SELECT id FROM t WHERE a = '$marker session'"), '2000', 'and writes to it');
$session->quit;
is(anywhere(), 0, 'sealed again');

$node->stop;
done_testing();
