/*-------------------------------------------------------------------------
 *
 * opclass.c
 *	  Twins: for an operator class of btree and its family, one of cmek_btree
 *	  with the same name, schema and members.
 *
 * No index keeps a twin: an index that comes out with one is given btree's own
 * operator class (index.c).  They are only there for statements that core
 * makes itself with the method's name in them (ALTER COLUMN ... TYPE), which
 * would not find an operator class otherwise.  Those of pg_catalog are made
 * with the extension, to be at hand; others, and those that pg_upgrade has left
 * behind, live as long as the statement, or are imported by a superuser to
 * stay.  So no dump shows one that nobody asked for.
 *
 * Everything about a twin is taken from catalog rows by OID, nothing from the
 * caller, and an operator class of btree is a superuser's work already: hence
 * they are made as the bootstrap superuser, whoever needs one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_amproc.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "ddl/statement.h"

PG_FUNCTION_INFO_V1(cmek_import_operator_classes);

/* The schema-qualified name of something */
static List *
twin_name(Oid namespaceid, const char *name)
{
	return list_make2(makeString(get_namespace_name(namespaceid)),
					  makeString(pstrdup(name)));
}

/* An operator or function with its arguments; 0 stands for none */
static ObjectWithArgs *
twin_object(List *name, const Oid *args, int nargs)
{
	ObjectWithArgs *object = makeNode(ObjectWithArgs);

	object->objname = name;
	for (int i = 0; i < nargs; i++)
		object->objargs = lappend(object->objargs, OidIsValid(args[i]) ?
								  makeTypeNameFromOid(args[i], -1) : NULL);
	object->args_unspecified = false;
	return object;
}

/* OPERATOR strategy operator, as in CREATE OPERATOR CLASS */
static CreateOpClassItem *
twin_operator_item(const FormData_pg_amop *amop)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID,
										ObjectIdGetDatum(amop->amopopr));
	Form_pg_operator form = (Form_pg_operator) GETSTRUCT(tuple);
	CreateOpClassItem *item = makeNode(CreateOpClassItem);
	Oid			args[2] = {form->oprleft, form->oprright};

	item->itemtype = OPCLASS_ITEM_OPERATOR;
	item->name = twin_object(twin_name(form->oprnamespace,
									   NameStr(form->oprname)), args, 2);
	item->number = amop->amopstrategy;
	ReleaseSysCache(tuple);
	return item;
}

/* FUNCTION number (types) function */
static CreateOpClassItem *
twin_function_item(const FormData_pg_amproc *amproc)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID,
										ObjectIdGetDatum(amproc->amproc));
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(tuple);
	CreateOpClassItem *item = makeNode(CreateOpClassItem);

	item->itemtype = OPCLASS_ITEM_FUNCTION;
	item->name = twin_object(twin_name(form->pronamespace,
									   NameStr(form->proname)),
							 form->proargtypes.values, form->pronargs);
	item->number = amproc->amprocnum;
	item->class_args =
		list_make2(makeTypeNameFromOid(amproc->amproclefttype, -1),
				   makeTypeNameFromOid(amproc->amprocrighttype, -1));
	ReleaseSysCache(tuple);
	return item;
}

/* Members of a family of btree that its twin has not; all are loose there */
static List *
twin_missing_members(Oid family, Oid twin)
{
	List	   *items = NIL;
	CatCList   *list;

	list = SearchSysCacheList1(AMOPSTRATEGY, ObjectIdGetDatum(family));
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_amop amop = (Form_pg_amop) GETSTRUCT(&list->members[i]->tuple);

		if (amop->amoppurpose == AMOP_SEARCH &&
			!OidIsValid(get_opfamily_member(twin, amop->amoplefttype,
											amop->amoprighttype,
											amop->amopstrategy)))
			items = lappend(items, twin_operator_item(amop));
	}
	ReleaseSysCacheList(list);

	list = SearchSysCacheList1(AMPROCNUM, ObjectIdGetDatum(family));
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_amproc amproc =
			(Form_pg_amproc) GETSTRUCT(&list->members[i]->tuple);

		if (!OidIsValid(get_opfamily_proc(twin, amproc->amproclefttype,
										  amproc->amprocrighttype,
										  amproc->amprocnum)))
			items = lappend(items, twin_function_item(amproc));
	}
	ReleaseSysCacheList(list);
	return items;
}

