-- ON CONFLICT on sealed tables, in every way it is reached
SET client_min_messages = warning;
CREATE SCHEMA ddl_index_conflict;
SET search_path = ddl_index_conflict;
\set VERBOSITY terse
CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b int, c int, n int DEFAULT 0, EXCLUDE USING btree (c WITH =)) USING cmek_heap;
CREATE UNIQUE INDEX t_part ON t (b) WHERE b > 0;
CREATE UNIQUE INDEX t_expr ON t (lower(a));
INSERT INTO t VALUES (1, 'One', 1, 1), (2, 'Two', 2, 2);

INSERT INTO t VALUES (1, 'x', 9, 9), (3, 'Three', 3, 3) ON CONFLICT DO NOTHING RETURNING id;
INSERT INTO t VALUES (1, 'y') ON CONFLICT (id) DO UPDATE SET n = t.n + 1 RETURNING id, a, n;
INSERT INTO t VALUES (9, 'Two') ON CONFLICT (a) DO UPDATE SET n = t.n + 1 RETURNING id, a, n;
INSERT INTO t VALUES (9, 'z', 3) ON CONFLICT (b) WHERE b > 0 DO UPDATE SET n = t.n + 1 RETURNING id, a, n;
INSERT INTO t VALUES (9, 'THREE') ON CONFLICT (lower(a)) DO UPDATE SET n = t.n + 1 RETURNING id, a, n;
INSERT INTO t VALUES (9, 'Two') ON CONFLICT ON CONSTRAINT t_a_key DO UPDATE SET n = t.n + 1 RETURNING id, a, n;
INSERT INTO t VALUES (9, 'q', 99, 2) ON CONFLICT ON CONSTRAINT t_c_excl DO NOTHING RETURNING id;
INSERT INTO t VALUES (9, 'q', 99, 2) ON CONFLICT DO NOTHING RETURNING id;
INSERT INTO t VALUES (9, 'Two') ON CONFLICT (id) DO NOTHING;
INSERT INTO t VALUES (1), (1) ON CONFLICT (id) DO UPDATE SET n = 0;
INSERT INTO t VALUES (1) ON CONFLICT (n) DO NOTHING;
WITH w AS (INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET n = t.n + 10 RETURNING n),
	x AS (INSERT INTO t VALUES (2) ON CONFLICT (id) DO UPDATE SET n = t.n + 10 RETURNING n)
	SELECT w.n, x.n FROM w, x;
DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE INSERT INTO t VALUES (80) ON CONFLICT (id) DO NOTHING'; END $$;
SELECT id FROM t WHERE id = 80;

