/* Waiting for ptrace stops. */
#ifndef PREDUMP_STOPS_H
#define PREDUMP_STOPS_H

#include <stdint.h>
#include <sys/types.h>

/* CLOCK_MONOTONIC */
int64_t pd_now_ns(void);
/* Waits for the next stop or end of a traced thread: 0, -ETIMEDOUT, -ECHILD. */
int pd_wait_stop(pid_t tid, int64_t deadline_ns, int *status);

#endif
