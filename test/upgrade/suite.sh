#!/bin/bash
# Run upgrade.pl, as the unprivileged user, in the private directory that
# run.sh made.  Leaves the line "N passed, N failed" in $work/summary.

set -euo pipefail

tree=$work/tree
out=$work/out
newest=$work/18
status=0
export TMPDIR=$work/t
mkdir -p "$out" "$TMPDIR"
cd "$tree/test"

lib=$("$newest/bin/pg_config" --pgxs)
lib=$(dirname "$(dirname "$lib")")/test
TESTDIR="$out" TESTDATADIR="$out/tmp_check" TESTLOGDIR="$out/log" \
	top_builddir="$out" PATH="$newest/bin:$PATH" PGPORT=65432 \
	LD_LIBRARY_PATH="$newest/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
	PG_REGRESS="$lib/regress/pg_regress" CMEK_SERVERS="$work" \
	perl -I"$lib/perl" -I"$tree/test/lib" upgrade/upgrade.pl \
	>"$out/upgrade.tap" 2>"$out/upgrade.err" || status=$?

bad=$(grep -cE '^not ok ' "$out/upgrade.tap" || true)
if [ $status != 0 ]; then
	[ "$bad" != 0 ] || bad=1
	grep -vE '^ok ' "$out/upgrade.tap" | tail -40 || true
	tail -60 "$out/upgrade.err"
fi
echo "$(grep -cE '^ok ' "$out/upgrade.tap" || true) passed, $bad failed" \
	>"$work/summary"
exit $status
