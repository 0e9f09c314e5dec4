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

/* Waits for the next stop; a thread that is gone, or has ended, is -ESRCH. */
static int wait_stopped(int tid, int64_t deadline_ns, int *status)
{
	int error = pd_wait_stop(tid, deadline_ns, status);

	if (error)
		return error == -ECHILD ? -ESRCH : error;
	return WIFSTOPPED(*status) ? 0 : -ESRCH;
}

/* Steps over the instruction; a child that the call made is told by its event, before the call ends. */
static int step(int tid, int64_t deadline_ns, int32_t *child)
{
	for (;;) {
		int status, error;

		if (ptrace(PTRACE_SINGLESTEP, tid, 0, 0))
			return -errno;
		error = wait_stopped(tid, deadline_ns, &status);
		if (error)
			return error;
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

/*
 * Calls that follow one another without a stop in between: for each struct pd_remote_call from rbx to r12, until one fails.
 * It ends in a breakpoint, with rbx at the call that failed, or at the end.
 */
__asm__(".pushsection .rodata\n"
	".globl pd_call_loop, pd_call_loop_end\n"
	"pd_call_loop:\n\t"
	"cmp %r12, %rbx\n\t"
	"jae 1f\n\t"
	"mov (%rbx), %rax\n\t"
	"mov 8(%rbx), %rdi\n\t"
	"mov 16(%rbx), %rsi\n\t"
	"mov 24(%rbx), %rdx\n\t"
	"mov 32(%rbx), %r10\n\t"
	"mov 40(%rbx), %r8\n\t"
	"mov 48(%rbx), %r9\n\t"
	"syscall\n\t"
	"mov %rax, 56(%rbx)\n\t"
	"cmp $-4095, %rax\n\t" /* MAX_ERRNO */
	"jae 1f\n\t"
	"add $72, %rbx\n\t"
	"jmp pd_call_loop\n"
	"1:\t"
	"int3\n"
	"pd_call_loop_end:\n"
	".popsection");
extern const uint8_t pd_call_loop[], pd_call_loop_end[];
_Static_assert(sizeof(struct pd_remote_call) == 72 && offsetof(struct pd_remote_call, result) == 56, "as the loop has it");

uint64_t pd_remote_loop(uint8_t *code, uint64_t capacity_bytes)
{
	uint64_t n_bytes = (uint64_t)(pd_call_loop_end - pd_call_loop);

	if (n_bytes <= capacity_bytes)
		memcpy(code, pd_call_loop, n_bytes);
	return n_bytes;
}

/* Lets the thread run to the breakpoint; where rbx is then. */
static int run_loop(int tid, uint64_t loop_addr, struct user_regs_struct *regs, int64_t deadline_ns)
{
	const uint64_t end_addr = loop_addr + (uint64_t)(pd_call_loop_end - pd_call_loop);

	if (ptrace(PTRACE_SETREGS, tid, 0, regs))
		return -errno;
	for (int i = 0; i < MAX_TRIES; i++) {
		int status, error;

		if (ptrace(PTRACE_CONT, tid, 0, 0))
			return -errno;
		error = wait_stopped(tid, deadline_ns, &status);
		if (error)
			return error;
		if (ptrace(PTRACE_GETREGS, tid, 0, regs))
			return -errno;
		if (regs->rip == end_addr)
			return 0;
	}
	return -ETIMEDOUT;
}

int64_t pd_remote_batch(int tid, uint64_t loop_addr, uint64_t table_addr, int64_t timeout_ns, struct pd_remote_call *calls,
			uint64_t n_calls)
{
	struct iovec here = {calls, n_calls * sizeof(*calls)}, there = {(void *)(uintptr_t)table_addr, here.iov_len};
	struct user_regs_struct regs;
	int error;

	if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
		return -errno;
	regs.rip = loop_addr;
	regs.rbx = table_addr;
	regs.r12 = table_addr + here.iov_len;
	regs.orig_rax = ~0ULL; /* nothing to start over */
	if (process_vm_writev(tid, &here, 1, &there, 1, 0) != (ssize_t)here.iov_len)
		return -EFAULT;
	error = run_loop(tid, loop_addr, &regs, pd_now_ns() + timeout_ns);
	if (error)
		return error;
	if (process_vm_readv(tid, &here, 1, &there, 1, 0) != (ssize_t)here.iov_len)
		return -EFAULT;
	return (int64_t)((regs.rbx - table_addr) / sizeof(*calls));
}

int pd_remote_wait_born(int tid, int64_t timeout_ns)
{
	int status;

	return wait_stopped(tid, pd_now_ns() + timeout_ns, &status);
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

int64_t pd_remote_get_xstate(int tid, uint8_t *into, uint64_t capacity_bytes)
{
	struct iovec state = {into, capacity_bytes};

	return ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &state) ? -errno : (int64_t)state.iov_len;
}

int pd_remote_set_fpregs(int tid, const uint8_t *fpregs, uint64_t fpregs_bytes)
{
	struct iovec state = {(void *)(uintptr_t)fpregs, fpregs_bytes};

	return ptrace(PTRACE_SETREGSET, tid, NT_PRFPREG, &state) ? -errno : 0;
}

int64_t pd_remote_detach(const int32_t *tids, const int32_t *signals, uint64_t n_tids)
{
	int64_t n_gone = 0;

	for (uint64_t i = 0; i < n_tids; i++)
		n_gone += !ptrace(PTRACE_DETACH, tids[i], 0, (long)signals[i]);
	return n_gone;
}
