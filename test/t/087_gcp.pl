# Provider cmek_gcp against a stub of Cloud KMS, the OAuth server, the metadata
# server and IAM Credentials: tables, rights taken and given back, every way to
# a token, impersonation, checksums, faults.  Google's own client
# (@google-cloud/kms) opens what the provider wrapped and wraps what it opens.

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

my $gcp = start_stub('gcp');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $ring = 'projects/acme/locations/europe-west3/keyRings/db/cryptoKeys';
my $endpoints = "endpoint '@{[$gcp->url]}', token_endpoint '@{[$gcp->url]}/token', iam_endpoint '@{[$gcp->url]}'";
my $sa = 'db@acme.iam.gserviceaccount.com';
my ($private, $public) = rsa_key();

# A service-account file
sub account_file
{
	my ($file, %but) = @_;

	spew($file, encode_json({ type => 'service_account', client_email => $sa, private_key_id => 'kid1',
				private_key => slurp_file($private), token_uri => 'https://oauth2.googleapis.com/token', %but }));
	chmod(0600, $file);
	return $file;
}

$gcp->tell('key', name => "$ring/k1");
$gcp->tell('account', email => $sa, public_key => $public);
$gcp->tell('grant', email => $sa, key => "$ring/k1");

$ENV{GCE_METADATA_HOST} = '127.0.0.1:' . $gcp->port;
my $node = cmek_node('gcp', config => [ 'autovacuum = off', "cmek.kms_timeout = '2500ms'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub step
{
	my ($key, $step, $column) = @_;

	return sql("SELECT $column FROM cmek.check_key('$key') WHERE step = '$step'");
}

# A key, its server, its file and its rights; options of server and mapping
sub server
{
	my ($name, $options, $mapping) = @_;

	sql(qq{DROP SERVER IF EXISTS $name CASCADE;
		CREATE SERVER $name FOREIGN DATA WRAPPER cmek_gcp OPTIONS ($options, $endpoints);});
	sql("CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS ($mapping)") if $mapping;
	return;
}

# ---- a table, and its key at the KMS ----
my $file = account_file("$dir/sa.json");
server('g', "key_id '$ring/k1'", "credential_file '$file'");
sql(q{CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'g');
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i});
is(sql('SELECT count(*), min(b) IS NOT NULL FROM t'), '100|t', 'a table under Cloud KMS');
is(sql('SELECT kms_key_id, kms_key_version FROM cmek.tables'), "$ring/k1|1", 'key and version at the KMS');
is(sql("SELECT string_agg(step || ' ' || ok, ', ') FROM cmek.check_key('g')"),
	'identity true, key true, encrypt true, decrypt true, context true', 'check_key proves each step');

# ---- revoked and back, all without a restart ----
for my $state (qw(DISABLED DESTROY_SCHEDULED))
{
	$gcp->tell('state', name => "$ring/k1", state => $state);
	ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), "key $state: KM001");
	like(error_text($node, 'SELECT count(*) FROM t'), qr/(KEY_DISABLED|FAILED_PRECONDITION) \(denied\)/, '... a denial');
	is(step('g', 'key', 'code'), "KEY_$state", 'check_key says so');
	$gcp->tell('state', name => "$ring/k1", state => 'ENABLED');
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... enabled: readable');
}
$gcp->tell('grant', email => $sa, key => "$ring/k1", permissions => ['get']);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'role removed: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/IAM_PERMISSION_DENIED \(denied\)/, '... a denial');
like(step('g', 'encrypt', 'hint'), qr/add-iam-policy-binding \Q$ring\E\/k1 .*cryptoKeyEncrypterDecrypter/, 'what to grant');
is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'g')"), 'KM001', 'binding is refused');
$gcp->tell('grant', email => $sa, key => "$ring/k1", permissions => [ 'encrypt', 'decrypt' ]);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'role back: readable');
is(step('g', 'key', 'code'), 'IAM_PERMISSION_DENIED', 'without viewer: step key fails');
like(step('g', 'key', 'hint'), qr/roles\/cloudkms\.viewer/, '... and says what to grant');
$gcp->tell('grant', email => $sa, key => "$ring/k1");
$gcp->tell('drop_key', name => "$ring/k1");
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'key gone: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/NOT_FOUND \(denied\)/, '... a denial');
$gcp->tell('restore_key', name => "$ring/k1");
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');

