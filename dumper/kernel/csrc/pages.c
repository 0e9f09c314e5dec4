/* Which pages a target has, which of them were written, and what that means for the image. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

#include "pages.h"
#include "predump.h"
#include "runs.h"

static uint64_t round_down(uint64_t bytes)
{
	return bytes & ~(PD_PAGE_BYTES - 1);
}

static uint64_t round_up(uint64_t bytes)
{
	return round_down(bytes + PD_PAGE_BYTES - 1);
}

struct scan {
	int pagemap_fd;
	const struct pd_scan_mode *mode;
};

/* PAGEMAP_SCAN of [start, end) for pages that have all of `mask` but for `inverted`, and one of `anyof`. */
static int64_t scan_range(const struct scan *scan, uint64_t start, uint64_t end, struct pd_pm_scan_arg arg,
			  struct pd_region *regions, uint64_t capacity)
{
	int n;

	arg.size = sizeof(arg);
	arg.start = start;
	arg.end = end;
	arg.vec = (uint64_t)(uintptr_t)regions;
	arg.vec_len = capacity;
	n = ioctl(scan->pagemap_fd, PD_PAGEMAP_SCAN, &arg);
	return n < 0 ? -errno : n;
}

/*
 * How far a scan came that returned `n` regions. Not walk_end: the kernel walks in batches of 512 regions and sets it
 * where a batch filled up, so after the last, partial one it points back at what was already reported, and reset
 * (fs/proc/task_mmu.c, do_pagemap_scan).
 */
static uint64_t scanned_to(uint64_t end, const struct pd_region *regions, uint64_t n, uint64_t capacity)
{
	return n < capacity ? end : regions[n - 1].end_addr;
}

/*
 * One PAGEMAP_SCAN from `addr`. Content is whatever is present or swapped, is no guard, and, in a private mapping,
 * is no page cache. Without the anyof filter the reset would put markers into every hole, and page tables under it.
 */
static int64_t scan_page_tables(const struct scan *scan, const struct pd_span *span, uint64_t *addr,
				struct pd_region *regions, uint64_t capacity)
{
	/* FILE makes the kernel look at every page's struct page, a cache miss each: asked for only where it can be. */
	uint64_t excluded = scan->mode->excluded | (span->flags & PD_SPAN_FILE ? PD_FILE : 0);
	struct pd_pm_scan_arg arg = {
		.flags = scan->mode->reset ? PD_PM_SCAN_WP_MATCHING : 0,
		.category_inverted = excluded,
		.category_mask = excluded,
		.category_anyof_mask = PD_PRESENT | PD_SWAPPED,
		.return_mask = PD_WPALLOWED | PD_WRITTEN | PD_PRESENT | PD_SWAPPED | PD_PFNZERO,
	};
	int64_t n = scan_range(scan, *addr, span->end_addr, arg, regions, capacity);

	if (n >= 0)
		*addr = scanned_to(span->end_addr, regions, (uint64_t)n, capacity);
	return n;
}

#define MAX_CHANGES (1 << 14)
#define NEAR_BYTES (128 * PD_PAGE_BYTES) /* looking at so many pages costs what another call does */

struct changes {
	struct pd_region ranges[2][MAX_CHANGES]; /* pages written or never touched; holes */
	uint64_t n[2], next[2];
};

/* Takes the next range off both lists that is not near another: 0 if there is none. */
static int next_change(struct changes *changes, uint64_t end, uint64_t *from, uint64_t *to)
{
	int found = 0;

	for (;;) {
		int list = -1;

		for (int i = 0; i < 2; i++) {
			const struct pd_region *next = changes->ranges[i] + changes->next[i];

			if (changes->next[i] == changes->n[i] || next->start_addr >= end)
				continue;
			if (list < 0 || next->start_addr < changes->ranges[list][changes->next[list]].start_addr)
				list = i;
		}
		if (list < 0)
			return found;
		const struct pd_region *range = changes->ranges[list] + changes->next[list];

		if (found && range->start_addr > *to + NEAR_BYTES)
			return 1;
		if (!found)
			*from = range->start_addr;
		if (!found || range->end_addr > *to)
			*to = min_u64(range->end_addr, end);
		found = 1;
		changes->next[list]++;
	}
}

