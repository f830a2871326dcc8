# Requests to Vault and Google and how their answers are read, as pure functions:
# known requests, every class of answer, and answers with random changes.  Needs
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

my $node = PostgreSQL::Test::Cluster->new('wire');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_wire');

my $uuid = '00112233-4455-6677-8899-aabbccddeeff';
my $key = 'projects/p/locations/l/keyRings/r/cryptoKeys/k';
my $vault = "'{url,https://v:8200/,key,k}'";
my $gcp = "'{key_id,$key}'";

sub sql { return $node->safe_psql('postgres', $_[0]) }

# ---- CRC32C: RFC 3720, B.4, and the check value of the catalogue of CRCs ----
is(sql("SELECT wire_crc32c('123456789')"), 0xe3069283, 'CRC32C of 123456789');
is(sql("SELECT wire_crc32c(decode(repeat('00', 32), 'hex'))"), 0x8a9136aa, 'CRC32C of 32 zeros');
is(sql("SELECT wire_crc32c(decode(repeat('ff', 32), 'hex'))"), 0x62a8ab43, 'CRC32C of 32 ones');

# ---- requests ----
sub request
{
	my ($what, $config, $bytes) = @_;

	return sql("SELECT wire_request('$what', $config, '$uuid', decode('" . unpack('H*', $bytes) . "', 'hex'))");
}
my $zeros = "\0" x 32;
my $zeros64 = encode_base64($zeros, '');
my $aad64 = encode_base64("cmek table key $uuid", '');

