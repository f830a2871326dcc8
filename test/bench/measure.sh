#!/bin/bash
# The measurements, as the unprivileged user.
#
# Each line is ROUNDS pairs plain, sealed, plain, sealed: what disturbs the
# machine disturbs both.  Times are psql's \timing and the CPU time of the
# backend from /proc; both ratios are those of the medians.

. "$work/tree/test/lib/cluster.sh"

report=$work/bench.md
rows=$(awk -v s="$SCALE" 'BEGIN { printf "%d", s * 1000000 }')

median() { sort -n | awk '{ v[NR] = $1 } END { n = int((NR + 1) / 2); print (NR % 2) ? v[n] : (v[n] + v[n + 1]) / 2 }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf (b > 0) ? "%.2f" : "-", a / (b > 0 ? b : 1) }'; }
line() { printf '| %-28s | %10s | %10s | %6s | %6s |\n' "$@" | tee -a "$report"; }

# Run one statement in the one backend; prints its wall time in ms
ask() {
	local reply wall=

	printf '%s\n\\echo done\n' "$1" >&"${COPROC[1]}"
	while IFS= read -r reply <&"${COPROC[0]}"; do
		case $reply in
		'Time: '*) wall=${reply#Time: } ;;
		*ERROR*) echo "$reply" >&2; exit 1 ;;
		done) break ;;
		esac
	done
	echo "${wall%% *}"
}

# CPU time of the backend in ms, as the scheduler counted it
cpu() {
	awk '{ print $1 / 1e6 }' "/proc/$backend/schedstat"
}

# measure LABEL STATEMENT [BEFORE]: TABLE stands for the table
measure() {
	local label=$1 stmt=$2 before=${3:-} r t c0 w
	local -A wall=([plain]= [sealed]=) used=([plain]= [sealed]=)

	for t in plain sealed; do
		[ -z "$before" ] || ask "${before//TABLE/$t}" >/dev/null
		ask "${stmt//TABLE/$t}" >/dev/null
	done
	for r in $(seq "$ROUNDS"); do
		for t in plain sealed; do
			[ -z "$before" ] || ask "${before//TABLE/$t}" >/dev/null
			c0=$(cpu)
			w=$(ask "${stmt//TABLE/$t}")
			wall[$t]+="$w"$'\n'
			used[$t]+="$(awk -v a="$(cpu)" -v b="$c0" 'BEGIN { print a - b }')"$'\n'
		done
	done
	for t in plain sealed; do
		wall[$t]=$(printf '%s' "${wall[$t]}" | median)
		used[$t]=$(printf '%s' "${used[$t]}" | median)
	done
	last_plain=${wall[plain]}
	last_sealed=${wall[sealed]}
	line "$label, ms" "$last_plain" "$last_sealed" "$(ratio "$last_sealed" "$last_plain")" \
		"$(ratio "${used[sealed]}" "${used[plain]}")"
}

# WAL bytes of a statement
wal_of() {
	local from

	from=$(sql 'SELECT pg_current_wal_insert_lsn()')
	ask "$1" >/dev/null
	sql "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$from')"
}

cluster_init "cmek.key_cache_ttl = '1h'" "autovacuum = off" "shared_buffers = '1GB'" \
	"max_wal_size = '8GB'" "checkpoint_timeout = '1h'" "fsync = off" \
	"max_parallel_workers_per_gather = 0" "jit = off" "cmek.plaintext_indexes = on"
cluster_start
"$bindir/createdb" -h "$sock" -U postgres demo
sql 'CREATE EXTENSION cmek' 
for t in plain sealed; do
	sql "SET client_min_messages = error;
		CREATE TABLE $t (aid int NOT NULL, bid int, abalance int, filler char(84))
		USING $([ $t = sealed ] && echo cmek_heap || echo heap) WITH (autovacuum_enabled = off)"
