#!/bin/bash
# make results: what whole runs in this tree have left in build/results.tsv
# goes into test/results.tsv, line by line for each suite and version.

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$top/test/lib/results.sh"

[ -s "$top/build/results.tsv" ] || { echo "no suite was run as a whole here" >&2; exit 1; }
tail -n +2 "$top/build/results.tsv" | results_merge "$top/test/results.tsv"
column -t -s $'\t' "$top/test/results.tsv"
