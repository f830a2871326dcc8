#!/bin/bash
# Run the suites, as the unprivileged user, in the private directory that
# run.sh made.  Leaves the line "N passed, N failed" in $work/summary.

set -euo pipefail

tree=$work/tree
out=$work/out
passed=0
failed=0
am=${CMEK_TEST_AM:-cmek_heap}
only=${CMEK_TEST_ONLY:-*}
# sockets and temporary files of the tests, too, are gone with $work
export TMPDIR=$work/t
mkdir -p "$out" "$TMPDIR"

wanted() {
	# shellcheck disable=SC2053
	[[ $1 == $only ]]
}

# Add a suite's numbers; a runner that died without a failed test is one
count() {
	local status=$1 ok=$2 bad=$3

	if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
		bad=1
	fi
	passed=$((passed + ok))
	failed=$((failed + bad))
}

# Settings of the temporary server of pg_regress and pg_isolation_regress
temp_config() {
	if [ "$am" = cmek_heap ]; then
		echo "shared_preload_libraries = 'cmek'"
	fi
	cat <<-CONF
		max_prepared_transactions = 4
		fsync = off
		log_statement = all
		log_line_prefix = '%m [%p] %q%a '
	CONF
	# of test/checked
	[ -z "${CMEK_TEST_CONFIG:-}" ] || cat "$CMEK_TEST_CONFIG"
}

# Plain heap under the name of ours, so that the same tests say what is right
for_plain_heap() {
	cat >"$tree/sql/plain_am.sql" <<-'SQL'
		CREATE ACCESS METHOD cmek_heap TYPE TABLE HANDLER heap_tableam_handler;
		CREATE SCHEMA cmek;
		CREATE FUNCTION cmek.verify(regclass, OUT relation regclass, OUT tid tid, OUT problem text)
			RETURNS SETOF record LANGUAGE sql AS 'SELECT NULL::regclass, NULL::tid, NULL::text WHERE false';
	SQL
	cp "$tree/sql/plain_am.sql" "$tree/expected/plain_am.out"
	cat >"$tree/test/specs/plain_am.spec" <<-'SPEC'
		setup { CREATE ACCESS METHOD cmek_heap TYPE TABLE HANDLER heap_tableam_handler; }
		session s
		step s { CHECKPOINT; }
	SPEC
	printf 'Parsed test spec with 1 sessions\n\n%s\n%s\n' \
		'starting permutation: s' 'step s: CHECKPOINT;' \
		>"$tree/test/expected/plain_am.out"
}

# regress NAME RUNNER INPUTDIR EXTENSION-OPTION TEST...
regress() {
	local name=$1 runner=$2 input=$3 status=0 dir=$out/$1
	shift 3

	echo "==> $name"
	mkdir -p "$dir"
	PG_TEST_EXTRA='' "$runner" --inputdir="$input" --outputdir="$dir" \
		--bindir="$bindir" --temp-instance="$work/$name" \
		--temp-config="$work/temp.conf" --no-locale --encoding=UTF8 \
		--dlpath="$libdir" "$@" >"$dir/runner.log" 2>&1 || status=$?
	cat "$dir/runner.log"
	[ ! -s "$dir/regression.diffs" ] || head -200 "$dir/regression.diffs"
	count $status "$(grep -cE '^ok |^test .*\.\.\. ok' "$dir/runner.log")" \
		"$(grep -cE '^not ok |\.\.\. FAILED' "$dir/runner.log")"
}

