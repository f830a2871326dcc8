# Pairs of sessions: one works on plain heap tables, one on sealed twins.
#
# A step is one statement in one pair.  Both sides get the same text and must
# give back the same lines, or the same SQLSTATE.  Interleaving is the
# driver's: a step ends when both sides have answered, or when both wait for a
# lock; a side that waits alone is a difference.  Every step is recorded, as
# SQL with the number of its pair, and a record can be replayed.

package Twins;

use strict;
use warnings;

use IPC::Open3;
use Time::HiRes qw(time sleep);
use PostgreSQL::Test::Utils;

use constant SIDES => qw(plain sealed);

# connstr, dir (for files of COPY), setup of each side
sub new
{
	my ($class, %options) = @_;
	my $self = bless { %options, pairs => [], record => [], number => 0 }, $class;

	$self->{monitor} = $self->open_psql('');
	return $self;
}

# A psql whose output, errors included, is read through one pipe
sub open_psql
{
	my ($self, $setup) = @_;
	my $session = { buffer => '', setup => $setup };

	$session->{pid} = open3($session->{in}, $session->{out}, undef,
		'psql', '-XqAt', '-v', 'VERBOSITY=sqlstate', '-d', $self->{connstr});
	$session->{in}->autoflush(1);
	$session->{out}->blocking(0);
	my ($lines) = $self->ask($session, "SET client_min_messages = error; $setup SELECT pg_backend_pid();");
	$session->{backend} = $lines->[-1];
	return $session;
}

# Send a statement; its answer ends with a marker
sub send_sql
{
	my ($self, $session, $sql) = @_;

	$session->{marker} = sprintf('-- done %d --', ++$self->{number});
	print { $session->{in} } "$sql\n;\n\\echo $session->{marker}\n";
	return;
}

# The lines of the answer, or undef when it has not come within some seconds
sub receive
{
	my ($self, $session, $patience) = @_;
	my $until = time + $patience;

	while ($session->{buffer} !~ /^\Q$session->{marker}\E\n/m)
	{
		my $left = $until - time;
		return undef if $left < 0;
		my $ready = '';
		vec($ready, fileno($session->{out}), 1) = 1;
		next unless select($ready, undef, undef, $left) > 0;
		my $n = sysread($session->{out}, $session->{buffer}, 65536, length($session->{buffer}));
		return [ $session->{buffer}, '!LOST' ] if defined $n && $n == 0;
	}
	$session->{buffer} =~ s/^(.*?)^\Q$session->{marker}\E\n//ms;
	# a last row that is NULL is an empty line, too
	my @lines = split(/\n/, $1, -1);
	pop @lines;
	return [ map { /^(?:psql:[^:]*:\d+: )?(?:ERROR|FATAL|PANIC): +(\w{5})$/ ? "!$1" : $_ } @lines ];
}

# One session by itself
sub ask
{
	my ($self, $session, $sql) = @_;

	$self->send_sql($session, $sql);
	my $lines = $self->receive($session, $PostgreSQL::Test::Utils::timeout_default);
	die "no answer to: $sql\n" unless defined $lines;
	return ($lines);
}

# Open the next pair of sessions; its number
sub add_pair
{
	my ($self) = @_;
	my %pair = map { $_ => $self->open_psql($self->{setup}{$_}) } SIDES;

	push @{ $self->{pairs} }, \%pair;
	return $#{ $self->{pairs} };
}

# Which backends does a backend wait for?
sub blockers
{
	my ($self, $backend) = @_;
	my ($lines) = $self->ask($self->{monitor},
		"SELECT unnest(pg_catalog.pg_blocking_pids($backend)) FROM pg_stat_activity "
		  . "WHERE pid = $backend AND wait_event_type = 'Lock'");

	return @$lines;
}

# Which pairs does a pair wait for, as its plain side sees it?
sub blocking_pairs
{
	my ($self, $n) = @_;
	my %by = map { $_ => 1 } $self->blockers($self->{pairs}[$n]{plain}{backend});

	return grep { $by{ $self->{pairs}[$_]{plain}{backend} } } 0 .. $#{ $self->{pairs} };
}

# What one side sees of a statement: files of COPY have names of its own
sub for_side
{
	my ($self, $sql, $side) = @_;

	$sql =~ s/\@FILE\@/$self->{dir}\/$side.copy/g;
	return $sql;
}

sub note_step
{
	my ($self, $n, $sql, $only) = @_;

	push @{ $self->{record} }, '-- session ' . $n . ($only ? " $only" : '') . "\n$sql\n;\n";
	return;
}

