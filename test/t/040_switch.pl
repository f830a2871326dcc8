# Another key under load: a switch touches no row, readers and writers do not
# notice, scans survive it, clones stay apart, and the chain of old keys opens a
# backup from before.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my $node = cmek_node('switch', streaming => 1, config => ['autovacuum = off']);
my $dir = PostgreSQL::Test::Utils::tempdir();
my %file = map { $_ => new_key_file("$dir/$_") } qw(a b c);

$node->safe_psql('postgres', "CREATE SERVER $_ FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{$_}')")
  for qw(a b);
$node->safe_psql('postgres', q{
	CREATE TABLE small (id int, t text) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO small SELECT i, md5(i::text) FROM generate_series(1, 10) i;
	CREATE TABLE big (id int, t text) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, 200000) i;
	CHECKPOINT});
my $rows = 'SELECT count(*), sum(hashtext(t)) FROM big';
my $big = $node->safe_psql('postgres', $rows);

# ---------------------------------------------------------------------
# The time and the WAL of ten rows
# ---------------------------------------------------------------------

# Milliseconds and bytes of WAL of the cheapest of some switches
sub cost
{
	my ($table) = @_;
	my ($ms, $wal) = (1e9, 1e9);

	for my $key (qw(b a b a b a))
	{
		my $before = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
		my $start = time();
		$node->safe_psql('postgres', "ALTER TABLE $table SET (cmek.key = '$key')");
		my $took = 1000 * (time() - $start);
		my $bytes = $node->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() - '$before'::pg_lsn");
		$ms = $took if $took < $ms;
		$wal = $bytes if $bytes < $wal;
	}
	return ($ms, $wal);
}

my $node_before = $node->safe_psql('postgres', "SELECT pg_relation_filenode('big')");
my ($small_ms, $small_wal) = cost('small');
my ($big_ms, $big_wal) = cost('big');
note(sprintf('10 rows: %.1f ms, %d bytes of WAL; 200,000 rows: %.1f ms, %d bytes', $small_ms, $small_wal, $big_ms, $big_wal));
cmp_ok($big_ms, '<', 3 * $small_ms + 20, 'a switch takes the time of a small table');
cmp_ok($big_wal, '<', 65536, 'and little WAL');

# Sequential scans of a table of ours; one of them shows that they are counted
my $scans = "SELECT seq_scan FROM pg_stat_all_tables WHERE relid = 'cmek.table_key'::regclass";
my $scanned = $node->safe_psql('postgres', $scans);
$node->safe_psql('postgres', 'SELECT count(*) FROM cmek.table_key');
ok($node->poll_query_until('postgres', "SELECT ($scans) = $scanned + 1"), 'sequential scans are counted');
$node->safe_psql('postgres', "ALTER TABLE small SET (cmek.key = '$_'); SELECT pg_stat_force_next_flush()") for qw(b a);
is($node->safe_psql('postgres', $scans), $scanned + 1, 'a switch reads no key rows but its own: ten thousand tables are not as many times slower');
is($node->safe_psql('postgres', "SELECT pg_relation_filenode('big')"), $node_before, 'and touches no row');
is($node->safe_psql('postgres', $rows), $big, 'which are all there');

# ---------------------------------------------------------------------
# Readers and writers go on while the switch is open
# ---------------------------------------------------------------------

{
	my $switcher = $node->background_psql('postgres', on_error_stop => 0);
	$switcher->query_safe("BEGIN; ALTER TABLE small SET (cmek.key = 'b')");
	is(sqlstate($node, q{SET lock_timeout = '2s'; INSERT INTO small VALUES (11, 'eleven');
			UPDATE small SET t = 'twelve' WHERE id = 11; SELECT count(*) FROM small; DELETE FROM small WHERE id = 11}),
		'', 'readers and writers do not wait for an open switch');
	fails_with($node, '55P03', q{SET lock_timeout = '100ms'; ALTER TABLE small SET (cmek.key = 'b')}, 'another switch does');
	$switcher->query_safe('COMMIT');
	$switcher->quit;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM small'), '10', 'and what they wrote is there');
	$node->safe_psql('postgres', "ALTER TABLE small SET (cmek.key = 'a')");
}

