/* What is true of the bytes of a page. */
#ifndef PREDUMP_PAGE_H
#define PREDUMP_PAGE_H

#include <string.h>

#include "predump.h"

static inline int is_zero_page(const uint8_t *page)
{
	static const uint8_t zeros[16];

	return !memcmp(page, zeros, sizeof(zeros)) && !memcmp(page, page + 16, PD_PAGE_BYTES - 16);
}

#endif
