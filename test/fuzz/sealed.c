/*-------------------------------------------------------------------------
 *
 * sealed.c
 *	  Sealed rows, sealed chunks and wrapped data keys, edited.
 *
 * What holds: it opens if and only if no byte of it was changed, and then
 * says what was sealed.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "heap/internal.h"
#include "keys/internal.h"

#define CHUNK_LEN 100
#define VALUE_ID 4711
#define VALUE_LEN (2 * (int32) CMEK_CHUNK_PLAIN + CHUNK_LEN)

static CmekDek deks[2];
static CmekKeyRing ring;

/* A ring that nobody can load anew, with a data key of each kind. */
static CmekKeyRing *
ring_for_tests(void)
{
	if (ring.valid)
		return &ring;
	for (int i = 0; i < 2; i++)
	{
		uint8		key[CMEK_KEY_LEN];

		memset(key, 0x11 * (i + 1), sizeof(key));
		deks[i].id = i + 1;
		deks[i].kind = i == 0 ? CMEK_STRUCTURE_HEAP : CMEK_STRUCTURE_TOAST;
		deks[i].current = true;
		memset(deks[i].structure, 0x40 + i, CMEK_UUID_LEN);
		deks[i].aead = cmek_aead_create_with(key, CMEK_CRYPTO_OPENSSL);
		deks[i].seals_left = PG_INT64_MAX;
	}
	ring.deks = deks;
	ring.ndeks = 2;
	ring.heap = &deks[0];
	ring.toast = &deks[1];
	ring.valid = true;
	return &ring;
}

/* A few edits, and where to cut. */
static int
seed_edits(int i, uint8 *seed)
{
	static const uint8 seeds[][9] = {
		{0, 0, 0, 0, 0}, {0, 0, 24, 0, 1}, {0, 0, 18, 0, 0x80},
		{10, 0, 60, 0, 1, 22, 0, 255}, {255, 255, 28, 0, 2, 19, 0, 7}
	};

	if (i >= lengthof(seeds))
		return -1;
	memcpy(seed, seeds[i], sizeof(seeds[i]));
	return sizeof(seeds[i]);
}

/* A well-formed row of two columns, the second of a length. */
static HeapTuple
logical_row(int len)
{
	TupleDesc	desc = CreateTemplateTupleDesc(2);
	Datum		values[2];
	bool		nulls[2] = {len == 0, false};
	text	   *value = palloc0(VARHDRSZ + len);

	TupleDescInitEntry(desc, 1, "a", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 2, "b", TEXTOID, -1, 0);
	SET_VARSIZE(value, VARHDRSZ + len);
	values[0] = Int32GetDatum(42);
	values[1] = PointerGetDatum(value);
	return heap_form_tuple(desc, values, nulls);
}

/* Bytes: how much to cut off or add, the length of a value, edits. */
static void
run_row(const uint8 *data, size_t size)
{
	CmekKeyRing *keys = ring_for_tests();
	HeapTuple	logical;
	HeapTupleData sealed = {0};
	Size		len;
	Size		cut;
	char	   *plain;
	uint8	   *was;
	bool		changed;

	if (size < 2)
		return;
	logical = logical_row(data[1] * 7);
	len = row_sealed_len(logical);
	/* as it lies on a page: no byte after it is its own */
	sealed.t_data = MemoryContextAllocZero(CurrentMemoryContext, len + 300);
	row_seal_into(keys, sealed.t_data, logical);
	was = palloc(len);
	memcpy(was, sealed.t_data, len);
	fuzz_edit((uint8 *) sealed.t_data, len, data + 2, size - 2);
	cut = data[0] < 200 ? Min(data[0], len) : 0;
	sealed.t_len = data[0] < 200 ? len - cut : len + data[0] - 200;
	changed = sealed.t_len != len ||
		memcmp(was + CMEK_ROW_HOFF, (char *) sealed.t_data + CMEK_ROW_HOFF,
			   len - CMEK_ROW_HOFF) != 0;

	plain = palloc(Max(sealed.t_len, len));
	FUZZ_CHECK(row_try_open_into(keys, &sealed, plain) == !changed);
	if (changed)
		return;
	FUZZ_CHECK(row_plain_len(keys, &sealed) == logical->t_len);
	FUZZ_CHECK(HeapTupleHeaderGetNatts((HeapTupleHeader) plain) == 2);
	FUZZ_CHECK(memcmp(plain + offsetof(HeapTupleHeaderData, t_hoff),
					  (char *) logical->t_data + offsetof(HeapTupleHeaderData, t_hoff),
					  logical->t_len - offsetof(HeapTupleHeaderData, t_hoff)) == 0);
}

