# The planner expects of a sealed table what it expects of its plain twin: the
# rows and widths that EXPLAIN shows for some 200 queries.  Before the sealed
# tables are analyzed many of them differ.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('plans', config => [ 'autovacuum = off' ]);

# Everything is below 300 rows for each unit of the target, so all of it is sampled
my $tables = q{
	CREATE TABLE a (id int PRIMARY KEY, grp int, name text, amount numeric, at timestamptz, ok bool, tags text[],
		span int4range, code varchar(10), f float8, nothing int, doc tsvector, bits bit(8), u uuid, j jsonb);
	INSERT INTO a SELECT i, (i * i) % 97, 'name ' || (i % 211), (i * 7919) % 10007 / 100.0, '2026-01-01Z'::timestamptz + i % 5000 * interval '1 hour',
		CASE i % 4 WHEN 0 THEN true WHEN 1 THEN false WHEN 2 THEN true END, ARRAY['a' || i % 5, 'b' || i % 13], int4range(i % 100, i % 100 + i % 7 + 1),
		'C' || i % 1000, sqrt(i), CASE WHEN i % 50 = 0 THEN i END, to_tsvector('simple', 'w' || i % 7 || ' v' || i % 11), (i % 256)::bit(8),
		md5(i::text)::uuid, jsonb_build_object('k', i % 10) FROM generate_series(1, 8000) i;
	CREATE INDEX a_grp ON a (grp); CREATE INDEX a_name ON a (name text_pattern_ops); CREATE INDEX a_expr ON a (lower(name), (amount * 2)); CREATE INDEX a_part ON a (at) WHERE ok;
	CREATE TABLE b (id int PRIMARY KEY, a_id int, kind text, qty int);
	INSERT INTO b SELECT i, 1 + (i * 31) % 8000, 'kind ' || (i % 7) * (i % 3), i % 333 FROM generate_series(1, 12000) i;
	CREATE INDEX b_a ON b (a_id);
	CREATE TABLE p (id int, v text, n int) PARTITION BY RANGE (id);
	CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (3000);
	CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (3000) TO (9000);
	INSERT INTO p SELECT i, 'v' || i % 19, (i * i) % 57 FROM generate_series(1, 8000) i;
	CREATE TABLE h (id int, v text); CREATE TABLE h1 (extra int) INHERITS (h); CREATE TABLE h2 () INHERITS (h1);
	INSERT INTO h SELECT i, 'h' || i % 3 FROM generate_series(1, 1000) i; INSERT INTO h1 SELECT i, 'i' || i % 5, i % 9 FROM generate_series(1, 2000) i;
	INSERT INTO h2 SELECT i, 'j' || i % 11, i % 4 FROM generate_series(1, 1500) i;
	ALTER TABLE b ALTER kind SET (n_distinct = 50);
	VACUUM a, b, p1, p2, p3, h, h1, h2};
my %am = (plain => 'heap', sealed => 'cmek_heap');
for my $kind (qw(plain sealed))
{
	$node->safe_psql('postgres', "CREATE SCHEMA $kind");
	my $sql = $tables;
	$sql =~ s/VACUUM (.*)//s;
	$node->safe_psql('postgres', "SET search_path = $kind; SET default_table_access_method = $am{$kind}; $sql");
	# the same visibility map and reltuples for both
	$node->safe_psql('postgres', "VACUUM $kind.$_") for qw(a b p1 p2 p3 h h1 h2);
}
my $analyze = 'ANALYZE KIND.a, KIND.b, KIND.p, KIND.p1, KIND.p2, KIND.p3, KIND.h, KIND.h1, KIND.h2';
$node->safe_psql('postgres', $analyze =~ s/KIND/plain/gr);

