/* test/modules/manifest/cmek_test_manifest--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cmek_test_manifest" to load this file. \quit

-- What cmek_manifest_make says of a table
CREATE FUNCTION test_manifest(regclass) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- A new table out of a manifest, owned by the caller, with the rows that a
-- plain table stores, read by what the manifest says of rows alone; what could
-- not be recreated
CREATE FUNCTION test_recreate(manifest text, schema text, name text, rows regclass, key text DEFAULT NULL) RETURNS SETOF text
	LANGUAGE C AS 'MODULE_PATHNAME';
