/* Behaviour unchanged: threads that each do one thing in a loop and check what came of it.
 *
 * Nothing here expects to be interrupted: every signal is blocked in every thread but the one that
 * handles it, so any EINTR, wrong value or early return was brought in from outside.
 *
 * SIGURG, which is ignored by default, is blocked nowhere, unless the last argument is `all-blocked`.
 * The argument `interruptible` lets calls fail with EINTR: so does one that a tracer had stopped when it was killed. And
 * it lets a call that was interrupted by a signal be made again, as one whose tracer was killed at a certain instant is.
 *
 * Commands (one line each, answered by one line):
 *   status     waits until each check went round once more (its result is then newer than the
 *              command), then `ok checks=N iterations=N errors=0 first= last=` or `bad ...`
 *   threads N  N more threads that do nothing but start and join short-lived threads
 *   fds        `ok N ...` the descriptors that were not there at `ready`
 *   quit       exit code 0 when there was no error
 */
#include "target.h"

#include <dirent.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define MAX_CHECKS 24
#define PEER_PERIOD_NS (7 * NS_PER_MS)
#define STALL_NS (20 * NS_PER_S) /* less than the harness waits for an answer */
#define MAX_OWN_FDS 64

/* Real-time signals with payload, and the timer's; the rest have their usual names. */
#define SIG_PAYLOAD (SIGRTMIN + 2)
#define SIG_TIMER (SIGRTMIN + 1)

struct check {
	const char *name;
	void (*once)(struct check *check);
	pthread_t thread;
	uint64_t n_iterations, n_errors;
};

static struct check checks[MAX_CHECKS];
static size_t n_checks;
static char first_error[200], last_error[200];
static bool is_interruptible;
static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((format(printf, 2, 3))) static void fail(struct check *check, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&error_lock);
	int used = snprintf(last_error, sizeof(last_error), "%s: ", check->name);

	va_start(args, format);
	vsnprintf(last_error + used, sizeof(last_error) - (size_t)used, format, args);
	va_end(args);
	if (is_interruptible && strstr(last_error, strerror(EINTR)) != NULL) {
		pthread_mutex_unlock(&error_lock);
		return;
	}
	if (first_error[0] == '\0')
		memcpy(first_error, last_error, sizeof(first_error));
	pthread_mutex_unlock(&error_lock);
	__atomic_fetch_add(&check->n_errors, 1, __ATOMIC_RELEASE);
}

static void sleep_for(uint64_t ns)
{
	struct timespec duration = timespec_of_ns(ns);

	clock_nanosleep(CLOCK_MONOTONIC, 0, &duration, NULL);
}

/* ---- registers ---- */

/* Field order is known to the assembly below. */
struct registers {
	uint64_t general[12];	     /* 0: rax rcx rdx rsi rdi r8 r9 r10 r11 r13 r14 r15 */
	unsigned char vector[16][32]; /* 96 */
	uint64_t general_after[12];   /* 608 */
	unsigned char vector_after[16][32]; /* 704 */
	uint64_t count;		      /* 1216: of busy turns */
	struct timespec sleep;	      /* 1224 */
	long result;		      /* 1240: of the system call */
	uint32_t mxcsr, mxcsr_after;  /* 1248, 1252 */
	uint16_t x87_control, x87_control_after; /* 1256, 1258 */
	double x87, x87_after;	      /* 1264, 1272 */
};
_Static_assert(offsetof(struct registers, vector_after) == 704, "known to the assembly");
_Static_assert(offsetof(struct registers, sleep) == 1224, "known to the assembly");
_Static_assert(offsetof(struct registers, x87_after) == 1272, "known to the assembly");

#define EACH_GENERAL(DO, BASE)                                                                     \
	DO("rcx", BASE, "8") DO("rdx", BASE, "16") DO("rsi", BASE, "24") DO("rdi", BASE, "32")     \
	DO("r8", BASE, "40") DO("r9", BASE, "48") DO("r10", BASE, "56") DO("r11", BASE, "64")      \
	DO("r13", BASE, "72") DO("r14", BASE, "80") DO("r15", BASE, "88")
#define LOAD_GENERAL(REG, BASE, OFFSET) "mov " BASE "+" OFFSET "(%%rbx), %%" REG "\n\t"
#define STORE_GENERAL(REG, BASE, OFFSET) "mov %%" REG ", " BASE "+" OFFSET "(%%rbx)\n\t"

