/*-------------------------------------------------------------------------
 *
 * aead_ipsecmb.c
 *	  AES-256-GCM by Intel's libipsec-mb: the fast one.
 *
 * Owns the decision whether the library may be used on this processor, and
 * the expanded keys in its format.
 *
 * Of the library's manager we need three functions, which keep no state; the
 * manager (200 kB) is given back at once.  So they are as good in a forked
 * child, and when the postmaster has looked already, a backend does not pay
 * for the library's self test (14 ms the first time).
 *
 * What GCM leaves behind (a block of key stream, the computed tag) goes to the
 * context, which is secret memory, never to the stack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "crypto/aead.h"

#ifdef CMEK_HAVE_IPSECMB
#include <intel-ipsec-mb.h>

/* 1.3 is the first to test itself */
#if IMB_VERSION_NUM >= IMB_VERSION(1, 3, 0)
#define IPSECMB_USABLE
#endif
#endif

#ifdef IPSECMB_USABLE

/* The processor's instructions without which it would be slow or leak */
#define IPSECMB_CPU_FEATURES (IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ)

typedef struct IpsecmbAead
{
	CmekAead	base;
	struct gcm_context_data scratch;
	uint64		tag[CMEK_TAG_LEN / sizeof(uint64)];
	struct gcm_key_data key;
} IpsecmbAead;

/* The three functions, in one of the library's forms */
typedef struct GcmCode
{
	aes_gcm_pre_t expand;
	aes_gcm_enc_dec_t encrypt;
	aes_gcm_enc_dec_t decrypt;
} GcmCode;

static GcmCode gcm_best;		/* for this processor */
static GcmCode gcm_avx2;

/* Seal; the library refuses an argument only by its error number */
static inline void
gcm_seal(const GcmCode *code, CmekAead *aead, uint8 *out, const uint8 *nonce,
		 const void *plain, Size len, const void *aad, Size aadlen)
{
	IpsecmbAead *self = (IpsecmbAead *) aead;

	code->encrypt(&self->key, &self->scratch, out, plain, len, nonce,
				  aad, aadlen, out + len, CMEK_TAG_LEN);
	if (unlikely(imb_get_errno(NULL) != 0))
		elog(ERROR, "libipsec-mb could not seal a value: %s",
			 imb_get_strerror(imb_get_errno(NULL)));
}

/*
 * Open.  The tag is compared in constant time.  Where the library is to put
 * the computed one stands a tag that does not fit, so that an argument it
 * refuses is one that does not authenticate.
 */
static inline bool
gcm_open(const GcmCode *code, CmekAead *aead, void *plain, const uint8 *sealed,
		 Size len, const void *aad, Size aadlen)
{
	IpsecmbAead *self = (IpsecmbAead *) aead;
	const uint8 *ciphertext = sealed + CMEK_NONCE_LEN;
	uint64		given[CMEK_TAG_LEN / sizeof(uint64)];

	memcpy(given, ciphertext + len, CMEK_TAG_LEN);
	self->tag[0] = ~given[0];
	self->tag[1] = ~given[1];
	code->decrypt(&self->key, &self->scratch, plain, ciphertext, len, sealed,
				  aad, aadlen, (uint8 *) self->tag, CMEK_TAG_LEN);
	return ((given[0] ^ self->tag[0]) | (given[1] ^ self->tag[1])) == 0;
}

/* Expand the key; each form of the code has a layout of its own for it */
static bool
ipsecmb_init(CmekAead *aead, const uint8 *key)
{
	gcm_best.expand(key, &((IpsecmbAead *) aead)->key);
	return true;
}

static bool
ipsecmb_init_avx2(CmekAead *aead, const uint8 *key)
{
	gcm_avx2.expand(key, &((IpsecmbAead *) aead)->key);
	return true;
}

static void
ipsecmb_seal(CmekAead *aead, uint8 *out, const uint8 *nonce,
			 const void *plain, Size len, const void *aad, Size aadlen)
{
	gcm_seal(&gcm_best, aead, out, nonce, plain, len, aad, aadlen);
}

