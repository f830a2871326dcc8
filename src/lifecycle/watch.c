/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Watching the KMS keys of a database: cmek.key_watch.
 *
 * What KMS workers learn of a key is in shared memory (keys/state.c); here it
 * becomes durable, and after a start it is brought back from there.  Keys that
 * tables are bound to and nobody uses are proved by a probe: hourly while they
 * are well, once a period while they are not, so that a key that comes back
 * does so by itself.
 *
 * The clock that decides about the tables of a lost key is the sum of observed
 * inaccessible time.  It runs in shared memory, between failures that follow
 * each other closely, and only ever grows here by what ran there: a stopped,
 * restored, cloned or promoted server goes on from the recorded sum.  But it
 * drops nothing before it has itself seen a day of it: own_ms begins anew
 * whenever the record is another installation's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "lifecycle/internal.h"

/* Periods between two probes of a key that is well and not used, and at most */
#define PERIODS_WHEN_WELL 12
#define LONGEST_WHEN_WELL USECS_PER_HOUR

/* last_ok is written down when it has moved on by this */
#define LAST_OK_STEP (600 * USECS_PER_SEC)

/* What an installation has to see itself before it drops anything */
#define OWN_MS (SECS_PER_DAY * INT64CONST(1000))

/* One KMS key that tables are bound to */
typedef struct WatchedKey
{
	Oid			server;
	char		name[NAMEDATALEN];
	Oid			relid;			/* one of its tables, any */
	int64		tables;
	bool		recorded;		/* it has a row in cmek.key_watch */
	CmekKmsClass klass;			/* as recorded */
	char		code[CMEK_KMS_MAX_CODE];
	TimestampTz since;
	TimestampTz last_ok;
	int64		denied_ms;
	int64		unreachable_ms;
	int64		own_ms;			/* what of them this installation has seen */
	bool		foreign;		/* the record is another installation's */
	TimestampTz warned_at;
	int			drop_after;		/* s; -1: never */
	CmekWatch	watch;			/* as known in shared memory */
	TimestampTz drop_at;
} WatchedKey;

/* Of the last look, in TopMemoryContext */
static WatchedKey *keys = NULL;
static int	nkeys = 0;

static const char select_keys[] =
"SELECT s.oid, s.srvname, b.relid, b.tables, w.class, w.code, w.reason,"
" w.since, w.last_ok, w.denied_ms, w.unreachable_ms, w.warned_at,"
" w.own_ms, w.installation,"
" (SELECT o.option_value FROM pg_catalog.pg_options_to_table(s.srvoptions) o"
"  WHERE o.option_name = 'drop_after')"
" FROM pg_catalog.pg_foreign_server s"
" JOIN (SELECT b.server, pg_catalog.count(*) AS tables,"
"  (pg_catalog.array_agg(b.relid ORDER BY pg_catalog.random()))[1] AS relid"
"  FROM cmek.bindings b JOIN pg_catalog.pg_class c ON c.oid = b.relid"
"  WHERE c.relkind IN ('r', 'm') GROUP BY b.server) b ON b.server = s.srvname"
" LEFT JOIN cmek.key_watch w ON w.server = s.srvname";

/* The class that a word stands for. */
static CmekKmsClass
class_by_name(const char *name)
{
	CmekKmsClass klass = CMEK_KMS_OK;

	while (klass < CMEK_KMS_CORRUPT &&
		   strcmp(cmek_kms_class_name(klass), name) != 0)
		klass++;
	return klass;
}

/* One column of a row of the look; false when it is null. */
static bool
get_column(int row, int column, Datum *value)
{
	bool		isnull;

	*value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						   column, &isnull);
	return !isnull;
}

/* A time, 0 when null. */
static TimestampTz
get_time(int row, int column)
{
	Datum		value;

	return get_column(row, column, &value) ? DatumGetTimestampTz(value) : 0;
}

/* A text, "" when null. */
static void
get_text(int row, int column, char *text, Size size)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row],
									 SPI_tuptable->tupdesc, column);

	strlcpy(text, value ? value : "", size);
}

