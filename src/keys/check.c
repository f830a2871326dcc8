/*-------------------------------------------------------------------------
 *
 * check.c
 *	  cmek.check_key(): step by step, can this KMS key be used?  And the same
 *	  proof before a table is bound to it.
 *
 * Each step is a request to a KMS worker of its own, so it has the whole of
 * cmek.kms_timeout and a reply that is long enough to say what to grant.  What
 * was proved is remembered by the session for cmek.key_cache_ttl, for exactly
 * these options: restoring ten thousand tables asks once.  A check neither
 * fills the cache nor changes the state of a key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "keys/internal.h"

PG_FUNCTION_INFO_V1(cmek_check_key);

/* Proofs that a session remembers */
#define PROOFS 16

typedef struct Proof
{
	Oid			server;
	uint64		config_hash;
	CmekInstant proved_at;
} Proof;

/* What one step came to */
typedef struct StepResult
{
	CmekKmsStep step;
	bool		tried;
	CmekReply	reply;
} StepResult;

/* A check under way */
typedef struct Check
{
	CmekKeyRequest *what;
	const CmekKmsStep *next;
	bool		given_up;		/* what follows cannot be told */
	StepResult	result;			/* of the step before */
} Check;

static Proof proofs[PROOFS];
static int	next_proof = 0;

/* What a person can do about an answer. */
const char *
cmek_reply_hint(const char *provider, const CmekReply *reply)
{
	bool		file = strcmp(provider, "cmek_file") == 0;

	if (reply->klass == CMEK_KMS_UNREACHABLE)
		return "Access comes back by itself as soon as the KMS answers; nothing needs a restart.";
	if (file && reply->klass == CMEK_KMS_DENIED)
		return "Put the key file back; nothing needs a restart.";
	if (file)
		return "Correct the key file, its permissions or the settings that name it; nothing needs a restart.";
	if (reply->klass == CMEK_KMS_DENIED)
		return "Enable the key, or allow its use again, at the KMS; nothing needs a restart.";
	return "Correct the options with ALTER SERVER, or the credentials with ALTER USER MAPPING; nothing needs a restart.";
}

/* Begin a check.  The memory of the current context holds credentials. */
static Check *
check_begin(Oid serverid)
{
	Check	   *check = palloc0(sizeof(Check));

	check->what = cmek_secret_alloc_in(CurrentMemoryContext,
									   sizeof(CmekKeyRequest));
	check->what->op = CMEK_OP_CHECK;
	cmek_random_uuid(check->what->uuid);
	cmek_server_fill(check->what, serverid);
	check->next = cmek_kms_provider(check->what->config.provider)->steps;
	if (check->next == NULL)
		elog(ERROR, "provider \"%s\" names no steps of a check",
			 check->what->config.provider);
	return check;
}

/* Is there any use in the next step, after the one before it? */
static bool
check_goes_on(const Check *check)
{
	if (check->given_up)
		return false;
	/* both need what was wrapped */
	if ((*check->next == CMEK_STEP_DECRYPT ||
		 *check->next == CMEK_STEP_CONTEXT) && check->what->blob_len == 0)
		return false;
	return true;
}

/* Do the next step; false when there is none. */
static bool
check_step(Check *check)
{
	StepResult *result = &check->result;
	CmekKeyRequest *what = check->what;

	if (*check->next == CMEK_STEP_END)
		return false;
	memset(result, 0, sizeof(StepResult));
	result->step = *check->next;
	if (check_goes_on(check))
	{
		CHECK_FOR_INTERRUPTS();
		what->step = result->step;
		cmek_request_run(what, &result->reply);
		result->tried = true;
		if (result->reply.klass == CMEK_KMS_UNREACHABLE ||
			(result->reply.klass != CMEK_KMS_OK &&
			 result->step == CMEK_STEP_IDENTITY) ||
			(result->reply.klass == CMEK_KMS_MISCONFIGURED &&
			 result->step == CMEK_STEP_KEY))
			check->given_up = true;
	}
	if (result->step == CMEK_STEP_ENCRYPT && result->reply.klass == CMEK_KMS_OK)
	{
		what->blob_len = result->reply.blob_len;
		memcpy(what->blob, result->reply.blob, what->blob_len);
	}
	check->next++;
	return true;
}

/* What to do about a step that failed: what the provider advised, or the rule */
static const char *
step_hint(const Check *check)
{
	const CmekReply *reply = &check->result.reply;

	if (reply->blob_len > 0)
		return (const char *) reply->blob;
	return cmek_reply_hint(check->what->config.provider, reply);
}

/* What a step that went well has shown */
static const char *
step_detail(const CmekReply *reply)
{
	if (reply->message[0] != '\0')
		return reply->message;
	if (reply->key_version[0] != '\0')
		return psprintf("%s, version %s", reply->key_id, reply->key_version);
	return reply->key_id;
}

