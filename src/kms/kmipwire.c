/*-------------------------------------------------------------------------
 *
 * kmipwire.c
 *	  Requests to a KMIP server (1.4 or 2.0), and its answers.
 *
 * Pure functions: no network, no PostgreSQL memory, no ERROR.  Whatever an
 * answer holds is taken for hostile; nothing of a plaintext reaches a message.
 *
 *	 Request Message  = Header (version, credential, batch count 1)
 *						Batch Item (operation, payload)
 *	 Response Message = Header, Batch Item (status, reason, message | payload)
 *
 * Tags, enumerations and result reasons are those of KMIP 1.4 and 2.0 (OASIS),
 * section 9.1.3 and 11.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/internal.h"
#include "kms/kmipwire.h"
#include "kms/text.h"

#define DEFAULT_PORT 5696

enum KmipTag
{
	TAG_ATTRIBUTE = 0x420008,
	TAG_ATTRIBUTE_NAME = 0x42000A,
	TAG_ATTRIBUTE_VALUE = 0x42000B,
	TAG_AUTHENTICATION = 0x42000C,
	TAG_BATCH_COUNT = 0x42000D,
	TAG_BATCH_ITEM = 0x42000F,
	TAG_BLOCK_CIPHER_MODE = 0x420011,
	TAG_CREDENTIAL = 0x420023,
	TAG_CREDENTIAL_TYPE = 0x420024,
	TAG_CREDENTIAL_VALUE = 0x420025,
	TAG_ALGORITHM = 0x420028,
	TAG_KEY_LENGTH = 0x42002A,
	TAG_CRYPTO_PARAMETERS = 0x42002B,
	TAG_IV = 0x42003D,
	TAG_OPERATION = 0x42005C,
	TAG_VERSION = 0x420069,
	TAG_VERSION_MAJOR = 0x42006A,
	TAG_VERSION_MINOR = 0x42006B,
	TAG_QUERY_FUNCTION = 0x420074,
	TAG_REQUEST_HEADER = 0x420077,
	TAG_REQUEST = 0x420078,
	TAG_REQUEST_PAYLOAD = 0x420079,
	TAG_RESPONSE_PAYLOAD = 0x42007C,
	TAG_RESULT_MESSAGE = 0x42007D,
	TAG_RESULT_REASON = 0x42007E,
	TAG_RESULT_STATUS = 0x42007F,
	TAG_STATE = 0x42008D,
	TAG_UNIQUE_IDENTIFIER = 0x420094,
	TAG_USERNAME = 0x420099,
	TAG_VENDOR = 0x42009D,
	TAG_PASSWORD = 0x4200A1,
	TAG_DATA = 0x4200C2,
	TAG_TAG_LENGTH = 0x4200CE,
	TAG_AAD = 0x4200FE,
	TAG_TAG = 0x4200FF,
	TAG_ATTRIBUTES = 0x420125,	/* 2.0 */
	TAG_ATTRIBUTE_REFERENCE = 0x42013B	/* 2.0 */
};

#define CREDENTIAL_USERNAME_PASSWORD 1
#define QUERY_OPERATIONS 1
#define QUERY_SERVER_INFORMATION 3
#define MODE_GCM 9
#define ALGORITHM_AES 3
#define STATE_ACTIVE 2

/* What we ask of a key, by name (1.x) and by tag (2.x) */
typedef struct KmipAttribute
{
	const char *name;
	uint32		tag;
	CmekTtlvType type;
} KmipAttribute;

static const KmipAttribute attributes[] = {
	{"State", TAG_STATE, CMEK_TTLV_ENUMERATION},
	{"Cryptographic Algorithm", TAG_ALGORITHM, CMEK_TTLV_ENUMERATION},
	{"Cryptographic Length", TAG_KEY_LENGTH, CMEK_TTLV_INTEGER},
};

/* Do we speak 2.0?  Else 1.4. */
static bool
is_version_2(const CmekKmsConfig *config)
{
	const char *version = cmek_kms_config_get(config, "protocol");

	return version != NULL && strcmp(version, "2.0") == 0;
}

/* The unique identifier of the key */
static const char *
key_of(const CmekKmsConfig *config)
{
	const char *key = cmek_kms_config_get(config, "key_id");

	return key != NULL ? key : "";
}

/* ----------
 * Requests
 * ----------
 */

