/* Every kind of memory, each page of known content, changed on command in every way a program can.
 *
 * memory PRIVATE_FILE SHARED_FILE [hugetlb] [memfd] [secret]
 * The two files are made by the target. `hugetlb` needs free huge pages, `memfd` is a private
 * mapping of a memfd with content, `secret` needs memfd_secret.
 *
 * Commands (one line each, answered by one line):
 *   write N SEED  N random pages get pseudo-random content, one in eight zeros
 *   zap N         N random pages are dropped (MADV_DONTNEED, or MADV_REMOVE where shared)
 *   remap         munmap a piece of the dense area, mmap at the same place, write a few pages
 *   move          mremap an area to another place
 *   grow          heap by 4 MiB, stack by 256 KiB, both written
 *   protect       the dense area read-only and back; the read-only areas writable and back
 *   start RATE    a thread that writes and zaps RATE pages per second, until `stop`
 *   areas         one JSON list of {name, start, length}
 *   check         the self-check: every page against the content it must have
 *   quit          check, then exit: 0 when clean, else 1
 *
 * An area is a row of slots, one page each, `stride_bytes` apart. `seeds[slot]` is the seed of the
 * content that the page must have, so the self-check is a loop over all slots of all areas.
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define MIB (1024UL * 1024)
#define MAX_AREAS 80
#define SPARSE_BYTES (64UL << 30)
#define SPARSE_PAGES 1000
#define FILE_PAGES 256 /* of which the last one is partial */
#define FILE_TAIL_BYTES 1000
#define STACK_PAGES 64
#define MAX_STACK_DEPTH 24
#define GROW_BYTES (4 * MIB)
#define HUGE_BYTES (2 * MIB)
#define SEED_GUARD UINT64_MAX /* a guard page: it has no content */

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* since 6.13 */
#endif
#ifndef __NR_memfd_secret
#define __NR_memfd_secret 447
#endif

enum drop { DROP_NEVER, DROP_TO_ZEROS, DROP_TO_FILE };

struct area {
	const char *name;
	unsigned char *start;
	size_t length_bytes, stride_bytes, n_slots;
	uint64_t *seeds;
	int perms; /* its usual ones; only writable areas are written at random */
	enum drop drop;
	int drop_advice;
	uint64_t file_seed; /* the file's page i has content file_seed + i */
	int fd; /* >= 0: shared memory that is also written by pwrite */
};

static struct area areas[MAX_AREAS];
static size_t n_areas, stack_depth;
static size_t dense_index, moving_index, relro_index, none_index;
/* Held for each single change, so that the writer thread and the commands may mix. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t random_state = 1;

static pthread_t writer;
static bool writer_runs, writer_stops;
static unsigned long writer_rate;
static uint64_t n_written;

static unsigned char *slot_address(const struct area *area, size_t slot)
{
	return area->start + slot * area->stride_bytes;
}

static size_t add_area(const char *name, void *start, size_t length_bytes, size_t n_slots)
{
	struct area *area = &areas[n_areas];

	if (n_areas == MAX_AREAS) {
		errno = ENOSPC;
		die("areas");
	}
	*area = (struct area){.name = name, .start = start, .length_bytes = length_bytes};
	area->stride_bytes = PAGE_BYTES;
	area->n_slots = n_slots;
	area->perms = PROT_READ | PROT_WRITE;
	area->fd = -1;
	area->seeds = calloc(n_slots, sizeof(uint64_t));
	if (area->seeds == NULL)
		die("calloc");
	return n_areas++;
}

static void write_slot(struct area *area, size_t slot, uint64_t seed)
{
	fill_page(slot_address(area, slot), seed);
	area->seeds[slot] = seed;
}

/* As another process would: the page changes with no write through this mapping. */
static void write_slot_by_fd(struct area *area, size_t slot, uint64_t seed)
{
	unsigned char page[PAGE_BYTES];

	fill_page(page, seed);
	if (pwrite(area->fd, page, PAGE_BYTES, (off_t)(slot * PAGE_BYTES)) != (ssize_t)PAGE_BYTES)
		die("pwrite");
	area->seeds[slot] = seed;
}

static void fill_area(size_t index, uint64_t seed)
{
	for (size_t slot = 0; slot < areas[index].n_slots; slot++)
		write_slot(&areas[index], slot, seed + slot);
}

