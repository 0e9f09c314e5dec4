/*
 * Leading threads out of the vdso: its code differs from kernel to kernel, so that a thread stopped inside cannot go on
 * elsewhere. It is let run and stopped again until it stands outside: single steps would kill it if we died.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "predump.h"
#include "stops.h"

#define FIRST_RUN_NS 5000 /* long enough to leave, and each try is another chance to stop outside */
#define LAST_RUN_NS 5000000
#define LEAST_TRIES 16 /* in which it ran: on a busy machine each may take milliseconds, */
#define MOST_NS 200000000LL /* but not for ever */
#define LATE_STOP_NS 100000000LL

struct vdso {
	uint64_t start_addr, end_addr;
	int64_t deadline_ns;
};

/* Whether a seccomp filter, or strict mode, watches the calls of a thread: proc_pid_status(5). */
static int has_seccomp(int tid)
{
	char path[64], line[256];
	int mode = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	file = fopen(path, "re");
	if (!file)
		return 1;
	while (fgets(line, sizeof(line), file) && sscanf(line, "Seccomp: %d", &mode) != 1)
		;
	fclose(file);
	return mode != 0;
}

static int is_inside(const struct vdso *vdso, uint64_t addr)
{
	return addr >= vdso->start_addr && addr < vdso->end_addr;
}

/* struct ptrace_syscall_info, as far as it concerns us: whether the thread stands at the entry of a call. */
static int is_at_entry(int tid)
{
	uint8_t operation = 0;

	return ptrace(PD_PTRACE_GET_SYSCALL_INFO, tid, sizeof(operation), &operation) > 0 &&
	       operation == PD_SYSCALL_INFO_ENTRY;
}

/* The next stop of a thread that was let go, brought about after `run_ns` if it does not stop by itself. */
static int wait_or_interrupt(int tid, int64_t run_ns, int *status)
{
	int error = pd_wait_stop(tid, pd_now_ns() + run_ns, status);

	if (error != -ETIMEDOUT)
		return error;
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0))
		return -errno;
	return pd_wait_stop(tid, pd_now_ns() + LATE_STOP_NS, status);
}

/*
 * A call that the program is about to make is taken back: the thread stands before its `syscall` again, and goes on to
 * the exit stop of no call at all. Call number -1 would reach a seccomp filter that is not suspended.
 */
static int take_call_back(int tid, struct user_regs_struct *regs)
{
	int status, error;

	regs->rax = regs->orig_rax;
	regs->orig_rax = ~0ULL;
	regs->rip -= 2;
	if (ptrace(PTRACE_SETREGS, tid, 0, regs) || ptrace(PTRACE_SYSCALL, tid, 0, 0))
		return -errno;
	error = pd_wait_stop(tid, pd_now_ns() + LATE_STOP_NS, &status);
	return error ? error : WIFSTOPPED(status) ? 0 : -ESRCH;
}

/* 0: it stands outside; 1: it does not, or a handler runs over the frame inside; -errno: gone. */
static int leave(int tid, const struct vdso *vdso)
{
	int64_t run_ns = FIRST_RUN_NS;
	int tries = 0, signal = 0, error, status;
	struct user_regs_struct regs, before = {0};

	for (;;) {
		if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
			return -errno;
		if (is_at_entry(tid)) {
			if (!is_inside(vdso, regs.rip))
				return take_call_back(tid, &regs);
		} else if (!is_inside(vdso, regs.rip)) {
			return 0;
		} else if (pd_now_ns() > vdso->deadline_ns + (tries < LEAST_TRIES ? MOST_NS : 0)) {
			return 1;
		}
		/* On a busy processor the interrupt may come before it ran at all. */
		if (memcmp(&regs, &before, sizeof(regs)))
			tries++;
		else if (run_ns < LAST_RUN_NS)
			run_ns *= 2;
		before = regs;
		if (ptrace(PTRACE_SYSCALL, tid, 0, 0))
			return -errno;
		error = wait_or_interrupt(tid, run_ns, &status);
		if (error)
			return error;
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 16 == 0 && status >> 8 != (SIGTRAP | 0x80)) {
			signal = WSTOPSIG(status);
			break;
		}
	}
	/* A signal on its way: it is delivered, and its handler is where the thread then stops. */
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) || ptrace(PTRACE_CONT, tid, 0, signal))
		return -errno;
	error = pd_wait_stop(tid, pd_now_ns() + LATE_STOP_NS, &status);
	return error ? error : WIFSTOPPED(status) ? 1 : -ESRCH;
}

int64_t pd_leave_vdso(struct pd_thread_list *list, uint64_t start_addr, uint64_t end_addr, int seccomp_suspended,
		      int64_t timeout_ns, int32_t *tids, uint64_t capacity)
{
	const struct vdso vdso = {start_addr, end_addr, pd_now_ns() + timeout_ns};
	int64_t n_stuck = 0;

	for (uint64_t i = 0; i < list->n_threads; i++) {
		struct pd_thread *thread = list->threads + i;
		struct user_regs_struct regs;
		int result;

		if (!(thread->flags & PD_THREAD_STOPPED) || ptrace(PTRACE_GETREGS, thread->tid, 0, &regs) ||
		    !is_inside(&vdso, regs.rip))
			continue;
		result = !seccomp_suspended && has_seccomp(thread->tid) ? 1 : leave(thread->tid, &vdso);
		if (result == -ETIMEDOUT) {
			thread->flags = 0; /* it runs */
			list->failed_tid = thread->tid;
			return result;
		}
		if (result < 0)
			thread->flags = PD_THREAD_GONE;
		else if (result > 0 && (uint64_t)n_stuck < capacity)
			tids[n_stuck++] = thread->tid;
	}
	return n_stuck;
}
