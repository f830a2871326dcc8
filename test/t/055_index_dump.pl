# Sealed indexes and constraints in pg_dump and pg_restore: plain and custom,
# with keys from labels alone, with operator classes of an extension, by an
# owner, and through pg_upgrade.

use strict;
use warnings;

use File::Copy;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('indexdump', config => ['autovacuum = off']);
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', q{
	CREATE EXTENSION citext;
	CREATE TABLE t (id int PRIMARY KEY, a text, b varchar(20) COLLATE "C", c citext, n int,
		CONSTRAINT t_a UNIQUE (a) DEFERRABLE INITIALLY DEFERRED,
		CONSTRAINT t_b UNIQUE NULLS NOT DISTINCT (b) INCLUDE (n) WITH (fillfactor = 70, hide_tids = off),
		CONSTRAINT t_x EXCLUDE USING btree (n WITH =) WHERE (n > 0)) USING cmek_heap;
	CREATE INDEX t_c ON t (c);
	CREATE UNIQUE INDEX t_e ON t (lower(a) text_pattern_ops DESC NULLS LAST, b) WITH (hide_tids = off) WHERE n > 5;
	ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey;
	ALTER TABLE t CLUSTER ON t_c;
	COMMENT ON INDEX t_e IS 'a comment';
	INSERT INTO t SELECT i, 'a' || i, 'b' || i, 'C' || i, i FROM generate_series(1, 200) i;
	CREATE TABLE f (id int PRIMARY KEY REFERENCES t, self int REFERENCES f) USING cmek_heap;
	INSERT INTO f SELECT i, 1 FROM generate_series(1, 20) i;
	CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k) USING cmek_heap WITH (cmek.key = 'cmek_service_key');
	CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
	CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY RANGE (id);
	CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (0) TO (1000);
	CREATE INDEX p_id ON p (id);
	INSERT INTO p SELECT i, 1 + i % 2 FROM generate_series(1, 100) i;
	CREATE MATERIALIZED VIEW m USING cmek_heap AS SELECT id, a FROM t;
	CREATE UNIQUE INDEX m_id ON m (id);
	CREATE TABLE plain (id int PRIMARY KEY, a text);
	CREATE INDEX plain_a ON plain (a)});
# a rebuild with an operator class of somebody else's leaves nothing behind
$node->safe_psql('postgres', 'ALTER TABLE t ALTER c TYPE citext COLLATE "C"; ALTER TABLE t ALTER c TYPE text; ALTER TABLE t ALTER c TYPE citext');

is($node->safe_psql('postgres', q{SELECT pg_get_indexdef('t_c'::regclass)}), 'CREATE INDEX t_c ON public.t USING cmek_btree (c)', 'nor another operator class');

# nor does a table of a type whose attribute changes
$node->safe_psql('postgres', q{CREATE TYPE typed AS (id int, c text);
	CREATE TABLE ty OF typed USING cmek_heap; CREATE INDEX ty_c ON ty (c);
	INSERT INTO ty SELECT i, 'C' || i FROM generate_series(1, 50) i;
	ALTER TYPE typed ALTER ATTRIBUTE c TYPE citext CASCADE});
is($node->safe_psql('postgres', q{SELECT pg_get_indexdef('ty_c'::regclass)}), 'CREATE INDEX ty_c ON public.ty USING cmek_btree (c)', 'in a typed table');
is($node->safe_psql('postgres', q{SET enable_seqscan = off; SELECT id FROM ty WHERE c = 'c17'}), '17', 'which finds rows as citext does');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_opclass WHERE opcname = 'citext_ops' AND opcmethod NOT IN (403, 405)}), '0',
	'no operator class stays behind');
$node->safe_psql('postgres', 'DROP TABLE ty; DROP TYPE typed');

my $indexes = q{SELECT t.relname, c.relname, c.relkind, a.amname, c.reloptions, i.indisclustered, i.indisreplident, i.indisvalid,
		pg_get_indexdef(c.oid), pg_get_constraintdef(o.oid), obj_description(c.oid, 'pg_class'),
		(SELECT count(*) FROM pg_opclass x WHERE x.oid = ANY (i.indclass) AND x.opcmethod <> 403),
		(SELECT inhparent::regclass FROM pg_inherits h WHERE h.inhrelid = c.oid)
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_am a ON a.oid = c.relam
	LEFT JOIN pg_constraint o ON o.conindid = c.oid AND o.contype IN ('p', 'u', 'x')
	WHERE t.relnamespace = 'public'::regnamespace ORDER BY 1, 2};
my $rows = q{SET enable_seqscan = off; SELECT count(*), sum(id), (SELECT id FROM t WHERE a = 'a42'), (SELECT id FROM t WHERE c = 'c17'),
		(SELECT count(*) FROM p WHERE id BETWEEN 10 AND 20), (SELECT count(*) FROM m WHERE id > 150), (SELECT count(*) FROM f) FROM t};
