/*-------------------------------------------------------------------------
 *
 * aws_profile.c
 *	  The files in which AWS's own tools keep profiles.
 *
 *	 ~/.aws/credentials			~/.aws/config
 *		[default]					[default]
 *		aws_access_key_id = ...		region = eu-central-1
 *		[acme]						[profile acme]
 *									role_arn = arn:aws:iam::1:role/db
 *									source_profile = default
 *
 * Nested settings (indented lines) belong to other services and are left out;
 * credential_process is never run.
 *
 * Pure functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"

/* Where a setting of a profile goes */
typedef struct ProfileField
{
	const char *name;
	Size		offset;
	Size		size;
} ProfileField;

#define FIELD(name, member) \
	{name, offsetof(CmekAwsProfile, member), sizeof(((CmekAwsProfile *) 0)->member)}

static const ProfileField fields[] = {
	FIELD("aws_access_key_id", credentials.access_key_id),
	FIELD("aws_secret_access_key", credentials.secret_access_key),
	FIELD("aws_session_token", credentials.session_token),
	FIELD("region", region),
	FIELD("role_arn", role_arn),
	FIELD("role_session_name", role_session_name),
	FIELD("external_id", external_id),
	FIELD("source_profile", source_profile),
	FIELD("web_identity_token_file", web_identity_token_file),
};

/* A piece of text */
typedef struct Span
{
	const char *at;
	Size		len;
} Span;

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* Without the blanks around it. */
static Span
trim(const char *at, Size len)
{
	while (len > 0 && is_blank(*at))
		at++, len--;
	while (len > 0 && is_blank(at[len - 1]))
		len--;
	return (Span) {at, len};
}

static bool
span_is(Span span, const char *text)
{
	return span.len == strlen(text) && memcmp(span.at, text, span.len) == 0;
}

/* Does a line "[...]" begin the profile of this name? */
static bool
is_section(Span line, const char *name, bool config)
{
	Span		inner = trim(line.at + 1, line.len - 1);

	if (inner.len == 0 || inner.at[inner.len - 1] != ']')
		return false;
	inner = trim(inner.at, inner.len - 1);
	if (config && inner.len > 7 && memcmp(inner.at, "profile", 7) == 0 &&
		is_blank(inner.at[7]))
		inner = trim(inner.at + 7, inner.len - 7);
	else if (config && strcmp(name, "default") != 0)
		return false;
	return span_is(inner, name);
}

/* Take over a line "name = value". */
static void
take_setting(Span line, CmekAwsProfile *profile)
{
	const char *equals = memchr(line.at, '=', line.len);
	Span		name;
	Span		value;

	if (equals == NULL)
		return;
	name = trim(line.at, equals - line.at);
	value = trim(equals + 1, line.at + line.len - equals - 1);
	for (Size i = 0; i < lengthof(fields); i++)
		if (span_is(name, fields[i].name) && value.len < fields[i].size)
		{
			char	   *out = (char *) profile + fields[i].offset;

			memcpy(out, value.at, value.len);
			out[value.len] = '\0';
		}
}

/* Read a profile: see aws.h. */
bool
cmek_aws_profile(const char *text, const char *name, bool config,
				 CmekAwsProfile *profile)
{
	bool		inside = false;
	bool		found = false;

	while (*text != '\0')
	{
		Size		len = strcspn(text, "\n");
		Span		line = trim(text, len);
		bool		nested = len > 0 && is_blank(text[0]);

		if (line.len > 0 && line.at[0] == '[')
		{
			inside = is_section(line, name, config);
			found |= inside;
		}
		else if (inside && !nested && line.len > 0 &&
				 line.at[0] != '#' && line.at[0] != ';')
			take_setting(line, profile);
		text += len + (text[len] == '\n');
	}
	return found;
}
