#!/bin/bash
# make test-core: PostgreSQL's own regress and isolation suites, twice on the
# same server: with heap, whose output is the reference, and with cmek_heap as
# the default table access method and a standby behind it, whose dumps must
# equal the primary's.  Every file whose output differs must be on the reviewed
# list in reviewed.txt, or it counts as failed.
#
# The suites come from the source package of the installed server (apt, deb-src
# need not be enabled), and the modules they load are built with PGXS.
#
#   PG_CONFIG        test this server (default: the newest one installed)
#   CMEK_CORE_SHORT  only the tests in short.txt, on heap and cmek_heap
#   CMEK_CORE_SRC    use this unpacked source tree
#   CMEK_KEEP        keep the private directory

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
. "$top/test/lib/source.sh"
. "$top/test/lib/results.sh"

# The C functions that the regress suite calls
build_helpers() {
	local dir=$build/helpers f

	mkdir -p "$dir"
	for f in src/test/regress/regress.c contrib/spi/refint.c contrib/spi/autoinc.c; do
		cp "$src/$f" "$dir"
	done
	cat >"$dir/Makefile" <<-'MAKE'
		MODULES = regress refint autoinc
		PGXS := $(shell $(PG_CONFIG) --pgxs)
		include $(PGXS)
	MAKE
	cmek_make -C "$dir" >"$dir/log" 2>&1 ||
		{ tail -20 "$dir/log"; die "could not build the helpers of the regress suite"; }
}

# One line for each suite, as the unprivileged half of us left it
record() {
	local suite passed failed reviewed

	[ -z "${CMEK_CORE_SHORT:-}" ] || return 0
	while read -r suite passed failed reviewed; do
		results_record "$suite" "$full_version" "$passed" "$failed" "$reviewed"
	done <"$work/results"
}

setup_packages bzip2 xz-utils
setup_server
full_version=$("$PG_CONFIG" --version | awk '{ print $2 }')
mkdir -p "$build"
src=${CMEK_CORE_SRC:-$build/source/tree}
source_version=$src
[ -n "${CMEK_CORE_SRC:-}" ] || fetch_source
say "PostgreSQL's suites of version $source_version"
build_helpers
build_extension
make_work
cp -a "$src/src/test/regress" "$src/src/test/isolation" "$work"
cp "$build"/helpers/*.so "$work/regress"
[ "$(id -u)" != 0 ] || chown -R "$user" "$work"

status=0
as_user bash "$work/tree/test/core/suites.sh" || status=$?
rm -rf "$build/core"
[ ! -d "$work/out" ] || cp -a --no-preserve=ownership "$work/out" "$build/core"
say "outputs and differences are in ${build#"$top"/}/core"
if [ -s "$work/summary" ]; then
	record
	cat "$work/summary"
else
	echo "0 passed, 1 failed"
	status=1
fi
exit $status
