# Reseal while others read and write, on the primary and on a hot standby:
# nobody sees an error, nothing of the old data keys is left.  Stopped in the
# middle, and crashed in the middle, it goes on where it was.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekPages;

my $rounds = $ENV{CMEK_TEST_ROUNDS} || 5;
my $primary = cmek_node('primary', streaming => 1,
	config => [ 'autovacuum_naptime = 1s', 'shared_buffers = 8MB', 'log_error_verbosity = verbose',
		"cmek.key_cache_ttl = '5min'", "cmek.plaintext_indexes = on" ]);
pages_setup($primary);
$primary->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int, sum text, l text) USING cmek_heap WITH (fillfactor = 70);
	ALTER TABLE t ALTER l SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, 0, md5(i || ' 0'), repeat(md5(i::text), (i % 100) * 4) FROM generate_series(1, 4000) i;
	-- every row says itself whether it is right
	CREATE FUNCTION check_rows() RETURNS int8 LANGUAGE sql AS $$
		SELECT count(1 / CASE WHEN sum = md5(id || ' ' || v) AND l = repeat(md5(id::text), (id % 100) * 4) THEN 1 ELSE 0 END) FROM t $$});
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf',
	"hot_standby = on\nhot_standby_feedback = on\nmax_standby_streaming_delay = -1\ncmek.service_key_file = '" . service_key($primary) . "'\n");
$standby->start;

my $tmp = PostgreSQL::Test::Utils::tempdir();
sub script
{
	my ($name, $text) = @_;
	open(my $fh, '>', "$tmp/$name") or die $!;
	print $fh $text;
	close($fh);
	return "$tmp/$name";
}
my $write = script('write', q{
\set id random(1, 4000)
\set new random(4001, 9000)
UPDATE t SET v = v + 1, sum = md5(id || ' ' || v + 1) WHERE id = :id;
UPDATE t SET v = v + 1, sum = md5(id || ' ' || v + 1), l = repeat(md5(id::text), (id % 100) * 4) WHERE id = :id;
INSERT INTO t VALUES (:new, 0, md5(:new || ' 0'), repeat(md5(:new::text), (:new % 100) * 4)) ON CONFLICT (id) DO UPDATE SET v = t.v + 1, sum = md5(t.id || ' ' || t.v + 1);
DELETE FROM t WHERE id = :new + 1;
});
my $read = script('read', q{
\set id random(1, 4000)
SELECT 1 / CASE WHEN sum = md5(id || ' ' || v) AND l = repeat(md5(id::text), (id % 100) * 4) THEN 1 ELSE 0 END FROM t WHERE id = :id;
});
my $scan = script('scan', "SELECT check_rows();\n");

sub bench
{
	my ($node, $seconds, @options) = @_;
	my %run = (out => '', err => '');

	$run{h} = IPC::Run::start([ 'pgbench', '-n', '-T', $seconds, @options, $node->connstr('postgres') ],
		'>', \$run{out}, '2>', \$run{err});
	return \%run;
}

# Readers and writers, all the time; reseal again and again
{
	my $seconds = $rounds * 4;
	my @load = (
		bench($primary, $seconds, '-c', 2, '-f', $write),
		bench($primary, $seconds, '-c', 2, '-f', "$read\@20", '-f', "$scan\@1"),
		bench($standby, $seconds, '-c', 2, '-f', "$read\@20", '-f', "$scan\@1"));
	my $resealed = 0;
	my $until = time() + $seconds - 2;

	while (time() < $until)
	{
		my ($status, undef, $err) = $primary->psql('postgres', "CALL cmek.rotate_data_key('t');");
		is("$status $err", '0 ', 'rotation under load') if $status;
		($status, undef, $err) = $primary->psql('postgres', "SET client_min_messages = warning; CALL cmek.reseal('t')");
		like("$status $err", qr/^0 $/, 'reseal under load') if $status || $err ne '';
		$resealed++;
	}
	cmp_ok($resealed, '>', 2, "resealed $resealed times under load");
	my $i = 0;
	for my $run (@load)
	{
		my $name = ('writers', 'readers', 'readers of the standby')[ $i++ ];
		eval { $run->{h}->finish };
		unlike($run->{err}, qr/error|abort/i, "$name see no error");
		like($run->{out}, qr/number of transactions actually processed: [1-9]/, "$name have worked");
		note("$name: $1") if $run->{out} =~ /(number of transactions actually processed: \d+)/;
	}
}
$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('t')");
$primary->safe_psql('postgres', "CALL cmek.reseal('t')");
only_current($primary, 't', 'after the load');
my $digest = 'SELECT count(*), sum(hashtext(t::text)), check_rows() FROM t';
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $digest), $primary->safe_psql('postgres', $digest), 'the standby has the same rows');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'and finds no damage');
unlike(slurp_file($_->logfile), qr/XX001|damaged|PANIC|TRAP/, $_->name . ': no word of damage in the log') for ($primary, $standby);
$standby->stop;

