-- Everything that a statement can do to a table does the same to a sealed one
SET client_min_messages = warning;

-- all kinds of columns, NULLs in all of them, a row type and a domain
SELECT twin('CREATE DOMAIN posint AS int CHECK (value > 0)');
SELECT twin('CREATE TYPE pair AS (x int, y text)');
SELECT twin($$CREATE TABLE wide (
	id int, i2 int2, i8 int8, n numeric, f4 real, f8 float8, b bool, ch "char",
	c char(10), v varchar(30), t text COLLATE "C", by bytea, d date, ts timestamp, tz timestamptz,
	iv interval, j json, jb jsonb, a int[], ta text[], u uuid, r int4range,
	ip inet, p point, x xml, bits varbit, pos posint, pr pair,
	gen int GENERATED ALWAYS AS (id * 2) STORED, def text DEFAULT 'default')$$);
SELECT twin($$INSERT INTO wide
	SELECT i, i % 100, i * 1000000007::int8, i / 7.0, i / 3.0, i / 9.0, i % 2 = 0, chr(65 + i % 26)::"char",
		'c' || i, 'v' || i, repeat('t' || i, i % 40), decode(md5(i::text), 'hex'), date '2020-01-01' + i,
		timestamp '2020-01-01' + i * interval '1 hour', timestamptz '2020-01-01 00:00+00' + i * interval '1 minute',
		i * interval '1 second', json_build_object('i', i), jsonb_build_object('i', i, 's', md5(i::text)),
		ARRAY[i, i + 1], ARRAY['a' || i, NULL], md5(i::text)::uuid, int4range(i, i + 10),
		('10.0.' || i % 256 || '.1')::inet, point(i, -i), NULL, (i % 256)::bit(8),
		i, ROW(i, 'p' || i)::pair
	FROM generate_series(1, 500) i$$);
SELECT twin('INSERT INTO wide (id) SELECT i FROM generate_series(501, 600) i');
SELECT twin('INSERT INTO wide (i2, t) VALUES (1, $$no id$$), (NULL, NULL)');
SELECT twin('INSERT INTO wide (id, pos) VALUES (1, -1)');
SELECT twin('SELECT id, w::text FROM wide w');
SELECT twin('SELECT count(*) FROM wide');
SELECT twin('SELECT count(gen), sum(i8), max(n), min(ts), string_agg(t, $$,$$ ORDER BY id) FROM wide');
SELECT twin('SELECT (pr).y, w.jb ->> $$s$$ FROM wide w WHERE t LIKE $$%t4%$$');
SELECT twin('SELECT id FROM wide WHERE v = $$v77$$ OR j IS NULL');
SELECT twin('SELECT w.* FROM wide w JOIN wide z ON w.id = z.i2');
SELECT twin('SELECT DISTINCT ch, b FROM wide');
SELECT twin('SELECT id, row_number() OVER (PARTITION BY b ORDER BY id) FROM wide');
-- no columns at all
SELECT twin('CREATE TABLE none ()');
SELECT twin('INSERT INTO none DEFAULT VALUES');
SELECT twin('SELECT count(*) FROM none');

-- UPDATE and DELETE
SELECT twin('UPDATE wide SET t = t || $$!$$, n = NULL WHERE id % 3 = 0');
SELECT twin('UPDATE wide SET (i2, ta[3], pr.x) = (id % 7, $$third$$, 9) WHERE id < 50');
SELECT twin('UPDATE wide w SET v = z.v FROM wide z WHERE z.id = w.id + 1');
SELECT twin('DELETE FROM wide WHERE id BETWEEN 100 AND 120');
SELECT twin('DELETE FROM wide w USING wide z WHERE w.id = z.id + 300 AND z.b');
SELECT twin('SELECT id, w::text FROM wide w');

