-- Indexes on sealed tables, which today means indexes in clear
SET client_min_messages = error;
SET cmek.plaintext_indexes = on;
SET max_parallel_workers_per_gather = 0;

-- every built-in method, built over rows and kept up by every kind of write
SELECT twin('CREATE TABLE m (id int, k int, t text, u uuid, p point, a int[], ts tsvector, l text)');
SELECT twin('INSERT INTO m SELECT i, i % 50, $$w$$ || i % 30, md5(i::text)::uuid, point(i, i), ARRAY[i, i % 10], to_tsvector($$simple$$, $$word$$ || i % 20), noise(i, i * 5) FROM generate_series(1, 1000) i');
SELECT twin('DELETE FROM m WHERE id % 9 = 0');
SELECT twin('CREATE UNIQUE INDEX m_btree ON m (id)');
SELECT twin('CREATE INDEX m_hash ON m USING hash (t)');
SELECT twin('CREATE INDEX m_gist ON m USING gist (p)');
SELECT twin('CREATE INDEX m_spgist ON m USING spgist (p)');
SELECT twin('CREATE INDEX m_gin ON m USING gin (a)');
SELECT twin('CREATE INDEX m_gin2 ON m USING gin (ts)');
SELECT twin('CREATE INDEX m_brin ON m USING brin (k) WITH (pages_per_range = 2)');
SELECT twin('CREATE INDEX m_partial ON m (k) WHERE t = $$w7$$');
SELECT twin('CREATE INDEX m_expr ON m (lower(t), (k * 2))');
SELECT twin('CREATE INDEX m_incl ON m (k) INCLUDE (id, u)');
SELECT twin('CREATE INDEX m_multi ON m (t, k DESC NULLS FIRST, id)');
SELECT twin('CREATE INDEX m_long ON m (md5(l))');
SELECT twin('CREATE UNIQUE INDEX m_not ON m (k)');
SELECT twin('CREATE INDEX m_null ON m ((1 / (id - 1)))');

-- an index scan finds what a sequential scan finds, in both plans
CREATE FUNCTION by_index(label text, cond text, cols text DEFAULT 'id') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan text;
	line text;
	bad text;
	q text := format('SELECT %s FROM sealed.m WHERE %s', cols, cond);
	seq text[];
	idx text[];
BEGIN
	SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off;
	EXECUTE format('SELECT array_agg(x::text ORDER BY x::text) FROM (%s) x', q) INTO seq;
	SET LOCAL enable_indexscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_indexonlyscan = on;
	SET LOCAL enable_seqscan = off;
	EXECUTE format('SELECT array_agg(x::text ORDER BY x::text) FROM (%s) x', q) INTO idx;
	plan := '';
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || q LOOP
		plan := plan || line;
	END LOOP;
	SET LOCAL enable_seqscan = on;
	IF plan !~ 'Index' THEN bad := 'no index in the plan: ' || plan; END IF;
	IF seq IS DISTINCT FROM idx THEN bad := 'DIFFERENT'; END IF;
	IF coalesce(seq, '{}') IS DISTINCT FROM public.twin_run('plain', replace(q, 'sealed.', '')) THEN
		bad := 'other than plain heap';
	END IF;
	RETURN label || ': ' || coalesce(bad, cardinality(seq) || ' rows');
END $$;
CREATE FUNCTION all_indexes() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT by_index('btree', 'id BETWEEN 100 AND 200') UNION ALL
	SELECT by_index('hash', 't = ''w4''') UNION ALL
	SELECT by_index('geometry', 'p <@ box ''(10,10),(80,80)''') UNION ALL
	SELECT by_index('gin', 'a @> ARRAY[3]') UNION ALL
	SELECT by_index('gin tsvector', 'ts @@ ''word7''::tsquery') UNION ALL
	SELECT by_index('partial', 't = ''w7'' AND k > 10') UNION ALL
	SELECT by_index('expression', 'lower(t) = ''w9''') UNION ALL
	SELECT by_index('include', 'k = 3', 'k, id, u') UNION ALL
	SELECT by_index('multi', 't = ''w1'' AND k < 40', 't, k, id') UNION ALL
	SELECT by_index('long', 'md5(l) = md5(noise(501, 2505))')
$$;
SELECT all_indexes();
SELECT twin('INSERT INTO m SELECT i, i % 50, $$w$$ || i % 30, md5(i::text)::uuid, point(i, i), ARRAY[i, i % 10], to_tsvector($$simple$$, $$word$$ || i % 20), noise(i, i * 5) FROM generate_series(2001, 2200) i');
SELECT twin('UPDATE m SET k = k + 1, a = a || 3, p = point(id % 60, 20) WHERE id % 4 = 0');
SELECT twin('UPDATE m SET t = $$w7$$ WHERE id % 13 = 0');
SELECT twin('UPDATE m SET l = l || $$x$$ WHERE id % 5 = 0');
SELECT twin('UPDATE m SET id = id + 10000 WHERE id < 30');
SELECT twin('DELETE FROM m WHERE id % 17 = 3');
SELECT all_indexes();
VACUUM sealed.m;
SELECT twin('INSERT INTO m (id, k, t) SELECT i, 3, $$w4$$ FROM generate_series(3000, 3300) i');
SELECT all_indexes();
VACUUM FULL sealed.m;
SELECT all_indexes();
SELECT by_index('brin', 'k = 7 AND id > 0');
REINDEX TABLE sealed.m;
SELECT all_indexes();

