/* libFuzzer's entry: see aws_one.c.  The last argument is the corpus. */
#include "aws_one.h"

extern int	LLVMFuzzerInitialize(int *argc, char ***argv);
extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *const *seeds;
	int			n = aws_seeds(&seeds);
	char		path[1024];

	for (int i = 0; i < 16 * n; i++)
	{
		FILE	   *file;

		snprintf(path, sizeof(path), "%s/seed-%d", (*argv)[*argc - 1], i);
		file = fopen(path, "w");
		if (file == NULL)
			return 0;
		fprintf(file, "%c%s", i / n, seeds[i % n]);
		fclose(file);
	}
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	aws_one(data, size);
	return 0;
}
