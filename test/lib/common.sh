# What test/run.sh, demo/run.sh and bench/run.sh share: packages, build,
# installation, an unprivileged user and a private directory for it.
#
# Sourced, never run.  Whatever it starts or makes outside the tree is gone
# when the script ends, in whatever way; packages it installed stay.

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "this needs root or sudo: $*"
	fi
}

is_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# The version to test: the newest server installed, else Debian's default
server_version() {
	local installed

	installed=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null |
		sed 's,.*/postgresql/\([0-9]*\)/.*,\1,' | sort -n | tail -1)
	if [ -n "$installed" ]; then
		echo "$installed"
	else
		apt-cache depends postgresql |
			sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -1
	fi
}

# apt-get install, without the cluster "main" that a new server would bring
apt_install() {
	local conf=/etc/postgresql-common/createcluster.d status=0

	say "installing with apt: $*"
	as_root mkdir -p "$conf"
	echo 'create_main_cluster = false' |
		as_root tee "$conf/zz-cmek-test.conf" >/dev/null
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends "$@" || status=$?
	as_root rm -f "$conf/zz-cmek-test.conf"
	as_root rmdir --ignore-fail-on-non-empty "$conf"
	return $status
}

# Install what is missing and choose PG_CONFIG, unless it was given
setup_packages() {
	local wanted missing=() version p

	wanted="gcc make libjansson-dev libcurl4-openssl-dev libssl-dev openssl
		libipc-run-perl procps python3-cryptography-vectors $*"
	if ! command -v apt-get >/dev/null; then
		say "no apt here: taking it that the packages are there"
		[ -n "${PG_CONFIG:-}" ] || PG_CONFIG=$(command -v pg_config)
		return
	fi
	if [ -z "$(apt-cache policy libssl-dev postgresql 2>/dev/null |
		grep 'Candidate: [0-9]')" ]; then
		say "reading the package index"
		as_root apt-get update -q
	fi
	if [ -z "${PG_CONFIG:-}" ]; then
		version=$(server_version)
		[ -n "$version" ] || die "apt knows no package postgresql"
		wanted="$wanted postgresql-$version postgresql-server-dev-$version"
	fi
	# the fast AES-GCM exists for amd64 only
	if [ -n "$(apt-cache show libipsec-mb-dev 2>/dev/null)" ]; then
		wanted="$wanted libipsec-mb-dev"
	fi
	# not every release has them; what needs them is skipped without
	for p in ${optional_packages:-}; do
		[ -z "$(apt-cache show "$p" 2>/dev/null)" ] || wanted="$wanted $p"
	done
	for p in $wanted; do
		is_installed "$p" || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
	PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$version/bin/pg_config}
}

# Look up what the scripts need of the server
setup_server() {
	PG_CONFIG=$(command -v "$PG_CONFIG") || die "there is no $PG_CONFIG"
	bindir=$("$PG_CONFIG" --bindir)
	libdir=$("$PG_CONFIG" --pkglibdir)
	pgxs=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
	version=$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
	build=$top/build/pg$version
	export PG_CONFIG bindir libdir pgxs version
	say "$("$PG_CONFIG" --version), $PG_CONFIG"
}

# make, in a copy of the tree of its own for each version of PostgreSQL
cmek_make() {
	env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS \
		make --no-print-directory -s -j"$(nproc)" PG_CONFIG="$PG_CONFIG" \
		with_llvm=no CMEK_WERROR=-Werror "$@"
}

cmek_install() {
	if [ -w "$libdir" ]; then
		cmek_make "$@"
	else
		as_root env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -s \
			--no-print-directory PG_CONFIG="$PG_CONFIG" with_llvm=no "$@"
	fi
}

# Build and install the extension
build_extension() {
	local f

	say "building in ${build#"$top"/}, warnings are errors"
	mkdir -p "$build"
	# without what a make in the tree left, maybe for another version
	tar -C "$top" -cf - --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
		Makefile cmek.control src sql test | tar -C "$build" -xf -
	for f in $(cd "$build" && find src test -name '*.[ch]'); do
		[ -e "$top/$f" ] || rm -f "$build/$f" "$build/${f%.c}.o"
	done
	cmek_make -C "$build"
	say "installing in $libdir"
	cmek_install -C "$build" install >/dev/null
}

# Build and install the test modules; they are taken away again at the end
build_modules() {
	local m

	for m in "$build"/test/modules/*/Makefile; do
		[ -e "$m" ] || continue
		cmek_make -C "$(dirname "$m")"
		cmek_install -C "$(dirname "$m")" install >/dev/null
	done
}

# The fuzz targets, where clang and its libFuzzer are; build_fuzz must do
# without a word where they are not
build_fuzz() {
	local clang=${CLANG:-clang}

	fuzz_library=
	command -v "$clang" >/dev/null || return 0
	[ -n "$(ls "$("$clang" --print-runtime-dir)"/libclang_rt.fuzzer_no_main* 2>/dev/null)" ] || return 0
	say "building the fuzz targets"
	if env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make --no-print-directory -s -j"$(nproc)" \
		-f "$top/test/fuzz/Makefile" OBJ="$build/fuzz" PG_CONFIG="$PG_CONFIG" CLANG="$clang"; then
		fuzz_library=$build/fuzz/cmek_fuzz.so
	else
		die "could not build the fuzz targets"
	fi
}

remove_modules() {
	local m

	for m in "${build:-/nonexistent}"/test/modules/*/Makefile; do
		[ -e "$m" ] || continue
		cmek_install -C "$(dirname "$m")" uninstall >/dev/null 2>&1 || true
	done
}

