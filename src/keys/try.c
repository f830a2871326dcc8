/*-------------------------------------------------------------------------
 *
 * try.c
 *	  Doing something that may fail, in a subtransaction of its own.
 *
 * Whatever the error is, nothing of the subtransaction is left when its caller
 * learns of it: who raises it again leaves no subtransaction open for others to
 * roll back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapshot.h"

#include "keys/keys.h"

/* See keys.h. */
ErrorData *
cmek_try(void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/* See keys.h. */
bool
cmek_key_try(void (*work) (void *arg), void *arg)
{
	ErrorData  *error = cmek_try(work, arg);

	if (error == NULL)
		return true;
	if (error->sqlerrcode != CMEK_ERRCODE_KEY_UNAVAILABLE)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}
