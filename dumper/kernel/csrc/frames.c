/* Building signal frames: the way home of a thread whose registers are about to be changed. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frames.h"

#define RED_ZONE_BYTES 128
#define XFEATURE_TILE_DATA (1UL << 18)

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

const char *pd_frame_mark(void)
{
	return PD_FRAME_MARK;
}

int pd_set_mask(int tid, uint64_t mask)
{
	return ptrace(PD_PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) ? -errno : 0;
}

int pd_set_registers(int tid, const struct user_regs_struct *regs)
{
	return ptrace(PTRACE_SETREGS, tid, 0, regs) ? -errno : 0;
}

/* Size of the standard-format XSAVE area for `xfeatures`: CPUID leaf 0xD, Intel SDM vol. 1, 13.4. */
static uint32_t xstate_size(uint64_t xfeatures)
{
	static uint64_t known_xfeatures; /* CPUID leaves a virtual machine each time */
	static uint32_t known_size;
	uint32_t size = 576, eax, ebx, ecx, edx;

	if (known_size && xfeatures == known_xfeatures)
		return known_size;
	for (unsigned int i = 2; i < 63; i++) {
		if (!(xfeatures >> i & 1))
			continue;
		__cpuid_count(0xD, i, eax, ebx, ecx, edx);
		if (ebx + eax > size)
			size = ebx + eax;
	}
	known_xfeatures = xfeatures;
	known_size = size;
	return size;
}

static struct fx_sw_bytes software_bytes(const uint8_t *xstate)
{
	struct fx_sw_bytes sw = {.magic1 = FP_XSTATE_MAGIC1};
	uint64_t in_use;

	memcpy(&sw.xfeatures, xstate + FX_SW_OFFSET, sizeof(sw.xfeatures));
	memcpy(&in_use, xstate + 512, sizeof(in_use));
	if (!(in_use & XFEATURE_TILE_DATA)) /* without the permission for it, its room makes the kernel refuse */
		sw.xfeatures &= ~XFEATURE_TILE_DATA;
	sw.xstate_size = xstate_size(sw.xfeatures);
	sw.extended_size = sw.xstate_size + (uint32_t)sizeof(FP_XSTATE_MAGIC2);
	return sw;
}

/* Where the interrupted call would be taken up again if the kernel no longer could: at its beginning. */
static void context_to_restart(const struct user_regs_struct *regs, struct pd_sigcontext *context)
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

