#!/bin/bash
# The suites of test-core, as the unprivileged user, in the private directory
# that run.sh made.

set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../lib/cluster.sh"

out=$work/out
reviewed=$work/tree/test/core/reviewed.txt
passed=0
failed=0
mkdir -p "$out"

super() {
	"$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$sock" -U postgres "$@"
}

# A database for one run of one suite, made as pg_regress makes it
fresh_database() {
	local db=$1 am=$2 role

	# roles are shared: whatever run came before has to go whole
	super -d postgres -c "DROP DATABASE IF EXISTS regress_db" 2>/dev/null
	super -d postgres -c "DROP DATABASE IF EXISTS isolation_db" 2>/dev/null
	super -d postgres -c "DROP TABLESPACE IF EXISTS regress_tblspace" 2>/dev/null
	for role in $(super -At -d postgres -c "SELECT rolname FROM pg_roles WHERE rolname LIKE 'regress%'"); do
		super -d postgres -c "DROP ROLE $role"
	done
	super -d postgres -c "CREATE DATABASE $db TEMPLATE template0"
	super -d "$db" -c "CREATE EXTENSION cmek"
	super -d postgres <<-SQL
		ALTER DATABASE $db SET lc_messages = 'C';
		ALTER DATABASE $db SET lc_monetary = 'C';
		ALTER DATABASE $db SET lc_numeric = 'C';
		ALTER DATABASE $db SET lc_time = 'C';
		ALTER DATABASE $db SET bytea_output = 'hex';
		ALTER DATABASE $db SET timezone_abbreviations = 'Default';
		ALTER DATABASE $db SET default_table_access_method = '$am';
		ALTER DATABASE $db SET cmek.plaintext_indexes = on;
		ALTER DATABASE $db SET cmek.plaintext_statistics = on;
	SQL
}

# run_suite SUITE RUNNER AM: outputs go to $out/SUITE.AM/results
run_suite() {
	local suite=$1 runner=$2 am=$3 dir=$out/$1.$3 schedule

	echo "==> $suite with $am"
	schedule=$work/$suite/parallel_schedule
	[ "$suite" = regress ] || schedule=$work/$suite/isolation_schedule
	mkdir -p "$dir"/{results,sql,expected,testtablespace}
	fresh_database "${suite}_db" "$am"
	# the verdict of the runner is on core's expected files; ours comes later
	(cd "$work/$suite" && "$runner" --use-existing --dbname="${suite}_db" \
		--inputdir="$work/$suite" --outputdir="$dir" --bindir="$bindir" \
		--dlpath="$work/regress" --host="$sock" --user=postgres \
		--max-connections=20 --schedule="$schedule") >"$dir/runner.log" 2>&1 || true
}

# Fold what may differ: the name of the index method, table widths, and, as
# long as indexes are in clear, the warning that says so
fold() {
	sed -E '/WARNING:  index ".*" holds values of sealed table ".*" in clear$/d
		s/cmek_btree/btree/g; s/-{2,}/--/g; s/ +\|/ |/g' "$1"
}

is_reviewed() {
	grep -qE "^$1/$2([[:space:]]|$)" "$reviewed"
}

# Compare the two outputs of a suite, file by file
compare() {
	local suite=$1 f name

	[ -n "$(ls "$out/$suite.heap/results"/*.out 2>/dev/null)" ] ||
		{ echo "$suite: no output"; failed=$((failed + 1)); return; }
	for f in "$out/$suite.heap/results"/*.out; do
		name=$(basename "$f" .out)
		if diff -u <(fold "$f") <(fold "$out/$suite.cmek_heap/results/$name.out") \
			>"$out/$suite.$name.diff" 2>&1; then
			rm "$out/$suite.$name.diff"
			passed=$((passed + 1))
		elif is_reviewed "$suite" "$name"; then
			echo "    $suite/$name differs, reviewed"
			passed=$((passed + 1))
		else
			echo "    $suite/$name DIFFERS"
			failed=$((failed + 1))
		fi
	done
}

cluster_init "max_prepared_transactions = 10" "max_connections = 60" \
	"fsync = off" "log_min_messages = warning"
cluster_start
for am in heap cmek_heap; do
	run_suite regress "$pgxs/test/regress/pg_regress" $am
	run_suite isolation "$pgxs/test/isolation/pg_isolation_regress" $am
done
compare regress
compare isolation
if grep -E 'PANIC|TRAP|terminated by signal' "$log"; then
	failed=$((failed + 1))
fi
cluster_stop fast
echo "$passed passed, $failed failed" >"$work/summary"
[ $failed = 0 ]
