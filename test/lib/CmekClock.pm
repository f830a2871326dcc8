# Servers under a clock of ours, by libfaketime: one that runs fast, or that
# jumps.
#
# In PostgreSQL 15 the postmaster starts its workers in signal handlers, which
# interrupt its select().  libfaketime fakes nothing while a select() of its own
# is under way, and what is forked then stays so for ever.  So ours comes before
# it; else the clock would be everybody's but the keeper's and the visitors'.

package CmekClock;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(have_clock start_fast start_jumping set_jump);

my ($faketime) = glob('/usr/lib/*/faketime/libfaketime.so.1');
my $select;

# Can it be done here?
sub have_clock { return defined $faketime; }

# The library of our select()
sub build_select
{
	my $dir = PostgreSQL::Test::Utils::tempdir();

	append_to_file("$dir/select.c", <<'C');
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int
select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout)
{
	struct timespec t;

	if (timeout != NULL)
	{
		t.tv_sec = timeout->tv_sec;
		t.tv_nsec = timeout->tv_usec * 1000;
	}
	return syscall(SYS_pselect6, n, r, w, e, timeout != NULL ? &t : NULL, NULL);
}
C
	system_or_bail('cc', '-shared', '-fPIC', '-o', "$dir/select.so", "$dir/select.c");
	return "$dir/select.so";
}

# Start a server with some settings of libfaketime
sub start_with
{
	my ($node, %settings) = @_;

	$select = build_select() unless defined $select;
	local @ENV{ keys %settings } = values %settings;
	local $ENV{LD_PRELOAD} = "$select $faketime";
	$node->start;
	return;
}

# All clocks run at a rate; the wall clock is ahead by some seconds at first
sub start_fast
{
	my ($node, $rate, $ahead) = @_;

	# pg_ctl waits by that clock, too
	return start_with($node, FAKETIME => sprintf('+%d x%d', $ahead || 0, $rate), PGCTLTIMEOUT => 60 * $rate);
}

# The wall clock is what the file says, the monotonic one is true, and so are the
# times of files
sub start_jumping
{
	my ($node, $file, $offset) = @_;

	set_jump($file, $offset);
	return start_with($node, FAKETIME_TIMESTAMP_FILE => $file, FAKETIME_NO_CACHE => 1,
		FAKETIME_DONT_FAKE_MONOTONIC => 1, DONT_FAKE_MONOTONIC => 1, NO_FAKE_STAT => 1);
}

# Jump: '+365d'
sub set_jump
{
	my ($file, $offset) = @_;

	open(my $fh, '>', "$file.new") or BAIL_OUT("no clock: $!");
	print $fh $offset;
	close($fh);
	rename("$file.new", $file) or BAIL_OUT("no clock: $!");
	return;
}

1;
