# A marker planted in a sealed table is in no file under the data directory
# and not in shared memory; the same search finds the marker of a plain table.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $seed = int(rand(1e9));
note("seed $seed");
my %marker = (
	plain => "PLAINmarker${seed}inclear",
	sealed => "SEALEDmarker${seed}incipher");
my %am = (plain => 'heap', sealed => 'cmek_heap');

# sysv: a segment that any process of this user can attach and read
my $node = cmek_node('leak', config => [
		'shared_memory_type = sysv', 'shared_buffers = 16MB',
		'autovacuum = off', 'wal_level = replica', 'full_page_writes = on']);
my $data = $node->data_dir;

# Where a marker is: base/, pg_wal/ or the name of the file
sub places
{
	my ($marker) = @_;
	my %seen;

	for (files_with($data, $marker))
	{
		$seen{ m{^(base|pg_wal)/} ? $1 : $_ } = 1;
	}
	return join(' ', sort keys %seen);
}

sub both
{
	my ($sql) = @_;

	for my $kind (qw(plain sealed))
	{
		my $q = $sql;
		my $m = with_marker($marker{$kind});
		$q =~ s/KIND/$kind/g;
		$q =~ s/MARKER/$m/g;
		$q =~ s/AM\b/$am{$kind}/g;
		$node->safe_psql('postgres', $q);
	}
	return;
}

# The search, after the buffers went to disk
sub no_leak
{
	my ($when, $control, $down) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->safe_psql('postgres', 'CHECKPOINT') unless $down;
	is(places($marker{plain}), $control, "$when: control is found");
	is(places($marker{sealed}), '', "$when: sealed marker is nowhere");
	return;
}

# Read the server's shared memory segment
sub shared_memory
{
	my @lines = split /\n/, slurp_binary("$data/postmaster.pid");
	my (undef, $id) = split ' ', $lines[6];
	my $all = '';
	my $part;

	for (my $pos = 0; shmread($id, $part, $pos, 65536); $pos += 65536)
	{
		$all .= $part;
	}
	return $all;
}

sub rows_with_markers
{
	my ($kind) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM ${kind}_t WHERE short LIKE '%' || "
		  . with_marker($marker{$kind}) . " || '%'");
}

# heap and TOAST: short, stored out of line as it is, compressed
both('CREATE TABLE KIND_t (id int, short text, long text, zip text) USING AM;
	ALTER TABLE KIND_t ALTER long SET STORAGE EXTERNAL;
	INSERT INTO KIND_t SELECT i, MARKER, repeat(MARKER, 300), repeat(MARKER, 3000) FROM generate_series(1, 50) i');
no_leak('INSERT', 'base pg_wal');
cmp_ok(rows_with_markers('sealed'), '==', 50, 'the sealed marker is there to be found');

both(q{UPDATE KIND_t SET short = short || 'u', long = long || 'u' WHERE id % 2 = 0;
	DELETE FROM KIND_t WHERE id % 5 = 0});
no_leak('UPDATE and DELETE', 'base pg_wal');

my $copy = PostgreSQL::Test::Utils::tempdir() . '/copy';
both("COPY (SELECT i, MARKER || i, repeat(MARKER, 400) FROM generate_series(1, 2000) i) TO '$copy.KIND';
	COPY KIND_t (id, short, long) FROM '$copy.KIND'");
no_leak('COPY', 'base pg_wal');

both('ANALYZE KIND_t; VACUUM KIND_t; SELECT count(*) FROM KIND_t WHERE long = MARKER');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stats WHERE tablename = 'plain_t'") > 0, 1,
	'the plain table has statistics');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stats WHERE tablename = 'sealed_t'"), '0',
	'the sealed table has none');
no_leak('ANALYZE and VACUUM', 'base pg_wal');

both('VACUUM FULL KIND_t');
no_leak('VACUUM FULL', 'base pg_wal');

