# Provider cmek_vault against a stub of Vault's Transit engine: tables, rights
# taken and given back, every way to log in, renewal, faults.  hvac, Debian's
# client, opens what the provider wrapped and wraps what the provider opens, so
# that stub and provider do not share one misunderstanding.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;
use CmekStub;

my $vault = start_stub('vault');
my $dir = PostgreSQL::Test::Utils::tempdir();

# The rights that the documentation asks for
sub rights
{
	my ($key, %but) = @_;
	my $mount = $but{mount} // 'transit';
	my %rights = ("$mount/encrypt/$key" => ['update'], "$mount/decrypt/$key" => ['update'],
		"$mount/keys/$key" => ['read']);

	delete $rights{"$mount/$but{without}/$key"} if $but{without};
	return \%rights;
}

$vault->tell('key', name => 'k1');
$vault->tell('approle', role => 'db', role_id => 'role-1', secret_id => 'secret-1', rights => rights('k1'));

my $node = cmek_node('vault', config => [ 'autovacuum = off', "cmek.kms_timeout = '2500ms'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# One column of one step of a check
sub step
{
	my ($key, $step, $column) = @_;

	return sql("SELECT $column FROM cmek.check_key('$key') WHERE step = '$step'");
}

# ---- a table, and its key at the KMS ----
sql(qq{CREATE SERVER v FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}/', key 'k1');
	CREATE USER MAPPING FOR PUBLIC SERVER v OPTIONS (role_id 'role-1', secret_id 'secret-1');
	CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'v');
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i});
is(sql('SELECT count(*), min(b) IS NOT NULL FROM t'), '100|t', 'a table under Vault');
is(sql("SELECT kms_key_id, kms_key_version FROM cmek.tables"), 'transit/keys/k1|1', 'key and version at the KMS');
is(sql("SELECT string_agg(step || ' ' || ok, ', ') FROM cmek.check_key('v')"),
	'identity true, key true, encrypt true, decrypt true, context true', 'check_key proves each step');
like(step('v', 'key', 'detail'), qr/symmetric \(aes256-gcm96\), latest version 1/, 'what the key is');

# ---- revoked and back, all without a restart ----
$vault->tell('rights', role => 'db', rights => {});
$vault->tell('rights', id => $_, rights => {}) for grep { /^login/ } keys %{ $vault->tell('tokens')->{ttl} };
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'permission removed: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/PermissionDenied \(denied\)/, '... which is a denial, our token lives');
is(sql("SELECT state, code FROM cmek.keys WHERE name = 'v'"), 'inaccessible|PermissionDenied', 'cmek.keys says so');
like(step('v', 'decrypt', "coalesce(detail, '')"), qr/not tried/, 'decrypt cannot be tried without encrypt');
like(step('v', 'encrypt', 'hint'), qr/path "transit\/encrypt\/k1" \{ capabilities = \["update"\] \}/,
	'what to grant');
$vault->tell('rights', role => 'db', rights => rights('k1'));
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'granted again: readable');

$vault->tell('drop_key', name => 'k1');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'key deleted: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/KeyNotFound \(denied\)/, '... a denial');
$vault->tell('restore_key', name => 'k1');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'key back: readable');

# a token that dies is our business, not a revocation
$vault->tell('revoke_logins');
$vault->tell('forget');
ok(eventually(sub { $vault->requests('auth/approle/login') > 0 }), 'a dead token is replaced by a login');
is(sqlstate($node, 'SELECT count(*) FROM t'), '', '... and nobody notices');
$vault->tell('approle', role => 'db', role_id => 'role-1', secret_id => 'changed', rights => rights('k1'));
$vault->tell('revoke_logins');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'a login refused: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/LoginRefused \(misconfigured\)/, '... misconfigured, no denial');
sql("ALTER USER MAPPING FOR PUBLIC SERVER v OPTIONS (SET secret_id 'changed')");
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'new secret: readable at once');

