# Changed key material: rows of cmek.table_key, cmek.data_key and
# cmek.table_key_replica, key files.
# Each byte is changed in a table, a key file or a row of its own, so that one
# restart with cold caches tries them all.  Never a wrong value, never a crash;
# what wraps or names a key is authenticated, so it is XX001 (or KM001 from the
# KMS key's file).  A changed replica wrapping sends us to the next one, the first
# key's; while that is away, nothing opens.
#
#   CMEK_TAMPER_BITS   how many bits of each byte are tried (1; 8 is all)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

my $bits = $ENV{CMEK_TAMPER_BITS} || 1;
my $node = cmek_node('keys', config => [ 'autovacuum = off', 'fsync = off', "cmek.key_cache_ttl = '5min'",
		'cmek.key_cache_size = 65536', 'restart_after_crash = off', "cmek.local_keys = 'replica_of_first'" ]);
my $first_file = new_key_file($node->basedir . '/first');
my @setup = ("CREATE SERVER first_of_both FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$first_file')",
	"CREATE SERVER replica_of_first FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '@{[new_key_file($node->basedir . '/replica')]}')");

# What is changed by UPDATE: column, bytes, the SQLSTATEs it may give.  ''
# stands for the right value: what is not a key may be wrong without harm.
my @fields = (
	[ 'table_key', 'blob', 60, 'XX001' ],
	[ 'table_key', 'id', 16, 'XX001' ],
	[ 'table_key', 'relid', 4, '55000' ],
	[ 'table_key', 'version', 2, '' ],
	[ 'table_key', 'server', 16, '42704' ],
	[ 'table_key', 'key_version', 32, 'XX001' ],
	[ 'table_key', 'key_id', 4, '' ],
	[ 'data_key h', 'wrapped', 60, 'XX001' ],
	[ 'data_key h', 'structure', 16, 'XX001' ],
	[ 'data_key h', 'table_key', 16, 'XX001' ],
	[ 'data_key h', 'id', 4, 'XX001' ],
	[ 'data_key h', 'kind', 1, 'XX001' ],
	[ 'data_key h', 'relid', 4, 'XX001' ],
	[ 'data_key h', 'generation', 2, '' ],
	[ 'data_key h', 'format', 1, '0A000' ],
	[ 'data_key h', 'current', 1, 'XX001' ],
	[ 'data_key t', 'wrapped', 60, 'XX001' ],
	[ 'data_key t', 'structure', 16, 'XX001' ],
	[ 'data_key t', 'table_key', 16, 'XX001' ],
	[ 'data_key t', 'id', 4, 'XX001' ],
	[ 'data_key t', 'kind', 1, 'XX001' ],
	[ 'data_key t', 'current', 1, 'XX001' ]);
# The same of replicas: what it gives while the first key is away; '' always,
# when that is there
my @replica_fields = (
	[ 'table_key_replica', 'blob', 60, 'KM001' ],
	[ 'table_key_replica', 'id', 16, 'KM001' ],
	[ 'table_key_replica', 'table_key', 16, 'KM001' ],
	[ 'table_key_replica', 'relid', 4, 'KM001' ],
	[ 'table_key_replica', 'server', 16, 'KM001' ],
	[ 'table_key_replica', 'key_version', 32, 'KM001' ],
	[ 'table_key_replica', 'key_id', 4, '' ]);

