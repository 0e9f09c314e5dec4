/*
 * The whole face of the native library: what Python may call. cffi reads this file as it stands, and so does the
 * C compiler (through predump.h), so that the two cannot disagree.
 *
 * Every function returns a value >= 0 or -errno. Addresses are of the target, ranges are [start, end).
 */

/* Compiled into the library and compared at import, so that a stale build is named instead of misbehaving. */
#define PD_ABI 25

/* ---- pages.c: which pages there are, and what becomes of them ------------------------------------------------ */

/* What PAGEMAP_SCAN says of a page, include/uapi/linux/fs.h; GUARD since 6.16, the others since 6.7. */
#define PD_WPALLOWED 1
#define PD_WRITTEN 2
#define PD_FILE 4
#define PD_PRESENT 8
#define PD_SWAPPED 16
#define PD_PFNZERO 32
#define PD_HUGE 64
#define PD_GUARD 256
/* Ours: the kernel did not report the page as changed since the last scan; what was known then still holds. */
#define PD_KEPT 65536

/* struct page_region of the kernel; the flags of the span it comes from stand in the upper half of `categories`. */
struct pd_region {
	uint64_t start_addr, end_addr, categories;
};

/* A stretch of the address space whose VMAs are treated alike. */
#define PD_SPAN_SHARED 1    /* page cache is content, as in every MAP_SHARED mapping */
#define PD_SPAN_UNSEEN 2    /* writes may go unreported: all of its pages count as written */
#define PD_SPAN_FILE 4      /* private mapping of a file: page cache is none, a swapped, unwritten page may be a marker */
#define PD_SPAN_WHOLE 8     /* cannot be scanned: every page is content */
#define PD_SPAN_BY_FD 16    /* content is what SEEK_DATA finds in `fd` from `fd_offset_bytes`; the page tables are not asked */
#define PD_SPAN_CHANGES 32  /* all of it tracked, and known to the last scan: only changes need be looked at */
#define PD_SPAN_WATCH 64    /* of a write watch: a zero page that may have been written is passed over like a hole */
struct pd_span {
	uint64_t start_addr, end_addr;
	uint32_t flags;
	int32_t fd;
	uint64_t fd_offset_bytes;
};

struct pd_cursor {
	uint64_t span, addr;
};

/* A run of pages; the first three kinds are those of the image format, the others live only in memory. */
#define PD_RUN_DATA 1
#define PD_RUN_ZERO 2
#define PD_RUN_PARENT 3
#define PD_RUN_COPY 4   /* to be read from the target */
#define PD_RUN_STAGED 5 /* lies in the staging memory at page_index */
#define PD_RUN_KINDS 6  /* all of them, and 0 */
struct pd_run {
	uint64_t start_addr;
	uint32_t n_pages, kind;
	uint64_t page_index;
};

/* Sorted runs that a sweep walks through; `next` only grows. */
struct pd_sweep {
	const struct pd_run *runs;
	uint64_t n_runs, next;
};

struct pd_run_list {
	struct pd_run *runs;
	uint64_t n_runs, capacity;
};

/*
 * How to scan. With `reset` the pages reported as written are write-protected again in the same step; pages of the
 * categories `excluded` are no content; `distrust_holes`: a page zapped from a huge page may not read as written
 * (kernel commit 40de8160ca7f mends it), so that holes are looked for by themselves.
 */
struct pd_scan_mode {
	int32_t reset, distrust_holes;
	uint64_t excluded;
};

/*
 * Scans from `cursor` on until the spans end or `regions` is full; returns the number of regions. Only pages with
 * content are reported.
 */
int64_t pd_scan(int pagemap_fd, const struct pd_scan_mode *mode, const struct pd_span *spans, uint64_t n_spans,
		struct pd_cursor *cursor, struct pd_region *regions, uint64_t capacity);

/* The pages of [start, end) that are of `category`; returns the number of regions, `capacity` if there may be more. */
int64_t pd_scan_category(int pagemap_fd, uint64_t start, uint64_t end, uint64_t category, struct pd_region *regions,
			 uint64_t capacity);

/*
 * Turns regions[*used ..] into runs: COPY where a page was written or is in doubt, ZERO, what `staged` says (STAGED,
 * or COPY where its copy failed), PARENT where `covered` has it, and COPY again where neither does. Returns the
 * number of regions not used up (`out` was full; the region it stopped in then begins where the work goes on).
 */
int64_t pd_classify(struct pd_region *regions, uint64_t n_regions, uint64_t *used, struct pd_sweep *staged,
		    struct pd_sweep *covered, struct pd_run_list *out);

/* Pages of the runs of one kind. */
uint64_t pd_pages_of_kind(const struct pd_run *runs, uint64_t n_runs, uint32_t kind);
/* The address of the page with this number among those of the runs of one kind; UINT64_MAX: there are not so many. */
uint64_t pd_address_of_page(const struct pd_run *runs, uint64_t n_runs, uint32_t kind, uint64_t number);
/* Runs of kind `from` become runs of kind `to`. Returns 0. */
int pd_change_kind(struct pd_run_list *list, uint32_t from, uint32_t to);
/* Pages of the runs of one kind that lie in [start, end); the runs are sorted. */
uint64_t pd_pages_within(const struct pd_run *runs, uint64_t n_runs, uint32_t kind, uint64_t start, uint64_t end);

/* ---- copy.c: bytes ------------------------------------------------------------------------------------------ */

