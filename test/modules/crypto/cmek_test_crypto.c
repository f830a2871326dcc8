/*-------------------------------------------------------------------------
 *
 * cmek_test_crypto.c
 *	  src/crypto as SQL functions: AEAD, HMAC, nonces.
 *
 * For test/t/010_crypto.pl only.  Must never be installed where keys matter:
 * these functions take keys as arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "crypto/crypto.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static const uint8 some_key[CMEK_KEY_LEN] = "a key of 32 bytes, for the test";

/* Register the settings */
void
_PG_init(void)
{
	cmek_crypto_init();
}

/* A context of the implementation named by an argument */
static CmekAead *
make_aead(FunctionCallInfo fcinfo, int arg, const uint8 *key)
{
	char	   *name;

	if (PG_ARGISNULL(arg))
		return cmek_aead_create(key);

	name = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(name, "ipsec-mb") == 0)
		return cmek_aead_create_with(key, CMEK_CRYPTO_IPSECMB);
	if (strcmp(name, "ipsec-mb-avx2") == 0)
		return cmek_aead_create_with(key, CMEK_CRYPTO_IPSECMB_AVX2);
	if (strcmp(name, "openssl") == 0)
		return cmek_aead_create_with(key, CMEK_CRYPTO_OPENSSL);
	if (strcmp(name, "auto") == 0)
		return cmek_aead_create_with(key, CMEK_CRYPTO_AUTO);
	elog(ERROR, "no implementation \"%s\"", name);
}

/* The bytes of a bytea argument, "len" of them unless it is -1 */
static const uint8 *
get_bytes(FunctionCallInfo fcinfo, int arg, int len)
{
	bytea	   *value = PG_GETARG_BYTEA_PP(arg);

	if (len >= 0 && (int) VARSIZE_ANY_EXHDR(value) != len)
		elog(ERROR, "argument %d must be %d bytes long", arg, len);
	return (const uint8 *) VARDATA_ANY(value);
}

#define GET_LEN(arg) ((Size) VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(arg)))

/* A bytea with room for this many bytes */
static bytea *
make_bytea(Size len)
{
	bytea	   *value = palloc0(VARHDRSZ + len);

	SET_VARSIZE(value, VARHDRSZ + len);
	return value;
}

/* ERROR unless all of a range is zero */
static void
check_zero(const void *start, Size len, const char *what)
{
	for (Size i = 0; i < len; i++)
		if (((const uint8 *) start)[i] != 0)
			elog(ERROR, "%s: byte %zu of %zu is not zero", what, i, len);
}

/* ERROR if this opens, or leaves anything in the output */
static void
check_refused(CmekAead *aead, const uint8 *sealed, Size len,
			  const void *aad, Size aadlen, const char *what)
{
	uint8	   *plain = palloc(len + 1);

	memset(plain, 0xaa, len + 1);
	if (cmek_aead_open(aead, plain, sealed, len, aad, aadlen))
		elog(ERROR, "%s: opened", what);
	check_zero(plain, len, what);
	if (plain[len] != 0xaa)
		elog(ERROR, "%s: wrote behind the output", what);
	pfree(plain);
}

