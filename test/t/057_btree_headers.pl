# Flipped bits of what nbtree reads before us: page headers, line pointers, the
# t_info of entries.  Checksums are off.  PostgreSQL takes these as they are, in
# a plain index and in a sealed one: what comes of it may be an error, a row
# that is missed or seen twice, or even the end of a backend, but never a value
# that was not stored.
#
# CMEK_HEADER_FLIPS: how many pages have a bit changed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekTamper;

my $seed = $ENV{CMEK_TWIN_SEED} || int(rand(1e9));
note("seed $seed");
srand($seed);
my $flips = $ENV{CMEK_HEADER_FLIPS} || 24;
my $node = cmek_node('headers', config => [ 'autovacuum = off', 'fsync = off', 'restart_after_crash = on', "cmek.key_cache_ttl = '5min'" ]);
is($node->safe_psql('postgres', 'SHOW data_checksums'), 'off', 'checksums are off');

# Rows whose columns prove each other, in the table and in the index
my $rows = 200 * $flips;
my %file;
for my $am (qw(heap cmek_heap))
{
	$node->safe_psql('postgres', qq{
		CREATE TABLE t_$am (id int, k text, n int) USING $am;
		INSERT INTO t_$am SELECT i, 'k' || lpad(i::text, 7, '0'), i * 3 FROM generate_series(1, $rows) i;
		CREATE INDEX i_$am ON t_$am (k) INCLUDE (n);
		VACUUM FREEZE t_$am});
	$file{$am} = relation_file($node, "i_$am");
}
my $wrong = q{n <> 3 * substr(k, 2)::int};
$node->safe_psql('postgres', 'CHECKPOINT');

