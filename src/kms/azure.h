/*-------------------------------------------------------------------------
 *
 * kms/azure.h
 *	  What azure.c and azureidentity.c share: one operation under way.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_AZURE_H
#define CMEK_KMS_AZURE_H

#include "kms/azurewire.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/oauth.h"

#define CMEK_AZURE_MAX_URL 2048
#define CMEK_AZURE_MAX_BODY 16384

/* In the memory of the call */
typedef struct CmekAzureOperation
{
	const CmekKmsRequest *req;
	uint8		id[CMEK_TOKEN_ID_LEN];
	CmekAzureToken *token;
	bool		fresh;			/* given out within this attempt */
} CmekAzureOperation;

/* azureidentity.c: come by a token; "anew": do not use a remembered one */
extern bool cmek_azure_get_token(CmekAzureOperation *op, bool anew,
								 CmekKmsAnswer *answer);
/* Which tenant our own credentials are of; NULL when the host's serve */
extern const char *cmek_azure_tenant(const CmekKmsConfig *config);
extern bool cmek_azure_has_credentials(const CmekKmsConfig *config);
extern bool cmek_azure_add_settings(CmekKmsConfig *config);

#endif							/* CMEK_KMS_AZURE_H */
