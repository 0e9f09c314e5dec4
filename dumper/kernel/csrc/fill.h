/* UFFDIO_COPY of ioctl_userfaultfd(2), which those share who bring pages. */
#ifndef PREDUMP_FILL_H
#define PREDUMP_FILL_H

#include "predump.h"

struct pd_uffdio_copy {
	uint64_t dst, src, len, mode;
	int64_t copy;
};
#define PD_UFFDIO_COPY _IOWR(0xAA, 0x03, struct pd_uffdio_copy)

#endif