#define EACH_VECTOR(DO, MOVE, REG, BASE)                                                           \
	DO(MOVE, REG "0", BASE "+0") DO(MOVE, REG "1", BASE "+32")                                 \
	DO(MOVE, REG "2", BASE "+64") DO(MOVE, REG "3", BASE "+96")                                \
	DO(MOVE, REG "4", BASE "+128") DO(MOVE, REG "5", BASE "+160")                              \
	DO(MOVE, REG "6", BASE "+192") DO(MOVE, REG "7", BASE "+224")                              \
	DO(MOVE, REG "8", BASE "+256") DO(MOVE, REG "9", BASE "+288")                              \
	DO(MOVE, REG "10", BASE "+320") DO(MOVE, REG "11", BASE "+352")                            \
	DO(MOVE, REG "12", BASE "+384") DO(MOVE, REG "13", BASE "+416")                            \
	DO(MOVE, REG "14", BASE "+448") DO(MOVE, REG "15", BASE "+480")
#define LOAD_VECTOR(MOVE, REG, ADDRESS) MOVE " " ADDRESS "(%%rbx), %%" REG "\n\t"
#define STORE_VECTOR(MOVE, REG, ADDRESS) MOVE " %%" REG ", " ADDRESS "(%%rbx)\n\t"

/* r12 counts, so that all others hold their values for the whole loop. */
#define BUSY                                                                                       \
	"mov 1216(%%rbx), %%r12\n"                                                                 \
	"1:\n\t"                                                                                   \
	"dec %%r12\n\t"                                                                            \
	"jnz 1b\n\t"
/* The call changes rax, rcx and r11 and needs two more; what it must keep is checked. */
#define NANOSLEEP                                                                                  \
	"mov $35, %%eax\n\t"                                                                       \
	"lea 1224(%%rbx), %%rdi\n\t"                                                               \
	"xor %%esi, %%esi\n\t"                                                                     \
	"syscall\n\t"                                                                              \
	"mov %%rax, 1240(%%rbx)\n\t"                                                               \
	"mov 0(%%rbx), %%rax\n\t"                                                                  \
	"mov 8(%%rbx), %%rcx\n\t"                                                                  \
	"mov 24(%%rbx), %%rsi\n\t"                                                                 \
	"mov 32(%%rbx), %%rdi\n\t"                                                                 \
	"mov 64(%%rbx), %%r11\n\t"

#define HOLD(BODY, MOVE, REG, END)                                                                 \
	asm volatile("fldcw 1256(%%rbx)\n\t"                                                       \
		     "fldl 1264(%%rbx)\n\t"                                                        \
		     "ldmxcsr 1248(%%rbx)\n\t"                                                     \
		     EACH_VECTOR(LOAD_VECTOR, MOVE, REG, "96")                                     \
		     EACH_GENERAL(LOAD_GENERAL, "0") "mov 0(%%rbx), %%rax\n\t" BODY                \
		     "mov %%rax, 608(%%rbx)\n\t" EACH_GENERAL(STORE_GENERAL, "608")                \
		     EACH_VECTOR(STORE_VECTOR, MOVE, REG, "704")                                   \
		     "stmxcsr 1252(%%rbx)\n\t"                                                     \
		     "fstpl 1272(%%rbx)\n\t"                                                       \
		     "fnstcw 1258(%%rbx)\n\t" END                                                  \
		     :                                                                             \
		     : "b"(held)                                                                   \
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",  \
		       "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",       \
		       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",        \
		       "xmm15", "st", "memory", "cc")

