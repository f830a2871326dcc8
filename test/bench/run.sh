#!/bin/bash
# make bench, bench-long, bench-check: sealed tables against plain heap, side
# by side in one run.
#
#   bench        under ten minutes; writes test/bench/report.md and ratios.svg
#   bench-long   10^7 rows, 10,000 tables, longer runs; hours on a slow machine
#   bench-check  the same as bench, and fails when a ratio is more than 15%
#                worse than in test/bench/recorded.tsv; writes nothing there
#
#   ROUNDS              pairs of measurements for each line (5; long: 9)
#   ROWS                rows of the tables that are scanned (1000000; long: ten times)
#   CMEK_BENCH_RECORD=1 bench also replaces this server's lines of recorded.tsv
#
# Everything it made lies in build/pgN/bench as well.

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

target=${1:-bench}
here=$top/test/bench

setup_packages python3
setup_server
build_extension
build_modules
make_work
say "measuring as user $user in $work"
mkdir -p "$build/bench"
status=0
as_user env ROUNDS="${ROUNDS:-}" ROWS="${ROWS:-}" PYTHONDONTWRITEBYTECODE=1 python3 "$work/tree/test/bench/bench.py" \
	"$target" --out "$work" --recorded "$work/tree/test/bench/recorded.tsv" || status=$?
for f in report.md ratios.svg recorded.tsv; do
	[ ! -e "$work/$f" ] || cp "$work/$f" "$build/bench/$f"
done
[ $status = 0 ] || die "$target failed (report: ${build#"$top"/}/bench/report.md)"
if [ "$target" = bench-check ]; then
	say "no ratio is more than 15% worse than recorded"
	exit 0
fi
cp "$work/report.md" "$work/ratios.svg" "$here"
if [ -n "${CMEK_BENCH_RECORD:-}" ]; then
	key=$(head -1 "$work/recorded.tsv" | cut -f1)
	{ ! grep -v "^$key	" "$here/recorded.tsv" || :; cat "$work/recorded.tsv"; } >"$work/all.tsv" 2>/dev/null
	cp "$work/all.tsv" "$here/recorded.tsv"
fi
say "written to test/bench/report.md"
