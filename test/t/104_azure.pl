# Provider cmek_azure against a stub of Key Vault, Managed HSM, Microsoft's
# identity platform and the metadata services: tables, rights taken and given
# back, every way to a token, challenges, versions, faults.  Microsoft's own
# client (@azure/keyvault-keys) unwraps what the provider wrapped and wraps what
# it unwraps.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;
use CmekStub;

delete @ENV{ grep { /^(AZURE|IDENTITY)_/ } keys %ENV };
my $azure = start_stub('azure');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $vault = 'https://acme.vault.azure.net/keys';
my $endpoints = "endpoint '@{[$azure->url]}', authority '@{[$azure->url]}'";
my ($tenant, $client) = ('tenant-1', '11111111-2222-3333-4444-555555555555');
my $secret = "tenant_id '$tenant', client_id '$client', client_secret 's3cret+&='";

# A self-signed certificate with its key, in one file
sub certificate_file
{
	my ($file) = @_;
	my ($cert, $key) = test_certificate(2);

	chmod(0600, spew($file, slurp_file($key) . slurp_file($cert)));
	return $file;
}

$azure->tell('key', name => 'k1');
$azure->tell('app', tenant => $tenant, client => $client, secret => 's3cret+&=');
$azure->tell('grant', who => $client, key => 'k1');

$ENV{AZURE_POD_IDENTITY_AUTHORITY_HOST} = $azure->url;
my $node = cmek_node('azure', config => [ 'autovacuum = off', "cmek.kms_timeout = '4s'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub step
{
	my ($key, $step, $column) = @_;

	return sql("SELECT $column FROM cmek.check_key('$key') WHERE step = '$step'");
}

# A server and its credentials
sub server
{
	my ($name, $options, $mapping) = @_;

	sql(qq{DROP SERVER IF EXISTS $name CASCADE;
		CREATE SERVER $name FOREIGN DATA WRAPPER cmek_azure OPTIONS ($options, $endpoints);});
	sql("CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS ($mapping)") if $mapping;
	return;
}

sub encode_base64url { return encode_base64($_[0], '') =~ tr{+/=}{-_}dr }
sub decode_base64url { return decode_base64($_[0] =~ tr{-_}{+/}r) }

# A file of certificate and key as options
sub inline
{
	my ($private, $certificate) = slurp_file($_[0]) =~ /(-----BEGIN PRIVATE.*?-----END PRIVATE KEY-----)\s+(-----BEGIN CERT.*)/s;

	return "certificate '$certificate', private_key '$private'";
}

# The version that wrapped a table's newest key
sub version_of { return sql("SELECT kms_key_version FROM cmek.tables WHERE \"table\" = '$_[0]'::regclass") }

# ---- a table, and its key at the KMS ----
server('a', "key_id '$vault/k1'", $secret);
sql(q{CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i});
is(sql('SELECT count(*), min(b) IS NOT NULL FROM t'), '100|t', 'a table under Key Vault');
my ($first) = @{ $azure->tell('versions', name => 'k1') };
is(sql('SELECT kms_key_id, kms_key_version FROM cmek.tables'), "$vault/k1|$first", 'key and version at the KMS');
is(sql("SELECT string_agg(step || ' ' || ok, ', ') FROM cmek.check_key('a')"),
	'identity true, key true, encrypt true, decrypt true, context true', 'check_key proves each step');
unlike(sql("SELECT umoptions FROM pg_user_mappings WHERE srvname = 'a'"), qr/s3cret/, 'the secret is sealed in the catalog');
is(sql("SELECT has_foreign_data_wrapper_privilege(extowner, 'cmek_azure', 'USAGE WITH GRANT OPTION')
	FROM pg_extension WHERE extname = 'cmek'"), 't', 'the extension\'s owner hands the wrapper on');

# ---- revoked and back, all without a restart ----
$azure->tell('state', name => 'k1', enabled => JSON::PP::false);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'key disabled: KM001, though it still wraps');
like(error_text($node, 'SELECT count(*) FROM t'), qr/KeyDisabled \(denied\)/, '... a denial');
is(step('a', 'key', 'code'), 'KeyDisabled', 'check_key says so');
is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'a')"), 'KM001', '... nothing new is bound');
$azure->tell('state', name => 'k1', enabled => JSON::PP::true);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... enabled: readable');
$azure->tell('grant', who => $client, key => 'k1', permissions => ['get']);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'role removed: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/ForbiddenByRbac \(denied\)/, '... a denial');
like(step('a', 'encrypt', 'hint'), qr/Key Vault Crypto Service Encryption User.*--name acme .*get wrapKey unwrapKey/, 'what to grant');
$azure->tell('grant', who => $client, key => 'k1', permissions => [ 'get', 'wrapkey' ]);
is(step('a', 'decrypt', 'code'), 'ForbiddenByRbac', 'without unwrapKey: step decrypt fails');
is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'a')"), 'KM001', '... binding is refused');
$azure->tell('grant', who => $client, key => 'k1');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'role back: readable');
$azure->tell('drop_key', name => 'k1');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'key gone: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/KeyNotFound \(denied\)/, '... a denial');
$azure->tell('restore_key', name => 'k1');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');

