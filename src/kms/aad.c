/*-------------------------------------------------------------------------
 *
 * aad.c
 *	  The associated data by which a KMS binds a wrapped table key to its uuid.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/internal.h"

/* See internal.h. */
void
cmek_kms_aad(const uint8 *uuid, char *aad)
{
	static const char digits[] = "0123456789abcdef";
	char	   *to = aad + strlcpy(aad, CMEK_KMS_AAD_PREFIX, CMEK_KMS_AAD_LEN + 1);

	for (int i = 0; i < CMEK_UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		*to++ = digits[uuid[i] >> 4];
		*to++ = digits[uuid[i] & 15];
	}
	*to = '\0';
}