static void hold_registers(struct check *check, struct registers *held, bool asleep)
{
	const uint16_t usual_x87_control = 0x37f;
	const uint32_t usual_mxcsr = 0x1f80;
	bool avx2 = __builtin_cpu_supports("avx2");
	size_t vector_bytes = avx2 ? 32 : 16;
	uint64_t state = check->n_iterations + 1;

	memset(held, 0, sizeof(*held));
	for (size_t i = 0; i < 12; i++)
		held->general[i] = next_random(&state);
	for (size_t i = 0; i < 16; i++)
		for (size_t byte = 0; byte < 32; byte++)
			held->vector[i][byte] = (unsigned char)next_random(&state);
	held->count = 4000000;
	held->sleep = timespec_of_ns(20 * NS_PER_MS);
	held->mxcsr = 0x9fc0;	    /* flush to zero, denormals are zeros */
	held->x87_control = 0x07f; /* single precision */
	held->x87 = 1.5 + (double)check->n_iterations;

	if (asleep && avx2)
		HOLD(NANOSLEEP, "vmovdqu", "ymm", "vzeroupper\n\t");
	else if (asleep)
		HOLD(NANOSLEEP, "movdqu", "xmm", "");
	else if (avx2)
		HOLD(BUSY, "vmovdqu", "ymm", "vzeroupper\n\t");
	else
		HOLD(BUSY, "movdqu", "xmm", "");
	asm volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(usual_mxcsr), "m"(usual_x87_control));

	for (size_t i = 0; i < 12; i++)
		if (held->general_after[i] != held->general[i])
			fail(check, "general register %zu is %#lx, not %#lx", i,
			     held->general_after[i], held->general[i]);
	for (size_t i = 0; i < 16; i++)
		if (memcmp(held->vector_after[i], held->vector[i], vector_bytes) != 0)
			fail(check, "vector register %zu changed", i);
	if (held->mxcsr_after != held->mxcsr)
		fail(check, "mxcsr is %#x, not %#x", held->mxcsr_after, held->mxcsr);
	if (held->x87_control_after != held->x87_control)
		fail(check, "x87 control is %#x, not %#x", held->x87_control_after, held->x87_control);
	if (memcmp(&held->x87_after, &held->x87, sizeof(double)) != 0)
		fail(check, "x87 holds %g, not %g", held->x87_after, held->x87);
}

static void check_registers_busy(struct check *check)
{
	struct registers held;

	hold_registers(check, &held, false);
	sleep_for(2 * NS_PER_MS);
}

static void check_registers_asleep(struct check *check)
{
	struct registers held;

	hold_registers(check, &held, true);
	if (held.result != 0)
		fail(check, "nanosleep: %s", strerror((int)-held.result));
}

/* ---- sleeping ---- */

static void check_nanosleep(struct check *check)
{
	struct timespec duration = timespec_of_ns(20 * NS_PER_MS);
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
	int failed = nanosleep(&duration, NULL);
	uint64_t slept_ns = clock_ns(CLOCK_MONOTONIC) - start_ns;

	if (failed)
		fail(check, "%s", strerror(errno));
	else if (slept_ns < 20 * NS_PER_MS)
		fail(check, "slept only %lu ns", slept_ns);
}

static void check_clock_nanosleep(struct check *check)
{
	uint64_t until_ns = clock_ns(CLOCK_MONOTONIC) + 15 * NS_PER_MS;
	struct timespec until = timespec_of_ns(until_ns);
	int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);

	if (error)
		fail(check, "%s", strerror(error));
	else if (clock_ns(CLOCK_MONOTONIC) < until_ns)
		fail(check, "woke too early");
}

static void check_futex(struct check *check)
{
	static uint32_t word;
	struct timespec duration = timespec_of_ns(20 * NS_PER_MS);
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
	long rc = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &duration, NULL, 0);
	int error = rc < 0 ? errno : 0;

	if (error != ETIMEDOUT)
		fail(check, "nobody wakes it, but: %s", strerror(error));
	else if (clock_ns(CLOCK_MONOTONIC) - start_ns < 20 * NS_PER_MS)
		fail(check, "timed out too early");
}

/* ---- waiting for what a peer sends ---- */

static int pipe_fds[2], socket_fds[2], event_fd, epoll_fd, quiet_epoll_fd, sem_id;

/* `n` is what the call returned; bytes come in sequence, and a failed call takes none. */
static void expect_byte(struct check *check, ssize_t n, unsigned char byte, unsigned char *next)
{
	if (n != 1) {
		fail(check, "returned %zd: %s", n, n < 0 ? strerror(errno) : "");
		return;
	}
	if (byte != *next)
		fail(check, "byte %u came, not %u", byte, *next);
	*next = (unsigned char)(byte + 1);
}

