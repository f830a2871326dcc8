# Snapshots in a bucket: the store itself, against moto, whose signatures and
# policies are enforced: parts, nothing half-made, who may what, faults, regions,
# clocks, cancelled and terminated backends, memory.  Needs the module
# test/modules/s3, which make test installs.
#
#   CMEK_S3_MB  length of the file that memory is measured with (100)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use CmekTest qw(sqlstate error_text);
use CmekStub;

# what the host of the tests has must not be found, nor asked for
delete @ENV{ grep { /^AWS_/ } keys %ENV };
my $dir = PostgreSQL::Test::Utils::tempdir();
$ENV{AWS_EC2_METADATA_DISABLED} = 'true';
$ENV{AWS_SHARED_CREDENTIALS_FILE} = "$dir/credentials";
$ENV{AWS_CONFIG_FILE} = "$dir/config";
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});

my $s3 = start_stub('s3');
my $url = $s3->url;
# what docs/snapshots-s3.md grants, and nothing else
my @actions = qw(s3:PutObject s3:GetObject s3:DeleteObject s3:AbortMultipartUpload s3:ListBucket);
my $db = $s3->tell('user', name => 'db', actions => \@actions);
my $MB = 1024 * 1024;

$s3->tell('bucket', name => 'snaps');
$s3->tell('bucket', name => 'far', region => 'eu-central-1');

my $node = PostgreSQL::Test::Cluster->new('s3');
$node->init;
$node->append_conf('postgresql.conf', join("\n",
		"shared_preload_libraries = 'cmek_test_s3'",
		"cmek.snapshot_directory = 's3://snaps/a/b'",
		"cmek.s3_endpoint = '$url'",
		"cmek.region = 'us-east-1'",
		''));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_s3');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub credentials
{
	my ($id, $secret) = @_;

	return spew("$dir/credentials", "[default]\naws_access_key_id = $id\naws_secret_access_key = $secret\n");
}

# Change settings, and wait until a new backend has them
sub set
{
	my (%settings) = @_;

	$node->append_conf('postgresql.conf', join("\n", map { "$_ = '$settings{$_}'" } keys %settings) . "\n");
	$node->reload;
	for my $name (keys %settings)
	{
		$node->poll_query_until('postgres', "SELECT current_setting('$name') = '$settings{$name}'")
		  or BAIL_OUT("$name is not set");
	}
	return;
}

sub objects { return $s3->tell('objects', bucket => 'snaps') }
sub uploads { return $s3->tell('uploads', bucket => 'snaps') }
sub names { return join(' ', sort keys %{ objects() }) }

