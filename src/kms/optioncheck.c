/*-------------------------------------------------------------------------
 *
 * optioncheck.c
 *	  What the validators of providers check of values: addresses, names,
 *	  paths, and options that exclude or need each other.
 *
 * No value is ever repeated in an error: it may be a secret in a wrong place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "lib/stringinfo.h"

#include "kms/internal.h"

/* The option of this name; NULL when it is not given. */
DefElem *
cmek_option_find(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return def;
	}
	return NULL;
}

/* The value of an option; NULL when it is not given. */
static const char *
value_of(List *options, const char *name)
{
	DefElem    *def = cmek_option_find(options, name);

	return def != NULL ? defGetString(def) : NULL;
}

/* Does the text begin with this? */
static bool
begins_with(const char *text, const char *prefix)
{
	return pg_strncasecmp(text, prefix, strlen(prefix)) == 0;
}

/* Is an address without TLS one of this very machine? */
static bool
is_plain_loopback(const char *url)
{
	static const char *const hosts[] = {
		"http://127.0.0.1", "http://localhost", "http://[::1]"
	};

	for (Size i = 0; i < lengthof(hosts); i++)
	{
		char		next;

		if (!begins_with(url, hosts[i]))
			continue;
		next = url[strlen(hosts[i])];
		if (next == '\0' || next == ':' || next == '/')
			return true;
	}
	return false;
}

/* An address is https, or http on loopback, and nothing else is in it. */
void
cmek_option_check_url(List *options, const char *name)
{
	const char *url = value_of(options, name);

	if (url == NULL)
		return;
	if (!is_plain_loopback(url) &&
		!(begins_with(url, "https://") && strlen(url) > strlen("https://")))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must be an address that begins with https://", name),
				 errdetail("Without TLS only an address of this very machine can be used.")));
	for (const char *at = url; *at != '\0'; at++)
		if (*at <= ' ' || *at > '~' || strchr("@?#\\\"", *at) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("option \"%s\" must be an address without user, query or fragment", name)));
}

/* A path is absolute. */
void
cmek_option_check_path(List *options, const char *name)
{
	const char *path = value_of(options, name);

	if (path != NULL && !is_absolute_path(path))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must be an absolute path", name)));
}

/* Is it a path of names, none of them empty, "." or ".."? */
static bool
is_name(const char *text, bool path)
{
	const char *at = text;

	for (;;)
	{
		Size		len = strcspn(at, "/");

		if (len == 0 || (len == 1 && at[0] == '.') ||
			(len == 2 && at[0] == '.' && at[1] == '.') ||
			strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") < len)
			return false;
		if (at[len] == '\0')
			return true;
		if (!path)
			return false;
		at += len + 1;
	}
}

/* A name that becomes part of an address or a header. */
void
cmek_option_check_name(List *options, const char *name, bool path)
{
	const char *value = value_of(options, name);

	if (value != NULL && !is_name(value, path))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must be a name of letters, digits, \"-\", \"_\" and \".\"", name),
				 path ? errhint("Names may be joined by \"/\", with none at the beginning or the end.") : 0));
}

/* Names of options with commas between them */
static char *
join_names(const char *const *names)
{
	StringInfoData text;

	initStringInfo(&text);
	for (; *names != NULL; names++)
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", *names);
	return text.data;
}

/* Exactly one of these options must be given. */
void
cmek_option_check_one_of(List *options, const char *const *names)
{
	const char *first = NULL;

	for (const char *const *name = names; *name != NULL; name++)
	{
		if (cmek_option_find(options, *name) == NULL)
			continue;
		if (first != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("options \"%s\" and \"%s\" exclude each other", first, *name),
					 errhint("Give one of: %s.", join_names(names))));
		first = *name;
	}
	if (first == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("credentials are incomplete"),
				 errhint("Give one of: %s.", join_names(names))));
}

/* One option is of no use without another. */
void
cmek_option_check_needs(List *options, const char *name, const char *needed)
{
	if (cmek_option_find(options, name) != NULL &&
		cmek_option_find(options, needed) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"%s\" needs option \"%s\"", name, needed)));
}
