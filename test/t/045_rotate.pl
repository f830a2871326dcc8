# Rotation: it is committed by itself, whatever becomes of who asked for it;
# neighbours see it; a cold cache opens rows of every generation.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekPages;

my $node = cmek_node('rotate', config => ['autovacuum = off']);
pages_setup($node);
$node->safe_psql('postgres', q{
	CREATE TABLE t (id int, t text) USING cmek_heap;
	ALTER TABLE t ALTER t SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 150) i});
my $digest = 'SELECT count(*), sum(hashtext(t)) FROM t';

sub neighbour_ok
{
	my ($name) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM t');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sqlstate($node, "INSERT INTO t SELECT i, repeat('n', i * 100) FROM generate_series(1, 30) i"), '', "$name: another session writes");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $before + 30, "$name: another session reads");
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', "$name: verify finds no damage");
	return;
}

# rotate, insert, ROLLBACK in the same session, to a savepoint and whole
is(sqlstate($node, q{
	SELECT count(*) FROM t;
	CALL cmek.rotate_data_key('t');
	BEGIN;
	INSERT INTO t SELECT i, repeat('gone', i * 50) FROM generate_series(1, 50) i;
	SAVEPOINT s;
	INSERT INTO t SELECT i, repeat('gone', i * 50) FROM generate_series(1, 50) i;
	ROLLBACK TO s;
	INSERT INTO t SELECT i, repeat('gone', i * 50) FROM generate_series(1, 50) i;
	ROLLBACK}), '', 'rotate, insert, ROLLBACK');
# rows, chunks, statistics: of each the first and the second
is(ids_of_keys($node, 't'), '1 2 3 4 5 6', 'the rotation stays');
neighbour_ok('after ROLLBACK');

# ... and the end of the backend, with rows of the new data key on disk
$node->psql('postgres', q{
	CALL cmek.rotate_data_key('t');
	BEGIN;
	INSERT INTO t SELECT i, repeat('gone', i * 50) FROM generate_series(1, 50) i;
	CHECKPOINT;
	SELECT pg_terminate_backend(pg_backend_pid())});
neighbour_ok('after the end of the backend');

# ... and of the whole server by kill -9
{
	my $session = psql_start($node, q{
		CALL cmek.rotate_data_key('t');
		BEGIN;
		INSERT INTO t SELECT i, repeat('gone', i * 50) FROM generate_series(1, 50) i;
		CHECKPOINT;
		COMMENT ON TABLE t IS 'reached';
		SELECT pg_sleep(600)});
	# -c runs all of it in one transaction: CALL refuses that
	like(psql_done($session), qr/25001/, 'refused in an implicit block');
}
{
	$node->safe_psql('postgres', "CALL cmek.rotate_data_key('t')");
	my $session = psql_start($node, q{
		INSERT INTO t SELECT i, repeat('gone', i * 50) FROM generate_series(1, 50) i;
		CHECKPOINT;
		SELECT pg_sleep(600)});
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") or die;

	$node->stop('immediate');
	psql_done($session);
	$node->start;
	neighbour_ok('after a crash');
}

# A cold cache: the first thing a new server does is to rotate, or to reseal
my $want = $node->safe_psql('postgres', $digest);
$node->restart;
is(sqlstate($node, "CALL cmek.rotate_data_key('t')"), '', 'rotation on a cold cache');
is($node->safe_psql('postgres', $digest), $want, 'the same rows');
$node->restart;
is(sqlstate($node, "CALL cmek.reseal('t')"), '', 'reseal on a cold cache');
is($node->safe_psql('postgres', $digest), $want, 'the same rows');
only_current($node, 't', 'reseal');

# Key away: neither, and nothing changes
hide_key(service_key($node));
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'the key is away');
my $ids = ids_of_keys($node, 't');
fails_with($node, 'KM001', "CALL cmek.rotate_data_key('t')", 'no rotation without a key');
is(ids_of_keys($node, 't'), $ids, 'and no data key');
show_key(service_key($node));
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the key is back');
$node->safe_psql('postgres', "CALL cmek.rotate_data_key('t')");
hide_key(service_key($node));
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'the key is away');
fails_with($node, 'KM001', "CALL cmek.reseal('t')", 'no reseal without a key');
show_key(service_key($node));
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the key is back');
is($node->safe_psql('postgres', $digest), $want, 'the same rows');

# A writer that began before the rotation goes on with its data key; the
# reseal waits for it, and leaves nothing of its rows under the old one
{
	my $writer = psql_start($node, q{
		INSERT INTO t SELECT i, repeat('w', i * 100) FROM generate_series(1, 30) i;
		SELECT pg_advisory_lock(1), pg_advisory_unlock(1);
		INSERT INTO t SELECT i, repeat('w', i * 100) FROM generate_series(1, 30) i});
	# the advisory lock is held by a prepared transaction: it survives its session
	psql_done($writer);
	$node->safe_psql('postgres', "BEGIN; SELECT pg_advisory_xact_lock(2); INSERT INTO t SELECT i, repeat('p', i * 100) FROM generate_series(1, 30) i; PREPARE TRANSACTION 'hold'");
	$node->safe_psql('postgres', "CALL cmek.rotate_data_key('t')");
	my $reseal = psql_start($node, "CALL cmek.reseal('t')");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^CALL cmek.reseal' AND wait_event = 'virtualxid' OR query ~ '^CALL cmek.reseal' AND wait_event = 'transactionid'"),
		'the reseal waits for a prepared transaction that wrote');
	neighbour_ok('while it waits');
	$node->safe_psql('postgres', "COMMIT PREPARED 'hold'");
	is(psql_done($reseal), '', 'then it goes on');
	only_current($node, 't', 'after the writer');
}

# A clone by TEMPLATE has the same data keys; each goes its own way
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE postgres');
$want = $node->safe_psql('postgres', $digest);
$node->safe_psql('clone', "CALL cmek.rotate_data_key('t')");
$node->safe_psql('clone', "CALL cmek.reseal('t')");
is($node->safe_psql('postgres', $digest), $want, 'the original');
is($node->safe_psql('clone', $digest), $want, 'the clone');
is($node->safe_psql('clone', "SELECT count(*) FROM cmek.verify('t')"), '0', 'verify finds no damage in the clone');

$node->stop;
done_testing();