/* One row of cmek.check_key(). */
static void
put_step(ReturnSetInfo *rsinfo, const Check *check)
{
	const StepResult *result = &check->result;
	bool		ok = result->reply.klass == CMEK_KMS_OK;
	Datum		values[5] = {0};
	bool		nulls[5] = {false, false, true, false, true};

	values[0] = CStringGetTextDatum(cmek_kms_step_name(result->step));
	values[1] = BoolGetDatum(ok);
	values[3] = CStringGetTextDatum(step_detail(&result->reply));
	if (!result->tried)
	{
		nulls[1] = true;
		values[3] = CStringGetTextDatum("not tried");
	}
	else if (!ok)
	{
		nulls[2] = nulls[4] = false;
		values[2] = CStringGetTextDatum(result->reply.code);
		values[3] = CStringGetTextDatum(psprintf("%s: %s",
												 cmek_kms_class_name(result->reply.klass),
												 result->reply.message));
		values[4] = CStringGetTextDatum(step_hint(check));
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A row of its own when the key is suspended: the KMS knows nothing of that */
static void
put_suspension(ReturnSetInfo *rsinfo, const CmekKeyRequest *what)
{
	CmekSuspension suspension;
	CmekReply  *reply = palloc(sizeof(CmekReply));
	Datum		values[5];
	bool		nulls[5] = {false};

	if (!cmek_suspended(what->server_name, &suspension))
		return;
	cmek_suspension_fill_reply(&suspension, reply);
	values[0] = CStringGetTextDatum("suspension");
	values[1] = BoolGetDatum(false);
	values[2] = CStringGetTextDatum(reply->code);
	values[3] = CStringGetTextDatum(reply->message);
	values[4] = CStringGetTextDatum("SELECT cmek.resume_key(...) brings it back.");
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* SQL: the steps, in the order of proof.  Needs USAGE on the server. */
Datum
cmek_check_key(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name = NameStr(*PG_GETARG_NAME(0));
	Oid			serverid = get_foreign_server_oid(name, false);
	AclResult	aclresult = cmek_server_aclcheck(serverid, GetUserId(),
												 ACL_USAGE);
	Check	   *check;

	cmek_require_preload();
	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_FOREIGN_SERVER, name);
	InitMaterializedSRF(fcinfo, 0);
	check = check_begin(serverid);
	put_suspension(rsinfo, check->what);
	while (check_step(check))
		put_step(rsinfo, check);
	return (Datum) 0;
}

/* Was this very configuration proved a while ago? */
static bool
proof_is_known(const CmekKeyRequest *what)
{
	CmekInstant oldest = cmek_now() -
		cmek_key_cache_ttl * USECS_PER_SEC;

	for (int i = 0; i < PROOFS; i++)
		if (proofs[i].server == what->server &&
			proofs[i].config_hash == what->config_hash &&
			proofs[i].proved_at > oldest)
			return true;
	return false;
}

/* Remember a proof, in the place of the oldest. */
static void
proof_remember(const CmekKeyRequest *what)
{
	proofs[next_proof].server = what->server;
	proofs[next_proof].config_hash = what->config_hash;
	proofs[next_proof].proved_at = cmek_now();
	next_proof = (next_proof + 1) % PROOFS;
}

/* Fail because a step did. */
static void
report_unproved(const Check *check)
{
	const CmekReply *reply = &check->result.reply;

	ereport(ERROR,
			(errcode(CMEK_ERRCODE_KEY_UNAVAILABLE),
			 errmsg("KMS key \"%s\" cannot be used: step \"%s\" of its proof failed",
					check->what->server_name,
					cmek_kms_step_name(check->result.step)),
			 errdetail("Provider %s answered %s (%s): %s.",
					   check->what->config.provider, reply->code,
					   cmek_kms_class_name(reply->klass), reply->message),
			 errhint("%s", step_hint(check))));
}

/* Do all the steps, unless that is known or of no use. */
static void
prove(Check *check)
{
	CmekSuspension suspension;

	/* the keys are made next, and that says all there is to say */
	if (cmek_kms_provider(check->what->config.provider)->advise == NULL ||
		cmek_suspended(check->what->server_name, &suspension) ||
		proof_is_known(check->what))
		return;
	while (check_step(check))
		if (check->result.tried && check->result.reply.klass != CMEK_KMS_OK)
			report_unproved(check);
	proof_remember(check->what);
}

/* See keys.h. */
void
cmek_key_prove(Oid serverid)
{
	/* a caller with ten thousand tables must not keep as many requests */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cmek key proof",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	prove(check_begin(serverid));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