struct pd_file_map {
	uint64_t start_addr, end_addr, fd_offset_bytes;
	int32_t fd, pad;
};

/* Where pages are read from: the file behind a mapping where `files` has one, else the process (tid 0: nowhere). */
struct pd_source {
	int32_t tid, mem_fd;
	const struct pd_file_map *files;
	uint64_t n_files;
	const uint8_t *staging;
};

struct pd_buffer {
	uint8_t *bytes;
	uint64_t n_pages, capacity_pages;
};

/*
 * Goes through in->runs[*next ..] (and uses them up), copies the pages of COPY runs to the end of `buffer` and appends
 * the runs to `out` as `out_kind`, with page_index counted from the start of the buffer; the others pass unchanged.
 * out_kind STAGED: what cannot be read, or no longer fits, stays COPY. Returns 0, or 1 if something did not fit.
 * out_kind DATA: STAGED runs are copied too, from the staging memory; what cannot be read is left out and appended to
 * `lost`. Returns 0 at the end of the input, or 1 as soon as the buffer or a list is full: empty it, call again.
 * -ESRCH: the process is gone. -ENOSPC: a list is too small from the start.
 */
int pd_copy(const struct pd_source *source, struct pd_run_list *in, uint64_t *next, uint32_t out_kind,
	    struct pd_buffer *buffer, struct pd_run_list *out, struct pd_run_list *lost);

/*
 * Splits zero pages off the DATA runs of `in`, closes the gaps in `buffer` and numbers the pages that remain from
 * `first_index` on. Returns 0, or 1 if `out` was too small (then nothing may be used).
 */
int pd_pack(const struct pd_run_list *in, struct pd_buffer *buffer, uint64_t first_index, struct pd_run_list *out);

/* ---- recheck.c: older copies against memory; each returns 1 if `out` was too small (then nothing may be used) -------- */

/* hashes[i] becomes the hash of page i. Returns 0. */
int pd_hash_pages(const uint8_t *pages, uint64_t n_pages, uint64_t *hashes);

/* The runs that claim that an older copy will do (PARENT, STAGED), as COPY runs: to be read again. */
int pd_claims(const struct pd_run_list *in, struct pd_run_list *out);

/*
 * Compares pages in `buffer` (`copied`, DATA runs) with what `claimed` says of them: STAGED ones with the staging
 * memory, PARENT ones with `stored`: DATA runs by hashes[page_index ..], ZERO runs. Appends the claims that hold.
 */
int pd_confirm(const struct pd_run_list *copied, const struct pd_buffer *buffer, struct pd_sweep *claimed,
	       const uint8_t *staging, struct pd_sweep *stored, const uint64_t *hashes, struct pd_run_list *out);

/* `in`, with COPY for what claims something that is not `confirmed`. */
int pd_settle(const struct pd_run_list *in, struct pd_sweep *confirmed, struct pd_run_list *out);

/*
 * Appends what lies of in->runs[*next ..] in [start, end) to `out`, with addresses moved by `delta` (modulo 2^64), and uses
 * it up. Returns 0, or 1 if `out` was too small: make it larger, call again.
 */
int pd_move_runs(struct pd_run_list *in, uint64_t *next, uint64_t start, uint64_t end, uint64_t delta,
		 struct pd_run_list *out);

/* All pages that are in `a` or in `b` (both sorted), as COPY runs; `out` has room for the runs of both. Returns 0. */
int pd_unite_runs(const struct pd_run_list *a, const struct pd_run_list *b, struct pd_run_list *out);

/*
 * The runs of `from` without the pages that `taken` has in runs of `kinds` (a bit each; both sorted). `out` has room for
 * the runs of both. Returns 0.
 */
int pd_subtract_runs(const struct pd_run_list *from, const struct pd_run_list *taken, uint32_t kinds,
		     struct pd_run_list *out);

/* The pages that at least `least` of the sweeps have, as COPY runs; `out` has room for twice their runs. Returns 0. */
int pd_common_runs(struct pd_sweep *sweeps, uint64_t n_sweeps, uint64_t least, struct pd_run_list *out);

/*
 * What a round leaves for the freeze. Of the runs of a scan, COPY pages that `hot` has and that are `known` to the round
 * before become PARENT, and are added to `deferred`; PARENT pages that the round `before` had left out become COPY. `out`
 * and `deferred` have room for twice the runs of `in` and of the sweeps. Returns 0.
 */
int pd_defer(const struct pd_run_list *in, struct pd_sweep *hot, struct pd_sweep *known, struct pd_sweep *before,
	     struct pd_run_list *out, struct pd_run_list *deferred);

/*
 * What a write watch tells. `known`: the pages whose content somebody may have seen; `now`: the runs of a scan with
 * PD_SPAN_WATCH that had `known` as `covered`. Appends to `changed` (COPY runs) what was written, and what is known and
 * has no content now, unless it is a zero page that was not written since it was armed; and to `known_now` (PARENT runs)
 * what has content and all of `changed`. With `in_doubt`, no zero page is exempt: it may have been armed unnoticed. Both
 * lists need room for twice the runs of `known` and `now` together.
 */
int pd_find_changes(const struct pd_run_list *known, const struct pd_run_list *now, int in_doubt,
		    struct pd_run_list *changed, struct pd_run_list *known_now);

/* Adds the pages of each VMA to counts[PD_RUN_KINDS * vma + kind]; both sorted by address. */
int pd_count_pages(const struct pd_run *runs, uint64_t n_runs, const struct pd_span *vmas, uint64_t n_vmas,
		   uint64_t *counts);