# what is about the way to the key is no denial
$azure->tell('denial', key => 'k1', status => 403, code => 'Forbidden', inner => 'ForbiddenByFirewall');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'firewall: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/ForbiddenByFirewall \(misconfigured\)/, '... but no denial');
$azure->tell('denial', key => 'k1');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');
$azure->tell('expire', name => 'k1');
is(step('a', 'encrypt', 'code'), 'KeyExpired', 'an expired key wraps no more');
$node->restart;
is(sqlstate($node, 'SELECT count(*) FROM t'), '', '... and its tables stay readable');
$azure->tell('expire', name => 'k1', expired => JSON::PP::false);

# ---- tokens ----
my $given = $azure->tell('given');
sleep(4);
# each of the two KMS workers has tokens of its own
cmp_ok($azure->tell('given'), '<=', $given + 1, 'a token is used again');
$azure->tell('revoke_tokens');
sleep(2.5);
is(sqlstate($node, 'SELECT count(*) FROM t'), '', 'a token that ends in the middle is replaced');
cmp_ok($azure->tell('given'), '>', $given, '... indeed');
is(sql("SELECT count(*) FROM cmek.keys WHERE name = 'a' AND state = 'enabled'"), 1, '... unnoticed');
sql("ALTER USER MAPPING FOR PUBLIC SERVER a OPTIONS (SET client_secret 'wrong')");
$azure->tell('revoke_tokens');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'a wrong secret: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/AADSTS7000215 \(misconfigured\)/, '... misconfigured, no denial');
sql("ALTER USER MAPPING FOR PUBLIC SERVER a OPTIONS (SET client_secret 's3cret+&=')");
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the right one: readable');

# challenges: of another tenant, of another resource; nobody is sent our token for it
$azure->tell('challenge', tenant => 'tenant-2', resource => 'https://managedhsm.azure.net');
is(step('a', 'key', 'code'), 'ChallengeResource', 'a vault that wants a token of another resource');
$azure->tell('challenge', tenant => 'tenant-2');
$azure->tell('fault', path => '/keys/', kind => 'status', status => 401, times => 0,
	headers => { 'WWW-Authenticate' => 'Bearer authorization="https://login.microsoftonline.com/tenant-2", resource="https://vault.azure.net"' });
is(step('a', 'key', 'code'), 'ChallengeTenant', 'a vault of another tenant');
like(step('a', 'key', 'detail'), qr/tenant-2.*tenant-1/, '... both are named');
$azure->tell('clear');
$azure->tell('challenge');

# a certificate, in a file and in the mapping
my $pem = certificate_file("$dir/app.pem");
my $by_cert = '22222222-2222-3333-4444-555555555555';
$azure->tell('app', tenant => $tenant, client => $by_cert, certificate => $pem);
$azure->tell('grant', who => $by_cert, key => 'k1');
server('c', "key_id '$vault/k1'", "tenant_id '$tenant', client_id '$by_cert', certificate_file '$pem'");
is(sql("SELECT bool_and(ok) FROM cmek.check_key('c')"), 't', 'a certificate file: assertion with x5t');
server('d', "key_id '$vault/k1'", "tenant_id '$tenant', client_id '$by_cert', @{[inline($pem)]}");
is(sql("SELECT bool_and(ok) FROM cmek.check_key('d')"), 't', 'a certificate in the user mapping');
unlike(sql("SELECT umoptions FROM pg_user_mappings WHERE srvname = 'd'"), qr/PRIVATE KEY/, '... is sealed in the catalog');
my ($other_cert, $other_key) = test_certificate(2);
my $mine = slurp_file($pem);
for my $bad ([ 'key of another certificate', slurp_file($other_key) . ($mine =~ /(-----BEGIN CERT.*)/s)[0], 'Certificate' ],
	[ 'no key', ($mine =~ /(-----BEGIN CERT.*)/s)[0], 'Certificate' ], [ 'nothing', 'x', 'Certificate' ],
	[ 'unknown to the application', slurp_file($other_key) . slurp_file($other_cert), 'AADSTS700027' ])
{
	chmod(0600, spew("$dir/bad.pem", $bad->[1]));
	server('bad', "key_id '$vault/k1'", "tenant_id '$tenant', client_id '$by_cert', certificate_file '$dir/bad.pem'");
	is(step('bad', 'identity', 'code'), $bad->[2], "a certificate: $bad->[0]");
}

