/*-------------------------------------------------------------------------
 *
 * kms/text.h
 *	  Building and reading the bytes of requests and answers.
 *
 * Nothing here allocates PostgreSQL memory or throws an ERROR, so that what is
 * built on it can be tested and fuzzed outside of a server.  Every output goes
 * to memory of the caller's, who knows whether it is secret.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_TEXT_H
#define CMEK_KMS_TEXT_H

#include <jansson.h>

/*
 * Text under construction in a fixed area; always ends with a NUL.  What does
 * not fit sets "overflow", which the caller looks at once, at the end.
 */
typedef struct CmekText
{
	char	   *data;
	Size		size;			/* of the area, NUL included */
	Size		len;
	bool		overflow;
} CmekText;

extern void cmek_text_init(CmekText *text, char *area, Size size);
/* kms.c: one in secret memory of a provider's call */
extern CmekText cmek_kms_new_text(Size size);
extern void cmek_text_add(CmekText *text, const char *string);
extern void cmek_text_add_bytes(CmekText *text, const char *bytes, Size len);
extern void cmek_text_printf(CmekText *text, const char *fmt,...) pg_attribute_printf(2, 3);
/* quoted, as a JSON string */
extern void cmek_text_add_json(CmekText *text, const char *string);
/* an address without the slashes at its end */
extern void cmek_text_add_base(CmekText *text, const char *base);
/* percent-encoded but for RFC 3986's unreserved characters */
extern void cmek_text_add_percent(CmekText *text, const char *string);
/* base64 (RFC 4648, 4) with padding */
extern void cmek_text_add_base64(CmekText *text, const uint8 *bytes, Size len);
/* base64url (RFC 4648, 5) without padding */
extern void cmek_text_add_base64url(CmekText *text, const uint8 *bytes,
									Size len);
/* lower-case hexadecimal */
extern void cmek_text_add_hex(CmekText *text, const uint8 *bytes, Size len);

/*
 * Strict base64 with padding: no blanks, no stray bits.  False when it is not
 * that, or does not fit.
 */
extern bool cmek_base64_decode(const char *text, Size textlen,
							   uint8 *out, Size size, Size *len);
/* The same in the alphabet of RFC 4648, 5, without padding */
extern bool cmek_base64url_decode(const char *text, Size textlen,
								  uint8 *out, Size size, Size *len);

/* Can it be a token in a header: not empty, printable, without blanks? */
extern bool cmek_text_is_sendable(const char *token);

/*
 * Copy a text into a message that everybody may read: control characters
 * become '?', and what is too long is cut.
 */
extern void cmek_text_printable(char *out, Size size, const char *text);

/*
 * A date and time in UTC as seconds since 1970; false when there is no such
 * time (February is not looked at closely).
 */
extern bool cmek_epoch(int year, int month, int day, int hour, int minute,
					   int second, int64 *seconds);
/* "2015-08-30T12:36:00Z" (RFC 3339), in UTC, with or without a fraction */
extern bool cmek_parse_timestamp(const char *text, int64 *seconds);

/* ----------
 * JSON answers.  A value is the caller's to json_decref.  Parsed JSON may hold
 * secrets: see cmek_json_protect.
 * ----------
 */

/* From here on jansson cleanses what it frees, in this process */
extern void cmek_json_protect(void);

/* An object, or NULL when it is anything else: no duplicates, no trailing text */
extern json_t *cmek_json_object(const char *text, Size len);

/*
 * A member of an object.  False when it is absent or of another type, when a
 * string has a NUL inside or does not fit, and when base64 is not strict.
 */
extern bool cmek_json_string(const json_t *object, const char *name,
							 char *out, Size size);
extern bool cmek_json_integer(const json_t *object, const char *name,
							  int64 *out);
extern bool cmek_json_bool(const json_t *object, const char *name, bool *out);
extern bool cmek_json_base64(const json_t *object, const char *name,
							 uint8 *out, Size size, Size *len);

#endif							/* CMEK_KMS_TEXT_H */