/*
 * Appends, as COPY runs, those of the pages of `kinds` (a bit each) that have the numbers [first, first + n_pages) among
 * them, as far as there is room. Returns 0.
 */
int pd_part_of_runs(const struct pd_run_list *in, uint32_t kinds, uint64_t first, uint64_t n_pages,
		    struct pd_run_list *out);

/* ---- recency.c: how many pages were written of late ----------------------------------------------------------- */

/* Of one process: the tick in which each page was last written, for pages that were. Ticks count from 1. */
struct pd_recency;

/*
 * `max_ticks`: of so many last ticks it can be asked. It remembers the pages of at most `max_chunks` stretches of 2 MiB (of
 * 2 KiB each here); where there are more, it goes on with a share of them, and answers with estimates. NULL: no memory.
 */
struct pd_recency *pd_recency_new(uint32_t max_ticks, uint64_t max_chunks);
void pd_recency_free(struct pd_recency *recency);
/* The pages of COPY runs were written in `tick`, which is that of the call before or a later one. Returns 0 or -ENOMEM. */
int pd_recency_note(struct pd_recency *recency, uint32_t tick, const struct pd_run *runs, uint64_t n_runs);
/* How many pages were written in the last `n_ticks` ticks, each counted once. */
uint64_t pd_recency_pages(const struct pd_recency *recency, uint32_t n_ticks);
/* The same of the pages in [start, end), and `n_ticks` may be any number. */
uint64_t pd_recency_pages_between(const struct pd_recency *recency, uint64_t start, uint64_t end, uint32_t n_ticks);

/* ---- uffd.c: write tracking --------------------------------------------------------------------------------- */

/* UFFDIO_API with exactly `features`. -EINVAL: the kernel lacks one of them, or the descriptor was set up before. */
int pd_uffd_enable(int uffd, uint64_t features);
/*
 * UFFDIO_REGISTER for write-protection; results[i] is 0 or -errno. Returns how many succeeded. A mapping that was not
 * registered has nothing protected in it: protection that it kept from an earlier registration is lifted.
 */
int64_t pd_uffd_register(int uffd, int pagemap_fd, const struct pd_span *spans, uint64_t n_spans, int32_t *results);
/* Lifts write-protection piecewise, then UFFDIO_UNREGISTER. Returns how many spans were unregistered. */
int64_t pd_uffd_unregister(int uffd, const struct pd_span *spans, uint64_t n_spans);

/* ---- threads.c: stopping ------------------------------------------------------------------------------------ */

#define PD_THREAD_STOPPED 1
#define PD_THREAD_GONE 2        /* ended, or was a zombie from the start */
#define PD_THREAD_RESTARTED 4   /* its system call was told to start over instead of failing with EINTR */
#define PD_THREAD_IN_STOP 8     /* its process had been stopped by a signal: it stops again when it is resumed */
struct pd_thread {
	int32_t tid, flags;
};

struct pd_thread_list {
	struct pd_thread *threads;
	uint64_t n_threads, capacity;
	int32_t failed_tid; /* the thread an error is about */
};

/*
 * Seizes and stops every thread of `pid`, in passes until no new one turns up. -ETIMEDOUT: a thread did not stop or
 * threads were born faster than they could be stopped; -EPERM; -ESRCH: nobody left; -ENOSPC: too many threads.
 * Whatever it stopped is in the list, also on errors: the caller resumes them.
 */
int pd_stop_threads(int pid, int seize_options, int64_t timeout_ns, struct pd_thread_list *list);
/*
 * The same for threads that run just now and are not in the list yet, in one pass: none at all is no error.
 */
int pd_stop_running(int pid, int64_t timeout_ns, struct pd_thread_list *list);
/*
 * Children of every thread of `pid`, in no order, without those that are threads: proc_pid_task(5), `children`. The list
 * is sure to be whole only while the process stands still. Returns how many, -ENOSPC if there are more than `capacity`,
 * -ESRCH if the process is gone.
 */
int64_t pd_children(int pid, int32_t *children, uint64_t capacity);
/*
 * Lets every thread of the list go on, untraced. One that does not stop even now (in uninterruptible sleep) stays traced
 * until this process ends.
 */
int pd_resume_threads(struct pd_thread_list *list);
/*
 * SIGSTOP to every stopped thread of `pid`, each by itself: a thread takes what is meant for it alone first, so that the
 * stop comes before signals that wait for the process, and that would put a frame on a stack.
 */
int pd_send_stop(int pid, const struct pd_thread_list *list);

/*
 * Takes the SIGSTOP of pd_send_stop back from every stopped thread, which stays stopped by ptrace and has run no
 * instruction. Signals that it took before are delivered as they would have been.
 */
int pd_take_stop_back(const struct pd_thread_list *list);

/* ---- inject.c: system calls inside the target --------------------------------------------------------------- */

struct pd_site {
	uint64_t syscall_ret_addr; /* `syscall; ret` */
	uint64_t restorer_addr;    /* `mov $15, %rax; syscall` */
	uint64_t stack_start_addr; /* the [stack] VMA, in whose dead part the frames are built */
	uint64_t stack_end_addr;
	uint64_t pop_rax_addr;     /* `pop rax; ret` and so on: several calls at a stop; 0: one by one */
	uint64_t pop_rdi_addr;
	uint64_t pop_rsi_addr;
	uint64_t pop_rdx_addr;
	uint64_t store_rax_addr;   /* `mov rax, (rdx); ret` */
	uint64_t scratch_start_addr; /* room for frames, where nothing is, for threads whose stack pointer is not in [stack] */
	uint64_t scratch_end_addr;   /* 0: no such place */
};

