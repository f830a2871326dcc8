/*-------------------------------------------------------------------------
 *
 * audit.c
 *	  The audit trail of a database: cmek.key_event, a chain of MACs.
 *
 *	   mac(n) = HMAC-SHA256(K, mac(n-1) | id | at | drop_at | relid | texts)
 *
 * K is derived from the service key.  mac(0) is zero, ids have no gaps, and
 * cmek.audit_head names the last one; so no row can be changed, put in, or
 * left out without the key.  Whoever has the key, or replaces both tables by
 * an older copy, is found by an anchor: the head as it was, published in the
 * server log and at cmek.notify_url.
 *
 * Only the visitor writes here, one row after the other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "lifecycle/internal.h"

PG_FUNCTION_INFO_V1(cmek_verify_events);

#define AUDIT_LABEL "audit chain"
#define MAC_LEN 32
#define NTEXTS 7

/* Columns of cmek.key_event */
enum
{
	Anum_key_event_id = 1,
	Anum_key_event_at,
	Anum_key_event_event,		/* the first of NTEXTS */
	Anum_key_event_drop_at = Anum_key_event_event + NTEXTS,
	Anum_key_event_relid,
	Anum_key_event_mac,
	Natts_key_event = Anum_key_event_mac
};

typedef struct AuditRow
{
	int64		id;
	TimestampTz at;
	TimestampTz drop_at;
	Oid			relid;
	const char *texts[NTEXTS];	/* "" stands for null */
} AuditRow;

/* The end of the chain */
typedef struct AuditHead
{
	int64		id;
	uint8		mac[MAC_LEN];
	TimestampTz anchored_at;
} AuditHead;

/* Append a number in network byte order. */
static void
append_int64(StringInfo buf, int64 value)
{
	uint64		n = pg_hton64((uint64) value);

	appendBinaryStringInfo(buf, (const char *) &n, sizeof(n));
}

/* The link of a row to the one before: replaces the MAC of that by its own. */
static void
chain_row(const uint8 *key, const AuditRow *row, uint8 *mac)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, (const char *) mac, MAC_LEN);
	append_int64(&buf, row->id);
	append_int64(&buf, row->at);
	append_int64(&buf, row->drop_at);
	append_int64(&buf, row->relid);
	for (int i = 0; i < NTEXTS; i++)
	{
		append_int64(&buf, strlen(row->texts[i]));
		appendStringInfoString(&buf, row->texts[i]);
	}
	cmek_hmac_sha256(key, CMEK_KEY_LEN, buf.data, buf.len, mac);
	pfree(buf.data);
}

/* ----------
 * Writing
 * ----------
 */

/* Read the end of the chain; caller has a transaction of the visitor. */
static void
read_head(AuditHead *head)
{
	bool		isnull;
	HeapTuple	tuple;
	TupleDesc	desc;

	memset(head, 0, sizeof(AuditHead));
	if (cmek_visit_sql("SELECT id, mac, anchored_at FROM cmek.audit_head",
					   SPI_OK_SELECT, 0, NULL, NULL, NULL) == 0)
		return;
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	head->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	memcpy(head->mac,
		   VARDATA_ANY(DatumGetByteaPP(SPI_getbinval(tuple, desc, 2, &isnull))),
		   MAC_LEN);
	head->anchored_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 3, &isnull));
}

/* A MAC as a value. */
static Datum
mac_datum(const uint8 *mac)
{
	bytea	   *value = palloc(VARHDRSZ + MAC_LEN);

	SET_VARSIZE(value, VARHDRSZ + MAC_LEN);
	memcpy(VARDATA(value), mac, MAC_LEN);
	return PointerGetDatum(value);
}

/* Write the end of the chain. */
static void
write_head(const AuditHead *head)
{
	static const Oid types[] = {INT8OID, BYTEAOID, TIMESTAMPTZOID};
	Datum		values[] = {
		Int64GetDatum(head->id), mac_datum(head->mac),
		TimestampTzGetDatum(head->anchored_at)
	};

	(void) cmek_visit_sql("INSERT INTO cmek.audit_head VALUES (true, $1, $2, $3)"
						  " ON CONFLICT (singleton) DO UPDATE SET id = $1, mac = $2, anchored_at = $3",
						  SPI_OK_INSERT, lengthof(types), types, values, NULL);
}

/* How rows are written: a plan that lasts as long as the transaction */
static SPIPlanPtr
prepare_rows(void)
{
	static Oid	types[Natts_key_event] = {
		INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID, TEXTOID, TIMESTAMPTZOID, OIDOID, BYTEAOID
	};
	SPIPlanPtr	plan = SPI_prepare("INSERT INTO cmek.key_event VALUES"
								   " ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
								   Natts_key_event, types);

	if (plan == NULL)
		elog(ERROR, "could not prepare the writing of events: %s",
			 SPI_result_code_string(SPI_result));
	return plan;
}

