# Provider cmek_aws as pure functions: AWS's own signature vectors, requests as
# the API reference has them, every class of error, and random changes.  Needs
# the module test/modules/aws, which make test installs.
#
#   CMEK_AWS_ROUNDS  random changes (20,000); CMEK_SEED  where they begin

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = PostgreSQL::Test::Cluster->new('awspure');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_aws');

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub quote { my ($s) = @_; $s =~ s/'/''/g; return "'$s'" }

# ---- signatures: AWS's "Signature Version 4 test suite" ----
my $secret = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY';
my $date = '20150830T123600Z';
my @host = ('host', 'example.amazonaws.com');
my $token = 'AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8'
  . 'YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHN'
  . 'VXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==';

sub sign
{
	my ($method, $query, $headers, $body, $region, $service, $when, $key) = @_;

	return sql("SELECT aws_sigv4('$method', '/', '$query', ARRAY[" . join(', ', map { quote($_) } @$headers)
		  . "]::text[], " . quote($body) . ", '" . ($key // 'AKIDEXAMPLE') . "', '$secret', '$region', '$service', '$when')");
}

for (
	[ 'get-vanilla', 'GET', '', [ @host, 'x-amz-date', $date ], '', 'host;x-amz-date',
		'5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31' ],
	[ 'get-vanilla-query-order-key-case', 'GET', 'Param1=value1&Param2=value2', [ @host, 'x-amz-date', $date ], '',
		'host;x-amz-date', 'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500' ],
	[ 'get-header-key-duplicate', 'GET', '', [ @host, 'my-header1', 'value2,value2,value1', 'x-amz-date', $date ], '',
		'host;my-header1;x-amz-date', 'c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea' ],
	[ 'get-header-value-trim', 'GET', '', [ @host, 'my-header1', 'value1', 'my-header2', '"a b c"', 'x-amz-date', $date ], '',
		'host;my-header1;my-header2;x-amz-date', 'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736' ],
	[ 'post-vanilla', 'POST', '', [ @host, 'x-amz-date', $date ], '', 'host;x-amz-date',
		'5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b' ],
	[ 'post-header-key-sort', 'POST', '', [ @host, 'my-header1', 'value1', 'x-amz-date', $date ], '',
		'host;my-header1;x-amz-date', 'c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c' ],
	[ 'post-sts-header-before', 'POST', '', [ @host, 'x-amz-date', $date, 'x-amz-security-token', $token ], '',
		'host;x-amz-date;x-amz-security-token', '85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead' ],
	[ 'post-x-www-form-urlencoded', 'POST', '',
		[ 'content-type', 'application/x-www-form-urlencoded', @host, 'x-amz-date', $date ], 'Param1=value1',
		'content-type;host;x-amz-date', 'ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a' ])
{
	my ($name, $method, $query, $headers, $body, $names, $signature) = @$_;

	is(sign($method, $query, $headers, $body, 'us-east-1', 'service', $date),
		"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
		  . "SignedHeaders=$names, Signature=$signature", $name);
}
# the worked example of AWS's documentation: IAM ListUsers
like(sign('GET', 'Action=ListUsers&Version=2010-05-08',
		[ 'content-type', 'application/x-www-form-urlencoded; charset=utf-8', 'host', 'iam.amazonaws.com', 'x-amz-date', $date ],
		'', 'us-east-1', 'iam', $date),
	qr/Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7$/, "the documentation's example");

# ---- signatures: the examples of "Authenticating Requests" in S3's API reference ----
my $s3_secret = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY';

for (['GET', '/test.txt', '', [ range => 'bytes=0-9' ], '', 'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41'],
	['PUT', '/test%24file.text', '', [ 'x-amz-storage-class' => 'REDUCED_REDUNDANCY' ], 'Welcome to Amazon S3.',
		'98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd'],
	['GET', '/', 'lifecycle=', [], '', 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543'],
	['GET', '/', 'max-keys=2&prefix=J', [], '', '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7'])
{
	my ($method, $path, $query, $more, $body, $signature) = @$_;
	my %headers = (host => 'examplebucket.s3.amazonaws.com', 'x-amz-date' => '20130524T000000Z',
		'x-amz-content-sha256' => sha256_hex($body), @$more);
	$headers{date} = 'Fri, 24 May 2013 00:00:00 GMT' if $method eq 'PUT';
	my $list = join(', ', map { quote($_), quote($headers{$_}) } sort keys %headers);

	like(sql("SELECT aws_sigv4('$method', '$path', '$query', ARRAY[$list], " . quote($body)
		  . ", 'AKIAIOSFODNN7EXAMPLE', '$s3_secret', 'us-east-1', 's3', '20130524T000000Z')"),
		qr/Signature=$signature$/, "S3: $method $path?$query");
}

# ---- names of keys, regions, addresses ----
my $id = '1234abcd-12ab-34cd-56ef-1234567890ab';
my $mrk = 'mrk-1234abcd12ab34cd56ef1234567890ab';
my $arn = "arn:aws:kms:us-west-2:111122223333:key/$id";
my $mrk_arn = "arn:aws:kms:us-west-2:111122223333:key/$mrk";

sub key_is
{
	my ($args, $expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql('SELECT aws_key(' . join(', ', map { quote($_) } @$args) . ')'), $expected, $name);
}
key_is([ $arn, '', 'eu-west-1', 'us-east-1' ], "us-west-2 $arn", 'an ARN says where it is');
key_is([ $mrk_arn, '', 'eu-west-1', '' ], "eu-west-1 arn:aws:kms:eu-west-1:111122223333:key/$mrk multi-region",
	'a key with replicas: the replica of cmek.region');
key_is([ $mrk_arn, '', '', 'us-east-1' ], "us-west-2 $mrk_arn multi-region", '... and without it, where it says');
key_is([ $mrk, 'us-west-2', 'eu-west-1', '' ], "eu-west-1 $mrk multi-region", 'by its id');
key_is([ $id, 'us-west-2', 'eu-west-1', 'us-east-1' ], "us-west-2 $id", 'an id: option, setting, environment');
key_is([ $id, '', 'eu-west-1', 'us-east-1' ], "eu-west-1 $id", '... in this order');
key_is([ $id, '', '', 'us-east-1' ], "us-east-1 $id", '... the last one');
like(sql("SELECT aws_key('$id', '', '', '')"), qr/^error: .*which region/, '... or it is said');
key_is([ 'alias/a/b_c-1', '', 'eu-west-1', '' ], 'eu-west-1 alias/a/b_c-1 alias', 'an alias');
key_is([ 'arn:aws-cn:kms:cn-north-1:1:alias/x', '', '', '' ], 'cn-north-1 arn:aws-cn:kms:cn-north-1:1:alias/x alias', 'its ARN');
like(sql("SELECT aws_key(" . quote($_) . ", '', 'us-east-1', '')"), qr/^error: /, "no key: $_")
  for ('', 'alias/', 'key/x', "$id x", "arn:aws:s3:us-west-2:1:key/$id", 'arn:aws:kms:us-west-2:1:key/', "arn:aws:kms::1:key/$id",
	"arn:aws:kms:evil.example/:1:key/$id", "arn:aws:kms:us-west-2::key/$id", "$arn\"", "alias/a\"b", 'arn:aws:kms', 'x' x 600);
like(sql("SELECT aws_key('$arn', 'eu-west-1', '', '')"), qr/^error: .*another region/, 'an ARN and an option that differ');

is(sql("SELECT aws_key_matches('$arn', 'us-west-2', '$arn')"), 't', 'the same key');
is(sql("SELECT aws_key_matches('$_->[0]', 'us-west-2', '$_->[1]')"), 'f', "another: $_->[2]")
  for ([ $arn, $mrk_arn, 'id' ], [ $arn, $arn =~ s/west/east/r, 'region' ], [ $arn, $arn =~ s/111122223333/1/r, 'account' ],
	[ $arn, $arn =~ s/key\//alias\//r, 'an alias' ], [ $id, $mrk_arn, 'id' ], [ $arn, 'x', 'nothing' ],
	[ 'arn:aws:kms:us-west-2:1:alias/a', $arn, 'account of an alias' ]);
is(sql("SELECT aws_key_matches('alias/a', 'us-west-2', '$arn')"), 't', 'an alias may be any key');
is(sql("SELECT aws_key_version('$arn')"), $arn, 'a version');
is(sql("SELECT aws_key_version('$mrk_arn')"), $mrk_arn =~ s/us-west-2//r, '... the same in all regions');
is(sql("SELECT aws_key_for_blob('alias/a', 'us-west-2', '$arn')"), $arn, 'an alias: the key that wrapped');
is(sql("SELECT aws_key_for_blob('alias/a', 'eu-west-1', '@{[$mrk_arn =~ s/us-west-2//r]}')"), $mrk_arn =~ s/us-west-2/eu-west-1/r,
	'... its replica');
is(sql("SELECT aws_key_for_blob('arn:aws:kms:us-west-2:1:alias/a', 'us-west-2', '$arn') IS NULL"), 't', '... of its account only');
is(sql("SELECT aws_key_for_blob('alias/a', 'eu-west-1', '$arn') IS NULL"), 't', '... and region');
is(sql("SELECT aws_key_for_blob('$arn', 'us-west-2', 'arn:aws:kms:us-west-2:1:key/other')"), $arn, 'a key: itself, whatever the row says');

is(sql("SELECT aws_endpoint(NULL, 'kms', '$_->[0]')"), "https://kms.$_->[1]/ kms.$_->[1]", "address in $_->[0]")
  for ([ 'eu-central-1', 'eu-central-1.amazonaws.com' ], [ 'cn-north-1', 'cn-north-1.amazonaws.com.cn' ],
	[ 'us-gov-west-1', 'us-gov-west-1.amazonaws.com' ], [ 'us-iso-east-1', 'us-iso-east-1.c2s.ic.gov' ]);
is(sql("SELECT aws_endpoint('https://vpce-1.kms.example:443', 'kms', 'x')"), 'https://vpce-1.kms.example:443/ vpce-1.kms.example',
	'an endpoint: the Host header');
is(sql("SELECT aws_endpoint('http://127.0.0.1:80/', 'kms', 'x')"), 'http://127.0.0.1:80/ 127.0.0.1', '... without the usual port');
is(sql("SELECT aws_endpoint('http://127.0.0.1:8080', 'kms', 'x')"), 'http://127.0.0.1:8080/ 127.0.0.1:8080', '... with another');
is(sql("SELECT aws_endpoint('$_', 'kms', 'x') IS NULL"), 't', "no endpoint: $_")
  for ('kms.example', 'https://', 'https://a/b', 'https://u:p@a', 'https://a?b', 'https://a#b');

# ---- requests: as the API reference shows them ----
my $uuid = '00112233-4455-6677-8899-aabbccddeeff';
sub body
{
	my ($what, $bytes, @args) = @_;
	push @args, '' while @args < 3;

	return sql("SELECT aws_body('$what', '$uuid', " . quote($bytes) . ', ' . join(', ', map { quote($_) } @args) . ')');
}
my $context = qq("EncryptionContext":{"cmek_table_key":"$uuid"});
is(body('GenerateDataKey', '', 'alias/x'), qq({"KeyId":"alias/x","KeySpec":"AES_256",$context}), 'GenerateDataKey');
is(body('Encrypt', 'abcd', 'k'), qq({"KeyId":"k","Plaintext":"YWJjZA==",$context}), 'Encrypt');
is(body('Decrypt', 'abcde', 'k'), qq({"KeyId":"k","CiphertextBlob":"YWJjZGU=",$context}), 'Decrypt');
is(body('DescribeKey', '', 'a"\\b'), q({"KeyId":"a\"\\\\b"}), 'DescribeKey, quoted');
is(body('AssumeRole', '', 'arn:aws:iam::1:role/a', 's', 'x&y=z +é'),
	'Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fa&RoleSessionName=s&ExternalId=x%26y%3Dz%20%2B%C3%A9',
	'AssumeRole, encoded');
is(body('AssumeRole', '', 'r', 's', ''), 'Action=AssumeRole&Version=2011-06-15&RoleArn=r&RoleSessionName=s', '... without external id');
is(body('AssumeRoleWithWebIdentity', '', 'r', 's', 't.t'),
	'Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=r&RoleSessionName=s&WebIdentityToken=t.t', 'web identity');
is(body('GetCallerIdentity', ''), 'Action=GetCallerIdentity&Version=2011-06-15', 'GetCallerIdentity');
is(body('Decrypt', 'x' x 20000, 'k'), 'too long', 'what does not fit');

# ---- answers ----
sub answer { return sql('SELECT aws_answer(' . quote($_[0]) . ', ' . quote($_[1]) . ')') }
my $zeros = 'A' x 43 . '=';
is(answer('GenerateDataKey', qq({"KeyId":"$arn","Plaintext":"$zeros","CiphertextBlob":"AAEC","New":[1]})), "$arn 3 0", 'a data key');
is(answer('Decrypt', qq({"KeyId":"$arn","Plaintext":"$zeros","EncryptionAlgorithm":"SYMMETRIC_DEFAULT"})), "$arn 0 0", 'Decrypt');
is(answer('Encrypt', qq({"KeyId":"$arn","CiphertextBlob":"AAEC"})), "$arn 3 0", 'Encrypt');
is(answer('DescribeKey', qq({"KeyMetadata":{"Arn":"$arn","KeyState":"Enabled","KeyUsage":"ENCRYPT_DECRYPT","CustomerMasterKeySpec":"SYMMETRIC_DEFAULT"}})),
	"$arn 0 0EnabledENCRYPT_DECRYPTSYMMETRIC_DEFAULT", 'DescribeKey, as older endpoints answer');
is(answer($_->[0], $_->[1]), 'no', "no answer: $_->[0] $_->[1]")
  for ([ 'Decrypt', '' ], [ 'Decrypt', '[]' ], [ 'Decrypt', '{}' ], [ 'Decrypt', qq({"KeyId":"k"}) ],
	[ 'Decrypt', qq({"KeyId":7,"Plaintext":"$zeros"}) ], [ 'Decrypt', '{"KeyId":"k","Plaintext":null}' ],
	[ 'Decrypt', '{"KeyId":"k","Plaintext":"AAAA"}' ], [ 'Decrypt', qq({"KeyId":"k","Plaintext":"A$zeros"}) ],
	[ 'Decrypt', qq({"KeyId":"k","Plaintext":"@{['A' x 42]}B="}) ], [ 'Decrypt', qq({"KeyId":"k","Plaintext":"$zeros"} x) ],
	[ 'Decrypt', qq({"KeyId":"k","Plaintext":"$zeros","Plaintext":"$zeros"}) ], [ 'Decrypt', qq({"KeyId":"a\\u0000b","Plaintext":"$zeros"}) ],
	[ 'GenerateDataKey', qq({"KeyId":"k","Plaintext":"$zeros","CiphertextBlob":""}) ], [ 'DescribeKey', '{"KeyMetadata":[]}' ],
	[ 'Encrypt', qq({"KeyId":"k","CiphertextBlob":"@{['AAAA' x 700]}"}) ]);
is(answer('role', '<AssumeRoleResponse><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>a/b+c</SecretAccessKey>'
		  . '<SessionToken>t&amp;t</SessionToken><Expiration>2030-01-02T03:04:05Z</Expiration></Credentials></AssumeRoleResponse>'),
	'A a/b+c t&t 1893553445', "a role's credentials");
is(answer('metadata', '{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"s","Token":"t","Expiration":"2030-01-02T03:04:05Z"}'),
	'A s t 1893553445', "a host's credentials");
is(answer('metadata', '{"Code":"AssumeRoleUnauthorizedAccess","Message":"no"}'), 'no', 'a host without a role');
is(answer('identity', '<R><GetCallerIdentityResult><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></GetCallerIdentityResult></R>'),
	'arn:aws:sts::1:assumed-role/r/s', 'who we are');
is(answer('identity', '<html><Arn>x</Arn></html>'), 'no', '... is not what anything says');

# ---- errors: the table of classes ----
sub error { return sql("SELECT aws_error($_[0], " . quote($_[1]) . ', ' . quote($_[2]) . ')') }
sub kms_error { my ($status, $code) = @_; return error($status, '', qq({"__type":"$code","message":"m"})) }
for (
	[ 'denied', 400, 'DisabledException' ], [ 'denied', 400, 'NotFoundException' ], [ 'denied', 400, 'KMSInvalidStateException' ],
	[ 'denied prove', 400, 'AccessDeniedException' ],
	[ 'unreachable', 429, 'TooManyRequestsException' ], [ 'unreachable', 400, 'ThrottlingException' ], [ 'unreachable', 400, 'Throttling' ],
	[ 'unreachable', 500, 'KMSInternalException' ], [ 'unreachable', 503, 'DependencyTimeoutException' ],
	[ 'unreachable', 500, 'KeyUnavailableException' ], [ 'unreachable', 503, 'AccessDeniedException' ],
	[ 'unreachable', 400, 'IDPCommunicationError' ], [ 'unreachable', 400, 'LimitExceededException' ],
	[ 'misconfigured clock', 400, 'InvalidSignatureException' ], [ 'misconfigured clock', 403, 'SignatureDoesNotMatch' ],
	[ 'misconfigured renew', 400, 'UnrecognizedClientException' ], [ 'misconfigured renew', 403, 'InvalidClientTokenId' ],
	[ 'misconfigured renew', 400, 'ExpiredTokenException' ], [ 'misconfigured renew', 403, 'ExpiredToken' ],
	[ 'misconfigured', 400, 'ValidationException' ], [ 'misconfigured', 400, 'InvalidKeyUsageException' ],
	[ 'misconfigured', 400, 'SomethingNew' ],
	[ 'corrupt', 400, 'InvalidCiphertextException' ], [ 'corrupt', 400, 'IncorrectKeyException' ])
{
	my ($class, $status, $code) = @$_;

	is(kms_error($status, $code), "$class $code: m", "$status $code: $class");
}
is(error(400, '', '{"__type":"com.amazonaws.kms#DisabledException:http://x/","Message":"M"}'), 'denied DisabledException: M',
	'a namespace, an address, another spelling');
is(error(400, 'NotFoundException:http://x', '{"message":"m"}'), 'denied NotFoundException: m', 'the code in a header');
is(error(403, '', '<ErrorResponse><Error><Code>AccessDenied</Code><Message>a &lt; b</Message></Error></ErrorResponse>'),
	'denied prove AccessDenied: a < b', 'XML');
is(error(403, '', '<html><title>no</title></html>'), 'unreachable : ', 'a page of a proxy is nobody\'s denial');
is(error(404, '', ''), 'unreachable : ', 'nor is nothing at all');
is(error(400, '', '{"__type":"KMSInvalidStateException","message":"k is Unavailable."}'),
	'unreachable KMSInvalidStateException: k is Unavailable.', 'a key store that is away');
is(error(400, '', qq({"__type":"DisabledException","message":"a\\tb\\u0007é"})), 'denied DisabledException: a?b???', 'what may be shown');
my $canonical = q(It does not match. The Canonical String for this request should have been\n'POST\nx-amz-security-token:SECRET');
is(error(403, '', qq({"__type":"InvalidSignatureException","message":"$canonical"})),
	'misconfigured clock InvalidSignatureException: It does not match',
	'the session token in a canonical request is not shown');
is(error(400, '', qq({"__type":"ValidationException","message":"a\\nSECRET"})), 'misconfigured ValidationException: a', '... nor further lines');

# ---- AWS's own files ----
my $file = "# x\n[default]\naws_access_key_id = A\naws_secret_access_key=b=c\nregion = eu-west-1\ns3 =\n  region = no\n"
  . "[profile p]\nrole_arn = r\nsource_profile = default\n[ q ]\r\naws_access_key_id=Q\r\n";
is(sql("SELECT aws_profile(" . quote($file) . ", '$_->[0]', $_->[1])"), $_->[2], "profile $_->[0] $_->[1]")
  for ([ 'default', 'false', 'A,b=c,,eu-west-1,,' ], [ 'default', 'true', 'A,b=c,,eu-west-1,,' ], [ 'p', 'true', ',,,,r,default' ],
	[ 'p', 'false', 'no' ], [ 'q', 'false', 'Q,,,,,' ], [ 'q', 'true', 'no' ], [ 'none', 'true', 'no' ]);

# ---- heads, dates, base64 ----
my $head = "HTTP/1.1 429 X\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRETRY-AFTER:  7 \r\nX-Y: z\r\n\r\n";
is(sql("SELECT aws_header(" . quote($head) . ", 'x-y')"), 'z', 'a header');
is(sql("SELECT aws_header(" . quote($head) . ", 'x') IS NULL"), 't', 'not a part of its name');
is(sql("SELECT aws_retry_after(" . quote($head) . ")"), '7000', 'Retry-After in seconds');
is(sql("SELECT aws_retry_after(" . quote($head =~ s/:  7 /: Sun, 06 Nov 1994 08:49:40 GMT/r) . ")"), '3000', 'as a date');
is(sql("SELECT aws_retry_after(" . quote($head =~ s/:  7 /: $_->[0]/r) . ")"), $_->[1], "Retry-After: $_->[0]")
  for ([ '-1', 0 ], [ 'soon', 0 ], [ '99999999999', 3600000 ], [ '0', 0 ]);
is(sql("SELECT aws_date('Sun, 06 Nov 1994 08:49:37 GMT')"), '784111777', "RFC 9110's date");
is(sql("SELECT aws_date('2015-08-30T12:36:00Z')"), '1440938160', 'a timestamp');
is(sql("SELECT aws_date('$_') IS NULL"), 't', "no date: $_")
  for ('', 'Sun, 06 Nov 1994 08:49:37', '2015-08-30T12:36:00', '2015-13-30T12:36:00Z', '2015-08-30 12:36:00Z', '2015-08-30T12:36:00+02:00');
# RFC 4648, 10
is(sql("SELECT convert_from(aws_base64('$_->[0]'), 'UTF8')"), $_->[1], "base64 $_->[0]")
  for ([ '', '' ], [ 'Zg==', 'f' ], [ 'Zm8=', 'fo' ], [ 'Zm9v', 'foo' ], [ 'Zm9vYg==', 'foob' ], [ 'Zm9vYmFy', 'foobar' ]);
is(sql("SELECT aws_base64(" . quote($_) . ") IS NULL"), 't', "not strict: $_")
  for ('Zg', 'Zg=', 'Zh==', 'Z===', '====', 'Zm9v ', "Zm9v\n", 'Zm-v', 'Zg==Zg==', '=Zg=');

# ---- random changes ----
my $seed = $ENV{CMEK_SEED} || int(rand(2**31));
my $rounds = $ENV{CMEK_AWS_ROUNDS} || 20000;
is(sql("SELECT aws_mutate($seed, $rounds)"), $rounds, "$rounds random changes, CMEK_SEED=$seed");

done_testing();
