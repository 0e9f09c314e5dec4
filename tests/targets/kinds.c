/* One kind of memory, each page of known content, changed in every way that suits the kind.
 *
 * kinds KIND [FILE]
 * FILE is where the kinds that map a file make it. `kinds` alone lists the kinds.
 *
 * Commands (one line each, answered by one line):
 *   change SEED  CHANGES random pages change
 *   start        a thread that changes pages, until `stop`
 *   check        the self-check: every page against the content it must have
 *   quit         check, then exit: 0 when clean, else 1
 *
 * A page's `seed` is that of the content it must have, so the self-check is one loop over all pages.
 */
#include "target.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MIB (1024UL * 1024)
#define HUGE_BYTES (2 * MIB)
#define HUGE_PAGES (HUGE_BYTES / PAGE_BYTES)
#define SMALL_BYTES MIB
#define FILE_PAGES 256 /* of which the last one is partial */
#define FILE_TAIL_BYTES 1000
#define CHANGES 100
#define N_ALIKE 4
#define RARELY 8 /* one in so many, of what changes all pages at once */
#define MAX_PAGES 8192
#define MAX_GROWTH 1024 /* pages */
#define STACK_ROOM_BYTES (512 * 1024) /* for the calls of the main thread, below which its stack grows */
#define GROWSDOWN_TOP (16UL << 40) /* far from everything that is mapped without an address */
#define RESERVED_BYTES (16UL << 40)
#define RESERVED_PAGES 2048
#define MANY_VMAS 30000
#define MANY_VMAS_PAGES 1000
#define N_GUARDS 32
#define N_THREADS 500
#define THREAD_STACK_BYTES (128 * 1024)
#define THREAD_REST_NS (200 * NS_PER_MS)
#define WRITER_REST_NS NS_PER_MS
#define RING_ENTRIES 8
#define MAX_WAYS 5
#define READ_WRITE (PROT_READ | PROT_WRITE)

/* What the C library or the kernel headers may lack. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* since 6.13 */
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef __NR_memfd_secret
#define __NR_memfd_secret 447
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_ASYNC (1 << 15) /* of userfaultfd, since 6.7 */
#define PAGEMAP_WORD_BYTES 8
#define PAGEMAP_WP (1ULL << 57)

struct page {
	unsigned char *address;
	uint64_t seed;
	uint64_t file_seed; /* what the page of the file below a private one has; 0 where there is no file */
	bool is_own; /* of a private mapping: no longer the file's */
	bool is_guard;
	bool is_written; /* since the target itself began to track it */
};

struct kind {
	const char *name;
	void (*make)(const char *path);
	/* Each makes one change; false if the page cannot be changed so. */
	bool (*ways[MAX_WAYS])(struct page *page);
	int perms;
	bool is_swapped; /* all of it is written out, after each command as well */
};

static const struct kind *kind;
static struct page pages[MAX_PAGES];
static size_t n_pages;
static unsigned char *start;
static size_t length_bytes;
static int fd = -1; /* of what is mapped */
static bool is_private;
static int own_pagemap_fd = -1; /* where the target tracks writes itself */
static int drop_advice = MADV_DONTNEED;
static size_t drop_pages = 1; /* fewer cannot be dropped */
static struct page *guards[N_GUARDS]; /* the oldest is at guards[next_guard] */
static size_t next_guard;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held for each single change */
static pthread_cond_t all_run = PTHREAD_COND_INITIALIZER;
static size_t n_running;
static uint64_t random_state = 1;

static uint64_t draw(void)
{
	return next_random(&random_state);
}

static void rest(uint64_t ns)
{
	struct timespec pause = timespec_of_ns(ns);

	nanosleep(&pause, NULL);
}

static struct page *add_page(unsigned char *address)
{
	if (n_pages == MAX_PAGES) {
		errno = ENOSPC;
		die("pages");
	}
	pages[n_pages].address = address;
	return &pages[n_pages++];
}

static void advise(void *address, size_t bytes, int advice)
{
	if (madvise(address, bytes, advice) < 0)
		die("madvise");
}

static void protect(void *address, size_t bytes, int perms)
{
	if (mprotect(address, bytes, perms) < 0)
		die("mprotect");
}

static void set_content(struct page *page, uint64_t seed)
{
	fill_page(page->address, seed);
	page->seed = seed;
	page->is_own = true;
	page->is_written = true;
}

