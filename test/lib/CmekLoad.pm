# A mixed load of which is known, after a crash at any moment, what has to be
# there.
#
# Every transaction does the same to schema sealed (cmek_heap) and to schema
# plain (heap), and enters its number in the ledger of each.  A client is a
# psql with a script that was generated from the seed; what psql prints says
# which transactions were acknowledged.  So, afterwards:
#
#   the ledger holds every acknowledged transaction, none that was rolled back
#   or not begun, and the one under way either wholly or not at all;
#   every table in schema sealed has the content of its twin in schema plain,
#   which makes "in the ledger" the same as "wholly there".
#
# Clients work in the same tables on rows of their own (id % clients), so that
# neither of the twins can see another order of events than the other.  Keepers
# (a client without transactions) rewrite, vacuum, reseal, rotate and switch.
#
# Indexes on sealed tables: 'sealed' (what CREATE INDEX makes by itself), 'none'.

package CmekLoad;

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekTest;

# SQLSTATEs that a client may meet: lock conflicts, what follows from them in
# the rest of a transaction, and the end of the server
my $expected_error = qr/^(?:40P01|40001|55P03|25P02|42P01|42P07|42704|3B001|57P01|57P02|57P03|22012)$/;

# The settings a load needs
sub config
{
	return (
		"cmek.key_cache_ttl = '1s'", "cmek.kms_grace = '1min'", 'max_prepared_transactions = 20',
		'shared_buffers = 4MB', 'autovacuum_naptime = 1s', 'autovacuum_vacuum_threshold = 20',
		'autovacuum_vacuum_cost_delay = 0', 'deadlock_timeout = 100ms', 'max_wal_size = 64MB',
		'checkpoint_timeout = 30s', 'restart_after_crash = on', 'fsync = off', 'log_error_verbosity = verbose');
}

# options: seed, clients, indexes
sub new
{
	my ($class, $node, %options) = @_;
	my $self = bless {
		node => $node, clients => 3, indexes => 'sealed', acknowledged => 0,
		dir => PostgreSQL::Test::Utils::tempdir(), %options
	}, $class;

	$self->{next}{$_} = { n => 1, id => 1000, tables => [] } for (0 .. $self->{clients} - 1);
	$self->set_up;
	return $self;
}

sub has_indexes
{
	my ($self) = @_;

	return $self->{indexes} ne 'none';
}

# The tables, twice
sub set_up
{
	my ($self) = @_;
	my $node = $self->{node};
	my $second = $node->basedir . '/second_key';
	my $indexes = $self->has_indexes;

	new_key_file($second);
	$node->safe_psql('postgres', qq{
		CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$second');
		CREATE FUNCTION noise(seed int, n int) RETURNS text IMMUTABLE LANGUAGE sql AS
			'SELECT string_agg(md5(seed || \$\$.\$\$ || i), \$\$\$\$) FROM generate_series(1, n) i'});
	for my $schema ('sealed', 'plain')
	{
		my $am = $schema eq 'sealed' ? 'cmek_heap' : 'heap';

		$node->safe_psql('postgres', qq{
			CREATE SCHEMA $schema;
			CREATE TABLE $schema.ledger (client int, n int) USING $am;
			CREATE TABLE $schema.a (id int, v int, t text, big text) USING $am WITH (fillfactor = 80);
			ALTER TABLE $schema.a ALTER big SET STORAGE EXTERNAL;
			CREATE TABLE $schema.b (id int, v int, t text) USING $am;
			INSERT INTO $schema.a SELECT i, i, md5(i::text), CASE WHEN i % 10 = 0 THEN noise(i, 100) END FROM generate_series(1, 900) i;
			INSERT INTO $schema.b SELECT i, i, noise(i, i % 90) FROM generate_series(1, 900) i});
		next unless $indexes || $schema eq 'plain';
		$node->safe_psql('postgres', qq{
			ALTER TABLE $schema.a ADD CONSTRAINT a_id PRIMARY KEY (id);
			CREATE INDEX b_id ON $schema.b (id);
			CREATE INDEX b_v ON $schema.b (v)});
	}
	return;
}

sub pick
{
	my ($n) = @_;

	return int(rand($n));
}

