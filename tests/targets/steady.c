/* Writes pages at a steady rate, one after the other and then from the first again: so what is written is known.
 *
 * steady PAGES HOT_PAGES PAGES_PER_SECOND
 * Of its PAGES, of which every fourth is hard to compress and the rest is not, it writes the first HOT_PAGES. Where it was
 * held up it catches up. Ready line: `ready START`, the address of the pages. Commands: `written`: `ok PAGES_WRITTEN`;
 * `exec` it replaces itself by the same program: `ok START`; `quit`.
 */
#include "target.h"

#include <pthread.h>
#include <sys/mman.h>

#define TICK_NS NS_PER_MS
#define HARD_EVERY 4

static unsigned char *start;
static size_t n_hot;
static uint64_t rate_pages_per_s;
static volatile uint64_t written;

static void *write_pages(void *unused)
{
	uint64_t began_ns = clock_ns(CLOCK_MONOTONIC);

	for (uint64_t tick_ns = began_ns;; tick_ns += TICK_NS) {
		struct timespec until = timespec_of_ns(tick_ns);

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		for (; written < (tick_ns - began_ns) * rate_pages_per_s / NS_PER_S; written++)
			start[written % n_hot * PAGE_BYTES]++;
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t writer;
	char line[64];

	if (argc != 4) {
		fprintf(stderr, "usage: steady PAGES HOT_PAGES PAGES_PER_SECOND\n");
		return 2;
	}
	die_with_parent();
	size_t n_pages = strtoul(argv[1], NULL, 10);

	n_hot = strtoul(argv[2], NULL, 10);
	rate_pages_per_s = strtoul(argv[3], NULL, 10);
	start = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (start == MAP_FAILED)
		die("mmap");
	madvise(start, n_pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < n_pages; page++) {
		if (page % HARD_EVERY == 0)
			fill_page(start + page * PAGE_BYTES, page + 1);
		else
			memset(start + page * PAGE_BYTES, (int)page | 1, PAGE_BYTES);
	}
	errno = pthread_create(&writer, NULL, write_pages, NULL);
	if (errno != 0)
		die("pthread_create");
	answer("%s %lu", getenv("AGAIN") ? "ok" : "ready", (unsigned long)start);
	while (next_command(line, sizeof(line))) {
		if (!strcmp(line, "written"))
			answer("ok %lu", (unsigned long)written);
		else if (!strcmp(line, "exec")) {
			setenv("AGAIN", "1", 1);
			execv("/proc/self/exe", argv);
			die("execv");
		} else if (!strcmp(line, "quit")) {
			answer("ok");
			return 0;
		} else
			answer("bad command");
	}
	return 0;
}
