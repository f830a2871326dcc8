# Replica keys: a table key wrapped by several KMS keys of different providers.
# Which of them opens the table, what becomes of it when one is away, what the
# first key alone decides; changes of the set, privileges, dumps, partitions.
#
# eu is a key of Vault, us one of Azure (stubs), ap and xx are files.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekStub;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = cmek_node('replicas', config => [ 'autovacuum = off', "cmek.kms_timeout = '1500ms'", "cmek.kms_grace = '0'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub fails { return fails_with($node, @_) }

# ---- four KMS keys ----
my $vault = start_stub('vault');
my $rights = { 'transit/encrypt/k' => ['update'], 'transit/decrypt/k' => ['update'], 'transit/keys/k' => ['read'] };
$vault->tell('key', name => 'k');
$vault->tell('token', id => 's.db', rights => $rights);
my $azure = start_stub('azure');
$azure->tell('key', name => 'k');
$azure->tell('app', tenant => 't', client => 'c', secret => 's');
$azure->tell('grant', who => 'c', key => 'k');
my ($ap, $xx) = map { new_key_file("$dir/$_") } qw(ap xx);
sql(qq{CREATE SERVER eu FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}', key 'k');
	CREATE USER MAPPING FOR PUBLIC SERVER eu OPTIONS (token 's.db');
	CREATE SERVER us FOREIGN DATA WRAPPER cmek_azure OPTIONS (key_id 'https://v.vault.azure.net/keys/k',
		endpoint '@{[$azure->url]}', authority '@{[$azure->url]}');
	CREATE USER MAPPING FOR PUBLIC SERVER us OPTIONS (tenant_id 't', client_id 'c', client_secret 's');
	CREATE SERVER ap FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$ap');
	CREATE SERVER xx FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$xx')});

sub eu_unreachable { $vault->tell('fault', path => 'transit', kind => 'status', status => 503, times => 0); return }
sub eu_answers { $vault->tell('clear'); return }
sub eu_denied { $vault->tell('rights', id => 's.db', rights => {}); return }
sub eu_allowed { $vault->tell('rights', id => 's.db', rights => $rights); return }
sub us_enabled { $azure->tell('state', name => 'k', enabled => $_[0] ? JSON::PP::true : JSON::PP::false); return }

# Which KMS keys have wrapped the newest key of a table
sub wrapped
{
	my ($table) = @_;

	return sql(qq{SELECT k.server || coalesce(': ' || string_agg(r.server, ' ' ORDER BY r.server::text COLLATE "C"), '')
		FROM cmek.table_key k LEFT JOIN cmek.table_key_replica r ON r.table_key = k.id
		WHERE k.relid = '$table'::regclass AND k.version = (SELECT max(version) FROM cmek.table_key WHERE relid = k.relid)
		GROUP BY k.server});
}
sub label { return sql("SELECT label FROM pg_seclabels WHERE provider = 'cmek' AND objoid = '$_[0]'::regclass") }
sub servers
{
	return sql(qq{SELECT string_agg(s.srvname, ' ' ORDER BY s.srvname::text COLLATE "C") FROM pg_depend d
		JOIN pg_foreign_server s ON s.oid = d.refobjid AND d.refclassid = 'pg_foreign_server'::regclass
		WHERE d.objid = '$_[0]'::regclass});
}

# Prefer these keys from now on, and open everything anew
sub local_keys
{
	my ($names) = @_;

	$node->append_conf('postgresql.conf', "cmek.local_keys = '$names'");
	$node->restart;
	is(sql('SHOW cmek.local_keys'), $names, 'set');
	return;
}
my $read = 'SELECT count(*), sum(hashtext(b)) FROM t';

# ---- a table under three ----
sql(q{CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'eu', cmek.replica_keys = 'us, ap');
	INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 500) i;
	CREATE TABLE alone (a int) USING cmek_heap WITH (cmek.key = 'eu'); INSERT INTO alone VALUES (1)});
my $rows = sql($read);
is(wrapped('t'), 'eu: ap us', 'one table key, wrapped by three KMS keys');
is(label('t'), 'key=eu;replica_keys=us,ap', 'the label names them');
is(servers('t'), 'ap eu us', 'so do dependencies');
is(sql("SELECT key, replica_keys FROM cmek.tables WHERE \"table\" = 't'::regclass"), 'eu|{us,ap}', 'and cmek.tables');
is(sql("SELECT replica_keys IS NULL FROM cmek.tables WHERE \"table\" = 'alone'::regclass"), 't', '... where there are any');
is(sql('SELECT count(DISTINCT id) FROM (SELECT id FROM cmek.table_key UNION ALL SELECT id FROM cmek.table_key_replica) x'), 4,
	'each wrapping has a uuid of its own');

