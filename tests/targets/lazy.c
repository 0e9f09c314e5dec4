/* Memory of known content that is used in every way at once, as soon as a file says so: by a process whose pages may not be
 * there yet.
 *
 * lazy DIRECTORY MIB
 * DIRECTORY/ready appears when the memory is filled. When DIRECTORY/go is there, DIRECTORY/result gets one line: `ok missing=N`,
 * N being how many pages with content were not there when it began, or what is wrong; then it waits for ever.
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define READ_WRITE (PROT_READ | PROT_WRITE)
#define N_BLOCKS 8
#define POLL_NS (2 * NS_PER_MS)
#define PRESENT_OR_SWAPPED (3ULL << 62)

static const char *directory;
static unsigned char *blocks[N_BLOCKS];
static size_t pages_of_block;

static int place(const char *name, int flags)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return open(path, flags | O_CLOEXEC, 0600);
}

static void say(const char *name, const char *text)
{
	int fd = place("draft", O_WRONLY | O_CREAT | O_TRUNC);
	char from[4096], to[4096];

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		_exit(3);
	close(fd);
	snprintf(from, sizeof(from), "%s/draft", directory);
	snprintf(to, sizeof(to), "%s/%s", directory, name);
	rename(from, to);
}

static void wrong(const char *what, size_t page)
{
	char text[200];

	snprintf(text, sizeof(text), "bad %s at page %zu\n", what, page);
	say("result", text);
	_exit(4);
}

/* One page in four has never been written. */
static uint64_t seed_of(size_t block, size_t page)
{
	return page % 4 == 3 ? 0 : 1 + block * 1000003 + page;
}

static void compare(const char *what, size_t block, const unsigned char *at, size_t first, size_t end)
{
	for (size_t page = first; page < end; page++)
		if (wrong_offset(at + page * PAGE_BYTES, seed_of(block, page)) >= 0)
			wrong(what, page);
}

static void expect_zeros(const char *what, const unsigned char *at, size_t first, size_t end)
{
	for (size_t page = first; page < end; page++)
		if (wrong_offset(at + page * PAGE_BYTES, 0) >= 0)
			wrong(what, page);
}

static size_t count_missing(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t missing = 0;

	for (size_t block = 0; block < N_BLOCKS; block++)
		for (size_t page = 0; page < pages_of_block; page += 16) {
			uint64_t word;
			off_t offset = (off_t)(((uintptr_t)blocks[block] / PAGE_BYTES + page) * sizeof(word));

			if (pread(fd, &word, sizeof(word), offset) == sizeof(word) && !(word & PRESENT_OR_SWAPPED))
				missing++;
		}
	close(fd);
	return missing;
}

static void use_moved(void)
{
	size_t bytes = pages_of_block * PAGE_BYTES;
	unsigned char *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mremap(blocks[1], bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
		wrong("mremap", 0);
	compare("moved memory", 1, at, 0, pages_of_block);
}

static void use_dropped(void)
{
	size_t half = pages_of_block / 2;

	if (madvise(blocks[2], half * PAGE_BYTES, MADV_DONTNEED) < 0)
		wrong("madvise", 0);
	expect_zeros("dropped memory", blocks[2], 0, half);
	compare("what was not dropped", 2, blocks[2], half, pages_of_block);
}

static void use_mapped_again(void)
{
	size_t quarter = pages_of_block / 4;
	unsigned char *at = blocks[3] + quarter * PAGE_BYTES;

	if (munmap(at, quarter * PAGE_BYTES) < 0 ||
	    mmap(at, quarter * PAGE_BYTES, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at)
		wrong("mmap", quarter);
	expect_zeros("memory that was mapped again", blocks[3], quarter, 2 * quarter);
	compare("what lies before it", 3, blocks[3], 0, quarter);
	compare("what lies behind it", 3, blocks[3], 2 * quarter, pages_of_block);
}

static void wait_for(pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		wrong("a child", 0);
}

static void use_forked(void)
{
	pid_t child, other;

	madvise(blocks[5], pages_of_block * PAGE_BYTES, MADV_WIPEONFORK);
	child = fork();
	if (child == 0) {
		pid_t grandchild = fork();

		if (grandchild == 0) {
			compare("a grandchild's memory", 4, blocks[4], 0, pages_of_block);
			_exit(0);
		}
		wait_for(grandchild);
		expect_zeros("what is wiped on fork", blocks[5], 0, pages_of_block);
		compare("a child's memory", 4, blocks[4], 0, pages_of_block);
		_exit(0);
	}
	other = fork();
	if (other == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
	for (size_t page = 0; page < pages_of_block; page += 8)
		fill_page(blocks[4] + page * PAGE_BYTES, 7); /* the children have the old ones */
	wait_for(other);
	wait_for(child);
	compare("what is wiped in children", 5, blocks[5], 0, pages_of_block);
	for (size_t page = 0; page < pages_of_block; page += 8)
		if (wrong_offset(blocks[4] + page * PAGE_BYTES, 7) >= 0)
			wrong("what was written after a fork", page);
}

static void *read_all(void *argument)
{
	size_t start = (size_t)(uintptr_t)argument * pages_of_block / 4;

	for (size_t i = 0; i < pages_of_block; i++) {
		size_t page = (start + i * 37) % pages_of_block;

		if (wrong_offset(blocks[6] + page * PAGE_BYTES, seed_of(6, page)) >= 0)
			wrong("what threads read", page);
	}
	return NULL;
}

static void use_by_threads(void)
{
	pthread_t threads[4];

	for (size_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, read_all, (void *)(uintptr_t)i);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/* The kernel reads and writes memory of the process as well. */
static void use_by_the_kernel(void)
{
	unsigned char page[PAGE_BYTES];
	int ends[2];

	if (pipe(ends) < 0)
		wrong("pipe", 0);
	for (size_t i = 0; i < pages_of_block; i++) {
		const unsigned char *from = blocks[7] + i * PAGE_BYTES;

		if (write(ends[1], from, PAGE_BYTES) != (ssize_t)PAGE_BYTES ||
		    read(ends[0], page, PAGE_BYTES) != (ssize_t)PAGE_BYTES || wrong_offset(page, seed_of(7, i)) >= 0)
			wrong("what the kernel reads", i);
	}
	close(ends[0]);
	close(ends[1]);
}

int main(int argc, char **argv)
{
	char text[100];
	size_t missing;

	if (argc != 3) {
		fprintf(stderr, "usage: lazy DIRECTORY MIB\n");
		return 2;
	}
	directory = argv[1];
	pages_of_block = (size_t)atoi(argv[2]) * 256 / N_BLOCKS;
	for (size_t block = 0; block < N_BLOCKS; block++) {
		blocks[block] = mmap(NULL, pages_of_block * PAGE_BYTES, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t page = 0; page < pages_of_block; page++)
			if (seed_of(block, page) != 0)
				fill_page(blocks[block] + page * PAGE_BYTES, seed_of(block, page));
	}
	say("ready", "");
	for (;;) {
		struct timespec rest = timespec_of_ns(POLL_NS);
		int fd = place("go", O_RDONLY);

		if (fd >= 0) {
			close(fd);
			break;
		}
		nanosleep(&rest, NULL);
	}
	missing = count_missing();
	use_moved();
	use_dropped();
	use_mapped_again();
	use_forked();
	use_by_threads();
	use_by_the_kernel();
	compare("what was left alone", 0, blocks[0], 0, pages_of_block);
	snprintf(text, sizeof(text), "ok missing=%zu\n", missing);
	say("result", text);
	for (;;)
		pause();
}
