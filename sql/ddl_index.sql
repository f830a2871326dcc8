-- Every b-tree of a sealed table is of method cmek_btree, by itself
SET client_min_messages = warning;
CREATE SCHEMA ddl_index;
SET search_path = ddl_index;
\set VERBOSITY terse

-- a table, its indexes, their methods; operator classes are btree's own
CREATE VIEW idx AS
	SELECT t.relname AS "table", c.relname AS index, a.amname AS method, c.reloptions AS options,
		CASE WHEN bool_and(o.opcmethod = 403) THEN 'btree' ELSE 'others' END AS classes,
		EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.refclassid = 'pg_am'::regclass
			AND d.refobjid = a.oid) AS held
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
	JOIN pg_am a ON a.oid = c.relam JOIN pg_opclass o ON o.oid = ANY (i.indclass)
	WHERE c.relnamespace = 'ddl_index'::regnamespace
	GROUP BY t.relname, c.oid, c.relname, a.oid, a.amname, c.reloptions
	ORDER BY t.relname COLLATE "C", c.relname COLLATE "C";

-- constraints of every kind, in CREATE and in ALTER
CREATE TABLE plain (id int PRIMARY KEY, a text);
CREATE TABLE t (
	id int PRIMARY KEY,
	a text UNIQUE DEFERRABLE INITIALLY DEFERRED,
	b int,
	c int,
	UNIQUE NULLS NOT DISTINCT (b),
	CONSTRAINT t_inc UNIQUE (c) INCLUDE (a) WITH (fillfactor = 70, hide_tids = off),
	EXCLUDE USING btree (c WITH =) WHERE (c > 0)
) USING cmek_heap;
ALTER TABLE t ADD d numeric UNIQUE, ADD CONSTRAINT t_db UNIQUE (d, b);
ALTER TABLE t ADD CONSTRAINT t_dc UNIQUE (d, c) WITH (hide_tids = false, fillfactor = 60);
ALTER TABLE t ADD CONSTRAINT t_e1 UNIQUE (a, b) WITH (hide_tids = off), ADD CONSTRAINT t_e2 UNIQUE (b, a);
CREATE INDEX ON t (a DESC NULLS LAST);
CREATE INDEX t_expr ON t (lower(a) COLLATE "C" text_pattern_ops, (b + 1)) WHERE b > 10;
CREATE INDEX CONCURRENTLY t_conc ON t (b) WITH (fillfactor = 50, hide_tids = on);
CREATE INDEX t_named ON t USING cmek_btree (b DESC) WITH (hide_tids = off, deduplicate_items = off);
CREATE INDEX t_bad ON t (b) WITH (hide_tids = maybe);
CREATE INDEX t_bad ON t (b) WITH (hide_bits = on);
SELECT * FROM idx;
SELECT pg_get_indexdef('t_expr'::regclass), pg_get_indexdef('t_named'::regclass);
-- and what they do
INSERT INTO t SELECT i, 'v' || i, i, i, i FROM generate_series(1, 200) i;
INSERT INTO t VALUES (1);
INSERT INTO t VALUES (0, NULL, NULL), (-1, NULL, NULL);
INSERT INTO t VALUES (0, 'x', 0, 7);
BEGIN;
UPDATE t SET a = 'v2' WHERE id = 1;
UPDATE t SET a = 'v1' WHERE id = 2;
COMMIT;
BEGIN;
UPDATE t SET a = 'v5' WHERE id = 4;
COMMIT;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM t WHERE id = 42;
SELECT id FROM t WHERE id = 42;
EXPLAIN (COSTS OFF) SELECT a FROM t WHERE lower(a) COLLATE "C" LIKE 'v4%' AND b > 10;
RESET enable_seqscan;

