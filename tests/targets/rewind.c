/* A process that is put back: it notices by itself if it ever runs with memory that does not fit together.
 *
 * Arguments: a file to read, the number of worker threads. Each worker has many pages with one number in all of them, which
 * it checks and counts up again and again; were some of them older than others it would end the process with exit code 99.
 *
 * Commands (one line each, answered by one line):
 *   count        `ok N`: how often the workers went round
 *   change WHAT  memory, heap, map, unmap, protect, guard, file, signals, timers, counts, shared, name, child, thread, open
 *   state        `ok ...`: all that `change` changes, in words; the same words mean the same state
 *   wait         answers after it has slept for two seconds
 *   quit         exit code 0
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#define WORKER_PAGES 64
#define MAX_WORKERS 32
#define AREA_PAGES 64
#define MADV_GUARD_INSTALL_NR 102
#define ADDRESS(n) ((void *)(0x10000000000UL + (n) * 0x100000000UL))

struct worker {
	uint64_t *pages;
	volatile uint64_t rounds;
};

static struct worker workers[MAX_WORKERS];
static char *memory, *unmapped, *protected, *guarded, *shared;
static void *heap_end;
static int file, counter, epoll, timer_fd, memfd;
static timer_t posix_timer;

static void on_signal(int number)
{
	(void)number;
}

static void *work(void *arg)
{
	struct worker *self = arg;

	for (;;) {
		uint64_t want = self->pages[0];

		for (size_t i = 0; i < WORKER_PAGES; i++) {
			if (self->pages[i * WORDS_PER_PAGE] != want) {
				static const char torn[] = "bad memory does not fit together\n";

				if (write(1, torn, sizeof(torn) - 1) < 0)
					_exit(98);
				_exit(99);
			}
		}
		for (size_t i = 0; i < WORKER_PAGES; i++)
			self->pages[i * WORDS_PER_PAGE] = want + 1;
		self->rounds++;
		if (want % 16 == 0)
			nanosleep(&(struct timespec){0, 100000}, NULL);
	}
	return NULL;
}

static char *area(size_t n)
{
	char *addr = mmap(ADDRESS(n), AREA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (addr == MAP_FAILED)
		die("mmap");
	for (size_t i = 0; i < AREA_PAGES; i++)
		fill_page(addr + i * PAGE_BYTES, n * 1000 + i);
	return addr;
}

static uint64_t sum(const char *addr, size_t n_bytes)
{
	uint64_t found = 14695981039346656037ULL;

	for (size_t i = 0; i < n_bytes; i += 8)
		found = (found ^ *(const uint64_t *)(addr + i)) * 1099511628211ULL;
	return found;
}

static int is_mapped(const void *addr)
{
	unsigned char there;

	return !mincore((void *)addr, PAGE_BYTES, &there);
}

static void set_up(const char *path, int n_workers)
{
	memory = area(1);
	unmapped = area(2);
	protected = area(3);
	guarded = area(4);
	shared = mmap(NULL, AREA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memfd = memfd_create("rewound", 0);
	if (ftruncate(memfd, AREA_PAGES * PAGE_BYTES))
		die("ftruncate");
	file = open(path, O_RDWR);
	counter = eventfd(5, 0);
	timer_fd = timerfd_create(CLOCK_MONOTONIC, 0);
	epoll = epoll_create1(0);
	if (file < 0 || counter < 0 || epoll < 0 || shared == MAP_FAILED)
		die("open");
	epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &(struct epoll_event){.events = EPOLLIN, .data.u64 = 77});
	signal(SIGUSR1, on_signal);
	signal(SIGALRM, on_signal);
	if (timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_NONE}, &posix_timer))
		die("timer_create");
	heap_end = sbrk(0);
	for (int i = 0; i < n_workers; i++) {
		pthread_t thread;

		workers[i].pages = aligned_alloc(PAGE_BYTES, WORKER_PAGES * PAGE_BYTES);
		memset(workers[i].pages, 0, WORKER_PAGES * PAGE_BYTES);
		if (pthread_create(&thread, NULL, work, workers + i))
			die("pthread_create");
	}
}

static void change(const char *what)
{
	const uint64_t some = clock_ns(CLOCK_MONOTONIC);
	sigset_t set;

	if (!strcmp(what, "memory")) {
		for (size_t i = 0; i < AREA_PAGES; i += 3)
			fill_page(memory + i * PAGE_BYTES, some + i);
	} else if (!strcmp(what, "heap")) {
		char *more = sbrk(1 << 20);

		memset(more, 7, 1 << 20);
	} else if (!strcmp(what, "map")) {
		area(7);
	} else if (!strcmp(what, "unmap")) {
		munmap(unmapped + 4 * PAGE_BYTES, 16 * PAGE_BYTES);
	} else if (!strcmp(what, "protect")) {
		mprotect(protected, 8 * PAGE_BYTES, PROT_READ);
	} else if (!strcmp(what, "guard")) {
		if (madvise(guarded + PAGE_BYTES, 2 * PAGE_BYTES, MADV_GUARD_INSTALL_NR))
			die("madvise");
	} else if (!strcmp(what, "file")) {
		char bytes[10];

		if (read(file, bytes, sizeof(bytes)) != sizeof(bytes))
			die("read");
		fcntl(file, F_SETFL, O_APPEND | O_NONBLOCK);
		fcntl(file, F_SETFD, FD_CLOEXEC);
	} else if (!strcmp(what, "signals")) {
		signal(SIGUSR1, SIG_IGN);
		signal(SIGUSR2, on_signal);
		sigemptyset(&set);
		sigaddset(&set, SIGTERM);
		pthread_sigmask(SIG_BLOCK, &set, NULL);
		pthread_kill(pthread_self(), SIGTERM);
		umask(027);
	} else if (!strcmp(what, "timers")) {
		setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_sec = 1000}, NULL);
		timer_settime(posix_timer, 0, &(struct itimerspec){.it_value.tv_sec = 1000}, NULL);
		timerfd_settime(timer_fd, 0, &(struct itimerspec){.it_value.tv_sec = 1000}, NULL);
	} else if (!strcmp(what, "counts")) {
		eventfd_write(counter, 3);
		epoll_ctl(epoll, EPOLL_CTL_MOD, counter, &(struct epoll_event){.events = EPOLLOUT, .data.u64 = 1});
	} else if (!strcmp(what, "shared")) {
		fill_page(shared + 3 * PAGE_BYTES, some);
		if (pwrite(memfd, "changed", 7, 5 * PAGE_BYTES) != 7)
			die("pwrite");
	} else if (!strcmp(what, "name")) {
		prctl(PR_SET_NAME, "other-name");
	} else if (!strcmp(what, "child")) {
		if (!fork()) {
			die_with_parent();
			pause();
		}
	} else if (!strcmp(what, "thread")) {
		pthread_t thread;

		workers[MAX_WORKERS - 1].pages = aligned_alloc(PAGE_BYTES, WORKER_PAGES * PAGE_BYTES);
		memset(workers[MAX_WORKERS - 1].pages, 0, WORKER_PAGES * PAGE_BYTES);
		pthread_create(&thread, NULL, work, workers + MAX_WORKERS - 1);
	} else if (!strcmp(what, "open")) {
		if (dup(file) < 0)
			die("dup");
	} else {
		errno = EINVAL;
		die(what);
	}
}

static void tell_state(void)
{
	char name[17] = "", bytes[8];
	struct sigaction user1, user2;
	struct itimerval alarm;
	struct itimerspec posix, by_fd;
	struct epoll_event event = {0};
	eventfd_t count = 0;
	sigset_t mask, pending;
	unsigned char guards;
	mode_t old_mask = umask(0);

	umask(old_mask);
	prctl(PR_GET_NAME, name);
	sigaction(SIGUSR1, NULL, &user1);
	sigaction(SIGUSR2, NULL, &user2);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	sigpending(&pending);
	getitimer(ITIMER_REAL, &alarm);
	timer_gettime(posix_timer, &posix);
	timerfd_gettime(timer_fd, &by_fd);
	epoll_wait(epoll, &event, 1, 0);
	fcntl(counter, F_SETFL, O_NONBLOCK);
	if (!eventfd_read(counter, &count))
		eventfd_write(counter, count);
	fcntl(counter, F_SETFL, 0);
	guards = (unsigned char)(pread(memfd, bytes, 7, 5 * PAGE_BYTES) != 7);
	answer("ok memory=%lx heap=%ld map=%d unmap=%lx write=%d guard=%lx offset=%ld flags=%x cloexec=%d usr1=%d usr2=%d "
	       "mask=%d pending=%d umask=%o alarm=%d posix=%d timerfd=%d count=%lu event=%x.%lu shared=%lx memfd=%d%d name=%s",
	       sum(memory, AREA_PAGES * PAGE_BYTES), (long)((char *)sbrk(0) - (char *)heap_end), is_mapped(ADDRESS(7)),
	       is_mapped(unmapped + 4 * PAGE_BYTES) ? sum(unmapped, AREA_PAGES * PAGE_BYTES) : 0,
	       read(memfd, protected, 0) == 0 && pread(memfd, protected, 8, 0) == 8,
	       pwrite(memfd, guarded + PAGE_BYTES, 8, 63 * PAGE_BYTES) == 8 ? sum(guarded, AREA_PAGES * PAGE_BYTES) : 0,
	       (long)lseek(file, 0, SEEK_CUR), fcntl(file, F_GETFL), fcntl(file, F_GETFD), user1.sa_handler == on_signal,
	       user2.sa_handler == on_signal, sigismember(&mask, SIGTERM), sigismember(&pending, SIGTERM), old_mask,
	       alarm.it_value.tv_sec > 0, posix.it_value.tv_sec > 0, by_fd.it_value.tv_sec > 0, count, event.events,
	       event.data.u64, sum(shared, AREA_PAGES * PAGE_BYTES), guards, bytes[0], name);
}

int main(int argc, char **argv)
{
	char line[200];

	die_with_parent();
	if (argc != 3)
		return 2;
	set_up(argv[1], atoi(argv[2]));
	answer("ready");
	while (next_command(line, sizeof(line))) {
		uint64_t rounds = 0;

		if (!strcmp(line, "count")) {
			for (int i = 0; i < MAX_WORKERS; i++)
				rounds += workers[i].rounds;
			answer("ok %lu", rounds);
		} else if (!strncmp(line, "change ", 7)) {
			change(line + 7);
			answer("ok");
		} else if (!strcmp(line, "state")) {
			tell_state();
		} else if (!strcmp(line, "wait")) {
			nanosleep(&(struct timespec){2, 0}, NULL);
			answer("ok");
		} else if (!strcmp(line, "quit")) {
			answer("ok");
			return 0;
		}
	}
	return 0;
}
