# Provider cmek_aws when things go wrong on the way: each fault has its class,
# passes as soon as it is over, and stays within its time; 1,000 tables ask once
# each; one dead KMS does not slow down another; every ambient way to credentials.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;
use CmekStub;

delete @ENV{ grep { /^AWS_/ } keys %ENV };
$ENV{AWS_EC2_METADATA_DISABLED} = 'true';
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});

my ($cert, $cert_key) = test_certificate(10);
my $aws = start_stub('aws', cert => $cert, key => $cert_key);
my $url = $aws->url;
my $key = $aws->tell('key');
my $db = $aws->tell('user', name => 'db');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $tables = $ENV{CMEK_TEST_TABLES} || 1000;

# proofs do not come in between: each cold read is one unwrap
my $node = cmek_node('awsfaults',
	config => [ 'autovacuum = off', "cmek.kms_timeout = '3s'", "cmek.key_cache_ttl = '1h'", 'cmek.kms_workers = 4',
		'max_worker_processes = 16', 'max_connections = 60', 'fsync = off', "log_statement = 'none'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub server
{
	my ($name, $to, $more, $key_id) = @_;

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '@{[$key_id // $key]}', endpoint '$to',
		sts_endpoint '$to'" . ($more // ", ca_file '$cert'") . ");
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (access_key_id '$db->{id}', secret_access_key '$db->{secret}')");
	return;
}

# Forget the key of a server's tables and what went wrong with it
my $session = 0;
sub cold
{
	my ($name) = @_;
	$session++;
	sql("SELECT cmek.suspend_key('$name'); SELECT cmek.resume_key('$name')");
	# other options void the back-off
	sql("ALTER SERVER $name OPTIONS (SET session_name 's$session')") if $name eq 'a';
	return;
}

server('a', $url, ", ca_file '$cert', role_arn '@{[$aws->tell('role', name => 'r')]}', session_name 's0'");
sql("CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO t VALUES (1)");
is(sql('SELECT a FROM t'), '1', 'over TLS, with an authority of its own');

# ---- faults that pass: one of them is not even noticed ----
my $throttle = JSON::PP::encode_json({ __type => 'ThrottlingException', message => 'Rate exceeded' });
for my $fault (
	[ '503',                   kind => 'status', status => 503 ],
	[ '500 InternalException', kind => 'status', status => 500, body => '{"__type":"KMSInternalException","message":"x"}' ],
	[ 'throttling as 400',     kind => 'status', status => 400, body => $throttle ],
	[ 'a connection cut',      kind => 'close' ],
	[ 'a truncated answer',    kind => 'truncate' ],
	[ 'an answer of 20 MB',    kind => 'huge' ],
	[ 'text',                  kind => 'body', body => 'hello' ],
	[ 'wrong types',           kind => 'body', body => '{"KeyId":7,"Plaintext":{},"CiphertextBlob":[]}' ],
	[ 'half a key',            kind => 'body', body => '{"KeyId":"' . $key . '","Plaintext":"AAAA"}' ],
	[ 'an XML page',           kind => 'status', status => 403, body => '<html>no</html>' ],
	[ 'slow drip',             kind => 'drip', pause => 0.2 ])
{
	my ($name, %how) = @$fault;

	# only statements make keys, so no proof of the server's own meets the fault
	$aws->tell('fault', %how, path => 'GenerateDataKey', times => 1);
	is(sqlstate($node, "CREATE TABLE once (a int) USING cmek_heap WITH (cmek.key = 'a')"), '', "once $name: a key all the same");
	is(scalar @{ $aws->tell('faults_left') }, 0, '... after it was met');
	sql('DROP TABLE once');
	# whoever meets it: the row is read
	sql('SELECT a FROM t');
	cold('a');
	$aws->tell('fault', %how, times => 1);
	is(sqlstate($node, 'SELECT a FROM t'), '', "once $name: read all the same");
	$aws->tell('clear');
}
$aws->tell('fault', kind => 'status', status => 429, body => $throttle, headers => { 'Retry-After' => '1' }, path => 'GenerateDataKey', times => 1);
my $asked = time();
is(sqlstate($node, "CREATE TABLE once (a int) USING cmek_heap WITH (cmek.key = 'a')"), '', '429, Retry-After: 1');
cmp_ok(time() - $asked, '>=', 1, '... after the time asked for');

# ---- faults that last ----
for my $fault (
	[ 'unreachable', 'AnswerFormat',         kind => 'body', body => '[]' ],
	[ 'unreachable', 'ThrottlingException',  kind => 'status', status => 400, body => $throttle ],
	[ 'unreachable', 'Timeout',              kind => 'hang', seconds => 8 ],
	[ 'unreachable', 'AnswerTooLarge',       kind => 'huge' ],
	[ 'unreachable', 'Http302',              kind => 'redirect', to => 'http://127.0.0.1:1/' ],
	[ 'misconfigured', 'ValidationException', kind => 'status', status => 400, body => '{"__type":"ValidationException"}' ])
{
	my ($class, $code, %how) = @$fault;

	sql('SELECT a FROM t');
	cold('a');
	$aws->tell('fault', %how, times => 0);
	my $start = time();
	my $text = error_text($node, 'SELECT a FROM t');
	like($text, qr/KM001.*answered $code \($class\)/s, "$code: $class");
	cmp_ok(time() - $start, '<', 6, '... in time');
	$aws->tell('clear');
	ok(wait_for_ok($node, 'SELECT a FROM t'), '... over, and readable');
}

# ---- the way there ----
my $refused = dead_port();
my ($old_cert, $old_key) = test_certificate(0);
my $expired = start_stub('aws', cert => $old_cert, key => $old_key);
my ($alien_cert) = test_certificate(10);
server('refused', "https://127.0.0.1:$refused");
server('nowhere', 'https://kms.cmek-test.invalid');
server('untrusted', $url, ", ca_file '$alien_cert'");
server('expired', $expired->url, ", ca_file '$old_cert'");
server('no_authority', $url, ", ca_file '$dir/none.pem'");
for ([ refused => 'ConnectionRefused', 'unreachable' ], [ nowhere => 'HostNotFound|Timeout', 'unreachable' ],
	[ untrusted => 'TlsNotTrusted', 'misconfigured' ], [ expired => 'TlsNotTrusted', 'misconfigured' ],
	[ no_authority => 'TlsAuthorityFile', 'misconfigured' ])
{
	my ($name, $code, $class) = @$_;

	like(error_text($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = '$name')"),
		qr/KM001.*answered (?:$code) \($class\)/s, "$name: $code");
}
$expired->stop;

# ---- many tables at once: one unwrap for each key ----
server('many', $url);
sql("DO \$\$ BEGIN FOR i IN 1..$tables LOOP
		EXECUTE format('CREATE TABLE many_%s (a int) USING cmek_heap WITH (cmek.key = %L)', i, 'many');
		EXECUTE format('INSERT INTO many_%s VALUES (%s)', i, i);
		IF i % 100 = 0 THEN COMMIT; END IF;
	END LOOP; END \$\$");
$node->restart;
$aws->tell('forget');
my $read = "DO \$\$ DECLARE n int; BEGIN FOR i IN 1..$tables LOOP
	EXECUTE format('SELECT a FROM many_%s', i) INTO STRICT n; IF n <> i THEN RAISE 'wrong row'; END IF;
	IF i % 50 = 0 THEN COMMIT; END IF; END LOOP; END \$\$";
my $start = time();
my @runs = map { my %r = (out => '', err => ''); $r{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', $read ],
		'>', \$r{out}, '2>', \$r{err}); \%r } 1 .. 8;
$_->{run}->finish for @runs;
is(join('', map { $_->{err} } @runs), '', "8 sessions read $tables tables");
# but for the proofs that the visitor asks for after a start, one a KMS key
my $unwraps = $aws->requests('Decrypt');
ok($unwraps >= $tables && $unwraps <= $tables + 5, 'one unwrap for each table key') or note($unwraps);
note(sprintf('%d keys in %.1f s', $tables, time() - $start));
cmp_ok($aws->connections, '<=', 20, 'over a few connections');

# ---- one dead KMS beside a healthy one ----
sub cold_read
{
	my ($n) = @_;
	my @times;

	for (1 .. $n)
	{
		sql("SELECT cmek.suspend_key('many'); SELECT cmek.resume_key('many')");
		my $t = time();
		sql('SELECT a FROM many_1');
		push @times, time() - $t;
	}
	return 1000 * (sort { $b <=> $a } @times)[0];
}
my $hole = start_stub('aws', cert => $cert, key => $cert_key);
my $hole_key = $hole->tell('key');
$hole->tell('user', name => 'db');
$hole->tell('fault', kind => 'hang', seconds => 60, times => 0);
server('dead', $hole->url, undef, $hole_key);
my $alone = cold_read(5);
my @stuck = map { my %r = (out => '', err => ''); $r{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c',
			"CREATE TABLE dead_$_ (a int) USING cmek_heap WITH (cmek.key = 'dead')" ], '>', \$r{out}, '2>', \$r{err}); \%r } 1 .. 6;
sleep(0.5);
my $beside = cold_read(5);
$_->{run}->finish for @stuck;
is(scalar(grep { $_->{err} =~ /not accessible|cannot be used/ } @stuck), 6, 'the dead one is away');
note(sprintf('slowest cold read of the healthy key: %.1f ms alone, %.1f ms beside a dead one', $alone, $beside));
# who waits for the dead one waits until its time is out: 3 s, of which 0.5 are gone
cmp_ok($beside, '<', 3 * $alone + 2000, 'the healthy one does not wait for it');
$hole->stop;

# ---- the host's own credentials, one way after the other ----
my $role = $aws->tell('role', name => 'host');
$aws->tell('metadata', role => $role);
sql("CREATE SERVER amb FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '$key', endpoint '$url', sts_endpoint '$url', ca_file '$cert')");
my $make = "CREATE TABLE amb (a int) USING cmek_heap WITH (cmek.key = 'amb'); DROP TABLE amb";
like(error_text($node, $make), qr/KM001.*NoCredentials/s, 'none at all: said so');

sub with_env
{
	my ($name, $who, %env) = @_;

	local @ENV{ keys %env } = values %env;
	$node->restart;
	is(sqlstate($node, $make), '', $name);
	like(sql("SELECT detail FROM cmek.check_key('amb') WHERE step = 'identity'"), $who, '... as whom');
	return;
}
with_env('environment', qr/user\/db/, AWS_ACCESS_KEY_ID => $db->{id}, AWS_SECRET_ACCESS_KEY => $db->{secret});
spew("$dir/token", 'header.claims.signature');
with_env('web identity', qr/assumed-role\/host/, AWS_ROLE_ARN => $role, AWS_WEB_IDENTITY_TOKEN_FILE => "$dir/token");
spew("$dir/credentials", "[default]\n# nothing\n[app]\naws_access_key_id = $db->{id}\naws_secret_access_key=$db->{secret}\n");
spew("$dir/config", "[profile hop]\nrole_arn = $role\nsource_profile = app\n");
with_env('shared file', qr/user\/db/, AWS_SHARED_CREDENTIALS_FILE => "$dir/credentials", AWS_PROFILE => 'app');
with_env('role of a profile', qr/assumed-role\/host/, AWS_SHARED_CREDENTIALS_FILE => "$dir/credentials",
	AWS_CONFIG_FILE => "$dir/config", AWS_PROFILE => 'hop');
# metadata services speak plain HTTP
with_env('container', qr/assumed-role\/host/, AWS_CONTAINER_CREDENTIALS_FULL_URI => $aws->plain . '/container',
	AWS_CONTAINER_AUTHORIZATION_TOKEN => 'container-token');
with_env('instance, IMDSv2', qr/assumed-role\/host/, AWS_EC2_METADATA_DISABLED => 'false',
	AWS_EC2_METADATA_SERVICE_ENDPOINT => $aws->plain);
cmp_ok($aws->requests('metadata PUT /latest/api/token'), '>', 0, 'by a session of IMDSv2');

# a file named by the user mapping
$node->restart;
sql("CREATE USER MAPPING FOR PUBLIC SERVER amb OPTIONS (credential_file '$dir/credentials', profile 'app')");
is(sqlstate($node, $make), '', 'credential_file');

# ---- no secret anywhere ----
my $log = slurp_file($node->logfile);
my @files = files_with($node->data_dir, $db->{id});
cmp_ok(scalar(@files), '>', 0, 'the access key id is in the catalog');
@files = files_with($node->data_dir, $db->{secret});
is("@files", '', 'its secret is in no file');
unlike($log, qr/\Q$db->{secret}\E/, 'nor in the log');

done_testing();
