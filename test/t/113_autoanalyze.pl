# Autovacuum comes to analyze a table whose key is away: no error, rows are
# counted, the sealed statistics stay as they were, other tables get theirs; and
# when the key is back, so does this one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('primary', config => [ 'autovacuum_naptime = 1s', 'autovacuum_analyze_threshold = 10', 'autovacuum_analyze_scale_factor = 0',
		'autovacuum_vacuum_threshold = 1000000', 'autovacuum_vacuum_insert_threshold = -1', "log_line_prefix = '[%b] '" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub until_true { return $node->poll_query_until('postgres', $_[0]); }

# What is kept of a table's columns, and of its indexes' expressions
sub sealed
{
	return sql(q{SELECT md5(string_agg(sealed::text, '' ORDER BY relid, attnum)) FROM cmek.statistic WHERE "table" = 'away'::regclass});
}

# What autovacuum complains of
sub complaints
{
	my ($from) = @_;

	return slurp_file($node->logfile, $from) =~ /^\[autovacuum worker\] (?:WARNING|ERROR|FATAL|PANIC):.*/mg;
}

my $off = 'autovacuum_enabled = off';
sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE away (a int, b text) USING cmek_heap WITH (cmek.key = 'k', $off);
	CREATE INDEX ON away (a); CREATE INDEX ON away (lower(b)) WHERE a > 0;
	INSERT INTO away SELECT i % 10, repeat('B' || i % 4, 800) FROM generate_series(1, 1000) i; ANALYZE away;
	CREATE TABLE there (a int) USING cmek_heap WITH ($off); INSERT INTO there SELECT 7 FROM generate_series(1, 1000);
	CREATE TABLE fuse (); CREATE TABLE bad (a int) WITH ($off);
	CREATE FUNCTION public.boom(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
		\$\$BEGIN IF to_regclass('public.fuse') IS NULL THEN RAISE 'boom'; END IF; RETURN \$1; END\$\$;
	CREATE INDEX ON bad (public.boom(a)); INSERT INTO bad SELECT generate_series(1, 100); DROP TABLE fuse");
my $before = sealed();
isnt($before, '', 'there are statistics');
sql(q{INSERT INTO away SELECT 5, 'new' FROM generate_series(1, 500)});

hide_key($file);
ok(wait_for_error($node, 'KM001', 'SELECT count(*) FROM away'), 'the key is away');
my $log = -s $node->logfile;
sql("ALTER TABLE $_ SET (autovacuum_enabled = on)") for qw(away there);
ok(until_true(q{SELECT reltuples = 1500 FROM pg_class WHERE oid = 'away'::regclass}), 'autovacuum counts its rows');
ok(until_true(q{SELECT autoanalyze_count > 0 AND n_mod_since_analyze = 0 FROM pg_stat_user_tables WHERE relname = 'away'}), 'and has done with it');
ok(until_true(q{SELECT most_common_vals = '{7}' FROM cmek.stats WHERE tablename = 'there'}), 'the other one has its statistics');
is(sealed(), $before, 'the sealed ones of the first are what they were');
is(join("\n", complaints($log)), '', 'and nobody complains');
like(slurp_file($node->logfile, $log), qr/^\[autovacuum worker\] LOG:  statistics of table "away"/m, 'but the log says it');
is(sql(q{SELECT count(*) FROM pg_statistic WHERE starelid = 'away'::regclass OR starelid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'away'::regclass)}),
	'0', 'nothing is in clear');

# control: a complaint would have been seen
sql('ALTER TABLE bad SET (autovacuum_enabled = on)');
ok(eventually(sub { join('', complaints($log)) =~ /boom/ }), 'control: an error of autovacuum is found');

show_key($file);
ok(wait_for_ok($node, 'SELECT count(*) FROM away'), 'the key is back');
sql(q{INSERT INTO away SELECT 5, 'newer' FROM generate_series(1, 100)});
ok(until_true(q{SELECT most_common_vals::text LIKE '_5,%' FROM cmek.stats WHERE tablename = 'away' AND attname = 'a'}), 'its statistics are collected again');
isnt(sealed(), $before, 'and others now');

$node->stop;
done_testing();