/* User name and password, where there are some beside the certificate. */
static void
add_credential(const CmekKmsConfig *config, CmekTtlv *to)
{
	const char *user = cmek_kms_config_get(config, "username");
	const char *password = cmek_kms_config_get(config, "password");
	Size		authentication;
	Size		credential;
	Size		value;

	if (user == NULL)
		return;
	authentication = cmek_ttlv_open(to, TAG_AUTHENTICATION);
	credential = cmek_ttlv_open(to, TAG_CREDENTIAL);
	cmek_ttlv_add_number(to, TAG_CREDENTIAL_TYPE, CMEK_TTLV_ENUMERATION,
						 CREDENTIAL_USERNAME_PASSWORD);
	value = cmek_ttlv_open(to, TAG_CREDENTIAL_VALUE);
	cmek_ttlv_add_text(to, TAG_USERNAME, user);
	if (password != NULL)
		cmek_ttlv_add_text(to, TAG_PASSWORD, password);
	cmek_ttlv_close(to, value);
	cmek_ttlv_close(to, credential);
	cmek_ttlv_close(to, authentication);
}

/* The header of a request. */
static void
add_header(const CmekKmsConfig *config, CmekTtlv *to)
{
	Size		header = cmek_ttlv_open(to, TAG_REQUEST_HEADER);
	Size		version = cmek_ttlv_open(to, TAG_VERSION);
	bool		v2 = is_version_2(config);

	cmek_ttlv_add_number(to, TAG_VERSION_MAJOR, CMEK_TTLV_INTEGER, v2 ? 2 : 1);
	cmek_ttlv_add_number(to, TAG_VERSION_MINOR, CMEK_TTLV_INTEGER, v2 ? 0 : 4);
	cmek_ttlv_close(to, version);
	add_credential(config, to);
	cmek_ttlv_add_number(to, TAG_BATCH_COUNT, CMEK_TTLV_INTEGER, 1);
	cmek_ttlv_close(to, header);
}

/* AES-GCM with a tag of 16 bytes. */
static void
add_gcm(CmekTtlv *to)
{
	Size		parameters = cmek_ttlv_open(to, TAG_CRYPTO_PARAMETERS);

	cmek_ttlv_add_number(to, TAG_BLOCK_CIPHER_MODE, CMEK_TTLV_ENUMERATION, MODE_GCM);
	cmek_ttlv_add_number(to, TAG_ALGORITHM, CMEK_TTLV_ENUMERATION, ALGORITHM_AES);
	cmek_ttlv_add_number(to, TAG_TAG_LENGTH, CMEK_TTLV_INTEGER, CMEK_HSM_TAG_LEN);
	cmek_ttlv_close(to, parameters);
}

/* What to ask of the key. */
static void
add_attributes(const CmekKmsConfig *config, CmekTtlv *to)
{
	for (Size i = 0; i < lengthof(attributes); i++)
		if (is_version_2(config))
			cmek_ttlv_add_number(to, TAG_ATTRIBUTE_REFERENCE,
								 CMEK_TTLV_ENUMERATION, attributes[i].tag);
		else
			cmek_ttlv_add_text(to, TAG_ATTRIBUTE_NAME, attributes[i].name);
}

/* The payload of Encrypt or Decrypt. */
static void
add_crypt(CmekKmipCall call, const uint8 *uuid, const uint8 *value,
		  const CmekHsmBlob *blob, CmekTtlv *to)
{
	char		aad[CMEK_KMS_AAD_LEN + 1];

	cmek_kms_aad(uuid, aad);
	add_gcm(to);
	cmek_ttlv_add_bytes(to, TAG_DATA,
						call == CMEK_KMIP_ENCRYPT ? value : blob->ciphertext,
						CMEK_KEY_LEN);
	cmek_ttlv_add_bytes(to, TAG_IV, blob->iv, sizeof(blob->iv));
	cmek_ttlv_add_bytes(to, TAG_AAD, aad, CMEK_KMS_AAD_LEN);
	if (call == CMEK_KMIP_DECRYPT)
		cmek_ttlv_add_bytes(to, TAG_TAG, blob->tag, sizeof(blob->tag));
}

