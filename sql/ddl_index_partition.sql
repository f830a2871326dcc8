-- Indexes of partitioned tables: the partitioned one is a recipe and stays
-- btree, those of sealed partitions are cmek_btree, whichever way they come
SET client_min_messages = warning;
CREATE SCHEMA ddl_index_partition;
SET search_path = ddl_index_partition;
\set VERBOSITY terse
CREATE VIEW idx AS
	SELECT t.relname AS "table", c.relname AS index, c.relkind AS kind, a.amname AS method,
		(SELECT inhparent::regclass FROM pg_inherits h WHERE h.inhrelid = c.oid) AS parent,
		i.indisvalid AS valid, i.indisprimary AS pk
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
	JOIN pg_am a ON a.oid = c.relam WHERE c.relnamespace = 'ddl_index_partition'::regnamespace
	ORDER BY t.relname COLLATE "C", c.relname COLLATE "C";

-- three levels, every kind of constraint that core has for them
CREATE TABLE p (id int, k text, n int, PRIMARY KEY (id, k), UNIQUE (k, id) DEFERRABLE) PARTITION BY RANGE (id)
	USING cmek_heap WITH (cmek.key = 'cmek_service_key');
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (k);
CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN ('a');
CREATE TABLE p2b PARTITION OF p2 FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE p2ba PARTITION OF p2b FOR VALUES FROM (10) TO (15);
CREATE TABLE p2bd PARTITION OF p2b DEFAULT;
SELECT * FROM idx;
-- a partition that has the indexes already brings them along
CREATE TABLE p3 (n int, k text NOT NULL, id int NOT NULL, UNIQUE (k, id) DEFERRABLE, PRIMARY KEY (id, k)) USING cmek_heap;
CREATE INDEX p3_n ON p3 (n);
ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (20) TO (30);
-- a tree too
CREATE TABLE p4 (id int NOT NULL, k text NOT NULL, n int) PARTITION BY LIST (k) USING cmek_heap WITH (cmek.key = 'cmek_service_key');
CREATE TABLE p4a PARTITION OF p4 FOR VALUES IN ('a');
CREATE UNIQUE INDEX p4a_i ON p4a (id, k);
CREATE UNIQUE INDEX p4a_pk ON p4a (id, k);
ALTER TABLE p4a ADD CONSTRAINT p4a_pk PRIMARY KEY USING INDEX p4a_pk;
ALTER TABLE p ATTACH PARTITION p4 FOR VALUES FROM (30) TO (40);
SELECT * FROM idx WHERE "table" ~ '^p[34]';
-- an index on the parent takes over those that fit
CREATE INDEX p_n ON p (n) WITH (fillfactor = 80, hide_tids = off);
SELECT * FROM idx WHERE index ~ 'n(_idx)?$';
SELECT relname, reloptions FROM pg_class WHERE relname ~ 'n(_idx)?$' AND relkind IN ('i', 'I')
	AND relnamespace = 'ddl_index_partition'::regnamespace ORDER BY relname COLLATE "C";
CREATE TABLE p5 PARTITION OF p FOR VALUES FROM (40) TO (50);
SELECT * FROM idx WHERE "table" = 'p5';
-- ON ONLY and ATTACH
CREATE INDEX p_nk ON ONLY p (n, k);
CREATE INDEX p2_nk ON ONLY p2 (n, k);
CREATE INDEX p1_nk ON p1 (n, k);
CREATE INDEX p1_kn ON p1 (k, n);
ALTER INDEX p_nk ATTACH PARTITION p1_kn;
ALTER INDEX p_nk ATTACH PARTITION p1_nk;
ALTER INDEX p_nk ATTACH PARTITION p2_nk;
CREATE INDEX p2a_nk ON p2a (n, k);
CREATE INDEX p2b_nk ON p2b (n, k);
ALTER INDEX p2_nk ATTACH PARTITION p2a_nk;
ALTER INDEX p2_nk ATTACH PARTITION p2b_nk;
CREATE INDEX p3_nk ON p3 (n, k);
CREATE INDEX p4_nk ON p4 (n, k);
CREATE INDEX p5_nk ON p5 (n, k);
ALTER INDEX p_nk ATTACH PARTITION p3_nk;
ALTER INDEX p_nk ATTACH PARTITION p4_nk;
ALTER INDEX p_nk ATTACH PARTITION p5_nk;
SELECT * FROM idx WHERE index ~ 'nk$';

-- rows
INSERT INTO p SELECT i, CASE WHEN i % 2 = 0 OR i >= 30 THEN 'a' ELSE 'b' END, i FROM generate_series(1, 45) i;
INSERT INTO p VALUES (3, 'b', 0);
INSERT INTO p VALUES (11, 'b', 0);
UPDATE p SET id = 12, k = 'a' WHERE id = 11;
UPDATE p SET id = 47, k = 'a' WHERE id = 11;
SET enable_seqscan = off;
SELECT id, k, n, tableoid::regclass FROM p WHERE id IN (3, 12, 17, 25, 33, 47) ORDER BY id;
SELECT count(*) FROM p WHERE n BETWEEN 10 AND 40;
RESET enable_seqscan;
-- foreign keys to and from
CREATE TABLE f (id int, k text, FOREIGN KEY (id, k) REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE) PARTITION BY HASH (id);
CREATE TABLE f0 PARTITION OF f FOR VALUES WITH (MODULUS 2, REMAINDER 0) USING cmek_heap;
CREATE TABLE f1 PARTITION OF f FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO f VALUES (3, 'b'), (12, 'a'), (17, 'b');
INSERT INTO f VALUES (3, 'a');
UPDATE p SET id = 4, k = 'c' WHERE id = 3;
DELETE FROM p WHERE id = 12;
SELECT * FROM f ORDER BY id;
DROP TABLE f;
-- rebuilds; detached, an index is of its table alone
REINDEX TABLE p;
REINDEX INDEX CONCURRENTLY p_nk;
CLUSTER p3 USING p3_n;
ALTER TABLE p ALTER n TYPE bigint;
ALTER TABLE p DETACH PARTITION p1;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY;
SELECT * FROM idx;
DROP INDEX p_n;
ALTER TABLE p DROP CONSTRAINT p_pkey, ADD PRIMARY KEY (k, id);
SELECT * FROM idx WHERE pk;

-- a table in clear with sealed partitions
CREATE TABLE q (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10);
CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (10) TO (20) USING cmek_heap;
CREATE TABLE q3 (id int PRIMARY KEY, a text) USING cmek_heap;
CREATE INDEX q3_a ON q3 (a);
CREATE INDEX q_a ON q (a);
ALTER TABLE q ATTACH PARTITION q3 FOR VALUES FROM (20) TO (30);
SELECT * FROM idx WHERE "table" ~ '^q';
-- a partition goes in and out of the method with its indexes attached
INSERT INTO q SELECT i, 'a' || i FROM generate_series(1, 29) i;
ALTER TABLE q1 SET ACCESS METHOD cmek_heap;
ALTER TABLE q2 SET ACCESS METHOD heap;
SELECT * FROM idx WHERE "table" ~ '^q';
SET enable_seqscan = off;
SELECT id, a FROM q WHERE a IN ('a5', 'a15', 'a25') ORDER BY id;
RESET enable_seqscan;
INSERT INTO q VALUES (5), (15);
-- other methods: none for sealed partitions, as ever
CREATE INDEX q_h ON q USING hash (a);
SELECT "table", object FROM cmek.exposures WHERE kind = 'index';

DROP SCHEMA ddl_index_partition CASCADE;
