/* Stopping every thread of a process, reading its registers, letting it go. All of it from one thread: ptrace's rule. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include "predump.h"
#include "stops.h"

#define ERESTARTNOHAND 514
#define LATE_STOP_NS 10000000LL
#define TAKE_BACK_NS 1000000000LL

/*
 * Calls that fail with a bare EINTR when a stop interrupts them, without any signal: epoll_wait and its kin, and those
 * that EINTR only in a socket with a timeout. All of them may simply be made again.
 */
static int returns_eintr_on_stop(long nr)
{
	switch (nr) {
	case SYS_read: case SYS_readv: case SYS_write: case SYS_writev:
	case SYS_accept: case SYS_accept4: case SYS_connect:
	case SYS_recvfrom: case SYS_recvmsg: case SYS_recvmmsg:
	case SYS_sendto: case SYS_sendmsg: case SYS_sendmmsg:
	case SYS_epoll_wait: case SYS_epoll_pwait: case 441: /* epoll_pwait2 */
	case SYS_rt_sigtimedwait: case SYS_semop: case SYS_semtimedop:
	case SYS_io_getevents: case 333: /* io_pgetevents */
	case 426: /* io_uring_enter */
		return 1;
	}
	return 0;
}

/* Has the interrupted call start over when the thread goes on, as it would if nobody had stopped it. */
static int hide_eintr(struct pd_thread *thread)
{
	struct user_regs_struct regs;

	if (ptrace(PTRACE_GETREGS, thread->tid, 0, &regs))
		return -errno;
	if ((long)regs.rax != -EINTR || (long)regs.orig_rax < 0 || !returns_eintr_on_stop((long)regs.orig_rax))
		return 0;
	regs.rax = (unsigned long long)-ERESTARTNOHAND;
	if (ptrace(PTRACE_SETREGS, thread->tid, 0, &regs))
		return -errno;
	thread->flags |= PD_THREAD_RESTARTED;
	return 0;
}

int64_t pd_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* waitpid with a deadline: first without pause, since most stops take microseconds, then with short sleeps. */
int pd_wait_stop(pid_t tid, int64_t deadline_ns, int *status)
{
	const struct timespec nap = {0, 50000};
	const int64_t eager_until_ns = pd_now_ns() + 300000;

	for (;;) {
		pid_t got = waitpid(tid, status, __WALL | WNOHANG);
		int64_t now_ns;

		if (got == tid)
			return 0;
		if (got < 0 && errno != EINTR)
			return -errno;
		now_ns = pd_now_ns();
		if (now_ns > deadline_ns)
			return -ETIMEDOUT;
		if (now_ns < eager_until_ns)
			sched_yield();
		else
			nanosleep(&nap, NULL);
	}
}

/* Field 3 of /proc/PID/task/TID/stat, or 0 if it is gone: proc_pid_stat(5). */
static char thread_state(int pid, int tid)
{
	char path[64], line[512], *end;
	FILE *file;
	char state = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fgets(line, sizeof(line), file) && (end = strrchr(line, ')')) && end[1] == ' ')
		state = end[2];
	fclose(file);
	return state;
}

static int is_known(const struct pd_thread_list *list, int tid)
{
	for (uint64_t i = list->n_threads; i-- > 0;)
		if (list->threads[i].tid == tid)
			return 1;
	return 0;
}

/* Seizes and interrupts threads that the list lacks, all or those that run. Returns how many, 0 if there was none. */
static int seize_new(int pid, int seize_options, int running_only, struct pd_thread_list *list)
{
	char path[64];
	struct dirent *entry;
	DIR *dir;
	int added = 0, error = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	while (!error && (entry = readdir(dir))) {
		int tid = atoi(entry->d_name);
		struct pd_thread *thread = list->threads + list->n_threads;

		if (tid <= 0 || is_known(list, tid) || (running_only && thread_state(pid, tid) != 'R'))
			continue;
		list->failed_tid = tid;
		if (list->n_threads == list->capacity) {
			error = -ENOSPC;
			break;
		}
		*thread = (struct pd_thread){.tid = tid};
		if (ptrace(PTRACE_SEIZE, tid, 0, seize_options)) {
			char state = errno == ESRCH ? 0 : thread_state(pid, tid);

			if (errno != ESRCH && state != 0 && state != 'Z' && state != 'X') {
				error = -errno;
				break;
			}
			thread->flags = PD_THREAD_GONE;
			list->n_threads++;
			continue;
		}
		list->n_threads++;
		if (ptrace(PTRACE_INTERRUPT, tid, 0, 0))
			thread->flags = PD_THREAD_GONE;
		else
			added++;
	}
	closedir(dir);
	return error ? error : added;
}

/*
 * Waits until a seized thread stands still where PTRACE_INTERRUPT put it. A signal in the way is delivered first; its stop
 * has used the interrupt up ("any trap clears pending STOP trap", ptrace_stop in kernel/signal.c), so it is sent again.
 * One that did not come out of an injected call in time stops at the end of that: its way home begins there.
 */
static int wait_stopped(struct pd_thread *thread, int64_t deadline_ns)
{
	for (;;) {
		int status, error = pd_wait_stop(thread->tid, deadline_ns, &status);

		if (error == -ECHILD || (!error && !WIFSTOPPED(status))) {
			thread->flags = PD_THREAD_GONE;
			return 0;
		}
		if (error)
			return error;
		if (status >> 16 == PTRACE_EVENT_STOP) {
			thread->flags = PD_THREAD_STOPPED | (WSTOPSIG(status) == SIGTRAP ? 0 : PD_THREAD_IN_STOP);
			return hide_eintr(thread);
		}
		if (status >> 8 == (SIGTRAP | 0x80)) {
			thread->flags = PD_THREAD_STOPPED;
			return 0;
		}
		if (ptrace(PTRACE_CONT, thread->tid, 0, status >> 16 ? 0 : WSTOPSIG(status)) ||
		    ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0)) {
			thread->flags = PD_THREAD_GONE;
			return 0;
		}
	}
}

