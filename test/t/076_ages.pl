# Data directories of earlier releases, opened by this build: the same content,
# and everything works on.  `make age` made them; ages/wanted says which there
# must be.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use File::Path qw(rmtree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $ages = "$FindBin::RealBin/../ages";
my @wanted = map { [split] } grep { /\S/ } split /\n/, slurp_file("$ages/wanted");
my @mine = grep { $_->[1] == server_major() } @wanted;

cmp_ok(scalar(@wanted), '>', 0, 'there are releases to open');
ok(-s "$ages/$_->[0]-pg$_->[1].tar.xz", "release $_->[0] on PostgreSQL $_->[1] is there: if not, make age") for @wanted;

for (@mine)
{
	my ($release, $major) = @$_;
	my $node = PostgreSQL::Test::Cluster->new("age_$release" =~ s/\W/_/gr);

	# a server's own configuration, and the old one's data
	$node->init;
	cmek_config($node, 'autovacuum = off', 'fsync = off');
	my %mine = map { $_ => slurp_file($node->data_dir . "/$_") } qw(postgresql.conf pg_hba.conf);
	rmtree($node->data_dir);
	my $dir = $node->basedir . '/age';
	mkdir($dir) or die;
	system_or_bail('tar', '-C', $dir, '-xJf', "$ages/$release-pg$major.tar.xz");
	chomp(my $stored = slurp_file("$dir/data/PG_VERSION"));
	is($stored, $major, "release $release: a data directory of PostgreSQL $major");
	rename("$dir/data", $node->data_dir) && rename("$dir/data.cmek", $node->data_dir . '.cmek') or die "could not move: $!";
	for my $file (keys %mine)
	{
		unlink($node->data_dir . "/$file");
		append_to_file($node->data_dir . "/$file", $mine{$file});
	}
	append_to_file($node->data_dir . '/pg_hba.conf', "local all all trust\n");
	$ENV{PGUSER} = 'postgres';
	$node->start;

	# the key files were elsewhere
	$node->safe_psql('postgres', "UPDATE pg_foreign_server SET srvoptions = ARRAY['key_file=$dir/' || srvname || '_key'] WHERE srvname IN ('second', 'third')");
	fails_with($node, 'KM001', 'SELECT * FROM suspended', "release $release: the suspended key is suspended");
	$node->safe_psql('postgres', "SELECT cmek.resume_key('third')");
	is(sqlstate($node, 'ALTER EXTENSION cmek UPDATE'), '', 'ALTER EXTENSION UPDATE');
	is($node->safe_psql('postgres', 'SELECT content()') . "\n", slurp_file("$dir/content"), 'the tables say what they said');
	my $clean = "SELECT count(*) FROM pg_class c, cmek.verify(c.oid) WHERE relkind = 'r' AND relam = (SELECT oid FROM pg_am WHERE amname = 'cmek_heap')";
	is($node->safe_psql('postgres', $clean), '0', 'verify finds no damage');
	is($node->safe_psql('postgres', "SELECT count(DISTINCT generation) FROM cmek.data_key WHERE relid = 'generations'::regclass"), '3', 'three generations');
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.table_key WHERE relid = 'switched'::regclass"), '3', 'three table keys');

	# and everything works on
	is(sqlstate($node, $_), '', $_)
	  for 'INSERT INTO rows_ (id) SELECT 1000 FROM generate_series(1, 10)',
	  'UPDATE toast SET id = id + 10, e = e || $$!$$', 'DELETE FROM dropped WHERE id = 2', "CALL cmek.reseal('generations')",
	  "CALL cmek.rotate_data_key('rows_')", "CALL cmek.reseal('rows_')", "ALTER TABLE switched RESET (cmek.key)",
	  "CALL cmek.switch_key('cmek_service_key', 'second')", 'VACUUM FULL dropped', 'ALTER TABLE parts_1 SET ACCESS METHOD heap',
	  'CREATE TABLE fresh (a text) USING cmek_heap; INSERT INTO fresh VALUES ($$x$$)', 'SELECT cmek.export_keys()';
	is($node->safe_psql('postgres', "SELECT count(*) FROM generations WHERE length(t) > 4"), '3', 'resealed rows can be read');
	is($node->safe_psql('postgres', "SELECT string_agg(t, ' ' ORDER BY id) FROM switched"), 'before between after', 'switched rows too');
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.data_key WHERE relid = 'generations'::regclass AND NOT current"), '0', 'old data keys are gone');
	$node->restart;
	is($node->safe_psql('postgres', $clean), '0', 'verify finds no damage after a restart');
	$node->stop;
}
note('no release is kept for PostgreSQL ' . server_major()) unless @mine;

done_testing();
