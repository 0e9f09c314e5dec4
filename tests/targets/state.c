/*
 * A process whose state has known values everywhere: signals, timers, limits, credentials, settings, and threads that
 * differ from each other. Only what the process cannot choose (addresses, ids) is told.
 *
 * state DIRECTORY: the directory becomes its working directory.
 * Commands: info (-> ok JSON), unshare (-> ok TID: one more thread, with directory, umask, UTS namespace of its own), quit.
 */
#include "target.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define STACK_BYTES 16384

enum { PLAIN, CREDENTIALS, SCHEDULED, FILTERED, SLEEPER, POLLER, SECTION, SPINNER, N_THREADS };

static const char *const names[N_THREADS] = {
	"plain", "credentials", "sched:) uled", "filtered", "sleeper", "poller", "section", "spinner",
};

struct thread {
	pthread_t handle;
	pid_t tid;
	unsigned long thread_pointer;
	unsigned long clear_tid_addr, robust_list_addr;
	size_t robust_list_bytes;
};

static struct thread threads[N_THREADS], leader;
static char stacks[N_THREADS + 1][STACK_BYTES];
static pthread_barrier_t all_set;
static struct rseq_cs section;
static int timer_ids[4];
static char **arguments;
static atomic_int beyond_barrier;
static volatile int never;

static void must(bool done, const char *what)
{
	if (!done)
		die(what);
}

static void on_siginfo(int number, siginfo_t *info, void *context)
{
	(void)number, (void)info, (void)context;
}

static void on_signal(int number)
{
	(void)number;
}

/* ---- threads ---- */

static void describe_thread(struct thread *self)
{
	self->tid = gettid();
	self->thread_pointer = (unsigned long)__builtin_thread_pointer();
	must(prctl(PR_GET_TID_ADDRESS, &self->clear_tid_addr) == 0, "PR_GET_TID_ADDRESS");
	must(syscall(SYS_get_robust_list, 0, &self->robust_list_addr, &self->robust_list_bytes) == 0,
	     "get_robust_list");
}

static void set_signal_stack(int index)
{
	stack_t stack = {.ss_sp = stacks[index], .ss_size = STACK_BYTES - 16UL * (unsigned long)index};

	must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
}

/* Only for this thread, so by plain system calls. */
static void change_credentials(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];
	gid_t groups[] = {1001, 1002};

	must(syscall(SYS_setgroups, 2, groups) == 0, "setgroups");
	must(syscall(SYS_setresgid, 2001, 2002, 2003) == 0, "setresgid");
	must(prctl(PR_SET_KEEPCAPS, 1) == 0, "PR_SET_KEEPCAPS");
	must(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME) == 0, "PR_CAPBSET_DROP");
	must(syscall(SYS_setresuid, 3001, 3002, 3003) == 0, "setresuid");
	must(syscall(SYS_capget, &header, sets) == 0, "capget");
	memset(sets, 0, sizeof(sets));
	sets[0].permitted = 1 << CAP_KILL | 1 << CAP_CHOWN;
	sets[0].effective = 1 << CAP_KILL;
	sets[0].inheritable = 1 << CAP_CHOWN;
	must(syscall(SYS_capset, &header, sets) == 0, "capset");
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0) == 0, "PR_CAP_AMBIENT_RAISE");
	must(prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0, "PR_SET_PDEATHSIG");
}

static void change_scheduling(void)
{
	struct sched_param none = {0};
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	must(sched_setaffinity(0, sizeof(cpus), &cpus) == 0, "sched_setaffinity");
	must(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none) == 0, "sched_setscheduler");
	must(setpriority(PRIO_PROCESS, 0, 7) == 0, "setpriority");
	must(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0, "ioprio_set");
	must(prctl(PR_SET_TIMERSLACK, 123456UL) == 0, "PR_SET_TIMERSLACK");
}

static void install_filter(unsigned code)
{
	struct sock_filter steps[] = {
		BPF_STMT(BPF_LD | BPF_IMM, code), /* tells the filters apart */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = 2, .filter = steps};

	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "seccomp");
}

/* Spins inside a restartable sequence, and enters it again when it was aborted. */
static void spin_in_section(struct thread *self)
{
	unsigned long area = self->thread_pointer + (unsigned long)__rseq_offset;

	__asm__ volatile("lea 1f(%%rip), %%rax\n\t"
			 "mov %%rax, 8(%0)\n\t" /* start_ip */
			 "movq $(2f - 1f), 16(%0)\n\t"
			 "lea 3f(%%rip), %%rax\n\t"
			 "mov %%rax, 24(%0)\n\t" /* abort_ip */
			 "jmp 4f\n\t"
			 ".long 0x53053053\n" /* RSEQ_SIG stands before an abort handler */
			 "3:\n"
			 "4: mov %0, 8(%1)\n"
			 "1: pause\n\t"
			 "jmp 1b\n"
			 "2:\n"
			 :
			 : "r"(&section), "r"(area)
			 : "rax", "memory");
}

