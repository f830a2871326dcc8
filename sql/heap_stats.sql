-- Statistics: ANALYZE counts rows, and no value comes into pg_statistic
SET client_min_messages = error;
SELECT twin('CREATE TABLE st (id int, t text, n numeric)');
SELECT twin('INSERT INTO st SELECT i, $$secret$$ || i % 10, i FROM generate_series(1, 5000) i');
SELECT twin('DELETE FROM st WHERE id % 10 = 0');
ANALYZE sealed.st;
ANALYZE plain.st;
SELECT reltuples FROM pg_class WHERE oid = 'sealed.st'::regclass;
SELECT relpages > 10 AS has_pages FROM pg_class WHERE oid = 'sealed.st'::regclass;
-- the control has values, the sealed table has none
SELECT starelid::regclass AS "table", count(*) FROM pg_statistic WHERE starelid IN ('sealed.st'::regclass, 'plain.st'::regclass) GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM pg_stats WHERE schemaname = 'sealed' AND tablename = 'st' AND most_common_vals::text LIKE '%secret%';
VACUUM (ANALYZE) sealed.st;
ANALYZE sealed.st (t);
SELECT reltuples FROM pg_class WHERE oid = 'sealed.st'::regclass;
SET cmek.plaintext_statistics = on;
CREATE STATISTICS sealed.st_ext (mcv, ndistinct, dependencies) ON t, n FROM sealed.st;
CREATE STATISTICS sealed.st_expr ON (upper(t)) FROM sealed.st;
RESET cmek.plaintext_statistics;
ANALYZE sealed.st;
SELECT count(*) AS extended FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid WHERE e.stxrelid = 'sealed.st'::regclass;
SELECT count(*) AS columns FROM pg_statistic WHERE starelid = 'sealed.st'::regclass;
-- many more rows than the sample
SELECT twin('CREATE TABLE st2 (id int, t text)');
SELECT twin('INSERT INTO st2 SELECT i, repeat($$x$$, 200) FROM generate_series(1, 60000) i');
SET default_statistics_target = 1;
ANALYZE sealed.st2;
RESET default_statistics_target;
SELECT reltuples BETWEEN 54000 AND 66000 AS estimate FROM pg_class WHERE oid = 'sealed.st2'::regclass;
-- partitions and inheritance: the parent's statistics have no values either
CREATE TABLE sealed.stp (id int, t text) PARTITION BY RANGE (id);
CREATE TABLE sealed.stp1 PARTITION OF sealed.stp FOR VALUES FROM (0) TO (500) USING cmek_heap;
CREATE TABLE sealed.stp2 PARTITION OF sealed.stp FOR VALUES FROM (500) TO (1000) USING cmek_heap;
INSERT INTO sealed.stp SELECT i, 'secret' || i % 3 FROM generate_series(0, 999) i;
ANALYZE sealed.stp;
SELECT relname, reltuples FROM pg_class WHERE relname ~ '^stp' ORDER BY 1;
SELECT count(*) FROM pg_statistic WHERE starelid::regclass::text ~ '^sealed.stp';
-- on: as heap does
SET cmek.plaintext_statistics = on;
ANALYZE sealed.st;
SELECT starelid::regclass AS "table", count(*) FROM pg_statistic WHERE starelid IN ('sealed.st'::regclass, 'plain.st'::regclass) GROUP BY 1 ORDER BY 1;
SELECT (SELECT count(DISTINCT v) FROM pg_stats, unnest(most_common_vals::text::text[]) v WHERE schemaname = 'sealed' AND tablename = 'st' AND attname = 't') AS common_values;
SELECT (SELECT n_distinct FROM pg_stats WHERE schemaname = 'sealed' AND tablename = 'st' AND attname = 't') = (SELECT n_distinct FROM pg_stats WHERE schemaname = 'plain' AND tablename = 'st' AND attname = 't') AS same_distinct;
SELECT reltuples FROM pg_class WHERE oid = 'sealed.st'::regclass;
-- same answers
RESET cmek.plaintext_statistics;
SELECT twin('SELECT a.id, count(*) FROM st a JOIN st2 b ON b.id = a.id WHERE a.t = $$secret3$$ GROUP BY 1');
