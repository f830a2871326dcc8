/*-------------------------------------------------------------------------
 *
 * ttlv.c
 *	  TTLV, the encoding of KMIP: see ttlv.h.
 *
 * Pure functions.  What is read is taken for hostile: cmek_ttlv_read looks at
 * every length once, and the others may then rely on them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/ttlv.h"

#define MAX_DEPTH 8
#define MAX_ITEMS 1024			/* in one message */

/* Write a number, big-endian. */
static void
put32(uint8 *to, uint32 value)
{
	to[0] = value >> 24;
	to[1] = value >> 16;
	to[2] = value >> 8;
	to[3] = value;
}

/* Read a number, big-endian. */
static uint32
get32(const uint8 *from)
{
	return (uint32) from[0] << 24 | (uint32) from[1] << 16 |
		(uint32) from[2] << 8 | from[3];
}

/* A length with its padding */
static Size
padded(Size len)
{
	return (len + 7) & ~(Size) 7;
}

/* See ttlv.h. */
void
cmek_ttlv_init(CmekTtlv *to, void *area, Size size)
{
	to->data = area;
	to->size = size;
	to->len = 0;
	to->overflow = false;
}

/* Add a header, and room for the value; NULL when there is none. */
static uint8 *
add_item(CmekTtlv *to, uint32 tag, CmekTtlvType type, Size len)
{
	uint8	   *value;

	if (len > to->size || to->size - to->len < CMEK_TTLV_HEADER + padded(len))
		to->overflow = true;
	if (to->overflow)
		return NULL;
	put32(to->data + to->len, tag << 8 | type);
	put32(to->data + to->len + 4, len);
	value = to->data + to->len + CMEK_TTLV_HEADER;
	memset(value, 0, padded(len));
	to->len += CMEK_TTLV_HEADER + padded(len);
	return value;
}

/* See ttlv.h. */
Size
cmek_ttlv_open(CmekTtlv *to, uint32 tag)
{
	(void) add_item(to, tag, CMEK_TTLV_STRUCTURE, 0);
	return to->len;
}

/* See ttlv.h. */
void
cmek_ttlv_close(CmekTtlv *to, Size opened)
{
	if (!to->overflow)
		put32(to->data + opened - 4, to->len - opened);
}

/* See ttlv.h. */
void
cmek_ttlv_add_number(CmekTtlv *to, uint32 tag, CmekTtlvType type, uint32 value)
{
	uint8	   *at = add_item(to, tag, type, 4);

	if (at != NULL)
		put32(at, value);
}

/* See ttlv.h. */
void
cmek_ttlv_add_text(CmekTtlv *to, uint32 tag, const char *text)
{
	uint8	   *at = add_item(to, tag, CMEK_TTLV_TEXT, strlen(text));

	if (at != NULL)
		memcpy(at, text, strlen(text));
}

/* See ttlv.h. */
void
cmek_ttlv_add_bytes(CmekTtlv *to, uint32 tag, const void *bytes, Size len)
{
	uint8	   *at = add_item(to, tag, CMEK_TTLV_BYTES, len);

	if (at != NULL)
		memcpy(at, bytes, len);
}

/* See ttlv.h. */
Size
cmek_ttlv_message_len(const uint8 *header, uint32 tag)
{
	if (get32(header) != (tag << 8 | CMEK_TTLV_STRUCTURE))
		return 0;
	/* of no use so large; and a sum that fits where Size has 32 bits */
	return CMEK_TTLV_HEADER + (Size) Min(get32(header + 4), PG_INT32_MAX);
}

/* Is this the length of a value of its type? */
static bool
length_fits(CmekTtlvType type, uint32 len)
{
	switch (type)
	{
		case CMEK_TTLV_INTEGER:
		case CMEK_TTLV_ENUMERATION:
		case CMEK_TTLV_INTERVAL:
			return len == 4;
		case CMEK_TTLV_LONG:
		case CMEK_TTLV_BOOLEAN:
		case CMEK_TTLV_TIME:
		case CMEK_TTLV_LONG_TIME:
			return len == 8;
		case CMEK_TTLV_STRUCTURE:
		case CMEK_TTLV_BIG_INTEGER:
			return len % 8 == 0;
		case CMEK_TTLV_TEXT:
		case CMEK_TTLV_BYTES:
			return true;
	}
	return false;
}

/* Take the first item off some bytes; how many it takes, 0: it is none. */
static Size
take_item(const uint8 *data, Size len, CmekTtlvItem *item)
{
	if (len < CMEK_TTLV_HEADER)
		return 0;
	item->tag = get32(data) >> 8;
	item->type = data[3];
	item->len = get32(data + 4);
	item->value = data + CMEK_TTLV_HEADER;
	if (item->len > len - CMEK_TTLV_HEADER ||
		padded(item->len) > len - CMEK_TTLV_HEADER ||
		!length_fits(item->type, item->len))
		return 0;
	return CMEK_TTLV_HEADER + padded(item->len);
}

/* Is everything inside of a structure well formed? */
static bool
check_inside(const CmekTtlvItem *structure, int depth, int *items)
{
	const uint8 *at = structure->value;
	Size		left = structure->len;

	while (left > 0)
	{
		CmekTtlvItem item;
		Size		taken = take_item(at, left, &item);

		if (taken == 0 || ++*items > MAX_ITEMS)
			return false;
		if (item.type == CMEK_TTLV_STRUCTURE &&
			(depth == MAX_DEPTH || !check_inside(&item, depth + 1, items)))
			return false;
		at += taken;
		left -= taken;
	}
	return true;
}

/* See ttlv.h. */
bool
cmek_ttlv_read(const uint8 *data, Size len, CmekTtlvItem *item)
{
	int			items = 0;

	return take_item(data, len, item) == len && len > 0 &&
		(item->type != CMEK_TTLV_STRUCTURE || check_inside(item, 1, &items));
}

/* See ttlv.h. */
bool
cmek_ttlv_nth(const CmekTtlvItem *structure, uint32 tag, int n,
			  CmekTtlvItem *item)
{
	const uint8 *at = structure->value;
	Size		left = structure->type == CMEK_TTLV_STRUCTURE ? structure->len : 0;

	while (left > 0)
	{
		Size		taken = take_item(at, left, item);

		if (taken == 0)
			return false;
		if (item->tag == tag && n-- == 0)
			return true;
		at += taken;
		left -= taken;
	}
	return false;
}

/* See ttlv.h. */
bool
cmek_ttlv_only(const CmekTtlvItem *structure, uint32 tag, CmekTtlvType type,
			   CmekTtlvItem *item)
{
	CmekTtlvItem second;

	return cmek_ttlv_nth(structure, tag, 0, item) && item->type == type &&
		!cmek_ttlv_nth(structure, tag, 1, &second);
}

/* See ttlv.h. */
bool
cmek_ttlv_number(const CmekTtlvItem *structure, uint32 tag, CmekTtlvType type,
				 uint32 *value)
{
	CmekTtlvItem item;

	if (!cmek_ttlv_only(structure, tag, type, &item) || item.len != 4)
		return false;
	*value = get32(item.value);
	return true;
}

/* See ttlv.h. */
bool
cmek_ttlv_is_text(const CmekTtlvItem *item, const char *text)
{
	return item->type == CMEK_TTLV_TEXT && item->len == strlen(text) &&
		memcmp(item->value, text, item->len) == 0;
}
