# The audit trail: every deed at a key is an event with its outcome, whoever
# tried it; nobody can change, drop or put in an event unseen; each sees what is
# his.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use CmekTest;

my $node = cmek_node('primary', config => [ 'log_min_messages = log', "cmek.audit_anchor_interval = '1s'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Until everything that happened is written down
sub settle
{
	$node->poll_query_until('postgres', 'SELECT cmek.events_waiting() = 0') or BAIL_OUT('events are not written');
	return;
}

# What happened since the last time it was asked
my $seen = 0;

sub news
{
	settle();
	my $rows = sql("SELECT concat_ws(' ', event, outcome, key, \"table\", role, code) FROM cmek.key_events WHERE id > $seen ORDER BY id");
	$seen = sql('SELECT coalesce(max(id), 0) FROM cmek.key_events');
	return $rows;
}

# ---------------------------------------------------------------------
# What is done, and tried
# ---------------------------------------------------------------------

is(news(), 'create done cmek_service_key postgres', 'CREATE EXTENSION makes a key known');

sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k')");
is(news(), "create done k postgres\nbind done k public.t postgres", 'create, bind');

sql("ALTER TABLE t SET (cmek.key = 'cmek_service_key')");
is(news(), 'switch done cmek_service_key public.t postgres', 'switch');

sql("BEGIN; ALTER TABLE t SET (cmek.key = 'k'); ROLLBACK");
is(news(), 'switch rolled back k public.t postgres', 'a switch that was rolled back');

sql("BEGIN; SAVEPOINT s; ALTER TABLE t SET (cmek.key = 'k'); ROLLBACK TO s; CREATE TABLE u (a int) USING cmek_heap; COMMIT");
is(news(), "switch rolled back k public.t postgres\nbind done cmek_service_key public.u postgres",
	'a subtransaction that was rolled back in one that was not');

sql("BEGIN; CREATE TABLE v (a int) USING cmek_heap; PREPARE TRANSACTION 'p'");
is(news(), 'bind prepared cmek_service_key public.v postgres', 'a prepared transaction');
sql("ROLLBACK PREPARED 'p'");

sql('CALL cmek.rotate_table_key(\'t\')');
sql('CALL cmek.rotate_data_key(\'t\')');
is(news(), "rotate done cmek_service_key public.t postgres\nrotate done cmek_service_key public.t postgres", 'rotate');

sql("SELECT cmek.suspend_key('k'); SELECT cmek.resume_key('k')");
sql("SELECT cmek.suspend_key('k', true); SELECT cmek.resume_key('k', true)");
is(news(), join("\n", map { "$_ done k postgres" } qw(suspend resume suspend resume)), 'suspend and resume, here and everywhere');

sql("ALTER SERVER k RENAME TO k2; ALTER SERVER k2 RENAME TO k; DROP TABLE u");
is(news(), "alter done k postgres\nalter done k2 postgres\nunbind done cmek_service_key public.u postgres", 'rename, drop of a table');

# ---------------------------------------------------------------------
# A key that is away
# ---------------------------------------------------------------------

hide_key($file);
for my $statement ('CREATE TABLE w (a int) USING cmek_heap WITH (cmek.key = \'k\')',
	'ALTER TABLE t SET (cmek.key = \'k\')',
	'CREATE TABLE x AS SELECT 1 AS a; ALTER TABLE x SET ACCESS METHOD cmek_heap')
{
	my $set = $statement =~ /^CREATE TABLE x/ ? "SET cmek.default_key = 'k'; " : '';
	is(sqlstate($node, "$set$statement"), 'KM001', "KM001: $statement");
}
is(sql("SELECT count(*) FROM pg_class WHERE relname = 'w'"), '0', 'nothing is left');
is(sql("SELECT count(*) FROM cmek.table_key k WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = k.relid)"), '0', 'nor a key');
my $news = news();
like($news, qr/^bind failed k public\.w postgres KeyFileMissing$/m, 'CREATE TABLE: an event says why');
like($news, qr/^switch failed k public\.t postgres KeyFileMissing$/m, 'so does the one of SET');
like($news, qr/^bind failed k public\.x postgres KeyFileMissing$/m, 'and the one of SET ACCESS METHOD');
show_key($file);

# ---------------------------------------------------------------------
# Who sees what
# ---------------------------------------------------------------------

sql("CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE watcher IN ROLE pg_monitor;
	GRANT CREATE ON SCHEMA public TO alice; GRANT USAGE ON FOREIGN SERVER k TO alice");
is(sqlstate($node, "SET ROLE bob; CREATE TABLE y (a int) USING cmek_heap WITH (cmek.key = 'k')"), '42501', 'no USAGE, no table');
sql("SET ROLE alice; CREATE TABLE hers (a int) USING cmek_heap WITH (cmek.key = 'k')");
settle();
is(sql("SET ROLE alice; SELECT string_agg(DISTINCT coalesce(\"table\", key), ',' ORDER BY coalesce(\"table\", key)) FROM cmek.key_events"),
	'cmek_service_key,k,public.hers', 'a user sees events of her tables and keys');
is(sql('SET ROLE bob; SELECT count(*) FROM cmek.key_events WHERE "table" IS NOT NULL'), '0', 'and not those of others');
is(sql(q{SELECT role FROM cmek.key_events WHERE "table" = 'public.hers' AND event = 'bind'}), 'alice', 'which say by whom');
is(sql('SET ROLE watcher; SELECT count(*) > 10 FROM cmek.key_events'), 't', 'pg_monitor sees all');
is(sql('SET ROLE watcher; SELECT count(*) FROM cmek.verify_events()'), '0', 'and may verify them');
is(sqlstate($node, 'SET ROLE alice; SELECT * FROM cmek.verify_events()'), '42501', 'others may not');
is(sqlstate($node, "SET ROLE alice; DELETE FROM cmek.key_event"), '42501', 'nor write');
is(sqlstate($node, "SET ROLE watcher; UPDATE cmek.key_event SET role = 'x'"), '42501', 'nobody but a superuser may');

# ---------------------------------------------------------------------
# Metrics: well-formed, and just those that docs/monitoring.md describes
# ---------------------------------------------------------------------

sql(qq{CREATE SERVER "od""d\\k" FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file'); CREATE TABLE odd (a int) USING cmek_heap WITH (cmek.key = 'od"d\\k')});
my $metrics = sql('SET ROLE watcher; SELECT cmek.metrics()');
like($metrics, qr/^cmek_key_state\{key="k",provider="cmek_file",state="enabled"\} 1$/m, 'metrics');
like($metrics, qr/^cmek_key_tables\{key="od\\"d\\\\k"\} 1$/m, 'a name is escaped');
my (%type, $family, @wrong, @calls);
for my $line (split(/\n/, $metrics))
{
	if ($line =~ /^# TYPE (\w+) (gauge|counter|histogram)$/)
	{
		push @wrong, $line if $type{$1};
		$type{ $family = $1 } = $2;
	}
	elsif ($line =~ /^(\w+?)(?:_(bucket|sum|count))?(?:\{(?:\w+="(?:[^"\\]|\\[\\"n])*",?)+\})? (-?[0-9.]+(?:e[+-]?\d+)?)$/
		&& $1 eq ($family // '') && ($type{$1} eq 'histogram') == defined $2)
	{
		push @calls, $3 if grep { ($2 // '') eq $_ } qw(bucket count);
	}
	elsif ($line !~ /^# HELP \w+ \S/)
	{
		push @wrong, $line;
	}
}
is("@wrong", '', 'every line is one of Prometheus, and samples are with their family');
cmp_ok($calls[-1] // 0, '>', 0, 'calls were counted');
is("@calls", join(' ', sort { $a <=> $b } @calls), 'the histogram grows');
is($calls[-1], $calls[-2], '... to the number of all calls');
my $docs = slurp_file("$FindBin::RealBin/../../docs/monitoring.md");
my %documented = map { $_ => 1 } map { /`(cmek_\w+)/g } grep { /^\| `cmek_/ } split(/\n/, $docs);
my %there = (%type, cmek_key_seconds_to_drop => 1);
is(join(' ', sort keys %documented), join(' ', sort keys %there), 'docs/monitoring.md has them all');
my ($query) = $docs =~ /query: "([^"]+)"/;
is(sql("SET ROLE watcher; SELECT enabled, seconds_to_drop IS NULL FROM ($query) q WHERE key = 'k'"), '1|t', 'its query for postgres_exporter');
sql('DROP TABLE odd; DROP SERVER "od""d\\k"');

# ---------------------------------------------------------------------
# The chain
# ---------------------------------------------------------------------

sub first_broken
{
	my ($anchor) = @_;

	return sql('SELECT id, problem FROM cmek.verify_events(' . (defined $anchor ? "'$anchor'" : '') . ')');
}

# A change, what it does to the chain, and back
sub tampered
{
	my ($change, $expected, $name) = @_;

	sql("CREATE TABLE saved AS TABLE cmek.key_event; CREATE TABLE saved_head AS TABLE cmek.audit_head; $change");
	like(first_broken(), $expected, $name);
	sql('TRUNCATE cmek.key_event, cmek.audit_head; INSERT INTO cmek.key_event TABLE saved;
		INSERT INTO cmek.audit_head TABLE saved_head; DROP TABLE saved, saved_head');
	is(first_broken(), '', "$name: undone");
	return;
}

settle();
is(first_broken(), '', 'the chain is whole');
tampered("UPDATE cmek.key_event SET role = 'nobody' WHERE id = 5", qr/^5\|.*changed/, 'a changed role');
tampered("UPDATE cmek.key_event SET at = at + '1 us' WHERE id = 6", qr/^6\|.*changed/, 'a changed time');
tampered("UPDATE cmek.key_event SET detail = 'x' WHERE id = 2", qr/^2\|.*changed/, 'a changed detail');
tampered("UPDATE cmek.key_event SET key = 'kp', \"table\" = 'ublic.t' WHERE key = 'k' AND \"table\" = 'public.t' AND id = 3", qr/^3\|.*changed/, 'a letter that moved');
tampered('DELETE FROM cmek.key_event WHERE id = 7', qr/^7\|.*missing/, 'a deleted event');
tampered('DELETE FROM cmek.key_event WHERE id >= 9', qr/^9\|.*missing/, 'a cut tail');
tampered('DELETE FROM cmek.key_event WHERE id = 7; UPDATE cmek.key_event SET id = id - 1 WHERE id > 7', qr/^7\|.*changed/, 'a closed gap');
tampered('UPDATE cmek.key_event SET mac = (SELECT mac FROM cmek.key_event WHERE id = 4) WHERE id = 5', qr/^5\|/, 'a copied MAC');

# An older copy of everything is whole by itself: only an anchor tells
sql('CREATE TABLE saved AS TABLE cmek.key_event; CREATE TABLE saved_head AS TABLE cmek.audit_head');
sql("SELECT cmek.suspend_key('k'); SELECT cmek.resume_key('k')");
settle();
my $last = sql('SELECT max(id) FROM cmek.key_events');
my $anchor;
for (1 .. 50)
{
	($anchor) = reverse(slurp_file($node->logfile) =~ /cmek audit anchor of database \d+: ($last:[0-9a-f]{64})/g);
	last if $anchor;
	sleep(1);
}
ok($anchor, 'the head is published in the server log');
is(first_broken($anchor), '', 'the chain fits its anchor');
my $forged;
$forged = substr($anchor, 0, -4) . join('', map { sprintf('%x', (hex($_) + 1) % 16) } split(//, substr($anchor, -4)));
like(first_broken($forged), qr/^$last\|.*rewritten/, 'not another one');
sql('TRUNCATE cmek.key_event, cmek.audit_head; INSERT INTO cmek.key_event TABLE saved; INSERT INTO cmek.audit_head TABLE saved_head');
is(first_broken(), '', 'an older copy is whole by itself');
like(first_broken($anchor), qr/missing/, 'the anchor tells');
# what comes after hides that something is missing, but from the anchor
sql("SELECT cmek.suspend_key('k'); SELECT cmek.resume_key('k')") for 1 .. 2;
settle();
cmp_ok(sql('SELECT max(id) FROM cmek.key_events'), '>', $last, 'the chain grows on');
is(first_broken(), '', 'whole by itself');
like(first_broken($anchor), qr/^$last\|.*rewritten/, 'the anchor tells all the same');
is(sqlstate($node, "SELECT * FROM cmek.verify_events('nonsense')"), '22023', 'an anchor that is none');

# ---------------------------------------------------------------------
# The service key is away: events wait, people are told, nobody is stopped
# ---------------------------------------------------------------------

hide_key(service_key($node));
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM cmek.stat WHERE cached_keys > 1}, 't');
$node->restart;
is(sqlstate($node, 'SELECT * FROM cmek.verify_events()'), 'KM001', 'no key, no verification');
sql("SELECT cmek.suspend_key('k'); SELECT cmek.resume_key('k')");
ok($node->poll_query_until('postgres', 'SELECT cmek.events_waiting() >= 2'), 'events wait for the key of the chain');
like(slurp_file($node->logfile), qr/cmek event: \{"event": "resume".*"key": "k"/, 'they are in the log at once');
show_key(service_key($node));
ok($node->poll_query_until('postgres', 'SELECT cmek.events_waiting() = 0'), 'and are written when it is back');
is(first_broken(), '', 'in their place of the chain');

# ---------------------------------------------------------------------
# The queue
# ---------------------------------------------------------------------

sql('CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION cmek');
settle();
my $before = sql('SELECT max(id) FROM cmek.key_events');
sql(join(';', map { "CREATE TABLE many_$_ (a int) USING cmek_heap WITH (cmek.key = 'k')" } 1 .. 300));
settle();
is(sql("SELECT count(*) FROM cmek.key_events WHERE id > $before AND event = 'bind' AND outcome = 'done' AND \"table\" LIKE 'public.many%'"), '300',
	'three hundred events');
is(first_broken(), '', 'in one chain');

# Who writes them is held up in one database
my $hold = $node->background_psql('postgres');
$hold->query_safe('BEGIN; LOCK TABLE cmek.key_event IN ACCESS EXCLUSIVE MODE');
sql("SELECT cmek.suspend_key('k'); SELECT cmek.resume_key('k')");
$node->safe_psql('other', "CREATE SERVER elsewhere FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')");
ok($node->poll_query_until('other', "SELECT count(*) = 1 FROM cmek.key_events WHERE key = 'elsewhere'"), 'events of another database are written');
is(sql('SELECT cmek.events_waiting() >= 2'), 't', 'while those of this one wait');
sql("DO \$\$ BEGIN FOR i IN 1 .. 500 LOOP PERFORM cmek.suspend_key('k'); PERFORM cmek.resume_key('k'); END LOOP; END \$\$");
my $change = 'ADD';
for (1 .. 100)
{
	last if sql('SELECT cmek.events_waiting()') == 1024;
	sql("ALTER SERVER k OPTIONS ($change drop_after '7d')");
	$change = 'SET';
}
is(sql('SELECT cmek.events_waiting()'), '1024', 'the queue is full');
unlike(slurp_file($node->logfile), qr/cmek event \(in this log only\)/, 'and the log alone has none of them');
my $began = time();
sql("CREATE SERVER late FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')");
cmp_ok(time() - $began, '>=', 5, 'a statement waits for room');
like(slurp_file($node->logfile), qr/cmek event \(in this log only\): \{"event": "create".*"key": "late"/, 'and then the server log takes the event');
$hold->query_safe('COMMIT');
settle();
is(sql("SELECT count(*) FROM cmek.key_events WHERE id > $before AND event IN ('suspend', 'resume')"), '1002', 'all that were queued are written');
is(first_broken(), '', 'in one chain');
sql('DROP SERVER late');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'drop key' AND key = 'late'"), 'and there is room again');
$hold->quit;

$node->stop;
done_testing();
