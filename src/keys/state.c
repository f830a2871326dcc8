/*-------------------------------------------------------------------------
 *
 * state.c
 *	  What is known of each KMS key since the server started: is it there,
 *	  since when, how did it last fail.
 *
 * Entries are found by database and server OID and guarded by the board's
 * lock, which every function here expects the caller to hold exclusively
 * (shared is enough for those that only read).
 *
 * Two things are kept apart.  The state is what people see.  The failure is
 * the back-off: a request of the same kind is answered from it at once until
 * its time is over, so that a thousand backends do not hammer a KMS that has
 * just said no.  An answer about one damaged blob, or about one version of a
 * KMS key, does not speak for the others.
 *
 * ALTER SERVER may come while a call by the options before it is under way.  So
 * an entry keeps the hash of the options that were asked with last: the answer
 * to a call by others changes nothing here, and nobody proves by others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "keys/internal.h"
#include "keys/watch.h"

#define BACKOFF_FIRST_MS 250
#define BACKOFF_LAST_MS 5000

PG_FUNCTION_INFO_V1(cmek_server_state);

typedef struct ServerFailure
{
	bool		active;
	CmekOperation op;
	uint8		uuid[CMEK_UUID_LEN];
	uint64		version;		/* hash */
	uint64		config_hash;
	CmekKmsClass klass;
	char		code[CMEK_KMS_MAX_CODE];
	char		message[CMEK_KMS_MAX_MESSAGE];
	int			delay_ms;
	CmekInstant retry_at;
} ServerFailure;

typedef struct ServerEntry
{
	bool		used;
	Oid			database;
	Oid			server;
	char		name[NAMEDATALEN];
	int			requests;		/* on the board */
	int			running;		/* of them, at a worker */
	CmekInstant used_at;

	/* what people see */
	bool		known;
	CmekKmsClass klass;			/* CMEK_KMS_OK: enabled */
	char		code[CMEK_KMS_MAX_CODE];
	char		message[CMEK_KMS_MAX_MESSAGE];
	TimestampTz since;
	TimestampTz last_ok;

	bool		suspended;		/* in its database */
	CmekSuspension suspension;

	/* the clock of observed inaccessible time; see watch.h */
	CmekInstant answered_at;
	CmekInstant failed_at;		/* last answer, if it was a failure; else 0 */
	int64		denied_ms;
	int64		unreachable_ms;
	bool		was_ok;

	CmekInstant denied_at;		/* start of the last unwrap that was denied */
	CmekInstant proved_at;		/* last answer, if it was a good one */
	ServerFailure failure;

	/* of the newest options that somebody read in the catalogs and asked with */
	uint64		asked_hash;
} ServerEntry;

static ServerEntry *servers = NULL;

/*
 * How many KMS keys can be known at a time, those of all databases together: a
 * key that is forgotten has no clock.  Each database has a service key.
 */
int
cmek_num_servers(void)
{
	return Max(1024, cmek_key_cache_size / 4);
}

Size
cmek_state_shmem_size(void)
{
	return mul_size(cmek_num_servers(), sizeof(ServerEntry));
}

/* Find or make the table in shared memory. */
void
cmek_state_shmem_init(void)
{
	bool		found;

	servers = ShmemInitStruct("cmek servers", cmek_state_shmem_size(), &found);
	if (!found)
		memset(servers, 0, cmek_state_shmem_size());
}

/* Is it better to forget the one than the other? */
static bool
better_to_forget(const ServerEntry *a, const ServerEntry *b)
{
	if (a->suspended != b->suspended)
		return b->suspended;
	return a->used_at < b->used_at;
}

/* Make room for a new entry: an unused one, or the one used longest ago. */
static int
recycle_entry(void)
{
	int			best = -1;

	for (int i = 0; i < cmek_num_servers(); i++)
	{
		if (!servers[i].used)
			return i;
		if (servers[i].requests == 0 &&
			(best < 0 || better_to_forget(&servers[i], &servers[best])))
			best = i;
	}
	/* requests and suspensions hold entries for a moment; so many never do */
	if (best < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many KMS keys are in use at once"),
				 errhint("Increase cmek.key_cache_size.")));
	cmek_cache_drop_server(best);
	cmek_proof_options_forget(best);
	return best;
}

