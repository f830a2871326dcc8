# Small file systems that run full, for a tablespace, for the data directory
# with its WAL, for the service key: errors that say so, nothing half-made, and
# everything works once there is room.
#
# run.sh mounts the file systems when it is root: data, space and keys in
# $CMEK_SMALL_FS.

use strict;
use warnings;

use File::Find;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $small = $ENV{CMEK_SMALL_FS} or plan skip_all =>
  $ENV{CMEK_SMALL_FS_WHY} || 'only test/run.sh, run by root, mounts small file systems';

# Fill a file system to the last byte
sub fill
{
	my ($fs) = @_;

	open(my $fh, '>', "$small/$fs/filler") or BAIL_OUT("could not fill $fs: $!");
	for my $len (65536, 4096, 512, 1)
	{
		my $written;
		do { $written = syswrite($fh, "\0" x $len) } while (defined $written && $written == $len);
	}
	close($fh);
	return;
}

sub make_room
{
	my ($fs) = @_;

	unlink("$small/$fs/filler") or BAIL_OUT("could not empty $fs: $!");
	return;
}

# Files below a directory whose names match
sub files_like
{
	my ($dir, $like) = @_;
	my @found;

	File::Find::find({ no_chdir => 1, wanted => sub { push @found, $_ if -f $_ && m/$like/ } }, $dir);
	return sort @found;
}

# ---- The service key's directory is full, then the data directory

my $node = PostgreSQL::Test::Cluster->new('small');
my @extra = ('--wal-segsize', 1, server_major() >= 18 ? ('--no-data-checksums') : ());
$node->init(extra => \@extra);
cmek_config($node, 'autovacuum = off', "cmek.service_key_file = '$small/keys/service_key'", 'restart_after_crash = on',
	"cmek.key_cache_ttl = '5min'", 'min_wal_size = 40MB', 'max_wal_size = 40MB', 'log_error_verbosity = verbose');
# the data directory moves to the small file system
system_or_bail('mv', $node->data_dir, "$small/data/pgdata");
symlink("$small/data/pgdata", $node->data_dir) or BAIL_OUT("no symlink: $!");
$node->start;
# before anything is to be written down about keys, which takes the service key
fill('keys');
$node->safe_psql('postgres', 'CREATE EXTENSION cmek');
my $second = $node->basedir . '/second_key';
new_key_file($second);
$node->safe_psql('postgres', "CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second')");

# room in catalog pages, so that it is not they that run out of it; and no
# TOAST table, whose index needs a page of its own
$node->safe_psql('postgres', join('', map { "CREATE TABLE x$_ (id int, v int);" } (1 .. 40)));
$node->safe_psql('postgres', join('', map { "DROP TABLE x$_;" } (1 .. 39)));
$node->safe_psql('postgres', 'VACUUM; CHECKPOINT');
my $create = 'CREATE TABLE t (id int, v int) USING cmek_heap';
fails_with($node, 'KM001', $create, 'no room for the service key');
ok(wait_for_error($node, 'KM001', $create), 'again');
like(error_text($node, $create), qr/could not write key file.*No space left on device/, 'and said');
is(join(' ', files_like("$small/keys", '.')), "$small/keys/filler", 'no part of a key file is left');
ok(!-e "$small/data/pgdata/cmek_service_key.fingerprint", 'and no fingerprint of a key that is not there');
fill('data');
make_room('keys');
fails_with($node, 'KM001', $create, 'no room for the fingerprint');
like(error_text($node, $create), qr/could not write file.*fingerprint.*No space left on device/, 'and said');
is(join(' ', files_like("$small/data/pgdata", 'fingerprint')), '', 'no part of a fingerprint is left');
my $key = slurp_binary("$small/keys/service_key");
isnt($key, '', 'the key file is there');
is(sqlstate($node, 'SELECT * FROM t'), '42P01', 'the table is not');
make_room('data');
ok(wait_for_ok($node, $create), 'with room the table is made');
is(slurp_binary("$small/keys/service_key"), $key, 'under the same key');
is(join(' ', files_like("$small/keys", '\.tmp$'), files_like("$small/data/pgdata", 'fingerprint.*tmp')), '', 'no temporary file is left');

# ---- No room for key rows, while WAL has some

$node->safe_psql('postgres', q{
	ALTER TABLE t ALTER v TYPE text;
	INSERT INTO t SELECT i, repeat(md5(i::text), i % 100) FROM generate_series(1, 3000) i});
my $content = 'SELECT count(*), sum(hashtext(v)) FROM t';
my $expected = $node->safe_psql('postgres', $content);
my $key_of_t = "SELECT key, table_key_version FROM cmek.tables WHERE \"table\" = 't'::regclass";

sub unharmed
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', $content), $expected, "$name: nothing is lost");
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', "$name: verified");
	return;
}

