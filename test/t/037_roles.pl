# The role matrix: a database owner who is no superuser creates the extension
# and can do no more than before.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('roles', config => ['autovacuum = off']);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/admin.key");

$node->safe_psql('postgres', q{
	CREATE ROLE owner LOGIN; CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
	CREATE DATABASE app OWNER owner});

# Run as a role; the SQLSTATE
sub as
{
	my ($role, $sql) = @_;

	return sqlstate($node, "SET SESSION AUTHORIZATION $role;\n$sql", 'app');
}

sub value
{
	my ($role, $sql) = @_;
	my $out = $node->safe_psql('app', "SET SESSION AUTHORIZATION $role;\n$sql");

	return $out;
}

sub allowed { my ($role, $sql) = @_; is(as($role, $sql), '', "$role may: $sql"); return }
sub refused { my ($role, $sql, $state) = @_; is(as($role, $sql), $state || '42501', "$role may not: $sql"); return }

allowed('owner', 'CREATE EXTENSION cmek');
allowed('owner', 'CREATE SCHEMA o AUTHORIZATION owner');
$node->safe_psql('app', qq{
	CREATE SERVER admin FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE SERVER given FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	GRANT USAGE ON FOREIGN SERVER given TO alice;
	CREATE SCHEMA a AUTHORIZATION alice; CREATE SCHEMA b AUTHORIZATION bob;
	GRANT USAGE ON SCHEMA a TO PUBLIC});

# what belongs to the extension
for my $role (qw(owner alice))
{
	refused($role, $_)
	  for ('SELECT * FROM cmek.table_key', 'SELECT * FROM cmek.data_key', 'SELECT * FROM cmek.bindings',
		'DELETE FROM cmek.table_key', 'UPDATE cmek.data_key SET current = false',
		"SELECT nextval('cmek.data_key_id')", 'SELECT cmek.file_validator(ARRAY[]::text[], 0)',
		'CREATE TABLE cmek.planted (a int)', 'CREATE FUNCTION cmek.planted() RETURNS int LANGUAGE sql AS $$SELECT 1$$',
		'CREATE VIEW cmek.planted AS SELECT 1', 'DROP TABLE cmek.table_key', 'ALTER TABLE cmek.table_key ADD x int',
		'CREATE TRIGGER x BEFORE INSERT ON cmek.table_key FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
		'DROP FUNCTION cmek.heap_handler(internal)', 'ALTER SCHEMA cmek RENAME TO x', 'DROP VIEW cmek.keys',
		'GRANT ALL ON cmek.table_key TO PUBLIC',
		'CREATE OR REPLACE VIEW cmek.keys AS SELECT 1');
	refused($role, "CREATE SERVER mine FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '/etc/passwd')");
	refused($role, 'CREATE SERVER mine FOREIGN DATA WRAPPER cmek_file');
	refused($role, q{ALTER SERVER admin OPTIONS (SET key_file '/tmp/x')});
	refused($role, 'DROP SERVER cmek_service_key');
	refused($role, 'ALTER SERVER cmek_service_key OWNER TO CURRENT_USER');
	refused($role, 'ALTER FOREIGN DATA WRAPPER cmek_file NO VALIDATOR');
	refused($role, q{ALTER SYSTEM SET cmek.service_key_file = '/tmp/x'});
	refused($role, q{CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'admin')});
}

# settings: what would read a file, run a command or use the host's identity
for my $setting (q{cmek.service_key_file = '/tmp/x'}, q{cmek.service_key_command = 'id'},
	'cmek.kms_grace = 1000', 'cmek.key_cache_ttl = 1000', q{cmek.ambient_credentials = on},
	'cmek.allow_core_dumps = on')
{
	isnt(as('owner', "SET $setting"), '', "owner may not: SET $setting");
	isnt(as('alice', "SET $setting"), '', "alice may not: SET $setting");
	isnt(as('owner', "ALTER DATABASE app SET $setting"), '', "owner may not: ALTER DATABASE SET $setting");
}

# binding needs USAGE, and the table
allowed('alice', q{CREATE TABLE a.t (id int, t text) USING cmek_heap WITH (cmek.key = 'given');
	INSERT INTO a.t VALUES (1, 'alice')});
allowed('alice', q{CREATE TABLE a.own (id int) USING cmek_heap; INSERT INTO a.own VALUES (1)});
refused('alice', q{ALTER TABLE a.t SET (cmek.key = 'admin')});
refused('alice', q{SECURITY LABEL FOR cmek ON TABLE a.t IS 'key=admin'});
refused('alice', q{SET cmek.default_key = 'admin'; CREATE TABLE a.n (a int) USING cmek_heap});
refused('bob', q{CREATE TABLE b.t (a int) USING cmek_heap WITH (cmek.key = 'given')});
refused('bob', q{ALTER TABLE a.t SET (cmek.key = 'cmek_service_key')});
refused('bob', q{SECURITY LABEL FOR cmek ON TABLE a.t IS 'key=cmek_service_key'});
refused('owner', q{ALTER TABLE a.t SET (cmek.key = 'cmek_service_key')});
refused('bob', q{SELECT * FROM cmek.verify('a.t')});
refused('bob', 'SELECT * FROM a.t');
allowed('alice', q{SELECT * FROM cmek.verify('a.t')});
is(as('alice', q{SELECT cmek.label_key('key=given')}), '', 'label_key is for everybody');
isnt(as('alice', q{CREATE TABLE a.nokey (a int) USING cmek_heap WITH (cmek.key = 'no_such_key')}), '', 'an unknown key is an error');
is(value('alice', q{SELECT count(*) FROM pg_class WHERE relname IN ('n', 'nokey')}), '0', 'and leaves no table');

