/*
 * Several queries with a single stop: a stop costs two switches, and the thread need not stop between two calls.
 *
 * The first call is in the registers; each next one is a piece of the stack, `pop rax; ret`, `pop rdi; ret`,
 * `pop rsi; ret`, `syscall; ret` (and `pop rdx; ret`, `mov rax, (rdx); ret` where what it returns is wanted), and the last
 * `ret` leads into frame BACK. The last call is tkill(2) of a signal to
 * itself: a tracer that lives gets a stop out of it and drops it. If the tracer is dead, the kernel drops it: it is a
 * signal that the process ignores, by default or by choice, and that the thread does not block (so that a real one, too,
 * would have been dropped).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "chain.h"
#include "stops.h"

#define MAX_STOPS 4

size_t pd_chain_bytes(const struct pd_chain *chain)
{
	const size_t stored = chain->has_results ? PD_STORE_WORDS : 0, third = chain->has_results ? PD_THIRD_WORDS : 0;
	/* The first call is made from the registers; the last is the signal. */
	const size_t words = (size_t)(chain->n_calls - 1) * (PD_CALL_WORDS + third) + (size_t)chain->n_calls * stored;

	return (words + PD_CALL_WORDS) * 8;
}

int pd_chain_signal(const struct pd_site *site, const struct pd_thread_state *thread, const struct pd_chain *chain)
{
	static const int ignored_by_default[] = {SIGURG, SIGWINCH, SIGCHLD};

	if (!site->pop_rax_addr || !site->pop_rdi_addr || !site->pop_rsi_addr || !thread->ns_tid)
		return 0;
	if (chain->has_results && (!site->pop_rdx_addr || !site->store_rax_addr))
		return 0;
	for (size_t i = 0; i < sizeof(ignored_by_default) / sizeof(ignored_by_default[0]); i++) {
		uint64_t bit = 1UL << (ignored_by_default[i] - 1);

		if (!((thread->caught_signals | thread->signal_mask) & bit))
			return ignored_by_default[i];
	}
	return 0;
}

static uint64_t *put_call(uint64_t *to, const struct pd_site *site, long nr, uint64_t first, uint64_t second)
{
	const uint64_t words[PD_CALL_WORDS] = {
		site->pop_rax_addr, (uint64_t)nr, site->pop_rdi_addr, first, site->pop_rsi_addr, second,
		site->syscall_ret_addr,
	};

	memcpy(to, words, sizeof(words));
	return to + PD_CALL_WORDS;
}

static uint64_t *put_third(uint64_t *to, const struct pd_site *site, uint64_t third)
{
	*to++ = site->pop_rdx_addr;
	*to++ = third;
	return to;
}

static uint64_t *put_store(uint64_t *to, const struct pd_site *site, const struct pd_caller *caller,
			   const struct pd_chain *chain, int i)
{
	*to++ = site->pop_rdx_addr;
	*to++ = caller->home.below_addr + (uint64_t)chain->n_calls * PD_ANSWER_BYTES + (uint64_t)i * 8;
	*to++ = site->store_rax_addr;
	return to;
}

static uint64_t chain_addr(const struct pd_caller *caller, const struct pd_chain *chain)
{
	return caller->home.back_frame_addr - pd_chain_bytes(chain);
}

void pd_write_chain(const struct pd_caller *caller, const struct pd_site *site, const struct pd_chain *chain,
		    uint8_t *below)
{
	static uint64_t words[PD_MAX_CHAIN_BYTES / 8];
	uint64_t *to = words;

	for (int i = 0; i < chain->n_calls; i++) {
		const struct pd_call *call = chain->calls + i;

		if (i && chain->has_results)
			to = put_third(to, site, pd_argument(caller, call, 2));
		if (i)
			to = put_call(to, site, call->nr, pd_argument(caller, call, 0), pd_argument(caller, call, 1));
		if (chain->has_results)
			to = put_store(to, site, caller, chain, i);
	}
	to = put_call(to, site, SYS_tkill, (uint64_t)caller->ns_tid, (uint64_t)caller->stop_signal);
	memcpy(below + (chain_addr(caller, chain) - caller->home.below_addr), words,
	       (size_t)(to - words) * sizeof(*words));
}

/*
 * Waits for the end of a chain: 0, or 1 if a signal of somebody else came first, with the thread at a place from which
 * it can make calls one by one; -errno.
 */
static int wait_for_end(struct pd_callers *set, struct pd_caller *caller)
{
	const int tid = caller->home.tid;

	for (int i = 0; i < MAX_STOPS; i++) {
		int status, error = pd_callers_wait(set, caller, &status);
		long sp;

		if (error)
			return error;
		if (status >> 8 == caller->stop_signal) {
			errno = 0;
			sp = ptrace(PTRACE_PEEKUSER, tid, offsetof(struct user_regs_struct, rsp), 0);
			if (errno)
				return -errno;
			if ((uint64_t)sp == caller->home.back_frame_addr)
				return 0;
			return pd_set_mask(tid, ~0UL) ? -ESRCH : 1;
		}
		/* A group stop, reported once more, or a SIGSTOP. */
		if (ptrace(PTRACE_CONT, tid, 0, pd_callers_passed_on(set, status)))
			return -errno;
	}
	return -ETIMEDOUT;
}

void pd_chain_start(struct pd_callers *set, struct pd_caller *caller, const struct pd_chain *chain)
{
	caller->error = pd_callers_set_first(set, caller, chain->calls, chain_addr(caller, chain),
					     ~(1UL << (caller->stop_signal - 1)));
	if (!caller->error && ptrace(PTRACE_CONT, caller->home.tid, 0, 0))
		caller->error = -errno;
	pd_callers_step(set, PD_ASK_STEP_CHAIN);
}

void pd_callers_end_chains(struct pd_callers *set, const struct pd_chain *chain)
{
	for (int i = 0; i < set->n_callers; i++) {
		struct pd_caller *caller = set->callers + i;
		int result;

		if (caller->error || !caller->stop_signal)
			continue;
		result = wait_for_end(set, caller);
		caller->error = result < 0 ? result : 0;
		caller->has_answered = result == 0;
		if (result == 0)
			set->asking->n_calls += (uint32_t)chain->n_calls;
		pd_callers_step(set, PD_ASK_STEP_CHAINED);
	}
}
