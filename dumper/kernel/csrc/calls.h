/* Injected system calls, made by several stopped threads side by side. */
#ifndef PREDUMP_CALLS_H
#define PREDUMP_CALLS_H

#include "frames.h"

#define PD_MAX_CALLERS 16
#define PD_ANSWER_BYTES 32
#define PD_ANSWERS 4
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
	long result;       /* of the last call, or -errno */
	uint8_t answers[PD_ANSWERS][PD_ANSWER_BYTES];
};

/* Threads that make the same calls at the same time. Their frames lie one below the other, first thread highest. */
struct pd_callers {
	struct pd_asking *asking;
	int64_t deadline_ns;
	int n_callers;
	struct pd_caller callers[PD_MAX_CALLERS];
};

/* Adds a thread whose frames end at or below `end_addr`; its registers stay as they are. 0 or -errno of pd_write_home. */
int pd_callers_add(struct pd_callers *set, const struct pd_thread_state *thread, uint64_t start_addr,
		   uint64_t end_addr, int must_be_free);
/* Each thread makes the call; see `result` of each. */
void pd_callers_call(struct pd_callers *set, const struct pd_call *call);
/* Reads the answers that the calls wrote. */
void pd_callers_read(struct pd_callers *set);
/* Puts everything back and empties the set; a thread for which that failed is gone (`error`). */
void pd_callers_end(struct pd_callers *set);

#endif