/*
 * The twin goes when the original or the access method does.  It is a member of
 * no extension: pg_upgrade would carry members over to where they may not fit.
 */
static void
twin_follow(ObjectAddress twin, Oid original)
{
	ObjectAddress referenced;

	CommandCounterIncrement();
	deleteDependencyRecordsForClass(twin.classId, twin.objectId,
									ExtensionRelationId, DEPENDENCY_EXTENSION);
	ObjectAddressSet(referenced, twin.classId, original);
	recordDependencyOn(&twin, &referenced, DEPENDENCY_AUTO);
	ObjectAddressSet(referenced, AccessMethodRelationId,
					 cmek_sealed_index_method());
	recordDependencyOn(&twin, &referenced, DEPENDENCY_AUTO);
}

/* Add an object to the list of those made */
static void
twin_note(ObjectAddresses *made, ObjectAddress twin)
{
	if (made != NULL)
		add_exact_object_address(&twin, made);
}

/* Make the twin of a family when there is none, and give it all members */
static List *
twin_family(Oid family, ObjectAddresses *made)
{
	HeapTuple	tuple = SearchSysCache1(OPFAMILYOID,
										ObjectIdGetDatum(family));
	Form_pg_opfamily form = (Form_pg_opfamily) GETSTRUCT(tuple);
	List	   *name = twin_name(form->opfnamespace, NameStr(form->opfname));
	List	   *items;
	Oid			twin;

	ReleaseSysCache(tuple);
	twin = get_opfamily_oid(cmek_sealed_index_method(), name, true);
	if (!OidIsValid(twin))
	{
		CreateOpFamilyStmt *create = makeNode(CreateOpFamilyStmt);
		ObjectAddress address;

		create->opfamilyname = name;
		create->amname = pstrdup(CMEK_BTREE_NAME);
		address = DefineOpFamily(create);
		twin = address.objectId;
		twin_follow(address, family);
		twin_note(made, address);
		CommandCounterIncrement();
	}
	items = twin_missing_members(family, twin);
	if (items != NIL)
	{
		AlterOpFamilyStmt *alter = makeNode(AlterOpFamilyStmt);

		alter->opfamilyname = name;
		alter->amname = pstrdup(CMEK_BTREE_NAME);
		alter->items = items;
		AlterOpFamily(alter);
		CommandCounterIncrement();
	}
	return name;
}

/* The operator class of a method with the name and schema of another */
static Oid
twin_find(const FormData_pg_opclass *form, Oid method)
{
	return GetSysCacheOid3(CLAAMNAMENSP, Anum_pg_opclass_oid,
						   ObjectIdGetDatum(method),
						   NameGetDatum(&form->opcname),
						   ObjectIdGetDatum(form->opcnamespace));
}

