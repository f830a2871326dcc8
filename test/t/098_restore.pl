# Snapshots restored: every row equal, out-of-line values, dropped and added
# columns included, in this database and in another cluster, also after key
# switches; whatever is wrong with a file is an error and leaves nothing.

use strict;
use warnings;

use File::Copy;
use FindBin;
use JSON::PP;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('primary');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");
my $newer = new_key_file("$dir/n");

sub sql { return $node->safe_psql('postgres', $_[0]); }

my $snapshots = $node->data_dir . '.cmek/snapshots';

# A file of these bytes, which the server may read
sub write_file
{
	my ($name, $data) = @_;

	open(my $fh, '>:raw', $name) or BAIL_OUT("could not write $name: $!");
	print $fh $data;
	close($fh) or BAIL_OUT("could not write $name: $!");
	return;
}

# Everything that a table holds, as one line
sub content
{
	my ($n, $table) = @_;

	return $n->safe_psql('postgres', "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM $table t");
}

sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE SERVER n FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$newer');
	CREATE TABLE t (id int, gone text, small text, big text, more bytea) USING cmek_heap WITH (cmek.key = 'k');
	ALTER TABLE t ALTER more SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, 'gone', 'marker-' || i, CASE WHEN i % 3 = 0 THEN (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 200) j) END,
		CASE WHEN i % 5 = 0 THEN decode(repeat(md5(i::text), 300), 'hex') END FROM generate_series(1, 500) i;
	ALTER TABLE t DROP gone;
	ALTER TABLE t ADD late int DEFAULT 42;
	ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0);
	UPDATE t SET small = small || '!' WHERE id % 7 = 0;
	DELETE FROM t WHERE id % 11 = 0;
	CALL cmek.rotate_data_key('t');
	INSERT INTO t VALUES (1001, 'new generation', repeat('x', 10000), NULL, 1)");
my $before = content($node, 't');
is(sql("SELECT cmek.verify('t')"), '', 'the table is whole');

# ---------------------------------------------------------------------
# Taken by somebody, restored here
# ---------------------------------------------------------------------

my $id = sql("SELECT cmek.snapshot('t')");
like($id, qr/^[0-9a-f-]{36}$/, 'a snapshot');
ok(-s "$snapshots/$id.cmeksnap", 'is a file');
is(sprintf('%o', (stat("$snapshots/$id.cmeksnap"))[2] & 07777), '600', 'of nobody else');
my $bytes = slurp_binary("$snapshots/$id.cmeksnap");
unlike($bytes, qr/marker-/, 'that shows no value');
unlike($bytes, qr/positive/, 'and, with its backup key, no definition');

sql("UPDATE t SET small = 'later'");
is(sql("SELECT cmek.restore_snapshot('$id', 'r')"), '', 'restored, all of it');
is(content($node, 'r'), $before, 'every row is equal');
is(sql("SELECT cmek.verify('r')"), '', 'the new table is whole');
is(sqlstate($node, 'INSERT INTO r (id) VALUES (-1)'), '23514', 'its constraint is there');
is(sql('INSERT INTO r (id) VALUES (2000) RETURNING late'), '42', 'and its default');
is(sql("SELECT count(*) FROM cmek.data_key a JOIN cmek.data_key b USING (structure) WHERE a.relid = 't'::regclass AND b.relid = 'r'::regclass"), '0',
	'under data keys of its own');
is(sql("SELECT count(DISTINCT key) FROM cmek.tables WHERE \"table\" = 'r'::regclass AND key = 'cmek_service_key'"), '1', 'and the default key');
sql("SELECT cmek.restore_snapshot('$id', 'r2', 'n')");
is(sql("SELECT key FROM cmek.tables WHERE \"table\" = 'r2'::regclass"), 'n', 'or the one asked for');
is(content($node, 'r2'), $before, 'with the same rows');

# two snapshots, two backup keys, each wrapped by the KMS key
sub backup_key
{
	my ($snapshot) = @_;
	my $data = slurp_binary("$snapshots/$snapshot.cmeksnap");

	return decode_json(substr($data, 40, unpack('V', substr($data, 28, 4))))->{backup_key};
}
my $again = sql("SELECT cmek.snapshot('t')");
is(backup_key($_)->{server}, 'k', 'a backup key is wrapped by the table\'s KMS key') for ($id, $again);
isnt(backup_key($id)->{blob}, backup_key($again)->{blob}, 'each full backup has its own');
isnt(backup_key($id)->{id}, backup_key($again)->{id}, 'by another id');
my $second = sql("SELECT cmek.snapshot('r2')");
is(backup_key($second)->{server}, 'n', 'of another KMS key when the table is under that');
sql("SELECT cmek.restore_snapshot('$second', 'r3')");
is(content($node, 'r3'), $before, 'a snapshot of a restored table');

# ---------------------------------------------------------------------
# Wrong names, wrong people, keys that are away
# ---------------------------------------------------------------------

