/* System V shared memory, and a child that has it, too.
 *
 * segments [KEY]: segment 0 has a key (or is private without one), mode 0640 and 3 pages and a bit; segment 1 is removed
 * already; of segment 2 a page in the middle was unmapped, and its last page is read-only; segment 3 is attached to be
 * read only. Both processes check all of them. Commands: `check` (by both: contents, ids, sharing in both directions),
 * `write N` (a new content), `quit`, `info` (ids), `remove` (segments that are left, at the end of a test).
 */
#include "target.h"

#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

#define N_SEGMENTS 4
#define N_PAGES 4
#define SIZE_BYTES (3 * PAGE_BYTES + 100)

static struct {
	int id;
	key_t key;
	uint8_t *at;
} segments[N_SEGMENTS];
static uint64_t *seed; /* both know what was written: in anonymous shared memory */
static int to_child[2], from_child[2];
static int child;

static uint64_t seed_of(int number, size_t page)
{
	return *seed * 100 + (uint64_t)number * 10 + page;
}

static bool is_mapped(int number, size_t page)
{
	return number != 2 || page != 1;
}

static size_t room(size_t page)
{
	return page == N_PAGES - 1 ? 100 : PAGE_BYTES;
}

static void write_all(uint64_t wanted)
{
	uint8_t content[PAGE_BYTES];

	*seed = wanted;
	for (int i = 0; i < 3; i++)
		for (size_t page = 0; page < N_PAGES; page++) {
			if (!is_mapped(i, page) || (i == 2 && page == N_PAGES - 1 && segments[3].at != NULL))
				continue;
			fill_page(content, page == 2 ? 0 : seed_of(i, page)); /* one of zeros in each */
			memcpy(segments[i].at + page * PAGE_BYTES, content, room(page));
		}
}

static const char *find_wrong(void)
{
	static char said[200];
	uint8_t content[PAGE_BYTES];
	struct shmid_ds told;

	for (int i = 0; i < N_SEGMENTS; i++) {
		int of = i == 3 ? 0 : i; /* segment 3 is segment 0 once more, to be read only */

		for (size_t page = 0; page < N_PAGES; page++) {
			fill_page(content, page == 2 ? 0 : seed_of(of, page));
			if (is_mapped(i, page) && !(i == 2 && page == N_PAGES - 1) &&
			    memcmp(content, segments[i].at + page * PAGE_BYTES, room(page)) != 0) {
				snprintf(said, sizeof(said), "page %zu of segment %d", page, i);
				return said;
			}
		}
		if (shmctl(segments[i].id, IPC_STAT, &told) < 0 || told.shm_segsz != SIZE_BYTES) {
			snprintf(said, sizeof(said), "segment %d: %s", i, strerror(errno));
			return said;
		}
		/* Each of two processes: segment 0 twice, segment 2 in three parts. */
		if (told.shm_nattch != (of == 0 ? 4 : of == 2 ? 6 : 2)) {
			snprintf(said, sizeof(said), "segment %d is attached %lu times", i, told.shm_nattch);
			return said;
		}
		if ((told.shm_perm.mode & 01777) != (i == 1 ? 01600U : 0640U)) {
			snprintf(said, sizeof(said), "segment %d has mode %o", i, told.shm_perm.mode);
			return said;
		}
		if (of == 0 && told.shm_perm.uid != 65534) {
			snprintf(said, sizeof(said), "segment %d is of user %u", i, told.shm_perm.uid);
			return said;
		}
		if (told.shm_perm.__key != segments[i].key) {
			snprintf(said, sizeof(said), "segment %d has key %#x", i, told.shm_perm.__key);
			return said;
		}
	}
	return "";
}

static void serve_parent(void)
{
	char byte;
	uint64_t wanted;

	while (read(to_child[0], &byte, 1) == 1) {
		char said[256] = "";

		if (byte == 'c')
			snprintf(said, sizeof(said), "%s", find_wrong());
		else if (read(to_child[0], &wanted, sizeof(wanted)) == sizeof(wanted))
			write_all(wanted);
		if (write(from_child[1], said, sizeof(said)) != sizeof(said))
			break;
	}
	_exit(0);
}

static void ask_child(char what, uint64_t wanted, char said[256])
{
	if (write(to_child[1], &what, 1) != 1 ||
	    (what == 'w' && write(to_child[1], &wanted, sizeof(wanted)) != sizeof(wanted)) ||
	    read(from_child[0], said, 256) != 256)
		die("child");
}

static void make(int number, key_t key, int mode)
{
	segments[number].key = key;
	segments[number].id = shmget(key, SIZE_BYTES, IPC_CREAT | IPC_EXCL | mode);
	if (segments[number].id < 0)
		die("shmget");
	segments[number].at = shmat(segments[number].id, NULL, 0);
	if (segments[number].at == (void *)-1)
		die("shmat");
}

static void set_up(key_t key)
{
	struct shmid_ds owner;

	make(0, key, 0640);
	if (shmctl(segments[0].id, IPC_STAT, &owner) < 0)
		die("IPC_STAT");
	owner.shm_perm.uid = 65534;
	if (shmctl(segments[0].id, IPC_SET, &owner) < 0)
		die("IPC_SET");
	make(1, IPC_PRIVATE, 0600);
	if (shmctl(segments[1].id, IPC_RMID, NULL) < 0)
		die("IPC_RMID");
	make(2, IPC_PRIVATE, 0640);
	write_all(1);
	segments[3] = segments[0];
	segments[3].at = shmat(segments[0].id, NULL, SHM_RDONLY);
	if (segments[3].at == (void *)-1 || munmap(segments[2].at + PAGE_BYTES, PAGE_BYTES) < 0 ||
	    mprotect(segments[2].at + (N_PAGES - 1) * PAGE_BYTES, PAGE_BYTES, PROT_READ) < 0)
		die("segments");
}

int main(int argc, char **argv)
{
	char line[100], said[256];
	unsigned long wanted;

	seed = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (seed == MAP_FAILED || pipe(to_child) < 0 || pipe(from_child) < 0)
		die("mmap");
	set_up(argc > 1 ? (key_t)strtoul(argv[1], NULL, 16) : IPC_PRIVATE);
	child = fork();
	if (child == 0) {
		die_with_parent();
		serve_parent();
	}
	if (child < 0)
		die("fork");
	answer("ready %d", child);
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "check") == 0) {
			const char *wrong = find_wrong();

			ask_child('c', 0, said);
			if (*wrong || *said)
				answer("bad %s; child: %s", wrong, said);
			else
				answer("ok");
		} else if (sscanf(line, "write %lu", &wanted) == 1) {
			if (wanted % 2)
				write_all(wanted);
			else
				ask_child('w', wanted, said);
			answer("ok");
		} else if (strcmp(line, "detach") == 0) { /* all parts of segment 2 go with one call */
			struct shmid_ds told;

			if (shmdt(segments[2].at) < 0 || shmctl(segments[2].id, IPC_STAT, &told) < 0)
				die("shmdt");
			answer("ok %lu", told.shm_nattch);
		} else if (strcmp(line, "info") == 0) {
			answer("ok %d %d %d", segments[0].id, segments[1].id, segments[2].id);
		} else {
			answer("bad command");
		}
	}
	return 0;
}
