/*-------------------------------------------------------------------------
 *
 * suspend.c
 *	  Breaking the glass: a KMS key is suspended for this database, at once
 *	  and for running scans too, and resumed.  Needs no KMS.
 *
 * The truth is a row of cmek.suspended_key: transactional, WAL-logged,
 * replicated, in every backup.  Whoever comes by an opened table key looks
 * for that row *after* the key and before it is used (tablekey.c).  At the
 * commit of a suspension every cached key of the server is dropped, which ends
 * the leases of all rings, so that whoever holds a key looks again.  In
 * either order of the two a suspended key is not used.
 *
 * Besides, the server's entry in shared memory is marked (state.c), so that
 * no request for it is carried out and no late answer stored.  The mark is an
 * optimization: only commits of this file set and clear it, one after the
 * other, since they hold a lock on the server; what is forgotten by a restart
 * is the mark, never the row.
 *
 * What can fail at commit is done before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/events.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_suspend_key);
PG_FUNCTION_INFO_V1(cmek_resume_key);

/* A server that this transaction suspended or resumed */
typedef struct TouchedServer
{
	Oid			server;
	char		name[NAMEDATALEN];
	/* filled in shortly before commit */
	int			entry;			/* of state.c, held; -1: not yet */
	bool		suspended;
	CmekSuspension suspension;
} TouchedServer;

/* Of this transaction, in its memory */
static List *touched = NIL;

/* See internal.h. */
bool
cmek_suspended(const char *server, CmekSuspension *suspension)
{
	return cmek_everywhere_find(server, suspension) ||
		cmek_suspended_row_find(server, suspension);
}

/* See internal.h. */
void
cmek_suspension_fill_reply(const CmekSuspension *suspension, CmekReply *reply)
{
	memset(reply, 0, sizeof(CmekReply));
	reply->klass = CMEK_KMS_DENIED;
	strlcpy(reply->code, CMEK_CODE_SUSPENDED, sizeof(reply->code));
	if (suspension->by[0] == '\0')
		snprintf(reply->message, sizeof(reply->message),
				 "suspended because file \"%s\" in the data directory is damaged",
				 CMEK_EVERYWHERE_FILE);
	else
		snprintf(reply->message, sizeof(reply->message),
				 "suspended %s by role \"%s\"",
				 suspension->everywhere ? "everywhere" : "in this database",
				 suspension->by);
	reply->since = suspension->since;
}

/* Remember a server whose row this transaction has changed. */
static void
touch(Oid server, const char *name)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	TouchedServer *entry = palloc0(sizeof(TouchedServer));

	entry->server = server;
	strlcpy(entry->name, name, NAMEDATALEN);
	entry->entry = -1;
	touched = lappend(touched, entry);
	MemoryContextSwitchTo(old);
}

/* Before commit: find out how things stand, and reserve what is needed. */
static void
prepare_commit(void)
{
	ListCell   *lc;

	foreach(lc, touched)
	{
		TouchedServer *t = (TouchedServer *) lfirst(lc);

		t->suspended = cmek_suspended_row_find(t->name, &t->suspension);
		LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_EXCLUSIVE);
		t->entry = cmek_server_reserve(MyDatabaseId, t->server, t->name);
		LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	}
}

/* At the end: let the commit have its effect.  Cannot fail. */
static void
finish(bool committed)
{
	ListCell   *lc;

	foreach(lc, touched)
	{
		TouchedServer *t = (TouchedServer *) lfirst(lc);

		if (t->entry < 0)
			continue;
		LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_EXCLUSIVE);
		if (committed)
			cmek_server_suspend(t->entry, t->suspended ? &t->suspension : NULL);
		cmek_server_leave(t->entry);
		LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	}
	touched = NIL;
}

/* End of a transaction. */
static void
at_xact_end(XactEvent event, void *arg)
{
	if (touched == NIL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			prepare_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			/* whoever commits it would not know that there is more to do */
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has suspended or resumed a KMS key")));
			break;
		case XACT_EVENT_COMMIT:
			finish(true);
			break;
		case XACT_EVENT_ABORT:
			finish(false);
			break;
		default:
			break;
	}
}

/* Register the callback; called once in each process. */
void
cmek_suspend_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
}

