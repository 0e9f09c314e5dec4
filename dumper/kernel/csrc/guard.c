/*
 * System calls in a process that has a life of its own and is being changed: should we die at any instant, none of its
 * threads runs another instruction of it, but all of them stand still, stopped by SIGSTOP.
 *
 *	another thread     a SIGSTOP waits for it, which it takes before it goes back to its program
 *	the caller, ready  it stands where that SIGSTOP is delivered to it, and the signal is delivered if we die
 *	its way to a call  the call that it is led to is tgkill(itself, SIGSTOP)
 *	the call           at its entry another SIGSTOP is sent, and only then the call that is wanted is put in its place
 *
 * A SIGCONT from outside takes waiting SIGSTOPs away: so one is sent right before each step, and the registers always lead
 * to the tgkill first. All other signals are blocked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"
#include "stops.h"

#define MAX_TRIES 20
#define MAX_ERRNO 4095
#define SYSCALL_STOP (SIGTRAP | 0x80) /* with PTRACE_O_TRACESYSGOOD */

static void step_reached(const struct pd_guarded *thread, int number)
{
	if (thread->die_at == number)
		kill(thread->victim, SIGKILL);
}

/* Leads the thread to the call that stops it. */
static int lead_to_stop(const struct pd_guarded *thread, struct user_regs_struct *regs)
{
	if (ptrace(PTRACE_GETREGS, thread->tid, 0, regs))
		return -errno;
	regs->rip = thread->syscall_addr;
	regs->rax = SYS_tgkill;
	regs->orig_rax = ~0ULL; /* nothing to start over */
	regs->rdi = (unsigned long long)thread->ns_pid;
	regs->rsi = (unsigned long long)thread->ns_tid;
	regs->rdx = SIGSTOP;
	return pd_set_registers(thread->tid, regs);
}

static int send_stop(const struct pd_guarded *thread)
{
	return syscall(SYS_tgkill, thread->pid, thread->tid, SIGSTOP) ? -errno : 0;
}

/* Lets it go on to its next stop. */
static int next_stop(const struct pd_guarded *thread, enum __ptrace_request how, int *status)
{
	int error;

	if (ptrace(how, thread->tid, 0, 0))
		return -errno;
	error = pd_wait_stop(thread->tid, pd_now_ns() + thread->timeout_ns, status);
	if (error)
		return error == -ECHILD ? -ESRCH : error;
	return WIFSTOPPED(*status) ? 0 : -ESRCH;
}

int pd_guard_ready(const struct pd_guarded *thread)
{
	struct user_regs_struct regs;
	int status, error;

	for (int i = 0; i < MAX_TRIES; i++) {
		error = lead_to_stop(thread, &regs);
		if (!error)
			error = send_stop(thread);
		if (!error)
			error = next_stop(thread, PTRACE_CONT, &status);
		if (error)
			return error;
		if (status >> 8 == SIGSTOP)
			return 0;
	}
	return -ETIMEDOUT;
}

static int call(const struct pd_guarded *thread, struct pd_remote_call *made)
{
	struct user_regs_struct regs;
	int status, error = lead_to_stop(thread, &regs);

	step_reached(thread, PD_GUARD_STEP_LED);
	for (int i = 0; !error && i < MAX_TRIES; i++) {
		error = next_stop(thread, PTRACE_SYSCALL, &status);
		if (error || status >> 8 == SYSCALL_STOP)
			break;
	}
	if (!error && ptrace(PTRACE_GETREGS, thread->tid, 0, &regs))
		error = -errno;
	if (!error && (status >> 8 != SYSCALL_STOP || regs.orig_rax != SYS_tgkill))
		error = -ENOEXEC;
	step_reached(thread, PD_GUARD_STEP_ENTERED);
	if (!error)
		error = send_stop(thread);
	if (error)
		return error;
	regs.orig_rax = (unsigned long long)made->nr;
	regs.rdi = made->args[0];
	regs.rsi = made->args[1];
	regs.rdx = made->args[2];
	regs.r10 = made->args[3];
	regs.r8 = made->args[4];
	regs.r9 = made->args[5];
	error = pd_set_registers(thread->tid, &regs);
	step_reached(thread, PD_GUARD_STEP_CALLS);
	if (!error)
		error = next_stop(thread, PTRACE_SYSCALL, &status);
	if (!error && ptrace(PTRACE_GETREGS, thread->tid, 0, &regs))
		error = -errno;
	if (error)
		return error;
	if (status >> 8 != SYSCALL_STOP)
		return -ENOEXEC;
	step_reached(thread, PD_GUARD_STEP_CALLED);
	made->result = (int64_t)regs.rax;
	return pd_guard_ready(thread);
}

int64_t pd_guarded_calls(const struct pd_guarded *thread, struct pd_remote_call *calls, uint64_t n_calls)
{
	for (uint64_t i = 0; i < n_calls; i++) {
		int error = call(thread, calls + i);

		if (error)
			return error;
		if (calls[i].result < 0 && calls[i].result >= -MAX_ERRNO)
			return (int64_t)i;
	}
	return (int64_t)n_calls;
}
