# A streaming standby replays without a key, reads with it, and says KM001
# without; a promoted one goes on writing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $primary = cmek_node('primary', streaming => 1, config => ['autovacuum = off']);
my $key = service_key($primary);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $standby_key = "$dir/service_key";

$primary->safe_psql('postgres', q{
	CREATE TABLE t (id int, t text) USING cmek_heap;
	INSERT INTO t SELECT i, repeat(md5(i::text), i) FROM generate_series(1, 200) i});
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf', "cmek.service_key_file = '$standby_key'\nhot_standby = on\n");
$standby->start;

# no key: it replays, and says so
$primary->safe_psql('postgres', q{UPDATE t SET t = t || 'u' WHERE id % 2 = 0;
	CREATE TABLE later (a text) USING cmek_heap; INSERT INTO later SELECT repeat('x', 5000); VACUUM t});
$primary->wait_for_catchup($standby);
pass('the standby replays without a key');
fails_with($standby, 'KM001', 'SELECT count(*) FROM t', 'a read on it is KM001');
ok(!-e $standby_key, 'it makes no key');
is(sqlstate($standby, 'SELECT count(*) FROM pg_class'), '', 'the rest is readable');

# the key arrives
umask(0077);
open(my $fh, '>', $standby_key) or die $!;
print $fh slurp_binary($key);
close($fh);
ok(wait_for_ok($standby, 'SELECT count(*) FROM t'), 'the key arrives and reads work');
my $query = 'SELECT count(*), sum(hashtext(t)) FROM t';
is($standby->safe_psql('postgres', $query), $primary->safe_psql('postgres', $query), 'the same rows');
is($standby->safe_psql('postgres', 'SELECT length(a) FROM later'), '5000', 'a table made later');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'verify on a standby');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM cmek.tables'), '2', 'the views work');
is(sqlstate($standby, 'INSERT INTO t VALUES (1)'), '25006', 'it is read only');

# a table that is dropped, one that is rewritten
$primary->safe_psql('postgres', 'DROP TABLE later; VACUUM FULL t; ALTER TABLE t ADD COLUMN v text DEFAULT random()::text');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $query), $primary->safe_psql('postgres', $query), 'after a rewrite the same rows');

# away again, and back
hide_key($standby_key);
ok(wait_for_error($standby, 'KM001', 'SELECT count(*) FROM t'), 'away again: KM001');
is(sqlstate($primary, 'SELECT count(*) FROM t'), '', 'the primary has its own');
show_key($standby_key);
ok(wait_for_ok($standby, 'SELECT count(*) FROM t'), 'and back');

# promoted
$primary->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', q{INSERT INTO t (id, t) SELECT i, repeat('p', 9000) FROM generate_series(1000, 1010) i;
	CREATE TABLE promoted (a int) USING cmek_heap; INSERT INTO promoted VALUES (1);
	SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM promoted)}), '211|1', 'promoted: it writes and makes keys');
is($standby->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'and all is whole');

$standby->stop;
done_testing();
