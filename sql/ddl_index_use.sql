-- Indexes that core drops or makes anew in a statement in which they pose as
-- btree, and unique keys that are NULL.  Plain heap says what is right.
SET client_min_messages = warning;
CREATE SCHEMA ddl_index_use;
SET search_path = ddl_index_use;
SET statement_timeout = '60s';
\set VERBOSITY terse
CREATE VIEW idx AS
	SELECT t.relname AS "table", c.relname AS index, a.amname AS method, i.indisprimary AS pkey, i.indisunique AS uniq
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
	JOIN pg_am a ON a.oid = c.relam
	WHERE c.relnamespace = 'ddl_index_use'::regnamespace AND c.relkind = 'i' AND t.relkind <> 't'
	ORDER BY t.relname COLLATE "C", c.relname COLLATE "C";

-- a key that is NULL, where NULLs are not distinct
CREATE TABLE n (i int UNIQUE NULLS NOT DISTINCT, t text) USING cmek_heap;
INSERT INTO n (t) VALUES ('six');
INSERT INTO n (t) VALUES ('eight') ON CONFLICT DO NOTHING;
INSERT INTO n (t) VALUES ('nine') ON CONFLICT (i) DO UPDATE SET t = n.t || ' nine';
INSERT INTO n VALUES (1, 'one'), (1, 'uno') ON CONFLICT DO NOTHING;
INSERT INTO n (t) VALUES ('no');
SELECT * FROM n ORDER BY i;
CREATE TABLE n2 (a int, b text, t text, UNIQUE NULLS NOT DISTINCT (a, b)) USING cmek_heap;
INSERT INTO n2 VALUES (1, NULL, 'x'), (NULL, 'b', 'y'), (NULL, NULL, 'z'), (1, 'b', 'w');
INSERT INTO n2 VALUES (1, NULL, '1'), (NULL, 'b', '2'), (NULL, NULL, '3'), (1, 'b', '4'), (2, NULL, 'v'), (NULL, 'c', 'u')
	ON CONFLICT (a, b) DO UPDATE SET t = n2.t || excluded.t;
SELECT * FROM n2 ORDER BY a, b;
-- NULLs that are distinct never conflict
CREATE TABLE n3 (a int, b int, UNIQUE (a, b)) USING cmek_heap;
INSERT INTO n3 VALUES (1, NULL), (1, NULL) ON CONFLICT DO NOTHING;
INSERT INTO n3 VALUES (1, NULL), (NULL, NULL) ON CONFLICT (a, b) DO UPDATE SET a = 0;
SELECT * FROM n3 ORDER BY a, b;
-- deferred, checked by the same function of core's
CREATE TABLE n4 (i int, UNIQUE NULLS NOT DISTINCT (i) DEFERRABLE INITIALLY DEFERRED) USING cmek_heap;
BEGIN;
INSERT INTO n4 VALUES (NULL), (NULL);
COMMIT;
SELECT count(*) FROM n4;

-- an index that is used and made anew
CREATE TABLE u (f1 int, f2 int) USING cmek_heap;
INSERT INTO u SELECT i, i FROM generate_series(1, 20) i;
CREATE UNIQUE INDEX u1 ON u (f1);
CREATE UNIQUE INDEX u2 ON u (f2);
CREATE INDEX u12 ON u (f1, f2);
ALTER TABLE u ADD PRIMARY KEY USING INDEX u1, ALTER f1 TYPE bigint;
ALTER TABLE u ADD CONSTRAINT u2_key UNIQUE USING INDEX u2, ALTER f2 TYPE text, ALTER f1 TYPE numeric;
SELECT * FROM idx WHERE "table" = 'u';
INSERT INTO u VALUES (7, 'x');
INSERT INTO u VALUES (77, '7');
SET enable_seqscan = off;
SELECT * FROM u WHERE f1 = 7;
SELECT * FROM u WHERE f2 = '8';
RESET enable_seqscan;
-- it fails and nothing has happened
ALTER TABLE u DROP CONSTRAINT u2_key;
CREATE UNIQUE INDEX u2 ON u (f2);
INSERT INTO u VALUES (78, 'not a number');
ALTER TABLE u ADD CONSTRAINT u2_key UNIQUE USING INDEX u2, ALTER f2 TYPE int USING f2::int;
SELECT * FROM idx WHERE "table" = 'u';

-- partitions
CREATE TABLE p (id bigint PRIMARY KEY, val bigint) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1) USING cmek_heap;
CREATE INDEX ON p (val);
INSERT INTO p VALUES (1, 1);
ALTER TABLE p ALTER val TYPE int;
ALTER TABLE p ALTER val TYPE text;
SELECT * FROM idx WHERE "table" = 'p1';

-- a materialized view whose query drops the index that the refresh needs
CREATE FUNCTION drop_it() RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN EXECUTE 'DROP INDEX IF EXISTS ddl_index_use.m_i'; RETURN true; END $$;
CREATE MATERIALIZED VIEW m USING cmek_heap AS SELECT 1 AS i WHERE drop_it();
CREATE UNIQUE INDEX m_i ON m (i);
DO $$
	BEGIN
		REFRESH MATERIALIZED VIEW CONCURRENTLY m;
	EXCEPTION WHEN others THEN
		RAISE WARNING '%', left(sqlerrm, 57);
	END $$;
SELECT * FROM idx WHERE "table" = 'm';

-- two commits in a statement with a pose around it
CREATE TABLE d (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE d1 PARTITION OF d FOR VALUES IN (1) USING cmek_heap;
CREATE TABLE d2 (LIKE d INCLUDING ALL) USING cmek_heap;
CREATE TABLE r (id int REFERENCES d) USING cmek_heap;
INSERT INTO d VALUES (1);
INSERT INTO d2 VALUES (2);
ALTER TABLE d ATTACH PARTITION d2 FOR VALUES IN (2);
INSERT INTO r VALUES (1);
ALTER TABLE d DETACH PARTITION d2 CONCURRENTLY;
\set VERBOSITY sqlstate
ALTER TABLE d DETACH PARTITION d1 CONCURRENTLY;
\set VERBOSITY terse
SELECT * FROM idx WHERE "table" IN ('d1', 'd2');
-- an ON CONFLICT in a procedure that takes everything back
CREATE PROCEDURE back() LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO u VALUES (7, 'y') ON CONFLICT DO NOTHING;
		ALTER TABLE u ALTER f2 TYPE varchar(40);
		ROLLBACK;
		INSERT INTO u VALUES (7, 'y') ON CONFLICT (f1) DO UPDATE SET f2 = 'z';
		COMMIT;
	END $$;
CALL back();
SELECT * FROM u WHERE f1 = 7;

DROP SCHEMA ddl_index_use CASCADE;
