-- What the data directory of a release holds; content() says what is in it.
CREATE EXTENSION cmek;
CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'second');
CREATE SERVER third FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file :'third');

CREATE TABLE rows_ (id int, t text, n numeric, j jsonb, a int[], ts timestamptz) USING cmek_heap;
INSERT INTO rows_ SELECT i, 'row ' || i, i / 7.0, jsonb_build_object('i', i), ARRAY[i, NULL], '2026-01-01 00:00+00'::timestamptz + i * interval '1 hour'
FROM generate_series(1, 50) i;
UPDATE rows_ SET t = 'changed ' || id WHERE id % 5 = 0;
DELETE FROM rows_ WHERE id % 7 = 0;

CREATE TABLE toast (id int, e text, c text) USING cmek_heap;
ALTER TABLE toast ALTER e SET STORAGE EXTERNAL;
INSERT INTO toast SELECT i, repeat('out of line ' || i || ' ', 400), repeat(md5(i::text), 300) FROM generate_series(1, 4) i;

CREATE TABLE generations (id int, t text) USING cmek_heap;
ALTER TABLE generations ALTER t SET STORAGE EXTERNAL;
INSERT INTO generations VALUES (1, repeat('one ', 1000));
CALL cmek.rotate_data_key('generations');
INSERT INTO generations VALUES (2, repeat('two ', 1000));
CALL cmek.rotate_data_key('generations');
INSERT INTO generations VALUES (3, 'three');

CREATE TABLE switched (id int, t text) USING cmek_heap;
INSERT INTO switched VALUES (1, 'before');
ALTER TABLE switched SET (cmek.key = 'second');
INSERT INTO switched VALUES (2, 'between');
CALL cmek.rotate_table_key('switched');
INSERT INTO switched VALUES (3, 'after');

CREATE TABLE suspended (id int, t text) USING cmek_heap WITH (cmek.key = 'third');
INSERT INTO suspended VALUES (1, 'in the dark');

CREATE TABLE dropped (id int, gone text, t text) USING cmek_heap;
INSERT INTO dropped VALUES (1, repeat('gone ', 1000), 'kept'), (2, NULL, NULL);
ALTER TABLE dropped DROP COLUMN gone;
ALTER TABLE dropped ADD COLUMN later int DEFAULT 7;
INSERT INTO dropped VALUES (3, 'new', 8);

CREATE TABLE parts (id int, t text) PARTITION BY LIST (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1) USING cmek_heap;
CREATE TABLE parts_2 PARTITION OF parts DEFAULT USING cmek_heap;
INSERT INTO parts VALUES (1, 'one'), (2, 'two');

-- entries of fixed and of varying length; verify() compares them with the table
CREATE TABLE indexed (id int PRIMARY KEY, t text, at timestamptz) USING cmek_heap;
INSERT INTO indexed SELECT i, 'entry ' || i, '2026-01-01 00:00+00'::timestamptz + i * interval '1 day' FROM generate_series(1, 40) i;
CREATE INDEX ON indexed (t, at, id) INCLUDE (id) WITH (hide_tids = off);

CREATE FUNCTION content() RETURNS SETOF text LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
	SELECT 'rows_ ' || r FROM rows_ r UNION ALL
	SELECT 'toast ' || id || ' ' || md5(e) || ' ' || md5(c) FROM toast UNION ALL
	SELECT 'generations ' || id || ' ' || md5(t) FROM generations UNION ALL
	SELECT 'switched ' || s FROM switched s UNION ALL
	SELECT 'suspended ' || s FROM suspended s UNION ALL
	SELECT 'dropped ' || d FROM dropped d UNION ALL
	SELECT 'indexed ' || i FROM indexed i UNION ALL
	SELECT 'parts ' || p FROM parts p ORDER BY 1
$$;
\o :content
SELECT content();
\o
SELECT cmek.suspend_key('third');
