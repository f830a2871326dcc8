# What stands on the pages of a sealed table: which data key each tuple names,
# and which data keys there are.  Needs pageinspect.

package CmekPages;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(pages_setup ids_on_pages ids_of_keys current_ids only_current psql_start psql_done);

sub pages_setup
{
	my ($node, $db) = @_;

	$node->safe_psql($db || 'postgres', q{
		CREATE EXTENSION pageinspect;
		CREATE FUNCTION dek_ids(rel regclass, at int) RETURNS TABLE (id int8, n int8) LANGUAGE sql AS $$
			SELECT get_byte(t_data, at) + 256 * (get_byte(t_data, at + 1) +
				   256 * (get_byte(t_data, at + 2) + 256::int8 * get_byte(t_data, at + 3))), count(*)
			FROM generate_series(0, pg_relation_size(rel) / current_setting('block_size')::int - 1) b,
				 heap_page_items(get_raw_page(rel::text, b::int))
			WHERE t_data IS NOT NULL AND length(t_data) > at + 4
			GROUP BY 1
		$$;
		CREATE FUNCTION all_dek_ids(rel regclass) RETURNS TABLE (id int8, n int8) LANGUAGE sql AS $$
			SELECT * FROM dek_ids(rel, 0)
			UNION ALL
			-- chunk_id, chunk_seq, length, then the id
			SELECT d.* FROM pg_class c, dek_ids(c.reltoastrelid, 12) d WHERE c.oid = rel AND c.reltoastrelid <> 0
		$$});
	return;
}

# The ids that tuples name, dead ones included
sub ids_on_pages
{
	my ($node, $table) = @_;

	return $node->safe_psql('postgres', "SELECT string_agg(id::text, ' ' ORDER BY id) FROM all_dek_ids('$table')");
}

# The ids of the data keys that there are
sub ids_of_keys
{
	my ($node, $table) = @_;

	return $node->safe_psql('postgres',
		"SELECT string_agg(id::text, ' ' ORDER BY id) FROM cmek.data_key WHERE relid = '$table'::regclass");
}

sub current_ids
{
	my ($node, $table) = @_;

	return $node->safe_psql('postgres',
		"SELECT string_agg(id::text, ' ' ORDER BY id) FROM cmek.data_key WHERE relid = '$table'::regclass AND current");
}

# Nothing is left of older data keys
sub only_current
{
	my ($node, $table, $name) = @_;
	my $current = current_ids($node, $table);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(ids_of_keys($node, $table), $current, "$name: the old data keys are gone");
	my %current = map { $_ => 1 } split / /, $current;
	my @named = split / /, ids_on_pages($node, $table);
	is(@named ? join(' ', grep { !$current{$_} } @named) : 'no tuples', '', "$name: no tuple names one");
	is($node->safe_psql('postgres', "SELECT count(*) FROM cmek.verify('$table')"), '0', "$name: verify finds no damage");
	return;
}

# A session in the background that runs what it is given
sub psql_start
{
	my ($node, $sql, $db) = @_;
	my %session = (in => '', out => '', err => '');

	$session{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($db || 'postgres'), '-c', $sql ],
		'<', \$session{in}, '>', \$session{out}, '2>', \$session{err});
	return \%session;
}

# Wait for its end; what it said on standard error
sub psql_done
{
	my ($session) = @_;

	eval { $session->{run}->finish };
	return $session->{err};
}

1;
