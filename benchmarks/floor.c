/* The floor of a freeze: every thread stopped, one scan of the whole memory, every thread resumed; nothing else.
 *
 * floor PID PASSES: prints `total_ns stop_ns scan_ns` for each pass. The scan asks for the written pages and the holes of
 * tracked memory only, the least that a tracker must learn in the freeze. It changes nothing. Independent of predump's
 * code on purpose.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stops.h"

/* include/uapi/linux/fs.h, since 6.7; not in the headers of every distribution */
struct region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask,
		category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct scan_arg)
#define WRITTEN 2

#define USER_END 0x7ffffffff000UL
#define MAX_REGIONS (1UL << 20)

static struct region regions[MAX_REGIONS];

static const struct scan_arg written = {.category_mask = WRITTEN, .return_mask = WRITTEN};

static int scan_from(int pagemap, uint64_t start)
{
	struct scan_arg arg = written;

	arg.size = sizeof(arg);
	arg.start = start;
	arg.end = USER_END;
	arg.vec = (uint64_t)(uintptr_t)regions;
	arg.vec_len = MAX_REGIONS;
	return ioctl(pagemap, PAGEMAP_SCAN, &arg);
}

static void scan_all(int pagemap)
{
	int n = scan_from(pagemap, 0);

	while ((unsigned int)n == MAX_REGIONS)
		n = scan_from(pagemap, regions[n - 1].end);
	if (n < 0)
		fail("PAGEMAP_SCAN");
}

int main(int argc, char **argv)
{
	const struct timespec pause = {0, PAUSE_NS};
	char path[64];
	int pagemap;

	if (argc != 3) {
		fprintf(stderr, "usage: floor PID PASSES\n");
		return 2;
	}
	snprintf(path, sizeof(path), "/proc/%s/pagemap", argv[1]);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		fail(path);
	list_threads(argv[1]);
	memset(regions, 1, sizeof(regions)); /* touched before it is needed */
	for (int i = atoi(argv[2]); i > 0; i--) {
		int64_t start_ns = now_ns(), stopped_ns, scanned_ns;

		stop_all(0);
		stopped_ns = now_ns();
		scan_all(pagemap);
		scanned_ns = now_ns();
		resume_all();
		printf("%ld %ld %ld\n", (long)(now_ns() - start_ns), (long)(stopped_ns - start_ns),
		       (long)(scanned_ns - stopped_ns));
		nanosleep(&pause, NULL);
	}
	return 0;
}
