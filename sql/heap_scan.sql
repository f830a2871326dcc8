-- Sequential scans walk the rows of a page themselves (slot.c, deform.c): any
-- direction, any stop and start, any kind of row
SET client_min_messages = warning;

-- columns at fixed offsets, then one of variable length, then more
SELECT twin('CREATE TABLE scan_s (b bool, c "char", i2 int2, i4 int, i8 int8, f float8, u uuid, n name, v varchar, w text, last int)');
SELECT twin($$INSERT INTO scan_s SELECT i % 2 = 0, chr(65 + i % 26)::"char", i % 1000, i, i * 1000000007::int8, i / 7.0,
	md5(i::text)::uuid, 'n' || i, repeat('v', i % 200), 'w' || i, -i FROM generate_series(1, 3000) i$$);
-- rows with NULLs and rows of other lengths between them
SELECT twin('UPDATE scan_s SET i4 = NULL WHERE i2 % 7 = 0');
SELECT twin('UPDATE scan_s SET v = noise(i2, 500) WHERE i2 % 31 = 0');
SELECT twin('DELETE FROM scan_s WHERE i2 % 13 = 0');
SELECT twin('SELECT * FROM scan_s');
SELECT twin('SELECT sum(i4), sum(last) FROM scan_s');
SELECT twin('SELECT b, c, i2 FROM scan_s WHERE i8 > 5');
SELECT twin('SELECT u, n, length(v) FROM scan_s WHERE f < 100 AND w LIKE $$%7%$$');
-- more columns of some rows than of others
SELECT twin('SELECT CASE WHEN i2 % 5 = 0 THEN w WHEN i2 % 5 = 1 THEN last::text WHEN i2 % 5 = 2 THEN scan_s::text ELSE c::text END FROM scan_s');
SELECT twin('SELECT i2, ctid IS NOT NULL, xmin = xmax, tableoid::regclass FROM scan_s WHERE i2 % 3 = 0');

-- rows from before a column was added, dropped or given a default
SELECT twin('ALTER TABLE scan_s ADD COLUMN added int');
SELECT twin('ALTER TABLE scan_s ADD COLUMN filled int NOT NULL DEFAULT 42');
SELECT twin('SELECT added, filled, i2 FROM scan_s');
SELECT twin('ALTER TABLE scan_s DROP COLUMN i8');
SELECT twin('INSERT INTO scan_s SELECT i % 2 = 0, $$x$$, i, i, i, NULL, $$n$$, $$v$$, $$w$$, i, i, i FROM generate_series(1, 500) i');
SELECT twin('SELECT * FROM scan_s');
SELECT twin('SELECT sum(f::int), count(u), sum(filled), sum(added) FROM scan_s');

-- the first column is of variable length; none is
SELECT twin('CREATE TABLE scan_t (t text, i int)');
SELECT twin('INSERT INTO scan_t SELECT repeat($$t$$, i % 150), i FROM generate_series(1, 2000) i');
SELECT twin('SELECT t, i FROM scan_t');
SELECT twin('SELECT max(t) FROM scan_t');

-- a cursor goes to and fro, across pages (of rows of one length, which stand
-- in their order)
SELECT twin('CREATE TABLE scan_z AS SELECT i, repeat($$z$$, 60) AS t FROM generate_series(1, 2000) i');
CREATE FUNCTION wander(kind text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	c SCROLL CURSOR FOR SELECT i FROM scan_z;
	r record;
	seen text := '';
	steps int[] := '{1,1,1,-1,-1,5,-3,90,-50,700,-699,1500,-20,3,3,-1000,1200,4000,-1,-1,1,1,1,-5000,1,1,300,-299}';
BEGIN
	PERFORM set_config('search_path', kind || ', public', true);
	OPEN c;
	FOR i IN 1 .. cardinality(steps) LOOP
		FETCH RELATIVE steps[i] FROM c INTO r;
		seen := seen || coalesce(r::text, '-');
		FETCH RELATIVE 0 FROM c INTO r;
		seen := seen || coalesce(r::text, '-');
	END LOOP;
	FETCH LAST FROM c INTO r;
	seen := seen || r::text;
	FETCH FIRST FROM c INTO r;
	seen := seen || r::text;
	CLOSE c;
	RETURN seen;
END $$;
SELECT md5(wander('sealed')) = md5(wander('plain')) AS wandered_alike, length(wander('plain')) > 200 AS far;

-- a scan that stops early and begins again; two on one table at a time
SELECT twin('SELECT (SELECT count(last) FROM (SELECT last FROM scan_s z WHERE z.last < -x.i LIMIT 3) y) FROM generate_series(1, 300) x(i)');
SELECT twin('SELECT x.i, y.n FROM scan_t x, LATERAL (SELECT count(*) n, min(last) FROM scan_s WHERE i2 = x.i) y WHERE x.i < 40');
SELECT twin('SELECT count(*) FROM scan_t a, scan_t b WHERE a.i = b.i + 1 AND a.i < 100');

-- rows changed by the scan that reads them
SELECT twin('UPDATE scan_s SET last = last + 1, v = v || $$!$$ WHERE filled = 42 RETURNING last, v');
SELECT twin('SELECT last, v FROM scan_s FOR UPDATE');
SELECT twin('DELETE FROM scan_s WHERE last % 2 = 0 RETURNING w, n');
SELECT twin('SELECT * FROM scan_s TABLESAMPLE SYSTEM (50) REPEATABLE (1) WHERE false');
SELECT twin('SELECT i2 FROM scan_s WHERE ctid > $$(2,0)$$ AND ctid < $$(1000,0)$$ AND false');

-- parallel
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SELECT twin('SELECT sum(last), count(*), count(i4), max(w) FROM scan_s');
SELECT twin('SELECT * FROM scan_s WHERE i2 % 2 = 0');
RESET max_parallel_workers_per_gather;

-- heap counts as many rows read
SELECT pg_stat_force_next_flush();
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT count(*) = sum((last IS NOT NULL)::int) FROM sealed.scan_t, (SELECT 1 AS last) x;
SELECT pg_stat_get_xact_tuples_returned('sealed.scan_t'::regclass);
COMMIT;
