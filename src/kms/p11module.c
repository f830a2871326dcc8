/*-------------------------------------------------------------------------
 *
 * p11module.c
 *	  What runs in the process of a PKCS#11 module: one module, one token, one
 *	  login, and one order at a time.
 *
 * The process is a fork of a KMS worker that gave up its shared memory
 * (p11host.c).  So nothing here may use memory contexts, ereport, latches or
 * anything else of the server; it may crash or hang, and costs its worker no
 * more than the deadline of a call.
 *
 * C_Initialize and C_Login are called once, with the first order.  A PIN is
 * tried once in the life of the process; a token that has only one try left is
 * not asked at all.  The key is searched for anew with every order: a handle
 * is never older than what it is used for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "kms/cryptoki.h"
#include "kms/internal.h"
#include "kms/p11.h"
#include "kms/text.h"

#define MAX_SLOTS 256
#define OBJECT_ROOM 512			/* of ciphertext or plaintext, with slack */

/* The module after P11_START */
static P11Functions *module = NULL;
static P11Session session;
static P11TokenInfo token;

/* What a return value means, unless the call knows better */
typedef struct P11Error
{
	P11Rv		rv;
	const char *name;
	CmekKmsClass klass;
} P11Error;

/* Whatever is not here is UNREACHABLE */
static const P11Error errors[] = {
	{P11_HOST_MEMORY, "CKR_HOST_MEMORY", CMEK_KMS_UNREACHABLE},
	{P11_SLOT_ID_INVALID, "CKR_SLOT_ID_INVALID", CMEK_KMS_UNREACHABLE},
	{P11_GENERAL_ERROR, "CKR_GENERAL_ERROR", CMEK_KMS_UNREACHABLE},
	{P11_FUNCTION_FAILED, "CKR_FUNCTION_FAILED", CMEK_KMS_UNREACHABLE},
	{P11_ARGUMENTS_BAD, "CKR_ARGUMENTS_BAD", CMEK_KMS_MISCONFIGURED},
	{P11_DEVICE_ERROR, "CKR_DEVICE_ERROR", CMEK_KMS_UNREACHABLE},
	{P11_DEVICE_MEMORY, "CKR_DEVICE_MEMORY", CMEK_KMS_UNREACHABLE},
	{P11_DEVICE_REMOVED, "CKR_DEVICE_REMOVED", CMEK_KMS_UNREACHABLE},
	{P11_DATA_INVALID, "CKR_DATA_INVALID", CMEK_KMS_UNREACHABLE},
	{P11_ENCRYPTED_DATA_INVALID, "CKR_ENCRYPTED_DATA_INVALID", CMEK_KMS_UNREACHABLE},
	{P11_ENCRYPTED_DATA_LEN_RANGE, "CKR_ENCRYPTED_DATA_LEN_RANGE", CMEK_KMS_UNREACHABLE},
	{P11_FUNCTION_NOT_SUPPORTED, "CKR_FUNCTION_NOT_SUPPORTED", CMEK_KMS_MISCONFIGURED},
	{P11_KEY_HANDLE_INVALID, "CKR_KEY_HANDLE_INVALID", CMEK_KMS_UNREACHABLE},
	{P11_KEY_SIZE_RANGE, "CKR_KEY_SIZE_RANGE", CMEK_KMS_MISCONFIGURED},
	{P11_KEY_TYPE_INCONSISTENT, "CKR_KEY_TYPE_INCONSISTENT", CMEK_KMS_MISCONFIGURED},
	{P11_KEY_FUNCTION_NOT_PERMITTED, "CKR_KEY_FUNCTION_NOT_PERMITTED", CMEK_KMS_DENIED},
	{P11_MECHANISM_INVALID, "CKR_MECHANISM_INVALID", CMEK_KMS_MISCONFIGURED},
	{P11_MECHANISM_PARAM_INVALID, "CKR_MECHANISM_PARAM_INVALID", CMEK_KMS_MISCONFIGURED},
	{P11_OBJECT_HANDLE_INVALID, "CKR_OBJECT_HANDLE_INVALID", CMEK_KMS_UNREACHABLE},
	{P11_PIN_INCORRECT, "CKR_PIN_INCORRECT", CMEK_KMS_MISCONFIGURED},
	{P11_PIN_INVALID, "CKR_PIN_INVALID", CMEK_KMS_MISCONFIGURED},
	{P11_PIN_LEN_RANGE, "CKR_PIN_LEN_RANGE", CMEK_KMS_MISCONFIGURED},
	{P11_PIN_EXPIRED, "CKR_PIN_EXPIRED", CMEK_KMS_MISCONFIGURED},
	{P11_PIN_LOCKED, "CKR_PIN_LOCKED", CMEK_KMS_MISCONFIGURED},
	{P11_SESSION_CLOSED, "CKR_SESSION_CLOSED", CMEK_KMS_UNREACHABLE},
	{P11_SESSION_COUNT, "CKR_SESSION_COUNT", CMEK_KMS_UNREACHABLE},
	{P11_SESSION_HANDLE_INVALID, "CKR_SESSION_HANDLE_INVALID", CMEK_KMS_UNREACHABLE},
	{P11_TOKEN_NOT_PRESENT, "CKR_TOKEN_NOT_PRESENT", CMEK_KMS_UNREACHABLE},
	{P11_TOKEN_NOT_RECOGNIZED, "CKR_TOKEN_NOT_RECOGNIZED", CMEK_KMS_UNREACHABLE},
	{P11_USER_ALREADY_LOGGED_IN, "CKR_USER_ALREADY_LOGGED_IN", CMEK_KMS_MISCONFIGURED},
	{P11_USER_NOT_LOGGED_IN, "CKR_USER_NOT_LOGGED_IN", CMEK_KMS_UNREACHABLE},
	{P11_USER_PIN_NOT_INITIALIZED, "CKR_USER_PIN_NOT_INITIALIZED", CMEK_KMS_MISCONFIGURED},
	{P11_CRYPTOKI_NOT_INITIALIZED, "CKR_CRYPTOKI_NOT_INITIALIZED", CMEK_KMS_UNREACHABLE},
};