/* Write one row. */
static void
write_row(SPIPlanPtr plan, const AuditRow *row, const uint8 *mac)
{
	Datum		values[Natts_key_event] = {0};
	char		nulls[Natts_key_event];
	int			result;

	memset(nulls, ' ', sizeof(nulls));
	values[Anum_key_event_id - 1] = Int64GetDatum(row->id);
	values[Anum_key_event_at - 1] = TimestampTzGetDatum(row->at);
	for (int i = 0; i < NTEXTS; i++)
	{
		values[Anum_key_event_event - 1 + i] = CStringGetTextDatum(row->texts[i]);
		if (row->texts[i][0] == '\0')
			nulls[Anum_key_event_event - 1 + i] = 'n';
	}
	values[Anum_key_event_drop_at - 1] = TimestampTzGetDatum(row->drop_at);
	if (row->drop_at == 0)
		nulls[Anum_key_event_drop_at - 1] = 'n';
	values[Anum_key_event_relid - 1] = ObjectIdGetDatum(row->relid);
	values[Anum_key_event_mac - 1] = mac_datum(mac);
	result = SPI_execute_plan(plan, values, nulls, false, 0);
	if (result != SPI_OK_INSERT)
		elog(ERROR, "an event was not written: %s",
			 SPI_result_code_string(result));
}

/* The row of an event. */
static void
fill_row(AuditRow *row, int64 id, const CmekEvent *event)
{
	row->id = id;
	row->at = event->at;
	row->drop_at = event->drop_at;
	row->relid = event->relid;
	row->texts[0] = event->event;
	row->texts[1] = event->outcome;
	row->texts[2] = event->key;
	row->texts[3] = event->table;
	row->texts[4] = event->role;
	row->texts[5] = event->code;
	row->texts[6] = event->detail;
}

/* See internal.h. */
bool
cmek_audit_write(CmekEvent *events, int n)
{
	uint8	   *key = cmek_secret_alloc(CMEK_KEY_LEN);
	AuditHead	head;
	SPIPlanPtr	plan;
	bool		ok;

	cmek_visit_begin();
	ok = cmek_derived_key(AUDIT_LABEL, key);
	if (ok)
	{
		read_head(&head);
		plan = prepare_rows();
		for (int i = 0; i < n; i++)
		{
			AuditRow	row;

			fill_row(&row, ++head.id, &events[i]);
			chain_row(key, &row, head.mac);
			write_row(plan, &row, head.mac);
		}
		write_head(&head);
		cmek_stop("events-written");
	}
	cmek_secret_free(key);
	cmek_visit_end();
	return ok;
}

/* The text form of an anchor: the number of the last event, and its MAC. */
static char *
format_anchor(const AuditHead *head)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, INT64_FORMAT ":", head->id);
	for (int i = 0; i < MAC_LEN; i++)
		appendStringInfo(&buf, "%02x", head->mac[i]);
	return buf.data;
}

/* Publish the head: in the server log and at cmek.notify_url. */
static void
publish_anchor(AuditHead *head, TimestampTz now)
{
	char	   *anchor = format_anchor(head);

	ereport(LOG,
			(errmsg("cmek audit anchor of database %u: %s", MyDatabaseId,
					anchor)));
	if (cmek_notify_url[0] != '\0')
		cmek_notify_enqueue(psprintf("{\"event\": \"anchor\", \"database\": %u, \"anchor\": \"%s\"}",
									 MyDatabaseId, anchor));
	head->anchored_at = now;
	write_head(head);
}

/*
 * Publish the head of the chain when its time has come; returns when that
 * will be.  An empty chain has none.
 */
TimestampTz
cmek_audit_anchor(void)
{
	int64		interval = cmek_audit_anchor_interval * USECS_PER_SEC;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	AuditHead	head;

	if (interval == 0)
		return next;
	cmek_visit_begin();
	read_head(&head);
	if (head.id > 0)
	{
		if (now - head.anchored_at >= interval || head.anchored_at > now)
			publish_anchor(&head, now);
		next = head.anchored_at + interval;
	}
	cmek_visit_end();
	return next;
}

/* ----------
 * Verifying
 * ----------
 */

/* What verification has found so far, and where it is */
typedef struct AuditCheck
{
	uint8	   *key;
	int64		id;				/* of the last good row */
	uint8		mac[MAC_LEN];
	int64		anchor_id;		/* 0: none was given */
	uint8		anchor_mac[MAC_LEN];
	ReturnSetInfo *rsinfo;
	bool		broken;
} AuditCheck;

/* Report the first thing that is wrong. */
static void
report_broken(AuditCheck *check, int64 id, const char *problem)
{
	Datum		values[2];
	bool		nulls[2] = {false};

	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(problem);
	tuplestore_putvalues(check->rsinfo->setResult, check->rsinfo->setDesc,
						 values, nulls);
	check->broken = true;
}