-- RETURNING, with system columns
SELECT twin('INSERT INTO wide (id, t) VALUES (1000, $$r$$), (1001, NULL) RETURNING id, t, gen, def, (tableoid::regclass)::text');
SELECT twin('INSERT INTO wide (id) VALUES (1002) RETURNING ctid IS NOT NULL, xmin = pg_current_xact_id()::xid OR true, xmax, cmin::text::int8 >= 0, wide');
SELECT twin('UPDATE wide SET t = $$u$$ WHERE id >= 1000 RETURNING id, t, gen, xmax, cmax = cmin, wide.*');
SELECT twin('DELETE FROM wide WHERE id >= 1001 RETURNING wide, xmin <> $$0$$, (tableoid::regclass)::text');
SELECT twin('WITH d AS (DELETE FROM wide WHERE id = 7 RETURNING *), i AS (INSERT INTO wide (id, t) SELECT id + 5000, t FROM d RETURNING id) SELECT * FROM i');
WITH i AS (INSERT INTO sealed.wide (id) VALUES (2000) RETURNING ctid, xmin, id)
SELECT id, ctid <> '(0,0)', xmin = pg_current_xact_id()::xid AS our_own FROM i;
SELECT count(*), count(DISTINCT ctid), bool_and(w.xmin::text::int8 > 2), bool_and(w.xmax = '0' OR w.xmax <> '0'),
	   bool_and(w.tableoid = 'sealed.wide'::regclass) FROM sealed.wide w;
DELETE FROM sealed.wide WHERE id = 2000;

-- ON CONFLICT
SET cmek.plaintext_indexes = on;
SET client_min_messages = error;
SELECT twin('CREATE TABLE up (k int PRIMARY KEY, v text, n int DEFAULT 0)');
SELECT twin('INSERT INTO up SELECT i, $$v$$ || i FROM generate_series(1, 100) i');
SELECT twin('INSERT INTO up VALUES (5, $$dup$$)');
SELECT twin('INSERT INTO up SELECT i, $$w$$ || i FROM generate_series(90, 110) i ON CONFLICT DO NOTHING');
SELECT twin('INSERT INTO up SELECT i, $$x$$ || i FROM generate_series(95, 120) i ON CONFLICT (k) DO UPDATE SET v = excluded.v || up.v, n = up.n + 1 RETURNING *');
SELECT twin('INSERT INTO up SELECT i, $$y$$ || i FROM generate_series(1, 120) i ON CONFLICT (k) DO UPDATE SET n = up.n + 1 WHERE up.v LIKE $$%5$$ RETURNING k, xmax <> $$0$$');
SELECT twin('INSERT INTO up VALUES (7, $$a$$), (7, $$b$$) ON CONFLICT (k) DO UPDATE SET v = excluded.v');
SELECT twin('INSERT INTO up VALUES (700, $$a$$), (700, $$b$$) ON CONFLICT DO NOTHING');
SELECT same_table('up');

-- MERGE
SELECT twin($$MERGE INTO up USING (SELECT i AS k, 'm' || i AS v FROM generate_series(50, 150) i) s ON up.k = s.k
	WHEN MATCHED AND s.k % 5 = 0 THEN DELETE
	WHEN MATCHED THEN UPDATE SET v = s.v, n = n + 10
	WHEN NOT MATCHED THEN INSERT VALUES (s.k, s.v, -1)$$);
SELECT twin('MERGE INTO up USING (VALUES (1), (1)) s(k) ON up.k = s.k WHEN MATCHED THEN UPDATE SET n = 1');
SELECT same_table('up');

-- COPY, both ways, through a file and inline
\getenv builddir PG_ABS_BUILDDIR
\set file :builddir '/results/wide.copy'
COPY sealed.wide (id, i2, i8, n, f4, f8, b, ch, c, v, t, by, d, ts, tz, iv, j, jb, a, ta, u, r, ip, p, bits, pos, pr, def) TO :'file' (FORMAT binary);
SELECT twin('CREATE TABLE wide2 (LIKE wide INCLUDING ALL)');
COPY sealed.wide2 (id, i2, i8, n, f4, f8, b, ch, c, v, t, by, d, ts, tz, iv, j, jb, a, ta, u, r, ip, p, bits, pos, pr, def) FROM :'file' (FORMAT binary);
COPY plain.wide2 (id, i2, i8, n, f4, f8, b, ch, c, v, t, by, d, ts, tz, iv, j, jb, a, ta, u, r, ip, p, bits, pos, pr, def) FROM :'file' (FORMAT binary);
SELECT same_rows('SELECT w::text FROM sealed.wide2 w', 'SELECT w::text FROM plain.wide w');
SELECT same_rows('SELECT w::text FROM sealed.wide2 w', 'SELECT w::text FROM plain.wide2 w');
CREATE TABLE sealed.cp (a int PRIMARY KEY, b text) USING cmek_heap;
COPY sealed.cp FROM stdin;
1	one
2	\N
3	three
\.
COPY sealed.cp FROM stdin (FREEZE);
4	four
\.
COPY sealed.cp FROM stdin;
5	five
1	again
\.
COPY sealed.cp FROM stdin;
7	seven
x	bad
\.
COPY (SELECT * FROM sealed.cp ORDER BY a) TO stdout (FORMAT csv, NULL 'null');
COPY sealed.cp (b) TO stdout;
BEGIN;
TRUNCATE sealed.cp;
COPY sealed.cp FROM stdin (FREEZE);
10	frozen
\.
SELECT *, xmin FROM sealed.cp WHERE false;
COMMIT;
SELECT * FROM sealed.cp;

