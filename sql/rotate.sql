-- Generations of data keys: rotate_data_key and reseal
SET client_min_messages = warning;

-- How many generations of each structure, and how many of them current
CREATE FUNCTION generations(tab regclass) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s: %s of %s, newest %s', kind, count(*) FILTER (WHERE current), count(*), max(generation))
		   || CASE WHEN count(DISTINCT structure) = 1 THEN '' ELSE ' STRUCTURES DIFFER' END
	FROM cmek.data_key WHERE relid = tab GROUP BY kind ORDER BY kind
$$;

SELECT twin('CREATE TABLE rot (id int, s text, l text)');
SELECT twin('ALTER TABLE rot ALTER l SET STORAGE EXTERNAL');
SELECT twin('INSERT INTO rot SELECT i, md5(i::text), repeat(md5(i::text), i) FROM generate_series(1, 200) i');
SELECT generations('sealed.rot');

-- Rows of two and more generations
CALL cmek.rotate_data_key('sealed.rot');
SELECT generations('sealed.rot');
SELECT same_table('rot');
SELECT twin('INSERT INTO rot SELECT i, md5(i::text), repeat(md5(i::text), i) FROM generate_series(201, 300) i');
SELECT twin('UPDATE rot SET s = s || $$u$$ WHERE id % 5 = 0');
SELECT twin('DELETE FROM rot WHERE id % 17 = 0');
CALL cmek.rotate_data_key('sealed.rot');
SELECT twin('INSERT INTO rot SELECT i, NULL, repeat(md5(i::text), 300) FROM generate_series(301, 320) i');
SELECT generations('sealed.rot');
SELECT same_table('rot');
SELECT count(*) FROM cmek.verify('sealed.rot');

-- Reseal: nothing moves, nothing is longer, the old keys go
CREATE TABLE before AS SELECT ctid AS tid, xmin::text AS x0, xmax::text AS x1, id FROM sealed.rot;
SELECT pg_relation_size('sealed.rot') AS size, pg_relation_filenode('sealed.rot') AS file \gset
CALL cmek.reseal('sealed.rot');
SELECT generations('sealed.rot');
SELECT same_table('rot');
SELECT count(*) FROM cmek.verify('sealed.rot');
SELECT pg_relation_size('sealed.rot') = :size AS same_size, pg_relation_filenode('sealed.rot') = :file AS same_file;
SELECT count(*) AS moved FROM ((SELECT ctid, xmin::text, xmax::text, id FROM sealed.rot) EXCEPT (TABLE before)) x;
-- every key is counted, and only keys that exist
SELECT count(*) FROM cmek.data_key d FULL JOIN cmek.data_key_seals s USING (id) WHERE d.id IS NULL OR s.id IS NULL;
SELECT bool_and(s.reserved > 0) AS counted FROM cmek.data_key d JOIN cmek.data_key_seals s USING (id) WHERE relid = 'sealed.rot'::regclass AND kind <> 's';
-- again: nothing to do
CALL cmek.reseal('sealed.rot');
SELECT generations('sealed.rot');

-- After a rewrite, and after a switch of the table key
CALL cmek.rotate_data_key('sealed.rot');
VACUUM FULL sealed.rot;
SELECT generations('sealed.rot');
SELECT same_table('rot');
ALTER TABLE sealed.rot ALTER id TYPE int8;
ALTER TABLE plain.rot ALTER id TYPE int8;
CALL cmek.reseal('sealed.rot');
SELECT generations('sealed.rot');
SELECT same_table('rot');

-- What an abort has left is resealed, too
BEGIN;
INSERT INTO sealed.rot SELECT i, NULL, repeat('dead', 5000) FROM generate_series(1, 10) i;
ROLLBACK;
CALL cmek.rotate_data_key('sealed.rot');
CALL cmek.reseal('sealed.rot');
SELECT generations('sealed.rot');
SELECT same_table('rot');

