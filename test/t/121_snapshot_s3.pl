# Snapshots in a bucket, from end to end, against moto: taken on demand and of
# a dropped table, in parts; restored from there into this cluster and another;
# S3 away, access denied, the object damaged, removed, expired.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;
use CmekStub;

delete @ENV{ grep { /^AWS_/ } keys %ENV };
my $dir = PostgreSQL::Test::Utils::tempdir();
$ENV{AWS_EC2_METADATA_DISABLED} = 'true';
$ENV{AWS_SHARED_CREDENTIALS_FILE} = "$dir/credentials";
$ENV{AWS_CONFIG_FILE} = "$dir/config";
$ENV{PYTHONPATH} = join(':', grep { defined && length } $ENV{CMEK_MOTO}, $ENV{PYTHONPATH});

my $s3 = start_stub('s3');
# what docs/snapshots-s3.md grants
my @actions = qw(s3:PutObject s3:GetObject s3:DeleteObject s3:AbortMultipartUpload s3:ListBucket);
my $user = $s3->tell('user', name => 'db', actions => \@actions);
spew("$dir/credentials", "[default]\naws_access_key_id = $user->{id}\naws_secret_access_key = $user->{secret}\n");
$s3->tell('bucket', name => 'snaps');

my @settings = ("cmek.snapshot_directory = 's3://snaps/prod'", "cmek.s3_endpoint = '" . $s3->url . "'", "cmek.s3_region = 'us-east-1'",
	"cmek.drop_after = 'off'", 'autovacuum = off', 'fsync = off', 'log_min_messages = log');
my $node = cmek_node('primary', config => \@settings);
my $file = new_key_file("$dir/k");
my $server = "CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')";

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub objects { return $s3->tell('objects', bucket => 'snaps'); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }

# Everything that a table holds
sub content
{
	my ($n, $table) = @_;

	return $n->safe_psql('postgres', "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $table t");
}

sub set
{
	my ($name, $value) = @_;

	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	return until_true("SELECT current_setting('$name') = '$value'");
}

sql("$server; CREATE TABLE t (id int PRIMARY KEY, v text, big text) USING cmek_heap WITH (cmek.key = 'k');
	ALTER TABLE t ALTER v SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, repeat(md5(i::text), 30), CASE WHEN i % 10 = 0 THEN repeat(md5('b' || i), 600) END FROM generate_series(1, 8000) i");
my $before = content($node, 't');

# ---------------------------------------------------------------------
# On demand
# ---------------------------------------------------------------------

my $id = sql("SELECT cmek.snapshot('t')");
my ($store, $bytes) = split(/\|/, sql("SELECT store, bytes FROM cmek.snapshot_record"));
is($store, 's3://snaps/prod', 'the record says where it is');
cmp_ok($bytes, '>', 20 * 1024 * 1024, 'a long one');
is_deeply(objects(), { "prod/$id.cmeksnap" => $bytes }, 'it is in the bucket, whole');
cmp_ok($s3->requests('PART'), '>=', 3, 'sent in parts');
is($s3->tell('uploads', bucket => 'snaps'), 0, 'with no upload left open');
ok(!-e $node->data_dir . '.cmek/snapshots', 'and not on this machine');
is(sql("SELECT cmek.restore_snapshot('$id', 'r', 'k')"), '', 'restored from there');
is(content($node, 'r'), $before, 'every row is equal');
set('cmek.snapshot_directory', "$dir/elsewhere");
is(sql("SELECT cmek.restore_snapshot('$id', 'r2', 'k')"), '', 'the record is asked where it is, not the setting');
is(content($node, 'r2'), $before, 'every row is equal');
set('cmek.snapshot_directory', 's3://snaps/prod');

my $other = cmek_node('other', config => [ @settings[ 1 .. 5 ] ]);
$other->safe_psql('postgres', "$server; CREATE ROLE bob; GRANT CREATE ON SCHEMA public TO bob");
my $url = "s3://snaps/prod/$id.cmeksnap";
is(sqlstate($other, "SET ROLE bob; SELECT cmek.restore_snapshot('$url', 'there', 'k')"), '42501', 'an address is not for everybody');
is($other->safe_psql('postgres', "SELECT cmek.restore_snapshot('$url', 'there', 'k')"), '', 'another cluster restores it by its address');
is(content($other, 'there'), $before, 'every row is equal');
is(sqlstate($other, "INSERT INTO there VALUES (1)"), '23505', 'and the primary key holds');

$s3->tell('damage', bucket => 'snaps', name => "prod/$id.cmeksnap", at => int($bytes / 2));
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'damaged', 'k')"), 'XX001', 'a bit changed in the bucket');
sql("SELECT cmek.drop_snapshot('$id')");
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshot_removal'), 'dropped: the visitor comes for the object');
is_deeply(objects(), {}, 'which is gone');
is(sqlstate($node, "SELECT cmek.restore_snapshot('$url', 'x', 'k')"), '58P01', 'and not to be restored');
sql('DROP TABLE r, r2');

# ---------------------------------------------------------------------
# A lost key, S3 away, the drop, the return
# ---------------------------------------------------------------------

$s3->tell('allow_user', name => 'db', actions => ['s3:GetObject']);
hide_key($file);
sql(q{ALTER SERVER k OPTIONS (ADD drop_after '1s')});
ok(until_true(q{SELECT count(*) > 0 FROM cmek.key_events WHERE "table" = 'public.t' AND detail LIKE 'not dropped yet: could not %: AccessDenied%'}), 'denied by S3 the table stays, and it is said');
is(sql(q{SELECT to_regclass('t') IS NOT NULL}), 't', 'it stays');
is_deeply(objects(), {}, 'nothing half-made');
is(sql('SELECT count(*) FROM cmek.snapshots'), '0', 'nor recorded');
$s3->tell('allow_user', name => 'db', actions => \@actions);
ok(until_true(q{SELECT to_regclass('t') IS NULL}), 'S3 takes it: the table is dropped');
($id, $bytes) = split(/\|/, sql(q{SELECT id, bytes FROM cmek.snapshots WHERE reason = 'key lost' AND state = 'kept' AND rows = 8000}));
is_deeply(objects(), { "prod/$id.cmeksnap" => $bytes }, 'its snapshot is in the bucket');
is($s3->tell('uploads', bucket => 'snaps'), 0, 'with no upload left open');
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 't', 'k')"), 'KM001', 'no restore without the key');
sql(q{ALTER SERVER k OPTIONS (SET drop_after 'off')});
show_key($file);
ok(wait_for_ok($node, "SELECT cmek.restore_snapshot('$id', 't', 'k')"), 'the key is back: restored from S3');
is(content($node, 't'), $before, 'every row is equal');
is(sqlstate($node, 'INSERT INTO t VALUES (1)'), '23505', 'and the primary key holds');
$url = "s3://snaps/prod/$id.cmeksnap";
is(sqlstate($other, "SELECT cmek.restore_snapshot('$url', 'dropped', 'k')"), 'XX001', 'another installation does not believe it');
$other->safe_psql('postgres', "SELECT cmek.restore_snapshot('$url', 'dropped', 'k', true)");
is(content($other, 'dropped'), $before, 'forced there: every row is equal');

sql(q{UPDATE cmek.snapshot_record SET expires_at = now(), expires_ms = 0});
sql(q{SELECT cmek.suspend_key('k'), cmek.resume_key('k')});
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshots'), 'expired');
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshot_removal'), 'purged');
is_deeply(objects(), {}, 'from the bucket');

$node->stop;
$other->stop;
done_testing();
