-- Indexes go in and out of cmek_btree with their table, and survive what makes
-- them anew
SET client_min_messages = warning;
CREATE SCHEMA ddl_index_convert;
SET search_path = ddl_index_convert;
\set VERBOSITY terse
CREATE VIEW idx AS
	SELECT t.relname AS "table", c.relname AS index, a.amname AS method, c.reloptions AS options,
		i.indisclustered AS clu, i.indisreplident AS rep, i.indisvalid AS valid,
		o.conname IS NOT NULL AS con, obj_description(c.oid, 'pg_class') AS comment,
		EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.refclassid = 'pg_am'::regclass) AS held
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
	JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_constraint o ON o.conindid = c.oid AND o.conrelid = t.oid AND o.contype IN ('p', 'u', 'x')
	WHERE c.relnamespace = 'ddl_index_convert'::regnamespace
	ORDER BY t.relname COLLATE "C", c.relname COLLATE "C";

CREATE TABLE c (id int PRIMARY KEY, a text, n int, CONSTRAINT c_a UNIQUE (a) DEFERRABLE, EXCLUDE USING btree (n WITH =) WHERE (n > 0));
CREATE TABLE cf (id int REFERENCES c ON DELETE CASCADE);
CREATE INDEX c_n ON c (n DESC) WITH (fillfactor = 70);
CREATE INDEX c_e ON c (lower(a)) WHERE n > 5;
CREATE INDEX c_h ON c USING hash (n);
COMMENT ON CONSTRAINT c_pkey ON c IS 'kept';
COMMENT ON INDEX c_n IS 'kept too';
ALTER TABLE c REPLICA IDENTITY USING INDEX c_pkey;
ALTER TABLE c CLUSTER ON c_n;
INSERT INTO c SELECT i, 'a' || i, i FROM generate_series(1, 300) i;
INSERT INTO cf VALUES (7), (8);
CREATE TABLE before AS SELECT oid, relname, relfilenode FROM pg_class WHERE relname ~ '^c_';
CREATE TABLE constraints AS SELECT * FROM pg_constraint WHERE conrelid IN ('c'::regclass, 'cf'::regclass) AND contype <> 'n';

ALTER TABLE c SET ACCESS METHOD cmek_heap;
DROP INDEX c_h;
ALTER TABLE c SET ACCESS METHOD cmek_heap;
SELECT * FROM idx WHERE "table" = 'c';
SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'c_pkey';
SELECT b.relname, c.oid = b.oid AS same_oid, c.relfilenode = b.relfilenode AS same_file
	FROM before b LEFT JOIN pg_class c ON c.relname = b.relname ORDER BY 1;