# ---- key versions ----
$node->safe_psql('postgres', 'CREATE TABLE t2 (a int) USING cmek_heap WITH (cmek.key = \'v\'); INSERT INTO t2 VALUES (1)');
$vault->tell('set_key', name => 'k1', min => 2);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'min_decryption_version above ours: KM001');
like(error_text($node, 'SELECT count(*) FROM t'), qr/VersionTooOld \(denied\)/, '... a denial');
$vault->tell('set_key', name => 'k1', min => 1);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');

# ---- restart ----
$node->restart;
is(sql('SELECT count(*) FROM t'), 100, 'readable after a restart');

# ---- other ways to log in, namespaces, mounts ----
$vault->tell('key', name => 'k2', ns => 'team/a', mount => 'kms/transit');
$vault->tell('token', id => 's.given', rights => rights('k2', mount => 'kms/transit'), ttl => 14);
my $ends = time() + 14;
spew("$dir/token", "s.given\n");
chmod(0600, "$dir/token");
sql(qq{CREATE SERVER f FOREIGN DATA WRAPPER cmek_vault
		OPTIONS (url '@{[$vault->url]}', key 'k2', mount 'kms/transit', namespace 'team/a');
	CREATE USER MAPPING FOR PUBLIC SERVER f OPTIONS (token_file '$dir/token');
	CREATE TABLE f (a int) USING cmek_heap WITH (cmek.key = 'f'); INSERT INTO f VALUES (1)});
is(sql("SELECT kms_key_id FROM cmek.tables WHERE key = 'f'"), 'team/a/kms/transit/keys/k2', 'token file, namespace, mount');
my $renewals = $vault->tell('tokens')->{renewals};
ok(poll(sub { $vault->tell('tokens')->{renewals} > $renewals }), 'a token is renewed before half of its life is over');
cmp_ok($vault->tell('tokens')->{ttl}{'s.given'} + time(), '>', $ends, '... so that it ends later');
sleep(0.5) while time() < $ends + 0.5;
is(sqlstate($node, 'SELECT * FROM f'), '', '... and lives on beyond its first end');

$vault->tell('kubernetes', role => 'pod', jwt => 'the.pods.jwt', rights => rights('k1'));
spew("$dir/jwt", 'the.pods.jwt');
chmod(0600, "$dir/jwt");
sql(qq{CREATE SERVER p FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}', key 'k1');
	CREATE USER MAPPING FOR PUBLIC SERVER p OPTIONS (kubernetes_role 'pod', jwt_file '$dir/jwt');
	CREATE TABLE p (a int) USING cmek_heap WITH (cmek.key = 'p'); INSERT INTO p VALUES (1)});
is(sql('SELECT count(*) FROM p'), 1, 'Kubernetes login');

# ---- what check_key and binding refuse ----
my %bad = (
	rsa => [ { type => 'rsa-2048' }, 'key', 'KeyType' ],
	derived => [ { derived => \1 }, 'key', 'KeyDerived' ],
	deleted => [ { deleted => \1 }, 'key', 'KeySoftDeleted' ]);
for my $name (sort keys %bad)
{
	my ($options, $step, $code) = @{ $bad{$name} };
	$options->{$_} = JSON::PP::true() for grep { ref $options->{$_} } keys %$options;
	$vault->tell('key', name => $name, %$options);
	$vault->tell('token', id => "s.$name", rights => rights($name));
	sql(qq{CREATE SERVER $name FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}', key '$name');
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (token 's.$name')});
	is(step($name, $step, 'code'), $code, "check_key: $code");
	like(error_text($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = '$name')"),
		qr/KM001: .*step "$step" of its proof failed.*\n.*$code/, "binding is refused: $code");
}
for my $without (qw(encrypt decrypt keys))
{
	my $step = $without eq 'keys' ? 'key' : $without;
	$vault->tell('token', id => 's.less', rights => rights('k1', without => $without));
	sql(qq{DROP SERVER IF EXISTS less CASCADE;
		CREATE SERVER less FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}', key 'k1');
		CREATE USER MAPPING FOR PUBLIC SERVER less OPTIONS (token 's.less')});
	is(step('less', $step, 'ok::text || code'), 'falsePermissionDenied', "without $without: its step fails");
	like(step('less', $step, 'hint'), qr/path "transit\/$without\/k1"/, '... and says what to grant');
	is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'less')"), 'KM001', '... so binding is refused');
}
$vault->tell('old', ignores_context => JSON::PP::true());
is(step('v', 'context', 'code'), 'ContextNotBound', 'a Vault that ignores associated_data is found out');
$vault->tell('old', ignores_context => JSON::PP::false());