/* Fill in the answer to a call that failed. */
static void
answer_rv(P11Rv rv, const char *call, CmekKmsAnswer *answer)
{
	char		code[CMEK_KMS_MAX_CODE];
	CmekKmsClass klass = CMEK_KMS_UNREACHABLE;

	snprintf(code, sizeof(code), "CKR_0x%lx", rv);
	for (Size i = 0; i < lengthof(errors); i++)
		if (errors[i].rv == rv)
		{
			strlcpy(code, errors[i].name, sizeof(code));
			klass = errors[i].klass;
		}
	cmek_kms_answer(answer, klass, code, "%s failed", call);
}

/* A text of a token, without its padding, as it may be shown */
static void
padded_text(char *out, Size size, const unsigned char *text, Size len)
{
	char		raw[33];

	while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\0'))
		len--;
	len = Min(len, sizeof(raw) - 1);
	memcpy(raw, text, len);
	raw[len] = '\0';
	cmek_text_printable(out, size, raw);
}

/* ----------
 * Loading, finding the token, logging in
 * ----------
 */

/* Load the module and have it initialized. */
static bool
load_module(const char *path, CmekKmsAnswer *answer)
{
	P11InitializeArgs args = {{NULL}, P11_OS_LOCKING_OK, NULL};
	P11GetFunctionList get_list = NULL;
	P11Functions *list = NULL;
	char		why[256];
	void	   *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	P11Rv		rv;

	if (handle != NULL)
		get_list = (P11GetFunctionList) dlsym(handle, "C_GetFunctionList");
	if (get_list == NULL)
	{
		const char *error = dlerror();

		cmek_text_printable(why, sizeof(why), error != NULL ? error : "unknown reason");
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ModuleNotLoaded",
						"could not load the PKCS#11 module: %s", why);
		return false;
	}
	rv = get_list(&list);
	if (rv != P11_OK || list == NULL || list->version.major < 2)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "ModuleNotLoaded",
						"the PKCS#11 module offers no interface of version 2");
		return false;
	}
	rv = list->initialize(&args);
	if (rv == P11_CANT_LOCK)
		rv = list->initialize(NULL);
	if (rv != P11_OK)
	{
		answer_rv(rv, "C_Initialize", answer);
		return false;
	}
	module = list;
	return true;
}

/* Find the one token of a label, and what is known of it. */
static bool
find_token(const char *label, P11Slot *slot, CmekKmsAnswer *answer)
{
	static P11Slot slots[MAX_SLOTS];
	unsigned long n = MAX_SLOTS;
	unsigned char padded[P11_MAX_TOKEN];
	int			found = 0;
	P11Rv		rv = module->get_slot_list(1, slots, &n);

	if (rv != P11_OK)
	{
		answer_rv(rv, "C_GetSlotList", answer);
		return false;
	}
	memset(padded, ' ', sizeof(padded));
	memcpy(padded, label, Min(strlen(label), sizeof(padded)));
	for (unsigned long i = 0; i < Min(n, MAX_SLOTS); i++)
	{
		P11TokenInfo info;

		memset(&info, 0, sizeof(info));
		if (module->get_token_info(slots[i], &info) != P11_OK ||
			memcmp(info.label, padded, sizeof(padded)) != 0)
			continue;
		token = info;
		*slot = slots[i];
		found++;
	}
	if (found == 0)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "TokenNotPresent",
						"there is no token of this label");
	else if (found > 1)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "TokenAmbiguous",
						"there are %d tokens of this label", found);
	return found == 1;
}

