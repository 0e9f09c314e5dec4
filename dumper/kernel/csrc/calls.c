/*
 * Injected system calls that survive our death at any instant, like the one of inject.c, with frame BACK alone.
 *
 * All calls are queries. From the first change of its registers on, a thread stands at `syscall; ret` with BACK as its
 * return address: whoever does not stop it any more lets it make the query once more, and run home. Stops come from
 * PTRACE_SYSCALL: a single step's SIGTRAP, in contrast, kills the target if the tracer dies before it is taken.
 *
 * Several threads go side by side, since waiting for one stop costs more than the stop: while one runs, the next is
 * woken. Frames lie one below the other, and threads are set up from the highest to the lowest, and put back in the
 * opposite order: in the instants in which a thread stands at a frame with its signals unblocked, a handler that runs
 * because we died uses the stack below, where no frame is in use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "chain.h"
#include "stops.h"

#define MAX_TRIES 10
#define LATE_STOP_NS 1000000000LL

void pd_callers_step(const struct pd_callers *set, int number)
{
	if (set->asking->die_at == number)
		kill(set->asking->victim, SIGKILL);
}

int pd_callers_add(struct pd_callers *set, const struct pd_thread_state *thread, uint64_t start_addr,
		   uint64_t end_addr, int must_be_free, const struct pd_chain *chain)
{
	struct pd_caller *caller = set->callers + set->n_callers;
	struct pd_home *home = &caller->home;
	static uint8_t below[sizeof(caller->answers) + PD_MAX_CHAIN_BYTES + 32];
	int error;

	if (set->n_callers == PD_MAX_CALLERS)
		return -ENOSPC;
	caller->error = caller->is_set = caller->has_answered = 0;
	caller->ns_tid = thread->ns_tid;
	caller->stop_signal = pd_chain_signal(set->asking->site, thread, chain);
	caller->n_answers = chain->n_answers;
	home->tid = thread->tid;
	memcpy(&home->saved, thread->gp, sizeof(home->saved));
	if (thread->rseq_abort_addr)
		home->saved.rip = thread->rseq_abort_addr;
	home->saved_mask = thread->signal_mask;
	error = pd_place_home(home, thread->xstate, thread->xstate_bytes, start_addr, end_addr,
			      (size_t)chain->n_answers * PD_ANSWER_BYTES +
				      (caller->stop_signal ? pd_chain_bytes(chain) : 0));
	if (error)
		return error;
	memset(below, 0xff, sizeof(below));
	if (caller->stop_signal)
		pd_write_chain(caller, set->asking->site, chain, below);
	error = pd_write_home(home, set->asking->site, thread->xstate, below, must_be_free);
	if (error)
		return error;
	if (!set->n_callers)
		set->deadline_ns = pd_now_ns() + set->asking->timeout_ns;
	set->n_callers++;
	pd_callers_step(set, PD_ASK_STEP_FRAMES);
	if (caller->stop_signal)
		pd_chain_start(set, caller, chain);
	return 0;
}

int pd_callers_wait(struct pd_callers *set, const struct pd_caller *caller, int *status)
{
	const int tid = caller->home.tid;
	int error = pd_wait_stop(tid, set->deadline_ns, status);

	if (error == -ETIMEDOUT) { /* a frozen cgroup: it must stand still before its registers are put back */
		ptrace(PTRACE_INTERRUPT, tid, 0, 0);
		pd_wait_stop(tid, pd_now_ns() + LATE_STOP_NS, status);
		return -ETIMEDOUT;
	}
	if (error || !WIFSTOPPED(*status))
		return -ESRCH;
	return 0;
}

/*
 * A SIGSTOP cannot be blocked: it is passed on, and begins a stop of all threads, which each of them reports. But of those
 * that were sent to each thread by itself the first has stopped the process, and the others still wait.
 */
long pd_callers_passed_on(const struct pd_callers *set, int status)
{
	return status >> 16 || set->asking->in_stop ? 0 : WSTOPSIG(status);
}

/* Waits for the system call stop of a thread that was let go; a group stop, reported once more, is passed over. */
static int wait_syscall_stop(struct pd_callers *set, const struct pd_caller *caller)
{
	for (int i = 0; i < MAX_TRIES; i++) {
		int status, error = pd_callers_wait(set, caller, &status);

		if (error)
			return error;
		if (status >> 8 == (SIGTRAP | 0x80))
			return 0;
		if (ptrace(PTRACE_SYSCALL, caller->home.tid, 0, pd_callers_passed_on(set, status)))
			return -errno;
	}
	return -ETIMEDOUT;
}

static int takes_part(const struct pd_caller *caller)
{
	return !caller->error && !caller->has_answered;
}

