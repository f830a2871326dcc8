# Sealed indexes: a marker that is an index key is in no file of the server, not
# in WAL, not in what a sort spills; flipped bytes of an index page never give a
# wrong value; a standby scans; a crash leaves what was committed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $seed = $ENV{CMEK_TWIN_SEED} || int(rand(1e9));
note("seed $seed");
srand($seed);
my %marker = (plain => "PLAINmarker${seed}inclear", sealed => "SEALEDmarker${seed}incipher");
my %am = (plain => 'heap', sealed => 'cmek_heap');
my $node = cmek_node('btleak', streaming => 1, config => [
		'autovacuum = off', 'shared_buffers = 16MB', 'hot_standby_feedback = on' ]);
my $data = $node->data_dir;

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

# ---------- markers ----------

my $copy = PostgreSQL::Test::Utils::tempdir() . '/found';
for my $kind (qw(plain sealed))
{
	my $m = with_marker($marker{$kind});
	# the sort of the index spills: what a session has open is seen by itself
	$node->safe_psql('postgres', qq{
		CREATE TABLE ${kind}_t (id int, k text, long text) USING $am{$kind};
		INSERT INTO ${kind}_t SELECT i, $m || i % 7919, repeat($m, 20) FROM generate_series(1, 40000) i;
		SET maintenance_work_mem = '1MB';
		CREATE INDEX ON ${kind}_t (k) INCLUDE (long);
		CREATE UNIQUE INDEX ON ${kind}_t (id, k);
		CREATE INDEX ON ${kind}_t (upper(k) text_pattern_ops) WHERE id < 20000;
		UPDATE ${kind}_t SET k = k || 'u' WHERE id % 50 = 0;
		DELETE FROM ${kind}_t WHERE id % 70 = 0;
		VACUUM ${kind}_t;
		REINDEX TABLE ${kind}_t;
		CHECKPOINT});
}
is(places($marker{plain}), 'base pg_wal', 'the plain marker is found');
is(places($marker{sealed}), '', 'the sealed marker is nowhere');

