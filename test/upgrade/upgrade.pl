# pg_upgrade 15 -> 17 -> 18 and 15 -> 18: the same rows under the same keys and
# bindings, nothing unsealed on the way, no KMS asked; then everything goes on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use File::Copy;
use CmekTest;

my $servers = $ENV{CMEK_SERVERS};
my $dir = PostgreSQL::Test::Utils::tempdir();
my %file = map { $_ => new_key_file("$dir/$_.key") } qw(a b gone);
my $marker = 'upgrade-marker-7f31c2';

# A server of one version that has cmek preloaded and was never started
sub new_node
{
	my ($name, $version) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => "$servers/$version");

	$node->init(extra => [ '--data-checksums', '--locale=C', '--encoding=UTF8' ]);
	cmek_config($node, 'autovacuum = off');
	return $node;
}

# ---------------------------------------------------------------------
# What a database may hold
# ---------------------------------------------------------------------

my $old = new_node('v15', 15);
$old->start;
is($old->safe_psql('postgres', 'SHOW server_version_num') =~ s/....$//r, '15', 'version 15');
$old->safe_psql('postgres', 'CREATE DATABASE second');
for my $db (qw(postgres second))
{
	$old->safe_psql($db, "CREATE EXTENSION cmek;
		CREATE SERVER a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{a}');
		CREATE SERVER \"B key\" FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{b}');
		CREATE SERVER gone FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{gone}');
		CREATE TABLE service (id int, t text) USING cmek_heap;
		INSERT INTO service SELECT i, " . with_marker($marker) . " || repeat(md5(i::text), i) FROM generate_series(1, 300) i;
		CREATE TABLE switched (id int, v varchar, t text, n numeric) USING cmek_heap WITH (cmek.key = 'a', fillfactor = 70);
		INSERT INTO switched SELECT i, 'v' || i, repeat('t', i * 20), i FROM generate_series(1, 300) i;
		ALTER TABLE switched DROP COLUMN v, ADD COLUMN d timestamptz DEFAULT '2026-01-01';
		ALTER TABLE switched SET (cmek.key = 'B key');
		CREATE TABLE rotated (id int, t text) USING cmek_heap WITH (cmek.key = 'a')");
	$old->safe_psql($db, "INSERT INTO rotated SELECT i, repeat('r', i * 30) FROM generate_series(1, 100) i;
		CALL cmek.rotate_data_key('rotated');
		INSERT INTO rotated SELECT i, repeat('s', i * 30) FROM generate_series(101, 200) i;
		CREATE TABLE parts (a int, t text) PARTITION BY RANGE (a);
		CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (100) USING cmek_heap WITH (cmek.key = 'B key');
		CREATE TABLE sealed_parts (a int, t text) PARTITION BY RANGE (a) USING cmek_heap WITH (cmek.key = 'a');
		CREATE TABLE sealed_parts1 PARTITION OF sealed_parts FOR VALUES FROM (0) TO (100);
		INSERT INTO parts SELECT i, 'p' || i FROM generate_series(0, 99) i;
		INSERT INTO sealed_parts TABLE parts;
		CREATE MATERIALIZED VIEW mv USING cmek_heap WITH (cmek.key = 'B key') AS TABLE switched;
		SET cmek.plaintext_indexes = on;
		CREATE TABLE keyed (id int PRIMARY KEY, t text UNIQUE) USING cmek_heap WITH (cmek.key = 'a');
		INSERT INTO keyed SELECT i, md5(i::text) FROM generate_series(1, 500) i;
		CREATE TABLE lost (t text) USING cmek_heap WITH (cmek.key = 'gone');
		INSERT INTO lost VALUES ('not here');
		CREATE TABLE suspended (t text) USING cmek_heap WITH (cmek.key = 'cmek_service_key');
		CREATE TABLE plain (t text);
		INSERT INTO plain VALUES (" . with_marker($marker) . ");
		SET cmek.default_key = 'none';
		CREATE TABLE unbound (a int) USING cmek_heap;
		CREATE ROLE ${db}_tenant;
		GRANT USAGE ON FOREIGN SERVER a TO ${db}_tenant;
		CREATE SCHEMA s AUTHORIZATION ${db}_tenant;
		SET ROLE ${db}_tenant;
		CREATE TABLE s.own (a int) USING cmek_heap WITH (cmek.key = 'a');
		INSERT INTO s.own VALUES (42);
		RESET ROLE;
		SELECT cmek.suspend_key('gone')");
}
$old->safe_psql('second', 'INSERT INTO keyed VALUES (1000, $$of second$$)');

my $rows = q{SELECT 'service', count(*), sum(hashtext(x::text)) FROM service x
	UNION ALL SELECT 'switched', count(*), sum(hashtext(x::text)) FROM switched x
	UNION ALL SELECT 'rotated', count(*), sum(hashtext(x::text)) FROM rotated x
	UNION ALL SELECT 'parts', count(*), sum(hashtext(x::text)) FROM parts x
	UNION ALL SELECT 'sealed_parts', count(*), sum(hashtext(x::text)) FROM sealed_parts x
	UNION ALL SELECT 'mv', count(*), sum(hashtext(x::text)) FROM mv x
	UNION ALL SELECT 'keyed', count(*), sum(hashtext(x::text)) FROM keyed x
	UNION ALL SELECT 's.own', count(*), sum(hashtext(x::text)) FROM s.own x
	UNION ALL SELECT 'plain', count(*), sum(hashtext(x::text)) FROM plain x};
# keys by all of their columns, bindings by label and by dependency
my $keys = q{SELECT md5(string_agg(x, ' ' ORDER BY x)) FROM
	(SELECT k::text FROM cmek.table_key k UNION ALL SELECT d::text FROM cmek.data_key d
	 UNION ALL SELECT s::text FROM cmek.suspended_key s UNION ALL SELECT last_value::text FROM cmek.data_key_id
	 UNION ALL SELECT s::text FROM cmek.data_key_seals s) x(x)};
my $bindings = q{SELECT b.relid::regclass, b.server, s.srvname, s.srvowner::regrole FROM cmek.bindings b
	LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = b.relid AND d.refclassid = 'pg_foreign_server'::regclass
	LEFT JOIN pg_foreign_server s ON s.oid = d.refobjid ORDER BY b.relid::regclass::text COLLATE "C", s.srvname};
my $members = q{SELECT string_agg(x, E'\n' ORDER BY x COLLATE "C") FROM (SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
	WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cmek') AND deptype = 'e') x(x)
	WHERE x !~ '^type'};
my %expected;
for my $db (qw(postgres second))
{
	$expected{$db} = { map { $_ => $old->safe_psql($db, $_) } $rows, $keys, $bindings, $members };
}
like($expected{postgres}{$bindings}, qr/^switched\|B key\|B key\|/m, 'bindings are recorded twice');
is(scalar(() = $expected{postgres}{$bindings} =~ /\|\|/g), 0, 'each of them');
$old->stop;
unlink($file{gone});

# ---------------------------------------------------------------------
# One upgrade
# ---------------------------------------------------------------------

# What pg_upgrade does not know of
sub bring_service_key
{
	my ($from, $to) = @_;
	my $target = service_key($to);

	mkdir($to->data_dir . '.cmek', 0700);
	umask(0077);
	copy(service_key($from), $target) or BAIL_OUT("could not copy the service key: $!");
	chmod(0600, $target);
	copy($from->data_dir . '/cmek_service_key.fingerprint', $to->data_dir . '/cmek_service_key.fingerprint')
	  or BAIL_OUT("could not copy the fingerprint: $!");
	return;
}

# The new version's own: of a mere name IPC::Run would run whichever version it
# has found first
sub pg_upgrade_args
{
	my ($from, $to, @options) = @_;

	return [
		$to->config_data('--bindir') . '/pg_upgrade', '--no-sync',
		'-d' => $from->data_dir, '-D' => $to->data_dir,
		'-b' => $from->config_data('--bindir'), '-B' => $to->config_data('--bindir'),
		'-s' => $to->host, '-p' => $from->port, '-P' => $to->port, @options ];
}

# A new node of a version that $from was upgraded to
sub upgrade
{
	my ($from, $name, $version, @options) = @_;
	my $to = new_node($name, $version);

	chdir($dir);
	$to->command_ok(pg_upgrade_args($from, $to, '--check'), "$name: pg_upgrade --check");
	$to->command_ok(pg_upgrade_args($from, $to, @options), "$name: pg_upgrade @options")
	  or diag(map { slurp_file($_) } glob($to->data_dir . '/pg_upgrade_output.d/*/log/*.{log,txt}'));
	ok(!-e service_key($to), "$name: it makes no service key");
	return $to;
}

# The same keys and bindings
sub is_as_before
{
	my ($node, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $db (qw(postgres second))
	{
		is($node->safe_psql($db, $keys), $expected{$db}{$keys}, "$name, $db: the key rows are the same");
		is($node->safe_psql($db, $bindings), $expected{$db}{$bindings}, "$name, $db: so are bindings and dependencies");
		is($node->safe_psql($db, $members), $expected{$db}{$members}, "$name, $db: and the members of the extension");
	}
	return;
}

# What must go on after an upgrade; changes the rows that later ones expect
sub goes_on
{
	my ($node, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $db (qw(postgres second))
	{
		is($node->safe_psql($db, $rows), $expected{$db}{$rows}, "$name, $db: the same rows");
		is($node->safe_psql($db, "SELECT count(*) FROM unnest('{service,switched,rotated,parts1,sealed_parts1,mv,keyed,s.own}'::regclass[]) t, cmek.verify(t)"),
			'0', "$name, $db: verify");
		fails_with($node, 'KM001', 'SELECT count(*) FROM lost', "$name, $db: a lost key is lost", $db);
		is($node->safe_psql($db, q{SELECT state FROM cmek.keys WHERE name = 'gone'}), 'suspended', "$name, $db: a suspended one suspended");
		isnt(sqlstate($node, 'INSERT INTO unbound VALUES (1)', $db), '', "$name, $db: an unbound table refuses rows");
		fails_with($node, '2BP01', 'DROP SERVER a', "$name, $db: a key in use cannot be dropped", $db);
		is($node->safe_psql($db, "SET enable_seqscan = off; SELECT id FROM keyed WHERE t = md5('77')"), '77', "$name, $db: an index");
		fails_with($node, '23505', 'SET cmek.plaintext_indexes = on; INSERT INTO keyed VALUES (7)', "$name, $db: a unique one", $db);

		# each kind of change, undone
		my $highest = $node->safe_psql($db, 'SELECT max(id) FROM cmek.data_key');
		is($node->safe_psql($db, "CREATE TABLE made (t text) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO made VALUES (repeat('m', 9000));
			SELECT (SELECT length(t) FROM made), (SELECT min(id) > $highest FROM cmek.data_key WHERE relid = 'made'::regclass); DROP TABLE made"),
			'9000|t', "$name, $db: a new table has data keys of its own");
		is($node->safe_psql($db, "UPDATE service SET t = t; INSERT INTO rotated VALUES (0, repeat('z', 9000)); DELETE FROM rotated WHERE id = 0;
			VACUUM FULL switched; REFRESH MATERIALIZED VIEW mv; VACUUM (FREEZE, ANALYZE); SELECT 1"), '1', "$name, $db: it writes");
	}
	$node->safe_psql('postgres', "CALL cmek.rotate_data_key('rotated')");
	$node->safe_psql('postgres', "CALL cmek.reseal('rotated')");
	$node->safe_psql('postgres', "CALL cmek.switch_key('a', 'B key')");
	$node->safe_psql('postgres', "CALL cmek.switch_key('B key', 'a')");
	$node->safe_psql('postgres', q{ALTER TABLE switched SET (cmek.key = 'B key')});
	$node->restart;
	for my $db (qw(postgres second))
	{
		is($node->safe_psql($db, $rows), $expected{$db}{$rows}, "$name, $db: still the same rows");
		$expected{$db}{$_} = $node->safe_psql($db, $_) for $keys, $bindings, $members;
	}
	return;
}

# ---------------------------------------------------------------------
# 15 -> 18 in one step, then 15 -> 17 -> 18
# ---------------------------------------------------------------------

# without preloading it ends with an advice
{
	my $bare = new_node('bare', 18);

	$bare->append_conf('postgresql.conf', "shared_preload_libraries = ''");
	chdir($dir);
	$bare->command_fails(pg_upgrade_args($old, $bare), 'cmek not preloaded: pg_upgrade stops');
	my $log = join('', map { slurp_file($_) } glob($bare->data_dir . '/pg_upgrade_output.d/*/log/*.log'));
	like($log, qr/cmek is not loaded\s+HINT:  Set shared_preload_libraries = 'cmek'/, 'and its log says what to set');
}

my %before = map { $_ => { %{ $expected{$_} } } } keys %expected;
my $direct = upgrade($old, 'v18direct', 18);
my @clear = files_with($direct->data_dir, $marker);
is_deeply([ grep { !m,^base/\d+/\d+$, } @clear ], [], 'no log and no WAL holds a row in clear');
is(scalar(@clear), 2, 'nor does a table but the plain one of each database');

# who forgets the service key is told so, and nothing is made in its place
$direct->start;
fails_with($direct, 'KM001', 'SELECT count(*) FROM service', 'forgotten: KM001');
fails_with($direct, 'KM001', 'CREATE TABLE early (a int) USING cmek_heap', 'forgotten: no table is made either', 'second');
ok(!-e service_key($direct), 'and no key');
is($direct->safe_psql('postgres', 'SELECT count(*) FROM keyed'), '500', 'other keys do not care');
$direct->stop;
bring_service_key($old, $direct);
$direct->start;
is_as_before($direct, '15 -> 18');
goes_on($direct, '15 -> 18');
$direct->stop;

%expected = %before;
my $middle = upgrade($old, 'v17', 17);
bring_service_key($old, $middle);
$middle->start;
is_as_before($middle, '15 -> 17');
goes_on($middle, '15 -> 17');
$middle->stop;

my $last = upgrade($middle, 'v18', 18, '--link');
bring_service_key($middle, $last);
$last->start;
is_as_before($last, '15 -> 17 -> 18 --link');
goes_on($last, '15 -> 17 -> 18 --link');
$last->stop;

done_testing();