both(q{CREATE TABLE KIND_ctas USING AM AS SELECT * FROM KIND_t WHERE id < 100;
	CREATE MATERIALIZED VIEW KIND_mv USING AM AS SELECT id, short FROM KIND_t;
	REFRESH MATERIALIZED VIEW KIND_mv;
	ALTER TABLE KIND_ctas ALTER id TYPE text, ADD COLUMN v text DEFAULT random()::text;
	CREATE UNLOGGED TABLE KIND_unl (t text) USING AM;
	INSERT INTO KIND_unl SELECT MARKER FROM generate_series(1, 1000)});
# the files of temporary tables live no longer than their session, so it is
# the session that searches (psql's \!: no query text of the server's)
for my $kind (qw(plain sealed))
{
	my $found = PostgreSQL::Test::Utils::tempdir() . '/found';
	my $m = with_marker($marker{$kind});
	$node->safe_psql('postgres', qq{SET temp_buffers = '800kB';
		CREATE TEMP TABLE tmp (t text) USING $am{$kind};
		INSERT INTO tmp SELECT repeat($m, 20) || i FROM generate_series(1, 8000) i;
		\\! grep -rlaF $marker{$kind} $data/base/*/t* > $found});
	(my $hits = slurp_binary($found)) =~ s/\s+$//;
	($kind eq 'plain' ? \&isnt : \&is)->($hits, '', "temporary table, $kind");
}
both(q{BEGIN; INSERT INTO KIND_t (short) SELECT MARKER FROM generate_series(1, 100); ROLLBACK;
	BEGIN; INSERT INTO KIND_t (short, long) SELECT MARKER, repeat(MARKER, 500); PREPARE TRANSACTION 'KIND'});
no_leak('rewrites, views, unlogged, prepared', 'base pg_wal');
both(q{COMMIT PREPARED 'KIND'});

# a table sealed later: its old file and WAL are PostgreSQL's to recycle, so
# this has a marker of its own and asks only for the live files
$node->safe_psql('postgres', 'CREATE TABLE later (t text); INSERT INTO later SELECT '
	  . with_marker("LATER$seed") . ' FROM generate_series(1, 100)');
my $old = $node->safe_psql('postgres', "CHECKPOINT; SELECT pg_relation_filepath('later')");
like(slurp_binary("$data/$old"), qr/LATER$seed/, 'in clear before SET ACCESS METHOD');
$node->safe_psql('postgres', 'ALTER TABLE later SET ACCESS METHOD cmek_heap; CHECKPOINT');
is(join(' ', grep { m{^base/} } files_with($data, "LATER$seed")), '',
	'no live file holds it after SET ACCESS METHOD');

# shared memory: the rows of both are in shared buffers now
$node->safe_psql('postgres', "SELECT count(short), (SELECT sum(length(long)) FROM (SELECT long FROM $_ LIMIT 100) x) FROM $_")
  for qw(plain_t sealed_t);
my $memory = shared_memory();
cmp_ok(length($memory), '>', 16 * 1024 * 1024, 'the shared segment was read');
isnt(index($memory, $marker{plain}), -1, 'shared memory holds the plain marker');
is(index($memory, $marker{sealed}), -1, 'shared memory does not hold the sealed one');
undef $memory;

# a crash in the middle of writes, before and after recovery
both('INSERT INTO KIND_t (short, long) SELECT MARKER, repeat(MARKER, 300) FROM generate_series(1, 500)');
$node->stop('immediate');
no_leak('crash', 'base pg_wal', 'down');
$node->start;
no_leak('recovery', 'base pg_wal');
cmp_ok(rows_with_markers('sealed'), '==', rows_with_markers('plain'), 'both tables hold the same');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('sealed_t')"), '0', 'nothing is damaged');

$node->stop;
is(places($marker{sealed}), '', 'clean shutdown: sealed marker is nowhere');

done_testing();