/* Stands in every frame, in the part that sigreturn does not read: frames left by a death can be told apart. */
const char *pd_frame_mark(void);

#define PD_INJECT_STEP_NONE 0
#define PD_INJECT_STEP_FRAMES 1   /* frames written */
#define PD_INJECT_STEP_SET 2      /* registers point at them */
#define PD_INJECT_STEP_ENTERED 3  /* system call about to run */
#define PD_INJECT_STEP_RETURNED 4 /* descriptor exists in the target */
#define PD_INJECT_STEP_TAKEN 5    /* and here */
#define PD_INJECT_STEP_CLOSED 6   /* and no longer in the target */

/*
 * In the stopped thread `tid`: userfaultfd(flags), pidfd_getfd here, close there. Returns the descriptor (here), or
 * -errno of the call in the target, -ETIMEDOUT if it did not run in time (all put back), -ENOEXEC if the target is
 * no 64-bit x86 or the site does not hold what it should, -ENOSPC if there is no room for the frames.
 * If the caller dies at any instant, the target closes the descriptor itself and goes on where it was.
 * `expected_fd` is the lowest free descriptor of the target; at step `die_at` process `victim` is killed (for tests).
 */
int pd_inject_userfaultfd(int tid, int pidfd, int mem_fd, const struct pd_site *site, int flags, int expected_fd,
			  int64_t timeout_ns, int die_at, int victim);

/* ---- clone.c: a copy-on-write child of the target ------------------------------------------------------------- */

struct pd_clone_request {
	int32_t pid, tid;           /* the process, and a stopped thread of it */
	int32_t mem_fd, announce_fd; /* announce_fd: where "PID CHILD NS_CHILD" goes as soon as the child exists */
	int32_t options;            /* that the thread was seized with: ptrace(2) */
	int32_t die_at, victim;     /* at step `die_at` process `victim` is killed (for tests) */
	const struct pd_site *site;
	int64_t timeout_ns;         /* until the thread runs */
	int64_t patience_ns;        /* until the fork is done */
};
/* `ns_pid`: the child as the target calls it. What the call touched in the child and may differ there: frames, rseq area. */
struct pd_clone {
	int32_t tid, ns_pid;
	uint64_t frames_start_addr, frames_end_addr, rseq_start_addr, rseq_end_addr;
};

/*
 * clone(2) in the stopped thread: the child stands still, traced by the caller, and dies with it. 0; -EAGAIN, -ENOMEM and
 * others of clone(2), and those of pd_inject_userfaultfd: then there is no child, unless clone->tid says otherwise.
 * If the caller dies at any instant, the child ends, and the thread reaps it and goes on where it was.
 */
int pd_inject_clone(const struct pd_clone_request *request, struct pd_clone *clone);
/*
 * wait4(ns_pid, __WALL | WNOHANG) in the stopped thread: what it returned there, -ECHILD if there is no such child; other
 * errors as above.
 */
int pd_inject_wait(const struct pd_clone_request *request, int ns_pid);
/* The child lets go of the descriptors that it shares with the target. */
int pd_release_files(int child, const struct pd_site *site, int64_t timeout_ns);
/* Kills a child and waits for its end, as its tracer: it is a zombie of the target then. */
int pd_end_child(int child, int64_t timeout_ns);

/* ---- state.c: what can be read of stopped threads from outside ----------------------------------------------- */

/*
 * /proc/PID/task/TID/status and /proc/TID/timerslack_ns of a thread, open since before the freeze: to open them takes
 * longer than to read them. -1 where it may not be opened.
 */
struct pd_thread_files {
	int32_t tid, status_fd, timer_slack_fd;
};

/* Room for what has no fixed size: siginfo_t of 128 bytes, /proc text, seccomp filters. */
struct pd_arena {
	uint8_t *bytes;
	uint64_t used_bytes, capacity_bytes;
};

/* Whether a thread, or the process, was asked by injected calls: one of these, or -errno of why not. */
#define PD_NOT_ASKED 0
#define PD_ASKED 1

struct pd_thread_state {
	int32_t tid; /* 0: gone; then nothing else is set */
	int32_t restarted;
	int32_t io_priority; /* or -errno */
	int32_t n_pending;
	int32_t n_filters; /* oldest first in the arena, each behind its length (uint32_t); -1: not to be read */
	int32_t seccomp_mode, shadow_stack;
	int32_t asked, clear_child_tid_known;
	int32_t ns_tid; /* its id in its own pid namespace */
	uint32_t status_bytes, sched_attr_bytes, cpus_bytes, xstate_bytes;
	uint64_t pending_at, filters_at, status_at; /* offsets in the arena */
	uint64_t signal_mask, caught_signals;
	uint64_t robust_list_addr, robust_list_bytes;
	uint64_t rseq_addr; /* 0: not registered */
	uint64_t rseq_section_addr, rseq_abort_addr;
	uint32_t rseq_bytes, rseq_signature, rseq_flags;
	int32_t signal_stack_flags, parent_death_signal;
	uint64_t signal_stack_addr, signal_stack_bytes, clear_child_tid_addr;
	int64_t timer_slack_ns; /* -1: unknown */
	uint8_t code[32];       /* ahead of rip, of a call that goes on by restart_syscall(2); zeros of others */
	uint8_t gp[216];        /* user_regs_struct */
	uint8_t fp[512];        /* FXSAVE image */
	uint8_t sched_attr[64]; /* as sched_getattr(2) gives it */
	uint8_t cpus[1024];     /* a bit for each */
	uint8_t xstate[16384];
};