PG_FUNCTION_INFO_V1(test_implementation);
Datum
test_implementation(PG_FUNCTION_ARGS)
{
	CmekAead   *aead = make_aead(fcinfo, 0, some_key);
	const char *name = cmek_aead_name(aead);

	if (PG_ARGISNULL(0) && strcmp(name, cmek_crypto_implementation()) != 0)
		elog(ERROR, "a new context is not what it was said to be");
	cmek_aead_free(aead);
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

PG_FUNCTION_INFO_V1(test_seal);
Datum
test_seal(PG_FUNCTION_ARGS)
{
	CmekAead   *aead = make_aead(fcinfo, 0, get_bytes(fcinfo, 1, CMEK_KEY_LEN));
	Size		len = GET_LEN(3);
	bytea	   *sealed = make_bytea(len + CMEK_AEAD_OVERHEAD);
	uint8	   *out = (uint8 *) VARDATA(sealed);

	if (PG_ARGISNULL(2))
		cmek_aead_seal(aead, out, get_bytes(fcinfo, 3, -1), len,
					   get_bytes(fcinfo, 4, -1), GET_LEN(4));
	else
		cmek_aead_seal_nonce(aead, out, get_bytes(fcinfo, 2, CMEK_NONCE_LEN),
							 get_bytes(fcinfo, 3, -1), len,
							 get_bytes(fcinfo, 4, -1), GET_LEN(4));
	cmek_aead_free(aead);
	PG_RETURN_BYTEA_P(sealed);
}

PG_FUNCTION_INFO_V1(test_open);
Datum
test_open(PG_FUNCTION_ARGS)
{
	CmekAead   *aead = make_aead(fcinfo, 0, get_bytes(fcinfo, 1, CMEK_KEY_LEN));
	const uint8 *sealed = get_bytes(fcinfo, 2, -1);
	Size		len = GET_LEN(2) - CMEK_AEAD_OVERHEAD;
	bytea	   *plain = make_bytea(len);
	bool		opened;

	memset(VARDATA(plain), 0xaa, len);
	opened = cmek_aead_open(aead, VARDATA(plain), sealed, len,
							get_bytes(fcinfo, 3, -1), GET_LEN(3));
	cmek_aead_free(aead);
	if (opened)
		PG_RETURN_BYTEA_P(plain);
	check_zero(VARDATA(plain), len, "output of a failed open");
	PG_RETURN_NULL();
}

/* Flip each byte of a range, one at a time, two ways; how many flips */
static int
tamper(CmekAead *aead, uint8 *range, Size rangelen, const uint8 *sealed,
	   Size len, const uint8 *aad, Size aadlen, const char *what)
{
	static const uint8 flips[] = {0x01, 0x80};
	int			n = 0;

	for (Size i = 0; i < rangelen; i++)
		for (int f = 0; f < (int) lengthof(flips); f++, n++)
		{
			range[i] ^= flips[f];
			check_refused(aead, sealed, len, aad, aadlen, what);
			range[i] ^= flips[f];
		}
	return n;
}

PG_FUNCTION_INFO_V1(test_tamper);
Datum
test_tamper(PG_FUNCTION_ARGS)
{
	CmekAead   *aead = make_aead(fcinfo, 0, some_key);
	Size		len = PG_GETARG_INT32(1);
	Size		sealedlen = len + CMEK_AEAD_OVERHEAD;
	uint8	   *plain = palloc0(len + 1);
	uint8	   *sealed = palloc0(sealedlen + 1);
	uint8		aad[20];
	int			n;

	cmek_random(plain, len + 1);
	cmek_random(aad, sizeof(aad));
	cmek_aead_seal(aead, sealed, plain, len, aad, sizeof(aad));

	n = tamper(aead, sealed, sealedlen, sealed, len, aad, sizeof(aad), "sealed");
	n += tamper(aead, aad, sizeof(aad), sealed, len, aad, sizeof(aad), "AAD");

	/* cut short or long; a shorter one takes its tag from the ciphertext */
	check_refused(aead, sealed, len, aad, sizeof(aad) - 1, "AAD cut");
	check_refused(aead, sealed, len, NULL, 0, "no AAD");
	check_refused(aead, sealed, len + 1, aad, sizeof(aad), "too long");
	if (len > 0)
		check_refused(aead, sealed, len - 1, aad, sizeof(aad), "too short");

	/* the premise: all is as it was, and opens */
	if (!cmek_aead_open(aead, plain, sealed, len, aad, sizeof(aad)))
		elog(ERROR, "the value itself does not open");
	cmek_aead_free(aead);
	PG_RETURN_INT32(n);
}

PG_FUNCTION_INFO_V1(test_roundtrip);
Datum
test_roundtrip(PG_FUNCTION_ARGS)
{
	CmekAead   *sealer = make_aead(fcinfo, 0, some_key);
	CmekAead   *opener = make_aead(fcinfo, 1, some_key);
	int			n = PG_GETARG_INT32(3);
	int			maxlen = PG_GETARG_INT32(4);
	uint8	   *plain = palloc(maxlen);
	uint8	   *opened = palloc(maxlen);
	uint8	   *sealed = palloc(maxlen + CMEK_AEAD_OVERHEAD);
	uint8		aad[64];
	pg_prng_state prng;
	int64		bytes = 0;

	pg_prng_seed(&prng, PG_GETARG_INT32(2));
	for (int i = 0; i < n; i++)
	{
		Size		len = pg_prng_uint64_range(&prng, 0, maxlen);
		Size		aadlen = pg_prng_uint64_range(&prng, 0, sizeof(aad));

		for (Size b = 0; b < len; b++)
			plain[b] = (uint8) pg_prng_uint32(&prng);
		for (Size b = 0; b < aadlen; b++)
			aad[b] = (uint8) pg_prng_uint32(&prng);

		cmek_aead_seal(sealer, sealed, plain, len, aad, aadlen);
		if (!cmek_aead_open(opener, opened, sealed, len, aad, aadlen) ||
			memcmp(plain, opened, len) != 0)
			elog(ERROR, "value %d of %zu bytes does not come back", i, len);
		bytes += len;
	}
	cmek_aead_free(sealer);
	cmek_aead_free(opener);
	PG_RETURN_INT64(bytes);
}

PG_FUNCTION_INFO_V1(test_hmac);
Datum
test_hmac(PG_FUNCTION_ARGS)
{
	bytea	   *mac = make_bytea(32);

	cmek_hmac_sha256(get_bytes(fcinfo, 0, -1), GET_LEN(0),
					 get_bytes(fcinfo, 1, -1), GET_LEN(1),
					 (uint8 *) VARDATA(mac));
	PG_RETURN_BYTEA_P(mac);
}

PG_FUNCTION_INFO_V1(test_derive);
Datum
test_derive(PG_FUNCTION_ARGS)
{
	bytea	   *key = make_bytea(CMEK_KEY_LEN);
	const uint8 *info = get_bytes(fcinfo, 1, -1);

	cmek_derive_key(get_bytes(fcinfo, 0, CMEK_KEY_LEN),
					pnstrdup((const char *) info, GET_LEN(1)),
					(uint8 *) VARDATA(key));
	PG_RETURN_BYTEA_P(key);
}

/* Is a signature made of a text?  NULL when the key is none. */
PG_FUNCTION_INFO_V1(test_sign);
Datum
test_sign(PG_FUNCTION_ARGS)
{
	bytea	   *signature = make_bytea(CMEK_MAX_SIGNATURE);
	const uint8 *pem = get_bytes(fcinfo, 0, -1);
	Size		len;

	if (!cmek_sign_rs256(pnstrdup((const char *) pem, GET_LEN(0)),
						 get_bytes(fcinfo, 1, -1), GET_LEN(1),
						 (uint8 *) VARDATA(signature), &len))
		PG_RETURN_NULL();
	SET_VARSIZE(signature, VARHDRSZ + len);
	PG_RETURN_BYTEA_P(signature);
}

/* ns since an earlier time, divided */
static double
ns_each(instr_time start, int n)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now) * 1e9 / n;
}

