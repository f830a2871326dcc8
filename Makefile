# cmek: table-level customer-managed encryption keys for PostgreSQL
#
#   make && sudo make install     build against the pg_config in PATH
#   make test                     set-up, build and every test
#   make demo                     set-up, build and the tour
#   make bench                    sealed / heap, side by side
#   make test-core                PostgreSQL's own suites on sealed tables
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
TOURS = test demo bench test-core test-faults test-assert test-san
.PHONY: $(TOURS)
ifneq ($(filter $(TOURS),$(MAKECMDGOALS)),)
$(TOURS): export PG_CONFIG := $(if $(filter file,$(origin PG_CONFIG)),,$(PG_CONFIG))
test:
	@bash $(srcdir)/test/run.sh
test-core:
	@bash $(srcdir)/test/core/run.sh
test-faults:
	@CMEK_TEST_ONLY='06[0-4]_*' CMEK_FAULT_ROUNDS=$${CMEK_FAULT_ROUNDS:-50} bash $(srcdir)/test/run.sh
test-assert test-san:
	@bash $(srcdir)/test/checked/run.sh $(@:test-%=%)
demo bench:
	@bash $(srcdir)/test/$@/run.sh
else

# libipsec-mb is the fast AES-GCM; OpenSSL alone does as well
HAVE_IPSECMB := $(shell echo '\#include <intel-ipsec-mb.h>' | $(CC) -E -x c - >/dev/null 2>&1 && echo yes)
ifeq ($(HAVE_IPSECMB),yes)
CMEK_IPSECMB_CPPFLAGS = -DCMEK_HAVE_IPSECMB
CMEK_IPSECMB_LIBS = -lIPSec_MB
endif

# The server's headers are not ours to warn about, hence -isystem
PG_CPPFLAGS = -I$(srcdir)/src -isystem $(shell $(PG_CONFIG) --includedir-server) $(CMEK_IPSECMB_CPPFLAGS)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter $(CMEK_WERROR)
SHLIB_LINK = -lcrypto -lcurl -ljansson $(CMEK_IPSECMB_LIBS)

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# A header change rebuilds everything: the tree is small
$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

endif