# what a sort has spilled, while it is at work: its comparison function looks
$node->safe_psql('postgres', qq{
	CREATE FUNCTION spill_cmp(text, text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT bttextcmp(\$1, \$2)';
	CREATE TABLE spill_found (what text, n int);
	CREATE FUNCTION spill_look(marker text, key text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS \$\$
	DECLARE
		found int := 0;
		file text;
	BEGIN
		IF key LIKE '%39999' THEN
			FOR file IN SELECT 'base/pgsql_tmp/' || name FROM pg_ls_tmpdir() LOOP
				found := found + 1000;
				found := found + (position(convert_to(reverse(marker), 'UTF8') IN pg_read_binary_file(file)) > 0)::int;
			END LOOP;
			RAISE WARNING 'spilled %', found;
		END IF;
		RETURN key;
	END\$\$});
for my $kind (qw(plain sealed))
{
	my (undef, undef, $stderr) = $node->psql('postgres', qq{
		CREATE TABLE spill_$kind (k text) USING $am{$kind};
		INSERT INTO spill_$kind SELECT } . with_marker($marker{$kind}) . qq{ || i FROM generate_series(1, 40000) i;
		SET maintenance_work_mem = '1MB';
		SET max_parallel_maintenance_workers = 0;
		CREATE INDEX spill_i_$kind ON spill_$kind (spill_look('} . reverse($marker{$kind}) . qq{', k));
		SET enable_indexscan = off;
		DO 'BEGIN RAISE WARNING \$a\$next\$a\$; END';
		CLUSTER spill_$kind USING spill_i_$kind});
	my @part = split(/WARNING:  next/, $stderr);
	for my $what ('a build', 'CLUSTER')
	{
		# of CLUSTER the first: the index is built anew in the end
		my ($spilled) = (shift(@part) // '') =~ /spilled (\d+)/;

		cmp_ok($spilled || 0, '>=', 1000, "$kind: the sort of $what had spilled");
		is(($spilled || 0) % 1000 > 0 ? 1 : 0, $kind eq 'plain' ? 1 : 0, "$kind: marker in what $what spilled");
	}
}
$node->safe_psql('postgres', 'DROP TABLE spill_plain, spill_sealed');

# ---------- a standby ----------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('btstandby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf', "cmek.service_key_file = '" . service_key($node) . "'");
$standby->start;
$node->safe_psql('postgres', q{
	CREATE TABLE st (id int PRIMARY KEY, k text) USING cmek_heap;
	INSERT INTO st SELECT i, 'k' || i % 100 FROM generate_series(1, 5000) i;
	CREATE INDEX ON st (k, id DESC);
	DELETE FROM st WHERE id % 3 = 0;
	VACUUM st});
$node->wait_for_catchup($standby);
my $force = 'SET enable_seqscan = off; SET enable_bitmapscan = off;';
my $ask = "$force SELECT count(*), sum(id) FROM st WHERE k BETWEEN 'k2' AND 'k5'; SELECT id FROM st WHERE k = 'k7' ORDER BY k, id DESC LIMIT 3";
is($standby->safe_psql('postgres', $ask), $node->safe_psql('postgres', $ask), 'the standby scans');
$node->safe_psql('postgres', 'REINDEX TABLE st; INSERT INTO st SELECT i, i::text FROM generate_series(6000, 7000) i');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $ask), $node->safe_psql('postgres', $ask), '... and after REINDEX');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('st')"), '0', '... and verifies');
$standby->stop;

# ---------- a crash ----------

$node->safe_psql('postgres', q{
	CREATE UNLOGGED TABLE ul (id int PRIMARY KEY) USING cmek_heap;
	INSERT INTO ul SELECT generate_series(1, 100);
	INSERT INTO st SELECT i, i::text FROM generate_series(8000, 9000) i});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', "$force SELECT count(*) FROM st WHERE id >= 8000"), '1001', 'after a crash the rows are found by index');
is($node->safe_psql('postgres', "$force SELECT count(*) FROM ul WHERE id > 0"), '0', 'an unlogged table is empty');
is($node->safe_psql('postgres', "$force INSERT INTO ul VALUES (1); SELECT count(*) FROM ul WHERE id = 1"), '1', '... and takes rows');
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT * FROM cmek.verify('st') UNION ALL SELECT * FROM cmek.verify('ul')) v"), '0', 'nothing is damaged');

# ---------- flipped bytes ----------

# rows whose columns prove each other, so that a wrong value shows
$node->safe_psql('postgres', q{
	CREATE TABLE fl (id int PRIMARY KEY, k text, n int) USING cmek_heap;
	INSERT INTO fl SELECT i, 'k' || i, i * 3 FROM generate_series(1, 400) i;
	CREATE INDEX fl_k ON fl (k) INCLUDE (n);
	CREATE TABLE fl_plain (id int PRIMARY KEY, k text, n int) USING heap;
	INSERT INTO fl_plain SELECT * FROM fl;
	CREATE INDEX fl_plain_k ON fl_plain (k) INCLUDE (n);
	VACUUM FREEZE fl, fl_plain;
	CHECKPOINT});

# A place in an entry of a leaf, its TID or its datums.  Not in t_info, nor
# outside of entries: those are core's, which takes them as they are
sub flip_place
{
	my ($bytes) = @_;
	my $pages = length($$bytes) / 8192;

	while (1)
	{
		my $page = 8192 * (1 + int(rand($pages - 1)));
		my $items = (unpack('v', substr($$bytes, $page + 12, 2)) - 24) / 4;
		my $lp = unpack('V', substr($$bytes, $page + 24 + 4 * int(rand($items)), 4));
		my ($at, $len) = ($lp & 0x7FFF, $lp >> 17);
		my $in = int(rand($len));

		return $page + $at + $in if $items > 0 && $in != 6 && $in != 7;
	}
}