/* See kmipwire.h. */
void
cmek_kmip_request(const CmekKmsConfig *config, CmekKmipCall call,
				  const uint8 *uuid, const uint8 *value,
				  const CmekHsmBlob *blob, CmekTtlv *to)
{
	Size		request = cmek_ttlv_open(to, TAG_REQUEST);
	Size		item;
	Size		payload;

	add_header(config, to);
	item = cmek_ttlv_open(to, TAG_BATCH_ITEM);
	cmek_ttlv_add_number(to, TAG_OPERATION, CMEK_TTLV_ENUMERATION, call);
	payload = cmek_ttlv_open(to, TAG_REQUEST_PAYLOAD);
	if (call == CMEK_KMIP_QUERY)
	{
		cmek_ttlv_add_number(to, TAG_QUERY_FUNCTION, CMEK_TTLV_ENUMERATION, QUERY_OPERATIONS);
		cmek_ttlv_add_number(to, TAG_QUERY_FUNCTION, CMEK_TTLV_ENUMERATION, QUERY_SERVER_INFORMATION);
	}
	else
		cmek_ttlv_add_text(to, TAG_UNIQUE_IDENTIFIER, key_of(config));
	if (call == CMEK_KMIP_KEY)
		add_attributes(config, to);
	if (call == CMEK_KMIP_ENCRYPT || call == CMEK_KMIP_DECRYPT)
		add_crypt(call, uuid, value, blob, to);
	cmek_ttlv_close(to, payload);
	cmek_ttlv_close(to, item);
	cmek_ttlv_close(to, request);
}

/* ----------
 * Answers
 * ----------
 */

typedef struct KmipReason
{
	uint32		reason;
	const char *code;
	CmekKmsClass klass;
} KmipReason;

/* Whatever is not here is UNREACHABLE */
static const KmipReason reasons[] = {
	{0x01, "ItemNotFound", CMEK_KMS_DENIED},
	{0x03, "AuthenticationNotSuccessful", CMEK_KMS_MISCONFIGURED},
	{0x04, "InvalidMessage", CMEK_KMS_MISCONFIGURED},
	{0x05, "OperationNotSupported", CMEK_KMS_MISCONFIGURED},
	{0x06, "MissingData", CMEK_KMS_MISCONFIGURED},
	{0x07, "InvalidField", CMEK_KMS_MISCONFIGURED},
	{0x08, "FeatureNotSupported", CMEK_KMS_MISCONFIGURED},
	{0x0A, "CryptographicFailure", CMEK_KMS_UNREACHABLE},
	{0x0B, "IllegalOperation", CMEK_KMS_MISCONFIGURED},
	{0x0C, "PermissionDenied", CMEK_KMS_DENIED},
	{0x0D, "ObjectArchived", CMEK_KMS_DENIED},
	{0x14, "AttestationRequired", CMEK_KMS_MISCONFIGURED},
	{0x15, "AttestationFailed", CMEK_KMS_MISCONFIGURED},
	{0x1A, "UsageLimitExceeded", CMEK_KMS_MISCONFIGURED},
	{0x24, "BadCryptographicParameters", CMEK_KMS_MISCONFIGURED},
	{0x25, "BadPassword", CMEK_KMS_MISCONFIGURED},
	{0x26, "CodecError", CMEK_KMS_MISCONFIGURED},
	{0x28, "IllegalObjectType", CMEK_KMS_MISCONFIGURED},
	{0x29, "IncompatibleCryptographicUsageMask", CMEK_KMS_DENIED},
	{0x2A, "InternalServerError", CMEK_KMS_UNREACHABLE},
	{0x30, "InvalidObjectType", CMEK_KMS_MISCONFIGURED},
	{0x36, "ObjectDestroyed", CMEK_KMS_DENIED},
	{0x37, "ObjectNotFound", CMEK_KMS_DENIED},
	{0x39, "NotAuthorised", CMEK_KMS_DENIED},
	{0x3E, "UnsupportedCryptographicParameters", CMEK_KMS_MISCONFIGURED},
	{0x3F, "UnsupportedProtocolVersion", CMEK_KMS_MISCONFIGURED},
	{0x43, "WrongKeyLifecycleState", CMEK_KMS_DENIED},
	{0x100, "GeneralFailure", CMEK_KMS_UNREACHABLE},
};

/* The states of a key, by KMIP's number */
static const char *const states[] = {
	NULL, "StatePreActive", "StateActive", "StateDeactivated",
	"StateCompromised", "StateDestroyed", "StateDestroyedCompromised"
};

/* A text of the answer as it may be shown; "" when there is none. */
static void
read_text(const CmekTtlvItem *structure, uint32 tag, char *out, Size size)
{
	CmekTtlvItem item;
	char		raw[CMEK_KMS_MAX_MESSAGE];
	Size		len;

	out[0] = '\0';
	if (!cmek_ttlv_only(structure, tag, CMEK_TTLV_TEXT, &item))
		return;
	len = Min(item.len, sizeof(raw) - 1);
	memcpy(raw, item.value, len);
	raw[len] = '\0';
	cmek_text_printable(out, size, raw);
}