-- triggers, by row and by statement, with transition tables, deferred
SELECT twin('CREATE TABLE trg (id int PRIMARY KEY, t text, n int)');
SELECT twin('CREATE TABLE trg_log (what text)');
CREATE FUNCTION trg_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %I.trg_log VALUES ($1)', TG_TABLE_SCHEMA)
		USING concat_ws(' ', TG_WHEN, TG_OP, old, '->', new);
	IF TG_WHEN = 'BEFORE' AND TG_OP <> 'DELETE' THEN
		new.n := new.n + 1;
		RETURN new;
	END IF;
	RETURN coalesce(new, old);
END $$;
CREATE FUNCTION trg_stmt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP <> 'DELETE' THEN
		EXECUTE format('INSERT INTO %I.trg_log SELECT $1 || newt::text FROM newt', TG_TABLE_SCHEMA) USING 'new ' || TG_OP;
	END IF;
	IF TG_OP <> 'INSERT' THEN
		EXECUTE format('INSERT INTO %I.trg_log SELECT $1 || oldt::text FROM oldt', TG_TABLE_SCHEMA) USING 'old ' || TG_OP;
	END IF;
	RETURN NULL;
END $$;
SELECT twin('CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON trg FOR EACH ROW EXECUTE FUNCTION trg_row()');
SELECT twin('CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON trg FOR EACH ROW EXECUTE FUNCTION trg_row()');
SELECT twin('CREATE CONSTRAINT TRIGGER d AFTER UPDATE ON trg DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trg_row()');
SELECT twin('CREATE TRIGGER ti AFTER INSERT ON trg REFERENCING NEW TABLE AS newt FOR EACH STATEMENT EXECUTE FUNCTION trg_stmt()');
SELECT twin('CREATE TRIGGER tu AFTER UPDATE ON trg REFERENCING OLD TABLE AS oldt NEW TABLE AS newt FOR EACH STATEMENT EXECUTE FUNCTION trg_stmt()');
SELECT twin('CREATE TRIGGER td AFTER DELETE ON trg REFERENCING OLD TABLE AS oldt FOR EACH STATEMENT EXECUTE FUNCTION trg_stmt()');
SELECT twin('INSERT INTO trg SELECT i, noise(i, 100 * i), i FROM generate_series(1, 30) i');
SELECT twin('UPDATE trg SET t = t || $$+$$ WHERE id % 4 = 0');
SELECT twin('INSERT INTO trg VALUES (3, $$c$$, 0), (99, $$c$$, 0) ON CONFLICT (id) DO UPDATE SET t = excluded.t');
SELECT twin('DELETE FROM trg WHERE id > 25');
SELECT twin('MERGE INTO trg USING generate_series(1, 40) s ON id = s WHEN MATCHED AND s < 5 THEN DELETE WHEN MATCHED THEN UPDATE SET n = 0 WHEN NOT MATCHED THEN INSERT VALUES (s, $$m$$, s)');
SELECT same_table('trg'), same_table('trg_log'), (SELECT count(*) > 200 FROM plain.trg_log);