static struct pd_sigcontext context_of(const struct user_regs_struct *regs)
{
	struct pd_sigcontext context = {
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

static int at_site(int mem_fd, uint64_t addr, const char *bytes, size_t n)
{
	char found[16];

	return pread(mem_fd, found, n, (off_t)addr) == (ssize_t)n && !memcmp(found, bytes, n);
}

int pd_check_site(const struct pd_site *site, int mem_fd)
{
	char byte;

	if (pread(mem_fd, &byte, sizeof(byte), (off_t)site->syscall_ret_addr) == 0)
		return -ESRCH; /* the memory is gone: mem_rw in fs/proc/base.c */
	if (!at_site(mem_fd, site->syscall_ret_addr, "\x0f\x05\xc3", 3) ||
	    !at_site(mem_fd, site->restorer_addr, "\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", 9) ||
	    (site->pop_rax_addr && !at_site(mem_fd, site->pop_rax_addr, "\x58\xc3", 2)) ||
	    (site->pop_rdi_addr && !at_site(mem_fd, site->pop_rdi_addr, "\x5f\xc3", 2)) ||
	    (site->pop_rsi_addr && !at_site(mem_fd, site->pop_rsi_addr, "\x5e\xc3", 2)) ||
	    (site->pop_rdx_addr && !at_site(mem_fd, site->pop_rdx_addr, "\x5a\xc3", 2)) ||
	    (site->store_rax_addr && !at_site(mem_fd, site->store_rax_addr, "\x48\x89\x02\xc3", 4)))
		return -ENOEXEC;
	return 0;
}

uint64_t pd_own_frames_end(const struct pd_site *site, uint64_t stack_pointer)
{
	if (stack_pointer > site->stack_start_addr && stack_pointer <= site->stack_end_addr)
		return stack_pointer - RED_ZONE_BYTES;
	return 0;
}

/* What the roundings of addresses take at most: 64 for the state, 16 for each of two frames, and their return addresses. */
#define ROUNDING_BYTES (64 + 2 * (16 + 8))

int pd_place_home(struct pd_home *home, const uint8_t *xstate, size_t xstate_bytes, uint64_t start_addr,
		  uint64_t end_addr, size_t below_bytes)
{
	struct fx_sw_bytes sw;
	size_t room_bytes;

	if (xstate_bytes < 576)
		return -ENOEXEC;
	sw = software_bytes(xstate);
	if (sw.xstate_size > xstate_bytes)
		return -ENOEXEC;
	room_bytes = sw.extended_size + sizeof(struct pd_signal_frame) + below_bytes + ROUNDING_BYTES;
	if (room_bytes > PD_FRAME_MAX_BYTES || end_addr < room_bytes || end_addr - room_bytes < start_addr)
		return -ENOSPC;
	/* Lowest first: the caller's, BACK, floating point state. A handler's stack is 16-byte aligned plus a return address. */
	home->fpstate_addr = (end_addr - sw.extended_size) & ~63UL;
	home->back_frame_addr = ((home->fpstate_addr - sizeof(struct pd_signal_frame)) & ~15UL) - 8;
	home->below_addr = ((home->back_frame_addr - below_bytes) & ~15UL) - 8;
	home->stack_bytes = home->fpstate_addr + sw.extended_size - home->below_addr;
	return 0;
}

typedef ssize_t vm_call(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long);

static int move_stack(int tid, void *bytes, uint64_t addr, size_t n_bytes, vm_call *call)
{
	struct iovec here = {bytes, n_bytes};
	struct iovec there = {(void *)(uintptr_t)addr, n_bytes};
	ssize_t n = call(tid, &here, 1, &there, 1, 0);

	if (n == (ssize_t)n_bytes)
		return 0;
	return n < 0 && errno == ESRCH ? -ESRCH : -ENOSPC;
}

/* Whether nobody uses this memory: it holds zeros, or what an injection left that was cut short. */
static int is_free(const uint8_t *bytes, size_t n_bytes)
{
	return (!bytes[0] && !memcmp(bytes, bytes + 1, n_bytes - 1)) ||
	       memmem(bytes, n_bytes, PD_FRAME_MARK, strlen(PD_FRAME_MARK));
}

int pd_write_home(struct pd_home *home, const struct pd_site *site, const uint8_t *xstate, const void *below,
		  int must_be_free)
{
	static uint8_t image[PD_FRAME_MAX_BYTES];
	const uint32_t magic2 = FP_XSTATE_MAGIC2;
	const struct fx_sw_bytes sw = software_bytes(xstate);
	struct pd_signal_frame back = {.restorer = site->restorer_addr, .siginfo = PD_FRAME_MARK};
	uint8_t *fpstate = image + (home->fpstate_addr - home->below_addr);
	int error = move_stack(home->tid, home->stack, home->below_addr, home->stack_bytes, process_vm_readv);

	if (error)
		return error;
	if (must_be_free && !is_free(home->stack, home->stack_bytes))
		return -ENOSPC;
	back.uc_flags = PD_UC_FP_XSTATE | PD_UC_SIGCONTEXT_SS | PD_UC_STRICT_RESTORE_SS;
	back.context = context_of(&home->saved);
	back.context.fpstate = home->fpstate_addr;
	back.mask = home->saved_mask;
	memset(image, 0, home->fpstate_addr - home->below_addr);
	if (below)
		memcpy(image, below, home->back_frame_addr - home->below_addr);
	memcpy(image + (home->back_frame_addr - home->below_addr), &back, sizeof(back));
	memcpy(fpstate, xstate, sw.xstate_size);
	memcpy(fpstate + FX_SW_OFFSET, &sw, sizeof(sw));
	memcpy(fpstate + sw.xstate_size, &magic2, sizeof(magic2));
	return move_stack(home->tid, image, home->below_addr, home->stack_bytes, process_vm_writev);
}

struct user_regs_struct pd_call_registers(const struct pd_home *home, const struct pd_site *site, long nr,
					  uint64_t return_frame_addr)
{
	struct user_regs_struct regs = home->saved;

	regs.orig_rax = ~0ULL; /* no call to restart */
	regs.rax = (unsigned long long)nr;
	regs.rip = site->syscall_ret_addr;
	regs.rsp = return_frame_addr;
	return regs;
}

void pd_remove_home(const struct pd_home *home)
{
	move_stack(home->tid, (void *)home->stack, home->below_addr, home->stack_bytes, process_vm_writev);
}

uint64_t pd_read_rseq(int tid, int mem_fd, uint64_t rip, struct pd_rseq_configuration *conf, uint64_t *section_addr)
{
	struct {
		uint32_t version, flags;
		uint64_t start_addr, length_bytes, abort_addr;
	} section;

	*section_addr = 0;
	if (ptrace(PD_PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(*conf), conf) <= 0)
		*conf = (struct pd_rseq_configuration){0};
	if (!conf->rseq_abi_pointer)
		return 0;
	if (pread(mem_fd, section_addr, sizeof(*section_addr), (off_t)conf->rseq_abi_pointer + 8) !=
	    sizeof(*section_addr))
		*section_addr = 0;
	if (!*section_addr || pread(mem_fd, &section, sizeof(section), (off_t)*section_addr) != sizeof(section))
		return 0;
	return rip - section.start_addr < section.length_bytes ? section.abort_addr : 0;
}
