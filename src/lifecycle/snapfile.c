/*-------------------------------------------------------------------------
 *
 * snapfile.c
 *	  The file of a snapshot: a stream of blocks, written and read once, from
 *	  begin to end, in constant memory.  The bytes are drawn in format.h.
 *
 * Nothing that is read is believed before its block's checksum fitted and its
 * lengths are inside the block; and nothing may be made of it for good before
 * the tail was reached, where the digest of the whole has to fit.  What is not
 * as we write it is an ERROR of data_corrupted.
 *
 * Only this file knows blocks; it touches no table and no key but the backup
 * key it is given.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "port/pg_crc32c.h"
#include "utils/memutils.h"

#include "compat.h"
#include "crypto/crypto.h"
#include "lifecycle/snapshot.h"

/* Rows and chunks are gathered to blocks of about this size */
#define BLOCK_FILL (256 * 1024)
/* None of them is longer, and no block of JSON than that */
#define BLOCK_MAX (2 * BLOCK_FILL)
#define JSON_MAX (16 * 1024 * 1024)

struct CmekSnapWriter
{
	MemoryContext context;		/* of all of it */
	CmekStoreFile *file;
	CmekAead   *backup;			/* NULL: blocks are not sealed once more */
	pg_cryptohash_ctx *hash;
	uint32		number;			/* of the next block */
	const char *type;			/* of the block that is being gathered */
	StringInfoData block;
	StringInfoData sealed;
	CmekSnapTotals totals;
};

struct CmekSnapReader
{
	MemoryContext context;
	CmekStoreFile *file;
	const char *name;			/* for messages */
	CmekAead   *backup;
	pg_cryptohash_ctx *hash;
	uint32		number;
	char		type[5];
	StringInfoData raw;			/* the payload as it is in the file */
	StringInfoData block;		/* and opened; its cursor is where we are */
	json_t	   *head;
	CmekSnapTail tail;
	CmekSnapTotals totals;
};

/* Free what is not memory of a context. */
static void
free_foreign(CmekAead *backup, pg_cryptohash_ctx *hash, json_t *head)
{
	if (backup != NULL)
		cmek_aead_free(backup);
	if (hash != NULL)
		pg_cryptohash_free(hash);
	json_decref(head);
}

/* A context for SHA-256. */
static pg_cryptohash_ctx *
new_hash(void)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL || pg_cryptohash_init(hash) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not compute SHA-256")));
	return hash;
}

/* The associated data of a sealed block. */
static CmekSnapAad
block_aad(const char *type, uint32 number)
{
	CmekSnapAad aad = {{0}, {0}, number};

	strlcpy(aad.domain, CMEK_SNAP_DOMAIN, sizeof(aad.domain));
	memcpy(aad.type, type, sizeof(aad.type));
	return aad;
}

/* How long a block of a type may be: JSON takes some 30 times as much memory. */
static uint32
longest_block(const char *type)
{
	return memcmp(type, "HEAD", 4) == 0 || memcmp(type, "DEFN", 4) == 0 ?
		JSON_MAX : BLOCK_MAX;
}

/* The checksum of a block. */
static uint32
block_crc(const CmekSnapBlock *header, const void *payload)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header->type, sizeof(header->type));
	COMP_CRC32C(crc, &header->length, sizeof(header->length));
	COMP_CRC32C(crc, payload, header->length);
	FIN_CRC32C(crc);
	return crc;
}

/* A MAC of the whole, under one of the keys. */
static void
compute_mac(const CmekSnapTotals *totals, const uint8 *key, uint8 *mac)
{
	CmekSnapMac text = {{0}, totals->rows, totals->chunks, {0}};

	strlcpy(text.domain, CMEK_SNAP_DOMAIN, sizeof(text.domain));
	memcpy(text.digest, totals->digest, sizeof(text.digest));
	cmek_hmac_sha256(key, CMEK_KEY_LEN, &text, sizeof(text), mac);
}

/* ----------
 * Writing
 * ----------
 */

/* Write bytes that count for the digest. */
static void
put(CmekSnapWriter *w, const void *data, Size len)
{
	if (pg_cryptohash_update(w->hash, data, len) < 0)
		elog(ERROR, "could not compute SHA-256");
	cmek_store_write(w->file, data, len);
	w->totals.bytes += len;
}

/* Write one block as it is. */
static void
put_block(CmekSnapWriter *w, const char *type, const void *payload, Size len)
{
	CmekSnapBlock header = {{0}, len, 0, 0};

	if (len > longest_block(type))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the definition of the table is too long for a snapshot")));
	memcpy(header.type, type, sizeof(header.type));
	header.crc = block_crc(&header, payload);
	put(w, &header, sizeof(header));
	put(w, payload, len);
	w->number++;
}

