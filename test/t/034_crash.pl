# Immediate stops in the middle of a load, and prepared transactions: what was
# committed is there, whole, and the same as in a plain table of the same
# transactions.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $seed = int(rand(1e9));
note("seed $seed");
srand($seed);
my $node = cmek_node('crash', config => [ 'shared_buffers = 2MB', 'full_page_writes = on', 'checkpoint_timeout = 30s' ]);

$node->safe_psql('postgres', q{
	CREATE TABLE s (id int, t text) USING cmek_heap;
	CREATE TABLE p (id int, t text);
	CREATE PROCEDURE load(first int) LANGUAGE plpgsql AS $$
	DECLARE
		v text;
		row tid;
	BEGIN
		FOR i IN first .. first + 100000 LOOP
			v := repeat(md5(i::text), i % 200);
			INSERT INTO s VALUES (i, v) RETURNING ctid INTO row;
			INSERT INTO p VALUES (i, v);
			IF i % 3 = 0 THEN
				UPDATE s SET t = t || 'u' WHERE ctid = row;
				UPDATE p SET t = t || 'u' WHERE id = i;
			ELSIF i % 11 = 0 THEN
				DELETE FROM s WHERE ctid = row;
				DELETE FROM p WHERE id = i;
			END IF;
			IF i % 7 = 0 THEN
				COMMIT;
			END IF;
		END LOOP;
	END $$});

sub same
{
	my ($when) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM (TABLE s EXCEPT ALL TABLE p) x),
			(SELECT count(*) FROM (TABLE p EXCEPT ALL TABLE s) y)}), '0|0', "$when: sealed and plain are the same");
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('s')"), '0', "$when: verify finds no damage");
	return;
}

my $rows = 0;
for my $round (1 .. 3)
{
	my $load = IPC::Run::start(
		[ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', 'CALL load(' . $round * 1000000 . ')' ],
		'>', \my $out, '2>', \my $err);

	$node->poll_query_until('postgres', "SELECT count(*) > $rows + 300 FROM p") or die 'no rows are loaded';
	$node->safe_psql('postgres', 'CHECKPOINT') if $round == 2;
	select(undef, undef, undef, rand(0.7));
	$node->stop('immediate');
	eval { $load->finish };
	$node->start;
	my $now = $node->safe_psql('postgres', 'SELECT count(*) FROM p');
	cmp_ok($now, '>', $rows + 300, "round $round: committed rows are there");
	$rows = $now;
	same("round $round");
	$node->safe_psql('postgres', 'VACUUM s') if $round == 2;
}

# killed backend instead of a killed server
is($node->safe_psql('postgres', 'SELECT count(*) FROM s') + 0, $rows, 'count(*) is right');
$node->psql('postgres', "BEGIN; INSERT INTO s SELECT -1, repeat('x', 9000) FROM generate_series(1, 50); SELECT pg_terminate_backend(pg_backend_pid())");
same('terminated backend');

# a crash while a rewrite is at work
{
	my $full = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', 'VACUUM FULL s' ],
		'>', \my $out, '2>', \my $err);
	$node->poll_query_until('postgres', "SELECT count(*) > 0 OR true FROM pg_stat_progress_cluster");
	select(undef, undef, undef, rand(0.3));
	$node->stop('immediate');
	eval { $full->finish };
	$node->start;
	same('crash in VACUUM FULL');
	$node->safe_psql('postgres', 'VACUUM FULL s');
	same('VACUUM FULL');
}

# a key switch, a table creation and a binding that never committed
$node->psql('postgres', q{BEGIN; CREATE TABLE half (a int) USING cmek_heap; INSERT INTO half VALUES (1);
	SELECT pg_terminate_backend(pg_backend_pid())});
is($node->safe_psql('postgres', 'SELECT count(*) FROM cmek.data_key d WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.relid)'),
	'0', 'an aborted table leaves no key rows');

# two-phase commit over a crash
$node->safe_psql('postgres', q{
	BEGIN;
	INSERT INTO s SELECT 9000000 + i, repeat('two', i * 100) FROM generate_series(1, 50) i;
	INSERT INTO p SELECT 9000000 + i, repeat('two', i * 100) FROM generate_series(1, 50) i;
	UPDATE s SET t = t || 'x' WHERE id = 1000001;
	UPDATE p SET t = t || 'x' WHERE id = 1000001;
	PREPARE TRANSACTION 'good';
	BEGIN;
	INSERT INTO s SELECT -i, repeat('lost', i * 100) FROM generate_series(1, 50) i;
	CREATE TABLE twophase (a int, t text) USING cmek_heap;
	INSERT INTO twophase VALUES (1, repeat('t', 5000));
	PREPARE TRANSACTION 'table';
	BEGIN;
	INSERT INTO s SELECT -i, repeat('bad', i * 100) FROM generate_series(1, 50) i;
	PREPARE TRANSACTION 'bad'});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '3', 'prepared transactions survive');
$node->safe_psql('postgres', "COMMIT PREPARED 'good'");
$node->safe_psql('postgres', "ROLLBACK PREPARED 'bad'");
$node->safe_psql('postgres', "COMMIT PREPARED 'table'");
is($node->safe_psql('postgres', 'SELECT a, length(t) FROM twophase'), '1|5000', 'a table made in a prepared transaction');
$node->safe_psql('postgres', 'DELETE FROM s WHERE id < 0');
same('two-phase commit');

$node->stop;
done_testing();