/*
 * The same for a span that was scanned before and is tracked throughout: what the kernel's fast path (WRITTEN and nothing
 * else) does not report has content and was not written. Only the rest is looked at closely. Holes read as written.
 */
static int64_t scan_changes(const struct scan *scan, const struct pd_span *span, uint64_t *addr,
			    struct pd_region *regions, uint64_t capacity)
{
	static _Thread_local struct changes changes;
	const struct pd_pm_scan_arg written = {
		.flags = PD_PM_SCAN_CHECK_WPASYNC, .category_mask = PD_WRITTEN, .return_mask = PD_WRITTEN,
	};
	const struct pd_pm_scan_arg holes = {
		.category_inverted = PD_PRESENT | PD_SWAPPED, .category_mask = PD_PRESENT | PD_SWAPPED,
	};
	uint64_t end = span->end_addr, n = 0, from, to;

	for (int i = 0; i < 1 + !!scan->mode->distrust_holes; i++) {
		int64_t found = scan_range(scan, *addr, end, i ? holes : written, changes.ranges[i], MAX_CHANGES);

		if (found == -EPERM) /* mapped anew since the last scan: not tracked */
			return scan_page_tables(scan, span, addr, regions, capacity);
		if (found < 0)
			return found;
		changes.n[i] = (uint64_t)found;
		changes.next[i] = 0;
		end = scanned_to(end, changes.ranges[i], changes.n[i], MAX_CHANGES);
	}
	if (!scan->mode->distrust_holes)
		changes.n[1] = changes.next[1] = 0;
	while (*addr < end && n < capacity) {
		struct pd_span close = *span;
		int64_t found;

		if (!next_change(&changes, end, &from, &to))
			from = to = end;
		if (*addr < from) {
			regions[n++] = (struct pd_region){*addr, from, PD_KEPT};
			*addr = from;
		}
		close.end_addr = to;
		while (*addr < to && n < capacity) {
			found = scan_page_tables(scan, &close, addr, regions + n, capacity - n);
			if (found < 0)
				return found;
			n += (uint64_t)found;
		}
	}
	return (int64_t)n;
}