static void *run(void *argument)
{
	int index = (int)(long)argument;
	struct thread *self = &threads[index];
	struct timespec long_time = {.tv_sec = 100000};
	struct epoll_event event;
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	describe_thread(self);
	must(prctl(PR_SET_NAME, names[index]) == 0, "PR_SET_NAME");
	set_signal_stack(index);
	if (index == CREDENTIALS)
		change_credentials();
	if (index == SCHEDULED)
		change_scheduling();
	if (index == FILTERED) {
		must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
		install_filter(0x1111);
		install_filter(0x2222);
	}
	pthread_barrier_wait(&all_set);
	beyond_barrier++;
	if (index == SLEEPER)
		clock_nanosleep(CLOCK_MONOTONIC, 0, &long_time, NULL);
	if (index == POLLER)
		epoll_wait(epoll_fd, &event, 1, 100000000);
	if (index == SECTION)
		spin_in_section(self);
	if (index == SPINNER)
		while (!never)
			__builtin_ia32_pause();
	for (;;)
		pause();
	return NULL;
}

static void start_threads(void)
{
	must(pthread_barrier_init(&all_set, NULL, N_THREADS + 1) == 0, "pthread_barrier_init");
	for (long index = 0; index < N_THREADS; index++)
		must(pthread_create(&threads[index].handle, NULL, run, (void *)index) == 0, "pthread_create");
	pthread_barrier_wait(&all_set);
	while (beyond_barrier < N_THREADS || ((volatile struct rseq_cs *)&section)->abort_ip == 0)
		sched_yield();
}

static void *run_apart(void *tid)
{
	must(unshare(CLONE_FS | CLONE_NEWUTS) == 0, "unshare");
	must(chdir("/") == 0, "chdir");
	umask(077);
	*(pid_t *)tid = gettid();
	pthread_barrier_wait(&all_set);
	for (;;)
		pause();
	return NULL;
}

static pid_t start_apart(void)
{
	pthread_t thread;
	pid_t tid;

	must(pthread_barrier_init(&all_set, NULL, 2) == 0, "pthread_barrier_init");
	must(pthread_create(&thread, NULL, run_apart, &tid) == 0, "pthread_create");
	pthread_barrier_wait(&all_set);
	return tid;
}

/* ---- signals ---- */

static void set_handlers(void)
{
	struct sigaction action = {.sa_sigaction = on_siginfo, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};

	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGHUP);
	sigaddset(&action.sa_mask, SIGUSR2);
	sigaddset(&action.sa_mask, 64);
	must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_signal;
	action.sa_flags = (int)(SA_NODEFER | SA_RESETHAND);
	must(sigaction(40, &action, NULL) == 0, "sigaction");
	action.sa_handler = SIG_DFL;
	action.sa_flags = SA_NOCLDWAIT | SA_NOCLDSTOP;
	must(sigaction(SIGCHLD, &action, NULL) == 0, "sigaction");
	action.sa_handler = SIG_IGN;
	action.sa_flags = 0;
	must(sigaction(SIGWINCH, &action, NULL) == 0, "sigaction");
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (int number = 35; number <= 38; number++)
		sigaddset(&set, number);
	must(sigprocmask(SIG_BLOCK, &set, NULL) == 0, "sigprocmask");
}

static void send_signals(void)
{
	must(kill(getpid(), SIGUSR1) == 0, "kill");
	must(sigqueue(getpid(), 35, (union sigval){.sival_ptr = (void *)0x1122334455667788}) == 0, "sigqueue");
	must(sigqueue(getpid(), 35, (union sigval){.sival_int = 222}) == 0, "sigqueue");
	must(pthread_sigqueue(threads[PLAIN].handle, 36, (union sigval){.sival_int = 333}) == 0, "pthread_sigqueue");
	must(pthread_kill(threads[PLAIN].handle, SIGUSR1) == 0, "pthread_kill");
	must(pthread_sigqueue(pthread_self(), 37, (union sigval){.sival_int = 444}) == 0, "pthread_sigqueue");
}

/* ---- timers ---- */

static int make_timer(clockid_t clock, struct sigevent *event, long first_s, long interval_s)
{
	struct itimerspec spec = {.it_value.tv_sec = first_s, .it_interval.tv_sec = interval_s};
	int id = -1;

	must(syscall(SYS_timer_create, clock, event, &id) == 0, "timer_create");
	must(syscall(SYS_timer_settime, id, 0, &spec, NULL) == 0, "timer_settime");
	return id;
}

/* A timer of 1000 s that should have gone off first 5500 s ago: its signal, taken at once, stands for five more. */
static int make_late_timer(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 38};
	struct itimerspec spec = {.it_interval.tv_sec = 1000};
	int id = make_timer(CLOCK_REALTIME, &event, 0, 0);
	siginfo_t info;
	sigset_t set;

	spec.it_value = timespec_of_ns(clock_ns(CLOCK_REALTIME) - 5500 * NS_PER_S);
	must(syscall(SYS_timer_settime, id, TIMER_ABSTIME, &spec, NULL) == 0, "timer_settime");
	sigemptyset(&set);
	sigaddset(&set, 38);
	must(sigwaitinfo(&set, &info) == 38, "sigwaitinfo");
	return id;
}

