# cmek: table-level customer-managed encryption keys for PostgreSQL
#
#   make && sudo make install     build against the pg_config in PATH
#   make test                     set-up, build and every test
#   make demo                     set-up, build and the tour
#   make demo-seven-days          a key that stays away: seven days in seconds
#   make test-snapshot-size       snapshot and restore of 50, 500, 5000 MB: memory
#   make test-long-clock          seven days and 35 under a fast clock, in ten minutes
#   make bench                    sealed / heap, side by side, in eleven minutes
#   make bench-long, bench-check  10^7 rows; no ratio 15% worse than recorded
#   make test-core                PostgreSQL's own suites on sealed tables
#   make test-upgrade             pg_upgrade 15 -> 17 -> 18
#   make test-random, test-tamper, fuzz   the long forms of random tests
#   make age                      a data directory of this release, for later ones
#   make matrix                   make test on every PostgreSQL of Debian
#   make results                  numbers of whole runs into test/results.tsv
#   make test-faults              50 stops, 50 kills under load, full disks
#   make test-assert, test-san    with a server of assertions, of sanitizers

EXTENSION = cmek
MODULE_big = cmek
DATA = sql/install/cmek--1.0.sql
OBJS = $(patsubst $(srcdir)/%.c,%.o,$(sort $(wildcard $(srcdir)/src/*.c $(srcdir)/src/*/*.c)))

srcdir ?= .
PG_CONFIG ?= pg_config

# These find and install what they need themselves, so they come before
# anything that asks pg_config; a PG_CONFIG that was given is theirs to use
TOURS = test demo demo-seven-days bench bench-long bench-check test-core test-upgrade age fuzz test-random test-tamper matrix results test-faults test-assert test-san test-snapshot-size test-long-clock
.PHONY: $(TOURS)
ifneq ($(filter $(TOURS),$(MAKECMDGOALS)),)
$(TOURS): export PG_CONFIG := $(if $(filter file,$(origin PG_CONFIG)),,$(PG_CONFIG))
test:
	@bash $(srcdir)/test/run.sh
test-core:
	@bash $(srcdir)/test/core/run.sh
test-upgrade:
	@bash $(srcdir)/test/upgrade/run.sh
age:
	@bash $(srcdir)/test/ages/make.sh
fuzz:
	@bash $(srcdir)/test/fuzz/fuzz.sh
# the long forms: CMEK_RANDOM_ROUNDS, CMEK_RANDOM_STEPS, CMEK_SQLSMITH_QUERIES
test-random:
	@CMEK_RANDOM_ROUNDS=$${CMEK_RANDOM_ROUNDS:-20} CMEK_RANDOM_STEPS=$${CMEK_RANDOM_STEPS:-1000} \
		CMEK_SQLSMITH_QUERIES=$${CMEK_SQLSMITH_QUERIES:-20000} CMEK_TEST_SUITE=random CMEK_TEST_ONLY='07[05]_*' bash $(srcdir)/test/run.sh
test-tamper:
	@CMEK_TAMPER_BITS=8 CMEK_HEADER_FLIPS=$${CMEK_HEADER_FLIPS:-300} CMEK_TEST_SUITE=tamper \
		CMEK_TEST_ONLY='@(*_tamper*|057_*)' bash $(srcdir)/test/run.sh
matrix:
	@bash $(srcdir)/test/matrix/run.sh
results:
	@bash $(srcdir)/test/results.sh
test-faults:
	@CMEK_TEST_SUITE=faults CMEK_TEST_ONLY='06[0-4]_*' CMEK_FAULT_ROUNDS=$${CMEK_FAULT_ROUNDS:-50} bash $(srcdir)/test/run.sh
test-assert test-san:
	@bash $(srcdir)/test/checked/run.sh $(@:test-%=%)
# needs some 30 GB below /tmp; sizes: CMEK_SNAPSHOT_MB
test-snapshot-size:
	@CMEK_TEST_ONLY='127_*' CMEK_SNAPSHOT_MB="$${CMEK_SNAPSHOT_MB:-50 500 5000}" bash $(srcdir)/test/run.sh
# the seven days pass 2000 times as fast, the 35 ten times faster; CMEK_LONG_CLOCK
test-long-clock:
	@CMEK_TEST_ONLY='129_*' CMEK_LONG_CLOCK="$${CMEK_LONG_CLOCK:-2000}" bash $(srcdir)/test/run.sh
demo-seven-days:
	@bash $(srcdir)/test/demo/run.sh seven_days
demo:
	@bash $(srcdir)/test/$@/run.sh
bench bench-long bench-check:
	@bash $(srcdir)/test/bench/run.sh $@
else

# libipsec-mb is the fast AES-GCM; OpenSSL alone does as well
HAVE_IPSECMB := $(shell echo '\#include <intel-ipsec-mb.h>' | $(CC) -E -x c - >/dev/null 2>&1 && echo yes)
ifeq ($(HAVE_IPSECMB),yes)
CMEK_IPSECMB_CPPFLAGS = -DCMEK_HAVE_IPSECMB
CMEK_IPSECMB_LIBS = -lIPSec_MB
endif

# The server's headers are not ours to warn about, hence -isystem
PG_CPPFLAGS = -I$(srcdir)/src -isystem $(shell $(PG_CONFIG) --includedir-server) $(CMEK_IPSECMB_CPPFLAGS)
# nobody interposes our functions, so they may call each other directly, and the
# server's without a stub: a lookup passes some forty cache lines of code less
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -fno-semantic-interposition -fno-plt $(CMEK_WERROR)
SHLIB_LINK = -Wl,-Bsymbolic -lssl -lcrypto -lcurl -ljansson $(CMEK_IPSECMB_LIBS)

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# A header change rebuilds everything: the tree is small
$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

endif
