/* Processes that are awkward to trace or to track; the first argument chooses in which way.
 *
 * special MODE
 *   plain          nothing special
 *   seccomp-errno  a filter denies userfaultfd and pidfd_getfd with EACCES
 *   seccomp-kill   a filter kills the process for them
 *   leaderless     the main thread has ended, another one answers
 *   leaves         the main thread ends on command
 *   rseq           the main thread stays in a restartable sequence, which only an abort ends; SIGUSR1 aborts it
 *   unprivileged   user and group 65534
 *   uffd           holds a userfaultfd, with a half populated area registered for missing pages
 *   exec           replaces itself on command
 *   exec-thread    the same, with five threads, by one that is not the main thread
 *   fork           makes a child on command; both write
 *   vfork          makes a vfork child on command; the main thread waits in the kernel for its end
 *   brink          the main thread's stack pointer is less than a signal frame's room above the low end of its stack
 *   coroutine      the main thread runs on a stack of one and a half pages of the heap
 *   pending        has blocked signals with payload pending, and counts those it handles
 *
 * Each has a private area and a shared one of known content. Commands (one line each, answered by one line):
 *   write N   N random pages get new content, every fourth by a system call
 *   check     the self-check; with what the mode has to say
 *   quit      check, then exit: 0 when clean, else 1
 * and those of the modes:
 *   leave     leaves: `ok` when the main thread has ended
 *   denied    seccomp-errno: tries userfaultfd, `ok` when the filter denies it
 *   aborts    rseq: `ok N`, the aborts so far
 *   exec      exec, exec-thread: this program again, in the same mode; the new one answers
 *   child     fork, vfork: makes the child (vfork: `ok` when the main thread waits in the kernel); answers its pid
 *   end       fork, vfork: ends the child and reaps it
 *   status    coroutine: `ok turns=N` when stack and canaries are whole
 *   handled   pending: `ok N`, the signals SIGRTMIN+4 handled so far
 *   take      pending: `ok` when exactly what was pending is; it is pending again afterwards
 */
#include "target.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

#define PRIVATE_PAGES 1024
#define SHARED_PAGES 64
#define OWN_UFFD_PAGES 32
#define NOBODY 65534
#define CORO_STACK_BYTES (PAGE_BYTES + PAGE_BYTES / 2)
#define CORO_WORDS 560 /* they leave less than a signal frame's room below */
#define CANARY 0x5ca1ab1e0ddba11ULL
#define FIRST_PENDING (SIGRTMIN + 1)
#define PENDING_SIGNALS 3
#define PENDING_EACH 2
#define SIG_HANDLED (SIGRTMIN + 4)
#define POLL_NS (2 * NS_PER_MS)

struct mode {
	const char *name;
	void (*prepare)(void);		     /* in the main thread, before `ready` */
	void (*main_thread)(void);	     /* what it does while another thread answers; NULL: it answers itself */
	bool (*command)(const char *line);   /* false: unknown */
	bool (*check)(char *said, size_t size); /* false: something is wrong, and `said` says what */
};

static const struct mode *mode;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void nap(void)
{
	struct timespec duration = timespec_of_ns(POLL_NS);

	nanosleep(&duration, NULL);
}

/* ---- memory of known content ---- */

static unsigned char *private_area, *shared_area;
static uint64_t private_seeds[PRIVATE_PAGES], shared_seeds[SHARED_PAGES], random_state = 1;
static int shared_fd;

