-- Statistics of few rows, sealed and in clear: what test-assert runs with
-- debug_discard_caches = 1
SET client_min_messages = warning;
CREATE TABLE few_p (id int, v text, tags text[]) USING heap;
CREATE TABLE few_s (id int, v text, tags text[]) USING cmek_heap;
INSERT INTO few_p SELECT i, 'v' || i % 7, ARRAY['a' || i % 3] FROM generate_series(1, 40) i;
INSERT INTO few_s SELECT * FROM few_p;
CREATE INDEX few_pe ON few_p (upper(v));
CREATE INDEX few_se ON few_s (upper(v));
CREATE VIEW few_clear AS SELECT right(tablename, -4) AS t, attname, null_frac, n_distinct, most_common_vals::text, most_common_freqs, histogram_bounds::text, correlation
	FROM pg_stats WHERE tablename LIKE 'few%';
CREATE VIEW few_sealed AS SELECT right(tablename, -4) AS t, attname, null_frac, n_distinct, most_common_vals, most_common_freqs, histogram_bounds, correlation
	FROM cmek.stats WHERE tablename LIKE 'few%';
ANALYZE few_p;
ANALYZE few_s;
SELECT right(t, -1) AS t, attname, most_common_vals FROM few_sealed ORDER BY 1, 2;
SELECT count(*) AS plain, count(s) AS same FROM (SELECT * FROM few_clear WHERE t LIKE 'p%') p LEFT JOIN few_sealed s
	ON right(s.t, -1) = right(p.t, -1) AND (s.attname, s.n_distinct, s.correlation) IS NOT DISTINCT FROM (p.attname, p.n_distinct, p.correlation)
		AND (s.most_common_vals, s.most_common_freqs, s.histogram_bounds) IS NOT DISTINCT FROM (p.most_common_vals, p.most_common_freqs, p.histogram_bounds);
-- in clear: rows are handed to core, and their key may leave between any two
SET cmek.plaintext_statistics = on;
ANALYZE few_s;
SELECT count(*) FROM few_sealed;
SELECT count(*) AS plain, count(s) AS same FROM (SELECT * FROM few_clear WHERE t LIKE 'p%') p LEFT JOIN (SELECT * FROM few_clear WHERE t LIKE 's%') s
	ON right(s.t, -1) = right(p.t, -1) AND (s.attname, s.n_distinct, s.correlation) IS NOT DISTINCT FROM (p.attname, p.n_distinct, p.correlation)
		AND (s.most_common_vals, s.most_common_freqs, s.histogram_bounds) IS NOT DISTINCT FROM (p.most_common_vals, p.most_common_freqs, p.histogram_bounds);
RESET cmek.plaintext_statistics;
CALL cmek.rotate_data_key('few_s');
ANALYZE few_s;
SELECT (SELECT count(*) FROM few_sealed) AS sealed, (SELECT count(*) FROM few_clear WHERE t LIKE 's%') AS clear;
-- a tree
CREATE TABLE few_t (id int, v text) PARTITION BY RANGE (id);
CREATE TABLE few_t1 PARTITION OF few_t FOR VALUES FROM (0) TO (20) USING cmek_heap;
CREATE TABLE few_t2 PARTITION OF few_t FOR VALUES FROM (20) TO (90) USING cmek_heap;
INSERT INTO few_t SELECT id, v FROM few_p;
ANALYZE few_t;
SELECT tablename, attname, inherited, n_distinct FROM cmek.stats WHERE tablename LIKE 'few_t%' ORDER BY 1, 2;
DROP VIEW few_clear, few_sealed;
DROP TABLE few_p, few_s, few_t;
SELECT count(*) FROM cmek.statistic WHERE relid NOT IN (SELECT oid FROM pg_class);