# ---- an independent client ----
my $row = sql("SELECT encode(blob, 'escape') || ' ' || id FROM cmek.table_key WHERE server = 'v' ORDER BY created_at LIMIT 1");
my ($blob, $uuid) = split(/ /, $row);
my $client = "$dir/client.py";
spew($client, <<'PY');
import base64, sys, inspect, hvac
url, blob, uuid = sys.argv[1:]
c = hvac.Client(url=url, token="root")
aad = base64.b64encode(("cmek table key " + uuid).encode()).decode()
t = c.secrets.transit
def call(what, **kw):
    f = getattr(t, what + "_data")
    if "associated_data" in inspect.signature(f).parameters:
        return f(name="k1", **kw)["data"]
    return c.write("transit/%s/k1" % what, **kw)["data"]
key = call("decrypt", ciphertext=blob, associated_data=aad)["plaintext"]
print(len(base64.b64decode(key)))
try:
    call("decrypt", ciphertext=blob, associated_data=base64.b64encode(b"other").decode())
    print("opened")
except hvac.exceptions.VaultError as e:
    print("refused")
print(call("encrypt", plaintext=key, associated_data=aad)["ciphertext"])
t.rotate_key(name="k1")
print(t.read_key(name="k1")["data"]["latest_version"])
PY
SKIP:
{
	skip 'no hvac (python3-hvac)', 5
	  if system("/usr/bin/python3 -c 'import hvac' 2>/dev/null") != 0;
	my ($out, $err) = run_command([ '/usr/bin/python3', '-W', 'ignore', $client, $vault->url, $blob, $uuid ]);
	my @lines = split(/\n/, $out);
	is($lines[0] // $err, 32, 'hvac opens what the provider wrapped');
	is($lines[1], 'refused', '... and not under another context');
	sql("UPDATE cmek.table_key SET blob = '$lines[2]' WHERE id = '$uuid'");
	$node->restart;
	is(sql('SELECT count(*) FROM t'), 100, 'the provider opens what hvac wrapped');
	is($lines[3], 2, 'hvac rotates the key');
	sql("CALL cmek.rotate_table_key('t')");
	is(sql("SELECT kms_key_version FROM cmek.tables WHERE \"table\" = 't'::regclass"), 2, 'a new table key is under the new version');
}

# ---- a damaged blob ----
ok(recorded_as_well($node, 'p'), 'the key is recorded as well');
sql("UPDATE cmek.table_key SET blob = 'nonsense' WHERE relid = 'p'::regclass");
$node->restart;
is(sqlstate($node, 'SELECT * FROM p'), 'XX001', 'a blob that is none: damaged, no call made');
ok($node->poll_query_until('postgres', "SELECT state = 'enabled' FROM cmek.keys WHERE name = 'p'"), '... which says nothing of the key: it is as it was');

# ---- faults ----
sub fault
{
	my ($name, $code, %fault) = @_;
	my $started = time();

	$vault->tell('clear');
	$vault->tell('fault', path => 'decrypt', times => 0, %fault);
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
	$vault->tell('clear');
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... and back');
	return;
}
fault('connection closed', '\w+', kind => 'close');
fault('truncated', '\w+', kind => 'truncate');
fault('oversized', '\w+', kind => 'huge');
fault('slow drip', '\w+', kind => 'drip');
fault('redirect', '\w+', kind => 'redirect', to => 'http://127.0.0.1:1/');
fault('sealed', 'HTTP503', kind => 'status', status => 503, body => '{"errors":["Vault is sealed"]}');
fault('wrong types', 'MalformedAnswer', kind => 'body', body => '{"data":{"plaintext":7}}');
fault('no JSON', 'MalformedAnswer', kind => 'body', body => '<html>');
fault('short key', 'MalformedAnswer', kind => 'body', body => '{"data":{"plaintext":"AAAA"}}');
fault('no mount', 'NoMount', kind => 'status', status => 404,
	body => '{"errors":["no handler for route \"transit/decrypt/k1\". route entry not found."]}');

$node->restart;
$vault->tell('fault', path => 'decrypt', kind => 'status', status => 500, times => 2);
is(sqlstate($node, 'SELECT count(*) FROM t'), '', '5xx, 5xx, then OK: within one statement');
# only statements encrypt, so no proof of the server's own meets the fault
$vault->tell('fault', path => 'encrypt', kind => 'status', status => 429, headers => { 'Retry-After' => '1' });
my $began = time();
is(sqlstate($node, "CREATE TABLE once (a int) USING cmek_heap WITH (cmek.key = 'v'); DROP TABLE once"), '', '429 with Retry-After, then OK');
cmp_ok(time() - $began, '>=', 1, '... after the time asked for');
# cmek.kms_timeout is over half a second after that
$vault->tell('fault', path => 'encrypt', kind => 'status', status => 429, headers => { 'Retry-After' => '2' }, body => '{"errors":["slowly"]}');
$vault->tell('fault', path => 'encrypt', kind => 'hang', seconds => 10);
like(error_text($node, "CREATE TABLE once (a int) USING cmek_heap WITH (cmek.key = 'v')"), qr/KM001: .*\n?.*HTTP429 \(unreachable\).*slowly/,
	'no time for another attempt: the answer stands');
$vault->tell('clear');
# of a short time a quarter is enough for another; a slow machine takes longer for the first
$node->append_conf('postgresql.conf', "cmek.kms_timeout = '500ms'");
$node->restart;
ok(eventually(sub {
	$vault->tell('clear');
	$vault->tell('fault', path => 'encrypt', kind => 'status', status => 503, body => '{"errors":["standby"]}');
	return sqlstate($node, "CREATE TABLE once (a int) USING cmek_heap WITH (cmek.key = 'v'); DROP TABLE once") eq ''
	  && !@{ $vault->tell('faults_left') };
}), 'a short time-out: 503, then OK');
$vault->tell('clear');
$node->append_conf('postgresql.conf', "cmek.kms_timeout = '2500ms'");
$node->restart;

sql("ALTER SERVER p OPTIONS (SET url 'http://127.0.0.1:@{[dead_port()]}')");
is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'p')"), 'KM001', 'connection refused');
sql("ALTER SERVER p OPTIONS (SET url 'https://does-not-exist.invalid')");
is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'p')"), 'KM001', 'unknown host');

