# The definition of a table as a manifest and a table out of it: everything
# comes back or is in the list of what did not, and a manifest that was changed
# is an error and never a statement.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('main', config => [ 'cmek.plaintext_indexes = on', 'cmek.plaintext_statistics = on' ]);
my $json = JSON::PP->new->canonical->utf8(0)->allow_nonref;

$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_manifest; CREATE EXTENSION citext');

# $$-quoted, for a manifest in a statement
sub quoted
{
	my ($text) = @_;

	return "\$manifest\$$text\$manifest\$";
}

sub manifest_of
{
	my ($table, $db) = @_;

	return $json->decode($node->safe_psql($db || 'postgres', "SELECT test_manifest('$table')"));
}

# Recreate; what was not recreated, or the error
sub recreate
{
	my ($manifest, $name, %options) = @_;
	my $text = ref $manifest ? $json->encode($manifest) : $manifest;
	my $sql = sprintf("SET client_min_messages = error; %s SELECT test_recreate(%s, '%s', '%s', %s)",
		$options{role} ? "SET ROLE $options{role};" : '', quoted($text),
		$options{schema} || 'public', $name, $options{rows} ? "'$options{rows}'" : 'NULL');

	utf8::downgrade($sql, 1);
	my ($status, $out, $err) = $node->psql($options{db} || 'postgres', $sql,
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return $status == 0 ? $out : $err;
}

# What \d and the catalogs say of a table, without its own name
sub description
{
	my ($table, $db) = @_;
	my $text = '';

	for my $query (
		"SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attstorage, a.attcompression, coalesce(a.attstattarget, -1), a.attoptions, l.collname, pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum), a.attacl FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
		"SELECT conname, contype, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conrelid = '$table'::regclass ORDER BY 1",
		"SELECT pg_get_indexdef(indexrelid), indisclustered, indisreplident, obj_description(indexrelid, 'pg_class') FROM pg_index WHERE indrelid = '$table'::regclass ORDER BY 1",
		"SELECT pg_get_statisticsobjdef(oid), stxstattarget, obj_description(oid, 'pg_statistic_ext') FROM pg_statistic_ext WHERE stxrelid = '$table'::regclass ORDER BY 1",
		"SELECT pg_get_triggerdef(oid), tgenabled, obj_description(oid, 'pg_trigger') FROM pg_trigger WHERE tgrelid = '$table'::regclass AND NOT tgisinternal ORDER BY 1",
		"SELECT policyname, permissive, roles, cmd, qual, with_check FROM pg_policies WHERE (schemaname || '.' || tablename)::regclass = '$table'::regclass ORDER BY 1",
		"SELECT pg_get_ruledef(oid), ev_enabled, obj_description(oid, 'pg_rewrite') FROM pg_rewrite WHERE ev_class = '$table'::regclass ORDER BY 1",
		"SELECT relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident, (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) o), pg_get_userbyid(relowner), (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a), obj_description(oid, 'pg_class') FROM pg_class WHERE oid = '$table'::regclass",
		"SELECT c.relname, s.*, pg_sequence_last_value(c.oid), obj_description(c.oid, 'pg_class') FROM pg_depend d JOIN pg_class c ON c.oid = d.objid JOIN pg_sequence s ON s.seqrelid = c.oid WHERE d.refobjid = '$table'::regclass ORDER BY 1")
	{
		my $part = $node->safe_psql($db || 'postgres', "SET search_path = pg_catalog; $query");
		# the server's own, like a transaction id
		$part =~ s/pg_attver=\d+,?//g;
		$part =~ s/,?\{\}//g;
		$text .= "$part\n--\n";
	}
	return $text;
}

# ---- Everything a table can have ----
$node->safe_psql('postgres', q{
	CREATE ROLE owner; CREATE ROLE reader; CREATE ROLE "odd ""role"; CREATE ROLE gone;
	GRANT CREATE ON SCHEMA public TO owner;
	GRANT USAGE ON FOREIGN SERVER cmek_service_key TO owner;
	CREATE SCHEMA "odd; schema"; GRANT ALL ON SCHEMA "odd; schema" TO owner;
	SET ROLE owner;
	CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
	CREATE FUNCTION tg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
	CREATE TABLE other (id int PRIMARY KEY);
	INSERT INTO other VALUES (1), (2), (3);
	CREATE TABLE log (n int);
	CREATE DOMAIN positive AS int CHECK (value > 0);
	CREATE TABLE t (
		gone1 int,
		id int GENERATED ALWAYS AS IDENTITY (INCREMENT 3 START 5),
		serial_no serial,
		name varchar(40) COLLATE "C" DEFAULT 'it''s; "x"' NOT NULL,
		amount numeric(12,3) DEFAULT 1.5 CONSTRAINT amount_check CHECK (amount > 0),
		gone2 text,
		twice int GENERATED ALWAYS AS (f(other_id)) STORED,
		other_id int REFERENCES other DEFERRABLE INITIALLY DEFERRED,
		parent int,
		c "char", b boolean, ts timestamptz DEFAULT '2020-01-01 00:00:00+00', iv interval(3),
		tags text[], point point, "Odd ""Name" citext, dom positive, range int4range,
		PRIMARY KEY (id) INCLUDE (name),
		CONSTRAINT uq UNIQUE NULLS NOT DISTINCT (serial_no, name) DEFERRABLE,
		CONSTRAINT ex EXCLUDE USING gist (range WITH &&),
		CONSTRAINT self FOREIGN KEY (parent) REFERENCES t (id),
		CONSTRAINT later CHECK (other_id < 1000) NOT VALID
	) WITH (fillfactor = 70, toast.autovacuum_enabled = off);
	ALTER TABLE t DROP COLUMN gone1;
	INSERT INTO t (name, amount, other_id, tags, c, b, point, "Odd ""Name", dom, iv, range)
		SELECT 'n' || i, i, i % 3 + 1, ARRAY[i::text, NULL, repeat('x', i)], 'c', i % 2 = 0, point(i, -i), 'O' || i, i, i * interval '1 hour', int4range(i, i + 1)
		FROM generate_series(1, 50) i;
	ALTER TABLE t DROP COLUMN gone2;
	ALTER TABLE t ADD new_int int DEFAULT 42, ADD new_text text DEFAULT 'early; rows', ADD new_array int[] DEFAULT '{1,2,NULL}', ADD new_num numeric DEFAULT 3.14159, ADD new_name name DEFAULT 'nm';
	ALTER TABLE t ALTER new_text DROP DEFAULT, ALTER new_int SET DEFAULT 43;
	INSERT INTO t (name, other_id, new_text) VALUES ('later', 2, NULL), ('later', 3, repeat('long', 1000));
	ALTER TABLE t ALTER name SET STATISTICS 77, ALTER amount SET (n_distinct = 12), ALTER new_text SET STORAGE EXTERNAL, ALTER tags SET COMPRESSION pglz;
	CREATE INDEX expr_idx ON t (lower(name) COLLATE "C" DESC NULLS LAST, f(other_id)) INCLUDE (amount) WITH (fillfactor = 60) WHERE amount > 1;
	ALTER INDEX expr_idx ALTER COLUMN 1 SET STATISTICS 55;
	CREATE UNIQUE INDEX replica_idx ON t (name, id); CREATE INDEX ON t USING hash (amount);
	ALTER TABLE t REPLICA IDENTITY USING INDEX replica_idx; ALTER TABLE t CLUSTER ON replica_idx;
	CREATE STATISTICS st (dependencies, mcv) ON amount, other_id FROM t; ALTER STATISTICS st SET STATISTICS 99;
	CREATE TRIGGER trig BEFORE INSERT OR UPDATE OF name ON t FOR EACH ROW WHEN (new.amount > 5) EXECUTE FUNCTION tg('a;b', 'c''d');
	CREATE CONSTRAINT TRIGGER ctrig AFTER INSERT ON t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION tg();
	ALTER TABLE t DISABLE TRIGGER ctrig; ALTER TABLE t ENABLE ALWAYS TRIGGER trig;
	CREATE RULE logged AS ON INSERT TO t WHERE new.amount > 100 DO ALSO (INSERT INTO log VALUES (1); INSERT INTO log VALUES (new.id));
	ALTER TABLE t ENABLE REPLICA RULE logged;
	CREATE POLICY own ON t FOR SELECT TO reader, "odd ""role" USING (name = current_user OR EXISTS (SELECT FROM other WHERE other.id = other_id));
	CREATE POLICY limited ON t AS RESTRICTIVE USING (true) WITH CHECK (amount < 1000);
	ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	GRANT SELECT, INSERT ON t TO reader; GRANT UPDATE (name) ON t TO "odd ""role" WITH GRANT OPTION; GRANT SELECT ON t TO PUBLIC;
	REVOKE TRIGGER ON t FROM owner; GRANT USAGE ON SEQUENCE t_serial_no_seq TO reader;
	COMMENT ON TABLE t IS 'the; table $x$'; COMMENT ON COLUMN t.name IS 'ä column'; COMMENT ON CONSTRAINT uq ON t IS 'uq''s';
	COMMENT ON INDEX expr_idx IS 'i'; COMMENT ON STATISTICS st IS 's'; COMMENT ON TRIGGER trig ON t IS 'g'; COMMENT ON RULE logged ON t IS 'r';
	COMMENT ON POLICY own ON t IS 'p'; COMMENT ON SEQUENCE t_serial_no_seq IS 'q';
	CREATE VIEW v AS SELECT id, name FROM t; CREATE VIEW vv AS SELECT * FROM v;
	CREATE TABLE refers (t_id int CONSTRAINT refers_fk REFERENCES t); CREATE FUNCTION of_row(t) RETURNS int LANGUAGE sql AS 'SELECT 1';
	RESET ROLE;
	CREATE PUBLICATION pub FOR TABLE t;
	ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT, DELETE ON TABLES TO gone;
});
my $full = manifest_of('t');
is(scalar @{ $full->{columns} }, 23, 'every column ever is in the manifest');
is(join(',', map { $_->{identity} } grep { $_->{kind} eq 'view' } @{ $full->{dependents} }), 'public.v,public.vv', 'views of views depend');
ok((grep { $_->{kind} eq 'table constraint' && $_->{definition} =~ /FOREIGN KEY \(t_id\) REFERENCES public\.t/ } @{ $full->{dependents} }), 'a foreign key of another table depends');
ok((grep { $_->{kind} eq 'function' } @{ $full->{dependents} }), 'and a function of the row type');
my $before = description('public.t');
my $rows = $node->safe_psql('postgres', 'SELECT * FROM t ORDER BY id');

# Beside the old one: other names where names are taken
is(recreate($full, 'copy', rows => 't', role => 'owner'), 'publication "pub": the table is not in it', 'a copy beside the table lacks its publication only');
is($node->safe_psql('postgres', 'SELECT * FROM copy ORDER BY id'), $rows, 'with every row');
is($node->safe_psql('postgres', "SELECT amname FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE relname = 'copy'"), 'cmek_heap', 'it is sealed');
is($node->safe_psql('postgres', "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'copy'::regclass AND conname = 'self'"), 'FOREIGN KEY (parent) REFERENCES copy(id)', 'a foreign key to itself is one to the copy');
like($node->safe_psql('postgres', "SELECT relacl FROM pg_class WHERE relname = 'copy'"), qr/^(?!.*gone)/, 'default privileges do not add to the recorded ones');
is($node->safe_psql('postgres', "SET row_security = off; SELECT count(*) FROM t"), 52, 'the table is as it was');
$node->safe_psql('postgres', 'DROP TABLE copy');

# In its own place: everything is the same
$node->safe_psql('postgres', 'ALTER TABLE t RENAME TO old; ALTER SCHEMA public RENAME TO kept; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO owner;
	ALTER TABLE kept.other SET SCHEMA public; ALTER TABLE kept.log SET SCHEMA public; ALTER FUNCTION kept.f(int) SET SCHEMA public; ALTER FUNCTION kept.tg() SET SCHEMA public;
	ALTER EXTENSION citext SET SCHEMA public; ALTER DOMAIN kept.positive SET SCHEMA public; ALTER EXTENSION cmek_test_manifest SET SCHEMA public');
my $lost = recreate($full, 't', rows => 'kept.old', role => 'owner');
like($lost, qr/^view public\.v: needed the table and was not recreated; it was:  SELECT (?:t\.)?id,/m, 'a lost view is in the list, with its query');
unlike($lost, qr/^(?!publication|view|table constraint|function|\s|;)\S.*:/m, 'only what cannot be is in the list') or diag($lost);
is($node->safe_psql('postgres', 'SELECT * FROM t ORDER BY id'), $rows, 'restored in its place: every row');
# sequences have numbers of their own in the catalogs, grants an order
my $after = description('public.t');
s/^(t_\w+_seq\|)\d+\|/$1/mg for $before, $after;
# b-trees of a sealed table are sealed by themselves
s/USING cmek_btree/USING btree/g for $before, $after;
is($after, $before, 'restored in its place: every property');
is($node->safe_psql('postgres', "INSERT INTO t (name, other_id) VALUES ('next', 1) RETURNING id, serial_no, twice, new_int"), "161|53|2|43", 'sequences, defaults and generated columns go on');
fails_with($node, '23505', "INSERT INTO t (id, name) OVERRIDING SYSTEM VALUE VALUES (5, 'x')", 'the primary key holds');
fails_with($node, '23514', "INSERT INTO t (name, amount) VALUES ('x', -1)", 'a check holds');
is($node->safe_psql('postgres', "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 't'::regclass"), 't', 'indexes are valid');

# A sequence that lags behind the rows, and one that counts down
$node->safe_psql('postgres', q{
	CREATE TABLE s (up bigint GENERATED BY DEFAULT AS IDENTITY, down int GENERATED ALWAYS AS IDENTITY (INCREMENT -1 MAXVALUE -1 MINVALUE -100), none smallserial);
	INSERT INTO s (up, down, none) OVERRIDING SYSTEM VALUE VALUES (1000, -50, DEFAULT)});
is(recreate(manifest_of('s'), 's2', rows => 's'), '', 'a table of sequences');
is($node->safe_psql('postgres', 'INSERT INTO s2 DEFAULT VALUES RETURNING *'), '1001|-51|2', 'a sequence is never behind the rows') or
  diag($node->safe_psql('postgres', 'SELECT * FROM pg_sequences'));

# Nothing can be made of it alone: NULLs, no columns, unlogged
$node->safe_psql('postgres', 'CREATE TABLE empty (); CREATE UNLOGGED TABLE u (a int); CREATE TABLE dropped (a int); ALTER TABLE dropped DROP a');
is(recreate(manifest_of($_), "$_.2" =~ s/\.//r, rows => $_), '', "table $_") for ('empty', 'u', 'dropped');
is($node->safe_psql('postgres', "SELECT relpersistence FROM pg_class WHERE relname = 'u2'"), 'u', 'an unlogged table stays one');

# ---- Another database: things that are not there ----
$node->safe_psql('postgres', 'CREATE DATABASE bare');
$node->safe_psql('bare', 'CREATE EXTENSION cmek; CREATE EXTENSION cmek_test_manifest; CREATE EXTENSION citext; CREATE DOMAIN positive AS int; CREATE TABLE plain (a int)');
my $there = $json->decode($json->encode($full));
$_->{grantee} = 'no_such_role' for grep { ($_->{grantee} || '') eq 'reader' } @{ $there->{table}{grants} };
$there->{table}{tablespace} = 'no_such_space';
my $missing = recreate($there, 't', db => 'bare');
like($missing, qr/^trigger "trig": function public\.tg\(\) does not exist/m, 'a missing function fails its trigger');
like($missing, qr/^index "expr_idx": function public\.f\(integer\) does not exist/m, 'and its index');
like($missing, qr/^constraint "t_other_id_fkey": relation "public\.other" does not exist/m, 'a missing table its foreign key');
like($missing, qr/^generation of column "twice": the column is an ordinary one now/m, 'a generated column becomes an ordinary one');
like($missing, qr/^policy "own": relation "public\.other" does not exist/m, 'a policy fails');
like($missing, qr/^permission SELECT on "t" for "public": not given, because row security is not what it was/m, 'and then nobody is let in');
like($missing, qr/^tablespace "no_such_space"/m, 'a missing tablespace is told');
is($node->safe_psql('bare', "SELECT relrowsecurity, relforcerowsecurity, relowner::regrole, relacl IS NOT NULL FROM pg_class WHERE relname = 't'"), 't|t|' . $node->safe_psql('bare', 'SELECT current_user') . '|t', 'row security is on all the same');
is($node->safe_psql('bare', "SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype IN ('p', 'u', 'x', 'c')"), 5, 'what does not need them is there');
$there->{policies} = [];
like(recreate($there, 't_open', db => 'bare'), qr/^permission SELECT on "t_open" for "no_such_role": role "no_such_role" does not exist$/m, 'a missing role fails its permission only');
like($node->safe_psql('bare', "SELECT relacl FROM pg_class WHERE relname = 't_open'"), qr/[{,]=r\//, 'others are given');

# ---- Types whose values hold OIDs ----
$node->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b mood); CREATE TYPE r AS RANGE (subtype = float8); CREATE DOMAIN moody AS mood;
	CREATE TABLE e1 (x int, m mood); CREATE TABLE e2 (m mood[]); CREATE TABLE e3 (p pair); CREATE TABLE e4 (r r); CREATE TABLE e5 (m moody); CREATE TABLE e6 (c citext[]); CREATE TABLE e7 (p positive[]);
	CREATE TABLE ok (a int[], r int4range[], mr int8multirange, c citext, p positive, rec regclass);
	INSERT INTO e1 VALUES (1, 'ok'); INSERT INTO e2 VALUES ('{ok,sad}'); INSERT INTO e3 VALUES ('(1,ok)'); INSERT INTO e4 VALUES ('[1,2)'); INSERT INTO e5 VALUES ('sad'); INSERT INTO e6 VALUES ('{a}'); INSERT INTO e7 VALUES ('{7}');
	INSERT INTO ok VALUES ('{1}', '{"[1,2)"}', '{[1,2)}', 'A', 5, 'pg_class')});
$node->safe_psql('bare', q{
	CREATE TYPE spacer AS ENUM ('x'); CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b mood); CREATE TYPE r AS RANGE (subtype = float8); CREATE DOMAIN moody AS mood});
my %oid_column = (e1 => 'm', e2 => 'm', e3 => 'p', e4 => 'r', e5 => 'm', e6 => 'c', e7 => 'p');
for my $table (sort keys %oid_column)
{
	my $manifest = manifest_of($table);

	is(recreate($manifest, "${table}_2", rows => $table), '', "$table: restored in its database");
	is($node->safe_psql('postgres', "SELECT * FROM ${table}_2"), $node->safe_psql('postgres', "SELECT * FROM $table"), "$table: with its values");
	like(recreate($manifest, $table, db => 'bare'), qr/42804: column "$oid_column{$table}" of the snapshot cannot be restored in this database/, "$table: refused in another database");
}
is(recreate(manifest_of('ok'), 'ok', db => 'bare'), '', 'types that mean the same are not refused');
my $mood = manifest_of('e1');
$node->safe_psql('postgres', "ALTER TYPE mood ADD VALUE 'better'");
is(recreate($mood, 'e1_more'), '', 'a label more is no harm');
$node->safe_psql('postgres', 'DROP TABLE e1, e2, e3, e5, e1_2, e1_more, e2_2, e3_2, e5_2; DROP TYPE mood CASCADE; CREATE TYPE mood AS ENUM (\'sad\', \'ok\')');
like(recreate($mood, 'e1_new'), qr/42804: column "m"/, 'a type of the same name that was made again is not the same');
{
	my $wrong = manifest_of('ok');
	$wrong->{columns}[3]{length} = 8;
	like(recreate($wrong, 'x'), qr/42804: column "c"/, 'a type of another size is refused');
	$wrong = manifest_of('ok');
	$wrong->{layout}{big_endian} = JSON::PP::true;
	like(recreate($wrong, 'x'), qr/0A000: .*stores rows in another way/, 'another byte order is refused');
}

# ---- Forged manifests ----
$node->safe_psql('postgres', q{
	CREATE TABLE victim (id int PRIMARY KEY, a text DEFAULT 'x', b int CHECK (b > 0));
	CREATE INDEX victim_idx ON victim (a); CREATE STATISTICS victim_st ON a, b FROM victim;
	CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END';
	CREATE TRIGGER victim_trig BEFORE INSERT ON victim FOR EACH ROW EXECUTE FUNCTION evil();
	CREATE POLICY victim_pol ON victim USING (b > 1); CREATE RULE victim_rule AS ON DELETE TO victim DO INSTEAD NOTHING;
	ALTER TABLE victim REPLICA IDENTITY FULL; COMMENT ON TABLE victim IS 'c'; GRANT SELECT ON victim TO reader; CREATE TABLE bait (a int)});
my $clean = $json->encode(manifest_of('victim'));
is(recreate($clean, 'good'), '', 'the unchanged manifest is fine');
$node->safe_psql('postgres', 'DROP TABLE good');
my $catalogs = "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_rewrite), (SELECT count(*) FROM pg_policy), (SELECT count(*) FROM pg_constraint), (SELECT array_agg(relacl::text) FROM pg_class WHERE relname IN ('victim', 'bait')), (SELECT count(*) FROM pg_attribute WHERE NOT attisdropped), (SELECT count(*) FROM pg_authid WHERE rolsuper)";
my $unchanged = $node->safe_psql('postgres', $catalogs);
my $bad_object = qr/its definition in the manifest is (?:not one|of another)|syntax error|unterminated quoted string|no rule for SELECT/;
my @forged = (
	[ indexes => definition => 'CREATE INDEX victim_idx ON public.victim USING btree (a); DROP TABLE bait', 'two statements' ],
	[ indexes => definition => 'CREATE INDEX victim_idx ON public.bait USING btree (a)', 'an index of another table' ],
	[ indexes => definition => 'CREATE INDEX victim_idx ON other.victim USING btree (a)', 'of another schema' ],
	[ indexes => definition => 'DROP TABLE bait', 'another statement' ],
	[ indexes => definition => '', 'nothing' ],
	[ indexes => definition => "CREATE INDEX victim_idx ON victim USING btree ((a'", 'no statement' ],
	[ triggers => definition => 'CREATE TRIGGER victim_trig BEFORE INSERT ON public.bait FOR EACH ROW EXECUTE FUNCTION evil()', 'a trigger of another table' ],
	[ triggers => definition => 'CREATE TRIGGER victim_trig BEFORE INSERT ON public.victim FOR EACH ROW EXECUTE FUNCTION evil(); DROP TABLE bait', 'two statements' ],
	[ rules => definition => 'CREATE RULE victim_rule AS ON DELETE TO bait DO INSTEAD NOTHING', 'a rule of another table' ],
	[ rules => definition => 'CREATE RULE "_RETURN" AS ON SELECT TO victim DO INSTEAD SELECT * FROM bait', 'a rule for SELECT' ],
	[ statistics => definition => 'CREATE STATISTICS victim_st ON a, b FROM bait', 'statistics of another table' ],
	[ statistics => definition => 'CREATE STATISTICS victim_st ON victim.a, bait.a FROM victim, bait', 'of two tables' ],
	[ constraints => definition => 'CHECK (b > 0), DROP COLUMN a', 'two commands' ],
	[ constraints => definition => 'CHECK (b > 0); DROP TABLE bait', 'two statements' ],
	[ constraints => definition => 'CHECK (b > 0), OWNER TO reader', 'another owner' ],
	[ constraints => definition => 'UNIQUE USING INDEX bait_idx', 'an index that is there' ],
	[ constraints => definition => 'FOREIGN KEY (b) REFERENCES other', 'a constraint of another kind' ],
	[ policies => using => 'true; DROP TABLE bait', 'an expression with a semicolon' ],
	[ policies => using => 'true FROM bait', 'an expression with a FROM' ],
	[ policies => using => 'true, false', 'two expressions' ],
	[ policies => using => 'b > 1 UNION SELECT true', 'an expression with a UNION' ],
	[ policies => check => 'true AS x', 'an expression with a name' ],
	[ policies => check => '1) OR (SELECT 1', 'parentheses that do not match' ]);
for my $case (@forged)
{
	my ($section, $member, $text, $what) = @$case;
	my $forged = $json->decode($clean);

	$_->{$member} = $text for @{ $forged->{$section} };
	like(recreate($forged, 'forged'), $bad_object, "$section: $what");
	is($node->safe_psql('postgres', "SELECT count(*) FROM bait"), 0, 'nothing was run');
	is($node->safe_psql('postgres', "DROP TABLE IF EXISTS forged; $catalogs"), $unchanged, 'nothing else was made');
}
for my $text ('1; DROP TABLE bait', "1); DROP TABLE bait; --", '1 FROM bait', "'", '*', '(SELECT evil())')
{
	my $forged = $json->decode($clean);

	$forged->{columns}[1]{default} = $text;
	like(recreate($forged, 'forged'), qr/^default of column "a": /m, "default: $text");
	is($node->safe_psql('postgres', "DROP TABLE IF EXISTS forged; $catalogs"), $unchanged, 'nothing else was made');
}
for my $text ('int; DROP TABLE bait', 'int) USING heap; --', 'setof int', 'bait.a%TYPE', 'nosuchtype', '', "'")
{
	my $forged = $json->decode($clean);

	$forged->{columns}[2]{type} = $text;
	like(recreate($forged, 'forged'), qr/ERROR:  (?:42601|42704|42804|42P01|XX001)/, "type: $text");
	is($node->safe_psql('postgres', $catalogs), $unchanged, 'nothing was made');
}

# Names with everything in them are names
{
	my $odd = $json->decode($clean);
	my $name = q{x"; DROP TABLE bait; --'$manifest};

	$odd->{$_}[0]{name} = $name for ('indexes', 'triggers', 'policies', 'rules', 'statistics');
	$odd->{columns}[1]{comment} = "'); DROP TABLE bait; --";
	is(recreate($odd, q{odd"; DROP TABLE bait; --}, schema => 'odd; schema'), '', 'names with quotes');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM bait; SELECT count(*) FROM pg_trigger WHERE tgrelid = '"odd; schema"."odd""; DROP TABLE bait; --"'::regclass AND tgname = 'x"; DROP TABLE bait; --''$manifest'}), "0\n1", 'are names');
	$node->safe_psql('postgres', 'DROP TABLE "odd; schema"."odd""; DROP TABLE bait; --"');
}

# Every member of a wrong type, and missing: an error before anything is done
my ($tried, @accepted) = (0);
sub spoil
{
	my ($value, $path, $whole, $seen) = @_;

	return if ref $value eq 'ARRAY' && !@$value;
	if (ref $value eq 'ARRAY')
	{
		spoil($value->[0], "$path\[0]", $whole, $seen) if ref $value->[0];
		return;
	}
	for my $member (sort keys %$value)
	{
		next if "$path.$member" eq '.keys' || $seen->{ ("$path.$member" =~ s/\[0\]//gr) }++;
		my $kept = $value->{$member};
		my @wrong = ref $kept eq 'ARRAY' ? ({}, 'x', [ 1 ]) : ref $kept eq 'HASH' ? ([], 1)
		  : JSON::PP::is_bool($kept) ? (1, 'true', undef) : !defined $kept ? (JSON::PP::true, {}, [ [] ])
		  : $kept =~ /^-?\d+$/ && $json->encode($kept) !~ /"/ ? ("$kept x", undef, [ 1 ])
		  : (JSON::PP::true, 17, [ 'x' ], { a => 1 }, ("long" x 20) x ("$path.$member" =~ /name$|kind$|align$/ && $path !~ /types/));

		for my $wrong (@wrong, 'missing')
		{
			if (!ref $wrong && defined $wrong && $wrong eq 'missing') { delete $value->{$member} }
			else { $value->{$member} = $wrong }
			push @spoilt::cases, [ "$path.$member", $json->encode($whole) ];
		}
		$value->{$member} = $kept;
		spoil($kept, "$path.$member", $whole, $seen) if ref $kept && !JSON::PP::is_bool($kept);
	}
	return;
}
{
	my $whole = $json->decode($clean);
	spoil($whole, '', $whole, {});
	# all in one session, each in a block that tells what came of it
	my $sql = 'SET client_min_messages = notice;';
	for my $case (@spoilt::cases)
	{
		$sql .= "DO \$do\$ BEGIN PERFORM test_recreate(" . quoted($case->[1]) . ", 'public', 'spoilt', NULL); RAISE NOTICE 'accepted: $case->[0]'; "
		  . "EXCEPTION WHEN data_corrupted THEN RAISE NOTICE 'refused: %', SQLERRM; WHEN OTHERS THEN RAISE NOTICE 'other: $case->[0]: %', SQLERRM; END \$do\$;\n";
	}
	my ($status, undef, $err) = $node->psql('postgres', $sql);
	is($status, 0, 'the server stands spoilt manifests');
	my $refused = () = $err =~ /refused: the manifest of the snapshot is damaged or forged/g;
	is($refused, scalar @spoilt::cases, "all of $refused are refused as forged") or
	  diag(join("\n", grep { /accepted:|other:/ } split(/\n/, $err)));
	cmp_ok($refused, '>', 250, 'there were many');
	is($node->safe_psql('postgres', $catalogs), $unchanged, 'nothing was made');
}

# What a manifest cannot have: values that are no values
for my $case ([ missing => 'xyz' ], [ missing => 'ff' ], [ missing => 'ffffffff' x 3 ], [ align => 'q' ], [ align => '' ], [ length => -3 ], [ length => 9000 ], [ length => 3 ])
{
	my $forged = $json->decode($clean);

	$forged->{columns}[2]{ $case->[0] } = $case->[1];
	like(recreate($forged, 'forged'), qr/XX001: the manifest of the snapshot is damaged or forged/, "column: $case->[0] $case->[1]");
}
{
	my $forged = $json->decode($clean);

	$forged->{version} = 2;
	like(recreate($forged, 'forged'), qr/0A000: manifests of version 2 cannot be read/, 'a later version');
	$forged->{version} = 1;
	$forged->{columns} = [ ($forged->{columns}[0]) x 2000 ];
	like(recreate($forged, 'forged'), qr/XX001|54011/, 'too many columns');
	like(recreate($clean, 'victim'), qr/42P07: relation "victim" already exists/, 'a name that is taken');
	like(recreate($clean, 'x', schema => 'pg_temp'), qr/42P16|3F000/, 'no temporary table');
	like(recreate($clean, 'x', schema => 'nosuch'), qr/3F000: schema "nosuch" does not exist/, 'no schema');
}

# Code of the table's runs as the new owner, and cannot become anybody else
$node->safe_psql('postgres', q{
	CREATE FUNCTION who() RETURNS text LANGUAGE plpgsql AS $$BEGIN EXECUTE 'RESET ROLE'; RETURN current_user; END$$;
	CREATE TABLE whose (id int); INSERT INTO whose VALUES (1)});
{
	my $forged = manifest_of('whose');

	$forged->{constraints} = [ { name => 'c', kind => 'c', definition => 'CHECK ((public.who() = current_user))', column => undef,
			self => JSON::PP::false, tablespace => undef, clustered => JSON::PP::false, replica_identity => JSON::PP::false, comment => undef } ];
	like(recreate($forged, 'restored', rows => 'whose'), qr/^constraint "c": cannot set parameter "role" within security-restricted operation/m, 'code cannot change the role');
}

# A long transaction sees columns that were added since it began
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
$node->safe_psql('postgres', 'CREATE TABLE since (a int); ALTER TABLE victim ADD since int');
like($session->query_safe("SELECT test_manifest('victim')"), qr/"name": "since"/, 'a manifest is of now, whatever the transaction sees');
$session->quit;

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|server process .* was terminated/, 'no crash');
$node->stop;
done_testing();
