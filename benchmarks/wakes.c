/* A process that says when it goes on: wakes MIB TOUCHED_MIB FILE
 *
 * It has so many MiB of heap-like memory, and shares the first page of FILE with who measures: it says `ready`, waits
 * until it is told to `go`, and notes when it saw that, and when it had read a word of each of its first TOUCHED_MIB of
 * pages since (CLOCK_MONOTONIC). Between `ready` and `go` it does nothing but look: there it is captured.
 */
#include "heaplike.h"

#include <fcntl.h>

struct shared {
	volatile uint64_t ready, go, woken_ns, touched_ns;
};

static struct shared *map_shared(const char *path)
{
	struct shared *shared;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die(path);
	shared = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	close(fd);
	return shared;
}

int main(int argc, char **argv)
{
	volatile uint64_t sum = 0;

	if (argc != 4) {
		fprintf(stderr, "usage: wakes MIB TOUCHED_MIB FILE\n");
		return 2;
	}
	struct shared *shared = map_shared(argv[3]);
	size_t n_touched = (strtoul(argv[2], NULL, 10) << 20) / sizeof(*memory);

	map_memory(strtoul(argv[1], NULL, 10) << 20);
	fill_memory();
	shared->ready = 1;
	while (!shared->go)
		;
	shared->woken_ns = clock_ns(CLOCK_MONOTONIC);
	for (size_t i = 0; i < n_touched; i += WORDS_PER_PAGE)
		sum += memory[i];
	shared->touched_ns = clock_ns(CLOCK_MONOTONIC);
	for (;;)
		pause();
}