/*
 * Bytes: value id, chunk number and length of the value, each xored with a
 * byte; a length that the chunk claims; edits.
 */
static void
run_chunk(const uint8 *data, size_t size)
{
	CmekKeyRing *keys = ring_for_tests();
	struct varlena *chunk = palloc(VARHDRSZ + CHUNK_LEN + CMEK_SEAL_OVERHEAD);
	uint8	   *body = (uint8 *) VARDATA(chunk);
	CmekChunkAad aad = {0};
	uint8	   *was;
	bool		changed;

	if (size < 4)
		return;
	aad.dek_id = keys->toast->id;
	memcpy(aad.structure, keys->toast->structure, CMEK_UUID_LEN);
	aad.value_id = VALUE_ID;
	aad.chunk = 2;
	aad.total = VALUE_LEN;
	memcpy(body, &aad.dek_id, sizeof(aad.dek_id));
	cmek_aead_seal(keys->toast->aead, body + sizeof(uint32), data,
				   Min(size, CHUNK_LEN), &aad, sizeof(aad));
	if (size < CHUNK_LEN)
	{
		uint8		plain[CHUNK_LEN] = {0};

		memcpy(plain, data, size);
		cmek_aead_seal(keys->toast->aead, body + sizeof(uint32), plain,
					   CHUNK_LEN, &aad, sizeof(aad));
	}
	was = palloc(CHUNK_LEN + CMEK_SEAL_OVERHEAD);
	memcpy(was, body, CHUNK_LEN + CMEK_SEAL_OVERHEAD);
	fuzz_edit(body, CHUNK_LEN + CMEK_SEAL_OVERHEAD, data + 4, size - 4);
	changed = data[0] != 0 || data[1] != 0 || data[2] != 0 || data[3] != 0 ||
		memcmp(was, body, CHUNK_LEN + CMEK_SEAL_OVERHEAD) != 0;
	SET_VARSIZE(chunk, VARHDRSZ + CHUNK_LEN + CMEK_SEAL_OVERHEAD - Min(data[3], CHUNK_LEN));
	FUZZ_CHECK(chunk_is_good(keys, chunk, VALUE_ID ^ data[0], 2 ^ data[1],
							 VALUE_LEN ^ (data[2] << 4)) == !changed);
	(void) chunk_dek_id(chunk);
}

/* Edits of the row of a data key. */
static void
run_wrapped_dek(const uint8 *data, size_t size)
{
	CmekKeyRing *keys = ring_for_tests();
	CmekDataKeyRow row;
	CmekDataKeyRow was;
	CmekTableKeyRow *table_key = palloc0(sizeof(CmekTableKeyRow));
	uint8		dek[CMEK_KEY_LEN];
	uint8		opened[CMEK_KEY_LEN];
	bool		changed;
	volatile bool ok = true;

	memset(&row, 0, sizeof(row));
	memset(dek, 0x77, sizeof(dek));
	memset(table_key->id, 0x55, CMEK_UUID_LEN);
	row.id = 7;
	row.kind = CMEK_STRUCTURE_HEAP;
	memset(row.structure, 0x33, CMEK_UUID_LEN);
	cmek_dek_wrap(&row, table_key->id, keys->heap->aead, dek);
	memcpy(&was, &row, sizeof(row));
	fuzz_edit((uint8 *) &row, sizeof(row), data, size);
	changed = row.id != was.id || row.kind != was.kind ||
		*(const uint8 *) &row.hide_tids != 0 ||
		memcmp(row.structure, was.structure, sizeof(row.structure)) != 0 ||
		memcmp(row.table_key, was.table_key, sizeof(row.table_key)) != 0 ||
		memcmp(row.wrapped, was.wrapped, sizeof(row.wrapped)) != 0;
	PG_TRY();
	{
		cmek_dek_unwrap(&row, table_key, keys->heap->aead, opened);
	}
	PG_CATCH();
	{
		FUZZ_CHECK(geterrcode() == ERRCODE_DATA_CORRUPTED);
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	FUZZ_CHECK(ok == !changed);
	FUZZ_CHECK(!ok || memcmp(dek, opened, sizeof(dek)) == 0);
}

const FuzzTarget fuzz_row = {"row", run_row, seed_edits};
const FuzzTarget fuzz_chunk = {"chunk", run_chunk, seed_edits};
const FuzzTarget fuzz_wrapped_dek = {"wrapped_dek", run_wrapped_dek, seed_edits};
