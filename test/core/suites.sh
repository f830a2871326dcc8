#!/bin/bash
# The suites of test-core, as the unprivileged user, in the private directory
# that run.sh made.  Leaves the line "N passed, N failed" in $work/summary, and
# the numbers of each suite in $work/results.

set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../lib/cluster.sh"
. "$(dirname "${BASH_SOURCE[0]}")/standby.sh"
. "$(dirname "${BASH_SOURCE[0]}")/compare.sh"

out=$work/out
short=${CMEK_CORE_SHORT:-}
statistics=${CMEK_CORE_STATISTICS:-sealed}
# what tests CREATE STATISTICS or reads pg_statistic gets them in clear
in_clear="alter_generic alter_table create_index create_table_like generated
	generated_stored generated_virtual json jsonb object_address rowsecurity
	stats_ext stats_import"
passed=0
failed=0
mkdir -p "$out"

super() {
	PGOPTIONS="-c client_min_messages=warning" \
		"$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$sock" -U postgres "$@"
}

# check WHAT COMMAND...: one check of our own, passed when the command succeeds
check() {
	local what=$1
	shift

	if "$@"; then
		passed=$((passed + 1))
	else
		echo "    FAILED: $what"
		failed=$((failed + 1))
	fi
}

no_crash() {
	! grep -E 'PANIC|TRAP|terminated by signal' "$1"
}

# End of a suite: its numbers, and on with the next
suite_done() {
	echo "$1 $passed $failed ${2:-0}" >>"$work/results"
	echo "    $1: $passed passed, $failed failed, ${2:-0} reviewed"
	total_passed=$((${total_passed:-0} + passed))
	total_failed=$((${total_failed:-0} + failed))
	passed=0
	failed=0
}

# A server that crashed comes back by itself; what it costs is counted later
await_server() {
	local n

	for n in $(seq 600); do
		! "$bindir/pg_isready" -q -h "$sock" || return 0
		sleep 0.1
	done
	echo "the server did not come back" >&2
	exit 1
}

# A database for one run of one suite, made as pg_regress makes it.  Roles and
# tablespaces are shared: whatever run came before has to go whole.
fresh_database() {
	local db=$1 am=$2 role

	super -d postgres -c "DROP DATABASE IF EXISTS regress_db" 2>/dev/null
	super -d postgres -c "DROP DATABASE IF EXISTS isolation_db" 2>/dev/null
	super -d postgres -c "DROP TABLESPACE IF EXISTS regress_tblspace" 2>/dev/null
	for role in $(super -At -d postgres -c "SELECT rolname FROM pg_roles WHERE rolname LIKE 'regress%'"); do
		super -d postgres -c "DROP ROLE $role"
	done
	super -d postgres -c "CREATE DATABASE $db TEMPLATE core_template"
	# b-trees seal themselves once there is cmek_btree; plaintext_indexes is
	# for the other methods, and for b-trees as long as there is not
	super -d postgres <<-SQL
		ALTER DATABASE $db SET lc_messages = 'C';
		ALTER DATABASE $db SET lc_monetary = 'C';
		ALTER DATABASE $db SET lc_numeric = 'C';
		ALTER DATABASE $db SET lc_time = 'C';
		ALTER DATABASE $db SET bytea_output = 'hex';
		ALTER DATABASE $db SET timezone_abbreviations = 'Default';
		ALTER DATABASE $db SET default_table_access_method = '$am';
		ALTER DATABASE $db SET cmek.plaintext_indexes = on;
	SQL
	# core's own, in clear: the same plans, if sealed ones are worth as much
	[ "$statistics" != plain ] || super -d postgres \
		-c "ALTER DATABASE $db SET cmek.plaintext_statistics = on"
}

# The files of in_clear say so themselves, for heap as well: their first line
ask_for_clear() {
	local f

	for f in $in_clear; do
		[ ! -e "$work/regress/sql/$f.sql" ] ||
			sed -i '1i SET cmek.plaintext_statistics = on;' "$work/regress/sql/$f.sql"
	done
}

