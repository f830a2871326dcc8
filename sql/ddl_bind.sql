-- The key named in a statement reaches the table it makes, and no other
SET client_min_messages = warning;
CREATE SCHEMA ddl_bind;
SET search_path = ddl_bind;
\set VERBOSITY terse

-- two more KMS keys in files of the server
SELECT current_setting('data_directory') || '.cmek-ddl-bind' AS file \gset
\set program 'umask 077; cat > "' :file '"'
COPY (SELECT repeat('ab', 32)) TO PROGRAM :'program';
CREATE SERVER bind_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE SERVER "bind B" FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE FOREIGN DATA WRAPPER stranger;
CREATE SERVER stranger FOREIGN DATA WRAPPER stranger;

CREATE VIEW bound AS
	SELECT c.relname, c.relkind, cmek.label_key(l.label) AS key,
		(SELECT array_agg(k.server ORDER BY k.version) FROM cmek.table_key k WHERE k.relid = c.oid) AS key_rows,
		(SELECT array_agg(s.srvname) FROM pg_depend d JOIN pg_foreign_server s ON s.oid = d.refobjid
		 WHERE d.refclassid = 'pg_foreign_server'::regclass AND d.classid = 'pg_class'::regclass
		   AND d.objid = c.oid) AS depends
	FROM pg_class c LEFT JOIN pg_seclabel l
	  ON l.objoid = c.oid AND l.classoid = 'pg_class'::regclass AND l.provider = 'cmek'
	WHERE c.relnamespace = 'ddl_bind'::regnamespace AND c.relkind IN ('r', 'm', 'p')
	ORDER BY c.relname COLLATE "C";

-- the default, a key, another option beside it, and none
CREATE TABLE by_default (a int) USING cmek_heap;
CREATE TABLE by_key (a int) USING cmek_heap WITH (fillfactor = 70, cmek.key = bind_a, toast.autovacuum_enabled = false);
SELECT reloptions FROM pg_class WHERE oid = 'by_key'::regclass;
CREATE TABLE by_quoted (a int) USING cmek_heap WITH (cmek.key = 'bind B');
CREATE TABLE by_none (a int) USING cmek_heap WITH (cmek.key = 'none');
CREATE UNLOGGED TABLE unlogged (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
CREATE TABLE plain (a int);
SET cmek.default_key = 'bind_a';
CREATE TABLE by_setting (a int) USING cmek_heap;
SET cmek.default_key = 'none';
CREATE TABLE by_setting_none (a int) USING cmek_heap;
SET cmek.default_key = 'no such key';
CREATE TABLE fails (a int) USING cmek_heap;
RESET cmek.default_key;
SET default_table_access_method = cmek_heap;
CREATE TABLE by_method (a int) WITH (cmek.key = 'bind_a');
RESET default_table_access_method;

-- CREATE TABLE AS, SELECT INTO, EXECUTE, materialized views, EXPLAIN
CREATE TABLE ctas USING cmek_heap WITH (cmek.key = 'bind_a') AS SELECT 1 AS a;
PREPARE one AS SELECT 1 AS a;
CREATE TABLE ctas_execute USING cmek_heap WITH (cmek.key = 'bind_a') AS EXECUTE one;
CREATE MATERIALIZED VIEW matview USING cmek_heap WITH (cmek.key = 'bind_a') AS SELECT 1 AS a;
CREATE MATERIALIZED VIEW matview_empty USING cmek_heap WITH (cmek.key = 'bind B') AS SELECT 1 AS a WITH NO DATA;
REFRESH MATERIALIZED VIEW matview_empty;
EXPLAIN (COSTS off) CREATE TABLE explained USING cmek_heap WITH (cmek.key = 'bind_a') AS SELECT 1 AS a;
EXPLAIN (COSTS off) CREATE TABLE explained USING cmek_heap WITH (cmek.kye = 'bind_a') AS SELECT 1 AS a;
DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE CREATE TABLE analyzed USING cmek_heap WITH (cmek.key = ''bind_a'') AS SELECT 1 AS a'; END $$;
SELECT a FROM ctas UNION ALL SELECT a FROM ctas_execute UNION ALL SELECT a FROM matview
	UNION ALL SELECT a FROM matview_empty UNION ALL SELECT a FROM analyzed;

-- inside other statements, again and again by the same cached plan
CREATE SCHEMA ddl_bind_inner CREATE TABLE in_schema (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
SELECT cmek.label_key(label) FROM pg_seclabel WHERE objoid = 'ddl_bind_inner.in_schema'::regclass;
CREATE FUNCTION make() RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN CREATE TABLE again (a int) USING cmek_heap WITH (cmek.key = 'bind_a'); END $$;
CREATE FUNCTION make_sql() RETURNS void LANGUAGE sql AS
	$$ CREATE TABLE again (a int) USING cmek_heap WITH (cmek.key = 'bind B') $$;
SELECT make();
SELECT key FROM bound WHERE relname = 'again';
DROP TABLE again;
SELECT make();
SELECT key FROM bound WHERE relname = 'again';
DROP TABLE again;
SELECT make_sql();
SELECT key FROM bound WHERE relname = 'again';
DROP TABLE again;

-- a table made inside the statement does not take its key
CREATE FUNCTION inner_table() RETURNS int LANGUAGE plpgsql AS
	$$ BEGIN CREATE TABLE inner_of_ctas (a int) USING cmek_heap; RETURN 1; END $$;
CREATE TABLE outer_ctas USING cmek_heap WITH (cmek.key = 'bind_a') AS SELECT inner_table() AS a;
CREATE FUNCTION before_create() RETURNS event_trigger LANGUAGE plpgsql AS
	$$ BEGIN
		IF current_setting('ddl_bind.inside', true) IS DISTINCT FROM 'yes' THEN
			PERFORM set_config('ddl_bind.inside', 'yes', true);
			CREATE TABLE ddl_bind.by_trigger (a int) USING cmek_heap;
		END IF;
	END $$;
CREATE EVENT TRIGGER ddl_bind ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION before_create();
CREATE TABLE with_trigger (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
DROP EVENT TRIGGER ddl_bind;

-- a table that is there already stays as it is
CREATE TABLE IF NOT EXISTS by_default (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
CREATE TABLE IF NOT EXISTS by_default USING cmek_heap WITH (cmek.key = 'bind_a') AS SELECT 1 AS a;

-- temporary tables have a key of the session
CREATE TEMP TABLE temporary (a int) USING cmek_heap;
CREATE TEMP TABLE fails (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
CREATE TABLE pg_temp.fails (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
SELECT count(*) FROM pg_seclabel WHERE objoid = 'temporary'::regclass;

-- what is wrong is said, and nothing is half made
CREATE TABLE fails (a int) WITH (cmek.key = 'bind_a');
CREATE TABLE fails USING heap WITH (cmek.key = 'bind_a') AS SELECT 1 AS a;
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.kye = 'bind_a');
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key = 'bind_a', cmek.key = 'bind_a');
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key);
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key = '');
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key = 'BIND_A');
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key = 'stranger');
CREATE TABLE fails (a int) USING cmek_heap WITH (cmke.key = 'bind_a');
CREATE VIEW fails WITH (cmek.key = 'bind_a') AS SELECT 1 AS a;
CREATE TABLE fails USING cmek_heap WITH (cmek.key = 'bind_a') AS SELECT 1 / 0 AS a;
BEGIN;
SAVEPOINT s;
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
ROLLBACK TO s;
CREATE TABLE after_savepoint (a int) USING cmek_heap;
COMMIT;