static void check_pipe(struct check *check)
{
	static unsigned char next;
	unsigned char byte = 0;
	ssize_t n = read(pipe_fds[0], &byte, 1);

	expect_byte(check, n, byte, &next);
}

/* With SO_RCVTIMEO the kernel does not restart recv by itself. */
static void check_recv(struct check *check)
{
	static unsigned char next;
	unsigned char byte = 0;
	ssize_t n = recv(socket_fds[0], &byte, 1, 0);

	expect_byte(check, n, byte, &next);
}

static void check_epoll_infinite(struct check *check)
{
	struct epoll_event event;
	uint64_t count;
	int n = epoll_wait(epoll_fd, &event, 1, -1);

	if (n != 1)
		fail(check, "epoll_wait returned %d: %s", n, n < 0 ? strerror(errno) : "");
	else if (read(event_fd, &count, sizeof(count)) != sizeof(count))
		fail(check, "eventfd: %s", strerror(errno));
}

static void check_epoll_finite(struct check *check)
{
	struct epoll_event event;
	uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
	int n = epoll_wait(quiet_epoll_fd, &event, 1, 25);

	if (n != 0)
		fail(check, "epoll_wait returned %d: %s", n, n < 0 ? strerror(errno) : "");
	else if (clock_ns(CLOCK_MONOTONIC) - start_ns < 24 * NS_PER_MS)
		fail(check, "timed out too early");
}

static void check_semtimedop(struct check *check)
{
	struct sembuf take = {.sem_num = 0, .sem_op = -1};
	struct timespec limit = timespec_of_ns(STALL_NS);

	if (semtimedop(sem_id, &take, 1, &limit) < 0)
		fail(check, "%s", strerror(errno));
}

static uint64_t n_payloads_taken;

static void check_sigtimedwait(struct check *check)
{
	struct timespec limit = timespec_of_ns(STALL_NS);
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIG_PAYLOAD);
	if (sigtimedwait(&set, &info, &limit) < 0) {
		fail(check, "%s", strerror(errno));
		return;
	}
	if (info.si_code != SI_QUEUE) {
		fail(check, "a signal of another sender came (si_code %d)", info.si_code);
		return;
	}
	if (info.si_value.sival_int != (int)n_payloads_taken)
		fail(check, "payload %d came, not %lu", info.si_value.sival_int, n_payloads_taken);
	__atomic_store_n(&n_payloads_taken, (uint64_t)info.si_value.sival_int + 1, __ATOMIC_RELEASE);
}

/* ---- signal handlers ---- */

#define TIMER_VALUE 4711
static volatile sig_atomic_t n_timer_handled, n_timer_wrong;

static void handle_timer(int signal, siginfo_t *info, void *context)
{
	(void)context;
	n_timer_handled++;
	if (signal != SIG_TIMER || info->si_code != SI_TIMER || info->si_value.sival_int != TIMER_VALUE)
		n_timer_wrong++;
}

static void check_timer(struct check *check)
{
	sig_atomic_t before = n_timer_handled;
	struct sigaction action;
	sigset_t wait_mask;

	if (check->n_iterations == 0) {
		struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIG_TIMER};
		struct itimerspec every = {.it_interval = timespec_of_ns(5 * NS_PER_MS),
					   .it_value = timespec_of_ns(5 * NS_PER_MS)};
		timer_t timer;

		event.sigev_value.sival_int = TIMER_VALUE;
		event._sigev_un._tid = gettid();
		if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 ||
		    timer_settime(timer, 0, &every, NULL) < 0)
			die("timer");
	}
	sigfillset(&wait_mask);
	sigdelset(&wait_mask, SIG_TIMER);
	sigsuspend(&wait_mask);
	if (n_timer_handled == before)
		fail(check, "sigsuspend returned without a signal");
	if (n_timer_wrong > 0)
		fail(check, "the handler saw a wrong value");
	sigaction(SIG_TIMER, NULL, &action);
	if (action.sa_sigaction != handle_timer || !(action.sa_flags & SA_SIGINFO))
		fail(check, "the disposition is lost");
}

static volatile sig_atomic_t n_itimer_handled;

static void handle_itimer(int signal)
{
	(void)signal;
	n_itimer_handled++;
}

static double harmonic_sum(void)
{
	volatile double sum = 0;

	for (int i = 1; i <= 1000; i++)
		sum += 1.0 / i;
	return sum;
}

