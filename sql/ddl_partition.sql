-- Leaves of a sealed partitioned table are sealed, and take its key
SET client_min_messages = warning;
CREATE SCHEMA ddl_partition;
SET search_path = ddl_partition;
\set VERBOSITY terse

SELECT current_setting('data_directory') || '.cmek-ddl-partition' AS file \gset
\set program 'umask 077; cat > "' :file '"'
COPY (SELECT repeat('ab', 32)) TO PROGRAM :'program';
CREATE SERVER part_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE SERVER part_b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');

CREATE VIEW bound AS
	SELECT c.relname, c.relkind, a.amname, cmek.label_key(l.label) AS key,
		(SELECT count(*) > 0 FROM cmek.table_key k WHERE k.relid = c.oid) AS keys
	FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam AND c.relkind <> 'p'
	LEFT JOIN pg_seclabel l
	  ON l.objoid = c.oid AND l.classoid = 'pg_class'::regclass AND l.provider = 'cmek'
	WHERE c.relnamespace = 'ddl_partition'::regnamespace AND c.relkind IN ('r', 'p')
	ORDER BY c.relname COLLATE "C";

CREATE TABLE p (a int, b text) PARTITION BY LIST (a) USING cmek_heap WITH (cmek.key = 'part_a');
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) USING cmek_heap;
CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3) WITH (cmek.key = 'part_b');
CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4, 5, 6) PARTITION BY LIST (a);
CREATE TABLE p44 PARTITION OF p4 FOR VALUES IN (4);
CREATE TABLE p45 PARTITION OF p4 FOR VALUES IN (5) PARTITION BY LIST (a) USING cmek_heap WITH (cmek.key = 'part_b');
CREATE TABLE p455 PARTITION OF p45 DEFAULT;
CREATE TABLE pd PARTITION OF p DEFAULT;
SELECT * FROM bound;
INSERT INTO p SELECT i, 'row ' || i FROM generate_series(1, 5) i;
INSERT INTO p VALUES (99, 'default');
UPDATE p SET a = 1 WHERE a = 2;
SELECT tableoid::regclass, a, b FROM p ORDER BY a, b;

-- no leaf in clear, whichever way it comes
CREATE TABLE fails PARTITION OF p FOR VALUES IN (7) USING heap;
CREATE TABLE fails PARTITION OF p45 FOR VALUES IN (5) USING heap;
CREATE TABLE plain (a int, b text);
ALTER TABLE p ATTACH PARTITION plain FOR VALUES IN (7);
ALTER TABLE p4 ATTACH PARTITION plain FOR VALUES IN (6);
CREATE TABLE plain_parent (a int, b text) PARTITION BY LIST (a);
ALTER TABLE p ATTACH PARTITION plain_parent FOR VALUES IN (8);
CREATE FOREIGN DATA WRAPPER stranger;
CREATE SERVER stranger FOREIGN DATA WRAPPER stranger;
CREATE FOREIGN TABLE fails PARTITION OF p FOR VALUES IN (9) SERVER stranger;
ALTER TABLE p1 SET ACCESS METHOD heap;
ALTER TABLE p DETACH PARTITION p1;
ALTER TABLE p1 SET ACCESS METHOD heap;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
ALTER TABLE p1 SET ACCESS METHOD cmek_heap;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
-- sealed ones are welcome, under whatever key
ALTER TABLE plain SET ACCESS METHOD cmek_heap;
ALTER TABLE p ATTACH PARTITION plain FOR VALUES IN (7);
-- in a table in clear too
CREATE TABLE q (a int, b text) PARTITION BY LIST (a);
CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1);
CREATE TABLE q2 PARTITION OF q FOR VALUES IN (2) USING cmek_heap;
SELECT * FROM bound WHERE relname ~ '^(q|p1$|plain)';

-- another key for the whole of it, for one, for the next ones only
ALTER TABLE p SET (cmek.key = 'part_b');
SELECT relname, key FROM bound WHERE relname ~ '^p' AND key IS DISTINCT FROM 'part_b';
ALTER TABLE ONLY p SET (cmek.key = 'part_a');
SELECT relname, key FROM bound WHERE relname ~ '^p' AND key IS DISTINCT FROM 'part_b';
ALTER TABLE p RESET (cmek.key);
SELECT relname, key FROM bound WHERE relname ~ '^p' AND key IS DISTINCT FROM 'cmek_service_key';
SELECT tableoid::regclass, a, b FROM p ORDER BY a, b;

-- an empty one is sealed by its key alone, one with leaves in clear is not
ALTER TABLE plain_parent SET (cmek.key = 'part_a');
CREATE TABLE plain_parent_1 PARTITION OF plain_parent FOR VALUES IN (1);
SELECT * FROM bound WHERE relname ~ '^plain_parent';
ALTER TABLE q SET (cmek.key = 'part_a');
ALTER TABLE q1 SET ACCESS METHOD cmek_heap;
ALTER TABLE q SET (cmek.key = 'part_a');
SELECT * FROM bound WHERE relname ~ '^q';

-- a partition takes its table's key, so its maker needs USAGE on it
CREATE ROLE ddl_partition_user;
GRANT CREATE, USAGE ON SCHEMA ddl_partition TO ddl_partition_user;
ALTER TABLE q OWNER TO ddl_partition_user;
SET ROLE ddl_partition_user;
CREATE TABLE q3 PARTITION OF q FOR VALUES IN (3);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER part_a TO ddl_partition_user;
SET ROLE ddl_partition_user;
CREATE TABLE q3 PARTITION OF q FOR VALUES IN (3);
-- and owns every partition that it binds
ALTER TABLE q SET (cmek.key = 'cmek_service_key');
ALTER TABLE ONLY q SET (cmek.key = 'cmek_service_key');
RESET ROLE;
SELECT relname, key FROM bound WHERE relname ~ '^q';

-- the key stays as long as a partitioned table names it
DROP SERVER part_a;
\set VERBOSITY sqlstate
DROP SERVER part_a CASCADE;
DROP SCHEMA ddl_partition CASCADE;
DROP SERVER part_a, part_b, stranger;
DROP FOREIGN DATA WRAPPER stranger;
DROP ROLE ddl_partition_user;
