# A private server for the demo: data directory and socket in
# $work, no TCP, stopped by common.sh's trap (or here).
#
# Sourced by scripts that run as the unprivileged user.

set -euo pipefail

data=$work/data
sock=$work/sock
log=$work/server.log
psql=("$bindir/psql" -X -q -v ON_ERROR_STOP=1 -h "$sock" -d demo)

# cluster_init SETTING...
cluster_init() {
	local setting

	mkdir -p -m 700 "$sock"
	"$bindir/initdb" -D "$data" -A trust -U postgres --encoding=UTF8 --locale=C \
		--no-sync >"$work/initdb.log" 2>&1 || { cat "$work/initdb.log"; exit 1; }
	for setting in "listen_addresses = ''" "unix_socket_directories = '$sock'" \
		"shared_preload_libraries = 'cmek'" "$@"; do
		echo "$setting" >>"$data/postgresql.conf"
	done
}

cluster_start() {
	"$bindir/pg_ctl" -D "$data" -l "$log" -w -s start || { tail -20 "$log"; exit 1; }
}

# cluster_stop MODE
cluster_stop() {
	"$bindir/pg_ctl" -D "$data" -w -s -m "$1" stop
}

# Run SQL, print unaligned rows
sql() {
	"${psql[@]}" -U postgres -At -c "$1"
}