# Torn reads: one page whose rows are resealed over and over, and readers that
# do nothing but open them
$primary->safe_psql('postgres', q{
	CREATE TABLE torn (id int, a text) USING cmek_heap;
	ALTER TABLE torn ALTER a SET STORAGE PLAIN;
	INSERT INTO torn VALUES (1, repeat(md5('1'), 240));
	CREATE TABLE torn_toast (id int, a text) USING cmek_heap;
	ALTER TABLE torn_toast ALTER a SET STORAGE EXTERNAL;
	INSERT INTO torn_toast VALUES (1, repeat(md5('1'), 240))});
{
	my @load;
	for my $table ('torn', 'torn_toast')
	{
		my $file = script($table, qq{
			SELECT 1 / (count(*) - 1999) FROM generate_series(1, 2000) g,
			LATERAL (SELECT a FROM $table WHERE id > g - g OFFSET 0) x WHERE a = (SELECT repeat(md5('1'), 240));
		});
		push @load, bench($primary, 10, '-c', 1, '-f', $file);
	}
	my $cycles = script('cycles', join('', map { "CALL cmek.rotate_data_key('$_');\nCALL cmek.reseal('$_');\n" } 'torn', 'torn_toast'));
	my $reseals = bench($primary, 9, '-c', 1, '-f', $cycles);
	for my $run ($reseals, @load)
	{
		eval { $run->{h}->finish };
		unlike($run->{err}, qr/error|abort/i, 'no torn row');
		note($1) if $run->{out} =~ /(number of transactions actually processed: \d+)/;
	}
	only_current($primary, $_, $_) for ('torn', 'torn_toast');
}

# Stopped in the middle, in the heap: a part is done and stays, and the next
# call goes on
$primary->safe_psql('postgres', q{
	CREATE TABLE big (id int, t text, l text) USING cmek_heap;
	ALTER TABLE big ALTER l SET STORAGE EXTERNAL;
	INSERT INTO big SELECT i, repeat(md5(i::text), 30), CASE WHEN i % 10 = 0 THEN repeat(md5(i::text), 200) END
	FROM generate_series(1, 8000) i});
$digest = 'SELECT count(*), sum(hashtext(big::text)) FROM big';
my $want = $primary->safe_psql('postgres', $digest);
$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('big')");

sub left
{
	my $current = current_ids($primary, 'big');
	return $primary->safe_psql('postgres', "SELECT coalesce(sum(n), 0) FROM all_dek_ids('big') WHERE NOT id = ANY (string_to_array('$current', ' ')::int8[])");
}
my $all = left();
cmp_ok($all, '>', 8000, "$all tuples are old");
fails_with($primary, '57014', "SET cmek.reseal_delay = '1min'; SET statement_timeout = '2s'; CALL cmek.reseal('big');", 'stopped by statement_timeout');
my $part = left();
cmp_ok($part, '<', $all, "$part are left");
cmp_ok($part, '>', 0, 'but not all of them are done');
is($primary->safe_psql('postgres', $digest), $want, 'the same rows');

