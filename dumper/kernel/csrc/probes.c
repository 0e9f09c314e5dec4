/* System calls that Python lacks, made once each: to find out what this host can do. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "predump.h"

int pd_probe_userfaultfd(int flags)
{
	long fd = syscall(SYS_userfaultfd, flags);

	return fd < 0 ? -errno : (int)fd;
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
