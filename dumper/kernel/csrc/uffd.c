/* Write tracking: asynchronous write-protection through a userfaultfd of the target. */
#include <errno.h>
#include <sys/ioctl.h>

#include "predump.h"

/* Lifting protection holds the target's mmap lock: in pieces, so that its own page faults get in between. */
#define LIFT_PIECE_BYTES (64UL << 20)

int pd_uffd_enable(int uffd, uint64_t features)
{
	struct pd_uffdio_api api = {.api = PD_UFFD_API, .features = features};

	return ioctl(uffd, PD_UFFDIO_API, &api) ? -errno : 0;
}

int64_t pd_uffd_register(int uffd, const struct pd_span *spans, uint64_t n_spans, int32_t *results)
{
	int64_t registered = 0;

	for (uint64_t i = 0; i < n_spans; i++) {
		struct pd_uffdio_register reg = {
			.range = {spans[i].start_addr, spans[i].end_addr - spans[i].start_addr},
			.mode = PD_UFFDIO_REGISTER_MODE_WP,
		};

		results[i] = ioctl(uffd, PD_UFFDIO_REGISTER, &reg) ? -errno : 0;
		registered += !results[i];
	}
	return registered;
}

int64_t pd_uffd_unregister(int uffd, const struct pd_span *spans, uint64_t n_spans)
{
	int64_t unregistered = 0;

	for (uint64_t i = 0; i < n_spans; i++) {
		uint64_t addr = spans[i].start_addr;

		for (; addr < spans[i].end_addr; addr += LIFT_PIECE_BYTES) {
			uint64_t left = spans[i].end_addr - addr;
			struct pd_uffdio_writeprotect lift = {
				.range = {addr, left < LIFT_PIECE_BYTES ? left : LIFT_PIECE_BYTES},
				.mode = 0,
			};

			if (ioctl(uffd, PD_UFFDIO_WRITEPROTECT, &lift))
				break; /* what is left, UFFDIO_UNREGISTER lifts */
		}
		struct pd_uffdio_range range = {spans[i].start_addr, spans[i].end_addr - spans[i].start_addr};

		unregistered += !ioctl(uffd, PD_UFFDIO_UNREGISTER, &range);
	}
	return unregistered;
}
