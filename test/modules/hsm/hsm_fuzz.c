/* libFuzzer's entry: see hsm_one.c.  The last argument is the corpus. */
#include "hsm_one.h"

extern int	LLVMFuzzerInitialize(int *argc, char ***argv);
extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

/* Each seed for each function. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	uint8		data[1024];
	char		path[1024];

	for (int i = 0; i < 8 * HSM_SEEDS; i++)
	{
		Size		len = hsm_seed(i % HSM_SEEDS, data + 1, sizeof(data) - 1);
		FILE	   *file;

		data[0] = i / HSM_SEEDS;
		snprintf(path, sizeof(path), "%s/seed-%d", (*argv)[*argc - 1], i);
		file = fopen(path, "w");
		if (file == NULL)
			return 0;
		fwrite(data, len + 1, 1, file);
		fclose(file);
	}
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	hsm_one(data, size);
	return 0;
}
