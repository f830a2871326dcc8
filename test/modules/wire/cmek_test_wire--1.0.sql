/* test/modules/wire/cmek_test_wire--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cmek_test_wire" to load this file. \quit

-- config: name, value, name, value, ...

-- What is sent: the address, a line end, the body
CREATE FUNCTION wire_request(what text, config text[], id uuid, bytes bytea) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- How an answer is read: class, code, message, key id, version, blob, key
CREATE FUNCTION wire_answer(what text, config text[], status int4, body bytea,
	OUT class text, OUT code text, OUT message text, OUT key_id text,
	OUT key_version text, OUT blob bytea, OUT key bytea) RETURNS record
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION wire_crc32c(data bytea) RETURNS int8
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- Answers with random changes, to every function that reads one
CREATE FUNCTION wire_mutate(seed int8, rounds int4) RETURNS int8
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
