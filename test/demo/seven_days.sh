#!/bin/bash
# The seven days in seconds, as the unprivileged user: a key is taken away and
# stays away; warnings, snapshot, drop; the key comes back, and every row.
# A "day" of this server is two seconds long.

. "$work/tree/test/lib/cluster.sh"
. "$work/tree/test/demo/report.sh"

day=2
snapshots=$data.cmek/snapshots

# What happened to the key so far, day by day
timeline() {
	sql "SELECT format('   day %s  %s  %s', to_char(extract(epoch FROM e.at - l.at) / $day, '990.0'), rpad(e.event || ' ' || e.outcome, 17),
			concat_ws(', ', e.\"table\", CASE WHEN e.drop_at IS NOT NULL THEN 'to be dropped on day ' ||
				to_char(extract(epoch FROM e.drop_at - l.at) / $day, 'FM990.0') END, e.detail))
		FROM cmek.key_events e, (SELECT max(at) AS at FROM cmek.key_events WHERE event = 'denied' AND key = 'acme') l
		WHERE e.at >= l.at AND (e.key = 'acme' OR e.event IN ('drop', 'snapshot', 'restore')) ORDER BY e.id"
}

# Rows of the plain twin that are not in the sealed table, and the other way
differences() {
	sql 'SELECT count(*) FROM ((TABLE packages EXCEPT ALL TABLE twin) UNION ALL (TABLE twin EXCEPT ALL TABLE packages)) x'
}

# Checksum of a column in both tables
same_column() {
	sql "SELECT (SELECT sum(hashtextextended($1::text, 0)::numeric) FROM packages) IS NOT DISTINCT FROM
		(SELECT sum(hashtextextended($1::text, 0)::numeric) FROM twin)"
}

title "A private server whose days have $day seconds"
cluster_init "cmek.key_cache_ttl = '1s'" "cmek.drop_after = '$((7 * day))s'" "cmek.snapshot_retention = '$((35 * day))s'" \
	"autovacuum = off" "shared_buffers = '128MB'"
cluster_start
"$bindir/createdb" -h "$sock" -U postgres demo
sql "CREATE EXTENSION cmek"
fact "server" "$(sql 'SHOW server_version')"
fact "cmek.drop_after, cmek.snapshot_retention" "$(sql "SELECT current_setting('cmek.drop_after') || ', ' || current_setting('cmek.snapshot_retention')")"

