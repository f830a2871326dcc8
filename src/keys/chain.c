/*-------------------------------------------------------------------------
 *
 * chain.c
 *	  The chain of table keys: each older one sealed under the one that
 *	  followed it, so that the newest opens them all.
 *
 *	   KMS key ──▶ version 3 ──▶ version 2 ──▶ version 1
 *
 * An export carries the chain (wrapped keys and seals, nothing else) to a
 * backup from before a switch.  There the newest key is opened by its KMS, the
 * chain is walked down to the table key that the backup's data keys are
 * wrapped by, and these are wrapped anew by the newest.
 *
 * The associated data of a seal name both keys and a digest of the older
 * one's row, so nothing in the chain can be swapped, left out or edited.  What
 * opens the local data keys is the right key: only that counts as a proof.
 * Nothing is written before everything was opened.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/internal.h"

/* The digest of a row, but for what seals it and the server's present name. */
static void
digest_row(const CmekTableKeyRow *row, uint8 *digest)
{
	Size		id_len = strlen(row->key_id) + 1;
	Size		version_len = strlen(row->key_version) + 1;
	Size		len = sizeof(int32) + id_len + version_len + row->blob_len;
	uint8	   *text = palloc(len);
	uint8	   *p = text;

	memcpy(p, &row->version, sizeof(int32));
	memcpy(p += sizeof(int32), row->key_id, id_len);
	memcpy(p += id_len, row->key_version, version_len);
	memcpy(p += version_len, row->blob, row->blob_len);
	cmek_hmac_sha256((const uint8 *) CMEK_CHAIN_DOMAIN,
					 strlen(CMEK_CHAIN_DOMAIN), text, len, digest);
	pfree(text);
}

/* The associated data of an older table key. */
static CmekChainAad
chain_aad(const CmekTableKeyRow *row, const uint8 *sealed_by)
{
	CmekChainAad aad = {0};

	strlcpy(aad.domain, CMEK_CHAIN_DOMAIN, sizeof(aad.domain));
	memcpy(aad.table_key, row->id, CMEK_UUID_LEN);
	memcpy(aad.sealed_by, sealed_by, CMEK_UUID_LEN);
	digest_row(row, aad.row);
	return aad;
}

/* Seal an older table key under the one that follows it, into its row. */
void
cmek_chain_seal(CmekTableKeyRow *row, const uint8 *key,
				const uint8 *sealed_by, CmekAead *by)
{
	CmekChainAad aad = chain_aad(row, sealed_by);

	row->is_sealed = true;
	memcpy(row->sealed_by, sealed_by, CMEK_UUID_LEN);
	cmek_aead_seal(by, row->sealed, key, CMEK_KEY_LEN, &aad, sizeof(aad));
}

/* Fail because a chain is not what an export once held. */
static void
report_broken(const CmekChain *chain, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("exported keys of table \"%s\" are damaged or forged",
					get_rel_name(chain->relid)),
			 errdetail("%s", detail)));
}

/* Where in the chain is a table key? -1 when it is not. */
static int
find_link(const CmekChain *chain, const uint8 *id)
{
	for (int i = 0; i < chain->nkeys; i++)
		if (memcmp(chain->keys[i].id, id, CMEK_UUID_LEN) == 0)
			return i;
	return -1;
}

/* The newest table key of a chain. */
static const CmekTableKeyRow *
newest(const CmekChain *chain)
{
	return &chain->keys[chain->nkeys - 1];
}

/* See keys.h. */
const char *
cmek_chain_server(const CmekChain *chain)
{
	return newest(chain)->server;
}

/* See keys.h. */
Oid
cmek_chain_relid(const CmekChain *chain)
{
	return chain->relid;
}

/* See keys.h. */
bool
cmek_chain_is_news(const CmekChain *chain)
{
	List	   *rows = cmek_catalog_read_table_keys(chain->relid);
	const CmekTableKeyRow *local = NULL;
	bool		known = false;
	bool		matches = false;
	ListCell   *lc;

	foreach(lc, rows)
	{
		CmekTableKeyRow *row = (CmekTableKeyRow *) lfirst(lc);

		if (local == NULL || row->version > local->version)
			local = row;
		known |= memcmp(row->id, newest(chain)->id, CMEK_UUID_LEN) == 0;
		matches |= find_link(chain, row->id) >= 0;
	}
	if (local == NULL || known)
		return false;
	if (!matches)
		report_broken(chain, "They belong to another table.");
	if (find_link(chain, local->id) < 0)
		report_broken(chain, "They do not hold the key that the table has now.");
	return true;
}

/*
 * Open the table key at "target" of the chain, given the newest.  "key" holds
 * the newest on entry, the other on return.
 */
static void
walk_down(const CmekChain *chain, int target, uint8 *key)
{
	for (int i = chain->nkeys - 2; i >= target; i--)
	{
		const CmekTableKeyRow *row = &chain->keys[i];
		CmekChainAad aad = chain_aad(row, chain->keys[i + 1].id);
		CmekAead   *aead = cmek_aead_create(key);
		bool		ok;

		ok = row->is_sealed &&
			memcmp(row->sealed_by, aad.sealed_by, CMEK_UUID_LEN) == 0 &&
			row->version + 1 == chain->keys[i + 1].version &&
			cmek_aead_open(aead, key, row->sealed, CMEK_KEY_LEN,
						   &aad, sizeof(aad));
		cmek_aead_free(aead);
		if (!ok)
			report_broken(chain,
						  psprintf("Version %d cannot be opened by the version after it.",
								   row->version));
	}
}

/* A uuid is the key of a cache that others use: it must not be theirs. */
static void
check_ownership(const CmekChain *chain, int first)
{
	for (int i = first; i < chain->nkeys; i++)
		if (cmek_catalog_table_key_exists(chain->keys[i].id))
			report_broken(chain, "They name the key of another table.");
}

/*
 * Open both ends of what is missing: the newest key by its KMS, and the one
 * that the data keys are wrapped by through the chain.
 */
void
cmek_chain_open(const CmekChain *chain, const CmekTableKeyRow *local,
				uint8 *local_key, uint8 *newest_key)
{
	int			target = find_link(chain, local->id);
	CmekLease	lease;

	Assert(target >= 0 && target < chain->nkeys - 1);
	check_ownership(chain, target + 1);

	/*
	 * It is this blob that has to open, not one of the same uuid that an
	 * earlier attempt left in the cache; and this attempt may fail, too.
	 */
	cmek_cache_drop(MyDatabaseId, newest(chain)->id);
	cmek_table_key_forget(newest(chain)->id, false);
	cmek_table_key_open_now(newest(chain), newest_key, &lease);
	memcpy(local_key, newest_key, CMEK_KEY_LEN);
	walk_down(chain, target, local_key);
}

/* See internal.h. */
void
cmek_chain_open_at(const CmekChain *chain, int target, uint8 *key)
{
	CmekLease	lease;

	(void) cmek_server_of_key(newest(chain)->server);
	cmek_table_key_open_now(newest(chain), key, &lease);
	walk_down(chain, target, key);
}

/* Store what the chain has and the table has not. */
const CmekTableKeyRow *
cmek_chain_store(const CmekChain *chain, const CmekTableKeyRow *local)
{
	int			target = find_link(chain, local->id);

	cmek_catalog_seal_table_key(&chain->keys[target]);
	for (int i = target + 1; i < chain->nkeys; i++)
		cmek_catalog_insert_table_key(&chain->keys[i]);
	return newest(chain);
}
