/* A process that does nothing but write, as fast as it can: loop MIB HOT_MIB
 *
 * Of its MIB it writes again and again 64 bytes somewhere in the first HOT_MIB. Command: count, `ok WRITES` so far.
 */
#include "../tests/targets/target.h"

#include <pthread.h>
#include <sys/mman.h>

#define LINE_BYTES 64
#define WRITES_PER_COUNT 1024

static unsigned char *memory;
static size_t n_lines;
static volatile uint64_t writes;

static void *write_lines(void *unused)
{
	uint64_t random = 1;

	for (;; writes += WRITES_PER_COUNT)
		for (int i = 0; i < WRITES_PER_COUNT; i++) {
			uint64_t value = next_random(&random);

			memset(memory + (value >> 16) % n_lines * LINE_BYTES, (int)(value & 0x7f), LINE_BYTES);
		}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t writer;
	char line[64];

	if (argc != 3) {
		fprintf(stderr, "usage: loop MIB HOT_MIB\n");
		return 2;
	}
	die_with_parent();
	size_t n_bytes = strtoul(argv[1], NULL, 10) << 20;

	memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	madvise(memory, n_bytes, MADV_NOHUGEPAGE);
	n_lines = (strtoul(argv[2], NULL, 10) << 20) / LINE_BYTES;
	for (size_t at = 0; at < n_bytes; at += LINE_BYTES)
		memset(memory + at, (int)(at / LINE_BYTES % 127), LINE_BYTES);
	errno = pthread_create(&writer, NULL, write_lines, NULL);
	if (errno != 0)
		die("pthread_create");
	answer("ready");
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "count") == 0)
			answer("ok %lu", (unsigned long)writes);
		else
			die("unknown command");
	}
	return 0;
}