is(request('vault encrypt', $vault, $zeros),
	qq(https://v:8200/v1/transit/encrypt/k\n{"plaintext":"$zeros64","associated_data":"$aad64"}), 'Vault: encrypt');
is(request('vault decrypt', "'{url,https://v/x,key,a.b,mount,team/kms}'", 'vault:v3:AAAA'),
	qq(https://v/x/v1/team/kms/decrypt/a.b\n{"ciphertext":"vault:v3:AAAA","associated_data":"$aad64"}), 'Vault: decrypt');
like(request('vault decrypt', $vault, $_), qr/\nnone$/, "no ciphertext: $_")
  for ('', 'vault:', 'vault:v1', 'vault:v1:', 'vault:v:AAAA', 'vault:vx:AAAA', 'vault:v1:"', 'vault:v999999999999:AAAA',
	"vault:v1:AA\nAA", 'other:v1:AAAA', "vault:v0:AAAA");
is(request('vault key', $vault, ''), 'https://v:8200/v1/transit/keys/k', 'Vault: the key');
is(request('vault login', "'{url,https://v,role_id,r}'", 'a"b\\'),
	q(https://v/v1/auth/approle/login) . "\n" . q({"role_id":"a\"b\\\\","secret_id":"a\"b\\\\"}), 'Vault: AppRole');
is(request('vault login', "'{url,https://v,kubernetes_role,r,auth_mount,k8s/one}'", 'x') =~ s/\n.*//sr,
	'https://v/v1/auth/k8s/one/login', 'Vault: another mount of a login');
is(request('gcp encrypt', $gcp, $zeros),
	qq(https://cloudkms.googleapis.com/v1/$key:encrypt\n{"plaintext":"$zeros64","plaintextCrc32c":"2324772522",)
	  . qq("additionalAuthenticatedData":"$aad64","additionalAuthenticatedDataCrc32c":")
	  . sql("SELECT wire_crc32c('cmek table key $uuid')") . '"}', 'Google: encrypt, with checksums');
like(request('gcp decrypt', "'{key_id,$key,endpoint,https://e/}'", 'abc'),
	qr(^https://e/v1/\Q$key\E:decrypt\n\{"ciphertext":"YWJj","ciphertextCrc32c":"910901175"), 'Google: decrypt');
is(request('gcp impersonate', "'{}'", 'a@b.c'),
	"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a%40b.c:generateAccessToken\n"
	  . '{"scope":["https://www.googleapis.com/auth/cloudkms"],"lifetime":"3600s","delegates":[]}', 'Google: impersonation');
like(request('gcp impersonate', "'{delegates,\"x\@y,z\@y\"}'", 'a@b.c'),
	qr(\Q"delegates":["projects/-/serviceAccounts/x\E\@\Qy","projects/-/serviceAccounts/z\E\@\Qy"]}\E$), '... by delegates');
my @jwt = map { decode_base64(tr{-_}{+/}r) } split(/\./, request('gcp jwt', "'{}'", 'sa@p'));
is_deeply(\@jwt, [ '{"alg":"RS256","typ":"JWT","kid":"kid"}',
		'{"iss":"sa@p","scope":"https://www.googleapis.com/auth/cloudkms","aud":"https://oauth2.googleapis.com/token",'
		  . '"iat":1700000000,"exp":1700003600}' ], 'Google: what is signed');

# ---- answers ----
sub answer
{
	my ($what, $config, $status, $body, $want, $name) = @_;

	is(sql("SELECT class || ' ' || code FROM wire_answer('$what', $config, $status, decode('"
			. unpack('H*', $body) . "', 'hex'))"), $want, $name // "$what $status $body");
	return;
}
sub errors { return '{"errors":["' . $_[0] . '"]}' }
my $ct = '{"data":{"ciphertext":"vault:v7:AAAA"}}';

answer('vault encrypt', $vault, 200, $ct, 'ok ');
is(sql("SELECT key_id, key_version, convert_from(blob, 'UTF8') FROM wire_answer('vault encrypt', '{key,k,namespace,n,mount,m}', 200, '$ct')"),
	'n/m/keys/k|7|vault:v7:AAAA', 'Vault: key, version, blob');
answer('vault decrypt', $vault, 200, qq({"data":{"plaintext":"$zeros64"}}), 'ok ');
for my $bad ('', 'null', '[]', '"x"', '{}', '{"data":7}', '{"data":{"plaintext":7}}', '{"data":{"plaintext":""}}',
	'{"data":{"plaintext":"AAAA"}}', qq({"data":{"plaintext":"$zeros64"}} x), qq({"data":{"plaintext":"$zeros64\\u0000"}}),
	qq({"data":{"plaintext":"$zeros64$zeros64"}}), '{"data":{"plaintext":"%%%%"}}', "\xff\xfe")
{
	answer('vault decrypt', $vault, 200, $bad, 'unreachable MalformedAnswer');
}
answer('vault encrypt', $vault, 200, '{"data":{"ciphertext":"vault:v1:' . 'A' x 3000 . '"}}', 'unreachable MalformedAnswer',
	'a ciphertext too long to keep');
my @vault = (
	[ 400, errors('encryption key not found'), 'denied KeyNotFound' ],
	[ 400, errors('ciphertext or signature version is disallowed by policy (too old)'), 'denied VersionTooOld' ],
	[ 400, errors('invalid ciphertext: no prefix'), 'corrupt InvalidCiphertext' ],
	[ 400, errors('cipher: message authentication failed'), 'corrupt DecryptionFailed' ],
	[ 500, errors('1 error occurred:\n\t* cipher: message authentication failed\n\n'), 'corrupt DecryptionFailed' ],
	[ 500, errors('internal error'), 'unreachable HTTP500' ], [ 503, errors('Vault is sealed'), 'unreachable HTTP503' ],
	[ 429, '{}', 'unreachable HTTP429' ], [ 412, '{}', 'unreachable HTTP412' ], [ 472, '{}', 'unreachable HTTP472' ],
	[ 473, '{}', 'unreachable HTTP473' ], [ 502, '<html>', 'unreachable HTTP502' ],
	[ 403, errors('permission denied'), 'misconfigured PermissionDenied' ],
	[ 404, errors('no handler for route \"transit/x\". route entry not found.'), 'misconfigured NoMount' ],
	[ 404, '{"errors":[]}', 'misconfigured HTTP404' ], [ 307, '', 'misconfigured HTTP307' ]);
answer('vault decrypt', $vault, @$_) for @vault;
answer('vault key', $vault, 404, '{"errors":[]}', 'denied KeyNotFound');
answer('vault login', $vault, 400, errors('invalid role or secret ID'), 'misconfigured LoginRefused');
answer('vault login', $vault, 400, errors('encryption key not found'), 'misconfigured LoginRefused', 'a login never denies');
answer('vault login', $vault, 503, '{}', 'unreachable HTTP503');
answer('vault lookup', $vault, 403, errors('permission denied'), 'misconfigured PermissionDenied');

my $name = "$key/cryptoKeyVersions/3";
my $verified = '"verifiedPlaintextCrc32c":true,"verifiedAdditionalAuthenticatedDataCrc32c":true';
my $crc = sql("SELECT wire_crc32c('abc')");
answer('gcp encrypt', $gcp, 200, qq({"name":"$name","ciphertext":"YWJj","ciphertextCrc32c":"$crc",$verified}), 'ok ');
answer('gcp encrypt', $gcp, 200, qq({"name":"$name","ciphertext":"YWJj","ciphertextCrc32c":"$crc"}), 'unreachable ChecksumMismatch');
answer('gcp encrypt', $gcp, 200, qq({"name":"$name","ciphertext":"YWJj","ciphertextCrc32c":"1",$verified}), 'unreachable ChecksumMismatch');
answer('gcp encrypt', $gcp, 200, qq({"name":"$name","ciphertext":"YWJj",$verified}), 'unreachable ChecksumMismatch');
answer('gcp encrypt', $gcp, 200, qq({"name":"${key}2/cryptoKeyVersions/3","ciphertext":"YWJj","ciphertextCrc32c":"$crc",$verified}),
	'unreachable MalformedAnswer', 'the answer of another key');
answer('gcp decrypt', $gcp, 200, qq({"plaintext":"$zeros64","plaintextCrc32c":"2324772522"}), 'ok ');
answer('gcp decrypt', $gcp, 200, qq({"plaintext":"$zeros64","plaintextCrc32c":"2324772523"}), 'unreachable ChecksumMismatch');
answer('gcp decrypt', $gcp, 200, qq({"plaintext":"AAAA","plaintextCrc32c":"1"}), 'unreachable MalformedAnswer');
for my $state (['ENABLED', 'ok '], [ 'DISABLED', 'denied KEY_DISABLED' ], [ 'DESTROYED', 'denied KEY_DESTROYED' ],
	[ 'DESTROY_SCHEDULED', 'denied KEY_DESTROY_SCHEDULED' ])
{
	answer('gcp key', $gcp, 200, qq({"purpose":"ENCRYPT_DECRYPT","primary":{"name":"$name","state":"$state->[0]"}}), $state->[1]);
}
answer('gcp key', $gcp, 200, '{"purpose":"ENCRYPT_DECRYPT"}', 'denied NoPrimaryVersion');
answer('gcp key', $gcp, 200, '{"purpose":"MAC"}', 'misconfigured KeyPurpose');
sub error
{
	my ($code, $status, $message, $reason) = @_;

	return qq({"error":{"code":$code,"status":"$status","message":"$message"} )
	  =~ s/\} $/$reason ? qq(,"details":[{"reason":"$reason"}]}}) : '}}'/er;
}
my @gcp = (
	[ 400, 'FAILED_PRECONDITION', 'is not enabled', 'KEY_DISABLED', 'denied KEY_DISABLED' ],
	[ 400, 'FAILED_PRECONDITION', 'is not enabled', '', 'denied FAILED_PRECONDITION' ],
	[ 400, 'INVALID_ARGUMENT', 'Decryption failed: verify the name', '', 'corrupt INVALID_ARGUMENT' ],
	[ 400, 'INVALID_ARGUMENT', 'The checksum in field x did not match', '', 'unreachable INVALID_ARGUMENT' ],
	[ 400, 'INVALID_ARGUMENT', 'other', '', 'misconfigured INVALID_ARGUMENT' ],
	[ 401, 'UNAUTHENTICATED', 'x', '', 'misconfigured UNAUTHENTICATED' ],
	[ 403, 'PERMISSION_DENIED', 'x', '', 'denied PERMISSION_DENIED' ],
	[ 403, 'PERMISSION_DENIED', 'x', 'SERVICE_DISABLED', 'misconfigured SERVICE_DISABLED' ],
	[ 404, 'NOT_FOUND', 'x', '', 'denied NOT_FOUND' ],
	[ 429, 'RESOURCE_EXHAUSTED', 'x', '', 'unreachable RESOURCE_EXHAUSTED' ],
	[ 500, 'INTERNAL', 'x', '', 'unreachable INTERNAL' ], [ 503, 'UNAVAILABLE', 'x', '', 'unreachable UNAVAILABLE' ],
	[ 504, 'DEADLINE_EXCEEDED', 'x', '', 'unreachable DEADLINE_EXCEEDED' ]);
answer('gcp decrypt', $gcp, $_->[0], error(@$_[0 .. 3]), $_->[4], "Google: $_->[0] $_->[1] $_->[3]") for @gcp;
answer('gcp decrypt', $gcp, 502, '<html>', 'unreachable HTTP502');
answer('gcp token', $gcp, 400, '{"error":"invalid_grant"}', 'misconfigured invalid_grant');
answer('gcp token', $gcp, 500, '', 'unreachable HTTP500');
answer('gcp token', $gcp, 200, '{"access_token":"a b","expires_in":1}', 'unreachable MalformedAnswer', 'a token that is no header');
answer('gcp token', $gcp, 200, '{"access_token":"a\r\nX: y","expires_in":1}', 'unreachable MalformedAnswer', 'a token with a line end');
answer('gcp impersonated', $gcp, 403, error(403, 'PERMISSION_DENIED', 'x'), 'denied ImpersonationDenied');
is(sql("SELECT message FROM wire_answer('vault decrypt', '{}', 500, decode('" . unpack('H*', errors('a\u0007b')) . "', 'hex'))"),
	'a?b', 'nothing unprintable in a message');

# ---- random changes ----
my $seed = $ENV{CMEK_SEED} // int(rand(2**31));
my $rounds = $ENV{CMEK_WIRE_ROUNDS} // 20000;
is(sql("SELECT wire_mutate($seed, $rounds)"), $rounds, "$rounds answers with random changes, seed $seed");

$node->stop;
done_testing();