/* What is recorded of a key, as it was before the server was stopped. */
static void
restore_recorded(WatchedKey *key, int row)
{
	CmekWatch	before = {0};

	before.known = true;
	before.klass = key->klass;
	before.since = key->since;
	before.last_ok = key->last_ok;
	get_text(row, 6, before.code, sizeof(before.code));
	get_text(row, 7, before.message, sizeof(before.message));
	cmek_watch_restore(key->server, key->name, &before);
}

/* After how many seconds a key's tables are dropped: its option comes first. */
static int
read_drop_after(int row)
{
	char		text[64];
	int			seconds;

	get_text(row, 15, text, sizeof(text));
	return text[0] != '\0' && cmek_parse_duration(text, &seconds) ? seconds :
		cmek_drop_after_seconds();
}

/* What this installation has seen by itself of the recorded time. */
static void
read_own(WatchedKey *key, int row)
{
	char		installation[64];
	Datum		value;

	get_text(row, 14, installation, sizeof(installation));
	key->foreign = strcmp(installation, cmek_installation()) != 0;
	if (!key->foreign && get_column(row, 13, &value))
		key->own_ms = DatumGetInt64(value);
}

/* Take over one row of the look. */
static void
read_key(WatchedKey *key, int row)
{
	char		klass[32];
	Datum		value;

	memset(key, 0, sizeof(WatchedKey));
	(void) get_column(row, 1, &value);
	key->server = DatumGetObjectId(value);
	get_text(row, 2, key->name, sizeof(key->name));
	(void) get_column(row, 3, &value);
	key->relid = DatumGetObjectId(value);
	(void) get_column(row, 4, &value);
	key->tables = DatumGetInt64(value);
	get_text(row, 5, klass, sizeof(klass));
	key->recorded = klass[0] != '\0';
	key->drop_after = read_drop_after(row);
	if (key->recorded)
	{
		key->klass = class_by_name(klass);
		get_text(row, 6, key->code, sizeof(key->code));
		key->since = get_time(row, 8);
		key->last_ok = get_time(row, 9);
		(void) get_column(row, 10, &value);
		key->denied_ms = DatumGetInt64(value);
		(void) get_column(row, 11, &value);
		key->unreachable_ms = DatumGetInt64(value);
		key->warned_at = get_time(row, 12);
		read_own(key, row);
		restore_recorded(key, row);
	}
	(void) cmek_watch_read(key->server, &key->watch);
}

/* Look at all keys that tables are bound to. */
static void
look(void)
{
	(void) cmek_visit_sql(select_keys, SPI_OK_SELECT, 0, NULL, NULL, NULL);
	if (keys != NULL)
		pfree(keys);
	nkeys = (int) SPI_processed;
	keys = MemoryContextAlloc(TopMemoryContext,
							  Max(nkeys, 1) * sizeof(WatchedKey));
	for (int i = 0; i < nkeys; i++)
		read_key(&keys[i], i);
}

/* Milliseconds that count towards the drop of the key's tables. */
static int64
counted_ms(const WatchedKey *key)
{
	return key->denied_ms +
		(cmek_drop_on_unreachable ? key->unreachable_ms : 0);
}

/* Add what the clock has run since it was last written down. */
static void
advance_clock(WatchedKey *key)
{
	if (key->watch.was_ok || key->watch.klass == CMEK_KMS_OK)
		key->denied_ms = key->unreachable_ms = key->own_ms = 0;
	key->denied_ms += key->watch.denied_ms;
	key->unreachable_ms += key->watch.unreachable_ms;
	key->own_ms += key->watch.denied_ms +
		(cmek_drop_on_unreachable ? key->watch.unreachable_ms : 0);
}

/* Milliseconds that are left until the key's tables are dropped. */
static int64
ms_left(const WatchedKey *key)
{
	int64		limit = key->drop_after * INT64CONST(1000);

	return Max(Max(limit - counted_ms(key),
				   Min(limit, OWN_MS) - key->own_ms), 0);
}

/* Does the clock of a key run? */
static bool
counts(const WatchedKey *key)
{
	if (!key->watch.known || key->drop_after < 0 ||
		cmek_key_is_suspended(key->name))
		return false;
	return cmek_watch_counts(key->watch.klass);
}

/*
 * When will the key's tables be dropped, if it stays away?  The time since the
 * last failure is counted by the next one, so nothing falls before the date.
 */
