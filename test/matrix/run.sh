#!/bin/bash
# make matrix: `make test` on every PostgreSQL that Debian ships, each in a
# folder of our own below build/matrix, made with debootstrap and kept for the
# next run.  Ends with a table of results and "N passed, N failed".
#
# Everything that is mounted (/proc and /dev of the folders) is mounted in a
# mount namespace of this script's own, and every process runs in a process
# namespace of its own: however the script ends, both are gone with it.
#
#   CMEK_MATRIX         versions (default: "15 17 18 19")
#   CMEK_MATRIX_TARGET  make this instead of test, for instance test-core
#   CMEK_MATRIX_NEXT    yes: a release candidate out of experimental counts, too
#   CMEK_MIRROR         Debian mirror (default: the one apt uses, else deb.debian.org)

# Namespaces and chroot need root
if [ -z "${CMEK_MATRIX_INSIDE:-}" ]; then
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		echo "error: make matrix needs root (or sudo): debootstrap, mount, chroot" >&2
		exit 1
	fi
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo unshare -m -i -p -f true || {
		echo "error: make matrix needs namespaces of its own (unshare -m -i -p), which this machine refuses" >&2
		exit 1
	}
	exec $sudo unshare -m -i -p -f --kill-child --mount-proc \
		env CMEK_MATRIX_INSIDE=yes CMEK_MATRIX="${CMEK_MATRIX:-}" \
		CMEK_MATRIX_TARGET="${CMEK_MATRIX_TARGET:-}" CMEK_MIRROR="${CMEK_MIRROR:-}" \
		CMEK_MATRIX_NEXT="${CMEK_MATRIX_NEXT:-}" \
		CMEK_TEST_ONLY="${CMEK_TEST_ONLY:-}" CMEK_CORE_SHORT="${CMEK_CORE_SHORT:-}" \
		bash "${BASH_SOURCE[0]}"
fi

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
. "$top/test/lib/results.sh"