/* ---- ways of change ---- */

static bool write_page(struct page *page)
{
	if (kind->perms != READ_WRITE)
		protect(page->address, PAGE_BYTES, READ_WRITE);
	set_content(page, draw());
	if (kind->perms != READ_WRITE)
		protect(page->address, PAGE_BYTES, kind->perms);
	return true;
}

/* With a content that many pages have. */
static bool write_alike(struct page *page)
{
	set_content(page, 1 + draw() % N_ALIKE);
	return true;
}

static bool zero_page(struct page *page)
{
	set_content(page, 0);
	return true;
}

/* What was private is the file's again, or zeros. */
static bool drop(struct page *page)
{
	struct page *first = page - (size_t)(page - pages) % drop_pages;

	advise(first->address, drop_pages * PAGE_BYTES, drop_advice);
	for (size_t i = 0; i < drop_pages; i++) {
		first[i].seed = first[i].file_seed;
		first[i].is_own = false;
	}
	return true;
}

/* All of a huge page, or one small page of it. */
static bool drop_huge_or_part(struct page *page)
{
	bool done;

	drop_pages = draw() % 4 == 0 ? HUGE_PAGES : 1;
	done = drop(page);
	drop_pages = 1;
	return done;
}

/* It leaves the page tables, but it is still there. */
static bool forget(struct page *page)
{
	advise(page->address, PAGE_BYTES, MADV_DONTNEED);
	return true;
}

/* A hole in the file or shared memory itself. */
static bool punch(struct page *page)
{
	struct page *first = page - (size_t)(page - pages) % drop_pages;

	advise(first->address, drop_pages * PAGE_BYTES, MADV_REMOVE);
	for (size_t i = 0; i < drop_pages; i++)
		first[i].seed = 0;
	return true;
}

/* As another process would: the page changes with no write through this mapping. */
static bool write_file(struct page *page)
{
	unsigned char content[PAGE_BYTES];

	page->file_seed = draw();
	fill_page(content, page->file_seed);
	if (pwrite(fd, content, PAGE_BYTES, page->address - start) != (ssize_t)PAGE_BYTES)
		die("pwrite");
	if (!is_private || !page->is_own)
		page->seed = page->file_seed;
	return true;
}

/* The kernel may take it while it is free, or not; either way it is written anew. */
static bool free_and_write(struct page *page)
{
	advise(page->address, PAGE_BYTES, MADV_FREE);
	return write_page(page);
}

static bool map_again(struct page *page)
{
	if (munmap(page->address, PAGE_BYTES) < 0 ||
	    mmap(page->address, PAGE_BYTES, READ_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != page->address)
		die("mmap again");
	page->seed = 0;
	return true;
}

static bool move_all(struct page *unused)
{
	void *place;

	(void)unused;
	if (draw() % RARELY != 0)
		return false;
	place = mmap(NULL, length_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mremap(start, length_bytes, length_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED)
		die("mremap");
	start = place;
	for (size_t i = 0; i < n_pages; i++)
		pages[i].address = start + i * PAGE_BYTES;
	return true;
}

/* All pages are write-protected for the child, and copied when they are written again. */
static bool fork_once(struct page *page)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		die("fork");
	return write_page(page);
}

static void page_all_out(void)
{
	if (kind->is_swapped)
		advise(start, length_bytes, MADV_PAGEOUT);
}

static bool page_out(struct page *unused)
{
	(void)unused;
	if (draw() % RARELY != 0)
		return false;
	page_all_out();
	return true;
}

static bool move_guard(struct page *page)
{
	struct page *oldest = guards[next_guard];

	if (oldest != NULL) {
		advise(oldest->address, PAGE_BYTES, MADV_GUARD_REMOVE);
		oldest->is_guard = false;
	}
	advise(page->address, PAGE_BYTES, MADV_GUARD_INSTALL);
	page->is_guard = true;
	page->seed = 0;
	guards[next_guard] = page;
	next_guard = (next_guard + 1) % N_GUARDS;
	return true;
}

static bool grow_up(struct page *unused)
{
	unsigned char *end;

	(void)unused;
	if (n_pages == MAX_GROWTH)
		return false;
	end = sbrk(PAGE_BYTES);
	if (end == (void *)-1)
		die("sbrk");
	set_content(add_page(end), draw());
	return true;
}

static bool grow_down(struct page *unused)
{
	(void)unused;
	if (n_pages == MAX_GROWTH)
		return false;
	start -= PAGE_BYTES;
	set_content(add_page(start), draw());
	return true;
}

static bool change_one(void)
{
	size_t n_ways = 0;
	struct page *page = &pages[draw() % n_pages];

	while (n_ways < MAX_WAYS && kind->ways[n_ways] != NULL)
		n_ways++;
	return !page->is_guard && kind->ways[draw() % n_ways](page);
}

static void change_pages(size_t n_changes)
{
	pthread_mutex_lock(&lock);
	while (n_changes > 0)
		n_changes -= change_one();
	pthread_mutex_unlock(&lock);
}

static void *change_on_and_on(void *unused)
{
	for (;;) {
		change_pages(1);
		rest(WRITER_REST_NS);
	}
	return unused;
}

static void start_thread(void *(*run)(void *), size_t stack_bytes)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, stack_bytes);
	errno = pthread_create(&thread, &attributes, run, NULL);
	if (errno != 0)
		die("pthread_create");
	pthread_attr_destroy(&attributes);
}

