/*-------------------------------------------------------------------------
 *
 * page.c
 *	  Is a page of a sealed index one that nbtree can be let loose on?
 *
 * nbtree believes page headers, line pointers and the headers of entries, none
 * of which is authentic.  Here they are believed by nobody: no offset is
 * followed before it was seen to stay inside the page.  Says nothing of what
 * stands in an entry.
 *
 * It looks at every line of a page, where a lookup needs a few, so it is for
 * cmek.verify(), not for scans (README).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "btree/internal.h"

/* All flags that core sets */
#define KNOWN_FLAGS \
	(BTP_LEAF | BTP_ROOT | BTP_DELETED | BTP_HALF_DEAD | BTP_SPLIT_END | \
	 BTP_HAS_GARBAGE | BTP_INCOMPLETE_SPLIT | BTP_HAS_FULLXID)

/* The header and the special space of a page, which is not the metapage */
bool
bt_page_is_sound(Page page)
{
	PageHeader	header = (PageHeader) page;
	Size		special = BLCKSZ - MAXALIGN(sizeof(BTPageOpaqueData));
	BTPageOpaque opaque = (BTPageOpaque) ((char *) page + special);

	if (PageGetPageSize(page) != BLCKSZ ||
		PageGetPageLayoutVersion(page) != PG_PAGE_LAYOUT_VERSION ||
		header->pd_special != special ||
		header->pd_lower < SizeOfPageHeaderData ||
		header->pd_lower > header->pd_upper ||
		header->pd_upper > special)
		return false;
	if ((opaque->btpo_flags & ~KNOWN_FLAGS) != 0)
		return false;
	/* what stands in a deleted page is no entry */
	return P_ISDELETED(opaque) ||
		((opaque->btpo_level == 0) == (P_ISLEAF(opaque) != 0) &&
		 PageGetMaxOffsetNumber(page) <= MaxIndexTuplesPerPage);
}

/* A line pointer of a sound page, and the header of the entry behind it */
bool
bt_item_is_sound(Page page, ItemId id)
{
	PageHeader	header = (PageHeader) page;
	Size		offset = ItemIdGetOffset(id);
	Size		length = ItemIdGetLength(id);
	IndexTuple	entry = (IndexTuple) ((char *) page + offset);

	return (ItemIdIsNormal(id) || ItemIdIsDead(id)) &&
		offset == MAXALIGN(offset) && offset >= header->pd_upper &&
		length >= sizeof(IndexTupleData) &&
		offset + length <= header->pd_special &&
		IndexTupleSize(entry) >= sizeof(IndexTupleData) &&
		IndexTupleSize(entry) <= length &&
		!BTreeTupleIsPosting(entry);	/* nothing is deduplicated */
}