# A statement for one side alone, which must succeed; its lines
sub one_side
{
	my ($self, $n, $side, $sql) = @_;

	$self->note_step($n, $sql, $side);
	my ($lines) = $self->ask($self->{pairs}[$n]{$side}, $self->for_side($sql, $side));
	return $lines;
}

# Begin a step
sub begin
{
	my ($self, $n, $sql, $ordered) = @_;
	my $pair = $self->{pairs}[$n];

	$self->note_step($n, $sql);
	$pair->{ordered} = $ordered;
	$pair->{sql} = $sql;
	delete $pair->{answer};
	$self->send_sql($pair->{$_}, $self->for_side($sql, $_)) for SIDES;
	return;
}

# Wait for the end of a step.  'done', 'blocked' (both sides wait for a lock),
# or a text that says how the sides differ.
sub finish
{
	my ($self, $n) = @_;
	my $pair = $self->{pairs}[$n];
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;

	$pair->{answer} ||= {};
	for (;;)
	{
		my $answer = $pair->{answer};
		for my $side (SIDES)
		{
			next if $answer->{$side};
			my $lines = $self->receive($pair->{$side}, 0.02);
			$answer->{$side} = $lines if defined $lines;
		}
		return $self->compare($n) if 2 == grep { $answer->{$_} } SIDES;
		return 'blocked' if 2 == grep { !$answer->{$_} && $self->blockers($pair->{$_}{backend}) } SIDES;
		if (time > $until)
		{
			return 'only one side answers: ' . join(', ', map { "$_ " . ($answer->{$_} ? 'done' : 'not') } SIDES);
		}
	}
}

# Do the two answers say the same?
sub compare
{
	my ($self, $n) = @_;
	my $pair = $self->{pairs}[$n];
	my %text;

	for my $side (SIDES)
	{
		my @lines = @{ $pair->{answer}{$side} };
		@lines = sort @lines unless $pair->{ordered};
		$text{$side} = join("\n", @lines);
		return "$side lost its connection: $text{$side}" if $text{$side} =~ /!LOST$/m;
		return "$side: internal error\n$text{$side}" if $text{$side} =~ /^!XX/m;
	}
	return 'done' if $text{plain} eq $text{sealed};
	return "in session $n:\n$pair->{sql}\n"
	  . join('', map { "---- $_\n" . substr($text{$_}, 0, 3000) . "\n" } SIDES);
}

# Did the last step of a pair end in an error?  Its SQLSTATE
sub error_of
{
	my ($self, $n) = @_;
	my ($error) = grep { /^!/ } @{ $self->{pairs}[$n]{answer}{plain} };

	return $error ? substr($error, 1) : '';
}

# In a transaction?  '' no, 'T' yes, 'E' failed
sub transaction
{
	my ($self, $n) = @_;
	my $session = $self->{pairs}[$n]{plain};

	my ($state) = $self->ask($self->{monitor},
		"SELECT state FROM pg_stat_activity WHERE pid = $session->{backend}");

	return $state->[0] =~ /aborted/ ? 'E' : $state->[0] =~ /in transaction/ ? 'T' : '';
}

# Everything done so far, as a file that replay() reads
sub script
{
	my ($self) = @_;

	return join('', @{ $self->{record} });
}

# Do what a record says; the first difference, or ''
sub replay
{
	my ($self, $script) = @_;
	my @steps = $script =~ /^-- session (\d+)(?: (plain|sealed))?\n(.*?)\n;\n(?=-- session|\z)/msg;
	my %blocked;

	while (my ($n, $side, $sql) = splice(@steps, 0, 3))
	{
		$self->add_pair while $n > $#{ $self->{pairs} };
		for (keys %blocked)
		{
			my $again = $self->finish($_);
			next if $again eq 'blocked';
			delete $blocked{$_};
			return $again if $again ne 'done';
		}
		next if $blocked{$n};
		if ($side)
		{
			my ($error) = grep { /^!/ } @{ $self->one_side($n, $side, $sql) };
			return "$error: $sql" if $error;
			next;
		}
		$self->begin($n, $sql, $sql =~ /^-- ordered/);
		my $result = $self->finish($n);
		$blocked{$n} = 1 if $result eq 'blocked';
		return $result if $result ne 'blocked' && $result ne 'done';
	}
	return '';
}

sub close_all
{
	my ($self) = @_;

	for my $session ($self->{monitor}, map { @$_{ (SIDES) } } @{ $self->{pairs} })
	{
		close($session->{in});
		waitpid($session->{pid}, 0);
	}
	return;
}

1;
