/*-------------------------------------------------------------------------
 *
 * format.h
 *	  The bytes cmek writes to disk, all of them, and their sizes.
 *
 * This header owns every on-disk layout.  Nothing else in the tree may know
 * an offset of a sealed value.  No setting changes how bytes are read; a new
 * layout gets a new number in cmek.data_key.format.
 *
 * A sealed row is an ordinary heap tuple with no attributes (natts = 0), so
 * that whatever in core deforms it sees NULLs and never takes ciphertext for
 * a length:
 *
 *	 0						 23  24		 28		  40		   40+n	   56+n
 *	 +------------------------+---+--------+--------+-----------+--------+
 *	 | HeapTupleHeaderData	  |pad| DEK id | nonce	| ciphertext| tag	 |
 *	 +------------------------+---+--------+--------+-----------+--------+
 *
 * where the n bytes of plaintext are the logical tuple from t_infomask2 (at
 * offset 18) to its end: the number of attributes, the NULL bitmap and every
 * length are inside the tag.  The bits of t_infomask and t_infomask2 that
 * MVCC changes in place are read from the outside, all others from the inside.
 *
 * A sealed TOAST chunk is the chunk_data of an ordinary TOAST row:
 *
 *	 0		  4		   16		   16+n		32+n
 *	 +--------+--------+-----------+--------+
 *	 | DEK id | nonce  | ciphertext| tag	|
 *	 +--------+--------+-----------+--------+
 *
 * A sealed datum of an index names no DEK: an index has exactly one.  That of a
 * type of fixed length (up to CMEK_INDEX_FIXED_MAX) has a fixed length itself,
 * and begins anywhere:
 *
 *	 0			12			 12+n	  28+n
 *	 +---------+-----------+--------+
 *	 | nonce   | ciphertext| tag	|
 *	 +---------+-----------+--------+
 *
 * Any other is a varlena, with the header that its length asks for:
 *
 *	 0		   1 or 4	  13 or 16	  +n		  +16
 *	 +---------+--------+-----------+--------+
 *	 | header  | nonce	| ciphertext| tag	 |
 *	 +---------+--------+-----------+--------+
 *
 * The plaintext is what stock nbtree would store for the column: a varlena
 * with its header (short where it can be, compressed where it would be), the
 * bytes of a fixed-length value, a cstring with its zero.  NULLs are NULLs.
 * Unless the index was made with hide_tids = off, t_tid of its leaf tuples is
 * the row's TID (block << 12 | offset) under a permutation keyed by the DEK.
 *
 * A wrapped data key is nonce | ciphertext (32) | tag, and so is an older table
 * key of a table, sealed under the one that followed it.
 *
 * Integers are in the byte order of the server, as in every PostgreSQL data
 * file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_FORMAT_H
#define CMEK_FORMAT_H

#include "access/heaptoast.h"
#include "access/htup_details.h"

/* cmek.data_key.format: the layouts drawn above */
#define CMEK_FORMAT_VERSION 1

#define CMEK_KEY_LEN	32		/* AES-256 */
#define CMEK_NONCE_LEN	12		/* 96 bit, random (NIST SP 800-38D, 8.2.2) */
#define CMEK_TAG_LEN	16		/* 128 bit */
#define CMEK_UUID_LEN	16

/* What a sealed value costs beyond its plaintext, without the DEK id */
#define CMEK_AEAD_OVERHEAD (CMEK_NONCE_LEN + CMEK_TAG_LEN)

/* nonce | wrapped key | tag */
#define CMEK_WRAPPED_DEK_LEN (CMEK_KEY_LEN + CMEK_AEAD_OVERHEAD)
#define CMEK_SEALED_TABLE_KEY_LEN (CMEK_KEY_LEN + CMEK_AEAD_OVERHEAD)

/* DEK id | nonce | ciphertext | tag */
typedef struct CmekSealedHeader
{
	uint32		dek_id;
	uint8		nonce[CMEK_NONCE_LEN];
} CmekSealedHeader;

#define CMEK_SEAL_OVERHEAD (sizeof(CmekSealedHeader) + CMEK_TAG_LEN)