# A range of ids of a client, most of which are there
sub range
{
	my ($self, $c, $len) = @_;
	my $lo = $self->{next}{$c}{id} - pick(3000);

	$lo = 1 if $lo < 1;
	return "id % $self->{clients} = $c AND id BETWEEN $lo AND " . ($lo + $len);
}

# A number of new ids of a client, as the first of them
sub new_ids
{
	my ($self, $c, $n) = @_;
	my $k = $self->{clients};
	my $first = $self->{next}{$c}{id};

	$first += ($c - $first) % $k;
	$self->{next}{$c}{id} = $first + $k * $n;
	return $first;
}

# The kinds of changes: each returns statements, SCHEMA standing for both
my %change = (
	insert => sub {
		my ($self, $c) = @_;
		my $n = 1 + pick(15);
		my $id = $self->new_ids($c, $n);
		my $len = pick(4) ? pick(10) : pick(300);
		my $table = pick(2) ? "SCHEMA.a SELECT id, v, t, noise(id, $len)" : 'SCHEMA.b SELECT id, v, t';
		return "INSERT INTO $table FROM (SELECT $id + i * $self->{clients} AS id, i AS v, noise(i, " . pick(60) .
		  ') AS t FROM generate_series(0, ' . ($n - 1) . ') i) x';
	},
	copy => sub {
		my ($self, $c) = @_;
		my $n = 1 + pick(60);
		my $id = $self->new_ids($c, $n);
		my $long = pick(3) ? 50 : 6000;
		my $file = "$self->{dir}/rows$id";

		# a file: rows in the script would be taken for statements by psql when
		# COPY itself fails
		open(my $fh, '>', $file) or BAIL_OUT("could not write $file: $!");
		for my $i (map { $id + $_ * $self->{clients} } (0 .. $n - 1))
		{
			my $letters = $i % 9 ? '\N' : substr(join('', map { chr(97 + ($i * $_) % 26) } (1 .. 26)) x 300, 0, $long);
			print $fh "$i\t$n\t", 'c' x (1 + $i % 70), "\t$letters\n";
		}
		close($fh);
		return "COPY SCHEMA.a FROM '$file'";
	},
	hot => sub {
		my ($self, $c) = @_;
		return 'UPDATE SCHEMA.a SET t = left(t || v, 200), v = v + 1 WHERE ' . $self->range($c, 40);
	},
	cold => sub {
		my ($self, $c) = @_;
		return 'UPDATE SCHEMA.b SET v = v + 1, t = left(t, -1) WHERE ' . $self->range($c, 60);
	},
	big => sub {
		my ($self, $c) = @_;
		return 'UPDATE SCHEMA.a SET big = noise(id + v, ' . pick(400) . ') WHERE ' . $self->range($c, 12);
	},
	delete => sub {
		my ($self, $c) = @_;
		my $table = pick(2) ? 'a' : 'b';
		my $where = pick(4) ? $self->range($c, 60)
		  : "id % $self->{clients} = $c AND id < " . ($self->{next}{$c}{id} - 2500);
		return "DELETE FROM SCHEMA.$table WHERE $where";
	},
	upsert => sub {
		my ($self, $c) = @_;
		my $id = $self->new_ids($c, 10) - 20 * $self->{clients};
		return "INSERT INTO SCHEMA.a SELECT $id + i * $self->{clients}, i, 'upsert', noise(i, " . pick(200) .
		  ') FROM generate_series(0, 25) i ON CONFLICT (id) DO UPDATE SET v = a.v + 1, t = a.t || excluded.v, big = excluded.big';
	},
	subtransaction => sub {
		my ($self, $c) = @_;
		my $inner = join(";\n", map { $self->plain_change($c) } (1 .. 2));
		my $fail = pick(2) ? 'PERFORM 1 / 0;' : '';
		return "DO \$do\$ BEGIN\n$inner;\n$fail EXCEPTION WHEN division_by_zero THEN NULL; END \$do\$";
	},
	create => sub {
		my ($self, $c) = @_;
		my $name = "d_${c}_" . $self->{next}{$c}{n} . '_' . pick(1e6);
		push @{ $self->{next}{$c}{tables} }, $name;
		return "CREATE TABLE SCHEMA.$name (id int, x int, t text) USING AMNAME;\n" .
		  "INSERT INTO SCHEMA.$name SELECT i, i, noise(i, i) FROM generate_series(1, " . (1 + pick(150)) . ') i';
	},
	alter => sub {
		my ($self, $c) = @_;
		my $name = $self->own_table($c) or return $self->plain_change($c);
		my @how = ("ALTER TABLE SCHEMA.$name ADD COLUMN c" . pick(1e6) . ' int DEFAULT 7',
			"ALTER TABLE SCHEMA.$name DROP COLUMN IF EXISTS x", "TRUNCATE SCHEMA.$name",
			"ALTER TABLE SCHEMA.$name ALTER id TYPE bigint", "DROP TABLE SCHEMA.$name",
			"ALTER TABLE SCHEMA.$name SET ACCESS METHOD " . (pick(3) ? 'AMNAME' : 'heap'));
		return $how[ pick(scalar @how) ];
	},
	truncate => sub {
		my ($self, $c) = @_;
		return $self->plain_change($c) if pick(4);
		return "LOCK TABLE sealed.b, plain.b IN ACCESS EXCLUSIVE MODE;\nTRUNCATE SCHEMA.b";
	});

