# What the TAP tests share: servers with cmek, key files that go away and come
# back, errors by SQLSTATE, and a search for bytes in files.

package CmekTest;

use strict;
use warnings;

use Exporter 'import';
use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  cmek_node cmek_config service_key hide_key show_key new_key_file
  sqlstate fails_with wait_for_error wait_for_ok error_text eventually
  answers recorded_as_well checkpointer restarted_since limit_memory
  files_with slurp_binary spew_binary server_major with_marker);

# The major version of the server under test
sub server_major
{
	my ($version) = `initdb --version` =~ /(\d+)/;
	return $version;
}

# Settings of a test server; keys are proved again every second
sub cmek_config
{
	my ($node, @more) = @_;

	$node->append_conf('postgresql.conf', join("\n",
			"shared_preload_libraries = 'cmek'",
			"cmek.key_cache_ttl = '1s'",
			"cmek.kms_grace = '1s'",
			"max_prepared_transactions = 5",
			"log_min_messages = warning",
			@more, ''));
	return;
}

# A started server with the extension.  Checksums are off: it is the seal that
# has to notice (18 turns them on by itself)
sub cmek_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my @extra = server_major() >= 18 ? ('--no-data-checksums') : ();

	$node->init(
		extra => [ @extra, @{ $options{extra} || [] } ],
		allows_streaming => $options{streaming});
	# a standby that a busy machine slows down must not lose its place
	my @keep = $options{streaming} ? ("wal_keep_size = '4GB'") : ();
	cmek_config($node, @keep, @{ $options{config} || [] });
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION cmek');
	return $node;
}

# Where the service key of a server is
sub service_key
{
	my ($node) = @_;

	return $node->data_dir . '.cmek/service_key';
}

# Take a key file away, as losing the key does
sub hide_key
{
	my ($file) = @_;

	rename($file, "$file.away") or BAIL_OUT("could not hide $file: $!");
	return;
}

sub show_key
{
	my ($file) = @_;

	rename("$file.away", $file) or BAIL_OUT("could not bring back $file: $!");
	return;
}

# A key file of its own for a server of wrapper cmek_file
sub new_key_file
{
	my ($file) = @_;

	open(my $random, '<:raw', '/dev/urandom') or BAIL_OUT("no randomness: $!");
	read($random, my $bytes, 32) == 32 or BAIL_OUT('no randomness');
	close($random);
	umask(0077);
	open(my $fh, '>', $file) or BAIL_OUT("could not write $file: $!");
	print $fh unpack('H*', $bytes), "\n";
	close($fh);
	return $file;
}

# Run SQL in one session; its SQLSTATE, '' when there was no error
sub sqlstate
{
	my ($node, $sql, $db) = @_;
	my (undef, undef, $stderr) =
	  $node->psql($db || 'postgres', "\\set VERBOSITY verbose\n$sql");

	return $stderr =~ /(?:ERROR|FATAL|PANIC):  (\w{5}):/ ? $1
	  : $stderr =~ /(?:ERROR|FATAL|PANIC|connection)/ ? "?: $stderr"
	  : '';
}

# The whole text of an error
sub error_text
{
	my ($node, $sql, $db) = @_;
	my (undef, undef, $stderr) =
	  $node->psql($db || 'postgres', "\\set VERBOSITY verbose\n$sql");

	return $stderr;
}

sub fails_with
{
	my ($node, $state, $sql, $name, $db) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sqlstate($node, $sql, $db), $state, $name || $sql);
}

# Wait until a statement fails with a SQLSTATE ('': succeeds)
sub wait_for_error
{
	my ($node, $state, $sql, $db) = @_;
	my $seen = '';

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$seen = sqlstate($node, $sql, $db);
		return 1 if $seen eq $state;
		select(undef, undef, undef, 0.1);
	}
	diag("waited for SQLSTATE '$state', last seen '$seen': $sql");
	return 0;
}

sub wait_for_ok
{
	my ($node, $sql, $db) = @_;

	return wait_for_error($node, '', $sql, $db);
}

# Wait until a check, a sub, is true; false when it never is
sub eventually
{
	my ($check) = @_;

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $check->();
		select(undef, undef, undef, 0.1);
	}
	return 0;
}

# Wait until a query says true, of a server that may be restarting.  Unlike
# poll_query_until it minds no psql that ends before it has read the query
sub answers
{
	my ($node, $query) = @_;

	return 1 if eventually(sub {
		my ($status, $out) = eval { $node->psql('postgres', $query) };

		return defined $status && $status == 0 && $out eq 't';
	});
	diag("waited in vain for: $query");
	return 0;
}

# Until it is written down that a key is well: that is what a restart begins with
sub recorded_as_well
{
	my ($node, $key) = @_;

	return answers($node, "SELECT class = 'ok' FROM cmek.key_watch WHERE server = '$key'");
}

# Until it is stopped, each process of the server has at most 4 GB: on a page that was
# damaged core may ask for memory without end.  A sanitizer needs more than there is
sub limit_memory
{
	my ($node) = @_;
	my ($pid) = split /\n/, slurp_binary($node->data_dir . '/postmaster.pid');

	return 1 if $ENV{ASAN_OPTIONS};
	return system('prlimit', '--pid', $pid, '--as=' . 4 * 2**30) == 0;
}

# The process that a crash of any other makes the server replace; to be asked
# before the crash
sub checkpointer
{
	my ($node) = @_;

	return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
}

# Wait for the restart after a crash, which begins only when the server has
# noticed: until then it still takes connections
sub restarted_since
{
	my ($node, $old) = @_;

	return answers($node, "SELECT count(*) = 1 AND min(pid) <> $old FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
}

sub slurp_binary
{
	my ($file) = @_;

	open(my $fh, '<:raw', $file) or return '';
	local $/;
	my $bytes = <$fh>;
	close($fh);
	return defined $bytes ? $bytes : '';
}

sub spew_binary
{
	my ($file, $bytes) = @_;

	open(my $fh, '+<:raw', $file) or BAIL_OUT("could not open $file: $!");
	print $fh $bytes;
	close($fh);
	return;
}

# The files under a directory that contain some bytes, relative to it
sub files_with
{
	my ($dir, $bytes) = @_;
	my @found;

	find({
			no_chdir => 1,
			wanted => sub {
				return unless -f $_;
				push @found, substr($_, length($dir) + 1)
				  if index(slurp_binary($_), $bytes) >= 0;
			}
		}, $dir);
	return sort @found;
}

# SQL for a marker that does not contain the marker, so that query texts in
# shared memory and logs are no hit
sub with_marker
{
	my ($marker) = @_;

	return "reverse('" . reverse($marker) . "')";
}

1;