/* Values that lie beside each other as the rows of some pages do */
#define SPEED_BYTES (256 * 1024)

/* The next of the values, and the first after the last */
static inline uint8 *
next_value(uint8 *at, Size each, uint8 *first, uint8 *end)
{
	return at + each < end ? at + each : first;
}

/* ns to seal and to open a value: n times, going round in many of them */
PG_FUNCTION_INFO_V1(test_speed);
Datum
test_speed(PG_FUNCTION_ARGS)
{
	CmekAead   *aead = make_aead(fcinfo, 0, some_key);
	Size		len = PG_GETARG_INT32(1);
	int			n = PG_GETARG_INT32(2);
	Size		each = len + CMEK_AEAD_OVERHEAD;
	int			count = Max(SPEED_BYTES / each, 1);
	uint8	   *plain = palloc0(len);
	uint8	   *first = palloc(count * each);
	uint8	   *end = first + count * each;
	uint8	   *at = first;
	uint8		aad[sizeof(CmekRowAad)] = {0};
	instr_time	start;
	TupleDesc	tupdesc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	n = Max(n, count);
	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < n; i++, at = next_value(at, each, first, end))
		cmek_aead_seal(aead, at, plain, len, aad, sizeof(aad));
	values[0] = Float8GetDatum(ns_each(start, n));

	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < n; i++, at = next_value(at, each, first, end))
		if (!cmek_aead_open(aead, plain, at, len, aad, sizeof(aad)))
			elog(ERROR, "does not open");
	values[1] = Float8GetDatum(ns_each(start, n));

	cmek_aead_free(aead);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

