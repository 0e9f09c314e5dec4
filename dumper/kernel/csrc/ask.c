/* What only the threads themselves can tell: the queries, and who makes them. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "calls.h"

#define USEC_PER_SEC 1000000LL
#define NSEC_PER_SEC 1000000000LL
#define SIGSET_BYTES 8
#define N_INTERVAL_TIMERS 3
_Static_assert(1 + PD_N_PRCTL + N_INTERVAL_TIMERS <= PD_MAX_CALLS, "they are asked together");

static const struct user_regs_struct *registers_of(const struct pd_thread_state *state)
{
	return (const struct user_regs_struct *)state->gp;
}

/* Whether a thread may be asked at all: 0 or -errno. */
static int may_be_asked(const struct pd_thread_state *state, const struct pd_asking *asking)
{
	if (state->seccomp_mode && !asking->seccomp_suspended)
		return -EPERM; /* its filter might kill it for the call */
	return state->shadow_stack || registers_of(state)->cs != PD_USER_CS64 ? -ENOEXEC : 0;
}

/* ---- threads ---- */

enum { SIGNAL_STACK, TID_ADDRESS, DEATH_SIGNAL };

static const struct pd_call thread_calls[] = {
	{SYS_sigaltstack, {0, PD_ANSWER}, SIGNAL_STACK},
	{SYS_prctl, {PR_GET_TID_ADDRESS, PD_ANSWER}, TID_ADDRESS},
	{SYS_prctl, {PR_GET_PDEATHSIG, PD_ANSWER}, DEATH_SIGNAL},
};
static const struct pd_call get_timer_slack = {SYS_prctl, {PR_GET_TIMERSLACK}, 0};
#define N_THREAD_CALLS (sizeof(thread_calls) / sizeof(thread_calls[0]))
static const struct pd_chain thread_chain = {
	.calls = thread_calls, .n_calls = N_THREAD_CALLS, .n_answers = N_THREAD_CALLS,
};

/* What the threads of the set answered; only the address may be unknown (CONFIG_CHECKPOINT_RESTORE). */
static void take_thread_answers(const struct pd_callers *set, struct pd_thread_state *const *states)
{
	for (int i = 0; i < set->n_callers; i++) {
		const struct pd_caller *caller = set->callers + i;
		struct pd_thread_state *state = states[i];

		state->asked = caller->error ? caller->error : PD_ASKED;
		if (caller->error)
			continue;
		memcpy(&state->signal_stack_addr, caller->answers[SIGNAL_STACK], 8);
		memcpy(&state->signal_stack_flags, caller->answers[SIGNAL_STACK] + 8, 4);
		memcpy(&state->signal_stack_bytes, caller->answers[SIGNAL_STACK] + 16, 8);
		memcpy(&state->clear_child_tid_addr, caller->answers[TID_ADDRESS], 8);
		state->clear_child_tid_known = ~state->clear_child_tid_addr != 0;
		memcpy(&state->parent_death_signal, caller->answers[DEATH_SIGNAL], 4);
	}
}

/* Only where /proc did not tell it: its reading needs CAP_SYS_NICE. */
static void ask_timer_slack(struct pd_callers *set, struct pd_thread_state *const *states)
{
	int n_unknown = 0;

	for (int i = 0; i < set->n_callers; i++)
		n_unknown += !set->callers[i].error && states[i]->timer_slack_ns < 0;
	if (!n_unknown)
		return;
	pd_callers_call(set, &get_timer_slack);
	for (int i = 0; i < set->n_callers; i++)
		if (!set->callers[i].error)
			states[i]->timer_slack_ns = set->callers[i].result;
}

/* Lets the threads of the set, in the order of `states`, answer, and empties it. -ETIMEDOUT: one of them did not run. */
static int ask_set(struct pd_callers *set, struct pd_thread_state *const *states)
{
	const int n_callers = set->n_callers;
	int error = 0;

	pd_callers_end_chains(set, &thread_chain);
	for (size_t k = 0; k < N_THREAD_CALLS; k++)
		pd_callers_call(set, thread_calls + k);
	for (int i = 0; i < n_callers; i++)
		set->callers[i].has_answered = 0;
	ask_timer_slack(set, states);
	pd_callers_read(set);
	take_thread_answers(set, states);
	pd_callers_end(set);
	for (int i = 0; i < n_callers; i++) {
		if (set->callers[i].error == -ESRCH)
			states[i]->asked = -ESRCH;
		if (set->callers[i].error == -ETIMEDOUT)
			error = -ETIMEDOUT;
	}
	return error;
}

