/* Memory that is written without a page fault: by reads into pages that the kernel has pinned.
 *
 * hardware METHOD FILE
 *   pread       O_DIRECT pread of a thread
 *   aio         io_submit(2) of an O_DIRECT read
 *   uring       io_uring, an O_DIRECT read
 *   registered  io_uring, an O_DIRECT read into a registered buffer, which stays pinned
 *
 * Commands (one line each, answered by one line):
 *   write SEED  all pages get content from SEED on; the buffer that reads go to as well
 *   file SEED   the file gets content from SEED on
 *   start       a read of the whole file into the buffer begins; nobody waits for it
 *   wait        until it is done; the buffer now must have the content of the file
 *   close       the file, ring or context is given up; nothing can be in flight any more
 *   open        and had again
 *   check       the self-check: every page against the content it must have
 *   quit        check, then exit: 0 when clean, else 1
 */
#include "target.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define N_PAGES 1024UL /* of anonymous memory, of which the first ones are the buffer */
#define BUFFER_PAGES 128UL
#define BUFFER_BYTES (BUFFER_PAGES * PAGE_BYTES)
#define RING_ENTRIES 4

static const char *method, *path;
static unsigned char *memory;
static uint64_t seeds[N_PAGES], file_seed;
static int fd = -1;
static pthread_t reader;
static aio_context_t context;

static struct {
	int fd;
	unsigned char *rings;
	size_t rings_bytes;
	struct io_uring_sqe *sqes;
	struct io_uring_params params;
} uring = {.fd = -1};

static bool is_method(const char *name)
{
	return strcmp(method, name) == 0;
}

static unsigned *ring_word(uint32_t offset)
{
	return (unsigned *)(uring.rings + offset);
}

static void set_up_uring(void)
{
	uring.fd = (int)syscall(__NR_io_uring_setup, RING_ENTRIES, &uring.params);
	if (uring.fd < 0)
		die("io_uring_setup");
	uring.rings_bytes = uring.params.cq_off.cqes + uring.params.cq_entries * sizeof(struct io_uring_cqe) + PAGE_BYTES;
	uring.rings = mmap(NULL, uring.rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, uring.fd, IORING_OFF_SQ_RING);
	uring.sqes = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, uring.fd, IORING_OFF_SQES);
	if (uring.rings == MAP_FAILED || uring.sqes == MAP_FAILED)
		die("mmap of a ring");
	if (is_method("registered")) {
		struct iovec buffer = {memory, BUFFER_BYTES};

		if (syscall(__NR_io_uring_register, uring.fd, IORING_REGISTER_BUFFERS, &buffer, 1) < 0)
			die("io_uring_register");
	}
}

static void set_up(void)
{
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		die(path);
	if (is_method("aio")) {
		if (syscall(__NR_io_setup, RING_ENTRIES, &context) < 0)
			die("io_setup");
	} else if (!is_method("pread")) {
		set_up_uring();
	}
}

static void tear_down(void)
{
	close(fd);
	fd = -1;
	if (is_method("aio")) {
		syscall(__NR_io_destroy, context);
		context = 0;
	} else if (!is_method("pread")) {
		munmap(uring.rings, uring.rings_bytes);
		munmap(uring.sqes, PAGE_BYTES);
		close(uring.fd);
	}
}

static void *read_all(void *unused)
{
	if (pread(fd, memory, BUFFER_BYTES, 0) != (ssize_t)BUFFER_BYTES)
		die("pread");
	return unused;
}

static void submit_to_uring(void)
{
	unsigned tail = *ring_word(uring.params.sq_off.tail), mask = *ring_word(uring.params.sq_off.ring_mask);

	uring.sqes[tail & mask] = (struct io_uring_sqe){
		.opcode = is_method("registered") ? IORING_OP_READ_FIXED : IORING_OP_READ,
		.fd = fd,
		.addr = (uintptr_t)memory,
		.len = BUFFER_BYTES,
	};
	ring_word(uring.params.sq_off.array)[tail & mask] = tail & mask;
	__atomic_store_n(ring_word(uring.params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, uring.fd, 1, 0, 0, NULL, 0) != 1)
		die("io_uring_enter");
}

