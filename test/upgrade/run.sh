#!/bin/bash
# make test-upgrade: pg_upgrade from 15 to 17 to 18, and from 15 to 18, with
# cmek in each of them.
#
# No Debian release has the three versions, and pg_upgrade needs two of them on
# one system: so each is built here, in build/upgrade/N, from Debian's own
# source package of that version.  That takes some minutes for the first time
# and touches nothing outside the build directory; no system files, no chroot.
#
#   CMEK_PG_TARBALLS   take postgresql-N_*.orig.tar.bz2 from this folder
#   CMEK_DEBIAN_MIRROR where to fetch them (http://deb.debian.org/debian)
#   CMEK_KEEP          keep the private directory

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
. "$top/test/lib/results.sh"

versions="15 17 18"
declare -A suite=([15]=bookworm [17]=trixie [18]=forky)
root=$top/build/upgrade
mirror=${CMEK_DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Fetch the upstream tarball of a version with a source list of our own
fetch_tarball() {
	local v=$1 apt=$root/apt options s

	mkdir -p "$apt/lists/partial" "$apt/parts"
	options=(-o Dir::Etc::sourcelist="$apt/sources.list"
		-o Dir::Etc::sourceparts="$apt/parts" -o Dir::State::lists="$apt/lists"
		-o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false)
	if [ ! -e "$apt/sources.list" ]; then
		say "reading the source index of ${suite[*]}"
		for s in "${suite[@]}"; do
			echo "deb-src [signed-by=$keyring] $mirror $s main"
		done >"$apt/sources.list"
		apt-get -q "${options[@]}" update >"$root/apt.log" 2>&1 || {
			tail -5 "$root/apt.log"
			rm "$apt/sources.list"
			die "could not read the source index of $mirror"
		}
	fi
	say "fetching the source of postgresql-$v"
	(cd "$root" && apt-get -q "${options[@]}" source --download-only \
		"postgresql-$v" >>apt.log 2>&1) ||
		{ tail -5 "$root/apt.log"; die "could not fetch the source of postgresql-$v"; }
}

# The newest tarball of a version in a folder
tarball_in() {
	find "$1" -maxdepth 1 -name "postgresql-$2_*.orig.tar.bz2" | sort -V | tail -1
}

# Build a server of version $1 in $root/$1
build_server() {
	local v=$1 tarball src=$root/src$1

	[ ! -e "$root/$v/.complete" ] || return 0
	tarball=$(tarball_in "${CMEK_PG_TARBALLS:-$root}" "$v")
	if [ -z "$tarball" ]; then
		fetch_tarball "$v"
		tarball=$(tarball_in "$root" "$v")
	fi
	say "building $(basename "$tarball" .orig.tar.bz2), some minutes"
	rm -rf "$src" "${root:?}/$v"
	mkdir -p "$src"
	tar -C "$src" --strip-components=1 -xjf "$tarball"
	(cd "$src" &&
		./configure --prefix="$root/$v" --enable-tap-tests \
			--without-readline --without-zlib --without-icu &&
		clean_make -j"$(nproc)" install &&
		clean_make -C src/test/perl install &&
		clean_make -C contrib/amcheck install) >"$root/build$v.log" 2>&1 ||
		{ tail -20 "$root/build$v.log"; die "could not build PostgreSQL $v"; }
	rm -rf "$src"
	touch "$root/$v/.complete"
}

clean_make() {
	env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -s "$@"
}

mkdir -p "$root"
PG_CONFIG=/nonexistent setup_packages dpkg-dev bison flex bzip2 xz-utils perl
for v in $versions; do
	build_server "$v"
	PG_CONFIG=$root/$v/bin/pg_config
	setup_server
	build=$root/cmek$v
	build_extension
done

make_work
# the unprivileged user need not be able to enter the tree
say "copying the servers to $work"
for v in $versions; do
	cp -a "$root/$v" "$work/$v"
done
[ "$(id -u)" != 0 ] || chown -R "$user" "$work"
say "testing as user $user in $work"
status=0
as_user bash "$work/tree/test/upgrade/suite.sh" || status=$?
if [ $status != 0 ] && [ -d "$work/out" ]; then
	rm -rf "$root/results"
	cp -a --no-preserve=ownership "$work/out" "$root/results"
	say "what failed is in ${root#"$top"/}/results"
fi
if [ -s "$work/summary" ]; then
	read -r passed _ failed _ <"$work/summary"
	results_record upgrade 15-18 "$passed" "$failed"
	cat "$work/summary"
else
	echo "0 passed, 1 failed"
	status=1
fi
exit $status
