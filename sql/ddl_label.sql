-- The security label is the stored form of a binding
SET client_min_messages = warning;
CREATE SCHEMA ddl_label;
SET search_path = ddl_label;
\set VERBOSITY terse

SELECT current_setting('data_directory') || '.cmek-ddl-label' AS file \gset
\set program 'umask 077; cat > "' :file '"'
COPY (SELECT repeat('ab', 32)) TO PROGRAM :'program';
CREATE SERVER label_a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');
CREATE SERVER "label ""B"";c" FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'file');

-- what a label says
SELECT l, cmek.label_key(l) FROM (VALUES ('key=a'), ('key="a b"'), ('key="a""b;c"'), ('key=A'), ('key='),
	('key=a;b'), ('kye=a'), (''), ('key="a'), (NULL)) v (l);

-- as pg_restore does it: made with the default key, then labelled
CREATE TABLE t (a int) USING cmek_heap;
INSERT INTO t VALUES (1);
SECURITY LABEL FOR cmek ON TABLE t IS 'key=label_a';
SELECT a FROM t;
SELECT server, version FROM cmek.table_key WHERE relid = 't'::regclass AND version =
	(SELECT max(version) FROM cmek.table_key WHERE relid = 't'::regclass);
-- the same again changes nothing
SELECT count(*) AS rows_before FROM cmek.table_key WHERE relid = 't'::regclass \gset
SECURITY LABEL FOR cmek ON TABLE t IS 'key=label_a';
SELECT count(*) = :rows_before FROM cmek.table_key WHERE relid = 't'::regclass;
-- or made unbound
SET cmek.default_key = 'none';
CREATE TABLE u (a int) USING cmek_heap;
INSERT INTO u VALUES (1);
SECURITY LABEL FOR cmek ON TABLE u IS 'key="label ""B"";c"';
INSERT INTO u VALUES (1);
SELECT a FROM u;
CREATE MATERIALIZED VIEW m USING cmek_heap AS SELECT 1 AS a WITH NO DATA;
SECURITY LABEL FOR cmek ON MATERIALIZED VIEW m IS 'key=label_a';
REFRESH MATERIALIZED VIEW m;
SELECT a FROM m;
RESET cmek.default_key;
SELECT "table", key FROM cmek.tables WHERE "table"::text IN ('t', 'u', 'm') ORDER BY "table"::text COLLATE "C";

-- a partitioned table made without a method, its leaf sealed, as dumped from 15
CREATE TABLE p (a int) PARTITION BY LIST (a);
CREATE TABLE p1 (a int) USING cmek_heap;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
SECURITY LABEL FOR cmek ON TABLE p IS 'key=label_a';
DROP TABLE p2;
SECURITY LABEL FOR cmek ON TABLE p IS 'key=label_a';
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
SELECT "table", key FROM cmek.tables WHERE "table"::text IN ('p1', 'p2') ORDER BY "table"::text COLLATE "C";
SECURITY LABEL FOR cmek ON TABLE p IS NULL;

-- what is refused
SECURITY LABEL FOR cmek ON TABLE t IS NULL;
SECURITY LABEL FOR cmek ON TABLE t IS 'label_a';
SECURITY LABEL FOR cmek ON TABLE t IS 'key=label_a;replica_keys=x';
SECURITY LABEL FOR cmek ON TABLE t IS 'key=nobody';
SECURITY LABEL FOR cmek ON TABLE t IS 'key=none';
SECURITY LABEL FOR cmek ON COLUMN t.a IS 'key=label_a';
SECURITY LABEL FOR cmek ON SCHEMA ddl_label IS 'key=label_a';
CREATE ROLE ddl_label_user;
SECURITY LABEL FOR cmek ON ROLE ddl_label_user IS 'key=label_a';
CREATE VIEW v AS SELECT 1 AS a;
SECURITY LABEL FOR cmek ON VIEW v IS 'key=label_a';
CREATE TABLE plain (a int);
SECURITY LABEL FOR cmek ON TABLE plain IS 'key=label_a';
SECURITY LABEL FOR cmek ON TABLE plain IS NULL;
CREATE TEMP TABLE temporary (a int) USING cmek_heap;
SECURITY LABEL FOR cmek ON TABLE temporary IS 'key=label_a';

-- the owner of the table needs USAGE on the key
GRANT USAGE ON SCHEMA ddl_label TO ddl_label_user;
SET ROLE ddl_label_user;
SECURITY LABEL FOR cmek ON TABLE t IS 'key=cmek_service_key';
RESET ROLE;
ALTER TABLE t OWNER TO ddl_label_user;
SET ROLE ddl_label_user;
SECURITY LABEL FOR cmek ON TABLE t IS 'key="label ""B"";c"';
SECURITY LABEL FOR cmek ON TABLE t IS 'key=cmek_service_key';
SELECT a FROM t;
SELECT "table", key FROM cmek.tables WHERE "table"::text = 't';
RESET ROLE;

DROP SCHEMA ddl_label CASCADE;
DROP SERVER label_a, "label ""B"";c";
DROP ROLE ddl_label_user;
