/*-------------------------------------------------------------------------
 *
 * sqlversion.c
 *	  A library and SQL objects of different releases.
 *
 * A package upgrade replaces the library of every database at once; ALTER
 * EXTENSION UPDATE follows database by database, and on a standby it arrives
 * from the primary.  So the library reads key rows as soon as it finds the
 * tables and columns that it needs, whatever version the catalog names, and
 * says what to do where they are missing.  Tables and columns are only ever
 * added.  It never writes rows of a form that it does not know.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "keys/internal.h"

/* The OID of a relation in our schema, or InvalidOid. */
Oid
cmek_find_relation(const char *name)
{
	Oid			namespace = get_namespace_oid("cmek", true);

	return OidIsValid(namespace) ? get_relname_relid(name, namespace) :
		InvalidOid;
}

/* Has a table at least so many columns? */
bool
cmek_has_columns(Oid relid, int natts)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		enough = HeapTupleIsValid(tuple) &&
		((Form_pg_class) GETSTRUCT(tuple))->relnatts >= natts;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return enough;
}

/* Fail because something is not there that this library needs. */
void
cmek_report_missing_objects(void)
{
	if (!OidIsValid(get_extension_oid("cmek", true)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"cmek\" is not installed in this database"),
				 errhint("CREATE EXTENSION cmek;")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the SQL objects of extension \"cmek\" in this database are older than its library"),
			 RecoveryInProgress() ?
			 errhint("ALTER EXTENSION cmek UPDATE; on the primary.") :
			 errhint("ALTER EXTENSION cmek UPDATE;")));
}

/* The OID of a relation in our schema, which must be there. */
Oid
cmek_require_relation(const char *name)
{
	Oid			relid = cmek_find_relation(name);

	if (!OidIsValid(relid))
		cmek_report_missing_objects();
	return relid;
}

/* Complain about a table that has another form than the one we write. */
void
cmek_require_columns(Relation rel, int natts)
{
	if (RelationGetDescr(rel)->natts < natts)
		cmek_report_missing_objects();
	if (RelationGetDescr(rel)->natts > natts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the SQL objects of extension \"cmek\" in this database are newer than its library"),
				 errhint("Install the library of the same release and restart the server.")));
}
