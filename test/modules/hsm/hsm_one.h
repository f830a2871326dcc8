/* What reads KMIP answers and host lists, and one try of all of it */
#ifndef CMEK_TEST_HSM_ONE_H
#define CMEK_TEST_HSM_ONE_H

#include "postgres.h"

#include "kms/kmipwire.h"

/* "key", "query", "encrypt" or "decrypt"; false when it is none */
extern bool hsm_call(const char *what, CmekKmipCall *call);
/* First byte: which function and version; the rest: what came */
extern void hsm_one(const uint8 *data, Size size);
/* A good answer to a call, made by our own encoder; its length */
extern Size hsm_seed(int n, uint8 *out, Size size);
#define HSM_SEEDS 8

#endif
