# Twins: a plain heap table with plain b-trees and a sealed one with sealed
# b-trees, filled with the same random rows.  Random statements are run on both
# and have to say the same.  Everything follows from one seed.

package CmekTwins;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(twins_setup twins_make twins_queries twins_change twin_shapes);

# name, columns (c1 is always there), index definitions, and a literal of c1
# (c2) out of a random number.  NAME is the table, COL the collation
my @shapes = (
	[ 'int8', 'c1 int8', [ '(c1)' ], sub { int($_[0] % 400) . '::int8' } ],
	[ 'int4desc', 'c1 int4', [ '(c1 DESC NULLS LAST)' ], sub { int($_[0] % 300 - 150) } ],
	[ 'int2first', 'c1 int2', [ '(c1 NULLS FIRST)' ], sub { int($_[0] % 90) . '::int2' } ],
	[ 'text', 'c1 text', [ '(c1)' ], sub { "'" . substr('lorem ipsum dolor', $_[0] % 9, $_[0] % 7) . ($_[0] % 40) . "'" } ],
	[ 'longtext', 'c1 text', [ '(c1)' ], sub { "repeat('ab" . ($_[0] % 60) . "', " . (1 + $_[0] % 700) . ')' } ],
	[ 'textc', 'c1 text COLLATE "C"', [ '(c1 text_pattern_ops)', '(c1)' ], sub { "'" . chr(97 + $_[0] % 26) . ($_[0] % 99) . "'" } ],
	[ 'icu', 'c1 text COLLATE "und-x-icu"', [ '(c1)' ], sub { "'" . (qw(a A ä b Z z é e))[ $_[0] % 8 ] . ($_[0] % 30) . "'" } ],
	[ 'varchar', 'c1 varchar(20)', [ '(c1)' ], sub { "'" . ($_[0] % 500) . "'::varchar" } ],
	[ 'bpchar', 'c1 char(12)', [ '(c1)' ], sub { "'" . ($_[0] % 500) . " '::bpchar" } ],
	[ 'name', 'c1 name', [ '(c1)' ], sub { "'n" . ($_[0] % 200) . "'::name" } ],
	[ 'numeric', 'c1 numeric', [ '(c1)' ], sub { '(' . ($_[0] % 977) . "/7.0)::numeric(20,6)" } ],
	[ 'float8', 'c1 float8', [ '(c1)' ], sub { $_[0] % 50 == 0 ? "'NaN'::float8" : ($_[0] % 211) . '/3.0::float8' } ],
	[ 'uuid', 'c1 uuid', [ '(c1)' ], sub { "md5('" . ($_[0] % 300) . "')::uuid" } ],
	[ 'timestamptz', 'c1 timestamptz', [ '(c1)' ], sub { "'2020-01-01Z'::timestamptz + " . ($_[0] % 500) . " * interval '1 hour'" } ],
	[ 'date', 'c1 date', [ '(c1)' ], sub { "'2020-01-01'::date + " . ($_[0] % 300) } ],
	[ 'interval', 'c1 interval', [ '(c1)' ], sub { ($_[0] % 300) . " * interval '1 day 2 seconds'" } ],
	[ 'bool', 'c1 bool', [ '(c1)' ], sub { $_[0] % 2 ? 'true' : 'false' } ],
	[ 'bytea', 'c1 bytea', [ '(c1)' ], sub { "decode(md5('" . ($_[0] % 300) . "'), 'hex')" } ],
	[ 'inet', 'c1 inet', [ '(c1)' ], sub { "'10.0." . ($_[0] % 9) . '.' . ($_[0] % 200) . "'::inet" } ],
	[ 'macaddr', 'c1 macaddr', [ '(c1)' ], sub { sprintf("'08:00:2b:01:02:%02x'::macaddr", $_[0] % 200) } ],
	[ 'array', 'c1 int[]', [ '(c1)' ], sub { 'ARRAY[' . ($_[0] % 20) . ',' . ($_[0] % 7) . ']' } ],
	[ 'range', 'c1 int4range', [ '(c1)' ], sub { 'int4range(' . ($_[0] % 50) . ',' . ($_[0] % 50 + 1 + $_[0] % 3) . ')' } ],
	[ 'jsonb', 'c1 jsonb', [ '(c1)' ], sub { "jsonb_build_object('a', " . ($_[0] % 100) . ')' } ],
	[ 'record', 'c1 twin_record', [ '(c1)' ], sub { "ROW(" . ($_[0] % 30) . ", 'r" . ($_[0] % 5) . "')::twin_record" } ],
	[ 'enum', 'c1 twin_enum', [ '(c1)' ], sub { "'" . (qw(red green blue))[ $_[0] % 3 ] . "'::twin_enum" } ],
	[ 'domain', 'c1 twin_domain', [ '(c1)' ], sub { ($_[0] % 100) . '::twin_domain' } ],
	[ 'own_class', 'c1 int4', [ '(c1 twin_ops)' ], sub { int($_[0] % 200) }, 'noorder' ],
	[ 'oid', 'c1 oid', [ '(c1)' ], sub { ($_[0] % 200) . '::oid' } ],
	[ 'char', 'c1 "char"', [ '(c1)' ], sub { "'" . chr(97 + $_[0] % 26) . "'::\"char\"" } ],
	[ 'float4', 'c1 float4', [ '(c1)' ], sub { ($_[0] % 211) . '/4.0::float4' } ],
	[ 'timetz', 'c1 timetz', [ '(c1)' ], sub { "'12:00Z'::timetz + " . ($_[0] % 300) . " * interval '1 minute'" } ],
	[ 'lengths', 'c1 uuid', [ '(c2, c1, c3)', '(c3, c1 DESC, c2 NULLS FIRST) INCLUDE (id)' ], sub { "md5('" . ($_[0] % 30) . "')::uuid" } ],
	[ 'include', 'c1 int4', [ '(c1) INCLUDE (c2, c3)' ], sub { int($_[0] % 200) } ],
	[ 'two', 'c1 int4', [ '(c1, c2 DESC, c3)', '(c3, c1)' ], sub { int($_[0] % 40) } ],
	[ 'partial', 'c1 int4', [ '(c1) WHERE c2 > 20', '(c2) WHERE c1 IS NULL' ], sub { int($_[0] % 200) } ],
	[ 'expression', 'c1 int4', [ '((c1 % 17))', '(lower(c3))', '((c1 + c2), c3)' ], sub { int($_[0] % 200) } ],
	[ 'clear_tids', 'c1 int4', [ '(c1) WITH (hide_tids = off)' ], sub { int($_[0] % 200) } ],
	[ 'sparse', 'c1 int4', [ '(c1, c2) WITH (fillfactor = 40)' ], sub { int($_[0] % 20) } ],
);