-- concurrently: build, rebuild, and drop; unique ones that must fail
CREATE INDEX CONCURRENTLY m_conc ON sealed.m (u);
\set VERBOSITY terse
CREATE UNIQUE INDEX CONCURRENTLY m_conc_u ON sealed.m (k);
\set VERBOSITY default
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 'sealed.m'::regclass AND NOT indisvalid;
DROP INDEX sealed.m_conc_u;
REINDEX INDEX CONCURRENTLY sealed.m_btree;
REINDEX TABLE CONCURRENTLY sealed.m;
SELECT all_indexes();
SELECT by_index('concurrently', 'u = md5(''777'')::uuid');
DROP INDEX CONCURRENTLY sealed.m_conc;

-- uniqueness
SELECT twin('CREATE TABLE uq (id int PRIMARY KEY, a text, b text, UNIQUE (a, b), UNIQUE NULLS NOT DISTINCT (b, id))');
SELECT twin('INSERT INTO uq SELECT i, i % 10, i / 10 FROM generate_series(0, 99) i');
SELECT twin('INSERT INTO uq VALUES (100, $$1$$, $$1$$)');
SELECT twin('UPDATE uq SET b = $$0$$ WHERE id = 15');
SELECT twin('UPDATE uq SET id = id + 1');
SELECT twin('INSERT INTO uq VALUES (500, NULL, $$1$$), (501, NULL, $$1$$)');
SELECT same_table('uq');

-- where the indexed column stands: first, behind a varlena, behind a NULL,
-- behind a dropped column; its value changes and the index follows
SELECT twin('CREATE TABLE pos1 (k int, v text, n int)');
SELECT twin('CREATE TABLE pos2 (v text, k int, n int)');
SELECT twin('CREATE TABLE pos3 (z int, k int, n int, v text)');
SELECT twin('CREATE TABLE pos4 (gone text, k int, n int, v text)');
CREATE FUNCTION positions() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	t text;
	s int8;
	i int8;
BEGIN
	FOREACH t IN ARRAY '{pos1,pos2,pos3,pos4}'::text[] LOOP
		PERFORM twin(format('INSERT INTO %I (k, v, n) SELECT i, noise(i, i %% 70), 0 FROM generate_series(1, 300) i', t));
		IF t = 'pos4' THEN
			PERFORM twin('ALTER TABLE pos4 DROP COLUMN gone');
		END IF;
		PERFORM twin(format('CREATE INDEX ON %I (k)', t));
		-- the leading key moves (never HOT), then a column without an index (HOT)
		PERFORM twin(format('UPDATE %I SET k = k + 1000 WHERE k %% 3 = 0', t));
		PERFORM twin(format('UPDATE %I SET n = n + 1 WHERE k %% 2 = 0', t));
		PERFORM twin(format('UPDATE %I SET v = noise(k, 90), k = k WHERE k %% 5 = 0', t));
		PERFORM twin(format('UPDATE %I SET k = NULL WHERE k %% 7 = 0', t));
		PERFORM twin(format('UPDATE %I SET k = 5000 + n WHERE k IS NULL', t));
		SET LOCAL enable_seqscan = off;
		EXECUTE format('SELECT sum(hashtext(x::text)) FROM sealed.%I x WHERE k > 0', t) INTO i;
		SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off;
		EXECUTE format('SELECT sum(hashtext(x::text)) FROM sealed.%I x WHERE k > 0', t) INTO s;
		SET LOCAL enable_indexscan = on; SET LOCAL enable_bitmapscan = on;
		RETURN NEXT t || ': ' || CASE WHEN i = s THEN 'index = sequential' ELSE 'DIFFERENT' END || ', ' || same_table(t);
	END LOOP;
END $$;
SELECT positions();