# pgbench during 100 switches
{
	$node->safe_psql('postgres', q{CREATE TABLE bench (id int, n int) USING cmek_heap WITH (cmek.key = 'a');
		INSERT INTO bench SELECT i, 0 FROM generate_series(1, 100) i});
	my $script = "$dir/bench.sql";
	append_to_file($script, q{\set id random(1, 100)
UPDATE bench SET n = n + 1 WHERE id = :id;
SELECT sum(n) FROM bench;
});
	my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', '10', '-f', $script, '-l',
			'--log-prefix', "$dir/log", '-d', $node->connstr('postgres') ], '<', '/dev/null', '>', "$dir/bench.out", '2>', "$dir/bench.err");
	my $switches = '';
	$switches .= 'ALTER TABLE bench SET (cmek.key = \'' . ($_ % 2 ? 'b' : 'a') . "');\nSELECT pg_sleep(0.02);\n" for 1 .. 100;
	$node->poll_query_until('postgres', 'SELECT sum(n) > 10 FROM bench');
	$node->safe_psql('postgres', $switches);
	my $during = $node->safe_psql('postgres', 'SELECT sum(n) FROM bench');
	# on a slow machine the switches may take longer than pgbench
	while ($bench->pumpable && $node->safe_psql('postgres', 'SELECT sum(n) FROM bench') <= $during + 10)
	{
		sleep(0.1);
	}
	$bench->finish;
	my ($n, $slowest) = (0, 0);
	for my $log (glob("$dir/log.*"))
	{
		for (split /\n/, slurp_file($log))
		{
			my $us = (split / /)[2];
			$n++;
			$slowest = $us if defined $us && $us =~ /^\d+$/ && $us > $slowest;
		}
	}
	note(sprintf('%d transactions, the slowest took %.0f ms', $n, $slowest / 1000));
	cmp_ok($n, '>', 100, 'pgbench ran during 100 switches');
	unlike(slurp_file("$dir/bench.err"), qr/ERROR|abort/i, 'and no transaction failed');
	cmp_ok($slowest, '<', 1e6, 'none took a second');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.key_chain WHERE relid = 'bench'::regclass}), '101', 'all were done');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.verify('bench')}), '0', 'and every row can be read');
}

# ---------------------------------------------------------------------
# A scan survives the switch and the loss of the old key
# ---------------------------------------------------------------------

{
	my $scan = $node->background_psql('postgres', on_error_stop => 0);
	$scan->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT t FROM big; FETCH 10 FROM c');
	$node->safe_psql('postgres', "ALTER TABLE big SET (cmek.key = 'b')");
	hide_key($file{a});
	ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM small'), 'the old key is away');
	is($scan->query('SELECT 1 FROM (SELECT 1) x; MOVE ALL FROM c; SELECT count(*) FROM big'), "1\n200000", 'the scan goes on to its end');
	is($scan->{stderr}, '', 'without an error');
	$scan->quit;
	show_key($file{a});
	ok(wait_for_ok($node, 'SELECT count(*) FROM small'), 'the old key is back');
}

# A switch commits between a reader's look at the binding and the answer of the
# old key's KMS, which is no: the reader looks again.  A command that waits for
# a file is the KMS, and a prepared transaction the switch.
{
	my $command = "while [ ! -e $dir/go ]; do sleep 0.05; done; exit 3";
	$node->safe_psql('postgres', qq{
		CREATE TABLE slow (a int) USING cmek_heap; INSERT INTO slow VALUES (42);
		BEGIN; ALTER TABLE slow SET (cmek.key = 'b'); PREPARE TRANSACTION 'slow';
		ALTER SYSTEM SET cmek.service_key_command = '$command'});
	$node->restart;
	my ($out, $err) = ('', '');
	my $reader = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT a FROM slow' ],
		'<', '/dev/null', '>', \$out, '2>', \$err);
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE query = 'SELECT a FROM slow' AND wait_event_type = 'Extension'}) or BAIL_OUT('the reader does not wait');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'slow'});
	append_to_file("$dir/go", '');
	$reader->finish;
	is($out . $err, "42\n", 'a key that was switched while it was asked for is no error');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET cmek.service_key_command; SELECT pg_reload_conf()');
}

# ---------------------------------------------------------------------
# cmek.switch_key commits after each table, and shows how far it is
# ---------------------------------------------------------------------