/* Some classes of btree store another type, which SQL cannot say of it */
static void
twin_store_type(Oid twin, Oid type)
{
	Relation	rel = table_open(OperatorClassRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(CLAOID, ObjectIdGetDatum(twin));

	((Form_pg_opclass) GETSTRUCT(tuple))->opckeytype = type;
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Make the twin of an operator class of btree */
static void
twin_class(const FormData_pg_opclass *form, ObjectAddresses *made)
{
	CreateOpClassStmt *create = makeNode(CreateOpClassStmt);
	ObjectAddress address;
	CreateOpClassItem *storage = makeNode(CreateOpClassItem);

	/* something has to be said, so say what is so: it stores its own type */
	storage->itemtype = OPCLASS_ITEM_STORAGETYPE;
	storage->storedtype = makeTypeNameFromOid(form->opcintype, -1);

	create->opclassname = twin_name(form->opcnamespace,
									NameStr(form->opcname));
	create->opfamilyname = twin_family(form->opcfamily, made);
	create->amname = pstrdup(CMEK_BTREE_NAME);
	create->datatype = makeTypeNameFromOid(form->opcintype, -1);
	create->items = list_make1(storage);
	create->isDefault = form->opcdefault;
	address = DefineOpClass(create);
	twin_follow(address, form->oid);
	twin_note(made, address);
	CommandCounterIncrement();
	if (OidIsValid(form->opckeytype))
		twin_store_type(address.objectId, form->opckeytype);
}

/* The row of an operator class, copied; NULL when there is none */
static Form_pg_opclass
twin_read(Oid opclass)
{
	HeapTuple	tuple = SearchSysCacheCopy1(CLAOID, ObjectIdGetDatum(opclass));

	return HeapTupleIsValid(tuple) ? (Form_pg_opclass) GETSTRUCT(tuple) : NULL;
}

/* The operator class of btree that this one is the twin of; else InvalidOid */
Oid
cmek_opclass_original(Oid opclass)
{
	Form_pg_opclass form = twin_read(opclass);

	if (form == NULL || form->opcmethod != cmek_sealed_index_method())
		return InvalidOid;
	return twin_find(form, BTREE_AM_OID);
}

/* All operator classes of btree, but for what sealed indexes are made of */
static List *
twin_originals(void)
{
	Oid			ours = get_namespace_oid("cmek", true);
	Relation	rel = table_open(OperatorClassRelationId, AccessShareLock);
	List	   *originals = NIL;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_opclass form = (Form_pg_opclass) GETSTRUCT(tuple);

		if (form->opcmethod == BTREE_AM_OID && form->opcnamespace != ours)
			originals = lappend(originals,
								GETSTRUCT(heap_copytuple(tuple)));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return originals;
}

/*
 * Make a twin for every operator class of btree that has none; they fall when
 * the statement is done.  Which of them it needs is known to core alone: new
 * types have other defaults, and expressions other types.
 */
void
cmek_opclass_need_twins(CmekStatement *s)
{
	Oid			method = cmek_sealed_index_method();
	MemoryContext old;
	Oid			userid;
	int			context;
	ListCell   *lc;

	if (s->twins != NULL)
		return;
	old = MemoryContextSwitchTo(s->context);
	s->twins = new_object_addresses();
	MemoryContextSwitchTo(old);
	GetUserIdAndSecContext(&userid, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	foreach(lc, twin_originals())
	{
		Form_pg_opclass form = (Form_pg_opclass) lfirst(lc);

		if (!OidIsValid(twin_find(form, method)))
			twin_class(form, s->twins);
	}
	SetUserIdAndSecContext(userid, context);
}

/* The statement is done: its twins go */
void
cmek_opclass_drop_twins(CmekStatement *s)
{
	performMultipleDeletions(s->twins, DROP_RESTRICT,
							 PERFORM_DELETION_INTERNAL);
	s->twins = NULL;
}

/*
 * SQL: a twin for every operator class of btree that has none, and for their
 * families the members they lack.  Returns how many classes were made.
 */
Datum
cmek_import_operator_classes(PG_FUNCTION_ARGS)
{
	Oid			method = cmek_sealed_index_method();
	int			made = 0;
	ListCell   *lc;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to import operator classes")));
	PreventCommandIfReadOnly("cmek.import_operator_classes()");
	PreventCommandDuringRecovery("cmek.import_operator_classes()");
	foreach(lc, twin_originals())
	{
		Form_pg_opclass form = (Form_pg_opclass) lfirst(lc);

		if (OidIsValid(twin_find(form, method)))
		{
			twin_family(form->opcfamily, NULL);
			continue;
		}
		twin_class(form, NULL);
		made++;
	}
	PG_RETURN_INT32(made);
}
