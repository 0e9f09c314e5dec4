/*
 * One system call inside a stopped target, such that it survives our death at any instant.
 *
 * Before the registers are touched, two signal frames are built in the dead part of the target's stack:
 *
 *	frame CLOSE     sigreturn from it: close(expected descriptor), then `ret` into the restorer of frame BACK
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

#include "frames.h"
#include "stops.h"

#define MAX_TRIES 10

struct injection {
	int tid, die_at, victim;
	int64_t deadline_ns;
	const struct pd_site *site;
	struct pd_home *home; /* frame CLOSE lies below its frame */
};

static void step(const struct injection *injection, int number)
{
	if (injection->die_at == number)
		kill(injection->victim, SIGKILL);
}

static int write_frames(const struct injection *injection, int expected_fd)
{
	static uint8_t xstate[PD_XSTATE_MAX_BYTES];
	const struct pd_site *site = injection->site;
	struct pd_home *home = injection->home;
	struct pd_signal_frame close_frame = {.restorer = site->restorer_addr, .siginfo = PD_FRAME_MARK};
	struct iovec state = {xstate, sizeof(xstate)};
	struct iovec local = {&close_frame, sizeof(close_frame)}, remote = local;
	uint64_t end_addr = pd_own_frames_end(site, home->saved.rsp);
	int error;

	if (ptrace(PTRACE_GETREGSET, injection->tid, NT_X86_XSTATE, &state))
		return -errno;
	error = pd_place_home(home, xstate, state.iov_len, site->stack_start_addr,
			      end_addr ? end_addr : site->scratch_end_addr, sizeof(close_frame));
	if (!error)
		error = pd_write_home(home, site, xstate, NULL, !end_addr);
	if (error)
		return error;
	close_frame.uc_flags = PD_UC_SIGCONTEXT_SS | PD_UC_STRICT_RESTORE_SS;
	close_frame.mask = ~0UL;
	close_frame.context = (struct pd_sigcontext){
		.di = (uint64_t)expected_fd,
		.ax = SYS_close,
		.sp = home->back_frame_addr,
		.ip = site->syscall_ret_addr,
		.flags = home->saved.eflags,
		.cs = (uint16_t)home->saved.cs,
		.ss = (uint16_t)home->saved.ss,
	};
	remote.iov_base = (void *)(uintptr_t)home->below_addr;
	if (process_vm_writev(injection->tid, &local, 1, &remote, 1, 0) != (ssize_t)sizeof(close_frame))
		return errno == ESRCH ? -ESRCH : -ENOSPC;
	return 0;
}

/*
 * Lets the thread run to its next system call stop. Stops of other kinds (a group stop is reported once more) are
 * passed over. On a timeout (a frozen cgroup) the thread is brought to a stop again before the error is returned.
 */
static int run_to_syscall_stop(const struct injection *injection)
{
	for (int i = 0; i < MAX_TRIES; i++) {
		int status, error;

		if (ptrace(PTRACE_SYSCALL, injection->tid, 0, 0))
			return -errno;
		error = pd_wait_stop(injection->tid, injection->deadline_ns, &status);
		if (error == -ETIMEDOUT) {
			ptrace(PTRACE_INTERRUPT, injection->tid, 0, 0);
			pd_wait_stop(injection->tid, pd_now_ns() + 1000000000, &status);
			return -ETIMEDOUT;
		}
		if (error)
			return error;
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 8 == (SIGTRAP | 0x80))
			return 0;
	}
	return -ETIMEDOUT;
}

