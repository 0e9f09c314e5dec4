/* What the kernel tells about stopped threads without their help. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frames.h"

#define SIGINFO_BYTES 128
#define SIGINFOS_AT_ONCE 32
#define FILTER_MAX_BYTES (4096 * 8) /* BPF_MAXINSNS of struct sock_filter */
#define STATUS_LEAST_BYTES 4096
#define IOPRIO_WHO_PROCESS 1
#define FXSAVE_BYTES 512
#define FXSAVE_SOFTWARE_BYTES 48
#define PEEKSIGINFO_SHARED 1

struct peeksiginfo_args { /* uapi/linux/ptrace.h */
	uint64_t offset;
	uint32_t flags;
	int32_t count;
};

static uint64_t room(const struct pd_arena *arena)
{
	return arena->capacity_bytes - arena->used_bytes;
}

/* The queued signals of a thread, or of its process, at the end of the arena. Returns how many. */
static int read_pending(int tid, uint32_t flags, struct pd_arena *arena, uint64_t *at)
{
	struct peeksiginfo_args args = {.flags = flags};

	*at = arena->used_bytes;
	for (;;) {
		uint64_t fit = room(arena) / SIGINFO_BYTES;
		long n;

		args.count = fit < SIGINFOS_AT_ONCE ? (int32_t)fit : SIGINFOS_AT_ONCE;
		if (!args.count)
			return -ENOSPC;
		n = ptrace(PD_PTRACE_PEEKSIGINFO, tid, &args, arena->bytes + arena->used_bytes);
		if (n < 0)
			return -errno;
		args.offset += (uint64_t)n;
		arena->used_bytes += (uint64_t)n * SIGINFO_BYTES;
		if (n < args.count)
			return (int)args.offset;
	}
}

/* Seccomp filters of a thread, oldest first, each behind its length. Returns how many, or -1 if they may not be read. */
static int read_filters(int tid, struct pd_arena *arena, uint64_t *at)
{
	*at = arena->used_bytes;
	for (int i = 0;; i++) {
		uint32_t n_bytes;
		long n;

		if (room(arena) < sizeof(n_bytes) + FILTER_MAX_BYTES)
			return -ENOSPC;
		n = ptrace(PD_PTRACE_SECCOMP_GET_FILTER, tid, (long)i,
			   arena->bytes + arena->used_bytes + sizeof(n_bytes));
		if (n < 0)
			return errno == ENOENT ? i : errno == ESRCH ? -ESRCH : -1;
		n_bytes = (uint32_t)n * 8;
		memcpy(arena->bytes + arena->used_bytes, &n_bytes, sizeof(n_bytes));
		arena->used_bytes += sizeof(n_bytes) + n_bytes;
	}
}

/* The text after `name` in a line of /proc/PID/status, or NULL. */
static const char *field(const char *text, size_t n_bytes, const char *name)
{
	const char *found = memmem(text, n_bytes, name, strlen(name));

	return found ? found + strlen(name) : NULL;
}

/* The last number of a line: of NSpid, the id in the innermost namespace. */
static int last_number(const char *line)
{
	char *end;
	long number = 0;

	while (*line != '\n' && *line) {
		number = strtol(line, &end, 10);
		if (end == line)
			return 0;
		line = end;
	}
	return (int)number;
}

/* Files are sorted by thread id; NULL if the thread is younger than they are. */
static const struct pd_thread_files *files_of(const struct pd_thread_files *files, uint64_t n_files, int tid)
{
	uint64_t low = 0, high = n_files;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (files[middle].tid < tid)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n_files && files[low].tid == tid ? files + low : NULL;
}

/* A small file of /proc: through `fd` if it is open already (and still that of a live thread), else by its path. */
static ssize_t read_small_file(int fd, const char *path, char *text, size_t n_bytes)
{
	ssize_t n = fd < 0 ? -1 : pread(fd, text, n_bytes, 0);

	if (n > 0)
		return n;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, n_bytes);
	close(fd);
	return n < 0 ? -errno : n;
}

static int read_status(int pid, const struct pd_thread_files *files, struct pd_thread_state *state,
		       struct pd_arena *arena)
{
	char *text = (char *)arena->bytes + arena->used_bytes, path[64];
	const char *value, *end;
	ssize_t n;

	if (room(arena) < STATUS_LEAST_BYTES)
		return -ENOSPC;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, state->tid);
	n = read_small_file(files ? files->status_fd : -1, path, text, room(arena));
	if (n <= 0)
		return -ESRCH;
	if ((size_t)n == room(arena)) /* the kernel gives a status as a whole, if it fits */
		return -ENOSPC;
	state->status_at = arena->used_bytes;
	state->status_bytes = (uint32_t)n;
	arena->used_bytes += (uint64_t)n + 1;
	text[n] = 0;
	value = field(text, (size_t)n, "\nSeccomp:\t");
	state->seccomp_mode = value ? atoi(value) : 0;
	value = field(text, (size_t)n, "\nSigCgt:\t");
	state->caught_signals = value ? strtoull(value, NULL, 16) : ~0UL;
	value = field(text, (size_t)n, "\nNSpid:\t");
	state->ns_tid = value ? last_number(value) : 0;
	value = field(text, (size_t)n, "\nx86_Thread_features:\t");
	end = value ? strchr(value, '\n') : NULL;
	state->shadow_stack = end && memmem(value, (size_t)(end - value), "shstk", 5);
	return 0;
}

/* Much cheaper than an injected call; -1 where it may not be read. */
static int64_t read_timer_slack(int tid, const struct pd_thread_files *files)
{
	char text[32] = "", path[64];

	snprintf(path, sizeof(path), "/proc/%d/timerslack_ns", tid);
	return read_small_file(files ? files->timer_slack_fd : -1, path, text, sizeof(text) - 1) > 0 ? atoll(text) : -1;
}