static TimestampTz
foresee_drop(const WatchedKey *key, TimestampTz now)
{
	int64		since = 0;

	if (!counts(key))
		return 0;
	if (key->watch.answered_at != 0)
		since = Min(cmek_now() - key->watch.answered_at,
					2 * cmek_watch_period() * USECS_PER_SEC);
	return now + Max(ms_left(key) * 1000 - since, 0);
}

/*
 * Is a warning due?  Daily, and hourly on the last of seven days; of another
 * cmek.drop_after, the same shares of it.  The event that said the key is lost
 * was the first.
 */
static bool
warning_due(const WatchedKey *key, TimestampTz now)
{
	int64		limit = key->drop_after * INT64CONST(1000000);
	int64		step = key->drop_at - now > limit / 7 ? limit / 7 : limit / 168;

	/* warned in the future: the clock was set back */
	return key->drop_at != 0 && key->warned_at != 0 &&
		(now - key->warned_at >= step || key->warned_at > now);
}

/* Warn, by an event of its own. */
static void
warn(WatchedKey *key, TimestampTz now)
{
	CmekEvent  *event = palloc0(sizeof(CmekEvent));

	event->database = MyDatabaseId;
	event->drop_at = key->drop_at;
	strlcpy(event->event, CMEK_EVENT_WARN, sizeof(event->event));
	strlcpy(event->outcome, CMEK_OUTCOME_OBSERVED, sizeof(event->outcome));
	strlcpy(event->key, key->name, sizeof(event->key));
	strlcpy(event->code, key->watch.code, sizeof(event->code));
	snprintf(event->detail, sizeof(event->detail),
			 "the key is not accessible; " INT64_FORMAT " tables will be snapshotted and dropped",
			 key->tables);
	cmek_event_record(event);
	pfree(event);
	key->warned_at = now;
}

/* Is there anything that the record does not say? */
static bool
record_is_stale(const WatchedKey *key)
{
	const CmekWatch *watch = &key->watch;

	return !key->recorded || key->foreign || watch->klass != key->klass ||
		strcmp(watch->code, key->code) != 0 || watch->since != key->since ||
		watch->denied_ms > 0 || watch->unreachable_ms > 0 ||
		watch->last_ok - key->last_ok >= LAST_OK_STEP;
}

/* Write the record of a key. */
static void
write_record(const WatchedKey *key)
{
	static const Oid types[] = {
		NAMEOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TEXTOID
	};
	const CmekWatch *watch = &key->watch;
	NameData	name;
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1] = "            ";

	namestrcpy(&name, key->name);
	values[0] = NameGetDatum(&name);
	values[1] = CStringGetTextDatum(cmek_kms_class_name(watch->klass));
	values[2] = CStringGetTextDatum(watch->code);
	values[3] = CStringGetTextDatum(watch->message);
	values[4] = TimestampTzGetDatum(watch->since);
	values[5] = TimestampTzGetDatum(watch->last_ok);
	values[6] = Int64GetDatum(key->denied_ms);
	values[7] = Int64GetDatum(key->unreachable_ms);
	values[8] = TimestampTzGetDatum(key->warned_at);
	values[9] = TimestampTzGetDatum(key->drop_at);
	values[10] = Int64GetDatum(key->own_ms);
	values[11] = CStringGetTextDatum(cmek_installation());
	nulls[5] = watch->last_ok == 0 ? 'n' : ' ';
	nulls[8] = key->warned_at == 0 ? 'n' : ' ';
	nulls[9] = key->drop_at == 0 ? 'n' : ' ';
	(void) cmek_visit_sql("INSERT INTO cmek.key_watch AS w VALUES"
						  " ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
						  " ON CONFLICT (server) DO UPDATE SET class = $2, code = $3, reason = $4,"
						  " since = $5, last_ok = $6, denied_ms = $7, unreachable_ms = $8,"
						  " warned_at = $9, drop_at = $10, own_ms = $11, installation = $12",
						  SPI_OK_INSERT, lengthof(types), types, values, nulls);
}

/* Bring the record of a key up to date. */
static void
update_record(WatchedKey *key, TimestampTz now)
{
	bool		stale = record_is_stale(key);

	advance_clock(key);
	key->drop_at = foresee_drop(key, now);
	if (key->watch.klass == CMEK_KMS_OK)
		key->warned_at = 0;
	else if (key->klass == CMEK_KMS_OK || key->warned_at == 0)
		key->warned_at = now;
	else if (warning_due(key, now))
	{
		warn(key, now);
		stale = true;
	}
	if (stale)
		write_record(key);
}

