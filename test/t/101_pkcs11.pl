# Provider cmek_pkcs11 against SoftHSM: tables, a key taken away and given back,
# PINs that are never tried twice, modules that fail, hang and crash beside a
# healthy key.  PyKCS11, another client, opens what the provider wrapped and
# wraps what the provider opens.

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
use CmekHsm;

plan skip_all => 'no SoftHSM or PyKCS11 (softhsm2, python3-pykcs11)' unless have_softhsm();

my $hsm = softhsm();
my $dir = $hsm->dir;
my $soft = $hsm->module;
my $fault = $ENV{CMEK_P11_FAULT} = "$dir/fault";
$ENV{CMEK_P11_REAL} = $soft;
$hsm->client('make', 'leaves', 'extractable');

# core dumps allowed: else nobody could look at the maps of its processes
my $node = cmek_node('pkcs11', config => [ 'autovacuum = off', "cmek.kms_timeout = '3s'", 'cmek.allow_core_dumps = on' ]);
my $faulty = `pg_config --pkglibdir` =~ s/\n//r . '/cmek_test_hsm.so';
my $pid = slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub step
{
	my ($key, $step, $column) = @_;

	return sql("SELECT $column FROM cmek.check_key('$key') WHERE step = '$step'");
}

# A server of ours: name, key, module, PIN
sub server
{
	my ($name, $key, $module, $pin, $token) = @_;

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER cmek_pkcs11
			OPTIONS (module '$module', token '@{[ $token // 'tok' ]}', key '$key');
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (pin '$pin')");
	return;
}

# How often the module was asked to log in with a PIN
sub logins
{
	my ($pin) = @_;

	return scalar(() = (-e "$fault.log" ? slurp_file("$fault.log") : '') =~ /^C_Login \d+ $pin$/mg);
}

# ---- options ----
my $s = 'CREATE SERVER s FOREIGN DATA WRAPPER cmek_pkcs11 OPTIONS';
for my $bad ([ 'HV00D', 'Valid options in this context are: module, token, key', "$s (module '$soft', token 't', key 'k', colour 'x')" ],
	[ 'HV002', 'option "key" is required', "$s (module '$soft', token 't')" ],
	[ 'HV024', 'must be an absolute path', "$s (module 'x.so', token 't', key 'k')" ],
	[ 'HV024', 'longer than 32 bytes', "$s (module '$soft', token '" . 'x' x 33 . "', key 'k')" ],
	[ 'HV00D', 'is a secret and cannot be set on a server', "$s (module '$soft', token 't', key 'k', pin 'hush')" ])
{
	like(error_text($node, $bad->[2]), qr/$bad->[0]: .*$bad->[1]/s, "refused: $bad->[1]");
}
sql('CREATE ROLE filer; GRANT pg_write_server_files TO filer; GRANT USAGE ON FOREIGN DATA WRAPPER cmek_pkcs11 TO filer');
like(error_text($node, "SET ROLE filer; $s (module '$soft', token 't', key 'k')"), qr/42501: .*Only superusers.*load code/s,
	'a module is for superusers only');

