/*-------------------------------------------------------------------------
 *
 * kms/kmipwire.h
 *	  What is said to a KMIP server and what it says: bytes in, bytes out.
 *
 * Nothing here touches a network, allocates PostgreSQL memory or throws.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_KMIPWIRE_H
#define CMEK_KMS_KMIPWIRE_H

#include "kms/kms.h"
#include "kms/ttlv.h"

#define CMEK_KMIP_MAX_REQUEST 4096
#define CMEK_KMIP_MAX_ANSWER 65536
#define CMEK_KMIP_RESPONSE 0x42007B /* the tag of an answer */

/* The values are KMIP's numbers of the operations; Get (0x0A) is not there */
typedef enum CmekKmipCall
{
	CMEK_KMIP_KEY = 0x0B,		/* Get Attributes */
	CMEK_KMIP_QUERY = 0x18,
	CMEK_KMIP_ENCRYPT = 0x1F,
	CMEK_KMIP_DECRYPT = 0x20
} CmekKmipCall;

/* Write a request.  Encrypt takes value and blob->iv, Decrypt the blob. */
extern void cmek_kmip_request(const CmekKmsConfig *config, CmekKmipCall call,
							  const uint8 *uuid, const uint8 *value,
							  const CmekHsmBlob *blob, CmekTtlv *to);

/*
 * Read an answer.  Of Encrypt, "blob" has the IV that was sent.  The key of an
 * answer is KMS memory of the caller's.
 */
extern void cmek_kmip_read(const CmekKmsConfig *config, CmekKmipCall call,
						   const uint8 *data, Size len, CmekHsmBlob *blob,
						   CmekKmsAnswer *answer);

/*
 * May a failed Decrypt mean that the tag does not fit?  Servers have several
 * words for it, which also mean other things.
 */
extern bool cmek_kmip_may_be_bad_tag(const CmekKmsAnswer *answer);

/* The n-th of "host[:port], host[:port], ..."; false when there is none */
extern bool cmek_kmip_host(const char *hosts, int n, char *host, Size size,
						   int *port);

/* What to grant when a step failed */
extern void cmek_kmip_advise(const CmekKmsConfig *config, CmekKmsStep step,
							 const CmekKmsAnswer *answer,
							 char *out, Size size);

#endif							/* CMEK_KMS_KMIPWIRE_H */
