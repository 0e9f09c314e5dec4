/* Memory that is to come back exactly; see alive.h. */
#include "alive.h"

#include <ctype.h>
#include <elf.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/uio.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* since 6.13 */
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* since 6.11 */
#endif

#define PAGES 32
#define BYTES (PAGES * PAGE_BYTES)
#define FILE_TAIL_BYTES 1000
#define READ_WRITE (PROT_READ | PROT_WRITE)
#define GROWING_TOP (15UL << 40) /* far from everything that is mapped without an address */

static unsigned char *map(int protection, int flags, int fd)
{
	void *at = mmap(NULL, BYTES, protection, flags, fd, 0);

	must(at != MAP_FAILED, "mmap");
	return at;
}

/* Of four pages one is written, one is zeros that were written, one was read only, one was never touched. */
static void fill(unsigned char *at, uint64_t seed)
{
	for (size_t page = 0; page < PAGES; page += 4) {
		fill_page(at + page * PAGE_BYTES, seed + page);
		memset(at + (page + 1) * PAGE_BYTES, 0, PAGE_BYTES);
		must(*(volatile unsigned char *)(at + (page + 2) * PAGE_BYTES) == 0, "a fresh page has content");
	}
}

static void compare_page(const char *what, const void *page, uint64_t seed)
{
	long offset = wrong_offset(page, seed);

	if (offset >= 0)
		wrong("%s differs at %p", what, (const char *)page + offset);
}

/* By reading /proc/self/mem, which no protection keeps from it. */
static void compare(const unsigned char *at, uint64_t seed)
{
	static unsigned char page[PAGE_BYTES];
	int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < PAGES; i++) {
		const unsigned char *here = at + i * PAGE_BYTES;
		ssize_t got = pread(fd, page, PAGE_BYTES, (off_t)(uintptr_t)here);

		if (got != (ssize_t)PAGE_BYTES)
			wrong("page %p cannot be read: %s", (const void *)here, strerror(errno));
		else if (wrong_offset(page, i % 4 == 0 ? seed + i : 0) >= 0)
			wrong("page %p differs at %ld", (const void *)here, wrong_offset(page, i % 4 == 0 ? seed + i : 0));
	}
	close(fd);
}

static void flip_bit(const unsigned char *at)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	unsigned char byte;

	must(pread(fd, &byte, 1, (off_t)(uintptr_t)at) == 1, "pread");
	byte ^= 0x10;
	must(pwrite(fd, &byte, 1, (off_t)(uintptr_t)at) == 1, "pwrite");
	close(fd);
}

/* ---- private memory of each protection ---- */

static unsigned char *writable, *readable, *closed, *code;

static void set_up_private(void)
{
	writable = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	readable = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	closed = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill(writable, 100);
	fill(readable, 200);
	fill(closed, 300);
	must(mprotect(readable, BYTES, PROT_READ) == 0 && mprotect(closed, BYTES, PROT_NONE) == 0, "mprotect");
}

static void check_private(void)
{
	compare(writable, 100);
	compare(readable, 200);
	compare(closed, 300);
}

static void spoil_private(void)
{
	flip_bit(closed + 5 * PAGE_BYTES + 77);
}

static void set_up_code(void)
{
	static const unsigned char returns_42[] = {0xb8, 42, 0, 0, 0, 0xc3};

	code = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(code, returns_42, sizeof(returns_42));
	must(mprotect(code, BYTES, PROT_READ | PROT_EXEC) == 0, "mprotect");
}

static int run_code(void)
{
	return ((int (*)(void))(uintptr_t)code)();
}

static void check_code(void)
{
	int result = in_child(run_code);

	if (result != 42)
		wrong("returned %d", result);
}

static void spoil_code(void)
{
	flip_bit(code + 1);
}

/* ---- memory of files ---- */

