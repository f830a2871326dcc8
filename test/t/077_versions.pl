# A library and SQL objects of different releases.  An older script, made from
# ours by leaving things out: a clear error, and ALTER EXTENSION UPDATE mends
# it.  A newer one: nothing is written that might be of another form.  And a
# standby that is upgraded before its primary.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekInstall;
use CmekTest;

my $dir = PostgreSQL::Test::Utils::tempdir;
my $install = private_install($dir);
plan skip_all => 'this server is not relocatable' unless $install;

my $script = slurp_file(install_file($dir, 'cmek--1.0.sql'));
my $control = slurp_file(install_file($dir, 'cmek.control'));
my ($release) = $control =~ /default_version = '(.*)'/;

# 0.9 did not know the last column of data keys, and did not count seals
my $older = $script;
my @left_out = ($older =~ s/(CREATE TABLE cmek\.data_key_seals \(.*?\) USING heap;\nREVOKE ALL ON cmek\.data_key_seals FROM PUBLIC;\n)//s ? $1 : '');
ok($left_out[0], 'a table to leave out');
is($older =~ s/\t\tUNION ALL\n\t\tSELECT \d+, '\w+', '\w+', '[^']*',\n[^\n]* FROM cmek\.data_key_seals r\n//g, 1, 'and what is told of it');
my $column = $older =~ s/(CREATE TABLE cmek\.data_key \(.*?),(?:[ \t]*--[^\n]*)?\n\t(\w+\s+[^\n,]*?)(?:\s*--[^\n]*)?\n(\) USING heap)/$1\n$3/s ? $2 : '';
isnt($column, '', "a column to leave out: $column");
add_script($dir, 'cmek--0.9.sql', $older);
add_script($dir, "cmek--0.9--$release.sql", "$left_out[0]\nALTER TABLE cmek.data_key ADD COLUMN $column;\n");
# 9.1 has a column more, which this library does not know
add_script($dir, "cmek--$release--9.1.sql", 'ALTER TABLE cmek.data_key ADD COLUMN more int4; CREATE FUNCTION cmek.more() RETURNS int4 LANGUAGE sql AS $$SELECT 1$$;');

sub node
{
	my ($name, $path) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, ($path ? (install_path => $path) : ()));

	$node->init(allows_streaming => 1);
	cmek_config($node, 'autovacuum = off', 'fsync = off');
	$node->start;
	return $node;
}

my $node = node('versions', $install);
$node->safe_psql('postgres', "CREATE EXTENSION cmek VERSION '0.9'");
is($node->safe_psql('postgres', "SELECT extversion FROM pg_extension WHERE extname = 'cmek'"), '0.9', 'older SQL objects');
for my $sql ('CREATE TABLE t (a int) USING cmek_heap')
{
	my $error = error_text($node, $sql);
	like($error, qr/ERROR:  55000: the SQL objects of extension "cmek" in this database are older than its library/, "$sql: the error");
	like($error, qr/HINT:  ALTER EXTENSION cmek UPDATE;/, 'and what to do');
}
is(sqlstate($node, 'CREATE TABLE plain (a int); INSERT INTO plain VALUES (1)'), '', 'other tables work');
is(sqlstate($node, 'ALTER EXTENSION cmek UPDATE'), '', 'ALTER EXTENSION UPDATE');
is(sqlstate($node, 'CREATE TABLE t (a int) USING cmek_heap; INSERT INTO t VALUES (1)'), '', 'and it works, in the same session or another');
$node->safe_psql('postgres', 'DROP TABLE t; DROP EXTENSION cmek CASCADE');
like(error_text($node, "CREATE EXTENSION cmek VERSION '0.9'; SELECT 1; CREATE TABLE t (a int) USING cmek_heap"), qr/older than its library/, 'a second time');
is(sqlstate($node, 'DROP EXTENSION cmek CASCADE'), '', 'older objects can be dropped');
like(error_text($node, 'SELECT cmek.verify(1::regclass)'), qr/3F000|does not exist/, 'they are gone');

# newer SQL objects under this library: reads, and writes of keys say what to do
$node->safe_psql('postgres', 'CREATE EXTENSION cmek; CREATE TABLE t (a int, b text) USING cmek_heap; INSERT INTO t VALUES (1, $$x$$)');
$node->safe_psql('postgres', "ALTER EXTENSION cmek UPDATE TO '9.1'");
is($node->safe_psql('postgres', 'INSERT INTO t VALUES (2, $$y$$) RETURNING (SELECT count(*) FROM t)'), '1', 'newer SQL objects: rows are read and written');
for my $sql ('CREATE TABLE u (a int) USING cmek_heap', "CALL cmek.rotate_data_key('t')")
{
	my $error = error_text($node, $sql);
	like($error, qr/ERROR:  55000: the SQL objects of extension "cmek" in this database are newer than its library/, "$sql: the error");
	like($error, qr/HINT:  Install the library of the same release and restart the server/, 'and what to do');
}
is($node->safe_psql('postgres', 'SELECT string_agg(b, $$$$ ORDER BY a) FROM t'), 'xy', 'nothing was lost');
$node->stop;

# A primary of this release; its standby has the next one's files already
add_script($dir, 'cmek.control', $control =~ s/default_version = '.*'/default_version = '9.1'/r);
my $primary = node('primary');
$primary->safe_psql('postgres', q{CREATE EXTENSION cmek; CREATE TABLE t (a int, b text) USING cmek_heap;
	ALTER TABLE t ALTER b SET STORAGE EXTERNAL; INSERT INTO t SELECT i, repeat('x' || i, 2000) FROM generate_series(1, 20) i});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby', install_path => $install);
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "cmek.service_key_file = '" . service_key($primary) . "'");
$standby->start;
my $content = 'SELECT count(*), sum(a), sum(hashtext(b)) FROM t';
sub caught_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
	is($standby->safe_psql('postgres', $content), $primary->safe_psql('postgres', $content), $_[0]);
}
caught_up('the upgraded standby reads what the primary wrote');
$primary->safe_psql('postgres', $_) for "CALL cmek.rotate_data_key('t')", 'UPDATE t SET b = b || $$y$$ WHERE a < 10', "CALL cmek.reseal('t')",
  "CALL cmek.rotate_table_key('t')", 'VACUUM FULL t', 'INSERT INTO t VALUES (100, $$new$$)';
caught_up('and replays rotation, reseal and rewrite');
is($standby->safe_psql('postgres', "SELECT default_version || ' ' || installed_version FROM pg_available_extensions WHERE name = 'cmek'"), "9.1 $release",
	'newer files, older SQL objects');
$primary->stop('immediate');
$standby->promote;
is(sqlstate($standby, 'INSERT INTO t VALUES (101, $$promoted$$)'), '', 'promoted: it writes');
is(sqlstate($standby, "CALL cmek.rotate_data_key('t')"), '', 'and renews keys');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'verify finds no damage');
is(sqlstate($standby, 'ALTER EXTENSION cmek UPDATE; SELECT cmek.more()'), '', 'and is updated');
$standby->stop;

done_testing();
