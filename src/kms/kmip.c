/*-------------------------------------------------------------------------
 *
 * kmip.c
 *	  Provider cmek_kmip: an AES key of a key server that speaks KMIP.
 *
 * A table key is made here and encrypted there by AES-GCM, with the associated
 * data that binds it to its uuid; the root key is never asked for.  Bytes are
 * kmipwire.c's business, the connection tls.c's; here are hosts, the order of
 * requests, and what a refusal means.
 *
 *	 one attempt: connect (or the connection of before), for each host
 *	   Get Attributes: State -> Active? -> Encrypt or Decrypt
 *						|refused			|refused		|failed
 *						Query: do they know us?				Encrypt, Decrypt of
 *						yes: DENIED							something else works?
 *						no: our own business				yes: CORRUPT
 *
 * The rule that must never break: a refusal is DENIED only when the server has
 * just answered us another question on the same connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/kmipwire.h"
#include "kms/tls.h"

PG_FUNCTION_INFO_V1(cmek_kmip_validator);

#define MAX_HOSTS 8
#define MAX_HOST 256
#define CONNECT_TIMEOUT_MS 5000
#define IDLE_S 20				/* servers close idle connections */

/* The connection that a worker keeps between calls */
typedef struct KmipLine
{
	CmekTls    *tls;			/* NULL: none */
	uint8		id[CMEK_TOKEN_ID_LEN];	/* of whom it was made for */
	CmekInstant used_at;
	bool		busy;			/* an answer is due: an ERROR came between */
} KmipLine;

static KmipLine line;

/* One operation under way; in the memory of the call */
typedef struct KmipCall
{
	const CmekKmsRequest *req;
	CmekKmipCall call;			/* CMEK_KMIP_KEY: no more than the state */
	uint8		id[CMEK_TOKEN_ID_LEN];
	uint8	   *message;		/* CMEK_KMIP_MAX_ANSWER bytes */
	CmekHsmBlob blob;
	CmekInstant deadline;		/* of this attempt at this host */
	CmekKmsAnswer *before;		/* of the attempt before; NULL: none */
} KmipCall;

/* ----------
 * The connection
 * ----------
 */

/* Hang up. */
static void
hang_up(void)
{
	CmekTls    *tls = line.tls;

	line.tls = NULL;
	line.busy = false;
	if (tls != NULL)
		cmek_tls_close(tls);
}

/* What decides about a connection: never one tenant's for another. */
static void
identify_line(KmipCall *call)
{
	static const char *const names[] = {
		"hosts", "protocol", "ca_file", "cert_file", "key_file", "username", "password"
	};
	const char *parts[lengthof(names)];

	for (Size i = 0; i < lengthof(names); i++)
		parts[i] = cmek_kms_config_get(call->req->config, names[i]);
	cmek_token_id(call->id, "kmip", parts, lengthof(parts));
}

/* Is there a connection of before that may still be good? */
static bool
have_line(const KmipCall *call)
{
	if (line.tls == NULL)
		return false;
	if (!line.busy && memcmp(line.id, call->id, CMEK_TOKEN_ID_LEN) == 0 &&
		cmek_now() - line.used_at < IDLE_S * USECS_PER_SEC)
		return true;
	hang_up();
	return false;
}

/* Call the n-th host; *last: there is no such host. */
static bool
call_host(KmipCall *call, int n, bool *last, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->req->config;
	char		host[MAX_HOST];
	CmekTlsPeer peer = {.host = host};
	CmekInstant until = Min(call->deadline,
							cmek_instant_in(CONNECT_TIMEOUT_MS));

	*last = n == MAX_HOSTS ||
		!cmek_kmip_host(cmek_kms_config_get(config, "hosts"), n, host, sizeof(host), &peer.port);
	if (*last)
		return false;
	peer.ca_file = cmek_kms_config_get(config, "ca_file");
	peer.cert_file = cmek_kms_config_get(config, "cert_file");
	peer.key_file = cmek_kms_config_get(config, "key_file");
	line.tls = cmek_tls_connect(&peer, until, answer);
	if (line.tls == NULL)
		return false;
	memcpy(line.id, call->id, CMEK_TOKEN_ID_LEN);
	return true;
}