/* ---- making memory ---- */

static void take(void *address, size_t bytes)
{
	if (address == MAP_FAILED)
		die("mmap");
	start = address;
	length_bytes = bytes;
}

static void map(size_t bytes, int flags)
{
	is_private = flags & MAP_PRIVATE;
	take(mmap(NULL, bytes, READ_WRITE, flags, fd, 0), bytes);
}

static void add_pages(size_t n, size_t stride_bytes)
{
	for (size_t i = 0; i < n; i++)
		add_page(start + i * stride_bytes);
}

/* One page in three stays a hole, or what it was. */
static void write_pages(void)
{
	for (size_t i = 0; i < n_pages; i++)
		if (i % 3 != 2)
			set_content(&pages[i], draw());
}

static void make_mapping(size_t bytes, int flags)
{
	map(bytes, flags);
	add_pages(bytes / PAGE_BYTES, PAGE_BYTES);
	write_pages();
}

static void make_anonymous(const char *unused)
{
	(void)unused;
	make_mapping(SMALL_BYTES, MAP_PRIVATE | MAP_ANONYMOUS);
}

static void make_shared_anonymous(const char *unused)
{
	(void)unused;
	make_mapping(SMALL_BYTES, MAP_SHARED | MAP_ANONYMOUS);
}

static void make_heap(const char *unused)
{
	unsigned char *end = sbrk(0);

	(void)unused;
	if (sbrk((intptr_t)(-(uintptr_t)end & (PAGE_BYTES - 1))) == (void *)-1)
		die("sbrk");
	for (size_t i = 0; i < 100; i++)
		grow_up(NULL);
}

static void make_stack(const char *unused)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	(void)unused;
	start = (unsigned char *)((here - STACK_ROOM_BYTES) & ~(PAGE_BYTES - 1));
	for (size_t i = 0; i < 100; i++)
		grow_down(NULL);
}

static void make_growsdown(const char *unused)
{
	const size_t bytes = 16 * PAGE_BYTES;

	(void)unused;
	take(mmap((void *)(GROWSDOWN_TOP - bytes), bytes, READ_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0),
	     bytes);
	add_pages(16, PAGE_BYTES);
	write_pages();
}

static void make_locked(const char *unused)
{
	make_anonymous(unused);
	drop_advice = MADV_DONTNEED_LOCKED;
	if (mlock(start, length_bytes) < 0)
		die("mlock");
}

static void make_transparent_huge(const char *unused)
{
	const size_t bytes = 4 * HUGE_BYTES;
	unsigned char *raw;

	(void)unused;
	map(bytes + HUGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS);
	raw = start;
	take(raw + (-(uintptr_t)raw & (HUGE_BYTES - 1)), bytes);
	advise(start, bytes, MADV_HUGEPAGE);
	add_pages(bytes / PAGE_BYTES, PAGE_BYTES);
	write_pages();
}

