/*-------------------------------------------------------------------------
 *
 * drop.c
 *	  The tables of a key that stays away: snapshot, verify, DROP.
 *
 * The visitor sees that a key is due and starts a worker for it, because a
 * large table takes its time; one such worker runs in the whole server.  It
 * takes one table after the other, each in a transaction of its own:
 *
 *	   lock (readers go on being refused, nobody writes)
 *	   ask the KMS once more, now
 *	   rehearse the DROP in a subtransaction that is rolled back
 *	   snapshot, on disk, read back		(snapshot.c)
 *	   lock out everybody, ask the KMS once more, DROP, commit
 *
 * At every instant there is the table or a verified snapshot of it.
 *
 * No row that is not under the lost key is ever lost.  What CASCADE would drop
 * is not worked out here but watched: a hook sees every object that core is
 * about to drop, and stops it at the first that holds rows, or that keeps
 * somebody from seeing some.  Then the drop is postponed, with an event.  Views,
 * foreign keys, triggers and functions fall and are in the manifest.
 * Inheritance children are detached before.
 *
 * No code of a user's runs: objects are dropped below the level of event
 * triggers, as their owner, in a security-restricted operation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "lifecycle/internal.h"
#include "lifecycle/snapshot.h"

PGDLLEXPORT void cmek_drop_main(Datum arg);

/* The tag of the one worker: advisory locks of users have 1 or 2 there */
#define DROP_LOCK_CLASS 0x636d

/* The table that is being dropped, and how */
static Oid	doomed = InvalidOid;
static bool rehearsing = false;
static bool rehearsed = false;
static object_access_hook_type next_hook = NULL;

/* ----------
 * What must not fall with a table
 * ----------
 */

/* Stop because of an object that would be lost. */
static void
stop_for(Oid class_id, Oid object_id, int sub_id)
{
	ObjectAddress object;

	ObjectAddressSubSet(object, class_id, object_id, sub_id);
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("%s would be lost with it",
					getObjectDescription(&object, false))));
}

/* A relation or a column is about to fall. */
static void
check_relation(Oid relid, int column)
{
	char		relkind = get_rel_relkind(relid);

	if (column != 0 || relkind == RELKIND_RELATION ||
		relkind == RELKIND_MATVIEW || relkind == RELKIND_PARTITIONED_TABLE ||
		relkind == RELKIND_FOREIGN_TABLE)
		stop_for(RelationRelationId, relid, column);
}

/* A policy is about to fall: without it, others may see more of its table. */
static void
check_policy(Oid policy)
{
	Relation	rel = table_open(PolicyRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			relid = doomed;

	ScanKeyInit(&key, Anum_pg_policy_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(policy));
	scan = systable_beginscan(rel, PolicyOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		relid = ((Form_pg_policy) GETSTRUCT(tuple))->polrelid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (relid != doomed)
		stop_for(PolicyRelationId, policy, 0);
}

/* Look at an object that core is about to drop. */
static void
check_object(Oid class_id, Oid object_id, int sub_id)
{
	if (class_id == PolicyRelationId)
		check_policy(object_id);
	if (class_id != RelationRelationId)
		return;
	if (object_id != doomed)
		check_relation(object_id, sub_id);
	else if (rehearsing)
	{
		/* it comes last: all that would fall with it has been seen */
		rehearsed = true;
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("end of rehearsal")));
	}
}

/* The hook, in our worker only. */
static void
watch_drop(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id,
		   void *arg)
{
	if (access == OAT_DROP && OidIsValid(doomed))
		check_object(class_id, object_id, sub_id);
	if (next_hook != NULL)
		next_hook(access, class_id, object_id, sub_id, arg);
}

/* ----------
 * Dropping
 * ----------
 */

/* Who owns a relation? */
static Oid
owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Become the owner of a relation, who can do nothing but what we do. */
static void
become_owner(Oid relid, Oid *user, int *context)
{
	GetUserIdAndSecContext(user, context);
	SetUserIdAndSecContext(owner_of(relid),
						   *context | SECURITY_RESTRICTED_OPERATION |
						   SECURITY_LOCAL_USERID_CHANGE);
}

/* ALTER TABLE child NO INHERIT the doomed table. */
static void
detach_child(Oid child)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);
	Oid			user;
	int			context;

	cmd->subtype = AT_DropInherit;
	cmd->behavior = DROP_RESTRICT;
	cmd->def = (Node *) makeRangeVar(get_namespace_name(get_rel_namespace(doomed)),
									 get_rel_name(doomed), -1);
	become_owner(child, &user, &context);
	AlterTableInternal(child, list_make1(cmd), false);
	SetUserIdAndSecContext(user, context);
	CommandCounterIncrement();
}

