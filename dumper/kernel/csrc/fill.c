/*
 * Memory of a process that stands still, filled from frames of pages: by userfaultfd(2) where nothing is yet, which is
 * neither zeroed first nor looked up page by page, and through /proc/PID/mem where that is refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fill.h"
#include "predump.h"

static int write_all(int mem_fd, uint64_t addr, const uint8_t *content, uint64_t n_bytes)
{
	for (uint64_t done = 0; done < n_bytes;) {
		ssize_t n = pwrite(mem_fd, content + done, n_bytes - done, (off_t)(addr + done));

		if (n <= 0)
			return n ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

/* Pages of one mapping. */
static int bring(int uffd, int mem_fd, uint64_t addr, const uint8_t *content, uint64_t n_bytes)
{
	while (n_bytes) {
		struct pd_uffdio_copy copy = {addr, (uintptr_t)content, n_bytes, PD_UFFD_COPY_DONTWAKE, 0};
		uint64_t n_done = n_bytes;
		int result = 0;

		if (uffd < 0)
			return write_all(mem_fd, addr, content, n_bytes);
		if (!ioctl(uffd, PD_UFFDIO_COPY, &copy) || copy.copy > 0) {
			n_done = (uint64_t)copy.copy;
		} else if (errno == EEXIST) { /* behind this page there may be some that are missing, not to be written */
			n_done = PD_PAGE_BYTES;
			result = write_all(mem_fd, addr, content, n_done);
		} else if (errno == ENOENT || errno == EINVAL) { /* it is not registered */
			result = write_all(mem_fd, addr, content, n_done);
		} else if (errno != EAGAIN) {
			result = -errno;
		} else {
			n_done = 0;
		}
		if (result)
			return result;
		addr += n_done;
		content += n_done;
		n_bytes -= n_done;
	}
	return 0;
}

int64_t pd_fill(int uffd, int mem_fd, const uint8_t *content, uint64_t first_page, uint64_t n_pages,
		const uint64_t *starts_addr, const uint64_t *ends_addr, const uint64_t *page_indexes, uint64_t n_runs)
{
	int64_t n_filled = 0;

	for (uint64_t i = 0; i < n_runs; i++) {
		struct pd_part part = pd_part_of(first_page, n_pages, starts_addr[i], ends_addr[i], page_indexes[i]);
		int result = bring(uffd, mem_fd, part.addr, content + part.offset, part.n_bytes);

		if (result)
			return result;
		n_filled += (int64_t)(part.n_bytes / PD_PAGE_BYTES);
	}
	return n_filled;
}