/* ----------
 * One request
 * ----------
 */

/* Receive an answer; its length, 0 with the answer filled in. */
static Size
receive(KmipCall *call, CmekKmsAnswer *answer)
{
	Size		len;

	if (!cmek_tls_receive(line.tls, call->message, CMEK_TTLV_HEADER, call->deadline, answer))
		return 0;
	len = cmek_ttlv_message_len(call->message, CMEK_KMIP_RESPONSE);
	if (len == 0)
		cmek_kms_answer_unknown("a KMIP server", answer);
	else if (len > CMEK_KMIP_MAX_ANSWER)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "AnswerTooLarge",
						"the answer is longer than %d bytes", CMEK_KMIP_MAX_ANSWER);
	else if (cmek_tls_receive(line.tls, call->message + CMEK_TTLV_HEADER,
							  len - CMEK_TTLV_HEADER, call->deadline, answer))
		return len;
	return 0;
}

/*
 * Ask one question.  The answer is OK, or says what is wrong; a connection
 * over which no whole answer came is gone.
 */
static void
ask(KmipCall *call, CmekKmipCall what, const uint8 *value, CmekHsmBlob *blob,
	CmekKmsAnswer *answer)
{
	uint8	   *area = cmek_kms_new_secret(CMEK_KMIP_MAX_REQUEST);
	CmekTtlv	request;
	Size		len;

	cmek_ttlv_init(&request, area, CMEK_KMIP_MAX_REQUEST);
	cmek_kmip_request(call->req->config, what, call->req->uuid, value, blob, &request);
	if (request.overflow)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "RequestTooLong",
						"the key's identifier and the credentials are too long");
		return;
	}
	if (line.tls == NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "ConnectionLost",
						"the connection broke");
		return;
	}
	line.busy = true;
	if (!cmek_tls_send(line.tls, request.data, request.len, call->deadline, answer) ||
		(len = receive(call, answer)) == 0)
	{
		hang_up();
		return;
	}
	cmek_kmip_read(call->req->config, what, call->message, len, blob, answer);
	cmek_cleanse(call->message, len);
	line.used_at = cmek_now();
	line.busy = false;
}

/*
 * The server said no.  If it knows us, which it shows by answering something
 * else, it is the key that we may not use.
 */
static void
judge_refusal(KmipCall *call, CmekKmsAnswer *answer)
{
	CmekKmsAnswer *other = cmek_kms_new_secret(sizeof(CmekKmsAnswer));

	ask(call, CMEK_KMIP_QUERY, NULL, NULL, other);
	if (other->klass == CMEK_KMS_OK)
		return;
	if (other->klass == CMEK_KMS_UNREACHABLE)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, other->code,
						"the server refused, and it could not be told whether it knows us: %s",
						other->message);
	else
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ClientNotKnown",
						"the server answers nothing to this client: %s", other->message);
}

/*
 * Decrypt failed, in words that some servers have for a tag that does not fit
 * and others for trouble of their own.  When the key opens what it has just
 * sealed, it was the blob.
 */
static void
judge_failure(KmipCall *call, CmekKmsAnswer *answer)
{
	CmekKmsAnswer *other = cmek_kms_new_secret(sizeof(CmekKmsAnswer));
	CmekHsmBlob blob;
	uint8		value[CMEK_KEY_LEN] = {0};

	cmek_random(blob.iv, sizeof(blob.iv));
	ask(call, CMEK_KMIP_ENCRYPT, value, &blob, other);
	if (other->klass == CMEK_KMS_OK)
		ask(call, CMEK_KMIP_DECRYPT, NULL, &blob, other);
	if (other->klass == CMEK_KMS_OK &&
		cmek_equal(other->key, value, CMEK_KEY_LEN))
		answer->klass = CMEK_KMS_CORRUPT;
}