static void *map_anonymous(size_t bytes)
{
	void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

static void write_shared_by_fd(size_t page, uint64_t seed)
{
	unsigned char content[PAGE_BYTES];

	fill_page(content, seed);
	if (pwrite(shared_fd, content, PAGE_BYTES, (off_t)(page * PAGE_BYTES)) != (ssize_t)PAGE_BYTES)
		die("pwrite");
	shared_seeds[page] = seed;
}

static void set_up_memory(void)
{
	private_area = map_anonymous(PRIVATE_PAGES * PAGE_BYTES);
	for (size_t page = 0; page < PRIVATE_PAGES; page++) {
		private_seeds[page] = page + 1;
		fill_page(private_area + page * PAGE_BYTES, private_seeds[page]);
	}
	shared_fd = memfd_create("special", MFD_CLOEXEC);
	if (shared_fd < 0 || ftruncate(shared_fd, SHARED_PAGES * PAGE_BYTES) < 0)
		die("memfd");
	shared_area = mmap(NULL, SHARED_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
	if (shared_area == MAP_FAILED)
		die("mmap memfd");
	/* Of four pages one is written here, one elsewhere (this process has it not mapped), two are holes. */
	for (size_t page = 0; page < SHARED_PAGES; page += 4) {
		shared_seeds[page] = 1000000 + page;
		fill_page(shared_area + page * PAGE_BYTES, shared_seeds[page]);
		write_shared_by_fd(page + 1, 2000000 + page);
	}
}

/* As a read from a file: the kernel writes, not the program. */
static void fill_by_kernel(unsigned char *page, uint64_t seed)
{
	static unsigned char content[PAGE_BYTES];
	int fds[2];

	fill_page(content, seed);
	if (pipe2(fds, O_CLOEXEC) < 0 || write(fds[1], content, PAGE_BYTES) != (ssize_t)PAGE_BYTES ||
	    read(fds[0], page, PAGE_BYTES) != (ssize_t)PAGE_BYTES)
		die("pipe");
	close(fds[0]);
	close(fds[1]);
}

static void write_pages(unsigned long n)
{
	for (unsigned long i = 0; i < n; i++) {
		pthread_mutex_lock(&lock);
		size_t page = next_random(&random_state) % PRIVATE_PAGES;
		unsigned char *start = private_area + page * PAGE_BYTES;

		private_seeds[page] = next_random(&random_state) | 1;
		if (i % 4 == 3)
			fill_by_kernel(start, private_seeds[page]);
		else
			fill_page(start, private_seeds[page]);
		if (i % 16 == 15)
			write_shared_by_fd(page % SHARED_PAGES / 4 * 4 + 1, private_seeds[page]);
		pthread_mutex_unlock(&lock);
	}
}

static bool check_pages(const char *name, const unsigned char *start, const uint64_t *seeds, size_t n_pages, char *said,
			size_t size)
{
	for (size_t page = 0; page < n_pages; page++) {
		long offset = wrong_offset(start + page * PAGE_BYTES, seeds[page]);

		if (offset >= 0) {
			snprintf(said, size, "%s page %zu differs at %p", name, page,
				 (const void *)(start + page * PAGE_BYTES + offset));
			return false;
		}
	}
	return true;
}

static bool check_all(char *said, size_t size)
{
	pthread_mutex_lock(&lock);
	bool clean = check_pages("private", private_area, private_seeds, PRIVATE_PAGES, said, size);

	/* Only the pages that it had mapped anyway, and those of the other writer are read by descriptor. */
	for (size_t page = 0; clean && page < SHARED_PAGES; page += 4) {
		unsigned char content[PAGE_BYTES];

		clean = check_pages("shared", shared_area + page * PAGE_BYTES, shared_seeds + page, 1, said, size);
		if (!clean)
			break;
		if (pread(shared_fd, content, PAGE_BYTES, (off_t)((page + 1) * PAGE_BYTES)) != (ssize_t)PAGE_BYTES)
			die("pread");
		clean = check_pages("shared by fd", content, shared_seeds + page + 1, 1, said, size);
	}
	pthread_mutex_unlock(&lock);
	if (clean && mode->check != NULL)
		clean = mode->check(said, size);
	return clean;
}

static bool check_and_answer(void)
{
	char said[200] = "";
	bool clean = check_all(said, sizeof(said));

	answer("%s %s", clean ? "ok" : "bad", said);
	return clean;
}

/* ---- seccomp ---- */

static void install_filter(unsigned int action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_getfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		die("seccomp");
}

static void prepare_seccomp_errno(void)
{
	install_filter(SECCOMP_RET_ERRNO | EACCES);
}

static void prepare_seccomp_kill(void)
{
	install_filter(SECCOMP_RET_KILL_PROCESS);
}

static bool command_seccomp_errno(const char *line)
{
	if (strcmp(line, "denied") != 0)
		return false;
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	answer("%s userfaultfd returned %ld: %s", fd < 0 && errno == EACCES ? "ok" : "bad", fd, strerror(errno));
	return true;
}

/* ---- leaderless ---- */

static char state_of_main_thread(void);

static void main_thread_leaderless(void)
{
	pthread_exit(NULL);
}

static volatile bool leaves;

static void main_thread_leaves(void)
{
	while (!leaves)
		nap();
	pthread_exit(NULL);
}

static bool command_leaves(const char *line)
{
	if (strcmp(line, "leave") != 0)
		return false;
	leaves = true;
	while (state_of_main_thread() != 'Z')
		nap();
	answer("ok");
	return true;
}

/* ---- the brink of the stack ---- */

#define DEEPER_BYTES (256 << 10) /* than the stack ever was */
#define ABOVE_THE_BRINK_BYTES 64

/* A word below everything makes the stack grow to that very page. */
static void main_thread_brink(void)
{
	asm volatile("sub %0, %%rsp\n\t"
		     "and $-4096, %%rsp\n\t"
		     "add %1, %%rsp\n\t"
		     "movq $1, (%%rsp)\n"
		     "1:\tmov %2, %%eax\n\t"
		     "syscall\n\t"
		     "jmp 1b"
		     :
		     : "i"(DEEPER_BYTES), "i"(ABOVE_THE_BRINK_BYTES), "i"(SYS_pause)
		     : "rax", "rcx", "r11", "memory", "cc");
	__builtin_unreachable();
}

/* ---- rseq ---- */

static volatile uint64_t n_aborts;
static atomic_bool main_takes_signals;

static void handle_nothing(int signal)
{
	(void)signal;
}

static void prepare_rseq(void)
{
	struct sigaction action = {.sa_handler = handle_nothing};

	if (__rseq_size == 0) {
		errno = ENOSYS;
		die("rseq is not registered by the C library");
	}
	if (sigaction(SIGUSR1, &action, NULL) < 0)
		die("sigaction");
}

/* Nothing in the sequence leads out of it: a thread for which the kernel has forgotten it stays there for ever. */
static void main_thread_rseq(void)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	main_takes_signals = true;
	for (;;) {
		asm goto volatile(".pushsection .data.rseq_cs, \"aw\"\n\t"
				  ".balign 32\n"
				  "3:\t.long 0, 0\n\t"
				  ".quad 1f, 2f - 1f, 4f\n\t"
				  ".popsection\n\t"
				  "leaq 3b(%%rip), %%rax\n\t"
				  "movq %%rax, %c1(%0)\n"
				  "1:\tpause\n\t"
				  "jmp 1b\n"
				  "2:\tud2\n\t"
				  ".pushsection .text.rseq_abort, \"ax\"\n\t"
				  ".byte 0x0f, 0xb9, 0x3d\n\t"
				  ".long 0x53053053\n"
				  "4:\tjmp %l[aborted]\n\t"
				  ".popsection"
				  :
				  : "r"(area), "i"(offsetof(struct rseq, rseq_cs))
				  : "rax", "memory", "cc"
				  : aborted);
	aborted:
		n_aborts++;
	}
}

static bool command_rseq(const char *line)
{
	if (strcmp(line, "aborts") != 0)
		return false;
	answer("ok %lu", n_aborts);
	return true;
}

/* ---- unprivileged ---- */

static void prepare_unprivileged(void)
{
	if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
		die("setresuid");
	die_with_parent(); /* the change of user has undone it */
}

/* ---- its own userfaultfd ---- */

static void prepare_uffd(void)
{
	unsigned char *start = map_anonymous(OWN_UFFD_PAGES * PAGE_BYTES);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register area = {
		.range = {(uintptr_t)start, OWN_UFFD_PAGES * PAGE_BYTES},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	for (size_t page = 0; page < OWN_UFFD_PAGES; page += 2)
		fill_page(start + page * PAGE_BYTES, 3000000 + page);
	/* Nobody serves it: who reads one of the other pages waits for ever. */
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &area) < 0)
		die("userfaultfd");
}