static void make_hugetlb(const char *unused)
{
	(void)unused;
	drop_pages = HUGE_PAGES;
	make_mapping(3 * HUGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
}

static void make_shared_hugetlb(const char *unused)
{
	(void)unused;
	drop_pages = HUGE_PAGES;
	make_mapping(3 * HUGE_BYTES, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB);
}

static void make_protected(const char *unused)
{
	make_anonymous(unused);
	protect(start, length_bytes, kind->perms);
}

static void make_sealed(const char *unused)
{
	make_anonymous(unused);
	if (syscall(__NR_mseal, start, length_bytes, 0) < 0)
		die("mseal");
}

static void make_guarded(const char *unused)
{
	make_anonymous(unused);
	for (size_t i = 0; i < N_GUARDS; i++)
		move_guard(&pages[8 * i]);
}

static void make_wiped_on_fork(const char *unused)
{
	make_anonymous(unused);
	advise(start, length_bytes, MADV_WIPEONFORK);
}

static void make_mergeable(const char *unused)
{
	make_anonymous(unused);
	for (size_t i = 0; i < n_pages; i++)
		write_alike(&pages[i]);
	advise(start, length_bytes, MADV_MERGEABLE);
}

/* The file's pages have content, the last one is partial; one page more is mapped, but neither is touched. */
static void make_file(const char *path, int flags)
{
	unsigned char content[PAGE_BYTES];

	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (FILE_PAGES - 1) * (off_t)PAGE_BYTES + FILE_TAIL_BYTES) < 0)
		die(path);
	for (size_t i = 0; i < FILE_PAGES - 1; i++) {
		pages[i].seed = pages[i].file_seed = draw();
		fill_page(content, pages[i].seed);
		if (pwrite(fd, content, PAGE_BYTES, (off_t)(i * PAGE_BYTES)) != (ssize_t)PAGE_BYTES)
			die(path);
	}
	map((FILE_PAGES + 1) * PAGE_BYTES, flags);
	add_pages(FILE_PAGES - 1, PAGE_BYTES);
	for (size_t i = 0; i < n_pages; i += 3)
		set_content(&pages[i], draw());
}

static void make_private_file(const char *path)
{
	make_file(path, MAP_PRIVATE);
}

static void make_shared_file(const char *path)
{
	make_file(path, MAP_SHARED);
}

static void delete_file(const char *path)
{
	if (unlink(path) < 0)
		die(path);
}

static void make_private_deleted_file(const char *path)
{
	make_file(path, MAP_PRIVATE);
	delete_file(path);
}

static void make_shared_deleted_file(const char *path)
{
	make_file(path, MAP_SHARED);
	delete_file(path);
}

static void make_memfd(int flags)
{
	fd = memfd_create("predump-kinds", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, SMALL_BYTES) < 0)
		die("memfd_create");
	make_mapping(SMALL_BYTES, flags);
}

static void make_private_memfd(const char *unused)
{
	(void)unused;
	make_memfd(MAP_PRIVATE);
}

static void make_shared_memfd(const char *unused)
{
	(void)unused;
	make_memfd(MAP_SHARED);
}

/* The kernel lets nobody else read it: a checkpoint has to say so. */
static void make_secret(const char *unused)
{
	(void)unused;
	fd = (int)syscall(__NR_memfd_secret, O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, SMALL_BYTES) < 0)
		die("memfd_secret");
	make_mapping(SMALL_BYTES, MAP_SHARED);
}

/* It goes with its last user: it must not stay when the target is killed. */
static void make_sysv(const char *unused)
{
	int id = shmget(IPC_PRIVATE, SMALL_BYTES, IPC_CREAT | 0600);

	(void)unused;
	if (id < 0)
		die("shmget");
	take(shmat(id, NULL, 0), SMALL_BYTES);
	if (shmctl(id, IPC_RMID, NULL) < 0)
		die("shmctl");
	add_pages(SMALL_BYTES / PAGE_BYTES, PAGE_BYTES);
	write_pages();
}

static void make_aio(const char *unused)
{
	aio_context_t context = 0;

	if (syscall(__NR_io_setup, RING_ENTRIES, &context) < 0)
		die("io_setup");
	make_anonymous(unused);
}

static void make_uring(const char *unused)
{
	struct io_uring_params params = {0};
	int ring_fd = (int)syscall(__NR_io_uring_setup, RING_ENTRIES, &params);

	if (ring_fd < 0)
		die("io_uring_setup");
	if (mmap(NULL, PAGE_BYTES, READ_WRITE, MAP_SHARED, ring_fd, IORING_OFF_SQ_RING) == MAP_FAILED ||
	    mmap(NULL, PAGE_BYTES, READ_WRITE, MAP_SHARED, ring_fd, IORING_OFF_SQES) == MAP_FAILED)
		die("mmap of a ring");
	make_anonymous(unused);
}