static void run_to_syscall_stop(struct pd_callers *set)
{
	for (int i = 0; i < set->n_callers; i++) {
		struct pd_caller *caller = set->callers + i;

		if (takes_part(caller) && ptrace(PTRACE_SYSCALL, caller->home.tid, 0, 0))
			caller->error = -errno;
	}
	for (int i = 0; i < set->n_callers; i++) {
		struct pd_caller *caller = set->callers + i;

		if (takes_part(caller))
			caller->error = wait_syscall_stop(set, caller);
	}
}

uint64_t pd_argument(const struct pd_caller *caller, const struct pd_call *call, int i)
{
	if (call->args[i] == PD_ANSWER)
		return caller->home.below_addr + (uint64_t)call->answer * PD_ANSWER_BYTES;
	return (uint64_t)call->args[i];
}

static int set_call(struct pd_callers *set, const struct pd_caller *caller, const struct pd_call *call,
		    uint64_t return_addr)
{
	const struct pd_home *home = &caller->home;
	struct user_regs_struct regs = pd_call_registers(home, set->asking->site, call->nr, return_addr);

	regs.rdi = pd_argument(caller, call, 0);
	regs.rsi = pd_argument(caller, call, 1);
	regs.rdx = pd_argument(caller, call, 2);
	regs.r10 = pd_argument(caller, call, 3);
	regs.r8 = regs.r9 = 0; /* some queries want all other arguments to be 0 */
	return pd_set_registers(home->tid, &regs);
}

static int take_result(struct pd_callers *set, struct pd_caller *caller)
{
	errno = 0;
	caller->result = ptrace(PTRACE_PEEKUSER, caller->home.tid, offsetof(struct user_regs_struct, rax), 0);
	set->asking->n_calls++;
	return caller->result == -1 ? -errno : 0;
}

int pd_callers_set_first(struct pd_callers *set, struct pd_caller *caller, const struct pd_call *call,
			 uint64_t return_addr, uint64_t mask)
{
	int error = set_call(set, caller, call, return_addr);

	if (error)
		return error;
	caller->is_set = 1;
	pd_callers_step(set, PD_ASK_STEP_SET);
	/* A pending signal would run its handler instead of the call, and be lost with it. */
	error = pd_set_mask(caller->home.tid, mask);
	pd_callers_step(set, PD_ASK_STEP_MASKED);
	return error;
}

void pd_callers_call(struct pd_callers *set, const struct pd_call *call)
{
	set->deadline_ns = pd_now_ns() + set->asking->timeout_ns;
	for (int i = 0; i < set->n_callers; i++) {
		struct pd_caller *caller = set->callers + i;

		if (!takes_part(caller))
			continue;
		caller->error = caller->is_set
					? set_call(set, caller, call, caller->home.back_frame_addr)
					: pd_callers_set_first(set, caller, call, caller->home.back_frame_addr, ~0UL);
		if (caller->is_set)
			pd_callers_step(set, PD_ASK_STEP_AGAIN);
	}
	run_to_syscall_stop(set);
	pd_callers_step(set, PD_ASK_STEP_ENTERED);
	run_to_syscall_stop(set);
	pd_callers_step(set, PD_ASK_STEP_RETURNED);
	for (int i = 0; i < set->n_callers; i++) {
		struct pd_caller *caller = set->callers + i;

		if (takes_part(caller))
			caller->error = take_result(set, caller);
		if (caller->error)
			caller->result = caller->error;
	}
}

void pd_callers_read(struct pd_callers *set)
{
	for (int i = 0; i < set->n_callers; i++) {
		struct pd_caller *caller = set->callers + i;
		const size_t n_bytes = (size_t)caller->n_answers * PD_ANSWER_BYTES;
		struct iovec here = {caller->answers, n_bytes};
		struct iovec there = {(void *)(uintptr_t)caller->home.below_addr, n_bytes};

		if (!caller->error && process_vm_readv(caller->home.tid, &here, 1, &there, 1, 0) != (ssize_t)n_bytes)
			caller->error = -ESRCH;
	}
}

void pd_callers_end(struct pd_callers *set)
{
	for (int i = set->n_callers; i-- > 0;) {
		struct pd_caller *caller = set->callers + i;
		int error = 0;

		if (caller->is_set) {
			/* The mask first: with the registers still at the frame, dying in between is harmless. */
			error = pd_set_mask(caller->home.tid, caller->home.saved_mask);
			pd_callers_step(set, PD_ASK_STEP_UNMASKED);
			error |= pd_set_registers(caller->home.tid, &caller->home.saved);
			pd_callers_step(set, i ? PD_ASK_STEP_PARTLY : PD_ASK_STEP_REGISTERS);
		}
		if (error)
			caller->error = -ESRCH;
		else
			pd_remove_home(&caller->home);
	}
	set->n_callers = 0;
}
