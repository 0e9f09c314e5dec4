/*
 * System calls inside a stopped target, such that it survives our death at any instant.
 *
 * Before the registers are touched, signal frames are built in the dead part of the target's stack: those of the caller,
 * which undo what its call does (of a userfaultfd, frame CLOSE: close(expected descriptor), then `ret` into the restorer of
 * frame BACK), and
 *
 *	frame BACK      sigreturn from it: the thread exactly as it was, floating point state and signal mask included
 *
 * From the first change of the registers on, the thread stands at code that leads through them: whoever does not
 * stop it any more lets it run home by itself. A tracer that lives takes the shorter way and sets the registers back,
 * since a real sigreturn would make an interrupted nanosleep(2) fail with EINTR.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject.h"
#include "stops.h"

#define MAX_TRIES 10
#define END_NS 1000000000LL
#define LATE_STOP_NS 1000000000LL

void pd_injection_step(const struct pd_injection *injection, int number)
{
	if (injection->die_at == number)
		kill(injection->victim, SIGKILL);
}

int pd_injection_begin(struct pd_injection *injection, int n_frames)
{
	struct pd_home *home = &injection->home;
	struct iovec state = {injection->xstate, sizeof(injection->xstate)};
	uint64_t section_addr, abort_addr, end_addr;
	int error;

	home->tid = injection->tid;
	if (ptrace(PTRACE_GETREGS, home->tid, 0, &home->saved) ||
	    ptrace(PD_PTRACE_GETSIGMASK, home->tid, sizeof(home->saved_mask), &home->saved_mask))
		return -errno;
	error = home->saved.cs == PD_USER_CS64 ? pd_check_site(injection->site, injection->mem_fd) : -ENOEXEC;
	if (error)
		return error;
	abort_addr = pd_read_rseq(home->tid, injection->mem_fd, home->saved.rip, &injection->rseq, &section_addr);
	if (abort_addr)
		home->saved.rip = abort_addr;
	if (ptrace(PTRACE_GETREGSET, home->tid, NT_X86_XSTATE, &state))
		return -errno;
	injection->xstate_bytes = state.iov_len;
	end_addr = pd_own_frames_end(injection->site, home->saved.rsp);
	injection->must_be_free = !end_addr;
	return pd_place_home(home, injection->xstate, injection->xstate_bytes, injection->site->stack_start_addr,
			     end_addr ? end_addr : injection->site->scratch_end_addr,
			     (size_t)n_frames * sizeof(struct pd_signal_frame));
}

uint64_t pd_injected_frame_addr(const struct pd_injection *injection, int i)
{
	return injection->home.below_addr + (uint64_t)i * sizeof(struct pd_signal_frame);
}

struct pd_signal_frame pd_call_frame(const struct pd_injection *injection, long nr, const uint64_t args[3],
				     uint64_t return_frame_addr)
{
	const struct user_regs_struct *saved = &injection->home.saved;

	return (struct pd_signal_frame){
		.restorer = injection->site->restorer_addr,
		.siginfo = PD_FRAME_MARK,
		.uc_flags = PD_UC_SIGCONTEXT_SS | PD_UC_STRICT_RESTORE_SS,
		.mask = ~0UL,
		.context = {
			.di = args[0],
			.si = args[1],
			.dx = args[2],
			.ax = (uint64_t)nr,
			.sp = return_frame_addr,
			.ip = injection->site->syscall_ret_addr,
			.flags = saved->eflags,
			.cs = (uint16_t)saved->cs,
			.ss = (uint16_t)saved->ss,
		},
	};
}

int pd_injection_write(struct pd_injection *injection, const struct pd_signal_frame *frames, int n_frames)
{
	static uint8_t below[PD_MAX_INJECTED_FRAMES * sizeof(struct pd_signal_frame) + 32]; /* with what rounding adds */

	memset(below, 0, sizeof(below));
	memcpy(below, frames, (size_t)n_frames * sizeof(*frames));
	return pd_write_home(&injection->home, injection->site, injection->xstate, below, injection->must_be_free);
}

int pd_run_to_syscall_stop(int tid, int64_t deadline_ns, unsigned long *child)
{
	for (int i = 0; i < MAX_TRIES; i++) {
		int status, is_late, error;

		if (ptrace(PTRACE_SYSCALL, tid, 0, 0))
			return -errno;
		error = pd_wait_stop(tid, deadline_ns, &status);
		is_late = error == -ETIMEDOUT;
		if (is_late) {
			/* A call that it makes is finished first: it stops at its end, and what it made is known. */
			ptrace(PTRACE_INTERRUPT, tid, 0, 0);
			error = pd_wait_stop(tid, pd_now_ns() + LATE_STOP_NS, &status);
		}
		if (error)
			return error;
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 8 == (SIGTRAP | 0x80))
			return 0;
		if (is_late && status >> 16 == PTRACE_EVENT_STOP)
			return -ETIMEDOUT;
		if (child && status >> 8 == (SIGTRAP | PTRACE_EVENT_CLONE << 8))
			ptrace(PTRACE_GETEVENTMSG, tid, 0, child);
	}
	return -ETIMEDOUT;
}

