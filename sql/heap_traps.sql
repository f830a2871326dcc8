-- Traps that have no better place: see also the other heap_* tests
SET cmek.plaintext_indexes = on;
SET client_min_messages = error;

-- COPY: an error in the middle of a batch leaves nothing for the next batch
CREATE TABLE copied (id int, t text, CHECK (id <> 1500)) USING cmek_heap;
BEGIN;
SAVEPOINT a;
\set VERBOSITY terse
COPY copied FROM PROGRAM 'seq 1 2000 | sed "s/$/\tx/"';
ROLLBACK TO a;
COPY copied FROM PROGRAM 'seq 2001 4000 | sed "s/$/\ty/"';
COMMIT;
SELECT count(*), min(id), max(id), min(t), max(t) FROM copied;
-- an index error after rows were stored
CREATE UNIQUE INDEX ON copied (id);
COPY copied FROM PROGRAM 'seq 3900 5000 | sed "s/$/\tz/"';
COPY copied FROM PROGRAM 'seq 4001 5000 | sed "s/$/\tz/"';
SELECT count(*), min(id), max(id) FROM copied;
SELECT * FROM cmek.verify('copied');

-- a default that only the catalog knows survives a rewrite, which makes core
-- forget it; with the column dropped again, too
CREATE TABLE missing (id int) USING cmek_heap;
INSERT INTO missing SELECT generate_series(1, 5);
ALTER TABLE missing ADD COLUMN d int DEFAULT 42, ADD COLUMN t text DEFAULT 'fast';
INSERT INTO missing VALUES (6, 6, 'six');
SELECT attname FROM pg_attribute WHERE attrelid = 'missing'::regclass AND atthasmissing ORDER BY 1;
VACUUM FULL missing;
SELECT attname FROM pg_attribute WHERE attrelid = 'missing'::regclass AND atthasmissing ORDER BY 1;
SELECT * FROM missing ORDER BY id;
ALTER TABLE missing ADD COLUMN e int DEFAULT 7;
CREATE INDEX missing_id ON missing (id DESC);
CLUSTER missing USING missing_id;
SELECT * FROM missing;
ALTER TABLE missing DROP COLUMN d;
VACUUM FULL missing;
SELECT * FROM missing ORDER BY id;

-- a rewrite into a table that needs no TOAST: the values come along
CREATE TABLE shrunk (a varchar(450), b varchar(450)) USING cmek_heap;
ALTER TABLE shrunk ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
INSERT INTO shrunk VALUES (repeat(U&'\+01F600', 450), repeat(U&'\+01F601', 440));
ALTER TABLE shrunk DROP COLUMN b;
VACUUM FULL shrunk;
SELECT length(a), (SELECT reltoastrelid = 0 FROM pg_class WHERE relname = 'shrunk') AS no_toast FROM shrunk;
CREATE TABLE inlined (v text) USING cmek_heap;
ALTER TABLE inlined ALTER v SET STORAGE EXTERNAL;
INSERT INTO inlined SELECT repeat('x', 5000);
ALTER TABLE inlined ALTER v SET STORAGE PLAIN;
VACUUM FULL inlined;
SELECT length(v) FROM inlined;

-- a rewrite that makes rows long: they go out of line
CREATE TABLE grown (a int) USING cmek_heap;
INSERT INTO grown SELECT generate_series(1, 3);
ALTER TABLE grown ADD b text DEFAULT repeat('x', 20000), ADD c char(3000) DEFAULT 'c', ADD d text DEFAULT md5('d');
ALTER TABLE grown ALTER b SET STORAGE EXTERNAL;
VACUUM FULL grown;
SELECT a, length(b), length(c), d = md5('d') AS d FROM grown ORDER BY a;
VACUUM FULL grown;
SELECT sum(length(b)) FROM grown;
SELECT * FROM cmek.verify('grown');

-- VACUUM FULL of the TOAST table alone
SELECT reltoastrelid::regclass AS toast FROM pg_class WHERE relname = 'grown' \gset
VACUUM FULL :toast;
SELECT a, length(b), left(b, 2) FROM grown ORDER BY a;

-- more columns than the target of a row has room for
DO $$
BEGIN
	EXECUTE (SELECT format('CREATE TABLE wide (%s, t text) USING cmek_heap WITH (toast_tuple_target = 128)',
		string_agg('c' || i || ' int', ', ')) FROM generate_series(1, 700) i);
END $$;
ALTER TABLE wide ALTER t SET STORAGE EXTERNAL;
INSERT INTO wide (t) VALUES (repeat('x', 10000));
SELECT length(t) FROM wide;
DROP TABLE shrunk, inlined, grown, wide;

