/*-------------------------------------------------------------------------
 *
 * label.c
 *	  The stored form of a binding: a security label of provider cmek on the
 *	  table, so that pg_dump and pg_restore carry it:
 *
 *	   key=<quoted name>[;replica_keys=<quoted name>,<quoted name>...]
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
#include "catalog/pg_type.h"
#include "commands/seclabel.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "compat.h"
#include "ddl/statement.h"

#define LABEL_PREFIX "key="

#define LABEL_REPLICAS "replica_keys="

PG_FUNCTION_INFO_V1(cmek_label_key);
PG_FUNCTION_INFO_V1(cmek_label_replica_keys);

/* The label of a table bound to these keys */
char *
cmek_label_format(const CmekKeys *keys)
{
	StringInfoData label;
	const char *separator = ";" LABEL_REPLICAS;
	ListCell   *lc;

	initStringInfo(&label);
	appendStringInfo(&label, LABEL_PREFIX "%s", quote_identifier(keys->key));
	foreach(lc, keys->replicas)
	{
		appendStringInfo(&label, "%s%s", separator,
						 quote_identifier(lfirst(lc)));
		separator = ",";
	}
	return label.data;
}

/* The semicolon that is in no quoted name; NULL when there is none */
static char *
label_separator(char *text)
{
	bool		quoted = false;

	for (; *text != '\0'; text++)
	{
		if (*text == '"')
			quoted = !quoted;
		else if (*text == ';' && !quoted)
			return text;
	}
	return NULL;
}

/* The keys named in a label; false when it is not a label of ours */
bool
cmek_label_parse_keys(const char *label, CmekKeys *keys)
{
	List	   *names;
	char	   *text;
	char	   *replicas;

	keys->key = NULL;
	keys->replicas = NIL;
	if (strncmp(label, LABEL_PREFIX, strlen(LABEL_PREFIX)) != 0)
		return false;
	text = pstrdup(label + strlen(LABEL_PREFIX));
	replicas = label_separator(text);
	if (replicas != NULL)
		*replicas++ = '\0';
	if (!SplitIdentifierString(text, ',', &names) || list_length(names) != 1)
		return false;
	keys->key = linitial(names);
	if (replicas == NULL)
		return true;
	return label_separator(replicas) == NULL &&
		strncmp(replicas, LABEL_REPLICAS, strlen(LABEL_REPLICAS)) == 0 &&
		SplitIdentifierString(replicas + strlen(LABEL_REPLICAS), ',',
							  &keys->replicas) &&
		keys->replicas != NIL;
}

/* The first key named in a label; NULL when it is not a label of ours */
char *
cmek_label_parse(const char *label)
{
	CmekKeys	keys;

	return cmek_label_parse_keys(label, &keys) ?
		unconstify(char *, keys.key) : NULL;
}

/* See statement.h. */
bool
cmek_label_get(Oid relid, CmekKeys *keys)
{
	ObjectAddress table;
	char	   *label;

	keys->key = NULL;
	keys->replicas = NIL;
	ObjectAddressSet(table, RelationRelationId, relid);
	label = GetSecurityLabel(&table, CMEK_PROVIDER);
	return label != NULL && cmek_label_parse_keys(label, keys);
}

/* The first key a table is bound to by its label; NULL when unbound.  palloc'd */
char *
cmek_label_get_key(Oid relid)
{
	CmekKeys	keys;

	return cmek_label_get(relid, &keys) ? unconstify(char *, keys.key) : NULL;
}

/* Write the label (NULL: remove it) so that the next lookup sees it */
void
cmek_label_set(Oid relid, const CmekKeys *keys)
{
	ObjectAddress table;

	ObjectAddressSet(table, RelationRelationId, relid);
	SetSecurityLabel(&table, CMEK_PROVIDER,
					 keys == NULL ? NULL : cmek_label_format(keys));
	CommandCounterIncrement();
}

/* OIDs of the relations whose label names this key, first or not */
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
		CmekKeys	keys;
		bool		isnull;
		Datum		label = heap_getattr(tuple, Anum_pg_seclabel_label,
										 RelationGetDescr(pg_seclabel), &isnull);

		if (isnull ||
			!cmek_label_parse_keys(TextDatumGetCString(label), &keys))
			continue;
		if (strcmp(keys.key, key) == 0 || cmek_bind_has(keys.replicas, key))
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
label_restore_dependency(Oid relid, const CmekKeys *keys)
{
	Oid			serverid = get_foreign_server_oid(keys->key, true);
	List	   *replicas = NIL;
	ListCell   *lc;

	foreach(lc, keys->replicas)
	{
		Oid			replica = get_foreign_server_oid(lfirst(lc), true);

		if (OidIsValid(replica))
			replicas = lappend_oid(replicas, replica);
	}
	if (OidIsValid(serverid))
		cmek_bind_record(relid, serverid, replicas);
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
	CmekKeys	keys;

	label_check_object(object, &cls);
	if (seclabel == NULL)
	{
		label_remove(&cls);
		return;
	}
	if (!cmek_label_parse_keys(seclabel, &keys))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid security label for provider \"%s\"",
						CMEK_PROVIDER),
				 errhint("The label is \"%sname\" or \"%sname;%sname,name\", where each name is a foreign server.",
						 LABEL_PREFIX, LABEL_PREFIX, LABEL_REPLICAS)));
	if (IsBinaryUpgrade)
		label_restore_dependency(cls.relid, &keys);
	else
		cmek_bind_move(&cls, &keys);
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

/* SQL: the other keys named in a label; NULL when there are none */
Datum
cmek_label_replica_keys(PG_FUNCTION_ARGS)
{
	CmekKeys	keys;
	Datum	   *names;
	int			n = 0;
	ListCell   *lc;

	if (!cmek_label_parse_keys(text_to_cstring(PG_GETARG_TEXT_PP(0)), &keys) ||
		keys.replicas == NIL)
		PG_RETURN_NULL();
	names = palloc(list_length(keys.replicas) * sizeof(Datum));
	foreach(lc, keys.replicas)
	{
		Name		name = (Name) palloc0(NAMEDATALEN);

		namestrcpy(name, lfirst(lc));
		names[n++] = NameGetDatum(name);
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(names, n, NAMEOID, NAMEDATALEN,
										  false, TYPALIGN_CHAR));
}

/* Labels are understood with or without preloading */
void
cmek_label_init(void)
{
	register_label_provider(CMEK_PROVIDER, label_relabel);
}