SELECT count(*) FROM constraints o JOIN pg_constraint n USING (oid, conname, conindid, contype) ;
SELECT count(*) FROM constraints;
SELECT "table", object FROM cmek.exposures WHERE kind = 'index';
INSERT INTO c VALUES (7);
INSERT INTO c VALUES (1000, 'x', 9);
INSERT INTO cf VALUES (999);
DELETE FROM c WHERE id = 8;
SELECT * FROM cf;
SET enable_seqscan = off;
SELECT * FROM c WHERE id = 7;
SELECT * FROM c WHERE n = 11;
SELECT * FROM c WHERE lower(a) = 'a12' AND n > 5;
RESET enable_seqscan;
-- back again
ALTER INDEX c_n SET (hide_tids = off);
ALTER TABLE c SET ACCESS METHOD heap;
SELECT * FROM idx WHERE "table" = 'c';
SET enable_seqscan = off;
SELECT * FROM c WHERE n = 11;
SELECT * FROM c WHERE lower(a) = 'a12' AND n > 5;
RESET enable_seqscan;
INSERT INTO c VALUES (7);
-- together with other changes
ALTER TABLE c SET ACCESS METHOD cmek_heap, ADD s int DEFAULT 5, ADD UNIQUE (id, s), ALTER n TYPE bigint, ADD FOREIGN KEY (s) REFERENCES c (id);
SELECT * FROM idx WHERE "table" = 'c';
ALTER TABLE c SET ACCESS METHOD heap, ADD UNIQUE (s, id);
SELECT * FROM idx WHERE "table" = 'c';
-- in one transaction, over and over, with rollbacks
BEGIN;
ALTER TABLE c SET ACCESS METHOD cmek_heap;
SELECT method, count(*) FROM idx WHERE "table" = 'c' GROUP BY 1;
ROLLBACK;
SELECT method, count(*) FROM idx WHERE "table" = 'c' GROUP BY 1;
INSERT INTO c VALUES (501, 'after', 501);
BEGIN;
ALTER TABLE c SET ACCESS METHOD cmek_heap;
ALTER TABLE c SET ACCESS METHOD heap;
ALTER TABLE c SET ACCESS METHOD cmek_heap;
INSERT INTO c VALUES (502, 'inside', 502);
COMMIT;
SELECT method, count(*) FROM idx WHERE "table" = 'c' GROUP BY 1;
SET enable_seqscan = off;
SELECT id, a FROM c WHERE id IN (501, 502);
RESET enable_seqscan;
SET enable_seqscan = off;
BEGIN;
CREATE TABLE fresh (id int PRIMARY KEY);
INSERT INTO fresh VALUES (0);
SAVEPOINT one;
INSERT INTO fresh VALUES (1);
ALTER TABLE fresh SET ACCESS METHOD cmek_heap;
INSERT INTO fresh VALUES (2);
SELECT id FROM fresh WHERE id > 0;
ROLLBACK TO one;
SELECT method FROM idx WHERE "table" = 'fresh';
INSERT INTO fresh VALUES (3);
SELECT id FROM fresh WHERE id > 0;
SAVEPOINT two;
SAVEPOINT three;
ALTER TABLE fresh SET ACCESS METHOD cmek_heap;
RELEASE three;
INSERT INTO fresh VALUES (4);
ROLLBACK TO two;
INSERT INTO fresh VALUES (5);
ALTER TABLE fresh SET ACCESS METHOD cmek_heap;
ALTER TABLE fresh SET ACCESS METHOD heap;
INSERT INTO fresh VALUES (6);
SAVEPOINT four;
ALTER TABLE fresh SET ACCESS METHOD cmek_heap;
TRUNCATE fresh;
ROLLBACK TO four;
SELECT id FROM fresh WHERE id > 0;
COMMIT;
SELECT id FROM fresh WHERE id > 0;
BEGIN;
TRUNCATE fresh;
INSERT INTO fresh VALUES (1);
SAVEPOINT one;
ALTER TABLE fresh SET ACCESS METHOD cmek_heap;
INSERT INTO fresh VALUES (2);
ROLLBACK TO one;
INSERT INTO fresh VALUES (3);
RELEASE one;
SELECT id FROM fresh WHERE id > 0;
SAVEPOINT two;
ALTER TABLE fresh SET ACCESS METHOD cmek_heap;
INSERT INTO fresh VALUES (4);
RELEASE two;
COMMIT;
SELECT id FROM fresh WHERE id > 0;
INSERT INTO fresh VALUES (4);
RESET enable_seqscan;
SELECT * FROM idx WHERE "table" = 'fresh';
-- what a temporary table and a materialized view do
CREATE TEMP TABLE tt (id int PRIMARY KEY);
INSERT INTO tt VALUES (1);
ALTER TABLE tt SET ACCESS METHOD cmek_heap;
SELECT id FROM tt WHERE id = 1;
CREATE MATERIALIZED VIEW m AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON m (id);
ALTER MATERIALIZED VIEW m SET ACCESS METHOD cmek_heap;
SELECT * FROM idx WHERE "table" = 'm';
-- no table, no key: but the index
SET cmek.default_key = 'none';
CREATE TABLE unbound (id int PRIMARY KEY, a text) USING cmek_heap;
CREATE INDEX unbound_a ON unbound (a);
SECURITY LABEL FOR cmek ON TABLE unbound IS 'key=cmek_service_key';
RESET cmek.default_key;
INSERT INTO unbound VALUES (1, 'x'), (2, 'y');
SET enable_seqscan = off;
SELECT * FROM unbound WHERE a = 'y';
RESET enable_seqscan;
SELECT * FROM idx WHERE "table" = 'unbound';

