/* Whether copies made earlier are still what memory holds: for pages that may have been written unseen. */
#define _GNU_SOURCE
#include <string.h>

#include "page.h"
#include "predump.h"
#include "runs.h"

/* XXH64 with seed 0, of one page: the checksum that zstd frames end with, too (its lower half). */
#define PRIME1 0x9E3779B185EBCA87ULL
#define PRIME2 0xC2B2AE3D27D4EB4FULL
#define PRIME3 0x165667B19E3779F9ULL
#define PRIME4 0x85EBCA77C2B2AE63ULL
#define LANES 4

static uint64_t rotate(uint64_t word, int bits)
{
	return word << bits | word >> (64 - bits);
}

static uint64_t mix(uint64_t lane, uint64_t word)
{
	return rotate(lane + word * PRIME2, 31) * PRIME1;
}

static uint64_t hash_page(const uint8_t *page)
{
	uint64_t lanes[LANES] = {PRIME1 + PRIME2, PRIME2, 0, -PRIME1}, words[LANES], hash;

	for (uint64_t at = 0; at < PD_PAGE_BYTES; at += sizeof(words)) {
		memcpy(words, page + at, sizeof(words));
		for (int i = 0; i < LANES; i++)
			lanes[i] = mix(lanes[i], words[i]);
	}
	hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
	for (int i = 0; i < LANES; i++)
		hash = (hash ^ mix(0, lanes[i])) * PRIME1 + PRIME4;
	hash += PD_PAGE_BYTES;
	hash = (hash ^ hash >> 33) * PRIME2;
	hash = (hash ^ hash >> 29) * PRIME3;
	return hash ^ hash >> 32;
}

int pd_hash_pages(const uint8_t *pages, uint64_t n_pages, uint64_t *hashes)
{
	for (uint64_t i = 0; i < n_pages; i++)
		hashes[i] = hash_page(pages + i * PD_PAGE_BYTES);
	return 0;
}

#define CLAIMS (1u << PD_RUN_PARENT | 1u << PD_RUN_STAGED)

int pd_claims(const struct pd_run_list *in, struct pd_run_list *out)
{
	for (uint64_t i = 0; i < in->n_runs; i++) {
		const struct pd_run *run = in->runs + i;

		if (CLAIMS & 1u << run->kind)
			if (runs_append(out, run->start_addr, run_end_addr(run), PD_RUN_COPY, 0) < run_end_addr(run))
				return 1;
	}
	return 0;
}

static int is_stored(const uint8_t *page, uint64_t addr, struct pd_sweep *stored, const uint64_t *hashes)
{
	uint64_t end = addr + PD_PAGE_BYTES;
	const struct pd_run *run = sweep_to(stored, addr, &end, ~0u);

	if (!run)
		return 0;
	if (run->kind == PD_RUN_ZERO)
		return is_zero_page(page);
	return hashes[run->page_index + (addr - run->start_addr) / PD_PAGE_BYTES] == hash_page(page);
}

int pd_confirm(const struct pd_run_list *copied, const struct pd_buffer *buffer, struct pd_sweep *claimed,
	       const uint8_t *staging, struct pd_sweep *stored, const uint64_t *hashes, struct pd_run_list *out)
{
	for (uint64_t i = 0; i < copied->n_runs; i++) {
		const struct pd_run *run = copied->runs + i;

		for (uint64_t n = 0; n < run->n_pages; n++) {
			uint64_t addr = run->start_addr + n * PD_PAGE_BYTES, end = addr + PD_PAGE_BYTES, index = 0;
			const uint8_t *page = buffer->bytes + (run->page_index + n) * PD_PAGE_BYTES;
			const struct pd_run *claim = sweep_to(claimed, addr, &end, CLAIMS);
			int same;

			if (claim && claim->kind == PD_RUN_STAGED) {
				index = claim->page_index + (addr - claim->start_addr) / PD_PAGE_BYTES;
				same = !memcmp(page, staging + index * PD_PAGE_BYTES, PD_PAGE_BYTES);
			} else {
				same = claim && is_stored(page, addr, stored, hashes);
			}
			if (same && runs_append(out, addr, addr + PD_PAGE_BYTES, claim->kind, index) == addr)
				return 1;
		}
	}
	return 0;
}

int pd_settle(const struct pd_run_list *in, struct pd_sweep *confirmed, struct pd_run_list *out)
{
	for (uint64_t i = 0; i < in->n_runs; i++) {
		const struct pd_run *run = in->runs + i;
		uint64_t start = run->start_addr;

		while (start < run_end_addr(run)) {
			uint64_t end = run_end_addr(run), index = run->page_index;
			uint32_t kind = run->kind;

			if (CLAIMS & 1u << kind && !sweep_to(confirmed, start, &end, ~0u))
				kind = PD_RUN_COPY;
			if (kind == PD_RUN_STAGED)
				index += (start - run->start_addr) / PD_PAGE_BYTES;
			if (runs_append(out, start, end, kind, index) < end)
				return 1;
			start = end;
		}
	}
	return 0;
}