-- cursors: forward, backward, WITH HOLD, WHERE CURRENT OF
CREATE TABLE sealed.curs USING cmek_heap AS SELECT i AS id, 'v' || i AS v FROM generate_series(1, 10) i;
BEGIN;
DECLARE cur SCROLL CURSOR FOR SELECT id, v FROM sealed.curs WHERE id BETWEEN 1 AND 6;
FETCH 2 FROM cur;
FETCH ALL FROM cur;
FETCH BACKWARD 2 FROM cur;
FETCH ABSOLUTE 1 FROM cur;
MOVE LAST FROM cur;
FETCH PRIOR FROM cur;
CLOSE cur;
DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT id, noise(id, 20000) = noise(id, 20000), length(v) FROM sealed.curs WHERE id <= 3;
DECLARE upd CURSOR FOR SELECT * FROM sealed.trg WHERE id BETWEEN 10 AND 12 FOR UPDATE;
MOVE 2 FROM upd;
UPDATE sealed.trg SET n = -5 WHERE CURRENT OF upd RETURNING id, n;
MOVE 1 FROM upd;
DELETE FROM sealed.trg WHERE CURRENT OF upd RETURNING id;
COMMIT;
FETCH ALL FROM held;
FETCH BACKWARD 1 FROM held;
CLOSE held;
UPDATE plain.trg SET n = -5 WHERE id = 11;
DELETE FROM plain.trg WHERE id = 12;
SELECT same_table('trg');

-- TABLESAMPLE: all of it is all of it, a part is the same part every time
SELECT twin('SELECT count(*) FROM wide TABLESAMPLE bernoulli (100)');
SELECT twin('SELECT sum(i8) FROM wide TABLESAMPLE system (100) REPEATABLE (1)');
SELECT (SELECT count(*) FROM sealed.wide TABLESAMPLE bernoulli (50) REPEATABLE (7)) BETWEEN 100 AND 500 AS part,
	   (SELECT string_agg(id::text, ',') FROM sealed.wide TABLESAMPLE bernoulli (20) REPEATABLE (7)) =
	   (SELECT string_agg(id::text, ',') FROM sealed.wide TABLESAMPLE bernoulli (20) REPEATABLE (7)) AS repeats;

-- TID and TID range scans
SELECT id, v FROM sealed.wide WHERE ctid = (SELECT ctid FROM sealed.wide WHERE id = 42);
SELECT id, v FROM sealed.wide WHERE ctid = ANY (ARRAY(SELECT ctid FROM sealed.wide WHERE id IN (8, 9, 10))) ORDER BY id;
SELECT count(*), count(DISTINCT id) FROM sealed.wide WHERE ctid = '(4000000,1)' OR ctid = '(0,2000)';
SELECT count(*) = (SELECT count(*) FROM plain.wide) FROM sealed.wide WHERE ctid >= '(0,0)' AND ctid < '(100000,1)';
SELECT coalesce((SELECT sum(i8) FROM sealed.wide WHERE ctid < '(3,1)'), 0) + (SELECT sum(i8) FROM sealed.wide WHERE ctid >= '(3,1)')
	 = (SELECT sum(i8) FROM plain.wide) AS split;
EXPLAIN (COSTS OFF) SELECT id FROM sealed.wide WHERE ctid < '(3,1)';
SELECT currtid2('sealed.trg', ctid) = ctid FROM sealed.trg WHERE id = 10;

-- index, bitmap and lossy bitmap scans
SELECT twin('CREATE TABLE big (id int, k int, t text)');
SELECT twin('INSERT INTO big SELECT i, i % 100, noise(i, 300) FROM generate_series(1, 20000) i');
SELECT twin('CREATE INDEX big_k ON big (k)');
SET enable_seqscan = off;
SET enable_indexscan = off;
SET max_parallel_workers_per_gather = 0;
EXPLAIN (COSTS OFF) SELECT * FROM sealed.big WHERE k = 5;
SELECT twin('SELECT * FROM big WHERE k = 5 OR k = 9');
SET work_mem = '64kB';
SELECT twin('SELECT id, k, md5(t) FROM big WHERE k < 70');
SELECT twin('SELECT count(*) FROM big WHERE k < 70');
SELECT twin('UPDATE big SET t = t || $$x$$ WHERE k < 50');
SELECT twin('SELECT count(*), sum(length(t)) FROM big WHERE k BETWEEN 10 AND 90 AND t > $$8$$');
RESET work_mem;
RESET enable_indexscan;
SET enable_bitmapscan = off;
SELECT twin('SELECT id, md5(t) FROM big WHERE k = 7');
SELECT twin('SELECT k FROM big WHERE k > 95 ORDER BY k DESC');
VACUUM sealed.big;
VACUUM plain.big;
SELECT twin('SELECT k, count(*) FROM big WHERE k > 50 GROUP BY k');
RESET enable_bitmapscan;
RESET enable_seqscan;

