/*-------------------------------------------------------------------------
 *
 * kms.h
 *	  What a key management service is to cmek: five operations and five
 *	  classes of answer.
 *
 * Providers run in KMS workers only (keys/worker.c), never in a backend or
 * the postmaster; they have no database connection, must not read catalogs,
 * and may block for as long as the deadline of the request allows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_H
#define CMEK_KMS_H

#include "nodes/pg_list.h"

#include "clock.h"
#include "format.h"

typedef enum CmekKmsClass
{
	CMEK_KMS_OK,
	CMEK_KMS_DENIED,			/* authoritative: disabled, deleted, removed */
	CMEK_KMS_UNREACHABLE,		/* network, time-out, 5xx, throttling */
	CMEK_KMS_MISCONFIGURED,		/* our credentials, clock, options */
	CMEK_KMS_CORRUPT			/* blob or context does not fit */
} CmekKmsClass;

extern const char *cmek_kms_class_name(CmekKmsClass klass);

#define CMEK_KMS_MAX_BLOB		2048	/* a wrapped table key */
#define CMEK_KMS_MAX_CONFIG		6144	/* options of server and mapping */
#define CMEK_KMS_MAX_CODE		64
#define CMEK_KMS_MAX_MESSAGE	512
#define CMEK_KMS_MAX_KEY_ID		512 /* key id and version at the KMS */

/* Where an option may stand */
#define CMEK_OPTION_SERVER		0x01
#define CMEK_OPTION_MAPPING		0x02
/* It names the key: not to be changed while tables are bound to it */
#define CMEK_OPTION_IDENTITY	0x04
/*
 * It makes the server read a file or call an address: superusers and members
 * of pg_write_server_files only
 */
#define CMEK_OPTION_SUPERUSER	0x08
/* It is a secret: only in a user mapping, and sealed there (sealed.c) */
#define CMEK_OPTION_SECRET		0x10
#define CMEK_OPTION_REQUIRED	0x20

typedef struct CmekKmsOption
{
	const char *name;
	int			flags;
} CmekKmsOption;

/*
 * The options of a server and its PUBLIC user mapping, flattened to
 * "name\0value\0name\0value\0": what travels to a worker.
 */
typedef struct CmekKmsConfig
{
	char		provider[NAMEDATALEN];	/* name of the wrapper */
	bool		ambient;		/* may use the host's own identity */
	bool		superuser;		/* the server belongs to a superuser */
	uint32		len;
	char		options[CMEK_KMS_MAX_CONFIG];
} CmekKmsConfig;

/* The value of an option, NULL when absent */
extern const char *cmek_kms_config_get(const CmekKmsConfig *config,
									   const char *name);
/* Append an option; false when there is no room */
extern bool cmek_kms_config_add(CmekKmsConfig *config, const char *name,
								const char *value);

typedef struct CmekKmsAnswer
{
	CmekKmsClass klass;
	char		code[CMEK_KMS_MAX_CODE];	/* the KMS's own code */
	char		message[CMEK_KMS_MAX_MESSAGE];	/* never a secret */
	char		key_id[CMEK_KMS_MAX_KEY_ID];	/* as the KMS names it */
	char		key_version[CMEK_KMS_MAX_KEY_ID];	/* cmek_file: fingerprint */
	uint32		blob_len;
	uint8		blob[CMEK_KMS_MAX_BLOB];	/* out of generate and wrap */
	uint8		key[CMEK_KEY_LEN];	/* out of generate and unwrap; the caller
									 * cleanses it */
} CmekKmsAnswer;

/* Fill in the class, the code and a message (printf-like) */
extern void cmek_kms_answer(CmekKmsAnswer *answer, CmekKmsClass klass,
							const char *code, const char *fmt,...) pg_attribute_printf(4, 5);
/* The KMS's answer lacks something, or has it in another form: UNREACHABLE */
extern void cmek_kms_answer_malformed(const char *what, CmekKmsAnswer *answer);
/* It is not one of this KMS's at all: UNREACHABLE, too */
extern void cmek_kms_answer_unknown(const char *kms, CmekKmsAnswer *answer);

typedef struct CmekKmsRequest
{
	const CmekKmsConfig *config;
	const uint8 *uuid;			/* of the wrapped blob: the encryption context */
	/* the version the catalog expects ("" when it has none): cmek_file's
	 * fingerprint rule */
	const char *expected_version;
	const uint8 *blob;			/* unwrap */
	uint32		blob_len;
	const uint8 *key;			/* wrap */
	CmekInstant deadline;		/* see clock.h */
} CmekKmsRequest;

/*
 * What cmek.check_key() proves, one call each.  Their order in a provider's
 * list is the order of proof.
 */
typedef enum CmekKmsStep
{
	CMEK_STEP_END,				/* of a list */
	CMEK_STEP_IDENTITY,			/* the KMS knows who we are */
	CMEK_STEP_KEY,				/* it exists, can wrap, and is enabled */
	CMEK_STEP_GENERATE,
	CMEK_STEP_ENCRYPT,
	CMEK_STEP_DECRYPT,
	CMEK_STEP_CONTEXT			/* another encryption context is refused */
} CmekKmsStep;

