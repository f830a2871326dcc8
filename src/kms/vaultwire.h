/*-------------------------------------------------------------------------
 *
 * kms/vaultwire.h
 *	  What is said to Vault or OpenBao and what it says: bytes in, bytes out.
 *
 * Nothing here touches a network, allocates PostgreSQL memory or throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_VAULTWIRE_H
#define CMEK_KMS_VAULTWIRE_H

#include "kms/kms.h"
#include "kms/text.h"

#define CMEK_VAULT_MAX_TOKEN 2048

typedef enum CmekVaultCall
{
	CMEK_VAULT_ENCRYPT,
	CMEK_VAULT_DECRYPT,
	CMEK_VAULT_KEY,
	CMEK_VAULT_LOOKUP,
	CMEK_VAULT_RENEW,
	CMEK_VAULT_LOGIN
} CmekVaultCall;

/* What a login, a look-up or a renewal says of a token */
typedef struct CmekVaultToken
{
	char		token[CMEK_VAULT_MAX_TOKEN];	/* of a login only */
	char		who[128];
	int64		ttl;			/* s; 0: for ever */
	bool		renewable;
} CmekVaultToken;

extern void cmek_vault_url(const CmekKmsConfig *config, CmekVaultCall call,
						   CmekText *url);
extern void cmek_vault_encrypt_body(const uint8 *uuid, const uint8 *key,
									CmekText *body);
/* False when the blob cannot have come from Vault */
extern bool cmek_vault_decrypt_body(const uint8 *uuid, const uint8 *blob,
									uint32 len, CmekText *body);
extern void cmek_vault_approle_body(const char *role_id, const char *secret_id,
									CmekText *body);
extern void cmek_vault_kubernetes_body(const char *role, const char *jwt,
									   CmekText *body);

extern void cmek_vault_read_encrypt(const CmekKmsConfig *config, int status,
									const char *body, Size len,
									CmekKmsAnswer *answer);
extern void cmek_vault_read_decrypt(const CmekKmsConfig *config,
									const CmekKmsRequest *req, int status,
									const char *body, Size len,
									CmekKmsAnswer *answer);
extern void cmek_vault_read_key(const CmekKmsConfig *config, int status,
								const char *body, Size len,
								CmekKmsAnswer *answer);
extern void cmek_vault_read_login(int status, const char *body, Size len,
								  CmekVaultToken *token,
								  CmekKmsAnswer *answer);
/* of lookup-self and renew-self */
extern void cmek_vault_read_token(CmekVaultCall call, int status,
								  const char *body, Size len,
								  CmekVaultToken *token,
								  CmekKmsAnswer *answer);

/* The policy that a step needs */
extern void cmek_vault_advise(const CmekKmsConfig *config, CmekKmsStep step,
							  const CmekKmsAnswer *answer,
							  char *out, Size size);

#endif							/* CMEK_KMS_VAULTWIRE_H */
