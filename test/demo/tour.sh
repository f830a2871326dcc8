#!/bin/bash
# The tour itself, as the unprivileged user.  Every step checks what it shows
# and the tour ends at the first surprise.

. "$work/tree/test/lib/cluster.sh"
. "$work/tree/test/demo/report.sh"

marker="marker$RANDOM$RANDOM"

# Rows that only one of two queries gives, both ways
differences() {
	sql "WITH s AS (${1//TABLE/sealed}), p AS (${1//TABLE/plain})
		SELECT count(*) FROM ((TABLE s EXCEPT ALL TABLE p) UNION ALL (TABLE p EXCEPT ALL TABLE s)) x"
}

# Run a query on a table, the best of three, in ms
timed() {
	local i

	for i in 1 2 3; do
		"${psql[@]}" -U postgres -At -c '\timing on' -c "${1//TABLE/$2}" |
			sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'
	done | sort -n | head -1
}

compare() {
	local d

	d=$(differences "$2")
	printf '   %-34s %8s ms  %8s ms   %s rows differ\n' "$1" \
		"$(timed "$2" plain)" "$(timed "$2" sealed)" "$d"
	[ "$d" = 0 ] || wrong "the tables answer differently: $2"
}

# The server's own pgbench, or another one
find_pgbench() {
	pgbench=$bindir/pgbench
	[ -x "$pgbench" ] || pgbench=$(command -v pgbench) ||
		wrong "no pgbench in $bindir nor in PATH: it comes with postgresql-$version or postgresql-client-$version"
}

# Two clients for some seconds: each transaction writes one row and reads another
bench_start() {
	cat >"$work/bench.sql" <<-END
		\\set id random(1, 100)
		\\set page random(0, $(($(sql "SELECT pg_relation_size('sealed') / 8192") - 1)))
		BEGIN;
		UPDATE visits SET n = n + 1 WHERE id = :id;
		SELECT package, length(paragraph) FROM sealed WHERE ctid = '(:page,1)';
		END;
	END
	LC_ALL=C "$pgbench" -n -c 2 -j 2 -T "$1" -f "$work/bench.sql" -l --log-prefix="$work/bench" \
		-h "$sock" -U postgres demo >"$work/bench.out" 2>&1 &
	bench=$!
	wait_true 'SELECT sum(n) > 0 FROM visits' ||
		{ cat "$work/bench.out"; wrong "pgbench has done nothing in ten seconds"; }
}

bench_runs() { kill -0 "$bench" 2>/dev/null; }

# What pgbench says; a client that meets an error stops, so errors count, too
bench_report() {
	local status=0 failed slowest

	wait "$bench" || status=$?
	transactions=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/bench.out")
	failed=$(sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p' "$work/bench.out")
	failed=$((${failed:-0} + $(grep -c 'ERROR:' "$work/bench.out" || true)))
	slowest=$(cat "$work"/bench.[0-9]* | awk '$3 + 0 > max { max = $3 + 0 } END { print int(max / 1000) }')
	fact "transactions done meanwhile" "${transactions:-0}"
	[ "$failed" = 0 ] || grep -m 3 'ERROR:' "$work/bench.out" || true
	expect "transactions failed" "$failed" 0
	fact "the slowest took" "$slowest ms"
	[ "$status" = 0 ] || { cat "$work/bench.out"; wrong "pgbench ended with status $status"; }
	[ "${transactions:-0}" -gt 100 ] || wrong "pgbench did only ${transactions:-0} transactions"
	[ "$slowest" -lt 3000 ] || wrong "a transaction waited for $slowest ms"
}

# A session that stays: ask it, then take its answer
session_open() {
	coproc session { "${psql[@]}" -U postgres -At -v ON_ERROR_STOP=0 -v VERBOSITY=verbose 2>&1; }
	# subshells have no descriptors of coprocesses, but of copies
	exec {asks}>&"${session[1]}" {answers}<&"${session[0]}"
}

session_close() {
	printf '\\q\n' >&"$asks"
	exec {asks}>&- {answers}<&-
}

session_ask() { printf '%s;\n\\echo -- end\n' "$1" >&"$asks"; }

# session_answer SECONDS: all lines of it, or fail
session_answer() {
	local line

	while IFS= read -r -t "$1" -u "$answers" line; do
		[ "$line" != '-- end' ] || return 0
		echo "$line"
	done
	return 1
}

session_sql() {
	session_ask "$1"
	session_answer 60 || wrong "no answer to $1"
}

find_pgbench
title "A private server with the extension, no KMS to set up"
cluster_init "cmek.key_cache_ttl = '1s'" "cmek.kms_grace = '1s'" "autovacuum = off" \
	"shared_buffers = '256MB'" "max_parallel_workers_per_gather = 0"
cluster_start
"$bindir/createdb" -h "$sock" -U postgres demo
sql "CREATE EXTENSION cmek"
fact "server" "$(sql 'SHOW server_version')"
fact "AES-256-GCM by" "$(sql 'SELECT crypto FROM cmek.stat')"
fact "data directory" "$data"

title "The Debian package index of this machine, into a sealed table and a plain one"
awk -f "$work/tree/test/demo/parse.awk" "$work/packages" >"$work/packages.copy"
sql "CREATE TABLE sealed ($columns) USING cmek_heap; CREATE TABLE plain ($columns) USING heap"
for t in plain sealed; do
	t0=$(now)
	sql "COPY $t FROM '$work/packages.copy'"
	fact "COPY into $t" "$(ms "$t0")"
done
rows=$(sql 'SELECT count(*) FROM sealed')
fact "rows" "$rows"
[ "$rows" -gt 1000 ] || wrong "the package index has only $rows rows"
fact "bytes of text" "$(sql 'SELECT pg_size_pretty(sum(octet_length(paragraph))) FROM sealed')"
fact "size of plain, with TOAST" "$(sql "SELECT pg_size_pretty(pg_table_size('plain'))")"
fact "size of sealed, with TOAST" "$(sql "SELECT pg_size_pretty(pg_table_size('sealed'))")"
fact "the key it is under (cmek.tables)" \
	"$(sql "SELECT key || ', ' || state FROM cmek.tables WHERE \"table\" = 'sealed'::regclass")"