# The tests of a folder, twin first: the others use what it makes
names() {
	local f n

	for f in "$1"/twin."$2" "$1"/*."$2"; do
		n=$(basename "$f" ".$2")
		[ -e "$f" ] || continue
		if [ "$n" = twin ]; then
			[ "$f" = "$1/twin.$2" ] && [ -z "${twin_seen:-}" ] || continue
			twin_seen=yes
			echo "$n"
		elif wanted "$n"; then
			echo "$n"
		fi
	done
}

run_regress() {
	local tests extension=() t

	tests=$(names "$tree/sql" sql)
	if [ "$am" = heap ]; then
		tests="plain_am $(echo "$tests" | grep -E '^(twin|heap_.*)$' |
			grep -vxE "heap_(stats|traps)")"
	else
		extension=(--load-extension=cmek)
	fi
	[ "$tests" != twin ] || wanted twin || return 0
	# without its file a new test would end the run
	for t in $tests; do
		touch "$tree/expected/$t.out"
	done
	# shellcheck disable=SC2086
	[ -z "$tests" ] || regress regress "$pgxs/test/regress/pg_regress" \
		"$tree" "${extension[@]}" $tests
}

run_isolation() {
	local tests extension=()

	tests=$(names "$tree/test/specs" spec)
	if [ "$am" = heap ]; then
		tests="plain_am $(echo "$tests" | grep -vx plain_am || true)"
	else
		extension=(--load-extension=cmek)
	fi
	# shellcheck disable=SC2086
	[ -z "$tests" ] || regress isolation \
		"$pgxs/test/isolation/pg_isolation_regress" "$tree/test" \
		"${extension[@]}" $tests
}

# One TAP test; its standard output goes to NAME.tap
tap_one() {
	local name

	name=$(basename "$1" .pl)
	cd "$tree/test"
	mkdir -p "$out/tap/$name"
	TESTDIR="$out/tap/$name" TESTDATADIR="$out/tap/$name/tmp_check" \
		TESTLOGDIR="$out/tap/$name/log" top_builddir="$out/tap" \
		PATH="$bindir:$PATH" PGPORT=65432 \
		PG_REGRESS="$pgxs/test/regress/pg_regress" \
		perl -I"$pgxs/test/perl" -I"$tree/test/lib" "$1" \
		>"$out/tap/$name.tap" 2>"$out/tap/$name.err"
	echo $? >"$out/tap/$name.status"
}

report_tap() {
	local name=$1 status ok bad skip f=$out/tap/$1

	status=$(cat "$f.status")
	# -a: a test may name bytes that are no text, and grep would stop there
	ok=$(grep -aE '^ok ' "$f.tap" | grep -avcE '# skip' || true)
	skip=$(grep -acE '^ok .*# skip|^1\.\.0 ?# ?skip' -i "$f.tap" || true)
	bad=$(grep -aE '^not ok ' "$f.tap" | grep -avc '# TODO' || true)
	printf '    %-24s %d passed, %d failed%s\n' "$name" "$ok" "$bad" \
		"$([ "$skip" = 0 ] || echo ", $skip skipped")"
	if [ "$status" != 0 ] || [ "$bad" != 0 ]; then
		[ "$bad" != 0 ] || echo "    $name ended with status $status"
		grep -avE '^ok ' "$f.tap" | tail -40 | sed 's/^/      /' || true
		tail -60 "$f.err" | sed 's/^/      /'
	else
		rm -rf "$f"
	fi
	count "$status" "$ok" "$bad"
}

run_tap() {
	local f files=()

	[ "$am" != heap ] || return 0
	for f in "$tree"/test/t/*.pl; do
		[ -e "$f" ] && wanted "$(basename "$f" .pl)" && files+=("$f")
	done
	[ ${#files[@]} != 0 ] || return 0
	echo "==> tap: ${#files[@]} files"
	mkdir -p "$out/tap"
	export tree out
	export -f tap_one
	printf '%s\n' "${files[@]}" |
		xargs -P "${CMEK_TEST_JOBS:-2}" -I{} bash -c 'tap_one {}' || true
	for f in "${files[@]}"; do
		report_tap "$(basename "$f" .pl)"
	done
}

[ "$am" != heap ] || for_plain_heap
temp_config >"$work/temp.conf"
cd "$work"
run_regress
run_isolation
run_tap
echo "$passed passed, $failed failed" >"$work/summary"
[ "$failed" = 0 ]
