/*-------------------------------------------------------------------------
 *
 * sealed.c
 *	  Secret options of user mappings: sealed in the catalog, open only inside
 *	  a KMS worker and for the length of one call.
 *
 * The key is derived from the service key, which only KMS workers ever read.
 * The text in the catalog names the fingerprint of that service key, so that
 * a text from another installation is known for what it is; everything it
 * says is authenticated (format.h).  A text is good for one option of one
 * provider and not bound to a server: a dump may bring it back anywhere in
 * this installation.
 *
 * A service key that is away is never an answer of DENIED here: it says
 * nothing about the customer's key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/base64.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/internal.h"

/* How long what a command printed is good for secrets */
#define REMEMBERED_S 60

/* A sealed option taken apart */
typedef struct SealedText
{
	char		fingerprint[CMEK_FINGERPRINT_LEN + 1];
	uint8		blob[CMEK_KMS_MAX_BLOB];
	int			len;
} SealedText;

/* The key of secrets, and which service key it comes from */
typedef struct SecretKey
{
	uint8		service_key[CMEK_KEY_LEN];
	uint8		key[CMEK_KEY_LEN];
	char		fingerprint[CMEK_FINGERPRINT_LEN + 1];
} SecretKey;

/* Does the text begin like a sealed one? */
static bool
has_prefix(const char *text)
{
	return strncmp(text, CMEK_SEALED_OPTION_PREFIX,
				   strlen(CMEK_SEALED_OPTION_PREFIX)) == 0;
}

/* Take a sealed text apart; false when it is none. */
static bool
parse_sealed(const char *text, SealedText *sealed)
{
	const char *at = text + strlen(CMEK_SEALED_OPTION_PREFIX);
	Size		len;

	if (!has_prefix(text) ||
		strspn(at, "0123456789abcdef") != CMEK_FINGERPRINT_LEN ||
		at[CMEK_FINGERPRINT_LEN] != ':')
		return false;
	strlcpy(sealed->fingerprint, at, sizeof(sealed->fingerprint));
	at += CMEK_FINGERPRINT_LEN + 1;
	len = strlen(at);
	if (len > INT_MAX / 2)
		return false;
	sealed->len = cmek_b64_decode(at, len, sealed->blob, sizeof(sealed->blob));
	return sealed->len > CMEK_AEAD_OVERHEAD;
}

/* See kms.h.  No part of the text is repeated: it may be a secret after all. */
bool
cmek_secret_is_sealed(const char *option, const char *text)
{
	SealedText	sealed;

	if (!has_prefix(text))
		return false;
	if (!parse_sealed(text, &sealed))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" is not a complete sealed secret", option),
				 errdetail("It begins with \"%s\", as secrets do that cmek has sealed.",
						   CMEK_SEALED_OPTION_PREFIX),
				 errhint("Copy the whole text, or give the secret itself.")));
	return true;
}

/* See kms.h. */
char *
cmek_secret_text(const char *fingerprint, const uint8 *blob, uint32 len)
{
	int			max = pg_b64_enc_len(len);
	char	   *base64 = palloc(max + 1);
	int			n = cmek_b64_encode(blob, len, base64, max);

	if (n < 0)
		elog(ERROR, "could not encode a sealed secret");
	base64[n] = '\0';
	return psprintf("%s%s:%s", CMEK_SEALED_OPTION_PREFIX, fingerprint, base64);
}

/* What a sealed secret belongs to. */
static CmekOptionAad
option_aad(const char *provider, const char *option)
{
	CmekOptionAad aad = {{0}, {0}, {0}};

	strlcpy(aad.domain, CMEK_OPTION_DOMAIN, sizeof(aad.domain));
	strlcpy(aad.provider, provider, sizeof(aad.provider));
	strlcpy(aad.option, option, sizeof(aad.option));
	return aad;
}

/*
 * A command is not run for each call: what came of it is good for a minute.
 * A key file is read each time, as it is for table keys.
 */
static bool
remembers(bool may_make, uint8 *id)
{
	const char *parts[] = {cmek_service_key_command};

	if (may_make || cmek_service_key_command[0] == '\0')
		return false;
	cmek_token_id(id, "option key", parts, lengthof(parts));
	return true;
}

/*
 * The key of secrets.  NULL, with the answer filled in, when the service key
 * cannot be had.
 */
static SecretKey *
open_secret_key(const char *expected, bool may_make, CmekInstant deadline,
				CmekKmsAnswer *answer)
{
	SecretKey  *secret = cmek_secret_alloc_in(CurrentMemoryContext,
											  sizeof(SecretKey));
	uint8		id[CMEK_TOKEN_ID_LEN];
	bool		memory = remembers(may_make, id);

	if (memory && cmek_token_get(id, secret, sizeof(SecretKey)))
		return secret;
	if (!cmek_service_key_open(expected, may_make, deadline,
							   secret->service_key, secret->fingerprint,
							   answer))
	{
		if (answer->klass == CMEK_KMS_DENIED)
			answer->klass = CMEK_KMS_MISCONFIGURED;
		return NULL;
	}
	cmek_derive_key(secret->service_key, CMEK_OPTION_DOMAIN, secret->key);
	cmek_cleanse(secret->service_key, CMEK_KEY_LEN);
	if (memory)
		cmek_token_put(id, secret, sizeof(SecretKey),
					   cmek_instant_in(REMEMBERED_S * 1000));
	return secret;
}

