/* Signals and timers that are to come back exactly; see alive.h. */
#include "alive.h"

#include <pthread.h>
#include <sys/time.h>

#define TIMERS 4
#define PENDING_FIRST (SIGRTMIN + 10)
#define SIG_TICK (SIGRTMIN + 2)
#define SIG_WITH_VALUE (SIGRTMIN + 3)
#define STACK_BYTES 32768UL
#define TICK_NS (3 * NS_PER_MS)

struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

/* ---- dispositions ---- */

static struct kernel_action actions[65];
static stack_t signal_stack;
static char stack_room[STACK_BYTES];
static volatile bool was_on_stack;
static volatile uint64_t value_seen;

static void on_value(int number, siginfo_t *info, void *context)
{
	char here;

	(void)number, (void)context;
	was_on_stack = &here >= stack_room && &here < stack_room + STACK_BYTES;
	value_seen = (uint64_t)(uintptr_t)info->si_value.sival_ptr;
}

static void on_signal(int number)
{
	(void)number;
}

static void act_on(int number, void (*handler)(int), int flags, int also_blocked)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, also_blocked);
	must(sigaction(number, &action, NULL) == 0, "sigaction");
}

/* Flags of what is at its default say something with SIGCHLD only; otherwise they are left from earlier calls. */
static void get_actions(struct kernel_action *into)
{
	for (int number = 1; number <= 64; number++) {
		must(syscall(SYS_rt_sigaction, number, NULL, &into[number], 8) == 0, "rt_sigaction");
		if (into[number].handler == 0 && number != SIGCHLD)
			into[number] = (struct kernel_action){0};
	}
}

static void set_up_dispositions(void)
{
	struct sigaction with_value = {.sa_sigaction = on_value, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	for (int number = 1; number < 32; number++)
		signal(number, SIG_DFL); /* whoever started it may ignore some */
	act_on(SIGHUP, SIG_IGN, 0, SIGTERM);
	act_on(SIGCHLD, SIG_DFL, SA_NOCLDWAIT | SA_NOCLDSTOP, SIGINT);
	act_on(SIGWINCH, on_signal, SA_RESTART | SA_NODEFER, 64);
	act_on(50, on_signal, (int)SA_RESETHAND, 33);
	must(sigaction(SIG_WITH_VALUE, &with_value, NULL) == 0, "sigaction");
	signal_stack = (stack_t){.ss_sp = stack_room, .ss_size = STACK_BYTES};
	must(sigaltstack(&signal_stack, NULL) == 0, "sigaltstack");
	get_actions(actions);
}

static void check_dispositions(void)
{
	static struct kernel_action now[65];
	union sigval value = {.sival_ptr = (void *)0x1122334455667788};

	get_actions(now);
	for (int number = 1; number <= 64; number++)
		if (memcmp(&now[number], &actions[number], sizeof(now[0])) != 0)
			wrong("of signal %d: handler %#lx flags %#lx mask %#lx, was %#lx %#lx %#lx", number, now[number].handler,
			      now[number].flags, now[number].mask, actions[number].handler, actions[number].flags,
			      actions[number].mask);
	was_on_stack = false;
	value_seen = 0;
	must(sigqueue(getpid(), SIG_WITH_VALUE, value) == 0, "sigqueue");
	compare_number("the value that a handler got", 0x1122334455667788, value_seen);
	compare_number("whether it was on the signal stack", true, was_on_stack);
}

static void spoil_dispositions(void)
{
	act_on(50, on_signal, (int)SA_RESETHAND, 34);
}

/* ---- pending signals ---- */

static pthread_t other;
static volatile bool other_takes, other_is_ready;
static char pending_before[512], pending_now[512];
static pid_t other_tid;

static int value_of(int number, int nth)
{
	return number * 1000 + nth;
}

/* Of a number two with values; standard signals once. */
static void take(int number, int expected_code, bool has_value)
{
	const struct timespec at_once = {0, 0};
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	for (int nth = 0; nth < (has_value ? 2 : 1); nth++) {
		if (syscall(SYS_rt_sigtimedwait, &set, &info, &at_once, 8) != number) {
			wrong("signal %d, number %d of it, is gone", number, nth);
			continue;
		}
		if (info.si_code != expected_code || info.si_pid != getpid() || info.si_uid != getuid())
			wrong("signal %d has code %d, process %d, user %d", number, info.si_code, info.si_pid, (int)info.si_uid);
		if (has_value && info.si_value.sival_int != value_of(number, nth))
			wrong("signal %d, number %d of it, has value %d", number, nth, info.si_value.sival_int);
	}
	if (sigtimedwait(&set, &info, &at_once) == number)
		wrong("signal %d came once too often", number);
}

/* To the process, to this thread, and to the other one. */
static void queue_pending(void)
{
	for (int nth = 0; nth < 2; nth++) {
		for (int i = 0; i < 3; i++) {
			int number = PENDING_FIRST + i;
			union sigval value = {.sival_int = value_of(number, nth)};

			must(i == 0   ? sigqueue(getpid(), number, value) == 0
			     : i == 1 ? pthread_sigqueue(pthread_self(), number, value) == 0
				      : pthread_sigqueue(other, number, value) == 0,
			     "sigqueue");
		}
	}
	must(kill(getpid(), SIGUSR1) == 0 && pthread_kill(other, SIGUSR2) == 0, "kill");
}

static void *take_when_told(void *unused)
{
	other_tid = gettid();
	other_is_ready = true;
	for (;;) {
		while (!other_takes)
			nap_ns(POLL_NS);
		take(PENDING_FIRST + 2, SI_QUEUE, true);
		take(SIGUSR2, SI_TKILL, false);
		other_takes = false;
	}
	return unused;
}

static void tell_masks(char *into, size_t size, pid_t tid)
{
	static const char *const names[] = {"SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"};
	static char status[8192];
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	read_whole(path, status, sizeof(status));
	into[0] = '\0';
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *line = strstr(status, names[i]);

		strncat(into, line, strcspn(line, "\n") + 1);
	}
	must(strlen(into) < size, "status");
}

