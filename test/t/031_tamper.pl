# Bytes changed in the files, checksums off: never a wrong value.  Every byte
# of a sealed row and of a sealed TOAST chunk, rows of other tables, truncated
# rows, foreign DEK ids.  The plain control does return wrong values.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

use constant {
	PAGE => 8192,
	HEADER => 24,     # of a page, and of a sealed row up to its DEK id
	CLEAR => 24,
	CHUNK_DATA => 36, # TOAST row: header 24, chunk_id, chunk_seq, length
};

my $rows = 400;
my $node = cmek_node('tamper', config => [ 'autovacuum = off', "cmek.key_cache_ttl = '5min'" ]);
my %file;
my %length;

is($node->safe_psql('postgres', 'SHOW data_checksums'), 'off', 'checksums are off');

# All tables first: the files are changed while the server is down
my @flips = (0x01, 0x80, 0xff);
sub make_table
{
	my ($name, $am, $rowcount) = @_;

	$node->safe_psql('postgres', qq{
		CREATE TABLE $name (id int, n int8, t text, z text) USING $am;
		INSERT INTO $name SELECT i, i * 1000, 'value ' || lpad(i::text, 5, '0') || ' of a row', NULL
		FROM generate_series(1, $rowcount) i});
	return;
}
for my $i (0 .. $#flips)
{
	make_table("flip$i", 'cmek_heap', $rows);
}
make_table('control', 'heap', $rows);
make_table('swap_a', 'cmek_heap', 5);
make_table('swap_b', 'cmek_heap', 5);
make_table('cut', 'cmek_heap', 60);
make_table('dek', 'cmek_heap', 5);
make_table('longer', 'cmek_heap', 5);
$node->safe_psql('postgres', qq{
	CREATE TABLE toasted (id int, t text) USING cmek_heap;
	ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;
	INSERT INTO toasted SELECT i, lpad(i::text, 1900, 'x') || lpad(i::text, 500, 'y') FROM generate_series(1, 900) i;
	CREATE TABLE moved (id int, t text) USING cmek_heap;
	ALTER TABLE moved ALTER t SET STORAGE EXTERNAL;
	INSERT INTO moved SELECT i, repeat(i::text, 5000) FROM generate_series(1, 4) i;
	CREATE TABLE swapped (id int, t text) USING cmek_heap;
	ALTER TABLE swapped ALTER t SET STORAGE EXTERNAL;
	INSERT INTO swapped SELECT i, repeat('a', 1964) || repeat('b', 1964) || repeat('c', 1964) FROM generate_series(1, 2) i});
my $dek_of_other = $node->safe_psql('postgres',
	"SELECT id FROM cmek.data_key WHERE relid = 'swap_a'::regclass AND kind = 'h'");
$node->safe_psql('postgres', 'CHECKPOINT');
for my $t ((map { "flip$_" } 0 .. $#flips), qw(control swap_a swap_b cut dek longer toasted moved swapped))
{
	$file{$t} = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('$t')");
	$file{"$t.toast"} = $node->data_dir . '/'
	  . $node->safe_psql('postgres',
		"SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = '$t'::regclass");
}

# The line pointers of a file: [ctid, offset in file, length, offset of pointer]
sub items
{
	my ($bytes) = @_;
	my @items;

	for my $block (0 .. length($$bytes) / PAGE - 1)
	{
		my $base = $block * PAGE;
		my ($lower) = unpack('v', substr($$bytes, $base + 12, 2));
		for my $n (1 .. ($lower - HEADER) / 4)
		{
			my $at = $base + HEADER + 4 * ($n - 1);
			my $lp = unpack('V', substr($$bytes, $at, 4));
			next unless (($lp >> 15) & 3) == 1;
			push @items, [ "($block,$n)", $base + ($lp & 0x7fff), $lp >> 17, $at ];
		}
	}
	return @items;
}

# Change the row i of a file at byte i, round and round, between two offsets
sub flip_rows
{
	my ($name, $mask, $from, $to) = @_;
	my $bytes = slurp_binary($file{$name});
	my %byte;
	my $i = 0;

	for my $item (items(\$bytes))
	{
		my ($ctid, $offset, $length) = @$item;
		my $at = $from + $i++ % (($to || $length) - $from);
		substr($bytes, $offset + $at, 1) ^= chr($mask);
		$byte{$ctid} = $at;
		$length{$name} = $length;
	}
	spew_binary($file{$name}, $bytes);
	return \%byte;
}

my $before = $node->safe_psql('postgres', 'SELECT count(*), sum(n), sum(length(t)) FROM flip0');
$node->stop;
my @bytes_of = map { flip_rows("flip$_", $flips[$_], 0) } 0 .. $#flips;
# only the integers: wrong lengths could end a backend of plain heap
my $control = flip_rows('control', 0x01, 24, 40);
my $chunk = flip_rows('toasted.toast', 0x01, CLEAR);

# A row of one table in the place of a row of the other, of the same length
{
	my ($a, $b) = map { slurp_binary($file{$_}) } qw(swap_a swap_b);
	my @a = items(\$a);
	my @b = items(\$b);
	for my $i (0 .. 1)
	{
		my ($len) = ($a[$i][2]);
		my $row = substr($a, $a[$i][1], $len);
		is($b[$i][2], $len, 'rows of the same length');
		substr($b, $b[$i][1] + CLEAR, $len - CLEAR) = substr($row, CLEAR);
	}
	spew_binary($file{swap_b}, $b);
}

# The first two chunks of a value in each other's place
{
	my $bytes = slurp_binary($file{'swapped.toast'});
	my @items = items(\$bytes);
	my ($x, $y) = @items[0, 1];
	is($x->[2], $y->[2], 'chunks of the same length');
	my $from = CHUNK_DATA;
	my $len = $x->[2] - $from;
	my $chunk = substr($bytes, $x->[1] + $from, $len);
	substr($bytes, $x->[1] + $from, $len) = substr($bytes, $y->[1] + $from, $len);
	substr($bytes, $y->[1] + $from, $len) = $chunk;
	spew_binary($file{'swapped.toast'}, $bytes);
}

# A line pointer that claims more than a page
{
	my $bytes = slurp_binary($file{longer});
	my @items = items(\$bytes);
	my $at = $items[2][3];
	my $lp = unpack('V', substr($bytes, $at, 4));
	substr($bytes, $at, 4) = pack('V', ($lp & 0x1ffff) | (0x7fff << 17));
	spew_binary($file{longer}, $bytes);
}

# Rows cut short: the length in the line pointer is smaller and smaller
my %cut;
{
	my $bytes = slurp_binary($file{cut});
	my $i = 0;
	for my $item (items(\$bytes))
	{
		my ($ctid, undef, $length, $at) = @$item;
		my $shorter = ++$i * 2;
		last if $length - $shorter < HEADER;
		my $lp = unpack('V', substr($bytes, $at, 4));
		substr($bytes, $at, 4) = pack('V', ($lp & 0x1ffff) | (($length - $shorter) << 17));
		$cut{$ctid} = $length - $shorter;
	}
	spew_binary($file{cut}, $bytes);
}

# A DEK id that exists, of another table, and one that does not
{
	my $bytes = slurp_binary($file{dek});
	my @items = items(\$bytes);
	substr($bytes, $items[0][1] + CLEAR, 4) = pack('V', $dek_of_other);
	substr($bytes, $items[1][1] + CLEAR, 4) = pack('V', 2_000_000_000);
	substr($bytes, $items[2][1] + CLEAR, 4) = pack('V', 0);
	spew_binary($file{dek}, $bytes);
}

# Chunks of one value in the place of another's
{
	my $bytes = slurp_binary($file{'moved.toast'});
	my @items = items(\$bytes);
	my $chunk0 = substr($bytes, $items[0][1] + CHUNK_DATA - 4, $items[0][2] - CHUNK_DATA + 4);
	my ($other) = grep { $_->[2] == $items[0][2] && substr($bytes, $_->[1] + 24, 4) ne substr($bytes, $items[0][1] + 24, 4) } @items;
	ok($other, 'another value has a chunk of the same length');
	substr($bytes, $other->[1] + CHUNK_DATA - 4, length($chunk0)) = $chunk0;
	spew_binary($file{'moved.toast'}, $bytes);
}

$node->start;
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

# Read rows one by one, each in its own subtransaction
$node->safe_psql('postgres', q{
	CREATE FUNCTION probe(tab regclass, tids tid[], cols text, OUT tid tid, OUT state text, OUT val text)
	RETURNS SETOF record LANGUAGE plpgsql AS $$
	BEGIN
		FOREACH tid IN ARRAY tids LOOP
			BEGIN
				state := ''; val := NULL;
				EXECUTE format('SELECT (%s)::text FROM %s WHERE ctid = $1', cols, tab) INTO val USING tid;
			EXCEPTION WHEN OTHERS THEN
				state := SQLSTATE;
			END;
			RETURN NEXT;
		END LOOP;
	END $$});

sub probe
{
	my ($table, $tids, $cols) = @_;
	my %result;

	my $list = join(',', map { "\"$_\"" } @$tids);
	my $out = $node->safe_psql('postgres',
		"SELECT tid, state, val FROM probe('$table', '{$list}', '$cols')");
	for (split /\n/, $out)
	{
		my ($tid, $state, $found) = split /\|/, $_, 3;
		$result{$tid} = [ $state, $found ];
	}
	return \%result;
}

# Row i of a table is the i-th TID; what it must say if it says anything
sub expected_rows
{
	my ($byte) = @_;
	my %want;
	my $i = 0;

	for (sort { my @a = $a =~ /\d+/g; my @b = $b =~ /\d+/g; $a[0] <=> $b[0] || $a[1] <=> $b[1] } keys %$byte)
	{
		$i++;
		$want{$_} = sprintf('(%d,%d,"value %05d of a row",)', $i, $i * 1000, $i);
	}
	return \%want;
}

for my $f (0 .. $#flips)
{
	my $name = sprintf('flip 0x%02x', $flips[$f]);
	my $byte = $bytes_of[$f];
	my $want = expected_rows($byte);
	my $got = probe("flip$f", [ keys %$byte ], 'flip' . $f);
	my ($wrong, $missed, $odd, %seen) = (0, 0, 0);

	is(scalar(keys %$byte), $rows, "$name: a byte of every row was changed");
	for my $tid (keys %$byte)
	{
		my ($state, $found) = @{ $got->{$tid} };
		$seen{ $byte->{$tid} } = 1;
		$wrong++ if $found ne '' && $found ne $want->{$tid};
		$missed++ if $byte->{$tid} >= CLEAR && $state ne 'XX001';
		diag("byte $byte->{$tid} of row $tid: state '$state', found '$found'")
		  if ($found ne '' && $found ne $want->{$tid})
		  || ($byte->{$tid} >= CLEAR && $state ne 'XX001');
	}
	is($wrong, 0, "$name: no wrong value");
	is($missed, 0, "$name: each change of what is sealed is XX001");
	cmp_ok(scalar(grep { $_ < CLEAR } keys %seen), '==', CLEAR, "$name: every byte of the header was tried");
	is(scalar(grep { $_ >= CLEAR } keys %seen), $length{"flip$f"} - CLEAR, "$name: every byte after it was tried");
}

{
	my $want = expected_rows($control);
	my $got = probe('control', [ keys %$control ], 'control');
	my @wrong = grep { $got->{$_}[1] ne '' && $got->{$_}[1] ne $want->{$_} } keys %$control;
	cmp_ok(scalar(@wrong), '>', $rows / 2, 'the plain control does return wrong values');
}

# out of line
{
	my ($wrong, $missed, $error, %seen) = (0, 0, 0);
	my $out = $node->safe_psql('postgres', q{
		SELECT t.ctid, p.state, p.val IS NULL OR p.val = lpad(t.id::text, 1900, 'x') || lpad(t.id::text, 500, 'y')
		FROM (SELECT ctid, id FROM toasted) t, probe('toasted', ARRAY[t.ctid], $$t || ''$$) p});
	for (split /\n/, $out)
	{
		my ($tid, $state, $right) = split /\|/;
		$wrong++ if $right ne 't';
		$error++ if $state eq 'XX001';
		$missed++ if $state ne '' && $state ne 'XX001';
		diag("row $tid: state '$state'") if $state ne '' && $state ne 'XX001';
	}
	cmp_ok($error, '>', 800, 'changed chunks are XX001');
	is($wrong, 0, 'a changed chunk is never a wrong value');
	is($missed, 0, 'and no other error');
}
{
	my $out = $node->safe_psql('postgres', q{
		SELECT string_agg(p.state, ' ' ORDER BY m.id), count(*) FILTER (WHERE p.val <> repeat(m.id::text, 5000))
		FROM (SELECT ctid, id FROM moved) m, probe('moved', ARRAY[m.ctid], $$t || ''$$) p});
	like($out, qr/^ *XX001 *\|0$/, 'a chunk of another value is XX001, the others are right');
}

# rows of another table, cut rows, foreign DEKs
is($node->safe_psql('postgres', q{SELECT string_agg(state || coalesce(val, ''), ',' ORDER BY tid)
	FROM probe('swap_b', '{"(0,1)","(0,2)","(0,3)"}', 'id')}),
	'XX001,XX001,3', 'a row of another table is XX001');
{
	my $got = probe('cut', [ keys %cut ], 'cut');
	my @bad = grep { $got->{$_}[0] ne 'XX001' } keys %cut;
	cmp_ok(scalar(keys %cut), '>', 30, 'rows were cut');
	is(join(' ', map { "$_:$cut{$_}:" . join('/', @{ $got->{$_} }) } @bad), '', 'each cut row is XX001');
}
is($node->safe_psql('postgres', q{SELECT string_agg(state || coalesce(val, ''), ',' ORDER BY tid)
	FROM probe('dek', '{"(0,1)","(0,2)","(0,3)","(0,4)"}', 'id')}),
	'XX001,XX001,XX001,4', 'a foreign, an unknown and the zero DEK id are XX001');

# other ways to the same rows
my $first = (grep { $bytes_of[0]{$_} >= CLEAR } sort keys %{ $bytes_of[0] })[0];
fails_with($node, 'XX001', 'SELECT sum(n) FROM flip0', 'aggregate');
fails_with($node, 'XX001', "UPDATE flip0 SET n = 0 WHERE ctid = '$first'", 'UPDATE of a damaged row');
fails_with($node, 'XX001', 'COPY flip0 TO stdout', 'COPY');
fails_with($node, 'XX001', 'CREATE TABLE x AS SELECT * FROM flip0', 'CREATE TABLE AS');
fails_with($node, 'XX001', 'ALTER TABLE flip0 ALTER n TYPE text', 'ALTER TYPE');

# verify lists, and does not stop at the first.  (A tuple header that names a
# transaction which never was stops it, as it stops every scan of heap.)
for my $f (0 .. $#flips)
{
	my $sealed = grep { $_ >= CLEAR } values %{ $bytes_of[$f] };
	my ($status, $count, $error) = $node->psql('postgres', "SELECT count(*) FROM cmek.verify('flip$f')");

	like($status == 0 && $count >= $sealed ? 'all' : $error, qr/^all$|(?i:could not access (?:commit )?status) of transaction/,
		sprintf('verify lists the damaged rows of flip 0x%02x', $flips[$f]));
}
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('toasted')"), '>', 800,
	'verify lists damaged chunks');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('swap_a')"), '0', 'and nothing that is whole');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'no backend crashed');

# chunks know their place
fails_with($node, 'XX001', 'SELECT t FROM swapped WHERE id = 1', 'swapped chunks of one value');
is($node->safe_psql('postgres', 'SELECT length(t) FROM swapped WHERE id = 2'), '5892', 'the other value is whole');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('swapped')"), '1', 'verify lists it');

# a length beyond the page is damage, not a way into memory
fails_with($node, 'XX001', 'SELECT * FROM longer', 'a row longer than a page');
is($node->safe_psql('postgres', "SELECT count(*), min(tid::text) FROM cmek.verify('longer')"), '1|(0,3)', 'verify lists it');
fails_with($node, 'XX001', 'SET cmek.plaintext_indexes = on; CREATE INDEX ON longer (id)', 'an index build stops at it');

# a damaged row of a table with TOAST can be deleted, with a warning
like(error_text($node, "DELETE FROM flip0 WHERE ctid = '$first'"), qr/WARNING.*damaged or forged/s, 'DELETE of a damaged row');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('flip0') WHERE tid = '$first'"), '0', 'and it is gone');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'no backend crashed');

is(sqlstate($node, 'TRUNCATE flip0'), '', 'TRUNCATE');
is(sqlstate($node, 'DROP TABLE flip1'), '', 'DROP');

done_testing();