static bool drop_slot(struct area *area, size_t slot)
{
	if (area->drop == DROP_NEVER)
		return false;
	if (madvise(slot_address(area, slot), PAGE_BYTES, area->drop_advice) < 0)
		die("madvise");
	area->seeds[slot] = area->drop == DROP_TO_FILE ? area->file_seed + slot : 0;
	return true;
}

/* One random change somewhere; false when the area drawn cannot be changed so. */
static bool change_one_page(bool drop)
{
	bool done = false;

	pthread_mutex_lock(&lock);
	struct area *area = &areas[next_random(&random_state) % n_areas];
	size_t slot = next_random(&random_state) % area->n_slots;
	uint64_t seed = next_random(&random_state);

	if ((area->perms & PROT_WRITE) && area->seeds[slot] != SEED_GUARD) {
		if (drop)
			done = drop_slot(area, slot);
		else {
			if (seed % 8 == 0)
				seed = 0;
			if (area->fd >= 0 && seed % 3 == 0)
				write_slot_by_fd(area, slot, seed);
			else
				write_slot(area, slot, seed);
			done = true;
		}
	}
	n_written += done;
	pthread_mutex_unlock(&lock);
	return done;
}

static void change_pages(unsigned long n, bool drop)
{
	while (n > 0)
		n -= change_one_page(drop);
}

static void *write_at_rate(void *unused)
{
	const uint64_t tick_ns = 2 * NS_PER_MS;
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC), done = 0;

	for (uint64_t now_ns = start_ns; !__atomic_load_n(&writer_stops, __ATOMIC_ACQUIRE);
	     now_ns += tick_ns) {
		struct timespec until = timespec_of_ns(now_ns);

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		for (; done < (now_ns - start_ns) * writer_rate / NS_PER_S; done++)
			change_pages(1, done % 16 == 15);
	}
	return unused;
}

static void start_writer(unsigned long rate)
{
	if (writer_runs) {
		answer("bad the writer runs already");
		return;
	}
	writer_rate = rate;
	writer_stops = false;
	errno = pthread_create(&writer, NULL, write_at_rate, NULL);
	if (errno != 0)
		die("pthread_create");
	writer_runs = true;
	answer("ok");
}

static void stop_writer(void)
{
	if (writer_runs) {
		__atomic_store_n(&writer_stops, true, __ATOMIC_RELEASE);
		pthread_join(writer, NULL);
		writer_runs = false;
	}
}

static void set_perms(const struct area *area, int perms)
{
	if (mprotect(area->start, area->length_bytes, perms) < 0)
		die("mprotect");
}

static bool check(void)
{
	bool clean = true;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; clean && i < n_areas; i++) {
		struct area *area = &areas[i];

		if (!(area->perms & PROT_READ))
			set_perms(area, PROT_READ);
		for (size_t slot = 0; clean && slot < area->n_slots; slot++) {
			unsigned char *page = slot_address(area, slot);
			long offset = area->seeds[slot] == SEED_GUARD
					      ? -1
					      : wrong_offset(page, area->seeds[slot]);

			if (offset >= 0) {
				answer("bad area %s differs at %p", area->name, (void *)(page + offset));
				clean = false;
			}
		}
		if (!(area->perms & PROT_READ))
			set_perms(area, area->perms);
	}
	if (clean)
		answer("ok areas=%zu written=%lu", n_areas, n_written);
	pthread_mutex_unlock(&lock);
	return clean;
}

