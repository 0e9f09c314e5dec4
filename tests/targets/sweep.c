/* Threads that write the same number to page after page, then the next one: at any instant, the pages up to some place
 * hold one number, and those behind it the number before. Whoever copies pages at different times sees more than that.
 *
 * sweep PAGES [threads=N] [children=N] [hugetlb] [wall]
 * A thread has PAGES private pages, and a 16th as many in each of the other kinds of memory: shared, madvise(2)
 * DONTFORK and WIPEONFORK, and huge pages of its own; number i of them comes after number 16 * i of the private ones.
 * A process is a child of the first one, with the same threads. A thread that does nothing else waits for children, with
 * `wall` of all kinds (__WALL). Ready line: `ready PID ...`, of all processes. Commands, for the first process:
 *   areas     ok PRIVATE,SHARED,DONTFORK,WIPED,HUGE ... for each thread, and the start of four pages, the second one
 *             guarded; addresses; 0 where there is none
 *   start     all processes begin to write
 *   passes    ok N: the number that its first thread writes
 *   noticed   ok N M: how often SIGCHLD came, and how many children were waited for
 *   close     closes the one end of a pipe; ok end, or ok open if the other end does not see that
 *   exec      becomes another program, which sleeps
 *   quit
 */
#include "target.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MAX_THREADS 4
#define MAX_CHILDREN 4
#define MAX_AREAS 5
#define SHARE 16
#define HUGE_BYTES (2UL << 20)
#define GUARD_INSTALL 102 /* MADV_GUARD_INSTALL, since 6.13 */
#define EOF_MS 1000

enum { PRIVATE, SHARED, DONTFORK, WIPED, HUGE };

static size_t n_pages;
static int n_threads = 1, n_children, wait_options, pipe_ends[2];
static unsigned char *areas[MAX_THREADS][MAX_AREAS], *guarded;
static volatile uint64_t passes[MAX_THREADS];
static volatile int *running; /* in all processes */
static volatile int n_signals, n_waited;

static unsigned char *map(size_t bytes, int flags)
{
	unsigned char *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

static void write_page(unsigned char *page, uint64_t value)
{
	((volatile uint64_t *)page)[0] = value;
	((volatile uint64_t *)page)[WORDS_PER_PAGE - 1] = value;
}

static void *sweep(void *argument)
{
	size_t thread = (size_t)argument;

	while (!*running)
		usleep(1000);
	for (uint64_t pass = 1;; pass++) {
		passes[thread] = pass;
		for (size_t i = 0; i < n_pages; i++) {
			write_page(areas[thread][PRIVATE] + i * PAGE_BYTES, pass);
			for (int kind = SHARED; i % SHARE == 0 && kind < MAX_AREAS; kind++)
				if (areas[thread][kind])
					write_page(areas[thread][kind] + i / SHARE * PAGE_BYTES, pass);
		}
	}
	return NULL;
}

static void *wait_for_children(void *unused)
{
	for (;;) {
		if (waitpid(-1, NULL, wait_options) > 0)
			n_waited++;
		else
			usleep(1000);
	}
	return unused;
}

static void on_child(int number)
{
	(void)number;
	n_signals++;
}

static void prepare(bool with_huge_pages)
{
	const size_t bytes = n_pages * PAGE_BYTES, small = bytes / SHARE;

	for (int thread = 0; thread < n_threads; thread++) {
		areas[thread][PRIVATE] = map(bytes, MAP_PRIVATE);
		areas[thread][SHARED] = map(small, MAP_SHARED);
		areas[thread][DONTFORK] = map(small, MAP_PRIVATE);
		areas[thread][WIPED] = map(small, MAP_PRIVATE);
		if (madvise(areas[thread][DONTFORK], small, MADV_DONTFORK) ||
		    madvise(areas[thread][WIPED], small, MADV_WIPEONFORK))
			die("madvise");
		if (with_huge_pages)
			areas[thread][HUGE] =
				map((small + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES, MAP_PRIVATE | MAP_HUGETLB);
	}
	guarded = map(4 * PAGE_BYTES, MAP_PRIVATE);
	memset(guarded, 1, 4 * PAGE_BYTES);
	madvise(guarded + PAGE_BYTES, PAGE_BYTES, GUARD_INSTALL);
}

static void begin(bool with_huge_pages)
{
	pthread_t thread;

	prepare(with_huge_pages);
	for (size_t i = 0; i < (size_t)n_threads; i++)
		if (pthread_create(&thread, NULL, sweep, (void *)i))
			die("pthread_create");
}

static void print_areas(void)
{
	printf("ok");
	for (int thread = 0; thread < n_threads; thread++)
		for (int kind = 0; kind < MAX_AREAS; kind++)
			printf("%c%lu", kind ? ',' : ' ', (unsigned long)areas[thread][kind]);
	answer(" %lu", (unsigned long)guarded);
}

static void close_pipe(void)
{
	struct pollfd end = {.fd = pipe_ends[0], .events = POLLIN};

	close(pipe_ends[1]);
	answer("ok %s", poll(&end, 1, EOF_MS) == 1 && end.revents & POLLHUP ? "end" : "open");
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char line[64], ready[128] = "ready";
	bool with_huge_pages = false;
	pid_t child;

	die_with_parent();
	if (argc < 2)
		return 2;
	n_pages = strtoul(argv[1], NULL, 10);
	for (int i = 2; i < argc; i++) {
		sscanf(argv[i], "threads=%d", &n_threads);
		sscanf(argv[i], "children=%d", &n_children);
		with_huge_pages |= !strcmp(argv[i], "hugetlb");
		wait_options |= strcmp(argv[i], "wall") ? 0 : __WALL;
	}
	if (n_threads > MAX_THREADS || n_children > MAX_CHILDREN)
		return 2;
	running = (volatile int *)map(PAGE_BYTES, MAP_SHARED);
	sprintf(ready + strlen(ready), " %d", getpid());
	for (int i = 0; i < n_children; i++) {
		child = fork();
		if (child == 0) {
			die_with_parent();
			begin(with_huge_pages);
			for (;;)
				pause();
		}
		sprintf(ready + strlen(ready), " %d", child);
	}
	if (pipe2(pipe_ends, O_CLOEXEC))
		die("pipe2");
	signal(SIGCHLD, on_child);
	begin(with_huge_pages);
	if (pthread_create(&thread, NULL, wait_for_children, NULL))
		die("pthread_create");
	answer("%s", ready);
	while (next_command(line, sizeof(line))) {
		if (!strcmp(line, "areas"))
			print_areas();
		else if (!strcmp(line, "start")) {
			*running = 1;
			answer("ok");
		} else if (!strcmp(line, "passes"))
			answer("ok %lu", (unsigned long)passes[0]);
		else if (!strcmp(line, "noticed"))
			answer("ok %d %d", n_signals, n_waited);
		else if (!strcmp(line, "close"))
			close_pipe();
		else if (!strcmp(line, "exec")) {
			answer("ok");
			execlp("sleep", "sleep", "1000", NULL);
			die("exec");
		} else if (!strcmp(line, "quit"))
			break;
		else
			answer("bad unknown command '%s'", line);
	}
	exit(0);
}