/* The entry of a server, made when new, held until "leave". */
int
cmek_server_reserve(Oid database, Oid server, const char *name)
{
	int			i = 0;

	while (i < cmek_num_servers() &&
		   (!servers[i].used || servers[i].database != database ||
			servers[i].server != server))
		i++;
	if (i == cmek_num_servers())
	{
		i = recycle_entry();
		memset(&servers[i], 0, sizeof(ServerEntry));
		servers[i].used = true;
		servers[i].database = database;
		servers[i].server = server;
	}
	strlcpy(servers[i].name, name, NAMEDATALEN);
	servers[i].used_at = cmek_now();
	servers[i].requests++;
	return i;
}

/* The same for the server of a request. */
int
cmek_server_enter(const CmekKeyRequest *what)
{
	return cmek_server_reserve(what->database, what->server,
							   what->server_name);
}

/* See internal.h. */
void
cmek_server_suspend(int server, const CmekSuspension *suspension)
{
	servers[server].suspended = suspension != NULL;
	if (suspension == NULL)
		return;
	servers[server].suspension = *suspension;
	cmek_cache_drop_server(server);
	/* its tables may have been opened by other KMS keys */
	cmek_cache_end_leases();
}

/*
 * A name was suspended everywhere: drop the keys of its servers.  The names
 * here may be older than the catalogs', so let everybody look again.
 */
void
cmek_server_suspend_named(const char *name)
{
	for (int i = 0; i < cmek_num_servers(); i++)
		if (servers[i].used && strcmp(servers[i].name, name) == 0)
			cmek_cache_drop_server(i);
	cmek_cache_end_leases();
}

/* Is a KMS key out of use by order?  Then fill in the reply, if any. */
bool
cmek_server_is_suspended(int server, CmekReply *reply)
{
	CmekSuspension suspension = servers[server].suspension;

	if (!cmek_everywhere_find_locked(servers[server].name, &suspension) &&
		!servers[server].suspended)
		return false;
	if (reply != NULL)
		cmek_suspension_fill_reply(&suspension, reply);
	return true;
}

/* A backend asks by the options that the catalogs have now. */
void
cmek_server_asked(int server, const CmekKeyRequest *what)
{
	servers[server].asked_hash = what->config_hash;
}

/* A request has left the board. */
void
cmek_server_leave(int server)
{
	Assert(servers[server].requests > 0);
	servers[server].requests--;
}

/* May one more call to this KMS key run?  Then count it. */
bool
cmek_server_start(int server, int limit)
{
	if (servers[server].running >= limit)
		return false;
	servers[server].running++;
	return true;
}

/* A call has ended. */
void
cmek_server_stop(int server)
{
	Assert(servers[server].running > 0);
	servers[server].running--;
}

/* The hash by which versions of a KMS key are told apart. */
static uint64
version_hash(const CmekKeyRequest *what)
{
	return hash_bytes_extended((const unsigned char *) what->version,
							   strlen(what->version), 0);
}

/* Does a failure speak for this request, if the options are the same? */
static bool
failure_covers(const ServerFailure *failure, const CmekKeyRequest *what)
{
	if (!failure->active)
		return false;
	if (failure->klass == CMEK_KMS_UNREACHABLE)
		return true;
	if (failure->op != what->op)
		return false;
	if (failure->klass == CMEK_KMS_CORRUPT)
		return memcmp(failure->uuid, what->uuid, CMEK_UUID_LEN) == 0;
	return failure->version == version_hash(what);
}

/* Is the answer to a request known from a failure a moment ago? */
bool
cmek_server_remembers(int server, const CmekKeyRequest *what,
					  CmekReply *reply)
{
	const ServerFailure *failure = &servers[server].failure;

	if (!failure_covers(failure, what) ||
		failure->config_hash != what->config_hash ||
		cmek_now() >= failure->retry_at)
		return false;
	if (reply == NULL)
		return true;
	memset(reply, 0, sizeof(CmekReply));
	reply->klass = failure->klass;
	strlcpy(reply->code, failure->code, sizeof(reply->code));
	strlcpy(reply->message, failure->message, sizeof(reply->message));
	reply->since = cmek_server_since(server);
	return true;
}

