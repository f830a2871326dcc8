/*-------------------------------------------------------------------------
 *
 * kms/internal.h
 *	  What the files of this folder share and nobody else needs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_INTERNAL_H
#define CMEK_KMS_INTERNAL_H

#include "nodes/parsenodes.h"

#include "kms/kms.h"

/* kms.c: memory of providers, secret and gone with the call's context */
extern void *cmek_kms_new_secret(Size size);

/* file.c */
extern const CmekKmsProvider cmek_file_provider;

/* aws.c */
extern const CmekKmsProvider cmek_aws_provider;

/*
 * The service key, for what is sealed by a key derived from it.  Made here
 * when "may_make" and no fingerprint of it is known.  False, with the answer
 * filled in, when it cannot be had.
 */
extern bool cmek_service_key_open(const char *expected, bool may_make,
								  CmekInstant deadline, uint8 *key,
								  char *fingerprint, CmekKmsAnswer *answer);

/* gcp.c, vault.c */
extern const CmekKmsProvider cmek_gcp_provider;
extern const CmekKmsProvider cmek_vault_provider;
extern void cmek_gcp_init(void);

/* kmip.c, pkcs11.c */
extern const CmekKmsProvider cmek_kmip_provider;
extern const CmekKmsProvider cmek_pkcs11_provider;

/* azure.c, azureidentity.c */
extern const CmekKmsProvider cmek_azure_provider;
extern void cmek_azure_init(void);

/* aad.c: writes CMEK_KMS_AAD_LEN characters and a NUL */
extern void cmek_kms_aad(const uint8 *uuid, char *aad);

/* Settings of cmek_file */
extern char *cmek_service_key_file;
extern char *cmek_service_key_command;

/* options.c: the body of every validator of ours */
extern void cmek_kms_validate(const CmekKmsProvider *provider,
							  List *options, Oid catalog);

/* ----------
 * optioncheck.c: for the validators of providers; ERROR when it is not so
 * ----------
 */
extern DefElem *cmek_option_find(List *options, const char *name);
extern void cmek_option_check_url(List *options, const char *name);
extern void cmek_option_check_path(List *options, const char *name);
extern void cmek_option_check_name(List *options, const char *name, bool path);
extern void cmek_option_check_one_of(List *options, const char *const *names);
extern void cmek_option_check_needs(List *options, const char *name,
									const char *needed);

/* ----------
 * keyfile.c: key files and the fingerprint in the data directory.  All of it
 * runs in KMS workers and reports by answers, never by ERROR.
 * ----------
 */
#define CMEK_FINGERPRINT_LEN 32 /* hex digits */

typedef enum CmekKeyFileResult
{
	CMEK_KEYFILE_FOUND,
	CMEK_KEYFILE_MISSING,
	CMEK_KEYFILE_FAILED			/* the answer says why */
} CmekKeyFileResult;

extern CmekKeyFileResult cmek_keyfile_read(const char *path, uint8 *key,
										   CmekKmsAnswer *answer);
extern bool cmek_keyfile_create(const char *path, CmekKmsAnswer *answer);
extern bool cmek_keyfile_parse(const char *text, uint8 *key);
extern char *cmek_keyfile_default_path(void);

/* "recorded" becomes "" when the data directory has no fingerprint */
extern bool cmek_fingerprint_read(char *recorded, CmekKmsAnswer *answer);
extern bool cmek_fingerprint_write(const char *fingerprint,
								   CmekKmsAnswer *answer);
extern void cmek_fingerprint_of(const uint8 *key, char *fingerprint);

/*
 * retry.c: in a worker, wait until there is something to read from a process of
 * ours; false when it is time to give up
 */
extern bool cmek_kms_wait_readable(int fd, CmekInstant deadline,
								   uint32 wait_event);

/* command.c: one line out of cmek.service_key_command */
extern bool cmek_command_read_line(const char *command, char *line, Size size,
								   CmekInstant deadline,
								   CmekKmsAnswer *answer);

#endif							/* CMEK_KMS_INTERNAL_H */