-- types: with a rewrite, without one, with the file kept
CREATE TABLE ty (id int PRIMARY KEY WITH (hide_tids = off), a varchar(10), b varchar(10), n name,
	CONSTRAINT ty_b UNIQUE (b) WITH (hide_tids = off, fillfactor = 60), EXCLUDE USING btree (a WITH =)) USING cmek_heap;
CREATE INDEX ty_ab ON ty (a, b DESC) WITH (hide_tids = off);
CREATE INDEX ty_x ON ty ((a || 'x'));
CREATE INDEX ty_n ON ty (n);
INSERT INTO ty SELECT i, 'a' || i, 'b' || i, 'n' || i FROM generate_series(1, 100) i;
CREATE VIEW files AS SELECT relname, relfilenode <> oid AS file_moved, reloptions FROM pg_class
	WHERE relname ~ '^ty_' AND relkind = 'i' ORDER BY 1;
ALTER TABLE ty ALTER a TYPE varchar(20), ALTER b TYPE varchar(20);
SELECT * FROM files;
SELECT * FROM idx WHERE "table" = 'ty';
SET enable_seqscan = off;
SELECT id FROM ty WHERE b = 'b42';
SELECT id FROM ty WHERE a = 'a42';
INSERT INTO ty VALUES (0, 'z', 'b7');
INSERT INTO ty VALUES (0, 'a7', 'z');
ALTER TABLE ty ALTER a TYPE text USING a || 'x', ALTER b TYPE int USING substr(b, 2)::int, ALTER n TYPE name USING n || 'z';
SELECT * FROM idx WHERE "table" = 'ty';
SELECT id FROM ty WHERE b = 42;
SELECT id FROM ty WHERE a = 'a42x';
SELECT id FROM ty WHERE n = 'n42z';
SELECT a.atttypid::regtype FROM pg_attribute a WHERE attrelid = 'ty_n'::regclass;
RESET enable_seqscan;
SELECT count(*) FROM pg_opclass o JOIN pg_index i ON o.oid = ANY (i.indclass) WHERE i.indrelid = 'ty'::regclass AND o.opcmethod <> 403;
SELECT count(*) FROM pg_depend d JOIN pg_index i ON i.indexrelid = d.objid JOIN pg_opclass o ON o.oid = d.refobjid
	WHERE i.indrelid = 'ty'::regclass AND d.refclassid = 'pg_opclass'::regclass AND o.opcmethod <> 403;
-- an operator class of somebody else's: no twin stays behind, unless imported
CREATE FUNCTION odd_cmp(int, int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT btint4cmp($2, $1)';
CREATE OPERATOR CLASS odd_ops FOR TYPE int USING btree AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <,
	FUNCTION 1 odd_cmp(int, int);
CREATE TABLE o (id int, x int) USING cmek_heap;
CREATE INDEX o_x ON o (x odd_ops, id);
INSERT INTO o SELECT i, i FROM generate_series(1, 50) i;
CREATE ROLE ddl_index_owner;
GRANT USAGE, CREATE ON SCHEMA ddl_index_convert TO ddl_index_owner;
ALTER TABLE o OWNER TO ddl_index_owner;
SET ROLE ddl_index_owner;
ALTER TABLE o ALTER id TYPE bigint;
RESET ROLE;
SELECT count(*) FROM pg_opclass WHERE opcname = 'odd_ops';
SELECT count(*) FROM pg_opfamily WHERE opfname = 'odd_ops';
SELECT * FROM idx WHERE "table" = 'o';
SELECT pg_get_indexdef('o_x'::regclass);
SET enable_seqscan = off;
SELECT id FROM o WHERE x = 7;
RESET enable_seqscan;
SELECT cmek.import_operator_classes();
SELECT cmek.import_operator_classes();
SELECT count(*) FROM pg_opclass WHERE opcname = 'odd_ops';
ALTER TABLE o ALTER id TYPE numeric;
SELECT count(*) FROM pg_opclass WHERE opcname = 'odd_ops';
DROP OPERATOR FAMILY odd_ops USING btree CASCADE;
SELECT count(*) FROM pg_opclass WHERE opcname = 'odd_ops';
SELECT count(*) FROM pg_opfamily WHERE opfname = 'odd_ops';

DROP SCHEMA ddl_index_convert CASCADE;
DROP ROLE ddl_index_owner;
