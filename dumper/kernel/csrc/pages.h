/* What other parts of the library ask of the page tables. */
#ifndef PREDUMP_PAGES_H
#define PREDUMP_PAGES_H

#include "predump.h"

/* As pd_scan_category, for pages with content that are registered and count as not written. */
int64_t pd_scan_protected(int pagemap_fd, uint64_t start, uint64_t end, struct pd_region *regions, uint64_t capacity);

#endif