/* ---- exec ---- */

static bool command_exec(const char *line)
{
	if (strcmp(line, "exec") != 0)
		return false;
	execl("/proc/self/exe", "special", mode->name, "again", (char *)NULL);
	die("exec");
}

static void *wait_forever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void prepare_exec_thread(void)
{
	pthread_t thread;

	for (int i = 0; i < 3; i++)
		if ((errno = pthread_create(&thread, NULL, wait_forever, NULL)) != 0)
			die("pthread_create");
}

static void main_thread_waits(void)
{
	wait_forever(NULL);
}

/* ---- fork and vfork ---- */

static pid_t child;
static int child_pipe[2];
static volatile bool writer_stops, vfork_wanted, vfork_ended;
static pthread_t writer;

static void *write_on(void *unused)
{
	while (!writer_stops) {
		write_pages(16);
		nap();
	}
	return unused;
}

static void end_child(int wait_flags)
{
	int status = 0;

	if (child > 0 && waitpid(child, &status, wait_flags) != child)
		die("waitpid");
	child = 0;
}

static bool command_fork(const char *line)
{
	if (strcmp(line, "child") == 0 && child == 0) {
		pthread_mutex_lock(&lock); /* nobody else has it in the child */
		child = fork();
		if (child == 0) {
			if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
				_exit(1);
			for (uint64_t seed = 1;; seed++)
				fill_page(private_area + seed % PRIVATE_PAGES * PAGE_BYTES, ~seed);
		}
		pthread_mutex_unlock(&lock);
		if (child < 0)
			die("fork");
		writer_stops = false;
		if ((errno = pthread_create(&writer, NULL, write_on, NULL)) != 0)
			die("pthread_create");
		answer("ok %d", child);
		return true;
	}
	if (strcmp(line, "end") == 0 && child > 0) {
		kill(child, SIGKILL);
		end_child(0);
		writer_stops = true;
		pthread_join(writer, NULL);
		answer("ok");
		return true;
	}
	return false;
}