/* A call that has been entered is to come to its end, however late it is. */
static int run_to_end(const struct pd_injection *injection)
{
	return pd_run_to_syscall_stop(injection->tid, pd_now_ns() + END_NS, NULL);
}

int pd_injection_enter(struct pd_injection *injection, long nr, const uint64_t args[4], uint64_t return_frame_addr)
{
	/* Until the call is about to run, the thread stands before a sigreturn: nothing happens if we die. */
	const struct pd_home *home = &injection->home;
	struct user_regs_struct regs =
		pd_call_registers(home, injection->site, SYS_rt_sigreturn, home->back_frame_addr + 8);
	int error = pd_set_registers(injection->tid, &regs);

	if (error)
		return error;
	pd_injection_step(injection, PD_INJECT_STEP_SET);
	/* A pending signal would run its handler instead of the call, and be lost with it. */
	error = pd_set_mask(injection->tid, ~0UL);
	if (!error)
		error = pd_run_to_syscall_stop(injection->tid, injection->deadline_ns, NULL);
	if (error)
		return error;
	if (ptrace(PTRACE_GETREGS, injection->tid, 0, &regs))
		return -errno;
	if (regs.orig_rax != SYS_rt_sigreturn)
		return -ENOEXEC;
	/* Swapped at the entry stop, where no seccomp filter has looked yet: it is suspended while we live. */
	regs.orig_rax = (unsigned long long)nr;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = 0;
	regs.rsp = return_frame_addr;
	error = pd_set_registers(injection->tid, &regs);
	if (!error)
		pd_injection_step(injection, PD_INJECT_STEP_ENTERED);
	return error;
}

static int take_result(const struct pd_injection *injection, long *result)
{
	errno = 0;
	*result = ptrace(PTRACE_PEEKUSER, injection->tid, offsetof(struct user_regs_struct, rax), 0);
	return errno ? -errno : 0;
}

int pd_injection_leave(const struct pd_injection *injection, long *result)
{
	int error = run_to_end(injection);

	return error ? error : take_result(injection, result);
}

int pd_injection_call(const struct pd_injection *injection, long nr, uint64_t arg, uint64_t return_frame_addr)
{
	struct user_regs_struct regs = pd_call_registers(&injection->home, injection->site, nr, return_frame_addr);
	int error;

	regs.rdi = arg;
	error = pd_set_registers(injection->tid, &regs);
	for (int stops = 0; !error && stops < 2; stops++) /* entry, exit */
		error = run_to_end(injection);
	return error;
}

int pd_injection_end(struct pd_injection *injection)
{
	/* The mask first: with the registers still at the frames, dying in between is harmless. */
	int error = pd_set_mask(injection->tid, injection->home.saved_mask);

	error |= pd_set_registers(injection->tid, &injection->home.saved);
	if (error)
		return -ESRCH;
	pd_remove_home(&injection->home);
	return 0;
}

/* With the call entered: its result, a descriptor of ours or -errno. An error: the thread is somewhere on its way home. */
static int take_and_close(const struct pd_injection *injection, int pidfd, long *fd)
{
	long target_fd = 0;
	int error = pd_injection_leave(injection, &target_fd);

	if (error)
		return error;
	pd_injection_step(injection, PD_INJECT_STEP_RETURNED);
	*fd = target_fd;
	if (target_fd < 0)
		return 0;
	*fd = syscall(PD_NR_PIDFD_GETFD, pidfd, target_fd, 0);
	if (*fd < 0)
		*fd = -errno;
	pd_injection_step(injection, PD_INJECT_STEP_TAKEN);
	error = pd_injection_call(injection, SYS_close, (uint64_t)target_fd, injection->home.back_frame_addr);
	if (!error)
		pd_injection_step(injection, PD_INJECT_STEP_CLOSED);
	else if (*fd >= 0)
		close((int)*fd);
	return error;
}

int pd_inject_userfaultfd(int tid, int pidfd, int mem_fd, const struct pd_site *site, int flags, int expected_fd,
			  int64_t timeout_ns, int die_at, int victim)
{
	static struct pd_injection injection;
	const uint64_t args[4] = {(uint64_t)flags}, expected[3] = {(uint64_t)expected_fd};
	struct pd_signal_frame close_frame;
	int error;
	long fd;

	injection.tid = tid;
	injection.mem_fd = mem_fd;
	injection.site = site;
	injection.deadline_ns = pd_now_ns() + timeout_ns;
	injection.die_at = die_at;
	injection.victim = victim;
	error = pd_injection_begin(&injection, 1);
	if (error)
		return error;
	close_frame = pd_call_frame(&injection, SYS_close, expected, injection.home.back_frame_addr);
	error = pd_injection_write(&injection, &close_frame, 1);
	if (error)
		return error;
	pd_injection_step(&injection, PD_INJECT_STEP_FRAMES);

	error = pd_injection_enter(&injection, SYS_userfaultfd, args, pd_injected_frame_addr(&injection, 0));
	fd = error;
	if (!error && (error = take_and_close(&injection, pidfd, &fd)))
		return error; /* left alone, it gets home by itself, and closes what it made */
	error = pd_injection_end(&injection);
	if (error && fd >= 0)
		close((int)fd);
	return error ? error : (int)fd;
}
