/* What calls.c and chain.c share. */
#ifndef PREDUMP_CHAIN_H
#define PREDUMP_CHAIN_H

#include "calls.h"

/* A signal that nobody would notice, for the end of a thread's chain; 0: none, or the target lacks the instructions. */
int pd_chain_signal(const struct pd_site *site, const struct pd_thread_state *thread);
/* The words of the chain, for the memory from below_addr to back_frame_addr. */
void pd_write_chain(const struct pd_caller *caller, const struct pd_site *site, const struct pd_chain *chain,
		    uint8_t *below);
/* Argument `i` of a call. */
uint64_t pd_argument(const struct pd_caller *caller, const struct pd_call *call, int i);

#endif
