/* test/modules/crypto/cmek_test_crypto--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cmek_test_crypto" to load this file. \quit

-- impl is a value of cmek.crypto everywhere; NULL means its present setting

-- ---- aead.c ----

-- Which implementation one gets
CREATE FUNCTION test_implementation(impl text) RETURNS text
	LANGUAGE C AS 'MODULE_PATHNAME';
-- nonce | ciphertext | tag, the nonce random when it is NULL
CREATE FUNCTION test_seal(impl text, key bytea, nonce bytea, plain bytea, aad bytea) RETURNS bytea
	LANGUAGE C AS 'MODULE_PATHNAME';
-- NULL when it does not open; ERROR when that leaves a byte in the output
CREATE FUNCTION test_open(impl text, key bytea, sealed bytea, aad bytea) RETURNS bytea
	LANGUAGE C AS 'MODULE_PATHNAME';
-- Flips each byte of sealed values and their AAD; how many flips there were
CREATE FUNCTION test_tamper(impl text, len int) RETURNS int
	LANGUAGE C AS 'MODULE_PATHNAME';
-- Seals with one and opens with the other, random sizes; bytes gone through
CREATE FUNCTION test_roundtrip(sealer text, opener text, seed int, n int, maxlen int) RETURNS int8
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION test_hmac(key bytea, data bytea) RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION test_derive(key bytea, info bytea) RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION test_sign(pem bytea, data bytea) RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- ns for one value
CREATE FUNCTION test_speed(impl text, len int, n int, OUT seal float8, OUT open float8)
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';

-- ---- random.c ----

-- Nonces out of n seals, one after the other
CREATE FUNCTION test_nonces(n int) RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- How many of n nonces were met before
CREATE FUNCTION test_repeated_nonces(n int) RETURNS int
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- The same of n nonces here and n in a bare fork() of this process
CREATE FUNCTION test_repeated_nonces_after_fork(n int) RETURNS int
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION test_uuid() RETURNS uuid
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';

-- ---- secret.c ----

-- VmFlags of the mapping with a new secret of this size
CREATE FUNCTION test_secret_flags(size int) RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- VmFlags of the middle of protected shared memory; NULL where refused
CREATE FUNCTION test_protect_flags() RETURNS text
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- Allocates and frees at random; how many blocks were looked at
CREATE FUNCTION test_secret_blocks(seed int, n int) RETURNS int
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- Makes a secret, in the function's memory context or not, remembers where,
-- and ends in an ERROR if so asked
CREATE FUNCTION test_secret_make(secret bytea, in_context bool, fail bool) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- The bytes where the remembered secret was
CREATE FUNCTION test_secret_peek() RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- The same in a bare fork() of this process
CREATE FUNCTION test_secret_peek_after_fork() RETURNS bytea
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- Logs the same when this process has ended.  Before any other function.
CREATE FUNCTION test_secret_peek_at_exit() RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
CREATE FUNCTION test_free_twice() RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
-- Is this process dumpable, before and after it has made a context?
CREATE FUNCTION test_dumpable(OUT before bool, OUT after bool)
	LANGUAGE C STRICT AS 'MODULE_PATHNAME';
