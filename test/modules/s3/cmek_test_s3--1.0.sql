-- what a file holds depends on its length and the seed only
CREATE FUNCTION s3_write(name text, bytes int8, seed int, ending text DEFAULT 'finish') RETURNS text
	LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_read(name text, OUT bytes int8, OUT md5 text) LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_remove(name text) RETURNS bool LANGUAGE c STRICT AS 'MODULE_PATHNAME';
-- the most memory that this backend has ever had, in kB
CREATE FUNCTION s3_peak() RETURNS int8 LANGUAGE c STRICT AS 'MODULE_PATHNAME';

CREATE FUNCTION s3_location(url text) RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME';
-- method, address and headers of a request
CREATE FUNCTION s3_request(operation int, bucket text, key text, endpoint text, encryption text, token text, body text)
	RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_complete(parts int) RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_part_size(part int) RETURNS int8 LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_upload_id(body text) RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_completed(body text) RETURNS bool LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_range(value text) RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION s3_error(status int, body text) RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME';