my @queries;
# conditions on one table
my @conditions = ((map { "grp = $_" } 0, 1, 4, 35, 96, 1000), (map { "grp <> $_" } 0, 35),
	(map { "id < $_" } 1, 10, 777, 4000, 9999), (map { "id BETWEEN $_ AND $_ + 500" } 1, 2500, 7900),
	(map { "amount > $_" } 0, 12.5, 50, 99.9), (map { "amount BETWEEN $_ AND 2 * $_" } 1, 20, 60),
	(map { "name = 'name $_'" } 1, 100, 210, 500), (map { "name LIKE 'name $_%'" } 1, 2, 20, 9), "name LIKE '%7'", "name ~ '^name 1[0-9]\$'", "name NOT LIKE 'name 2%'", "name ILIKE 'NAME 1%'",
	(map { "name IN (" . join(', ', map { "'name $_'" } 1 .. $_) . ')' } 1, 3, 20), "grp = ANY ('{1,4,9,16}')", "grp <> ALL ('{1,4}')", "id IN (1, 2, 3, 9000)",
	(map { "at >= '2026-0$_-01'" } 1, 3, 7), "at < '2026-02-01' AND ok", 'ok', 'NOT ok', 'ok IS NULL', 'ok IS NOT TRUE', 'nothing IS NULL', 'nothing IS NOT NULL', 'nothing > 4000',
	(map { "tags \@> '{$_}'" } 'a1', 'b12', 'a1,b2', 'zz'), "tags && '{a1,b3}'", "'a2' = ANY (tags)", "tags <\@ '{a1,b1,b2}'", "tags = '{a1,b1}'",
	(map { "span $_" } "\@> 50", "&& int4range(10, 20)", "<< int4range(50, 60)", "\@> int4range(20, 22)", "= int4range(1, 3)", '< int4range(40, 50)'),
	"code = 'C17'", "code LIKE 'C1%'", "code > 'C5'", 'f < 10', 'f > 50 AND f < 60', "doc @@ 'w1'", "doc @@ 'w1 & v2'", "doc @@ 'w1 | v2'", "doc @@ 'zz'",
	"bits = B'00000001'", "bits < B'00001111'", "u < '80000000-0000-0000-0000-000000000000'", "j \@> '{\"k\": 3}'", "j = '{\"k\": 3}'",
	"lower(name) = 'name 7'", "lower(name) > 'name 5'", "lower(name) LIKE 'name 1%'", 'amount * 2 < 20', 'amount * 2 BETWEEN 30 AND 50', "upper(name) = 'NAME 7'",
	'grp = 4 AND amount > 50', 'grp = 4 OR amount > 50', 'NOT (grp = 4)', "(grp, name) = (4, 'name 2')", 'grp % 7 = 3', 'abs(grp) > 40', 'grp > f', 'id = nothing', 'grp IS DISTINCT FROM 4', 'id > 3 * nothing', "upper(name) LIKE 'NAME 1%'", 'extract(year FROM at) = 2026', "tags[1] = 'a2'", 'amount > (SELECT 50)');
push @queries, map { "SELECT * FROM a WHERE $_" } @conditions;
# groups
push @queries, map { "SELECT $_, count(*) FROM a GROUP BY $_" } 'grp', 'name', 'ok', 'grp, ok', 'name, grp', 'lower(name)', 'amount', 'nothing', 'at', 'u', 'tags', 'code, ok', 'date_trunc($$day$$, at)';
push @queries, map { "SELECT DISTINCT $_ FROM b" } 'kind', 'qty', 'kind, qty', 'a_id', 'a_id, kind';
push @queries, 'SELECT grp FROM a GROUP BY grp HAVING count(*) > 10', 'SELECT name FROM a UNION SELECT kind FROM b', 'SELECT grp FROM a EXCEPT SELECT qty FROM b', 'SELECT grp FROM a WHERE grp < 50 INTERSECT SELECT qty FROM b';
# joins
for my $join ('JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN')
{
	push @queries, map { "SELECT * FROM a $join b ON $_" } 'b.a_id = a.id', 'b.qty = a.grp', 'b.a_id = a.id AND b.qty = a.grp', 'b.id = a.id AND b.qty < 100';
}
push @queries, map { "SELECT * FROM a JOIN b ON b.a_id = a.id WHERE $_" } 'a.grp = 4', "a.name LIKE 'name 1%' AND b.qty < 50", "b.kind = 'kind 2'", 'a.ok AND b.qty BETWEEN 10 AND 20', 'a.amount > b.qty', "lower(a.name) = 'name 7'", 'b.qty IN (1, 2, 3)', 'a.nothing IS NOT NULL';
push @queries, map { "SELECT * FROM a WHERE $_" } 'EXISTS (SELECT FROM b WHERE b.a_id = a.id)', 'NOT EXISTS (SELECT FROM b WHERE b.qty = a.grp)', 'id IN (SELECT a_id FROM b WHERE qty < 10)', 'id NOT IN (SELECT a_id FROM b)', 'grp IN (SELECT qty FROM b)', 'EXISTS (SELECT FROM b WHERE b.a_id = a.id AND b.qty = 7)';
push @queries, 'SELECT * FROM (SELECT grp, max(id) AS m FROM a GROUP BY grp) x JOIN b ON b.a_id = x.m', 'WITH x AS (SELECT * FROM a WHERE grp = 4) SELECT * FROM x JOIN b ON b.a_id = x.id',
	'SELECT * FROM a, b, a c WHERE a.id = b.a_id AND b.qty = c.grp AND c.amount < 10', 'SELECT * FROM a JOIN LATERAL (SELECT * FROM b WHERE b.a_id = a.id AND b.qty > 30) x ON true', 'SELECT b.kind, a.ok, count(*) FROM a JOIN b ON b.a_id = a.id GROUP BY 1, 2';
