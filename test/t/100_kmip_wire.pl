# Messages of cmek_kmip as pure functions: PyKMIP's codec understands what is
# sent in 1.4 and 2.0, and what it writes is understood; every class of answer;
# damaged and random answers.  Needs the module test/modules/hsm.
#
#   CMEK_WIRE_ROUNDS  random changes (20,000); CMEK_SEED  where they begin

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekHsm;

my $node = PostgreSQL::Test::Cluster->new('kmip_wire');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_hsm');

my $uuid = '00112233-4455-6677-8899-aabbccddeeff';
my $aad = "cmek table key $uuid";
my ($iv, $text, $tag) = ('a1' x 12, 'b2' x 32, 'c3' x 16);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub request
{
	my ($what, $config) = @_;

	return sql("SELECT encode(kmip_request('$what', '{$config}', '$uuid', '\\x$iv$text$tag'), 'hex')");
}

sub answer
{
	my ($what, $config, $hex, $want, $name) = @_;

	is(sql("SELECT class || ' ' || code FROM kmip_answer('$what', '{$config}', '\\x$hex')"), $want, $name);
	return;
}

sub codec
{
	my ($out, $err) = run_command([ '/usr/bin/python3', '-W', 'ignore', "$FindBin::RealBin/../kms/kmip_codec.py", @_ ]);

	return $out || $err;
}

# ---- by hand, from the standard's drawing ----
my $query = '42007801000000804200770100000038420069010000002042006a0200000004000000010000000042006b0200000004000000040000000042000d02000000040000000100000000'
  . '42000f010000003842005c0500000004000000180000000042007901000000204200740500000004000000010000000042007405000000040000000300000000';
is(request('query', 'key_id,1'), $query, 'Query, byte by byte');
is(sql("SELECT kmip_request('query', ARRAY['username', repeat('x', 5000)], '$uuid', '\\x$iv$text$tag') IS NULL"), 't',
	'a request that does not fit is none');

