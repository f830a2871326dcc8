/*-------------------------------------------------------------------------
 *
 * cmek_test_manifest.c
 *	  Manifests of snapshots, and tables made out of them, as SQL functions.
 *
 * Rows are taken from a plain table, as its pages have them: those of a sealed
 * one look the same once opened.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "lifecycle/snapshot.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(test_manifest);
PG_FUNCTION_INFO_V1(test_recreate);

typedef json_t *(*MakeFunction) (Relation rel);
typedef TupleDesc (*RowDescFunction) (const json_t *manifest);
typedef Oid (*TableFunction) (const json_t *manifest, const char *schema,
							  const char *name, const char *key, Oid owner);
typedef List *(*RestFunction) (const json_t *manifest, Oid relid);

/* A function of the installed library */
static void *
product(const char *name)
{
	return load_external_function("$libdir/cmek", name, true, NULL);
}

/* SQL: test_manifest(table) */
Datum
test_manifest(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	json_t	   *manifest = ((MakeFunction) product("cmek_manifest_make")) (rel);
	char	   *dump = json_dumps(manifest, JSON_ENCODE_ANY);
	char	   *own = pstrdup(dump);

	free(dump);
	json_decref(manifest);
	table_close(rel, AccessShareLock);
	PG_RETURN_TEXT_P(cstring_to_text(pg_any_to_server(own, strlen(own),
													  PG_UTF8)));
}

/* Copy the rows of a plain table, read by the descriptor of the manifest. */
static void
copy_rows(Oid from, Oid to, TupleDesc desc)
{
	Relation	old = table_open(from, AccessShareLock);
	Relation	new = table_open(to, RowExclusiveLock);
	TupleTableSlot *in = MakeSingleTupleTableSlot(RelationGetDescr(old),
												  &TTSOpsBufferHeapTuple);
	TupleTableSlot *out = MakeSingleTupleTableSlot(RelationGetDescr(new),
												   &TTSOpsVirtual);
	TableScanDesc scan = cmek_table_beginscan(old, GetActiveSnapshot());
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));

	while (table_scan_getnextslot(scan, ForwardScanDirection, in))
	{
		heap_deform_tuple(((HeapTupleTableSlot *) in)->tuple, desc, values,
						  nulls);
		ExecClearTuple(out);
		memset(out->tts_isnull, true, out->tts_tupleDescriptor->natts);
		for (int i = 0, n = 0; i < desc->natts; i++)
		{
			if (TupleDescAttr(desc, i)->attisdropped)
				continue;
			out->tts_values[n] = values[i];
			out->tts_isnull[n++] = nulls[i];
		}
		ExecStoreVirtualTuple(out);
		table_tuple_insert(new, out, GetCurrentCommandId(true), 0, NULL);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(in);
	ExecDropSingleTupleTableSlot(out);
	table_close(old, AccessShareLock);
	table_close(new, NoLock);
	CommandCounterIncrement();
}

/* The table, its rows, the rest. */
static List *
recreate(const json_t *manifest, const char *schema, const char *name,
		 Oid rows, const char *key)
{
	TupleDesc	desc = ((RowDescFunction) product("cmek_manifest_row_desc")) (manifest);
	Oid			relid = ((TableFunction) product("cmek_recreate_table")) (manifest, schema, name, key, GetUserId());

	if (OidIsValid(rows))
		copy_rows(rows, relid, desc);
	return ((RestFunction) product("cmek_recreate_rest")) (manifest, relid);
}

/* Parse, recreate, and free in any case. */
static List *
recreate_text(const char *text, const char *schema, const char *name,
			  Oid rows, const char *key)
{
	json_error_t error;
	json_t	   *manifest = json_loads(text, 0, &error);
	int			context;
	Oid			user;
	List	   *volatile failures = NIL;

	if (manifest == NULL)
		elog(ERROR, "not JSON: %s", error.text);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(user, context | SECURITY_RESTRICTED_OPERATION);
	PG_TRY();
	{
		failures = recreate(manifest, schema, name, rows, key);
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(user, context);
		json_decref(manifest);
	}
	PG_END_TRY();
	return failures;
}

/* SQL: test_recreate(manifest, schema, name, rows, key) */
Datum
test_recreate(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *failures =
		recreate_text(text_to_cstring(PG_GETARG_TEXT_PP(0)),
					  text_to_cstring(PG_GETARG_TEXT_PP(1)),
					  text_to_cstring(PG_GETARG_TEXT_PP(2)),
					  PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3),
					  PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4)));
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	foreach(lc, failures)
	{
		Datum		value = CStringGetTextDatum(lfirst(lc));
		bool		isnull = false;

		tuplestore_putvalues(result->setResult, result->setDesc, &value,
							 &isnull);
	}
	return (Datum) 0;
}
