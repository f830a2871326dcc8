# Point-in-time recovery to before and to after a key switch, out of an archive
# and out of what pg_receivewal wrote; neither holds a row in clear.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
my %file = map { $_ => new_key_file("$dir/$_.key") } qw(a b);
my $sealed = 'pitr-sealed-5c0b9a21';
my $plain = 'pitr-plain-5c0b9a21';

my $node = cmek_node('pitr', streaming => 1, config => ['autovacuum = off']);
$node->enable_archiving;
$node->restart;
$node->safe_psql('postgres', qq{
	CREATE SERVER a FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{a}');
	CREATE TABLE t (id int, t text) USING cmek_heap WITH (cmek.key = 'a');
	CREATE TABLE own (id int, t text) USING cmek_heap});
$node->backup('base');

# pg_receivewal beside the archive
my $received = "$dir/received";
mkdir($received);
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('receivewal', true)");
my $receiver = IPC::Run::start(
	[ 'pg_receivewal', '--no-sync', '-d', $node->connstr('postgres'), '-D', $received, '-S', 'receivewal' ],
	'>', \my $receiver_out, '2>', \my $receiver_err);
$node->poll_query_until('postgres', q{SELECT active FROM pg_replication_slots}) or BAIL_OUT('pg_receivewal does not run');

$node->safe_psql('postgres', 'INSERT INTO t SELECT i, ' . with_marker($sealed) . " || repeat(md5(i::text), i) FROM generate_series(1, 100) i;
	INSERT INTO own TABLE t;
	CREATE TABLE plain AS SELECT " . with_marker($plain) . " AS t;
	SELECT pg_create_restore_point('before')");
# the server of the new key comes after the backup and after 'before'
$node->safe_psql('postgres', "CREATE SERVER b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{b}')");
$node->safe_psql('postgres', "CALL cmek.switch_key('a', 'b')");
my $export = $node->safe_psql('postgres', 'SELECT cmek.export_keys()');
$node->safe_psql('postgres', q{SELECT pg_create_restore_point('switched');
	UPDATE t SET t = t || 'after';
	SELECT pg_create_restore_point('after');
	DELETE FROM t; SELECT pg_switch_wal()});
# all up to here; by position, for the keeper writes events when it likes
my $upto = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$node->safe_psql('postgres', 'INSERT INTO own VALUES (0); SELECT pg_switch_wal()');
$node->poll_query_until('postgres', "SELECT last_archived_wal >= pg_walfile_name('$upto') FROM pg_stat_archiver") or BAIL_OUT('nothing is archived');
$node->poll_query_until('postgres', "SELECT restart_lsn >= '$upto' FROM pg_replication_slots") or BAIL_OUT('nothing is received');
$receiver->signal('INT');
$receiver->finish;
# it may have begun the next segment
$receiver_err =~ s/^pg_receivewal: not renaming "\w+\.partial", segment is not complete\n//m;
is($receiver_err, '', 'pg_receivewal has nothing to complain of');
my $key = service_key($node);
$node->stop;

isnt(join(' ', files_with($node->archive_dir, $plain)), '', 'control: a plain row is found in the archive');
isnt(join(' ', files_with($received, $plain)), '', 'control: and in what pg_receivewal wrote');
is_deeply([ files_with($node->archive_dir, $sealed) ], [], 'a sealed row is not in the archive');
is_deeply([ files_with($received, $sealed) ], [], 'nor in what pg_receivewal wrote');

# Recover to a restore point; the segments come from a directory
my $number = 0;
sub recover
{
	my ($target, $from) = @_;
	my $to = PostgreSQL::Test::Cluster->new('to' . ++$number);

	$to->init_from_backup($node, 'base');
	$to->append_conf('postgresql.conf', "archive_mode = off\ncmek.service_key_file = '$key'\n"
		. "restore_command = 'cp $from/%f %p'\nrecovery_target_name = '$target'\nrecovery_target_action = promote\n");
	$to->append_conf('recovery.signal', '');
	$to->start;
	$to->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or BAIL_OUT("no recovery to $target");
	return $to;
}

my $all = 'SELECT count(*), count(*) FILTER (WHERE t = ' . with_marker($sealed) . q{ || repeat(md5(id::text), id)), count(*) FILTER (WHERE t LIKE '%after') FROM t};

# after, with the new key alone
hide_key($file{a});
my $to = recover('after', $node->archive_dir);
is($to->safe_psql('postgres', $all), '100|0|100', 'to after the switch: the new key suffices');
is($to->safe_psql('postgres', 'SELECT count(*) FROM own'), '100', 'a table of the service key');
is($to->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('t')"), '0', 'verify');
is($to->safe_psql('postgres', 'SELECT DISTINCT key FROM cmek.tables WHERE "table" = $$t$$::regclass'), 'b', 'bound to the new key');
$to->stop;

# right after it, from pg_receivewal's directory: rows from before under the new key
$to = recover('switched', $received);
is($to->safe_psql('postgres', $all), '100|100|0', 'from what pg_receivewal wrote');
$to->stop;

# before, with the old key
show_key($file{a});
hide_key($file{b});
$to = recover('before', $received);
is($to->safe_psql('postgres', $all), '100|100|0', 'to before the switch: the old key');
is($to->safe_psql('postgres', 'SELECT key FROM cmek.tables WHERE "table" = $$t$$::regclass'), 'a', 'bound to the old key');
$to->stop;

# before, with the new key and the exported keys
hide_key($file{a});
show_key($file{b});
$to = recover('before', $node->archive_dir);
fails_with($to, 'KM001', 'SELECT count(*) FROM t', 'to before without the old key: KM001');
is($to->safe_psql('postgres', 'SELECT count(*) FROM own'), '100', 'others do not care');
$to->safe_psql('postgres', "CREATE SERVER b FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file{b}')");
is($to->safe_psql('postgres', "SELECT cmek.import_keys('$export')"), '1', 'exported keys come in');
is($to->safe_psql('postgres', $all), '100|100|0', 'and the new key opens it');
is($to->safe_psql('postgres', q{UPDATE t SET t = t || 'after' WHERE id = 1; SELECT count(*) FROM t WHERE t LIKE '%after'}), '1', 'it goes on from there');
$to->stop;

done_testing();
