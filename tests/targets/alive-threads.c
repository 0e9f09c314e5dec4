/* Threads that are to come back exactly, with their registers; see alive.h. */
#include "alive.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <ucontext.h>

#define THREADS 4
#define STACK_BYTES 16384UL

/* ---- threads that do what they are told ---- */

static struct one {
	pthread_t handle;
	pid_t tid;
	pthread_mutex_t lock;
	pthread_cond_t told;
	void (*act)(int index);
} threads[THREADS];

static char stacks[THREADS][STACK_BYTES];
static __thread uint64_t own_value;
static uint64_t gs_values[THREADS];

static void *obey(void *argument)
{
	int index = (int)(long)argument;
	struct one *self = &threads[index];

	self->tid = gettid();
	pthread_mutex_lock(&self->lock);
	for (;;) {
		while (self->act == NULL)
			pthread_cond_wait(&self->told, &self->lock);
		self->act(index);
		self->act = NULL;
		pthread_cond_signal(&self->told);
	}
	return NULL;
}

/* In that thread, until it has done it. */
static void tell(int index, void (*act)(int index))
{
	struct one *one = &threads[index];

	pthread_mutex_lock(&one->lock);
	one->act = act;
	pthread_cond_signal(&one->told);
	while (one->act != NULL)
		pthread_cond_wait(&one->told, &one->lock);
	pthread_mutex_unlock(&one->lock);
}

static void tell_all(void (*act)(int index))
{
	for (int index = 0; index < THREADS; index++)
		tell(index, act);
}

static void set_up_threads(void)
{
	for (long index = 0; index < THREADS; index++) {
		pthread_mutex_init(&threads[index].lock, NULL);
		pthread_cond_init(&threads[index].told, NULL);
		must(pthread_create(&threads[index].handle, NULL, obey, (void *)index) == 0, "pthread_create");
	}
}

/* ---- ids, thread-local storage ---- */

static pid_t own_pid, own_tid;

static void set_own(int index)
{
	own_value = 0xabcd0000UL + (uint64_t)index;
	must(syscall(SYS_arch_prctl, ARCH_SET_GS, &gs_values[index]) == 0, "ARCH_SET_GS");
}

static void check_own(int index)
{
	unsigned long gs = 0;

	compare_number("a thread's id", (uint64_t)threads[index].tid, (uint64_t)gettid());
	compare_number("a thread's process", (uint64_t)own_pid, (uint64_t)getpid());
	compare_number("a thread's own variable", 0xabcd0000UL + (uint64_t)index, own_value);
	must(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs) == 0, "ARCH_GET_GS");
	compare_number("a thread's gs base", (uint64_t)(uintptr_t)&gs_values[index], gs);
}

static void spoil_own(int index)
{
	must(syscall(SYS_arch_prctl, ARCH_SET_GS, &gs_values[index] + 1) == 0, "ARCH_SET_GS");
}

static void set_up_identity(void)
{
	set_up_threads();
	own_pid = getpid();
	own_tid = gettid();
	tell_all(set_own);
}

static void check_identity(void)
{
	compare_number("the main thread's id", (uint64_t)own_tid, (uint64_t)gettid());
	tell_all(check_own);
}

static void spoil_identity(void)
{
	tell(2, spoil_own);
}

/* ---- what the kernel keeps of each thread, as text ---- */

static char before[THREADS][1024];

static void set_peculiar(int index)
{
	static const int policies[THREADS] = {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_BATCH | SCHED_RESET_ON_FORK};
	static const char *const names[THREADS] = {"one", "tw) o", "three \\ \n x", "fifteen letters"};
	struct sched_param none = {0};
	stack_t stack = {.ss_sp = stacks[index], .ss_size = STACK_BYTES - 16UL * (unsigned)index};
	sigset_t set;
	cpu_set_t cpus;

	must(prctl(PR_SET_NAME, names[index]) == 0, "PR_SET_NAME");
	must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
	sigemptyset(&set);
	sigaddset(&set, 40 + index);
	sigaddset(&set, SIGTERM);
	must(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0, "pthread_sigmask");
	if (index % 2 == 1) {
		CPU_ZERO(&cpus);
		CPU_SET(0, &cpus);
		must(sched_setaffinity(0, sizeof(cpus), &cpus) == 0, "sched_setaffinity");
	}
	must(sched_setscheduler(0, policies[index], &none) == 0, "sched_setscheduler");
	must(setpriority(PRIO_PROCESS, 0, 3 + index) == 0, "setpriority");
	must(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | index) == 0, "ioprio_set");
	must(prctl(PR_SET_TIMERSLACK, 100000UL + (unsigned)index) == 0, "PR_SET_TIMERSLACK");
}

