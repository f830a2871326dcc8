/*-------------------------------------------------------------------------
 *
 * options.c
 *	  Storage parameters of namespace "cmek": checked and taken out of a list
 *	  before core sees it, which knows no namespace but "toast".
 *
 * The lists given here belong to our own copy of a statement, never to the
 * caller's tree: plans are cached and a tree runs more than once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "nodes/pg_list.h"

#include "ddl/statement.h"

#define OPTION_KEY "key"

/* Is the option one of ours? */
static bool
option_is_ours(const DefElem *def)
{
	return def->defnamespace != NULL &&
		strcmp(def->defnamespace, CMEK_PROVIDER) == 0;
}

/* Complain about options we do not know, and about one given twice */
static void
option_check(const DefElem *def, bool seen)
{
	if (strcmp(def->defname, OPTION_KEY) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized parameter \"%s.%s\"",
						CMEK_PROVIDER, def->defname),
				 errhint("Valid parameters are: %s.%s.",
						 CMEK_PROVIDER, OPTION_KEY)));
	if (seen)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s.%s\" specified more than once",
						CMEK_PROVIDER, def->defname)));
}

/* Does the list hold any option of ours? */
bool
cmek_options_present(List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		if (option_is_ours(lfirst_node(DefElem, lc)))
			return true;
	}
	return false;
}

/* Take our options out of a WITH or SET list; *key is set when it was there */
List *
cmek_options_strip(List *options, char **key)
{
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (!option_is_ours(def))
		{
			rest = lappend(rest, def);
			continue;
		}
		option_check(def, *key != NULL);
		*key = pstrdup(defGetString(def));
	}
	return rest;
}

/* Take our options out of a RESET list; *reset is set when one was there */
List *
cmek_options_strip_reset(List *options, bool *reset)
{
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (!option_is_ours(def))
		{
			rest = lappend(rest, def);
			continue;
		}
		option_check(def, *reset);
		*reset = true;
	}
	return rest;
}