/* Makes the thread call userfaultfd and takes what it returns: the descriptor in the target, or -errno. */
static long make_userfaultfd(const struct injection *injection, int flags)
{
	/* Until the call is about to run, the thread stands before a sigreturn: nothing happens if we die. */
	const struct pd_home *home = injection->home;
	struct user_regs_struct regs =
		pd_call_registers(home, injection->site, SYS_rt_sigreturn, home->back_frame_addr + 8);
	int error = pd_set_registers(injection->tid, &regs);

	if (error)
		return error;
	step(injection, PD_INJECT_STEP_SET);
	/* A pending signal would run its handler instead of the call, and be lost with it. */
	error = pd_set_mask(injection->tid, ~0UL);
	if (!error)
		error = run_to_syscall_stop(injection);
	if (error)
		return error;
	if (ptrace(PTRACE_GETREGS, injection->tid, 0, &regs))
		return -errno;
	if (regs.orig_rax != SYS_rt_sigreturn)
		return -ENOEXEC;
	/* Swapped at the entry stop, where no seccomp filter has looked yet: it is suspended while we live. */
	regs.orig_rax = SYS_userfaultfd;
	regs.rdi = (unsigned long long)flags;
	regs.rsp = home->below_addr;
	error = pd_set_registers(injection->tid, &regs);
	if (error)
		return error;
	step(injection, PD_INJECT_STEP_ENTERED);
	error = run_to_syscall_stop(injection);
	if (error)
		return error;
	if (ptrace(PTRACE_GETREGS, injection->tid, 0, &regs))
		return -errno;
	return (long)regs.rax;
}

static int close_in_target(const struct injection *injection, int fd)
{
	const struct pd_home *home = injection->home;
	struct user_regs_struct regs = pd_call_registers(home, injection->site, SYS_close, home->back_frame_addr);
	int error;

	regs.rdi = (unsigned long long)fd;
	error = pd_set_registers(injection->tid, &regs);
	for (int stops = 0; !error && stops < 2; stops++) /* entry, exit */
		error = run_to_syscall_stop(injection);
	return error;
}

int pd_inject_userfaultfd(int tid, int pidfd, int mem_fd, const struct pd_site *site, int flags, int expected_fd,
			  int64_t timeout_ns, int die_at, int victim)
{
	static struct pd_home home;
	struct injection injection = {
		.tid = tid,
		.die_at = die_at,
		.victim = victim,
		.deadline_ns = pd_now_ns() + timeout_ns,
		.site = site,
		.home = &home,
	};
	struct pd_rseq_configuration rseq;
	int error, restore_error;
	long target_fd, fd;
	uint64_t section_addr, abort_addr;

	home.tid = tid;
	if (ptrace(PTRACE_GETREGS, tid, 0, &home.saved) ||
	    ptrace(PD_PTRACE_GETSIGMASK, tid, sizeof(home.saved_mask), &home.saved_mask))
		return -errno;
	error = home.saved.cs == PD_USER_CS64 ? pd_check_site(site, mem_fd) : -ENOEXEC;
	if (error)
		return error;
	abort_addr = pd_read_rseq(tid, mem_fd, home.saved.rip, &rseq, &section_addr);
	if (abort_addr)
		home.saved.rip = abort_addr;
	error = write_frames(&injection, expected_fd);
	if (error)
		return error;
	step(&injection, PD_INJECT_STEP_FRAMES);

	target_fd = make_userfaultfd(&injection, flags);
	step(&injection, PD_INJECT_STEP_RETURNED);
	fd = target_fd < 0 ? target_fd : syscall(PD_NR_PIDFD_GETFD, pidfd, target_fd, 0);
	if (target_fd >= 0) {
		if (fd < 0)
			fd = -errno;
		step(&injection, PD_INJECT_STEP_TAKEN);
		error = close_in_target(&injection, (int)target_fd);
		if (!error)
			step(&injection, PD_INJECT_STEP_CLOSED);
	}
	/* The mask first: with the registers still at the frames, dying in between is harmless. */
	restore_error = pd_set_mask(tid, home.saved_mask);
	restore_error |= pd_set_registers(tid, &home.saved);
	if (!restore_error)
		pd_remove_home(&home);
	if (restore_error || error) {
		if (fd >= 0)
			close((int)fd);
		return error ? error : -ESRCH;
	}
	return (int)fd;
}
