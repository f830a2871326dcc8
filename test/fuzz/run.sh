#!/bin/bash
# Run the fuzz targets, each in a stock server in single-user mode.
#
#   run.sh LIBRARY BINDIR DIRECTORY [TARGET...]
#
#   CMEK_FUZZ_SECONDS   for each target (20); 0 replays seeds and regressions
#   CMEK_FUZZ_CORPUS    keep and reuse what was found in this directory
#
# Prints a line for each target; fails when one has found something, whose
# input is left in DIRECTORY.  Must not run as root: the server would not.

set -euo pipefail

library=$1
bindir=$2
dir=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
seconds=${CMEK_FUZZ_SECONDS:-20}
corpus=${CMEK_FUZZ_CORPUS:-$dir/corpus}
targets=("$@")
[ ${#targets[@]} != 0 ] || targets=(row chunk wrapped_dek table_key_row data_key_row
	chain key_file fingerprint suspended_file label options)
# A server process of its own; statements come from standard input
single() {
	timeout $((seconds + 120)) "$bindir/postgres" --single -D "$dir/data" -c "shared_preload_libraries=$library" \
		-c fsync=off -c logging_collector=off -c log_checkpoints=off postgres
}

mkdir -p "$dir" "$corpus"
"$bindir/initdb" -D "$dir/data" -A trust -N --no-locale -E UTF8 >"$dir/initdb.log" 2>&1
single >"$dir/functions.log" 2>&1 <<-SQL
	CREATE FUNCTION cmek_fuzz(text, text) RETURNS int4 LANGUAGE C STRICT AS '$library';
	CREATE FUNCTION cmek_fuzz_seed(text, text) RETURNS int4 LANGUAGE C STRICT AS '$library';
SQL

status=0
for target in "${targets[@]}"; do
	seen=$corpus/$target
	mkdir -p "$seen" "$dir/found"
	log=$dir/$target.log
	echo "SELECT cmek_fuzz_seed('$target', '$seen')" | single >"$dir/seed.log" 2>&1
	[ -e "$seen/seed-0" ] || { cat "$dir/seed.log"; exit 1; }
	# what was found once is tried for ever
	[ ! -d "$here/regress/$target" ] || cp "$here/regress/$target"/* "$seen"
	runs=-max_total_time=$seconds
	[ "$seconds" != 0 ] || runs=-runs=0
	echo "SELECT cmek_fuzz('$target', '$runs -max_len=4096 -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 -handle_int=0 -handle_term=0 -artifact_prefix=$dir/found/$target- $seen')" |
		single >"$log" 2>&1 || true
	# the end of a run says so; anything else is a find, or no run at all
	if grep -qE '^(Done [0-9]+ runs|stat::number_of_executed_units)' "$log" &&
		! ls "$dir/found/$target-"* >/dev/null 2>&1; then
		printf 'ok %s: %s\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: */inputs /p' "$log") $(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -1)"
	else
		printf 'not ok %s\n' "$target"
		tail -40 "$log"
		status=1
	fi
done
exit $status
