# Standbys without any key replay everything, cascade, are promoted and are
# whole when the key comes; an old primary follows a new one by pg_rewind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
my %file = map { $_ => new_key_file("$dir/$_.key") } qw(a b);

# A copy of a key file under another name
sub copy_key
{
	my ($from, $to) = @_;

	umask(0077);
	open(my $fh, '>', $to) or BAIL_OUT("could not write $to: $!");
	print $fh slurp_binary($from);
	close($fh);
	return;
}

my $primary = cmek_node('primary', streaming => 1,
	config => [ 'autovacuum = off', 'wal_log_hints = on' ]);
my $key = service_key($primary);

$primary->safe_psql('postgres', qq{
	CREATE SERVER a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{a}');
	CREATE SERVER b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{b}');
	CREATE TABLE t (id int, t text) USING cmek_heap;
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 200) i;
	CREATE TABLE k (id int, t text) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO k TABLE t;
	CREATE TABLE pending (a int, t text) USING cmek_heap;
	CREATE TABLE plain (a int);
	INSERT INTO plain VALUES (1)});
$primary->backup('b');

# ---------------------------------------------------------------------
# blind has no key at all; below it, cascaded, stands one that has
# ---------------------------------------------------------------------

sub standby_of
{
	my ($name, $upstream, $service_key) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$standby->init_from_backup($primary, 'b', has_streaming => 1);
	$standby->enable_streaming($upstream) if $upstream != $primary;
	$standby->append_conf('postgresql.conf', "cmek.service_key_file = '$service_key'\nhot_standby = on\n"
		. "recovery_target_timeline = 'latest'\nwal_retrieve_retry_interval = '100ms'\nwal_receiver_status_interval = '1s'\n");
	$standby->start;
	return $standby;
}

hide_key($file{$_}) for qw(a b);
my $blind = standby_of('blind', $primary, "$dir/blind/service_key");
my $below = standby_of('below', $blind, $key);
show_key($file{$_}) for qw(a b);
# from here on the key files stand for KMSs that the primary and below reach; it
# may have looked for them meanwhile
ok(wait_for_ok($primary, "SELECT 1 / bool_and(ok)::int FROM cmek.check_key('$_')"), "the primary reaches $_") for qw(a b);
ok(wait_for_ok($primary, 'SELECT count(*) FROM k'), '... and reads');

# Every kind of WAL that a sealed table makes, while one standby knows no key
$primary->safe_psql('postgres', $_)
  for split(/;\n/, q{UPDATE t SET t = t || 'u' WHERE id % 2 = 0;
DELETE FROM t WHERE id % 7 = 0;
VACUUM t;
BEGIN; INSERT INTO pending VALUES (1, repeat('p', 9000)); PREPARE TRANSACTION 'later';
CREATE TABLE made (a text) USING cmek_heap; INSERT INTO made SELECT repeat('x', 5000) || i FROM generate_series(1, 20) i;
SET cmek.plaintext_indexes = on; CREATE INDEX ON t (id);
ALTER TABLE k ADD COLUMN v text DEFAULT random()::text;
VACUUM (FULL, FREEZE) k;
CREATE TABLE old (a int) USING cmek_heap; INSERT INTO old VALUES (1); TRUNCATE old; INSERT INTO old VALUES (2);
CREATE TABLE gone (a int) USING cmek_heap; INSERT INTO gone VALUES (1); DROP TABLE gone;
CALL cmek.rotate_data_key('t');
INSERT INTO t SELECT i, repeat('n', i) FROM generate_series(1000, 1100) i;
CALL cmek.reseal('t');
CALL cmek.switch_key('a', 'b');
SELECT cmek.suspend_key('a');
CHECKPOINT});

my $query = q{SELECT 't', count(*), sum(hashtext(x::text)) FROM t x UNION ALL SELECT 'k', count(*), sum(hashtext(x::text)) FROM k x
	UNION ALL SELECT 'made', count(*), sum(hashtext(x::text)) FROM made x UNION ALL SELECT 'old', count(*), sum(a) FROM old
	UNION ALL SELECT 'pending', count(*), sum(hashtext(x::text)) FROM pending x};
my $rows = $primary->safe_psql('postgres', $query);

$primary->wait_for_catchup($blind);
my $lsn = $primary->lsn('write');
$below->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or BAIL_OUT('no cascading');
is($below->safe_psql('postgres', $query), $rows, 'cascaded behind a keyless standby, the same rows');
fails_with($blind, 'KM001', 'SELECT count(*) FROM t', 'the keyless one reads none');
is($blind->safe_psql('postgres', 'SELECT a FROM plain'), '1', 'but the rest');
$blind->restart;
fails_with($blind, 'KM001', 'SELECT count(*) FROM t', 'also after a restart');
ok(!-e "$dir/blind", 'and never makes a key');

