# Every bit of what is sealed in rows and chunks: XX001.  Every bit of what is
# around it (page headers, line pointers, tuple headers): never a value that
# was not stored in that table.  Swaps and replays: what is noticed, and what
# SECURITY.md says is not.  Checksums are off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekTamper;

my $node = cmek_node('pages', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'", 'restart_after_crash = off' ]);
is($node->safe_psql('postgres', 'SHOW data_checksums'), 'off', 'checksums are off');
probe_setup($node);

my ($sealed_len, $chunk_len) = (96, 332);
my $around_pages = 8 * 24 + 32 + 8 * 24;
$node->safe_psql('postgres', "CREATE TABLE $_ (id int, t text) USING cmek_heap") for qw(bits cols one two replay swap torn mixed);
$node->safe_psql('postgres', "CREATE TABLE $_ (id int, t text) USING heap") for qw(plain_bits);
# two chunks to a value: a full one, and one short enough to change each bit
$node->safe_psql('postgres', qq{
	CREATE TABLE chunks (id int, t text) USING cmek_heap;
	ALTER TABLE chunks ALTER t SET STORAGE EXTERNAL;
	INSERT INTO chunks SELECT i, repeat(lpad(i::text, 4, '0'), (1964 + 300) / 4) FROM generate_series(1, 8 * $chunk_len) i});
$node->safe_psql('postgres', qq{
	INSERT INTO $_ SELECT i, 'value ' || lpad(i::text, 5, '0') FROM generate_series(1, 8 * $sealed_len) i})
  for qw(bits plain_bits);
# four rows to a page
for (qw(around plain_around))
{
	my $am = $_ eq 'around' ? 'cmek_heap' : 'heap';
	$node->safe_psql('postgres', qq{
		CREATE TABLE $_ (id int, t text) USING $am;
		ALTER TABLE $_ ALTER t SET STORAGE PLAIN;
		INSERT INTO $_ SELECT i, rpad(i::text || ' ', 1900, 'x') FROM generate_series(1, 4 * $around_pages) i});
}
$node->safe_psql('postgres', q{
	INSERT INTO cols VALUES (1, 'aaaaaaaabbbbbbbb');
	INSERT INTO one SELECT i, 'one ' || i FROM generate_series(1, 5) i;
	INSERT INTO two SELECT i, 'two ' || i FROM generate_series(1, 5) i;
	INSERT INTO replay SELECT i, 'old ' || i FROM generate_series(1, 5) i;
	INSERT INTO swap VALUES (1, 'first'), (2, 'other');
	ALTER TABLE mixed ALTER t SET STORAGE EXTERNAL;
	INSERT INTO mixed SELECT 0, repeat('chunk', 453);
	ALTER TABLE mixed ALTER t SET STORAGE PLAIN;
	INSERT INTO mixed SELECT i, repeat('r', i) FROM generate_series(250, 300) i});
# the same table in another database, made there; and one copied with its database
$node->safe_psql('postgres', 'CREATE DATABASE apart');
$node->safe_psql('apart', q{CREATE EXTENSION cmek; CREATE TABLE one (id int, t text) USING cmek_heap;
	INSERT INTO one SELECT i, 'far ' || i FROM generate_series(1, 5) i});
$node->safe_psql('apart', 'SELECT 1');
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE apart');
$node->safe_psql('clone', "DELETE FROM one; INSERT INTO one SELECT i, 'cpy ' || i FROM generate_series(1, 5) i; VACUUM FREEZE one");
probe_setup($node, $_) for qw(apart clone);

# Replay: the file as it was, then its rows change
$node->safe_psql('postgres', 'CHECKPOINT');
my %file = map { $_ => relation_file($node, $_) } qw(bits plain_bits chunks cols around plain_around one two replay swap mixed);
my %other = map { $_ => relation_file($node, 'one', $_) } qw(apart clone);
my $chunk_file = toast_file($node, 'chunks');
my $mixed_toast = toast_file($node, 'mixed');
my $replayed = "$file{replay}.before";
copy($file{replay}, $replayed) or die;
$node->safe_psql('postgres', "DELETE FROM replay; VACUUM replay; INSERT INTO replay SELECT i, 'new ' || i FROM generate_series(1, 5) i");
is($node->safe_psql('postgres', 'SELECT min(t) FROM replay'), 'new 1', 'rows that replace others');
$node->stop;

# Each bit of what is sealed, a row for each
my @row_bits;
edit_file($file{bits}, sub {
		my ($bytes, @items) = @_;
		my $sealed = $items[0]{len} - ROW_CLEAR;
		for my $i (0 .. 8 * $sealed - 1)
		{
			flip_bit($bytes, $items[$i]{at} + ROW_CLEAR + int($i / 8), $i % 8);
			push @row_bits, $items[$i]{tid};
		}
	});
cmp_ok(scalar(@row_bits), '>', 8 * 50, 'bits of rows: ' . @row_bits);
edit_file($file{plain_bits}, sub {
		my ($bytes, @items) = @_;
		# in the integer and the text, not in lengths
		flip_bit($bytes, $items[$_]{at} + 24 + ($_ / 8) % 4, $_ % 8) for 0 .. $#items;
	});
my @chunk_bits;
edit_file($chunk_file, sub {
		my ($bytes, @items) = @_;
		@items = grep { $_->{len} - CHUNK_DATA < 1000 } @items;
		my $sealed = $items[0]{len} - CHUNK_DATA;
		is($sealed, $chunk_len, 'length of a sealed chunk');
		for my $i (0 .. 8 * $sealed - 1)
		{
			flip_bit($bytes, $items[$i]{at} + CHUNK_DATA + int($i / 8), $i % 8);
			push @chunk_bits, $i + 1;
		}
	});

# Each bit around it, a page for each: page header, pointer and header of the
# second row
sub flip_around
{
	my ($file) = @_;
	my %what;

	edit_file($file, sub {
			my ($bytes, @items) = @_;
			my %second = map { $_->{block} => $_ } grep { $_->{tid} =~ /,2\)/ } @items;
			my $block = 0;
			for my $place ([ 'page header', 24, sub { $_[0] * PAGE } ], [ 'line pointer', 4, sub { $second{ $_[0] }{lp} } ],
				[ 'tuple header', 24, sub { $second{ $_[0] }{at} } ])
			{
				my ($name, $n, $where) = @$place;
				for my $bit (0 .. 8 * $n - 1)
				{
					flip_bit($bytes, $where->($block) + int($bit / 8), $bit % 8);
					$what{ $block++ } = "$name byte " . int($bit / 8) . ' bit ' . $bit % 8;
				}
			}
		});
	return %what;
}
my %around = flip_around($file{around});
flip_around($file{plain_around});
is(scalar(keys %around), $around_pages, "pages with a changed bit: $around_pages");