-- USAGE on the server decides, for a key asked for as for the default
CREATE ROLE ddl_bind_user;
GRANT CREATE, USAGE ON SCHEMA ddl_bind TO ddl_bind_user;
SET ROLE ddl_bind_user;
CREATE TABLE of_user (a int) USING cmek_heap;
CREATE TABLE fails (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
SET cmek.default_key = 'bind_a';
CREATE TABLE fails (a int) USING cmek_heap;
RESET cmek.default_key;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER bind_a TO ddl_bind_user;
SET ROLE ddl_bind_user;
CREATE TABLE of_user_granted (a int) USING cmek_heap WITH (cmek.key = 'bind_a');
SELECT "table", key FROM cmek.tables ORDER BY "table"::text COLLATE "C", 2;
SELECT name, tables > 0 AS used FROM cmek.keys WHERE name IN ('bind_a', 'bind B') ORDER BY name;
SELECT * FROM cmek.table_key;
SELECT * FROM cmek.bindings;
RESET ROLE;

SELECT * FROM bound;
SELECT count(*) FROM cmek.tables WHERE state = 'unbound' AND "table"::text IN ('by_none', 'by_setting_none');

-- tables, schemas and everything in them go as always, and so do their keys
DROP TABLE by_key;
BEGIN;
DROP TABLE by_quoted;
ROLLBACK;
SELECT * FROM bound WHERE relname IN ('by_key', 'by_quoted');
CREATE TEMP TABLE relids AS SELECT oid FROM pg_class WHERE relnamespace = 'ddl_bind'::regnamespace;
DROP SCHEMA ddl_bind, ddl_bind_inner CASCADE;
SELECT count(*) FROM cmek.table_key WHERE relid IN (SELECT oid FROM relids);
SELECT count(*) FROM cmek.data_key WHERE relid IN (SELECT oid FROM relids);
SELECT count(*) FROM pg_seclabel WHERE objoid IN (SELECT oid FROM relids);
DROP SERVER bind_a, "bind B", stranger;
DROP FOREIGN DATA WRAPPER stranger;
DROP ROLE ddl_bind_user;