# Neither an object of that name nor an upload is left
sub nothing_left
{
	my ($name, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is((exists objects()->{"a/b/$name"} ? 'object' : 'no object') . ', ' . uploads() . ' uploads',
		'no object, 0 uploads', "$what: nothing is left");
}

sub requests_of { return join(' ', map { (split / /, $_)[0] } @{ $s3->tell('count')->{requests} }) }

# The request that was sent when nothing was set up is the stub's own business
credentials($db->{id}, $db->{secret});

# ---- round trips ----
for ([ 'empty', 0, 'PUT', 'GET' ], [ 'small', 12345, 'PUT', 'GET' ], [ 'part', 8 * $MB, 'PUT', 'GET' ],
	[ 'more', 8 * $MB + 1, 'CREATE PART PART COMPLETE', 'GET GET' ], [ 'large', 12 * $MB, 'CREATE PART PART COMPLETE', 'GET GET' ],
	[ 'parts', 24 * $MB + 7, 'CREATE PART PART PART PART COMPLETE', 'GET GET GET GET' ])
{
	my ($name, $bytes, $writing, $reading) = @$_;

	$s3->tell('forget');
	my $md5 = sql("SELECT s3_write('$name', $bytes, 42)");
	is(requests_of(), $writing, "$name: requests that write it");
	is(objects()->{"a/b/$name"}, $bytes, '... it is in the bucket, under the prefix');
	$s3->tell('forget');
	is(sql("SELECT * FROM s3_read('$name')"), "$bytes|$md5", '... and read as it was written');
	is(requests_of(), $reading, '... by ranges');
}
isnt(sql("SELECT s3_write('other', 12345, 43)"), sql("SELECT md5 FROM s3_read('small')"), 'control: another seed, other bytes');
is(uploads(), 0, 'no upload is left open');

# one byte changed in the bucket: it is another file (snapfile.c notices)
my $before = sql("SELECT md5 FROM s3_read('large')");
$s3->tell('damage', bucket => 'snaps', name => 'a/b/large', at => 9 * $MB);
isnt(sql("SELECT md5 FROM s3_read('large')"), $before, 'control: a changed byte is read');

is(sql("SELECT s3_remove('small')"), 't', 'removed');
is(sql("SELECT s3_remove('small')"), 'f', '... it is not there any more');
like(error_text($node, "SELECT s3_read('small')"), qr/58P01: could not read "s3:\/\/snaps\/a\/b\/small": NoSuchKey/, '... nor read');
like(error_text($node, "SELECT s3_read('../x')"), qr/42602: invalid name of a snapshot/, 'a name that is none of ours');

set('cmek.s3_encryption' => 'AES256');
sql("SELECT s3_write('small', 1, 1)");
is($s3->tell('sent')->{encryption}, 'AES256', 'encryption is asked for, of an object');
set('cmek.s3_encryption' => 'aws:kms');
sql("SELECT s3_write('large', 9000000, 1)");
is($s3->tell('sent')->{encryption}, 'aws:kms', '... and of an upload');
set('cmek.s3_encryption' => 'bucket');

# ---- nothing half-made ----
sql("SELECT s3_write('gone', 20 * 1000000, 1, 'abandon')");
ok($s3->requests('CREATE') && $s3->requests('ABORT'), 'control: there was an upload to abandon');
nothing_left('gone', 'abandoned');
$s3->tell('forget');
sql("SELECT s3_write('gone', 1000, 1, 'abandon')");
is(requests_of(), '', 'abandoned before anything was sent: nothing to undo');
is(sqlstate($node, "SELECT s3_write('gone', 20 * 1000000, 1, 'forget')"), 'XX000', 'an error that nobody catches');
nothing_left('gone', '... uncaught error');
$s3->tell('forget');
isnt(sqlstate($node, "SELECT s3_write('gone', 20 * 1000000, 1, 'die')"), '', 'a backend that ends');
is($s3->requests('ABORT'), 1, '... aborts its upload first');
nothing_left('gone', '... ended backend');

# Cancel, or terminate, a backend while S3 does not answer to one
# request; what psql said about it
sub interrupt
{
	my ($function, $operation, $path) = @_;

	$s3->tell('fault', kind => 'hang', path => $path, times => 1, seconds => 60);
	$s3->tell('forget');
	my ($in, $out, $err) = ("SELECT pg_backend_pid();\nSELECT s3_write('gone', 20 * 1000000, 1);\n", '', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$psql->pump_nb;
		# a request that meets a fault is counted by its address
		last if $s3->requests($path) == 1 && $out =~ /\d/;
		select(undef, undef, undef, 0.1);
	}
	is($s3->requests($path), 1, "control: $operation hangs");
	my ($pid) = $out =~ /^(\d+)$/m;
	my $start = time;
	is(sql("SELECT $function"  =~ s/PID/$pid/r), 't', "$function while $operation hangs");
	$psql->finish;
	cmp_ok(time - $start, '<', 40, '... does not wait for S3');
	nothing_left('gone', '... and');
	$s3->tell('clear');
	return $err;
}
like(interrupt('pg_cancel_backend(PID)', 'PART', '?partNumber=2'), qr/canceling statement/, '... cancelled');
like(interrupt('pg_cancel_backend(PID)', 'CREATE', '?uploads'), qr/canceling statement/, '... cancelled');
like(interrupt('pg_cancel_backend(PID)', 'COMPLETE', 'gone?uploadId'), qr/canceling statement/, '... cancelled');
like(interrupt('pg_terminate_backend(PID)', 'PART', '?partNumber=2'), qr/terminating connection due to administrator command/,
	'... terminated');
is($s3->requests('ABORT'), 1, '... after its upload was aborted');
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal/, '... and nothing crashed');

