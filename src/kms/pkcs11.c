/*-------------------------------------------------------------------------
 *
 * pkcs11.c
 *	  Provider cmek_pkcs11: an AES key in an HSM, by its PKCS#11 module.
 *
 * A table key is made here and encrypted in the token by AES-GCM, with the
 * associated data that binds it to its uuid, under a key that cannot be
 * extracted.  Here are options and what to do about an answer; the module is
 * in a process of its own (p11host.c, p11module.c).
 *
 * The rules that must never break: a PIN that the token refused is not tried
 * again (p11pin.c); and a key that was not found is DENIED only when a module
 * that was started afresh, and had just logged in, did not find it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"
#include "kms/internal.h"
#include "kms/p11.h"

PG_FUNCTION_INFO_V1(cmek_pkcs11_validator);

/* One operation under way; in the memory of the call */
typedef struct P11Call
{
	const CmekKmsRequest *req;
	P11Order   *order;
	P11Report  *report;
	const char *module;
	const char *token;
	const char *pin;
	uint8		id[CMEK_TOKEN_ID_LEN];
} P11Call;

/* An option that the validator made sure of */
static const char *
option_of(const CmekKmsConfig *config, const char *name)
{
	const char *value = cmek_kms_config_get(config, name);

	return value != NULL ? value : "";
}

/* Come by the PIN: false with the answer filled in. */
static bool
get_pin(P11Call *call, CmekKmsAnswer *answer)
{
	const CmekKmsConfig *config = call->req->config;
	const char *path = cmek_kms_config_get(config, "pin_file");
	char	   *text;

	call->pin = cmek_kms_config_get(config, "pin");
	if (path != NULL)
	{
		text = cmek_kms_read_file(path, 4 * P11_MAX_PIN, NULL, answer);
		if (text == NULL)
			return false;
		text[strcspn(text, "\r\n")] = '\0';
		call->pin = text;
	}
	if (call->pin == NULL)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
						"there is no PIN: CREATE USER MAPPING FOR PUBLIC SERVER ... OPTIONS (pin_file ...)");
	else if (call->pin[0] == '\0' || strlen(call->pin) >= P11_MAX_PIN)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "PinFormat",
						"what is given as a PIN is empty or too long");
	else
		return true;
	return false;
}

/* Have a new process load the module and log in; the PIN is locked. */
static P11Host *
start_and_log_in(P11Call *call, const P11PinLock *lock, CmekInstant deadline,
				 CmekKmsAnswer *answer)
{
	P11Host    *host = cmek_p11_start(call->id, answer);
	P11Order   *order;
	P11Report  *report;

	if (host == NULL)
		return NULL;
	order = cmek_kms_new_secret(sizeof(P11Order));
	report = cmek_kms_new_secret(sizeof(P11Report));
	order->what = P11_START;
	strlcpy(order->module, call->module, sizeof(order->module));
	strlcpy(order->token, call->token, sizeof(order->token));
	strlcpy(order->pin, call->pin, sizeof(order->pin));
	if (!cmek_p11_ask(host, order, deadline, report))
		host = NULL;
	*answer = report->answer;
	if (report->pin_refused)
		(void) cmek_p11_pin_refused(lock, answer);
	if (host != NULL && report->answer.klass != CMEK_KMS_OK)
	{
		cmek_p11_stop(host);
		host = NULL;
	}
	return host;
}

/* A new host; NULL with the answer filled in. */
static P11Host *
new_host(P11Call *call, CmekInstant deadline, CmekKmsAnswer *answer)
{
	P11PinLock	lock;
	P11Host    *volatile host = NULL;

	if (!cmek_p11_pin_lock(call->module, call->token, call->pin, deadline,
						   &lock, answer))
		return NULL;
	PG_TRY();
	{
		host = start_and_log_in(call, &lock, deadline, answer);
	}
	PG_FINALLY();
	{
		cmek_p11_pin_unlock(&lock);
	}
	PG_END_TRY();
	return host;
}

/*
 * Is an answer the last word?  A session that has been open for a while may
 * not know what happened to the token since.
 */