/* Write one block, sealed when there is a backup key. */
static void
put_hidden_block(CmekSnapWriter *w, const char *type, const void *payload,
				 Size len)
{
	CmekSnapAad aad = block_aad(type, w->number);

	if (w->backup == NULL)
	{
		put_block(w, type, payload, len);
		return;
	}
	resetStringInfo(&w->sealed);
	enlargeStringInfo(&w->sealed, len + CMEK_AEAD_OVERHEAD);
	cmek_aead_seal(w->backup, (uint8 *) w->sealed.data, payload, len, &aad, sizeof(aad));
	put_block(w, type, w->sealed.data, len + CMEK_AEAD_OVERHEAD);
}

/* Write the block that was gathered. */
static void
flush_block(CmekSnapWriter *w)
{
	if (w->block.len > 0)
		put_hidden_block(w, w->type, w->block.data, w->block.len);
	resetStringInfo(&w->block);
}

/* Have room for an item in a block of this type. */
static void
begin_item(CmekSnapWriter *w, const char *type, Size len)
{
	if (w->type != type || w->block.len + len > BLOCK_FILL)
		flush_block(w);
	w->type = type;
}

/* Write JSON as a block. */
static void
put_json(CmekSnapWriter *w, const char *type, json_t *json, bool hidden)
{
	char	   *text = json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not write the definition of a table as JSON")));
	resetStringInfo(&w->block);
	appendStringInfoString(&w->block, text);
	free(text);
	if (hidden)
		put_hidden_block(w, type, w->block.data, w->block.len);
	else
		put_block(w, type, w->block.data, w->block.len);
	resetStringInfo(&w->block);
}

/* See snapshot.h. */
CmekSnapWriter *
cmek_snap_create(CmekStore *store, const char *name, json_t *head,
				 const uint8 *backup_key)
{
	CmekSnapFileHeader header = {{0}, CMEK_SNAP_VERSION, CMEK_SNAP_ORDER,
	MAXIMUM_ALIGNOF, 0};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek snapshot writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CmekSnapWriter *w = palloc0(sizeof(CmekSnapWriter));

	memcpy(header.magic, CMEK_SNAP_MAGIC, sizeof(header.magic));
	w->context = context;
	w->type = "";
	initStringInfo(&w->block);
	initStringInfo(&w->sealed);
	w->hash = new_hash();
	if (backup_key != NULL)
		w->backup = cmek_aead_create(backup_key);
	w->file = cmek_store_create(store, name);
	put(w, &header, sizeof(header));
	put_json(w, "HEAD", head, false);
	MemoryContextSwitchTo(old);
	return w;
}

/* See snapshot.h. */
void
cmek_snap_manifest(CmekSnapWriter *w, json_t *manifest)
{
	put_json(w, "DEFN", manifest, true);
}

/* See snapshot.h. */
void
cmek_snap_row(CmekSnapWriter *w, const void *sealed, uint32 len)
{
	begin_item(w, "ROWS", sizeof(len) + len);
	appendBinaryStringInfo(&w->block, (const char *) &len, sizeof(len));
	appendBinaryStringInfo(&w->block, sealed, len);
	w->totals.rows++;
}

/* See snapshot.h. */
void
cmek_snap_chunk(CmekSnapWriter *w, uint32 value_id, uint32 chunk,
				const void *sealed, uint32 len)
{
	CmekSnapChunk header = {len, value_id, chunk};

	begin_item(w, "CHNK", sizeof(header) + len);
	appendBinaryStringInfo(&w->block, (const char *) &header, sizeof(header));
	appendBinaryStringInfo(&w->block, sealed, len);
	w->totals.chunks++;
}

/* See snapshot.h. */
void
cmek_snap_finish(CmekSnapWriter *w, const uint8 *service_mac_key,
				 const uint8 *table_mac_key, CmekSnapTotals *totals)
{
	CmekSnapTail tail = {0};

	flush_block(w);
	if (pg_cryptohash_final(w->hash, w->totals.digest,
							sizeof(w->totals.digest)) < 0 ||
		pg_cryptohash_init(w->hash) < 0)
		elog(ERROR, "could not compute SHA-256");
	tail.rows = w->totals.rows;
	tail.chunks = w->totals.chunks;
	memcpy(tail.digest, w->totals.digest, sizeof(tail.digest));
	compute_mac(&w->totals, service_mac_key, tail.service_mac);
	if (table_mac_key != NULL)
		compute_mac(&w->totals, table_mac_key, tail.table_mac);
	put_block(w, "TAIL", &tail, sizeof(tail));
	cmek_store_finish(w->file);
	*totals = w->totals;
	free_foreign(w->backup, w->hash, NULL);
	MemoryContextDelete(w->context);
}