static int open_new(const char *name)
{
	static unsigned char page[PAGE_BYTES];
	int fd = open(path_of("%s", name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0, name);
	for (size_t i = 0; i + 1 < PAGES; i++) {
		fill_page(page, 5000 + i);
		must(write(fd, page, PAGE_BYTES) == (ssize_t)PAGE_BYTES, "write");
	}
	must(write(fd, page, FILE_TAIL_BYTES) == FILE_TAIL_BYTES, "write");
	return fd;
}

/* What one writes to the file at this page is in memory at `at`, or is not. */
static void check_seen(const char *what, int fd, size_t page, const unsigned char *at, bool is_seen)
{
	static uint64_t turn;
	uint64_t value = ~++turn, before;
	off_t offset = (off_t)(page * PAGE_BYTES + 8);

	must(pread(fd, &before, sizeof(before), offset) == sizeof(before), "pread");
	must(pwrite(fd, &value, sizeof(value), offset) == sizeof(value), "pwrite");
	if ((memcmp(at + page * PAGE_BYTES + 8, &value, sizeof(value)) == 0) != is_seen)
		wrong("%s: a write to the file is%s seen in page %zu", what, is_seen ? " not" : "", page);
	must(pwrite(fd, &before, sizeof(before), offset) == sizeof(before), "pwrite");
}

static int private_fd, shared_fd, deleted_fd;
static unsigned char *of_private, *of_shared, *of_deleted, *copied_deleted;

static void set_up_private_file(void)
{
	private_fd = open_new("private-file");
	of_private = map(READ_WRITE, MAP_PRIVATE, private_fd);
	fill_page(of_private + 3 * PAGE_BYTES, 700);
	of_private[(PAGES - 1) * PAGE_BYTES + FILE_TAIL_BYTES + 5] = 99; /* behind the end of the file */
}

static void check_private_file(void)
{
	compare_page("the written page", of_private + 3 * PAGE_BYTES, 700);
	for (size_t i = 0; i + 1 < PAGES; i++)
		if (i != 3)
			compare_page("a page of the file", of_private + i * PAGE_BYTES, 5000 + i);
	compare_number("the byte behind the end", 99, of_private[(PAGES - 1) * PAGE_BYTES + FILE_TAIL_BYTES + 5]);
	check_seen("private", private_fd, 4, of_private, true);
	check_seen("private", private_fd, 3, of_private, false);
}

static void spoil_private_file(void)
{
	((volatile unsigned char *)of_private)[4 * PAGE_BYTES] ^= 0; /* it is no longer the file's */
}

static void set_up_shared_file(void)
{
	shared_fd = open_new("shared-file");
	of_shared = map(READ_WRITE, MAP_SHARED, shared_fd);
	fill_page(of_shared + 3 * PAGE_BYTES, 800);
}

static void check_shared_file(void)
{
	compare_page("the written page", of_shared + 3 * PAGE_BYTES, 800);
	compare_page("a page of the file", of_shared + 4 * PAGE_BYTES, 5004);
	check_seen("shared", shared_fd, 3, of_shared, true);
	check_seen("shared", shared_fd, 9, of_shared, true);
}

static void spoil_shared_file(void)
{
	of_shared[3 * PAGE_BYTES + 1] ^= 1;
}

static void set_up_deleted_file(void)
{
	deleted_fd = open_new("deleted-file");
	must(unlink(path_of("deleted-file")) == 0, "unlink");
	of_deleted = map(READ_WRITE, MAP_SHARED, deleted_fd);
	copied_deleted = map(READ_WRITE, MAP_PRIVATE, deleted_fd);
	fill_page(of_deleted + 3 * PAGE_BYTES, 900);
	fill_page(copied_deleted + 5 * PAGE_BYTES, 905);
}

static void check_deleted_file(void)
{
	struct stat status;

	must(fstat(deleted_fd, &status) == 0, "fstat");
	compare_number("links", 0, status.st_nlink);
	compare_number("mode", 0600, status.st_mode & 07777);
	compare_number("size", BYTES - PAGE_BYTES + FILE_TAIL_BYTES, (uint64_t)status.st_size);
	compare_page("the written page", of_deleted + 3 * PAGE_BYTES, 900);
	compare_page("a page of the file", of_deleted + 4 * PAGE_BYTES, 5004);
	compare_page("the page that was written privately", copied_deleted + 5 * PAGE_BYTES, 905);
	compare_page("a page seen privately", copied_deleted + 6 * PAGE_BYTES, 5006);
	check_seen("shared", deleted_fd, 3, of_deleted, true);
	check_seen("private", deleted_fd, 3, copied_deleted, true);
	check_seen("private", deleted_fd, 5, copied_deleted, false);
}

static void spoil_deleted_file(void)
{
	of_deleted[4 * PAGE_BYTES + 4000] ^= 4;
}

/* ---- shared memory ---- */

static int memfd;
static unsigned char *of_memfd, *of_memfd_too, *shared;

static void set_up_memfd(void)
{
	memfd = memfd_create("alive", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	must(memfd >= 0 && ftruncate(memfd, (off_t)BYTES) == 0, "memfd");
	of_memfd = map(READ_WRITE, MAP_SHARED, memfd);
	of_memfd_too = map(PROT_READ, MAP_SHARED, memfd);
	fill(of_memfd, 1000);
	must(fcntl(memfd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0, "F_ADD_SEALS");
}

static void check_memfd(void)
{
	char path[64], link[64] = "";

	compare(of_memfd, 1000);
	compare_number("seals", F_SEAL_GROW | F_SEAL_SHRINK, (uint64_t)fcntl(memfd, F_GET_SEALS));
	check_seen("memfd", memfd, 4, of_memfd, true);
	check_seen("memfd", memfd, 4, of_memfd_too, true);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	must(readlink(path, link, sizeof(link) - 1) > 0, "readlink");
	compare_text("its name", "/memfd:alive (deleted)", link);
}

static void spoil_memfd(void)
{
	must(fcntl(memfd, F_ADD_SEALS, F_SEAL_SEAL) == 0, "F_ADD_SEALS");
}

static void set_up_shared(void)
{
	shared = map(READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	fill(shared, 1100);
}

static int write_shared(void)
{
	shared[0] ^= 0xff;
	return 0;
}

static void check_shared(void)
{
	compare(shared, 1100);
	unsigned char before = shared[0];

	in_child(write_shared);
	compare_number("what a child wrote", before ^ 0xff, shared[0]);
	in_child(write_shared);
}

static void spoil_shared(void)
{
	shared[4 * PAGE_BYTES] ^= 1;
}

/* ---- memory with a behaviour of its own ---- */

static unsigned char *guarded, *growing;
static char *heap;
static uint64_t brk_addr;

static bool is_readable(const unsigned char *at)
{
	unsigned char byte;
	struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)at, 1};

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1;
}

static void set_up_guards(void)
{
	guarded = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill(guarded, 1200);
	must(madvise(guarded + 3 * PAGE_BYTES, 2 * PAGE_BYTES, MADV_GUARD_INSTALL) == 0, "MADV_GUARD_INSTALL");
}

static void check_guards(void)
{
	for (size_t i = 0; i < PAGES; i++)
		compare_number("whether a page can be read", i != 3 && i != 4, is_readable(guarded + i * PAGE_BYTES));
	compare_page("the page below", guarded, 1200);
	compare_page("the page above", guarded + 8 * PAGE_BYTES, 1208);
}

static void spoil_guards(void)
{
	must(madvise(guarded + 4 * PAGE_BYTES, PAGE_BYTES, MADV_GUARD_INSTALL + 1) == 0, "MADV_GUARD_REMOVE");
}

static void set_up_growing(void)
{
	void *at = mmap((void *)(GROWING_TOP - BYTES), BYTES, READ_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);

	must(at != MAP_FAILED, "mmap");
	growing = at;
	fill(growing, 1300);
}

static int grow(void)
{
	growing[-8] = 1;
	return growing[-8];
}

static void check_growing(void)
{
	compare(growing, 1300);
	compare_number("what is below it in a child", 1, (uint64_t)in_child(grow));
}

static void spoil_growing(void)
{
	must(mmap(growing, PAGE_BYTES, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == growing, "mmap");
	fill_page(growing, 1300);
}

static void set_up_heap(void)
{
	heap = sbrk((intptr_t)(2 * BYTES));
	must(heap != (void *)-1, "sbrk");
	heap = (char *)(((uintptr_t)heap + PAGE_BYTES - 1) & -PAGE_BYTES);
	fill((unsigned char *)heap, 1400);
	brk_addr = (uint64_t)syscall(SYS_brk, 0);
}

static int grow_heap(void)
{
	volatile char *more = sbrk((intptr_t)(5 * PAGE_BYTES));

	if (more == (void *)-1)
		return 2;
	more[5 * PAGE_BYTES - 1] = 1;
	return more[5 * PAGE_BYTES - 1];
}

static void check_heap(void)
{
	compare((unsigned char *)heap, 1400);
	compare_number("the end of the heap", brk_addr, (uint64_t)syscall(SYS_brk, 0));
	compare_number("a heap that grows in a child", 1, (uint64_t)in_child(grow_heap));
}

static void spoil_heap(void)
{
	must(syscall(SYS_brk, brk_addr + 1) == (long)brk_addr + 1, "brk");
}

static int dive(void)
{
	volatile char deep[2 << 20];

	for (size_t i = 0; i < sizeof(deep); i += PAGE_BYTES)
		deep[sizeof(deep) - 1 - i] = 1;
	return deep[PAGE_BYTES - 1];
}

static volatile uint64_t *on_stack;

static void set_up_stack(void)
{
	on_stack = __builtin_frame_address(0);
	on_stack = (uint64_t *)(((uintptr_t)on_stack & -16UL) - STACK_TOUCHED_BYTES / 2); /* nobody comes so low */
	*on_stack = 0x57ac4;
}

static void check_stack(void)
{
	compare_number("a word below the stack pointer", 0x57ac4, *on_stack);
	compare_number("a stack that grows in a child", 1, (uint64_t)in_child(dive));
}

static void spoil_stack(void)
{
	*on_stack ^= 1UL << 63;
}

/* ---- the kernel's own ---- */

static uint64_t vdso_addr, last_ns;

static void set_up_vdso(void)
{
	vdso_addr = getauxval(AT_SYSINFO_EHDR);
	last_ns = clock_ns(CLOCK_MONOTONIC);
}

static uint64_t time_by_call(clockid_t clock)
{
	struct timespec now;

	must(syscall(SYS_clock_gettime, clock, &now) == 0, "clock_gettime");
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void check_vdso(void)
{
	static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI};
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)vdso_addr;
	unsigned cpu, node;

	if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
		wrong("there is no ELF header at %#lx", vdso_addr);
	for (size_t i = 0; i < sizeof(clocks) / sizeof(clocks[0]); i++) {
		uint64_t before = time_by_call(clocks[i]), now = clock_ns(clocks[i]), after = time_by_call(clocks[i]);

		if (now < before || now > after)
			wrong("clock %d is %lu, and %lu to %lu by system call", clocks[i], now, before, after);
	}
	if (clock_ns(CLOCK_MONOTONIC) <= last_ns)
		wrong("monotonic time went back behind %lu", last_ns);
	last_ns = clock_ns(CLOCK_MONOTONIC);
	must(getcpu(&cpu, &node) == 0, "getcpu");
	if (cpu >= (unsigned)sysconf(_SC_NPROCESSORS_CONF))
		wrong("the vdso says CPU %u", cpu);
}

static void spoil_vdso(void)
{
	last_ns = UINT64_MAX;
}

static char files_before[4][8192], files_now[4][8192];
static size_t file_bytes[4];
static const char *const own_files[4] = {"/proc/self/auxv", "/proc/self/cmdline", "/proc/self/environ", "/proc/self/stat"};

/* Of stat(5) the boundaries of memory alone, which are addresses. */
static size_t read_own(int i, char *into)
{
	size_t used = read_whole(own_files[i], into, 8192);
	char stat[8192], *word, *rest;

	if (i < 3)
		return used;
	memcpy(stat, into, used + 1);
	into[0] = '\0';
	rest = strrchr(stat, ')') + 2;
	for (int number = 3; (word = strsep(&rest, " ")) != NULL; number++)
		if ((number >= 26 && number <= 28) || (number >= 45 && number <= 51))
			sprintf(into + strlen(into), "%d=%s ", number, word);
	return strlen(into);
}

static void set_up_layout(void)
{
	for (int i = 0; i < 4; i++)
		file_bytes[i] = read_own(i, files_before[i]);
	must(readlink("/proc/self/exe", files_before[0] + 4096, 4000) > 0, "readlink");
}

static void check_layout(void)
{
	char link[4000] = "";

	for (int i = 0; i < 4; i++)
		if (read_own(i, files_now[i]) != file_bytes[i] || memcmp(files_before[i], files_now[i], file_bytes[i]) != 0)
			wrong("%s differs: '%s' was '%s'", own_files[i], i == 3 ? files_now[i] : "", i == 3 ? files_before[i] : "");
	must(readlink("/proc/self/exe", link, sizeof(link) - 1) > 0, "readlink");
	compare_text("exe", files_before[0] + 4096, link);
}

static void spoil_layout(void)
{
	/* struct prctl_mm_map, of what there is now with one boundary another one */
	uint64_t at[11], brk = (uint64_t)syscall(SYS_brk, 0);
	struct {
		uint64_t boundaries[11];
		const void *auxv;
		uint32_t auxv_bytes, exe_fd;
	} layout;

	must(sscanf(files_before[3], "26=%lu 27=%lu 28=%lu 45=%lu 46=%lu 47=%lu 48=%lu 49=%lu 50=%lu 51=%lu", at, at + 1, at + 2,
		    at + 3, at + 4, at + 5, at + 6, at + 7, at + 8, at + 9) == 10,
	     "stat");
	uint64_t boundaries[11] = {at[0], at[1], at[3], at[4] - 8, at[5], brk, at[2], at[6], at[7], at[8], at[9]};

	memcpy(layout.boundaries, boundaries, sizeof(boundaries));
	layout.auxv = files_before[0];
	layout.auxv_bytes = (uint32_t)file_bytes[0];
	layout.exe_fd = UINT32_MAX;
	must(prctl(PR_SET_MM, 14, &layout, sizeof(layout), 0) == 0, "PR_SET_MM_MAP");
}

/* ---- every mapping, last ---- */

#define MAPS_BYTES (512UL << 10)

static char smaps[MAPS_BYTES], maps_before[MAPS_BYTES], maps_now[MAPS_BYTES];
static unsigned char *advised[16];
static const int advice[] = {
	MADV_SEQUENTIAL, MADV_RANDOM,	MADV_DONTFORK,	 MADV_DONTDUMP, MADV_WIPEONFORK,
	MADV_HUGEPAGE,	 MADV_NOHUGEPAGE, MADV_MERGEABLE,
};

static void map_with_flags(void)
{
	static const int flags[] = {MAP_NORESERVE, MAP_DROPPABLE, MAP_STACK, MAP_LOCKED};
	int n = 0;

	for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++) {
		advised[n] = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		advised[n++][0] = 1;
		madvise(advised[i], BYTES, advice[i]); /* not every kernel has all of it */
	}
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		int type = flags[i] == MAP_DROPPABLE ? 0 : MAP_PRIVATE;
		void *at = mmap(NULL, BYTES, READ_WRITE, type | MAP_ANONYMOUS | flags[i], -1, 0);

		if (at != MAP_FAILED)
			*(unsigned char *)at = 1;
	}
	unsigned char *later = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	mlock2(later, BYTES, MLOCK_ONFAULT);
	later = map(READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, later, BYTES, "alive: named");
	later[0] = 1;
	map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	map(PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1);
	map(READ_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	map(PROT_READ, MAP_SHARED, fd);
	close(fd);
}

struct mapping {
	uint64_t start, end, offset;
	char perms[8], name[300], flags[100];
};

/* Whether they could be one mapping: the kernel makes one of them, or does not, by what came first. */
static bool is_continued(const struct mapping *one, const struct mapping *next)
{
	bool is_file = one->name[0] == '/';

	return one->end == next->start && strcmp(one->perms, next->perms) == 0 && strcmp(one->name, next->name) == 0 &&
	       strcmp(one->flags, next->flags) == 0 && (!is_file || one->offset + (one->end - one->start) == next->offset);
}

static void tell_mapping(char *into, size_t *used, const struct mapping *one)
{
	if (one->end != 0)
		*used += (size_t)snprintf(into + *used, MAPS_BYTES - *used, "%lx-%lx %s %lx %s [%s]\n", one->start, one->end,
					  one->perms, one->name[0] == '/' ? one->offset : 0, one->name, one->flags);
}

/* Of the flags all but `sd` and `gu`, which are only ever a may-be, and what a tracker sets. */
static void take_flags(char *flags, const char *line)
{
	int used = 0;

	flags[0] = '\0';
	for (char word[4]; sscanf(line, " %3s%n", word, &used) == 1; line += used)
		if (strcmp(word, "sd") != 0 && strcmp(word, "gu") != 0 && strcmp(word, "uw") != 0)
			strcat(strcat(flags, word), " ");
}

static void tell_maps(char *into)
{
	struct mapping last = {.end = 0}, one = {.end = 0};
	size_t used = 0;
	char *rest = smaps, *line;

	read_whole("/proc/self/smaps", smaps, sizeof(smaps));
	while ((line = strsep(&rest, "\n")) != NULL) {
		int end = 0;

		if (!isupper(line[0]) && /* as what is told of a mapping */
		    sscanf(line, "%lx-%lx %7s %lx %*s %*u %n", &one.start, &one.end, one.perms, &one.offset, &end) == 4 && end) {
			bool is_deleted = strstr(line, " (deleted)") != NULL; /* what it is called then says nothing */

			snprintf(one.name, sizeof(one.name), "%s", is_deleted ? "/deleted" : line + end);
		} else if (strncmp(line, "VmFlags:", 8) == 0) {
			take_flags(one.flags, line + 8);
			if (is_continued(&last, &one)) {
				last.end = one.end;
				continue;
			}
			tell_mapping(into, &used, &last);
			last = one;
		}
	}
	tell_mapping(into, &used, &last);
}

static void set_up_maps(void)
{
	map_with_flags();
	tell_maps(maps_before);
}

static void check_maps(void)
{
	tell_maps(maps_now);
	compare_text("a mapping", maps_before, maps_now);
}

static void spoil_maps(void)
{
	must(madvise(advised[3], BYTES, MADV_DODUMP) == 0, "madvise");
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{"private", set_up_private, check_private, spoil_private},
		{"code", set_up_code, check_code, spoil_code},
		{"private-file", set_up_private_file, check_private_file, spoil_private_file},
		{"shared-file", set_up_shared_file, check_shared_file, spoil_shared_file},
		{"deleted-file", set_up_deleted_file, check_deleted_file, spoil_deleted_file},
		{"memfd", set_up_memfd, check_memfd, spoil_memfd},
		{"shared", set_up_shared, check_shared, spoil_shared},
		{"guards", set_up_guards, check_guards, spoil_guards},
		{"growing", set_up_growing, check_growing, spoil_growing},
		{"heap", set_up_heap, check_heap, spoil_heap},
		{"stack", set_up_stack, check_stack, spoil_stack},
		{"vdso", set_up_vdso, check_vdso, spoil_vdso},
		{"layout", set_up_layout, check_layout, spoil_layout},
		{"maps", set_up_maps, check_maps, spoil_maps},
		{NULL, NULL, NULL, NULL},
	};

	live(argc, argv, parts);
}
