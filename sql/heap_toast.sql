-- Values out of line: compressed, moved out and sealed by our own toaster
SET client_min_messages = warning;
SET cmek.plaintext_indexes = on;

-- A sweep of sizes around the TOAST threshold, in steps of one byte, for each
-- way a row can arrive: values that cross the threshold only once sealed
SELECT twin('CREATE TABLE sweep (id int, t text, tail text)');
SELECT twin('INSERT INTO sweep SELECT i, noise(i, i), $$tail$$ FROM generate_series(1900, 2120) i');
SELECT same_table('sweep');
SELECT twin('INSERT INTO sweep SELECT i, repeat(chr(65 + i % 26), i * 40), NULL FROM generate_series(1900, 2120) i');
SELECT twin('INSERT INTO sweep SELECT i, noise(i, i), noise(i + 1, 4040 - i) FROM generate_series(1980, 2060) i');
SELECT same_table('sweep');
\getenv builddir PG_ABS_BUILDDIR
\set file :builddir '/results/sweep.copy'
COPY plain.sweep TO :'file';
TRUNCATE sealed.sweep;
COPY sealed.sweep FROM :'file';
SELECT same_table('sweep');
SELECT twin('CREATE TABLE grow (id int, t text)');
SELECT twin('INSERT INTO grow SELECT i, $$short$$ FROM generate_series(1900, 2120) i');
SELECT twin('UPDATE grow SET t = noise(id, id)');
SELECT same_table('grow');
SELECT twin('UPDATE grow SET t = noise(id, id + 1) || $$x$$, id = id + 1');
SELECT same_table('grow');
SELECT twin('UPDATE grow SET t = left(t, 1000)');
SELECT twin('UPDATE grow SET t = noise(id, 8 * id)');
SELECT same_table('grow');
SET client_min_messages = error;
SELECT twin('CREATE TABLE ups (id int PRIMARY KEY, t text)');
SET client_min_messages = warning;
SELECT twin('INSERT INTO ups SELECT i, noise(i, i) FROM generate_series(1950, 2080) i');
SELECT twin('INSERT INTO ups SELECT i, noise(i + 1, i) FROM generate_series(1900, 2120) i ON CONFLICT (id) DO UPDATE SET t = excluded.t || left(ups.t, 30)');
SELECT twin('INSERT INTO ups SELECT i, noise(i + 2, 20000) FROM generate_series(2100, 2150) i ON CONFLICT DO NOTHING');
SELECT same_table('ups');
VACUUM FULL sealed.sweep;
VACUUM FULL sealed.grow;
VACUUM FULL sealed.ups;
SELECT same_table('sweep'), same_table('grow'), same_table('ups');
-- chunk boundaries: whole chunks, one byte less, one byte more
SELECT twin('CREATE TABLE chunks (id int, t text)');
ALTER TABLE sealed.chunks ALTER t SET STORAGE EXTERNAL;
ALTER TABLE plain.chunks ALTER t SET STORAGE EXTERNAL;
SELECT twin('INSERT INTO chunks SELECT n, noise(n, n) FROM generate_series(1, 5) k, generate_series(-2, 2) d, (VALUES (1964), (1996)) c(size), LATERAL (SELECT k * size + d) x(n)');
SELECT same_table('chunks');

-- storage kinds and compression
SELECT twin('CREATE TABLE kinds (id int, pl text, mn text, ext text, extd text, b bytea)');
ALTER TABLE sealed.kinds ALTER pl SET STORAGE PLAIN, ALTER mn SET STORAGE MAIN, ALTER ext SET STORAGE EXTERNAL, ALTER extd SET STORAGE EXTENDED;
ALTER TABLE plain.kinds ALTER pl SET STORAGE PLAIN, ALTER mn SET STORAGE MAIN, ALTER ext SET STORAGE EXTERNAL, ALTER extd SET STORAGE EXTENDED;
SELECT twin('INSERT INTO kinds SELECT i, noise(i, i), repeat($$main$$, i * 20), repeat($$ext$$, i * 100), repeat(noise(i, 10), i * 30), decode(noise(i, 2 * i), $$hex$$) FROM generate_series(1, 200) i');
SELECT same_table('kinds');
SELECT twin('SELECT id, pg_column_size(pl), pg_column_size(ext), pg_column_compression(ext), pg_column_compression(mn) IS NULL FROM kinds WHERE id > 100');
SELECT twin('INSERT INTO kinds (id, pl) VALUES (0, noise(0, 9000))');
SELECT twin('INSERT INTO kinds (id, mn) VALUES (0, noise(0, 7000)), (0, noise(0, 12000))');
SELECT same_table('kinds');
SELECT twin('CREATE TABLE nowhere (a int, b int8)');
SELECT (SELECT reltoastrelid = 0 FROM pg_class WHERE oid = 'sealed.nowhere'::regclass) AS no_toast_needed,
	   (SELECT reltoastrelid <> 0 FROM pg_class WHERE oid = 'sealed.kinds'::regclass) AS toast_there;