/* Was the key denied by a call that started after this one did? */
bool
cmek_server_revoked_since(int server, CmekInstant started)
{
	return started <= servers[server].denied_at;
}

/* Since when the key is inaccessible; 0 when it is not. */
TimestampTz
cmek_server_since(int server)
{
	const ServerEntry *entry = &servers[server];

	return entry->known && entry->klass != CMEK_KMS_OK ? entry->since : 0;
}

/* See internal.h. */
bool
cmek_server_denied(int server)
{
	return servers[server].denied_at > servers[server].proved_at;
}

/* Remember a failure, for twice as long as the one before it. */
static void
remember_failure(ServerEntry *entry, const CmekKeyRequest *what,
				 const CmekKmsAnswer *answer)
{
	ServerFailure *failure = &entry->failure;
	int			delay = BACKOFF_FIRST_MS;

	if (failure_covers(failure, what))
		delay = Min(failure->delay_ms * 2, BACKOFF_LAST_MS);
	/* a key that is back works again within a probe's time */
	delay = Min(delay, cmek_key_cache_ttl * 1000);
	failure->active = true;
	failure->op = what->op;
	memcpy(failure->uuid, what->uuid, CMEK_UUID_LEN);
	failure->version = version_hash(what);
	failure->config_hash = what->config_hash;
	failure->klass = answer->klass;
	strlcpy(failure->code, answer->code, sizeof(failure->code));
	strlcpy(failure->message, answer->message, sizeof(failure->message));
	failure->delay_ms = delay;
	/* between half of the delay and all of it */
	failure->retry_at = cmek_now() + (int64) (delay * 500) +
		(int64) (pg_prng_double(&pg_global_prng_state) * delay * 500);
}

/* Change what people see. */
static CmekServerChange
set_state(ServerEntry *entry, const CmekKmsAnswer *answer)
{
	bool		was_ok = entry->known && entry->klass == CMEK_KMS_OK;
	bool		is_ok = answer->klass == CMEK_KMS_OK;
	CmekServerChange change = CMEK_SERVER_SAME;

	if (!entry->known || was_ok != is_ok)
	{
		entry->since = GetCurrentTimestamp();
		if (!is_ok)
			change = CMEK_SERVER_LOST;
		else if (entry->known)
			change = CMEK_SERVER_BACK;
	}
	else if (!is_ok && entry->klass != answer->klass)
		change = CMEK_SERVER_LOST;	/* for another reason than before */
	entry->known = true;
	entry->klass = answer->klass;
	strlcpy(entry->code, answer->code, sizeof(entry->code));
	strlcpy(entry->message, answer->message, sizeof(entry->message));
	if (is_ok)
	{
		entry->last_ok = GetCurrentTimestamp();
		entry->proved_at = cmek_now();
	}
	return change;
}

/*
 * Milliseconds between two failures; 0 when there was something in between,
 * or so much time that nobody knows.
 */
static int64
time_between(CmekInstant before, CmekInstant now)
{
	int64		longest = 2000 * (int64) cmek_key_cache_ttl + cmek_kms_timeout;
	int64		ms = (now - before) / 1000;

	return before == 0 || ms > longest ? 0 : ms;
}

/*
 * Count the time since the failure before this one as inaccessible.  It was
 * denied when both say so.  A standby does not count: what it has seen is not
 * to speed up anything once it is promoted.
 */
static void
run_clock(ServerEntry *entry, CmekKmsClass klass)
{
	CmekInstant now = cmek_now();
	int64		ms;

	entry->answered_at = now;
	if (klass == CMEK_KMS_OK)
	{
		entry->failed_at = 0;
		entry->denied_ms = entry->unreachable_ms = 0;
		entry->was_ok = true;
		return;
	}
	if (RecoveryInProgress())
	{
		entry->failed_at = 0;
		return;
	}
	ms = time_between(entry->failed_at, now);
	entry->failed_at = now;
	if (klass == CMEK_KMS_DENIED && entry->klass == CMEK_KMS_DENIED)
		entry->denied_ms += ms;
	else if (klass != CMEK_KMS_MISCONFIGURED)
		entry->unreachable_ms += ms;
}