/* The KMS key that the caller may suspend, locked until the end. */
static Oid
find_own_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, false);
	const char *wrapper = GetForeignDataWrapper(server->fdwid)->fdwname;

	if (cmek_kms_provider(wrapper) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a KMS key", name)));
	if (!cmek_server_ownercheck(server->serverid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_SERVER, name);
	LockDatabaseObject(ForeignServerRelationId, server->serverid, 0,
					   ShareUpdateExclusiveLock);
	if (get_foreign_server_oid(name, true) != server->serverid)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name)));
	return server->serverid;
}

/* Complain unless the caller may do it for the whole cluster. */
static void
require_superuser(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to suspend or resume a KMS key everywhere")));
}

/* What happens in every database happens at once: so does its event. */
static void
record_everywhere(const char *what, const char *name)
{
	CmekEvent  *event = palloc0(sizeof(CmekEvent));

	event->database = MyDatabaseId;
	strlcpy(event->event, what, sizeof(event->event));
	strlcpy(event->outcome, CMEK_OUTCOME_DONE, sizeof(event->outcome));
	strlcpy(event->key, name, sizeof(event->key));
	strlcpy(event->role, GetUserNameFromId(GetUserId(), false),
			sizeof(event->role));
	strlcpy(event->detail, "everywhere", sizeof(event->detail));
	cmek_event_record(event);
	pfree(event);
}

/* Suspend for this database, as of commit. */
static void
suspend_here(const char *name)
{
	Oid			server;
	CmekSuspension suspension = {0};

	PreventCommandIfReadOnly("cmek.suspend_key()");
	PreventCommandDuringRecovery("cmek.suspend_key()");
	cmek_event_note(CMEK_EVENT_SUSPEND, name, InvalidOid, NULL);
	server = find_own_server(name);
	if (cmek_suspended_row_find(name, &suspension))
	{
		ereport(NOTICE,
				(errmsg("KMS key \"%s\" is suspended already", name)));
		return;
	}
	suspension.since = GetCurrentTimestamp();
	strlcpy(suspension.by, GetUserNameFromId(GetUserId(), false), NAMEDATALEN);
	cmek_suspended_row_insert(name, &suspension);
	touch(server, name);
}

/* Undo it, as of commit. */
static void
resume_here(const char *name)
{
	Oid			server;

	PreventCommandIfReadOnly("cmek.resume_key()");
	PreventCommandDuringRecovery("cmek.resume_key()");
	cmek_event_note(CMEK_EVENT_RESUME, name, InvalidOid, NULL);
	server = find_own_server(name);
	if (cmek_suspended_row_delete(name))
		touch(server, name);
	else
		ereport(NOTICE,
				(errmsg("KMS key \"%s\" is not suspended in this database",
						name)));
}

/*
 * SQL: suspend_key(name, everywhere).  For its database: by the server's
 * owner, at commit.  Everywhere: by a superuser, at once.
 */
Datum
cmek_suspend_key(PG_FUNCTION_ARGS)
{
	const char *name = NameStr(*PG_GETARG_NAME(0));

	cmek_require_preload();
	if (PG_GETARG_BOOL(1))
	{
		require_superuser();
		cmek_everywhere_add(name, GetUserNameFromId(GetUserId(), false));
		record_everywhere(CMEK_EVENT_SUSPEND, name);
	}
	else
		suspend_here(name);
	PG_RETURN_VOID();
}

/* SQL: resume_key(name, everywhere), by the same people. */
Datum
cmek_resume_key(PG_FUNCTION_ARGS)
{
	const char *name = NameStr(*PG_GETARG_NAME(0));

	cmek_require_preload();
	if (PG_GETARG_BOOL(1))
	{
		require_superuser();
		cmek_everywhere_remove(name);
		record_everywhere(CMEK_EVENT_RESUME, name);
	}
	else
		resume_here(name);
	PG_RETURN_VOID();
}

/* See keys.h. */
bool
cmek_key_is_suspended(const char *server)
{
	CmekSuspension suspension;

	return cmek_suspended(server, &suspension);
}

/* See keys.h. */
void
cmek_keys_server_dropped(Oid serverid, const char *name)
{
	if (cmek_is_preloaded() && cmek_suspended_row_delete(name))
		touch(serverid, name);
}
