# Random values of every common type, as SQL expressions that mean the same
# whenever they are evaluated.  Randomness is Perl's own, seeded by the caller.

package Values;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(pick chance between types value comparable toastable setup_values);

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand(100) < $_[0]; }
sub between { my ($a, $b) = @_; return $a + int(rand($b - $a + 1)); }

# Lengths around each limit of the TOAST code
sub long_length
{
	return pick(0, 1, 126, 127, 128, 500, 1964, 1996, between(1900, 2100), 3000, between(3900, 4100), 8100,
		between(8000, 8200), 20000);
}

# A text: short, long and compressible, or long and not
sub text_value
{
	my ($short) = @_;
	my $kind = $short ? 0 : between(0, 9);

	return sprintf("'%s'", join('', map { pick('a' .. 'z', ' ', "''", 'ä') } 1 .. between(0, 20))) if $kind < 6;
	return sprintf("repeat('%s', %d)", pick('a', 'xyz', 'ö1'), long_length()) if $kind < 8;
	return sprintf('noise(%d, %d)', between(1, 1000), long_length());
}

sub number { return pick(0, 1, -1, between(-100, 100), between(-30000, 30000)); }
sub moment
{
	return sprintf('2%03d-%02d-%02d %02d:%02d:%02d.%06d', between(0, 40), between(1, 12), between(1, 28),
		between(0, 23), between(0, 59), between(0, 59), between(0, 999999));
}
sub range { my $a = between(-50, 50); return sprintf('[%d,%d)', $a, $a + between(0, 20)); }
sub json_value
{
	my ($short) = @_;
	return sprintf(q{json_build_object('a', %d, 'b', %s, 'c', json_build_array(1, null, %s))},
		number(), text_value($short), pick('true', "'x'", '1.5'));
}
sub bits { return join('', map { pick(0, 1) } 1 .. $_[0]); }
sub point { return sprintf('(%d,%d)', between(-9, 9), between(-9, 9)); }