# what N statements have added to the key rows, for one of them
sub difference
{
	my ($before, $after, $n) = @_;
	my @before = split(/\|/, $before);

	return join('|', map { ($_ - shift(@before)) / $n } split(/\|/, $after));
}

# segments to be used again
$node->safe_psql('postgres', "SELECT pg_logical_emit_message(false, 'x', repeat('x', 700000)), pg_switch_wal()") for (1 .. 40);
$node->safe_psql('postgres', 'CHECKPOINT');
for my $case (
	[ 'switch', sub { "ALTER TABLE t SET (cmek.key = '" . ($_[0] % 2 ? 'second' : 'cmek_service_key') . "')" } ],
	[ 'rotate_table_key', sub { "CALL cmek.rotate_table_key('t')" } ],
	[ 'rotate_data_key', sub { "CALL cmek.rotate_data_key('t')" } ])
{
	my ($name, $sql) = @$case;
	my $done = "SELECT (SELECT count(*) FROM cmek.table_key), (SELECT count(*) FROM cmek.data_key)";
	my $many = join("\n", map { $sql->($_) . ";" } (1 .. 500));
	my ($script) = $node->basedir . "/$name.sql";

	append_to_file($script, $many);
	fill('data');
	my (undef, undef, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n\\i $script", on_error_stop => 1);
	like($stderr, qr/ERROR:  53100: could not extend file.*No space left on device/, "$name: the error says it");
	is(() = $stderr =~ /ERROR:/g, 1, "$name: one error");
	my $rows = $node->safe_psql('postgres', $done);
	unharmed($name);
	# dead rows that were pruned meanwhile may leave room for one: then it is whole
	my $state = $name eq 'switch' ? '53100' : sqlstate($node, $sql->(1));
	my $after = $node->safe_psql('postgres', $done);
	like($state, qr/^(53100)?$/, "$name: fails again, or finds room");
	make_room('data');
	is(sqlstate($node, $sql->($_)), '', "$name: succeeds with room") for (1, 2);
	my $adds = $state ? '0|0' : difference($after, $node->safe_psql('postgres', $done), 2);
	is(difference($rows, $after, 1), $adds, "$name: no key rows but of what was finished");
	unharmed("$name, with room");
}
is($node->safe_psql('postgres', $key_of_t) =~ /^cmek_service_key/, 1, 'the last switch was the last word');

# suspended keys are a file of the data directory
fill('data');
like(error_text($node, "SELECT cmek.suspend_key('second', everywhere => true)"), qr/No space left on device/, 'suspend everywhere: no room');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cmek.suspended_everywhere()'), '0', 'nothing is suspended');
is(join(' ', files_like("$small/data/pgdata", 'cmek_suspended')), '', 'and no part of the file is left');
make_room('data');
is(sqlstate($node, "SELECT cmek.suspend_key('second', everywhere => true); SELECT cmek.resume_key('second', everywhere => true)"),
	'', 'and with room');

# ---- No room for WAL: the server stops, as a stock one does, and recovers

is(sqlstate($node, "CALL cmek.rotate_data_key('t');"), '', 'rotated');
my $offset = -s $node->logfile;
fill('data');
my $panic = 0;
for my $try (1 .. 200)
{
	# psql dies of a connection that is refused
	eval { $node->psql('postgres', "SET client_min_messages = error;\nCALL cmek.reseal('t');") };
	eval { $node->psql('postgres', "CALL cmek.rotate_data_key('t');") };
	last if $panic = slurp_file($node->logfile, $offset) =~ /PANIC:  53100: /;
}
ok($panic, 'reseal: no room for WAL and checkpoints');
make_room('data');
# it may have come back by itself, or not been able to
my $up = 0;
for (1 .. 100)
{
	$up = eval { $node->psql('postgres', 'SELECT 1') == 0 };
	last if $up || !-e $node->data_dir . '/postmaster.pid';
	select(undef, undef, undef, 0.1);
}
if (!$up)
{
	$node->kill9;
	$node->start;
}
unharmed('reseal');
is(sqlstate($node, "CALL cmek.rotate_data_key('t');"), '', 'rotate after recovery');
is(sqlstate($node, "CALL cmek.reseal('t');"), '', 'reseal after recovery');
unharmed('reseal, with room');
is($node->safe_psql('postgres', "SELECT count(*) - count(DISTINCT kind) FROM cmek.data_key WHERE relid = 't'::regclass"), '0',
	'and no old data key is left');
$node->stop;

# ---- A tablespace

$node = cmek_node('tablespace', config => [ 'autovacuum = off', 'cmek.plaintext_indexes = on' ]);
mkdir("$small/space/ts") or BAIL_OUT("no directory: $!");
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$small/space/ts'");
$node->safe_psql('postgres', q{
	SET default_tablespace = small;
	CREATE TABLE t (id int PRIMARY KEY, v text, d int) USING cmek_heap;
	ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, repeat(md5(i::text), 1 + i % 100), i FROM generate_series(1, 2000) i;
	CREATE TABLE p (id int, v text);
	INSERT INTO p SELECT id, v FROM t;
	CREATE MATERIALIZED VIEW m USING cmek_heap AS SELECT * FROM p;
	RESET default_tablespace;
	CREATE TABLE elsewhere (id int, v text) USING cmek_heap;
	INSERT INTO elsewhere SELECT id, v FROM t});
$expected = $node->safe_psql('postgres', $content);
my $copy = $node->basedir . '/rows';
$node->safe_psql('postgres', "COPY (SELECT id + 10000, v, d FROM t, generate_series(1, 3) i WHERE i = 1) TO '$copy'");

# Statements that need room: with what remains of each afterwards undone
my @needs = (
	[ 'INSERT', 'INSERT INTO t SELECT id + 20000, v, d FROM t', 'DELETE FROM t WHERE id > 10000' ],
	[ 'INSERT of a long value', q{INSERT INTO t VALUES (30000, repeat('x', 9000000))}, 'DELETE FROM t WHERE id > 10000' ],
	[ 'COPY', "COPY t FROM '$copy'", 'DELETE FROM t WHERE id > 10000' ],
	[ 'UPDATE', 'UPDATE t SET v = v || id', q{UPDATE t SET v = left(v, -length(id::text))} ],
	[ 'upsert', 'INSERT INTO t SELECT id, v FROM t ON CONFLICT (id) DO UPDATE SET v = t.v || t.id', q{UPDATE t SET v = left(v, -length(id::text))} ],
	[ 'savepoint', q{BEGIN; SAVEPOINT a; INSERT INTO t SELECT id + 20000, v, d FROM t; RELEASE a; COMMIT}, 'DELETE FROM t WHERE id > 10000' ],
	[ 'VACUUM FULL', 'VACUUM FULL t', 'SELECT 1' ],
	[ 'CLUSTER', 'CLUSTER t USING t_pkey', 'SELECT 1' ],
	[ 'ALTER TABLE', 'ALTER TABLE t ALTER d TYPE bigint', 'ALTER TABLE t ALTER d TYPE int' ],
	[ 'SET ACCESS METHOD', 'ALTER TABLE p SET ACCESS METHOD cmek_heap', 'ALTER TABLE p SET ACCESS METHOD heap' ],
	[ 'SET TABLESPACE', 'ALTER TABLE elsewhere SET TABLESPACE small', 'ALTER TABLE elsewhere SET TABLESPACE pg_default' ],
	[ 'CREATE TABLE AS', 'CREATE TABLE c USING cmek_heap TABLESPACE small AS SELECT * FROM t', 'DROP TABLE c' ],
	[ 'REFRESH', 'REFRESH MATERIALIZED VIEW m', 'SELECT 1' ],
	[ 'CREATE INDEX', 'CREATE INDEX i ON t (id, d) TABLESPACE small', 'DROP INDEX i' ]);

for my $need (@needs)
{
	my ($name, $sql, $undo) = @$need;

	$node->safe_psql('postgres', 'VACUUM t; CHECKPOINT');
	$node->safe_psql('postgres', 'VACUUM FULL t; CHECKPOINT');
	my @before = files_like("$small/space/ts", '/\d+$');
	my $keys = $node->safe_psql('postgres', 'SELECT count(*) FROM cmek.data_key');
	fill('space');
	is(sqlstate($node, $sql), '53100', "$name: no room");
	unharmed($name);
	my $elsewhere = $node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM elsewhere), (SELECT count(*) FROM m),
		(SELECT count(*) FROM p), to_regclass('c') IS NULL, to_regclass('i') IS NULL});
	is($elsewhere, '2000|2000|2000|t|t', "$name: nor of the others");
	make_room('space');
	$node->safe_psql('postgres', 'CHECKPOINT');
	is(join("\n", files_like("$small/space/ts", '/\d+$')), join("\n", @before), "$name: no file is left over");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM cmek.data_key'), $keys, "$name: no key row either");
	is(sqlstate($node, $sql), '', "$name: succeeds with room");
	$node->safe_psql('postgres', $undo);
	unharmed("$name, with room");
}

# a reseal needs none
fill('space');
is(sqlstate($node, "CALL cmek.rotate_data_key('t');"), '', 'a rotation needs no room for rows');
is(sqlstate($node, "CALL cmek.reseal('t');"), '', 'nor does a reseal');
unharmed('reseal in a full tablespace');
make_room('space');
$node->stop;
done_testing();
