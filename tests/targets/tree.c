/* A tree of processes that write private and shared memory all the time.
 *
 * tree CHILDREN [PRIVATE_PAGES]: the root and so many children, each with private pages, an anonymous shared mapping, a
 * memfd (each maps it from another offset on), System V shared memory, a file mapped shared (if TREE_FILE names one) and
 * a private mapping of the memfd. With TREE_IDLE in the environment nobody writes, with TREE_HUGE the segment has huge
 * pages.
 *
 * Commands: `spawn` one more child: `ok PID`; `nest` one more, by a child of the root's first child: `ok PID`;
 * `apart` one more, in an IPC namespace of its own with a segment of its own: `ok PID`;
 * `end PID` that child is killed and reaped; `zombie PID` killed and not reaped; `counts` how often each has written;
 * `storm 1` short-lived children one after another, each ending at once, until `storm 0`; `chain 1` a child that forks and
 * ends, whose child forks and ends, and so on, all inherited by the root, until `chain 0`; `exec PID` it calls exec of
 * sleep(1); `quit`.
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define MAX_PROCESSES 256
#define SHARED_PAGES 64
#define FILE_PAGES 16

struct board {
	volatile uint64_t counts[MAX_PROCESSES];
	volatile int pids[MAX_PROCESSES];
	volatile int n_processes;
	volatile int nest; /* a request to child 1 */
	volatile int storm;
	volatile int chain;
	volatile int to_exec; /* the pid that is to become another program */
};

static struct board *board;
static uint8_t *shared, *sysv, *file;
static int memfd;
static size_t private_pages = 64;

struct writer {
	int slot;
	uint8_t *private, *of_memfd, *copied;
};

static void *must_map(size_t pages, int flags, int fd, size_t offset_pages)
{
	void *at = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, flags, fd, (off_t)(offset_pages * PAGE_BYTES));

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

