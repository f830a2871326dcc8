# Provider cmek_kmip against PyKMIP's own server: tables in KMIP 1.4 and 2.0, a
# key deactivated, hidden and given back, a second host, certificates that one
# side does not trust, faults on the line.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;
use CmekStub;
use CmekHsm;

plan skip_all => 'no PyKMIP (python3-pykmip)' unless have_pykmip();

my $files = kmip_files();
my $kmip = start_kmip($files);
my $uid = $kmip->tell('key');
my $node = cmek_node('kmip', config => [ 'autovacuum = off', "cmek.kms_timeout = '4s'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub step
{
	my ($key, $step, $column) = @_;

	return sql("SELECT $column FROM cmek.check_key('$key') WHERE step = '$step'");
}

# A server of ours: options of the server, who we are
sub server
{
	my ($name, $options, $who) = @_;

	$who //= 'client';
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER cmek_kmip OPTIONS (ca_file '$files/ca.pem', $options);
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (cert_file '$files/$who.pem', key_file '$files/$who.key')");
	return;
}
my $port = $kmip->port;
my $here = "hosts '127.0.0.1:$port'";

# ---- options ----
my $s = 'CREATE SERVER s FOREIGN DATA WRAPPER cmek_kmip OPTIONS';
for my $bad ([ 'HV00D', 'Valid options in this context are: hosts, key_id, protocol, ca_file', "$s (hosts 'a', key_id 'k', colour 'x')" ],
	[ 'HV002', 'option "key_id" is required', "$s (hosts 'a')" ],
	[ 'HV024', 'must be a list of hosts', "$s (hosts 'a,,b', key_id 'k')" ],
	[ 'HV024', 'must be a list of hosts', "$s (hosts 'https://a', key_id 'k')" ],
	[ 'HV024', 'more than 8 hosts', "$s (hosts 'a,a,a,a,a,a,a,a,a', key_id 'k')" ],
	[ 'HV024', 'must be 1.4 or 2.0', "$s (hosts 'a', key_id 'k', protocol '1.2')" ],
	[ 'HV024', 'must be an absolute path', "$s (hosts 'a', key_id 'k', ca_file 'ca.pem')" ])
{
	like(error_text($node, $bad->[2]), qr/$bad->[0]: .*$bad->[1]/s, "refused: $bad->[1]");
}
sql('CREATE ROLE tenant; GRANT USAGE ON FOREIGN DATA WRAPPER cmek_kmip TO tenant');
like(error_text($node, "SET ROLE tenant; $s (hosts 'a', key_id 'k')"), qr/42501: .*pg_write_server_files/s, 'hosts are not for everybody');

# ---- tables ----
for my $version ('1.4', '2.0')
{
	my $name = 'v' . $version =~ s/\.//r;

	server($name, "$here, key_id '$uid', protocol '$version'");
	sql("CREATE TABLE $name (a int, b text) USING cmek_heap WITH (cmek.key = '$name');
		INSERT INTO $name SELECT i, md5(i::text) FROM generate_series(1, 100) i");
	is(sql("SELECT count(*), min(b) IS NOT NULL FROM $name"), '100|t', "KMIP $version: a table");
	is(sql("SELECT kms_key_id FROM cmek.tables WHERE key = '$name'"), $uid, '... and its key');
	is(sql("SELECT string_agg(step || ' ' || ok, ', ') FROM cmek.check_key('$name')"),
		'identity true, key true, encrypt true, decrypt true, context true', '... check_key proves each step');
	like(step($name, 'key', 'detail'), qr/exists, active, symmetric \(AES, 256 bits\)/, '... and says what the key is');
}
$node->restart;
is(sql('SELECT count(*) FROM v14'), 100, 'readable after a restart');
is(scalar(grep { $_ eq 'GET' } @{ $kmip->tell('count')->{operations} }), 0, 'the root key was never asked for');
cmp_ok(scalar(grep { $_ eq 'GET_ATTRIBUTES' } @{ $kmip->tell('count')->{operations} }), '>', 0, '... its state was (control)');
my $bytes = sql("SELECT string_agg(DISTINCT length(blob)::text, ' ') FROM cmek.table_key");
is($bytes, 60, 'a wrapped key has 60 bytes');

# ---- away and back, without a restart ----
for my $way ([ 'deactivated', 'state', state => 3, 'StateDeactivated', 2 ], [ 'compromised', 'state', state => 4, 'StateCompromised', 2 ],
	[ 'of somebody else', 'owner', owner => 'somebody', 'PermissionDenied', 'db' ])
{
	my ($name, $do, $what, $away, $code, $back) = @$way;

	$kmip->tell($do, uid => $uid, $what => $away);
	ok(wait_for_error($node, 'KM001', "SELECT count(*) FROM $_"), "key $name: KM001") for 'v14', 'v20';
	like(error_text($node, 'SELECT count(*) FROM v14'), qr/$code \(denied\)/, '... a denial');
	is(step('v14', 'key', 'code'), $code, '... check_key: key');
	isnt(step('v14', 'key', 'hint'), '', '... and what to do') if $code eq 'PermissionDenied';
	is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'v14')"), 'KM001', '... nothing new is bound');
	$kmip->tell($do, uid => $uid, $what => $back);
	ok(wait_for_ok($node, "SELECT count(*) FROM $_"), '... back: readable') for 'v14', 'v20';
}
server('nokey', "$here, key_id '4711'");
is(step('nokey', 'key', 'code'), 'ItemNotFound', 'no such key');
my $sleeping = $kmip->tell('key', active => JSON::PP::false());
server('sleeping', "$here, key_id '$sleeping'");
is(step('sleeping', 'key', 'code'), 'StatePreActive', 'a key that is not active yet');
is(step('sleeping', 'key', 'hint'), 'Activate the key.', '... and what to do');

# a server that refuses us everything says nothing of the key
$kmip->tell('owner', uid => $uid, owner => 'somebody');
$kmip->tell('fault', operation => 'QUERY', kind => 'reason', reason => 3, times => 0);
$node->restart;
my $refused = '';
for (1 .. 20)
{
	$refused = error_text($node, 'SELECT count(*) FROM v14');
	last if $refused =~ /ClientNotKnown/;
	sleep(0.5);
}
like($refused, qr/ClientNotKnown \(misconfigured\)/, 'a refusal is no denial when the server answers us nothing else');
$kmip->tell('clear');
$kmip->tell('owner', uid => $uid, owner => 'db');
ok(wait_for_ok($node, "SELECT count(*) FROM $_"), '... back: readable') for 'v14', 'v20';

# ---- a damaged blob ----
sql("CREATE TABLE bad (a int) USING cmek_heap WITH (cmek.key = 'v14'); INSERT INTO bad VALUES (1);
	UPDATE cmek.table_key SET blob = set_byte(blob, 20, 255 - get_byte(blob, 20)) WHERE relid = 'bad'::regclass");
$node->restart;
is(sqlstate($node, 'SELECT * FROM bad'), 'XX001', 'a damaged blob: corrupt, though PyKMIP says General Failure');
is(sqlstate($node, 'SELECT count(*) FROM v14'), '', '... which says nothing of the key');
sql('DROP TABLE bad');

# ---- faults ----
sub fault
{
	my ($name, $code, %fault) = @_;
	my ($text, $took) = ('', 0);

	$kmip->tell('fault', operation => 'DECRYPT', times => 0, %fault);
	$node->restart;
	# what a proof of the server's own met first is remembered for a moment
	for (1 .. 40)
	{
		my $started = time();

		$text = error_text($node, 'SELECT count(*) FROM v14');
		$took = time() - $started;
		last if $text =~ /$code/;
		sleep(0.5);
	}
	like($text, qr/KM001: .*\n?.*$code/, "$name: $code");
	cmp_ok($took, '<', 25, '... in time');
	$kmip->tell('clear');
	ok(wait_for_ok($node, 'SELECT count(*) FROM v14'), '... and back by itself');
	return;
}
fault('connection closed', 'ConnectionLost \(unreachable\)', kind => 'close');
fault('truncated', 'ConnectionLost \(unreachable\)', kind => 'truncate');
fault('oversized', 'AnswerTooLarge \(unreachable\)', kind => 'huge');
fault('slow drip', 'Timeout \(unreachable\)', kind => 'drip');
fault('no answer', 'Timeout \(unreachable\)', kind => 'hang');
fault('another protocol', 'MalformedAnswer \(unreachable\)', kind => 'garbage');
fault('wrong types', 'MalformedAnswer \(unreachable\)', kind => 'type');
fault('of another key', 'MalformedAnswer \(unreachable\)', kind => 'wrongkey');
fault('general failure for ever', 'GeneralFailure \(unreachable\)', kind => 'reason', reason => 0x100);
fault('no AES-GCM', 'OperationNotSupported \(misconfigured\)', kind => 'reason', reason => 5);
$node->restart;
$kmip->tell('fault', operation => 'DECRYPT', kind => 'close', times => 2);
is(sqlstate($node, 'SELECT count(*) FROM v14'), '', 'two connections lost, then one that holds: within one statement');

# ---- hosts ----
server('over', "hosts '127.0.0.1:@{[dead_port()]}, 127.0.0.1:$port', key_id '$uid'");
ok(eventually(sub { step('over', 'context', 'ok') eq 't' }), 'the second host, when the first is not there');
my $second = start_kmip($files);
server('pair', "hosts '127.0.0.1:@{[$second->port]}, 127.0.0.1:$port', key_id '$uid'");
$second->tell('fault', kind => 'hang', times => 0);
ok(eventually(sub { step('pair', 'identity', 'ok') eq 't' }), '... or does not answer');
$second->stop;
server('nobody', "hosts '127.0.0.1:@{[dead_port()]}, does-not-exist.invalid', key_id '$uid'");
like(step('nobody', 'identity', 'code'), qr/^(HostNotFound|ConnectionRefused|Timeout)$/, 'no host there');

# ---- certificates ----
server('stranger', "$here, key_id '$uid'", 'stranger');
like(step('stranger', 'identity', 'code || \' \' || detail'), qr/^TlsOwnCertificate misconfigured/, 'the server does not trust our certificate');
server('untrusted', "$here, key_id '$uid'");
sql("ALTER SERVER untrusted OPTIONS (SET ca_file '$files/other_ca.pem')");
like(step('untrusted', 'identity', 'code || \' \' || detail'), qr/^TlsNotTrusted misconfigured/, 'we do not trust the server\'s');
my $named = start_kmip($files, certificate => 'named');
server('named', "hosts '127.0.0.1:@{[$named->port]}', key_id '1'");
like(step('named', 'identity', 'code || \' \' || detail'), qr/^TlsNotTrusted misconfigured.*mismatch/, 'a certificate of another host');
my $expired = start_kmip($files, certificate => 'expired');
server('late', "hosts '127.0.0.1:@{[$expired->port]}', key_id '1'");
like(step('late', 'identity', 'code || \' \' || detail'), qr/^TlsNotTrusted misconfigured.*expired/, 'the server\'s certificate has expired');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v20 OPTIONS (SET cert_file '$files/expired.pem', SET key_file '$files/expired.key')");
$node->restart;
my $what = '';
ok(eventually(sub { ($what = error_text($node, 'SELECT count(*) FROM v20')) =~ /KM001: .*TlsOwnCertificate \(misconfigured\).*expired/s }),
	'our own has expired: not readable, and no denial')
  or diag($what);
is(sqlstate($node, 'SELECT count(*) FROM v14'), '', '... which is nothing to who has a good one');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v20 OPTIONS (SET cert_file '$files/client.pem', SET key_file '$files/client.key')");
ok(wait_for_ok($node, 'SELECT count(*) FROM v20'), '... renewed: readable');
server('nofile', "$here, key_id '$uid'");
sql("ALTER USER MAPPING FOR PUBLIC SERVER nofile OPTIONS (SET key_file '$files/nothing.key')");
is(step('nofile', 'identity', 'code'), 'CredentialFile', 'no key file');
sql("ALTER USER MAPPING FOR PUBLIC SERVER nofile OPTIONS (SET key_file '$files/server.key')");
is(step('nofile', 'identity', 'code'), 'TlsOwnCertificate', 'the key of another certificate');

$node->stop;
done_testing();