{
	$node->safe_psql('postgres', q{CREATE TABLE s1 (a int) USING cmek_heap WITH (cmek.key = 'a');
		CREATE TABLE s2 (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO s2 VALUES (1)});
	$node->safe_psql('postgres', "ALTER TABLE $_ SET (cmek.key = 'b')") for qw(small big bench);
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; LOCK TABLE s2 IN SHARE UPDATE EXCLUSIVE MODE');
	my ($out, $err) = ('', '');
	my $call = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', q{CALL cmek.switch_key('a', 'b')} ],
		'<', '/dev/null', '>', \$out, '2>', \$err);
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM cmek.switch_progress
		WHERE "table" = 's2'::regclass AND tables_done = 1 AND tables_total = 2}), 'the progress can be seen');
	is($node->safe_psql('postgres', q{SELECT key FROM cmek.tables WHERE "table" = 's1'::regclass}), 'b', 'one table is done');
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM cmek.switch_progress');
	$call->finish;
	like($err, qr/canceling statement/, 'it can be stopped');
	$holder->query_safe('COMMIT');
	$holder->quit;
	is($node->safe_psql('postgres', q{SELECT string_agg(key, ' ' ORDER BY "table"::text) FROM cmek.tables
		WHERE "table" IN ('s1'::regclass, 's2'::regclass)}), 'b a', 'what is done stays');
	$node->safe_psql('postgres', q{CALL cmek.switch_key('a', 'b')});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.tables WHERE key = 'a'}), '0', 'and taken up again it comes to its end');
	is($node->safe_psql('postgres', 'SELECT a FROM s2'), '1', 'all can be read');
	# a transaction block is one piece
	fails_with($node, '22012', q{BEGIN; CALL cmek.switch_key('b', 'a'); SELECT 1/0}, 'in a block');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.tables WHERE key = 'a'}), '0', 'nothing is committed');
	$node->safe_psql('postgres', q{DO $$ BEGIN CALL cmek.switch_key('b', 'a'); END $$});
	is($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.tables WHERE key = 'b'}), '0', 'from a DO block');
	$node->safe_psql('postgres', q{DROP TABLE s1, s2, slow});
}

