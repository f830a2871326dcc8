# src/crypto: known answers, tampering, nonces, secret memory.
#
# Needs the module test/modules/crypto (cmek_test_crypto) to be installed, and
# the vectors of Debian's python3-cryptography-vectors; CMEK_VECTORS says where
# they are if not in the usual place.  CMEK_WITHOUT_IPSECMB=1 says that a build
# without libipsec-mb is meant to be tested.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $vectors = $ENV{CMEK_VECTORS}
  || '/usr/lib/python3/dist-packages/cryptography_vectors';
my $seed = $ENV{CMEK_SEED} || int(rand(2**31));

my $node = PostgreSQL::Test::Cluster->new('crypto');
$node->init;
$node->append_conf('postgresql.conf', 'log_min_messages = log');
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cmek_test_crypto');

# The result of a query, all in one session
sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# What a session writes to stderr, going on after errors; all of it is logged
sub complaints
{
	my ($sql) = @_;
	my ($out, $err);

	$node->psql('postgres', $sql,
		stdout => \$out, stderr => \$err, on_error_stop => 0);
	return ($out, $err);
}

# ---------------------------------------------------------------------
# Which implementations there are
# ---------------------------------------------------------------------

# Must ipsec-mb work here?  Then its absence is a failure, never a skip.
sub ipsecmb_expected
{
	my $cpu = -r '/proc/cpuinfo' ? slurp_file('/proc/cpuinfo') : '';

	return 0 if $ENV{CMEK_WITHOUT_IPSECMB};
	return
		 -e '/usr/include/intel-ipsec-mb.h'
	  && $cpu =~ /^flags\b.*\baes\b/m
	  && $cpu =~ /^flags\b.*\bpclmulqdq\b/m;
}

my ($have, $why_not) = complaints("SELECT test_implementation('ipsec-mb')");
my $ipsecmb = $have eq 'ipsec-mb';
my @impls = $ipsecmb ? ('ipsec-mb', 'openssl') : ('openssl');
my ($avx2, $why_no_avx2) =
  complaints("SELECT test_implementation('ipsec-mb-avx2')");
push @impls, 'ipsec-mb-avx2' if $avx2 eq 'ipsec-mb-avx2';

is($avx2 eq 'ipsec-mb-avx2' ? 1 : 0,
	$ipsecmb && slurp_file('/proc/cpuinfo') =~ /^flags\b.*\bavx2\b/m ? 1 : 0,
	'its AVX2 code can be chosen where the processor has that')
  or diag($why_no_avx2);
is($ipsecmb ? 1 : 0, ipsecmb_expected() ? 1 : 0,
	'ipsec-mb is used where it is installed and the processor can');
is(query("SELECT test_implementation('openssl')"),
	'openssl', 'openssl is always there');
is(query("SELECT test_implementation('auto')"),
	$impls[0], 'auto takes the faster one');
is( query("SET cmek.crypto = 'openssl'; SELECT test_implementation(NULL)"),
	'openssl', 'a new context obeys cmek.crypto');

my ($set_out, $set_err) =
  complaints("SET cmek.crypto = 'ipsec-mb'; SELECT test_implementation(NULL)");
if ($ipsecmb)
{
	is($set_out, 'ipsec-mb', 'cmek.crypto = ipsec-mb is obeyed');
}
else
{
	like($set_err, qr/invalid value for parameter "cmek.crypto"/,
		'cmek.crypto = ipsec-mb is refused where it cannot be used');
	like($set_err, qr/DETAIL: .*(built without|processor lacks)/, '... with the reason');
	like($why_not, qr/"ipsec-mb" cannot be used on this server/,
		'... and so is a context');
}

query('CREATE ROLE plain');
foreach my $set ("cmek.crypto = 'openssl'", 'cmek.allow_core_dumps = on')
{
	my (undef, $err) = complaints(
		"LOAD 'cmek_test_crypto'; SET ROLE plain; SET $set");
	like($err, qr/permission denied to set parameter/,
		"SET $set is not for everybody");
}

