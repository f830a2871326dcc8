-- Comparisons of rows as conditions of sealed indexes; plain heap says what is
-- right.  Core asks for a btree in the planner and, before 18, in the executor.
SET client_min_messages = warning;
CREATE SCHEMA ddl_index_rows;
SET search_path = ddl_index_rows;
SET enable_seqscan = off;

-- is a row comparison a condition of the index?
CREATE FUNCTION conditions(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
	DECLARE line text;
	BEGIN
		FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
			IF line ~ 'Index Cond|Filter|Sort' THEN RETURN NEXT trim(line); END IF;
		END LOOP;
	END $$;
CREATE TABLE k (id int PRIMARY KEY, a int, b text, c numeric) USING cmek_heap;
INSERT INTO k SELECT i, i % 50, chr(97 + i % 26), i FROM generate_series(1, 2000) i;
INSERT INTO k SELECT -i, i % 50, NULL, i FROM generate_series(1, 50) i;
CREATE INDEX k_abc ON k (a, b COLLATE "C", c);
CREATE TABLE plain AS SELECT * FROM k;

SELECT l ~ 'Index Cond: .*ROW' AS used FROM conditions('SELECT * FROM k WHERE (a, b COLLATE "C", c) > (30, ''q'', 7) ORDER BY a, b COLLATE "C", c LIMIT 3') l;
SELECT * FROM k WHERE (a, b COLLATE "C", c) > (30, 'q', 7) ORDER BY a, b COLLATE "C", c LIMIT 3;
SELECT l ~ 'Index Cond: .*ROW' AS used FROM conditions('SELECT a FROM k WHERE (a, b COLLATE "C") <= (1, ''c'') ORDER BY a DESC, b COLLATE "C" DESC LIMIT 3') l;
SELECT a, b FROM k WHERE (a, b COLLATE "C") <= (1, 'c') ORDER BY a DESC, b COLLATE "C" DESC, c DESC LIMIT 3;
-- every operator, NULLs on both sides, against a plain table
DO $$
	DECLARE op text; arg text; query text; sealed int; stock int; used int;
	BEGIN
		FOREACH op IN ARRAY ARRAY['<', '<=', '>', '>='] LOOP
			FOREACH arg IN ARRAY ARRAY['(10, ''q'', 7.5)', '(49, ''z'', 0)', '(0, ''a'', 0)', '(7, NULL, 1)', '(25, ''m'', NULL)', '(90, ''a'', 1)'] LOOP
				query := format('SELECT count(*) FROM %%s WHERE (a, b COLLATE "C", c) %s %s', op, arg);
				SELECT count(*) INTO used FROM conditions(format(query, 'k')) l WHERE l ~ 'Index Cond: .*ROW';
				EXECUTE format(query, 'k') INTO sealed;
				EXECUTE format(query, 'plain') INTO stock;
				IF used <> 1 OR sealed <> stock THEN
					RAISE WARNING '% %: % sealed, % plain, % conditions', op, arg, sealed, stock, used;
				END IF;
			END LOOP;
		END LOOP;
	END $$;

-- where scans are made: statements that change rows, a cursor, a WITH, in parallel, prepared
UPDATE k SET c = c + 0.5 WHERE (a, b COLLATE "C") < (0, 'c');
SELECT count(*) FROM k WHERE c <> trunc(c);
DELETE FROM k WHERE (a, b COLLATE "C") > (49, 'y');
SELECT count(*) FROM k;
BEGIN;
DECLARE cur CURSOR FOR SELECT * FROM k WHERE (a, b COLLATE "C") > (48, 'w') ORDER BY a, b COLLATE "C", c FOR UPDATE;
FETCH 2 FROM cur;
UPDATE k SET c = 0 WHERE CURRENT OF cur;
FETCH 2 FROM cur;
COMMIT;
WITH w AS (UPDATE k SET c = -1 WHERE (a, b COLLATE "C") < (0, 'd') RETURNING 1) SELECT 'not asked for';
SELECT count(*) FROM k WHERE c = -1;
PREPARE page AS SELECT id, a, b FROM k WHERE (a, b COLLATE "C", c) > ($1, $2, $3) ORDER BY a, b COLLATE "C", c LIMIT 2;
SET plan_cache_mode = force_generic_plan;
EXECUTE page(12, 'b', 1);
EXECUTE page(49, 'y', 1);
SELECT count(*) FROM k WHERE (a, b COLLATE "C") > (30, 'q') AND EXISTS (SELECT FROM k k2 WHERE (k2.a, k2.b COLLATE "C") > (k.a, k.b) LIMIT 1);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
SET enable_indexonlyscan = off;
SELECT count(*) FROM k WHERE (a, b COLLATE "C") > (30, 'q');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;

-- partitions of both kinds
CREATE TABLE p (a int, b int, c text) PARTITION BY RANGE (a);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10) USING cmek_heap;
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) USING heap;
CREATE INDEX ON p (a, b);
INSERT INTO p SELECT i % 20, i, i FROM generate_series(1, 500) i;
SELECT * FROM p WHERE (a, b) > (9, 460) ORDER BY a, b LIMIT 4;

-- an ON CONFLICT in a WITH that nobody asks for runs when the rest is done
CREATE TABLE t (id int PRIMARY KEY, n int) USING cmek_heap;
INSERT INTO t VALUES (1, 0);
WITH w AS (INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1) SELECT count(*) FROM t;
SELECT * FROM t;

-- the planner looks at the ends of an index where it has statistics: of a temporary
-- table, too, and in a parallel worker, where it cannot ask for the key
SET cmek.plaintext_statistics = on;
SET enable_seqscan = on;
CREATE TEMP TABLE tmp (i int) USING cmek_heap;
INSERT INTO tmp SELECT generate_series(1, 3000);
CREATE INDEX ON tmp (i);
CREATE TABLE peek (i int) USING cmek_heap;
INSERT INTO peek SELECT generate_series(1, 3000);
CREATE INDEX ON peek (i);
ANALYZE tmp;
ANALYZE peek;
SELECT count(*) FROM tmp a JOIN tmp b ON a.i = b.i WHERE a.i > 2990;
CREATE FUNCTION planned(n int) RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
	DECLARE c bigint;
	BEGIN
		EXECUTE 'SELECT count(*) FROM ddl_index_rows.peek WHERE i > ' || n INTO c;
		RETURN c;
	END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET parallel_leader_participation = off;
SET max_parallel_workers_per_gather = 1;
SELECT sum(planned(2998)) FROM k WHERE id BETWEEN 1 AND 20;

DROP SCHEMA ddl_index_rows CASCADE;