/* Settings of a process that only prctl(2), or arch_prctl(2), tells; indexes of `prctl_values`. */
#define PD_PRCTL_DUMPABLE 0
#define PD_PRCTL_KEEPCAPS 1
#define PD_PRCTL_SECUREBITS 2
#define PD_PRCTL_CHILD_SUBREAPER 3
#define PD_PRCTL_TSC 4
#define PD_PRCTL_MCE_KILL 5
#define PD_PRCTL_MDWE 6
#define PD_PRCTL_IO_FLUSHER 7
#define PD_PRCTL_MEMORY_MERGE 8
#define PD_PRCTL_CPUID 9
#define PD_PRCTL_XCOMP_PERM 10
#define PD_N_PRCTL 11
#define PD_N_SIGNALS 64

struct pd_disposition {
	uint64_t handler_addr, flags, restorer_addr, mask; /* struct kernel_sigaction */
};
struct pd_interval_timer {
	int64_t interval_us, remaining_us;
};
struct pd_posix_timer {
	int32_t id, known; /* known: it was there */
	int64_t interval_ns, remaining_ns, overruns;
};

struct pd_process_state {
	int32_t asked, n_pending;
	uint64_t pending_at; /* offset in the arena */
	uint64_t brk_addr;
	uint64_t prctl_known, interval_timers_known, signals_known; /* bits: what the kernel answered */
	uint64_t prctl_values[PD_N_PRCTL];
	struct pd_interval_timer interval_timers[3];
	struct pd_disposition dispositions[PD_N_SIGNALS]; /* of signal number index + 1 */
};

/*
 * State of the stopped threads of `list`, in its order, and the signals that wait for the whole process. Changes
 * nothing in the target. A thread that is killed meanwhile gets tid 0. -ENOSPC: more threads than `capacity`, or the
 * arena is too small; it may simply be called again with more.
 */
int pd_read_threads(int pid, const struct pd_thread_list *list, int mem_fd, const struct pd_thread_files *files,
		    uint64_t n_files, struct pd_thread_state *states, uint64_t capacity,
		    struct pd_process_state *process, struct pd_arena *arena);

/* ---- ask.c: what only the threads themselves can tell ---------------------------------------------------------- */

#define PD_ASK_STEP_NONE 0
#define PD_ASK_STEP_FRAMES 1    /* frames written */
#define PD_ASK_STEP_SET 2       /* registers lead to the call */
#define PD_ASK_STEP_MASKED 3    /* signals blocked */
#define PD_ASK_STEP_ENTERED 4   /* call about to run */
#define PD_ASK_STEP_RETURNED 5  /* call done */
#define PD_ASK_STEP_AGAIN 6     /* registers lead to another call */
#define PD_ASK_STEP_UNMASKED 7  /* signals as before */
#define PD_ASK_STEP_REGISTERS 8 /* registers as before */
#define PD_ASK_STEP_PARTLY 9    /* one of several threads is back, the others are not */
#define PD_ASK_STEP_CHAIN 10    /* a chain of calls runs */
#define PD_ASK_STEP_CHAINED 11  /* and is over */

struct pd_asking {
	const struct pd_site *site;
	int32_t mem_fd;
	int32_t seccomp_suspended; /* by PTRACE_O_SUSPEND_SECCOMP; else threads with a filter are not asked */
	int64_t timeout_ns;        /* for each few threads */
	int32_t die_at, victim;    /* at step `die_at` process `victim` is killed (for tests) */
	int32_t in_stop;           /* the process had been stopped by a signal: a SIGSTOP that still waits means nothing */
	uint32_t n_calls;          /* out: calls made */
};

/*
 * Asks the threads of `states`, as pd_read_threads left them, for what only they can tell, and sets `asked` of each:
 * PD_ASKED; -ENOEXEC (no 64-bit x86, a shadow stack, or the site does not hold what it should), -EPERM (a seccomp
 * filter), -ENOSPC (no room for the frames), -ETIMEDOUT (did not run; the rest is not asked), -ESRCH (gone).
 * All is put back: registers, signal mask, stack. If the caller dies at any instant, every thread goes on where it
 * was. They must have been seized with PTRACE_O_TRACESYSGOOD.
 */
int pd_ask_threads(struct pd_thread_state *states, uint64_t n_states, struct pd_asking *asking);
/* The same for the process, through the first thread that was asked: bit n-1 of `signals` asks for signal n. */
int pd_ask_process(const struct pd_thread_state *states, uint64_t n_states, struct pd_asking *asking,
		   uint64_t signals, struct pd_posix_timer *timers, uint64_t n_timers, struct pd_process_state *process);

/* ---- vdso.c ----------------------------------------------------------------------------------------------------- */

/*
 * Lets threads that were stopped inside [start, end), the vdso, run on until they stand outside. They make no system
 * call but the vdso's own meanwhile. tids[0 .. result) are those that did not leave in time, or that stand in a signal
 * handler over it now. -ETIMEDOUT: a thread (failed_tid) would not stop again. Seized with PTRACE_O_TRACESYSGOOD;
 * `seccomp_suspended` as in struct pd_asking: else those with a filter are left where they are.
 */
