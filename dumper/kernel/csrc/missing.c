/*
 * Pages that are brought when they are asked for: a userfaultfd in missing mode (ioctl_userfaultfd(2)), and the sentinel,
 * which sees to it that nobody goes on with zeros in their place should we end before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compat.h"
#include "fill.h"
#include "predump.h"

#define REGISTER_MODE_MISSING (1UL << 0)
#define MAX_PIDS 4096
#define ZERO_DONTWAKE (1UL << 0)

struct pd_uffdio_zeropage {
	struct pd_uffdio_range range;
	uint64_t mode;
	int64_t zeropage;
};
#define PD_UFFDIO_WAKE _IOR(0xAA, 0x02, struct pd_uffdio_range)
#define PD_UFFDIO_ZEROPAGE _IOWR(0xAA, 0x04, struct pd_uffdio_zeropage)

int pd_uffd_watch(int uffd, uint64_t start_addr, uint64_t end_addr)
{
	struct pd_uffdio_register reg = {
		.range = {start_addr, end_addr - start_addr},
		.mode = REGISTER_MODE_MISSING,
	};

	return ioctl(uffd, PD_UFFDIO_REGISTER, &reg) ? -errno : 0;
}

int pd_uffd_wake(int uffd, uint64_t addr, uint64_t n_bytes)
{
	struct pd_uffdio_range range = {addr, n_bytes};

	return ioctl(uffd, PD_UFFDIO_WAKE, &range) ? -errno : 0;
}

int64_t pd_uffd_copy(int uffd, uint64_t addr, const uint8_t *content, uint64_t n_bytes, uint64_t mode)
{
	uint64_t done = 0, step = n_bytes;

	while (done < n_bytes) {
		struct pd_uffdio_copy copy = {
			addr + done, (uintptr_t)content + done, step < n_bytes - done ? step : n_bytes - done, mode, 0,
		};

		if (!ioctl(uffd, PD_UFFDIO_COPY, &copy)) {
			done += copy.len;
			continue;
		}
		if (copy.copy > 0) {
			done += (uint64_t)copy.copy;
			continue;
		}
		if (errno == EEXIST) { /* it came before, and who waits for it may not know */
			pd_uffd_wake(uffd, addr + done, PD_PAGE_BYTES);
			done += PD_PAGE_BYTES;
		} else if (errno == ENOENT && copy.len > PD_PAGE_BYTES) { /* it lies in two mappings, or in part in none */
			step = PD_PAGE_BYTES;
		} else if (errno == ENOENT) {
			done += PD_PAGE_BYTES;
		} else {
			return done ? (int64_t)done : -errno;
		}
	}
	return (int64_t)done;
}

int pd_uffd_copy_runs(int uffd, const uint8_t *content, uint64_t first_page, uint64_t n_pages, const uint64_t *starts_addr,
		      const uint64_t *ends_addr, const uint64_t *page_indexes, uint64_t n_runs)
{
	for (uint64_t i = 0; i < n_runs; i++) {
		struct pd_part part = pd_part_of(first_page, n_pages, starts_addr[i], ends_addr[i], page_indexes[i]);

		for (uint64_t done = 0; done < part.n_bytes;) {
			int64_t result = pd_uffd_copy(uffd, part.addr + done, content + part.offset + done, part.n_bytes - done,
						      PD_UFFD_COPY_DONTWAKE);

			if (result < 0)
				return (int)result;
			done += (uint64_t)result;
		}
	}
	return 0;
}

int pd_uffd_zero(int uffd, uint64_t addr, uint64_t n_bytes)
{
	uint64_t step = n_bytes;

	while (n_bytes) {
		struct pd_uffdio_zeropage zero = {{addr, step < n_bytes ? step : n_bytes}, ZERO_DONTWAKE, 0};
		uint64_t n_done = PD_PAGE_BYTES;

		if (!ioctl(uffd, PD_UFFDIO_ZEROPAGE, &zero) || zero.zeropage > 0) {
			n_done = (uint64_t)zero.zeropage;
		} else if (errno == ENOENT && zero.range.len > PD_PAGE_BYTES) {
			step = PD_PAGE_BYTES; /* as pd_uffd_copy */
			n_done = 0;
		} else if (errno == EEXIST || errno == ENOENT) {
			pd_uffd_wake(uffd, addr, PD_PAGE_BYTES);
		} else {
			return -errno;
		}
		addr += n_done;
		n_bytes -= n_done;
	}
	return 0;
}

/* ---- the sentinel ---- */

struct shared {
	int32_t parent_pidfd, n_pids;
	int32_t pids[MAX_PIDS];
};

static int children_of(int pid, int32_t *found, int capacity)
{
	char path[64], text[4096], *at = text;
	ssize_t n_bytes;
	int fd, n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n_bytes = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n_bytes > 0 ? n_bytes : 0] = 0;
	while (n < capacity) {
		char *end;
		long child = strtol(at, &end, 10);

		if (end == at)
			break;
		found[n++] = (int32_t)child;
		at = end;
	}
	return n;
}

/* All of them, and the children that they have by then: one that was born a moment ago has no pages of its own, either. */
static void end_all(struct shared *shared)
{
	int n = shared->n_pids;

	for (int i = 0; i < n; i++) {
		kill(shared->pids[i], SIGSTOP);
		n += children_of(shared->pids[i], shared->pids + n, MAX_PIDS - n);
	}
	for (int i = 0; i < n; i++)
		kill(shared->pids[i], SIGKILL);
}

static void watch(struct shared *shared)
{
	struct pollfd parent = {.fd = shared->parent_pidfd, .events = POLLIN};
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	setsid();
	while (poll(&parent, 1, -1) < 0 && errno == EINTR)
		;
	end_all(shared);
	_exit(0);
}

void *pd_sentinel_memory(void)
{
	void *at = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

int pd_sentinel_start(void *memory)
{
	struct shared *shared = memory;
	long pid;

	if (!shared)
		return -ENOMEM;
	if (shared->parent_pidfd <= 0) {
		shared->parent_pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
		if (shared->parent_pidfd < 0)
			return -errno;
	}
	/* It has our descriptors for its own, and those that come: none of them is closed before it ends. */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		watch(shared);
	return pid < 0 ? -errno : (int)pid;
}

int pd_sentinel_add(void *memory, int pid)
{
	struct shared *shared = memory;

	if (shared->n_pids == MAX_PIDS)
		return -ENOSPC;
	shared->pids[shared->n_pids] = pid;
	shared->n_pids++;
	return 0;
}
