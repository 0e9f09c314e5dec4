/* A process that changes what is known to be: between two dumps a test has it do one thing after the other.
 *
 * changing FILE
 * Commands, each answered with `ok` and what it changed: global, table, heap, same, map, unmap, grow, zero, drop, open,
 * seek, close, signal, limit, directory, variable, thread, quit.
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define AREA_PAGES 64

volatile long changing_counter = 1;
volatile char changing_table[256] = {1};
static char *block, *area, *shared;
static const char *path;
static int fd = -1;

static void *idle(void *unused)
{
	pause();
	return unused;
}

static void handler(int number)
{
	(void)number;
}

static void *mapped(size_t n_pages, int flags)
{
	void *at = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

static void start_thread(void)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, idle, NULL);
	if (errno != 0)
		die("pthread_create");
}

/* Does it, and answers with where. */
static void change(const char *what)
{
	static char *more;
	struct rlimit limit;
	void *where = NULL;

	if (strcmp(what, "global") == 0) {
		changing_counter++;
		where = (void *)&changing_counter;
	} else if (strcmp(what, "table") == 0) {
		changing_table[0]++;
		changing_table[100]++;
		where = (void *)changing_table;
	} else if (strcmp(what, "heap") == 0) {
		memcpy(block, "goodbye", 7);
		where = block;
	} else if (strcmp(what, "same") == 0) {
		memcpy(area, "unchanged", 9);
		where = area;
	} else if (strcmp(what, "shared") == 0) {
		shared[PAGE_BYTES]++;
		where = shared + PAGE_BYTES;
	} else if (strcmp(what, "map") == 0) {
		more = mapped(16, MAP_PRIVATE);
		memset(more, 7, 3 * PAGE_BYTES);
		where = more;
	} else if (strcmp(what, "unmap") == 0) {
		where = more;
		munmap(more, 16 * PAGE_BYTES);
	} else if (strcmp(what, "protect") == 0) {
		where = area + 60 * PAGE_BYTES;
		mprotect(where, 4 * PAGE_BYTES, PROT_READ);
	} else if (strcmp(what, "zero") == 0) {
		where = area + 10 * PAGE_BYTES;
		memset(where, 0, PAGE_BYTES);
	} else if (strcmp(what, "drop") == 0) {
		where = area + 20 * PAGE_BYTES;
		madvise(where, PAGE_BYTES, MADV_DONTNEED);
	} else if (strcmp(what, "open") == 0) {
		fd = open(path, O_RDWR | O_CREAT, 0600);
	} else if (strcmp(what, "seek") == 0) {
		lseek(fd, 100, SEEK_SET);
	} else if (strcmp(what, "close") == 0) {
		close(fd);
	} else if (strcmp(what, "signal") == 0) {
		signal(SIGUSR1, handler);
	} else if (strcmp(what, "limit") == 0) {
		getrlimit(RLIMIT_CORE, &limit);
		limit.rlim_cur = 4096;
		setrlimit(RLIMIT_CORE, &limit);
	} else if (strcmp(what, "directory") == 0) {
		if (chdir("/") < 0)
			die("chdir");
	} else if (strcmp(what, "thread") == 0) {
		start_thread();
	} else {
		die(what);
	}
	answer("ok %p fd=%d", where, fd);
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 2)
		return 2;
	die_with_parent();
	path = argv[1];
	block = malloc(64);
	strcpy(block, "welcome");
	area = mapped(AREA_PAGES, MAP_PRIVATE);
	shared = mapped(AREA_PAGES, MAP_SHARED);
	for (size_t page = 0; page < AREA_PAGES; page++) {
		fill_page(area + page * PAGE_BYTES, page + 1);
		fill_page(shared + page * PAGE_BYTES, page + 1);
	}
	memcpy(area, "unchanged", 9);
	answer("ready");
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "quit") == 0)
			break;
		change(line);
	}
	return 0;
}
