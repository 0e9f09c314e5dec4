/* What calls.c and chain.c share. */
#ifndef PREDUMP_CHAIN_H
#define PREDUMP_CHAIN_H

#include "calls.h"

/* Words on the stack: `pop rax`, `pop rdi`, `pop rsi` and what they pop, the call; what it returned, stored. */
#define PD_CALL_WORDS 7
#define PD_THIRD_WORDS 2
#define PD_STORE_WORDS 3
#define PD_MAX_CHAIN_BYTES ((PD_MAX_CALLS + 1) * (PD_CALL_WORDS + PD_THIRD_WORDS + PD_STORE_WORDS) * 8)
size_t pd_chain_bytes(const struct pd_chain *chain);
/* A signal that nobody would notice, for the end of a thread's chain; 0: none, or the target lacks the instructions. */
int pd_chain_signal(const struct pd_site *site, const struct pd_thread_state *thread, const struct pd_chain *chain);
/* The words of the chain, for the memory from below_addr to back_frame_addr. */
void pd_write_chain(const struct pd_caller *caller, const struct pd_site *site, const struct pd_chain *chain,
		    uint8_t *below);
/* Lets a thread go along its chain. */
void pd_chain_start(struct pd_callers *set, struct pd_caller *caller, const struct pd_chain *chain);
/* Argument `i` of a call. */
uint64_t pd_argument(const struct pd_caller *caller, const struct pd_call *call, int i);

#endif
