/*-------------------------------------------------------------------------
 *
 * kms/azurewire.h
 *	  What is said to Azure Key Vault, Managed HSM and the services that give
 *	  out their tokens, and what they say: bytes in, bytes out.
 *
 * Nothing here touches a network or a clock, allocates PostgreSQL memory or
 * throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_AZUREWIRE_H
#define CMEK_KMS_AZUREWIRE_H

#include "kms/kms.h"
#include "kms/text.h"

#define CMEK_AZURE_MAX_TOKEN 6144
#define CMEK_AZURE_MAX_WRAPPED 512	/* RSA of 4096 bits */

typedef enum CmekAzureCall
{
	CMEK_AZURE_GET,
	CMEK_AZURE_WRAP,
	CMEK_AZURE_UNWRAP
} CmekAzureCall;

/* How a key wraps; the numbers stand in blobs (format.h) */
typedef enum CmekAzureAlgorithm
{
	CMEK_AZURE_RSA_OAEP_256 = 1,	/* RSA keys */
	CMEK_AZURE_A256KW = 2		/* AES keys, of a Managed HSM only */
} CmekAzureAlgorithm;

/* The version of a key that wraps, or has wrapped */
typedef struct CmekAzureVersion
{
	char		name[CMEK_AZURE_VERSION_LEN + 1];
	CmekAzureAlgorithm algorithm;
} CmekAzureVersion;

/* A blob taken apart; points into it */
typedef struct CmekAzureBlob
{
	CmekAzureBlobHeader header;
	CmekAzureVersion version;
	const uint8 *wrapped;
	Size		wrapped_len;
	const uint8 *sealed;		/* CMEK_WRAPPED_DEK_LEN bytes */
} CmekAzureBlob;

typedef struct CmekAzureToken
{
	char		token[CMEK_AZURE_MAX_TOKEN];
	int64		seconds;		/* how long it is good */
} CmekAzureToken;

/* ----------
 * azurewire.c: keys
 * ----------
 */

/* "https://HOST/keys/NAME", without a version? */
extern bool cmek_azure_is_key_id(const char *key_id);
/* Is the host one of a cloud of Microsoft's that we know? */
extern bool cmek_azure_is_known(const char *key_id);
/* What a token is asked for: "https://vault.azure.net" */
extern const char *cmek_azure_resource(const CmekKmsConfig *config);
/* Who gives it out: "https://login.microsoftonline.com" */
extern const char *cmek_azure_authority(const CmekKmsConfig *config);

extern void cmek_azure_url(const CmekKmsConfig *config, CmekAzureCall call,
						   const CmekAzureVersion *version, CmekText *url);
extern void cmek_azure_body(CmekAzureAlgorithm algorithm, const uint8 *bytes,
							Size len, CmekText *body);

/* The newest version of the key, as key_id and key_version too */
extern void cmek_azure_read_key(const CmekKmsConfig *config, int status,
								const char *body, Size len,
								CmekAzureVersion *version,
								CmekKmsAnswer *answer);
/* A value of at most "size" bytes that this version wrapped or unwrapped */
extern void cmek_azure_read_value(const CmekKmsConfig *config,
								  CmekAzureCall call,
								  const CmekAzureVersion *version,
								  int status, const char *body, Size len,
								  uint8 *value, Size size, Size *got,
								  CmekKmsAnswer *answer);

/*
 * A 401's WWW-Authenticate: which resource and tenant the vault wants a token
 * of.  True when they are the ones we ask for, or nothing is said; if not,
 * the answer is filled in.
 */
extern bool cmek_azure_judge_challenge(const char *challenge,
									   const char *resource,
									   const char *tenant,
									   CmekKmsAnswer *answer);

/* The head of a blob, the AAD of its seal, and the way back */
extern void cmek_azure_blob_header(const CmekAzureVersion *version,
								   Size wrapped_len,
								   CmekAzureBlobHeader *header);
extern void cmek_azure_blob_aad(const CmekAzureBlobHeader *header,
								const uint8 *uuid, CmekAzureWrapAad *aad);
extern bool cmek_azure_read_blob(const uint8 *bytes, Size len,
								 CmekAzureBlob *blob);

/* The role assignment that a step needs */
extern void cmek_azure_advise(const CmekKmsConfig *config, CmekKmsStep step,
							  const CmekKmsAnswer *answer,
							  char *out, Size size);

/* ----------
 * azuretoken.c: tokens
 * ----------
 */
extern void cmek_azure_token_url(const CmekKmsConfig *config,
								 const char *tenant, CmekText *url);
/* with either a secret or a signed assertion */
extern void cmek_azure_token_body(const CmekKmsConfig *config,
								  const char *client, const char *secret,
								  const char *assertion, CmekText *body);
/* What is signed of the JWT of a certificate: header.claims */
extern void cmek_azure_jwt(const char *audience, const char *client,
						   const uint8 *sha1, const uint8 *sha256,
						   const uint8 *id, int64 now, CmekText *jwt);
/* The metadata service of a machine; App Service's when it has a header */
extern void cmek_azure_identity_url(const CmekKmsConfig *config,
									const char *base, bool app_service,
									const char *identity, CmekText *url);
/* of any of them; "now" for those that say when it ends */
extern void cmek_azure_read_token(int status, const char *body, Size len,
								  int64 now, CmekAzureToken *token,
								  CmekKmsAnswer *answer);

#endif							/* CMEK_KMS_AZUREWIRE_H */
