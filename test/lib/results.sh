# The machine-readable record of a whole run: one line for each suite and
# version of PostgreSQL.  Runners write build/results.tsv; `make results` takes
# what is there over into test/results.tsv, which is kept in git.
#
# Sourced; needs nothing but $top.

results_header=$'suite\tpostgresql\tpassed\tfailed\treviewed\tdate\tcommit'

# The commit under test; what is not committed is said
results_commit() {
	local commit

	if [ -n "${CMEK_COMMIT:-}" ]; then
		echo "$CMEK_COMMIT"
	elif commit=$(git -C "$top" rev-parse --short HEAD 2>/dev/null); then
		git -C "$top" diff --quiet HEAD -- . ':!test/results.tsv' 2>/dev/null ||
			commit=$commit+
		echo "$commit"
	else
		echo unknown
	fi
}

# results_merge FILE: put the lines read from standard input in the places of
# those of the same suite and version, and keep the file sorted
results_merge() {
	local file=$1 tmp

	mkdir -p "$(dirname "$file")"
	[ -e "$file" ] || echo "$results_header" >"$file"
	tmp=$(mktemp "$file.XXXXXX")
	{
		echo "$results_header"
		{ tail -n +2 "$file"; cat; } |
			awk -F '\t' 'NF > 1 { line[$1 FS $2] = $0 } END { for (k in line) print line[k] }' |
			sort -t $'\t' -k1,1 -k2,2V
	} >"$tmp"
	chmod 644 "$tmp"
	mv "$tmp" "$file"
}

# results_record SUITE VERSION PASSED FAILED [REVIEWED]: what a runner says at
# its end.  VERSION is a full one: 15.20.
results_record() {
	printf '%s\t%s\t%d\t%d\t%d\t%s\t%s\n' "$1" "$2" "$3" "$4" "${5:-0}" \
		"$(date -u +%Y-%m-%d)" "$(results_commit)" |
		results_merge "$top/build/results.tsv"
}