/* See snapshot.h. */
void
cmek_snap_abandon(CmekSnapWriter *w)
{
	cmek_store_abandon(w->file);
	free_foreign(w->backup, w->hash, NULL);
	MemoryContextDelete(w->context);
}

/* ----------
 * Reading
 * ----------
 */

/* Fail because the file is not what we once wrote. */
static void
report_damaged(const CmekSnapReader *r, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("snapshot \"%s\" is damaged or forged", r->name),
			 errdetail("%s", detail)));
}

/* Read bytes that must be there. */
static void
get(CmekSnapReader *r, void *data, Size len)
{
	if (cmek_store_read(r->file, data, len) != len)
		report_damaged(r, "It ends too early.");
	r->totals.bytes += len;
}

/* Count bytes for the digest. */
static void
digest(CmekSnapReader *r, const void *data, Size len)
{
	if (pg_cryptohash_update(r->hash, data, len) < 0)
		elog(ERROR, "could not compute SHA-256");
}

/* Open the payload of a block when there is a backup key. */
static void
open_block(CmekSnapReader *r, bool hidden)
{
	CmekSnapAad aad = block_aad(r->type, r->number);
	Size		len;

	resetStringInfo(&r->block);
	if (r->backup == NULL || !hidden)
	{
		appendBinaryStringInfo(&r->block, r->raw.data, r->raw.len);
		return;
	}
	if (r->raw.len < (int) CMEK_AEAD_OVERHEAD)
		report_damaged(r, "A sealed block is too short.");
	len = r->raw.len - CMEK_AEAD_OVERHEAD;
	enlargeStringInfo(&r->block, len);
	if (!cmek_aead_open(r->backup, r->block.data, (uint8 *) r->raw.data, len,
						&aad, sizeof(aad)))
		report_damaged(r, "A block does not authenticate under the backup key.");
	r->block.len = len;
	r->block.data[len] = '\0';
}

/* Read the next block, whatever it is; its bytes count unless it is the tail */
static void
read_block(CmekSnapReader *r)
{
	CmekSnapBlock header;

	get(r, &header, sizeof(header));
	if (header.length > longest_block(header.type) || header.zero != 0)
		report_damaged(r, "The header of a block is damaged.");
	resetStringInfo(&r->raw);
	enlargeStringInfo(&r->raw, header.length);
	get(r, r->raw.data, header.length);
	r->raw.len = header.length;
	r->raw.data[header.length] = '\0';
	if (block_crc(&header, r->raw.data) != header.crc)
		report_damaged(r, "The checksum of a block does not fit.");
	memcpy(r->type, header.type, sizeof(header.type));
	if (strcmp(r->type, "TAIL") != 0)
	{
		digest(r, &header, sizeof(header));
		digest(r, r->raw.data, r->raw.len);
	}
}

/* Read a block of JSON that must come now. */
static json_t *
read_json(CmekSnapReader *r, const char *type, bool hidden)
{
	json_error_t error;
	json_t	   *json;

	read_block(r);
	if (strcmp(r->type, type) != 0)
		report_damaged(r, "Its blocks are not in their order.");
	open_block(r, hidden);
	r->number++;
	json = json_loadb(r->block.data, r->block.len, JSON_REJECT_DUPLICATES,
					  &error);
	resetStringInfo(&r->block);
	if (!json_is_object(json))
		report_damaged(r, "Its JSON is damaged.");
	return json;
}

/* Check the first bytes of the file. */
static void
check_file_header(CmekSnapReader *r)
{
	CmekSnapFileHeader header;

	get(r, &header, sizeof(header));
	if (memcmp(header.magic, CMEK_SNAP_MAGIC, sizeof(header.magic)) != 0)
		report_damaged(r, "It is no snapshot of cmek.");
	if (header.order != CMEK_SNAP_ORDER || header.align != MAXIMUM_ALIGNOF)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("snapshot \"%s\" is of another kind of machine",
						r->name)));
	if (header.version != CMEK_SNAP_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("snapshot \"%s\" is of format version %u, which this release does not know",
						r->name, header.version),
				 errhint("Restore it with the release of cmek that made it, or a later one.")));
	if (header.zero != 0)
		report_damaged(r, "The header of the file is damaged.");
	digest(r, &header, sizeof(header));
}

