/* System calls that are to go on where they were; see alive.h. Each thread stays in one. */
#include "alive.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LONG_NS (1000UL * NS_PER_S)
#define TIMEOUT_NS (3 * NS_PER_S)
#define TICK_NS (2 * NS_PER_MS)
#define PIPE_BYTES 65536

struct call {
	const char *name;
	long (*make)(struct call *call); /* -1 with errno as a rule */
	void (*end)(struct call *call);  /* lets it return; NULL: a time-out does */
	long result; /* that it is to have */
	int error;
	long got;
	int got_error;
	uint64_t timeout_ns; /* that it has at least to wait */
	uint64_t start_ns, end_ns, left_ns;
	uint32_t word;
	bool is_spoiled;
	volatile enum { ENTERING = 1, DONE, TAKEN } stage;
	pid_t tid;
	pthread_t handle;
};

/* As the C library makes them, with the number in the code: it has none that waits for a futex, and its nanosleep is
 * another call. */
#define CALL(number, a, b, c, d, e, f)                                                             \
	({                                                                                         \
		register uint64_t d_ asm("r10") = (uint64_t)(d);                                   \
		register uint64_t e_ asm("r8") = (uint64_t)(e);                                    \
		register uint64_t f_ asm("r9") = (uint64_t)(f);                                    \
		long result_;                                                                      \
		asm volatile("mov %1, %%eax\n\tsyscall"                                            \
			     : "=&a"(result_)                                                      \
			     : "i"(number), "D"(a), "S"(b), "d"(c), "r"(d_), "r"(e_), "r"(f_)      \
			     : "rcx", "r11", "memory");                                            \
		errno = result_ < 0 ? (int)-result_ : 0;                                           \
		result_ < 0 ? -1 : result_;                                                        \
	})

static long old_nanosleep(const struct timespec *time, struct timespec *left)
{
	return CALL(SYS_nanosleep, time, left, 0L, 0, 0, 0);
}

static long wait_for_futex(struct call *call, long operation, const struct timespec *time)
{
	return CALL(SYS_futex, &call->word, operation, 0L, time, NULL, FUTEX_BITSET_MATCH_ANY);
}

/* ---- that end by what somebody does ---- */

static int pipe_fds[2], full_fds[2], event_fd, quiet_event_fd, epoll_fd, listener, pair[2], lock_fd, lock_too_fd;
static struct sockaddr_un listener_name = {.sun_family = AF_UNIX};
static pthread_mutex_t inheriting;

static long make_read(struct call *call)
{
	char text[8] = "";
	long got = read(pipe_fds[0], text, sizeof(text));

	(void)call;
	return got == 3 && memcmp(text, "abc", 3) == 0 ? 3 : got < 0 ? got : -got;
}

static void end_read(struct call *call)
{
	must(write(pipe_fds[1], call->is_spoiled ? "abd" : "abc", 3) == 3, "write");
}

static long make_write(struct call *call)
{
	(void)call;
	return write(full_fds[1], "x", 1);
}

static void end_write(struct call *call)
{
	static char taken[PIPE_BYTES];

	must(read(full_fds[0], taken, call->is_spoiled ? 1 : PIPE_BYTES) > 0, "read");
	call->is_spoiled = false;
}

static long make_event(struct call *call)
{
	uint64_t value = 0;

	(void)call;
	return read(event_fd, &value, 8) == 8 ? (long)value : -1;
}

static void end_event(struct call *call)
{
	uint64_t value = call->is_spoiled ? 6 : 5;

	must(write(event_fd, &value, 8) == 8, "write");
}

static long make_poll(struct call *call)
{
	struct pollfd one = {.fd = quiet_event_fd, .events = POLLIN};

	(void)call;
	return poll(&one, 1, -1) == 1 ? one.revents : -1;
}

static void make_quiet_event(struct call *call)
{
	uint64_t value = 1;

	must(write(quiet_event_fd, &value, 8) == 8, "write");
	(void)call;
}

static long make_epoll(struct call *call)
{
	struct epoll_event event = {0};

	(void)call;
	return epoll_wait(epoll_fd, &event, 1, -1) == 1 ? (long)event.data.u64 : -1;
}

static long make_select_one(struct call *call)
{
	fd_set set;

	(void)call;
	FD_ZERO(&set);
	FD_SET(quiet_event_fd, &set);
	return select(quiet_event_fd + 1, &set, NULL, NULL, NULL);
}

