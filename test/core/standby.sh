# A streaming standby behind the run with cmek_heap: afterwards pg_dump must
# read the same on both, rows and catalogs, as PostgreSQL's own
# src/test/recovery/t/027_stream_regress.pl asks of heap.
#
# Sourced by suites.sh; the standby reads sealed tables with its own access to
# the service key.

standby_data=$work/standby
standby_sock=$work/standby_sock

standby_start() {
	mkdir -p -m 700 "$standby_sock"
	"$bindir/pg_basebackup" -h "$sock" -U postgres -D "$standby_data" -R \
		-X stream -c fast --no-sync
	cat >>"$standby_data/postgresql.conf" <<-CONF
		unix_socket_directories = '$standby_sock'
		max_standby_streaming_delay = 600s
	CONF
	"$bindir/pg_ctl" -D "$standby_data" -l "$work/standby.log" -w -s start ||
		{ tail -20 "$work/standby.log"; exit 1; }
}

standby_sql() {
	"$bindir/psql" -X -At -h "$standby_sock" -U postgres -d postgres -c "$1"
}

# Wait until the standby has replayed what the primary has written
standby_catch_up() {
	local lsn n

	lsn=$(super -At -d postgres -c "SELECT pg_current_wal_insert_lsn()")
	for n in $(seq 3000); do
		[ "$(standby_sql "SELECT pg_last_wal_replay_lsn() >= '$lsn'")" != t ] || return 0
		sleep 0.1
	done
	return 1
}

# dump SOCKET FILE OPTION...
dump() {
	local socket=$1 file=$2 option help
	local -a options=(--no-sync --no-unlogged-table-data)
	shift 2

	help=$("$bindir/pg_dump" --help)
	for option in --no-statistics --restrict-key=test; do
		[[ $help != *${option%%=*}* ]] || options+=("$option")
	done
	"$bindir/pg_dump" -h "$socket" -U postgres "${options[@]}" "$@" \
		-f "$file" regress_db 2>"$file.log" || { tail -5 "$file.log"; return 1; }
}

# dump_both NAME OPTION...: do the two servers dump the same?
dump_both() {
	local name=$1
	shift

	dump "$sock" "$out/$name.primary" "$@" &&
		dump "$standby_sock" "$out/$name.standby" "$@" &&
		diff -u "$out/$name.primary" "$out/$name.standby" >"$out/standby.$name.diff" &&
		rm "$out/standby.$name.diff"
}

has_sealed_rows() {
	[ "$(grep -c '^COPY ' "$1")" -gt 100 ] &&
		grep -q 'default_table_access_method = cmek_heap' "$1"
}

# Does the comparison see a row that only one of them has?
sees_a_row() {
	local status=0

	standby_sql "SELECT pg_wal_replay_pause()" >"$work/pause.log"
	super -d regress_db -c "INSERT INTO onek SELECT * FROM onek LIMIT 1"
	! dump_both control --table=onek || status=1
	standby_sql "SELECT pg_wal_replay_resume()" >"$work/pause.log"
	[ -s "$out/standby.control.diff" ] || status=1
	rm -f "$out"/*control*
	return $status
}

# The same for rows and for the catalogs, these once nothing changes them
standby_compare() {
	# sequences are logged ahead of what they hand out
	super -d regress_db -c "SELECT setval(seqrelid, nextval(seqrelid)) FROM pg_sequence" >"$work/setval.log"
	check "the standby has replayed everything" standby_catch_up
	check "rows on primary and standby" dump_both rows
	check "the dump has sealed tables" has_sealed_rows "$out/rows.primary"
	check "the comparison sees one more row" sees_a_row
	super -d postgres -c "ALTER SYSTEM SET autovacuum = off"
	cluster_stop fast
	cluster_start
	check "the standby has replayed everything" standby_catch_up
	check "catalogs on primary and standby" dump_both catalogs --schema=pg_catalog
	check "the standby did not crash" no_crash "$work/standby.log"
	super -d postgres -c "ALTER SYSTEM RESET autovacuum" -c "SELECT pg_reload_conf()" >"$work/reload.log"
	"$bindir/pg_ctl" -D "$standby_data" -w -s -m fast stop
	rm -f "$out"/{rows,catalogs}.{primary,standby}{,.log}
}
