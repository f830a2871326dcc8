# What the demos share: how they report, and how they ask.  Every step checks
# what it shows, and a demo ends at the first surprise.
#
# Sourced, after cluster.sh.

started=$SECONDS
step=0

title() { step=$((step + 1)); printf '\n%d. %s\n' "$step" "$*"; }
fact() { printf '   %-46s %s\n' "$1" "$2"; }
wrong() { printf '\nNOT AS IT SHOULD BE: %s\n' "$*"; exit 1; }
now() { date +%s%N; }
ms() { echo "$((($(now) - $1) / 1000000)) ms"; }

# expect WHAT VALUE EXPECTED
expect() {
	fact "$1" "$2"
	[ "$2" = "$3" ] || wrong "$1: $2 instead of $3"
}

columns="package text, version text, section text, maintainer text, architecture text,
	installed_size int, depends text, homepage text, sha256 text, description text, paragraph text"

# How many files below a directory of the server contain a text
files_with() {
	grep -rlaF -- "$1" "$data/$2" 2>/dev/null | wc -l || true
}

# SQLSTATE of a statement, "ok" when it works
state() {
	local out

	out=$("${psql[@]}" -U postgres -At -v VERBOSITY=verbose -c "$1" 2>&1) && echo ok && return
	echo "$out" | sed -n 's/^ERROR:  \([A-Z0-9]*\):.*/\1/p' | head -1
}

wait_state() {
	local i seen=

	for i in $(seq 100); do
		seen=$(state "$1")
		[ "$seen" != "$2" ] || { echo "$seen"; return; }
		sleep 0.2
	done
	echo "${seen:-nothing}"
}

error_of() {
	"${psql[@]}" -U postgres -At -v VERBOSITY=verbose -c "$1" 2>&1 | grep -E '^(ERROR|DETAIL|HINT)' |
		sed 's/^/      /' || true
}

# Wait until a query says t, for ten seconds or so
wait_true() {
	local i

	for i in $(seq 200); do
		[ "$(sql "$1")" != t ] || return 0
		sleep 0.05
	done
	return 1
}