/* A program that tracks its own writes as predump would. Written pages lose their protection. */
static void make_own_tracking(const char *unused)
{
	int uffd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
	struct uffdio_register area = {.mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protection = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};

	make_anonymous(unused);
	area.range.start = protection.range.start = (uintptr_t)start;
	area.range.len = protection.range.len = length_bytes;
	own_pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (uffd < 0 || own_pagemap_fd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(uffd, UFFDIO_REGISTER, &area) < 0 || ioctl(uffd, UFFDIO_WRITEPROTECT, &protection) < 0)
		die("userfaultfd");
	for (size_t i = 0; i < n_pages; i++)
		pages[i].is_written = false;
}

static void make_reservation(const char *unused)
{
	(void)unused;
	map(RESERVED_BYTES, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	add_pages(RESERVED_PAGES, RESERVED_BYTES / RESERVED_PAGES);
	for (size_t i = 0; i < n_pages; i++)
		set_content(&pages[i], draw());
}

/* Every other page cannot be written, so that each is a mapping of its own. */
static void make_many_vmas(const char *unused)
{
	(void)unused;
	map(MANY_VMAS * PAGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS);
	for (size_t i = 1; i < MANY_VMAS; i += 2)
		protect(start + i * PAGE_BYTES, PAGE_BYTES, PROT_READ);
	add_pages(MANY_VMAS_PAGES, MANY_VMAS / MANY_VMAS_PAGES * PAGE_BYTES);
	for (size_t i = 0; i < n_pages; i++)
		set_content(&pages[i], draw());
}

static void *write_own_stack(void *unused)
{
	_Alignas(PAGE_BYTES) unsigned char own[PAGE_BYTES];
	struct page *page;

	pthread_mutex_lock(&lock);
	page = add_page(own);
	if (++n_running == N_THREADS)
		pthread_cond_signal(&all_run);
	for (;;) {
		set_content(page, draw());
		pthread_mutex_unlock(&lock);
		rest(THREAD_REST_NS);
		pthread_mutex_lock(&lock);
	}
	return unused;
}

static void make_threads(const char *unused)
{
	(void)unused;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < N_THREADS; i++)
		start_thread(write_own_stack, THREAD_STACK_BYTES);
	while (n_running < N_THREADS)
		pthread_cond_wait(&all_run, &lock);
	pthread_mutex_unlock(&lock);
}

static const struct kind kinds[] = {
	{"private-anonymous", make_anonymous, {write_page, zero_page, drop, free_and_write, map_again}, READ_WRITE, false},
	{"moved", make_anonymous, {write_page, drop, move_all}, READ_WRITE, false},
	{"copied-on-fork", make_anonymous, {write_page, drop, fork_once}, READ_WRITE, false},
	{"shared-anonymous", make_shared_anonymous, {write_page, zero_page, forget, punch}, READ_WRITE, false},
	{"heap", make_heap, {write_page, drop, grow_up}, READ_WRITE, false},
	{"stack", make_stack, {write_page, grow_down}, READ_WRITE, false},
	{"growsdown", make_growsdown, {write_page, drop, grow_down}, READ_WRITE, false},
	{"locked", make_locked, {write_page, zero_page, drop}, READ_WRITE, false},
	{"transparent-huge", make_transparent_huge, {write_page, write_page, drop_huge_or_part}, READ_WRITE, false},
	{"private-hugetlb", make_hugetlb, {write_page, zero_page, drop}, READ_WRITE, false},
	{"shared-hugetlb", make_shared_hugetlb, {write_page, zero_page, punch}, READ_WRITE, false},
	{"no-access", make_protected, {write_page, drop}, PROT_NONE, false},
	{"read-only", make_protected, {write_page, drop}, PROT_READ, false},
	{"write-only", make_protected, {write_page, drop}, PROT_WRITE, false},
	{"execute-only", make_protected, {write_page, drop}, PROT_EXEC, false},
	{"sealed", make_sealed, {write_page, zero_page, drop}, READ_WRITE, false},
	{"guarded", make_guarded, {write_page, drop, move_guard}, READ_WRITE, false},
	{"mergeable", make_mergeable, {write_page, write_alike, write_alike, drop}, READ_WRITE, false},
	{"wiped-on-fork", make_wiped_on_fork, {write_page, drop, fork_once}, READ_WRITE, false},
	{"private-file", make_private_file, {write_page, zero_page, drop, write_file}, READ_WRITE, false},
	{"shared-file", make_shared_file, {write_page, zero_page, forget, punch, write_file}, READ_WRITE, false},
	{"private-deleted-file", make_private_deleted_file, {write_page, zero_page, drop, write_file}, READ_WRITE, false},
	{"shared-deleted-file", make_shared_deleted_file, {write_page, zero_page, forget, punch, write_file}, READ_WRITE, false},
	{"private-memfd", make_private_memfd, {write_page, zero_page, drop, write_file}, READ_WRITE, false},
	{"shared-memfd", make_shared_memfd, {write_page, zero_page, forget, punch, write_file}, READ_WRITE, false},
	{"secret", make_secret, {write_page, zero_page}, READ_WRITE, false},
	{"sysv", make_sysv, {write_page, zero_page, forget, punch}, READ_WRITE, false},
	{"aio", make_aio, {write_page, zero_page, drop}, READ_WRITE, false},
	{"uring", make_uring, {write_page, zero_page, drop}, READ_WRITE, false},
	{"swapped-anonymous", make_anonymous, {write_page, zero_page, drop, page_out}, READ_WRITE, true},
	{"swapped-private-file", make_private_file, {write_page, zero_page, drop, page_out}, READ_WRITE, true},
	{"swapped-shared", make_shared_anonymous, {write_page, zero_page, punch, page_out}, READ_WRITE, true},
	{"own-tracking", make_own_tracking, {write_page, zero_page}, READ_WRITE, false},
	{"reservation", make_reservation, {write_page, zero_page, drop}, READ_WRITE, false},
	{"many-vmas", make_many_vmas, {write_page, zero_page, drop}, READ_WRITE, false},
	{"threads", make_threads, {write_page}, READ_WRITE, false},
};

