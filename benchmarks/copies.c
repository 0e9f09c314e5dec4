/* What it takes to read and to write so much memory once, all of which is there: copies MIB PASSES
 *
 * Prints the nanoseconds of each pass.
 */
#include "../tests/targets/target.h"

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: copies MIB PASSES\n");
		return 2;
	}
	size_t n_bytes = strtoul(argv[1], NULL, 10) << 20;
	char *from = malloc(n_bytes), *to = malloc(n_bytes);

	if (!from || !to)
		die("malloc");
	memset(from, 1, n_bytes);
	memset(to, 2, n_bytes);
	for (int i = atoi(argv[2]); i > 0; i--) {
		uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);

		memcpy(to, from, n_bytes);
		__asm__ volatile("" : : "r"(to) : "memory");
		printf("%lu\n", (unsigned long)(clock_ns(CLOCK_MONOTONIC) - start_ns));
	}
	return 0;
}