static void *map_at(void *place, size_t bytes, int perms, int flags, int fd)
{
	void *start = mmap(place, bytes, perms, flags, fd, 0);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

static void *map_anonymous(size_t bytes)
{
	return map_at(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static size_t add_anonymous(const char *name, size_t bytes, uint64_t seed)
{
	size_t index = add_area(name, map_anonymous(bytes), bytes, bytes / PAGE_BYTES);

	areas[index].drop = DROP_TO_ZEROS;
	areas[index].drop_advice = MADV_DONTNEED;
	fill_area(index, seed);
	return index;
}

static void add_sparse(void)
{
	void *start = map_at(NULL, SPARSE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	size_t index = add_area("sparse", start, SPARSE_BYTES, SPARSE_PAGES);

	areas[index].stride_bytes = SPARSE_BYTES / SPARSE_PAGES / PAGE_BYTES * PAGE_BYTES;
	areas[index].drop = DROP_TO_ZEROS;
	areas[index].drop_advice = MADV_DONTNEED;
	fill_area(index, 10000);
}

static void add_huge_advised(void)
{
	unsigned char *raw = map_anonymous(5 * HUGE_BYTES);
	unsigned char *start = (unsigned char *)(((uintptr_t)raw + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
	size_t index = add_area("thp", start, 4 * HUGE_BYTES, 4 * HUGE_BYTES / PAGE_BYTES);

	madvise(start, 4 * HUGE_BYTES, MADV_HUGEPAGE); /* a kernel without it has small pages */
	areas[index].drop = DROP_TO_ZEROS;
	areas[index].drop_advice = MADV_DONTNEED;
	fill_area(index, 20000);
}

static void add_guarded(void)
{
	size_t index = add_anonymous("guarded", 16 * PAGE_BYTES, 30000);
	struct area *area = &areas[index];

	if (madvise(slot_address(area, 4), 4 * PAGE_BYTES, MADV_GUARD_INSTALL) < 0)
		return;
	for (size_t slot = 4; slot < 8; slot++)
		area->seeds[slot] = SEED_GUARD;
}

/* Makes the file: page i has content file_seed + i, and the last page is partial. */
static int make_file(const char *path, uint64_t file_seed)
{
	unsigned char page[PAGE_BYTES];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		die(path);
	for (size_t i = 0; i < FILE_PAGES; i++) {
		fill_page(page, file_seed + i);
		if (write(fd, page, PAGE_BYTES) != (ssize_t)PAGE_BYTES)
			die(path);
	}
	if (ftruncate(fd, (FILE_PAGES - 1) * (off_t)PAGE_BYTES + FILE_TAIL_BYTES) < 0)
		die(path);
	return fd;
}

/* One page more than the file has, and the partial page, are mapped but never touched. */
static void add_private_file(const char *path)
{
	const uint64_t file_seed = 40000;
	int fd = make_file(path, file_seed);
	size_t bytes = (FILE_PAGES + 1) * PAGE_BYTES;
	void *start = map_at(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	size_t index = add_area("private-file", start, bytes, FILE_PAGES - 1);
	struct area *area = &areas[index];

	close(fd);
	area->drop = DROP_TO_FILE;
	area->drop_advice = MADV_DONTNEED;
	area->file_seed = file_seed;
	for (size_t slot = 0; slot < area->n_slots; slot++)
		area->seeds[slot] = file_seed + slot;
	for (size_t slot = 0; slot < area->n_slots; slot += 3)
		write_slot(area, slot, 50000 + slot);
}

static void add_shared_file(const char *path)
{
	const uint64_t file_seed = 60000;
	int fd = make_file(path, file_seed);
	size_t bytes = (FILE_PAGES + 1) * PAGE_BYTES;
	void *start = map_at(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	size_t index = add_area("shared-file", start, bytes, FILE_PAGES - 1);

	areas[index].fd = fd;
	for (size_t slot = 0; slot < areas[index].n_slots; slot++)
		areas[index].seeds[slot] = file_seed + slot;
	for (size_t slot = 0; slot < areas[index].n_slots; slot += 5)
		write_slot(&areas[index], slot, 70000 + slot);
}

/* Shared memory that is half populated: its holes must stay holes. */
static void add_shared(const char *name, int fd, int flags, uint64_t seed)
{
	size_t bytes = 256 * PAGE_BYTES;
	void *start = map_at(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd);
	size_t index = add_area(name, start, bytes, bytes / PAGE_BYTES);

	areas[index].fd = fd;
	areas[index].drop = DROP_TO_ZEROS;
	areas[index].drop_advice = MADV_REMOVE;
	for (size_t slot = 0; slot < areas[index].n_slots; slot += 2)
		write_slot(&areas[index], slot, seed + slot);
}

static int make_memfd(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, 256 * PAGE_BYTES) < 0)
		die("memfd_create");
	return fd;
}

/* Clean pages of it are nowhere on disk: zeros, or content with no copy outside of memory. */
static void add_private_memfd(bool has_content)
{
	const uint64_t file_seed = 80000;
	size_t bytes = 256 * PAGE_BYTES;
	int fd = make_memfd("predump-private");
	unsigned char page[PAGE_BYTES];

	for (size_t i = 0; has_content && i < 256; i++) {
		fill_page(page, file_seed + i);
		if (write(fd, page, PAGE_BYTES) != (ssize_t)PAGE_BYTES)
			die("write memfd");
	}
	void *start = map_at(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	size_t index = add_area("private-memfd", start, bytes, bytes / PAGE_BYTES);

	close(fd);
	areas[index].drop = has_content ? DROP_TO_FILE : DROP_TO_ZEROS;
	areas[index].drop_advice = MADV_DONTNEED;
	areas[index].file_seed = file_seed;
	for (size_t slot = 0; has_content && slot < areas[index].n_slots; slot++)
		areas[index].seeds[slot] = file_seed + slot;
	for (size_t slot = 0; slot < areas[index].n_slots; slot += 3)
		write_slot(&areas[index], slot, 90000 + slot);
}

static void add_hugetlb(void)
{
	void *start = map_at(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1);

	fill_area(add_area("hugetlb", start, 2 * HUGE_BYTES, 2 * HUGE_BYTES / PAGE_BYTES), 100000);
}

/* The kernel lets nobody else read it: a checkpoint has to say so. */
static void add_secret(void)
{
	int fd = (int)syscall(__NR_memfd_secret, O_CLOEXEC);

	if (fd < 0 || ftruncate(fd, 4 * PAGE_BYTES) < 0)
		die("memfd_secret");
	void *start = map_at(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

	close(fd);
	fill_area(add_area("secret", start, 4 * PAGE_BYTES, 4), 110000);
}

static void add_protected(void)
{
	relro_index = add_anonymous("relro", 32 * PAGE_BYTES, 120000);
	areas[relro_index].perms = PROT_READ;
	set_perms(&areas[relro_index], PROT_READ);
	none_index = add_anonymous("none", 32 * PAGE_BYTES, 130000);
	areas[none_index].perms = PROT_NONE;
	set_perms(&areas[none_index], PROT_NONE);
}

static void grow_heap(void)
{
	unsigned char *end = sbrk(0);
	size_t gap_bytes = -(uintptr_t)end & (PAGE_BYTES - 1);

	if (sbrk((intptr_t)(gap_bytes + GROW_BYTES)) == (void *)-1)
		die("sbrk");
	size_t index = add_area("heap", end + gap_bytes, GROW_BYTES, GROW_BYTES / PAGE_BYTES);

	areas[index].drop = DROP_TO_ZEROS;
	areas[index].drop_advice = MADV_DONTNEED;
	fill_area(index, 1000000000 + 10000 * stack_depth);
}

static void remap(void)
{
	struct area *dense = &areas[dense_index];
	size_t first = next_random(&random_state) % (dense->n_slots - 64);
	unsigned char *start = slot_address(dense, first);

	if (munmap(start, 64 * PAGE_BYTES) < 0)
		die("munmap");
	map_at(start, 64 * PAGE_BYTES, PROT_READ | PROT_WRITE,
	       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
	for (size_t slot = first; slot < first + 64; slot++)
		dense->seeds[slot] = 0;
	for (size_t slot = first; slot < first + 64; slot += 16)
		write_slot(dense, slot, next_random(&random_state));
}

static void move(void)
{
	struct area *area = &areas[moving_index];
	void *place = map_at(NULL, area->length_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (mremap(area->start, area->length_bytes, area->length_bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
		   place) == MAP_FAILED)
		die("mremap");
	area->start = place;
}

static void write_protected(size_t index)
{
	struct area *area = &areas[index];

	set_perms(area, PROT_READ | PROT_WRITE);
	for (size_t slot = 0; slot < area->n_slots; slot += 8)
		write_slot(area, slot, next_random(&random_state));
	set_perms(area, area->perms);
}

static void protect(void)
{
	struct area *dense = &areas[dense_index];

	set_perms(dense, PROT_READ);
	set_perms(dense, dense->perms);
	write_slot(dense, next_random(&random_state) % dense->n_slots, next_random(&random_state));
	write_protected(relro_index);
	write_protected(none_index);
}

static void print_areas(void)
{
	printf("ok [");
	for (size_t i = 0; i < n_areas; i++)
		printf("%s{\"name\": \"%s\", \"start\": %lu, \"length\": %lu}", i == 0 ? "" : ", ",
		       areas[i].name, (unsigned long)areas[i].start, areas[i].length_bytes);
	answer("]");
}

static void change_mappings(void (*change)(void))
{
	pthread_mutex_lock(&lock);
	change();
	pthread_mutex_unlock(&lock);
	answer("ok");
}

enum outcome { END, GROW_STACK };

/* Serves commands until one needs a deeper stack, or the end. */
static enum outcome serve(int *exit_code)
{
	char line[256];
	unsigned long n;
	uint64_t seed;

	*exit_code = 1;
	while (next_command(line, sizeof(line))) {
		if (sscanf(line, "write %lu %lu", &n, &seed) == 2) {
			pthread_mutex_lock(&lock);
			random_state = seed;
			pthread_mutex_unlock(&lock);
			change_pages(n, false);
			answer("ok");
		} else if (sscanf(line, "zap %lu", &n) == 1) {
			change_pages(n, true);
			answer("ok");
		} else if (strcmp(line, "remap") == 0)
			change_mappings(remap);
		else if (strcmp(line, "move") == 0)
			change_mappings(move);
		else if (strcmp(line, "protect") == 0)
			change_mappings(protect);
		else if (strcmp(line, "grow") == 0 && stack_depth < MAX_STACK_DEPTH)
			return GROW_STACK;
		else if (sscanf(line, "start %lu", &n) == 1)
			start_writer(n);
		else if (strcmp(line, "stop") == 0) {
			stop_writer();
			answer("ok written=%lu", n_written);
		} else if (strcmp(line, "areas") == 0)
			print_areas();
		else if (strcmp(line, "check") == 0)
			check();
		else if (strcmp(line, "quit") == 0) {
			stop_writer();
			*exit_code = check() ? 0 : 1;
			return END;
		} else
			answer("bad unknown or refused command '%s'", line);
	}
	return END;
}

/* [stack] reaches as far as it was touched: room for the signal frames of an injection, which depend on the processor. */
__attribute__((noinline)) static void touch_below(void)
{
	unsigned char room[16 * 1024];

	*(volatile unsigned char *)room = 1;
}

/* Each `grow` nests one frame deeper, so what the stack holds stays live until the end. */
__attribute__((noinline)) static int serve_deeper(const char *first_answer)
{
	_Alignas(PAGE_BYTES) unsigned char frame[STACK_PAGES * PAGE_BYTES];
	int exit_code;

	pthread_mutex_lock(&lock);
	grow_heap();
	stack_depth++;
	fill_area(add_area("stack", frame, sizeof(frame), STACK_PAGES), 1000000 * stack_depth);
	pthread_mutex_unlock(&lock);
	touch_below();
	answer("%s", first_answer);
	if (serve(&exit_code) == GROW_STACK)
		exit_code = serve_deeper("ok");
	return exit_code;
}

int main(int argc, char **argv)
{
	char ready[64];

	if (argc < 3) {
		fprintf(stderr, "usage: memory PRIVATE_FILE SHARED_FILE [hugetlb] [memfd] [secret]\n");
		return 2;
	}
	die_with_parent();
	dense_index = add_anonymous("dense", 16 * MIB, 150000);
	add_anonymous("small", 8 * PAGE_BYTES, 160000);
	moving_index = add_anonymous("moving", 2 * MIB, 170000);
	add_sparse();
	add_huge_advised();
	add_guarded();
	add_protected();
	add_private_file(argv[1]);
	add_shared_file(argv[2]);
	add_shared("shared-anonymous", -1, MAP_ANONYMOUS, 180000);
	add_shared("shared-memfd", make_memfd("predump-shared"), 0, 190000);
	add_private_memfd(false);
	for (int i = 3; i < argc; i++) {
		if (strcmp(argv[i], "hugetlb") == 0)
			add_hugetlb();
		else if (strcmp(argv[i], "memfd") == 0)
			add_private_memfd(true);
		else if (strcmp(argv[i], "secret") == 0)
			add_secret();
	}
	snprintf(ready, sizeof(ready), "ready pid=%d", getpid());
	return serve_deeper(ready);
}
