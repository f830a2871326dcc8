/*-------------------------------------------------------------------------
 *
 * request.c
 *	  A backend asks a KMS worker and waits for the answer.
 *
 * Waiting can be interrupted at any time, by a cancel, a time-out of the
 * statement or the end of the backend; the request is then left behind and
 * whoever is last tidies up (board.c).  No wait is longer than
 * cmek.kms_timeout.  Nobody may wait here with an LWLock or a buffer lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"

#include "compat.h"
#include "keys/internal.h"

/* The reply of ours when there is none of the KMS. */
static void
reply_unreachable(CmekReply *reply, const char *code, const char *message)
{
	memset(reply, 0, sizeof(CmekReply));
	reply->klass = CMEK_KMS_UNREACHABLE;
	strlcpy(reply->code, code, sizeof(reply->code));
	strlcpy(reply->message, message, sizeof(reply->message));
}

/* The reply when cmek.kms_timeout is over. */
static void
reply_timeout(CmekReply *reply)
{
	if (cmek_board_has_workers())
		reply_unreachable(reply, "Timeout",
						  "the KMS did not answer in time (cmek.kms_timeout)");
	else
		reply_unreachable(reply, "NoWorker",
						  "no KMS worker is running (is max_worker_processes too low?)");
}

/* Leave a slot at an ERROR or the end of the process. */
static void
leave_on_error(int code, Datum slot)
{
	cmek_board_leave(DatumGetInt32(slot));
}

/* Wait for a posted request and leave it. */
static void
wait_and_leave(int slot, CmekInstant deadline, CmekReply *reply)
{
	volatile bool done = false;

	PG_ENSURE_ERROR_CLEANUP(leave_on_error, Int32GetDatum(slot));
	{
		done = cmek_board_wait(slot, deadline, reply);
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave_on_error, Int32GetDatum(slot));
	cmek_board_leave(slot);
	if (!done)
		reply_timeout(reply);
}

/*
 * Have a request carried out.  When the reply is CMEK_KMS_OK, the key was put
 * into the cache a moment ago; it may be gone again by the time the caller
 * looks, so the caller looks and asks in a loop.
 */
void
cmek_request_run(const CmekKeyRequest *what, CmekReply *reply)
{
	CmekInstant deadline = cmek_instant_in(cmek_kms_timeout);
	int			slot = -1;

	if (!IsUnderPostmaster)
	{
		reply_unreachable(reply, "NoWorker",
						  "no KMS worker runs in single-user mode");
		return;
	}
	for (;;)
	{
		switch (cmek_board_enter(what, &slot, reply))
		{
			case CMEK_BOARD_POSTED:
				wait_and_leave(slot, deadline, reply);
				return;
			case CMEK_BOARD_CACHED:
				memset(reply, 0, sizeof(CmekReply));
				reply->klass = CMEK_KMS_OK;
				return;
			case CMEK_BOARD_REMEMBERED:
				return;
			case CMEK_BOARD_FULL:
				break;
		}
		cmek_board_wait_space(deadline);
		if (cmek_now() >= deadline)
		{
			reply_timeout(reply);
			return;
		}
	}
}
