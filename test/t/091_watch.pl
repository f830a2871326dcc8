# Watching keys: a key that is taken away is noticed when nobody uses it, and so
# is its return; what is known is durable; the clock counts what was observed
# and nothing else; visitors are in nobody's way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my $node = cmek_node('primary', config => [ 'log_min_messages = log', 'max_worker_processes = 8', "cmek.drop_after = '7d'" ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");
my $other = new_key_file("$dir/o");

sub sql { return $node->safe_psql($_[1] || 'postgres', $_[0]); }
sub until_true { return $node->poll_query_until($_[1] || 'postgres', $_[0]); }

sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE SERVER o FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$other');
	CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO t VALUES (1);
	CREATE TABLE u (a int) USING cmek_heap WITH (cmek.key = 'o'); INSERT INTO u VALUES (2)");

# ---------------------------------------------------------------------
# Nobody uses the keys: lost and found all the same
# ---------------------------------------------------------------------

# nothing is cached after a restart, so it is the probe of a bound key that
# brings its state
$node->restart;
ok(until_true(q{SELECT state = 'enabled' AND last_ok > pg_postmaster_start_time() FROM cmek.keys WHERE name = 'k'}), 'a key that nobody uses is proved');
is(sql('SELECT cached_keys <= 1 FROM cmek.stat'), 't', 'but not kept');

hide_key($file);
ok(until_true(q{SELECT state = 'inaccessible' AND code = 'KeyFileMissing' FROM cmek.keys WHERE name = 'k'}), 'it is missed');
is(sql(q{SELECT state FROM cmek.keys WHERE name = 'o'}), 'enabled', 'the other is not');
ok(until_true(q{SELECT denied_for >= '2 s' FROM cmek.keys WHERE name = 'k'}), 'the clock runs');
is(sql(q{SELECT drop_at BETWEEN now() + interval '7 d' - denied_for - interval '30 s' AND now() + interval '7 d' FROM cmek.keys WHERE name = 'k'}), 't', 'and tells the day of the drop');

# ---------------------------------------------------------------------
# A restart forgets neither since when nor how long, and counts no time down
# ---------------------------------------------------------------------

my $since = sql(q{SELECT since FROM cmek.keys WHERE name = 'k'});
my $known = q{SELECT state, code, reason, since, last_ok FROM cmek.keys WHERE name = 'k'};
my $known_before = sql($known);
like($known_before, qr/^inaccessible\|KeyFileMissing\|[^|]+\|\d{4}-[^|]+\|\d{4}-/, 'all is known of it');
my $before = sql(q{SELECT denied_ms FROM cmek.key_watch WHERE server = 'k'});
$node->stop;
sleep(4);
my $started = time();
$node->start;
ok(until_true(qq{SELECT since = '$since' FROM cmek.keys WHERE name = 'k'}), 'since when');
is(sql($known), $known_before, 'why, and when it was there for the last time');
my $after = sql(q{SELECT denied_ms FROM cmek.key_watch WHERE server = 'k'});
my $up = 1000 * (time() - $started);
cmp_ok($after, '>=', $before, 'how long');
cmp_ok($after, '<=', $before + 2000 + $up, 'time while the server was down does not count');
like(error_text($node, 'SELECT * FROM t'), qr/Inaccessible since \Q$since\E/, 'an error says since when');

# ---------------------------------------------------------------------
# People are told at once, daily, and hourly on the last day, with the day of
# the drop.  What is recorded is set back and forth, with the visitors kept out.
# ---------------------------------------------------------------------

is(sql(q{SELECT count(*) FROM cmek.key_events WHERE event = 'denied' AND key = 'k' AND drop_at BETWEEN at + interval '6 d 23 h' AND at + interval '7 d 1 min'}), '1', 'told at once');