int64_t pd_leave_vdso(struct pd_thread_list *list, uint64_t start_addr, uint64_t end_addr, int seccomp_suspended,
		      int64_t timeout_ns, int32_t *tids, uint64_t capacity);

/* ---- probes.c: what this host can do ------------------------------------------------------------------------ */

/* userfaultfd(flags) of the caller itself: the descriptor. */
int pd_probe_userfaultfd(int flags);
/* prctl(PR_SET_PDEATHSIG) of the caller. */
int pd_signal_on_parent_death(int number);
/* pidfd_getfd(2): a copy, close-on-exec, of the descriptor `fd` of the process behind `pidfd`. */
int pd_probe_pidfd_getfd(int pidfd, int fd);
/* PAGEMAP_SCAN of the first page for pages with all of `categories`. -EINVAL: the kernel does not know one of them. */
int pd_probe_scan_category(int pagemap_fd, uint64_t categories);
/*
 * Whether huge pages of ours that are write-protected and then zapped read as written: 1, or 0 if the kernel loses
 * that. -EAGAIN: no huge page was to be had. `uffd` is a userfaultfd of the caller, ready for tracking.
 */
int pd_probe_zapped_huge_page(int uffd, int pagemap_fd);

/* ---- files.c: open files ---------------------------------------------------------------------------------------- */

/* What /proc/PID/fd and fdinfo say of a descriptor; *_bytes: how much was read, or -errno (-EOVERFLOW: more than fits). */
struct pd_open_file {
	int32_t link_bytes, fdinfo_bytes;
	int32_t stat_result; /* 0 or -errno: the rest has no meaning then */
	uint32_t mode, n_links;
	uint32_t device_major, device_minor, special_major, special_minor, pad;
	uint64_t inode, size_bytes, mtime_ns;
	uint8_t link[4096], fdinfo[65536];
};
/* Opens nothing but its text in fdinfo, and waits for no server. -ENOENT, -ESRCH: there is no such descriptor. */
int pd_read_open_file(int fd_dir, int fdinfo_dir, int fd, struct pd_open_file *file);

/* A descriptor, or with fd 0 something else of a thread; only those of one group can be the same. */
struct pd_file_ref {
	int32_t tid, fd;
	uint32_t group, number;
};
/*
 * Sorts by group and identity, and numbers what is different from 1 on, by kcmp(2): descriptors of one number share an
 * open file description (KCMP_FILE), threads of one number share memory, a table of descriptors, ... (KCMP_VM, ...).
 * What the kernel does not tell apart is taken to be two. Nothing may run that could change it.
 */
int pd_order_files(struct pd_file_ref *refs, uint64_t n_refs, int kcmp_type);
/* 0 if both threads use one table of descriptors, else an order (1, 2). -ESRCH, -EPERM, -ENOSYS. */
int pd_compare_tables(int tid, int other_tid);

/* What sockets of all kinds tell; -1 or -errno where one does not. `cookie`: of its network namespace, 0: not told. */
struct pd_socket {
	int32_t domain, type, protocol, listens;
	int32_t in_bytes, out_bytes; /* SIOCINQ, SIOCOUTQ: what they mean depends on the protocol */
	int32_t local_bytes, peer_bytes;
	int32_t n_filter; /* instructions of an attached filter */
	int32_t events;	  /* poll(2): POLLIN, POLLRDHUP, POLLHUP, POLLERR */
	uint64_t cookie;
	uint8_t local[128], peer[128];
};
int pd_read_socket(int fd, struct pd_socket *into);

#define PD_OPTION_BYTES 32
struct pd_option {
	int32_t level, name, bytes, pad; /* bytes: of the value, which is cut off at the size of `value`, or -errno */
	uint8_t value[PD_OPTION_BYTES];
};
int pd_read_options(int fd, struct pd_option *options, uint64_t n_options);
/*
 * Looks at the first message (or, of a stream, at the first bytes) of a receive queue and leaves it there; returns its
 * whole length, which may be more than `room`. -EAGAIN: there is none. The socket must have no SO_PEEK_OFF, and
 * `credentials` must say whether it has SO_PASSCRED: MSG_CTRUNC in `flags` is about something else then.
 */
int64_t pd_peek(int fd, int credentials, uint8_t *into, uint64_t room, int32_t *flags);
/* The calling thread, and it alone, moves into a namespace (network, IPC): setns(2). */
int pd_join_namespace(int namespace_fd);
/* Doubles what lies in a pipe into another one: tee(2), which does not wait. -EAGAIN: nothing there. */
int64_t pd_tee(int source_fd, int into_fd, uint64_t n_bytes);

/* ---- descriptors.c: descriptors that are made again -------------------------------------------------------------- */