-- prepared, in functions of both kinds, in a cursor loop
PREPARE up AS INSERT INTO t VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = t.n + 100 RETURNING n;
EXECUTE up(1);
EXECUTE up(1);
SET plan_cache_mode = force_generic_plan;
EXECUTE up(1);
RESET plan_cache_mode;
CREATE FUNCTION up_sql(int) RETURNS SETOF int LANGUAGE sql AS 'INSERT INTO t VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1000 RETURNING n';
SELECT up_sql(1), up_sql(2);
CREATE FUNCTION up_plpgsql(k int) RETURNS int LANGUAGE plpgsql AS $$
	DECLARE r record; out int := 0;
	BEGIN
		FOR r IN INSERT INTO t VALUES (k), (k + 1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1 RETURNING id, n LOOP
			out := out + r.id;
		END LOOP;
		RETURN out;
	END $$;
SELECT up_plpgsql(1);
SELECT up_plpgsql(20);
-- in a procedure that commits
CREATE PROCEDURE up_commit() LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1..3 LOOP
			INSERT INTO t VALUES (30) ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
			COMMIT;
		END LOOP;
		INSERT INTO t VALUES (30) ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
		ROLLBACK;
	END $$;
CALL up_commit();
SELECT n FROM t WHERE id = 30;

-- from triggers: under COPY, UPDATE, and under itself
CREATE TABLE log (id int PRIMARY KEY, n int) USING cmek_heap;
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO log VALUES (NEW.id % 3, 1) ON CONFLICT (id) DO UPDATE SET n = log.n + 1;
		IF NEW.id > 100 AND NEW.id < 105 THEN
			INSERT INTO t VALUES (NEW.id + 1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
		END IF;
		RETURN NEW;
	END $$;
CREATE TRIGGER count_up BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION count_up();
COPY t (id) FROM stdin;
51
52
53
54
\.
INSERT INTO t VALUES (101), (1) ON CONFLICT (id) DO UPDATE SET n = t.n + 7;
SELECT * FROM log ORDER BY id;
SELECT id, n FROM t WHERE id > 100 ORDER BY id;

-- errors and savepoints on the way
CREATE FUNCTION trouble(k int, how text) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN
			IF how = 'statistics' THEN
				EXECUTE 'CREATE STATISTICS trouble_s ON a, b FROM t';
				EXECUTE 'COMMENT ON INDEX t_pkey IS ''x''';
				EXECUTE 'ALTER INDEX t_part RENAME TO t_part2';
				INSERT INTO t VALUES (k) ON CONFLICT (id) DO NOTHING;
			END IF;
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
		RETURN k;
	END $$;
DROP TRIGGER count_up ON t;
INSERT INTO t SELECT trouble(i, 'none') FROM generate_series(1, 5) i ON CONFLICT (id) DO UPDATE SET n = -1;
SET cmek.plaintext_statistics = on;
INSERT INTO t SELECT trouble(i, 'statistics') FROM generate_series(4, 9) i ON CONFLICT (id) DO UPDATE SET n = -2;
SELECT id, n FROM t WHERE id < 10 ORDER BY id;
BEGIN;
SAVEPOINT a;
INSERT INTO t VALUES (1), (1) ON CONFLICT (id) DO UPDATE SET n = 0;
ROLLBACK TO a;
INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET n = -3 RETURNING n;
ROLLBACK TO a;
INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET n = -4 RETURNING n;
COMMIT;
DO $$
	BEGIN
		FOR i IN 1..5 LOOP
			BEGIN
				INSERT INTO t SELECT 1 / (3 - x) FROM generate_series(1, 5) x ON CONFLICT (id) DO UPDATE SET n = 1;
			EXCEPTION WHEN division_by_zero THEN
				INSERT INTO t VALUES (60 + i) ON CONFLICT DO NOTHING;
			END;
		END LOOP;
	END $$;
SELECT count(*) FROM t WHERE id BETWEEN 61 AND 65;

-- a plan made meanwhile is as good afterwards
CREATE FUNCTION rows_after(k int) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		RETURN (SELECT count(*) FROM pairs WHERE (x, y) > (k, 1));
	END $$;
CREATE TABLE pairs (x int, y int, PRIMARY KEY (x, y)) USING cmek_heap;
INSERT INTO pairs SELECT i, 1 FROM generate_series(1, 500) i;
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM rows_after(NEW.x);
		RETURN NEW;
	END $$;
CREATE TRIGGER look BEFORE INSERT ON pairs FOR EACH ROW EXECUTE FUNCTION look();
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
INSERT INTO pairs SELECT i, 1 FROM generate_series(490, 510) i ON CONFLICT DO NOTHING;
SELECT rows_after(495);
RESET plan_cache_mode;
RESET enable_seqscan;

-- partitions: opened as rows come
CREATE TABLE p (id int, k int, n int DEFAULT 0, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1) USING cmek_heap;
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3) PARTITION BY RANGE (id);
CREATE TABLE p31 PARTITION OF p3 FOR VALUES FROM (0) TO (100) USING cmek_heap;
INSERT INTO p SELECT i, 1 + i % 3 FROM generate_series(1, 30) i ON CONFLICT DO NOTHING;
INSERT INTO p SELECT i, 1 + i % 3 FROM generate_series(1, 45) i ON CONFLICT (id, k) DO UPDATE SET n = p.n + 1;
INSERT INTO p SELECT i, 1 + i % 3 FROM generate_series(1, 45) i ON CONFLICT ON CONSTRAINT p_pkey DO UPDATE SET n = p.n + 1;
SELECT n, count(*) FROM p GROUP BY 1 ORDER BY 1;
INSERT INTO p31 VALUES (2, 3) ON CONFLICT (id, k) DO UPDATE SET n = 100 RETURNING n;
-- what else writes
MERGE INTO t USING (VALUES (1), (70)) v (id) ON v.id = t.id
	WHEN MATCHED THEN UPDATE SET n = 5 WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id);
SELECT id, n FROM t WHERE id IN (1, 70) ORDER BY id;
-- in the end every index says what it is
SELECT c.relname, a.amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam
	WHERE c.relnamespace = 'ddl_index_conflict'::regnamespace AND c.relkind = 'i' ORDER BY c.relname COLLATE "C";
CREATE TABLE again (LIKE t INCLUDING ALL) USING cmek_heap;
REINDEX TABLE t;

DROP SCHEMA ddl_index_conflict CASCADE;