# ---------------------------------------------------------------------
# NIST CAVP: AES-256-GCM, 96-bit IV, 128-bit tag
# ---------------------------------------------------------------------

# The vectors of a file as lines for COPY; dies when it is not there
sub cavp_vectors
{
	my ($file, $kind) = @_;
	my (%section, @vectors, $vector);

	foreach my $line (split /\r?\n/,
		slurp_file("$vectors/ciphers/AES/GCM/$file"))
	{
		if ($line =~ /^\[(\w+) = (\d+)\]/)
		{
			$section{$1} = $2;
		}
		elsif ($line =~ /^Count = /)
		{
			$vector = { kind => $kind, FAIL => 'f', PT => '' };
			push @vectors, $vector
			  if $section{Keylen} == 256
			  && $section{IVlen} == 96
			  && $section{Taglen} == 128;
		}
		elsif ($line =~ /^(Key|IV|PT|AAD|CT|Tag) = ([0-9a-f]*)$/)
		{
			$vector->{$1} = $2;
		}
		elsif ($line =~ /^FAIL/)
		{
			$vector->{FAIL} = 't';
		}
	}
	return @vectors;
}

# Fill table cavp
sub cavp_load
{
	my @vectors = @_;
	my $csv = "$PostgreSQL::Test::Utils::tmp_check/cavp.csv";

	open my $fh, '>', $csv or die "could not write $csv: $!";
	foreach my $v (@vectors)
	{
		print $fh join(',',
			$v->{kind}, $v->{FAIL},
			map { "\\x$v->{$_}" } qw(Key IV PT AAD CT Tag)), "\n";
	}
	close $fh;
	query(
		qq{CREATE TABLE cavp (kind text, fail bool, key bytea, iv bytea,
		pt bytea, aad bytea, ct bytea, tag bytea);
		COPY cavp FROM '$csv' (FORMAT csv)});
}

cavp_load(
	cavp_vectors('gcmEncryptExtIV256.rsp', 'encrypt'),
	cavp_vectors('gcmDecrypt256.rsp', 'decrypt'));

# 25 pairs of lengths, 15 vectors each, in either file
is(query("SELECT count(*) FROM cavp WHERE kind = 'encrypt'"),
	375, 'all 375 CAVP encryption vectors are there');
