#!/bin/bash
# moto.sh DIRECTORY: unpack moto, the AWS server of the tests, into DIRECTORY
# where the system has no package of it (Debian 12 has all that moto needs, but
# not moto itself).  Prints what belongs into PYTHONPATH.
#
# It is Debian 13's package, which is Python only, fetched by apt with a state of
# its own, so that neither the system's sources nor its packages change, and
# checked by Debian's signature.

set -euo pipefail

dir=$(mkdir -p "$1" && cd "$1" && pwd)
packages=$dir/usr/lib/python3/dist-packages
mirror=${CMEK_DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

if [ ! -d "$packages/moto" ]; then
	apt=$dir/apt
	rm -rf "$apt"
	mkdir -p "$apt"/{lists/partial,archives/partial,etc}
	: >"$apt/status"
	echo "deb [signed-by=$keyring] $mirror trixie main" >"$apt/sources.list"
	cat >"$apt/conf" <<-CONF
		Dir::State "$apt";
		Dir::State::lists "lists";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt";
		Dir::Etc "$apt/etc";
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Acquire::Languages "none";
		Acquire::Retries "3";
		APT::Sandbox::User "";
	CONF
	APT_CONFIG=$apt/conf apt-get update -q >&2
	(cd "$apt" && APT_CONFIG=$apt/conf apt-get download -q python3-moto >&2)
	rm -rf "$dir/new"
	dpkg-deb -x "$apt"/python3-moto_*.deb "$dir/new"
	mkdir -p "$(dirname "$packages")"
	mv "$dir/new/usr/lib/python3/dist-packages" "$packages"
	rm -rf "$dir/new" "$apt"
fi
echo "$packages"
