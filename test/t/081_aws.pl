# Provider cmek_aws against moto, whose signatures, IAM policies and key states
# are enforced: tables, revocation and return without a restart, every way to
# credentials, roles and external ids, aliases, replicas, clocks, faults.

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

# what the host of the tests has must not be found, nor asked for
delete @ENV{ grep { /^AWS_/ } keys %ENV };
$ENV{AWS_EC2_METADATA_DISABLED} = 'true';
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});

my $aws = start_stub('aws');
my $url = $aws->url;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $key = $aws->tell('key');
my $db = $aws->tell('user', name => 'db');

my $workers = 2;
my $node = cmek_node('aws', config => [ 'autovacuum = off', "cmek.kms_timeout = '10s'", "cmek.kms_workers = $workers" ]);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A server at the stub, with the user's keys unless told otherwise
sub server
{
	my ($name, $key_id, $options, $mapping) = @_;

	$mapping //= "access_key_id '$db->{id}', secret_access_key '$db->{secret}'";
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '$key_id',
		endpoint '$url', sts_endpoint '$url'" . ($options ? ", $options" : '') . ")");
	sql("CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS ($mapping)") if $mapping;
	return;
}

# A statement fails, sooner or later, with a certain text
sub becomes
{
	my ($sql, $expected, $name) = @_;
	my $text = '';

	for (1 .. 300)
	{
		$text = error_text($node, $sql);
		last if $text =~ $expected;
		sleep(0.1);
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($text, $expected, $name);
}

# One column of one step of a check
sub step
{
	my ($name, $step, $column) = @_;

	return sql("SELECT $column FROM cmek.check_key('$name') WHERE step = '$step'");
}

my $all_true = 'identity true, key true, generate true, encrypt true, decrypt true, context true';

sub check
{
	return sql("SELECT string_agg(step || ' ' || ok, ', ') FROM cmek.check_key('$_[0]')");
}

# How many calls have had a table key for their context
sub calls_about
{
	my ($uuid) = @_;

	return scalar grep { $_ && ($_->{cmek_table_key} // '') eq $uuid } @{ $aws->tell('contexts') };
}

# ---- a table, read after a restart ----
server('a', $key);
is(check('a'), $all_true, 'check_key proves each step');
like(step('a', 'identity', 'detail'), qr/:user\/db/, 'who we are');
sql("CREATE TABLE t (a int, b text) USING cmek_heap WITH (cmek.key = 'a');
	INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i");
is(sql('SELECT count(*), min(b) IS NOT NULL FROM t'), '100|t', 'a table under AWS');
is(sql('SELECT kms_key_id, kms_key_version FROM cmek.tables'), "$key|$key", 'key and version at the KMS');
my $uuid = sql("SELECT id FROM cmek.table_key WHERE relid = 't'::regclass");
cmp_ok(calls_about($uuid), '>', 0, 'the encryption context is the uuid of the table key');
my $before = @{ $aws->tell('contexts') };
$node->restart;
is(sql('SELECT count(*), min(b) IS NOT NULL FROM t'), '100|t', 'read after a restart');
# nothing is proved but the key of this table, as often as a second passes (the cache's time here)
my @contexts = @{ $aws->tell('contexts') };
my @opened = grep { $_ } @contexts[ $before .. $#contexts ];
cmp_ok(scalar @opened, '>', 0, '... by asking the KMS');
is_deeply([ grep { join(' ', %$_) ne "cmek_table_key $uuid" } @opened ], [], '... with this context alone');

# ---- revoked and back, all without a restart ----
$aws->tell('state', arn => $key, state => 'Disabled');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'key disabled: KM001');
becomes('SELECT count(*) FROM t', qr/cmek_aws answered DisabledException \(denied\): \Q$key\E is disabled/,
	"... with AWS's own code");
is(sql("SELECT state, code FROM cmek.keys WHERE name = 'a'"), 'inaccessible|DisabledException', 'cmek.keys says so');
is(step('a', 'key', 'code'), 'Disabled', 'check_key: the state');
like(step('a', 'key', 'hint'), qr/aws kms enable-key/, '... and what to do');
$aws->tell('state', arn => $key, state => 'Enabled');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'enabled again: readable');

$aws->tell('state', arn => $key, state => 'PendingDeletion');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'deletion scheduled: KM001');
becomes('SELECT count(*) FROM t', qr/KMSInvalidStateException \(denied\): .* is pending deletion/, '... denied');
$aws->tell('state', arn => $key, state => 'Enabled');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'cancelled and enabled: readable');
$aws->tell('state', arn => $key, state => 'Unavailable');
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'custom key store away');
becomes('SELECT count(*) FROM t', qr/KMSInvalidStateException \(unreachable\)/, '... is no denial');
$aws->tell('state', arn => $key, state => 'Enabled');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'back: readable');