/* Row */
#define CMEK_ROW_HOFF	MAXALIGN(SizeofHeapTupleHeader)
#define CMEK_ROW_CLEAR	offsetof(HeapTupleHeaderData, t_infomask2)
/* how many bytes longer than its logical tuple a sealed row is */
#define CMEK_ROW_OVERHEAD (CMEK_ROW_HOFF + CMEK_SEAL_OVERHEAD - CMEK_ROW_CLEAR)

/* TOAST: plaintext bytes in a full chunk */
#define CMEK_CHUNK_PLAIN (TOAST_MAX_CHUNK_SIZE - CMEK_SEAL_OVERHEAD)

/*
 * Associated data.  Each struct is hashed as it lies in memory, so it must
 * have no padding.  Those of rows and index keys are one block of AES long,
 * and do not repeat the DEK id: it chooses the key, and under another key
 * nothing authenticates (crypto/README).
 */
typedef struct CmekRowAad
{
	uint8		structure[CMEK_UUID_LEN];
} CmekRowAad;

typedef struct CmekChunkAad
{
	uint32		dek_id;
	uint8		structure[CMEK_UUID_LEN];
	uint32		value_id;		/* chunk_id */
	uint32		chunk;			/* chunk_seq */
	uint32		total;			/* bytes of the whole value, as stored */
} CmekChunkAad;

typedef struct CmekIndexAad
{
	uint8		structure[CMEK_UUID_LEN - sizeof(uint32)];	/* its head */
	uint32		column;			/* from 1; CMEK_INDEX_INCLUDED added */
} CmekIndexAad;

/* The length of a sealed datum, of a type's; -1: a varlena */
#define CMEK_INDEX_FIXED_MAX 256
#define CMEK_INDEX_SEALED_LEN(typlen) \
	((typlen) > 0 && (typlen) <= CMEK_INDEX_FIXED_MAX ? \
	 (typlen) + CMEK_AEAD_OVERHEAD : -1)

/* A column that is stored only, not sorted by */
#define CMEK_INDEX_INCLUDED 0x10000

/* Part of CmekWrapAad.kind: TIDs of this index are permuted */
#define CMEK_WRAP_TIDS_HIDDEN 0x100

typedef struct CmekWrapAad
{
	uint32		dek_id;
	uint32		kind;			/* CmekStructureKind and flags */
	uint8		structure[CMEK_UUID_LEN];
	uint8		table_key[CMEK_UUID_LEN];
} CmekWrapAad;

/*
 * A row of planner statistics, in cmek.statistic.sealed.  It is sealed once for
 * each table in "sealed_by": what the first layer hides is the second, and so
 * on.  Each layer is laid out as a chunk, and what the last one hides is this
 * header and the row of pg_statistic that ANALYZE computed, from its tuple
 * header to its end.  Nobody reads those of another major version.
 */
typedef struct CmekStatisticHeader
{
	uint32		server_version; /* major */
	uint32		type;			/* of the column, when it was analyzed */
	int32		typmod;
	uint32		collation;
} CmekStatisticHeader;

typedef struct CmekStatisticAad
{
	uint32		dek_id;
	uint8		structure[CMEK_UUID_LEN];
	uint32		relid;			/* the table or index */
	uint32		column;			/* from 1; CMEK_STATISTIC_INHERITED added */
	uint32		layer;			/* from 0, the outermost */
} CmekStatisticAad;

#define CMEK_STATISTIC_INHERITED 0x10000

/* The chain of table keys: an older one sealed under a newer one */
#define CMEK_CHAIN_DOMAIN "cmek table key chain 1"

typedef struct CmekChainAad
{
	char		domain[32];		/* CMEK_CHAIN_DOMAIN, then zeros */
	uint8		table_key[CMEK_UUID_LEN];	/* the one that is sealed */
	uint8		sealed_by[CMEK_UUID_LEN];
	uint8		row[32];		/* digest of the rest of its row */
} CmekChainAad;

/* Provider cmek_file wraps a table key as it were a data key: nonce | key | tag */
#define CMEK_FILE_WRAP_DOMAIN "cmek_file table key 1"

typedef struct CmekFileWrapAad
{
	char		domain[32];		/* CMEK_FILE_WRAP_DOMAIN, then zeros */
	uint8		uuid[CMEK_UUID_LEN];
} CmekFileWrapAad;

