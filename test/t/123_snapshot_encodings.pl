# Snapshots between databases of different encodings: names, texts alone and
# inside of arrays and jsonb; what cannot be had there is an error that says so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

$ENV{PGCLIENTENCODING} = 'UTF8';
my $node = cmek_node('primary', config => [ "cmek.drop_after = 'off'", 'autovacuum = off', 'fsync = off' ]);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");
# names of 63 bytes in LATIN1, of 126 in UTF-8
my $long = "\xc3\xa4" x 63;

for my $encoding ('LATIN1', 'UTF8', 'SQL_ASCII')
{
	$node->safe_psql('postgres', "CREATE DATABASE \L$encoding\E ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	$node->safe_psql(lc $encoding, 'CREATE EXTENSION cmek; CREATE EXTENSION citext');
	$node->safe_psql(lc $encoding, "CREATE SERVER " . ($encoding eq 'SQL_ASCII' ? 'k' : '"schlüssel"') . " FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')");
}

sub state_in
{
	my ($db, $sql) = @_;

	return sqlstate($node, $sql, $db);
}

# The name of a snapshot's file, taken in a database
sub taken
{
	my ($db, $table) = @_;

	return $node->safe_psql($db, "SELECT cmek.snapshot('$table')") . '.cmeksnap';
}

# Every value as UTF-8
my $values = q{SELECT count(*), md5(convert_to(string_agg(concat_ws('|', "Nº", klein, fest, "Groß", j, jb, l, n, c, d, spät, b), E'\n' ORDER BY "Nº"), 'UTF8')), sum(length("Groß")), max(octet_length(b)) FROM };
my $tables = q{
	CREATE DOMAIN "wörter" AS text CHECK (value <> 'ß');
	CREATE TABLE "Größe" ("Nº" int PRIMARY KEY, klein varchar(20) DEFAULT 'für' CONSTRAINT "prüfung" CHECK (klein <> 'übel'), fest char(12), "Groß" text,
		j json, jb jsonb, l text[], n name, c citext, d "wörter", b bytea, f float8, g text GENERATED ALWAYS AS ('é' || klein) STORED) USING cmek_heap WITH (cmek.key = 'schlüssel');
	ALTER TABLE "Größe" ALTER "Groß" SET STORAGE EXTERNAL;
	INSERT INTO "Größe" SELECT i, 'straße ' || i, 'fé' || i, repeat('größer ' || i || ' ', i * 50), '{"ä": "ö"}', '{"ä": ["ö", 1.5, {"ü": null}]}', ARRAY['à', NULL, 'ascii', repeat('ñ', i)],
		'nämlich', 'Öffentlich', 'wört', decode('fffe00e4', 'hex'), i FROM generate_series(1, 60) i;
	INSERT INTO "Größe" ("Nº", "Groß") VALUES (100, repeat('compressé ', 3000)), (101, 'ascii only');
	ALTER TABLE "Größe" ALTER "Groß" SET STORAGE EXTENDED; INSERT INTO "Größe" ("Nº", "Groß") VALUES (102, repeat('compressé ', 3000));
	ALTER TABLE "Größe" ADD spät text DEFAULT 'später';
	CREATE INDEX "verzeichnis_ä" ON "Größe" (lower("Groß")) WHERE klein <> 'ö';
	COMMENT ON TABLE "Größe" IS 'Wie groß?'};

# ---------------------------------------------------------------------
# LATIN1 to LATIN1, to UTF-8; UTF-8 to LATIN1
# ---------------------------------------------------------------------

$node->safe_psql($_, $tables) for ('latin1', 'utf8');
my $right = $node->safe_psql('utf8', $values . '"Größe"');
is($node->safe_psql('latin1', $values . '"Größe"'), $right, 'control: the same values in both');
isnt($node->safe_psql('latin1', 'SELECT sum(octet_length("Groß")) FROM "Größe"'), $node->safe_psql('utf8', 'SELECT sum(octet_length("Groß")) FROM "Größe"'), 'control: not of the same bytes');
is($node->safe_psql($_, q{SELECT count(*) FROM cmek.key_watch; SELECT "table" FROM cmek.tables}) =~ s/^\d+\n//r, '"Größe"', "$_: listed by its name") for ('latin1', 'utf8');
for my $from ('latin1', 'utf8')
{
	my $snapshot = taken($from, '"Größe"');

	$node->safe_psql('utf8', 'CREATE DOMAIN "nur hier" AS text') if $from eq 'latin1';
	for my $to ('latin1', 'utf8')
	{
		my $notes = $node->safe_psql($to, qq{SELECT cmek.restore_snapshot('$snapshot', '"Zurück"', 'schlüssel')});

		is($notes, '', "$from to $to: restored, all of it");
		is($node->safe_psql($to, $values . '"Zurück"'), $right, "$from to $to: every value is equal");
		is($node->safe_psql($to, q{SELECT count(*) FROM cmek.verify('"Zurück"')}), '0', "$from to $to: whole");
		is($node->safe_psql($to, q{SELECT conname FROM pg_constraint WHERE conrelid = '"Zurück"'::regclass AND contype = 'c'}), 'prüfung', "$from to $to: the constraint by its name");
		is(state_in($to, q{INSERT INTO "Zurück" ("Nº", klein) VALUES (-1, 'übel')}), '23514', "$from to $to: it holds");
		is($node->safe_psql($to, q{INSERT INTO "Zurück" ("Nº") VALUES (-1) RETURNING klein, spät, g}), 'für|später|éfür', "$from to $to: defaults are texts of here");
		is($node->safe_psql($to, q{SELECT obj_description('"Zurück"'::regclass)}), 'Wie groß?', "$from to $to: and the comment");
		$node->safe_psql($to, 'DROP TABLE "Zurück"');
	}
}

# ---------------------------------------------------------------------
# What cannot be had
# ---------------------------------------------------------------------

$node->safe_psql('latin1', qq{CREATE TABLE wide (id int CONSTRAINT "$long" CHECK (id > 0), "$long" text) USING cmek_heap WITH (cmek.key = 'schlüssel'); INSERT INTO wide VALUES (1, 'ä');
	CREATE TABLE words (id int, w tsvector) USING cmek_heap WITH (cmek.key = 'schlüssel'); INSERT INTO words VALUES (1, 'grün')});
my $wide = taken('latin1', 'wide');
is($node->safe_psql('latin1', qq{SELECT cmek.restore_snapshot('$wide', 'wide2')}), '', 'the longest names, at home');
is($node->safe_psql('latin1', qq{SELECT "$long" FROM wide2}), 'ä', 'are the same');
like(error_text($node, "SELECT cmek.restore_snapshot('$wide', 'wide2')", 'utf8'), qr/42622: name "(?:ä)+" of the snapshot is too long for this database's encoding/, 'elsewhere they may be too long');
my $words = taken('latin1', 'words');
is($node->safe_psql('latin1', "SELECT cmek.restore_snapshot('$words', 'words2'); SELECT w FROM words2"), "'grün'", 'full text at home');
like(error_text($node, "SELECT cmek.restore_snapshot('$words', 'words2')", 'utf8'),
	qr/0A000: column "w" of the snapshot cannot be restored in a database of encoding "UTF8".*HINT:  Restore the snapshot in a database of encoding "LATIN1"/s, 'elsewhere its column is refused, with the reason');
$node->safe_psql('utf8', q{CREATE TABLE chinese (id int, t text) USING cmek_heap WITH (cmek.key = 'schlüssel'); INSERT INTO chinese VALUES (1, '中');
	CREATE TABLE named (id int, "中" text) USING cmek_heap WITH (cmek.key = 'schlüssel')});
like(error_text($node, "SELECT cmek.restore_snapshot('" . taken('utf8', $_) . "', 'x')", 'latin1'), qr/22P05: character .* has no equivalent in encoding "LATIN1"/, "$_: no such character there")
  for ('chinese', 'named');
is($node->safe_psql($_, q{SELECT count(*) FROM pg_class WHERE relname IN ('x', 'words3')}), '0', "$_: nothing half-restored") for ('latin1', 'utf8');

# SQL_ASCII: bytes as they are, and into UTF-8 only what is UTF-8
$node->safe_psql('sql_ascii', q{CREATE TABLE bytes (t text) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO bytes VALUES ('ä');
	CREATE TABLE others (t text) USING cmek_heap WITH (cmek.key = 'k'); INSERT INTO others VALUES (E'\xe4')});
$node->safe_psql('utf8', "CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')");
is($node->safe_psql('utf8', "SELECT cmek.restore_snapshot('" . taken('sql_ascii', 'bytes') . "', 'bytes'); SELECT t FROM bytes") =~ s/^\n//r, 'ä', 'SQL_ASCII to UTF8');
is(state_in('utf8', "SELECT cmek.restore_snapshot('" . taken('sql_ascii', 'others') . "', 'others')"), '22021', 'what is no UTF-8 is refused');

# ---------------------------------------------------------------------
# The end of a key in a database like that
# ---------------------------------------------------------------------

$node->safe_psql('latin1', q{DROP TABLE wide, wide2, words, words2; ALTER SERVER "schlüssel" OPTIONS (ADD drop_after '1s')});
hide_key($file);
ok($node->poll_query_until('latin1', q{SELECT to_regclass('"Größe"') IS NULL}), 'a table with such names is dropped');
my ($id, $name, $key) = split(/\|/, $node->safe_psql('latin1', q{SELECT id, table_name, key FROM cmek.snapshots WHERE reason = 'key lost'}));
is("$name $key", 'public."Größe" schlüssel', 'its snapshot has its name, and that of its key');
show_key($file);
$node->safe_psql('latin1', q{ALTER SERVER "schlüssel" OPTIONS (SET drop_after 'off')});
ok(wait_for_ok($node, qq{SELECT cmek.restore_snapshot('$id', '"Größe"', 'schlüssel')}, 'latin1'), 'and is restored');
is($node->safe_psql('latin1', $values . '"Größe"'), $right, 'every value is equal');
is($node->safe_psql('utf8', qq{SELECT cmek.restore_snapshot('$id.cmeksnap', '"Zurück"', 'schlüssel')}), '', 'in UTF8, too');
is($node->safe_psql('utf8', $values . '"Zurück"'), $right, 'every value is equal');

$node->stop;
done_testing();