/* The lowest address down to which the scratch may be used: above it, or the end of it if [stack] is in use so deep. */
static uint64_t scratch_start(const struct pd_thread_state *states, uint64_t n_states, const struct pd_site *site)
{
	for (uint64_t i = 0; i < n_states; i++) {
		uint64_t end_addr = states[i].tid ? pd_own_frames_end(site, registers_of(states + i)->rsp) : 0;

		if (end_addr && end_addr < site->scratch_end_addr)
			return site->scratch_end_addr;
	}
	return site->scratch_start_addr;
}

/* A thread on [stack] has room below its stack pointer, and goes alone. */
static int ask_on_stack(struct pd_callers *set, struct pd_thread_state *state, uint64_t end_addr)
{
	state->asked = pd_callers_add(set, state, set->asking->site->stack_start_addr, end_addr, 0, &thread_chain);
	return state->asked ? 0 : ask_set(set, &state);
}

/* The others share the scratch, as many at a time as it holds. */
static int ask_in_scratch(struct pd_callers *set, struct pd_thread_state *const *waiting, int n_waiting,
			  uint64_t start_addr, int *n_asked)
{
	uint64_t end_addr = set->asking->site->scratch_end_addr;
	int first = 1;

	for (*n_asked = 0; *n_asked < n_waiting; first = 0) {
		struct pd_thread_state *state = waiting[*n_asked];
		int error = pd_callers_add(set, state, start_addr, end_addr, 1, &thread_chain);

		if (error && !first)
			break;
		++*n_asked;
		if (error) {
			state->asked = error;
			return 0;
		}
		end_addr = set->callers[set->n_callers - 1].home.below_addr & ~63UL;
	}
	return ask_set(set, waiting);
}

/* Returns -ETIMEDOUT as soon as a thread does not run. */
static int ask_all(struct pd_callers *set, struct pd_thread_state *states, uint64_t n_states)
{
	const struct pd_site *site = set->asking->site;
	const uint64_t start_addr = scratch_start(states, n_states, site);
	struct pd_thread_state *waiting[PD_MAX_CALLERS];
	int n_waiting = 0, n_asked, error = 0;

	for (uint64_t i = 0; i < n_states && !error; i++) {
		struct pd_thread_state *state = states + i;
		uint64_t end_addr;

		if (!state->tid)
			continue;
		state->asked = may_be_asked(state, set->asking);
		if (state->asked)
			continue;
		end_addr = pd_own_frames_end(site, registers_of(state)->rsp);
		if (end_addr) {
			error = ask_on_stack(set, state, end_addr);
			continue;
		}
		waiting[n_waiting++] = state;
		if (n_waiting < PD_MAX_CALLERS)
			continue;
		error = ask_in_scratch(set, waiting, n_waiting, start_addr, &n_asked);
		n_waiting -= n_asked;
		memmove(waiting, waiting + n_asked, (size_t)n_waiting * sizeof(waiting[0]));
	}
	while (n_waiting && !error) {
		error = ask_in_scratch(set, waiting, n_waiting, start_addr, &n_asked);
		n_waiting -= n_asked;
		memmove(waiting, waiting + n_asked, (size_t)n_waiting * sizeof(waiting[0]));
	}
	return error;
}

static struct pd_callers callers; /* one thread of ours at a time: ptrace's rule */

int pd_ask_threads(struct pd_thread_state *states, uint64_t n_states, struct pd_asking *asking)
{
	int error = pd_check_site(asking->site, asking->mem_fd);

	callers.asking = asking;
	callers.n_callers = 0;
	if (!error)
		ask_all(&callers, states, n_states);
	for (uint64_t i = 0; error && i < n_states; i++)
		states[i].asked = error;
	return 0;
}

/* ---- the process ---- */