# A table that a client made, most likely still there
sub own_table
{
	my ($self, $c) = @_;
	my $tables = $self->{next}{$c}{tables};

	splice(@$tables, 0, @$tables - 6) if @$tables > 6;
	return @$tables ? $tables->[ pick(scalar @$tables) ] : undef;
}

sub plain_change
{
	my ($self, $c) = @_;
	my @kinds = qw(insert hot cold big delete);

	return $change{ $kinds[ pick(5) ] }->($self, $c);
}

# A statement for sealed and plain
sub twice
{
	my ($sql) = @_;
	my $both = '';

	for my $schema ('sealed', 'plain')
	{
		my $method = $schema eq 'sealed' ? 'cmek_heap' : 'heap';
		(my $one = $sql) =~ s/SCHEMA/$schema/g;
		$one =~ s/AMNAME/$method/g;
		$both .= "$one;\n";
	}
	return $both;
}

# One transaction of client $c
sub transaction
{
	my ($self, $c) = @_;
	my $n = $self->{next}{$c}{n}++;
	my @kinds = grep { $_ ne 'upsert' || $self->has_indexes } sort keys %change;
	my $sql = "\\echo begin $n\nBEGIN;\n" . twice("INSERT INTO SCHEMA.ledger VALUES ($c, $n)");
	my $two_phase = !pick(6);
	my $end = pick(8) ? 'COMMIT' : 'ROLLBACK';

	for my $step (1 .. 1 + pick(4))
	{
		my $one = twice($change{ $kinds[ pick(scalar @kinds) ] }->($self, $c));

		$one = "SAVEPOINT s;\n$one" . (pick(2) ? "ROLLBACK TO s;\n" : "RELEASE s;\n") unless pick(4);
		$sql .= $one;
	}
	return "$sql\\echo end $n\n$end;\n" unless $two_phase;
	return "$sql\\echo prepare $n\nPREPARE TRANSACTION '$c.$n';\n\\echo end $n\n$end PREPARED '$c.$n';\n";
}

# What goes on beside: maintenance of files, or of keys
my %upkeep = (
	files => sub {
		my ($self) = @_;
		my $table = pick(2) ? 'sealed.a' : 'sealed.b';
		my @how = ("VACUUM $table", "VACUUM (FREEZE) $table", "VACUUM FULL $table", 'CHECKPOINT', "ANALYZE $table");

		push @how, "REINDEX TABLE $table", 'CLUSTER sealed.a USING a_id', 'CLUSTER sealed.b USING b_id' if $self->has_indexes;
		return $how[ pick(scalar @how) ];
	},
	keys => sub {
		my $table = (qw(sealed.a sealed.b sealed.ledger))[ pick(3) ];
		my @key = pick(2) ? ('second', 'cmek_service_key') : ('cmek_service_key', 'second');
		my @how = ("CALL cmek.rotate_data_key('$table')", "CALL cmek.reseal('$table')",
			"CALL cmek.rotate_data_key('$table')", "CALL cmek.reseal('$table')",
			"ALTER TABLE $table SET (cmek.key = '$key[0]')", "CALL cmek.switch_key('$key[0]', '$key[1]')",
			"CALL cmek.rotate_table_key('$table')");
		return $how[ pick(scalar @how) ];
	});

