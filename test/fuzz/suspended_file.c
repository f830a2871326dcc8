/*-------------------------------------------------------------------------
 *
 * suspended_file.c
 *	  The file of keys that are suspended in every database.
 *
 * Inputs are the lines before the last one, which is made to fit unless the
 * first byte says otherwise.  What holds: a file that was changed anywhere is
 * not read; one that is read names keys.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "../../src/keys/everywhere.c"

/* Every bit of a good file, changed. */
static void
check_all_bits(const char *good, Size len)
{
	for (Size bit = 0; bit < 8 * len; bit++)
	{
		char	   *text = pnstrdup(good, len);

		text[bit / 8] ^= 1 << (bit % 8);
		list->n = 0;
		FUZZ_CHECK(!parse_file(text, len));
		pfree(text);
	}
}

static void
run_suspended_file(const uint8 *data, size_t size)
{
	static bool once = false;
	char	   *text = palloc(size + FILE_TAIL_LEN + 2);
	char		tail[FILE_TAIL_LEN + 1];
	Size		len;

	if (size < 1 || size > FILE_MAX - FILE_TAIL_LEN - 2)
		return;
	if (list == NULL)
		list = MemoryContextAllocZero(TopMemoryContext, sizeof(EverywhereList));
	len = size - 1;
	memcpy(text, data + 1, len);
	if (data[0] % 4 != 0)
	{
		format_tail(text, len, tail);
		memcpy(text + len, tail, FILE_TAIL_LEN);
		len += FILE_TAIL_LEN;
	}
	text[len] = '\0';
	list->n = 0;
	if (!once)
	{
		char	   *good = psprintf(FILE_HEAD "718000000000000 post%%20gres acme\n");

		format_tail(good, strlen(good), tail);
		good = psprintf("%s%s", good, tail);
		FUZZ_CHECK(parse_file(pstrdup(good), strlen(good)) && list->n == 1);
		FUZZ_CHECK(strcmp(list->entries[0].suspension.by, "post gres") == 0);
		check_all_bits(good, strlen(good));
		once = true;
		list->n = 0;
	}
	if (!parse_file(text, len))
		return;
	FUZZ_CHECK(list->n >= 0 && list->n <= MAX_NAMES);
	for (int i = 0; i < list->n; i++)
	{
		FUZZ_CHECK(list->entries[i].name[0] != '\0');
		FUZZ_CHECK(strnlen(list->entries[i].name, NAMEDATALEN) < NAMEDATALEN);
		FUZZ_CHECK(strnlen(list->entries[i].suspension.by, NAMEDATALEN) < NAMEDATALEN);
	}
}

static int
seed_suspended_file(int i, uint8 *seed)
{
	static const char *const seeds[] = {
		"1" FILE_HEAD, "1" FILE_HEAD "718000000000000 postgres acme\n",
		"1" FILE_HEAD "-1 a%20b x%C3%A4\n2 b c\n", "4" FILE_HEAD "end 00000000\n"
	};

	if (i >= lengthof(seeds))
		return -1;
	strcpy((char *) seed, seeds[i]);
	return strlen(seeds[i]);
}

const FuzzTarget fuzz_suspended_file = {"suspended_file", run_suspended_file, seed_suspended_file};
