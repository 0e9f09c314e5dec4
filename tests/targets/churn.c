/* Memory that changes in every way in which a program changes its memory, each page of known content.
 *
 * churn PRIVATE_FILE
 *
 * Commands (one line each, answered by one line):
 *   do NAME SEED      one operation of that name, on pages and with content that the seed draws
 *   start RATE SEED   a thread does so many operations per second, drawn from the seed, until `stop`; with a third
 *                     word, `alone`, it makes no child
 *   end               all children check themselves and end
 *   exec              `end`, then the program begins anew with new memory; answered by the new one
 *   check             the self-check of this process and of all its children
 *   quit              `end` and `check`, then exit: 0 when clean, else 1
 *
 * An operation happens under a lock that all processes share, so what a page must hold is known: `seeds[slot]` is the
 * seed of its content. Children of `fork` do operations of their own, until `end` or until a life drawn from the seed is
 * over, and check themselves then. Nothing here allocates: the heap belongs to the operations (brk).
 */
#include "target.h"

#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define AREA_PAGES 64
#define HUGE_PAGES 1024
#define FRAME_PAGES 16 /* on the stack of a thread that stays */
#define RANGE_PAGES 24
#define MAX_AREAS 16
#define MAX_CHILDREN 3
#define MAX_STAYING 2
#define HUGE_BYTES (2UL << 20)
#define CHILD_PAUSE_NS (3 * NS_PER_MS)
#define DEADLINE_NS (20 * NS_PER_S)
#define SEED_GUARD UINT64_MAX /* a guard page: it has no content */
#define READ_WRITE (PROT_READ | PROT_WRITE)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since 6.1 */
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* since 6.13 */
#define MADV_GUARD_REMOVE 103
#endif

enum kind {
	ANON = 1 << 0,
	HUGE = 1 << 1,
	HEAP = 1 << 2,
	PRIVATE_FILE = 1 << 3, /* and memfd */
	SHARED = 1 << 4,
	SHARED_FD = 1 << 5,
	FRAME = 1 << 6,
	ANONYMOUS = ANON | HUGE | HEAP,
	MAPPED = ANONYMOUS | PRIVATE_FILE | SHARED | SHARED_FD,
};

struct area {
	const char *name;
	enum kind kind;
	unsigned char *start;
	size_t n_slots; /* 0: there is no such area now */
	uint64_t *seeds; /* shared by all processes where the pages are */
	unsigned char perms[HUGE_PAGES];
	bool freed[HUGE_PAGES]; /* MADV_FREE: zeros instead, some day */
	uint64_t file_seed; /* page i of the file has content file_seed + i; 0: no file, or one of zeros */
	int fd;
};

struct child {
	pid_t pid;
	int asked, answered;
};

/* What all processes share. */
struct board {
	pthread_mutex_t lock;
	bool end;
	unsigned long n_done;
	struct child children[MAX_CHILDREN];
	char wrong[256];
	uint64_t seeds[2][AREA_PAGES];
};

struct staying {
	pthread_t thread;
	sem_t begun, leave;
	unsigned char *frame;
	struct area *area;
};

static struct board *board;
static struct area areas[MAX_AREAS];
static size_t n_areas;
static uint64_t private_seeds[MAX_AREAS][HUGE_PAGES];
static struct staying staying[MAX_STAYING];
static struct child *me; /* in a child */
static uint64_t random_state;

static pthread_t churner;
static sem_t churner_wakes, churner_rests;
static bool churner_runs, churner_stops, churner_alone;
static unsigned long churner_rate;

/* ---- pages --------------------------------------------------------------------------------------------------- */

struct range {
	size_t first, n;
};

static uint64_t draw(uint64_t limit)
{
	return next_random(&random_state) % limit;
}

static unsigned char *at(const struct area *area, size_t slot)
{
	return area->start + slot * PAGE_BYTES;
}

