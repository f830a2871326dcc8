-- Another key: everything transactional, chains, all tables of a caller
SET client_min_messages = warning;
CREATE SCHEMA switch;
SET search_path = switch;
\set VERBOSITY terse

SELECT current_setting('data_directory') || '.cmek-switch-a' AS file_a,
	current_setting('data_directory') || '.cmek-switch-b' AS file_b \gset
\set program 'umask 077; cat > "' :file_a '"'
COPY (SELECT repeat('1a', 32)) TO PROGRAM :'program';
\set program 'umask 077; cat > "' :file_b '"'
COPY (SELECT repeat('2b', 32)) TO PROGRAM :'program';
CREATE SERVER switch_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file_a');
CREATE SERVER switch_b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file_b');

-- the table's key as its label, its dependency and its newest row have it; and
-- whether each older version names the next one
CREATE VIEW bound AS
	SELECT c.relname AS name, cmek.label_key(l.label) AS label,
		(SELECT string_agg(s.srvname, ',') FROM pg_depend d JOIN pg_foreign_server s ON s.oid = d.refobjid
		 WHERE d.refclassid = 'pg_foreign_server'::regclass AND d.classid = 'pg_class'::regclass
		   AND d.objid = c.oid) AS depends,
		(SELECT string_agg(k.version || k.server::text, ' ' ORDER BY version) FROM cmek.table_key k WHERE k.relid = c.oid) AS versions,
		(SELECT bool_and(k.sealed_by IS NOT DISTINCT FROM n.id AND (k.sealed IS NULL) = (n.id IS NULL))
		 FROM cmek.table_key k LEFT JOIN cmek.table_key n ON n.relid = k.relid AND n.version = k.version + 1
		 WHERE k.relid = c.oid) AS chain,
		(SELECT count(*) FROM cmek.data_key d
		 WHERE d.relid = c.oid AND d.table_key <> (SELECT id FROM cmek.table_key k WHERE k.relid = c.oid
												  ORDER BY version DESC LIMIT 1)) AS left_behind
	FROM pg_class c
	LEFT JOIN pg_seclabel l
	  ON l.objoid = c.oid AND l.classoid = 'pg_class'::regclass AND l.provider = 'cmek'
	WHERE c.relnamespace = 'switch'::regnamespace AND c.relkind IN ('r', 'm', 'p')
	ORDER BY c.relname COLLATE "C";

CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'switch_a');
ALTER TABLE t ALTER b SET STORAGE external;
INSERT INTO t SELECT i, repeat('long ' || i, 1000) FROM generate_series(1, 10) i;
SELECT md5(string_agg(b, ',' ORDER BY a)) AS before FROM t \gset
SELECT pg_relation_filenode('t') AS node \gset

-- one statement, ROLLBACK, savepoints, twice in one transaction
ALTER TABLE t SET (cmek.key = 'switch_b');
SELECT * FROM bound;
BEGIN;
ALTER TABLE t SET (cmek.key = 'switch_a');
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
ROLLBACK;
SELECT * FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
BEGIN;
ALTER TABLE t SET (cmek.key = 'switch_a');
INSERT INTO t VALUES (11, 'in between');
SAVEPOINT s;
ALTER TABLE t SET (cmek.key = 'cmek_service_key');
INSERT INTO t VALUES (12, 'never was');
ROLLBACK TO s;
SELECT a, b FROM t WHERE a > 10;
ALTER TABLE t SET (cmek.key = 'switch_b');
DELETE FROM t WHERE a = 11;
COMMIT;
SELECT * FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
SELECT pg_relation_filenode('t') = :node AS same_file;
SELECT * FROM cmek.verify('t');

-- PREPARE TRANSACTION
BEGIN;
ALTER TABLE t SET (cmek.key = 'switch_a');
PREPARE TRANSACTION 'switch 1';
SELECT label FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
ROLLBACK PREPARED 'switch 1';
SELECT label, versions FROM bound;
BEGIN;
ALTER TABLE t SET (cmek.key = 'switch_a');
PREPARE TRANSACTION 'switch 2';
INSERT INTO t VALUES (11, 'while prepared');
COMMIT PREPARED 'switch 2';
SELECT * FROM bound;
SELECT a, b FROM t WHERE a = 11;
DELETE FROM t WHERE a = 11;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;

-- with other commands: the key first, and all or nothing
ALTER TABLE t SET (cmek.key = 'switch_b'), ADD c int DEFAULT 7, ALTER a TYPE int8;
SELECT label, chain, left_behind FROM bound;
ALTER TABLE t SET (cmek.key = 'switch_a'), ADD CHECK (a < 5);
ALTER TABLE t SET (cmek.key = 'switch_a'), SET ACCESS METHOD heap;
ALTER TABLE t SET ACCESS METHOD heap, RESET (cmek.key);
SELECT label, chain, left_behind FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before', sum(c) FROM t;
ALTER TABLE ONLY t SET (cmek.key = 'switch_a');
SECURITY LABEL FOR cmek ON TABLE t IS 'key=switch_b';
SELECT * FROM bound;

-- the lock is the weakest that a change of the table can take
BEGIN;
ALTER TABLE t SET (cmek.key = 'switch_a');
SELECT mode FROM pg_locks WHERE relation = 't'::regclass AND pid = pg_backend_pid();
ROLLBACK;

