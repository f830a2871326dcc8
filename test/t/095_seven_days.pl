# A key that stays away: after the observed time its tables are snapshotted
# and dropped, and no row that is not under it is lost.  What does not count,
# whom it does not touch, who sees and drops snapshots, when they go.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my $node = cmek_node('primary', streaming => 1, config => [ 'log_min_messages = log', 'max_worker_processes = 8',
		"cmek.drop_after = 'off'", "cmek.snapshot_retention = '1h'", 'autovacuum = off', 'fsync = off' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my %file;
my $snapshots = $node->data_dir . '.cmek/snapshots';

sub sql { return $node->safe_psql($_[1] || 'postgres', $_[0]); }
sub until_true { return $node->poll_query_until($_[1] || 'postgres', $_[0]); }

# A KMS key that a whole test is about
sub new_key
{
	my ($name, $options) = @_;

	$file{$name} = new_key_file("$dir/$name");
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{$name}'" . ($options || '') . ')');
	return;
}

sub set_config
{
	my ($name, $value) = @_;

	sql("ALTER SYSTEM SET $name = $value");
	sql('SELECT pg_reload_conf()');
	return;
}

sub exists_table
{
	my ($name) = @_;

	return sql("SELECT to_regclass('$name') IS NOT NULL") eq 't';
}

sub until_dropped { return until_true("SELECT to_regclass('$_[0]') IS NULL"); }

# Until the clock of a key shows as much
sub until_counted
{
	my ($key, $ms) = @_;

	return until_true("SELECT count(*) = 1 FROM cmek.key_watch WHERE server = '$key' AND denied_ms >= $ms");
}

# ---------------------------------------------------------------------
# The drop
# ---------------------------------------------------------------------

sql('CREATE ROLE alice; CREATE ROLE bob; GRANT CREATE ON SCHEMA public TO alice');
new_key('k', ", drop_after '10min'");
new_key('never', ", drop_after 'off'");
fails_with($node, 'HV024', "ALTER SERVER k OPTIONS (SET drop_after 'soon')", 'a duration, or off');
fails_with($node, 'HV024', "ALTER SERVER k OPTIONS (SET drop_after '-1s')", 'a positive one');
sql(q{GRANT USAGE ON FOREIGN SERVER k TO alice});
sql(q{SET cmek.plaintext_indexes = on; SET ROLE alice;
	CREATE TABLE t (id int PRIMARY KEY, v text) USING cmek_heap WITH (cmek.key = 'k');
	INSERT INTO t SELECT i, repeat('secret' || i, 500) FROM generate_series(1, 300) i;
	CREATE VIEW v AS SELECT id FROM t;
	CREATE TABLE plain (id int REFERENCES t); INSERT INTO plain VALUES (1), (2)});
sql(q{CREATE TABLE kept (a int) USING cmek_heap WITH (cmek.key = 'never'); INSERT INTO kept VALUES (1)});

# code of a user's would be run by an event trigger or a trigger
sql(q{CREATE TABLE loot (who text); GRANT ALL ON loot TO PUBLIC;
	CREATE FUNCTION grab() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.loot VALUES (current_user); END$$;
	CREATE EVENT TRIGGER grab ON sql_drop EXECUTE FUNCTION grab();
	CREATE EVENT TRIGGER grab2 ON ddl_command_end EXECUTE FUNCTION grab(); TRUNCATE loot});

hide_key($file{never});
hide_key($file{k});
ok(until_true(q{SELECT drop_at BETWEEN now() + interval '8 min' AND now() + interval '10 min' FROM cmek.keys WHERE name = 'k'}),
	'its option tells when');
# which is a command of ours
sql(q{BEGIN; ALTER SERVER k OPTIONS (SET drop_after '3s'); TRUNCATE loot; COMMIT});
ok(until_dropped('t'), 'the table is dropped');
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'drop' AND outcome = 'done' AND "table" = 'public.t' AND role IS NULL}),
	'an event says so, and that nobody asked for it');
is(sql(q{SELECT count(*) FROM cmek.key_events WHERE event = 'snapshot' AND outcome = 'done' AND role IS NULL}), '1', 'and one of the snapshot');
ok(until_true(q{SELECT bool_and(role IS NULL) IS TRUE FROM cmek.key_events WHERE event = 'unbind'}), 'and one that its keys are gone');
is(sql(q{SELECT table_name, reason, rows, key, state, bytes > 300 * 100, expires_at = taken_at + interval '1 h' FROM cmek.snapshots}),
	'public.t|key lost|300|k|kept|t|t', 'a snapshot is kept');
