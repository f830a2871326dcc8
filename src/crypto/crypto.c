/*-------------------------------------------------------------------------
 *
 * crypto.c
 *	  The settings of this folder.
 *
 * Owns cmek.crypto and cmek.allow_core_dumps.  Neither changes a byte that is
 * written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "crypto/aead.h"

int			cmek_crypto = CMEK_CRYPTO_AUTO;
bool		cmek_allow_core_dumps = false;

static const struct config_enum_entry crypto_choices[] = {
	{"auto", CMEK_CRYPTO_AUTO, false},
	{"ipsec-mb", CMEK_CRYPTO_IPSECMB, false},
	{"ipsec-mb-avx2", CMEK_CRYPTO_IPSECMB_AVX2, false},
	{"openssl", CMEK_CRYPTO_OPENSSL, false},
	{NULL, 0, false}
};

/* Refuse to insist on a library that cannot be used here */
static bool
crypto_check(int *newval, void **extra, GucSource source)
{
	const char *reason;

	if (*newval == CMEK_CRYPTO_AUTO || *newval == CMEK_CRYPTO_OPENSSL ||
		cmek_aead_ipsecmb(*newval == CMEK_CRYPTO_IPSECMB_AVX2, &reason) != NULL)
		return true;

	GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
	GUC_check_errdetail("%s", reason);
	GUC_check_errhint("Set \"cmek.crypto\" to \"auto\" or \"openssl\".");
	return false;
}

/* Register this folder's settings */
void
cmek_crypto_init(void)
{
	DefineCustomEnumVariable("cmek.crypto",
							 "Selects the library that encrypts rows.",
							 "The bytes are the same out of each.",
							 &cmek_crypto,
							 CMEK_CRYPTO_AUTO,
							 crypto_choices,
							 PGC_SUSET,
							 0,
							 crypto_check, NULL, NULL);

	DefineCustomBoolVariable("cmek.allow_core_dumps",
							 "Allows core dumps of processes that hold keys or rows in clear.",
							 NULL,
							 &cmek_allow_core_dumps,
							 false,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);

	/* let the postmaster run the self test, that backends need not */
	if (process_shared_preload_libraries_in_progress)
		(void) cmek_crypto_implementation();
}
