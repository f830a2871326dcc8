/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  What is refused because it would put values in clear, or lose them:
 *	  plain indexes, plain tables, extended statistics, logical decoding.
 *
 * Each refusal names the setting that allows it.  A rebuild of an index that
 * exists already is never refused: that would break maintenance.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "ddl/statement.h"
#include "heap/heap.h"

/*
 * Does the innermost statement only build again what was there?  Core calls
 * an index internal also when it makes one for a new partition.
 */
static bool
policy_is_rebuild(bool internal)
{
	Node	   *node = cmek_statement == NULL ? NULL : cmek_statement->node;

	if (node == NULL)
		return false;
	if (IsA(node, ReindexStmt))
		return true;
	return internal && IsA(node, AlterTableStmt) &&
		!cmek_alter_attaches(cmek_statement);
}

/* Refuse or warn of a plain index on a sealed table */
static void
policy_plain_index(const char *index, const char *table)
{
	if (!cmek_plaintext_indexes)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" would hold values of sealed table \"%s\" in clear",
						index, table),
				 errhint("Set cmek.plaintext_indexes to on to accept this.")));
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("index \"%s\" holds values of sealed table \"%s\" in clear",
					index, table)));
}

/* An index of another method than cmek_btree was made for a sealed table */
void
cmek_policy_index_made(const CmekClass *index, const CmekClass *table,
					   bool internal)
{
	if (!policy_is_rebuild(internal))
		policy_plain_index(NameStr(index->relname), NameStr(table->relname));
}

/*
 * A table is about to be sealed: what about the indexes it has?  B-trees will
 * be sealed with it.
 */
void
cmek_policy_check_indexes(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		CmekClass	index;

		if (cmek_class_get(lfirst_oid(lc), &index) &&
			index.relam != BTREE_AM_OID)
			policy_plain_index(NameStr(index.relname),
							   RelationGetRelationName(rel));
	}
	table_close(rel, NoLock);
}

/* A table is made that is not sealed, or is about to become so */
void
cmek_policy_check_plain(const CmekClass *cls)
{
	/* core's own scratch table of REFRESH ... CONCURRENTLY */
	bool		refresh = cmek_statement != NULL &&
		cmek_statement->outer != NULL &&
		OidIsValid(cmek_statement->outer->refreshed);

	if (!cmek_enforce_encryption || creating_extension || refresh ||
		!cmek_class_has_rows(cls))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" would not be sealed",
					NameStr(cls->relname)),
			 errdetail("cmek.enforce_encryption is on."),
			 errhint("Use access method %s: USING %s, or set default_table_access_method.",
					 CMEK_HEAP_NAME, CMEK_HEAP_NAME)));
}

/*
 * CREATE STATISTICS: the planner has no hook for extended statistics, so there
 * are none that are sealed.  A copy of a table's definition (LIKE) may name
 * them: they stay empty.
 */
void
cmek_policy_check_statistics(CreateStatsStmt *stmt)
{
	RangeVar   *table = list_length(stmt->relations) == 1 &&
		IsA(linitial(stmt->relations), RangeVar) ? linitial(stmt->relations) : NULL;
	CmekClass	cls;
	Oid			relid;

	if (cmek_plaintext_statistics || table == NULL || stmt->transformed)
		return;
	relid = RangeVarGetRelid(table, NoLock, true);
	if (!OidIsValid(relid) || !cmek_class_get(relid, &cls) ||
		!(cmek_class_is_sealed(&cls) || cmek_partition_parent_is_sealed(relid)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("extended statistics of sealed table \"%s\" cannot be sealed",
					NameStr(cls.relname)),
			 errdetail("They would hold values in clear."),
			 errhint("SET cmek.plaintext_statistics = on accepts this for CREATE STATISTICS and ANALYZE.")));
}

/* A sealed table is made */
void
cmek_policy_check_logical(const CmekClass *cls)
{
	if (!XLogLogicalInfoActive() || !cmek_class_has_rows(cls) ||
		cls->relpersistence != RELPERSISTENCE_PERMANENT)
		return;
	if (!cmek_allow_logical_decoding)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" cannot be sealed while wal_level is \"logical\"",
						NameStr(cls->relname)),
				 errdetail("Logical decoding would see rows of NULLs."),
				 errhint("Set wal_level to \"replica\", or cmek.allow_logical_decoding to on.")));
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("logical decoding sees rows of NULLs in sealed table \"%s\"",
					NameStr(cls->relname))));
}
