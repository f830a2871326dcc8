#!/bin/bash
# make demo: set-up, build, and a tour on real data, the Debian package index
# of this machine.  About two minutes; everything it made goes away, unless
# DEMO_KEEP=1.
#
#   run.sh [tour | seven_days]   seven_days: make demo-seven-days, half a minute

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

[ -z "${DEMO_KEEP:-}" ] || export CMEK_KEEP=1
setup_packages
setup_server
build_extension
make_work
say "reading the package index of this machine"
apt-cache dumpavail >"$work/packages"
if [ "$(grep -c '^Package:' "$work/packages")" -lt 1000 ]; then
	as_root apt-get update -q
	apt-cache dumpavail >"$work/packages"
fi
[ "$(id -u)" != 0 ] || chown "$user" "$work/packages"
as_user bash "$work/tree/test/demo/${1:-tour}.sh"