# ---- which one opens it ----
eu_unreachable();
local_keys('us');
is(sql($read), $rows, 'eu does not answer: read by us, which is local');
fails('KM001', 'SELECT * FROM alone', '... the control, under eu alone, is not');
local_keys('');
is(sql($read), $rows, 'no key is local: the first does not answer, the next one does');
us_enabled(0);
local_keys('us, ap');
is(sql($read), $rows, 'us denies: on to ap');
hide_key($ap);
$node->restart;
my $text = error_text($node, $read);
like($text, qr/KM001: +KMS key "eu" of table "t"/, 'none is left: KM001, and it names the first');
like($text, qr/(HTTP503|Timeout) \(unreachable\)/, '... with what that said');
eu_answers();
ok(wait_for_ok($node, $read), 'eu answers: back, though us and ap deny');
show_key($ap);
us_enabled(1);

# what writes needs no more than one of them
eu_unreachable();
local_keys('us');
is(sqlstate($node, q{INSERT INTO t VALUES (501, 'x'); DELETE FROM t WHERE a = 501; CREATE INDEX ti ON t (a);
	CALL cmek.rotate_data_key('t'); VACUUM t}), '', 'writes, a new index, a new data key: by us');
is(sql('SELECT count(*) FROM t WHERE a < 100'), 99, '... and read again');
eu_answers();

# ---- the first key alone decides ----
local_keys('us');
is(sql($read), $rows, 'us is local');
eu_denied();
ok(wait_for_error($node, 'KM001', $read), 'eu denies: KM001, whatever us says');
like(error_text($node, $read), qr/PermissionDenied \(denied\)/, '... a denial');
$node->restart;
ok(wait_for_error($node, 'KM001', $read), '... also after a restart');
ok($node->poll_query_until('postgres', "SELECT class = 'denied' AND denied_ms > 0 FROM cmek.key_watch WHERE server = 'eu'"),
	'... and it is on record');
eu_unreachable();
ok($node->poll_query_until('postgres', "SELECT class = 'unreachable' FROM cmek.key_watch WHERE server = 'eu'"), 'then eu does not answer');
fails('KM001', $read, '... which undoes no denial');
$node->restart;
fails('KM001', $read, '... nor does a restart');
eu_allowed();
eu_answers();
ok(wait_for_ok($node, $read), 'eu allows it again: back');
sql("SELECT cmek.suspend_key('eu')");
fails('KM001', $read, 'eu suspended: KM001 at once');
like(error_text($node, $read), qr/Suspended/, '... and it says why');
sql("SELECT cmek.resume_key('eu')");
is(sql($read), $rows, 'resumed: back');
sql("SELECT cmek.suspend_key('us')");
is(sql($read), $rows, 'us suspended: another opens it');
sql("SELECT cmek.resume_key('us')");

# a scan that runs is cut, though it was opened by another key
eu_unreachable();
local_keys('us');
my $psql = "PGHOST=@{[$node->host]} PGPORT=@{[$node->port]} psql -XAtq -d postgres";
$text = error_text($node, "BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; FETCH 1 FROM c;\n\\! $psql -c \"SELECT cmek.suspend_key('eu')\"\nFETCH ALL FROM c; COMMIT;");
like($text, qr/KM001/, 'eu suspended: a running scan by us is cut');
sql("SELECT cmek.resume_key('eu')");
eu_answers();
ok(wait_for_ok($node, $read), 'resumed');

