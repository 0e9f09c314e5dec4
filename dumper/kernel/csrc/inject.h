/* One stopped thread that makes system calls for us: inject.c says how it survives our death. */
#ifndef PREDUMP_INJECT_H
#define PREDUMP_INJECT_H

#include "frames.h"

struct pd_injection {
	int tid, mem_fd;
	const struct pd_site *site;
	int64_t deadline_ns;
	int die_at, victim; /* at step `die_at` process `victim` is killed (for tests) */
	int must_be_free;   /* the frames lie where nothing is */
	struct pd_rseq_configuration rseq;
	size_t xstate_bytes;
	uint8_t xstate[PD_XSTATE_MAX_BYTES];
	struct pd_home home;
};

#define PD_MAX_INJECTED_FRAMES 2

/*
 * Learns where the thread is, and finds the place for frame BACK and for `n_frames` of the caller's below it: frame i lies at
 * pd_injected_frame_addr(i), the last one highest. Nothing is touched. -ENOEXEC, -ENOSPC, -ESRCH.
 */
int pd_injection_begin(struct pd_injection *injection, int n_frames);
uint64_t pd_injected_frame_addr(const struct pd_injection *injection, int i);
/* A frame from which sigreturn leads into the call `nr`, and that into `ret` to the frame at `return_frame_addr`. */
struct pd_signal_frame pd_call_frame(const struct pd_injection *injection, long nr, const uint64_t args[3],
				     uint64_t return_frame_addr);
/* Writes the frames. */
int pd_injection_write(struct pd_injection *injection, const struct pd_signal_frame *frames, int n_frames);
/*
 * Brings the thread to the instant before its first call: signals blocked, at the entry of a system call in which `nr` and
 * `args` stand, with the frame at `return_frame_addr` behind it. Nothing has happened if we die before that.
 */
int pd_injection_enter(struct pd_injection *injection, long nr, const uint64_t args[4], uint64_t return_frame_addr);
/* Lets it run to the end of a call that was entered, and takes the result. */
int pd_injection_leave(const struct pd_injection *injection, long *result);
/* Another call, from before to after. */
int pd_injection_call(const struct pd_injection *injection, long nr, uint64_t arg, uint64_t return_frame_addr);
/* The thread as it was, and nothing left of the frames. */
int pd_injection_end(struct pd_injection *injection);

/*
 * Lets a thread run to its next system call stop. Stops of other kinds (a group stop is reported once more) are passed over;
 * the message of a PTRACE_EVENT_CLONE among them goes to `child`. At the deadline (a frozen cgroup, a busy host) it is told
 * to stop wherever it is; -ETIMEDOUT if that is not the system call stop.
 */
int pd_run_to_syscall_stop(int tid, int64_t deadline_ns, unsigned long *child);
void pd_injection_step(const struct pd_injection *injection, int number);

#endif