/* openat2(2), relative to the working directory. */
int pd_open_path(const char *path, uint64_t flags, uint64_t resolve);
/* open_by_handle_at(2) on the mount of `mount_fd`. -ESTALE: there is no such file; -EPERM (CAP_DAC_READ_SEARCH). */
int pd_open_handle(int mount_fd, int32_t type, const uint8_t *handle, uint32_t n_bytes, int flags);
int pd_make_timerfd(int clock, int flags);
int pd_set_timerfd(int fd, int flags, uint64_t value_ns, uint64_t interval_ns);
/* Expirations not read yet. -ENOTTY: the kernel cannot set them (CONFIG_CHECKPOINT_RESTORE); -ECANCELED. */
int pd_set_timerfd_ticks(int fd, uint64_t ticks);
int pd_make_signalfd(uint64_t mask, int flags);
int pd_make_inotify(int flags);
/* A watch with the number `wd`; returns the number. -ENOTTY: the kernel does not let it be chosen. */
int pd_add_inotify_watch(int fd, int wd, const char *path, uint32_t mask);
int pd_make_epoll(int flags);
int pd_set_epoll_watch(int epoll_fd, int operation, int fd, uint32_t events, uint64_t data);
/* 1, and the data of an event that is reported now, or 0; it does not wait. */
int64_t pd_take_epoll_event(int epoll_fd, uint64_t *data);
/* Of the calling thread: unshare(2). */
int pd_unshare(int flags);

/* ---- tcp.c: connections in the kernel's repair mode -------------------------------------------------------------- */

/* sequences: of the byte behind each queue; unacknowledged_bytes: the send queue, of which the last were never sent. */
struct pd_tcp {
	int32_t state, options; /* tcpi_state, tcpi_options */
	int32_t send_window_scale, receive_window_scale, mss, has_urgent;
	int32_t received_bytes, unacknowledged_bytes, unsent_bytes;
	uint32_t receive_sequence, send_sequence, timestamp;
	uint32_t window[5]; /* struct tcp_repair_window */
	uint32_t pad;
	uint64_t received_ever_bytes;
};
/* From now on the socket takes no segment. -EBUSY: it has a filter, or is in repair mode. */
int pd_tcp_lock(int fd);
/* It goes on as it was: no repair mode, no lock. reuse: SO_REUSEADDR, which ends with repair mode. */
int pd_tcp_unlock(int fd, int reuse);
/* Into repair mode, to be closed without a word. -EPERM: it takes CAP_NET_ADMIN. */
int pd_tcp_silence(int fd);
/* 1 if it is in repair mode; 1 if it has a filter, that of pd_tcp_lock or another one. */
int pd_tcp_is_silent(int fd);
int pd_tcp_is_locked(int fd);
/*
 * Reads a locked one; both queues end up in `queues`, one behind the other. Returns their bytes. -ENOBUFS: more room is
 * needed; -EAGAIN: it changed meanwhile; -EBUSY: it has SO_PEEK_OFF; -EPERM: it takes CAP_NET_ADMIN.
 */
int64_t pd_tcp_read(int fd, int reuse, struct pd_tcp *into, uint8_t *queues, uint64_t room);
/* tcpi_bytes_received: what it has taken from the network since it was made. */
int64_t pd_tcp_received_ever(int fd);

/* ---- spawn.c, remote.c: processes that a restore makes ---------------------------------------------------------- */

struct pd_spawn {
	const int32_t *set_tids; /* the pid in the innermost pid namespace first: clone3(2) */
	uint64_t n_set_tids;
	uint64_t clone_flags;	 /* CLONE_NEW* */
	uint64_t personality;	 /* 0: ours */
	const char *time_offsets; /* for /proc/PID/timens_offsets of a new time namespace, NULL for none */
	int32_t keep_fd, keep_as; /* the one descriptor of ours that it gets, beside those without close-on-exec */
	int32_t options;	 /* PTRACE_O_* */
};
/*
 * Makes a blank process and seizes it: it stands still, with all signals blocked. Returns its pid, and the address of a
 * `syscall` instruction in it. -EEXIST: a pid is taken; -EPERM: not allowed to choose it; -EINVAL: not a valid one.
 */
int pd_spawn_blank(const struct pd_spawn *spawn, int64_t timeout_ns, uint64_t *syscall_addr);

struct pd_remote_call {
	int64_t nr;
	uint64_t args[6];
	int64_t result;
	int32_t child, pad; /* of clone3(2): the pid as we see it */
};
/*
 * Makes the calls in a stopped thread, one after the other, until one fails. Returns how many succeeded (the result of the
 * next one is its -errno then); -ESRCH: it is gone; -ETIMEDOUT: a call did not end.
 */
int64_t pd_remote_calls(int tid, uint64_t syscall_addr, int64_t timeout_ns, struct pd_remote_call *calls, uint64_t n_calls);
/*
 * The same by a loop that the thread runs itself, with one stop in all: none of the calls may make a process, change the
 * memory of the loop or of the table, or wait. `table_addr` has room for the calls in memory that it may write.
 */
int64_t pd_remote_batch(int tid, uint64_t loop_addr, uint64_t table_addr, int64_t timeout_ns, struct pd_remote_call *calls,
			uint64_t n_calls);
/* The code of the loop, for any address; its size in bytes, of which more than there is room for are not written. */
uint64_t pd_remote_loop(uint8_t *code, uint64_t capacity_bytes);
/* Waits for the first stop of a child that a call made. 0, -ESRCH, -ETIMEDOUT. */
int pd_remote_wait_born(int tid, int64_t timeout_ns);
int pd_remote_set_mask(int tid, uint64_t mask);
/* general: struct user_regs_struct; xstate: NT_X86_XSTATE, none if xstate_bytes is 0. */
int pd_remote_set_registers(int tid, const uint64_t *general, const uint8_t *xstate, uint64_t xstate_bytes);
/* NT_X86_XSTATE of it; its size in bytes, at most `capacity_bytes`. -ENODEV: a processor without XSAVE. */
int64_t pd_remote_get_xstate(int tid, uint8_t *into, uint64_t capacity_bytes);
int pd_remote_set_fpregs(int tid, const uint8_t *fpregs, uint64_t fpregs_bytes);
/* They go on, untraced, one right after the other; each with the signal of its place if that is not 0. How many did. */
int64_t pd_remote_detach(const int32_t *tids, const int32_t *signals, uint64_t n_tids);

