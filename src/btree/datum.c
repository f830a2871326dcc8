/*-------------------------------------------------------------------------
 *
 * datum.c
 *	  Values of a column into sealed datums and back (layout in format.h), and
 *	  the plain form that search arguments take among them.
 *
 * Invariant: a datum that does not authenticate is an ERROR, never a value;
 * and no length that was not authenticated leads anywhere.  Opening reads no
 * catalog and waits for nothing, since it happens under buffer locks.
 *
 * A plain argument carries a random cookie of this process, so that no bytes
 * from a page or from SQL can be taken for one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/itup.h"
#include "access/toast_internals.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "btree/internal.h"

uint8		bt_cookie[BT_COOKIE_LEN];
pid_t		bt_cookie_owner = 0;

/* Make the cookie; called before a process has its first column */
void
bt_cookie_make(void)
{
	if (bt_cookie_owner != MyProcPid)
	{
		cmek_random(bt_cookie, BT_COOKIE_LEN);
		bt_cookie_owner = MyProcPid;
	}
}

/* A search argument, in room for it or palloc'd; the value must outlive it */
Datum
bt_plain_argument(BtColumn *column, Datum value, Oid type, BtPlain *room)
{
	BtPlain    *plain = room ? room : palloc(sizeof(BtPlain));

	memset(plain, 0, sizeof(BtPlain));
	SET_VARSIZE(plain, sizeof(BtPlain));
	memcpy(plain->cookie, bt_cookie, BT_COOKIE_LEN);
	plain->column = column;
	plain->value = value;
	plain->type = OidIsValid(type) ? type : column->opcintype;
	plain->compare = bt_column_proc(column, column->opcintype, plain->type);
	return PointerGetDatum(plain);
}

/* A varlena as stock nbtree stores it: inline, compressed when long, short */
static Datum
stored_varlena(BtColumn *column, Datum value, Size *len)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(value);

	if (VARATT_IS_EXTERNAL(v))
		v = detoast_external_attr(v);
	if (!VARATT_IS_EXTENDED(v) && VARSIZE(v) > TOAST_INDEX_TARGET &&
		(column->typstorage == TYPSTORAGE_EXTENDED ||
		 column->typstorage == TYPSTORAGE_MAIN))
	{
		Datum		compressed = toast_compress_datum(PointerGetDatum(v),
													  column->compression);

		if (DatumGetPointer(compressed) != NULL)
			v = (struct varlena *) DatumGetPointer(compressed);
	}
	else if (column->typstorage != TYPSTORAGE_PLAIN && VARATT_CAN_MAKE_SHORT(v))
	{
		Size		size = VARATT_CONVERTED_SHORT_SIZE(v);
		struct varlena *small = palloc(size);

		SET_VARSIZE_SHORT(small, size);
		memcpy(VARDATA_SHORT(small), VARDATA(v), size - 1);
		v = small;
	}
	*len = VARSIZE_ANY(v);
	return PointerGetDatum(v);
}

/*
 * What is to be sealed of a value: itself when it is passed by value, else a
 * pointer to "len" bytes.
 */
Datum
bt_stored_form(BtColumn *column, Datum value, Size *len)
{
	if (column->typlen == -1)
		return stored_varlena(column, value, len);
	if (column->typlen == -2)
		*len = strlen(DatumGetCString(value)) + 1;
	else
		*len = column->typlen;
	return value;
}

/* Make the associated data of a column */
void
bt_column_aad_make(BtColumn *column, const CmekDek *dek)
{
	memcpy(column->aad.structure, dek->structure,
		   sizeof(column->aad.structure));
	column->aad.column = column->attno +
		(column->key ? 0 : CMEK_INDEX_INCLUDED);
	column->aad_dek = dek->id;
}

/* Memory for a sealed datum, with its header; where the rest of it goes */
static uint8 *
make_sealed(const BtColumn *column, Size payload, Datum *sealed)
{
	char	   *room = palloc(VARHDRSZ + payload);

	*sealed = PointerGetDatum(room);
	if (column->sealed_len > 0)
		return (uint8 *) room;
	if (payload + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
	{
		SET_VARSIZE_SHORT(room, payload + VARHDRSZ_SHORT);
		return (uint8 *) VARDATA_SHORT(room);
	}
	SET_VARSIZE(room, payload + VARHDRSZ);
	return (uint8 *) VARDATA(room);
}

/*
 * Seal a stored form, palloc'd.  Long ones fail here as they would in
 * index_form_tuple: it has 13 bits for the length of a tuple.
 */
static Datum
bt_seal(BtColumn *column, CmekDek *dek, Datum stored, Size len)
{
	Size		payload = len + CMEK_AEAD_OVERHEAD;
	Datum		sealed;
	char		byval[sizeof(Datum)];
	const char *from = DatumGetPointer(stored);

	if (payload > BLCKSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("index row requires %zu bytes, maximum size is %zu",
						payload, (Size) INDEX_SIZE_MASK)));
	if (column->typbyval)
	{
		store_att_byval(byval, stored, column->typlen);
		from = byval;
	}
	cmek_aead_seal(dek->aead, make_sealed(column, payload, &sealed), from, len,
				   bt_column_aad(column, dek), sizeof(CmekIndexAad));
	cmek_counters.seals++;
	return sealed;
}

