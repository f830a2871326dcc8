# A second installation of the server under test, with other SQL scripts of
# the extension: PostgreSQL finds its files relative to its programs, so a few
# copied programs and many links are enough.  Nothing is installed anywhere
# else.

package CmekInstall;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use File::Copy;
use File::Path qw(make_path);
use PostgreSQL::Test::Utils;
use CmekTest;

our @EXPORT = qw(private_install add_script install_file);

sub config { my ($name) = @_; chomp(my $dir = `pg_config --$name`); return $dir; }

# Links to all that is in a directory
sub link_all
{
	my ($from, $to) = @_;

	make_path($to);
	for my $file (glob("$from/*"))
	{
		my $name = basename($file);
		symlink($file, "$to/$name") or die "could not link $name: $!" unless -e "$to/$name";
	}
	return;
}

# Make one under a directory; returns what Cluster->new takes as install_path,
# or undef where programs, libraries and data have no common place
sub private_install
{
	my ($dir) = @_;
	my ($bin, $lib, $share) = map { config($_) } qw(bindir pkglibdir sharedir);

	return undef unless dirname($bin) =~ m{^(.*)/lib/postgresql/\d+$} && $share =~ m{^\Q$1\E/share/postgresql/\d+$};
	make_path($dir . $bin);
	for my $program (qw(postgres initdb pg_ctl psql pg_basebackup pg_controldata pg_verifybackup pg_isready pg_config))
	{
		copy("$bin/$program", "$dir$bin/$program") && chmod(0755, "$dir$bin/$program") or die "could not copy $program: $!"
		  if -e "$bin/$program";
	}
	make_path("$dir$share/extension");
	link_all("$share/extension", "$dir$share/extension");
	link_all($share, "$dir$share");
	link_all($lib, "$dir$lib");
	return $dir . dirname($bin);
}

# The path of a file of the extension in it
sub install_file
{
	my ($dir, $name) = @_;

	return $dir . config('sharedir') . "/extension/$name";
}

# Put a script of its own there
sub add_script
{
	my ($dir, $name, $text) = @_;
	my $file = install_file($dir, $name);

	unlink($file);
	append_to_file($file, $text);
	return;
}

1;