my $id = sql('SELECT id FROM cmek.snapshots');
ok(-s "$snapshots/$id.cmeksnap", 'it has a file');
is(sql('SELECT count(*) FROM plain'), '2', 'rows that refer to it stay');
is(sql(q{SELECT count(*) FROM pg_constraint WHERE conrelid = 'plain'::regclass AND contype = 'f'}), '0', 'the reference goes');
is(sql(q{SELECT to_regclass('v') IS NULL}), 't', 'a view goes');
is(sql(q{SELECT count(*) FROM cmek.table_key WHERE server = 'k'}), '0', 'its keys are in the snapshot only');
is(sql('SELECT count(*) FROM loot'), '0', 'nothing of a user was called');
is(sql('SELECT count(*) FROM cmek.verify_events()'), '0', 'the audit chain is whole');
ok(until_true(q{SELECT count(*) = 0 FROM cmek.key_watch WHERE server = 'k'}), 'a key without tables is forgotten');
is(sql(q{SELECT drop_at IS NULL FROM cmek.keys WHERE name = 'never'}), 't', 'off is off');
ok(exists_table('kept'), 'its table stays');
show_key($file{never});
sql('DROP EVENT TRIGGER grab; DROP EVENT TRIGGER grab2');

# Who sees and drops it
is(sql('SET ROLE alice; SELECT count(*) FROM cmek.snapshots'), '1', 'the owner sees it');
is(sql('SET ROLE bob; SELECT count(*) FROM cmek.snapshots'), '0', 'others do not');
is(sql('GRANT pg_monitor TO bob; SET ROLE bob; SELECT count(*) FROM cmek.snapshots'), '1', 'but for pg_monitor');
fails_with($node, '42501', "SET ROLE bob; SELECT cmek.drop_snapshot('$id')", 'and do not drop it');
fails_with($node, '42704', q{SET ROLE alice; SELECT cmek.drop_snapshot('00000000-0000-4000-8000-000000000000')}, 'nor what is not there');
fails_with($node, '42501', 'SET ROLE bob; SELECT * FROM cmek.snapshot_record', 'the record is nobody else\'s');
sql("BEGIN; SET ROLE alice; SELECT cmek.drop_snapshot('$id'); ROLLBACK");
sleep(1.5);
ok(-s "$snapshots/$id.cmeksnap", 'rolled back');
sql("SET ROLE alice; SELECT cmek.drop_snapshot('$id')");
is(sql('SELECT count(*) FROM cmek.snapshots'), '0', 'the owner drops it');
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshot_removal'), 'the visitor comes for the file');
ok(!-e "$snapshots/$id.cmeksnap", 'which is gone');
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'purge' AND role = 'alice' AND outcome = 'done'}), 'by whom is written');

# ---------------------------------------------------------------------
# What does not count
# ---------------------------------------------------------------------

new_key('c', ", drop_after '15s'");
sql(q{CREATE TABLE c1 (a int) USING cmek_heap WITH (cmek.key = 'c'); CREATE TABLE c2 (a int) USING cmek_heap WITH (cmek.key = 'c');
	INSERT INTO c1 VALUES (1); INSERT INTO c2 VALUES (2)});

# suspended by order
sql(q{SELECT cmek.suspend_key('c')});
sleep(2);
is(sql(q{SELECT coalesce(max(denied_ms), 0) FROM cmek.key_watch WHERE server = 'c'}), '0', 'an order does not count');
sql(q{SELECT cmek.resume_key('c')});

# a key that comes back before the end
hide_key($file{c});
ok(until_counted('c', 4000), 'counting');
show_key($file{c});
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'c' AND class = 'ok' AND denied_ms = 0 AND own_ms = 0}), 'back in time');
is(sql('SELECT a FROM c1'), '1', 'nothing is lost');