/*
 * Where the bytes of a sealed datum are, and how long its value is; false when
 * it cannot be one of this column.
 */
static inline bool
sealed_bytes(const BtColumn *column, Datum sealed, const uint8 **bytes,
			 Size *len)
{
	struct varlena *d = (struct varlena *) DatumGetPointer(sealed);
	Size		payload;

	if (column->sealed_len > 0)
	{
		*bytes = (const uint8 *) d;
		*len = column->typlen;
		return true;
	}
	if (VARATT_IS_1B(d))
	{
		if (VARATT_IS_1B_E(d))
			return false;
		payload = VARSIZE_1B(d) - VARHDRSZ_SHORT;
		*bytes = (const uint8 *) VARDATA_1B(d);
	}
	else
	{
		if (!VARATT_IS_4B_U(d) || VARSIZE_4B(d) < VARHDRSZ)
			return false;
		payload = VARSIZE_4B(d) - VARHDRSZ;
		*bytes = (const uint8 *) VARDATA_4B(d);
	}
	if (payload < CMEK_AEAD_OVERHEAD || payload > BLCKSZ)
		return false;
	*len = payload - CMEK_AEAD_OVERHEAD;
	return true;
}

/* Are opened bytes what bt_stored_form gave? */
static inline bool
opened_is_sane(const BtColumn *column, const char *opened, Size len)
{
	if (column->typlen > 0)
		return len == (Size) column->typlen;
	if (column->typlen == -2)
		return len > 0 && opened[len - 1] == '\0';
	return len > 0 && !VARATT_IS_EXTERNAL(opened) && VARSIZE_ANY(opened) == len;
}

/*
 * Open a sealed datum into "size" bytes of room; false when it is none of this
 * column.  The value may point into the room.
 */
bool
bt_try_open(BtColumn *column, Datum sealed, char *room, Size size,
			Datum *value)
{
	CmekDek    *dek = bt_dek(column->index);
	const uint8 *bytes;
	Size		len;

	if (!sealed_bytes(column, sealed, &bytes, &len) || len > size)
		return false;
	if (!cmek_aead_open(dek->aead, room, bytes, len,
						bt_column_aad(column, dek), sizeof(CmekIndexAad)) ||
		!opened_is_sane(column, room, len))
		return false;
	cmek_counters.unseals++;
	*value = column->typbyval ? fetch_att(room, true, column->typlen) :
		PointerGetDatum(room);
	return true;
}

/* Raise the error of an entry that does not open */
void
bt_report_damaged(BtIndex *index)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("an entry of index \"%s\" is damaged or forged",
					NameStr(index->form.relname)),
			 errdetail("It does not authenticate under the key of the index."),
			 errhint("REINDEX INDEX %s;", NameStr(index->form.relname))));
}

/*
 * Open a sealed datum into a buffer, or into memory that the caller frees when
 * "allocated" says so.
 */
Datum
bt_open(BtColumn *column, Datum sealed, BtBuffer *buffer, void **allocated)
{
	struct varlena *d = (struct varlena *) DatumGetPointer(sealed);
	char	   *room = buffer->bytes;
	Size		size = sizeof(buffer->bytes);
	Datum		value;

	*allocated = NULL;
	if (column->sealed_len < 0 && unlikely(!VARATT_IS_1B(d)))
	{
		size = BLCKSZ;
		*allocated = room = palloc(size);
	}
	if (unlikely(!bt_try_open(column, sealed, room, size, &value)))
		bt_report_damaged(column->index);
	return value;
}

/*
 * Seal the values of one entry, and leave both forms to the comparisons that
 * nbtree makes with it.
 */
void
bt_seal_values(BtActivity *activity, Datum *values, bool *isnull,
			   Datum *plain, Datum *sealed)
{
	BtIndex    *index = activity->index;
	CmekDek    *dek = bt_dek(index);

	if (unlikely(dek->seals_left < index->natts))
	{
		cmek_seals_reserve_index(index->ring, dek, index->natts);
		dek = bt_dek(index);
	}
	dek->seals_left -= index->natts;
	for (int i = 0; i < index->natts; i++)
	{
		Size		len;

		plain[i] = sealed[i] = (Datum) 0;
		if (isnull[i])
			continue;
		plain[i] = bt_stored_form(&index->columns[i], values[i], &len);
		/* it may have come from TOAST, and the ring been read again for it */
		sealed[i] = bt_seal(&index->columns[i], bt_dek(index), plain[i], len);
	}
	activity->nvalues = index->natts;
	activity->plain = plain;
	activity->sealed = sealed;
}