sub twin_shapes { return map { $_->[0] } @shapes; }

# Functions both twins need.  twin_ask() compares the two answers, row by row
sub twins_setup
{
	my ($node) = @_;

	$node->safe_psql('postgres', q{
		CREATE TYPE twin_record AS (a int, b text);
		CREATE TYPE twin_enum AS ENUM ('red', 'green', 'blue');
		CREATE DOMAIN twin_domain AS int CHECK (VALUE >= 0);
		-- an operator class whose order is another, and which is written in SQL
		CREATE FUNCTION twin_cmp(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
			$$BEGIN RETURN (SELECT btint4cmp(-$1, -$2)); END$$;
		CREATE FUNCTION twin_lt(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 > $2';
		CREATE FUNCTION twin_le(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 >= $2';
		CREATE FUNCTION twin_ge(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 <= $2';
		CREATE FUNCTION twin_gt(int, int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 < $2';
		CREATE OPERATOR <^ (LEFTARG = int, RIGHTARG = int, FUNCTION = twin_lt);
		CREATE OPERATOR <=^ (LEFTARG = int, RIGHTARG = int, FUNCTION = twin_le);
		CREATE OPERATOR >=^ (LEFTARG = int, RIGHTARG = int, FUNCTION = twin_ge);
		CREATE OPERATOR >^ (LEFTARG = int, RIGHTARG = int, FUNCTION = twin_gt);
		CREATE OPERATOR CLASS twin_ops FOR TYPE int4 USING btree AS
			OPERATOR 1 <^, OPERATOR 2 <=^, OPERATOR 3 =, OPERATOR 4 >=^, OPERATOR 5 >^,
			FUNCTION 1 twin_cmp(int, int);
		CREATE FUNCTION twin_answer(q text) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
			answer text;
		BEGIN
			EXECUTE 'SELECT count(*) || '' '' || md5(coalesce(string_agg(r::text, ''|''), '''')) FROM (' || q || ') r' INTO answer;
			RETURN answer;
		EXCEPTION WHEN OTHERS THEN
			RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, 'twin_[ps]_', 'twin_', 'g');
		END$$;
		CREATE TABLE twin_asked (q text, plain text, sealed text);
		CREATE FUNCTION twin_ask(q text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO twin_asked VALUES (q, twin_answer(replace(q, 'NAME', 'twin_p')), twin_answer(replace(q, 'NAME', 'twin_s')));
		END$$;
		CREATE FUNCTION twin_do(q text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			EXECUTE replace(q, 'NAME', 'twin_p');
			EXECUTE replace(q, 'NAME', 'twin_s');
		END$$;
	});
	return;
}

# Make the twins of a shape, filled; half of the indexes before the rows
sub twins_make
{
	my ($node, $shape, $rows, $rand) = @_;
	my ($s) = grep { $_->[0] eq $shape } @shapes;
	my ($name, $columns, $indexes, $literal) = @$s;
	my @values;
	my $sql = "SET client_min_messages = error;\n";
	my @index_sql;

	for my $am (qw(heap cmek_heap))
	{
		my $t = $am eq 'heap' ? "twin_p_$name" : "twin_s_$name";
		$sql .= "CREATE TABLE $t (id int, $columns, c2 int, c3 text) USING $am;\n";
		for my $i (0 .. $#$indexes)
		{
			my $def = $indexes->[$i];
			$def =~ s/ WITH \(hide_tids = off\)// if $am eq 'heap';
			push @index_sql, "CREATE INDEX ON $t $def;\n";
		}
	}
	my $before = $rand->(2);
	$sql .= join('', @index_sql) if $before;
	for my $id (1 .. $rows)
	{
		push @values, sprintf('(%d, %s, %s, %s)', $id,
			$rand->(20) == 0 ? 'NULL' : $literal->($rand->(100000)),
			$rand->(15) == 0 ? 'NULL' : $rand->(60), $rand->(15) == 0 ? 'NULL' : "'t" . $rand->(50) . "'");
	}
	for my $t ("twin_p_$name", "twin_s_$name")
	{
		$sql .= "INSERT INTO $t VALUES " . join(",\n", @values) . ";\n";
	}
	$sql .= join('', @index_sql) unless $before;
	$sql .= "ANALYZE twin_p_$name, twin_s_$name;\n";
	$node->safe_psql('postgres', $sql);
	return;
}

# A condition on the columns
sub condition
{
	my ($literal, $rand) = @_;
	my @ops = ('=', '<', '<=', '>', '>=');
	my $v = sub { $literal->($rand->(100000)) };
	my $op = $ops[ $rand->(5) ];

	return (
		"c1 $op " . $v->(),
		"c1 = " . $v->(),
		"c1 >= " . $v->() . " AND c1 < " . $v->(),
		"c1 IN (" . join(', ', map { $v->() } 0 .. $rand->(5)) . ")",
		"c1 $op ANY (ARRAY[" . join(', ', map { $v->() } 0 .. 2) . "])",
		"c1 IS NULL",
		"c1 IS NOT NULL AND c2 < " . $rand->(60),
		"c1 = " . $v->() . " AND c2 $op " . $rand->(60),
		"c1 IN (" . $v->() . ', ' . $v->() . ") AND c2 IN (" . $rand->(60) . ', ' . $rand->(60) . ', NULL)',
		"(c1, c2) $ops[1 + $rand->(4)] (" . $v->() . ', ' . $rand->(60) . ')',
		"c3 = 't" . $rand->(50) . "'",
		"lower(c3) = 't" . $rand->(50) . "'",
		"c2 > 20 AND c1 $op " . $v->(),
		"c2 = " . $rand->(60),
		'true')[ $rand->(15) ];
}

my @plans = (
	'enable_seqscan = off, enable_bitmapscan = off',
	'enable_seqscan = off, enable_indexscan = off',
	'enable_seqscan = off, enable_bitmapscan = off, enable_indexonlyscan = off',
	'enable_seqscan = on',
);

# Random queries on the twins of a shape
sub twins_queries
{
	my ($node, $shape, $n, $rand, $when) = @_;
	my ($s) = grep { $_->[0] eq $shape } @shapes;
	my ($name, $columns, $indexes, $literal) = @$s;
	my $sql = "SET client_min_messages = error;\n";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $i (1 .. $n)
	{
		my $where = condition($literal, $rand);
		my $dir = $rand->(2) ? '' : ' DESC';
		my $nulls = (' NULLS FIRST', ' NULLS LAST', '')[ $rand->(3) ];
		my $plan = $plans[ $rand->(4) ];
		my $q = (
			"SELECT * FROM NAME_$name WHERE $where ORDER BY id, c2, c3, c1::text",
			"SELECT c1 FROM NAME_$name WHERE $where ORDER BY c1$dir$nulls",
			"SELECT c1, c2 FROM NAME_$name WHERE $where ORDER BY c1$dir, c2, id LIMIT " . (1 + $rand->(20)),
			"SELECT count(*), min(id), max(id) FROM NAME_$name WHERE $where",
			"SELECT min(c2), max(c2) FROM NAME_$name WHERE $where",
			"SELECT a.id, b.id AS other FROM NAME_$name a JOIN NAME_$name b USING (c1) WHERE a.id < 10 AND b.id < 300 ORDER BY 1, 2",
			"SELECT DISTINCT c1 FROM NAME_$name ORDER BY c1$dir")[ $rand->(7) ];

		$sql .= "SET enable_seqscan = on; SET enable_bitmapscan = on; SET enable_indexscan = on; SET enable_indexonlyscan = on;\n";
		$sql .= "SET $_;\n" for split(/, /, $plan);
		$q =~ s/'/''/g;
		$sql .= "SELECT twin_ask('$q');\n";
	}
	$node->safe_psql('postgres', "TRUNCATE twin_asked;\n$sql");
	my $bad = $node->safe_psql('postgres', 'SELECT * FROM twin_asked WHERE plain IS DISTINCT FROM sealed LIMIT 5');
	my $asked = $node->safe_psql('postgres', q{SELECT count(*) FROM twin_asked WHERE plain !~ '^[0-9A-Z]{5} '});
	is($bad, '', "$shape: $n queries $when");
	return $asked;
}

# Random changes on both
sub twins_change
{
	my ($node, $shape, $n, $rand) = @_;
	my ($s) = grep { $_->[0] eq $shape } @shapes;
	my ($name, $columns, $indexes, $literal) = @$s;
	my $sql = '';

	for my $i (1 .. $n)
	{
		my $from = $rand->(1000);
		my $to = $from + $rand->(60);
		my $v = $literal->($rand->(100000));
		my $q = (
			"DELETE FROM NAME_$name WHERE id BETWEEN $from AND $to",
			"UPDATE NAME_$name SET c2 = c2 + 1 WHERE id BETWEEN $from AND $to",
			"UPDATE NAME_$name SET c1 = $v WHERE id BETWEEN $from AND $to",
			"INSERT INTO NAME_$name SELECT g, $v, g % 60, ''t'' || g % 50 FROM generate_series($from, $to) g",
			"UPDATE NAME_$name SET id = id WHERE id BETWEEN $from AND $to")[ $rand->(5) ];
		$q =~ s/(?<!')'(?!')/''/g;
		$sql .= "SELECT twin_do('$q');\n";
		$sql .= "BEGIN; SAVEPOINT s; SELECT twin_do('$q'); ROLLBACK TO s; COMMIT;\n" if $rand->(4) == 0;
	}
	$node->safe_psql('postgres', "SET client_min_messages = error;\n$sql");
	return;
}

1;