done
sql "INSERT INTO plain SELECT i, i / 100000, i % 1000, md5(i::text) FROM generate_series(1, $rows) i;
	INSERT INTO sealed SELECT * FROM plain"
sql "VACUUM FREEZE plain, sealed"
sql "COPY plain TO '$work/rows'"
sql "SET client_min_messages = error;
	CREATE INDEX ON plain (aid);
	CREATE INDEX ON sealed (aid);
	CREATE TABLE copy_plain (LIKE plain) USING heap WITH (autovacuum_enabled = off);
	CREATE TABLE copy_sealed (LIKE sealed) USING cmek_heap WITH (autovacuum_enabled = off);
	CREATE PROCEDURE lookups(t regclass, n int) LANGUAGE plpgsql AS \$\$
	DECLARE
		b int;
	BEGIN
		IF t = 'plain'::regclass THEN
			FOR i IN 1 .. n LOOP
				SELECT abalance INTO b FROM plain WHERE aid = 1 + (i * 7919::int8) % $rows;
			END LOOP;
		ELSE
			FOR i IN 1 .. n LOOP
				SELECT abalance INTO b FROM sealed WHERE aid = 1 + (i * 7919::int8) % $rows;
			END LOOP;
		END IF;
	END \$\$"

coproc "${psql[@]}" -U postgres -At -v ON_ERROR_STOP=0 2>&1
printf '\\pset pager off\n\\timing on\n\\o /dev/null\n' >&"${COPROC[1]}"
backend=$(sql "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")

{
	echo "# sealed / heap"
	echo
	echo "$(sql 'SHOW server_version'), $rows rows, $ROUNDS rounds, crypto: $(sql 'SELECT crypto FROM cmek.stat'),"
	echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), load $(cut -d' ' -f1 /proc/loadavg)"
	echo
} | tee "$report"
line "" plain sealed ratio CPU
line "----------------------------" "---------:" "---------:" "-----:" "-----:"
measure 'count(*)' 'SELECT count(*) FROM TABLE;'
measure 'sum(int)' 'SELECT sum(abalance) FROM TABLE;'
sum_plain=$last_plain
measure 'text =' "SELECT count(*) FROM TABLE WHERE filler = 'nothing';"
measure 'text LIKE' "SELECT count(*) FROM TABLE WHERE filler LIKE '%nothing%';"
measure '3 of 4 columns' 'SELECT sum(aid), sum(bid), max(filler) FROM TABLE;'
measure 'COPY out' "COPY TABLE TO '$work/out';"
measure 'COPY in' "COPY copy_TABLE FROM '$work/rows';" 'TRUNCATE copy_TABLE;'
measure 'INSERT ... SELECT' 'INSERT INTO copy_TABLE SELECT * FROM plain;' 'TRUNCATE copy_TABLE;'
measure 'UPDATE of 1 in 10' 'UPDATE copy_TABLE SET abalance = 0 WHERE aid % 10 = 0;'
measure 'VACUUM' 'VACUUM copy_TABLE;'
measure '20,000 point lookups' "CALL lookups('TABLE', 20000);"

# Indexes: b-trees of the plain table, sealed b-trees of the sealed one
for t in plain sealed; do
	sql "SET client_min_messages = error;
		CREATE TABLE keys_$t (n int8 NOT NULL, s text NOT NULL) USING $([ $t = sealed ] && echo cmek_heap || echo heap) WITH (autovacuum_enabled = off);
		INSERT INTO keys_$t SELECT (i * 7919::int8) % 1000003, left(md5(i::text), 24) FROM generate_series(1, $rows) i;
		CREATE TABLE one_$t (n int8 PRIMARY KEY, s text) USING $([ $t = sealed ] && echo cmek_heap || echo heap) WITH (autovacuum_enabled = off)"
	sql "VACUUM keys_$t"