title "The package index of this machine, sealed under a customer's key, with a plain twin"
(umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$work/acme.key")
awk -f "$work/tree/test/demo/parse.awk" "$work/packages" | sed -n '1,20000p' >"$work/packages.copy"
sql "CREATE SERVER acme FOREIGN DATA WRAPPER cmek_file OPTIONS (key_file '$work/acme.key');
	CREATE TABLE packages ($columns) USING cmek_heap WITH (cmek.key = 'acme');
	CREATE TABLE twin (LIKE packages) USING heap"
for t in twin packages; do sql "COPY $t FROM '$work/packages.copy'"; done
sql "UPDATE packages SET paragraph = repeat(paragraph, 20) WHERE package LIKE 'lib%a'; UPDATE twin SET paragraph = repeat(paragraph, 20) WHERE package LIKE 'lib%a';
	CREATE UNIQUE INDEX by_name ON packages (package, version, architecture);
	ALTER TABLE packages ADD CONSTRAINT sized CHECK (installed_size >= 0);
	CREATE VIEW essential AS SELECT package FROM packages WHERE section = 'admin'"
rows=$(sql 'SELECT count(*) FROM packages')
fact "rows" "$rows"
[ "$rows" -gt 1000 ] || wrong "the package index has only $rows rows"
fact "size, with TOAST and index" "$(sql "SELECT pg_size_pretty(pg_total_relation_size('packages'))")"
expect "rows that differ from the twin" "$(differences)" 0
secret=$(sql "SELECT max(sha256) FROM packages")

title "Day 0: the key is disabled"
mv "$work/acme.key" "$work/acme.key.away"
expect "SELECT count(*) FROM packages" "$(wait_state 'SELECT count(*) FROM packages' KM001)" KM001
error_of 'SELECT count(*) FROM packages'

title "The days after: warned, again and again, and counted"
wait_true "SELECT drop_at IS NOT NULL FROM cmek.keys WHERE name = 'acme'" || wrong "nobody says when the table will be dropped"
while [ "$(sql "SELECT to_regclass('packages') IS NOT NULL")" = t ]; do
	seen=$(sql "SELECT format('%s; observed for %s days, to be dropped in %s days', state, to_char(w.denied_ms / 1000.0 / $day, 'FM0.0'),
			to_char(greatest(extract(epoch FROM k.drop_at - now()), 0) / $day, 'FM0.0'))
		FROM cmek.keys k JOIN cmek.key_watch w ON w.server = k.name WHERE k.name = 'acme'")
	[ -z "$seen" ] || fact "cmek.keys" "$seen"
	[ $((SECONDS - started)) -lt 120 ] || wrong "the table is still there"
	sleep $day
done
wait_true "SELECT count(*) = 1 FROM cmek.key_events WHERE event = 'drop' AND outcome = 'done'" || wrong "no event of the drop"
warnings=$(sql "SELECT count(*) FROM cmek.key_events WHERE event = 'warn' AND key = 'acme' AND drop_at IS NOT NULL")
[ "$warnings" -ge 5 ] || wrong "only $warnings warnings"
printf '   cmek.key_events:\n'
timeline | awk '{ if (/ warn / && ++n > 4 && n < total - 2) { if (!said++) print "            ... " } else print }' total="$warnings"
fact "warnings" "$warnings"
days=$(sql "SELECT extract(epoch FROM d.at - l.at) / $day >= 6.9 FROM (SELECT at FROM cmek.key_events WHERE event = 'denied' AND key = 'acme' ORDER BY id DESC LIMIT 1) l,
	(SELECT at FROM cmek.key_events WHERE event = 'drop' AND outcome = 'done') d")
expect "dropped after seven days, not before" "$days" t

title "What is left: a snapshot, verified before the table went"
expect "the table" "$(state 'SELECT count(*) FROM packages')" 42P01
expect "the twin, which is under no key" "$(state 'SELECT count(*) FROM twin')" ok
sql "SELECT format('   %s  %s, %s rows, %s, kept until %s', id, reason, rows, pg_size_pretty(bytes), expires_at::timestamp(0)) FROM cmek.snapshots"
id=$(sql 'SELECT id FROM cmek.snapshots')
expect "its rows" "$(sql 'SELECT rows FROM cmek.snapshots')" "$rows"
expect "a value of the table, searched in its file" "$(grep -c -aF -- "$secret" "$snapshots/$id.cmeksnap" || true)" 0
expect "restored without the key" "$(state "SELECT cmek.restore_snapshot('$id', 'packages', 'acme')")" KM001

title "The key is enabled again: SELECT cmek.restore_snapshot('$id', 'packages', 'acme')"
mv "$work/acme.key.away" "$work/acme.key"
expect "cmek.check_key('acme')" "$(sql "SELECT bool_and(ok) FROM cmek.check_key('acme')")" t
# what a statement was told a moment ago is remembered for a second
for _ in $(seq 100); do
	t0=$(now)
	! sql "SELECT cmek.restore_snapshot('$id', 'packages', 'acme')" >"$work/notes" 2>"$work/refused" || break
	sleep 0.1
done
[ "$(state "SELECT 'packages'::regclass")" = ok ] || { cat "$work/refused"; wrong "the snapshot is not restored"; }
fact "restored in" "$(ms "$t0")"
sed -n 's/^\([a-z ]* [a-z.]*: needed the table and was not recreated\).*/   it says: \1 .../p' "$work/notes"
expect "rows" "$(sql 'SELECT count(*) FROM packages')" "$rows"
expect "rows that differ from the twin" "$(differences)" 0
for c in package version section maintainer architecture installed_size depends homepage sha256 description paragraph; do
	[ "$(same_column $c)" = t ] || wrong "the checksums of column $c differ"
done
fact "checksums of all columns, long values included" "the same"
expect "damaged rows (cmek.verify)" "$(sql "SELECT count(*) FROM cmek.verify('packages')")" 0
expect "its index" "$(sql "SELECT amname || ', unique: ' || indisunique FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam WHERE c.relname = 'by_name'")" "cmek_btree, unique: true"
expect "its constraint" "$(state "INSERT INTO packages (package, installed_size) VALUES ('x', -1)")" 23514
expect "broken links of the audit chain" "$(sql 'SELECT count(*) FROM cmek.verify_events()')" 0

cluster_stop fast
printf '\nThe seven days took %d s.%s\n' $((SECONDS - started)) \
	"$([ -z "${DEMO_KEEP:-}" ] && echo ' Everything it made goes away now.' || echo " Kept: $work")"
