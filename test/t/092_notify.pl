# Telling people: NOTIFY, posts to cmek.notify_url that are signed, tried again
# until they are taken, and survive a restart; a warning with the day of the
# drop, again and again, more often towards the end.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::RealBin/../lib";
use IO::Socket::INET;
use POSIX ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use CmekTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $file = new_key_file("$dir/k");
my $secret = 'correct horse battery staple';
append_to_file("$dir/secret", "$secret\n");
chmod(0600, "$dir/secret");

# A receiver: writes down each request whole; answers with the status in a file
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16, ReuseAddr => 1) or BAIL_OUT("no socket: $!");
my $port = $listener->sockport;
append_to_file("$dir/status", '200 OK');
my $receiver = fork() // BAIL_OUT("fork: $!");
if (!$receiver)
{
	while (my $client = $listener->accept)
	{
		my ($head, $body) = ('', '');
		while (my $line = <$client>)
		{
			$head .= $line;
			last if $line =~ /^\r?\n$/;
		}
		my ($length) = $head =~ /^content-length: *(\d+)/im;
		read($client, $body, $length || 0);
		my $status = slurp_file("$dir/status");
		append_to_file("$dir/posts", encode_json({ head => $head, body => $body, status => $status }) . "\n");
		print $client "HTTP/1.1 $status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
		close($client);
	}
	POSIX::_exit(0);
}

END { kill('TERM', $receiver) if $receiver; }

sub posts { return -e "$dir/posts" ? map { decode_json($_) } split(/\n/, slurp_file("$dir/posts")) : (); }

sub set_status
{
	unlink("$dir/status.new");
	append_to_file("$dir/status.new", $_[0]);
	rename("$dir/status.new", "$dir/status");
	return;
}

my $node = cmek_node('primary', config => [ 'log_min_messages = log', "cmek.drop_after = '21s'", "cmek.audit_anchor_interval = '5s'",
	"cmek.notify_url = 'http://127.0.0.1:$port/hook'", "cmek.notify_secret_file = '$dir/secret'" ]);

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub wait_for
{
	my ($check, $name) = @_;

	for (1 .. 1800)
	{
		return pass($name) if $check->();
		sleep(0.1);
	}
	return fail($name);
}

my $listen = $node->background_psql('postgres');
$listen->query_safe('LISTEN cmek');
sql("CREATE SERVER k FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$file');
	CREATE TABLE t (a int) USING cmek_heap WITH (cmek.key = 'k')");

# ---------------------------------------------------------------------
# A deed is told
# ---------------------------------------------------------------------

wait_for(sub { grep { $_->{body} =~ /"event": "bind"/ } posts() }, 'an event is posted');
my ($post) = grep { $_->{body} =~ /"event": "bind"/ } posts();
like($post->{head}, qr{^POST /hook HTTP/1\.1\r\n}, 'as a POST');
like($post->{head}, qr{^content-type: application/json\r$}im, 'of JSON');
my $event = decode_json($post->{body});
is("$event->{event} $event->{outcome} $event->{key} $event->{table} $event->{role}", 'bind done k public.t postgres', 'that says all');
my ($at) = $post->{head} =~ /^x-cmek-timestamp: (\d+)\r$/im;
my ($mac) = $post->{head} =~ /^x-cmek-signature: v1=([0-9a-f]{64})\r$/im;
cmp_ok(abs($at - time()), '<', 120, 'signed now');
is($mac, hmac_sha256_hex("$at.$post->{body}", $secret), 'with the secret');
isnt($mac, hmac_sha256_hex("$at.$post->{body}", 'another'), 'and no other');
like($listen->query_safe('SELECT 1'), qr/Asynchronous notification "cmek" with payload "\{"event": "bind"/, 'NOTIFY says it, too');
wait_for(sub { grep { $_->{body} =~ /"event": "anchor"/ && $_->{body} =~ /"anchor": "\d+:[0-9a-f]{64}"/ } posts() }, 'anchors are posted');

# ---------------------------------------------------------------------
# A receiver that fails gets it later, in order, also after a restart
# ---------------------------------------------------------------------

set_status('503 Service Unavailable');
sql("SELECT cmek.suspend_key('k')");
wait_for(sub { grep { $_->{status} =~ /503/ && $_->{body} =~ /"event": "suspend"/ } posts() }, 'a receiver that fails');
wait_for(sub { sql('SELECT count(*) FROM cmek.notification WHERE last_error LIKE \'Http503%\'') > 0 }, 'is written down');
sql("SELECT cmek.resume_key('k')");
$node->poll_query_until('postgres', 'SELECT cmek.events_waiting() = 0');
$node->restart;
set_status('204 No Content');
wait_for(sub { sql('SELECT count(*) FROM cmek.notification') == 0 }, 'all are delivered in the end');
my @order = grep { /suspend|resume/ } map { decode_json($_->{body})->{event} } grep { $_->{status} =~ /204/ } posts();
is("@order", 'suspend resume', 'once each, in order');

# ---------------------------------------------------------------------
# A key that is lost: at once, and warnings with the day of the drop
# ---------------------------------------------------------------------

$listen = $node->background_psql('postgres');
$listen->query_safe('LISTEN cmek');
hide_key($file);
my $lost = time();
wait_for(sub { grep { $_->{body} =~ /"event": "denied"/ } posts() }, 'a lost key is posted');
($post) = grep { $_->{body} =~ /"event": "denied"/ } posts();
$event = decode_json($post->{body});
is("$event->{key} $event->{code}", 'k KeyFileMissing', 'with what the KMS said');
like($event->{drop_at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, 'and the day of the drop');
wait_for(sub { 2 <= grep { $_->{body} =~ /"event": "warn"/ } posts() }, 'warnings follow');
like(slurp_file($node->logfile), qr/tables of KMS key "k" of database \d+ will be snapshotted and dropped on/, 'the server log has the day');
like($listen->query_safe('SELECT 1'), qr/"event": "denied".*"drop_at"/s, 'so has NOTIFY');
is(sql(q{SELECT count(*) > 0 FROM cmek.key_events WHERE event = 'warn' AND drop_at IS NOT NULL}), 't', 'and cmek.key_events');
show_key($file);
wait_for(sub { grep { $_->{body} =~ /"event": "back"/ } posts() }, 'its return is posted');

is(sqlstate($node, "ALTER SYSTEM SET cmek.notify_url = '$_'"), '22023', "no post without TLS but to this machine: $_")
  for 'http://example.com/', 'http://127.0.0.1.example.com/', 'http://localhost:80@example.com/', 'http://localhosts/', 'ftp://127.0.0.1/';
is(sqlstate($node, "ALTER SYSTEM SET cmek.drop_after = 'soon'"), '22023', 'a duration that is none');

$node->stop;
done_testing();
