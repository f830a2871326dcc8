# The source package of the server under test, through apt, without touching
# the machine's own apt: lists, cache and source lists are in the build
# directory, so deb-src need not be enabled, and nothing here needs root.
#
# Sourced after common.sh; used by test/core.

# The machine's Debian and PGDG sources, as deb-src lines
source_list() {
	local key=/usr/share/keyrings/debian-archive-keyring.gpg f

	{
		for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
			[ ! -e "$f" ] || sed -nE 's/^deb(-src)?[[:space:]]+//p' "$f"
		done
		for f in /etc/apt/sources.list.d/*.sources; do
			[ ! -e "$f" ] || { cat "$f"; echo; }
		done | awk '
			function list(i, j) {
				for (i = 1; i <= uris; i++)
					for (j = 1; j <= suites; j++)
						print (key == "" ? "" : "[signed-by=" key "] ") \
							uri[i], suite[j], components
				uris = suites = 0
				key = ""
				components = "main"
			}
			BEGIN { components = "main" }
			/^#/ { next }
			/^URIs:/ { uris = split($0, uri) - 1; for (i = 1; i <= uris; i++) uri[i] = uri[i + 1] }
			/^Suites:/ { suites = split($0, suite) - 1; for (i = 1; i <= suites; i++) suite[i] = suite[i + 1] }
			/^Components:/ { components = $0; sub(/^[^:]*: */, "", components) }
			/^Signed-By: *\// { key = $2 }
			/^[[:space:]]*$/ { list() }
			END { list() }'
	} | grep -E '(debian|postgresql)\.org' | sort -u |
		sed -E "/^\[.*signed-by=/! s,^(\[[^]]*\] *)?,[signed-by=$key] ,; s/^/deb-src /"
}

# apt-get or apt-cache with our own lists, cache and state
private_apt() {
	local tool=$1 apt=$build/apt
	shift

	"$tool" -q -o Dir::Etc::sourcelist="$apt/sources.list" \
		-o Dir::Etc::sourceparts="$apt/parts" -o Dir::Cache="$apt/cache" \
		-o Dir::State::lists="$apt/lists" -o APT::Sandbox::User=root \
		-o Acquire::Check-Valid-Until=false "$@"
}

# Versions of the source package that apt knows: the server's own first, then
# newest first.  A mirror may not hold what its index lists.
source_versions() {
	local own

	own=$("$PG_CONFIG" --version | sed -nE 's/.*\(Debian ([^)]*)\).*/\1/p')
	{
		echo "$own"
		private_apt apt-cache showsrc "postgresql-$version" |
			sed -n 's/^Version: //p' | sort -rVu
	} | awk 'NF && !seen[$0]++'
}

# Unpack the source package into $build/source; source_version says which
fetch_source() {
	local apt=$build/apt dir=$build/source v

	if [ -e "$dir/version" ]; then
		source_version=$(cat "$dir/version")
		return
	fi
	mkdir -p "$apt/lists/partial" "$apt/parts" "$apt/cache/archives/partial"
	source_list >"$apt/sources.list"
	[ -s "$apt/sources.list" ] || die "apt has no Debian source to take postgresql-$version from"
	say "fetching the source of postgresql-$version"
	private_apt apt-get update >"$apt/log" 2>&1 ||
		{ tail -5 "$apt/log" >&2; die "could not read the source index"; }
	for v in $(source_versions); do
		rm -rf "$dir"
		mkdir -p "$dir/package" "$dir/tree"
		if (cd "$dir/package" && private_apt apt-get source --download-only \
			"postgresql-$version=$v") >>"$apt/log" 2>&1; then
			tar -C "$dir/tree" --strip-components=1 -xf \
				"$(ls "$dir"/package/*.orig.tar.*[a-z2] | grep -v '\.asc$')"
			source_version=$v
			echo "$v" >"$dir/version"
			return
		fi
		say "apt has no source of version $v, only its name"
	done
	tail -5 "$apt/log" >&2
	die "could not fetch the source of postgresql-$version: nothing of its suites was run"
}