static bool
is_final(const P11Report *report)
{
	return !report->broken &&
		(report->answer.klass == CMEK_KMS_OK ||
		 report->answer.klass == CMEK_KMS_CORRUPT);
}

/* One attempt of an operation. */
static int
attempt(void *arg, CmekKmsAnswer *answer)
{
	P11Call    *call = arg;
	CmekInstant deadline = cmek_kms_attempt_deadline(call->req->deadline);
	P11Host    *host = cmek_p11_find(call->id);

	if (host != NULL)
	{
		bool		alive = cmek_p11_ask(host, call->order, deadline, call->report);

		*answer = call->report->answer;
		if (is_final(call->report))
			return 0;
		if (alive)
			cmek_p11_stop(host);
		/* one that hangs would only hang again */
		else if (cmek_now() >= deadline)
			return 0;
	}
	host = new_host(call, deadline, answer);
	if (host == NULL)
		return 0;
	if (cmek_p11_ask(host, call->order, deadline, call->report) &&
		call->report->broken)
		cmek_p11_stop(host);
	*answer = call->report->answer;
	return 0;
}

/* Run an operation. */
static void
run(const CmekKmsRequest *req, P11What what, CmekKmsAnswer *answer)
{
	P11Call    *call = palloc0(sizeof(P11Call));
	const char *parts[3];

	call->req = req;
	call->module = option_of(req->config, "module");
	call->token = option_of(req->config, "token");
	if (!get_pin(call, answer))
		return;
	parts[0] = call->module;
	parts[1] = call->token;
	parts[2] = call->pin;
	cmek_token_id(call->id, "pkcs11", parts, lengthof(parts));
	call->report = cmek_kms_new_secret(sizeof(P11Report));
	call->order = cmek_kms_new_secret(sizeof(P11Order));
	call->order->what = what;
	strlcpy(call->order->key, option_of(req->config, "key"), sizeof(call->order->key));
	if (req->uuid != NULL)
		cmek_kms_aad(req->uuid, call->order->aad);
	cmek_random(call->order->iv, sizeof(call->order->iv));
	if (what == P11_WRAP)
		memcpy(call->order->value, req->key, CMEK_KEY_LEN);
	if (what == P11_UNWRAP)
		memcpy(&call->order->blob, req->blob, sizeof(CmekHsmBlob));
	cmek_kms_with_retries(req->deadline, attempt, call, answer);
}

/* Wrap a table key. */
static void
pkcs11_wrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, P11_WRAP, answer);
}

/* Unwrap a table key. */
static void
pkcs11_unwrap(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	if (req->blob_len == sizeof(CmekHsmBlob))
		run(req, P11_UNWRAP, answer);
	else
		cmek_kms_answer(answer, CMEK_KMS_CORRUPT, "BlobDamaged",
						"the wrapped table key is none of cmek_pkcs11's");
}

/* Is the key there and usable? */
static void
pkcs11_describe(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, P11_DESCRIBE, answer);
}

/* Who are we? */
static void
pkcs11_identify(const CmekKmsRequest *req, CmekKmsAnswer *answer)
{
	run(req, P11_IDENTIFY, answer);
}

/* What to do, by the code of an answer */
typedef struct P11Advice
{
	const char *code;
	const char *text;
} P11Advice;