# ---- TLS ----
my ($cert, $key) = test_certificate(2);
my @world = ({ do => 'key', name => 'k3' }, { do => 'token', id => 's.tls', rights => rights('k3') });
my $tls = start_stub('vault', cert => $cert, key => $key, init => \@world);
my ($old_cert, $old_key) = test_certificate(-1);
my $expired = start_stub('vault', cert => $old_cert, key => $old_key, init => \@world);
sql(qq{CREATE SERVER tls FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$tls->url]}', key 'k3');
	CREATE USER MAPPING FOR PUBLIC SERVER tls OPTIONS (token 's.tls')});
is(step('tls', 'identity', 'ok'), 'f', 'an untrusted certificate is refused');
like(step('tls', 'identity', 'detail'), qr/^misconfigured/, '... as our misconfiguration');
sql("ALTER SERVER tls OPTIONS (ADD ca_file '$cert')");
is(step('tls', 'context', 'ok'), 't', 'with ca_file it is trusted');
sql("ALTER SERVER tls OPTIONS (SET ca_file '$old_cert', SET url '@{[$expired->url]}')");
is(step('tls', 'identity', 'ok'), 'f', 'an expired certificate is refused');

$node->stop;
done_testing();

sub poll
{
	my ($sub) = @_;

	for (1 .. 300)
	{
		return 1 if $sub->();
		sleep(0.1);
	}
	return 0;
}
