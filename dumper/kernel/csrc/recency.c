/* When each page was last written, and so how many different pages were written of late. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "predump.h"
#include "runs.h"

#define CHUNK_PAGES 512
#define CHUNK_BYTES (CHUNK_PAGES * PD_PAGE_BYTES)
#define FIRST_CAPACITY 256

/* The pages of CHUNK_BYTES of the address space; ticks[i] is the last tick in which page i was written, 0: in none. */
struct chunk {
	uint64_t number;
	uint32_t *ticks; /* NULL: a free place of the table */
};

struct pd_recency {
	struct chunk *table; /* open addressing; never more than half full */
	uint64_t capacity, n_chunks, max_chunks;
	unsigned int shift; /* one chunk in 2^shift is counted */
	uint32_t last_tick, n_counts;
	uint64_t *counts; /* [tick % n_counts]: pages whose last tick that is */
};

static uint64_t mixed(uint64_t number)
{
	number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9UL;
	number = (number ^ number >> 27) * 0x94d049bb133111ebUL;
	return number ^ number >> 31;
}

static int is_counted(const struct pd_recency *recency, uint64_t number)
{
	return !(mixed(number) & ((1UL << recency->shift) - 1));
}

/* The chunk's place in a table, or the free one where it belongs. */
static struct chunk *place_of(struct chunk *table, uint64_t capacity, uint64_t number)
{
	uint64_t at = mixed(number) >> 32 & (capacity - 1);

	while (table[at].ticks && table[at].number != number)
		at = (at + 1) & (capacity - 1);
	return table + at;
}

static void forget(struct pd_recency *recency, const uint32_t *ticks)
{
	for (uint64_t i = 0; i < CHUNK_PAGES; i++)
		if (ticks[i] && recency->last_tick - ticks[i] < recency->n_counts)
			recency->counts[ticks[i] % recency->n_counts]--;
}

/* Moves what is counted to a table with room for more. */
static int rebuild(struct pd_recency *recency, uint64_t capacity)
{
	struct chunk *table = calloc(capacity, sizeof(*table));

	if (!table)
		return -ENOMEM;
	for (uint64_t i = 0; i < recency->capacity; i++) {
		const struct chunk *chunk = recency->table + i;

		if (chunk->ticks && is_counted(recency, chunk->number)) {
			*place_of(table, capacity, chunk->number) = *chunk;
		} else if (chunk->ticks) {
			forget(recency, chunk->ticks);
			free(chunk->ticks);
			recency->n_chunks--;
		}
	}
	free(recency->table);
	recency->table = table;
	recency->capacity = capacity;
	return 0;
}

/* The ticks of a chunk's pages: 0 and *ticks, NULL for a chunk that is not counted, or -ENOMEM. */
static int find_ticks(struct pd_recency *recency, uint64_t number, uint32_t **ticks)
{
	struct chunk *place;
	int failed = 0;

	*ticks = NULL;
	if (!is_counted(recency, number))
		return 0;
	place = place_of(recency->table, recency->capacity, number);
	if (!place->ticks) {
		while (!failed && recency->n_chunks >= recency->max_chunks) {
			recency->shift++;
			failed = rebuild(recency, recency->capacity);
		}
		if (!failed && 2 * recency->n_chunks >= recency->capacity)
			failed = rebuild(recency, 2 * recency->capacity);
		if (failed || !is_counted(recency, number))
			return failed;
		place = place_of(recency->table, recency->capacity, number);
		place->ticks = calloc(CHUNK_PAGES, sizeof(*place->ticks));
		if (!place->ticks)
			return -ENOMEM;
		place->number = number;
		recency->n_chunks++;
	}
	*ticks = place->ticks;
	return 0;
}

struct pd_recency *pd_recency_new(uint32_t max_ticks, uint64_t max_chunks)
{
	struct pd_recency *recency = calloc(1, sizeof(*recency));

	if (!recency)
		return NULL;
	recency->max_chunks = max_chunks;
	recency->n_counts = max_ticks;
	recency->capacity = FIRST_CAPACITY;
	recency->counts = calloc(max_ticks, sizeof(*recency->counts));
	recency->table = calloc(recency->capacity, sizeof(*recency->table));
	if (!recency->counts || !recency->table) {
		pd_recency_free(recency);
		return NULL;
	}
	return recency;
}

void pd_recency_free(struct pd_recency *recency)
{
	for (uint64_t i = 0; recency->table && i < recency->capacity; i++)
		free(recency->table[i].ticks);
	free(recency->table);
	free(recency->counts);
	free(recency);
}

int pd_recency_note(struct pd_recency *recency, uint32_t tick, const struct pd_run *runs, uint64_t n_runs)
{
	uint64_t number = UINT64_MAX;
	uint32_t *ticks = NULL;

	if (tick - recency->last_tick >= recency->n_counts)
		memset(recency->counts, 0, recency->n_counts * sizeof(*recency->counts));
	else
		for (uint32_t passed = recency->last_tick + 1; passed <= tick; passed++)
			recency->counts[passed % recency->n_counts] = 0;
	recency->last_tick = tick;
	for (uint64_t i = 0; i < n_runs; i++) {
		if (runs[i].kind != PD_RUN_COPY)
			continue;
		for (uint64_t addr = runs[i].start_addr; addr < run_end_addr(runs + i); addr += PD_PAGE_BYTES) {
			uint32_t *last;

			if (addr / CHUNK_BYTES != number) {
				int failed = find_ticks(recency, addr / CHUNK_BYTES, &ticks);

				if (failed)
					return failed;
				number = addr / CHUNK_BYTES;
			}
			if (!ticks)
				continue;
			last = ticks + addr / PD_PAGE_BYTES % CHUNK_PAGES;
			if (*last && tick - *last < recency->n_counts)
				recency->counts[*last % recency->n_counts]--;
			recency->counts[tick % recency->n_counts]++;
			*last = tick;
		}
	}
	return 0;
}

uint64_t pd_recency_pages(const struct pd_recency *recency, uint32_t n_ticks)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < n_ticks && i < recency->n_counts && i < recency->last_tick; i++)
		pages += recency->counts[(recency->last_tick - i) % recency->n_counts];
	return pages << recency->shift;
}

uint64_t pd_recency_pages_between(const struct pd_recency *recency, uint64_t start, uint64_t end, uint32_t n_ticks)
{
	uint64_t pages = 0;

	for (uint64_t i = 0; i < recency->capacity; i++) {
		const struct chunk *chunk = recency->table + i;
		uint64_t first = chunk->number * CHUNK_BYTES;

		if (!chunk->ticks || first >= end || first + CHUNK_BYTES <= start)
			continue;
		for (uint64_t page = 0; page < CHUNK_PAGES; page++) {
			uint64_t addr = first + page * PD_PAGE_BYTES;

			pages += addr >= start && addr < end && chunk->ticks[page] &&
				 recency->last_tick - chunk->ticks[page] < n_ticks;
		}
	}
	return pages << recency->shift;
}
