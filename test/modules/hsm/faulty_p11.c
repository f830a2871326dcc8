/*-------------------------------------------------------------------------
 *
 * faulty_p11.c
 *	  A PKCS#11 module in front of another one, which fails when it is told to.
 *
 * Environment: CMEK_P11_REAL, the module behind; CMEK_P11_FAULT, a file that
 * is read with every call:
 *
 *	 C_Decrypt hang | C_Decrypt crash | C_Decrypt 0x30 | C_Decrypt short
 *	 C_Decrypt once:0x30, which removes the file
 *
 * Calls of C_Initialize, C_Login and C_Decrypt are noted, with the process and
 * the PIN, in the file of the same name with .log at its end.  Needs nothing of the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include "kms/cryptoki.h"

PGDLLEXPORT P11Rv C_GetFunctionList(P11Functions **functions);

static P11Functions real;
static P11Functions ours;
static bool make_short = false;

/* Note a call in the log, with the PIN of a login. */
static void
note(const char *call, const unsigned char *pin, unsigned long len)
{
	const char *file = getenv("CMEK_P11_FAULT");
	char		path[MAXPGPATH];
	FILE	   *log;

	if (file == NULL)
		return;
	snprintf(path, sizeof(path), "%s.log", file);
	log = fopen(path, "a");
	if (log != NULL)
	{
		fprintf(log, "%s %d %.*s\n", call, (int) getpid(), (int) len, (const char *) pin);
		fclose(log);
	}
}

/* Is a call to fail?  With what?  May not return. */
static P11Rv
fault(const char *call)
{
	const char *file = getenv("CMEK_P11_FAULT");
	FILE	   *f = file != NULL ? fopen(file, "r") : NULL;
	char		name[64];
	char		what[64];
	P11Rv		rv = P11_OK;

	make_short = false;
	if (f == NULL)
		return P11_OK;
	while (fscanf(f, "%63s %63s", name, what) == 2)
	{
		if (strcmp(name, call) != 0)
			continue;
		if (strcmp(what, "hang") == 0)
			for (;;)
				sleep(60);
		if (strcmp(what, "crash") == 0)
			raise(SIGSEGV);
		if (strcmp(what, "short") == 0)
			make_short = true;
		else if (strncmp(what, "once:", 5) == 0)
		{
			(void) unlink(file);
			rv = strtoul(what + 5, NULL, 0);
		}
		else
			rv = strtoul(what, NULL, 0);
	}
	fclose(f);
	return rv;
}

static P11Rv
our_initialize(void *args)
{
	P11Rv		rv = fault("C_Initialize");

	note("C_Initialize", (const unsigned char *) "", 0);
	return rv != P11_OK ? rv : real.initialize(args);
}

static P11Rv
our_get_slot_list(unsigned char present, P11Slot *slots, unsigned long *n)
{
	P11Rv		rv = fault("C_GetSlotList");

	return rv != P11_OK ? rv : real.get_slot_list(present, slots, n);
}

/* "C_GetTokenInfo 0x20000" adds a flag */
static P11Rv
our_get_token_info(P11Slot slot, P11TokenInfo *info)
{
	P11Rv		rv = real.get_token_info(slot, info);

	info->flags |= fault("C_GetTokenInfo");
	return rv;
}

static P11Rv
our_login(P11Session session, unsigned long user, unsigned char *pin,
		  unsigned long len)
{
	P11Rv		rv;

	note("C_Login", pin, len);
	rv = fault("C_Login");
	return rv != P11_OK ? rv : real.login(session, user, pin, len);
}

static P11Rv
our_find_objects(P11Session session, P11Object *objects, unsigned long max,
				 unsigned long *n)
{
	P11Rv		rv = fault("C_FindObjects");

	return rv != P11_OK ? rv : real.find_objects(session, objects, max, n);
}

static P11Rv
our_encrypt_init(P11Session session, P11Mechanism *mechanism, P11Object key)
{
	P11Rv		rv = fault("C_EncryptInit");

	return rv != P11_OK ? rv : real.encrypt_init(session, mechanism, key);
}

static P11Rv
our_encrypt(P11Session session, unsigned char *in, unsigned long inlen,
			unsigned char *out, unsigned long *outlen)
{
	P11Rv		rv = fault("C_Encrypt");

	return rv != P11_OK ? rv : real.encrypt(session, in, inlen, out, outlen);
}

static P11Rv
our_decrypt(P11Session session, unsigned char *in, unsigned long inlen,
			unsigned char *out, unsigned long *outlen)
{
	P11Rv		rv = fault("C_Decrypt");

	/* not the question for the length */
	if (out != NULL)
		note("C_Decrypt", (const unsigned char *) "", 0);
	if (rv != P11_OK)
		return rv;
	rv = real.decrypt(session, in, inlen, out, outlen);
	if (make_short)
		*outlen = 7;
	return rv;
}

P11Rv
C_GetFunctionList(P11Functions **functions)
{
	const char *path = getenv("CMEK_P11_REAL");
	void	   *handle = dlopen(path != NULL ? path : "/usr/lib/softhsm/libsofthsm2.so",
								RTLD_NOW | RTLD_LOCAL);
	P11GetFunctionList get = handle != NULL ?
		(P11GetFunctionList) dlsym(handle, "C_GetFunctionList") : NULL;
	P11Functions *list;

	if (get == NULL || get(&list) != P11_OK)
		return P11_GENERAL_ERROR;
	real = *list;
	ours = real;
	ours.initialize = our_initialize;
	ours.get_slot_list = our_get_slot_list;
	ours.get_token_info = our_get_token_info;
	ours.login = our_login;
	ours.find_objects = our_find_objects;
	ours.encrypt_init = our_encrypt_init;
	ours.encrypt = our_encrypt;
	ours.decrypt = our_decrypt;
	*functions = &ours;
	return P11_OK;
}
