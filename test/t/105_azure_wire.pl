# Requests to Azure and how its answers are read, as pure functions: known
# requests, every class of answer, blobs, challenges, and random changes.  Needs
# the module test/modules/wire, which make test installs.
#
#   CMEK_WIRE_ROUNDS  random changes (20,000); CMEK_SEED  where they begin

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = PostgreSQL::Test::Cluster->new('azurewire');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_wire');

my $uuid = '00112233-4455-6677-8899-aabbccddeeff';
my $key = 'https://v.vault.azure.net/keys/k';
my $config = "'{key_id,$key}'";

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub hex_of { return "decode('" . unpack('H*', $_[0]) . "', 'hex')" }

sub request
{
	my ($what, $options, $bytes) = @_;

	return sql("SELECT wire_request('azure $what', $options, '$uuid', @{[hex_of($bytes)]})");
}

sub answer
{
	my ($what, $options, $status, $body, $want, $name) = @_;

	is(sql("SELECT class || ' ' || code FROM wire_answer('azure $what', $options, $status, @{[hex_of($body)]})"),
		$want, $name // "$what $status $body");
	return;
}

# ---- requests ----
is(request('key', $config, ''), "$key?api-version=7.4", 'the key');
is(request('wrap', $config, "\xfb\xff\xfe"), qq($key/v1/wrapkey?api-version=7.4\n{"alg":"RSA-OAEP-256","value":"-__-"}),
	'wrapKey, base64url');
is(request('unwrap', "'{key_id,$key,endpoint,https://private/}'", 'ab'),
	qq(https://private/keys/k/v1/unwrapkey?api-version=7.4\n{"alg":"A256KW","value":"YWI"}),
	'unwrapKey, at another address, without padding');
my %clouds = (
	'v.vault.azure.net' => [ 'https://login.microsoftonline.com', 'vault.azure.net' ],
	'h.managedhsm.azure.net' => [ 'https://login.microsoftonline.com', 'managedhsm.azure.net' ],
	'v.vault.usgovcloudapi.net' => [ 'https://login.microsoftonline.us', 'vault.usgovcloudapi.net' ],
	'h.managedhsm.usgovcloudapi.net' => [ 'https://login.microsoftonline.us', 'managedhsm.usgovcloudapi.net' ],
	'v.vault.azure.cn' => [ 'https://login.chinacloudapi.cn', 'vault.azure.cn' ],
	'h.managedhsm.azure.cn' => [ 'https://login.chinacloudapi.cn', 'managedhsm.azure.cn' ]);
for my $host (sort keys %clouds)
{
	my ($authority, $resource) = @{ $clouds{$host} };

	is(request('token', "'{key_id,https://$host/keys/k}'", 's+ x'),
		"$authority/t%2Fx/oauth2/v2.0/token\ngrant_type=client_credentials&client_id=c%26d&scope="
		  . "https%3A%2F%2F$resource%2F.default&client_secret=s%2B%20x", "a token for $host");
}
is(request('token', q('{key_id,https://h/keys/k,authority,https://a/,resource,https://r}'), 's') =~ s/&client_secret.*//r,
	'https://a/t%2Fx/oauth2/v2.0/token' . "\n" . 'grant_type=client_credentials&client_id=c%26d&scope=https%3A%2F%2Fr%2F.default',
	'another cloud');
like(request('assertion', $config, 'a.b.c'),
	qr/&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a\.b\.c$/, 'by assertion');
my @jwt = map { decode_base64(tr{-_}{+/}r) } split(/\./, request('jwt', $config, 'client'));
is_deeply(\@jwt, [ '{"alg":"RS256","typ":"JWT","x5t":"' . 'A' x 27 . '","x5t#S256":"' . 'A' x 43 . '"}',
		'{"aud":"https://a/t","iss":"client","sub":"client","jti":"00112233445566778899aabbccddeeff",'
		  . '"nbf":1700000000,"iat":1700000000,"exp":1700000600}' ], 'what a certificate signs');
is(request('machine', $config, ''),
	'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net', 'metadata');
is(request('app service', $config, 'id/1'),
	'http://127.0.0.1:41/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net&client_id=id%2F1', 'App Service');

# ---- answers ----
my $version = '0123456789abcdef0123456789abcdef';
sub described
{
	my (%but) = @_;
	my ($kid, $kty, $ops, $enabled) = map { $but{$_->[0]} // $_->[1] } [ kid => "$key/$version" ], [ kty => 'RSA' ],
	  [ ops => '"wrapKey","unwrapKey"' ], [ enabled => 'true' ];

	return qq({"key":{"kid":"$kid","kty":"$kty","key_ops":[$ops]},"attributes":{"enabled":$enabled}});
}
answer('key', $config, 200, described(), 'ok ');
answer('key', $config, 200, described(kty => 'RSA-HSM'), 'ok ');
answer('key', $config, 200, described(kty => 'oct-HSM'), 'ok ');
answer('key', $config, 200, described(kty => 'EC'), 'misconfigured KeyType');
answer('key', $config, 200, described(ops => '"sign"'), 'misconfigured KeyOperations');
answer('key', $config, 200, described(ops => '"wrapKey"'), 'misconfigured KeyOperations');
answer('key', $config, 200, described(enabled => 'false'), 'denied KeyDisabled');
answer('key', $config, 200, described(enabled => '1'), 'unreachable MalformedAnswer');
answer('key', $config, 200, described(kid => $_), 'unreachable MalformedAnswer', "not this key: $_")
  for ('', 'https://v.vault.azure.net/keys/k', "https://v.vault.azure.net/keys/k2/$version", "https://w.vault.azure.net/keys/k/$version",
	"$key/", "$key/$version$version", "$key/a-b", "$key/a/b");
answer('key', $config, 200, described(kid => "HTTPS://V.vault.azure.net/keys/K/$version"), 'ok ', 'case does not matter');
answer('key', "'{key_id,$key,endpoint,https://e}'", 200, described(kid => "https://e/keys/k/$version"), 'ok ', 'an address of its own');
answer($_->[0], $config, 200, $_->[1], 'unreachable MalformedAnswer')
  for map { my $w = $_; map { [ $w, $_ ] } '', 'null', '[]', '{}', '{"key":1,"attributes":{"enabled":true}}', '{"value":"AA"}',
	qq({"kid":"$key/v2","value":"AAAA"}), qq({"kid":"$key/v1","value":7}), qq({"kid":"$key/v1","value":""}),
	qq({"kid":"$key/v1","value":"AA=="}), qq({"kid":"$key/v1","value":"A/+A"}), qq({"kid":"$key/v1","value":") . 'A' x 800 . '"}',
	qq({"kid":"$key/v1","value":"AAAA"} x), "\xff\xfe" } qw(wrap unwrap);
is(sql("SELECT class, key_id, key_version, encode(blob, 'hex') FROM wire_answer('azure wrap', $config, 200, '{\"kid\":\"$key/v1\",\"value\":\"-__-\"}')"),
	"ok|$key|v1|fbfffe", 'key, version and value');

sub error
{
	my ($code, $inner, $spelling) = @_;

	return qq({"error":{"code":"$code","message":"m") . ($inner ? qq(,"@{[$spelling // 'innererror']}":{"code":"$inner"}) : '') . '}}';
}
my @errors = (
	[ 403, error('Forbidden', 'KeyDisabled'), 'denied KeyDisabled' ],
	[ 403, error('Forbidden', 'KeyDisabled', 'innerError'), 'denied KeyDisabled' ],
	[ 403, error('Forbidden', 'ForbiddenByPolicy'), 'denied ForbiddenByPolicy' ],
	[ 403, error('Forbidden', 'ForbiddenByRbac'), 'denied ForbiddenByRbac' ],
	[ 403, error('Forbidden'), 'denied Forbidden' ],
	[ 403, error('Forbidden', 'ForbiddenByFirewall'), 'misconfigured ForbiddenByFirewall' ],
	[ 403, error('Forbidden', 'ForbiddenByConnection'), 'misconfigured ForbiddenByConnection' ],
	[ 403, error('Forbidden', 'KeyExpired'), 'misconfigured KeyExpired' ],
	[ 403, '<html>proxy</html>', 'misconfigured HTTP403' ],
	[ 404, error('KeyNotFound'), 'denied KeyNotFound' ],
	[ 404, error('ResourceNotFound'), 'misconfigured ResourceNotFound' ], [ 404, '', 'misconfigured HTTP404' ],
	[ 409, error('Conflict', 'ObjectIsDeletedButRecoverable'), 'denied ObjectIsDeletedButRecoverable' ],
	[ 401, error('Unauthorized'), 'misconfigured Unauthorized' ],
	[ 429, error('Throttled'), 'unreachable Throttled' ], [ 408, '', 'unreachable HTTP408' ],
	[ 500, error('InternalError'), 'unreachable InternalError' ], [ 503, '<html>', 'unreachable HTTP503' ],
	[ 302, '', 'misconfigured HTTP302' ], [ 405, error('MethodNotAllowed'), 'misconfigured MethodNotAllowed' ]);
answer('unwrap', $config, @$_) for @errors;
answer('unwrap', $config, 400, error('BadParameter'), 'corrupt BadParameter');
answer('wrap', $config, 400, error('BadParameter'), 'misconfigured BadParameter');
answer('token', $config, 200, '{"access_token":"a.b","expires_in":3599}', 'ok ');
answer('token', $config, 200, '{"access_token":"a.b","expires_in":"3599"}', 'ok ', 'seconds as a text');
answer('token', $config, 200, '{"access_token":"a.b","expires_on":"1700003600"}', 'ok ', 'a time as a text');
answer('token', $config, 200, $_, 'unreachable MalformedAnswer')
  for ('', '{}', '{"access_token":"a.b"}', '{"access_token":"a b","expires_in":1}', '{"access_token":"a\r\nX: y","expires_in":1}',
	'{"access_token":"a","expires_in":"-1"}', '{"access_token":"a","expires_in":"1x"}');
answer('token', $config, 401, '{"error":"invalid_client","error_description":"AADSTS7000215: Invalid"}', 'misconfigured AADSTS7000215');
answer('token', $config, 400, '{"error":"invalid_request","error_description":"Identity not found"}', 'misconfigured invalid_request');
answer('token', $config, 400, '{"error":"invalid_grant","error_description":"AADSTSx"}', 'misconfigured invalid_grant');
answer('token', $config, 400, '{"error":"server_error","error_description":"AADSTS90033: wait"}', 'unreachable AADSTS90033');
answer('token', $config, $_, '', "unreachable HTTP$_") for (410, 429, 500, 503);
answer('token', $config, 403, error('KeyDisabled'), 'misconfigured HTTP403', 'a token is never denied');

# ---- challenges: resource https://vault.azure.net, tenant t ----
my @challenges = (
	[ 'Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"', 'HTTP401' ],
	[ 'Bearer authorization="https://login.microsoftonline.com/T", resource="https://vault.azure.net"', 'HTTP401' ],
	[ 'Bearer authorization="https://login.microsoftonline.com/u", resource="https://vault.azure.net"', 'ChallengeTenant' ],
	[ 'Bearer authorization_uri="https://login.microsoftonline.com/u"', 'ChallengeTenant' ],
	[ 'Bearer authorization="https://login.microsoftonline.com/t", resource="https://evil.example"', 'ChallengeResource' ],
	[ 'Bearer resource="https://managedhsm.azure.net"', 'ChallengeResource' ],
	[ 'Bearer', 'HTTP401' ], [ '', 'HTTP401' ], [ 'resource="', 'HTTP401' ], [ 'Bearer xresource="y"', 'HTTP401' ]);
answer('challenge', $config, 401, $_->[0], "misconfigured $_->[1]") for @challenges;

# ---- blobs ----
is(request('aad', $config, ''), unpack('H*', pack('a32', 'cmek_azure table key 1')) . '00112233445566778899aabbccddeeff'
	  . '0101' . '0100' . unpack('H*', pack('a32', 'v1')), 'the context: domain, uuid, layout, algorithm, length, version');
my $blob = "\1\1\0\3" . pack('a32', $version) . 'abc' . 's' x 60;
answer('blob', $config, 0, $blob, 'ok ', 'a blob');
answer('blob', $config, 0, $_->[1], 'corrupt InvalidBlob', "no blob: $_->[0]")
  for ([ 'empty', '' ], [ 'short', substr($blob, 0, -1) ], [ 'long', $blob . 'x' ], [ 'another layout', "\2" . substr($blob, 1) ],
	[ 'another algorithm', "\1\3" . substr($blob, 2) ], [ 'nothing wrapped', "\1\1\0\0" . substr($blob, 4, 32) . 's' x 60 ],
	[ 'a length beyond', "\1\1\xff\xff" . substr($blob, 4) ], [ 'no version', "\1\1\0\3" . "\0" x 32 . substr($blob, 36) ],
	[ 'a path for a version', "\1\1\0\3" . pack('a32', '../x') . substr($blob, 36) ]);
for my $len (0 .. 40) { answer('blob', $config, 0, substr($blob, 0, $len), 'corrupt InvalidBlob', "$len bytes of a blob") }

# ---- random changes, Azure's answers among them ----
my $seed = $ENV{CMEK_SEED} // int(rand(2**31));
my $rounds = $ENV{CMEK_WIRE_ROUNDS} // 20000;
is(sql("SELECT wire_mutate($seed, $rounds)"), $rounds, "$rounds answers with random changes, seed $seed");

$node->stop;
done_testing();