static const P11Advice advices[] = {
	{"ModuleNotLoaded", "Correct option \"module\" with ALTER SERVER: the path of the HSM vendor's PKCS#11 library, which the database's user must be able to read."},
	{"TokenAmbiguous", "Give the token a label of its own."},
	{"CKR_PIN_INCORRECT", "Correct the PIN with ALTER USER MAPPING, or the file; it is not tried again as it is."},
	{"PinRefusedBefore", "Correct the PIN with ALTER USER MAPPING, or the file. If the PIN is right because the token was changed, remove the file refused_pins in <data directory>.cmek."},
	{"PinFinalTry", "Log in once with the right PIN by the vendor's own tool, which gives the token its tries back."},
	{"PinLocked", "Unlock the PIN of the token as its security officer."},
	{"CKR_PIN_LOCKED", "Unlock the PIN of the token as its security officer, and give it another PIN."},
	{"KeyNotFound", "Create the key in the token: AES, 32 bytes, private, sensitive, not extractable, for encrypt and decrypt."},
	{"KeyAmbiguous", "Give the key a label of its own."},
	{"KeyType", "Use another key: AES, 32 bytes, private, sensitive, not extractable, for encrypt and decrypt."},
	{"KeyExtractable", "Use another key, made with CKA_SENSITIVE true and CKA_EXTRACTABLE false."},
	{"CKR_KEY_FUNCTION_NOT_PERMITTED", "Allow it again in the token: CKA_ENCRYPT and CKA_DECRYPT of the key must be true."},
	{"CKR_MECHANISM_INVALID", "Use an HSM that offers CKM_AES_GCM, or allow it in the HSM's policy."},
	{"CKR_MECHANISM_PARAM_INVALID", "Use an HSM that offers CKM_AES_GCM with an IV of 12 bytes, associated data and a tag of 128 bits."},
	{"ContextNotBound", "Use another module: this one ignores the associated data of AES-GCM."},
};

/* See kms.h. */
static void
pkcs11_advise(const CmekKmsConfig *config, CmekKmsStep step,
			  const CmekKmsAnswer *answer, char *out, Size size)
{
	for (Size i = 0; i < lengthof(advices); i++)
		if (strcmp(advices[i].code, answer->code) == 0)
			strlcpy(out, advices[i].text, size);
	if (out[0] == '\0' && step == CMEK_STEP_IDENTITY)
		strlcpy(out, "Correct module and token with ALTER SERVER, the PIN with ALTER USER MAPPING; nothing needs a restart.", size);
}

/* ----------
 * Options
 * ----------
 */
static const CmekKmsOption pkcs11_options[] = {
	{"module", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_SUPERUSER},
	{"token", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_IDENTITY},
	{"key", CMEK_OPTION_SERVER | CMEK_OPTION_REQUIRED | CMEK_OPTION_IDENTITY},
	{"pin", CMEK_OPTION_MAPPING | CMEK_OPTION_SECRET},
	{"pin_file", CMEK_OPTION_MAPPING | CMEK_OPTION_SUPERUSER},
	{NULL, 0}
};

/* A label has room in what carries it. */
static void
check_label(List *options, const char *name, Size max)
{
	DefElem    *def = cmek_option_find(options, name);

	if (def != NULL && strlen(defGetString(def)) > max)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be longer than %zu bytes", name, max)));
}

/* Only superusers load code; one way to the PIN. */
static void
pkcs11_validate(List *options, Oid catalog)
{
	static const char *const pins[] = {"pin", "pin_file", NULL};

	if (cmek_option_find(options, "module") != NULL && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", "module"),
				 errdetail("Only superusers may set or keep this option, because it makes the server load code.")));
	cmek_option_check_path(options, "module");
	cmek_option_check_path(options, "pin_file");
	check_label(options, "module", MAXPGPATH - 1);
	check_label(options, "token", P11_MAX_TOKEN);
	check_label(options, "key", P11_MAX_LABEL - 1);
	if (catalog != ForeignServerRelationId && options != NIL)
		cmek_option_check_one_of(options, pins);
}

static const CmekKmsStep pkcs11_steps[] = {
	CMEK_STEP_IDENTITY, CMEK_STEP_KEY, CMEK_STEP_ENCRYPT, CMEK_STEP_DECRYPT,
	CMEK_STEP_CONTEXT, CMEK_STEP_END
};

const CmekKmsProvider cmek_pkcs11_provider = {
	.wrapper = "cmek_pkcs11",
	.options = pkcs11_options,
	.wrap = pkcs11_wrap,
	.unwrap = pkcs11_unwrap,
	.probe = pkcs11_describe,
	.describe = pkcs11_describe,
	.validate = pkcs11_validate,
	.steps = pkcs11_steps,
	.identify = pkcs11_identify,
	.advise = pkcs11_advise,
};

/* Validator of wrapper cmek_pkcs11. */
Datum
cmek_pkcs11_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_pkcs11_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
