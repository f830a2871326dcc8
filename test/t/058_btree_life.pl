# What nbtree does with entries over time, it does in sealed indexes, too: dead
# ones are killed by scans, versions that nobody needs are deleted before a page
# is split, empty pages are deleted and used again, marked positions are restored.
# And datums in the place of others, of another column or index: an error.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekTamper;

my $node = cmek_node('life', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'" ]);
my $by_index = 'SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;';

sub one
{
	return $node->safe_psql('postgres', $_[0]);
}

sub size { return one("SELECT pg_relation_size('$_[0]')") }

# How many line pointers of an index are dead, in its file
sub dead_items
{
	one('CHECKPOINT');
	my $bytes = slurp_binary(relation_file($node, $_[0]));
	my $dead = 0;

	for my $block (1 .. length($bytes) / PAGE - 1)
	{
		my $lower = unpack('v', substr($bytes, $block * PAGE + 12, 2));
		$dead += grep { (($_ >> 15) & 3) == 3 } unpack('V*', substr($bytes, $block * PAGE + PAGE_HEADER, $lower - PAGE_HEADER));
	}
	return $dead;
}

# Killed by the scan that finds them dead
one(q{CREATE TABLE k (id int, t text) USING cmek_heap; INSERT INTO k SELECT i, 'x' FROM generate_series(1, 2000) i;
	CREATE INDEX k_id ON k (id); DELETE FROM k WHERE id % 2 = 0});
is(dead_items('k_id'), '0', 'nothing is killed yet');
is(one("$by_index SELECT count(t) FROM k WHERE id > 0"), '1000', 'the rest is found');
cmp_ok(dead_items('k_id'), '>', 900, 'and entries of dead rows are killed');
is(one("$by_index SELECT count(t) FROM k WHERE id > 0"), '1000', 'the rest is found again');
is(one("INSERT INTO k SELECT i, 'y' FROM generate_series(1, 2000) i WHERE i % 2 = 0; $by_index SELECT count(t) FROM k WHERE id > 0"), '2000', 'and what comes in their place');

# Dead entries which no scan has killed go with killed ones that lead to the
# same blocks, wherever they are in the page; as many as without hidden TIDs.
# Rows that live stay.
sub churn
{
	my ($hide) = @_;
	my $t = "churn_$hide";

	return one(qq{CREATE TABLE $t (key int, data text) USING cmek_heap; CREATE INDEX ${t}_key ON $t (key) WITH (hide_tids = $hide);
		INSERT INTO $t VALUES (-1, 'one page'), (1000, 'it stays');
		SET enable_seqscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;
		DO \$\$ BEGIN
			FOR i IN 1 .. 100 LOOP
				BEGIN
					PERFORM FROM $t WHERE key BETWEEN 4 AND 40 AND data > '';
					PERFORM FROM $t WHERE key BETWEEN 45 AND 97 AND data > '';
					INSERT INTO $t SELECT g, 'not for long' FROM generate_series(1, 100) g;
					RAISE division_by_zero;
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
			END LOOP;
		END \$\$;
		SELECT pg_relation_size('${t}_key'), count(*) FILTER (WHERE data > '') FROM $t WHERE key > -5;
		SELECT count(*) FROM cmek.verify('$t')});
}
is(churn('off'), (2 * PAGE) . "|2\n0", 'without hidden TIDs, entries of aborted rows make room in their page');
is(churn('on'), (2 * PAGE) . "|2\n0", 'with hidden TIDs as well');

# Versions of rows whose indexed value stays: deleted when a page is full, but
# not while somebody may need them
sub grow
{
	my ($table) = @_;

	one(qq{CREATE TABLE $table (id int, v int) USING cmek_heap; INSERT INTO $table SELECT i, 0 FROM generate_series(1, 300) i;
		CREATE INDEX ${table}_id ON $table (id); CREATE INDEX ${table}_v ON $table (v)});
	return size("${table}_id");
}
my $begin = grow('free');
grow('held');
one('UPDATE free SET v = v + 1') for 1 .. 60;
my $held = $node->background_psql('postgres');
$held->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM held');
one('UPDATE held SET v = v + 1') for 1 .. 60;
my ($free_size, $held_size) = (size('free_id'), size('held_id'));
$held->quit;
note("300 entries, 60 updates: $begin, then $free_size; with an old snapshot $held_size");
cmp_ok($held_size, '>', 60 * 300 * 40, 'a version that somebody may need stays');
cmp_ok($free_size, '<', $held_size / 3, 'the others are deleted when their page is full');
is(one("$by_index SELECT count(*), min(v), max(v) FROM free WHERE id > 0"), '300|60|60', 'and the rows are right');
is(one("SELECT count(*) FROM cmek.verify('free')"), '0', 'verify, too');

# Pages
one(q{CREATE TABLE p (id int, t text) USING cmek_heap; INSERT INTO p SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
	CREATE INDEX p_id ON p (id) WITH (fillfactor = 70); DELETE FROM p WHERE id BETWEEN 2001 AND 18000});
my $pages = size('p_id');
my ($out, $err);
$node->psql('postgres', 'VACUUM (VERBOSE) p', stderr => \$err);
my ($deleted) = $err =~ /index "p_id": pages: \d+ in total, (\d+) newly deleted/;
cmp_ok($deleted || 0, '>', 100, 'vacuum deletes empty pages');
is(one("$by_index SELECT count(*) FROM (SELECT id FROM p WHERE id > 0 ORDER BY id) s"), '4000', 'scans go over the gap');
is(one("$by_index SELECT string_agg(id::text, ' ') FROM (SELECT id FROM p WHERE id BETWEEN 1999 AND 18002 ORDER BY id DESC) s"), '18002 18001 2000 1999', 'and back');
# no transaction may be as old as the deletion
one('SELECT pg_current_xact_id()');
one('VACUUM p; INSERT INTO p SELECT i, md5(i::text) FROM generate_series(30001, 44000) i');
cmp_ok(size('p_id'), '<=', 1.1 * $pages, 'deleted pages are used again');
is(one("$by_index SELECT count(*) FROM (SELECT id FROM p WHERE id > 0 ORDER BY id) s"), '18000', 'all rows are found');
is(one("SELECT count(*) FROM cmek.verify('p')"), '0', 'verify, too');

# Marks: a merge join that goes back for each equal key
one(q{CREATE TABLE m1 (k int, n int) USING cmek_heap; CREATE TABLE m2 (LIKE m1) USING cmek_heap;
	INSERT INTO m1 SELECT i % 40, i FROM generate_series(1, 400) i; INSERT INTO m2 SELECT i % 30, i FROM generate_series(1, 900) i;
	CREATE INDEX ON m1 (k); CREATE INDEX ON m2 (k); VACUUM ANALYZE m1, m2});
my $join = 'SELECT count(*), sum(m1.n), sum(m2.n) FROM m1 JOIN m2 USING (k)';
my $merge = "$by_index SET enable_hashjoin = off; SET enable_nestloop = off; SET enable_material = off;";
like(one("$merge EXPLAIN $join"), qr/Merge Join.*Index Scan.*Index Scan/s, 'a merge join of two indexes');
is(one("$merge $join"), one("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_mergejoin = off; $join"), 'goes back to its marks');

# Skip scans (18): the leading column is not asked for, so nbtree makes the
# values of it up, from sealed datums that it copies
one(q{CREATE TABLE sk (a int, b int, c text) USING cmek_heap;
	INSERT INTO sk SELECT i % 4, i, i::text FROM generate_series(1, 20000) i;
	CREATE INDEX ON sk (a, b); VACUUM ANALYZE sk});
my $skip = 'SELECT count(c) || $$ $$ || sum(a) FROM sk WHERE b IN (77, 78, 400, 19999, 50000)';
is(one("$by_index $skip"), '4 6', 'a column in front that is not asked for');
like(one("$by_index EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) $skip"), qr/Index Scan.*Index Searches: ([4-9]|\d\d)/s, '... skips')
	if $node->pg_version >= 18;
is(one("$by_index SELECT string_agg(c, ' ' ORDER BY b) FROM sk WHERE b BETWEEN 3 AND 9 AND a > 0 AND a < 3"), '5 6 9', '... also between bounds');

# Datums of two columns of one entry in each other's place, and of two indexes
one(q{CREATE TABLE s (a int, b int, c int) USING cmek_heap; INSERT INTO s SELECT i, i + 1000, i FROM generate_series(1, 100) i;
	CREATE INDEX s_ab ON s (a, b); CREATE INDEX s_c ON s (c); CREATE INDEX s_a ON s (a); CHECKPOINT});
my $datum = 12 + 4 + 16;    # nonce, int, tag
my %file = map { $_ => relation_file($node, $_) } qw(s_ab s_a s_c);
$node->stop;
edit_file($file{s_ab}, sub {
		my ($bytes, @items) = @_;
		my ($item) = grep { $_->{block} == 1 && $_->{len} >= 8 + 2 * $datum } @items;
		BAIL_OUT('no entry of two columns') unless $item;
		my $at = $item->{at} + 8;
		substr($$bytes, $at, 2 * $datum) = substr($$bytes, $at + $datum, $datum) . substr($$bytes, $at, $datum);
	});
my $other = slurp_binary($file{s_c});
spew_binary($file{s_a}, $other);
$node->start;
fails_with($node, 'XX002', "$by_index SELECT a, b FROM s WHERE a > 0 ORDER BY a", 'datums of two columns, swapped');
fails_with($node, 'XX002', "$by_index SELECT a FROM s WHERE a > 0 ORDER BY a", 'the file of another index of the table');
is(one("$by_index SELECT count(c) FROM s WHERE c > 0"), '100', 'which itself is good');
is(one('REINDEX TABLE s; SELECT count(*) FROM cmek.verify($$s$$)'), '0', 'REINDEX mends both');

# No SQL makes a sealed value, or the form that search arguments have in memory;
# not even that of a superuser who makes a cast, in a session without a cookie
fails_with($node, '0A000', q{SELECT 'x'::cmek.sealed}, 'no input');
like(error_text($node, q{COPY (SELECT 1) TO '/dev/null'; CREATE TEMP TABLE r (c cmek.sealed); COPY r FROM '/dev/null' (FORMAT binary)}),
	qr/no binary input function/, 'no binary input');
is(one(q{
	CREATE CAST (bytea AS cmek.sealed) WITHOUT FUNCTION;
	CREATE FUNCTION try(b bytea) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		RETURN cmek.sealed_cmp(b::cmek.sealed, b::cmek.sealed);
	EXCEPTION WHEN feature_not_supported THEN
		RETURN 'refused';
	END$$}) . one(q{
	SELECT string_agg(DISTINCT try(decode(repeat(byte, n), 'hex')), ' ') FROM generate_series(0, 300) n, unnest('{00,01,ff}'::text[]) byte}),
	'refused', 'bytes of any length are refused');
# nor while nbtree is at work for it: what a comparison function of an index is up to
one(q{CREATE FUNCTION spy_cmp(int, int) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE replace(current_setting('spy.ask'), 'BYTES', quote_literal(decode(repeat('5a', current_setting('spy.len')::int), 'hex')) || '::bytea::cmek.sealed');
		RETURN btint4cmp($1, $2);
	END$$;
	CREATE OPERATOR CLASS spy_ops FOR TYPE int4 USING btree AS
		OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 spy_cmp(int, int);
	CREATE TABLE spied (a int, b int) USING cmek_heap; CREATE INDEX ON spied (a spy_ops); INSERT INTO spied VALUES (1)});
is(sqlstate($node, q{SET spy.len = 0; SET spy.ask = 'SELECT 1'; INSERT INTO spied VALUES (2)}), '', 'a comparison that minds its business');
my $sort = 'SELECT x FROM (VALUES (BYTES), (BYTES)) v(x) ORDER BY x USING OPERATOR(cmek.<)';
my $build = 'CREATE TEMP TABLE tq AS SELECT BYTES x FROM generate_series(1, 3); CREATE INDEX ON tq (x cmek.sealed_ops)';
for ([ $sort, 'INSERT INTO spied VALUES (3)' ], [ $build, 'INSERT INTO spied VALUES (3)' ], [ $sort, 'REINDEX TABLE spied' ])
{
	my ($ask, $statement) = @$_;

	fails_with($node, '0A000', "SET spy.len = 1; SET spy.ask = '$ask'; $statement", "one that sorts such values in $statement: $ask");
}
for my $len (0, 32, 52, 60, 200)
{
	for my $ask ('SELECT cmek.sealed_cmp(BYTES, BYTES)', 'SELECT BYTES::text')
	{
		fails_with($node, '0A000', "SET spy.len = $len; SET spy.ask = '$ask'; INSERT INTO spied VALUES (3)", "one that asks for more, with $len bytes: $ask");
	}
}
# A unique index built beside rows that are dead but not for everybody: nbtree
# merges two sorts
one('CREATE TABLE merged (a int) USING cmek_heap; INSERT INTO merged SELECT generate_series(1, 500)');
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM merged');
one('DELETE FROM merged WHERE a % 2 = 0');
is(one("CREATE UNIQUE INDEX ON merged (a); $by_index SELECT count(*) FROM merged WHERE a > 0; SELECT count(*) FROM cmek.verify('merged')"), "250\n0", 'dead rows, sorted apart');
$reader->query_safe('COMMIT');
$reader->quit;

# A comparison function may catch errors of its own: what nbtree does for us goes on
one(q{CREATE FUNCTION calm_cmp(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
		RETURN btint4cmp($1, $2);
	END$$;
	CREATE OPERATOR CLASS calm_ops FOR TYPE int4 USING btree AS
		OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 calm_cmp(int, int)});
for my $am (qw(heap cmek_heap))
{
	is(one(qq{CREATE TABLE calm (a int) USING $am; INSERT INTO calm SELECT i % 40 FROM generate_series(1, 41) i; SELECT 1}), '1', "twins, in $am");
	like(error_text($node, 'CREATE UNIQUE INDEX ON calm (a calm_ops)'), qr/23505.*Key \(a\)=\(1\) is duplicated/s, 'are found by such a function, and shown');
	is(one('DELETE FROM calm WHERE ctid = (SELECT max(ctid) FROM calm); CREATE UNIQUE INDEX ON calm (a calm_ops); SELECT count(*) FROM calm; DROP TABLE calm'), '40', 'and then there are none');
}
is(one(q{DROP TABLE spied; DROP FUNCTION try; DROP CAST (bytea AS cmek.sealed); SELECT 1}), '1', 'and the server lives');

done_testing();
