#!/bin/bash
# make test-core: PostgreSQL's own regress and isolation suites, twice on the
# same server: with heap, whose output is the reference, and with cmek_heap as
# the default table access method.  Every file whose output differs must be on
# the reviewed list in reviewed.txt, or it counts as failed.
#
# The sources come from the source package of the installed server (apt), the
# helpers that the regress suite needs are built from them.
#
#   PG_CONFIG        test this server (default: the newest one installed)
#   CMEK_CORE_SRC    use this unpacked and configured source tree
#   CMEK_KEEP        keep the private directory

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

# Fetch the source of the server's package, with a source list of our own
fetch_source() {
	local apt=$build/apt list

	mkdir -p "$apt/lists/partial" "$apt/parts"
	list=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		sed -n 's/^deb \(.*debian\.org.*\)/deb-src \1/p')
	if [ -z "$list" ]; then
		list=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '
			/^URIs:/ { uri = $2 }
			/^Suites:/ { $1 = ""; suites = $0 }
			/^$/ || /^Signed-By:/ {
				n = split(suites, s, " ")
				if (uri ~ /debian\.org/)
					for (i = 1; i <= n; i++) print "deb-src " uri, s[i], "main"
				suites = uri = ""
			}')
	fi
	printf '%s\n' "$list" | sort -u |
		sed 's,^deb-src ,&[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ,; s,\] \[[^]]*\],],' >"$apt/sources.list"
	local options=(-o Dir::Etc::sourcelist="$apt/sources.list"
		-o Dir::Etc::sourceparts="$apt/parts" -o Dir::State::lists="$apt/lists"
		-o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false)
	say "fetching the source of postgresql-$version"
	apt-get -q "${options[@]}" update >"$build/apt.log" 2>&1 ||
		{ tail -5 "$build/apt.log"; die "could not read the source index"; }
	(cd "$build" && apt-get -q "${options[@]}" source --download-only \
		"postgresql-$version" >>apt.log 2>&1) ||
		{ tail -5 "$build/apt.log"; die "could not fetch the source"; }
	tar -C "$build" -xjf "$build"/postgresql-"$version"_*.orig.tar.bz2
}

# Configure it as far as the helpers of the regress suite need
build_helpers() {
	src=${CMEK_CORE_SRC:-}
	if [ -z "$src" ]; then
		src=$(ls -d "$build"/postgresql-"$version".[0-9]* 2>/dev/null | grep -v '_' | head -1)
		if [ -z "$src" ]; then
			fetch_source
			src=$(ls -d "$build"/postgresql-"$version".[0-9]* | grep -v '_' | head -1)
		fi
	fi
	[ -e "$src/src/test/regress/regress.so" ] && return
	say "building the helpers of the regress suite"
	(cd "$src" &&
		./configure --without-readline --without-zlib --without-icu &&
		make -s -C src/backend generated-headers &&
		make -s -C src/test/regress regress.so &&
		make -s -C contrib/spi refint.so autoinc.so &&
		cp -f contrib/spi/*.so src/test/regress/) >"$build/configure.log" 2>&1 ||
		{ tail -20 "$build/configure.log"; die "could not build the helpers"; }
}

setup_packages dpkg-dev bison flex bzip2
setup_server
mkdir -p "$build"
build_helpers
build_extension
make_work
cp -a "$src/src/test/regress" "$src/src/test/isolation" "$work"
[ "$(id -u)" != 0 ] || chown -R "$user" "$work"

status=0
as_user bash "$work/tree/test/core/suites.sh" || status=$?
rm -rf "$build/core"
[ ! -d "$work/out" ] || cp -a --no-preserve=ownership "$work/out" "$build/core"
say "outputs and differences are in ${build#"$top"/}/core"
cat "$work/summary" 2>/dev/null || { echo "0 passed, 1 failed"; status=1; }
exit $status