static void describe(char *into)
{
	char name[16];
	stack_t stack;
	uint64_t mask = 0, cpus[16] = {0}, clear_tid = 0;
	void *robust = NULL;
	size_t robust_bytes = 0;

	must(prctl(PR_GET_NAME, name) == 0 && sigaltstack(NULL, &stack) == 0, "prctl");
	must(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8) == 0, "rt_sigprocmask");
	must(syscall(SYS_sched_getaffinity, 0, sizeof(cpus), cpus) > 0, "sched_getaffinity");
	must(prctl(PR_GET_TID_ADDRESS, &clear_tid) == 0, "PR_GET_TID_ADDRESS");
	must(syscall(SYS_get_robust_list, 0, &robust, &robust_bytes) == 0, "get_robust_list");
	sprintf(into,
		"name=%s\nstack=%p %zu %d\nmask=%#lx\ncpus=%#lx\npolicy=%d\nnice=%d\nioprio=%ld\nslack=%d\nclear_tid=%#lx\n"
		"robust=%p %zu\n",
		name, stack.ss_sp, stack.ss_size, stack.ss_flags, mask, cpus[0], sched_getscheduler(0),
		getpriority(PRIO_PROCESS, 0), syscall(SYS_ioprio_get, 1, 0), prctl(PR_GET_TIMERSLACK), clear_tid, robust,
		robust_bytes);
}

static void remember(int index)
{
	set_peculiar(index);
	describe(before[index]);
}

static void check_settings_of(int index)
{
	char now[1024];

	describe(now);
	compare_text("a setting", before[index], now);
}

static void spoil_settings_of(int index)
{
	(void)index;
	must(prctl(PR_SET_TIMERSLACK, 123456UL) == 0, "PR_SET_TIMERSLACK");
}

static void set_up_settings(void)
{
	tell_all(remember);
}

static void check_settings(void)
{
	tell_all(check_settings_of);
}

static void spoil_settings(void)
{
	tell(1, spoil_settings_of);
}

/* ---- the end of a thread: robust mutex, cleared id, join ---- */

static pthread_t holder;
static pthread_mutex_t robust;
static volatile bool holds, leaves;

static void *hold_and_leave(void *argument)
{
	must(pthread_mutex_lock(&robust) == 0, "pthread_mutex_lock");
	holds = true;
	while (!leaves)
		nap_ns(POLL_NS);
	return (char *)argument + 77;
}

static void start_holder(void)
{
	leaves = holds = false;
	must(pthread_create(&holder, NULL, hold_and_leave, (void *)1000) == 0, "pthread_create");
	must(came_true(holds), "the holder holds");
}

static void set_up_end(void)
{
	pthread_mutexattr_t attributes;

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	start_holder();
}

static void check_end(void)
{
	struct timespec deadline = timespec_of_ns(clock_ns(CLOCK_REALTIME) + 3 * NS_PER_S);
	void *result = NULL;

	leaves = true;
	int locked = pthread_mutex_timedlock(&robust, &deadline);
	int joined = pthread_timedjoin_np(holder, &result, &deadline);

	compare_number("a lock whose holder ended", EOWNERDEAD, (uint64_t)locked);
	compare_number("a join", 0, (uint64_t)joined);
	compare_number("a thread's result", 1077, (uint64_t)(uintptr_t)result);
	if (locked != EOWNERDEAD)
		return;
	pthread_mutex_consistent(&robust);
	pthread_mutex_unlock(&robust);
	start_holder();
}

/* The kernel does not know of its list, and lets it end without a word. */
static void *hold_unknown(void *argument)
{
	must(syscall(SYS_set_robust_list, NULL, 24) == 0, "set_robust_list");
	return hold_and_leave(argument);
}