# ---- PyKMIP's codec ----
SKIP:
{
	skip 'no PyKMIP (python3-pykmip)', 1 unless have_pykmip();
	for my $version ('1.4', '2.0')
	{
		my $config = "key_id,k-1,protocol,$version";

		is(codec('request', $version, request('key', $config)),
			"$version GET_ATTRIBUTES k-1 State Cryptographic Algorithm Cryptographic Length", "$version: Get Attributes");
		is(codec('request', $version, request('encrypt', $config)),
			"$version ENCRYPT k-1 GCM AES 16 $text $iv $aad", "$version: Encrypt");
		is(codec('request', $version, request('decrypt', $config)),
			"$version DECRYPT k-1 GCM AES 16 $text $iv $aad $tag", "$version: Decrypt");
		like(codec('request', $version, request('query', "$config,username,u,password,p")),
			qr/^\Q$version\E QUERY u\/p QUERY_OPERATIONS QUERY_SERVER_INFORMATION$/, "$version: Query, with a password");

		my $ours = "key_id,1,protocol,$version";
		my @answers = split(/\n/, codec('answer', $version, 'encrypt', 'decrypt', 'query', map { "state=$_" } 1 .. 6));

		is(sql("SELECT class, encode(blob, 'hex') FROM kmip_answer('encrypt', '{$ours}', '\\x$answers[0]')"),
			'ok|' . '00' x 12 . '63' x 32 . '74' x 16, "$version: an answer to Encrypt");
		is(sql("SELECT class, encode(key, 'hex'), key_id FROM kmip_answer('decrypt', '{$ours}', '\\x$answers[1]')"),
			'ok|' . '70' x 32 . '|1', "$version: an answer to Decrypt");
		is(sql("SELECT class, message FROM kmip_answer('query', '{$ours}', '\\x$answers[2]')"),
			'ok|client of some maker', "$version: an answer to Query");
		my @states = ('denied StatePreActive', 'ok ', 'denied StateDeactivated', 'denied StateCompromised',
			'denied StateDestroyed', 'denied StateDestroyedCompromised');
		answer('key', $ours, $answers[ 3 + $_ ], $states[$_], "$version: state $states[$_]") for 0 .. 5;
		answer('decrypt', "key_id,2,protocol,$version", $answers[1], 'unreachable MalformedAnswer', "$version: an answer about another key");
		answer('encrypt', $ours, $answers[1], 'unreachable MalformedAnswer', "$version: an answer to another question");
		# every byte changed once, and every shorter answer: never a wrong yes
		is(sql("SELECT count(*) FROM generate_series(0, length('\\x$answers[1]'::bytea) - 1) i,
				LATERAL kmip_answer('decrypt', '{$ours}', substr('\\x$answers[1]'::bytea, 1, i)) a WHERE class = 'ok'"),
			0, "$version: nothing cut off is an answer");
	}
	my %classes = (ITEM_NOT_FOUND => 'denied ItemNotFound', PERMISSION_DENIED => 'denied PermissionDenied',
		OBJECT_ARCHIVED => 'denied ObjectArchived', AUTHENTICATION_NOT_SUCCESSFUL => 'misconfigured AuthenticationNotSuccessful',
		INVALID_MESSAGE => 'misconfigured InvalidMessage', OPERATION_NOT_SUPPORTED => 'misconfigured OperationNotSupported',
		INVALID_FIELD => 'misconfigured InvalidField', CRYPTOGRAPHIC_FAILURE => 'unreachable CryptographicFailure',
		GENERAL_FAILURE => 'unreachable GeneralFailure', INTERNAL_SERVER_ERROR => 'unreachable InternalServerError',
		OBJECT_DESTROYED => 'denied ObjectDestroyed', OBJECT_NOT_FOUND => 'denied ObjectNotFound', NOT_AUTHORISED => 'denied NotAuthorised',
		WRONG_KEY_LIFECYCLE_STATE => 'denied WrongKeyLifecycleState', UNSUPPORTED_PROTOCOL_VERSION => 'misconfigured UnsupportedProtocolVersion',
		INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK => 'denied IncompatibleCryptographicUsageMask',
		BAD_CRYPTOGRAPHIC_PARAMETERS => 'misconfigured BadCryptographicParameters', BAD_PASSWORD => 'misconfigured BadPassword',
		USAGE_LIMIT_EXCEEDED => 'misconfigured UsageLimitExceeded', SERVER_LIMIT_EXCEEDED => 'unreachable Reason0x3A');
	my @reasons = sort keys %classes;
	my @errors = split(/\n/, codec('answer', '2.0', map { "reason=$_" } @reasons));

	answer('decrypt', 'key_id,1', $errors[$_], $classes{ $reasons[$_] }, $reasons[$_]) for 0 .. $#reasons;
}

# ---- what is not well formed, whatever it says ----
my $status = '42007f05000000040000000000000000';
my $payload = '42007c0100000020' . '42009407000000013100000000000000' . '4200c20800000008' . '00' x 8;
my $good = '42007b0100000040' . '42000f0100000038' . $status . $payload;
answer('key', 'key_id,1', $good, 'unreachable MalformedAnswer', 'a key without a state');
is(sql("SELECT message FROM kmip_answer('decrypt', '{key_id,1}', '\\x$good')"), "the answer has no valid plaintext of a table key's length",
	'a plaintext that is too short');
answer('decrypt', 'key_id,1', $_->[0], 'unreachable MalformedAnswer', $_->[1])
  for [ '', 'nothing' ], [ '42007b0100000000', 'an empty message' ], [ $good . '00', 'something behind the message' ],
  [ '42007b01ffffffff', 'a length that wraps' ], [ '42007b0100000008' . '42000f0100000008', 'an item longer than what it is in' ],
  [ '42007b0100000010' . '42000f0200000003' . '00' x 8, 'an integer of three bytes' ],
  [ '42007b0100000010' . '42000f0c00000008' . '00' x 8, 'a type that does not exist' ],
  [ join('', map { sprintf('42007b01%08x', 8 * (19 - $_)) } 0 .. 19), 'twenty structures in each other' ];
is(sql("SELECT message FROM kmip_answer('decrypt', '{key_id,1}', '\\x42007b0100000050" . '42000f0100000048' . "$status$status$payload')"),
	'the answer is not what a KMIP server says', 'two results');

# ---- lists of hosts ----
my $hosts = "a.example, b.example:1234 ,[2001:db8::1]:99,10.0.0.1";
is(sql("SELECT string_agg(coalesce(kmip_hosts('$hosts', i), 'none'), ';' ORDER BY i) FROM generate_series(0, 4) i"),
	'a.example 5696;b.example 1234;2001:db8::1 99;10.0.0.1 5696;none', 'a list of hosts');
is(sql("SELECT kmip_hosts('$_', 0) IS NULL"), 't', "no host: $_") for '', ' ', ',a', ':1', 'a:', 'a:0', 'a:65536', 'a:1x', 'a:123456', '[::1', 'a b', 'u@a', 'https://a', '[]:1';

# ---- random changes ----
my $seed = $ENV{CMEK_SEED} // int(rand(2**31));
my $rounds = $ENV{CMEK_WIRE_ROUNDS} // 20000;
is(sql("SELECT kmip_mutate($seed, $rounds)"), $rounds, "$rounds answers with random changes, seed $seed");

$node->stop;
done_testing();