$aws->tell('forget_key', arn => $key);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'key gone: KM001');
becomes('SELECT count(*) FROM t', qr/NotFoundException \(denied\)/, '... denied');
$aws->tell('restore_key');
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'back: readable');

# a permission taken away: denied, because we are who we say we are
$aws->tell('allow_user', name => 'db', actions => [ 'kms:Encrypt', 'kms:GenerateDataKey', 'kms:DescribeKey' ]);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM t'), 'kms:Decrypt taken away: KM001');
$aws->tell('forget');
becomes('SELECT count(*) FROM t', qr/AccessDenied\w* \(denied\)/, '... denied');
for (1 .. 300)
{
	last if $aws->requests('GetCallerIdentity');
	sqlstate($node, 'SELECT count(*) FROM t');
	sleep(0.1);
}
cmp_ok($aws->requests('GetCallerIdentity'), '>', 0, '... after our identity was proved');
is(check('a'), 'identity true, key true, generate true, encrypt true, decrypt false, context false', 'check_key: which one');
like(step('a', 'decrypt', 'hint'), qr/"Action":"kms:Decrypt"/, '... and the statement to add');
$aws->tell('allow_user', name => 'db', actions => ['kms:*']);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'granted again: readable');

# for each permission, the step that fails and the statement that helps
for ([ DescribeKey => 'key' ], [ GenerateDataKey => 'generate' ], [ Encrypt => 'encrypt' ])
{
	my ($action, $step) = @$_;

	$aws->tell('allow_user', name => 'db',
		actions => [ map { "kms:$_" } grep { $_ ne $action } qw(DescribeKey GenerateDataKey Encrypt Decrypt) ]);
	like(step('a', $step, "ok || ' ' || hint"), qr/^false .*"Action":"kms:$action"/, "without kms:$action");
	like(error_text($node, "CREATE TABLE x (a int) USING cmek_heap WITH (cmek.key = 'a')"), qr/KM001.*"kms:$action"/s,
		'... no table is bound');
}
$aws->tell('allow_user', name => 'db', actions => ['kms:*']);

# our own broken login is no revocation
sql("CREATE TABLE t2 (a int) USING cmek_heap WITH (cmek.key = 'a'); INSERT INTO t2 VALUES (1)");
sql("ALTER USER MAPPING FOR PUBLIC SERVER a OPTIONS (SET secret_access_key 'wrong')");
becomes('SELECT count(*) FROM t', qr/KM001.*InvalidSignatureException \(misconfigured\)/s, 'a wrong secret: misconfigured');
sql("ALTER USER MAPPING FOR PUBLIC SERVER a OPTIONS (SET access_key_id 'AKIANOBODY', SET secret_access_key '$db->{secret}')");
becomes('SELECT count(*) FROM t', qr/KM001.*UnrecognizedClientException \(misconfigured\)/s,
	'a wrong access key: misconfigured');
sql("ALTER USER MAPPING FOR PUBLIC SERVER a OPTIONS (SET access_key_id '$db->{id}')");
is(sql('SELECT count(*) FROM t'), '100', 'the right one: readable');