/* When a key is to be proved next. */
static CmekInstant
probe_due(const WatchedKey *key)
{
	int64		period = cmek_watch_period() * USECS_PER_SEC;

	if (!key->watch.known || key->watch.answered_at == 0)
		return 0;
	if (key->watch.klass == CMEK_KMS_OK)
		period = Min(PERIODS_WHEN_WELL * period, LONGEST_WHEN_WELL);
	return key->watch.answered_at + period;
}

/* Have a key proved if its time has come; returns when to look again. */
static CmekInstant
probe(const WatchedKey *key)
{
	CmekInstant now = cmek_now();
	CmekInstant due = probe_due(key);

	if (due > now)
		return due;
	StartTransactionCommand();
	(void) cmek_watch_probe(key->server, key->relid);
	CommitTransactionCommand();
	return now + Min(cmek_watch_period() * USECS_PER_SEC, LONGEST_WHEN_WELL);
}

/*
 * Forget keys that no table is bound to any more: a table that is bound to one
 * later has nothing to do with what was counted for others.
 */
static void
forget_unused(void)
{
	(void) cmek_visit_sql("DELETE FROM cmek.key_watch w WHERE NOT EXISTS"
						  " (SELECT FROM cmek.bindings b"
						  "  JOIN pg_catalog.pg_class c ON c.oid = b.relid"
						  "  WHERE b.server = w.server AND c.relkind IN ('r', 'm'))",
						  SPI_OK_DELETE, 0, NULL, NULL, NULL);
}

/* See internal.h. */
CmekInstant
cmek_watch_keys(void)
{
	TimestampTz now = GetCurrentTimestamp();
	CmekInstant next = CMEK_NEVER;

	cmek_visit_begin();
	look();
	for (int i = 0; i < nkeys; i++)
		if (keys[i].watch.known)
			update_record(&keys[i], now);
	forget_unused();
	cmek_visit_end();
	for (int i = 0; i < nkeys; i++)
	{
		if (keys[i].watch.known)
			cmek_watch_written(keys[i].server, &keys[i].watch);
		next = Min(next, probe(&keys[i]));
	}
	return next;
}

/* See internal.h. */
void
cmek_watch_altered(const char *key)
{
	for (int i = 0; i < nkeys; i++)
	{
		if (strcmp(keys[i].name, key) != 0)
			continue;
		StartTransactionCommand();
		(void) cmek_watch_probe(keys[i].server, keys[i].relid);
		CommitTransactionCommand();
	}
}

/* See internal.h. */
TimestampTz
cmek_watch_drop_at(const char *key)
{
	for (int i = 0; i < nkeys; i++)
		if (strcmp(keys[i].name, key) == 0)
			return keys[i].drop_at;
	return 0;
}

/* Have the tables of a key to be dropped, by what is written down? */
static bool
is_lost(const WatchedKey *key)
{
	return key->recorded && !key->watch.was_ok && counts(key) &&
		ms_left(key) == 0;
}

/* Does the clock of no key run, as far as this process has looked? */
static bool
none_counts(void)
{
	for (int i = 0; i < nkeys; i++)
		if (counts(&keys[i]))
			return false;
	return keys != NULL;
}

/* See internal.h. */
List *
cmek_watch_lost(void)
{
	List	   *lost = NIL;

	cmek_visit_begin();
	/* what went away since then is not lost yet, and a visit will follow */
	if (!none_counts())
		look();
	for (int i = 0; i < nkeys; i++)
		if (is_lost(&keys[i]))
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
			CmekLostKey *key = palloc0(sizeof(CmekLostKey));

			key->server = keys[i].server;
			strlcpy(key->name, keys[i].name, sizeof(key->name));
			key->drop_after = keys[i].drop_after;
			lost = lappend(lost, key);
			MemoryContextSwitchTo(old);
		}
	cmek_visit_end();
	return lost;
}

/* See internal.h. */
bool
cmek_watch_counts(CmekKmsClass klass)
{
	return klass == CMEK_KMS_DENIED ||
		(klass == CMEK_KMS_UNREACHABLE && cmek_drop_on_unreachable);
}