/*
 * Waits for the threads of the list from number `first` on, which were seized just now. The leader last: if the process is
 * killed meanwhile, it ends for us when all others have been waited for (delay_group_leader in kernel/exit.c).
 */
static int wait_seized(struct pd_thread_list *list, uint64_t first, int64_t deadline_ns)
{
	for (uint64_t i = list->n_threads; i-- > first;) {
		struct pd_thread *thread = list->threads + i;
		int error = thread->flags & PD_THREAD_GONE ? 0 : wait_stopped(thread, deadline_ns);

		if (error == -ESRCH)
			thread->flags = PD_THREAD_GONE;
		else if (error) {
			list->failed_tid = thread->tid;
			return error;
		}
	}
	return 0;
}

int pd_stop_running(int pid, int64_t timeout_ns, struct pd_thread_list *list)
{
	const uint64_t first = list->n_threads;
	int added = seize_new(pid, 0, 1, list);
	int error = wait_seized(list, first, pd_now_ns() + timeout_ns);

	return added < 0 ? added : error;
}

int pd_stop_threads(int pid, int seize_options, int64_t timeout_ns, struct pd_thread_list *list)
{
	const int64_t deadline_ns = pd_now_ns() + timeout_ns;
	uint64_t waited = 0, stopped = 0;
	int added;

	while ((added = seize_new(pid, seize_options, 0, list)) > 0) {
		int error = wait_seized(list, waited, deadline_ns);

		if (error)
			return error;
		waited = list->n_threads;
		if (pd_now_ns() > deadline_ns)
			return -ETIMEDOUT;
	}
	if (added < 0)
		return added;
	for (uint64_t i = 0; i < list->n_threads; i++)
		stopped += !!(list->threads[i].flags & PD_THREAD_STOPPED);
	return stopped ? 0 : -ESRCH;
}

int pd_resume_threads(struct pd_thread_list *list)
{
	/* The leader last: of a process that was killed, it ends when all others have been waited for. */
	for (uint64_t i = list->n_threads; i-- > 0;) {
		struct pd_thread *thread = list->threads + i;

		if (thread->flags & PD_THREAD_STOPPED) {
			/* ESRCH: it runs, still within an injected call, or was killed: then its leader stays until it is waited for. */
			int is_running = ptrace(PTRACE_DETACH, thread->tid, 0, 0) && errno == ESRCH;

			thread->flags = is_running ? 0 : PD_THREAD_GONE;
		}
		/* Only a stopped thread can be detached; we gave up on this one or on another. */
		if (!thread->flags && !wait_stopped(thread, pd_now_ns() + LATE_STOP_NS)) {
			ptrace(PTRACE_DETACH, thread->tid, 0, 0);
			thread->flags = PD_THREAD_GONE;
		}
	}
	return 0;
}

int pd_send_stop(int pid, const struct pd_thread_list *list)
{
	for (uint64_t i = 0; i < list->n_threads; i++)
		if (list->threads[i].flags & PD_THREAD_STOPPED)
			syscall(__NR_tgkill, pid, list->threads[i].tid, SIGSTOP);
	return 0;
}

/* Lets a stopped thread go on until it stops to take the SIGSTOP that waits for it; other signals are its own. */
static void drop_stop(struct pd_thread *thread, int64_t deadline_ns)
{
	int passed_on = 0, status;

	for (;;) {
		if (ptrace(PTRACE_CONT, thread->tid, 0, passed_on) || pd_wait_stop(thread->tid, deadline_ns, &status) ||
		    !WIFSTOPPED(status))
			return; /* killed meanwhile */
		if (status >> 16)
			passed_on = 0; /* a trap of ptrace, or a stop of the whole process */
		else if (WSTOPSIG(status) == SIGSTOP)
			return;
		else
			passed_on = WSTOPSIG(status);
	}
}

int pd_take_stop_back(const struct pd_thread_list *list)
{
	for (uint64_t i = 0; i < list->n_threads; i++)
		if (list->threads[i].flags & PD_THREAD_STOPPED)
			drop_stop(list->threads + i, pd_now_ns() + TAKE_BACK_NS);
	return 0;
}

/* Appends the numbers in a `children` file, which has no bound, to the list. */
static int64_t read_children(const char *path, int32_t *children, uint64_t n, uint64_t capacity)
{
	FILE *file = fopen(path, "re");
	int child;

	if (!file)
		return errno == ENOENT ? (int64_t)n : -errno;
	while (fscanf(file, "%d", &child) == 1) {
		if (n == capacity) {
			fclose(file);
			return -ENOSPC;
		}
		children[n++] = child;
	}
	fclose(file);
	return (int64_t)n;
}

int64_t pd_children(int pid, int32_t *children, uint64_t capacity)
{
	char path[64];
	struct dirent *entry;
	int64_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	while (n >= 0 && (entry = readdir(dir))) {
		if (atoi(entry->d_name) <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, atoi(entry->d_name));
		n = read_children(path, children, (uint64_t)n, capacity);
	}
	closedir(dir);
	return n;
}