# readers need no USAGE: the table decides
allowed('alice', 'GRANT SELECT, INSERT ON a.t TO bob');
is(value('bob', 'SELECT t FROM a.t'), 'alice', 'a reader needs no USAGE on the key');
allowed('bob', q{INSERT INTO a.t VALUES (2, 'bob')});
allowed('bob', q{SELECT * FROM cmek.verify('a.t')});

# who sees what
is(value('alice', q{SELECT string_agg("table"::text, ',' ORDER BY "table"::text) FROM cmek.tables}), 'a.own,a.t', 'alice sees her tables');
is(value('bob', 'SELECT count(*) FROM cmek.tables'), '0', 'bob sees none');
is(value('owner', 'SELECT count(*) FROM cmek.tables'), '0', 'nor does the owner of the database');
is(value('alice', q{SELECT string_agg(name, ',' ORDER BY name) FROM cmek.keys}), 'cmek_service_key,given', 'alice sees keys she may use');
is(value('bob', q{SELECT string_agg(name, ',' ORDER BY name) FROM cmek.keys}), 'cmek_service_key', 'bob sees only the service key');
is(value('bob', 'SELECT count(*) FROM cmek.exposures WHERE "table" IS NOT NULL'), '0', 'bob sees no exposures of others');
is(value('bob', 'SELECT count(*) FROM cmek.verify_progress'), '0', 'nor progress of others');
is(value('bob', q{SELECT count(*) FROM cmek.server_state() WHERE NOT has_server_privilege(server, 'USAGE')}), '0',
	'nor the state of keys that are not his');

# no search_path and no planted operator gets into the extension's queries
allowed('alice', q{CREATE FUNCTION a.evil(name, name) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE 'planted'; END$$;
	CREATE OPERATOR a.= (LEFTARG = name, RIGHTARG = name, FUNCTION = a.evil)});
is($node->safe_psql('app', q{SET search_path = a, pg_catalog; SELECT count(*) OPERATOR(pg_catalog.>) 0 FROM cmek.keys}), 't', 'views do not follow search_path');

# GRANT is what decides, and only until it is taken back; what is bound stays
$node->safe_psql('app', 'REVOKE USAGE ON FOREIGN SERVER given FROM alice');
refused('alice', q{CREATE TABLE a.t3 (a int) USING cmek_heap WITH (cmek.key = 'given')});
is(value('alice', 'SELECT count(*) FROM a.t'), '2', 'a bound table stays readable');

# a server in use is not dropped, nor its identity changed
is(sqlstate($node, 'DROP SERVER given', 'app') =~ /^(2BP01|55006)$/, 1, 'DROP SERVER of a key in use is refused');
isnt(sqlstate($node, 'DROP SERVER given CASCADE', 'app'), '', 'CASCADE too');
isnt(sqlstate($node, q{ALTER SERVER given OPTIONS (SET key_file '/tmp/other')}, 'app'), '', 'its identity cannot be changed');
is(sqlstate($node, 'ALTER SERVER given RENAME TO renamed', 'app'), '', 'its name can');
is(value('alice', q{SELECT key FROM cmek.tables WHERE "table" = 'a.t'::regclass}), 'renamed', 'and the binding follows');
is(value('alice', 'SELECT count(*) FROM a.t'), '2', 'and rows are read');
allowed('alice', 'DROP TABLE a.t');
is(sqlstate($node, 'DROP SERVER renamed', 'app'), '', 'once nothing is bound it can be dropped');

# the owner made it, the owner may drop it, once nothing is sealed
isnt(as('owner', 'DROP EXTENSION cmek CASCADE'), '', 'not while a table is sealed');
$node->safe_psql('app', 'DROP TABLE a.own; DROP SERVER admin');

# A visitor at work has tables of the extension, and wants others: DROP EXTENSION
# waits for it before it has any, so neither waits for the other's
sub visitor_stops
{
	my ($point) = @_;

	$node->safe_psql('postgres', $point ? "ALTER SYSTEM SET cmek.stop_point = '$point'" : 'ALTER SYSTEM RESET cmek.stop_point');
	$node->reload;
	return;
}
sub locks { my ($which) = @_; return qq{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.database = a.datid AND $which} }
my $drop = q{a.query LIKE 'DROP EXTENSION cmek%'};
my $ours = q{relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'cmek'::regnamespace)};

my $logged = -s $node->logfile;
visitor_stops('events-written:wait');
$node->safe_psql('app', qq{CREATE SERVER brief FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file'); DROP SERVER brief});
$node->wait_for_log(qr/waiting at "events-written"/, $logged);
cmp_ok($node->safe_psql('app', locks("a.backend_type = 'cmek visitor' AND $ours")), '>', 1, 'a visitor has tables of the extension');
my $dropping = $node->background_psql('app', on_error_stop => 0);
$dropping->query_until(qr/begun/, "SET SESSION AUTHORIZATION owner;\n\\echo begun\nDROP EXTENSION cmek;\n");
ok($node->poll_query_until('app', locks("$drop AND NOT l.granted") =~ s/count\(\*\)/count(*) = 1/r), 'DROP EXTENSION waits for it');
is($node->safe_psql('app', locks("$drop AND $ours")), '0', '... and has none of its tables meanwhile');
visitor_stops();
$node->safe_psql('app', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'cmek visitor'});
$dropping->query_safe('SELECT 1');
$dropping->quit;
is($node->safe_psql('app', q{SELECT count(*) FROM pg_extension WHERE extname = 'cmek'}), '0', 'the owner drops the extension');

$node->stop;
done_testing();
