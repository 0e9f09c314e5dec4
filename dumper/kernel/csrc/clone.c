/*
 * A copy-on-write child of a stopped target, which holds its memory as of now and never runs.
 *
 * Its exit signal is 0: the target gets no SIGCHLD, and no wait(2) of its own sees the child without __WALL or __WCLONE. It
 * shares the table of descriptors, which costs nothing in the freeze; pd_release_files gives it one of its own.
 *
 * Who dies here leaves nothing behind, beside frame BACK of inject.c there are
 *
 *	frame REAP      under the thread's own return: waits for the child, whose id the kernel writes into this frame
 *	frame EXIT      the stack of the child: should it ever be let run, it ends
 *
 * and the kernel kills the child with its tracer (PTRACE_O_EXITKILL) as soon as that could be asked for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject.h"
#include "stops.h"

#define ERESTARTNOINTR 513 /* linux/errno.h, not for programs */

enum { EXIT, REAP, N_FRAMES };
_Static_assert(N_FRAMES <= PD_MAX_INJECTED_FRAMES, "there is room for them");

#define CLOSE_RANGE_UNSHARE_TABLE 2 /* CLOSE_RANGE_UNSHARE, since 5.9 */
#define NR_CLOSE_RANGE 436

static void prepare(struct pd_injection *injection, const struct pd_clone_request *request, int64_t timeout_ns)
{
	injection->tid = request->tid;
	injection->mem_fd = request->mem_fd;
	injection->site = request->site;
	injection->deadline_ns = pd_now_ns() + timeout_ns;
	injection->die_at = request->die_at;
	injection->victim = request->victim;
}

static int write_frames(struct pd_injection *injection)
{
	/* No child has this id: as long as the kernel did not write another one, nothing is waited for. */
	const uint64_t no_child[3] = {INT_MAX, 0, __WALL}, failure[3] = {0};
	struct pd_signal_frame frames[N_FRAMES];

	frames[EXIT] = pd_call_frame(injection, SYS_exit_group, failure, pd_injected_frame_addr(injection, EXIT));
	frames[REAP] = pd_call_frame(injection, SYS_wait4, no_child, injection->home.back_frame_addr);
	return pd_injection_write(injection, frames, N_FRAMES);
}

/* Makes the call; *child: the new process, as we see it. Returns its id in the target's pid namespace, or -errno. */
static long make_child(struct pd_injection *injection, int64_t patience_ns, unsigned long *child)
{
	const uint64_t reap_addr = pd_injected_frame_addr(injection, REAP);
	const uint64_t args[4] = {
		CLONE_FILES | CLONE_FS | CLONE_IO | CLONE_PARENT_SETTID,
		pd_injected_frame_addr(injection, EXIT),
		reap_addr + offsetof(struct pd_signal_frame, context) + offsetof(struct pd_sigcontext, di),
	};
	long ns_pid;
	int error = pd_injection_enter(injection, SYS_clone, args, reap_addr);

	if (error)
		return error;
	/* Nothing stops a fork half-way: it takes as long as there are page tables. */
	error = pd_run_to_syscall_stop(injection->tid, pd_now_ns() + patience_ns, child);
	if (error)
		return error;
	errno = 0;
	ns_pid = ptrace(PTRACE_PEEKUSER, injection->tid, offsetof(struct user_regs_struct, rax), 0);
	if (ns_pid == -ERESTARTNOINTR)
		return -ETIMEDOUT; /* it had not begun, and was told to stop */
	return errno ? -errno : ns_pid;
}

/* The child stops by itself before its first instruction. From here on, it dies with us. */
static int hold_child(int child, int options)
{
	int status, error = pd_wait_stop(child, pd_now_ns() + 1000000000, &status);

	if (error || !WIFSTOPPED(status))
		return -ESRCH;
	return ptrace(PTRACE_SETOPTIONS, child, 0, options | PTRACE_O_EXITKILL) ? -ESRCH : 0;
}

