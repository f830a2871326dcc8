/*-------------------------------------------------------------------------
 *
 * follow.c
 *	  Sealed statistics follow what they are of: dropped tables, indexes and
 *	  columns.  Also cmek.statistic_rows(), what the view cmek.stats is made of.
 *
 * A column that changes its type needs nothing: stored statistics say of which
 * type they are, and are of no use for another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_statistic.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "stats/internal.h"

static object_access_hook_type previous_hook = NULL;

PG_FUNCTION_INFO_V1(cmek_statistic_rows);

/* An object is about to be dropped */
static void
follow_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	StatsName	name = {objectId, subId, false};

	if (previous_hook)
		previous_hook(access, classId, objectId, subId, arg);
	if (access != OAT_DROP || classId != RelationRelationId ||
		IsBootstrapProcessingMode())
		return;
	if (subId == 0)
		cmek_stats_forget(objectId);
	if (stats_any(objectId))
		stats_delete(&name);
}

/* May the caller see all values of a column? */
static bool
may_see(const StatsName *name)
{
	Oid			user = GetUserId();

	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(name->relid)))
		return false;
	if (pg_class_aclcheck(name->relid, user, ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(name->relid, name->attnum, user,
							  ACL_SELECT) != ACLCHECK_OK)
		return false;
	return check_enable_rls(name->relid, InvalidOid, true) != RLS_ENABLED;
}

/* One row, when its key is there */
typedef struct Shown
{
	ReturnSetInfo *rsinfo;
	StatsSealed *sealed;
} Shown;

static void
show_row(void *arg)
{
	Shown	   *shown = arg;
	HeapTuple	row = stats_open(shown->sealed);

	if (row != NULL)
		tuplestore_puttuple(shown->rsinfo->setResult, row);
}

/*
 * cmek.statistic_rows(): rows as in pg_statistic, of columns that the caller
 * may SELECT, as far as their keys are there.
 */
Datum
cmek_statistic_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	foreach(lc, stats_list())
	{
		Shown		shown = {rsinfo, lfirst(lc)};

		CHECK_FOR_INTERRUPTS();
		if (may_see(&shown.sealed->name) && stats_have_keys(shown.sealed))
			(void) cmek_key_try(show_row, &shown);
	}
	return (Datum) 0;
}

/* Install the hook */
void
stats_follow_init(void)
{
	previous_hook = object_access_hook;
	object_access_hook = follow_access;
}

/* See stats.h.  Without preloading ANALYZE only counts. */
void
cmek_stats_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	stats_collect_init();
	stats_serve_init();
	stats_follow_init();
}
