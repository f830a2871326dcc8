# What a suite printed with heap against what it printed with cmek_heap.
#
# Sourced by suites.sh.  Nothing is normalised but the name of the index method
# and runs of dashes; where that name is printed, also the widths of the tables
# that it is printed in.  One line is left out: the warning that an index of a
# method that cannot be sealed holds values in clear.

reviewed=$work/tree/test/core/reviewed.txt

# How many files of regress may be reviewed: what README.md shows, none to spare
case $version in
	15) max_reviewed=8 ;;
	17) max_reviewed=10 ;;
	18) max_reviewed=12 ;;
	*) max_reviewed=10 ;;
esac

# fold FILE WIDTHS
fold() {
	awk -v widths="$2" '
		function show() {
			if (held) print line
			held = 0
		}
		/WARNING:  index ".*" holds values of sealed table ".*" in clear$/ { next }
		{ gsub(/cmek_btree/, "btree") }
		widths && / +\|/ { gsub(/ +\|/, " |") }
		/^-[-+]*$/ {
			if (widths) gsub(/ +/, " ", line)
			gsub(/--+/, "--")
		}
		{ gsub(/--+/, "--"); show(); line = $0; held = 1 }
		END { show() }' "$1"
}

# The reviewed number of changed lines of a file on this version, if it is on
# the list
reviewed_lines() {
	awk -v name="$1/$2" -v version="$version" '
		$1 == name && index("," $2 ",", "," version ",") { print $3 }' "$reviewed"
}

# How many files of a suite are on the list of this version
reviewed_files() {
	awk -v name="^$1/" -v version="$version" '
		$1 ~ name && index("," $2 ",", "," version ",") { n++ }
		END { print n + 0 }' "$reviewed"
}

has_output() {
	[ -n "$(ls "$1"/*.out 2>/dev/null)" ]
}

# One file: the same, different as reviewed, or different
compare_file() {
	local suite=$1 name=$2 diff=$out/$1.$2.diff widths= changed lines
	local sealed=$out/$1.cmek_heap/results/$2.out

	! grep -qs cmek_btree "$sealed" || widths=yes
	if diff -u <(fold "$out/$suite.heap/results/$name.out" "$widths") \
		<(fold "$sealed" "$widths") >"$diff" 2>&1; then
		rm "$diff"
		passed=$((passed + 1))
		return
	fi
	changed=$(tail -n +3 "$diff" | grep -c '^[-+]' || true)
	lines=$(reviewed_lines "$suite" "$name")
	if [ -n "$lines" ] && [ "$changed" -gt 0 ] && [ "$changed" -le "$lines" ]; then
		echo "    $suite/$name differs in $changed lines, reviewed"
		differ=$((differ + 1))
		passed=$((passed + 1))
	else
		echo "    $suite/$name DIFFERS in $changed lines${lines:+, reviewed are $lines}"
		failed=$((failed + 1))
	fi
}

# Compare the two outputs of a suite, file by file; differ is how many
# reviewed files do
compare() {
	local suite=$1 limit=$max_reviewed f

	differ=0
	check "$suite has output" has_output "$out/$suite.heap/results"
	for f in "$out/$suite.heap/results"/*.out; do
		compare_file "$suite" "$(basename "$f" .out)"
	done
	[ "$suite" = regress ] || limit=0
	check "$suite: at most $limit files are reviewed" \
		[ "$(reviewed_files "$suite")" -le "$limit" ]
}