-- a method of another kind is refused, one without a sealed table too
CREATE INDEX ON t USING hash (a);
CREATE INDEX ON plain USING cmek_btree (a);
CREATE INDEX ON plain (a) WITH (hide_tids = off);
ALTER TABLE plain ADD EXCLUDE USING cmek_btree (a WITH =);
ALTER TABLE plain ADD UNIQUE (a) WITH (hide_tids = off);
-- no plain b-tree either, only other methods can be had
SET cmek.plaintext_indexes = on;
CREATE INDEX t_still ON t USING btree (c);
SET client_min_messages = error;
CREATE INDEX t_hash ON t USING hash (c);
SET client_min_messages = warning;
RESET cmek.plaintext_indexes;
SELECT * FROM idx WHERE index ~ 'still|hash';
SELECT "table", object, detail FROM cmek.exposures WHERE kind = 'index' AND "table" = 't'::regclass;
DROP INDEX t_hash;

-- LIKE follows the new table
CREATE TABLE like_sealed (LIKE t INCLUDING ALL) USING cmek_heap;
CREATE TABLE like_plain (LIKE t INCLUDING ALL);
CREATE TABLE like_back (LIKE plain INCLUDING ALL) USING cmek_heap;
SELECT * FROM idx WHERE "table" ~ '^like';
DROP TABLE like_sealed, like_plain, like_back;

-- CREATE TABLE AS, materialized views, temporary tables, schema elements
CREATE TABLE ctas USING cmek_heap AS SELECT i AS id FROM generate_series(1, 10) i;
CREATE UNIQUE INDEX ON ctas (id);
CREATE MATERIALIZED VIEW m USING cmek_heap AS SELECT * FROM ctas;
CREATE UNIQUE INDEX ON m (id);
INSERT INTO ctas VALUES (11);
REFRESH MATERIALIZED VIEW m;
INSERT INTO ctas VALUES (12);
DELETE FROM ctas WHERE id = 1;
REFRESH MATERIALIZED VIEW CONCURRENTLY m;
SELECT count(*), min(id), max(id) FROM m;
CREATE TEMP TABLE tt (id int PRIMARY KEY) USING cmek_heap;
INSERT INTO tt VALUES (1), (2);
SELECT a.amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.relname = 'tt_pkey';
SELECT * FROM idx WHERE "table" IN ('ctas', 'm');

-- foreign keys, both ways
CREATE TABLE f (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE,
	self int REFERENCES f ON DELETE SET NULL) USING cmek_heap;
CREATE TABLE f_plain (t int REFERENCES t ON DELETE CASCADE, p int REFERENCES plain (id), FOREIGN KEY (t) REFERENCES t);
CREATE TABLE f_many (d numeric, b int, FOREIGN KEY (d, b) REFERENCES t (d, b) MATCH FULL ON UPDATE CASCADE) USING cmek_heap;
ALTER TABLE f ADD p int REFERENCES plain;
INSERT INTO plain VALUES (1, 'p');
INSERT INTO f VALUES (1, 10, 1, 1), (2, 11, 1, NULL), (3, NULL, 2, NULL);
INSERT INTO f_plain VALUES (10, 1);
INSERT INTO f_many VALUES (20, 20);
INSERT INTO f VALUES (4, 1000);
INSERT INTO f VALUES (4, 1, 77);
INSERT INTO f_many VALUES (20, NULL);
UPDATE t SET id = 1010 WHERE id = 11;
DELETE FROM t WHERE id = 10;
SELECT * FROM f ORDER BY id;
SELECT * FROM f_plain;
UPDATE t SET b = 2020 WHERE id = 20;
SELECT * FROM f_many;

-- REPLICA IDENTITY, CLUSTER, an existing index for a constraint
CREATE UNIQUE INDEX t_r ON t (c, b);
ALTER TABLE t ALTER c SET NOT NULL, ALTER b SET NOT NULL;
ALTER TABLE t REPLICA IDENTITY USING INDEX t_r;
CLUSTER t USING t_r;
SELECT indisreplident, indisclustered FROM pg_index WHERE indexrelid = 't_r'::regclass;
ALTER TABLE t ADD CONSTRAINT t_rc UNIQUE USING INDEX t_r;
CREATE UNIQUE INDEX f_other ON f (id);
ALTER TABLE f DROP CONSTRAINT f_pkey CASCADE, ADD CONSTRAINT f_pk PRIMARY KEY USING INDEX f_other;
CREATE UNIQUE INDEX f_desc ON f (id DESC);
ALTER TABLE f ADD UNIQUE USING INDEX f_desc;
SELECT conname, contype, conindid::regclass FROM pg_constraint
	WHERE conrelid IN ('t'::regclass, 'f'::regclass) AND contype IN ('p', 'u') ORDER BY conname COLLATE "C";

