/* Memory whose mappings shift: each `shift N` makes N random changes, and answers `ok`; `quit` ends.
 *
 * shifting SEED: areas of private anonymous memory and private mappings of the program's own file are made, written,
 * grown, cut, moved, protected, dropped in parts, and unmapped; the heap and the stack grow and shrink.
 */
#include "target.h"

#include <fcntl.h>
#include <sys/mman.h>

#define AREAS 24
#define MAX_PAGES 64

struct area {
	uint8_t *at;
	size_t n_pages;
	int prot;
};

static struct area areas[AREAS];
static uint64_t state;
static int file;

static size_t below(size_t end)
{
	return next_random(&state) % end;
}

static void unmap(struct area *area)
{
	if (area->n_pages > 0 && munmap(area->at, area->n_pages * PAGE_BYTES))
		die("munmap");
	area->n_pages = 0;
}

static void make(struct area *area)
{
	int of_file = below(4) == 0;
	int flags = MAP_PRIVATE | (of_file ? 0 : MAP_ANONYMOUS) | (below(3) == 0 ? MAP_NORESERVE : 0);

	unmap(area);
	area->n_pages = 1 + below(of_file ? 4 : MAX_PAGES);
	area->prot = PROT_READ | PROT_WRITE;
	area->at = mmap(NULL, area->n_pages * PAGE_BYTES, area->prot, flags, of_file ? file : -1, 0);
	if (area->at == MAP_FAILED)
		die("mmap");
}

static void write_some(struct area *area)
{
	for (size_t i = below(48); area->prot & PROT_WRITE && i > 0; i--)
		fill_page(area->at + below(area->n_pages) * PAGE_BYTES, below(8) ? next_random(&state) : 0);
}

static void change(struct area *area)
{
	size_t first, n_pages;

	if (area->n_pages == 0) {
		make(area);
		return;
	}
	first = below(area->n_pages);
	n_pages = 1 + below(area->n_pages - first);
	switch (below(8)) {
	case 0:
		make(area);
		break;
	case 1: /* its beginning or its end goes */
		if (n_pages == area->n_pages)
			break;
		if (below(2)) {
			munmap(area->at, n_pages * PAGE_BYTES);
			area->at += n_pages * PAGE_BYTES;
		} else {
			munmap(area->at + (area->n_pages - n_pages) * PAGE_BYTES, n_pages * PAGE_BYTES);
		}
		area->n_pages -= n_pages;
		break;
	case 2: {
		void *moved = mremap(area->at, area->n_pages * PAGE_BYTES, (area->n_pages + n_pages) * PAGE_BYTES, MREMAP_MAYMOVE);

		if (moved != MAP_FAILED && area->n_pages + n_pages <= 2 * MAX_PAGES) {
			area->at = moved;
			area->n_pages += n_pages;
		} else if (moved != MAP_FAILED) {
			munmap(moved, (area->n_pages + n_pages) * PAGE_BYTES);
			area->n_pages = 0;
		}
		break;
	}
	case 3:
		area->prot = below(2) ? PROT_READ : PROT_READ | PROT_WRITE;
		mprotect(area->at, area->n_pages * PAGE_BYTES, area->prot);
		break;
	case 4:
		madvise(area->at + first * PAGE_BYTES, n_pages * PAGE_BYTES, MADV_DONTNEED);
		break;
	case 5: /* the same place, and nothing of what was there */
		if (mmap(area->at, area->n_pages * PAGE_BYTES, area->prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		    MAP_FAILED)
			die("mmap");
		break;
	default:
		write_some(area);
	}
}

static void shift_heap_and_stack(void)
{
	volatile uint8_t deep[(1 + below(32)) * PAGE_BYTES];
	static void *grown;

	for (size_t i = 0; i < sizeof(deep); i += PAGE_BYTES)
		deep[i] = (uint8_t)i;
	if (grown == NULL)
		grown = sbrk(0);
	if (brk((uint8_t *)grown + (33 + below(64)) * PAGE_BYTES))
		die("brk");
	fill_page((uint8_t *)grown + below(32) * PAGE_BYTES, next_random(&state));
}

int main(int argc, char **argv)
{
	static char out[4096]; /* no heap of the library's: it is ours */
	char line[64];
	int n;

	state = argc > 1 ? (uint64_t)atol(argv[1]) : 1;
	file = open(argv[0], O_RDONLY | O_CLOEXEC);
	if (file < 0)
		die(argv[0]);
	setvbuf(stdout, out, _IOFBF, sizeof(out));
	answer("ready %d", getpid());
	while (next_command(line, sizeof(line)) && sscanf(line, "shift %d", &n) == 1) {
		while (n-- > 0)
			change(&areas[below(AREAS)]);
		shift_heap_and_stack();
		answer("ok");
	}
	return 0;
}