static void spoil_end(void)
{
	leaves = true;
	must(pthread_join(holder, NULL) == 0, "pthread_join");
	pthread_mutex_lock(&robust);
	pthread_mutex_consistent(&robust);
	pthread_mutex_unlock(&robust);
	leaves = holds = false;
	must(pthread_create(&holder, NULL, hold_unknown, (void *)1000) == 0, "pthread_create");
	must(came_true(holds), "the holder holds");
}

/* ---- restartable sequences ---- */

static void check_rseq_of(int index)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	unsigned bytes = __rseq_size < 32 ? 32 : __rseq_size;

	(void)index;
	long result = syscall(SYS_rseq, area, bytes, 0, RSEQ_SIG);
	int error = errno;

	if (result == 0)
		syscall(SYS_rseq, area, bytes, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
	if (result == 0 || error != EBUSY)
		wrong("registering it once more: %s", result == 0 ? "done" : strerror(error));
	compare_number("the CPU", (uint64_t)area->cpu_id_start, (uint64_t)area->cpu_id);
	if (area->cpu_id >= (unsigned)sysconf(_SC_NPROCESSORS_CONF))
		wrong("the CPU is %d", (int)area->cpu_id);
}

static void check_rseq(void)
{
	check_rseq_of(0);
	tell_all(check_rseq_of);
}

static void unregister_rseq(int index)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	(void)index;
	must(syscall(SYS_rseq, area, __rseq_size < 32 ? 32 : __rseq_size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0, "rseq");
}

static void spoil_rseq(void)
{
	tell(3, unregister_rseq);
}

static pthread_t in_section;
static struct rseq *section_area;
static volatile uint64_t n_aborts;

static void handle_nothing(int number)
{
	(void)number;
}

/* Nothing in the sequence leads out of it: a thread for which the kernel has forgotten it stays there for ever. */
static void *stay_in_section(void *unused)
{
	section_area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
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
				  : "r"(section_area), "i"(offsetof(struct rseq, rseq_cs))
				  : "rax", "memory", "cc"
				  : aborted);
	aborted:
		n_aborts++;
	}
	return unused;
}

static void set_up_section(void)
{
	struct sigaction action = {.sa_handler = handle_nothing};

	must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
	must(pthread_create(&in_section, NULL, stay_in_section, NULL) == 0, "pthread_create");
	must(came_true(*(void *volatile *)&section_area != NULL), "a thread in its section");
}

static void check_section(void)
{
	uint64_t aborts = n_aborts;

	must(pthread_kill(in_section, SIGUSR1) == 0, "pthread_kill");
	if (!came_true(n_aborts > aborts))
		wrong("a signal does not abort it");
}

/* As a kernel that has forgotten the section; the thread may be on its way back into it. */
static void spoil_section(void)
{
	for (int i = 0; i < 1000; i++) {
		*(volatile uint64_t *)&section_area->rseq_cs = 0;
		nap_ns(NS_PER_MS / 10);
	}
}

/* ---- registers ---- */

#define XSTATE_BYTES 16384
#define LEGACY_BYTES 416
#define HEADER_BYTES 64
#define COMPONENTS (1UL << 1 | 1UL << 2 | 1UL << 5 | 1UL << 6 | 1UL << 7 | 1UL) /* x87, SSE, AVX, AVX-512 */
#define OWN_FLAGS 0x400				       /* DF */
#define HELD_REGISTERS 8

struct held {
	uint32_t released; /* what rdi points to */
	uint32_t sleeps;
	uint64_t components;			   /* 8 */
	uint64_t registers[HELD_REGISTERS];	   /* 16: rbx rbp r8 r9 r12 r13 r14 r15 */
	uint64_t registers_after[HELD_REGISTERS];  /* 80 */
	uint64_t flags_after, others_after[3];	   /* 144; 152: rsi rdx r10 */
	volatile uint32_t is_held, is_compared;
	pthread_t handle;
	char found[200];
	uint8_t xstate[XSTATE_BYTES] __attribute__((aligned(64))); /* HELD_XSTATE */
	uint8_t xstate_after[XSTATE_BYTES] __attribute__((aligned(64)));
};