# Google's own client of Cloud KMS, where there is npm; without it the
# assertions that ask it are skipped
setup_clients() {
	if [ -n "${CMEK_TEST_NODE_MODULES:-}" ] || ! command -v npm >/dev/null ||
		! command -v node >/dev/null; then
		return 0
	fi
	if [ ! -d "$top/build/clients/node_modules/@google-cloud/kms" ] ||
		[ ! -d "$top/build/clients/node_modules/@azure/keyvault-keys" ]; then
		say "installing with npm, in build/clients: @google-cloud/kms, @azure/keyvault-keys"
		mkdir -p "$top/build/clients"
		npm install --prefix "$top/build/clients" --no-audit --no-fund \
			--ignore-scripts --loglevel=error '@google-cloud/kms@5' \
			'@azure/keyvault-keys@4' ||
			{ say "npm could not: its assertions will be skipped"; return 0; }
	fi
	CMEK_TEST_NODE_MODULES=$top/build/clients/node_modules
}

# Do the tests to run need an AWS server?
wants_moto() {
	local t

	for t in 081_aws 082_aws_faults 088_tenants 089_matrix 093_aws_watch 097_s3 121_snapshot_s3; do
		# shellcheck disable=SC2053
		[[ $t != ${CMEK_TEST_ONLY:-*} ]] || return 0
	done
	return 1
}

# What it needs; it is a package itself since Debian 13
moto_packages() {
	wants_moto || return 0
	echo python3-flask python3-flask-cors python3-boto3 python3-cryptography \
		python3-responses python3-xmltodict python3-yaml openssl
	[ -z "$(apt-cache show python3-moto 2>/dev/null)" ] || echo python3-moto
}

# Before Debian 13: its package, unpacked in the build directory
setup_moto() {
	wants_moto && [ -z "${CMEK_MOTO:-}" ] &&
		[ ! -d /usr/lib/python3/dist-packages/moto ] || return 0
	say "moto is no package here: Debian 13's, in build/moto"
	CMEK_MOTO=$(bash "$top/test/kms/moto.sh" "$top/build/moto")
}

# To where the unprivileged user may read it
copy_moto() {
	[ -n "${CMEK_MOTO:-}" ] || return 0
	mkdir "$work/moto"
	cp -a "$CMEK_MOTO/moto" "$work/moto"
	export CMEK_MOTO=$work/moto
}

# The server refuses to run as root: who runs it instead
choose_user() {
	if [ "$(id -u)" != 0 ]; then
		user=$(id -un)
	elif id postgres >/dev/null 2>&1; then
		user=postgres
	else
		user=nobody
	fi
}

# A short private directory (a socket's path has less than 107 bytes) with a
# copy of the tests, which the unprivileged user may read and write
make_work() {
	choose_user
	work=$(mktemp -d /tmp/cmek.XXXXXX)
	mkdir "$work/tree"
	cp -a "$top"/{docs,sql,test} "$work/tree"
	[ ! -d "$top/expected" ] || cp -a "$top/expected" "$work/tree"
	[ -z "${fuzz_library:-}" ] || cp "$fuzz_library" "$work/tree/test/fuzz"
	if [ -d "${CMEK_TEST_NODE_MODULES:-}" ]; then
		cp -a "$CMEK_TEST_NODE_MODULES" "$work/node_modules"
		export CMEK_TEST_NODE_MODULES=$work/node_modules
	fi
	[ "$(id -u)" != 0 ] || chown -R "$user" "$work"
	chmod 700 "$work"
	export work
}

# Small file systems in $work/small for tests that fill them; what is refused,
# and to whom, is for the test to say
mount_small() {
	local fs

	if [ "$(id -u)" != 0 ]; then
		export CMEK_SMALL_FS_WHY="only root may mount small file systems, and this is $(id -un)"
		return
	fi
	for fs in data:200m space:48m keys:4k snapshots:1m; do
		mkdir -p "$work/small/${fs%:*}"
		if ! mount -t tmpfs -o "size=${fs#*:},mode=0700,uid=$(id -u "$user")" \
			cmek-test "$work/small/${fs%:*}" 2>"$work/mount.err"; then
			export CMEK_SMALL_FS_WHY="this machine lets nobody mount a small file system: $(tail -1 "$work/mount.err")"
			return
		fi
	done
	chown "$user" "$work/small"
	export CMEK_SMALL_FS=$work/small
}

unmount_small() {
	local fs

	for fs in "$work"/small/*; do
		! mountpoint -q "$fs" || umount "$fs" || umount -l "$fs"
	done
}

as_user() {
	local pg

	# nothing of the caller's PostgreSQL may leak in
	for pg in $(compgen -e | grep -E '^PG[A-Z]+$' || true); do
		unset "$pg"
	done
	if [ "$(id -un)" = "$user" ]; then
		env HOME="$work" "$@"
	else
		runuser -u "$user" -- env HOME="$work" "$@"
	fi
}

# Stop every server whose data directory is in our private directory
stop_servers() {
	local f pid n

	for f in $(find "$work" -name postmaster.pid 2>/dev/null); do
		pid=$(head -1 "$f" 2>/dev/null) || continue
		[ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$f")" ] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		for n in $(seq 100); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
	done
}

leave() {
	local status=$?

	trap - EXIT INT TERM HUP
	if [ -n "$work" ]; then
		stop_servers
		unmount_small
		if [ -n "${CMEK_KEEP:-}" ]; then
			say "kept: $work"
		else
			rm -rf "$work"
		fi
	fi
	remove_modules
	exit $status
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