/* Is it a refusal of this very PIN? */
static bool
is_refusal(P11Rv rv)
{
	return rv == P11_PIN_INCORRECT || rv == P11_PIN_INVALID ||
		rv == P11_PIN_LEN_RANGE || rv == P11_PIN_EXPIRED ||
		rv == P11_PIN_LOCKED;
}

/* Open a session and log in, unless that could lock the token. */
static void
log_in(P11Slot slot, P11Order *order, P11Report *report)
{
	CmekKmsAnswer *answer = &report->answer;
	P11Rv		rv;

	if (token.flags & P11_USER_PIN_IS_LOCKED)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "PinLocked",
						"the PIN of the token is locked");
		return;
	}
	if (token.flags & P11_USER_PIN_FINAL_TRY)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "PinFinalTry",
						"the token would be locked by one more wrong PIN, so it is not tried");
		return;
	}
	rv = module->open_session(slot, P11_SERIAL_SESSION, NULL, NULL, &session);
	if (rv != P11_OK)
	{
		answer_rv(rv, "C_OpenSession", answer);
		return;
	}
	rv = module->login(session, P11_USER, (unsigned char *) order->pin,
					   strlen(order->pin));
	report->pin_refused = is_refusal(rv);
	if (rv == P11_OK)
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	else
		answer_rv(rv, "C_Login", answer);
}

/* The first order. */
static void
start(P11Order *order, P11Report *report)
{
	P11Slot		slot;

	if (load_module(order->module, &report->answer) &&
		find_token(order->token, &slot, &report->answer))
		log_in(slot, order, report);
	/* another PIN or another day gets another process */
	report->broken = report->answer.klass != CMEK_KMS_OK;
}

/* Who are we? */
static void
identify(CmekKmsAnswer *answer)
{
	char		label[40];
	char		model[24];
	char		serial[24];

	padded_text(label, sizeof(label), token.label, sizeof(token.label));
	padded_text(model, sizeof(model), token.model, sizeof(token.model));
	padded_text(serial, sizeof(serial), token.serial, sizeof(token.serial));
	cmek_kms_answer(answer, CMEK_KMS_OK, "",
					"user of token %s (%s, serial number %s)", label, model, serial);
}

/* ----------
 * The key
 * ----------
 */

/* Find the one secret key of a label. */
static bool
find_key(const char *label, P11Object *key, CmekKmsAnswer *answer)
{
	unsigned long klass = P11_CLASS_SECRET_KEY;
	P11Attribute wanted[] = {
		{P11_A_CLASS, &klass, sizeof(klass)},
		{P11_A_LABEL, unconstify(char *, label), strlen(label)}
	};
	P11Object	found[2];
	unsigned long n = 0;
	P11Rv		rv = module->find_objects_init(session, wanted, lengthof(wanted));

	if (rv != P11_OK)
	{
		answer_rv(rv, "C_FindObjectsInit", answer);
		return false;
	}
	rv = module->find_objects(session, found, lengthof(found), &n);
	(void) module->find_objects_final(session);
	if (rv != P11_OK)
		answer_rv(rv, "C_FindObjects", answer);
	else if (n == 0)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, "KeyNotFound",
						"the token has no secret key of this label");
	else if (n > 1)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyAmbiguous",
						"the token has several secret keys of this label");
	else
		*key = found[0];
	return rv == P11_OK && n == 1;
}

/* A number or a boolean of the key; what it is when the token does not say. */
static unsigned long
key_number(P11Object key, unsigned long type, Size size, unsigned long absent)
{
	unsigned long number = 0;
	unsigned char flag = 0;
	P11Attribute attribute = {type, size == 1 ? (void *) &flag : (void *) &number, size};

	if (module->get_attribute_value(session, key, &attribute, 1) != P11_OK ||
		attribute.len != size)
		return absent;
	return size == 1 ? flag != 0 : number;
}