/* Take note of the answer to a call. */
CmekServerChange
cmek_server_observe(int server, const CmekKeyRequest *what,
					const CmekKmsAnswer *answer, CmekInstant started)
{
	ServerEntry *entry = &servers[server];

	/* options that were changed since prove nothing */
	if (what->config_hash != entry->asked_hash)
		return CMEK_SERVER_SAME;
	if (answer->klass == CMEK_KMS_OK)
	{
		if (failure_covers(&entry->failure, what))
			entry->failure.active = false;
		cmek_proof_options_keep(server, what);
		run_clock(entry, answer->klass);
		return set_state(entry, answer);
	}
	remember_failure(entry, what, answer);
	if (answer->klass == CMEK_KMS_DENIED && what->op == CMEK_OP_UNWRAP)
		entry->denied_at = Max(entry->denied_at, started);
	/* one damaged blob says nothing about the key */
	if (answer->klass == CMEK_KMS_CORRUPT)
		return CMEK_SERVER_SAME;
	/* neither does the want of a right to make new keys, while old ones open */
	if (what->op == CMEK_OP_GENERATE && entry->known &&
		entry->klass == CMEK_KMS_OK)
		return CMEK_SERVER_SAME;
	run_clock(entry, answer->klass);
	return set_state(entry, answer);
}

/*
 * The options a proof is to be made with; false when none ever worked, or when
 * those that did are not the newest.
 */
bool
cmek_server_proof_config(int server, CmekKeyRequest *what)
{
	const ServerEntry *entry = &servers[server];

	if (!entry->used ||
		!cmek_proof_options_read(server, entry->asked_hash, what))
		return false;
	what->database = entry->database;
	what->server = entry->server;
	strlcpy(what->server_name, entry->name, NAMEDATALEN);
	return true;
}

/*
 * For each server, the time before which a cached key must have been proved
 * to stay: the grace while the KMS does not answer, and never longer than TTL
 * and grace together, whatever became of the proofs.
 */
void
cmek_server_oldest_proofs(CmekInstant now, CmekInstant *oldest)
{
	int64		ttl = cmek_key_cache_ttl * USECS_PER_SEC;
	int64		grace = cmek_kms_grace * USECS_PER_SEC;

	for (int i = 0; i < cmek_num_servers(); i++)
		oldest[i] = now - (cmek_server_since(i) != 0 ? Max(ttl, grace) :
						   ttl + grace + 30 * USECS_PER_SEC);
}

/* The entry of a server of this database; NULL when there is none. */
static ServerEntry *
find_entry(Oid server)
{
	for (int i = 0; i < cmek_num_servers(); i++)
		if (servers[i].used && servers[i].database == MyDatabaseId &&
			servers[i].server == server)
			return &servers[i];
	return NULL;
}

/*
 * The options of a request do not lead to its KMS: copy the key if it was
 * proved by those before them within the grace, as for a KMS that went away
 * under the same options.
 */
bool
cmek_server_forgives(const CmekKeyRequest *what, uint8 *key, CmekLease *lease)
{
	int			grace = Max(cmek_key_cache_ttl, cmek_kms_grace);
	const ServerEntry *entry;
	bool		found;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	entry = find_entry(what->server);
	found = entry != NULL &&
		cmek_cache_fetch_proved(what, entry - servers,
								cmek_now() - grace * USECS_PER_SEC,
								key, lease);
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	return found;
}

/* See internal.h. */
bool
cmek_server_was_denied(Oid serverid)
{
	const ServerEntry *entry;
	bool		denied;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	entry = find_entry(serverid);
	denied = entry != NULL && entry->denied_at > entry->proved_at;
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	return denied;
}

/* See internal.h. */
bool
cmek_server_is_failing(Oid serverid)
{
	const ServerEntry *entry;
	bool		failing;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	entry = find_entry(serverid);
	failing = entry != NULL && entry->known && entry->klass != CMEK_KMS_OK;
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	return failing;
}

