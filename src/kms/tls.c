/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  TLS by OpenSSL, and nothing else may use OpenSSL's SSL.
 *
 *	 resolve (getaddrinfo_a, a thread of the C library) -> connect -> handshake
 *	 every step: non-blocking call -> wants to read or write -> wait -> again
 *
 * Invariants: TLS 1.2 or later; the peer's certificate and its name, or its
 * address, are always verified; our own certificate is always sent.  Waiting
 * is our own: for the socket, the latch, the postmaster and the deadline.  A
 * connection that an ERROR left half-made is closed by the next one.
 *
 * What libssl decrypts it cleanses (SSL_OP_CLEANSE_PLAINTEXT).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

#include "compat.h"
#include "kms/http.h"
#include "kms/text.h"
#include "kms/tls.h"

#define MAX_PEM (256 * 1024)
#define RESOLVE_TICK_MS 10

struct CmekTls
{
	int			fd;
	SSL_CTX    *context;
	SSL		   *ssl;
	bool		up;				/* hands were shaken; libssl forgets after an error */
};

/* What is being connected */
static CmekTls *unfinished = NULL;

/* ----------
 * Waiting
 * ----------
 */

/* Answer that it is time to give up. */
static bool
give_up(CmekKmsAnswer *answer)
{
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE,
					ShutdownRequestPending ? "Shutdown" : "Timeout",
					"the server did not answer in time");
	return false;
}

/* Wait for a socket (or, without one, for a tick); false: give up. */
static bool
wait_socket(int fd, int event, CmekInstant deadline, CmekKmsAnswer *answer)
{
	long		left = cmek_ms_until(deadline);
	int			rc;

	CHECK_FOR_INTERRUPTS();
	if (left <= 0 || ShutdownRequestPending)
		return give_up(answer);
	rc = WaitLatchOrSocket(MyLatch,
						   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | event,
						   fd, event != 0 ? left : Min(left, RESOLVE_TICK_MS),
						   cmek_wait_event("CmekKmsTls"));
	if (rc & WL_LATCH_SET)
		ResetLatch(MyLatch);
	return true;
}

/* ----------
 * Connecting
 * ----------
 */

/* A name being resolved: in malloc's memory, which may outlive the call */
typedef struct Resolving
{
	struct gaicb request;
	struct addrinfo hints;
	char		host[256];
	char		port[8];
} Resolving;

/* Begin to resolve a name, with all signals blocked in the new thread. */
static int
begin_resolving(Resolving *r, const CmekTlsPeer *peer)
{
	struct gaicb *list[1] = {&r->request};
	sigset_t	all;
	sigset_t	old;
	int			rc;

	strlcpy(r->host, peer->host, sizeof(r->host));
	snprintf(r->port, sizeof(r->port), "%d", peer->port);
	r->hints.ai_socktype = SOCK_STREAM;
	r->hints.ai_flags = AI_NUMERICSERV;
	r->request.ar_name = r->host;
	r->request.ar_service = r->port;
	r->request.ar_request = &r->hints;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	rc = getaddrinfo_a(GAI_NOWAIT, list, 1, NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return rc;
}

/* The addresses of a name; NULL with the answer filled in. */
static struct addrinfo *
resolve(const CmekTlsPeer *peer, CmekInstant deadline, CmekKmsAnswer *answer)
{
	Resolving  *r = calloc(1, sizeof(Resolving));
	struct addrinfo *found = NULL;
	int			rc = r == NULL ? EAI_MEMORY : begin_resolving(r, peer);

	while (rc == 0 && (rc = gai_error(&r->request)) == EAI_INPROGRESS)
	{
		rc = 0;
		if (!wait_socket(PGINVALID_SOCKET, 0, deadline, answer))
		{
			/* the thread may still write to it: then it stays */
			if (gai_cancel(&r->request) == EAI_CANCELED)
				free(r);
			return NULL;
		}
	}
	if (rc == 0)
		found = r->request.ar_result;
	else
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "HostNotFound",
						"could not resolve the host's name: %s", gai_strerror(rc));
	free(r);
	return found;
}

