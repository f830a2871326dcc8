-- KMS keys are servers: what may happen to one while tables are bound to it
SET client_min_messages = warning;
CREATE SCHEMA ddl_server;
SET search_path = ddl_server;
\set VERBOSITY terse

SELECT current_setting('data_directory') || '.cmek-ddl-server' AS file \gset
\set program 'umask 077; cat > "' :file '"'
COPY (SELECT repeat('ab', 32)) TO PROGRAM :'program';
CREATE SERVER server_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE SERVER server_b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'server_a');
INSERT INTO t VALUES (1);
CREATE TABLE p (a int) PARTITION BY LIST (a) USING cmek_heap WITH (cmek.key = 'server_a');
CREATE TABLE other (a int) USING cmek_heap WITH (cmek.key = 'server_b');

-- its identity stays, the rest may change
ALTER SERVER server_a OPTIONS (SET key_file '/elsewhere');
ALTER SERVER server_a OPTIONS (DROP key_file);
CREATE TABLE by_default (a int) USING cmek_heap WITH (cmek.key = 'cmek_service_key');
ALTER SERVER cmek_service_key OPTIONS (ADD key_file '/elsewhere');
ALTER SERVER server_a VERSION '2';
ALTER SERVER server_a OWNER TO CURRENT_USER;
COMMENT ON SERVER server_a IS 'a key';

-- a new name reaches labels and key rows, or nothing at all
BEGIN;
ALTER SERVER server_a RENAME TO gone;
SELECT "table", key FROM cmek.tables WHERE "table" = 't'::regclass;
ROLLBACK;
SELECT "table", key FROM cmek.tables WHERE "table" = 't'::regclass;
ALTER SERVER server_a RENAME TO "Server A";
SELECT objoid::regclass, label FROM pg_seclabel WHERE objoid IN ('t'::regclass, 'p'::regclass, 'other'::regclass)
	ORDER BY objoid::regclass::text COLLATE "C";
SELECT DISTINCT server FROM cmek.table_key WHERE relid = 't'::regclass;
SELECT a FROM t;
INSERT INTO t VALUES (2);
ALTER SERVER "Server A" RENAME TO server_b;
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
SELECT "table", key FROM cmek.tables WHERE "table" IN ('t'::regclass, 'p1'::regclass) ORDER BY "table"::text COLLATE "C", 2;
\c -
SET client_min_messages = warning;
SET search_path = ddl_server;
SELECT a FROM t ORDER BY a;

-- it does not go while tables are bound to it, and takes none along
DROP SERVER "Server A";
\set VERBOSITY sqlstate
DROP SERVER "Server A" CASCADE;
DROP SERVER server_b, "Server A" CASCADE;
DROP EXTENSION cmek;
DROP EXTENSION cmek CASCADE;
\set VERBOSITY terse
DROP FOREIGN DATA WRAPPER cmek_file CASCADE;
SELECT a FROM t ORDER BY a;
BEGIN;
DROP TABLE other;
DROP SERVER server_b;
ROLLBACK;

-- DROP OWNED takes the keys of a role and its own tables, not another's
CREATE ROLE ddl_server_owner;
CREATE ROLE ddl_server_user;
GRANT CREATE, USAGE ON SCHEMA ddl_server TO ddl_server_owner, ddl_server_user;
ALTER SERVER server_b OWNER TO ddl_server_owner;
GRANT USAGE ON FOREIGN SERVER server_b TO ddl_server_user;
SET ROLE ddl_server_user;
CREATE TABLE of_user (a int) USING cmek_heap WITH (cmek.key = 'server_b');
SET ROLE ddl_server_owner;
CREATE TABLE of_owner (a int) USING cmek_heap WITH (cmek.key = 'server_b');
RESET ROLE;
DROP OWNED BY ddl_server_owner;
DROP OWNED BY ddl_server_owner CASCADE;
SELECT "table", key FROM cmek.tables WHERE key = 'server_b' ORDER BY "table"::text COLLATE "C";
ALTER TABLE other OWNER TO ddl_server_owner;
DROP OWNED BY ddl_server_owner, ddl_server_user CASCADE;
SELECT count(*) FROM pg_foreign_server WHERE srvname = 'server_b';
SELECT count(*) FROM cmek.table_key WHERE server = 'server_b';

-- an owner renames his key and nobody else does
CREATE SERVER server_c FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE TABLE c (a int) USING cmek_heap WITH (cmek.key = 'server_c');
SET ROLE ddl_server_user;
ALTER SERVER server_c RENAME TO server_d;
ALTER SERVER server_c OPTIONS (SET key_file '/elsewhere');
RESET ROLE;
ALTER SERVER server_c OWNER TO ddl_server_owner;
SET ROLE ddl_server_owner;
ALTER SERVER server_c RENAME TO server_d;
RESET ROLE;
SELECT "table", key FROM cmek.tables WHERE "table" = 'c'::regclass;

-- only the user mapping of PUBLIC counts
CREATE FOREIGN DATA WRAPPER stranger;
CREATE SERVER stranger FOREIGN DATA WRAPPER stranger;
CREATE USER MAPPING FOR CURRENT_USER SERVER "Server A";
CREATE USER MAPPING FOR PUBLIC SERVER "Server A";
CREATE USER MAPPING FOR CURRENT_USER SERVER stranger;
ALTER SERVER stranger RENAME TO stranger2;
CREATE USER MAPPING FOR CURRENT_USER SERVER nobody;
ALTER SERVER nobody RENAME TO somebody;
ALTER SERVER nobody OPTIONS (SET key_file '/x');

DROP SCHEMA ddl_server CASCADE;
DROP SERVER "Server A", server_d, stranger2 CASCADE;
DROP FOREIGN DATA WRAPPER stranger;
DROP OWNED BY ddl_server_owner, ddl_server_user;
DROP ROLE ddl_server_owner, ddl_server_user;