static int read_registers(struct pd_thread_state *state)
{
	struct iovec fp = {state->fp, sizeof(state->fp)}, xstate = {state->xstate, sizeof(state->xstate)};

	if (ptrace(PTRACE_GETREGS, state->tid, 0, state->gp) ||
	    ptrace(PD_PTRACE_GETSIGMASK, state->tid, sizeof(state->signal_mask), &state->signal_mask))
		return -errno;
	if (!ptrace(PTRACE_GETREGSET, state->tid, NT_X86_XSTATE, &xstate)) {
		state->xstate_bytes = (uint32_t)xstate.iov_len;
		/* NT_PRFPREG is its beginning, without the bytes that software may use: fpregs_get, regset.c of the x86 FPU. */
		memcpy(state->fp, state->xstate, FXSAVE_BYTES - FXSAVE_SOFTWARE_BYTES);
		memset(state->fp + FXSAVE_BYTES - FXSAVE_SOFTWARE_BYTES, 0, FXSAVE_SOFTWARE_BYTES);
		return 0;
	}
	state->xstate_bytes = 0; /* a processor without XSAVE */
	return ptrace(PTRACE_GETREGSET, state->tid, NT_PRFPREG, &fp) ? -errno : 0;
}

static void read_scheduling(struct pd_thread_state *state)
{
	long n = syscall(SYS_sched_getaffinity, state->tid, sizeof(state->cpus), state->cpus);

	state->cpus_bytes = n > 0 ? (uint32_t)n : 0;
	n = syscall(SYS_sched_getattr, state->tid, state->sched_attr, sizeof(state->sched_attr), 0);
	state->sched_attr_bytes = 0;
	if (n == 0)
		memcpy(&state->sched_attr_bytes, state->sched_attr, sizeof(state->sched_attr_bytes));
	n = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, state->tid);
	state->io_priority = n < 0 ? -errno : (int32_t)n;
}

static void read_rseq(struct pd_thread_state *state, int mem_fd)
{
	struct pd_rseq_configuration conf;
	const struct user_regs_struct *regs = (const struct user_regs_struct *)state->gp;

	state->rseq_abort_addr = pd_read_rseq(state->tid, mem_fd, regs->rip, &conf, &state->rseq_section_addr);
	state->rseq_addr = conf.rseq_abi_pointer;
	state->rseq_bytes = conf.rseq_abi_size;
	state->rseq_signature = conf.signature;
	state->rseq_flags = conf.flags;
}

/* After a restart the number of the call is in no register any more, but in the code that made it. */
static void read_code(struct pd_thread_state *state, int mem_fd)
{
	const struct user_regs_struct *regs = (const struct user_regs_struct *)state->gp;
	const off_t code_addr = (off_t)(regs->rip - sizeof(state->code));

	if (regs->orig_rax == SYS_restart_syscall &&
	    pread(mem_fd, state->code, sizeof(state->code), code_addr) != sizeof(state->code))
		memset(state->code, 0, sizeof(state->code));
}

static void read_robust_list(struct pd_thread_state *state)
{
	void *head = NULL;
	size_t n_bytes = 0;

	if (syscall(SYS_get_robust_list, state->tid, &head, &n_bytes))
		head = NULL;
	state->robust_list_addr = (uint64_t)(uintptr_t)head;
	state->robust_list_bytes = head ? n_bytes : 0;
}

static int read_thread(int pid, const struct pd_thread *thread, int mem_fd, const struct pd_thread_files *files,
		       struct pd_thread_state *state, struct pd_arena *arena)
{
	int error;

	memset(state, 0, offsetof(struct pd_thread_state, gp));
	if (!(thread->flags & PD_THREAD_STOPPED))
		return -ESRCH;
	state->tid = thread->tid;
	state->restarted = !!(thread->flags & PD_THREAD_RESTARTED);
	state->asked = PD_NOT_ASKED;
	error = read_registers(state);
	if (!error)
		error = read_status(pid, files, state, arena);
	if (error)
		return error;
	read_rseq(state, mem_fd);
	read_code(state, mem_fd);
	read_robust_list(state);
	read_scheduling(state);
	state->timer_slack_ns = read_timer_slack(state->tid, files);
	state->n_pending = read_pending(state->tid, 0, arena, &state->pending_at);
	if (state->n_pending < 0)
		return state->n_pending;
	if (state->seccomp_mode == 2)
		state->n_filters = read_filters(state->tid, arena, &state->filters_at);
	return state->n_filters < -1 ? state->n_filters : 0;
}

int pd_read_threads(int pid, const struct pd_thread_list *list, int mem_fd, const struct pd_thread_files *files,
		    uint64_t n_files, struct pd_thread_state *states, uint64_t capacity,
		    struct pd_process_state *process, struct pd_arena *arena)
{
	int has_shared = 0;

	if (list->n_threads > capacity)
		return -ENOSPC;
	arena->used_bytes = 0;
	memset(process, 0, sizeof(*process));
	for (uint64_t i = 0; i < list->n_threads; i++) {
		struct pd_thread_state *state = states + i;
		const struct pd_thread *thread = list->threads + i;
		int n, error = read_thread(pid, thread, mem_fd, files_of(files, n_files, thread->tid), state, arena);

		if (error == -ENOSPC)
			return error;
		if (error) {
			state->tid = 0; /* killed meanwhile */
			continue;
		}
		if (has_shared)
			continue;
		n = read_pending(state->tid, PEEKSIGINFO_SHARED, arena, &process->pending_at);
		if (n == -ENOSPC)
			return n;
		has_shared = n >= 0;
		process->n_pending = has_shared ? n : 0;
	}
	return 0;
}
