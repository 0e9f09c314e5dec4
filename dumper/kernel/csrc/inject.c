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
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "predump.h"
#include "stops.h"

#define USER_CS64 0x33
#define RED_ZONE_BYTES 128
#define XSTATE_MAX_BYTES 16384
#define STACK_MAX_BYTES (XSTATE_MAX_BYTES + 2048)
#define XFEATURE_TILE_DATA (1UL << 18)
#define MAX_TRIES 10

/* arch/x86/include/asm/sigframe.h, struct rt_sigframe; uapi/asm/sigcontext.h */
struct sigcontext64 {
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
};
struct signal_frame {
	uint64_t restorer;
	uint64_t uc_flags, uc_link, ss_sp, ss_flags, ss_size;
	struct sigcontext64 context;
	uint64_t mask;
	uint8_t siginfo[128];
};
_Static_assert(sizeof(struct sigcontext64) == 256, "struct sigcontext_64 is ABI");
_Static_assert(sizeof(struct signal_frame) == 440, "struct rt_sigframe is ABI");

#define UC_FP_XSTATE 1
#define UC_SIGCONTEXT_SS 2
#define UC_STRICT_RESTORE_SS 4

/* uapi/asm/sigcontext.h, struct _fpx_sw_bytes, at byte 464 of the state */
#define FX_SW_OFFSET 464
#define FP_XSTATE_MAGIC1 0x46505853U
#define FP_XSTATE_MAGIC2 0x46505845U
struct fx_sw_bytes {
	uint32_t magic1, extended_size;
	uint64_t xfeatures;
	uint32_t xstate_size, padding[7];
};
_Static_assert(sizeof(struct fx_sw_bytes) == 48, "struct _fpx_sw_bytes is ABI");

struct injection {
	int tid, die_at, victim;
	int64_t deadline_ns;
	const struct pd_site *site;
	struct user_regs_struct saved;
	uint64_t saved_mask;
	uint64_t close_frame_addr, back_frame_addr;
	uint8_t *stack; /* what the frames overwrite, from close_frame_addr on */
	size_t stack_bytes;
};

#define FRAME_MARK "predump injection frame"

const char *pd_frame_mark(void)
{
	return FRAME_MARK;
}

static void step(const struct injection *injection, int number)
{
	if (injection->die_at == number)
		kill(injection->victim, SIGKILL);
}

/* Size of the standard-format XSAVE area for `xfeatures`: CPUID leaf 0xD, Intel SDM vol. 1, 13.4. */
static uint32_t xstate_size(uint64_t xfeatures)
{
	uint32_t size = 576, eax, ebx, ecx, edx;

	for (unsigned int i = 2; i < 63; i++) {
		if (!(xfeatures >> i & 1))
			continue;
		__cpuid_count(0xD, i, eax, ebx, ecx, edx);
		if (ebx + eax > size)
			size = ebx + eax;
	}
	return size;
}

/* Where the interrupted call would be taken up again if the kernel no longer could: at its beginning. */
static void context_to_restart(const struct user_regs_struct *regs, struct sigcontext64 *context)
{
	long result = (long)regs->rax;

	if ((long)regs->orig_rax < 0)
		return;
	switch (result) {
	case -516: /* ERESTART_RESTARTBLOCK: the time that is left is where the caller asked for it, if it did */
		if (regs->orig_rax == SYS_nanosleep && regs->rsi)
			context->di = regs->rsi;
		if (regs->orig_rax == SYS_clock_nanosleep && regs->r10)
			context->dx = regs->r10;
		break;
	case -512: case -513: case -514: /* ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND */
		break;
	default:
		return;
	}
	context->ax = regs->orig_rax;
	context->ip -= 2;
}

static struct sigcontext64 context_of(const struct user_regs_struct *regs)
{
	struct sigcontext64 context = {
		.r8 = regs->r8, .r9 = regs->r9, .r10 = regs->r10, .r11 = regs->r11,
		.r12 = regs->r12, .r13 = regs->r13, .r14 = regs->r14, .r15 = regs->r15,
		.di = regs->rdi, .si = regs->rsi, .bp = regs->rbp, .bx = regs->rbx,
		.dx = regs->rdx, .ax = regs->rax, .cx = regs->rcx, .sp = regs->rsp,
		.ip = regs->rip, .flags = regs->eflags,
		.cs = (uint16_t)regs->cs, .ss = (uint16_t)regs->ss,
	};

	context_to_restart(regs, &context);
	return context;
}