-- HOT: the same number of HOT updates as heap, kind by kind.  The pages have
-- room for everything, so that only the decision counts
CREATE FUNCTION hot(stmt text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	s0 int8 := pg_stat_get_xact_tuples_hot_updated('sealed.hot'::regclass);
	p0 int8 := pg_stat_get_xact_tuples_hot_updated('plain.hot'::regclass);
	r text := twin(stmt);
	s int8 := pg_stat_get_xact_tuples_hot_updated('sealed.hot'::regclass) - s0;
	p int8 := pg_stat_get_xact_tuples_hot_updated('plain.hot'::regclass) - p0;
BEGIN
	RETURN r || ', HOT: ' || CASE WHEN s = p THEN s::text ELSE format('DIFFERENT sealed %s plain %s', s, p) END;
END $$;
SELECT twin('CREATE TABLE hot (id int PRIMARY KEY, k int, v text, n int, l text, brin_only int, part int) WITH (fillfactor = 10)');
SELECT twin('CREATE INDEX hot_k ON hot (k)');
SELECT twin('CREATE INDEX hot_v ON hot (lower(v))');
SELECT twin('CREATE INDEX hot_part ON hot (n) WHERE part > 0');
SELECT twin('INSERT INTO hot SELECT i, i, $$Value$$ || i, 0, noise(i, CASE WHEN i % 5 = 0 THEN 4000 ELSE 10 END), i, 0 FROM generate_series(1, 100) i');
BEGIN;
SELECT hot('UPDATE hot SET brin_only = brin_only + 1 WHERE id <= 10');
SELECT hot('UPDATE hot SET l = l || $$x$$ WHERE id BETWEEN 11 AND 20');
SELECT hot('UPDATE hot SET k = k + 1 WHERE id BETWEEN 21 AND 30');
SELECT hot('UPDATE hot SET k = k, v = v WHERE id BETWEEN 31 AND 40');
SELECT hot('UPDATE hot SET v = upper(v) WHERE id BETWEEN 41 AND 50');
SELECT hot('UPDATE hot SET v = $$other$$ WHERE id BETWEEN 51 AND 55');
SELECT hot('UPDATE hot SET n = n + 1 WHERE id BETWEEN 56 AND 60');
SELECT hot('UPDATE hot SET part = 1 WHERE id BETWEEN 61 AND 65');
SELECT hot('UPDATE hot SET id = id WHERE id BETWEEN 66 AND 70');
SELECT hot('UPDATE hot SET k = NULL WHERE id BETWEEN 71 AND 75');
SELECT hot('UPDATE hot SET k = NULL WHERE id BETWEEN 71 AND 75');
SELECT hot('INSERT INTO hot (id, brin_only) SELECT i, 0 FROM generate_series(76, 80) i ON CONFLICT (id) DO UPDATE SET brin_only = 0');
COMMIT;
SELECT same_table('hot');
SELECT twin('ALTER TABLE hot DROP COLUMN n');
SELECT twin('DROP INDEX hot_k');
BEGIN;
SELECT hot('UPDATE hot SET k = 17 WHERE id BETWEEN 81 AND 85');
COMMIT;
SELECT twin('CREATE INDEX hot_brin ON hot USING brin (brin_only)');
BEGIN;
-- HOT from 16 on
SELECT hot('UPDATE hot SET brin_only = brin_only + 1 WHERE id BETWEEN 86 AND 90') !~ 'DIFFERENT' AS same;
COMMIT;

-- key-share locks: FOR KEY SHARE and an UPDATE that touches no key go
-- together, as on heap; xmax of such a row is a multixact or the updater's
BEGIN;
SELECT twin('SELECT id FROM hot WHERE id = 1 FOR KEY SHARE');
SAVEPOINT a;
SELECT twin('UPDATE hot SET brin_only = 7 WHERE id = 1');
SELECT twin('UPDATE hot SET id = 1001 WHERE id = 2');
COMMIT;
SELECT same_table('hot');

-- TIDs of one page with dead and redirected line pointers
SELECT twin('UPDATE hot SET brin_only = brin_only + 1');
SELECT twin('UPDATE hot SET brin_only = brin_only + 1');
VACUUM sealed.hot;
SELECT twin('UPDATE hot SET brin_only = brin_only + 1');
SET enable_seqscan = off;
SELECT twin('SELECT * FROM hot WHERE id BETWEEN 10 AND 20');
RESET enable_seqscan;

-- index-only scans after VACUUM; a sort order from an index; a lossy recheck
SET enable_seqscan = off;
SET enable_bitmapscan = off;
VACUUM sealed.m;
EXPLAIN (COSTS OFF) SELECT id FROM sealed.m WHERE id < 50;
SELECT count(id) FROM sealed.m WHERE id < 50;
SELECT (SELECT array_agg(id) FROM (SELECT id FROM sealed.m ORDER BY p <-> point(500, 500), id LIMIT 10) x) =
	   (SELECT array_agg(id) FROM (SELECT id FROM plain.m ORDER BY p <-> point(500, 500), id LIMIT 10) x) AS nearest;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- killed entries, and rows of several versions in an index build
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM sealed.uq;
CREATE INDEX uq_late ON sealed.uq (b);
ROLLBACK;
BEGIN;
SELECT twin('UPDATE uq SET a = a || id, b = $$z$$ WHERE id < 30');
SELECT twin('CREATE INDEX uq_b ON uq (b)');
SELECT twin('DELETE FROM uq WHERE id BETWEEN 10 AND 20');
COMMIT;
SET enable_seqscan = off;
SELECT twin('SELECT * FROM uq WHERE b = $$z$$');
RESET enable_seqscan;

-- an index stores names as C strings, of which core makes names again
CREATE TABLE named (n name) USING cmek_heap;
INSERT INTO named SELECT 'name' || i FROM generate_series(1, 3) i;
CREATE INDEX ON named (n);
VACUUM named;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT n FROM named WHERE n > 'a';
SELECT n, repeat(n::text, 2) || '-' || n FROM named WHERE n > 'a' ORDER BY n;
RESET enable_seqscan;
RESET enable_bitmapscan;
DROP TABLE named;