/* See watch.h. */
bool
cmek_watch_read(Oid server, CmekWatch *watch)
{
	const ServerEntry *entry;

	memset(watch, 0, sizeof(CmekWatch));
	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	entry = find_entry(server);
	if (entry != NULL && entry->known)
	{
		watch->known = true;
		watch->klass = entry->klass;
		strlcpy(watch->code, entry->code, sizeof(watch->code));
		strlcpy(watch->message, entry->message, sizeof(watch->message));
		watch->since = entry->since;
		watch->last_ok = entry->last_ok;
		watch->answered_at = entry->answered_at;
		watch->denied_ms = entry->denied_ms;
		watch->unreachable_ms = entry->unreachable_ms;
		watch->was_ok = entry->was_ok;
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	return watch->known;
}

/* See watch.h.  What came since stays to be written. */
void
cmek_watch_written(Oid server, const CmekWatch *watch)
{
	ServerEntry *entry;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_EXCLUSIVE);
	entry = find_entry(server);
	if (entry != NULL && entry->answered_at == watch->answered_at)
		entry->was_ok = false;
	if (entry != NULL && entry->denied_ms >= watch->denied_ms &&
		entry->unreachable_ms >= watch->unreachable_ms)
	{
		entry->denied_ms -= watch->denied_ms;
		entry->unreachable_ms -= watch->unreachable_ms;
	}
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
}

/* See watch.h. */
void
cmek_watch_restore(Oid server, const char *name, const CmekWatch *before)
{
	ServerEntry *entry;
	int			i;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_EXCLUSIVE);
	i = cmek_server_reserve(MyDatabaseId, server, name);
	entry = &servers[i];
	if (!entry->known)
	{
		entry->known = true;
		entry->klass = before->klass;
		strlcpy(entry->code, before->code, sizeof(entry->code));
		strlcpy(entry->message, before->message, sizeof(entry->message));
		entry->since = before->since;
	}
	else if (entry->klass != CMEK_KMS_OK && before->klass != CMEK_KMS_OK &&
			 entry->last_ok < before->since)
		entry->since = Min(entry->since, before->since);
	entry->last_ok = Max(entry->last_ok, before->last_ok);
	cmek_server_leave(i);
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
}

/* Emit one row of cmek.server_state(). */
static void
put_state(ReturnSetInfo *rsinfo, const ServerEntry *entry)
{
	Datum		values[6] = {0};
	bool		nulls[6] = {false};
	bool		ok = entry->klass == CMEK_KMS_OK;

	values[0] = ObjectIdGetDatum(entry->server);
	values[1] = CStringGetTextDatum(ok ? "enabled" : "inaccessible");
	values[2] = CStringGetTextDatum(entry->message);
	nulls[2] = ok;
	values[3] = CStringGetTextDatum(entry->code);
	nulls[3] = ok;
	values[4] = TimestampTzGetDatum(entry->since);
	values[5] = TimestampTzGetDatum(entry->last_ok);
	nulls[5] = entry->last_ok == 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Copy one entry; false when it is not of interest. */
static bool
copy_entry(int i, ServerEntry *copy)
{
	bool		wanted;

	LWLockAcquire(cmek_lock(CMEK_LOCK_BOARD), LW_SHARED);
	wanted = servers[i].used && servers[i].known &&
		servers[i].database == MyDatabaseId;
	if (wanted)
		*copy = servers[i];
	LWLockRelease(cmek_lock(CMEK_LOCK_BOARD));
	return wanted;
}

/* May the caller know how a KMS key is? */
static bool
may_see(Oid server)
{
	return SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(server)) &&
		(has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		 cmek_server_aclcheck(server, GetUserId(), ACL_USAGE) == ACLCHECK_OK);
}

/*
 * SQL: what is known of the KMS keys of this database that the caller may
 * use or monitor.
 */
Datum
cmek_server_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ServerEntry *entry = palloc(sizeof(ServerEntry));

	cmek_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < cmek_num_servers(); i++)
		if (copy_entry(i, entry) && may_see(entry->server))
			put_state(rsinfo, entry);
	return (Datum) 0;
}