done
ask "SET maintenance_work_mem = '256MB'; SET max_parallel_maintenance_workers = 0;" >/dev/null
for c in n s; do
	what=$([ $c = n ] && echo int8 || echo '24-byte text')
	measure "index build, $what" "CREATE INDEX keys_TABLE_$c ON keys_TABLE ($c);" "DROP INDEX IF EXISTS keys_TABLE_$c;"
	index_sizes=()
	for t in plain sealed; do
		index_sizes+=("$(sql "SELECT pg_relation_size('keys_${t}_$c')")")
	done
	line "index size, $what" "${index_sizes[@]}" "$(ratio "${index_sizes[1]}" "${index_sizes[0]}")" ''
done
ask 'SET enable_seqscan = off; SET enable_bitmapscan = off;' >/dev/null
measure 'index range of 1 in 10' "SELECT count(s) FROM keys_TABLE WHERE n < 100000;"
measure 'index-only range' "SELECT count(n) FROM keys_TABLE WHERE n < 100000;"
ask 'RESET enable_seqscan; RESET enable_bitmapscan;' >/dev/null

# pgbench of one client, plain and sealed in turn; more is better here
tps() {
	"$bindir/pgbench" -h "$sock" -U postgres -n -M prepared -c 1 -T 3 -f "$1" demo 2>/dev/null |
		sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}
for t in plain sealed; do
	printf '\\set n random(1, 1000002)\nSELECT s FROM keys_%s WHERE n = :n;\n' $t >"$work/lookup_$t"
	printf "INSERT INTO one_%s VALUES ((random() * 9e18)::int8, 'a row of thirty-two characters..') ON CONFLICT DO NOTHING;\n" $t >"$work/insert_$t"
done
for what in lookup insert; do
	declare -A got=([plain]= [sealed]=)
	for _ in $(seq "$ROUNDS"); do
		for t in plain sealed; do
			got[$t]+="$(tps "$work/${what}_$t")"$'\n'
		done
	done
	for t in plain sealed; do
		got[$t]=$(printf '%s' "${got[$t]}" | median)
	done
	line "pgbench ${what}s, tps" "${got[plain]}" "${got[sealed]}" "$(ratio "${got[sealed]}" "${got[plain]}")" ''
done

sizes=()
wals=()
for t in plain sealed; do
	sizes+=("$(sql "SELECT pg_table_size('$t')")")
	ask "TRUNCATE copy_$t; CHECKPOINT;" >/dev/null
	wals+=("$(wal_of "COPY copy_$t FROM '$work/rows';")")
done
line 'table size, bytes' "${sizes[0]}" "${sizes[1]}" "$(ratio "${sizes[1]}" "${sizes[0]}")" ''
line 'WAL of COPY, bytes' "${wals[0]}" "${wals[1]}" "$(ratio "${wals[1]}" "${wals[0]}")" ''

# What cannot be saved: opening each row once, as the crypto alone is measured
# (its test module has settings of the same names: a server without cmek)
length=$(sql "SELECT round(avg(pg_column_size(p.*)))::int - 18 FROM (SELECT * FROM plain LIMIT 1000) p")
impl=$(sql 'SELECT crypto FROM cmek.stat')
cluster_stop fast
echo "shared_preload_libraries = ''" >>"$data/postgresql.conf"
cluster_start
sql 'CREATE EXTENSION cmek_test_crypto'
open=$(for i in $(seq "$ROUNDS"); do
	sql "SELECT open FROM test_speed('$impl', $length, 200000)"
done | median)
awk -v open="$open" -v ms="$sum_plain" -v n="$rows" -v len="$length" -v impl="$impl" 'BEGIN {
	row = ms * 1e6 / n
	printf "\nOpening a row of %d bytes takes %.1f ns (%s); sum(int) on heap takes %.1f ns a row.\n", len, open, impl, row
	printf "Floor of sum(int): 1 + %.1f / %.1f = %.2f\n", open, row, 1 + open / row
}' | tee -a "$report"
cluster_stop fast