/* Where the frames may end: below the red zone of a stack pointer within [stack], else at the site's scratch. */
static uint64_t frames_end(const struct injection *injection)
{
	uint64_t sp = injection->saved.rsp;
	const struct pd_site *site = injection->site;

	if (sp > site->stack_start_addr && sp <= site->stack_end_addr)
		return sp - RED_ZONE_BYTES;
	return site->scratch_end_addr;
}

typedef ssize_t vm_call(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long);

/* Saves what the frames will overwrite, or puts it back. */
static int move_stack(const struct injection *injection, vm_call *call)
{
	struct iovec here = {injection->stack, injection->stack_bytes};
	struct iovec there = {(void *)(uintptr_t)injection->close_frame_addr, injection->stack_bytes};

	return call(injection->tid, &here, 1, &there, 1, 0) == (ssize_t)injection->stack_bytes;
}

static int write_frames(struct injection *injection, int expected_fd)
{
	static uint8_t xstate[XSTATE_MAX_BYTES + 4];
	const struct pd_site *site = injection->site;
	struct iovec state = {xstate, XSTATE_MAX_BYTES};
	struct signal_frame close_frame = {.restorer = site->restorer_addr, .siginfo = FRAME_MARK};
	struct signal_frame back_frame = close_frame;
	struct fx_sw_bytes sw = {.magic1 = FP_XSTATE_MAGIC1};
	const uint32_t magic2 = FP_XSTATE_MAGIC2;
	uint64_t fpstate_addr, xfeatures, in_use;

	if (ptrace(PTRACE_GETREGSET, injection->tid, NT_X86_XSTATE, &state))
		return -errno;
	memcpy(&xfeatures, xstate + FX_SW_OFFSET, sizeof(xfeatures));
	memcpy(&in_use, xstate + 512, sizeof(in_use));
	if (!(in_use & XFEATURE_TILE_DATA)) /* without the permission for it, its room makes the kernel refuse */
		xfeatures &= ~XFEATURE_TILE_DATA;
	sw.xfeatures = xfeatures;
	sw.xstate_size = xstate_size(xfeatures);
	sw.extended_size = sw.xstate_size + sizeof(magic2);
	if (sw.xstate_size > state.iov_len)
		return -ENOEXEC;
	memcpy(xstate + FX_SW_OFFSET, &sw, sizeof(sw));
	memcpy(xstate + sw.xstate_size, &magic2, sizeof(magic2));

	/* Lowest first: CLOSE, BACK, floating point state. A handler's stack is 16-byte aligned plus a return address. */
	fpstate_addr = (frames_end(injection) - sw.extended_size) & ~63UL;
	injection->back_frame_addr = ((fpstate_addr - sizeof(back_frame)) & ~15UL) - 8;
	injection->close_frame_addr = ((injection->back_frame_addr - sizeof(close_frame)) & ~15UL) - 8;
	if (!frames_end(injection) || injection->close_frame_addr < site->stack_start_addr)
		return -ENOSPC;

	back_frame.uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
	back_frame.context = context_of(&injection->saved);
	back_frame.context.fpstate = fpstate_addr;
	back_frame.mask = injection->saved_mask;

	close_frame.uc_flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
	close_frame.mask = ~0UL;
	close_frame.context = (struct sigcontext64){
		.di = (uint64_t)expected_fd,
		.ax = SYS_close,
		.sp = injection->back_frame_addr,
		.ip = site->syscall_ret_addr,
		.flags = injection->saved.eflags,
		.cs = (uint16_t)injection->saved.cs,
		.ss = (uint16_t)injection->saved.ss,
	};

	struct iovec local[] = {
		{&close_frame, sizeof(close_frame)}, {&back_frame, sizeof(back_frame)}, {xstate, sw.extended_size},
	};
	struct iovec remote[] = {
		{(void *)(uintptr_t)injection->close_frame_addr, sizeof(close_frame)},
		{(void *)(uintptr_t)injection->back_frame_addr, sizeof(back_frame)},
		{(void *)(uintptr_t)fpstate_addr, sw.extended_size},
	};
	ssize_t total = (ssize_t)(sizeof(close_frame) + sizeof(back_frame) + sw.extended_size);

	injection->stack_bytes = fpstate_addr + sw.extended_size - injection->close_frame_addr;
	if (!move_stack(injection, process_vm_readv))
		return -ENOSPC;
	if (process_vm_writev(injection->tid, local, 3, remote, 3, 0) != total)
		return errno == ESRCH ? -ESRCH : -ENOSPC;
	return 0;
}