# ---- the machine's identity ----
$azure->tell('identity', who => 'machine');
$azure->tell('identity', who => 'second', client => 'id-2');
$azure->tell('grant', who => 'machine', key => 'k1');
$azure->tell('key', name => 'k2');
$azure->tell('grant', who => 'second', key => 'k2');
server('m', "key_id '$vault/k1'");
sql("CREATE TABLE m (a int) USING cmek_heap WITH (cmek.key = 'm'); INSERT INTO m VALUES (1)");
is(sql('SELECT count(*) FROM m'), 1, 'the metadata service of a machine');
server('m2', "key_id '$vault/k2', identity 'id-2'");
is(sql("SELECT bool_and(ok) FROM cmek.check_key('m2')"), 't', 'an identity that a user assigned');
server('m3', "key_id '$vault/k2', identity 'id-3'");
is(step('m3', 'identity', 'code'), 'invalid_request', 'one that the machine has not');

# tenants: only where a superuser allows it, and as whom he says
sql(q{CREATE ROLE tenant; GRANT USAGE ON FOREIGN DATA WRAPPER cmek_azure TO tenant;
	CREATE DATABASE tenants});
sub tenant_sql { return $node->safe_psql('tenants', $_[0]) }
my @plain = ($azure->url, $azure->url);
tenant_sql(qq{CREATE EXTENSION cmek; GRANT USAGE ON FOREIGN DATA WRAPPER cmek_azure TO tenant;
	CREATE SERVER s FOREIGN DATA WRAPPER cmek_azure OPTIONS (key_id '$vault/k2', identity 'id-2', endpoint '$plain[0]', authority '$plain[1]');
	ALTER SERVER s OWNER TO tenant});
sub tenant_code { return tenant_sql("SELECT code FROM cmek.check_key('s') WHERE NOT ok LIMIT 1") }
$azure->tell('forget');
is(tenant_code(), 'AmbientNotAllowed', 'a tenant\'s key cannot use the machine\'s identity');
sql("ALTER DATABASE tenants SET cmek.ambient_credentials = on; ALTER DATABASE tenants SET cmek.azure_identity = 'id-9'");
is(tenant_code(), 'IdentityNotAllowed', '... nor choose one, when the superuser has chosen');
is($azure->requests('id-2') + $azure->requests('id-9'), 0, '... and nothing left the host');
sql("ALTER DATABASE tenants RESET cmek.azure_identity");
is(tenant_code(), '', 'allowed: it does');
my ($ret, $out, $err) = $node->psql('tenants', qq{SET ROLE tenant; CREATE SERVER x FOREIGN DATA WRAPPER cmek_azure
	OPTIONS (key_id '$vault/k1', endpoint '$plain[0]')});
like($err, qr/permission denied to set option "endpoint"/, 'tenants cannot send our requests elsewhere');
for my $bad ([ 'https://evil.example/keys/k', 'no Key Vault or Managed HSM' ], [ 'https://vault.azure.net/keys/k', 'no Key Vault' ],
	[ 'https://evilvault.azure.net/keys/k', 'no Key Vault' ], [ 'https://a.vault.azure.net/keys/k/v', 'identifier of a key' ],
	[ 'https://a.vault.azure.net:8/keys/k', 'identifier of a key' ], [ 'http://a.vault.azure.net/keys/k', 'identifier of a key' ],
	[ 'https://x@a.vault.azure.net/keys/k', 'identifier of a key' ], [ 'https://a.vault.azure.net/secrets/k', 'identifier of a key' ])
{
	($ret, $out, $err) = $node->psql('tenants', "SET ROLE tenant; CREATE SERVER x FOREIGN DATA WRAPPER cmek_azure OPTIONS (key_id '$bad->[0]')");
	like($err, qr/$bad->[1]/, "refused: $bad->[0]");
}
my %refused = ("client_secret 'x'" => 'needs option', "client_secret 'x', certificate 'y', private_key 'z', tenant_id 't', client_id 'c'" => 'exclude each other',
	"certificate 'y', tenant_id 't', client_id 'c'" => 'needs option',
	"tenant_id 't', client_id 'c'" => 'credentials are incomplete', "tenant_id 'a/b', client_id 'c', client_secret 's'" => 'must be a name');