# ---- faults that pass ----
sub survives
{
	my ($what, $sql, @faults) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$s3->tell('fault', %$_) for @faults;
	my $md5 = sql($sql);
	is(scalar @{ $s3->tell('faults_left') }, 0, "$what: control: the faults were met");
	return $md5;
}
my $write = "SELECT s3_write('hard', 12 * 1000000, 7)";
my $right = sql($write);
for ([ 'two 503 for a part', { kind => 'status', status => 503, path => '?partNumber=1', times => 2 } ],
	[ 'SlowDown', { kind => 'status', status => 503, path => '?partNumber=2', body => '<Error><Code>SlowDown</Code></Error>' } ],
	[ '429', { kind => 'status', status => 429, path => '?partNumber=2' } ],
	[ 'a part refused for its checksum', { kind => 'status', status => 400, path => '?partNumber=2', body => '<Error><Code>BadDigest</Code></Error>' } ],
	[ 'a closed connection for a part', { kind => 'close', path => '?partNumber=2' } ],
	[ 'half an answer when it begins', { kind => 'truncate', path => '?uploads' } ],
	[ '500 inside of 200 when it is completed', { kind => 'body', path => 'hard?uploadId', body => '<Error><Code>InternalError</Code><Message>m</Message></Error>' } ])
{
	my ($what, @faults) = @$_;
	is(survives($what, $write, @faults), $right, "... written");
	is(sql("SELECT * FROM s3_read('hard')"), "12000000|$right", '... and there');
}
for ([ 'half an answer', { kind => 'truncate', path => 'hard' } ], [ 'a closed connection', { kind => 'close', path => 'hard' } ],
	[ '500', { kind => 'status', status => 500, path => 'hard' } ])
{
	my ($what, @faults) = @$_;
	is(survives("reading: $what", "SELECT md5 FROM s3_read('hard')", @faults), $right, "... read");
}
# what S3 did, but did not say
for my $operation ('PART', 'COMPLETE')
{
	sql("SELECT s3_remove('hard')");
	$s3->tell('lose', operation => $operation);
	is(sql($write), $right, "the answer to $operation is lost: written");
	is(sql("SELECT * FROM s3_read('hard')"), "12000000|$right", '... and there');
}
is($s3->tell('lose', operation => 'PUT') // '', '', 'the answer to PUT is lost');
is(sql("SELECT s3_write('tiny', 10, 7)"), sql("SELECT md5 FROM s3_read('tiny')"), '... written');
# by the first attempt, with an upload of its own, this one is not the fault's
$s3->tell('drop_uploads', bucket => 'snaps');

# ---- faults that do not ----
sub fails
{
	my ($state, $pattern, $sql, $what) = @_;
	my $text = error_text($node, $sql);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($text, qr/(?:ERROR|FATAL):  $state: .*$pattern/s, $what);
	unlike($text, qr/\Q$db->{secret}\E/, '... and tells no secret');
	return $text;
}
$s3->tell('fault', kind => 'status', status => 500, path => '?partNumber=2', times => 0, body => '<Error><Code>InternalError</Code><Message>We</Message></Error>');
fails('58030', 'could not upload a part of "s3://snaps/a/b/gone": InternalError.*S3 answered: We\.', "SELECT s3_write('gone', 12 * 1000000, 1)",
	'a part that cannot be uploaded');
$s3->tell('clear');
nothing_left('gone', '... failed');
$s3->tell('fault', kind => 'huge', path => '?uploads', times => 0);
fails('58030', 'AnswerTooLarge', "SELECT s3_write('gone', 12 * 1000000, 1)", 'an answer without an end');
$s3->tell('clear');
$s3->tell('fault', kind => 'body', path => '?uploads', times => 1, body => '<x/>');
fails('58030', 'It has no id of an upload', "SELECT s3_write('gone', 12 * 1000000, 1)", 'an upload without an id');
$s3->tell('fault', kind => 'body', path => 'hard', times => 1, body => 'something else');
fails('58030', 'not the range of bytes', "SELECT s3_read('hard')", 'an answer that is not the range');
$s3->tell('fault', kind => 'status', status => 206, path => 'hard', times => 1, body => 'short',
	headers => { 'Content-Range' => 'bytes 0-8388607/12000000', ETag => '"x"' });
fails('58030', 'not the range of bytes', "SELECT s3_read('hard')", 'fewer bytes than the range has');
$s3->tell('replace_after', name => 'a/b/hard', bucket => 'snaps');
fails('58000', 'PreconditionFailed', "SELECT s3_read('hard')", 'another object takes its place in between');

# ---- who, and where ----
set('cmek.snapshot_directory' => 's3://no-such-bucket/x');
fails('58P01', 'could not write "s3://no-such-bucket/x/f": NoSuchBucket.*S3 answered: \w.*HINT:  cmek.snapshot_directory names the bucket',
	"SELECT s3_write('f', 10, 1)", 'missing bucket');
fails('58P01', 'could not begin to upload .*NoSuchBucket', "SELECT s3_write('f', 12 * 1000000, 1)", '... for an upload');
fails('58P01', 'could not read .*NoSuchBucket', "SELECT s3_read('f')", '... for reading');
set('cmek.snapshot_directory' => 's3://far/x');
fails('58000', 'AuthorizationHeaderMalformed.*Bucket "far" is in region "eu-central-1", but was asked for in "us-east-1": set cmek.s3_region',
	"SELECT s3_write('f', 10, 1)", 'wrong region: the right one is named');
set('cmek.s3_region' => 'eu-central-1');
is(sql("SELECT s3_write('f', 10, 1)"), sql("SELECT md5 FROM s3_read('f')"), '... and used');
set('cmek.s3_region' => '', 'cmek.snapshot_directory' => 's3://snaps/a/b');

credentials($db->{id}, 'x' x 40);
fails('58000', 'SignatureDoesNotMatch', "SELECT s3_write('f', 10, 1)", 'wrong secret');
credentials('AKIAXXXXXXXXXXXXXXXX', $db->{secret});
fails('58000', 'InvalidAccessKeyId', "SELECT s3_write('f', 10, 1)", 'unknown access key');
unlink "$dir/credentials";
fails('58000', 'NoCredentials', "SELECT s3_write('f', 10, 1)", 'no credentials at all');
credentials($db->{id}, $db->{secret});
$s3->tell('allow_user', name => 'db', actions => ['s3:GetObject']);
fails('58000', 'AccessDenied.*HINT:  The server\'s identity needs s3:PutObject, s3:GetObject, s3:DeleteObject and s3:AbortMultipartUpload for "arn:aws:s3:::snaps/a/b/\*"',
	"SELECT s3_write('f', 12 * 1000000, 1)", 'access denied: what to grant');
$s3->tell('allow_user', name => 'db', actions => \@actions);
is(sql("SELECT s3_write('f', 10, 1)"), sql("SELECT md5 FROM s3_read('f')"), 'granted again');

$s3->tell('clock', ahead => 7200);
is(sql("SELECT s3_write('late', 10, 1)"), sql("SELECT md5 FROM s3_read('late')"), 'our clock is two hours late');
$s3->tell('clock', ahead => 0);

my $port = dead_port();
set('cmek.s3_endpoint' => "http://127.0.0.1:$port");
fails('58030', 'ConnectionRefused.*HINT:  It is worth trying again', "SELECT s3_write('f', 10, 1)", 'nobody listens');
fails('58030', 'could not begin to upload .*ConnectionRefused', "SELECT s3_write('f', 12 * 1000000, 1)", '... for an upload');
set('cmek.s3_endpoint' => 'http://127.0.0.1.example.com');
fails('58000', 'BadAddress.*without TLS only a loopback address', "SELECT s3_write('f', 10, 1)", 'no TLS, and not this machine');
set('cmek.s3_endpoint' => $url, 'cmek.region' => '');
fails('F0000', 'NoRegion', "SELECT s3_write('f', 10, 1)", 'no region');
set('cmek.region' => 'us-east-1');

# ---- memory ----
# what it had before is the same in each new backend
my $mb = $ENV{CMEK_S3_MB} || 100;
my ($none, $md5, $writing) = split /\n/, sql("SELECT s3_peak(); SELECT s3_write('long', $mb * $MB, 5); SELECT s3_peak()");
my (undef, $read, $reading) = split /\n/, sql("SELECT s3_peak(); SELECT * FROM s3_read('long'); SELECT s3_peak()");
is($read, $mb * $MB . "|$md5", "$mb MB and back");
diag("peak memory: $none kB before, $writing kB writing, $reading kB reading $mb MB");
cmp_ok($writing - $none, '<', 24 * 1024, 'writing: memory is that of a part');
cmp_ok($reading - $none, '<', 24 * 1024, 'reading: memory is that of a range');
is($s3->tell('sent')->{longest}, 8 * $MB, 'no part is longer than 8 MiB');

# ---- the identity of a container ----
my $role = $s3->tell('role', name => 'snapshots', actions => \@actions);
$s3->tell('metadata', role => $role);
unlink "$dir/credentials";
$node->stop;
$ENV{AWS_CONTAINER_CREDENTIALS_FULL_URI} = "$url/container";
$ENV{AWS_CONTAINER_AUTHORIZATION_TOKEN} = 'container-token';
$node->start;
is(sql("SELECT s3_write('role', 9 * $MB, 1)"), sql("SELECT md5 FROM s3_read('role')"), 'a container writes and reads with its role');
$s3->tell('forget');
my @both = split /\n/, sql("SELECT s3_write('role', 10, 1); SELECT s3_write('role', 10, 1)");
is($s3->requests('metadata'), 1, '... whose credentials the backend remembers');

$node->stop;
done_testing();
