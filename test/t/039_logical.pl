# wal_level = logical: sealed tables are refused, because logical decoding would
# see rows of NULLs and lose the changes; when a superuser allows them, nothing
# crashes, nothing leaks, nothing bloats, and cmek.exposures says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('logical', config => [ 'wal_level = replica' ]);
$node->safe_psql('postgres', q{
	CREATE TABLE before (id int, t text) USING cmek_heap;
	INSERT INTO before VALUES (1, 'one')});
$node->append_conf('postgresql.conf', "wal_level = logical\n");
$node->restart;

# refused: making one, and every write to an old one
my $refused = sqlstate($node, 'CREATE TABLE t (id int) USING cmek_heap');
isnt($refused, '', "a sealed table is refused ($refused)");
like(error_text($node, 'CREATE TABLE t (id int) USING cmek_heap'),
	qr/HINT:.*cmek\.allow_logical_decoding/s, 'with a hint');
is(sqlstate($node, 'SELECT * FROM t'), '42P01', 'no half-made table');
is($node->safe_psql('postgres', 'SELECT t FROM before'), 'one', 'old tables can be read');
for my $write ("INSERT INTO before VALUES (2, 'two')", "UPDATE before SET t = 'x'",
	'DELETE FROM before', "COPY before FROM PROGRAM 'printf \"3\\tthree\\n\"'")
{
	is(sqlstate($node, $write), $refused, "refused: $write");
}
is(sqlstate($node, $_), '', "never decoded: $_")
  for ('VACUUM before', 'VACUUM FULL before', 'ALTER TABLE before ALTER id TYPE bigint',
	"ALTER TABLE before ADD COLUMN d text DEFAULT 'fast'", 'VACUUM FULL before');
is($node->safe_psql('postgres', 'SELECT id, t, d FROM before'), '1|one|fast', 'and nothing was lost');
is(sqlstate($node, 'CREATE TEMP TABLE tt (a int) USING cmek_heap; INSERT INTO tt VALUES (1)'),
	'', 'temporary tables are never decoded');

# allowed
$node->append_conf('postgresql.conf', "cmek.allow_logical_decoding = on\n");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('cmek.allow_logical_decoding') = 'on'");
$node->safe_psql('postgres', q{
	CREATE PUBLICATION p FOR ALL TABLES;
	SELECT pg_create_logical_replication_slot('s', 'pgoutput')});
like(error_text($node, 'CREATE TABLE t (id int, t text) USING cmek_heap'), qr/WARNING/,
	'allowed with a warning');

my $marker = 'Decoded' . join('', map { chr(97 + int(rand(26))) } 1 .. 12);
my $secret = with_marker($marker);
$node->safe_psql('postgres', qq{
	CREATE TABLE plain (id int PRIMARY KEY, t text) USING heap;
	ALTER TABLE t REPLICA IDENTITY FULL;
	INSERT INTO t SELECT i, $secret || repeat('y', i) FROM generate_series(1, 50) i;
	INSERT INTO t SELECT 100 + i, $secret || (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 200) j)
		FROM generate_series(1, 3) i;
	UPDATE t SET t = $secret || 'u' WHERE id < 10 OR id = 101;
	UPDATE t SET id = -id WHERE id = 102;
	DELETE FROM t WHERE id = 103;
	INSERT INTO plain VALUES (1, $secret);
	UPDATE plain SET t = t || '!'});
my $changes = $node->safe_psql('postgres', q{
	SELECT encode(data, 'escape')
	FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')});
my $hits = () = $changes =~ /\Q$marker\E/g;
is($hits, 2, 'decoding shows the values of the plain table only');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '52', 'the rows are there');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.exposures WHERE kind = 'logical decoding' AND \"table\" = 't'::regclass"),
	'1', 'cmek.exposures says so');

# rows go where there is space, as for heap (a shadow of relkind 'f' would
# extend the table for each row that it knows no page for)
for my $am ('heap', 'cmek_heap')
{
	$node->safe_psql('postgres', "CREATE TABLE one_by_one_$am (id int, t text) USING $am");
	$node->safe_psql('postgres',
		join('', map { "INSERT INTO one_by_one_$am VALUES ($_, 'x');\n" } 1 .. 400));
	# a new session knows no target block
	$node->safe_psql('postgres', "INSERT INTO one_by_one_$am VALUES (0, 'x')") for 1 .. 10;
}
my ($heap, $sealed) = map {
	$node->safe_psql('postgres', "SELECT pg_relation_size('one_by_one_$_') / 8192")
} ('heap', 'cmek_heap');
cmp_ok($sealed, '<=', 2 * $heap + 1, "no bloat: $sealed pages, heap has $heap");

$node->stop;
done_testing();
