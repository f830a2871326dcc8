-- The helper of every heap_* test: do the same to a sealed table and to its
-- twin on plain heap, and compare what comes back.  Results are the same on
-- every version of PostgreSQL because plain heap says what is right.
CREATE SCHEMA sealed;
CREATE SCHEMA plain;

-- Run a statement with one schema's tables.  The rows it returns, sorted, or
-- how many it touched, or its error (without numbers: rows are of other sizes).
CREATE FUNCTION public.twin_run(kind text, stmt text) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
	found text[] := '{}';
	n int8;
	r record;
BEGIN
	PERFORM set_config('search_path', kind || ', public', true);
	PERFORM set_config('default_table_access_method',
					   CASE kind WHEN 'sealed' THEN 'cmek_heap' ELSE 'heap' END, true);
	IF stmt ~* '^\s*(select|values|table|with)\M|\mreturning\M' THEN
		FOR r IN EXECUTE stmt LOOP
			found := found || coalesce(r::text, '(null)');
		END LOOP;
		found := ARRAY(SELECT f FROM unnest(found) f ORDER BY f COLLATE "C");
	ELSE
		EXECUTE stmt;
		GET DIAGNOSTICS n = ROW_COUNT;
		found := ARRAY['(' || n || ')'];
	END IF;
	RETURN found;
EXCEPTION WHEN OTHERS THEN
	RETURN ARRAY['!' || SQLSTATE, regexp_replace(SQLERRM, '\d+', 'N', 'g')];
END $$;

-- The same statement on both, and whether it did the same
CREATE FUNCTION public.twin(stmt text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	path text := current_setting('search_path');
	am text := current_setting('default_table_access_method');
	s text[] := public.twin_run('sealed', stmt);
	p text[] := public.twin_run('plain', stmt);
BEGIN
	PERFORM set_config('search_path', path, true);
	PERFORM set_config('default_table_access_method', am, true);
	IF s IS DISTINCT FROM p THEN
		RETURN 'DIFFERENT: sealed ' || left(array_to_string(s, ' '), 200) ||
			' / plain ' || left(array_to_string(p, ' '), 200);
	ELSIF p[1] ~ '^!' THEN
		RETURN 'same error ' || substr(p[1], 2);
	ELSIF p[1] ~ '^\(\d+\)$' AND cardinality(p) = 1 THEN
		RETURN 'same ' || p[1];
	END IF;
	RETURN 'same, rows: ' || cardinality(p);
END $$;

-- Do two queries give the same rows?
CREATE FUNCTION public.same_rows(a text, b text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	missing int8;
	extra int8;
	n int8;
BEGIN
	EXECUTE format('SELECT count(*) FROM (%s EXCEPT ALL %s) x', a, b) INTO missing;
	EXECUTE format('SELECT count(*) FROM (%s EXCEPT ALL %s) x', b, a) INTO extra;
	EXECUTE format('SELECT count(*) FROM (%s) x', a) INTO n;
	IF missing > 0 OR extra > 0 THEN
		RETURN format('DIFFERENT: %s only in the first, %s only in the second', missing, extra);
	END IF;
	RETURN 'same, rows: ' || n;
END $$;

-- Does a table of both schemas hold the same rows, and how many?
CREATE FUNCTION public.same_table(name text) RETURNS text
LANGUAGE sql AS $$
	SELECT public.same_rows(format('TABLE sealed.%I', name), format('TABLE plain.%I', name))
$$;

-- A text of n characters which does not compress, always the same for a seed
CREATE FUNCTION public.noise(seed int, n int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT left(string_agg(encode(sha512((seed || '/' || i)::bytea), 'hex'), ''), n)
	FROM generate_series(0, n / 128) i
$$;

-- The helper must be able to see a difference
SELECT twin('CREATE TABLE premise (a int, b text)');
SELECT twin($$INSERT INTO premise SELECT i, 'x' || i FROM generate_series(1, 10) i$$);
SELECT same_table('premise');
UPDATE plain.premise SET b = 'other' WHERE a = 5;
SELECT same_table('premise');
SELECT twin('SELECT * FROM premise WHERE a = 5');
SELECT twin('SELECT * FROM premise WHERE a = 4');
DELETE FROM sealed.premise WHERE a = 1;
SELECT twin('DELETE FROM premise WHERE a < 3');
SELECT twin('DELETE FROM premise WHERE a < 3 RETURNING *');
SELECT twin('SELECT 1 / 0 FROM premise');
SELECT twin('SELECT CASE WHEN current_schema = $1 THEN 1 / 0 END');
-- ... and the two tables must be of different kinds
SELECT n.nspname, a.amname
FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'premise' ORDER BY 1;
DROP TABLE sealed.premise, plain.premise;
