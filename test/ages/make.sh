#!/bin/bash
# make age: a small data directory of this release, for later ones to open
#
# Leaves test/ages/VERSION-pgMAJOR.tar.xz (data directory, key files, and what
# the tables say) for the server of PG_CONFIG.  Only one database is kept, and
# no WAL but an empty segment.

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

setup_packages xz-utils
setup_server
build_extension
make_work
release=$(sed -n "s/^default_version = '\(.*\)'/\1/p" "$top/cmek.control")
age=$top/test/ages/$release-pg$version.tar.xz
export release

as_user bash -euo pipefail <<'E2'
cd "$work"
mkdir age
umask 077
for key in second third; do
	od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"age/${key}_key"
done
"$bindir/initdb" -D age/data -A trust -N --no-locale -E UTF8 --wal-segsize=1 -U postgres >initdb.log
cat >>age/data/postgresql.conf <<-CONF
	shared_preload_libraries = 'cmek'
	unix_socket_directories = '$work'
	listen_addresses = ''
	autovacuum = off
	fsync = off
CONF
server() { "$bindir/pg_ctl" -D age/data -l server.log -w "$@" >>ctl.log; }
run() { "$bindir/psql" -XqAt -v ON_ERROR_STOP=1 -h "$work" -U postgres "$@"; }
server start
run -d postgres -v second="$work/age/second_key" -v third="$work/age/third_key" \
	-v content="$work/age/content" -f "$work/tree/test/ages/make.sql"
# templates, and collations of the operating system, are the server's to make
run -d postgres <<-SQL
	UPDATE pg_database SET datistemplate = false;
	DROP DATABASE template0;
	DROP DATABASE template1;
	DELETE FROM pg_collation WHERE oid >= 12000 AND collprovider = 'i';
	DELETE FROM pg_description;
	VACUUM FULL pg_collation, pg_description;
	VACUUM FREEZE;
	CHECKPOINT;
SQL
server stop -m fast
"$bindir/pg_resetwal" -D age/data >>ctl.log
rm -f age/data/postmaster.opts age/data/pg_stat/* age/data/base/*/pg_internal.init age/data/global/pg_internal.init
tar -C age --sort=name --mtime=@0 --owner=0 --group=0 -cf age.tar .
xz -9e age.tar
E2
install -m 644 "$work/age.tar.xz" "$age"
say "$(stat -c '%s bytes' "$age"): ${age#"$top"/}"