# The schedule of a suite; of the short form only the tests in short.txt
schedule() {
	local suite=$1 file=$work/$1/isolation_schedule

	[ "$suite" != regress ] || file=$work/$suite/parallel_schedule
	if [ -n "$short" ]; then
		awk -v suite="$suite/" '
			NR == FNR { sub(/#.*/, ""); if (NF) keep[$1] = 1; next }
			/^test:/ {
				line = ""
				for (i = 2; i <= NF; i++)
					if (suite $i in keep) line = line " " $i
				if (line != "") print "test:" line
			}' "$work/tree/test/core/short.txt" "$file" >"$work/$suite.schedule"
		file=$work/$suite.schedule
	fi
	echo "$file"
}

# run_suite SUITE RUNNER AM: outputs go to $out/SUITE.AM/results
run_suite() {
	local suite=$1 runner=$2 am=$3 dir=$out/$1.$3 begun=$SECONDS

	mkdir -p "$dir"/{results,sql,expected,testtablespace}
	fresh_database "${suite}_db" "$am"
	# the verdict of the runner is on core's expected files; ours comes later
	(cd "$work/$suite" && "$runner" --use-existing --dbname="${suite}_db" \
		--inputdir="$work/$suite" --outputdir="$dir" --bindir="$bindir" \
		--dlpath="$work/regress" --host="$sock" --user=postgres \
		--max-connections=20 --schedule="$(schedule "$suite")") \
		>"$dir/runner.log" 2>&1 || true
	await_server
	echo "==> $suite with $am: $((SECONDS - begun)) s"
	premise "${suite}_db" "$suite" "$am"
}

# What a run is worth nothing without: that tables and, once there is
# cmek_btree, b-trees were sealed in the one run, and none in the other
premise() {
	local db=$1 suite=$2 am=$3 tables plain sealed

	[ "$suite" = regress ] || return 0
	tables=$(super -At -d "$db" -c "SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = relam
		WHERE relkind = 'r' AND amname = 'cmek_heap' AND relnamespace <> 'cmek'::regnamespace")
	plain=$(super -At -d "$db" -c "SELECT count(*) FROM pg_index JOIN pg_class i ON i.oid = indexrelid
		JOIN pg_am ia ON ia.oid = i.relam JOIN pg_class t ON t.oid = indrelid JOIN pg_am ta ON ta.oid = t.relam
		WHERE ia.amname = 'btree' AND ta.amname = 'cmek_heap' AND t.relkind <> 't'")
	sealed=$(super -At -d "$db" -c "SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = relam
		WHERE amname = 'cmek_btree'")
	echo "    $tables sealed tables, $sealed sealed and $plain plain b-trees of theirs are left"
	if [ "$am" = heap ]; then
		check "no table is sealed in the run with heap" [ "$tables" = 0 ]
		return
	fi
	check "tables are sealed" [ "$tables" -gt 20 ]
	if [ -n "$(super -At -d "$db" -c "SELECT 1 FROM pg_am WHERE amname = 'cmek_btree'")" ]; then
		check "b-trees are sealed" [ "$sealed" -gt 20 ]
		check "no b-tree is in clear" [ "$plain" = 0 ]
	fi
}

cluster_init "max_prepared_transactions = 10" "max_connections = 60" \
	"fsync = off" "log_min_messages = warning" "synchronize_seqscans = off" \
	"wal_keep_size = '8GB'" "max_wal_size = '2GB'" \
	"cmek.service_key_file = '$work/service_key'"
cluster_start
# both runs start from one database, so that the extension's OIDs are the same
super -d postgres -c "CREATE DATABASE core_template TEMPLATE template0"
super -d core_template -c "CREATE EXTENSION cmek"
# without their table there are no sealed statistics
[ "$statistics" != none ] || super -d core_template \
	-c "ALTER EXTENSION cmek DROP TABLE cmek.statistic" \
	-c "DROP TABLE cmek.statistic CASCADE"
pg_regress=$pgxs/test/regress/pg_regress
pg_isolation_regress=$pgxs/test/isolation/pg_isolation_regress

[ "$statistics" != sealed ] || ask_for_clear
run_suite regress "$pg_regress" heap
[ -n "$short" ] || standby_start
run_suite regress "$pg_regress" cmek_heap
compare regress
suite_done core-regress "$differ"
if [ -z "$short" ]; then
	standby_compare
	suite_done core-standby
fi
run_suite isolation "$pg_isolation_regress" heap
run_suite isolation "$pg_isolation_regress" cmek_heap
compare isolation
check "the server did not crash" no_crash "$log"
suite_done core-isolation "$differ"
cluster_stop fast
cp "$log" "$out"
echo "$total_passed passed, $total_failed failed" >"$work/summary"
[ "$total_failed" = 0 ]
