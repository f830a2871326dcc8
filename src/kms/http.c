/*-------------------------------------------------------------------------
 *
 * http.c
 *	  HTTP by libcurl, and nothing else may use libcurl.
 *
 * Owns one multi handle of the process, which keeps connections open between
 * calls, so that a KMS call costs one round trip and not four.  Waiting is our
 * own: libcurl says which sockets it waits for and for how long, and we wait
 * for those, the latch, the postmaster and the deadline.
 *
 *	 easy handle --add--> multi --socket_callback--> watched[] --> wait
 *								<--socket_action---- events	  <----+
 *
 * Invariants: no redirect is followed; TLS certificates and names are always
 * verified; without TLS only the addresses that the request allows; an answer
 * has a size limit; nothing is left in the multi handle after an ERROR.  No
 * callback may throw an ERROR, for it would jump through libcurl: the areas
 * they write to are there beforehand.
 *
 * All signals are blocked while libcurl runs, because it resolves names in a
 * thread, which inherits the mask: no signal of PostgreSQL's may end up there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include <curl/curl.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/text.h"
#include "kms/wipe.h"

#define MAX_WATCHED 16			/* sockets: two addresses and a resolver */
#define MAX_EVENTS (MAX_WATCHED + 2)	/* the latch and the postmaster */
#define MAX_CONNECTIONS 16		/* kept open by the process */
#define CONNECTION_MAX_AGE 50	/* s idle; servers close them after 60 */
#define CONNECT_TIMEOUT_MS 5000
#define LONG_TRANSFER (1024 * 1024)
#define TRANSFER_BUFFER (256 * 1024)	/* libcurl's own is 16 or 64 kB */

/* One call: what the callbacks write to */
typedef struct HttpCall
{
	CURL	   *easy;
	struct curl_slist *headers;
	CmekHttpAnswer *answer;
	Size		max_body;
	bool		too_large;
	char		error[CURL_ERROR_SIZE];
} HttpCall;

/* How waiting ended */
typedef enum DriveEnd
{
	DRIVE_DONE,
	DRIVE_TIMEOUT,
	DRIVE_INTERRUPTED
} DriveEnd;

typedef struct Watched
{
	curl_socket_t fd;
	int			what;			/* CURL_POLL_... */
} Watched;

static CURLM *multi = NULL;
static CURL *in_flight = NULL;	/* what is in the multi handle */
static Watched watched[MAX_WATCHED];
static int	num_watched = 0;
static CmekInstant timer_at = 0;	/* when libcurl wants to be called; 0: not */
static WaitEventSet *wait_set = NULL;

/* Append a header. */
void
cmek_http_header(CmekHttpRequest *request, const char *header)
{
	if (request->nheaders == CMEK_HTTP_MAX_HEADERS)
		elog(ERROR, "too many headers in a request");
	request->headers[request->nheaders++] = header;
}

/* ----------
 * Callbacks of libcurl
 * ----------
 */

/* libcurl begins or ends to wait for a socket. */
static int
socket_callback(CURL *easy, curl_socket_t fd, int what, void *arg, void *arg2)
{
	int			i = 0;

	while (i < num_watched && watched[i].fd != fd)
		i++;
	if (what == CURL_POLL_REMOVE)
	{
		if (i < num_watched)
			watched[i] = watched[--num_watched];
		return 0;
	}
	if (i == MAX_WATCHED)
		return -1;
	if (i == num_watched)
		num_watched++;
	watched[i].fd = fd;
	watched[i].what = what;
	return 0;
}

/* libcurl wants to be called after some time, or not any more. */
static int
timer_callback(CURLM *handle, long timeout_ms, void *arg)
{
	timer_at = timeout_ms < 0 ? 0 : cmek_instant_in(timeout_ms);
	return 0;
}

/* A part of the body has come. */
static size_t
body_callback(char *data, size_t size, size_t n, void *arg)
{
	HttpCall   *call = arg;
	CmekHttpAnswer *answer = call->answer;
	Size		len = size * n;

	if (len > call->max_body - answer->body_len)
	{
		call->too_large = true;
		return 0;
	}
	memcpy(answer->body + answer->body_len, data, len);
	answer->body_len += len;
	return len;
}

