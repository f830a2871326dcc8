/*-------------------------------------------------------------------------
 *
 * label.c
 *	  The stored form of a binding: a security label "key=<quoted name>" of
 *	  provider cmek on the table, so that pg_dump and pg_restore carry it.
 *
 * A label is written in two ways: by our own code through cmek_label_set,
 * after the keys were made, or by SECURITY LABEL, where label_relabel makes or
 * moves the keys first and core stores the text.  A label never names
 * something that is not a KMS key its writer may use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_seclabel.h"
#include "commands/seclabel.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "compat.h"
#include "ddl/statement.h"

#define LABEL_PREFIX "key="

PG_FUNCTION_INFO_V1(cmek_label_key);

/* The label of a table bound to this key */
char *
cmek_label_format(const char *key)
{
	return psprintf(LABEL_PREFIX "%s", quote_identifier(key));
}

/* The key named in a label; NULL when it is not a label of ours */
char *
cmek_label_parse(const char *label)
{
	List	   *names;

	if (strncmp(label, LABEL_PREFIX, strlen(LABEL_PREFIX)) != 0)
		return NULL;
	if (!SplitIdentifierString(pstrdup(label + strlen(LABEL_PREFIX)), ';',
							   &names) ||
		list_length(names) != 1)
		return NULL;
	return (char *) linitial(names);
}

/* The key a table is bound to by its label; NULL when unbound.  palloc'd */
char *
cmek_label_get_key(Oid relid)
{
	ObjectAddress table;
	char	   *label;

	ObjectAddressSet(table, RelationRelationId, relid);
	label = GetSecurityLabel(&table, CMEK_PROVIDER);
	return label == NULL ? NULL : cmek_label_parse(label);
}

/* Write the label (NULL: remove it) so that the next lookup sees it */
void
cmek_label_set(Oid relid, const char *key)
{
	ObjectAddress table;

	ObjectAddressSet(table, RelationRelationId, relid);
	SetSecurityLabel(&table, CMEK_PROVIDER,
					 key == NULL ? NULL : cmek_label_format(key));
	CommandCounterIncrement();
}

/* OIDs of the relations whose label names this key */
List *
cmek_label_relations(const char *key)
{
	List	   *relids = NIL;
	Relation	pg_seclabel;
	SysScanDesc scan;
	ScanKeyData keys[2];
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_seclabel_classoid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_seclabel_provider, BTEqualStrategyNumber,
				F_TEXTEQ, CStringGetTextDatum(CMEK_PROVIDER));
	pg_seclabel = table_open(SecLabelRelationId, AccessShareLock);
	scan = systable_beginscan(pg_seclabel, InvalidOid, false, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		FormData_pg_seclabel *form = (FormData_pg_seclabel *) GETSTRUCT(tuple);
		bool		isnull;
		Datum		label = heap_getattr(tuple, Anum_pg_seclabel_label,
										 RelationGetDescr(pg_seclabel), &isnull);
		char	   *named;

		if (isnull)
			continue;
		named = cmek_label_parse(TextDatumGetCString(label));
		if (named != NULL && strcmp(named, key) == 0)
			relids = lappend_oid(relids, form->objoid);
	}
	systable_endscan(scan);
	table_close(pg_seclabel, AccessShareLock);
	return relids;
}

/*
 * pg_upgrade brings the key rows along; what is missing is the dependency,
 * which no dump shows.
 */
static void
label_restore_dependency(Oid relid, const char *key)
{
	Oid			serverid = get_foreign_server_oid(key, true);

	if (OidIsValid(serverid))
		cmek_bind_record(relid, serverid);
}

/* Complain unless a label may stand on this object */
static void
label_check_object(const ObjectAddress *object, CmekClass *cls)
{
	if (object->classId != RelationRelationId || object->objectSubId != 0 ||
		!cmek_class_get(object->objectId, cls) ||
		(!cmek_class_has_rows(cls) &&
		 cls->relkind != RELKIND_PARTITIONED_TABLE))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("security labels of provider \"%s\" are for tables and materialized views only",
						CMEK_PROVIDER)));
}

/*
 * Remove a label.  A table with rows keeps its key as long as it is sealed; a
 * partitioned table only stops to pass one on.
 */
static void
label_remove(const CmekClass *cls)
{
	if (cmek_class_has_rows(cls) && cmek_label_get_key(cls->relid) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" cannot be left without its key",
						NameStr(cls->relname)),
				 errhint("Use ALTER TABLE ... SET ACCESS METHOD heap to store its rows in clear.")));
	if (!cmek_class_has_rows(cls))
		cmek_bind_remove(cls->relid);
}

/*
 * SECURITY LABEL FOR cmek.  Core has checked that the caller owns the table
 * and holds ShareUpdateExclusiveLock; it stores the text when we return.
 */
static void
label_relabel(const ObjectAddress *object, const char *seclabel)
{
	CmekClass	cls;
	char	   *key;

	label_check_object(object, &cls);
	if (seclabel == NULL)
	{
		label_remove(&cls);
		return;
	}
	key = cmek_label_parse(seclabel);
	if (key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid security label for provider \"%s\"",
						CMEK_PROVIDER),
				 errhint("The label is \"%sname\", where name is a foreign server.",
						 LABEL_PREFIX)));
	if (IsBinaryUpgrade)
		label_restore_dependency(cls.relid, key);
	else
		cmek_bind_move(&cls, key);
}

/* SQL: the key named in a label; NULL when it is not a label of ours */
Datum
cmek_label_key(PG_FUNCTION_ARGS)
{
	char	   *key = cmek_label_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	Name		name;

	if (key == NULL)
		PG_RETURN_NULL();
	name = (Name) palloc0(NAMEDATALEN);
	namestrcpy(name, key);
	PG_RETURN_NAME(name);
}

/* Labels are understood with or without preloading */
void
cmek_label_init(void)
{
	register_label_provider(CMEK_PROVIDER, label_relabel);
}
