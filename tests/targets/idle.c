/* N sleeping threads and M MiB of known content, of which one thread rewrites RATE pages a second.
 *
 * idle THREADS MIB RATE
 * Commands: area (-> ok START LENGTH), check (-> ok pages=N rewritten=N), quit.
 */
#include "target.h"

#include <pthread.h>
#include <sys/mman.h>

#define STACK_BYTES (64 * 1024)
#define TICK_NS (2 * NS_PER_MS)

static unsigned char *memory;
static uint64_t *seeds; /* of the page's content, by page */
static size_t n_pages;
static unsigned long rate_pages_per_s;
static uint64_t n_rewritten;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *sleep_forever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void *rewrite(void *unused)
{
	uint64_t state = 1, start_ns = clock_ns(CLOCK_MONOTONIC), due, done = 0;

	for (uint64_t tick_ns = start_ns;; tick_ns += TICK_NS) {
		struct timespec until = timespec_of_ns(tick_ns);

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		due = (tick_ns - start_ns) * rate_pages_per_s / NS_PER_S;
		for (; done < due; done++) {
			size_t page = next_random(&state) % n_pages;

			pthread_mutex_lock(&lock);
			seeds[page] = next_random(&state) | 1;
			fill_page(memory + page * PAGE_BYTES, seeds[page]);
			n_rewritten++;
			pthread_mutex_unlock(&lock);
		}
	}
	return unused;
}

static void start_thread(void *(*body)(void *))
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	errno = pthread_create(&thread, &attr, body, NULL);
	if (errno != 0)
		die("pthread_create");
	pthread_attr_destroy(&attr);
}

static bool check(void)
{
	bool clean = true;

	pthread_mutex_lock(&lock);
	for (size_t page = 0; clean && page < n_pages; page++) {
		long offset = wrong_offset(memory + page * PAGE_BYTES, seeds[page]);

		if (offset >= 0) {
			answer("bad page %zu differs at %p", page,
			       (void *)(memory + page * PAGE_BYTES + offset));
			clean = false;
		}
	}
	if (clean)
		answer("ok pages=%zu rewritten=%lu", n_pages, n_rewritten);
	pthread_mutex_unlock(&lock);
	return clean;
}

static void *map_private(size_t bytes)
{
	void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

int main(int argc, char **argv)
{
	char line[256];

	if (argc != 4) {
		fprintf(stderr, "usage: idle THREADS MIB RATE\n");
		return 2;
	}
	die_with_parent();
	n_pages = strtoul(argv[2], NULL, 10) * 1024 * 1024 / PAGE_BYTES;
	rate_pages_per_s = n_pages == 0 ? 0 : strtoul(argv[3], NULL, 10);
	if (n_pages > 0) {
		memory = map_private(n_pages * PAGE_BYTES);
		seeds = map_private(n_pages * sizeof(*seeds));
	}
	for (size_t page = 0; page < n_pages; page++) {
		seeds[page] = page + 1;
		fill_page(memory + page * PAGE_BYTES, seeds[page]);
	}
	for (unsigned long i = strtoul(argv[1], NULL, 10); i > 0; i--)
		start_thread(sleep_forever);
	if (rate_pages_per_s > 0)
		start_thread(rewrite);

	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "quit") == 0)
			return check() ? 0 : 1;
		if (strcmp(line, "check") == 0)
			check();
		else if (strcmp(line, "area") == 0)
			answer("ok %lu %lu", (unsigned long)memory, n_pages * PAGE_BYTES);
		else
			answer("bad unknown command '%s'", line);
	}
	return 1;
}