/* A line of the head has come; a status line begins a new head. */
static size_t
head_callback(char *data, size_t size, size_t n, void *arg)
{
	HttpCall   *call = arg;
	CmekHttpAnswer *answer = call->answer;
	Size		len = size * n;

	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
		answer->head_len = 0;
	if (len > CMEK_HTTP_MAX_HEAD - answer->head_len)
	{
		call->too_large = true;
		return 0;
	}
	memcpy(answer->head + answer->head_len, data, len);
	answer->head_len += len;
	return len;
}

/* ----------
 * Where a request may go
 * ----------
 */

/* Is it an address of the host itself? */
static bool
is_loopback(const char *host)
{
	return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
		(strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host));
}

/*
 * Is it the metadata service of a cloud?  Those of AWS and Azure, of ECS tasks
 * and EKS pods have link-local addresses, Google's has a name.
 */
static bool
is_metadata(const char *host)
{
	return strcmp(host, "169.254.169.254") == 0 ||
		strcmp(host, "169.254.170.2") == 0 ||
		strcmp(host, "169.254.170.23") == 0 ||
		strcmp(host, "[fd00:ec2::254]") == 0 ||
		strcmp(host, "[fd00:ec2::23]") == 0 ||
		strcmp(host, "metadata.google.internal") == 0;
}

/* May an address be reached without TLS? */
bool
cmek_http_plain_allowed(CmekHttpPlain plain, const char *host)
{
	switch (plain)
	{
		case CMEK_HTTP_TLS_ONLY:
			return false;
		case CMEK_HTTP_PLAIN_LOOPBACK:
			return is_loopback(host);
		case CMEK_HTTP_PLAIN_METADATA:
			return is_loopback(host) || is_metadata(host);
	}
	return false;
}

/* A part of a URL in the current memory context; NULL when it has none. */
static char *
url_part(CURLU *url, CURLUPart part)
{
	char	   *value;
	char	   *copy;

	if (curl_url_get(url, part, &value, 0) != CURLUE_OK)
		return NULL;
	copy = MemoryContextAllocExtended(CurrentMemoryContext, strlen(value) + 1,
									  MCXT_ALLOC_NO_OOM);
	if (copy != NULL)
		strcpy(copy, value);
	curl_free(value);
	return copy;
}

/* What is wrong with the address of a request?  NULL: nothing. */
static const char *
judge_url(CURLU *url, const CmekHttpRequest *request, bool *direct)
{
	const char *scheme;
	const char *host;

	if (curl_url_set(url, CURLUPART_URL, request->url, 0) != CURLUE_OK)
		return "it is not a valid URL";
	scheme = url_part(url, CURLUPART_SCHEME);
	host = url_part(url, CURLUPART_HOST);
	if (scheme == NULL || host == NULL)
		return "it has no scheme or no host";
	if (url_part(url, CURLUPART_USER) != NULL ||
		url_part(url, CURLUPART_PASSWORD) != NULL)
		return "it contains a user name or a password";
	*direct = request->plain == CMEK_HTTP_PLAIN_METADATA || is_loopback(host);
	if (strcmp(scheme, "https") == 0)
		return NULL;
	if (strcmp(scheme, "http") != 0)
		return "its scheme is not https";
	if (!cmek_http_plain_allowed(request->plain, host))
		return "without TLS only a loopback address can be used";
	return NULL;
}

/* Can a request be sent at all?  If not, fill in the answer. */
static bool
check_request(const CmekHttpRequest *request, bool *direct,
			  CmekKmsAnswer *answer)
{
	CURLU	   *url = curl_url();
	const char *problem = url == NULL ? "out of memory" :
		judge_url(url, request, direct);
	char		shown[256];

	curl_url_cleanup(url);
	if (problem != NULL)
	{
		cmek_text_printable(shown, sizeof(shown), request->url);
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "BadAddress",
						"address \"%s\" cannot be used: %s", shown, problem);
		return false;
	}
	for (int i = 0; i < request->nheaders; i++)
		for (const char *c = request->headers[i]; *c; c++)
			if ((unsigned char) *c < 0x20 || *c == 0x7f)
			{
				cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "BadHeader",
								"a credential or an option has a control character in it");
				return false;
			}
	return true;
}

/* ----------
 * One call
 * ----------
 */

/* Make the multi handle of the process, once. */
static void
init_once(void)
{
	if (multi != NULL)
		return;
	if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, cmek_wiping_malloc,
							 cmek_wiping_free, cmek_wiping_realloc,
							 cmek_wiping_strdup, cmek_wiping_calloc) != 0 ||
		(multi = curl_multi_init()) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not initialize libcurl")));
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, socket_callback);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, timer_callback);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) MAX_CONNECTIONS);
}