# one damaged row counts for nobody: not for the key, not for its table
my $version = sql(q{SELECT key_version FROM cmek.table_key WHERE relid = 'c1'::regclass});
for my $damaged ('f' x length($version), 'nonsense')
{
	sql("UPDATE cmek.table_key SET key_version = '$damaged' WHERE relid = 'c1'::regclass");
	$node->restart;
	is(sqlstate($node, 'SELECT * FROM c1'), 'XX001', "a damaged key version ($damaged) fails its table");
	is(sql('SELECT a FROM c2'), '2', 'and no other');
	sleep(2);
	is(sqlstate($node, 'SELECT * FROM c1'), 'XX001', 'and goes on');
	is(sql(q{SELECT coalesce(max(denied_ms), 0) FROM cmek.key_watch WHERE server = 'c'}), '0', 'it does not count');
	is(sql(q{SELECT state FROM cmek.keys WHERE name = 'c'}), 'enabled', 'nor speak for the key');
}
# the table alone, so that no other row speaks for the key
sql(q{DROP TABLE c2});
$node->restart;
is(sqlstate($node, 'SELECT * FROM c1'), 'XX001', 'still');
sleep(2);
is(sql(q{SELECT coalesce(max(denied_ms), 0) FROM cmek.key_watch WHERE server = 'c'}), '0', 'it does not count even if it is the only one');
sql("UPDATE cmek.table_key SET key_version = '$version' WHERE relid = 'c1'::regclass");
$node->restart;
is(sql('SELECT a FROM c1'), '1', 'mended');

# another installation's record: own_ms begins anew
hide_key($file{c});
ok(until_counted('c', 1000), 'counting');
sql(q{SELECT cmek.suspend_key('c')});
sql(q{UPDATE cmek.key_watch SET denied_ms = 600000, own_ms = 600000, installation = 'another' WHERE server = 'c'; SELECT cmek.resume_key('c')});
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'c' AND installation <> 'another' AND own_ms < 15000}), 'what another installation has seen is not ours');
ok(until_true(q{SELECT own_ms BETWEEN 500 AND 14000 AND to_regclass('c1') IS NOT NULL FROM cmek.key_watch WHERE server = 'c'}), 'and drops nothing');
# of seven days, a day has to be our own; the visitor may be writing the record just now
sql(q{ALTER SERVER c OPTIONS (SET drop_after '7d')});
my $own_day = q{SELECT drop_at BETWEEN now() + interval '23 h' AND now() + interval '24 h 1 min' FROM cmek.keys WHERE name = 'c'};
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	sql(q{UPDATE cmek.key_watch SET denied_ms = 30 * 86400000::int8, own_ms = denied_ms, installation = 'another' WHERE server = 'c' AND denied_ms < 86400000});
	last if sql($own_day) eq 't';
	sleep(0.1);
}
is(sql($own_day), 't', 'a month of another installation leaves a day of our own');
show_key($file{c});
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'c' AND denied_ms = 0}), 'back');

# ---------------------------------------------------------------------
# No row that is not under the lost key
# ---------------------------------------------------------------------

new_key('l');
new_key('o');
sql(q{SET cmek.plaintext_indexes = on;
	CREATE TABLE part (id int, v text) PARTITION BY LIST (id);
	CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1) USING cmek_heap WITH (cmek.key = 'l');
	CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2) USING cmek_heap WITH (cmek.key = 'o');
	INSERT INTO part VALUES (1, 'lost'), (2, 'kept');
	CREATE TABLE parted (id int) PARTITION BY LIST (id);
	CREATE TABLE parted1 PARTITION OF parted FOR VALUES IN (1) USING cmek_heap WITH (cmek.key = 'o');
	INSERT INTO parted VALUES (1);
	CREATE TABLE parent (id int) USING cmek_heap WITH (cmek.key = 'l');
	CREATE TABLE child_other () INHERITS (parent) USING cmek_heap WITH (cmek.key = 'o');
	CREATE TABLE child_same () INHERITS (parent) USING cmek_heap WITH (cmek.key = 'l');
	CREATE TABLE grandchild () INHERITS (child_same) USING cmek_heap WITH (cmek.key = 'o');
	CREATE TABLE lower () INHERITS (child_other) USING cmek_heap WITH (cmek.key = 'l');
	INSERT INTO parent VALUES (1); INSERT INTO child_other VALUES (2); INSERT INTO child_same VALUES (3);
	INSERT INTO grandchild VALUES (4); INSERT INTO lower VALUES (5);
	CREATE TABLE base (id int) USING cmek_heap WITH (cmek.key = 'l'); INSERT INTO base VALUES (7);
	CREATE MATERIALIZED VIEW mv_same USING cmek_heap AS SELECT id FROM base WITH NO DATA;
	CREATE MATERIALIZED VIEW mv_other USING cmek_heap AS SELECT id FROM base WITH NO DATA;
	ALTER MATERIALIZED VIEW mv_other SET ACCESS METHOD heap;
	REFRESH MATERIALIZED VIEW mv_other;
	CREATE TABLE typed (id int) USING cmek_heap WITH (cmek.key = 'l'); INSERT INTO typed VALUES (1);
	CREATE TABLE holder (c typed[], d int); INSERT INTO holder VALUES (ARRAY[ROW(1)::typed], 1);
	CREATE TABLE viewed (id int) USING cmek_heap WITH (cmek.key = 'l'); INSERT INTO viewed VALUES (1);
	CREATE VIEW over AS SELECT id FROM viewed; CREATE VIEW over2 AS SELECT * FROM over;
	CREATE FUNCTION takes(viewed) RETURNS int LANGUAGE sql AS 'SELECT 1';
	CREATE TABLE guarded (id int); INSERT INTO guarded VALUES (1); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
	CREATE TABLE allows (id int) USING cmek_heap WITH (cmek.key = 'l');
	CREATE POLICY narrow ON guarded AS RESTRICTIVE USING (id IN (SELECT id FROM allows));
	CREATE TABLE pk (id int PRIMARY KEY) USING cmek_heap WITH (cmek.key = 'o'); INSERT INTO pk VALUES (1);
	CREATE TABLE fk (id int REFERENCES pk) USING cmek_heap WITH (cmek.key = 'l'); INSERT INTO fk VALUES (1);
	CREATE TABLE serials (id serial, g int GENERATED ALWAYS AS IDENTITY, x int DEFAULT 3) USING cmek_heap WITH (cmek.key = 'l'); INSERT INTO serials DEFAULT VALUES;
	CREATE TABLE empty () USING cmek_heap WITH (cmek.key = 'l');
	DROP MATERIALIZED VIEW mv_same});