-- A table without TOAST, an empty one, an unlogged one, a materialized view
CREATE TABLE rot_narrow (a int, b int) USING cmek_heap;
INSERT INTO rot_narrow SELECT i, i FROM generate_series(1, 1000) i;
CREATE TABLE rot_empty (a int, t text) USING cmek_heap;
CREATE UNLOGGED TABLE rot_unlogged (a int, t text) USING cmek_heap;
INSERT INTO rot_unlogged SELECT i, repeat('x', i * 50) FROM generate_series(1, 200) i;
CREATE MATERIALIZED VIEW rot_matview USING cmek_heap AS SELECT * FROM rot_unlogged;
CREATE FUNCTION digest_of(tab regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('SELECT count(*) || '' '' || coalesce(sum(hashtext(t::text)), 0) FROM %s t', tab) INTO result;
	RETURN result;
END $$;
SELECT t AS tab, digest_of(t::regclass) AS before INTO TEMP digests
FROM unnest(ARRAY['rot_narrow', 'rot_empty', 'rot_unlogged', 'rot_matview']) t;
CALL cmek.rotate_data_key('rot_narrow');
CALL cmek.rotate_data_key('rot_empty');
CALL cmek.rotate_data_key('rot_unlogged');
CALL cmek.rotate_data_key('rot_matview');
SELECT tab, before = digest_of(tab::regclass) AS same FROM digests;
CALL cmek.reseal('rot_narrow');
CALL cmek.reseal('rot_empty');
CALL cmek.reseal('rot_unlogged');
CALL cmek.reseal('rot_matview');
SELECT tab, before = digest_of(tab::regclass) AS same, generations(tab::regclass) FROM digests ORDER BY 1, 3;
SELECT count(*) FROM digests, cmek.verify(tab::regclass);

-- Partitions: a parent stands for its sealed leaves
CREATE TABLE rot_parts (a int, t text) PARTITION BY LIST (a);
CREATE TABLE rot_p1 PARTITION OF rot_parts FOR VALUES IN (1) USING cmek_heap;
CREATE TABLE rot_p2 PARTITION OF rot_parts FOR VALUES IN (2) PARTITION BY RANGE (t);
CREATE TABLE rot_p2a PARTITION OF rot_p2 DEFAULT USING cmek_heap;
CREATE TABLE rot_p3 PARTITION OF rot_parts FOR VALUES IN (3) USING heap;
INSERT INTO rot_parts SELECT i % 3 + 1, repeat('p', i * 100) FROM generate_series(1, 60) i;
CALL cmek.rotate_data_key('rot_parts');
SELECT tab, generations(tab::regclass) FROM unnest(ARRAY['rot_p1', 'rot_p2a']) tab;
INSERT INTO rot_parts SELECT i % 3 + 1, repeat('q', i * 100) FROM generate_series(1, 60) i;
CALL cmek.reseal('rot_parts');
SELECT tab, generations(tab::regclass) FROM unnest(ARRAY['rot_p1', 'rot_p2a']) tab;
SELECT a, count(*), sum(length(t)) FROM rot_parts GROUP BY a ORDER BY a;
SELECT count(*) FROM cmek.verify('rot_parts');

-- Refused inside a block, a function, a subtransaction
BEGIN;
CALL cmek.rotate_data_key('rot_narrow');
ROLLBACK;
BEGIN;
CALL cmek.reseal('rot_narrow');
ROLLBACK;
CREATE FUNCTION rot_call() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL cmek.rotate_data_key('rot_narrow'); END $$;
SELECT rot_call();
DO $$ BEGIN CALL cmek.reseal('rot_narrow'); EXCEPTION WHEN active_sql_transaction THEN RAISE WARNING 'refused: %', SQLERRM; END $$;
-- but good in a DO block and in a procedure, again and again
DO $$ BEGIN FOR i IN 1..3 LOOP CALL cmek.rotate_data_key('rot_narrow'); INSERT INTO rot_narrow VALUES (-i, i); CALL cmek.reseal('rot_narrow'); END LOOP; END $$;
SELECT generations('rot_narrow');
SELECT count(*), sum(a) FROM rot_narrow;

-- Not these
CREATE TABLE rot_heap (a int);
CREATE TEMP TABLE rot_temp (a int) USING cmek_heap;
CALL cmek.rotate_data_key('rot_heap');
CALL cmek.reseal('rot_temp');
CALL cmek.rotate_data_key(NULL);
SET cmek.default_key = 'none';
CREATE TABLE rot_unbound (a int) USING cmek_heap;
RESET cmek.default_key;
CALL cmek.rotate_data_key('rot_unbound');
CALL cmek.reseal('rot_unbound');
CREATE ROLE regress_rot;
SET ROLE regress_rot;
CALL cmek.rotate_data_key('rot_narrow');
CALL cmek.reseal('rot_parts');
SELECT count(*) FROM cmek.reseal_progress;
SELECT * FROM cmek.data_key_seals;
SET cmek.data_key_max_seals = 100;
RESET ROLE;
-- the owner of a parent must own the leaves
GRANT CREATE ON SCHEMA public TO regress_rot;
ALTER TABLE rot_parts OWNER TO regress_rot;
SET ROLE regress_rot;
CALL cmek.rotate_data_key('rot_parts');
RESET ROLE;

ALTER TABLE rot_parts OWNER TO CURRENT_USER;
DROP TABLE rot_parts, rot_narrow, rot_empty, rot_heap, rot_temp, rot_unbound, before;
DROP MATERIALIZED VIEW rot_matview;
DROP TABLE rot_unlogged;
SELECT twin('DROP TABLE rot');
REVOKE CREATE ON SCHEMA public FROM regress_rot;
DROP ROLE regress_rot;
SELECT count(*) FROM cmek.data_key d FULL JOIN cmek.data_key_seals s USING (id) WHERE d.id IS NULL OR s.id IS NULL;
DROP FUNCTION generations, digest_of, rot_call;
