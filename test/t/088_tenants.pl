# Confused deputy: a tenant who names another tenant's key, role, account and
# external id is refused before anything leaves this host, whether the database
# may use the host's identity or not; and what the setting prescribes is what is
# used.  Every refusal has a control that does reach the network.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekStub;

# one stub is all the world: it counts who calls
my $world = start_stub('gcp');
my $url = $world->url;
my $host = 'host@vendor.iam.gserviceaccount.com';
my $account_a = 'cmek@tenant-a.iam.gserviceaccount.com';
my $account_b = 'cmek@tenant-b.iam.gserviceaccount.com';
my $key_a = 'projects/tenant-a/locations/eu/keyRings/r/cryptoKeys/k';

$world->tell('host', email => $host);
$world->tell('key', name => $key_a);
$world->tell('grant', email => $account_a, key => $key_a);
$world->tell('may_be', email => $_, who => $host) for ($account_a, $account_b);

# the host's own identities
$ENV{GCE_METADATA_HOST} = '127.0.0.1:' . $world->port;
$ENV{AWS_ACCESS_KEY_ID} = 'AKIAVENDOR';
$ENV{AWS_SECRET_ACCESS_KEY} = 'vendor';
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});
my ($aws_world, $role_a, $aws_key);
if (system("/usr/bin/python3 -c 'import moto' >/dev/null 2>&1") == 0)
{
	$aws_world = start_stub('aws');
	my $user = $aws_world->tell('user', name => 'vendor', actions => ['sts:AssumeRole']);
	($ENV{AWS_ACCESS_KEY_ID}, $ENV{AWS_SECRET_ACCESS_KEY}) = @$user{qw(id secret)};
	$role_a = $aws_world->tell('role', name => 'tenant-a', external_id => 'tenant-a');
	$aws_key = $aws_world->tell('key');
}
# one worker, so that what it remembers of one tenant is there for the next
my $node = cmek_node('tenants', config => [ 'autovacuum = off', "cmek.kms_timeout = '3s'", 'cmek.kms_workers = 1' ]);