/* Whether orphans among our descendants become our children: PR_SET_CHILD_SUBREAPER. Returns what was so before. */
int pd_adopt_orphans(int on);

/*
 * The program of a process that is nothing but the first of its pid namespace: it reaps until the child whose id is in r12
 * has ended, and ends as that did (128 + N for signal N). r13: four bytes that it may write. Returns its size.
 */
uint64_t pd_init_program(const uint8_t **code);

/* ---- guard.c: calls in a process that is being changed: it stands still, stopped, should we die -------------------- */

#define PD_GUARD_STEP_NONE 0
#define PD_GUARD_STEP_LED 1     /* registers lead to the call that stops it */
#define PD_GUARD_STEP_ENTERED 2 /* and it is about to make that */
#define PD_GUARD_STEP_CALLS 3   /* the call that is wanted stands in its place */
#define PD_GUARD_STEP_CALLED 4  /* and was made */

struct pd_guarded {
	int32_t pid, tid, ns_pid, ns_tid; /* as we see them, and as the thread itself does */
	int32_t die_at, victim;		  /* at step `die_at` process `victim` is killed (for tests) */
	uint64_t syscall_addr;
	int64_t timeout_ns; /* for each stop */
};
/*
 * Has a thread that stands still, with all signals blocked, wait where a SIGSTOP is delivered to it; its registers are lost.
 * It stops there if we die. 0, -ESRCH, -ETIMEDOUT.
 */
int pd_guard_ready(const struct pd_guarded *thread);
/* As pd_remote_calls, in a thread that is ready, and is ready again then. */
int64_t pd_guarded_calls(const struct pd_guarded *thread, struct pd_remote_call *calls, uint64_t n_calls);
/*
 * shared.c: a descriptor of anonymous shared memory of so many bytes, whole pages; of huge pages if log2_huge_page_bytes is
 * not 0. -EPERM: the caller may not open it (CAP_CHECKPOINT_RESTORE).
 */
int pd_anonymous_shared(uint64_t n_bytes, int log2_huge_page_bytes);
/* segments.c: of System V. An id from shmget(2), or an address from shmat(2), else -errno; 0 or -errno from all others. */
int pd_segment_make(uint32_t key, uint64_t n_bytes, int flags);
int pd_segment_own(int id, uint32_t uid, uint32_t gid, uint32_t mode);
int pd_segment_lock(int id);
int pd_segment_remove(int id);
int64_t pd_segment_attach(int id);
int pd_segment_detach(int64_t addr);
int pd_segment_clear(int64_t addr, uint64_t n_bytes);

/* ---- missing.c: pages that are brought when they are asked for ------------------------------------------------------ */

/* Registers a range for faults on pages that are missing. 0 or -errno. */
int pd_uffd_watch(int uffd, uint64_t start_addr, uint64_t end_addr);
#define PD_UFFD_COPY_DONTWAKE 1 /* UFFDIO_COPY_MODE_DONTWAKE */
/*
 * Brings whole pages; what is there already, or is mapped no more, is passed over. Returns how many bytes are done, all of
 * them or up to a page for which it is -errno to be asked again: -EAGAIN: events are to be read first; -ESRCH: no memory.
 */
int64_t pd_uffd_copy(int uffd, uint64_t addr, const uint8_t *content, uint64_t n_bytes, uint64_t mode);
int pd_uffd_zero(int uffd, uint64_t addr, uint64_t n_bytes);
/* Neither that nor pd_uffd_copy_runs wakes who waits for pages that were not there; pd_uffd_copy does as `mode` says. */
int pd_uffd_wake(int uffd, uint64_t addr, uint64_t n_bytes);
/* Brings those pages of some runs that `content` has, as pd_fill. 0 or -errno, after which it may be asked again. */
int pd_uffd_copy_runs(int uffd, const uint8_t *content, uint64_t first_page, uint64_t n_pages, const uint64_t *starts_addr,
		      const uint64_t *ends_addr, const uint64_t *page_indexes, uint64_t n_runs);
/*
 * The sentinel: a process that has our descriptors as its own, and kills the processes that it was told of, and their
 * children, when we end. `memory` is what it shares with us, NULL if there is none. Its pid, or -errno.
 */
void *pd_sentinel_memory(void);
int pd_sentinel_start(void *memory);
int pd_sentinel_add(void *memory, int pid);

/* ---- fill.c: memory of a process that stands still, from frames of pages --------------------------------------------- */

/*
 * Brings those pages of some runs that `content` has: n_pages from `first_page` on, as page_indexes count. Run i is
 * [starts_addr[i], ends_addr[i]), its first page being page_indexes[i]. `uffd`, -1 if there is none, is for pages that are
 * missing; all else is written through /proc/PID/mem. Returns how many pages they were, or -errno.
 */
int64_t pd_fill(int uffd, int mem_fd, const uint8_t *content, uint64_t first_page, uint64_t n_pages,
		const uint64_t *starts_addr, const uint64_t *ends_addr, const uint64_t *page_indexes, uint64_t n_runs);
