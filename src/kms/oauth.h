/*-------------------------------------------------------------------------
 *
 * kms/oauth.h
 *	  What the providers with OAuth 2.0 have in common (Google, Azure): requests
 *	  with a bearer token, and assertions that are signed to come by one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_OAUTH_H
#define CMEK_KMS_OAUTH_H

#include "kms/http.h"
#include "kms/text.h"

/*
 * Send one request: a POST of "body", of this content type, or a GET when that
 * is NULL; "token" may be NULL.  False, with the answer filled in, when there
 * was no answer to it.
 */
extern bool cmek_oauth_send(const CmekKmsRequest *req, const CmekText *url,
							const char *token, const char *type,
							const char *body, CmekHttpAnswer *got,
							CmekKmsAnswer *answer);

/*
 * Sign a JWT (RFC 7515: header.claims) by RS256; returns all of it, or NULL
 * with the answer filled in.
 */
extern char *cmek_oauth_sign(const char *pem, CmekText *jwt,
							 CmekKmsAnswer *answer);

/* The time, in seconds since 1970 */
extern int64 cmek_oauth_now(void);

#endif							/* CMEK_KMS_OAUTH_H */
