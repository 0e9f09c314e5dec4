/*
 * System calls in a process that is ours: one that a restore makes, which has no life of its own yet and ends with us
 * (PTRACE_O_EXITKILL). Unlike those of inject.c they need not survive our death, so each costs one stop: the thread is set
 * to a `syscall` instruction and single-stepped over it. Its registers are what the last call left; all signals are
 * blocked in it.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "compat.h"
#include "predump.h"
#include "stops.h"

#define MAX_TRIES 6
#define SYSCALL_BYTES 2
#define MAX_ERRNO 4095

/* Steps over the instruction; a child that the call made is told by its event, before the call ends. */
static int step(int tid, int64_t deadline_ns, int32_t *child)
{
	for (;;) {
		int status, error;

		if (ptrace(PTRACE_SINGLESTEP, tid, 0, 0))
			return -errno;
		error = pd_wait_stop(tid, deadline_ns, &status);
		if (error)
			return error == -ECHILD ? -ESRCH : error;
		if (!WIFSTOPPED(status))
			return -ESRCH;
		switch (status >> 16) {
		case PTRACE_EVENT_CLONE:
		case PTRACE_EVENT_FORK:
		case PTRACE_EVENT_VFORK: {
			unsigned long message = 0;

			ptrace(PTRACE_GETEVENTMSG, tid, 0, &message);
			*child = (int32_t)message;
			continue;
		}
		default:
			return 0;
		}
	}
}

static int call(int tid, uint64_t syscall_addr, int64_t deadline_ns, struct pd_remote_call *made)
{
	struct user_regs_struct regs;

	if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
		return -errno;
	for (int i = 0; i < MAX_TRIES; i++) {
		int error;

		regs.rip = syscall_addr;
		regs.rax = (unsigned long long)made->nr;
		regs.orig_rax = ~0ULL; /* nothing to start over */
		regs.rdi = made->args[0];
		regs.rsi = made->args[1];
		regs.rdx = made->args[2];
		regs.r10 = made->args[3];
		regs.r8 = made->args[4];
		regs.r9 = made->args[5];
		if (ptrace(PTRACE_SETREGS, tid, 0, &regs))
			return -errno;
		made->child = 0;
		error = step(tid, deadline_ns, &made->child);
		if (!error && ptrace(PTRACE_GETREGS, tid, 0, &regs))
			error = -errno;
		if (error)
			return error;
		if (regs.rip == syscall_addr + SYSCALL_BYTES) {
			made->result = (int64_t)regs.rax;
			return 0;
		}
		/* A stop of another kind came first: the call was not made. */
	}
	return -ETIMEDOUT;
}

int64_t pd_remote_calls(int tid, uint64_t syscall_addr, int64_t timeout_ns, struct pd_remote_call *calls, uint64_t n_calls)
{
	for (uint64_t i = 0; i < n_calls; i++) {
		int error = call(tid, syscall_addr, pd_now_ns() + timeout_ns, calls + i);

		if (error)
			return error;
		if (calls[i].result < 0 && calls[i].result >= -MAX_ERRNO)
			return (int64_t)i;
	}
	return (int64_t)n_calls;
}

int pd_remote_wait_born(int tid, int64_t timeout_ns)
{
	int status, error = pd_wait_stop(tid, pd_now_ns() + timeout_ns, &status);

	if (error)
		return error == -ECHILD ? -ESRCH : error;
	return WIFSTOPPED(status) ? 0 : -ESRCH;
}

int pd_remote_set_mask(int tid, uint64_t mask)
{
	return ptrace(PD_PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) ? -errno : 0;
}

int pd_remote_set_registers(int tid, const uint64_t *general, const uint8_t *xstate, uint64_t xstate_bytes)
{
	struct iovec state = {(void *)(uintptr_t)xstate, xstate_bytes};

	if (ptrace(PTRACE_SETREGS, tid, 0, general))
		return -errno;
	return xstate_bytes && ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &state) ? -errno : 0;
}

int pd_remote_set_fpregs(int tid, const uint8_t *fpregs, uint64_t fpregs_bytes)
{
	struct iovec state = {(void *)(uintptr_t)fpregs, fpregs_bytes};

	return ptrace(PTRACE_SETREGSET, tid, NT_PRFPREG, &state) ? -errno : 0;
}

int pd_remote_detach(int tid, int signal)
{
	return ptrace(PTRACE_DETACH, tid, 0, signal) ? -errno : 0;
}