/* By PD_PRCTL_*: the call and its option, and how many bytes the answer has in memory, 0 if the call returns it. */
static const struct {
	long nr, option;
	size_t answer_bytes;
} settings[PD_N_PRCTL] = {
	[PD_PRCTL_DUMPABLE] = {SYS_prctl, PR_GET_DUMPABLE, 0},
	[PD_PRCTL_KEEPCAPS] = {SYS_prctl, PR_GET_KEEPCAPS, 0},
	[PD_PRCTL_SECUREBITS] = {SYS_prctl, PR_GET_SECUREBITS, 0},
	[PD_PRCTL_CHILD_SUBREAPER] = {SYS_prctl, PR_GET_CHILD_SUBREAPER, 4},
	[PD_PRCTL_TSC] = {SYS_prctl, PR_GET_TSC, 4},
	[PD_PRCTL_MCE_KILL] = {SYS_prctl, PR_MCE_KILL_GET, 0},
	[PD_PRCTL_MDWE] = {SYS_prctl, PD_PR_GET_MDWE, 0},
	[PD_PRCTL_IO_FLUSHER] = {SYS_prctl, PR_GET_IO_FLUSHER, 0},
	[PD_PRCTL_MEMORY_MERGE] = {SYS_prctl, PD_PR_GET_MEMORY_MERGE, 0},
	[PD_PRCTL_CPUID] = {SYS_arch_prctl, PD_ARCH_GET_CPUID, 0},
	[PD_PRCTL_XCOMP_PERM] = {SYS_arch_prctl, PD_ARCH_GET_XCOMP_PERM, 8},
};

/* Who answers for the process: a thread, and the room for its frames. */
struct respondent {
	struct pd_callers *set;
	const struct pd_thread_state *thread;
	uint64_t start_addr, end_addr;
	int must_be_free;
};

/* Queries that are made together: what each returned (or -errno), and its answer in memory. */
struct queries {
	int n;
	struct pd_call calls[PD_MAX_CALLS];
	long results[PD_MAX_CALLS];
	uint8_t answers[PD_MAX_CALLS][PD_ANSWER_BYTES];
};

/* Adds a query, as the first arguments of its call; `fourth` is the same for all that are made together. Returns which. */
static int add_query(struct queries *queries, long nr, long first, long second, long third, long fourth)
{
	queries->calls[queries->n] = (struct pd_call){nr, {first, second, third, fourth}, queries->n};
	return queries->n++;
}

/* Makes all of them, with a single stop if it can be. 0 or -errno, then nothing is known. */
static int make_queries(const struct respondent *who, struct queries *queries)
{
	const int n = queries->n;
	const struct pd_chain chain = {
		.calls = queries->calls, .n_calls = n, .has_results = 1, .n_answers = n + (n + 3) / 4,
	};
	struct pd_callers *set = who->set;
	struct pd_caller *caller = set->callers;
	int error;

	error = pd_callers_add(set, who->thread, who->start_addr, who->end_addr, who->must_be_free, &chain);
	if (error)
		return error;
	pd_callers_end_chains(set, &chain);
	for (int i = 0; i < n && !caller->has_answered && !caller->error; i++) {
		pd_callers_call(set, queries->calls + i);
		queries->results[i] = caller->result;
	}
	pd_callers_read(set);
	if (caller->has_answered)
		memcpy(queries->results, caller->answers[n], (size_t)n * sizeof(queries->results[0]));
	memcpy(queries->answers, caller->answers, (size_t)n * PD_ANSWER_BYTES);
	pd_callers_end(set);
	return caller->error;
}

static void take_setting(const struct queries *queries, int query, int setting, struct pd_process_state *process)
{
	uint64_t value = (uint64_t)queries->results[query];

	if (queries->results[query] < 0)
		return;
	if (settings[setting].answer_bytes) {
		value = 0;
		memcpy(&value, queries->answers[query], settings[setting].answer_bytes);
	}
	process->prctl_values[setting] = value;
	process->prctl_known |= 1UL << setting;
}

static void take_interval_timer(const struct queries *queries, int query, int which, struct pd_process_state *process)
{
	struct pd_interval_timer *timer = process->interval_timers + which;
	struct itimerval value;

	if (queries->results[query] < 0)
		return;
	memcpy(&value, queries->answers[query], sizeof(value));
	timer->interval_us = value.it_interval.tv_sec * USEC_PER_SEC + value.it_interval.tv_usec;
	timer->remaining_us = value.it_value.tv_sec * USEC_PER_SEC + value.it_value.tv_usec;
	process->interval_timers_known |= 1UL << which;
}