title "The same questions to both (best of three, plain and sealed)"
sql 'VACUUM plain, sealed'
compare "count(*)" 'SELECT count(*) FROM TABLE'
compare "sum of an integer" 'SELECT sum(installed_size) FROM TABLE'
compare "group by section" 'SELECT section, count(*), avg(installed_size) FROM TABLE GROUP BY section'
compare "one package" "SELECT * FROM TABLE WHERE package = 'bash'"
compare "text search in descriptions" "SELECT package FROM TABLE WHERE description ILIKE '%encrypt%'"
compare "long texts" 'SELECT section, sum(length(paragraph)), max(paragraph) FROM TABLE GROUP BY 1'
compare "largest maintainers" 'SELECT maintainer, count(*) FROM TABLE GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10'
compare "whole rows" 'SELECT * FROM TABLE'

title "Changes to both"
for t in plain sealed; do
	sql "UPDATE $t SET description = description || ' (seen)' WHERE section = 'admin';
		DELETE FROM $t WHERE section = 'oldlibs';
		INSERT INTO $t (package, description) VALUES ('$t-$marker', repeat('$t-$marker ', 500))"
done
compare "after UPDATE, DELETE, INSERT" \
	'SELECT package, version, description FROM TABLE WHERE package NOT LIKE $$%marker%$$'

title "A raw search of the data directory and the WAL for a planted text"
sql 'CHECKPOINT'
for t in plain sealed; do
	for d in base pg_wal; do
		n=$(files_with "$t-$marker" $d)
		fact "files in $d with the text of $t" "$n"
		if [ "$t" = plain ]; then
			[ "$n" -gt 0 ] || wrong "the search does not find the plain text"
		else
			[ "$n" = 0 ] || wrong "the sealed text is in a file"
		fi
	done
done
filenode() { sql "SELECT pg_relation_filepath('$1')"; }
fact "lines with \"lib\" in the file of plain" "$(grep -ac lib "$data/$(filenode plain)" || true)"

