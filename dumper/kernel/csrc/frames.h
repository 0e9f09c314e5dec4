/* A signal frame in the dead part of a target's stack, through which a thread finds home whatever becomes of us. */
#ifndef PREDUMP_FRAMES_H
#define PREDUMP_FRAMES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

#include "predump.h"

#define PD_XSTATE_MAX_BYTES 16384
#define PD_FRAME_MAX_BYTES (PD_XSTATE_MAX_BYTES + 2048)

/* arch/x86/include/asm/sigframe.h, struct rt_sigframe; uapi/asm/sigcontext.h */
struct pd_sigcontext {
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
};
struct pd_signal_frame {
	uint64_t restorer;
	uint64_t uc_flags, uc_link, ss_sp, ss_flags, ss_size;
	struct pd_sigcontext context;
	uint64_t mask;
	uint8_t siginfo[128];
};
_Static_assert(sizeof(struct pd_sigcontext) == 256, "struct sigcontext_64 is ABI");
_Static_assert(sizeof(struct pd_signal_frame) == 440, "struct rt_sigframe is ABI");

#define PD_FRAME_MARK "predump injection frame"
#define PD_UC_FP_XSTATE 1
#define PD_UC_SIGCONTEXT_SS 2
#define PD_UC_STRICT_RESTORE_SS 4

/*
 * One stopped thread, and its way home. `saved` and `saved_mask` are what it is to go on with. Room for the caller's
 * own use lies below the frame, at below_addr (8 bytes off a multiple of 16, as a frame wants it).
 */
struct pd_home {
	int tid;
	struct user_regs_struct saved;
	uint64_t saved_mask;
	uint64_t below_addr, back_frame_addr;
	uint64_t fpstate_addr;
	size_t stack_bytes;                /* from below_addr on */
	uint8_t stack[PD_FRAME_MAX_BYTES]; /* what was there */
};

#define PD_USER_CS64 0x33 /* 64-bit code */
/* Whether the site holds the instructions it should: 0 or -ENOEXEC; -ESRCH: the process has ended or called exec. */
int pd_check_site(const struct pd_site *site, int mem_fd);
/* Where frames of a thread may end: below the red zone of a stack pointer within [stack]; 0 if it is elsewhere. */
uint64_t pd_own_frames_end(const struct pd_site *site, uint64_t stack_pointer);
/*
 * Finds the place of the frame, which must end at `end_addr` and not reach below `start_addr`, with `below_bytes` of the
 * caller's below it. -ENOSPC: it does not fit; -ENOEXEC: no XSAVE state that a frame could hold.
 */
int pd_place_home(struct pd_home *home, const uint8_t *xstate, size_t xstate_bytes, uint64_t start_addr,
		  uint64_t end_addr, size_t below_bytes);
/*
 * Writes the frame there, and `below` (all from below_addr to back_frame_addr; NULL: zeros); saves what it covers.
 * -ENOSPC: there is no memory, or, if it `must_be_free`, somebody uses it; -ESRCH.
 */
int pd_write_home(struct pd_home *home, const struct pd_site *site, const uint8_t *xstate, const void *below,
		  int must_be_free);
/* Registers at the call `nr`, from which death leads through the frame at `return_frame_addr`. */
struct user_regs_struct pd_call_registers(const struct pd_home *home, const struct pd_site *site, long nr,
					  uint64_t return_frame_addr);
/* Puts back what the frame covered; only when the thread's registers are its own again. */
void pd_remove_home(const struct pd_home *home);

/*
 * An injected call silently ends a restartable sequence: the thread would go on inside it, unprotected. So it goes on
 * at the sequence's abort address instead, as if preempted: rseq(2), struct rseq_cs. Returns that address where `rip`
 * is inside, else 0; fills in the configuration (address 0: none) and the sequence's descriptor.
 */
uint64_t pd_read_rseq(int tid, int mem_fd, uint64_t rip, struct pd_rseq_configuration *conf, uint64_t *section_addr);

int pd_set_mask(int tid, uint64_t mask);
int pd_set_registers(int tid, const struct user_regs_struct *regs);

#endif