/* Connect to one address; the socket is tls's from the beginning. */
static bool
connect_address(CmekTls *tls, const struct addrinfo *address,
				CmekInstant deadline, CmekKmsAnswer *answer)
{
	int			on = 1;
	int			error = 0;
	socklen_t	len = sizeof(error);

	if (tls->fd >= 0)
		close(tls->fd);
	tls->fd = socket(address->ai_family,
					 SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (tls->fd < 0)
		error = errno;
	else if (connect(tls->fd, address->ai_addr, address->ai_addrlen) != 0)
		error = errno;
	while (error == EINPROGRESS)
	{
		if (!wait_socket(tls->fd, WL_SOCKET_WRITEABLE, deadline, answer))
			return false;
		/* not connected yet: it was the latch */
		if (getpeername(tls->fd, (struct sockaddr *) &(struct sockaddr_storage) {0},
						&(socklen_t) {sizeof(struct sockaddr_storage)}) == 0)
			error = 0;
		else if (getsockopt(tls->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
			error = errno;
		else if (error == 0)
			error = EINPROGRESS;
	}
	if (error == 0)
	{
		(void) setsockopt(tls->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		return true;
	}
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "ConnectionRefused",
					"could not connect: %s", strerror(error));
	return false;
}

/* Connect to the first address that takes us. */
static bool
connect_any(CmekTls *tls, const CmekTlsPeer *peer, CmekInstant deadline,
			CmekKmsAnswer *answer)
{
	struct addrinfo *addresses = resolve(peer, deadline, answer);
	bool		ok = false;

	for (struct addrinfo *a = addresses; a != NULL && !ok; a = a->ai_next)
		ok = connect_address(tls, a, deadline, answer);
	if (addresses != NULL)
		freeaddrinfo(addresses);
	return ok;
}

/* ----------
 * Certificates
 * ----------
 */

/* No pass phrase is known, and nobody to ask. */
static int
no_pass_phrase(char *buf, int size, int rwflag, void *arg)
{
	return 0;
}

/* A PEM file as OpenSSL reads it; its text is in secret memory. */
static BIO *
open_pem(const char *path, CmekKmsAnswer *answer)
{
	char	   *text = cmek_kms_read_file(path, MAX_PEM, NULL, answer);
	BIO		   *bio = text != NULL ? BIO_new_mem_buf(text, -1) : NULL;

	if (text != NULL && bio == NULL)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "OutOfMemory",
						"out of memory");
	return bio;
}

/* Answer that a file does not hold what it should. */
static bool
answer_pem(const char *code, const char *path, const char *what,
		   CmekKmsAnswer *answer)
{
	ERR_clear_error();
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, code,
					"file \"%s\" holds no %s in PEM form that can be used",
					path, what);
	return false;
}

/* Trust the certificates of a file, and no others. */
static bool
load_authorities(SSL_CTX *context, const char *path, CmekKmsAnswer *answer)
{
	BIO		   *bio;
	X509	   *cert;
	int			n = 0;

	if (path == NULL)
		return SSL_CTX_set_default_verify_paths(context) == 1 ||
			answer_pem("TlsAuthorityFile", "", "authorities of the system", answer);
	if ((bio = open_pem(path, answer)) == NULL)
		return false;
	while ((cert = PEM_read_bio_X509(bio, NULL, no_pass_phrase, NULL)) != NULL)
	{
		n += X509_STORE_add_cert(SSL_CTX_get_cert_store(context), cert);
		X509_free(cert);
	}
	ERR_clear_error();
	BIO_free(bio);
	return n > 0 || answer_pem("TlsAuthorityFile", path, "certificates", answer);
}

/* Our certificate, and those that lead to an authority. */
static bool
load_certificate(SSL_CTX *context, const char *path, CmekKmsAnswer *answer)
{
	BIO		   *bio = open_pem(path, answer);
	X509	   *cert;
	bool		ok;

	if (bio == NULL)
		return false;
	cert = PEM_read_bio_X509(bio, NULL, no_pass_phrase, NULL);
	ok = cert != NULL && SSL_CTX_use_certificate(context, cert) == 1;
	X509_free(cert);
	while (ok && (cert = PEM_read_bio_X509(bio, NULL, no_pass_phrase, NULL)) != NULL)
		if (SSL_CTX_add0_chain_cert(context, cert) != 1)
			X509_free(cert);
	ERR_clear_error();
	BIO_free(bio);
	return ok || answer_pem("TlsOwnCertificate", path, "certificate", answer);
}

/* The key of our certificate. */
static bool
load_key(SSL_CTX *context, const char *path, CmekKmsAnswer *answer)
{
	BIO		   *bio = open_pem(path, answer);
	EVP_PKEY   *key;
	bool		ok;

	if (bio == NULL)
		return false;
	key = PEM_read_bio_PrivateKey(bio, NULL, no_pass_phrase, NULL);
	ok = key != NULL && SSL_CTX_use_PrivateKey(context, key) == 1 &&
		SSL_CTX_check_private_key(context) == 1;
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok || answer_pem("TlsOwnCertificate", path,
							"private key of our certificate, without a pass phrase,", answer);
}

/* The name or address that the peer's certificate must be for. */
static bool
expect_peer(SSL *ssl, const char *host)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	if (X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1)
		return true;
	ERR_clear_error();
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
		SSL_set_tlsext_host_name(ssl, host) == 1;
}