static void set_timers(void)
{
	struct sigevent by_signal = {
		.sigev_notify = SIGEV_SIGNAL,
		.sigev_signo = 39,
		.sigev_value.sival_ptr = (void *)0xfeedfacecafe,
	};
	struct sigevent silent = {.sigev_notify = SIGEV_NONE};
	struct sigevent by_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = 41, .sigev_value.sival_int = 5};
	int deleted = make_timer(CLOCK_REALTIME, NULL, 0, 0);

	by_thread._sigev_un._tid = threads[PLAIN].tid;
	timer_ids[0] = make_timer(CLOCK_MONOTONIC, &by_signal, 5000, 3);
	timer_ids[1] = make_timer(CLOCK_REALTIME, &silent, 6000, 0);
	timer_ids[2] = make_timer(CLOCK_BOOTTIME, &by_thread, 0, 0);
	timer_ids[3] = make_late_timer();
	must(syscall(SYS_timer_delete, deleted) == 0, "timer_delete");

	must(setitimer(ITIMER_REAL, &(struct itimerval){{7, 8}, {7000, 0}}, NULL) == 0, "setitimer");
	must(setitimer(ITIMER_PROF, &(struct itimerval){{0, 0}, {9000, 0}}, NULL) == 0, "setitimer");
}

/* ---- the rest ---- */

static void set_limit(int resource, rlim_t soft, rlim_t hard)
{
	struct rlimit limit = {soft, hard};

	must(setrlimit((__rlimit_resource_t)resource, &limit) == 0, "setrlimit");
}

static void write_own(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0, path);
}

static void set_process(const char *directory)
{
	must(chdir(directory) == 0, "chdir");
	umask(027);
	set_limit(RLIMIT_NOFILE, 123, 456);
	set_limit(RLIMIT_CORE, 0, RLIM_INFINITY);
	set_limit(RLIMIT_CPU, 100000, 200000);
	must(personality(ADDR_NO_RANDOMIZE | UNAME26) >= 0, "personality");
	must(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "PR_SET_CHILD_SUBREAPER");
	must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0, "PR_SET_THP_DISABLE");
	must(prctl(PR_SET_SECUREBITS, SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED) == 0, "PR_SET_SECUREBITS");
	must(prctl(PR_SET_TIMERSLACK, 77777UL) == 0, "PR_SET_TIMERSLACK");
	write_own("/proc/self/oom_score_adj", "77");
	write_own("/proc/self/coredump_filter", "0x21");
}

static void tell_thread(const char *name, const struct thread *one, bool is_last)
{
	printf("\"%s\": {\"tid\": %d, \"clear_tid\": %lu, \"robust_list\": %lu, \"robust_bytes\": %zu, "
	       "\"rseq\": %lu}%s",
	       name, one->tid, one->clear_tid_addr, one->robust_list_addr, one->robust_list_bytes,
	       one->thread_pointer + (unsigned long)__rseq_offset, is_last ? "" : ", ");
}

static void tell(void)
{
	printf("ok {\"on_siginfo\": %lu, \"on_signal\": %lu, \"stacks\": %lu, \"main\": %lu, \"argv0\": %lu, "
	       "\"environ0\": %lu, \"data\": %lu, \"brk\": %lu, \"rseq_bytes\": %u, "
	       "\"section\": %lu, \"abort\": %lu, \"timers\": [%d, %d, %d, %d], \"threads\": {",
	       (unsigned long)on_siginfo, (unsigned long)on_signal, (unsigned long)stacks, (unsigned long)tell,
	       (unsigned long)arguments[0], (unsigned long)environ[0], (unsigned long)&never,
	       (unsigned long)syscall(SYS_brk, 0), __rseq_size, (unsigned long)&section,
	       (unsigned long)section.abort_ip, timer_ids[0], timer_ids[1], timer_ids[2], timer_ids[3]);
	tell_thread("leader", &leader, false);
	for (int index = 0; index < N_THREADS; index++)
		tell_thread(names[index], &threads[index], index == N_THREADS - 1);
	answer("}}");
}

int main(int argc, char **argv)
{
	char line[256];

	if (argc != 2) {
		fprintf(stderr, "usage: state DIRECTORY\n");
		return 2;
	}
	arguments = argv;
	die_with_parent();
	for (int number = 1; number < 32; number++)
		signal(number, SIG_DFL); /* whoever runs the tests may ignore some, as nohup does */
	block_signals();
	set_handlers();
	describe_thread(&leader);
	start_threads();
	set_process(argv[1]);
	set_signal_stack(N_THREADS);
	set_timers();
	send_signals();
	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "quit") == 0) {
			answer("ok");
			return 0;
		}
		if (strcmp(line, "info") == 0)
			tell();
		else if (strcmp(line, "unshare") == 0)
			answer("ok %d", start_apart());
		else
			answer("bad unknown command '%s'", line);
	}
	return 1;
}