/* See snapshot.h. */
CmekSnapReader *
cmek_snap_open(CmekStore *store, const char *name)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek snapshot reader",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CmekSnapReader *r = palloc0(sizeof(CmekSnapReader));

	r->context = context;
	r->name = pstrdup(name);
	initStringInfo(&r->raw);
	initStringInfo(&r->block);
	r->hash = new_hash();
	r->file = cmek_store_read_begin(store, name);
	check_file_header(r);
	r->head = read_json(r, "HEAD", false);
	MemoryContextSwitchTo(old);
	return r;
}

/* See snapshot.h. */
const json_t *
cmek_snap_head(CmekSnapReader *r)
{
	return r->head;
}

/* See snapshot.h. */
json_t *
cmek_snap_read_manifest(CmekSnapReader *r, const uint8 *backup_key)
{
	if (backup_key != NULL)
		r->backup = cmek_aead_create(backup_key);
	return read_json(r, "DEFN", true);
}

/* Check the tail against what was read. */
static void
check_tail(CmekSnapReader *r)
{
	char		beyond;

	if (r->raw.len != sizeof(CmekSnapTail))
		report_damaged(r, "Its tail is damaged.");
	memcpy(&r->tail, r->raw.data, sizeof(CmekSnapTail));
	if (pg_cryptohash_final(r->hash, r->totals.digest,
							sizeof(r->totals.digest)) < 0 ||
		pg_cryptohash_init(r->hash) < 0)
		elog(ERROR, "could not compute SHA-256");
	if (memcmp(r->tail.digest, r->totals.digest, sizeof(r->tail.digest)) != 0 ||
		r->tail.rows != r->totals.rows || r->tail.chunks != r->totals.chunks)
		report_damaged(r, "The digest of the whole does not fit.");
	if (cmek_store_read(r->file, &beyond, 1) != 0)
		report_damaged(r, "There is more after its end.");
}

/* Bytes of the block that are there to be read; false at its end. */
static const void *
take(CmekSnapReader *r, Size len)
{
	const void *data = r->block.data + r->block.cursor;

	if ((Size) (r->block.len - r->block.cursor) < len)
		report_damaged(r, "An item is longer than its block.");
	r->block.cursor += len;
	return data;
}

/* The next item of a block of chunks. */
static CmekSnapItem
take_chunk(CmekSnapReader *r, CmekSnapRecord *record)
{
	CmekSnapChunk header;

	memcpy(&header, take(r, sizeof(header)), sizeof(header));
	record->value_id = header.value_id;
	record->chunk = header.chunk;
	record->len = header.length;
	record->data = take(r, header.length);
	r->totals.chunks++;
	return CMEK_SNAP_CHUNK;
}

/* The next item of a block of rows. */
static CmekSnapItem
take_row(CmekSnapReader *r, CmekSnapRecord *record)
{
	memset(record, 0, sizeof(CmekSnapRecord));
	memcpy(&record->len, take(r, sizeof(uint32)), sizeof(uint32));
	record->data = take(r, record->len);
	r->totals.rows++;
	return CMEK_SNAP_ROW;
}

/* See snapshot.h. */
CmekSnapItem
cmek_snap_next(CmekSnapReader *r, CmekSnapRecord *record)
{
	while (r->block.cursor >= r->block.len)
	{
		read_block(r);
		if (strcmp(r->type, "TAIL") == 0)
		{
			check_tail(r);
			return CMEK_SNAP_END;
		}
		if (strcmp(r->type, "CHNK") != 0 && strcmp(r->type, "ROWS") != 0)
			report_damaged(r, "Its blocks are not in their order.");
		if (strcmp(r->type, "CHNK") == 0 && r->totals.rows > 0)
			report_damaged(r, "Its blocks are not in their order.");
		open_block(r, true);
		r->number++;
	}
	return strcmp(r->type, "CHNK") == 0 ? take_chunk(r, record) :
		take_row(r, record);
}

/* See snapshot.h. */
const CmekSnapTotals *
cmek_snap_totals(CmekSnapReader *r)
{
	return &r->totals;
}

/* See snapshot.h. */
bool
cmek_snap_mac_fits(CmekSnapReader *r, bool of_table, const uint8 *mac_key)
{
	uint8		mac[32];

	compute_mac(&r->totals, mac_key, mac);
	return cmek_equal(mac, of_table ? r->tail.table_mac : r->tail.service_mac,
					  sizeof(mac));
}

/* See snapshot.h. */
void
cmek_snap_close(CmekSnapReader *r)
{
	cmek_store_read_end(r->file);
	free_foreign(r->backup, r->hash, r->head);
	MemoryContextDelete(r->context);
}