# what is about the way to the key is no denial
for my $reason (qw(SERVICE_DISABLED BILLING_DISABLED ACCESS_TOKEN_SCOPE_INSUFFICIENT))
{
	$gcp->tell('denial', key => "$ring/k1", code => 403, status => 'PERMISSION_DENIED', reason => $reason);
	ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), "$reason: KM001");
	like(error_text($node, 'SELECT count(*) FROM t'), qr/$reason \(misconfigured\)/, '... but no denial');
	$gcp->tell('denial', key => "$ring/k1");
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');
}

# ---- tokens ----
my $given = $gcp->tell('given');
$gcp->tell('forget');
ok(eventually(sub { $gcp->requests(':decrypt') >= 6 }), 'proofs go on');
# each of two workers has one of its own
cmp_ok($gcp->tell('given'), '<=', $given + 2, 'a token is used again');
$given = $gcp->tell('given');
$gcp->tell('revoke_tokens');
ok(eventually(sub { $gcp->tell('given') > $given }), 'a token that ends in the middle is replaced');
is(sqlstate($node, 'SELECT count(*) FROM t'), '', '... so that rows are read');
is(sql("SELECT count(*) FROM cmek.keys WHERE name = 'g' AND state = 'enabled'"), 1, '... unnoticed');

my ($other_private) = rsa_key();
account_file($file, private_key => slurp_file($other_private));
$gcp->tell('revoke_tokens');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'a key of the account that Google does not know: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/invalid_grant \(misconfigured\)/, '... misconfigured, no denial');
account_file($file);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'the right one: readable');

my %files = ('[1]' => 'CredentialFormat', '{"type":"authorized_user"}' => 'CredentialType',
	'{"type":"service_account"}' => 'CredentialFormat');
