/* sql/install/cmek--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cmek" to load this file. \quit

-- Operators and functions below are pg_catalog's: nobody can put one of his own
-- in front of them by way of the schema the extension is created in.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- The extension makes its schema itself, so that it belongs to the bootstrap
-- superuser and nobody else can plant an object in it.
CREATE SCHEMA cmek;
GRANT USAGE ON SCHEMA cmek TO PUBLIC;

-- ---------------------------------------------------------------------
-- Keys.  Ordinary heap tables, whatever the default access method is: they
-- hold wrapped keys only.  pg_dump carries neither.
-- ---------------------------------------------------------------------

-- One row for every table key that was ever wrapped; id is the encryption
-- context of the wrapped blob and is never used twice.
CREATE TABLE cmek.table_key (
	id			uuid NOT NULL PRIMARY KEY,
	relid		oid NOT NULL,
	version		int4 NOT NULL,
	server		name NOT NULL,		-- pg_upgrade keeps names, not OIDs
	key_id		text NOT NULL,		-- as the KMS names the key
	key_version	text NOT NULL,
	blob		bytea NOT NULL,		-- the table key, wrapped by the KMS
	created_at	timestamptz NOT NULL,
	sealed_by	uuid,				-- the table key that followed this one
	sealed		bytea				-- nonce | this table key | tag under that one
) USING heap;
CREATE UNIQUE INDEX table_key_relid_version ON cmek.table_key (relid, version);
CREATE INDEX table_key_server ON cmek.table_key (server);
REVOKE ALL ON cmek.table_key FROM PUBLIC;

-- The newest table key of a table, wrapped by other KMS keys as well; id is the
-- encryption context of the wrapped blob and is never used twice.
CREATE TABLE cmek.table_key_replica (
	id			uuid NOT NULL PRIMARY KEY,
	table_key	uuid NOT NULL,		-- cmek.table_key.id
	relid		oid NOT NULL,
	server		name NOT NULL,
	key_id		text NOT NULL,
	key_version	text NOT NULL,
	blob		bytea NOT NULL,
	created_at	timestamptz NOT NULL
) USING heap;
CREATE UNIQUE INDEX table_key_replica_relid ON cmek.table_key_replica (relid, table_key, server);
REVOKE ALL ON cmek.table_key_replica FROM PUBLIC;

-- One row for every data key.  A DEK id never changes its meaning.
CREATE SEQUENCE cmek.data_key_id AS int4;
CREATE TABLE cmek.data_key (
	id			int4 NOT NULL PRIMARY KEY,
	relid		oid NOT NULL,
	kind		"char" NOT NULL,	-- h heap, t TOAST, i index, s statistics
	structure	uuid NOT NULL,
	generation	int4 NOT NULL,
	table_key	uuid NOT NULL,
	wrapped		bytea NOT NULL,		-- nonce | DEK | tag under the table key
	format		int2 NOT NULL,
	current		bool NOT NULL,
	created_at	timestamptz NOT NULL,
	index		oid NOT NULL,		-- kind i: which one; else 0
	hide_tids	bool NOT NULL		-- kind i: its TIDs are permuted
) USING heap;
CREATE INDEX data_key_relid ON cmek.data_key (relid);
REVOKE ALL ON cmek.data_key FROM PUBLIC;
REVOKE ALL ON SEQUENCE cmek.data_key_id FROM PUBLIC;

-- KMS keys that are suspended in this database
CREATE TABLE cmek.suspended_key (
	server		name NOT NULL PRIMARY KEY,
	since		timestamptz NOT NULL,
	suspended_by name NOT NULL
) USING heap;
REVOKE ALL ON cmek.suspended_key FROM PUBLIC;

-- How many seals of each data key backends have reserved.  A table of its own,
-- because reservations outlive the transactions they are made in: they change
-- the row in place, so nothing may ever UPDATE it.
CREATE TABLE cmek.data_key_seals (
	id			int4 NOT NULL PRIMARY KEY,
	reserved	int8 NOT NULL
) USING heap;
REVOKE ALL ON cmek.data_key_seals FROM PUBLIC;

-- Planner statistics of sealed tables, sealed.  As pg_statistic: what ANALYZE
-- finds replaces what was there, and it goes with its table.
CREATE TABLE cmek.statistic (
	relid		oid NOT NULL,		-- the table, or an index of it
	attnum		int2 NOT NULL,
	inherited	bool NOT NULL,		-- of its children, too
	"table"		oid NOT NULL,
	sealed_by	oid[] NOT NULL,		-- whose keys it takes to open it
	sealed		bytea NOT NULL,
	PRIMARY KEY (relid, attnum, inherited)
) USING heap;
ALTER TABLE cmek.statistic ALTER sealed SET STORAGE EXTERNAL;
CREATE INDEX statistic_table ON cmek.statistic ("table");
REVOKE ALL ON cmek.statistic FROM PUBLIC;

-- What is known of the KMS keys that tables are bound to; the sums are of
-- observed inaccessible time.  Written by the visitor alone, as all below.
CREATE TABLE cmek.key_watch (
	server		name NOT NULL PRIMARY KEY,
	class		text NOT NULL,		-- of the KMS's last answer
	code		text NOT NULL,
	reason		text NOT NULL,
	since		timestamptz NOT NULL,
	last_ok		timestamptz,
	denied_ms	int8 NOT NULL,
	unreachable_ms int8 NOT NULL,
	warned_at	timestamptz,
	drop_at		timestamptz,
	own_ms		int8 NOT NULL,		-- what of it the installation itself has seen
	installation text NOT NULL
) USING heap;
REVOKE ALL ON cmek.key_watch FROM PUBLIC;

-- The audit trail: a chain of MACs.  Ids have no gaps.
CREATE TABLE cmek.key_event (
	id			int8 NOT NULL PRIMARY KEY,
	at			timestamptz NOT NULL,
	event		text NOT NULL,
	outcome		text,
	key			text,
	"table"		text,
	role		text,
	code		text,
	detail		text,
	drop_at		timestamptz,
	relid		oid NOT NULL,
	mac			bytea NOT NULL
) USING heap;
REVOKE ALL ON cmek.key_event FROM PUBLIC;

-- Its end, and when that was last published
CREATE TABLE cmek.audit_head (
	singleton	bool NOT NULL PRIMARY KEY CHECK (singleton),
	id			int8 NOT NULL,
	mac			bytea NOT NULL,
	anchored_at	timestamptz NOT NULL
) USING heap;
REVOKE ALL ON cmek.audit_head FROM PUBLIC;

-- What is still to be posted to cmek.notify_url
CREATE TABLE cmek.notification (
	id			int8 NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	attempts	int4 NOT NULL DEFAULT 0,
	next_try	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	last_error	text,
	body		text NOT NULL
) USING heap;
REVOKE ALL ON cmek.notification FROM PUBLIC;

-- ---------------------------------------------------------------------
-- KMS keys are servers of these wrappers
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.file_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_file_validator';
REVOKE ALL ON FUNCTION cmek.file_validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER cmek_file VALIDATOR cmek.file_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_file IS
	'cmek: KMS keys in files of the database server';

CREATE SERVER cmek_service_key FOREIGN DATA WRAPPER cmek_file;
COMMENT ON SERVER cmek_service_key IS
	'cmek: the service key, owned by the database service';
GRANT USAGE ON FOREIGN SERVER cmek_service_key TO PUBLIC;

-- ---------------------------------------------------------------------
-- The access method
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.heap_handler(internal) RETURNS table_am_handler
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_heap_handler';
REVOKE ALL ON FUNCTION cmek.heap_handler(internal) FROM PUBLIC;

CREATE ACCESS METHOD cmek_heap TYPE TABLE HANDLER cmek.heap_handler;
COMMENT ON ACCESS METHOD cmek_heap IS 'cmek: heap of sealed rows';

CREATE FUNCTION cmek.btree_handler(internal) RETURNS index_am_handler
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_btree_handler';
REVOKE ALL ON FUNCTION cmek.btree_handler(internal) FROM PUBLIC;

CREATE ACCESS METHOD cmek_btree TYPE INDEX HANDLER cmek.btree_handler;
COMMENT ON ACCESS METHOD cmek_btree IS 'cmek: b-tree of sealed keys';

-- For each operator class of btree one of cmek_btree with the same name,
-- schema and members; superusers only
CREATE FUNCTION cmek.import_operator_classes() RETURNS int4
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_import_operator_classes';
REVOKE ALL ON FUNCTION cmek.import_operator_classes() FROM PUBLIC;
COMMENT ON FUNCTION cmek.import_operator_classes() IS
	'cmek: gives cmek_btree the operator classes that btree has';
SELECT cmek.import_operator_classes();

-- ---------------------------------------------------------------------
-- Sealed b-trees.  cmek.sealed is what nbtree takes the columns of a sealed
-- index for; no SQL makes a value of it.
-- ---------------------------------------------------------------------

CREATE TYPE cmek.sealed;
CREATE FUNCTION cmek.sealed_in(cstring) RETURNS cmek.sealed
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_in';
CREATE FUNCTION cmek.sealed_out(cmek.sealed) RETURNS cstring
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_out';
CREATE TYPE cmek.sealed (INPUT = cmek.sealed_in, OUTPUT = cmek.sealed_out,
	INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = external);
REVOKE ALL ON TYPE cmek.sealed FROM PUBLIC;
COMMENT ON TYPE cmek.sealed IS 'cmek: internal, a key of a sealed index';

CREATE FUNCTION cmek.sealed_lt(cmek.sealed, cmek.sealed) RETURNS bool
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_lt';
CREATE FUNCTION cmek.sealed_le(cmek.sealed, cmek.sealed) RETURNS bool
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_le';
CREATE FUNCTION cmek.sealed_eq(cmek.sealed, cmek.sealed) RETURNS bool
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_eq';
CREATE FUNCTION cmek.sealed_ge(cmek.sealed, cmek.sealed) RETURNS bool
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_ge';
CREATE FUNCTION cmek.sealed_gt(cmek.sealed, cmek.sealed) RETURNS bool
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_gt';
CREATE FUNCTION cmek.sealed_cmp(cmek.sealed, cmek.sealed) RETURNS int4
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_cmp';
CREATE FUNCTION cmek.sealed_sortsupport(internal) RETURNS void
	LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_sealed_sortsupport';
REVOKE ALL ON FUNCTION cmek.sealed_in(cstring), cmek.sealed_out(cmek.sealed),
	cmek.sealed_lt(cmek.sealed, cmek.sealed), cmek.sealed_le(cmek.sealed, cmek.sealed),
	cmek.sealed_eq(cmek.sealed, cmek.sealed), cmek.sealed_ge(cmek.sealed, cmek.sealed),
	cmek.sealed_gt(cmek.sealed, cmek.sealed), cmek.sealed_cmp(cmek.sealed, cmek.sealed),
	cmek.sealed_sortsupport(internal) FROM PUBLIC;

CREATE OPERATOR cmek.< (LEFTARG = cmek.sealed, RIGHTARG = cmek.sealed, FUNCTION = cmek.sealed_lt);
CREATE OPERATOR cmek.<= (LEFTARG = cmek.sealed, RIGHTARG = cmek.sealed, FUNCTION = cmek.sealed_le);
CREATE OPERATOR cmek.= (LEFTARG = cmek.sealed, RIGHTARG = cmek.sealed, FUNCTION = cmek.sealed_eq);
CREATE OPERATOR cmek.>= (LEFTARG = cmek.sealed, RIGHTARG = cmek.sealed, FUNCTION = cmek.sealed_ge);
CREATE OPERATOR cmek.> (LEFTARG = cmek.sealed, RIGHTARG = cmek.sealed, FUNCTION = cmek.sealed_gt);
CREATE OPERATOR CLASS cmek.sealed_ops FOR TYPE cmek.sealed USING btree AS
	OPERATOR 1 cmek.<, OPERATOR 2 cmek.<=, OPERATOR 3 cmek.=, OPERATOR 4 cmek.>=, OPERATOR 5 cmek.>,
	FUNCTION 1 cmek.sealed_cmp(cmek.sealed, cmek.sealed),
	FUNCTION 2 cmek.sealed_sortsupport(internal);

-- ---------------------------------------------------------------------
-- What people look at.  The views read more than their caller may, so each is
-- a security barrier: a leaky function of the caller's sees only his own rows.
-- ---------------------------------------------------------------------

-- The key named in a security label; NULL when there is none
CREATE FUNCTION cmek.label_key(label text) RETURNS name
	LANGUAGE C STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_label_key';

-- The other keys named in it; NULL when there are none
CREATE FUNCTION cmek.label_replica_keys(label text) RETURNS name[]
	LANGUAGE C STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cmek_label_replica_keys';

-- What is known about the KMS keys of this database since the server started;
-- shows the caller those that it may use
CREATE FUNCTION cmek.server_state(
	OUT server oid, OUT state text, OUT reason text, OUT code text,
	OUT since timestamptz, OUT last_ok timestamptz) RETURNS SETOF record
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'cmek_server_state';

CREATE FUNCTION cmek.stat_counters(
	OUT seals int8, OUT unseals int8, OUT cache_hits int8, OUT cache_misses int8,
	OUT cache_evictions int8, OUT kms_calls int8, OUT kms_failures int8,
	OUT kms_time_ms float8, OUT cached_keys int4, OUT crypto text) RETURNS record
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'cmek_stat_counters';

CREATE VIEW cmek.stat AS
	SELECT s.*, CASE WHEN s.kms_calls > 0 THEN s.kms_time_ms / s.kms_calls END
		   AS kms_latency_ms
	FROM cmek.stat_counters() s;
GRANT SELECT ON cmek.stat TO PUBLIC;

-- Long commands under way in this database, on tables of the caller's
CREATE FUNCTION cmek.progress_slots(
	OUT pid int4, OUT datid oid, OUT command text, OUT relid oid,
	OUT done int8, OUT total int8, OUT started_at timestamptz) RETURNS SETOF record
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'cmek_progress_slots';

CREATE VIEW cmek.verify_progress WITH (security_barrier) AS
	SELECT p.pid, p.relid::regclass AS "table", p.done AS blocks_done,
		   p.total AS blocks_total, p.started_at
	FROM cmek.progress_slots() p
	JOIN pg_catalog.pg_class c ON c.oid = p.relid
	WHERE p.command = 'verify'
	  AND p.datid = (SELECT oid FROM pg_catalog.pg_database
					 WHERE datname = pg_catalog.current_database())
	  AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON cmek.verify_progress TO PUBLIC;

-- Bound tables, by their label
CREATE VIEW cmek.bindings AS
	SELECT l.objoid AS relid, cmek.label_key(l.label) AS server,
		   cmek.label_replica_keys(l.label) AS replica_keys
	FROM pg_catalog.pg_seclabel l
	WHERE l.provider = 'cmek'
	  AND l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass
	  AND l.objsubid = 0;
REVOKE ALL ON cmek.bindings FROM PUBLIC;

-- KMS keys that a superuser suspended by name in every database; shows the
-- caller those that it may use
CREATE FUNCTION cmek.suspended_everywhere(
	OUT server name, OUT since timestamptz, OUT suspended_by name) RETURNS SETOF record
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'cmek_suspended_everywhere';

-- What is known of a KMS key; an order to leave it alone comes before what
-- its KMS said
CREATE VIEW cmek.key_states AS
	SELECT s.oid AS server, s.srvname,
		   CASE WHEN x.since IS NULL THEN coalesce(st.state, 'unknown') ELSE 'suspended' END AS state,
		   coalesce(x.since, st.since) AS since, coalesce(st.last_ok, w.last_ok) AS last_ok,
		   CASE WHEN x.since IS NULL THEN st.code ELSE 'Suspended' END AS code,
		   coalesce(x.reason, st.reason) AS reason,
		   CASE WHEN st.state = 'inaccessible' THEN w.denied_ms * interval '1 ms' END AS denied_for,
		   CASE WHEN st.state = 'inaccessible' THEN w.unreachable_ms * interval '1 ms' END AS unreachable_for,
		   CASE WHEN st.state = 'inaccessible' THEN w.drop_at END AS drop_at
	FROM pg_catalog.pg_foreign_server s
	LEFT JOIN cmek.server_state() st ON st.server = s.oid
	LEFT JOIN cmek.key_watch w ON w.server = s.srvname
	LEFT JOIN (SELECT DISTINCT ON (u.server) u.*
			   FROM (SELECT k.server, k.since,
							'suspended in this database by role "' || k.suspended_by || '"' AS reason
					 FROM cmek.suspended_key k
					 UNION ALL
					 SELECT e.server, e.since,
							'suspended everywhere by role "' || e.suspended_by || '"'
					 FROM cmek.suspended_everywhere() e) u
			   ORDER BY u.server, u.since) x ON x.server = s.srvname;
REVOKE ALL ON cmek.key_states FROM PUBLIC;

-- One line for every KMS key that the caller may use
CREATE VIEW cmek.keys WITH (security_barrier) AS
	SELECT s.srvname AS name, w.fdwname AS provider,
		   pg_catalog.pg_get_userbyid(s.srvowner) AS owner,
		   st.state, st.since, st.last_ok, st.code, st.reason,
		   st.denied_for, st.unreachable_for, st.drop_at,
		   (SELECT pg_catalog.count(*) FROM cmek.bindings b
			JOIN pg_catalog.pg_class c ON c.oid = b.relid
			WHERE b.server = s.srvname AND c.relkind IN ('r', 'm')) AS tables
	FROM pg_catalog.pg_foreign_server s
	JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
	JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass
		AND d.objid = w.oid AND d.deptype = 'e'
		AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
	JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'cmek'
	JOIN cmek.key_states st ON st.server = s.oid
	WHERE pg_catalog.has_server_privilege(s.oid, 'USAGE');
GRANT SELECT ON cmek.keys TO PUBLIC;

-- One line for every sealed table of the caller
CREATE VIEW cmek.tables WITH (security_barrier) AS
	SELECT c.oid::pg_catalog.regclass AS "table", b.server AS key,
		   w.fdwname AS provider,
		   CASE WHEN b.server IS NULL THEN 'unbound'
				ELSE coalesce(st.state, 'unknown') END AS state,
		   st.since, k.version AS table_key_version,
		   k.created_at AS table_key_created_at,
		   k.key_id AS kms_key_id, k.key_version AS kms_key_version,
		   (SELECT pg_catalog.count(*) FROM cmek.data_key d WHERE d.relid = c.oid) AS data_keys,
		   b.replica_keys
	FROM pg_catalog.pg_class c
	JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname = 'cmek_heap'
	LEFT JOIN cmek.bindings b ON b.relid = c.oid
	LEFT JOIN pg_catalog.pg_foreign_server s ON s.srvname = b.server
	LEFT JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
	LEFT JOIN cmek.key_states st ON st.server = s.oid
	LEFT JOIN LATERAL (SELECT t.* FROM cmek.table_key t WHERE t.relid = c.oid
					   ORDER BY t.version DESC LIMIT 1) k ON true
	WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
	  AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON cmek.tables TO PUBLIC;

-- What of a sealed table is in clear all the same; lines without a table are
-- true of every sealed table
CREATE VIEW cmek.exposures WITH (security_barrier) AS
	WITH RECURSIVE sealed AS (
		SELECT c.oid, c.relkind, c.relispartition, c.relpersistence
		FROM pg_catalog.pg_class c
		LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
		LEFT JOIN cmek.bindings b ON b.relid = c.oid
		WHERE (a.amname = 'cmek_heap' AND c.relkind IN ('r', 'm', 'p')
			   OR b.server IS NOT NULL AND c.relkind = 'p')
		  AND pg_catalog.pg_has_role(c.relowner, 'USAGE')),
	ancestors AS (
		SELECT s.oid AS sealed, i.inhparent AS oid
		FROM sealed s JOIN pg_catalog.pg_inherits i ON i.inhrelid = s.oid
		UNION
		SELECT a.sealed, i.inhparent
		FROM ancestors a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid)
	SELECT t.oid::pg_catalog.regclass AS "table", 'index'::text AS kind,
		   i.indexrelid::pg_catalog.regclass::text AS object,
		   'index of method ' || am.amname || ' holds key values in clear' AS detail
	FROM sealed t
	JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
	JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid AND ic.relkind = 'i'
	JOIN pg_catalog.pg_am am ON am.oid = ic.relam AND am.amname <> 'cmek_btree'
	UNION ALL
	SELECT t.oid::pg_catalog.regclass, 'statistics', s.attname::text,
		   'pg_statistic holds values of this column in clear'
	FROM sealed t
	JOIN (SELECT DISTINCT st.starelid, at.attname FROM pg_catalog.pg_statistic st
		  JOIN pg_catalog.pg_attribute at
			ON at.attrelid = st.starelid AND at.attnum = st.staattnum) s
	  ON s.starelid = t.oid
	UNION ALL
	SELECT DISTINCT t.sealed::pg_catalog.regclass, 'statistics of an ancestor',
		   t.oid::pg_catalog.regclass::text || '.' || at.attname,
		   'pg_statistic may hold values of this column in clear'
	FROM ancestors t
	JOIN pg_catalog.pg_statistic st ON st.starelid = t.oid AND st.stainherit
	JOIN pg_catalog.pg_attribute at ON at.attrelid = t.oid AND at.attnum = st.staattnum
	WHERE t.oid NOT IN (SELECT oid FROM sealed)
	UNION ALL
	SELECT DISTINCT t.oid::pg_catalog.regclass, 'extended statistics', x.stxname::text,
		   'pg_statistic_ext_data holds values of this table in clear'
	FROM sealed t
	JOIN pg_catalog.pg_statistic_ext x ON x.stxrelid = t.oid
	JOIN pg_catalog.pg_statistic_ext_data xd ON xd.stxoid = x.oid
	WHERE xd.stxdmcv IS NOT NULL OR xd.stxdexpr IS NOT NULL
	UNION ALL
	SELECT t.oid::pg_catalog.regclass, 'partition bound', t.oid::pg_catalog.regclass::text,
		   'the catalog holds the partition bound in clear'
	FROM sealed t WHERE t.relispartition
	UNION ALL
	SELECT t.oid::pg_catalog.regclass, 'logical decoding', 'wal_level',
		   'logical decoding sees rows of NULLs: changes are lost to subscribers'
	FROM sealed t
	WHERE t.relkind IN ('r', 'm') AND t.relpersistence = 'p'
	  AND pg_catalog.current_setting('wal_level') = 'logical'
	  AND pg_catalog.current_setting('cmek.allow_logical_decoding', true) = 'on'
	UNION ALL
	SELECT NULL::pg_catalog.regclass, g.kind, g.object, g.detail
	FROM (VALUES
		('temporary files', 'temp_tablespaces',
		 'sorts, hashes and held cursors that spill write values in clear'),
		('dumps', 'pg_dump, COPY TO',
		 'write what they read in clear, to where they are told to'),
		('query texts', 'server log, pg_stat_activity',
		 'literals, parameters and rows named in error messages are in clear'))
		g (kind, object, detail);
GRANT SELECT ON cmek.exposures TO PUBLIC;

-- ---------------------------------------------------------------------
-- Sealed planner statistics, as in pg_stats, with values as text.  Of columns
-- that the caller may SELECT, whose keys are there.
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.statistic_rows() RETURNS SETOF pg_catalog.pg_statistic
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_statistic_rows';

CREATE VIEW cmek.stats WITH (security_barrier) AS
	SELECT n.nspname AS schemaname, c.relname AS tablename, a.attname,
		s.stainherit AS inherited, s.stanullfrac AS null_frac,
		s.stawidth AS avg_width, s.stadistinct AS n_distinct,
		CASE WHEN s.stakind1 = 1 THEN s.stavalues1::pg_catalog.text
			 WHEN s.stakind2 = 1 THEN s.stavalues2::pg_catalog.text
			 WHEN s.stakind3 = 1 THEN s.stavalues3::pg_catalog.text
			 WHEN s.stakind4 = 1 THEN s.stavalues4::pg_catalog.text
			 WHEN s.stakind5 = 1 THEN s.stavalues5::pg_catalog.text
		END AS most_common_vals,
		CASE WHEN s.stakind1 = 1 THEN s.stanumbers1
			 WHEN s.stakind2 = 1 THEN s.stanumbers2
			 WHEN s.stakind3 = 1 THEN s.stanumbers3
			 WHEN s.stakind4 = 1 THEN s.stanumbers4
			 WHEN s.stakind5 = 1 THEN s.stanumbers5
		END AS most_common_freqs,
		CASE WHEN s.stakind1 = 2 THEN s.stavalues1::pg_catalog.text
			 WHEN s.stakind2 = 2 THEN s.stavalues2::pg_catalog.text
			 WHEN s.stakind3 = 2 THEN s.stavalues3::pg_catalog.text
			 WHEN s.stakind4 = 2 THEN s.stavalues4::pg_catalog.text
			 WHEN s.stakind5 = 2 THEN s.stavalues5::pg_catalog.text
		END AS histogram_bounds,
		CASE WHEN s.stakind1 = 3 THEN s.stanumbers1[1]
			 WHEN s.stakind2 = 3 THEN s.stanumbers2[1]
			 WHEN s.stakind3 = 3 THEN s.stanumbers3[1]
			 WHEN s.stakind4 = 3 THEN s.stanumbers4[1]
			 WHEN s.stakind5 = 3 THEN s.stanumbers5[1]
		END AS correlation,
		CASE WHEN s.stakind1 = 4 THEN s.stavalues1::pg_catalog.text
			 WHEN s.stakind2 = 4 THEN s.stavalues2::pg_catalog.text
			 WHEN s.stakind3 = 4 THEN s.stavalues3::pg_catalog.text
			 WHEN s.stakind4 = 4 THEN s.stavalues4::pg_catalog.text
			 WHEN s.stakind5 = 4 THEN s.stavalues5::pg_catalog.text
		END AS most_common_elems,
		CASE WHEN s.stakind1 = 4 THEN s.stanumbers1
			 WHEN s.stakind2 = 4 THEN s.stanumbers2
			 WHEN s.stakind3 = 4 THEN s.stanumbers3
			 WHEN s.stakind4 = 4 THEN s.stanumbers4
			 WHEN s.stakind5 = 4 THEN s.stanumbers5
		END AS most_common_elem_freqs,
		CASE WHEN s.stakind1 = 5 THEN s.stanumbers1
			 WHEN s.stakind2 = 5 THEN s.stanumbers2
			 WHEN s.stakind3 = 5 THEN s.stanumbers3
			 WHEN s.stakind4 = 5 THEN s.stanumbers4
			 WHEN s.stakind5 = 5 THEN s.stanumbers5
		END AS elem_count_histogram
	FROM cmek.statistic_rows() s
	JOIN pg_catalog.pg_class c ON c.oid = s.starelid
	JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = s.staattnum
	JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE NOT a.attisdropped;
GRANT SELECT ON cmek.stats TO PUBLIC;

-- Read every live row and TOAST chunk; one line for each that is damaged
CREATE FUNCTION cmek.verify("table" regclass,
	OUT relation regclass, OUT tid tid, OUT problem text) RETURNS SETOF record
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_verify';
COMMENT ON FUNCTION cmek.verify(regclass) IS
	'cmek: reads every live row and chunk of a sealed table, lists damaged ones';

-- ---------------------------------------------------------------------
-- Another key, and no key
-- ---------------------------------------------------------------------

CREATE PROCEDURE cmek.switch_key(old name, new name)
	LANGUAGE C AS 'MODULE_PATHNAME', 'cmek_switch_key';
COMMENT ON PROCEDURE cmek.switch_key(name, name) IS
	'cmek: all of the caller''s tables from one KMS key to another; commits after each';

CREATE PROCEDURE cmek.rotate_table_key("table" regclass)
	LANGUAGE C AS 'MODULE_PATHNAME', 'cmek_rotate_table_key';
COMMENT ON PROCEDURE cmek.rotate_table_key(regclass) IS
	'cmek: a new table key under the same KMS key';

CREATE VIEW cmek.switch_progress WITH (security_barrier) AS
	SELECT p.pid, p.relid::regclass AS "table", p.done AS tables_done,
		   p.total AS tables_total, p.started_at AS table_started_at
	FROM cmek.progress_slots() p
	JOIN pg_catalog.pg_class c ON c.oid = p.relid
	WHERE p.command = 'switch'
	  AND p.datid = (SELECT oid FROM pg_catalog.pg_database
					 WHERE datname = pg_catalog.current_database())
	  AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON cmek.switch_progress TO PUBLIC;

-- The wrapped table keys of the caller's tables.  Everything here is wrapped
-- by a KMS key or sealed under a newer table key.
CREATE VIEW cmek.key_chain WITH (security_barrier) AS
	SELECT k.relid, n.nspname AS schema, c.relname AS name, k.id, k.version,
		   k.server, k.key_id, k.key_version, k.blob, k.sealed_by, k.sealed
	FROM cmek.table_key k
	JOIN pg_catalog.pg_class c ON c.oid = k.relid
	JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON cmek.key_chain TO PUBLIC;

CREATE FUNCTION cmek.export_keys() RETURNS jsonb
	LANGUAGE SQL STABLE
	BEGIN ATOMIC
		SELECT pg_catalog.jsonb_build_object('cmek_keys', 1, 'tables',
			coalesce(pg_catalog.jsonb_agg(t.doc ORDER BY t.relid), '[]'))
		FROM (SELECT k.relid, pg_catalog.jsonb_build_object(
					'relid', k.relid::pg_catalog.int8, 'schema', k.schema, 'name', k.name,
					'keys', pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
						'id', k.id, 'version', k.version, 'server', k.server,
						'key_id', k.key_id, 'key_version', k.key_version,
						'blob', pg_catalog.translate(pg_catalog.encode(k.blob, 'base64'), E'\n', ''),
						'sealed_by', k.sealed_by,
						'sealed', pg_catalog.translate(pg_catalog.encode(k.sealed, 'base64'), E'\n', ''))
						ORDER BY k.version)) AS doc
			  FROM cmek.key_chain k GROUP BY k.relid, k.schema, k.name) t;
	END;
COMMENT ON FUNCTION cmek.export_keys() IS
	'cmek: the wrapped keys of the caller''s tables, for cmek.import_keys()';

CREATE FUNCTION cmek.import_keys(keys jsonb) RETURNS int4
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_import_keys';
COMMENT ON FUNCTION cmek.import_keys(jsonb) IS
	'cmek: brings tables of a restored backup to the newest of their exported keys';

CREATE FUNCTION cmek.suspend_key(name name, everywhere bool DEFAULT false) RETURNS void
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_suspend_key';
COMMENT ON FUNCTION cmek.suspend_key(name, bool) IS
	'cmek: nobody uses this KMS key any more, running statements included';

CREATE FUNCTION cmek.resume_key(name name, everywhere bool DEFAULT false) RETURNS void
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_resume_key';
COMMENT ON FUNCTION cmek.resume_key(name, bool) IS
	'cmek: undoes cmek.suspend_key()';

-- ---------------------------------------------------------------------
-- Renewing data keys; each commits by itself
-- ---------------------------------------------------------------------

CREATE PROCEDURE cmek.rotate_data_key("table" regclass)
	LANGUAGE C AS 'MODULE_PATHNAME', 'cmek_rotate_data_key';
COMMENT ON PROCEDURE cmek.rotate_data_key(regclass) IS
	'cmek: makes the next generation of a sealed table''s data keys';

CREATE PROCEDURE cmek.reseal("table" regclass)
	LANGUAGE C AS 'MODULE_PATHNAME', 'cmek_reseal';
COMMENT ON PROCEDURE cmek.reseal(regclass) IS
	'cmek: seals old rows of a table with its current data keys, while others read and write';

CREATE VIEW cmek.reseal_progress WITH (security_barrier) AS
	SELECT p.pid, p.relid::regclass AS "table",
		   CASE p.command WHEN 'reseal' THEN 'resealing' ELSE 'checking' END AS phase,
		   p.done AS blocks_done, p.total AS blocks_total, p.started_at
	FROM cmek.progress_slots() p
	JOIN pg_catalog.pg_class c ON c.oid = p.relid
	WHERE p.command IN ('reseal', 'reseal check')
	  AND p.datid = (SELECT oid FROM pg_catalog.pg_database
					 WHERE datname = pg_catalog.current_database())
	  AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON cmek.reseal_progress TO PUBLIC;

-- ---------------------------------------------------------------------
-- The audit trail
-- ---------------------------------------------------------------------

-- Events of the caller's tables and of KMS keys that the caller may use; all
-- of them for members of pg_monitor
CREATE VIEW cmek.key_events WITH (security_barrier) AS
	SELECT e.id, e.at, e.event, e.outcome, e.key, e."table", e.role, e.code,
		   e.detail, e.drop_at
	FROM cmek.key_event e
	WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
	   OR EXISTS (SELECT 1 FROM pg_catalog.pg_class c
				  WHERE c.oid = e.relid AND pg_catalog.pg_has_role(c.relowner, 'USAGE'))
	   OR e.relid = 0 AND EXISTS (SELECT 1 FROM pg_catalog.pg_foreign_server s
				  WHERE s.srvname = e.key AND pg_catalog.has_server_privilege(s.oid, 'USAGE'));
GRANT SELECT ON cmek.key_events TO PUBLIC;

CREATE FUNCTION cmek.verify_events(anchor text DEFAULT NULL,
	OUT id int8, OUT problem text) RETURNS SETOF record
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_verify_events';
REVOKE ALL ON FUNCTION cmek.verify_events(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cmek.verify_events(text) TO pg_monitor;
COMMENT ON FUNCTION cmek.verify_events(text) IS
	'cmek: the first event that breaks the audit chain; no row when it is whole';

-- ---------------------------------------------------------------------
-- KMS keys at cloud providers, and their proof
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.gcp_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_gcp_validator';
REVOKE ALL ON FUNCTION cmek.gcp_validator(text[], oid) FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cmek_gcp VALIDATOR cmek.gcp_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_gcp IS 'cmek: KMS keys of Google Cloud KMS';

CREATE FUNCTION cmek.vault_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_vault_validator';
REVOKE ALL ON FUNCTION cmek.vault_validator(text[], oid) FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cmek_vault VALIDATOR cmek.vault_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_vault IS
	'cmek: KMS keys of the Transit engine of HashiCorp Vault or OpenBao';

CREATE FUNCTION cmek.azure_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_azure_validator';
REVOKE ALL ON FUNCTION cmek.azure_validator(text[], oid) FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cmek_azure VALIDATOR cmek.azure_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_azure IS
	'cmek: KMS keys of Azure Key Vault or Managed HSM';
GRANT USAGE ON FOREIGN DATA WRAPPER cmek_azure TO @extowner@ WITH GRANT OPTION;

-- Whoever owns the extension hands the use of the wrappers on
GRANT USAGE ON FOREIGN DATA WRAPPER cmek_gcp, cmek_vault TO @extowner@ WITH GRANT OPTION;

CREATE FUNCTION cmek.kmip_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_kmip_validator';
REVOKE ALL ON FUNCTION cmek.kmip_validator(text[], oid) FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cmek_kmip VALIDATOR cmek.kmip_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_kmip IS
	'cmek: KMS keys of a key server that speaks KMIP';

CREATE FUNCTION cmek.pkcs11_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_pkcs11_validator';
REVOKE ALL ON FUNCTION cmek.pkcs11_validator(text[], oid) FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cmek_pkcs11 VALIDATOR cmek.pkcs11_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_pkcs11 IS
	'cmek: KMS keys in an HSM, by its PKCS#11 module';
GRANT USAGE ON FOREIGN DATA WRAPPER cmek_kmip, cmek_pkcs11 TO @extowner@ WITH GRANT OPTION;

CREATE FUNCTION cmek.check_key(name name, OUT step text, OUT ok bool,
	OUT code text, OUT detail text, OUT hint text) RETURNS SETOF record
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_check_key';
COMMENT ON FUNCTION cmek.check_key(name) IS
	'cmek: proves step by step that a KMS key can be used, and says what to grant';

-- ---------------------------------------------------------------------
-- Metrics
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.kms_histogram(OUT le float8, OUT calls int8) RETURNS SETOF record
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cmek_kms_histogram';
CREATE FUNCTION cmek.events_waiting() RETURNS int4
	LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cmek_events_waiting';

-- One line for each sample, in the order of the text form
CREATE VIEW cmek.metric AS
	WITH keys AS (
		SELECT s.srvname AS key, w.fdwname AS provider, st.*
		FROM pg_catalog.pg_foreign_server s
		JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
		JOIN cmek.key_states st ON st.server = s.oid
		WHERE EXISTS (SELECT 1 FROM cmek.bindings b WHERE b.server = s.srvname)),
	stat AS (SELECT * FROM cmek.stat_counters())
	SELECT m.* FROM (
		SELECT 1.0 AS n, 'cmek_key_state' AS name, 'gauge' AS type,
			   'Whether a KMS key is in this state.' AS help,
			   ARRAY['key', k.key, 'provider', k.provider, 'state', v.state]::text[] AS labels,
			   (k.state = v.state)::int4::float8 AS value
		FROM keys k, (VALUES ('enabled'), ('inaccessible'), ('suspended'), ('unknown')) v (state)
		UNION ALL
		SELECT 2, 'cmek_key_last_ok_seconds', 'gauge', 'When a KMS key was last proved, in seconds since 1970.',
			   ARRAY['key', k.key, 'provider', k.provider]::text[], EXTRACT(epoch FROM k.last_ok)
		FROM keys k WHERE k.last_ok IS NOT NULL
		UNION ALL
		SELECT 3, 'cmek_key_inaccessible_seconds', 'gauge', 'Observed time a KMS key has been denied or unreachable.',
			   ARRAY['key', k.key, 'provider', k.provider]::text[],
			   coalesce(EXTRACT(epoch FROM k.denied_for + k.unreachable_for), 0)
		FROM keys k
		UNION ALL
		SELECT 4, 'cmek_key_seconds_to_drop', 'gauge', 'Until the tables of a KMS key will be snapshotted and dropped.',
			   ARRAY['key', k.key, 'provider', k.provider]::text[],
			   greatest(EXTRACT(epoch FROM k.drop_at - pg_catalog.now()), 0)
		FROM keys k WHERE k.drop_at IS NOT NULL
		UNION ALL
		SELECT 5, 'cmek_key_tables', 'gauge', 'Tables bound to a KMS key.',
			   ARRAY['key', b.server]::text[], pg_catalog.count(*)::float8
		FROM cmek.bindings b JOIN pg_catalog.pg_class c ON c.oid = b.relid AND c.relkind IN ('r', 'm')
		GROUP BY b.server
		UNION ALL
		SELECT 6 + pg_catalog.row_number() OVER (ORDER BY h.le) / 1000.0,
			   'cmek_kms_request_duration_seconds_bucket', 'histogram', 'How long calls to KMSs took.',
			   ARRAY['le', coalesce(h.le::text, '+Inf')], h.calls::float8
		FROM cmek.kms_histogram() h
		UNION ALL
		SELECT 7, 'cmek_kms_request_duration_seconds_sum', NULL, NULL, NULL, stat.kms_time_ms / 1000 FROM stat
		UNION ALL
		SELECT 8, 'cmek_kms_request_duration_seconds_count', NULL, NULL, NULL, stat.kms_calls FROM stat
		UNION ALL
		SELECT 9, 'cmek_kms_failures_total', 'counter', 'Calls to KMSs that failed.', NULL, stat.kms_failures FROM stat
		UNION ALL
		SELECT 10, 'cmek_cache_hits_total', 'counter', 'Table keys found in the cache.', NULL, stat.cache_hits FROM stat
		UNION ALL
		SELECT 11, 'cmek_cache_misses_total', 'counter', 'Table keys that had to be asked for.', NULL, stat.cache_misses FROM stat
		UNION ALL
		SELECT 12, 'cmek_cache_evictions_total', 'counter', 'Table keys pushed out of the cache.', NULL, stat.cache_evictions FROM stat
		UNION ALL
		SELECT 13, 'cmek_cached_keys', 'gauge', 'Table keys in the cache.', NULL, stat.cached_keys FROM stat
		UNION ALL
		SELECT 14, 'cmek_seals_total', 'counter', 'Rows, chunks and index entries sealed.', NULL, stat.seals FROM stat
		UNION ALL
		SELECT 15, 'cmek_unseals_total', 'counter', 'Rows, chunks and index entries opened.', NULL, stat.unseals FROM stat
		UNION ALL
		SELECT 16, 'cmek_data_key_seals_reserved', 'gauge', 'The most that any data key of this database has reserved.',
			   NULL, coalesce(pg_catalog.max(r.reserved), 0)::float8 FROM cmek.data_key_seals r
		UNION ALL
		SELECT 17, 'cmek_events_waiting', 'gauge', 'Events that are not written down yet.', NULL, cmek.events_waiting()
		UNION ALL
		SELECT 18, 'cmek_notifications_waiting', 'gauge', 'Notifications that are not delivered yet.',
			   NULL, pg_catalog.count(*)::float8 FROM cmek.notification) m
	ORDER BY m.n, m.labels;
REVOKE ALL ON cmek.metric FROM PUBLIC;
GRANT SELECT ON cmek.metric TO pg_monitor;

-- One sample's labels
CREATE FUNCTION cmek.metric_labels(labels text[]) RETURNS text
	LANGUAGE SQL IMMUTABLE PARALLEL SAFE
	RETURN coalesce('{' || (SELECT pg_catalog.string_agg(labels[i] || '="' ||
		pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(labels[i + 1], E'\\', E'\\\\'),
			'"', E'\\"'), E'\n', E'\\n') || '"', ',' ORDER BY i)
		FROM pg_catalog.generate_series(1, pg_catalog.cardinality(labels), 2) i) || '}', '');

CREATE FUNCTION cmek.metrics() RETURNS text
	LANGUAGE SQL VOLATILE PARALLEL RESTRICTED
	BEGIN ATOMIC
		SELECT pg_catalog.string_agg(t.line, '' ORDER BY t.i) FROM (
			SELECT m.i, CASE WHEN m.type IS NOT NULL AND m.name IS DISTINCT FROM m.previous
					THEN '# HELP ' || pg_catalog.regexp_replace(m.name, '_bucket$', '') || ' ' || m.help || E'\n'
						 '# TYPE ' || pg_catalog.regexp_replace(m.name, '_bucket$', '') || ' ' || m.type || E'\n'
					ELSE '' END || m.name || cmek.metric_labels(m.labels) || ' ' || m.value || E'\n' AS line
			FROM (SELECT x.*, pg_catalog.row_number() OVER w AS i, pg_catalog.lag(x.name) OVER w AS previous
				  FROM cmek.metric x WINDOW w AS (ORDER BY x.n, x.labels)) m) t;
	END;
REVOKE ALL ON FUNCTION cmek.metrics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cmek.metrics() TO pg_monitor;
COMMENT ON FUNCTION cmek.metrics() IS
	'cmek: what there is to watch, in Prometheus'' text form';

-- ---------------------------------------------------------------------
-- AWS KMS
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.aws_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'cmek_aws_validator';
REVOKE ALL ON FUNCTION cmek.aws_validator(text[], oid) FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cmek_aws VALIDATOR cmek.aws_validator;
COMMENT ON FOREIGN DATA WRAPPER cmek_aws IS
	'cmek: KMS keys of AWS Key Management Service';

-- Whoever owns the extension hands the use of the wrapper on
GRANT USAGE ON FOREIGN DATA WRAPPER cmek_aws TO @extowner@ WITH GRANT OPTION;

-- ---------------------------------------------------------------------
-- Restoring snapshots
-- ---------------------------------------------------------------------

CREATE FUNCTION cmek.restore_snapshot(snapshot text, new_name text,
	key name DEFAULT NULL, force bool DEFAULT false) RETURNS SETOF text
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_restore_snapshot';
COMMENT ON FUNCTION cmek.restore_snapshot(text, text, name, bool) IS
	'cmek: a new table out of a snapshot; lists what could not be recreated';

-- ---------------------------------------------------------------------
-- Snapshots
-- ---------------------------------------------------------------------

-- The table may be gone, and its name may be another's by now
CREATE TABLE cmek.snapshot_record (
	id			uuid NOT NULL PRIMARY KEY,
	relid		oid NOT NULL,
	schema		name NOT NULL,
	name		name NOT NULL,
	owner		oid NOT NULL,
	reason		text NOT NULL,
	key			name NOT NULL,
	rows		int8 NOT NULL,
	bytes		int8 NOT NULL,		-- of the file
	digest		bytea NOT NULL,
	taken_at	timestamptz NOT NULL,
	expires_at	timestamptz,		-- null: when somebody drops it
	state		text NOT NULL,		-- kept, missing
	store		text NOT NULL,		-- the directory, or s3://
	file		text NOT NULL,
	created_by	name NOT NULL,
	expires_ms	int8				-- and not before, by cmek.run_clock
) USING heap;
REVOKE ALL ON cmek.snapshot_record FROM PUBLIC;

-- Files without a record
CREATE TABLE cmek.snapshot_removal (
	file		text NOT NULL,
	store		text NOT NULL,
	after_ms	int8 NOT NULL		-- they go then, by cmek.run_clock
) USING heap;
REVOKE ALL ON cmek.snapshot_removal FROM PUBLIC;

-- For how long servers of this database have run: jumps of the wall clock purge
-- nothing
CREATE TABLE cmek.run_clock (
	singleton	bool NOT NULL PRIMARY KEY CHECK (singleton),
	started		timestamptz NOT NULL,	-- the server that has written it,
	read_ms		int8 NOT NULL,			-- its clock then, which nobody can set
	total_ms	int8 NOT NULL
) USING heap;
REVOKE ALL ON cmek.run_clock FROM PUBLIC;

-- Tables of a lost key that could not be dropped, and when that was last told
CREATE TABLE cmek.drop_postponed (
	relid		oid NOT NULL PRIMARY KEY,
	at			timestamptz NOT NULL,
	reason		text NOT NULL
) USING heap;
REVOKE ALL ON cmek.drop_postponed FROM PUBLIC;

CREATE FUNCTION cmek.snapshot("table" regclass) RETURNS uuid
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_snapshot';
COMMENT ON FUNCTION cmek.snapshot(regclass) IS
	'cmek: takes a snapshot of a sealed table, with a backup key of its own';

CREATE FUNCTION cmek.drop_snapshot(id uuid) RETURNS void
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'cmek_drop_snapshot';
COMMENT ON FUNCTION cmek.drop_snapshot(uuid) IS
	'cmek: drops a snapshot; its file goes soon after the commit';

-- Snapshots of the caller's tables; all of them for members of pg_monitor
CREATE VIEW cmek.snapshots WITH (security_barrier) AS
	SELECT s.id, pg_catalog.quote_ident(s.schema::text) || '.' || pg_catalog.quote_ident(s.name::text) AS table_name,
		   s.reason, s.rows, s.bytes, s.taken_at, s.expires_at, s.key,
		   CASE WHEN s.expires_at <= pg_catalog.now() THEN 'expired' ELSE s.state END AS state
	FROM cmek.snapshot_record s
	WHERE pg_catalog.pg_has_role('pg_monitor', 'USAGE')
	   OR pg_catalog.pg_has_role(s.owner, 'USAGE');
GRANT SELECT ON cmek.snapshots TO PUBLIC;

CREATE VIEW cmek.snapshot_progress WITH (security_barrier) AS
	-- a table that is being restored has no name for others yet
	SELECT p.pid, nullif(p.relid, 0)::regclass AS "table", p.command AS phase, p.done AS bytes_done,
		   nullif(p.total, 0) AS bytes_total, p.started_at
	FROM cmek.progress_slots() p
	WHERE p.command LIKE 'snapshot,%' OR p.command LIKE 'restore,%';
GRANT SELECT ON cmek.snapshot_progress TO PUBLIC;