-- rebuilds, options, names
REINDEX INDEX t_expr;
REINDEX TABLE t;
REINDEX TABLE CONCURRENTLY f;
VACUUM FULL t;
CREATE TABLE unlogged (id int PRIMARY KEY, a int UNIQUE DEFERRABLE) USING cmek_heap;
INSERT INTO unlogged VALUES (1, 2);
ALTER TABLE unlogged SET UNLOGGED;
ALTER TABLE unlogged SET LOGGED;
ALTER TABLE t ADD z float8 DEFAULT random();
ALTER INDEX t_named SET (fillfactor = 90);
ALTER INDEX t_named RESET (hide_tids);
ALTER INDEX t_named SET (hide_bits = off);
ALTER INDEX t_named RENAME TO t_renamed;
ALTER INDEX t_renamed SET TABLESPACE pg_default;
SELECT * FROM idx;
SET enable_seqscan = off;
SELECT id, a FROM t WHERE id = 42;
SELECT id, a FROM t WHERE c = 42;
RESET enable_seqscan;
-- gone with their table
DROP TABLE t CASCADE;
SELECT count(*) FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_am'::regclass
	AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.objid);

-- the operator classes: one for each of btree's, with all members
SELECT count(*) > 40 AS many, count(*) FILTER (WHERE x.oid IS NULL) AS missing
	FROM pg_opclass o JOIN pg_am a ON a.amname = 'cmek_btree'
	LEFT JOIN pg_opclass x ON x.opcmethod = a.oid AND x.opcname = o.opcname AND x.opcnamespace = o.opcnamespace
		AND x.opcintype = o.opcintype AND x.opcdefault = o.opcdefault AND x.opckeytype = o.opckeytype
	WHERE o.opcmethod = 403 AND o.opcnamespace = 'pg_catalog'::regnamespace;
CREATE VIEW members AS
	SELECT f.opfmethod, f.opfname, f.opfnamespace, m.amoplefttype AS l, m.amoprighttype AS r, m.amopstrategy AS n, m.amopopr AS object
	FROM pg_amop m JOIN pg_opfamily f ON f.oid = m.amopfamily
	UNION ALL
	SELECT f.opfmethod, f.opfname, f.opfnamespace, p.amproclefttype, p.amprocrighttype, 100 + p.amprocnum, p.amproc::oid
	FROM pg_amproc p JOIN pg_opfamily f ON f.oid = p.amprocfamily;
SELECT count(*) AS missing FROM
	(SELECT opfname, opfnamespace, l, r, n, object FROM members WHERE opfmethod = 403 AND opfnamespace = 'pg_catalog'::regnamespace
	 EXCEPT
	 SELECT opfname, opfnamespace, l, r, n, object FROM members
	 WHERE opfmethod = (SELECT oid FROM pg_am WHERE amname = 'cmek_btree')) x;
SELECT cmek.import_operator_classes() AS nothing_new;
SELECT count(*) FROM pg_depend d JOIN pg_opclass o ON o.oid = d.objid WHERE d.classid = 'pg_opclass'::regclass
	AND d.deptype = 'e' AND o.opcnamespace = 'pg_catalog'::regnamespace;
CREATE ROLE ddl_index_user;
SET ROLE ddl_index_user;
SELECT cmek.import_operator_classes();
RESET ROLE;
DROP ROLE ddl_index_user;

DROP SCHEMA ddl_index CASCADE;