static long make_accept(struct call *call)
{
	int fd = accept(listener, NULL, NULL);

	(void)call;
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static void end_accept(struct call *call)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)call;
	must(connect(fd, (struct sockaddr *)&listener_name, sizeof(listener_name)) == 0, "connect");
	close(fd);
}

static long make_receive(struct call *call)
{
	char text[8];

	(void)call;
	return recv(pair[0], text, sizeof(text), 0);
}

static void end_receive(struct call *call)
{
	must(send(pair[1], "four5", call->is_spoiled ? 5 : 4, 0) > 0, "send");
}

static long make_lock(struct call *call)
{
	(void)call;
	long result = flock(lock_too_fd, LOCK_EX);

	flock(lock_too_fd, LOCK_UN);
	return result;
}

static void end_lock(struct call *call)
{
	(void)call;
	must(flock(lock_fd, LOCK_UN) == 0, "flock");
}

static long make_futex(struct call *call)
{
	return wait_for_futex(call, FUTEX_WAIT_PRIVATE, NULL);
}

static void end_futex(struct call *call)
{
	must(came_true(syscall(SYS_futex, &call->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 1), "FUTEX_WAKE");
}

static long make_pi_lock(struct call *call)
{
	(void)call;
	long result = pthread_mutex_lock(&inheriting);

	pthread_mutex_unlock(&inheriting);
	return result;
}

static void end_pi_lock(struct call *call)
{
	(void)call;
	must(pthread_mutex_unlock(&inheriting) == 0, "pthread_mutex_unlock");
}

static long make_sigsuspend(struct call *call)
{
	sigset_t set;

	(void)call;
	sigfillset(&set);
	sigdelset(&set, SIGUSR1);
	return sigsuspend(&set);
}

static void end_by_signal(struct call *call)
{
	must(pthread_kill(call->handle, SIGUSR1) == 0, "pthread_kill");
}

static long make_pause(struct call *call)
{
	sigset_t set, before;

	(void)call;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, &before);
	long result = pause();
	int error = errno;

	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return result;
}

static long make_sigwait(struct call *call)
{
	siginfo_t info;
	sigset_t set;

	(void)call;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigwaitinfo(&set, &info) == SIGUSR2 ? info.si_value.sival_int : -1;
}

static void end_sigwait(struct call *call)
{
	must(pthread_sigqueue(call->handle, SIGUSR2, (union sigval){.sival_int = call->is_spoiled ? 13 : 12}) == 0,
	     "pthread_sigqueue");
}

static int semaphore_id;

static long make_semop(struct call *call)
{
	struct sembuf down = {.sem_op = -1};

	(void)call;
	return semop(semaphore_id, &down, 1);
}

static void end_semop(struct call *call)
{
	struct sembuf up = {.sem_op = 1};

	(void)call;
	must(semop(semaphore_id, &up, 1) == 0, "semop");
}

/* ---- that end by a signal, and say how much time is left ---- */

static uint64_t ns_of(const struct timespec *time)
{
	return (uint64_t)time->tv_sec * NS_PER_S + (uint64_t)time->tv_nsec;
}

/* SIGUSR1 is deliverable during the call; its handler does not have it begin anew. */
#define INTERRUPTIBLE(call_)                                                                       \
	({                                                                                         \
		sigset_t set_, before_;                                                            \
		sigemptyset(&set_);                                                                \
		sigaddset(&set_, SIGUSR1);                                                         \
		pthread_sigmask(SIG_UNBLOCK, &set_, &before_);                                     \
		long result_ = (call_);                                                            \
		int error_ = errno;                                                                \
		pthread_sigmask(SIG_SETMASK, &before_, NULL);                                      \
		errno = error_;                                                                    \
		result_;                                                                           \
	})

static long make_nanosleep(struct call *call)
{
	struct timespec time = timespec_of_ns(LONG_NS), left = {0};
	long result = INTERRUPTIBLE(old_nanosleep(&time, &left));

	call->left_ns = ns_of(&left);
	return result;
}

static long make_clock_nanosleep(struct call *call)
{
	struct timespec time = timespec_of_ns(LONG_NS), left = {0};
	long result = INTERRUPTIBLE((errno = clock_nanosleep(CLOCK_BOOTTIME, 0, &time, &left)) ? -1 : 0);

	call->left_ns = ns_of(&left);
	return result;
}

static long make_ppoll(struct call *call)
{
	struct pollfd one = {.fd = -1};
	struct timespec left = timespec_of_ns(LONG_NS);
	long result = INTERRUPTIBLE(syscall(SYS_ppoll, &one, 1, &left, NULL, 0));

	call->left_ns = ns_of(&left);
	return result;
}

