-- ALTER TABLE: in and out of access method cmek_heap, and from key to key
SET client_min_messages = warning;
CREATE SCHEMA ddl_alter;
SET search_path = ddl_alter;
\set VERBOSITY terse

SELECT current_setting('data_directory') || '.cmek-ddl-alter' AS file \gset
\set program 'umask 077; cat > "' :file '"'
COPY (SELECT repeat('ab', 32)) TO PROGRAM :'program';
CREATE SERVER alter_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE SERVER alter_b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE VIEW bound AS
	SELECT c.relname, a.amname, cmek.label_key(l.label) AS key,
		(SELECT count(*) FROM cmek.table_key k WHERE k.relid = c.oid) > 0 AS keys,
		(SELECT array_agg(s.srvname) FROM pg_depend d JOIN pg_foreign_server s ON s.oid = d.refobjid
		 WHERE d.refclassid = 'pg_foreign_server'::regclass AND d.classid = 'pg_class'::regclass
		   AND d.objid = c.oid) AS depends
	FROM pg_class c JOIN pg_am a ON a.oid = c.relam
	LEFT JOIN pg_seclabel l
	  ON l.objoid = c.oid AND l.classoid = 'pg_class'::regclass AND l.provider = 'cmek'
	WHERE c.relnamespace = 'ddl_alter'::regnamespace AND c.relkind IN ('r', 'm')
	ORDER BY c.relname COLLATE "C";

-- in, out, and to where it is already
CREATE TABLE t (a int, b text);
ALTER TABLE t ALTER b SET STORAGE external;
INSERT INTO t SELECT i, repeat('long ' || i, 1000) FROM generate_series(1, 10) i;
SELECT md5(string_agg(b, ',' ORDER BY a)) AS before FROM t \gset
ALTER TABLE t SET ACCESS METHOD cmek_heap;
SELECT * FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
ALTER TABLE t SET ACCESS METHOD cmek_heap;
SELECT count(*) FROM cmek.table_key WHERE relid = 't'::regclass;
ALTER TABLE t SET ACCESS METHOD heap;
SELECT * FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
ALTER TABLE t SET ACCESS METHOD heap;
-- with a key, with other commands, and back by an error
ALTER TABLE t SET ACCESS METHOD cmek_heap, SET (cmek.key = 'alter_a', fillfactor = 80), ADD c int DEFAULT 7;
SELECT * FROM bound;
SELECT reloptions FROM pg_class WHERE oid = 't'::regclass;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before', sum(c) FROM t;
ALTER TABLE t SET ACCESS METHOD heap, ADD CHECK (a < 5);
SELECT * FROM bound;
ALTER TABLE t SET ACCESS METHOD heap, SET (cmek.key = 'alter_a');
BEGIN;
ALTER TABLE t SET ACCESS METHOD heap;
ROLLBACK;
SELECT * FROM bound;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before', sum(c) FROM t;

-- from key to key
ALTER TABLE t SET (cmek.key = 'alter_b');
SELECT * FROM bound;
ALTER TABLE t SET (cmek.key = 'alter_b');
ALTER TABLE t SET (fillfactor = 60), SET (cmek.key = 'alter_a'), DROP c;
SELECT * FROM bound;
SELECT reloptions FROM pg_class WHERE oid = 't'::regclass;
ALTER TABLE t RESET (fillfactor, cmek.key);
SELECT * FROM bound;
SELECT reloptions FROM pg_class WHERE oid = 't'::regclass;
ALTER TABLE IF EXISTS ddl_alter.t SET (cmek.key = alter_a);
SET client_min_messages = notice;
ALTER TABLE IF EXISTS nobody SET (cmek.key = 'alter_a');
ALTER TABLE IF EXISTS nobody SET (cmek.key = 'alter_a'), ADD c int;
SET client_min_messages = warning;
SELECT md5(string_agg(b, ',' ORDER BY a)) = :'before' FROM t;
BEGIN;
ALTER TABLE t SET (cmek.key = 'alter_b');
SAVEPOINT s;
ALTER TABLE t SET (cmek.key = 'cmek_service_key');
ROLLBACK TO s;
SELECT key FROM bound WHERE relname = 't';
ROLLBACK;
SELECT key FROM bound WHERE relname = 't';