# Two values of one row in each other's place: the ciphertext is one piece
edit_file($file{cols}, sub {
		my ($bytes, $item) = @_;
		# DEK id, nonce; then the rest of the tuple header, then id, length, text
		my $text = $item->{at} + ROW_CLEAR + 16 + 6 + 4 + 1;
		my ($a, $b) = (substr($$bytes, $text, 8), substr($$bytes, $text + 8, 8));
		substr($$bytes, $text, 16) = $b . $a;
	});

# Whole files: of another table, and of other databases
my %saved = (one => slurp_binary($file{one}), apart => slurp_binary($other{apart}), clone => slurp_binary($other{clone}));
spew_binary($file{two}, $saved{one});
spew_binary($file{one}, $saved{apart});
spew_binary($other{apart}, $saved{clone});

# A chunk in the place of a row of its table, and a row in the place of it
{
	my $toast = slurp_binary($mixed_toast);
	my (undef, $chunk) = heap_items(\$toast);
	my $sealed_chunk = substr($toast, $chunk->{at} + CHUNK_DATA, $chunk->{len} - CHUNK_DATA);
	my $sealed_row;
	edit_file($file{mixed}, sub {
			my ($bytes, @items) = @_;
			my ($row) = grep { $_->{len} - ROW_CLEAR == length($sealed_chunk) } @items;
			ok($row, 'a row as long as the chunk');
			$sealed_row = substr($$bytes, $row->{at} + ROW_CLEAR, length($sealed_chunk));
			substr($$bytes, $row->{at} + ROW_CLEAR, length($sealed_chunk)) = $sealed_chunk;
			$file{mixed_tid} = $row->{tid};
		});
	edit_file($mixed_toast, sub { substr(${ $_[0] }, $_[2]{at} + CHUNK_DATA, length($sealed_row)) = $sealed_row; });
}

# Inside one table: two rows in each other's place, and the file of before
edit_file($file{swap}, sub {
		my ($bytes, $first, $second) = @_;
		my $len = $first->{len};
		my $row = substr($$bytes, $first->{at} + ROW_CLEAR, $len - ROW_CLEAR);
		substr($$bytes, $first->{at} + ROW_CLEAR, $len - ROW_CLEAR) = substr($$bytes, $second->{at} + ROW_CLEAR, $len - ROW_CLEAR);
		substr($$bytes, $second->{at} + ROW_CLEAR, $len - ROW_CLEAR) = $row;
	});