/* Turn a result that is no success into an answer. */
static void
read_error(const CmekTtlvItem *batch, CmekKmsAnswer *answer)
{
	uint32		reason = 0;
	char		code[CMEK_KMS_MAX_CODE];
	char		message[CMEK_KMS_MAX_MESSAGE];
	CmekKmsClass klass = CMEK_KMS_UNREACHABLE;

	(void) cmek_ttlv_number(batch, TAG_RESULT_REASON, CMEK_TTLV_ENUMERATION, &reason);
	read_text(batch, TAG_RESULT_MESSAGE, message, sizeof(message));
	snprintf(code, sizeof(code), "Reason0x%X", reason);
	for (Size i = 0; i < lengthof(reasons); i++)
		if (reasons[i].reason == reason)
		{
			strlcpy(code, reasons[i].code, sizeof(code));
			klass = reasons[i].klass;
		}
	cmek_kms_answer(answer, klass, code, "%s",
					message[0] != '\0' ? message : "the KMIP server gave no reason");
}

/* The payload of an answer; false with the answer filled in. */
static bool
open_answer(CmekKmipCall call, const uint8 *data, Size len,
			CmekTtlvItem *payload, CmekKmsAnswer *answer)
{
	CmekTtlvItem message;
	CmekTtlvItem batch;
	uint32		status;
	uint32		operation = call;

	if (!cmek_ttlv_read(data, len, &message) ||
		message.tag != CMEK_KMIP_RESPONSE ||
		!cmek_ttlv_only(&message, TAG_BATCH_ITEM, CMEK_TTLV_STRUCTURE, &batch) ||
		!cmek_ttlv_number(&batch, TAG_RESULT_STATUS, CMEK_TTLV_ENUMERATION, &status))
		cmek_kms_answer_unknown("a KMIP server", answer);
	else if (status != 0)
		read_error(&batch, answer);
	else if (cmek_ttlv_nth(&batch, TAG_OPERATION, 0, payload) &&
			 (!cmek_ttlv_number(&batch, TAG_OPERATION, CMEK_TTLV_ENUMERATION, &operation) ||
			  operation != (uint32) call))
		cmek_kms_answer_malformed("operation", answer);
	else if (!cmek_ttlv_only(&batch, TAG_RESPONSE_PAYLOAD, CMEK_TTLV_STRUCTURE, payload))
		cmek_kms_answer_malformed("payload", answer);
	else
		return true;
	return false;
}

/* Name the key as the catalog keeps it. */
static void
name_key(const CmekKmsConfig *config, CmekKmsAnswer *answer)
{
	strlcpy(answer->key_id, key_of(config), sizeof(answer->key_id));
	answer->key_version[0] = '\0';
}

/* Bytes of a length that is known. */
static bool
read_bytes(const CmekTtlvItem *payload, uint32 tag, uint8 *out, Size len)
{
	CmekTtlvItem item;

	if (!cmek_ttlv_only(payload, tag, CMEK_TTLV_BYTES, &item) || item.len != len)
		return false;
	memcpy(out, item.value, len);
	return true;
}