/* Detach what inherits from the doomed table, and drop it. */
static void
detach_and_drop(void)
{
	ObjectAddress object;
	Oid			user;
	int			context;
	ListCell   *lc;

	foreach(lc, find_inheritance_children(doomed, AccessExclusiveLock))
		detach_child(lfirst_oid(lc));
	cmek_stop("drop-detached");
	ObjectAddressSet(object, RelationRelationId, doomed);
	become_owner(doomed, &user, &context);
	performDeletion(&object, DROP_CASCADE, PERFORM_DELETION_QUIETLY);
	SetUserIdAndSecContext(user, context);
	CommandCounterIncrement();
}

/*
 * The drop as it will be.  check_object ends it; should nobody have watched it,
 * the table would be gone without a snapshot, so it never ends well.
 */
static void
rehearse_drop(void *arg)
{
	LockRelationOid(doomed, AccessExclusiveLock);
	detach_and_drop();
	elog(ERROR, "nobody watched the drop of table %u", doomed);
}

/* Find out what would fall with it; ERROR with the reason to postpone. */
static void
rehearse(void)
{
	ErrorData  *error;

	rehearsing = true;
	rehearsed = false;
	error = cmek_try(rehearse_drop, NULL);
	rehearsing = false;
	if (!rehearsed)
		ReThrowError(error);
	FreeErrorData(error);
}

/* Is it still a table of the lost key, as of now? */
static bool
is_still_bound(const CmekLostKey *key)
{
	static const Oid types[] = {OIDOID, NAMEOID};
	NameData	name;
	Datum		values[2];
	char	   *server = cmek_table_server(doomed);

	namestrcpy(&name, key->name);
	values[0] = ObjectIdGetDatum(doomed);
	values[1] = NameGetDatum(&name);
	return server != NULL && strcmp(server, key->name) == 0 &&
		cmek_visit_sql("SELECT FROM cmek.bindings b"
					   " JOIN pg_catalog.pg_class c ON c.oid = b.relid"
					   " WHERE b.relid = $1 AND b.server = $2"
					   " AND c.relkind IN ('r', 'm')",
					   SPI_OK_SELECT, 2, types, values, NULL) == 1;
}

/*
 * Is the key away, as of now?  The KMS is asked by this table's own wrapped
 * key; only an answer that counts is a yes.
 */
static bool
is_still_away(const CmekLostKey *key)
{
	return !cmek_key_is_suspended(key->name) &&
		cmek_watch_counts(cmek_watch_try(key->server, doomed));
}

/* Take the snapshot, as the owner. */
static char *
take_snapshot(void)
{
	Oid			user;
	int			context;
	char	   *id;

	become_owner(doomed, &user, &context);
	id = cmek_snapshot_take(doomed, CMEK_SNAPSHOT_KEY_LOST);
	SetUserIdAndSecContext(user, context);
	cmek_stop("drop-snapshotted");
	return id;
}

/* Drop the doomed table, or find that it is not to be; ERROR: postpone. */
static void
drop_table(const CmekLostKey *key, char *taken)
{
	/* a statement that reads it goes on failing instead of waiting for us */
	LockRelationOid(doomed, ExclusiveLock);
	if (!is_still_bound(key) || !is_still_away(key))
		return;
	rehearse();
	cmek_stop("drop-rehearsed");
	strlcpy(taken, take_snapshot(), NAMEDATALEN);
	LockRelationOid(doomed, AccessExclusiveLock);
	/* nothing was dropped yet, so the snapshot is not kept either */
	if (!is_still_away(key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the key was not found to be away once more")));
	cmek_event_note(CMEK_EVENT_SNAPSHOT, key->name, doomed, taken);
	cmek_event_note(CMEK_EVENT_DROP, key->name, doomed, taken);
	detach_and_drop();
	cmek_event_by_nobody();
	cmek_stop("drop-dropped");
}

/* ----------
 * Postponing
 * ----------
 */

/* Write down that a table could not be dropped; is it time to tell so? */
static bool
write_postponed(Oid relid, const char *reason, int drop_after)
{
	static const Oid types[] = {OIDOID, TEXTOID, INT4OID};
	Datum		values[3];

	values[0] = ObjectIdGetDatum(relid);
	values[1] = CStringGetTextDatum(reason);
	/* daily; of another cmek.drop_after, the same share of it */
	values[2] = Int32GetDatum(Max(drop_after / 7, 1));
	return cmek_visit_sql("INSERT INTO cmek.drop_postponed AS p"
						  " VALUES ($1, pg_catalog.now(), $2)"
						  " ON CONFLICT (relid) DO UPDATE"
						  " SET at = pg_catalog.now(), reason = $2"
						  " WHERE p.at > pg_catalog.now()"
						  "  OR p.at <= pg_catalog.now() - $3 * interval '1 s'"
						  " RETURNING relid",
						  SPI_OK_INSERT_RETURNING, 3, types, values, NULL) > 0;
}

/* The drop of a table is put off: say why, at most once a day. */
static void
postpone(const CmekLostKey *key, Oid relid, const char *reason)
{
	CmekEvent  *event = palloc0(sizeof(CmekEvent));
	char	   *name;

	cmek_visit_begin();
	name = get_rel_name(relid);
	if (name != NULL && write_postponed(relid, reason, key->drop_after))
	{
		event->database = MyDatabaseId;
		event->relid = relid;
		strlcpy(event->event, CMEK_EVENT_WARN, sizeof(event->event));
		strlcpy(event->outcome, CMEK_OUTCOME_OBSERVED, sizeof(event->outcome));
		strlcpy(event->key, key->name, sizeof(event->key));
		strlcpy(event->table,
				quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
										   name),
				sizeof(event->table));
		snprintf(event->detail, sizeof(event->detail),
				 "not dropped yet: %s", reason);
		cmek_event_record(event);
	}
	cmek_visit_end();
}

/* Log an error and forget it; what it says, in the memory context. */
static char *
end_failed(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(context);
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("could not drop table %u, whose key is lost: %s",
					doomed, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhidestmt(true), errhidecontext(true)));
	return error->detail == NULL ? error->message :
		psprintf("%s: %s", error->message, error->detail);
}