home=$top/build/matrix
target=${CMEK_MATRIX_TARGET:-test}
mirror=${CMEK_MIRROR:-}
[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
	grep -v '^ *#' | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ' || true)
mirror=${mirror:-http://deb.debian.org/debian}

# The release of Debian that has this version
suite_of() {
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo forky ;;
		*) echo sid ;;
	esac
}

# in_suite ROOT COMMAND...: in the folder, with an environment of its own
in_suite() {
	local root=$1
	shift

	chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
		LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# /proc and /dev of this namespace; there may be none from elsewhere
mount_suite() {
	local root=$1

	! mountpoint -q "$root/proc" && ! mountpoint -q "$root/dev" ||
		die "something is mounted in $root: unmount it first"
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/dev/shm"
}

unmount_suite() {
	umount -R "$1/dev"
	umount "$1/proc"
}

# What a folder needs before its first package is configured: no service is to
# start, no cluster to be made, and an old snapshot of testing is good enough
configure_suite() {
	local root=$1 suite=$2

	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	mkdir -p "$root/etc/postgresql-common"
	echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
	echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99cmek"
	echo "deb $mirror $suite main" >"$root/etc/apt/sources.list"
}

# Versions to come are in experimental first; of there nothing but the server
configure_next() {
	local root=$1 v=$2 list=$1/etc/apt/sources.list.d/experimental.list
	local pin=$1/etc/apt/preferences.d/cmek

	rm -f "$list" "$pin"
	[ -n "${CMEK_MATRIX_NEXT:-}" ] && [ "$(suite_of "$v")" = sid ] || return 0
	echo "deb $mirror experimental main" >"$list"
	printf 'Package: src:postgresql-%s\nPin: release a=experimental\nPin-Priority: 900\n' \
		"$v" >"$pin"
}

# Make the folder of a release, unless a whole one is there
make_suite() {
	local root=$1 suite=$2 script=/usr/share/debootstrap/scripts/$2

	[ ! -e "$root.made" ] || return 0
	rm -rf --one-file-system "$root"
	mkdir -p "$root"
	# a debootstrap older than the release does not know it by name
	[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
	say "debootstrap $suite"
	debootstrap --variant=minbase --include=ca-certificates,make \
		"$suite" "$root" "$mirror" "$script" >"$root.log" 2>&1 ||
		{ tail -5 "$root.log" >&2; return 1; }
	configure_suite "$root" "$suite"
	touch "$root.made"
}

# Newest packages; no candidate is no error: Debian does not have it
install_server() {
	local root=$1 v=$2

	configure_next "$root" "$v"
	in_suite "$root" apt-get -q update >>"$root.log" 2>&1 ||
		{ tail -5 "$root.log" >&2; return 1; }
	[[ $(in_suite "$root" apt-cache policy "postgresql-server-dev-$v") =~ Candidate:\ [0-9] ]] ||
		return 2
	in_suite "$root" apt-get install -q -y --no-install-recommends \
		"postgresql-$v" "postgresql-server-dev-$v" >>"$root.log" 2>&1 ||
		{ tail -5 "$root.log" >&2; return 1; }
}

# Our tree, and nothing of an older one but its build directory
copy_tree() {
	local root=$1

	mkdir -p "$root/cmek"
	find "$root/cmek" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	rm -f "$root/cmek/build/results.tsv"
	tar -C "$top" --exclude=./build --exclude=./.git -cf - . | tar -C "$root/cmek" -xf -
}

# One version; sets row
run_version() {
	local v=$1 suite root status=0 full passed failed

	suite=$(suite_of "$v")
	root=$home/$suite
	row="$v $suite - - -"
	make_suite "$root" "$suite" || { row="$v $suite - 0 1"; return; }
	mount_suite "$root"
	install_server "$root" "$v" || status=$?
	if [ $status = 0 ]; then
		full=$(in_suite "$root" "/usr/lib/postgresql/$v/bin/pg_config" --version | awk '{ print $2 }')
		say "PostgreSQL $full on $suite: make $target"
		copy_tree "$root"
		in_suite "$root" CMEK_COMMIT="$(results_commit)" \
			${CMEK_TEST_ONLY:+CMEK_TEST_ONLY="$CMEK_TEST_ONLY"} \
			${CMEK_CORE_SHORT:+CMEK_CORE_SHORT="$CMEK_CORE_SHORT"} \
			make -C /cmek "$target" "PG_CONFIG=/usr/lib/postgresql/$v/bin/pg_config" \
			>"$home/pg$v.log" 2>&1 || true
		read -r passed failed < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' \
			"$home/pg$v.log" | tail -1; echo "0 1")
		row="$v $suite $full $passed $failed"
		[ ! -e "$root/cmek/build/results.tsv" ] ||
			tail -n +2 "$root/cmek/build/results.tsv" | results_merge "$top/build/results.tsv"
	elif [ $status = 1 ]; then
		row="$v $suite - 0 1"
	fi
	unmount_suite "$root"
}

is_installed debootstrap || apt_install debootstrap
mkdir -p "$home"
exec 9>"$home/lock"
flock -n 9 || die "another make matrix is at work in $home"
rows=()
for v in ${CMEK_MATRIX:-15 17 18 19}; do
	run_version "$v"
	rows+=("$row")
done

passed=0
failed=0
printf '\n%-10s %-10s %-10s %8s %8s\n' version Debian server passed failed
for row in "${rows[@]}"; do
	read -r v suite full p f <<<"$row"
	if [ "$p" = - ]; then
		printf '%-10s %-10s not in Debian yet\n' "$v" "$suite"
		continue
	fi
	printf '%-10s %-10s %-10s %8d %8d\n' "$v" "$suite" "$full" "$p" "$f"
	[ "$f" = 0 ] || echo "           see build/matrix/pg$v.log"
	passed=$((passed + p))
	failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