my $want = $node->safe_psql('postgres', $indexes);
my $want_rows = $node->safe_psql('postgres', $rows);
like($want, qr/^t\|t_pkey\|i\|cmek_btree\|/m, 'a primary key is sealed');
like($want, qr/^p\|p_pkey\|I\|btree\|/m, 'a partitioned one is a recipe');
like($want, qr/^plain\|plain_pkey\|i\|btree\|/m, 'one of a plain table is not');
is(() = $want =~ /\|cmek_btree\|/g, 12, 'all that should be are');

# what a dump says
my $host = $node->connstr('postgres');
my ($text, $err) = run_command([ 'pg_dump', '-d', $host ]);
is($err, '', 'pg_dump has nothing to complain of');
unlike($text, qr/OPERATOR (CLASS|FAMILY)/, 'no operator class of ours is in a dump');
like($text, qr/CREATE UNIQUE INDEX t_e ON public\.t USING cmek_btree/, 'the method is');

# every way back
sub restored
{
	my ($db, $what) = @_;

	is($node->safe_psql($db, $indexes), $want, "$what: the same indexes");
	is($node->safe_psql($db, $rows), $want_rows, "$what: which find the same rows");
	is(sqlstate($node, q{INSERT INTO t VALUES (1)}, $db), '23505', "$what: unique");
	is(sqlstate($node, q{INSERT INTO f VALUES (9999)}, $db), '23503', "$what: foreign key");
	is($node->safe_psql($db, q{SELECT count(*) FROM cmek.exposures WHERE kind = 'index'}), '0', "$what: nothing in clear");
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE plain_text');
open(my $fh, '>', "$dir/dump.sql") or die $!;
print $fh $text;
close($fh);
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain_text'), '-f', "$dir/dump.sql" ], 'psql');
restored('plain_text', 'plain text');

$node->command_ok([ 'pg_dump', '-Fc', '-d', $host, '-f', "$dir/dump" ], 'pg_dump -Fc');
for my $jobs (1, 3)
{
	$node->safe_psql('postgres', "CREATE DATABASE custom$jobs");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', $jobs, '-d', $node->connstr("custom$jobs"), "$dir/dump" ], "pg_restore -j $jobs");
	restored("custom$jobs", "pg_restore -j $jobs");
}

# no default key: labels bind the tables
$node->safe_psql('postgres', 'CREATE DATABASE labels');
$node->safe_psql('postgres', q{ALTER DATABASE labels SET cmek.default_key = 'none'});
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('labels'), "$dir/dump" ], 'pg_restore without a default key');
restored('labels', 'labels');

# somebody who is no superuser
$node->safe_psql('postgres', q{CREATE ROLE owner LOGIN; CREATE DATABASE owned OWNER owner});
$node->safe_psql('owned', 'CREATE EXTENSION cmek; CREATE EXTENSION citext; GRANT ALL ON SCHEMA public TO owner');
$node->command_ok([ 'pg_restore', '--no-owner', '--no-comments', '-U', 'owner', '-L', "$dir/list", '-d', $node->connstr('owned'), "$dir/dump" ],
	'pg_restore by an owner') if restore_list("$dir/dump", "$dir/list");
restored_by_owner();

sub restore_list
{
	my ($dump, $list) = @_;
	my ($lines) = run_command([ 'pg_restore', '-l', $dump ]);

	open(my $out, '>', $list) or die $!;
	print $out join("\n", grep { !/EXTENSION|COMMENT/ } split(/\n/, $lines)), "\n";
	close($out);
	return 1;
}

sub restored_by_owner
{
	my $other = $node->safe_psql('owned', $indexes);

	$want =~ s/\|a comment\|/||/;
	is($other, $want, 'an owner gets the same indexes');
	return;
}

# pg_upgrade: the files of the indexes stay, no hook makes a key
$want = $node->safe_psql('postgres', $indexes);
$node->safe_psql('postgres', "DROP DATABASE $_") for qw(plain_text custom1 custom3 owned);
my $keys = $node->safe_psql('postgres', 'SELECT count(*), min(id::text) FROM cmek.table_key');
my $upgraded = PostgreSQL::Test::Cluster->new('indexupgraded');
$upgraded->init(extra => server_major() >= 18 ? ['--no-data-checksums'] : []);
cmek_config($upgraded, "cmek.service_key_file = '" . service_key($node) . "'");
$node->stop;
copy($node->data_dir . '/cmek_service_key.fingerprint', $upgraded->data_dir . '/cmek_service_key.fingerprint') or die $!;
my ($bin) = run_command([ 'pg_config', '--bindir' ]);
chdir($dir);
$node->command_ok([ 'pg_upgrade', '-d', $node->data_dir, '-D', $upgraded->data_dir, '-b', $bin, '-B', $bin,
		'-s', $node->host, '-p', $node->port, '-P', $upgraded->port ], 'pg_upgrade');
$upgraded->start;
is($upgraded->safe_psql('postgres', 'SELECT count(*), min(id::text) FROM cmek.table_key'), $keys, 'the keys are the old ones');
$node = $upgraded;
for my $db (qw(postgres labels))
{
	restored($db, "upgraded $db");
	is($node->safe_psql($db, 'REINDEX TABLE t; ' . $rows), $want_rows, 'after a REINDEX');
}
$node->stop;
done_testing();