sql(q{ALTER SERVER l OPTIONS (ADD drop_after '2s')});
hide_key($file{l});
for my $t (qw(part1 parent child_same lower viewed fk serials empty))
{
	ok(until_dropped($t), "$t is dropped");
}
is(sql('SELECT * FROM part'), '2|kept', 'another partition stays, and the partitioned table');
is(sql(q{SELECT id FROM child_other}), '2', 'a child under another key stays');
is(sql(q{SELECT id FROM grandchild}), '4', 'and a grandchild');
is(sql('SELECT count(*) FROM pg_inherits WHERE inhparent <> ALL (ARRAY[$$part$$, $$parted$$]::regclass[])'), '0', 'on their own');
is(sql('SELECT id FROM pk'), '1', 'what was referred to stays');
is(sql(q{SELECT to_regclass('over') IS NULL AND to_regclass('over2') IS NULL}), 't', 'views of views go');
is(sql(q{SELECT count(*) FROM pg_proc WHERE proname = 'takes'}), '0', 'functions go');
ok(until_true(q{SELECT count(DISTINCT "table") = 3 FROM cmek.key_events WHERE event = 'warn' AND detail LIKE 'not dropped yet:%'}), 'three are postponed');
is(sql(q{SELECT string_agg(DISTINCT "table" || ': ' || detail, E'\n' ORDER BY "table" || ': ' || detail) FROM cmek.key_events WHERE detail LIKE 'not dropped yet:%'}),
	"public.allows: not dropped yet: policy narrow on table public.guarded would be lost with it\n"
	  . "public.base: not dropped yet: materialized view public.mv_other would be lost with it\n"
	  . "public.typed: not dropped yet: column c of table public.holder would be lost with it", 'and it is said why');
ok(exists_table('base') && exists_table('typed') && exists_table('allows'), 'they stay');
is(sql('SELECT id FROM mv_other'), '7', 'with the materialized view');
is(sql('SELECT d FROM holder'), '1', 'the column');
is(sql(q{SELECT count(*) FROM pg_policy}), '1', 'and the policy');
is(sql(q{SELECT count(*) FROM cmek.snapshots WHERE table_name IN ('public.base', 'public.typed', 'public.allows')}), '0', 'no snapshot is taken in vain');
my @files = glob("$snapshots/*");
is(scalar(@files), sql('SELECT count(*) FROM cmek.snapshots'), 'every file has its record');
sql('DROP MATERIALIZED VIEW mv_other; DROP TABLE holder; DROP POLICY narrow ON guarded');
ok(until_dropped($_), "nothing holds $_ any more") for qw(base typed allows);