/* ---- the self-check ---- */

/* Whether the target's own tracking says of the page what happened to it. */
static bool is_tracked_right(const struct page *page)
{
	off_t offset = (off_t)((uintptr_t)page->address / PAGE_BYTES * PAGEMAP_WORD_BYTES);
	uint64_t word;

	if (own_pagemap_fd < 0)
		return true;
	if (pread(own_pagemap_fd, &word, sizeof(word), offset) != sizeof(word))
		die("pagemap");
	return page->is_written == !(word & PAGEMAP_WP);
}

static bool check(void)
{
	bool clean = true;

	pthread_mutex_lock(&lock);
	if (kind->perms != READ_WRITE)
		protect(start, length_bytes, PROT_READ);
	for (size_t i = 0; clean && i < n_pages; i++) {
		long offset = pages[i].is_guard ? -1 : wrong_offset(pages[i].address, pages[i].seed);

		if (!is_tracked_right(&pages[i])) {
			answer("bad page %zu is tracked as %s", i, pages[i].is_written ? "clean" : "written");
			clean = false;
		} else if (offset >= 0) {
			answer("bad page %zu differs at %p", i, (void *)(pages[i].address + offset));
			clean = false;
		}
	}
	if (kind->perms != READ_WRITE)
		protect(start, length_bytes, kind->perms);
	if (clean)
		answer("ok pages=%zu", n_pages);
	pthread_mutex_unlock(&lock);
	return clean;
}

static int serve(void)
{
	char line[100];

	while (next_command(line, sizeof(line))) {
		unsigned long seed;

		if (sscanf(line, "change %lu", &seed) == 1) {
			random_state = seed;
			change_pages(CHANGES);
			page_all_out();
			answer("ok");
		} else if (strcmp(line, "start") == 0) {
			start_thread(change_on_and_on, THREAD_STACK_BYTES);
			answer("ok");
		} else if (strcmp(line, "check") == 0)
			check();
		else if (strcmp(line, "quit") == 0)
			return check() ? 0 : 1;
		else
			answer("bad command '%s'", line);
	}
	return 0;
}

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (argc == 1)
			printf("%s\n", kinds[i].name);
		else if (strcmp(kinds[i].name, argv[1]) == 0)
			kind = &kinds[i];
	if (kind == NULL || argc > 3) {
		fprintf(stderr, "usage: kinds KIND [FILE]\n");
		return 2;
	}
	die_with_parent();
	kind->make(argc == 3 ? argv[2] : NULL);
	page_all_out();
	answer("ready pid=%d", getpid());
	return serve();
}
