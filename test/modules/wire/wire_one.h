/* What reads answers, by name, and one try of all of it with arbitrary bytes */
#ifndef CMEK_TEST_WIRE_ONE_H
#define CMEK_TEST_WIRE_ONE_H

#include "postgres.h"

#include "kms/kms.h"

/* Have an answer read; false when there is no such function */
extern bool wire_read(const char *what, const CmekKmsConfig *config,
					  int status, const char *body, Size len,
					  CmekKmsAnswer *answer);
/* First byte: which function; second: the status; the rest: the body */
extern void wire_one(const uint8 *data, Size size);
extern int	wire_seeds(const char *const **seeds);

#endif