/* Can it be a root key: AES, and of a kind that never leaves the token? */
static bool
inspect_key(P11Object key, CmekKmsAnswer *answer)
{
	unsigned long type = key_number(key, P11_A_KEY_TYPE, sizeof(unsigned long),
									P11_KEY_TYPE_AES);

	if (type != P11_KEY_TYPE_AES)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyType",
						"the key is no AES key (CKA_KEY_TYPE is 0x%lx)", type);
	else if (key_number(key, P11_A_EXTRACTABLE, 1, 1) ||
			 !key_number(key, P11_A_SENSITIVE, 1, 0))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyExtractable",
						"the key can leave the token: CKA_EXTRACTABLE must be false and CKA_SENSITIVE true");
	else
		return true;
	return false;
}

/* Name the key as the catalog keeps it: a URI of RFC 7512. */
static void
name_key(const char *label, CmekKmsAnswer *answer)
{
	char		text[40];
	CmekText	uri;

	cmek_text_init(&uri, answer->key_id, sizeof(answer->key_id));
	padded_text(text, sizeof(text), token.label, sizeof(token.label));
	cmek_text_add(&uri, "pkcs11:token=");
	cmek_text_add_percent(&uri, text);
	padded_text(text, sizeof(text), token.serial, sizeof(token.serial));
	cmek_text_add(&uri, ";serial=");
	cmek_text_add_percent(&uri, text);
	cmek_text_add(&uri, ";object=");
	cmek_text_add_percent(&uri, label);
	if (uri.overflow)
		strlcpy(answer->key_id, label, sizeof(answer->key_id));
	answer->key_version[0] = '\0';
}

/* Is the key there, of the right kind, and enabled? */
static void
describe(const P11Order *order, P11Object key, CmekKmsAnswer *answer)
{
	unsigned long bytes;

	if (!inspect_key(key, answer))
		return;
	if (!key_number(key, P11_A_ENCRYPT, 1, 1) ||
		!key_number(key, P11_A_DECRYPT, 1, 1))
	{
		answer_rv(P11_KEY_FUNCTION_NOT_PERMITTED, "CKA_ENCRYPT or CKA_DECRYPT is false: it", answer);
		return;
	}
	bytes = key_number(key, P11_A_VALUE_LEN, sizeof(unsigned long), 0);
	name_key(order->key, answer);
	cmek_kms_answer(answer, CMEK_KMS_OK, "",
					"exists, symmetric (AES, %lu bits), cannot be extracted",
					bytes * 8);
}

/* ----------
 * AES-GCM
 * ----------
 */

/* Encrypt; out is ciphertext and tag.  Some tokens choose the IV themselves. */
static P11Rv
encrypt(P11Object key, uint8 *iv, const char *aad, const uint8 *value,
		uint8 *out, unsigned long *outlen)
{
	P11GcmParams gcm = {iv, CMEK_HSM_IV_LEN, 8 * CMEK_HSM_IV_LEN,
	(unsigned char *) unconstify(char *, aad), strlen(aad), 8 * CMEK_HSM_TAG_LEN};
	P11Mechanism mechanism = {P11_M_AES_GCM, &gcm, sizeof(gcm)};
	P11Rv		rv = module->encrypt_init(session, &mechanism, key);

	if (rv != P11_OK)
		return rv;
	return module->encrypt(session, unconstify(uint8 *, value), CMEK_KEY_LEN, out, outlen);
}

/* Decrypt what encrypt made; *begun tells where it failed. */
static P11Rv
decrypt(P11Object key, const CmekHsmBlob *blob, const char *aad,
		uint8 *out, unsigned long *outlen, bool *begun)
{
	CmekHsmBlob copy = *blob;
	P11GcmParams gcm = {copy.iv, CMEK_HSM_IV_LEN, 8 * CMEK_HSM_IV_LEN,
	(unsigned char *) unconstify(char *, aad), strlen(aad), 8 * CMEK_HSM_TAG_LEN};
	P11Mechanism mechanism = {P11_M_AES_GCM, &gcm, sizeof(gcm)};
	P11Rv		rv = module->decrypt_init(session, &mechanism, key);

	*begun = rv == P11_OK;
	if (rv != P11_OK)
		return rv;
	return module->decrypt(session, copy.ciphertext,
						   sizeof(copy.ciphertext) + sizeof(copy.tag), out, outlen);
}

/* Wrap a table key. */
static void
wrap(const P11Order *order, P11Object key, CmekKmsAnswer *answer)
{
	uint8		out[OBJECT_ROOM];
	unsigned long len = sizeof(out);
	CmekHsmBlob blob;
	P11Rv		rv;

	if (!inspect_key(key, answer))
		return;
	memcpy(blob.iv, order->iv, sizeof(blob.iv));
	rv = encrypt(key, blob.iv, order->aad, order->value, out, &len);
	if (rv != P11_OK)
	{
		answer_rv(rv, "C_Encrypt", answer);
		return;
	}
	if (len != sizeof(blob.ciphertext) + sizeof(blob.tag))
	{
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "MalformedAnswer",
						"the module encrypted %d bytes to %lu", CMEK_KEY_LEN, len);
		return;
	}
	memcpy(blob.ciphertext, out, len);
	memcpy(answer->blob, &blob, sizeof(blob));
	answer->blob_len = sizeof(blob);
	/* whoever made it needs it */
	memcpy(answer->key, order->value, CMEK_KEY_LEN);
	name_key(order->key, answer);
	cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
}

