-- Sealed planner statistics: what ANALYZE would have put into pg_statistic,
-- sealed in cmek.statistic; plain twins say what is right.  Below 300 rows for
-- each unit of the target everything is sampled, so both see the same rows.
SET client_min_messages = warning;
CREATE SCHEMA stat_p;
CREATE SCHEMA stat_s;
CREATE TYPE stat_mood AS ENUM ('sad', 'ok', 'happy');

-- the same in both schemas
CREATE FUNCTION pg_temp.both(stmt text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('search_path', 'stat_p, public', true), set_config('default_table_access_method', 'heap', true);
	EXECUTE stmt;
	PERFORM set_config('search_path', 'stat_s, public', true), set_config('default_table_access_method', 'cmek_heap', true);
	EXECUTE stmt;
END $$;
-- statistics of one schema, as text; indexes by the name they have in both
CREATE VIEW pg_temp.plain AS SELECT tablename, attname, inherited, null_frac, avg_width, n_distinct,
	most_common_vals::text, most_common_freqs, histogram_bounds::text, correlation,
	most_common_elems::text, most_common_elem_freqs, elem_count_histogram
	FROM pg_stats WHERE schemaname = 'stat_p';
CREATE VIEW pg_temp.sealed AS SELECT tablename, attname, inherited, null_frac, avg_width, n_distinct,
	most_common_vals, most_common_freqs, histogram_bounds, correlation,
	most_common_elems, most_common_elem_freqs, elem_count_histogram
	FROM cmek.stats WHERE schemaname = 'stat_s';
CREATE FUNCTION pg_temp.differences() RETURNS TABLE (side text, tablename name, attname name, inherited bool) LANGUAGE sql AS $$
	(SELECT 'plain', tablename, attname, inherited FROM (SELECT * FROM pg_temp.plain EXCEPT SELECT * FROM pg_temp.sealed) a)
	UNION ALL
	(SELECT 'sealed', tablename, attname, inherited FROM (SELECT * FROM pg_temp.sealed EXCEPT SELECT * FROM pg_temp.plain) b)
	ORDER BY 1, 2, 3, 4 $$;
CREATE FUNCTION pg_temp.in_clear() RETURNS int8 LANGUAGE sql AS $$
	SELECT count(*) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid WHERE c.relnamespace = 'stat_s'::regnamespace $$;

SELECT pg_temp.both($$CREATE TABLE t (id int PRIMARY KEY, grp int, name text, amount numeric, at timestamptz,
	ok bool, tags text[], span int4range, mood public.stat_mood, pt point, doc tsvector, nothing int, long text, gone int, none int)$$);
SELECT pg_temp.both($$ALTER TABLE t ALTER none SET STATISTICS 0, ALTER grp SET (n_distinct = 77), ALTER name SET STATISTICS 20$$);
SELECT pg_temp.both($$INSERT INTO t SELECT i, i % 17, 'name ' || (i * i) % 101, (i * 7919) % 1000 / 10.0,
	'2026-01-01Z'::timestamptz + i * interval '1 hour', CASE i % 3 WHEN 0 THEN true WHEN 1 THEN false END,
	ARRAY['a' || i % 5, 'b' || i % 3], int4range(i % 50, i % 50 + i % 9 + 1), (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::public.stat_mood,
	point(i, i), to_tsvector('simple', 'w' || i % 7 || ' v' || i % 11), NULL, repeat('x', 3000 + i % 4), i, i
	FROM generate_series(1, 2500) i$$);
SELECT pg_temp.both('ALTER TABLE t DROP gone');
SELECT pg_temp.both($$CREATE INDEX t_expr ON t (lower(name), (amount * 2))$$);
SELECT pg_temp.both($$CREATE INDEX t_part ON t ((id % 10)) WHERE ok$$);
ANALYZE stat_p.t;
ANALYZE stat_s.t;
SELECT count(*) AS columns, count(most_common_vals) > 0 AS mcv, count(histogram_bounds) > 0 AS histogram,
	count(correlation) > 0 AS correlation, count(most_common_elems) > 0 AS elements FROM pg_temp.plain;
SELECT * FROM pg_temp.differences();
SELECT pg_temp.in_clear();
SELECT p.reltuples, p.reltuples = s.reltuples AS same FROM pg_class p, pg_class s WHERE p.oid = 'stat_p.t'::regclass AND s.oid = 'stat_s.t'::regclass;

SELECT p.reltuples BETWEEN 800 AND 870 AS of_the_partial, p.reltuples = s.reltuples AS same FROM pg_class p, pg_class s
	WHERE p.oid = 'stat_p.t_part'::regclass AND s.oid = 'stat_s.t_part'::regclass;

-- columns that are named only; a second time; inside of a transaction
SELECT pg_temp.both($$UPDATE t SET grp = id, name = 'changed', amount = 1 WHERE id <= 1000$$);
VACUUM stat_p.t, stat_s.t;
SET search_path = stat_s;
ANALYZE stat_p.t (name, mood), t (name, mood);
RESET search_path;
SELECT * FROM pg_temp.differences();
BEGIN;
ANALYZE stat_p.t; ANALYZE stat_s.t; ANALYZE stat_s.t;
SELECT * FROM pg_temp.differences();
ROLLBACK;
SELECT most_common_vals ~ 'changed' AS as_before FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 't' AND attname = 'name';
BEGIN;
SAVEPOINT a;
ANALYZE stat_s.t (grp);
ROLLBACK TO a;
COMMIT;
VACUUM (ANALYZE) stat_p.t, stat_s.t;
SELECT * FROM pg_temp.differences();

-- partitions and inheritance
SELECT pg_temp.both($$CREATE TABLE p (id int, v text) PARTITION BY RANGE (id)$$);
SELECT pg_temp.both($$CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (500)$$);
SELECT pg_temp.both($$CREATE TABLE p2 (v text, junk int, id int)$$);
SELECT pg_temp.both($$ALTER TABLE p2 DROP junk$$);
SELECT pg_temp.both($$ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (500) TO (1000)$$);
SELECT pg_temp.both($$CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (1000) TO (2000)$$);
SELECT pg_temp.both($$INSERT INTO p SELECT i % 1000, 'v' || i % 13 FROM generate_series(1, 3000) i$$);
SELECT pg_temp.both($$CREATE TABLE i (id int, v text)$$);
SELECT pg_temp.both($$CREATE TABLE i1 (more int) INHERITS (i)$$);
SELECT pg_temp.both($$INSERT INTO i SELECT i, 'i' || i % 3 FROM generate_series(1, 600) i$$);
SELECT pg_temp.both($$INSERT INTO i1 SELECT i, 'j' || i % 4, i % 2 FROM generate_series(1, 700) i$$);
ANALYZE stat_p.p, stat_p.i, stat_s.p, stat_s.i;
SELECT * FROM pg_temp.differences();
SELECT tablename, attname, inherited FROM pg_temp.sealed WHERE tablename IN ('p', 'i') ORDER BY 1, 2, 3;
SELECT pg_temp.in_clear();
BEGIN;
ANALYZE stat_p.p; ANALYZE stat_s.p; ANALYZE stat_p.i; ANALYZE stat_s.i;
SELECT * FROM pg_temp.differences();
COMMIT;

-- a parent of sealed and plain children has core's, of the plain ones
CREATE TABLE stat_s.mix (id int, v text) USING heap;
CREATE TABLE stat_s.mix1 () INHERITS (stat_s.mix) USING cmek_heap;
CREATE TABLE stat_s.mix2 () INHERITS (stat_s.mix) USING heap;
INSERT INTO stat_s.mix1 SELECT i, 'hidden' FROM generate_series(1, 100) i;
INSERT INTO stat_s.mix2 SELECT i, 'open' FROM generate_series(1, 100) i;
ANALYZE stat_s.mix;
SELECT attname, most_common_vals FROM pg_stats WHERE schemaname = 'stat_s' AND tablename = 'mix' AND attname = 'v';
SELECT count(*) FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'mix';
DROP TABLE stat_s.mix CASCADE;

-- temporary tables have a key of the session
CREATE TEMP TABLE tt (v text) USING cmek_heap;
INSERT INTO tt SELECT 'temp ' || i % 3 FROM generate_series(1, 100) i;
ANALYZE tt;
SELECT attname, n_distinct FROM cmek.stats WHERE tablename = 'tt';
SELECT count(*) FROM pg_stats WHERE tablename = 'tt';
DROP TABLE tt;

-- renamed, another type, dropped, truncated, rewritten
SELECT pg_temp.both('ALTER TABLE t RENAME amount TO sum');
SELECT pg_temp.both('ALTER TABLE t RENAME TO r');
SELECT pg_temp.both('ALTER TABLE r ALTER mood TYPE text');
SELECT pg_temp.both('ALTER TABLE r DROP doc');
SELECT pg_temp.both('DROP INDEX t_expr');
SELECT * FROM pg_temp.differences();
VACUUM FULL stat_s.r;
SELECT pg_temp.both('TRUNCATE r');
SELECT * FROM pg_temp.differences();
-- an empty table keeps what it had, as on heap
ANALYZE stat_p.r; ANALYZE stat_s.r;
SELECT * FROM pg_temp.differences();
SELECT pg_temp.both('INSERT INTO r (id, name) SELECT i, $$n$$ || i % 2 FROM generate_series(1, 100) i');
ANALYZE stat_p.r; ANALYZE stat_s.r;
SELECT * FROM pg_temp.differences();

-- another key, other data keys
CALL cmek.rotate_table_key('stat_s.r');
CALL cmek.rotate_data_key('stat_s.r');
SELECT * FROM pg_temp.differences();
CALL cmek.reseal('stat_s.r');
SELECT count(*) AS old_keys FROM cmek.data_key WHERE relid = 'stat_s.r'::regclass AND NOT current;
SELECT * FROM pg_temp.differences();

-- nobody sees what is not his to SELECT
CREATE ROLE stat_user;
GRANT USAGE ON SCHEMA stat_s TO stat_user;
GRANT SELECT (id) ON stat_s.r TO stat_user;
SET ROLE stat_user;
SELECT tablename, attname FROM cmek.stats;
SELECT * FROM cmek.statistic;
RESET ROLE;
ALTER TABLE stat_s.r ENABLE ROW LEVEL SECURITY;
SET ROLE stat_user;
SELECT tablename, attname FROM cmek.stats;
RESET ROLE;
ALTER TABLE stat_s.r DISABLE ROW LEVEL SECURITY;

-- into cmek_heap and back
ANALYZE stat_p.p1;
SELECT count(*) > 0 AS had FROM pg_stats WHERE schemaname = 'stat_p' AND tablename = 'r';
SET client_min_messages = notice;
ALTER TABLE stat_p.r SET ACCESS METHOD cmek_heap;
SET client_min_messages = warning;
SELECT count(*) FROM pg_stats WHERE schemaname = 'stat_p' AND tablename = 'r';
ANALYZE stat_p.r;
SELECT count(*) FROM pg_stats WHERE schemaname = 'stat_p' AND tablename = 'r';
SELECT count(*) > 0 AS sealed FROM cmek.stats WHERE schemaname = 'stat_p' AND tablename = 'r';
ALTER TABLE stat_p.r SET ACCESS METHOD heap;
SELECT count(*) FROM cmek.statistic WHERE relid = 'stat_p.r'::regclass OR "table" = 'stat_p.r'::regclass;
ANALYZE stat_p.r;
SELECT count(*) > 0 AS plain FROM pg_stats WHERE schemaname = 'stat_p' AND tablename = 'r';

-- in clear when that is wanted, and sealed again
SET cmek.plaintext_statistics = on;
ANALYZE stat_s.r;
SELECT count(*) FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'r';
SELECT pg_temp.in_clear() > 0 AS in_clear;
CREATE STATISTICS stat_s.st ON id, name FROM stat_s.r;
RESET cmek.plaintext_statistics;
ANALYZE stat_s.r;
SELECT pg_temp.in_clear();
SELECT count(*) > 0 AS sealed FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'r';
SELECT count(*) FROM cmek.exposures WHERE "table" = 'stat_s.r'::regclass;

-- more rows than the sample has: those are of all parts of the table
CREATE TABLE stat_s.big (id int, grp int, half int) USING cmek_heap;
INSERT INTO stat_s.big SELECT i, i % 10, CASE WHEN i % 2 = 0 THEN i END FROM generate_series(1, 40000) i;
SET default_statistics_target = 10;
ANALYZE stat_s.big;
RESET default_statistics_target;
SELECT reltuples FROM pg_class WHERE oid = 'stat_s.big'::regclass;
SELECT n_distinct, cardinality(bounds) AS bounds, bounds[1] < 500 AS first, bounds[6] BETWEEN 17000 AND 23000 AS middle, bounds[11] > 39500 AS last, correlation > 0.99 AS in_order
	FROM (SELECT *, histogram_bounds::int[] AS bounds FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'big' AND attname = 'id') b;
SELECT n_distinct, cardinality(most_common_freqs) AS common, (SELECT bool_and(f BETWEEN 0.06 AND 0.14) FROM unnest(most_common_freqs) f) AS alike FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'big' AND attname = 'grp';
SELECT null_frac BETWEEN 0.44 AND 0.56 AS half FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'big' AND attname = 'half';

-- an error of somebody's function is the statement's: all that was begun ends with it
CREATE FUNCTION stat_s.fails(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		IF current_setting('stat.fails', true) = 'yes' THEN RAISE 'it fails'; END IF;
		RETURN $1;
	END $$;
CREATE INDEX r_fails ON stat_s.r (stat_s.fails(id));
SET stat.fails = 'yes';
\set VERBOSITY terse
ANALYZE stat_s.r;
SELECT 'no transaction is open' AS "after it";
DO $$
	BEGIN
		CREATE TEMP TABLE before (a int);
		BEGIN
			INSERT INTO before VALUES (1);
			ANALYZE stat_s.r;
		EXCEPTION WHEN raise_exception THEN
			RAISE WARNING 'caught: %', SQLERRM;
		END;
		INSERT INTO before VALUES (2);
	END $$;
SELECT a FROM before;
RESET stat.fails;
\set VERBOSITY default
ANALYZE stat_s.r;
SELECT count(*) > 0 AS sealed FROM cmek.stats WHERE schemaname = 'stat_s' AND tablename = 'r_fails';
DROP INDEX stat_s.r_fails;

-- extended statistics have no hook
CREATE STATISTICS stat_s.fails ON id, name FROM stat_s.r;
CREATE STATISTICS stat_s.fails ON id, v FROM stat_s.p1;
CREATE TABLE stat_s.like (LIKE stat_s.r INCLUDING ALL) USING cmek_heap;

-- nothing stays behind
DROP SCHEMA stat_s CASCADE;
DROP SCHEMA stat_p CASCADE;
SELECT count(*) FROM cmek.statistic WHERE relid NOT IN (SELECT oid FROM pg_class) OR "table" NOT IN (SELECT oid FROM pg_class);
SELECT count(*) FROM cmek.data_key d FULL JOIN cmek.data_key_seals s USING (id) WHERE d.id IS NULL OR s.id IS NULL;
DROP ROLE stat_user;
DROP TYPE stat_mood;
