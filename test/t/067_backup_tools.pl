# Tools that copy, check and show files: pg_basebackup in its forms,
# pg_verifybackup, pg_combinebackup, pg_checksums, pg_waldump, pg_amcheck,
# pageinspect, pg_visibility, pgstattuple.  They work, without a key, and see no row.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $major = server_major();
my $dir = PostgreSQL::Test::Utils::tempdir();
my $sealed = 'tools-sealed-91c7';
my $plain = 'tools-plain-91c7';
my $node = cmek_node('tools', streaming => 1, extra => ['--data-checksums'],
	config => [ 'autovacuum = off', $major >= 17 ? 'summarize_wal = on' : () ]);
my $key = service_key($node);

$node->safe_psql('postgres', "CREATE TABLE plain (id int, t text); CREATE TABLE sealed (id int, t text) USING cmek_heap;
	INSERT INTO plain SELECT i, " . with_marker($plain) . " || repeat(md5(i::text), i) FROM generate_series(1, 200) i;
	INSERT INTO sealed SELECT i, " . with_marker($sealed) . " || repeat(md5(i::text), i) FROM generate_series(1, 200) i;
	CREATE TABLE twin AS TABLE plain;
	CREATE EXTENSION amcheck; CREATE EXTENSION pageinspect; CREATE EXTENSION pg_visibility; CREATE EXTENSION pgstattuple;
	CHECKPOINT");
my $query = 'SELECT count(*), sum(hashtext(t)) FROM sealed';
my $rows = $node->safe_psql('postgres', $query);

my $copies = 0;

# A data directory as a server that reads with the service key of $node
sub reads
{
	my ($data, $expected, $name) = @_;
	my $copy = PostgreSQL::Test::Cluster->new("copy" . ++$copies);

	rmdir($copy->data_dir);
	mkdir($copy->basedir);
	rename($data, $copy->data_dir) or BAIL_OUT("could not rename $data: $!");
	$copy->append_conf('postgresql.conf', "port = " . $copy->port . "\nlisten_addresses = ''\nunix_socket_directories = '"
		. $copy->host . "'\ncmek.service_key_file = '$key'\n");
	$copy->start;
	is($copy->safe_psql('postgres', $query), $expected, "$name: the same rows");
	is($copy->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('sealed')"), '0', "$name: verify");
	$copy->stop('fast');
	return $copy;
}

# ---------------------------------------------------------------------
# Backups
# ---------------------------------------------------------------------

# no backup needs a key
hide_key($key);
my @base = ('pg_basebackup', '--no-sync', '-c', 'fast', '-d', $node->connstr('postgres'));
command_ok([ @base, '-D', "$dir/plain" ], 'pg_basebackup');
command_ok([ 'pg_verifybackup', "$dir/plain" ], 'pg_verifybackup');
ok(-s "$dir/plain/cmek_service_key.fingerprint", 'the fingerprint is in the backup');
is_deeply([ files_with("$dir/plain", $sealed) ], [], 'no sealed row is in it in clear');
isnt(join(' ', files_with("$dir/plain", $plain)), '', 'control: a plain one is');

command_ok([ @base, '-D', "$dir/tar", '-Ft', '-Z', 'none' ], 'pg_basebackup -Ft');
is_deeply([ files_with("$dir/tar", $sealed) ], [], 'no sealed row is in the archive');
isnt(join(' ', files_with("$dir/tar", $plain)), '', 'control: a plain one is');
SKIP:
{
	skip 'pg_verifybackup reads no tar files before 18', 1 if $major < 18;
	command_ok([ 'pg_verifybackup', '--no-parse-wal', "$dir/tar" ], 'pg_verifybackup of tar files');
}
mkdir("$dir/untar", 0700);
command_ok([ 'tar', '-xf', "$dir/tar/base.tar", '-C', "$dir/untar" ], 'tar -x');
command_ok([ 'tar', '-xf', "$dir/tar/pg_wal.tar", '-C', "$dir/untar/pg_wal" ], 'its WAL');
copy("$dir/tar/backup_manifest", "$dir/untar/backup_manifest");
command_ok([ 'pg_verifybackup', "$dir/untar" ], 'pg_verifybackup of what was in them');

my $some = $node->safe_psql('postgres', "SELECT pg_relation_filepath('sealed')");
my $bytes = slurp_binary("$dir/plain/$some");
spew_binary("$dir/plain/$some", substr($bytes, 0, 8000) . chr(ord(substr($bytes, 8000, 1)) ^ 1) . substr($bytes, 8001));
command_fails([ 'pg_verifybackup', "$dir/plain" ], 'control: pg_verifybackup sees a changed byte');
spew_binary("$dir/plain/$some", $bytes);
show_key($key);

SKIP:
{
	skip 'incremental backups came with 17', 9 if $major < 17;
	ok(wait_for_ok($node, $query), 'the key is back');
	$node->safe_psql('postgres', q{UPDATE sealed SET t = t || 'i' WHERE id < 50; UPDATE plain SET t = t || 'i' WHERE id < 50; CHECKPOINT});
	hide_key($key);
	command_ok([ @base, '-D', "$dir/incremental", '-i', "$dir/plain/backup_manifest" ], 'an incremental backup');
	command_ok([ 'pg_verifybackup', "$dir/incremental" ], 'pg_verifybackup of it');
	command_ok([ 'pg_combinebackup', '--no-sync', "$dir/plain", "$dir/incremental", '-o', "$dir/combined" ], 'pg_combinebackup');
	command_ok([ 'pg_verifybackup', "$dir/combined" ], 'pg_verifybackup of the result');
	is_deeply([ files_with("$dir/combined", $sealed) ], [], 'no sealed row in clear');
	show_key($key);
	ok(wait_for_ok($node, $query), 'the key is back');
	reads("$dir/combined", $node->safe_psql('postgres', $query), 'combined');
}
reads("$dir/plain", $rows, 'plain');
my $copy = reads("$dir/untar", $rows, 'tar');

# ---------------------------------------------------------------------
# pg_checksums, on the stopped copy
# ---------------------------------------------------------------------

my @files = ('-D', $copy->data_dir);
command_ok([ 'pg_checksums', '--check', @files ], 'pg_checksums --check');
command_ok([ 'pg_checksums', '--disable', '--no-sync', @files ], 'pg_checksums --disable');
command_ok([ 'pg_checksums', '--enable', '--no-sync', @files ], 'pg_checksums --enable');
command_ok([ 'pg_checksums', '--check', @files ], 'and all are right');
$copy->start;
is($copy->safe_psql('postgres', $query), $rows, 'the same rows');
my $file = $copy->data_dir . '/' . $copy->safe_psql('postgres', "SELECT pg_relation_filepath('sealed')");
$copy->stop;
$bytes = slurp_binary($file);
spew_binary($file, substr($bytes, 0, 8000) . chr(ord(substr($bytes, 8000, 1)) ^ 1) . substr($bytes, 8001));
command_fails([ 'pg_checksums', '--check', @files ], 'control: a changed byte is seen');

# ---------------------------------------------------------------------
# pg_waldump
# ---------------------------------------------------------------------

ok(wait_for_ok($node, $query), 'the key is there');
my $start = $node->safe_psql('postgres', 'SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_current_wal_insert_lsn()') =~ s/.*\n//r;
$node->safe_psql('postgres', 'INSERT INTO plain VALUES (0, ' . with_marker($plain) . '); INSERT INTO sealed VALUES (0, ' . with_marker($sealed)
	. '); UPDATE sealed SET t = t WHERE id = 0; DELETE FROM sealed WHERE id = 0');
$node->safe_psql('postgres', "CALL cmek.rotate_data_key('sealed')");
$node->safe_psql('postgres', "CALL cmek.reseal('sealed')");
my $end = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
my $rel = $node->safe_psql('postgres', "SELECT pg_relation_filenode('sealed')");
my @waldump = ('pg_waldump', '-p', $node->data_dir . '/pg_wal', '-s', $start, '-e', $end);
my ($text, $err) = run_command([@waldump]);
is($err, '', 'pg_waldump has nothing to complain of');
like($text, qr/Heap .* INSERT.*rel \d+\/\d+\/$rel /, 'it shows an insert');
like($text, qr/Heap .* (?:HOT_)?UPDATE.*rel \d+\/\d+\/$rel /, 'an update');
like($text, qr/Heap .* DELETE.*rel \d+\/\d+\/$rel /, 'a delete');
like($text, qr/rmgr: Generic .*rel \d+\/\d+\/$rel /, 'and resealing, as generic WAL');
unlike($text, qr/\Q$sealed/, 'and no value');
my $wal = join('', map { slurp_binary($_) } glob($node->data_dir . '/pg_wal/0*'));
is(index($wal, $sealed), -1, 'WAL holds no sealed row in clear');
isnt(index($wal, $plain), -1, 'control: a plain one it does');
SKIP:
{
	skip 'pg_waldump --save-fullpage came with 16', 3 if $major < 16;
	command_ok([ @waldump, '--save-fullpage', "$dir/pages" ], 'pg_waldump --save-fullpage');
	isnt(join(' ', glob("$dir/pages/*")), '', 'writes pages');
	is_deeply([ files_with("$dir/pages", $sealed) ], [], 'sealed ones');
}

# ---------------------------------------------------------------------
# Contrib that looks at pages
# ---------------------------------------------------------------------

# amcheck asks for the access method heap, by name
$node->safe_psql('postgres', "SET cmek.plaintext_indexes = on; CREATE UNIQUE INDEX sealed_id ON sealed (id)");
$node->command_like([ 'pg_amcheck', '--heapallindexed', 'postgres' ], qr/^$/, 'pg_amcheck skips sealed tables, checks their indexes, finds nothing');
$node->command_fails_like([ 'pg_amcheck', '-t', 'sealed', '--no-dependent-indexes', 'postgres' ], qr/no heap tables to check matching "sealed"/, 'and says so when told to check one');
like(error_text($node, "SELECT * FROM verify_heapam('sealed')"), qr/ERROR:  0A000: only heap AM is supported/, 'verify_heapam refuses a sealed table');
is($node->safe_psql('postgres', "SELECT count(*) FROM verify_heapam('plain')"), '0', 'and takes a plain one');
is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('sealed')"), '0', 'cmek.verify is what checks a sealed one');
is($node->safe_psql('postgres', "SELECT bt_index_check(indexrelid, heapallindexed => true) FROM pg_index WHERE indexrelid = 'cmek.data_key_pkey'::regclass"), '', 'amcheck of our own indexes');

hide_key($key);
ok(wait_for_error($node, 'KM001', $query), 'the key is away');
is($node->safe_psql('postgres', "SELECT bool_and(t_infomask2 & 2047 = 0 AND t_hoff = 24 AND t_bits IS NULL)
	FROM heap_page_items(get_raw_page('sealed', 0)) WHERE lp_len > 0"), 't', 'pageinspect: rows without attributes');
is($node->safe_psql('postgres', "SELECT count(*) FROM heap_page_items(get_raw_page('sealed', 0)) WHERE strpos(encode(t_data, 'escape'), " . with_marker($sealed) . ') > 0'),
	'0', 'none of them in clear');
is($node->safe_psql('postgres', "SELECT count(*) > 0 FROM heap_page_items(get_raw_page('plain', 0)) WHERE strpos(encode(t_data, 'escape'), " . with_marker($plain) . ') > 0'),
	't', 'control: plain rows are');
like(error_text($node, "SELECT * FROM heap_page_item_attrs(get_raw_page('sealed', 0), 'sealed')"), qr/ERROR:  0A000: only heap AM is supported/, 'heap_page_item_attrs takes heap only');
is(sqlstate($node, "VACUUM (FREEZE) sealed"), '', 'VACUUM needs no key');
is($node->safe_psql('postgres', "SELECT all_visible > 0 AND all_frozen > 0 FROM pg_visibility_map_summary('sealed')"), 't', 'pg_visibility: it froze');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_check_frozen('sealed')") . $node->safe_psql('postgres', "SELECT count(*) FROM pg_check_visible('sealed')"),
	'00', 'and the map is right');
is(sqlstate($node, "SELECT pg_truncate_visibility_map('sealed')"), '', 'pg_truncate_visibility_map');
like(error_text($node, "SELECT * FROM pgstattuple('sealed')"), qr/ERROR:  0A000: only heap AM is supported/, 'pgstattuple takes heap only');
like(error_text($node, "SELECT * FROM pgstattuple_approx('sealed')"), qr/ERROR:  0A000: only heap AM is supported/, 'as does pgstattuple_approx');
show_key($key);

$node->stop;
done_testing();