static void tell_pending(char *into)
{
	tell_masks(into, 256, gettid());
	tell_masks(into + strlen(into), 256, other_tid);
}

static void set_up_pending(void)
{
	sigset_t set;

	sigemptyset(&set);
	for (int number = PENDING_FIRST; number < PENDING_FIRST + 3; number++)
		sigaddset(&set, number);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	must(sigprocmask(SIG_BLOCK, &set, NULL) == 0, "sigprocmask");
	must(pthread_create(&other, NULL, take_when_told, NULL) == 0 && came_true(other_is_ready), "pthread_create");
	queue_pending();
}

static void check_pending(void)
{
	if (pending_before[0] == '\0')
		tell_pending(pending_before); /* after all has been set up */
	tell_pending(pending_now);
	compare_text("masks", pending_before, pending_now);
	take(PENDING_FIRST, SI_QUEUE, true);
	take(PENDING_FIRST + 1, SI_QUEUE, true);
	take(SIGUSR1, SI_USER, false);
	other_takes = true;
	if (!came_true(!other_takes))
		wrong("the other thread does not answer");
	queue_pending();
}

static void spoil_pending(void)
{
	union sigval value = {.sival_int = 5};

	must(sigqueue(getpid(), PENDING_FIRST, value) == 0, "sigqueue");
}

/* ---- timers ---- */

static int timer_ids[TIMERS];
static const uint64_t first_s[TIMERS] = {5000, 6000, 0, 7000}, interval_s[TIMERS] = {3, 0, 0, 11};
static uint64_t timers_set_ns;

static int make_timer(clockid_t clock, int notify, int number, pid_t tid)
{
	struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_int = 4321};
	int id = -1;

	event._sigev_un._tid = tid;
	must(syscall(SYS_timer_create, clock, &event, &id) == 0, "timer_create");
	return id;
}

static void set_timer(int id, uint64_t first_ns, uint64_t interval_ns)
{
	struct itimerspec spec = {timespec_of_ns(interval_ns), timespec_of_ns(first_ns)};

	must(syscall(SYS_timer_settime, id, 0, &spec, NULL) == 0, "timer_settime");
}

static void set_up_timers(void)
{
	int removed = make_timer(CLOCK_REALTIME, SIGEV_NONE, 0, 0);

	timer_ids[0] = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, 40, 0);
	timer_ids[1] = make_timer(CLOCK_REALTIME, SIGEV_NONE, 0, 0);
	timer_ids[2] = make_timer(CLOCK_BOOTTIME, SIGEV_SIGNAL, 41, 0);
	timer_ids[3] = make_timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, 42, 0);
	must(syscall(SYS_timer_delete, removed) == 0, "timer_delete");
	timers_set_ns = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < TIMERS; i++)
		set_timer(timer_ids[i], first_s[i] * NS_PER_S, interval_s[i] * NS_PER_S);
	must(setitimer(ITIMER_REAL, &(struct itimerval){{7, 8}, {7000, 0}}, NULL) == 0, "setitimer");
	must(setitimer(ITIMER_VIRTUAL, &(struct itimerval){{0, 0}, {8000, 0}}, NULL) == 0, "setitimer");
	must(setitimer(ITIMER_PROF, &(struct itimerval){{0, 4000}, {9000, 0}}, NULL) == 0, "setitimer");
}

