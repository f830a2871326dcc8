# The fuzz targets, briefly: seeds, regressions and some seconds of libFuzzer.
# run.sh builds them where clang is; `make fuzz` is the long form.
#
#   CMEK_FUZZ_SECONDS   for each target (2)

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $fuzz = "$FindBin::RealBin/../fuzz";
plan skip_all => 'the fuzz targets were not built: no clang with libFuzzer'
  unless -e "$fuzz/cmek_fuzz.so";

$ENV{CMEK_FUZZ_SECONDS} = 2 unless defined $ENV{CMEK_FUZZ_SECONDS};
my $dir = PostgreSQL::Test::Utils::tempdir;
my ($bindir) = `pg_config --bindir` =~ /(.*)/;
my ($library) = "$fuzz/cmek_fuzz.so";
my $out = `bash '$fuzz/run.sh' '$library' '$bindir' '$dir' 2>&1`;

is($?, 0, 'no target found anything') or diag($out);
my @targets = $out =~ /^ok (\w+): inputs (\d+) cov: \d+/mg;
is(@targets / 2, 11, 'eleven targets ran');
while (my ($target, $inputs) = splice(@targets, 0, 2))
{
	cmp_ok($inputs, '>', 100, "$target: $inputs inputs");
}

done_testing();
