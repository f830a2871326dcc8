/*-------------------------------------------------------------------------
 *
 * kms/gcpwire.h
 *	  What is said to Google Cloud KMS and the services that give out its
 *	  tokens, and what they say: bytes in, bytes out.
 *
 * Nothing here touches a network or a clock, allocates PostgreSQL memory or
 * throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_GCPWIRE_H
#define CMEK_KMS_GCPWIRE_H

#include "kms/kms.h"
#include "kms/text.h"

#define CMEK_GCP_MAX_TOKEN 4096
#define CMEK_GCP_MAX_EMAIL 320
#define CMEK_GCP_SCOPE_KMS "https://www.googleapis.com/auth/cloudkms"
/* what generateAccessToken asks for */
#define CMEK_GCP_SCOPE_ALL "https://www.googleapis.com/auth/cloud-platform"
#define CMEK_GCP_TOKEN_URL "https://oauth2.googleapis.com/token"

typedef enum CmekGcpCall
{
	CMEK_GCP_ENCRYPT,
	CMEK_GCP_DECRYPT,
	CMEK_GCP_KEY
} CmekGcpCall;

/* A service account's key */
typedef struct CmekGcpAccount
{
	char		email[CMEK_GCP_MAX_EMAIL];
	char		private_key[8192];	/* PEM */
	char		key_id[128];	/* "": not known */
	char		token_url[512];
} CmekGcpAccount;

typedef struct CmekGcpToken
{
	char		token[CMEK_GCP_MAX_TOKEN];
	int64		seconds;		/* how long it is good */
} CmekGcpToken;

extern uint32 cmek_gcp_crc32c(const void *data, Size len);

extern void cmek_gcp_key_url(const CmekKmsConfig *config, CmekGcpCall call,
							 CmekText *url);
extern void cmek_gcp_encrypt_body(const uint8 *uuid, const uint8 *key,
								  CmekText *body);
extern void cmek_gcp_decrypt_body(const uint8 *uuid, const uint8 *blob,
								  uint32 len, CmekText *body);
extern void cmek_gcp_read_encrypt(const CmekKmsConfig *config, int status,
								  const char *body, Size len,
								  CmekKmsAnswer *answer);
extern void cmek_gcp_read_decrypt(const CmekKmsConfig *config,
								  const CmekKmsRequest *req, int status,
								  const char *body, Size len,
								  CmekKmsAnswer *answer);
extern void cmek_gcp_read_key(const CmekKmsConfig *config, int status,
							  const char *body, Size len,
							  CmekKmsAnswer *answer);

/* A service-account file; false with the answer filled in */
extern bool cmek_gcp_read_account(const char *text, Size len,
								  CmekGcpAccount *account,
								  CmekKmsAnswer *answer);
/* What is signed of a JWT: header.claims */
extern void cmek_gcp_jwt(const CmekGcpAccount *account, const char *scope,
						 int64 now, CmekText *jwt);
extern void cmek_gcp_token_body(const char *jwt, CmekText *body);
/* of the OAuth server or the metadata server */
extern void cmek_gcp_read_token(int status, const char *body, Size len,
								CmekGcpToken *token, CmekKmsAnswer *answer);

extern void cmek_gcp_impersonate_url(const CmekKmsConfig *config,
									 const char *account, CmekText *url);
/* delegates: a list with commas, or NULL */
extern void cmek_gcp_impersonate_body(const char *delegates, CmekText *body);
extern void cmek_gcp_read_impersonated(int status, const char *body, Size len,
									   CmekGcpToken *token,
									   CmekKmsAnswer *answer);

/* The role binding that a step needs */
extern void cmek_gcp_advise(const CmekKmsConfig *config, CmekKmsStep step,
							const CmekKmsAnswer *answer,
							char *out, Size size);

#endif							/* CMEK_KMS_GCPWIRE_H */