/* Take a tuple apart; false when it cannot be one of ours. */
static bool
read_row(HeapTuple tuple, TupleDesc desc, AuditRow *row, uint8 *mac)
{
	Datum		values[Natts_key_event];
	bool		nulls[Natts_key_event];
	bytea	   *stored;

	heap_deform_tuple(tuple, desc, values, nulls);
	if (nulls[Anum_key_event_id - 1] || nulls[Anum_key_event_at - 1] ||
		nulls[Anum_key_event_relid - 1] || nulls[Anum_key_event_mac - 1])
		return false;
	row->id = DatumGetInt64(values[Anum_key_event_id - 1]);
	row->at = DatumGetTimestampTz(values[Anum_key_event_at - 1]);
	row->drop_at = nulls[Anum_key_event_drop_at - 1] ? 0 :
		DatumGetTimestampTz(values[Anum_key_event_drop_at - 1]);
	row->relid = DatumGetObjectId(values[Anum_key_event_relid - 1]);
	for (int i = 0; i < NTEXTS; i++)
		row->texts[i] = nulls[Anum_key_event_event - 1 + i] ? "" :
			TextDatumGetCString(values[Anum_key_event_event - 1 + i]);
	stored = DatumGetByteaPP(values[Anum_key_event_mac - 1]);
	if (VARSIZE_ANY_EXHDR(stored) != MAC_LEN)
		return false;
	memcpy(mac, VARDATA_ANY(stored), MAC_LEN);
	return true;
}

/* Check one row against the one before, and against the anchor. */
static void
check_row(AuditCheck *check, HeapTuple tuple, TupleDesc desc)
{
	AuditRow	row;
	uint8		stored[MAC_LEN];

	if (!read_row(tuple, desc, &row, stored))
		report_broken(check, check->id + 1, "the event is damaged");
	else if (row.id != check->id + 1)
		report_broken(check, check->id + 1, "the event is missing");
	else
	{
		chain_row(check->key, &row, check->mac);
		check->id = row.id;
		if (!cmek_equal(check->mac, stored, MAC_LEN))
			report_broken(check, row.id, "the event was changed, or one before it was taken out");
		else if (row.id == check->anchor_id &&
				 !cmek_equal(check->mac, check->anchor_mac, MAC_LEN))
			report_broken(check, row.id, "the events up to the anchor were rewritten");
	}
}

/* Check all rows in their order. */
static void
check_rows(AuditCheck *check)
{
	Oid			namespace = get_namespace_oid("cmek", false);
	Relation	rel = table_open(get_relname_relid("key_event", namespace),
								 AccessShareLock);
	Relation	index = index_open(get_relname_relid("key_event_pkey", namespace),
								   AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index,
												  GetActiveSnapshot(), 0, NULL);
	HeapTuple	tuple;

	while (!check->broken &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		check_row(check, tuple, RelationGetDescr(rel));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* The number of the last event, as cmek.audit_head has it. */
static int64
head_id(void)
{
	Oid			namespace = get_namespace_oid("cmek", false);
	Relation	rel = table_open(get_relname_relid("audit_head", namespace),
								 AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false,
										  GetActiveSnapshot(), 0, NULL);
	HeapTuple	tuple = systable_getnext(scan);
	bool		isnull;
	int64		result = 0;

	if (HeapTupleIsValid(tuple))
		result = DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel),
											&isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Take an anchor apart. */
static void
parse_anchor(const char *text, AuditCheck *check)
{
	const char *hex = strchr(text, ':');
	char	   *end;
	bool		ok;

	errno = 0;
	check->anchor_id = strtoll(text, &end, 10);
	ok = errno == 0 && end == hex && check->anchor_id > 0 &&
		strlen(hex + 1) == 2 * MAC_LEN &&
		strspn(hex + 1, "0123456789abcdef") == 2 * MAC_LEN;
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid audit anchor: \"%s\"", text),
				 errdetail("An anchor is the number of an event, a colon and 64 hexadecimal digits."),
				 errhint("The server log has one every cmek.audit_anchor_interval.")));
	(void) hex_decode(hex + 1, 2 * MAC_LEN, (char *) check->anchor_mac);
}

/*
 * SQL: verify_events(anchor): the first event that breaks the chain, no row
 * when there is none.
 */
Datum
cmek_verify_events(PG_FUNCTION_ARGS)
{
	AuditCheck	check = {0};

	cmek_require_preload();
	check.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	InitMaterializedSRF(fcinfo, 0);
	if (!PG_ARGISNULL(0))
		parse_anchor(text_to_cstring(PG_GETARG_TEXT_PP(0)), &check);
	check.key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	if (!cmek_derived_key(AUDIT_LABEL, check.key))
		ereport(ERROR,
				(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("the key of the audit chain is not accessible"),
				 errdetail("It is derived from the service key."),
				 errhint("SELECT * FROM cmek.keys WHERE name = '%s'",
						 CMEK_SERVICE_KEY_SERVER)));
	check_rows(&check);
	if (!check.broken && check.id < Max(head_id(), check.anchor_id))
		report_broken(&check, check.id + 1, "the events from here on are missing");
	return (Datum) 0;
}
