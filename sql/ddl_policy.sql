-- What would put values in clear is refused, or allowed aloud
CREATE SCHEMA ddl_policy;
SET search_path = ddl_policy;
\set VERBOSITY terse

CREATE TABLE t (id int, a text) USING cmek_heap;
INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 100) i;

-- indexes of other methods than b-tree, in every way one comes about
CREATE INDEX t_a ON t USING hash (a);
CREATE INDEX CONCURRENTLY t_a ON t USING hash (a);
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 't'::regclass;
CREATE INDEX t_a ON t USING brin (a);
ALTER TABLE t ADD EXCLUDE USING hash (a WITH =);
CREATE TABLE fails (id int, EXCLUDE USING hash (id WITH =)) USING cmek_heap;
CREATE TEMP TABLE fails (id int, EXCLUDE USING hash (id WITH =)) USING cmek_heap;
CREATE TABLE indexed (id int PRIMARY KEY, a text);
CREATE INDEX indexed_a ON indexed USING hash (a);
CREATE TABLE fails (LIKE indexed INCLUDING ALL) USING cmek_heap;
ALTER TABLE indexed SET ACCESS METHOD cmek_heap;
CREATE MATERIALIZED VIEW m USING cmek_heap AS SELECT 1 AS a;
CREATE INDEX m_h ON m USING hash (a);
CREATE TABLE p (id int, a text) PARTITION BY LIST (id) USING cmek_heap;
CREATE INDEX p_a ON p USING hash (a);
-- by way of a partitioned table in clear that has one
CREATE TABLE q (id int, a text) PARTITION BY LIST (id);
CREATE INDEX q_a ON q USING hash (a);
CREATE TABLE fails PARTITION OF q FOR VALUES IN (1) USING cmek_heap;
CREATE TABLE q2 (id int, a text) USING cmek_heap;
ALTER TABLE q ATTACH PARTITION q2 FOR VALUES IN (2);
DROP INDEX q_a;
ALTER TABLE q ATTACH PARTITION q2 FOR VALUES IN (2);
CREATE INDEX q_a ON q USING hash (a);
-- allowed: a warning for each, and a line in the view
SET cmek.plaintext_indexes = on;
CREATE INDEX t_a ON t USING hash (a);
ALTER TABLE t ADD EXCLUDE USING hash (id WITH =);
CREATE INDEX q_a ON q USING hash (a);
ALTER TABLE indexed SET ACCESS METHOD cmek_heap;
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE INDEX p_id_a ON p USING brin (id, a);
SELECT "table", kind, object, detail FROM cmek.exposures WHERE kind = 'index' ORDER BY object COLLATE "C";
RESET cmek.plaintext_indexes;
-- what is there already can be kept up; b-trees are sealed and need no leave
ALTER TABLE t ADD PRIMARY KEY (id);
REINDEX INDEX t_a;
REINDEX TABLE t;
REINDEX INDEX CONCURRENTLY t_a;
ALTER TABLE t ALTER id TYPE bigint;
ALTER TABLE t ALTER a TYPE varchar(40);
VACUUM FULL t;
CLUSTER t USING t_pkey;
SELECT a FROM t WHERE id = 42;
-- a table in clear has whatever index it wants
CREATE TABLE plain (id int PRIMARY KEY);

-- a materialized view is refreshed without a copy in clear
CREATE UNIQUE INDEX m_a ON m (a);
CREATE TABLE scratch_methods (persistence "char", amname name);
CREATE FUNCTION scratch() RETURNS event_trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO ddl_policy.scratch_methods
			SELECT c.relpersistence, a.amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam
			WHERE c.relname ~ '^pg_temp_[0-9]+_2$' AND c.relkind = 'r';
	END $$;
CREATE EVENT TRIGGER ddl_policy ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION scratch();
REFRESH MATERIALIZED VIEW CONCURRENTLY m;
DROP EVENT TRIGGER ddl_policy;
SELECT * FROM scratch_methods;
SELECT a FROM m;

-- statistics of a table in clear do not outlive its sealing
CREATE TABLE s (a text, b text);
INSERT INTO s SELECT 'value ' || i % 3, 'b' FROM generate_series(1, 300) i;
CREATE STATISTICS s_ab (mcv) ON a, b FROM s;
ANALYZE s;
SELECT count(*) FROM pg_statistic WHERE starelid = 's'::regclass;
SELECT count(*) FROM pg_statistic_ext_data d JOIN pg_statistic_ext x ON x.oid = d.stxoid
	WHERE x.stxrelid = 's'::regclass AND d.stxdmcv IS NOT NULL;
ALTER TABLE s SET ACCESS METHOD cmek_heap;
SELECT count(*) FROM pg_statistic WHERE starelid = 's'::regclass;
SELECT count(*) FROM pg_statistic_ext_data d JOIN pg_statistic_ext x ON x.oid = d.stxoid
	WHERE x.stxrelid = 's'::regclass AND d.stxdmcv IS NOT NULL;
SELECT * FROM cmek.exposures WHERE "table" = 's'::regclass;

-- every table sealed
SET cmek.enforce_encryption = on;
CREATE TABLE fails (a int);
CREATE TABLE fails (a int) USING heap;
CREATE TEMP TABLE fails (a int);
CREATE UNLOGGED TABLE fails (a int);
CREATE TABLE fails AS SELECT 1 AS a;
SELECT 1 AS a INTO fails;
SELECT 1 AS a INTO TEMP fails;
CREATE MATERIALIZED VIEW fails AS SELECT 1 AS a;
CREATE TABLE q3 PARTITION OF q FOR VALUES IN (3);
ALTER TABLE s SET ACCESS METHOD heap;
CREATE TABLE sealed (a int) USING cmek_heap;
CREATE TEMP TABLE sealed_temp (a int) USING cmek_heap;
CREATE TABLE sealed_as USING cmek_heap AS SELECT 1 AS a;
CREATE VIEW v AS SELECT 1 AS a;
CREATE SEQUENCE seq;
CREATE TYPE row_type AS (a int);
CREATE TABLE parent (a int) PARTITION BY LIST (a);
ALTER TABLE plain ALTER id TYPE bigint;
REFRESH MATERIALIZED VIEW CONCURRENTLY m;
SET default_table_access_method = cmek_heap;
CREATE TABLE sealed_default (a int);
SELECT 1 AS a INTO sealed_into;
RESET default_table_access_method;
RESET cmek.enforce_encryption;

-- these two are a superuser's
CREATE ROLE ddl_policy_user;
SET ROLE ddl_policy_user;
SET cmek.enforce_encryption = on;
SET cmek.allow_logical_decoding = on;
SET cmek.plaintext_indexes = on;
SET cmek.plaintext_statistics = on;
-- and the view shows nobody another's tables
SELECT count(*) FROM cmek.exposures WHERE "table" IS NOT NULL;
SELECT kind FROM cmek.exposures WHERE "table" IS NULL ORDER BY kind COLLATE "C";
SELECT count(*) FROM cmek.tables;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA ddl_policy CASCADE;
DROP ROLE ddl_policy_user;