/* See kms.h.  The secret is the request's blob. */
void
cmek_secret_seal(const CmekKmsRequest *req, const char *option,
				 CmekKmsAnswer *answer)
{
	CmekOptionAad aad = option_aad(req->config->provider, option);
	SecretKey  *secret = open_secret_key(req->expected_version, true,
										 req->deadline, answer);
	CmekAead   *aead;

	if (secret == NULL)
		return;
	if (req->blob_len > CMEK_MAX_SECRET)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "SecretTooLong",
						"the secret is too long");
		return;
	}
	aead = cmek_aead_create(secret->key);
	PG_TRY();
	{
		cmek_aead_seal(aead, answer->blob, req->blob, req->blob_len,
					   &aad, sizeof(aad));
	}
	PG_FINALLY();
	{
		cmek_aead_free(aead);
	}
	PG_END_TRY();
	answer->blob_len = req->blob_len + CMEK_AEAD_OVERHEAD;
	strlcpy(answer->key_version, secret->fingerprint,
			sizeof(answer->key_version));
	cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
}

/*
 * Open one secret at the end of a configuration that is being built.  False,
 * with the answer filled in, when it cannot be opened.
 */
static bool
append_opened(CmekKmsConfig *opened, const char *option, const char *text,
			  const SecretKey *secret, CmekKmsAnswer *answer)
{
	CmekOptionAad aad = option_aad(opened->provider, option);
	SealedText *sealed = palloc(sizeof(SealedText));
	char	   *to = opened->options + opened->len;
	Size		len;
	CmekAead   *aead;
	bool		ok;

	if (!parse_sealed(text, sealed))
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "SecretNotSealed",
						"option \"%s\" of the user mapping is not a sealed secret: set it again",
						option);
		return false;
	}
	if (strcmp(sealed->fingerprint, secret->fingerprint) != 0)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED,
						"SecretOfAnotherCluster",
						"option \"%s\" of the user mapping was sealed under the service key with fingerprint %s, but that of this server is %s: set it again by ALTER USER MAPPING",
						option, sealed->fingerprint, secret->fingerprint);
		return false;
	}
	/* what is opened is shorter than the text, so there is room for it */
	len = sealed->len - CMEK_AEAD_OVERHEAD;
	aead = cmek_aead_create(secret->key);
	ok = cmek_aead_open(aead, to, sealed->blob, len, &aad, sizeof(aad));
	cmek_aead_free(aead);
	if (!ok || memchr(to, '\0', len) != NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "SecretDamaged",
						"option \"%s\" of the user mapping is damaged, or was sealed for another option: set it again",
						option);
		return false;
	}
	to[len] = '\0';
	opened->len += len + 1;
	return true;
}

/* Append a string with its NUL; the whole is never longer than it was. */
static void
append_string(CmekKmsConfig *config, const char *text)
{
	Size		len = strlen(text) + 1;

	memcpy(config->options + config->len, text, len);
	config->len += len;
}

/* Has a configuration a secret to open? */
static bool
has_secrets(const CmekKmsProvider *provider, const CmekKmsConfig *config)
{
	for (const CmekKmsOption *o = provider->options; o->name != NULL; o++)
		if ((o->flags & CMEK_OPTION_SECRET) &&
			cmek_kms_config_get(config, o->name) != NULL)
			return true;
	return false;
}

/* See kms.h. */
const CmekKmsConfig *
cmek_secrets_open(const CmekKmsConfig *config, CmekInstant deadline,
				  CmekKmsAnswer *answer)
{
	const CmekKmsProvider *provider = cmek_kms_provider(config->provider);
	const char *end = config->options + config->len;
	const char *value;
	CmekKmsConfig *opened;
	SecretKey  *secret;

	if (provider == NULL || !has_secrets(provider, config))
		return config;
	secret = open_secret_key("", false, deadline, answer);
	if (secret == NULL)
		return NULL;
	opened = cmek_secret_alloc_in(CurrentMemoryContext, sizeof(CmekKmsConfig));
	memcpy(opened, config, offsetof(CmekKmsConfig, options));
	opened->len = 0;
	for (const char *name = config->options; name < end;
		 name = value + strlen(value) + 1)
	{
		value = name + strlen(name) + 1;
		append_string(opened, name);
		if (!cmek_option_is_secret(provider, name))
			append_string(opened, value);
		else if (!append_opened(opened, name, value, secret, answer))
			return NULL;
	}
	cmek_cleanse(secret, sizeof(SecretKey));
	return opened;
}