# One bit on each of some leaf pages.  The places: header and special space,
# a line pointer, the t_info of an entry
sub flip_headers
{
	my ($bytes, @items) = @_;
	my %of;

	push @{ $of{ $_->{block} } }, $_ for @items;
	my @leaves = grep { @{ $of{$_} } > 20 && unpack('v', substr($$bytes, $_ * PAGE + PAGE - 4, 2)) == 1 } sort { $a <=> $b } keys %of;
	my $n = 0;
	for my $block (splice(@leaves, 0, $flips))
	{
		my @entries = @{ $of{$block} };
		my $entry = $entries[ 1 + int(rand($#entries)) ];
		my @at = (
			[ 12 + int(rand(8)), 1 ], [ PAGE - 16 + int(rand(16)), 1 ],
			[ $entry->{lp} - $block * PAGE + int(rand(4)), 2 ], [ $entry->{at} - $block * PAGE + 6 + int(rand(2)), 4 ]);
		my @weighted = map { my $place = $_; map { $place->[0] } 1 .. $place->[1] } @at;
		flip_bit($bytes, $block * PAGE + $weighted[ int(rand(@weighted)) ], int(rand(8)));
		$n++;
	}
	return $n;
}

# Read all of the index by ranges of keys; a backend that ends takes the
# server's others along, which are back in a moment
sub read_by_index
{
	my ($am) = @_;
	my %seen = (wrong => 0, error => 0, crash => 0, rows => 0);

	for my $from (map { 50 * $_ } 0 .. $rows / 50 - 1)
	{
		my ($low, $high) = map { sprintf('k%07d', $_) } $from, $from + 50;
		my ($status, $out, $err) = $node->psql('postgres', qq{
			SET enable_seqscan = off; SET enable_bitmapscan = off; SET statement_timeout = '60s';
			SELECT count(*), count(*) FILTER (WHERE $wrong), count(*) FILTER (WHERE k <= '$low' OR k > '$high')
			FROM t_$am WHERE k > '$low' AND k <= '$high'});
		if ($status == 2)
		{
			$seen{crash}++;
			answers($node, 'SELECT true') or BAIL_OUT('the server did not come back');
		}
		elsif ($err ne '') { $seen{error}++ }
		else
		{
			my ($n, $bad, $outside) = split /\|/, $out;
			$seen{rows} += $n;
			$seen{wrong} += $bad + $outside;
		}
	}
	return \%seen;
}

my $before = read_by_index('cmek_heap');
is_deeply($before, { wrong => 0, error => 0, crash => 0, rows => $rows }, 'undamaged, all rows are found by index');
$node->stop;
my %flipped = map { $_ => edit_file($file{$_}, \&flip_headers) } keys %file;
$node->start;
limit_memory($node) or BAIL_OUT('no limit of memory');
for my $am (qw(heap cmek_heap))
{
	my $seen = read_by_index($am);

	note("$am: $flipped{$am} bits: " . join(', ', map { "$_ $seen->{$_}" } sort keys %$seen));
	next if $am eq 'heap';
	cmp_ok($flipped{$am}, '>', $flips / 2, 'bits are flipped');
	isnt($seen->{rows} + 0 * $seen->{error}, $rows, 'and something comes of it');
	is($seen->{wrong}, 0, 'never a wrong value');
}
# verify believes no header, so it says what is damaged and goes on
my ($status, $lines) = $node->psql('postgres', q{SET statement_timeout = '60s'; SELECT count(*) FROM cmek.verify('t_cmek_heap')});
is($status, 0, 'verify does not mind');
cmp_ok($lines || 0, '>', 0, 'and finds it');
# what is left of the index is thrown away
is($node->safe_psql('postgres', q{REINDEX INDEX i_cmek_heap; SELECT count(*) FROM cmek.verify('t_cmek_heap')}), '0', 'REINDEX mends it');
is_deeply(read_by_index('cmek_heap'), $before, 'all rows are found again');

# The bit that says "the TID is none" alone, in an entry of each leaf.  nbtree
# then looks at flags in the TID, one of which would make it take a hidden TID
# for the place of a list; no hidden TID has one.
$node->safe_psql('postgres', 'CHECKPOINT');
$file{cmek_heap} = relation_file($node, 'i_cmek_heap');
$node->stop;
my ($set) = edit_file($file{cmek_heap}, sub {
	my ($bytes, @items) = @_;
	my %of;

	push @{ $of{ $_->{block} } }, $_ for @items;
	my @leaves = grep { @{ $of{$_} } > 20 && unpack('v', substr($$bytes, $_ * PAGE + PAGE - 4, 2)) == 1 } sort { $a <=> $b } keys %of;
	flip_bit($bytes, $_->{at} + 7, 5) for map { my $e = $of{$_}; $e->[ 1 + int(rand($#$e)) ] } @leaves;
	return scalar(@leaves);
});
$node->start;
cmp_ok($set, '>', $flips / 2, 'entries say that their TID is none');
my $none = read_by_index('cmek_heap');
note('bit of the TID: ' . join(', ', map { "$_ $none->{$_}" } sort keys %$none));
is($none->{crash} + $none->{wrong}, 0, 'no crash, no wrong value');
for my $statement ('SET enable_seqscan = off; SELECT count(n) FROM (SELECT n FROM t_cmek_heap ORDER BY k) x',
	'DELETE FROM t_cmek_heap WHERE id % 3 = 0', 'VACUUM (INDEX_CLEANUP on) t_cmek_heap')
{
	isnt(($node->psql('postgres', $statement))[0], 2, "nor by: $statement");
}
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM cmek.verify('t_cmek_heap')}), '>', 0, 'verify finds it');

# The length of an entry, too short.  Where it is the last of its page, nbtree
# copies no more of it than that, behind which lies what is left of the page
# before: an entry of the same length, and authentic.
sub flip_in_entries
{
	my ($place, $byte, $bit) = @_;

	$node->safe_psql('postgres', 'DROP TABLE IF EXISTS z; CREATE TABLE z (k int) USING cmek_heap; INSERT INTO z SELECT generate_series(1, 4000);
		CREATE INDEX z_k ON z (k); VACUUM FREEZE z; CHECKPOINT');
	my $name = relation_file($node, 'z_k');
	$node->stop;
	my ($n) = edit_file($name, sub {
		my ($bytes, @items) = @_;
		my %of;

		push @{ $of{ $_->{block} } }, $_ for grep { $_->{len} == 40 } @items;
		my @chosen = $place->($bytes, \%of);
		flip_bit($bytes, $_->{at} + $byte, $bit) for @chosen;
		return scalar(@chosen);
	});
	$node->start;
	return $n;
}
sub shorten { my ($place) = @_; return flip_in_entries($place, 6, 5) }
my $leaf = sub { my ($bytes, $block) = @_; return unpack('v', substr($$bytes, $block * PAGE + PAGE - 4, 2)) & 1 };
my $sum = 'SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(k) FROM z WHERE k > 0';

is(shorten(sub { return () }), 0, 'entries as they are');
is($node->safe_psql('postgres', "$sum; SELECT count(*) FROM cmek.verify('z')"), "4000|8002000\n0", 'an index-only scan reads them');
is(shorten(sub {
	my ($bytes, $of) = @_;
	my @leaves = grep { $leaf->($bytes, $_) } sort { $a <=> $b } keys %$of;

	return (sort { $a->{lp} <=> $b->{lp} } @{ $of->{ $leaves[1] } })[-1];
}), 1, 'the last entry of the second leaf says that it is shorter');
fails_with($node, 'XX002', $sum, 'an index-only scan takes nothing from behind its end');
like($node->safe_psql('postgres', q{SELECT string_agg(problem, ';') FROM cmek.verify('z')}), qr/damaged/, 'verify says that it is damaged');
cmp_ok(shorten(sub {
	my ($bytes, $of) = @_;

	return map { @{ $of->{$_} } } grep { !$leaf->($bytes, $_) } keys %$of;
}), '>', 5, 'pivots say so');
like($node->safe_psql('postgres', q{SELECT string_agg(problem, ';') FROM cmek.verify('z')}), qr/damaged/, 'and verify that they are damaged');

# The bit that says "there are NULLs": which is in no datum, so that nothing proves it.
# Where the bytes that are taken for a bitmap then say that the column is NULL, an
# index-only scan returns that; a scan that visits rows does not
is(flip_in_entries(sub {
	my ($bytes, $of) = @_;
	my ($first) = sort { $a <=> $b } grep { $leaf->($bytes, $_) } keys %$of;

	# the first item is the bound of the page
	my (undef, @entries) = sort { $a->{lp} <=> $b->{lp} } @{ $of->{$first} };

	return (grep { (ord(substr($$bytes, $_->{at} + 8, 1)) & 1) == 0 } @entries)[0];
}, 7, 7), 1, 'an entry says that its column is NULL');
my $nulls = 'SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SELECT count(*) FILTER (WHERE k IS NULL) FROM (SELECT k FROM z ORDER BY k) s';
is($node->safe_psql('postgres', $nulls), '1', 'an index-only scan believes it');
is($node->safe_psql('postgres', "SET enable_indexonlyscan = off; $nulls"), '0', 'an index scan does not');
isnt($node->safe_psql('postgres', q{SELECT string_agg(problem, ';') FROM cmek.verify('z')}), '', 'and verify finds it');

done_testing();
