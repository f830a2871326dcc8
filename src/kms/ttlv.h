/*-------------------------------------------------------------------------
 *
 * kms/ttlv.h
 *	  TTLV, the encoding of KMIP (OASIS, KMIP 1.4, section 9.1): bytes in,
 *	  bytes out.
 *
 *	 0		  3		 4		  8			 8+n	  multiple of 8
 *	 +--------+------+--------+----------+--------+
 *	 | tag	  | type | length | value	 | padding|	 all big-endian
 *	 +--------+------+--------+----------+--------+
 *
 * The value of a structure is a sequence of these.  Nothing here allocates,
 * throws, or reads outside of what it was given.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_TTLV_H
#define CMEK_KMS_TTLV_H

#define CMEK_TTLV_HEADER 8

typedef enum CmekTtlvType
{
	CMEK_TTLV_STRUCTURE = 1,
	CMEK_TTLV_INTEGER,
	CMEK_TTLV_LONG,
	CMEK_TTLV_BIG_INTEGER,
	CMEK_TTLV_ENUMERATION,
	CMEK_TTLV_BOOLEAN,
	CMEK_TTLV_TEXT,
	CMEK_TTLV_BYTES,
	CMEK_TTLV_TIME,
	CMEK_TTLV_INTERVAL,
	CMEK_TTLV_LONG_TIME			/* 2.0 */
} CmekTtlvType;

/* Bytes under construction; what does not fit sets "overflow" */
typedef struct CmekTtlv
{
	uint8	   *data;
	Size		size;
	Size		len;
	bool		overflow;
} CmekTtlv;

extern void cmek_ttlv_init(CmekTtlv *to, void *area, Size size);
/* Begin a structure; what it returns ends it */
extern Size cmek_ttlv_open(CmekTtlv *to, uint32 tag);
extern void cmek_ttlv_close(CmekTtlv *to, Size opened);
/* An integer or an enumeration */
extern void cmek_ttlv_add_number(CmekTtlv *to, uint32 tag, CmekTtlvType type,
								 uint32 value);
extern void cmek_ttlv_add_text(CmekTtlv *to, uint32 tag, const char *text);
extern void cmek_ttlv_add_bytes(CmekTtlv *to, uint32 tag, const void *bytes,
								Size len);

/* One item of what was received */
typedef struct CmekTtlvItem
{
	uint32		tag;
	CmekTtlvType type;
	uint32		len;
	const uint8 *value;
} CmekTtlvItem;

/* The length of a whole message, out of its first 8 bytes; 0: it is none */
extern Size cmek_ttlv_message_len(const uint8 *header, uint32 tag);
/*
 * One item that fills all of these bytes, with everything inside of it well
 * formed: types that exist, of their lengths, not too deep, not too many.
 */
extern bool cmek_ttlv_read(const uint8 *data, Size len, CmekTtlvItem *item);

/*
 * For items inside of one that was read: the n-th of a tag in a structure,
 * whatever stands between; and exactly one of a tag and a type.
 */
extern bool cmek_ttlv_nth(const CmekTtlvItem *structure, uint32 tag, int n,
						  CmekTtlvItem *item);
extern bool cmek_ttlv_only(const CmekTtlvItem *structure, uint32 tag,
						   CmekTtlvType type, CmekTtlvItem *item);
extern bool cmek_ttlv_number(const CmekTtlvItem *structure, uint32 tag,
							 CmekTtlvType type, uint32 *value);
extern bool cmek_ttlv_is_text(const CmekTtlvItem *item, const char *text);

#endif							/* CMEK_KMS_TTLV_H */
