/* test/modules/aws/cmek_test_aws--1.0.sql */

\echo Use "CREATE EXTENSION cmek_test_aws" to load this file. \quit

-- headers: name, value, name, value, in order of name
CREATE FUNCTION aws_sigv4(method text, path text, query text, headers text[], body bytea,
	access text, secret text, region text, service text, date text) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_key(key_id text, option_region text, own_region text, env_region text) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_key_matches(key_id text, region text, arn text) RETURNS bool
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_key_version(arn text) RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_key_for_blob(key_id text, region text, version text) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_endpoint(url text, service text, region text) RETURNS text
	LANGUAGE C AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_body(what text, uuid uuid, bytes bytea, a text, b text, c text) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_error(status int, type_header text, body text) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_answer(what text, body text) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_profile(content text, name text, config bool) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_header(head text, name text) RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_retry_after(head text) RETURNS int LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_date(what text) RETURNS int8 LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_base64(what text) RETURNS bytea LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION aws_mutate(seed int8, rounds int) RETURNS int LANGUAGE C STRICT AS 'MODULE_PATHNAME';