static void
ipsecmb_seal_avx2(CmekAead *aead, uint8 *out, const uint8 *nonce,
				  const void *plain, Size len, const void *aad, Size aadlen)
{
	gcm_seal(&gcm_avx2, aead, out, nonce, plain, len, aad, aadlen);
}

static bool
ipsecmb_open(CmekAead *aead, void *plain, const uint8 *sealed, Size len,
			 const void *aad, Size aadlen)
{
	return gcm_open(&gcm_best, aead, plain, sealed, len, aad, aadlen);
}

static bool
ipsecmb_open_avx2(CmekAead *aead, void *plain, const uint8 *sealed, Size len,
				  const void *aad, Size aadlen)
{
	return gcm_open(&gcm_avx2, aead, plain, sealed, len, aad, aadlen);
}

static const CmekAeadImpl cmek_aead_ipsecmb_impl = {
	.name = "ipsec-mb",
	.size = sizeof(IpsecmbAead),
	.init = ipsecmb_init,
	.seal = ipsecmb_seal,
	.open = ipsecmb_open,
	.fini = NULL
};

/* The same without AVX512, which some processors are slower with */
static const CmekAeadImpl cmek_aead_ipsecmb_avx2_impl = {
	.name = "ipsec-mb-avx2",
	.size = sizeof(IpsecmbAead),
	.init = ipsecmb_init_avx2,
	.seal = ipsecmb_seal_avx2,
	.open = ipsecmb_open_avx2,
	.fini = NULL
};

/* Take what we need out of a manager */
static void
gcm_code_set(GcmCode *code, const IMB_MGR *mgr)
{
	code->expand = mgr->gcm256_pre;
	code->encrypt = mgr->gcm256_enc;
	code->decrypt = mgr->gcm256_dec;
}

/* Why an allocated manager is not to be trusted; NULL when it is */
static const char *
ipsecmb_set_up(IMB_MGR *mgr)
{
	if ((mgr->features & IPSECMB_CPU_FEATURES) != IPSECMB_CPU_FEATURES)
		return "The processor lacks AES-NI or PCLMULQDQ.";

	init_mb_mgr_auto(mgr, NULL);
	if (imb_get_errno(mgr) != 0)
		return "libipsec-mb could not be initialized.";
	if ((mgr->features & IMB_FEATURE_SELF_TEST) == 0 ||
		(mgr->features & IMB_FEATURE_SELF_TEST_PASS) == 0)
		return "The self test of libipsec-mb did not succeed.";

	gcm_code_set(&gcm_best, mgr);
	if ((mgr->features & IMB_FEATURE_AVX2) != 0)
	{
		init_mb_mgr_avx2(mgr);
		if (imb_get_errno(mgr) == 0 &&
			(mgr->features & IMB_FEATURE_SELF_TEST_PASS) != 0)
			gcm_code_set(&gcm_avx2, mgr);
	}
	return NULL;
}

/* Look once whether the library works here */
static const char *
ipsecmb_probe(void)
{
	IMB_MGR    *mgr = alloc_mb_mgr(0);
	const char *reason;

	if (mgr == NULL)
		return "libipsec-mb could not allocate its memory.";
	reason = ipsecmb_set_up(mgr);
	free_mb_mgr(mgr);
	return reason;
}

/* See aead.h. */
const CmekAeadImpl *
cmek_aead_ipsecmb(bool avx2, const char **reason)
{
	static bool probed = false;
	static const char *unusable;

	if (!probed)
	{
		unusable = ipsecmb_probe();
		probed = true;
		if (unusable != NULL)
			ereport(LOG,
					(errmsg("cmek does not use libipsec-mb"),
					 errdetail_internal("%s", unusable)));
	}
	*reason = unusable;
	if (unusable != NULL)
		return NULL;
	if (!avx2)
		return &cmek_aead_ipsecmb_impl;
	*reason = "The processor lacks AVX2.";
	return gcm_avx2.decrypt != NULL ? &cmek_aead_ipsecmb_avx2_impl : NULL;
}

#else							/* !IPSECMB_USABLE */

/* See aead.h. */
const CmekAeadImpl *
cmek_aead_ipsecmb(bool avx2, const char **reason)
{
	*reason = "cmek was built without libipsec-mb 1.3 or later.";
	return NULL;
}

#endif							/* IPSECMB_USABLE */
