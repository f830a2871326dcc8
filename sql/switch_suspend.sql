-- Suspended keys: effect at commit, none at rollback, who may
SET client_min_messages = warning;
CREATE SCHEMA suspend;
SET search_path = suspend;
\set VERBOSITY terse

SELECT current_setting('data_directory') || '.cmek-suspend' AS file \gset
\set program 'umask 077; cat > "' :file '"'
COPY (SELECT repeat('3c', 32)) TO PROGRAM :'program';
CREATE ROLE suspend_owner;
CREATE ROLE suspend_user;
GRANT USAGE, CREATE ON SCHEMA suspend TO suspend_owner, suspend_user;
CREATE SERVER suspend_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE SERVER suspend_b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
GRANT USAGE ON FOREIGN SERVER suspend_a TO suspend_owner, suspend_user;
GRANT USAGE ON FOREIGN DATA WRAPPER cmek_file TO suspend_owner;
ALTER SERVER suspend_a OWNER TO suspend_owner;
CREATE VIEW state AS
	SELECT name, state, code, replace(reason, session_user, 'me') AS reason, since IS NOT NULL AS since FROM cmek.keys
	WHERE name LIKE 'suspend%' ORDER BY name;

CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'suspend_a');
CREATE TABLE other (a int) USING cmek_heap WITH (cmek.key = 'suspend_b');
INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 10) i;
INSERT INTO other VALUES (1);

-- every access fails, but only under that key
SELECT cmek.suspend_key('suspend_a');
\set VERBOSITY sqlstate
SELECT * FROM t;
SELECT count(*) FROM t;
DELETE FROM t;
INSERT INTO t VALUES (1);
ALTER TABLE t SET (cmek.key = 'suspend_b');
CALL cmek.rotate_table_key('t');
CREATE TABLE n (a int) USING cmek_heap WITH (cmek.key = 'suspend_a');
\set VERBOSITY terse
SELECT * FROM t;
SELECT a FROM other;
SELECT * FROM state;
VACUUM t;
-- nobody slips away under another name
ALTER SERVER suspend_a RENAME TO suspend_x;
SET client_min_messages = notice;
SELECT cmek.suspend_key('suspend_a');
SET client_min_messages = warning;
SELECT cmek.resume_key('suspend_a');
SELECT count(*) FROM t;
SELECT name, state FROM state;

-- effect at commit only
BEGIN;
SELECT cmek.suspend_key('suspend_a');
SELECT name, state FROM state;
ROLLBACK;
SELECT count(*) FROM t;
SELECT name, state FROM state;
BEGIN;
SAVEPOINT s;
SELECT cmek.suspend_key('suspend_a');
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM t;
BEGIN;
SELECT cmek.suspend_key('suspend_a');
SELECT cmek.resume_key('suspend_a');
COMMIT;
SELECT count(*) FROM t;
SELECT cmek.suspend_key('suspend_a');
BEGIN;
SELECT cmek.resume_key('suspend_a');
ROLLBACK;
SELECT count(*) FROM t;
SELECT cmek.resume_key('suspend_a');
SELECT count(*) FROM t;
SET client_min_messages = notice;
SELECT cmek.resume_key('suspend_a');
SET client_min_messages = warning;
BEGIN;
SELECT cmek.suspend_key('suspend_a');
PREPARE TRANSACTION 'suspend';
SELECT count(*) FROM t;
BEGIN READ ONLY;
SELECT cmek.suspend_key('suspend_a');
ROLLBACK;

-- everywhere: by name, at once, whatever becomes of the transaction
BEGIN;
SELECT cmek.suspend_key('suspend_a', true);
ROLLBACK;
SELECT count(*) FROM t;
SELECT a FROM other;
SELECT * FROM state;
SELECT server, suspended_by = current_user AS mine FROM cmek.suspended_everywhere();
ALTER SERVER suspend_a RENAME TO suspend_x;
-- the two are independent of each other
SELECT cmek.suspend_key('suspend_a');
SELECT cmek.resume_key('suspend_a', everywhere => true);
SELECT count(*) FROM t;
SELECT cmek.resume_key('suspend_a');
SELECT count(*) FROM t;

-- who may
SET ROLE suspend_user;
SELECT cmek.suspend_key('suspend_a');
SELECT cmek.resume_key('suspend_a');
SELECT cmek.suspend_key('cmek_service_key');
SELECT cmek.suspend_key('suspend_a', true);
SELECT cmek.resume_key('suspend_a', true);
SELECT * FROM cmek.suspended_key;
SET ROLE suspend_owner;
SELECT cmek.suspend_key('suspend_a', true);
SELECT cmek.suspend_key('suspend_b');
SELECT cmek.suspend_key('suspend_a');
SET ROLE suspend_user;
SELECT name, state, reason FROM cmek.keys WHERE name LIKE 'suspend%';
RESET ROLE;
SELECT count(*) FROM t;
SET ROLE suspend_owner;
SELECT cmek.resume_key('suspend_a');
RESET ROLE;
SELECT count(*) FROM t;
SELECT cmek.suspend_key('nobody');
CREATE FOREIGN DATA WRAPPER suspend_w;
CREATE SERVER suspend_plain FOREIGN DATA WRAPPER suspend_w;
SELECT cmek.suspend_key('suspend_plain');
DROP FOREIGN DATA WRAPPER suspend_w CASCADE;

-- a suspension goes with its server
SELECT cmek.suspend_key('suspend_b');
SELECT a FROM other;
DROP TABLE other;
DROP SERVER suspend_b;
SELECT * FROM cmek.suspended_key;

DROP SCHEMA suspend CASCADE;
DROP SERVER suspend_a;
REVOKE ALL ON FOREIGN DATA WRAPPER cmek_file FROM suspend_owner;
DROP ROLE suspend_owner, suspend_user;