sub warnings
{
	my ($left, $told, $expected) = @_;
	my $ms = "extract(epoch FROM interval '7 d' - interval '$left') * 1000";

	sql("BEGIN; LOCK TABLE cmek.key_watch IN ACCESS EXCLUSIVE MODE;
		UPDATE cmek.key_watch SET denied_ms = $ms, own_ms = $ms, warned_at = now() - interval '$told' WHERE server = 'k'; COMMIT");
	my $id = sql('SELECT coalesce(max(id), 0) FROM cmek.key_events');
	ok(until_true("SELECT denied_ms > $ms + 3000 FROM cmek.key_watch WHERE server = 'k'"), "$left left, told $told ago: visits pass");
	ok(until_true('SELECT cmek.events_waiting() = 0'), '... and events are written');
	is(sql("SELECT count(*) FROM cmek.key_events WHERE id > $id AND event = 'warn' AND key = 'k'
		AND drop_at BETWEEN at + interval '$left' - interval '1 min' AND at + interval '$left'"), $expected, "... $expected warning, with the day");
	return;
}
warnings('6 d', '23 h 50 min', 0);
warnings('6 d', '24 h 1 s', 1);
warnings('25 h', '23 h 50 min', 0);
warnings('23 h', '58 min', 0);
warnings('23 h', '60 min 1 s', 1);

# the sum goes to zero with the first OK, by itself
show_key($file);
ok(until_true(q{SELECT state = 'enabled' FROM cmek.keys WHERE name = 'k'}), 'the key is back, and nobody asked');
ok(until_true(q{SELECT class = 'ok' AND denied_ms = 0 AND drop_at IS NULL FROM cmek.key_watch WHERE server = 'k'}), 'the clock is at zero');
is(sql('SELECT a FROM t'), '1', 'rows are back');
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'back' AND key = 'k'}), 'there is an event');

# Misconfigured: fails, but never counts
chmod(0644, $file);
ok(until_true(q{SELECT state = 'inaccessible' FROM cmek.keys WHERE name = 'k'}), 'a key file that everybody may read');
sleep(3);
is(sql(q{SELECT denied_ms + unreachable_ms FROM cmek.key_watch WHERE server = 'k'}), '0', 'does not count');
is(sql(q{SELECT drop_at IS NULL FROM cmek.keys WHERE name = 'k'}), 't', 'and drops nothing');
chmod(0600, $file);
ok(until_true(q{SELECT state = 'enabled' FROM cmek.keys WHERE name = 'k'}), 'back');

# ---------------------------------------------------------------------
# Time from loss to the first error, a running scan included.  TTL 1 s,
# cmek.kms_timeout 10 s.  (093 has the time from return to the first row.)
# ---------------------------------------------------------------------

sql('INSERT INTO t SELECT generate_series(1, 20000)');
my %scan = (out => '', err => '');
my $scan = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-c',
		'SELECT count(pg_sleep(0.002)) FROM t' ], '>', \$scan{out}, '2>', \$scan{err});
ok(until_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT count(pg_sleep%' AND wait_event = 'PgSleep'}), 'a scan runs');
is(sql('SELECT count(*) FROM t'), '20001', 'readable');
my $session = $node->background_psql('postgres', on_error_stop => 0);
is($session->query('SELECT count(*) FROM t'), '20001', 'in a session that stays');
my $lost = time();
hide_key($file);
$scan->finish;
my $took = time() - $lost;
like($scan{err}, qr/ERROR:  KM001:/, 'a running scan ends with KM001');
note(sprintf('loss to the end of a running scan: %.2f s', $took));
cmp_ok($took, '<', 1 + 10 + 1, 'loss to KM001 within TTL + timeout + 1 s');
is(sqlstate($node, 'SELECT * FROM t'), 'KM001', 'KM001');
is($session->query('SELECT count(*) FROM t'), '', 'also in the session that stays');
my $found = time();
show_key($file);
wait_for_ok($node, 'SELECT count(*) FROM t');
$took = time() - $found;
note(sprintf('return to the first good row: %.2f s', $took));
is($session->query('SELECT count(*) FROM t'), '20001', 'without a reconnect');
$session->quit;

# ---------------------------------------------------------------------
# Many databases, few workers, and commands that want a database for themselves
# ---------------------------------------------------------------------

# CMEK_WATCH_DATABASES=200 takes some minutes
my $databases = $ENV{CMEK_WATCH_DATABASES} || 6;
sql("CREATE DATABASE d$_ TEMPLATE template0") for 1 .. $databases;
for (1 .. $databases)
{
	sql('CREATE EXTENSION cmek', "d$_");
	sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
		CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k')", "d$_");
}
hide_key($file);
my $hidden = time();
for (1 .. $databases)
{
	ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'k' AND class = 'denied'}, "d$_"), "database d$_ is watched");
}
note(sprintf('%d databases know it after %.1f s', $databases, time() - $hidden));
# visitors come and go all the time now
for my $i (1 .. 6)
{
	is(sqlstate($node, "ALTER DATABASE d$i RENAME TO e$i"), '', "rename d$i");
	is(sqlstate($node, "CREATE DATABASE f$i TEMPLATE e$i"), '', "clone e$i");
	is(sqlstate($node, "DROP DATABASE e$i"), '', "drop e$i");
}
show_key($file);
ok(until_true(q{SELECT count(*) = 1 FROM cmek.keys WHERE name = 'k' AND state = 'enabled'}, 'f1'), 'a clone is watched, too');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cmek visitor'") <= 1 ? 1 : 0, 1, 'one visitor at a time');