# A reader's transaction is waited for, not broken; then no room for the snapshot
new_key('r', ", drop_after '2s'");
sql(q{CREATE TABLE r (a int) USING cmek_heap WITH (cmek.key = 'r'); INSERT INTO r VALUES (1)});
my $small = $ENV{CMEK_SMALL_FS} ? "$ENV{CMEK_SMALL_FS}/snapshots" : undef;
my $full = $small || "$dir/full";
if ($small)
{
	open(my $fh, '>', "$small/filler") or BAIL_OUT("no filler: $!");
	1 while (syswrite($fh, "\0" x 4096));
	close($fh);
}
else
{
	mkdir($full) && chmod(0500, $full);
}
set_config('cmek.snapshot_directory', "'$full'");
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT * FROM r');
hide_key($file{r});
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE "table" = 'public.r' AND detail LIKE 'not dropped yet:%lock timeout'}), 'a lock postpones the drop');
sql(q{DELETE FROM cmek.drop_postponed});
$reader->quit;
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE "table" = 'public.r' AND detail ~ 'not dropped yet: could not (create|write) file'}),
	'without room for the snapshot the table stays, and it is said');
sleep(2);
ok(exists_table('r'), 'for good');
# a retry may be at its file right now; nothing else is ever there, and that is gone with it
sub left_there { return grep { !m{/filler$} } glob("$full/*"); }
is(join(' ', grep { !/\.cmeksnap\.part$/ } left_there()), '', 'and nothing that looks whole');
cmp_ok(scalar(my @parts = left_there()), '<=', 1, 'nor more than what is being tried');
sql(q{ALTER SERVER r OPTIONS (SET drop_after 'off')});
ok(until_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cmek drop'}), 'when nobody tries any more');
is(join(' ', left_there()), '', 'nothing half-made is left');
sql(q{ALTER SERVER r OPTIONS (SET drop_after '2s')});
$small ? unlink("$small/filler") : chmod(0700, $full);
ok(until_dropped('r'), 'with room it is tried again');
is(sql(q{SELECT state FROM cmek.snapshots WHERE table_name = 'public.r'}), 'kept', 'in the new directory');
is(scalar(my @there = glob("$full/*.cmeksnap")), 1, 'indeed');
unlink(glob("$full/*.cmeksnap"));
sql(q{SELECT cmek.suspend_key('o'), cmek.resume_key('o')});
ok(until_true(q{SELECT state = 'missing' FROM cmek.snapshots WHERE table_name = 'public.r'}), 'a file that somebody removed is missing');
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'warn' AND "table" = 'public.r' AND detail LIKE 'snapshot file%missing'}), 'and it is said');
set_config('cmek.snapshot_directory', "''");

# ---------------------------------------------------------------------
# The purge
# ---------------------------------------------------------------------

my $mine = sql('SET ROLE alice; CREATE TABLE mine (a int) USING cmek_heap; INSERT INTO mine VALUES (1)') . sql(q{SET ROLE alice; SELECT cmek.snapshot('mine')});
is(sql("SELECT reason, expires_at IS NULL FROM cmek.snapshots WHERE id = '$mine'"), 'on demand|t', 'one that was asked for does not expire');
is(sql("SET ROLE alice; BEGIN; SELECT cmek.snapshot('mine') IS NOT NULL; ROLLBACK"), 't', 'one that is rolled back');
my $kept = sql('SELECT count(*) FROM cmek.snapshots WHERE expires_at IS NULL');
is($kept, '1', 'has no record');
my ($orphan) = grep { my ($u) = m{([^/]+)\.cmeksnap$}; sql("SELECT count(*) FROM cmek.snapshots WHERE id = '$u'") eq '0' } glob("$snapshots/*.cmeksnap");
ok($orphan, 'but a file');
spew("$snapshots/$_", 'x') for qw(a.cmeksnap.part b.cmeksnap.part c.cmeksnap notes.txt);
my $old = time() - 25 * 3600;
utime($old, $old, $orphan, map { "$snapshots/$_" } qw(a.cmeksnap.part c.cmeksnap notes.txt));
sql(q{UPDATE cmek.snapshot_record SET expires_at = now(), expires_ms = 0 WHERE expires_at IS NOT NULL});
sql(q{SELECT cmek.suspend_key('o'), cmek.resume_key('o')});
ok(until_true('SELECT count(*) = 1 FROM cmek.snapshots'), 'expired ones go');
ok(until_true('SELECT count(*) = 0 FROM cmek.snapshot_removal WHERE after_ms = 0'), 'with their files');
ok(until_true(q{SELECT count(*) > 5 FROM cmek.key_events WHERE event = 'purge' AND role IS NULL AND detail LIKE 'snapshot % of table public.%'}), 'and it is said');
ok(until_true("SELECT count(*) = 1 FROM cmek.snapshot_removal WHERE '$orphan' LIKE '%/' || file") && -s $orphan, 'an old file without a record waits for its time');
sql('UPDATE cmek.snapshot_removal SET after_ms = 0');
sql(q{SELECT cmek.suspend_key('o'), cmek.resume_key('o')});
my $left = join(' ', sort("$mine.cmeksnap", qw(b.cmeksnap.part c.cmeksnap notes.txt)));
sub kept_there { return join(' ', sort map { s{.*/}{}r } glob("$snapshots/*")); }
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default) { last if kept_there() eq $left; sleep(0.1); }
is(kept_there(), $left,
	'left-overs go when they are old and ours');