static void start_read(void)
{
	if (is_method("pread")) {
		errno = pthread_create(&reader, NULL, read_all, NULL);
		if (errno != 0)
			die("pthread_create");
	} else if (is_method("aio")) {
		struct iocb request = {
			.aio_lio_opcode = IOCB_CMD_PREAD,
			.aio_fildes = (uint32_t)fd,
			.aio_buf = (uintptr_t)memory,
			.aio_nbytes = BUFFER_BYTES,
		};
		struct iocb *requests[] = {&request};

		if (syscall(__NR_io_submit, context, 1, requests) != 1)
			die("io_submit");
	} else {
		submit_to_uring();
	}
}

static long wait_for_uring(void)
{
	unsigned head = *ring_word(uring.params.cq_off.head), mask = *ring_word(uring.params.cq_off.ring_mask);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)ring_word(uring.params.cq_off.cqes);

	while (__atomic_load_n(ring_word(uring.params.cq_off.tail), __ATOMIC_ACQUIRE) == head)
		syscall(__NR_io_uring_enter, uring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	__atomic_store_n(ring_word(uring.params.cq_off.head), head + 1, __ATOMIC_RELEASE);
	return cqes[head & mask].res;
}

static void wait_for_read(void)
{
	long read_bytes = (long)BUFFER_BYTES;

	if (is_method("pread")) {
		pthread_join(reader, NULL);
	} else if (is_method("aio")) {
		struct io_event event = {0};

		while (syscall(__NR_io_getevents, context, 1, 1, &event, NULL) != 1)
			;
		read_bytes = (long)event.res;
	} else {
		read_bytes = wait_for_uring();
	}
	if (read_bytes != (long)BUFFER_BYTES) {
		errno = EIO;
		die("the read");
	}
	for (size_t i = 0; i < BUFFER_PAGES; i++)
		seeds[i] = file_seed + i;
}

static void write_pages(uint64_t seed)
{
	for (size_t i = 0; i < N_PAGES; i++) {
		seeds[i] = seed + i;
		fill_page(memory + i * PAGE_BYTES, seeds[i]);
	}
}

static void write_file(uint64_t seed)
{
	unsigned char page[PAGE_BYTES];
	int out = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (out < 0)
		die(path);
	for (size_t i = 0; i < BUFFER_PAGES; i++) {
		fill_page(page, seed + i);
		if (write(out, page, PAGE_BYTES) != (ssize_t)PAGE_BYTES)
			die(path);
	}
	if (fsync(out) < 0 || posix_fadvise(out, 0, 0, POSIX_FADV_DONTNEED) != 0)
		die(path);
	close(out);
	file_seed = seed;
}

static bool check(void)
{
	for (size_t i = 0; i < N_PAGES; i++) {
		long offset = wrong_offset(memory + i * PAGE_BYTES, seeds[i]);

		if (offset >= 0) {
			answer("bad page %zu differs at %ld", i, offset);
			return false;
		}
	}
	answer("ok pages=%lu", N_PAGES);
	return true;
}

int main(int argc, char **argv)
{
	char line[100];

	if (argc != 3) {
		fprintf(stderr, "usage: hardware pread|aio|uring|registered FILE\n");
		return 2;
	}
	die_with_parent();
	method = argv[1];
	path = argv[2];
	memory = mmap(NULL, N_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	write_pages(1000);
	write_file(1);
	set_up();
	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		unsigned long seed;

		if (sscanf(line, "write %lu", &seed) == 1)
			write_pages(seed);
		else if (sscanf(line, "file %lu", &seed) == 1)
			write_file(seed);
		else if (strcmp(line, "start") == 0)
			start_read();
		else if (strcmp(line, "wait") == 0)
			wait_for_read();
		else if (strcmp(line, "close") == 0)
			tear_down();
		else if (strcmp(line, "open") == 0)
			set_up();
		else if (strcmp(line, "check") == 0) {
			check();
			continue;
		} else if (strcmp(line, "quit") == 0)
			return check() ? 0 : 1;
		else {
			answer("bad command '%s'", line);
			continue;
		}
		answer("ok");
	}
	return 0;
}