#define HELD_XSTATE 448
#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

_Static_assert(offsetof(struct held, xstate) == HELD_XSTATE && offsetof(struct held, flags_after) == 144, "used below");

/* Loads all registers, waits in a loop or in a system call until it is released, and stores all registers. */
void hold(struct held *held);
asm(".text\n"
    ".type hold, @function\n"
    "hold:\n\t"
    "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
    "mov 8(%rdi), %eax\n\t"
    "mov 12(%rdi), %edx\n\t"
    "xrstor64 " NUMBER(HELD_XSTATE) "(%rdi)\n\t"
    "mov 16(%rdi), %rbx\n\tmov 24(%rdi), %rbp\n\tmov 32(%rdi), %r8\n\tmov 40(%rdi), %r9\n\t"
    "mov 48(%rdi), %r12\n\tmov 56(%rdi), %r13\n\tmov 64(%rdi), %r14\n\tmov 72(%rdi), %r15\n\t"
    "mov $128, %esi\n\t" /* FUTEX_WAIT | FUTEX_PRIVATE_FLAG */
    "xor %edx, %edx\n\t"
    "xor %r10d, %r10d\n\t"
    "std\n"
    "1:\n\t"
    "pause\n\t"
    "cmpl $0, 4(%rdi)\n\t"
    "je 2f\n\t"
    "mov $202, %eax\n\t" /* futex */
    "syscall\n"
    "2:\n\t"
    "cmpl $0, (%rdi)\n\t"
    "je 1b\n\t"
    "pushfq\n\t"
    "cld\n\t"
    "popq 144(%rdi)\n\t"
    "mov %rsi, 152(%rdi)\n\tmov %rdx, 160(%rdi)\n\tmov %r10, 168(%rdi)\n\t"
    "mov %rbx, 80(%rdi)\n\tmov %rbp, 88(%rdi)\n\tmov %r8, 96(%rdi)\n\tmov %r9, 104(%rdi)\n\t"
    "mov %r12, 112(%rdi)\n\tmov %r13, 120(%rdi)\n\tmov %r14, 128(%rdi)\n\tmov %r15, 136(%rdi)\n\t"
    "mov 8(%rdi), %eax\n\t"
    "mov 12(%rdi), %edx\n\t"
    "xsave64 " NUMBER(HELD_XSTATE) " + " NUMBER(XSTATE_BYTES) "(%rdi)\n\t"
    "fninit\n\t"
    "pushq $0x1f80\n\t"
    "ldmxcsr (%rsp)\n\t"
    "pop %rax\n\t"
    "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
    "ret\n\t"
    ".size hold, . - hold\n");

static uint64_t components_here(void)
{
	uint32_t low, high;

	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return COMPONENTS & ((uint64_t)high << 32 | low);
}

static void fill_registers(struct held *held)
{
	uint64_t state = (uintptr_t)held;

	for (int i = 0; i < HELD_REGISTERS; i++)
		held->registers[i] = next_random(&state);
	for (size_t i = 0; i < XSTATE_BYTES; i += 8)
		*(uint64_t *)(held->xstate + i) = next_random(&state);
	memset(held->xstate, 0, 32);
	*(uint16_t *)held->xstate = 0x0b7f;	     /* FCW: rounds up, all exceptions masked */
	held->xstate[4] = 0xff;			     /* all of the x87 registers are in use */
	*(uint32_t *)(held->xstate + 24) = 0xbf80; /* MXCSR: rounds up, flushes to zero, all exceptions masked */
	for (size_t i = 32; i < 160; i += 16)
		memset(held->xstate + i + 10, 0, 6);
	memset(held->xstate + LEGACY_BYTES, 0, 512 + HEADER_BYTES - LEGACY_BYTES);
	held->components = components_here();
	*(uint64_t *)(held->xstate + 512) = held->components;
	memset(held->xstate_after, 0, XSTATE_BYTES);
}

static void compare_bytes(struct held *held, const char *what, const void *first, const void *second, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (((const uint8_t *)first)[i] != ((const uint8_t *)second)[i] && held->found[0] == '\0')
			sprintf(held->found, "%s differ at byte %zu: %#x was %#x", what, i, ((const uint8_t *)second)[i],
				((const uint8_t *)first)[i]);
}