static void prepare_vfork(void)
{
	if (pipe2(child_pipe, O_CLOEXEC) < 0)
		die("pipe");
}

static void main_thread_vfork(void)
{
	char byte;

	for (;; nap()) {
		if (!vfork_wanted)
			continue;
		vfork_wanted = false;
		child = vfork();
		if (child == 0) {
			child = (pid_t)syscall(SYS_getpid); /* the memory is the parent's */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (read(child_pipe[0], &byte, 1) != 1)
				_exit(1);
			_exit(0);
		}
		if (child < 0)
			die("vfork");
		end_child(0);
		vfork_ended = true;
	}
}

static char state_of_main_thread(void)
{
	FILE *file = fopen("/proc/self/stat", "re");
	char line[512] = "", *end;

	if (file == NULL || fgets(line, sizeof(line), file) == NULL || (end = strrchr(line, ')')) == NULL)
		die("/proc/self/stat");
	fclose(file);
	return end[2];
}

static bool command_vfork(const char *line)
{
	if (strcmp(line, "child") == 0) {
		vfork_ended = false;
		vfork_wanted = true;
		while (child <= 0 || state_of_main_thread() != 'D')
			nap();
		answer("ok %d", child);
		return true;
	}
	if (strcmp(line, "end") == 0) {
		if (write(child_pipe[1], "", 1) != 1)
			die("write");
		while (!vfork_ended)
			nap();
		answer("ok");
		return true;
	}
	return false;
}

/* ---- coroutine ---- */

static uint64_t *coro_memory; /* a page of canaries, the stack, a page of canaries */
static volatile uint64_t n_turns;
static volatile bool coro_is_wrong;
static ucontext_t coro_context, main_context;