$node->safe_psql('postgres', 'CREATE ROLE tenant_a LOGIN; CREATE ROLE tenant_b LOGIN;
	CREATE DATABASE a OWNER tenant_a; CREATE DATABASE b OWNER tenant_b');
for my $t (qw(a b))
{
	$node->safe_psql($t, "SET SESSION AUTHORIZATION tenant_$t; CREATE EXTENSION cmek");
	$node->safe_psql($t, "CREATE SCHEMA s AUTHORIZATION tenant_$t");
}

# A server of a tenant that ends at the stub: a superuser gives it the addresses
sub server
{
	my ($db, $name, $wrapper, $options) = @_;

	$node->safe_psql($db, "DROP SERVER IF EXISTS $name CASCADE;
		CREATE SERVER $name FOREIGN DATA WRAPPER $wrapper OPTIONS ($options);
		ALTER SERVER $name OWNER TO tenant_$db");
	return;
}

# The code of the first step that fails for a tenant, and how many requests that
# took
sub attempt
{
	my ($db, $name) = @_;

	$world->tell('forget');
	my $code = $node->safe_psql($db, "SET SESSION AUTHORIZATION tenant_$db;
		SELECT coalesce((SELECT code FROM cmek.check_key('$name') WHERE NOT ok LIMIT 1), 'fine')");
	# "tell" itself is one connection each time, and no request that is counted
	my $count = $world->tell('count');
	return ($code, $count->{connections} - 1 + @{ $count->{requests} });
}

sub refused
{
	my ($db, $name, $code, $what) = @_;
	my ($got, $requests) = attempt($db, $name);

	is($got, $code, "$what: $code");
	is($requests, 0, '... and nothing has left this host');
	is(sqlstate($node, "SET SESSION AUTHORIZATION tenant_$db; CREATE TABLE s.x (a int) USING cmek_heap WITH (cmek.key = '$name')", $db),
		'KM001', '... nor can a table be bound');
	return;
}

sub reaches
{
	my ($db, $name, $what) = @_;
	my ($got, $requests) = attempt($db, $name);

	cmp_ok($requests, '>', 0, "$what: the network is reached (control)");
	return $got;
}

my $gcp = "key_id '$key_a', endpoint '$url', iam_endpoint '$url'";
my $aws = "key_id 'arn:aws:kms:eu-central-1:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab', endpoint '$url', sts_endpoint '$url', " .
  "role_arn 'arn:aws:iam::111111111111:role/tenant-a'";

# ---- the host's identity is not a tenant's ----
server($_, 'g', 'cmek_gcp', "$gcp, impersonate '$account_a'") for qw(a b);
server($_, 'w', 'cmek_aws', "$aws, external_id 'tenant-a'") for qw(a b);
refused('b', 'g', 'AmbientNotAllowed', 'GCP without cmek.ambient_credentials');
my ($code, $requests) = attempt('b', 'w');
isnt($code, 'fine', "AWS without cmek.ambient_credentials: $code");
is($requests, 0, '... and nothing has left this host');
server('b', 'v', 'cmek_vault', "url '$url', key 'k'");
$node->safe_psql('b', "SET SESSION AUTHORIZATION tenant_b; CREATE USER MAPPING FOR PUBLIC SERVER v OPTIONS (kubernetes_role 'tenant-a')");
refused('b', 'v', 'AmbientNotAllowed', "Vault with the pod's token");

is(sqlstate($node, "SET SESSION AUTHORIZATION tenant_b; $_", 'b'), '42501', "a tenant may not: $_")
  for ('SET cmek.ambient_credentials = on', 'ALTER DATABASE b SET cmek.ambient_credentials = on',
	"SET cmek.gcp_impersonate = '$account_a'", "ALTER DATABASE b SET cmek.gcp_impersonate = '$account_a'",
	"SET cmek.aws_external_id = 'tenant-a'", "ALTER DATABASE b SET cmek.aws_external_id = 'tenant-a'",
	"ALTER SERVER g OPTIONS (SET endpoint 'https://elsewhere')", "ALTER SERVER g OPTIONS (DROP impersonate)",
	"CREATE USER MAPPING FOR PUBLIC SERVER g OPTIONS (credential_file '/etc/passwd')");

# what a worker remembers of somebody who may is not for somebody who may not
SKIP:
{
	skip 'no moto', 3 unless $aws_world;
	my $options = "key_id '$aws_key', endpoint '@{[$aws_world->url]}', sts_endpoint '@{[$aws_world->url]}', "
	  . "role_arn '$role_a', external_id 'tenant-a'";
	$node->safe_psql('a', "CREATE SERVER remembered FOREIGN DATA WRAPPER cmek_aws OPTIONS ($options)");
	is($node->safe_psql('a', "SELECT bool_and(ok) FROM cmek.check_key('remembered')"), 't',
		"a superuser's key with the host's identity and the role of A (control)");
	server('b', 'stolen', 'cmek_aws', $options);
	$aws_world->tell('forget');
	isnt((attempt('b', 'stolen'))[0], 'fine', 'tenant B with the same names, without credentials, is refused');
	is(scalar(@{ $aws_world->tell('count')->{requests} }), 0, '... and nothing has left this host');
}

# ---- a superuser lends it, and says as whom ----
for my $t (qw(a b))
{
	$node->safe_psql('postgres', "ALTER DATABASE $t SET cmek.ambient_credentials = on;
		ALTER DATABASE $t SET cmek.gcp_impersonate = 'cmek\@tenant-$t.iam.gserviceaccount.com';
		ALTER DATABASE $t SET cmek.aws_external_id = 'tenant-$t'");
}
refused('b', 'g', 'ImpersonateNotAllowed', "tenant B with tenant A's key and account");
refused('b', 'w', 'ExternalIdForbidden', "tenant B with tenant A's key, role and external id");
refused('a', 'w', 'ExternalIdForbidden', 'not even A may name it: it is the setting that does');

server($_, 'g', 'cmek_gcp', $gcp) for qw(a b);
is(reaches('a', 'g', 'tenant A without naming anybody'), 'fine', '... and may use the key');
is(reaches('b', 'g', 'tenant B with the key of A'), 'IAM_PERMISSION_DENIED', '... is tenant B at Google, and refused there');
server('b', 'w', 'cmek_aws', $aws);
isnt(reaches('b', 'w', "tenant B with tenant A's role"), 'fine', '... with the external id of B, which is refused there');

# what a superuser owns is not bound by the settings
$node->safe_psql('a', "CREATE SERVER own FOREIGN DATA WRAPPER cmek_gcp OPTIONS ($gcp, impersonate '$account_a')");
is($node->safe_psql('a', "SELECT bool_and(ok) FROM cmek.check_key('own')"), 't', "a superuser's server may name an account");

$node->stop;
done_testing();
