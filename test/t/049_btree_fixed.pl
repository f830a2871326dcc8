# Keys of types of fixed length are sealed without a length: how long entries
# are, each byte of them counts, lengths around the limit, and what has to know
# which column a datum is of: violated constraints, skip scans.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekTamper;

use constant { NONCE => 12, TAG => 16, ENTRY => 8 };

my $seed = $ENV{CMEK_TWIN_SEED} || int(rand(1e9));
note("seed $seed");
srand($seed);
my $node = cmek_node('fixed', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'" ]);
my $by_index = 'SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;';

sub one
{
	return $node->safe_psql('postgres', $_[0]);
}

# ---------- sizes ----------

# of an index, in terms of a plain one, built and grown by ordered inserts
sub ratio
{
	my ($type, $grown) = @_;
	my %size;

	for my $am (qw(heap cmek_heap))
	{
		my ($rows, $index) = ("INSERT INTO r_$am SELECT i FROM generate_series(1, 60000) i", "CREATE INDEX r_${am}_i ON r_$am (k)");
		$size{$am} = one("DROP TABLE IF EXISTS r_$am; CREATE TABLE r_$am (k $type) USING $am;"
				. join(';', $grown ? ($index, $rows) : ($rows, $index)) . "; SELECT pg_relation_size('r_${am}_i')");
	}
	return sprintf('%.3f', $size{cmek_heap} / $size{heap});
}
for (['int4', 2.3], ['int8', 2.6])
{
	my ($type, $most) = @$_;
	for my $grown (0, 1)
	{
		my $ratio = ratio($type, $grown);
		cmp_ok($ratio, '<=', $most, "an index of $type, " . ($grown ? 'grown' : 'built') . ", is $ratio times as large as a plain one");
	}
}

# of an entry: TID and flags, what is sealed, no length, aligned to 8
my %value = (
	bool => 'true', '"char"' => q{'x'}, int2 => '7', int4 => '7', oid => '7', date => q{'2020-02-02'}, float4 => '1.5',
	int8 => '7', float8 => '1.5', timestamptz => q{'2020-02-02'}, macaddr => q{'08:00:2b:01:02:03'}, timetz => q{'12:00Z'},
	uuid => q{'00000000-0000-0000-0000-000000000007'}, interval => q{'1 day'}, tid => q{'(1,2)'});
my @types = sort keys %value;
my (@sql, @expect, @found);
push @sql, "CREATE TABLE e_$_ (k $types[$_]) USING cmek_heap; CREATE INDEX e_${_}_i ON e_$_ (k); INSERT INTO e_$_ VALUES ($value{ $types[$_] })" for 0 .. $#types;
one(join(';', @sql, 'CHECKPOINT'));
for my $i (0 .. $#types)
{
	my $bytes = slurp_binary(relation_file($node, "e_${i}_i"));
	my ($item) = grep { $_->{block} == 1 } heap_items(\$bytes);
	my $len = one("SELECT typlen FROM pg_type WHERE oid = '$types[$i]'::regtype");

	push @expect, "$types[$i] " . 8 * int((ENTRY + NONCE + $len + TAG + 7) / 8);
	push @found, "$types[$i] $item->{len}";
}
is("@found", "@expect", 'entries are as long as what is sealed');
ok((grep { $_ eq 'int4 40' } @found), '... of int4 40 bytes');

# ---------- lengths around the limit of 256, of types made of bytea's parts ----------

for my $len (256, 257)
{
	one(qq{CREATE TYPE f$len;
		CREATE FUNCTION f${len}_in(cstring) RETURNS f$len IMMUTABLE STRICT LANGUAGE internal AS 'byteain';
		CREATE FUNCTION f${len}_out(f$len) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'byteaout';
		CREATE TYPE f$len (INPUT = f${len}_in, OUTPUT = f${len}_out, INTERNALLENGTH = $len, ALIGNMENT = int4);
		CREATE TABLE l$len (a int, b f$len, c text) USING cmek_heap; CREATE INDEX l${len}_i ON l$len (a, c) INCLUDE (b);
		INSERT INTO l$len SELECT i, ('\\x' || repeat(to_char(i, 'FM00'), $len - 4))::f$len, i::text FROM generate_series(1, 50) i;
		INSERT INTO l$len VALUES (60, NULL, NULL); VACUUM FREEZE l$len; CHECKPOINT});
	like(one("$by_index EXPLAIN SELECT a, b, c FROM l$len WHERE a > 0"), qr/Index Only Scan/, "values of $len bytes, from an index");
	is(one("$by_index SELECT count(*), count(b), bool_and(b::text = '\\x' || repeat(to_char(a, 'FM00'), $len - 4)), bool_and(c = a::text) FROM l$len WHERE a > 0"),
		'51|50|t|t', '... as they were');
	is(one("SELECT count(*) FROM cmek.verify('l$len')"), '0', '... and authentic');
}

# ---------- every byte ----------

# Shapes of an entry, how many bytes are sealed, and where a length may stand;
# a table for each byte, and one where nothing is changed
my @shapes = (
	[ 'k int4', '(k)', '7', 32 ],
	[ 'k uuid', '(k)', q{'00000000-0000-0000-0000-000000000007'}, 44 ],
	[ 'k "char", v int8', '(k) INCLUDE (v)', q{'x', 8}, 29 + 36 ],
	[ 'k text, v int2, w bool', '(k, v, w)', q{'abc', 2, true}, 33 + 30 + 29 ],
);
my (%at, @queries, @damaged);
@sql = ();
for my $s (0 .. $#shapes)
{
	my ($columns, $index, $values, $len) = @{ $shapes[$s] };
	for my $byte (-1 .. $len - 1)
	{
		my $t = "t${s}_" . ($byte + 1);
		push @sql, "CREATE TABLE $t ($columns) USING cmek_heap; CREATE INDEX ${t}_i ON $t $index; INSERT INTO $t VALUES ($values)";
		my $all = join(', ', $columns =~ /(\w+) \S+/g);
		push @queries, "SELECT row($all)::text FROM $t WHERE k IS NOT NULL";
		$at{"${t}_i"} = $byte;
	}
}
one(join(';', @sql, 'VACUUM FREEZE', 'CHECKPOINT'));
probe_setup($node);
$ENV{PGOPTIONS} = '-c enable_seqscan=off -c enable_bitmapscan=off';
like(one("EXPLAIN $_"), qr/Index Only Scan/, 'by the index alone') for @queries[0, -1];
my @indexes = sort keys %at;
my %file = map { split /\|/ } split /\n/, one(qq{SELECT relname, pg_relation_filepath(oid) FROM pg_class WHERE relname IN ('} . join("','", @indexes) . q{')});
my @before = probe($node, \@queries);
is(scalar(grep { $_->[0] ne '' } @before), 0, 'undamaged, entries can be read');
$node->stop;
for my $index (grep { $at{$_} >= 0 } @indexes)
{
	edit_file($node->data_dir . '/' . $file{$index}, sub {
		my ($bytes, @items) = @_;
		my ($item) = grep { $_->{block} == 1 } @items;
		flip_bit($bytes, $item->{at} + ENTRY + $at{$index}, int(rand(8)));
	});
}
$node->start;
my @after = probe($node, \@queries);
my (@fine, @wrong);
for my $i (0 .. $#queries)
{
	my ($t) = $queries[$i] =~ /FROM (\w+)/;

	if ($after[$i][0] eq '' && $after[$i][1] eq $before[$i][1]) { push @fine, $t }
	elsif ($after[$i][0] ne 'XX002') { push @wrong, "$t: $after[$i][0] $after[$i][1]" }
}
is("@fine", join(' ', map { "t${_}_0" } 0 .. $#shapes), scalar(@queries) - @shapes . ' entries, a byte of each changed: none can be read');
is("@wrong", '', '... and each is the error of a damaged entry');
delete $ENV{PGOPTIONS};

# ---------- which column ----------

# Core shows a key by the output function of the sealed type, which is told no
# column: of an entry that is inserted, and of one that the sort has found
one(q{CREATE TABLE d (a int4, b text, c uuid, d bool, n name) USING cmek_heap;
	INSERT INTO d SELECT i, 'text ' || i, md5(i::text)::uuid, i % 2 = 0, 'name' || i FROM generate_series(1, 3000) i;
	CREATE TABLE twice AS SELECT * FROM d WHERE a IN (7, 1234)});
my $c = one(q{SELECT md5('7')::uuid});
for my $order ('a, b, c, d, n', 'b, a, d, c, n', 'n, d, c, b, a', 'd, a, n, c', 'c, b')
{
	my %shown = (a => 7, b => 'text 7', c => $c, d => 'f', n => 'name7');
	my $key = '(' . $order . ')=(' . join(', ', map { $shown{$_} } split(/, /, $order)) . ')';

	one("CREATE UNIQUE INDEX d_i ON d ($order)");
	like(error_text($node, 'INSERT INTO d SELECT * FROM twice WHERE a = 7'), qr/23505.*\QKey $key already exists/s, "an insert that breaks a unique key shows it: $order");
	one('DROP INDEX d_i');
	for my $memory ('1MB', '64MB')
	{
		like(error_text($node, "BEGIN; INSERT INTO d SELECT * FROM twice WHERE a = 7; SET maintenance_work_mem = '$memory'; CREATE UNIQUE INDEX ON d ($order)"),
			qr/23505.*\QKey $key is duplicated/s, "... and a build that finds it, with $memory");
	}
}
like(error_text($node, q{BEGIN; INSERT INTO d SELECT NULL, b, NULL, d FROM twice, generate_series(1, 2) WHERE a = 7;
	CREATE UNIQUE INDEX ON d (a, b, c, d) NULLS NOT DISTINCT}), qr/23505.*\QKey (a, b, c, d)=(null, text 7, null, f) is duplicated/s, '... and NULLs');

# Skip scans (18) compare with copies of sealed datums, in parallel ones through
# shared memory
one(q{CREATE TABLE s (a bool, b text, c int2, d uuid, e int) USING cmek_heap;
	INSERT INTO s SELECT i % 2 = 0, 'b' || i % 3, nullif(i % 5, 4), md5((i % 4)::text)::uuid, i FROM generate_series(1, 30000) i;
	CREATE INDEX ON s (a, b, c, d, e); CREATE INDEX ON s (d, c, b DESC, e); VACUUM ANALYZE s});
my $parallel = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_index_scan_size = 0; SET max_parallel_workers_per_gather = 2;';
for my $where ('e IN (77, 78, 29999)', 'c = 3 AND e < 900', q{b = 'b1' AND e = 400}, q{c IS NULL AND e BETWEEN 500 AND 520},
	q{c > 1 AND c < 4 AND e IN (2, 3, 108)})
{
	my $ask = "SELECT count(*), sum(e), count(c), min(b), max(d::text) FROM s WHERE $where";
	my $want = one("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; $ask");

	is(one("$by_index $ask"), $want, "columns in front that are not asked for: $where");
	is(one("$parallel $by_index $ask"), $want, '... in parallel');
}
$node->stop;

done_testing();