is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'r')"), '42P07', 'a name that is taken');
is(sqlstate($node, "SELECT cmek.restore_snapshot('00000000-0000-4000-8000-000000000000', 'x')"), '42704', 'no such snapshot');
sql('CREATE ROLE alice; GRANT CREATE ON SCHEMA public TO alice');
is(sqlstate($node, "SET ROLE alice; SELECT cmek.restore_snapshot('$id', 'x')"), '42501', 'not hers');
is(sqlstate($node, "SET ROLE alice; SELECT cmek.snapshot('t')"), '42501', 'nor to be taken');
is(sqlstate($node, "SET ROLE alice; SELECT cmek.restore_snapshot('$snapshots/$id.cmeksnap', 'x')"), '42501', 'nor by its path');
is(sqlstate($node, "SET ROLE alice; SELECT cmek.restore_snapshot('$id', 'x', NULL, true)"), '42501', 'force is for superusers');
hide_key($file);
$node->poll_query_until('postgres', q{SELECT state = 'inaccessible' FROM cmek.keys WHERE name = 'k'});
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'x')"), 'KM001', 'the key is away');
is(sqlstate($node, "SELECT cmek.snapshot('t')"), 'KM001', 'also for a snapshot on demand');
show_key($file);
wait_for_ok($node, 'SELECT count(*) FROM t');
is(sql("SELECT count(*) FROM pg_class WHERE relname = 'x' OR relname LIKE 'cmek_restored%'"), '0', 'nothing is left of all that');

# ---------------------------------------------------------------------
# Damage: each byte of a small file
# ---------------------------------------------------------------------

sql("CREATE TABLE tiny (a int, b text) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO tiny VALUES (1, 'one')");
my $tiny = sql("SELECT cmek.snapshot('tiny')");
my $path = "$snapshots/$tiny.cmeksnap";
my $good = slurp_binary($path);
my @bad;
my @calls;
my $step = length($good) > 4000 ? 7 : 1;
for (my $at = 0; $at < length($good); $at += $step)
{
	my $damaged = $good;
	substr($damaged, $at, 1) = chr(ord(substr($damaged, $at, 1)) ^ (1 << ($at % 8)));
	write_file("$snapshots/d$at.cmeksnap", $damaged);
	push @calls, $at;
}
sql(q{CREATE FUNCTION try(name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM cmek.restore_snapshot(name, 'damaged'); RETURN 'restored'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$});
my %states = map { split(/\|/) } split(/\n/, sql('SELECT a, try(\'d\' || a || \'.cmeksnap\') FROM unnest(ARRAY[' . join(',', @calls) . ']) a'));
my %count;
$count{$_}++ for values %states;
note(join(', ', map { "$_: $count{$_}" } sort keys %count));
is($count{restored} // 0, 0, scalar(@calls) . ' flipped bytes, none restored');
is(join(' ', grep { !/^(XX001|0A000|KM001|42704|XX000)$/ || $_ eq 'XX000' } keys %count), '', 'clear errors, each of them');
is(sql("SELECT count(*) FROM pg_class WHERE relname = 'damaged'"), '0', 'nothing half-restored');

for my $length (0, 10, 100, int(length($good) / 2), length($good) - 1)
{
	write_file("$snapshots/cut.cmeksnap", substr($good, 0, $length));
	is(sqlstate($node, "SELECT cmek.restore_snapshot('cut.cmeksnap', 'damaged')"), 'XX001', "cut to $length bytes");
}
write_file("$snapshots/long.cmeksnap", $good . 'x');
is(sqlstate($node, "SELECT cmek.restore_snapshot('long.cmeksnap', 'damaged')"), 'XX001', 'a byte too many');
is(sqlstate($node, "SELECT cmek.restore_snapshot('../../PG_VERSION', 'damaged')"), '42602', 'a name that leads out');

# ---------------------------------------------------------------------
# After a switch the newest key is enough; in another cluster, too
# ---------------------------------------------------------------------

sql("ALTER TABLE t SET (cmek.key = 'n')");
hide_key($file);
$node->poll_query_until('postgres', q{SELECT state = 'inaccessible' FROM cmek.keys WHERE name = 'k'});
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'gone')"), 'KM001', 'a backup key of the old KMS key needs that');
my $switched = sql("SELECT cmek.snapshot('t')");
is(sql("SELECT cmek.restore_snapshot('$switched', 'after')"), '', 'one of after the switch does not');
is(content($node, 'after'), content($node, 't'), 'and has every row');

my $other = cmek_node('other');
copy("$snapshots/$switched.cmeksnap", "$dir/s.cmeksnap") or BAIL_OUT("copy: $!");
is(sqlstate($other, "SELECT cmek.restore_snapshot('$dir/s.cmeksnap', 'there')"), '42704', 'another cluster has to know the KMS key');
$other->safe_psql('postgres', "CREATE SERVER n FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$newer')");
is($other->safe_psql('postgres', "SELECT cmek.restore_snapshot('$dir/s.cmeksnap', 'there')"), '', 'then it restores it');
is(content($other, 'there'), content($node, 't'), 'with every row');
is($other->safe_psql('postgres', "SELECT cmek.verify('there')"), '', 'whole');

$node->stop;
$other->stop;
done_testing();