# ---------------------------------------------------------------------
# Clones: the same OIDs and uuids, but keys of their own from then on
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{CREATE DATABASE origin});
$node->safe_psql('origin', "CREATE EXTENSION cmek;
	CREATE SERVER a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{a}');
	CREATE SERVER b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{b}');
	CREATE SERVER c FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{c}');
	CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO t SELECT generate_series(1, 100)");
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE origin');
$node->safe_psql('origin', "ALTER TABLE t SET (cmek.key = 'b')");
$node->safe_psql('clone', "ALTER TABLE t SET (cmek.key = 'c')");
is($node->safe_psql($_, 'SELECT sum(a) FROM t'), '5050', "$_ reads") for qw(origin clone);
is($node->safe_psql($_, 'INSERT INTO t VALUES (1); SELECT sum(a) FROM t'), '5051', "$_ writes") for qw(origin clone);
$node->restart;
is($node->safe_psql($_, 'SELECT sum(a) FROM t'), '5051', "$_ reads after a restart") for qw(origin clone);
# the keys of the clone are no newer keys of the origin
my $foreign = $node->safe_psql('clone', 'SELECT cmek.export_keys()');
fails_with($node, 'XX001', "SELECT cmek.import_keys('$foreign')", 'keys of a clone are not those of its origin', 'origin');
is($node->safe_psql('origin', 'SELECT sum(a) FROM t'), '5051', 'it is as it was');

# ---------------------------------------------------------------------
# A backup from before, with the newest key alone
# ---------------------------------------------------------------------

$node->safe_psql('postgres', q{
	ALTER TABLE big SET (cmek.key = 'a');
	CREATE ROLE tenant LOGIN; GRANT USAGE ON FOREIGN SERVER a, b TO tenant;
	CREATE SCHEMA s AUTHORIZATION tenant; SET ROLE tenant;
	CREATE TABLE s.own (a int, t text) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO s.own SELECT i, repeat('x', 3000) FROM generate_series(1, 10) i});
$node->backup('before');
$node->safe_psql('postgres', q{
	CALL cmek.rotate_table_key('big');
	CALL cmek.switch_key('a', 'b');
	CALL cmek.rotate_table_key('big')});
my $export = $node->safe_psql('postgres', 'SELECT cmek.export_keys()');
my $tenants = $node->safe_psql('postgres', 'SET ROLE tenant; SELECT cmek.export_keys()');
is(scalar(@{ decode_json($tenants)->{tables} }), 1, 'a tenant exports its own keys only');
my ($secret) = map { s/\s//gr } slurp_file($file{a});
unlike($export, qr/$secret/i, 'no KMS key in an export');
$node->stop;
unlink($file{a});

my $old = PostgreSQL::Test::Cluster->new('restored');
$old->init_from_backup($node, 'before');
# init_from_backup may have changed the port only
$old->start;
fails_with($old, 'KM001', 'SELECT count(*) FROM big', 'restored, without the old key: KM001');

# everything that can be forged is refused and changes nothing
sub keys_of
{
	my ($doc, $name) = @_;
	my ($table) = grep { $_->{name} eq $name } @{ $doc->{tables} };

	return $table->{keys};
}

sub forged
{
	my ($name, $forge) = @_;
	my $doc = decode_json($export);

	$doc->{tables} = [ grep { $_->{name} eq 'big' } @{ $doc->{tables} } ];
	$forge->(keys_of($doc, 'big'), $doc->{tables}[0]);
	my $json = JSON::PP->new->canonical->encode($doc);
	return fails_with($old, 'XX001', "SELECT cmek.import_keys(\$j\$$json\$j\$)", "forged: $name");
}

sub flip
{
	my ($text) = @_;

	substr($text, 20, 1) = substr($text, 20, 1) eq 'A' ? 'B' : 'A';
	return $text;
}

my $state = q{SELECT md5(string_agg(x::text, ' ' ORDER BY x::text)) FROM
	(SELECT k::text FROM cmek.table_key k UNION ALL SELECT d::text FROM cmek.data_key d
	 UNION ALL SELECT l::text FROM pg_seclabel l UNION ALL SELECT p::text FROM pg_depend p) x(x)};
my $unchanged = $old->safe_psql('postgres', $state);
my $last = @{ keys_of(decode_json($export), 'big') } - 1;
cmp_ok($last, '>', 8, 'the chain is long');
my $at = $last - 2;
forged('a seal', sub { $_[0][$at]{sealed} = flip($_[0][$at]{sealed}) });
forged('a seal cut off', sub { $_[0][$at]{sealed} = substr($_[0][$at]{sealed}, 0, 40) });
forged('no seal', sub { $_[0][$at]{sealed} = undef });
forged('what sealed it', sub { $_[0][$at]{sealed_by} = $_[0][$at - 1]{id} });
forged('a blob in between', sub { $_[0][$at]{blob} = flip($_[0][$at]{blob}) });
forged('the newest blob', sub { $_[0][$last]{blob} = flip($_[0][$last]{blob}) });
forged('the newest blob, another one', sub { $_[0][$last]{blob} = $_[0][$last - 1]{blob} });
forged('a key id', sub { $_[0][$at]{key_id} .= 'x' });
forged('a key version', sub { $_[0][$at]{key_version} .= 'x' });
forged('an id', sub { $_[0][$at]{id} = $_[0][$at + 1]{id} });
forged('a link left out', sub { splice(@{ $_[0] }, $at, 1) });
forged('two links swapped', sub { @{ $_[0] }[ $at, $at - 1 ] = @{ $_[0] }[ $at - 1, $at ] });
forged('the newest left out', sub { splice(@{ $_[0] }, $last, 1) });
forged('no link', sub { @{ $_[0] } = () });
forged('not base64', sub { $_[0][$at]{blob} = '***' });
forged('no uuid', sub { $_[0][$at]{id} = 'nonsense' });
forged('another table', sub { $_[1]{relid} = 0 + $old->safe_psql('postgres', q{SELECT 's.own'::regclass::oid}) });
is($old->safe_psql('postgres', $state), $unchanged, 'nothing of it changed anything');

fails_with($old, '42501', "SET ROLE tenant; SELECT cmek.import_keys('$export')", 'nobody imports keys of others');
is($old->safe_psql('postgres', "SET ROLE tenant; SELECT cmek.import_keys('$tenants')"), '1', 'the owner imports its own');
is($old->safe_psql('postgres', "SELECT count(*), sum(length(t)) FROM s.own"), '10|30000', 'and reads');
is($old->safe_psql('postgres', "SELECT cmek.import_keys('$export')"), '3', 'the rest');
is($old->safe_psql('postgres', $rows), $big, 'the backup opens with the newest key alone');
is($old->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('big')"), '0', 'all of it');
is($old->safe_psql('postgres', "SELECT count(*) FROM pg_depend WHERE objid = 'big'::regclass AND refclassid = 'pg_foreign_server'::regclass"),
	'1', 'it depends on the new key only');
is($old->safe_psql('postgres', "SELECT DISTINCT key FROM cmek.tables"), 'b', 'and is bound to it');
is($old->safe_psql('postgres', "SELECT cmek.import_keys('$export')"), '0', 'there is nothing more to import');
$old->restart;
is($old->safe_psql('postgres', $rows), $big, 'also after a restart');
$old->safe_psql('postgres', 'CALL cmek.rotate_table_key(\'big\')');
is($old->safe_psql('postgres', $rows), $big, 'and after another rotation');
is_deeply([ files_with($old->data_dir, pack('H*', $secret)) ], [], 'no key in any file');

$old->stop;
done_testing();
