/*-------------------------------------------------------------------------
 *
 * replica.c
 *	  A table key wrapped by several KMS keys: making the replica wrappings,
 *	  and opening a table by the one that is near.
 *
 *	   eu (first) ──wraps──┐
 *	   us (replica) ─wraps─┼──▶ table key ──▶ data keys
 *	   ap (replica) ─wraps─┘
 *
 * A server opens a table by the KMS keys that its cmek.local_keys names, in
 * their order, then by the first one, then by the others.  The first key alone
 * decides the table's fate: while it is suspended, or was denied and not seen
 * to be back, by this server or by the record that is replicated from the
 * primary, no replica opens anything.  What a replica answers, whatever it is,
 * only sends us to the next.
 *
 * A key whose KMS fails is left out as long as another opens the table, and
 * asked again beside, so that a dead KMS costs its time-out once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "compat.h"
#include "keys/internal.h"

/* How often a key may be pushed out of the cache while it is wrapped */
#define WRAP_ATTEMPTS 5

static char *cmek_local_keys = NULL;

/* ----------
 * Opening
 * ----------
 */

/*
 * Was a KMS key denied when the primary last wrote down what it knows of it?
 * Its sum of denied time is cleared by an OK only.
 */
static bool
recorded_denied(const char *server)
{
	enum
	{
		Anum_server = 1, Anum_class = 2, Anum_denied_ms = 7
	};
	Oid			table = cmek_find_relation("key_watch");
	Oid			index = cmek_find_relation("key_watch_pkey");
	bool		denied = false;
	bool		isnull;
	NameData	name;
	ScanKeyData key;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(index) || !cmek_has_columns(table, Anum_denied_ms))
		return false;
	namestrcpy(&name, server);
	ScanKeyInit(&key, Anum_server, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&name));
	rel = table_open(table, AccessShareLock);
	scan = cmek_key_scan(rel, index, true, NULL, 1, &key);
	tuple = cmek_next_row(scan, rel);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		Datum		klass = heap_getattr(tuple, Anum_class, desc, &isnull);

		denied = !isnull &&
			strcmp(TextDatumGetCString(klass),
				   cmek_kms_class_name(CMEK_KMS_DENIED)) == 0;
		denied |= DatumGetInt64(heap_getattr(tuple, Anum_denied_ms, desc,
											 &isnull)) > 0 && !isnull;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return denied;
}

/* Is the first key suspended?  Then the reply says so. */
static bool
first_is_suspended(const CmekKeyRequest *first, CmekReply *reply)
{
	CmekSuspension suspension;

	if (!cmek_suspended(first->server_name, &suspension))
		return false;
	cmek_suspension_fill_reply(&suspension, reply);
	return true;
}

/* Append those of some rows that a KMS key has wrapped, and are not in the list. */
static List *
append_server(List *order, List *rows, const char *server)
{
	ListCell   *lc;

	foreach(lc, rows)
	{
		CmekTableKeyRow *row = lfirst(lc);

		if (server == NULL || strcmp(row->server, server) == 0)
			order = list_append_unique_ptr(order, row);
	}
	return order;
}

/* All wrappings of a table key in the order in which this server tries them. */
static List *
order_wrappings(CmekTableKeyRow *first, List *replicas)
{
	List	   *rows = lcons(first, list_copy(replicas));
	List	   *order = NIL;
	List	   *names = NIL;
	ListCell   *lc;

	/* the check hook has let it pass */
	(void) SplitIdentifierString(pstrdup(cmek_local_keys), ',', &names);
	foreach(lc, names)
		order = append_server(order, rows, lfirst(lc));
	order = list_append_unique_ptr(order, first);
	return append_server(order, rows, NULL);
}

/* The way to a key by one wrapping */
typedef struct Way
{
	const CmekTableKeyRow *row;
	CmekKeyRequest *what;		/* NULL: its server is gone */
	bool		asked;
} Way;

/* Prepare all ways. */
static Way *
prepare_ways(List *order, const CmekTableKeyRow *row, CmekKeyRequest *first)
{
	Way		   *ways = palloc0(list_length(order) * sizeof(Way));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, order)
	{
		Way		   *way = &ways[n++];
		Oid			serverid;

		way->row = lfirst(lc);
		if (way->row == row)
			way->what = first;
		else if (OidIsValid(serverid = get_foreign_server_oid(way->row->server,
															  true)))
			way->what = cmek_new_unwrap(serverid, way->row);
	}
	return ways;
}

/*
 * Try the ways in their order: in the first round those that are open already
 * or whose KMS is not known to fail, in the second the rest.  NULL when none
 * leads to the key, or when the first key was denied; *reply is what the first
 * KMS key said.
 */
static const Way *
try_ways(Way *ways, int n, const CmekKeyRequest *first, uint8 *key,
		 CmekLease *lease, CmekReply *reply)
{
	CmekReply  *other = palloc(sizeof(CmekReply));

	for (int round = 0; round < 2; round++)
		for (int i = 0; i < n; i++)
		{
			Way		   *way = &ways[i];
			CmekReply  *said = way->what == first ? reply : other;

			if (way->what == NULL || way->asked)
				continue;
			if (round == 0 && cmek_server_is_failing(way->what->server) &&
				!cmek_cache_fetch(way->what, NULL, NULL))
			{
				(void) cmek_board_post(way->what);
				continue;
			}
			way->asked = true;
			if (cmek_fetch_key(way->what, key, lease, said))
				return way;
			if (way->what == first && reply->klass == CMEK_KMS_DENIED)
				return NULL;
		}
	return NULL;
}