# ---- a table ----
server('h', 'k', $soft, '1234');
sql("CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'h');
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i");
is(sql('SELECT count(*), min(b) IS NOT NULL FROM t'), '100|t', 'a table under an HSM');
like(sql('SELECT kms_key_id FROM cmek.tables'), qr/^pkcs11:token=tok;serial=[0-9a-f]{16};object=k$/, 'the key\'s name');
is(sql("SELECT string_agg(step || ' ' || ok, ', ') FROM cmek.check_key('h')"),
	'identity true, key true, encrypt true, decrypt true, context true', 'check_key proves each step');
like(step('h', 'identity', 'detail'), qr/user of token tok \(SoftHSM v2, serial number/, 'who we are');
like(step('h', 'key', 'detail'), qr/AES, 256 bits\), cannot be extracted/, 'what the key is');
is(sql("SELECT count(*) FROM cmek.table_key WHERE position('1234'::bytea in blob) > 0 OR length(blob) <> 60"), 0, 'a wrapped key has 60 bytes');
unlike(sql('SELECT umoptions FROM pg_user_mappings') . slurp_file($node->logfile), qr/pin=1234|\b1234\b.*CKR/, 'no PIN in catalog or log');

# ---- the module is in no process of the server's ----
sub with_module { return grep { (slurp_binary("/proc/$_/maps") || '') =~ /libsofthsm2/ } @_ }
my @server = ($pid, split(/\n/, sql("SELECT pid FROM pg_stat_activity")), split(' ', `pgrep -P $pid`));
my @hosts = split(' ', join(' ', map { `pgrep -P $_` } split(' ', `pgrep -P $pid`)));
is(join(' ', with_module(@server)), '', 'no process of the server has loaded the module');
cmp_ok(scalar(with_module(@hosts)), '>', 0, '... but children of its KMS workers have');
is(scalar(grep { slurp_binary("/proc/$_/maps") =~ m{/dev/zero|SYSV|/PostgreSQL\.} } with_module(@hosts)), 0, '... and those have none of its shared memory');

# ---- away and back, without a restart ----
for my $way ([ 'renamed', [ 'rename', 'k', 'gone' ], [ 'rename', 'gone', 'k' ], 'KeyNotFound' ],
	[ 'not for decrypt any more', [ 'set', 'k', 'decrypt', '0' ], [ 'set', 'k', 'decrypt', '1' ], 'CKR_KEY_FUNCTION_NOT_PERMITTED' ])
{
	my ($name, $away, $back, $code) = @$way;

	$hsm->client(@$away);
	ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), "key $name: KM001");
	like(error_text($node, 'SELECT count(*) FROM t'), qr/$code \(denied\)/, '... a denial, with the module\'s own code');
	isnt(step('h', 'key', 'hint'), '', '... and what to do');
	$hsm->client(@$back);
	ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... back: readable');
}
rename("$dir/tokens", "$dir/tokens.away");
mkdir("$dir/tokens");
$node->restart;
like(error_text($node, 'SELECT count(*) FROM t'), qr/KM001: .*\n?.*TokenNotPresent \(unreachable\)/, 'no token: unreachable, no denial');
rmdir("$dir/tokens");
rename("$dir/tokens.away", "$dir/tokens");
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), '... plugged in again: readable');
$node->restart;
is(sql('SELECT count(*) FROM t'), 100, 'readable after a restart');