-- parallel scans
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT count(t), sum(id) FROM sealed.big;
SELECT (SELECT (count(t), sum(id), sum(hashtext(t))) FROM sealed.big) = (SELECT (count(t), sum(id), sum(hashtext(t))) FROM plain.big) AS same;
SELECT same_rows('SELECT k, max(t) FROM sealed.big GROUP BY k', 'SELECT k, max(t) FROM plain.big GROUP BY k');
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT (SELECT sum(length(t)) FROM sealed.big WHERE k < 30) = (SELECT sum(length(t)) FROM plain.big WHERE k < 30) AS same_bitmap;
RESET enable_indexscan;
SET enable_bitmapscan = off;
SELECT (SELECT sum(length(t)) FROM sealed.big WHERE k < 30) = (SELECT sum(length(t)) FROM plain.big WHERE k < 30) AS same_index;
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT (SELECT count(*) FROM sealed.big a JOIN sealed.big b USING (id)) AS parallel_join;
CREATE TABLE sealed.par USING cmek_heap AS SELECT id, upper(t) AS t FROM sealed.big;
CREATE TABLE plain.par AS SELECT id, upper(t) AS t FROM plain.big;
SELECT same_table('par');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;

-- row locks
BEGIN;
SELECT twin('SELECT id, n FROM trg WHERE id < 9 FOR UPDATE');
SELECT twin('SELECT id, t FROM trg WHERE id < 12 FOR NO KEY UPDATE');
SELECT twin('SELECT id, t FROM trg WHERE id < 15 FOR SHARE');
SELECT twin('SELECT id, t FROM trg FOR KEY SHARE SKIP LOCKED');
SAVEPOINT a;
SELECT twin('SELECT * FROM trg WHERE id = 20 FOR SHARE NOWAIT');
UPDATE sealed.trg SET n = 1 WHERE id = 20;
SELECT id, n FROM sealed.trg WHERE id = 20 FOR UPDATE;
ROLLBACK TO a;
SELECT twin('SELECT * FROM trg WHERE id = 20 FOR UPDATE');
COMMIT;

-- subtransactions, own changes, Halloween
BEGIN;
SELECT twin('INSERT INTO up SELECT k + 1000, v, n FROM up');
SAVEPOINT a;
SELECT twin('UPDATE up SET k = k + 5000, v = v || v');
ROLLBACK TO a;
SELECT twin('DELETE FROM up WHERE k > 1100');
SAVEPOINT b;
SELECT twin('INSERT INTO up SELECT k + 9000, v FROM up');
RELEASE b;
COMMIT;
SELECT same_table('up');

-- CREATE TABLE AS, SELECT INTO, materialized views
SELECT twin('CREATE TABLE ctas AS SELECT id, t, pr, jb FROM wide WHERE id < 100');
SELECT twin('CREATE TABLE ctas_empty AS SELECT * FROM wide WITH NO DATA');
SET search_path = sealed, public;
SET default_table_access_method = cmek_heap;
SELECT id, v INTO into_t FROM wide;
SET search_path = plain, public;
SET default_table_access_method = heap;
SELECT id, v INTO into_t FROM wide;
RESET search_path;
SELECT same_rows('SELECT c::text FROM sealed.ctas c', 'SELECT c::text FROM plain.ctas c'), same_table('into_t');
SELECT twin('CREATE MATERIALIZED VIEW mv AS SELECT k, n, v FROM up WHERE k < 2000');
SELECT twin('CREATE UNIQUE INDEX ON mv (k)');
SELECT same_table('mv');
SELECT twin('UPDATE up SET v = $$refreshed$$ WHERE k < 20');
SELECT twin('REFRESH MATERIALIZED VIEW mv');
SELECT same_table('mv');
SELECT twin('UPDATE up SET v = $$again$$, n = 3 WHERE k BETWEEN 10 AND 40');
SELECT twin('DELETE FROM up WHERE k BETWEEN 41 AND 45');
SELECT twin('REFRESH MATERIALIZED VIEW CONCURRENTLY mv');
SELECT same_table('mv');
SELECT twin('REFRESH MATERIALIZED VIEW mv WITH NO DATA');
SELECT twin('SELECT * FROM mv');

