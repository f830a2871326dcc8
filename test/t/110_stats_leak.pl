# Sealed planner statistics: after ANALYZE the values of a sealed table are in
# no file of the server and in no dump; those of its plain twin are found.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $seed = int(rand(1e9));
note("seed $seed");
my %marker = (plain => "PLAINstat${seed}inclear", sealed => "SEALEDstat${seed}incipher");
my %am = (plain => 'heap', sealed => 'cmek_heap');
my $node = cmek_node('leak', config => [
		'autovacuum = off', 'shared_memory_type = sysv', 'shared_buffers = 16MB', 'full_page_writes = on' ]);
my $data = $node->data_dir;

# Common values, histogram bounds, elements, an expression's values, and those of a parent
for my $kind (qw(plain sealed))
{
	my $m = with_marker($marker{$kind});

	$node->safe_psql('postgres', qq{
		SET default_table_access_method = $am{$kind};
		CREATE TABLE ${kind}_t (id int, common text, spread text, tags text[]);
		INSERT INTO ${kind}_t SELECT i, $m || i % 3, i || $m, ARRAY[$m || i % 5] FROM generate_series(1, 1000) i;
		CREATE INDEX ${kind}_expr ON ${kind}_t ((upper(common)));
		CREATE TABLE ${kind}_p (id int, v text) PARTITION BY RANGE (id);
		CREATE TABLE ${kind}_p1 PARTITION OF ${kind}_p FOR VALUES FROM (0) TO (500);
		CREATE TABLE ${kind}_p2 PARTITION OF ${kind}_p FOR VALUES FROM (500) TO (2000);
		INSERT INTO ${kind}_p SELECT i, $m || i % 3 FROM generate_series(1, 1000) i;
		ANALYZE ${kind}_t; ANALYZE ${kind}_p; VACUUM ANALYZE ${kind}_t;
		SET cmek.plaintext_indexes = on;});
}
$node->safe_psql('postgres', 'CHECKPOINT');

my $statistic = $node->safe_psql('postgres', "SELECT pg_relation_filepath('pg_statistic')");
my $toast = $node->safe_psql('postgres', "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'pg_statistic'::regclass");
my $ours = $node->safe_psql('postgres', "SELECT pg_relation_filepath('cmek.statistic')");

my @plain = files_with($data, $marker{plain});
ok((grep { $_ eq $statistic || $_ eq $toast } @plain), 'the search finds the plain table\'s values in pg_statistic');
ok((grep { m{^pg_wal/} } @plain), 'and in WAL');
is(join(' ', files_with($data, $marker{sealed})), '', 'values of the sealed table are in no file');
is(join(' ', files_with($data, uc $marker{sealed})), '', 'nor is the value of an expression');
cmp_ok(-s "$data/$ours", '>', 0, 'although there are sealed statistics');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.stats WHERE tablename IN ('sealed_t', 'sealed_expr', 'sealed_p') AND most_common_vals || coalesce(most_common_elems, '') ILIKE '%$marker{sealed}%'") >= 3, 1,
	'which hold the values');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid WHERE c.relname LIKE 'sealed%'"), '0',
	'pg_statistic holds no row of a sealed table');

# Sealed means authenticated: bytes that are changed are not used
$node->safe_psql('postgres', "UPDATE cmek.statistic SET sealed = set_byte(sealed, length(sealed) - 5, (get_byte(sealed, length(sealed) - 5) + 1) % 256) WHERE relid = 'sealed_t'::regclass AND attnum = 2");
is($node->safe_psql('postgres', "SELECT string_agg(attname, ' ' ORDER BY attname) FROM cmek.stats WHERE tablename = 'sealed_t'"), 'id spread tags',
	'a row that was changed does not open');
$node->safe_psql('postgres', "UPDATE cmek.statistic SET sealed = (SELECT sealed FROM cmek.statistic WHERE relid = 'sealed_t'::regclass AND attnum = 3) WHERE relid = 'sealed_t'::regclass AND attnum = 2");
is($node->safe_psql('postgres', "SELECT string_agg(attname, ' ' ORDER BY attname) FROM cmek.stats WHERE tablename = 'sealed_t'"), 'id spread tags',
	'nor one of another column in its place');
like($node->safe_psql('postgres', "EXPLAIN SELECT * FROM sealed_t WHERE common = 'x'"), qr/Scan/, 'and planning goes on');
$node->safe_psql('postgres', 'ANALYZE sealed_t');
is($node->safe_psql('postgres', "SELECT string_agg(attname, ' ' ORDER BY attname) FROM cmek.stats WHERE tablename = 'sealed_t'"), 'common id spread tags',
	'ANALYZE makes new ones');

# A restart writes what was only in memory
$node->restart;
is(join(' ', files_with($data, $marker{sealed})), '', 'nothing after a restart');

# A dump; 18 exports statistics
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
my @options = server_major() >= 18 ? ('--statistics', '--no-data') : ('--schema-only');
$node->command_ok([ 'pg_dump', @options, '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
my $text = slurp_binary($dump);
is(index($text, $marker{sealed}), -1, 'no value of a sealed table in it');
is(index($text, $marker{plain}) >= 0 ? 1 : 0, server_major() >= 18 ? 1 : 0, 'those of the plain one as this version exports them');
unlike($text, qr/cmek\.statistic\b/, 'and not the rows of cmek.statistic');

$node->stop;
done_testing();