/* It was `first` when it was set, and is not as long ago as the clock says: nobody counts while it is dead. */
static void check_remaining(const char *what, int number, uint64_t first, uint64_t remaining)
{
	uint64_t gone = clock_ns(CLOCK_MONOTONIC) - timers_set_ns + 10 * NS_PER_MS; /* coarse clocks */

	if (remaining > first + 10 * NS_PER_MS || remaining + gone < first)
		wrong("%s %d has %lu ns left of %lu, set %lu ns ago", what, number, remaining, first, gone);
}

static void check_timers(void)
{
	static const long interval_us[3] = {7000008, 0, 4000};
	static const uint64_t real_s[3] = {7000, 8000, 9000};

	for (int i = 0; i < TIMERS; i++) {
		struct itimerspec now;

		if (syscall(SYS_timer_gettime, timer_ids[i], &now) < 0) {
			wrong("timer %d: %s", timer_ids[i], strerror(errno));
			continue;
		}
		compare_number("an interval", interval_s[i], (uint64_t)now.it_interval.tv_sec);
		check_remaining("timer", timer_ids[i], first_s[i] * NS_PER_S,
				(uint64_t)now.it_value.tv_sec * NS_PER_S + (uint64_t)now.it_value.tv_nsec);
	}
	for (int i = 0; i < 3; i++) {
		struct itimerval now;

		must(getitimer((__itimer_which_t)i, &now) == 0, "getitimer");
		compare_number("an interval", (uint64_t)interval_us[i],
			       (uint64_t)(now.it_interval.tv_sec * 1000000 + now.it_interval.tv_usec));
		check_remaining("interval timer", i, real_s[i] * NS_PER_S,
				(uint64_t)now.it_value.tv_sec * NS_PER_S + (uint64_t)now.it_value.tv_usec * 1000);
	}
	int id = make_timer(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0); /* as many as there were, and as they are numbered always */

	for (int i = 0; i < TIMERS; i++)
		if (id == timer_ids[i])
			wrong("a new timer has the id %d, too", id);
	syscall(SYS_timer_delete, id);
}

static void spoil_timers(void)
{
	set_timer(timer_ids[3], first_s[3] * NS_PER_S, 12 * NS_PER_S);
}

/* One that ticks, in one thread and with a value. */
static pthread_t ticked;
static volatile uint64_t n_ticks, n_wrong_ticks;
static volatile pid_t ticked_tid;
static int ticking_id;

static void on_tick(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	n_ticks++;
	if (info->si_code != SI_TIMER || info->si_value.sival_int != 4321 || gettid() != ticked_tid)
		n_wrong_ticks++;
}

static void *be_ticked(void *unused)
{
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, SIG_TICK);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	ticked_tid = gettid();
	for (;;)
		pause();
	return unused;
}

static void set_up_ticks(void)
{
	struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};

	must(sigaction(SIG_TICK, &action, NULL) == 0, "sigaction");
	must(pthread_create(&ticked, NULL, be_ticked, NULL) == 0 && came_true(ticked_tid != 0), "pthread_create");
	ticking_id = make_timer(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIG_TICK, ticked_tid);
	set_timer(ticking_id, TICK_NS, TICK_NS);
}

static void check_ticks(void)
{
	uint64_t before = n_ticks;

	if (!came_true(n_ticks > before + 2))
		wrong("it stands still");
	compare_number("wrong ticks", 0, n_wrong_ticks);
}

static void spoil_ticks(void)
{
	union sigval value = {.sival_int = 4320};

	must(pthread_sigqueue(ticked, SIG_TICK, value) == 0, "pthread_sigqueue");
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{"pending", set_up_pending, check_pending, spoil_pending},
		{"timers", set_up_timers, check_timers, spoil_timers},
		{"ticks", set_up_ticks, check_ticks, spoil_ticks},
		{"dispositions", set_up_dispositions, check_dispositions, spoil_dispositions},
		{NULL, NULL, NULL, NULL},
	};

	live(argc, argv, parts);
}