/* The handler interrupts computation here, not a system call. */
static void check_itimer(struct check *check)
{
	static double want;
	sig_atomic_t before;
	sigset_t set;

	if (check->n_iterations == 0) {
		struct itimerval every = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000};

		want = harmonic_sum();
		if (setitimer(ITIMER_REAL, &every, NULL) < 0)
			die("setitimer");
	}
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	before = n_itimer_handled;
	do {
		double sum = harmonic_sum();

		if (sum < want || sum > want)
			fail(check, "the sum is %.17g, not %.17g", sum, want);
	} while (n_itimer_handled == before);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sleep_for(15 * NS_PER_MS);
}

static _Thread_local volatile sig_atomic_t in_masked_call, n_masked_handled, n_masked_wrong;

static void handle_masked(int signal)
{
	(void)signal;
	n_masked_handled++;
	if (!in_masked_call)
		n_masked_wrong++;
}

/* The signal is blocked but for the time inside the call: it may come nowhere else. */
static void check_masked(struct check *check, bool use_ppoll)
{
	struct timespec limit = timespec_of_ns(10 * NS_PER_MS);
	sig_atomic_t before = n_masked_handled;
	sigset_t mask;

	sigfillset(&mask);
	sigdelset(&mask, SIGUSR1);
	in_masked_call = 1;
	int rc = use_ppoll ? ppoll(NULL, 0, &limit, &mask)
			   : pselect(0, NULL, NULL, NULL, &limit, &mask);
	int error = rc < 0 ? errno : 0;

	in_masked_call = 0;
	bool handled = n_masked_handled != before;

	bool made_again = is_interruptible && handled && rc == 0;

	if (!made_again && (error != (handled ? EINTR : 0) || rc > 0))
		fail(check, "returned %d (%s) with%s signal", rc, strerror(error),
		     handled ? "" : "out");
	if (n_masked_wrong > 0)
		fail(check, "the signal came outside the call");
}

static void check_ppoll(struct check *check)
{
	check_masked(check, true);
}

static void check_pselect(struct check *check)
{
	check_masked(check, false);
}

#define ALTERNATE_BYTES (64 * 1024)
static unsigned char alternate_stack[ALTERNATE_BYTES];
static volatile sig_atomic_t n_alternate_handled, n_alternate_wrong;

static void handle_alternate(int signal)
{
	unsigned char here;

	(void)signal;
	if (&here < alternate_stack || &here >= alternate_stack + ALTERNATE_BYTES)
		n_alternate_wrong++;
	n_alternate_handled++;
}

static void check_sigaltstack(struct check *check)
{
	stack_t want = {.ss_sp = alternate_stack, .ss_size = ALTERNATE_BYTES}, now;
	sig_atomic_t before = n_alternate_handled;
	sigset_t wait_mask;

	if (check->n_iterations == 0 && sigaltstack(&want, NULL) < 0)
		die("sigaltstack");
	sigfillset(&wait_mask);
	sigdelset(&wait_mask, SIGUSR2);
	sigsuspend(&wait_mask);
	if (n_alternate_handled == before)
		fail(check, "sigsuspend returned without a signal");
	if (n_alternate_wrong > 0)
		fail(check, "the handler ran on another stack");
	if (sigaltstack(NULL, &now) < 0 || now.ss_sp != want.ss_sp || now.ss_size != want.ss_size)
		fail(check, "the alternate stack is lost");
}

/* ---- threads ---- */

