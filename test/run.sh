#!/bin/bash
# make test: set-up, build, and every test there is
#
# Ends with the one line "N passed, N failed": pg_regress tests, isolation
# specs and assertions of the TAP tests, counted from their own results.
# Assertions that were skipped are in neither number.
#
#   PG_CONFIG        test this server (default: the newest one installed)
#   CMEK_TEST_ONLY   only tests whose name matches this pattern: 'heap_*'
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

# Do the tests to run need an AWS server?
wants_moto() {
	local t

	for t in 081_aws 082_aws_faults 088_tenants 089_matrix 093_aws_watch 097_s3; do
		# shellcheck disable=SC2053
		[[ $t != ${CMEK_TEST_ONLY:-*} ]] || return 0
	done
	return 1
}

# What it needs; it is a package itself since Debian 13
moto=
if wants_moto; then
	moto="python3-flask python3-flask-cors python3-boto3 python3-cryptography
		python3-responses python3-xmltodict python3-yaml openssl"
	[ -z "$(apt-cache show python3-moto 2>/dev/null)" ] ||
		moto="$moto python3-moto"
fi
# shellcheck disable=SC2086
setup_packages $moto
setup_server
if wants_moto && [ -z "${CMEK_MOTO:-}" ] &&
	[ ! -d /usr/lib/python3/dist-packages/moto ]; then
	say "moto is no package here: Debian 13's, in build/moto"
	CMEK_MOTO=$(bash "$top/test/kms/moto.sh" "$top/build/moto")
fi
if [ "${CMEK_TEST_AM:-cmek_heap}" != heap ]; then
	build_extension
	build_modules
	# shellcheck disable=SC2053
	[[ 073_fuzz != ${CMEK_TEST_ONLY:-*} ]] || build_fuzz
	[[ 087_gcp != ${CMEK_TEST_ONLY:-*} ]] || setup_clients
fi
make_work
mount_small
if [ -n "${CMEK_MOTO:-}" ]; then
	# where the unprivileged user may read it
	mkdir "$work/moto"
	cp -a "$CMEK_MOTO/moto" "$work/moto"
	export CMEK_MOTO=$work/moto
fi
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
	if [ -z "${CMEK_TEST_ONLY:-}${CMEK_TEST_AM:-}" ]; then
		read -r passed _ failed _ <"$work/summary"
		results_record test "$("$PG_CONFIG" --version | awk '{ print $2 }')" \
			"$passed" "$failed"
	fi
	cat "$work/summary"
else
	echo "0 passed, 1 failed"
	status=1
fi
exit $status
