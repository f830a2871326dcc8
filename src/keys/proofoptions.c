/*-------------------------------------------------------------------------
 *
 * proofoptions.c
 *	  The options by which the keeper proves KMS keys that are in use.
 *
 * They may hold credentials, so they are in secret shared memory, of which
 * there is little: a fixed number of places, each of one KMS key (an index of
 * state.c); the one used longest ago makes room.  A KMS key without a place is
 * proved when somebody asks for it.  Guarded by the board's lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "keys/internal.h"

typedef struct ProofOptions
{
	bool		used;
	int			server;
	uint64		config_hash;
	CmekInstant used_at;
	CmekKmsConfig config;
} ProofOptions;

static ProofOptions *places = NULL;

/* How many KMS keys the keeper proves at a time. */
static int
num_places(void)
{
	return Max(2 * CMEK_BOARD_SLOTS, cmek_key_cache_size / 16);
}

/* Bytes of all places. */
static Size
places_size(void)
{
	return mul_size(num_places(), sizeof(ProofOptions));
}

Size
cmek_proof_options_shmem_size(void)
{
	return cmek_shmem_secret_size(places_size());
}

/* Find or make the places. */
void
cmek_proof_options_shmem_init(void)
{
	bool		found;

	places = cmek_shmem_secret("cmek proof options", places_size(), &found);
}

/* The place of a KMS key; NULL when it has none. */
static ProofOptions *
find_place(int server)
{
	for (int i = 0; i < num_places(); i++)
		if (places[i].used && places[i].server == server)
			return &places[i];
	return NULL;
}

/* A place that is free, or was used longest ago. */
static ProofOptions *
make_place(void)
{
	ProofOptions *best = &places[0];

	for (int i = 0; i < num_places(); i++)
	{
		if (!places[i].used)
			return &places[i];
		if (places[i].used_at < best->used_at)
			best = &places[i];
	}
	return best;
}

/* See internal.h. */
void
cmek_proof_options_keep(int server, const CmekKeyRequest *what)
{
	ProofOptions *place = find_place(server);

	if (place == NULL)
		place = make_place();
	place->used = true;
	place->server = server;
	place->used_at = cmek_now();
	place->config_hash = what->config_hash;
	place->config = what->config;
}

/* See internal.h. */
bool
cmek_proof_options_read(int server, uint64 config_hash, CmekKeyRequest *what)
{
	ProofOptions *place = find_place(server);

	if (place == NULL || place->config_hash != config_hash)
		return false;
	place->used_at = cmek_now();
	what->config_hash = place->config_hash;
	what->config = place->config;
	return true;
}

/* See internal.h. */
void
cmek_proof_options_forget(int server)
{
	ProofOptions *place = find_place(server);

	if (place != NULL)
		cmek_cleanse(place, sizeof(ProofOptions));
}
