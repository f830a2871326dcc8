# Options of KMS keys: what is refused and how, who may set what, secrets sealed
# on their way to the catalog, opened in KMS workers only, kept by a dump, and of
# no use in another installation.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekStub;

my $vault = start_stub('vault');
my $url = $vault->url;
my $rights = { 'transit/encrypt/k' => ['update'], 'transit/decrypt/k' => ['update'], 'transit/keys/k' => ['read'] };
my $secret = 'xyzzy-plugh-' . int(rand(1e9));
note "secret $secret";
$vault->tell('key', name => 'k');
$vault->tell('approle', role => 'db', role_id => 'r', secret_id => $secret, rights => $rights);

my $node = cmek_node('one', config => [ 'autovacuum = off', "cmek.kms_timeout = '3s'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();

sub sql { return $node->safe_psql('postgres', @_) }

# ---- validators ----
$node->safe_psql('postgres', 'CREATE ROLE tenant LOGIN; CREATE ROLE filer LOGIN; GRANT pg_write_server_files TO filer;
	GRANT USAGE ON FOREIGN DATA WRAPPER cmek_gcp, cmek_vault TO tenant, filer');
my $key = 'projects/p/locations/l/keyRings/r/cryptoKeys/k';

sub refused
{
	my ($state, $like, $sql, $role) = @_;
	my $set = $role ? "SET ROLE $role;" : '';
	my $text = error_text($node, "$set $sql");

	like($text, qr/$state: .*$like/s, "refused: " . substr($sql, 0, 90));
	unlike($text, qr/hush-hush/, '... and no value is repeated') if $sql =~ /hush-hush/;
	return;
}
my $v = 'CREATE SERVER s FOREIGN DATA WRAPPER cmek_vault OPTIONS';
my $g = 'CREATE SERVER s FOREIGN DATA WRAPPER cmek_gcp OPTIONS';
refused('HV00D', 'invalid option "colour".*Valid options in this context are: url, key, mount, namespace, ca_file',
	"$v (url '$url', key 'k', colour 'red')");
refused('HV00D', 'invalid option "colour".*Valid options in this context are: key_id, impersonate', "$g (key_id '$key', colour 'red')");
refused('HV002', 'option "key" is required', "$v (url '$url')");
refused('HV002', 'option "url" is required', "$v (key 'k')");
refused('HV002', 'option "key_id" is required', "CREATE SERVER s FOREIGN DATA WRAPPER cmek_gcp");
refused('HV00D', 'is a secret and cannot be set on a server.*CREATE USER MAPPING', "$v (url '$url', key 'k', token 'hush-hush')");
refused('HV00D', 'is a secret and cannot be set on a server', "$g (key_id '$key', private_key 'hush-hush')");
refused('HV024', 'must be an address that begins with https', "$v (url 'http://vault.example.com', key 'k')");
refused('HV024', 'must be an address that begins with https', "$v (url 'http://127.0.0.1.example.com', key 'k')");
refused('HV024', 'must be an address that begins with https', "$v (url 'file:///etc/passwd', key 'k')");
refused('HV024', 'without user, query or fragment', "$v (url 'https://u:hush-hush\@h', key 'k')");
refused('HV024', 'option "key" must be a name', "$v (url '$url', key '../sys/seal')");
refused('HV024', 'option "mount" must be a name', "$v (url '$url', key 'k', mount 'transit/../sys')");
refused('HV024', 'option "namespace" must be a name', "$v (url '$url', key 'k', namespace E'a\\nX-Vault-Token: b')");
refused('HV024', 'must be an absolute path', "$v (url '$url', key 'k', ca_file 'ca.pem')");
refused('HV024', 'must be the resource name of a key.*without a version', "$g (key_id '$key/cryptoKeyVersions/1')");
refused('HV024', 'must be the resource name of a key', "$g (key_id 'k')");
refused('HV024', 'address of a service account', "$g (key_id '$key', impersonate 'x/../y')");
refused('HV002', 'option "delegates" needs option "impersonate"', "$g (key_id '$key', delegates 'a\@b')");
refused('HV024', 'must not be empty', "$g (key_id '')");

sql("CREATE SERVER v FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '$url', key 'k');
	CREATE SERVER g FOREIGN DATA WRAPPER cmek_gcp OPTIONS (key_id '$key')");
my $m = 'CREATE USER MAPPING FOR PUBLIC SERVER';
refused('HV00D', 'invalid option "url".*Valid options in this context are: token, token_file, role_id', "$m v OPTIONS (url '$url')");
refused('HV024', '"token" and "role_id" exclude each other.*Give one of', "$m v OPTIONS (token 'hush-hush', role_id 'r', secret_id 'hush-hush')");
refused('HV002', 'credentials are incomplete.*Give one of: secret_id, secret_id_file', "$m v OPTIONS (role_id 'r')");
refused('HV002', 'credentials are incomplete', "$m v OPTIONS (auth_mount 'x')");
refused('HV002', '(incomplete|needs option)', "$m v OPTIONS (jwt_file '/x')");
refused('HV024', 'exclude each other', "$m g OPTIONS (credential_file '/x', private_key 'hush-hush', client_email 'a\@b')");
refused('HV002', 'option "private_key" needs option "client_email"', "$m g OPTIONS (private_key 'hush-hush')");
refused('HV024', 'must not be empty', "$m v OPTIONS (token '')");
refused('54000', 'too long for a secret', "$m v OPTIONS (token '" . ('hush-hush' x 300) . "')");
refused('0A000', 'must be for PUBLIC', "CREATE USER MAPPING FOR CURRENT_USER SERVER v OPTIONS (token 'hush-hush')");
refused('0A000', 'must be for PUBLIC', "CREATE USER MAPPING FOR tenant SERVER v OPTIONS (token 'hush-hush')");

# ---- who may make the server read files and call addresses ----
refused('42501', 'Only superusers and members of pg_write_server_files', $_, 'tenant')
  for ("$v (url '$url', key 'k')", "$g (key_id '$key', endpoint 'https://x')", "$g (key_id '$key', token_endpoint 'https://x')",
	"$g (key_id '$key', iam_endpoint 'https://x')");
sql("SET ROLE tenant; CREATE SERVER tenants FOREIGN DATA WRAPPER cmek_gcp OPTIONS (key_id '$key')");
refused('42501', 'Only superusers and members', "$m tenants OPTIONS (credential_file '/etc/passwd')", 'tenant');
is(sqlstate($node, "SET ROLE filer; CREATE SERVER filers FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '$url', key 'k');
	$m filers OPTIONS (token_file '/nowhere')"), '', 'a member of pg_write_server_files may');
refused('42501', 'must be owner of foreign server', "$m v OPTIONS (token 'hush-hush')", 'tenant');
refused('42501', 'permission denied for foreign server', "SELECT * FROM cmek.check_key('v')", 'tenant');

# ---- sealing ----
sub stored { return sql("SELECT array_to_string(umoptions, ' ') FROM pg_user_mappings WHERE srvname = '$_[0]'") }
my $sealed = qr/cmek-sealed:1:[0-9a-f]{32}:[A-Za-z0-9+\/=]+/;

sql("$m v OPTIONS (role_id 'r', secret_id '$secret')");
like(stored('v'), qr/^role_id=r secret_id=$sealed$/, 'a secret is sealed in the catalog, the rest is not');
sql('CHECKPOINT');
is(join(' ', files_with($node->data_dir, $secret)), '', '... and nowhere in the data directory');
sql("CREATE TABLE control (a text); INSERT INTO control VALUES ('$secret'); CHECKPOINT");
isnt(join(' ', files_with($node->data_dir, $secret)), '', '... which the search would have found');
sql('DROP TABLE control');
sql("CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'v'); INSERT INTO t VALUES (1)");
is(sql('SELECT count(*) FROM t'), 1, 'the worker opens it');

my ($first) = stored('v') =~ /($sealed)/;
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id '$first')");
is(stored('v'), "role_id=r secret_id=$first", 'sealed text is kept as it is');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id '$secret')");
like(stored('v'), qr/^role_id=r secret_id=$sealed$/, 'ALTER ... SET seals');
isnt((stored('v') =~ /($sealed)/)[0], $first, '... anew each time');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (DROP secret_id, ADD secret_id_file '/nowhere')");
is(stored('v'), 'role_id=r secret_id_file=/nowhere', 'ALTER ... DROP');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (DROP secret_id_file, ADD secret_id '$secret')");
like(stored('v'), qr/^role_id=r secret_id=$sealed$/, 'ALTER ... ADD seals');
is(sqlstate($node, 'SELECT count(*) FROM t'), '', 'and all of it works');

# a cached tree is not changed: the second run seals the secret again
sql("CREATE FUNCTION twice() RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	DROP USER MAPPING IF EXISTS FOR PUBLIC SERVER filers;
	CREATE USER MAPPING FOR PUBLIC SERVER filers OPTIONS (token '$secret'); END \$\$");
my @twice = split(/\n/, sql("CREATE TEMP TABLE seen (o text[]); SELECT twice(); INSERT INTO seen SELECT umoptions FROM pg_user_mappings WHERE srvname = 'filers';
	SELECT twice(); INSERT INTO seen SELECT umoptions FROM pg_user_mappings WHERE srvname = 'filers'; SELECT DISTINCT o FROM seen"));
is(scalar(grep { /$sealed/ } @twice), 2, 'the same statement, run twice by a function, is sealed twice');

refused('HV024', 'not a complete sealed secret', "ALTER USER MAPPING FOR PUBLIC SERVER filers OPTIONS (SET token 'cmek-sealed:1:hush-hush')");
my ($token) = stored('filers') =~ /($sealed)/;
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id '$token')");
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'a secret sealed for another option');
like(error_text($node, 'SELECT count(*) FROM t'), qr/SecretDamaged \(misconfigured\)/, '... is refused');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id '$secret')");
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... set again: readable');

# ---- who sees a tree sees our copy ----
sql(q{CREATE FUNCTION seen() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM 1 FROM pg_event_trigger_ddl_commands() c WHERE concat(c.object_identity, c.command_tag, c.object_type) LIKE '%xyzzy%';
	IF FOUND THEN RAISE EXCEPTION 'seen'; END IF; END $$;
	CREATE EVENT TRIGGER seen ON ddl_command_end EXECUTE FUNCTION seen()});
is(sqlstate($node, "ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id '$secret')"), '', 'event triggers see no secret');
sql('DROP EVENT TRIGGER seen');

# ---- dump and restore, here and elsewhere ----
my $dump = "$dir/dump.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'pg_dump');
unlike(slurp_file($dump), qr/secret_id '\Q$secret\E'/, 'no secret in a dump');
like(slurp_file($dump), $sealed, '... but sealed');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'copy' ], 'restore into another database');
is($node->safe_psql('copy', 'SELECT count(*) FROM t'), 1, '... where the sealed secret works');

my $other = cmek_node('two', config => ["cmek.kms_timeout = '3s'"]);
$other->safe_psql('postgres', "CREATE TABLE first (a int) USING cmek_heap;
	CREATE SERVER v FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '$url', key 'k'); $m v OPTIONS (role_id 'r', secret_id '$first')");
my $text = error_text($other, "CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'v')");
like($text, qr/KM001: .*SecretOfAnotherCluster \(misconfigured\): option "secret_id" .* sealed under the service key with fingerprint [0-9a-f]{32}/s,
	'a secret of another installation is a clear error');
$other->stop;

# ---- the service key away ----
hide_key(service_key($node));
is(sqlstate($node, "$m g OPTIONS (client_email 'a\@b', private_key 'x')"), 'KM001', 'without the service key nothing is sealed');
$node->restart;
is(sqlstate($node, 'SELECT count(*) FROM t'), 'KM001', '... and nothing opened');
like(error_text($node, 'SELECT count(*) FROM t'), qr/KeyFileMissing \(misconfigured\)/, '... which is no denial of the customer\'s key');
show_key(service_key($node));
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the service key back: readable');

# ---- without the hook nothing is stored in clear ----
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
refused('55000', 'is a secret and cannot be stored in clear.*shared_preload_libraries', "$m g OPTIONS (client_email 'a\@b', private_key 'hush-hush')");
is(sqlstate($node, "ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id '$first')"), '', 'sealed text may be stored');

$node->stop;
done_testing();