# Start a psql on a script
sub run_script
{
	my ($self, $name, $script) = @_;
	my $file = "$self->{dir}/$name.sql";
	my %client = (name => $name, out => '', err => '');

	open(my $fh, '>', $file) or BAIL_OUT("could not write $file: $!");
	print $fh "\\set VERBOSITY sqlstate\nSET lock_timeout = '700ms';\nSET client_min_messages = error;\n$script";
	close($fh);
	$client{h} = IPC::Run::start([ 'psql', '-X', '-f', $file, '-d', $self->{node}->connstr('postgres') ],
		'>', \$client{out}, '2>', \$client{err});
	return \%client;
}

# Drop the tables that no client will touch again
sub drop_forgotten
{
	my ($self) = @_;
	my $node = $self->{node};
	my %kept = map { $_ => 1 } map { @{ $_->{tables} } } values %{ $self->{next} };
	my @names = grep { !$kept{$_} } split(/\n/, $node->safe_psql('postgres',
			"SELECT relname FROM pg_class WHERE relnamespace = 'sealed'::regnamespace AND relname LIKE 'd\\_%' AND relkind = 'r'"));

	$node->safe_psql('postgres', join('', map { "DROP TABLE sealed.$_, plain.$_;" } @names)) if @names;
	return;
}

# Start all clients, with more to do than they can
sub start
{
	my ($self, $transactions) = @_;
	my @running;

	$self->drop_forgotten;

	for my $c (0 .. $self->{clients} - 1)
	{
		my $first = $self->{next}{$c}{n};
		my $client = $self->run_script("client$c", join('', map { $self->transaction($c) } (1 .. $transactions)));

		@$client{ 'id', 'first' } = ($c, $first);
		push @running, $client;
	}
	for my $kind (sort keys %upkeep)
	{
		my @sql = map { $upkeep{$kind}->($self) } (1 .. 3 * $transactions);

		push @running, $self->run_script($kind, join('', map { "$_;\n" } @sql));
	}
	$self->{running} = \@running;
	return;
}

# Wait for the end of all clients; what was acknowledged.  Their errors are
# those of lock conflicts and of the crash
sub finish
{
	my ($self) = @_;
	my @odd;

	$self->{state} = {};
	for my $client (@{ $self->{running} })
	{
		eval { $client->{h}->finish };
		push @odd, map { "$client->{name}: $_" } grep { !/$expected_error/ } $client->{err} =~ /(?:ERROR|FATAL|PANIC): +(\S+)/g;
		$self->{state}{ $client->{id} } = read_output($client) if defined $client->{id};
	}
	return @odd;
}