extern const char *cmek_kms_step_name(CmekKmsStep step);

typedef struct CmekKmsProvider
{
	const char *wrapper;		/* name of its foreign-data wrapper */
	const CmekKmsOption *options;	/* ends with a NULL name */
	/*
	 * A new table key, and its wrapped form.  NULL where the KMS makes none:
	 * then one is made here and wrapped there.  Call it by cmek_kms_generate.
	 */
	void		(*generate) (const CmekKmsRequest *req, CmekKmsAnswer *answer);
	void		(*wrap) (const CmekKmsRequest *req, CmekKmsAnswer *answer);
	void		(*unwrap) (const CmekKmsRequest *req, CmekKmsAnswer *answer);
	/* is the key there and usable? */
	void		(*probe) (const CmekKmsRequest *req, CmekKmsAnswer *answer);
	/* the same, and fills in key_id and key_version */
	void		(*describe) (const CmekKmsRequest *req, CmekKmsAnswer *answer);
	/* optional check of a whole list of options (DefElem); ERROR when bad */
	void		(*validate) (List *options, Oid catalog);
	/* what cmek.check_key() proves; ends with CMEK_STEP_END */
	const CmekKmsStep *steps;
	/* for CMEK_STEP_IDENTITY: who we are at the KMS, as key_id */
	void		(*identify) (const CmekKmsRequest *req, CmekKmsAnswer *answer);

	/*
	 * What to grant when a step was denied: a sentence and a text to paste.
	 * Pure.  NULL: making a key proves all there is, so binding a table does
	 * no more.
	 */
	void		(*advise) (const CmekKmsConfig *config, CmekKmsStep step,
						   const CmekKmsAnswer *answer, char *out, Size size);

	/*
	 * optional, in the backend: append settings of the asking database, which
	 * a worker cannot see, under names with a dot, which no option has.  False
	 * when there is no room.
	 */
	bool		(*add_settings) (CmekKmsConfig *config);
} CmekKmsProvider;

/* NULL when there is no such wrapper of ours */
extern const CmekKmsProvider *cmek_kms_provider(const char *wrapper);

/*
 * Does a request, in the place of a blob, ask the service key's server for a
 * key derived from the service key?
 */
extern bool cmek_kms_is_derivation(const uint8 *blob, uint32 len);

/* In a KMS worker: a new table key, whoever makes it */
extern void cmek_kms_generate(const CmekKmsProvider *provider,
							  const CmekKmsRequest *req,
							  CmekKmsAnswer *answer);

/*
 * One step of cmek.check_key(), in a KMS worker.  The blob of the answer is
 * what the steps after it need in their request; when the step failed, it is
 * the text of what to grant, with its NUL.
 */
extern void cmek_kms_check(const CmekKmsProvider *provider,
						   const CmekKmsRequest *req, CmekKmsStep step,
						   CmekKmsAnswer *answer);

/* ----------
 * sealed.c: secret options of user mappings, as they stand in the catalog
 * ----------
 */
#define CMEK_MAX_SECRET (CMEK_KMS_MAX_BLOB - CMEK_AEAD_OVERHEAD)

extern bool cmek_option_is_secret(const CmekKmsProvider *provider,
								  const char *name);
/* Sealed already?  ERROR when it begins like it and is not. */
extern bool cmek_secret_is_sealed(const char *option, const char *text);
/* The text for the catalog, out of the answer to cmek_secret_seal() */
extern char *cmek_secret_text(const char *fingerprint, const uint8 *blob,
							  uint32 len);
/*
 * In a KMS worker: seal a secret under the service key.  The answer's blob is
 * the sealed secret, its key_version the fingerprint of the service key.
 */
extern void cmek_secret_seal(const CmekKmsRequest *req, const char *option,
							 CmekKmsAnswer *answer);
/*
 * In a KMS worker: the configuration with its secrets opened, in secret memory
 * of the current context.  NULL, with the answer filled in, when one cannot be
 * opened.
 */
extern const CmekKmsConfig *cmek_secrets_open(const CmekKmsConfig *config,
											  CmekInstant deadline,
											  CmekKmsAnswer *answer);

/* ----------
 * options.c: options that any server may have; they are not the provider's
 * ----------
 */
extern bool cmek_option_is_common(const char *name);
/* Seconds of a duration; -1 for "off"; false when it is neither */
extern bool cmek_parse_duration(const char *text, int *seconds);

/* In a KMS worker: post the blob to the configuration's "url" (post.c) */
extern void cmek_kms_post(const CmekKmsRequest *req, CmekKmsAnswer *answer);

/* Setting: servers of ordinary users may use the host's own identity */
extern PGDLLIMPORT bool cmek_ambient_credentials;

/* Register this folder's settings; called once by _PG_init */
extern void cmek_kms_init(void);

#endif							/* CMEK_KMS_H */
