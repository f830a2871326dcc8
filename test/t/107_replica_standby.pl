# A streaming standby in another region: it reads by its own KMS key while the
# primary's KMS does not answer, obeys what becomes of the first key, and goes on
# by itself once it is promoted.
#
# eu is a key of Vault, us one of Azure (stubs); the standby's local key is us.

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

my $vault = start_stub('vault');
my $rights = { 'transit/encrypt/k' => ['update'], 'transit/decrypt/k' => ['update'], 'transit/keys/k' => ['read'] };
$vault->tell('key', name => 'k');
$vault->tell('token', id => 's.db', rights => $rights);
my $azure = start_stub('azure');
$azure->tell('key', name => 'k');
$azure->tell('app', tenant => 't', client => 'c', secret => 's');
$azure->tell('grant', who => 'c', key => 'k');

my $primary = cmek_node('primary', streaming => 1,
	config => [ 'autovacuum = off', "cmek.kms_timeout = '1500ms'", "cmek.kms_grace = '0'" ]);
$primary->safe_psql('postgres', qq{
	CREATE SERVER eu FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}', key 'k');
	CREATE USER MAPPING FOR PUBLIC SERVER eu OPTIONS (token 's.db');
	CREATE SERVER us FOREIGN DATA WRAPPER cmek_azure OPTIONS (key_id 'https://v.vault.azure.net/keys/k',
		endpoint '@{[$azure->url]}', authority '@{[$azure->url]}');
	CREATE USER MAPPING FOR PUBLIC SERVER us OPTIONS (tenant_id 't', client_id 'c', client_secret 's');
	CREATE TABLE t (a int PRIMARY KEY, b text) USING cmek_heap WITH (cmek.key = 'eu', cmek.replica_keys = 'us');
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 200) i;
	CREATE TABLE alone (a int) USING cmek_heap WITH (cmek.key = 'eu'); INSERT INTO alone VALUES (1)});
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
# the secrets of the user mappings are sealed by the service key
mkdir($standby->data_dir . '.cmek', 0700);
umask(0077);
spew($standby->data_dir . '.cmek/service_key', slurp_file(service_key($primary)));
$standby->append_conf('postgresql.conf', "cmek.local_keys = 'us'\n");
$standby->start;
my $read = 'SELECT count(*), sum(hashtext(b)) FROM t';
my $rows = $primary->safe_psql('postgres', $read);

# ---- the primary's KMS does not answer ----
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $read), $rows, 'the standby reads');
$vault->tell('fault', path => 'transit', kind => 'close', times => 0);
$standby->restart;
is($standby->safe_psql('postgres', $read), $rows, 'eu does not answer: the standby reads by us, its own');
is($standby->safe_psql('postgres', 'SELECT b IS NOT NULL FROM t WHERE a = 7'), 't', '... by index, too');
fails_with($standby, 'KM001', 'SELECT * FROM alone', '... and not what is under eu alone');
is($standby->safe_psql('postgres', "SELECT replica_keys FROM cmek.tables WHERE key = 'eu' AND replica_keys IS NOT NULL"), '{us}', 'the views work there');
$vault->tell('clear');

# what the primary does meanwhile
$primary->safe_psql('postgres', q{CALL cmek.rotate_table_key('t'); CALL cmek.rotate_data_key('t'); UPDATE t SET b = b || 'u' WHERE a = 1});
$rows = $primary->safe_psql('postgres', $read);
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $read), $rows, 'a new table key, a new data key: read by us');

# ---- the first key decides there, too ----
$primary->safe_psql('postgres', "SELECT cmek.suspend_key('eu')");
ok(wait_for_error($standby, 'KM001', $read), 'eu suspended on the primary: KM001 on the standby');
$primary->safe_psql('postgres', "SELECT cmek.resume_key('eu')");
ok(wait_for_ok($standby, $read), 'resumed: back');
$vault->tell('rights', id => 's.db', rights => {});
ok(wait_for_error($primary, 'KM001', $read), 'eu denies: KM001 on the primary');
ok(wait_for_error($standby, 'KM001', $read), '... and on the standby, though us does not');
$vault->tell('rights', id => 's.db', rights => $rights);
ok(wait_for_ok($primary, $read), 'eu allows it again: back on the primary');
ok(wait_for_ok($standby, $read), '... and on the standby');

# a denied replica is no more than that
$azure->tell('state', name => 'k', enabled => JSON::PP::false);
$standby->restart;
is($standby->safe_psql('postgres', $read), $rows, 'us denies: the standby reads by eu');
$azure->tell('state', name => 'k', enabled => JSON::PP::true);

# ---- promotion, while eu is gone for good ----
ok($primary->poll_query_until('postgres', "SELECT class = 'ok' AND denied_ms = 0 FROM cmek.key_watch WHERE server = 'eu'"), 'eu is on record as well');
$primary->wait_for_catchup($standby);
$vault->stop;
$primary->stop('immediate');
$standby->restart;
is($standby->safe_psql('postgres', $read), $rows, 'primary and eu are gone: the standby reads by us');
$standby->promote;
is(sqlstate($standby, q{INSERT INTO t VALUES (1000, 'new'); CREATE INDEX ON t (b); CALL cmek.rotate_data_key('t'); VACUUM t}), '',
	'promoted: it writes, makes an index and a data key');
is($standby->safe_psql('postgres', 'SELECT b FROM t WHERE a = 1000'), 'new', '... and reads that');
fails_with($standby, 'KM001', "CALL cmek.rotate_table_key('t')", 'a new table key needs eu');
is(sqlstate($standby, "ALTER TABLE t SET (cmek.key = 'us')"), '', 'us becomes the first key, without eu');
is($standby->safe_psql('postgres', "SELECT key, replica_keys IS NULL FROM cmek.tables WHERE \"table\" = 't'::regclass"), 'us|t', '... and eu is none any more');
is(sqlstate($standby, "CALL cmek.rotate_table_key('t')"), '', '... so that a new table key can be made');
$standby->restart;
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), 201, 'readable after a restart');
$standby->stop;
done_testing();