-- partitions with row movement, inheritance, attached tables
SELECT twin('CREATE TABLE parts (k int, region text, t text) PARTITION BY LIST (region)');
SELECT twin('CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ($$eu$$)');
SELECT twin('CREATE TABLE parts_us PARTITION OF parts FOR VALUES IN ($$us$$) PARTITION BY RANGE (k)');
SELECT twin('CREATE TABLE parts_us1 PARTITION OF parts_us FOR VALUES FROM (0) TO (50)');
SELECT twin('CREATE TABLE parts_us2 PARTITION OF parts_us DEFAULT');
SELECT twin('CREATE TABLE parts_at (t text, gone int, region text, k int)');
SELECT twin('ALTER TABLE parts_at DROP COLUMN gone');
SELECT twin('INSERT INTO parts_at VALUES ($$attached$$, $$as$$, 1)');
SELECT twin('ALTER TABLE parts ATTACH PARTITION parts_at FOR VALUES IN ($$as$$)');
SELECT twin('INSERT INTO parts SELECT i, (ARRAY[$$eu$$, $$us$$, $$as$$])[1 + i % 3], noise(i, i * 30) FROM generate_series(1, 120) i');
SELECT twin('UPDATE parts SET region = $$eu$$ WHERE k % 10 = 0 AND region <> $$eu$$ RETURNING k, region, (tableoid::regclass)::text');
SELECT twin('UPDATE parts SET k = k + 40 WHERE region = $$us$$ RETURNING *');
SELECT twin('UPDATE parts SET region = $$nowhere$$ WHERE k = 1');
SELECT twin('SELECT (p.tableoid::regclass)::text, p FROM parts p');
SELECT twin('DELETE FROM parts WHERE length(t) > 2000 RETURNING k');
SELECT twin('ALTER TABLE parts DETACH PARTITION parts_us');
SELECT twin('SELECT count(*), sum(length(t)) FROM parts');
SELECT twin('CREATE TABLE base (id int, t text)');
SELECT twin('CREATE TABLE child (extra text) INHERITS (base)');
SELECT twin('INSERT INTO child SELECT i, $$t$$ || i, $$e$$ FROM generate_series(1, 20) i');
SELECT twin('UPDATE base SET t = t || t WHERE id < 10');
SELECT twin('SELECT b.*, (b.tableoid::regclass)::text FROM base b');
SELECT twin('SELECT * FROM ONLY base');

-- temporary and unlogged tables
CREATE TEMP TABLE tmp (a int, t text) USING cmek_heap;
INSERT INTO tmp SELECT i, noise(i, i * 100) FROM generate_series(1, 100) i;
UPDATE tmp SET t = t || 'u' WHERE a % 2 = 0;
DELETE FROM tmp WHERE a > 90;
SELECT count(*), sum(length(t)), sum(hashtext(t)) = (SELECT sum(hashtext(noise(i, i * 100) || CASE WHEN i % 2 = 0 THEN 'u' ELSE '' END)) FROM generate_series(1, 90) i) AS right FROM tmp;
CREATE TEMP TABLE gone (a int) USING cmek_heap ON COMMIT DELETE ROWS;
BEGIN;
INSERT INTO gone VALUES (1);
SELECT * FROM gone;
COMMIT;
SELECT * FROM gone;
DROP TABLE tmp, gone;
SELECT twin('CREATE UNLOGGED TABLE unl (id int PRIMARY KEY, t text)');
SELECT twin('INSERT INTO unl SELECT i, noise(i, 50 * i) FROM generate_series(1, 100) i');
SELECT twin('UPDATE unl SET t = t || $$!$$ WHERE id > 50');
SELECT same_table('unl');