/* The next part of the mapped file, from `addr` on, that holds data: 1 and [*start, *end), 0 if there is none. */
static int next_file_data(const struct pd_span *span, uint64_t addr, uint64_t *start, uint64_t *end)
{
	uint64_t base = span->fd_offset_bytes - span->start_addr; /* modulo 2^64: addr + base is the file offset */
	off_t data = lseek(span->fd, (off_t)(addr + base), SEEK_DATA);
	off_t hole;

	if (data < 0)
		return errno == ENXIO ? 0 : -errno; /* nothing but a hole up to the end of the file */
	*start = round_down((uint64_t)data) - base;
	if ((uint64_t)data >= span->end_addr + base)
		return 0;
	hole = lseek(span->fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	*end = min_u64(round_up((uint64_t)hole) - base, span->end_addr);
	return 1;
}

/* The data of the file, as regions that count as written. */
static int64_t scan_file(const struct pd_span *span, uint64_t *addr, struct pd_region *regions, uint64_t capacity)
{
	uint64_t n = 0;

	while (*addr < span->end_addr && n < capacity) {
		uint64_t start = 0, end = 0;
		int found = next_file_data(span, *addr, &start, &end);

		if (found < 0)
			return found;
		if (!found) {
			*addr = span->end_addr;
			break;
		}
		regions[n++] = (struct pd_region){start, end, PD_WRITTEN | PD_PRESENT};
		*addr = end;
	}
	return (int64_t)n;
}

int64_t pd_scan(int pagemap_fd, const struct pd_scan_mode *mode, const struct pd_span *spans, uint64_t n_spans,
		struct pd_cursor *cursor, struct pd_region *regions, uint64_t capacity)
{
	const struct scan scan = {pagemap_fd, mode};
	uint64_t n = 0;

	while (cursor->span < n_spans && n < capacity) {
		const struct pd_span *span = spans + cursor->span;
		uint64_t addr = cursor->addr > span->start_addr ? cursor->addr : span->start_addr;
		int64_t found = 1;

		if (span->flags & PD_SPAN_WHOLE) {
			regions[n].start_addr = addr;
			regions[n].end_addr = span->end_addr;
			regions[n].categories = PD_WRITTEN | PD_PRESENT;
			addr = span->end_addr;
		} else if (span->flags & PD_SPAN_BY_FD) {
			found = scan_file(span, &addr, regions + n, capacity - n);
		} else if (span->flags & PD_SPAN_CHANGES) {
			found = scan_changes(&scan, span, &addr, regions + n, capacity - n);
		} else {
			found = scan_page_tables(&scan, span, &addr, regions + n, capacity - n);
		}
		if (found < 0)
			return found;
		for (int64_t i = 0; i < found; i++)
			regions[n + i].categories |= (uint64_t)span->flags << 32;
		n += found;
		cursor->addr = addr;
		if (addr >= span->end_addr)
			cursor->span++;
	}
	return (int64_t)n;
}

int64_t pd_scan_category(int pagemap_fd, uint64_t start, uint64_t end, uint64_t category, struct pd_region *regions,
			 uint64_t capacity)
{
	static const struct pd_scan_mode mode = {0};
	const struct scan scan = {pagemap_fd, &mode};
	const struct pd_pm_scan_arg arg = {.category_mask = category, .return_mask = category};

	return scan_range(&scan, start, end, arg, regions, capacity);
}

int64_t pd_scan_protected(int pagemap_fd, uint64_t start, uint64_t end, struct pd_region *regions, uint64_t capacity)
{
	static const struct pd_scan_mode mode = {0};
	const struct scan scan = {pagemap_fd, &mode};
	const struct pd_pm_scan_arg arg = {
		.category_inverted = PD_WRITTEN,
		.category_mask = PD_WPALLOWED | PD_WRITTEN,
		.category_anyof_mask = PD_PRESENT | PD_SWAPPED,
		.return_mask = PD_WPALLOWED,
	};

	return scan_range(&scan, start, end, arg, regions, capacity);
}

/* Whether the bytes of an earlier round cannot stand for these pages. */
static int must_copy(uint64_t categories)
{
	uint32_t span_flags = categories >> 32;

	if (categories & PD_WRITTEN || !(categories & PD_WPALLOWED) || span_flags & PD_SPAN_UNSEEN)
		return 1;
	/* A copied-on-write page dropped by MADV_DONTNEED leaves a marker that looks like a swapped page. */
	return span_flags & PD_SPAN_FILE && !(categories & PD_PRESENT);
}

int64_t pd_classify(struct pd_region *regions, uint64_t n_regions, uint64_t *used, struct pd_sweep *staged,
		    struct pd_sweep *covered, struct pd_run_list *out)
{
	for (; *used < n_regions; ++*used) {
		struct pd_region *region = regions + *used;

		while (region->start_addr < region->end_addr) {
			uint64_t start = region->start_addr, end = region->end_addr, index = 0;
			uint32_t kind = PD_RUN_COPY;

			if (region->categories & PD_PFNZERO && region->categories >> 32 & PD_SPAN_WATCH &&
			    must_copy(region->categories)) {
				region->start_addr = end;
				continue;
			}
			if (region->categories & PD_KEPT) {
				const struct pd_run *run = sweep_to(staged, start, &end, ~0u);

				if (run) {
					kind = run->kind;
					index = run->page_index + (start - run->start_addr) / PD_PAGE_BYTES;
				}
			} else if (region->categories & PD_PFNZERO) {
				kind = PD_RUN_ZERO;
			} else if (!must_copy(region->categories)) {
				const uint32_t newer = 1u << PD_RUN_STAGED | 1u << PD_RUN_COPY;
				const uint32_t older = 1u << PD_RUN_DATA | 1u << PD_RUN_ZERO | 1u << PD_RUN_PARENT;
				const struct pd_run *run = sweep_to(staged, start, &end, newer);

				if (run) {
					kind = run->kind;
					index = run->page_index + (start - run->start_addr) / PD_PAGE_BYTES;
				} else if (sweep_to(covered, start, &end, older)) {
					kind = PD_RUN_PARENT;
				}
			}
			region->start_addr = runs_append(out, start, end, kind, index);
			if (region->start_addr < end)
				return (int64_t)(n_regions - *used);
		}
	}
	return 0;
}

int pd_move_runs(struct pd_run_list *in, uint64_t *next, uint64_t start, uint64_t end, uint64_t delta,
		 struct pd_run_list *out)
{
	while (*next < in->n_runs && in->runs[*next].start_addr < end) {
		struct pd_run *run = in->runs + *next;
		uint64_t from = run->start_addr > start ? run->start_addr : start, run_end = run_end_addr(run);
		uint64_t to = min_u64(run_end, end), index = run->page_index + (from - run->start_addr) / PD_PAGE_BYTES;

		if (from < to && runs_append(out, from + delta, to + delta, run->kind, index) < to + delta)
			return 1;
		if (to < run_end) {
			run->page_index += run_is_indexed(run->kind) ? (to - run->start_addr) / PD_PAGE_BYTES : 0;
			run->start_addr = to;
			run->n_pages = (uint32_t)((run_end - to) / PD_PAGE_BYTES);
			return 0;
		}
		++*next;
	}
	return 0;
}

int pd_unite_runs(const struct pd_run_list *a, const struct pd_run_list *b, struct pd_run_list *out)
{
	const struct pd_run_list *lists[2] = {a, b};
	uint64_t next[2] = {0, 0}, covered = 0;

	while (next[0] < a->n_runs || next[1] < b->n_runs) {
		int first = next[0] == a->n_runs ||
			    (next[1] < b->n_runs && b->runs[next[1]].start_addr < a->runs[next[0]].start_addr);
		const struct pd_run *run = lists[first]->runs + next[first]++;
		uint64_t from = run->start_addr > covered ? run->start_addr : covered, end = run_end_addr(run);

		if (from < end)
			covered = runs_append(out, from, end, PD_RUN_COPY, 0);
	}
	return 0;
}

int pd_subtract_runs(const struct pd_run_list *from, const struct pd_run_list *taken, uint32_t kinds,
		     struct pd_run_list *out)
{
	struct pd_sweep away = {taken->runs, taken->n_runs, 0};

	for (uint64_t i = 0; i < from->n_runs; i++) {
		const struct pd_run *run = from->runs + i;
		uint64_t addr = run->start_addr, to;

		for (; addr < run_end_addr(run); addr = to) {
			to = run_end_addr(run);
			if (sweep_to(&away, addr, &to, kinds))
				continue;
			runs_append(out, addr, to, run->kind, run->page_index + (addr - run->start_addr) / PD_PAGE_BYTES);
		}
	}
	return 0;
}

int pd_common_runs(struct pd_sweep *sweeps, uint64_t n_sweeps, uint64_t least, struct pd_run_list *out)
{
	for (uint64_t addr = 0, to; addr < UINT64_MAX; addr = to) {
		uint64_t n = 0;

		to = UINT64_MAX;
		for (uint64_t i = 0; i < n_sweeps; i++)
			n += !!sweep_to(sweeps + i, addr, &to, ~0u);
		if (n >= least)
			runs_append(out, addr, to, PD_RUN_COPY, 0);
	}
	return 0;
}

int pd_defer(const struct pd_run_list *in, struct pd_sweep *hot, struct pd_sweep *known, struct pd_sweep *before,
	     struct pd_run_list *out, struct pd_run_list *deferred)
{
	const uint32_t on_disk = 1u << PD_RUN_DATA | 1u << PD_RUN_ZERO | 1u << PD_RUN_PARENT;

	for (uint64_t i = 0; i < in->n_runs; i++) {
		const struct pd_run *run = in->runs + i;

		for (uint64_t addr = run->start_addr, to; addr < run_end_addr(run); addr = to) {
			uint32_t kind = run->kind;

			to = run_end_addr(run);
			if (kind == PD_RUN_COPY && sweep_to(hot, addr, &to, ~0u) && sweep_to(known, addr, &to, on_disk)) {
				kind = PD_RUN_PARENT;
				runs_append(deferred, addr, to, PD_RUN_COPY, 0);
			} else if (kind == PD_RUN_PARENT && sweep_to(before, addr, &to, ~0u)) {
				kind = PD_RUN_COPY;
			}
			runs_append(out, addr, to, kind, 0);
		}
	}
	return 0;
}

int pd_find_changes(const struct pd_run_list *known, const struct pd_run_list *now, int in_doubt,
		    struct pd_run_list *changed, struct pd_run_list *known_now)
{
	struct pd_sweep before = {known->runs, known->n_runs, 0}, after = {now->runs, now->n_runs, 0};
	uint64_t addr = 0, to;

	for (; addr < UINT64_MAX; addr = to) {
		to = UINT64_MAX;
		const struct pd_run *had = sweep_to(&before, addr, &to, ~0u);
		const struct pd_run *has = sweep_to(&after, addr, &to, ~0u);
		int is_still_zero = has && has->kind == PD_RUN_ZERO && !in_doubt;
		int has_content = has && has->kind != PD_RUN_ZERO;
		int is_changed = has_content ? has->kind == PD_RUN_COPY : had && !is_still_zero;

		if (is_changed)
			runs_append(changed, addr, to, PD_RUN_COPY, 0);
		if (is_changed || has_content)
			runs_append(known_now, addr, to, PD_RUN_PARENT, 0);
	}
	return 0;
}

int pd_count_pages(const struct pd_run *runs, uint64_t n_runs, const struct pd_span *vmas, uint64_t n_vmas,
		   uint64_t *counts)
{
	uint64_t vma = 0;

	for (uint64_t i = 0; i < n_runs; i++) {
		uint64_t start = runs[i].start_addr, end = run_end_addr(runs + i);

		while (vma < n_vmas && vmas[vma].end_addr <= start)
			vma++;
		for (uint64_t v = vma; v < n_vmas && vmas[v].start_addr < end; v++) {
			uint64_t from = start > vmas[v].start_addr ? start : vmas[v].start_addr;

			counts[PD_RUN_KINDS * v + runs[i].kind] += (min_u64(end, vmas[v].end_addr) - from) / PD_PAGE_BYTES;
		}
	}
	return 0;
}

int pd_part_of_runs(const struct pd_run_list *in, uint32_t kinds, uint64_t first, uint64_t n_pages,
		    struct pd_run_list *out)
{
	uint64_t number = 0; /* of the run's first page */

	for (uint64_t i = 0; i < in->n_runs && number < first + n_pages; i++) {
		const struct pd_run *run = in->runs + i;

		if (!(kinds & 1u << run->kind))
			continue;
		uint64_t from = first > number ? first - number : 0;
		uint64_t to = min_u64(run->n_pages, first + n_pages - number);

		if (from < to)
			runs_append(out, run->start_addr + from * PD_PAGE_BYTES, run->start_addr + to * PD_PAGE_BYTES,
				    PD_RUN_COPY, 0);
		number += run->n_pages;
	}
	return 0;
}

uint64_t pd_pages_of_kind(const struct pd_run *runs, uint64_t n_runs, uint32_t kind)
{
	uint64_t pages = 0;

	for (uint64_t i = 0; i < n_runs; i++)
		pages += runs[i].kind == kind ? runs[i].n_pages : 0;
	return pages;
}

uint64_t pd_address_of_page(const struct pd_run *runs, uint64_t n_runs, uint32_t kind, uint64_t number)
{
	for (uint64_t i = 0; i < n_runs; i++) {
		if (runs[i].kind != kind)
			continue;
		if (number < runs[i].n_pages)
			return runs[i].start_addr + number * PD_PAGE_BYTES;
		number -= runs[i].n_pages;
	}
	return UINT64_MAX;
}

int pd_change_kind(struct pd_run_list *list, uint32_t from, uint32_t to)
{
	for (uint64_t i = 0; i < list->n_runs; i++)
		if (list->runs[i].kind == from)
			list->runs[i].kind = to;
	return 0;
}

uint64_t pd_pages_within(const struct pd_run *runs, uint64_t n_runs, uint32_t kind, uint64_t start, uint64_t end)
{
	uint64_t low = 0, high = n_runs, pages = 0;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (run_end_addr(runs + middle) <= start)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < n_runs && runs[low].start_addr < end; low++) {
		uint64_t from = runs[low].start_addr > start ? runs[low].start_addr : start;

		if (runs[low].kind == kind)
			pages += (min_u64(run_end_addr(runs + low), end) - from) / PD_PAGE_BYTES;
	}
	return pages;
}