/* Encrypt */
static void
read_encrypt(const CmekKmsConfig *config, const CmekTtlvItem *payload,
			 CmekHsmBlob *blob, CmekKmsAnswer *answer)
{
	CmekTtlvItem item;

	if (!read_bytes(payload, TAG_DATA, blob->ciphertext, sizeof(blob->ciphertext)))
		cmek_kms_answer_malformed("ciphertext of a table key's length", answer);
	else if (!read_bytes(payload, TAG_TAG, blob->tag, sizeof(blob->tag)))
		cmek_kms_answer_malformed("authentication tag", answer);
	/* a server that chooses the IV itself says so */
	else if (cmek_ttlv_nth(payload, TAG_IV, 0, &item) &&
			 !read_bytes(payload, TAG_IV, blob->iv, sizeof(blob->iv)))
		cmek_kms_answer_malformed("IV", answer);
	else
	{
		memcpy(answer->blob, blob, sizeof(CmekHsmBlob));
		answer->blob_len = sizeof(CmekHsmBlob);
		name_key(config, answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
	}
}

/* Decrypt */
static void
read_decrypt(const CmekKmsConfig *config, const CmekTtlvItem *payload,
			 CmekKmsAnswer *answer)
{
	if (!read_bytes(payload, TAG_DATA, answer->key, CMEK_KEY_LEN))
	{
		cmek_kms_answer_malformed("plaintext of a table key's length", answer);
		return;
	}
	name_key(config, answer);
	cmek_kms_answer(answer, CMEK_KMS_OK, "", "%s", "");
}

/* One attribute of the key; false when the answer has it not, or twice. */
static bool
read_attribute(const CmekKmsConfig *config, const CmekTtlvItem *payload,
			   const KmipAttribute *wanted, uint32 *value)
{
	CmekTtlvItem item;
	CmekTtlvItem name;
	int			found = 0;

	if (is_version_2(config))
		return cmek_ttlv_only(payload, TAG_ATTRIBUTES, CMEK_TTLV_STRUCTURE, &item) &&
			cmek_ttlv_number(&item, wanted->tag, wanted->type, value);
	for (int i = 0; cmek_ttlv_nth(payload, TAG_ATTRIBUTE, i, &item); i++)
	{
		if (!cmek_ttlv_only(&item, TAG_ATTRIBUTE_NAME, CMEK_TTLV_TEXT, &name) ||
			!cmek_ttlv_is_text(&name, wanted->name))
			continue;
		if (!cmek_ttlv_number(&item, TAG_ATTRIBUTE_VALUE, wanted->type, value))
			return false;
		found++;
	}
	return found == 1;
}

/* Get Attributes: is the key active, and one of AES? */
static void
read_key(const CmekKmsConfig *config, const CmekTtlvItem *payload,
		 CmekKmsAnswer *answer)
{
	uint32		state;
	uint32		algorithm = ALGORITHM_AES;
	uint32		bits = 0;

	(void) read_attribute(config, payload, &attributes[2], &bits);
	if (!read_attribute(config, payload, &attributes[0], &state))
		cmek_kms_answer_malformed("state of the key", answer);
	else if (state == 0 || state >= lengthof(states))
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "StateUnknown",
						"the key is in a state of number %u, which KMIP does not know", state);
	else if (state != STATE_ACTIVE)
		cmek_kms_answer(answer, CMEK_KMS_DENIED, states[state],
						"the key is not active");
	else if (read_attribute(config, payload, &attributes[1], &algorithm) &&
			 algorithm != ALGORITHM_AES)
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "KeyType",
						"the key is no AES key (its algorithm has number %u)", algorithm);
	else
	{
		name_key(config, answer);
		cmek_kms_answer(answer, CMEK_KMS_OK, "",
						"exists, active, symmetric (AES, %u bits)", bits);
	}
}

/* Query: the server answers us. */
static void
read_query(const CmekTtlvItem *payload, CmekKmsAnswer *answer)
{
	char		vendor[128];

	read_text(payload, TAG_VENDOR, vendor, sizeof(vendor));
	cmek_kms_answer(answer, CMEK_KMS_OK, "",
					"client of %s", vendor[0] != '\0' ? vendor : "a server that does not tell its maker");
}

/* See kmipwire.h. */
void
cmek_kmip_read(const CmekKmsConfig *config, CmekKmipCall call,
			   const uint8 *data, Size len, CmekHsmBlob *blob,
			   CmekKmsAnswer *answer)
{
	CmekTtlvItem payload;
	CmekTtlvItem id;

	if (!open_answer(call, data, len, &payload, answer))
		return;
	if (call == CMEK_KMIP_QUERY)
	{
		read_query(&payload, answer);
		return;
	}
	if (!cmek_ttlv_only(&payload, TAG_UNIQUE_IDENTIFIER, CMEK_TTLV_TEXT, &id) ||
		!cmek_ttlv_is_text(&id, key_of(config)))
	{
		cmek_kms_answer_malformed("unique identifier: it is of another key", answer);
		return;
	}
	switch (call)
	{
		case CMEK_KMIP_KEY:
			read_key(config, &payload, answer);
			break;
		case CMEK_KMIP_ENCRYPT:
			read_encrypt(config, &payload, blob, answer);
			break;
		case CMEK_KMIP_DECRYPT:
			read_decrypt(config, &payload, answer);
			break;
		case CMEK_KMIP_QUERY:
			break;
	}
}

