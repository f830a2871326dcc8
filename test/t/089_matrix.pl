# A table under each provider, switched to each other one; each provider taken
# away and given back.  One postmaster, until the restart at the end.  Then many
# tables of each are opened at once (CMEK_MATRIX_TABLES, 40).
#
# file; AWS KMS (moto); Google Cloud KMS, Vault and Azure Key Vault (stubs that
# real clients check, 086, 087 and 104); an HSM (SoftHSM); a KMIP server (PyKMIP).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekStub;
use CmekHsm;

delete @ENV{ grep { /^AWS_/ } keys %ENV };
$ENV{AWS_EC2_METADATA_DISABLED} = 'true';
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});
my $have_moto = system("/usr/bin/python3 -c 'import moto' >/dev/null 2>&1") == 0;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $hsm = have_softhsm() ? softhsm() : undef;
# a module in front of SoftHSM's that counts
@ENV{ 'CMEK_P11_REAL', 'CMEK_P11_FAULT' } = ($hsm->module, $hsm->dir . '/fault') if $hsm;
my $node = cmek_node('matrix', config => [ 'autovacuum = off', "cmek.kms_timeout = '5s'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# name => { away, back, code }
my %kms;

# ---- file ----
my $file = new_key_file("$dir/key");
sql("CREATE SERVER file FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')");
$kms{file} = { away => sub { hide_key($file) }, back => sub { show_key($file) }, code => 'KeyFileMissing' };

# ---- Google ----
my $gcp = start_stub('gcp');
my $name = 'projects/p/locations/l/keyRings/r/cryptoKeys/k';
my $account = 'db@p.iam.gserviceaccount.com';
my ($private, $public) = rsa_key();
$gcp->tell('key', name => $name);
$gcp->tell('account', email => $account, public_key => $public);
$gcp->tell('grant', email => $account, key => $name);
sql(qq{CREATE SERVER gcp FOREIGN DATA WRAPPER cmek_gcp
		OPTIONS (key_id '$name', endpoint '@{[$gcp->url]}', token_endpoint '@{[$gcp->url]}/token');
	CREATE USER MAPPING FOR PUBLIC SERVER gcp OPTIONS (client_email '$account', private_key '@{[slurp_file($private)]}')});
$kms{gcp} = { away => sub { $gcp->tell('state', name => $name, state => 'DISABLED') },
	back => sub { $gcp->tell('state', name => $name, state => 'ENABLED') }, code => 'KEY_DISABLED',
	unwraps => sub { $gcp->requests(':decrypt') } };

# ---- Vault ----
my $vault = start_stub('vault');
my $rights = { 'transit/encrypt/k' => ['update'], 'transit/decrypt/k' => ['update'], 'transit/keys/k' => ['read'] };
$vault->tell('key', name => 'k');
$vault->tell('token', id => 's.db', rights => $rights);
sql(qq{CREATE SERVER vault FOREIGN DATA WRAPPER cmek_vault OPTIONS (url '@{[$vault->url]}', key 'k');
	CREATE USER MAPPING FOR PUBLIC SERVER vault OPTIONS (token 's.db')});
$kms{vault} = { away => sub { $vault->tell('rights', id => 's.db', rights => {}) },
	back => sub { $vault->tell('rights', id => 's.db', rights => $rights) }, code => 'PermissionDenied',
	unwraps => sub { $vault->requests('/decrypt/') } };

# ---- Azure ----
my $azure = start_stub('azure');
$azure->tell('key', name => 'k');
$azure->tell('app', tenant => 't', client => 'c', secret => 's');
$azure->tell('grant', who => 'c', key => 'k');
sql(qq{CREATE SERVER azure FOREIGN DATA WRAPPER cmek_azure
		OPTIONS (key_id 'https://v.vault.azure.net/keys/k', endpoint '@{[$azure->url]}', authority '@{[$azure->url]}');
	CREATE USER MAPPING FOR PUBLIC SERVER azure OPTIONS (tenant_id 't', client_id 'c', client_secret 's')});
$kms{azure} = { away => sub { $azure->tell('state', name => 'k', enabled => JSON::PP::false) },
	back => sub { $azure->tell('state', name => 'k', enabled => JSON::PP::true) }, code => 'KeyDisabled',
	unwraps => sub { $azure->requests('/unwrapkey') } };

# ---- AWS ----
if ($have_moto)
{
	my $aws = start_stub('aws');
	my $key = $aws->tell('key');
	my $user = $aws->tell('user', name => 'db');
	sql(qq{CREATE SERVER aws FOREIGN DATA WRAPPER cmek_aws
			OPTIONS (key_id '$key', endpoint '@{[$aws->url]}', sts_endpoint '@{[$aws->url]}');
		CREATE USER MAPPING FOR PUBLIC SERVER aws OPTIONS (access_key_id '$user->{id}', secret_access_key '$user->{secret}')});
	$kms{aws} = { away => sub { $aws->tell('state', arn => $key, state => 'Disabled') },
		back => sub { $aws->tell('state', arn => $key, state => 'Enabled') }, code => 'DisabledException',
		unwraps => sub { $aws->requests('Decrypt') } };
}

# ---- HSM ----
if ($hsm)
{
	my $counting = `pg_config --pkglibdir` =~ s/\n//r . '/cmek_test_hsm.so';
	sql("CREATE SERVER hsm FOREIGN DATA WRAPPER cmek_pkcs11 OPTIONS (module '$counting', token 'tok', key 'k');
		CREATE USER MAPPING FOR PUBLIC SERVER hsm OPTIONS (pin '1234')");
	$kms{hsm} = { away => sub { $hsm->client('rename', 'k', 'away') }, back => sub { $hsm->client('rename', 'away', 'k') },
		code => 'KeyNotFound', unwraps => sub { scalar(() = slurp_file("$ENV{CMEK_P11_FAULT}.log") =~ /^C_Decrypt /mg) } };
}

# ---- KMIP ----
if (have_pykmip())
{
	my $files = kmip_files();
	my $kmip = start_kmip($files);
	my $key = $kmip->tell('key');
	sql("CREATE SERVER kmip FOREIGN DATA WRAPPER cmek_kmip
			OPTIONS (hosts '127.0.0.1:@{[$kmip->port]}', key_id '$key', ca_file '$files/ca.pem');
		CREATE USER MAPPING FOR PUBLIC SERVER kmip OPTIONS (cert_file '$files/client.pem', key_file '$files/client.key')");
	$kms{kmip} = { away => sub { $kmip->tell('state', uid => $key, state => 3) },
		back => sub { $kmip->tell('state', uid => $key, state => 2) }, code => 'StateDeactivated',
		unwraps => sub { scalar grep { $_ eq 'DECRYPT' } @{ $kmip->tell('count')->{operations} } } };
}
my @all = sort keys %kms;
note 'providers: ', join(', ', @all);

# ---- the matrix ----
my $pid = slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr;
my (%under, %rows);
for my $from (@all)
{
	is(sql("SELECT bool_and(ok) FROM cmek.check_key('$from')"), 't', "$from: check_key");
	for my $to (@all)
	{
		my $t = "${from}_to_$to";

		sql("CREATE TABLE $t (a int, b text) USING cmek_heap WITH (cmek.key = '$from');
			INSERT INTO $t SELECT i, '$t' || i FROM generate_series(1, 20) i");
		push @{ $under{$to} }, $t;
		next if $from eq $to;
		my $filenode = sql("SELECT pg_relation_filenode('$t')");
		sql("ALTER TABLE $t SET (cmek.key = '$to')");
		is(sql("SELECT count(*), min(b) = '${t}1', pg_relation_filenode('$t') = $filenode,
			(SELECT string_agg(server, ' ' ORDER BY version) FROM cmek.key_chain WHERE name = '$t') FROM $t"),
			"20|t|t|$from $to", "from $from to $to: readable, no row touched");
		sql("INSERT INTO $t VALUES (21, 'after')");
	}
}

# ---- away and back, each alone ----
for my $away (@all)
{
	my ($one) = @{ $under{$away} };

	$kms{$away}{away}->();
	ok(wait_for_error($node, 'KM001', "SELECT count(*) FROM $one"), "$away revoked: KM001");
	for my $to (@all)
	{
		my @wrong = grep { sqlstate($node, "SELECT count(*) FROM $_") ne ($to eq $away ? 'KM001' : '') } @{ $under{$to} };

		is(join(' ', @wrong), '', $to eq $away ? '... for all of its tables' : "... and not for those under $to");
	}
	like(error_text($node, "INSERT INTO $one VALUES (0)"), qr/$kms{$away}{code} \(denied\)/, '... a denial, with the KMS\'s own code');
	is(sqlstate($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = '$away')"), 'KM001', '... nothing new is bound');
	$kms{$away}{back}->();
	ok(wait_for_ok($node, "SELECT count(*) FROM $_"), "... back: $_ is readable") for @{ $under{$away} };
}
is(slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr, $pid, 'all of it without a restart');

# ---- once round, by switch_key ----
for my $i (0 .. $#all)
{
	sql("CALL cmek.switch_key('$all[$i]', '$all[($i + 1) % @all]')");
}
is(sql("SELECT string_agg(DISTINCT key, ' ') FROM cmek.tables"), $all[0], 'switch_key: all tables once round, under one key');
$node->restart;
is(sql(join(' UNION ALL ', map { "SELECT count(*) FROM $_->[0] HAVING count(*) <> $_->[1]" }
			map { my $to = $_; map { [ $_, /^${to}_to_$to$/ ? 20 : 21 ] } @{ $under{$to} } } @all)),
	'', 'all rows readable after a restart');
is(sql("SELECT count(*) FROM cmek.tables"), @all * @all, 'of all tables');

# ---- many tables at once: one unwrap for each table key ----
my $many = $ENV{CMEK_MATRIX_TABLES} || 40;
for my $key (@all)
{
	sql("DO \$\$ BEGIN FOR i IN 1..$many LOOP
		EXECUTE format('CREATE TABLE many_${key}_%s (a int) USING cmek_heap WITH (cmek.key = %L)', i, '$key');
		EXECUTE format('INSERT INTO many_${key}_%s VALUES (%s)', i, i); END LOOP; END \$\$");
}
# proofs of what was opened do not come in between
$node->append_conf('postgresql.conf', "cmek.key_cache_ttl = '1h'");
$node->restart;
my %before = map { $_ => $kms{$_}{unwraps}->() } grep { $kms{$_}{unwraps} } @all;
my $read = join('', map { "DO \$\$ DECLARE n int; BEGIN FOR i IN 1..$many LOOP
		EXECUTE format('SELECT a FROM many_${_}_%s', i) INTO STRICT n; IF n <> i THEN RAISE 'wrong row'; END IF;
	END LOOP; END \$\$;" } @all);
my @runs = map { my %r = (out => '', err => ''); $r{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', $read ],
		'>', \$r{out}, '2>', \$r{err}); \%r } 1 .. 8;
$_->{run}->finish for @runs;
is(join('', map { $_->{err} } @runs), '', "8 sessions read $many tables of each KMS key");
for my $key (sort keys %before)
{
	my $unwraps = $kms{$key}{unwraps}->() - $before{$key};

	# but for the proofs that are asked for after a start
	ok($unwraps >= $many && $unwraps <= $many + 5, "$key: one unwrap for each table key") or diag($unwraps);
}

SKIP:
{
	skip 'no moto: AWS is not among them', 1 unless $have_moto;
	is(scalar(@all), 5 + !!$hsm + !!$kms{kmip}, 'all providers were there');
}
$node->stop;
done_testing();