/* The whole conversation about one operation. */
static void
converse(KmipCall *call, CmekKmsAnswer *answer)
{
	const CmekKmsRequest *req = call->req;

	if (call->call == CMEK_KMIP_QUERY)
	{
		ask(call, CMEK_KMIP_QUERY, NULL, NULL, answer);
		return;
	}
	ask(call, CMEK_KMIP_KEY, NULL, NULL, answer);
	if (answer->klass == CMEK_KMS_OK && call->call == CMEK_KMIP_ENCRYPT)
	{
		cmek_random(call->blob.iv, sizeof(call->blob.iv));
		ask(call, CMEK_KMIP_ENCRYPT, req->key, &call->blob, answer);
	}
	else if (answer->klass == CMEK_KMS_OK && call->call == CMEK_KMIP_DECRYPT)
	{
		memcpy(&call->blob, req->blob, sizeof(call->blob));
		ask(call, CMEK_KMIP_DECRYPT, NULL, &call->blob, answer);
		if (answer->klass != CMEK_KMS_OK && cmek_kmip_may_be_bad_tag(answer))
			judge_failure(call, answer);
	}
	if (answer->klass == CMEK_KMS_DENIED)
		judge_refusal(call, answer);
}

/* When a conversation with one of the hosts has to end */
static CmekInstant
host_deadline(const KmipCall *call, CmekInstant attempt_ends, int n)
{
	char		host[MAX_HOST];
	int			port;

	/* half of the time, unless nobody is left */
	if (cmek_kmip_host(cmek_kms_config_get(call->req->config, "hosts"), n + 1,
					   host, sizeof(host), &port))
		return Min(attempt_ends, cmek_kms_attempt_deadline(attempt_ends));
	return attempt_ends;
}

/* Each host, until one settles it. */
static void
try_hosts(KmipCall *call, CmekKmsAnswer *answer)
{
	CmekInstant ends = cmek_kms_attempt_deadline(call->req->deadline);
	bool		last = false;

	call->deadline = host_deadline(call, ends, 0);
	if (have_line(call))
	{
		converse(call, answer);
		/* it may have been closed meanwhile: then from the beginning */
		if (answer->klass != CMEK_KMS_UNREACHABLE)
			return;
		hang_up();
	}
	for (int n = 0; n < MAX_HOSTS && cmek_now() < ends; n++)
	{
		call->deadline = host_deadline(call, ends, n);
		if (call_host(call, n, &last, answer))
		{
			converse(call, answer);
			if (answer->klass != CMEK_KMS_UNREACHABLE)
				return;
			hang_up();
		}
		else if (last)
			break;
	}
}

/*
 * One attempt of an operation.  The last one often has no time left: then what
 * a server said before tells more than our own clock.
 */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	KmipCall   *call = arg;

	try_hosts(call, answer);
	if (answer->klass != CMEK_KMS_UNREACHABLE)
		return 0;
	if (call->before == NULL)
		call->before = cmek_kms_new_secret(sizeof(CmekKmsAnswer));
	else if (strcmp(answer->code, "Timeout") == 0)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, call->before->code,
						"%s", call->before->message);
	cmek_kms_answer(call->before, CMEK_KMS_UNREACHABLE, answer->code, "%s",
					answer->message);
	return 0;
}

/* Run an operation. */
static void
run(const CmekKmsRequest *req, CmekKmipCall what, CmekKmsAnswer *answer)
{
	KmipCall   *call = palloc0(sizeof(KmipCall));

	if (cmek_kms_config_get(req->config, "cert_file") == NULL ||
		cmek_kms_config_get(req->config, "key_file") == NULL)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
						"there is no certificate of ours: CREATE USER MAPPING FOR PUBLIC SERVER ... OPTIONS (cert_file ..., key_file ...)");
		return;
	}
	call->req = req;
	call->call = what;
	call->message = cmek_kms_new_secret(CMEK_KMIP_MAX_ANSWER);
	identify_line(call);
	cmek_kms_with_retries(req->deadline, attempt, call, answer);
}