/* One table, in a transaction of its own. */
static void
handle_table(const CmekLostKey *key, Oid relid, MemoryContext context)
{
	char		taken[NAMEDATALEN] = "";
	char	   *volatile reason = NULL;

	doomed = relid;
	PG_TRY();
	{
		cmek_visit_begin();
		drop_table(key, taken);
		cmek_visit_end();
		cmek_stop("drop-committed");
	}
	PG_CATCH();
	{
		reason = end_failed(context);
	}
	PG_END_TRY();
	doomed = InvalidOid;
	if (reason == NULL)
		return;
	/* asks the catalogs, so it is right even if the commit did succeed */
	if (taken[0] != '\0')
		cmek_snapshot_disown(taken);
	postpone(key, relid, reason);
}

/* The tables that are bound to a key. */
static List *
tables_of(const CmekLostKey *key, MemoryContext context)
{
	static const Oid types[] = {NAMEOID};
	NameData	name;
	Datum		values[1] = {NameGetDatum(&name)};
	List	   *tables = NIL;
	uint64		n;
	MemoryContext old;

	namestrcpy(&name, key->name);
	cmek_visit_begin();
	/* views of others come before what they were made of */
	n = cmek_visit_sql("SELECT b.relid FROM cmek.bindings b"
					   " JOIN pg_catalog.pg_class c ON c.oid = b.relid"
					   " WHERE b.server = $1 AND c.relkind IN ('r', 'm')"
					   " ORDER BY c.oid DESC",
					   SPI_OK_SELECT, 1, types, values, NULL);
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;

		tables = lappend_oid(tables,
							 DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
															SPI_tuptable->tupdesc,
															1, &isnull)));
	}
	MemoryContextSwitchTo(old);
	cmek_visit_end();
	return tables;
}

/* All tables of a lost key. */
static void
handle_key(const CmekLostKey *key)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "cmek drop",
												  ALLOCSET_DEFAULT_SIZES);
	ListCell   *lc;

	foreach(lc, tables_of(key, context))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		handle_table(key, lfirst_oid(lc), context);
	}
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}

/* ----------
 * The worker
 * ----------
 */

/* Be the one that drops, in the whole server; false when there is one. */
static bool
lock_out_others(bool for_session)
{
	LOCKTAG		tag;
	LockAcquireResult result;

	SET_LOCKTAG_ADVISORY(tag, InvalidOid, 0, 0, DROP_LOCK_CLASS);
	StartTransactionCommand();
	result = LockAcquire(&tag, ExclusiveLock, for_session, true);
	CommitTransactionCommand();
	return result != LOCKACQUIRE_NOT_AVAIL;
}

/* Entry of the worker; its argument is the database. */
void
cmek_drop_main(Datum arg)
{
	ListCell   *lc;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	cmek_visit_pin_settings();
	if (!lock_out_others(true))
		proc_exit(0);
	next_hook = object_access_hook;
	object_access_hook = watch_drop;
	foreach(lc, cmek_watch_lost())
		handle_key(lfirst(lc));
	proc_exit(0);
}

/* Start it. */
static void
start_worker(void)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	cmek_bgworker_fill(&worker, "cmek drop", "cmek_drop_main", true);
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start a worker for tables whose key is lost"),
				 errhint("Increase max_worker_processes if this goes on.")));
}

/* See snapshot.h. */
TimestampTz
cmek_lifecycle_drop_due(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (cmek_watch_lost() == NIL)
		return DT_NOEND;
	if (lock_out_others(false))
		start_worker();
	return now + cmek_watch_period() * USECS_PER_SEC;
}
