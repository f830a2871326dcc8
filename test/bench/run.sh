#!/bin/bash
# make bench: a sealed table against plain heap, side by side in one run.
#
#   SCALE    rows in millions (1)
#   ROUNDS   pairs of measurements for each line (7); medians are shown
#
# The table it prints is also written to build/pgN/bench.md.  Numbers of a
# machine with other work on it are worth little; ratios suffer less.

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

setup_packages
setup_server
build_extension
build_modules
make_work
say "measuring as user $user in $work"
as_user env SCALE="${SCALE:-1}" ROUNDS="${ROUNDS:-7}" bash "$work/tree/test/bench/measure.sh"
cp "$work/bench.md" "$build/bench.md"
say "written to ${build#"$top"/}/bench.md"
