/* libFuzzer's entry: see wire_one.c */
#include "wire_one.h"

extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	wire_one(data, size);
	return 0;
}