/* The headers of a request as libcurl wants them, around the caller's bytes. */
static struct curl_slist *
make_headers(const CmekHttpRequest *request)
{
	/* no waiting for "100 Continue", and no Accept of libcurl's */
	static char no_expect[] = "Expect:";
	struct curl_slist *nodes = palloc0_array(struct curl_slist,
											 request->nheaders + 1);

	nodes[0].data = no_expect;
	for (int i = 0; i < request->nheaders; i++)
	{
		nodes[i].next = &nodes[i + 1];
		nodes[i + 1].data = unconstify(char *, request->headers[i]);
	}
	return nodes;
}

/* The schemes that libcurl may speak: its newer releases want them as text. */
static CURLcode
set_protocols(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS,
							(long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/* Options about the connection. */
static bool
set_connection(CURL *easy, const CmekHttpRequest *request, bool direct,
			   long timeout_ms)
{
	if (direct && curl_easy_setopt(easy, CURLOPT_PROXY, "") != CURLE_OK)
		return false;
	if (request->ca_file != NULL &&
		(curl_easy_setopt(easy, CURLOPT_CAINFO, request->ca_file) != CURLE_OK ||
		 curl_easy_setopt(easy, CURLOPT_CAPATH, NULL) != CURLE_OK))
		return false;
#if LIBCURL_VERSION_NUM >= 0x075700
	/* never wait for a resolver's thread that hangs */
	if (curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) != CURLE_OK)
		return false;
#endif
	return set_protocols(easy) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_SSLVERSION,
						 (long) CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
						 (long) CURL_HTTP_VERSION_1_1) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN,
						 (long) CONNECTION_MAX_AGE) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
						 Min(timeout_ms, CONNECT_TIMEOUT_MS)) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms) == CURLE_OK;
}

/* Options about what is sent. */
static bool
set_message(CURL *easy, const CmekHttpRequest *request)
{
	/* fewer waits for what is long */
	if (request->area_size > LONG_TRANSFER &&
		curl_easy_setopt(easy, CURLOPT_BUFFERSIZE,
						 (long) TRANSFER_BUFFER) != CURLE_OK)
		return false;
	if (request->body_len > LONG_TRANSFER &&
		curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE,
						 (long) TRANSFER_BUFFER) != CURLE_OK)
		return false;
	if (request->body != NULL &&
		(curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body) != CURLE_OK ||
		 curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
						  (curl_off_t) request->body_len) != CURLE_OK))
		return false;
	return curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST,
						 request->method) == CURLE_OK;
}

/* Set up a call. */
static bool
set_call(HttpCall *call, const CmekHttpRequest *request, bool direct,
		 long timeout_ms)
{
	CURL	   *easy = call->easy;

	return set_connection(easy, request, direct, timeout_ms) &&
		set_message(easy, request) &&
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->error) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, body_callback) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_WRITEDATA, call) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, head_callback) == CURLE_OK &&
		curl_easy_setopt(easy, CURLOPT_HEADERDATA, call) == CURLE_OK;
}

/* Block all signals, for as long as libcurl may start a thread. */
static void
block_signals(sigset_t *old)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, old);
}

static void
restore_signals(const sigset_t *old)
{
	sigprocmask(SIG_SETMASK, old, NULL);
}

/* Let libcurl act on a socket, or on its timer; how many calls still run. */
static int
act(curl_socket_t fd, int events)
{
	int			running = 0;
	sigset_t	old;

	if (fd == CURL_SOCKET_TIMEOUT)
		timer_at = 0;
	block_signals(&old);
	curl_multi_socket_action(multi, fd, events, &running);
	restore_signals(&old);
	return running;
}

/*
 * Throw away a call that ended with its process, which runs no PG_CATCH but
 * may want to say something to the KMS yet.  Its memory may be gone.
 */
static void
drop_unfinished(void)
{
	if (in_flight == NULL)
		return;
	curl_easy_setopt(in_flight, CURLOPT_ERRORBUFFER, NULL);
	curl_multi_remove_handle(multi, in_flight);
	curl_easy_cleanup(in_flight);
	in_flight = NULL;
	wait_set = NULL;
}

