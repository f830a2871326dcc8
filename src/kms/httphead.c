/*-------------------------------------------------------------------------
 *
 * httphead.c
 *	  Reading the headers of an HTTP answer.
 *
 * Pure functions: no memory of PostgreSQL's, no ERROR.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/http.h"
#include "kms/text.h"

#define RETRY_AFTER_MAX_S 3600

/* Is this line a header of that name?  Then where its value begins. */
static const char *
match_header(const char *line, const char *end, const char *name)
{
	Size		len = strlen(name);

	if ((Size) (end - line) <= len || line[len] != ':' ||
		pg_strncasecmp(line, name, len) != 0)
		return NULL;
	line += len + 1;
	while (line < end && (*line == ' ' || *line == '\t'))
		line++;
	return line;
}

/* Copy the value of the last header of a name. */
bool
cmek_http_find(const CmekHttpAnswer *http, const char *name, char *out,
			   Size size)
{
	const char *at = http->head;
	const char *head_end = http->head + http->head_len;
	bool		found = false;

	while (at < head_end)
	{
		const char *end = memchr(at, '\n', head_end - at);
		const char *next = end ? end + 1 : head_end;
		const char *value;

		end = next;
		while (end > at && (end[-1] == '\n' || end[-1] == '\r' ||
							end[-1] == ' ' || end[-1] == '\t'))
			end--;
		value = match_header(at, end, name);
		if (value != NULL && (Size) (end - value) < size)
		{
			memcpy(out, value, end - value);
			out[end - value] = '\0';
			found = true;
		}
		at = next;
	}
	return found;
}

/* Read a date as RFC 9110 (5.6.7) wants it to be written. */
bool
cmek_http_parse_date(const char *text, int64 *seconds)
{
	static const char *const months[] = {
		"Jan", "Feb", "Mar", "Apr", "May", "Jun",
		"Jul", "Aug", "Sep", "Oct", "Nov", "Dec"
	};
	char		name[4];
	int			day,
				year,
				hour,
				minute,
				second,
				end = 0;

	if (sscanf(text, "%*3c, %2d %3s %4d %2d:%2d:%2d GMT%n",
			   &day, name, &year, &hour, &minute, &second, &end) != 6 ||
		end == 0 || text[end] != '\0')
		return false;
	for (Size m = 0; m < lengthof(months); m++)
		if (strcmp(months[m], name) == 0)
			return cmek_epoch(year, m + 1, day, hour, minute, second, seconds);
	return false;
}

/* How long the KMS asks us to wait, in ms. */
int
cmek_http_retry_after(const CmekHttpAnswer *http)
{
	char		value[64];
	char		date[64];
	int64		wanted;
	int64		now;

	if (!cmek_http_find(http, "Retry-After", value, sizeof(value)))
		return 0;
	if (value[0] != '\0' && strspn(value, "0123456789") == strlen(value))
		wanted = strlen(value) > 6 ? RETRY_AFTER_MAX_S : atoi(value);
	else if (cmek_http_parse_date(value, &wanted) &&
			 cmek_http_find(http, "Date", date, sizeof(date)) &&
			 cmek_http_parse_date(date, &now))
		wanted -= now;
	else
		return 0;
	return (int) Max(0, Min(wanted, RETRY_AFTER_MAX_S)) * 1000;
}