# Progress, and a crash
{
	my $session = psql_start($primary, "CALL cmek.reseal('big')");
	psql_done($session);
	only_current($primary, 'big', 'went on');
	$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('big')");
	local $ENV{PGOPTIONS} = '-c cmek.reseal_delay=1000';
	$session = psql_start($primary, "CALL cmek.reseal('big')");
	delete $ENV{PGOPTIONS};
	ok($primary->poll_query_until('postgres',
			q{SELECT count(*) = 1 FROM cmek.reseal_progress WHERE "table" = 'big'::regclass AND phase = 'resealing' AND blocks_done >= 256 AND blocks_total > blocks_done}),
		'progress is seen over batches');
	is(sqlstate($primary, "INSERT INTO big VALUES (-1, 'x'); DELETE FROM big WHERE id = -1; ALTER TABLE big ADD COLUMN extra int; ALTER TABLE big DROP COLUMN extra"), '', 'between batches others alter the table');
	$primary->stop('immediate');
	psql_done($session);
	$primary->start;
}
$part = left();
cmp_ok($part, '<', $all, "after a crash $part tuples are left");
cmp_ok($part, '>', 0, 'but not all of them are done');
is($primary->safe_psql('postgres', $digest), $want, 'the same rows');
is($primary->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('big')"), '0', 'verify finds no damage');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM cmek.reseal_progress'), '0', 'nobody is at work');
$primary->safe_psql('postgres', "CALL cmek.reseal('big')");
only_current($primary, 'big', 'gone on after the crash');

# A rewrite between two batches moves rows to where the pass has been
{
	$primary->safe_psql('postgres', 'DELETE FROM big WHERE id % 2 = 0');
	$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('big')");
	local $ENV{PGOPTIONS} = '-c cmek.reseal_delay=1500';
	my $session = psql_start($primary, "CALL cmek.reseal('big')");
	delete $ENV{PGOPTIONS};
	$primary->poll_query_until('postgres', 'SELECT count(*) = 1 FROM cmek.reseal_progress WHERE blocks_done >= 128') or die;
	$want = $primary->safe_psql('postgres', $digest);
	$primary->safe_psql('postgres', 'VACUUM FULL big');
	is(psql_done($session), '', 'a rewrite between batches');
	only_current($primary, 'big', 'rewrite');
	is($primary->safe_psql('postgres', $digest), $want, 'the same rows');
}

# ... and a table that goes away
{
	$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('big')");
	local $ENV{PGOPTIONS} = '-c cmek.reseal_delay=1000';
	my $session = psql_start($primary, "CALL cmek.reseal('big')");
	delete $ENV{PGOPTIONS};
	$primary->poll_query_until('postgres', 'SELECT count(*) = 1 FROM cmek.reseal_progress WHERE blocks_done >= 128') or die;
	$primary->safe_psql('postgres', 'DROP TABLE big');
	is(psql_done($session), '', 'DROP TABLE between batches');
}

# A damaged row stays as it is, keeps its data key, and is told
{
	$primary->safe_psql('postgres', q{CREATE TABLE dmg (a int) USING cmek_heap; INSERT INTO dmg SELECT generate_series(1, 10)});
	my $old = current_ids($primary, 'dmg');
	my $file = $primary->data_dir . '/' . $primary->safe_psql('postgres', "SELECT pg_relation_filepath('dmg')");
	$primary->safe_psql('postgres', "CALL cmek.rotate_data_key('dmg')");
	$primary->stop;
	my $bytes = slurp_binary($file);
	substr($bytes, 8192 - 20, 1) ^= "\x01";
	spew_binary($file, $bytes);
	$primary->start;
	my (undef, undef, $err) = $primary->psql('postgres', "CALL cmek.reseal('dmg')");
	like($err, qr/WARNING:  1 rows or chunks of table "dmg" are damaged or forged/, 'a damaged row is told');
	my ($h) = split / /, $old;
	like(ids_of_keys($primary, 'dmg'), qr/^$h /, 'its data key is kept');
	is($primary->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('dmg')"), '1', 'verify says the same as before');
	my $others = join(',', map { "\"(0,$_)\"" } 2 .. 10);
	is($primary->safe_psql('postgres', "SELECT sum(a) FROM dmg WHERE ctid = ANY ('{$others}')"), '54', 'the others are good');
}

$primary->stop;
done_testing();