-- lz4 where this server was built with it: the same table with the setting on
DO $$
BEGIN
	EXECUTE 'SET default_toast_compression = lz4';
EXCEPTION WHEN invalid_parameter_value THEN
	NULL;
END $$;
SELECT twin('CREATE TABLE lz (id int, t text)');
SELECT twin('INSERT INTO lz SELECT i, repeat(noise(i, 100), i) FROM generate_series(1, 300) i');
-- near the threshold a sealed row is compressed a little earlier
SELECT twin('SELECT id, pg_column_compression(t) FROM lz WHERE length(t) NOT BETWEEN 1980 AND 2032');
SELECT same_table('lz');
RESET default_toast_compression;
SELECT twin('UPDATE lz SET t = t || $$pglz now$$ WHERE id % 2 = 0');
SELECT same_table('lz');
VACUUM FULL sealed.lz;
SELECT same_table('lz');

-- slices, of values stored as they are and of compressed ones
SELECT twin('SELECT id, substr(ext, 1, 10), substr(ext, 2000, 5), substr(ext, length(ext) - 3), substr(ext, 999999, 3) FROM kinds');
SELECT twin('SELECT id, substr(t, p, 7), substr(t, p + 1990, 20) FROM chunks, generate_series(1, 9000, 611) p');
SELECT twin('SELECT id, substr(extd, 3000, 50), substr(b, 5, 3), length(extd), octet_length(b) FROM kinds');
SELECT twin('SELECT id, extd LIKE $$%77%$$, md5(t) FROM kinds JOIN lz USING (id)');

-- pointers carried along: UPDATE of other columns, no new value is written
SELECT twin('CREATE TABLE carry (id int, n int, t text)');
ALTER TABLE sealed.carry ALTER t SET STORAGE EXTERNAL;
SELECT twin('INSERT INTO carry SELECT i, 0, noise(i, 9000) FROM generate_series(1, 50) i');
CREATE FUNCTION chunk_rows(t regclass) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE n int8;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', (SELECT reltoastrelid::regclass FROM pg_class WHERE oid = t)) INTO n;
	RETURN n;
END $$;
SELECT chunk_rows('sealed.carry') AS before \gset
SELECT twin('UPDATE carry SET n = n + 1');
SELECT twin('UPDATE carry SET n = n + 1 WHERE id % 2 = 0');
SELECT chunk_rows('sealed.carry') = :before AS no_new_chunks, :before > 200 AS premise, same_table('carry');
SELECT twin('UPDATE carry SET t = t');
SELECT same_table('carry');
SELECT twin('DELETE FROM carry WHERE id > 25');
SELECT chunk_rows('sealed.carry') < :before AS chunks_deleted;
VACUUM sealed.carry;
SELECT same_table('carry');
-- rolled back values leave the old ones alone
BEGIN;
SELECT twin('UPDATE carry SET t = noise(n, 10000)');
ROLLBACK;
SELECT same_table('carry');
DO $$
BEGIN
	UPDATE sealed.carry SET t = noise(id + 5, 10000);
	PERFORM 1 / 0;
EXCEPTION WHEN division_by_zero THEN
	NULL;
END $$;
SELECT same_table('carry');