-- TRUNCATE, committed and rolled back; a table made in the transaction
SELECT twin('TRUNCATE unl');
SELECT twin('INSERT INTO unl VALUES (1, $$after$$)');
BEGIN;
TRUNCATE sealed.up, plain.up;
SELECT twin('INSERT INTO up VALUES (1, $$lost$$)');
ROLLBACK;
SELECT same_table('up'), same_table('unl');
BEGIN;
SELECT twin('CREATE TABLE fresh (a int, t text)');
SELECT twin('INSERT INTO fresh SELECT i, noise(i, 3000) FROM generate_series(1, 20) i');
SELECT same_table('fresh');
TRUNCATE sealed.fresh, plain.fresh;
SELECT twin('INSERT INTO fresh SELECT i, noise(i, 4000) FROM generate_series(1, 10) i');
COMMIT;
SELECT same_table('fresh');
BEGIN;
SELECT twin('CREATE TABLE aborted (a int)');
SELECT twin('INSERT INTO aborted VALUES (1)');
ROLLBACK;

-- constraints: CHECK, NOT NULL, UNIQUE deferrable, EXCLUDE, FOREIGN KEY both sides
SELECT twin('CREATE TABLE con (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, t text NOT NULL CHECK (t <> $$bad$$), r int4range, EXCLUDE USING gist (r WITH &&))');
SELECT twin('CREATE TABLE ref (id int REFERENCES con ON UPDATE CASCADE ON DELETE SET NULL, t text)');
SELECT twin('INSERT INTO con SELECT i, i, $$t$$, int4range(i * 10, i * 10 + 9) FROM generate_series(1, 50) i');
SELECT twin('INSERT INTO ref SELECT i, $$r$$ FROM generate_series(1, 50) i');
SELECT twin('INSERT INTO ref VALUES (999)');
SELECT twin('INSERT INTO con VALUES (60, 60, $$bad$$)');
SELECT twin('INSERT INTO con VALUES (60, 60, NULL)');
SELECT twin('INSERT INTO con VALUES (60, 60, $$x$$, $$[15,17]$$)');
SELECT twin('UPDATE con SET u = 51 - u');
SELECT twin('UPDATE con SET id = id + 100 WHERE id > 40');
SELECT twin('DELETE FROM con WHERE id < 5');
SELECT same_table('con'), same_table('ref');
BEGIN;
SELECT twin('UPDATE con SET u = 1');
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK;

-- rules, views, row security
SELECT twin('CREATE VIEW vw AS SELECT id, t FROM con WHERE id > 10 WITH CHECK OPTION');
SELECT twin('UPDATE vw SET t = t || $$v$$ RETURNING *');
SELECT twin('INSERT INTO vw VALUES (1, $$x$$)');
SELECT same_table('con');

-- VACUUM, VACUUM FREEZE, ANALYZE, and everything is still there
VACUUM sealed.wide;
VACUUM (FREEZE) sealed.wide, sealed.trg;
ANALYZE sealed.wide;
VACUUM (ANALYZE, DISABLE_PAGE_SKIPPING) sealed.big;
SELECT same_rows('SELECT w::text FROM sealed.wide w', 'SELECT w::text FROM plain.wide w'), same_table('trg'), same_table('big');

-- a row near the limit of a page: an error or a row, never anything else
SELECT twin('CREATE TABLE edge (a text, b int)');
ALTER TABLE sealed.edge ALTER a SET STORAGE PLAIN;
\set VERBOSITY sqlstate
INSERT INTO sealed.edge VALUES (noise(1, 8000), 1);
INSERT INTO sealed.edge VALUES (noise(1, 8200), 2);
UPDATE sealed.edge SET a = noise(2, 8050);
UPDATE sealed.edge SET a = noise(2, 8300);
\set VERBOSITY default
SELECT b, a = noise(2, 8050) AS right FROM sealed.edge;

-- the counters are heap's
BEGIN;
INSERT INTO sealed.cp SELECT i, 'x' FROM generate_series(100, 109) i;
UPDATE sealed.cp SET b = 'y' WHERE a BETWEEN 100 AND 104;
DELETE FROM sealed.cp WHERE a = 109;
SELECT pg_stat_get_xact_tuples_inserted('sealed.cp'::regclass), pg_stat_get_xact_tuples_updated('sealed.cp'::regclass), pg_stat_get_xact_tuples_deleted('sealed.cp'::regclass);
ROLLBACK;
SELECT pg_table_size('sealed.big') BETWEEN pg_table_size('plain.big') AND pg_table_size('plain.big') * 1.3 AS size_is_sane;
