/* Shared memory without a name, as mmap(2) makes it: a file that only /proc/self/map_files leads to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "predump.h"

#define HUGE_SHIFT 26 /* MAP_HUGE_SHIFT */

int pd_anonymous_shared(uint64_t n_bytes, int log2_huge_page_bytes)
{
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE;
	char path[64];
	void *at;
	int fd;

	if (log2_huge_page_bytes)
		flags |= MAP_HUGETLB | log2_huge_page_bytes << HUGE_SHIFT;
	at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (at == MAP_FAILED)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + n_bytes);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	munmap(at, n_bytes);
	return fd;
}
