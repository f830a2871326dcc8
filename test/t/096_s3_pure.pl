# The store of snapshots in S3 as pure functions: addresses, requests with the
# signatures that AWS's own botocore makes of them, sizes of parts, answers.
# Needs the module test/modules/s3, which make test installs.  AWS's examples of
# signatures for S3 are in 080_aws_pure.pl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('s3pure');
# a name of a file is not ASCII
$node->init(extra => [ '--no-locale', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cmek_test_s3'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_s3');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# ---- addresses ----
my $long = 'x' x 801;
for (['s3://bucket', 'bucket|'], ['s3://bucket/', 'bucket|'], ['s3://my.bucket-1/a/b', 'my.bucket-1|a/b/'],
	['s3://bucket/a b/', 'bucket|a b/'],
	['s3://', qr/not the name of a bucket/], ['s3://ab', qr/not the name of a bucket/],
	['s3://Bucket', qr/not the name of a bucket/], ['s3://-bucket', qr/not the name of a bucket/],
	['s3://buck..et/x', qr/not the name of a bucket/], ['s3://buck@et', qr/not the name of a bucket/],
	['s3://' . 'b' x 64, qr/not the name of a bucket/], ['s3://bucket//x', qr/empty part/],
	['s3://bucket/a/../b', qr/empty part/], ["s3://bucket/a/./b", qr/empty part/],
	["s3://bucket/a\tb", qr/control character/], ["s3://bucket/$long", qr/longer than 800/],
	['https://bucket', qr/begin with "s3:/])
{
	my ($url, $wanted) = @$_;
	my $got = sql("SELECT s3_location('$url')");

	ref $wanted ? like($got, $wanted, substr($url, 0, 40)) : is($got, $wanted, $url);
}
# the setting refuses them, too
for ('s3://', 's3://Bucket', 's3://bucket//x', 'relative', 'http://bucket')
{
	my (undef, undef, $stderr) = $node->psql('postgres', "ALTER SYSTEM SET cmek.snapshot_directory = '$_'");
	like($stderr, qr/invalid value for parameter/, "setting \"$_\" is refused");
}
for ('ftp://x', 'http://example.com')
{
	my (undef, undef, $stderr) = $node->psql('postgres', "ALTER SYSTEM SET cmek.s3_endpoint = '$_'");
	like($stderr, qr/must begin with "https/, "endpoint \"$_\" is refused");
}

# ---- requests; the signatures are botocore's ----
my $host = 'examplebucket.s3.us-east-1.amazonaws.com';
my $empty = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
my $hello = '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824';
my $checksum = 'LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=';

sub request
{
	my ($operation, $bucket, $key, $endpoint, $encryption, $token, $body) = @_;
	my ($first, @lines) = split /\n/, sql("SELECT s3_request($operation, '$bucket', E'$key', '$endpoint', '$encryption', '$token', '$body')");
	my %headers = map { split /: /, $_, 2 } @lines;
	my ($names, $signature) = ($headers{Authorization} // '') =~ /SignedHeaders=(.*), Signature=(.*)/;

	return ($first, \%headers, $names, $signature);
}

my ($first, $headers, $names, $signature) = request(0, 'examplebucket', 'a b/c$\u00e9+x', '', 'AES256', '', 'hello');
is($first, "PUT https://$host/a%20b/c%24%C3%A9%2Bx", 'put: encoded once');
is($headers->{'x-amz-checksum-sha256'}, $checksum, '... checksum');
is($headers->{'x-amz-content-sha256'}, $hello, '... what is signed of the body');
is($headers->{'x-amz-server-side-encryption'}, 'AES256', '... encryption');
is($names, 'host;x-amz-checksum-sha256;x-amz-content-sha256;x-amz-date;x-amz-server-side-encryption', '... signed headers');
is($signature, '01c1333ab12c49f6e0b3bc04eadaf46f43ca668e6537f680790b14f3bac95e11', '... signature');

($first, $headers, $names, $signature) = request(1, 'examplebucket', 'a/b', '', 'aws:kms', 'tok/en+', '');
is($first, "POST https://$host/a/b?uploads=", 'begin an upload');
is($headers->{'x-amz-checksum-algorithm'}, 'SHA256', '... with checksums');
is($headers->{'x-amz-security-token'}, 'tok/en+', '... session token');
is($signature, '03d1ddc2d6153e512eaedb4544425d11f97b3ce01f101df2005e43f83841afed', '... signature');

($first, $headers, $names, $signature) = request(2, 'exam.ple', 'a/b', '', 'AES256', '', 'hello');
is($first, 'PUT https://s3.us-east-1.amazonaws.com/exam.ple/a/b?partNumber=7&uploadId=id%2F%2B%20%3D',
	'a part; a bucket with a dot is in the path');
is($headers->{'x-amz-server-side-encryption'}, undef, '... encryption is said when the upload begins');
is($signature, '0b87af18153d573dddfbdecf2d9f2fbd5adcde3acbff43b0333f794a5ae68742', '... signature');

($first, $headers, $names, $signature) = request(3, 'examplebucket', 'a/b', 'http://127.0.0.1:9000', '', '', '<x/>');
is($first, 'POST http://127.0.0.1:9000/examplebucket/a/b?uploadId=id%2F%2B%20%3D', 'complete, at another endpoint');
is($headers->{host}, '127.0.0.1:9000', '... whose name is signed');
is($signature, 'ecec998911bb970ca4153fbf74753dcc88319a4b307a34655f868fda56b8003b', '... signature');

($first, $headers, $names, $signature) = request(4, 'examplebucket', 'a/b', '', '', '', '');
is($first, "DELETE https://$host/a/b?uploadId=id%2F%2B%20%3D", 'abort');
is($signature, 'f9ac693fc170ac15264fa1d20925d25aac01bee7a20bacd4d67ecda9f4cc1e45', '... signature');

($first, $headers, $names, $signature) = request(5, 'examplebucket', 'a/b', '', '', '', '');
is($first, "GET https://$host/a/b", 'get');
is("$headers->{range} $headers->{'if-match'}", 'bytes=0-9 "e"', '... a range, of one object');
is($headers->{'x-amz-content-sha256'}, $empty, '... without a body');
is($signature, 'b04a8156cbe31f22b8f666e0aa83edde806c294d17440212846d8f6c777a9bac', '... signature');

($first, $headers, $names, $signature) = request(6, 'examplebucket', 'a/b', '', '', '', '');
is($first, "DELETE https://$host/a/b", 'delete');
is($signature, 'a7cd4bb0fa0dbfcdeca18dc6fbd3cf9dec9d43897b2fee666e126d5f47486cce', '... signature');

is((request(5, 'examplebucket', 'x' x 5000, '', '', '', ''))[0], 'refused', 'a key that does not fit');
is((request(5, 'examplebucket', 'x', '', '', 'x' x 6140, ''))[0], "GET https://$host/x", 'the longest token fits');
is((request(5, 'examplebucket', 'x', 'https://user@host', '', '', ''))[0], 'refused', 'an endpoint with a user');

# ---- parts ----
is(sql('SELECT s3_part_size(1), s3_part_size(700), s3_part_size(701), s3_part_size(4901), s3_part_size(10000)'),
	'8388608|8388608|16777216|1073741824|1073741824', 'parts grow');
is(sql('SELECT sum(s3_part_size(i)) >= 5::int8 << 40, min(s3_part_size(i)) >= 5 << 20, max(s3_part_size(i)) <= 5::int8 << 30
	FROM generate_series(1, 10000) i'), 't|t|t', '10,000 have room for 5 TiB; none is less than 5 MiB or more than 5 GiB');
unlike(sql('SELECT s3_complete(10000)'), qr/too long/, 'the list of 10,000 parts has room');
is(sql('SELECT s3_complete(1)'), '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Part><PartNumber>1'
	. '</PartNumber><ETag>' . 'e' x 127 . '</ETag><ChecksumSHA256>' . 'A' x 43 . '=</ChecksumSHA256></Part></CompleteMultipartUpload>',
	'what completes an upload');

# ---- answers ----
is(sql("SELECT s3_upload_id('<?xml version=\"1.0\"?><InitiateMultipartUploadResult xmlns=\"x\"><Bucket>b</Bucket><UploadId>a&amp;b</UploadId></InitiateMultipartUploadResult>')"),
	'a&b', 'id of an upload');
is(sql("SELECT s3_upload_id('$_')"), 'none', "no id: $_")
  for ('', '<UploadId></UploadId>', '<UploadId>a b</UploadId>', '<UploadId>x', '<UploadId>' . 'x' x 1024 . '</UploadId>');
is(sql("SELECT s3_completed('<CompleteMultipartUploadResult><ETag>&quot;e-2&quot;</ETag></CompleteMultipartUploadResult>')"), 't',
	'completed');
is(sql("SELECT s3_completed('$_')"), 'f', "not completed: $_")
  for ('', '<Error><Code>InternalError</Code></Error>', '<ETag>x</ETag><Code>InternalError</Code>');
is(sql("SELECT s3_range('bytes 0-99/1234')"), '0 99 1234', 'a range');
is(sql("SELECT s3_range('bytes 5-5/6')"), '5 5 6', 'of one byte');
is(sql("SELECT s3_range('$_')"), 'none', "no range: $_")
  for ('', 'bytes */10', 'bytes 5-4/10', 'bytes 0-10/10', 'bytes -1-2/10', 'bytes 0-1/10x', 'bytes 0-1', 'items 0-1/2',
	'bytes 0-1/99999999999999999999999');

sub error
{
	my ($status, $code, $more) = @_;
	return sql("SELECT s3_error($status, '<Error><Code>$code</Code><Message>m</Message>" . ($more // '') . "</Error>')");
}
for ([ 503, 'SlowDown', 'unreachable', 0 ], [ 500, 'InternalError', 'unreachable', 0 ], [ 200, 'InternalError', 'unreachable', 0 ],
	[ 429, 'TooManyRequests', 'unreachable', 0 ], [ 400, 'RequestTimeout', 'unreachable', 0 ], [ 400, 'BadDigest', 'unreachable', 0 ],
	[ 400, 'XAmzContentSHA256Mismatch', 'unreachable', 0 ], [ 409, 'OperationAborted', 'unreachable', 0 ],
	[ 403, 'AccessDenied', 'denied', 1 ], [ 403, 'InvalidAccessKeyId', 'misconfigured', 2 ], [ 400, 'ExpiredToken', 'misconfigured', 2 ],
	[ 403, 'RequestTimeTooSkewed', 'misconfigured', 3 ], [ 403, 'SignatureDoesNotMatch', 'misconfigured', 3 ],
	[ 404, 'NoSuchBucket', 'misconfigured', 0 ], [ 404, 'NoSuchKey', 'misconfigured', 0 ], [ 404, 'NoSuchUpload', 'misconfigured', 0 ],
	[ 400, 'EntityTooLarge', 'misconfigured', 0 ])
{
	my ($status, $code, $class, $remedy) = @$_;
	is(error($status, $code), "$class|$code|$remedy|", "error $code");
}
is(error(400, 'AuthorizationHeaderMalformed', '<Region>eu-central-1</Region>'), 'misconfigured|AuthorizationHeaderMalformed|0|eu-central-1',
	'an error that names the region');
is(error(400, 'AuthorizationHeaderMalformed', '<Region>EU <b/></Region>'), 'misconfigured|AuthorizationHeaderMalformed|0|',
	'... and one that does not');

$node->stop;
done_testing();