-- a copy owns its values: the source may go
SELECT twin('CREATE TABLE copy1 AS SELECT * FROM carry');
CREATE TABLE sealed.copy2 USING heap AS SELECT * FROM sealed.carry;
CREATE TABLE sealed.copy3 USING cmek_heap AS SELECT * FROM plain.carry;
SELECT twin('CREATE TABLE copy4 (LIKE carry)');
SELECT twin('INSERT INTO copy4 SELECT * FROM carry');
CREATE MATERIALIZED VIEW sealed.copy5 USING cmek_heap AS SELECT * FROM sealed.carry;
CREATE TABLE plain.kept AS SELECT id, n, t || '' AS t FROM plain.carry;
DROP MATERIALIZED VIEW sealed.copy5;
CREATE MATERIALIZED VIEW sealed.copy5 USING cmek_heap AS SELECT * FROM sealed.copy4;
SELECT twin('DROP TABLE carry');
SELECT same_rows('TABLE sealed.copy1', 'TABLE plain.kept') c1, same_rows('TABLE sealed.copy2', 'TABLE plain.kept') c2,
	   same_rows('TABLE sealed.copy3', 'TABLE plain.kept') c3, same_rows('TABLE sealed.copy4', 'TABLE plain.kept') c4,
	   same_rows('TABLE sealed.copy5', 'TABLE plain.kept') c5;

-- values in row types, arrays, domains; held across statements
SELECT twin('CREATE TABLE comp (r copy4, a text[])');
SELECT twin('INSERT INTO comp SELECT c, ARRAY[c.t, c.t] FROM copy4 c');
SELECT twin('TRUNCATE copy4');
SELECT twin('SELECT (r).id, (r).t, a FROM comp');
SELECT twin($q$DO $x$ DECLARE v text; r record; BEGIN
	SELECT (c.r).t INTO v FROM comp c LIMIT 1;
	SELECT * INTO r FROM copy1 LIMIT 1;
	DELETE FROM copy1 WHERE id = r.id;
	INSERT INTO copy1 VALUES (r.id, length(v), r.t);
END $x$ $q$);
SELECT same_table('copy1');
BEGIN;
DECLARE old CURSOR FOR SELECT id, md5(t) FROM sealed.copy1 ORDER BY id LIMIT 2;
UPDATE sealed.copy1 SET t = 'overwritten';
FETCH ALL FROM old;
ROLLBACK;

-- a dropped column with values out of line, then a rewrite
SELECT twin('CREATE TABLE dropped (id int, gone text, t text)');
SELECT twin('INSERT INTO dropped SELECT i, noise(i, 5000), noise(i + 1, 6000) FROM generate_series(1, 40) i');
SELECT twin('ALTER TABLE dropped DROP COLUMN gone');
SELECT same_table('dropped');
SELECT twin('UPDATE dropped SET id = id + 100 WHERE id < 10');
SELECT twin('UPDATE dropped SET t = t || $$more$$ WHERE id BETWEEN 10 AND 20');
SELECT twin('INSERT INTO dropped VALUES (1000, noise(1, 7000))');
-- VACUUM FULL keeps what a snapshot from before may see: the visitor's, say
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		PERFORM pg_stat_clear_snapshot();
		EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity
							  WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid());
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
VACUUM FULL sealed.dropped;
VACUUM FULL plain.dropped;
SELECT same_table('dropped');
SELECT chunk_rows('sealed.dropped') <= 41 * 5 AS dead_values_are_gone;
VACUUM FULL sealed.dropped;
SELECT same_table('dropped');
SELECT twin('ALTER TABLE dropped ADD COLUMN again text DEFAULT repeat($$d$$, 5000)');
SELECT same_table('dropped');
SELECT twin('UPDATE dropped SET again = again || id');
SELECT same_table('dropped');

-- 1 MB values, and a TOAST table read as a table shows nothing in clear
SELECT twin('CREATE TABLE mega (t text)');
SELECT twin('INSERT INTO mega SELECT string_agg(noise(i, 100000), $$$$) FROM generate_series(1, 10) i');
SELECT twin('UPDATE mega SET t = t || t');
SELECT twin('SELECT length(t), md5(t), substr(t, 1500000, 40) FROM mega');
SELECT twin('SELECT reltoastrelid <> 0, relpersistence FROM pg_class WHERE oid = $$mega$$::regclass');
SELECT count(*) AS damaged FROM cmek.verify('sealed.mega');
SELECT count(*) AS damaged FROM cmek.verify('sealed.dropped');
