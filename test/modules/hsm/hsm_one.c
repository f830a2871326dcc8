/*-------------------------------------------------------------------------
 *
 * hsm_one.c
 *	  Every function that reads an answer of a KMIP server, and the one that
 *	  reads a list of hosts, fed with bytes; used by the test module and by
 *	  libFuzzer.
 *
 *-------------------------------------------------------------------------
 */
#include "hsm_one.h"

/* src/crypto's, which needs a server */
extern void cmek_cleanse(void *ptr, Size len);

void
cmek_cleanse(void *ptr, Size len)
{
	explicit_bzero(ptr, len);
}

static const char *const names[] = {"key", "query", "encrypt", "decrypt"};
static const CmekKmipCall calls[] = {
	CMEK_KMIP_KEY, CMEK_KMIP_QUERY, CMEK_KMIP_ENCRYPT, CMEK_KMIP_DECRYPT
};

bool
hsm_call(const char *what, CmekKmipCall *call)
{
	for (Size i = 0; i < lengthof(names); i++)
		if (strcmp(what, names[i]) == 0)
		{
			*call = calls[i];
			return true;
		}
	return false;
}

/* One attribute of a key in the form of 1.x */
static void
add_attribute(CmekTtlv *to, const char *name, CmekTtlvType type, uint32 value)
{
	Size		attribute = cmek_ttlv_open(to, 0x420008);

	cmek_ttlv_add_text(to, 0x42000A, name);
	cmek_ttlv_add_number(to, 0x42000B, type, value);
	cmek_ttlv_close(to, attribute);
}

/* What a server says of a key, or of a ciphertext, or an error */
static void
add_payload(CmekTtlv *to, int n)
{
	uint8		zeros[CMEK_KEY_LEN] = {0};
	Size		payload = cmek_ttlv_open(to, 0x42007C);
	Size		inner;

	if (n % 4 != 1)
		cmek_ttlv_add_text(to, 0x420094, "1");
	if (n == 0)
	{
		add_attribute(to, "State", CMEK_TTLV_ENUMERATION, 2);
		add_attribute(to, "Cryptographic Algorithm", CMEK_TTLV_ENUMERATION, 3);
		add_attribute(to, "Cryptographic Length", CMEK_TTLV_INTEGER, 256);
	}
	else if (n == 4)
	{
		inner = cmek_ttlv_open(to, 0x420125);
		cmek_ttlv_add_number(to, 0x42008D, CMEK_TTLV_ENUMERATION, 2);
		cmek_ttlv_close(to, inner);
	}
	else if (n % 4 == 1)
		cmek_ttlv_add_text(to, 0x42009D, "maker");
	else
	{
		cmek_ttlv_add_bytes(to, 0x4200C2, zeros, sizeof(zeros));
		cmek_ttlv_add_bytes(to, 0x4200FF, zeros, CMEK_HSM_TAG_LEN);
	}
	cmek_ttlv_close(to, payload);
}

Size
hsm_seed(int n, uint8 *out, Size size)
{
	CmekTtlv	to;
	Size		message;
	Size		batch;

	cmek_ttlv_init(&to, out, size);
	message = cmek_ttlv_open(&to, CMEK_KMIP_RESPONSE);
	batch = cmek_ttlv_open(&to, 0x42000F);
	cmek_ttlv_add_number(&to, 0x42005C, CMEK_TTLV_ENUMERATION, calls[n % 4]);
	cmek_ttlv_add_number(&to, 0x42007F, CMEK_TTLV_ENUMERATION, n == 7);
	if (n == 7)
	{
		cmek_ttlv_add_number(&to, 0x42007E, CMEK_TTLV_ENUMERATION, 0x0C);
		cmek_ttlv_add_text(&to, 0x42007D, "denied");
	}
	else
		add_payload(&to, n);
	cmek_ttlv_close(&to, batch);
	cmek_ttlv_close(&to, message);
	return to.overflow ? 0 : to.len;
}

/* Must never read beyond its bytes, and never say yes to nonsense. */
void
hsm_one(const uint8 *data, Size size)
{
	static CmekKmsAnswer answer;
	static CmekKmsConfig config;
	CmekHsmBlob blob = {{0}, {0}, {0}};
	char		host[32];
	char		text[128];
	int			port;
	int			which;

	if (size < 1)
		return;
	which = data[0];
	config.len = 0;
	cmek_kms_config_add(&config, "key_id", "1");
	if (which & 4)
		cmek_kms_config_add(&config, "protocol", "2.0");
	memset(&answer, 0, sizeof(answer));
	answer.klass = CMEK_KMS_CORRUPT;
	cmek_kmip_read(&config, calls[which & 3], data + 1, size - 1, &blob, &answer);
	if (answer.klass == CMEK_KMS_CORRUPT ||
		strlen(answer.message) >= sizeof(answer.message) ||
		answer.blob_len > sizeof(answer.blob))
		abort();
	(void) cmek_kmip_may_be_bad_tag(&answer);
	if (size >= 9)
		(void) cmek_ttlv_message_len(data + 1, CMEK_KMIP_RESPONSE);
	size = Min(size - 1, sizeof(text) - 1);
	memcpy(text, data + 1, size);
	text[size] = '\0';
	for (int i = 0; i < 4; i++)
		if (cmek_kmip_host(text, i, host, sizeof(host), &port) &&
			(port < 1 || port > 65535 || host[0] == '\0' || strlen(host) >= sizeof(host)))
			abort();
}