/* See internal.h. */
bool
cmek_open_by_any(CmekKeyRequest *first, const CmekTableKeyRow *row,
				 uint8 *key, CmekLease *lease, CmekReply *reply)
{
	List	   *replicas = cmek_replica_rows(row->relid, row->id);
	const Way  *way;

	if (replicas == NIL || cmek_server_was_denied(first->server) ||
		recorded_denied(first->server_name))
		return cmek_fetch_key(first, key, lease, reply);
	if (first_is_suspended(first, reply))
		return false;
	way = try_ways(prepare_ways(order_wrappings(unconstify(CmekTableKeyRow *, row), replicas),
								row, first),
				   list_length(replicas) + 1, first, key, lease, reply);
	if (way == NULL || way->what == first)
		return way != NULL;

	/*
	 * A denial or a suspension of the first key ends all leases after it can
	 * be seen: so look for it with the lease in hand.
	 */
	if (!first_is_suspended(first, reply))
	{
		if (!cmek_server_was_denied(first->server))
			return true;
		cmek_cleanse(key, CMEK_KEY_LEN);
		return cmek_fetch_key(first, key, lease, reply);
	}
	cmek_cleanse(key, CMEK_KEY_LEN);
	cmek_cache_drop(first->database, way->what->uuid);
	return false;
}

/* ----------
 * Wrapping
 * ----------
 */

/* Ask for one more wrapping, and fill in its row. */
static void
wrap(CmekKeyRequest *what, const CmekTableKeyRow *table_key,
	 CmekTableKeyRow *row)
{
	CmekReply  *reply = palloc(sizeof(CmekReply));
	uint8	   *key = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	CmekSuspension suspension;
	CmekLease	lease;

	if (cmek_suspended(what->server_name, &suspension))
	{
		cmek_suspension_fill_reply(&suspension, reply);
		cmek_report_unavailable(row->relid, what, reply);
	}
	for (int i = 1;; i++)
	{
		/* the worker takes it out of the cache: it never is on the board */
		cmek_table_key_open(table_key, key, &lease);
		memcpy(what->source, lease.uuid, CMEK_UUID_LEN);
		cmek_request_run(what, reply);
		if (reply->klass == CMEK_KMS_OK)
			break;
		if (strcmp(reply->code, CMEK_CODE_NOT_CACHED) != 0 ||
			i == WRAP_ATTEMPTS)
			cmek_report_unavailable(row->relid, what, reply);
	}
	strlcpy(row->server, what->server_name, sizeof(row->server));
	strlcpy(row->key_id, reply->key_id, sizeof(row->key_id));
	strlcpy(row->key_version, reply->key_version, sizeof(row->key_version));
	row->blob_len = reply->blob_len;
	memcpy(row->blob, reply->blob, reply->blob_len);
}

/* A wrapping counts when it opens, and gives the same key. */
static void
prove_wrapping(Oid serverid, const CmekTableKeyRow *row, const uint8 *key)
{
	uint8	   *opened = cmek_secret_alloc_in(CurrentMemoryContext, CMEK_KEY_LEN);
	CmekReply  *reply = palloc(sizeof(CmekReply));
	CmekKeyRequest *what = cmek_new_unwrap(serverid, row);
	CmekLease	lease;

	what->fresh = true;
	/* an aborted transaction leaves a key in the cache that nobody will use */
	cmek_table_key_forget(row->id, false);
	if (!cmek_fetch_key(what, opened, &lease, reply))
		cmek_report_unavailable(row->relid, what, reply);
	if (!cmek_equal(opened, key, CMEK_KEY_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("KMS key \"%s\" unwrapped another key than it had wrapped",
						row->server)));
}

/* See internal.h. */
void
cmek_replica_make(const CmekTableKeyRow *table_key, const uint8 *key,
				  Oid serverid)
{
	CmekTableKeyRow *row = palloc0(sizeof(CmekTableKeyRow));
	CmekKeyRequest *what;

	row->relid = table_key->relid;
	cmek_random_uuid(row->id);
	what = cmek_new_key_request(CMEK_OP_WRAP, serverid, row->id);
	/* so that a lost key file is not taken for one that never was */
	cmek_catalog_server_version(what->server_name, what->version);
	wrap(what, table_key, row);
	prove_wrapping(serverid, row, key);
	cmek_replica_insert(row, table_key->id);
	cmek_stop("replica-stored");
}

/* ----------
 * Setting
 * ----------
 */

/* A list of names. */
static bool
check_local_keys(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	bool		ok = SplitIdentifierString(copy, ',', &names);

	list_free(names);
	pfree(copy);
	if (!ok)
		GUC_check_errdetail("List syntax is invalid.");
	return ok;
}

/* See internal.h. */
void
cmek_replica_init(void)
{
	DefineCustomStringVariable("cmek.local_keys",
							   "KMS keys by which this server opens tables first, in their order.",
							   "It is for tables that have them as key or replica key; others are opened as if it were empty.",
							   &cmek_local_keys,
							   "",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_local_keys, NULL, NULL);
}
