/* The process that the benchmarks capture: MIB of heap-like memory, 5 threads, one of them a writer.
 *
 * target MIB
 * Commands: fill (first, once), rate PAGES_PER_SECOND (of the writer, 0 at first), sweep MIB MS: it writes to each page of
 * the first MIB within MS milliseconds, again and again.
 */
#include "heaplike.h"

#include <pthread.h>

#define SLEEPERS 3 /* with the main thread and the writer: 5 threads */
#define STACK_BYTES (64 * 1024)
#define TICK_NS NS_PER_MS

static volatile unsigned long rate_pages_per_s, swept_pages; /* swept_pages: 0 if pages are chosen at random */

/* Changes one word of a page so many times a second; a change of the rate starts the count anew. */
static void *write_pages(void *unused)
{
	uint64_t random = 2, done = 0, rate = 0, start_ns = 0;

	for (uint64_t tick_ns = clock_ns(CLOCK_MONOTONIC);; tick_ns += TICK_NS) {
		struct timespec until = timespec_of_ns(tick_ns);

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		if (rate != rate_pages_per_s) {
			rate = rate_pages_per_s;
			done = 0;
			start_ns = tick_ns;
		}
		for (; done < (tick_ns - start_ns) * rate / NS_PER_S; done++)
			memory[swept_pages ? done % swept_pages * WORDS_PER_PAGE : next_random(&random) % n_words]++;
	}
	return unused;
}

static void *sleep_forever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void start_thread(void *(*body)(void *))
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	errno = pthread_create(&thread, &attributes, body, NULL);
	if (errno != 0)
		die("pthread_create");
	pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv)
{
	unsigned long mib, sweep_ms;
	char line[64];

	if (argc != 2) {
		fprintf(stderr, "usage: target MIB\n");
		return 2;
	}
	die_with_parent();
	map_memory(strtoul(argv[1], NULL, 10) << 20);
	for (int i = 0; i < SLEEPERS; i++)
		start_thread(sleep_forever);
	start_thread(write_pages);
	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "fill") == 0)
			fill_memory();
		else if (strncmp(line, "rate ", 5) == 0) {
			rate_pages_per_s = strtoul(line + 5, NULL, 10);
			swept_pages = 0;
		} else if (sscanf(line, "sweep %lu %lu", &mib, &sweep_ms) == 2) {
			swept_pages = (mib << 20) / PAGE_BYTES;
			rate_pages_per_s = swept_pages * 1000 / sweep_ms;
		}
		else
			die("unknown command");
		answer("ok");
	}
	return 0;
}