/* Draw nonces the way rows do: out of seals of an empty value */
static void
draw_nonces(uint8 *nonces, int n)
{
	CmekAead   *aead = cmek_aead_create(some_key);

	for (int i = 0; i < n; i++)
	{
		uint8		sealed[CMEK_AEAD_OVERHEAD];

		cmek_aead_seal(aead, sealed, NULL, 0, NULL, 0);
		memcpy(nonces + (Size) i * CMEK_NONCE_LEN, sealed, CMEK_NONCE_LEN);
	}
	cmek_aead_free(aead);
}

static int
compare_nonces(const void *a, const void *b)
{
	return memcmp(a, b, CMEK_NONCE_LEN);
}

/* How many nonces in an array occur earlier in it; sorts the array */
static int
count_repeated(uint8 *nonces, int n)
{
	int			repeated = 0;

	qsort(nonces, n, CMEK_NONCE_LEN, compare_nonces);
	for (int i = 1; i < n; i++)
		if (compare_nonces(nonces + (Size) i * CMEK_NONCE_LEN,
						   nonces + (Size) (i - 1) * CMEK_NONCE_LEN) == 0)
			repeated++;
	return repeated;
}

PG_FUNCTION_INFO_V1(test_nonces);
Datum
test_nonces(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);
	bytea	   *nonces = make_bytea((Size) n * CMEK_NONCE_LEN);

	draw_nonces((uint8 *) VARDATA(nonces), n);
	PG_RETURN_BYTEA_P(nonces);
}

PG_FUNCTION_INFO_V1(test_repeated_nonces);
Datum
test_repeated_nonces(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);
	uint8	   *nonces = palloc((Size) n * CMEK_NONCE_LEN);

	draw_nonces(nonces, n);
	PG_RETURN_INT32(count_repeated(nonces, n));
}

PG_FUNCTION_INFO_V1(test_repeated_nonces_after_fork);
Datum
test_repeated_nonces_after_fork(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);
	Size		len = (Size) n * CMEK_NONCE_LEN;
	uint8	   *nonces = palloc0(2 * len);
	int			fds[2];
	pid_t		pid;

	/* the premise: the pool is filled, and not used up, when we fork */
	draw_nonces(nonces, 1);
	if (len > PIPE_BUF || pipe(fds) != 0 || (pid = fork()) < 0)
		elog(ERROR, "could not fork: %m");
	if (pid == 0)
	{
		draw_nonces(nonces, n);
		_exit(write(fds[1], nonces, len) == (ssize_t) len ? 0 : 1);
	}
	draw_nonces(nonces, n);
	if (read(fds[0], nonces + len, len) != (ssize_t) len)
		elog(ERROR, "could not read nonces of the child: %m");
	close(fds[0]);
	close(fds[1]);
	PG_RETURN_INT32(count_repeated(nonces, 2 * n));
}

PG_FUNCTION_INFO_V1(test_uuid);
Datum
test_uuid(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	cmek_random_uuid(uuid->data);
	PG_RETURN_UUID_P(uuid);
}

PG_FUNCTION_INFO_V1(test_permute);

/* Numbers through the permutation of a key, in one call, or back */
Datum
test_permute(PG_FUNCTION_ARGS)
{
	CmekPermutation *permutation =
		cmek_permutation_create(get_bytes(fcinfo, 0, CMEK_KEY_LEN));
	ArrayType  *numbers = PG_GETARG_ARRAYTYPE_P_COPY(1);

	if (ARR_ELEMTYPE(numbers) != INT8OID || ARR_HASNULL(numbers))
		elog(ERROR, "test_permute wants numbers");
	cmek_permute(permutation, (uint64 *) ARR_DATA_PTR(numbers),
				 ArrayGetNItems(ARR_NDIM(numbers), ARR_DIMS(numbers)),
				 PG_GETARG_BOOL(2));
	cmek_permutation_free(permutation);
	PG_RETURN_ARRAYTYPE_P(numbers);
}
