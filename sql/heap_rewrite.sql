-- Everything that writes a table anew: VACUUM FULL, CLUSTER, ALTER TABLE
SET client_min_messages = error;
SET cmek.plaintext_indexes = on;

-- The twins: short and long values, NULLs, dead rows, a dropped column
CREATE FUNCTION make_twins(name text) RETURNS text LANGUAGE sql AS $$
	SELECT twin(format('CREATE TABLE %I (id int PRIMARY KEY, gone text, k int, s text, l text, n numeric)', name)) || ', ' ||
		   twin(format('INSERT INTO %I SELECT i, noise(i, 3000), i %% 17, CASE WHEN i %% 5 > 0 THEN ''s'' || i END,
		   		noise(i, i * 20), i / 3.0 FROM generate_series(1, 300) i', name)) || ', ' ||
		   twin(format('DELETE FROM %I WHERE id %% 11 = 0', name)) || ', ' ||
		   twin(format('UPDATE %I SET k = k + 1, l = l || ''u'' WHERE id %% 7 = 0', name)) || ', ' ||
		   twin(format('ALTER TABLE %I DROP COLUMN gone', name)) || ', ' ||
		   twin(format('CREATE INDEX %I ON %I (k, id)', name || '_k', name))
$$;
SELECT make_twins('t');
SELECT same_table('t');
SELECT pg_relation_filenode('sealed.t') AS node \gset

VACUUM FULL sealed.t;
SELECT pg_relation_filenode('sealed.t') <> :node AS rewritten, same_table('t');
VACUUM FULL sealed.t;
SELECT same_table('t');
-- a row that is being deleted, and one of our own, go along
BEGIN;
SELECT twin('UPDATE t SET s = $$mine$$ WHERE id < 20');
SELECT twin('DELETE FROM t WHERE id BETWEEN 20 AND 30');
CLUSTER sealed.t USING t_pkey;
SELECT same_table('t');
SAVEPOINT a;
SELECT twin('UPDATE t SET l = $$undone$$');
ROLLBACK TO a;
COMMIT;
SELECT same_table('t');

-- CLUSTER, by reading an index and by sorting
CLUSTER sealed.t USING t_k;
SELECT same_table('t');
SELECT bool_and(ordered) AS in_order FROM (SELECT (k, id) >= lag((k, id)) OVER (ORDER BY ctid) IS NOT FALSE AS ordered FROM sealed.t) x;
SELECT twin('UPDATE t SET k = 20 - k');
SET enable_indexscan = off;
SET maintenance_work_mem = '1MB';
CLUSTER sealed.t;
RESET enable_indexscan;
RESET maintenance_work_mem;
SELECT same_table('t');
SELECT bool_and(ordered) AS in_order FROM (SELECT (k, id) >= lag((k, id)) OVER (ORDER BY ctid) IS NOT FALSE AS ordered FROM sealed.t) x;
SELECT twin('ALTER TABLE t SET WITHOUT CLUSTER');
CREATE TABLE sealed.cl_parts (a int, t text) PARTITION BY RANGE (a);
CREATE TABLE sealed.cl_1 PARTITION OF sealed.cl_parts FOR VALUES FROM (0) TO (50) USING cmek_heap;
CREATE TABLE sealed.cl_2 PARTITION OF sealed.cl_parts FOR VALUES FROM (50) TO (100) USING cmek_heap;
CREATE INDEX cl_i ON sealed.cl_parts (a);
INSERT INTO sealed.cl_parts SELECT i, noise(i, i * 60) FROM generate_series(99, 0, -1) i;
CLUSTER sealed.cl_parts USING cl_i;
SELECT same_rows('TABLE sealed.cl_parts', 'SELECT i, noise(i, i * 60) FROM generate_series(0, 99) i');

-- ALTER TABLE
SELECT twin('ALTER TABLE t ALTER k TYPE int8 USING k * 1000');
SELECT same_table('t');
SELECT twin('ALTER TABLE t ALTER s TYPE varchar(20), ALTER n TYPE text');
SELECT same_table('t');
SELECT twin('ALTER TABLE t ALTER l TYPE bytea USING decode(md5(l), $$hex$$) || convert_to(l, $$UTF8$$)');
SELECT same_table('t');
SELECT twin('ALTER TABLE t ADD COLUMN c int DEFAULT 42');
SELECT twin('ALTER TABLE t ADD COLUMN big text DEFAULT repeat($$x$$, 3000)');
SELECT same_table('t');
SELECT twin('UPDATE t SET c = c + 1 WHERE id % 2 = 0');
SELECT same_table('t');
SELECT twin('ALTER TABLE t ADD COLUMN v float8 DEFAULT random()');
SELECT twin('SELECT count(DISTINCT v) > 100 FROM t');
SELECT twin('ALTER TABLE t DROP COLUMN v');
SELECT twin('ALTER TABLE t ADD COLUMN ser serial');
SELECT twin('ALTER TABLE t ADD COLUMN gen text GENERATED ALWAYS AS (s || $$-g$$) STORED');
SELECT twin('SELECT id, gen, big, c FROM t');
SELECT twin('SELECT count(DISTINCT ser) FROM t');
SELECT twin('ALTER TABLE t DROP COLUMN ser, DROP COLUMN big');
VACUUM FULL sealed.t;
SELECT same_table('t');
SELECT twin('ALTER TABLE t ALTER s SET NOT NULL');
SELECT twin('ALTER TABLE t ADD CHECK (id > 0)');
SELECT twin('ALTER TABLE t ADD CHECK (id > 5)');
SELECT twin('ALTER TABLE t ALTER k TYPE int2');
SELECT same_table('t');
SELECT twin('ALTER TABLE t RENAME k TO kk');
SELECT twin('SELECT kk FROM t WHERE id = 100');
SELECT twin('ALTER TABLE t SET (fillfactor = 40)');
VACUUM FULL sealed.t;
SELECT same_table('t');
SELECT twin('ALTER TABLE t ADD CONSTRAINT u UNIQUE (id, kk)');
SELECT twin('ALTER TABLE t REPLICA IDENTITY FULL');
SELECT twin('UPDATE t SET kk = 0 WHERE id < 50');
SELECT same_table('t');

-- SET ACCESS METHOD, both ways, with values out of line, keys and indexes
SELECT make_twins('am');
ALTER TABLE sealed.am SET ACCESS METHOD heap;
SELECT same_table('am');
SELECT twin('UPDATE am SET l = l || l WHERE id < 100');
ALTER TABLE sealed.am SET ACCESS METHOD cmek_heap;
SELECT same_table('am');
SELECT twin('UPDATE am SET l = left(l, 2500) WHERE id < 100');
SELECT twin('INSERT INTO am (id, l) SELECT i, noise(i, i * 10) FROM generate_series(1000, 1100) i');
ALTER TABLE sealed.am SET ACCESS METHOD cmek_heap;
SELECT same_table('am');
BEGIN;
ALTER TABLE sealed.am SET ACCESS METHOD heap;
SELECT same_table('am');
ROLLBACK;
SELECT same_table('am');
VACUUM FULL sealed.am;
SELECT same_table('am');
ALTER TABLE plain.am SET ACCESS METHOD cmek_heap;
SELECT same_table('am');
ALTER TABLE plain.am SET ACCESS METHOD heap;
-- a method and a type in one go; an empty table; a materialized view
ALTER TABLE sealed.am SET ACCESS METHOD heap, ALTER n TYPE text;
ALTER TABLE plain.am ALTER n TYPE text;
SELECT same_table('am');
ALTER TABLE sealed.am SET ACCESS METHOD cmek_heap, ADD COLUMN extra text DEFAULT md5(random()::text), ALTER n TYPE numeric USING n::numeric;
ALTER TABLE sealed.am DROP COLUMN extra;
ALTER TABLE plain.am ALTER n TYPE numeric USING n::numeric;
SELECT same_table('am');
CREATE TABLE sealed.void (a int, t text);
ALTER TABLE sealed.void SET ACCESS METHOD cmek_heap;
INSERT INTO sealed.void VALUES (1, noise(1, 10000));
SELECT a, t = noise(1, 10000) AS right FROM sealed.void;
CREATE MATERIALIZED VIEW sealed.mvam USING heap AS SELECT * FROM sealed.am;
ALTER MATERIALIZED VIEW sealed.mvam SET ACCESS METHOD cmek_heap;
SELECT same_rows('TABLE sealed.mvam', 'TABLE plain.am');
REFRESH MATERIALIZED VIEW sealed.mvam;
SELECT same_rows('TABLE sealed.mvam', 'TABLE plain.am');
DROP MATERIALIZED VIEW sealed.mvam;

-- tablespaces: files are copied as they are
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE heap_rewrite_space LOCATION '';
SELECT twin('ALTER TABLE am SET TABLESPACE heap_rewrite_space');
SELECT same_table('am');
SELECT twin('UPDATE am SET l = l || $$ in space$$ WHERE id < 200');
SELECT twin('ALTER TABLE am SET TABLESPACE pg_default');
SELECT same_table('am');
SELECT twin('ALTER TABLE am SET TABLESPACE heap_rewrite_space, ALTER k TYPE text');
SELECT same_table('am');
SELECT twin('ALTER TABLE am SET TABLESPACE pg_default');
DROP TABLESPACE heap_rewrite_space;

-- logged and unlogged
SELECT twin('ALTER TABLE am SET UNLOGGED');
SELECT same_table('am');
SELECT twin('DELETE FROM am WHERE id > 1050');
SELECT twin('ALTER TABLE am SET LOGGED');
SELECT same_table('am');

-- temporary tables are rewritten too
CREATE TEMP TABLE tmp (id int, t text) USING cmek_heap;
INSERT INTO tmp SELECT i, noise(i, i * 50) FROM generate_series(1, 100) i;
VACUUM FULL tmp;
ALTER TABLE tmp ALTER id TYPE text, ADD COLUMN x text DEFAULT random()::text;
ALTER TABLE tmp SET ACCESS METHOD heap;
ALTER TABLE tmp SET ACCESS METHOD cmek_heap;
SELECT same_rows('SELECT id, t FROM tmp', 'SELECT i::text, noise(i, i * 50) FROM generate_series(1, 100) i');

-- what was rewritten is whole
SELECT count(*) AS damaged FROM pg_class c, cmek.verify(c.oid) WHERE c.relnamespace = 'sealed'::regnamespace AND c.relkind IN ('r', 'm') AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'cmek_heap');
