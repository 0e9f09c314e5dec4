/* Write tracking: asynchronous write-protection through a userfaultfd of the target. */
#include <errno.h>
#include <sys/ioctl.h>

#include "pages.h"
#include "predump.h"

/* Lifting protection holds the target's mmap lock: in pieces, so that its own page faults get in between. */
#define LIFT_PIECE_BYTES (64UL << 20)
#define HUGE_PAGE_BYTES (2UL << 20)
#define MAX_LIFT_ATTEMPTS 16

int pd_uffd_enable(int uffd, uint64_t features)
{
	struct pd_uffdio_api api = {.api = PD_UFFD_API, .features = features};

	return ioctl(uffd, PD_UFFDIO_API, &api) ? -errno : 0;
}

/* Lifts protection from [start, end). */
static int lift(int uffd, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint64_t bytes = end - start < LIFT_PIECE_BYTES ? end - start : LIFT_PIECE_BYTES;
		struct pd_uffdio_writeprotect piece = {.range = {start, bytes}, .mode = 0};

		if (ioctl(uffd, PD_UFFDIO_WRITEPROTECT, &piece))
			return -errno;
		start += bytes;
	}
	return 0;
}

/* Every page of a registered mapping says so, also where there is none; huge ones only if all of one is asked for. */
static int is_registered(int pagemap_fd, uint64_t start, uint64_t end)
{
	struct pd_region region;

	return pd_scan_category(pagemap_fd, start, end, PD_WPALLOWED, &region, 1) == 1 && region.start_addr == start &&
	       region.end_addr == end;
}

/* Looks at both ends: what became of a mapping since it was read may be two. */
static int was_registered(int pagemap_fd, const struct pd_span *span)
{
	uint64_t start = span->start_addr, end = span->end_addr;
	uint64_t bytes = end - start < HUGE_PAGE_BYTES ? end - start : HUGE_PAGE_BYTES;

	return (is_registered(pagemap_fd, start, start + PD_PAGE_BYTES) &&
		is_registered(pagemap_fd, end - PD_PAGE_BYTES, end)) ||
	       (is_registered(pagemap_fd, start, start + bytes) && is_registered(pagemap_fd, end - bytes, end));
}

/*
 * A mapping can lose its registration and keep the protection: mremap of registered pages to its end, with the
 * same userfaultfd, makes both one mapping, and registers that with none (copy_vma, mremap_userfaultfd_prep). Writes go
 * unseen from then on, and would for ever after the next registration: pages would count as not written.
 */
static int lift_left_over(int uffd, int pagemap_fd, uint64_t start, uint64_t end)
{
	struct pd_region regions[64];
	int attempts = MAX_LIFT_ATTEMPTS;

	while (start < end) {
		const uint64_t capacity = sizeof(regions) / sizeof(regions[0]);
		int64_t n = pd_scan_protected(pagemap_fd, start, end, regions, capacity);
		int failed = 0;

		if (n < 0)
			return (int)n;
		for (int64_t i = 0; i < n && !failed; i++)
			failed = lift(uffd, regions[i].start_addr, regions[i].end_addr);
		if (!failed)
			start = (uint64_t)n < capacity ? end : regions[n - 1].end_addr;
		else if (!--attempts) /* mappings come and go under our hands */
			return failed;
	}
	return 0;
}

static int register_span(int uffd, int pagemap_fd, const struct pd_span *span)
{
	struct pd_uffdio_register reg = {
		.range = {span->start_addr, span->end_addr - span->start_addr},
		.mode = PD_UFFDIO_REGISTER_MODE_WP,
	};
	int had_been = was_registered(pagemap_fd, span);

	if (ioctl(uffd, PD_UFFDIO_REGISTER, &reg))
		return -errno;
	if (!had_been && lift_left_over(uffd, pagemap_fd, span->start_addr, span->end_addr)) {
		ioctl(uffd, PD_UFFDIO_UNREGISTER, &reg.range);
		return -EAGAIN;
	}
	return 0;
}

int64_t pd_uffd_register(int uffd, int pagemap_fd, const struct pd_span *spans, uint64_t n_spans, int32_t *results)
{
	int64_t registered = 0;

	for (uint64_t i = 0; i < n_spans; i++) {
		results[i] = register_span(uffd, pagemap_fd, spans + i);
		registered += !results[i];
	}
	return registered;
}

int64_t pd_uffd_unregister(int uffd, const struct pd_span *spans, uint64_t n_spans)
{
	int64_t unregistered = 0;

	for (uint64_t i = 0; i < n_spans; i++) {
		struct pd_uffdio_range range = {spans[i].start_addr, spans[i].end_addr - spans[i].start_addr};

		lift(uffd, spans[i].start_addr, spans[i].end_addr); /* what is left, UFFDIO_UNREGISTER lifts */
		unregistered += !ioctl(uffd, PD_UFFDIO_UNREGISTER, &range);
	}
	return unregistered;
}
