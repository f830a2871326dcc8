/* test/modules/hsm/cmek_test_hsm--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cmek_test_hsm" to load this file. \quit

-- config: name, value, name, value, ...; what: key, query, encrypt, decrypt

-- What is sent; bytes: IV, value or ciphertext, tag
CREATE FUNCTION kmip_request(what text, config text[], id uuid, bytes bytea) RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- How an answer is read
CREATE FUNCTION kmip_answer(what text, config text[], body bytea,
	OUT class text, OUT code text, OUT message text, OUT key_id text,
	OUT blob bytea, OUT key bytea) RETURNS record
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- The n-th of a list of hosts
CREATE FUNCTION kmip_hosts(hosts text, n int4) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- Answers with random changes, to every function that reads one
CREATE FUNCTION kmip_mutate(seed int8, rounds int4) RETURNS int8
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
