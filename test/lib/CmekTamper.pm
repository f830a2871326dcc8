# Changing the files of a stopped server: where tuples stand, and reading what
# is left row by row, each read in its own subtransaction.

package CmekTamper;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use CmekTest;

use constant {
	PAGE => 8192,
	PAGE_HEADER => 24,
	ROW_CLEAR => 24,    # of a sealed row, up to its DEK id
	CHUNK_DATA => 36,   # header 24, chunk_id, chunk_seq, length
};

our @EXPORT = qw(PAGE PAGE_HEADER ROW_CLEAR CHUNK_DATA heap_items relation_file toast_file edit_file flip_bit
  probe_setup probe);

# The tuples of a file: { tid, block, at (in the file), len, lp (its pointer) }
sub heap_items
{
	my ($bytes) = @_;
	my @items;

	for my $block (0 .. length($$bytes) / PAGE - 1)
	{
		my $base = $block * PAGE;
		my ($lower) = unpack('v', substr($$bytes, $base + 12, 2));
		for my $n (1 .. ($lower - PAGE_HEADER) / 4)
		{
			my $lp = $base + PAGE_HEADER + 4 * ($n - 1);
			my $id = unpack('V', substr($$bytes, $lp, 4));
			push @items, { tid => "($block,$n)", block => $block, at => $base + ($id & 0x7fff), len => $id >> 17, lp => $lp }
			  if (($id >> 15) & 3) == 1;
		}
	}
	return @items;
}

sub relation_file
{
	my ($node, $table, $db) = @_;

	return $node->data_dir . '/' . $node->safe_psql($db || 'postgres', "SELECT pg_relation_filepath('$table')");
}

sub toast_file
{
	my ($node, $table, $db) = @_;

	return $node->data_dir . '/'
	  . $node->safe_psql($db || 'postgres', "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = '$table'::regclass");
}

# Have a function change the bytes of a file; it gets them by reference, and
# the items
sub edit_file
{
	my ($file, $change) = @_;
	my $bytes = slurp_binary($file);
	my @result = $change->(\$bytes, heap_items(\$bytes));

	spew_binary($file, $bytes);
	return @result;
}

sub flip_bit
{
	my ($bytes, $at, $bit) = @_;

	substr($$bytes, $at, 1) ^= chr(1 << $bit);
	return;
}

sub probe_setup
{
	my ($node, $db) = @_;

	$node->safe_psql($db || 'postgres', q{
		CREATE FUNCTION probe(commands text[], OUT n int8, OUT state text, OUT val text) RETURNS SETOF record LANGUAGE plpgsql AS $$
		BEGIN
			FOR n IN 1 .. cardinality(commands) LOOP
				BEGIN
					state := ''; val := NULL;
					EXECUTE commands[n] INTO val;
				EXCEPTION WHEN OTHERS THEN
					state := SQLSTATE; val := NULL;
				END;
				RETURN NEXT;
			END LOOP;
		END $$});
	return;
}

# The results of queries of one value each: [ SQLSTATE, value ]
sub probe
{
	my ($node, $queries, $db) = @_;
	my @result;
	my @left = @$queries;

	while (my @some = splice(@left, 0, 500))
	{
		my $list = join(",\n", map { "\$q\$$_\$q\$" } @some);
		push @result, map { [ (split /\|/, $_, 2)[ 0, 1 ] ] }
		  split /\n/, $node->safe_psql($db || 'postgres', "SELECT state, val FROM probe(ARRAY[$list]) ORDER BY n");
	}
	return @result;
}

1;
