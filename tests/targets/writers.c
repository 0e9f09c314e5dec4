/* Threads that write random pages with growing counters, and drop some; a program, and a library for the own memory.
 *
 * writers THREADS PAGES [huge] [drop]
 * Ready line: `ready START`, the address of the pages. Commands:
 *   start    the threads begin to write
 *   stop     they stop; answers ok WRITES, the number of writes and dropped ranges since the start
 *   quit
 */
#include "target.h"

#include <pthread.h>
#include <sys/mman.h>

#define MAX_THREADS 8
#define MOST_DROPPED 8        /* pages, most of the time */
#define WRITES_PER_DROP 256
#define HUGE_BYTES (2UL << 20)
#define WRITES_PER_PAUSE 64
#define PAUSE_NS 20000        /* so that a watcher gets its turn on a machine with few processors */

struct writer {
	pthread_t thread;
	unsigned char *start;
	size_t n_pages;
	uint64_t random, writes;
	int drops, huge;
};

static struct writer writers[MAX_THREADS];
static int n_writers;
static volatile int running;

static void drop(struct writer *self)
{
	size_t page = next_random(&self->random) % self->n_pages, count = next_random(&self->random) % MOST_DROPPED + 1;

	if (self->huge && next_random(&self->random) % 4 == 0) {
		count = HUGE_BYTES / PAGE_BYTES;
		page = page / count * count;
	}
	if (page + count > self->n_pages)
		count = self->n_pages - page;
	madvise(self->start + page * PAGE_BYTES, count * PAGE_BYTES, MADV_DONTNEED);
}

static void *write_pages(void *argument)
{
	struct writer *self = argument;
	struct timespec pause = {.tv_nsec = PAUSE_NS};

	while (running) {
		size_t page = next_random(&self->random) % self->n_pages;
		volatile uint64_t *words = (volatile uint64_t *)(self->start + page * PAGE_BYTES);

		words[next_random(&self->random) % WORDS_PER_PAGE] = ++self->writes;
		if (self->drops && self->writes % WRITES_PER_DROP == 0)
			drop(self);
		if (self->writes % WRITES_PER_PAUSE == 0)
			nanosleep(&pause, NULL);
	}
	return NULL;
}

/* Starts threads that write to the pages at `start`: 0, or -1. */
int start_writers(unsigned char *start, size_t n_pages, int n_threads, int huge, int drops)
{
	running = 1;
	for (n_writers = 0; n_writers < n_threads; n_writers++) {
		struct writer *writer = writers + n_writers;

		*writer = (struct writer){.start = start, .n_pages = n_pages, .huge = huge, .drops = drops};
		writer->random = clock_ns(CLOCK_MONOTONIC) + (uint64_t)n_writers;
		if (pthread_create(&writer->thread, NULL, write_pages, writer))
			return -1;
	}
	return 0;
}

/* Stops them; returns how much they have written. */
uint64_t stop_writers(void)
{
	uint64_t writes = 0;

	running = 0;
	for (int i = 0; i < n_writers; i++) {
		pthread_join(writers[i].thread, NULL);
		writes += writers[i].writes;
	}
	return writes;
}

int main(int argc, char **argv)
{
	int huge = 0, drops = 0;
	char line[64];

	if (argc < 3) {
		fprintf(stderr, "usage: writers THREADS PAGES [huge] [drop]\n");
		return 2;
	}
	die_with_parent();
	for (int i = 3; i < argc; i++) {
		huge |= !strcmp(argv[i], "huge");
		drops |= !strcmp(argv[i], "drop");
	}
	int n_threads = atoi(argv[1]);
	size_t n_pages = strtoul(argv[2], NULL, 10);
	unsigned char *start = mmap(NULL, n_pages * PAGE_BYTES + HUGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (n_threads < 1 || n_threads > MAX_THREADS || start == MAP_FAILED)
		die("writers");
	start = (unsigned char *)(((uintptr_t)start + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
	madvise(start, n_pages * PAGE_BYTES, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(start, 1, n_pages * PAGE_BYTES / 2); /* the rest are holes */
	printf("ready %lu\n", (unsigned long)start);
	fflush(stdout);
	while (next_command(line, sizeof(line))) {
		if (!strcmp(line, "start") && !start_writers(start, n_pages, n_threads, huge, drops))
			answer("ok");
		else if (!strcmp(line, "stop"))
			answer("ok %lu", (unsigned long)stop_writers());
		else if (!strcmp(line, "quit")) {
			answer("ok");
			return 0;
		} else
			answer("bad command");
	}
	return 0;
}