/* Put a call into the multi handle. */
static bool
enter_call(HttpCall *call)
{
	sigset_t	old;
	CURLMcode	code;

	block_signals(&old);
	drop_unfinished();
	code = curl_multi_add_handle(multi, call->easy);
	restore_signals(&old);
	in_flight = call->easy;
	return code == CURLM_OK;
}

/* Free the set of the last wait, which an ERROR may have left. */
static void
free_wait_set(void)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
}

/* Take it out, if it is there, and free it. */
static void
leave_call(HttpCall *call)
{
	sigset_t	old;

	block_signals(&old);
	curl_multi_remove_handle(multi, call->easy);
	curl_easy_cleanup(call->easy);
	in_flight = NULL;
	restore_signals(&old);
	free_wait_set();
}

/* What we wait for on a socket, as PostgreSQL calls it. */
static uint32
wait_events(int what)
{
	return ((what & CURL_POLL_IN) ? WL_SOCKET_READABLE : 0) |
		((what & CURL_POLL_OUT) ? WL_SOCKET_WRITEABLE : 0);
}

/* Wait for the sockets, the latch or the time; how many events there are. */
static int
wait_for_sockets(CmekInstant until, WaitEvent *events)
{
	int			n;

	wait_set = cmek_create_wait_event_set(MAX_EVENTS);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL,
					  NULL);
	for (int i = 0; i < num_watched; i++)
		AddWaitEventToSet(wait_set, wait_events(watched[i].what),
						  watched[i].fd, NULL, NULL);
	n = WaitEventSetWait(wait_set, cmek_ms_until(until), events, MAX_EVENTS,
						 cmek_wait_event("CmekKmsHttp"));
	free_wait_set();
	return n;
}

/* Wait, and hand over to libcurl what happened; how many calls still run. */
static int
wait_and_act(CmekInstant until)
{
	WaitEvent	events[MAX_EVENTS];
	int			n = wait_for_sockets(until, events);
	int			running = 1;

	for (int i = 0; i < n; i++)
	{
		uint32		what = events[i].events;

		if (what & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else
			running = act(events[i].fd,
						  ((what & WL_SOCKET_READABLE) ? CURL_CSELECT_IN : 0) |
						  ((what & WL_SOCKET_WRITEABLE) ? CURL_CSELECT_OUT : 0));
	}
	return running;
}

/* Run what is in the multi handle to its end. */
static DriveEnd
drive(CmekInstant deadline)
{
	int			running = act(CURL_SOCKET_TIMEOUT, 0);

	while (running > 0)
	{
		CmekInstant now = cmek_now();

		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			return DRIVE_INTERRUPTED;
		if (now >= deadline)
			return DRIVE_TIMEOUT;
		if (timer_at != 0 && timer_at <= now)
			running = act(CURL_SOCKET_TIMEOUT, 0);
		else
			running = wait_and_act(timer_at == 0 ? deadline :
								   Min(timer_at, deadline));
	}
	return DRIVE_DONE;
}

/* How the one call in the multi handle ended. */
static CURLcode
call_result(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
		if (message->msg == CURLMSG_DONE)
			return message->data.result;
	return CURLE_FAILED_INIT;
}

/* ----------
 * Answers
 * ----------
 */

typedef struct CurlCodeName
{
	CURLcode	code;
	CmekKmsClass klass;
	const char *name;
} CurlCodeName;

/* Whatever is not here is UNREACHABLE */
static const CurlCodeName curl_codes[] = {
	{CURLE_PEER_FAILED_VERIFICATION, CMEK_KMS_MISCONFIGURED, "TlsNotTrusted"},
	{CURLE_SSL_CERTPROBLEM, CMEK_KMS_MISCONFIGURED, "TlsOwnCertificate"},
	{CURLE_SSL_CACERT_BADFILE, CMEK_KMS_MISCONFIGURED, "TlsAuthorityFile"},
	{CURLE_SSL_CONNECT_ERROR, CMEK_KMS_UNREACHABLE, "TlsHandshake"},
	{CURLE_COULDNT_RESOLVE_HOST, CMEK_KMS_UNREACHABLE, "HostNotFound"},
	{CURLE_COULDNT_RESOLVE_PROXY, CMEK_KMS_UNREACHABLE, "ProxyNotFound"},
	{CURLE_COULDNT_CONNECT, CMEK_KMS_UNREACHABLE, "ConnectionRefused"},
	{CURLE_OPERATION_TIMEDOUT, CMEK_KMS_UNREACHABLE, "Timeout"},
	{CURLE_PARTIAL_FILE, CMEK_KMS_UNREACHABLE, "AnswerTruncated"},
	{CURLE_GOT_NOTHING, CMEK_KMS_UNREACHABLE, "ConnectionLost"},
	{CURLE_SEND_ERROR, CMEK_KMS_UNREACHABLE, "ConnectionLost"},
	{CURLE_RECV_ERROR, CMEK_KMS_UNREACHABLE, "ConnectionLost"},
};

/* Fill in the answer for a call that libcurl could not finish. */
static void
answer_curl_error(const HttpCall *call, CURLcode code, CmekKmsAnswer *answer)
{
	CmekKmsClass klass = CMEK_KMS_UNREACHABLE;
	char		name[CMEK_KMS_MAX_CODE];
	char		detail[CURL_ERROR_SIZE];

	snprintf(name, sizeof(name), "Curl%d", (int) code);
	for (Size i = 0; i < lengthof(curl_codes); i++)
		if (curl_codes[i].code == code)
		{
			klass = curl_codes[i].klass;
			strlcpy(name, curl_codes[i].name, sizeof(name));
		}
	if (call->too_large)
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "AnswerTooLarge",
						"the answer is longer than %zu bytes",
						call->max_body);
		return;
	}
	cmek_text_printable(detail, sizeof(detail), call->error[0] ? call->error :
						curl_easy_strerror(code));
	cmek_kms_answer(answer, klass, name, "%s", detail);
}

