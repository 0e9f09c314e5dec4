/* What those share who bring pages: UFFDIO_COPY of ioctl_userfaultfd(2), and what of a run is in a frame. */
#ifndef PREDUMP_FILL_H
#define PREDUMP_FILL_H

#include "predump.h"

struct pd_uffdio_copy {
	uint64_t dst, src, len, mode;
	int64_t copy;
};
#define PD_UFFDIO_COPY _IOWR(0xAA, 0x03, struct pd_uffdio_copy)

/* Bytes from `offset` on in a frame's content, and where they belong. */
struct pd_part {
	uint64_t addr, offset, n_bytes;
};

static inline struct pd_part pd_part_of(uint64_t first_page, uint64_t n_pages, uint64_t start_addr, uint64_t end_addr,
					uint64_t page_index)
{
	uint64_t end_page = first_page + n_pages, end_index = page_index + (end_addr - start_addr) / PD_PAGE_BYTES;
	uint64_t from = page_index > first_page ? page_index : first_page, to = end_index < end_page ? end_index : end_page;
	struct pd_part part = {start_addr, 0, 0};

	if (from < to) {
		part.addr += (from - page_index) * PD_PAGE_BYTES;
		part.offset = (from - first_page) * PD_PAGE_BYTES;
		part.n_bytes = (to - from) * PD_PAGE_BYTES;
	}
	return part;
}

#endif