for my $options (sort keys %refused)
{
	($ret, $out, $err) = $node->psql('postgres', "CREATE USER MAPPING FOR PUBLIC SERVER m OPTIONS ($options)");
	like($err, qr/$refused{$options}/, "refused: $options");
}

# ---- Managed HSM: AES key wrap ----
$azure->tell('key', name => 'h1', kty => 'oct-HSM');
$azure->tell('grant', who => $client, key => 'h1');
$azure->tell('challenge', resource => 'https://managedhsm.azure.net');
server('h', "key_id 'https://acme.managedhsm.azure.net/keys/h1', resource 'https://managedhsm.azure.net'", $secret);
is(step('h', 'key', 'code'), '', 'a Managed HSM, at an address of its own');
sql("CREATE TABLE h (a int) USING cmek_heap WITH (cmek.key = 'h'); INSERT INTO h VALUES (1)");
is(sql("SELECT get_byte(blob, 1), length(blob) FROM cmek.table_key WHERE relid = 'h'::regclass"), '2|136', '... wraps with A256KW');
$azure->tell('grant', who => $client, key => 'h1', permissions => ['get']);
like(step('h', 'encrypt', 'hint'), qr/--hsm-name acme --role "Managed HSM Crypto Service Encryption User".*--scope \/keys\/h1/, '... what to grant');
$azure->tell('grant', who => $client, key => 'h1');
$azure->tell('key', name => 'ec', kty => 'EC');
$azure->tell('grant', who => $client, key => 'ec');
$azure->tell('challenge');
ok(wait_for_ok($node, "SELECT count(*) FROM $_"), "a key vault again: $_") for qw(t m);
server('e', "key_id '$vault/ec'", $secret);
is(step('e', 'key', 'code'), 'KeyType', 'a key that cannot wrap');

# ---- versions, restart ----
$azure->tell('rotate', name => 'k1');
my (undef, $second) = @{ $azure->tell('versions', name => 'k1') };
is(sql('SELECT count(*) FROM t'), 100, 'a new version at the KMS: readable by the old one');
sql("CALL cmek.rotate_table_key('t')");
is(version_of('t'), $second, 'a new table key is under the new version');
is(version_of('m'), $first, '... other tables keep theirs');
$node->restart;
is(sql('SELECT count(*) FROM t'), 100, 'readable after a restart');