title "Another KMS key while pgbench reads and writes: ALTER TABLE sealed SET (cmek.key = 'second')"
(umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$work/second.key")
sql "CREATE SERVER second FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$work/second.key');
	CREATE TABLE visits (id int, n int) USING cmek_heap;
	INSERT INTO visits SELECT i, 0 FROM generate_series(1, 100) i"
key_of() { sql "SELECT key FROM cmek.tables WHERE \"table\" = '$1'::regclass"; }
before=$(sql "SELECT pg_relation_filenode('sealed')")
first=$(key_of sealed)
bench_start 5
t0=$(now)
sql "ALTER TABLE sealed SET (cmek.key = 'second')"
fact "switched in (data keys rewrapped, no row)" "$(ms "$t0")"
expect "its key is now" "$(key_of sealed)" second
sql "ALTER TABLE visits SET (cmek.key = 'second')"
switches=1
while bench_runs; do
	sql "CALL cmek.switch_key('second', '$first')"
	sql "CALL cmek.switch_key('$first', 'second')"
	switches=$((switches + 2))
done
bench_report
fact "switches of both tables, back and forth" "$switches"
[ "$switches" -ge 5 ] || wrong "too few switches while pgbench ran"
expect "transactions found in the table" "$(sql 'SELECT sum(n) FROM visits')" "$transactions"
expect "the file of the table is the same" "$(sql "SELECT pg_relation_filenode('sealed')")" "$before"
expect "the keys of both tables" "$(key_of sealed), $(key_of visits)" "second, second"

title "A running scan, and SELECT cmek.suspend_key('second')"
read_all='SELECT count(*), sum(length(package)) FROM sealed'
all=$(sql "$read_all")
session_open
pid=$(session_sql 'SELECT pg_backend_pid()')
# reads the whole table again and again, for hours
session_ask 'SELECT sum((SELECT sum(length(package)) FROM sealed WHERE installed_size <> g))
	FROM generate_series(1, 1000000) g'
wait_true "SELECT state = 'active' AND clock_timestamp() - query_start > '1s'
	FROM pg_stat_activity WHERE pid = $pid" || wrong "the scan does not run"
fact "the scan runs for" "$(sql "SELECT (extract(epoch FROM clock_timestamp() - query_start) * 1000)::int || ' ms'
	FROM pg_stat_activity WHERE pid = $pid")"
t0=$(now)
sql "SELECT cmek.suspend_key('second')" >/dev/null
suspended=$(ms "$t0")
session_answer 5 >"$work/scan.out" || wrong "the scan still runs five seconds after its key was suspended"
took=$(ms "$t0")
expect "the scan ended with" "$(sed -n 's/^ERROR:  \([A-Z0-9]*\):.*/\1/p' "$work/scan.out")" KM001
fact "after suspend_key was called, in" "$took (suspend_key and its commit: $suspended)"
grep -E '^(ERROR|DETAIL|HINT)' "$work/scan.out" | sed 's/^/      /'
expect "cmek.keys says" "$(sql "SELECT state FROM cmek.keys WHERE name = 'second'")" suspended
expect "another session" "$(state 'SELECT count(*) FROM sealed')" KM001
expect "SELECT count(*) FROM plain" "$(state 'SELECT count(*) FROM plain')" ok
sql "SELECT cmek.resume_key('second')" >/dev/null
expect "resumed: the same session reads all rows" "$(session_sql "$read_all")" "$all"
expect "by the same backend" "$(session_sql 'SELECT pg_backend_pid()')" "$pid"
session_close

title "The key goes away"
mv "$work/second.key" "$work/second.key.away"
expect "SELECT count(*) FROM sealed" "$(wait_state 'SELECT count(*) FROM sealed' KM001)" KM001
expect "INSERT INTO sealed" "$(state "INSERT INTO sealed (package) VALUES ('x')")" KM001
expect "DELETE FROM sealed" "$(state 'DELETE FROM sealed')" KM001
expect "SELECT count(*) FROM plain" "$(state 'SELECT count(*) FROM plain')" ok
expect "VACUUM sealed needs no key" "$(state 'VACUUM sealed')" ok
error_of 'SELECT count(*) FROM sealed'
fact "cmek.keys says" "$(sql "SELECT state || coalesce(' since ' || since::timestamp(0), '') FROM cmek.keys WHERE name = 'second'")"

title "The server stops at once, without its key, and starts again"
cluster_stop immediate
cluster_start
expect "started, recovered; the sealed table" "$(state 'SELECT count(*) FROM sealed')" KM001
expect "the plain table" "$(state 'SELECT count(*) FROM plain')" ok

title "The key comes back; nobody restarts anything"
mv "$work/second.key.away" "$work/second.key"
expect "SELECT count(*) FROM sealed" "$(wait_state 'SELECT count(*) FROM sealed' ok)" ok
expect "damaged rows (cmek.verify)" "$(sql "SELECT count(*) FROM cmek.verify('sealed')")" 0
compare "all rows" 'SELECT * FROM TABLE WHERE package NOT LIKE $$%marker%$$'

cluster_stop fast
printf '\nThe tour took %d s.%s\n' $((SECONDS - started)) \
	"$([ -z "${DEMO_KEEP:-}" ] && echo ' Everything it made goes away now.' || echo " Kept: $work")"