/* On the small stack: known words, and system calls that the attach interrupts. */
static void run_coroutine(void)
{
	volatile uint64_t words[CORO_WORDS];

	for (;;) {
		for (size_t i = 0; i < CORO_WORDS; i++)
			words[i] = CANARY ^ i ^ n_turns;
		if (n_turns % 8 == 0)
			nap();
		for (uint64_t i = 0; i < 20000; i++)
			asm volatile("" : : : "memory");
		for (size_t i = 0; i < CORO_WORDS; i++)
			if (words[i] != (CANARY ^ i ^ n_turns))
				coro_is_wrong = true;
		n_turns++;
	}
}

static void prepare_coroutine(void)
{
	nap(); /* the first call looks up nanosleep, for which the small stack has no room */
	coro_memory = malloc(2 * PAGE_BYTES + CORO_STACK_BYTES);
	if (coro_memory == NULL || getcontext(&coro_context) < 0)
		die("getcontext");
	for (size_t i = 0; i < (2 * PAGE_BYTES + CORO_STACK_BYTES) / sizeof(uint64_t); i++)
		coro_memory[i] = CANARY + i;
	coro_context.uc_stack.ss_sp = coro_memory + WORDS_PER_PAGE;
	coro_context.uc_stack.ss_size = CORO_STACK_BYTES;
	coro_context.uc_link = &main_context;
	makecontext(&coro_context, run_coroutine, 0);
}

static void main_thread_coroutine(void)
{
	swapcontext(&main_context, &coro_context);
	die("the coroutine ended");
}

static bool check_coroutine(char *said, size_t size)
{
	size_t words = (2 * PAGE_BYTES + CORO_STACK_BYTES) / sizeof(uint64_t);
	uint64_t before = n_turns, deadline_ns = clock_ns(CLOCK_MONOTONIC) + 10 * NS_PER_S;

	for (size_t i = 0; i < words; i++) {
		bool is_stack = i >= WORDS_PER_PAGE && i < words - WORDS_PER_PAGE;

		if (!is_stack && coro_memory[i] != CANARY + i) {
			snprintf(said, size, "canary %zu of %zu is %#lx", i, words, coro_memory[i]);
			return false;
		}
	}
	while (n_turns < before + 16) {
		if (clock_ns(CLOCK_MONOTONIC) > deadline_ns) {
			snprintf(said, size, "the coroutine stands still");
			return false;
		}
		nap();
	}
	snprintf(said, size, coro_is_wrong ? "the stack was written to" : "turns=%lu", n_turns);
	return !coro_is_wrong;
}

static bool command_coroutine(const char *line)
{
	char said[200] = "";

	if (strcmp(line, "status") != 0)
		return false;
	bool clean = check_coroutine(said, sizeof(said));

	answer("%s %s", clean ? "ok" : "bad", said);
	return true;
}

/* ---- pending signals ---- */

static volatile uint64_t n_handled, n_taken;

static void handle_and_count(int signal)
{
	(void)signal;
	n_handled++;
}

static int payload_of(int signal, int nth)
{
	return signal * 1000 + nth;
}

/* Half of them to the process, half to its main thread. */
static void queue_signals(void)
{
	for (int i = 0; i < PENDING_SIGNALS; i++)
		for (int nth = 0; nth < PENDING_EACH; nth++) {
			int signal = FIRST_PENDING + i;
			union sigval value = {.sival_int = payload_of(signal, nth)};

			if (i % 2 == 0 ? sigqueue(getpid(), signal, value)
				       : (errno = pthread_sigqueue(pthread_self(), signal, value)))
				die("sigqueue");
		}
}

static void prepare_pending(void)
{
	struct sigaction action = {.sa_handler = handle_and_count, .sa_flags = SA_RESTART};
	sigset_t set;

	sigemptyset(&set);
	for (int i = 0; i < PENDING_SIGNALS; i++)
		sigaddset(&set, FIRST_PENDING + i);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || sigaction(SIG_HANDLED, &action, NULL) < 0)
		die("sigaction");
	queue_signals();
}