sub flip_all
{
	my ($table, $index, $flips) = @_;
	my $file = "$data/" . $node->safe_psql('postgres', "SELECT pg_relation_filepath('$index')");
	my %seen;

	$node->stop;
	my $good = slurp_binary($file);
	$node->start;
	limit_memory($node) or BAIL_OUT('no limit of memory');
	for my $i (1 .. $flips)
	{
		my $at = flip_place(\$good);
		my $bad = $good;
		substr($bad, $at, 1) = chr(ord(substr($bad, $at, 1)) ^ (1 << int(rand(8))));
		spew_binary($file, $bad);
		# out of shared buffers and back: the file is what is read
		my ($status, $out, $err) = $node->psql('postgres', qq{
			SELECT cmek_evict('$index');
			SET statement_timeout = '60s';
			SET enable_seqscan = off; SET enable_bitmapscan = off;
			SELECT count(*) FROM $table WHERE k > 'a' AND n <> 3 * substr(k, 2)::int;
			SELECT count(*) FROM $table WHERE k = 'k77' AND id <> 77});
		my @counts = grep { /^\d+$/ } split(/\n/, $out);
		# nbtree believes headers: a stock index can crash the server, too
		if ($err =~ /server closed the connection|connection to server was lost|terminated abnormally/)
		{
			$seen{crash}++;
			answers($node, 'SELECT true') or BAIL_OUT('the server did not come back');
			next;
		}
		$seen{ $err ne '' ? 'error' : (grep { $_ != 0 } @counts) ? 'wrong' : 'fine' }++;
	}
	spew_binary($file, $good);
	$node->safe_psql('postgres', "SELECT cmek_evict('$index')");
	return \%seen;
}

# a file changed under the server is read again when its buffers are gone
$node->safe_psql('postgres', q{
	CREATE FUNCTION cmek_evict(i regclass) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM count(*) FROM evict_filler;
		RETURN 'evicted';
	END$$;
	CREATE TABLE evict_filler (a text) WITH (fillfactor = 10);
	INSERT INTO evict_filler SELECT repeat('x', 800) FROM generate_series(1, 300)});
$node->append_conf('postgresql.conf', "shared_buffers = 128kB\nrestart_after_crash = on");
$node->safe_psql('postgres', 'VACUUM FREEZE evict_filler');
$node->restart;
my $plain = flip_all('fl_plain', 'fl_plain_k', 25);
cmp_ok($plain->{wrong} || 0, '>', 0, 'flipped bytes of a plain index give wrong values: ' . join(' ', %$plain));
my $sealed = flip_all('fl', 'fl_k', 25);
is($sealed->{wrong} || 0, 0, 'flipped bytes of a sealed index do not: ' . join(' ', %$sealed));
cmp_ok($sealed->{error} || 0, '>', 8, 'most are errors');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('fl')"), '0', 'the mended index verifies');

# verify names what is damaged: a datum, a TID, a lost entry
sub verify_after
{
	my ($change) = @_;
	my $file = "$data/" . $node->safe_psql('postgres', "SELECT pg_relation_filepath('fl_k')");

	$node->stop;
	my $good = slurp_binary($file);
	my $bad = $good;
	$change->(\$bad);
	spew_binary($file, $bad);
	$node->start;
	my $lines = $node->safe_psql('postgres', "SELECT problem FROM cmek.verify('fl') ORDER BY 1");
	$node->stop;
	spew_binary($file, $good);
	$node->start;
	return $lines;
}

# line pointer 2 of block 1: its entry
sub entry_at
{
	my ($bytes) = @_;
	my $lp = unpack('V', substr($$bytes, 8192 + 24 + 4, 4));

	return 8192 + ($lp & 0x7FFF);
}
like(verify_after(sub { my $b = shift; substr($$b, entry_at($b) + 20, 1) ^= "\x01" }),
	qr/entry 2 of block 1 is damaged or forged/, 'verify: a damaged datum');
like(verify_after(sub { my $b = shift; substr($$b, entry_at($b) + 1, 1) ^= "\x01" }),
	qr/row is missing/, 'verify: a changed TID');
like(verify_after(sub {
		my $b = shift;
		my ($two, $three) = (substr($$b, 8192 + 28, 4), substr($$b, 8192 + 32, 4));
		substr($$b, 8192 + 28, 8) = $three . $two;
	}), qr/out of order/, 'verify: entries that changed places');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('fl')"), '0', 'and nothing when all is well');
$node->stop;

done_testing();