for my $text (sort keys %files)
{
	chmod(0600, spew("$dir/bad.json", $text));
	server('bad', "key_id '$ring/k1'", "credential_file '$dir/bad.json'");
	is(step('bad', 'identity', 'code'), $files{$text}, "a credential file that is none: $text");
}
my ($small) = rsa_key(1024);
account_file("$dir/bad.json", private_key => slurp_file($small));
is(step('bad', 'identity', 'code'), 'PrivateKey', 'an RSA key of 1024 bits is refused');
account_file("$dir/bad.json", private_key => "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
is(step('bad', 'identity', 'code'), 'PrivateKey', 'a key that is none');

server('inline', "key_id '$ring/k1'", "client_email '$sa', private_key '@{[slurp_file($private)]}'");
is(sql("SELECT bool_and(ok) FROM cmek.check_key('inline')"), 't', 'a key in the user mapping');
unlike(sql("SELECT umoptions FROM pg_user_mappings WHERE srvname = 'inline'"), qr/PRIVATE KEY/, '... is sealed in the catalog');

# ---- the host's identity, impersonation ----
my $host = 'host@vendor.iam.gserviceaccount.com';
my $target = 'cmek@customer.iam.gserviceaccount.com';
my $middle = 'middle@vendor.iam.gserviceaccount.com';
$gcp->tell('host', email => $host);
$gcp->tell('grant', email => $host, key => "$ring/k1");
server('m', "key_id '$ring/k1'");
sql("CREATE TABLE m (a int) USING cmek_heap WITH (cmek.key = 'm'); INSERT INTO m VALUES (1)");
is(sql('SELECT count(*) FROM m'), 1, 'the metadata server');

$gcp->tell('key', name => "$ring/k2");
$gcp->tell('grant', email => $target, key => "$ring/k2");
$gcp->tell('may_be', email => $middle, who => $host);
$gcp->tell('may_be', email => $target, who => $middle);
server('i', "key_id '$ring/k2', impersonate '$target', delegates '$middle'");
sql("CREATE TABLE i (a int) USING cmek_heap WITH (cmek.key = 'i'); INSERT INTO i VALUES (1)");
is(sql('SELECT count(*) FROM i'), 1, 'impersonation by a delegate');
$gcp->tell('may_not_be', email => $target);
$gcp->tell('revoke_tokens');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM i'), 'impersonation taken away: KM001');
like(error_text($node, 'SELECT count(*) FROM i'), qr/ImpersonationDenied \(denied\)/, '... a denial');
like(step('i', 'identity', 'hint'), qr/roles\/iam.serviceAccountTokenCreator/, '... what to grant');
$gcp->tell('may_be', email => $target, who => $middle);
ok(wait_for_ok($node, 'SELECT count(*) FROM i'), '... and back');

# ---- versions, restart ----
$gcp->tell('rotate', name => "$ring/k1");
sql("CALL cmek.rotate_table_key('t')");
is(sql("SELECT kms_key_version FROM cmek.tables WHERE \"table\" = 't'::regclass"), 2, 'a new table key is under the new version');
$node->restart;
is(sql('SELECT count(*) FROM t'), 100, 'readable after a restart');
$gcp->tell('key', name => "$ring/sign", purpose => 'ASYMMETRIC_SIGN');
$gcp->tell('grant', email => $sa, key => "$ring/sign");
server('sign', "key_id '$ring/sign'", "credential_file '$file'");
is(step('sign', 'key', 'code'), 'KeyPurpose', 'a key that cannot wrap');

# ---- Google's own client ----
SKIP:
{
	my ($modules) = grep { $_ && -d "$_/\@google-cloud/kms" }
	  ($ENV{CMEK_TEST_NODE_MODULES}, split(/:/, $ENV{NODE_PATH} // ''));
	skip 'no @google-cloud/kms (npm)', 6 unless $modules && system('node --version >/dev/null 2>&1') == 0;
	local $ENV{NODE_PATH} = $modules;
	my ($blob, $uuid) = split(/ /, sql("SELECT translate(encode(blob, 'base64'), E'\\n', '') || ' ' || id
		FROM cmek.table_key WHERE relid = 't'::regclass ORDER BY version DESC LIMIT 1"));
	my $client = sub {
		my ($out, $err) = run_command([ 'node', "$FindBin::RealBin/../kms/gcp_client.js", $gcp->port, 'T', @_ ]);
		return eval { decode_json($out) } // { error => "$out$err" };
	};

	$gcp->tell('token', email => $sa, token => 'T');
	my $opened = $client->("$ring/k1", 'decrypt', $blob, "cmek table key $uuid");
	is(length(decode_base64($opened->{plaintext} // '')), 32, 'Google\'s client opens what the provider wrapped');
	ok($opened->{crc}, '... and finds its checksum right');
	is($client->("$ring/k1", 'decrypt', $blob, 'another')->{error}, 400, '... and not under another context');
	my $wrapped = $client->("$ring/k1", 'encrypt', $opened->{plaintext}, "cmek table key $uuid");
	ok($wrapped->{verified} && $wrapped->{crc}, 'Google\'s client wraps, with checksums');
	is($client->("$ring/k1", 'get')->{state}, 'ENABLED', '... and reads the key');
	sql("UPDATE cmek.table_key SET blob = decode('$wrapped->{ciphertext}', 'base64') WHERE id = '$uuid'");
	$node->restart;
	is(sql('SELECT count(*) FROM t'), 100, 'the provider opens what Google\'s client wrapped');
}

# ---- damaged, and faults ----
ok(recorded_as_well($node, 'm'), 'the key is recorded as well');
my $kept = sql("SELECT encode(blob, 'hex') FROM cmek.table_key WHERE relid = 'm'::regclass");
sql("UPDATE cmek.table_key SET blob = set_byte(blob, 60, get_byte(blob, 60) # 1) WHERE relid = 'm'::regclass");
$node->restart;
is(sqlstate($node, 'SELECT * FROM m'), 'XX001', 'a damaged blob is damaged, not revoked');
ok($node->poll_query_until('postgres', "SELECT state = 'enabled' FROM cmek.keys WHERE name = 'm'"), '... and says nothing of the key: it is as it was');

sub fault
{
	my ($name, $code, %fault) = @_;
	my $started = time();

	$gcp->tell('fault', path => ':decrypt', times => 0, %fault);
	$node->restart;
	my $wanted = qr/KM001: .*\n?.*$code \((unreachable|misconfigured)\)/;
	my $text = error_text($node, 'SELECT count(*) FROM t');

	# what a proof of the server's own met first is remembered for a moment
	while ($text !~ $wanted && time() - $started < 10)
	{
		sleep(1);
		$text = error_text($node, 'SELECT count(*) FROM t');
	}
	like($text, $wanted, "$name: $code");
	cmp_ok(time() - $started, '<', 15, '... within the time limit');
	$gcp->tell('clear');
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');
	return;
}
my $zeros = encode_base64("\0" x 32, '');
fault('wrong checksum', 'ChecksumMismatch', kind => 'body', body => qq({"plaintext":"$zeros","plaintextCrc32c":"1"}));
fault('no checksum', 'ChecksumMismatch', kind => 'body', body => qq({"plaintext":"$zeros"}));
fault('wrong types', 'MalformedAnswer', kind => 'body', body => '{"plaintext":[1]}');
fault('no JSON', 'MalformedAnswer', kind => 'body', body => '<html>');
fault('closed', '\w+', kind => 'close');
fault('hangs', '\w+', kind => 'hang');
fault('truncated', '\w+', kind => 'truncate');
fault('oversized', '\w+', kind => 'huge');
fault('drip', '\w+', kind => 'drip');
fault('redirect', '\w+', kind => 'redirect', to => 'http://127.0.0.1:1/');
fault('throttled', 'RESOURCE_EXHAUSTED', kind => 'status', status => 429,
	body => '{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"quota"}}');
fault('damaged request', 'INVALID_ARGUMENT', kind => 'status', status => 400,
	body => '{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"The checksum in field ciphertext_crc32c did not match."}}');
$node->restart;
$gcp->tell('fault', path => ':decrypt', kind => 'status', status => 503, times => 2);
is(sqlstate($node, 'SELECT count(*) FROM t'), '', '503, 503, then OK: within one statement');
$gcp->tell('fault', path => ':encrypt', kind => 'body',
	body => qq({"name":"$ring/k1/cryptoKeyVersions/1","ciphertext":"AAAA","ciphertextCrc32c":"1","verifiedPlaintextCrc32c":false}));
is(sqlstate($node, "CREATE TABLE y (a int) USING cmek_heap WITH (cmek.key = 'g')"), '', 'an encryption not verified is asked for again');
for my $body (qq({"name":"$ring/k1/cryptoKeyVersions/1","ciphertext":"AAAA","ciphertextCrc32c":"2147483648","verifiedPlaintextCrc32c":false,"verifiedAdditionalAuthenticatedDataCrc32c":true}),
	qq({"name":"$ring/k1/cryptoKeyVersions/1","ciphertext":"AAAA","verifiedPlaintextCrc32c":true,"verifiedAdditionalAuthenticatedDataCrc32c":true}))
{
	$gcp->tell('fault', path => ':encrypt', kind => 'body', times => 0, body => $body);
	is(step('g', 'encrypt', 'code'), 'ChecksumMismatch', 'an encryption not verified, or without its checksum, is refused');
	$gcp->tell('clear');
}

$node->stop;
done_testing();
