/*-------------------------------------------------------------------------
 *
 * token.c
 *	  What a process (mostly a KMS worker) remembers for a while: access tokens, temporary
 *	  credentials, the difference of clocks.
 *
 * Values are in secret memory.  Identities are digests under a key of this
 * process, so they tell nothing about the secrets they were made of.  The
 * table has a fixed size; the entry that ends first makes room.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"


#include "compat.h"
#include "crypto/crypto.h"
#include "kms/http.h"

#define MAX_TOKENS 128

typedef struct Token
{
	uint8		id[CMEK_TOKEN_ID_LEN];
	CmekInstant good_until;		/* 0: free */
	Size		size;
	void	   *value;			/* secret memory */
} Token;

static Token tokens[MAX_TOKENS];

/* Append a string, or its absence, to a digest. */
static void
digest_part(uint8 *digest, const char *part)
{
	uint8		next[CMEK_TOKEN_ID_LEN];

	if (part == NULL)
		cmek_hmac_sha256(digest, CMEK_TOKEN_ID_LEN, "", 0, next);
	else
		/* with its NUL, so that "" differs from nothing */
		cmek_hmac_sha256(digest, CMEK_TOKEN_ID_LEN, part, strlen(part) + 1,
						 next);
	memcpy(digest, next, CMEK_TOKEN_ID_LEN);
}

/* Who a token is for: see http.h. */
void
cmek_token_id(uint8 *id, const char *kind, const char *const *parts, int n)
{
	static uint8 key[CMEK_TOKEN_ID_LEN];
	static bool have_key = false;

	if (!have_key)
		cmek_random(key, sizeof(key));
	have_key = true;
	memcpy(id, key, CMEK_TOKEN_ID_LEN);
	digest_part(id, kind);
	for (int i = 0; i < n; i++)
		digest_part(id, parts[i]);
}

/* Give an entry back. */
static void
free_token(Token *token)
{
	if (token->value != NULL)
		cmek_secret_free(token->value);
	memset(token, 0, sizeof(Token));
}

/* The entry of an identity; NULL when there is none. */
static Token *
find_token(const uint8 *id)
{
	for (int i = 0; i < MAX_TOKENS; i++)
		if (tokens[i].good_until != 0 &&
			memcmp(tokens[i].id, id, CMEK_TOKEN_ID_LEN) == 0)
			return &tokens[i];
	return NULL;
}

/* Copy a value that is still good. */
bool
cmek_token_get(const uint8 *id, void *value, Size size)
{
	Token	   *token = find_token(id);

	if (token == NULL || token->size != size)
		return false;
	if (cmek_now() >= token->good_until)
	{
		free_token(token);
		return false;
	}
	memcpy(value, token->value, size);
	return true;
}

/* The entry to use for a new value: a free one, or the one that ends first. */
static Token *
room_for_token(void)
{
	Token	   *best = &tokens[0];

	for (int i = 1; i < MAX_TOKENS; i++)
		if (tokens[i].good_until < best->good_until)
			best = &tokens[i];
	free_token(best);
	return best;
}

/* Remember a value. */
void
cmek_token_put(const uint8 *id, const void *value, Size size,
			   CmekInstant good_until)
{
	void	   *copy;
	Token	   *token;

	cmek_token_forget(id);
	if (good_until <= cmek_now() || size > CMEK_TOKEN_MAX)
		return;
	copy = cmek_secret_alloc(size);
	memcpy(copy, value, size);
	token = room_for_token();
	memcpy(token->id, id, CMEK_TOKEN_ID_LEN);
	token->size = size;
	token->value = copy;
	token->good_until = good_until;
}

/* Forget a value. */
void
cmek_token_forget(const uint8 *id)
{
	Token	   *token = find_token(id);

	if (token != NULL)
		free_token(token);
}