static void *map(void *place, size_t bytes, int flags, int fd, off_t offset)
{
	void *start = mmap(place, bytes, READ_WRITE, flags, fd, offset);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

static void set_perms(struct area *area, struct range range, int perms)
{
	if (mprotect(at(area, range.first), range.n * PAGE_BYTES, perms) < 0)
		die("mprotect");
	memset(area->perms + range.first, perms, range.n);
}

static void set_content(struct area *area, size_t slot, uint64_t seed)
{
	area->seeds[slot] = seed;
	area->freed[slot] = false;
}

static void unlock(struct area *area, struct range range)
{
	if (munlock(at(area, range.first), range.n * PAGE_BYTES) < 0)
		die("munlock");
}

/* Write access to all of the range, no guard page in it. */
static void open_up(struct area *area, struct range range)
{
	for (size_t slot = range.first; slot < range.first + range.n; slot++) {
		if (area->perms[slot] != READ_WRITE)
			set_perms(area, (struct range){slot, 1}, READ_WRITE);
		if (area->seeds[slot] == SEED_GUARD) {
			if (madvise(at(area, slot), PAGE_BYTES, MADV_GUARD_REMOVE) < 0)
				die("MADV_GUARD_REMOVE");
			set_content(area, slot, 0);
		}
	}
}

/* What pages hold that the process does not have any more. */
static void set_dropped(struct area *area, struct range range)
{
	for (size_t slot = range.first; slot < range.first + range.n; slot++)
		set_content(area, slot, area->file_seed ? area->file_seed + slot : 0);
}

static bool check_area(struct area *area)
{
	for (size_t slot = 0; slot < area->n_slots; slot++) {
		unsigned char *page = at(area, slot);
		int perms = area->perms[slot];
		long offset;

		if (area->seeds[slot] == SEED_GUARD)
			continue;
		if (!(perms & PROT_READ))
			set_perms(area, (struct range){slot, 1}, PROT_READ);
		offset = wrong_offset(page, area->seeds[slot]);
		if (offset >= 0 && area->freed[slot] && wrong_offset(page, 0) < 0)
			offset = -1;
		if (!(perms & PROT_READ))
			set_perms(area, (struct range){slot, 1}, perms);
		if (offset >= 0) {
			snprintf(board->wrong, sizeof(board->wrong), "process %d, area %s, page %zu differs at %p",
				 getpid(), area->name, slot, (void *)(page + offset));
			return false;
		}
	}
	return true;
}

static bool check_own(void)
{
	bool clean = true;

	for (size_t i = 0; clean && i < n_areas; i++)
		clean = check_area(&areas[i]);
	return clean;
}

/* ---- operations on a range of pages ----------------------------------------------------------------------------- */

static void write_pages(struct area *area, struct range range)
{
	for (size_t slot = range.first; slot < range.first + range.n; slot++) {
		uint64_t seed = next_random(&random_state);

		fill_page(at(area, slot), seed);
		set_content(area, slot, seed);
	}
}

static void do_write(struct area *area, struct range range)
{
	open_up(area, range);
	write_pages(area, range);
}

static void do_zero(struct area *area, struct range range)
{
	open_up(area, range);
	memset(at(area, range.first), 0, range.n * PAGE_BYTES);
	for (size_t slot = range.first; slot < range.first + range.n; slot++)
		set_content(area, slot, 0);
}

/* By read(2): no instruction of the program writes. */
static void do_read(struct area *area, struct range range)
{
	unsigned char page[PAGE_BYTES];
	int ends[2];

	open_up(area, range);
	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe");
	for (size_t slot = range.first; slot < range.first + range.n; slot++) {
		uint64_t seed = next_random(&random_state);

		fill_page(page, seed);
		if (write(ends[1], page, PAGE_BYTES) != (ssize_t)PAGE_BYTES ||
		    read(ends[0], at(area, slot), PAGE_BYTES) != (ssize_t)PAGE_BYTES)
			die("read from a pipe");
		set_content(area, slot, seed);
	}
	close(ends[0]);
	close(ends[1]);
}

/* As a debugger writes. */
static void do_poke(struct area *area, struct range range)
{
	unsigned char page[PAGE_BYTES];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/proc/self/mem");
	open_up(area, range);
	for (size_t slot = range.first; slot < range.first + range.n; slot++) {
		uint64_t seed = next_random(&random_state);

		fill_page(page, seed);
		if (pwrite(fd, page, PAGE_BYTES, (off_t)(uintptr_t)at(area, slot)) != (ssize_t)PAGE_BYTES)
			die("write to /proc/self/mem");
		set_content(area, slot, seed);
	}
	close(fd);
}

/* The pages change with no write through the mapping. */
static void do_pwrite(struct area *area, struct range range)
{
	unsigned char page[PAGE_BYTES];

	for (size_t slot = range.first; slot < range.first + range.n; slot++) {
		uint64_t seed = next_random(&random_state);

		fill_page(page, seed);
		if (pwrite(area->fd, page, PAGE_BYTES, (off_t)(slot * PAGE_BYTES)) != (ssize_t)PAGE_BYTES)
			die("pwrite");
		set_content(area, slot, seed);
	}
}

struct job {
	struct area *area;
	struct range range;
};

static void *write_in_thread(void *argument)
{
	struct job *job = argument;
	_Alignas(PAGE_BYTES) unsigned char frame[FRAME_PAGES * PAGE_BYTES];

	for (size_t i = 0; i < FRAME_PAGES; i++)
		fill_page(frame + i * PAGE_BYTES, job->range.first + i + 1);
	write_pages(job->area, job->range);
	for (size_t i = 0; i < FRAME_PAGES; i++)
		if (wrong_offset(frame + i * PAGE_BYTES, job->range.first + i + 1) >= 0)
			snprintf(board->wrong, sizeof(board->wrong), "the stack of a thread of process %d differs",
				 getpid());
	return NULL;
}

static void do_thread(struct area *area, struct range range)
{
	struct job job = {area, range};
	pthread_t thread;

	open_up(area, range);
	errno = pthread_create(&thread, NULL, write_in_thread, &job);
	if (errno != 0)
		die("pthread_create");
	pthread_join(thread, NULL);
}

static void do_discard(struct area *area, struct range range)
{
	unlock(area, range);
	if (madvise(at(area, range.first), range.n * PAGE_BYTES, MADV_DONTNEED) < 0)
		die("MADV_DONTNEED");
	if (area->kind & (SHARED | SHARED_FD))
		return;
	for (size_t slot = range.first; slot < range.first + range.n; slot++)
		if (area->seeds[slot] != SEED_GUARD)
			set_dropped(area, (struct range){slot, 1});
}

static void do_free(struct area *area, struct range range)
{
	unlock(area, range);
	if (madvise(at(area, range.first), range.n * PAGE_BYTES, MADV_FREE) < 0)
		die("MADV_FREE");
	memset(area->freed + range.first, true, range.n);
}

static void do_remove(struct area *area, struct range range)
{
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, failed;
	size_t bytes = range.n * PAGE_BYTES;

	open_up(area, range);
	unlock(area, range);
	if (area->fd >= 0 && draw(2))
		failed = fallocate(area->fd, punch, (off_t)(range.first * PAGE_BYTES), (off_t)bytes);
	else
		failed = madvise(at(area, range.first), bytes, MADV_REMOVE);
	if (failed)
		die("MADV_REMOVE");
	set_dropped(area, range);
}

/* munmap, then mmap at the same place. */
static void do_remap(struct area *area, struct range range)
{
	bool is_anonymous = area->kind & ANONYMOUS;
	int flags = area->kind == SHARED_FD ? MAP_SHARED : MAP_PRIVATE;
	unsigned char *start = at(area, range.first);

	if (munmap(start, range.n * PAGE_BYTES) < 0)
		die("munmap");
	map(start, range.n * PAGE_BYTES, flags | MAP_FIXED_NOREPLACE | (is_anonymous ? MAP_ANONYMOUS : 0),
	    area->fd, is_anonymous ? 0 : (off_t)(range.first * PAGE_BYTES));
	memset(area->perms + range.first, READ_WRITE, range.n);
	if (area->kind != SHARED_FD)
		set_dropped(area, range);
	if (draw(2))
		write_pages(area, (struct range){range.first, (range.n + 1) / 2});
}

static void do_protect(struct area *area, struct range range)
{
	static const int perms[] = {PROT_READ, PROT_NONE, READ_WRITE};

	set_perms(area, range, perms[draw(3)]);
}

/* A part of what is asked for may be out of reach (PROT_NONE, guard pages): the rest is locked even so. */
static void do_lock(struct area *area, struct range range)
{
	if (draw(2))
		unlock(area, range);
	else if (mlock(at(area, range.first), range.n * PAGE_BYTES) < 0 && errno != ENOMEM && errno != EAGAIN &&
		 errno != EFAULT)
		die("mlock");
}

static void do_guard(struct area *area, struct range range)
{
	unlock(area, range);
	if (madvise(at(area, range.first), range.n * PAGE_BYTES, MADV_GUARD_INSTALL) < 0) {
		if (errno != EINVAL)
			die("MADV_GUARD_INSTALL");
		return; /* a kernel without it */
	}
	for (size_t slot = range.first; slot < range.first + range.n; slot++)
		set_content(area, slot, SEED_GUARD);
}

static void do_unguard(struct area *area, struct range range)
{
	open_up(area, range);
}

static void do_populate(struct area *area, struct range range)
{
	int advice = draw(2) ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;

	open_up(area, range);
	if (madvise(at(area, range.first), range.n * PAGE_BYTES, advice) < 0)
		die("MADV_POPULATE");
}

/* ---- operations on whole areas ---------------------------------------------------------------------------------- */

/* mremap of whole areas needs one kind of access; parts that were mapped anew may still be mappings of their own. */
static void even_out(struct area *area)
{
	struct range all = {0, area->n_slots};

	set_perms(area, all, READ_WRITE);
	unlock(area, all);
}

static void move_one_by_one(unsigned char *from, unsigned char *to, size_t n, int more_flags)
{
	unsigned char unused;

	for (size_t i = 0; i < n; i++, from += PAGE_BYTES, to += PAGE_BYTES) {
		int flags = MREMAP_MAYMOVE | MREMAP_FIXED | more_flags;

		if (mincore(from, PAGE_BYTES, &unused) < 0 && errno == ENOMEM)
			continue; /* it was moved already */
		if (mremap(from, PAGE_BYTES, PAGE_BYTES, flags, to) == MAP_FAILED)
			die("mremap of one page");
	}
}

/* Of several mappings the kernel may move some and then fail. */
static void move_pages(unsigned char *from, unsigned char *to, size_t n)
{
	if (mremap(from, n * PAGE_BYTES, n * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED)
		return;
	if (errno != EFAULT)
		die("mremap");
	move_one_by_one(from, to, n, 0);
}

static unsigned char *another_place(const struct area *area)
{
	return map(NULL, area->n_slots * PAGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void do_move(struct area *area, struct range unused)
{
	unsigned char *place = another_place(area);

	(void)unused;
	even_out(area);
	move_pages(area->start, place, area->n_slots);
	area->start = place;
}

static struct area *another_like(const struct area *area)
{
	struct area *other;

	do
		other = &areas[draw(n_areas)];
	while (other == area || other->kind != area->kind);
	return other;
}

/* Two areas change places, through a third one. */
static void do_swap(struct area *area, struct range unused)
{
	struct area *other = another_like(area);
	unsigned char *one_place = area->start, *other_place = other->start, *third = another_place(area);

	(void)unused;
	even_out(area);
	even_out(other);
	move_pages(one_place, third, area->n_slots);
	move_pages(other_place, one_place, area->n_slots);
	move_pages(third, other_place, area->n_slots);
	area->start = other_place;
	other->start = one_place;
}

/*
 * Pages move, the empty mapping stays: it becomes another area, whose own mapping goes. One by one: after a failure
 * half-way nobody could tell which page is to be moved yet.
 */
static void do_leave(struct area *area, struct range unused)
{
	struct area *other = another_like(area);
	unsigned char *place = another_place(area);

	(void)unused;
	even_out(area);
	even_out(other);
	move_one_by_one(area->start, place, area->n_slots, MREMAP_DONTUNMAP);
	if (munmap(other->start, other->n_slots * PAGE_BYTES) < 0)
		die("munmap");
	other->start = area->start;
	area->start = place;
	set_dropped(other, (struct range){0, other->n_slots});
}

/* Refusals are as good: under write-protection nothing is collapsed. */
static void do_huge(struct area *area, struct range unused)
{
	static const int advices[] = {MADV_COLLAPSE, MADV_COLLAPSE, MADV_HUGEPAGE, MADV_NOHUGEPAGE};

	(void)unused;
	madvise(area->start + draw(2) * HUGE_BYTES, HUGE_BYTES, advices[draw(4)]);
}

static void do_brk(struct area *heap, struct range unused)
{
	size_t n = draw(2) ? AREA_PAGES / 2 + draw(AREA_PAGES / 2) : draw(AREA_PAGES);
	size_t before = heap->n_slots;

	(void)unused;
	if (brk(at(heap, n)) < 0)
		die("brk");
	heap->n_slots = n;
	if (n <= before)
		return;
	memset(heap->perms + before, READ_WRITE, n - before);
	set_dropped(heap, (struct range){before, n - before});
	write_pages(heap, (struct range){before, 1 + (n - before) / 2});
}

/* ---- threads and processes -------------------------------------------------------------------------------------- */

static void *stay(void *argument)
{
	struct staying *self = argument;
	_Alignas(PAGE_BYTES) unsigned char frame[FRAME_PAGES * PAGE_BYTES];

	memset(frame, 0, sizeof(frame));
	self->frame = frame;
	sem_post(&self->begun);
	while (sem_wait(&self->leave) < 0)
		continue;
	return NULL;
}

/* A thread comes, whose stack is an area from then on; or it ends. */
static void do_stay(struct area *area, struct range unused)
{
	struct staying *self = &staying[0];

	(void)unused;
	while (self->area != area)
		self++;
	if (area->n_slots) {
		check_area(area);
		area->n_slots = 0;
		sem_post(&self->leave);
		pthread_join(self->thread, NULL);
		return;
	}
	errno = pthread_create(&self->thread, NULL, stay, self);
	if (errno != 0)
		die("pthread_create");
	while (sem_wait(&self->begun) < 0)
		continue;
	area->start = self->frame;
	area->n_slots = FRAME_PAGES;
	memset(area->perms, READ_WRITE, FRAME_PAGES);
	set_dropped(area, (struct range){0, FRAME_PAGES});
	write_pages(area, (struct range){0, FRAME_PAGES});
}

static void reap(struct child *child)
{
	int status;

	if (child->pid == 0 || waitpid(child->pid, &status, WNOHANG) != child->pid)
		return;
	if ((!WIFEXITED(status) || WEXITSTATUS(status) != 0) && !*board->wrong)
		snprintf(board->wrong, sizeof(board->wrong), "child %d ended with status %#x", child->pid, status);
	child->pid = 0;
}

static void live_as_child(struct child *self, uint64_t seed);

static void do_fork(struct area *area, struct range range)
{
	struct child *child = board->children;
	uint64_t seed = next_random(&random_state);

	while (child < board->children + MAX_CHILDREN && (reap(child), child->pid != 0))
		child++;
	if (me || child == board->children + MAX_CHILDREN)
		return;
	child->asked = child->answered = 0;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
		live_as_child(child, seed);
	child->pid = pid;
	do_write(area, range);
}

static const struct operation {
	const char *name;
	enum kind kinds;
	void (*change)(struct area *area, struct range range);
	bool even_empty;
} operations[] = {
	{"write", MAPPED | FRAME, do_write, false},
	{"zero", MAPPED | FRAME, do_zero, false},
	{"read", MAPPED | FRAME, do_read, false},
	{"poke", MAPPED | FRAME, do_poke, false},
	{"pwrite", SHARED_FD, do_pwrite, false},
	{"thread", MAPPED | FRAME, do_thread, false},
	{"discard", MAPPED | FRAME, do_discard, false},
	{"free", ANONYMOUS, do_free, false},
	{"remove", SHARED | SHARED_FD, do_remove, false},
	{"remap", ANONYMOUS | PRIVATE_FILE | SHARED_FD, do_remap, false},
	{"protect", MAPPED, do_protect, false},
	{"lock", MAPPED, do_lock, false},
	{"guard", ANONYMOUS, do_guard, false},
	{"unguard", ANONYMOUS, do_unguard, false},
	{"populate", MAPPED, do_populate, false},
	{"move", ANON | PRIVATE_FILE | SHARED | SHARED_FD, do_move, false},
	{"swap", ANON, do_swap, false},
	{"leave", ANON, do_leave, false},
	{"huge", HUGE, do_huge, false},
	{"brk", HEAP, do_brk, true},
	{"stay", FRAME, do_stay, true},
	{"fork", MAPPED, do_fork, false},
};

#define N_OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* Does it on an area that the random state draws, of those it can be done on: with no thread there is no frame. */
static void operate(const struct operation *operation)
{
	for (int tries = 0; tries < 200; tries++) {
		struct area *area = &areas[draw(n_areas)];
		size_t first = area->n_slots ? draw(area->n_slots) : 0;
		struct range range = {first, 1 + draw(RANGE_PAGES)};

		if (!(operation->kinds & area->kind) || (!area->n_slots && !operation->even_empty))
			continue;
		if (range.first + range.n > area->n_slots)
			range.n = area->n_slots - range.first;
		operation->change(area, range);
		board->n_done++;
		return;
	}
}

/* Of those that are drawn: threads and children are made by the first process only. */
static bool is_for_others(const struct operation *operation)
{
	if (operation->change == do_fork)
		return me || churner_alone;
	return me && operation->change == do_stay;
}

/* The one of that name, or one that is drawn. */
static void do_one(const struct operation *operation)
{
	pthread_mutex_lock(&board->lock);
	if (!operation)
		do
			operation = &operations[draw(N_OPERATIONS)];
		while (is_for_others(operation));
	operate(operation);
	pthread_mutex_unlock(&board->lock);
}

static void pause_ns(uint64_t ns)
{
	struct timespec pause = timespec_of_ns(ns);

	nanosleep(&pause, NULL);
}

/* Only the thread that called fork is there: no thread stays, and their stacks are the C library's again. */
__attribute__((noreturn)) static void live_as_child(struct child *self, uint64_t seed)
{
	unsigned long left;
	bool clean;

	die_with_parent();
	me = self;
	random_state = seed;
	for (size_t i = 0; i < n_areas; i++)
		if (areas[i].kind == FRAME)
			areas[i].n_slots = 0;
	for (left = draw(2) ? ULONG_MAX : draw(300); left && !__atomic_load_n(&board->end, __ATOMIC_ACQUIRE); left--) {
		do_one(NULL);
		if (__atomic_load_n(&self->asked, __ATOMIC_ACQUIRE) != self->answered) {
			pthread_mutex_lock(&board->lock);
			check_own();
			pthread_mutex_unlock(&board->lock);
			__atomic_store_n(&self->answered, self->asked, __ATOMIC_RELEASE);
		}
		pause_ns(CHILD_PAUSE_NS);
	}
	pthread_mutex_lock(&board->lock);
	clean = check_own();
	pthread_mutex_unlock(&board->lock);
	_exit(clean ? 0 : 3);
}

/* Waits for each child to be asked, or to end. */
static void for_children(bool (*is_done)(const struct child *))
{
	uint64_t end_ns = clock_ns(CLOCK_MONOTONIC) + DEADLINE_NS;

	for (struct child *child = board->children; child < board->children + MAX_CHILDREN; child++) {
		while (reap(child), child->pid != 0 && !is_done(child)) {
			if (clock_ns(CLOCK_MONOTONIC) > end_ns) {
				snprintf(board->wrong, sizeof(board->wrong), "child %d hangs", child->pid);
				return;
			}
			pause_ns(NS_PER_MS);
		}
	}
}

static bool has_ended(const struct child *child)
{
	return child->pid == 0;
}

static bool has_answered(const struct child *child)
{
	return __atomic_load_n(&child->answered, __ATOMIC_ACQUIRE) == child->asked;
}

static void end_children(void)
{
	__atomic_store_n(&board->end, true, __ATOMIC_RELEASE);
	for_children(has_ended);
	__atomic_store_n(&board->end, false, __ATOMIC_RELEASE);
}

static bool check(void)
{
	for (size_t i = 0; i < MAX_CHILDREN; i++)
		__atomic_add_fetch(&board->children[i].asked, 1, __ATOMIC_RELEASE);
	for_children(has_answered);
	pthread_mutex_lock(&board->lock);
	check_own();
	pthread_mutex_unlock(&board->lock);
	return !*board->wrong;
}

/* ---- by itself -------------------------------------------------------------------------------------------------- */

/* The thread never ends: children that it made would die with it (PR_SET_PDEATHSIG). */
static void *churn(void *unused)
{
	for (;;) {
		while (sem_wait(&churner_wakes) < 0)
			continue;
		while (!__atomic_load_n(&churner_stops, __ATOMIC_ACQUIRE)) {
			do_one(NULL);
			pause_ns(NS_PER_S / churner_rate);
		}
		sem_post(&churner_rests);
	}
	return unused;
}

static void stop_churner(void)
{
	if (!churner_runs)
		return;
	__atomic_store_n(&churner_stops, true, __ATOMIC_RELEASE);
	while (sem_wait(&churner_rests) < 0)
		continue;
	churner_runs = false;
}

static void start_churner(unsigned long rate, uint64_t seed, bool alone)
{
	stop_churner();
	random_state = seed;
	churner_rate = rate;
	churner_alone = alone;
	churner_stops = false;
	churner_runs = true;
	sem_post(&churner_wakes);
}

/* ---- setting up, commands --------------------------------------------------------------------------------------- */

static struct area *add_area(const char *name, enum kind kind, void *start, size_t n_slots)
{
	struct area *area = &areas[n_areas];

	if (n_areas == MAX_AREAS) {
		errno = ENOSPC;
		die("areas");
	}
	*area = (struct area){.name = name, .kind = kind, .start = start, .n_slots = n_slots, .fd = -1};
	memset(area->perms, READ_WRITE, sizeof(area->perms));
	area->seeds = private_seeds[n_areas++];
	return area;
}

static void add_anonymous(const char *name)
{
	void *start = map(NULL, AREA_PAGES * PAGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	write_pages(add_area(name, ANON, start, AREA_PAGES), (struct range){0, AREA_PAGES});
}

static void add_huge(void)
{
	unsigned char *raw = map(NULL, 3 * HUGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *start = (unsigned char *)(((uintptr_t)raw + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));

	madvise(start, 2 * HUGE_BYTES, MADV_HUGEPAGE); /* a kernel without it has small pages */
	write_pages(add_area("huge", HUGE, start, HUGE_PAGES), (struct range){0, HUGE_PAGES / 2 + 10});
}

/* A private mapping of a file whose page i has content file_seed + i; every third page is a copy of its own. */
static void add_private_file(const char *name, int fd, uint64_t file_seed)
{
	unsigned char page[PAGE_BYTES];

	for (size_t i = 0; i < AREA_PAGES; i++) {
		fill_page(page, file_seed + i);
		if (write(fd, page, PAGE_BYTES) != (ssize_t)PAGE_BYTES)
			die(name);
	}
	void *start = map(NULL, AREA_PAGES * PAGE_BYTES, MAP_PRIVATE, fd, 0);
	struct area *area = add_area(name, PRIVATE_FILE, start, AREA_PAGES);

	area->fd = fd;
	area->file_seed = file_seed;
	set_dropped(area, (struct range){0, AREA_PAGES});
	for (size_t slot = 0; slot < AREA_PAGES; slot += 3)
		write_pages(area, (struct range){slot, 1});
}

/* Half populated: its holes must stay holes. */
static void add_shared(const char *name, enum kind kind, int fd, uint64_t *seeds)
{
	int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
	void *start = map(NULL, AREA_PAGES * PAGE_BYTES, flags, fd, 0);
	struct area *area = add_area(name, kind, start, AREA_PAGES);

	area->fd = fd;
	area->seeds = seeds;
	for (size_t slot = 0; slot < AREA_PAGES; slot += 2)
		write_pages(area, (struct range){slot, 1});
}

static void add_heap(void)
{
	uintptr_t end = (uintptr_t)sbrk(0);
	unsigned char *start = (unsigned char *)((end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));

	if (brk(start + AREA_PAGES / 2 * PAGE_BYTES) < 0)
		die("brk");
	write_pages(add_area("heap", HEAP, start, AREA_PAGES / 2), (struct range){0, AREA_PAGES / 2});
}

static int new_memfd(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, AREA_PAGES * PAGE_BYTES) < 0)
		die("memfd_create");
	return fd;
}

static void set_up(const char *path)
{
	pthread_mutexattr_t shared;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		die(path);
	board = map(NULL, sizeof(*board), MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_init(&shared);
	pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&board->lock, &shared);
	add_anonymous("one");
	add_anonymous("two");
	add_anonymous("three");
	add_huge();
	add_heap();
	add_private_file("private file", fd, 40000);
	add_private_file("private memfd", new_memfd("private"), 50000);
	add_shared("shared", SHARED, -1, board->seeds[0]);
	add_shared("shared memfd", SHARED_FD, new_memfd("shared"), board->seeds[1]);
	for (size_t i = 0; i < MAX_STAYING; i++) {
		sem_init(&staying[i].begun, 0, 0);
		sem_init(&staying[i].leave, 0, 0);
		staying[i].area = add_area("stack", FRAME, NULL, 0);
	}
	sem_init(&churner_wakes, 0, 0);
	sem_init(&churner_rests, 0, 0);
	errno = pthread_create(&churner, NULL, churn, NULL);
	if (errno != 0)
		die("pthread_create");
}

static const struct operation *operation_called(const char *name)
{
	for (size_t i = 0; i < N_OPERATIONS; i++)
		if (!strcmp(operations[i].name, name))
			return &operations[i];
	return NULL;
}

static void answer_check(bool clean)
{
	if (clean)
		answer("ok done=%lu", board->n_done);
	else
		answer("bad %s", board->wrong);
}

static void obey(const char *line, char **argv)
{
	char name[32] = "";
	unsigned long rate;
	uint64_t seed;

	if (sscanf(line, "do %31s %lu", name, &seed) == 2 && operation_called(name)) {
		random_state = seed; /* with the churner at work, the two take turns with it */
		do_one(operation_called(name));
		answer("ok");
	} else if (sscanf(line, "start %lu %lu %31s", &rate, &seed, name) >= 2 && rate > 0) {
		start_churner(rate, seed, !strcmp(name, "alone"));
		answer("ok");
	} else if (!strcmp(line, "stop")) {
		stop_churner();
		answer("ok");
	} else if (!strcmp(line, "end")) {
		end_children();
		answer_check(!*board->wrong);
	} else if (!strcmp(line, "exec")) {
		stop_churner();
		end_children();
		if (*board->wrong) {
			answer_check(false);
			return;
		}
		execl("/proc/self/exe", argv[0], argv[1], "again", NULL);
		die("exec");
	} else if (!strcmp(line, "check")) {
		answer_check(check());
	} else {
		answer("bad unknown command '%s'", line);
	}
}

int main(int argc, char **argv)
{
	char line[128];

	if (argc < 2) {
		fprintf(stderr, "usage: churn PRIVATE_FILE\n");
		return 2;
	}
	mallopt(M_MMAP_THRESHOLD, 1); /* the heap is left to the operations */
	mallopt(M_ARENA_MAX, 1);
	die_with_parent();
	set_up(argv[1]);
	answer("%s", argc > 2 ? "ok" : "ready");
	while (next_command(line, sizeof(line))) {
		if (!strcmp(line, "quit")) {
			stop_churner();
			end_children();
			bool clean = check();

			answer_check(clean);
			return clean ? 0 : 1;
		}
		obey(line, argv);
	}
	return 1;
}