/*
 * Does the key open what it has just sealed?  Then it was the blob: several
 * modules have one answer for a wrong tag and for trouble with the device.
 */
static bool
key_works(const P11Order *order, P11Object key)
{
	uint8		out[OBJECT_ROOM];
	uint8		value[CMEK_KEY_LEN] = {0};
	unsigned long len = sizeof(out);
	CmekHsmBlob blob;
	bool		begun;

	memcpy(blob.iv, order->iv, sizeof(blob.iv));
	if (encrypt(key, blob.iv, order->aad, value, out, &len) != P11_OK ||
		len != sizeof(blob.ciphertext) + sizeof(blob.tag))
		return false;
	memcpy(blob.ciphertext, out, len);
	len = sizeof(out);
	return decrypt(key, &blob, order->aad, out, &len, &begun) == P11_OK &&
		len == CMEK_KEY_LEN && memcmp(out, value, CMEK_KEY_LEN) == 0;
}

/* Could this be the module's word for a tag that does not fit? */
static bool
may_mean_bad_tag(P11Rv rv)
{
	return rv == P11_ENCRYPTED_DATA_INVALID || rv == P11_DATA_INVALID ||
		rv == P11_ENCRYPTED_DATA_LEN_RANGE || rv == P11_GENERAL_ERROR ||
		rv == P11_FUNCTION_FAILED || rv == P11_ARGUMENTS_BAD;
}

/* Unwrap a table key. */
static void
unwrap(const P11Order *order, P11Object key, CmekKmsAnswer *answer)
{
	uint8		out[OBJECT_ROOM];
	unsigned long len = sizeof(out);
	bool		begun;
	P11Rv		rv = decrypt(key, &order->blob, order->aad, out, &len, &begun);

	if (rv != P11_OK)
	{
		answer_rv(rv, "C_Decrypt", answer);
		if (begun && may_mean_bad_tag(rv) && key_works(order, key))
			answer->klass = CMEK_KMS_CORRUPT;
	}
	else if (len != CMEK_KEY_LEN)
		cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "MalformedAnswer",
						"the module decrypted %d bytes to %lu", CMEK_KEY_LEN, len);
	else
	{
		memcpy(answer->key, out, CMEK_KEY_LEN);
		name_key(order->key, answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
	cmek_cleanse(out, sizeof(out));
}

/* ----------
 * Serving
 * ----------
 */

/* Carry out one order. */
static void
obey(P11Order *order, P11Report *report)
{
	CmekKmsAnswer *answer = &report->answer;
	P11Object	key = 0;

	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "NoAnswer",
					"the module gave no answer");
	if (order->what == P11_START)
	{
		start(order, report);
		return;
	}
	if (order->what == P11_IDENTIFY)
		identify(answer);
	else if (find_key(order->key, &key, answer))
		switch (order->what)
		{
			case P11_DESCRIBE:
				describe(order, key, answer);
				break;
			case P11_WRAP:
				wrap(order, key, answer);
				break;
			case P11_UNWRAP:
				unwrap(order, key, answer);
				break;
			case P11_START:
			case P11_IDENTIFY:
				break;
		}
	report->broken = answer->klass == CMEK_KMS_UNREACHABLE;
}

/* See p11.h.  Orders and reports have keys in them: cleansed one by one. */
void
cmek_p11_serve(int fd)
{
	static P11Order order;
	static P11Report report;

	(void) cmek_secret_protect(&order, sizeof(order));
	(void) cmek_secret_protect(&report, sizeof(report));
	while (recv(fd, &order, sizeof(order), 0) == (ssize_t) sizeof(order))
	{
		ssize_t		sent;

		memset(&report, 0, sizeof(report));
		obey(&order, &report);
		cmek_cleanse(&order, sizeof(order));
		sent = send(fd, &report, sizeof(report), MSG_NOSIGNAL);
		cmek_cleanse(&report, sizeof(report));
		if (sent != (ssize_t) sizeof(report))
			break;
	}
	if (module != NULL)
	{
		(void) module->logout(session);
		(void) module->close_session(session);
		(void) module->finalize(NULL);
	}
	_exit(0);
}
