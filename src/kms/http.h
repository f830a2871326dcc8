/*-------------------------------------------------------------------------
 *
 * kms/http.h
 *	  One HTTP request and its answer: the only way out to a KMS by HTTP.
 *
 * How a provider uses it:
 *
 *	 1. a pure function builds method, URL, headers and body (text.h)
 *	 2. cmek_http_run sends them, once, and waits: interruptibly, until the
 *		deadline, without a redirect
 *	 3. a pure function reads status and body into a CmekKmsAnswer
 *	 4. cmek_kms_with_retries wraps 1 to 3: what is UNREACHABLE is tried again
 *		with a jittered back-off, as long as the deadline allows
 *
 * In KMS workers and, for S3 only, in backends and the visitor, where a wait
 * ends as any other with an interrupt.  Everything is allocated in the current
 * memory context, which is the call's; answers are in secret memory of it
 * unless the request has an area for them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_HTTP_H
#define CMEK_KMS_HTTP_H

#include "kms/kms.h"

#define CMEK_HTTP_MAX_HEADERS	16
#define CMEK_HTTP_MAX_BODY		65536	/* of an answer */
#define CMEK_HTTP_MAX_HEAD		16384	/* all headers of an answer */

/* Whom may this request reach without TLS? */
typedef enum CmekHttpPlain
{
	CMEK_HTTP_TLS_ONLY,			/* nobody: the default */
	CMEK_HTTP_PLAIN_LOOPBACK,	/* loopback: the address is a superuser's */
	CMEK_HTTP_PLAIN_METADATA	/* loopback and the metadata services of a
								 * host, container or pod; never by a proxy */
} CmekHttpPlain;

/*
 * Whatever is pointed to must live until cmek_http_run returns and is not
 * copied by us: put secrets into secret memory.  What libcurl copies, it
 * cleanses.
 */
typedef struct CmekHttpRequest
{
	const char *method;			/* "GET", "POST", "PUT" */
	const char *url;			/* no user or password in it */
	const char *headers[CMEK_HTTP_MAX_HEADERS]; /* "Name: value" */
	int			nheaders;
	const char *body;			/* NULL: none */
	Size		body_len;
	CmekHttpPlain plain;
	const char *ca_file;		/* PEM; NULL: the system's authorities */
	char	   *area;			/* where the answer's body goes; NULL: secret
								 * memory of CMEK_HTTP_MAX_BODY */
	Size		area_size;		/* with room for a NUL */
	CmekInstant deadline;		/* the whole exchange */
	int			timeout_ms;		/* if that is sooner; 0: does not matter */
} CmekHttpRequest;

/* Append a header; ERROR when there are too many (which cannot happen) */
extern void cmek_http_header(CmekHttpRequest *request, const char *header);

typedef struct CmekHttpAnswer
{
	int			status;
	char	   *head;			/* all headers, a line each */
	Size		head_len;
	char	   *body;			/* ends with a NUL that is not counted */
	Size		body_len;
} CmekHttpAnswer;

/*
 * Send a request and wait for its answer.  True with whatever status there
 * was; false with the kms answer filled in when there was none: UNREACHABLE,
 * or MISCONFIGURED when the address cannot be used or TLS is not trusted.
 */
extern bool cmek_http_run(const CmekHttpRequest *request,
						  CmekHttpAnswer *http, CmekKmsAnswer *answer);

/* May something else than TLS be used to reach an address?  A pure function. */
extern bool cmek_http_plain_allowed(CmekHttpPlain plain, const char *host);

/* ----------
 * httphead.c: headers of answers; pure functions
 * ----------
 */

/* The value of the last header of a name; false when there is none or it does not fit */
extern bool cmek_http_find(const CmekHttpAnswer *http, const char *name,
						   char *out, Size size);
/* "Sun, 06 Nov 1994 08:49:37 GMT" as seconds since 1970 */
extern bool cmek_http_parse_date(const char *text, int64 *seconds);
/*
 * How long Retry-After asks to wait, in ms: seconds, or a date compared with
 * the answer's own.  0 when it says nothing that can be used.
 */
extern int	cmek_http_retry_after(const CmekHttpAnswer *http);

/* ----------
 * retry.c: trying again
 * ----------
 */

/*
 * One attempt fills in the answer and returns how long to wait at least, in
 * ms, before the next one, if the answer is UNREACHABLE: 0 when it does not
 * matter (or cmek_http_retry_after), CMEK_RETRY_NEVER to let it be.
 */
#define CMEK_RETRY_NEVER (-1)
typedef int (*CmekKmsAttempt) (void *arg, CmekKmsAnswer *answer);

/*
 * Call it until the answer is anything else than UNREACHABLE, or there is less
 * than half a second, or a quarter of the time, for another attempt.  The last
 * answer stands.
 */
extern void cmek_kms_with_retries(CmekInstant deadline, CmekKmsAttempt attempt,
								  void *arg, CmekKmsAnswer *answer);
/*
 * When one attempt has to end, so that there is time for another: half of what
 * is left, but at least a second
 */
extern CmekInstant cmek_kms_attempt_deadline(CmekInstant deadline);

/* ----------
 * token.c: what a worker remembers for a while, such as access tokens
 * ----------
 */
#define CMEK_TOKEN_ID_LEN 32
#define CMEK_TOKEN_MAX 8192

/*
 * Who a token is for: a digest, keyed by this worker, of its kind and of the
 * n strings that decide about it, secrets included.  A NULL string is absent,
 * which is not the same as empty.
 */
extern void cmek_token_id(uint8 *id, const char *kind, const char *const *parts,
						  int n);
/* Copy a value that is good for some time yet; false when there is none */
extern bool cmek_token_get(const uint8 *id, void *value, Size size);
/* Remember a value; the caller allows for the time it takes to use it */
extern void cmek_token_put(const uint8 *id, const void *value, Size size,
						   CmekInstant good_until);
extern void cmek_token_forget(const uint8 *id);

/* ----------
 * readfile.c
 * ----------
 */

/*
 * Read a regular file that holds a secret (credentials, a token) into secret
 * memory of the current context, with a NUL at its end.  NULL with the answer
 * filled in, MISCONFIGURED, when it cannot be read or has more than max bytes;
 * *missing (unless NULL) says whether that is because it is not there.
 */
extern char *cmek_kms_read_file(const char *path, Size max, bool *missing,
								CmekKmsAnswer *answer);

#endif							/* CMEK_KMS_HTTP_H */
