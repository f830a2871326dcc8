#!/bin/bash
# make test: set-up, build, and every test there is
#
# Ends with the one line "N passed, N failed": pg_regress tests, isolation
# specs and assertions of the TAP tests, counted from their own results.
# Assertions that were skipped are in neither number.
#
#   PG_CONFIG        test this server (default: the newest one installed)
#   CMEK_TEST_ONLY   only tests whose name matches this pattern: 'heap_*'
#   CMEK_TEST_SUITE  record the result under this name (set by the long forms)
#   CMEK_TEST_AM     heap: run the SQL tests of the sealed heap on plain heap
#   CMEK_TEST_JOBS   TAP tests at a time
#   CMEK_KEEP        keep the private directory

. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$top/test/lib/results.sh"

# 069_archivers backs up with the first two, under configuration files of its
# own; 075 asks at random with sqlsmith; hvac is a client of Vault that was not
# written here
optional_packages="pgbackrest barman sqlsmith python3-hvac libfaketime"
# 100-102: SoftHSM and another client of it, a KMIP server, the declarations of
# PKCS#11 to compare ours with
optional_packages="$optional_packages softhsm2 python3-pykcs11 python3-pykmip libp11-kit-dev"

# xz-utils: 076_ages unpacks data directories
# shellcheck disable=SC2046
setup_packages xz-utils $(moto_packages)
setup_server
setup_moto
if [ "${CMEK_TEST_AM:-cmek_heap}" != heap ]; then
	build_extension
	build_modules
	# shellcheck disable=SC2053
	[[ 073_fuzz != ${CMEK_TEST_ONLY:-*} ]] || build_fuzz
	[[ 087_gcp != ${CMEK_TEST_ONLY:-*} && 104_azure != ${CMEK_TEST_ONLY:-*} ]] ||
		setup_clients
fi
make_work
mount_small
copy_moto
say "testing as user $user in $work"

status=0
as_user bash "$work/tree/test/suites.sh" || status=$?
if [ $status != 0 ] && [ -d "$work/out" ]; then
	mkdir -p "$build"
	rm -rf "$build/results"
	cp -a --no-preserve=ownership "$work/out" "$build/results"
	say "what failed is in ${build#"$top"/}/results"
fi
if [ -s "$work/summary" ]; then
	# a selection that nobody named is no suite
	if [ -n "${CMEK_TEST_SUITE:-}" ] || [ -z "${CMEK_TEST_ONLY:-}${CMEK_TEST_AM:-}" ]; then
		read -r passed _ failed _ <"$work/summary"
		results_record "${CMEK_TEST_SUITE:-test}" "$("$PG_CONFIG" --version | awk '{ print $2 }')" \
			"$passed" "$failed"
	fi
	cat "$work/summary"
else
	echo "0 passed, 1 failed"
	status=1
fi
exit $status