/*
 * Provider cmek_azure: the KMS binds no context, so a table key is sealed under
 * a key that is made for it alone, and the KMS wraps that one:
 *
 *	 header 36 | wrapped key | nonce 12 | table key 32 | tag 16
 */
#define CMEK_AZURE_WRAP_DOMAIN "cmek_azure table key 1"
#define CMEK_AZURE_BLOB_LAYOUT 1
#define CMEK_AZURE_VERSION_LEN 32

typedef struct CmekAzureBlobHeader
{
	uint8		layout;			/* CMEK_AZURE_BLOB_LAYOUT */
	uint8		algorithm;		/* CmekAzureAlgorithm (kms/azurewire.h) */
	uint8		wrapped_len[2]; /* high byte first */
	char		version[CMEK_AZURE_VERSION_LEN];	/* of the KMS key, then
													 * zeros */
} CmekAzureBlobHeader;

typedef struct CmekAzureWrapAad
{
	char		domain[32];		/* CMEK_AZURE_WRAP_DOMAIN, then zeros */
	uint8		uuid[CMEK_UUID_LEN];
	CmekAzureBlobHeader header;
} CmekAzureWrapAad;

/*
 * In the place of a wrapped table key: the wish for a key derived from the
 * service key.  This text, then a label that says what for.
 */
#define CMEK_DERIVE_PREFIX "cmek derived key 1: "

/*
 * KMSs that take associated data get this text for it, which binds a wrapped
 * table key to its uuid; they write it into their audit logs.
 */
#define CMEK_KMS_AAD_PREFIX "cmek table key "
#define CMEK_KMS_AAD_LEN (15 + 36)

/*
 * A table key wrapped by cmek_pkcs11 or cmek_kmip: AES-GCM of the key at the
 * provider, with the text above as associated data.
 */
#define CMEK_HSM_IV_LEN 12
#define CMEK_HSM_TAG_LEN 16

typedef struct CmekHsmBlob
{
	uint8		iv[CMEK_HSM_IV_LEN];
	uint8		ciphertext[CMEK_KEY_LEN];
	uint8		tag[CMEK_HSM_TAG_LEN];
} CmekHsmBlob;

/*
 * <data_directory>.cmek/refused_pins: this header, then for each PIN that a
 * token refused HMAC-SHA256 under the salt of module, token and PIN.
 */
#define CMEK_REFUSED_PIN_MAGIC "cmek refused PIN"
#define CMEK_REFUSED_PIN_LEN 32

typedef struct CmekRefusedPins
{
	char		magic[16];
	uint8		salt[CMEK_REFUSED_PIN_LEN];
} CmekRefusedPins;

/*
 * A secret option of a user mapping, in the catalog:
 *
 *	 cmek-sealed:1:<fingerprint of the service key>:<base64>
 *
 * where the base64 is nonce | secret | tag under a key derived from the service
 * key by HKDF-Expand (RFC 5869) with CMEK_OPTION_DOMAIN as its info.
 */
#define CMEK_SEALED_OPTION_PREFIX "cmek-sealed:1:"
#define CMEK_OPTION_DOMAIN "cmek user mapping option 1"

typedef struct CmekOptionAad
{
	char		domain[32];		/* CMEK_OPTION_DOMAIN, then zeros */
	char		provider[NAMEDATALEN];	/* then zeros */
	char		option[NAMEDATALEN];	/* then zeros */
} CmekOptionAad;

/*
 * A snapshot of a table (lifecycle/snapfile.c): this header, then blocks.
 *
 *	 block:  type 4 | length 4 | CRC-32C 4 | zero 4 | payload
 *
 * The CRC is of type, length and payload.  In their order:
 *
 *	 HEAD	JSON in clear: what the snapshot is of, and how it is sealed
 *	 DEFN	JSON: the definition of the table and its wrapped keys
 *	 CHNK	chunks of out-of-line values, each CmekSnapChunk | sealed chunk
 *	 ROWS	rows, each length 4 | sealed row from its DEK id on
 *	 TAIL	CmekSnapTail
 *
 * HEAD and DEFN have at most 16 MB, other blocks 512 kB, as they are in the file.
 * CHNK and ROWS blocks come as often as it takes.  With a backup key the
 * payloads of DEFN, CHNK and ROWS are nonce | ciphertext | tag under it,
 * AAD CmekSnapAad.
 */