static long make_select(struct call *call)
{
	struct timeval left = {.tv_sec = LONG_NS / NS_PER_S};
	long result = INTERRUPTIBLE(select(0, NULL, NULL, NULL, &left));

	call->left_ns = (uint64_t)left.tv_sec * NS_PER_S + (uint64_t)left.tv_usec * 1000;
	return result;
}

/* ---- that end by time ---- */

static long make_nanosleep_to_end(struct call *call)
{
	struct timespec time = timespec_of_ns(call->timeout_ns);

	return old_nanosleep(&time, NULL);
}

static long make_nanosleep_until(struct call *call)
{
	struct timespec time = timespec_of_ns(call->start_ns + call->timeout_ns);

	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static long make_futex_timed(struct call *call)
{
	struct timespec time = timespec_of_ns(call->timeout_ns);

	return wait_for_futex(call, FUTEX_WAIT_PRIVATE, &time);
}

static long make_futex_until(struct call *call)
{
	struct timespec time = timespec_of_ns(call->start_ns + call->timeout_ns);

	return wait_for_futex(call, FUTEX_WAIT_BITSET_PRIVATE, &time);
}

static long make_poll_timed(struct call *call)
{
	return poll(NULL, 0, (int)(call->timeout_ns / NS_PER_MS));
}

static long make_sigtimedwait(struct call *call)
{
	struct timespec time = timespec_of_ns(call->timeout_ns);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigtimedwait(&set, NULL, &time);
}

static long make_semtimedop(struct call *call)
{
	struct timespec time = timespec_of_ns(call->timeout_ns);
	struct sembuf down = {.sem_op = -1, .sem_num = 1};

	return semtimedop(semaphore_id, &down, 1, &time);
}

/* ---- all of them ---- */

static struct call by_deed[] = {
	{.name = "futex", .make = make_futex, .end = end_futex, .result = 0},
	{.name = "futex-pi", .make = make_pi_lock, .end = end_pi_lock, .result = 0},
	{.name = "sigsuspend", .make = make_sigsuspend, .end = end_by_signal, .result = -1, .error = EINTR},
	{.name = "pause", .make = make_pause, .end = end_by_signal, .result = -1, .error = EINTR},
	{.name = "sigwaitinfo", .make = make_sigwait, .end = end_sigwait, .result = 12},
	{.name = "semop", .make = make_semop, .end = end_semop, .result = 0},
};

static struct call by_deed_to_files[] = {
	{.name = "read", .make = make_read, .end = end_read, .result = 3},
	{.name = "write", .make = make_write, .end = end_write, .result = 1},
	{.name = "read-event", .make = make_event, .end = end_event, .result = 5},
	{.name = "accept", .make = make_accept, .end = end_accept, .result = 0},
	{.name = "recv", .make = make_receive, .end = end_receive, .result = 4},
	{.name = "flock", .make = make_lock, .end = end_lock, .result = 0},
	{.name = "poll", .make = make_poll, .end = make_quiet_event, .result = POLLIN},
	{.name = "epoll", .make = make_epoll, .end = make_quiet_event, .result = 0x1234},
	{.name = "select", .make = make_select_one, .end = make_quiet_event, .result = 1},
};

static struct call by_signal[] = {
	{.name = "nanosleep", .make = make_nanosleep, .end = end_by_signal, .result = -1, .error = EINTR},
	{.name = "clock_nanosleep", .make = make_clock_nanosleep, .end = end_by_signal, .result = -1, .error = EINTR},
	{.name = "ppoll", .make = make_ppoll, .end = end_by_signal, .result = -1, .error = EINTR},
	{.name = "select", .make = make_select, .end = end_by_signal, .result = -1, .error = EINTR},
};

static struct call by_time[] = {
	{.name = "nanosleep", .make = make_nanosleep_to_end, .result = 0},
	{.name = "nanosleep-until", .make = make_nanosleep_until, .result = 0},
	{.name = "futex", .make = make_futex_timed, .result = -1, .error = ETIMEDOUT},
	{.name = "futex-until", .make = make_futex_until, .result = -1, .error = ETIMEDOUT},
	{.name = "poll", .make = make_poll_timed, .result = 0},
	{.name = "sigtimedwait", .make = make_sigtimedwait, .result = -1, .error = EAGAIN},
	{.name = "semtimedop", .make = make_semtimedop, .result = -1, .error = EAGAIN},
};

/* When it ran last before the longest time in which it did not, and first behind that: before and after a death. */
static volatile uint64_t last_ns, longest_ns, gone_ns, back_ns;

static void *tick(void *unused)
{
	last_ns = clock_ns(CLOCK_MONOTONIC);
	for (;;) {
		uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

		if (now_ns - last_ns > longest_ns) {
			longest_ns = now_ns - last_ns;
			gone_ns = last_ns;
			back_ns = now_ns;
		}
		last_ns = now_ns;
		nap_ns(TICK_NS);
	}
	return unused;
}

static void *be_in_call(void *argument)
{
	struct call *call = argument;

	call->tid = gettid();
	for (;;) {
		call->start_ns = clock_ns(CLOCK_MONOTONIC);
		call->stage = ENTERING;
		errno = 0;
		call->got = call->make(call);
		call->got_error = call->got < 0 ? errno : 0;
		call->end_ns = clock_ns(CLOCK_MONOTONIC);
		call->stage = DONE;
		while (call->stage == DONE)
			nap_ns(NS_PER_MS);
	}
	return NULL;
}

static bool is_in_call(struct call *call)
{
	char path[64], stat[1024];

	if (call->stage != ENTERING)
		return false;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", call->tid);
	read_whole(path, stat, sizeof(stat));
	return strrchr(stat, ')')[2] == 'S';
}

static void start_calls(struct call *calls, size_t n, uint64_t timeout_ns)
{
	for (size_t i = 0; i < n; i++) {
		calls[i].timeout_ns = timeout_ns;
		must(pthread_create(&calls[i].handle, NULL, be_in_call, &calls[i]) == 0, "pthread_create");
	}
	for (size_t i = 0; i < n; i++)
		must(came_true(is_in_call(&calls[i])), calls[i].name);
}

/* Whether it came to its end, as it should have. */
static bool ended_well(struct call *call)
{
	if (!came_true(call->stage == DONE)) {
		wrong("%s does not return", call->name);
		return false;
	}
	if (call->got != call->result || call->got_error != call->error)
		wrong("%s returned %ld with errno %d, not %ld with %d", call->name, call->got, call->got_error, call->result,
		      call->error);
	return true;
}

/* It is to be in the call as before; then it is to end, and to be in the call again. */
static void end_call(struct call *call, void (*also)(struct call *call))
{
	uint64_t end_ns = clock_ns(CLOCK_MONOTONIC);

	if (!is_in_call(call))
		wrong("%s is not in its call", call->name);
	call->end(call);
	if (!ended_well(call))
		return;
	if (also != NULL)
		also(call);
	if (call->left_ns != 0 && gone_ns > call->start_ns) {
		/* What a call that had begun anew says is more by all the time before the death. */
		uint64_t before_ns = gone_ns - call->start_ns, after_ns = end_ns - back_ns;

		if (call->left_ns + before_ns / 2 + after_ns > LONG_NS)
			wrong("%s has %lu ns left, after %lu and %lu", call->name, call->left_ns, before_ns, after_ns);
	}
	call->stage = TAKEN;
	must(came_true(is_in_call(call)), call->name);
}

#define N(calls) (sizeof(calls) / sizeof((calls)[0]))

static void do_nothing(int number)
{
	(void)number;
}

static void set_up_signals(void)
{
	struct sigaction action = {.sa_handler = do_nothing};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	must(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
	if (semaphore_id == 0)
		semaphore_id = semget(IPC_PRIVATE, 2, 0600 | IPC_CREAT);
	must(semaphore_id >= 0, "semget");
}

static void hold_mutex(void)
{
	must(pthread_mutex_lock(&inheriting) == 0, "pthread_mutex_lock");
}

static void set_up_deeds(void)
{
	pthread_mutexattr_t attributes;

	set_up_signals();
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&inheriting, &attributes);
	hold_mutex();
	start_calls(by_deed, N(by_deed), 0);
}

/* With whole pages, so that there is no room by bytes and none by buffers. */
static void fill_pipe(void)
{
	static char content[PIPE_BYTES];
	int waiting = 0;

	must(ioctl(full_fds[0], FIONREAD, &waiting) == 0 && read(full_fds[0], content, (size_t)waiting) == waiting, "read");
	must(write(full_fds[1], content, PIPE_BYTES) == PIPE_BYTES, "write");
}

static void hold_again(struct call *call)
{
	if (call->make == make_pi_lock)
		hold_mutex();
	else if (call->make == make_lock)
		must(flock(lock_fd, LOCK_EX) == 0, "flock");
	else if (call->make == make_write)
		fill_pipe();
}

static void check_deeds(void)
{
	for (size_t i = 0; i < N(by_deed); i++)
		end_call(&by_deed[i], hold_again);
}

static void spoil_deeds(void)
{
	by_deed[4].is_spoiled = true;
}

static void watch_quiet_event(void)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234};

	must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, quiet_event_fd, &event) == 0, "epoll_ctl");
}