static void *run_check(void *argument)
{
	struct check *check = argument;

	prctl(PR_SET_NAME, check->name);
	for (;;) {
		check->once(check);
		__atomic_fetch_add(&check->n_iterations, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static pthread_t start_thread(void *(*body)(void *), void *argument)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	errno = pthread_create(&thread, &attr, body, argument);
	if (errno != 0)
		die("pthread_create");
	pthread_attr_destroy(&attr);
	return thread;
}

static pthread_t start_check(const char *name, void (*once)(struct check *check))
{
	struct check *check = &checks[n_checks++];

	*check = (struct check){.name = name, .once = once};
	check->thread = start_thread(run_check, check);
	return check->thread;
}

struct peer_targets {
	pthread_t ppoll, pselect, sigaltstack;
};

/* Pokes every waiting check; what could pile up is held back until it was taken. */
static void *run_peer(void *argument)
{
	struct peer_targets *targets = argument;
	struct sembuf give = {.sem_num = 0, .sem_op = 1};
	uint64_t n_payloads = 0, one = 1;

	for (unsigned char byte = 0;; byte++) {
		if (write(pipe_fds[1], &byte, 1) != 1 || send(socket_fds[1], &byte, 1, 0) != 1 ||
		    write(event_fd, &one, sizeof(one)) != sizeof(one))
			die("peer");
		if (sem_id >= 0 && semop(sem_id, &give, 1) < 0)
			die("semop");
		for (int i = 0; i < 3; i++) {
			union sigval value = {.sival_int = (int)n_payloads};

			if (n_payloads - __atomic_load_n(&n_payloads_taken, __ATOMIC_ACQUIRE) < 8 &&
			    sigqueue(getpid(), SIG_PAYLOAD, value) == 0)
				n_payloads++;
		}
		pthread_kill(targets->ppoll, SIGUSR1);
		pthread_kill(targets->pselect, SIGUSR1);
		pthread_kill(targets->sigaltstack, SIGUSR2);
		sleep_for(PEER_PERIOD_NS);
	}
	return NULL;
}

static void *live_shortly(void *argument)
{
	static _Thread_local uint64_t thread_local_value = 1;

	*(uint64_t *)argument += thread_local_value;
	return argument;
}

static struct check churn = {.name = "churn"};

static void *run_churn(void *unused)
{
	for (;;) {
		uint64_t born = 0;

		pthread_join(start_thread(live_shortly, &born), NULL);
		if (born != 1)
			fail(&churn, "a thread added %lu, not 1", born);
		__atomic_fetch_add(&churn.n_iterations, 1, __ATOMIC_RELEASE);
	}
	return unused;
}

/* ---- commands ---- */

static int own_fds[MAX_OWN_FDS];
static size_t n_own_fds;

static bool is_own(int fd)
{
	for (size_t i = 0; i < n_own_fds; i++)
		if (own_fds[i] == fd)
			return true;
	return false;
}

/* Counts the descriptors that were not there when `remember` was given; names them in `names`. */
static size_t list_fds(bool remember, char *names, size_t size)
{
	DIR *directory = opendir("/proc/self/fd");
	size_t n_foreign = 0, used = 0;
	struct dirent *entry;

	if (directory == NULL)
		die("/proc/self/fd");
	while ((entry = readdir(directory)) != NULL) {
		int fd = atoi(entry->d_name);
		char link[128];

		if (entry->d_name[0] == '.' || fd == dirfd(directory) || is_own(fd))
			continue;
		if (remember) {
			own_fds[n_own_fds++] = fd;
			continue;
		}
		ssize_t length = readlinkat(dirfd(directory), entry->d_name, link, sizeof(link) - 1);

		link[length < 0 ? 0 : length] = '\0';
		used += (size_t)snprintf(names + used, size - used, " %d=%s", fd, link);
		if (used >= size)
			used = size - 1;
		n_foreign++;
	}
	closedir(directory);
	return n_foreign;
}

static void print_fds(void)
{
	char names[512] = "";
	size_t n = list_fds(false, names, sizeof(names));

	answer("ok %zu%s", n, names);
}

static uint64_t iterations_of(const struct check *check)
{
	return __atomic_load_n(&check->n_iterations, __ATOMIC_ACQUIRE);
}

/* True when the check that was under way and one whole new one are over. */
static bool went_round(const struct check *check, uint64_t before, uint64_t deadline_ns)
{
	while (iterations_of(check) < before + 2) {
		if (clock_ns(CLOCK_MONOTONIC) > deadline_ns)
			return false;
		sleep_for(NS_PER_MS);
	}
	return true;
}

static bool print_status(void)
{
	uint64_t before[MAX_CHECKS], n_iterations = iterations_of(&churn);
	uint64_t n_errors = __atomic_load_n(&churn.n_errors, __ATOMIC_ACQUIRE);

	uint64_t deadline_ns = clock_ns(CLOCK_MONOTONIC) + STALL_NS;

	for (size_t i = 0; i < n_checks; i++)
		before[i] = iterations_of(&checks[i]);
	for (size_t i = 0; i < n_checks; i++) {
		if (!went_round(&checks[i], before[i], deadline_ns))
			fail(&checks[i], "stands still");
		n_iterations += iterations_of(&checks[i]);
		n_errors += __atomic_load_n(&checks[i].n_errors, __ATOMIC_ACQUIRE);
	}
	pthread_mutex_lock(&error_lock);
	answer("%s checks=%zu iterations=%lu errors=%lu first=%s last=%s",
	       n_errors == 0 ? "ok" : "bad", n_checks, n_iterations, n_errors, first_error, last_error);
	pthread_mutex_unlock(&error_lock);
	return n_errors == 0;
}

static void handle(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

	sigfillset(&action.sa_mask);
	if (sigaction(signal, &action, NULL) < 0)
		die("sigaction");
}

/* A semaphore outlives its maker, an IPC namespace does not; without the right to one, no check. */
static int make_semaphore(void)
{
	if (unshare(CLONE_NEWIPC) < 0)
		return -1;
	int id = semget(IPC_PRIVATE, 1, 0600);

	if (id < 0)
		die("semget");
	return id;
}

static void set_up_waiting(void)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct timeval limit = {.tv_sec = 10};

	if (pipe(pipe_fds) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, socket_fds) < 0)
		die("pipe");
	if (setsockopt(socket_fds[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
		die("SO_RCVTIMEO");
	event_fd = eventfd(0, 0);
	epoll_fd = epoll_create1(0);
	quiet_epoll_fd = epoll_create1(0);
	if (event_fd < 0 || epoll_fd < 0 || quiet_epoll_fd < 0 ||
	    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event_fd, &event) < 0)
		die("epoll");
	sem_id = make_semaphore();
}

static void set_up_signals(bool blocks_all)
{
	struct sigaction timer = {.sa_sigaction = handle_timer, .sa_flags = SA_SIGINFO};
	sigset_t all;

	sigfillset(&all);
	if (!blocks_all)
		sigdelset(&all, SIGURG);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	sigfillset(&timer.sa_mask);
	if (sigaction(SIG_TIMER, &timer, NULL) < 0)
		die("sigaction");
	handle(SIGALRM, handle_itimer, SA_RESTART);
	handle(SIGUSR1, handle_masked, 0);
	handle(SIGUSR2, handle_alternate, SA_ONSTACK);
}

static void start_checks(struct peer_targets *targets)
{
	start_check("registers", check_registers_busy);
	start_check("regs-asleep", check_registers_asleep);
	start_check("nanosleep", check_nanosleep);
	start_check("clock-nanosleep", check_clock_nanosleep);
	start_check("futex", check_futex);
	start_check("pipe", check_pipe);
	start_check("recv", check_recv);
	start_check("epoll", check_epoll_infinite);
	start_check("epoll-timeout", check_epoll_finite);
	if (sem_id >= 0)
		start_check("semtimedop", check_semtimedop);
	start_check("sigtimedwait", check_sigtimedwait);
	start_check("timer", check_timer);
	start_check("itimer", check_itimer);
	targets->ppoll = start_check("ppoll", check_ppoll);
	targets->pselect = start_check("pselect", check_pselect);
	targets->sigaltstack = start_check("sigaltstack", check_sigaltstack);
	start_thread(run_peer, targets);
}

int main(int argc, char **argv)
{
	static struct peer_targets targets;
	unsigned long n;
	char line[256];

	die_with_parent();
	is_interruptible = argc > 1 && strcmp(argv[1], "interruptible") == 0;
	set_up_signals(strcmp(argv[argc - 1], "all-blocked") == 0);
	set_up_waiting();
	list_fds(true, NULL, 0);
	start_checks(&targets);

	answer("ready pid=%d", getpid());
	while (next_command(line, sizeof(line))) {
		if (strcmp(line, "status") == 0)
			print_status();
		else if (strcmp(line, "fds") == 0)
			print_fds();
		else if (sscanf(line, "threads %lu", &n) == 1) {
			for (; n > 0; n--)
				start_thread(run_churn, NULL);
			answer("ok");
		} else if (strcmp(line, "quit") == 0)
			return print_status() ? 0 : 1;
		else
			answer("bad unknown command '%s'", line);
	}
	return 1;
}