int pd_inject_clone(const struct pd_clone_request *request, struct pd_clone *clone)
{
	static struct pd_injection injection;
	unsigned long child = 0;
	long ns_pid;
	int error, held;

	prepare(&injection, request, request->timeout_ns);
	error = pd_injection_begin(&injection, N_FRAMES);
	if (error)
		return error;
	error = write_frames(&injection);
	if (error)
		return error;
	*clone = (struct pd_clone){
		.frames_start_addr = injection.home.below_addr,
		.frames_end_addr = injection.home.below_addr + injection.home.stack_bytes,
		.rseq_start_addr = injection.rseq.rseq_abi_pointer,
		.rseq_end_addr = injection.rseq.rseq_abi_pointer + injection.rseq.rseq_abi_size,
	};
	pd_injection_step(&injection, PD_INJECT_STEP_FRAMES);
	if (ptrace(PTRACE_SETOPTIONS, request->tid, 0, request->options | PTRACE_O_TRACECLONE))
		return -errno; /* nothing has changed but dead memory */
	ns_pid = make_child(&injection, request->patience_ns, &child);
	pd_injection_step(&injection, PD_INJECT_STEP_RETURNED);
	held = ns_pid > 0 ? hold_child((int)child, request->options) : 0;
	if (ns_pid > 0) {
		pd_injection_step(&injection, PD_INJECT_STEP_TAKEN);
		clone->tid = (int32_t)child;
		clone->ns_pid = (int32_t)ns_pid;
		/* Whoever listens buries the child from now on, if we die. */
		dprintf(request->announce_fd, "%d %d %d\n", request->pid, clone->tid, clone->ns_pid);
	}
	pd_injection_step(&injection, PD_INJECT_STEP_CLOSED);
	error = pd_injection_end(&injection);
	ptrace(PTRACE_SETOPTIONS, request->tid, 0, request->options);
	if (ns_pid < 0)
		return (int)ns_pid;
	return error ? error : held;
}

int pd_inject_wait(const struct pd_clone_request *request, int ns_pid)
{
	static struct pd_injection injection;
	const uint64_t args[4] = {(uint64_t)ns_pid, 0, __WALL | WNOHANG};
	long result = 0;
	int error, end_error;

	prepare(&injection, request, request->timeout_ns);
	error = pd_injection_begin(&injection, 0);
	if (!error)
		error = pd_injection_write(&injection, NULL, 0);
	if (error)
		return error;
	pd_injection_step(&injection, PD_INJECT_STEP_FRAMES);
	error = pd_injection_enter(&injection, SYS_wait4, args, injection.home.back_frame_addr);
	if (!error)
		error = pd_injection_leave(&injection, &result);
	pd_injection_step(&injection, PD_INJECT_STEP_RETURNED);
	end_error = pd_injection_end(&injection);
	return error ? error : end_error ? end_error : (int)result;
}

int pd_release_files(int child, const struct pd_site *site, int64_t timeout_ns)
{
	struct user_regs_struct regs;
	const int64_t deadline_ns = pd_now_ns() + timeout_ns;
	int error = 0;

	if (ptrace(PTRACE_GETREGS, child, 0, &regs))
		return -errno;
	/* The stack is frame EXIT, as before: the call returns there, or rather stops short of it. */
	regs.orig_rax = ~0ULL;
	regs.rax = NR_CLOSE_RANGE;
	regs.rip = site->syscall_ret_addr;
	regs.rdi = 0;
	regs.rsi = UINT_MAX;
	regs.rdx = CLOSE_RANGE_UNSHARE_TABLE;
	error = pd_set_registers(child, &regs);
	for (int stops = 0; !error && stops < 2; stops++) /* entry, exit */
		error = pd_run_to_syscall_stop(child, deadline_ns, NULL);
	return error;
}

int pd_end_child(int child, int64_t timeout_ns)
{
	int status, error;

	kill(child, SIGKILL);
	do
		error = pd_wait_stop(child, pd_now_ns() + timeout_ns, &status);
	while (!error && WIFSTOPPED(status));
	return error;
}