# A database without the extension is left alone, and one that gains it is not
sql('CREATE DATABASE plain');
sleep(2);
sql('CREATE EXTENSION cmek', 'plain');
ok(until_true('SELECT count(*) = 1 FROM cmek.key_events', 'plain'), 'CREATE EXTENSION later');

# A table is bound while a visitor, who has looked at all keys, writes down an
# event from before: the key is watched from then on, not after an hour
my $writer = $node->background_psql('plain');
$writer->query_safe('BEGIN; LOCK TABLE cmek.key_event IN ACCESS EXCLUSIVE MODE');
sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')", 'plain');
ok(until_true(q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'cmek.key_event'::regclass}, 'plain'), 'a visitor waits');
sql(q{CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k')}, 'plain');
$writer->query_safe('COMMIT');
$writer->quit;
ok(until_true(q{SELECT count(*) = 1 FROM cmek.key_watch WHERE server = 'k' AND class = 'ok'}, 'plain'), 'a key that is bound meanwhile is watched');

# ---------------------------------------------------------------------
# A start while every KMS is away: the server is up, others are served
# ---------------------------------------------------------------------

hide_key($file);
hide_key(service_key($node));
$node->restart;
is(sql('SELECT 1'), '1', 'the server is up');
is(sql('SELECT a FROM u'), '2', 'another key is served');
is(sqlstate($node, 'SELECT * FROM t'), 'KM001', 'this one is not');
show_key(service_key($node));
show_key($file);
wait_for_ok($node, 'SELECT count(*) FROM t');
pass('back without a person');

# ---------------------------------------------------------------------
# A hostile owner gains nothing from the visitor
# ---------------------------------------------------------------------

sql('CREATE ROLE mallory LOGIN; GRANT CREATE ON SCHEMA public TO mallory; CREATE DATABASE m OWNER mallory');
my $m = "SET SESSION AUTHORIZATION mallory;";
sql("$m CREATE EXTENSION cmek", 'm');
sql(qq{$m CREATE TABLE public.loot (who text, client int); GRANT ALL ON public.loot TO PUBLIC;
	CREATE SCHEMA evil;
	CREATE FUNCTION evil.take() RETURNS void LANGUAGE sql AS \$\$INSERT INTO public.loot VALUES (current_user, length(current_setting('application_name')))\$\$;
	CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS \$\$BEGIN PERFORM evil.take(); RETURN clock_timestamp(); END\$\$;
	CREATE FUNCTION evil.random() RETURNS float8 LANGUAGE plpgsql AS \$\$BEGIN PERFORM evil.take(); RETURN 1; END\$\$;
	CREATE FUNCTION evil.on_event() RETURNS event_trigger LANGUAGE plpgsql AS \$\$BEGIN PERFORM evil.take(); END\$\$;
	CREATE FUNCTION evil.same(text, text) RETURNS bool LANGUAGE plpgsql AS \$\$BEGIN PERFORM evil.take(); RETURN true; END\$\$;
	CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
	CREATE VIEW evil.bindings AS SELECT evil.random() AS relid;
	CREATE FUNCTION public.leak(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$BEGIN PERFORM evil.now(); RETURN \$1; END\$\$;
	ALTER DATABASE m SET search_path = evil, pg_catalog, public;
	ALTER DATABASE m SET default_transaction_read_only = on}, 'm');
# even by the hand of a superuser
sql('SET default_transaction_read_only = off; CREATE EVENT TRIGGER trap ON ddl_command_end EXECUTE FUNCTION evil.on_event(); CREATE EVENT TRIGGER trap2 ON sql_drop EXECUTE FUNCTION evil.on_event()', 'm');
is(sqlstate($node, "$m SET default_transaction_read_only = off; CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION evil.now()", 'm'), '42501', 'event triggers are for superusers');
is(sqlstate($node, "$m SET default_transaction_read_only = off; CREATE TRIGGER e AFTER INSERT ON cmek.key_event EXECUTE FUNCTION evil.now()", 'm'), '42501', 'no trigger on the tables of the visitor');
is(sqlstate($node, "$m SET default_transaction_read_only = off; CREATE TABLE cmek.x (a int)", 'm'), '42501', 'nothing of his in schema cmek');
sql("$m SET default_transaction_read_only = off; SET cmek.plaintext_indexes = on;
	CREATE TABLE public.bait (a int) USING cmek_heap; INSERT INTO public.bait VALUES (1); CREATE INDEX ON public.bait (public.leak(a))", 'm');
is(sql('SELECT count(*) > 0, bool_and(client > 0) FROM public.loot', 'm'), 't|t', 'his own sessions, which have a name, call what he made');
my $events = sql('SELECT count(*) FROM cmek.key_event', 'm');
sql("$m SET default_transaction_read_only = off; CREATE TABLE public.more (a int) USING cmek_heap; CALL cmek.rotate_table_key('public.bait')", 'm');
ok(until_true("SELECT count(*) > $events FROM cmek.key_event", 'm'), 'the visitor works there all the same');
is(sql(q{SELECT count(*) FROM public.loot WHERE client = 0}, 'm'), '0', 'and has called nothing of his');
is(sqlstate($node, "$m SET default_transaction_read_only = off; $_", 'm'), '42501', "nor may he: $_")
  for 'CREATE OR REPLACE VIEW cmek.bindings AS SELECT 1 AS relid', 'CREATE OR REPLACE FUNCTION cmek.suspend_key(name, bool) RETURNS void LANGUAGE sql AS $$SELECT$$',
  'ALTER TABLE cmek.key_watch OWNER TO mallory', 'CREATE RULE r AS ON INSERT TO cmek.key_event DO INSTEAD NOTHING',
  'CREATE POLICY p ON cmek.key_watch', 'CREATE INDEX ON cmek.key_watch (public.leak(1))', 'UPDATE cmek.key_watch SET denied_ms = 0',
  'DELETE FROM cmek.notification', 'SELECT * FROM cmek.audit_head';

# a renewal by a worker of ours: it seals pages anew, and calls no index function
my $old_dek = sql("SELECT min(id) FROM cmek.data_key WHERE relid = 'public.bait'::regclass AND kind = 'h'", 'm');
$node->append_conf('postgresql.conf', "cmek.data_key_max_age = '1s'\ncmek.auto_reseal = on\n");
$node->reload;
ok(eventually(sub { sql("$m SELECT a FROM public.bait", 'm'); sql("SELECT count(*) = 0 FROM cmek.data_key WHERE id = $old_dek", 'm') eq 't' }), 'a table of his is resealed by itself');
$node->append_conf('postgresql.conf', 'cmek.data_key_max_age = 0');
$node->reload;
is(sql(q{SELECT count(*) FROM public.loot WHERE client = 0}, 'm'), '0', 'and nothing of his was called');

# the owner of a database says who its sessions are and how they behave: not who the visitor is
sqlstate($node, "$m ALTER DATABASE m SET $_") for "role = 'mallory'", "cmek.kms_timeout = '1ms'", "transaction_timeout = '1ms'",
  "statement_timeout = '1ms'", "TimeZone = 'Asia/Kathmandu'", "DateStyle = 'SQL, DMY'", "client_encoding = 'SQL_ASCII'", 'default_transaction_isolation = serializable';
like(sql(q{SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = 'm')}), qr/role=mallory.*statement_timeout=1ms/, 'his settings');
$node->restart;
{
	local $ENV{PGOPTIONS} = '-c role=none -c statement_timeout=0' . (server_major() >= 17 ? ' -c transaction_timeout=0' : '');
	$events = sql('SELECT count(*) FROM cmek.key_event', 'm');
	is(sqlstate($node, "SET default_transaction_read_only = off; CREATE SERVER noted FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')", 'm'), '', 'something happens there');
	ok(until_true("SELECT count(*) > $events FROM cmek.key_event", 'm'), 'the visitor works there all the same');
	is(sql(q{SELECT count(*) FROM public.loot WHERE client = 0}, 'm'), '0', 'and has called nothing of his');
}

$node->stop;
done_testing();