-- statistics of ancestors, taken before a table was sealed
CREATE TABLE anc (id int, secret text) PARTITION BY LIST (id);
CREATE TABLE anc1 PARTITION OF anc FOR VALUES IN (1);
CREATE TABLE anc2 PARTITION OF anc FOR VALUES IN (2);
INSERT INTO anc SELECT 1 + i % 2, 'SECRET' FROM generate_series(1, 100) i;
ANALYZE anc;
SELECT count(*) > 0 AS had FROM pg_stats WHERE tablename LIKE 'anc%' AND attname = 'secret';
ALTER TABLE anc1 SET ACCESS METHOD cmek_heap;
SELECT tablename FROM pg_stats WHERE tablename LIKE 'anc%' AND attname = 'secret' ORDER BY 1;
-- the parent gets new ones from its plain partition, again and again
ANALYZE anc;
ANALYZE anc;
SELECT tablename, most_common_vals FROM pg_stats WHERE tablename LIKE 'anc%' AND attname = 'secret' ORDER BY 1;
ALTER TABLE anc2 SET ACCESS METHOD cmek_heap;
ANALYZE anc;
SELECT count(*) FROM pg_stats WHERE tablename LIKE 'anc%' AND attname = 'secret';
DROP TABLE anc;

-- a deferred foreign key looks whether the row is still there
CREATE TABLE parent (id int PRIMARY KEY) USING cmek_heap;
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED) USING cmek_heap;
BEGIN;
INSERT INTO child VALUES (1);
DELETE FROM child;
COMMIT;
BEGIN;
INSERT INTO child VALUES (1);
COMMIT;
DROP TABLE child, parent;

-- rows near the page limit: 38 bytes less than heap's 8160
CREATE TABLE limits (t text) USING cmek_heap;
ALTER TABLE limits ALTER t SET STORAGE PLAIN;
INSERT INTO limits SELECT repeat('x', n) FROM generate_series(8060, 8094) n;
SELECT count(*), max(length(t)) FROM limits;
INSERT INTO limits VALUES (repeat('x', 8095));
SELECT count(*) FROM cmek.verify('limits');

-- a scan that asks for no column of an all-visible bitmap page
CREATE TABLE bits (id int, t text) USING cmek_heap;
INSERT INTO bits SELECT i, 'row ' || i FROM generate_series(1, 2000) i;
CREATE INDEX ON bits (id);
VACUUM bits;
SET enable_seqscan = off;
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SELECT count(*) FROM bits WHERE id BETWEEN 100 AND 1099;
SELECT count(*), sum(length(t)) FROM bits WHERE id BETWEEN 100 AND 1099;
RESET enable_seqscan;
RESET enable_indexscan;
RESET enable_indexonlyscan;

-- first row copied by a plain Agg: empty only when no column is used
SELECT count(*), count(*) + 1 FROM bits;
SELECT max(id), count(*) FROM bits;
SELECT count(*) FILTER (WHERE id > 1000) FROM bits;
SELECT count(*) FROM bits HAVING min(id) = 1;
SELECT sum(s) FROM (SELECT count(*) AS s FROM bits UNION ALL SELECT count(*) FROM bits) u;
SELECT (SELECT count(*) FROM bits b WHERE b.id = o.id) FROM bits o WHERE o.id < 4 ORDER BY o.id;

-- an index over a broken HOT chain is not for older snapshots
CREATE TABLE chain (id int PRIMARY KEY, b int) USING cmek_heap;
CREATE TABLE chain_heap (id int PRIMARY KEY, b int) USING heap;
INSERT INTO chain VALUES (1, 1);
INSERT INTO chain_heap VALUES (1, 1);
BEGIN;
UPDATE chain SET b = 2;
UPDATE chain_heap SET b = 2;
CREATE INDEX chain_b ON chain (b);
CREATE INDEX chain_heap_b ON chain_heap (b);
SELECT indexrelid::regclass, indcheckxmin FROM pg_index
WHERE indexrelid IN ('chain_b'::regclass, 'chain_heap_b'::regclass) ORDER BY 1;
COMMIT;
DROP TABLE chain, chain_heap;

-- slots that take rows of other tables and of triggers
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.t := NEW.t || '+';
	RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON bits FOR EACH ROW EXECUTE FUNCTION touch();
UPDATE bits SET id = -id WHERE id <= 2 RETURNING id, t, xmin <> '0' AS stamped;
INSERT INTO bits SELECT 9000 + id, t FROM copied WHERE id < 2003 RETURNING id, t, xmin <> '0' AS stamped;
SELECT b FROM bits b WHERE id > 9000 ORDER BY id LIMIT 1;

DROP TABLE copied, missing, limits, bits;
DROP FUNCTION touch();