static void write_some(struct writer *writer, uint64_t *random)
{
	fill_page(writer->private + next_random(random) % private_pages * PAGE_BYTES, next_random(random));
	fill_page(shared + next_random(random) % SHARED_PAGES * PAGE_BYTES, next_random(random));
	fill_page(sysv + next_random(random) % SHARED_PAGES * PAGE_BYTES, next_random(random) % 3 ? 7 : 0);
	fill_page(writer->of_memfd + next_random(random) % (SHARED_PAGES / 2) * PAGE_BYTES, next_random(random));
	if (next_random(random) % 8 == 0)
		fill_page(writer->copied + next_random(random) % SHARED_PAGES * PAGE_BYTES, next_random(random));
	if (file)
		fill_page(file + next_random(random) % FILE_PAGES * PAGE_BYTES, next_random(random));
	if (next_random(random) % 16 == 0)
		madvise(writer->private + next_random(random) % private_pages * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	/* Behind the back of all mappings. */
	if (next_random(random) % 16 == 0)
		(void)!pwrite(memfd, &writer->slot, sizeof(writer->slot),
			      (off_t)(next_random(random) % SHARED_PAGES * PAGE_BYTES));
}

static void spawn(void);

static void *write_for_ever(void *of)
{
	struct writer *writer = of;
	uint64_t random = (uint64_t)writer->slot + 1;
	const struct timespec pause = timespec_of_ns(NS_PER_MS / 2);
	int idle = getenv("TREE_IDLE") != NULL;

	for (;;) {
		if (!idle)
			write_some(writer, &random);
		board->counts[writer->slot]++;
		if (writer->slot == 1 && board->nest) {
			board->nest = 0;
			spawn();
		}
		if (writer->slot == 0 && board->storm) {
			pid_t child = fork();

			if (child == 0)
				_exit(0);
			waitpid(child, NULL, 0);
			continue;
		}
		if (board->to_exec == getpid()) {
			board->to_exec = 0;
			execlp("sleep", "sleep", "1000", NULL);
			die("execlp");
		}
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static struct writer *new_writer(int slot)
{
	struct writer *writer = malloc(sizeof(*writer));

	writer->slot = slot;
	writer->private = must_map(private_pages, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < private_pages; i++)
		fill_page(writer->private + i * PAGE_BYTES, (uint64_t)slot * 1000 + i + 1);
	writer->of_memfd = must_map(SHARED_PAGES / 2, MAP_SHARED, memfd, (size_t)slot % (SHARED_PAGES / 2));
	writer->copied = must_map(SHARED_PAGES, MAP_PRIVATE, memfd, 0);
	return writer;
}

static void spawn(void)
{
	int slot = __atomic_fetch_add(&board->n_processes, 1, __ATOMIC_SEQ_CST);
	pid_t pid;

	if (slot >= MAX_PROCESSES)
		die("too many processes");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		die_with_parent();
		struct writer *writer = new_writer(slot);

		board->pids[slot] = getpid();
		write_for_ever(writer);
	}
}

static uint8_t *new_segment(void)
{
	int huge = getenv("TREE_HUGE") ? SHM_HUGETLB : 0;
	int id = shmget(IPC_PRIVATE, SHARED_PAGES * PAGE_BYTES, 0600 | IPC_CREAT | huge);
	void *at = shmat(id, NULL, 0);

	if (at == (void *)-1)
		die("System V segment");
	shmctl(id, IPC_RMID, NULL); /* goes with its last user */
	return at;
}

/* A child with a System V segment of an IPC namespace of its own: its id, and so its inode number, is 0 there. */
static void spawn_apart(void)
{
	int slot = __atomic_fetch_add(&board->n_processes, 1, __ATOMIC_SEQ_CST);

	if (fork() == 0) {
		die_with_parent();
		if (unshare(CLONE_NEWIPC))
			die("unshare");
		sysv = new_segment();
		for (size_t i = 0; i < SHARED_PAGES; i++)
			fill_page(sysv + i * PAGE_BYTES, 99 + i);
		struct writer *writer = new_writer(slot);

		board->pids[slot] = getpid();
		write_for_ever(writer);
	}
}

static void wait_for(volatile int *value, int other_than)
{
	const struct timespec pause = timespec_of_ns(NS_PER_MS);

	for (int i = 0; *value == other_than; i++) {
		if (i > 20000) {
			errno = ETIMEDOUT;
			die("waiting for a process");
		}
		nanosleep(&pause, NULL);
	}
}

static void say_counts(void)
{
	printf("ok");
	for (int i = 0; i < board->n_processes; i++)
		printf(" %d:%lu", board->pids[i], (unsigned long)board->counts[i]);
	putchar('\n');
	fflush(stdout);
}

/* Each link of the chain lives as long as a fork takes. */
static void start_chain(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
	if (fork() != 0)
		return;
	while (board->chain)
		if (fork() > 0)
			_exit(0);
	_exit(0);
}

static void obey(const char *line)
{
	int slot = board->n_processes, pid;

	if (!strcmp(line, "spawn")) {
		spawn();
		wait_for(&board->pids[slot], 0);
		answer("ok %d", board->pids[slot]);
	} else if (!strcmp(line, "apart")) {
		spawn_apart();
		wait_for(&board->pids[slot], 0);
		answer("ok %d", board->pids[slot]);
	} else if (!strcmp(line, "nest")) {
		board->nest = 1;
		wait_for(&board->pids[slot], 0);
		answer("ok %d", board->pids[slot]);
	} else if (sscanf(line, "end %d", &pid) == 1) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		answer("ok");
	} else if (sscanf(line, "zombie %d", &pid) == 1) {
		siginfo_t info;

		kill(pid, SIGKILL);
		waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
		answer("ok");
	} else if (sscanf(line, "storm %d", &pid) == 1) {
		board->storm = pid;
		answer("ok");
	} else if (sscanf(line, "exec %d", &pid) == 1) {
		board->to_exec = pid;
		answer("ok");
	} else if (sscanf(line, "chain %d", &pid) == 1) {
		board->chain = pid;
		if (pid)
			start_chain();
		answer("ok");
	} else if (!strcmp(line, "counts")) {
		say_counts();
	} else {
		answer("bad command %s", line);
	}
}

int main(int argc, char **argv)
{
	int children = argc > 1 ? atoi(argv[1]) : 3;
	const char *path = getenv("TREE_FILE");
	char line[128];
	pthread_t thread;

	die_with_parent();
	if (argc > 2)
		private_pages = (size_t)atol(argv[2]);
	board = must_map(2, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared = must_map(SHARED_PAGES, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memfd = memfd_create("tree", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, SHARED_PAGES * PAGE_BYTES))
		die("memfd");
	sysv = new_segment();
	if (path) {
		int fd = open(path, O_RDWR | O_CREAT, 0600);

		if (fd < 0 || ftruncate(fd, FILE_PAGES * PAGE_BYTES))
			die(path);
		file = must_map(FILE_PAGES, MAP_SHARED, fd, 0);
		close(fd);
	}
	board->pids[0] = getpid();
	board->n_processes = 1;
	struct writer *writer = new_writer(0);

	for (int i = 1; i <= children; i++) {
		spawn();
		wait_for(&board->pids[i], 0);
	}
	if (pthread_create(&thread, NULL, write_for_ever, writer))
		die("pthread_create");
	answer("ready %d", getpid());
	while (next_command(line, sizeof(line))) {
		if (!strcmp(line, "quit")) {
			answer("ok");
			return 0;
		}
		obey(line);
	}
	return 0;
}