sub spew
{
	my ($name, $bytes) = @_;

	open(my $fh, '>', $name) or BAIL_OUT("could not write $name: $!");
	print $fh $bytes;
	close($fh);
	return;
}

# ---------------------------------------------------------------------
# A standby that is promoted inside of the time
# ---------------------------------------------------------------------

new_key('s', ", drop_after '10min'");
sql(q{CREATE TABLE s (a int) USING cmek_heap WITH (cmek.key = 's'); INSERT INTO s VALUES (1)});
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
# what it needs to vouch for a snapshot
system_or_bail('cp', '-a', $node->data_dir . '.cmek', $standby->data_dir . '.cmek');
$standby->start;
hide_key($file{s});
ok(until_counted('s', 5000), 'the primary counts');
# statements of a standby find the key away, too, for as long
is(sqlstate($standby, 'SELECT * FROM s'), 'KM001', 'away on the standby, too');
is(sqlstate($standby, "SELECT cmek.snapshot('s')"), '25006', 'which takes no snapshots');
is(sqlstate($standby, "SELECT cmek.restore_snapshot('$mine', 'x')"), '25006', 'and restores none');
is(sqlstate($standby, "SELECT cmek.drop_snapshot('$mine')"), '25006', 'and drops none');
for (1 .. 25) { sqlstate($standby, 'SELECT * FROM s'); sleep(0.1); }
$node->backup('later');
# the primary may go on writing until it is stopped: its record is told by this
my ($seen, $theirs) = split(/\|/, sql(q{SELECT denied_ms, installation FROM cmek.key_watch WHERE server = 's'}));
$node->wait_for_catchup($standby);
$node->stop('immediate');
# its record says more than its own time allows
my $promoted = time();
$standby->promote;
ok($standby->poll_query_until('postgres', qq{SELECT own_ms > 0 AND denied_ms >= $seen FROM cmek.key_watch WHERE server = 's' AND denied_ms > $seen AND installation <> '$theirs'}), 'it goes on from the sum');
my $own = $standby->safe_psql('postgres', q{SELECT own_ms FROM cmek.key_watch WHERE server = 's'});
cmp_ok($own, '<=', 1000 * (time() - $promoted) + 100, 'what it saw as a standby does not count');
# by the sum the time is over long ago
$standby->safe_psql('postgres', q{ALTER SERVER s OPTIONS (SET drop_after '5s')});
ok($standby->poll_query_until('postgres', q{SELECT to_regclass('s') IS NULL}), 'in the end it drops the table');
cmp_ok(time() - $promoted, '>=', 5, 'after its own time of observation');

$standby->stop;

# A server restored from a backup of that time
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($node, 'later');
system_or_bail('cp', '-a', $node->data_dir . '.cmek', $clone->data_dir . '.cmek');
my $restored = time();
$clone->start;
ok($clone->poll_query_until('postgres', qq{SELECT own_ms > 0 FROM cmek.key_watch WHERE server = 's' AND denied_ms > 4500 AND installation <> '$theirs'}), 'a restored server goes on from the sum, too');
$own = $clone->safe_psql('postgres', q{SELECT own_ms FROM cmek.key_watch WHERE server = 's'});
cmp_ok($own, '<=', 1000 * (time() - $restored), 'what the original saw does not count');
# a restart is no other installation
$clone->restart;
ok($clone->poll_query_until('postgres', qq{SELECT own_ms > $own FROM cmek.key_watch WHERE server = 's'}), 'its own does, over a restart');
is($clone->safe_psql('postgres', q{SELECT to_regclass('s') IS NOT NULL}), 't', 'and it drops nothing in between');

$clone->stop;
done_testing();
