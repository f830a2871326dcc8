-- cmek.verify(): an error that is not of the index is the statement's, and
-- leaves no subtransaction open
SET client_min_messages = warning;
CREATE FUNCTION ve_cmp(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		IF current_setting('ve.fails', true) = 'yes' THEN RAISE 'it fails'; END IF;
		RETURN btint4cmp($1, $2);
	END $$;
CREATE OPERATOR CLASS ve_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
	OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 ve_cmp(int, int);
CREATE TABLE ve (a int) USING cmek_heap;
INSERT INTO ve SELECT generate_series(1, 100);
CREATE INDEX ve_a ON ve (a ve_ops);
SELECT * FROM cmek.verify('ve');
SET ve.fails = 'yes';
\set VERBOSITY terse
SELECT * FROM cmek.verify('ve');
SELECT 'no transaction is open' AS "after it";
DO $$
	BEGIN
		CREATE TEMP TABLE before (a int);
		BEGIN
			INSERT INTO before VALUES (1);
			PERFORM * FROM cmek.verify('ve');
		EXCEPTION WHEN raise_exception THEN
			RAISE WARNING 'caught: %', SQLERRM;
		END;
		INSERT INTO before VALUES (2);
	END $$;
SELECT a FROM before;
RESET ve.fails;
SELECT * FROM cmek.verify('ve');
DROP TABLE ve, before;
DROP OPERATOR FAMILY ve_ops USING btree CASCADE;
DROP FUNCTION ve_cmp;
