/* The least that a freeze for a clone can take: every thread stopped, one injected clone(2), every thread resumed.
 *
 * clone PID PASSES: prints `total_ns stop_ns clone_ns` for each pass. Between two passes the child is killed, and reaped
 * in the process. A signal that arrives meanwhile is not taken care of. Independent of predump's code on purpose.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stops.h"

#define SEARCHED_BYTES (4UL << 20)

static uint64_t syscall_addr;

/* The first `syscall` in the code of the C library. */
static void find_syscall(const char *pid)
{
	static char line[512], code[SEARCHED_BYTES];
	FILE *maps;
	int mem;

	snprintf(line, sizeof(line), "/proc/%s/mem", pid);
	mem = open(line, O_RDONLY | O_CLOEXEC);
	snprintf(line, sizeof(line), "/proc/%s/maps", pid);
	maps = fopen(line, "re");
	if (mem < 0 || !maps)
		fail(line);
	while (!syscall_addr && fgets(line, sizeof(line), maps)) {
		uint64_t start = strtoul(line, NULL, 16);
		ssize_t n;
		char *at;

		if (!strstr(line, "r-xp") || !strstr(line, "libc"))
			continue;
		n = pread(mem, code, sizeof(code), (off_t)start);
		at = n > 0 ? memmem(code, (size_t)n, "\x0f\x05", 2) : NULL;
		if (at)
			syscall_addr = start + (uint64_t)(at - code);
	}
	if (!syscall_addr)
		exit(1);
	fclose(maps);
	close(mem);
}

/* The leader first: it makes the calls. */
static long call(long nr, uint64_t first, uint64_t third)
{
	struct user_regs_struct saved, regs;

	ptrace(PTRACE_GETREGS, tids[0], 0, &saved);
	regs = saved;
	regs.rax = (uint64_t)nr;
	regs.orig_rax = ~0UL;
	regs.rip = syscall_addr;
	regs.rdi = first;
	regs.rsi = regs.r10 = regs.r8 = 0;
	regs.rdx = third;
	ptrace(PTRACE_SETREGS, tids[0], 0, &regs);
	do
		ptrace(PTRACE_SINGLESTEP, tids[0], 0, 0);
	while (wait_for(tids[0]) >> 16); /* PTRACE_EVENT_CLONE, a group stop */
	ptrace(PTRACE_GETREGS, tids[0], 0, &regs);
	ptrace(PTRACE_SETREGS, tids[0], 0, &saved);
	return (long)regs.rax;
}

int main(int argc, char **argv)
{
	const struct timespec pause = {0, PAUSE_NS};

	if (argc != 3) {
		fprintf(stderr, "usage: clone PID PASSES\n");
		return 2;
	}
	find_syscall(argv[1]);
	list_threads(argv[1]);
	for (int i = atoi(argv[2]); i > 0; i--) {
		int64_t start_ns = now_ns(), stopped_ns, cloned_ns;
		long child;

		stop_all(PTRACE_O_TRACECLONE);
		stopped_ns = now_ns();
		child = call(SYS_clone, 0, 0);
		cloned_ns = now_ns();
		resume_all();
		printf("%ld %ld %ld\n", (long)(now_ns() - start_ns), (long)(stopped_ns - start_ns),
		       (long)(cloned_ns - stopped_ns));
		if (child < 0)
			return 1;
		kill((pid_t)child, SIGKILL);
		while (!WIFSIGNALED(wait_for((pid_t)child)))
			;
		nanosleep(&pause, NULL);
		stop_all(PTRACE_O_TRACECLONE);
		call(SYS_wait4, (uint64_t)child, __WALL);
		resume_all();
		nanosleep(&pause, NULL);
	}
	return 0;
}