/* Wrap a table key. */
static void
kmip_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, CMEK_KMIP_ENCRYPT, answer);
	/* whoever made it needs it */
	if (answer->klass == CMEK_KMS_OK && answer->key != req->key)
		memcpy(answer->key, req->key, CMEK_KEY_LEN);
}

/* Unwrap a table key. */
static void
kmip_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	if (req->blob_len == sizeof(CmekHsmBlob))
		run(req, CMEK_KMIP_DECRYPT, answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "BlobDamaged",
						"the wrapped table key is none of cmek_kmip's");
}

/* Is the key there and usable? */
static void
kmip_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, CMEK_KMIP_KEY, answer);
}

/* Do they know us? */
static void
kmip_identify(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, CMEK_KMIP_QUERY, answer);
}

/* ----------
 * Options
 * ----------
 */
static const CmekKmsOption kmip_options[] = {
	{"hosts", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_SUPERUSER},
	{"key_id", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_IDENTITY},
	{"protocol", CMEK_OPTION_SERVER},
	{"ca_file", CMEK_OPTION_SERVER | CMEK_OPTION_SUPERUSER},
	{"cert_file", CMEK_OPTION_MAPPING | CMEK_OPTION_REQUIRED | CMEK_OPTION_SUPERUSER},
	{"key_file", CMEK_OPTION_MAPPING | CMEK_OPTION_REQUIRED | CMEK_OPTION_SUPERUSER},
	{"username", CMEK_OPTION_MAPPING},
	{"password", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{NULL, 0}
};

/* Each of the hosts can be called. */
static void
check_hosts(const char *hosts)
{
	char		host[MAX_HOST];
	int			port;
	int			n = 1;

	for (const char *at = hosts; (at = strchr(at, ',')) != NULL; at++)
		n++;
	if (n > MAX_HOSTS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not name more than %d hosts", "hosts", MAX_HOSTS)));
	for (int i = 0; i < n; i++)
		if (!cmek_kmip_host(hosts, i, host, sizeof(host), &port))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("option \"%s\" must be a list of hosts", "hosts"),
					 errhint("For example: \"kmip1.example.com:5696, kmip2.example.com\", [::1]:5696.")));
}

/* Options and mapping fit together. */
static void
kmip_validate(List *options, Oid catalog)
{
	DefElem    *def = cmek_option_find(options, "hosts");

	if (def != NULL)
		check_hosts(defGetString(def));
	def = cmek_option_find(options, "protocol");
	if (def != NULL && strcmp(defGetString(def), "1.4") != 0 &&
		strcmp(defGetString(def), "2.0") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must be 1.4 or 2.0", "protocol")));
	def = cmek_option_find(options, "key_id");
	if (def != NULL && strlen(defGetString(def)) >= CMEK_KMS_MAX_KEY_ID)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be longer than %d bytes", "key_id", CMEK_KMS_MAX_KEY_ID - 1)));
	cmek_option_check_path(options, "ca_file");
	cmek_option_check_path(options, "cert_file");
	cmek_option_check_path(options, "key_file");
	cmek_option_check_needs(options, "password", "username");
}

static const CmekKmsStep kmip_steps[] = {
	CMEK_STEP_IDENTITY, CMEK_STEP_KEY, CMEK_STEP_ENCRYPT, CMEK_STEP_DECRYPT,
	CMEK_STEP_CONTEXT, CMEK_STEP_END
};

const CmekKmsProvider cmek_kmip_provider = {
	.wrapper = "cmek_kmip",
	.options = kmip_options,
	.wrap = kmip_wrap,
	.unwrap = kmip_unwrap,
	.probe = kmip_describe,
	.describe = kmip_describe,
	.validate = kmip_validate,
	.steps = kmip_steps,
	.identify = kmip_identify,
	.advise = cmek_kmip_advise,
};

/* Validator of wrapper cmek_kmip. */
Datum
cmek_kmip_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_kmip_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