# State of each transaction from what psql has printed: each echo is followed
# by the command tag of what it announces, unless that failed or the server went
sub read_output
{
	my ($client) = @_;
	my %state;
	my @lines = split(/\n/, $client->{out});

	for my $i (0 .. $#lines)
	{
		next unless $lines[$i] =~ /^(begin|prepare|end) (\d+)$/;
		my ($what, $n) = ($1, $2);
		my $tag = $i < $#lines ? $lines[ $i + 1 ] : undef;

		if ($what eq 'begin') { $state{$n} = 'begun' }
		elsif (!defined $tag) { $state{$n} = $what eq 'end' && ($state{$n} eq 'prepared' || $state{$n} eq 'begun') ? "$state{$n}, ending" : $state{$n} eq 'begun' ? 'preparing' : $state{$n} }
		elsif ($what eq 'prepare') { $state{$n} = $tag eq 'PREPARE TRANSACTION' ? 'prepared' : 'undone' }
		elsif ($tag =~ /^COMMIT/) { $state{$n} = 'acknowledged' }
		elsif ($tag =~ /^ROLLBACK/ || $state{$n} eq 'begun') { $state{$n} = 'undone' }
	}
	return \%state;
}

# What is in the ledger and among the prepared transactions, and may not be or
# is not
sub ledger_faults
{
	my ($self) = @_;
	my $node = $self->{node};
	my %prepared = map { $_ => 1 } split(/\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts'));
	my %there = map { $_ => 1 } split(/\n/, $node->safe_psql('postgres', "SELECT client || '.' || n FROM sealed.ledger"));
	my @faults;

	for my $client (@{ $self->{running} })
	{
		my $c = $client->{id};

		next unless defined $c;
		for my $n ($client->{first} .. $self->{next}{$c}{n} - 1)
		{
			my $state = $self->{state}{$c}{$n} || 'not begun';
			my $is = $there{"$c.$n"} ? 'there' : $prepared{"$c.$n"} ? 'prepared' : 'absent';
			my $may_be =
			    $state eq 'acknowledged' ? qr/there/
			  : $state eq 'prepared' ? qr/prepared/
			  : $state eq 'preparing' ? qr/prepared|absent/
			  : $state eq 'prepared, ending' ? qr/there|prepared|absent/
			  : $state eq 'begun, ending' ? qr/there|absent/
			  : qr/absent/;

			$self->{acknowledged}++ if $state eq 'acknowledged';
			push @faults, "$c.$n: $state, but $is" if $is !~ /^(?:$may_be)$/;
		}
	}
	return @faults;
}

# End what was prepared, one way or the other
sub end_prepared
{
	my ($self) = @_;
	my $node = $self->{node};

	for my $gid (split(/\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts ORDER BY gid')))
	{
		$node->safe_psql('postgres', (pick(2) ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
	return;
}

# Tables without a twin, or with another content than it
sub twin_faults
{
	my ($self) = @_;
	my $node = $self->{node};
	my @names = map {
		$node->safe_psql('postgres', "SELECT string_agg(relname, ' ' ORDER BY relname COLLATE \"C\") FROM pg_class
			WHERE relkind = 'r' AND relnamespace = '$_'::regnamespace")
	} ('sealed', 'plain');

	return "tables $names[0], but $names[1]" if $names[0] ne $names[1];
	my $sql = join(' UNION ALL ', map {
			"SELECT '$_', count(*) FROM ((SELECT md5(s::text) FROM sealed.$_ s EXCEPT ALL SELECT md5(p::text) FROM plain.$_ p)
				UNION ALL (SELECT md5(p::text) FROM plain.$_ p EXCEPT ALL SELECT md5(s::text) FROM sealed.$_ s)) x HAVING count(*) <> 0"
		} split(/ /, $names[0]));
	return split(/\n/, $node->safe_psql('postgres', $sql));
}

# What cmek.verify and the indexes say, and key rows of tables that are gone
sub damage
{
	my ($self) = @_;
	my $node = $self->{node};
	my @faults = split(/\n/, $node->safe_psql('postgres', q{
		SELECT v.* FROM pg_class c JOIN pg_am a ON a.oid = c.relam AND a.amname = 'cmek_heap' AND c.relkind = 'r',
			LATERAL cmek.verify(c.oid) v;
		SELECT 'key row of a table that is gone: ' || relid FROM (
			SELECT relid FROM cmek.table_key UNION ALL SELECT relid FROM cmek.data_key) k
		WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relid)}));

	return @faults unless $self->has_indexes;
	my @counts = map { $node->safe_psql('postgres', "SET enable_bitmapscan = off; SET $_ = off;
			SELECT (SELECT sum(hashtext(a::text)) FROM sealed.a WHERE id > 0), (SELECT sum(hashtext(b::text)) FROM sealed.b WHERE id > 0),
				(SELECT sum(hashtext(b::text)) FROM sealed.b WHERE v > -1000000)") } ('enable_seqscan', 'enable_indexscan');
	push @faults, "by index $counts[0], by the table $counts[1]" if $counts[0] ne $counts[1];
	return @faults;
}

# Everything that has to be true after a crash
sub check
{
	my ($self, $when) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join("\n", $self->ledger_faults), '', "$when: the ledger is right");
	$self->end_prepared;
	is(join("\n", $self->twin_faults), '', "$when: sealed and plain tables are the same");
	is(join("\n", $self->damage), '', "$when: verify, indexes and keys are clean");
	return;
}

1;
