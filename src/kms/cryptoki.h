/*-------------------------------------------------------------------------
 *
 * kms/cryptoki.h
 *	  The part of the PKCS#11 interface (OASIS, version 2.40) that
 *	  p11module.c uses: types, numbers, and the list of functions.
 *
 * Declared here so that the extension builds without another package, for a
 * few calls of an interface that never changes.  Numbers and layouts are
 * compared with p11-kit's header, where that is installed, by
 * test/modules/hsm.  Functions that are not called are only places in the
 * list.  Structures have the platform's own alignment, as everywhere but on
 * Windows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_CRYPTOKI_H
#define CMEK_KMS_CRYPTOKI_H

typedef unsigned long P11Rv;
typedef unsigned long P11Slot;
typedef unsigned long P11Session;
typedef unsigned long P11Object;

/* What calls return */
#define P11_OK								0x00UL
#define P11_HOST_MEMORY						0x02UL
#define P11_SLOT_ID_INVALID					0x03UL
#define P11_GENERAL_ERROR					0x05UL
#define P11_FUNCTION_FAILED					0x06UL
#define P11_ARGUMENTS_BAD					0x07UL
#define P11_CANT_LOCK						0x0aUL
#define P11_DATA_INVALID					0x20UL
#define P11_DEVICE_ERROR					0x30UL
#define P11_DEVICE_MEMORY					0x31UL
#define P11_DEVICE_REMOVED					0x32UL
#define P11_ENCRYPTED_DATA_INVALID			0x40UL
#define P11_ENCRYPTED_DATA_LEN_RANGE		0x41UL
#define P11_FUNCTION_NOT_SUPPORTED			0x54UL
#define P11_KEY_HANDLE_INVALID				0x60UL
#define P11_KEY_SIZE_RANGE					0x62UL
#define P11_KEY_TYPE_INCONSISTENT			0x63UL
#define P11_KEY_FUNCTION_NOT_PERMITTED		0x68UL
#define P11_MECHANISM_INVALID				0x70UL
#define P11_MECHANISM_PARAM_INVALID			0x71UL
#define P11_OBJECT_HANDLE_INVALID			0x82UL
#define P11_PIN_INCORRECT					0xa0UL
#define P11_PIN_INVALID						0xa1UL
#define P11_PIN_LEN_RANGE					0xa2UL
#define P11_PIN_EXPIRED						0xa3UL
#define P11_PIN_LOCKED						0xa4UL
#define P11_SESSION_CLOSED					0xb0UL
#define P11_SESSION_COUNT					0xb1UL
#define P11_SESSION_HANDLE_INVALID			0xb3UL
#define P11_TOKEN_NOT_PRESENT				0xe0UL
#define P11_TOKEN_NOT_RECOGNIZED			0xe1UL
#define P11_USER_ALREADY_LOGGED_IN			0x100UL
#define P11_USER_NOT_LOGGED_IN				0x101UL
#define P11_USER_PIN_NOT_INITIALIZED		0x102UL
#define P11_CRYPTOKI_NOT_INITIALIZED		0x190UL

/* Flags */
#define P11_OS_LOCKING_OK					0x02UL	/* of C_Initialize */
#define P11_SERIAL_SESSION					0x04UL	/* of C_OpenSession */
#define P11_USER_PIN_FINAL_TRY				0x20000UL	/* of a token */
#define P11_USER_PIN_IS_LOCKED				0x40000UL

#define P11_USER							1UL /* of C_Login */

/* Classes, types and attributes of objects */
#define P11_CLASS_SECRET_KEY				0x04UL
#define P11_KEY_TYPE_AES					0x1fUL
#define P11_A_CLASS							0x000UL
#define P11_A_LABEL							0x003UL
#define P11_A_KEY_TYPE						0x100UL
#define P11_A_SENSITIVE						0x103UL
#define P11_A_ENCRYPT						0x104UL
#define P11_A_DECRYPT						0x105UL
#define P11_A_VALUE_LEN						0x161UL
#define P11_A_EXTRACTABLE					0x162UL

#define P11_M_AES_GCM						0x1087UL

typedef struct P11Version
{
	unsigned char major;
	unsigned char minor;
} P11Version;

typedef struct P11InitializeArgs
{
	void	   *mutex_calls[4];
	unsigned long flags;
	void	   *reserved;
} P11InitializeArgs;

/* Texts are padded with blanks and have no NUL */
typedef struct P11TokenInfo
{
	unsigned char label[32];
	unsigned char manufacturer[32];
	unsigned char model[16];
	unsigned char serial[16];
	unsigned long flags;
	unsigned long numbers[10];	/* of sessions, lengths, memory */
	P11Version	hardware;
	P11Version	firmware;
	unsigned char time[16];
} P11TokenInfo;

typedef struct P11Attribute
{
	unsigned long type;
	void	   *value;
	unsigned long len;
} P11Attribute;

typedef struct P11Mechanism
{
	unsigned long mechanism;
	void	   *parameter;
	unsigned long len;
} P11Mechanism;

typedef struct P11GcmParams
{
	unsigned char *iv;
	unsigned long iv_len;
	unsigned long iv_bits;
	unsigned char *aad;
	unsigned long aad_len;
	unsigned long tag_bits;
} P11GcmParams;

typedef P11Rv (*P11AnyCall) (void);
typedef P11Rv (*P11Init) (P11Session, P11Mechanism *, P11Object);
typedef P11Rv (*P11Crypt) (P11Session, unsigned char *in, unsigned long inlen,
						   unsigned char *out, unsigned long *outlen);

/* The functions of a module, in the order of the standard */
typedef struct P11Functions
{
	P11Version	version;
	P11Rv		(*initialize) (void *args);
	P11Rv		(*finalize) (void *reserved);
	P11AnyCall	get_info;
	P11AnyCall	get_function_list;
	P11Rv		(*get_slot_list) (unsigned char present, P11Slot *slots,
								  unsigned long *n);
	P11AnyCall	get_slot_info;
	P11Rv		(*get_token_info) (P11Slot slot, P11TokenInfo *info);
	P11AnyCall	skipped1[5];	/* mechanisms, setting up tokens and PINs */
	P11Rv		(*open_session) (P11Slot slot, unsigned long flags, void *arg,
								 void *notify, P11Session *session);
	P11Rv		(*close_session) (P11Session session);
	P11AnyCall	skipped2[4];	/* other sessions, their state */
	P11Rv		(*login) (P11Session session, unsigned long user,
						  unsigned char *pin, unsigned long len);
	P11Rv		(*logout) (P11Session session);
	P11AnyCall	skipped3[4];	/* making and destroying objects */
	P11Rv		(*get_attribute_value) (P11Session session, P11Object object,
										P11Attribute *attributes,
										unsigned long n);
	P11AnyCall	set_attribute_value;
	P11Rv		(*find_objects_init) (P11Session session,
									  P11Attribute *attributes,
									  unsigned long n);
	P11Rv		(*find_objects) (P11Session session, P11Object *objects,
								 unsigned long max, unsigned long *n);
	P11Rv		(*find_objects_final) (P11Session session);
	P11Init		encrypt_init;
	P11Crypt	encrypt;
	P11AnyCall	skipped4[2];
	P11Init		decrypt_init;
	P11Crypt	decrypt;
	P11AnyCall	skipped5[33];	/* the rest, up to C_WaitForSlotEvent */
} P11Functions;

typedef P11Rv (*P11GetFunctionList) (P11Functions **functions);

#endif							/* CMEK_KMS_CRYPTOKI_H */
