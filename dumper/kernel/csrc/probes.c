/* System calls that Python lacks, made once each: to find out what this host can do. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "predump.h"

int pd_probe_userfaultfd(int flags)
{
	long fd = syscall(SYS_userfaultfd, flags);

	return fd < 0 ? -errno : (int)fd;
}

int pd_signal_on_parent_death(int number)
{
	return prctl(PR_SET_PDEATHSIG, number) ? -errno : 0;
}

int pd_probe_pidfd_getfd(int pidfd, int fd)
{
	long copy = syscall(PD_NR_PIDFD_GETFD, pidfd, fd, 0);

	return copy < 0 ? -errno : (int)copy;
}

int pd_probe_scan_category(int pagemap_fd, uint64_t categories)
{
	struct pd_region region;
	/* The kernel looks at the categories before the range, in which there need not be anything. */
	struct pd_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = 0,
		.end = PD_PAGE_BYTES,
		.vec = (uint64_t)(uintptr_t)&region,
		.vec_len = 1,
		.category_mask = categories,
		.return_mask = categories,
	};

	return ioctl(pagemap_fd, PD_PAGEMAP_SCAN, &arg) < 0 ? -errno : 0;
}

#define HUGE_PAGE_BYTES (2UL << 20)

/* PAGEMAP_SCAN of one huge page; returns how many of its bytes were reported, or -errno. */
static int64_t scan_huge_page(int pagemap_fd, uint64_t addr, uint64_t flags, uint64_t mask)
{
	struct pd_region regions[512];
	struct pd_pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = addr,
		.end = addr + HUGE_PAGE_BYTES,
		.vec = (uint64_t)(uintptr_t)regions,
		.vec_len = 512,
		.category_mask = mask,
		.return_mask = mask,
	};
	int n = ioctl(pagemap_fd, PD_PAGEMAP_SCAN, &arg);
	int64_t bytes = 0;

	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++)
		bytes += (int64_t)(regions[i].end_addr - regions[i].start_addr);
	return bytes;
}

int pd_probe_zapped_huge_page(int uffd, int pagemap_fd)
{
	uint8_t *memory = mmap(NULL, 2 * HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t addr = ((uint64_t)(uintptr_t)memory + HUGE_PAGE_BYTES - 1) & ~(HUGE_PAGE_BYTES - 1);
	struct pd_span span = {.start_addr = addr, .end_addr = addr + HUGE_PAGE_BYTES};
	int32_t error;
	int64_t reported = -EAGAIN;

	if (memory == MAP_FAILED)
		return -errno;
	madvise((void *)addr, HUGE_PAGE_BYTES, MADV_HUGEPAGE);
	*(volatile uint8_t *)addr = 1;
	if (scan_huge_page(pagemap_fd, addr, 0, PD_HUGE) == (int64_t)HUGE_PAGE_BYTES &&
	    pd_uffd_register(uffd, pagemap_fd, &span, 1, &error) == 1 &&
	    scan_huge_page(pagemap_fd, addr, PD_PM_SCAN_WP_MATCHING, PD_WRITTEN | PD_PRESENT) > 0) {
		madvise((void *)addr, HUGE_PAGE_BYTES, MADV_DONTNEED);
		reported = scan_huge_page(pagemap_fd, addr, 0, PD_WRITTEN);
	}
	munmap(memory, 2 * HUGE_PAGE_BYTES);
	return reported < 0 ? (int)reported : reported == (int64_t)HUGE_PAGE_BYTES;
}
