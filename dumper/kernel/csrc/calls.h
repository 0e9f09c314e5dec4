/* Injected system calls, made by several stopped threads side by side. */
#ifndef PREDUMP_CALLS_H
#define PREDUMP_CALLS_H

#include "frames.h"

#define PD_MAX_CALLERS 16
#define PD_ANSWER_BYTES 32
#define PD_MAX_CALLS 24   /* of a chain */
#define PD_MAX_ANSWERS 30 /* of PD_MAX_CALLS calls, and what they returned */
#define PD_ANSWER -0x7fffffffL /* as an argument: the address of the answer */

/* A query: whether it is made once or twice, nothing changes. */
struct pd_call {
	long nr;
	long args[4];
	int answer; /* which of its room for answers it gets */
};

struct pd_caller {
	struct pd_home home;
	int error, is_set; /* -errno: takes no part any more; is_set: its registers are not its own */
	int stop_signal;   /* that ends its chain; 0: it has none */
	int has_answered;  /* its chain has run: it makes no calls until the caller clears this */
	int ns_tid;
	long result;       /* of the last call, or -errno */
	int n_answers;
	uint8_t answers[PD_MAX_ANSWERS][PD_ANSWER_BYTES];
};

/* Threads that make the same calls at the same time. Their frames lie one below the other, first thread highest. */
struct pd_callers {
	struct pd_asking *asking;
	int64_t deadline_ns;
	int n_callers;
	struct pd_caller callers[PD_MAX_CALLERS];
};

/*
 * A chain: all calls but the first stand on the stack, below the frame, as return addresses and words for `pop`. The
 * thread makes all of them without a stop in between, and at last sends itself a signal. All of its calls have two
 * arguments. If it `has_results`, they have three, the fourth is that of the first call for all, and what call i returns
 * is stored as number i of the 64-bit words from answer n_calls on.
 */
struct pd_chain {
	const struct pd_call *calls;
	int n_calls, has_results;
	int n_answers;
};

/*
 * Adds a thread whose frames end at or below `end_addr`; its registers stay as they are. 0 or -errno of pd_write_home.
 * Where the thread can make the `chain`, it is let go along it at once: it runs while others are being added.
 */
int pd_callers_add(struct pd_callers *set, const struct pd_thread_state *thread, uint64_t start_addr,
		   uint64_t end_addr, int must_be_free, const struct pd_chain *chain);
/*
 * Waits for the ends of chains, and sets `has_answered`; if another signal came first, the calls are to be made one by one
 * instead. Either way answers are full of ones where a call failed.
 */
void pd_callers_end_chains(struct pd_callers *set, const struct pd_chain *chain);
/* Each thread that has not answered makes the call; see `result` of each. */
void pd_callers_call(struct pd_callers *set, const struct pd_call *call);
/* Waits for the next stop of a thread of the set: 0 and its status, or -errno; one that did not run was interrupted. */
int pd_callers_wait(struct pd_callers *set, const struct pd_caller *caller, int *status);
/* With which signal a thread goes on that stopped otherwise than it was to; 0 for none. */
long pd_callers_passed_on(const struct pd_callers *set, int status);
/* Brings a thread, with its first call, to where it leads home through the frame; `mask` blocks signals meanwhile. */
int pd_callers_set_first(struct pd_callers *set, struct pd_caller *caller, const struct pd_call *call,
			 uint64_t return_addr, uint64_t mask);
/* At step `number` of PD_ASK_STEP_*: the death that a test wants. */
void pd_callers_step(const struct pd_callers *set, int number);
/* Reads the answers that the calls wrote. */
void pd_callers_read(struct pd_callers *set);
/* Puts everything back and empties the set; a thread for which that failed is gone (`error`). */
void pd_callers_end(struct pd_callers *set);

#endif