# One byte changed of a value of each type
my %changed = (
	bytea => 'set_byte(%1$s, %2$d, get_byte(%1$s, %2$d) # %3$d)',
	uuid => q{encode(set_byte(uuid_send(%1$s), %2$d, get_byte(uuid_send(%1$s), %2$d) # %3$d), 'hex')::uuid},
	oid => '(%1$s::int8 # (%3$d::int8 << (8 * %2$d)))::oid',
	int4 => '%1$s # (%3$d << (8 * %2$d))',
	int2 => '%1$s # %3$d::int2',
	name => q{overlay(%1$s::text PLACING chr(ascii(substr(%1$s::text, %2$d + 1, 1)) # %3$d) FROM %2$d + 1 FOR 1)::name},
	text => q{overlay(%1$s PLACING chr(ascii(substr(%1$s, %2$d + 1, 1)) # %3$d) FROM %2$d + 1 FOR 1)},
	'"char"' => '(ascii(%1$s::text) # 1)::"char"',
	bool => 'NOT %1$s');
my %type = $node->safe_psql('postgres', q{
	SELECT string_agg(relname || '.' || attname || ' ' || format_type(atttypid, NULL), E'\n')
	FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
	WHERE attnum > 0 AND attrelid IN ('cmek.table_key'::regclass, 'cmek.data_key'::regclass, 'cmek.table_key_replica'::regclass)})
	=~ /^(\S+) (.*)$/mg;
$_ = { integer => 'int4', smallint => 'int2', boolean => 'bool' }->{$_} || $_ for values %type;

# Tables with a row each, out of line in part, that say their own name
my @tables;
sub new_table
{
	my ($what, $server) = @_;
	my $name = 't' . @tables;
	my $with = $server ? " WITH (cmek.key = '$server')" : '';

	$with = " WITH (cmek.key = 'first_of_both', cmek.replica_keys = 'replica_of_first')" if $what =~ /replica/;
	push @setup, "CREATE TABLE $name (n text, v text) USING cmek_heap$with",
	  "ALTER TABLE $name ALTER v SET STORAGE EXTERNAL", "INSERT INTO $name VALUES ('$name', repeat('$name ', 1000))";
	push @tables, { name => $name, what => $what };
	return $tables[-1];
}
sub mask { my ($byte, $bit) = @_; return 1 << (($byte + $bit) % 8); }

for my $bit (0 .. $bits - 1)
{
	for my $field (@fields, @replica_fields)
	{
		my ($catalog, $column, $bytes, $state) = @$field;
		my ($of, $kind) = split / /, $catalog;
		for my $byte (0 .. $bytes - 1)
		{
			my $mask = mask($byte, $bit);
			$mask = mask($byte % 4, $bit) if $type{"$of.$column"} =~ /^(name|text)$/;
			next if $bit > 3 && $type{"$of.$column"} =~ /^(name|text|bool|"char")$/;
			my $table = new_table("$catalog.$column byte $byte mask $mask");
			my $new = sprintf($changed{ $type{"$of.$column"} }, $column, $byte, $mask);
			# an id that another row has would be refused by UPDATE, not by us
			$new .= ' # (1 << 29)' if "$of.$column" eq 'data_key.id' && ($byte != 3 || $mask != 32);
			$new =~ s/<< \(8 \* \d\)/<< 16/ if "$of.$column" eq 'data_key.id' && $byte == 3 && $mask == 128;
			$table->{sql} = "UPDATE cmek.$of SET $column = $new WHERE relid = '$table->{name}'::regclass"
			  . ($kind ? " AND kind = '$kind'" : '');
			$table->{state} = $state;
		}
	}
}

# A KMS key's file for each of its bytes
my $key_length = 65;
my @files;
for my $bit (0 .. $bits - 1)
{
	for my $byte (0 .. $key_length - 1)
	{
		my $file = new_key_file($node->basedir . '/key' . @files);
		my $name = 'k' . @files;
		push @setup, "CREATE SERVER $name FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file')";
		my $table = new_table("key file byte $byte bit $bit", $name);
		push @files, [ $file, $byte, mask($byte, $bit), $table ];
	}
}

# Tables whose key rows are changed in the file, wherever they stand
my @in_file;
for my $catalog (qw(table_key data_key table_key_replica))
{
	push @in_file, map { [ $catalog, new_table("row of $catalog in the file") ] } 1 .. ($catalog =~ /replica/ ? 320 : 260) * ($bits > 1 ? 4 : 1);
}
my $control = new_table('control');
my $replica_control = new_table('control of replicas');

$node->safe_psql('postgres', join(";\n", @setup));
# some hundred in a query: the parser's stack has an end
my $readable = 0;
my @unread = @tables;
while (my @some = splice(@unread, 0, 400))
{
	$readable += $node->safe_psql('postgres', 'SELECT count(*) FROM (' . join(' UNION ALL ',
			map { "SELECT '$_->{name}' FROM $_->{name} WHERE n = '$_->{name}' AND v = repeat('$_->{name} ', 1000)" } @some) . ') x');
}
is($readable, scalar(@tables), 'all tables can be read: ' . @tables);

$node->safe_psql('postgres', join(";\n", grep { defined } map { $_->{sql} } @tables));
my %oid = map { split /\|/ } split /\n/, $node->safe_psql('postgres', q{SELECT oid, relname FROM pg_class WHERE relname ~ '^t\d+$'});
my %path = map { $_ => $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('cmek.$_')") } qw(table_key data_key table_key_replica);
$node->stop;

# Key files: one byte each
for (@files)
{
	my ($file, $byte, $mask, $table) = @$_;
	my $bytes = slurp_binary($file);
	my $was = $bytes;
	substr($bytes, $byte, 1) ^= chr($mask);
	spew_binary($file, $bytes);
	# a hexadecimal digit of the other case says the same
	$table->{state} = lc($bytes) eq $was ? '' : 'KM001';
}

# Rows in the file: the i-th row of our tables at byte i, header included
my %tried;
my %relid_at = (table_key => 16, data_key => 4, table_key_replica => 32);
for my $catalog (sort keys %relid_at)
{
	my $bytes = slurp_binary($path{$catalog});
	my %ours = map { $_->[1]{name} => $_->[1] } grep { $_->[0] eq $catalog } @in_file;
	my $i = 0;

	for my $base (map { $_ * 8192 } 0 .. length($bytes) / 8192 - 1)
	{
		my ($lower) = unpack('v', substr($bytes, $base + 12, 2));
		for my $n (0 .. ($lower - 24) / 4 - 1)
		{
			my $lp = unpack('V', substr($bytes, $base + 24 + 4 * $n, 4));
			next unless (($lp >> 15) & 3) == 1;
			my ($at, $length) = ($base + ($lp & 0x7fff), $lp >> 17);
			my $hoff = ord(substr($bytes, $at + 22, 1));
			my $relid = unpack('V', substr($bytes, $at + $hoff + $relid_at{$catalog}, 4));
			my $table = $oid{$relid} && $ours{ $oid{$relid} } or next;
			my $byte = $i % $length;
			substr($bytes, $at + $byte, 1) ^= chr(mask($byte, int($i / $length) + $i % 3));
			$tried{$catalog}{$byte} = $length;
			$table->{what} .= " byte $byte";
			$i++;
		}
	}
	spew_binary($path{$catalog}, $bytes);
	my ($length) = values %{ $tried{$catalog} };
	cmp_ok(scalar(keys %{ $tried{$catalog} }), '>=', $length, "every byte of a row of cmek.$catalog was changed");
}

$node->start;
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
$node->safe_psql('postgres', q{
	CREATE FUNCTION probe(tab text, OUT state text, OUT val text) LANGUAGE plpgsql AS $$
	BEGIN
		state := '';
		EXECUTE format('SELECT n || md5(v) FROM %I', tab) INTO val;
	EXCEPTION WHEN OTHERS THEN
		state := SQLSTATE; val := NULL;
	END $$});

# What tables give, each with what it should.  A session for each few tables: a
# session that ends leaves no DEK behind
my %state;
my %seen;
sub probe
{
	my ($when, @probed) = @_;
	my (%right, @wrong, @unexpected);

	%state = %seen = ();
	my @names = map { $_->{name} } @probed;
	while (my @some = splice(@names, 0, 50))
	{
		my $list = join(',', map { "'$_'" } @some);
		my ($status, $out, $error) = $node->psql('postgres', "SELECT t, state, val = t || md5(repeat(t || ' ', 1000)) FROM unnest(ARRAY[$list]) t, probe(t)");
		is($status, 0, "$when: no crash: $some[0] and others") or diag($error);
		for (split /\n/, $out)
		{
			my ($t, $state, $right) = split /\|/;
			$state{$t} = $state;
			$right{$t} = $right;
		}
	}
	for (@probed)
	{
		my ($state, $right) = ($state{ $_->{name} }, $right{ $_->{name} });
		next unless defined $state;
		push @wrong, "$_->{what}: a wrong value" if $right eq 'f' || ($state eq '' && $right ne 't');
		push @unexpected, "$_->{what}: '$state', not '$_->{state}'" if defined $_->{state} && $state ne $_->{state};
		push @unexpected, "$_->{what}: '$state'" if $state =~ /^(?:XX000|57|08)/;
		$seen{$state}++;
	}
	is(join("\n", @wrong), '', "$when: no wrong value");
	is(join("\n", @unexpected), '', "$when: each changed field gives its error");
	note(join(' ', map { "'$_': $seen{$_}" } sort keys %seen));
	return;
}
my @of_replicas = grep { $_->{what} =~ /replica/ } @tables;
my %without_first = map { $_->{name} => $_->{state} } @of_replicas;
$_->{state} &&= '' for @of_replicas;
probe('cold caches', @tables);
is($state{ $control->{name} }, '', 'the control can be read');
cmp_ok($seen{XX001}, '>', 250 * $bits, 'XX001 again and again');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server went on');

# The first key is away (others may read its file, so it is refused): nothing
# but a replica that is as it was opens a table
$node->stop;
chmod(0644, $first_file) or die "chmod: $!";
$node->start;
$_->{state} = $without_first{ $_->{name} } for @of_replicas;
probe('first key away', @of_replicas);
is($state{ $replica_control->{name} }, '', 'the control of replicas can be read by its replica');
cmp_ok($seen{KM001}, '>', 180 * $bits, 'KM001 again and again');

# A damaged key row stands in nobody's way but its table's
is(sqlstate($node, "CREATE TABLE fresh (a int) USING cmek_heap; INSERT INTO fresh VALUES (1)"), '', 'a new table');
is(sqlstate($node, "DROP TABLE $tables[0]{name}"), '', 'a table whose wrapped key is damaged can be dropped');

done_testing();
