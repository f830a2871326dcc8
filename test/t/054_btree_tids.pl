# The permutation of row addresses: what another program makes of the same key,
# the same from both libraries, one to one; and that an index file shows no
# row address, while one with hide_tids = off does.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $seed = $ENV{CMEK_TWIN_SEED} || int(rand(1e9));
note("seed $seed");
srand($seed);

# ---------- known answers, by openssl's command ----------

# AES-128 of one block
sub aes
{
	my ($key, $block) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/block';

	open(my $fh, '>:raw', $file) or die $!;
	print $fh $block;
	close($fh);
	my $out = `openssl enc -aes-128-ecb -nopad -K @{[ unpack('H*', $key) ]} -in $file`;
	die 'openssl' unless length($out) == 16;
	return $out;
}

# Ten rounds over two halves of 22 bits (src/crypto/permute.c)
sub permute
{
	my ($key, $value) = @_;
	my $derived = substr(hmac_sha256('cmek tid permutation 1', $key), 0, 16);
	my ($left, $right) = ($value >> 22, $value & 0x3fffff);

	for my $round (0 .. 9)
	{
		my $image = unpack('V', aes($derived, pack('VVVV', $right, $round, 0, 0))) & 0x3fffff;
		($left, $right) = ($right, $left ^ $image);
	}
	return ($left << 22) | $right;
}

my $node = cmek_node('bttids', config => [ 'autovacuum = off' ]);
my $tests = PostgreSQL::Test::Cluster->new('bttidsmodule');
$tests->init;
$tests->start;
$tests->safe_psql('postgres', 'CREATE EXTENSION cmek_test_crypto');
my $key = join('', map { chr(int(rand(256))) } 1 .. 32);
my $hex = "decode('" . unpack('H*', $key) . "', 'hex')";
my @values = (0, 1, 65537, 2**44 - 1, map { int(rand(2**44)) } 1 .. 3);
my $expected = '{' . join(',', map { permute($key, $_) } @values) . '}';
my $numbers = "ARRAY[" . join(',', @values) . "]::int8[]";
my $many = "(SELECT array_agg((random() * 17592186044415)::int8) FROM generate_series(1, 5003))";

for my $crypto ('auto', 'openssl')
{
	is($tests->safe_psql('postgres', "SET cmek.crypto = $crypto; SELECT test_permute($hex, $numbers, false)"), $expected, "$crypto: known answers");
	is($tests->safe_psql('postgres', "SET cmek.crypto = $crypto; SELECT test_permute($hex, ARRAY[$values[5]]::int8[], false)"),
		'{' . permute($key, $values[5]) . '}', "$crypto: one alone");
	is($tests->safe_psql('postgres', qq{SET cmek.crypto = $crypto;
		SELECT bool_and(test_permute($hex, test_permute($hex, n, false), true) = n AND test_permute($hex, n, false) <> n) FROM (SELECT $many AS n) x}),
		't', "$crypto: there and back");
}
is($tests->safe_psql('postgres', qq{SELECT count(DISTINCT p) FROM unnest(test_permute($hex, (SELECT array_agg(i) FROM generate_series(1, 20000) i), false)) p}),
	'20000', 'one to one');
$tests->stop;

# ---------- an index file ----------

$node->safe_psql('postgres', q{
	CREATE EXTENSION pageinspect;
	CREATE TABLE t (k int) USING cmek_heap;
	INSERT INTO t SELECT generate_series(1, 100);
	CREATE INDEX hidden ON t (k);
	CREATE INDEX shown ON t (k) WITH (hide_tids = off)});

# block numbers of the TIDs in line pointer order, of leaf 1
sub blocks
{
	my ($index) = @_;
	my $page = pack('H*', $node->safe_psql('postgres', "SELECT encode(get_raw_page('$index', 1), 'hex')"));
	my @blocks;

	for my $i (0 .. 99)
	{
		my $at = unpack('V', substr($page, 24 + 4 * $i, 4)) & 0x7FFF;
		my ($hi, $lo) = unpack('vv', substr($page, $at, 4));
		push @blocks, ($hi << 16) | $lo;
	}
	return @blocks;
}
is(scalar(grep { $_ > 0 } blocks('shown')), 0, 'hide_tids = off: the addresses are those of the rows');
cmp_ok(scalar(grep { $_ > 1000 } blocks('hidden')), '>', 95, 'hidden: they are not');
$node->safe_psql('postgres', 'ALTER INDEX shown SET (hide_tids = on); ALTER INDEX hidden SET (hide_tids = off)');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM t WHERE k BETWEEN 5 AND 9'), '5', 'changing the option changes no file');
is(scalar(grep { $_ > 0 } blocks('shown')), 0, '... nor how it is written');
$node->safe_psql('postgres', 'INSERT INTO t VALUES (101); REINDEX TABLE t');
cmp_ok(scalar(grep { $_ > 1000 } blocks('shown')), '>', 95, 'REINDEX does');
is(scalar(grep { $_ > 0 } blocks('hidden')), 0, '... both ways');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'verify finds nothing');
$node->stop;

done_testing();