-- event triggers see the command
CREATE TABLE seen (what text);
CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO switch.seen SELECT tg_event || ' ' || command_tag || ' ' || object_identity
			FROM pg_event_trigger_ddl_commands();
	END $$;
CREATE EVENT TRIGGER switch_end ON ddl_command_end EXECUTE FUNCTION see();
ALTER TABLE t SET (cmek.key = 'switch_a');
ALTER TABLE t RESET (cmek.key);
DROP EVENT TRIGGER switch_end;
SELECT * FROM seen;
DROP TABLE seen;

-- partitions: down the tree, or ONLY the top, which new partitions follow
CREATE TABLE p (a int, b text) PARTITION BY RANGE (a) WITH (cmek.key = 'switch_a');
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
INSERT INTO p SELECT i, 'row ' || i FROM generate_series(0, 19) i;
ALTER TABLE p SET (cmek.key = 'switch_b');
SELECT * FROM bound WHERE name LIKE 'p%';
ALTER TABLE ONLY p SET (cmek.key = 'switch_a');
CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30);
SELECT name, label, versions FROM bound WHERE name LIKE 'p%';
ALTER TABLE p2 SET (cmek.key = 'switch_a');
SELECT count(*), min(b), max(b) FROM p;
CALL cmek.rotate_table_key('p');
SELECT * FROM bound WHERE name LIKE 'p%';
SELECT count(*), min(b), max(b) FROM p;

-- materialized views
CREATE MATERIALIZED VIEW m USING cmek_heap WITH (cmek.key = 'switch_a') AS SELECT a FROM p;
ALTER MATERIALIZED VIEW m SET (cmek.key = 'switch_b');
ALTER MATERIALIZED VIEW IF EXISTS nothing SET (cmek.key = 'switch_b');
SELECT * FROM bound WHERE name = 'm';
SELECT count(*) FROM m;

-- rotate
CALL cmek.rotate_table_key('m');
SELECT * FROM bound WHERE name = 'm';
BEGIN;
CALL cmek.rotate_table_key('m');
ROLLBACK;
SELECT versions FROM bound WHERE name = 'm';
CREATE TABLE plain (a int);
CALL cmek.rotate_table_key('plain');
CALL cmek.rotate_table_key(NULL);
CALL cmek.rotate_table_key(0);
CREATE TEMP TABLE temporary (a int) USING cmek_heap;
CALL cmek.rotate_table_key('temporary');

-- switch_key: the caller's own, committing after each, or all in one
CREATE ROLE switch_user;
GRANT USAGE, CREATE ON SCHEMA switch TO switch_user;
GRANT USAGE ON FOREIGN SERVER switch_a TO switch_user;
SET ROLE switch_user;
CREATE TABLE mine (a int) USING cmek_heap WITH (cmek.key = 'switch_a');
CREATE TABLE mine_too (a int) USING cmek_heap WITH (cmek.key = 'switch_a');
INSERT INTO mine VALUES (1);
CALL cmek.switch_key('switch_a', 'switch_b');
CALL cmek.rotate_table_key('t');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER switch_b TO switch_user;
ALTER TABLE t SET (cmek.key = 'switch_a');
SET ROLE switch_user;
CALL cmek.switch_key('switch_a', 'switch_b');
SELECT a FROM mine;
SELECT relid::regclass, version, server FROM cmek.key_chain ORDER BY relid::regclass::text COLLATE "C", version;
SELECT jsonb_array_length(cmek.export_keys() -> 'tables');
CALL cmek.rotate_table_key('mine');
RESET ROLE;
SELECT name, label FROM bound;
BEGIN;
CALL cmek.switch_key('switch_a', 'switch_b');
SELECT name, label FROM bound;
ROLLBACK;
SELECT name, label FROM bound WHERE name IN ('p', 't');
CALL cmek.switch_key('switch_a', 'switch_b');
SELECT name, label, chain, left_behind FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before', sum(c) FROM t;
SELECT count(*), min(b), max(b) FROM p;
CALL cmek.switch_key('switch_b', 'switch_b');
CALL cmek.switch_key('nobody', 'switch_b');
CALL cmek.switch_key('switch_b', 'nobody');
CALL cmek.switch_key('switch_b', NULL);
BEGIN READ ONLY;
CALL cmek.switch_key('switch_b', 'switch_a');
ROLLBACK;
SELECT * FROM cmek.switch_progress;

-- nothing is left that needs the old key
DROP SERVER switch_a;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
ALTER SERVER switch_b RENAME TO switch_c;
SELECT name, label, chain FROM bound;
INSERT INTO t VALUES (11, 'after all that');
SELECT b FROM t WHERE a = 11;

-- an export is for those who have older keys
SELECT cmek.import_keys(cmek.export_keys());
SELECT cmek.import_keys('{}');
SELECT cmek.import_keys('[]');
SELECT cmek.import_keys('{"cmek_keys": 1, "tables": [{"relid": 1}]}');
SELECT cmek.import_keys('{"cmek_keys": 2, "tables": []}');
SELECT cmek.import_keys('{"cmek_keys": 1, "tables": []}');
SELECT cmek.import_keys(NULL);

DROP SCHEMA switch CASCADE;
DROP SERVER switch_c;
DROP ROLE switch_user;
SELECT count(*) FROM cmek.table_key k WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = k.relid);
