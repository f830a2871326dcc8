/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Building and reading the bytes of requests and answers.
 *
 * Must never allocate PostgreSQL memory or throw an ERROR (text.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "kms/text.h"

static const char base64_alphabet[] =
"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char base64url_alphabet[] =
"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Begin an empty text in an area of at least one byte. */
void
cmek_text_init(CmekText *text, char *area, Size size)
{
	text->data = area;
	text->size = size;
	text->len = 0;
	text->overflow = false;
	area[0] = '\0';
}

/* Append bytes, all or none. */
void
cmek_text_add_bytes(CmekText *text, const char *bytes, Size len)
{
	if (text->overflow || len >= text->size - text->len)
	{
		text->overflow = true;
		return;
	}
	memcpy(text->data + text->len, bytes, len);
	text->len += len;
	text->data[text->len] = '\0';
}

/* Append a string. */
void
cmek_text_add(CmekText *text, const char *string)
{
	cmek_text_add_bytes(text, string, strlen(string));
}

/* Append what a format makes. */
void
cmek_text_printf(CmekText *text, const char *fmt,...)
{
	Size		room = text->size - text->len;
	va_list		args;
	int			n;

	va_start(args, fmt);
	n = vsnprintf(text->data + text->len, room, fmt, args);
	va_end(args);
	if (n >= 0 && (Size) n < room)
		text->len += n;
	else
	{
		text->data[text->len] = '\0';
		text->overflow = true;
	}
}

/* Append a JSON string, with its quotes. */
void
cmek_text_add_json(CmekText *text, const char *string)
{
	cmek_text_add(text, "\"");
	for (const unsigned char *c = (const unsigned char *) string; *c; c++)
	{
		if (*c == '"' || *c == '\\')
			cmek_text_printf(text, "\\%c", *c);
		else if (*c < 0x20)
			cmek_text_printf(text, "\\u%04x", *c);
		else
			cmek_text_add_bytes(text, (const char *) c, 1);
	}
	cmek_text_add(text, "\"");
}

/* Append percent-encoded text. */
void
cmek_text_add_percent(CmekText *text, const char *string)
{
	for (const unsigned char *c = (const unsigned char *) string; *c; c++)
	{
		if ((*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') ||
			(*c >= '0' && *c <= '9') || strchr("-._~", *c) != NULL)
			cmek_text_add_bytes(text, (const char *) c, 1);
		else
			cmek_text_printf(text, "%%%02X", *c);
	}
}

/* Append base64. */
void
cmek_text_add_base64(CmekText *text, const uint8 *bytes, Size len)
{
	for (Size i = 0; i < len; i += 3)
	{
		uint32		n = (uint32) bytes[i] << 16 |
			(i + 1 < len ? (uint32) bytes[i + 1] << 8 : 0) |
			(i + 2 < len ? bytes[i + 2] : 0);
		char		quad[4];

		quad[0] = base64_alphabet[n >> 18];
		quad[1] = base64_alphabet[n >> 12 & 63];
		quad[2] = i + 1 < len ? base64_alphabet[n >> 6 & 63] : '=';
		quad[3] = i + 2 < len ? base64_alphabet[n & 63] : '=';
		cmek_text_add_bytes(text, quad, sizeof(quad));
	}
}

/* Append base64url. */
void
cmek_text_add_base64url(CmekText *text, const uint8 *bytes, Size len)
{
	Size		start = text->len;

	cmek_text_add_base64(text, bytes, len);
	if (text->overflow)
		return;
	while (text->len > start && text->data[text->len - 1] == '=')
		text->data[--text->len] = '\0';
	for (Size i = start; i < text->len; i++)
	{
		if (text->data[i] == '+')
			text->data[i] = '-';
		else if (text->data[i] == '/')
			text->data[i] = '_';
	}
}

/* Append hexadecimal digits. */
void
cmek_text_add_hex(CmekText *text, const uint8 *bytes, Size len)
{
	static const char digits[] = "0123456789abcdef";

	for (Size i = 0; i < len; i++)
	{
		char		pair[2] = {digits[bytes[i] >> 4], digits[bytes[i] & 15]};

		cmek_text_add_bytes(text, pair, sizeof(pair));
	}
}

/* Decode the characters of a base64 text, of which none is padding. */
static bool
decode_base64(const char *alphabet, const char *text, Size textlen,
			  uint8 *out, Size size, Size *len)
{
	uint32		bits = 0;
	int			nbits = 0;
	Size		n = 0;

	/* a last character of its own holds less than a byte */
	if (textlen % 4 == 1)
		return false;
	for (Size i = 0; i < textlen; i++)
	{
		const char *at = text[i] == '\0' ? NULL : strchr(alphabet, text[i]);

		if (at == NULL)
			return false;
		bits = bits << 6 | (uint32) (at - alphabet);
		nbits += 6;
		if (nbits < 8)
			continue;
		if (n == size)
			return false;
		nbits -= 8;
		out[n++] = (uint8) (bits >> nbits);
		bits &= (1U << nbits) - 1;
	}
	/* only one text stands for some bytes */
	if (bits != 0)
		return false;
	*len = n;
	return true;
}

/* Decode base64 with padding. */
bool
cmek_base64_decode(const char *text, Size textlen, uint8 *out, Size size,
				   Size *len)
{
	if (textlen % 4 != 0)
		return false;
	if (textlen > 0 && text[textlen - 1] == '=')
		textlen -= text[textlen - 2] == '=' ? 2 : 1;
	return decode_base64(base64_alphabet, text, textlen, out, size, len);
}

/* Decode base64url without padding. */
bool
cmek_base64url_decode(const char *text, Size textlen, uint8 *out, Size size,
					  Size *len)
{
	return decode_base64(base64url_alphabet, text, textlen, out, size, len);
}

/* See text.h. */
void
cmek_text_add_base(CmekText *text, const char *base)
{
	Size		len = strlen(base);

	while (len > 0 && base[len - 1] == '/')
		len--;
	cmek_text_add_bytes(text, base, len);
}

/* See text.h. */
bool
cmek_text_is_sendable(const char *token)
{
	for (const char *at = token; *at != '\0'; at++)
		if (*at <= ' ' || *at > '~')
			return false;
	return *token != '\0';
}

/* Copy a text so that it can stand in a message. */
void
cmek_text_printable(char *out, Size size, const char *text)
{
	Size		n = 0;

	for (; text[n] != '\0' && n + 1 < size; n++)
	{
		unsigned char c = (unsigned char) text[n];

		/* other bytes might be no valid text in a database's encoding */
		out[n] = c >= 0x20 && c < 0x7f ? text[n] : '?';
	}
	out[n] = '\0';
}

/* Seconds since 1970 of a time of the Gregorian calendar, in UTC. */
bool
cmek_epoch(int year, int month, int day, int hour, int minute, int second,
		   int64 *seconds)
{
	/* years begin in March, so that the leap day is the last one */
	int64		y = year - (month <= 2);
	int64		era = y / 400;
	int64		yoe = y - era * 400;
	int64		doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	int64		days = era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy -
		719468;

	if (year < 1970 || year > 9999 || month < 1 || month > 12 ||
		day < 1 || day > 31 || hour < 0 || hour > 23 ||
		minute < 0 || minute > 59 || second < 0 || second > 60)
		return false;
	*seconds = days * SECS_PER_DAY + hour * SECS_PER_HOUR +
		minute * SECS_PER_MINUTE + second;
	return true;
}

/* Read a time as RFC 3339 has it, in UTC. */
bool
cmek_parse_timestamp(const char *text, int64 *seconds)
{
	int			year,
				month,
				day,
				hour,
				minute,
				second,
				end = 0;

	if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &year, &month, &day, &hour,
			   &minute, &second, &end) != 6 || end != 19)
		return false;
	if (text[end] == '.')
		end += 1 + strspn(text + end + 1, "0123456789");
	return (strcmp(text + end, "Z") == 0 ||
			strcmp(text + end, "+00:00") == 0) &&
		cmek_epoch(year, month, day, hour, minute, second, seconds);
}