# partitions and inheritance
push @queries, map { "SELECT * FROM p WHERE $_" } 'id < 500', 'id < 1500', 'id BETWEEN 900 AND 3100', "v = 'v3'", "v = 'v3' AND id < 2000", 'n = 4', 'n < 20', "v LIKE 'v1%'", 'n IN (0, 1, 4)', "v IN ('v1', 'v2') OR n = 7", 'id = 17', 'id > 2999 AND n > 50';
push @queries, map { "SELECT $_, count(*) FROM p GROUP BY $_" } 'v', 'n', 'v, n', 'id';
push @queries, 'SELECT * FROM p JOIN a ON a.id = p.id', 'SELECT * FROM p JOIN a ON a.grp = p.n', "SELECT * FROM p JOIN b ON b.id = p.id WHERE p.v = 'v1'", 'SELECT * FROM p x JOIN p y ON x.id = y.id', 'SELECT * FROM p x JOIN p y ON x.n = y.n', 'SELECT * FROM p2 WHERE n = 4', "SELECT * FROM p3 WHERE v = 'v5'";
push @queries, map { ("SELECT * FROM h WHERE $_", "SELECT * FROM ONLY h WHERE $_") } "v = 'h1'", "v = 'j3'", "v > 'i'", 'id < 100', 'id BETWEEN 1200 AND 1900', "v LIKE 'h%'", 'id IN (5, 6)';
push @queries, map { "SELECT $_, count(*) FROM h GROUP BY $_" } 'v', 'id';
push @queries, 'SELECT * FROM h JOIN a ON a.id = h.id', "SELECT * FROM h1 WHERE extra = 3", "SELECT * FROM h2 WHERE v = 'j3'", 'SELECT * FROM h x JOIN h y ON x.v = y.v', 'UPDATE b SET qty = 0 WHERE qty < 30', "DELETE FROM h WHERE v = 'i1'";

# Rows and widths that the planner expects, of all queries
sub estimates
{
	my ($kind) = @_;
	my $sql = "SET search_path = $kind, public; SET max_parallel_workers_per_gather = 0; SET jit = off;\n";

	$sql .= "EXPLAIN (FORMAT JSON) $_;\n\\echo ----\n" for @queries;
	my @plans = split(/^----$/m, $node->safe_psql('postgres', $sql));
	my @found;
	for my $i (0 .. $#queries)
	{
		my $plan = decode_json($plans[$i])->[0]{Plan};
		# what is changed is below
		$plan = $plan->{Plans}[0] if $plan->{'Node Type'} eq 'ModifyTable';
		push @found, "$plan->{'Plan Rows'} rows of $plan->{'Plan Width'}";
	}
	return @found;
}

sub different
{
	my ($plain, $sealed) = @_;

	return grep { $plain->[$_] ne $sealed->[$_] } 0 .. $#queries;
}

cmp_ok(scalar(@queries), '>=', 200, scalar(@queries) . ' queries');
my @plain = estimates('plain');
my @before = estimates('sealed');
my @missed = different(\@plain, \@before);
note(scalar(@missed) . ' of ' . scalar(@queries) . ' differ without statistics');
cmp_ok(scalar(@missed), '>', 100, 'without statistics the planner guesses otherwise');
$node->safe_psql('postgres', $analyze =~ s/KIND/sealed/gr);
my @after = estimates('sealed');
my @wrong = different(\@plain, \@after);
is(scalar(@wrong), 0, 'with sealed statistics it expects what it expects of the plain twin');
diag("$queries[$_]: plain $plain[$_], sealed $after[$_]") for @wrong;
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid WHERE c.relnamespace = 'sealed'::regnamespace"), '0',
	'and pg_statistic knows nothing of it');

# One session, in which the cache serves what was read before, and a parallel plan
is($node->safe_psql('postgres', "SET search_path = sealed; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	PREPARE q AS SELECT count(*) FROM a JOIN b ON b.a_id = a.id WHERE a.grp = \$1; EXECUTE q(4); EXECUTE q(4); ANALYZE a; EXECUTE q(4)"),
	join("\n", ($node->safe_psql('postgres', 'SELECT count(*) FROM plain.a JOIN plain.b ON b.a_id = a.id WHERE a.grp = 4')) x 3), 'prepared statements see new statistics and the same rows');

$node->stop;
done_testing();