static void take_signals(void)
{
	const struct timespec at_once = {0, 0};

	for (int i = 0; i < PENDING_SIGNALS; i++) {
		int signal = FIRST_PENDING + i;
		sigset_t set;
		siginfo_t info;

		sigemptyset(&set);
		sigaddset(&set, signal);
		for (int nth = 0; nth < PENDING_EACH; nth++) {
			if (sigtimedwait(&set, &info, &at_once) != signal) {
				answer("bad signal %d number %d is gone", signal, nth);
				return;
			}
			if (info.si_code != SI_QUEUE || info.si_value.sival_int != payload_of(signal, nth)) {
				answer("bad signal %d has code %d and payload %d", signal, info.si_code,
				       info.si_value.sival_int);
				return;
			}
		}
		if (sigtimedwait(&set, &info, &at_once) == signal) {
			answer("bad signal %d came once too often", signal);
			return;
		}
	}
	queue_signals();
	answer("ok");
}

static bool command_pending(const char *line)
{
	if (strcmp(line, "handled") == 0)
		answer("ok %lu", n_handled);
	else if (strcmp(line, "take") == 0)
		take_signals();
	else
		return false;
	return true;
}

/* ---- all of them ---- */

static const struct mode modes[] = {
	{"plain", NULL, NULL, NULL, NULL},
	{"seccomp-errno", prepare_seccomp_errno, NULL, command_seccomp_errno, NULL},
	{"seccomp-kill", prepare_seccomp_kill, NULL, NULL, NULL},
	{"leaderless", NULL, main_thread_leaderless, NULL, NULL},
	{"leaves", NULL, main_thread_leaves, command_leaves, NULL},
	{"brink", NULL, main_thread_brink, NULL, NULL},
	{"rseq", prepare_rseq, main_thread_rseq, command_rseq, NULL},
	{"unprivileged", prepare_unprivileged, NULL, NULL, NULL},
	{"uffd", prepare_uffd, NULL, NULL, NULL},
	{"exec", NULL, NULL, command_exec, NULL},
	{"exec-thread", prepare_exec_thread, main_thread_waits, command_exec, NULL},
	{"fork", NULL, NULL, command_fork, NULL},
	{"vfork", prepare_vfork, main_thread_vfork, command_vfork, NULL},
	{"coroutine", prepare_coroutine, main_thread_coroutine, command_coroutine, check_coroutine},
	{"pending", prepare_pending, NULL, command_pending, NULL},
};

static void serve(const char *first_word)
{
	char line[256];
	unsigned long n;

	answer("%s pid=%d tid=%d", first_word, getpid(), gettid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "quit") == 0)
			exit(check_and_answer() ? 0 : 1);
		if (strcmp(line, "check") == 0)
			check_and_answer();
		else if (sscanf(line, "write %lu", &n) == 1) {
			write_pages(n);
			answer("ok");
		} else if (mode->command == NULL || !mode->command(line))
			answer("bad unknown command '%s'", line);
	}
	exit(1);
}

static void *serve_in_thread(void *first_word)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("prctl");
	while (mode->main_thread == main_thread_leaderless && state_of_main_thread() != 'Z')
		nap();
	while (mode->main_thread == main_thread_rseq && !main_takes_signals)
		nap();
	serve(first_word);
	return NULL;
}

int main(int argc, char **argv)
{
	static char ready[] = "ready", again[] = "ok";
	char *first_word = argc == 3 ? again : ready; /* after exec it is the answer to the command */
	pthread_t server;
	sigset_t set;

	for (size_t i = 0; argc >= 2 && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(argv[1], modes[i].name) == 0)
			mode = &modes[i];
	if (mode == NULL) {
		fprintf(stderr, "usage: special MODE\n");
		return 2;
	}
	die_with_parent();
	set_up_memory();
	if (mode->prepare != NULL)
		mode->prepare();
	if (mode->main_thread == NULL)
		serve(first_word);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL); /* it is for the main thread */
	if ((errno = pthread_create(&server, NULL, serve_in_thread, first_word)) != 0)
		die("pthread_create");
	mode->main_thread();
	return 1;
}
