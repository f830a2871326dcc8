# Stubs of KMSs (test/kms/*_stub.py) as a test uses them: started on a free
# port, told what to be, ended with the test, killed or not.

package CmekStub;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use HTTP::Tiny;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT = qw(start_stub dead_port test_certificate rsa_key spew);

my @running;

sub spew
{
	my ($file, $text) = @_;

	open(my $fh, '>', $file) or BAIL_OUT("could not write $file: $!");
	print $fh $text;
	close($fh);
	return $file;
}

# Start NAME_stub.py.  Options: cert, key (TLS), init (orders), args
sub start_stub
{
	my ($name, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $file = "$dir/port";
	my @args = ("$FindBin::RealBin/../kms/${name}_stub.py", '--port-file', $file);

	push @args, '--cert', $options{cert}, '--key', $options{key} if $options{cert};
	push @args, '--init', spew("$dir/init", encode_json($options{init})) if $options{init};
	push @args, @{ $options{args} } if $options{args};
	my $pid = fork() // BAIL_OUT("could not fork: $!");
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$dir/out");
		open(STDERR, '>&', \*STDOUT);
		$ENV{PYTHONDONTWRITEBYTECODE} = 1;
		# util-linux: the kernel ends it when this test ends, however it does
		{ exec('/usr/bin/setpriv', '--pdeathsig', 'KILL', '/usr/bin/python3', @args) };
		POSIX::_exit(1);
	}
	push @running, $pid;
	for (1 .. 1200)
	{
		last if -e $file;
		sleep(0.1);
	}
	BAIL_OUT("stub $name did not start: " . slurp_file("$dir/out")) unless -e $file;
	my ($port, $plain) = split / /, slurp_file($file);
	return bless({ port => $port, pid => $pid, plain => 'http://127.0.0.1:' . ($plain // $port),
			url => ($options{cert} ? 'https' : 'http') . "://127.0.0.1:$port" }, __PACKAGE__);
}

sub url  { return $_[0]{url} }
sub port { return $_[0]{port} }

# The same without TLS
sub plain { return $_[0]{plain} }

# Tell a stub something; what it answers
sub tell
{
	my ($self, $do, %order) = @_;
	my $response = HTTP::Tiny->new(timeout => 30)->post("$self->{plain}/_control",
		{ content => encode_json({ %order, do => $do }) });

	BAIL_OUT("stub did not understand $do: $response->{content}") unless $response->{success};
	return JSON::PP->new->allow_nonref->decode($response->{content});
}

# The requests since the last forget, whose path contains a text
sub requests
{
	my ($self, $text) = @_;

	return scalar grep { index($_, $text // '') >= 0 } @{ $self->tell('count')->{requests} };
}

sub connections { return $_[0]->tell('count')->{connections} }

sub stop
{
	my ($self) = @_;

	kill('KILL', $self->{pid});
	waitpid($self->{pid}, 0);
	@running = grep { $_ != $self->{pid} } @running;
	return;
}

# A port where nobody listens
sub dead_port
{
	require IO::Socket::INET;
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or BAIL_OUT('no port');
	my $port = $socket->sockport;

	close($socket);
	return $port;
}

# A self-signed certificate for 127.0.0.1: (certificate, key).  Days may be
# negative: expired
sub test_certificate
{
	my ($days) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @dates = $days > 0 ? ('-days', $days) : ('-days', 1);
	my @cmd = ('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1',
		'-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', "$dir/key", '-out', "$dir/cert", @dates);

	# openssl 3.0 has no -not_after: "x509 -req" neither, but "ca" has
	if ($days <= 0)
	{
		spew("$dir/index", '');
		spew("$dir/serial", "01\n");
		spew("$dir/conf", "[ca]\ndefault_ca=c\n[c]\ndatabase=$dir/index\nserial=$dir/serial\nnew_certs_dir=$dir\n"
			  . "default_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n"
			  . "[x]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:TRUE\n");
		@cmd = ('openssl', 'req', '-new', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1',
			'-keyout', "$dir/key", '-out', "$dir/csr");
		quietly(@cmd);
		@cmd = ('openssl', 'ca', '-batch', '-selfsign', '-config', "$dir/conf", '-keyfile', "$dir/key",
			'-in', "$dir/csr", '-out', "$dir/cert", '-notext',
			'-startdate', '20200101000000Z', '-enddate', '20200201000000Z');
	}
	quietly(@cmd);
	return ("$dir/cert", "$dir/key");
}

sub quietly
{
	my (@cmd) = @_;

	system("@{[ map { quotemeta } @cmd ]} >/dev/null 2>&1") == 0 or BAIL_OUT("failed: @cmd");
	return;
}

# An RSA key: (private, public) in PEM
sub rsa_key
{
	my ($bits) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();

	quietly('openssl', 'genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:' . ($bits // 2048),
		'-out', "$dir/private");
	quietly('openssl', 'pkey', '-in', "$dir/private", '-pubout', '-out', "$dir/public");
	return ("$dir/private", "$dir/public");
}

END
{
	my $status = $?;
	kill('KILL', @running) if @running;
	waitpid($_, 0) for @running;
	$? = $status;
}

1;
