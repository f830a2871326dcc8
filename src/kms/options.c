/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The validators of our foreign-data wrappers.
 *
 * PostgreSQL calls a validator with the whole list of options that an object
 * is about to have.  What an option may do is written once, in the flags of
 * its provider's table (kms.h); no value is ever repeated in an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"

#include "compat.h"
#include "kms/internal.h"

PG_FUNCTION_INFO_V1(cmek_file_validator);
PG_FUNCTION_INFO_V1(cmek_aws_validator);

/* What may stand on any server of ours, whatever its provider */
static const CmekKmsOption common_options[] = {
	{"drop_after", CMEK_OPTION_SERVER},
	{NULL, 0}
};

/* The flag an option needs to stand on an object of this catalog; or 0. */
static int
place_of(Oid catalog)
{
	if (catalog == ForeignServerRelationId)
		return CMEK_OPTION_SERVER;
	if (catalog == UserMappingRelationId)
		return CMEK_OPTION_MAPPING;
	return 0;
}

/* The option of this name among some; NULL when there is none. */
static const CmekKmsOption *
find_among(const CmekKmsOption *options, const char *name)
{
	for (const CmekKmsOption *o = options; o->name != NULL; o++)
		if (strcmp(o->name, name) == 0)
			return o;
	return NULL;
}

/* The option of this name; NULL when the provider has none. */
static const CmekKmsOption *
find_option(const CmekKmsProvider *provider, const char *name)
{
	const CmekKmsOption *option = find_among(provider->options, name);

	return option != NULL ? option : find_among(common_options, name);
}

/* See kms.h. */
bool
cmek_option_is_common(const char *name)
{
	return find_among(common_options, name) != NULL;
}

/* See kms.h. */
bool
cmek_parse_duration(const char *text, int *seconds)
{
	const char *hint;

	if (pg_strcasecmp(text, "off") == 0)
	{
		*seconds = -1;
		return true;
	}
	return parse_int(text, seconds, GUC_UNIT_S, &hint) && *seconds > 0;
}

/* List the names of options that can stand in a place. */
static void
list_options(StringInfo buf, const CmekKmsOption *options, int place)
{
	for (const CmekKmsOption *o = options; o->name != NULL; o++)
		if (o->flags & place)
			appendStringInfo(buf, "%s%s", buf->len > 0 ? ", " : "", o->name);
}

/* Is it an option that never stands in the catalog in clear? */
bool
cmek_option_is_secret(const CmekKmsProvider *provider, const char *name)
{
	const CmekKmsOption *option = find_option(provider, name);

	return option != NULL && (option->flags & CMEK_OPTION_SECRET) != 0;
}

/* Complain about an option that cannot stand here, naming those that can. */
static void
reject_option(const CmekKmsProvider *provider, const char *name, int place)
{
	const CmekKmsOption *known = find_option(provider, name);
	StringInfoData valid;

	if (known != NULL && (known->flags & CMEK_OPTION_SECRET) &&
		place == CMEK_OPTION_SERVER)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is a secret and cannot be set on a server", name),
				 errhint("Use CREATE USER MAPPING FOR PUBLIC SERVER ... OPTIONS (%s ...).", name)));

	initStringInfo(&valid);
	list_options(&valid, provider->options, place);
	list_options(&valid, common_options, place);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 valid.len > 0 ?
			 errhint("Valid options in this context are: %s.", valid.data) :
			 errhint("There are no valid options in this context.")));
}

/* May the caller make the server read files and call addresses? */
static bool
may_reach_out(void)
{
	return superuser() ||
		has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES);
}

/*
 * A secret was sealed by the utility hook before it comes here; if not, there
 * is no hook, and the catalog would show it.
 */
static void
check_sealed(const DefElem *def)
{
	if (!cmek_secret_is_sealed(def->defname, defGetString((DefElem *) def)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("option \"%s\" is a secret and cannot be stored in clear",
						def->defname),
				 errhint("Set shared_preload_libraries = 'cmek' and restart the server: then it is sealed.")));
}

/* Check an option that is a duration. */
static void
check_duration(DefElem *def)
{
	int			seconds;

	if (!cmek_parse_duration(defGetString(def), &seconds))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\"", def->defname),
				 errdetail("It is \"off\" or a duration, for example \"7d\".")));
}

/* Check the name, the value and the caller's right to set one option. */
static void
check_option(const CmekKmsProvider *provider, DefElem *def, int place)
{
	const CmekKmsOption *option = find_option(provider, def->defname);

	if (option == NULL || (option->flags & place) == 0)
		reject_option(provider, def->defname, place);
	if ((option->flags & CMEK_OPTION_SUPERUSER) && !may_reach_out())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", def->defname),
				 errdetail("Only superusers and members of pg_write_server_files may set or keep this option, because it makes the server read a file or call an address.")));
	if (*defGetString(def) == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be empty", def->defname)));
	if (option->flags & CMEK_OPTION_SECRET)
		check_sealed(def);
	if (cmek_option_is_common(def->defname))
		check_duration(def);
}

/* Complain when an option without which the provider cannot work is absent. */
static void
check_required(const CmekKmsProvider *provider, List *options, int place)
{
	for (const CmekKmsOption *o = provider->options; o->name != NULL; o++)
	{
		ListCell   *lc;
		bool		found = false;

		if ((o->flags & CMEK_OPTION_REQUIRED) == 0 || (o->flags & place) == 0)
			continue;
		foreach(lc, options)
			found |= strcmp(((DefElem *) lfirst(lc))->defname, o->name) == 0;
		if (!found)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
					 errmsg("option \"%s\" is required", o->name)));
	}
}

/* The body of every validator of ours. */
void
cmek_kms_validate(const CmekKmsProvider *provider, List *options, Oid catalog)
{
	int			place = place_of(catalog);
	ListCell   *lc;

	foreach(lc, options)
		check_option(provider, (DefElem *) lfirst(lc), place);
	if (place != 0)
		check_required(provider, options, place);
	if (provider->validate != NULL)
		provider->validate(options, catalog);
}

/* Validator of wrapper cmek_file. */
Datum
cmek_file_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_file_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}

/* Validator of wrapper cmek_aws. */
Datum
cmek_aws_validator(PG_FUNCTION_ARGS)
{
	cmek_kms_validate(&cmek_aws_provider,
					  untransformRelOptions(PG_GETARG_DATUM(0)),
					  PG_GETARG_OID(1));
	PG_RETURN_VOID();
}