/* The program break, the settings, and the interval timers. */
static int ask_settings(const struct respondent *who, struct pd_process_state *process)
{
	struct queries queries = {0};
	const int brk = add_query(&queries, SYS_brk, 0, 0, 0, 0);
	const int first_setting = queries.n, first_timer = first_setting + PD_N_PRCTL;
	int error;

	for (int i = 0; i < PD_N_PRCTL; i++)
		add_query(&queries, settings[i].nr, settings[i].option, settings[i].answer_bytes ? PD_ANSWER : 0, 0, 0);
	for (int which = 0; which < N_INTERVAL_TIMERS; which++)
		add_query(&queries, SYS_getitimer, which, PD_ANSWER, 0, 0);
	error = make_queries(who, &queries);
	if (error)
		return error;
	if (queries.results[brk] > 0)
		process->brk_addr = (uint64_t)queries.results[brk];
	for (int i = 0; i < PD_N_PRCTL; i++)
		take_setting(&queries, first_setting + i, i, process);
	for (int which = 0; which < N_INTERVAL_TIMERS; which++)
		take_interval_timer(&queries, first_timer + which, which, process);
	return 0;
}

static int ask_dispositions(const struct respondent *who, uint64_t signals, struct pd_process_state *process)
{
	int i = 0, error = 0;

	while (i < PD_N_SIGNALS && !error) {
		struct queries queries = {0};
		int asked[PD_MAX_CALLS];

		for (; i < PD_N_SIGNALS && queries.n < PD_MAX_CALLS; i++)
			if (signals >> i & 1)
				asked[add_query(&queries, SYS_rt_sigaction, i + 1, 0, PD_ANSWER, SIGSET_BYTES)] = i;
		error = queries.n ? make_queries(who, &queries) : 0;
		for (int k = 0; k < queries.n && !error; k++) {
			if (queries.results[k] < 0)
				continue;
			memcpy(process->dispositions + asked[k], queries.answers[k], sizeof(process->dispositions[0]));
			process->signals_known |= 1UL << asked[k];
		}
	}
	return error;
}

static int ask_posix_timers(const struct respondent *who, struct pd_posix_timer *timers, uint64_t n_timers)
{
	uint64_t i = 0;
	int error = 0;

	for (uint64_t k = 0; k < n_timers; k++)
		timers[k].known = 0;
	while (i < n_timers && !error) {
		const uint64_t first = i;
		struct queries queries = {0};

		for (; i < n_timers && queries.n + 2 <= PD_MAX_CALLS; i++) {
			add_query(&queries, SYS_timer_gettime, timers[i].id, PD_ANSWER, 0, 0);
			add_query(&queries, SYS_timer_getoverrun, timers[i].id, 0, 0, 0);
		}
		error = make_queries(who, &queries);
		for (int k = 0; k + 1 < queries.n && !error; k += 2) {
			struct pd_posix_timer *timer = timers + first + k / 2;
			struct itimerspec value;

			if (queries.results[k] < 0)
				continue;
			memcpy(&value, queries.answers[k], sizeof(value));
			timer->overruns = queries.results[k + 1];
			timer->interval_ns = value.it_interval.tv_sec * NSEC_PER_SEC + value.it_interval.tv_nsec;
			timer->remaining_ns = value.it_value.tv_sec * NSEC_PER_SEC + value.it_value.tv_nsec;
			timer->known = timer->overruns >= 0;
		}
	}
	return error;
}

int pd_ask_process(const struct pd_thread_state *states, uint64_t n_states, struct pd_asking *asking,
		   uint64_t signals, struct pd_posix_timer *timers, uint64_t n_timers, struct pd_process_state *process)
{
	const struct pd_site *site = asking->site;
	const struct pd_thread_state *state = states;
	struct respondent who;
	uint64_t own_end_addr;
	int error;

	while (state < states + n_states && (!state->tid || state->asked != PD_ASKED))
		state++;
	if (state == states + n_states)
		return 0;
	callers.asking = asking;
	callers.n_callers = 0;
	own_end_addr = pd_own_frames_end(site, registers_of(state)->rsp);
	who = (struct respondent){
		.set = &callers,
		.thread = state,
		.start_addr = own_end_addr ? site->stack_start_addr : scratch_start(states, n_states, site),
		.end_addr = own_end_addr ? own_end_addr : site->scratch_end_addr,
		.must_be_free = !own_end_addr,
	};
	error = ask_settings(&who, process);
	if (!error)
		error = ask_dispositions(&who, signals, process);
	if (!error)
		error = ask_posix_timers(&who, timers, n_timers);
	process->asked = error ? error : PD_ASKED;
	return 0;
}
