# A snapshot is of one moment: what is committed then is in it, wholly, and
# nothing else, while others write.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('primary', config => [ 'fsync = off', "cmek.key_cache_ttl = '5min'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Each transfer takes from one account what it gives to another, moves a row,
# and rewrites two long values; all of it keeps the sums
my $accounts = 400;
my $sums = q{SELECT count(*), sum(amount), bool_and(length(note) = 6000 AND note = repeat(substr(note, 1, 4), 1500)) FROM };
sql(q{SET cmek.plaintext_indexes = on; CREATE TABLE t (id int PRIMARY KEY, amount int, note text) USING cmek_heap;
	ALTER TABLE t ALTER note SET STORAGE EXTERNAL});
sql(qq{INSERT INTO t SELECT i, 100, repeat(lpad(i::text, 4, '0'), 1500) FROM generate_series(1, $accounts) i});
my $right = sql("$sums t");
is($right, "$accounts|" . 100 * $accounts . '|t', 'before');

# what is not committed is not in it, what is deleted by it is
my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; UPDATE t SET amount = 0, note = 'x' WHERE id <= 100; DELETE FROM t WHERE id > 300; INSERT INTO t VALUES (0, 7, 'new')");
my $id = sql(q{SELECT cmek.snapshot('t')});
$open->query_safe('COMMIT');
$open->quit;
is(sql("SELECT count(*) FROM t"), $accounts - 99, 'control: that transaction has changed the table');
sql("SELECT cmek.restore_snapshot('$id', 'before')");
is(sql("$sums before"), $right, 'a transaction that commits later is not in the snapshot');
sql(q{DROP TABLE t; ALTER TABLE before RENAME TO t});

append_to_file("$dir/transfer.sql", <<"SQL");
\\set a random(1, $accounts)
\\set b random(1, $accounts)
\\set n random(1000, 9999)
BEGIN;
UPDATE t SET amount = amount - 1, note = repeat(CAST(:n AS text), 1500) WHERE id = least(:a, :b);
UPDATE t SET amount = amount + 1, note = repeat(CAST(:n AS text), 1500) WHERE id = greatest(:a, :b);
WITH gone AS (DELETE FROM t WHERE id = greatest(:a, :b) RETURNING *) INSERT INTO t SELECT id + $accounts, amount, note FROM gone;
UPDATE t SET id = id - $accounts WHERE id = greatest(:a, :b) + $accounts;
COMMIT;
SQL
my $out = '';
# a row that was moved meanwhile is an error, and the transfer tried again
$ENV{PGOPTIONS} = '-c default_transaction_isolation=repeatable\ read';
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-j', 1, '-T', 300, '--max-tries=100', '-f', "$dir/transfer.sql", $node->connstr('postgres') ],
	'>', \$out, '2>&1');
delete $ENV{PGOPTIONS};
my $xacts = q{SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 't'};
for my $round (1 .. 2)
{
	my $before = sql($xacts);

	ok($node->poll_query_until('postgres', "SELECT ($xacts) > $before + 100"), "round $round: others write");
	my $snapshot = sql(q{SELECT cmek.snapshot('t')});
	sql("SELECT cmek.restore_snapshot('$snapshot', 'r$round')");
	is(sql("$sums r$round"), $right, "round $round: the snapshot is of one moment");
	is(sql("SELECT count(*) FROM cmek.verify('r$round')"), '0', "round $round: and whole");
}
$writers->kill_kill;
is(sql("$sums t"), $right, 'control: the transfers keep the sums');
isnt(sql('SELECT md5(string_agg(r1::text, $$$$ ORDER BY id)) FROM r1'), sql('SELECT md5(string_agg(r2::text, $$$$ ORDER BY id)) FROM r2'), 'control: there was something in between');

$node->stop;
done_testing();