# a blob that was put in another's place
sql("UPDATE cmek.table_key x SET blob = y.blob FROM cmek.table_key y
	WHERE x.relid = 't2'::regclass AND y.relid = 't'::regclass");
$node->restart;
fails_with($node, 'XX001', 'SELECT a FROM t2', 'a blob in another table\'s place: damaged, not revoked');
is(sql('SELECT count(*) FROM t'), '100', '... and the other is as before');

# ---- names of keys ----
my $id = $key =~ s/.*\///r;
server('by_id', $id, "region 'us-east-1'");
is(check('by_id'), $all_true, 'by id and region');
$aws->tell('alias', name => 'alias/app', arn => $key);
server('by_alias', 'alias/app', "region 'us-east-1'");
server('by_alias_arn', 'arn:aws:kms:us-east-1:123456789012:alias/app');
is(check($_), $all_true, $_) for qw(by_alias by_alias_arn);
sql("CREATE TABLE al (a int) USING cmek_heap WITH (cmek.key = 'by_alias_arn'); INSERT INTO al VALUES (1)");
my $second = $aws->tell('key');
$aws->tell('alias', name => 'alias/app', arn => $second);
sql("CREATE TABLE al2 (a int) USING cmek_heap WITH (cmek.key = 'by_alias_arn'); INSERT INTO al2 VALUES (2)");
$node->restart;
is(sql('SELECT (SELECT a FROM al), (SELECT a FROM al2)'), '1|2', 'an alias given another key opens old tables and new ones');
is(sql("SELECT string_agg(kms_key_id, ' ' ORDER BY table_name::text COLLATE \"C\") FROM (SELECT \"table\" AS table_name, kms_key_id FROM cmek.tables) s WHERE table_name::text LIKE 'al%'"),
	"$key $second", '... each by its own');

# ---- keys with replicas ----
my $mrk = $aws->tell('key', multi_region => JSON::PP::true());
$aws->tell('replicate', arn => $mrk, region => 'eu-central-1');
server('m', $mrk);
sql("CREATE TABLE m (a int) USING cmek_heap WITH (cmek.key = 'm'); INSERT INTO m VALUES (1)");
like(sql("SELECT kms_key_id FROM cmek.tables WHERE \"table\" = 'm'::regclass"), qr/^arn:aws:kms:us-east-1:/, 'made in one region');
$node->append_conf('postgresql.conf', "cmek.region = 'eu-central-1'");
$node->restart;
$aws->tell('state', arn => $mrk, state => 'Disabled');
is(sql('SELECT a FROM m'), '1', 'cmek.region: opened by the replica, the other region being away');
is(sql('SELECT count(*) FROM t'), '100', '... which is nothing to a key without replicas');
sql("CREATE TABLE m2 (a int) USING cmek_heap WITH (cmek.key = 'm'); INSERT INTO m2 VALUES (2)");
like(sql("SELECT kms_key_id FROM cmek.tables WHERE \"table\" = 'm2'::regclass"), qr/^arn:aws:kms:eu-central-1:.*mrk-/, 'and made there');
is(sql("SELECT count(DISTINCT key_version) FROM cmek.table_key WHERE relid IN ('m'::regclass, 'm2'::regclass)"), '1',
	'one version in all regions');
$node->adjust_conf('postgresql.conf', 'cmek.region', undef);
$aws->tell('state', arn => $mrk, state => 'Enabled');
$node->restart;
is(sql('SELECT a FROM m2'), '2', 'and back');

# ---- roles ----
my $role = $aws->tell('role', name => 'r', external_id => 'org-42');
$aws->tell('allow_user', name => 'db', actions => ['sts:AssumeRole']);
server('r', $key, "role_arn '$role', external_id 'org-42', session_name 'pg.main'");
is(check('r'), $all_true, 'a role with an external id');
like(step('r', 'identity', 'detail'), qr/:assumed-role\/r\/pg\.main/, 'who we are');
sql("CREATE TABLE r (a int) USING cmek_heap WITH (cmek.key = 'r'); INSERT INTO r VALUES (1)");
$aws->tell('forget');
# each worker has a session of its own, so the number of workers is no bound that proofs can break
my $of_r = sql("SELECT id FROM cmek.table_key WHERE relid = 'r'::regclass");
my $proofs = calls_about($of_r);
ok(eventually(sub { calls_about($of_r) >= $proofs + 6 }), 'proofs go on');
cmp_ok($aws->requests('AssumeRole'), '<=', $workers, 'with the same session');
$aws->tell('forget');
$aws->tell('expire_sessions');
ok(eventually(sub { $aws->requests('AssumeRole') > 0 }), 'a session that has ended is renewed by the role');
is(sqlstate($node, 'SELECT a FROM r'), '', '... and nobody notices');
$aws->tell('external_id', arn => $role, external_id => '-');
$aws->tell('expire_sessions');
ok(wait_for_error($node, 'KM001', 'SELECT a FROM r'), 'the role trusts us no more: KM001');
becomes('SELECT a FROM r', qr/AccessDenied \(denied\): role "\Q$role\E"/, '... denied');
like(step('r', 'identity', 'hint'), qr/trust policy of role.*"sts:ExternalId":"org-42"/, '... and what to add to its policy');
$aws->tell('external_id', arn => $role, external_id => 'org-42');
ok(wait_for_ok($node, 'SELECT a FROM r'), 'trusted again: readable');

# sessions are renewed before they end
$aws->tell('session_seconds', seconds => 8);
sql("ALTER SERVER r OPTIONS (SET session_name 'short')");
is(sql('SELECT a FROM r'), '1', 'a short session');
$aws->tell('forget');
# one for each worker may be its first
ok(eventually(sub { $aws->requests('AssumeRole') > $workers }), 'it is renewed');
is(sqlstate($node, 'SELECT a FROM r'), '', 'and goes on');
$aws->tell('session_seconds', seconds => undef);
$aws->tell('allow_user', name => 'db', actions => [ 'kms:*', 'sts:*' ]);

# ---- clocks ----
$aws->tell('clock', ahead => 3600);
sql("ALTER SERVER a OPTIONS (SET endpoint '$url/')");
is(sql('SELECT count(*) FROM t'), '100', 'an hour between the clocks');
# each worker finds it out once for each of the three addresses (both of the KMS, STS), not once a call
$aws->tell('forget');
ok(eventually(sub { $aws->requests('Decrypt') >= 8 * $workers * 3 }), 'proofs go on');
cmp_ok($aws->requests('refused for its time'), '<=', $workers * 3, 'and it is remembered');
is(check('a'), $all_true, 'at STS, too');
$aws->tell('clock', ahead => 0);
ok(wait_for_ok($node, 'SELECT count(*) FROM t'), 'set right again');

# ---- confused deputy: refused before anything is sent ----
sql("CREATE ROLE tenant LOGIN; GRANT USAGE ON FOREIGN DATA WRAPPER cmek_aws TO tenant; CREATE DATABASE b");
$node->safe_psql('b', 'CREATE EXTENSION cmek; CREATE ROLE tenant_b LOGIN;
	GRANT USAGE ON FOREIGN DATA WRAPPER cmek_aws TO tenant_b; GRANT CREATE ON SCHEMA public TO tenant_b');
my $plan = "SET ROLE tenant_b; CREATE SERVER s FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '$key', role_arn '$role'%s);
	CREATE TABLE s (a int) USING cmek_heap WITH (cmek.key = 's')";
my $others = join(', ', map { "cmek.%1\$s_key('$_')" } qw(a r m by_alias_arn));
sql('SELECT ' . sprintf($others, 'suspend'));
$aws->tell('forget');
like(error_text($node, sprintf($plan, ", external_id 'org-42'"), 'b'), qr/KM001.*NoCredentials \(misconfigured\)/s,
	"the host's identity is not a tenant's");
$node->safe_psql('b', "DROP SERVER s; ALTER DATABASE b SET cmek.ambient_credentials = on;
	ALTER DATABASE b SET cmek.aws_external_id = 'tenant-b'");
like(error_text($node, sprintf($plan, ", external_id 'org-42'"), 'b'), qr/KM001.*ExternalIdForbidden/s,
	"another tenant's external id is refused");
$node->safe_psql('b', 'DROP SERVER s');
like(error_text($node, "SET ROLE tenant_b; CREATE SERVER s FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '$key');
	CREATE TABLE s (a int) USING cmek_heap WITH (cmek.key = 's')", 'b'), qr/KM001.*RoleRequired/s,
	"nor the host's identity without a role");
is(scalar(@{ $aws->tell('count')->{requests} }), 0, 'nothing was sent for them');
sql('SELECT ' . sprintf($others, 'resume'));
fails_with($node, '42501', "SET ROLE tenant_b; SET cmek.aws_external_id = 'org-42'", 'the setting is a superuser\'s', 'b');
fails_with($node, '42501', "SET ROLE tenant_b; CREATE SERVER e FOREIGN DATA WRAPPER cmek_aws
	OPTIONS (key_id '$key', $_ '$url')", "option $_ is a superuser's", 'b') for qw(endpoint sts_endpoint);

# the external id of the database goes along
$node->safe_psql('b', "DROP SERVER s; CREATE SERVER s FOREIGN DATA WRAPPER cmek_aws
	OPTIONS (key_id '$key', role_arn '$role', endpoint '$url', sts_endpoint '$url');
	CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (access_key_id '$db->{id}', secret_access_key '$db->{secret}')");
like(error_text($node, "CREATE TABLE s (a int) USING cmek_heap WITH (cmek.key = 's')", 'b'), qr/AccessDenied/,
	'a wrong external id of the database: the role says no');
$node->safe_psql('b', "ALTER DATABASE b SET cmek.aws_external_id = 'org-42'");
is(sqlstate($node, "CREATE TABLE s (a int) USING cmek_heap WITH (cmek.key = 's')", 'b'), '', 'the right one: yes');

done_testing();