is( query(
		"SELECT count(*) FILTER (WHERE fail), count(*) FROM cavp
		WHERE kind = 'decrypt'"),
	'191|375',
	'all 375 CAVP decryption vectors are there, 191 of which must fail');

foreach my $impl (@impls)
{
	is( query(
			"SELECT count(*) FROM cavp WHERE kind = 'encrypt' AND
			test_seal('$impl', key, iv, pt, aad) = iv || ct || tag"),
		375,
		"CAVP encrypt, $impl: 375 of 375 as expected");
	is( query(
			"SELECT count(*) FROM cavp WHERE kind = 'decrypt' AND NOT fail AND
			test_open('$impl', key, iv || ct || tag, aad) = pt"),
		184,
		"CAVP decrypt, $impl: 184 of 184 open");
	is( query(
			"SELECT count(*) FROM cavp WHERE kind = 'decrypt' AND fail AND
			test_open('$impl', key, iv || ct || tag, aad) IS NULL"),
		191,
		"CAVP decrypt, $impl: 191 of 191 that must fail do, output zeroed");

	foreach my $opener (@impls)
	{
		is( query(
				"SELECT count(*) FROM cavp WHERE NOT fail AND
				test_open('$opener', key,
					test_seal('$impl', key, iv, pt, aad), aad) = pt"),
			375 + 184,
			"CAVP, sealed by $impl, opened by $opener: 559 of 559");
		is( query(
				"SELECT count(*) FROM cavp WHERE NOT fail AND
				test_open('$opener', key,
					test_seal('$impl', key, NULL, pt, aad), aad) = pt"),
			375 + 184,
			'... and under a random nonce');
	}
}

# ---------------------------------------------------------------------
# Tampering, and values of every size
# ---------------------------------------------------------------------

note("seed $seed (CMEK_SEED)");
foreach my $impl (@impls)
{
	foreach my $len (0, 1, 15, 16, 17, 24, 103, 128, 255, 256, 257, 1000)
	{
		# nonce 12, tag 16, AAD 20; two flips of each byte
		is(query("SELECT test_tamper('$impl', $len)"),
			2 * ($len + 12 + 16 + 20),
			"$impl, $len bytes: no flip of any byte opens");
	}
	foreach my $opener (@impls)
	{
		cmp_ok(
			query(
				"SELECT test_roundtrip('$impl', '$opener', $seed, 2000, 8192)"),
			'>', 2000 * 3000,
			"2000 values of 0 to 8192 bytes, sealed by $impl, opened by $opener (seed $seed)"
		);
	}
}

# ---------------------------------------------------------------------
# HMAC-SHA256: RFC 4231, of the same package (without case 5, truncated)
# ---------------------------------------------------------------------

my $rfc4231 = slurp_file("$vectors/HMAC/rfc-4231-sha256.txt");
my $hmacs = 0;
while ($rfc4231 =~ /^Key = (\w+)\n(?:#.*\n)*Msg = (\w+)\n(?:#.*\n)*MD = (\w{64})$/mg)
{
	my ($key, $msg, $md) = ($1, $2, $3);
	is(query("SELECT test_hmac('\\x$key', '\\x$msg')"),
		"\\x$md", 'HMAC-SHA256, RFC 4231, case ' . ++$hmacs);
}
is($hmacs, 6, 'six cases of RFC 4231 were tried');
like(query("SELECT test_hmac('', '')"),
	qr/^\\x[0-9a-f]{64}$/, 'HMAC of nothing with an empty key');

# HKDF-Expand: RFC 5869, A.1, the first 32 of its 42 bytes
is(query("SELECT test_derive('\\x077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5', '\\xf0f1f2f3f4f5f6f7f8f9')"),
	'\\x3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf', 'HKDF-Expand, RFC 5869, case 1');

# RS256: openssl's own command has the last word
{
	my $dir = PostgreSQL::Test::Utils::tempdir();

	system("openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out $dir/k 2>/dev/null || "
		  . "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out $dir/k 2>/dev/null");
	system("openssl pkey -in $dir/k -pubout -out $dir/p");
	my $signature = query("SELECT test_sign('\\x" . unpack('H*', slurp_file("$dir/k")) . "', 'header.claims')");
	open(my $fh, '>:raw', "$dir/s") or die;
	print $fh pack('H*', substr($signature, 2));
	close($fh);
	is(system("printf header.claims | openssl dgst -sha256 -verify $dir/p -signature $dir/s >/dev/null"), 0, 'openssl verifies RS256');
	isnt(system("printf other.claims | openssl dgst -sha256 -verify $dir/p -signature $dir/s >/dev/null 2>&1"), 0, '... of this text only');
	is(query("SELECT test_sign('nonsense', 'x') IS NULL"), 't', 'no key, no signature');
}

# ---------------------------------------------------------------------
# Nonces and UUIDs
# ---------------------------------------------------------------------

is(query('SELECT test_repeated_nonces(1000000)'),
	0, 'a million nonces, none twice');
is(query('SELECT test_repeated_nonces_after_fork(300)'),
	0, 'a forked child draws other nonces');

my @draws = map { query('SELECT test_nonces(1000)') } (1, 2);
my %seen;
$seen{$_}++ foreach map { substr($_, 2) =~ /([0-9a-f]{24})/g } @draws;
is(scalar keys %seen, 2000, 'two backends draw 2000 different nonces');

is( query(
		"SELECT count(DISTINCT u) FROM (SELECT test_uuid() u
		FROM generate_series(1, 1000)) s WHERE u::text ~
		'^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\$'"
	),
	1000,
	'UUIDs are of version 4 and differ');

# ---------------------------------------------------------------------
# Secret memory
# ---------------------------------------------------------------------

my $secret = '\x' . '5ec2e7' x 40;
my $zeros = '\x' . '000000' x 40;

chomp(my $memlock = `bash -c 'ulimit -l'`);
SKIP:
{
	skip 'RLIMIT_MEMLOCK is 0', 9 if $memlock eq '0';

	foreach my $size (32, 100000)
	{
		my $flags = query("SELECT test_secret_flags($size)");
		like($flags, qr/\blo\b/, "secret of $size bytes is locked");
		like($flags, qr/\bdd\b/, '... is left out of core dumps');
		like($flags, qr/\bwf\b/, '... is wiped on fork');
	}
	my $flags = query('SELECT test_protect_flags()');
	like($flags, qr/\blo\b/, 'protected shared memory is locked');
	like($flags, qr/\bdd\b/, '... is left out of core dumps');

	my (undef, $err) =
	  complaints('SELECT test_secret_flags(32), test_secret_flags(100000)');
	unlike($err, qr/WARNING/, 'no warning where memory can be locked');
}

cmp_ok(query("SELECT test_secret_blocks($seed, 20000)"),
	'>', 5000, "blocks are aligned, zeroed and apart (seed $seed)");

my ($out, $err) = complaints(
	"SELECT test_secret_make('$secret', false, true);
	SELECT test_secret_peek();");
like($err, qr/as you wish/, 'control: a function ends in an error');
is($out, $secret, 'control: its secret without a context is still there');

($out, $err) = complaints(
	"SELECT test_secret_make('$secret', true, true);
	SELECT test_secret_peek();");
like($err, qr/as you wish/, 'a function ends in an error');
is($out, $zeros, 'its secret in a memory context is gone');

($out) = complaints(
	"SELECT test_secret_make('$secret', true, false);
	SELECT test_secret_peek();");
is($out, "\n$zeros", 'so it is without an error');

($out) = complaints(
	"SELECT test_secret_make('$secret', false, false);
	SELECT test_secret_peek();
	SELECT test_secret_peek_after_fork();");
is($out, "\n$secret\n$zeros", 'a forked child does not have the secret');

(undef, $err) = complaints('SELECT test_free_twice()');
like($err, qr/is freed twice/, 'freeing twice is noticed');

($out) = complaints(
	"SELECT test_secret_peek_at_exit();
	SELECT test_secret_make('$secret', false, false);
	SELECT test_secret_peek();");
is($out, "\n\n$secret", 'control: a secret is there as long as its process');
$node->wait_for_log(qr/secret at exit: \d+ of 120 bytes left/);
like(
	slurp_file($node->logfile),
	qr/secret at exit: 0 of 120 bytes left/,
	'at exit it is wiped');

is(query('SELECT * FROM test_dumpable()'),
	't|f', 'who has made a context leaves no core dump');
is( query(
		'SET cmek.allow_core_dumps = on; SELECT * FROM test_dumpable()'),
	't|t',
	'... unless allowed');

# Where the limit forbids to lock: one warning a session, and work goes on
$node->stop;
my @start = (
	'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, 'start');
command_ok([ 'bash', '-c', 'ulimit -l 0; exec "$@"', 'bash', @start ],
	'server started with ulimit -l 0');
($out, $err) = complaints(
	"SELECT test_secret_flags(32) !~ '\\mlo\\M';
	SELECT test_secret_flags(100000) !~ '\\mlo\\M';
	SELECT test_implementation('openssl');
	SELECT test_protect_flags() IS NULL");
is($out, "t\nt\nopenssl\nt", 'secrets work without being locked');
is(scalar(() = $err =~ /WARNING:/g), 1, '... with one warning');
like($err, qr/could not lock memory for encryption keys: .*\n.*\nHINT: .*LimitMEMLOCK/,
	'... that says what to do');
(undef, $err) = complaints('SELECT test_secret_flags(32)');
is(scalar(() = $err =~ /WARNING:/g), 1, '... in each session');
command_ok([ 'pg_ctl', '-w', '-D', $node->data_dir, '-m', 'fast', 'stop' ],
	'server stopped');

# ---------------------------------------------------------------------
# OpenSSL with its FIPS provider
# ---------------------------------------------------------------------

# Make an openssl.cnf that allows the FIPS provider only; undef, why, if none
sub fips_config
{
	my $dir = $PostgreSQL::Test::Utils::tmp_check;
	my $modules = $ENV{OPENSSL_MODULES};

	($modules) = `openssl version -m` =~ /MODULESDIR: "(.*)"/ if !$modules;
	return (undef, 'no FIPS provider is installed')
	  if !$modules || !-e "$modules/fips.so";
	return (undef, 'openssl fipsinstall does not work')
	  if !run_log([
			'openssl', 'fipsinstall', '-module', "$modules/fips.so",
			'-out', "$dir/fipsmodule.cnf" ]);
	append_to_file(
		"$dir/openssl.cnf", qq{openssl_conf = init
.include $dir/fipsmodule.cnf
[init]
providers = providers
alg_section = algorithms
[providers]
fips = fips_sect
base = base_sect
[base_sect]
activate = 1
[algorithms]
default_properties = fips=yes
});
	return ("$dir/openssl.cnf", undef);
}

my ($fips, $no_fips) = fips_config();
SKIP:
{
	skip $no_fips, 5 if !defined $fips;

	local $ENV{OPENSSL_CONF} = $fips;
	$node->start;
	(undef, $err) = complaints("SELECT md5('x')");
	like($err, qr/could not compute MD5 hash/,
		'control: OpenSSL is in FIPS mode');
	is( query(
			"SELECT count(*) FROM cavp WHERE kind = 'encrypt' AND
			test_seal('openssl', key, iv, pt, aad) = iv || ct || tag"),
		375,
		'CAVP encrypt in FIPS mode: 375 of 375 as expected');
	is( query(
			"SELECT count(*) FILTER (WHERE NOT fail AND o = pt),
				count(*) FILTER (WHERE fail AND o IS NULL)
			FROM (SELECT *, test_open('openssl', key, iv || ct || tag, aad) o
				FROM cavp WHERE kind = 'decrypt') s"),
		'184|191',
		'CAVP decrypt in FIPS mode: 184 open, 191 fail');
	is(query('SELECT test_repeated_nonces(100000)'),
		0, 'nonces in FIPS mode');
	like(query("SELECT test_hmac('0123456789abcdef', 'x')"),
		qr/^\\x[0-9a-f]{64}$/, 'HMAC in FIPS mode');
	$node->stop;
}

# ---------------------------------------------------------------------
# The postmaster has looked at ipsec-mb, backends inherit what it found
# ---------------------------------------------------------------------

$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'cmek_test_crypto'");
$node->start;
foreach my $opener (@impls)
{
	cmp_ok(query("SELECT test_roundtrip('auto', '$opener', $seed, 100, 8192)"),
		'>', 0, "preloaded: sealed by $impls[0], opened by $opener");
}
my @other = map { query('SELECT test_nonces(100)') } (1, 2);
isnt($other[0], $other[1], 'preloaded: two backends draw different nonces');

# ---------------------------------------------------------------------
# Speed: no test, for whoever looks
# ---------------------------------------------------------------------

foreach my $impl (@impls)
{
	foreach my $len (24, 103, 128, 1000)
	{
		my ($seal, $open) = split /\|/,
		  query("SELECT round(seal), round(open)
			FROM test_speed('$impl', $len, 200000)");
		note("$impl, $len bytes: seal $seal ns, open $open ns");
	}
}
$node->stop;

done_testing();
