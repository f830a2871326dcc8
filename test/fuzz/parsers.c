/*-------------------------------------------------------------------------
 *
 * parsers.c
 *	  Texts from outside: exported keys, key files, the fingerprint, labels,
 *	  options of servers.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "compat.h"
#include "ddl/statement.h"
#include "keys/internal.h"
#include "kms/internal.h"

/* Copy an input into memory that ends where it does, terminated. */
static char *
as_text(const uint8 *data, size_t size)
{
	return pnstrdup((const char *) data, size);
}

/* One of the texts as a seed. */
static int
seed_text(const char *const *seeds, int n, int i, uint8 *seed)
{
	if (i >= n)
		return -1;
	memcpy(seed, seeds[i], strlen(seeds[i]));
	return strlen(seeds[i]);
}

/* Exported keys, as JSON */
static void
run_chain(const uint8 *data, size_t size)
{
	Datum		jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(as_text(data, size)));
	List	   *chains = cmek_chains_parse(DatumGetJsonbP(jsonb));
	ListCell   *lc;

	foreach(lc, chains)
	{
		CmekChain  *chain = (CmekChain *) lfirst(lc);

		FUZZ_CHECK(strlen(cmek_chain_server(chain)) < NAMEDATALEN);
		(void) cmek_chain_relid(chain);
	}
}

static int
seed_chain(int i, uint8 *seed)
{
#define UUID "\"0f0e0d0c-0b0a-0908-0706-050403020100\""
	static const char *const seeds[] = {
		"{\"cmek_keys\": 1, \"tables\": []}",
		"{\"cmek_keys\": 1, \"tables\": [{\"relid\": 16384, \"keys\": ["
		"{\"id\": " UUID ", \"version\": 1, \"server\": \"s\", \"key_id\": \"k\", \"key_version\": \"v\", \"blob\": \"AAAA\", "
		"\"sealed_by\": " UUID ", \"sealed\": \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"},"
		"{\"id\": " UUID ", \"version\": 2, \"server\": \"s\", \"key_id\": \"k\", \"key_version\": \"v\", \"blob\": \"AAAA\", "
		"\"sealed\": null, \"sealed_by\": null}]}]}",
		"{\"cmek_keys\": 2}", "[]", "{\"cmek_keys\": 1.5, \"tables\": {\"keys\": [[]]}}"
	};

	return seed_text(seeds, lengthof(seeds), i, seed);
}

/* The line of a key file */
static void
run_key_file(const uint8 *data, size_t size)
{
	char	   *text = as_text(data, size);
	uint8		key[CMEK_KEY_LEN];

	if (!cmek_keyfile_parse(text, key))
		return;
	FUZZ_CHECK(strlen(text) >= 2 * CMEK_KEY_LEN);
}

#define HEX32 "000102030405060708090a0b0c0d0e0f"

static int
seed_key_file(int i, uint8 *seed)
{
	static const char *const seeds[] = {
		HEX32 HEX32 "\n", "cmek-service-key-1 " HEX32 HEX32 "\r\n", HEX32, ""
	};

	return seed_text(seeds, lengthof(seeds), i, seed);
}

/* The fingerprint in the data directory; all bits of a good one, once */
static bool
read_fingerprint(const char *text, size_t size)
{
	char		recorded[CMEK_FINGERPRINT_LEN + 1];
	CmekKmsAnswer *answer = palloc0(sizeof(CmekKmsAnswer));
	int			fd = open("cmek_service_key.fingerprint",
						  O_WRONLY | O_CREAT | O_TRUNC, 0600);
	bool		ok;

	FUZZ_CHECK(fd >= 0 && write(fd, text, size) == (ssize_t) size);
	close(fd);
	ok = cmek_fingerprint_read(recorded, answer);
	FUZZ_CHECK(ok == (recorded[0] != '\0'));
	FUZZ_CHECK(!ok || strlen(recorded) == CMEK_FINGERPRINT_LEN);
	FUZZ_CHECK(ok || answer->klass == CMEK_KMS_MISCONFIGURED);
	FUZZ_CHECK(!ok || strncmp(recorded, text, CMEK_FINGERPRINT_LEN) == 0);
	pfree(answer);
	return ok;
}

static void
run_fingerprint(const uint8 *data, size_t size)
{
	read_fingerprint((const char *) data, size);
}

static int
seed_fingerprint(int i, uint8 *seed)
{
	static const char *const seeds[] = {HEX32 "\n", HEX32, "", HEX32 "\n\n"};

	return seed_text(seeds, lengthof(seeds), i, seed);
}

/* A label: what it names, written again, names the same */
static void
run_label(const uint8 *data, size_t size)
{
	char	   *label = as_text(data, size);
	CmekKeys	keys;
	CmekKeys	again;
	ListCell   *lc;
	ListCell   *lc2;

	if (!cmek_label_parse_keys(label, &keys))
		return;
	FUZZ_CHECK(strlen(keys.key) < NAMEDATALEN);
	FUZZ_CHECK(cmek_label_parse_keys(cmek_label_format(&keys), &again));
	FUZZ_CHECK(strcmp(keys.key, again.key) == 0);
	FUZZ_CHECK(list_length(keys.replicas) == list_length(again.replicas));
	forboth(lc, keys.replicas, lc2, again.replicas)
		FUZZ_CHECK(strcmp(lfirst(lc), lfirst(lc2)) == 0);
}

static int
seed_label(int i, uint8 *seed)
{
	static const char *const seeds[] = {
		"key=acme", "key=\"A \"\"b;\"", "key=acme;replica_keys=x",
		"key=\"a;b\";replica_keys=\"c,d\", e", "key=", "key=\"\"", "x"
	};

	return seed_text(seeds, lengthof(seeds), i, seed);
}

/* Options, a line each, of a server or a user mapping by the first byte */
static void
run_options(const uint8 *data, size_t size)
{
	List	   *options = NIL;
	char	   *line;

	if (size < 1)
		return;
	for (line = strtok(as_text(data + 1, size - 1), "\n"); line != NULL;
		 line = strtok(NULL, "\n"))
	{
		char	   *value = strchr(line, '=');

		if (value != NULL)
			*value++ = '\0';
		options = lappend(options, makeDefElem(line, value == NULL ? NULL :
											   (Node *) makeString(value), -1));
	}
	cmek_kms_validate(&cmek_file_provider, options,
					  data[0] % 2 ? ForeignServerRelationId : UserMappingRelationId);
}

static int
seed_options(int i, uint8 *seed)
{
	static const char *const seeds[] = {
		"1key_file=/etc/key\n", "1key_file=relative", "1key_file=", "0user=x\n", "1other=1\nkey_file=/x"
	};

	return seed_text(seeds, lengthof(seeds), i, seed);
}

const FuzzTarget fuzz_chain = {"chain", run_chain, seed_chain};
const FuzzTarget fuzz_key_file = {"key_file", run_key_file, seed_key_file};
const FuzzTarget fuzz_fingerprint = {"fingerprint", run_fingerprint, seed_fingerprint};
const FuzzTarget fuzz_label = {"label", run_label, seed_label};
const FuzzTarget fuzz_options = {"options", run_options, seed_options};