/* Prepare the TLS of a connected socket. */
static bool
prepare(CmekTls *tls, const CmekTlsPeer *peer, CmekKmsAnswer *answer)
{
	tls->context = SSL_CTX_new(TLS_client_method());
	if (tls->context == NULL ||
		SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION) != 1)
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "OutOfMemory",
						"libssl could not prepare a connection");
		return false;
	}
	SSL_CTX_set_verify(tls->context, SSL_VERIFY_PEER, NULL);
	/* records that hold no data come back to us, and to the deadline */
	(void) SSL_CTX_clear_mode(tls->context, SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_options(tls->context, SSL_OP_CLEANSE_PLAINTEXT | SSL_OP_NO_RENEGOTIATION);
	if (!load_authorities(tls->context, peer->ca_file, answer) ||
		!load_certificate(tls->context, peer->cert_file, answer) ||
		!load_key(tls->context, peer->key_file, answer))
		return false;
	tls->ssl = SSL_new(tls->context);
	if (tls->ssl != NULL && expect_peer(tls->ssl, peer->host) &&
		SSL_set_fd(tls->ssl, tls->fd) == 1)
		return true;
	cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "BadAddress",
					"the host's name cannot be verified");
	return false;
}

/* ----------
 * Talking
 * ----------
 */

/* Is it an alert by which a server refuses our certificate? */
static bool
is_refusal(unsigned long error)
{
	if (ERR_GET_LIB(error) != ERR_LIB_SSL)
		return false;
	switch (ERR_GET_REASON(error) - SSL_AD_REASON_OFFSET)
	{
		case SSL_AD_BAD_CERTIFICATE:
		case SSL_AD_UNSUPPORTED_CERTIFICATE:
		case SSL_AD_CERTIFICATE_REVOKED:
		case SSL_AD_CERTIFICATE_EXPIRED:
		case SSL_AD_CERTIFICATE_UNKNOWN:
		case SSL_AD_UNKNOWN_CA:
		case SSL_AD_ACCESS_DENIED:
		case SSL_AD_CERTIFICATE_REQUIRED:
			return true;
	}
	return false;
}