#define CMEK_SNAP_MAGIC "cmeksnap"
#define CMEK_SNAP_VERSION 1
#define CMEK_SNAP_ORDER 0x01020304
#define CMEK_SNAP_DOMAIN "cmek snapshot 1"

typedef struct CmekSnapFileHeader
{
	char		magic[8];
	uint32		version;
	uint32		order;			/* CMEK_SNAP_ORDER, as this server writes it */
	uint32		align;			/* MAXIMUM_ALIGNOF */
	uint32		zero;
} CmekSnapFileHeader;

typedef struct CmekSnapBlock
{
	char		type[4];
	uint32		length;			/* of the payload */
	uint32		crc;
	uint32		zero;
} CmekSnapBlock;

typedef struct CmekSnapChunk
{
	uint32		length;			/* of the sealed chunk */
	uint32		value_id;		/* chunk_id */
	uint32		chunk;			/* chunk_seq */
} CmekSnapChunk;

typedef struct CmekSnapTail
{
	int64		rows;
	int64		chunks;
	uint8		digest[32];		/* SHA-256 of all that is before the block */
	uint8		service_mac[32];	/* CmekSnapMac under the service's key */
	uint8		table_mac[32];	/* the same under the table's, or zeros */
} CmekSnapTail;

/* What the MACs (HMAC-SHA256) are of */
typedef struct CmekSnapMac
{
	char		domain[32];		/* CMEK_SNAP_DOMAIN, then zeros */
	int64		rows;
	int64		chunks;
	uint8		digest[32];
} CmekSnapMac;

typedef struct CmekSnapAad
{
	char		domain[32];		/* CMEK_SNAP_DOMAIN, then zeros */
	char		type[4];		/* of the block */
	uint32		number;			/* of the block, from 0 */
} CmekSnapAad;

StaticAssertDecl(sizeof(CmekSnapFileHeader) == 24, "snapshot file header");
StaticAssertDecl(sizeof(CmekSnapBlock) == 16, "snapshot block header");
StaticAssertDecl(sizeof(CmekSnapChunk) == 12, "snapshot chunk header");
StaticAssertDecl(sizeof(CmekSnapTail) == 112, "snapshot tail");
StaticAssertDecl(sizeof(CmekSnapMac) == 80, "snapshot MAC has no padding");
StaticAssertDecl(sizeof(CmekSnapAad) == 40, "snapshot AAD has no padding");

StaticAssertDecl(CMEK_ROW_CLEAR == 18, "the MVCC part of a tuple header is 18 bytes");
StaticAssertDecl(CMEK_ROW_HOFF == 24, "a sealed row has 24 bytes of header");
StaticAssertDecl(sizeof(CmekSealedHeader) == 16, "sealed header");
StaticAssertDecl(CMEK_SEAL_OVERHEAD == 32, "seal overhead");
StaticAssertDecl(sizeof(CmekRowAad) == 16, "row AAD is one block");
StaticAssertDecl(sizeof(CmekChunkAad) == 32, "chunk AAD has no padding");
StaticAssertDecl(sizeof(CmekIndexAad) == 16, "index AAD is one block");
StaticAssertDecl(sizeof(CmekWrapAad) == 40, "wrap AAD has no padding");

StaticAssertDecl(sizeof(CmekStatisticHeader) == 16, "statistics header");
StaticAssertDecl(sizeof(CmekStatisticAad) == 32, "statistics AAD has no padding");
StaticAssertDecl(sizeof(CmekChainAad) == 96, "chain AAD has no padding");
StaticAssertDecl(sizeof(CmekFileWrapAad) == 48, "file wrap AAD has no padding");
StaticAssertDecl(sizeof(CmekHsmBlob) == 60, "wrapped key of an HSM has no padding");
StaticAssertDecl(sizeof(CmekRefusedPins) == 48, "header of refused PINs has no padding");
StaticAssertDecl(sizeof(CmekAzureBlobHeader) == 36, "Azure blob header has no padding");
StaticAssertDecl(sizeof(CmekAzureWrapAad) == 84, "Azure wrap AAD has no padding");
StaticAssertDecl(sizeof(CmekOptionAad) == 32 + 2 * NAMEDATALEN, "option AAD has no padding");

#endif							/* CMEK_FORMAT_H */
