/*-------------------------------------------------------------------------
 *
 * kms/tls.h
 *	  A mutually authenticated TLS connection, for a KMS that speaks no HTTP.
 *
 * In KMS workers only.  Every wait ends with the deadline, with the worker, or
 * with the postmaster; a failed call fills in the answer: UNREACHABLE, or
 * MISCONFIGURED when one side does not trust the other's certificate.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_TLS_H
#define CMEK_KMS_TLS_H

#include "kms/kms.h"

/* Whom to call, and as whom.  Paths of PEM files. */
typedef struct CmekTlsPeer
{
	const char *host;			/* a name, or an address without brackets */
	int			port;
	const char *ca_file;		/* NULL: the system's authorities */
	const char *cert_file;		/* our certificate, and its chain */
	const char *key_file;		/* not encrypted */
} CmekTlsPeer;

typedef struct CmekTls CmekTls;

/*
 * Connect and shake hands; NULL when that fails.  The connection may be kept
 * between calls of a worker.
 */
extern CmekTls *cmek_tls_connect(const CmekTlsPeer *peer, CmekInstant deadline,
								 CmekKmsAnswer *answer);
/* All of the bytes, or false */
extern bool cmek_tls_send(CmekTls *tls, const void *data, Size len,
						  CmekInstant deadline, CmekKmsAnswer *answer);
extern bool cmek_tls_receive(CmekTls *tls, void *data, Size len,
							 CmekInstant deadline, CmekKmsAnswer *answer);
extern void cmek_tls_close(CmekTls *tls);

#endif							/* CMEK_KMS_TLS_H */