-- what is refused
ALTER TABLE t SET (cmek.key = 'nobody');
ALTER TABLE t SET (cmek.key = 'none');
ALTER TABLE t SET (cmek.kye = 'alter_a');
ALTER TABLE t RESET (cmek.kye);
ALTER TABLE t SET (cmek.key = 'alter_a', cmek.key = 'alter_a');
ALTER TABLE t SET (cmek.key = 'alter_a'), SET (cmek.key = 'alter_b');
ALTER TABLE t SET (cmek.key = 'alter_b'), RESET (cmek.key);
ALTER TABLE t SET (cmek.key = 'alter_b'), ADD a int;
SET cmek.default_key = 'none';
ALTER TABLE t RESET (cmek.key);
RESET cmek.default_key;
CREATE TABLE plain (a int);
ALTER TABLE plain SET (cmek.key = 'alter_a');
CREATE VIEW v AS SELECT 1 AS a;
ALTER TABLE v SET (cmek.key = 'alter_a');
CREATE INDEX plain_a ON plain USING hash (a);
ALTER INDEX plain_a SET (cmek.key = 'alter_a');
CREATE TEMP TABLE temporary (a int);
ALTER TABLE temporary SET ACCESS METHOD cmek_heap, SET (cmek.key = 'alter_a');
ALTER TABLE temporary SET ACCESS METHOD cmek_heap;
ALTER TABLE temporary SET (cmek.key = 'alter_a');
ALTER TABLE temporary SET ACCESS METHOD heap;
BEGIN READ ONLY;
ALTER TABLE t SET (cmek.key = 'alter_b');
ROLLBACK;
SELECT key FROM bound WHERE relname = 't';

-- unbound on the way in: empty yes, with rows no
SET cmek.default_key = 'none';
CREATE TABLE empty (a int);
ALTER TABLE empty SET ACCESS METHOD cmek_heap;
ALTER TABLE empty SET (cmek.key = 'alter_a');
INSERT INTO empty VALUES (1);
SELECT a FROM empty;
\set VERBOSITY sqlstate
ALTER TABLE plain SET ACCESS METHOD cmek_heap;
DROP INDEX plain_a;
INSERT INTO plain VALUES (1);
ALTER TABLE plain SET ACCESS METHOD cmek_heap;
\set VERBOSITY terse
SELECT a FROM plain;
RESET cmek.default_key;

-- materialized views
CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;
ALTER MATERIALIZED VIEW m SET ACCESS METHOD cmek_heap;
ALTER MATERIALIZED VIEW m SET (cmek.key = 'alter_a');
REFRESH MATERIALIZED VIEW m;
SELECT a FROM m;
SELECT * FROM bound WHERE relname IN ('m', 'empty');

-- nobody else's table, and no key without USAGE
CREATE ROLE ddl_alter_user;
GRANT USAGE, CREATE ON SCHEMA ddl_alter TO ddl_alter_user;
SET ROLE ddl_alter_user;
ALTER TABLE t SET (cmek.key = 'cmek_service_key');
ALTER TABLE t SET ACCESS METHOD heap;
ALTER TABLE plain SET ACCESS METHOD cmek_heap;
CREATE TABLE own (a int);
ALTER TABLE own SET ACCESS METHOD cmek_heap, SET (cmek.key = 'alter_a');
ALTER TABLE own SET ACCESS METHOD cmek_heap;
ALTER TABLE own SET (cmek.key = 'alter_a');
RESET ROLE;
SELECT * FROM bound WHERE relname IN ('own', 't', 'plain');

-- a key alone is an ALTER TABLE too: event triggers see it
CREATE TABLE seen (what text);
CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO ddl_alter.seen VALUES (tg_event || ': ' || tg_tag); END $$;
CREATE EVENT TRIGGER ddl_alter_1 ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION see();
CREATE EVENT TRIGGER ddl_alter_2 ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION see();
ALTER TABLE t SET (cmek.key = 'alter_b');
DROP EVENT TRIGGER ddl_alter_1;
DROP EVENT TRIGGER ddl_alter_2;
SELECT what FROM seen;

DROP SCHEMA ddl_alter CASCADE;
DROP SERVER alter_a, alter_b;
DROP ROLE ddl_alter_user;