# ---------------------------------------------------------------------
# Promoted without a key
# ---------------------------------------------------------------------

hide_key($file{b});
$primary->safe_psql('postgres', 'INSERT INTO plain VALUES (2)');
$primary->wait_for_catchup($blind);
$blind->promote;
is($blind->safe_psql('postgres', 'INSERT INTO plain VALUES (3); SELECT sum(a) FROM plain'), '6', 'promoted without a key: up and writing');
fails_with($blind, 'KM001', 'SELECT count(*) FROM t', 'sealed tables are away');
fails_with($blind, 'KM001', 'INSERT INTO t VALUES (1)', 'for writing, too');
fails_with($blind, 'KM001', 'SELECT count(*) FROM k', 'those of another key likewise');
is(sqlstate($blind, $_), '', "no key needed: $_")
  for 'VACUUM (FREEZE) t', 'TRUNCATE old', "COMMIT PREPARED 'later'", 'CHECKPOINT';

copy_key($key, "$dir/late.key");
show_key($file{b});
$blind->append_conf('postgresql.conf', "cmek.service_key_file = '$dir/late.key'");
$blind->reload;
ok(wait_for_ok($blind, 'SELECT count(*) FROM t'), 'the key arrives, nothing is restarted');
ok(wait_for_ok($blind, 'SELECT count(*) FROM k'), 'nor for the other');
$primary->safe_psql('postgres', "COMMIT PREPARED 'later'; TRUNCATE old");
$rows = $primary->safe_psql('postgres', $query);
is($blind->safe_psql('postgres', $query), $rows, 'what it replayed blindly is the same, to the row');
is($blind->safe_psql('postgres', "SELECT count(*) FROM unnest('{t,k,made,old,pending}'::regclass[]) r, cmek.verify(r)"), '0', 'and all of it opens');
is($blind->safe_psql('postgres', q{SET enable_seqscan = off; SELECT length(t) FROM t WHERE id = 1050}), '1050', 'indexes fit');
is($blind->safe_psql('postgres', q{SELECT state FROM cmek.keys WHERE name = 'a'}), 'suspended', 'a suspension survives');

# the one below follows the promoted one, onto its timeline
$blind->safe_psql('postgres', q{INSERT INTO t VALUES (9999, 'promoted'); CREATE TABLE fresh (a text) USING cmek_heap; INSERT INTO fresh VALUES ('new')});
$lsn = $blind->lsn('write');
ok($below->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'"), 'the cascaded one follows');
is($below->safe_psql('postgres', 'SELECT t.t, a FROM t, fresh WHERE id = 9999'), 'promoted|new', 'and reads');
is($below->safe_psql('postgres', $query), $blind->safe_psql('postgres', $query), 'everything');

# ---------------------------------------------------------------------
# The old primary diverged; pg_rewind
# ---------------------------------------------------------------------

$primary->safe_psql('postgres', q{UPDATE t SET t = 'diverged'; CREATE TABLE diverged (a int) USING cmek_heap;
	INSERT INTO diverged VALUES (1); CALL cmek.rotate_table_key('k')});
$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('k')");
$primary->safe_psql('postgres', q{INSERT INTO k (id, t) SELECT i, repeat('d', 9000) FROM generate_series(1, 20) i; CHECKPOINT});
$primary->stop;
my $config = slurp_file($primary->data_dir . '/postgresql.conf');
command_ok([ 'pg_rewind', '--source-server', $blind->connstr('postgres'), '-D', $primary->data_dir, '--no-sync' ], 'pg_rewind');
open(my $fh, '>', $primary->data_dir . '/postgresql.conf') or die $!;
print $fh $config;
close($fh);
$primary->enable_streaming($blind);
$primary->set_standby_mode;
$primary->start;
$blind->safe_psql('postgres', q{INSERT INTO t VALUES (8888, 'after the rewind')});
$lsn = $blind->lsn('write');
ok($primary->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'"), 'the old primary follows');
is($primary->safe_psql('postgres', $query), $blind->safe_psql('postgres', $query), 'with the rows of the new one');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM t WHERE t = 'diverged'}), '0', 'and none of its own');
is($primary->safe_psql('postgres', "SELECT count(*) FROM unnest('{t,k,made,fresh}'::regclass[]) r, cmek.verify(r)"), '0', 'all of it opens');

$_->stop for $primary, $below, $blind;
done_testing();
