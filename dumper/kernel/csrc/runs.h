/* Appending to sorted lists of runs. */
#ifndef PREDUMP_RUNS_H
#define PREDUMP_RUNS_H

#include "predump.h"

static inline uint64_t run_end_addr(const struct pd_run *run)
{
	return run->start_addr + (uint64_t)run->n_pages * PD_PAGE_BYTES;
}

/* Only runs that lie somewhere have an index that counts. */
static inline int run_is_indexed(uint32_t kind)
{
	return kind == PD_RUN_DATA || kind == PD_RUN_STAGED;
}

/* Appends [start, end), to the last run if it goes on there. Returns where it stopped: `end`, or less when full. */
static inline uint64_t runs_append(struct pd_run_list *list, uint64_t start, uint64_t end, uint32_t kind,
				   uint64_t page_index)
{
	const uint64_t most_pages = UINT32_MAX;

	while (start < end) {
		struct pd_run *last = list->n_runs ? list->runs + list->n_runs - 1 : NULL;
		uint64_t n_pages = (end - start) / PD_PAGE_BYTES;

		if (last && last->kind == kind && run_end_addr(last) == start && last->n_pages < most_pages &&
		    (!run_is_indexed(kind) || last->page_index + last->n_pages == page_index)) {
			if (n_pages > most_pages - last->n_pages)
				n_pages = most_pages - last->n_pages;
			last->n_pages += (uint32_t)n_pages;
		} else {
			if (list->n_runs == list->capacity)
				return start;
			if (n_pages > most_pages)
				n_pages = most_pages;
			list->runs[list->n_runs++] =
				(struct pd_run){start, (uint32_t)n_pages, kind, run_is_indexed(kind) ? page_index : 0};
		}
		start += n_pages * PD_PAGE_BYTES;
		page_index += n_pages;
	}
	return start;
}

#endif
