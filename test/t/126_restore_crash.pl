# A restore and a snapshot on demand that fail, are killed or cancelled at every
# step: nothing of them is left that anybody could meet, the snapshot and the
# table are as they were, and the next attempt works.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $node = cmek_node('primary', config => [ 'restart_after_crash = on', 'autovacuum = off', 'fsync = off' ]);
my $snapshots = $node->data_dir . '.cmek/snapshots';

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Relations, keys, records, progress: what a failed attempt could leave
sub traces
{
	return sql(q{SELECT (SELECT count(*) FROM pg_class WHERE relpersistence <> 't'), (SELECT count(*) FROM cmek.table_key), (SELECT count(*) FROM cmek.data_key),
		(SELECT count(*) FROM cmek.snapshot_record), (SELECT count(*) FROM cmek.snapshot_progress), (SELECT count(*) FROM pg_seclabel)});
}

sub content { return sql("SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $_[0] t"); }
sub whole_files { return join(' ', sort map { s{.*/}{}r } glob("$snapshots/*.cmeksnap")); }

sql(q{CREATE TABLE t (id int PRIMARY KEY, v text, big text) USING cmek_heap; ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
	INSERT INTO t SELECT i, 'v' || i, CASE WHEN i % 5 = 0 THEN repeat(md5(i::text), 200) END FROM generate_series(1, 100) i;
	CREATE INDEX ON t (v)});
my $content = content('t');
my $id = sql("SELECT cmek.snapshot('t')");
my $before = traces();
my $file = slurp_binary("$snapshots/$id.cmeksnap");
my %steps = ('restore' => [ "SELECT cmek.restore_snapshot('$id', 'r')", qw(restore-verified restore-created restore-filled restore-recreated) ],
	'snapshot' => [ "SELECT cmek.snapshot('t')", qw(snapshot-begun snapshot-written snapshot-finished snapshot-read snapshot-verified) ]);

for my $what ('restore', 'snapshot')
{
	my ($statement, @points) = @{ $steps{$what} };

	for my $point (@points)
	{
		is(sqlstate($node, "SET cmek.stop_point = '$point:error'; $statement"), '57000', "$point: fails");
		is(traces(), $before, "$point: nothing is left");
		is(whole_files(), "$id.cmeksnap", "$point: nor a file");
		is(join(' ', glob("$snapshots/*.part")), '', "$point: nor half of one");

		# cancelled, by the session's own time-out
		is(sqlstate($node, "SET statement_timeout = '1s'; SET cmek.stop_point = '$point:wait'; $statement"), '57014', "$point: cancelled");
		is(traces(), $before, "$point, cancelled: nothing is left");
		is(join(' ', map { s{.*/}{}r } glob("$snapshots/*")), "$id.cmeksnap", "$point, cancelled: nor a file");

		my $old = checkpointer($node);
		isnt(sqlstate($node, "SET cmek.stop_point = '$point:kill'; $statement"), '', "$point: killed");
		ok(restarted_since($node, $old), "$point: the server is up");
		is(traces(), $before, "$point, killed: nothing is left");
		# files without a record are for the purge; see 095
		unlink(grep { !/\Q$id\E/ } glob("$snapshots/*"));
		ok(slurp_binary("$snapshots/$id.cmeksnap") eq $file, "$point: the snapshot is as it was");
		is(content('t'), $content, "$point: and the table");
	}
}
is(sql("SELECT cmek.restore_snapshot('$id', 'r')"), '', 'after all that it is restored');
is(content('r'), $content, 'every row is equal');
is(sql("SELECT count(*) FROM cmek.verify('r')"), '0', 'whole');

# names that are taken: by a table, by a type, by what comes with it
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'r')"), '42P07', 'the name of a table');
is(sqlstate($node, "CREATE TYPE taken AS ENUM (); SELECT cmek.restore_snapshot('$id', 'taken')"), '42710', 'the name of a type');
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'nowhere.r')"), '3F000', 'a schema that is not there');
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'x', 'nosuch')"), '42704', 'a key that is not there');
is(sqlstate($node, "SELECT cmek.restore_snapshot('$id', 'x', NULL, NULL)"), '22004', 'NULL');
is(sql(q{SELECT count(*) FROM pg_class WHERE relname IN ('x', 'taken')}), '0', 'and nothing half-restored');
is(sql(q{SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY 1) FROM pg_index WHERE indrelid = 'r'::regclass}), 'r_pkey r_idx', 'indexes take other names');

# code of the owner's runs as the owner, who becomes nobody else, also when a
# superuser restores
sql(q{CREATE ROLE alice; GRANT CREATE ON SCHEMA public TO alice; GRANT USAGE ON FOREIGN SERVER cmek_service_key TO alice;
	CREATE TABLE loot (who text); GRANT ALL ON loot TO PUBLIC; SET ROLE alice;
	CREATE FUNCTION spy(int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN
		BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN INSERT INTO public.loot VALUES (SQLERRM); END;
		BEGIN EXECUTE 'CREATE TEMP TABLE x ()'; EXCEPTION WHEN OTHERS THEN INSERT INTO public.loot VALUES (SQLERRM); END;
		INSERT INTO public.loot VALUES (current_user); RETURN true; END$$;
	CREATE TABLE hers (id int CHECK (public.spy(id))) USING cmek_heap; INSERT INTO hers VALUES (1)});
my $hers = sql(q{SELECT cmek.snapshot('hers')});
sql('TRUNCATE loot');
sql(qq{SELECT cmek.restore_snapshot('$hers', 'hers2')});
is(sql(q{SELECT string_agg(DISTINCT who, E'\n' ORDER BY who) FROM loot}),
	"alice\ncannot create temporary table within security-restricted operation\ncannot set parameter \"role\" within security-restricted operation",
	'code of the table\'s runs as its owner, in a security-restricted operation');

# read-only, on a standby or not
is(sqlstate($node, "BEGIN READ ONLY; SELECT cmek.restore_snapshot('$id', 'x')"), '25006', 'a read-only transaction restores nothing');

$node->stop;
done_testing();