# ---- Microsoft's own client ----
SKIP:
{
	my ($modules) = grep { $_ && -d "$_/\@azure/keyvault-keys" }
	  ($ENV{CMEK_TEST_NODE_MODULES}, split(/:/, $ENV{NODE_PATH} // ''));
	skip 'no @azure/keyvault-keys (npm), or a node too old for it', 5
	  unless $modules && system('node -e "process.exit(process.versions.node.split(\'.\')[0] < 20 ? 1 : 0)" >/dev/null 2>&1') == 0;
	local $ENV{NODE_PATH} = $modules;
	my ($blob, $uuid) = split(/ /, sql("SELECT translate(encode(blob, 'base64'), E'\\n', '') || ' ' || id
		FROM cmek.table_key WHERE relid = 't'::regclass ORDER BY version DESC LIMIT 1"));
	my $bytes = decode_base64($blob);
	my $wrapped = substr($bytes, 36, unpack('n', substr($bytes, 2, 2)));
	my $ask = sub {
		my ($out, $err) = run_command([ 'node', "$FindBin::RealBin/../kms/azure_client.js", $azure->url, 'T', 'k1', $second, @_ ]);
		return eval { decode_json($out) } // { error => "$out$err" };
	};

	$azure->tell('token', who => $client, token => 'T');
	my $opened = $ask->('unwrap', 'RSA-OAEP-256', encode_base64url($wrapped));
	is(length($opened->{value} // ''), 43, 'Microsoft\'s client unwraps what the provider wrapped');
	is($ask->('unwrap', 'RSA-OAEP-256', encode_base64url('x' x 256))->{error}, 400, '... and nothing else');
	is($ask->('get')->{version}, $second, '... and reads the key');
	my $again = $ask->('wrap', 'RSA-OAEP-256', $opened->{value})->{value};
	isnt($again, encode_base64url($wrapped), 'Microsoft\'s client wraps, at random');
	sql("UPDATE cmek.table_key SET blob = decode('" . unpack('H*', substr($bytes, 0, 36) . decode_base64url($again)
		  . substr($bytes, 36 + length($wrapped))) . "', 'hex') WHERE id = '$uuid'");
	$node->restart;
	is(sql('SELECT count(*) FROM t'), 100, 'the provider unwraps what Microsoft\'s client wrapped');
}

# ---- damaged, and faults ----
ok(recorded_as_well($node, 'm'), 'the key is recorded as well');
my $kept = sql("SELECT encode(blob, 'hex') FROM cmek.table_key WHERE relid = 'm'::regclass");
for my $at (1, 10, 60, 300, 345)
{
	sql("UPDATE cmek.table_key SET blob = set_byte(decode('$kept', 'hex'), $at, get_byte(decode('$kept', 'hex'), $at) # 1) WHERE relid = 'm'::regclass");
	$node->restart;
	is(sqlstate($node, 'SELECT * FROM m'), 'XX001', "byte $at damaged: damaged, not revoked");
}
ok($node->poll_query_until('postgres', "SELECT state = 'enabled' FROM cmek.keys WHERE name = 'm'"), '... and says nothing of the key');
sql("UPDATE cmek.table_key SET blob = decode('$kept', 'hex') WHERE relid = 'm'::regclass");
ok(wait_for_ok($node, 'SELECT * FROM m'), '... whole again: readable');

sub fault
{
	my ($name, $code, %fault) = @_;
	my $started = time();

	$azure->tell('fault', path => '/unwrapkey', times => 0, %fault);
	$node->restart;
	like(error_text($node, 'SELECT count(*) FROM t'), qr/KM001: .*\n?.*$code \((unreachable|misconfigured)\)/, "$name: $code");
	cmp_ok(time() - $started, '<', 15, '... within the time limit');
	$azure->tell('clear');
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');
	return;
}
my $zeros = encode_base64url("\0" x 32);
fault('another version', 'MalformedAnswer', kind => 'body', body => qq({"kid":"$vault/k1/$first","value":"$zeros"}));
fault('another key', 'MalformedAnswer', kind => 'body', body => qq({"kid":"$vault/k2/$second","value":"$zeros"}));
fault('wrong types', 'MalformedAnswer', kind => 'body', body => '{"value":[1]}');
fault('no JSON', 'MalformedAnswer', kind => 'body', body => '<html>');
fault('hangs', '\w+', kind => 'hang');
fault('truncated', '\w+', kind => 'truncate');
fault('redirect', '\w+', kind => 'redirect', to => 'http://127.0.0.1:1/');
fault('throttled', 'Throttled', kind => 'status', status => 429, body => '{"error":{"code":"Throttled","message":"m"}}');
$azure->tell('fault', path => '/unwrapkey', kind => 'body', times => 0, body => qq({"kid":"$vault/k1/$second","value":"$zeros"}));
$node->restart;
is(sqlstate($node, 'SELECT count(*) FROM t'), 'XX001', 'another key unwrapped: the tag of our own layer does not fit');
$azure->tell('clear');
$node->restart;
$azure->tell('fault', path => '/unwrapkey', kind => 'status', status => 503, times => 2);
is(sqlstate($node, 'SELECT count(*) FROM t'), '', '503, 503, then OK: within one statement');

# ---- identities of App Service and of a pod, which are in the environment ----
$azure->tell('app_service', header => 'h-1');
{
	local @ENV{qw(IDENTITY_ENDPOINT IDENTITY_HEADER)} = ($azure->url . '/msi/token', 'h-1');
	$node->restart;
	is(sql("SELECT bool_and(ok) FROM cmek.check_key('m')"), 't', 'App Service, which says when a token ends');
}
{
	my $token = spew("$dir/federated", "pod-token\n");

	chmod(0600, $token);
	$azure->tell('app', tenant => $tenant, client => 'pod', federated => 'pod-token');
	$azure->tell('grant', who => 'pod', key => 'k1');
	local @ENV{qw(AZURE_FEDERATED_TOKEN_FILE AZURE_TENANT_ID AZURE_CLIENT_ID)} = ($token, $tenant, 'pod');
	$node->restart;
	is(sql("SELECT bool_and(ok) FROM cmek.check_key('m')"), 't', 'workload identity of a pod');
}

$node->stop;
done_testing();