/*
 * An injected call silently ends a restartable sequence: the thread would go on inside it, unprotected. So it goes on
 * at the sequence's abort address instead, as if preempted: rseq(2), struct rseq_cs.
 */
static void leave_restartable_sequence(int tid, int mem_fd, struct user_regs_struct *regs)
{
	struct pd_rseq_configuration conf;
	struct {
		uint32_t version, flags;
		uint64_t start_addr, length_bytes, abort_addr;
	} section;
	uint64_t section_addr;

	if (ptrace(PD_PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(conf), &conf) <= 0 || !conf.rseq_abi_pointer)
		return;
	if (pread(mem_fd, &section_addr, sizeof(section_addr), (off_t)conf.rseq_abi_pointer + 8) != sizeof(section_addr))
		return;
	if (!section_addr || pread(mem_fd, &section, sizeof(section), (off_t)section_addr) != sizeof(section))
		return;
	if (regs->rip - section.start_addr < section.length_bytes)
		regs->rip = section.abort_addr;
}

static int set_mask(int tid, uint64_t mask)
{
	return ptrace(PD_PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) ? -errno : 0;
}

static int set_registers(int tid, const struct user_regs_struct *regs)
{
	return ptrace(PTRACE_SETREGS, tid, 0, regs) ? -errno : 0;
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

static int at_site(int mem_fd, uint64_t addr, const char *bytes, size_t n)
{
	char found[16];

	return pread(mem_fd, found, n, (off_t)addr) == (ssize_t)n && !memcmp(found, bytes, n);
}

/* Registers for `nr`, with `return_frame_addr` as the return address's place. */
static struct user_regs_struct call_registers(const struct injection *injection, long nr, uint64_t argument,
					      uint64_t return_frame_addr)
{
	struct user_regs_struct regs = injection->saved;

	regs.orig_rax = ~0ULL; /* no call to restart */
	regs.rax = (unsigned long long)nr;
	regs.rdi = argument;
	regs.rip = injection->site->syscall_ret_addr;
	regs.rsp = return_frame_addr;
	return regs;
}

/* Makes the thread call userfaultfd and takes what it returns: the descriptor in the target, or -errno. */
static long make_userfaultfd(const struct injection *injection, int flags)
{
	/* Until the call is about to run, the thread stands before a sigreturn: nothing happens if we die. */
	struct user_regs_struct regs =
		call_registers(injection, SYS_rt_sigreturn, 0, injection->back_frame_addr + 8);
	int error = set_registers(injection->tid, &regs);

	if (error)
		return error;
	step(injection, PD_INJECT_STEP_SET);
	/* A pending signal would run its handler instead of the call, and be lost with it. */
	error = set_mask(injection->tid, ~0UL);
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
	regs.rsp = injection->close_frame_addr;
	error = set_registers(injection->tid, &regs);
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
	struct user_regs_struct regs =
		call_registers(injection, SYS_close, (uint64_t)fd, injection->back_frame_addr);
	int error = set_registers(injection->tid, &regs);

	for (int stops = 0; !error && stops < 2; stops++) /* entry, exit */
		error = run_to_syscall_stop(injection);
	return error;
}

int pd_inject_userfaultfd(int tid, int pidfd, int mem_fd, const struct pd_site *site, int flags, int expected_fd,
			  int64_t timeout_ns, int die_at, int victim)
{
	static uint8_t stack[STACK_MAX_BYTES];
	struct injection injection = {
		.tid = tid,
		.die_at = die_at,
		.victim = victim,
		.deadline_ns = pd_now_ns() + timeout_ns,
		.site = site,
		.stack = stack,
	};
	int error, restore_error;
	long target_fd, fd;

	if (ptrace(PTRACE_GETREGS, tid, 0, &injection.saved) ||
	    ptrace(PD_PTRACE_GETSIGMASK, tid, sizeof(injection.saved_mask), &injection.saved_mask))
		return -errno;
	if (injection.saved.cs != USER_CS64 || !at_site(mem_fd, site->syscall_ret_addr, "\x0f\x05\xc3", 3) ||
	    !at_site(mem_fd, site->restorer_addr, "\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", 9))
		return -ENOEXEC;
	leave_restartable_sequence(tid, mem_fd, &injection.saved);
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
	restore_error = set_mask(tid, injection.saved_mask);
	restore_error |= set_registers(tid, &injection.saved);
	if (!restore_error)
		move_stack(&injection, process_vm_writev);
	if (restore_error || error) {
		if (fd >= 0)
			close((int)fd);
		return error ? error : -ESRCH;
	}
	return (int)fd;
}
