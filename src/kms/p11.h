/*-------------------------------------------------------------------------
 *
 * kms/p11.h
 *	  A PKCS#11 module, the process that it lives in, and the PINs that its
 *	  tokens refused.
 *
 *	 KMS worker                                   module's process
 *	 pkcs11.c --> p11host.c --- P11Order  ---->   p11module.c --> dlopen
 *	                 ^------- P11Report <-------
 *	 p11pin.c: <data_directory>.cmek/refused_pins
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_P11_H
#define CMEK_KMS_P11_H

#include "kms/kms.h"

#define P11_MAX_PIN		256		/* with its NUL */
#define P11_MAX_TOKEN	32		/* bytes of a token's label */
#define P11_MAX_LABEL	256		/* of a key, with its NUL */

typedef enum P11What
{
	P11_START,					/* load the module, find the token, log in */
	P11_IDENTIFY,
	P11_DESCRIBE,
	P11_WRAP,
	P11_UNWRAP
} P11What;

/* What the worker asks for */
typedef struct P11Order
{
	P11What		what;
	char		module[MAXPGPATH];	/* P11_START */
	char		token[P11_MAX_TOKEN + 1];	/* P11_START */
	char		pin[P11_MAX_PIN];	/* P11_START */
	char		key[P11_MAX_LABEL];
	char		aad[CMEK_KMS_AAD_LEN + 1];
	uint8		iv[CMEK_HSM_IV_LEN];	/* random */
	uint8		value[CMEK_KEY_LEN];	/* P11_WRAP */
	CmekHsmBlob blob;			/* P11_UNWRAP */
} P11Order;

/* What came of it */
typedef struct P11Report
{
	int			broken;			/* this process is of no use any more */
	int			pin_refused;	/* by the token: never try it again */
	CmekKmsAnswer answer;
} P11Report;

/* p11module.c: serve orders until the other end is closed; never returns */
extern void cmek_p11_serve(int fd);

/* ----------
 * p11host.c: processes of modules.  A host is good for one set of credentials,
 * known by an identity of token.c.
 * ----------
 */
typedef struct P11Host P11Host;

/* The host of these credentials; NULL when there is none that is idle */
extern P11Host *cmek_p11_find(const uint8 *id);
/* A new one; NULL with the answer filled in */
extern P11Host *cmek_p11_start(const uint8 *id, CmekKmsAnswer *answer);
/* False when there was no report in time: then the host is gone */
extern bool cmek_p11_ask(P11Host *host, const P11Order *order,
						 CmekInstant deadline, P11Report *report);
extern void cmek_p11_stop(P11Host *host);

/* ----------
 * p11pin.c: PINs that a token refused
 * ----------
 */
typedef struct P11PinLock
{
	int			fd;
	uint8		digest[CMEK_REFUSED_PIN_LEN];
} P11PinLock;

/*
 * Before a login: wait until nobody else tries the same one, and false, with
 * the answer filled in, when it was refused before or cannot be remembered.
 */
extern bool cmek_p11_pin_lock(const char *module, const char *token,
							  const char *pin, CmekInstant deadline,
							  P11PinLock *lock, CmekKmsAnswer *answer);
/* After one that was refused, before the unlock: false like above */
extern bool cmek_p11_pin_refused(const P11PinLock *lock,
								 CmekKmsAnswer *answer);
extern void cmek_p11_pin_unlock(P11PinLock *lock);

#endif							/* CMEK_KMS_P11_H */