/* Fill in status and answer; true when there is an HTTP answer. */
static bool
conclude(HttpCall *call, DriveEnd end, CmekKmsAnswer *answer)
{
	CURLcode	code;
	long		status = 0;

	if (end == DRIVE_INTERRUPTED)
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "Shutdown",
						"the KMS worker is shutting down");
		return false;
	}
	code = end == DRIVE_TIMEOUT ? CURLE_OPERATION_TIMEDOUT : call_result();
	if (code != CURLE_OK)
	{
		answer_curl_error(call, code, answer);
		return false;
	}
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
	call->answer->status = (int) status;
	call->answer->body[call->answer->body_len] = '\0';
	call->answer->head[call->answer->head_len] = '\0';
	return true;
}

/* When a request has to be over. */
static CmekInstant
end_of(const CmekHttpRequest *request)
{
	CmekInstant end = request->deadline;

	if (request->timeout_ms > 0)
		end = Min(end, cmek_instant_in(request->timeout_ms));
	return end;
}

/* Run a call that is set up, and clean up after it whatever happens. */
static bool
perform(HttpCall *call, CmekInstant end, CmekKmsAnswer *answer)
{
	volatile bool ok = false;

	PG_TRY();
	{
		if (enter_call(call))
			ok = conclude(call, drive(end), answer);
		else
			cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "OutOfMemory",
							"libcurl could not take a request");
	}
	PG_CATCH();
	{
		leave_call(call);
		PG_RE_THROW();
	}
	PG_END_TRY();
	leave_call(call);
	return ok;
}

/* Send a request and wait for its answer: see http.h. */
bool
cmek_http_run(const CmekHttpRequest *request, CmekHttpAnswer *http,
			  CmekKmsAnswer *answer)
{
	HttpCall   *call = palloc0(sizeof(HttpCall));
	CmekInstant end = end_of(request);
	long		left = cmek_ms_until(end);
	bool		direct = false;

	memset(http, 0, sizeof(CmekHttpAnswer));
	init_once();
	if (!check_request(request, &direct, answer))
		return false;
	call->max_body = CMEK_HTTP_MAX_BODY;
	http->body = request->area;
	if (request->area != NULL)
		call->max_body = request->area_size - 1;
	else
		http->body = cmek_secret_alloc_in(CurrentMemoryContext,
										  CMEK_HTTP_MAX_BODY + 1);
	http->head = palloc(CMEK_HTTP_MAX_HEAD + 1);
	call->answer = http;
	call->headers = make_headers(request);

	/* no ERROR from here until perform cleans up */
	call->easy = curl_easy_init();
	if (call->easy != NULL && set_call(call, request, direct, Max(left, 1)))
		return perform(call, end, answer);
	curl_easy_cleanup(call->easy);
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "OutOfMemory",
					"libcurl could not prepare a request");
	return false;
}