spew_binary($file{replay}, slurp_binary($replayed));

$node->start;
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

# Rows and chunks
my @got = probe($node, [ map { "SELECT b::text FROM bits b WHERE ctid = '$_'" } @row_bits ]);
is(scalar(grep { $_->[0] eq 'XX001' } @got), scalar(@row_bits), 'each changed bit of a row is XX001');
@got = probe($node, [ map { "SELECT t || '' FROM chunks WHERE id = $_" } @chunk_bits ]);
is(scalar(grep { $_->[0] eq 'XX001' } @got), scalar(@chunk_bits), 'each changed bit of a chunk is XX001');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM plain_bits WHERE t <> 'value ' || lpad(id::text, 5, '0')}), '>', 700,
	'plain heap returns wrong values');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('bits')"), scalar(@row_bits), 'verify lists each row');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('chunks')"), scalar(@chunk_bits), 'and each chunk');

# Around: by scan of the page and by TID
my $whole = q{t = rpad(id::text || ' ', 1900, 'x') AND id BETWEEN 1 AND 4 * } . $around_pages;
sub around_queries
{
	my ($table) = @_;

	return map { ("SELECT count(*) || ' ' || count(*) FILTER (WHERE $whole) FROM $table WHERE ctid >= '($_,0)' AND ctid < '(@{[ $_ + 1 ]},0)'",
			map { "SELECT count(*) || ' ' || count(*) FILTER (WHERE $whole) FROM $table WHERE ctid = '$_'" } map { my $n = $_; "($main::block,$n)" } 1 .. 5) }
	  map { our $block = $_ } 0 .. $around_pages - 1;
}
my @queries = around_queries('around');
@got = probe($node, \@queries);
my (%states, @bad);
for my $i (0 .. $#got)
{
	my ($state, $value) = @{ $got[$i] };
	my $block = int($i / 6);
	$states{$state}++;
	next if $state ne '';
	my ($rows, $right) = split / /, $value;
	push @bad, "$around{$block}: $queries[$i]: $value" if $rows != $right;
}
is(join("\n", @bad), '', 'around: no value that was not stored');
note(join(' ', map { "'$_': $states{$_}" } sort keys %states));
cmp_ok($states{''}, '>', 1000, 'around: most pages can be read');
cmp_ok($states{XX001} || 0, '>', 40, 'around: damage is found');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'no crash');

# Columns, tables, databases, TOAST
fails_with($node, 'XX001', 'SELECT t FROM cols', 'two values of a row in each other\'s place');
fails_with($node, 'XX001', "SELECT * FROM two WHERE ctid = '(0,1)'", 'rows of another table');
fails_with($node, 'XX001', "SELECT * FROM one WHERE ctid = '(0,1)'", 'rows of a table of another database');
fails_with($node, 'XX001', "SELECT * FROM mixed WHERE ctid = '$file{mixed_tid}'", 'a chunk in the place of a row');
fails_with($node, 'XX001', 'SELECT t FROM mixed WHERE id = 0', 'a row in the place of a chunk');

# What authentication does not see: SECURITY.md says so
is($node->safe_psql('postgres', 'SELECT id FROM swap ORDER BY ctid'), "2\n1", 'rows of one table, swapped: not noticed');
is($node->safe_psql('postgres', 'SELECT min(t), count(*) FROM replay'), 'old 1|5', 'an old file of a table: not noticed');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('replay')"), '0', 'nor by verify');
is($node->safe_psql('apart', 'SELECT min(t) FROM one'), 'cpy 1', 'a file of a copy of the database, which has the same keys: not noticed');

# Changing rows with a changed header: errors or not, no crash, no wrong value
@got = probe($node, [ map { my $b = $_; map { "UPDATE around SET id = id WHERE ctid = '($b,$_)' RETURNING ($whole)::text" } 1, 2 } 8 * 24 .. $around_pages - 1 ]);
is(scalar(grep { $_->[0] eq '' && $_->[1] ne '' && $_->[1] ne 'true' } @got), 0, 'UPDATE: no wrong value');
@got = probe($node, [ map { "DELETE FROM around WHERE ctid = '($_,2)'" } 8 * 24 .. $around_pages - 1 ]);
my ($status) = $node->psql('postgres', 'VACUUM around');
ok(defined $status, "VACUUM ends, with status $status");
($status) = $node->psql('postgres', 'VACUUM FULL around');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'no crash');
is(sqlstate($node, 'DROP TABLE around'), '', 'DROP');

done_testing();
