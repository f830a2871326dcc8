# Random sessions: who does what next.
#
# At most one pair waits at a time: then those it waits for end their
# transactions.  So there is no deadlock, and the same seed gives the same run.

package Driver;

use strict;
use warnings;

use Values;

# twins, grammar, pairs (how many)
sub new
{
	my ($class, %options) = @_;
	my $self = bless { count => {}, blocked => 0, %options }, $class;

	$self->{twins}->add_pair for 1 .. $self->{pairs};
	return $self;
}

# One statement in one pair, until it has ended; a difference dies
sub step
{
	my ($self, $n, $sql) = @_;
	my $twins = $self->{twins};

	my ($word) = $sql =~ /^(?:-- ordered\s+)?(\w+)/;
	$self->{count}{$word}++;
	$twins->begin($n, $sql, $sql =~ /^-- ordered/);
	my $result = $twins->finish($n);
	$self->{blocked}++ if $result eq 'blocked';
	while ($result eq 'blocked')
	{
		for my $other ($twins->blocking_pairs($n))
		{
			$self->step($other, pick('COMMIT', 'COMMIT', 'ROLLBACK')) if $other != $n;
		}
		$result = $twins->finish($n);
	}
	die "$result\n" if $result ne 'done';
	$self->{count}{error}++ if $twins->error_of($n);
	return $twins->error_of($n);
}

# Does a session see the same in both tables?  If not, which rows differ
sub same_table
{
	my ($self, $n, $t) = @_;

	return if eval {
		$self->step($n, qq{SELECT count(*), md5(string_agg(($t.*)::text, '/' ORDER BY ($t.*)::text COLLATE "C")) FROM $t});
		1;
	};
	my $difference = $@;
	my %rows;
	for my $side (Twins::SIDES())
	{
		my ($lines) = $self->{twins}->ask($self->{twins}{pairs}[$n]{$side}, "SELECT ($t.*)::text FROM $t");
		$rows{$_}{$side}++ for @$lines;
	}
	for my $row (sort grep { ($rows{$_}{plain} || 0) != ($rows{$_}{sealed} || 0) } keys %rows)
	{
		$difference .= join(' ', map { "$_ " . ($rows{$row}{$_} || 0) } Twins::SIDES()) . ': ' . substr($row, 0, 300) . "\n"
		  if length($difference) < 4000;
	}
	die $difference;
}

# End every open transaction
sub end_all
{
	my ($self) = @_;

	for my $n (0 .. $self->{pairs} - 1)
	{
		$self->step($n, pick('COMMIT', 'COMMIT', 'ROLLBACK')) if $self->{twins}->transaction($n);
		$self->{grammar}{cursors}{$n} = [] if chance(50);
	}
	return;
}

# Change the shape of a table for good; what is known follows what happened
sub reshape
{
	my ($self, $n, $t) = @_;
	my $table = $self->{grammar}{tables}{$t};
	my @before = map { +{%$_} } @{ $table->{columns} };
	my ($first, @more) = $self->{grammar}->reshape($t, 1);

	if ($self->step($n, $first))
	{
		$table->{columns} = \@before;
		return;
	}
	$self->step($n, $_) for @more;
	return;
}

# What is done in a transaction, or as one
sub statement
{
	my ($self, $n, $t) = @_;
	my $grammar = $self->{grammar};

	return pick(
		(sub { $grammar->insert($t) }) x 5, (sub { $grammar->update($t) }) x 5, (sub { $grammar->remove($t) }) x 2,
		(sub { $grammar->merge($t) }) x 1, (sub { $grammar->query($t) }) x 5, (sub { $grammar->lock_rows($t) }) x 3,
		(sub { $grammar->copy($t) }) x 2, (sub { $grammar->cursor($n, $t) }) x 3)->();
}

# In a transaction: statements, savepoints, its end
sub inside
{
	my ($self, $n, $t, $failed) = @_;
	my $kind = between(0, 99);

	if ($kind < ($failed ? 40 : 12)) { $self->step($n, pick('COMMIT', 'COMMIT', 'ROLLBACK')); }
	elsif ($kind < ($failed ? 75 : 20)) { $self->step($n, 'ROLLBACK TO SAVEPOINT s'); }
	elsif ($kind < 32) { $self->step($n, 'SAVEPOINT s'); }
	elsif ($kind < 35) { $self->step($n, 'RELEASE SAVEPOINT s'); }
	elsif ($kind < 38) { $self->step($n, $_) for $self->{grammar}->reshape($t, 0); }
	elsif ($kind < 39) { $self->step($n, "TRUNCATE $t"); }
	else { $self->step($n, $_) for $self->statement($n, $t); }
	return;
}

# Outside of one: a statement by itself, the beginning of one, or maintenance
sub outside
{
	my ($self, $n, $t) = @_;
	my $kind = between(0, 99);

	if ($kind < 30) { $self->step($n, pick('BEGIN', 'BEGIN', 'BEGIN ISOLATION LEVEL REPEATABLE READ')); }
	elsif ($kind < 37) { $self->step($n, $self->{grammar}->maintain($t)); }
	elsif ($kind < 40) { $self->reshape($n, $t); }
	elsif ($kind < 43)
	{
		$self->step($n, sprintf('SET %s = %s', pick(qw(enable_hashjoin enable_sort enable_hashagg enable_material enable_mergejoin enable_nestloop)), pick(qw(on off))));
	}
	elsif ($kind < 47)
	{
		$self->end_all;
		my $sql = $self->{grammar}->renew($t);
		my ($error) = grep { /^!/ } @{ $self->{twins}->one_side($n, 'sealed', $sql) };
		die "sealed: $error\n$sql\n" if $error;
		$self->{count}{renew}++;
	}
	else { $self->step($n, $_) for $self->statement($n, $t); }
	return;
}

# One random act, and a look at the table it was about
sub act
{
	my ($self) = @_;
	my $n = between(0, $self->{pairs} - 1);
	my $t = $self->{grammar}->any_table;
	my $state = $self->{twins}->transaction($n);

	$state ? $self->inside($n, $t, $state eq 'E') : $self->outside($n, $t);
	$self->same_table($n, $t) if $self->{twins}->transaction($n) ne 'E';
	return;
}

1;