/* Fill in the answer to a call of libssl that failed. */
static void
answer_ssl(const CmekTls *tls, CmekKmsAnswer *answer)
{
	unsigned long error = ERR_get_error();
	long		verified = SSL_get_verify_result(tls->ssl);
	const char *text = error != 0 ? ERR_reason_error_string(error) : NULL;

	if (verified != X509_V_OK)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "TlsNotTrusted",
						"the server's certificate is not trusted: %s",
						X509_verify_cert_error_string(verified));
	else if (is_refusal(error))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "TlsOwnCertificate",
						"the server does not accept our certificate: %s",
						text != NULL ? text : "no reason given");
	else
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE,
						tls->up ? "ConnectionLost" : "TlsHandshake",
						"the connection broke: %s",
						text != NULL ? text : "closed by the server");
	ERR_clear_error();
}

/* After a call of libssl: wait for what it wants, or give up. */
static bool
wait_for(const CmekTls *tls, int rc, CmekInstant deadline,
		 CmekKmsAnswer *answer)
{
	int			error = SSL_get_error(tls->ssl, rc);
	char		unwanted;

	if (error == SSL_ERROR_WANT_READ)
		return wait_socket(tls->fd, WL_SOCKET_READABLE, deadline, answer);
	if (error == SSL_ERROR_WANT_WRITE)
		return wait_socket(tls->fd, WL_SOCKET_WRITEABLE, deadline, answer);
	if (error == SSL_ERROR_SYSCALL)
	{
		/* it may have said why before it hung up on what we sent */
		ERR_clear_error();
		(void) SSL_read(tls->ssl, &unwanted, 1);
	}
	answer_ssl(tls, answer);
	return false;
}

/* Shake hands. */
static bool
shake_hands(const CmekTls *tls, CmekInstant deadline, CmekKmsAnswer *answer)
{
	for (;;)
	{
		int			rc;

		ERR_clear_error();
		if ((rc = SSL_connect(tls->ssl)) == 1)
			return true;
		if (!wait_for(tls, rc, deadline, answer))
			return false;
	}
}

/* See tls.h.  A broken pipe must be an error and no signal: PostgreSQL ignores it. */
bool
cmek_tls_send(CmekTls *tls, const void *data, Size len, CmekInstant deadline,
			  CmekKmsAnswer *answer)
{
	for (;;)
	{
		int			rc;

		ERR_clear_error();
		/* without partial writes: all, or to be called again as it was */
		if ((rc = SSL_write(tls->ssl, data, (int) len)) > 0)
			return true;
		if (!wait_for(tls, rc, deadline, answer))
			return false;
	}
}

/* See tls.h. */
bool
cmek_tls_receive(CmekTls *tls, void *data, Size len, CmekInstant deadline,
				 CmekKmsAnswer *answer)
{
	Size		got = 0;

	while (got < len)
	{
		int			rc;

		/* a peer that sends byte by byte never makes us wait */
		if (cmek_now() >= deadline)
			return give_up(answer);
		ERR_clear_error();
		rc = SSL_read(tls->ssl, (char *) data + got, (int) (len - got));
		if (rc > 0)
			got += rc;
		else if (!wait_for(tls, rc, deadline, answer))
			return false;
	}
	return true;
}

/* See tls.h.  No farewell: the peer sees the end of the stream. */
void
cmek_tls_close(CmekTls *tls)
{
	if (tls == unfinished)
		unfinished = NULL;
	SSL_free(tls->ssl);
	SSL_CTX_free(tls->context);
	if (tls->fd >= 0)
		close(tls->fd);
	free(tls);
}

/* See tls.h. */
CmekTls *
cmek_tls_connect(const CmekTlsPeer *peer, CmekInstant deadline,
				 CmekKmsAnswer *answer)
{
	CmekTls    *tls;

	if (unfinished != NULL)
		cmek_tls_close(unfinished);
	tls = calloc(1, sizeof(CmekTls));
	if (tls == NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "OutOfMemory", "out of memory");
		return NULL;
	}
	tls->fd = -1;
	unfinished = tls;
	if (!connect_any(tls, peer, deadline, answer) ||
		!prepare(tls, peer, answer) ||
		!shake_hands(tls, deadline, answer))
	{
		cmek_tls_close(tls);
		return NULL;
	}
	tls->up = true;
	unfinished = NULL;
	return tls;
}
