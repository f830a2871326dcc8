/* libFuzzer's entry: see wire_one.c.  The last argument is the corpus. */
#include "wire_one.h"

extern int	LLVMFuzzerInitialize(int *argc, char ***argv);
extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

/* Each seed for each function, as an answer of 200 and as one of 400. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *const *seeds;
	int			n = wire_seeds(&seeds);
	char		path[1024];

	for (int i = 0; i < 38 * n; i++)
	{
		FILE	   *file;

		snprintf(path, sizeof(path), "%s/seed-%d", (*argv)[*argc - 1], i);
		file = fopen(path, "w");
		if (file == NULL)
			return 0;
		fprintf(file, "%c%c%s", i / n / 2, i / n % 2, seeds[i % n]);
		fclose(file);
	}
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	wire_one(data, size);
	return 0;
}
