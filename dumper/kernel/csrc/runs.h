/* Sorted lists of runs: appending to them, walking through them. */
#ifndef PREDUMP_RUNS_H
#define PREDUMP_RUNS_H

#include "predump.h"

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

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

/*
 * Looks `start` up in a sweep, minding runs of the kinds in `kinds` (a bit each) only: returns the run that covers it,
 * or NULL. *end is cut back to where the answer changes.
 */
static inline const struct pd_run *sweep_to(struct pd_sweep *sweep, uint64_t start, uint64_t *end, uint32_t kinds)
{
	while (sweep->next < sweep->n_runs && run_end_addr(sweep->runs + sweep->next) <= start)
		sweep->next++;
	for (uint64_t i = sweep->next; i < sweep->n_runs; i++) {
		const struct pd_run *run = sweep->runs + i;

		if (run->start_addr >= *end)
			return NULL;
		if (!(kinds & 1u << run->kind))
			continue;
		if (run_end_addr(run) <= start)
			continue; /* out of order: an image is to blame, and must not make this spin */
		if (run->start_addr > start) {
			*end = run->start_addr;
			return NULL;
		}
		*end = min_u64(*end, run_end_addr(run));
		return run;
	}
	return NULL;
}

#endif
