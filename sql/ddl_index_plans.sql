-- What the planner thinks of a sealed b-tree: as of a plain one where a few
-- pages decide, and all of its pages where it is large
SET client_min_messages = error;
SET max_parallel_workers_per_gather = 0;

-- The plan of a statement with one schema's tables
CREATE FUNCTION plan_of(kind text, stmt text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	lines text[] := '{}';
BEGIN
	PERFORM set_config('search_path', kind || ', public', true);
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || stmt LOOP
		lines := lines || line;
	END LOOP;
	RETURN array_to_string(lines, E'\n');
END $$;

-- Is it the same plan, and does it use an index?
CREATE FUNCTION plans(stmt text, OUT same bool, OUT by_index bool)
LANGUAGE sql AS $$
	SELECT plan_of('sealed', stmt) = plan_of('plain', stmt),
		   plan_of('sealed', stmt) ~ 'Index .*Scan'
$$;

-- The cost of its first node
CREATE FUNCTION cost_of(kind text, stmt text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	PERFORM set_config('search_path', kind || ', public', true);
	EXECUTE 'EXPLAIN (FORMAT json) ' || stmt INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'Total Cost';
END $$;

-- small: a few rows of a table of three pages, never analyzed; a quarter of 400
-- rows, in order
SELECT twin('CREATE TABLE pl (a int, b int, c int, d box, PRIMARY KEY (a, b) INCLUDE (c, d)) WITH (autovacuum_enabled = off)');
SELECT twin('INSERT INTO pl SELECT x, 2 * x, NULL, NULL FROM generate_series(1, 300) x');
SELECT * FROM plans('SELECT * FROM pl WHERE (a, b, c) < (2, 5, 1)');
SELECT twin('CREATE TABLE pl_u (a int PRIMARY KEY) WITH (autovacuum_enabled = off)');
SELECT twin('INSERT INTO pl_u SELECT generate_series(1, 400)');
ANALYZE plain.pl_u, sealed.pl_u;
SELECT * FROM plans('SELECT * FROM pl_u WHERE a < 100 ORDER BY a');
SELECT * FROM plans('SELECT * FROM pl_u');
-- an index with one page of entries is no larger than a plain one
SELECT twin('CREATE TABLE pl_p (a int, b int) WITH (autovacuum_enabled = off)');
SELECT twin('INSERT INTO pl_p SELECT i, i % 20 FROM generate_series(1, 400) i');
SELECT twin('CREATE INDEX pl_p_a ON pl_p (a) WHERE b = 3');
VACUUM (ANALYZE) plain.pl_p;
VACUUM (ANALYZE) sealed.pl_p;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT cost_of('sealed', 'SELECT a FROM pl_p WHERE b = 3') =
	cost_of('plain', 'SELECT a FROM pl_p WHERE b = 3') AS same_cost;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- large: to read all of an index costs what its own pages cost, to a page or two
SELECT twin('CREATE TABLE pl_l (a int, b int) WITH (autovacuum_enabled = off)');
SELECT twin('INSERT INTO pl_l SELECT i, i % 10 FROM generate_series(1, 20000) i');
SELECT twin('CREATE INDEX pl_l_a ON pl_l (a)');
SELECT twin('CREATE INDEX pl_l_b ON pl_l (b)');
VACUUM (ANALYZE) plain.pl_l;
VACUUM (ANALYZE) sealed.pl_l;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_sort = off;
SET enable_hashagg = off;
WITH i AS (SELECT name,
		pg_relation_size('plain.pl_l_' || name) / current_setting('block_size')::int AS plain,
		pg_relation_size('sealed.pl_l_' || name) / current_setting('block_size')::int AS sealed,
		cost_of('plain', format('SELECT %1$s FROM pl_l ORDER BY %1$s', name)) AS plain_cost,
		cost_of('sealed', format('SELECT %1$s FROM pl_l ORDER BY %1$s', name)) AS sealed_cost
	FROM unnest('{a,b}'::text[]) name)
SELECT name, sealed > 2 * plain AS more_pages,
	abs(sealed_cost - plain_cost -
		(sealed - plain) * current_setting('random_page_cost')::numeric) <= 10 AS at_their_cost
FROM i ORDER BY name;
RESET enable_seqscan;
RESET enable_bitmapscan;
RESET enable_sort;
RESET enable_hashagg;
-- and few rows of it, or all in order, come as from a plain one
SELECT * FROM plans('SELECT * FROM pl_l WHERE a = 7');
SELECT * FROM plans('SELECT * FROM pl_l WHERE a BETWEEN 7 AND 700');
SELECT * FROM plans('SELECT * FROM pl_l ORDER BY b');
DROP FUNCTION cost_of, plans, plan_of;