static void set_up_files(void)
{
	set_up_signals();
	must(pipe2(pipe_fds, O_CLOEXEC) == 0 && pipe2(full_fds, O_CLOEXEC) == 0, "pipe");
	must(write(full_fds[1], (char[PIPE_BYTES]){0}, PIPE_BYTES) == PIPE_BYTES, "write");
	event_fd = eventfd(0, EFD_CLOEXEC);
	quiet_event_fd = eventfd(0, EFD_CLOEXEC);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	watch_quiet_event();
	snprintf(listener_name.sun_path, sizeof(listener_name.sun_path), "%c%s", 0, strrchr(directory, '/') - 20);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(bind(listener, (struct sockaddr *)&listener_name, sizeof(listener_name)) == 0 && listen(listener, 5) == 0, "listen");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	lock_fd = open(path_of("lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	lock_too_fd = open(path_of("lock"), O_RDWR | O_CLOEXEC);
	must(lock_fd >= 0 && lock_too_fd >= 0 && flock(lock_fd, LOCK_EX) == 0, "flock");
	start_calls(by_deed_to_files, N(by_deed_to_files), 0);
}

static void quiet_again(struct call *call)
{
	uint64_t value;

	hold_again(call);
	if (call->end == make_quiet_event)
		must(read(quiet_event_fd, &value, 8) == 8, "read");
}

/* The last three watch the same: one deed ends all of them. */
static void check_files(void)
{
	size_t n = N(by_deed_to_files);

	for (size_t i = 0; i < n - 3; i++)
		end_call(&by_deed_to_files[i], quiet_again);
	for (size_t i = n - 3; i < n; i++)
		if (!is_in_call(&by_deed_to_files[i]))
			wrong("%s is not in its call", by_deed_to_files[i].name);
	make_quiet_event(NULL);
	for (size_t i = n - 3; i < n; i++)
		ended_well(&by_deed_to_files[i]);
	quiet_again(&by_deed_to_files[n - 1]);
	for (size_t i = n - 3; i < n; i++)
		if (by_deed_to_files[i].stage == DONE) {
			by_deed_to_files[i].stage = TAKEN;
			must(came_true(is_in_call(&by_deed_to_files[i])), by_deed_to_files[i].name);
		}
}

static void spoil_files(void)
{
	by_deed_to_files[0].is_spoiled = true;
}

static void start_ticks(void)
{
	pthread_t ticker;

	if (last_ns == 0)
		must(pthread_create(&ticker, NULL, tick, NULL) == 0 && came_true(last_ns != 0), "pthread_create");
}

static void set_up_left(void)
{
	set_up_signals();
	start_ticks();
	start_calls(by_signal, N(by_signal), LONG_NS);
}

static void check_left(void)
{
	for (size_t i = 0; i < N(by_signal); i++)
		end_call(&by_signal[i], NULL);
	longest_ns = 0; /* the next death is another one */
}

/* As if it had begun an hour earlier. */
static void spoil_left(void)
{
	by_signal[2].start_ns -= 3600 * NS_PER_S;
}

/* After the time that they were told, or later: a call that had to begin anew waits for all of it. */
static void check_ended_by_time(struct call *calls, size_t n)
{
	nap_ns(calls[0].timeout_ns);
	for (size_t i = 0; i < n; i++) {
		if (ended_well(&calls[i]) && calls[i].end_ns - calls[i].start_ns < calls[i].timeout_ns)
			wrong("%s ended after %lu ns", calls[i].name, calls[i].end_ns - calls[i].start_ns);
		if (calls[i].stage == DONE)
			calls[i].stage = TAKEN;
	}
}

static void set_up_times(void)
{
	set_up_signals();
	start_calls(by_time, N(by_time), TIMEOUT_NS);
}

static void check_times(void)
{
	check_ended_by_time(by_time, N(by_time));
}

static void spoil_times(void)
{
	by_time[2].word = 1;
	syscall(SYS_futex, &by_time[2].word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct part parts[] = {
		{"deeds", set_up_deeds, check_deeds, spoil_deeds},
		{"files", set_up_files, check_files, spoil_files},
		{"left", set_up_left, check_left, spoil_left},
		{"times", set_up_times, check_times, spoil_times},
		{NULL, NULL, NULL, NULL},
	};

	live(argc, argv, parts);
}
