# HSMs and key servers as the tests use them: a token of SoftHSM, a server of
# PyKMIP's with certificates of its own.

package CmekHsm;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use CmekStub;

our @EXPORT = qw(softhsm have_softhsm have_pykmip start_kmip kmip_files);

my $soft = '/usr/lib/softhsm/libsofthsm2.so';

sub run_quiet { return system("@{[ map { quotemeta } @_ ]} >/dev/null 2>&1") == 0 }

sub have_softhsm
{
	return -e $soft && run_quiet('softhsm2-util', '--version') && run_quiet('/usr/bin/python3', '-c', 'import PyKCS11');
}

sub have_pykmip { return run_quiet('/usr/bin/python3', '-W', 'ignore', '-c', 'import kmip.services.server.session') }

# Make a token, PIN 1234, with key "k"; sets the environment of servers to come.
# Methods: module, client(what, label, ...), dir
sub softhsm
{
	my $dir = PostgreSQL::Test::Utils::tempdir();

	mkdir "$dir/tokens";
	spew("$dir/conf", "directories.tokendir = $dir/tokens\nobjectstore.backend = file\nlog.level = ERROR\n");
	$ENV{SOFTHSM2_CONF} = "$dir/conf";
	my $self = bless({ dir => $dir, token => 'tok', pin => '1234' }, __PACKAGE__);
	$self->add_token('tok');
	$self->client('make', 'k');
	return $self;
}

sub add_token
{
	my ($self, $label) = @_;

	run_quiet('softhsm2-util', '--init-token', '--free', '--label', $label, '--so-pin', '12345678', '--pin', $self->{pin})
	  or BAIL_OUT("no token $label");
	return;
}

sub module { return $soft }
sub dir    { return $_[0]{dir} }

# The token's owner, by PyKCS11; what it printed
sub client
{
	my ($self, @args) = @_;
	my ($out, $err) = run_command([ '/usr/bin/python3', "$FindBin::RealBin/../kms/p11_client.py", $soft, $self->{token}, $self->{pin}, @args ]);

	BAIL_OUT("p11_client @args: $err") if $err =~ /Error/;
	return $out;
}

# Certificates: ca, server, client, one of each that has expired, and a
# stranger's (of another authority)
sub kmip_files
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my %for = (server => [ '127.0.0.1', 'serverAuth', 'IP:127.0.0.1' ], client => [ 'db', 'clientAuth', 'DNS:db' ],
		named => [ 'elsewhere', 'serverAuth', 'DNS:elsewhere.example' ], expired => [ 'db', 'serverAuth,clientAuth', 'IP:127.0.0.1' ]);
	my $quiet = sub { run_quiet(@_) or BAIL_OUT("failed: @_") };

	for my $ca ('ca', 'other_ca')
	{
		$quiet->('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$ca", '-days', 2,
			'-keyout', "$dir/$ca.key", '-out', "$dir/$ca.pem");
	}
	# only "ca" takes dates, in every version of openssl
	spew("$dir/index", '');
	spew("$dir/serial", "01\n");
	spew("$dir/conf", "[ca]\ndefault_ca=c\n[c]\ndatabase=$dir/index\nserial=$dir/serial\nnew_certs_dir=$dir\n"
		  . "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n");
	for my $who ('server', 'client', 'named', 'stranger', 'expired')
	{
		my ($cn, $usage, $alt) = @{ $for{$who} // $for{client} };
		my $ca = $who eq 'stranger' ? 'other_ca' : 'ca';

		$quiet->('openssl', 'req', '-new', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$cn", '-keyout', "$dir/$who.key", '-out', "$dir/$who.csr");
		spew("$dir/ext", "subjectAltName=$alt\nextendedKeyUsage=$usage\n");
		my @dates = $who eq 'expired' ? ('-startdate', '20200101000000Z', '-enddate', '20200201000000Z') : ('-days', 2);
		$quiet->('openssl', 'ca', '-batch', '-notext', '-config', "$dir/conf", '-cert', "$dir/$ca.pem", '-keyfile', "$dir/$ca.key",
			'-in', "$dir/$who.csr", '-extfile', "$dir/ext", @dates, '-out', "$dir/$who.pem");
		chmod(0600, "$dir/$who.key");
	}
	return $dir;
}

# A server of PyKMIP's; option: certificate (server).  As start_stub's
sub start_kmip
{
	my ($files, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $who = $options{certificate} // 'server';

	link("$files/$who.pem", "$dir/server.pem");
	link("$files/$who.key", "$dir/server.key");
	link("$files/ca.pem", "$dir/ca.pem");
	return start_stub('kmip', args => [ '--dir', $dir ]);
}

1;
