/* Threads and a process with known state: `ready` is followed by one line of JSON that names it.
 *
 * Arguments: `seccomp` gives the last thread two filters that allow everything; `vdso` adds a thread that asks for
 * the time without end (clock-loop).
 * Commands: `died` answers which signals were handled since (none, if nobody disturbed); `quit`.
 */
#include "target.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define N_THREADS 3
#define ALT_STACK_BYTES 65536
#define IOPRIO_BE_6 ((2 << 13) | 6)
#define MCE_KILL_EARLY 1

struct facts {
	int tid;
	uint64_t signal_stack_addr, clear_child_tid_addr, robust_list_addr;
};
static struct facts facts[N_THREADS];
static pthread_barrier_t all_set_up;
static bool wants_seccomp;
static volatile sig_atomic_t n_handled;

static void handle(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
	n_handled++;
}

static void set_up_scheduling(int k)
{
	const int policies[] = {SCHED_FIFO, SCHED_BATCH, SCHED_IDLE};
	struct sched_param param = {.sched_priority = k == 0 ? 7 : 0};
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	if (k == 0 && sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
		die("sched_setaffinity");
	if (k == 1 && (syscall(SYS_ioprio_set, 1, 0, IOPRIO_BE_6) < 0 || nice(5) == -1))
		die("ioprio_set");
	if (sched_setscheduler(0, policies[k], &param) < 0)
		die("sched_setscheduler");
}

static void install_filter(uint32_t unlikely_call)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, unlikely_call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		die("seccomp");
}

static void *run_thread(void *argument)
{
	int k = (int)(intptr_t)argument;
	struct facts *mine = facts + k;
	stack_t stack = {.ss_size = ALT_STACK_BYTES + (size_t)k * PAGE_BYTES};
	union sigval value = {.sival_int = 1000 + k};
	sigset_t mask;
	size_t bytes;

	stack.ss_sp = mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigfillset(&mask);
	sigdelset(&mask, SIGTERM + k);
	if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL) < 0 || pthread_sigmask(SIG_SETMASK, &mask, NULL) ||
	    prctl(PR_SET_PDEATHSIG, SIGUSR1 + k) < 0 || prctl(PR_SET_TIMERSLACK, 100000 + k) < 0)
		die("thread");
	for (int i = 0; i <= k; i++)
		if (pthread_sigqueue(pthread_self(), SIGRTMIN + 5 + k, value))
			die("pthread_sigqueue");
	mine->tid = gettid();
	mine->signal_stack_addr = (uint64_t)stack.ss_sp;
	if (prctl(PR_GET_TID_ADDRESS, &mine->clear_child_tid_addr) < 0 ||
	    syscall(SYS_get_robust_list, 0, &mine->robust_list_addr, &bytes) < 0)
		die("addresses");
	set_up_scheduling(k);
	if (wants_seccomp && k == N_THREADS - 1) {
		install_filter(0x10001);
		install_filter(0x10002);
	}
	pthread_barrier_wait(&all_set_up);
	for (;;)
		pause();
}

/* More time elsewhere than in the vdso. */
static void *run_clock_loop(void *unused)
{
	for (uint64_t state = 1;; clock_ns(CLOCK_MONOTONIC))
		for (int i = 0; i < 200; i++)
			next_random(&state);
	return unused;
}

static void set_up_timers(void)
{
	struct itimerval real = {{50, 0}, {100, 0}}, virtual = {{0, 0}, {77, 0}};
	struct itimerspec first = {{30, 5}, {90, 0}}, third = {{0, 0}, {60, 0}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	timer_t timers[3];

	for (int i = 0; i < 3; i++)
		if (timer_create(CLOCK_MONOTONIC, &event, &timers[i]) < 0)
			die("timer_create");
	if (timer_delete(timers[1]) < 0 || timer_settime(timers[0], 0, &first, NULL) < 0 ||
	    timer_settime(timers[2], 0, &third, NULL) < 0 || setitimer(ITIMER_REAL, &real, NULL) < 0 ||
	    setitimer(ITIMER_VIRTUAL, &virtual, NULL) < 0)
		die("timers");
}

static void set_up_process(void)
{
	struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
	union sigval value = {.sival_int = 4711};
	sigset_t all;

	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGHUP);
	sigaddset(&action.sa_mask, SIGTERM);
	sigfillset(&all);
	if (sigaction(SIGUSR1, &action, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR ||
	    pthread_sigmask(SIG_SETMASK, &all, NULL) || sigqueue(getpid(), SIGRTMIN + 10, value) < 0 ||
	    sigqueue(getpid(), SIGRTMIN + 11, value) < 0)
		die("signals");
	if (prctl(PR_SET_KEEPCAPS, 1) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
	    prctl(PR_MCE_KILL, PR_MCE_KILL_SET, MCE_KILL_EARLY, 0, 0) < 0)
		die("prctl");
}

int main(int argc, char **argv)
{
	char line[256];
	pthread_t thread;

	die_with_parent();
	set_up_process();
	set_up_timers();
	wants_seccomp = argc > 1 && strcmp(argv[1], "seccomp") == 0;
	pthread_barrier_init(&all_set_up, NULL, N_THREADS + 1);
	for (intptr_t k = 0; k < N_THREADS; k++)
		if (pthread_create(&thread, NULL, run_thread, (void *)k))
			die("pthread_create");
	pthread_barrier_wait(&all_set_up);
	if (argc > 1 && strcmp(argv[1], "vdso") == 0 && pthread_create(&thread, NULL, run_clock_loop, NULL))
		die("pthread_create");
	printf("ready {\"brk\": %lu, \"handler\": %lu, \"threads\": [", (uint64_t)sbrk(0), (uint64_t)handle);
	for (int k = 0; k < N_THREADS; k++)
		printf("%s{\"tid\": %d, \"signal_stack\": %lu, \"clear_child_tid\": %lu, \"robust_list\": %lu}",
		       k ? ", " : "", facts[k].tid, facts[k].signal_stack_addr, facts[k].clear_child_tid_addr,
		       facts[k].robust_list_addr);
	answer("]}");
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "quit") == 0)
			return 0;
		answer("ok handled=%d", (int)n_handled);
	}
	return 1;
}