static void compare_registers(struct held *held)
{
	static const uint64_t others[3] = {128, 0, 0};

	compare_bytes(held, "general registers", held->registers, held->registers_after, sizeof(held->registers));
	compare_bytes(held, "arguments", others, held->others_after, sizeof(others));
	if (!(held->flags_after & OWN_FLAGS))
		strcpy(held->found, "the flag DF is clear");
	compare_bytes(held, "x87 registers' settings", held->xstate, held->xstate_after, 5);
	compare_bytes(held, "MXCSR", held->xstate + 24, held->xstate_after + 24, 4);
	compare_bytes(held, "x87 and SSE registers", held->xstate + 32, held->xstate_after + 32, LEGACY_BYTES - 32);
	for (unsigned i = 2; i < 8; i++) {
		uint32_t bytes, offset, c, d;
		char what[40];

		if (!(held->components >> i & 1))
			continue;
		__cpuid_count(0xd, i, bytes, offset, c, d);
		sprintf(what, "registers of state component %u", i);
		compare_bytes(held, what, held->xstate + offset, held->xstate_after + offset, bytes);
	}
}

static void *hold_registers(void *argument)
{
	struct held *held = argument;

	for (;;) {
		fill_registers(held);
		held->released = 0;
		held->is_held = 1;
		hold(held);
		held->found[0] = '\0';
		compare_registers(held);
		held->is_held = 0;
		held->is_compared = 1;
		while (held->is_compared)
			nap_ns(NS_PER_MS);
	}
	return NULL;
}

/* Flips a bit of a register, by the frame from which the kernel loads all of them when the handler returns. */
static void flip_register(int number, siginfo_t *info, void *context)
{
	uint8_t *xstate = (uint8_t *)((ucontext_t *)context)->uc_mcontext.fpregs;
	uint64_t components = components_here();

	(void)number, (void)info;
	xstate[components & 1UL << 2 ? 576 + 9 * 16 + 3 : 160 + 9 * 16 + 3] ^= 0x20; /* of ymm9's upper half, or xmm9 */
}

static struct held spinning, sleeping = {.sleeps = 1};

static void start_to_hold(struct held *held)
{
	struct sigaction action = {.sa_sigaction = flip_register, .sa_flags = SA_SIGINFO | SA_RESTART};

	must(sigaction(SIGUSR2, &action, NULL) == 0, "sigaction");
	must(pthread_create(&held->handle, NULL, hold_registers, held) == 0, "pthread_create");
	must(came_true(held->is_held), "registers to be held");
}

static void check_held(struct held *held)
{
	__atomic_store_n(&held->released, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &held->released, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	if (!came_true(held->is_compared)) {
		wrong("it waits for ever");
		return;
	}
	if (held->found[0] != '\0')
		wrong("%s", held->found);
	held->is_compared = 0;
	must(came_true(held->is_held), "registers to be held");
}

static void set_up_spinning(void)
{
	start_to_hold(&spinning);
}

static void check_spinning(void)
{
	check_held(&spinning);
}

static void spoil_spinning(void)
{
	must(pthread_kill(spinning.handle, SIGUSR2) == 0, "pthread_kill");
}

static void set_up_sleeping(void)
{
	start_to_hold(&sleeping);
}

static void check_sleeping(void)
{
	check_held(&sleeping);
}

static void spoil_sleeping(void)
{
	must(pthread_kill(sleeping.handle, SIGUSR2) == 0, "pthread_kill");
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{"identity", set_up_identity, check_identity, spoil_identity},
		{"settings", set_up_settings, check_settings, spoil_settings},
		{"rseq", NULL, check_rseq, spoil_rseq},
		{"registers-in-a-loop", set_up_spinning, check_spinning, spoil_spinning},
		{"registers-in-a-call", set_up_sleeping, check_sleeping, spoil_sleeping},
		{"end", set_up_end, check_end, spoil_end},
		{"section", set_up_section, check_section, spoil_section},
		{NULL, NULL, NULL, NULL},
	};

	live(argc, argv, parts);
}
