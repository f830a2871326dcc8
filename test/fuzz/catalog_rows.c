/*-------------------------------------------------------------------------
 *
 * catalog_rows.c
 *	  Rows of cmek.table_key and cmek.data_key, any bytes.
 *
 * What holds: a row that does not end where its values do is refused, and any
 * other is read without leaving it.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include <sys/mman.h>

#include "../../src/keys/catalog.c"

#include "catalog/pg_type.h"
#include "utils/rel.h"

typedef struct Column
{
	const char *name;
	Oid			type;
} Column;

static const Column table_key_columns[] = {
	{"id", UUIDOID}, {"relid", OIDOID}, {"version", INT4OID},
	{"server", NAMEOID}, {"key_id", TEXTOID}, {"key_version", TEXTOID},
	{"blob", BYTEAOID}, {"created_at", TIMESTAMPTZOID},
	{"sealed_by", UUIDOID}, {"sealed", BYTEAOID}
};

static const Column data_key_columns[] = {
	{"id", INT4OID}, {"relid", OIDOID}, {"kind", CHAROID},
	{"structure", UUIDOID}, {"generation", INT4OID}, {"table_key", UUIDOID},
	{"wrapped", BYTEAOID}, {"format", INT2OID}, {"current", BOOLOID},
	{"created_at", TIMESTAMPTZOID}
};

/* A relation that is just its columns. */
static Relation
fake_relation(const char *name, const Column *columns, int n)
{
	Relation	rel = palloc0(sizeof(RelationData));

	rel->rd_rel = palloc0(sizeof(FormData_pg_class));
	namestrcpy(&rel->rd_rel->relname, name);
	rel->rd_att = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
		TupleDescInitEntry(rel->rd_att, i + 1, columns[i].name,
						   columns[i].type, -1, 0);
	return rel;
}

/*
 * The bytes as a tuple at the end of a page that nothing follows, so that who
 * reads on ends there.
 */
static void
fuzz_tuple(HeapTuple tuple, const uint8 *data, size_t size)
{
	static char *end = NULL;

	if (end == NULL)
	{
		char	   *pages = mmap(NULL, 3 * BLCKSZ, PROT_READ | PROT_WRITE,
								 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		FUZZ_CHECK(pages != MAP_FAILED);
		end = pages + 2 * BLCKSZ;
		FUZZ_CHECK(mprotect(end, BLCKSZ, PROT_NONE) == 0);
	}
	memset(tuple, 0, sizeof(HeapTupleData));
	tuple->t_len = size;
	tuple->t_data = (HeapTupleHeader) (end - MAXALIGN(size));
	memcpy(tuple->t_data, data, size);
}

static void
read_tuple(Relation rel, HeapTuple tuple, bool is_table_key)
{
	if (!cmek_row_is_whole(rel, tuple))
		return;
	if (is_table_key)
		read_table_key(tuple, RelationGetDescr(rel), palloc0(sizeof(CmekTableKeyRow)));
	else
		read_data_key(tuple, RelationGetDescr(rel), palloc0(sizeof(CmekDataKeyRow)));
}

static void
run_tuple(const uint8 *data, size_t size, Relation rel, bool is_table_key)
{
	HeapTupleData tuple;

	if (size < SizeofHeapTupleHeader + 1 || size > BLCKSZ)
		return;
	fuzz_tuple(&tuple, data, size);
	read_tuple(rel, &tuple, is_table_key);
}

static void
run_table_key(const uint8 *data, size_t size)
{
	run_tuple(data, size, fake_relation("table_key", table_key_columns,
										lengthof(table_key_columns)), true);
}

static void
run_data_key(const uint8 *data, size_t size)
{
	run_tuple(data, size, fake_relation("data_key", data_key_columns,
										lengthof(data_key_columns)), false);
}

/* A tuple of the right form, with or without what may be NULL. */
static int
seed_tuple(Relation rel, int i, uint8 *seed)
{
	Datum		values[16];
	bool		nulls[16] = {false};
	TupleDesc	desc = RelationGetDescr(rel);
	uint8		uuid[CMEK_UUID_LEN] = {1, 2, 3};
	HeapTuple	tuple;

	if (i >= 3)
		return -1;
	for (int a = 0; a < desc->natts; a++)
		switch (TupleDescAttr(desc, a)->atttypid)
		{
			case UUIDOID:
				values[a] = uuid_datum(uuid);
				nulls[a] = i > 0 && a > 7;
				break;
			case NAMEOID:
				values[a] = PointerGetDatum(palloc0(NAMEDATALEN));
				break;
			case TEXTOID:
				values[a] = CStringGetTextDatum(i == 2 ? "" : "service key");
				break;
			case BYTEAOID:
				values[a] = bytes_datum(palloc0(500), i == 2 ? 200 : CMEK_WRAPPED_DEK_LEN);
				nulls[a] = i > 0 && a > 7;
				break;
			default:
				values[a] = Int32GetDatum(1);
		}
	tuple = heap_form_tuple(desc, values, nulls);
	memcpy(seed, tuple->t_data, tuple->t_len);
	return tuple->t_len;
}

static int
seed_table_key(int i, uint8 *seed)
{
	return seed_tuple(fake_relation("table_key", table_key_columns,
									lengthof(table_key_columns)), i, seed);
}

static int
seed_data_key(int i, uint8 *seed)
{
	return seed_tuple(fake_relation("data_key", data_key_columns,
									lengthof(data_key_columns)), i, seed);
}

const FuzzTarget fuzz_table_key_row = {"table_key_row", run_table_key, seed_table_key};
const FuzzTarget fuzz_data_key_row = {"data_key_row", run_data_key, seed_data_key};