# ---- another set ----
sql("ALTER TABLE t SET (cmek.replica_keys = 'xx, us')");
is(wrapped('t') . '; ' . label('t') . '; ' . servers('t'), 'eu: us xx; key=eu;replica_keys=xx,us; eu us xx', 'SET (cmek.replica_keys)');
is(sql('SELECT count(*) FROM cmek.table_key WHERE relid = \'t\'::regclass'), 1, '... makes no new table key');
sql("BEGIN; ALTER TABLE t RESET (cmek.replica_keys); ROLLBACK");
is(wrapped('t'), 'eu: us xx', '... rolled back');
us_enabled(0);
fails('KM001', "ALTER TABLE alone SET (cmek.replica_keys = 'ap, us')", 'a replica that cannot be proved: refused');
is(wrapped('alone') . label('alone'), 'eukey=eu', '... and nothing was changed');
sql("ALTER TABLE t RESET (cmek.replica_keys)");
is(wrapped('t') . '; ' . label('t') . '; ' . servers('t'), 'eu; key=eu; eu', 'RESET needs no replica');
us_enabled(1);
sql("ALTER TABLE t SET (cmek.replica_keys = 'us, ap')");
sql("ALTER TABLE t SET (cmek.key = 'us')");
is(wrapped('t') . '; ' . label('t') . '; ' . servers('t'), 'us: ap; key=us;replica_keys=ap; ap us', 'a replica becomes the first');
is(sql($read), $rows, '... readable');
sql("ALTER TABLE t SET (cmek.key = 'eu', cmek.replica_keys = 'us, ap')");
is(wrapped('t'), 'eu: ap us', 'both at once');
sql("CALL cmek.rotate_table_key('t')");
is(wrapped('t'), 'eu: ap us', 'a new table key is wrapped by all');
is(sql("SELECT count(*) FROM cmek.table_key_replica WHERE relid = 't'::regclass"), 2, '... and no old replica is left');
eu_unreachable();
local_keys('us');
is(sql($read), $rows, '... and opens by each');
local_keys('ap');
is(sql($read), $rows, '... indeed');
eu_answers();
sql("CALL cmek.switch_key('ap', 'xx')");
is(wrapped('t') . '; ' . label('t'), 'eu: us xx; key=eu;replica_keys=us,xx', 'switch_key of a replica');
sql("CALL cmek.switch_key('eu', 'xx')");
is(wrapped('t') . '; ' . label('t') . '; ' . wrapped('alone'), 'xx: us; key=xx;replica_keys=us; xx', 'switch_key to a replica');
sql("CALL cmek.switch_key('xx', 'eu')");
sql("ALTER TABLE t SET (cmek.replica_keys = 'us, ap')");
sql('ALTER SERVER us RENAME TO "U S"');
is(wrapped('t') . '; ' . label('t'), 'eu: U S ap; key=eu;replica_keys="U S",ap', 'RENAME of a replica');
is(sql("SELECT replica_keys FROM cmek.tables WHERE \"table\" = 't'::regclass"), '{"U S",ap}', '... in the view');
sql('ALTER SERVER "U S" RENAME TO us');
is(sql($read), $rows, 'readable after all of it');
ok($node->poll_query_until('postgres', "SELECT string_agg(DISTINCT detail, '; ') = 'replica keys: us, xx; replica keys: xx, us'
	FROM cmek.key_events WHERE event = 'replicas' AND outcome = 'done' AND detail LIKE '%xx%'"), 'the audit trail has the changes');

# ---- what is refused ----
fails('22023', "ALTER TABLE t SET (cmek.replica_keys = 'us, eu')", 'the first key again');
fails('22023', "ALTER TABLE t SET (cmek.replica_keys = 'us, us')", 'a replica twice');
fails('22023', "ALTER TABLE t SET (cmek.replica_keys = 'us,,')", 'no list');
fails('42704', "ALTER TABLE t SET (cmek.replica_keys = 'nobody')", 'no such key');
fails('2BP01', 'DROP SERVER us', 'a replica in use is not dropped');
fails('2BP01', 'DROP SERVER us CASCADE', '... nor does it take a table along');
fails('2BP01', "ALTER SERVER ap OPTIONS (SET key_file '$xx')", '... nor becomes another key');
fails('22023', "CREATE TABLE n (a int) USING cmek_heap WITH (cmek.key = 'none', cmek.replica_keys = 'us')", 'replicas without a key');
fails('42809', "CREATE TABLE n (a int) USING heap WITH (cmek.replica_keys = 'us')", 'replicas of a plain table');
fails('22023', "SECURITY LABEL FOR cmek ON TABLE t IS '$_'", "no label: $_")
  for ('key=eu;replica_keys=', 'key=eu;replica=us', 'key=eu,us', 'key=eu;replica_keys=us;replica_keys=ap');
sql("CREATE ROLE owner; GRANT ALL ON SCHEMA public TO owner; GRANT USAGE ON FOREIGN SERVER eu TO owner");
fails('42501', "SET ROLE owner; CREATE TABLE o (a int) USING cmek_heap WITH (cmek.key = 'eu', cmek.replica_keys = 'ap')", 'USAGE is needed on each');
sql("GRANT USAGE ON FOREIGN SERVER ap TO owner");
is(sqlstate($node, "SET ROLE owner; CREATE TABLE o (a int) USING cmek_heap WITH (cmek.key = 'eu', cmek.replica_keys = 'ap'); INSERT INTO o VALUES (1)"), '', '... with it: allowed');

# ---- tampering ----
sql("CREATE TABLE u (a int) USING cmek_heap WITH (cmek.key = 'eu', cmek.replica_keys = 'ap'); INSERT INTO u VALUES (1)");
sql("UPDATE cmek.table_key_replica SET blob = (SELECT blob FROM cmek.table_key_replica WHERE relid = 'o'::regclass) WHERE relid = 'u'::regclass");
eu_unreachable();
local_keys('ap');
fails('KM001', 'SELECT * FROM u', 'the replica of another table opens nothing');
is(sqlstate($node, 'SELECT * FROM o'), '', '... where it belongs, it does');
eu_answers();
ok(wait_for_ok($node, 'SELECT * FROM u'), '... and the first key goes on opening it');
# what somebody put there who may use ap: it opens, and is another key
sql("ALTER TABLE u RESET (cmek.replica_keys)");
sql("UPDATE cmek.table_key_replica SET relid = 'u'::regclass, table_key = (SELECT id FROM cmek.table_key WHERE relid = 'u'::regclass) WHERE relid = 'o'::regclass");
# while the record says that the first key was denied, no replica is tried
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM cmek.key_watch WHERE server = 'eu' AND (class = 'denied' OR denied_ms > 0)}),
	'the first key is known to be back');
