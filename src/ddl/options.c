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
#include "utils/varlena.h"

#include "ddl/statement.h"

#define OPTION_KEY "key"
#define OPTION_REPLICAS "replica_keys"

/* Is the option one of ours? */
static bool
option_is_ours(const DefElem *def)
{
	return def->defnamespace != NULL &&
		strcmp(def->defnamespace, CMEK_PROVIDER) == 0;
}

/*
 * Which option of ours is it?  The flag that says it was seen is returned, and
 * set.  Complain about options we do not know, and about one given twice.
 */
static bool *
option_check(const DefElem *def, CmekAsked *asked)
{
	bool	   *seen = NULL;

	if (strcmp(def->defname, OPTION_KEY) == 0)
		seen = &asked->has_key;
	else if (strcmp(def->defname, OPTION_REPLICAS) == 0)
		seen = &asked->has_replicas;
	if (seen == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized parameter \"%s.%s\"",
						CMEK_PROVIDER, def->defname),
				 errhint("Valid parameters are: %s.%s, %s.%s.",
						 CMEK_PROVIDER, OPTION_KEY,
						 CMEK_PROVIDER, OPTION_REPLICAS)));
	if (*seen)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s.%s\" specified more than once",
						CMEK_PROVIDER, def->defname)));
	*seen = true;
	return seen;
}

/* The names in a list of them */
static List *
option_names(const DefElem *def)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(defGetString((DefElem *) def)), ',',
							   &names))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s.%s\" must be a list of names",
						CMEK_PROVIDER, def->defname)));
	return names;
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

/* Take our options out of a WITH or SET list, and note what they ask for */
List *
cmek_options_strip(List *options, CmekAsked *asked)
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
		if (option_check(def, asked) == &asked->has_key)
			asked->key = pstrdup(defGetString(def));
		else
			asked->replicas = option_names(def);
	}
	return rest;
}

/* The same for a RESET list */
List *
cmek_options_strip_reset(List *options, CmekAsked *asked)
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
		(void) option_check(def, asked);
	}
	return rest;
}