# ---- another client ----
my ($blob, $uuid) = split(/ /, sql("SELECT encode(blob, 'hex') || ' ' || id FROM cmek.table_key WHERE server = 'h' LIMIT 1"));
my $key = $hsm->client('open', 'k', $blob, "cmek table key $uuid");
like($key, qr/^[0-9a-f]{64}$/, 'PyKCS11 opens what the provider wrapped');
like($hsm->client('open', 'k', $blob, 'cmek table key other'), qr/^refused/, '... and not under another context');
my $again = $hsm->client('seal', 'k', $key, "cmek table key $uuid");
sql("UPDATE cmek.table_key SET blob = '\\x$again' WHERE id = '$uuid'");
$node->restart;
is(sql('SELECT count(*) FROM t'), 100, 'the provider opens what PyKCS11 wrapped');
sql("CREATE TABLE bad (a int) USING cmek_heap WITH (cmek.key = 'h'); INSERT INTO bad VALUES (1);
	UPDATE cmek.table_key SET blob = set_byte(blob, 20, 255 - get_byte(blob, 20)) WHERE relid = 'bad'::regclass");
$node->restart;
is(sqlstate($node, 'SELECT * FROM bad'), 'XX001', 'a damaged blob: corrupt, though SoftHSM says CKR_GENERAL_ERROR');
is(sqlstate($node, 'SELECT * FROM t'), '', '... which says nothing of the key');
sql('DROP TABLE bad');

# ---- keys that are not good enough ----
server('leaves', 'leaves', $soft, '1234');
is(step('leaves', 'key', 'code'), 'KeyExtractable', 'a key that can leave the token');
like(error_text($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'leaves')"), qr/KM001: .*KeyExtractable/s, '... is not bound');
$hsm->client('make', 'twin') for 1 .. 2;
server('twin', 'twin', $soft, '1234');
is(step('twin', 'key', 'code'), 'KeyAmbiguous', 'two keys of one label');
server('nomodule', 'k', '/nonexistent.so', '1234');
is(step('nomodule', 'identity', 'code'), 'ModuleNotLoaded', 'no such module');
like(step('nomodule', 'identity', 'hint'), qr/option "module"/, '... and what to do');
server('nofunctions', 'k', $faulty =~ s/cmek_test_hsm/plpgsql/r, '1234');
is(step('nofunctions', 'identity', 'code'), 'ModuleNotLoaded', 'a library that is no module');

# ---- a wrong PIN is tried once, whoever asks ----
$hsm->add_token('two');
my $two = bless({ %$hsm, token => 'two' }, ref $hsm);
$two->client('make', 'k');
server('f', 'k', $faulty, '1234', 'two');
sql("CREATE TABLE f (a int) USING cmek_heap WITH (cmek.key = 'f'); INSERT INTO f VALUES (1)");
server('wrong', 'k', $faulty, '9999', 'two');
is(step('wrong', 'identity', 'code'), 'CKR_PIN_INCORRECT', 'a wrong PIN');
is(step('wrong', 'identity', 'code'), 'PinRefusedBefore', '... is not tried again') for 1 .. 3;
is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'wrong')"), 'KM001', '... by anybody');
$node->restart;
is(step('wrong', 'identity', 'code'), 'PinRefusedBefore', '... nor after a restart');
is(step('f', 'context', 'ok'), 't', '... and the right one is no worse for it');
my %logins;
$logins{$_}++ for slurp_file("$fault.log") =~ /^C_Login (\d+)/mg;
is(join(' ', grep { $_ > 1 } values %logins), '', 'no process logs in twice');
is(logins('9999'), 1, '... the module was asked once');
cmp_ok(logins('1234'), '>', 1, '... and with the right one as often as needed');
my $pins = $node->data_dir . '.cmek/refused_pins';
is(-s $pins, 48 + 32, 'one digest in the file');
is((stat($pins))[2] & 0777, 0600, '... which is ours alone');
spew("$dir/pin", "1234\n");
chmod(0600, "$dir/pin");
sql("ALTER USER MAPPING FOR PUBLIC SERVER wrong OPTIONS (DROP pin, ADD pin_file '$dir/pin')");
is(step('wrong', 'context', 'ok'), 't', 'the right PIN, from a file: at once');
spew("$dir/pin", "8888\n");
is(step('wrong', 'identity', 'code'), 'CKR_PIN_INCORRECT', 'another wrong PIN is tried, once');
is(step('wrong', 'identity', 'code'), 'PinRefusedBefore', '... and not again');
is(step('f', 'context', 'ok'), 't', 'and the right one goes on all the while');
for my $flag ([ '0x20000', 'PinFinalTry' ], [ '0x40000', 'PinLocked' ])
{
	spew($fault, "C_GetTokenInfo $flag->[0]\n");
	spew("$dir/pin", "7777\n");
	is(step('wrong', 'identity', 'code'), $flag->[1], "the token says $flag->[1]");
	is(logins('7777'), 0, '... it is not asked');
	unlink($fault);
}
rename($pins, "$pins.away");
mkdir($pins);
is(step('wrong', 'identity', 'code'), 'RefusedPinFile', 'where a refusal cannot be remembered, no PIN is tried');
rmdir($pins);
rename("$pins.away", $pins);

# ---- faults of a module, and a healthy key beside it ----
sub fault
{
	my ($name, $what, $wanted) = @_;

	spew($fault, "$what\n");
	$node->restart;
	my ($text, $took) = ('', 0);
	# what a proof of the server's own met first is remembered for a moment
	for (1 .. 40)
	{
		my $started = time();

		$text = error_text($node, 'SELECT * FROM f');
		$took = time() - $started;
		last if $text =~ /$wanted/;
		sleep(0.5);
	}
	like($text, qr/KM001: .*\n?.*$wanted/, "$name: $wanted");
	cmp_ok($took, '<', 25, '... in time');
	unlink($fault);
	ok(wait_for_ok($node, 'SELECT * FROM f'), '... and back by itself');
	return;
}
fault('device error', 'C_Decrypt 0x30', 'CKR_DEVICE_ERROR \(unreachable\)');
fault('session lost', 'C_FindObjects 0xb3', 'CKR_SESSION_HANDLE_INVALID \(unreachable\)');
fault('token removed', 'C_Decrypt 0x32', 'CKR_DEVICE_REMOVED \(unreachable\)');
spew($fault, "C_EncryptInit 0x70\n");
is(step('f', 'encrypt', 'code'), 'CKR_MECHANISM_INVALID', 'a token without AES-GCM');
like(step('f', 'encrypt', 'hint'), qr/CKM_AES_GCM/, '... and what to do');
unlink($fault);
fault('a vendor\'s own code', 'C_Decrypt 0x80000001', 'CKR_0x80000001 \(unreachable\)');
fault('wrong length', 'C_Decrypt short', 'MalformedAnswer \(unreachable\)');
fault('no initialization', 'C_Initialize 0x30', 'CKR_DEVICE_ERROR \(unreachable\)');
fault('locked out', 'C_Login 0x30', 'CKR_DEVICE_ERROR \(unreachable\)');
fault('crash', 'C_Decrypt crash', 'ModuleCrashed \(unreachable\)');
unlike(slurp_file($node->logfile), qr/terminated by signal|reinitializing/, '... of the module\'s process, not of the server');
fault('hangs', 'C_Decrypt hang', 'ModuleTimeout \(unreachable\)');
fault('hangs in C_Initialize', 'C_Initialize hang', 'ModuleTimeout \(unreachable\)');
fault('hangs in C_Login', 'C_Login hang', 'ModuleTimeout \(unreachable\)');
is(-s $pins, 48 + 2 * 32, 'none of this was a refused PIN');

# a session that is lost under us is replaced within the call
spew($fault, "C_FindObjects once:0xb3\n");
is(step('f', 'decrypt', 'ok'), 't', 'a session lost once is not noticed');
ok(!-e $fault, '... though it was lost');

# one that hangs, and a healthy key on another one
my $file = new_key_file("$dir/key");
sql("CREATE SERVER well FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE well (a int) USING cmek_heap WITH (cmek.key = 'well'); INSERT INTO well VALUES (1)");
spew($fault, "C_Decrypt hang\n");
my $slowest;
# a busy machine may be slow by itself, but not every time
for (1 .. 5)
{
	$node->restart;
	my $sick = $node->background_psql('postgres', on_error_stop => 0);

	$sick->query_until(qr/asking/, "\\echo asking\nSELECT * FROM f;\n");
	$slowest = 0;
	for (1 .. 10)
	{
		my $began = time();
		sql('SELECT * FROM well');
		$slowest = time() - $began if time() - $began > $slowest;
		sleep(0.2);
	}
	$sick->quit;
	last if $slowest < 2;
}
cmp_ok($slowest, '<', 2, sprintf('a healthy key beside a module that hangs: at most %.0f ms', 1000 * $slowest));
unlink($fault);
ok(wait_for_ok($node, 'SELECT * FROM f'), '... and back');

# ---- they end with the server, however it ends ----
sub hosts_of
{
	my @workers = split(' ', `pgrep -P $_[0]`);

	return grep { -d "/proc/$_" } with_module(split(' ', join(' ', map { `pgrep -P $_` } @workers)));
}
$pid = slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr;
my @alive = hosts_of($pid);
cmp_ok(scalar(@alive), '>', 0, 'there are processes of modules');
$node->stop('immediate');
for (1 .. 100)
{
	@alive = grep { -d "/proc/$_" } @alive;
	last unless @alive;
	sleep(0.1);
}
is(scalar(@alive), 0, '... and none after an immediate stop');
$node->start;
is(sql('SELECT * FROM f'), 1, 'readable after it');

$node->stop;
done_testing();
