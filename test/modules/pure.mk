# What the modules have in common that show pure functions of src/kms as SQL
# functions.  Each has its own copy of the objects and is never part of the
# product.  Set before:
#
#   SUBJECT  the module is cmek_test_SUBJECT; SUBJECT_one.c and SUBJECT_fuzz.c are its fuzzer
#   PURE     files of src/kms; HASH: of src/crypto
#   MORE     objects of its own; NEEDS: libraries besides jansson (PGXS owns LIBS)
#
#   make -C test/modules/SUBJECT PG_CONFIG=... install
#   make -C test/modules/SUBJECT PG_CONFIG=... fuzz      libFuzzer, CMEK_FUZZ_SECONDS

EXTENSION = cmek_test_$(SUBJECT)
MODULE_big = cmek_test_$(SUBJECT)
DATA = cmek_test_$(SUBJECT)--1.0.sql

srcdir ?= .
PG_CONFIG ?= pg_config
SRC = $(srcdir)/../../../src
OBJS = cmek_test_$(SUBJECT).o $(SUBJECT)_one.o $(MORE) $(PURE:%=kms_%.o) $(HASH:%=crypto_%.o)

PG_CPPFLAGS = -I$(SRC) -I$(srcdir) -isystem $(shell $(PG_CONFIG) --includedir-server)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter $(CMEK_WERROR)
SHLIB_LINK = -ljansson $(NEEDS)

# No bitcode: its rules do not know where the sources are
override with_llvm = no

EXTRA_CLEAN = $(SUBJECT)_fuzz corpus

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

kms_%.o: $(SRC)/kms/%.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -c -o $@ $<

crypto_%.o: $(SRC)/crypto/%.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -c -o $@ $<

$(OBJS): $(wildcard $(SRC)/*.h $(SRC)/*/*.h $(srcdir)/*.h)

# The same functions outside of a server, with sanitizers
CLANG ?= clang
CMEK_FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: $(SUBJECT)_fuzz
	mkdir -p corpus
	./$(SUBJECT)_fuzz -max_total_time=$(CMEK_FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 corpus

$(SUBJECT)_fuzz: $(srcdir)/$(SUBJECT)_one.c $(srcdir)/$(SUBJECT)_fuzz.c $(PURE:%=$(SRC)/kms/%.c) $(HASH:%=$(SRC)/crypto/%.c)
	$(CLANG) -g -O1 -fwrapv -fno-strict-aliasing -fsanitize=fuzzer,address,undefined -fno-sanitize=alignment \
		-fno-sanitize-recover=undefined -D_GNU_SOURCE $(CPPFLAGS) -o $@ $^ \
		-L$(shell $(PG_CONFIG) --pkglibdir) -L$(shell $(PG_CONFIG) --libdir) -lpgcommon -lpgport -ljansson $(NEEDS)
