/*-------------------------------------------------------------------------
 *
 * forget.c
 *	  Table keys that leave the cache at the end of a transaction: those of
 *	  dropped tables when it commits, those it made in vain when it aborts.
 *
 * Dropping a key from the cache is always safe: whoever needs it has it
 * unwrapped again.  So nothing here looks at subtransactions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"
#include "keys/internal.h"

typedef struct ForgetEntry
{
	uint8		uuid[CMEK_UUID_LEN];
	bool		on_commit;
} ForgetEntry;

/* Of this transaction, in its memory */
static List *entries = NIL;

/* Have a table key dropped at the end of the transaction. */
void
cmek_table_key_forget(const uint8 *uuid, bool on_commit)
{
	MemoryContext old;
	ForgetEntry *entry;

	/* tables can be dropped without the library preloaded */
	if (!cmek_is_preloaded())
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	entry = palloc(sizeof(ForgetEntry));
	memcpy(entry->uuid, uuid, CMEK_UUID_LEN);
	entry->on_commit = on_commit;
	entries = lappend(entries, entry);
	MemoryContextSwitchTo(old);
}

/* Drop what is to be dropped. */
static void
at_xact_end(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		foreach(lc, entries)
		{
			ForgetEntry *entry = (ForgetEntry *) lfirst(lc);

			if (entry->on_commit == (event == XACT_EVENT_COMMIT))
				cmek_cache_drop(MyDatabaseId, entry->uuid);
		}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		entries = NIL;
}

/* Register the callback; called once in each process. */
void
cmek_forget_init(void)
{
	RegisterXactCallback(at_xact_end, NULL);
}