/* See kmipwire.h. */
bool
cmek_kmip_may_be_bad_tag(const CmekKmsAnswer *answer)
{
	return strcmp(answer->code, "CryptographicFailure") == 0 ||
		strcmp(answer->code, "InvalidField") == 0 ||
		strcmp(answer->code, "InternalServerError") == 0 ||
		strcmp(answer->code, "GeneralFailure") == 0;
}

/* A port, or -1. */
static int
parse_port(const char *text, Size len)
{
	int			port = 0;

	if (len == 0 || len > 5)
		return -1;
	for (Size i = 0; i < len; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return -1;
		port = port * 10 + (text[i] - '0');
	}
	return port > 0 && port < 65536 ? port : -1;
}

/* Take "host", "host:port" or "[address]:port" apart. */
static bool
parse_host(const char *text, Size len, char *host, Size size, int *port)
{
	const char *end = text + len;
	const char *colon;

	*port = DEFAULT_PORT;
	if (len > 0 && text[0] == '[')
	{
		const char *bracket = memchr(text, ']', len);

		if (bracket == NULL)
			return false;
		colon = bracket + 1;
		text++;
		len = bracket - text;
	}
	else
	{
		colon = memchr(text, ':', len);
		colon = colon != NULL ? colon : end;
		len = colon - text;
	}
	if (colon < end && (*colon != ':' || (*port = parse_port(colon + 1, end - colon - 1)) < 0))
		return false;
	if (len == 0 || len >= size)
		return false;
	for (Size i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~' || strchr("/@\"\\", text[i]) != NULL)
			return false;
	memcpy(host, text, len);
	host[len] = '\0';
	return true;
}

/* See kmipwire.h. */
bool
cmek_kmip_host(const char *hosts, int n, char *host, Size size, int *port)
{
	const char *at = hosts;

	for (;;)
	{
		Size		len = strcspn(at, ",");
		Size		blanks = strspn(at, " ");

		if (n-- == 0)
		{
			if (blanks > len)
				return false;
			at += blanks;
			len -= blanks;
			while (len > 0 && at[len - 1] == ' ')
				len--;
			return parse_host(at, len, host, size, port);
		}
		if (at[len] == '\0')
			return false;
		at += len + 1;
	}
}

/* See kmipwire.h. */
void
cmek_kmip_advise(const CmekKmsConfig *config, CmekKmsStep step,
				 const CmekKmsAnswer *answer, char *out, Size size)
{
	const char *code = answer->code;

	if (strcmp(code, "PermissionDenied") == 0 || strcmp(code, "NotAuthorised") == 0)
		snprintf(out, size, "Allow the client of this certificate the operation %s on key %s; never Get.",
				 step == CMEK_STEP_KEY ? "Get Attributes" :
				 step == CMEK_STEP_ENCRYPT ? "Encrypt" : "Decrypt", key_of(config));
	else if (strcmp(code, "ItemNotFound") == 0 || strcmp(code, "ObjectNotFound") == 0)
		strlcpy(out, "Create the key (AES, 256 bits, usage mask Encrypt and Decrypt), and give its unique identifier as option \"key_id\". A server may also say this of a key that the client may not see.",
				size);
	else if (strcmp(code, "StatePreActive") == 0)
		strlcpy(out, "Activate the key.", size);
	else if (strcmp(code, "IncompatibleCryptographicUsageMask") == 0)
		strlcpy(out, "Give the key the usage mask Encrypt and Decrypt.", size);
	else if (strcmp(code, "KeyType") == 0)
		strlcpy(out, "Use another key: AES, 256 bits, usage mask Encrypt and Decrypt.", size);
	else if (strcmp(code, "UnsupportedProtocolVersion") == 0 || strcmp(code, "InvalidMessage") == 0)
		strlcpy(out, "Try option protocol '1.4' or '2.0'; an older server cannot be used, because it has no AES-GCM.", size);
	else if (strcmp(code, "OperationNotSupported") == 0 || strcmp(code, "BadCryptographicParameters") == 0 ||
			 strcmp(code, "UnsupportedCryptographicParameters") == 0)
		strlcpy(out, "Use a KMIP server that encrypts by AES-GCM: KMIP 1.4 or later, operations Encrypt and Decrypt.", size);
	else if (strcmp(code, "ContextNotBound") == 0)
		strlcpy(out, "Use another KMIP server: this one ignores the additional data of AES-GCM.", size);
	else if (step == CMEK_STEP_IDENTITY)
		strlcpy(out, "Correct the certificate, key or password with ALTER USER MAPPING, hosts and ca_file with ALTER SERVER; nothing needs a restart.",
				size);
}
