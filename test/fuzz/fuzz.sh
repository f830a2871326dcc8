#!/bin/bash
# make fuzz: every target for CMEK_FUZZ_SECONDS (600) each
#
#   CMEK_FUZZ_TARGETS   only these: "row chain"
#   CMEK_FUZZ_CORPUS    keep what was found here, and begin with it
#
# What a target finds is left in build/pgN/fuzz/found.

. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

fuzz_packages() {
	local major

	setup_packages clang
	major=$(clang --version | sed -n 's/.*clang version \([0-9]*\).*/\1/p')
	setup_packages "libclang-rt-$major-dev"
}

fuzz_packages
setup_server
# its own objects: nothing is installed
mkdir -p "$build"
build_fuzz
[ -n "$fuzz_library" ] || die "clang has no libFuzzer here"
make_work
status=0
# shellcheck disable=SC2086
as_user env CMEK_FUZZ_SECONDS="${CMEK_FUZZ_SECONDS:-600}" ${CMEK_FUZZ_CORPUS:+CMEK_FUZZ_CORPUS="$CMEK_FUZZ_CORPUS"} \
	bash "$work/tree/test/fuzz/run.sh" "$work/tree/test/fuzz/cmek_fuzz.so" "$bindir" "$work/fuzz" \
	${CMEK_FUZZ_TARGETS:-} || status=$?
if [ $status != 0 ] && [ -d "$work/fuzz/found" ]; then
	rm -rf "$build/fuzz/found"
	cp -a --no-preserve=ownership "$work/fuzz/found" "$build/fuzz/found"
	say "what was found is in ${build#"$top"/}/fuzz/found"
fi
exit $status