local_keys('ap');
fails('XX001', 'SELECT * FROM u', 'a wrapping of another key: its data keys do not open');
fails('XX001', "CALL cmek.rotate_data_key('u')", '... and nothing comes under it');
sql("DELETE FROM cmek.table_key_replica WHERE relid = 'u'::regclass");
$node->restart;
is(sql('SELECT * FROM u'), 1, 'without it: readable');

# ---- partitions ----
sql(q{CREATE TABLE p (a int) PARTITION BY LIST (a) WITH (cmek.key = 'eu', cmek.replica_keys = 'ap');
	CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); INSERT INTO p VALUES (1)});
is(wrapped('p1') . '; ' . servers('p'), 'eu: ap; ap eu', 'a partition has the replicas of its table');
sql("ALTER TABLE p SET (cmek.replica_keys = 'us')");
is(wrapped('p1') . '; ' . label('p'), 'eu: us; key=eu;replica_keys=us', 'ALTER goes down');
sql("CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) WITH (cmek.key = 'ap')");
is(wrapped('p2'), 'ap', 'a partition with a key of its own has none but its own');

# ---- dump and restore, a clone with older keys ----
$node->command_ok([ 'pg_dump', '-f', "$dir/dump", '-d', $node->connstr('postgres'), '-t', 't', '-t', 'p', '-t', 'p1', '-t', 'p2' ], 'pg_dump');
like(slurp_file("$dir/dump"), qr/SECURITY LABEL FOR cmek ON TABLE public.t IS 'key=eu;replica_keys=us,ap'/, 'the dump has the replicas');
sql('CREATE DATABASE clone TEMPLATE postgres');
sql("CALL cmek.rotate_table_key('t')");
my $export = sql("SELECT cmek.export_keys()");
is($node->safe_psql('clone', "SELECT cmek.import_keys('$export')"), 1, 'newer keys come to a clone');
is($node->safe_psql('clone', "SELECT count(*) FROM cmek.table_key_replica r JOIN cmek.table_key k ON k.id = r.table_key
	WHERE k.relid = 't'::regclass AND version = (SELECT max(version) FROM cmek.table_key WHERE relid = 't'::regclass)"), 2, '... and are wrapped by its replica keys');
is($node->safe_psql('clone', $read), $rows, '... readable');
$node->safe_psql('clone', 'DROP TABLE t, p');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-c', "SET cmek.default_key = 'none'", '-f', "$dir/dump", '-d', $node->connstr('clone') ], 'restore');
is($node->safe_psql('clone', $read), $rows, 'the rows are there');
is($node->safe_psql('clone', "SELECT key, replica_keys FROM cmek.tables WHERE \"table\" = 't'::regclass"), 'eu|{us,ap}', '... and the replicas');

# ---- nothing is left behind ----
sql('ALTER TABLE t SET ACCESS METHOD heap; DROP TABLE alone, o, u, p');
is(sql('SELECT count(*) FROM cmek.table_key_replica'), 0, 'no replica is left of tables that are gone or plain');
is(sql("DROP USER MAPPING FOR PUBLIC SERVER us; DROP SERVER us; DROP SERVER ap; SELECT count(*) FROM t"), 500, 'and their servers can go');

$node->stop;
done_testing();
