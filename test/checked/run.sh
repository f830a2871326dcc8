#!/bin/bash
# make test-assert, make test-san: our tests on a server that checks itself
#
# The server is built from the source package of the server that is installed,
# once, in build/pgN/assert or build/pgN/san.
#
#   assert   --enable-cassert, MEMORY_CONTEXT_CHECKING and all of core's own
#            checks, in three passes: wal, with wal_consistency_checking = all,
#            so that recovery and standbys compare each page they redo with the
#            primary's; crash, without it, for tests that it does not suit; and
#            discard, a few tests with debug_discard_caches = 1, which makes the
#            server some 100 times slower.
#   san      AddressSanitizer and UndefinedBehaviorSanitizer, in the server and
#            in our library; every report is a failure.
#
# What is left out of a pass, and why, is in left_out.txt and is printed.
#
#   PG_CONFIG          test this version (default: the newest one installed)
#   CMEK_TEST_ONLY     only tests whose name matches, in each pass
#   CMEK_CHECKED_PASSES  of test-assert, these passes only
#   CMEK_CHECKED_SRC   use this unpacked source tree
#   CMEK_KEEP          keep the private directory

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
. "$top/test/lib/source.sh"
. "$top/test/lib/results.sh"

kind=$1
passes=()
# shellcheck disable=SC2206
[ "$kind" = san ] || passes=(${CMEK_CHECKED_PASSES:-wal crash discard})
[ "$kind" = assert ] || passes=(san)

# CFLAGS of the server; PGXS hands them to our library.  Memory contexts check
# themselves in both, for no sanitizer sees into them
flags() {
	if [ "$kind" = san ]; then
		echo "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
	else
		echo "-O1 -g"
	fi
}

configure_server() {
	local options=(--prefix="$build/server" --without-readline --without-zlib
		--with-icu --enable-tap-tests)

	[ "$kind" = san ] || options+=(--enable-cassert)
	"$1/configure" "${options[@]}" CFLAGS="$(flags)" \
		CPPFLAGS="-DMEMORY_CONTEXT_CHECKING -DCLOBBER_FREED_MEMORY" \
		LDFLAGS="$([ "$kind" != san ] || echo -fsanitize=address,undefined)"
}

# What is built runs on the way, pg_config for one, and leaves its memory to
# the end of the process, as a server does; and tests of time preload libfaketime
san_options=detect_leaks=0:verify_asan_link_order=0:detect_stack_use_after_return=0:abort_on_error=1
export ASAN_OPTIONS=$san_options

# Build and install the server, with the contrib modules that tests use
build_server() {
	local src=${CMEK_CHECKED_SRC:-} begin=$SECONDS m

	[ ! -e "$build/server/built" ] || return 0
	if [ -z "$src" ]; then
		build=$top/build/pg$version fetch_source
		src=$top/build/pg$version/source/tree
	fi
	say "building a server for test-$kind in ${build#"$top"/}"
	rm -rf "$build/object" "$build/server"
	mkdir -p "$build/object"
	(cd "$build/object" && unset MAKEFLAGS MAKELEVEL MFLAGS && configure_server "$src" &&
		make -s -j"$(nproc)" install &&
		for m in amcheck auth_delay auto_explain citext pageinspect passwordcheck \
			pg_prewarm pg_stat_statements pg_visibility pgstattuple test_decoding; do
			make -s -C "contrib/$m" install || exit 1
		done) >"$build/server.log" 2>&1 ||
		{ tail -20 "$build/server.log" >&2; die "could not build the server"; }
	rm -rf "$build/object"
	touch "$build/server/built"
	say "built in $((SECONDS - begin)) s"
}

# Settings of every server of a pass, whether pg_regress or a TAP test starts it
pass_config() {
	case $1 in
		wal) echo "wal_consistency_checking = 'all'" ;;
		discard)
			echo "wal_consistency_checking = 'all'"
			echo "debug_discard_caches = 1"
			;;
	esac
}

# The names to run: those of the pass, without what is left out of it
pass_only() {
	local left

	left=$(awk -v pass="$1" '$1 == pass { printf "%s%s", sep, $2; sep = "|" }' \
		"$top/test/checked/left_out.txt")
	case $1 in
		crash) echo '@(034_crash|048_stop_points|060_*|061_*)' ;;
		discard) echo '@(statistics_few|verify_error|ddl_bind|ddl_partition|switch_key|upsert|key_share|toast_conflict)' ;;
		*) echo "!(${left:-none})" ;;
	esac
}

# Sanitizers write a report to a file of its own for each process
count_reports() {
	local n

	n=$(find "$work/san" -type f 2>/dev/null | wc -l)
	[ "$n" = 0 ] || head -60 "$work"/san/*
	failed=$((failed + n))
}

# Run the suites once with the settings of a pass
run_pass() {
	local pass=$1 status=0 begin=$SECONDS p f

	say "test-$kind: pass \"$pass\""
	awk -v pass="$pass" '$1 == pass { $1 = ""; print "    left out:" $0 }' \
		"$top/test/checked/left_out.txt"
	pass_config "$pass" >"$work/pass.conf"
	mkdir -p "$work/san"
	chmod 777 "$work/san"
	rm -rf "$work/out" "$work/summary"
	CMEK_TEST_CONFIG=$work/pass.conf TEMP_CONFIG=$work/pass.conf \
		CMEK_TEST_ONLY=${CMEK_TEST_ONLY:-$(pass_only "$pass")} \
		PG_TEST_TIMEOUT_DEFAULT=${PG_TEST_TIMEOUT_DEFAULT:-900} \
		ASAN_OPTIONS="$san_options:log_path=$work/san/report" \
		UBSAN_OPTIONS="print_stacktrace=1:log_path=$work/san/report" \
		as_user bash "$work/tree/test/suites.sh" || status=$?
	read -r p _ f _ < <(cat "$work/summary" 2>/dev/null || echo "0 passed, 1 failed")
	passed=$((passed + p))
	failed=$((failed + f))
	if [ $status != 0 ]; then
		rm -rf "$build/results-$pass"
		cp -a --no-preserve=ownership "$work/out" "$build/results-$pass"
	fi
	say "test-$kind: pass \"$pass\": $p passed, $f failed, $((SECONDS - begin)) s"
}

[ "$kind" = assert ] || [ "$kind" = san ] || die "usage: run.sh assert|san"
# shellcheck disable=SC2046
setup_packages dpkg-dev bison flex bzip2 xz-utils perl libicu-dev pkg-config \
	$(moto_packages)
setup_server
setup_moto
build=$top/build/pg$version/$kind
mkdir -p "$build"
build_server
PG_CONFIG=$build/server/bin/pg_config
setup_server
build=$top/build/pg$version/$kind
build_extension
build_modules
make_work
mount_small
copy_moto
# where the user who runs the tests can read it for certain
cp -a "$build/server" "$work/server"
PG_CONFIG=$work/server/bin/pg_config
setup_server
build=$top/build/pg$version/$kind
passed=0
failed=0
for pass in "${passes[@]}"; do
	run_pass "$pass"
	count_reports
done
[ -n "${CMEK_TEST_ONLY:-}${CMEK_CHECKED_PASSES:-}" ] ||
	results_record "$kind" "$("$PG_CONFIG" --version | awk '{ print $2 }')" \
		"$passed" "$failed"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
