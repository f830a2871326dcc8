/*-------------------------------------------------------------------------
 *
 * aead.c
 *	  AES-256-GCM as the rest of cmek sees it, and the choice between its
 *	  implementations.
 *
 * Owns the life of a context (CmekAead).  The bytes are the same out of every
 * implementation, so cmek.crypto changes how fast they come and nothing else;
 * a context keeps the implementation it was made with.
 *
 * A context lies in secret memory, which a forked child finds wiped: used
 * there it crashes on a null pointer and never seals with a key of zeros.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "crypto/aead.h"

static dlist_head live_contexts = DLIST_STATIC_INIT(live_contexts);
static int	live_pid = 0;

/* Free all contexts when the process ends: OpenSSL keeps its key outside */
static void
aead_at_exit(int code, Datum arg)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &live_contexts)
		cmek_aead_free(dlist_container(CmekAead, live, iter.cur));
}

/*
 * Enter a context in the list of this process.  A child starts with an empty
 * one, since it has the parent's contexts no more.
 */
static void
aead_remember(CmekAead *aead)
{
	if (live_pid != MyProcPid)
	{
		dlist_init(&live_contexts);
		live_pid = MyProcPid;

		/* after the arena's own callback, that is: to run before it */
		on_proc_exit(aead_at_exit, (Datum) 0);
	}
	dlist_push_tail(&live_contexts, &aead->live);
}

/* The implementation a choice means on this machine */
static const CmekAeadImpl *
aead_choose(CmekCryptoChoice choice)
{
	const CmekAeadImpl *impl;
	const char *reason;

	if (choice == CMEK_CRYPTO_OPENSSL)
		return &cmek_aead_openssl;

	impl = cmek_aead_ipsecmb(choice == CMEK_CRYPTO_IPSECMB_AVX2, &reason);
	if (impl == NULL && choice != CMEK_CRYPTO_AUTO)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cryptographic library \"ipsec-mb\" cannot be used on this server"),
				 errdetail_internal("%s", reason),
				 errhint("Set \"cmek.crypto\" to \"auto\" or \"openssl\".")));

	return impl != NULL ? impl : &cmek_aead_openssl;
}

/* Expand a key for the implementation that cmek.crypto asks for */
CmekAead *
cmek_aead_create(const uint8 *key)
{
	return cmek_aead_create_with(key, (CmekCryptoChoice) cmek_crypto);
}

/* Expand a key for a given implementation */
CmekAead *
cmek_aead_create_with(const uint8 *key, CmekCryptoChoice choice)
{
	const CmekAeadImpl *impl = aead_choose(choice);
	CmekAead   *aead;

	cmek_secret_forbid_core_dump();
	aead = cmek_secret_alloc(impl->size);

	if (!impl->init(aead, key))
	{
		cmek_secret_free(aead);
		cmek_openssl_error("EVP_CIPHER_fetch or EVP_CipherInit_ex2");
	}

	aead->impl = impl;
	aead_remember(aead);
	return aead;
}

/* Forget a key */
void
cmek_aead_free(CmekAead *aead)
{
	dlist_delete(&aead->live);
	if (aead->impl->fini != NULL)
		aead->impl->fini(aead);
	cmek_secret_free(aead);
}

/*
 * Lengths that no implementation would cut short: OpenSSL counts in int, GCM
 * itself ends at 64 GB.
 */
static inline void
aead_check_lengths(Size len, Size aadlen)
{
	if (unlikely(len > MaxAllocSize || aadlen > MaxAllocSize))
		elog(ERROR, "value of %zu bytes is too long to be sealed or opened",
			 Max(len, aadlen));
}

/* Seal under a fresh nonce */
void
cmek_aead_seal(CmekAead *aead, uint8 *out, const void *plain, Size len,
			   const void *aad, Size aadlen)
{
	aead_check_lengths(len, aadlen);
	cmek_nonce(out);
	aead->impl->seal(aead, out + CMEK_NONCE_LEN, out, plain, len, aad, aadlen);
}

/* Seal under the caller's nonce */
void
cmek_aead_seal_nonce(CmekAead *aead, uint8 *out, const uint8 *nonce,
					 const void *plain, Size len,
					 const void *aad, Size aadlen)
{
	aead_check_lengths(len, aadlen);
	memcpy(out, nonce, CMEK_NONCE_LEN);
	aead->impl->seal(aead, out + CMEK_NONCE_LEN, out, plain, len, aad, aadlen);
}

/* Open; what does not authenticate leaves no byte of it to the caller */
bool
cmek_aead_open(CmekAead *aead, void *plain, const uint8 *sealed, Size len,
			   const void *aad, Size aadlen)
{
	aead_check_lengths(len, aadlen);
	if (likely(aead->impl->open(aead, plain, sealed, len, aad, aadlen)))
		return true;

	cmek_cleanse(plain, len);
	return false;
}

/* Which implementation a context uses */
const char *
cmek_aead_name(const CmekAead *aead)
{
	return aead->impl->name;
}

/* Which implementation a new context would use */
const char *
cmek_crypto_implementation(void)
{
	return aead_choose((CmekCryptoChoice) cmek_crypto)->name;
}