# name => [ SQL type, value, '=' and '<' work ]
my %type = (
	bool => [ 'bool', sub { pick('true', 'false') }, 1 ],
	int2 => [ 'int2', sub { number() . '::int2' }, 1 ],
	int4 => [ 'int4', sub { pick(number(), '2147483647', '-2147483648') . '::int4' }, 1 ],
	int8 => [ 'int8', sub { pick(number(), '9223372036854775807', between(0, 2e9)) . '::int8' }, 1 ],
	numeric => [ 'numeric', sub {
			my ($short) = @_;
			return pick("'NaN'", "'Infinity'", '0', number() . '.' . between(0, 99999), '1e30') . '::numeric' if $short || chance(80);
			return sprintf("('0.' || translate(noise(%d, %d), 'abcdef', '012345'))::numeric", between(1, 99), between(100, 6000));
		}, 1 ],
	float4 => [ 'float4', sub { pick("'NaN'", "'-Infinity'", number() . '.5') . '::float4' }, 1 ],
	float8 => [ 'float8', sub { pick("'NaN'", "'Infinity'", '1e-300', number() . '.25') . '::float8' }, 1 ],
	money => [ 'money', sub { number() . '.5::numeric::money' }, 1 ],
	text => [ 'text', \&text_value, 1 ],
	varchar => [ 'varchar(30000)', \&text_value, 1 ],
	char => [ 'char(40)', sub { text_value(1) . '::char(40)' }, 1 ],
	name => [ 'name', sub { text_value(1) . '::name' }, 1 ],
	bytea => [ 'bytea', sub { sprintf("convert_to(%s, 'UTF8')", text_value(@_)) }, 1 ],
	json => [ 'json', \&json_value, 0 ],
	jsonb => [ 'jsonb', sub { json_value(@_) . '::jsonb' }, 1 ],
	ints => [ 'int4[]', sub {
			my ($short) = @_;
			return sprintf('ARRAY(SELECT i * %d FROM generate_series(1, %d) i)', number() % 1000,
				$short ? between(0, 5) : pick(0, 3, 600, 3000)) if chance(70);
			return "'{{1,2,NULL},{4,5,6}}'::int4[]";
		}, 1 ],
	texts => [ 'text[]', sub { sprintf('ARRAY[%s, NULL, %s]::text[]', text_value(@_), text_value(@_)) }, 1 ],
	range => [ 'int4range', sub { "'" . range() . "'::int4range" }, 1 ],
	multirange => [ 'int4multirange', sub { "'{" . join(',', map { range() } 0 .. between(0, 3)) . "}'::int4multirange" }, 1 ],
	composite => [ 'public.pair', sub { sprintf('ROW(%s, %s)::public.pair', number(), text_value(@_)) }, 1 ],
	enum => [ 'public.mood', sub { pick(qw('sad' 'ok' 'happy')) . '::public.mood' }, 1 ],
	domain => [ 'public.line', sub { text_value(@_) . '::public.line' }, 1 ],
	uuid => [ 'uuid', sub { sprintf("md5('%d')::uuid", between(1, 1e6)) }, 1 ],
	inet => [ 'inet', sub { sprintf("'10.%d.%d.%d%s'::inet", (map { between(0, 255) } 1 .. 3), pick('', '/24')) }, 1 ],
	macaddr => [ 'macaddr', sub { sprintf("'08:00:2b:01:%02x:%02x'::macaddr", between(0, 255), between(0, 255)) }, 1 ],
	timestamp => [ 'timestamp', sub { pick("'infinity'", "'" . moment() . "'") . '::timestamp' }, 1 ],
	timestamptz => [ 'timestamptz', sub { "'" . moment() . "+02'::timestamptz" }, 1 ],
	date => [ 'date', sub { "'" . substr(moment(), 0, 10) . "'::date" }, 1 ],
	time => [ 'time', sub { "'" . substr(moment(), 11) . "'::time" }, 1 ],
	timetz => [ 'timetz', sub { "'" . substr(moment(), 11) . "-03'::timetz" }, 1 ],
	interval => [ 'interval', sub { sprintf("'%d months %d days %d us'::interval", map { between(-99, 99) } 1 .. 3) }, 1 ],
	bit => [ 'bit(9)', sub { "B'" . bits(9) . "'" }, 1 ],
	varbit => [ 'varbit', sub { "B'" . bits(between(0, 60)) . "'::varbit" }, 1 ],
	xml => [ 'xml', sub { sprintf("xmlelement(name e, %s)", text_value(@_)) }, 0 ],
	point => [ 'point', sub { "'" . point() . "'::point" }, 0 ],
	box => [ 'box', sub { "'" . point() . ',' . point() . "'::box" }, 0 ],
	path => [ 'path', sub { "'[" . join(',', map { point() } 1 .. ($_[0] ? 3 : between(1, 300))) . "]'::path" }, 0 ],
	tsvector => [ 'tsvector', sub {
			sprintf("to_tsvector('simple', %s)", $_[0] ? text_value(1) : pick(text_value(1), sprintf('replace(noise(%d, %d), %s, %s)',
						between(1, 99), between(10, 4000), "'a'", "' '")));
		}, 1 ],
);

my @toastable = qw(text varchar bytea json jsonb ints texts composite domain numeric tsvector path);
push @toastable, 'xml';

sub types { return sort keys %type; }
sub toastable { my ($name) = @_; return scalar grep { $_ eq $name } @toastable; }
sub comparable { return $type{ $_[0] }[2]; }
sub sql_type { return $type{ $_[0] }[0]; }

# A value, or NULL; a short one where values must stay in the row
sub value
{
	my ($name, $short) = @_;

	return 'NULL' if chance(12);
	return $type{$name}[1]->($short);
}

# What the values and both sides need.  XML is left out of a server without it.
sub setup_values
{
	my ($node) = @_;

	delete $type{xml}
	  if ($node->psql('postgres', 'SELECT xmlelement(name e)'))[0] != 0;
	$node->safe_psql('postgres', q{
		CREATE FUNCTION public.noise(seed int, n int) RETURNS text
		LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
			SELECT left(string_agg(encode(sha512((seed || '/' || i)::bytea), 'hex'), ''), n)
			FROM generate_series(0, n / 128) i $$;
		CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy');
		CREATE TYPE public.pair AS (a int, b text);
		CREATE DOMAIN public.line AS text CHECK (length(VALUE) < 30000);
		CREATE SCHEMA plain;
		CREATE SCHEMA sealed});
	return;
}

1;
